"""The dYdX formulas against published vectors, exact recomputation in Decimal, and the properties that define them."""

from __future__ import annotations

import math
from decimal import ROUND_CEILING, Decimal

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from daemon.world import margin

BTC, ETH = (3.0, 98_000.0, 0.02, 0.012), (-100.0, 4100.0, 0.02, 0.012)


def test_cross_account_matches_vector_d1() -> None:
    sizes, prices = [BTC[0], ETH[0]], [BTC[1], ETH[1]]
    equity = margin.equity(150_000.0, sizes, prices)
    initial = margin.requirement_sum(sizes, prices, [0.02, 0.02])
    maintenance = margin.requirement_sum(sizes, prices, [0.012, 0.012])
    assert (equity, initial, maintenance) == (34_000.0, 14_080.0, 8_448.0)
    assert equity - initial == 19_920.0
    assert margin.margin_ratio(equity, maintenance) == pytest.approx(0.248470588235294, rel=1e-12)
    assert (abs(sizes[0] * prices[0]) + abs(sizes[1] * prices[1])) / equity == pytest.approx(20.705882352941, rel=1e-12)
    assert margin.liquidation_price(BTC[0], BTC[1], 0.012, equity, maintenance) == pytest.approx(89_379.217273954, rel=1e-12)
    assert margin.liquidation_price(ETH[0], ETH[1], 0.012, equity, maintenance) == pytest.approx(4_352.490118577, rel=1e-12)


def test_short_matches_vector_d2_alone_and_beside_another_market() -> None:
    alone = margin.liquidation_price(-3.0, 3000.0, 0.05, 1000.0, 450.0)
    assert alone == pytest.approx(3_174.603174603, rel=1e-12)
    # Cross, by the documentation: 1000 USDC deposited, 1000 STRK long at 1.75 (10 %), 1.5 ETH short at 3000 (5 %).
    maintenance = margin.requirement_sum([1000.0, -1.5], [1.75, 3000.0], [0.10, 0.05])
    cross = margin.liquidation_price(-1.5, 3000.0, 0.05, 1000.0, maintenance)
    assert cross == pytest.approx(3_380.952380952, rel=1e-12)


@pytest.mark.parametrize(
    ("base", "lower", "upper", "open_notional", "expected"),
    [
        (0.1, 20e6, 50e6, 35e6, 0.55),
        (0.2, 5e6, 10e6, 6e6, 0.36),
        (0.1, 20e6, 50e6, 20e6, 0.1),
        (0.1, 20e6, 50e6, 50e6, 1.0),
        (0.02, 0.0, 0.0, 9e9, 0.02),
    ],
)
def test_initial_fraction_matches_vector_d3(base: float, lower: float, upper: float, open_notional: float, expected: float) -> None:
    assert margin.initial_fraction(base, open_notional, lower, upper) == pytest.approx(expected, rel=1e-12)


def test_funding_payment_matches_vector_f1() -> None:
    assert margin.funding_payment(3.0, 98_000.0, 0.0000125) == pytest.approx(-3.675, rel=1e-12)


@pytest.mark.parametrize(("initial", "maintenance", "cap_8h"), [(0.02, 0.012, 0.048), (0.1, 0.05, 0.30), (0.2, 0.1, 0.60)])
def test_funding_rate_is_clamped_as_vector_f2(initial: float, maintenance: float, cap_8h: float) -> None:
    assert margin.funding_rate_hourly(60 * 5.0, 60, 0.0, initial, maintenance) == pytest.approx(cap_8h / 8, rel=1e-12)
    assert margin.funding_rate_hourly(60 * -5.0, 60, 0.0, initial, maintenance) == pytest.approx(-cap_8h / 8, rel=1e-12)


def test_settled_rate_is_zero_padded_and_predicted_rate_is_not_as_vector_f3() -> None:
    total = 10 * 2000e-6
    settled = margin.funding_rate_hourly(total, 10, 0.0, 0.02, 0.012) * 8 * 1e6
    assert math.floor(settled) == 333
    assert margin.funding_rate_predicted(total, 10, 0.0) == pytest.approx(0.00025, rel=1e-12)
    assert math.isnan(margin.funding_rate_predicted(0.0, 0, 0.0))


@pytest.mark.parametrize(("size", "fillable", "bankruptcy"), [(3.0, 97_736.0, 97_000.0), (-3.0, 98_264.0, 99_000.0)])
def test_liquidation_prices_match_vector_l1_and_its_mirror(size: float, fillable: float, bankruptcy: float) -> None:
    maintenance = margin.requirement(size, 98_000.0, 0.012)
    assert maintenance == 3528.0
    assert margin.is_liquidatable(3000.0, maintenance)
    found = margin.fillable_price(size, 98_000.0, 0.012, 3000.0, maintenance)
    bankrupt = margin.bankruptcy_price(size, 98_000.0, 0.012, 3000.0, maintenance)
    assert found == pytest.approx(fillable, rel=1e-12)
    assert bankrupt == pytest.approx(bankruptcy, rel=1e-12)
    assert margin.liquidation_fee(size, found, bankrupt) == pytest.approx(2208.0, rel=1e-9)


def test_liquidation_fee_is_capped_and_never_negative() -> None:
    assert margin.liquidation_fee(1.0, 100.0, 50.0) == pytest.approx(1.5)
    assert margin.liquidation_fee(1.0, 100.0, 101.0) == 0.0


def test_account_is_liquidatable_strictly_above_equity_only() -> None:
    assert not margin.is_liquidatable(100.0, 100.0)
    assert margin.is_liquidatable(99.999999, 100.0)
    assert not margin.is_liquidatable(-5.0, 0.0)


def test_margin_ratio_is_zero_without_positions_and_infinite_without_equity() -> None:
    assert margin.margin_ratio(-5.0, 0.0) == 0.0
    assert margin.margin_ratio(0.0, 1.0) == math.inf


def test_liquidation_price_does_not_exist_for_a_flat_or_overfunded_long() -> None:
    assert math.isnan(margin.liquidation_price(0.0, 100.0, 0.05, 10.0, 0.0))
    assert math.isnan(margin.liquidation_price(1.0, 100.0, 0.05, 1000.0, 5.0))


def test_premium_is_signed_and_zero_inside_the_spread_or_without_index() -> None:
    assert margin.funding_premium(101.0, 102.0, 100.0) == pytest.approx(0.01)
    assert margin.funding_premium(98.0, 99.0, 100.0) == pytest.approx(-0.01)
    assert margin.funding_premium(99.0, 101.0, 100.0) == 0.0
    assert margin.funding_premium(101.0, 102.0, math.nan) == 0.0


amounts = st.floats(1e-3, 1e6)
fractions = st.floats(0.005, 0.2)


@given(
    size=amounts,
    sign=st.sampled_from([-1.0, 1.0]),
    price=amounts,
    mmf=fractions,
    cushion=st.floats(1.0001, 5.0),
    others=st.floats(0.0, 1e6),
)
def test_at_the_liquidation_price_equity_equals_maintenance(
    size: float, sign: float, price: float, mmf: float, cushion: float, others: float
) -> None:
    size *= sign
    maintenance = abs(size * price) * mmf + others
    equity = maintenance * cushion
    found = margin.liquidation_price(size, price, mmf, equity, maintenance)
    assume(not math.isnan(found))
    s, p, q, m = Decimal(size), Decimal(price), Decimal(found), Decimal(mmf)
    equity_there = Decimal(equity) + s * (q - p)
    maintenance_there = abs(s) * q * m + Decimal(maintenance) - abs(s) * p * m
    scale = abs(s) * max(p, q) + Decimal(maintenance) + Decimal(equity)
    assert abs(equity_there - maintenance_there) <= scale * Decimal("1e-9")


@given(
    size=st.floats(0.1, 1e3),
    price=st.floats(1.0, 1e5),
    mmf=fractions,
    cover=st.floats(0.05, 1.6),
    share=st.floats(0.01, 0.99),
    off=st.floats(-0.9, 0.9),
)
def test_slippage_bound_is_exactly_where_the_chain_starts_refusing(
    size: float, price: float, mmf: float, cover: float, share: float, off: float
) -> None:
    fee, imf = 0.0005, mmf * 1.7
    maintenance = size * price * mmf
    equity = maintenance * cover
    initial = size * price * imf
    bound = margin.slippage_allowed(equity, initial, maintenance, mmf, fee)
    assert bound == pytest.approx(mmf * cover - fee, rel=1e-9, abs=1e-12)
    assume(abs(off) > 1e-3)
    slippage = bound + off * 0.01
    closed = size * share
    equity_after = equity - closed * price * (slippage + fee)
    left = (size - closed) * price
    assume(equity_after < left * imf)  # else initial margin is covered again and everything is allowed
    assert margin.is_allowed(equity, maintenance, equity_after, left * imf, left * mmf) is (off < 0)


def test_change_is_refused_when_maintenance_rises_below_initial_margin() -> None:
    assert not margin.is_allowed(10.0, 9.0, 10.0, 20.0, 9.1)
    assert margin.is_allowed(30.0, 9.0, 30.0, 20.0, 9.1)
    assert margin.is_allowed(10.0, 9.0, 10.0, 20.0, 9.0)
    assert not margin.is_allowed(10.0, 9.0, 9.9, 20.0, 9.0)
    assert not margin.is_allowed(10.0, 9.0, -1.0, 0.0, 0.0)
    assert margin.slippage_allowed(30.0, 20.0, 9.0, 0.05, 0.0005) == math.inf


def test_a_requirement_is_rounded_up_to_a_millionth_and_an_exact_one_is_left_alone() -> None:
    assert margin.rounded_up(0.0000001) == 0.000001
    assert margin.rounded_up(1.0000001) == 1.000001
    assert margin.rounded_up(14_080.0) == 14_080.0
    assert margin.rounded_up(0.1 + 0.2) == 0.3, "the noise of binary floats is no requirement"
    sizes, prices = [0.0001, -0.0003], [98_000.1234, 4100.00071]
    exact = [abs(Decimal(str(s)) * Decimal(str(p))) * Decimal("0.012") for s, p in zip(sizes, prices, strict=True)]
    expected = sum(one.quantize(Decimal("0.000001"), ROUND_CEILING) for one in exact)
    assert margin.requirement_sum_rounded(sizes, prices, [0.012, 0.012]) == pytest.approx(float(expected), abs=1e-12)
    assert margin.requirement_sum_rounded(sizes, prices, [0.012, 0.012]) > margin.requirement_sum(sizes, prices, [0.012, 0.012])


@pytest.mark.parametrize(
    ("notional", "before", "expected"),
    [
        (500.0, 0.0, 500.0),
        (5_000.0, 0.0, 1_000.0),
        (200_000.0, 0.0, 20_000.0),
        (5e6, 0.0, 100_000.0),
        (5e6, 70_000.0, 30_000.0),
        (5e6, 100_000.0, 0.0),
    ],
)
def test_a_block_liquidates_a_tenth_at_least_a_thousand_and_at_most_a_hundred_thousand_of_an_account(
    notional: float, before: float, expected: float
) -> None:
    assert margin.liquidation_notional(notional, before) == expected


def test_the_insurance_fund_takes_the_fee_above_bankruptcy_and_pays_below_it() -> None:
    # Vector L1 at its fillable price; then 200 USD under the bankruptcy price of 97,000, long and short.
    assert margin.insurance_change(3.0, 97_736.0, 97_000.0) == pytest.approx(2208.0)
    assert margin.insurance_change(3.0, 96_800.0, 97_000.0) == pytest.approx(-600.0)
    assert margin.insurance_change(-3.0, 99_200.0, 99_000.0) == pytest.approx(-600.0)


def test_raising_maintenance_moves_requirement_as_in_the_fact_sheets_governance_example() -> None:
    sizes, prices = [BTC[0], ETH[0]], [BTC[1], ETH[1]]
    assert margin.requirement_sum(sizes, prices, [0.03, 0.03]) == pytest.approx(21_120.0, rel=1e-12)
