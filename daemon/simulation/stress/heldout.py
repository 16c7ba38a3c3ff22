"""A world of model `history` against the end of its own past (floor 5): fitted to what came before, judged by what it had not seen.

    found = held_out(past.closes, markets=past.markets, usd=usd, law=world.history)     # () where the past is too short

The last 30 % of the hours are held out. At each of their 1-hour and 24-hour windows (which do not overlap) the world says, from the
volatility reached by then, how far every market and the book may move. The share that fell below its quantiles is tested by Kupiec, the
ranks by Kolmogorov and Smirnov. Every window sees the same draws, scaled: a drawn move is proportional to the volatility it starts from.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.backtest import Coverage, probability_ranks, quantile_tests, uniformity
from daemon.simulation.stress.draws import Bits, Draws
from daemon.simulation.stress.history import HOURS_MIN, WARM_UP_H, Residuals, ewma_deviations, residuals
from daemon.simulation.stress.worldfile import HistorySpec
from daemon.units import HOUR_NS

Floats = NDArray[np.float64]
HELD_SHARE = 0.3
WINDOWS_H = (1, 24)
QUANTILES = (0.01, 0.05, 0.95, 0.99)
DRAWN = 2_000
REFUSED_BELOW = 0.01  # of all tests of one subject together (Bonferroni)
SEED = 1
BOOK = "the book"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeldOut:
    """One subject (a market's log move, the book's P&L as it stands) over windows of one length."""

    of: str
    window_h: int
    windows: int
    quantiles: tuple[Coverage, ...]
    gap: float  # largest between the ranks and the uniform law
    p_value: float  # of that gap

    @property
    def holds(self) -> bool:
        """False when one of its tests refuses the world."""
        tests = [self.p_value, *(one.p_value for one in self.quantiles)]
        return min(tests) >= REFUSED_BELOW / len(tests)


def held_out(closes: Floats, *, markets: Sequence[str], usd: Floats, law: HistorySpec) -> tuple[HeldOut, ...]:
    """The tests of a past. `closes`: float64[hours, markets]; `usd`: float64[markets], what the book holds, signed (0 throughout: none)."""
    cut = int(len(closes) * (1.0 - HELD_SHARE))
    if cut < HOURS_MIN + WARM_UP_H + 1:
        return ()
    unknown = np.full((cut, len(markets)), np.nan)
    fitted = residuals(closes[:cut], unknown, models=("",) * len(markets), decay=law.decay)
    moves = np.diff(np.log(closes), axis=0)
    deviations = np.maximum(ewma_deviations(moves, law.decay), 1e-8)
    return tuple(_tests(fitted, moves, deviations, markets, usd, law, first=cut - 1))


def _tests(
    fitted: Residuals, moves: Floats, deviations: Floats, markets: Sequence[str], usd: Floats, law: HistorySpec, *, first: int
) -> Iterator[HeldOut]:
    unit = _unit_moves(fitted, law)
    for window_h in WINDOWS_H:
        begins = np.arange(first, len(moves) - window_h + 1, window_h)
        if not len(begins):
            continue
        realised = np.stack([moves[begin : begin + window_h].sum(axis=0) for begin in begins])
        drawn_usd, realised_usd = np.zeros((len(begins), DRAWN)), np.zeros(len(begins))
        for i, market in enumerate(markets):
            drawn = deviations[begins, i][:, None] * unit[window_h][:, i][None, :]
            yield _tested(market, window_h, drawn, realised[:, i])
            drawn_usd += usd[i] * np.expm1(drawn)
            realised_usd += usd[i] * np.expm1(realised[:, i])
        if usd.any():
            yield _tested(BOOK, window_h, drawn_usd, realised_usd)


def _unit_moves(fitted: Residuals, law: HistorySpec) -> dict[int, Floats]:
    """By window: drawn log moves that start from a deviation of 1, float64[draws, markets]."""
    at_one = replace(fitted, deviation=np.ones_like(fitted.deviation))
    bits, hours = Bits(), max(WINDOWS_H)
    drawn = [at_one.draw(Draws(bits, seed=SEED, path=number), hours=hours, block_h=law.block / HOUR_NS).moves for number in range(DRAWN)]
    summed = np.cumsum(np.stack(drawn), axis=1)
    return {window_h: summed[:, window_h - 1] for window_h in WINDOWS_H}


def _tested(of: str, window_h: int, drawn: Floats, realised: Floats) -> HeldOut:
    gap, p_value = uniformity(probability_ranks(drawn, realised))
    quantiles = tuple(quantile_tests(drawn, realised, QUANTILES))
    return HeldOut(of=of, window_h=window_h, windows=len(realised), quantiles=quantiles, gap=gap, p_value=p_value)


def told(one: HeldOut) -> str:
    """The tests of one subject for people."""
    below = ", ".join(f"{100 * each.probability:g} %: {100 * each.share:.1f} %" for each in one.quantiles)
    least = min(one.quantiles, key=lambda each: each.p_value)
    return (
        f"{one.windows:,} windows, below its quantiles {below} (Kupiec at {100 * least.probability:g} % p {least.p_value:.2g}); "
        f"ranks off by {one.gap:.3f} (p {one.p_value:.2g})"
    )
