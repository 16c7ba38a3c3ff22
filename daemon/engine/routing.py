"""Moving idle collateral (floor 4): which route, how much, and whether it arrives in time.

Fail-closed rules for an account as destination: the route's p95 must be at most half of `time_to_liquidation`; where that is
UNKNOWN, a move is refused unless the margin ratio is known to be below 50 % (then there is time, whatever the volatility).
A reading that a source once gave and that is now stale is UNKNOWN; what no source ever gave is taken from the configured route.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal

from daemon.engine.contract import Plan
from daemon.engine.guard import account_of
from daemon.engine.sizing import Refusal, decimal
from daemon.engine.state import Run
from daemon.engine.turn import Turn
from daemon.runbook.model import Expression, Move, Runbook
from daemon.units import NEVER, NS, show_duration
from daemon.world.entities import Kind

CALM_MARGIN_RATIO = 0.5
OVERDUE_FLOOR_NS = 1800 * NS  # half an hour: nobody is paged for a bridge's ordinary hiccup
CENT = Decimal("0.01")


@dataclass(frozen=True, slots=True, kw_only=True)
class MovePlan:
    """A move as it would be sent now; USD."""

    route: str
    source: str
    destination: str
    amount: Decimal
    fee: Decimal
    max_fee: Decimal
    baseline: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteView:
    """A route as known now; NaN where unknown."""

    name: str
    open: bool
    fee: float  # ratio
    eta_p95_s: float
    capacity_usd: float


def plan_move(turn: Turn, run: Run, book: Runbook, act: Move) -> MovePlan | Refusal:
    """The move to make now, or why there is none."""
    destination = act.destination or account_of(turn, book, run.entity) or ""
    if not destination:
        return Refusal(status="rejected", reason="no destination: write to: <account>")
    under_way = [t for t in turn.cold.transfers.values() if t.destination == destination]
    if under_way:
        return Refusal(status="skipped", reason=f"{under_way[0].amount} USD is already on its way to {destination}")
    wanted = _wanted(turn, run, book, act, destination)
    if isinstance(wanted, Refusal):
        return wanted
    available = _available(turn, book, act)
    if isinstance(available, Refusal):
        return available
    amount = min(wanted, available)
    if act.destination == act.source or not amount > 0.0:
        return Refusal(status="skipped", reason="nothing to do")
    route = choose_route(turn, run, book, act, destination, amount)
    if isinstance(route, Refusal):
        return route
    sent = decimal(amount).quantize(CENT, ROUND_FLOOR)
    if sent <= 0:
        return Refusal(status="skipped", reason="nothing to do")
    fee = (sent * decimal(route.fee)).quantize(CENT, ROUND_CEILING)
    bound = _max_fee(turn, run, act, float(sent))
    # Without a bound of the user's, twice the stated fee: a changed fee is refused, a rounding is not.
    ceiling = fee * 2 if math.isinf(bound) else decimal(bound).quantize(CENT, ROUND_FLOOR)
    return MovePlan(
        route=route.name,
        source=act.source,
        destination=destination,
        amount=sent,
        fee=fee,
        max_fee=max(ceiling, Decimal(0)),
        baseline=held_at(turn, book, destination),
    )


def held_at(turn: Turn, book: Runbook, destination: str) -> float:
    """USD that the destination holds: an account's collateral, else a chain's buffer; NaN unknown."""
    kind, signal = credit_signal(turn, destination)
    return turn.read(book, kind, destination, signal).value


def credit_signal(turn: Turn, destination: str) -> tuple[Kind, str]:
    """Where a credit shows: the reading to watch at a destination."""
    return (Kind.ACCOUNT, "collateral") if is_account(turn, destination) else (Kind.CHAIN, "buffer_balance")


def is_account(turn: Turn, name: str) -> bool:
    """True when a source or destination is a margin account; else it is a chain."""
    return name in turn.topology.accounts or name in turn.hot.entities(Kind.ACCOUNT)


def _wanted(turn: Turn, run: Run, book: Runbook, act: Move, destination: str) -> float | Refusal:
    if act.amount is not None:
        amount = _asked(turn, run, book, act, act.amount.expression, destination)
        if math.isnan(amount):
            return Refusal(status="rejected", reason=f"{act.amount.expression.text} is unknown")
        return amount - in_flight(turn, book, destination)
    assert act.to_ratio is not None, "the loader requires amount or to_ratio"
    target = turn.value(run, act.to_ratio.expression)
    equity = turn.read(book, Kind.ACCOUNT, destination, "equity").value
    maintenance = turn.read(book, Kind.ACCOUNT, destination, "maintenance_margin").value
    if math.isnan(equity) or math.isnan(maintenance) or not target > 0.0:
        return Refusal(status="rejected", reason=f"the margin of {destination} is unknown")
    return maintenance / target - equity - in_flight(turn, book, destination)


def _asked(turn: Turn, run: Run, book: Runbook, act: Move, expression: Expression, destination: str) -> float:
    """The amount a move asks for, USD; NaN unknown. The plan's names are of the run's last planned step; where there is none, of this
    move as it would be for the amount without them."""
    amount = turn.value(run, expression)
    if run.plan is not None or not math.isnan(amount):
        return amount
    bare = turn.value(run, expression, Plan(notional_change=0.0, amount=0.0, fee_estimate=0.0))
    if not bare > 0.0:
        return math.nan
    route = choose_route(turn, run, book, act, destination, bare)
    if isinstance(route, Refusal):
        return bare  # refused again, with its reason, when the route is chosen
    return turn.value(run, expression, Plan(notional_change=bare, amount=bare, fee_estimate=bare * route.fee))


def in_flight(turn: Turn, book: Runbook, destination: str) -> float:
    """USD on its way to a destination as its routes report it; our own moves are known besides, and only one goes at a time."""
    total = 0.0
    for name in _routes_to(turn, destination):
        amount = turn.read(book, Kind.ROUTE, name, "in_flight").value
        total += amount if amount > 0.0 else 0.0
    return total


def _available(turn: Turn, book: Runbook, act: Move) -> float | Refusal:
    signal = "buffer_balance"
    kind = Kind.CHAIN
    if is_account(turn, act.source):
        # From a margin account only what is free may leave; the stricter of the two is what the chain would accept.
        kind, signal = Kind.ACCOUNT, "free_collateral"
    balance = turn.read(book, kind, act.source, signal).value
    if math.isnan(balance):
        return Refusal(status="rejected", reason=f"the {signal} of {act.source} is unknown")
    leaving = sum((t.amount for t in turn.cold.transfers.values() if t.source == act.source and not t.source_seen), Decimal(0))
    left = balance - act.keep_at_source - float(leaving)
    if not left > 0.0:
        return Refusal(status="rejected", reason=f"{act.source} holds {balance:,.2f} USD and keeps {act.keep_at_source:,.2f} USD")
    return left


def _max_fee(turn: Turn, run: Run, act: Move, amount: float) -> float:
    if act.max_fee is None:
        return math.inf
    bound = turn.value(run, act.max_fee.expression)
    if math.isnan(bound):
        return 0.0
    return bound * amount if act.max_fee.unit in ("ratio", "1") else bound


def _routes_to(turn: Turn, destination: str) -> list[str]:
    entity = turn.topology.accounts.get(destination)
    ends = {destination, entity.venue} if entity else {destination}
    return sorted(name for name, route in turn.topology.routes.items() if route.destination in ends)


def look_at_route(turn: Turn, book: Runbook, name: str) -> RouteView:
    """The route as it is known now."""
    configured = turn.topology.routes[name]
    slow_ns = configured.eta_p95_ns if configured.eta_p95_ns is not None else 2 * configured.eta_ns

    def known(signal: str, observed: str, fallback: float) -> float:
        reading = turn.read(book, Kind.ROUTE, name, signal)
        if reading.known:
            return reading.value
        return fallback if turn.hot.seen_at(Kind.ROUTE, name, observed) == NEVER else math.nan

    return RouteView(
        name=name,
        open=known("route_open", "route_open", 1.0) > 0.0,
        fee=known("route_fee", "route_fee", configured.fee),
        eta_p95_s=known("route_eta_p95", "route_eta", slow_ns / NS),
        capacity_usd=known("route_capacity", "route_capacity", configured.capacity_usd),
    )


def choose_route(turn: Turn, run: Run, book: Runbook, act: Move, destination: str, amount: float) -> RouteView | Refusal:
    """The named route, or the cheapest (then fastest, then by name) that is open, large enough, cheap enough and in time."""
    names = [n for n in _routes_to(turn, destination) if turn.topology.routes[n].source == act.source and act.route in ("best", n)]
    if not names:
        wanted = "no route" if act.route == "best" else f"no route {act.route}"
        return Refusal(status="rejected", reason=f"{wanted} from {act.source} to {destination} is configured")
    in_time = time_bound(turn, book, act, destination)
    if isinstance(in_time, Refusal):
        return in_time
    bound = _max_fee(turn, run, act, amount)
    reasons, open_routes = [], []
    for route in (look_at_route(turn, book, n) for n in names):
        problem = _problem(route, amount, bound, in_time)
        if problem:
            reasons.append(f"{route.name}: {problem}")
        else:
            open_routes.append(route)
    if not open_routes:
        return Refusal(status="rejected", reason="; ".join(reasons))
    return min(open_routes, key=lambda r: (r.fee, r.eta_p95_s, r.name))


def _problem(route: RouteView, amount: float, max_fee: float, in_time_s: float) -> str | None:
    if not route.open:
        return "not open"
    if math.isnan(route.fee) or math.isnan(route.eta_p95_s) or math.isnan(route.capacity_usd):
        return "its fee, time or capacity is unknown"
    if amount > route.capacity_usd:
        return f"takes {route.capacity_usd:,.0f} USD now"
    if amount * route.fee > max_fee:
        return f"costs {amount * route.fee:,.2f} USD"
    if route.eta_p95_s > in_time_s:
        return f"cannot arrive in time: p95 {show_duration(route.eta_p95_s)}, at most {show_duration(in_time_s)}"
    return None


def time_bound(turn: Turn, book: Runbook, act: Move, destination: str) -> float | Refusal:
    """Seconds within which the money has to arrive; infinite when nothing presses."""
    deadline = math.inf if act.deadline_ns is None else act.deadline_ns / NS
    if credit_signal(turn, destination)[0] is not Kind.ACCOUNT:
        return deadline
    left = turn.read(book, Kind.ACCOUNT, destination, "time_to_liquidation")
    if left.known and left.value == left.value:
        return min(deadline, left.value / 2.0)
    ratio = turn.read(book, Kind.ACCOUNT, destination, "margin_ratio")
    if ratio.known and ratio.value < CALM_MARGIN_RATIO:
        return deadline
    reason = f"time_to_liquidation of {destination} is unknown and its margin ratio is not known to be below 50%"
    return Refusal(status="rejected", reason=reason)


def overdue_ns(turn: Turn, route_name: str) -> int:
    """After how long without a credit a person is told: twice the configured slow time, at least half an hour."""
    route = turn.topology.routes.get(route_name)
    slow = 0 if route is None else route.eta_p95_ns if route.eta_p95_ns is not None else 2 * route.eta_ns
    return max(OVERDUE_FLOOR_NS, 2 * slow)
