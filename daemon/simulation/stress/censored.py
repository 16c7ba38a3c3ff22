"""Premiums behind settled funding rates (floor 5): a rate at the floor or at a cap says only between which bounds its premium was.

Hyperliquid pulls the premium P of an hour by clamp(0.01 % - P, +-0.05 %) before it divides by 8: every P from -0.04 % to 0.06 % prints as
0.00125 %/h. Such prints are censored: the premium is an autoregression whose unknown hours are drawn between their bounds (Gibbs sampling,
every second hour at once) while mean, decay and deviation are fitted to what was drawn. Seeded, so the same rates give the same fit.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import NORMAL
from daemon.simulation.stress.premium import CAP_HOURLY, INTEREST_8H, INTEREST_CLAMP

Floats = NDArray[np.float64]
SWEEPS = 60
BURN_IN = 20
TOLERANCE = 1e-9  # of a rate that stands at a bound: prints have 1e-8 or fewer digits
DECAY_MAX = 0.999


@dataclass(frozen=True, slots=True, kw_only=True)
class PremiumFit:
    """An hourly autoregression: premium[k] = mean + decay (premium[k-1] - mean) + innovation[k], on the 8-hour basis."""

    premiums: Floats  # float64[hours], one draw between the bounds
    innovations: Floats  # float64[hours - 1]
    mean: float
    decay: float
    deviation: float  # of the innovations
    censored: float  # share of hours that were


def premium_bounds(rates: Floats, model: str, *, clamp_8h: float = math.inf) -> tuple[Floats, Floats]:
    """Lowest and highest premium (8-hour basis) that a settled hourly rate can have had, by hour; equal where it is known.

    dydx-v4: rate x 8, unbounded outside where it stands at +- `clamp_8h`. hyperliquid: as above, and unbounded beyond +-4 %/h.
    """
    eight = rates * 8.0
    low, high = eight.copy(), eight.copy()
    if model == "hyperliquid":
        floor = np.abs(eight - INTEREST_8H) <= TOLERANCE * 8.0
        low = np.where(eight > INTEREST_8H, eight + INTEREST_CLAMP, eight - INTEREST_CLAMP)
        high = low.copy()
        low[floor], high[floor] = INTEREST_8H - INTEREST_CLAMP, INTEREST_8H + INTEREST_CLAMP
        cap = CAP_HOURLY * 8.0
    else:
        cap = clamp_8h
    high[eight >= cap - TOLERANCE] = math.inf
    low[eight <= -cap + TOLERANCE] = -math.inf
    return low, high


def fit_premium(rates: Floats, model: str, *, clamp_8h: float = math.inf, seed: int = 1) -> PremiumFit:
    """The premium process behind settled hourly rates (float64[hours], no NaN)."""
    low, high = premium_bounds(rates, model, clamp_8h=clamp_8h)
    known = low == high
    inside = np.clip(0.0, low, high)
    premiums = np.where(known, low, np.where(np.isfinite(low) & np.isfinite(high), 0.5 * (low + high), inside))
    generator = np.random.Generator(np.random.Philox(key=seed))
    mean, decay, deviation = _regressed(premiums)
    sums, kept = np.zeros(3), 0
    unknown = np.flatnonzero(~known)
    if len(unknown):
        for sweep in range(SWEEPS):
            for parity in (0, 1):
                at = unknown[unknown % 2 == parity]
                if len(at):
                    premiums[at] = _between(premiums, at, low[at], high[at], (mean, decay, deviation), generator)
            mean, decay, deviation = _regressed(premiums)
            if sweep >= BURN_IN:
                sums += (mean, decay, deviation)
                kept += 1
        mean, decay, deviation = (float(value) for value in sums / kept)
    innovations = premiums[1:] - mean - decay * (premiums[:-1] - mean)
    return PremiumFit(
        premiums=premiums, innovations=innovations, mean=mean, decay=decay, deviation=deviation, censored=float(np.mean(~known))
    )


def _regressed(premiums: Floats) -> tuple[float, float, float]:
    """Mean, decay and deviation of the autoregression of a series."""
    mean = float(np.mean(premiums))
    centred = premiums - mean
    square = float(centred[:-1] @ centred[:-1])
    decay = float(centred[1:] @ centred[:-1]) / square if square > 0.0 else 0.0
    decay = min(DECAY_MAX, max(0.0, decay))
    rest = centred[1:] - decay * centred[:-1]
    return mean, decay, max(1e-9, float(np.std(rest)))


def _between(
    premiums: Floats, at: NDArray[np.int64], low: Floats, high: Floats, law: tuple[float, float, float], generator: np.random.Generator
) -> Floats:
    """Draws of the premium at hours `at` given the hours beside them and their bounds."""
    mean, decay, deviation = law
    last = len(premiums) - 1
    before = np.where(at > 0, premiums[np.maximum(at - 1, 0)] - mean, 0.0)
    after = np.where(at < last, premiums[np.minimum(at + 1, last)] - mean, 0.0)
    sides = (at > 0).astype(float) + decay * decay * (at < last)  # the first hour has only the one after it
    first = at == 0
    weight = np.where(first, 1.0, sides)
    middle = mean + decay * (before + after) / np.where(first, 1.0, weight)
    spread = deviation / np.sqrt(weight)
    a, b = _normal_share((low - middle) / spread), _normal_share((high - middle) / spread)
    share = np.clip(a + (b - a) * generator.random(len(at)), 1e-12, 1.0 - 1e-12)
    drawn = middle + spread * _normal_quantile(share)
    return np.clip(drawn, low, high)


def _elementwise(function: Callable[[float], float]) -> Callable[[Floats], Floats]:
    def over(values: Floats) -> Floats:
        return np.array([function(value) for value in values.tolist()])

    return over


_normal_share = _elementwise(lambda x: 0.5 * math.erfc(-x / math.sqrt(2.0)))
_normal_quantile = _elementwise(NORMAL.inv_cdf)
