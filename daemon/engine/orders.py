"""Sized steps on their way to a venue (floor 4): shrinks in slices, moves, cancels, webhooks; and their shadow.

Order of checks for every send: holds and guards, size and price from what is known now, approval, limits, locks, intent.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import cast

from daemon.engine.actions import Action, CallWebhook, CancelOrders, MoveBuffer, ShrinkPosition
from daemon.engine.ending import complete, fail_step, finish_step
from daemon.engine.guard import account_of, survival_on
from daemon.engine.notices import render_payload
from daemon.engine.permit import Wish, approved, clipped, deny, may_act, room_for, take_locks, within
from daemon.engine.records import ActionRequested, ActionWould, Leg, LegAbandoned, LegFinished, SizeChanged, StepPlanned
from daemon.engine.routing import MovePlan, is_account, plan_move
from daemon.engine.sizing import Refusal, clip_leg, decimal, fit_legs, leg_usd, look, next_order, shrink_legs, taker_fee
from daemon.engine.state import Run
from daemon.engine.turn import Turn, members, progress_of, related
from daemon.runbook.model import Cancel, Move, Runbook, Shrink, ShrinkAccount, Step, Webhook
from daemon.units import MINUTE_NS, show
from daemon.world.entities import Kind

LOOKUP_NS = MINUTE_NS  # how long after its expiry the edges may still look an action up before a person has to


def action_id(run: Run, step: Step) -> str:
    """`<run>.<step>.<slice>.<attempt>` of the next send."""
    progress = progress_of(run)
    return f"{run.id}.{step.id}.{progress.slice + 1}.{progress.attempt + 1}"


def request(
    turn: Turn, run: Run, step: Step, action: Action, *, usd: float = 0.0, every_ns: int = 0, leg: int = 0, before: float = math.nan
) -> None:
    """Record the intent and hand the action over."""
    progress = progress_of(run)
    turn.emit(
        ActionRequested(
            at=turn.at,
            run_id=run.id,
            step=step.id,
            slice=progress.slice + 1,
            attempt=progress.attempt + 1,
            action=action,
            usd=usd,
            resume_at=turn.at + every_ns,
            give_up_at=turn.at + step.timeout_ns + LOOKUP_NS,
            leg=leg,
            collateral_before=before,
        )
    )
    turn.act(action)


def would(turn: Turn, run: Run, step: Step, wish: Wish, text: str, account: str = "") -> None:
    """Note what an armed run would have done, and go on as if it were done."""
    turn.emit(
        ActionWould(
            at=turn.at,
            run_id=run.id,
            step=step.id,
            kind=step.kind,
            usd=wish.notional_usd,
            text=text,
            account=account,
            legs=wish.legs,
            amount=wish.amount,
        )
    )
    finish_step(turn, run, step, "done", "shadow", acted=True)


def refused(turn: Turn, run: Run, book: Runbook, step: Step, refusal: Refusal) -> None:
    """Give a refusal of sizing or routing its consequence."""
    match refusal.status:
        case "skipped":
            finish_step(turn, run, step, "skipped", refusal.reason, acted=progress_of(run).acted)
        case "rejected":
            fail_step(turn, run, book, step, f"rejected: {refusal.reason}")
        case "blocked":
            deny(turn, run, book, step, "", refusal.reason, 0.0)


# --- shrinks ----------------------------------------------------------------------------------------------------------


def shrink(turn: Turn, run: Run, book: Runbook, step: Step, act: Shrink | ShrinkAccount) -> None:
    """Plan once, then send slice by slice until the plan is done or there is nothing left to do."""
    progress = progress_of(run)
    if not progress.planned:
        if may_act(turn, run, book, step):
            _plan_shrink(turn, run, book, step, act)
        return
    if progress.leg >= len(progress.legs):
        _shrink_over(turn, run, book, step)
        return
    leg = progress.legs[progress.leg]
    if leg.slices >= act.slices or leg.filled >= leg.size:
        turn.emit(LegFinished(at=turn.at, run_id=run.id, step=step.id, leg=progress.leg))
        return
    if turn.at < progress.next_at or not may_act(turn, run, book, step):
        return
    if progress.acted and progress.attempt == 0 and _enough(turn, run, book, act):
        complete(turn, run, step, progress.settled_at)
        return
    _send_slice(turn, run, book, step, act, leg)


def _enough(turn: Turn, run: Run, book: Runbook, act: Shrink | ShrinkAccount) -> bool:
    """True when, between slices, `stop_when` is TRUE or the account already has the margin ratio it was to reach."""
    if act.stop_when is not None and turn.true(run, act.stop_when):
        return True
    if isinstance(act, ShrinkAccount) and act.to_margin_ratio is not None:
        account = account_of(turn, book, run.entity)
        ratio = turn.read(book, Kind.ACCOUNT, account, "margin_ratio").value if account else math.nan
        return ratio <= turn.value(run, act.to_margin_ratio.expression)
    return False


def _wish(turn: Turn, book: Runbook, legs: tuple[Leg, ...]) -> Wish:
    usd, fee = 0.0, 0.0
    for leg in legs:
        market = turn.entity(Kind.POSITION, leg.position).links.get("market", "")
        value = leg_usd(turn, book, leg)
        usd, fee = usd + value, fee + value * taker_fee(turn, book, market)
    return Wish(notional_usd=usd, fee_usd=fee, legs=legs)


def _account_of_leg(turn: Turn, leg: Leg) -> str:
    return turn.entity(Kind.POSITION, leg.position).links.get("account", "")


def _take_note(turn: Turn, run: Run, book: Runbook) -> Run:
    """Positions opened since the episode fired count from their size at first sight, as the others do from the firing; the run since."""
    account = account_of(turn, book, run.entity)
    for position in members(turn, Kind.ACCOUNT, account, "positions") if account else []:
        size = look(turn, book, position).size
        if position not in run.sizes and size == size and size != 0.0:
            cause = f"{position} was opened during the episode"
            turn.emit(SizeChanged(at=turn.at, position=position, size=size, ours=True, cause=cause, joins=run.episode))
    return turn.cold.runs[run.id]


def _plan_shrink(turn: Turn, run: Run, book: Runbook, step: Step, act: Shrink | ShrinkAccount) -> None:
    if isinstance(act, ShrinkAccount):
        run = _take_note(turn, run, book)
    legs = shrink_legs(turn, run, book, act)
    if isinstance(legs, Refusal):
        refused(turn, run, book, step, legs)
        return
    wish = _wish(turn, book, legs)
    if math.isnan(wish.notional_usd):
        refused(turn, run, book, step, Refusal(status="blocked", reason="no price is known, so no limit can be checked"))
        return
    if not approved(turn, run, book, step, wish):
        return
    approval = progress_of(run).approval
    if approval is not None:
        legs = fit_legs(legs, approval.legs)
    fitted = _fit_limits(turn, run, book, step, legs)
    if fitted is None:
        return
    if not fitted:
        refused(turn, run, book, step, Refusal(status="skipped", reason="nothing to do"))
        return
    wish = _wish(turn, book, fitted)
    turn.emit(StepPlanned(at=turn.at, run_id=run.id, step=step.id, legs=fitted, notional_usd=wish.notional_usd, fee_usd=wish.fee_usd))
    if run.shadow:
        text = ", ".join(f"{leg.side} {leg.size} of {leg.position}" for leg in fitted)
        would(turn, run, step, wish, text, _account_of_leg(turn, fitted[0]))


def _fit_limits(turn: Turn, run: Run, book: Runbook, step: Step, legs: tuple[Leg, ...]) -> tuple[Leg, ...] | None:
    """The legs within every limit: unchanged, made smaller (survival), or None when the run was blocked."""
    fitted: list[Leg] = []
    used = 0.0
    for leg in legs:
        left = room_for(turn, run, book, _account_of_leg(turn, leg), leg)
        usd = leg_usd(turn, book, leg)
        if within(used + usd, left.usd) and within(float(leg.size), left.size):
            fitted.append(leg)
            used += usd
            continue
        name = left.limit if not within(used + usd, left.usd) else left.size_limit
        if book.intent != "survival":
            share = f"{left.size:g} base units" if name == left.size_limit else show(max(0.0, left.usd - used), "USD")
            deny(turn, run, book, step, name, f"over {name}: {leg.position} wants {show(usd, 'USD')}, left {share}", usd)
            return None
        small = clip_leg(turn, book, leg, max(0.0, left.usd - used), left.size)
        allowed = leg_usd(turn, book, small)
        clipped(turn, run, book, step, name, usd, allowed)
        if small.size > 0:
            fitted.append(small)
            used += allowed
    if not fitted and legs:
        deny(turn, run, book, step, "", "limits leave nothing to do", 0.0)
        return None
    return tuple(fitted)


def _send_slice(turn: Turn, run: Run, book: Runbook, step: Step, act: Shrink | ShrinkAccount, leg: Leg) -> None:
    number = progress_of(run).leg
    order = next_order(turn, run, book, act, leg)
    if isinstance(order, Refusal) and order.status == "skipped":
        turn.emit(LegFinished(at=turn.at, run_id=run.id, step=step.id, leg=number))
        return
    if isinstance(order, Refusal):
        if isinstance(act, ShrinkAccount):
            turn.emit(LegAbandoned(at=turn.at, run_id=run.id, step=step.id, leg=number, reason=order.reason))
        else:
            refused(turn, run, book, step, order)
        return
    account = _account_of_leg(turn, leg)
    part = _fit_limits(turn, run, book, step, (replace(leg, size=order.size),))
    if part is None:
        return
    if part[0].size < order.size:
        price = order.notional_usd / float(order.size)
        order = replace(order, size=part[0].size, notional_usd=float(part[0].size) * price)
    take_locks(turn, run, book)
    action = ShrinkPosition(
        action_id=action_id(run, step),
        run_id=run.id,
        runbook=run.runbook,
        account=account,
        market=turn.entity(Kind.POSITION, leg.position).links["market"],
        side=leg.side,
        size=order.size,
        limit_price=order.limit_price,
        reference_price=order.reference_price,
        notional_usd=order.notional_usd,
        expires_at=turn.at + step.timeout_ns,
    )
    request(turn, run, step, action, usd=order.notional_usd, every_ns=act.every_ns, leg=number)


def _shrink_over(turn: Turn, run: Run, book: Runbook, step: Step) -> None:
    progress = progress_of(run)
    failed = [f"{leg.position}: {leg.failed}" for leg in progress.legs if leg.failed]
    if failed:
        fail_step(turn, run, book, step, "; ".join(failed))
    elif progress.acted:
        complete(turn, run, step, progress.settled_at)
    else:
        finish_step(turn, run, step, "skipped", "nothing to do", acted=False)


# --- moves, cancels, webhooks -----------------------------------------------------------------------------------------


def move(turn: Turn, run: Run, book: Runbook, step: Step, act: Move) -> None:
    """Send one transfer; it is done once accepted and debited, and in flight until the destination shows it."""
    if progress_of(run).acted:
        complete(turn, run, step, progress_of(run).settled_at)
        return
    if not may_act(turn, run, book, step):
        return
    danger = survival_on(turn, act.source) if is_account(turn, act.source) else None
    if danger is not None:
        deny(turn, run, book, step, "survival", f"{danger} fires: nothing may leave {act.source}", 0.0)
        return
    plan = plan_move(turn, run, book, act)
    if isinstance(plan, Refusal):
        refused(turn, run, book, step, plan)
        return
    fee = float(plan.fee)
    what = {"source": plan.source, "destination": plan.destination, "route": plan.route, "fee_usd": fee}
    wish = Wish(notional_usd=float(plan.amount), fee_usd=fee, amount=plan.amount, what=what)
    if not approved(turn, run, book, step, wish):
        return
    approval = progress_of(run).approval
    if approval is not None and approval.amount is not None and approval.amount < plan.amount:
        plan = replace(plan, amount=approval.amount)
    fitted = _fit_move(turn, run, book, step, plan)
    if fitted is None:
        return
    usd = float(fitted.amount)
    fee = wish.fee_usd * usd / wish.notional_usd
    turn.emit(StepPlanned(at=turn.at, run_id=run.id, step=step.id, amount=fitted.amount, notional_usd=usd, fee_usd=fee))
    if run.shadow:
        text = f"move {fitted.amount} USD from {fitted.source} to {fitted.destination} over {fitted.route}"
        would(turn, run, step, replace(wish, notional_usd=float(fitted.amount), amount=fitted.amount), text, fitted.destination)
        return
    take_locks(turn, run, book)
    action = MoveBuffer(
        action_id=action_id(run, step),
        run_id=run.id,
        runbook=run.runbook,
        source=fitted.source,
        destination=fitted.destination,
        route=fitted.route,
        amount=fitted.amount,
        max_fee=fitted.max_fee,
        expires_at=turn.at + step.timeout_ns,
    )
    request(turn, run, step, action, usd=float(fitted.amount), before=fitted.baseline)


def _fit_move(turn: Turn, run: Run, book: Runbook, step: Step, plan: MovePlan) -> MovePlan | None:
    usd = float(plan.amount)
    left = room_for(turn, run, book, plan.destination, None)
    if within(usd, left.usd):
        return plan
    if book.intent != "survival":
        deny(turn, run, book, step, left.limit, f"over {left.limit}: wants {show(usd, 'USD')}, left {show(left.usd, 'USD')}", usd)
        return None
    amount = min(plan.amount, decimal(math.floor(left.usd * 100.0) / 100.0))
    clipped(turn, run, book, step, left.limit, usd, float(amount))
    if amount <= 0:
        deny(turn, run, book, step, left.limit, f"over {left.limit}: nothing is left", usd)
        return None
    return replace(plan, amount=amount)


def cancel(turn: Turn, run: Run, book: Runbook, step: Step, act: Cancel) -> None:
    """Cancel the open orders of this market or account."""
    if progress_of(run).acted:
        complete(turn, run, step, progress_of(run).settled_at)
        return
    if not may_act(turn, run, book, step):
        return
    own = turn.entity(book.scope, run.entity)
    market = related(own, Kind.MARKET) if act.scope in (Kind.MARKET, Kind.POSITION) else None
    account = related(own, Kind.ACCOUNT) or _only_account(turn, own.links.get("venue", own.id if own.kind is Kind.VENUE else ""))
    if account is None or (market is None and act.scope in (Kind.MARKET, Kind.POSITION)):
        reason = f"{run.entity} has no {act.scope} whose orders could be cancelled"
        refused(turn, run, book, step, Refusal(status="rejected", reason=reason))
        return
    if not approved(turn, run, book, step, Wish(what={"cancel": market or account})):
        return
    if run.shadow:
        would(turn, run, step, Wish(), f"cancel orders of {account}" + (f" in {market}" if market else ""))
        return
    take_locks(turn, run, book)
    expires_at = turn.at + step.timeout_ns
    action = CancelOrders(
        action_id=action_id(run, step), run_id=run.id, runbook=run.runbook, account=account, market=market, expires_at=expires_at
    )
    request(turn, run, step, action)


def _only_account(turn: Turn, venue: str) -> str | None:
    """The venue's account where there is exactly one; a market's runbook names no other way whose orders it means."""
    known = {a.id for a in turn.topology.accounts.values() if a.venue == venue}
    known |= {a for a in turn.hot.entities(Kind.ACCOUNT) if turn.entity(Kind.ACCOUNT, a).links.get("venue") == venue}
    return next(iter(known)) if len(known) == 1 else None


def webhook(turn: Turn, run: Run, book: Runbook, step: Step, act: Webhook) -> None:
    """Call an executor outside."""
    if progress_of(run).acted:
        complete(turn, run, step, progress_of(run).settled_at)
        return
    if not may_act(turn, run, book, step):
        return
    payload = render_payload(turn, run, book, act.payload)
    if not approved(turn, run, book, step, Wish(what={"endpoint": act.endpoint, "payload": payload})):
        return
    approval = progress_of(run).approval
    if approval is not None and "payload" in approval.what:
        payload = cast("dict[str, object]", approval.what["payload"])  # what people agreed to, not what it has become since
    if run.shadow:
        would(turn, run, step, Wish(), f"call {act.endpoint}")
        return
    take_locks(turn, run, book)
    action = CallWebhook(
        action_id=action_id(run, step),
        run_id=run.id,
        runbook=run.runbook,
        endpoint=act.endpoint,
        payload=payload,
        expires_at=turn.at + step.timeout_ns,
    )
    request(turn, run, step, action)

