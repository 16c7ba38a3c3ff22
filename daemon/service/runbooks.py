"""The runbooks in force as the surface lists them (floor 7). Runs on the loop's own thread and changes nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

from daemon.engine.engine import Engine
from daemon.engine.status import InstanceView as Standing
from daemon.engine.status import Status
from daemon.runbook.model import Runbook
from daemon.service.views import InstanceView, RunbookDetail, RunbookView
from daemon.units import NS


def runbook_views(engine: Engine, at: int) -> tuple[RunbookView, ...]:
    """Every runbook in force, by id."""
    status = engine.snapshot()
    return tuple(_head(engine, status, name, at) for name in sorted(status.runbooks))


def runbook_detail(engine: Engine, runbook: str, at: int, source: Callable[[str], str]) -> RunbookDetail:
    """One runbook in force."""
    status = engine.snapshot()
    book = engine.book(runbook)
    assert book is not None
    trigger = book.trigger
    return RunbookDetail(
        head=_head(engine, status, runbook, at),
        source=source(engine.cold.in_force[runbook]),
        when=trigger.when.text,
        until=trigger.until.text if trigger.until is not None else "",
        hold_s=trigger.for_ns / NS,
        until_hold_s=trigger.until_for_ns / NS,
        cooldown_s=book.cooldown_ns / NS,
        steps=tuple(f"{step.id}: {step.kind}" for step in book.all_steps()),
        instances=tuple(_instance(i) for i in status.instances if i.runbook == runbook),
    )


def _head(engine: Engine, status: Status, name: str, at: int) -> RunbookView:
    book: Runbook | None = engine.book(name)
    assert book is not None
    own = [i for i in status.instances if i.runbook == name]
    counts = Counter(i.state for i in own)
    counts["unknown"] = sum(bool(i.unknown) for i in own)
    limit = next(each for each in status.limits if each.runbook == name)
    last = max((i for i in own if i.last_run), key=lambda i: i.last_run.rpartition("/")[0].rpartition("/")[2], default=None)
    return RunbookView(
        id=name,
        title=book.title,
        owner=book.owner,
        stage=book.stage,
        path=book.path,
        digest=engine.cold.in_force[name],
        scope=book.scope.value,
        instances=dict(counts),
        paused=status.pauses.get(name, ""),
        spent_day_usd=limit.spent_day_usd,
        per_day_usd=limit.per_day_usd,
        runs_day=limit.runs,
        runs_max=limit.runs_max,
        last_run=last.last_run if last is not None else "",
        last_status=last.last_status if last is not None else "",
    )


def _instance(i: Standing) -> InstanceView:
    return InstanceView(
        runbook=i.runbook,
        entity=i.entity,
        state=i.state,
        since=i.fired_at or i.pending_at,
        unknown=i.unknown,
        running=tuple(run.run_id for run in i.runs),
        last_run=i.last_run,
        last_status=i.last_status,
        last_reason=i.last_reason,
        cooldown_until=i.cooldown_until,
        paused=i.paused,
        spent_day_usd=i.spent_day_usd,
    )
