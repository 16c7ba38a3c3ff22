"""The driver of stress: one engine on many futures, compiled or plain, in any order, to the same bits."""

from __future__ import annotations

from pathlib import Path as File

import pytest

from daemon.app.execution import compiler
from daemon.engine.limits import HouseLimits
from daemon.runbook.load import load_paths
from daemon.simulation.book import load_book
from daemon.simulation.stress.stage import Played, Stage
from daemon.simulation.stress.surroundings import Fact
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind
from tests.stress_world import START, ToySource

ROOT = File(__file__).resolve().parent.parent
BOOK = load_book(ROOT / "config/books/example.yaml")
SHIPPED = ("margin-low", "funding-spike", "oracle-divergence", "buffer-low", "route-down", "sequencer-down", "thin-book")
HOUR = 3600 * NS
STALL = (
    Fact(at=START + 2 * HOUR, kind=Kind.ROUTE, entity="cctp", values={"route_open": 0.0}),
    Fact(at=START + 3 * HOUR + 17 * NS, kind=Kind.ROUTE, entity="fast", values={"route_open": 0.0}),
    Fact(at=START + 9 * HOUR, kind=Kind.ROUTE, entity="cctp", values={"route_open": 1.0}),
    Fact(at=START + 10 * HOUR, kind=Kind.VENUE, entity="dydx", values={"venue_up": 0.0}),
    Fact(at=START + 11 * HOUR, kind=Kind.VENUE, entity="dydx", values={"venue_up": 1.0}),
    Fact(at=START + 12 * HOUR, kind=Kind.CHAIN, entity="arbitrum", values={"sequencer_up": 0.0}),
    Fact(at=START + 13 * HOUR + 7 * NS, kind=Kind.CHAIN, entity="arbitrum", values={"sequencer_up": 1.0}),
)
HALT = (("dydx", START + 10 * HOUR, START + 11 * HOUR),)


def stage(*names: str, compiled: bool, source: ToySource | None = None, **parts: object) -> Stage:
    runbooks = load_paths([ROOT / "runbooks" / f"{name}.yaml" for name in names]).runbooks if names else ()
    futures = source or ToySource([BOOK.prices[market] for market in BOOK.market_ids], **parts)
    return Stage(BOOK, runbooks=runbooks, house=HouseLimits(), source=futures, compiler=compiler() if compiled else None, warm_up_days=1)


def seen(played: Played) -> tuple[object, ...]:
    return played.end, played.without.tolist(), played.having.tolist(), played.acts, played.acts_without


@pytest.mark.parametrize("facts", [(), STALL], ids=["calm", "routes stall and the venue halts"])
def test_compiled_and_plain_executions_play_a_future_alike(facts: tuple[Fact, ...]) -> None:
    parts = {"steps": 900, "volatility": 5.0, "facts": facts, "halted": HALT if facts else ()}
    one, other = stage(*SHIPPED, compiled=True, **parts), stage(*SHIPPED, compiled=False, **parts)
    assert (one.execution, other.execution) == ("compiled", "python")
    ends = []
    for number in range(8):
        quick, slow = one.open(number), other.open(number)
        assert seen(quick) == seen(slow), number
        ends.append(quick)
    assert any("move" in {act.kind for act in played.acts} for played in ends), "some future must move money"
    assert any("shrink" in {act.kind for act in played.acts} for played in ends), "some future must sell"
    assert any(played.end.without.liquidations for played in ends), "some future must liquidate"


def test_a_future_comes_to_the_same_whatever_was_played_before_it() -> None:
    one, other = stage(*SHIPPED, compiled=True, steps=600, volatility=2.2), stage(*SHIPPED, compiled=True, steps=600, volatility=2.2)
    forwards = [seen(one.open(number)) for number in range(6)]
    backwards = [seen(other.open(number)) for number in reversed(range(6))]
    assert forwards == backwards[::-1]
    assert forwards[0] != forwards[1]


def test_without_runbooks_both_sides_are_one() -> None:
    played = stage(compiled=True, steps=600, volatility=2.2).open(3)
    assert played.end.without == played.end.having
    assert (played.without == played.having).all()


def test_shipped_runbooks_keep_the_book_alive_on_paths_that_liquidate_it() -> None:
    ends = [stage_.play(number) for stage_ in (stage("margin-low", compiled=True, steps=1440, volatility=1.6),) for number in range(12)]
    died = [end for end in ends if end.without.liquidated_at < FOREVER]
    assert died
    assert all(end.having.liquidated_at == FOREVER for end in died)
