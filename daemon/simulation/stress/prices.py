"""Index prices of the coins (floor 5): geometric Brownian motion, or jump-diffusion with the regime's volatility and a shared mixing.

Within an hour the log moves of all coins are normal with the file's correlation; each hour has one mixing factor for all of them, so that
hours are multivariate t (t copula, t margins of the same degrees of freedom, the stated variance). The regime multiplies on top. Drift is
the expected return: half the variance is taken off the log. Jumps are added whole at their row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.errors import UserError
from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.regime import Spells, by_row, counts_of_rows, happenings
from daemon.simulation.stress.worldfile import WorldSpec

Floats = NDArray[np.float64]
YEAR_H = 365.25 * 24.0


@dataclass(frozen=True, slots=True)
class Jump:
    """A move at a row: `base` is the index of the coin, `size` of the log price."""

    row: int
    base: int
    size: float


class Coins:
    """The laws of the coins of one world, as arrays: made once, then only read."""

    def __init__(self, world: WorldSpec, bases: Sequence[str]) -> None:
        self.world = world
        self.bases = tuple(bases)
        specs = [world.asset(base) for base in self.bases]
        self.specs = specs
        self.volatility: Floats = np.array([spec.volatility for spec in specs])
        self.drift: Floats = np.array([spec.drift for spec in specs])
        self.correlation: Floats = np.array([[world.correlation(a, b) for b in self.bases] for a in self.bases])
        try:
            self.lower: Floats = np.linalg.cholesky(self.correlation).astype(np.float64)
        except np.linalg.LinAlgError:
            names = ", ".join(self.bases)
            raise UserError(
                f"the correlations of {names} in world '{world.world}' contradict each other (the matrix is not positive definite); "
                "bring the pairs closer together"
            ) from None
        self.dof = world.copula.dof if world.copula else None

    def mixing(self, draws: Draws, entity: str, hours: int) -> Floats | None:
        """The factor of each hour's moves, mean square 1: float64[hours]; None when hours are normal."""
        if self.dof is None:
            return None
        chi_square = 2.0 * draws.stream(Purpose.MIXING, entity).standard_gamma(self.dof / 2.0, hours)
        factors: Floats = np.sqrt((self.dof - 2.0) / chi_square)
        return factors

    def scale(self, draws: Draws, entity: str, spells: Spells, rows: int, rows_per_hour: int) -> Floats:
        """The factor on volatility of each row: float64[rows]."""
        hours = -(-rows // rows_per_hour)
        mixing = self.mixing(draws, entity, hours)
        if self.world.regimes is None or len(spells) == 1:
            level = 1.0 if self.world.regimes is None else self.world.regimes.multipliers()[spells[0][1]].volatility
            if mixing is None:
                return np.full(rows, level)
            return np.repeat(mixing * level, rows_per_hour)[:rows]
        factors = [m.volatility for m in self.world.regimes.multipliers()]
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
        root = math.sqrt(step)
        scratch = np.empty(normals.shape[1])
        variance = scale * scale
        for i in range(len(self.bases)):
            row = out[i]
            np.multiply(normals[i], self.volatility[i] * root * (self.lower[i, i] if correlated else 1.0), out=row)
            if correlated:
                for k in range(i):
                    if self.lower[i, k] != 0.0:
                        np.multiply(normals[k], self.volatility[i] * root * self.lower[i, k], out=scratch)
                        row += scratch
            row *= scale[i] if scale.ndim == 2 else scale
            np.multiply(variance[i] if variance.ndim == 2 else variance, -0.5 * self.volatility[i] ** 2 * step, out=scratch)
            scratch += self.drift[i] * step
            row += scratch

    def jumps(
        self,
        draws: Draws,
        spells: Sequence[Spells],
        hours: float,
        rows_per_hour: float,
        *,
        together: bool,
        factor: float = 1.0,
    ) -> tuple[Jump, ...]:
        """All jumps of a path. `spells`: of each coin (the same ones when regimes are shared); `factor` multiplies every rate."""
        table = self.world.regimes.multipliers() if self.world.regimes else None
        factors = [m.jumps for m in table] if table else [1.0, 1.0, 1.0]
        rows = round(hours * rows_per_hour)
        found: list[Jump] = []
        common = self.world.jumps
        if common is not None:
            shared = happenings(draws, Purpose.JUMP_COMMON, "", common.rate * factor, spells[0], factors, hours) if together else []
            for i, spec in enumerate(self.specs):
                own = shared
                if not together:
                    own = happenings(draws, Purpose.JUMP_COMMON, self.bases[i], common.rate * factor, spells[i], factors, hours)
                found += [
                    Jump(min(rows - 1, int(at * rows_per_hour)), i, spec.jump_factor * (common.mean + common.deviation * normal))
                    for at, normal, _ in own
                ]
        for i, spec in enumerate(self.specs):
            if spec.jumps is not None:
                own = happenings(draws, Purpose.JUMP_OWN, self.bases[i], spec.jumps.rate * factor, spells[i], factors, hours)
                found += [
                    Jump(min(rows - 1, int(at * rows_per_hour)), i, spec.jumps.mean + spec.jumps.deviation * normal)
                    for at, normal, _ in own
                ]
        found.sort(key=lambda jump: (jump.row, jump.base))
        return tuple(found)
