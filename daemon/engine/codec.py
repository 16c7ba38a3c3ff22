"""Events, records and states as canonical JSON, and back (floor 4): `encode(entry)` is text, `decode(text)` the same entry.

Generic over frozen dataclasses: the fields' types decide. Keys sorted, separators compact, Decimals as strings, floats by repr,
NaN as `"nan"`, infinities as `"inf"` and `"-inf"`; a member of a closed union carries its class name as `type`. A field of type
`dict` (state, not message) keeps its order as a list of pairs, so that a restored state is walked as the one that was saved; one of
type `object` holds plain JSON (texts, numbers, bools, None, mappings with text keys, tuples): there, NaN comes back as the text.
"""

from __future__ import annotations

import json
import math
import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields, is_dataclass
from decimal import Decimal
from enum import Enum
from functools import cache
from typing import Literal, Union, cast, get_args, get_origin, get_type_hints

from daemon.engine.actions import Action
from daemon.engine.events import Event
from daemon.engine.records import Record

Coder = Callable[[object], object]

_ENTRIES: dict[str, type] = {member.__name__: member for union in (Event, Record, Action) for member in get_args(union)}
_SPECIAL = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def encode(entry: object) -> str:
    """Canonical JSON of an event, record or action, with its class name as `type`."""
    return dumps(_tagged(entry))


def decode(text: str) -> Event | Record:
    """The event or record that `encode` printed; raises ValueError for text of an unknown type or shape."""
    return cast("Event | Record", _untagged(json.loads(text), _ENTRIES))


def encode_as(value: object, hint: object) -> str:
    """Canonical JSON of a value of a known type (a dataclass without tag, a mapping, a tuple)."""
    return dumps(encoder(hint)(value))


def decode_as(text: str, hint: object) -> object:
    """The value of type `hint` that `encode_as` printed."""
    return decoder(hint)(json.loads(text))


def plain(value: object) -> object:
    """Anything JSON-able or made of dataclasses, as plain JSON; floats that JSON has no word for become texts."""
    kind = type(value)  # traces are nearly all of it: texts, numbers, and dictionaries of them
    if kind is str or kind is int or value is None:
        return value
    if kind is float:
        return value if value - value == 0.0 else _float(value)  # type: ignore[operator]
    if kind is dict:
        return {key if type(key) is str else str(plain(key)): plain(item) for key, item in value.items()}  # type: ignore[attr-defined]
    match value:
        case None | bool() | int() | str() if not isinstance(value, Enum):
            return value
        case float():
            return _float(value)
        case Decimal():
            return str(value)
        case Enum():
            return value.value
        case Mapping():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case list() | tuple():
            return tuple(plain(item) for item in value)
        case _ if is_dataclass(value):
            return {f.name: plain(getattr(value, f.name)) for f in fields(value)}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def dumps(value: object) -> str:
    """Plain JSON as canonical text."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def _float(value: object) -> float | str:
    number = float(cast("float", value))
    if math.isfinite(number):
        return number
    return "nan" if math.isnan(number) else "inf" if number > 0 else "-inf"


def _tagged(value: object) -> dict[str, object]:
    cls: type = type(value)
    body = cast("dict[str, object]", encoder(cls)(value))
    return {"type": type(value).__name__, **body}


def _untagged(value: object, members: Mapping[str, type]) -> object:
    body = dict(cast("Mapping[str, object]", value))
    name = str(body.pop("type", ""))
    if name not in members:
        raise ValueError(f"{name!r} is no entry of this build; known are {', '.join(sorted(members))}")
    return decoder(members[name])(body)


@cache
def encoder(hint: object) -> Coder:
    """The function that turns a value of type `hint` into plain JSON."""
    if isinstance(hint, type):
        if hint is float:
            return _float
        if hint in (int, str, bool, types.NoneType):
            return lambda value: value
        if hint is Decimal:
            return str
        if hint is object:
            return plain
        if issubclass(hint, Enum):
            return lambda value: cast("Enum", value).value
        if is_dataclass(hint):
            return _dataclass_encoder(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: value
    if origin in (Union, types.UnionType):
        members = [a for a in args if a is not types.NoneType]
        if all(get_origin(m) is Literal for m in members):
            return lambda value: value
        if len(members) == 1:
            inner = encoder(members[0])
            return lambda value: None if value is None else inner(value)
        return lambda value: None if value is None else _tagged(value)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = encoder(args[0])
        return lambda value: [item(v) for v in cast("tuple[object, ...]", value)]
    if origin is tuple:
        items = [encoder(a) for a in args]
        return lambda value: [code(v) for code, v in zip(items, cast("tuple[object, ...]", value), strict=True)]
    if origin is dict:
        item = encoder(args[1])
        return lambda value: [[key, item(v)] for key, v in cast("Mapping[str, object]", value).items()]
    if origin is Mapping:
        item = encoder(args[1])
        return lambda value: {str(key): item(v) for key, v in cast("Mapping[str, object]", value).items()}
    raise TypeError(f"no JSON form for {hint!r}")


def _dataclass_encoder(cls: type) -> Coder:
    hints = get_type_hints(cls)
    coders = [(f.name, encoder(hints[f.name])) for f in fields(cls) if f.init]
    return lambda value: {name: code(getattr(value, name)) for name, code in coders}


@cache
def decoder(hint: object) -> Coder:
    """The function that turns plain JSON into a value of type `hint`; raises ValueError on another shape."""
    if isinstance(hint, type):
        if hint is float:
            return _read_float
        if hint in (int, str, bool, types.NoneType):
            return lambda value: _expect(value, hint)
        if hint is Decimal:
            return lambda value: Decimal(str(value))
        if hint is object:
            return _read_plain
        if issubclass(hint, Enum):
            return hint
        if is_dataclass(hint):
            return _dataclass_decoder(hint)
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return lambda value: _one_of(value, args)
    if origin in (Union, types.UnionType):
        members = [a for a in args if a is not types.NoneType]
        if all(get_origin(m) is Literal for m in members):
            choices = tuple(c for m in members for c in get_args(m)) + ((None,) if types.NoneType in args else ())
            return lambda value: _one_of(value, choices)
        if len(members) == 1:
            inner = decoder(members[0])
            return lambda value: None if value is None else inner(value)
        names = {m.__name__: m for m in members}
        return lambda value: None if value is None else _untagged(value, names)
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis:
        item = decoder(args[0])
        return lambda value: tuple(item(v) for v in cast("list[object]", value))
    if origin is tuple:
        items = [decoder(a) for a in args]
        return lambda value: tuple(code(v) for code, v in zip(items, cast("list[object]", value), strict=True))
    if origin is dict:
        item = decoder(args[1])
        return lambda value: {key: item(v) for key, v in cast("list[tuple[str, object]]", value)}
    if origin is Mapping:
        item = decoder(args[1])
        return lambda value: {key: item(v) for key, v in cast("Mapping[str, object]", value).items()}
    raise TypeError(f"no JSON form for {hint!r}")


def _dataclass_decoder(cls: type) -> Coder:
    hints = get_type_hints(cls)
    coders = {f.name: decoder(hints[f.name]) for f in fields(cls) if f.init}
    required = [f.name for f in fields(cls) if f.init and f.default is MISSING and f.default_factory is MISSING]

    def read(value: object) -> object:
        body = cast("Mapping[str, object]", value)
        missing = [name for name in required if name not in body]
        if missing:
            raise ValueError(f"{cls.__name__} lacks {', '.join(missing)}")
        # Fields of a later build are ignored, fields of this build that an earlier one did not write take their default.
        return cls(**{name: code(body[name]) for name, code in coders.items() if name in body})

    return read


def _read_float(value: object) -> float:
    if isinstance(value, str):
        return _SPECIAL[value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected a number, found {value!r}")
    return float(value)


def _read_plain(value: object) -> object:
    if isinstance(value, list):
        return tuple(_read_plain(item) for item in value)
    if isinstance(value, dict):
        return {key: _read_plain(item) for key, item in value.items()}
    return value


def _expect(value: object, hint: type) -> object:
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise ValueError(f"expected {hint.__name__}, found {value!r}")
    return value


def _one_of(value: object, choices: tuple[object, ...]) -> object:
    if value not in choices:
        raise ValueError(f"expected one of {choices}, found {value!r}")
    return value
