"""The last checks before an action leaves (floor 4): holds and guards, approval, limits, locks. All of it again for every slice."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from daemon.engine.codec import dumps, plain
from daemon.engine.contract import FALSE, Plan
from daemon.engine.ending import end, fail_step, finish_step
from daemon.engine.guard import first_failing, held, lock_names
from daemon.engine.limits import Intent, Room, room, size_room
from daemon.engine.notices import ask, page
from daemon.engine.records import (
    ActionDenied,
    ApprovalAnswered,
    ApprovalRequested,
    Leg,
    LimitClipped,
    LocksReleased,
    LocksTaken,
    StepWaiting,
)
from daemon.engine.state import Approval, Run
from daemon.engine.turn import Turn, progress_of, seconds
from daemon.runbook.model import Gate, Runbook, Step
from daemon.units import FOREVER, show

EPSILON = 1e-9  # relative: a plan that meets its limit to the last double is within it


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a step wants to do now, in money; legs for shrinks, amount for moves."""

    notional_usd: float = 0.0
    fee_usd: float = 0.0
    legs: tuple[Leg, ...] = ()
    amount: Decimal | None = None
    what: Mapping[str, object] = field(default_factory=dict)  # what else people are shown and agree to

    def plan(self) -> Plan:
        """The plan's own names."""
        amount = float(self.amount) if self.amount is not None else self.notional_usd
        return Plan(notional_change=self.notional_usd, amount=amount, fee_estimate=self.fee_usd)


def may_act(turn: Turn, run: Run, book: Runbook, step: Step) -> bool:
    """True when nothing holds the step back and every guard is TRUE; else it waits, or ends, and says why."""
    progress = progress_of(run)
    hold = held(turn, run, book, step)
    if hold is not None:
        if progress.waiting != hold.waiting:
            until = turn.at + step.timeout_ns if hold.waiting == "fresh" else FOREVER
            _wait(turn, run, step, hold.waiting, until, hold.reason)
        elif turn.at >= progress.wait_until:
            fail_step(turn, run, book, step, f"{hold.reason}, for {seconds(step.timeout_ns)}")
        return False
    if not step.guarded:
        return True
    failing = first_failing(turn, run, book)
    if failing is None:
        return True
    # From the first failing guard of this write: what else held it back in between gives no new time.
    deadline = progress.guards_until if progress.guards_until != FOREVER else turn.at + book.guard_wait_ns
    if run.on_clear and isinstance(step.act, Gate):
        deadline = FOREVER  # what the episode closed must be opened some day: it waits until the guards hold, or the trigger fires again
    if turn.at >= deadline:
        end(turn, run, book, "skipped", failing)
    elif progress.waiting != "guards":
        _wait(turn, run, step, "guards", deadline, failing)
    return False


def _wait(turn: Turn, run: Run, step: Step, waiting: str, until: int, reason: str) -> None:
    turn.emit(StepWaiting(at=turn.at, run_id=run.id, step=step.id, waiting=waiting, until=until, reason=reason))  # type: ignore[arg-type]


def approved(turn: Turn, run: Run, book: Runbook, step: Step, wish: Wish) -> bool:
    """True when no approval is needed or it was granted; else people are asked, once, and the run gives its locks back meanwhile."""
    spec = step.approval
    progress = progress_of(run)
    if spec is None or run.shadow or _covers(progress.approval, wish):
        return True
    if spec.when is not None and turn.value(run, spec.when, wish.plan()) == FALSE:
        return True
    if run.locks:
        turn.emit(LocksReleased(at=turn.at, run_id=run.id, reason="waiting for approval"))
    named = {"run": run.id, "step": step.id, "legs": wish.legs, "amount": wish.amount, **({"what": wish.what} if wish.what else {})}
    content = dumps(plain(named))
    digest = hashlib.sha256(content.encode()).hexdigest()
    text = f"approval wanted for {step.id}: {step.kind} of {show(wish.notional_usd, 'USD')}"
    turn.emit(
        ApprovalRequested(
            at=turn.at,
            run_id=run.id,
            step=step.id,
            deadline=turn.at + spec.timeout_ns,
            people=spec.people,
            quorum=spec.quorum,
            notional_usd=wish.notional_usd,
            legs=wish.legs,
            amount=wish.amount,
            plan_digest=digest,
            reason=text,
            what=wish.what,
        )
    )
    ask(turn, book, run, step.id, text, turn.at + spec.timeout_ns, digest, spec.people)
    return False


def _covers(approval: Approval | None, wish: Wish) -> bool:
    """True when an approval was granted and is about this wish: legs and amount are cut to what was approved by whoever sends them, but
    money does not go elsewhere, nor for a higher fee, than people agreed to. Nobody agreed to a plan that proceeds because time ran out."""
    if approval is None or approval.answer != "granted":
        return False
    if not approval.approvers or "route" not in approval.what:
        return True
    ends = ("source", "destination")
    same = all(approval.what.get(end) == wish.what.get(end) for end in ends)
    dearer = wish.fee_usd > float(str(approval.what.get("fee_usd", 0.0))) * (1.0 + EPSILON)
    return same and (approval.what["route"] == wish.what.get("route") or not dearer)


def waiting_for_people(turn: Turn, run: Run, book: Runbook, step: Step) -> bool:
    """Handle an approval that was asked for; False when the step may go on."""
    approval = progress_of(run).approval
    if approval is None or approval.answer == "granted":
        return False
    assert step.approval is not None
    match approval.answer:
        case "denied":
            end(turn, run, book, "aborted", f"approval of {step.id} was denied")
        case "timed_out" if step.approval.otherwise == "skip":
            finish_step(turn, run, step, "skipped", "nobody approved in time", acted=False)
        case "timed_out":
            end(turn, run, book, "aborted", f"nobody approved {step.id} in time")
        case "":
            if turn.at >= approval.deadline:
                granted = step.approval.otherwise == "proceed"
                turn.emit(ApprovalAnswered(at=turn.at, run_id=run.id, step=step.id, answer="timed_out", actor="", granted=granted))
    return True


def intent_of(turn: Turn, run: Run, account: str) -> Intent:
    """Whose room under the limits is asked for."""
    return Intent(at=turn.at, runbook=run.runbook, run_id=run.id, episode=run.episode, account=account, shadow=run.shadow)


def room_for(turn: Turn, run: Run, book: Runbook, account: str, leg: Leg | None) -> Room:
    """What limits leave for this run at this account, and for a leg's position."""
    intent = intent_of(turn, run, account)
    entries = turn.cold.ledger.values()
    left = room(entries, intent, book.limits, turn.house)
    if leg is None:
        return left
    size = size_room(entries, intent, book.limits, leg.position, run.sizes.get(leg.position, 0.0))
    return Room(usd=left.usd, limit=left.limit, size=size, size_limit="per_episode")


def deny(turn: Turn, run: Run, book: Runbook, step: Step, limit: str, reason: str, usd: float) -> None:
    """Refuse an action and end the run `blocked`."""
    turn.emit(ActionDenied(at=turn.at, run_id=run.id, step=step.id, kind=step.kind, limit=limit, reason=reason, usd=usd))
    end(turn, run, book, "blocked", reason)


def within(value: float, bound: float) -> bool:
    """True when `value` is at most `bound`, rounding of the last digit aside; False for NaN."""
    return value <= bound * (1.0 + EPSILON)


def clipped(turn: Turn, run: Run, book: Runbook, step: Step, limit: str, wanted: float, allowed: float) -> None:
    """Note that a survival action is made smaller, and page."""
    turn.emit(LimitClipped(at=turn.at, run_id=run.id, step=step.id, limit=limit, wanted_usd=wanted, allowed_usd=allowed))
    if not run.shadow:
        text = f"{step.id} clipped by {limit}: wanted {show(wanted, 'USD')}, allowed {show(allowed, 'USD')}"
        page(turn, book, run.entity, text, f"{run.id}.{step.id}")


def take_locks(turn: Turn, run: Run, book: Runbook) -> None:
    """Take the run's locks; `may_act` has found them free at this very instant."""
    names = lock_names(turn, book, run.entity)
    if names and run.locks != names and not run.shadow:
        turn.emit(LocksTaken(at=turn.at, run_id=run.id, locks=names))
