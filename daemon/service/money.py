"""Accounts, positions, cash and hedges as they stand, and as they would stand after a plan (floor 7).

    worst = accounts(engine, at)[0]
    before, after = outlook_after(engine, "dydx", legs, at=at)

Every figure is a catalogue signal, or the same formula applied to what a plan would leave; a figure that is not known is None. Runs on
the loop's own thread and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

from daemon.engine.engine import Engine
from daemon.engine.records import Leg
from daemon.engine.turn import Turn, members
from daemon.language.kernels import liquidation_distance_of, liquidation_price_of, margin_ratio_of, survivable_move_of
from daemon.service.verdict import ago, moment
from daemon.service.views import AccountView, CashView, HedgeView, Outlook, PositionView
from daemon.units import NEVER, NS, show
from daemon.world.entities import PORTFOLIO_ID, Kind

POSITIONS_MAX = 500  # positions of an account that are shown
IMPACT = 0.0025  # of the side's depth within 50 bps: who takes all of it pays half of those 50 bps on the average
SOON_S, LATER_S = 300.0, 1_800.0
HEDGED = 0.10  # legs whose net is at most this share of their gross cancel each other
LEGS_MAX = 2_000  # positions that are summed up by asset
TAKER_FEE_DEFAULT = 0.0005  # as the engine's sizing assumes where the venue's own is not observed


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What an account would look like after a plan, and what the plan costs; USD, > 0 paid, None unknown."""

    before: Outlook
    after: Outlook
    cost_usd: float | None


def known(value: float) -> float | None:
    """A float as a view has it: None for NaN."""
    return None if math.isnan(value) else value


# --- accounts -----------------------------------------------------------------------------------------------------------


Positions = Mapping[str, tuple[PositionView, ...]]


def accounts(engine: Engine, at: int, positions: Positions | None = None) -> tuple[AccountView, ...]:
    """Every account that is configured or was seen, the worst first: unknown, then by margin ratio, then by survivable move.

    `positions` are those of `positions_of`, where they were looked at before: with hundreds of them they are what costs.
    """
    turn = engine.look(at)
    held = positions_of(engine, at) if positions is None else positions
    return tuple(sorted((account(turn, name, held.get(name, ())) for name in account_names(turn)), key=badness))


def account_names(turn: Turn) -> list[str]:
    """Accounts that are configured or were seen."""
    return list(dict.fromkeys([*turn.topology.accounts, *turn.hot.entities(Kind.ACCOUNT)]))


def positions_of(engine: Engine, at: int) -> Positions:
    """The open positions of each account, the largest first, POSITIONS_MAX at most."""
    turn = engine.look(at)
    return {name: largest_first([part_of(turn, name, held_in(turn, name))]) for name in account_names(turn)}


def held_in(turn: Turn, name: str) -> list[str]:
    """The open positions of an account, POSITIONS_MAX at most."""
    return members(turn, Kind.ACCOUNT, name, "positions")[:POSITIONS_MAX]


def part_of(turn: Turn, name: str, held: Sequence[str]) -> tuple[PositionView, ...]:
    """Some positions of an account."""
    equity, maintenance = (turn.hot.glance(Kind.ACCOUNT, name, signal, turn.at) for signal in ("equity", "maintenance_margin"))
    return tuple(position_view(turn, position, equity, maintenance) for position in held)


def largest_first(parts: Iterable[Sequence[PositionView]]) -> tuple[PositionView, ...]:
    """Positions by notional, the largest first, those whose notional is unknown before them."""

    def weight(view: PositionView) -> tuple[float, str]:
        return (-math.inf if view.notional_usd is None else -abs(view.notional_usd), view.id)

    return tuple(sorted((view for part in parts for view in part), key=weight))


def badness(view: AccountView) -> tuple[float, float, float, str]:
    """Where an account stands in the list, the smaller the worse: unknown before known, flat ones last."""
    ratios = [r for r in (view.margin_ratio, view.margin_ratio_at_mid, view.margin_ratio_at_reference) if r is not None]
    if view.margin_ratio is None:
        return (0.0, 0.0, 0.0, view.id)
    move = 0.0 if view.survivable_move is None else view.survivable_move
    return (2.0 if view.flat else 1.0, -max(ratios), move, view.id)


def account(turn: Turn, name: str, positions: tuple[PositionView, ...]) -> AccountView:
    """One account with its positions."""
    hot, at = turn.hot, turn.at

    def of(signal: str) -> float:
        return hot.glance(Kind.ACCOUNT, name, signal, at)

    held = hot.members(Kind.ACCOUNT, name, "positions") if hot.knows(Kind.ACCOUNT, name) else []
    # Sums over no positions are 0 whatever else is known: without the account's own reading nobody can say that it is flat.
    told = not math.isnan(of("collateral"))
    flat = told and not held

    def summed(signal: str) -> float:
        return of(signal) if told else math.nan

    # With hundreds of positions each sum over them costs: five are read, the rest follows from them by the catalogue's own formulas.
    equity, maintenance, initial, delta, gross = (
        summed(signal) for signal in ("equity", "maintenance_margin", "initial_margin", "net_delta", "gross")
    )
    stands = outlook(equity, maintenance, delta)
    return AccountView(
        id=name,
        venue=turn.topology.entity(Kind.ACCOUNT, name).links.get("venue", ""),
        equity_usd=known(equity),
        collateral_usd=known(of("collateral")),
        free_collateral_usd=known(equity - initial),
        leverage=known(gross / equity) if equity != 0.0 else None,
        margin_ratio=stands.margin_ratio,
        margin_ratio_at_mid=known(summed("margin_ratio_at_mid")),
        margin_ratio_at_reference=known(summed("margin_ratio_at_reference")),
        survivable_move=stands.survivable_move,
        time_to_liquidation_s=math.inf if flat else known(time_to_liquidation(turn, name)),
        net_delta_usd=stands.net_delta_usd,
        age_s=_oldest(turn, name, held),
        flat=flat,
        positions=positions,
    )


def time_to_liquidation(turn: Turn, name: str) -> float:
    """Seconds in which current volatility covers the survivable move; NaN unknown, and where no runbook's window follows volatility."""
    bounds: dict[str, Mapping[str, int]] = {"": {}}
    for runbook in turn.cold.in_force:
        book = turn.current(runbook)
        if book is not None and book.max_age and any(step.kind == "move_buffer" for step in book.all_steps()):
            bounds[repr(sorted(book.max_age.items()))] = book.max_age
    for max_age in bounds.values():
        value = turn.hot.glance(Kind.ACCOUNT, name, "time_to_liquidation", turn.at, max_age)
        if value == value:
            return value
    return math.nan


def _oldest(turn: Turn, name: str, held: Sequence[str]) -> float | None:
    """Age in seconds of the oldest reading that the account's margin is made of; None when one was never seen."""
    oldest = turn.hot.true_at(Kind.ACCOUNT, name, "collateral")
    for position in held[:POSITIONS_MAX]:
        market = market_of(turn, position)
        price = max(turn.hot.true_at(Kind.MARKET, market, signal) for signal in valued_at(turn, market))
        oldest = min(oldest, turn.hot.true_at(Kind.POSITION, position, "size"), price)
    return None if oldest == NEVER else max(0, turn.at - oldest) / NS


def market_of(turn: Turn, position: str) -> str:
    """The market of a position, seen or not."""
    own = turn.hot.seen(Kind.POSITION, position) or turn.topology.entity(Kind.POSITION, position)
    return own.links.get("market", "")


def valued_at(turn: Turn, market: str) -> Sequence[str]:
    """The signals that a market's venue values positions at, the first known of them."""
    venue = turn.topology.venues.get(market.partition(":")[0])
    return (venue.valued_at if venue is not None else ()) or ("oracle_price", "mark_price", "last_price")


# --- positions ----------------------------------------------------------------------------------------------------------


def position_view(turn: Turn, position: str, equity: float, maintenance: float) -> PositionView:
    """One open position of an account with these sums (NaN unknown), which every position's liquidation depends on."""
    hot, at = turn.hot, turn.at
    market = market_of(turn, position)

    def of(signal: str) -> float | None:
        return known(hot.glance(Kind.POSITION, position, signal, at))

    size = hot.glance(Kind.POSITION, position, "size", at)
    price = hot.glance(Kind.MARKET, market, "value_price", at)
    mmf = hot.glance(Kind.MARKET, market, "mmf", at)
    return PositionView(
        id=position,
        market=market,
        size=plain_decimal(size),
        notional_usd=of("notional"),
        entry_price=of("entry_price"),
        price=known(price),
        unrealized_pnl_usd=of("unrealized_pnl"),
        funding_daily_usd=of("funding_cost_daily"),
        liquidation_price=known(liquidation_price_of(size, price, mmf, equity, maintenance)),
        liquidation_distance=known(liquidation_distance_of(size, price, mmf, equity, maintenance)),
        exit_cost_usd=of("exit_cost"),
    )


def plain_decimal(value: float) -> str:
    """`0.4` for 0.4, `-3` for -3.0, never an exponent; `unknown` for NaN."""
    return "unknown" if math.isnan(value) else f"{Decimal(repr(value)).normalize():f}"


# --- after a plan -------------------------------------------------------------------------------------------------------


def outlook_after(
    engine: Engine, account_id: str, legs: Sequence[Leg] = (), *, moved_usd: float = 0.0, fee_usd: float = 0.0, at: int
) -> Plan:
    """An account before and after shrinking `legs` and receiving `moved_usd` (< 0: giving it away; `fee_usd` is paid of it).

    After: equity less what the plan costs, maintenance margin less what the closed size required, at the price that margin uses.
    """
    turn = engine.look(at)

    def of(signal: str) -> float:
        return turn.hot.glance(Kind.ACCOUNT, account_id, signal, at) if told else math.nan

    told = not math.isnan(turn.hot.glance(Kind.ACCOUNT, account_id, "collateral", at))
    equity, maintenance, delta = of("equity"), of("maintenance_margin"), of("net_delta")
    before = outlook(equity, maintenance, delta)
    trading = 0.0
    for leg in legs:
        market = market_of(turn, leg.position)
        price = turn.hot.glance(Kind.MARKET, market, "value_price", at)
        notional = float(leg.size) * price
        trading += leg_cost(turn, market, leg.side, notional)
        maintenance -= notional * turn.hot.glance(Kind.MARKET, market, "mmf", at)
        delta += notional if leg.side == "BUY" else -notional
    equity += moved_usd - trading - (fee_usd if moved_usd > 0.0 else 0.0)  # what leaves pays its fee where it arrives
    # What rounding leaves of a requirement that is gone is no requirement.
    maintenance = 0.0 if abs(maintenance) < 1e-9 * max(1.0, abs(equity)) else maintenance
    return Plan(before=before, after=outlook(equity, maintenance, delta), cost_usd=known(trading + fee_usd))


def outlook(equity: float, maintenance: float, delta: float) -> Outlook:
    """Margin ratio, survivable move and net delta of an account's three sums; NaN in, None out."""
    if math.isnan(equity) or math.isnan(maintenance):
        return Outlook(margin_ratio=None, survivable_move=None, net_delta_usd=known(delta))
    return Outlook(
        margin_ratio=known(margin_ratio_of(maintenance, equity)),
        survivable_move=known(survivable_move_of(equity, maintenance, delta)),
        net_delta_usd=known(delta),
    )


def leg_cost(turn: Turn, market: str, side: str, notional: float) -> float:
    """What taking `notional` USD off costs, USD: taker fee, half the spread, and the way into the book; NaN when none of it is known.

    The way into the book grows linearly with the share of the depth within 50 bps that is taken, beyond it as well; where no depth is
    ever fed it is left out, and where it was fed and is unknown now, the cost is unknown.
    """
    venue = market.partition(":")[0]
    fee = turn.hot.glance(Kind.VENUE, venue, "taker_fee", turn.at)
    spread = turn.hot.glance(Kind.MARKET, market, "spread", turn.at)
    fixed = turn.hot.glance(Kind.VENUE, venue, "fixed_slippage", turn.at)
    half = spread / 2.0 if spread == spread else fixed
    deep = "ask_depth" if side == "BUY" else "bid_depth"
    depth = turn.hot.glance(Kind.MARKET, market, deep, turn.at)
    if not depth > 0.0 and turn.hot.seen_at(Kind.MARKET, market, deep) != NEVER:
        return math.nan  # unknown now, or nobody there: what it costs cannot be said
    impact = IMPACT * notional / depth if depth > 0.0 else 0.0
    return notional * ((fee if fee == fee else TAKER_FEE_DEFAULT) + half + impact)


# --- cash ---------------------------------------------------------------------------------------------------------------


def cash(engine: Engine, at: int) -> CashView:
    """Idle collateral by how soon it could be at a margin account; each dollar counts once, what is unknown stands in a line only."""
    turn = engine.look(at)
    sums = [0.0, 0.0, 0.0]
    lines: list[str] = []
    for chain in _buffers(turn):
        balance = turn.hot.glance(Kind.CHAIN, chain, "buffer_balance", at)
        if balance != balance:
            seen = turn.hot.seen_at(Kind.CHAIN, chain, "buffer_balance")
            lines.append(f"{chain}: its balance " + ("was never seen" if seen == NEVER else f"is unknown, last seen {moment(seen)}"))
            continue
        parts, words = _reach(turn, chain, balance)
        sums = [a + b for a, b in zip(sums, parts, strict=True)]
        if balance > 0.0:
            lines.append(f"{chain}: {show(balance, 'USD')}, {words}")
    flying, stuck = 0.0, 0.0
    ours: dict[str, float] = {}
    for transfer in turn.cold.transfers.values():
        amount = float(transfer.amount)
        ours[transfer.route] = ours.get(transfer.route, 0.0) + amount
        flying, stuck = (flying, stuck + amount) if transfer.overdue else (flying + amount, stuck)
        state = "OVERDUE, " if transfer.overdue else "" if transfer.settled else "not yet accepted, "
        lines.append(
            f"{show(amount, 'USD')} from {transfer.source} to {transfer.destination} over {transfer.route}: {state}"
            f"sent {moment(transfer.at)} ({ago((turn.at - transfer.at) / NS)} ago)"
        )
    for route in turn.topology.routes:
        told = turn.hot.glance(Kind.ROUTE, route, "in_flight", at)
        if told > ours.get(route, 0.0):
            other = told - ours.get(route, 0.0)
            flying += other
            lines.append(f"{show(other, 'USD')} over {route} that is not this daemon's doing")
    return CashView(within_5m=sums[0], within_30m=sums[1], later=sums[2], in_flight=flying, stuck=stuck, lines=tuple(lines))


def _buffers(turn: Turn) -> list[str]:
    """Chains that hold a buffer, or are where a configured route begins."""
    ends = {*turn.topology.accounts, *turn.topology.venues}
    sources = [route.source for route in turn.topology.routes.values() if route.source not in ends]
    told = [chain for chain in turn.hot.entities(Kind.CHAIN) if turn.hot.seen_at(Kind.CHAIN, chain, "buffer_balance") != NEVER]
    return sorted({*sources, *told})


def _reach(turn: Turn, chain: str, balance: float) -> tuple[list[float], str]:
    """A chain's balance by how soon it could be at an account, [5 min, 30 min, later], and how in words."""
    ends = {*turn.topology.accounts, *turn.topology.venues}
    ways = []
    for name, route in turn.topology.routes.items():
        if route.source != chain or route.destination not in ends:
            continue
        closed = turn.hot.glance(Kind.ROUTE, name, "route_open", turn.at)
        if closed == 0.0 or (closed != closed and _was_told(turn, name, "route_open")):
            continue
        slow_ns = route.eta_p95_ns if route.eta_p95_ns is not None else 2 * route.eta_ns
        eta_s = _told_or(turn, name, "route_eta_p95", "route_eta", slow_ns / NS)
        room = _told_or(turn, name, "route_capacity", "route_capacity", route.capacity_usd)
        if not math.isnan(eta_s) and room > 0.0:
            ways.append((eta_s, min(room, balance), name))
    parts, left, words = [0.0, 0.0, 0.0], balance, []
    for eta_s, room, name in sorted(ways):
        amount = min(left, room)
        if amount <= 0.0:
            break
        parts[0 if eta_s <= SOON_S else 1 if eta_s <= LATER_S else 2] += amount
        left -= amount
        words.append(f"{show(amount, 'USD')} over {name} within {ago(eta_s)}")
    if left > 0.0:
        parts[2] += left
        words.append(f"no open route with room for {show(left, 'USD')}" if ways else "no open route to an account")
    return parts, "; ".join(words)


def _was_told(turn: Turn, route: str, signal: str) -> bool:
    return turn.hot.seen_at(Kind.ROUTE, route, signal) != NEVER


def _told_or(turn: Turn, route: str, signal: str, observed: str, fallback: float) -> float:
    """A reading of a route; what no source ever gave is as configured, what one gave and is stale now is unknown (as in routing)."""
    value = turn.hot.glance(Kind.ROUTE, route, signal, turn.at)
    return fallback if value != value and not _was_told(turn, route, observed) else value


# --- hedges -------------------------------------------------------------------------------------------------------------


class Hedges:
    """Remembers which assets' legs cancelled, so that a leg that is gone is told; forgets an asset once it is flat."""

    def __init__(self) -> None:
        self._cancelled: dict[str, tuple[int, float]] = {}  # asset -> when its legs last cancelled, and to which share

    def look(self, engine: Engine, at: int) -> tuple[HedgeView, ...]:
        """Assets that were hedged since the start and are not any more, and sizes that somebody else changed."""
        turn = engine.look(at)
        found = [HedgeView(asset=asset, net_delta_usd=net, text=text) for asset, net, text in self._broken(turn)]
        return (*found, *_external(turn))

    def _broken(self, turn: Turn) -> list[tuple[str, float | None, str]]:
        found: list[tuple[str, float | None, str]] = []
        assets = exposures(turn)
        self._cancelled = {asset: then for asset, then in self._cancelled.items() if asset in assets}
        for asset, (net, gross) in sorted(assets.items()):
            if math.isnan(net):
                if asset in self._cancelled:
                    found.append((asset, None, f"{asset} was hedged, and what is left of it is unknown"))
                continue
            share = abs(net) / gross if gross > 0.0 else 0.0
            if share <= HEDGED:
                self._cancelled[asset] = (turn.at, share)
            elif asset in self._cancelled:
                then, was = self._cancelled[asset]
                now = f"now net {_signed(net)} of {show(gross, 'USD')} gross"
                found.append((asset, net, f"{asset} was hedged to {show(was, 'ratio')} until {moment(then)}; {now}"))
        return found


def exposures(turn: Turn) -> dict[str, tuple[float, float]]:
    """Net and gross notional of each asset with an open position, USD; NaN where one of its sizes or prices is unknown."""
    sums: dict[str, list[float]] = {}
    # Open by their last size, however old: one that was closed is not unknown because nobody reads it any more.
    for position in turn.hot.members(Kind.PORTFOLIO, PORTFOLIO_ID, "positions")[:LEGS_MAX]:
        own = turn.hot.seen(Kind.POSITION, position)
        asset = own.labels.get("base", position) if own is not None else position
        notional = turn.hot.glance(Kind.POSITION, position, "notional", turn.at)
        sums.setdefault(asset, []).append(notional)
    return {asset: (math.fsum(each), math.fsum(abs(n) for n in each)) for asset, each in sums.items()}


def _external(turn: Turn) -> list[HedgeView]:
    """Open episodes in which a size changed and it was not ours."""
    found = {}
    for episode in turn.cold.episodes.values():
        if episode.open and episode.external:
            asset = turn.topology.entity(Kind.POSITION, next(iter(episode.sizes), episode.entity)).labels.get("base", episode.entity)
            found[asset, episode.external] = HedgeView(asset=asset, net_delta_usd=None, text=episode.external)
    return list(found.values())


def _signed(usd: float) -> str:
    return f"{'+' if usd > 0.0 else ''}{show(usd, 'USD')}"
