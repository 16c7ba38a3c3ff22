"""Runbooks in force, their instances and their steps in words (floor 7). Changes nothing."""

from __future__ import annotations

from collections.abc import Iterator

from daemon.engine.engine import Engine
from daemon.engine.limits import Spend, spent
from daemon.engine.state import Memory, instance_of
from daemon.engine.turn import Turn
from daemon.runbook.model import (
    Amount,
    Approval,
    Cancel,
    Expression,
    Gate,
    Label,
    Move,
    Pause,
    Rebalance,
    Runbook,
    Shrink,
    ShrinkAccount,
    Step,
    Tell,
    Template,
    Wait,
    Webhook,
)
from daemon.service.holds import cooldown_until, pause_words, pauses_of
from daemon.service.rounds import Rounds
from daemon.service.views import InstanceView, RunbookDetail, RunbookView
from daemon.units import DAY_NS, NEVER, NS, iso, show_duration

INSTANCES_MAX = 1_000  # of a runbook that are told one by one; the moving ones first
STATES = ("firing", "clearing", "pending", "inactive")


def runbook_views(engine: Engine, rounds: Rounds, at: int) -> tuple[RunbookView, ...]:
    """The set in force, by id."""
    turn = engine.look(at)
    books = [book for name in sorted(turn.cold.in_force) if (book := turn.current(name)) is not None]
    counts: dict[str, dict[str, int]] = {book.id: {} for book in books}
    for runbook, entity in turn.hot.instances():
        state = turn.hot.state(runbook, entity, lacking=False).status
        counts[runbook][state] = counts[runbook].get(state, 0) + 1
    for runbook, _ in rounds.lacking:
        if runbook in counts:
            counts[runbook]["unknown"] = counts[runbook].get("unknown", 0) + 1
    return tuple(_view(turn, book, counts[book.id]) for book in books)


def runbook_detail(engine: Engine, rounds: Rounds, runbook: str, at: int) -> RunbookDetail:
    """One runbook with its text, steps in words and instances. Raises LookupError when none of that id is in force."""
    turn = engine.look(at)
    book = turn.current(runbook)
    if book is None:
        raise LookupError(f"no runbook {runbook!r} is in force; in force are {', '.join(sorted(turn.cold.in_force)) or 'none'}")
    there = turn.hot.instances(book.id) if book.stage != "disabled" else []
    states = {entity: turn.hot.state(book.id, entity, lacking=False).status for _, entity in there}
    counts: dict[str, int] = {}
    for state in states.values():
        counts[state] = counts.get(state, 0) + 1
    lacking = sum(1 for name, entity in rounds.lacking if name == book.id and entity in states)
    if lacking:
        counts["unknown"] = lacking
    ordered = sorted(states, key=lambda entity: (STATES.index(states[entity]), entity))[:INSTANCES_MAX]
    return RunbookDetail(
        head=_view(turn, book, counts),
        source=book.source,
        when=book.trigger.when.text,
        until=book.trigger.until.text if book.trigger.until is not None else "",
        hold_s=book.trigger.for_ns / NS,
        until_hold_s=book.trigger.until_for_ns / NS,
        cooldown_s=book.cooldown_ns / NS,
        steps=tuple(step_words(step) for step in book.steps) + tuple(f"when it clears: {step_words(step)}" for step in book.on_clear),
        instances=tuple(instance_view(turn, book, entity, rounds) for entity in ordered),
    )


def instance_view(turn: Turn, book: Runbook, entity: str, rounds: Rounds) -> InstanceView:
    """A runbook on an entity."""
    name = instance_of(book.id, entity)
    memory = turn.cold.memories.get(name, Memory())
    state = turn.hot.state(book.id, entity, lacking=False)
    since = {"pending": state.pending_at, "firing": state.fired_at, "clearing": state.fired_at}.get(state.status, 0)
    cooldown = cooldown_until(turn, book, entity)
    own = (spend for spend in turn.cold.ledger.values() if spend.instance == name and not spend.shadow)
    return InstanceView(
        runbook=book.id,
        entity=entity,
        state=state.status,
        since=iso(since) if since > 0 else None,
        unknown=rounds.lacking.get((book.id, entity), ()),
        running=tuple(run.id for run in turn.cold.active_runs(book.id, entity)),
        last_run=memory.last_run,
        last_status=memory.last_status,
        last_reason=memory.last_reason,
        cooldown_until=iso(cooldown) if cooldown != NEVER else None,
        paused="; ".join(pause_words(target, pause) for target, pause in pauses_of(turn, book.id, entity)),
        spent_day_usd=spent(own, since=turn.at - DAY_NS),
    )


def _view(turn: Turn, book: Runbook, counts: dict[str, int]) -> RunbookView:
    own: Iterator[Spend] = (spend for spend in turn.cold.ledger.values() if spend.runbook == book.id and not spend.shadow)
    paused = [pause_words(target, pause) for target, pause in pauses_of(turn, book.id, "") if target in ("", book.id)]
    last = _last(turn, book.id)
    return RunbookView(
        id=book.id,
        title=book.title,
        owner=book.owner,
        stage=book.stage,
        path=book.path,
        digest=book.digest,
        scope=book.scope.value,
        instances=counts,
        paused="; ".join(paused),
        spent_day_usd=spent(own, since=turn.at - DAY_NS),
        per_day_usd=book.limits.per_day_usd,
        runs_day=sum(1 for start in turn.cold.starts if start.runbook == book.id and not start.shadow and start.at > turn.at - DAY_NS),
        runs_max=book.limits.runs,
        last_run=last.last_run,
        last_status=last.last_status,
    )


def _last(turn: Turn, runbook: str) -> Memory:
    """What the instance of a runbook that ended a run last remembers."""
    own = (memory for name, memory in turn.cold.memories.items() if name.partition("/")[0] == runbook and memory.last_run)
    return max(own, key=lambda memory: (memory.last_end_at, memory.last_start_at, memory.last_run), default=Memory())


# --- steps in words -----------------------------------------------------------------------------------------------------


def step_words(step: Step) -> str:
    """`shrink: shrink the position by 25%, in 4 slices every 10s; when ...; ana or ben approves within 2m, else it is skipped`."""
    parts = [f"{step.id}: {act_words(step)}"]
    if step.when is not None:
        parts.append(f"only when {step.when.text}")
    if step.approval is not None:
        parts.append(approval_words(step.approval))
    if step.verify is not None:
        parts.append(f"then {step.verify.that.text} must show within {_span(step.verify.within_ns)}")
    if step.retry.attempts > 1:
        parts.append(f"tried up to {step.retry.attempts} times")
    if step.on_failure != "abort":
        parts.append({"continue": "goes on when it fails", "escalate": "wakes somebody when it fails"}[step.on_failure])
    return "; ".join(parts)


def act_words(step: Step) -> str:
    """What a step does."""
    act = step.act
    match act:
        case Shrink():
            how = f"by {_amount(act.by)}" if act.by is not None else f"to {_amount(act.to)}"
            return f"shrink the position {how}{_slices(act)}"
        case ShrinkAccount():
            target = f"until the margin ratio is {_amount(act.to_margin_ratio)}" if act.to_margin_ratio else f"by {_amount(act.by)} each"
            return f"shrink the account {target}, {act.order.replace('_', ' ')}{_slices(act)}"
        case Move():
            amount = _amount(act.amount) if act.amount is not None else f"what brings the margin ratio to {_amount(act.to_ratio)}"
            return f"move {amount} from {act.source} to {act.destination or 'the account'} over {act.route} route"
        case Cancel():
            return f"cancel the open orders of the {act.scope}"
        case Gate():
            return f"{'halt' if act.closed else 'resume'} openings of the {act.scope}"
        case Tell():
            return f"tell {', '.join(act.to) or 'the default channels'}: {_text(act.text)}"
        case Webhook():
            return f"call {act.endpoint}"
        case Wait():
            return f"wait until {act.that.text}, at most {_span(act.within_ns)}"
        case Pause():
            return f"pause {act.runbook or 'this runbook'} for {_span(act.for_ns)}"
        case Rebalance():
            return f"rebalance {act.bucket or 'all buckets'} to the {act.to}"


def approval_words(approval: Approval) -> str:
    """Who must agree and what happens else."""
    who = " or ".join(approval.people) or "somebody"
    several = f"{approval.quorum} of {len(approval.people)} ({', '.join(approval.people)}) approve"
    count = several if approval.quorum > 1 else f"{who} approves"
    otherwise = {"skip": "it is skipped", "proceed": "it is done all the same", "abort": "the run ends"}[approval.otherwise]
    asked = f"when {approval.when.text}, " if approval.when is not None else ""
    return f"{asked}{count} within {_span(approval.timeout_ns)}, else {otherwise}"


def _amount(amount: Amount | None) -> str:
    return amount.expression.text if amount is not None else ""


def _slices(act: Shrink | ShrinkAccount) -> str:
    return f", in {act.slices} slices every {_span(act.every_ns)}" if act.slices > 1 else ""


def _span(ns: int) -> str:
    return show_duration(ns / NS)


def _text(text: Template) -> str:
    parts = []
    for part in text:
        match part:
            case str():
                parts.append(part)
            case Label(name=name):
                parts.append("{" + name + "}")
            case Expression():
                parts.append("{" + part.text + "}")
    return "".join(parts)
