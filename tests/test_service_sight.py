"""Sight: a venue whose last block is too old is blind, and that is said once when it begins and once when it ends."""

from __future__ import annotations

import io
import json

import pytest
from service_world import ORIGIN_NS, rows

from daemon.engine.events import Observed, Row
from daemon.service.logging import configure
from daemon.service.sight import Sight
from daemon.world.entities import Kind


def seen(age_s: float, *, history: bool = False) -> Observed:
    row = Row(kind=Kind.VENUE, entity="dydx", values={"block_age": age_s, "venue_up": 0.0})
    return Observed(at=ORIGIN_NS, source="dydx.height", rows=(*rows("dydx:BTC-USD"), row), history=history)


@pytest.mark.parametrize(("age_s", "blind"), [(59.9, {}), (60.0, {}), (60.1, {"dydx": 60.1}), (214.0, {"dydx": 214.0})])
def test_venue_is_blind_when_its_last_block_is_older_than_the_catalogue_allows(age_s: float, blind: dict[str, float]) -> None:
    sight = Sight()
    sight.follow(seen(age_s))
    assert sight.blind == blind


def test_blindness_is_logged_when_it_begins_and_when_it_ends_and_not_in_between() -> None:
    stream = io.StringIO()
    configure("json", stream)
    sight = Sight()
    for age_s in (1.0, 61.0, 62.0, 214.0, 2.0, 1.0):
        sight.follow(seen(age_s))
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"], line["venue"]) for line in lines] == [
        ("venue.blind", "warning", "dydx"),
        ("venue.seen", "warning", "dydx"),
    ]
    assert sight.blind == {}


def test_block_age_of_a_chain_or_of_the_past_blinds_no_venue() -> None:
    sight = Sight()
    chain = Row(kind=Kind.CHAIN, entity="arbitrum", values={"block_age": 1000.0})
    sight.follow(Observed(at=ORIGIN_NS, source="bridge.chains", rows=(chain,)))
    sight.follow(seen(1000.0, history=True))
    assert sight.blind == {}
