"""One run with its trace (floor 7): why it started and everything that came of it, read from the journal and put into words.

    run_detail(Reader(journal.path), run_id, chronicle.place(run_id))       # a RunDetail; None when the journal has no such run

The head is the same fold that the index is made of, so a run that the index has forgotten reads like any other.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from daemon.engine import records as r
from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.engine.apply import position_of
from daemon.engine.codec import decode
from daemon.engine.state import instance_of
from daemon.journal.reader import Reader, Stored
from daemon.service.annals import Annals, run_of
from daemon.service.chronicle import Place, entries_of, find
from daemon.service.views import Moment, RunDetail
from daemon.service.whynode import node_of
from daemon.service.words import told
from daemon.units import iso

MOMENTS_MAX = 5_000  # records of one run that are looked at: a run of a hundred slices with three tries each has about 1,500


@dataclass(frozen=True, slots=True)
class _Known:
    """An entry with its record."""

    stored: Stored
    record: r.Record


def run_detail(reader: Reader, run_id: str, place: Place | None = None) -> RunDetail | None:
    """The run with all its moments, oldest first; None when the journal has no such run. `place` spares the search where it is known.
    Raises JournalError. Safe in any thread."""
    place = place or find(reader, run_id)
    if place is None:
        return None
    found = [known for stored in entries_of(reader, run_id, place, limit=MOMENTS_MAX) if (known := _known(stored)) is not None]
    annals = Annals()
    for known in found:
        annals.take(known.stored.seq, known.record)
    row = annals.run(run_id)
    if row is None:
        return None
    started = next((k.record for k in found if isinstance(k.record, r.RunStarted) and k.record.run_id == run_id), None)
    return RunDetail(
        head=row.view(),
        why=None if started is None else node_of(started.trace),
        frame={} if started is None else {name: value for name, value in started.frame.items() if not math.isnan(value)},
        moments=tuple(moments(_concerning(found, run_id, row.episode, instance_of(row.runbook, row.entity)))),
        source_digest="" if started is None else started.digest,
    )


def moments(found: Iterable[tuple[Stored, r.Record]]) -> Iterator[Moment]:
    """Records, oldest first, as moments; an outcome is told together with its intent when that is among them."""
    intents: dict[str, r.ActionRequested] = {}
    for stored, record in found:
        if isinstance(record, r.ActionRequested):
            intents[record.action.action_id] = record
        intent = intents.get(record.action_id) if isinstance(record, r.ActionFinished) else None
        said = told(record, intent)
        body = json.loads(stored.body)
        step = _step(record, intent)
        named = step != "" and said.title.startswith(step)  # an id is written as it is
        yield Moment(
            seq=stored.seq,
            at=iso(record.at),
            kind=stored.type,
            step=step,
            title=said.title if named else said.title[:1].upper() + said.title[1:],
            lines=said.lines,
            tone=said.tone,
            body=body if isinstance(body, Mapping) else {},
        )


def _step(record: r.Record, intent: r.ActionRequested | None) -> str:
    if intent is not None:
        return intent.step
    if isinstance(record, r.MoveProgress):
        return record.action_id.rpartition("/")[2].partition(".")[2].rpartition(".")[0].rpartition(".")[0]
    return str(getattr(record, "step", ""))


def _known(stored: Stored) -> _Known | None:
    try:
        return _Known(stored, cast("r.Record", decode(stored.body)))
    except (ValueError, KeyError):
        return None  # written by another build: it has no words here


def _concerning(found: Sequence[_Known], run_id: str, episode: str, instance: str) -> Iterator[tuple[Stored, r.Record]]:
    """What is about the run: its own records, its episode's, and what changed what it writes."""
    written: set[str] = set()
    for known in found:
        record = known.record
        if isinstance(record, r.ActionRequested) and record.run_id == run_id:
            match record.action:
                case ShrinkPosition() as order:
                    written.add(f"size/{position_of(order.account, order.market)}")
                case MoveBuffer() as move:
                    written.add(f"buffer/{move.source}")
                case _:
                    pass
        if _about(record, run_id, episode, written) or _on_failure(record, instance):
            yield known.stored, record


def _about(record: r.Record, run_id: str, episode: str, written: set[str]) -> bool:
    match record:
        case r.TriggerChanged():
            return record.episode == episode
        case r.SizeChanged():
            return episode in record.episodes or record.joins == episode or f"size/{record.position}" in written
        case r.ResourceSeen():
            return record.resource in written
        case r.NoticeSent():
            subject = record.action.run_id
            return subject in (run_id, episode) or subject.startswith(f"{run_id}.")
        case r.MoveProgress():
            return run_of(record.action_id) == run_id
        case r.GateChanged() | r.PauseSet() | r.HaltChanged():
            # Their reason names the run; `.../1` must not be taken for `.../10`.
            return any(word.rstrip(":") == run_id for word in record.reason.split())
        case r.CommandTaken():
            return record.target == run_id or record.target.startswith(f"{run_id}.")
        case _:
            return getattr(record, "run_id", "") == run_id


def _on_failure(record: r.Record, instance: str) -> bool:
    """True for the pause that a failed run of this instance sets."""
    return isinstance(record, r.PauseSet) and record.by == "on_failure" and record.target == instance
