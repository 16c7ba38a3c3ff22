"""Futures drawn from a recorded past (floor 5): filtered historical simulation with one index for all markets and their funding.

    past = residuals(closes, premiums, decay=0.97)        # float64[hours, markets] each, oldest first
    drawn = past.draw(draws, hours=168, block_h=24.0)     # hourly log moves and premiums of one path

Hourly log moves are divided by their EWMA volatility; residuals are drawn in blocks whose lengths are geometric (stationary bootstrap:
Politis and Romano 1994), the same hours for every market and for its premium, so whatever happened together happens together. A drawn
residual is scaled by the volatility that the path has reached, which its own moves feed (Barone-Adesi, Giannopoulos and Vosper 1999).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.errors import UserError
from daemon.simulation.stress.censored import fit_premium
from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.premium import mean_reverting
from daemon.simulation.stress.regime import Spells

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
WARM_UP_H = 48  # of the filter: their residuals are not drawn
HOURS_MIN = 24 * 7
DECAY_MIN = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """What one path takes of the past: hour k of it is hour `index[k]` of the residuals."""

    index: Ints  # int64[hours], or [hours, markets] without dependence
    moves: Floats  # float64[hours, markets], log
    deviations: Floats  # float64[hours, markets], of the hour's move as the path expected it
    premiums: Floats  # float64[hours, markets], at the end of the hour


@dataclass(frozen=True, slots=True, kw_only=True)
class Residuals:
    """A past made ready to be drawn from. Arrays over the hours that are drawn, and the markets."""

    moves: Floats  # float64[hours, markets]: log move over its expected deviation, mean 0
    innovations: Floats  # float64[hours, markets]: of the premium's autoregression
    deviation: Floats  # float64[markets]: of the next hour's log move, as of the end of the past
    usual: Floats  # float64[markets]: its median over the past
    premium: Floats  # float64[markets]: at the end of the past
    premium_mean: Floats  # float64[markets]
    premium_decay: Floats  # float64[markets]: of an hour
    correlation: Floats  # float64[markets, markets], of the residuals: what minutes inside an hour are drawn with
    decay: float  # of the EWMA variance, an hour

    def index(self, draws: Draws, hours: int, block_h: float, entity: str = "") -> Ints:
        """Which hours of the past a path takes: a new block begins with probability 1 / block_h, anywhere; the past is a circle."""
        stream = draws.stream(Purpose.BLOCKS, entity)
        chances = stream.random((hours, 2))
        begins = chances[:, 0] < 1.0 / block_h
        begins[0] = True
        starts = (chances[:, 1] * len(self.moves)).astype(np.int64)
        at = np.arange(hours)
        last = np.maximum.accumulate(np.where(begins, at, 0))
        taken: Ints = (starts[last] + at - last) % len(self.moves)
        return taken

    def draw(self, draws: Draws, *, hours: int, block_h: float, together: bool = True) -> Drawn:
        """The hours of one path; not `together`: of each market its own."""
        if together:
            index = self.index(draws, hours, block_h)
            shocks, innovations = self.moves[index], self.innovations[index]
        else:
            markets = range(self.moves.shape[1])
            index = np.stack([self.index(draws, hours, block_h, f"market {i}") for i in markets], axis=1)
            shocks = np.take_along_axis(self.moves, index, axis=0)
            innovations = np.take_along_axis(self.innovations, index, axis=0)
        # variance[k+1] = variance[k] x (decay + (1 - decay) x shock[k]^2): a product, no loop
        growth = np.log(self.decay + (1.0 - self.decay) * shocks * shocks)
        grown = np.zeros_like(growth)
        np.cumsum(growth[:-1], axis=0, out=grown[1:])
        deviations = self.deviation * np.exp(0.5 * grown)
        premiums = np.empty_like(shocks)
        for i, decay in enumerate(self.premium_decay.tolist()):
            mean = float(self.premium_mean[i])
            pushes = innovations[None, :, i] + (1.0 - decay) * mean
            premiums[:, i] = mean_reverting(pushes, decay, self.premium[i : i + 1])[0]
        return Drawn(index=index, moves=shocks * deviations, deviations=deviations, premiums=premiums)


def ewma_deviations(moves: Floats, decay: float) -> Floats:
    """Deviation that was expected of each hour's move from those before it, and of the hour to come: float64[hours + 1, markets]."""
    variance = np.mean(moves[:WARM_UP_H] ** 2, axis=0)
    deviations = np.empty((len(moves) + 1, moves.shape[1]))
    for k, move in enumerate(moves):
        deviations[k] = np.sqrt(variance)
        variance = decay * variance + (1.0 - decay) * move * move
    deviations[-1] = np.sqrt(variance)
    return deviations


def residuals(
    closes: Floats, funding: Floats, *, models: tuple[str, ...], decay: float = 0.97, margins: Floats | None = None, seed: int = 1
) -> Residuals:
    """The residuals of hourly closes (USD) and settled hourly funding rates, float64[hours, markets], oldest first, same hours.

    `models`: margin model of each market's venue, whose funding rule is undone; `margins`: float64[markets, 2], initial and maintenance
    fraction, for dYdX's clamp. Funding that is NaN leaves a market without premium. Prices must be known throughout: raises UserError
    when they are not, or when there is less than a week.
    """
    if closes.ndim != 2 or funding.shape != closes.shape or closes.shape[1] != len(models):
        raise UserError(f"closes and funding are tables of hours by {len(models)} markets, found {closes.shape} and {funding.shape}")
    if len(closes) < HOURS_MIN + WARM_UP_H:
        raise UserError(f"a history of {len(closes)} hours is too short to draw from; give at least {HOURS_MIN + WARM_UP_H}")
    if not np.all(np.isfinite(closes) & (closes > 0.0)):
        hour, market = (int(i[0]) for i in np.nonzero(~(np.isfinite(closes) & (closes > 0.0))))
        raise UserError(f"hour {hour} of market {market} has no price above 0; fill gaps or cut the history")
    moves = np.diff(np.log(closes), axis=0)
    deviations = ewma_deviations(moves, decay)
    floor = np.maximum(deviations, 1e-8)
    shocks = (moves / floor[:-1])[WARM_UP_H:]
    shocks = shocks - np.mean(shocks, axis=0)
    markets = closes.shape[1]
    innovations = np.zeros_like(shocks)
    premium, mean, decays = np.zeros(markets), np.zeros(markets), np.full(markets, DECAY_MIN)
    for i, model in enumerate(models):
        rates = funding[:, i]
        if np.all(np.isfinite(rates)):
            clamp = math.inf if margins is None else 6.0 * float(margins[i, 0] - margins[i, 1])
            fit = fit_premium(rates, model, clamp_8h=clamp, seed=seed)
            innovations[:, i] = fit.innovations[-len(shocks) :]
            premium[i], mean[i], decays[i] = fit.premiums[-1], fit.mean, max(DECAY_MIN, fit.decay)
    correlation = np.corrcoef(shocks.T).reshape(markets, markets)
    # Two markets of one coin have nearly the same residuals; a whisker on the diagonal keeps the factor of the matrix defined.
    correlation = (correlation + 1e-6 * np.eye(markets)) / (1.0 + 1e-6)
    return Residuals(
        moves=shocks, innovations=innovations, deviation=floor[-1], usual=np.median(floor[WARM_UP_H:], axis=0),
        premium=premium, premium_mean=mean, premium_decay=decays,
        correlation=correlation, decay=decay,
    )  # fmt: skip


def regimes_reached(drawn: Drawn, usual: Floats, *, stressed_above: float, crisis_above: float) -> Spells:
    """The regimes of a drawn path by hour: what its volatility is of the usual one, the mean over markets."""
    level = np.mean(drawn.deviations / usual, axis=1)
    state = (level >= stressed_above).astype(int) + (level >= crisis_above)
    changed = np.flatnonzero(np.diff(state, prepend=-1))
    return tuple((float(hour), int(state[hour])) for hour in changed)


def row_moves(drawn: Drawn, lower: Floats, normals: Floats, rows_per_hour: int) -> Floats:
    """Log moves by row of drawn hours: Brownian bridges between them. float64[markets, hours x rows_per_hour].

    `normals`: independent, the same shape; `lower`: Cholesky factor of the correlation of the markets.
    """
    markets, hours = normals.shape[0], len(drawn.moves)
    steps = np.einsum("ik,kt->it", lower, normals).reshape(markets, hours, rows_per_hour)
    steps *= (drawn.deviations.T / math.sqrt(rows_per_hour))[:, :, None]
    steps += ((drawn.moves.T - np.sum(steps, axis=2)) / rows_per_hour)[:, :, None]
    rows: Floats = steps.reshape(markets, hours * rows_per_hour)
    return rows


def row_premiums(drawn: Drawn, first: Floats, rows_per_hour: int) -> Floats:
    """Premiums by row, straight from hour to hour: float64[markets, hours x rows_per_hour]. `first`: at the start, float64[markets]."""
    ends = drawn.premiums.T
    starts = np.concatenate([first[:, None], ends[:, :-1]], axis=1)
    shares = np.arange(1.0, rows_per_hour + 1.0) / rows_per_hour
    rows: Floats = (starts[:, :, None] * (1.0 - shares) + ends[:, :, None] * shares).reshape(len(first), -1)
    return rows
