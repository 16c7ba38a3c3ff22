"""Pieces of JSON Schema (floor 3): the literals of reefd as patterns, and keys with their description, examples and default.

`$comment` names the kind of value for the reference page.

    key("how long it must hold TRUE", DURATION, "3m", default="0s")

A YAML language server shows `description` when a key is pointed at and offers `enum`, `examples` and `default` while it is written. The
shapes are as wide as the loader where only the loader can know (an expression's unit, a param's), and narrow where the text alone says it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from daemon.runbook.fields import UNIT_EXAMPLES
from daemon.units import show_duration

Schema = dict[str, object]

NUMBER = r"[+-]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d+)(?:[eE][+-]?\d+)?"
# What stands for a literal where a runbook has params: a param's name.
PARAM = r"[a-z_][a-z0-9_]*"
_DURATION = r"(?:\d[\d_]*(?:\.\d+)?(?:ns|us|ms|s|m|h|d|w))+"
_LITERALS = {
    "ratio": rf"{NUMBER}\s*(?:%|bps)",
    "USD": rf"{NUMBER}\s*USD",
    "price": rf"{NUMBER}\s*(?:price|USD/base)",
    "base": rf"{NUMBER}\s*base",
    "gwei": rf"{NUMBER}\s*gwei",
    "rate/h": rf"{NUMBER}\s*(?:%|bps)?\s*/\s*\d*(?:m|h|d)",
    "s": rf"[+-]*{_DURATION}|{NUMBER}\s*(?:ns|us|ms|s|m|h|d|w)",
    "1": NUMBER,
}
_KINDS = {
    "ratio": "ratio", "USD": "USD", "price": "price", "base": "base units", "gwei": "gwei", "rate/h": "rate", "s": "duration",
    "1": "number",
}  # fmt: skip
# Units whose bare numbers need no unit behind them, in values of tests.
BARE = frozenset({"1", "price", "base", "USD"})


def _whole(*patterns: str) -> str:
    return rf"^\s*(?:{'|'.join(patterns)})\s*$"


def literal(*units: str, bare: bool = False, words: Sequence[str] = (), params: bool = True) -> Schema:
    """A literal in one of the units, or a param's name; `bare` allows a plain number, `words` further texts; not `params`: no names."""
    kind = " or ".join(_KINDS[unit] for unit in units) if len(units) < 4 else "literal"
    patterns = [*(_LITERALS[unit] for unit in units), *([PARAM] if params else []), *words]
    if bare or "1" in units:
        return {"$comment": kind, "type": ["string", "number"], "pattern": _whole(*patterns, NUMBER)}
    return {"$comment": kind, "type": "string", "pattern": _whole(*patterns)}


# Any scalar that is something: runbooks never guess types, `title: 2026` is the text "2026".
TEXT: Schema = {"type": ["string", "number", "boolean"]}
SAID: Schema = {"type": ["string", "number", "boolean"], "pattern": r"\S"}  # a text that says something
EXPRESSION: Schema = {"$comment": "expression", "type": ["string", "number", "boolean"]}
ID: Schema = {"type": ["string", "number", "boolean"], "pattern": "^[a-z0-9][a-z0-9-]*$"}
DURATION: Schema = {"$comment": "duration", "type": "string", "pattern": _whole(rf"\+*{_DURATION}", PARAM)}
OFFSET_PATTERN = _whole(rf"[+-]*{_DURATION}", PARAM)
RATIO: Schema = literal("ratio")
USD: Schema = literal("USD")
DAY: Schema = {"$comment": "day", "type": "string", "pattern": r"^\d{4}-\d\d-\d\d$"}
FLAG: Schema = {"enum": [True, False, "true", "false"]}


def value_of(unit: str) -> Schema:
    """A reading in a test, in the signal's unit: a number carries it, save where the unit is plain; `missing` is observed as missing."""
    if unit == "bool":
        return {"enum": [True, False, "true", "false", "missing"], "examples": [True]}
    shape = literal(unit, bare=unit in BARE, words=("missing",))
    return {**shape, "examples": [UNIT_EXAMPLES[unit].partition(" or ")[0]]}


def count(low: int, high: int) -> Schema:
    """A whole number within bounds, or a param's name."""
    pattern = _whole(r"[+-]?\d[\d_]*", PARAM)
    return {"$comment": "whole number", "type": ["integer", "string"], "minimum": low, "maximum": high, "pattern": pattern}


def one_of(words: Sequence[str]) -> Schema:
    """One of the allowed words."""
    return {"enum": list(words)}


def texts(*, least: int = 0, most: int | None = None, of: Schema = TEXT) -> Schema:
    """A list of texts."""
    shape: Schema = {"type": "array", "items": of}
    if least:
        shape["minItems"] = least
    if most is not None:
        shape["maxItems"] = most
    return shape


def key(says: str, shape: Mapping[str, object], *examples: object, default: object = None) -> Schema:
    """A key: what it means (with its unit), what may stand there, how it is written, and what holds when it is left out."""
    made: Schema = {"description": says if default is None else f"{says} Default: {default}."}
    made |= shape
    if default is not None:
        made["default"] = default
    if examples:
        made["examples"] = list(examples)
    return made


def mapping(keys: Mapping[str, Schema], *, required: Sequence[str] = (), one: Sequence[str] = ()) -> Schema:
    """A mapping that knows all its keys, in the order in which they are written; exactly one of the keys `one` is there."""
    made: Schema = {"type": "object", "properties": dict(keys), "additionalProperties": False}
    if required:
        made["required"] = list(required)
    if one:
        made["oneOf"] = [{"required": [name]} for name in one]
    return made


def free(of: Schema, *, names: str = "", most: int | None = None) -> Schema:
    """A mapping whose keys are the writer's own; `names` is the pattern they follow."""
    made: Schema = {"type": "object", "additionalProperties": of}
    if names:
        made["propertyNames"] = {"pattern": names}
    if most is not None:
        made["maxProperties"] = most
    return made


def age_text(max_age_ns: int) -> str:
    """`2h` of a bound in ns."""
    return show_duration(max_age_ns / 1e9)
