"""How steps and runs end (floor 4): done or verified, failed and what then, skipped, blocked, unknown; and what people are told."""

from __future__ import annotations

from daemon.engine.notices import lifecycle, page
from daemon.engine.records import HaltChanged, PauseSet, RunFinished, RunStatus, StepFinished, StepStatus, StepWaiting
from daemon.engine.state import Run, instance_of
from daemon.engine.turn import Turn, progress_of, steps_of
from daemon.runbook.model import Runbook, Step
from daemon.units import FOREVER

_STEP_END: dict[RunStatus, StepStatus] = {"failed": "failed", "unknown": "unknown", "blocked": "blocked", "aborted": "aborted"}


def finish_step(turn: Turn, run: Run, step: Step, status: StepStatus, reason: str, *, acted: bool) -> None:
    """Record a step's end."""
    turn.emit(StepFinished(at=turn.at, run_id=run.id, step=step.id, kind=step.kind, status=status, reason=reason, acted=acted))


def complete(turn: Turn, run: Run, step: Step, settled_at: int) -> None:
    """The step's action is done: show it where the step says how (`within` counts from the settled outcome), else the step is done."""
    if step.verify is not None and not run.shadow:
        until = settled_at + step.verify.within_ns
        turn.emit(StepWaiting(at=turn.at, run_id=run.id, step=step.id, waiting="verify", until=until, reason=step.verify.that.text))
    else:
        finish_step(turn, run, step, "done", "", acted=True)


def fail_step(turn: Turn, run: Run, book: Runbook, step: Step, reason: str) -> None:
    """A step that did not do what it should: go on, or fail the run (paging even where on_failure names nobody, for escalate)."""
    if step.on_failure == "continue":
        finish_step(turn, run, step, "failed", reason, acted=progress_of(run).acted)
        return
    if step.on_failure == "escalate" and not book.on_failure.notify and not run.shadow:
        page(turn, book, run.entity, f"{step.id} failed: {reason}", f"{run.id}.{step.id}")
    end(turn, run, book, "failed", f"{step.id}: {reason}")


def end(turn: Turn, run: Run, book: Runbook, status: RunStatus, reason: str) -> None:
    """End a run (and its step under way), tell about it, and do what its on_failure says."""
    run = turn.cold.runs[run.id]
    if run.step is not None:
        step = steps_of(book, run)[run.step.index]
        finish_step(turn, run, step, _STEP_END.get(status, "skipped"), reason, acted=run.step.acted)
    finished = turn.cold.runs[run.id].finished
    done = ", ".join(item.step for item in finished if item.status == "done")
    skipped = "; ".join(f"{item.step}: {item.reason}" for item in finished if item.status == "skipped" and item.reason)
    turn.emit(RunFinished(at=turn.at, run_id=run.id, status=status, reason=reason))
    match status:
        case "done":
            if run.wrote:
                lifecycle(turn, book, run.entity, "acted", f"done: {done}" + (f"; SKIPPED {skipped}" if skipped else ""), run.id)
        case "shadow":
            lifecycle(turn, book, run.entity, "acted", "shadow run, nothing was sent", run.id)
        case "blocked":
            lifecycle(turn, book, run.entity, "blocked", reason, run.id)
            if book.intent == "survival" and not run.shadow:
                page(turn, book, run.entity, f"survival run blocked: {reason}", run.id)
        case "failed" | "unknown":
            _failure(turn, run, book, status, reason)
        case "aborted" | "skipped":
            if run.stop and not run.shadow:
                page(turn, book, run.entity, f"run stopped: {reason}", run.id)


def _failure(turn: Turn, run: Run, book: Runbook, status: str, reason: str) -> None:
    lifecycle(turn, book, run.entity, "failed", reason, run.id)
    if run.shadow:
        return
    if book.on_failure.notify or status == "unknown":
        page(turn, book, run.entity, f"run {status}: {reason}", run.id)
    match book.on_failure.then:
        case "pause":
            instance = instance_of(run.runbook, run.entity)
            turn.emit(PauseSet(at=turn.at, target=instance, until=FOREVER, by="on_failure", reason=reason))
        case "halt_all":
            turn.emit(HaltChanged(at=turn.at, halted=True, by=book.id, reason=f"on_failure of {run.id}: {reason}"))
        case "stay_armed":
            pass
