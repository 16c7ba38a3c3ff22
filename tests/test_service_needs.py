"""What waits for a person: the question, the plan before and after, what happens when nobody answers, and how to answer."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, T0, World, runbook

from daemon.engine.actions import Action, CallWebhook, MoveBuffer, Outcome, ShrinkPosition
from daemon.engine.records import ApprovalRequested
from daemon.service.needs import Undelivered, needs
from daemon.service.views import NeedView
from daemon.units import NS
from daemon.world.entities import Kind

MARGIN: Mapping[tuple[Kind, str, str], float] = {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 5_000.0,
    (Kind.POSITION, POSITION, "entry_price"): 3_000.0,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
    (Kind.MARKET, MARKET, "imf"): 0.05,
    (Kind.VENUE, "dydx", "taker_fee"): 0.0,
    (Kind.CHAIN, "ethereum", "buffer_balance"): 50_000.0,
}
SPIKE = {"funding_rate": 0.001}


def asked(otherwise: str = "skip", step: str = "shrink_position: {by: 50%}", after_s: float = 5.0) -> tuple[World, NeedView]:
    text = f"- id: s\n  {step}\n  approval: {{from: [ana, ben], quorum: 2, timeout: 2m, otherwise: {otherwise}}}"
    world = World(runbook(text), readings=MARGIN)
    world.until(after_s, **SPIKE)
    (need,) = needs(world.engine, world.now)
    return world, need


def test_an_approval_shows_the_plan_the_account_before_and_after_and_the_deadline() -> None:
    world, need = asked()
    record = world.of(ApprovalRequested)[0]
    assert (need.kind, need.target, need.run_id, need.step) == ("approval", record.run_id, record.run_id, "s")
    assert need.title == "Approve shrink_position of 15,000 USD? Title of spike · dydx:ETH-USD"
    assert need.text.startswith("firing since 2023-11-14T22:13:20Z (5s): funding_rate is 0.1%/h, 0.05%/h above 0.05%/h")
    assert (need.since, need.deadline) == ("2023-11-14T22:13:20.000Z", "2023-11-14T22:15:20.000Z")
    assert need.if_nothing == "at 2023-11-14T22:15:20Z (in 1m55s) the step is skipped and the run goes on without it"
    assert need.digest == record.plan_digest
    assert (need.people, need.quorum, need.approvers) == (("ana", "ben"), 2, ())
    assert [leg.text for leg in need.legs] == ["SELL 5 dydx:ETH-USD, reduce-only; the position is 10 now"]
    assert need.legs[0].notional_usd == 15_000.0
    # 10 ETH at 3,000: 900 of 5,000; after half: 450 of what the spread of 1/3000 leaves.
    assert need.before is not None
    assert need.after is not None
    assert need.before.margin_ratio == pytest.approx(0.18)
    assert need.cost_usd == pytest.approx(15_000.0 / 3_000.0 / 2.0)
    assert need.after.margin_ratio == pytest.approx(450.0 / (5_000.0 - 2.5))
    assert (need.before.net_delta_usd, need.after.net_delta_usd) == (30_000.0, 15_000.0)
    assert need.verbs == ("approve", "deny", "pause", "halt")
    world.command("approve", record.run_id, actor="ana")
    assert needs(world.engine, world.now)[0].approvers == ("ana",)
    world.command("approve", record.run_id, actor="ben")
    assert needs(world.engine, world.now) == ()


@pytest.mark.parametrize(
    ("otherwise", "words"),
    [("proceed", "it is done without anybody's approval"), ("abort", "the run ends, and nothing more of it is done")],
)
def test_what_happens_when_nobody_answers_is_what_the_engine_does(otherwise: str, words: str) -> None:
    world, need = asked(otherwise)
    assert need.if_nothing.endswith(words)
    world.until(130)
    assert bool(world.orders) == (otherwise == "proceed")
    assert needs(world.engine, world.now) == ()


def test_a_move_shows_its_way_and_the_account_that_gets_it() -> None:
    _, need = asked(step="move_buffer: {from: ethereum, amount: 1000 USD}")
    assert need.title.startswith("Approve move_buffer of 1,000 USD?")
    assert [leg.text for leg in need.legs] == ["MOVE 1,000 USD ethereum -> dydx over cctp, fee 1 USD"]
    assert need.after is not None
    assert need.after.margin_ratio == pytest.approx(900.0 / 5_999.0)
    assert need.cost_usd == 1.0


@pytest.mark.parametrize(
    ("step", "title", "leg"),
    [
        ("webhook: {endpoint: custody, payload: {rate: '{funding_rate}'}}", "a call of custody", "CALL custody with rate: 0.1%/h"),
        ("cancel_orders: {scope: market}", "dydx:ETH-USD", "CANCEL dydx:ETH-USD"),
        ("halt: {scope: market}", "market/dydx:ETH-USD", "HALT market/dydx:ETH-USD"),
    ],
)
def test_what_has_no_size_is_named(step: str, title: str, leg: str) -> None:
    _, need = asked(step=step)
    assert title in need.title
    assert [each.text for each in need.legs] == [leg]
    assert (need.before, need.after, need.cost_usd) == (None, None, None)


def unknown(kind: type[Action], step: str) -> tuple[World, NeedView]:
    world = World(
        runbook(f"- id: s\n  {step}"), readings=MARGIN,
        answer=lambda action: Outcome(status="unknown", reason="silence") if isinstance(action, kind) else Outcome(status="done"),
    )  # fmt: skip
    world.until(5, **SPIKE)
    return world, needs(world.engine, world.now)[0]


def test_an_order_that_may_have_happened_waits_for_a_person_who_can_take_its_reading() -> None:
    world, need = unknown(ShrinkPosition, "shrink_position: {by: 50%}")
    assert need.kind == "unknown_outcome"
    assert need.title == "May have happened: SELL 5 dydx:ETH-USD, reduce-only"
    assert "limits count it (15,000 USD)" in need.text
    assert "never sent again" in need.if_nothing
    assert (need.target, need.verbs) == ("size/dydx:ETH-USD", ("ack",))
    (sent,) = world.engine.cold.sent.values()
    world.settle(sent.action, Outcome(status="failed", reason="never arrived"))
    assert needs(world.engine, world.now) == ()


def test_a_move_that_may_have_happened_is_named_by_its_action_and_a_webhook_by_nothing() -> None:
    world, need = unknown(MoveBuffer, "move_buffer: {from: ethereum, amount: 1000 USD}")
    assert need.target in world.engine.cold.transfers
    world.command("ack", need.target)
    assert world.engine.cold.transfers == {}
    _, call = unknown(CallWebhook, "webhook: {endpoint: custody, payload: {}}")
    assert (call.kind, call.verbs) == ("unknown_outcome", ())


def test_money_that_does_not_arrive_is_stuck_until_acknowledged() -> None:
    world = World(runbook("- id: s\n  move_buffer: {from: ethereum, amount: 1000 USD, route: cctp}"), readings=MARGIN)
    world.until(10, **SPIKE)
    assert needs(world.engine, world.now) == ()
    world.until(3_000, every=60, funding_rate=0.0)
    (need,) = needs(world.engine, world.now)
    assert (need.kind, need.verbs) == ("stuck_transfer", ("ack",))
    assert need.title == "1,000 USD has not arrived at dydx"
    assert need.if_nothing == "no further move goes to dydx until it is credited or acknowledged"
    world.command("ack", need.target)
    assert needs(world.engine, world.now) == ()


def test_a_written_size_that_nobody_shows_waits_after_a_minute() -> None:
    world = World(runbook(), readings=MARGIN)
    world.shows_fills = False
    world.step(world.rows(world.now))
    world.set(**SPIKE)
    world.step(world.rows(world.now))
    assert world.engine.cold.unseen == {f"size/{POSITION}": T0}
    assert needs(world.engine, world.now + 59 * NS) == ()
    (need,) = needs(world.engine, world.now + 60 * NS)
    assert (need.kind, need.target, need.verbs) == ("unread_resource", f"size/{POSITION}", ("ack",))
    assert need.title == "No reading of the size of dydx:ETH-USD since it was written"
    world.command("ack", need.target)
    assert needs(world.engine, world.now + 60 * NS) == ()


def test_what_the_shell_knows_comes_along_and_the_most_urgent_comes_first() -> None:
    world, _ = asked()
    found = needs(
        world.engine, world.now, refused_reload="a.yaml:1:1: error E001", restored="this journal is a restored backup",
        undelivered=[Undelivered(id="n1", endpoint="pager", reason="410 Gone", at=T0)],
    )  # fmt: skip
    assert [need.kind for need in found] == ["restored", "approval", "refused_reload", "undelivered"]
    assert found[3].since == "2023-11-14T22:13:20.000Z"
    assert all(need.if_nothing for need in found)
