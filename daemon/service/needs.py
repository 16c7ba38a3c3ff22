"""What waits for a person (floor 7): the question, what happens when nobody answers, the account before and after, and how to answer.

    for need in needs(engine, at):        # the most urgent first
        need.verbs                        # what a command about `need.target` may be

What only the shell knows (a refused reload, dead letters, a restored journal) comes as arguments. Changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.engine.engine import Engine
from daemon.engine.observe import overdue_at
from daemon.engine.records import Leg
from daemon.engine.state import Approval, Run, Sent
from daemon.engine.turn import Turn, progress_of, steps_of
from daemon.runbook.model import Runbook, Step
from daemon.service.money import Plan, market_of, outlook_after, plain_decimal
from daemon.service.verdict import ago, moment
from daemon.service.views import LegView, NeedView, Verb
from daemon.service.why import why
from daemon.service.words import act_text
from daemon.units import FOREVER, MINUTE_NS, NEVER, NS, iso, show
from daemon.world.entities import Kind

UNREAD_AFTER_NS = MINUTE_NS  # a written resource that no reading has shown for so long waits for somebody to look
URGENCY = ("restored", "approval", "unknown_outcome", "stuck_transfer", "unread_resource", "refused_reload", "undelivered")
TOLD_MAX = 100  # needs of a kind that are told one by one


@dataclass(frozen=True, slots=True, kw_only=True)
class Undelivered:
    """A message that reached nobody."""

    id: str
    endpoint: str
    reason: str
    at: int | None = None


def needs(
    engine: Engine, at: int, *, refused_reload: str = "", undelivered: Sequence[Undelivered] = (), restored: str = ""
) -> tuple[NeedView, ...]:
    """Everything that waits for a person, the most urgent first: by kind, and approvals by their deadline."""
    turn = engine.look(at)
    found = [
        *_approvals(engine, turn),
        *_unknown_outcomes(turn),
        *_stuck(turn),
        *_unread(turn),
        *_from_the_shell(refused_reload, undelivered, restored),
    ]
    return tuple(sorted(found, key=lambda need: (URGENCY.index(need.kind), need.deadline or "9", need.since or "9", need.target)))


# --- approvals ----------------------------------------------------------------------------------------------------------


def _approvals(engine: Engine, turn: Turn) -> Iterator[NeedView]:
    waiting = [run for run in turn.cold.runs.values() if run.step and run.step.approval and run.step.approval.answer == ""]
    for run in waiting[:TOLD_MAX]:
        approval = progress_of(run).approval
        assert approval is not None
        yield _approval(engine, turn, run, approval)


def _approval(engine: Engine, turn: Turn, run: Run, approval: Approval) -> NeedView:
    book = turn.book(run)
    step = steps_of(book, run)[progress_of(run).index]
    plan = _outlook(engine, turn, approval)
    what = show(approval.notional_usd, "USD") if approval.notional_usd > 0.0 else plan_words(approval.what)
    return NeedView(
        kind="approval",
        target=run.id,
        title=f"Approve {step.kind} of {what}? {book.title} · {run.entity}",
        text=_because(engine, turn, book, run.entity),
        runbook=run.runbook,
        entity=run.entity,
        run_id=run.id,
        step=step.id,
        since=iso(approval.requested_at),
        deadline=iso(approval.deadline),
        if_nothing=otherwise_words(step, approval.deadline, turn.at),
        digest=approval.plan_digest,
        people=approval.people,
        quorum=approval.quorum,
        approvers=approval.approvers,
        before=plan.before if plan else None,
        after=plan.after if plan else None,
        cost_usd=plan.cost_usd if plan else None,
        legs=legs_in_words(turn, book, approval),
        verbs=("approve", "deny", "pause", "halt"),
    )


def _because(engine: Engine, turn: Turn, book: Runbook, entity: str) -> str:
    """Why it is asked: the trigger's own sentence, where the version that asks is in force."""
    current = turn.current(book.id)
    if current is None or current.digest != book.digest:
        return f"asked by a version of {book.id} that is not in force any more"
    try:
        return why(engine, book.id, entity, turn.at).sentence
    except LookupError:
        return f"{entity} is gone"


def otherwise_words(step: Step, deadline: int, at: int) -> str:
    """What happens when nobody answers, and when: `at 2026-02-03T17:02:00Z (in 1m40s) the step is skipped and the run goes on`."""
    assert step.approval is not None
    end = f"at {moment(deadline)} (in {ago(max(0, deadline - at) / NS)})"
    match step.approval.otherwise:
        case "proceed":
            return f"{end} it is done without anybody's approval"
        case "skip":
            return f"{end} the step is skipped and the run goes on without it"
        case "abort":
            return f"{end} the run ends, and nothing more of it is done"


def plan_words(what: Mapping[str, object]) -> str:
    """What a plan without a size is about: the endpoint it calls, the market whose orders it cancels, the gate it moves."""
    if "endpoint" in what:
        return f"a call of {what['endpoint']}"
    return ", ".join(str(value) for value in what.values()) or "nothing that has a size"


def legs_in_words(turn: Turn, book: Runbook, approval: Approval) -> tuple[LegView, ...]:
    """One line a write of the plan."""
    if approval.legs:
        return tuple(_leg(turn, book, leg) for leg in approval.legs)
    what = approval.what
    if approval.amount is not None:
        way = f"{what.get('source', '?')} -> {what.get('destination', '?')} over {what.get('route', '?')}"
        fee = what.get("fee_usd")
        cost = f", fee {show(float(fee), 'USD')}" if isinstance(fee, float | int) else ""
        return (LegView(text=f"MOVE {show(float(approval.amount), 'USD')} {way}{cost}", notional_usd=float(approval.amount)),)
    if "endpoint" in what:
        return (LegView(text=f"CALL {what['endpoint']} with {_payload(what.get('payload'))}", notional_usd=0.0),)
    return tuple(LegView(text=f"{kind.upper()} {target}", notional_usd=0.0) for kind, target in what.items())


def _leg(turn: Turn, book: Runbook, leg: Leg) -> LegView:
    market = market_of(turn, leg.position)
    size = turn.hot.glance(Kind.POSITION, leg.position, "size", turn.at, book.max_age)
    usd = float(leg.size) * turn.hot.glance(Kind.MARKET, market, "value_price", turn.at, book.max_age)
    text = f"{leg.side} {plain_decimal(float(leg.size))} {market}, reduce-only; the position is {plain_decimal(size)} now"
    return LegView(text=text, notional_usd=0.0 if math.isnan(usd) else usd)


def _payload(payload: object) -> str:
    if not isinstance(payload, Mapping):
        return "no payload"
    return ", ".join(f"{key}: {value}" for key, value in payload.items())[:200] or "an empty payload"


def _outlook(engine: Engine, turn: Turn, approval: Approval) -> Plan | None:
    """The account that the plan concerns, before and after; None when it concerns none."""
    if approval.legs:
        own = turn.topology.entity(Kind.POSITION, approval.legs[0].position)
        return outlook_after(engine, own.links.get("account", ""), approval.legs, at=turn.at)
    if approval.amount is None:
        return None
    amount, fee = float(approval.amount), float(str(approval.what.get("fee_usd", 0.0)))
    source, destination = str(approval.what.get("source", "")), str(approval.what.get("destination", ""))
    if destination in turn.topology.accounts or turn.hot.knows(Kind.ACCOUNT, destination):
        return outlook_after(engine, destination, moved_usd=amount, fee_usd=fee, at=turn.at)
    if source in turn.topology.accounts or turn.hot.knows(Kind.ACCOUNT, source):
        return outlook_after(engine, source, moved_usd=-amount, fee_usd=fee, at=turn.at)
    return None


# --- outcomes and money of unknown whereabouts ----------------------------------------------------------------------------


def _unknown_outcomes(turn: Turn) -> Iterator[NeedView]:
    for action_id, sent in [(name, sent) for name, sent in turn.cold.sent.items() if sent.unknown][:TOLD_MAX]:
        run = turn.cold.runs.get(sent.run_id)
        looked = f"until {moment(sent.give_up_at)} its run waits for it, then it ends as unknown" if run else "its run has ended"
        target, verbs = _acknowledgeable(turn, action_id, sent)
        yield NeedView(
            kind="unknown_outcome",
            target=target,
            title=f"May have happened: {act_text(sent.action)}",
            text=f"{action_id} was sent {moment(sent.at)} ({ago((turn.at - sent.at) / NS)} ago) and nobody knows what came of it; "
            f"limits count it ({show(sent.usd, 'USD')})",
            runbook=sent.action.runbook,
            entity=run.entity if run else "",
            run_id=sent.run_id,
            step=sent.step,
            since=iso(sent.at),
            if_nothing=f"it is looked up until the venue knows, and never sent again; {looked}",
            verbs=verbs,
        )


def _acknowledgeable(turn: Turn, action_id: str, sent: Sent) -> tuple[str, tuple[Verb, ...]]:
    """What an `ack` about an unsettled action may name, and the verbs there are."""
    match sent.action:
        case MoveBuffer() if action_id in turn.cold.transfers:
            return action_id, ("ack",)
        case ShrinkPosition(account=account, market=market):
            resource = f"size/{account}:{market.partition(':')[2]}"
            if resource in turn.cold.unseen:
                return resource, ("ack",)
    return action_id, ()


def _stuck(turn: Turn) -> Iterator[NeedView]:
    overdue = [(name, each) for name, each in turn.cold.transfers.items() if each.overdue or overdue_at(turn, name) <= turn.at]
    for action_id, transfer in overdue[:TOLD_MAX]:
        amount = show(float(transfer.amount), "USD")
        yield NeedView(
            kind="stuck_transfer",
            target=action_id,
            title=f"{amount} has not arrived at {transfer.destination}",
            text=f"{amount} left {transfer.source} over {transfer.route} {moment(transfer.at)} ({ago((turn.at - transfer.at) / NS)} ago) "
            "and the destination does not show it",
            runbook=transfer.runbook,
            since=iso(transfer.at),
            if_nothing=f"no further move goes to {transfer.destination} until it is credited or acknowledged",
            verbs=("ack",),
        )


def _unread(turn: Turn) -> Iterator[NeedView]:
    sent = {_resource(each) for each in turn.cold.sent.values()}
    for resource, since in list(turn.cold.unseen.items()):
        written = since if since != FOREVER else NEVER
        if resource in sent or written == NEVER or turn.at - written < UNREAD_AFTER_NS:
            continue  # on the wire, or written just now: its reading is still to come
        what, _, name = resource.partition("/")
        yield NeedView(
            kind="unread_resource",
            target=resource,
            title=f"No reading of the {what} of {name} since it was written",
            text=f"it was written {moment(written)} ({ago((turn.at - written) / NS)} ago), and no reading has come since",
            entity=name,
            since=iso(written),
            if_nothing="nothing that needs it is sized or sent; ack takes the reading as it is",
            verbs=("ack",),
        )


def _resource(sent: Sent) -> str:
    match sent.action:
        case ShrinkPosition(account=account, market=market):
            return f"size/{account}:{market.partition(':')[2]}"
        case MoveBuffer(source=source):
            return f"buffer/{source}"
        case _:
            return ""


# --- from the shell -------------------------------------------------------------------------------------------------------


def _from_the_shell(refused_reload: str, undelivered: Sequence[Undelivered], restored: str) -> Iterator[NeedView]:
    if restored:
        yield NeedView(
            kind="restored", target="", title="This journal is a restored backup", text=restored, verbs=("resume",),
            if_nothing="nothing is sent; what was done after the backup was made is not known here: compare with the venue, then resume",
        )  # fmt: skip
    if refused_reload:
        yield NeedView(
            kind="refused_reload", target="reload", title="The last reload was refused", text=refused_reload,
            if_nothing="the runbooks that were in force stay in force",
        )  # fmt: skip
    by_endpoint: dict[str, list[Undelivered]] = {}
    for letter in undelivered:
        by_endpoint.setdefault(letter.endpoint, []).append(letter)
    for endpoint, letters in by_endpoint.items():
        last = letters[-1]
        many = f"{len(letters)} messages" if len(letters) > 1 else "A message"
        yield NeedView(
            kind="undelivered", target=endpoint, title=f"{many} never reached {endpoint}", text=last.reason,
            since=iso(last.at) if last.at is not None else None,
            if_nothing="they stay dead letters: reefd webhook list shows them, redeliver sends them again, enable opens a closed endpoint",
        )  # fmt: skip
