from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.units import FOREVER


@dataclass(frozen=True, slots=True, kw_only=True)
class Side:
    liquidated_at: int = FOREVER
    first_account: str = ""
    liquidations: int = 0
    pnl_usd: float = 0.0
    margin_ratio_max: float = 0.0
    worst_equity_usd: float = 0.0
    fees_usd: float = 0.0
    slippage_usd: float = 0.0
    funding_usd: float = 0.0
    liquidation_usd: float = 0.0
    transfer_fees_usd: float = 0.0
    stuck_usd: float = 0.0
    turnover_usd: float = 0.0
    in_80_at: int = FOREVER
    needed_usd: float = 0.0
    runs: Mapping[str, int] = field(default_factory=dict)
@dataclass(frozen=True, slots=True, kw_only=True)
class PathEnd:
    number: int
    weight_log: float
    tilted: bool
    rows: int
    without: Side
    having: Side
