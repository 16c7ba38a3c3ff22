"""Ends of paths for tests of tally, figures, report and page: drawn from a seed, or written out."""

from __future__ import annotations

import numpy as np

from daemon.simulation.stress.outcome import PathEnd, Side
from daemon.units import DAY_NS, FOREVER, HOUR_NS, MINUTE_NS

LIQUIDATED_BELOW = -20_000.0


def end(
    number: int, without: float, having: float, *, at: int = DAY_NS, weight_log: float = 0.0, cost: float = 0.0, **more: object
) -> PathEnd:
    """A path of two profits; a side whose profit is below -20,000 USD was liquidated `at`, and would have needed what was below that."""

    def side(pnl: float, fees: float, runs: dict[str, int]) -> Side:
        gone = pnl < LIQUIDATED_BELOW
        return Side(
            pnl_usd=pnl, margin_ratio_max=1.2 if gone else 0.5, worst_equity_usd=40_000.0 + pnl, liquidated_at=at if gone else FOREVER,
            first_account="dydx" if gone else "", liquidations=int(gone), in_80_at=at - HOUR_NS if gone else FOREVER,
            needed_usd=LIQUIDATED_BELOW - pnl if gone else 0.0, fees_usd=fees, turnover_usd=1_000.0 * len(runs), runs=runs,
            weight_log=weight_log,
        )  # fmt: skip

    runs = {"margin-low": 1} if without < -10_000.0 else {}
    return PathEnd(
        number=number, rows=10_080, without=side(without, 0.0, {}), having=side(having, cost, runs), weight_log=weight_log, **more,  # type: ignore[arg-type]
    )  # fmt: skip


def drawn(paths: int, seed: int, *, first: int = 0) -> list[PathEnd]:
    """Paths whose losses are normal, halved by the runbooks at a cost of 25 USD; liquidations between a minute and a week."""
    draws = np.random.Generator(np.random.Philox(seed))
    ends = []
    for number in range(first, first + paths):
        pnl = float(draws.normal(0.0, 12_000.0))
        at = MINUTE_NS * int(draws.integers(60, 10_080))
        ends.append(end(number, pnl, pnl * (0.5 if pnl < -10_000.0 else 1.0) - 25.0, at=at, cost=25.0))
    return ends
