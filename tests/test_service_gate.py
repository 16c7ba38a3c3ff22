"""The gate: open only when everything that could close it is known not to; unknown never opens."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, T0, TOPOLOGY, World, runbook
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.edges.provides import BRIDGE, DYDX
from daemon.engine.events import OperatorCommand
from daemon.engine.state import Closure
from daemon.service.gate import around, gate, gates
from daemon.service.views import GateAnswer
from daemon.units import NS
from daemon.world.entities import PORTFOLIO_ID, Kind, Topology, Venue

CHAIN = "dydx-chain"
LABELLED = replace(
    TOPOLOGY,
    venues={"dydx": Venue(id="dydx", valued_at=("oracle_price",), chain=CHAIN, provides={**DYDX, Kind.CHAIN: BRIDGE[Kind.CHAIN]})},
    labels={"ETH-USD": {"bucket": "income"}},
)
FINE: Mapping[tuple[Kind, str, str], float] = {
    (Kind.MARKET, MARKET, "market_open"): 1.0,
    (Kind.VENUE, "dydx", "venue_up"): 1.0,
    (Kind.VENUE, "dydx", "block_age"): 1.0,
    (Kind.CHAIN, CHAIN, "sequencer_up"): 1.0,
}
QUIET = runbook("- id: tell\n  notify: {to: [desk], text: x}")


def world(**changes: float) -> World:
    made = World(QUIET, topology=LABELLED, readings=FINE)
    made.until(10, **changes)
    return made


def ask(made: World, after_s: float = 0.0, *, market: str = MARKET, flag: str = "", ready: str = "") -> GateAnswer:
    return gate(made.engine, LABELLED, market, made.now + int(after_s * NS), flag=flag, ready=ready)


def test_it_is_open_when_all_is_known_and_well() -> None:
    answer = ask(world())
    assert answer.open, answer.why
    assert answer.why == "nothing is closed, and the market's readings are fresh"
    assert answer.at == "2023-11-14T22:13:30.000Z"


@pytest.mark.parametrize(
    ("changes", "after_s", "said"),
    [
        ({"market_open": 0.0}, 0, "dydx:ETH-USD takes no orders"),
        ({"market_open": math.nan}, 0, "market_open of dydx:ETH-USD is unknown"),
        ({"venue_up": 0.0}, 0, "dydx is down"),
        ({"block_age": 75.0}, 0, "the last block of dydx is 1m15s old"),
        ({"block_age": 55.0}, 8, "the last block of dydx is 1m3s old"),
        ({"sequencer_up": 0.0}, 0, "the sequencer of dydx-chain is down"),
        ({"oracle_price": math.nan}, 0, "the price that margin uses in dydx:ETH-USD is unknown"),
        ({"oracle_price": 0.0}, 0, "the price that margin uses in dydx:ETH-USD is unknown"),
        ({}, 12, "bid_price of dydx:ETH-USD is unknown, last seen 2023-11-14T22:13:30Z (12s ago)"),
        ({}, 40, "market_open of dydx:ETH-USD is unknown, last seen 2023-11-14T22:13:30Z (40s ago) (and 2 more)"),
    ],
)
def test_it_is_closed_and_says_why(changes: Mapping[str, float], after_s: float, said: str) -> None:
    answer = ask(world(**changes), after_s)
    assert not answer.open
    assert said in answer.why


def test_a_flag_and_a_daemon_that_is_not_ready_close_it_whatever_else_is_well() -> None:
    assert ask(world(), flag="halted by var/halt: maintenance").why == "halted by var/halt: maintenance"
    assert not ask(world(), ready="the daemon is stopping").open


def test_a_market_that_was_never_seen_is_closed_and_asking_makes_nothing_of_it() -> None:
    made = world()
    answer = ask(made, market="dydx:BTC-USD")
    assert (answer.open, answer.why) == (False, "nothing was seen of dydx:BTC-USD yet")
    assert not made.engine.hot.knows(Kind.MARKET, "dydx:BTC-USD")
    assert not ask(made, market="nonsense").open


KEYS = {
    f"market/{MARKET}", f"position/{POSITION}", f"account/{ACCOUNT}",
    "venue/dydx", f"chain/{CHAIN}", "bucket/income", "portfolio/portfolio",
}  # fmt: skip


def test_every_gate_that_concerns_a_market_is_asked() -> None:
    made = world()
    assert set(around(made.engine.look(made.now), LABELLED, MARKET)) == KEYS


@pytest.mark.parametrize("target", [MARKET, "dydx", "account/dydx", "venue/dydx", CHAIN, "income", PORTFOLIO_ID])
def test_a_person_who_halts_anything_around_it_closes_it(target: str) -> None:
    made = world()
    made.step(OperatorCommand(at=made.now, command_id="c1", actor="ana", verb="halt", target=target, reason="news"))
    answer = ask(made)
    assert not answer.open
    assert "are halted by operator ana since 2023-11-14T22:13:30Z: news" in answer.why
    closed = gates(made.engine.cold.gates)
    assert [(g.what, g.reason) for g in closed] == [(target.rpartition("/")[2], "news")]
    made.step(OperatorCommand(at=made.now + 1, command_id="c2", actor="ana", verb="resume", target=target))
    assert ask(made).open


def test_a_bare_name_that_is_venue_and_account_closes_the_venue() -> None:
    made = world()
    made.command("halt", "dydx")
    assert set(made.engine.cold.gates) == {"venue/dydx"}


def test_halting_everything_closes_it() -> None:
    made = world()
    made.command("halt")
    assert ask(made).why == "everything is halted: operator desk-lead"


def test_another_market_s_gate_does_not_close_it() -> None:
    made = world()
    made.readings[Kind.MARKET, "dydx:SOL-USD", "oracle_price"] = 100.0
    made.until(15)
    made.step(OperatorCommand(at=made.now, command_id="c1", actor="ana", verb="halt", target="dydx:SOL-USD"))
    assert ask(made).open


@dataclass(frozen=True)
class State:
    """A situation: readings (NaN: the source says there is none; absent: never seen), what is closed, how old everything is."""

    readings: Mapping[str, float]
    absent: frozenset[str]
    closed: frozenset[str]
    halted: bool
    flag: bool
    ready: bool
    age_s: float


PLACES = {signal: (kind, entity) for kind, entity, signal in FINE} | dict.fromkeys(
    ("oracle_price", "bid_price", "ask_price"), (Kind.MARKET, MARKET)
)
VALUES = {
    "market_open": (1.0, 0.0), "venue_up": (1.0, 0.0), "block_age": (1.0, 61.0), "sequencer_up": (1.0, 0.0), "oracle_price": (3000.0, 0.0),
    "bid_price": (2999.0,), "ask_price": (3001.0,),
}  # fmt: skip
STATES = st.builds(
    State,
    readings=st.fixed_dictionaries({name: st.sampled_from([values[0]] * 8 + [*values, math.nan]) for name, values in VALUES.items()}),
    absent=st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(sorted(VALUES)), max_size=2)),
    closed=st.one_of(st.just(frozenset()), st.frozensets(st.sampled_from(sorted(KEYS | {"market/dydx:SOL-USD"})), max_size=1)),
    halted=st.sampled_from([False] * 5 + [True]),
    flag=st.sampled_from([False] * 5 + [True]),
    ready=st.sampled_from([True] * 5 + [False]),
    age_s=st.sampled_from([0.0, 0.0, 0.0, 5.0, 11.0, 31.0, 200.0]),
)


@settings(max_examples=400, deadline=None)
@given(STATES)
def test_open_implies_that_nothing_is_closed_and_everything_is_known(state: State) -> None:
    readings = {(*PLACES[name], name): value for name, value in state.readings.items() if name not in state.absent}
    made = World(QUIET, topology=LABELLED)
    made.readings = {(Kind.POSITION, POSITION, "size"): 1.0, (Kind.MARKET, MARKET, "imf"): 0.1, **readings}
    made.until(1)
    for key in state.closed:
        made.engine.cold.gates[key] = (Closure(by="somebody", at=T0, reason=""),)
    if state.halted:
        made.command("halt")
    answer = ask(made, state.age_s, flag="halted" if state.flag else "", ready="" if state.ready else "starting")
    must_be_closed = (
        state.halted
        or state.flag
        or not state.ready
        or bool(state.closed & KEYS)
        or state.age_s > 10.0  # the book's staleness bound
        or bool(state.absent - {"sequencer_up"})  # a chain without a sequencer tells of none; a venue that gives books must give this one
        or any(value != value or value != VALUES[name][0] for name, value in state.readings.items() if name not in state.absent)
    )
    assert answer.open == (not must_be_closed), answer.why
    assert answer.why


def test_a_topology_that_does_not_say_what_is_provided_must_see_everything() -> None:
    bare = Topology(venues={"dydx": Venue(id="dydx")}, accounts=TOPOLOGY.accounts)
    made = World(QUIET, topology=bare, readings={k: v for k, v in FINE.items() if k[2] != "venue_up"})
    made.until(5)
    answer = gate(made.engine, bare, MARKET, made.now, flag="", ready="")
    assert (answer.open, answer.why) == (False, "venue_up of dydx is unknown: it was never seen")
    assert made.now == T0 + 5 * NS
