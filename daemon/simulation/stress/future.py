"""The two ways in which a path's prices come about (floor 5): by a law of the world file, or drawn from a recorded past.

made = Diffusion(world, bases, grid_rows, ...).make(draws, 12)       # made.walked: log of each coin's index over its start, by row
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.history import Residuals, regimes_reached, row_moves, row_premiums
from daemon.simulation.stress.prices import PLAIN, YEAR_H, Coins, Jump
from daemon.simulation.stress.regime import Spells, regime_spells, worsening_log_ratio
from daemon.simulation.stress.tilt import Law, Push, Tilt
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import HOUR_NS

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """The prices of a path, in memory that the next path uses again. `premium`: where the way brings its own, float64[markets, rows]."""

    walked: Floats  # float64[coins, rows]: log of the index over its start
    scale: Floats  # factor on the coins' volatility: float64[rows] or [coins, rows]
    spells: Spells
    jumps: tuple[Jump, ...] = ()
    log_ratio: Floats | None = None
    pushed: bool = False
    premium: Floats | None = None
    first: Floats | None = None  # float64[markets]: premium at the start


class Diffusion:
    """Geometric Brownian motion or jump-diffusion; tilted where a tilt is given."""

    def __init__(self, world: WorldSpec, bases: Sequence[str], *, rows: int, step_ns: int, tilt: Tilt | None, dependence: bool) -> None:
        self.world, self.dependence, self.rows = world, dependence, rows
        self.rows_per_hour = HOUR_NS // step_ns
        self.hours = rows / self.rows_per_hour
        self.coins = Coins(world, bases)
        self.bases, self.volatility = self.coins.bases, self.coins.volatility
        self.lower: Floats = self.coins.lower if dependence else np.eye(len(self.bases))
        if tilt is not None and not (dependence and self.coins.dof):
            tilt = replace(tilt, wildness=1.0)
        self._push = Push(tilt, self.coins, rows=rows, step_ns=step_ns, correlated=dependence) if tilt else None
        self._normals, self._moves = np.empty((len(bases), rows)), np.empty((len(bases), rows))

    def make(self, draws: Draws, number: int) -> Made:
        """The prices of the path of a number."""
        coins, push, regimes = self.coins, self._push, self.world.regimes
        law = push.tilt.law(number) if push else "plain"
        worsening = push.tilt.worsening if push and law == "worse" else 1.0
        spells = regime_spells(draws, regimes, self.hours, worsening=worsening)
        own = [spells] * len(coins.bases)
        if not self.dependence and regimes is not None:
            own = [regime_spells(draws, regimes, self.hours, f"price:{base}", worsening) for base in coins.bases]
        coins.normals(draws, self._normals)
        scale, wild = self._scale(draws, own, law)
        jumping = push.jumps(law) if push else PLAIN
        jumped = coins.jumps(draws, own, self.hours, self.rows_per_hour, together=self.dependence, push=jumping)
        log_ratio = None
        if push is not None:
            steps = push.steps(scale)
            if law in ("move", "worse", "wild"):
                push.apply(self._normals, steps)
            chains = [spells] if self.dependence else own
            worse = sum(worsening_log_ratio(chain, regimes, self.hours, push.tilt.worsening) for chain in chains)
            log_ratio = push.log_ratio(self._normals, steps, jumped, worse, wild)
        coins.log_moves(self._normals, scale, 1.0 / self.rows_per_hour, self._moves, correlated=self.dependence)
        for jump in jumped.jumps:
            self._moves[jump.base, jump.row] += jump.size
        walked = np.cumsum(self._moves, axis=1, out=self._normals)
        return Made(walked=walked, scale=scale, spells=spells, jumps=jumped.jumps, log_ratio=log_ratio, pushed=law != "plain")

    def _scale(self, draws: Draws, own: Sequence[Spells], law: Law) -> tuple[Floats, float]:
        """The factor on volatility of each row, and the log ratio of law `wild` for its hours."""
        coins, push, hours = self.coins, self._push, -(-self.rows // self.rows_per_hour)
        if not self.dependence:
            mixings = [coins.mixing(draws, base, hours) for base in coins.bases]
            each = [coins.scale(m, spells, self.rows, self.rows_per_hour) for m, spells in zip(mixings, own, strict=True)]
            return np.stack(each), 0.0
        mixing, wild = coins.mixing(draws, "", hours), 0.0
        if mixing is not None and push is not None and "wild" in push.shares:
            assert coins.dof is not None
            if law == "wild":
                push.make_wild(mixing, draws.uniform(Purpose.OTHER, "wild hour", 0))
            wild = push.wild_log_ratio(mixing, coins.dof)
        return coins.scale(mixing, own[0], self.rows, self.rows_per_hour), wild


class Past:
    """Filtered historical simulation: each market is a coin of its own, since its closes are its own. Not tilted."""

    def __init__(self, world: WorldSpec, markets: Sequence[str], past: Residuals, *, rows: int, step_ns: int, dependence: bool) -> None:
        assert world.history is not None
        self.law, self.past, self.dependence, self.rows = world.history, past, dependence, rows
        self.rows_per_hour = HOUR_NS // step_ns
        self.hours = -(-rows // self.rows_per_hour)
        self.bases = tuple(markets)
        self.lower: Floats = np.linalg.cholesky(past.correlation).astype(np.float64) if dependence else np.eye(len(self.bases))
        self.volatility: Floats = np.ones(len(self.bases))  # a year: all of it is in a path's scale
        self._normals = np.empty((len(markets), self.hours * self.rows_per_hour))

    def make(self, draws: Draws, number: int) -> Made:
        """The prices of the path of a number."""
        law = self.law
        drawn = self.past.draw(draws, hours=self.hours, block_h=law.block / HOUR_NS, together=self.dependence)
        spells = regimes_reached(drawn, self.past.usual, stressed_above=law.stressed_above, crisis_above=law.crisis_above)
        for market, row in zip(self.bases, self._normals, strict=True):
            draws.normals(Purpose.PRICE, market, row)
        moves = row_moves(drawn, self.lower, self._normals, self.rows_per_hour)
        walked = np.cumsum(moves, axis=1)[:, : self.rows]
        scale = np.repeat(drawn.deviations.T * math.sqrt(YEAR_H), self.rows_per_hour, axis=1)[:, : self.rows]
        premium = row_premiums(drawn, self.past.premium, self.rows_per_hour)[:, : self.rows]
        return Made(walked=walked, scale=scale, spells=spells, premium=premium, first=self.past.premium)
