"""dYdX v4 in distress: what a block liquidates, who pays, whose position is taken, and when money may leave."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal

import pytest
from sim_world import START, account_of, order, still_world

from daemon.simulation.bridges import Refusal, TransferRequest
from daemon.simulation.paths import book as fresh_book
from daemon.simulation.subaccount import OrderState
from daemon.simulation.withdrawals import Capacity
from daemon.simulation.world import World
from daemon.units import NS


def at(world: World, second: float) -> World:
    world.advance(START + int(second * NS))
    return world


def placed(world: World, **changes: object) -> OrderState:
    found = world.place(order(world, **changes), {})
    assert not isinstance(found, Refusal), found
    return found[0]


def refused(world: World, **changes: object) -> str:
    found = world.place(order(world, **changes), {})
    assert isinstance(found, Refusal), found
    return found.reason


def withdraw(world: World, amount: int, name: str) -> str:
    """The refusal's reason, or the status."""
    request = TransferRequest(
        client_id=name, route="back", amount=Decimal(amount), expires=world.now_ns + 60 * NS, address="dydx1reefdsim", subaccount=0
    )
    found = world.transfer(request, {})
    return found.reason if isinstance(found, Refusal) else found[0].status


def happenings(world: World, *kinds: str) -> list[dict[str, str]]:
    return [dict(entry.detail) for entry in world.log if entry.kind in kinds]


# -- liquidation ---------------------------------------------------------------------------------------------------------------------------


def test_a_block_takes_a_tenth_of_each_position_and_a_hundred_thousand_of_the_account() -> None:
    positions = "[{market: BTC-USD, size: 9}, {market: ETH-USD, size: -150}]"
    world = at(still_world(collateral="10_000 USD", positions=positions, btc=", depth: 200_000_000 USD"), 1)
    account = account_of(world)
    usd: dict[tuple[int, str], float] = defaultdict(float)
    at(world, 30)
    for fill in account.fills:
        usd[(fill.height, fill.market)] += float(fill.size) * world.markets[fill.market].oracle
    first = min(height for height, _ in usd)
    assert usd[(first, "BTC-USD")] == pytest.approx(88_200, rel=1e-3), "a tenth of 882,000"
    assert usd[(first, "ETH-USD")] == pytest.approx(100_000 - 88_200, rel=1e-2), "the rest of the account's block"
    blocks: dict[int, float] = defaultdict(float)
    for (height, _), amount in usd.items():
        blocks[height] += amount
    assert len(blocks) > 3
    assert max(blocks.values()) <= 100_000


def test_the_insurance_fund_pays_what_a_fill_is_worse_than_bankruptcy() -> None:
    # Equity 300 of 1,176: the order may fill down to 96,687, the account is bankrupt at 97,700; the book bids 97,020.
    shocks = "[{at: 0s, kind: thin_book, market: BTC-USD, to: 100%, spread: 2%, for: 1h}]"
    world = at(still_world(collateral="300 USD", shocks=shocks), 1)
    account, fund = account_of(world), world.exchange.insurance_fund
    fill = account.fills[0]
    assert fill.type == "LIQUIDATED"
    assert fill.price < 97_700
    assert fill.fee == pytest.approx(-float(fill.size) * (97_700 - fill.price))
    assert fund == pytest.approx(5_000_000 + fill.fee)
    share = 1 - float(fill.size)
    assert world.exchange.margins(account).equity == pytest.approx(300 * share), "nobody is charged below bankruptcy"


def test_with_an_empty_fund_the_slice_is_deleveraged_at_the_bankruptcy_price() -> None:
    shocks = "[{at: 0s, kind: thin_book, market: BTC-USD, to: 100%, spread: 2%, for: 1h}]"
    world = at(still_world(collateral="300 USD", shocks=shocks, venue=", insurance_fund: 0 USD"), 1)
    fill = account_of(world).fills[0]
    assert (fill.type, fill.price) == ("DELEVERAGED", pytest.approx(97_700))
    assert world.exchange.insurance_fund == 0
    at(world, 120)
    assert world.exchange.insurance_fund == 0
    assert account_of(world).holdings == {}


def test_an_isolated_market_stands_alone_with_a_fund_of_its_own() -> None:
    isolated = ", isolated: true, insurance_fund: 20 USD"
    shocks = "[{at: 0s, kind: thin_book, market: BTC-USD, to: 100%, spread: 2%, for: 1h}]"
    world = at(still_world(collateral="300 USD", shocks=shocks, btc=isolated), 1)
    assert world.exchange.ledger.insurance[""] == 5_000_000, "the cross fund does not pay for it"
    assert account_of(world).fills[0].type == "DELEVERAGED", "20 USD do not pay for the slice"
    calm = at(still_world(btc=isolated), 1)
    beside = {"market": "ETH-USD", "side": "BUY", "reduce_only": False, "limit_price": Decimal(4200)}
    assert refused(calm, **beside) == "isolated_market"


WHALE = """
  - {subaccount: 1, collateral: 3_000 USD, positions: [{market: BTC-USD, size: -1}]}"""
SURGE = "[{at: 10s, kind: price_move, market: BTC-USD, by: 10%, over: 1s}]"


def test_deleveraging_takes_a_profitable_leg_of_ours_at_the_bankruptcy_price() -> None:
    # The hedged book: 1.5 BTC long, ETH short. A stranger's short is wiped out in one second, and two thirds of the long are gone.
    positions = "[{market: BTC-USD, size: 1.5}, {market: ETH-USD, size: -35}]"
    world = at(still_world(positions=positions, shocks=SURGE, more=WHALE), 12)
    ours, whale = world.exchange.subaccounts.values()
    assert (whale.holdings, whale.quote) == ({}, pytest.approx(0.0, abs=1e-6))
    assert ours.holdings["BTC-USD"].size == Decimal("0.5")
    assert ours.holdings["ETH-USD"].size == Decimal(-35)
    fill = ours.fills[-1]
    assert (fill.type, fill.side, fill.price) == ("OFFSETTING", "SELL", pytest.approx(101_000))
    assert happenings(world, "auto_deleveraged")[0]["subaccount"] == "0"
    equity = world.exchange.margins(ours).equity
    assert equity == pytest.approx(50_000 + 3_000 + 0.5 * 9_800), "6,800 short of what the long had gained"


def test_who_is_deleveraged_is_chance_of_the_seed_and_the_rest_comes_from_the_crowd() -> None:
    longs = "".join(
        f"\n  - {{subaccount: {n}, collateral: 50_000 USD, positions: [{{market: BTC-USD, size: 0.7}}]}}" for n in range(2, 6)
    )
    first: dict[int, list[str]] = {}
    for seed in (1, 2, 3, 4, 5, 6, 1):
        scenario = still_world(positions="[]", shocks=SURGE, more=WHALE + longs).scenario
        world = at(World(scenario, seed=seed, started_ns=START, history_h=2), 12)
        taken = [row["subaccount"] for row in happenings(world, "auto_deleveraged")]
        assert len(taken) == 2, "0.7 of one, 0.3 of the next"
        assert first.setdefault(seed, taken) == taken, "the same seed takes the same"
    assert len({tuple(taken) for taken in first.values()}) > 1
    alone = at(still_world(positions="[]", shocks=SURGE, more=WHALE), 12)
    assert happenings(alone, "deleveraged")[0]["price"] == repr(101_000.0)
    assert alone.exchange.ledger.counterparties.sizes["BTC-USD"] == 0


def test_final_settlement_closes_everybody_at_the_oracle_price_and_cancels_their_orders() -> None:
    shocks = "[{at: 5s, kind: oracle_freeze, market: BTC-USD, for: 1h}, {at: 6s, kind: price_move, market: BTC-USD, by: 4%, over: 1s}, "
    shocks += "{at: 20s, kind: market_status, market: BTC-USD, to: FINAL_SETTLEMENT, for: 1h}]"
    orders = "[{market: BTC-USD, side: BUY, size: 0.1, price: 90_000}]"
    world = at(still_world(positions="[{market: BTC-USD, size: 1, entry_price: 97_000}]", orders=orders, shocks=shocks), 20)
    account = account_of(world)
    assert account.holdings == {}
    assert account.quote == pytest.approx(50_000 + 1_000), "at 98,000, not at the 102,000 of the book"
    assert account.fills[-1].type == "DELEVERAGED"
    assert [order.reason for order in account.orders.values()] == ["final_settlement"]
    assert refused(world, client_id=9) == "market_status"


# -- money that may leave ------------------------------------------------------------------------------------------------------------------


def test_withdrawals_are_shut_for_fifty_blocks_after_a_negative_account() -> None:
    world = at(still_world(shocks=SURGE, more=WHALE), 11)
    gone = next(entry for entry in world.log if entry.kind == "deleveraged")
    seconds = (gone.at - START) // NS
    at(world, seconds + 49)
    assert withdraw(world, 100, "early") == "withdrawals_gated"
    at(world, seconds + 50)
    assert withdraw(world, 100, "late") == "DEBITED"


@pytest.mark.parametrize(("stood", "shut"), [(299, False), (300, True)])
def test_withdrawals_are_shut_for_fifty_blocks_after_five_minutes_without_one(stood: int, shut: bool) -> None:
    world = at(still_world(shocks=f"[{{at: 10s, kind: venue_halt, for: {stood}s}}]"), 10 + stood + 1)
    assert (withdraw(world, 100, "first") == "withdrawals_gated") is shut
    at(world, 10 + stood + 52)
    assert withdraw(world, 100, "second") == "DEBITED"


def test_withdrawals_drain_a_capacity_that_fills_up_within_the_hour() -> None:
    world = at(still_world(collateral="3_000_000 USD", positions="[]"), 1)
    assert withdraw(world, 1_000_001, "too much") == "capacity"
    assert withdraw(world, 800_000, "a") == "DEBITED"
    assert world.exchange.withdrawal_capacity() == 200_000
    assert withdraw(world, 200_001, "b") == "capacity"
    at(world, 1 + 1800)
    assert world.exchange.withdrawal_capacity() == pytest.approx(200_000 + 500_000)
    at(world, 1 + 3600)
    assert world.exchange.withdrawal_capacity() == 1_000_000


def test_a_large_venue_lets_more_out_and_the_day_bounds_what_the_hours_add_up_to() -> None:
    capacity = Capacity(hourly_minimum=1e6, locked_usd=500e6)
    assert capacity.left == 5e6
    taken = 0.0
    for _ in range(12 * 3600):
        taken += (amount := capacity.left)
        capacity.take(amount)
        capacity.second()
    # Twelve hours refill 5 M each, and 50 M a day: what the day had (50 M) and half of what it regains.
    assert taken == pytest.approx(5e6 + 12 * 5e6, rel=0.01)
    for _ in range(12 * 3600):
        taken += (amount := capacity.left)
        capacity.take(amount)
        capacity.second()
    assert taken == pytest.approx(50e6 + 50e6, rel=0.01)


def test_a_deposit_gives_capacity_back_and_what_is_above_the_baseline_fades() -> None:
    capacity = Capacity(hourly_minimum=1e6, locked_usd=0.0)
    capacity.give(5e6)
    assert capacity.left == 6e6
    capacity.second()
    assert capacity.left == pytest.approx(6e6 - 5e6 / 3600)
    for _ in range(3600 * 6):
        capacity.second()
    assert capacity.left == 1e6


def test_what_free_collateral_promises_is_refused_where_open_interest_raises_the_margin() -> None:
    caps = ", open_interest: 800, oi_lower_cap: 60_000_000, oi_upper_cap: 100_000_000"
    world = at(still_world(btc=caps), 1)
    margins = world.exchange.margins(account_of(world))
    published = int(margins.equity - margins.initial_published)
    assert published == 48_040
    assert withdraw(world, published, "as shown") == "margin"
    assert withdraw(world, int(margins.equity - margins.initial), "as decided") == "DEBITED"


# -- orders --------------------------------------------------------------------------------------------------------------------------------


def test_a_client_id_stands_for_its_order_for_twenty_blocks_however_long_it_is_good_for() -> None:
    world = at(still_world(shocks="[{at: 15s, kind: venue_halt, for: 60s}]"), 1)
    forever = world.now_ns + 3600 * NS
    first = placed(world, good_til=forever)
    at(world, 14)
    assert placed(world, good_til=forever) is first
    at(world, 1 + 20 + 60)
    assert world.height == first.height + 20, "the halt's minute had no blocks"
    assert placed(world, good_til=forever) is first
    at(world, 1 + 21 + 60)
    assert placed(world, good_til=forever) is not first
    assert account_of(world).holdings["BTC-USD"].size == Decimal("0.8"), "it filled again"


def test_what_an_order_takes_comes_back_by_half_lives() -> None:
    world = at(still_world(positions="[{market: BTC-USD, size: 10}]", collateral="500_000 USD", btc=", recovery: 10s"), 1)
    market = world.markets["BTC-USD"]
    done = placed(world, size=Decimal(5), limit_price=Decimal(90_000))
    assert done.filled == 5

    def missing() -> float:
        bids, asks = fresh_book(market.spec, market.jitter, market.second, market.traded, 1.0, market.spec.spread)
        left_bids, left_asks = market.book()
        assert left_asks == asks, "the other side is untouched"
        return float(sum(size for _, size in bids) - sum(size for _, size in left_bids))

    assert missing() == pytest.approx(5.0)
    at(world, 11)
    assert missing() == pytest.approx(2.5, abs=1e-4)
    at(world, 21)
    assert missing() == pytest.approx(1.25, abs=1e-4)
    worse = placed(world, client_id=2, size=Decimal("0.5"), limit_price=Decimal(90_000))
    untouched = placed(at(still_world(positions="[{market: BTC-USD, size: 10}]", collateral="500_000 USD"), 21), size=Decimal("0.5"))
    assert worse.average_price is not None
    assert untouched.average_price is not None
    assert worse.average_price < untouched.average_price, "the price still feels the first order"
    at(world, 1000)
    assert not market.is_touched


def test_without_recovery_time_the_next_second_has_a_whole_book() -> None:
    world = at(still_world(positions="[{market: BTC-USD, size: 10}]", collateral="500_000 USD", btc=", recovery: 0s"), 1)
    placed(world, size=Decimal(5), limit_price=Decimal(90_000))
    at(world, 2)
    assert not world.markets["BTC-USD"].is_touched


def test_a_resting_order_fills_in_parts_as_far_as_the_market_comes_through_it() -> None:
    thin = ", depth: 20_000 USD, levels: 3, recovery: 30s"
    world = at(still_world(positions="[]", btc=thin, shocks="[{at: 30s, kind: price_move, market: BTC-USD, by: -2%}]"), 1)
    resting = {"side": "BUY", "reduce_only": False, "time_in_force": "GTT", "size": Decimal("0.2")}
    waiting = placed(world, limit_price=Decimal(97_000), good_til=START + 900 * NS, **resting)
    at(world, 31)
    assert waiting.status == "OPEN"
    assert 0 < waiting.filled < Decimal("0.2")
    at(world, 300)
    assert (waiting.status, waiting.average_price) == ("FILLED", pytest.approx(97_000))


def test_a_late_order_is_open_first_and_meets_the_book_of_its_moment() -> None:
    shocks = "[{at: 11s, kind: price_move, market: BTC-USD, by: -1%, over: 1s}, "
    shocks += "{at: 31s, kind: price_move, market: BTC-USD, by: -9%, over: 1s}]"
    world = at(still_world(venue=", matching_delay: 2s", shocks=shocks), 10)
    sent = placed(world, limit_price=Decimal(90_000))
    assert (sent.status, sent.filled) == ("OPEN", 0)
    at(world, 11)
    assert sent.status == "OPEN"
    at(world, 12)
    assert sent.status == "FILLED"
    assert sent.average_price == pytest.approx(97_020, rel=1e-3)
    at(world, 30)
    late = placed(world, client_id=2, limit_price=Decimal(97_000))
    at(world, 33)
    assert (late.status, late.filled, late.reason) == ("CANCELED", 0, "limit_price")
    brief = placed(world, client_id=3, limit_price=Decimal(80_000), good_til=world.now_ns + NS)
    at(world, 36)
    assert (brief.status, brief.reason) == ("CANCELED", "expired")


def test_a_late_reduce_only_order_shrinks_with_the_position_and_never_flips_it() -> None:
    world = at(still_world(venue=", matching_delay: 3s", positions="[{market: BTC-USD, size: 0.3}]"), 1)
    both = [placed(world, client_id=n, size=Decimal("0.2")) for n in (1, 2)]
    third = placed(world, client_id=3, size=Decimal("0.2"))
    at(world, 5)
    assert [order.filled for order in both] == [Decimal("0.2"), Decimal("0.1")]
    assert (third.status, third.filled, third.reason) == ("CANCELED", 0, "reduce_only_would_increase")
    assert account_of(world).holdings == {}


def test_rejected_orders_did_nothing_and_a_share_of_them_is_chance_of_the_seed() -> None:
    world = at(still_world(shocks="[{at: 5s, kind: order_reject, market: all, probability: 50%, for: 1h}]"), 10)
    outcomes = [world.place(order(world, client_id=n, size=Decimal("0.001")), {}) for n in range(60)]
    rejected = [found for found in outcomes if isinstance(found, Refusal)]
    assert {found.reason for found in rejected} == {"congested"}
    assert 15 < len(rejected) < 45
    left = Decimal(1) - Decimal("0.001") * (60 - len(rejected))
    assert account_of(world).holdings["BTC-USD"].size == left
