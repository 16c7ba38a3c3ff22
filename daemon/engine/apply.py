"""`apply(cold, record)`: the only way cold state changes (floor 4). It decides nothing: recovery runs the same code over the journal."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from decimal import Decimal
from typing import assert_never

from daemon.engine import records as r
from daemon.engine.actions import CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.edge import Plan
from daemon.engine.limits import Spend
from daemon.engine.state import (
    Approval,
    Closure,
    Cold,
    Episode,
    Memory,
    PauseState,
    Run,
    Sent,
    SizeTrack,
    Start,
    StepOutcome,
    StepProgress,
    Transfer,
    instance_of,
)
from daemon.units import DAY_NS, FOREVER, NS

COMMANDS_KEPT = 10_000  # a command is retried within minutes; ten thousand are days of operator traffic
DID_KEPT = 100
UNKNOWN_MARGIN_NS = 30 * NS  # after its expiry plus this, an order of unknown outcome can no longer fill, however late the venue's clock


def position_of(account: str, market: str) -> str:
    """The position id of an account's market: `dydx:BTC-USD`."""
    return f"{account}:{market.partition(':')[2]}"


def signed_size(action: ShrinkPosition, size: Decimal) -> float:
    """The change of the position's size that `size` base units of this order make."""
    return float(size) if action.side == "BUY" else -float(size)


def apply(cold: Cold, record: r.Record) -> None:
    """Change `cold` as the record says; total over the closed union."""
    match record:
        case r.RunbooksInForce():
            cold.in_force = dict(record.runbooks)
        case r.TriggerChanged():
            _trigger(cold, record)
        case r.HoldReset() | r.ActionDenied() | r.LimitClipped():
            pass
        case r.RunRefused():
            _refuse(cold, record)
        case r.RunStarted():
            _start(cold, record)
        case r.LocksTaken():
            _change(cold, record.run_id, locks=record.locks)
        case r.LocksReleased():
            _change(cold, record.run_id, locks=())
        case r.StepStarted():
            begun = StepProgress(id=record.step, index=record.index, started_at=record.at)
            _change(cold, record.run_id, index=record.index, step=begun)
        case r.StepWaiting():
            phase = "verify" if record.waiting == "verify" else None
            changes = {"waiting": record.waiting, "wait_until": record.until, "wait_reason": record.reason}
            if record.waiting == "guards":
                changes["guards_until"] = record.until
            _step(cold, record.run_id, **changes, **({"phase": phase} if phase else {}))
        case r.StepPlanned():
            amount = record.notional_usd if record.amount is None else float(record.amount)
            plan = Plan(notional_change=record.notional_usd, amount=amount, fee_estimate=record.fee_usd)
            _step(cold, record.run_id, planned=True, legs=record.legs, amount=record.amount, plan=plan, leg=0)
        case r.ApprovalRequested():
            _ask(cold, record)
        case r.ApprovalAnswered():
            _answer(cold, record)
        case r.ActionRequested():
            _request(cold, record)
        case r.ActionWould():
            _would(cold, record)
        case r.ActionFinished():
            _finish_action(cold, record)
        case r.RetryScheduled():
            _step(cold, record.run_id, phase="ready", next_at=record.next_at, outcome=None, waiting="retry", wait_reason=record.reason)
        case r.LegAbandoned():
            _leg(cold, record.run_id, record.leg, failed=record.reason)
            step = cold.runs[record.run_id].step
            assert step is not None
            # The slice number moves on as well: an action id is never used twice.
            _step(cold, record.run_id, phase="ready", outcome=None, leg=record.leg + 1, attempt=0, slice=step.slice + 1)
        case r.LegFinished():
            _step(cold, record.run_id, leg=record.leg + 1, attempt=0)
        case r.StepFinished():
            _finish_step(cold, record)
        case r.RunFinished():
            _finish_run(cold, record)
        case r.NoticeSent():
            episode = cold.episodes.get(record.instance)
            if episode and record.action.event == "fired":
                cold.episodes[record.instance] = replace(episode, noticed_at=record.at)
        case r.GateChanged():
            _gate(cold, record)
        case r.PauseSet():
            cold.pauses[record.target] = PauseState(until=record.until, by=record.by, at=record.at, reason=record.reason)
        case r.PauseEnded():
            cold.pauses.pop(record.target, None)
        case r.HaltChanged():
            cold.halted = (record.reason or record.by) if record.halted else ""
        case r.CommandTaken():
            cold.commands[record.command_id] = record.at
            while len(cold.commands) > COMMANDS_KEPT:
                del cold.commands[next(iter(cold.commands))]
        case r.ResourceSeen():
            cold.unseen.pop(record.resource, None)
            chain = record.resource.removeprefix("buffer/")
            for action_id, transfer in cold.transfers.items():
                if transfer.source == chain and transfer.settled:
                    cold.transfers[action_id] = replace(transfer, source_seen=True)
        case r.SizeChanged():
            _size(cold, record)
        case r.MoveProgress():
            _move(cold, record)
        case r.KnowledgeChanged():
            _remember(cold, instance_of(record.runbook, record.entity), unknown=record.unknown)
        case r.TimerTaken():
            cold.timers[record.timer] = record.due
        case _:
            assert_never(record)


def _change(cold: Cold, run_id: str, **changes: object) -> None:
    cold.runs[run_id] = replace(cold.runs[run_id], **changes)  # type: ignore[arg-type]


def _step(cold: Cold, run_id: str, **changes: object) -> None:
    run = cold.runs[run_id]
    assert run.step is not None, f"{run_id} is between steps"
    cold.runs[run_id] = replace(run, step=replace(run.step, **changes))  # type: ignore[arg-type]


def _leg(cold: Cold, run_id: str, leg: int, **changes: object) -> None:
    step = cold.runs[run_id].step
    assert step is not None
    legs = tuple(replace(item, **changes) if i == leg else item for i, item in enumerate(step.legs))  # type: ignore[arg-type]
    _step(cold, run_id, legs=legs)


def _remember(cold: Cold, instance: str, **changes: object) -> None:
    cold.memories[instance] = replace(cold.memories.get(instance, Memory()), **changes)  # type: ignore[arg-type]


def _trigger(cold: Cold, record: r.TriggerChanged) -> None:
    instance = instance_of(record.runbook, record.entity)
    before = cold.episodes.get(instance)
    if record.change == "fired":
        sizes = dict(sorted(record.sizes.items()))  # in the order in which the journal has them
        cold.episodes[instance] = Episode(
            id=record.episode,
            runbook=record.runbook,
            entity=record.entity,
            pending_at=record.pending_at,
            fired_at=record.fired_at,
            sizes=sizes,
            # What an earlier episode left to clean up is cleaned up after this one.
            acted=before is not None and before.acted,
            acted_shadow=before is not None and before.acted_shadow,
        )
        for position, size in sizes.items():
            cold.sizes.setdefault(position, SizeTrack(size=size))
        return
    if before is None:
        return
    cold.episodes[instance] = replace(before, cleared_at=record.at, ended=record.change)
    stop = record.reason or record.change if record.change in ("gone", "reset") else ""
    for run in cold.active_runs(record.runbook, record.entity):
        if not run.on_clear:
            _change(cold, run.id, cleared=True, stop=run.stop or stop)
    _forget_sizes(cold)


def _forget_sizes(cold: Cold) -> None:
    """Keep sizes only of positions that an open episode or a run is about, or whose change is still to be seen."""
    about = {p for e in cold.episodes.values() if e.open for p in e.sizes} | {p for run in cold.runs.values() for p in run.sizes}
    about |= {position_of(s.action.account, s.action.market) for s in cold.sent.values() if isinstance(s.action, ShrinkPosition)}
    for position in [p for p in cold.sizes if p not in about and f"size/{p}" not in cold.unseen]:
        del cold.sizes[position]


def _turn(cold: Cold, instance: str, at: int) -> None:
    episode = cold.episodes.get(instance)
    if episode:
        cold.episodes[instance] = replace(episode, turns=episode.turns + 1, last_turn_at=at)


def _refuse(cold: Cold, record: r.RunRefused) -> None:
    instance = instance_of(record.runbook, record.entity)
    _turn(cold, instance, record.at)
    _remember(cold, instance, last_run=record.run_id, last_status=record.status, last_reason=record.reason, last_steps=())


def _start(cold: Cold, record: r.RunStarted) -> None:
    instance = instance_of(record.runbook, record.entity)
    episode = cold.episodes.get(instance)
    if record.on_clear and episode:
        cold.episodes[instance] = replace(episode, clear_started=True, acted=False, acted_shadow=False)
    elif not record.on_clear:
        _turn(cold, instance, record.at)
        starts = (*cold.starts, Start(at=record.at, runbook=record.runbook, shadow=record.shadow))
        kept = next(i for i, s in enumerate(starts) if s.at > record.at - 31 * DAY_NS)  # they stand in order of time
        cold.starts = starts[kept:]
        _remember(cold, instance, last_start_at=record.at)
    cold.runs[record.run_id] = Run(
        id=record.run_id,
        runbook=record.runbook,
        entity=record.entity,
        episode=record.episode,
        digest=record.digest,
        started_at=record.at,
        on_clear=record.on_clear,
        shadow=record.shadow,
        frame=record.frame,
        sizes=episode.sizes if episode else {},
    )


def _ask(cold: Cold, record: r.ApprovalRequested) -> None:
    approval = Approval(
        requested_at=record.at,
        deadline=record.deadline,
        people=record.people,
        quorum=record.quorum,
        notional_usd=record.notional_usd,
        legs=record.legs,
        amount=record.amount,
        plan_digest=record.plan_digest,
        what=record.what,
    )
    _step(cold, record.run_id, approval=approval, waiting="approval", wait_until=record.deadline, wait_reason=record.reason)


def _answer(cold: Cold, record: r.ApprovalAnswered) -> None:
    step = cold.runs[record.run_id].step
    assert step is not None
    assert step.approval is not None
    approvers = step.approval.approvers
    if record.answer == "approved" and record.actor not in approvers:
        approvers = (*approvers, record.actor)
    answer = "granted" if record.granted else "" if record.answer == "approved" else record.answer
    approval = replace(step.approval, approvers=approvers, answer=answer)
    if answer == "granted":
        _step(cold, record.run_id, approval=approval, waiting="", wait_until=FOREVER, wait_reason="")
    else:
        _step(cold, record.run_id, approval=approval)


def _request(cold: Cold, record: r.ActionRequested) -> None:
    run = cold.runs[record.run_id]
    action = record.action
    sent = Sent(
        action=action,
        run_id=record.run_id,
        step=record.step,
        leg=record.leg,
        at=record.at,
        usd=record.usd,
        give_up_at=record.give_up_at,
    )
    position, account, size = "", "", 0.0
    match action:
        case ShrinkPosition():
            account = action.account
            position, size = position_of(action.account, action.market), float(action.size)
            # Until the outcome is known, the size on record may be about to change.
            cold.unseen[f"size/{position}"] = FOREVER
            cold.sent[action.action_id] = sent
        case MoveBuffer():
            account = action.destination
            cold.transfers[action.action_id] = Transfer(
                runbook=action.runbook,
                source=action.source,
                destination=action.destination,
                route=action.route,
                amount=action.amount,
                at=record.at,
                baseline=record.collateral_before,
            )
            cold.sent[action.action_id] = sent
        case CancelOrders() | CallWebhook():
            cold.sent[action.action_id] = sent
        case Halt() | Resume() | Notify():
            pass  # the engine's own state or the outbox: nothing to wait for
    if record.usd > 0.0:
        instance = instance_of(run.runbook, run.entity)
        cold.ledger[action.action_id] = Spend(
            at=record.at,
            runbook=run.runbook,
            run_id=run.id,
            episode=run.episode,
            instance=instance,
            account=account,
            position=position,
            usd=record.usd,
            size=size,
            shadow=False,
        )
        _forget_spending(cold, record.at)
    if isinstance(action, Notify):
        return
    _change(cold, run.id, wrote=True)
    if action.action_id in cold.sent:
        _step(
            cold,
            run.id,
            phase="sent",
            action_id=action.action_id,
            attempt=record.attempt,
            sent_at=record.at,
            resume_at=record.resume_at,
            waiting="",
            wait_until=FOREVER,
            wait_reason="",
            guards_until=FOREVER,
            outcome=None,
            leg=record.leg,
        )


def _forget_spending(cold: Cold, at: int) -> None:
    """Drop what no limit counts any more: older than a day and of an episode that is over."""
    live = {e.id for e in cold.episodes.values() if e.open} | {run.episode for run in cold.runs.values()}
    for key in [k for k, s in cold.ledger.items() if s.at <= at - DAY_NS and s.episode not in live and k not in cold.sent]:
        del cold.ledger[key]


def _would(cold: Cold, record: r.ActionWould) -> None:
    run = cold.runs[record.run_id]
    instance = instance_of(run.runbook, run.entity)
    memory = cold.memories.get(instance, Memory())
    _remember(cold, instance, would=(*memory.would, record.kind)[-DID_KEPT:])
    if record.usd <= 0.0:
        return
    # One entry a leg, so that shares of an episode's start count by position, as for real runs.
    shares: list[tuple[str, float]] = [(leg.position, float(leg.size)) for leg in record.legs] or [("", 0.0)]
    for number, (position, size) in enumerate(shares):
        cold.ledger[f"{record.run_id}.{record.step}.shadow.{number}"] = Spend(
            at=record.at,
            runbook=run.runbook,
            run_id=run.id,
            episode=run.episode,
            instance=instance,
            account=record.account,
            position=position,
            usd=record.usd / len(shares),
            size=size,
            shadow=True,
        )
    _forget_spending(cold, record.at)


def _finish_action(cold: Cold, record: r.ActionFinished) -> None:
    sent = cold.sent.get(record.action_id)
    if sent is None:
        return
    outcome = record.outcome
    if outcome.status == "unknown":
        cold.sent[record.action_id] = replace(sent, unknown=True)
        if isinstance(sent.action, ShrinkPosition):
            position = position_of(sent.action.account, sent.action.market)
            cold.unseen[f"size/{position}"] = sent.action.expires_at + UNKNOWN_MARGIN_NS
    else:
        del cold.sent[record.action_id]
        _settle_money(cold, record, sent, outcome)
    run = cold.runs.get(record.run_id)
    if run is None or run.step is None or run.step.action_id != record.action_id:
        return  # an answer that came after its run had ended: the books are right, nobody waits
    step = run.step
    legs = step.legs
    if outcome.status == "done" and isinstance(sent.action, ShrinkPosition):
        filled = outcome.filled_size if outcome.filled_size is not None else sent.action.size
        legs = tuple(
            replace(leg, filled=leg.filled + filled, slices=leg.slices + 1) if i == sent.leg else leg for i, leg in enumerate(legs)
        )
    done = outcome.status == "done"
    cold.runs[run.id] = replace(
        run,
        step=replace(
            step,
            phase="ready" if done else "settled",
            outcome=None if done else outcome,
            next_at=step.resume_at if done else step.next_at,
            settled_at=record.at,
            legs=legs,
            slice=step.slice + 1 if done else step.slice,
            attempt=0 if done else step.attempt,
            acted=step.acted or done,
            waiting="lookup" if outcome.status == "unknown" else "",
            wait_until=sent.give_up_at if outcome.status == "unknown" else FOREVER,
            wait_reason=outcome.reason if outcome.status == "unknown" else "",
        ),
    )


def _settle_money(cold: Cold, record: r.ActionFinished, sent: Sent, outcome: Outcome) -> None:
    """Ledger, freshness, expected sizes and transfers after a definite outcome."""
    action = sent.action
    nothing_happened = outcome.status in ("rejected", "failed")
    if nothing_happened:
        cold.ledger.pop(record.action_id, None)
        cold.transfers.pop(record.action_id, None)
    match action:
        case ShrinkPosition():
            position = position_of(action.account, action.market)
            resource = f"size/{position}"
            orders = [s.action for s in cold.sent.values() if isinstance(s.action, ShrinkPosition)]
            others = [a for a in orders if position_of(a.account, a.market) == position]
            if nothing_happened:
                if not others:
                    cold.unseen.pop(resource, None)
                return
            filled = outcome.filled_size if outcome.filled_size is not None else action.size
            cold.unseen[resource] = FOREVER if others else record.at
            track = cold.sizes.get(position)
            if track:
                cold.sizes[position] = replace(track, unobserved=track.unobserved + signed_size(action, filled))
            spend = cold.ledger.get(record.action_id)
            if spend and filled < action.size:
                share = float(filled / action.size)
                cold.ledger[record.action_id] = replace(spend, usd=spend.usd * share, size=spend.size * share)
        case MoveBuffer():
            transfer = cold.transfers.get(record.action_id)
            if transfer:
                cold.transfers[record.action_id] = replace(transfer, settled=True)
                cold.unseen[f"buffer/{action.source}"] = record.at
        case CancelOrders() | CallWebhook() | Halt() | Resume() | Notify():
            pass


def _finish_step(cold: Cold, record: r.StepFinished) -> None:
    run = cold.runs[record.run_id]
    instance = instance_of(run.runbook, run.entity)
    ended = StepOutcome(step=record.step, kind=record.kind, status=record.status, reason=record.reason)
    failed = run.failed or (f"{record.step}: {record.reason}" if record.status in ("failed", "unknown") else "")
    index = run.index + 1 if run.step is None else run.step.index + 1
    plan = run.step.plan if run.step is not None and run.step.plan is not None else run.plan
    cold.runs[run.id] = replace(run, index=index, step=None, plan=plan, failed=failed, finished=(*run.finished, ended))
    if record.status == "done" and not run.shadow:
        memory = cold.memories.get(instance, Memory())
        _remember(cold, instance, did=(*memory.did, record.kind)[-DID_KEPT:])
    episode = cold.episodes.get(instance)
    if episode and record.acted and not run.on_clear:
        # Also when the instance has fired again since: what was done is cleaned up once, after the latest episode.
        cold.episodes[instance] = _acted(episode, run.shadow)


def _acted(episode: Episode, shadow: bool) -> Episode:
    return replace(episode, acted_shadow=True) if shadow else replace(episode, acted=True)


def _finish_run(cold: Cold, record: r.RunFinished) -> None:
    run = cold.runs.pop(record.run_id)
    instance = instance_of(run.runbook, run.entity)
    _remember(
        cold,
        instance,
        last_end_at=record.at if not run.on_clear else cold.memories.get(instance, Memory()).last_end_at,
        last_run=run.id,
        last_reason=record.reason,
        last_steps=run.finished,
        **({} if run.on_clear and record.status in ("done", "shadow") else {"last_status": record.status}),
    )
    episode = cold.episodes.get(instance)
    if run.on_clear and episode and episode.open and not run.wrote and record.status in ("skipped", "aborted"):
        # It fired again before anything was cleaned up: the new episode's on_clear does it.
        cold.episodes[instance] = _acted(episode, run.shadow)
    _forget_sizes(cold)


def _gate(cold: Cold, record: r.GateChanged) -> None:
    key = f"{record.kind}/{record.entity}"
    closures = tuple(c for c in cold.gates.get(key, ()) if c.by != record.by)
    if record.closed:
        closures = (*closures, Closure(by=record.by, at=record.at, reason=record.reason))
    if closures:
        cold.gates[key] = closures
    else:
        cold.gates.pop(key, None)


def _size(cold: Cold, record: r.SizeChanged) -> None:
    for instance, episode in cold.episodes.items():
        if episode.id == record.joins:
            cold.episodes[instance] = replace(episode, sizes=_joined(episode.sizes, record))
    if record.joins:
        for run in list(cold.runs.values()):
            if run.episode == record.joins:
                _change(cold, run.id, sizes=_joined(run.sizes, record))
        cold.sizes.setdefault(record.position, SizeTrack(size=record.size))
        return
    track = cold.sizes.get(record.position)
    if track is None:
        return
    unobserved = track.unobserved - (record.size - track.size) if record.ours else 0.0
    cold.sizes[record.position] = SizeTrack(size=record.size, unobserved=unobserved)
    for instance, episode in cold.episodes.items():
        if episode.id in record.episodes:
            cold.episodes[instance] = replace(episode, external=record.cause)
    for run in list(cold.runs.values()):
        if run.episode in record.episodes and not run.on_clear:
            _change(cold, run.id, stop=run.stop or record.cause)


def _joined(sizes: Mapping[str, float], record: r.SizeChanged) -> dict[str, float]:
    return dict(sorted({**sizes, record.position: record.size}.items()))


def _move(cold: Cold, record: r.MoveProgress) -> None:
    transfer = cold.transfers.get(record.action_id)
    if transfer is None:
        return
    match record.stage:
        case "shown":
            cold.transfers[record.action_id] = replace(transfer, shown=True)
        case "overdue":
            cold.transfers[record.action_id] = replace(transfer, overdue=True)
        case "credited" | "acknowledged":
            del cold.transfers[record.action_id]


