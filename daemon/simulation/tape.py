"""The simulated account over a whole recording at once (floor 5): exact, and without a step of Python a row.

Between two things that change what the account owns (a settlement, a liquidation, a fill, an arrival) its equity is a sum of columns.
So the markets held are laid on one grid of instants, and `TapedAccount.pass_to(at)` takes whole spans of it as arrays; only the instants
at which something happens go through `SimulatedAccount.settle`. Row by row and taped agree to the last bit (a test).

    account = TapedAccount(spec, marks=marks, instants=instants)
    account.begin(first); account.next_event_at(); account.pass_to(at)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from daemon.simulation.account import RATIO_MAX, AccountSpec, SimulatedAccount
from daemon.simulation.marks import FUNDING_GRACE_NS, NAN, FundingDue, Mark
from daemon.units import FOREVER, HOUR_NS

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

SPAN_MAX = 65_536  # instants looked ahead at once for a liquidation
NULL = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketRows:
    """All rows of one market in order of time; null = +inf, NaN = observed as missing."""

    ts: Ints
    event_ts: Ints
    columns: Mapping[str, Floats]


class TapeMark(Mark):
    """A mark that reads its cells out of a recording's columns, as of any time."""

    __slots__ = ("_filled", "rows")

    def __init__(
        self, market: str, rows: MarketRows, *, valued_at: Sequence[str], bound_ns: Callable[[str], int], interval_ns: int
    ) -> None:
        super().__init__(market, valued_at=valued_at, bound_ns=bound_ns, interval_ns=interval_ns)
        self.rows = rows
        self._filled: dict[str, npt.NDArray[np.intp]] = {}  # signal -> row of its last value, -1 before the first

    def filled(self, signal: str) -> npt.NDArray[np.intp] | None:
        """For each row the row that holds the signal's value in force; None when it was never recorded."""
        if signal not in self.rows.columns:
            return None
        if signal not in self._filled:
            column = self.rows.columns[signal]
            self._filled[signal] = np.maximum.accumulate(np.where(column != NULL, np.arange(len(column)), -1))
        return self._filled[signal]

    def _cell(self, signal: str, at: int) -> tuple[float, int]:
        """(value, its own time) of a signal as known at `at`; NaN when there is none."""
        filled = self.filled(signal)
        row = int(np.searchsorted(self.rows.ts, at, side="right")) - 1
        if filled is None or row < 0 or filled[row] < 0:
            return NAN, 0
        index = int(filled[row])
        return float(self.rows.columns[signal][index]), int(self.rows.event_ts[index])

    def price_at(self, at: int) -> float:
        """The first known and fresh of `valued_at`, NaN when there is none."""
        for signal, bound in zip(self._valued_at, self._bounds, strict=True):
            value, seen = self._cell(signal, at)
            if value == value and value > 0.0 and at <= seen + bound:
                self.until = seen + bound
                return value
        self.until = FOREVER
        return NAN

    def book_at(self, at: int) -> tuple[float, float]:
        """(bid, ask), each NaN when unknown or stale."""
        (bid, bid_seen), (ask, ask_seen) = self._cell("bid_price", at), self._cell("ask_price", at)
        bid_bound, ask_bound = self.book_bound
        return (bid if at <= bid_seen + bid_bound else NAN), (ask if at <= ask_seen + ask_bound else NAN)

    def prices_on(self, grid: Ints) -> Floats:
        """The price after each instant of `grid`: float64[grid], USD, NaN unknown."""
        prices = np.full(len(grid), NAN)
        rows = np.searchsorted(self.rows.ts, grid, side="right") - 1
        for signal, bound in zip(self._valued_at, self._bounds, strict=True):
            filled = self.filled(signal)
            if filled is None:
                continue
            index = np.where(rows >= 0, filled[np.maximum(rows, 0)], -1)
            values = self.rows.columns[signal][np.maximum(index, 0)]
            fresh = (index >= 0) & (values > 0.0) & (grid <= self.rows.event_ts[np.maximum(index, 0)] + bound)
            prices = np.where(np.isnan(prices) & fresh, values, prices)
        return prices

    def expiries(self, instants: Ints) -> Ints:
        """The instants at which a price in force has aged out since its last row."""
        found = [np.empty(0, np.int64)]
        for signal, bound in zip(self._valued_at, self._bounds, strict=True):
            if signal not in self.rows.columns:
                continue
            held = np.flatnonzero(self.rows.columns[signal] != NULL)
            if not len(held):
                continue
            after = np.searchsorted(instants, self.rows.event_ts[held] + bound, side="right")
            replaced = np.append(self.rows.ts[held[1:]], FOREVER)
            due = instants[np.minimum(after, len(instants) - 1)]
            found.append(due[(after < len(instants)) & (due < replaced)])
        return np.concatenate(found)

    def settlements(self) -> dict[int, list[FundingDue]]:
        """What each settlement asks for, by the instant it was known at; boundaries skipped before one come with it."""
        if "funding_rate" not in self.rows.columns:
            return {}
        rates = self.rows.columns["funding_rate"]
        chosen = np.flatnonzero(np.isfinite(rates))
        boundary = self.rows.event_ts[chosen] // self.interval_ns * self.interval_ns
        prompt = (self.rows.event_ts[chosen] - boundary <= FUNDING_GRACE_NS) & (boundary >= self.next_boundary)
        chosen, boundary = chosen[prompt], boundary[prompt]
        newest = np.maximum.accumulate(boundary) if len(boundary) else boundary
        first = np.append(True, boundary[1:] > newest[:-1])[: len(boundary)]
        found: dict[int, list[FundingDue]] = {}
        hours = self.interval_ns / HOUR_NS
        for row, due in zip(chosen[first].tolist(), boundary[first].tolist(), strict=True):
            missed = range(self.next_boundary, due, self.interval_ns)
            at = found.setdefault(int(self.rows.ts[row]), [])
            at += [FundingDue(boundary=skipped, hours=hours, rate=None) for skipped in missed]
            at.append(FundingDue(boundary=due, hours=hours, rate=float(rates[row])))
            self.next_boundary = due + self.interval_ns
        return found


class TapedAccount(SimulatedAccount):
    """The same account, moved over a recording with `pass_to`; `instants` are all distinct times of the recording, sorted."""

    def __init__(self, spec: AccountSpec, *, marks: Mapping[str, TapeMark], instants: Ints) -> None:
        super().__init__(spec, mark=lambda market: marks[market])
        self._marks = [marks[holding.mark.market] for holding in self._held]
        parts = [mark.rows.ts for mark in self._marks] + [mark.expiries(instants) for mark in self._marks]
        self._grid: Ints = np.unique(np.concatenate(parts)) if parts else np.empty(0, np.int64)
        self._prices = [mark.prices_on(self._grid) for mark in self._marks]
        self._valued = np.logical_and.reduce([~np.isnan(prices) for prices in self._prices]) if parts else np.empty(0, bool)
        self._lows = [self._extremes(mark, "bar_low") for mark in self._marks]
        self._highs = [self._extremes(mark, "bar_high") for mark in self._marks]
        self._k = 0  # instants of the grid already lived through
        self._searched: tuple[int, int, bool] | None = None  # (from, to, found): what is known of the next liquidation
        self._dues: list[dict[int, list[FundingDue]]] = []
        self._due_ks: Ints = np.empty(0, np.int64)
        self._opens_at = int(np.argmax(self._valued)) if self._valued.any() else len(self._grid)

    def _extremes(self, mark: TapeMark, signal: str) -> Floats | None:
        column = mark.rows.columns.get(signal)
        if column is None:
            return None
        known = np.isfinite(column)
        found = np.full(len(self._grid), NAN)
        found[np.searchsorted(self._grid, mark.rows.ts[known])] = column[known]
        return found

    def begin(self, at: int) -> None:
        """Starts the account at the first instant it lives through; funding is due from here on."""
        super().begin(at)
        self._dues = [mark.settlements() for mark in self._marks]
        times = sorted({time for dues in self._dues for time in dues})
        self._due_ks = np.searchsorted(self._grid, np.array(times, np.int64))

    def next_row_at(self, market: str, after: int) -> int:
        """When the next row of a market later than `after` is known; FOREVER when there is none."""
        for mark in self._marks:
            if mark.market == market:
                index = int(np.searchsorted(mark.rows.ts, after, side="right"))
                return int(mark.rows.ts[index]) if index < len(mark.rows.ts) else FOREVER
        return FOREVER

    # -- moving --------------------------------------------------------------------------------------------------------------

    def next_event_at(self) -> int:
        """No later than the next instant at which the account changes by itself: a settlement, a liquidation, an arrival."""
        k = self._event(self._k)
        return min(self.next_arrival(), FOREVER if k >= len(self._grid) else int(self._grid[k]))

    def pass_to(self, at: int) -> None:
        """Lives through every instant up to `at`, that one included."""
        end = int(np.searchsorted(self._grid, at, side="right"))
        while self._k < end:
            event = min(self._event(self._k), end)
            if event > self._k:
                self._span(self._k, event)
            if event < end:
                self._at_event(event)
                event += 1
            self._k = event

    def _event(self, start: int) -> int:
        """The first instant of the grid, from `start` on, that is settled one by one; or how far it was looked for one."""
        if start >= len(self._grid):
            return start
        funding = int(np.searchsorted(self._due_ks, start))
        due = int(self._due_ks[funding]) if funding < len(self._due_ks) else len(self._grid)
        opens = self._opens_at if start <= self._opens_at else len(self._grid)
        limit = min(due, opens, start + SPAN_MAX, len(self._grid))
        if limit > start:
            hit = self._first_liquidation(start, limit)
            if hit < limit:
                return hit
        return limit

    def _sums(self, start: int, end: int, *, extremes: bool) -> tuple[Floats, Floats]:
        """(equity, maintenance margin) of the present positions over a span: float64[end - start], USD."""
        equity = np.full(end - start, self.collateral)
        maintenance = np.zeros(end - start)
        for index, holding in enumerate(self._held):
            if not holding.units:
                continue
            price = self._prices[index][start:end]
            worse = (self._lows if holding.units > 0 else self._highs)[index] if extremes else None
            if worse is not None:
                extreme = worse[start:end]
                pick = np.minimum if holding.units > 0 else np.maximum
                price = np.where(extreme > 0.0, pick(extreme, price), price)
            equity += holding.units * (price - holding.entry)
            maintenance += abs(holding.units) * price * holding.maintenance
        return equity, maintenance

    def _first_liquidation(self, start: int, end: int) -> int:
        if self._searched is not None:
            since, to, found = self._searched
            if since <= start and (found or end <= to):
                return min(max(to, start), end)
        valued = self._valued[start:end]
        hit = np.zeros(end - start, bool)
        for extremes in (False, True):
            equity, maintenance = self._sums(start, end, extremes=extremes)
            hit |= valued & (maintenance > equity) & (maintenance != 0.0)
        first = int(np.argmax(hit)) if hit.any() else -1
        self._searched = (start, end, False) if first < 0 else (start, start + first, True)
        return end if first < 0 else start + first

    def _span(self, start: int, end: int) -> None:
        """Instants at which nothing happens: the highest margin ratio, the equity to close with."""
        equity, maintenance = self._sums(start, end, extremes=False)
        valued = self._valued[start:end]
        if any(holding.units for holding in self._held):
            # Division by zero and NaN are what the masks are for.
            with np.errstate(divide="ignore", invalid="ignore"):
                ratio = np.where(equity <= 0.0, np.inf, maintenance / equity)
        else:
            ratio = np.zeros(end - start)
        known = ratio[valued & ~np.isnan(ratio)]
        if len(known):
            self.totals.margin_ratio_max = max(self.totals.margin_ratio_max, float(min(known.max(), RATIO_MAX)))
        if self._opened and valued.any():
            last = end - start - 1 - int(np.argmax(valued[::-1]))
            self.valued_to = int(self._grid[start + last])
            self.closing_equity = float(equity[last]) + sum(self.buffers.values()) + sum(moving.amount for moving in self.transfers)
        if self.series is not None:
            self.series.extend(zip(self._grid[start:end].tolist(), equity.tolist(), ratio.tolist(), strict=True))
        self._revalue(int(self._grid[end - 1]))

    def _at_event(self, k: int) -> None:
        at = int(self._grid[k])
        for index, holding in enumerate(self._held):
            lows, highs = self._lows[index], self._highs[index]
            holding.mark.low = NAN if lows is None else float(lows[k])
            holding.mark.high = NAN if highs is None else float(highs[k])
            holding.mark.dues = list(self._dues[index].get(at, ()))
            self._touched.append(holding)
        self.settle(at)
        self._searched = None

    def _changed(self) -> None:
        self._searched = None
