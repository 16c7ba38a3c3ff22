"""The simulated dYdX v4 exchange (floor 5): cross-margin subaccounts, orders, fills against the book, funding, liquidation.

Every decision about margin is `daemon.world.margin`'s. Money is moved by requests and by `advance`; nothing here knows HTTP.
Sizes are Decimals on the market's step (ours), balances floats (measured).
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from daemon.simulation.bridges import Refusal
from daemon.simulation.markets import MarketState, Settlement
from daemon.simulation.scenario import SubaccountSpec, VenueSpec
from daemon.world import margin

Side = Literal["BUY", "SELL"]
CLIENT_ID_MAX = (1 << 32) - 1
KEPT_MAX = 10_000  # fills, payments and closed positions kept a subaccount
LIQUIDATION_SHARE = Decimal("0.1")  # of the position, a block
LIQUIDATION_USD_MIN, LIQUIDATION_USD_MAX = 1000.0, 100_000.0  # a block
GATE_BLOCKS = 50  # withdrawals are shut this long after a negative subaccount or a long halt


@dataclass(slots=True, kw_only=True)
class Holding:
    """An open or a closed position; `size` signed."""

    market: str
    size: Decimal
    entry_price: float
    created_at: int
    created_height: int
    status: str = "OPEN"
    max_size: Decimal = Decimal(0)
    sum_open: Decimal = Decimal(0)
    sum_close: Decimal = Decimal(0)
    exit_price: float | None = None
    realized_pnl: float = 0.0
    net_funding: float = 0.0
    closed_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """What a client asks for; `good_til` is the last moment (ns) at which it may be accepted."""

    address: str
    subaccount: int
    client_id: int
    market: str
    side: Side
    size: Decimal
    limit_price: Decimal
    reduce_only: bool
    time_in_force: Literal["IOC", "GTT"]
    good_til: int


@dataclass(slots=True, kw_only=True)
class OrderState:
    """An accepted order; `status` OPEN FILLED CANCELED; `reason` says why a part was not filled."""

    id: str
    request: OrderRequest
    size: Decimal  # what remained of the request after reduce-only cut it to the position
    accepted_at: int
    height: int
    status: str = "OPEN"
    filled: Decimal = Decimal(0)
    paid: float = 0.0  # sum of price x size
    fee_usd: float = 0.0
    reason: str = ""

    @property
    def average_price(self) -> float | None:
        """USD, None when nothing was filled."""
        return self.paid / float(self.filled) if self.filled else None


@dataclass(frozen=True, slots=True, kw_only=True)
class FillRecord:
    """One execution of a subaccount."""

    id: str
    market: str
    side: Side
    size: Decimal
    price: float
    fee: float
    liquidity: str
    type: str
    at: int
    height: int
    order_id: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class PaymentRecord:
    """Funding received (> 0) or paid by a position at a settlement."""

    market: str
    at: int
    height: int
    price: float
    size: float
    rate: float
    payment: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MovementRecord:
    """Collateral that came in (> 0) or went out, over a route or between subaccounts."""

    id: str
    at: int
    height: int
    amount: float
    party: str


@dataclass(slots=True, kw_only=True)
class Subaccount:
    """A cross-margin subaccount. `quote` is the chain's USDC balance: equity = quote + sum of size x oracle price."""

    address: str
    number: int
    quote: float
    holdings: dict[str, Holding] = field(default_factory=dict)
    closed: deque[Holding] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    orders: dict[int, OrderState] = field(default_factory=dict)  # the latest of each client id
    fills: deque[FillRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    payments: deque[PaymentRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    movements: deque[MovementRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    updated_height: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """What a subaccount is worth and needs, USD; `initial` as accepted (open-interest-scaled), `initial_published` as shown."""

    equity: float
    initial: float
    initial_published: float
    maintenance: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something the world did to a subaccount, for the log."""

    kind: str
    detail: Mapping[str, str]


class Exchange:
    """All subaccounts of one venue."""

    def __init__(
        self, *, venue: VenueSpec, markets: Mapping[str, MarketState], accounts: tuple[SubaccountSpec, ...], at: int, height: int
    ) -> None:
        self.venue = venue
        self.markets = markets
        self.at = at
        self.height = height
        self.insurance_fund = venue.insurance_fund
        self.liquidations = 0
        self.gate_until_height = 0
        self.subaccounts: dict[tuple[str, int], Subaccount] = {}
        self._count = 0
        for spec in accounts:
            self._open(spec)

    def _open(self, spec: SubaccountSpec) -> None:
        account = Subaccount(address=spec.address, number=spec.subaccount, quote=spec.collateral, updated_height=self.height)
        self.subaccounts[(spec.address, spec.subaccount)] = account
        for position in spec.positions:
            if not position.size:
                continue
            entry = position.entry_price or self.markets[position.market].spec.price
            account.quote -= float(position.size) * entry
            account.holdings[position.market] = Holding(
                market=position.market, size=position.size, entry_price=entry, created_at=self.at, created_height=self.height,
                max_size=position.size, sum_open=abs(position.size),
            )  # fmt: skip
        for i, resting in enumerate(spec.orders):
            request = OrderRequest(
                address=spec.address, subaccount=spec.subaccount, client_id=resting.client_id or i + 1, market=resting.market,
                side=resting.side, size=resting.size, limit_price=resting.price, reduce_only=False, time_in_force="GTT", good_til=1 << 62,
            )  # fmt: skip
            account.orders[request.client_id] = self._accept(request, request.size)

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def margins(self, account: Subaccount, *, sizes: Mapping[str, Decimal] | None = None, quote: float | None = None) -> Margins:
        """Equity and requirements of a subaccount, as it is or as it would be with other sizes and another quote balance."""
        held = {market: holding.size for market, holding in account.holdings.items()} if sizes is None else sizes
        states = [self.markets[market] for market in held]
        amounts = [float(size) for size in held.values()]
        prices = [state.oracle for state in states]
        return Margins(
            equity=margin.equity(account.quote if quote is None else quote, amounts, prices),
            initial=margin.requirement_sum(amounts, prices, [state.scaled_initial_margin() for state in states]),
            initial_published=margin.requirement_sum(amounts, prices, [state.initial_margin for state in states]),
            maintenance=margin.requirement_sum(amounts, prices, [state.maintenance_margin for state in states]),
        )

    def withdrawals_open(self) -> bool:
        """False for 50 blocks after a subaccount fell below zero or the chain stood for five minutes."""
        return self.height >= self.gate_until_height

    # -- orders ------------------------------------------------------------------------------------------------------------------

    def find(self, address: str, number: int, client_id: int) -> OrderState | None:
        """The latest accepted order with a client id."""
        account = self.subaccounts.get((address, number))
        return account.orders.get(client_id) if account else None

    def place(self, request: OrderRequest) -> tuple[OrderState, bool] | Refusal:
        """Accepts and matches an order: `(order, is it a duplicate)`, or why it was refused and did nothing."""
        account = self.subaccounts.get((request.address, request.subaccount))
        if account is None:
            message = f"No subaccount found with address {request.address} and subaccountNumber {request.subaccount}"
            return Refusal(reason="unknown_subaccount", message=message)
        if self.at > request.good_til:
            return Refusal(reason="expired", message="the order's good_til has passed")
        before = account.orders.get(request.client_id)
        if before is not None and before.request.good_til >= self.at:
            if _same_terms(before.request, request):
                return before, True
            message = "an order with this client id and other terms is inside its good-til window"
            return Refusal(reason="client_id_reused", code=20, message=message)
        refusal = self._refusal(account, request)
        if refusal:
            return refusal
        size = request.size
        if request.reduce_only:
            size = min(size, abs(account.holdings[request.market].size))
        order = self._accept(request, size)
        account.orders[request.client_id] = order
        self._match(account, order)
        return order, False

    def _accept(self, request: OrderRequest, size: Decimal) -> OrderState:
        self._count += 1
        digest = hashlib.sha256(f"{request.address}/{request.subaccount}/{request.client_id}/{self._count}".encode()).hexdigest()
        uuid = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
        return OrderState(id=uuid, request=request, size=size, accepted_at=self.at, height=self.height)

    def _refusal(self, account: Subaccount, request: OrderRequest) -> Refusal | None:
        state = self.markets.get(request.market)
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
        if not request.reduce_only:
            return None
        if request.time_in_force != "IOC":
            return Refusal(reason="reduce_only_not_ioc", code=9003, message="reduce-only orders must be IOC")
        holding = account.holdings.get(request.market)
        if holding is None or (holding.size > 0) == (request.side == "BUY"):
            return Refusal(reason="reduce_only_would_increase", message="a reduce-only order cannot open, increase or flip a position")
        return None

    def _match(self, account: Subaccount, order: OrderState) -> None:
        """Fills an order against the book of this second, level by level, as far as limit price and margin allow."""
        request, state = order.request, self.markets[order.request.market]
        bids, asks = state.book()
        order.reason = "no_liquidity"
        for price, available in asks if request.side == "BUY" else bids:
            if (price > request.limit_price) if request.side == "BUY" else (price < request.limit_price):
                order.reason = "limit_price"
                break
            size = min(available, order.size - order.filled)
            if not self._may_fill(account, request, size, float(price)):
                order.reason = "margin"
                break
            state.take(price, size)
            self._fill(account, order, size, float(price), self.venue.taker_fee, "TAKER")
            if order.filled == order.size:
                order.status, order.reason = "FILLED", ""
                return
        if request.time_in_force == "IOC" or order.reason == "margin":
            order.status = "CANCELED"
        else:
            order.reason = ""

    def _may_fill(self, account: Subaccount, request: OrderRequest, size: Decimal, price: float) -> bool:
        signed = size if request.side == "BUY" else -size
        sizes = {market: holding.size for market, holding in account.holdings.items()}
        sizes[request.market] = sizes.get(request.market, Decimal(0)) + signed
        cost = float(signed) * price + float(size) * price * self.venue.taker_fee
        before = self.margins(account)
        after = self.margins(account, sizes=sizes, quote=account.quote - cost)
        return margin.is_allowed(before.equity, before.maintenance, after.equity, after.initial, after.maintenance)

    def _fill(self, account: Subaccount, order: OrderState, size: Decimal, price: float, fee_ratio: float, liquidity: str) -> None:
        fee = float(size) * price * fee_ratio
        order.filled += size
        order.paid += float(size) * price
        order.fee_usd += fee
        self._trade(account, order.request.market, order.request.side, size, price, fee, liquidity, "LIMIT", order.id)

    def _trade(
        self,
        account: Subaccount,
        market: str,
        side: Side,
        size: Decimal,
        price: float,
        fee: float,
        liquidity: str,
        kind: str,
        order_id: str | None,
    ) -> None:
        """Books one execution: balance, position, fill."""
        signed = size if side == "BUY" else -size
        account.quote -= float(signed) * price + fee
        account.updated_height = self.height
        self._count += 1
        fill = FillRecord(
            id=hashlib.sha256(f"fill/{self._count}".encode()).hexdigest()[:32], market=market, side=side, size=size, price=price, fee=fee,
            liquidity=liquidity, type=kind, at=self.at, height=self.height, order_id=order_id,
        )  # fmt: skip
        account.fills.append(fill)
        holding = account.holdings.get(market)
        if holding is not None and (holding.size > 0) != (signed > 0):
            closing = min(size, abs(holding.size))
            self._reduce(account, holding, closing, price, "LIQUIDATED" if kind == "LIQUIDATED" else "CLOSED")
            size -= closing
            signed = size if side == "BUY" else -size
            holding = None
        if not size:
            return
        if holding is None:
            account.holdings[market] = Holding(
                market=market, size=signed, entry_price=price, created_at=self.at, created_height=self.height,
                max_size=signed, sum_open=size,
            )  # fmt: skip
            return
        total = abs(holding.size) + size
        holding.entry_price = (holding.entry_price * float(abs(holding.size)) + price * float(size)) / float(total)
        holding.size += signed
        holding.sum_open += size
        holding.max_size = holding.size if abs(holding.size) > abs(holding.max_size) else holding.max_size

    def _reduce(self, account: Subaccount, holding: Holding, size: Decimal, price: float, ended: str) -> None:
        signed = size if holding.size > 0 else -size
        holding.realized_pnl += float(signed) * (price - holding.entry_price)
        closed_before = float(holding.sum_close)
        holding.sum_close += size
        holding.exit_price = ((holding.exit_price or 0.0) * closed_before + price * float(size)) / float(holding.sum_close)
        holding.size -= signed
        if not holding.size:
            holding.status, holding.closed_at = ended, self.at
            account.closed.append(account.holdings.pop(holding.market))

    def cancel(self, address: str, number: int, market: str | None, client_id: int | None) -> list[OrderState] | Refusal:
        """Cancels the open orders that match and returns them."""
        account = self.subaccounts.get((address, number))
        if account is None:
            return Refusal(reason="unknown_subaccount", message=f"No subaccount found with address {address} and subaccountNumber {number}")
        canceled = []
        for order in account.orders.values():
            if order.status == "OPEN" and market in (None, order.request.market) and client_id in (None, order.request.client_id):
                order.status, order.reason = "CANCELED", "canceled"
                canceled.append(order)
        return canceled

    # -- collateral --------------------------------------------------------------------------------------------------------------

    def withdraw(self, address: str, number: int, amount: Decimal) -> Refusal | None:
        """Takes collateral out, or says why not: initial margin (open-interest-scaled) must stay covered."""
        account = self.subaccounts.get((address, number))
        if account is None:
            return Refusal(reason="unknown_subaccount", message=f"No subaccount found with address {address} and subaccountNumber {number}")
        if not self.withdrawals_open():
            return Refusal(reason="withdrawals_gated", message="withdrawals are blocked")
        if float(amount) > self.venue.withdrawal_capacity:
            return Refusal(reason="capacity", message="the amount exceeds the withdrawal capacity")
        after = self.margins(account, quote=account.quote - float(amount))
        if after.equity < after.initial or after.equity < 0:
            return Refusal(reason="margin", message="the withdrawal would leave less than initial margin")
        self.move(account, -amount, "outside")
        return None

    def move(self, account: Subaccount, amount: Decimal, party: str) -> None:
        """Books collateral in (> 0) or out."""
        account.quote += float(amount)
        account.updated_height = self.height
        self._count += 1
        movement_id = hashlib.sha256(f"movement/{self._count}".encode()).hexdigest()[:32]
        account.movements.append(MovementRecord(id=movement_id, at=self.at, height=self.height, amount=float(amount), party=party))

    # -- time --------------------------------------------------------------------------------------------------------------------

    def advance(self, at: int, height: int, settlements: Mapping[str, Settlement], *, halted: bool) -> list[Happening]:
        """One second: funding, resting orders, liquidations. Returns what happened to subaccounts."""
        self.at, self.height = at, height
        happened: list[Happening] = []
        for account in self.subaccounts.values():
            for market, settlement in settlements.items():
                self._pay_funding(account, market, settlement, happened)
            if halted:
                continue
            self._match_resting(account)
            self._liquidate(account, happened)
        return happened

    def _pay_funding(self, account: Subaccount, market: str, settlement: Settlement, happened: list[Happening]) -> None:
        holding = account.holdings.get(market)
        if holding is None:
            return
        size = float(holding.size)
        payment = margin.funding_payment(size, settlement.price, settlement.rate)
        account.quote += payment
        holding.net_funding += payment
        record = PaymentRecord(
            market=market, at=settlement.at, height=settlement.height, price=settlement.price, size=size,
            rate=settlement.rate, payment=payment,
        )  # fmt: skip
        account.payments.append(record)
        happened.append(_happening("funding", account, market=market, rate=repr(settlement.rate), payment=repr(payment)))

    def _match_resting(self, account: Subaccount) -> None:
        for order in account.orders.values():
            if order.status != "OPEN":
                continue
            request = order.request
            if self.at > request.good_til:
                order.status, order.reason = "CANCELED", "expired"
                continue
            bids, asks = self.markets[request.market].book()
            buying = request.side == "BUY"
            best = asks[0][0] if buying and asks else bids[0][0] if not buying and bids else None
            if best is None or (best > request.limit_price if buying else best < request.limit_price):
                continue
            left = order.size - order.filled
            if not self._may_fill(account, request, left, float(request.limit_price)):
                order.status, order.reason = "CANCELED", "margin"
                continue
            self._fill(account, order, left, float(request.limit_price), self.venue.maker_fee, "MAKER")
            order.status = "FILLED"

    def _liquidate(self, account: Subaccount, happened: list[Happening]) -> None:
        """One block's liquidation: a slice of the largest position, at the book, not beyond the fillable price; below 0 deleveraging."""
        if not account.holdings:
            return
        now = self.margins(account)
        if not margin.is_liquidatable(now.equity, now.maintenance):
            return
        for order in account.orders.values():
            if order.status == "OPEN":
                order.status, order.reason = "CANCELED", "liquidation"
        holding = max(account.holdings.values(), key=lambda held: abs(float(held.size)) * self.markets[held.market].oracle)
        state = self.markets[holding.market]
        size, price = float(holding.size), state.oracle
        side: Side = "SELL" if size > 0 else "BUY"
        bankrupt = margin.bankruptcy_price(size, price, state.maintenance_margin, now.equity, now.maintenance)
        if now.equity < 0:
            self.gate_until_height = self.height + GATE_BLOCKS
            closing = abs(holding.size)
            self._trade(account, holding.market, side, closing, bankrupt, 0.0, "TAKER", "DELEVERAGED", None)
            happened.append(_happening("deleveraged", account, market=holding.market, size=str(closing), price=repr(bankrupt)))
            return
        bids, asks = state.book()
        levels = bids if side == "SELL" else asks
        worst = margin.fillable_price(size, price, state.maintenance_margin, now.equity, now.maintenance)
        if not levels or (float(levels[0][0]) < worst if side == "SELL" else float(levels[0][0]) > worst):
            return  # nobody pays enough this block
        fill_price = float(levels[0][0])
        slice_usd = min(max(LIQUIDATION_USD_MIN, abs(size) * price * float(LIQUIDATION_SHARE)), LIQUIDATION_USD_MAX)
        step = state.spec.step
        closing = max(step, Decimal(repr(slice_usd / price)) // step * step)
        closing = min(closing, abs(holding.size), levels[0][1])
        fee = margin.liquidation_fee(float(closing) * (1.0 if size > 0 else -1.0), fill_price, bankrupt)
        self.insurance_fund += fee
        self.liquidations += 1
        state.take(levels[0][0], closing)
        self._trade(account, holding.market, side, closing, fill_price, fee, "TAKER", "LIQUIDATED", None)
        happened.append(_happening("liquidated", account, market=holding.market, size=str(closing), price=repr(fill_price), fee=repr(fee)))

    def close_externally(self, market: str, share: float, cause: str) -> list[Happening]:
        """Somebody else reduces every position in a market by a share of its size: at the book, or (adl) at the oracle price."""
        happened = []
        state = self.markets[market]
        for account in self.subaccounts.values():
            holding = account.holdings.get(market)
            if holding is None:
                continue
            step = state.spec.step
            closing = min(abs(holding.size), -(-abs(holding.size) * Decimal(repr(share)) // step) * step)
            side: Side = "SELL" if holding.size > 0 else "BUY"
            bids, asks = state.book()
            levels = bids if side == "SELL" else asks
            price = float(levels[0][0]) if levels and cause == "manual" else state.oracle
            self._trade(account, market, side, closing, price, 0.0, "TAKER", "LIMIT" if cause == "manual" else "DELEVERAGED", None)
            happened.append(_happening("external_close", account, market=market, size=str(closing), price=repr(price), cause=cause))
        return happened


def _same_terms(one: OrderRequest, other: OrderRequest) -> bool:
    """True when a repeated request asks for the same thing; a later good_til alone does not make it another one."""
    return (one.market, one.side, one.size, one.limit_price, one.reduce_only, one.time_in_force) == (
        other.market, other.side, other.size, other.limit_price, other.reduce_only, other.time_in_force,
    )  # fmt: skip


def _happening(kind: str, account: Subaccount, **detail: str) -> Happening:
    return Happening(kind=kind, detail={"address": account.address, "subaccount": str(account.number), **detail})
