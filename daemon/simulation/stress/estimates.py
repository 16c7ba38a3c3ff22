"""Estimates from weighted paths (floor 5): probabilities with intervals, quantiles, expected shortfall, and how much the weights are worth.

Paths have weights w = dP/dQ (1 when drawn plainly) and every estimate is self-normalised: sum(w x) / sum(w). Sums are exact (`math.fsum`),
so that the order of paths does not matter. Sources: Owen, Monte Carlo theory, methods and examples, ch. 9.2 (self-normalised estimate and
its delta-method variance), 9.3 (effective sample size); Wilson (1927) for plain proportions; Acerbi and Tasche (2002) for shortfall.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
NAN = float("nan")
Z95 = 1.959963984540054  # two-sided 95 %
ESS_SHARE_LEAST = 0.1  # below it weights carry too little: play plainly


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its 95 % interval."""

    value: float
    low: float
    high: float

    def as_json(self) -> dict[str, float]:
        """The shape of every probability of the report."""
        return {"p": self.value, "low": self.low, "high": self.high}


def effective_sample_size(weights: Floats) -> float:
    """(sum w)^2 / sum w^2: as many plain paths would say as much about an ordinary quantity; 0 without paths."""
    squares = math.fsum(weights * weights)
    return math.fsum(weights) ** 2 / squares if squares > 0.0 else 0.0


def worth_weighting(weights: Floats) -> bool:
    """False when the effective sample is under 10 % of the paths: the tilt misses, plain paths say more."""
    return len(weights) > 0 and effective_sample_size(weights) >= ESS_SHARE_LEAST * len(weights)


def is_plain(weights: Floats) -> bool:
    """True when every path weighs the same."""
    return bool(len(weights) == 0 or (weights == weights[0]).all())


def probability(hit: NDArray[np.bool_], weights: Floats) -> Interval:
    """The share of `hit` with its 95 % interval; NaN without paths.

    Plain: Wilson. Weighted: the delta method on the log-odds, so that it stays within 0 and 1; where nothing or everything is hit, Wilson
    with the effective sample size.
    """
    count = len(hit)
    if count == 0:
        return Interval(NAN, NAN, NAN)
    if is_plain(weights):
        return wilson(float(np.count_nonzero(hit)), float(count))
    total = math.fsum(weights)
    p = math.fsum(weights[hit]) / total
    if not 0.0 < p < 1.0:
        return wilson(round(p) * (ess := effective_sample_size(weights)), ess)
    error = standard_error(hit.astype(np.float64), weights)
    odds, width = math.log(p / (1.0 - p)), Z95 * error / (p * (1.0 - p))
    return Interval(p, _logistic(odds - width), _logistic(odds + width))


def wilson(hits: float, count: float) -> Interval:
    """Wilson's 95 % interval of a proportion."""
    p, z2 = hits / count, Z95 * Z95
    centre = (p + z2 / (2.0 * count)) / (1.0 + z2 / count)
    half = Z95 * math.sqrt(p * (1.0 - p) / count + z2 / (4.0 * count * count)) / (1.0 + z2 / count)
    return Interval(p, max(0.0, centre - half) if hits > 0.0 else 0.0, min(1.0, centre + half) if hits < count else 1.0)


def _logistic(x: float) -> float:
    return 1.0 / (1.0 + math.exp(-x)) if x >= 0.0 else math.exp(x) / (1.0 + math.exp(x))


def mean(values: Floats, weights: Floats) -> float:
    """sum(w x) / sum(w); NaN without paths."""
    total = math.fsum(weights)
    return math.fsum(values * weights) / total if total > 0.0 else NAN


def standard_error(values: Floats, weights: Floats) -> float:
    """Of the mean: sqrt(sum w^2 (x - mean)^2) / sum w; NaN without paths."""
    total = math.fsum(weights)
    if not total > 0.0:
        return NAN
    off = weights * (values - mean(values, weights))
    return math.sqrt(math.fsum(off * off)) / total


def quantiles(values: Floats, weights: Floats, levels: Sequence[float]) -> list[float]:
    """The least value that at least `level` of the weight does not exceed, for each level; NaN without paths."""
    if len(values) == 0:
        return [NAN for _ in levels]
    order = np.argsort(values, kind="stable")
    ranked = values[order]
    below = np.cumsum(weights[order])
    # A sum of many weights misses its total by less than this; without it the last quantile could fall off.
    reached = np.searchsorted(below, [level * below[-1] * (1.0 - 1e-12) for level in levels])
    return [float(ranked[min(place, len(ranked) - 1)]) for place in reached.tolist()]


def shortfall(values: Floats, weights: Floats, share: float) -> float:
    """The mean of the worst (least) `share` of the weight, the path at its edge counted in part; NaN without paths."""
    if len(values) == 0:
        return NAN
    order = np.argsort(values, kind="stable")
    weighed = weights[order]
    goal = share * math.fsum(weights)
    before = np.concatenate([[0.0], np.cumsum(weighed)[:-1]])
    taken = np.clip(goal - before, 0.0, weighed)
    return math.fsum(values[order] * taken) / math.fsum(taken)
