"""The simulated exchange by Hyperliquid's rules: mark price, tiers, withdrawals, the three ways of liquidation, funding."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from sim_world import START, account_of, hyperliquid_world, order

from daemon.errors import RunbookError
from daemon.simulation.bridges import Refusal, TransferRequest
from daemon.simulation.scenario import parse_scenario
from daemon.simulation.subaccount import OrderState
from daemon.simulation.world import World
from daemon.units import NS

H2 = "[{market: BTC, size: 0.5}, {market: ETH, size: -5}]"


def at(world: World, second: int) -> World:
    world.advance(START + second * NS)
    return world


def placed(world: World, **changes: object) -> OrderState:
    found = world.place(order(world, **({"market": "BTC", "limit_price": Decimal(99_000)} | changes)), {})
    assert not isinstance(found, Refusal), found
    return found[0]


def withdraw(world: World, amount: int, name: str) -> object:
    request = TransferRequest(
        client_id=name, route="out", amount=Decimal(amount), expires=world.now_ns + 60 * NS, address="dydx1reefdsim", subaccount=0
    )
    return world.transfer(request, {})


def kinds(world: World) -> list[str]:
    return [entry.kind for entry in world.log]


def test_an_account_is_margined_as_in_vector_h2() -> None:
    world = at(hyperliquid_world(positions=H2), 1)
    margins = world.exchange.margins(account_of(world))
    assert (margins.equity, margins.maintenance, margins.notional) == (10_000, 1025, 70_000)
    assert margins.initial == 100_000 * 0.5 / 40 + 5 * 4000 / 25


def test_initial_margin_follows_the_leverage_that_the_owner_set_up_to_the_tiers_most() -> None:
    world = at(hyperliquid_world(positions=H2 + "\n    leverage: {BTC: 10, ETH: 50}"), 1)
    assert world.exchange.margins(account_of(world)).initial == 5_000 + 800


def test_a_large_position_is_maintained_by_the_tier_it_reaches() -> None:
    world = at(hyperliquid_world(collateral="50_000_000 USD", positions="[{market: BTC, size: 2_000}]"), 1)
    # 200 M USD: the first 150 M at 1.25 %, the rest at 2.5 %.
    assert world.exchange.margins(account_of(world)).maintenance == pytest.approx(150e6 * 0.0125 + 50e6 * 0.025)


def test_a_withdrawal_must_leave_a_tenth_of_the_notional() -> None:
    world = at(hyperliquid_world(positions=H2), 1)
    too_much = withdraw(world, 3_001, "a")
    assert isinstance(too_much, Refusal)
    assert too_much.reason == "margin"
    assert not isinstance(withdraw(world, 3_000, "b"), Refusal)
    assert account_of(world).quote == pytest.approx(10_000 - 50_000 + 20_000 - 3_000)


def test_margin_follows_the_mark_while_the_oracle_is_frozen() -> None:
    shocks = "[{at: 5s, kind: oracle_freeze, market: BTC, for: 1h}, {at: 10s, kind: price_move, market: BTC, by: -5%, over: 1s}]"
    world = at(hyperliquid_world(positions=H2, shocks=shocks), 20)
    btc = world.markets["BTC"]
    assert (btc.oracle, btc.mark) == (100_000, pytest.approx(95_000))
    assert world.exchange.margins(account_of(world)).equity == pytest.approx(7_500)


@pytest.mark.parametrize(("elsewhere", "marked"), [("true", 100_000 * (2 - math.exp(-152.5 / 150))), ("false", 200_000.0)])
def test_the_venues_own_book_takes_the_mark_along_slowly_and_at_once_where_no_perp_trades_elsewhere(
    elsewhere: str, marked: float
) -> None:
    # As with XPL on 2025-08-26: the book runs away from a market that stands everywhere else. With perps elsewhere the mark is the
    # oracle price and the 150 s average of the book's distance from it; without them the book and its own average outvote that.
    shocks = "[{at: 10s, kind: book_move, market: BTC, by: 100%, over: 5s, for: 30m}]"
    world = at(hyperliquid_world(shocks=shocks, btc=f", perps_elsewhere: {elsewhere}"), 15 + 150)
    btc = world.markets["BTC"]
    assert (btc.oracle, btc.traded) == (100_000, pytest.approx(200_000))
    assert btc.mark == pytest.approx(marked, rel=0.01)
    assert btc.book()[0][0][0] == pytest.approx(Decimal(200_000), rel=Decimal("0.001"))


def test_a_large_position_loses_a_fifth_then_waits_thirty_seconds_then_goes_whole() -> None:
    # 150,000 USD of notional need 1,875; worth 1,400 it is above 2/3 of that, and still short of 1,500 after the first cut.
    world = at(hyperliquid_world(collateral="1_400 USD", positions="[{market: BTC, size: 1.5}]", btc=", depth: 50_000_000 USD"), 1)
    account = account_of(world)
    assert [fill.size for fill in account.fills] == [Decimal("0.3")]
    assert account.fills[0].fee == 0, "there is no clearance fee"
    at(world, 30)
    assert account.holdings["BTC"].size == Decimal("1.2")
    at(world, 31)
    assert account.holdings == {}
    assert account.closed[-1].status == "LIQUIDATED"
    assert 0 < account.quote < 1_400, "what is left stays with the trader"
    assert kinds(world) == ["liquidated", "liquidated"]


def test_a_small_position_goes_whole_at_once() -> None:
    world = at(hyperliquid_world(collateral="900 USD", positions="[{market: BTC, size: 0.9}]"), 1)
    assert account_of(world).holdings == {}
    assert world.exchange.liquidations == 1


def test_a_liquidation_is_not_filled_at_a_price_that_would_leave_a_debt() -> None:
    # The book bids 97,000: selling 0.9 there would cost 2,700 of 900. So the account waits for the book, or for the backstop.
    shocks = "[{at: 0s, kind: thin_book, market: BTC, to: 100%, spread: 6%, for: 1h}, {at: 60s, kind: price_move, market: BTC, by: -0.3%}]"
    world = at(hyperliquid_world(collateral="900 USD", positions="[{market: BTC, size: 0.9}]", shocks=shocks), 59)
    account = account_of(world)
    assert (len(account.fills), account.holdings["BTC"].size) == (0, Decimal("0.9"))
    at(world, 62)
    assert kinds(world) == ["backstop"]


def test_a_cut_that_covers_the_account_leaves_the_rest_alone() -> None:
    world = at(hyperliquid_world(collateral="1_800 USD", positions="[{market: BTC, size: 1.5}]", btc=", depth: 50_000_000 USD"), 300)
    account = account_of(world)
    assert account.holdings["BTC"].size == Decimal("1.2")
    assert account.cut_at is None, "the next trouble starts with a fifth again"


def test_below_two_thirds_of_maintenance_the_vault_takes_every_position_and_gives_nothing_back() -> None:
    shocks = "[{at: 10s, kind: price_move, market: BTC, by: -1.9%, over: 1s}]"
    positions = "[{market: BTC, size: 0.5}, {market: ETH, size: -5, entry_price: 4_050}]"
    world = at(hyperliquid_world(collateral="1_300 USD", positions=positions, shocks=shocks), 12)
    account, vault = account_of(world), world.exchange.ledger.vault
    assert (account.holdings, account.quote) == ({}, 0.0), "the profitable short is gone too"
    assert vault.sizes == {"BTC": Decimal("0.5"), "ETH": Decimal(-5)}
    prices = {market: state.mark for market, state in world.markets.items()}
    assert vault.value(prices) == pytest.approx(1_300 + 250 - 950)
    assert kinds(world) == ["backstop", "backstop"]


RIVALS = """
  - {subaccount: 1, collateral: 60_000 USD, positions: [{market: BTC, size: -0.4}]}
  - {subaccount: 2, collateral: 20_000 USD, positions: [{market: BTC, size: -0.4}]}
  - {subaccount: 3, collateral: 20_000 USD, positions: [{market: BTC, size: 0.4}]}"""


def test_below_zero_the_most_profitable_and_leveraged_opposite_positions_are_taken_at_the_previous_mark() -> None:
    shocks = "[{at: 10s, kind: price_move, market: BTC, by: -11%, over: 1s}]"
    world = at(hyperliquid_world(collateral="5_000 USD", positions="[{market: BTC, size: 0.5}]", shocks=shocks, more=RIVALS), 12)
    accounts = list(world.exchange.subaccounts.values())
    assert accounts[0].holdings == {}
    assert accounts[0].quote == pytest.approx(5_000), "closed at the mark before the fall: no debt"
    assert "BTC" not in accounts[2].holdings, "the same gain on a third of the money comes first"
    assert accounts[1].holdings["BTC"].size == Decimal("-0.3")
    assert accounts[3].holdings["BTC"].size == Decimal("0.4"), "the same side is not asked"
    assert [(fill.type, fill.price) for fill in accounts[2].fills] == [("OFFSETTING", 100_000.0)]
    assert kinds(world) == ["deleveraged", "auto_deleveraged", "auto_deleveraged"]


def test_a_quiet_hour_prints_the_floor_and_a_hot_one_the_cap_on_the_oracles_notional() -> None:
    shocks = "[{at: 1200s, kind: oracle_freeze, market: BTC, for: 3h}, {at: 1250s, kind: price_move, market: BTC, by: 5%}, "
    shocks += "{at: 1180s, kind: funding_spike, market: ETH, to: 10%/h, for: 65m}]"
    world = hyperliquid_world(collateral="100_000 USD", positions=H2, shocks=shocks)
    at(world, 1202)  # 03:00, with some minutes of quiet before it
    assert world.markets["BTC"].settled[-1].rate == 0.0000125
    at(world, 1202 + 3600)
    btc, eth = world.markets["BTC"], world.markets["ETH"]
    assert (btc.settled[-1].rate, eth.settled[-1].rate) == (0.0000125, 0.04)
    assert btc.mark == pytest.approx(105_000)
    paid = {payment.market: payment.payment for payment in list(account_of(world).payments)[-2:]}
    assert paid == {"BTC": pytest.approx(-0.5 * 100_000 * 0.0000125), "ETH": pytest.approx(5 * 4000 * 0.04)}


def test_an_hour_with_a_halt_is_not_padded_with_zeros() -> None:
    shocks = "[{at: 0s, kind: funding_spike, market: BTC, to: 1%/h, for: 3h}, {at: 1801s, kind: venue_halt, for: 40m}]"
    world = at(hyperliquid_world(shocks=shocks), 1202 + 3600)
    assert world.markets["BTC"].settled[-1].rate == pytest.approx((0.08 - 0.0005) / 8)


def test_reducing_needs_no_margin_and_may_rest_and_opening_needs_initial_margin() -> None:
    world = at(hyperliquid_world(collateral="2_000 USD", positions="[{market: BTC, size: 1}]"), 1)
    assert world.exchange.margins(account_of(world)).initial == 2_500
    assert placed(world).status == "FILLED"
    more = placed(world, client_id=2, side="BUY", reduce_only=False, size=Decimal("0.5"), limit_price=Decimal(101_000))
    assert (more.filled, more.reason) == (Decimal(0), "margin")
    resting = placed(world, client_id=3, time_in_force="GTT", limit_price=Decimal(101_000), good_til=START + 900 * NS)
    assert resting.status == "OPEN"
    up = world.place(order(world, client_id=4, market="BTC", side="BUY", limit_price=Decimal(101_000)), {})
    assert isinstance(up, Refusal)
    assert up.message == "Reduce only order would increase position."


def test_a_resting_reduce_only_order_ends_with_the_position() -> None:
    shocks = "[{at: 60s, kind: price_move, market: BTC, by: 2%}]"
    world = at(hyperliquid_world(positions="[{market: BTC, size: 0.1}]", shocks=shocks), 1)
    resting = placed(world, client_id=3, time_in_force="GTT", limit_price=Decimal(101_000), good_til=START + 900 * NS)
    placed(world, client_id=4, size=Decimal("0.06"))
    at(world, 70)
    assert (resting.status, resting.filled, account_of(world).holdings) == ("CANCELED", Decimal("0.04"), {})


def test_the_same_client_id_fills_again_because_nothing_says_that_it_would_not() -> None:
    world = at(hyperliquid_world(positions="[{market: BTC, size: 1}]"), 1)
    assert placed(world) is not placed(world)
    assert account_of(world).holdings["BTC"].size == Decimal("0.8")


def test_a_leverage_cap_that_falls_raises_maintenance_for_everybody() -> None:
    shocks = "[{at: 10s, kind: parameter_change, market: BTC, initial_margin: 5%, maintenance_margin: 2.5%}]"
    world = at(hyperliquid_world(positions=H2, shocks=shocks), 9)
    before = world.exchange.margins(account_of(world)).maintenance
    after = at(world, 10).exchange.margins(account_of(world)).maintenance
    assert (before, after) == (1025, 50_000 / 40 + 400)


def test_there_is_no_gate_and_a_delisted_market_settles_at_the_oracle_price() -> None:
    shocks = "[{at: 1s, kind: venue_halt, for: 10m}, {at: 700s, kind: oracle_freeze, market: BTC, for: 1h}, "
    shocks += "{at: 701s, kind: price_move, market: BTC, by: 3%}, "
    shocks += "{at: 710s, kind: market_status, market: BTC, to: FINAL_SETTLEMENT, for: 1h}]"
    world = at(hyperliquid_world(positions=H2, shocks=shocks), 650)
    assert world.exchange.withdrawals_open()
    at(world, 711)
    assert account_of(world).quote == pytest.approx(10_000 + 20_000)
    assert "BTC" not in account_of(world).holdings


def test_wrong_tables_and_keys_of_the_other_model_are_told_at_their_place() -> None:
    text = """
scenario: wrong
venue: {model: hyperliquid}
markets:
  A: {price: 1, margin_tiers: [{from: 5 USD, max_leverage: 10}]}
  B: {price: 1, margin_tiers: [{from: 0 USD, max_leverage: 10}, {from: 5 USD, max_leverage: 20}]}
  C: {price: 1, oi_upper_cap: 5 USD}
accounts: [{collateral: 1 USD, leverage: {D: 3}}]
"""
    with pytest.raises(RunbookError) as caught:
        parse_scenario(text, "x.yaml")
    told = str(caught.value)
    for expected in (
        "the first margin tier begins at 0 USD",
        "margin tiers go up in `from` and down in `max_leverage`",
        "oi_upper_cap belongs to the model dydx-v4",
        "'D' is no market of this scenario",
    ):
        assert expected in told
    with pytest.raises(RunbookError, match="margin_tiers belongs to the model hyperliquid"):
        parse_scenario(text.replace("model: hyperliquid", "model: dydx-v4"), "x.yaml")
