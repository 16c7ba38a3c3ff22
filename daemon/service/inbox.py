"""What waits for the engine (floor 7): a bounded queue in which observations coalesce, and outcomes and commands are never dropped.

Events are put in with `at` 0: the loop gives them their time and number when it takes them out, so what coalesced never had any.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import replace

from daemon.engine.events import Event, FeedFailed, Observed, OperatorCommand, Row
from daemon.world.entities import Kind

OBSERVATIONS_MAX = 1_024  # batches that wait before the oldest coalesce: about ten seconds of a hundred polls a second
KEPT = 3  # the weight of what must never be dropped
COMMANDS_MAX = 1_000  # a person does not type faster; more is a broken client and is refused


class Inbox:
    """The queue between every producer (pollers, dispatcher, scheduler, operators) and the one consumer, the loop."""

    def __init__(self, *, observations_max: int = OBSERVATIONS_MAX, commands_max: int = COMMANDS_MAX) -> None:
        assert observations_max >= 1
        self._waiting: deque[Event] = deque()
        self._observations_max = observations_max
        self._commands_max = commands_max
        self._observations = 0
        self._commands = 0
        self._arrived = asyncio.Event()
        self.coalesced = 0  # batches that were merged into a later one of their source since the start

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def owed(self) -> int:
        """How many of the waiting events must not be lost: outcomes, commands, gaps, timers. Observations may: they had no number yet."""
        return len(self._waiting) - self._observations

    def put(self, event: Event) -> bool:
        """Queue an event; False when a command was refused because too many wait. Call it on the loop's own thread."""
        match event:
            case Observed() | FeedFailed():
                if self._observations >= self._observations_max:
                    kept = self._coalesce(event)
                    if kept is None:
                        return True
                    event = kept
                self._observations += 1
            case OperatorCommand():
                if self._commands >= self._commands_max:
                    return False
                self._commands += 1
            case _:
                pass
        self._waiting.append(event)
        self._arrived.set()
        return True

    def take(self) -> Event | None:
        """The event that has waited longest; None when nothing waits."""
        if not self._waiting:
            return None
        event = self._waiting.popleft()
        match event:
            case Observed() | FeedFailed():
                self._observations -= 1
            case OperatorCommand():
                self._commands -= 1
            case _:
                pass
        return event

    async def wait(self, timeout_s: float) -> None:
        """Return as soon as something waits, or after `timeout_s` real seconds."""
        if self._waiting:
            return
        self._arrived.clear()
        try:
            async with asyncio.timeout(max(0.0, timeout_s)):
                await self._arrived.wait()
        except TimeoutError:
            return

    def _coalesce(self, newest: Observed | FeedFailed) -> Observed | FeedFailed | None:
        """Make room for one observation; `newest`, merged with an older one of its source if that made the room, None when it gave way."""
        self.coalesced += 1
        waiting = self._waiting
        for index, old in enumerate(waiting):
            if not isinstance(old, Observed | FeedFailed) or (isinstance(old, Observed) and old.history):
                continue  # history is not repeated by any later poll
            for later_index in range(index + 1, len(waiting) + 1):
                later = waiting[later_index] if later_index < len(waiting) else newest
                merged = merge(old, later)
                if merged is None:
                    continue
                if later_index < len(waiting):
                    waiting[later_index] = merged
                else:
                    newest = merged
                del waiting[index]
                self._observations -= 1
                return newest
        # More sources than places. A failed poll goes first, it carries no value; then the oldest readings, whose signals age, which is
        # what staleness is for; history last, because it is never read again.
        least = min(range(len(waiting)), key=lambda index: (_weight(waiting[index]), index))
        if isinstance(newest, FeedFailed) and not isinstance(waiting[least], FeedFailed):
            return None
        assert _weight(waiting[least]) < KEPT, "the inbox is full of observations and holds none"
        del waiting[least]
        self._observations -= 1
        return newest


def _weight(event: Event) -> int:
    """What is lost with an event, least first; `KEPT`: it must never be dropped."""
    match event:
        case FeedFailed():
            return 0
        case Observed():
            return 2 if event.history else 1
        case _:
            return KEPT


def merge(old: Observed | FeedFailed, new: Event) -> Observed | FeedFailed | None:
    """One event in place of two of one source; None when `new` cannot stand for `old`.

    A batch says what `new` says and, of the signals that `new` is silent about, what `old` said. The time of observation belongs
    to a row, so older values stay in rows of their own, first. A poll that failed does not replace values that were read before it.
    """
    match new:
        case Observed() if new.source == old.source and not new.history:
            return new if isinstance(old, FeedFailed) else _join(old, new)
        case FeedFailed() if new.source == old.source and isinstance(old, FeedFailed):
            return new
        case _:
            return None


def _join(old: Observed, new: Observed) -> Observed:
    said: dict[tuple[Kind, str], set[str]] = {}
    for row in new.rows:
        said.setdefault((row.kind, row.entity), set()).update(row.values)
    kept: list[Row] = []
    for row in old.rows:
        silent = {name: value for name, value in row.values.items() if name not in said.get((row.kind, row.entity), ())}
        if silent:
            kept.append(replace(row, values=silent))
    return replace(new, rows=(*kept, *new.rows))
