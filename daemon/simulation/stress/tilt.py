"""Importance sampling of rare losses (floor 5): paths pushed towards an adverse move, and what each weighs.

    tilt = towards(world, {"dydx:BTC-USD": 300_000.0}, loss_usd=34_000.0, horizon_ns=7 * DAY_NS)
    source = PathSource(world, ..., tilt=tilt);  source.path(5).log_ratio[-1]      # log of the path's weight

Paths come from a mixture of five laws, by number: the plain one; `move`, whose diffusion drifts; `jumps`, which come more often and
larger; `worse`, whose regimes worsen more often, and `wild`, one hour of which moves as only the tail of the t distribution does; in both
the diffusion drifts too. Given the volatility of a path (regimes and mixing), a
drift shifts the normals of row t by theta_t, in proportion to that row's volatility, so that the expected move within the horizon is the
one asked for; the log likelihood ratio up to a row is the sum of theta z - theta^2 / 2 (Girsanov). Jumps at k times the rate add
N log k - (k - 1) x expected number, and normals shifted by d add d n - d^2 / 2. An hour's chi-square multiplied by s has the ratio
s^-a exp(-(1/s - 1) g), g half the chi-square and a half its degrees of freedom; the hour is any, so their mean counts. Whatever law a path
came from, it weighs dP/dQ = 1 / sum of share x ratio over the five: at most 1 / the plain share.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.prices import YEAR_H, Coins, Jumped, JumpPush
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import HOUR_NS

Floats = NDArray[np.float64]


def base_of(market: str) -> str:
    """The coin of a market id: BTC of dydx:BTC-USD."""
    return market.partition(":")[2].partition("-")[0]


Law = Literal["plain", "move", "jumps", "worse", "wild"]
PERIOD = 20  # of the pattern in which path numbers take their laws; shares are twentieths
WORSENING = 50.0  # as far as it makes sense (`regime.worsened`)
WILD_SHARE = 0.5  # of the loss: one deviation of the hour that law `wild` multiplies
WILD_LEAST = 2.0  # a factor on an hour's moves below this is no law of its own
_STRIDE = 7  # coprime to the period: spreads each law over it


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """Where paths are pushed: `move`, the log move by market that is expected within `horizon_ns` (the others follow as they correlate).

    `plain`: share of paths that are not pushed, a multiple of 5 %. `jump_factor` multiplies the rate of jumps and `jump_shift` (deviations)
    the size of common ones in law `jumps`; `worsening` multiplies what leads to worse regimes, where it is rare, in law `worse`; `wildness`
    multiplies the moves of one hour in law `wild`. Factors of 1 leave a law out.
    """

    move: Mapping[str, float]
    horizon_ns: int
    plain: float = 0.2
    jump_factor: float = 1.0
    jump_shift: float = 0.0
    worsening: float = 1.0
    wildness: float = 1.0

    def __post_init__(self) -> None:
        whole = abs(self.plain * PERIOD - round(self.plain * PERIOD)) < 1e-9
        above = min(self.jump_factor, self.worsening, self.wildness, self.horizon_ns) > 0.0
        if not (0.0 < self.plain <= 1.0 and whole and above):
            raise ValueError(f"a tilt needs a plain share that is a multiple of 5%, factors and a horizon above 0; found {self}")

    @property
    def shares(self) -> Mapping[Law, float]:
        """Share of each law in the mixture; they add up to 1."""
        pattern = self._pattern()
        return {law: pattern.count(law) / PERIOD for law in dict.fromkeys(pattern)}

    def law(self, number: int) -> Law:
        """The law that the path of this number is drawn from: the shares hold exactly in every twenty paths."""
        return self._pattern()[number * _STRIDE % PERIOD]

    def _pattern(self) -> list[Law]:
        plain = round(self.plain * PERIOD)
        used: list[Law] = ["move"]
        if self.jump_factor != 1.0 or self.jump_shift != 0.0:
            used.append("jumps")
        if self.worsening != 1.0:
            used.append("worse")
        if self.wildness != 1.0:
            used.append("wild")
        laws: list[Law] = ["plain"] * plain
        return laws + [used[k % len(used)] for k in range(PERIOD - plain)]


def towards(
    world: WorldSpec,
    exposures: Mapping[str, float],
    *,
    loss_usd: float,
    horizon_ns: int,
    plain: float = 0.2,
) -> Tilt:
    """The tilt by the likeliest log moves that lose `loss_usd` of positions: -loss C e / (e C e), C the covariance of the coins.

    `exposures`: signed notional by market, USD. Two jumps are expected within the horizon under law `jumps`, each of half the loss as far
    as two deviations reach; under law `wild` one hour's deviation is half the loss. Raises ValueError when nothing that moves is exposed.
    """
    bases = tuple(dict.fromkeys(base_of(market) for market in exposures))
    coins = Coins(world, bases)
    held = np.zeros(len(bases))
    for market, notional in exposures.items():
        held[bases.index(base_of(market))] += notional
    covariance = coins.correlation * np.outer(coins.volatility, coins.volatility)
    along = covariance @ held
    variance = float(held @ along)
    if not variance > 0.0:
        raise ValueError("no exposure to anything that moves; a tilt has no direction")
    moves = -loss_usd / variance * along
    jump_factor, jump_shift = 1.0, 0.0
    if world.jumps is not None and world.jumps.rate > 0.0:
        jump_factor = max(1.0, 2.0 / (world.jumps.rate * horizon_ns / HOUR_NS))
        hit = float(held @ np.array([spec.jump_factor for spec in coins.specs])) * world.jumps.deviation
        if hit:
            jump_shift = min(2.0, max(-2.0, -0.5 * loss_usd / hit))
    wildness = 1.0
    if coins.dof is not None:
        wildness = max(1.0, WILD_SHARE * loss_usd / math.sqrt(variance / YEAR_H) / math.sqrt(coins.dof / (coins.dof - 2.0)))
    return Tilt(
        move={market: float(moves[bases.index(base_of(market))]) for market in exposures},
        horizon_ns=horizon_ns,
        plain=plain,
        jump_factor=jump_factor,
        jump_shift=jump_shift,
        worsening=WORSENING if world.regimes is not None else 1.0,
        wildness=wildness if wildness > WILD_LEAST else 1.0,
    )


class Push:
    """A tilt made ready for the coins and rows of one source."""

    def __init__(self, tilt: Tilt, coins: Coins, *, rows: int, step_ns: int, correlated: bool) -> None:
        self.tilt = tilt
        self.shares = tilt.shares
        self.step = step_ns / HOUR_NS / YEAR_H
        self.rows = min(rows, max(1, round(tilt.horizon_ns / step_ns)))
        targets: dict[int, float] = {}
        for market, move in tilt.move.items():
            base = base_of(market)
            if base in coins.bases and coins.volatility[coins.bases.index(base)] > 0.0:
                targets.setdefault(coins.bases.index(base), move)
        rows_of = sorted(targets)
        wanted = np.array([targets[i] / coins.volatility[i] for i in rows_of])
        mix = coins.lower if correlated else np.eye(len(coins.bases))
        # The shortest shift of the independent normals whose mixture makes the moves asked for.
        self.direction: Floats = np.linalg.pinv(mix[rows_of]) @ wanted if rows_of else np.zeros(len(coins.bases))

    def jumps(self, law: Law) -> JumpPush:
        """How a path of a law draws its jumps."""
        tilt = self.tilt
        return JumpPush(rows=self.rows, factor=tilt.jump_factor, shift=tilt.jump_shift, is_active=True, is_pushed=law == "jumps")

    def make_wild(self, mixing: Floats, u: float) -> None:
        """Multiplies the moves of the hour that `u` in (0, 1) falls on, in place. `mixing`: factors by hour."""
        mixing[min(len(mixing) - 1, int(u * len(mixing)))] *= self.tilt.wildness

    def wild_log_ratio(self, mixing: Floats, dof: float) -> float:
        """Log dQ/dP of a path's mixing factors under law `wild`."""
        square = self.tilt.wildness**2
        half_chi_square = (dof - 2.0) / (2.0 * mixing * mixing)
        ratios = 0.5 * dof * math.log(square) - (square - 1.0) * half_chi_square
        return float(np.logaddexp.reduce(ratios)) - math.log(len(mixing))

    def steps(self, scale: Floats) -> Floats:
        """What each row's shift is of `direction`: scale sqrt(step) / variance within the horizon. float64[rows] or [bases, rows]."""
        shares = np.zeros_like(scale)
        inside = scale[..., : self.rows]
        variance = np.sum(inside * inside, axis=-1, keepdims=True) * self.step
        shares[..., : self.rows] = inside * (math.sqrt(self.step) / variance)
        return shares

    def apply(self, normals: Floats, shares: Floats) -> None:
        """Shifts the normals (float64[bases, rows]) of a pushed path, in place."""
        if shares.ndim == 2:
            normals += self.direction[:, None] * shares
        else:
            for normal, part in zip(normals, self.direction.tolist(), strict=True):
                if part:
                    normal += part * shares

    def log_ratio(self, normals: Floats, shares: Floats, jumped: Jumped, worse: float, wild: float) -> Floats:
        """Log dP/dQ of the draws up to each row, Q the mixture: float64[rows].

        `normals`: as used, shifted or not; `worse`, `wild`: log ratios of the path's regimes and of its hours, known from its start.
        """
        if shares.ndim == 2:
            theta = self.direction[:, None] * shares
            steps = np.einsum("kt,kt->t", theta, normals) - 0.5 * np.einsum("kt,kt->t", theta, theta)
        else:
            square = float(self.direction @ self.direction)
            steps = np.einsum("k,kt->t", self.direction, normals)
            steps -= (0.5 * square) * shares
            steps *= shares
        moved: Floats = np.cumsum(steps)
        of_law: dict[str, Floats | float] = {"plain": 0.0, "move": moved}
        if "jumps" in self.shares:
            steps = np.zeros_like(moved)
            for row, gain in jumped.gains:
                steps[row] += gain
            for begin, end, loss in jumped.losses:
                steps[begin:end] -= loss
            of_law["jumps"] = np.cumsum(steps)
        if "worse" in self.shares:
            of_law["worse"] = moved + worse
        if "wild" in self.shares:
            of_law["wild"] = moved + wild
        total: Floats = np.full_like(moved, -math.inf)
        for law, share in self.shares.items():
            np.logaddexp(total, math.log(share) + of_law[law], out=total)
        return np.negative(total, out=total)
