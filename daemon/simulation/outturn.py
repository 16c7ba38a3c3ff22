"""What a pass came to, and what two passes differ in (floor 5): the profit split so that luck is not sold as skill.

    having = outturn(account)
    difference(having, lacking).without_direction_usd      # the headline
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from daemon.simulation.account import SimulatedAccount
from daemon.units import NEVER, iso

COSTS_STRESSED = 3.0

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outturn:
    """What one pass came to, USD. Costs are >= 0, funding > 0 was received; margin_ratio_max None where margins are not given.

    pnl = direction + funding - fees - transfer fees - slippage - liquidation, where direction is what prices did to what was held.
    """

    pnl_usd: float
    funding_usd: float
    fees_usd: float
    liquidations: int
    margin_ratio_max: float | None
    turnover_usd: float
    funding_unknown_hours: float
    slippage_usd: float
    transfer_fees_usd: float
    liquidation_usd: float
    valued_from: int | None = None  # profit is counted from the first instant at which every position has a price
    valued_to: int | None = None

    @property
    def costs_usd(self) -> float:
        """Fees, slippage and transfer fees, >= 0."""
        return self.fees_usd + self.slippage_usd + self.transfer_fees_usd

    @property
    def direction_usd(self) -> float:
        """What prices did to the positions held: the rest of the profit."""
        return self.pnl_usd - self.funding_usd + self.costs_usd + self.liquidation_usd

    def as_json(self) -> Json:
        """The numbers as `reefd replay` prints them."""
        return {
            "pnl_usd": self.pnl_usd, "funding_usd": self.funding_usd, "fees_usd": self.fees_usd, "liquidations": self.liquidations,
            "margin_ratio_max": self.margin_ratio_max, "turnover_usd": self.turnover_usd,
            "funding_unknown_hours": self.funding_unknown_hours, "slippage_usd": self.slippage_usd,
            "transfer_fees_usd": self.transfer_fees_usd, "liquidation_usd": self.liquidation_usd, "direction_usd": self.direction_usd,
            "valued_from": None if self.valued_from is None else iso(self.valued_from),
            "valued_to": None if self.valued_to is None else iso(self.valued_to),
        }  # fmt: skip


def outturn(account: SimulatedAccount) -> Outturn:
    """What the account came to at the end of its pass."""
    totals = account.totals
    return Outturn(
        pnl_usd=account.pnl_usd(), funding_usd=totals.funding_usd, fees_usd=totals.fees_usd, liquidations=totals.liquidations,
        margin_ratio_max=totals.margin_ratio_max if account.margins_known else None, turnover_usd=totals.turnover_usd,
        funding_unknown_hours=totals.funding_unknown_hours, slippage_usd=totals.slippage_usd,
        transfer_fees_usd=totals.transfer_fees_usd, liquidation_usd=totals.liquidation_usd,
        valued_from=None if account.valued_from == NEVER else account.valued_from,
        valued_to=None if account.valued_to == NEVER else account.valued_to,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """WITH less WITHOUT, USD, > 0 the runbooks did better: split, and headlined without direction."""

    direction_usd: float
    funding_usd: float
    fees_and_slippage_usd: float
    liquidation_avoided_usd: float

    @property
    def pnl_usd(self) -> float:
        """The whole difference."""
        return self.direction_usd + self.without_direction_usd

    @property
    def without_direction_usd(self) -> float:
        """The headline: all but what prices happened to do after the runbooks acted."""
        return self.funding_usd + self.fees_and_slippage_usd + self.liquidation_avoided_usd

    @property
    def at_3x_costs(self) -> Difference:
        """The same fills and transfers, each three times as dear."""
        return replace(self, fees_and_slippage_usd=COSTS_STRESSED * self.fees_and_slippage_usd)

    @property
    def without_direction_at_3x_costs_usd(self) -> float:
        """The headline had every fill and transfer cost three times as much."""
        return self.at_3x_costs.without_direction_usd

    def as_json(self) -> Json:
        """The difference as `reefd replay` prints it: as it came, and under `at_3x_costs` again."""
        return {
            **self._split(),
            "without_direction_at_3x_costs_usd": self.without_direction_at_3x_costs_usd,
            "at_3x_costs": self.at_3x_costs._split(),
        }

    def _split(self) -> Json:
        return {
            "pnl_usd": self.pnl_usd, "without_direction_usd": self.without_direction_usd, "direction_usd": self.direction_usd,
            "funding_usd": self.funding_usd, "fees_and_slippage_usd": self.fees_and_slippage_usd,
            "liquidation_avoided_usd": self.liquidation_avoided_usd,
        }  # fmt: skip


def difference(having: Outturn, lacking: Outturn) -> Difference:
    """WITH less WITHOUT, split into direction, funding, fees and slippage, liquidation avoided."""
    return Difference(
        direction_usd=having.direction_usd - lacking.direction_usd,
        funding_usd=having.funding_usd - lacking.funding_usd,
        fees_and_slippage_usd=lacking.costs_usd - having.costs_usd,
        liquidation_avoided_usd=lacking.liquidation_usd - having.liquidation_usd,
    )
