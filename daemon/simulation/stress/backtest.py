"""How a world would have fared against what happened (floor 5): coverage of its quantiles, Kupiec's test, uniformity of its ranks.

    ranks = probability_ranks(drawn, realised)            # where each realised value falls among the world's draws, 0 .. 1
    uniformity(ranks)                                     # (largest gap, p-value) of Kolmogorov and Smirnov
    quantile_tests(drawn, realised, (0.01, 0.05, 0.95))   # how often it fell below each, against how often it should have

Pure functions of arrays. A world is refused when a p-value is small; it is never confirmed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """One quantile against the realised values: how many of `trials` fell below it, and Kupiec's verdict."""

    probability: float
    trials: int
    failures: int
    likelihood_ratio: float
    p_value: float

    @property
    def share(self) -> float:
        """Share of realised values below the quantile; NaN without any."""
        return self.failures / self.trials if self.trials else math.nan


def kupiec(failures: int, trials: int, probability: float) -> tuple[float, float]:
    """(likelihood ratio, p-value) of the proportion-of-failures test: does `probability` explain `failures` in `trials`?

    -2 log((1 - p)^(T - x) p^x / ((1 - x/T)^(T - x) (x/T)^x)), chi-square with one degree of freedom (Kupiec 1995). Raises ValueError for
    counts or probabilities that are none.
    """
    if not (0 <= failures <= trials and trials > 0 and 0.0 < probability < 1.0):
        raise ValueError(f"{failures} failures in {trials} trials at {probability} are no proportion")
    share = failures / trials
    expected = _log_power(1.0 - probability, trials - failures) + _log_power(probability, failures)
    observed = _log_power(1.0 - share, trials - failures) + _log_power(share, failures)
    ratio = max(0.0, -2.0 * (expected - observed))
    return ratio, math.erfc(math.sqrt(ratio / 2.0))


def _log_power(value: float, times: int) -> float:
    return times * math.log(value) if times else 0.0


def coverage(quantiles: Floats, realised: Floats, probability: float) -> Coverage:
    """How often `realised` fell below the quantile forecast for it. Pairs that hold a NaN do not count. Both: float64[times]."""
    known = ~(np.isnan(quantiles) | np.isnan(realised))
    failures, trials = int(np.sum(realised[known] < quantiles[known])), int(np.sum(known))
    ratio, p_value = kupiec(failures, trials, probability) if trials else (math.nan, math.nan)
    return Coverage(probability=probability, trials=trials, failures=failures, likelihood_ratio=ratio, p_value=p_value)


def quantile_tests(drawn: Floats, realised: Floats, probabilities: Sequence[float]) -> list[Coverage]:
    """Coverage of several quantiles. `drawn`: float64[times, draws], the world's values for each time; `realised`: float64[times]."""
    return [coverage(np.quantile(drawn, probability, axis=1), realised, probability) for probability in probabilities]


def probability_ranks(drawn: Floats, realised: Floats) -> Floats:
    """The probability integral transform: share of a time's draws below what happened, ties split: float64[times], in (0, 1)."""
    below = np.sum(drawn < realised[:, None], axis=1)
    equal = np.sum(drawn == realised[:, None], axis=1)
    ranks: Floats = (below + 0.5 * equal + 0.5) / (drawn.shape[1] + 1.0)
    return ranks


def uniformity(ranks: Floats) -> tuple[float, float]:
    """(largest gap, p-value) between the ranks' distribution and the uniform one: Kolmogorov and Smirnov, with Stephens' small samples."""
    ordered = np.sort(ranks[~np.isnan(ranks)])
    count = len(ordered)
    if not count:
        return math.nan, math.nan
    steps = np.arange(1, count + 1) / count
    gap = float(max(np.max(steps - ordered), np.max(ordered - (steps - 1.0 / count))))
    root = math.sqrt(count)
    return gap, kolmogorov((root + 0.12 + 0.11 / root) * gap)


def kolmogorov(x: float) -> float:
    """The probability that Kolmogorov's statistic exceeds x: 2 sum (-1)^(k-1) exp(-2 k^2 x^2)."""
    if x < 0.2:
        return 1.0  # 1 - 4e-13 at 0.2
    total = sum((-1.0) ** (k - 1) * math.exp(-2.0 * k * k * x * x) for k in range(1, 101))
    return min(1.0, max(0.0, 2.0 * total))
