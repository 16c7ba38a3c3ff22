"""What one market is worth to the simulated account, and when its funding settles (floor 5).

A `Mark` holds the few cells of a market that the account needs: the prices it is valued at, the book, a bar's extremes and the
settled funding rate. Values age by the same bounds as everywhere: the larger of the catalogue's and the recording's `holds_for`.

    mark.take({"oracle_price": 33.1}, event_ts=at)
    mark.price_at(at)       # 33.1, NaN once it is stale
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from daemon.units import FOREVER, HOUR_NS, MINUTE_NS, NEVER

NAN = math.nan
FUNDING_GRACE_NS = 5 * MINUTE_NS  # a settlement counts for its boundary when its own time is at most this much later
BOOK = ("bid_price", "ask_price")
EXTREMES = ("bar_high", "bar_low")
PRICES = ("oracle_price", "mark_price", "last_price", "index_price", *BOOK)

Side = Literal["BUY", "SELL"]


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingDue:
    """What one settlement asks of a position: `rate` is a fraction of its value over `hours`, > 0 longs pay; None: nobody knows it."""

    boundary: int
    hours: float
    rate: float | None


class Mark:
    """The cells of one market. `bound_ns(signal)` is how long a reading of that signal stays fresh."""

    __slots__ = (
        "_ask", "_ask_seen", "_bid", "_bid_seen", "_bounds", "_cells", "_seen", "_valued_at",
        "book_bound", "dues", "high", "interval_ns", "low", "market", "next_boundary", "until",
    )  # fmt: skip

    def __init__(self, market: str, *, valued_at: Sequence[str], bound_ns: Callable[[str], int], interval_ns: int) -> None:
        self.market = market
        self._valued_at = tuple(valued_at)
        self._bounds = tuple(bound_ns(signal) for signal in self._valued_at)
        self._cells = [NAN] * len(self._valued_at)
        self._seen = [NEVER] * len(self._valued_at)
        self._bid = self._ask = NAN
        self._bid_seen = self._ask_seen = NEVER
        self.book_bound = (bound_ns("bid_price"), bound_ns("ask_price"))
        self.high = self.low = NAN  # of the batch being taken
        self.interval_ns = interval_ns
        self.next_boundary = NEVER  # the first multiple of the interval not yet paid or given up; NEVER before `begin`
        self.dues: list[FundingDue] = []  # of the batch being taken
        self.until = NEVER  # `price_at` stands without a row until this time

    def begin(self, at: int) -> None:
        """Counts funding boundaries from `at` on, that instant included."""
        self.next_boundary = -(-at // self.interval_ns) * self.interval_ns

    def take(self, values: Mapping[str, float], event_ts: int) -> None:
        """Takes one row's values; NaN = the source says there is none; what is absent stands."""
        for index, signal in enumerate(self._valued_at):
            if signal in values:
                self._cells[index] = values[signal]
                self._seen[index] = event_ts
        if "bid_price" in values:
            self._bid, self._bid_seen = values["bid_price"], event_ts
        if "ask_price" in values:
            self._ask, self._ask_seen = values["ask_price"], event_ts
        if "bar_high" in values:
            self.high = values["bar_high"]
        if "bar_low" in values:
            self.low = values["bar_low"]
        if "funding_rate" in values and self.next_boundary != NEVER:
            self._settle(values["funding_rate"], event_ts)

    def _settle(self, rate: float, event_ts: int) -> None:
        if rate != rate or event_ts == FOREVER:
            return
        boundary = event_ts // self.interval_ns * self.interval_ns
        if boundary < self.next_boundary or event_ts - boundary > FUNDING_GRACE_NS:
            return
        hours = self.interval_ns / HOUR_NS
        self.give_up(boundary - 1)
        self.dues.append(FundingDue(boundary=boundary, hours=hours, rate=rate))
        self.next_boundary = boundary + self.interval_ns

    def give_up(self, last: int) -> None:
        """Counts every boundary up to `last` (included) that nobody has settled as unknown."""
        hours = self.interval_ns / HOUR_NS
        while NEVER < self.next_boundary <= last:
            self.dues.append(FundingDue(boundary=self.next_boundary, hours=hours, rate=None))
            self.next_boundary += self.interval_ns

    def price_at(self, at: int) -> float:
        """The first known and fresh of `valued_at`, NaN when there is none; sets `until`, how long the answer stands without a row."""
        for index, seen in enumerate(self._seen):
            value = self._cells[index]
            if value == value and value > 0.0:
                end = seen if seen == FOREVER else seen + self._bounds[index]
                if at <= end:
                    self.until = end
                    return value
        self.until = FOREVER
        return NAN

    def book_at(self, at: int) -> tuple[float, float]:
        """(bid, ask), each NaN when unknown or stale."""
        bid_end = self._bid_seen if self._bid_seen == FOREVER else self._bid_seen + self.book_bound[0]
        ask_end = self._ask_seen if self._ask_seen == FOREVER else self._ask_seen + self.book_bound[1]
        return (self._bid if at <= bid_end else NAN), (self._ask if at <= ask_end else NAN)

    def fill_price(self, side: Side, at: int, slippage: float) -> float:
        """What a taker gets now: the bid for a sale, the ask for a purchase; without a book the value, made worse by `slippage`.

        NaN when neither is known.
        """
        bid, ask = self.book_at(at)
        quote = bid if side == "SELL" else ask
        if quote == quote and quote > 0.0:
            return quote
        price = self.price_at(at)
        return price * (1.0 - slippage) if side == "SELL" else price * (1.0 + slippage)

    @property
    def closes_bar(self) -> bool:
        """True when an extreme of a bar is known in the batch being taken."""
        return self.low == self.low or self.high == self.high

    def clear_batch(self) -> None:
        """Forgets what belonged to one batch only: extremes and settlements."""
        self.high = self.low = NAN
        self.dues = []
