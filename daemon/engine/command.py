"""What people and the calendar ask for (floor 4): commands by unique id, and timers by due time; each counts once."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta

from daemon.engine.actions import Notify
from daemon.engine.events import OperatorCommand, Scheduled
from daemon.engine.records import (
    ApprovalAnswered,
    CommandTaken,
    GateChanged,
    HaltChanged,
    MoveProgress,
    NoticeSent,
    PauseEnded,
    PauseSet,
    ResourceSeen,
    TimerTaken,
)
from daemon.engine.state import Run, instance_of
from daemon.engine.turn import Turn
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind

REVIEW_DAYS = {"month": 31, "quarter": 92, "half-year": 183, "year": 366}
OPERATOR = "operator"


def command(turn: Turn, event: OperatorCommand) -> None:
    """Do what a person asked for, once; the record says what came of it."""
    if event.command_id in turn.cold.commands:
        return
    match event.verb:
        case "approve" | "deny":
            effect = _answer(turn, event)
        case "pause":
            until = event.until if event.until is not None else FOREVER
            turn.emit(PauseSet(at=turn.at, target=event.target, until=until, by=f"{OPERATOR} {event.actor}", reason=event.reason))
            effect = f"paused {event.target or 'everything'}"
        case "unpause":
            effect = _unpause(turn, event)
        case "halt" | "resume":
            effect = _gate(turn, event)
        case "ack":
            effect = _acknowledge(turn, event)
        case "reload" | "redeliver" | "enable" | "test":
            effect = "noted"  # done beside the engine; its reason says what came of it
        case _:
            effect = f"nothing: {event.verb!r} is no command; write approve, deny, pause, unpause, halt, resume or ack"
    turn.emit(
        CommandTaken(
            at=turn.at,
            command_id=event.command_id,
            actor=event.actor,
            verb=event.verb,
            target=event.target,
            effect=effect,
            reason=event.reason,
        )
    )


def _waiting(turn: Turn, target: str) -> list[Run]:
    """Runs that wait for an approval and are meant by a run id, `<run id>.<step>`, an instance or a runbook id."""
    waiting = [r for r in turn.cold.runs.values() if r.step is not None and r.step.approval is not None and r.step.approval.answer == ""]
    for names in (
        lambda r: r.id,
        lambda r: f"{r.id}.{r.step.id}" if r.step else "",
        lambda r: instance_of(r.runbook, r.entity),
        lambda r: r.runbook,
    ):
        found = [r for r in waiting if names(r) == target]
        if found:
            return found
    return []


def _answer(turn: Turn, event: OperatorCommand) -> str:
    found = _waiting(turn, event.target)
    if len(found) != 1:
        return f"nothing: {len(found)} runs named {event.target!r} wait for an approval; name one by its run id"
    run = found[0]
    assert run.step is not None
    assert run.step.approval is not None
    approval = run.step.approval
    if approval.people and event.actor not in approval.people:
        return f"nothing: {event.actor} is not one of {', '.join(approval.people)}; a token is named after who may answer"
    if event.verb == "approve" and event.digest and event.digest != approval.plan_digest:
        asked, shown = approval.plan_digest[:12], event.digest[:12]
        return f"nothing: the plan has changed: {run.step.id} of {run.id} waits for plan {asked}, approved was {shown}; look at it again"
    if event.verb == "deny":
        turn.emit(ApprovalAnswered(at=turn.at, run_id=run.id, step=run.step.id, answer="denied", actor=event.actor, granted=False))
        return f"denied {run.step.id} of {run.id}"
    given = len({*approval.approvers, event.actor})
    granted = given >= approval.quorum
    turn.emit(ApprovalAnswered(at=turn.at, run_id=run.id, step=run.step.id, answer="approved", actor=event.actor, granted=granted))
    return f"approved {run.step.id} of {run.id}" if granted else f"{given} of {approval.quorum} approvals of {run.step.id} of {run.id}"


def _unpause(turn: Turn, event: OperatorCommand) -> str:
    if event.target not in turn.cold.pauses:
        paused = ", ".join(repr(t) for t in turn.cold.pauses) or "nothing"
        return f"nothing: {event.target!r} is not paused; paused is {paused}"
    turn.emit(PauseEnded(at=turn.at, target=event.target, by=f"{OPERATOR} {event.actor}"))
    return f"unpaused {event.target or 'everything'}"


def _gate(turn: Turn, event: OperatorCommand) -> str:
    closed = event.verb == "halt"
    if event.target == "":
        turn.emit(HaltChanged(at=turn.at, halted=closed, by=f"{OPERATOR} {event.actor}", reason=event.reason))
        return "halted everything" if closed else "resumed everything"
    if closed:
        named = _named(turn, event.target)
        if named is None:
            return f"nothing: {event.target!r} is no entity that is known"
        kind, name = named
        turn.emit(GateChanged(at=turn.at, kind=kind.value, entity=name, closed=True, by=f"{OPERATOR} {event.actor}", reason=event.reason))
        return f"closed the gate of {kind.value} {name}"
    opened = [key for key in turn.cold.gates if event.target in (key, key.partition("/")[2])]
    for key in opened:
        # A person's resume opens it whoever closed it.
        kind_name, _, name = key.partition("/")
        for closure in turn.cold.gates[key]:
            turn.emit(GateChanged(at=turn.at, kind=kind_name, entity=name, closed=False, by=closure.by, reason=event.reason))
    return f"opened the gate of {event.target}" if opened else f"nothing: no gate of {event.target!r} is closed"


def _named(turn: Turn, target: str) -> tuple[Kind, str] | None:
    """The entity a target means: `account/dydx` is the account; a bare `dydx` the widest of that name, here the venue with all of it."""
    head, slash, tail = target.partition("/")
    if slash and head in set(Kind) and turn.hot.knows(Kind(head), tail):
        return Kind(head), tail
    kinds = [kind for kind in Kind if turn.hot.knows(kind, target)]
    if Kind.VENUE in kinds or Kind.ACCOUNT in kinds:
        kinds = [kind for kind in kinds if kind is not Kind.CHAIN]  # where a route ends stands among the chains, whatever it is
    return (kinds[0], target) if kinds else None


def _acknowledge(turn: Turn, event: OperatorCommand) -> str:
    """A person has looked: a transfer is settled, or a resource of unknown state may be read again."""
    if event.target in turn.cold.transfers:
        turn.emit(MoveProgress(at=turn.at, action_id=event.target, stage="acknowledged"))
        return f"took {event.target} off the way"
    if event.target in turn.cold.unseen:
        turn.emit(ResourceSeen(at=turn.at, resource=event.target))
        return f"took the reading of {event.target} as it is"
    return f"nothing: {event.target!r} is neither a transfer under way nor a written resource"


def scheduled(turn: Turn, event: Scheduled) -> None:
    """Count a calendar timer once a due time; the timer `review` reminds of overdue reviews."""
    if turn.cold.timers.get(event.timer, -1) >= event.due:
        return
    turn.emit(TimerTaken(at=turn.at, timer=event.timer, due=event.due))
    if event.timer != "review":
        return
    today = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=event.due // NS)).date()
    for runbook in sorted(turn.cold.in_force):
        book = turn.current(runbook)
        if book is not None and review_overdue(book, today):
            _remind(turn, book)


def review_overdue(book: Runbook, today: date) -> bool:
    """True when the runbook's last review is longer ago than its period."""
    if book.review_every is None or book.review_last is None:
        return False
    return date.fromisoformat(book.review_last) + timedelta(days=REVIEW_DAYS.get(book.review_every, 92)) < today


def _remind(turn: Turn, book: Runbook) -> None:
    to = book.notify.to if book.notify else book.on_failure.notify
    notice = Notify(
        action_id=f"{book.id}.review.{turn.at}",
        run_id=book.id,
        runbook=book.id,
        to=to,
        event="review",
        severity="warning",
        text=f"{book.title}: its review is overdue, the last was {book.review_last} ({book.owner})",
    )
    turn.emit(NoticeSent(at=turn.at, action=notice))
    turn.act(notice)

