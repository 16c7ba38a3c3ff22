"""What the tests of a runbook never reached (floor 5): branches, guards, limits and unknown paths, out of the engine's records.

    coverage = Coverage(runbook); coverage.take(record)     # of every test
    coverage.missing()                                      # ("guard oracle_divergence < 50bps never held a write back", ...)
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.engine.records import (
    ActionDenied,
    ActionWould,
    ApprovalAnswered,
    LimitClipped,
    Record,
    RunFinished,
    RunRefused,
    RunStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
    TriggerChanged,
)
from daemon.runbook.model import Runbook, Step


class Coverage:
    """Marks each place of one runbook that a test has reached; a place is a sentence that says what was never seen."""

    def __init__(self, runbook: Runbook) -> None:
        self.runbook = runbook
        self._steps = {step.id: step for step in runbook.all_steps()}
        self._runs: set[str] = set()
        self._places: dict[str, bool] = dict.fromkeys(self._wanted(), False)

    def _wanted(self) -> Iterator[str]:
        book = self.runbook
        yield "the trigger never fired"
        yield "no episode ever cleared"
        yield "the trigger's readings were never missing"
        for step in book.all_steps():
            yield from _places_of(step)
        for guard in book.guards:
            yield _guard(guard.text)
        for name in _limit_names(book):
            yield _limit(name)
        if book.inhibited_by:
            yield "no run was ever inhibited"

    def take(self, record: Record) -> None:
        """Takes one record of a test of this runbook."""
        match record:
            case TriggerChanged(runbook=self.runbook.id, change="fired"):
                self._reach("the trigger never fired")
            case TriggerChanged(runbook=self.runbook.id):
                self._reach("no episode ever cleared")
            case RunStarted(runbook=self.runbook.id):
                self._runs.add(record.run_id)
            case RunRefused(runbook=self.runbook.id):
                self._excuse(record.reason)
                if "runs" in record.reason:
                    self._reach(_limit("runs"))
            case StepStarted() if record.run_id in self._runs:
                self._reach(_started(record.step))
            case StepWaiting() if record.run_id in self._runs:
                self._excuse(record.reason)
                if record.waiting == "inhibited":
                    self._reach("no run was ever inhibited")
            case StepFinished() if record.run_id in self._runs:
                self._finish(record)
            case ApprovalAnswered() if record.run_id in self._runs:
                self._reach(_approved(record.step) if record.answer == "approved" else _refused(record.step))
            case ActionDenied() | LimitClipped() if record.run_id in self._runs:
                self._reach(_limit(record.limit))
            case ActionWould() if record.run_id in self._runs:
                self._reach(_started(record.step))
            case RunFinished() if record.run_id in self._runs:
                self._excuse(record.reason)
            case _:
                pass

    def saw_unknown(self) -> None:
        """Notes that the instance under test lacked a reading of its trigger at some sample."""
        self._reach("the trigger's readings were never missing")

    def _finish(self, record: StepFinished) -> None:
        self._excuse(record.reason)
        step = self._steps.get(record.step)
        if step is None:
            return
        if record.status == "skipped" and step.when is not None and record.reason.startswith(step.when.text):
            self._reach(_skipped(record.step))
        if record.status in ("failed", "unknown"):
            self._reach(_failed(record.step))

    def _excuse(self, reason: str) -> None:
        """Guards are named by their text in the reason of what they held back."""
        for guard in self.runbook.guards:
            if f"guard {guard.text} is" in reason:
                self._reach(_guard(guard.text))

    def _reach(self, place: str) -> None:
        if place in self._places:
            self._places[place] = True

    def missing(self) -> tuple[str, ...]:
        """What no test reached, in the order of the file."""
        return tuple(place for place, reached in self._places.items() if not reached)

    def as_json(self) -> dict[str, object]:
        """The shape of `coverage` in `reefd test --coverage --format json`."""
        missing = self.missing()
        places = len(self._places)
        return {"runbook": self.runbook.id, "places": places, "reached": places - len(missing), "missing": list(missing)}

    def lines(self) -> list[str]:
        """The same for people."""
        missing = self.missing()
        head = f"coverage {self.runbook.id}: {len(self._places) - len(missing)} of {len(self._places)} places"
        return [head, *(f"  {place}" for place in missing)]


def _places_of(step: Step) -> Iterator[str]:
    yield _started(step.id)
    if step.when is not None:
        yield _skipped(step.id)
    if step.approval is not None:
        yield _approved(step.id)
        yield _refused(step.id)
    if step.kind not in ("halt", "resume", "notify", "pause"):
        yield _failed(step.id)


def _limit_names(book: Runbook) -> Iterator[str]:
    limits = book.limits
    if limits.per_run_usd is not None:
        yield "per_run"
    if limits.per_day_usd is not None:
        yield "per_day"
    if limits.per_episode_usd is not None or limits.per_episode_ratio is not None:
        yield "per_episode"
    if limits.runs is not None:
        yield "runs"


def _started(step: str) -> str:
    return f"step {step} was never reached"


def _skipped(step: str) -> str:
    return f"step {step} was never skipped by its when"


def _failed(step: str) -> str:
    return f"step {step} never failed"


def _approved(step: str) -> str:
    return f"step {step} was never approved by a person"


def _refused(step: str) -> str:
    return f"step {step} was never denied or left unanswered"


def _guard(text: str) -> str:
    return f"guard {text} never held a write back"


def _limit(name: str) -> str:
    return f"limit {name} was never reached"
