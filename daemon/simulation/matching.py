"""Orders of a simulated exchange (floor 5): what is refused, what fills, level by level, and what rests.

Every fill takes depth from the book, which comes back with the market's recovery: a second order within seconds finds a worse price.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.simulation.bridges import Refusal
from daemon.simulation.clearing import Clearing
from daemon.simulation.scenario import VenueSpec
from daemon.simulation.subaccount import CLIENT_ID_MAX, OrderRequest, OrderState, Subaccount, signed


def refusal_of(clearing: Clearing, account: Subaccount, request: OrderRequest) -> Refusal | None:
    """Why a new order is not taken; None when it is."""
    state = clearing.markets.get(request.market)
    if state is None:
        return Refusal(reason="unknown_market", message=f"{request.market} is no market of this venue")
    if state.status != "ACTIVE":
        return Refusal(reason="market_status", message=f"{request.market} is {state.status}")
    if not 0 <= request.client_id <= CLIENT_ID_MAX:
        return Refusal(reason="client_id", message="client_id must be an unsigned 32-bit number")
    if request.size <= 0 or request.size % state.spec.step:
        return Refusal(reason="size", message=f"size must be a multiple of the step {state.spec.step}")
    if request.limit_price <= 0 or request.limit_price % state.spec.tick:
        return Refusal(reason="limit_price", message=f"limit_price must be a multiple of the tick {state.spec.tick}")
    if request.reduce_only:
        return _reduce_only_refusal(clearing.venue, account, request)
    held = [market for market in account.holdings if market != request.market]
    if held and (state.spec.isolated or any(clearing.markets[market].spec.isolated for market in held)):
        message = "an isolated market's position stands alone in its subaccount"
        return Refusal(reason="isolated_market", message=message)
    return None


def _reduce_only_refusal(venue: VenueSpec, account: Subaccount, request: OrderRequest) -> Refusal | None:
    if request.time_in_force != "IOC" and venue.model == "dydx-v4":
        return Refusal(reason="reduce_only_not_ioc", code=9003, message="reduce-only orders must be IOC")
    holding = account.holdings.get(request.market)
    if holding is None or (holding.size > 0) == (request.side == "BUY"):
        message = "a reduce-only order cannot open, increase or flip a position"
        if venue.model == "hyperliquid":
            message = "Reduce only order would increase position."
        return Refusal(reason="reduce_only_would_increase", message=message)
    return None


def _still_wanted(account: Subaccount, order: OrderState) -> Decimal:
    """What an order may still fill: a reduce-only one never more than the position there is now."""
    left = order.size - order.filled
    if not order.request.reduce_only:
        return left
    holding = account.holdings.get(order.request.market)
    if holding is None or (holding.size > 0) == (order.request.side == "BUY"):
        return Decimal(0)
    return min(left, abs(holding.size))


def match(clearing: Clearing, account: Subaccount, order: OrderState) -> None:
    """Fills an order against the book as it is now, level by level, as far as limit price and margin allow."""
    request, state = order.request, clearing.markets[order.request.market]
    bids, asks = state.book()
    order.reason = "no_liquidity"
    wanted = _still_wanted(account, order)
    if not wanted:
        order.status, order.reason = "CANCELED", "reduce_only_would_increase"
        return
    for price, available in asks if request.side == "BUY" else bids:
        if (price > request.limit_price) if request.side == "BUY" else (price < request.limit_price):
            order.reason = "limit_price"
            break
        size = min(available, wanted)
        if not may_fill(clearing, account, request, size, float(price)):
            order.reason = "margin"
            break
        state.take(request.side, size)
        _fill(clearing, account, order, size, float(price), clearing.venue.taker_fee, "TAKER")
        wanted -= size
        if not wanted:
            _end(order)
            return
    if request.time_in_force == "IOC" or order.reason == "margin":
        order.status = "CANCELED"
    else:
        order.reason = ""


def may_fill(clearing: Clearing, account: Subaccount, request: OrderRequest, size: Decimal, price: float) -> bool:
    """True when the exchange's margin rule accepts a fill at a price, fee included."""
    change = signed(request.side, size)
    sizes = {market: holding.size for market, holding in account.holdings.items()}
    held = sizes.get(request.market, Decimal(0))
    sizes[request.market] = held + change
    cost = float(change) * price + float(size) * price * clearing.venue.taker_fee
    before = clearing.margins(account)
    after = clearing.margins(account, sizes=sizes, quote=account.quote - cost)
    reduces = held * change < 0 and abs(change) <= abs(held)
    return clearing.rules.may_fill(before, after, reduces)


def _fill(
    clearing: Clearing, account: Subaccount, order: OrderState, size: Decimal, price: float, fee_ratio: float, liquidity: str
) -> None:
    fee = float(size) * price * fee_ratio
    order.filled += size
    order.paid += float(size) * price
    order.fee_usd += fee
    clearing.trade(
        account, market=order.request.market, side=order.request.side, size=size, price=price, fee=fee, liquidity=liquidity,
        order_id=order.id, against=clearing.ledger.counterparties,
    )  # fmt: skip


def _end(order: OrderState) -> None:
    """Nothing more is wanted: filled, or the position that it was to reduce is smaller than it was."""
    order.status, order.reason = ("FILLED", "") if order.filled == order.size else ("CANCELED", "reduce_only_would_increase")


def match_open(clearing: Clearing, account: Subaccount) -> None:
    """One second of the orders that are open: late ones reach the book, expired ones go, the market comes to the resting ones."""
    for order in account.orders.values():
        if order.status != "OPEN":
            continue
        request = order.request
        if order.is_late:
            if clearing.at < order.matched_from:
                continue
            order.is_late = False
            if clearing.markets[request.market].status != "ACTIVE":
                order.status, order.reason = "CANCELED", "market_status"
            elif order.matched_from > request.good_til:
                order.status, order.reason = "CANCELED", "expired"
            else:
                match(clearing, account, order)
        elif clearing.at > request.good_til:
            order.status, order.reason = "CANCELED", "expired"
        elif clearing.markets[request.market].status == "ACTIVE":
            _meet(clearing, account, order)


def _meet(clearing: Clearing, account: Subaccount, order: OrderState) -> None:
    """Fills a resting order at its limit, with as much as the market offers at that price or a better one."""
    request, state = order.request, clearing.markets[order.request.market]
    wanted = _still_wanted(account, order)
    if not wanted:
        _end(order)
        return
    bids, asks = state.book()
    if request.side == "BUY":
        crossing = [size for price, size in asks if price <= request.limit_price]
    else:
        crossing = [size for price, size in bids if price >= request.limit_price]
    size = min(wanted, sum(crossing, Decimal(0)))
    if not size:
        return
    if not may_fill(clearing, account, request, size, float(request.limit_price)):
        order.status, order.reason = "CANCELED", "margin"
        return
    state.take(request.side, size)
    _fill(clearing, account, order, size, float(request.limit_price), clearing.venue.maker_fee, "MAKER")
    if size == wanted:
        _end(order)
