"""The premium of each market over its index, and what the venue's own rule makes of it (floor 5).

The premium (mid / index - 1) walks at knots five minutes apart, mean-reverting to the regime's level and pushed by the index's moves, and
is straight between knots. It is what gets sampled: impact price over index, ratio on the 8-hour basis. The settled rates are fractions an
HOUR. dYdX: mean of 60 minute samples, missing ones counted as 0, + default, clamped to +- 6 x (initial - maintenance) margin, / 8
(dydxprotocol/v4-chain x/perpetuals/keeper/perpetual.go). Hyperliquid: (P + clamp(0.01 % - P, +-0.05 %)) / 8, at most 4 % either way
(hyperliquid docs, trading/funding); samples that were not taken are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.regime import Spells, by_row, counts_of_rows
from daemon.simulation.stress.worldfile import REGIMES, PremiumSpec
from daemon.world.margin import FUNDING_CLAMP_FACTOR, FUNDING_SAMPLES_AN_HOUR

Floats = NDArray[np.float64]
KNOT_S = 300
HALF_LIVES = 16.0  # of a block of the filter: 2^16 of scale costs 5 digits of 16
INTEREST_8H = 0.0001
INTEREST_CLAMP = 0.0005
CAP_HOURLY = 0.04


def dydx_rates(
    sample_sums: Floats, samples: Floats, default_8h: Floats | float, initial: Floats | float, maintenance: Floats | float
) -> Floats:
    """Settled dYdX rates, fraction an hour, of sums of `samples` premium samples (8-hour basis); elementwise `world.margin`'s rule."""
    bound = FUNDING_CLAMP_FACTOR * (np.asarray(initial) - np.asarray(maintenance))
    mean = sample_sums / np.maximum(samples, FUNDING_SAMPLES_AN_HOUR) + default_8h
    rates: Floats = np.minimum(np.maximum(mean, -bound), bound) / 8.0
    return rates


def hyperliquid_rates(premiums: Floats) -> Floats:
    """Settled Hyperliquid rates, fraction an hour, of the hours' mean premiums (8-hour basis)."""
    pulled = premiums + np.minimum(np.maximum(INTEREST_8H - premiums, -INTEREST_CLAMP), INTEREST_CLAMP)
    rates: Floats = np.minimum(np.maximum(pulled / 8.0, -CAP_HOURLY), CAP_HOURLY)
    return rates


def sampled(premiums: Floats, impact: Floats) -> Floats:
    """What an impact-price sample shows of a premium: nothing within +- `impact`, the rest beyond. `impact` broadcasts."""
    shown: Floats = premiums - np.minimum(np.maximum(premiums, -impact), impact)
    return shown


def mean_reverting(pushes: Floats, decay: float, first: Floats) -> Floats:
    """y[k] = decay y[k-1] + pushes[k] along the last axis with y[-1] = `first` (float64[rows of pushes]).

    By scaled sums in blocks short enough that the scale keeps its digits: no loop over k.
    """
    assert 0.0 < decay < 1.0
    count = pushes.shape[-1]
    block = max(1, min(count, int(HALF_LIVES * math.log(2.0) / -math.log(decay))))
    powers = decay ** np.arange(1.0, block + 1.0)
    walked = np.empty_like(pushes)
    before = first
    for begin in range(0, count, block):
        end = min(count, begin + block)
        scale = powers[: end - begin]
        part = walked[..., begin:end]
        np.divide(pushes[..., begin:end], scale, out=part)
        np.cumsum(part, axis=-1, out=part)
        part += before[..., None]
        part *= scale
        before = part[..., -1]
    return walked


class Premiums:
    """The premium processes of the markets of a source; a market whose venue has none stays at 0."""

    def __init__(self, markets: Sequence[str], specs: Sequence[PremiumSpec | None], coins: Sequence[int], step_s: float) -> None:
        self.rows = [i for i, spec in enumerate(specs) if spec is not None]
        self.names = [markets[i] for i in self.rows]
        self.specs = [spec for spec in specs if spec is not None]
        self.coins = [coins[i] for i in self.rows]
        self.per_knot = max(1, round(KNOT_S / step_s))  # rows
        self.knot_s = self.per_knot * step_s
        self.weights = np.arange(1.0, self.per_knot + 1.0) / self.per_knot

    def start(self, state: int) -> Floats:
        """The premium of each process at the start of a path in a regime: its mean. float64[processes]."""
        return np.array([spec.mean[REGIMES[state]] for spec in self.specs])

    def draw(self, draws: Draws, spells: Sequence[Spells], moves: Floats, out: Floats) -> Floats:
        """Premiums by row into `out` (float64[markets, rows]); returns those at the start, float64[markets].

        `spells`: of each market; `moves`: log moves of the coins by row. Rows without a process are left as they are.
        """
        rows = moves.shape[1]
        knots = -(-rows // self.per_knot)
        first = np.zeros(out.shape[0])
        edges = np.arange(0, rows, self.per_knot)
        pushed = np.add.reduceat(moves, edges, axis=1) if any(spec.response for spec in self.specs) else None
        for row, name, spec, coin in zip(self.rows, self.names, self.specs, self.coins, strict=True):
            decay = 0.5 ** (self.knot_s * 1e9 / spec.half_life)
            counts = counts_of_rows(spells[row], knots, 3600.0 / self.knot_s)
            levels = [spec.mean[name_of] for name_of in REGIMES]
            noises = [spec.noise[name_of] * math.sqrt(1.0 - decay * decay) for name_of in REGIMES]
            pushes = np.empty(knots)
            draws.normals(Purpose.PREMIUM, name, pushes)
            if len(counts) == 1:
                state = spells[row][0][1]
                pushes *= noises[state]
                pushes += (1.0 - decay) * levels[state]
            else:
                pushes *= by_row(noises, spells[row], counts)
                pushes += by_row([(1.0 - decay) * level for level in levels], spells[row], counts)
            if pushed is not None and spec.response:
                pushes += spec.response * pushed[coin]
            begin = levels[spells[row][0][1]]
            first[row] = begin
            ends = mean_reverting(pushes[None, :], decay, np.array([begin]))[0]
            self._straight(ends, begin, out[row])
        return first

    def _straight(self, ends: Floats, begin: float, out: Floats) -> None:
        """Straight lines from knot to knot into a row of premiums."""
        starts = np.empty_like(ends)
        starts[0] = begin
        starts[1:] = ends[:-1]
        whole = len(out) // self.per_knot * self.per_knot
        lines = np.multiply.outer(ends - starts, self.weights)
        lines += starts[:, None]
        flat = lines.reshape(-1)
        out[:whole] = flat[:whole]
        out[whole:] = flat[whole : len(out)]
