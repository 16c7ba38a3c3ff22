"""Moves of buffer capital: how much, over which route, and when not."""

from __future__ import annotations

from dataclasses import replace
from decimal import Decimal

import pytest
from engine_world import ACCOUNT, DONE, MARKET, POSITION, TOPOLOGY, World, runbook

from daemon.engine.actions import MoveBuffer, Notify, Outcome
from daemon.engine.records import MoveProgress
from daemon.units import NS
from daemon.world.entities import Kind

BUFFER = (Kind.CHAIN, "ethereum", "buffer_balance")
COLLATERAL = (Kind.ACCOUNT, ACCOUNT, "collateral")
READINGS = {
    COLLATERAL: 5_000.0,
    BUFFER: 100_000.0,
    (Kind.POSITION, POSITION, "entry_price"): 3000.0,
    (Kind.MARKET, MARKET, "imf"): 0.05,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
}


def topped(move: str = "{from: ethereum, amount: 1_000 USD}", rest: str = "") -> str:
    when = "maintenance_margin > 1 USD"
    return runbook(f"- id: m\n  move_buffer: {move}", name="top", scope="account", intent="survival", when=when, rest=rest)


def moves(world: World) -> list[MoveBuffer]:
    return world.sent(MoveBuffer)


def test_move_takes_the_cheapest_route_that_is_in_time():
    world = World(topped(), readings=READINGS)
    world.until(10)
    assert [(m.source, m.destination, m.route, m.amount) for m in moves(world)] == [("ethereum", "dydx", "cctp", Decimal("1000.00"))]
    assert moves(world)[0].max_fee == Decimal("2.00"), "twice the stated fee of 0.1 %"
    assert world.status("top", ACCOUNT) == "done"


def test_to_ratio_moves_what_brings_margin_over_equity_to_the_target():
    # maintenance 10 x 3000 x 3 % = 900; equity 5000 - 3000 x 0 = 5000 -> 900 / 0.15 = 6000
    world = World(topped("{from: ethereum, to_ratio: 15%}"), readings=READINGS)
    world.until(10)
    assert [m.amount for m in moves(world)] == [Decimal("1000.00")]


def test_unknown_time_to_liquidation_refuses_unless_the_margin_ratio_is_known_to_be_calm():
    calm = World(topped(), readings=READINGS)
    calm.until(10)
    assert len(moves(calm)) == 1, "18 % of margin used"
    tight = World(topped(), readings=READINGS | {COLLATERAL: 1_500.0})
    tight.until(10)
    assert moves(tight) == []
    assert "time_to_liquidation of dydx is unknown" in tight.reason("top", ACCOUNT)


def test_move_that_cannot_arrive_in_time_is_refused():
    slow = replace(TOPOLOGY, routes={"slow": replace(TOPOLOGY.routes["cctp"], name="slow", eta_p95_ns=7200 * NS)})
    world = World(topped("{from: ethereum, amount: 1_000 USD, deadline: 1h}"), readings=READINGS, topology=slow)
    world.until(10)
    assert moves(world) == []
    assert "cannot arrive in time" in world.reason("top", ACCOUNT)


def test_keep_at_source_is_left_and_an_empty_buffer_is_said():
    world = World(topped("{from: ethereum, amount: 9_000 USD, keep_at_source: 95_000 USD}"), readings=READINGS)
    world.until(10)
    assert [m.amount for m in moves(world)] == [Decimal("5000.00")]
    empty = World(topped("{from: ethereum, amount: 9_000 USD, keep_at_source: 100_000 USD}"), readings=READINGS)
    empty.until(10)
    assert moves(empty) == []
    assert "holds 100,000.00 USD and keeps 100,000.00 USD" in empty.reason("top", ACCOUNT)


def test_unknown_buffer_moves_nothing():
    world = World(topped(), readings=READINGS | {BUFFER: float("nan")})
    world.until(10)
    assert moves(world) == []
    assert world.status("top", ACCOUNT) == "failed"


@pytest.mark.parametrize(
    ("reading", "value", "route"),
    [("route_open", 0.0, "fast"), ("route_capacity", 500.0, "fast"), ("route_fee", 0.05, "fast"), ("route_fee", float("nan"), "fast")],
)
def test_route_that_is_shut_full_dear_or_unknown_is_passed_over(reading, value, route):
    world = World(topped(), readings=READINGS | {(Kind.ROUTE, "cctp", reading): value})
    world.until(10)
    assert [m.route for m in moves(world)] == [route]


def test_max_fee_is_a_bound():
    world = World(topped("{from: ethereum, amount: 1_000 USD, route: fast, max_fee: 5 USD}"), readings=READINGS)
    world.until(10)
    assert moves(world) == []
    assert "fast: costs 10.00 USD" in world.reason("top", ACCOUNT)


def test_amount_may_use_the_fee_of_its_own_move():
    world = World(topped("{from: ethereum, amount: 1_000 USD + fee_estimate, route: cctp}"), readings=READINGS)
    world.until(10)
    assert [m.amount for m in moves(world)] == [Decimal("1001.00")]


def test_amount_after_a_shrink_sees_the_shrinks_plan_on_every_attempt():
    steps = """\
- id: s
  shrink_position: {by: 10%}
- id: m
  move_buffer: {from: ethereum, amount: 50% * notional_change, route: cctp}
  retry: {attempts: 2, backoff: 1s}
- id: t
  notify: {to: [desk], text: "moved {amount}"}
"""
    answers = [Outcome(status="failed", reason="no gas"), DONE]
    world = World(runbook(steps), readings=READINGS, answer=lambda a: answers.pop(0) if isinstance(a, MoveBuffer) else DONE)
    world.until(20, funding_rate=0.001)
    assert [m.amount for m in moves(world)] == [Decimal("1500.00")] * 2
    assert [n.text for n in world.actions if isinstance(n, Notify)] == ["moved 1,500 USD"]


def test_one_move_goes_to_a_destination_until_its_credit_is_seen():
    rest = "repeat: {every: 30s, max: 9}\n"
    world = World(topped(rest=rest), readings=READINGS)
    world.until(100)
    assert len(moves(world)) == 1
    world.until(130, collateral=5_999.0)
    assert world.of(MoveProgress)[0].stage == "credited"
    assert len(moves(world)) == 2


def test_route_that_showed_the_money_and_shows_none_any_more_has_delivered_it():
    flying = (Kind.ROUTE, "cctp", "in_flight")
    world = World(topped(rest="repeat: {every: 30s, max: 9}\n"), readings=READINGS | {flying: 0.0})
    world.until(20)
    world.until(40, in_flight=1_000.0)
    world.until(50, in_flight=0.0)
    assert [r.stage for r in world.of(MoveProgress)] == ["shown", "credited"]


def test_money_reported_in_flight_is_subtracted():
    world = World(topped(), readings=READINGS | {(Kind.ROUTE, "fast", "in_flight"): 400.0})
    world.until(10)
    assert [m.amount for m in moves(world)] == [Decimal("600.00")]


def test_failed_move_is_no_longer_in_flight_and_unknown_one_blocks_the_destination():
    rest = "repeat: {every: 30s, max: 9}\non_failure: {then: stay_armed}\n"
    answers = [Outcome(status="failed", reason="no gas"), DONE]
    world = World(topped(rest=rest), readings=READINGS, answer=lambda a: answers.pop(0))
    world.until(40)
    assert len(moves(world)) == 2
    lost = World(topped(rest=rest), readings=READINGS, answer=lambda a: None)
    lost.until(400)
    assert len(moves(lost)) == 1
    assert lost.engine.snapshot().transfers[0].amount == "1000.00"


def test_transfer_that_never_arrives_is_paged_once():
    world = World(topped(rest="max_age: {collateral: 100h}\n"), readings=READINGS)
    world.until(7200, every=60)
    assert [n.text for n in world.pages()] == [
        "Title of top · dydx: 1000.00 USD over cctp to dydx has not arrived; no further move goes there"
    ]
    world.command("ack", moves(world)[0].action_id)
    assert world.engine.snapshot().transfers == ()
