"""The compiled hot side for futures that begin alike (floor 5): it goes back to a mark, and is told of the account ahead of time.

    hot = StageHot(topology, sources, compiler=compiler, recorded=recorded)
    ...                                     # linked, fed with the first instant, advanced through it
    hot.mark()
    hot.go_back(); hot.feed(blocks, end)    # the next future, from the same instant

What an account is worth at each funding settlement is known as long as nobody acts: its collateral comes as rows like a market's
(`event_ts` FOREVER). When an action changes the account, `foretell` puts other values in the rows still to come, and the facts of
that instant take every trigger that reads them back to it (`ColumnHot.take`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from daemon.engine import unit as units
from daemon.engine.columns import Columns
from daemon.engine.edge import Edge
from daemon.engine.events import Row
from daemon.engine.hot import Sources
from daemon.engine.layout import Series
from daemon.engine.unit import Column
from daemon.language.slots import SLOT
from daemon.simulation.columnar import AHEAD_MAX, AHEAD_MIN, ColumnHot, Compiles, _frozen, _Table, _WindowUnit
from daemon.units import FOREVER, NEVER
from daemon.world.entities import Kind, Topology

TOLD_KINDS = (Kind.VENUE, Kind.CHAIN, Kind.ROUTE)
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Joined = tuple[Ints, Ints, Ints, Ints]


@dataclass(frozen=True, slots=True)
class _Piece:
    """Some cells of one entity's line of samples."""

    times: bool  # T, else V
    number: int
    start: int
    cells: npt.NDArray[Any]


@dataclass(slots=True)
class _Remembered:
    """Everything that moves, as it stood."""

    floats: dict[Kind, list[list[float]]]
    ints: dict[Kind, list[list[int]]]
    windows: list[tuple[Floats, Ints, int]]
    samples: list[list[_Piece]]  # by window
    groups: list[tuple[list[npt.NDArray[Any]], list[int]]]
    settled: int
    now: int


class StageHot(ColumnHot):
    """A `ColumnHot` that can be taken back to where it was marked."""

    def __init__(self, topology: Topology, sources: Sources | None, *, compiler: Compiles, recorded: Mapping[Kind, Sequence[str]]) -> None:
        super().__init__(topology, sources, compiler=compiler, recorded=recorded)
        self._remembered: _Remembered | None = None
        self._resized = False
        self._lasting: dict[int, _Table] = {}  # by the address of a `ts` that stays: the sorted block of which only values change
        self._axes: dict[frozenset[tuple[Kind, int]], Joined] = {}
        self._put_off: list[_WindowUnit] = []  # windows that no trigger reads, until somebody does
        self._urgent: frozenset[int] | None = None  # indices of those that some trigger reads

    def mark(self) -> None:
        """Remembers this instant; every row fed has been advanced through."""
        self._keep_all()
        self._tables = {}
        kinds = self.arenas.kinds
        self._remembered = _Remembered(
            floats={kind: [row.copy() for row in arena.F] for kind, arena in kinds.items()},
            ints={kind: [row.copy() for row in arena.I] for kind, arena in kinds.items()},
            windows=[(window.F.copy(), window.I.copy(), window.line) for window in self._windows],
            samples=[list(_pieces(window)) for window in self._windows],
            groups=[([array.copy() for array in group.live], group.reached.copy()) for group in self._groups],
            settled=self._settled, now=self.now,
        )  # fmt: skip
        self._resized = False

    def go_back(self) -> None:
        """Everything as it was when it was marked."""
        was = self._remembered
        assert was is not None, "nothing was marked"
        for kind, arena in self.arenas.kinds.items():
            for number, (floats, ints) in enumerate(zip(was.floats[kind], was.ints[kind], strict=True)):
                # What came since is as long as the layout says, and empty.
                arena.F[number][:] = floats + self.layout.floats[kind][len(floats) :]
                arena.I[number][:] = ints + self.layout.ints[kind][len(ints) :]
        for window, (F, I, line), pieces in zip(self._windows, was.windows, was.samples, strict=True):  # noqa: E741
            window.F[:], window.I[:], window.line = F, I, line
            for piece in pieces:
                (window.T if piece.times else window.V)[piece.number, piece.start : piece.start + len(piece.cells)] = piece.cells
        for group, (live, reached) in zip(self._groups, was.groups, strict=True):
            for array, kept in zip(group.live, live, strict=True):
                array[:] = kept
            group.reached = reached.copy()
            group.version = [0] * len(reached)
            group.saved_at = [NEVER] * len(reached)
            group.save(0, len(reached))
        self._edges, self._hungry, self._tables, self._brought, self._put_off = [], [], {}, {}, []
        self._settled, self.now, self._ahead = was.settled, was.now, AHEAD_MAX  # most futures hold no edge
        if self._resized:
            self._resized = False
            self.arenas.refill()
            self._tell_sets()

    def _tell_sets(self) -> None:
        self._resized = True
        super()._tell_sets()

    def keep(self, ts: Ints) -> None:
        """Says that a block's times stay as they are from one future to the next: what follows from them is worked out once."""
        self._lasting.setdefault(_address(ts), _Table(Kind.MARKET, (), ts, ts, ts))

    def _sorted(self, block: Columns) -> _Table:
        key = _address(block.ts)
        known = self._lasting.get(key)
        if known is None:
            return super()._sorted(block)
        if not known.ids:
            known = super()._sorted(block)
            if known.at.__array_interface__["data"][0] != key:
                return known  # it was put in another order
            self._lasting[key] = replace(known, raw={}, columns={}, came={}, addresses={})
            return known
        table = replace(known, raw={}, columns={}, came={}, addresses={})
        for name, values in block.columns.items():
            if (block.kind, name) in self.recorded:
                table.raw[SLOT[block.kind, name]] = _frozen(np.ascontiguousarray(values, np.float64))
        return table

    def _joined(self, reads: frozenset[tuple[Kind, int]]) -> Joined:
        lasting = all(_address(table.at) in self._lasting for table in self._tables.values())
        if not lasting:
            return super()._joined(reads)
        if reads not in self._axes:
            self._axes[reads] = super()._joined(reads)
        return self._axes[reads]

    def take(self, rows: Sequence[Row], at: int, history: bool = False) -> list[Edge]:
        """As `ColumnHot.take`; what is told of venues, chains and routes moves how long something has lasted."""
        first = not self._built
        edges = super().take(rows, at, history)
        if first:
            self._move({(row.kind, self.arenas.row(row.kind, row.entity)) for row in rows if row.event_ts == FOREVER}, at)
        return edges

    def _tell(self, facts: Sequence[Row], told: set[tuple[Kind, int]], at: int) -> None:
        super()._tell(facts, told, at)
        self._move(told, at)

    def _move(self, told: set[tuple[Kind, int]], at: int) -> None:
        """Accumulators of kinds that are told and never fed stand in the engine's own rows; triggers see them there."""
        moved = {key for key in told if key[0] in TOLD_KINDS}
        self._push(dict.fromkeys(sorted(moved, key=lambda key: (key[0].value, key[1]))), at)
        for kind, number in moved:
            for g, k in self._by_row.get((kind, number), ()):
                group = self._groups[g]
                for path, numbers in group.numbers.items():
                    if path in group.rows and numbers[k] == number and units.path_kind(group.unit.scope, path) is kind:
                        self._read_row(group.unit, kind, number, group.rows[path][0][k], group.rows[path][1][k])
                if kind in group.arenas:
                    self._read_row(group.unit, kind, number, group.arenas[kind][0][k, number], group.arenas[kind][1][k, number])

    def _start_block(self) -> None:
        for kind, table in self._tables.items():
            self._fill_columns(kind, table)
        if self._urgent is None:
            self._urgent = self._read_by_triggers()
        self._put_off = []
        for n, window in enumerate(self._windows):
            if n in self._urgent:
                self._run_window(window)
            else:
                self._put_off.append(window)
        for g, group in enumerate(self._groups):
            self._place(group)
            self._hungry += [(g, -1)]

    def _read_by_triggers(self) -> frozenset[int]:
        """The windows whose columns some trigger reads, or some window that one reads."""
        wanted = {column for group in self._groups for column in group.unit.columns.values()}
        found: set[int] = set()
        for n in reversed(range(len(self._windows))):  # a window reads only windows that move before it
            unit = self._windows[n].unit
            if wanted & set(unit.outputs.values()):
                found.add(n)
                wanted |= set(unit.columns.values())
        return frozenset(found)

    def _keep_all(self) -> None:
        self._catch_up()
        super()._keep_all()

    def _bring(self, kind: Kind, number: int, at: int) -> None:
        if self._put_off and kind in self._tables:
            self._catch_up()
        super()._bring(kind, number, at)

    def _catch_up(self) -> None:
        """Runs what was put off: the cold side is about to read."""
        waiting, self._put_off = self._put_off, []
        for window in waiting:
            self._run_window(window)

    def _take_edges(self, at: int) -> list[Edge]:
        edges = super()._take_edges(at)
        if edges:
            self._ahead = AHEAD_MIN  # where one trigger fires, more edges follow, and each takes back what ran past it
        return edges

    def foretell(self, kind: Kind, entity: str, signal: str, after: int, values: Floats) -> None:
        """What an entity's rows later than `after` will say: float64, one value a row still to come, none of them null."""
        number = self.arenas.row(kind, entity)
        table = self._tables[kind]
        first, end = int(table.first[number]), int(table.end[number])
        c = first + int(np.searchsorted(table.at[first:end], after, side="right"))
        held = table.columns[Column(kind, "v", SLOT[kind, signal])]
        own = held.base
        assert isinstance(own, np.ndarray), "a column that was filled row by row"
        assert len(own) == len(held), "a column that is nobody else's"
        own[c:end] = values[len(values) - (end - c) :]


def _pieces(window: _WindowUnit) -> Iterator[_Piece]:
    """The samples that a window still needs."""
    series = window.unit.item
    if not isinstance(series, Series):
        return
    kind, cells = window.unit.scope, window.unit.cells
    s = cells.i(kind, series.s)
    for number, ints in enumerate(window.I):
        base, tail, head = (int(ints[s + j]) for j in (5, 2, 1))
        yield _Piece(True, number, base + tail, window.T[number, base + tail : base + head].copy())
        yield _Piece(False, number, base + tail, window.V[number, base + tail : base + head].copy())
        for (state, _), (w, _g) in series.states.items():
            cell = cells.i(kind, w)
            low, high, place = (int(ints[cell + j]) for j in (0, 1, 2))
            if state in ("min", "max"):
                yield _Piece(True, number, place + low, window.T[number, place + low : place + high].copy())
            elif state == "order":
                yield _Piece(False, number, place, window.V[number, place : place + high].copy())


def _address(array: npt.NDArray[Any]) -> int:
    return int(array.__array_interface__["data"][0])
