"""The codec: what is printed is canonical and comes back equal, for every event, record and action of the closed unions."""

from __future__ import annotations

import json
import math
import types
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from decimal import Decimal
from enum import Enum
from typing import Literal, Union, get_args, get_origin, get_type_hints

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.engine.actions import Action
from daemon.engine.codec import decode, decode_as, encode, encode_as, plain
from daemon.engine.events import Event, Observed, Row, Woke
from daemon.engine.records import Record
from daemon.engine.state import Cold
from daemon.world.entities import Kind

TEXT = st.text(st.characters(codec="utf-8"), max_size=8)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | TEXT,
    lambda inner: st.dictionaries(TEXT, inner, max_size=2) | st.lists(inner, max_size=2).map(tuple),
    max_leaves=4,
)


def made(hint: object) -> st.SearchStrategy:
    """Values of a type, the way the codec reads types."""
    if hint is object:
        return PLAIN
    if hint is float:
        return st.floats(allow_nan=False)
    if hint is Decimal:
        return st.decimals(allow_nan=False, allow_infinity=False, places=6)
    if isinstance(hint, type):
        if is_dataclass(hint):
            hints = get_type_hints(hint)
            return st.deferred(lambda: st.builds(hint, **{f.name: made(hints[f.name]) for f in fields(hint)}))
        if issubclass(hint, Enum):
            return st.sampled_from(hint)
        return {int: st.integers(-(1 << 62), 1 << 62), str: TEXT, bool: st.booleans(), types.NoneType: st.none()}[hint]
    origin, args = get_origin(hint), get_args(hint)
    if origin is Literal:
        return st.sampled_from(args)
    if origin in (Union, types.UnionType):
        return st.one_of([made(a) for a in args])
    if origin is tuple and args[1:] == (Ellipsis,):
        return st.lists(made(args[0]), max_size=2).map(tuple)
    if origin is tuple:
        return st.tuples(*[made(a) for a in args])
    if origin in (Mapping, dict):
        return st.dictionaries(TEXT, made(args[1]), max_size=2)
    raise TypeError(hint)


@pytest.mark.parametrize("kind", [*get_args(Event), *get_args(Record), *get_args(Action)], ids=lambda kind: kind.__name__)
def test_every_entry_comes_back_equal(kind):
    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(entry=made(kind))
    def check(entry):
        text = encode(entry)
        assert decode(text) == entry
        assert encode(decode(text)) == text
        assert text == json.dumps(json.loads(text), sort_keys=True, separators=(",", ":"), ensure_ascii=False)

    check()


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(cold=made(Cold))
def test_cold_state_comes_back_equal(cold):
    text = encode_as(cold, Cold)
    again = decode_as(text, Cold)
    assert again == cold
    assert encode_as(again, Cold) == text
    assert list(again.episodes) == list(cold.episodes), "a restored state is walked in the order of the one saved"


def test_floats_that_json_has_no_word_for_are_texts():
    row = Row(kind=Kind.MARKET, entity="m", values={"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1, "e": -0.0})
    text = encode(Observed(at=1, source="s", rows=(row,)))
    assert '"values":{"a":"nan","b":"inf","c":"-inf","d":1.0,"e":-0.0}' in text
    back = decode(text)
    assert isinstance(back, Observed)
    values = back.rows[0].values
    assert math.isnan(values["a"])
    assert (values["b"], values["c"]) == (math.inf, -math.inf)


def test_decimals_keep_their_digits():
    assert encode_as(Decimal("1.50"), Decimal) == '"1.50"'
    assert decode_as('"1E+3"', Decimal) == Decimal("1E+3")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"type":"Nothing","at":1}', "no entry of this build"),
        ('{"type":"Woke"}', "Woke lacks at"),
        ('{"type":"Woke","at":"x"}', "expected int"),
        ('{"type":"Woke","at":true}', "expected int"),
        ('{"type":"GateChanged","at":1,"kind":"m","entity":"e","closed":1,"by":"b","reason":""}', "expected bool"),
        (
            '{"type":"TriggerChanged","at":1,"runbook":"r","entity":"e","episode":"x","change":"what","pending_at":1,"fired_at":1}',
            "expected one of",
        ),
    ],
)
def test_text_of_another_shape_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        decode(text)


def test_fields_of_a_later_build_are_ignored_and_missing_ones_take_their_default():
    assert decode('{"type":"Woke","at":1,"later":2}') == Woke(at=1)
    assert decode('{"type":"OperatorCommand","at":1,"command_id":"c","actor":"a","verb":"halt"}').target == ""


def test_plain_turns_anything_of_ours_into_json():
    assert plain((Decimal("1.0"), Kind.MARKET, math.nan, {"a": Woke(at=1)})) == ("1.0", "market", "nan", {"a": {"at": 1}})
    with pytest.raises(TypeError):
        plain(object())
