"""What happens, as a stream that any thread may read (floor 7): a bounded ring that the loop writes and pages and `reefd tail` read.

    happenings.publish(seq, transition.records)                  # on the loop's thread, a microsecond a record
    reader = happenings.subscribe(after=(1042, 3))               # anywhere: in another thread's event loop
    for happening in await reader.take(timeout_s=15.0): ...      # empty after the timeout: time for a sign of life

A record becomes words when somebody reads it, in the reader's thread. Who does not keep up loses the oldest and is told with one
`lagged`. `snapshot` is not kept in the ring: a reader gets the latest one that it has not seen.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from itertools import islice

from daemon.engine.records import ActionFinished, ActionRequested, NoticeSent, Record
from daemon.service.annals import run_of, subject_of
from daemon.service.views import Happening
from daemon.service.words import told
from daemon.units import iso

RING = 1_000
BATCH_MAX = 200  # happenings handed out at once
LINES_SHOWN = 2

Requested = Callable[[str], ActionRequested | None]  # the intent of an action id, where it is remembered


_Kept = tuple[int, int, Record | Happening]  # in the ring: seq, part, and the record, or a happening that is none


class Happenings:
    """The ring and who reads it."""

    def __init__(self, *, ring: int = RING, requested: Requested = lambda _action_id: None) -> None:
        self._ring: deque[_Kept] = deque(maxlen=ring)
        self._size = ring
        self._dropped: tuple[int, int] | None = None  # the last one that fell out of the ring
        self._requested = requested
        self._number = 0  # happenings so far; the ring holds the last of them
        self._snapshot: Happening | None = None
        self._snapshots = 0
        self._waiting: dict[object, tuple[asyncio.AbstractEventLoop, asyncio.Event]] = {}
        self._closed = False
        self._lock = threading.Lock()

    def publish(self, seq: int, records: Sequence[Record | Happening]) -> None:
        """The records of one event, in order; call it once an event, when they are on disk."""
        if not records:
            return
        with self._lock:
            ring = self._ring
            for part, record in enumerate(records):
                if len(ring) == self._size:
                    self._dropped = ring[0][:2]
                ring.append((seq, part, record))
            self._number += len(records)
            waiting, self._waiting = self._waiting, {}
        _wake(waiting)

    def announce(self, snapshot: Happening) -> None:
        """There is a new snapshot: every reader gets it once, unless a newer one comes before."""
        with self._lock:
            self._snapshot = snapshot
            self._snapshots += 1
            waiting, self._waiting = self._waiting, {}
        _wake(waiting)

    def close(self) -> None:
        """Nothing more will happen: every reader ends when it has read what is there."""
        with self._lock:
            self._closed = True
            waiting, self._waiting = self._waiting, {}
        _wake(waiting)

    def latest(self, count: int) -> tuple[Happening, ...]:
        """The last happenings, oldest first."""
        with self._lock:
            kept = list(self._ring)[-count:] if count > 0 else []
        return tuple(self._said(item) for item in kept)

    def subscribe(self, after: tuple[int, int] | None = None) -> Reading:
        """A reader from now on, or from behind the happening with this (seq, part)."""
        return Reading(self, after)

    # --- for the readers ----------------------------------------------------------------------------------------------

    def _place_after(self, after: tuple[int, int] | None) -> tuple[int, bool]:
        """How many happenings a new reader has seen already, and whether it may have missed some for good."""
        with self._lock:
            if after is None:
                return self._number, False
            left = sum(item[:2] > after for item in self._ring)
            # What stood before the first happening of this process is not known here: who comes back from there may have missed some.
            whole = left < len(self._ring) or (self._dropped is not None and after >= self._dropped)
            return self._number - left, not whole

    def _read(self, seen: int, snapshots: int) -> tuple[list[_Kept], int, Happening | None, int, bool]:
        """What came after the first `seen`: items, how many were lost, the newest snapshot, its number, and whether this is the end."""
        with self._lock:
            oldest = self._number - len(self._ring)
            lost = max(0, oldest - seen)
            left = self._number - max(seen, oldest)
            start = len(self._ring) - left
            kept = list(islice(self._ring, start, start + BATCH_MAX))
            news = self._snapshot if self._snapshots > snapshots else None
            return kept, lost, news, self._snapshots, self._closed and left <= BATCH_MAX

    def _wait(self, reader: object, seen: int, snapshots: int, event: asyncio.Event) -> None:
        """Let `event` be set as soon as there is more than this."""
        with self._lock:
            if self._number > seen or self._snapshots > snapshots or self._closed:
                event.set()
                return
            self._waiting[reader] = (asyncio.get_running_loop(), event)

    def _leave(self, reader: object) -> None:
        with self._lock:
            self._waiting.pop(reader, None)

    def _said(self, kept: _Kept) -> Happening:
        seq, part, record = kept
        if isinstance(record, Happening):
            return record
        return happening(seq, part, record, self._requested)


class Reading:
    """One reader of the stream; use it in one event loop."""

    def __init__(self, source: Happenings, after: tuple[int, int] | None) -> None:
        self._source = source
        self._seen, self._missed = source._place_after(after)
        self._snapshots = 0
        self._last = after or (0, 0)
        self.ended = False

    async def take(self, timeout_s: float | None = None) -> tuple[Happening, ...]:
        """The next happenings as soon as there are some, at most 200; empty when the time is over, or when `ended`."""
        found = self._collect()
        if found or self.ended:
            return found
        event = asyncio.Event()
        self._source._wait(self, self._seen, self._snapshots, event)
        try:
            async with asyncio.timeout(timeout_s):
                await event.wait()
        except TimeoutError:
            return ()
        finally:
            self._source._leave(self)
        return self._collect()

    async def __aiter__(self) -> AsyncIterator[Happening]:
        """Every happening from here on, until nothing more will happen."""
        while not self.ended:
            for item in await self.take():
                yield item

    def _collect(self) -> tuple[Happening, ...]:
        kept, lost, snapshot, self._snapshots, last = self._source._read(self._seen, self._snapshots)
        found: list[Happening] = []
        if lost or self._missed:
            many = f"{lost:,} happenings were" if lost > 1 else "a happening was" if lost else "some happenings may have been"
            seq, part = self._last
            at = kept[0][2].at if kept else ""
            found.append(
                Happening(
                    seq=seq,
                    part=part,
                    at=at if isinstance(at, str) else iso(at),
                    kind="lagged",
                    summary=f"{many} missed; the journal has them",
                    severity="warning",
                )
            )
        self._missed = False
        self._seen += lost + len(kept)
        if kept:
            self._last = kept[-1][:2]
        found += [self._source._said(item) for item in kept]
        if snapshot is not None:
            found.append(snapshot)
        self.ended = last and not found
        return tuple(found)


def happening(seq: int, part: int, record: Record, requested: Requested = lambda _action_id: None) -> Happening:
    """A record in one line: who, then what, then the most telling details."""
    intent = requested(record.action_id) if isinstance(record, ActionFinished) else None
    said = told(record, intent)
    runbook, entity, run_id = subject(record)
    who = f"{runbook} on {entity}: " if runbook and entity else f"{runbook}: " if runbook else ""
    details = f" ({'; '.join(said.lines[:LINES_SHOWN])})" if said.lines else ""
    return Happening(
        seq=seq,
        part=part,
        at=iso(record.at),
        kind=type(record).__name__,
        summary=f"{who}{said.title}{details}",
        runbook=runbook,
        entity=entity,
        run_id=run_id,
        severity=said.severity,
    )


def subject(record: Record) -> tuple[str, str, str]:
    """Runbook, entity and run id that a record is about; empty texts where it is about none."""
    if isinstance(record, NoticeSent):
        return record.action.runbook, str(record.action.detail.get("entity", "")), ""
    run_id = getattr(record, "run_id", "")
    if not run_id and hasattr(record, "action_id"):
        run_id = run_of(record.action_id)
    runbook, entity = getattr(record, "runbook", ""), getattr(record, "entity", "")
    if not runbook and run_id:
        runbook, entity = subject_of(run_id)
    return runbook, entity, run_id


def _wake(waiting: dict[object, tuple[asyncio.AbstractEventLoop, asyncio.Event]]) -> None:
    for loop, event in waiting.values():
        try:
            loop.call_soon_threadsafe(event.set)
        except RuntimeError:
            continue  # its event loop is closed: nobody waits there any more
