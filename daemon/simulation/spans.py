"""The arithmetic of a span of instants at which the account owns the same (floor 5): pure functions over arrays, in two writings.

`Columnwise` takes whole columns (numpy), the default. `Rowwise` goes row by row with three plain functions (`scan_rows`, `lay_rows`,
`expired_rows`) that allocate nothing and that a compiler may be handed instead of the interpreter. Both do the same operations on the
same numbers in the same order and agree to the last bit (a test).

    TapedAccount(spec, marks=marks, spans=Rowwise(scan=compiled(scan_rows), lay=compiled(lay_rows), ...))
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from daemon.units import FOREVER

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
FloatTable = npt.NDArray[np.float64]  # of two dimensions

NAN = math.nan
NULL = math.inf  # a cell that is not part of its row

Found = tuple[int, float, int, float]
"""(first instant at which the account is liquidated, or the end; before it: highest margin ratio >= 0, last instant at which every
position is valued or -1, equity there)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Book:
    """What the account owns, by market held, and what each market is worth at each instant of a grid.

    prices: float64[held, instants], USD, NaN unknown; lows and highs: the same shape, NaN where no bar closes, or [held, 0] when no bar
    was recorded; units (base, signed), entries (USD), fractions (maintenance margin of value): float64[held].
    """

    prices: Floats
    lows: Floats
    highs: Floats
    units: Floats
    entries: Floats
    fractions: Floats


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Series:
    """One signal of one market over a slice: its rows (+inf = not part of the row), and the cell in force before them.

    A reading is fresh for `bound` ns from its own time on; `value` is NaN where nothing was known before.
    """

    ts: Ints
    event_ts: Ints
    column: Floats
    bound: int
    value: float
    seen: int


class Spans(Protocol):
    """What `TapedAccount` asks of its arithmetic."""

    def plain(self, series: Series) -> bool:
        """True when every row has the signal, above 0 and true when known, and none ages out before the next: times ascend strictly."""

    def expired(self, series: Series, since: int) -> tuple[Ints, Ints]:
        """Of readings that age out, not before `since`, while no newer one is known: until when they are fresh, when a newer one comes."""

    def lay(self, prices: Floats, grid: Ints, series: Series) -> None:
        """Fills what is NaN in `prices[grid]` with the signal, where it is known, positive and fresh at that instant."""

    def scan(self, book: Book, collateral: float, start: int, end: int) -> Found:
        """What the instants `start` up to `end` bring."""

    def curve(self, book: Book, collateral: float, start: int, end: int) -> tuple[Floats, Floats]:
        """(equity USD, margin ratio) of each of these instants, NaN unknown."""


class Columnwise:
    """The arithmetic over whole columns."""

    def plain(self, series: Series) -> bool:
        """See `Spans`."""
        column, apart = series.column, np.diff(series.ts)
        return bool(
            (column > 0.0).all() and (column != NULL).all() and np.array_equal(series.ts, series.event_ts)
            and (apart > 0).all() and (apart <= series.bound).all()
        )  # fmt: skip

    def expired(self, series: Series, since: int) -> tuple[Ints, Ints]:
        """See `Spans`."""
        known = series.column != NULL
        rows = slice(None) if known.all() else np.flatnonzero(known)
        ts, ends = series.ts[rows], series.event_ts[rows] + series.bound
        replaced = np.append(ts[1:], FOREVER) if len(ts) else ts
        old = np.flatnonzero(ends < replaced)
        old = old[(ends[old] >= ts[old]) & (series.column[rows][old] > 0.0)]
        end, first = series.seen + series.bound, int(ts[0]) if len(ts) else FOREVER
        if series.value > 0.0 and since <= end < first:
            return np.append(end, ends[old]), np.append(first, replaced[old])
        return ends[old], replaced[old]

    def lay(self, prices: Floats, grid: Ints, series: Series) -> None:
        """See `Spans`."""
        values, seen = in_force(series, grid)
        fresh = np.isnan(prices) & (values > 0.0)
        fresh &= grid - series.bound <= seen
        np.copyto(prices, values, where=fresh)

    def scan(self, book: Book, collateral: float, start: int, end: int) -> Found:
        """See `Spans`."""
        blank: npt.NDArray[np.bool_] = np.logical_or.reduce(np.isnan(book.prices[:, start:end]))
        valued = None if not blank.any() else ~blank
        equity, maintenance = _sums(book, collateral, start, end, extremes=False)
        size = _first_hit(equity, maintenance, valued)
        if book.lows.shape[1]:
            size = min(size, _first_hit(*_sums(book, collateral, start, end, extremes=True), valued))
        equity, maintenance = equity[:size], maintenance[:size]
        last = size - 1
        if valued is not None:
            valued = valued[:size]
            last = size - 1 - int(np.argmax(valued[::-1])) if valued.any() else -1
        if last < 0:
            return start + size, 0.0, -1, NAN
        ratio = _ratio(book, equity, maintenance)
        highest = np.fmax.reduce(ratio if valued is None else ratio[valued], initial=0.0)  # a ratio that nobody knows is passed over
        return start + size, float(highest), start + last, float(equity[last])

    def curve(self, book: Book, collateral: float, start: int, end: int) -> tuple[Floats, Floats]:
        """See `Spans`."""
        equity, maintenance = _sums(book, collateral, start, end, extremes=False)
        return equity, _ratio(book, equity, maintenance)


def in_force(series: Series, grid: Ints) -> tuple[Floats, Ints]:
    """(value, its own time) of a signal at each instant of a grid; NaN when there is none."""
    ts, column = series.ts, series.column
    if not len(ts):
        return np.full(len(grid), series.value), np.full(len(grid), series.seen)
    same = grid is ts
    known = column != NULL
    if same and known.all():
        return column, series.event_ts
    filled = np.maximum.accumulate(np.where(known, np.arange(len(column)), -1))
    if not same:
        rows = np.searchsorted(ts, grid, side="right") - 1
        filled = np.where(rows >= 0, filled[np.maximum(rows, 0)], -1)
    return np.where(filled >= 0, column[filled], series.value), np.where(filled >= 0, series.event_ts[filled], series.seen)


def _sums(book: Book, collateral: float, start: int, end: int, *, extremes: bool) -> tuple[Floats, Floats]:
    """(equity, maintenance margin) of each instant, USD; with `extremes` at the adverse side of the bars that close."""
    equity: Floats | float = collateral
    maintenance: Floats | float = 0.0
    for index, units in enumerate(book.units.tolist()):
        if units == 0.0:
            continue
        price = book.prices[index, start:end]
        if extremes:
            extreme = (book.lows if units > 0.0 else book.highs)[index, start:end]
            pick = np.minimum if units > 0.0 else np.maximum
            price = np.where(extreme > 0.0, pick(extreme, price), price)
        equity = equity + units * (price - book.entries[index])
        maintenance = maintenance + abs(units) * price * book.fractions[index]
    if isinstance(equity, float) or isinstance(maintenance, float):  # nothing is held
        return np.full(end - start, collateral), np.zeros(end - start)
    return equity, maintenance


def _first_hit(equity: Floats, maintenance: Floats, valued: npt.NDArray[np.bool_] | None) -> int:
    """The first instant at which the margin is short, or how many there are."""
    hit = maintenance > equity
    if not hit.any():
        return len(hit)
    hit &= maintenance != 0.0
    if valued is not None:
        hit &= valued
    return int(np.argmax(hit)) if hit.any() else len(hit)


def _ratio(book: Book, equity: Floats, maintenance: Floats) -> Floats:
    if not book.units.any():
        return np.zeros(len(equity))
    if len(equity) and float(equity.min()) > 0.0:  # NaN is not: then it is looked at one by one
        return maintenance / equity
    # Division by zero and NaN are what the masks are for.
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(equity <= 0.0, np.inf, maintenance / equity)


def scan_rows(
    prices: FloatTable, lows: FloatTable, highs: FloatTable, units: Floats, entries: Floats, fractions: Floats, held: int, bars: int,
    collateral: float, start: int, end: int,
) -> Found:  # fmt: skip
    """`Spans.scan`, row by row; `held` markets, `bars` 0 when no bar was recorded."""
    owns = False
    for h in range(held):
        if units[h] != 0.0:
            owns = True
    highest, last, last_equity = 0.0, -1, NAN
    if held == 1 and owns and bars == 0:
        # The same for one position and no bars, which is most of all replays: three times as fast for what stays in registers.
        size, entry, fraction = units[0], entries[0], fractions[0]
        weight = abs(size)
        for k in range(start, end):
            price = prices[0, k]
            if price != price:
                continue
            equity, maintenance = collateral + size * (price - entry), weight * price * fraction
            if maintenance > equity and maintenance != 0.0:
                return k, highest, last, last_equity
            last, last_equity = k, equity
            if equity <= 0.0:
                highest = NULL
            elif maintenance >= highest * equity:
                ratio = maintenance / equity
                if ratio > highest:
                    highest = ratio
        return end, highest, last, last_equity
    for i in range(start, end):
        valued = True
        equity, maintenance = collateral, 0.0
        for h in range(held):
            price = prices[h, i]
            if price != price:
                valued = False
                break
            size = units[h]
            if size != 0.0:
                equity += size * (price - entries[h])
                maintenance += abs(size) * price * fractions[h]
        if not valued:
            continue
        if maintenance > equity and maintenance != 0.0:
            return i, highest, last, last_equity
        if bars != 0:
            worst, margin = collateral, 0.0
            for h in range(held):
                size = units[h]
                if size != 0.0:
                    price = prices[h, i]
                    extreme = lows[h, i] if size > 0.0 else highs[h, i]
                    if extreme > 0.0 and ((size > 0.0 and extreme < price) or (size < 0.0 and extreme > price)):
                        price = extreme
                    worst += size * (price - entries[h])
                    margin += abs(size) * price * fractions[h]
            if margin > worst and margin != 0.0:
                return i, highest, last, last_equity
        last, last_equity = i, equity
        if owns:
            if equity <= 0.0:
                highest = NULL
            elif maintenance >= highest * equity:
                # A quotient above `highest` always passes this test, rounded as it is: division is what costs here.
                ratio = maintenance / equity
                if ratio > highest:
                    highest = ratio
    return end, highest, last, last_equity


def plain_rows(ts: Ints, event_ts: Ints, column: Floats, rows: int, bound: int) -> int:
    """How many rows speak against `Spans.plain`."""
    against = 0
    for row in range(rows):
        x = column[row]
        against += 0 if x > 0.0 and x != NULL else 1
        against += 1 if ts[row] != event_ts[row] else 0
    for row in range(1, rows):
        apart = ts[row] - ts[row - 1]
        against += 0 if apart > 0 and apart <= bound else 1
    return against


def lay_rows(
    prices: Floats, grid: Ints, instants: int, ts: Ints, event_ts: Ints, column: Floats, rows: int, bound: int, value: float, seen: int
) -> None:
    """`Spans.lay`, row by row: `instants` of the grid, `rows` of the signal."""
    row = 0
    for k in range(instants):
        at = grid[k]
        while row < rows and ts[row] <= at:
            if column[row] != NULL:
                value, seen = column[row], event_ts[row]
            row += 1
        if prices[k] != prices[k] and value > 0.0 and at - bound <= seen:
            prices[k] = value


def expired_rows(
    ends: Ints, replaced: Ints, ts: Ints, event_ts: Ints, column: Floats, rows: int, bound: int, value: float, seen: int, since: int
) -> int:
    """`Spans.expired`, row by row, into two arrays of one cell more than there are rows; how many cells were filled."""
    count, came = 0, since
    for row in range(rows):
        if column[row] != NULL:
            end = seen + bound
            if end < ts[row] and end >= came and value > 0.0:
                ends[count], replaced[count] = end, ts[row]
                count += 1
            value, seen, came = column[row], event_ts[row], ts[row]
    end = seen + bound
    if end >= came and value > 0.0:
        ends[count], replaced[count] = end, FOREVER
        count += 1
    return count


Scan = Callable[[FloatTable, FloatTable, FloatTable, Floats, Floats, Floats, int, int, float, int, int], Found]
Lay = Callable[[Floats, Ints, int, Ints, Ints, Floats, int, int, float, int], object]
Expired = Callable[[Ints, Ints, Ints, Ints, Floats, int, int, float, int, int], int]


Plain = Callable[[Ints, Ints, Floats, int, int], int]


class Rowwise:
    """The arithmetic row by row, with the three functions above or with what a compiler made of them."""

    def __init__(
        self, *, scan: Scan = scan_rows, lay: Lay = lay_rows, expired: Expired = expired_rows, plain: Plain = plain_rows
    ) -> None:
        self._scan, self._lay, self._expired, self._plain = scan, lay, expired, plain

    def plain(self, series: Series) -> bool:
        """See `Spans`."""
        return self._plain(series.ts, series.event_ts, series.column, len(series.ts), series.bound) == 0

    def expired(self, series: Series, since: int) -> tuple[Ints, Ints]:
        """See `Spans`."""
        ends, replaced = np.empty(len(series.ts) + 1, np.int64), np.empty(len(series.ts) + 1, np.int64)
        count = self._expired(
            ends, replaced, series.ts, series.event_ts, series.column, len(series.ts), series.bound, series.value, series.seen, since
        )
        return ends[:count], replaced[:count]

    def lay(self, prices: Floats, grid: Ints, series: Series) -> None:
        """See `Spans`."""
        rows = len(series.ts)
        self._lay(prices, grid, len(grid), series.ts, series.event_ts, series.column, rows, series.bound, series.value, series.seen)

    def scan(self, book: Book, collateral: float, start: int, end: int) -> Found:
        """See `Spans`."""
        stop, highest, last, equity = self._scan(
            book.prices, book.lows, book.highs, book.units, book.entries, book.fractions, len(book.units), book.lows.shape[1],
            collateral, start, end,
        )
        return int(stop), float(highest), int(last), float(equity)  # not numpy's scalars: they print otherwise

    def curve(self, book: Book, collateral: float, start: int, end: int) -> tuple[Floats, Floats]:
        """See `Spans`."""
        return Columnwise().curve(book, collateral, start, end)
