"""Counterfactuals of a replay: the same deeds come to the same account, one run left out, positions restored; sums done by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_simulation_replay import HYPE, SPIKE, T0, account, course, run

from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition
from daemon.simulation.outturn import difference, outturn
from daemon.simulation.replay import Course, Played, play_without
from daemon.simulation.retrace import Restored, leave_one_out, restore_on_clear, retrace
from daemon.simulation.spans import Rowwise
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Route

SETTLED = 294_000_000  # ns after the hour at which a settlement is known
FILL, BUY = 34.0 * 0.9995, 34.0 * 1.0005


def flat_course(rates: list[float], spec: AccountSpec | None = None, prices: dict[int, float] | None = None) -> Course:
    """Hours from 17:00 on at a price of 34 (or as `prices` has it from an hour on), each with its settlement."""
    rows, price = [(T0 + 30 * MINUTE_NS, HYPE, {"last_price": 34.0})], 34.0
    for number, rate in enumerate(rates, 1):
        price = (prices or {}).get(number, price)
        rows.append((T0 + number * HOUR_NS, HYPE, {"last_price": price}))
        rows.append((T0 + number * HOUR_NS + SETTLED, HYPE, {"funding_rate": rate}))
    rows.append((T0 + (len(rates) + 1) * HOUR_NS, HYPE, {"last_price": price}))
    return course(rows, spec)


# Fires at 17:00 and holds, clears at 19:00; fires at 20:00 although the next settlement pays the long.
TWO = [0.002, 0.002, 0.0001, 0.002, -0.002]


def restored(over: Course, played: Played) -> Restored:
    cleared = {e.id: e.cleared_at for e in played.log.episodes() if e.ending == "cleared" and e.cleared_at is not None}
    return restore_on_clear(over, played.account, cleared)


def test_leave_one_out_tells_the_run_that_helped_from_the_run_that_was_a_false_alarm() -> None:
    over = flat_course(TWO)
    played = run(over, SPIKE)
    assert [float(deed.filled) for deed in played.account.deeds] == [500.0, 250.0]
    found = leave_one_out(over, played.account)
    first, second = found.runs
    # 500 HYPE fewer: 34 saved at 18:00, 1.70 at 19:00, 34 at 20:00, 34 not received at 21:00; sold for a fee and half a cent a dollar.
    costs = 500 * FILL * 0.0005 + 500 * (34.0 - FILL)
    assert first.split.funding_usd == pytest.approx(35.7)
    assert first.cost_usd == pytest.approx(costs)
    assert first.split.without_direction_usd == pytest.approx(35.7 - costs)
    assert first.split.without_direction_at_3x_costs_usd == pytest.approx(35.7 - 3 * costs)
    assert not first.false_alarm
    # 250 fewer when the shorts paid: 17 not received, and its costs.
    assert second.split.without_direction_usd == pytest.approx(-17.0 - costs / 2)
    assert second.false_alarm
    assert (found.acted, len(found.false_alarms), found.note) == (2, 1, "")
    assert found.false_alarms_usd == pytest.approx(17.0 + costs / 2)
    assert found.summary == "2 runs left out one by one: 1 false alarm, which cost 25.50 USD without direction"
    assert [entry.split.direction_usd for entry in found.runs] == pytest.approx([0.0, 0.0], abs=1e-9)


def test_leave_one_out_credits_a_run_with_the_liquidation_that_it_avoided() -> None:
    spec = replace(account(), collateral_usd=3_000.0)
    over = flat_course([0.002, 0.0, 0.0], spec, {2: 30.5})
    played = run(over, SPIKE)
    assert played.account.totals.liquidations == 0
    (only,) = leave_one_out(over, played.account).runs
    assert only.liquidations_avoided == 1
    assert only.split.liquidation_avoided_usd == pytest.approx(1000 * 30.5 * 0.015)
    assert not only.false_alarm


def test_leave_one_out_stops_at_its_bound_with_the_costliest_runs_and_says_so() -> None:
    over = flat_course(TWO)
    found = leave_one_out(over, run(over, SPIKE).account, runs_max=1)
    assert [entry.cost_usd for entry in found.runs] == pytest.approx([500 * FILL * 0.0005 + 500 * (34.0 - FILL)])
    assert found.note == "only the 1 costliest of 2 runs that acted were left out"
    assert found.acted == 2


def test_restore_on_clear_buys_back_what_the_episode_sold_at_the_price_and_costs_of_that_moment() -> None:
    over = flat_course(TWO)
    played = run(over, SPIKE)
    having, lacking = outturn(played.account), outturn(play_without(over))
    never = difference(having, lacking)
    # WITHOUT pays 68 + 68 + 3.40 + 68 - 68; never, 68 + 34 + 1.70 + 34 - 17.
    assert never.funding_usd == pytest.approx(139.4 - 120.7)
    back = restored(over, played)
    assert (back.restored, back.refused) == (2, {})
    assert back.account.size(HYPE) == Decimal(1000)
    # Bought back at 19:00 after its settlement: 20:00 is paid on 1,000, a half is sold again (a half stays a half), 21:00 received on 500.
    split = difference(back.outturn, lacking)
    assert split.funding_usd == pytest.approx(139.4 - (68 + 34 + 1.7 + 68 - 34))
    sold, bought = 500 * FILL * 0.0005 + 500 * (34.0 - FILL), 500 * BUY * 0.0005 + 500 * (BUY - 34.0)
    assert split.fees_and_slippage_usd == pytest.approx(-2 * (sold + bought))
    assert back.bought_usd == pytest.approx(2 * 500 * BUY)
    assert split.direction_usd == pytest.approx(0.0, abs=1e-9)
    assert split.pnl_usd == pytest.approx(1.7 - 2 * (sold + bought))


def test_a_short_is_restored_at_the_bid() -> None:
    over = flat_course([-0.002, 0.0, 0.0], account("-1000"))
    back = restored(over, run(over, SPIKE))
    assert (back.restored, back.account.size(HYPE)) == (1, Decimal(-1000))
    assert back.bought_usd == pytest.approx(500 * FILL)


def test_a_position_that_was_liquidated_before_its_episode_cleared_is_not_restored() -> None:
    spec = replace(account(), collateral_usd=3_000.0)
    over = flat_course([0.002, 0.002, 0.0], spec, {2: 25.0})
    played = run(over, SPIKE)
    assert played.account.totals.liquidations == 1
    back = restored(over, played)
    assert (back.restored, back.bought_usd) == (0, 0.0)
    assert sum(back.refused.values()) == 1
    assert back.lines()[-1] == "1 position liquidated in that pass"
    assert back.account.size(HYPE) == 0


def test_an_episode_that_is_still_open_is_not_restored_and_counted() -> None:
    over = flat_course([0.002, 0.002])
    back = restored(over, run(over, SPIKE))
    assert back.refused == {"the episode did not clear": 1}
    assert back.lines()[-1] == "1 not restored: the episode did not clear"


def test_an_account_that_has_not_the_margin_is_not_restored() -> None:
    spec = replace(account(), collateral_usd=200.0)
    over = flat_course([0.002, 0.0, 0.0], replace(spec, markets={"HYPE-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.001)}))
    back = restored(over, run(over, SPIKE))
    assert back.refused == {"the initial margin would exceed equity": 1}
    assert back.account.size(HYPE) == Decimal(500)


def test_nothing_but_the_counterfactual_can_add_to_a_position() -> None:
    rooms = Path(__file__).resolve().parent.parent / "daemon"
    callers = {path.name for path in rooms.rglob("*.py") if re.search(r"\.reopen\(", path.read_text(encoding="utf-8"))}
    assert callers == {"retrace.py"}


TOP_UP = """\
schema: reefd/v1
runbook: top-up
title: Top up
owner: desk
severity: critical
intent: survival
stage: armed
scope: account
trigger: {when: margin_ratio > 20%, until: margin_ratio < 10%}
limits: {per_run: 1_000_000 USD}
repeat: {every: 10m, max: 4}
steps:
  - id: move
    move_buffer: {from: ethereum, to: dydx, amount: 1_000 USD, route: cctp}
  - id: shrink
    shrink_account: {by: 20%, max_slippage: 1%}
"""
STEP = st.tuples(
    st.integers(20, 1_500),
    st.sampled_from([33.0, 33.5, 34.0, 31.0, 29.5, None]),
    st.sampled_from([0.002, 0.0001, -0.001, None, None]),
    st.sampled_from([HYPE, HYPE, "dydx:BTC-USD"]),
)


@settings(max_examples=20, deadline=None)
@given(steps=st.lists(STEP, min_size=5, max_size=80), fine=st.booleans())
def test_the_same_deeds_again_come_to_the_same_account_to_the_last_bit_in_slices_of_any_size(steps: list[Any], fine: bool) -> None:
    rows, at = [], 0
    for wait, price, rate, market in steps:
        at += max(wait // 60, 1) if fine else wait
        values = {name: value for name, value in (("oracle_price", price), ("funding_rate", rate)) if value is not None}
        rows.append((T0 + at * NS, market, values or {"open_interest": 1.0}))
    route = Route(name="cctp", source="ethereum", destination="dydx", eta_ns=3 * MINUTE_NS, eta_p95_ns=4 * MINUTE_NS, fee=0.001)
    held = {"HYPE-USD": Decimal(1000), "BTC-USD": Decimal(-80)}
    opening = tuple(OpeningPosition(market=market, size=size, entry_price=33.0) for market, size in held.items())
    rules = MarketRules(initial_margin=0.05, maintenance_margin=0.03)
    spec = replace(
        account(), collateral_usd=6_000.0, positions=opening, markets=dict.fromkeys(held, rules), buffers={"ethereum": 5_000.0},
        routes=(route,),
    )  # fmt: skip
    over = course(rows, spec, hold_ns=10 * MINUTE_NS)
    played = run(over, SPIKE, TOP_UP)
    back = restored(over, played)
    for rows_a_slice in (1000, 7, 1):
        cut = replace(over, slice_rows=rows_a_slice)
        again = retrace(cut, played.account.deeds, spans=Rowwise())
        assert outturn(again) == outturn(played.account)
        assert (again.buffers, again.liquidated) == (played.account.buffers, played.account.liquidated)
        assert retrace(cut, []).totals == play_without(over).totals
        # Nothing cleared, nothing restored: every share is what it was.
        assert restore_on_clear(cut, played.account, {}).outturn == outturn(played.account)
        other = restored(cut, played)
        assert (other.outturn, other.restored, other.refused) == (back.outturn, back.restored, back.refused)
