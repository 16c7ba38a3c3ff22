"""Where a replay's rows come from, and what has to be known of all of them before the first is played (floor 5).

A `History` hands its rows out one stretch of time after another, as often as asked; `Kept` does so with blocks in memory. A `Survey` is
one pass over a few columns of it that holds neither rows nor series: has a market held a price, do bars have extremes, how far apart
are the prices that fill.

    survey = Survey.of(history, spec)
    survey.coarse           # {"dydx:HYPE-USD": 3_600_000_000_000}
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from daemon.engine.columns import Columns, sliced
from daemon.simulation.account import AccountSpec
from daemon.simulation.marks import EXTREMES
from daemon.simulation.tape import market_rows
from daemon.units import MINUTE_NS, NEVER
from daemon.world.entities import Kind

Ints = npt.NDArray[np.int64]

SLICE_ROWS = 131_072  # rows of a block in one slice of what is in memory


class History(Protocol):
    """Recorded rows: +inf = not part of its row, NaN = observed as missing; blocks sorted by ts, then entity."""

    @property
    def row_count(self) -> int:
        """Distinct (ts, entity)."""

    @property
    def first_at(self) -> int:
        """The first instant; 0 without rows."""

    @property
    def last_at(self) -> int:
        """The last instant; 0 without rows."""

    @property
    def signals(self) -> Mapping[Kind, tuple[str, ...]]:
        """Signals recorded of each kind; kinds in the order in which rows of one instant are read."""

    @property
    def entities(self) -> Mapping[Kind, tuple[str, ...]]:
        """Entity ids of each kind."""

    def slices(self, signals: Mapping[Kind, Collection[str]] | None = None) -> Iterator[tuple[Columns, ...]]:
        """One stretch of time after another, no instant split; `signals` names the kinds and columns wanted (default: all)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Part:
    """Some rows of a block, not copied."""

    kind: Kind
    ts: Ints
    event_ts: Ints
    entity: npt.NDArray[np.int32]
    entity_ids: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[np.float64]]

    @classmethod
    def cut(cls, block: Columns, start: int, end: int) -> Part:
        """Rows `start` up to `end` of a block."""
        return cls(
            kind=block.kind, ts=block.ts[start:end], event_ts=block.event_ts[start:end], entity=block.entity[start:end],
            entity_ids=tuple(block.entity_ids), columns={name: values[start:end] for name, values in block.columns.items()},
        )  # fmt: skip


class Kept:
    """A history in memory: one or more blocks a kind."""

    def __init__(self, blocks: Sequence[Columns], *, rows: int = SLICE_ROWS) -> None:
        """`rows`: how many of a block make a slice."""
        self.blocks = [block for block in blocks if len(block.ts)]
        self._rows = rows

    @property
    def row_count(self) -> int:
        """Distinct (ts, entity)."""
        return sum(len(block.ts) for block in self.blocks)

    @property
    def first_at(self) -> int:
        """The first instant; 0 without rows."""
        return min((int(block.ts[0]) for block in self.blocks), default=0)

    @property
    def last_at(self) -> int:
        """The last instant; 0 without rows."""
        return max((int(block.ts[-1]) for block in self.blocks), default=0)

    @property
    def signals(self) -> Mapping[Kind, tuple[str, ...]]:
        """Signals recorded of each kind, in the order of the blocks."""
        found: dict[Kind, tuple[str, ...]] = {}
        for block in self.blocks:
            found[block.kind] = tuple(dict.fromkeys((*found.get(block.kind, ()), *block.columns)))
        return found

    @property
    def entities(self) -> Mapping[Kind, tuple[str, ...]]:
        """Entity ids of each kind, in the order of the blocks."""
        found: dict[Kind, tuple[str, ...]] = {}
        for block in self.blocks:
            found[block.kind] = tuple(dict.fromkeys((*found.get(block.kind, ()), *block.entity_ids)))
        return found

    def slices(self, signals: Mapping[Kind, Collection[str]] | None = None) -> Iterator[tuple[Columns, ...]]:
        """See `History`; columns that nobody asked for cost nothing here and are left in."""
        chosen = [block for block in self.blocks if signals is None or block.kind in signals]
        yield from sliced([self._pieces(block) for block in chosen], Part.cut)

    def _pieces(self, block: Columns) -> Iterator[Part]:
        start, length = 0, len(block.ts)
        while start < length:
            end = min(start + self._rows, length)
            end = int(np.searchsorted(block.ts, block.ts[end - 1], side="right"))
            yield Part.cut(block, start, end)
            start = end


class Spacing:
    """The median distance of a series' times, exact, where it is above a minute; of the distances only those above it are held.

    Half of the distances are above it then: their number is bounded by the time recorded, whatever the number of rows.
    """

    def __init__(self) -> None:
        self.count = 0  # times seen
        self._last = NEVER
        self._near = 0  # distances of a minute at most
        self._near_max = 0
        self._far: list[Ints] = []

    def take(self, times: Ints) -> None:
        """The next times, ascending."""
        if not len(times):
            return
        apart = np.diff(times) if self.count == 0 else np.diff(times, prepend=self._last)
        far = apart[apart > MINUTE_NS]
        self._near += len(apart) - len(far)
        if len(far) < len(apart):
            self._near_max = max(self._near_max, int(apart[apart <= MINUTE_NS].max()))
        if len(far):
            self._far.append(far)
        self.count += len(times)
        self._last = int(times[-1])

    def surely_near(self, rows: int) -> bool:
        """True when no more than `rows` times in all cannot bring the median above a minute any more."""
        return self.count > 1 and 2 * self._near > rows

    @property
    def median(self) -> int | None:
        """The median, ns, when it is above a minute; else None."""
        far = np.sort(np.concatenate(self._far)) if self._far else np.empty(0, np.int64)
        total = self._near + len(far)
        if total == 0 or 2 * len(far) < total:
            return None
        low, high = (total - 1) // 2 - self._near, total // 2 - self._near
        found = int((int(far[low] if low >= 0 else self._near_max) + int(far[high])) / 2)
        return found if found > MINUTE_NS else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """What a replay must know of the whole history before it begins."""

    coarse: Mapping[str, int]
    """Markets held whose filling price series is coarser than a minute -> its median spacing, ns.

    A fill at the next row would be a look at a price an hour away: these fill at the price known when the order is sent.
    """
    unpriced: tuple[str, ...]
    """Markets held of which there is no price at all."""
    has_extremes: bool
    """True when bars' highs or lows were recorded for a market held."""

    @classmethod
    def of(cls, history: History, spec: AccountSpec) -> Survey:
        """One pass over the columns that matter, up to where nothing more can be learnt."""
        recorded = history.signals.get(Kind.MARKET, ())
        fills = [name for name in dict.fromkeys(("bid_price", *spec.valued_at)) if name in recorded]
        bars = [name for name in EXTREMES if name in recorded]
        held = [spec.market_id(position.market) for position in spec.positions]
        spacings = {market: {name: Spacing() for name in fills} for market in held}
        extremes = False
        wanted = {Kind.MARKET: (*fills, *bars)}
        for blocks in history.slices(wanted) if held and (fills or bars) else ():
            for market, spacing in spacings.items():
                rows = market_rows(blocks, market, wanted[Kind.MARKET])
                for name, found in spacing.items():
                    if name in rows.columns:
                        found.take(rows.ts[np.isfinite(rows.columns[name])])
                extremes = extremes or any(np.isfinite(rows.columns[name]).any() for name in bars if name in rows.columns)
            if (extremes or not bars) and all(_settled(spacing, spec, history.row_count) for spacing in spacings.values()):
                break
        coarse = {}
        for market, spacing in spacings.items():
            filling = next((found for found in spacing.values() if found.count > 1), None)
            median = None if filling is None else filling.median
            if median is not None:
                coarse[market] = median
        sized = [spec.market_id(position.market) for position in spec.positions if position.size]
        unpriced = tuple(m for m in sized if not any(spacings[m][name].count for name in spec.valued_at if name in fills))
        return cls(coarse=coarse, unpriced=unpriced, has_extremes=extremes)


def _settled(spacing: Mapping[str, Spacing], spec: AccountSpec, rows: int) -> bool:
    first = next(iter(spacing.values()), None)  # another one counts only when this one never comes
    return first is not None and first.surely_near(rows) and any(spacing[name].count for name in spec.valued_at if name in spacing)
