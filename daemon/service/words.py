"""What a record says in plain words (floor 7): `told(record)` is a title, lines with units, a tone and a severity; total over `Record`.

    told(finished, requested)       # Told(title="filled 0.2 of 0.4 ETH at 2,999.5 USD", lines=("0.0167% worse than mid",), ...)

Pages, the stream, the journal's search and the command line show the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal, assert_never

from daemon.engine import records as r
from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.service.whynode import deciding
from daemon.units import FOREVER, NEVER, NS, iso, show, show_duration

Tone = Literal["plain", "good", "bad", "wait"]
Severity = Literal["debug", "info", "warning", "critical"]

DEFAULT_CHANNELS = "the default channels"  # of a notice that names none
READINGS_SHOWN = 4  # of those that decided a firing
WAITS = {
    "guards": "waits for its guards",
    "lock": "waits for a lock",
    "inhibited": "is inhibited",
    "paused": "is paused",
    "halted": "is halted",
    "fresh": "waits for a fresh reading",
    "approval": "waits for an approval",
    "verify": "looks whether it shows",
    "wait": "waits",
    "slice": "waits for its next slice",
    "retry": "waits for its retry",
    "lookup": "looks up what became of it",
}


@dataclass(frozen=True, slots=True)
class Told:
    """One record in words. `severity`: debug is bookkeeping, critical wants a person."""

    title: str
    lines: tuple[str, ...] = ()
    tone: Tone = "plain"
    severity: Severity = "info"


def told(record: r.Record, requested: r.ActionRequested | None = None) -> Told:
    """The record in words; `requested` is the intent that an outcome answers, where it is known."""
    match record:
        case r.TriggerChanged() | r.HoldReset() | r.KnowledgeChanged() | r.RunbooksInForce():
            return _trigger(record)
        case r.RunRefused() | r.RunStarted() | r.RunFinished() | r.StepStarted() | r.StepFinished() | r.LocksTaken() | r.LocksReleased():
            return _course(record)
        case r.StepWaiting() | r.StepPlanned() | r.ApprovalRequested() | r.ApprovalAnswered() | r.RetryScheduled():
            return _step(record)
        case r.ActionRequested() | r.ActionDenied() | r.ActionWould() | r.LimitClipped() | r.LegAbandoned() | r.LegFinished():
            return _action(record)
        case r.ActionFinished():
            return _outcome(record, requested)
        case r.NoticeSent():
            return Told(act_text(record.action), severity="debug")
        case r.GateChanged() | r.PauseSet() | r.PauseEnded() | r.HaltChanged() | r.CommandTaken():
            return _order(record)
        case r.ResourceSeen() | r.SizeChanged() | r.MoveProgress() | r.TimerTaken():
            return _world(record)
        case _:
            assert_never(record)


# --- triggers and the course of a run -----------------------------------------------------------------------------------


def _trigger(record: r.TriggerChanged | r.HoldReset | r.KnowledgeChanged | r.RunbooksInForce) -> Told:
    match record:
        case r.TriggerChanged(change="fired"):
            held_s = (record.fired_at - record.pending_at) / NS if record.pending_at > 0 else 0.0
            held = (f"held for {show_duration(held_s)}",) if held_s > 0.0 else ()
            sizes = tuple(f"{position}: {size:,.10g} {asset(position)}" for position, size in record.sizes.items())
            return Told("fired", (*deciding(record.trace)[:READINGS_SHOWN], *held, *sizes), "bad", "warning")
        case r.TriggerChanged(change="cleared"):
            return Told("cleared", _because(record.reason), "good")
        case r.TriggerChanged(change="gone"):
            return Told("over: what it was about is gone", _because(record.reason))
        case r.TriggerChanged():
            return Told("over without clearing", _because(record.reason), "bad", "warning")
        case r.HoldReset():
            return Told("its hold starts anew", _because(record.reason))
        case r.KnowledgeChanged(unknown=()):
            return Told("can be judged again", (), "good")
        case r.KnowledgeChanged():
            return Told(f"cannot be judged: {', '.join(record.unknown)} unknown", (), "bad", "warning")
        case r.RunbooksInForce():
            count = len(record.runbooks)
            return Told(f"{count} {'runbook is' if count == 1 else 'runbooks are'} in force", (", ".join(record.runbooks),))
        case _:
            assert_never(record)


def _course(
    record: r.RunRefused | r.RunStarted | r.RunFinished | r.StepStarted | r.StepFinished | r.LocksTaken | r.LocksReleased,
) -> Told:
    match record:
        case r.RunStarted():
            kind = "shadow run" if record.shadow else "run"
            title = f"{kind} started to clean up" if record.on_clear else f"{kind} started"
            lines = ("nothing of it is sent",) if record.shadow else ()
            return Told(title, (*lines, *(f"{name} is {value:,.10g}" for name, value in record.frame.items())))
        case r.RunRefused():
            return Told(f"no run: {record.status}", _because(record.reason), "bad", "warning" if record.status == "blocked" else "info")
        case r.RunFinished():
            tone, severity = _END[record.status]
            return Told(f"run ended: {'UNKNOWN' if record.status == 'unknown' else record.status}", _because(record.reason), tone, severity)
        case r.StepStarted():
            return Told(f"{record.step} begins", severity="debug")
        case r.StepFinished():
            tone, severity = _END[record.status]
            acted = ("something of it was done",) if record.acted and record.status != "done" else ()
            said = "UNKNOWN" if record.status == "unknown" else record.status
            return Told(f"{record.step}: {said}", (*_because(record.reason), *acted), tone, "debug" if severity == "info" else severity)
        case r.LocksTaken():
            return Told(f"locked {_names(record.locks)}", severity="debug")
        case r.LocksReleased():
            return Told("gave its locks back", _because(record.reason), severity="debug")
        case _:
            assert_never(record)


_END: dict[str, tuple[Tone, Severity]] = {
    "done": ("good", "info"),
    "shadow": ("good", "info"),
    "skipped": ("plain", "info"),
    "blocked": ("bad", "warning"),
    "aborted": ("bad", "warning"),
    "failed": ("bad", "critical"),
    "unknown": ("bad", "critical"),
}


# --- what a step waits for, plans and asks ------------------------------------------------------------------------------


def _step(record: r.StepWaiting | r.StepPlanned | r.ApprovalRequested | r.ApprovalAnswered | r.RetryScheduled) -> Told:
    match record:
        case r.StepWaiting():
            lines = (*_because(record.reason), *_deadline("at most", record.until, record.at))
            return Told(f"{record.step} {WAITS[record.waiting]}", lines, "wait", "debug" if record.waiting == "verify" else "info")
        case r.StepPlanned():
            fee = () if math.isnan(record.fee_usd) else (f"fees about {show(record.fee_usd, 'USD')}",)
            return Told(f"plan: {plan_text(record.legs, record.amount)}", (show(record.notional_usd, "USD"), *fee))
        case r.ApprovalRequested():
            asked = f"{_names(record.people) or 'anyone who may approve'}"
            quorum = f", {record.quorum} of them have to agree" if record.quorum > 1 else ""
            plan = () if not record.legs and record.amount is None else (plan_text(record.legs, record.amount),)
            what = tuple(_named(name, value) for name, value in record.what.items() if name != "payload")
            lines = (*plan, *_usd(record.notional_usd), *what, *_deadline("at most", record.deadline, record.at))
            return Told(f"{record.step} needs an approval: {asked}{quorum}", lines, "wait", "critical")
        case r.ApprovalAnswered(answer="timed_out"):
            end = "it goes on without one" if record.granted else f"{record.step} is not done"
            return Told(f"nobody answered in time: {end}", (), "bad", "warning")
        case r.ApprovalAnswered(answer="denied"):
            return Told(f"{record.step} was denied by {record.actor}", (), "bad", "warning")
        case r.ApprovalAnswered():
            more = () if record.granted else ("one more has to agree",)
            return Told(f"{record.step} was approved by {record.actor}", more, "good" if record.granted else "wait")
        case r.RetryScheduled():
            in_s = (record.next_at - record.at) / NS
            return Told(f"{record.step} is tried again in {show_duration(in_s)}", _because(record.reason), "wait")
        case _:
            assert_never(record)


# --- actions and outcomes -----------------------------------------------------------------------------------------------


def _action(record: r.ActionRequested | r.ActionDenied | r.ActionWould | r.LimitClipped | r.LegAbandoned | r.LegFinished) -> Told:
    match record:
        case r.ActionRequested(action=Notify()):
            return Told(f"{record.step}: {act_text(record.action)}", severity="debug")
        case r.ActionRequested():
            tries = "" if record.attempt <= 1 else f", attempt {record.attempt}"
            slices = "" if record.slice <= 1 and not tries else f"slice {record.slice}{tries}: "
            return Told(f"{slices}{act_text(record.action)}", _terms(record), "wait")
        case r.ActionDenied():
            by = f"the limit {record.limit}" if record.limit else "the guard"
            return Told(f"{record.step} was denied by {by}", (record.reason, *_usd(record.usd)), "bad", "warning")
        case r.ActionWould():
            return Told(f"{record.step} would do: {record.text}", ("shadow: nothing was sent", *_usd(record.usd)), "good")
        case r.LimitClipped():
            sizes = f"{show(record.wanted_usd, 'USD')} was wanted, {show(record.allowed_usd, 'USD')} is allowed"
            return Told(f"{record.step} was made smaller by the limit {record.limit}", (sizes,), "bad", "critical")
        case r.LegAbandoned():
            return Told(f"{record.step}: leg {record.leg + 1} was given up", _because(record.reason), "bad", "warning")
        case r.LegFinished():
            return Told(f"{record.step}: leg {record.leg + 1} is through", severity="debug")
        case _:
            assert_never(record)


def act_text(action: Action) -> str:
    """What an action asks for: `SELL 0.4 dydx:ETH-USD, reduce-only`."""
    match action:
        case ShrinkPosition():
            return f"{action.side} {plain(action.size)} {action.market}, reduce-only"
        case MoveBuffer():
            money = show(float(action.amount), "USD")
            return f"move {money} from {action.source} to {action.destination} over {action.route}"
        case CancelOrders():
            return f"cancel the open orders of {action.account}" + (f" in {action.market}" if action.market else "")
        case Halt():
            return f"close the gate of {action.kind} {action.entity}"
        case Resume():
            return f"open the gate of {action.kind} {action.entity}"
        case Notify():
            return f"tell {_names(action.to) or DEFAULT_CHANNELS}: {action.text}"
        case CallWebhook():
            return f"call the webhook {action.endpoint}"
        case _:
            assert_never(action)


def _terms(record: r.ActionRequested) -> tuple[str, ...]:
    """The terms under which an action was sent."""
    action = record.action
    match action:
        case ShrinkPosition():
            return (
                f"never worse than {price(action.limit_price)}, mid {price(action.reference_price)}",
                f"{show(action.notional_usd, 'USD')}, void after {show_duration((action.expires_at - record.at) / NS)}",
            )
        case MoveBuffer():
            return (f"at most {show(float(action.max_fee), 'USD')} of fees",)
        case _:
            return ()


def _outcome(record: r.ActionFinished, requested: r.ActionRequested | None) -> Told:
    outcome = record.outcome
    took_s = 0.0 if requested is None else (record.at - requested.at) / NS
    took = (f"answered after {show_duration(took_s)}",) if took_s >= 0.001 else ()
    match outcome.status:
        case "done":
            title, lines = _filled(outcome, None if requested is None else requested.action)
            return Told(title, (*lines, *_because(outcome.reason), *took), "good")
        case "rejected":
            return Told("rejected: it will not work", (*_because(outcome.reason), *took), "bad", "warning")
        case "failed":
            return Told("failed: certainly nothing happened", (*_because(outcome.reason), *took), "bad", "warning")
        case "unknown":
            what = () if requested is None else (act_text(requested.action),)
            lines = ("it may have happened: it is looked up, never sent again", *_because(outcome.reason), *what)
            return Told("outcome UNKNOWN", lines, "bad", "critical")
        case _:
            assert_never(outcome.status)


def _filled(outcome: Outcome, action: Action | None) -> tuple[str, tuple[str, ...]]:
    """Title and lines of a done action: filled of asked, price against mid, fee."""
    fee = () if outcome.fee_usd is None else (f"fee {show(float(outcome.fee_usd), 'USD')}",)
    if isinstance(action, ShrinkPosition):
        filled = action.size if outcome.filled_size is None else outcome.filled_size
        whole = filled >= action.size
        size = f"{plain(filled)} {asset(action.market)}" if whole else f"{plain(filled)} of {plain(action.size)} {asset(action.market)}"
        at = "" if outcome.fill_price is None else f" at {price(outcome.fill_price)}"
        worse = slippage(action, outcome.fill_price)
        against = () if worse is None else (f"{show(abs(worse), 'ratio')} {'worse' if worse > 0 else 'better'} than mid",)
        return f"filled {size}{at}", (*against, *fee)
    if outcome.filled_size is not None:
        at = "" if outcome.fill_price is None else f" at {price(outcome.fill_price)}"
        return f"filled {plain(outcome.filled_size)} base{at}", fee
    if outcome.amount is not None:
        return f"done: {show(float(outcome.amount), 'USD')}", fee
    return "done", fee


def slippage(action: ShrinkPosition, fill_price: Decimal | None) -> float | None:
    """The fill's price against mid at sending, as a fraction of mid; > 0 is worse. None when a price is unknown."""
    mid = action.reference_price
    if fill_price is None or not (mid > 0.0):
        return None
    away = float(fill_price) / mid - 1.0
    return away if action.side == "BUY" else -away


# --- people, gates, the world -------------------------------------------------------------------------------------------


def _order(record: r.GateChanged | r.PauseSet | r.PauseEnded | r.HaltChanged | r.CommandTaken) -> Told:
    match record:
        case r.GateChanged():
            where = f"{record.kind} {record.entity}" if record.entity else "everything"
            title = f"gate of {where} {'closed' if record.closed else 'opened'} by {record.by}"
            lines = ("no strategy may open there",) if record.closed else ()
            return Told(title, (*lines, *_because(record.reason)), "good", "warning")
        case r.PauseSet():
            until = "until it is unpaused" if record.until >= FOREVER else f"until {iso(record.until)}"
            return Told(f"{record.target or 'everything'} paused by {record.by} {until}", _because(record.reason), "wait", "warning")
        case r.PauseEnded():
            return Told(f"{record.target or 'everything'} is no longer paused ({record.by})", (), "good")
        case r.HaltChanged():
            title = f"everything is halted by {record.by}" if record.halted else f"everything goes on, says {record.by}"
            return Told(title, _because(record.reason), "bad" if record.halted else "good", "critical" if record.halted else "warning")
        case r.CommandTaken():
            asked = f"{record.verb} {record.target or 'everything'}"
            if record.effect == "noted":  # done beside the engine: the reason says what came of it
                return Told(f"{asked}, asked by {record.actor}", _because(record.reason))
            return Told(f"{record.effect}, asked by {record.actor}", (asked, *_because(record.reason)))
        case _:
            assert_never(record)


def _world(record: r.ResourceSeen | r.SizeChanged | r.MoveProgress | r.TimerTaken) -> Told:
    match record:
        case r.ResourceSeen():
            what, _, name = record.resource.partition("/")
            return Told(f"{what} of {name} was read anew", severity="debug")
        case r.SizeChanged():
            title = f"size of {record.position} is {record.size:,.10g} {asset(record.position)}"
            if record.ours:
                return Told(title, _because(record.cause) or ("our own fills explain it",), severity="debug")
            return Told(f"{title}: somebody else changed it", _because(record.cause), "bad", "warning")
        case r.MoveProgress():
            said, tone, severity = _MOVE[record.stage]
            return Told(said, (record.action_id,), tone, severity)
        case r.TimerTaken():
            return Told(f"timer {record.timer} counted, due {iso(record.due)}", severity="debug")
        case _:
            assert_never(record)


_MOVE: dict[str, tuple[str, Tone, Severity]] = {
    "shown": ("the route shows the transfer", "wait", "info"),
    "credited": ("the transfer is no longer under way: it has arrived, or was refunded", "good", "info"),
    "overdue": ("the transfer is overdue", "bad", "critical"),
    "acknowledged": ("a person took the transfer off the way", "plain", "warning"),
}


# --- parts of sentences -------------------------------------------------------------------------------------------------


def plan_text(legs: Sequence[r.Leg], amount: Decimal | None) -> str:
    """A plan in one line: `SELL 2.5 dydx:ETH-USD, BUY 1 dydx:BTC-USD` or `move 1,000 USD`."""
    if amount is not None:
        return f"move {show(float(amount), 'USD')}"
    return ", ".join(f"{leg.side} {plain(leg.size)} {leg.position}" for leg in legs) or "nothing"


def asset(entity: str) -> str:
    """`ETH` of market or position `dydx:ETH-USD`."""
    return entity.rpartition(":")[2].partition("-")[0]


def plain(size: Decimal) -> str:
    """A size as plain decimal text, without exponent and trailing zeros."""
    text = f"{size:f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def price(value: Decimal | float) -> str:
    """A price, USD for one base unit: `2,999.5 USD`."""
    number = float(value)
    return f"{number:,.10g} USD" if math.isfinite(number) else "unknown"


def when(at: int) -> str | None:
    """A time as ISO text; None for never and for no deadline."""
    return None if at in (NEVER, FOREVER) or at <= 0 else iso(at)


def _named(name: str, value: object) -> str:
    """One of the things that people are shown beside a plan: `route: cctp`, `fee: 6 USD`."""
    if name.endswith("_usd") and isinstance(value, float | int):
        return f"{name.removesuffix('_usd')}: {show(float(value), 'USD')}"
    return f"{name.replace('_', ' ')}: {value}"


def _because(reason: str) -> tuple[str, ...]:
    return (reason,) if reason else ()


def _deadline(word: str, until: int, at: int) -> tuple[str, ...]:
    return () if until >= FOREVER else (f"{word} {show_duration((until - at) / NS)}, until {iso(until)}",)


def _usd(value: float) -> tuple[str, ...]:
    return (show(value, "USD"),) if value > 0.0 else ()


def _names(names: Sequence[str]) -> str:
    return ", ".join(names)
