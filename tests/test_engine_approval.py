"""An approval is about one plan: it does what people were shown, not more and not elsewhere, whatever has changed since."""

from __future__ import annotations

from decimal import Decimal

import pytest
from engine_world import ACCOUNT, POSITION, World, runbook

from daemon.engine.actions import CallWebhook, MoveBuffer, Outcome
from daemon.engine.codec import decode, encode
from daemon.engine.events import OperatorCommand
from daemon.engine.records import ApprovalRequested, CommandTaken
from daemon.world.entities import Kind

SPIKE = {"funding_rate": 0.001}
SHRINK = runbook("- id: s\n  shrink_position: {by: 50%}\n  approval: {from: [ana, ben], timeout: 2m}")
MOVE = """\
- id: m
  move_buffer: {from: ethereum, amount: 1000 USD, max_fee: 5%}
  approval: {from: [ana], timeout: 2m, otherwise: OTHERWISE}
"""
CALL = """\
- id: call
  webhook: {endpoint: custody, payload: {rate: "{funding_rate}"}}
  approval: {from: [ana], timeout: 2m}
"""


def asked(world: World) -> ApprovalRequested:
    """The latest question to people."""
    return world.of(ApprovalRequested)[-1]


def answer(world: World, digest: str, *, verb: str = "approve", actor: str = "ana") -> str:
    """What came of an answer to the latest question."""
    number = len(world.of(CommandTaken))
    command = OperatorCommand(at=world.now, command_id=f"c{number}", actor=actor, verb=verb, target=asked(world).run_id, digest=digest)
    world.step(command)
    return world.of(CommandTaken)[-1].effect


def test_an_approval_that_names_another_plan_is_refused_and_says_so() -> None:
    world = World(SHRINK)
    world.until(5, **SPIKE)
    effect = answer(world, "f" * 64)
    assert effect.startswith("nothing: the plan has changed: s of spike/dydx:ETH-USD/")
    assert asked(world).plan_digest[:12] in effect
    assert "ffffffffffff" in effect
    assert world.orders == []
    assert world.engine.cold.runs[asked(world).run_id].step is not None
    assert answer(world, asked(world).plan_digest).startswith("approved s of ")
    assert [order.size for order in world.orders] == [Decimal(5)]


def test_whoever_names_no_plan_approves_what_is_waited_for_and_anything_may_be_denied() -> None:
    world = World(SHRINK)
    world.until(5, **SPIKE)
    assert answer(world, "").startswith("approved")
    other = World(SHRINK)
    other.until(5, **SPIKE)
    assert answer(other, "f" * 64, verb="deny").startswith("denied")
    assert other.status() == "aborted"


def moving(otherwise: str = "skip") -> World:
    readings = {
        (Kind.CHAIN, "ethereum", "buffer_balance"): 50_000.0,
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 1_000_000.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, POSITION, "mmf"): 0.03,
        (Kind.ROUTE, "cctp", "route_open"): 1.0,
        (Kind.ROUTE, "fast", "route_open"): 1.0,
    }
    world = World(runbook(MOVE.replace("OTHERWISE", otherwise)), readings=readings)
    world.until(5, **SPIKE)
    return world


def moves(world: World) -> list[tuple[str, Decimal]]:
    return [(move.route, move.amount) for move in world.sent(MoveBuffer)]


def test_a_move_whose_route_got_dearer_is_asked_for_anew_under_another_digest() -> None:
    world = moving()
    first = asked(world)
    assert first.what == {"source": "ethereum", "destination": "dydx", "route": "cctp", "fee_usd": 1.0}
    world.readings[Kind.ROUTE, "cctp", "route_open"] = 0.0
    world.until(10)
    assert answer(world, first.plan_digest).startswith("approved")
    second = asked(world)
    assert moves(world) == []
    assert second.what == {"source": "ethereum", "destination": "dydx", "route": "fast", "fee_usd": 10.0}
    assert second.plan_digest != first.plan_digest
    assert answer(world, first.plan_digest).startswith("nothing: the plan has changed")
    assert answer(world, second.plan_digest).startswith("approved")
    assert moves(world) == [("fast", Decimal("1000.00"))]


def test_a_move_that_got_cheaper_goes_without_another_question() -> None:
    world = moving()
    world.readings[Kind.ROUTE, "fast", "route_fee"] = 0.0001
    world.until(10)
    answer(world, asked(world).plan_digest)
    assert len(world.of(ApprovalRequested)) == 1
    assert moves(world) == [("fast", Decimal("1000.00"))]


def test_time_that_runs_out_on_a_plan_that_proceeds_asks_nobody_again() -> None:
    world = moving("proceed")
    world.readings[Kind.ROUTE, "cctp", "route_open"] = 0.0
    world.until(130)
    assert len(world.of(ApprovalRequested)) == 1
    assert moves(world) == [("fast", Decimal("1000.00"))]


def test_a_webhook_sends_the_payload_that_was_approved_also_after_a_restart() -> None:
    world = World(runbook(CALL))
    world.until(5, **SPIKE)
    assert asked(world).what == {"endpoint": "custody", "payload": {"rate": "0.1%/h"}}
    world.until(10, funding_rate=0.002)
    blobs = world.engine.checkpoint()
    world.engine = world.new_engine()
    world.engine.load(world.books)
    world.engine.restore(blobs)
    answer(world, asked(world).plan_digest)
    (call,) = world.sent(CallWebhook)
    assert call.payload == {"rate": "0.1%/h"}


@pytest.mark.parametrize("step", ["cancel_orders: {scope: market}", "halt: {scope: market}"])
def test_what_has_no_size_is_named_all_the_same(step: str) -> None:
    world = World(runbook(f"- id: x\n  {step}\n  approval: {{from: [ana], timeout: 2m}}"))
    world.until(5, **SPIKE)
    assert list(asked(world).what.values()) in (["dydx:ETH-USD"], ["market/dydx:ETH-USD"])
    answer(world, asked(world).plan_digest)
    assert len(world.writes) == 1


def test_a_retry_of_an_approved_move_is_covered_by_the_approval() -> None:
    outcomes = [Outcome(status="failed", reason="busy"), Outcome(status="done")]
    steps = MOVE.replace("OTHERWISE", "skip") + "  retry: {attempts: 2, backoff: 2s}\n"
    world = World(
        runbook(steps),
        readings={(Kind.CHAIN, "ethereum", "buffer_balance"): 50_000.0, (Kind.ACCOUNT, ACCOUNT, "collateral"): 1e6,
                  (Kind.POSITION, POSITION, "entry_price"): 3000.0, (Kind.MARKET, POSITION, "mmf"): 0.03},
        answer=lambda action: outcomes.pop(0) if isinstance(action, MoveBuffer) else Outcome(status="done"),
    )  # fmt: skip
    world.until(5, **SPIKE)
    answer(world, asked(world).plan_digest)
    world.until(20)
    assert len(world.of(ApprovalRequested)) == 1
    assert [route for route, _ in moves(world)] == ["cctp", "cctp"]


def test_an_old_journal_without_digests_is_still_read() -> None:
    old = '{"actor":"ana","at":1,"command_id":"c","reason":"","target":"r","type":"OperatorCommand","until":null,"verb":"approve"}'
    event = decode(old)
    assert isinstance(event, OperatorCommand)
    assert event.digest == ""
    assert decode(encode(event)) == event
