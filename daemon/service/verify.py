"""Verify (floor 7): decide every event of a journal anew and compare the records byte by byte.

Wake-ups are not journaled, so what is compared is the stream of records: those of a timer carry its due time and come out of the
next event's step, before that event's own.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from daemon.engine.codec import decode, encode
from daemon.engine.engine import Engine
from daemon.engine.events import (
    ActionSettled,
    FeedFailed,
    Gap,
    Observed,
    OperatorCommand,
    RunbooksLoaded,
    Scheduled,
    Woke,
)
from daemon.journal.entry import Entry
from daemon.service.recover import SetReader, recovered_at

EngineMaker = Callable[[RunbooksLoaded | None, Engine | None], Engine]  # for the set that comes next; carries the state of the one before

_EVENTS = (Observed, FeedFailed, Gap, ActionSettled, OperatorCommand, RunbooksLoaded, Scheduled, Woke)


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """The first place where deciding anew said something else; None on a side that said nothing more."""

    seq: int
    journaled: str | None
    decided: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verification:
    """What verify found; `builds` are all builds that wrote the journal: only one and the same build must agree."""

    events: int
    records: int
    difference: Difference | None
    builds: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """True when every record came out byte for byte."""
        return self.difference is None


def verify(entries: Iterable[Entry], make_engine: EngineMaker, read_set: SetReader) -> Verification:
    """Step a fresh engine through all events of `entries` and compare its records with the journaled ones, in their order."""
    journaled: deque[tuple[int, str]] = deque()
    decided: deque[str] = deque()
    builds: dict[str, None] = {}
    events = records = seq = at = 0
    engine: Engine | None = None
    for entry, upcoming in _with_set(entries):
        before, seq, at = at, entry.seq, max(at, entry.at)
        if entry.role == "record":
            records += 1
            journaled.append((entry.seq, entry.body))
        else:
            event = decode(entry.body)
            assert isinstance(event, _EVENTS), f"{entry.type} is no event"
            if isinstance(event, Gap):
                builds[event.build] = None
            if engine is None:
                engine = make_engine(upcoming, None)
            elif isinstance(event, Gap) and event.cause == "start":
                if journaled:
                    # This process ended after a wake-up whose records no later event of its own followed.
                    decided.extend(encode(record) for record in engine.step(Woke(at=before)).records)
                # The next one recovered what this one left; it begins where the gap does.
                engine = make_engine(upcoming, engine)
                recovered_at(engine, event.since)
            if isinstance(event, RunbooksLoaded):
                engine.load(read_set(event))
            events += 1
            decided.extend(encode(record) for record in engine.step(event).records)
        difference = _compare(journaled, decided)
        if difference is not None:
            return Verification(events=events, records=records, difference=difference, builds=tuple(builds))
    if engine is not None and journaled:
        # The journal ends in records of a timer that no later event followed.
        decided.extend(encode(record) for record in engine.step(Woke(at=at)).records)
    difference = _compare(journaled, decided)
    if difference is None and (journaled or decided):
        difference = Difference(
            seq=journaled[0][0] if journaled else seq,
            journaled=journaled[0][1] if journaled else None,
            decided=decided[0] if decided else None,
        )
    return Verification(events=events, records=records, difference=difference, builds=tuple(builds))


def _compare(journaled: deque[tuple[int, str]], decided: deque[str]) -> Difference | None:
    """Take equal pairs off both queues; the first unequal pair, if any."""
    while journaled and decided:
        (seq, before), now = journaled[0], decided[0]
        if before != now:
            return Difference(seq=seq, journaled=before, decided=now)
        journaled.popleft()
        decided.popleft()
    return None


def _with_set(entries: Iterable[Entry]) -> Iterable[tuple[Entry, RunbooksLoaded | None]]:
    """Each entry with the set in force after it: a start begins with a gap, but its engine needs the topology of the set that follows."""
    waiting: list[Entry] = []  # a start's gap and its records, until the next event says whether a set comes
    named: RunbooksLoaded | None = None
    for entry in entries:
        if entry.type == RunbooksLoaded.__name__:
            event = decode(entry.body)
            assert isinstance(event, RunbooksLoaded)
            named = event
        if (waiting and entry.role == "record") or _opens(entry):
            waiting.append(entry)
            continue
        yield from ((held, named) for held in (*waiting, entry))
        waiting.clear()
    yield from ((held, named) for held in waiting)


def _opens(entry: Entry) -> bool:
    """True for the gap that opens a start."""
    if entry.type != Gap.__name__:
        return False
    event = decode(entry.body)
    return isinstance(event, Gap) and event.cause == "start"
