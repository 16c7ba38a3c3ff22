"""The simulated account over a recording, one slice of time after another (floor 5): exact, and without a step of Python a row.

Between two things that change what the account owns (a settlement, a liquidation, a fill, an arrival) its equity is a sum of columns.
So the markets held are laid on one grid of instants, and `TapedAccount.pass_to(at)` takes whole spans of it as arrays (`spans.py`); only
the instants at which something happens go through `SimulatedAccount.settle`. Of a slice that it has lived through the account keeps the
last value of each signal. Row by row and taped, in slices of any size, agree to the last bit (a test).

    account = TapedAccount(spec, marks=marks)
    account.begin(first)
    for blocks in slices:
        account.extend(blocks); account.next_event_at(); account.pass_to(at)
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from daemon.engine.columns import Columns
from daemon.simulation.account import RATIO_MAX, AccountSpec, Holding, SimulatedAccount
from daemon.simulation.marks import BOOK, EXTREMES, FUNDING_GRACE_NS, NAN, FundingDue, Mark
from daemon.simulation.spans import NULL, Book, Columnwise, Floats, Found, Ints, Series, Spans, in_force
from daemon.units import FOREVER, HOUR_NS, NEVER
from daemon.world.entities import Kind

SPAN_MAX = 65_536  # instants looked ahead at once for a liquidation
LOOK_BACK = 64  # rows looked through at first for a signal's last value, eight times as many each time it is not there
NO_TIMES: Ints = np.empty(0, np.int64)


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketRows:
    """The rows of one market in one slice, in order of time; null = +inf, NaN = observed as missing."""

    ts: Ints
    event_ts: Ints
    columns: Mapping[str, Floats]


NO_ROWS = MarketRows(ts=NO_TIMES, event_ts=NO_TIMES, columns={})


def market_rows(blocks: Sequence[Columns], market: str, signals: Sequence[str]) -> MarketRows:
    """The rows of one market, blocks joined; signals that no block has are absent."""
    parts = [block for block in blocks if block.kind is Kind.MARKET and market in block.entity_ids and len(block.ts)]
    if not parts:
        return NO_ROWS
    chosen = [_rows_of(block, market) for block in parts]
    ts, event_ts = [b.ts[r] for b, r in zip(parts, chosen, strict=True)], [b.event_ts[r] for b, r in zip(parts, chosen, strict=True)]
    columns: dict[str, Floats] = {}
    for name in signals:
        if any(name in block.columns for block in parts):
            found = [b.columns[name][r] if name in b.columns else np.full(len(t), NULL) for b, r, t in zip(parts, chosen, ts, strict=True)]
            columns[name] = found[0] if len(found) == 1 else np.concatenate(found)
    if len(parts) == 1:
        return MarketRows(ts=ts[0], event_ts=event_ts[0], columns=columns)
    return MarketRows(ts=np.concatenate(ts), event_ts=np.concatenate(event_ts), columns=columns)


def _rows_of(block: Columns, market: str) -> Ints | slice:
    if len(block.entity_ids) == 1:
        return slice(None)
    return np.flatnonzero(block.entity == block.entity_ids.index(market)).astype(np.int64, copy=False)


class TapeMark(Mark):
    """A mark that reads its cells out of a slice's columns, as of any time from the end of the slice before on."""

    __slots__ = ("_carried", "_signals", "rows")

    def __init__(self, market: str, *, valued_at: Sequence[str], bound_ns: Callable[[str], int], interval_ns: int) -> None:
        super().__init__(market, valued_at=valued_at, bound_ns=bound_ns, interval_ns=interval_ns)
        self.rows = NO_ROWS
        self._signals = tuple(dict.fromkeys((*self._valued_at, *BOOK)))
        self._carried: dict[str, tuple[float, int]] = dict.fromkeys(self._signals, (NAN, 0))  # in force before the slice

    def extend(self, blocks: Sequence[Columns]) -> None:
        """Goes on to the next slice; of this one only what is in force at its end is kept."""
        self._carried = {signal: self._in_force(signal, len(self.rows.ts)) for signal in self._signals}
        self.rows = market_rows(blocks, self.market, (*self._signals, *EXTREMES, "funding_rate"))

    def _in_force(self, signal: str, end: int) -> tuple[float, int]:
        """(value, its own time) after the first `end` rows of the slice; NaN when there is none."""
        column, width = self.rows.columns.get(signal), LOOK_BACK
        while column is not None and end > 0:
            start = max(0, end - width)
            known = np.flatnonzero(column[start:end] != NULL)
            if len(known):
                index = start + int(known[-1])
                return float(column[index]), int(self.rows.event_ts[index])
            end, width = start, width * 8
        return self._carried[signal]

    def _cell(self, signal: str, at: int) -> tuple[float, int]:
        return self._in_force(signal, int(self.rows.ts.searchsorted(at, side="right")))

    def price_at(self, at: int) -> float:
        """The first known and fresh of `valued_at`, NaN when there is none."""
        for signal, bound in zip(self._valued_at, self._bounds, strict=True):
            value, seen = self._cell(signal, at)
            if value > 0.0 and at <= seen + bound:
                self.until = seen + bound
                return value
        self.until = FOREVER
        return NAN

    def book_at(self, at: int) -> tuple[float, float]:
        """(bid, ask), each NaN when unknown or stale."""
        (bid, bid_seen), (ask, ask_seen) = self._cell("bid_price", at), self._cell("ask_price", at)
        bid_bound, ask_bound = self.book_bound
        return (bid if at <= bid_seen + bid_bound else NAN), (ask if at <= ask_seen + ask_bound else NAN)

    def series(self) -> list[Series]:
        """What the market is valued at, in the order of choice; a signal that is neither recorded nor carried is left out."""
        found = []
        for signal, bound in zip(self._valued_at, self._bounds, strict=True):
            column, (value, seen) = self.rows.columns.get(signal), self._carried[signal]
            if column is not None:
                own = Series(ts=self.rows.ts, event_ts=self.rows.event_ts, column=column, bound=bound, value=value, seen=seen)
                found.append(own)
            elif value == value:
                found.append(Series(ts=NO_TIMES, event_ts=NO_TIMES, column=np.empty(0), bound=bound, value=value, seen=seen))
        return found

    def settlements(self) -> dict[int, list[FundingDue]]:
        """What each settlement of the slice asks for, by the instant it was known at; boundaries skipped before one come with it."""
        if "funding_rate" not in self.rows.columns:
            return {}
        rates = self.rows.columns["funding_rate"]
        chosen, boundary = self._settled(rates)
        found: dict[int, list[FundingDue]] = {}
        hours = self.interval_ns / HOUR_NS
        for row, due in zip(chosen, boundary, strict=True):
            missed = range(self.next_boundary, due, self.interval_ns)
            at = found.setdefault(int(self.rows.ts[row]), [])
            at += [FundingDue(boundary=skipped, hours=hours, rate=None) for skipped in missed]
            at.append(FundingDue(boundary=due, hours=hours, rate=float(rates[row])))
            self.next_boundary = due + self.interval_ns
        return found


    def _settled(self, rates: Floats) -> tuple[list[int], list[int]]:
        """(rows, boundaries): the first prompt rate of each boundary not yet paid, in order of time."""
        event_ts = self.rows.event_ts
        if len(event_ts) and (event_ts[1:] >= event_ts[:-1]).all():
            # In order: each boundary is looked up.
            due = np.arange(self.next_boundary, int(event_ts[-1]) + 1, self.interval_ns)
            starts, ends = event_ts.searchsorted(due), event_ts.searchsorted(due + FUNDING_GRACE_NS, side="right")
            ends = np.minimum(ends, np.append(starts[1:], len(event_ts))) if len(due) else ends
            rows: list[int] = []
            boundaries: list[int] = []
            for start, end, at in zip(starts.tolist(), ends.tolist(), due.tolist(), strict=True):
                known = np.flatnonzero(np.isfinite(rates[start:end]))
                if len(known):
                    rows.append(start + int(known[0]))
                    boundaries.append(at)
            return rows, boundaries
        chosen = np.flatnonzero(np.isfinite(rates))
        boundary: Ints = event_ts[chosen] // self.interval_ns * self.interval_ns
        prompt = (event_ts[chosen] - boundary <= FUNDING_GRACE_NS) & (boundary >= self.next_boundary)
        chosen, boundary = chosen[prompt], boundary[prompt]
        newest = np.maximum.accumulate(boundary) if len(boundary) else boundary
        first = np.append(True, boundary[1:] > newest[:-1])[: len(boundary)]
        return chosen[first].tolist(), boundary[first].tolist()


class TapedAccount(SimulatedAccount):
    """The same account, moved over a recording with `pass_to`, which it is handed slice by slice with `extend`."""

    def __init__(self, spec: AccountSpec, *, marks: Mapping[str, TapeMark], spans: Spans | None = None) -> None:
        super().__init__(spec, mark=lambda market: marks[market])
        self._marks = [marks[holding.mark.market] for holding in self._held]
        self._spans: Spans = Columnwise() if spans is None else spans
        self._entries = np.array([holding.entry for holding in self._held])
        self._fractions = np.array([holding.maintenance for holding in self._held])
        self._known_to = NEVER  # the last instant of all slices so far
        self._grid = NO_TIMES  # of this slice: the instants that matter to the account
        self._prices = self._lows = self._highs = np.empty((len(self._held), 0))
        self._book: Book | None = None
        self._k = 0  # instants of the grid already lived through
        self._ahead: tuple[int, int, Found] | None = None  # (from, to, what `scan` found): all that is known of what comes
        self._dues: dict[int, list[tuple[TapeMark, list[FundingDue]]]] = {}  # by index into the grid
        self._due_ks: list[int] = []
        self._opens_at = 0

    # -- slices --------------------------------------------------------------------------------------------------------------

    def extend(self, blocks: Sequence[Columns]) -> None:
        """Takes the next slice of the recording, whatever is left of the one before lived through first; `begin` comes before it."""
        self._pass(len(self._grid))
        if not self._marks:
            return
        until = FOREVER
        if self._known_to != NEVER:
            for mark in self._marks:
                mark.price_at(self._known_to)
                until = min(until, mark.until)
        times = [block.ts for block in blocks if len(block.ts)]
        for mark in self._marks:
            mark.extend(blocks)
        plain = self._plain(until)
        if plain is not None:
            self._grid, self._prices = plain.ts, plain.column.reshape(1, -1)
        else:
            self._grid = self._laid(times, until)
            self._prices = np.full((len(self._marks), len(self._grid)), NAN)
            for prices, mark in zip(self._prices, self._marks, strict=True):
                own = mark.rows.ts if np.array_equal(mark.rows.ts, self._grid) else self._grid
                for series in mark.series():
                    self._spans.lay(prices, own, series)
        self._known_to = max((int(ts[-1]) for ts in times), default=self._known_to)
        self._lows, self._highs = self._extremes("bar_low"), self._extremes("bar_high")
        width = max(self._lows.shape[1], self._highs.shape[1])
        if width:
            blank = np.full((len(self._marks), width), NAN)
            self._lows, self._highs = (found if found.shape[1] else blank for found in (self._lows, self._highs))
        self._take_dues()
        if not self._opened:
            valued = ~np.isnan(self._prices).any(axis=0)
            self._opens_at = int(np.argmax(valued)) if valued.any() else len(self._grid)
        self._k, self._book, self._ahead = 0, None, None

    def _plain(self, until: int) -> Series | None:
        """The series that values the account at every row of the slice: of the one market held, known and fresh from row to row."""
        choice = self._marks[0].series()[:1] if len(self._marks) == 1 else []
        found = next((one for one in choice if len(one.ts)), None)
        if found is None or until < int(found.ts[0]) or not self._spans.plain(found):
            return None
        return found

    def _laid(self, times: Sequence[Ints], until: int) -> Ints:
        """The instants of a slice that matter: the rows of the markets held, and where a price in force has aged out since."""
        grid = rows = _merged([mark.rows.ts for mark in self._marks])
        expired = [_next_instants(times, *self._spans.expired(series, self._known_to)) for mark in self._marks for series in mark.series()]
        if any(len(found) for found in expired):
            grid = _merged([rows, *(np.sort(found) for found in expired)])
            before = np.concatenate(([until], np.minimum.reduce([_untils(mark.series(), grid) for mark in self._marks])[:-1]))
            place = np.minimum(np.searchsorted(rows, grid), max(0, len(rows) - 1))
            own = rows[place] == grid if len(rows) else np.zeros(len(grid), bool)
            grid = grid[own | (before < grid)]
        return grid

    def _extremes(self, signal: str) -> Floats:
        """float64[held, grid] of a bar's extreme, NaN where none was recorded; [held, 0] when there is none in the slice."""
        found = np.empty((len(self._marks), 0))
        for index, mark in enumerate(self._marks):
            column = mark.rows.columns.get(signal)
            known = NO_TIMES if column is None else np.flatnonzero(np.isfinite(column))
            if column is not None and len(known):
                if not found.shape[1]:
                    found = np.full((len(self._marks), len(self._grid)), NAN)
                found[index, np.searchsorted(self._grid, mark.rows.ts[known])] = column[known]
        return found

    def _take_dues(self) -> None:
        self._dues = {}
        for mark in self._marks:
            for at, dues in mark.settlements().items():
                self._dues.setdefault(int(self._grid.searchsorted(at)), []).append((mark, dues))
        self._due_ks = sorted(self._dues)

    def next_row_at(self, market: str, after: int) -> int:
        """When the next row of a market later than `after` is known; FOREVER when there is none in this slice."""
        for mark in self._marks:
            if mark.market == market:
                index = int(mark.rows.ts.searchsorted(after, side="right"))
                return int(mark.rows.ts[index]) if index < len(mark.rows.ts) else FOREVER
        return FOREVER

    # -- moving --------------------------------------------------------------------------------------------------------------

    def next_event_at(self) -> int:
        """No later than the next instant at which the account changes by itself: a settlement, a liquidation, an arrival.

        FOREVER: not in this slice.
        """
        k = self._event(self._k)
        return min(self.next_arrival(), FOREVER if k >= len(self._grid) else int(self._grid[k]))

    def pass_to(self, at: int) -> None:
        """Lives through every instant up to `at`, that one included, as far as this slice goes."""
        self._pass(int(self._grid.searchsorted(at, side="right")))

    def _pass(self, end: int) -> None:
        while self._k < end:
            event = min(self._event(self._k), end)
            if event > self._k:
                self._span(self._k, event)
            if event < end:
                self._k = event
                self._at_event(event)
                self._k = event + 1
            else:
                self._k = end - 1
                self._revalue(int(self._grid[end - 1]))
                self._k = end

    def _event(self, start: int) -> int:
        """The first instant of the grid, from `start` on, that is settled one by one; or how far it was looked for one."""
        if self._ahead is not None and self._ahead[0] <= start < self._ahead[2][0]:
            return self._ahead[2][0]
        if start >= len(self._grid):
            return start
        due = bisect_left(self._due_ks, start)
        limit = min(start + SPAN_MAX, len(self._grid), self._due_ks[due] if due < len(self._due_ks) else len(self._grid))
        if not self._opened and start <= self._opens_at < limit:
            limit = self._opens_at
        if limit > start:
            self._ahead = (start, limit, self._scan(start, limit))
            return self._ahead[2][0]
        return start

    def _scan(self, start: int, end: int) -> Found:
        return self._spans.scan(self._books(), self.collateral, start, end)

    def _books(self) -> Book:
        if self._book is None:
            self._book = Book(
                prices=self._prices, lows=self._lows, highs=self._highs, units=np.array([holding.units for holding in self._held]),
                entries=self._entries, fractions=self._fractions,
            )  # fmt: skip
        return self._book

    def _span(self, start: int, end: int) -> None:
        """Instants at which nothing happens: the highest margin ratio, the equity to close with."""
        ahead = self._ahead
        whole = ahead is not None and ahead[0] == start and ahead[2][0] == end
        _, highest, last, equity = ahead[2] if ahead is not None and whole else self._scan(start, end)
        self.totals.margin_ratio_max = max(self.totals.margin_ratio_max, min(highest, RATIO_MAX))
        if self._opened and last >= 0:
            self.valued_to = int(self._grid[last])
            self.closing_equity = equity + sum(self.buffers.values()) + sum(moving.amount for moving in self.transfers)
        if self.series is not None:
            equities, ratios = self._spans.curve(self._books(), self.collateral, start, end)
            prices = [price[start:end] for price in self._prices]
            self.series.add(self._grid[start:end], equities, ratios, self.totals.funding_usd, prices)

    def _revalue(self, at: int) -> None:
        """Values the positions at the instant of the grid that is lived through."""
        for holding, price in zip(self._held, self._prices[:, self._k].tolist(), strict=True):
            holding.price = price

    def _at_event(self, k: int) -> None:
        if self._lows.shape[1]:
            for holding, low, high in zip(self._held, self._lows[:, k].tolist(), self._highs[:, k].tolist(), strict=True):
                holding.mark.low, holding.mark.high = low, high
        for mark, dues in self._dues.get(k, ()):
            mark.dues = dues
        self._touched.extend(self._held)
        self.settle(int(self._grid[k]))
        self._ahead = None

    def _changed(self) -> None:
        self._ahead = None

    def _put(self, holding: Holding, size: Decimal) -> None:
        super()._put(holding, size)
        self._entries = np.array([each.entry for each in self._held])  # a position that is added to has another
        self._book = None


def _merged(times: Sequence[Ints]) -> Ints:
    """All distinct times of sorted arrays, sorted; the first array itself where they are the same."""
    found = [ts for ts in times if len(ts)]
    if not found:
        return NO_TIMES
    joined = found[0]
    if any(not np.array_equal(ts, joined) for ts in found[1:]):
        joined = np.sort(np.concatenate(found), kind="stable")  # runs are merged, which no hash table outdoes
    again = joined[1:] == joined[:-1]
    return joined[np.append(True, ~again)] if again.any() else joined


def _next_instants(times: Sequence[Ints], ends: Ints, replaced: Ints) -> Ints:
    """The first instant of the slice after each end, where there is one before the reading is replaced."""
    if not len(ends):
        return NO_TIMES
    due = np.full(len(ends), FOREVER)
    for ts in times:
        index = np.searchsorted(ts, ends, side="right")
        due = np.where(index < len(ts), np.minimum(due, ts[np.minimum(index, len(ts) - 1)]), due)
    return due[due < replaced]


def _untils(choice: Sequence[Series], grid: Ints) -> Ints:
    """Until when the price in force at each instant stands without a row; FOREVER without a price."""
    untils, open_ = np.full(len(grid), FOREVER), np.ones(len(grid), bool)
    for series in choice:
        values, seen = in_force(series, grid)
        fresh = open_ & (values > 0.0) & (grid - series.bound <= seen)
        untils[fresh] = seen[fresh] + series.bound
        open_ &= ~fresh
    return untils
