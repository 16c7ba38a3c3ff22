"""How much, at what price (floor 4): the one crossing from measured float to owned Decimal, always towards the safer side.

A shrink can neither open nor flip: its size never exceeds the position's current size, whatever the runbook asks for.
dYdX's rule for accounts below initial margin (protocol/x/subaccounts/lib/updates.go): a fill whose slippage plus fee per unit of
notional exceeds MMF x TNC / MMR is rejected, so the limit price stays inside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import ROUND_CEILING, ROUND_FLOOR, Context, Decimal
from typing import Literal

from daemon.engine.contract import NAN, Plan
from daemon.engine.guard import account_of
from daemon.engine.records import Leg
from daemon.engine.state import Run
from daemon.engine.turn import Turn, members
from daemon.language.kernels import survivable_move_of
from daemon.runbook.model import Amount, Runbook, Shrink, ShrinkAccount
from daemon.world.entities import Kind
from daemon.world.margin import slippage_allowed

AT_TARGET = 1e-12  # relative: a ratio that misses its target by its last digit only asks for no order of dust
SLIPPAGE_DEFAULT = 0.005  # 50 bps: without max_slippage an order still never goes out unbounded
TAKER_FEE_DEFAULT = 0.0005  # 5 bps, dYdX's first tier, where the venue's own is not observed
PIECES = 20  # best_survival tries a twentieth of a position at a time

Side = Literal["BUY", "SELL"]
_WIDE = Context(prec=80)  # quotients of a large size by a small step stay exact
_PRICE_DIGITS = 12  # without a tick size, prices keep this many significant digits


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """Why there is nothing to send: `skipped` nothing to do, `rejected` cannot work, `blocked` not allowed."""

    status: Literal["skipped", "rejected", "blocked"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketView:
    """What sizing reads of one position and its market; NaN where unknown."""

    position: str
    account: str
    market: str
    size: float  # base, + long; after our own fills that the venue has not shown yet
    value_price: float
    mid_price: float
    step_size: float
    min_size: float
    tick_size: float
    depth_usd: float  # value of the side we would hit
    mmf: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """A sized order."""

    size: Decimal
    limit_price: Decimal
    reference_price: float
    notional_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Holding:
    """One position as `shrink_account` weighs it: USD notional (signed), maintenance fraction, cost and funding per USD."""

    position: str
    notional: float
    mmf: float
    cost: float
    funding: float  # rate/h paid; NaN unknown


def decimal(value: float) -> Decimal:
    """The decimal a float prints as."""
    return Decimal(repr(value))


def round_down(value: Decimal, step: float) -> Decimal:
    """The largest multiple of `step` not above `value` (>= 0); `value` itself where there is no step (NaN or 0)."""
    if not step > 0.0:
        return value
    unit = decimal(step)
    return _WIDE.multiply(_WIDE.divide_int(value, unit), unit)


def limit_price(side: Side, reference: float, slippage: float, tick: float) -> Decimal:
    """`reference` less (SELL) or plus (BUY) `slippage`, rounded to the tick so that it is never worse than that."""
    rounding = ROUND_CEILING if side == "SELL" else ROUND_FLOOR
    bound = decimal(slippage)
    price = _WIDE.multiply(decimal(reference), 1 - bound if side == "SELL" else 1 + bound)
    if not tick > 0.0:
        return Context(prec=_PRICE_DIGITS, rounding=rounding).plus(price)
    unit = decimal(tick)
    whole = _WIDE.divide(price, unit).to_integral_value(rounding)
    return _WIDE.multiply(whole, unit)


def shrink_total(*, size: float, start_size: float, by: float | None, by_is_share: bool, to_size: float | None) -> float:
    """Base units (>= 0) to take off a position of signed `size` that was `start_size` when the episode fired.

    `by` is a share of the start or base units; `to_size` the absolute size to leave. Never more than the position: 0 when it flipped,
    and 0 for NaN of any kind.
    """
    if size == 0.0 or start_size == 0.0 or (size > 0.0) != (start_size > 0.0):
        return 0.0
    if to_size is not None:
        wanted = abs(size) - max(0.0, to_size)
    elif by is not None:
        wanted = abs(start_size) * by if by_is_share else by
    else:
        wanted = NAN
    if not wanted > 0.0 or not math.isfinite(size):
        return 0.0
    return min(wanted, abs(size))


def slice_size(*, left: Decimal, slices_left: int, size: float, cap: float, step: float, minimum: float) -> Decimal:
    """Base units of the next slice: an equal part of `left`, at least the venue's minimum, at most the position and `cap`; 0 = none."""
    current = round_down(decimal(abs(size)), step)
    part = round_down(left / max(1, slices_left), step)
    least = decimal(minimum) if minimum > 0.0 else Decimal(0)
    if part < least:
        part = least if left >= least else Decimal(0)
    bounded = min(part, current, left)
    if math.isfinite(cap):
        bounded = min(bounded, round_down(decimal(max(0.0, cap)), step))
    bounded = round_down(bounded, step)
    return bounded if bounded > 0 and bounded >= least else Decimal(0)


def after_fills(size: float, expected: float) -> float:
    """The size to work with when our fills are not shown yet: the one nearer to flat, 0 when the fills closed it; NaN stays NaN."""
    if math.isnan(size):
        return size
    if size * expected <= 0.0:
        return 0.0
    return expected if abs(expected) < abs(size) else size


def look(turn: Turn, book: Runbook, position: str) -> MarketView:
    """Everything sizing reads of a position, now."""
    entity = turn.entity(Kind.POSITION, position)
    market, account = entity.links.get("market", ""), entity.links.get("account", "")

    def of_market(signal: str) -> float:
        return turn.read(book, Kind.MARKET, market, signal).value

    size = turn.read(book, Kind.POSITION, position, "size").value
    track = turn.cold.sizes.get(position)
    if track and track.unobserved != 0.0:
        size = after_fills(size, track.size + track.unobserved)
    selling = size > 0.0
    depth = of_market("bid_depth" if selling else "ask_depth")
    if math.isnan(depth):
        depth = of_market("bid_size" if selling else "ask_size") * of_market("bid_price" if selling else "ask_price")
    return MarketView(
        position=position,
        account=account,
        market=market,
        size=size,
        value_price=value_price(turn, book, market),
        mid_price=of_market("mid_price"),
        step_size=of_market("step_size"),
        min_size=of_market("min_size"),
        tick_size=of_market("tick_size"),
        depth_usd=depth,
        mmf=of_market("mmf"),
    )


def value_price(turn: Turn, book: Runbook, market: str) -> float:
    """The price that margin and notional use on the market's venue: the first known of its `valued_at`, else mid; NaN when none is."""
    venue = turn.topology.venues.get(market.partition(":")[0])
    names = venue.valued_at if venue else ("oracle_price", "mark_price", "last_price")
    for name in (*names, "mid_price"):
        reading = turn.read(book, Kind.MARKET, market, name)
        if reading.known and reading.value > 0.0:
            return reading.value
    return NAN


def taker_fee(turn: Turn, book: Runbook, market: str) -> float:
    """The venue's taker fee as a ratio, or the default."""
    fee = turn.read(book, Kind.VENUE, market.partition(":")[0], "taker_fee").value
    return TAKER_FEE_DEFAULT if math.isnan(fee) else fee


def shrink_legs(turn: Turn, run: Run, book: Runbook, act: Shrink | ShrinkAccount) -> tuple[Leg, ...] | Refusal:
    """The positions to shrink and by how much; a Refusal says why there are none."""
    if isinstance(act, Shrink):
        return _position_leg(turn, run, book, act)
    return _account_legs(turn, run, book, act)


def _amount(turn: Turn, run: Run, amount: Amount, plan: Plan | None = None) -> float:
    return turn.value(run, amount.expression, plan)


def _position_leg(turn: Turn, run: Run, book: Runbook, act: Shrink) -> tuple[Leg, ...] | Refusal:
    if book.scope is not Kind.POSITION:
        return Refusal(status="rejected", reason=f"shrink_position needs scope: position, found {book.scope}")
    view = look(turn, book, run.entity)
    start = run.sizes.get(run.entity, NAN)
    if math.isnan(view.size) or math.isnan(start):
        return Refusal(status="rejected", reason="size is unknown")
    by, to = None, None
    share = False
    spec = act.by if act.by is not None else act.to
    assert spec is not None, "the loader requires by or to"
    value = _amount(turn, run, spec)
    if math.isnan(value):
        return Refusal(status="rejected", reason=f"{spec.expression.text} is unknown")
    if spec.unit == "USD":
        if math.isnan(view.value_price):
            return Refusal(status="rejected", reason="no price is known to turn USD into a size")
        value /= view.value_price
    elif spec.unit in ("ratio", "1"):
        share = True
    if act.by is not None:
        by = value
    else:
        to = value * abs(start) if share else value
    total = shrink_total(size=view.size, start_size=start, by=by, by_is_share=share, to_size=to)
    return _legs([(view, total)])


def _legs(wanted: Sequence[tuple[MarketView, float]]) -> tuple[Leg, ...] | Refusal:
    legs = []
    for view, total in wanted:
        size = round_down(decimal(total), view.step_size)
        if size > 0 and not float(size) < view.min_size:
            legs.append(Leg(position=view.position, side="SELL" if view.size > 0.0 else "BUY", size=size))
    return tuple(legs) if legs else Refusal(status="skipped", reason="nothing to do")


def _account_legs(turn: Turn, run: Run, book: Runbook, act: ShrinkAccount) -> tuple[Leg, ...] | Refusal:
    account = account_of(turn, book, run.entity)
    if account is None:
        return Refusal(status="rejected", reason="shrink_account needs an account")
    views = [look(turn, book, p) for p in members(turn, Kind.ACCOUNT, account, "positions")]
    held = [v for v in views if v.size != 0.0]
    unknown = [v.position for v in held if math.isnan(v.size) or math.isnan(v.value_price)]
    if unknown:
        return Refusal(status="rejected", reason=f"size or price is unknown of {', '.join(unknown)}")
    if not held:
        return Refusal(status="skipped", reason="nothing to do")
    holdings = [_holding(turn, book, v) for v in held]
    if act.by is not None:
        share = _amount(turn, run, act.by)
        if math.isnan(share):
            return Refusal(status="rejected", reason=f"{act.by.expression.text} is unknown")
        ranked = order_holdings(holdings, act.order, *_margin(turn, book, account))
        by_id = {v.position: v for v in held}
        starts = {v.position: run.sizes.get(v.position, v.size) for v in held}
        ordered = [by_id[h.position] for h in ranked]
        return _legs(
            [
                (v, shrink_total(size=v.size, start_size=starts[v.position], by=share, by_is_share=True, to_size=None))
                for v in ordered
            ]
        )
    assert act.to_margin_ratio is not None, "the loader requires to_margin_ratio or by"
    target = _amount(turn, run, act.to_margin_ratio)
    equity, maintenance = _margin(turn, book, account)
    if math.isnan(target) or math.isnan(equity) or math.isnan(maintenance) or any(math.isnan(h.mmf) for h in holdings):
        return Refusal(status="rejected", reason="the account's margin is unknown")
    amounts = reductions(holdings, equity, maintenance, target, act.order)
    by_id = {v.position: v for v in held}
    return _legs([(by_id[p], min(abs(by_id[p].size), usd / by_id[p].value_price)) for p, usd in amounts])


def _margin(turn: Turn, book: Runbook, account: str) -> tuple[float, float]:
    return (
        turn.read(book, Kind.ACCOUNT, account, "equity").value,
        turn.read(book, Kind.ACCOUNT, account, "maintenance_margin").value,
    )


def _holding(turn: Turn, book: Runbook, view: MarketView) -> Holding:
    notional = view.size * view.value_price
    exit_cost = turn.read(book, Kind.POSITION, view.position, "exit_cost").value
    cost = exit_cost / abs(notional) if exit_cost >= 0.0 and notional != 0.0 else SLIPPAGE_DEFAULT + TAKER_FEE_DEFAULT
    funding = turn.read(book, Kind.POSITION, view.position, "funding_paid").value
    return Holding(position=view.position, notional=notional, mmf=view.mmf, cost=cost, funding=funding)


def order_holdings(holdings: Sequence[Holding], order: str, equity: float, maintenance: float) -> list[Holding]:
    """The holdings, first to shrink first; ties by position id, unknown last."""
    if order == "most_expensive_first":
        return sorted(holdings, key=lambda h: (-(h.funding if h.funding == h.funding else -math.inf), h.position))
    if order == "pro_rata":
        return sorted(holdings, key=lambda h: h.position)
    net = math.fsum(h.notional for h in holdings)
    return sorted(holdings, key=lambda h: (-_gain(h, abs(h.notional) / PIECES, equity, maintenance, net), h.position))


def _gain(holding: Holding, usd: float, equity: float, maintenance: float, net: float) -> float:
    """`survivable_move` gained per USD of cost by taking `usd` off; past the margin already: margin freed per USD of cost."""
    cost = max(usd * holding.cost, 1e-9)  # a free exit is merely very cheap
    sign = 1.0 if holding.notional > 0.0 else -1.0
    if equity != equity or maintenance != maintenance or holding.mmf != holding.mmf:
        return -math.inf
    if equity <= maintenance:
        return (usd * holding.mmf - cost) / cost
    before = survivable_move_of(equity, maintenance, net)
    after = survivable_move_of(equity - cost, maintenance - usd * holding.mmf, net - sign * usd)
    return math.inf if math.isinf(after) else (after - before) / cost


def reductions(holdings: Sequence[Holding], equity: float, maintenance: float, target: float, order: str) -> list[tuple[str, float]]:
    """USD to take off each position, in order, until maintenance margin / equity is at most `target`, or all of it."""
    if equity > 0.0 and maintenance / equity <= target * (1.0 + AT_TARGET):
        return []
    if order == "pro_rata":
        return _pro_rata(holdings, equity, maintenance, target)
    if order == "most_expensive_first":
        return _in_order(order_holdings(holdings, order, equity, maintenance), equity, maintenance, target)
    return _best_survival(holdings, equity, maintenance, target)


def _needed(equity: float, maintenance: float, target: float, mmf: float, cost: float, most: float) -> float:
    """USD of one position that bring the ratio to `target`: (MM - d mmf) / (E - d cost) = target; `most` when it cannot."""
    freed = mmf - target * cost
    missing = maintenance - target * equity
    return most if freed <= 0.0 else min(most, max(0.0, missing / freed))


def _pro_rata(holdings: Sequence[Holding], equity: float, maintenance: float, target: float) -> list[tuple[str, float]]:
    gross_mmf = math.fsum(abs(h.notional) * h.mmf for h in holdings)
    gross_cost = math.fsum(abs(h.notional) * h.cost for h in holdings)
    share = _needed(equity, maintenance, target, gross_mmf, gross_cost, 1.0)
    return [(h.position, abs(h.notional) * share) for h in order_holdings(holdings, "pro_rata", equity, maintenance)]


def _in_order(ranked: Sequence[Holding], equity: float, maintenance: float, target: float) -> list[tuple[str, float]]:
    amounts = []
    for h in ranked:
        usd = _needed(equity, maintenance, target, h.mmf, h.cost, abs(h.notional))
        if usd > 0.0:
            amounts.append((h.position, usd))
            equity, maintenance = equity - usd * h.cost, maintenance - usd * h.mmf
    return amounts


def _best_survival(holdings: Sequence[Holding], equity: float, maintenance: float, target: float) -> list[tuple[str, float]]:
    left = {h.position: abs(h.notional) for h in holdings}
    taken: dict[str, float] = {}
    current = list(holdings)
    for _ in range(PIECES * len(holdings) + len(holdings)):
        if equity > 0.0 and maintenance <= target * equity * (1.0 + 1e-12):
            break
        open_ = [h for h in current if left[h.position] > 0.0]
        if not open_:
            break
        net = math.fsum(math.copysign(left[h.position], h.notional) for h in open_)
        best = order_by_gain(open_, left, equity, maintenance, net)
        piece = min(left[best.position], abs(best.notional) / PIECES)
        usd = _needed(equity, maintenance, target, best.mmf, best.cost, piece)
        usd = piece if usd <= 0.0 else usd
        taken[best.position] = taken.get(best.position, 0.0) + usd
        left[best.position] = 0.0 if left[best.position] - usd <= 1e-9 * abs(best.notional) else left[best.position] - usd
        equity, maintenance = equity - usd * best.cost, maintenance - usd * best.mmf
    return list(taken.items())


def order_by_gain(holdings: Sequence[Holding], left: dict[str, float], equity: float, maintenance: float, net: float) -> Holding:
    """The holding whose next piece gains most survivable move per USD of cost; ties by position id."""
    return min(
        holdings,
        key=lambda h: (-_gain(h, min(left[h.position], abs(h.notional) / PIECES), equity, maintenance, net), h.position),
    )


def next_order(turn: Turn, run: Run, book: Runbook, act: Shrink | ShrinkAccount, leg: Leg) -> Order | Refusal:
    """The next slice of a leg, sized and priced from what is known now."""
    view = look(turn, book, leg.position)
    if math.isnan(view.size):
        return Refusal(status="rejected", reason="size is unknown")
    side: Side = "SELL" if view.size > 0.0 else "BUY"
    if view.size == 0.0 or side != leg.side:
        return Refusal(status="skipped", reason="nothing to do")
    if math.isnan(view.value_price):
        return Refusal(status="rejected", reason="no price is known")
    cap = math.inf
    if act.max_share_of_depth is not None:
        if math.isnan(view.depth_usd):
            return Refusal(status="blocked", reason="depth is unknown, so max_share_of_depth cannot be kept")
        cap = act.max_share_of_depth * view.depth_usd / view.value_price
    size = slice_size(
        left=leg.size - leg.filled,
        slices_left=act.slices - leg.slices,
        size=view.size,
        cap=cap,
        step=view.step_size,
        minimum=view.min_size,
    )
    if size <= 0:
        return Refusal(status="skipped", reason="nothing to do")
    return price_order(turn, book, view, side, size, act.max_slippage)


def price_order(turn: Turn, book: Runbook, view: MarketView, side: Side, size: Decimal, max_slippage: float | None) -> Order | Refusal:
    """The order's bound: the user's from mid (or from the value price where the book is not known), the venue's from the value price."""
    slippage = SLIPPAGE_DEFAULT if max_slippage is None else max_slippage
    reference = view.mid_price if view.mid_price > 0.0 else view.value_price
    price = limit_price(side, reference, slippage, view.tick_size)
    bound = venue_bound(turn, book, view)
    if bound is not None:
        if bound <= 0.0:
            return Refusal(status="rejected", reason="below initial margin: the fee alone exceeds what the venue accepts per fill")
        venue_price = limit_price(side, view.value_price, bound, view.tick_size)
        price = max(price, venue_price) if side == "SELL" else min(price, venue_price)
    return Order(size=size, limit_price=price, reference_price=reference, notional_usd=float(size) * view.value_price)


def venue_bound(turn: Turn, book: Runbook, view: MarketView) -> float | None:
    """Slippage (ratio of the value price) that dYdX accepts from an account below initial margin; None when its rule does not apply."""
    venue_id = view.market.partition(":")[0]
    venue = turn.topology.venues.get(venue_id)
    if venue is not None and venue.model != "dydx-v4":
        return None
    equity, maintenance = _margin(turn, book, view.account)
    initial = turn.read(book, Kind.ACCOUNT, view.account, "initial_margin").value
    if not equity < initial or not maintenance > 0.0 or math.isnan(view.mmf):
        return None  # at or above initial margin, or not known: then the venue's own check decides
    return slippage_allowed(equity, initial, maintenance, view.mmf, taker_fee(turn, book, view.market))


def fit_legs(legs: Sequence[Leg], approved: Sequence[Leg]) -> tuple[Leg, ...]:
    """The smaller of the freshly computed and the approved, leg by leg; what was not approved is left out."""
    allowed = {(leg.position, leg.side): leg.size for leg in approved}
    fitted = [replace(leg, size=min(leg.size, allowed[leg.position, leg.side])) for leg in legs if (leg.position, leg.side) in allowed]
    return tuple(leg for leg in fitted if leg.size > 0)


def clip_leg(turn: Turn, book: Runbook, leg: Leg, usd: float, size: float) -> Leg:
    """The leg made small enough for `usd` and `size` (base units), rounded down to the step."""
    view = look(turn, book, leg.position)
    most = min(float(leg.size), size, usd / view.value_price if view.value_price > 0.0 else 0.0)
    return replace(leg, size=min(leg.size, round_down(decimal(max(0.0, most)), view.step_size)))


def leg_usd(turn: Turn, book: Runbook, leg: Leg) -> float:
    """|size| x value price; NaN when there is no price."""
    market = turn.entity(Kind.POSITION, leg.position).links.get("market", "")
    return float(leg.size) * value_price(turn, book, market)
