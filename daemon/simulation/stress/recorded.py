"""An hourly past out of recorded rows (floor 5): what a world of model `history` draws from.

    hours = Hourly({"dydx:BTC-USD": Source(price="bybit:BTC-USD", funding="dydx:BTC-USD")})
    for block in blocks: hours.take(block)        # market rows, oldest first
    past = hours.past()                           # past.closes, past.funding: float64[hours, markets]

The close of an hour is the last price that was true within it, (t - 1h, t]; its funding the rate settled at t. An hour counts when the move
into it is known of every market; the others are left out, and told. Prices USD, rates a fraction an hour, times int64 ns UTC.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from daemon.engine.columns import Columns
from daemon.errors import UserError
from daemon.units import HOUR_NS, MINUTE_NS, iso

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# What stands for a market's price; of two that know as many hours the first: an index moves with no book's noise.
PRICES = ("index_price", "oracle_price", "mark_price", "last_price")
FUNDING = "funding_rate"
SETTLED_WITHIN_NS = 5 * MINUTE_NS  # of the full hour: a rate told later is no settlement of it
FUNDING_SHARE_LEAST = 0.95  # of the hours whose rate must be known; the few others are taken as the hour before


@dataclass(frozen=True, slots=True)
class Source:
    """Entities of the recording that a market of the book takes its closes and its funding from; None: it has no funding there."""

    price: str
    funding: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HourlyPast:
    """Hours that follow each other but where `told` says that some were left out. NaN funding: the market is drawn without a premium."""

    markets: tuple[str, ...]
    at: Ints  # int64[hours]: the full hour at which each ends
    closes: Floats  # float64[hours, markets], USD, all > 0
    funding: Floats  # float64[hours, markets], a fraction an hour, + longs pay; a column is known throughout or not at all
    told: tuple[str, ...]


@dataclass(slots=True)
class Hourly:
    """Collects the hours of some markets out of blocks of market rows."""

    sources: Mapping[str, Source]
    _known: dict[tuple[str, str], dict[int, float]] = field(default_factory=dict)  # (entity, signal) -> hour -> value

    def take(self, block: Columns) -> None:
        """The next rows."""
        wanted = dict.fromkeys(source.price for source in self.sources.values())
        for entity in wanted:
            for signal in PRICES:
                self._note(block, entity, signal)
        for entity in dict.fromkeys(source.funding for source in self.sources.values() if source.funding):
            self._note(block, entity, FUNDING)

    def _note(self, block: Columns, entity: str, signal: str) -> None:
        if signal not in block.columns or entity not in block.entity_ids:
            return
        values, times = block.columns[signal], block.event_ts
        usable = (block.entity == block.entity_ids.index(entity)) & np.isfinite(values)
        if signal == FUNDING:
            hours = times // HOUR_NS
            usable &= times - hours * HOUR_NS <= SETTLED_WITHIN_NS
        else:
            hours = -(-times // HOUR_NS)
            usable &= values > 0.0
        found = self._known.setdefault((entity, signal), {})
        pairs = zip(hours[usable].tolist(), values[usable].tolist(), strict=True)
        if signal == FUNDING:
            for hour, value in pairs:
                found.setdefault(hour, value)  # what came first is the settlement
        else:
            found.update(pairs)

    def past(self) -> HourlyPast:
        """The past so far. Raises UserError where a market has no price, or all of them no hour in common."""
        told: list[str] = []
        series: dict[str, dict[int, float]] = {}
        for market, source in self.sources.items():
            signal = max(PRICES, key=lambda name: (len(self._known.get((source.price, name), {})), -PRICES.index(name)))
            series[market] = self._known.get((source.price, signal), {})
            if not series[market]:
                raise UserError(f"the recording has no price of {source.price}; it takes {', '.join(PRICES)}")
            told.append(f"{market} is drawn from the {signal} of {source.price}")
        first, last = max(min(known) for known in series.values()), min(max(known) for known in series.values())
        if last - first < 1:
            raise UserError(f"the markets {', '.join(series)} have no hours in common in the recording")
        hours = np.arange(first, last + 1)
        closes = np.array([[known.get(hour, np.nan) for known in series.values()] for hour in hours.tolist()])
        moves = np.diff(np.log(closes), axis=0)
        whole = np.all(np.isfinite(moves), axis=1)
        if not whole.all():
            told.append(f"{int(np.sum(~whole)):,} of {len(moves):,} hours are left out: a price is missing")
        # What is left joined together: only moves are drawn from, and the last close is the true one.
        logs = np.concatenate([np.zeros((1, len(series))), np.cumsum(moves[whole], axis=0)])
        ends = np.concatenate([hours[:1], hours[1:][whole]])
        known_last = closes[np.flatnonzero(np.all(np.isfinite(closes), axis=1))[-1]]
        joined = known_last * np.exp(logs - logs[-1])
        funding = np.stack([self._funding(market, source, ends, told) for market, source in self.sources.items()], axis=1)
        told.insert(0, f"{len(ends):,} hours from {iso(int(ends[0]) * HOUR_NS)[:16]} to {iso(int(ends[-1]) * HOUR_NS)[:16]}")
        return HourlyPast(markets=tuple(series), at=ends * HOUR_NS, closes=joined, funding=funding, told=tuple(told))

    def _funding(self, market: str, source: Source, hours: Ints, told: list[str]) -> Floats:
        known = self._known.get((source.funding or "", FUNDING), {})
        rates = np.array([known.get(hour, np.nan) for hour in hours.tolist()])
        missing = int(np.sum(np.isnan(rates)))
        if missing > (1.0 - FUNDING_SHARE_LEAST) * len(rates):
            told.append(f"{market} is drawn without a premium: the funding of {missing:,} of {len(rates):,} hours is not known")
            return np.full(len(rates), np.nan)
        if missing:
            told.append(f"{market}: the funding of {missing:,} hours is not known and taken as the hour's before")
            # The first known one stands for whatever is missing before it.
            at = np.where(np.isnan(rates), -1, np.arange(len(rates)))
            at = np.maximum.accumulate(at)
            rates = rates[np.where(at < 0, int(np.flatnonzero(~np.isnan(rates))[0]), at)]
        return rates
