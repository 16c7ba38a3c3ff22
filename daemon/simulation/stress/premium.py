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
from dataclasses import dataclass
from functools import lru_cache

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


def sampled(premiums: Floats, impact: Floats, out: Floats | None = None) -> Floats:
    """What an impact-price sample shows of a premium: nothing within +- `impact`, the rest beyond. `impact` broadcasts."""
    shown: Floats = np.maximum(premiums, -impact, out=out)
    np.minimum(shown, impact, out=shown)
    np.subtract(premiums, shown, out=shown)
    return shown


@lru_cache(maxsize=64)
def _powers(decay: float, count: int) -> Floats:
    return decay ** np.arange(1.0, count + 1.0)


def mean_reverting(pushes: Floats, decay: float, first: Floats) -> Floats:
    """y[k] = decay y[k-1] + pushes[k] along the last axis with y[-1] = `first` (float64[rows of pushes]).

    By scaled sums in blocks short enough that the scale keeps its digits: no loop over k.
    """
    assert 0.0 < decay < 1.0
    count = pushes.shape[-1]
    block = max(1, min(count, int(HALF_LIVES * math.log(2.0) / -math.log(decay))))
    powers = _powers(decay, block)
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


@dataclass(frozen=True, slots=True)
class _Group:
    """The processes of one law: the rows of the walk that they have, which markets and coins they belong to."""

    begin: int
    markets: tuple[int, ...]
    coins: tuple[int, ...]
    spec: PremiumSpec
    decay: float  # of a knot
    levels: tuple[float, ...]  # by regime
    noises: tuple[float, ...]  # of a knot's push, by regime

    @property
    def end(self) -> int:
        """The row behind the last."""
        return self.begin + len(self.markets)


class Premiums:
    """The premium processes of the markets of a source; a market whose venue has none stays at 0."""

    def __init__(self, markets: Sequence[str], specs: Sequence[PremiumSpec | None], coins: Sequence[int], rows: int, step_s: float) -> None:
        self.markets = tuple(markets)
        self.rows = rows
        self.per_knot = max(1, round(KNOT_S / step_s))  # rows
        self.knots = -(-rows // self.per_knot)
        self.knots_per_hour = 3600.0 / (self.per_knot * step_s)
        self._shares = [(row + 1.0) / self.per_knot for row in range(self.per_knot)]  # of the way from a knot to the next, by row
        self.groups: list[_Group] = []
        order: list[int] = []
        for spec in dict.fromkeys(id(spec) for spec in specs if spec is not None):
            law = next(found for found in specs if id(found) == spec)
            assert law is not None
            mine = tuple(i for i, found in enumerate(specs) if id(found) == spec)
            decay = 0.5 ** (self.per_knot * step_s * 1e9 / law.half_life)
            levels = tuple(law.mean[name] for name in REGIMES)
            noises = tuple(law.noise[name] * math.sqrt(1.0 - decay * decay) for name in REGIMES)
            self.groups.append(_Group(len(order), mine, tuple(coins[i] for i in mine), law, decay, levels, noises))
            order += mine
        self.any = bool(order)
        self.any_response = any(group.spec.response for group in self.groups)
        self.is_in_order = order == list(range(len(self.markets)))
        self._order = order
        self._knots = np.empty((len(order), self.knots))
        self._starts = np.empty_like(self._knots)
        self._walk = np.empty((len(order), self.knots, self.per_knot))

    def starts(self, states: Sequence[int]) -> Floats:
        """The premium at the start of a path, its regime's mean: float64[markets]. `states`: the regime of each market at the start."""
        first = np.zeros(len(self.markets))
        for group in self.groups:
            for market in group.markets:
                first[market] = group.levels[states[market]]
        return first

    def draw(self, draws: Draws, spells: Sequence[Spells], walked: Floats) -> tuple[Floats, Floats]:
        """Premiums at the start, float64[markets], and by row, float64[markets, rows] (its memory is used again by the next path).

        `spells`: of each market; `walked`: log of the coins' index over its start, by row.
        """
        first = self.starts([own[0][1] for own in spells])
        pushed = self._moves(walked) if self.any_response else None
        shared = all(own is spells[0] for own in spells)
        for group in self.groups:
            pushes = self._knots[group.begin : group.end]
            for row, market in zip(pushes, group.markets, strict=True):
                draws.normals(Purpose.PREMIUM, self.markets[market], row)
            if shared:
                self._add_level(pushes, group, spells[0])
            else:
                for row, market in zip(pushes, group.markets, strict=True):
                    self._add_level(row, group, spells[market])
            if pushed is not None and group.spec.response:
                pushes += group.spec.response * pushed[list(group.coins)]
            begins = first[list(group.markets)]
            ends = mean_reverting(pushes, group.decay, begins)
            starts = self._starts[group.begin : group.end]
            starts[:, 0] = begins
            starts[:, 1:] = ends[:, :-1]
            ends -= starts
            lines = self._walk[group.begin : group.end]
            # Not by matmul: threads of a linear algebra library that wait for each other cost more than all of the rest.
            for row, share in enumerate(self._shares):
                np.multiply(ends, share, out=lines[:, :, row])
                lines[:, :, row] += starts
        walk = self._walk.reshape(len(self._order), self.knots * self.per_knot)[:, : self.rows]
        if self.is_in_order:
            return first, walk
        by_market = np.zeros((len(self.markets), self.rows))
        by_market[self._order] = walk
        return first, by_market

    def _moves(self, walked: Floats) -> Floats:
        """Log move of each coin from knot to knot: float64[coins, knots]. The last one ends with the rows."""
        moves = np.empty((len(walked), self.knots))
        whole = self.rows // self.per_knot
        moves[:, :whole] = walked[:, self.per_knot - 1 :: self.per_knot]
        if whole < self.knots:
            moves[:, whole] = walked[:, -1]
        moves[:, 1:] -= moves[:, :-1].copy()
        return moves

    def _add_level(self, pushes: Floats, group: _Group, spells: Spells) -> None:
        """Turns standard normals of one or all processes into what each knot adds."""
        if len(spells) == 1:
            state = spells[0][1]
            pushes *= group.noises[state]
            pushes += (1.0 - group.decay) * group.levels[state]
        else:
            counts = counts_of_rows(spells, self.knots, self.knots_per_hour)
            pushes *= by_row(group.noises, spells, counts)
            pushes += by_row([(1.0 - group.decay) * level for level in group.levels], spells, counts)
