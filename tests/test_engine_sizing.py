"""Sizes and prices: properties over any input, and shrink_account against independent computations."""

from __future__ import annotations

import math
from decimal import Decimal

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, World, runbook
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.actions import Outcome, ShrinkPosition
from daemon.engine.codec import decode, encode, encode_as
from daemon.engine.sizing import (
    Holding,
    after_fills,
    decimal,
    limit_price,
    reductions,
    round_down,
    shrink_total,
    slice_size,
)
from daemon.engine.state import Cold
from daemon.language.kernels import survivable_move_of
from daemon.world.entities import Kind

sizes = st.floats(-1e9, 1e9, allow_nan=False).filter(lambda x: x == 0.0 or abs(x) > 1e-6)
steps = st.sampled_from([float("nan"), 0.001, 0.01, 0.1, 1.0, 10.0, 1e-6, 0.3])
any_number = st.floats(allow_nan=True, allow_infinity=True)


@given(size=sizes, start=sizes, by=any_number, share=st.booleans(), to=st.none() | any_number)
def test_shrink_total_never_opens_or_flips(size, start, by, share, to):
    total = shrink_total(size=size, start_size=start, by=by, by_is_share=share, to_size=to)
    assert 0.0 <= total <= abs(size)
    if size * start <= 0.0:
        assert total == 0.0


@given(
    size=sizes,
    left=st.decimals(0, 10**9, places=6),
    slices=st.integers(-2, 50),
    cap=st.just(math.inf) | st.floats(-10, 1e9),
    step=steps,
    minimum=steps,
)
def test_slice_never_exceeds_position_plan_or_cap_and_is_a_multiple_of_the_step(size, left, slices, cap, step, minimum):
    taken = slice_size(left=left, slices_left=slices, size=size, cap=cap, step=step, minimum=minimum)
    assert 0 <= taken <= left
    assert taken <= decimal(abs(size))
    if math.isfinite(cap):
        assert float(taken) <= max(0.0, cap)
    if step > 0.0:
        assert taken % decimal(step) == 0
    if minimum > 0.0:
        assert taken == 0 or taken >= decimal(minimum)


@given(size=sizes, by=st.floats(0, 1), parts=st.integers(1, 20), step=steps)
def test_all_slices_together_never_exceed_the_plan(size, by, parts, step):
    plan = round_down(decimal(shrink_total(size=size, start_size=size, by=by, by_is_share=True, to_size=None)), step)
    left, position = plan, decimal(abs(size))
    for number in range(parts):
        taken = slice_size(left=left, slices_left=parts - number, size=float(position), cap=math.inf, step=step, minimum=float("nan"))
        left, position = left - taken, position - taken
    assert left >= 0
    assert position >= 0


@given(value=st.decimals(0, 10**12, places=9), step=steps)
def test_round_down_is_the_largest_multiple_not_above(value, step):
    rounded = round_down(value, step)
    assert rounded <= value
    if step > 0.0:
        assert value - rounded < decimal(step)


@given(reference=st.floats(1e-6, 1e7), slippage=st.floats(0, 0.5), tick=st.sampled_from([float("nan"), 0.1, 1.0, 0.00001]))
def test_limit_price_is_never_worse_than_the_bound(reference, slippage, tick):
    bound = decimal(reference) * (1 - decimal(slippage))
    assert limit_price("SELL", reference, slippage, tick) >= bound
    bound = decimal(reference) * (1 + decimal(slippage))
    assert limit_price("BUY", reference, slippage, tick) <= bound


@given(size=sizes, expected=sizes)
def test_size_after_unseen_fills_is_the_one_nearer_to_flat(size, expected):
    taken = after_fills(size, expected)
    assert abs(taken) <= abs(size)
    assert taken * size >= 0.0


holding = st.builds(
    Holding,
    position=st.just("p"),
    notional=st.floats(-1e6, 1e6).filter(lambda x: abs(x) > 1.0),
    mmf=st.floats(0.005, 0.1),
    cost=st.floats(0.0, 0.002),
    funding=st.floats(-0.001, 0.001) | st.just(float("nan")),
)


def test_a_ratio_at_its_target_but_for_the_last_digit_asks_for_nothing():
    one = Holding(position="p", notional=84_059.0, mmf=0.078125, cost=0.0, funding=0.0)
    maintenance = 84_059.0 * 0.078125
    for order in ("best_survival", "most_expensive_first", "pro_rata"):
        assert reductions([one], maintenance / 0.6875, maintenance, 0.6875, order) == []


@given(
    raw=st.lists(holding, min_size=1, max_size=6),
    used=st.floats(0.05, 1.5),
    target=st.floats(0.05, 0.95),
    order=st.sampled_from(["best_survival", "most_expensive_first", "pro_rata"]),
)
def test_reductions_reach_the_target_and_never_exceed_a_position(raw, used, target, order):
    holdings = [Holding(position=f"p{i}", notional=h.notional, mmf=h.mmf, cost=h.cost, funding=h.funding) for i, h in enumerate(raw)]
    maintenance = math.fsum(abs(h.notional) * h.mmf for h in holdings)
    equity = maintenance / used
    taken = dict(reductions(holdings, equity, maintenance, target, order))
    by_id = {h.position: h for h in holdings}
    for position, usd in taken.items():
        assert 0.0 <= usd <= abs(by_id[position].notional) * (1 + 1e-9)
    if used <= target:
        assert sum(taken.values()) == 0.0
    after_mm = maintenance - math.fsum(usd * by_id[p].mmf for p, usd in taken.items())
    after_eq = equity - math.fsum(usd * by_id[p].cost for p, usd in taken.items())
    everything = all(math.isclose(taken.get(h.position, 0.0), abs(h.notional), rel_tol=1e-6) for h in holdings)
    assert everything or after_mm <= target * after_eq * (1 + 1e-6)


def test_best_survival_takes_the_position_that_gains_most_move_per_cost():
    # Two longs of one size: the cheap one to exit goes first. A short that hedges them is left alone.
    cheap = Holding(position="cheap", notional=50_000, mmf=0.03, cost=0.0005, funding=0.0)
    dear = Holding(position="dear", notional=50_000, mmf=0.03, cost=0.005, funding=0.0)
    hedge = Holding(position="hedge", notional=-30_000, mmf=0.03, cost=0.0001, funding=0.0)
    maintenance = 130_000 * 0.03
    taken = reductions([hedge, dear, cheap], 6_000, maintenance, 0.5, "best_survival")
    assert [p for p, _ in taken] == ["cheap"]
    assert taken[0][1] == pytest.approx((maintenance - 0.5 * 6_000) / (0.03 - 0.5 * 0.0005))


@given(equity=st.floats(1, 1e6), maintenance=st.floats(0, 1e6), net=st.floats(-1e7, 1e7))
def test_survivable_move_is_where_equity_meets_maintenance(equity, maintenance, net):
    move = survivable_move_of(equity, maintenance, net)
    if equity <= maintenance:
        assert move == 0.0
    elif math.isfinite(move):
        worst = min((equity + s * move * net) - maintenance * (1 + s * move) for s in (-1, 1))
        assert worst == pytest.approx(0.0, abs=1e-6 * (equity + abs(net) * move + maintenance * (1 + move)))


MARGIN = {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 1_200.0,
    (Kind.POSITION, POSITION, "entry_price"): 3000.0,
    (Kind.MARKET, MARKET, "imf"): 0.05,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
}


def test_below_initial_margin_the_limit_price_stays_inside_what_dydx_accepts():
    # equity 1200 < initial 1500; MMF x TNC / MMR = 0.03 x 1200 / 900 = 4 %, less the fee of 5 bps = 3.95 %: the user's 10 % is cut.
    world = World(runbook("- id: s\n  shrink_position: {by: 10%, max_slippage: 10%}"), readings=MARGIN)
    world.until(5, funding_rate=0.001)
    assert world.orders[0].limit_price == Decimal("2881.5")  # 3000 x (1 - 0.0395)


def test_at_initial_margin_the_users_bound_stands():
    readings = MARGIN | {(Kind.ACCOUNT, ACCOUNT, "collateral"): 1_500.0}
    world = World(runbook("- id: s\n  shrink_position: {by: 10%, max_slippage: 10%}"), readings=readings)
    world.until(5, funding_rate=0.001)
    assert world.orders[0].limit_price == Decimal("2700")


def test_account_under_water_is_told_that_the_venue_takes_no_fill():
    readings = MARGIN | {(Kind.ACCOUNT, ACCOUNT, "collateral"): 10.0}  # 0.03 x 10 / 900 = 3.3 bps < fee
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}"), readings=readings)
    world.until(5, funding_rate=0.001)
    assert world.orders == []
    assert "below initial margin" in world.reason()


BTC = "dydx:BTC-USD"
TWO = MARGIN | {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 4_000.0,
    (Kind.POSITION, BTC, "size"): -1.0,
    (Kind.POSITION, BTC, "entry_price"): 60_000.0,
    (Kind.MARKET, BTC, "oracle_price"): 60_000.0,
    (Kind.MARKET, BTC, "bid_price"): 59_990.0,
    (Kind.MARKET, BTC, "ask_price"): 60_010.0,
    (Kind.MARKET, BTC, "imf"): 0.05,
    (Kind.MARKET, BTC, "mmf"): 0.03,
    (Kind.MARKET, BTC, "funding_rate"): 0.0,
    (Kind.VENUE, "dydx", "taker_fee"): 0.0,
}


@pytest.mark.parametrize("order", ["best_survival", "most_expensive_first", "pro_rata"])
def test_shrink_account_brings_the_margin_ratio_to_its_target_in_any_order(order):
    steps = f"- id: s\n  shrink_account: {{to_margin_ratio: 40%, order: {order}}}"
    text = runbook(steps, scope="account", intent="survival", when="margin_ratio > 60%")
    world = World(text, readings=TWO)  # maintenance 2700, equity 4000: 67.5 %
    world.until(30)
    reading = world.engine.hot.read(Kind.ACCOUNT, ACCOUNT, "margin_ratio", world.now)
    assert reading.value == pytest.approx(0.40, abs=0.005)
    assert world.status(entity=ACCOUNT) == "done"


def test_shrink_account_by_a_share_takes_it_off_every_position():
    text = runbook("- id: s\n  shrink_account: {by: 50%}", scope="account", intent="survival", when="margin_ratio > 60%")
    world = World(text, readings=TWO)
    world.until(30)
    assert {(o.market, o.side, float(o.size)) for o in world.orders} == {(MARKET, "SELL", 5.0), (BTC, "BUY", 0.5)}


def test_position_opened_during_an_episode_is_shrunk_by_shares_of_its_size_at_first_sight():
    sol = "dydx:SOL-USD"
    text = runbook(
        "- id: s\n  shrink_account: {by: 25%, order: pro_rata}",
        scope="account",
        intent="survival",
        when="open_orders > 0",
        rest="repeat: {every: 10s, max: 3}\nlimits: {per_episode: 60%}\n",
    )
    world = World(text, readings=TWO | {(Kind.ACCOUNT, ACCOUNT, "open_orders"): 0.0})
    world.until(5)
    world.until(9, open_orders=1.0)
    world.readings |= {(Kind.POSITION, sol, "size"): 8.0, (Kind.POSITION, sol, "entry_price"): 10.0}
    world.readings |= {(Kind.MARKET, sol, "oracle_price"): 10.0, (Kind.MARKET, sol, "imf"): 0.05, (Kind.MARKET, sol, "mmf"): 0.03}
    world.until(33)
    assert [float(o.size) for o in world.orders if o.market == sol][:2] == [2.0, 2.0]
    assert world.engine.cold.episodes[f"spike/{ACCOUNT}"].sizes[sol] == 8.0
    recovered = world.new_engine()
    recovered.load(world.books)
    for entry in world.entries:
        for item in (entry.event, *entry.records):
            recovered.apply_entry(decode(encode(item)))
    assert encode_as(recovered.cold, Cold) == encode_as(world.engine.cold, Cold), "the journal says it too"


def test_leg_that_fails_does_not_keep_the_others_from_being_shrunk():
    text = runbook("- id: s\n  shrink_account: {by: 50%, order: pro_rata}", scope="account", intent="survival", when="margin_ratio > 60%")

    def answer(action):
        closed = isinstance(action, ShrinkPosition) and action.market == BTC
        return Outcome(status="rejected", reason="market closed") if closed else Outcome(status="done")

    world = World(text, readings=TWO, answer=answer)
    world.until(30)
    assert [o.market for o in world.orders] == [BTC, MARKET]
    assert len({o.action_id for o in world.orders}) == 2
    assert world.status(entity=ACCOUNT) == "failed"
    assert "market closed" in world.reason(entity=ACCOUNT)


def test_unknown_margin_shrinks_nothing_to_a_ratio():
    text = runbook("- id: s\n  shrink_account: {to_margin_ratio: 40%}", scope="account", intent="survival", when="open_orders > 0")
    world = World(text, readings=TWO | {(Kind.ACCOUNT, ACCOUNT, "open_orders"): 1.0, (Kind.MARKET, BTC, "mmf"): float("nan")})
    world.until(10)
    assert world.orders == []
    assert "margin is unknown" in world.reason(entity=ACCOUNT)
