"""Every key of the schema: what a right runbook becomes, and which one message every mistake gets, at the very token."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runbook_example import EXAMPLE

from daemon.errors import Diagnostic
from daemon.language.syntax import Compare
from daemon.runbook.load import Loaded, load_documents, load_paths, load_text
from daemon.runbook.model import Gate, Label, Limits, Move, Pause, Runbook, Shrink, ShrinkAccount, Tell, Wait, Webhook
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind, Route


def changed(*pairs: tuple[str, str]) -> str:
    text = EXAMPLE
    for old, new in pairs:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def only(loaded: Loaded) -> Runbook:
    assert not loaded.errors, [e.render() for e in loaded.errors]
    (runbook,) = loaded.runbooks
    return runbook


def underlined(found: Diagnostic) -> str:
    return found.source_line[found.column - 1 : found.column - 1 + found.width]


# --- what a right runbook becomes -----------------------------------------------------------------------------------------


def test_runbook_of_the_format_page_loads_without_errors_and_warnings() -> None:
    loaded = load_text(EXAMPLE, "runbooks/funding-spike.yaml")
    assert [d.render() for d in (*loaded.errors, *loaded.warnings)] == []
    runbook = only(loaded)
    assert (runbook.id, runbook.severity, runbook.intent, runbook.stage, runbook.scope) == (
        "funding-spike", "warning", "economy", "armed", Kind.POSITION,
    )  # fmt: skip
    assert runbook.where is not None
    assert runbook.max_age == {"oracle_price": 30 * NS}
    assert runbook.trigger.for_ns == 3 * MINUTE_NS
    assert runbook.trigger.until_for_ns == 10 * MINUTE_NS
    assert runbook.cooldown_ns == 30 * MINUTE_NS
    assert runbook.repeat is not None
    assert (runbook.repeat.every_ns, runbook.repeat.max) == (HOUR_NS, 3)
    assert runbook.limits == Limits(per_run_usd=25_000, per_day_usd=60_000, per_episode_ratio=0.5, runs=6, runs_per_ns=DAY_NS)
    assert [step.kind for step in runbook.all_steps()] == ["halt", "shrink_position", "notify", "resume"]
    halt, shrink, tell = runbook.steps
    assert halt.act == Gate(scope=Kind.POSITION, closed=True)
    assert isinstance(shrink.act, Shrink)
    assert shrink.act.by is not None
    assert (shrink.act.by.unit, shrink.act.by.expression.text) == ("ratio", "25%")
    assert (shrink.act.max_slippage, shrink.act.slices, shrink.act.every_ns) == (0.0015, 4, 10 * NS)
    assert shrink.approval is not None
    assert (shrink.approval.people, shrink.approval.timeout_ns, shrink.approval.otherwise) == (("desk-lead",), 2 * MINUTE_NS, "skip")
    assert (shrink.retry.attempts, shrink.retry.backoff_ns, shrink.on_failure) == (3, 2 * NS, "escalate")
    assert isinstance(tell.act, Tell)
    assert tell.act.text[0] == Label(name="market")
    assert tell.act.text[1] == ": paying "
    assert runbook.notify is not None
    assert runbook.notify.repeat_ns == HOUR_NS


def test_runbook_numbers_its_expressions_in_order_and_knows_where_they_stand() -> None:
    runbook = only(load_text(EXAMPLE, "x.yaml"))
    assert [e.index for e in runbook.expressions] == list(range(len(runbook.expressions)))
    assert [e.where for e in runbook.expressions][:5] == ["trigger.when", "trigger.until", "guards[0]", "guards[1]", "guards[2]"]
    lines = EXAMPLE.split("\n")
    for expression in runbook.expressions:
        assert lines[expression.line - 1][expression.column - 1 :].startswith(expression.text)
    assert runbook.trigger.when is runbook.expressions[0]


def test_runbook_defaults_are_those_of_the_format() -> None:
    text = (
        "schema: reefd/v1\nrunbook: a\ntitle: t\nowner: o\nseverity: info\nstage: shadow\nscope: portfolio\n"
        "trigger: {when: equity_total < 1_000 USD}\nsteps: [{id: tell, notify: {to: [desk], text: hello}}]\n"
    )
    runbook = only(load_text(text, "a.yaml"))
    assert runbook.trigger.until is None
    assert (runbook.trigger.for_ns, runbook.trigger.until_for_ns, runbook.cooldown_ns, runbook.guard_wait_ns) == (0, 0, 0, 0)
    assert (runbook.trigger.on_unknown, runbook.mode, runbook.priority, runbook.intent) == ("hold", "single", 50, None)
    assert runbook.on_failure.then == "pause"
    assert runbook.steps[0].timeout_ns == 20 * NS
    assert runbook.steps[0].retry.attempts == 1


def test_survival_runbook_stays_armed_after_a_failure_by_default() -> None:
    text = changed(
        ("intent: economy", "intent: survival"), ("  for: 3m", "  for: 15s"), ("cooldown: 30m", "cooldown: 30s"),
        ("otherwise: skip", "otherwise: proceed"),
        ("on_failure: {notify: [page], then: pause}", "on_failure: {notify: [page]}"),
    )  # fmt: skip
    assert only(load_text(text, "x.yaml")).on_failure.then == "stay_armed"


def test_tests_inherit_given_of_the_first_and_read_values_in_catalogue_units() -> None:
    first, second = only(load_text(EXAMPLE, "x.yaml")).tests
    assert first.given["size"] == 10.0
    assert second.given == {**first.given, "size": -10.0}
    assert first.given["market_open"] == 1.0
    assert first.given["block_age"] == 1.0
    assert first.given["market"] == "dydx:ETH-USD"
    points = first.series["funding_rate"]
    assert points[:2] == ((-8 * DAY_NS, 0.00001), (0, 0.0008))
    assert points[2][0] == 30 * MINUTE_NS
    assert math.isnan(points[2][1])
    assert first.expect[1].did == ("halt", "shrink_position")
    assert (first.expect[0].did, first.expect[0].unknown, first.expect[1].spent) == ((), None, 7_500.0)
    assert second.mocks == {
        "shrink_position": [{"outcome": "unknown", "reconcile": "applied", "sets": {"size": 5.0}}, {"outcome": "failed"}]
    }
    assert (second.approvals, second.restart, second.stage, second.every_ns) == (
        ((2 * MINUTE_NS, "shrink"),),
        (MINUTE_NS, 20 * NS),
        "shadow",
        10 * NS,
    )


def test_given_takes_buffers_routes_labels_and_margin_fractions() -> None:
    text = changed(
        ("given: {size: -10}", "given: {buffers: {ethereum: 100_000 USD}, initial_margin: 5%, labels: {bucket: core}, routes: [{name: cctp, from: ethereum, to: dydx, eta: 20m, fee: 0.1%}]}")  # noqa: E501
    )  # fmt: skip
    given_values = only(load_text(text, "x.yaml")).tests[1].given
    assert given_values["buffers"] == {"ethereum": 100_000.0}
    assert given_values["initial_margin"] == 0.05
    assert given_values["labels"] == {"bucket": "core"}
    assert given_values["routes"] == (Route(name="cctp", source="ethereum", destination="dydx", eta_ns=20 * MINUTE_NS, fee=0.001),)


def test_every_other_action_is_read() -> None:
    steps = """\
steps:
  - {id: a, shrink_account: {to_margin_ratio: 40%, order: pro_rata, slices: 2, every: 5s}}
  - {id: b, move_buffer: {from: ethereum, to_ratio: 30%, route: cctp, max_fee: 5 USD, deadline: 1h, keep_at_source: 10_000 USD}}
  - {id: c, cancel_orders: {scope: market}}
  - {id: d, wait: {that: route_open_now, within: 5m}}
  - {id: e, pause: {runbook: funding-spike, for: 1h}}
  - {id: f, webhook: {endpoint: custody, payload: {n: 1.5, t: "{size}", ok: true, none: null, list: [a, 2]}},
     verify: {that: equity > 0 USD, within: 1m}}
  - {id: g, move_buffer: {from: dydx, to: ethereum, amount: "least(amount, 5_000 USD)"}}
"""
    text = EXAMPLE[: EXAMPLE.index("steps:")] + steps
    text = text.replace("  paid: funding_rate * sign(size)\n", "  paid: funding_rate * sign(size)\n  route_open_now: venue_up_for > 1m\n")
    acts = [step.act for step in only(load_text(text, "x.yaml")).steps]
    assert isinstance(acts[0], ShrinkAccount)
    assert acts[0].order == "pro_rata"
    assert isinstance(acts[1], Move)
    assert (acts[1].destination, acts[1].route, acts[1].keep_at_source, acts[1].deadline_ns) == ("", "cctp", 10_000.0, HOUR_NS)
    assert acts[1].max_fee is not None
    assert acts[1].max_fee.unit == "USD"
    assert isinstance(acts[3], Wait)
    assert acts[4] == Pause(runbook="funding-spike", for_ns=HOUR_NS)
    assert isinstance(acts[5], Webhook)
    assert acts[5].payload["n"] == 1.5
    assert (acts[5].payload["ok"], acts[5].payload["none"], acts[5].payload["list"]) == (True, None, (("a",), 2.0))
    assert isinstance(acts[6], Move)
    assert acts[6].destination == "ethereum"


def test_template_takes_labels_expressions_and_doubled_braces() -> None:
    text = changed(("{market}: paying {paid}, now {notional}", "{{{venue}}} {label.team} {abs(size) / 2}"))
    act = only(load_text(text, "x.yaml")).steps[2].act
    assert isinstance(act, Tell)
    assert act.text[:4] == ("{", Label(name="venue"), "} ", Label(name="team"))
    assert [part.text for part in act.text if not isinstance(part, str | Label)] == ["abs(size) / 2"]


# --- digests --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("title: Funding spike", "title: Another title"),
        ("paid > 0.05%/h and", "paid   >  0.4%/8h  and"),
        ("for: 3m", "for: 180s"),
        ("notify: {to: [desk], events", "notify: {to: [others], events"),
        ("per_run: 25_000 USD", "per_run: 30_000 USD"),
        ("max_age: {oracle_price: 30s}", "max_age: {'oracle_price': 0.5m}"),
        ("  on_unknown: hold\n", ""),
    ],
)
def test_logic_digest_stays_when_only_words_change(old: str, new: str) -> None:
    before, after = only(load_text(EXAMPLE, "x.yaml")), only(load_text(changed((old, new)), "x.yaml"))
    assert before.logic_digest == after.logic_digest
    assert before.digest != after.digest


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("paid > 0.05%/h", "paid > 0.06%/h"),
        ("paid > 0.05%/h", "paid >= 0.05%/h"),
        ("for: 3m", "for: 4m"),
        ("until_for: 10m", "until_for: 11m"),
        ("  until: paid < 0.02%/h\n", ""),
        ("sign(size)", "sign(notional)"),
        ("oracle_price: 30s", "oracle_price: 31s"),
        ('venue == "dydx"', 'venue == "aevo"'),
        ("99%, 7d", "99%, 8d"),
        ("99%, 7d", "98%, 7d"),
    ],
)
def test_logic_digest_changes_with_the_logic(old: str, new: str) -> None:
    assert only(load_text(EXAMPLE, "x.yaml")).logic_digest != only(load_text(changed((old, new)), "x.yaml")).logic_digest


# --- mistakes -------------------------------------------------------------------------------------------------------------

MISTAKES = [
    # (old, new, code, the token that is underlined, words of the message)
    ("schema: reefd/v1", "schema: reefd/v2", "E030", "reefd/v2", "schema: reefd/v1"),
    ("owner: perps-desk\n", "", "E008", "s", "'owner' is missing"),
    ("runbook: funding-spike", "runbook: Funding Spike", "E041", "Funding Spike", "a-z"),
    ("title: Funding spike - stop adding, and shrink where shrinking pays", "title: [a]", "E009", "[", "text"),
    ("title: Funding spike - stop adding, and shrink where shrinking pays", "title:", "E009", "", "nothing"),
    ("severity: warning", "severity: warn", "E030", "warn", "did you mean 'warning'"),
    ("intent: economy", "intent: greed", "E030", "greed", "economy, survival"),
    ("intent: economy\n", "", "E035", "warning", "intent: economy"),
    ("stage: armed", "stage: on", "E030", "on", "disabled, shadow, armed"),
    ("scope: position", "scope: pair", "E040", "pair", "reserved"),
    ("scope: position", "scope: positon", "E030", "positon", "did you mean 'position'"),
    ("labels: {risk: carry}", "labels: carry", "E009", "carry", "mapping"),
    ("every: quarter", "every: quarterly", "E030", "quarterly", "quarter"),
    ("last: 2026-10-01", "last: 01.10.2026", "E031", "01.10.2026", "2026-10-01"),
    ('where: venue == "dydx" and bucket != "contingency"', "where: size > 3", "E020", None, "label"),
    ("oracle_price: 30s", "oracle_pice: 30s", "E034", "oracle_pice", "oracle_price"),
    ("oracle_price: 30s", "notional: 30s", "E034", "notional", "derived"),
    ("oracle_price: 30s", "oracle_price: 30", "E031", "30", "duration"),
    ("  paid: funding", "  size: funding", "E041", "size", "a signal already"),
    ("  paid: funding", "  mean: funding", "E041", "mean", "a word of the language"),
    ("funding_rate * sign(size)", "funding_rat * sign(size)", "E011", "funding_rat", "did you mean funding_rate"),
    ("paid > 0.05%/h and", "paid > 5% and", "E014", "5%", "write 5%/h"),
    ("  when: paid > 0.05%/h", "  wen: paid > 0.05%/h", "E007", "wen", "did you mean 'when'"),
    ("  for: 3m", "  for: 3", "E031", "3", "3m"),
    ("  for: 3m", "  for: -3m", "E032", "-3m", "at least 0s"),
    ("  for: 3m", "  for: [3m]", "E009", "[", "text"),
    ("on_unknown: hold", "on_unknown: fire", "E037", "fire", "on_unknown: hold"),
    ("cooldown: 30m", "cooldwn: 30m", "E007", "cooldwn", "did you mean 'cooldown'"),
    ("repeat: {every: 1h, max: 3}", "repeat: {every: 1h, max: three}", "E031", "three", "whole number"),
    ("repeat: {every: 1h, max: 3}", "repeat: {every: 1h}", "E008", "{", "'max' is missing"),
    ("mode: single", "mode: parallel", "E030", "parallel", "single, queued, restart"),
    ("priority: 50", "priority: 5000", "E032", "5000", "between 0 and 1000"),
    ("locks: [position]", "locks: [positions]", "E034", "positions", "did you mean 'position'"),
    ("locks: [position]", "locks: [galaxy:x]", "E034", "galaxy:x", "kind:name"),
    ("locks: [position]", "locks: position", "E009", "position", "[position]"),
    ("- venue.block_age < 10s", "- venue.block_age < 10", "E014", "10", "write 10s"),
    ("- venue.block_age < 10s", "- venue.block_age", "E015", None, "comparison"),
    ("per_run: 25_000 USD", "per_run: 25_000", "E031", "25_000", "25_000 USD"),
    ("per_run: 25_000 USD", "per_run: 25%", "E031", "25%", "USD"),
    ("per_episode: 50%", "per_episode: 150%", "E032", "150%", "100%"),
    ("runs: 6/day", "runs: 6", "E031", "6", "6/day"),
    ("runs: 6/day", "runs: 0/day", "E031", "0/day", "6/day"),
    ("  - id: shrink\n", "  - id: stop-adding\n", "E033", "stop-adding", "used twice"),
    ("  - id: shrink\n", "  - id: Shrink it\n", "E041", "Shrink it", "a-z"),
    ("    halt: {scope: position}\n", "    hallt: {scope: position}\n", "E038", "hallt", "did you mean 'halt'"),
    ("    halt: {scope: position}\n", "", "E038", "i", "exactly one action"),
    ("    halt: {scope: position}\n", "    halt: {scope: position}\n    resume: {scope: position}\n", "E038", "resume", "halt and resume"),
    ("    halt: {scope: position}\n", "    halt: {scope: route}\n", "E038", "route", "position, market, account"),
    ("    halt: {scope: position}\n", "    halt: {}\n", "E008", "{", "'scope' is missing"),
    ("    halt: {scope: position}\n", "    hedge: {by: 3}\n", "E040", "hedge", "reserved"),
    ("by: 25%", "by: 25% of it", "E010", None, ""),
    ("by: 25%", "by: 250%", "E032", "250%", "at most 100%"),
    ("by: 25%", "by: 25s", "E014", "25s", "ratio"),
    ("by: 25%, ", "", "E039", "{", "exactly one of by, to"),
    ("by: 25%, ", "by: 25%, to: 3 base, ", "E039", "{", "by and to"),
    ("max_slippage: 15bps", "max_slippage: 15", "E031", "15", "15%"),
    ("max_slippage: 15bps", "max_slipage: 15bps", "E007", "max_slipage", "did you mean 'max_slippage'"),
    ("slices: 4, every", "every", "E039", "10s", "slices"),
    ("slices: 4", "slices: 0", "E032", "0", "between 1"),
    ("stop_when: funding_breakeven > 8h", "stop_when: funding_breakeven", "E015", None, "comparison"),
    ("from: [desk-lead], ", "", "E008", "{", "'from' is missing"),
    ("from: [desk-lead]", "from: []", "E008", "[", "names nobody"),
    ("otherwise: skip", "otherwise: maybe", "E030", "maybe", "skip, proceed, abort"),
    ("notional_change > 20_000 USD", "notional_change > 20_000", "E014", "20_000", "20_000 USD"),
    ("retry: {attempts: 3", "retry: {attempts: 99", "E032", "99", "between 1 and 20"),
    ("abs(size@start), within: 15s", "abs(size@start)", "E008", "{", "'within' is missing"),
    ("size@start", "size@end", "E010", None, ""),
    ("    on_failure: escalate", "    on_failure: retry", "E030", "retry", "abort, continue, escalate"),
    ("on_failure: {notify: [page], then: pause}", "on_failure: {then: pause}", "E039", "{", "escalates"),
    ("then: pause", "then: panic", "E030", "panic", "pause, stay_armed, halt_all"),
    ("{market}: paying {paid}", "{market}: paying {paied}", "E011", "paied", "did you mean paid"),
    ("{market}: paying {paid}", "{market: paying", "E042", None, ""),
    ("{market}: paying {paid}", "market} paying", "E042", "}", "}}"),
    ("{market}: paying {paid}", "{} paying", "E042", "{}", "braces"),
    ("events: [fired, acted", "events: [fire, acted", "E030", "[", "did you mean 'fired'"),
    ("tests:\n", "test:\n", "E007", "test", "did you mean 'tests'"),
    ("name: a short", "name: halts and shrinks", "E033", "halts and shrinks", "used twice"),
    ("size: 10,", "sizze: 10,", "E034", "sizze", "did you mean 'size'"),
    ('market: "dydx:ETH-USD"', "market: ETH-USD", "E031", "ETH-USD", 'dydx:ETH-USD'),
    ("block_age: 1s", "block_age: 1", "E031", "1", "1s"),
    ("market_open: true", "market_open: yes", "E030", "yes", "true, false"),
    ("-8d: 0.001%/h", "-8d: 0.001%", "E031", "0.001%", "0.001%/h"),
    ("-8d: 0.001%/h", "-8x: 0.001%/h", "E031", "-8x", "duration"),
    ("-8d: 0.001%/h", "0m: 0.001%/h", "E033", "0s", "given twice"),
    ("state: pending", "state: waiting", "E030", "waiting", "inactive, pending"),
    ("did: [halt, shrink_position]", "did: [halt, shrink]", "E030", "[", "shrink"),
    ("spent: 7_500 USD", "spent: 50%", "E031", "50%", "USD"),
    ("{at: 2m30s, state", "{att: 2m30s, state", "E007", "att", "did you mean 'at'"),
    ("outcome: unknown", "outcome: lost", "E030", "lost", "rejected"),
    ("reconcile: applied", "reconcile: found", "E030", "found", "applied, absent"),
    ("mocks: {shrink_position:", "mocks: {shrink_positions:", "E030", "shrink_positions", "shrink_position"),
    ("approvals: {2m: shrink}", "approvals: {2m: shrnk}", "E034", "shrnk", "did you mean 'shrink'"),
    ("restart: {at: 1m, down: 20s}", "restart: {at: 1m}", "E008", "{", "'down' is missing"),
    ("    every: 10s\n", "    every: 0s\n", "E032", "0s", "above 0s"),
    ("    every: 10s\n", "    every: 1ms\n", "E032", None, "samples"),
    ("runs <= 12]", "runs at most 12]", "E031", None, "assertion"),
    ("{data: hype-2026, ", "{", "E008", "{", "'data' is missing"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "code", "token", "words"), MISTAKES, ids=[f"{m[2]}-{m[1].strip()[:40]}-{i}" for i, m in enumerate(MISTAKES)]
)
def test_mistake_is_reported_at_its_token(old: str, new: str, code: str, token: str | None, words: str) -> None:
    text = changed((old, new))
    loaded = load_text(text, "x.yaml")
    assert not loaded.runbooks
    shown = [e.render() for e in loaded.errors]
    found = [e for e in loaded.errors if e.code == code and words in e.message]
    assert found, shown
    if token is not None:
        assert underlined(found[0]) == token, shown
    for error in loaded.errors:
        line = text.split("\n")[error.line - 1]
        assert error.source_line == line
        assert 1 <= error.column <= len(line) + 1


def test_mistake_gives_one_message_and_no_followers() -> None:
    for old, new in (
        ("funding_rate * sign(size)", "funding_rat * sign(size)"),
        ("scope: position\nwhere", "scope: pair\nwhere"),
        ("for: 3m", "for: 3"),
    ):
        assert len(load_text(changed((old, new)), "x.yaml").errors) == 1


def test_mistakes_are_reported_all_at_once() -> None:
    text = changed(
        ("severity: warning", "severity: warn"),
        ("cooldown: 30m", "cooldwn: 30m"),
        ("paid > 0.05%/h and", "paid > 5% and"),
        ("for: 3m", "for: 3"),
    )
    assert [e.code for e in load_text(text, "x.yaml").errors] == ["E030", "E014", "E031", "E007"]


def test_expression_error_points_into_a_folded_block() -> None:
    text = changed(
        (
            "  when: paid > 0.05%/h and funding_rate > quantile(funding_rate, 99%, 7d)",
            "  when: >-\n    paid > 0.05%/h\n    and funding_rate > 5%",
        )
    )
    (error,) = load_text(text, "x.yaml").errors
    assert (error.code, underlined(error)) == ("E014", "5%")
    assert error.source_line == "    and funding_rate > 5%"


def test_expression_error_points_into_a_quoted_text_with_escapes() -> None:
    text = changed(("  - venue_up_for > 10m", '  - "venue_up_for >\\x20 10"'))
    (error,) = load_text(text, "x.yaml").errors
    assert (error.code, underlined(error)) == ("E014", "10")


def test_survival_rules_are_reported_together() -> None:
    text = changed(("intent: economy", "intent: survival"))
    found = [e for e in load_text(text, "x.yaml").errors if e.code == "E036"]
    assert sorted(underlined(e) for e in found) == ["30m", "3m", "skip"]


@pytest.mark.parametrize(
    ("steps", "legal"),
    [
        ("[{id: a, halt: {scope: position}}, {id: b, cancel_orders: {scope: market}}, {id: c, notify: {to: [desk], text: x}}]", True),
        ("[{id: a, shrink_position: {by: 10%}}]", False),
        ("[{id: a, shrink_position: {by: 10%}, approval: {from: [x]}}]", True),
        ("[{id: a, shrink_position: {by: 10%}, approval: {from: [x], otherwise: proceed}}]", False),
        ("[{id: a, shrink_position: {by: 10%}, approval: {from: [x], when: notional_change > 5 USD}}]", False),
        ("[{id: a, resume: {scope: position}}]", False),
        ("[{id: a, wait: {that: size > 0 base, within: 1m}}]", False),
        ("[{id: a, shrink_position: {by: 10%}, approval: {from: [x], otherwise: abort}}, {id: b, resume: {scope: position}}]", True),
        ("[{id: a, when: size > 1 base, shrink_position: {by: 9%}, approval: {from: [x], otherwise: abort}}, {id: b, resume: {scope: venue}}]", False),  # noqa: E501
        ("[{id: a, shrink_position: {by: 10%}, approval: {from: [x], otherwise: skip}}, {id: b, resume: {scope: position}}]", False),
    ],
)  # fmt: skip
def test_on_unknown_fire_is_legal_only_where_nothing_is_written_without_a_person(steps: str, legal: bool) -> None:
    start, end = EXAMPLE.index("steps:"), EXAMPLE.index("on_clear:")
    text = (
        (EXAMPLE[:start] + f"steps: {steps}\n" + EXAMPLE[end:])
        .replace("on_unknown: hold", "on_unknown: fire")
        .replace("approvals: {2m: shrink}", "stage: armed")
    )
    text = text.replace("    stage: shadow\n", "")
    codes = [e.code for e in load_text(text, "x.yaml").errors]
    assert codes == ([] if legal else ["E037"])


@pytest.mark.parametrize(
    ("scope", "step", "code"),
    [
        ("market", "shrink_position: {by: 10%}", "E038"),
        ("market", "shrink_account: {by: 10%}", "E038"),
        ("portfolio", "move_buffer: {from: ethereum, amount: 5 USD}", "E008"),
        ("portfolio", "move_buffer: {from: ethereum, to: ethereum, amount: 5 USD}", "E039"),
        ("portfolio", "move_buffer: {from: ethereum, to: dydx, amount: 5 USD, to_ratio: 5%}", "E039"),
        ("account", "halt: {scope: position}", "E038"),
        ("venue", "cancel_orders: {scope: account}", "E038"),
        ("route", "halt: {scope: chain}", "E038"),
    ],
)
def test_action_must_be_possible_from_the_scope(scope: str, step: str, code: str) -> None:
    text = (
        f"schema: reefd/v1\nrunbook: a\ntitle: t\nowner: o\nseverity: info\nintent: economy\nstage: shadow\nscope: {scope}\n"
        f"trigger: {{when: equity_total < 1_000 USD}}\nsteps: [{{id: act, {step}}}]\n"
    )
    assert [e.code for e in load_text(text, "a.yaml").errors] == [code]


# --- sets of files ----------------------------------------------------------------------------------------------------------

OTHER = EXAMPLE.replace("runbook: funding-spike", "runbook: other")


def test_ids_are_unique_over_all_files() -> None:
    loaded = load_documents({"a.yaml": EXAMPLE, "b.yaml": EXAMPLE})
    (error,) = loaded.errors
    assert (error.file, error.line, error.code, underlined(error)) == ("b.yaml", 2, "E033", "funding-spike")
    assert "a.yaml" in error.message
    assert [r.path for r in loaded.runbooks] == ["a.yaml"]


def test_unknown_runbook_is_an_error_in_a_set_and_a_warning_in_a_file_on_its_own() -> None:
    inhibited = changed(("locks: [position]", "locks: [position]\ninhibited_by: [othr]"))
    (error,) = load_documents({"a.yaml": inhibited, "b.yaml": OTHER}).errors
    assert (error.code, underlined(error)) == ("E034", "othr")
    assert "did you mean 'other'" in error.message
    alone = load_text(inhibited, "a.yaml")
    assert not alone.errors
    assert [w.code for w in alone.warnings] == ["W011"]


def test_unknown_runbook_of_a_pause_step_is_an_error() -> None:
    paused = changed(("  - id: tell\n", "  - {id: hold, pause: {runbook: missing, for: 1h}}\n  - id: tell\n"))
    (error,) = load_documents({"a.yaml": paused, "b.yaml": OTHER}).errors
    assert (error.code, underlined(error)) == ("E034", "missing")


def test_reference_to_a_runbook_with_mistakes_is_no_second_mistake() -> None:
    inhibited = changed(("locks: [position]", "locks: [position]\ninhibited_by: [other]"))
    broken = OTHER.replace("severity: warning", "severity: warn")
    assert [e.code for e in load_documents({"a.yaml": inhibited, "b.yaml": broken}).errors] == ["E030"]


def test_survival_runbook_is_not_inhibited_by_an_economy_runbook() -> None:
    survival = changed(
        ("intent: economy", "intent: survival"), ("  for: 3m", "  for: 15s"), ("cooldown: 30m", "cooldown: 30s"),
        ("otherwise: skip", "otherwise: abort"),
        ("locks: [position]", "locks: [position]\ninhibited_by: [other]"),
    )  # fmt: skip
    (error,) = load_documents({"a.yaml": survival, "b.yaml": OTHER}).errors
    assert (error.code, underlined(error)) == ("E036", "other")


def test_one_broken_file_leaves_the_errors_of_the_others_visible() -> None:
    loaded = load_documents({"a.yaml": "a: [\n", "b.yaml": EXAMPLE.replace("for: 3m", "for: 3"), "c.yaml": OTHER})
    assert [(e.file, e.code) for e in loaded.errors] == [("a.yaml", "E004"), ("b.yaml", "E031")]
    assert [r.id for r in loaded.runbooks] == ["other"]


def test_folder_is_read_recursively_in_a_stable_order(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "b.yml").write_text(OTHER)
    (tmp_path / "a.yaml").write_text(EXAMPLE)
    (tmp_path / "notes.txt").write_text("not a runbook")
    assert [r.id for r in load_paths([tmp_path, tmp_path / "a.yaml"]).runbooks] == ["funding-spike", "other"]


def test_file_on_its_own_knows_the_ids_beside_it(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(changed(("locks: [position]", "locks: [position]\ninhibited_by: [other]")))
    (tmp_path / "b.yaml").write_text(OTHER)
    loaded = load_paths([tmp_path / "a.yaml"])
    assert not loaded.errors
    assert not loaded.warnings


def test_missing_file_and_empty_folder_are_errors(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    loaded = load_paths([tmp_path / "no.yaml", tmp_path / "empty"])
    assert [(e.code, e.file) for e in loaded.errors] == [("E001", str(tmp_path / "empty")), ("E001", str(tmp_path / "no.yaml"))]
    assert [e.code for e in load_paths([]).errors] == ["E001"]


def test_file_over_a_mebibyte_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "huge.yaml").write_bytes(b"a" * 10_000_000)
    assert [e.code for e in load_paths([tmp_path]).errors] == ["E003"]


# --- anything at all ----------------------------------------------------------------------------------------------------

pieces = st.sampled_from(EXAMPLE.split("\n"))
spoiled = st.tuples(st.integers(0, len(EXAMPLE)), st.integers(0, 12), st.text(alphabet="ab:{}[]%'\"\n -#&*!é0", max_size=6)).map(
    lambda cut: EXAMPLE[: cut[0]] + cut[2] + EXAMPLE[cut[0] + cut[1] :]
)


@settings(max_examples=150, deadline=None)
@given(spoiled | st.lists(pieces, max_size=12).map("\n".join) | st.text(max_size=60))
def test_loading_never_raises_and_points_into_the_file(text: str) -> None:
    loaded = load_text(text, "x.yaml")
    assert bool(loaded.runbooks) != bool(loaded.errors)
    lines = text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for found in (*loaded.errors, *loaded.warnings):
        assert 1 <= found.line <= len(lines)
        assert 1 <= found.column <= len(lines[found.line - 1]) + 1
        assert found.message
        assert found.render()


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from(["by: 25%", "for: 3m", "size: 10", "max: 3", "per_run: 25_000 USD", "0s: 0.08%/h", "quorum: 1", "at: 4m"]),
    st.text(alphabet="0123456789.-+_%eE/hsmdwUSDinfa", max_size=24),
)
def test_loading_never_raises_for_any_number(place: str, number: str) -> None:
    key = place.split(": ")[0]
    load_text(EXAMPLE.replace(place, f"{key}: {number}", 1), "x.yaml")


def test_runbook_keeps_the_tree_of_its_filter() -> None:
    where = only(load_text(changed((' and bucket != "contingency"', "")), "x.yaml")).where
    assert where is not None
    assert isinstance(where.node, Compare)
