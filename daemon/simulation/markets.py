"""One market of the simulated venue, second by second (floor 5): index, oracle, premium samples, settlements, bars, book."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np

from daemon.simulation import paths
from daemon.simulation.faults import ALL_MARKETS, BookMove, VenueHalt
from daemon.simulation.fields import is_lasting
from daemon.simulation.oracle import OracleFeed
from daemon.simulation.oracle_models import OracleSpec
from daemon.simulation.paths import Bar, IndexPath, Level
from daemon.simulation.scenario import MarketSpec, MarketStatus, Model, ParameterChange, Shock, ThinBook
from daemon.units import NS
from daemon.world import hyperliquid, margin

BARS_MAX = (paths.HISTORY_H + 24 * 30) * 60
SETTLED_MAX = paths.HISTORY_H + 24 * 365
HEIGHT_AT_START = 50_000_000  # blocks of one second before the venue's start, so that history has heights


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """One hour's funding: `rate` per hour, paid on `price` at `at` (ns)."""

    at: int
    rate: float
    price: float
    height: int


@dataclass(slots=True)
class MarketState:
    """A market as of one second. `advance` moves it; everything else reads."""

    symbol: str
    pair_id: int
    spec: MarketSpec
    seed: int
    start_s: int  # epoch second of the venue's start
    history_h: int = paths.HISTORY_H  # hours of bars and settlements before the start, >= 2
    model: Model = "dydx-v4"
    path: IndexPath = field(init=False)
    jitter: list[float] = field(init=False)
    feed: OracleFeed = field(init=False)
    second: int = 0
    index: float = 0.0
    oracle: float = 0.0
    traded: float = 0.0  # where this venue's own book stands: the index, but for a `book_move`
    mark: float = 0.0  # the price margin uses: hyperliquid's median, dYdX's oracle price
    previous_mark: float = 0.0
    bounds: tuple[float, ...] = (0.0,)  # of the margin tiers, USD of notional
    leverages: tuple[float, ...] = (1.0,)
    status: str = "ACTIVE"
    initial_margin: float = 0.0
    maintenance_margin: float = 0.0
    samples_sum: float = 0.0
    samples: int = 0
    next_rate: float = 0.0
    settled: deque[Settlement] = field(default_factory=lambda: deque(maxlen=SETTLED_MAX))
    bars: deque[Bar] = field(default_factory=lambda: deque(maxlen=BARS_MAX))
    _book: tuple[tuple[Level, ...], tuple[Level, ...]] | None = None
    _taken: dict[str, float] = field(default_factory=lambda: {"BUY": 0.0, "SELL": 0.0})  # base units taken by orders and not back yet
    _basis_average: float = margin.NAN
    _book_average: float = margin.NAN
    _depth_left: float = 1.0
    _spread: float = 0.0
    _bar: Bar | None = None
    _sorted_out: int = -1  # how many shocks `_mine` and `_feeds` are of: shocks are only ever added
    _mine: list[Shock] = field(default_factory=list)
    _feeds: list[Shock] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.path = IndexPath(self.seed, self.symbol, self.spec)
        self.jitter = paths.jitter_table(self.seed, self.symbol)
        self.index = self.spec.price
        digits = max(0, -int(self.spec.tick.normalize().as_tuple().exponent)) + 4  # an oracle publishes four more than the tick has
        spec = self.spec.oracle or OracleSpec(deviation=self.spec.oracle_deadband)
        self.feed = OracleFeed(
            seed=self.seed, symbol=self.symbol, spec=spec, start_s=self.start_s, digits=digits, price=self.spec.price
        )  # fmt: skip
        self.oracle = self.feed.price
        self.traded = self.mark = self.previous_mark = self.index
        self._set_margins(self.spec.initial_margin, self.spec.maintenance_margin)
        self._spread = self.spec.spread
        self._fill_history()

    def _set_margins(self, initial: float, maintenance: float) -> None:
        """Margin fractions in force; on hyperliquid both follow from the margin table, whose leverages `initial` caps."""
        self.initial_margin, self.maintenance_margin = initial, maintenance
        if self.model == "hyperliquid":
            tiers = self.spec.margin_tiers
            self.bounds = tuple(tier.start for tier in tiers) or (0.0,)
            self.leverages = tuple(min(tier.max_leverage, 1.0 / initial) for tier in tiers) or (1.0 / initial,)
            self.initial_margin = 1.0 / self.leverages[0]
            self.maintenance_margin = hyperliquid.maintenance_fraction(self.leverages[0])

    def _settled_rate(self, samples_sum: float, samples: int) -> float:
        """An hour's rate by the venue's rule: dYdX pads missing samples with zeros, hyperliquid takes the mean of those there are."""
        if self.model == "hyperliquid":
            return hyperliquid.funding_rate_hourly(samples_sum / samples if samples else 0.0)
        return margin.funding_rate_hourly(samples_sum, samples, 0.0, self.initial_margin, self.maintenance_margin)

    def _predicted_rate(self) -> float:
        if self.model == "hyperliquid":
            return self._settled_rate(self.samples_sum, self.samples)
        return margin.funding_rate_predicted(self.samples_sum, self.samples, 0.0)

    def _fill_history(self) -> None:
        bars = paths.history_bars(self.path, self.jitter, self.start_s, self.history_h)
        into_minute = self.start_s % 60
        if into_minute:  # the minute in which the venue starts goes on live
            self._bar = bars.pop()
        self.bars.extend(bars)
        first_price = {bar.minute: bar.open for bar in bars}
        minutes = self.history_h * 60
        # Minute m of the paths counts from the start rounded down to a minute, so that samples and bars share the epoch's minutes.
        start_minute = self.start_s // 60
        samples = paths.premium_samples(self.seed, self.symbol, self.spec, (), -minutes, minutes)
        first_hour = -(-(start_minute - minutes) // 60)
        for hour in range(first_hour, start_minute // 60):
            begin = hour * 60 - (start_minute - minutes)
            total = float(samples[begin : begin + 60].sum())
            rate = self._settled_rate(total, 60)
            boundary = (hour + 1) * 3600
            price = first_price.get(boundary // 60, self.spec.price)
            self._settle(boundary - self.start_s, rate, self.feed.rounded(price), HEIGHT_AT_START + boundary + 1 - self.start_s)
        running = start_minute - start_minute // 60 * 60
        self.samples = running
        self.samples_sum = float(samples[len(samples) - running :].sum()) if running else 0.0
        self.next_rate = self._predicted_rate() if running else self.settled[-1].rate

    def _settle(self, boundary: int, rate: float, price: float, height: int) -> None:
        # The first block after the hour carries the settlement: a fraction of a second past it, as on the chain.
        late_ms = 100 + int(800 * self.jitter[(boundary + self.start_s) // 3600 % paths.JITTER])
        at = (self.start_s + boundary) * NS + late_ms * 1_000_000
        self.settled.append(Settlement(at=at, rate=round(rate, 12), price=price, height=height))

    def advance(self, second: int, shocks: Sequence[Shock], *, halted: bool, height: int) -> Settlement | None:
        """Moves to the next second; returns the settlement that this second brought, if one did."""
        assert second == self.second + 1, "a market advances one second at a time"
        self.second = second
        self._book = None
        self._recover()
        mine, feeds = self._concerning(shocks)
        self.index = self.path.at(second) * paths.price_factor(mine, self.symbol, second)
        self.traded = self.index * paths.price_factor(mine, self.symbol, second, BookMove)
        self._parameters(mine)
        self.feed.advance(second, self.index, feeds, halted=halted)
        self.oracle = self.feed.price
        if not halted:
            self._set_mark()
        self._extend_bar()
        epoch = self.start_s + second
        if epoch % 60 == 0 and not halted:
            minute = epoch // 60 - self.start_s // 60
            if not self.feed.votes_zero:
                self.samples_sum += paths.premium_sample(self.seed, self.symbol, self.spec, self._minute_shocks(mine), minute)
            self.samples += 1
            self.next_rate = self._predicted_rate()
        if epoch % 3600 == 1:
            return self._close_hour(height)
        return None

    def _concerning(self, shocks: Sequence[Shock]) -> tuple[list[Shock], list[Shock]]:
        """The shocks of this market, and those that its oracle feels; sorted out again only when shocks were added."""
        if self._sorted_out != len(shocks):
            self._sorted_out = len(shocks)
            self._mine = [shock for shock in shocks if getattr(shock, "market", None) in (self.symbol, ALL_MARKETS)]
            self._feeds = [*self._mine, *(shock for shock in shocks if isinstance(shock, VenueHalt))]
        return self._mine, self._feeds

    def _minute_shocks(self, mine: Sequence[Shock]) -> list[Shock]:
        """The shocks on the paths' clock, whose minute 0 began up to 59 s before the venue's start."""
        lead = self.start_s % 60 * NS
        return [shock.model_copy(update={"at": shock.at + lead}) for shock in mine]

    def _close_hour(self, height: int) -> Settlement:
        rate = self._settled_rate(self.samples_sum, self.samples)
        self.samples_sum, self.samples = 0.0, 0
        self._settle(self.second - 1, rate, self.oracle, height)
        return self.settled[-1]

    def _parameters(self, mine: Sequence[Shock]) -> None:
        self.status, self._depth_left, self._spread = "ACTIVE", 1.0, self.spec.spread
        for shock in mine:
            match shock:
                case ParameterChange() if shock.at <= self.second * NS:
                    self._set_margins(shock.initial_margin, shock.maintenance_margin)
                case MarketStatus() if is_lasting(shock, self.second):
                    self.status = shock.to
                case ThinBook() if is_lasting(shock, self.second):
                    self._depth_left *= shock.to
                    self._spread = max(self._spread, shock.spread or 0.0)
                case _:
                    pass

    def _set_mark(self) -> None:
        """The mark of this second; the market's own trades are at the price its book stands at."""
        self.previous_mark = self.mark
        if self.model == "dydx-v4":
            self.mark = self.oracle
            return
        middle, book = self._standing()
        self._basis_average = hyperliquid.average_step(self._basis_average, middle - self.oracle, 1.0, hyperliquid.BASIS_SPAN_S)
        self._book_average = hyperliquid.average_step(self._book_average, book, 1.0, hyperliquid.BOOK_SPAN_S)
        elsewhere = self.index if self.spec.perps_elsewhere else margin.NAN
        self.mark = hyperliquid.mark_price(self.oracle + self._basis_average, book, elsewhere, self._book_average)

    def _standing(self) -> tuple[float, float]:
        """The middle of the book, and the median of best bid, best ask and last trade, USD; the last trade where a side is empty."""
        if not self.is_touched:
            return self.traded, self.traded
        bids, asks = self.book()
        if not bids or not asks:
            return self.traded, self.traded
        bid, ask = float(bids[0][0]), float(asks[0][0])
        return (bid + ask) / 2.0, min(max(self.traded, bid), ask)

    def _recover(self) -> None:
        """A second's share of what orders took from the book comes back: half of it in the market's `recovery`."""
        kept = 0.5 ** (NS / self.spec.recovery) if self.spec.recovery else 0.0
        for side, taken in self._taken.items():
            left = taken * kept
            self._taken[side] = left if left >= float(self.spec.step) / 2.0 else 0.0

    def _extend_bar(self) -> None:
        minute, price = (self.start_s + self.second) // 60, self.traded
        bar = self._bar
        if bar is not None and bar.minute == minute:
            self._bar = Bar(minute, bar.open, max(bar.high, price), min(bar.low, price), price, bar.volume, bar.trades)
            return
        if bar is not None:
            self.bars.append(bar)
        volumes, trades = paths.minute_volumes(self.spec, self.jitter, np.array([minute]))
        self._bar = Bar(minute, price, price, price, price, volumes[0], trades[0])

    def all_bars(self) -> list[Bar]:
        """Minute bars, oldest first, the running minute last."""
        return [*self.bars, *([self._bar] if self._bar else [])]

    @property
    def newest_bar(self) -> Bar:
        """The running minute, else the last whole one."""
        return self._bar or self.bars[-1]

    def day_ago(self) -> tuple[float, float, int]:
        """Price change (USD), volume (USD) and trades of the last 24 h."""
        last = [self.bars[i] for i in range(max(0, len(self.bars) - 1440), len(self.bars))]
        if not last:
            return 0.0, 0.0, 0
        return self.traded - last[0].open, sum(bar.volume * bar.close for bar in last), sum(bar.trades for bar in last)

    def book(self) -> tuple[tuple[Level, ...], tuple[Level, ...]]:
        """Bids and asks of this second, best first, without what orders took and what has not come back since."""
        if self._book is None:
            self._book = paths.book(self.spec, self.jitter, self.second, self.traded, self._depth_left, self._spread)
        if not self.is_touched:
            return self._book
        bids, asks = self._book
        return self._without(bids, self._taken["SELL"]), self._without(asks, self._taken["BUY"])

    def _without(self, levels: tuple[Level, ...], taken: float) -> tuple[Level, ...]:
        """The levels that remain when an amount, on the step, is taken from the best ones."""
        step = self.spec.step
        left = (Decimal(repr(taken)) / step).to_integral_value() * step
        kept: list[Level] = []
        for price, size in levels:
            if left < size:
                kept.append((price, size - left))
            left = max(Decimal(0), left - size)
        return tuple(kept)

    @property
    def is_touched(self) -> bool:
        """True while what orders took from the book has not come back."""
        return self._taken["BUY"] > 0.0 or self._taken["SELL"] > 0.0

    def take(self, side: str, size: Decimal) -> None:
        """An order of a side (BUY, SELL) removes the best of the opposite liquidity, which comes back by and by."""
        self._taken[side] += float(size)

    def scaled_initial_margin(self) -> float:
        """The initial margin fraction that acceptance uses: scaled by open interest, unlike the one that is published."""
        open_notional = float(self.spec.open_interest) * self.oracle
        return margin.initial_fraction(self.initial_margin, open_notional, self.spec.oi_lower_cap, self.spec.oi_upper_cap)
