"""Series of a replay, thinned while they are made (floor 5): memory does not grow with the rows, and no extreme is lost.

A `Curve` cuts its time into equal buckets and keeps the first, lowest, highest and last value of each, with the time of each.
A `Track` is the curves of one account: equity, margin ratio, cumulative funding, and the price of each market it holds.

    curve = Curve(first_at, last_at)
    curve.add(at, values)       # int64[n] ascending, float64[n]: whole spans
    curve.point(at, value)      # or one at a time
    curve.points()              # Points(at, value, broken): at most four a bucket
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daemon.simulation.account import RATIO_MAX

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

BUCKETS_MAX = 4_000  # of a series in a file: more than any screen has columns
FIRST, LOW, HIGH, LAST = range(4)


@dataclass(frozen=True, slots=True, kw_only=True)
class Points:
    """A curve as it is drawn: times int64[n] ascending (ns), values float64[n]; `broken` bool[n]: nothing was known just before it."""

    at: Ints
    value: Floats
    broken: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of points."""
        return len(self.at)


class Curve:
    """One series over `first_at` to `last_at` in at most `buckets` buckets; NaN is a gap. Times are added in ascending order."""

    def __init__(self, first_at: int, last_at: int, buckets: int = BUCKETS_MAX) -> None:
        self.first_at = first_at
        self.last_at = max(last_at, first_at)
        self.width = -(-(self.last_at - first_at + 1) // buckets)  # ns; rounded up
        count = -(-(self.last_at - first_at + 1) // self.width)
        self._at: Ints = np.zeros((count, 4), np.int64)
        self._value: Floats = np.full((count, 4), np.nan)
        self._broken = np.zeros(count, np.bool_)  # nothing was known at some instant before the bucket's first value
        self._gap = False  # nothing is known since the last value

    def add(self, at: Ints, value: Floats) -> None:
        """Takes a span: at int64[n] ascending, value float64[n]."""
        if not len(at):
            return
        unknown = np.isnan(value)
        if unknown.any():
            # Runs of known values, with a gap before each but the first: there are few, a price comes and goes seldom.
            turns = np.flatnonzero(np.diff(unknown)) + 1
            for start, end in zip([0, *turns.tolist()], [*turns.tolist(), len(at)], strict=True):
                if unknown[start]:
                    self._gap = True
                else:
                    self._take(at[start:end], value[start:end])
            return
        self._take(at, value)

    def _take(self, at: Ints, value: Floats) -> None:
        first, last = self._bucket(int(at[0])), self._bucket(int(at[-1]))
        edges = self.first_at + self.width * np.arange(first + 1, last + 1, dtype=np.int64)
        cuts = [0, *np.searchsorted(at, edges).tolist(), len(at)]
        for bucket, start, end in zip(range(first, last + 1), cuts[:-1], cuts[1:], strict=True):
            if start < end:
                self._merge(bucket, at[start:end], value[start:end])

    def point(self, at: int, value: float) -> None:
        """Takes one value."""
        if value != value:
            self._gap = True
            return
        bucket = self._bucket(at)
        held, times = self._value[bucket], self._at[bucket]
        if held[FIRST] != held[FIRST]:
            self._begin(bucket)
            held[:] = value
            times[:] = at
            return
        if value < held[LOW]:
            held[LOW], times[LOW] = value, at
        if value > held[HIGH]:
            held[HIGH], times[HIGH] = value, at
        held[LAST], times[LAST] = value, at

    def _bucket(self, at: int) -> int:
        return min(max((at - self.first_at) // self.width, 0), len(self._value) - 1)

    def _begin(self, bucket: int) -> None:
        self._broken[bucket] = self._gap
        self._gap = False

    def _merge(self, bucket: int, at: Ints, value: Floats) -> None:
        low, high = int(np.argmin(value)), int(np.argmax(value))
        if self._value[bucket, FIRST] != self._value[bucket, FIRST]:
            self._begin(bucket)
            chosen = [0, low, high, len(at) - 1]
            self._at[bucket] = at[chosen]
            self._value[bucket] = value[chosen]
            return
        for index in sorted({low, high, len(at) - 1}):
            self.point(int(at[index]), float(value[index]))

    def points(self) -> Points:
        """What is kept, in order of time: at most four points a bucket, none twice."""
        filled = np.flatnonzero(~np.isnan(self._value[:, FIRST]))
        at, value = self._at[filled], self._value[filled]
        # The lowest comes first unless the highest is earlier, or both are at one instant that began with the highest.
        tied = (at[:, LOW] == at[:, HIGH]) & (value[:, FIRST] == value[:, HIGH])
        swap = (at[:, LOW] > at[:, HIGH]) | tied
        at[swap] = at[swap][:, [FIRST, HIGH, LOW, LAST]]
        value[swap] = value[swap][:, [FIRST, HIGH, LOW, LAST]]
        broken = np.zeros(at.shape, np.bool_)
        broken[:, 0] = self._broken[filled]
        flat_at, flat, breaks = at.ravel(), value.ravel(), broken.ravel()
        new = np.ones(len(flat), np.bool_)
        new[1:] = (flat_at[1:] != flat_at[:-1]) | (flat[1:] != flat[:-1])
        new |= breaks
        return Points(at=flat_at[new], value=flat[new], broken=breaks[new])

    def coarser(self, buckets: int, since: int) -> Curve:
        """The same series from `since` on in fewer buckets, extremes kept: for a page."""
        found = Curve(since, self.last_at, buckets)
        kept = self.points()
        start = int(np.searchsorted(kept.at, since))
        for at, value, broken in zip(
            kept.at[start:].tolist(), kept.value[start:].tolist(), kept.broken[start:].tolist(), strict=True
        ):
            if broken:
                found.point(at, float("nan"))
            found.point(at, value)
        return found


class Track:
    """The curves of one account; `prices` by market id, in the order in which the account holds them."""

    def __init__(self, first_at: int, last_at: int, markets: Sequence[str] = (), buckets: int = BUCKETS_MAX) -> None:
        def curve() -> Curve:
            return Curve(first_at, last_at, buckets)

        self.equity = curve()  # USD
        self.margin_ratio = curve()  # 1 = liquidation
        self.funding = curve()  # USD since the start, > 0 received
        self.prices = {market: curve() for market in markets}

    def add(self, at: Ints, equity: Floats, margin_ratio: Floats, funding_usd: float, prices: Sequence[Floats]) -> None:
        """A span in which nothing happened but prices: int64[n] and float64[n] each; `prices` in the order of the markets."""
        if not len(at):
            return
        self.equity.add(at, equity)
        self.margin_ratio.add(at, np.minimum(margin_ratio, RATIO_MAX))
        self.funding.point(int(at[0]), funding_usd)
        self.funding.point(int(at[-1]), funding_usd)
        for curve, price in zip(self.prices.values(), prices, strict=False):
            curve.add(at, price)

    def point(self, at: int, equity: float, margin_ratio: float, funding_usd: float, prices: Sequence[float]) -> None:
        """One instant at which something happened."""
        self.equity.point(at, equity)
        self.margin_ratio.point(at, min(margin_ratio, RATIO_MAX) if margin_ratio == margin_ratio else margin_ratio)
        self.funding.point(at, funding_usd)
        for curve, price in zip(self.prices.values(), prices, strict=False):
            curve.point(at, price)
