"""JSON Schema of `tests:` and `replay:` (floor 3): the keys of `cases.py`, and every signal by name with its unit, for completion."""

from __future__ import annotations

from daemon.language.catalogue import CATALOGUE, RELATIONS, Signal
from daemon.runbook.cases import ENTITY_KEYS, OUTCOMES, RECONCILED, RUN_STATES, TESTS_MAX, TRIGGER_STATES
from daemon.runbook.shapes import (
    BARE,
    DURATION,
    OFFSET_PATTERN,
    RATIO,
    TEXT,
    USD,
    Schema,
    age_text,
    free,
    key,
    literal,
    mapping,
    one_of,
    texts,
    value_of,
)
from daemon.runbook.steps import ACTIONS
from daemon.world.entities import Kind

_ENTITY_EXAMPLES = {
    "market": "dydx:ETH-USD", "account": "dydx", "venue": "dydx", "chain": "ethereum", "route": "cctp", "bucket": "income",
}  # fmt: skip
_NAMES = {
    "1": "number", "ratio": "ratio", "USD": "usd", "price": "price", "base": "base", "rate/h": "rate", "s": "duration", "gwei": "gwei",
    "bool": "truth",
}  # fmt: skip
PREFIXES = tuple(dict.fromkeys([*(kind.value for kind in Kind), *(name for near in RELATIONS.values() for name, _ in near)]))


def readable() -> dict[str, list[Signal]]:
    """The signals that runbooks and tests may name, by name; one name may belong to several scopes."""
    found: dict[str, list[Signal]] = {}
    for signal in CATALOGUE.values():
        if not signal.internal and signal.role != "display":
            found.setdefault(signal.name, []).append(signal)
    return found


def _meaning(signal: Signal) -> str:
    origin = f"observed, stale after {age_text(signal.max_age_ns)}" if signal.role == "observed" else "derived"
    return f"{signal.kind.value} · {signal.unit} · {origin}: {signal.meaning}"


def told(signals: list[Signal]) -> str:
    """`market · rate/h · observed, stale after 2h: the last SETTLED rate, > 0 longs pay`, for each scope that has it."""
    return "; ".join(_meaning(signal) for signal in signals)


def values() -> dict[str, Schema]:
    """The shapes of readings in tests by unit, for `$defs`; and those of a series of them."""
    made: dict[str, Schema] = {}
    for unit in _NAMES:
        plain = "a bare number is allowed" if unit in BARE else "true, false" if unit == "bool" else "the unit is written"
        made[f"value_{_NAMES[unit]}"] = {"description": f"A reading of unit {unit}: {plain}; or `missing`.", **value_of(unit)}
        made[f"series_{_NAMES[unit]}"] = {
            "description": f"Offset to value, of unit {unit}; offsets before 0s fill windows.",
            "type": "object",
            "propertyNames": {"pattern": OFFSET_PATTERN},
            "additionalProperties": _ref("value", unit),
        }
    return made


def _ref(what: str, unit: str) -> Schema:
    return {"$ref": f"#/$defs/{what}_{_NAMES[unit]}"}


def _signal_keys(what: str, *, special: tuple[str, ...] = ()) -> tuple[dict[str, Schema], dict[str, Schema]]:
    """Properties and patternProperties of a mapping keyed by signals; `special` names mean something else there."""
    properties = {
        name: {"description": told(signals), **_ref(what, signals[0].unit)}
        for name, signals in sorted(readable().items())
        if name not in special
    }
    patterns: dict[str, Schema] = {}
    for unit in _NAMES:
        names = "|".join(sorted({name for name, signals in readable().items() if signals[0].unit == unit}))
        far = {s.name for found in readable().values() for s in found if s.unit == unit and s.kind in (Kind.MARKET, Kind.POSITION)}
        forms = []
        if names:
            prefix = rf"(?:{'|'.join(PREFIXES)})\."
            forms += [rf"{prefix}(?:{names})(?:\([^()]*\))?", rf"(?:{names})\([^()]*\)"]
        if far:
            forms.append(rf"[^\s:]+:[^\s.]+\.(?:{'|'.join(sorted(far))})")
        if forms:
            patterns[rf"^(?:{'|'.join(forms)})$"] = _ref(what, unit)
    return properties, patterns


def _given() -> Schema:
    properties, patterns = _signal_keys("value", special=("initial_margin", "maintenance_margin"))
    route = mapping(
        {
            "name": key("Its name.", TEXT, "cctp"),
            "from": key("The chain, venue or account that transfers leave.", TEXT, "ethereum"),
            "to": key("The chain, venue or account that transfers reach.", TEXT, "dydx"),
            "eta": key("Typical time to arrive.", DURATION, "20m", default="0s"),
            "eta_p95": key("The slow tail: 95 % of transfers stay under it. Default: twice eta.", DURATION, "30m"),
            "fee": key("Fee as a share of the amount.", RATIO, "0.1%", default="0%"),
            "capacity": key("Most it takes at once, in USD. Default: unlimited.", USD, "1_000_000 USD"),
        },
        required=("name", "from", "to"),
    )
    special: dict[str, Schema] = {
        name: key(f"Name of the {name} that the instance under test belongs to.", TEXT, _ENTITY_EXAMPLES[name]) for name in ENTITY_KEYS
    }
    special["market"] = key("The market, written venue:symbol.", {"type": "string", "pattern": ":"}, _ENTITY_EXAMPLES["market"])
    special |= {
        "buffers": key("Idle collateral by chain, in USD.", free(literal("USD", bare=True)), {"ethereum": "100_000 USD"}),
        "routes": key(
            "The ways for collateral.", {"type": "array", "items": route},
            [{"name": "cctp", "from": "ethereum", "to": "dydx", "eta": "20m", "fee": "0.1%"}],
        ),
        "labels": key("Labels of the instance.", free(TEXT), {"bucket": "core"}),
        "initial_margin": key("Initial margin fraction of the market, as a ratio.", RATIO, "8%"),
        "maintenance_margin": key("Maintenance margin fraction of the market, as a ratio.", RATIO, "5%"),
    }  # fmt: skip
    return {"type": "object", "properties": special | properties, "patternProperties": patterns, "additionalProperties": False}


def _by_signal(what: str) -> Schema:
    properties, patterns = _signal_keys(what)
    return {"type": "object", "properties": properties, "patternProperties": patterns, "additionalProperties": False}


def _expectation() -> Schema:
    did = "Actions in order; `notify` only where named."
    return mapping(
        {
            "at": key("When it is looked at, counted from 0s.", DURATION, "4m"),
            "state": key("State of the trigger.", one_of(TRIGGER_STATES), "firing"),
            "run": key("State of the last run.", one_of(RUN_STATES), "done"),
            "did": key(f"What was done so far. {did}", texts(of=one_of(ACTIONS)), ["halt", "shrink_position"], []),
            "would": key(f"What a shadow would have done. {did}", texts(of=one_of(ACTIONS)), ["shrink_position"]),
            "spent": key("What the limits counted so far, in USD.", literal("USD", bare=True), "7_500 USD"),
            "unknown": key("Signals and lets that are UNKNOWN then.", texts(), ["funding_rate"]),
        },
        required=("at",),
    )


def _mock() -> Schema:
    return mapping(
        {
            "outcome": key("What the venue answers.", one_of(OUTCOMES), "unknown"),
            "reconcile": key("What a lookup of an unknown one finds.", one_of(RECONCILED), "applied", default="absent"),
            "reason": key("The reason of a refusal.", TEXT, "route_closed"),
            "sets": key("Readings that this changes.", _by_signal("value"), {"size": 5}),
        },
        required=("outcome",),
    )


def cases_schema() -> Schema:
    """`tests:` as a list of cases in virtual time."""
    one = {"$ref": "#/$defs/mock"}
    mock = {"anyOf": [one, {"type": "array", "items": one}]}
    case = mapping(
        {
            "name": key("What it shows, used once in the file.", TEXT, "fires after 3m and ends with the spike"),
            "stage": key("Another stage than the file's.", one_of(("disabled", "shadow", "armed")), "shadow"),
            "given": key(
                "Readings that stand from 0s on, and the entity under test. Inherited from the FIRST test, overridden by key.",
                {"$ref": "#/$defs/given"}, {"market": "dydx:ETH-USD", "size": 10, "oracle_price": 3000},
            ),
            "series": key(
                "Readings that change: offset to value; offsets before 0s fill windows.", {"$ref": "#/$defs/series"},
                {"funding_rate": {"-8d": "0.001%/h", "0s": "0.08%/h", "30m": "missing"}},
            ),
            "mocks": key(
                "What an action's sends come to; a list is for the next sends.",
                mapping({name: {"description": f"Sends of {name}.", **mock} for name in ACTIONS}),
                {"shrink_position": {"outcome": "unknown", "reconcile": "applied"}},
            ),
            "approvals": key("Steps that are approved, by time.", free(TEXT, names=OFFSET_PATTERN), {"2m": "shrink"}),
            "restart": key(
                "The daemon goes down and comes back.",
                mapping(
                    {"at": key("When it goes down.", DURATION, "1m"), "down": key("For how long.", DURATION, "20s")},
                    required=("at", "down"),
                ),
                {"at": "1m", "down": "20s"},
            ),
            "every": key("How often everything is sampled, above 0s.", DURATION, "10s", default="5s"),
            "expect": key(
                "What must be so at a time; any of the keys.", {"type": "array", "items": _expectation(), "minItems": 1},
                [{"at": "4m", "state": "firing", "did": ["halt"]}],
            ),
        },
        required=("name", "expect"),
    )  # fmt: skip
    return {"type": "array", "items": case, "maxItems": TESTS_MAX}


def replay_schema() -> Schema:
    """`replay:` as a list of acceptances over recordings."""
    case = mapping(
        {
            "data": key("Name of a recording.", TEXT, "hype-2026"),
            "assert": key(
                "Figures of the report compared with numbers or with each other.", texts(), ["liquidations.with <= liquidations.without"]
            ),
        },
        required=("data", "assert"),
    )
    return {"type": "array", "items": case}


def definitions() -> dict[str, Schema]:
    """What `$defs` holds for tests."""
    return {**values(), "given": _given(), "series": _by_signal("series"), "mock": _mock()}
