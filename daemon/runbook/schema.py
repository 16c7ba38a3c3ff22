"""The runbook format as JSON Schema (floor 3): `runbook_schema()`, draft 2020-12, for YAML language servers and other programs.

It says what the text alone can say: keys, kinds of values, words, literals with their units. What needs the language (an expression's
names and dimensions) stays with `reefd check`. The order of the keys is the order in which `reefd fmt` writes them.
"""

from __future__ import annotations

from daemon.runbook.params import PARAMS_MAX
from daemon.runbook.read import (
    EVENTS,
    GUARDS_MAX,
    INTENTS,
    LETS_MAX,
    MODES,
    ON_UNKNOWN,
    REVIEW_DAYS,
    SCHEMA,
    SEVERITIES,
    STAGES,
    THEN,
)
from daemon.runbook.schema_steps import WRITING, step_schema
from daemon.runbook.schema_tests import PREFIXES, cases_schema, definitions, readable, replay_schema, told
from daemon.runbook.shapes import (
    DAY,
    DURATION,
    EXPRESSION,
    ID,
    SAID,
    TEXT,
    USD,
    Schema,
    count,
    free,
    key,
    literal,
    mapping,
    one_of,
    texts,
)
from daemon.runbook.steps import STEPS_MAX
from daemon.world.entities import Kind

DRAFT = "https://json-schema.org/draft/2020-12/schema"
_NAMES = "^[a-z_][a-z0-9_]*$"
_RUNS = r"^\s*\d{1,6}\s*/\s*\d{0,4}\s*(?:h|hour|d|day|w|week)\s*$"
_SCOPES = {
    "portfolio": "one for the house", "bucket": "one a bucket", "venue": "one a venue", "account": "one a margin account",
    "market": "one a market", "position": "one an open position", "chain": "one a chain", "route": "one a route",
}  # fmt: skip


def _max_age() -> Schema:
    """Observed signals, also with a scope in front, to how old a reading may be."""
    observed = {name: [s for s in found if s.role == "observed"] for name, found in sorted(readable().items())}
    keys = {name: {"description": told(found), **DURATION} for name, found in observed.items() if found}
    pattern = rf"^(?:{'|'.join(PREFIXES)})\.(?:{'|'.join(keys)})$"
    return {"type": "object", "properties": keys, "patternProperties": {pattern: DURATION}, "additionalProperties": False}


def _param() -> Schema:
    unit = literal("ratio", "USD", "price", "base", "gwei", "rate/h", "s", "1")
    long = mapping(
        {
            "default": key("Its value, with its unit.", unit, "0.05%/h"),
            "min": key("Lowest value a sweep may give it, in the same unit.", unit, "0.01%/h"),
            "max": key("Highest value a sweep may give it, in the same unit.", unit, "1%/h"),
            "doc": key("What it means, for people.", TEXT, "what an hour may cost"),
        },
        required=("default",),
    )
    return {"anyOf": [unit, long]}


def _trigger() -> Schema:
    return mapping(
        {
            "when": key("Condition on which an episode begins.", EXPRESSION, "funding_rate * sign(size) > 0.05%/h"),
            "for": key("How long `when` must be known TRUE; at most 15s with intent survival.", DURATION, "3m", default="0s"),
            "until": key(
                "Condition on which the episode ends; leave on another value than you enter on. Default: not (when).",
                EXPRESSION, "funding_rate * sign(size) < 0.02%/h",
            ),
            "until_for": key("How long `until` must be known TRUE.", DURATION, "10m", default="0s"),
            "on_unknown": key(
                "What an UNKNOWN `when` does: `hold` stops the clock; `fire` takes it for TRUE, where nothing is written without a person.",
                one_of(ON_UNKNOWN), "hold", default="hold",
            ),
        },
        required=("when",),
    )  # fmt: skip


def _limits() -> Schema:
    return mapping(
        {
            "per_run": key("Most that one run changes or moves, in USD.", USD, "25_000 USD"),
            "per_day": key("Most in 24 h over all instances, in USD.", USD, "60_000 USD"),
            "per_episode": key(
                "Most in one episode: USD, or a ratio of the size at its start (above 0%, at most 100%).", literal("ratio", "USD"), "50%"
            ),
            "runs": key("Most runs in a time: a number, a slash, and hour, day or week.", {"type": "string", "pattern": _RUNS}, "6/day"),
        }
    )


def _keys() -> dict[str, Schema]:
    """The keys of a runbook, in the order in which they are written."""
    scopes = "; ".join(f"{name}: {says}" for name, says in _SCOPES.items())
    step = {"$ref": "#/$defs/step"}
    channels = texts()
    return {
        "schema": key("The format of this file.", {"const": SCHEMA}, SCHEMA),
        "runbook": key("Its id: a-z, 0-9 and '-', unique over all files.", ID | {"maxLength": 80}, "funding-spike"),
        "title": key("What it is for, in one line.", SAID, "Funding spike - stop adding"),
        "owner": key("Who answers for it.", SAID, "perps-desk"),
        "severity": key("How its notices are marked.", one_of(SEVERITIES), "warning"),
        "intent": key(
            "Why it writes; required when a step writes. `economy` saves money, its guards hold it; `survival` keeps the account alive.",
            one_of(INTENTS), "economy",
        ),
        "labels": key("Texts of your own.", free(TEXT), {"risk": "carry"}),
        "review": key(
            "How often a person looks at it again, and when that was.",
            mapping(
                {
                    "every": key("How often.", one_of(tuple(REVIEW_DAYS)), "quarter"),
                    "last": key("Day of the last review.", DAY, "2026-10-01"),
                },
                required=("every", "last"),
            ),
            {"every": "quarter", "last": "2026-10-01"},
        ),
        "stage": key(
            "`disabled`: decides nothing; `shadow`: evaluates, plans and tells, writes nothing; `armed`: acts.", one_of(STAGES), "shadow"
        ),
        "scope": key(f"What it has an instance for. {scopes}.", one_of(tuple(kind.value for kind in Kind)), "position"),
        "where": key("Filter over labels, by == and !=, joined by and, or, not. Default: every entity.", TEXT, 'bucket != "contingency"'),
        "max_age": key(
            "Observed signals to how old a reading may be before it is UNKNOWN, above 0s. Default: the catalogue's bound.",
            _max_age(), {"oracle_price": "30s"},
        ),
        "params": key(
            "Named constants with a unit, usable wherever a literal of it is; `reefd sweep` tries values of them.",
            free(_param(), names=_NAMES, most=PARAMS_MAX),
            {"hold": "3m", "threshold": {"default": "0.05%/h", "min": "0.01%/h", "max": "1%/h"}},
        ),
        "let": key(
            "Names for expressions, in order; a later one may use an earlier one.", free(EXPRESSION, names=_NAMES, most=LETS_MAX),
            {"paid": "funding_rate * sign(size)"},
        ),
        "trigger": key("When an episode begins and ends.", _trigger(), {"when": "funding_rate > 0.05%/h", "for": "3m"}),
        "cooldown": key("From the end of a run to the next start; at most 30s with intent survival.", DURATION, "30m", default="0s"),
        "repeat": key(
            "Further runs while it still fires. Default: one run an episode.",
            mapping(
                {
                    "every": key("Time between starts, above 0s.", DURATION, "1h"),
                    "max": key("How many further runs, 1 to 10,000.", count(1, 10_000), 3),
                },
                required=("every", "max"),
            ),
            {"every": "1h", "max": 3},
        ),
        "mode": key("What a run that is wanted while one is going does.", one_of(MODES), "single", default="single"),
        "locks": key("What it must have alone to run: kinds, or kind:name.", texts(), ["account"]),
        "priority": key("Who gets a lock first, 0 to 1000.", count(0, 1000), 50, default=50),
        "inhibited_by": key(
            "Runbook ids: no action while one of them fires on the same or an enclosing entity.", texts(), ["oracle-divergence"]
        ),
        "guards": key(
            "Conditions that must be TRUE right before every write; UNKNOWN passes none.", texts(most=GUARDS_MAX, of=EXPRESSION),
            ["oracle_divergence < 50bps"],
        ),
        "guard_wait": key("How long a run waits for its guards, then it ends skipped.", DURATION, "2m", default="0s"),
        "limits": key("Bounds of what it may do, in money. Default: none (W001).", _limits(), {"per_run": "25_000 USD", "runs": "6/day"}),
        "steps": key(
            "What a run does, in order.", {"type": "array", "items": step, "minItems": 1, "maxItems": STEPS_MAX},
            [{"id": "tell", "notify": {"to": ["desk"], "text": "{market}: paying {funding_rate}"}}],
        ),
        "on_clear": key(
            "Steps that run once after an episode in which something was done.", {"type": "array", "items": step, "maxItems": STEPS_MAX},
            [{"id": "reopen", "resume": {"scope": "position"}}],
        ),
        "on_failure": key(
            "What a failed run leads to.",
            mapping(
                {
                    "notify": key("Channels that are told.", channels, ["page"]),
                    "then": key("`pause` it, leave it armed, or `halt_all`. Default: pause; survival: stay_armed.", one_of(THEN), "pause"),
                }
            ),
            {"notify": ["page"], "then": "pause"},
        ),
        "notify": key(
            "Notices of its life. Default: silent.",
            mapping(
                {
                    "to": key("Channels of the settings.", channels, ["desk"]),
                    "events": key("Which of them. Default: all.", texts(of=one_of(EVENTS)), ["fired", "failed"]),
                    "repeat": key("Told again while it fires, this often. Default: never.", DURATION, "1h"),
                },
                required=("to",),
            ),
            {"to": ["desk"], "events": ["fired", "acted", "failed"], "repeat": "1h"},
        ),
        "tests": key("What it must do, and must not, in virtual time. Default: none (W002).", cases_schema(),
                     [{"name": "fires after 3m", "given": {"size": 10}, "expect": [{"at": "4m", "state": "firing"}]}]),
        "replay": key("Acceptance over recordings.", replay_schema(), [{"data": "hype-2026", "assert": ["runs <= 12"]}]),
    }  # fmt: skip


def _writing_says_why() -> Schema:
    """A runbook with a step that writes names its intent."""
    writes = {"contains": {"type": "object", "anyOf": [{"required": [name]} for name in WRITING]}}
    either = {
        "anyOf": [
            {"required": ["steps"], "properties": {"steps": {"type": "array", **writes}}},
            {"required": ["on_clear"], "properties": {"on_clear": {"type": "array", **writes}}},
        ]
    }
    return {"if": either, "then": {"required": ["intent"]}}


def runbook_schema() -> Schema:
    """The whole schema as one JSON document."""
    required = ("schema", "runbook", "title", "owner", "severity", "stage", "scope", "trigger", "steps")
    body = mapping(_keys(), required=required) | {"allOf": [_writing_says_why()]}
    return {
        "$schema": DRAFT,
        "title": f"reefd runbook ({SCHEMA})",
        "description": "When it fires, what it does, and the tests that show it. Numbers carry their unit. Reference: docs/runbooks.md.",
        **body,
        "$defs": {"step": step_schema(), **definitions()},
    }
