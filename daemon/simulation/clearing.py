"""The clearing house of a simulated exchange (floor 5): subaccounts, everybody else's money, and every movement between them.

Matching and liquidation decide; here the deed is booked, on both sides, so that money and positions are conserved (`simulation/ledger.py`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from decimal import Decimal

from daemon.simulation import paths
from daemon.simulation.ledger import CROSS, Ledger, Pool
from daemon.simulation.markets import MarketState, Settlement
from daemon.simulation.rules import rules_of
from daemon.simulation.scenario import SubaccountSpec, VenueSpec
from daemon.simulation.subaccount import (
    FillRecord,
    Happening,
    Holding,
    Margins,
    MovementRecord,
    OrderRequest,
    OrderState,
    PaymentRecord,
    Side,
    Subaccount,
    book_position,
    closing_side,
    happening,
    signed,
)
from daemon.units import NS
from daemon.world import margin

FOREVER_NS = 1 << 62


class Clearing:
    """All subaccounts of one venue and what stands against them; `at` (ns) and `height` are the venue's now."""

    def __init__(
        self,
        *,
        venue: VenueSpec,
        markets: Mapping[str, MarketState],
        accounts: Sequence[SubaccountSpec],
        seed: int,
        at: int,
        height: int,
    ) -> None:
        self.venue = venue
        self.markets = markets
        self.rules = rules_of(venue.model)
        self.seed = seed
        self.at = at
        self.height = height
        self.liquidations = 0
        self.gate_until_height = 0
        isolated = {symbol: state.spec.insurance_fund for symbol, state in markets.items() if state.spec.isolated}
        self.ledger = Ledger(insurance={CROSS: venue.insurance_fund} | isolated)
        self.subaccounts: dict[tuple[str, int], Subaccount] = {}
        self._count = 0
        for spec in accounts:
            self._open(spec)

    def _open(self, spec: SubaccountSpec) -> None:
        account = Subaccount(
            address=spec.address, number=spec.subaccount, quote=spec.collateral, leverage=spec.leverage, updated_height=self.height,
        )  # fmt: skip
        self.subaccounts[(spec.address, spec.subaccount)] = account
        for position in spec.positions:
            if not position.size:
                continue
            entry = position.entry_price or self.markets[position.market].spec.price
            account.quote -= float(position.size) * entry
            self.ledger.counterparties.trade(position.market, -position.size, entry)
            account.holdings[position.market] = Holding(
                market=position.market, size=position.size, entry_price=entry, created_at=self.at, created_height=self.height,
                max_size=position.size, sum_open=abs(position.size),
            )  # fmt: skip
        for i, resting in enumerate(spec.orders):
            request = OrderRequest(
                address=spec.address, subaccount=spec.subaccount, client_id=resting.client_id or i + 1, market=resting.market,
                side=resting.side, size=resting.size, limit_price=resting.price, reduce_only=False, time_in_force="GTT",
                good_til=FOREVER_NS,
            )  # fmt: skip
            account.orders[request.client_id] = self.accept(request, request.size, 0)

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def margins(self, account: Subaccount, *, sizes: Mapping[str, Decimal] | None = None, quote: float | None = None) -> Margins:
        """Equity and requirements of a subaccount, as it is or as it would be with other sizes and another quote balance."""
        held = {market: holding.size for market, holding in account.holdings.items()} if sizes is None else sizes
        return self.rules.margins(account.quote if quote is None else quote, held, self.markets, account.leverage)

    def price(self, market: str) -> float:
        """The price that margin uses, USD: oracle or mark."""
        return self.rules.price(self.markets[market])

    @property
    def insurance_fund(self) -> float:
        """All insurance funds together, USD."""
        return self.ledger.insurance_total

    def fund_of(self, market: str) -> str:
        """The key of the insurance fund that stands behind a market: its own where it is isolated."""
        return market if market in self.ledger.insurance else CROSS

    def opposite(self, account: Subaccount, market: str) -> list[Subaccount]:
        """The other subaccounts that hold the opposite of its position, in the pseudo-random order of this block."""
        holding = account.holdings[market]
        found = [
            other
            for other in self.subaccounts.values()
            if other is not account and market in other.holdings and (other.holdings[market].size > 0) != (holding.size > 0)
        ]
        block = f"deleverage.{self.height}.{market}"
        return sorted(found, key=lambda other: paths.uniform(self.seed, f"{block}.{other.address}/{other.number}"))

    # -- booking -----------------------------------------------------------------------------------------------------------------

    def accept(self, request: OrderRequest, size: Decimal, latency_ns: int) -> OrderState:
        """An order that was taken, with an id of its own."""
        self._count += 1
        digest = hashlib.sha256(f"{request.address}/{request.subaccount}/{request.client_id}/{self._count}".encode()).hexdigest()
        uuid = f"{digest[:8]}-{digest[8:12]}-{digest[12:16]}-{digest[16:20]}-{digest[20:32]}"
        blocks = min(-(-(request.good_til - self.at) // NS), FOREVER_NS // NS)
        window = self.rules.window_blocks(request)
        return OrderState(
            id=uuid, request=request, size=size, accepted_at=self.at, height=self.height,
            window_height=self.height + (blocks if window is None else min(blocks, window)), matched_from=self.at + latency_ns,
            is_late=latency_ns > 0,
        )  # fmt: skip

    def trade(
        self,
        account: Subaccount,
        *,
        market: str,
        side: Side,
        size: Decimal,
        price: float,
        fee: float = 0.0,
        kind: str = "LIMIT",
        liquidity: str = "TAKER",
        order_id: str | None = None,
        against: Pool | None = None,
    ) -> None:
        """Books one execution of a subaccount and its other side: `against` a pool; None where another subaccount's trade is booked too.

        `fee` (negative: paid out to the account) goes to the insurance fund of a liquidation, else to the exchange.
        """
        assert size > 0, "a trade has a size"
        change = signed(side, size)
        account.quote -= float(change) * price + fee
        account.updated_height = self.height
        if against is not None:
            against.trade(market, -change, price)
        if kind == "LIQUIDATED":
            self.ledger.insurance[self.fund_of(market)] += fee
        else:
            self.ledger.fees += fee
        self._count += 1
        fill = FillRecord(
            id=hashlib.sha256(f"fill/{self._count}".encode()).hexdigest()[:32], market=market, side=side, size=size, price=price, fee=fee,
            liquidity=liquidity, type=kind, at=self.at, height=self.height, order_id=order_id,
        )  # fmt: skip
        account.fills.append(fill)
        book_position(account, fill)

    def close_at(self, account: Subaccount, market: str, size: Decimal, price: float, kind: str, against: Pool) -> None:
        """Closes a part of a position at a price, without fee, against a pool."""
        side = closing_side(account.holdings[market])
        self.trade(account, market=market, side=side, size=size, price=price, kind=kind, against=against)

    def deleverage(
        self, account: Subaccount, market: str, price: float, queue: Sequence[Subaccount], size: Decimal | None = None
    ) -> list[Happening]:
        """Closes a position (or `size` of it) at a price against those of `queue`, in its order, and the rest against the counterparties.

        A holder whose position is taken did nothing: the log tells it as `auto_deleveraged`.
        """
        happened: list[Happening] = []
        side, total = closing_side(account.holdings[market]), abs(account.holdings[market].size) if size is None else size
        left = total
        other_side: Side = "BUY" if side == "SELL" else "SELL"
        for other in queue:
            part = min(left, abs(other.holdings[market].size))
            self.trade(other, market=market, side=other_side, size=part, price=price, kind="OFFSETTING")
            self.trade(account, market=market, side=side, size=part, price=price, kind="DELEVERAGED")
            happened.append(happening("auto_deleveraged", other, market=market, size=str(part), price=repr(price)))
            left -= part
            if not left:
                break
        if left:
            pool = self.ledger.counterparties
            self.trade(account, market=market, side=side, size=left, price=price, kind="DELEVERAGED", against=pool)
        return [happening("deleveraged", account, market=market, size=str(total), price=repr(price)), *happened]

    def move(self, account: Subaccount, amount: Decimal, party: str) -> None:
        """Books collateral in (> 0) or out; the other side is a route's."""
        account.quote += float(amount)
        account.updated_height = self.height
        self._count += 1
        movement_id = hashlib.sha256(f"movement/{self._count}".encode()).hexdigest()[:32]
        account.movements.append(MovementRecord(id=movement_id, at=self.at, height=self.height, amount=float(amount), party=party))

    def pay_funding(self, account: Subaccount, market: str, settlement: Settlement) -> list[Happening]:
        """Pays an hour's funding of a position; the counterparties pay or receive it."""
        holding = account.holdings.get(market)
        if holding is None:
            return []
        size = float(holding.size)
        payment = margin.funding_payment(size, settlement.price, settlement.rate)
        account.quote += payment
        self.ledger.counterparties.quote -= payment
        holding.net_funding += payment
        record = PaymentRecord(
            market=market, at=settlement.at, height=settlement.height, price=settlement.price, size=size,
            rate=settlement.rate, payment=payment,
        )  # fmt: skip
        account.payments.append(record)
        return [happening("funding", account, market=market, rate=repr(settlement.rate), payment=repr(payment))]

    def cancel_open(self, account: Subaccount, reason: str, market: str | None = None) -> None:
        """Takes the account's resting orders, or those of one market, out of the book."""
        for order in account.orders.values():
            if order.status == "OPEN" and market in (None, order.request.market):
                order.status, order.reason = "CANCELED", reason
