"""The simulated account: fills, funding, margin and liquidation as the signal catalogue's last section has them, in virtual time."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition, SimulatedAccount, marks
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind, Route

T0 = 1_770_134_400 * NS  # 2026-02-03T16:00:00Z, a whole hour
HYPE = "dydx:HYPE-USD"


def account(size: str = "1000", entry: float = 33.0, collateral: float = 50_000.0, *, start: int = T0, **more: object) -> SimulatedAccount:
    spec = AccountSpec(
        venue="dydx",
        collateral_usd=collateral,
        positions=(OpeningPosition(market="HYPE-USD", size=Decimal(size), entry_price=entry),),
        markets={"HYPE-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.03)},
        **more,  # type: ignore[arg-type]
    )
    simulated = SimulatedAccount(spec, mark=marks(spec, bound_ns=lambda market, signal: HOUR_NS, interval_ns=lambda market: HOUR_NS))
    simulated.begin(start)
    return simulated


def batch(simulated: SimulatedAccount, at: int, event_ts: int | None = None, **values: float) -> None:
    simulated.observe(HYPE, values, at if event_ts is None else event_ts)
    simulated.settle(at)


def sell(size: str, limit: str = "0", side: str = "SELL") -> ShrinkPosition:
    return ShrinkPosition(
        action_id="r.1.1.1", run_id="r", runbook="x", account="dydx", market=HYPE, side=side, size=Decimal(size),  # type: ignore[arg-type]
        limit_price=Decimal(limit), reference_price=33.0, notional_usd=0.0, expires_at=1 << 62,
    )  # fmt: skip


def transfer(amount: str, max_fee: str = "1000") -> MoveBuffer:
    return MoveBuffer(
        action_id="r.2.1.1", run_id="r", runbook="x", source="ethereum", destination="dydx", route="cctp",
        amount=Decimal(amount), max_fee=Decimal(max_fee), expires_at=1 << 62,
    )  # fmt: skip


def test_funding_is_paid_once_a_boundary_at_the_first_rate_at_or_after_it_on_the_value_of_that_moment() -> None:
    simulated = account(start=T0 + NS)
    batch(simulated, T0 + NS, oracle_price=30.0)
    batch(simulated, T0 + HOUR_NS + 294_000_000, funding_rate=0.002018)
    batch(simulated, T0 + HOUR_NS + 60 * NS, T0 + HOUR_NS + 294_000_000, funding_rate=0.002018)  # the same settlement, polled again
    assert simulated.totals.funding_usd == pytest.approx(-1000 * 30.0 * 0.002018, rel=1e-12)
    assert simulated.totals.funding_unknown_hours == 0.0


def test_funding_of_a_short_is_received_and_an_eight_hour_interval_pays_for_eight_hours() -> None:
    spec = AccountSpec(
        venue="binance", collateral_usd=1e6, positions=(OpeningPosition(market="BTC-USD", size=Decimal(-2), entry_price=90_000.0),),
        markets={"BTC-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.03)},
    )  # fmt: skip
    cells = marks(spec, bound_ns=lambda market, signal: 9 * HOUR_NS, interval_ns=lambda market: 8 * HOUR_NS)
    simulated = SimulatedAccount(spec, mark=cells)
    simulated.begin(T0)  # 16:00 is a multiple of eight hours
    simulated.observe("binance:BTC-USD", {"mark_price": 100_000.0, "funding_rate": 0.0004 / 8}, T0)
    simulated.settle(T0)
    assert simulated.totals.funding_usd == pytest.approx(2 * 100_000.0 * 0.0004, rel=1e-12)


@pytest.mark.parametrize("late_ns", [5 * MINUTE_NS, 5 * MINUTE_NS + 1])
def test_a_settlement_counts_for_its_boundary_only_within_five_minutes(late_ns: int) -> None:
    simulated = account(start=T0 + NS)
    batch(simulated, T0 + NS, oracle_price=30.0)
    batch(simulated, T0 + HOUR_NS + late_ns, oracle_price=30.0, funding_rate=0.001)
    simulated.end(T0 + HOUR_NS + late_ns)
    paid = late_ns <= 5 * MINUTE_NS
    assert simulated.totals.funding_usd == pytest.approx(-30.0 if paid else 0.0)
    assert simulated.totals.funding_unknown_hours == (0.0 if paid else 1.0)


def test_hours_without_a_settlement_are_unpaid_and_counted() -> None:
    simulated = account(start=T0 + NS)
    batch(simulated, T0 + NS, oracle_price=30.0)
    batch(simulated, T0 + 4 * HOUR_NS, oracle_price=30.0, funding_rate=0.001)
    simulated.end(T0 + 5 * HOUR_NS)
    assert simulated.totals.funding_unknown_hours == 4.0  # 17, 18, 19 and 21 h
    assert simulated.totals.funding_usd == pytest.approx(-30.0)


@pytest.mark.parametrize(("collateral", "unknown_hours"), [(1_000.0, 8.0), (50_000.0, 16.0)])
def test_an_unsettled_boundary_counts_when_the_position_was_held_at_it_and_closed_before_anybody_could_tell(
    collateral: float, unknown_hours: float
) -> None:
    spec = AccountSpec(
        venue="binance", collateral_usd=collateral, positions=(OpeningPosition(market="HYPE-USD", size=Decimal(1000), entry_price=33.0),),
        markets={"HYPE-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.03)},
    )  # fmt: skip
    cells = marks(spec, bound_ns=lambda market, signal: 9 * HOUR_NS, interval_ns=lambda market: 8 * HOUR_NS)
    simulated = SimulatedAccount(spec, mark=cells)
    simulated.begin(T0 - HOUR_NS)
    late = {"mark_price": 33.0, "funding_rate": 0.0001}
    for at, values in (
        (T0 - HOUR_NS, {"mark_price": 33.0}),
        (T0 + 7 * MINUTE_NS, late),  # the settlement of 16:00, too late to count
        (T0 + 4 * HOUR_NS - MINUTE_NS, {"mark_price": 31.0}),
        (T0 + 9 * HOUR_NS, late),
    ):
        simulated.observe("binance:HYPE-USD", values, at)
        simulated.settle(at)
    simulated.end(T0 + 9 * HOUR_NS)
    assert simulated.totals.liquidations == (1 if unknown_hours == 8.0 else 0)
    assert simulated.totals.funding_unknown_hours == unknown_hours


def test_a_position_closed_at_a_boundary_was_held_at_it_and_one_closed_before_was_not() -> None:
    for closed, hours in ((T0 + HOUR_NS - NS, 0.0), (T0 + HOUR_NS, 1.0)):
        simulated = account(start=T0 + NS)
        batch(simulated, T0 + NS, oracle_price=33.0)
        batch(simulated, closed, oracle_price=33.0)
        assert simulated.fill(sell("1000"), closed).status == "done"
        simulated.end(T0 + 3 * HOUR_NS)
        assert simulated.totals.funding_unknown_hours == hours


def test_funding_due_while_the_position_has_no_price_is_unpaid_and_counted() -> None:
    simulated = account()
    batch(simulated, T0, funding_rate=0.001)
    assert simulated.totals.funding_usd == 0.0
    assert simulated.totals.funding_unknown_hours == 1.0


def test_a_sale_takes_the_bid_where_the_book_is_fresh_and_the_value_less_slippage_where_it_is_not() -> None:
    simulated = account(slippage=0.001, taker_fee=0.0005)
    batch(simulated, T0, oracle_price=33.0, bid_price=32.9, ask_price=33.1)
    first = simulated.fill(sell("100"), T0)
    assert first.fill_price == Decimal("32.9")
    batch(simulated, T0 + HOUR_NS, oracle_price=34.0)
    second = simulated.fill(sell("100"), T0 + HOUR_NS + NS)
    assert float(second.fill_price or 0) == pytest.approx(34.0 * 0.999)
    assert simulated.size(HYPE) == 800
    assert simulated.totals.turnover_usd == pytest.approx(3290.0 + 3396.6)
    assert simulated.totals.fees_usd == pytest.approx(0.0005 * (3290.0 + 3396.6))
    assert simulated.totals.slippage_usd == pytest.approx(100 * 0.1 + 100 * 0.034)


def test_a_fill_worse_than_its_limit_is_no_fill_and_one_without_a_price_says_so() -> None:
    simulated = account(slippage=0.001)
    assert simulated.fill(sell("100"), T0).reason == "no_price"
    batch(simulated, T0, oracle_price=33.0)
    refused = simulated.fill(sell("100", limit="32.98"), T0)
    assert (refused.status, refused.reason) == ("failed", "no_fill")
    assert simulated.fill(sell("100", limit="32.9"), T0).status == "done"


def test_liquidation_is_strictly_above_maintenance_and_costs_the_fee() -> None:
    # Equity 1000 + 1000 x (P - 33); maintenance 30 x P: they meet at P = 32_000 / 970.
    edge = 32_000 / 970
    simulated = account(collateral=1_000.0)
    batch(simulated, T0, oracle_price=edge * 1.000001)
    assert simulated.totals.liquidations == 0
    batch(simulated, T0 + NS, oracle_price=edge * 0.999999)
    price = edge * 0.999999
    assert simulated.totals.liquidations == 1
    assert simulated.size(HYPE) == 0
    assert simulated.equity() == pytest.approx(1_000.0 + 1000 * (price - 33.0) - 0.015 * 1000 * price)
    assert simulated.totals.margin_ratio_max == pytest.approx(1.0, abs=1e-4)


def test_liquidation_looks_at_the_bars_adverse_extreme_first_but_not_at_a_bar_from_before_the_account_began() -> None:
    simulated = account(collateral=5_000.0)
    batch(simulated, T0, last_price=33.0, bar_low=20.0, bar_high=40.0)
    assert simulated.totals.liquidations == 0
    batch(simulated, T0 + HOUR_NS, last_price=33.0, bar_low=28.0, bar_high=40.0)
    assert simulated.totals.liquidations == 1
    assert simulated.liquidated[0].price == 28.0
    assert simulated.totals.liquidation_usd == pytest.approx(1000 * (33.0 - 28.0) + 0.015 * 1000 * 28.0)


def test_a_position_without_a_price_is_not_liquidated() -> None:
    simulated = account(collateral=1_000.0)
    batch(simulated, T0, oracle_price=33.0)
    simulated.observe(HYPE, {"oracle_price": math.nan}, T0 + NS)
    simulated.settle(T0 + NS)
    assert simulated.totals.liquidations == 0
    assert math.isnan(simulated.margin_ratio())


def test_a_price_ages_out_without_a_row_and_the_next_of_valued_at_takes_over() -> None:
    simulated = account()
    batch(simulated, T0, oracle_price=33.0)
    batch(simulated, T0 + HOUR_NS, mark_price=34.0)
    assert simulated.equity() == pytest.approx(50_000.0)
    simulated.settle(T0 + HOUR_NS + 1)
    assert simulated.equity() == pytest.approx(51_000.0)


def test_a_transfer_is_debited_at_once_and_credited_after_its_eta_less_the_fee() -> None:
    route = Route(name="cctp", source="ethereum", destination="dydx", eta_ns=20 * MINUTE_NS, fee=0.001)
    simulated = account(buffers={"ethereum": 100_000.0}, routes=(route,))
    batch(simulated, T0, oracle_price=33.0)
    simulated.changes()
    assert simulated.move(transfer("10000"), T0).status == "done"
    rows = {(row.kind, row.entity): row.values for row in simulated.changes()}
    assert rows[Kind.CHAIN, "ethereum"] == {"buffer_balance": 90_000.0}
    assert rows[Kind.ROUTE, "cctp"] == {"in_flight": 9_990.0}
    assert simulated.equity() == 50_000.0
    assert simulated.next_arrival() == T0 + 20 * MINUTE_NS
    simulated.credit(T0 + 20 * MINUTE_NS)
    assert simulated.equity() == 59_990.0
    simulated.settle(T0 + 20 * MINUTE_NS)
    batch(simulated, T0 + 21 * MINUTE_NS, oracle_price=33.0)
    assert simulated.pnl_usd() == pytest.approx(-10.0)  # a top-up is no profit: only its fee shows


@pytest.mark.parametrize(("amount", "max_fee", "word"), [("200000", "1000", "free"), ("10000", "5", "max_fee"), ("0", "5", "zero")])
def test_a_transfer_is_rejected_when_it_cannot_be_paid_or_costs_too_much(amount: str, max_fee: str, word: str) -> None:
    route = Route(name="cctp", source="ethereum", destination="dydx", fee=0.001)
    simulated = account(buffers={"ethereum": 100_000.0}, routes=(route,))
    outcome = simulated.move(transfer(amount, max_fee), T0)
    assert outcome.status == "rejected"
    assert word in outcome.reason
    assert simulated.buffers == {"ethereum": 100_000.0}


STEP = st.tuples(st.floats(5.0, 90.0), st.floats(-0.005, 0.005), st.sampled_from(["", "SELL", "BUY"]), st.integers(1, 700))
STEPS = st.lists(STEP, min_size=1, max_size=30)


@settings(max_examples=150, deadline=None)
@given(steps=STEPS, start=st.integers(-500, 500), collateral=st.floats(0.0, 40_000.0))
def test_equity_adds_up_shrinks_never_flip_and_only_an_undercollateralised_account_is_liquidated(
    steps: list[tuple[float, float, str, int]], start: int, collateral: float
) -> None:
    simulated = account(str(start), collateral=collateral, slippage=0.0005, taker_fee=0.0005)
    ledger = collateral + start * (steps[0][0] - 33.0)  # an independent one: yesterday's equity, today's moves
    price = steps[0][0]
    for index, (value, rate, side, units) in enumerate(steps):
        at = T0 + index * HOUR_NS
        before, count = float(simulated.size(HYPE)), simulated.totals.liquidations
        batch(simulated, at, oracle_price=value, funding_rate=rate)
        ledger += before * (value - price) - before * value * rate
        price = value
        assert (simulated.totals.liquidations > count) == (before != 0 and 0.03 * abs(before) * value > ledger)
        if simulated.totals.liquidations > count:
            ledger -= 0.015 * abs(before) * value
            assert simulated.size(HYPE) == 0
        held = simulated.size(HYPE)
        if side:
            outcome = simulated.fill(sell(str(units), side=side), at)
            left = simulated.size(HYPE)
            assert abs(left) <= abs(held)
            assert left == 0 or (left > 0) == (held > 0)
            if outcome.status == "done" and outcome.filled_size is not None and outcome.fill_price is not None:
                sold, paid = float(outcome.filled_size), float(outcome.fill_price)
                ledger -= sold * abs(value - paid) + sold * paid * 0.0005
        assert simulated.equity() == pytest.approx(ledger, abs=1e-6)
    totals = simulated.totals
    simulated.settle(T0 + len(steps) * HOUR_NS - 1)
    assert totals.slippage_usd >= -1e-9
    assert totals.fees_usd >= 0


@given(st.integers(1_000, 9_999_999))
def test_a_fill_exactly_at_the_bound_fills_whatever_the_last_digit_of_a_product_says(thousandths: int) -> None:
    price = thousandths / 1000
    simulated = account(slippage=0.005)
    batch(simulated, T0 + NS, oracle_price=price)
    bound = Decimal(repr(price)) * (1 - Decimal("0.005"))
    assert simulated.fill(sell("1", str(bound)), T0 + NS).status == "done"
    assert simulated.fill(sell("1", str(bound * Decimal("1.000001"))), T0 + NS).reason == "no_fill"
