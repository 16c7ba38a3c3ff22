"""The margin ratio over time, of all paths and of a few (floor 5): what the fan of a stress report is drawn from.

    fan = Fan(hours=168); fan.add(ratios_without, ratios_with, weight=1.0)      # float64[168] each, at every full hour after the start
    fan.bands(WITH, (0.05, 0.5, 0.95))                                          # float64[3, 168]

Weights are kept as whole numbers of 2^-20: sums of them do not depend on the order, so fans of several workers merge to the same bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WITHOUT, WITH = 0, 1
STEP = 0.005  # of margin ratio
BINS = 241  # up to 120 %; the last one has everything beyond, and whatever was liquidated
UNIT = 1 << 20  # of a weight


class Fan:
    """Histograms of the margin ratio at each hour, without and with the runbooks; about 4 kB an hour, whatever the number of paths."""

    def __init__(self, hours: int) -> None:
        self.hours = hours
        self.counts = np.zeros((2, hours, BINS), np.int64)

    def add(self, without: Floats, having: Floats, weight: float = 1.0) -> None:
        """Takes one path in: the worst account's margin ratio at the end of each hour, infinite from liquidation on."""
        share = round(weight * UNIT)
        for side, ratios in ((WITHOUT, without), (WITH, having)):
            assert len(ratios) == self.hours, "a ratio for each hour"
            assert not np.isnan(ratios).any(), "a ratio that is not known"
            places = np.minimum(ratios / STEP, BINS - 1).astype(np.int64)
            self.counts[side, np.arange(self.hours), places] += share

    def merge(self, other: Fan) -> None:
        """Adds another fan's paths."""
        self.counts += other.counts

    @property
    def empty(self) -> bool:
        """True without paths."""
        return not self.counts.any()

    def bands(self, side: int, levels: Sequence[float]) -> Floats:
        """Quantiles at each hour, float64[levels, hours]: upper edges of their bins; infinite where liquidated; NaN without paths."""
        reached = np.cumsum(self.counts[side], axis=1)
        total = reached[:, -1:]
        edges = np.concatenate([STEP * np.arange(1, BINS), [np.inf]])
        rows = [edges[np.argmax(reached >= np.maximum(np.ceil(level * total), 1), axis=1)] for level in levels]
        return np.where(total[:, 0] > 0, np.array(rows), np.nan)

    def beyond(self, side: int, ratio: float = 1.0) -> Floats:
        """The share of paths whose margin ratio is at or above `ratio` at each hour, float64[hours]; NaN without paths."""
        total = self.counts[side].sum(axis=1)
        over = self.counts[side][:, round(ratio / STEP) :].sum(axis=1)
        return np.where(total > 0, over / np.maximum(total, 1), np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something a runbook did on a path: ns after the start, and a line that says it."""

    at: int
    text: str
    runbook: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnPath:
    """A path worth looking at: its margin ratio with and without, thinned, and everything that was done. `at` is ns after the start."""

    number: int
    at: NDArray[np.int64]
    without: Floats  # margin ratio of the worst account; infinite: liquidated
    having: Floats
    acts: tuple[Act, ...] = ()
    pnl_without_usd: float
    pnl_with_usd: float
    why: str = ""  # worst loss | worst only with the runbooks
