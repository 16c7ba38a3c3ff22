"""Whose money it is (floor 5): everybody's on a simulated exchange but the subaccounts', so that no dollar appears or vanishes.

Every trade has another side: the counterparties, the liquidator vault, or another subaccount. Their positions are kept as their cash is, so
that the sum of all balances stays what was paid in, and the sum of all sizes of a market stays zero.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from decimal import Decimal

CROSS = ""  # the insurance fund of all markets that are not isolated


@dataclass(slots=True)
class Pool:
    """A crowd or a vault: its USDC balance (negative where it owes, its positions stand against it) and its signed sizes."""

    quote: float = 0.0
    sizes: dict[str, Decimal] = field(default_factory=dict)

    def trade(self, market: str, change: Decimal, price: float) -> None:
        """Books a trade that changes its position by `change`."""
        self.quote -= float(change) * price
        self.sizes[market] = self.sizes.get(market, Decimal(0)) + change

    def value(self, prices: Mapping[str, float]) -> float:
        """What it is worth at these prices, USD."""
        return self.quote + math.fsum(float(size) * prices[market] for market, size in self.sizes.items())


@dataclass(slots=True)
class Ledger:
    """The balances beside the subaccounts', USD: fees taken, insurance funds, counterparties, liquidator vault, what crossed the border."""

    insurance: dict[str, float]
    fees: float = 0.0
    counterparties: Pool = field(default_factory=Pool)
    vault: Pool = field(default_factory=Pool)

    @property
    def insurance_total(self) -> float:
        """All insurance funds together."""
        return math.fsum(self.insurance.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class Money:
    """All balances of a world at a moment, USD: `total` never changes."""

    collateral: float  # quote balances of the subaccounts
    insurance_fund: float
    fees: float
    counterparties: float
    vault: float
    buffers: float
    in_flight: float
    route_fees: float
    lost: float  # on routes that swallow what is too small

    def balances(self) -> dict[str, float]:
        """Every balance by its name."""
        return {balance.name: getattr(self, balance.name) for balance in fields(self)}

    @property
    def total(self) -> float:
        """The sum, rounded once."""
        return math.fsum(self.balances().values())
