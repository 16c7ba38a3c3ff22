"""How a path ended, with and without the runbooks (floor 5): what a worker hands back, small enough for hundreds of thousands.

Money is USD; every cost >= 0; `funding_usd` > 0 was received; pnl counts everything. Times are ns AFTER THE START, FOREVER: never.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.units import FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    """One path, with or without the runbooks."""

    pnl_usd: float
    margin_ratio_max: float  # 1 and more: liquidated
    worst_equity_usd: float  # the least of any account
    liquidated_at: int = FOREVER
    first_account: str = ""  # the account that went first; empty: none
    liquidations: int = 0  # accounts that were liquidated
    in_80_at: int = FOREVER  # the first time that a margin ratio is at least 80 %
    needed_usd: float = 0.0  # cash that, in the account before, would have kept maintenance margin below equity throughout
    fees_usd: float = 0.0
    slippage_usd: float = 0.0
    funding_usd: float = 0.0
    liquidation_usd: float = 0.0
    transfer_fees_usd: float = 0.0
    stuck_usd: float = 0.0  # on its way, or lost on it, at the horizon
    turnover_usd: float = 0.0
    runs: Mapping[str, int] = field(default_factory=dict)  # by runbook; those that did not run may be absent
    weight_log: float = 0.0  # log likelihood ratio, stopped at this side's first liquidation: for whatever is known by then


@dataclass(frozen=True, slots=True, kw_only=True)
class PathEnd:
    """One path: both sides on the same draws. `weight_log` is the log likelihood ratio at the horizon, 0 when drawn plainly.

    What is known at a side's liquidation (that it came, and when) may take that side's own, which varies less; what comes later (profit,
    the other side) is biased by a weight that stopped before.
    """

    number: int
    rows: int
    without: Side
    having: Side
    weight_log: float = 0.0
    tilted: bool = False
