"""The loop: one order over everything, intent on disk before the act, gaps before whatever they precede."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import cast

import pytest
from service_world import (
    ORIGIN_NS,
    FakeEngine,
    FakeJournal,
    ScriptedVenue,
    answers,
    rows,
    run_virtual,
    shrink,
    virtual_clock,
)

from daemon.engine.actions import Notify, Outcome
from daemon.engine.codec import decode
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import ActionSettled, Event, FeedFailed, Gap, Observed, RunbooksLoaded, Woke
from daemon.engine.records import ActionRequested, HoldReset, NoticeSent
from daemon.journal.entry import JournalError
from daemon.journal.store import Journal
from daemon.service.clock import Clock, WallClock
from daemon.service.dispatcher import Dispatcher
from daemon.service.inbox import Inbox
from daemon.service.loop import Loop, Mail, Position
from daemon.units import FOREVER, NS

Decide = Callable[[Event], Transition]
QUIET = Transition(records=(), actions=(), wake_at=FOREVER)


def requested(at: int) -> ActionRequested:
    action = shrink(expires_at=at + 20 * NS)
    return ActionRequested(
        at=at, run_id=action.run_id, step="shrink", slice=0, attempt=1, action=action, usd=100.0, resume_at=at, give_up_at=at + 30 * NS
    )


class House:
    """A loop with fakes around it, on the running virtual loop."""

    def __init__(self, decide: Decide | None = None, *, fails_at: int | None = None, clock: Clock | None = None) -> None:
        self.trace: list[str] = []
        self.engine = FakeEngine(decide)
        self.journal = FakeJournal(self.trace, fails_at)
        self.inbox = Inbox()
        self.clock = clock or virtual_clock()

        async def send(_action: object) -> Outcome:
            self.trace.append("send")
            return Outcome(status="done")

        self.venue = ScriptedVenue(send=send, lookup=answers(None))
        self.dispatcher = Dispatcher(edges=[self.venue], inbox=self.inbox, clock=self.clock)
        self.loop = Loop(
            engine=cast("Engine", self.engine),
            journal=cast("Journal", self.journal),
            inbox=self.inbox,
            clock=self.clock,
            dispatcher=self.dispatcher,
            mail=Mail(channels={"desk": ("hook", "second")}, compose=lambda notify, _at, _seq: notify.text),
            position=Position(seq=7, at=5),
            build="test",
        )

    async def run(self, seconds: float) -> None:
        task = asyncio.create_task(self.loop.run())
        await asyncio.sleep(seconds)
        self.loop.stop()
        await task


def test_loop_begins_with_the_gap_and_numbers_every_event_in_strictly_increasing_time() -> None:
    async def main() -> House:
        house = House()
        house.loop.begin(since=5)
        for number in range(5):
            house.inbox.put(Observed(at=0, source="s", rows=tuple(rows("m", value=float(number)))))
        house.inbox.put(FeedFailed(at=0, source="s", reason="down"))
        await house.run(0.5)
        return house

    house = run_virtual(main())
    events = house.engine.events
    assert isinstance(events[0], Gap)
    assert (events[0].since, events[0].cause, events[0].build) == (5, "start", "test")
    times = [event.at for event in events]
    assert times == sorted(set(times))
    assert times[0] >= ORIGIN_NS
    journaled = [entry for entry, _, _ in house.journal.appended if entry is not None] + house.journal.observed
    assert sorted(entry.seq for entry in journaled) == list(range(8, 8 + 7))
    # What is journaled is the event with the time it was given.
    assert {entry.at for entry in journaled} == set(times)


def test_loop_sends_observations_that_decide_nothing_to_the_feed_and_everything_else_through_the_barrier() -> None:
    def decide(event: Event) -> Transition:
        if isinstance(event, Observed) and event.source == "spike":
            return Transition(records=(HoldReset(at=event.at, runbook="r", entity="e", reason="x"),), actions=(), wake_at=FOREVER)
        return QUIET

    async def main() -> House:
        house = House(decide)
        for source in ("calm", "spike", "calm"):
            house.inbox.put(Observed(at=0, source=source, rows=tuple(rows("m"))))
        await house.run(0.1)
        return house

    house = run_virtual(main())
    assert house.trace == ["observe", "commit Observed", "observe"]
    event, records, _ = house.journal.appended[0]
    assert event is not None
    assert [record.seq for record in records] == [event.seq]
    assert isinstance(decode(records[0].body), HoldReset)


def test_loop_commits_an_intent_before_the_wire_sees_it() -> None:
    def decide(event: Event) -> Transition:
        if isinstance(event, Observed):
            record = requested(event.at)
            return Transition(records=(record,), actions=(record.action,), wake_at=FOREVER)
        return QUIET

    async def main() -> House:
        house = House(decide)
        house.inbox.put(Observed(at=0, source="s", rows=tuple(rows("m"))))
        await house.run(1.0)
        return house

    house = run_virtual(main())
    assert house.trace == ["commit Observed", "send", "commit ActionSettled"]
    assert isinstance(house.engine.events[-1], ActionSettled)


def test_loop_stops_acting_when_the_journal_cannot_commit() -> None:
    def decide(event: Event) -> Transition:
        record = requested(event.at)
        return Transition(records=(record,), actions=(record.action,), wake_at=FOREVER)

    async def main() -> House:
        house = House(decide, fails_at=0)
        house.inbox.put(Observed(at=0, source="s", rows=tuple(rows("m"))))
        with pytest.raises(JournalError, match="full"):
            await house.loop.run()
        await asyncio.sleep(5.0)
        return house

    house = run_virtual(main())
    assert house.venue.sent == []
    assert house.trace == []


def test_loop_puts_a_notice_into_the_outbox_in_the_commit_of_its_record_once_an_endpoint() -> None:
    def decide(event: Event) -> Transition:
        if not isinstance(event, FeedFailed):
            return QUIET
        to = ("desk", "desk", "nobody")
        notice = Notify(action_id="n.1", run_id="", runbook="r", to=to, event="fired", severity="warning", text="hello")
        return Transition(records=(NoticeSent(at=event.at, action=notice),), actions=(notice,), wake_at=FOREVER)

    async def main() -> House:
        house = House(decide)
        house.inbox.put(FeedFailed(at=0, source="s", reason="down"))
        await house.run(0.5)
        return house

    house = run_virtual(main())
    _, records, outbox = house.journal.appended[0]
    assert [record.type for record in records] == ["NoticeSent"]
    assert [(item.id, item.endpoint, item.body) for item in outbox] == [("n.1", "hook", "hello"), ("n.1", "second", "hello")]
    assert house.venue.sent == []


def test_loop_wakes_the_engine_when_it_asked_and_journals_no_wake_up_without_records() -> None:
    woken: list[int] = []

    def decide(event: Event) -> Transition:
        if isinstance(event, Woke):
            woken.append(event.at)
            if len(woken) == 2:
                return Transition(records=(HoldReset(at=event.at - 1, runbook="r", entity="e", reason="due"),), actions=(), wake_at=FOREVER)
        return Transition(records=(), actions=(), wake_at=ORIGIN_NS + (len(woken) + 1) * 3 * NS if len(woken) < 2 else FOREVER)

    async def main() -> House:
        house = House(decide)
        house.inbox.put(FeedFailed(at=0, source="s", reason="down"))
        await house.run(20.0)
        return house

    house = run_virtual(main())
    assert [round((at - ORIGIN_NS) / NS, 2) for at in woken] == [3.0, 6.0]
    assert house.trace == ["commit FeedFailed", "commit Woke"]
    assert house.journal.appended[1][0] is None


def test_loop_tells_the_engine_of_a_freeze_before_anything_else() -> None:
    async def main() -> House:
        frozen = [0]
        loop = asyncio.get_running_loop()
        clock = WallClock(wall=lambda: round(loop.time() * NS) + frozen[0], monotonic=lambda: round(loop.time() * NS) + frozen[0])
        house = House(clock=clock)
        house.loop.begin(since=0)
        task = asyncio.create_task(house.loop.run())
        await asyncio.sleep(2.0)
        frozen[0] += 30 * NS  # stopped and continued: both clocks went on, no turn was taken
        house.inbox.put(FeedFailed(at=0, source="s", reason="after the freeze"))
        await asyncio.sleep(1.0)
        house.loop.stop()
        await task
        return house

    house = run_virtual(main())
    assert [type(event).__name__ for event in house.engine.events] == ["Gap", "Gap", "FeedFailed"]
    gap = house.engine.events[1]
    assert isinstance(gap, Gap)
    assert gap.cause == "freeze"
    assert gap.since == house.engine.events[0].at
    assert gap.at - gap.since > 30 * NS


@pytest.mark.parametrize(("step_s", "gaps"), [(0.2, 0), (8.0, 1), (-8.0, 1)])
def test_loop_tells_the_engine_when_the_wall_clock_was_moved_and_never_goes_back_in_time(step_s: float, gaps: int) -> None:
    async def main() -> House:
        moved = [0]
        loop = asyncio.get_running_loop()
        clock = WallClock(wall=lambda: ORIGIN_NS + round(loop.time() * NS) + moved[0], monotonic=lambda: round(loop.time() * NS))
        house = House(clock=clock)
        house.loop.begin(since=0)
        task = asyncio.create_task(house.loop.run())
        await asyncio.sleep(2.5)
        moved[0] += round(step_s * NS)
        await asyncio.sleep(2.0)
        house.inbox.put(FeedFailed(at=0, source="s", reason="x"))
        await asyncio.sleep(0.5)
        house.loop.stop()
        await task
        return house

    house = run_virtual(main())
    causes = [event.cause for event in house.engine.events if isinstance(event, Gap)]
    assert causes == ["start"] + ["clock"] * gaps
    times = [event.at for event in house.engine.events]
    assert times == sorted(set(times))


def test_loop_brings_a_set_of_runbooks_into_force_with_its_event_and_not_before() -> None:
    async def main() -> House:
        house = House()
        house.loop.bring(RunbooksLoaded(at=0, runbooks={"a.yaml": "1"}), [])
        house.loop.bring(RunbooksLoaded(at=0, runbooks={"a.yaml": "2"}), [])
        assert house.engine.loaded == []
        await house.run(0.1)
        return house

    house = run_virtual(main())
    assert len(house.engine.loaded) == 2
    assert [entry.type for entry, _, _ in house.journal.appended if entry] == ["RunbooksLoaded", "RunbooksLoaded"]


def test_loop_writes_a_checkpoint_every_minute_of_real_time() -> None:
    async def main() -> House:
        house = House()
        house.loop.begin(since=0)
        await house.run(200.0)
        return house

    house = run_virtual(main())
    assert len(house.journal.checkpoints) == 3
