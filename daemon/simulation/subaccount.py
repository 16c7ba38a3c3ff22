"""Subaccounts of a simulated exchange (floor 5): positions, orders, fills, and the booking of one execution into them.

Sizes are Decimals on the market's step (ours), balances floats (measured). Which price a trade has and who is on its other side is not
known here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

Side = Literal["BUY", "SELL"]
CLIENT_ID_MAX = (1 << 32) - 1
KEPT_MAX = 10_000  # fills, payments and closed positions kept a subaccount


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
    """An accepted order; `status` OPEN FILLED CANCELED; `reason` says why a part was not filled.

    `window_height` is the last block at which its client id still stands for it. `is_late`: it is on its way and meets the book at
    `matched_from` (ns).
    """

    id: str
    request: OrderRequest
    size: Decimal  # what remained of the request after reduce-only cut it to the position
    accepted_at: int
    height: int
    window_height: int
    matched_from: int
    is_late: bool = False
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
    """A cross-margin subaccount. `quote` is its USDC balance: equity = quote + sum of size x the price that margin uses.

    `leverage` is what its owner set for a market; `cut_at` (ns) when its last partial liquidation was (hyperliquid).
    """

    address: str
    number: int
    quote: float
    leverage: Mapping[str, float] = field(default_factory=dict)
    holdings: dict[str, Holding] = field(default_factory=dict)
    closed: deque[Holding] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    orders: dict[int, OrderState] = field(default_factory=dict)  # the latest of each client id
    fills: deque[FillRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    payments: deque[PaymentRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    movements: deque[MovementRecord] = field(default_factory=lambda: deque(maxlen=KEPT_MAX))
    updated_height: int = 0
    cut_at: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Margins:
    """What a subaccount is worth and needs, USD; `initial` as accepted (open-interest-scaled), `initial_published` as shown.

    `notional` is the sum of |size x price|.
    """

    equity: float
    initial: float
    initial_published: float
    maintenance: float
    notional: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """Something the world did to a subaccount, for the log."""

    kind: str
    detail: Mapping[str, str]


def happening(kind: str, account: Subaccount, **detail: str) -> Happening:
    """Something that happened to a subaccount."""
    return Happening(kind=kind, detail={"address": account.address, "subaccount": str(account.number), **detail})


def closing_side(holding: Holding) -> Side:
    """The side of a trade that makes the position smaller."""
    return "SELL" if holding.size > 0 else "BUY"


def signed(side: Side, size: Decimal) -> Decimal:
    """The change of position that a trade of `size` on a side brings."""
    return size if side == "BUY" else -size


def book_position(account: Subaccount, fill: FillRecord) -> None:
    """Changes the position by one execution: closes, flips, opens or adds; the entry price is the average of what opened."""
    change, size, price = signed(fill.side, fill.size), fill.size, fill.price
    holding = account.holdings.get(fill.market)
    if holding is not None and (holding.size > 0) != (change > 0):
        closing = min(size, abs(holding.size))
        _reduce(account, holding, closing, fill)
        size -= closing
        change = signed(fill.side, size)
        holding = None
    if not size:
        return
    if holding is None:
        account.holdings[fill.market] = Holding(
            market=fill.market, size=change, entry_price=price, created_at=fill.at, created_height=fill.height,
            max_size=change, sum_open=size,
        )  # fmt: skip
        return
    total = abs(holding.size) + size
    holding.entry_price = (holding.entry_price * float(abs(holding.size)) + price * float(size)) / float(total)
    holding.size += change
    holding.sum_open += size
    holding.max_size = holding.size if abs(holding.size) > abs(holding.max_size) else holding.max_size


def _reduce(account: Subaccount, holding: Holding, size: Decimal, fill: FillRecord) -> None:
    closed = size if holding.size > 0 else -size
    holding.realized_pnl += float(closed) * (fill.price - holding.entry_price)
    closed_before = float(holding.sum_close)
    holding.sum_close += size
    holding.exit_price = ((holding.exit_price or 0.0) * closed_before + fill.price * float(size)) / float(holding.sum_close)
    holding.size -= closed
    if not holding.size:
        holding.status, holding.closed_at = "LIQUIDATED" if fill.type == "LIQUIDATED" else "CLOSED", fill.at
        account.closed.append(account.holdings.pop(holding.market))
