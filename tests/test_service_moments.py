"""A run in plain words, out of a real journal; every type of record has its words."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import get_args

import pytest
from chronicle_world import APPROVED, PLAIN, answering, filled, follow, journaled
from engine_world import ACCOUNT, MARKET, POSITION, T0, World, runbook

from daemon.engine import records as r
from daemon.engine.actions import CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.events import OperatorCommand
from daemon.journal.reader import Reader
from daemon.service.chronicle import Chronicle
from daemon.service.moments import run_detail
from daemon.service.views import Moment, RunDetail
from daemon.service.words import act_text, told
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind

RUN = "spike/dydx:ETH-USD/1700000000000000000/1"
ORDER = ShrinkPosition(
    action_id=f"{RUN}.shrink.1.1", run_id=RUN, runbook="spike", account="dydx", market="dydx:ETH-USD", side="SELL", size=Decimal("0.40"),
    limit_price=Decimal(2985), reference_price=3000.0, notional_usd=1200.0, expires_at=T0 + 20 * NS,
)  # fmt: skip
MOVE = MoveBuffer(
    action_id=f"{RUN}.top-up.1.1", run_id=RUN, runbook="spike", source="ethereum", destination="dydx", route="cctp", amount=Decimal(5000),
    max_fee=Decimal(6), expires_at=T0 + 20 * NS,
)  # fmt: skip
LEGS = (
    r.Leg(position="dydx:ETH-USD", side="SELL", size=Decimal("2.50")),
    r.Leg(position="dydx:BTC-USD", side="BUY", size=Decimal("1E-2")),
)
SENT = r.ActionRequested(
    at=T0, run_id=RUN, step="shrink", slice=1, attempt=1, action=ORDER, usd=1200.0, resume_at=T0, give_up_at=T0 + 80 * NS
)


def notify(text: str, to: tuple[str, ...] = ()) -> Notify:
    return Notify(action_id=f"{RUN}.tell.1.1", run_id=RUN, runbook="spike", to=to, event="step", severity="info", text=text)


def finished(outcome: Outcome, after_s: int = 1) -> r.ActionFinished:
    return r.ActionFinished(at=T0 + after_s * NS, action_id=ORDER.action_id, run_id=RUN, outcome=outcome)


def trigger(change: str, **more: object) -> r.TriggerChanged:
    return r.TriggerChanged(
        at=T0, runbook="spike", entity="dydx:ETH-USD", episode=RUN[:-2], change=change, pending_at=T0 - 180 * NS, fired_at=T0, **more  # type: ignore[arg-type]
    )  # fmt: skip


def waiting(word: str, until: int = FOREVER, reason: str = "why") -> r.StepWaiting:
    return r.StepWaiting(at=T0, run_id=RUN, step="shrink", waiting=word, until=until, reason=reason)  # type: ignore[arg-type]


def answered(answer: str, granted: bool) -> r.ApprovalAnswered:
    return r.ApprovalAnswered(at=T0, run_id=RUN, step="shrink", answer=answer, actor="ana", granted=granted)  # type: ignore[arg-type]


SAID: list[tuple[r.Record, str, tuple[str, ...], str]] = [
    (trigger("fired", sizes={"dydx:ETH-USD": -10.0}), "fired", ("held for 3m", "dydx:ETH-USD: -10 ETH"), "bad"),
    (trigger("cleared"), "cleared", (), "good"),
    (trigger("gone"), "over: what it was about is gone", (), "plain"),
    (trigger("reset", reason="its logic changed"), "over without clearing", ("its logic changed",), "bad"),
    (r.HoldReset(at=T0, runbook="spike", entity="x", reason="a gap of 2m"), "its hold starts anew", ("a gap of 2m",), "plain"),
    (r.KnowledgeChanged(at=T0, runbook="spike", entity="x", unknown=("size",)), "cannot be judged: size unknown", (), "bad"),
    (r.KnowledgeChanged(at=T0, runbook="spike", entity="x", unknown=()), "can be judged again", (), "good"),
    (r.RunbooksInForce(at=T0, runbooks={"spike": "ab"}), "1 runbook is in force", ("spike",), "plain"),
    (
        r.RunRefused(at=T0, run_id=RUN, runbook="spike", entity="x", episode="e", status="blocked", reason="over limits.runs"),
        "no run: blocked", ("over limits.runs",), "bad",
    ),
    (
        r.RunStarted(
            at=T0, run_id=RUN, runbook="s", entity="x", episode="e", digest="d", on_clear=False, shadow=True, frame={"size@start": 10.0}
        ),
        "shadow run started", ("nothing of it is sent", "size@start is 10"), "plain",
    ),
    (r.LocksTaken(at=T0, run_id=RUN, locks=("account/dydx", "position/x")), "locked account/dydx, position/x", (), "plain"),
    (r.LocksReleased(at=T0, run_id=RUN, reason="taken by margin-low"), "gave its locks back", ("taken by margin-low",), "plain"),
    (r.StepStarted(at=T0, run_id=RUN, step="shrink", index=0), "shrink begins", (), "plain"),
    (waiting("guards", T0 + 120 * NS), "shrink waits for its guards", ("why", "at most 2m, until 2023-11-14T22:15:20.000Z"), "wait"),
    (waiting("inhibited"), "shrink is inhibited", ("why",), "wait"),
    (
        r.StepPlanned(at=T0, run_id=RUN, step="shrink", legs=LEGS, notional_usd=8_500.0, fee_usd=4.25),
        "plan: SELL 2.5 dydx:ETH-USD, BUY 0.01 dydx:BTC-USD", ("8,500 USD", "fees about 4.25 USD"), "plain",
    ),
    (
        r.StepPlanned(at=T0, run_id=RUN, step="top-up", amount=Decimal(5000), notional_usd=5_000.0),
        "plan: move 5,000 USD", ("5,000 USD",), "plain",
    ),
    (
        r.ApprovalRequested(
            at=T0, run_id=RUN, step="shrink", deadline=T0 + 600 * NS, people=("ana", "ben"), quorum=2, notional_usd=8_500.0, legs=LEGS,
            amount=None, plan_digest="d", reason="",
        ),
        "shrink needs an approval: ana, ben, 2 of them have to agree",
        ("SELL 2.5 dydx:ETH-USD, BUY 0.01 dydx:BTC-USD", "8,500 USD", "at most 10m, until 2023-11-14T22:23:20.000Z"), "wait",
    ),
    (answered("approved", True), "shrink was approved by ana", (), "good"),
    (answered("approved", False), "shrink was approved by ana", ("one more has to agree",), "wait"),
    (answered("denied", False), "shrink was denied by ana", (), "bad"),
    (answered("timed_out", True), "nobody answered in time: it goes on without one", (), "bad"),
    (answered("timed_out", False), "nobody answered in time: shrink is not done", (), "bad"),
    (
        SENT, "SELL 0.4 dydx:ETH-USD, reduce-only",
        ("never worse than 2,985 USD, mid 3,000 USD", "1,200 USD, void after 20s"), "wait",
    ),
    (
        r.ActionRequested(
            at=T0, run_id=RUN, step="top-up", slice=2, attempt=3, action=MOVE, usd=5000.0, resume_at=T0, give_up_at=T0 + 80 * NS
        ),
        "slice 2, attempt 3: move 5,000 USD from ethereum to dydx over cctp", ("at most 6 USD of fees",), "wait",
    ),
    (
        r.ActionDenied(at=T0, run_id=RUN, step="shrink", kind="shrink_position", limit="per_day", reason="over per_day", usd=1200.0),
        "shrink was denied by the limit per_day", ("over per_day", "1,200 USD"), "bad",
    ),
    (
        r.LimitClipped(at=T0, run_id=RUN, step="shrink", limit="per_day", wanted_usd=1200.0, allowed_usd=300.0),
        "shrink was made smaller by the limit per_day", ("1,200 USD was wanted, 300 USD is allowed",), "bad",
    ),
    (
        r.ActionWould(at=T0, run_id=RUN, step="shrink", kind="shrink_position", usd=1200.0, text="SELL 0.4 of dydx:ETH-USD"),
        "shrink would do: SELL 0.4 of dydx:ETH-USD", ("shadow: nothing was sent", "1,200 USD"), "good",
    ),
    (finished(Outcome(status="rejected", reason="no margin")), "rejected: it will not work", ("no margin",), "bad"),
    (finished(Outcome(status="failed", reason="503")), "failed: certainly nothing happened", ("503",), "bad"),
    (
        finished(Outcome(status="unknown", reason="no answer")), "outcome UNKNOWN",
        ("it may have happened: it is looked up, never sent again", "no answer"), "bad",
    ),
    (finished(Outcome(status="done", amount=Decimal(4995), fee_usd=Decimal(5))), "done: 4,995 USD", ("fee 5 USD",), "good"),
    (
        r.RetryScheduled(at=T0, run_id=RUN, step="shrink", next_at=T0 + 4 * NS, reason="503"),
        "shrink is tried again in 4s", ("503",), "wait",
    ),
    (r.LegAbandoned(at=T0, run_id=RUN, step="shrink", leg=1, reason="no price"), "shrink: leg 2 was given up", ("no price",), "bad"),
    (r.LegFinished(at=T0, run_id=RUN, step="shrink", leg=0), "shrink: leg 1 is through", (), "plain"),
    (
        r.StepFinished(at=T0, run_id=RUN, step="shrink", kind="shrink_position", status="failed", reason="503", acted=True),
        "shrink: failed", ("503", "something of it was done"), "bad",
    ),
    (r.RunFinished(at=T0, run_id=RUN, status="unknown", reason="no answer"), "run ended: UNKNOWN", ("no answer",), "bad"),
    (r.NoticeSent(at=T0, action=notify("hello")), "tell the default channels: hello", (), "plain"),
    (
        r.GateChanged(at=T0, kind="market", entity="dydx:ETH-USD", closed=True, by="spike", reason=""),
        "gate of market dydx:ETH-USD closed by spike", ("no strategy may open there",), "good",
    ),
    (
        r.PauseSet(at=T0, target="", until=T0 + NS, by="operator ana", reason="maintenance"),
        "everything paused by operator ana until 2023-11-14T22:13:21.000Z", ("maintenance",), "wait",
    ),
    (r.PauseEnded(at=T0, target="spike", by="time"), "spike is no longer paused (time)", (), "good"),
    (r.HaltChanged(at=T0, halted=True, by="operator ana", reason="fire"), "everything is halted by operator ana", ("fire",), "bad"),
    (
        r.CommandTaken(at=T0, command_id="c", actor="ana", verb="halt", target="", effect="halted everything", reason="fire"),
        "halted everything, asked by ana", ("halt everything", "fire"), "plain",
    ),
    (
        r.CommandTaken(at=T0, command_id="c", actor="ana", verb="reload", target="", effect="noted", reason="12 runbooks"),
        "reload everything, asked by ana", ("12 runbooks",), "plain",
    ),
    (
        r.ApprovalRequested(
            at=T0, run_id=RUN, step="top-up", deadline=FOREVER, people=(), quorum=1, notional_usd=5_000.0, legs=(), amount=Decimal(5000),
            plan_digest="d", reason="", what={"route": "cctp", "fee_usd": 6.0, "payload": {"secret": 1}},
        ),
        "top-up needs an approval: anyone who may approve", ("move 5,000 USD", "5,000 USD", "route: cctp", "fee: 6 USD"), "wait",
    ),
    (r.ResourceSeen(at=T0, resource="size/dydx:ETH-USD"), "size of dydx:ETH-USD was read anew", (), "plain"),
    (
        r.SizeChanged(at=T0, position="dydx:ETH-USD", size=-7.5, ours=False, cause="external change", episodes=("e",)),
        "size of dydx:ETH-USD is -7.5 ETH: somebody else changed it", ("external change",), "bad",
    ),
    (r.MoveProgress(at=T0, action_id=MOVE.action_id, stage="overdue"), "the transfer is overdue", (MOVE.action_id,), "bad"),
    (r.TimerTaken(at=T0, timer="review", due=T0), "timer review counted, due 2023-11-14T22:13:20.000Z", (), "plain"),
]  # fmt: skip


@pytest.mark.parametrize(("record", "title", "lines", "tone"), SAID, ids=[f"{i}-{type(s[0]).__name__}" for i, s in enumerate(SAID)])
def test_a_record_says_what_happened_with_units(record: r.Record, title: str, lines: tuple[str, ...], tone: str) -> None:
    said = told(record)
    assert (said.title, said.lines, said.tone) == (title, lines, tone)


def test_every_type_of_record_has_its_words() -> None:
    assert {type(record) for record, *_ in SAID} == set(get_args(r.Record))


def test_an_outcome_beside_its_intent_tells_filled_of_asked_and_the_price_against_mid() -> None:
    partly = Outcome(status="done", reason="partly filled", filled_size=Decimal("0.3"), fill_price=Decimal("2997"), fee_usd=Decimal("0.45"))
    said = told(finished(partly, after_s=2), SENT)
    assert said.title == "filled 0.3 of 0.4 ETH at 2,997 USD"
    assert said.lines == ("0.1% worse than mid", "fee 0.45 USD", "partly filled", "answered after 2s")
    better = told(finished(Outcome(status="done", filled_size=Decimal("0.4"), fill_price=Decimal("3003"))), SENT)
    assert better.title == "filled 0.4 ETH at 3,003 USD"
    assert better.lines[0] == "0.1% better than mid"
    unknown = told(finished(Outcome(status="unknown", reason="")), SENT)
    assert unknown.lines[-1] == "SELL 0.4 dydx:ETH-USD, reduce-only"


def test_every_action_says_what_it_asks_for() -> None:
    head = {"action_id": f"{RUN}.x.1.1", "run_id": RUN, "runbook": "spike"}
    gate = {**head, "kind": "market", "entity": "dydx:ETH-USD"}
    one = CancelOrders(**head, account="dydx", market="dydx:ETH-USD", expires_at=0)
    assert act_text(one) == "cancel the open orders of dydx in dydx:ETH-USD"
    assert act_text(CancelOrders(**head, account="dydx", market=None, expires_at=0)) == "cancel the open orders of dydx"
    assert act_text(Halt(**gate)) == "close the gate of market dydx:ETH-USD"
    assert act_text(Resume(**gate)) == "open the gate of market dydx:ETH-USD"
    assert act_text(CallWebhook(**head, endpoint="desk", payload={}, expires_at=0)) == "call the webhook desk"
    assert act_text(notify("hello", ("desk", "phone"))) == "tell desk, phone: hello"


# --- whole runs ---------------------------------------------------------------------------------------------------------


def detail(world: World, folder: Path, run_id: str) -> RunDetail:
    """The run by its place in the index; found by its id alone it must be the same."""
    reader = journaled(world, folder)
    chronicle = Chronicle()
    follow(chronicle, world.entries)
    found = run_detail(reader, run_id, chronicle.place(run_id))
    assert found is not None
    assert found.head == chronicle.run(run_id)
    assert run_detail(reader, run_id) == found
    return found


def titles(moments: tuple[Moment, ...]) -> list[str]:
    return [moment.title for moment in moments]


def test_a_run_with_a_retry_and_a_lookup_reads_from_firing_to_end(tmp_path: Path) -> None:
    unknown = Outcome(status="unknown", reason="no answer within 20s")
    world = World(PLAIN, answer=answering(Outcome(status="failed", reason="503"), lambda a: filled(a, share="0.4"), unknown))
    world.until(40, funding_rate=0.001)
    world.settle(world.orders[-1], filled(world.orders[-1]))
    found = detail(world, tmp_path, world.orders[0].run_id)
    assert titles(found.moments) == [
        "Fired", "Run started", "stop begins", "Close the gate of market dydx:ETH-USD", "Gate of market dydx:ETH-USD closed by spike",
        "stop: done", "shrink begins", "Plan: SELL 2.5 dydx:ETH-USD", "SELL 1.25 dydx:ETH-USD, reduce-only",
        "Failed: certainly nothing happened", "shrink is tried again in 3s", "Slice 1, attempt 2: SELL 1.25 dydx:ETH-USD, reduce-only",
        "Filled 0.5 of 1.25 ETH at 2,998.5 USD", "Size of dydx:ETH-USD is 9.5 ETH", "Size of dydx:ETH-USD was read anew",
        "Slice 2: SELL 2 dydx:ETH-USD, reduce-only", "Outcome UNKNOWN", "Filled 2 ETH at 2,998.5 USD", "shrink: leg 1 is through",
        "shrink: done", "Run ended: done",
    ]  # fmt: skip
    assert found.head.filled_usd == pytest.approx(2.5 * 2998.5)
    assert found.why is not None
    assert found.why.shown == "TRUE"
    assert found.why.kids[0].shown == "0.1%/h"
    assert found.source_digest == world.books[0].digest
    assert {moment.step for moment in found.moments} == {"", "stop", "shrink"}
    assert found.moments[1].body["run_id"] == found.head.run_id
    assert [moment.seq for moment in found.moments] == sorted(moment.seq for moment in found.moments)


def test_a_run_that_people_decided_names_them(tmp_path: Path) -> None:
    world = World(APPROVED)
    world.until(5, funding_rate=0.001)
    run_id = next(iter(world.engine.cold.runs))
    event = OperatorCommand(at=world.now, command_id="c1", actor="ben", verb="deny", target=run_id, reason="not today")
    world.step(event)
    found = detail(world, tmp_path, run_id)
    assert titles(found.moments)[-4:] == [
        "shrink was denied by ben", f"Denied shrink of {run_id}, asked by ben", "shrink: aborted", "Run ended: aborted"
    ]  # fmt: skip
    assert found.head.status == "aborted"
    assert "not today" in {line for moment in found.moments for line in moment.lines}


def test_runs_of_one_episode_are_kept_apart_though_one_id_begins_like_the_other(tmp_path: Path) -> None:
    text = runbook(name="spike", steps="- id: stop\n  halt: {scope: market}", rest="repeat: {every: 10s, max: 20}\n")
    world = World(text)
    world.until(200, funding_rate=0.001)
    runs = [started.run_id for started in world.of(r.RunStarted)]
    assert runs[0].endswith("/1")
    assert runs[9].endswith("/10")
    first = detail(world, tmp_path, runs[0])
    assert {moment.body.get("run_id", runs[0]) for moment in first.moments} == {runs[0]}
    assert sum(moment.kind == "GateChanged" for moment in first.moments) == 1
    tenth = run_detail(Reader(tmp_path / "state.db"), runs[9])
    assert tenth is not None
    assert tenth.moments[0].title == "Fired"
    assert {moment.body.get("run_id", runs[9]) for moment in tenth.moments} == {runs[9]}


def test_what_somebody_else_did_to_the_position_stands_in_the_trace(tmp_path: Path) -> None:
    world = World(PLAIN)
    world.until(5, funding_rate=0.001)
    world.observe(size=3.0)
    world.until(60)
    found = detail(world, tmp_path, world.orders[0].run_id)
    changed = next(moment for moment in found.moments if moment.kind == "SizeChanged" and moment.tone == "bad")
    assert changed.title == "Size of dydx:ETH-USD is 3 ETH: somebody else changed it"
    assert found.head.status == "aborted"


def test_a_refused_run_tells_its_firing_and_why_there_was_no_run(tmp_path: Path) -> None:
    world = World(PLAIN + "limits: {runs: 1/day}\n")
    world.until(40, funding_rate=0.001)
    world.until(60, funding_rate=0.0)
    world.until(100, funding_rate=0.001)
    refused = world.of(r.RunRefused)[0]
    found = detail(world, tmp_path, refused.run_id)
    assert titles(found.moments)[:2] == ["Fired", "No run: blocked"]
    assert found.why is None
    assert found.head.status == "blocked"


def test_a_move_is_told_until_its_money_has_arrived_after_the_run_has_ended(tmp_path: Path) -> None:
    text = runbook(
        "- id: top-up\n  move_buffer: {from: ethereum, amount: 1_000 USD}",
        name="top", scope="account", intent="survival", when="maintenance_margin > 1 USD",
    )  # fmt: skip
    collateral = (Kind.ACCOUNT, ACCOUNT, "collateral")
    readings = {
        collateral: 5_000.0, (Kind.CHAIN, "ethereum", "buffer_balance"): 100_000.0, (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "imf"): 0.05, (Kind.MARKET, MARKET, "mmf"): 0.03,
    }  # fmt: skip
    settled = Outcome(status="done", reason="in flight", amount=Decimal(1000), fee_usd=Decimal("1.2"))
    world = World(text, readings=readings, answer=lambda action: settled)
    world.until(10)
    world.set(collateral=5_999.0)
    world.until(30)
    move = world.sent(MoveBuffer)[0]
    found = detail(world, tmp_path, move.run_id)
    assert (found.head.status, found.head.asked_usd, found.head.filled_usd, found.head.cost_usd) == ("done", 1_000.0, 1_000.0, 1.2)
    told_of_it = {moment.kind: moment for moment in found.moments if moment.step == "top-up"}
    assert told_of_it["ActionRequested"].title == "Move 1,000 USD from ethereum to dydx over cctp"
    assert told_of_it["ActionFinished"].lines[:2] == ("fee 1.2 USD", "in flight")
    assert told_of_it["MoveProgress"].seq > told_of_it["StepFinished"].seq
    chronicle = Chronicle()
    follow(chronicle, world.entries)
    act = chronicle.acts()[0]
    assert (act.asked, act.filled, act.mid, act.cost_usd, act.status) == ("1,000 USD", "1,000 USD", None, 1.2, "done")


def test_a_run_that_never_was_is_not_found(tmp_path: Path) -> None:
    world = World(PLAIN)
    world.until(40, funding_rate=0.001)
    reader = journaled(world, tmp_path)
    assert run_detail(reader, f"spike/dydx:BTC-USD/{T0}/1") is None
    assert run_detail(reader, f"spike/dydx:ETH-USD/{T0}/99") is None
    assert run_detail(reader, "nonsense") is None
    assert run_detail(reader, f"spike/\ud800/{T0}/1") is None
    assert run_detail(reader, "") is None
