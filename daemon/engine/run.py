"""A run from its first step to its end (floor 4): `advance(turn, run_id)` moves it as far as it goes at this instant.

Level-triggered: each call looks at where the run is and what is true now, so a timer, a reading and a restart take the same path.
"""

from __future__ import annotations

from typing import assert_never

from daemon.engine.actions import Halt, Notify, Outcome, Resume
from daemon.engine.contract import TRUE, UNKNOWN
from daemon.engine.ending import complete, end, fail_step, finish_step
from daemon.engine.guard import acts, first_failing, held, resources, survival_against, survival_waiter
from daemon.engine.notices import render
from daemon.engine.orders import action_id, cancel, move, request, shrink, webhook, would
from daemon.engine.permit import Wish, approved, deny, may_act, take_locks, waiting_for_people
from daemon.engine.records import (
    ActionFinished,
    GateChanged,
    LegAbandoned,
    LocksReleased,
    PauseSet,
    RetryScheduled,
    RunStatus,
    StepStarted,
    StepWaiting,
)
from daemon.engine.state import Run
from daemon.engine.turn import Turn, progress_of, related, seconds, steps_of
from daemon.runbook.model import Cancel, Gate, Move, Pause, Rebalance, Runbook, Shrink, ShrinkAccount, Step, Tell, Wait, Webhook

ADVANCES_MAX = 10_000  # transitions of one run in one instant; more is a fault of ours
STANDSTILL = ("inhibited", "paused", "halted")  # holds of no known end


def advance(turn: Turn, run_id: str, *, superseded: bool) -> None:
    """Move a run on until it waits or ends; `superseded`: a newer run of its instance takes over (mode restart)."""
    for _ in range(ADVANCES_MAX):
        before = len(turn.records)
        run = turn.cold.runs.get(run_id)
        if run is None:
            return
        _advance_once(turn, run, superseded)
        if len(turn.records) == before:
            return
    raise AssertionError(f"{run_id} does not come to rest")


def _advance_once(turn: Turn, run: Run, superseded: bool) -> None:
    book = turn.book(run)
    if run.step is None:
        _boundary(turn, run, book, superseded)
        return
    step = steps_of(book, run)[run.step.index]
    waiter = _preempted(turn, run, book)
    if waiter is not None and _idle(turn, run, book, step):
        turn.emit(LocksReleased(at=turn.at, run_id=run.id, reason=f"taken by {waiter}"))
        return
    match run.step.phase:
        case "sent":
            if turn.at >= run.step.sent_at + step.timeout_ns:
                outcome = Outcome(status="unknown", reason=f"no answer within {seconds(step.timeout_ns)}")
                turn.emit(ActionFinished(at=turn.at, action_id=run.step.action_id, run_id=run.id, outcome=outcome))
        case "settled":
            _settled(turn, run, book, step)
        case "verify":
            if not _stopped(turn, run, book, step):
                _verify(turn, run, book, step)
        case "ready" if superseded and run.on_clear:
            end(turn, run, book, "skipped", "the trigger fired again before anything was cleaned up")
        case "ready":
            if not _stopped(turn, run, book, step) and not waiting_for_people(turn, run, book, step):
                _ready(turn, run, book, step)
        case _:
            assert_never(run.step.phase)


def _boundary(turn: Turn, run: Run, book: Runbook, superseded: bool) -> None:
    steps = steps_of(book, run)
    if run.stop:
        end(turn, run, book, "aborted" if run.wrote else "skipped", run.stop)
    elif run.index >= len(steps):
        end(turn, run, book, *_final(run))
    elif _too_late(run, book):
        end(turn, run, book, "skipped", "its episode cleared before it wrote")
    elif superseded:
        end(turn, run, book, "aborted", "a newer run of this instance takes over")
    elif (waiter := _preempted(turn, run, book)) is not None:
        turn.emit(LocksReleased(at=turn.at, run_id=run.id, reason=f"taken by {waiter}"))
    else:
        _begin(turn, run, steps[run.index])


def _preempted(turn: Turn, run: Run, book: Runbook) -> str | None:
    """The survival run that waits for a lock this economy run holds; None when there is none."""
    if not run.locks or book.intent == "survival":
        return None
    return survival_waiter(turn, set(run.locks))


def _idle(turn: Turn, run: Run, book: Runbook, step: Step) -> bool:
    """True when the step under way writes nothing now, maybe for minutes or for ever: a survival run does not wait for it.

    It verifies, waits for whatever it may be, or has not sent anything yet; between slices, when it could not send the next one now.
    """
    progress = progress_of(run)
    if progress.phase != "ready":
        return progress.phase == "verify"  # what is on its way, or may be, is settled first
    if progress.waiting or not (progress.acted or progress.attempt):
        return True
    hold = held(turn, run, book, step)
    return (hold is not None and hold.waiting in STANDSTILL) or (step.guarded and first_failing(turn, run, book) is not None)


def _begin(turn: Turn, run: Run, step: Step) -> None:
    if step.when is not None:
        truth = turn.value(run, step.when)
        if truth != TRUE:
            why = f"{step.when.text} is {'UNKNOWN' if truth == UNKNOWN else 'FALSE'}"
            finish_step(turn, run, step, "skipped", why, acted=False)
            return
    turn.emit(StepStarted(at=turn.at, run_id=run.id, step=step.id, index=run.index))


def _final(run: Run) -> tuple[RunStatus, str]:
    if run.failed:
        return "failed", run.failed
    if run.shadow:
        return "shadow", ""
    if not any(item.status == "done" for item in run.finished):
        return "skipped", run.finished[-1].reason if run.finished else "nothing to do"
    return "done", ""


def _too_late(run: Run, book: Runbook) -> bool:
    """True when the episode is over and the run has not written anything yet; runs that only tell are let go."""
    return run.cleared and not run.wrote and acts(book)


def _stopped(turn: Turn, run: Run, book: Runbook, step: Step) -> bool:
    """End the run before its next write when its subject is gone or moved by another, or its episode cleared unwritten."""
    if run.stop:
        end(turn, run, book, "aborted" if run.wrote else "skipped", run.stop)
    elif _too_late(run, book):
        end(turn, run, book, "skipped", "its episode cleared before it wrote")
    else:
        return False
    return True


def _settled(turn: Turn, run: Run, book: Runbook, step: Step) -> None:
    progress = progress_of(run)
    outcome = progress.outcome
    assert outcome is not None, "a settled step has an outcome"
    match outcome.status:
        case "unknown":
            if turn.at >= progress.wait_until:
                end(turn, run, book, "unknown", f"{step.id}: {progress.action_id} may have happened: {outcome.reason}")
        case "failed" if progress.attempt < step.retry.attempts and not run.stop:
            next_at = turn.at + step.retry.backoff_ns * 2 ** (progress.attempt - 1)
            turn.emit(RetryScheduled(at=turn.at, run_id=run.id, step=step.id, next_at=next_at, reason=outcome.reason))
        case "failed" | "rejected":
            reason = f"{outcome.status}: {outcome.reason}" if outcome.reason else outcome.status
            if isinstance(step.act, ShrinkAccount):
                turn.emit(LegAbandoned(at=turn.at, run_id=run.id, step=step.id, leg=progress.leg, reason=reason))
            else:
                fail_step(turn, run, book, step, reason)
        case "done":
            raise AssertionError("a done send is ready for the next")
        case _:
            assert_never(outcome.status)


def _verify(turn: Turn, run: Run, book: Runbook, step: Step) -> None:
    assert step.verify is not None
    unseen = [name for name in resources(turn, run, book, step) if name in turn.cold.unseen]
    truth = UNKNOWN if unseen else turn.value(run, step.verify.that)
    if truth == TRUE:
        finish_step(turn, run, step, "done", "", acted=True)
    elif turn.at >= progress_of(run).wait_until:
        shown = f"UNKNOWN: no reading of {unseen[0]} since" if unseen else "UNKNOWN" if truth == UNKNOWN else "FALSE"
        fail_step(turn, run, book, step, f"not shown within {seconds(step.verify.within_ns)}: {step.verify.that.text} is {shown}")


def _ready(turn: Turn, run: Run, book: Runbook, step: Step) -> None:
    act = step.act
    if not isinstance(act, Shrink | ShrinkAccount) and not progress_of(run).acted and turn.at < progress_of(run).next_at:
        return  # a retry's backoff; slices look at it themselves
    match act:
        case Tell(to=to, text=text):
            said = render(turn, run, book, text)
            notice = Notify(
                action_id=action_id(run, step), run_id=run.id, runbook=run.runbook, to=to, event="step", severity=book.severity, text=said
            )
            request(turn, run, step, notice)
            finish_step(turn, run, step, "done", "", acted=True)
        case Wait():
            _wait(turn, run, book, step, act)
        case Pause():
            _pause(turn, run, book, step, act)
        case Gate():
            _gate(turn, run, book, step, act)
        case Shrink() | ShrinkAccount():
            shrink(turn, run, book, step, act)
        case Move():
            move(turn, run, book, step, act)
        case Cancel():
            cancel(turn, run, book, step, act)
        case Webhook():
            webhook(turn, run, book, step, act)
        case Rebalance():
            fail_step(turn, run, book, step, "rejected: rebalance is not part of this version")
        case _:
            assert_never(act)


def _wait(turn: Turn, run: Run, book: Runbook, step: Step, act: Wait) -> None:
    if run.shadow:
        finish_step(turn, run, step, "skipped", "nothing was done that could show", acted=False)
        return
    progress = progress_of(run)
    unseen = any(name in turn.cold.unseen for name in resources(turn, run, book, step))
    if not unseen and turn.true(run, act.that):
        finish_step(turn, run, step, "done", "", acted=False)
    elif progress.waiting != "wait":
        until = progress.started_at + act.within_ns
        turn.emit(StepWaiting(at=turn.at, run_id=run.id, step=step.id, waiting="wait", until=until, reason=act.that.text))
    elif turn.at >= progress.wait_until:
        fail_step(turn, run, book, step, f"{act.that.text} was not TRUE within {seconds(act.within_ns)}")


def _pause(turn: Turn, run: Run, book: Runbook, step: Step, act: Pause) -> None:
    if not may_act(turn, run, book, step):
        return
    if run.shadow:
        would(turn, run, step, Wish(), f"pause {act.runbook} for {seconds(act.for_ns)}")
        return
    target = act.runbook or run.runbook
    turn.emit(PauseSet(at=turn.at, target=target, until=turn.at + act.for_ns, by=run.runbook, reason=f"step {step.id} of {run.id}"))
    finish_step(turn, run, step, "done", "", acted=True)


def _gate(turn: Turn, run: Run, book: Runbook, step: Step, act: Gate) -> None:
    if not may_act(turn, run, book, step):
        return
    target = related(turn.entity(book.scope, run.entity), act.scope)
    if target is None:
        fail_step(turn, run, book, step, f"rejected: {run.entity} has no {act.scope}")
        return
    key = f"{act.scope.value}/{target}"
    closed_by = {c.by for c in turn.cold.gates.get(key, ())}
    if not act.closed:
        if run.runbook not in closed_by and not run.shadow:
            finish_step(turn, run, step, "skipped", "nothing to do: this runbook did not close it", acted=False)
            return
        danger = survival_against(turn, book, run.entity, act.scope, target)
        if danger is not None:
            deny(turn, run, book, step, "survival", f"{danger} fires: {target} is not opened", 0.0)
            return
    if not approved(turn, run, book, step, Wish(what={step.kind: key})):
        return
    if run.shadow:
        would(turn, run, step, Wish(), f"{step.kind} {target}")
        return
    take_locks(turn, run, book)
    # The gate is the engine's own state: it is closed from here on, and the edges publish it.
    if act.closed or closed_by == {run.runbook}:  # what somebody else closed stays closed
        action_type = Halt if act.closed else Resume
        action = action_type(action_id=action_id(run, step), run_id=run.id, runbook=run.runbook, kind=act.scope.value, entity=target)
        request(turn, run, step, action)
    turn.emit(GateChanged(at=turn.at, kind=act.scope.value, entity=target, closed=act.closed, by=run.runbook, reason=run.id))
    complete(turn, turn.cold.runs[run.id], step, turn.at)
