"""A trace, fresh from the engine or read back from the journal, as the tree that the surface shows."""

from __future__ import annotations

import json
import math

from engine_world import World, runbook

from daemon.engine.codec import plain
from daemon.engine.records import RunStarted
from daemon.service.views import WhyNode
from daemon.service.whynode import node_of


def compares(node: WhyNode) -> list[WhyNode]:
    found = [node] if node.role == "compare" else []
    return found + [deep for kid in node.kids for deep in compares(kid)]


def test_a_firing_shows_its_readings_with_age_and_the_distance_to_the_bound() -> None:
    world = World(runbook(when="funding_rate > 0.05%/h and size > 4 base", steps="- id: tell\n  notify: {to: [desk], text: hi}"))
    world.until(10, funding_rate=0.0008)
    started = world.of(RunStarted)[0]
    node = node_of(started.trace)
    assert node is not None
    assert node.shown == "TRUE"
    funding, size = compares(node)
    assert funding.distance_shown == "0.03%/h above"
    assert math.isclose(funding.distance or 0.0, 0.0003)
    assert size.distance == 6.0
    assert (funding.kids[0].signal, funding.kids[0].shown, funding.kids[0].age_s) == ("funding_rate", "0.08%/h", 0.0)


def test_a_stored_trace_reads_like_the_fresh_one() -> None:
    world = World(runbook(when="mean(funding_rate, 1m) > 0.05%/h and gross_notional > 100 USD"))
    world.until(120, funding_rate=0.001)
    fresh = world.of(RunStarted)[0].trace
    assert node_of(json.loads(json.dumps(plain(fresh)))) == node_of(fresh)


def test_a_bound_on_the_left_is_still_the_bound() -> None:
    tree = {
        "text": "5 < size", "value": 0.0, "unit": "truth", "role": "compare", "signal": "", "age": None,
        "kids": [
            {"text": "5", "value": 5.0, "unit": "base", "role": "constant", "signal": "", "age": None, "kids": []},
            {"text": "size", "value": 3.0, "unit": "base", "role": "reading", "signal": "size", "age": 2.0, "kids": []},
        ],
    }  # fmt: skip
    node = node_of(tree)
    assert node is not None
    assert (node.distance, node.distance_shown) == (-2.0, "2 base below")


def test_an_infinite_and_an_unknown_reading_keep_their_meaning_through_json() -> None:
    move = "survivable_move"
    kid = {"text": move, "value": "inf", "unit": "ratio", "role": "reading", "signal": move, "age": "inf", "kids": ()}
    bound = {"text": "10%", "value": 0.1, "unit": "ratio", "role": "constant", "signal": "", "age": None, "kids": ()}
    node = node_of({"text": "c", "value": 0.0, "unit": "truth", "role": "compare", "signal": "", "age": None, "kids": (kid, bound)})
    assert node is not None
    assert (node.kids[0].value, node.kids[0].shown, node.kids[0].age_s) == (math.inf, "infinite", math.inf)
    assert (node.distance, node.distance_shown) == (None, "")
    missing = node_of({"text": "c", "value": 1.0, "unit": "truth", "role": "compare", "kids": ({**kid, "value": None}, bound)})
    assert missing is not None
    assert (missing.shown, missing.distance, missing.distance_shown) == ("UNKNOWN", None, "missing survivable_move")


def test_what_is_no_trace_has_no_node() -> None:
    assert node_of(None) is None
    assert node_of({}) is None
    assert node_of("TRUE") is None
