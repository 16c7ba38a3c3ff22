"""Seeded paths of a simulated venue (floor 5): everything is a function of (seed, name, second), never of who asked and when.

Second 0 is the venue's start; negative seconds are its history. Normals come from a counter-based generator keyed by the seed and a
stream's name, in chunks of an hour, so that second 86,400 can be computed without its predecessors' requests, and a new market
changes no other market's path.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.faults import ALL_MARKETS, BookMove
from daemon.simulation.scenario import FundingSpike, MarketSpec, PriceMove, Shock
from daemon.units import NS

Floats = NDArray[np.float64]
CHUNK_S = 3600
YEAR_S = 365.25 * 86_400
HISTORY_H = 9 * 24  # hours of candles and funding before the start; windows of 7 days need more than 8 days
JITTER = 4096  # entries of the table that gives books and volumes their texture
SAMPLE_NOISE = 0.3  # of the market's funding noise: how much single minutes scatter around their hour


def normals(seed: int, stream: str, chunk: int, count: int) -> Floats:
    """`count` standard normals of one chunk of a stream: float64[count]."""
    name = int.from_bytes(hashlib.sha256(stream.encode()).digest()[:8], "big")
    key = np.array([seed % (1 << 64), name], dtype=np.uint64)
    counter = np.array([0, 0, 0, chunk % (1 << 64)], dtype=np.uint64)  # history counts down through the wrap of negative chunks
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).standard_normal(count)


def uniform(seed: int, stream: str) -> float:
    """One number in (0, 1) of a stream: chance that hangs on a name alone (a transfer's delay on its client id)."""
    digest = hashlib.sha256(f"{seed}:{stream}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + 0.5) / 2.0**64


@dataclass(slots=True)
class IndexPath:
    """The price of a market before shocks, USD, by second: exp of a driftless random walk through `spec.price` at second 0."""

    seed: int
    symbol: str
    spec: MarketSpec
    _chunk: int = -1
    _log: Floats | None = None
    _end: float = 0.0

    def _steps(self, chunk: int) -> Floats:
        return normals(self.seed, f"{self.symbol}.price", chunk, CHUNK_S) * (self.spec.volatility / math.sqrt(YEAR_S))

    def at(self, second: int) -> float:
        """The price at a second >= 0; seconds must not fall back by more than the hour they are in."""
        if second == 0:
            return self.spec.price
        chunk = (second - 1) // CHUNK_S
        if chunk < self._chunk:  # an hour that has gone: walk again from the start
            self._chunk, self._end, self._log = -1, 0.0, None
        while self._chunk < chunk:
            self._chunk += 1
            self._log = self._end + np.cumsum(self._steps(self._chunk))
            self._end = float(self._log[-1])
        assert self._log is not None
        return self.spec.price * math.exp(float(self._log[(second - 1) % CHUNK_S]))

    def history(self, hours: int) -> Floats:
        """Prices of the `hours` x 3600 seconds before second 0, oldest first; they lead continuously into second 0."""
        steps = np.concatenate([self._steps(-1 - hour) for hour in range(hours)])
        back: Floats = np.exp(-np.cumsum(steps))[::-1]
        return back * self.spec.price


def price_factor(shocks: Sequence[Shock], symbol: str, second: int, kind: type[PriceMove] | type[BookMove] = PriceMove) -> float:
    """What price moves (of the market, or of this venue's book alone) have multiplied the price by at a second.

    Each goes in equal relative steps over its `over`, and back where it ends.
    """
    factor = 1.0
    for shock in shocks:
        if isinstance(shock, kind) and shock.market in (symbol, ALL_MARKETS):
            gone = second * NS - shock.at
            if gone <= 0:
                continue
            share = min(1.0, gone / shock.over)
            if shock.lasts is not None and gone > shock.over + shock.lasts:
                share = max(0.0, 1.0 - (gone - shock.over - shock.lasts) / shock.over)
            factor *= (1.0 + shock.by) ** share
    return factor


def premium_sample(seed: int, symbol: str, spec: MarketSpec, shocks: Sequence[Shock], minute: int) -> float:
    """The premium sampled at a minute since the start (negative: before), ratio on the 8-hour basis."""
    return float(premium_samples(seed, symbol, spec, shocks, minute, 1)[0])


def premium_samples(seed: int, symbol: str, spec: MarketSpec, shocks: Sequence[Shock], first: int, count: int) -> Floats:
    """Premium samples of `count` minutes from `first` on, ratio on the 8-hour basis: float64[count].

    The level wanders from hour to hour around the market's `funding`; minutes scatter around it; a funding spike replaces the level.
    """
    minutes = np.arange(first, first + count)
    hours = minutes // 60
    first_hour, last_hour = int(hours[0]), int(hours[-1]) + 1
    anchors = np.array([normals(seed, f"{symbol}.funding", hour, 61) for hour in range(first_hour, last_hour + 1)])
    into = (minutes - hours * 60) / 60.0
    level = anchors[hours - first_hour, 0] * (1.0 - into) + anchors[hours - first_hour + 1, 0] * into
    scatter = anchors[hours - first_hour, 1 + (minutes - hours * 60)] * SAMPLE_NOISE
    rates = spec.funding + spec.funding_noise * level
    for shock in shocks:
        if isinstance(shock, FundingSpike) and shock.market in (symbol, ALL_MARKETS):
            within = (minutes * 60 * NS >= shock.at) & (minutes * 60 * NS < shock.at + shock.lasts)
            rates = np.where(within, shock.to, rates)
    samples: Floats = (rates + spec.funding_noise * scatter) * 8.0
    return samples


def jitter_table(seed: int, symbol: str) -> list[float]:
    """Numbers in (0, 1) that give a market's books and volumes their texture."""
    return [float(x) for x in np.abs(normals(seed, f"{symbol}.texture", 0, JITTER)) % 1.0]


Level = tuple[Decimal, Decimal]


def book(
    spec: MarketSpec, jitter: Sequence[float], second: int, price: float, depth_left: float, spread: float
) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
    """Bids and asks of a second, best first, `(price, size)` on the market's tick and step; the sides never touch.

    Levels stand 5 bps apart, so ten of them make up `spec.depth` x `depth_left` USD within 50 bps; the best ones hold less.
    """
    tick = spec.tick
    middle = Decimal(repr(price))
    half = max(tick / 2, Decimal(repr(price * spread / 2)))
    best_bid = (middle - half) // tick * tick
    best_ask = -(-(middle + half) // tick) * tick
    if best_ask <= best_bid:
        best_ask = best_bid + tick
    gap = max(tick, (Decimal(repr(price * 0.0005)) // tick) * tick)
    even = spec.depth * depth_left / 10.0 / price
    step, step_size = spec.step, float(spec.step)
    bids: list[Level] = []
    asks: list[Level] = []
    texture = second * 31
    for i in range(spec.levels):
        share = even * (0.4 + 0.12 * min(i, 9)) / step_size
        if best_bid > 0:
            bids.append((best_bid, max(1, int(share * (0.75 + 0.5 * jitter[texture % JITTER]))) * step))
        asks.append((best_ask, max(1, int(share * (0.75 + 0.5 * jitter[(texture + 1) % JITTER]))) * step))
        best_bid, best_ask, texture = best_bid - gap, best_ask + gap, texture + 2
    return tuple(bids), tuple(asks)


class Bar(NamedTuple):
    """One minute of a market: `minute` since the epoch, prices of the mid, volume in base units."""

    minute: int
    open: float
    high: float
    low: float
    close: float
    volume: float
    trades: int


def minute_volumes(spec: MarketSpec, jitter: Sequence[float], minutes: NDArray[np.int64]) -> tuple[list[float], list[int]]:
    """Volume (base units, on the step) and number of trades of minutes since the epoch."""
    texture = np.asarray(jitter)
    step = float(spec.step)
    steps = np.maximum(1.0, np.floor(spec.depth / spec.price * 0.02 / step * texture[(minutes * 7 + 3) % JITTER]))
    trades = (1 + 8 * texture[(minutes * 13) % JITTER]).astype(np.int64)
    return np.round(steps * step, 12).tolist(), trades.tolist()


def history_bars(path: IndexPath, jitter: Sequence[float], start_s: int, hours: int) -> list[Bar]:
    """Minute bars from `hours` before the venue's start up to it, oldest first; only whole minutes of the epoch, the first may be cut."""
    prices = path.history(hours)
    minutes = (np.arange(start_s - len(prices), start_s) // 60).astype(np.int64)
    edges = np.flatnonzero(np.diff(minutes, prepend=minutes[0] - 1))
    highs, lows = np.maximum.reduceat(prices, edges), np.minimum.reduceat(prices, edges)
    closes = prices[np.append(edges[1:] - 1, len(prices) - 1)]
    volumes, trades = minute_volumes(path.spec, jitter, minutes[edges])
    columns = (minutes[edges].tolist(), prices[edges].tolist(), highs.tolist(), lows.tolist(), closes.tolist(), volumes, trades)
    return [Bar(*row) for row in zip(*columns, strict=True)]
