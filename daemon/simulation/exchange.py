"""The simulated exchange (floor 5), dYdX v4 or Hyperliquid by `venue.model`: what it takes from its clients, what a second does to them.

Orders are `simulation/matching.py`, liquidation `simulation/liquidation.py` and `simulation/backstop.py`, booking `simulation/clearing.py`.
Money is moved by requests and by `advance`; nothing here knows HTTP.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import ROUND_CEILING, Decimal

from daemon.simulation import backstop, liquidation, matching
from daemon.simulation.bridges import Refusal
from daemon.simulation.clearing import Clearing
from daemon.simulation.markets import MarketState, Settlement
from daemon.simulation.scenario import SubaccountSpec, VenueSpec
from daemon.simulation.subaccount import Happening, OrderRequest, OrderState, Subaccount, closing_side, happening
from daemon.simulation.withdrawals import Capacity

__all__ = ["Exchange", "Happening", "OrderRequest", "OrderState", "Subaccount"]


class Exchange(Clearing):
    """All subaccounts of one venue, as its clients meet them."""

    def __init__(
        self,
        *,
        venue: VenueSpec,
        markets: Mapping[str, MarketState],
        accounts: Sequence[SubaccountSpec],
        at: int,
        height: int,
        seed: int = 1,
    ) -> None:
        super().__init__(venue=venue, markets=markets, accounts=accounts, seed=seed, at=at, height=height)
        self.capacity = Capacity(hourly_minimum=venue.withdrawal_capacity, locked_usd=venue.tvl)

    # -- orders ------------------------------------------------------------------------------------------------------------------

    def find(self, address: str, number: int, client_id: int) -> OrderState | None:
        """The latest accepted order with a client id."""
        account = self.subaccounts.get((address, number))
        return account.orders.get(client_id) if account else None

    def place(self, request: OrderRequest) -> tuple[OrderState, bool] | Refusal:
        """Accepts and matches an order: `(order, is it a duplicate)`, or why it was refused and did nothing."""
        account = self.subaccounts.get((request.address, request.subaccount))
        if account is None:
            return _unknown(request.address, request.subaccount)
        if self.at > request.good_til:
            return Refusal(reason="expired", message="the order's good_til has passed")
        before = account.orders.get(request.client_id)
        if before is not None and before.window_height >= self.height and before.request.good_til >= self.at:
            if _same_terms(before.request, request):
                return before, True
            message = "an order with this client id and other terms is inside its good-til window"
            return Refusal(reason="client_id_reused", code=20, message=message)
        refusal = matching.refusal_of(self, account, request)
        if refusal:
            return refusal
        size = request.size
        if request.reduce_only:
            size = min(size, abs(account.holdings[request.market].size))
        order = self.accept(request, size, self.venue.matching_delay)
        account.orders[request.client_id] = order
        if not order.is_late:
            matching.match(self, account, order)
        return order, False

    def cancel(self, address: str, number: int, market: str | None, client_id: int | None) -> list[OrderState] | Refusal:
        """Cancels the open orders that match and returns them."""
        account = self.subaccounts.get((address, number))
        if account is None:
            return _unknown(address, number)
        canceled = []
        for order in account.orders.values():
            if order.status == "OPEN" and market in (None, order.request.market) and client_id in (None, order.request.client_id):
                order.status, order.reason = "CANCELED", "canceled"
                canceled.append(order)
        return canceled

    # -- collateral --------------------------------------------------------------------------------------------------------------

    def withdrawals_open(self) -> bool:
        """False for 50 blocks after a subaccount fell below zero or the chain stood for five minutes (dYdX)."""
        return self.height >= self.gate_until_height

    def withdrawal_capacity(self) -> float:
        """USD that one withdrawal may take now: of the hourly and daily limiters the smaller one; Hyperliquid has a fixed one."""
        return self.capacity.left if self.venue.model == "dydx-v4" else self.venue.withdrawal_capacity

    def withdraw(self, address: str, number: int, amount: Decimal) -> Refusal | None:
        """Takes collateral out, or says why not: the model's withdrawal rule must hold afterwards."""
        account = self.subaccounts.get((address, number))
        if account is None:
            return _unknown(address, number)
        if not self.withdrawals_open():
            return Refusal(reason="withdrawals_gated", message="withdrawals are blocked")
        if float(amount) > self.withdrawal_capacity():
            return Refusal(reason="capacity", message="the amount exceeds the withdrawal capacity")
        if float(amount) > self.rules.withdrawable(self.margins(account)):
            return Refusal(reason="margin", message="the withdrawal would leave less than initial margin")
        if self.venue.model == "dydx-v4":
            self.capacity.take(float(amount))
        super().move(account, -amount, "outside")
        return None

    def move(self, account: Subaccount, amount: Decimal, party: str) -> None:
        """Books collateral that came in (> 0); it gives withdrawal capacity back."""
        super().move(account, amount, party)
        self.capacity.give(float(amount))

    # -- time --------------------------------------------------------------------------------------------------------------------

    def advance(self, at: int, height: int, settlements: Mapping[str, Settlement], *, halted: bool) -> list[Happening]:
        """One second: funding, open orders, liquidations, final settlement. Returns what happened to subaccounts."""
        self.at, self.height = at, height
        happened: list[Happening] = []
        for account in self.subaccounts.values():
            for market, settlement in settlements.items():
                happened += self.pay_funding(account, market, settlement)
        if halted:
            return happened
        self.capacity.second()
        for account in self.subaccounts.values():
            matching.match_open(self, account)
            if account.holdings:
                liquidate = liquidation.liquidate if self.venue.model == "dydx-v4" else backstop.liquidate
                happened += liquidate(self, account)
        if any(state.status == "FINAL_SETTLEMENT" for state in self.markets.values()):
            for account in self.subaccounts.values():
                happened += liquidation.settle_finally(self, account)
        return happened

    def close_externally(self, market: str, share: float, cause: str) -> list[Happening]:
        """Somebody else reduces every position in a market by a share of its size: at the book, or (adl) at the price margin uses."""
        happened = []
        state = self.markets[market]
        for account in self.subaccounts.values():
            holding = account.holdings.get(market)
            if holding is None:
                continue
            steps = (abs(holding.size) * Decimal(repr(share)) / state.spec.step).to_integral_value(ROUND_CEILING)
            closing = min(abs(holding.size), steps * state.spec.step)
            bids, asks = state.book()
            levels = bids if closing_side(holding) == "SELL" else asks
            price = float(levels[0][0]) if levels and cause == "manual" else self.price(market)
            kind = "LIMIT" if cause == "manual" else "DELEVERAGED"
            self.close_at(account, market, closing, price, kind, self.ledger.counterparties)
            happened.append(happening("external_close", account, market=market, size=str(closing), price=repr(price), cause=cause))
        return happened


def _unknown(address: str, number: int) -> Refusal:
    return Refusal(reason="unknown_subaccount", message=f"No subaccount found with address {address} and subaccountNumber {number}")


def _same_terms(one: OrderRequest, other: OrderRequest) -> bool:
    """True when a repeated request asks for the same thing; a later good_til alone does not make it another one."""
    return (one.market, one.side, one.size, one.limit_price, one.reduce_only, one.time_in_force) == (
        other.market, other.side, other.size, other.limit_price, other.reduce_only, other.time_in_force,
    )  # fmt: skip
