"""Index prices of the coins (floor 5): geometric Brownian motion, or jump-diffusion with the regime's volatility and a shared mixing.

Within an hour the log moves of all coins are normal with the file's correlation; each hour has one mixing factor for all of them, so that
hours are multivariate t (t copula, t margins of the same degrees of freedom, the stated variance). The regime multiplies on top. Drift is
the expected return: half the variance is taken off the log. Jumps are added whole at their row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from daemon.errors import UserError
from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.regime import Spells, by_row, counts_of_rows, exposure, happenings
from daemon.simulation.stress.worldfile import WorldSpec

Floats = NDArray[np.float64]
YEAR_H = 365.25 * 24.0


@dataclass(frozen=True, slots=True)
class Jump:
    """A move at a row: `base` is the index of the coin, `size` of the log price."""

    row: int
    base: int
    size: float


@dataclass(frozen=True, slots=True)
class JumpPush:
    """How the pushed law draws jumps in the first `rows` rows: `factor` times as often, common ones `shift` deviations larger."""

    rows: int = 0
    factor: float = 1.0
    shift: float = 0.0
    is_active: bool = False  # the ratio of the two laws is asked for
    is_pushed: bool = False  # and this path is drawn from the pushed one


PLAIN = JumpPush()


@dataclass(frozen=True, slots=True)
class Jumped:
    """The jumps of a path, and what they add to log dQ/dP: `gains` by row, `losses` by (first row, row behind the last, a row's)."""

    jumps: tuple[Jump, ...]
    gains: tuple[tuple[int, float], ...]
    losses: tuple[tuple[int, int, float], ...]


@dataclass(frozen=True, slots=True)
class _Stream:
    """One source of jumps: its rate in calm, and for each coin it moves (coin, mean, deviation of the log size)."""

    purpose: Purpose
    entity: str
    rate: float
    shift: float
    sizes: list[tuple[int, float, float]]


class Coins:
    """The laws of the coins of one world, as arrays: made once, then only read."""

    def __init__(self, world: WorldSpec, bases: Sequence[str]) -> None:
        self.bases = tuple(bases)
        self.specs = [world.asset(base) for base in self.bases]
        self.regimes, self.common = world.regimes, world.jumps
        self.volatility: Floats = np.array([spec.volatility for spec in self.specs])
        self.drift: Floats = np.array([spec.drift for spec in self.specs])
        self.correlation: Floats = np.array([[world.correlation(a, b) for b in self.bases] for a in self.bases])
        self.dof = world.copula.dof if world.copula else None
        try:
            self.lower: Floats = np.linalg.cholesky(self.correlation).astype(np.float64)
        except np.linalg.LinAlgError:
            names = ", ".join(self.bases)
            raise UserError(
                f"the correlations of {names} in world '{world.world}' contradict each other (the matrix is not positive definite); "
                "bring the pairs closer together"
            ) from None

    def mixing(self, draws: Draws, entity: str, hours: int) -> Floats | None:
        """The factor of each hour's moves, mean square 1: float64[hours]; None when hours are normal."""
        if self.dof is None:
            return None
        chi_square = 2.0 * draws.stream(Purpose.MIXING, entity).standard_gamma(self.dof / 2.0, hours)
        factors: Floats = np.sqrt((self.dof - 2.0) / chi_square)
        return factors

    def scale(self, mixing: Floats | None, spells: Spells, rows: int, rows_per_hour: int) -> Floats:
        """The factor on volatility of each row, of `mixing` by hour and of the regimes: float64[rows]."""
        if self.regimes is None or len(spells) == 1:
            level = 1.0 if self.regimes is None else self.regimes.multipliers()[spells[0][1]].volatility
            if mixing is None:
                return np.full(rows, level)
            return np.repeat(mixing * level, rows_per_hour)[:rows]
        factors = [m.volatility for m in self.regimes.multipliers()]
        scale = by_row(factors, spells, counts_of_rows(spells, rows, rows_per_hour))
        if mixing is not None:
            scale *= np.repeat(mixing, rows_per_hour)[:rows]
        return scale

    def normals(self, draws: Draws, out: Floats) -> None:
        """Independent standard normals of every coin and row: float64[bases, rows]."""
        for base, row in zip(self.bases, out, strict=True):
            draws.normals(Purpose.PRICE, base, row)

    def log_moves(self, normals: Floats, scale: Floats, hours_per_row: float, out: Floats, *, correlated: bool) -> None:
        """Log move of every coin and row into `out`: float64[bases, rows]. `scale`: float64[rows], or [bases, rows]."""
        step = hours_per_row / YEAR_H
        mix = self.lower if correlated else np.eye(len(self.bases))
        # einsum and not matmul: sums of a fixed order, whatever the linear algebra library and its threads do.
        np.einsum("ik,kt->it", mix * (self.volatility * math.sqrt(step))[:, None], normals, out=out)
        variance = scale * scale
        cost = np.empty(out.shape[1])
        for i, row in enumerate(out):
            row *= scale[i] if scale.ndim == 2 else scale
            np.multiply(variance[i] if variance.ndim == 2 else variance, -0.5 * self.volatility[i] ** 2 * step, out=cost)
            row += cost
            if self.drift[i]:
                row += self.drift[i] * step

    def jumps(self, draws: Draws, spells: Sequence[Spells], hours: float, rows_per_hour: int, *, together: bool, push: JumpPush) -> Jumped:
        """All jumps of a path. `spells`: of each coin (the same ones when regimes are shared); `together`: common jumps hit all at once."""
        common = self.common
        table = [m.jumps for m in self.regimes.multipliers()] if self.regimes else [1.0, 1.0, 1.0]
        coins = range(len(self.bases))
        streams: list[_Stream] = []
        if common is not None:
            sizes = [(i, self.specs[i].jump_factor * common.mean, self.specs[i].jump_factor * common.deviation) for i in coins]
            if together:
                streams.append(_Stream(Purpose.JUMP_COMMON, "", common.rate, push.shift, sizes))
            else:
                streams += [_Stream(Purpose.JUMP_COMMON, self.bases[i], common.rate, push.shift, [sizes[i]]) for i in coins]
        for i in coins:
            own = self.specs[i].jumps
            if own is not None and own.rate > 0.0:
                streams.append(_Stream(Purpose.JUMP_OWN, self.bases[i], own.rate, 0.0, [(i, own.mean, own.deviation)]))
        found: list[Jump] = []
        gains: list[tuple[int, float]] = []
        losses: list[tuple[int, int, float]] = []
        for stream in streams:
            self._jump(draws, stream, spells[stream.sizes[0][0]], table, hours, rows_per_hour, push, found, gains, losses)
        found.sort(key=lambda jump: (jump.row, jump.base))
        return Jumped(tuple(found), tuple(gains), tuple(losses))

    def _jump(
        self,
        draws: Draws,
        stream: _Stream,
        spells: Spells,
        table: list[float],
        hours: float,
        rows_per_hour: int,
        push: JumpPush,
        found: list[Jump],
        gains: list[tuple[int, float]],
        losses: list[tuple[int, int, float]],
    ) -> None:
        """Adds the jumps of one stream, and what they say of the pushed law against the plain one."""
        rows = round(hours * rows_per_hour)
        aligned = by_whole_rows(spells, rows_per_hour)
        factors = table
        if push.is_active:
            until = push.rows / rows_per_hour
            aligned = split(aligned, until, len(table))
            factors = [level * push.factor if push.is_pushed else level for level in table] + table
            ends = [at for at, _ in aligned[1:]] + [hours]
            for (at, state), end in zip(aligned, ends, strict=True):
                if state < len(table) and end > at:
                    a_row = (push.factor - 1.0) * stream.rate * table[state] / rows_per_hour
                    losses.append((round(at * rows_per_hour), round(end * rows_per_hour), a_row))
        total = stream.rate * exposure(1.0, aligned, tuple(factors), hours)
        for at, normal, _ in happenings(draws, stream.purpose, stream.entity, stream.rate, aligned, factors, hours, total):
            row = min(rows - 1, int(at * rows_per_hour))
            if push.is_active and row < push.rows:
                normal += stream.shift if push.is_pushed else 0.0
                gains.append((row, math.log(push.factor) + stream.shift * normal - 0.5 * stream.shift**2))
            found += [Jump(row, coin, mean + deviation * normal) for coin, mean, deviation in stream.sizes]


@lru_cache(maxsize=64)
def by_whole_rows(spells: Spells, rows_per_hour: int) -> Spells:
    """The spells as rows see them: a rate changes with a row, as volatility does, so that what a row weighs is exact."""
    return tuple((math.ceil(at * rows_per_hour) / rows_per_hour, state) for at, state in spells)


def split(spells: Spells, hour: float, offset: int) -> Spells:
    """The same spells, those from `hour` on with `offset` added to their number."""
    before = tuple(spell for spell in spells if spell[0] < hour)
    after = tuple((at, state + offset) for at, state in spells if at >= hour)
    if before and (not after or after[0][0] > hour):
        after = ((hour, before[-1][1] + offset), *after)
    return before + after
