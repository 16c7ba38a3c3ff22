"""The survival map (floor 5): how likely an account is liquidated after a common move, against how long money takes to arrive.

    chance = closed_form(distance=0.25, direction=-1, volatility=0.9, horizon_ns=7 * DAY_NS)
    picture = survival_map(chance, moves=moves, delays_s=delays, about="...")

WITHOUT: liquidated within the horizon, nobody sends anything. WITH: liquidated before money arrives that is sent now. The closed form takes
all prices as one geometric Brownian motion and the delay as exponential; any other function of (move, delay) may stand in for it.
Sources: reflection principle for a Brownian motion with drift; Borodin and Salminen, Handbook of Brownian Motion, 2.0.1 (first hit and an
independent exponential time).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from daemon.units import NS

Floats = NDArray[np.float64]
# (adverse common move, ratio >= 0; settlement delay that 95 % of transfers keep to, s) -> (P liquidated without, with)
Chance = Callable[[float, float], tuple[float, float]]
YEAR_S = 365.25 * 86_400.0
P95_OF_MEAN = math.log(20.0)  # an exponential delay: 95 % arrive within this many times its mean
_NORMAL = NormalDist()


def hit_within(barrier: float, drift: float, volatility: float, years: float) -> float:
    """P that a Brownian motion reaches `barrier` (log; 0 = reached already) within `years`; drift and volatility a year."""
    if barrier == 0.0:
        return 1.0
    if volatility <= 0.0 or years <= 0.0:
        return float(drift * years / barrier >= 1.0)
    # Mirrored, so that the barrier lies below.
    b, nu = (barrier, drift) if barrier < 0.0 else (-barrier, -drift)
    scale = volatility * math.sqrt(years)
    first = _NORMAL.cdf((b - nu * years) / scale)
    exponent = 2.0 * nu * b / volatility**2
    second = _NORMAL.cdf((b + nu * years) / scale)
    return min(1.0, first + (math.exp(exponent) * second if second > 0.0 else 0.0))


def hit_before_money(barrier: float, drift: float, volatility: float, mean_delay_years: float) -> float:
    """P that it reaches `barrier` before an exponential time of that mean, l = 1 / mean: exp((nu b - |b| sqrt(nu^2 + 2 l s^2)) / s^2)."""
    if barrier == 0.0:
        return 1.0
    if mean_delay_years <= 0.0:
        return 0.0
    rate = 1.0 / mean_delay_years
    return math.exp((drift * barrier - abs(barrier) * math.sqrt(drift**2 + 2.0 * rate * volatility**2)) / volatility**2)


def closed_form(*, distance: float, direction: int, volatility: float, horizon_ns: int, drift: float = 0.0) -> Chance:
    """The chance when all prices are one geometric Brownian motion (`drift`: of the log price, a year).

    `distance` is the common move that liquidates the account now, a ratio > 0; `direction` -1 when a fall does it, +1 when a rise does.
    """
    level = math.log1p(direction * distance) if direction * distance > -1.0 else -math.inf

    def chance(move: float, p95_s: float) -> tuple[float, float]:
        barrier = level - math.log1p(direction * move)
        if math.isinf(barrier):
            return 0.0, 0.0
        if barrier * direction <= 0.0:
            return 1.0, 1.0
        without = hit_within(barrier, drift, volatility, horizon_ns / NS / YEAR_S)
        return without, hit_before_money(barrier, drift, volatility, p95_s / P95_OF_MEAN / YEAR_S)

    return chance


@dataclass(frozen=True, slots=True, kw_only=True)
class SurvivalMap:
    """Probabilities over moves (columns) and delays (rows, s, ascending): float64[delays, moves]. `dots`: where the book is, by route."""

    moves: Floats
    delays_s: Floats
    without: Floats
    having: Floats
    about: str  # what the numbers are: a closed form and its assumptions, or how they were played
    direction: int = -1
    dots: tuple[tuple[str, float, float], ...] = ()  # (name, move, delay s)

    def contour(self, having: bool, level: float) -> list[tuple[float, float]]:
        """(move, delay s) where the probability first reaches `level`, a point a delay; none where it never does or is above at once."""
        found = []
        for delay, row in zip(self.delays_s.tolist(), self.having if having else self.without, strict=True):
            over = np.flatnonzero(row >= level)
            if len(over) == 0 or over[0] == 0:
                continue
            at = int(over[0])
            low, high = float(row[at - 1]), float(row[at])
            share = (level - low) / (high - low)
            found.append((float(self.moves[at - 1] + share * (self.moves[at] - self.moves[at - 1])), delay))
        return found


def delays_grid(points: int = 49) -> list[float]:
    """Delays from 10 s to a day, evenly in their logarithm, s."""
    return [float(value) for value in np.geomspace(10.0, 86_400.0, points)]


def moves_grid(distance: float, points: int = 481) -> list[float]:
    """Moves from none to a little beyond the one that liquidates, ratios."""
    return [float(value) for value in np.linspace(0.0, min(1.04 * distance, 0.99), points)]


def survival_map(
    chance: Chance,
    *,
    moves: Sequence[float],
    delays_s: Sequence[float],
    about: str,
    direction: int = -1,
    dots: Sequence[tuple[str, float, float]] = (),
) -> SurvivalMap:
    """The map of a chance over a grid."""
    cells = np.array([[chance(move, delay) for move in moves] for delay in delays_s])
    return SurvivalMap(
        moves=np.array(moves), delays_s=np.array(delays_s), without=cells[:, :, 0], having=cells[:, :, 1], about=about, direction=direction,
        dots=tuple(dots),
    )  # fmt: skip
