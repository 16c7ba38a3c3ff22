"""A virtual world for the service's tests: an event loop whose clock jumps to the next timer, and fakes of feeds and venues.

`run_virtual(main())` runs a coroutine without ever sleeping: when every task waits for time, time is what moves.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence
from concurrent.futures import Future
from decimal import Decimal
from typing import TypeVar

from daemon.engine.actions import Action, Outcome, ShrinkPosition
from daemon.engine.engine import Transition
from daemon.engine.events import Event, Row
from daemon.journal.entry import Entry, JournalError, OutboxItem
from daemon.runbook.model import Runbook
from daemon.service.clock import AcceleratedClock
from daemon.service.inbox import Inbox
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind

START_S = 1e6  # a virtual clock near zero hides errors of the kind `last or now`
ORIGIN_NS = 1_767_225_600 * NS  # 2026-01-01T00:00:00Z

T = TypeVar("T")


class _JumpingSelector:
    """A selector that does not wait: when nothing is ready it moves the loop's clock by what it was asked to wait."""

    def __init__(self, loop: JumpingLoop) -> None:
        self._real = selectors.DefaultSelector()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        ready = self._real.select(0)
        if not ready and timeout:
            self._loop.now_s += timeout
        assert ready or timeout is not None, "every task waits for something that never comes"
        return ready

    def __getattr__(self, name: str) -> object:
        return getattr(self._real, name)


class JumpingLoop(asyncio.SelectorEventLoop):
    """An event loop in virtual time."""

    def __init__(self) -> None:
        self.now_s = START_S
        super().__init__(_JumpingSelector(self))  # type: ignore[arg-type]

    def time(self) -> float:
        return self.now_s


def run_virtual(main: Coroutine[object, object, T]) -> T:
    """The coroutine's value, in no real time."""
    with asyncio.Runner(loop_factory=JumpingLoop) as runner:
        return runner.run(main)


def virtual_clock(speed: float = 1.0) -> AcceleratedClock:
    """Engine time that follows the running virtual loop, from `ORIGIN_NS`."""
    loop = asyncio.get_running_loop()
    return AcceleratedClock(speed=speed, now_ns=ORIGIN_NS, monotonic=lambda: round(loop.time() * NS))


def drained(inbox: Inbox) -> list[Event]:
    """Everything that waits, taken out."""
    events: list[Event] = []
    while (event := inbox.take()) is not None:
        events.append(event)
    return events


def shrink(action_id: str = "spike/dydx:BTC-USD/1/1.shrink.0.1", expires_at: int = ORIGIN_NS + 20 * NS) -> ShrinkPosition:
    """A reduce-only order of 1 base unit."""
    return ShrinkPosition(
        action_id=action_id, run_id="spike/dydx:BTC-USD/1/1", runbook="spike", account="dydx", market="dydx:BTC-USD", side="SELL",
        size=Decimal(1), limit_price=Decimal(99), reference_price=100.0, notional_usd=100.0, expires_at=expires_at,
    )  # fmt: skip


class ScriptedVenue:
    """A venue that answers sends and lookups with what a test gives it; every call is kept, with its time in seconds."""

    name = "scripted"

    def __init__(
        self, *, send: Callable[[Action], Awaitable[Outcome]], lookup: Callable[[Action], Awaitable[Outcome | None]] | None = None
    ) -> None:
        self._send = send
        self._lookup = lookup
        self.sent: list[tuple[float, str]] = []
        self.looked_up: list[tuple[float, str]] = []

    def takes(self, action: Action) -> bool:
        return True

    async def send(self, action: Action) -> Outcome:
        self.sent.append((asyncio.get_running_loop().time() - START_S, action.action_id))
        return await self._send(action)

    async def lookup(self, action: Action) -> Outcome | None:
        self.looked_up.append((asyncio.get_running_loop().time() - START_S, action.action_id))
        assert self._lookup is not None, "this action was not to be looked up"
        return await self._lookup(action)

    async def close(self) -> None:
        return None


def answers(*replies: Outcome | Exception | None) -> Callable[[Action], Awaitable[Outcome | None]]:
    """A coroutine function that gives `replies` one after the other, the last one for ever."""
    left: list[Outcome | Exception | None] = list(replies)

    async def answer(_action: Action) -> Outcome | None:
        reply = left.pop(0) if len(left) > 1 else left[0]
        if isinstance(reply, Exception):
            raise reply
        return reply

    return answer


def rows(*entities: str, value: float = 1.0, kind: str = "market", name: str = "oracle_price") -> Sequence[Row]:
    """One row an entity."""
    return tuple(Row(kind=Kind(kind), entity=entity, values={name: value}) for entity in entities)


class FakeJournal:
    """A journal in memory that commits at once, or refuses from the commit `fails_at` on; `trace` is the order of everything."""

    def __init__(self, trace: list[str], fails_at: int | None = None) -> None:
        self.trace = trace
        self.fails_at = fails_at
        self.appended: list[tuple[Entry | None, tuple[Entry, ...], tuple[OutboxItem, ...]]] = []
        self.observed: list[Entry] = []
        self.checkpoints: list[tuple[int, int]] = []

    def append(self, event: Entry | None, records: Sequence[Entry], outbox: Sequence[OutboxItem] = ()) -> Future[None]:
        done: Future[None] = Future()
        if self.fails_at is not None and len(self.appended) >= self.fails_at:
            done.set_exception(JournalError("database or disk is full"))
            return done
        self.appended.append((event, tuple(records), tuple(outbox)))
        self.trace.append(f"commit {event.type if event else 'Woke'}")
        done.set_result(None)
        return done

    def observe(self, entry: Entry) -> None:
        self.observed.append(entry)
        self.trace.append("observe")

    def write_checkpoint(self, seq: int, at: int, blobs: Mapping[str, bytes]) -> Future[None]:
        self.checkpoints.append((seq, at))
        done: Future[None] = Future()
        done.set_result(None)
        return done


class FakeEngine:
    """An engine that decides what a test tells it to; it keeps every event it was given."""

    def __init__(self, decide: Callable[[Event], Transition] | None = None) -> None:
        self.decide = decide or (lambda _event: Transition(records=(), actions=(), wake_at=FOREVER))
        self.events: list[Event] = []
        self.loaded: list[Sequence[Runbook]] = []

    def load(self, runbooks: Sequence[Runbook]) -> None:
        self.loaded.append(runbooks)

    def step(self, event: Event) -> Transition:
        self.events.append(event)
        return self.decide(event)

    def checkpoint(self) -> Mapping[str, bytes]:
        return {}
