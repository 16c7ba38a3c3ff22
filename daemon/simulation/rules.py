"""What the two exchange models decide differently about margin (floor 5): `rules_of("hyperliquid")`.

The formulas are `daemon.world.margin` and `daemon.world.hyperliquid`; here stand the prices and parameters that they are given.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Protocol

from daemon.simulation.markets import MarketState
from daemon.simulation.scenario import Model
from daemon.simulation.subaccount import Margins, OrderRequest
from daemon.world import hyperliquid, margin

States = Mapping[str, MarketState]
SHORT_BLOCKS = 20  # how many blocks ahead a short-term order of dYdX may be good for


class Rules(Protocol):
    """An exchange model's answers."""

    def price(self, state: MarketState) -> float:
        """The price that margin uses, USD."""
        ...

    def margins(
        self, quote: float, sizes: Mapping[str, Decimal], markets: States, leverage: Mapping[str, float]
    ) -> Margins:
        """Equity and requirements of a quote balance and signed sizes."""
        ...

    def may_fill(self, before: Margins, after: Margins, reduces: bool) -> bool:
        """Whether a fill that leads from one to the other is accepted; `reduces`: it makes the position smaller without a flip."""
        ...

    def withdrawable(self, now: Margins) -> float:
        """USD >= 0 that may leave."""
        ...

    def window_blocks(self, request: OrderRequest) -> int | None:
        """How many blocks a client id stands for its order at most; None without a limit; -1 when it never does."""
        ...


class DydxRules:
    """dYdX v4: oracle prices, requirements rounded up, initial margin scaled by open interest, the risk-reducing rule."""

    def price(self, state: MarketState) -> float:
        """The oracle price."""
        return state.oracle

    def margins(
        self, quote: float, sizes: Mapping[str, Decimal], markets: States, leverage: Mapping[str, float]
    ) -> Margins:
        """Equity and requirements; the owner's own leverage raises what is accepted, not what is published."""
        states = [markets[market] for market in sizes]
        amounts = [float(size) for size in sizes.values()]
        prices = [state.oracle for state in states]
        scaled = [
            max(state.scaled_initial_margin(), 1.0 / leverage[state.symbol]) if state.symbol in leverage else state.scaled_initial_margin()
            for state in states
        ]
        return Margins(
            equity=margin.equity(quote, amounts, prices),
            initial=margin.requirement_sum_rounded(amounts, prices, scaled),
            initial_published=margin.requirement_sum_rounded(amounts, prices, [state.initial_margin for state in states]),
            maintenance=margin.requirement_sum_rounded(amounts, prices, [state.maintenance_margin for state in states]),
            notional=math.fsum(abs(amounts[i] * prices[i]) for i in range(len(amounts))),
        )

    def may_fill(self, before: Margins, after: Margins, reduces: bool) -> bool:
        """Initial margin is covered afterwards, or the risk falls."""
        return margin.is_allowed(before.equity, before.maintenance, after.equity, after.initial, after.maintenance)

    def withdrawable(self, now: Margins) -> float:
        """What is above initial margin."""
        return max(0.0, now.equity - now.initial)

    def window_blocks(self, request: OrderRequest) -> int | None:
        """20 for a short-term order, as long as it is good for a stateful one."""
        return SHORT_BLOCKS if request.time_in_force == "IOC" else None


class HyperliquidRules:
    """Hyperliquid: mark prices, maintenance by the tiers of the margin table, initial margin by the leverage that the owner set."""

    def price(self, state: MarketState) -> float:
        """The mark price."""
        return state.mark

    def margins(
        self, quote: float, sizes: Mapping[str, Decimal], markets: States, leverage: Mapping[str, float]
    ) -> Margins:
        """Account value and requirements; nothing is scaled by open interest."""
        value, initial, maintenance, total = quote, 0.0, 0.0, 0.0
        for market, size in sizes.items():
            state = markets[market]
            notional = abs(float(size) * state.mark)
            most = hyperliquid.max_leverage(notional, state.bounds, state.leverages)
            value += float(size) * state.mark
            initial += hyperliquid.initial(notional, min(most, leverage.get(market, most)))
            maintenance += hyperliquid.maintenance(notional, state.bounds, state.leverages)
            total += notional
        return Margins(equity=value, initial=initial, initial_published=initial, maintenance=maintenance, notional=total)

    def may_fill(self, before: Margins, after: Margins, reduces: bool) -> bool:
        """Initial margin is checked when a position is opened or grows; when it shrinks, only that no debt is made."""
        return after.equity >= (0.0 if reduces else after.initial)

    def withdrawable(self, now: Margins) -> float:
        """What remains must cover max(initial margin, a tenth of the notional)."""
        return hyperliquid.withdrawable(now.equity, now.initial, now.notional)

    def window_blocks(self, request: OrderRequest) -> int | None:
        """Never: what a second order with the same id does there is not established, so the worse is taken, that it fills again."""
        return -1


def rules_of(model: Model) -> Rules:
    """The rules of a model."""
    return DydxRules() if model == "dydx-v4" else HyperliquidRules()
