"""What a status page shows (floor 4): an immutable, JSON-able view of the engine. Times are ISO-8601 UTC texts, None = none."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.engine.limits import Spend, spent
from daemon.engine.state import Memory, Run, StepOutcome, instance_of
from daemon.engine.turn import Turn
from daemon.units import DAY_NS, FOREVER, NEVER, iso

Lacks = Mapping[tuple[str, str], tuple[str, ...]]  # the instances whose triggers lack readings, and which
INSTANCES_MAX = 500  # of a brief status


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStatusView:
    """A run under way."""

    run_id: str
    started_at: str
    shadow: bool
    step: str | None
    phase: str
    waiting: str
    waiting_for: str
    until: str | None
    locks: tuple[str, ...]
    steps: tuple[StepOutcome, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """A runbook on an entity."""

    runbook: str
    entity: str
    state: str  # inactive | pending | firing | clearing
    pending_at: str | None
    fired_at: str | None
    unknown: tuple[str, ...]
    runs: tuple[RunStatusView, ...]
    last_run: str
    last_status: str
    last_reason: str
    cooldown_until: str | None
    paused: str
    spent_day_usd: float
    did: tuple[str, ...]
    would: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalView:
    """An approval that is waited for."""

    run_id: str
    step: str
    notional_usd: float
    deadline: str
    people: tuple[str, ...]
    quorum: int
    approvers: tuple[str, ...]
    plan_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitView:
    """What a runbook used of its limits in the last 24 h; None = no limit."""

    runbook: str
    spent_day_usd: float
    per_day_usd: float | None
    runs: int
    runs_max: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferView:
    """Money on its way."""

    action_id: str
    source: str
    destination: str
    route: str
    amount: str
    since: str
    overdue: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """Everything a person on call asks first."""

    at: str | None
    build: str
    halted: str
    runbooks: Mapping[str, str]  # id -> stage
    instances: tuple[InstanceView, ...]
    approvals: tuple[ApprovalView, ...]
    gates: Mapping[str, tuple[str, ...]]  # "<kind>/<entity>" -> who closed it
    pauses: Mapping[str, str]  # target -> until and why
    limits: tuple[LimitView, ...]
    house_spent_day_usd: float
    transfers: tuple[TransferView, ...]
    unsettled: tuple[str, ...]


def describe(turn: Turn, build: str, lacks: Lacks | None = None) -> Status:
    """The status of the engine at this turn. `lacks` tells which triggers lack readings; without it each trigger is evaluated, which costs
    with every instance. With it only the instances that there is something to say of are told, INSTANCES_MAX at most."""
    cold = turn.cold
    real = [s for s in cold.ledger.values() if not s.shadow]
    day = turn.at - DAY_NS
    books = {name: book for name in sorted(cold.in_force) if (book := turn.current(name)) is not None}
    return Status(
        at=_when(turn.at),
        build=build,
        halted=cold.halted,
        runbooks={name: book.stage for name, book in books.items()},
        instances=_instances(turn, real, lacks),
        approvals=tuple(view for run in cold.runs.values() if (view := _approval(run)) is not None),
        gates={key: tuple(closure.by for closure in closures) for key, closures in sorted(cold.gates.items())},
        pauses={
            target: " ".join(part for part in (_when(pause.until) or "until unpaused", f"by {pause.by}", pause.reason) if part)
            for target, pause in sorted(cold.pauses.items())
        },
        limits=tuple(
            LimitView(
                runbook=name,
                spent_day_usd=spent((s for s in real if s.runbook == name), since=day),
                per_day_usd=book.limits.per_day_usd,
                runs=sum(1 for s in cold.starts if s.runbook == name and not s.shadow and s.at > day),
                runs_max=book.limits.runs,
            )
            for name, book in books.items()
        ),
        house_spent_day_usd=spent(real, since=day),
        transfers=tuple(
            TransferView(
                action_id=action_id,
                source=t.source,
                destination=t.destination,
                route=t.route,
                amount=str(t.amount),
                since=iso(t.at),
                overdue=t.overdue,
            )
            for action_id, t in cold.transfers.items()
        ),
        unsettled=tuple(cold.sent),
    )


def _instances(turn: Turn, real: list[Spend], lacks: Lacks | None) -> tuple[InstanceView, ...]:
    of_instance: dict[str, list[Spend]] = {}
    for spend in real:
        of_instance.setdefault(spend.instance, []).append(spend)
    running: dict[tuple[str, str], list[Run]] = {}
    for run in turn.cold.runs.values():
        running.setdefault((run.runbook, run.entity), []).append(run)

    def view(runbook: str, entity: str) -> InstanceView:
        name = instance_of(runbook, entity)
        return _instance(turn, runbook, entity, of_instance.get(name, []), running.get((runbook, entity), []), lacks)

    if lacks is None:
        return tuple(view(runbook, entity) for runbook, entity in _known_instances(turn))
    names = {*turn.cold.memories, *(name for name, episode in turn.cold.episodes.items() if episode.open), *turn.cold.pauses}
    told = {*running, *lacks, *((name.partition("/")[0], name.partition("/")[2]) for name in names if "/" in name)}
    books = {runbook: turn.current(runbook) for runbook, _ in told}
    there = [name for name in sorted(told) if (book := books[name[0]]) is not None and turn.hot.knows(book.scope, name[1])]
    return tuple(view(runbook, entity) for runbook, entity in there[:INSTANCES_MAX])


def _known_instances(turn: Turn) -> list[tuple[str, str]]:
    """The instances there are, and those that are gone with a run still under way."""
    found = dict.fromkeys(turn.hot.instances())
    found |= dict.fromkeys((run.runbook, run.entity) for run in turn.cold.runs.values())
    return sorted(found)


def _when(at: int) -> str | None:
    return None if at in (NEVER, FOREVER) or at <= 0 else iso(at)


def _instance(turn: Turn, runbook: str, entity: str, own: list[Spend], runs: list[Run], lacks: Lacks | None) -> InstanceView:
    cold = turn.cold
    instance = instance_of(runbook, entity)
    memory = cold.memories.get(instance, Memory())
    state = turn.hot.state(runbook, entity, lacking=lacks is None)
    book = turn.current(runbook)
    cooldown = memory.last_end_at + book.cooldown_ns if book is not None and memory.last_end_at != NEVER else NEVER
    pause = next((p for t in ("", runbook, instance) if (p := cold.pauses.get(t)) is not None), None)
    return InstanceView(
        runbook=runbook,
        entity=entity,
        state=state.status,
        pending_at=_when(state.pending_at) if state.status != "inactive" else None,
        fired_at=_when(state.fired_at) if state.status in ("firing", "clearing") else None,
        unknown=tuple(state.unknown) if lacks is None else lacks.get((runbook, entity), ()),
        runs=tuple(_run(run) for run in runs),
        last_run=memory.last_run,
        last_status=memory.last_status,
        last_reason=memory.last_reason,
        cooldown_until=_when(cooldown) if cooldown > turn.at else None,
        paused="" if pause is None else f"by {pause.by}: {pause.reason}",
        spent_day_usd=spent(own, since=turn.at - DAY_NS),
        did=memory.did,
        would=memory.would,
    )


def _run(run: Run) -> RunStatusView:
    step = run.step
    return RunStatusView(
        run_id=run.id,
        started_at=iso(run.started_at),
        shadow=run.shadow,
        step=step.id if step else None,
        phase=step.phase if step else "between steps",
        waiting=step.waiting if step else "",
        waiting_for=step.wait_reason if step else "",
        until=_when(step.wait_until) if step else None,
        locks=run.locks,
        steps=run.finished,
    )


def _approval(run: Run) -> ApprovalView | None:
    step = run.step
    if step is None or step.approval is None or step.approval.answer != "":
        return None
    approval = step.approval
    return ApprovalView(
        run_id=run.id,
        step=step.id,
        notional_usd=approval.notional_usd,
        deadline=iso(approval.deadline),
        people=approval.people,
        quorum=approval.quorum,
        approvers=approval.approvers,
        plan_digest=approval.plan_digest,
    )
