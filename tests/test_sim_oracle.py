"""The oracle of the simulated venue: cadence, threshold and heartbeat; frozen, lagging, wrong, without sources, stale after a restart."""

from __future__ import annotations

import math
import statistics
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_world import START, account_of, order, still_text, still_world

from daemon.errors import RunbookError
from daemon.simulation.bridges import Refusal
from daemon.simulation.faults import OracleFreeze, OracleSources, OracleWrong
from daemon.simulation.oracle import OracleFeed
from daemon.simulation.oracle_models import KINDS, OracleSpec
from daemon.simulation.route_models import Fact
from daemon.simulation.scenario import parse_scenario
from daemon.simulation.world import World
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world import margin

START_S = START // NS


def feed(*, price: float = 100.0, start_s: int = 0, **spec: Any) -> OracleFeed:
    return OracleFeed(seed=3, symbol="X", spec=OracleSpec.model_validate(spec), start_s=start_s, digits=6, price=price)


def published(oracle: OracleFeed, prices: list[float], shocks: Any = ()) -> list[float]:
    """What the oracle shows at seconds 1, 2, ... while the market stands at `prices`."""
    shown = []
    for second, price in enumerate(prices, start=1):
        oracle.advance(second, price, shocks, halted=False)
        shown.append(oracle.price)
    return shown


def to(world: World, ns: int) -> World:
    world.advance(START + ns)
    return world


# --- what it does when it works --------------------------------------------------------------------------------------------------------


def test_a_price_inside_the_threshold_is_not_published_and_one_at_it_is() -> None:
    assert published(feed(deviation="0.5%"), [100.4, 99.6, 100.51, 100.9, 101.1]) == [100.0, 100.0, 100.51, 100.51, 101.1]


def test_a_heartbeat_publishes_a_small_move_once_it_is_due() -> None:
    oracle = feed(deviation="0.5%", heartbeat="5s")
    assert published(oracle, [100.1, 100.2, 100.3, 100.4, 100.1, 100.3]) == [100.0] * 4 + [100.1, 100.1]
    assert oracle.published_s == 5


def test_a_cadence_keeps_the_epochs_rhythm() -> None:
    # The venue starts at epoch second 1000: multiples of 3 are 1002, 1005, 1008.
    assert published(feed(start_s=1000, cadence="3s", deviation="0%"), [101.0, 102.0, 103.0, 104.0, 105.0]) == [100, 102, 102, 102, 105]


def test_a_lag_of_the_oracle_itself_shows_the_market_as_it_was() -> None:
    assert published(feed(lag="2s", deviation="0%"), [101.0, 102.0, 103.0, 104.0]) == [101.0, 101.0, 101.0, 102.0]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_oracle_says_where_its_values_are_from(kind: str) -> None:
    spec = OracleSpec.model_validate({"kind": kind})
    facts = KINDS[kind]
    assert {"cadence", "deviation", "sources", "sources_min"} <= set(facts)
    for name, fact in facts.items():
        assert isinstance(fact, Fact)
        assert fact.source.strip()
        assert getattr(spec, name) is not None


def test_the_kinds_have_the_published_numbers() -> None:
    def spec(kind: str) -> OracleSpec:
        return OracleSpec.model_validate({"kind": kind})

    assert (spec("dydx").deviation, spec("dydx-alt").deviation, spec("dydx-long-tail").deviation) == (0.001, 0.0025, 0.0008)
    assert (spec("hyperliquid").cadence, spec("hyperliquid").sources) == (3 * NS, 8)
    beats = {kind: spec(f"chainlink-{kind}").heartbeat for kind in ("ethereum", "arbitrum", "op", "base", "usdc")}
    assert beats == {"ethereum": HOUR_NS, "arbitrum": 24 * HOUR_NS, "op": 20 * MINUTE_NS, "base": 20 * MINUTE_NS, "usdc": 24 * HOUR_NS}
    assert (spec("dydx").votes_zero, spec("hyperliquid").votes_zero) == (True, False)
    assert OracleSpec.model_validate({"kind": "chainlink-op", "heartbeat": "1m"}).heartbeat == MINUTE_NS


def test_a_24_hour_feed_cannot_show_a_depeg_below_its_threshold() -> None:
    oracle = feed(price=1.0, kind="chainlink-usdc")
    published(oracle, [0.996] * 3600)
    assert oracle.price == 1.0


def test_an_oracle_section_overrides_the_deadband_of_the_market() -> None:
    world = still_world(shocks="[{at: 5s, kind: price_move, market: BTC-USD, by: 0.3%}]", btc=", oracle: {kind: chainlink-op}")
    assert to(world, 30 * NS).markets["BTC-USD"].oracle == 98_000
    plain = still_world(shocks="[{at: 5s, kind: price_move, market: BTC-USD, by: 0.3%}]")
    assert to(plain, 30 * NS).markets["BTC-USD"].oracle == pytest.approx(98_294)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(80, 120), min_size=1, max_size=60), st.sampled_from(["0%", "0.5%", "3%"]), st.sampled_from(["1s", "4s"]))
def test_an_oracle_is_never_further_from_the_market_than_it_may_be(moves: list[float], deviation: str, every: str) -> None:
    oracle = feed(deviation=deviation, cadence=every)
    for second, price in enumerate(moves, start=1):
        before = oracle.price
        oracle.advance(second, price, (), halted=False)
        assert oracle.price in (before, pytest.approx(price, abs=1e-6))
        if second * NS % oracle.spec.cadence == 0:
            assert abs(price / oracle.price - 1.0) <= oracle.spec.deviation + 1e-7


# --- how it fails ----------------------------------------------------------------------------------------------------------------------


def test_a_wrong_oracle_publishes_a_ratio_of_the_price_or_a_fixed_one_and_then_the_true_price() -> None:
    ratio = OracleWrong(kind="oracle_wrong", market="X", at=2 * NS, lasts=2 * NS, by="-40%")  # type: ignore[arg-type]
    assert published(feed(), [100.0] * 5, (ratio,)) == pytest.approx([100, 60, 60, 100, 100])
    fixed = OracleWrong(kind="oracle_wrong", market="X", at=2 * NS, lasts=2 * NS, price=7.0)
    assert published(feed(), [100.0] * 5, (fixed,)) == pytest.approx([100, 7, 7, 100, 100])


@pytest.mark.parametrize("keys", ["", "by: 5%, price: 3,"])
def test_a_wrong_oracle_needs_a_ratio_or_a_price_and_not_both(keys: str) -> None:
    with pytest.raises(RunbookError, match=r"either by .* or price"):
        parse_scenario(still_text(shocks=f"[{{kind: oracle_wrong, market: BTC-USD, {keys} for: 1m}}]"), "x.yaml")


def test_a_wrong_oracle_liquidates_an_account_that_the_market_does_not() -> None:
    shocks = "[{at: 10s, kind: oracle_wrong, market: BTC-USD, by: -30%, for: 1m}]"
    hit, spared = still_world(collateral="20_000 USD", shocks=shocks), still_world(collateral="20_000 USD")
    to(hit, 30 * NS)
    to(spared, 30 * NS)
    assert any(entry.kind in ("liquidated", "deleveraged") for entry in hit.log)
    assert not spared.log


def test_a_feed_with_a_floor_stays_there_while_the_market_falls_through_it() -> None:
    # LUNA, 2022-05-12: minAnswer held the feed at 0.107 while the market was at 0.01.
    oracle = feed(price=0.9, deviation="1%", floor="0.107")
    shown = published(oracle, [0.5, 0.2, 0.107, 0.05, 0.01, 0.01])
    assert shown == [0.5, 0.2, 0.107, 0.107, 0.107, 0.107]
    assert shown[-1] / 0.01 == pytest.approx(10.7)


def test_a_freeze_outweighs_a_wrong_price_and_a_heartbeat() -> None:
    shocks = (
        OracleFreeze(kind="oracle_freeze", market="X", at=2 * NS, lasts=3 * NS),
        OracleWrong(kind="oracle_wrong", market="X", at=2 * NS, lasts=9 * NS, price=7.0),
    )
    assert published(feed(heartbeat="1s"), [100.0, 101.0, 102.0, 103.0, 104.0], shocks) == [100, 100, 100, 100, 7]


def lost(left: int) -> tuple[OracleSources]:
    return (OracleSources(kind="oracle_sources", market="X", at=0, lasts=HOUR_NS, left=left),)


def test_fewer_sources_scatter_the_price_as_a_smaller_median_does() -> None:
    def scatter(left: int) -> float:
        shown = published(feed(kind="dydx", deviation="0%", source_noise="10bps", sources=9), [100.0] * 3000, lost(left))
        return statistics.pstdev(math.log(price / 100.0) for price in shown)

    assert scatter(9) == 0.0
    # A median of n normals has a standard deviation of sqrt(pi / 2 n): what is added is the variance of 3 less that of 9.
    assert scatter(3) == pytest.approx(0.001 * math.sqrt(math.pi / 2 * (1 / 3 - 1 / 9)), rel=0.06)
    assert scatter(4) < scatter(3)


def test_too_few_sources_leave_no_price_and_a_wide_interval() -> None:
    oracle = feed(kind="pyth", sources=20)
    oracle.advance(1, 100.0, lost(5), halted=False)
    assert oracle.conf == pytest.approx(oracle.price * 0.0005 * 2)
    oracle.advance(2, 150.0, lost(2), halted=False)
    assert oracle.price < 101
    assert not oracle.has_index
    assert oracle.conf == math.inf


def test_lost_sources_drag_dydx_funding_to_zero_instead_of_flagging_it() -> None:
    spike = "{at: 1s, kind: funding_spike, market: BTC-USD, to: 0.06%/h, for: 2h}"
    # 40 minutes past the hour at the start; the index price is missing for 10 of the hour's remaining 20 minutes.
    world = still_world(shocks=f"[{spike}, {{at: 10m1s, kind: oracle_sources, market: BTC-USD, left: 0, for: 11m}}]")
    btc = world.markets["BTC-USD"]
    running = to(world, 10 * MINUTE_NS).markets["BTC-USD"].next_rate
    to(world, 19 * MINUTE_NS)
    assert btc.next_rate < running
    assert btc.samples == 59, "zero votes are votes: the samples are taken"
    to(world, 20 * MINUTE_NS + 2 * NS)
    assert btc.settled[-1].rate == pytest.approx(0.0006 * 10 / 60, rel=1e-9)


def test_lost_sources_leave_funding_alone_where_votes_are_not_zero() -> None:
    spike = "{at: 1s, kind: funding_spike, market: BTC-USD, to: 0.06%/h, for: 2h}"
    shocks = f"[{spike}, {{at: 10m1s, kind: oracle_sources, market: BTC-USD, left: 0, for: 11m}}]"
    world = still_world(shocks=shocks, btc=", oracle: {kind: hyperliquid}")
    assert to(world, 20 * MINUTE_NS + 2 * NS).markets["BTC-USD"].settled[-1].rate == pytest.approx(0.0006 * 20 / 60, rel=1e-9)


# --- restart ---------------------------------------------------------------------------------------------------------------------------

HALT = "{at: 1m, kind: venue_halt, for: 8m, stale_for: 2m}, {at: 2m, kind: price_move, market: BTC-USD, by: -10%}"


def test_the_oracle_is_stale_after_a_restart_while_the_book_trades() -> None:
    world = to(still_world(shocks=f"[{HALT}]"), 10 * MINUTE_NS)
    btc = world.markets["BTC-USD"]
    assert not world.halted
    assert btc.oracle == 98_000
    assert float(btc.book()[0][0][0]) == pytest.approx(88_200, rel=2e-4)
    placed = world.place(order(world, limit_price=88_000), {})
    assert not isinstance(placed, Refusal)
    assert placed[0].average_price == pytest.approx(88_200, rel=1e-3), "the book fills ten percent below what margin is computed with"
    assert to(world, 11 * MINUTE_NS).markets["BTC-USD"].oracle == pytest.approx(88_200)


def test_a_stale_oracle_hides_that_an_account_is_to_be_liquidated_until_it_moves() -> None:
    world = still_world(collateral="10_000 USD", shocks=f"[{HALT}]")
    account = account_of(world)
    to(world, 10 * MINUTE_NS + 59 * NS)
    assert not any(entry.kind in ("liquidated", "deleveraged") for entry in world.log)
    before = world.exchange.margins(account)
    assert not margin.is_liquidatable(before.equity, before.maintenance)
    to(world, 11 * MINUTE_NS + 2 * NS)
    assert any(entry.kind in ("liquidated", "deleveraged") for entry in world.log)


def test_without_stale_for_the_oracle_is_back_with_the_first_block() -> None:
    world = still_world(shocks=f"[{HALT.replace(', stale_for: 2m', '')}]")
    assert to(world, 9 * MINUTE_NS).markets["BTC-USD"].oracle == pytest.approx(88_200)


def test_an_unknown_kind_is_told_with_what_was_meant() -> None:
    with pytest.raises(RunbookError, match="'chainlnk-op' is no kind of oracle; did you mean 'chainlink-op'"):
        parse_scenario(still_text(btc=", oracle: {kind: chainlnk-op}"), "x.yaml")
    with pytest.raises(RunbookError, match="unknown key 'hartbeat'; did you mean 'heartbeat'"):
        parse_scenario(still_text(btc=", oracle: {hartbeat: 1m}"), "x.yaml")
