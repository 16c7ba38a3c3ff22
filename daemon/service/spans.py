"""Runs as spans (floor 7): what a tracing system draws, folded from the journal's records; pure, and the same journal gives the same ids.

    spans = Spans(); for entry in journal: finished = spans.take(record)     # a run with everything below it, once it has ended

One run is one trace: the run, below it its steps, below them approvals and writes. Times are ns of the daemon's clock.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.engine.records import (
    ActionFinished,
    ActionRequested,
    ApprovalAnswered,
    ApprovalRequested,
    LimitClipped,
    Record,
    RetryScheduled,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
)

OPEN_MAX = 1_000  # runs under way; more are told without what lies before
BELOW_MAX = 500  # spans of one run
FAILED = frozenset({"failed", "blocked", "unknown", "aborted", "rejected"})
Attribute = str | float | int | bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """Something that took time; ids as OpenTelemetry's: 16 and 8 bytes as numbers. `error` says what went wrong, empty when nothing did."""

    trace_id: int
    span_id: int
    parent_id: int | None
    name: str
    start: int
    end: int
    attributes: Mapping[str, Attribute]
    notes: tuple[tuple[int, str], ...] = ()  # (ns, text)
    error: str = ""


@dataclass(slots=True, kw_only=True)
class _Open:
    name: str
    start: int
    parent: str
    attributes: dict[str, Attribute] = field(default_factory=dict)
    notes: list[tuple[int, str]] = field(default_factory=list)


@dataclass(slots=True, kw_only=True)
class _Run:
    started: RunStarted
    open: dict[str, _Open] = field(default_factory=dict)  # by key: a step's id, an approval's, an action's
    done: list[Span] = field(default_factory=list)


class Spans:
    """The runs under way; `take` gives the spans of a run when it ends."""

    def __init__(self) -> None:
        self._runs: dict[str, _Run] = {}

    def take(self, record: Record) -> tuple[Span, ...]:
        """Follow one record; the spans of a run that ended with it, the run's own first."""
        match record:
            case RunStarted():
                if len(self._runs) >= OPEN_MAX:
                    del self._runs[next(iter(self._runs))]
                self._runs[record.run_id] = _Run(started=record)
            case StepStarted():
                self._begin(record.run_id, record.step, record.at, record.step, "")
            case StepFinished():
                how = {"reefd.step.kind": record.kind, "reefd.status": record.status, "reefd.reason": record.reason}
                self._end(record.run_id, record.step, record.at, how, record.reason if record.status in FAILED else "")
            case StepWaiting():
                self._note(record.run_id, record.step, record.at, f"waits ({record.waiting}): {record.reason}")
            case RetryScheduled():
                self._note(record.run_id, record.step, record.at, f"is tried again: {record.reason}")
            case LimitClipped():
                self._note(record.run_id, record.step, record.at, f"clipped by {record.limit}")
            case ApprovalRequested():
                self._begin(record.run_id, f"approval {record.step}", record.at, "approval", record.step)
            case ApprovalAnswered():
                how = {"reefd.answer": record.answer, "reefd.actor": record.actor}
                self._end(record.run_id, f"approval {record.step}", record.at, how, "" if record.granted else record.answer)
            case ActionRequested():
                action = record.action
                self._begin(action.run_id, action.action_id, record.at, type(action).__name__, record.step)
            case ActionFinished():
                outcome = record.outcome
                how = {"reefd.action_id": record.action_id, "reefd.outcome": outcome.status, "reefd.reference": outcome.reference}
                if outcome.filled_size is not None:
                    how["reefd.filled_size"] = str(outcome.filled_size)
                self._end(record.run_id, record.action_id, record.at, how, outcome.reason if outcome.status in FAILED else "")
            case RunFinished():
                return self._finish(record)
            case _:
                pass
        return ()

    def _begin(self, run_id: str, key: str, at: int, name: str, parent: str) -> None:
        run = self._runs.get(run_id)
        if run is not None and len(run.done) + len(run.open) < BELOW_MAX:
            run.open[key] = _Open(name=name, start=at, parent=parent)

    def _note(self, run_id: str, key: str, at: int, text: str) -> None:
        run = self._runs.get(run_id)
        if run is not None and key in run.open:
            run.open[key].notes.append((at, text))

    def _end(self, run_id: str, key: str, at: int, how: Mapping[str, Attribute], error: str) -> None:
        run = self._runs.get(run_id)
        found = run.open.pop(key, None) if run is not None else None
        if run is not None and found is not None:
            run.done.append(_span(run_id, key, found, at, {**found.attributes, **how}, error))

    def _finish(self, record: RunFinished) -> tuple[Span, ...]:
        run = self._runs.pop(record.run_id, None)
        if run is None:
            return ()
        started = run.started
        for key, found in list(run.open.items()):
            run.done.append(_span(record.run_id, key, found, record.at, found.attributes, "the run ended before it"))
        attributes: dict[str, Attribute] = {
            "reefd.run_id": record.run_id,
            "reefd.runbook": started.runbook,
            "reefd.entity": started.entity,
            "reefd.episode": started.episode,
            "reefd.shadow": started.shadow,
            "reefd.status": record.status,
            "reefd.reason": record.reason,
        }
        own = Span(
            trace_id=_number(record.run_id, 16),
            span_id=_number(record.run_id, 8),
            parent_id=None,
            name=f"run {started.runbook}",
            start=started.at,
            end=record.at,
            attributes=attributes,
            error=record.reason if record.status in FAILED else "",
        )
        return (own, *run.done)


def _span(run_id: str, key: str, found: _Open, at: int, attributes: Mapping[str, Attribute], error: str) -> Span:
    parent = f"{run_id} {found.parent}" if found.parent else run_id
    return Span(
        trace_id=_number(run_id, 16),
        span_id=_number(f"{run_id} {key}", 8),
        parent_id=_number(parent, 8),
        name=found.name,
        start=found.start,
        end=at,
        attributes=attributes,
        notes=tuple(found.notes),
        error=error,
    )


def _number(text: str, size: int) -> int:
    """An id of `size` bytes, never 0, the same for the same text."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:size], "big") or 1
