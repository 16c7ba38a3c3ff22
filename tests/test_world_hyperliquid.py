"""The Hyperliquid formulas against liquidation prices that the exchange has shown, published examples, and what defines each of them."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from daemon.world import hyperliquid as hl

ONE_50X, ONE_20X = ((0.0,), (50.0,)), ((0.0,), (20.0,))
BTC, ETH = ((0.0, 150e6), (40.0, 20.0)), ((0.0, 100e6), (25.0, 15.0))
ALT = ((0.0, 20e6), (10.0, 5.0))


@pytest.mark.parametrize(
    ("price", "size", "isolated_margin", "table", "shown"),
    [
        (2458.5, 0.015, 36.864593, ONE_50X, 0.86915825),
        (68_240.0, -0.00105, 17.887922, ONE_50X, 84_431.79820839),
        (173.06, 0.6, 20.735658, ONE_20X, 142.05186667),
        (2518.4, -0.007, 17.62263, ONE_50X, 4_986.05799151),
    ],
)
def test_isolated_liquidation_prices_are_those_the_exchange_shows_in_vector_h1(
    price: float, size: float, isolated_margin: float, table: tuple[tuple[float, ...], tuple[float, ...]], shown: float
) -> None:
    own = hl.maintenance(abs(size) * price, *table)
    assert hl.liquidation_price(size, price, isolated_margin, own, *table) == pytest.approx(shown, abs=5e-9)


def test_cross_account_matches_vector_h2() -> None:
    btc, eth = hl.maintenance(0.5 * 100_000.0, *BTC), hl.maintenance(5.0 * 4000.0, *ETH)
    assert btc + eth == pytest.approx(1025.0, rel=1e-12)
    liquidated_btc = hl.liquidation_price(0.5, 100_000.0, 10_000.0, btc + eth, *BTC)
    liquidated_eth = hl.liquidation_price(-5.0, 4000.0, 10_000.0, btc + eth, *ETH)
    assert liquidated_btc == pytest.approx(81_822.784810, abs=1e-6)
    assert liquidated_eth == pytest.approx(5_759.803921, abs=1e-6)
    # The published check: equity there is the maintenance margin there.
    equity_there = 10_000.0 + 0.5 * (liquidated_btc - 100_000.0)
    assert equity_there == pytest.approx(911.3924, abs=5e-5)
    assert hl.maintenance(0.5 * liquidated_btc, *BTC) + eth == pytest.approx(equity_there, rel=1e-12)


def test_tiered_maintenance_matches_vector_h3() -> None:
    assert hl.maintenance(30e6, *ALT) == pytest.approx(2.0e6, rel=1e-12)
    assert hl.deduction(1, *ALT) == pytest.approx(1.0e6, rel=1e-12)
    # The maintenance of 20 M is 5 % of it, whichever side of the bound it is seen from.
    assert hl.maintenance(20e6, *ALT) == pytest.approx(1.0e6, rel=1e-12)
    assert hl.maintenance(20e6 - 1e-6, *ALT) == pytest.approx(1.0e6, rel=1e-12)


def test_funding_matches_vector_h4() -> None:
    premium = hl.funding_premium(10_100.0, 10_110.0, 10_000.0)
    assert premium == pytest.approx(0.01, rel=1e-12)
    rate = hl.funding_rate_hourly(premium)
    assert (rate * 8, rate) == (pytest.approx(0.0095, rel=1e-12), pytest.approx(0.0011875, rel=1e-12))
    assert hl.funding_payment(10.0, 10_000.0, rate) == pytest.approx(-118.75, rel=1e-12)


def test_funding_prints_its_floor_as_in_vector_h5() -> None:
    assert hl.funding_rate_hourly(0.00057962) == pytest.approx(0.0000125, rel=1e-12)
    for premium in (-0.0004, 0.0, 0.0001, 0.0006):  # every premium within 5 bps of the interest rate prints the same
        assert hl.funding_rate_hourly(premium) == pytest.approx(0.0000125, rel=1e-9)


def test_negative_premium_matches_vector_h6() -> None:
    assert hl.funding_rate_hourly(-0.0009) == pytest.approx(-0.00005, rel=1e-12)


def test_funding_is_capped_as_in_vector_h7() -> None:
    assert hl.funding_rate_hourly(0.50) == 0.04
    uncapped = (0.50 - 0.0005) / 8
    assert uncapped == pytest.approx(0.0624, abs=5e-5), "as published"
    assert hl.funding_rate_hourly(-0.50) == -0.04
    assert hl.funding_rate_hourly(0.3) == pytest.approx((0.3 - 0.0005) / 8, rel=1e-12)


@pytest.mark.parametrize(
    ("value", "liquidated", "taken_over"),
    [(1025.0, False, False), (1024.99, True, False), (683.34, True, False), (683.33, True, True), (-1.0, True, True)],
)
def test_liquidation_begins_below_maintenance_and_the_backstop_below_two_thirds_of_it(
    value: float, liquidated: bool, taken_over: bool
) -> None:
    assert hl.is_liquidatable(value, 1025.0) is liquidated
    assert hl.backstop_due(value, 1025.0) is taken_over


def test_an_account_without_positions_is_neither_liquidated_nor_taken_over() -> None:
    assert not hl.is_liquidatable(-1.0, 0.0)
    assert not hl.backstop_due(-1.0, 0.0)


def test_a_large_position_is_cut_by_a_fifth_first_and_closed_after_the_cooldown() -> None:
    assert hl.liquidation_share(100_000.01, False) == 0.2
    assert hl.liquidation_share(100_000.01, True) == 1.0
    assert hl.liquidation_share(100_000.0, False) == 1.0


def test_what_may_leave_covers_initial_margin_and_a_tenth_of_the_notional() -> None:
    assert hl.initial(100_000.0, 40.0) == 2500.0
    assert hl.withdrawable(20_000.0, 2500.0, 100_000.0) == 10_000.0
    assert hl.withdrawable(20_000.0, 12_500.0, 100_000.0) == 7_500.0
    assert hl.withdrawable(9_000.0, 2_500.0, 100_000.0) == 0.0


def test_the_queue_of_deleveraging_goes_by_gain_times_leverage_on_both_sides() -> None:
    assert hl.adl_rank(1.0, 120.0, 100.0, 60.0) == pytest.approx(1.2 * 2.0)
    assert hl.adl_rank(-1.0, 80.0, 100.0, 40.0) == pytest.approx(1.25 * 2.0)
    assert hl.adl_rank(-1.0, 120.0, 100.0, 60.0) < hl.adl_rank(-1.0, 80.0, 100.0, 40.0), "a losing short is taken after a winning one"
    assert hl.adl_rank(1.0, 120.0, 100.0, 0.0) == math.inf


def test_the_mark_is_the_median_and_a_missing_perp_is_replaced_by_the_books_average() -> None:
    assert hl.mark_price(100.0, 103.0, 101.0, 99.0) == 101.0
    assert hl.mark_price(100.0, 103.0, math.nan, 102.0) == 102.0
    assert hl.mark_price(100.0, 103.0, math.nan, math.nan) == 101.5
    assert hl.mark_price(100.0, math.nan, math.nan, math.nan) == 100.0
    assert math.isnan(hl.mark_price(math.nan, math.nan, math.nan, math.nan))


def test_a_venues_own_price_cannot_pull_the_mark_while_perps_trade_elsewhere() -> None:
    # As with XPL: the book at three times the oracle. Elsewhere holds the mark; without elsewhere the book's average takes it along.
    assert hl.mark_price(0.56, 1.80, 0.55, 1.75) == 0.56
    assert hl.mark_price(0.56, 1.80, math.nan, 1.75) == 1.75


def test_the_weighted_median_is_where_half_of_the_weight_is_reached() -> None:
    assert hl.weighted_median([100.0, 101.0, 102.0, 110.0, 90.0], [3.0, 2.0, 2.0, 1.0, 1.0]) == 101.0
    assert hl.weighted_median([1.0, 2.0], [1.0, 1.0]) == 1.5
    assert hl.weighted_median([math.nan, 7.0], [3.0, 1.0]) == 7.0
    assert math.isnan(hl.weighted_median([math.nan], [1.0]))


def test_an_average_forgets_with_its_span() -> None:
    assert hl.average_step(math.nan, 5.0, 1.0, hl.BASIS_SPAN_S) == 5.0
    one_step = hl.average_step(0.0, 1.0, 150.0, hl.BASIS_SPAN_S)
    many = 0.0
    for _ in range(50):
        many = hl.average_step(many, 1.0, 3.0, hl.BASIS_SPAN_S)
    assert one_step == pytest.approx(1 - math.exp(-1), rel=1e-12)
    assert many == pytest.approx(one_step, rel=1e-12), "fifty steps of 3 s remember what one of 150 s does"


tables = st.sampled_from([ONE_50X, BTC, ETH, ALT, ((0.0, 1e4, 1e6), (20.0, 10.0, 3.0))])


@given(
    size=st.floats(1e-3, 1e3),
    sign=st.sampled_from([-1.0, 1.0]),
    price=st.floats(1.0, 1e5),
    table=tables,
    cushion=st.floats(1.0001, 30.0),
    others=st.floats(0.0, 1e6),
)
def test_at_the_liquidation_price_the_account_is_worth_its_maintenance_whatever_the_tier(
    size: float, sign: float, price: float, table: tuple[tuple[float, ...], tuple[float, ...]], cushion: float, others: float
) -> None:
    own = hl.maintenance(size * price, *table)
    value = (own + others) * cushion
    found = hl.liquidation_price(sign * size, price, value, own + others, *table)
    assume(not math.isnan(found))
    # Independently, in exact arithmetic: the margin table walked slice by slice, as a tax table is.
    there = Decimal(size) * Decimal(found)
    bounds, leverages = table
    needed = Decimal(others)
    for i, leverage in enumerate(leverages):
        top = Decimal(bounds[i + 1]) if i + 1 < len(bounds) else Decimal("Infinity")
        needed += max(Decimal(0), min(there, top) - Decimal(bounds[i])) / (2 * Decimal(leverage))
    worth = Decimal(value) + Decimal(sign) * Decimal(size) * (Decimal(found) - Decimal(price))
    scale = Decimal(size) * Decimal(max(price, found)) + Decimal(value)
    assert abs(worth - needed) <= scale * Decimal("1e-9")


@given(size=st.floats(1e-3, 1e3), price=st.floats(1.0, 1e5), table=tables, value=st.floats(0.0, 1e7))
def test_a_short_always_has_a_liquidation_price_and_a_long_unless_its_collateral_covers_all(
    size: float, price: float, table: tuple[tuple[float, ...], tuple[float, ...]], value: float
) -> None:
    own = hl.maintenance(size * price, *table)
    assert not math.isnan(hl.liquidation_price(-size, price, value + own, own, *table))
    assume(abs(value + own - size * price) > 1e-6 * size * price)
    assert math.isnan(hl.liquidation_price(size, price, value + own, own, *table)) is (value + own > size * price)
