"""The one consumer of the inbox (floor 7): event -> `Engine.step` -> journal -> actions, strictly in this order.

An event gets its time and its number when it is taken out. Whatever decided something is on disk before anything acts on it; when the
journal cannot commit, the loop stops acting and raises `JournalError`. It turns at least once a second, so that a freeze shows.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace

from daemon.edges.formats import takes
from daemon.edges.webhook import Endpoint
from daemon.engine.actions import Action, Notify
from daemon.engine.codec import encode
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import Event, Gap, Observed, RunbooksLoaded, Woke
from daemon.engine.records import Record
from daemon.journal.entry import Entry, OutboxItem
from daemon.journal.store import Journal
from daemon.runbook.model import Runbook
from daemon.service.clock import Clock
from daemon.service.dispatcher import Dispatcher
from daemon.service.grouping import group_of, reminder, urgent
from daemon.service.inbox import Inbox
from daemon.service.logging import fact, log, readable
from daemon.service.tally import Durations
from daemon.units import FOREVER, MINUTE_NS, NS

TURN_MAX_S = 1.0  # real seconds between two turns when nothing happens
FREEZE_NS = 5 * NS  # real time between two turns that is no longer a slow turn but a freeze
CLOCK_STEP_NS = NS  # wall against monotonic time: NTP slews far slower than this within a turn, a suspend or a step does not
CHECKPOINT_EVERY_NS = MINUTE_NS
SLOW_TURN_NS = NS // 10  # a turn that blocks the process this long is worth a warning


@dataclass(slots=True, kw_only=True)
class Position:
    """Where the journal stands: number and time of the last event that got one."""

    seq: int = 0
    at: int = 0


@dataclass(slots=True, kw_only=True)
class Turns:
    """What the loop has done since the start, for the status page. Times in ns."""

    events: int = 0
    records: int = 0
    gaps: int = 0
    step_ns_max: int = 0  # longest decision since the start
    commit_ns_max: int = 0  # longest wait for a commit since the start
    decisions: Durations = field(default_factory=Durations)
    commits: Durations = field(default_factory=Durations)


class Mail:
    """Turns notices into outbox items: which endpoints a channel has, what a message says, and with which others it is told."""

    def __init__(
        self,
        *,
        channels: Mapping[str, Sequence[str]],
        compose: Callable[[Notify, int, int], str],
        endpoints: Mapping[str, Endpoint] | None = None,
    ) -> None:
        self._channels = channels
        self._compose = compose
        self._endpoints = endpoints or {}

    def items(self, notify: Notify, *, at: int, seq: int) -> list[OutboxItem]:
        """One item an endpoint of the notice's channels; a channel without an endpoint reaches the log only."""
        known = dict.fromkeys(name for channel in notify.to for name in self._channels.get(channel, ()))
        names = [name for name in known if name not in self._endpoints or takes(self._endpoints[name].format, notify.event)]
        if not names:
            return []
        body = self._compose(notify, at, seq)
        return [
            OutboxItem(
                id=notify.action_id,
                endpoint=name,
                body=body,
                severity=notify.severity,
                created_at=at,
                urgent=urgent(notify),
                group=group_of(self._endpoints[name].grouping if name in self._endpoints else None, notify),
                reminder=reminder(notify),
            )
            for name in names
        ]


@dataclass(slots=True, kw_only=True)
class Loop:
    """The imperative shell around the engine; everything it needs is handed to it, `position` is moved by it alone."""

    engine: Engine
    journal: Journal
    inbox: Inbox
    clock: Clock
    dispatcher: Dispatcher
    mail: Mail
    position: Position
    build: str = ""
    each_turn: Callable[[], None] = lambda: None  # the halt flag is read here, the status published
    committed: Callable[[Event, Transition], None] = lambda _event, _transition: None  # what must remember beside the engine
    beside: Callable[[], Mapping[str, bytes]] = dict  # blobs that go into a checkpoint with the engine's
    turns: Turns = field(default_factory=Turns)
    wake_at: int = FOREVER
    _sets: dict[str, Sequence[Runbook]] = field(default_factory=dict)
    _stopping: bool = False
    _turned_at: int = 0  # real ns
    _drift_ns: int = 0
    _checkpointed_at: int = 0  # real ns

    def __post_init__(self) -> None:
        self._turned_at = self._checkpointed_at = self.clock.real_ns()
        self._drift_ns = self.clock.drift_ns()

    def begin(self, since: int) -> None:
        """Queue the gap that opens every start: nobody watched from `since` to now. Call it before anything else is queued."""
        self.inbox.put(Gap(at=0, since=since, cause="start", build=self.build))

    async def redecide(self, event: Observed) -> None:
        """Decide the observation at which the life before ended, under its own time and number, and commit what came of it. What it asks
        for is not sent from here: it is looked up like every intent that a start finds. Call it before `begin`."""
        transition = self.engine.step(event)
        if transition.records:
            seq = self.position.seq
            records = [record_entry(seq, record) for record in transition.records]
            await asyncio.wrap_future(self.journal.append(None, records, self._outbox(transition.actions)))
        self.committed(event, transition)
        for record in transition.records:
            log_record(record)
        self.engine.apply_entry(Woke(at=self.position.at))  # as every recovery ends

    def bring(self, event: RunbooksLoaded, runbooks: Sequence[Runbook]) -> None:
        """Queue a set of runbooks that is valid as a whole; it is in force once the loop has taken the event."""
        self._sets[encode(event)] = tuple(runbooks)
        self.inbox.put(event)

    def stop(self) -> None:
        """Let `run` return after the turn it is in."""
        self._stopping = True

    async def run(self) -> None:
        """Turn until `stop`. Raises JournalError when a commit failed: nothing that it would have allowed was done."""
        while not self._stopping:
            await self.turn()

    async def turn(self) -> None:
        """Wait for the next event or due time, at most a second, and take everything that waits, one event after the other."""
        left_ns = self.wake_at - self.clock.now()
        await self.inbox.wait(min(TURN_MAX_S, max(0.0, left_ns / self.clock.speed / NS)))
        self.each_turn()
        if self._stopping:
            return  # nothing is in flight now; one event more might put something there
        for _ in range(len(self.inbox)):  # what arrives meanwhile waits for the next turn, which looks at the clock again
            event = self.inbox.take()
            if event is not None:
                await self._watched(event)
        if self.wake_at <= self.clock.now():
            await self._watched(Woke(at=0))
        else:
            await self._watched(None)
        if self.clock.real_ns() - self._checkpointed_at >= CHECKPOINT_EVERY_NS:
            await self.checkpoint()

    async def checkpoint(self) -> None:
        """Write the engine's state as of the last event; recovery starts there."""
        self._checkpointed_at = self.clock.real_ns()
        blobs = {**self.engine.checkpoint(), **self.beside()}
        await asyncio.wrap_future(self.journal.write_checkpoint(self.position.seq, self.position.at, blobs))

    async def _watched(self, event: Event | None) -> None:
        """Take an event, but first the gap before it, if there was one: no due may fire inside time that nobody watched."""
        gap = self._gap()
        if gap is not None and not isinstance(event, Gap):
            await self._take(gap)
        if event is not None:
            await self._take(event)

    def _gap(self) -> Gap | None:
        """A gap when this process was frozen or the wall clock was moved since the last event or turn."""
        now, drift = self.clock.real_ns(), self.clock.drift_ns()
        frozen = now - self._turned_at > FREEZE_NS
        moved = abs(drift - self._drift_ns) > CLOCK_STEP_NS
        self._turned_at, self._drift_ns = now, drift
        if not frozen and not moved:
            return None
        self.turns.gaps += 1
        return Gap(at=0, since=self.position.at, cause="freeze" if frozen else "clock", build=self.build)

    async def _take(self, event: Event) -> None:
        """Decide one event, commit, act. The order of these three is the promise of this house."""
        position = self.position
        position.at = max(self.clock.now(), position.at + 1)
        position.seq += 1
        event = replace(event, at=position.at)
        if isinstance(event, RunbooksLoaded):
            self.engine.load(self._sets.pop(encode(replace(event, at=0)), ()))
        began = self.clock.real_ns()
        transition = self.engine.step(event)
        decided = self.clock.real_ns()
        self.wake_at = transition.wake_at
        await self._commit(event, transition)
        committed = self.clock.real_ns()
        self._count(transition.records, decided - began, committed - decided)
        self.committed(event, transition)
        for record in transition.records:
            log_record(record)
        for action in transition.actions:
            self.dispatcher.perform(action)

    async def _commit(self, event: Event, transition: Transition) -> None:
        seq = self.position.seq
        if isinstance(event, Observed) and not transition.records:
            assert not transition.actions, "an action without a record has no audit"
            self.journal.observe(event_entry(seq, event))
            return
        if isinstance(event, Woke) and not transition.records:
            assert not transition.actions, "an action without a record has no audit"
            return
        entry = None if isinstance(event, Woke) else event_entry(seq, event)
        records = [record_entry(seq, record) for record in transition.records]
        await asyncio.wrap_future(self.journal.append(entry, records, self._outbox(transition.actions)))

    def _outbox(self, actions: Sequence[Action]) -> list[OutboxItem]:
        at, seq = self.position.at, self.position.seq
        return [item for action in actions if isinstance(action, Notify) for item in self.mail.items(action, at=at, seq=seq)]

    def _count(self, records: Sequence[Record], step_ns: int, commit_ns: int) -> None:
        turns = self.turns
        turns.events += 1
        turns.records += len(records)
        turns.step_ns_max = max(turns.step_ns_max, step_ns)
        turns.commit_ns_max = max(turns.commit_ns_max, commit_ns)
        turns.decisions.note(step_ns)
        turns.commits.note(commit_ns)
        if step_ns > SLOW_TURN_NS:
            log().warning("loop.lagged", step_ms=step_ns // 1_000_000, seq=self.position.seq)


def event_entry(seq: int, event: Event) -> Entry:
    """The journal entry of an event."""
    return Entry(seq=seq, at=event.at, role="event", type=type(event).__name__, body=encode(event))


def record_entry(seq: int, record: Record) -> Entry:
    """The journal entry of a record: it carries the number of the event that caused it and its own time (a due, for a timer's)."""
    return Entry(seq=seq, at=record.at, role="record", type=type(record).__name__, body=encode(record))


def log_record(record: Record) -> None:
    """Print one record once."""
    log().info(fact(type(record).__name__), **readable(asdict(record)))
