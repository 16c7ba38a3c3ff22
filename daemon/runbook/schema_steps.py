"""JSON Schema of steps (floor 3): one action each, and what may gate, confirm and follow it. The keys are those of `steps.py`."""

from __future__ import annotations

from daemon.runbook.shapes import (
    DURATION,
    EXPRESSION,
    FLAG,
    ID,
    RATIO,
    TEXT,
    USD,
    Schema,
    count,
    key,
    mapping,
    one_of,
    texts,
)
from daemon.runbook.steps import (
    ACTIONS,
    ATTEMPTS_MAX,
    CANCEL_SCOPES,
    HALT_SCOPES,
    OTHERWISE,
    REBALANCE_TO,
    SHRINK_ORDERS,
    SLICES_MAX,
    STEP_ON_FAILURE,
)

WRITING = ("shrink_position", "shrink_account", "move_buffer", "cancel_orders", "halt", "resume", "webhook", "rebalance")
"""Actions that change something at a venue or move money: a runbook with one of them says its `intent`."""


def _slicing() -> dict[str, Schema]:
    return {
        "max_slippage": key("Worst price of a slice, as a ratio from mid: above 0%, at most 100%.", RATIO, "15bps"),
        "max_share_of_depth": key("Largest share of the book's depth that one slice takes: above 0%, at most 100%.", RATIO, "25%"),
        "slices": key(f"In how many orders the size is cut, 1 to {SLICES_MAX}.", count(1, SLICES_MAX), 4, default=1),
        "every": key("Time between slices; needs `slices`.", DURATION, "10s", default="0s"),
        "stop_when": key("No further slice once this condition is TRUE.", EXPRESSION, "funding_breakeven > 8h"),
    }


_SHARE = "above 0% and at most 100%"

_ACTION_SHAPES: dict[str, tuple[str, Schema, object]] = {
    "shrink_position": (
        "Reduce this position, reduce-only, in slices. Exactly one of `by` and `to`. Possible in: position.",
        mapping(
            {
                "by": key(
                    f"How much less, of the size at the START OF THE EPISODE: a ratio ({_SHARE}), base units or USD; may be an expression.",
                    EXPRESSION, "25%", "10_000 USD",
                ),
                "to": key("The size to come down to: a ratio of the episode's start, base units or USD; may be an expression.",
                          EXPRESSION, "50%", "0 base"),
                **_slicing(),
            },
            one=("by", "to"),
        ),
        {"by": "25%", "max_slippage": "15bps", "slices": 4, "every": "10s"},
    ),
    "shrink_account": (
        "Reduce the account's positions until its margin ratio is as asked, or by a share each. Possible in: position, account.",
        mapping(
            {
                "to_margin_ratio": key("Margin ratio to reach, maintenance margin over equity (100% = liquidation).", EXPRESSION, "40%"),
                "by": key(f"Share of every position, {_SHARE}.", EXPRESSION, "25%"),
                "order": key("Which positions go first.", one_of(SHRINK_ORDERS), SHRINK_ORDERS[0], default=SHRINK_ORDERS[0]),
                **_slicing(),
            },
            one=("to_margin_ratio", "by"),
        ),
        {"to_margin_ratio": "40%", "max_slippage": "100bps"},
    ),
    "move_buffer": (
        "Move idle collateral. Exactly one of `amount` and `to_ratio`.",
        mapping(
            {
                "from": key("Where it leaves: a chain with a buffer, or an account.", TEXT, "ethereum"),
                "to": key("Where it arrives: an account or a chain; the instance's own account when left out.", TEXT, "dydx"),
                "amount": key("How much, in USD; may be an expression.", EXPRESSION, "25_000 USD"),
                "to_ratio": key("As much as brings the destination's margin ratio to this.", EXPRESSION, "40%"),
                "route": key("Name of a route, or `best`.", TEXT, "best", default="best"),
                "max_fee": key("Most that the transfer may cost: USD, or a ratio of the amount.", EXPRESSION, "0.5%"),
                "deadline": key("It must arrive within this time.", DURATION, "1h"),
                "keep_at_source": key("What stays at the source, in USD.", USD, "10_000 USD", default="0 USD"),
            },
            required=("from",),
            one=("amount", "to_ratio"),
        ),
        {"from": "ethereum", "to_ratio": "40%", "deadline": "1h"},
    ),
    "cancel_orders": (
        "Cancel resting orders. Never waits for guards.",
        mapping(
            {"scope": key("Whose orders.", one_of([kind.value for kind in CANCEL_SCOPES]), "market")},
            required=("scope",),
        ),
        {"scope": "market"},
    ),
    "halt": (
        "Stop openings of an entity; reducing stays allowed. Never waits for guards.",
        mapping({"scope": key("Whose openings.", one_of([kind.value for kind in HALT_SCOPES]), "position")}, required=("scope",)),
        {"scope": "position"},
    ),
    "resume": (
        "Open again what this runbook halted.",
        mapping({"scope": key("Whose openings.", one_of([kind.value for kind in HALT_SCOPES]), "position")}, required=("scope",)),
        {"scope": "position"},
    ),
    "notify": (
        "Tell people. Never waits for guards, and gates nothing.",
        mapping(
            {
                "to": key("Channels of the settings.", texts(least=1), ["desk"]),
                "text": key(
                    "The message; `{label}` and `{expression}` are filled in, braces are doubled.", TEXT, "{market}: paying {funding_rate}"
                ),
            },
            required=("to", "text"),
        ),
        {"to": ["desk"], "text": "{market}: paying {funding_rate}"},
    ),
    "webhook": (
        "Call an executor outside, at most once; it cannot be looked up, so give the step a `verify`.",
        mapping(
            {
                "endpoint": key("Name of a webhook of the settings.", TEXT, "custody"),
                "payload": key("Any mapping; texts may hold `{expression}`.", {"type": "object"}, {"size": "{size}"}),
            },
            required=("endpoint",),
        ),
        {"endpoint": "custody", "payload": {"size": "{size}"}},
    ),
    "wait": (
        "Wait for a condition.",
        mapping(
            {
                "that": key("Must become TRUE.", EXPRESSION, "route_open"),
                "within": key("Not TRUE within this time: the step failed.", DURATION, "5m"),
            },
            required=("that", "within"),
        ),
        {"that": "route_open", "within": "5m"},
    ),
    "pause": (
        "Pause a runbook for a time.",
        mapping(
            {
                "runbook": key("Its id; this one's is allowed.", TEXT, "funding-spike"),
                "for": key("How long.", DURATION, "1h"),
            },
            required=("runbook", "for"),
        ),
        {"runbook": "funding-spike", "for": "1h"},
    ),
    "rebalance": (
        "Rebalance a bucket, or all. Checked, not executed by this version (W010).",
        mapping(
            {
                "bucket": key("Which bucket.", TEXT, "income"),
                "all": key("Every bucket.", FLAG, True, default=False),
                "to": key("How far: to the target, or to the band's edge.", one_of(REBALANCE_TO), "target", default="target"),
            }
        ),
        {"bucket": "income"},
    ),
}  # fmt: skip

assert set(_ACTION_SHAPES) == set(ACTIONS), "every action has a shape"


def step_schema() -> Schema:
    """One step of `steps:` or `on_clear:`."""
    keys: dict[str, Schema] = {
        "id": key("Name of the step: a-z, 0-9 and '-', used once in the file.", ID, "shrink"),
        "when": key("The step is skipped unless this is TRUE. Default: always.", EXPRESSION, "abs(notional) > 5_000 USD"),
    }
    for name in ACTIONS:
        says, shape, example = _ACTION_SHAPES[name]
        keys[name] = key(says, shape, example)
    keys |= {
        "approval": key(
            "Who must agree before the step writes.",
            mapping(
                {
                    "when": key("Asks only when this is TRUE or UNKNOWN. Default: always.", EXPRESSION, "notional_change > 20_000 USD"),
                    "from": key("Who may agree: names of tokens (`reefd token new NAME --role approve`).", texts(least=1), ["desk-lead"]),
                    "quorum": key("How many of them must agree, 1 to 20.", count(1, 20), 1, default=1),
                    "timeout": key("How long it waits for an answer.", DURATION, "2m", default="2m"),
                    "otherwise": key(
                        "What then: `skip` the step, `proceed` with it, or `abort` the run. A survival runbook may not skip.",
                        one_of(OTHERWISE), "skip", default="skip",
                    ),
                },
                required=("from",),
            ),
            {"from": ["desk-lead"], "timeout": "2m", "otherwise": "abort"},
        ),
        "timeout": key(
            "Of one send, above 0s; then the outcome is unknown and is looked up, never sent again blindly.", DURATION, "20s", default="20s"
        ),
        "retry": key(
            "Further tries of one slice, for outcomes that certainly did nothing; the backoff doubles.",
            mapping(
                {
                    "attempts": key(f"Sends at most, 1 to {ATTEMPTS_MAX}.", count(1, ATTEMPTS_MAX), 3, default=1),
                    "backoff": key("Time before the second send.", DURATION, "2s", default="2s"),
                }
            ),
            {"attempts": 3, "backoff": "2s"},
        ),
        "verify": key(
            "What must show after the settled outcome; not shown in time = failed, whatever the venue said.",
            mapping(
                {
                    "that": key("Must become TRUE.", EXPRESSION, "abs(size) <= 80% * abs(size@start)"),
                    "within": key("In this time.", DURATION, "15s"),
                },
                required=("that", "within"),
            ),
            {"that": "abs(size) <= 80% * abs(size@start)", "within": "15s"},
        ),
        "on_failure": key(
            "`abort` the run, `continue` with the next step, or `escalate`: tell on_failure.notify, then abort.",
            one_of(STEP_ON_FAILURE), "escalate", default="abort",
        ),
    }  # fmt: skip
    return mapping(keys, required=("id",), one=ACTIONS)
