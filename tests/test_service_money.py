"""Accounts, cash and plans: the published margin vectors, worst first, and unknown where it is unknown."""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal

import pytest
from engine_world import ACCOUNT, T0, TOPOLOGY, World, runbook

from daemon.engine.actions import Outcome
from daemon.engine.records import Leg
from daemon.service.money import Hedges, account, accounts, cash, outlook, outlook_after
from daemon.units import NS
from daemon.world.entities import Account, Kind, Topology, Venue

BTC, ETH = "dydx:BTC-USD", "dydx:ETH-USD"
# Vector D1: 150,000 USDC, +3 BTC at 98,000 and -100 ETH at 4,100, both 2 % / 1.2 %.
D1: Mapping[tuple[Kind, str, str], float] = {
    (Kind.MARKET, BTC, "oracle_price"): 98_000.0, (Kind.MARKET, BTC, "imf"): 0.02, (Kind.MARKET, BTC, "mmf"): 0.012,
    (Kind.MARKET, ETH, "oracle_price"): 4_100.0, (Kind.MARKET, ETH, "imf"): 0.02, (Kind.MARKET, ETH, "mmf"): 0.012,
    (Kind.MARKET, ETH, "bid_price"): 4_100.0, (Kind.MARKET, ETH, "ask_price"): 4_100.0,
    (Kind.MARKET, BTC, "bid_price"): 98_000.0, (Kind.MARKET, BTC, "ask_price"): 98_000.0,
    (Kind.POSITION, BTC, "size"): 3.0, (Kind.POSITION, BTC, "entry_price"): 98_000.0,
    (Kind.POSITION, ETH, "size"): -100.0, (Kind.POSITION, ETH, "entry_price"): 4_100.0,
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 34_000.0,  # 150,000 + 3 x 98,000 - 100 x 4,100: cash with PnL measured from these entries
    (Kind.VENUE, "dydx", "taker_fee"): 0.0, (Kind.VENUE, "dydx", "block_age"): 1.0,
}  # fmt: skip
TELL = "- id: tell\n  notify: {to: [desk], text: x}"


def world(readings: Mapping[tuple[Kind, str, str], float] = D1, *texts: str, topology: Topology = TOPOLOGY) -> World:
    made = World(*(texts or (runbook(TELL),)), topology=topology)
    made.readings = dict(readings)
    made.until(5)
    return made


def test_an_account_has_the_figures_of_vector_d1() -> None:
    made = world()
    (view,) = accounts(made.engine, made.now)
    assert (view.equity_usd, view.free_collateral_usd, view.flat, view.age_s) == (34_000.0, 19_920.0, False, 0.0)
    assert view.margin_ratio == pytest.approx(0.248470588235294, rel=1e-12)
    assert view.margin_ratio_at_mid == pytest.approx(0.248470588235294, rel=1e-12)
    assert view.margin_ratio_at_reference is None  # one venue has no others' median
    assert view.leverage == pytest.approx(20.705882352941, rel=1e-12)
    assert view.net_delta_usd == -116_000.0
    assert [(p.id, p.size) for p in view.positions] == [(ETH, "-100"), (BTC, "3")]  # the larger first
    assert view.positions[0].liquidation_price == pytest.approx(4_352.490118577, rel=1e-12)
    assert view.positions[1].liquidation_price == pytest.approx(89_379.217273954, rel=1e-12)
    # No runbook follows volatility here, so nobody can say how long it lasts.
    assert view.time_to_liquidation_s is None


def test_the_survivable_move_of_d1_is_where_the_margin_is_used_up() -> None:
    made = world()
    move = accounts(made.engine, made.now)[0].survivable_move
    assert move is not None
    # Short by 116,000: prices up by m. 34,000 - 116,000 m = 8,448 (1 + m).
    assert move == pytest.approx(25_552.0 / 124_448.0, rel=1e-12)
    assert 34_000.0 - 116_000.0 * move == pytest.approx(8_448.0 * (1.0 + move), rel=1e-12)


def test_after_half_of_the_short_is_closed_for_nothing() -> None:
    made = world()
    plan = outlook_after(made.engine, ACCOUNT, [Leg(position=ETH, side="BUY", size=Decimal(50))], at=made.now)
    assert plan.before.margin_ratio == pytest.approx(8_448.0 / 34_000.0, rel=1e-12)
    # 3 x 98,000 x 1.2 % + 50 x 4,100 x 1.2 % = 5,988 of 34,000; net 294,000 - 205,000.
    assert plan.after.margin_ratio == pytest.approx(5_988.0 / 34_000.0, rel=1e-12)
    assert plan.after.net_delta_usd == pytest.approx(89_000.0, rel=1e-12)
    assert plan.after.survivable_move == pytest.approx(28_012.0 / (89_000.0 - 5_988.0), rel=1e-12)
    assert plan.cost_usd == 0.0


def test_a_plan_costs_fee_half_the_spread_and_the_way_into_the_book() -> None:
    readings = dict(D1) | {
        (Kind.VENUE, "dydx", "taker_fee"): 0.0005, (Kind.MARKET, ETH, "bid_price"): 4_097.95, (Kind.MARKET, ETH, "ask_price"): 4_102.05,
        (Kind.MARKET, ETH, "ask_depth"): 410_000.0,
    }  # fmt: skip
    made = world(readings)
    plan = outlook_after(made.engine, ACCOUNT, [Leg(position=ETH, side="BUY", size=Decimal(50))], at=made.now)
    # 205,000 x (5 bps + half of 10 bps + 25 bps x 205,000 / 410,000)
    cost = 205_000.0 * (0.0005 + 0.0005 + 0.00125)
    assert plan.cost_usd == pytest.approx(cost, rel=1e-9)
    assert plan.after.margin_ratio == pytest.approx(5_988.0 / (34_000.0 - cost), rel=1e-9)


def test_a_plan_that_takes_more_than_the_book_has_costs_more_and_one_whose_depth_is_lost_costs_nobody_knows_what() -> None:
    readings = dict(D1) | {
        (Kind.VENUE, "dydx", "taker_fee"): 0.0005, (Kind.MARKET, ETH, "bid_price"): 4_097.95, (Kind.MARKET, ETH, "ask_price"): 4_102.05,
        (Kind.MARKET, ETH, "ask_depth"): 20_500.0,
    }  # fmt: skip
    made = world(readings)
    leg = Leg(position=ETH, side="BUY", size=Decimal(50))
    # 205,000 x (5 bps + half of 10 bps + 25 bps x 205,000 / 20,500): ten times the depth
    assert outlook_after(made.engine, ACCOUNT, [leg], at=made.now).cost_usd == pytest.approx(205_000.0 * (0.001 + 0.025), rel=1e-9)
    made.readings[Kind.MARKET, ETH, "ask_depth"] = math.nan
    made.until(30)
    lost = outlook_after(made.engine, ACCOUNT, [leg], at=made.now)
    assert lost.cost_usd is None
    assert lost.after.margin_ratio is None


def test_closing_everything_leaves_an_infinite_move() -> None:
    made = world()
    legs = [Leg(position=ETH, side="BUY", size=Decimal(100)), Leg(position=BTC, side="SELL", size=Decimal(3))]
    after = outlook_after(made.engine, ACCOUNT, legs, at=made.now).after
    assert (after.margin_ratio, after.survivable_move, after.net_delta_usd) == (0.0, math.inf, 0.0)


def test_a_top_up_and_money_that_leaves_change_equity_alone() -> None:
    made = world()
    received = outlook_after(made.engine, ACCOUNT, moved_usd=10_000.0, fee_usd=10.0, at=made.now)
    assert received.after.margin_ratio == pytest.approx(8_448.0 / 43_990.0, rel=1e-12)
    assert (received.cost_usd, received.after.net_delta_usd) == (10.0, -116_000.0)
    given = outlook_after(made.engine, ACCOUNT, moved_usd=-10_000.0, fee_usd=10.0, at=made.now)
    assert given.after.margin_ratio == pytest.approx(8_448.0 / 24_000.0, rel=1e-12)


@pytest.mark.parametrize(
    ("kind", "entity", "signal"), [(Kind.MARKET, BTC, "mmf"), (Kind.MARKET, ETH, "oracle_price"), (Kind.ACCOUNT, ACCOUNT, "collateral")]
)
def test_what_lacks_a_reading_is_unknown_before_and_after(kind: Kind, entity: str, signal: str) -> None:
    made = world({key: value for key, value in D1.items() if key != (kind, entity, signal)})
    view = accounts(made.engine, made.now)[0]
    assert view.margin_ratio is None
    assert not view.flat
    plan = outlook_after(made.engine, ACCOUNT, [Leg(position=ETH, side="BUY", size=Decimal(50))], at=made.now)
    assert (plan.before.margin_ratio, plan.after.margin_ratio) == (None, None)


def test_what_is_stale_is_unknown() -> None:
    made = world()
    view = accounts(made.engine, made.now + 3_600 * NS)[0]
    assert (view.margin_ratio, view.equity_usd, view.flat, view.age_s) == (None, None, False, 3_600.0)


def test_an_account_that_was_never_read_is_not_flat_but_unknown() -> None:
    made = world({(Kind.VENUE, "dydx", "block_age"): 1.0})
    view = accounts(made.engine, made.now)[0]
    assert (view.flat, view.margin_ratio, view.age_s, view.time_to_liquidation_s) == (False, None, None, None)


def test_a_flat_account_says_so() -> None:
    made = world({(Kind.ACCOUNT, ACCOUNT, "collateral"): 100.0})
    view = accounts(made.engine, made.now)[0]
    assert (view.flat, view.margin_ratio, view.survivable_move, view.time_to_liquidation_s) == (True, 0.0, math.inf, math.inf)


def test_time_to_liquidation_is_there_where_a_runbook_moves_buffers() -> None:
    text = runbook("- id: move\n  move_buffer: {from: ethereum, amount: 10 USD}", scope="account", when="margin_ratio > 99%")
    made = world(D1, text)
    for step in range(1, 200):
        made.readings[Kind.MARKET, BTC, "oracle_price"] = 98_000.0 * (1 + 0.0005 * (step % 3))
        made.readings[Kind.MARKET, ETH, "oracle_price"] = 4_100.0 * (1 + 0.0005 * (step % 2))
        made.until(5 + 600 * step, every=600)
    view = accounts(made.engine, made.now)[0]
    assert view.time_to_liquidation_s is not None
    assert 0 < view.time_to_liquidation_s < math.inf


def test_the_worst_account_comes_first_and_unknown_is_worse_than_known() -> None:
    topology = Topology(
        venues={"v": Venue(id="v", valued_at=("oracle_price",))},
        accounts={n: Account(id=n, venue="v") for n in ("calm", "dark", "flat", "hot")},
    )
    readings: dict[tuple[Kind, str, str], float] = {(Kind.MARKET, "v:X-USD", "oracle_price"): 100.0, (Kind.MARKET, "v:X-USD", "mmf"): 0.05}
    for name, cash_usd in (("calm", 1_000.0), ("hot", 60.0), ("flat", 5.0)):
        readings[Kind.ACCOUNT, name, "collateral"] = cash_usd
        if name != "flat":
            readings |= {(Kind.POSITION, f"{name}:X-USD", "size"): 10.0, (Kind.POSITION, f"{name}:X-USD", "entry_price"): 100.0}
    made = world(readings, topology=topology)
    assert [view.id for view in accounts(made.engine, made.now)] == ["dark", "hot", "calm", "flat"]


def test_an_account_nobody_knows_is_not_made() -> None:
    made = world()
    view = account(made.engine.look(made.now), "nobody", ())
    assert (view.margin_ratio, view.positions) == (None, ())
    assert not made.engine.hot.knows(Kind.ACCOUNT, "nobody")


def test_outlook_of_unknown_sums_is_unknown() -> None:
    assert outlook(math.nan, 1.0, 1.0).margin_ratio is None
    assert outlook(1.0, math.nan, 1.0).survivable_move is None
    assert outlook(100.0, 10.0, math.nan).survivable_move is None


# --- cash and hedges -----------------------------------------------------------------------------------------------------


def test_a_buffer_counts_once_by_the_slow_time_and_room_of_its_routes() -> None:
    made = world({(Kind.CHAIN, "ethereum", "buffer_balance"): 150_000.0})
    found = cash(made.engine, made.now)
    # `fast` takes 100,000 USD within 2 m (twice its 60 s), `cctp` the rest within 20 m.
    assert (found.within_5m, found.within_30m, found.later) == (100_000.0, 50_000.0, 0.0)
    assert found.lines == ("ethereum: 150,000 USD, 100,000 USD over fast within 2m; 50,000 USD over cctp within 20m",)


def test_closed_routes_and_unknown_balances_reach_nothing() -> None:
    made = world(
        {
            (Kind.CHAIN, "ethereum", "buffer_balance"): 1_000.0,
            (Kind.ROUTE, "fast", "route_open"): 0.0,
            (Kind.ROUTE, "cctp", "route_open"): 0.0,
        }
    )
    found = cash(made.engine, made.now)
    assert (found.within_5m, found.within_30m, found.later) == (0.0, 0.0, 1_000.0)
    stale = cash(made.engine, made.now + 3_600 * NS)
    assert (stale.later, stale.lines) == (0.0, ("ethereum: its balance is unknown, last seen 2023-11-14T22:13:25Z",))
    assert cash(world().engine, T0).lines == ("ethereum: its balance was never seen",)


def test_money_on_its_way_is_told_and_stuck_once_overdue() -> None:
    steps = "- id: move\n  move_buffer: {from: ethereum, amount: 1000 USD, route: cctp}"
    readings = dict(D1) | {(Kind.CHAIN, "ethereum", "buffer_balance"): 5_000.0}
    made = World(runbook(steps, scope="account", when="margin_ratio > 1%"), answer=lambda action: Outcome(status="done"))
    made.readings = readings
    made.until(10)
    found = cash(made.engine, made.now)
    assert (found.in_flight, found.stuck) == (1_000.0, 0.0)
    assert "1,000 USD from ethereum to dydx over cctp: sent 2023-11-14T22:13:20Z (10s ago)" in found.lines
    made.until(3_000, every=60)
    found = cash(made.engine, made.now)
    assert (found.in_flight, found.stuck) == (0.0, 1_000.0)
    assert any("OVERDUE" in line for line in found.lines)


def test_a_leg_that_is_gone_is_a_broken_hedge() -> None:
    readings = {key: value for key, value in D1.items() if key[1] != BTC} | {
        (Kind.POSITION, "other:ETH-USD", "size"): 99.0, (Kind.MARKET, "other:ETH-USD", "oracle_price"): 4_100.0,
    }  # fmt: skip
    made = world(readings)
    hedges = Hedges()
    assert hedges.look(made.engine, made.now) == ()
    made.readings[Kind.POSITION, "other:ETH-USD", "size"] = 0.0
    made.until(10)
    (broken,) = hedges.look(made.engine, made.now)
    assert (broken.asset, broken.net_delta_usd) == ("ETH", -410_000.0)
    assert broken.text == "ETH was hedged to 0.5025% until 2023-11-14T22:13:25Z; now net -410,000 USD of 410,000 USD gross"
    made.readings[Kind.POSITION, ETH, "size"] = 0.0
    made.until(15)
    assert hedges.look(made.engine, made.now) == ()  # flat: nothing is hedged and nothing has to be
    assert hedges.look(made.engine, made.now + 3_600 * NS) == ()  # also once nobody reads the closed position any more


def test_a_naked_position_is_no_broken_hedge_and_a_foreign_change_is_told() -> None:
    steps = "- id: shrink\n  shrink_position: {by: 25%, slices: 2, every: 60s}"
    made = World(runbook(steps))
    made.until(5, funding_rate=0.001)
    assert Hedges().look(made.engine, made.now) == ()
    made.until(10, size=3.0)
    (told,) = Hedges().look(made.engine, made.now)
    assert told.asset == "ETH"
    assert told.text.startswith("external change: size of dydx:ETH-USD went from")
