"""The hot side run over columns (floor 5): units of the generated program, compiled, each over many rows before the next one.

    hot = ColumnHot(topology, sources, compiler=compiler)
    hot.feed(blocks, end)                   # the rows up to an instant; everything fed before has been advanced through
    at, edges = hot.advance(limit)          # to the first edge, or to `limit`

A window depends on recorded rows alone and runs to the end of what was fed. So does a runbook's trigger that reads recorded rows only:
its edges are known ahead of the account's. A trigger that reads what actions change (sizes, collateral, buffers) advances up to the
earliest edge known, and is taken back when an edge before that changed what it reads. The rows of state that the cold side reads are
brought up to date when they are read. Everything else is `engine.hot.Hot`.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from daemon.engine import unit as units
from daemon.engine.columns import Columns
from daemon.engine.edge import Edge, Plan, TriggerState
from daemon.engine.events import Row
from daemon.engine.hot import Hot, Instance, Linked, Sources
from daemon.engine.layout import PUSH_ORDER, RING_MIN, Accumulator, Series
from daemon.engine.unit import Column, Unit, Unsupported
from daemon.language.kernels import CLEARED, FIRED, GONE, REFIRED, TRIGGER_CELLS
from daemon.language.slots import CAME, CELLS, GLOBAL, HEADER, SAMPLED, SEEN, SLOT, SLOTS, seen_cell
from daemon.language.terms import Read, walk
from daemon.runbook.model import Runbook
from daemon.simulation import loops
from daemon.units import FOREVER, NEVER
from daemon.world.entities import Kind, Topology

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Array = npt.NDArray[Any]  # int64 or float64
NAN = float("nan")
INF = float("inf")

CHANGED = (Kind.POSITION, Kind.ACCOUNT, Kind.BUCKET, Kind.PORTFOLIO)  # kinds whose readings are the simulated account's own
SHARED = (Kind.CHAIN, Kind.ROUTE)  # kinds of which it owns some readings
REPORTED = frozenset({(Kind.CHAIN, "buffer_balance"), (Kind.ROUTE, "in_flight")})  # those
# Facts told once, at the first instant.
TOLD = frozenset({"imf", "mmf", "taker_fee", "fixed_slippage", "liquidation_fee", "route_open", "route_fee", "route_eta", "route_eta_slow"})
AHEAD_MIN, AHEAD_MAX = 1_024, 1 << 20  # rows that a trigger which reads the account runs ahead of the earliest edge known
ARENA_CELLS_MAX = 4_000_000  # of the rows that a unit's instances keep for themselves
SAMPLES_FREE = 64  # room behind the samples of a series
_CHANGES: Mapping[int, tuple[Literal["fired", "cleared", "gone"], ...]] = {
    FIRED: ("fired",), CLEARED: ("cleared",), GONE: ("gone",), REFIRED: ("cleared", "fired"),
}  # fmt: skip


def _frozen(array: Array) -> Array:
    """The same cells, not to be written: one type for every column, wherever it comes from."""
    view = array.view()
    view.flags.writeable = False
    return view


_NO_INTS: Ints = _frozen(np.empty(0, np.int64))
_NO_FLOATS: Floats = _frozen(np.empty(0, np.float64))


class Called(Protocol):
    """A unit's `run`, or a loop, with its arguments bound by name."""

    def bind(self, name: str, value: Array | float) -> None:
        """Sets an argument."""

    def point(self, name: str, value: Array, address: int) -> None:
        """Sets a column whose address is known."""

    def __call__(self, **arguments: Array | float) -> int:
        """Calls it with some arguments changed."""


class Compiles(Protocol):
    """What makes a unit's text, or a plain loop, run."""

    def unit(self, text: str, types: Mapping[str, str]) -> Called:
        """The text's function `run`."""

    def function(self, function: Callable[..., object]) -> Called:
        """The same function, faster."""


def _last_known(raw: Floats, first: int, row: int) -> int:
    """The last row of `[first, row]` with a value, -1 when there is none."""
    width, end = 1, row + 1
    while end > first:
        start = max(first, end - width)
        known = np.flatnonzero(raw[start:end] != INF)
        if len(known):
            return start + int(known[-1])
        end, width = start, width * 8
    return -1


def _never_known(series: Series) -> bool:
    """True when every window of a series needs more than one observation."""
    return all(function in ("quantile", "std", "zscore") for function, _, _ in series.outputs)


@dataclass(slots=True)
class _Table:
    """The fed rows of one kind, sorted by entity, then time: `first[number]` to `end[number]` are an entity's."""

    kind: Kind
    ids: tuple[str, ...]
    first: Ints
    end: Ints
    at: Ints
    columns: dict[Column, Array] = field(default_factory=dict)
    came: dict[int, Ints] = field(default_factory=dict)
    raw: dict[int, Floats] = field(default_factory=dict)
    event: Ints = field(default_factory=lambda: np.empty(0, np.int64))
    addresses: dict[Column, int] = field(default_factory=dict)  # where the columns stand in memory
    prompt: bool = True  # every row was true when it was known, and no entity has two rows of one time


@dataclass(slots=True)
class _WindowUnit:
    """One series or accumulator on the rows of a kind, with a row of state an entity."""

    unit: Unit
    run: Called
    F: Floats
    I: Ints  # noqa: E741
    T: Ints
    V: Floats
    K: Floats
    N: Ints
    line: int = 0  # samples that an entity's line holds


@dataclass(slots=True)
class _Group:
    """One runbook's instances."""

    runbook: str
    unit: Unit
    run: Called
    orders: list[tuple[int, int]]
    entities: list[str]
    table: Ints  # a row an instance: unit.NUMBER ... FIRST_PATH
    rows: dict[str, tuple[Floats, Ints]]  # by path
    numbers: dict[str, list[int]]  # by path: the engine's row of each instance
    arenas: dict[Kind, tuple[Floats, Ints]]
    reads: list[frozenset[tuple[Kind, int]]]
    changeable: bool  # it reads what the account changes
    q: int
    K: Floats
    N: Ints
    B: Ints
    reached: list[int]  # the time up to which each instance has been advanced
    saved: list[Array]  # what `live` held when each instance's last run began
    saved_at: list[int]
    version: list[int]  # counts how often each instance was taken back
    axes: list[tuple[Ints, Ints, Ints, Ints]] = field(default_factory=list)

    @property
    def keys(self) -> set[tuple[str, str]]:
        """(runbook, entity) of every instance."""
        return {(self.runbook, entity) for entity in self.entities}

    @property
    def live(self) -> list[Array]:
        """Everything that a run moves, an instance a row."""
        pairs = (*self.rows.values(), *self.arenas.values())
        return [self.table, *(array for pair in pairs for array in pair)]

    def save(self, lo: int, hi: int) -> None:
        """Remembers instances `[lo, hi)` as they stand."""
        for kept, array in zip(self.saved, self.live, strict=True):
            kept[lo:hi] = array[lo:hi]
        self.saved_at[lo:hi] = self.reached[lo:hi]

    def back(self, k: int) -> None:
        """Puts an instance back to where its last run began."""
        for kept, array in zip(self.saved, self.live, strict=True):
            array[k] = kept[k]
        self.reached[k] = self.saved_at[k]
        self.version[k] += 1


class ColumnHot(Hot):
    """The state of the generated program, advanced over columns between edges. Raises Unsupported for what only the plain one does."""

    def __init__(self, topology: Topology, sources: Sources | None, *, compiler: Compiles, recorded: Mapping[Kind, Sequence[str]]) -> None:
        super().__init__(topology, sources)
        self._compiler = compiler
        self.recorded = frozenset((kind, name) for kind, names in recorded.items() for name in names if (kind, name) in SLOT)
        if (Kind.VENUE, "block_age") in self.recorded:
            raise Unsupported("a venue's block age was recorded")
        if any(name in TOLD for _, name in self.recorded):
            raise Unsupported("margin fractions, fees or terms of a route were recorded")
        self._fill = compiler.function(loops.fill)
        self._nulls = compiler.function(loops.nulls)
        self._uneven, self._uneven_alone = compiler.function(loops.uneven), compiler.function(loops.uneven_alone)
        self._tables: dict[Kind, _Table] = {}
        self._windows: list[_WindowUnit] = []
        self._groups: list[_Group] = []
        self._end = NEVER
        self._settled = NEVER  # the last instant up to which every row was looked at
        self._edges: list[tuple[int, int, tuple[int, int], int, int, int]] = []  # (at, 0 told 1 due, order, group, instance, version)
        self._hungry: list[tuple[int, int]] = []
        self._ahead = AHEAD_MIN
        self._built = False
        self._window_version = -1
        self._bounds_array: Ints = np.empty(0, np.int64)
        self._needed: dict[Kind, list[Column]] = {}
        self._brought: dict[tuple[Kind, int], int] = {}
        self._rows_of: dict[tuple[int, str, int], list[tuple[Kind, int]]] = {}
        self._by_row: dict[tuple[Kind, int], list[tuple[int, int]]] = {}
        self._set_tables: dict[str, Ints] = {}
        self._scratch_array = np.zeros(1)  # as long as the largest set of rows, once they are known: nothing compiled checks a bound

    # --- building -------------------------------------------------------------------------------------------------------
    def _build(self) -> None:
        """Units for everything linked; done once the account has told what it holds."""
        self._built = True
        self._scratch_array = np.zeros(1 + max(len(arena.ids) for arena in self.arenas.kinds.values()))
        self._window_units()
        self._group_instances()
        self._window_version = self.layout.version
        needed: dict[Kind, dict[Column, None]] = {}
        for unit in (*(w.unit for w in self._windows), *(g.unit for g in self._groups)):
            for column in unit.columns.values():
                needed.setdefault(column.kind, {})[column] = None
        self._needed = {kind: list(columns) for kind, columns in needed.items()}

    def _window_units(self) -> None:
        made: set[Column] = set()
        for kind in PUSH_ORDER:
            items: list[Series | Accumulator] = [*self.layout.series[kind].values(), *self.layout.accumulators[kind].values()]
            groups: dict[tuple[tuple[str, int], ...], list[Series | Accumulator]] = {}
            for item in items:
                groups.setdefault(item.overrides, []).append(item)
            for item in (item for members in groups.values() for item in members):
                term = item.argument if isinstance(item, Series) else item.term
                names = {(t.kind, t.signal) for t in walk(term) if isinstance(t, Read)}
                if kind in SHARED and isinstance(item, Series) and _never_known(item) and not names & self.recorded:
                    continue  # told once, and no window of these is known by one observation
                if kind in CHANGED or any(name in TOLD or (of, name) in REPORTED for of, name in names):
                    raise Unsupported(f"a window over what the account itself reports: {item.key}")
                unit = units.window_unit(kind, item, self.layout, self.recorded)
                if any(c.what in "fi" and c not in made for c in unit.columns.values()):
                    raise Unsupported(f"a window over a window that moves after it: {item.key}")
                made |= set(unit.outputs.values())
                self._windows.append(self._window(unit))
        self._bounds_array = np.array(
            self._bounds({}) + [max(bound, self.sources.holds.get(list(GLOBAL)[g], 0)) for g, bound in self.layout.bounds], np.int64
        )

    def _window(self, unit: Unit) -> _WindowUnit:
        arena = self.arenas.kinds[unit.scope]
        count = len(arena.ids)
        width_f, width_i = unit.cells.width(unit.scope)
        made = _WindowUnit(
            unit=unit, run=self._compiler.unit(unit.text, unit.types),
            F=np.full((count, width_f), NAN), I=np.zeros((count, width_i), np.int64),
            T=np.zeros((count, SAMPLES_FREE), np.int64), V=np.zeros((count, SAMPLES_FREE)),
            K=np.array(unit.floats or (0.0,)), N=np.array([self._number(n) for n in unit.numbers] or [0], np.int64),
        )  # fmt: skip
        for name, array in (("F0s", made.F), ("I0s", made.I), ("K", made.K), ("N", made.N), ("S", _NO_FLOATS), ("X", _NO_FLOATS)):
            made.run.bind(name, array)
        made.run.bind("W", self._scratch_array)
        for number in range(count):
            self._read_row(unit, unit.scope, number, made.F[number], made.I[number])
            if isinstance(unit.item, Series):
                self._read_samples(made, number)
        return made

    def _read_row(self, unit: Unit, kind: Kind, number: int, F: Floats, I: Ints) -> None:  # noqa: E741
        """A unit's own row from the engine's."""
        floats, ints = self.arenas.kinds[kind].F[number], self.arenas.kinds[kind].I[number]
        F[: SLOTS[kind]] = floats[: SLOTS[kind]]
        I[: HEADER + CELLS * SLOTS[kind]] = ints[: HEADER + CELLS * SLOTS[kind]]
        for j, real in enumerate(unit.cells.floats[kind]):
            F[SLOTS[kind] + j] = floats[real]
        for j, real in enumerate(unit.cells.ints[kind]):
            if real >= 0:
                I[HEADER + CELLS * SLOTS[kind] + j] = ints[real]

    def _read_samples(self, window: _WindowUnit, number: int) -> None:
        """The samples of a series out of the engine's ring into the unit's line; a line needs no mask."""
        series = window.unit.item
        assert isinstance(series, Series)
        arena = self.arenas.kinds[window.unit.scope]
        ints, times, values = arena.I[number], arena.T[number], arena.V[number]
        head, tail, base, mask = (ints[series.s + j] for j in (1, 2, 5, 6))
        cells, own = window.unit.cells, window.I[number]
        s = cells.i(window.unit.scope, series.s)
        line = head - tail + SAMPLES_FREE
        self._room(window, line * (1 + len(series.states)))
        for j in range(tail, head):
            window.T[number, j - tail] = times[base + (j & mask)]
            window.V[number, j - tail] = values[base + (j & mask)]
        own[s + 5], own[s + 6], own[s + 7] = -tail, -1, series.kept_ns
        for n, ((state, _), (w, _g)) in enumerate(series.states.items(), start=1):
            cell, q = cells.i(window.unit.scope, w), ints[w + 2]
            if state in ("min", "max"):
                for k in range(ints[w], ints[w + 1]):
                    window.T[number, n * line + k - ints[w]] = times[q + (k & mask)]
                own[cell + 2] = n * line - ints[w]
            elif state == "order":
                window.V[number, n * line : n * line + ints[w + 1]] = values[q : q + ints[w + 1]]
                own[cell + 2] = n * line

    def _give_samples(self, window: _WindowUnit, number: int) -> None:
        """The samples of a series back into a ring of the engine's, large enough for them."""
        series = window.unit.item
        assert isinstance(series, Series)
        arena = self.arenas.kinds[window.unit.scope]
        own, ints = window.I[number], arena.I[number]
        cells = window.unit.cells
        s = cells.i(window.unit.scope, series.s)
        head, tail, line = (int(own[s + j]) for j in (1, 2, 5))
        capacity = RING_MIN
        while head + 10 - tail >= capacity:
            capacity *= 2
        mask = capacity - 1
        base = self.arenas.room(arena, number, capacity)
        for j in range(tail, head):
            arena.T[number][base + (j & mask)] = int(window.T[number, line + j])
            arena.V[number][base + (j & mask)] = float(window.V[number, line + j])
        ints[series.s + 5], ints[series.s + 6] = base, mask
        for (state, _), (w, _g) in series.states.items():
            cell = cells.i(window.unit.scope, w)
            q = int(own[cell + 2])
            if state in ("min", "max", "order"):
                ints[w + 2] = self.arenas.room(arena, number, capacity)
            if state in ("min", "max"):
                for k in range(ints[w], ints[w + 1]):
                    arena.T[number][ints[w + 2] + (k & mask)] = int(window.T[number, q + k])
            elif state == "order":
                for k in range(ints[w + 1]):
                    arena.V[number][ints[w + 2] + k] = float(window.V[number, q + k])

    def _give_back(self) -> None:
        """Everything that the units hold back into the engine's own rows, as it stands at the end of the rows fed."""
        self._keep_all()
        for window in self._windows:
            kind, cells = window.unit.scope, window.unit.cells
            for number in range(1, len(window.F)):
                floats, ints = self.arenas.kinds[kind].F[number], self.arenas.kinds[kind].I[number]
                for j, real in enumerate(cells.floats[kind]):
                    floats[real] = float(window.F[number, SLOTS[kind] + j])
                for j, real in enumerate(cells.ints[kind]):
                    ints[real] = int(window.I[number, HEADER + CELLS * SLOTS[kind] + j])
                if isinstance(window.unit.item, Series):
                    self._give_samples(window, number)
        for group in self._groups:
            for k, entity in enumerate(group.entities):
                instance = self._by_key[group.runbook, entity]
                cells_of = group.rows[units.OWN][1][k, group.q : group.q + TRIGGER_CELLS]
                instance.ints[instance.q : instance.q + TRIGGER_CELLS] = cells_of.tolist()

    def link(self, runbooks: Sequence[Runbook]) -> list[tuple[str, str, str]]:
        """Put a set of runbooks in force; a reload comes when every row fed was advanced through."""
        if not self._built:
            return super().link(runbooks)
        self._give_back()
        self._windows, self._groups, self._by_row, self._rows_of, self._set_tables = [], [], {}, {}, {}
        self._edges, self._hungry, self._tables = [], [], {}
        restarted = super().link(runbooks)
        self._build()
        self._tell_sets()
        for g, group in enumerate(self._groups):
            group.reached = [self._end] * len(group.reached)
            group.save(0, len(group.reached))
            self._hungry.append((g, -1))
        self.next_due = FOREVER  # the units keep their own dues
        return restarted

    def _room(self, window: _WindowUnit, capacity: int) -> None:
        have = window.T.shape[1]
        if have < capacity:
            wider = max(capacity, 2 * have)
            count = len(window.T)
            T, V = np.zeros((count, wider), np.int64), np.zeros((count, wider))
            T[:, :have], V[:, :have] = window.T, window.V
            window.T, window.V = T, V

    def _group_instances(self) -> None:
        by_runbook: dict[str, list[int]] = {}
        for index, instance in enumerate(self._instances):
            by_runbook.setdefault(instance.runbook, []).append(index)
        for name, indices in by_runbook.items():
            self._groups.append(self._group(self.loaded[name].runbook, [self._instances[i] for i in indices]))
        for g, group in enumerate(self._groups):
            for k, reads in enumerate(group.reads):
                for key in reads:
                    self._by_row.setdefault(key, []).append((g, k))

    def _group(self, runbook: Runbook, instances: Sequence[Instance]) -> _Group:
        kinds_recorded = {kind for kind, _ in self.recorded}
        reads, scope = [], runbook.scope
        for instance in instances:
            found = {(instance.kind, instance.row)}
            for term in self.loaded[runbook.id].linked.program.terms:
                self._reads(term, instance.kind, instance.row, found)
            reads.append(frozenset(found))
        moving = [{key for key in found if key[0] in kinds_recorded} for found in reads]
        axis = self._axis(runbook, instances, moving)
        unit = units.trigger_unit(runbook, self.layout, self.sources.given, self.recorded, axis)
        if axis is not None and kinds_recorded & set(unit.arenas):
            # It looks its rows up one by one: a set, or a named entity, even when that is the very row that moves.
            unit = units.trigger_unit(runbook, self.layout, self.sources.given, self.recorded, None)
        count = len(instances)
        table = np.zeros((count, units.FIRST_PATH + len(unit.numbered) + len(unit.paths)), np.int64)
        table[:, units.FORCE] = table[:, units.EDGE_AT] = FOREVER
        table[:, units.NUMBER] = [instance.row for instance in instances]
        paths = {*unit.paths, *unit.numbered}
        numbers = {path: [self._at_path(scope, instance.row, path) for instance in instances] for path in paths}
        for j, path in enumerate((*unit.numbered, *(p for p in unit.paths if p != units.OWN))):
            table[:, units.FIRST_PATH + j] = numbers[path]
        rows, arenas = {}, {}
        for path in unit.paths:
            kind = units.path_kind(scope, path)
            width_f, width_i = unit.cells.width(kind)
            F, I = np.empty((count, width_f)), np.zeros((count, width_i), np.int64)  # noqa: E741
            for k, number in enumerate(numbers[path]):
                self._read_row(unit, kind, number, F[k], I[k])
            rows[path] = (F, I)
        if units.OWN not in rows:
            width_f, width_i = unit.cells.width(scope)
            rows[units.OWN] = (np.empty((count, width_f)), np.zeros((count, width_i), np.int64))
        for kind in unit.arenas:
            width_f, width_i = unit.cells.width(kind)
            height = len(self.arenas.kinds[kind].ids)
            if count * height * (width_f + width_i) > ARENA_CELLS_MAX:
                raise Unsupported(f"{runbook.id} looks at too many {kind.value} rows")
            F, I = np.empty((count, height, width_f)), np.zeros((count, height, width_i), np.int64)  # noqa: E741
            for number in range(height):
                self._read_row(unit, kind, number, F[0, number], I[0, number])
            F[1:], I[1:] = F[0], I[0]
            arenas[kind] = (F, I)
        linked = self.loaded[runbook.id].linked
        q = HEADER + CELLS * SLOTS[scope]
        for k, instance in enumerate(instances):
            rows[units.OWN][1][k, q : q + TRIGGER_CELLS] = instance.ints[instance.q : instance.q + TRIGGER_CELLS]
        for listed in unit.sets:
            self._set_tables.setdefault(listed, np.zeros((1, 1), np.int64))
        group = _Group(
            runbook=runbook.id, unit=unit, run=self._compiler.unit(unit.text, unit.types), orders=[i.order for i in instances],
            entities=[i.entity for i in instances], table=table, rows=rows, numbers=numbers, arenas=arenas, reads=reads,
            changeable=any(kind in CHANGED or kind in SHARED for found in reads for kind, _ in found), q=q,
            K=np.array(unit.floats or (0.0,)), N=np.array([self._number(n) for n in unit.numbers] or [0], np.int64),
            B=np.array(linked.B, np.int64), reached=[NEVER] * count, saved=[], saved_at=[NEVER] * count, version=[0] * count,
        )  # fmt: skip
        group.saved = [array.copy() for array in group.live]
        run = group.run
        for path, (F, I) in group.rows.items():  # noqa: E741
            if path in unit.paths:
                for name, array in zip(units.row_names(path), (F, I), strict=True):
                    run.bind(f"{name}s", array)
        for kind, (F, I) in group.arenas.items():  # noqa: E741
            run.bind(f"{kind.value}_Fs", F)
            run.bind(f"{kind.value}_Is", I)
        for name, array in (("INST", table), ("K", group.K), ("N", group.N), ("B", group.B), ("S", _NO_FLOATS), ("X", _NO_FLOATS)):
            run.bind(name, array)
        run.bind("W", self._scratch_array)
        run.bind("Q", q)
        return group

    def _axis(self, runbook: Runbook, instances: Sequence[Instance], moving: Sequence[set[tuple[Kind, int]]]) -> str | None:
        """The path of the only recorded row that each instance reads; None where one reads several."""
        paths: set[str] = set()
        for instance, keys in zip(instances, moving, strict=True):
            if len(keys) != 1:
                return None
            (key,) = keys
            own = (instance.kind, instance.row)
            path = next((p for p in (units.OWN, "market", "venue", "chain", "account") if self._key_at(own, p) == key), None)
            if path is None:
                return None
            paths.add(path)
        return paths.pop() if len(paths) == 1 else None

    def _key_at(self, own: tuple[Kind, int], path: str) -> tuple[Kind, int] | None:
        if path == units.OWN:
            return own
        try:
            return self._follow(*own, path)
        except (IndexError, ValueError):
            return None

    def _at_path(self, scope: Kind, number: int, path: str) -> int:
        at = (scope, number)
        if path != units.OWN:
            for relation in path.split("_"):
                at = self._follow(*at, relation)
        return at[1]

    # --- columns ----------------------------------------------------------------------------------------------------------
    def feed(self, blocks: Iterable[Columns], end: int) -> None:
        """The rows up to the instant `end`, at most one block a kind; everything fed before has been advanced through."""
        assert self._first_edge() == FOREVER, "the rows fed before hold edges still"
        blocks = list(blocks)
        if len({block.kind for block in blocks}) < len(blocks):
            raise Unsupported("rows of one kind come in several blocks")
        if self._built:
            self._keep_all()
        kinds = {kind for kind, _ in self.recorded}
        self._tables = {block.kind: self._sorted(block) for block in blocks if len(block.ts) and block.kind in kinds}
        self._end = end
        self._brought = {}
        if self._built:
            self._start_block()

    def _keep_all(self) -> None:
        """What is known at the end of the rows fed becomes the rows of state that the next ones start from."""
        for kind, table in self._tables.items():
            for number in range(1, len(table.first)):
                self._bring(kind, number, self._end)

    def _sorted(self, block: Columns) -> _Table:
        numbers = np.array([self.arenas.row(block.kind, entity) for entity in block.entity_ids], np.int64)
        count, rows = len(self.arenas.kinds[block.kind].ids), len(block.ts)
        at, event = np.ascontiguousarray(block.ts), np.ascontiguousarray(block.event_ts)
        order: npt.NDArray[np.intp] | None = None
        if len(numbers) == 1:
            first, end = np.zeros(count, np.int64), np.zeros(count, np.int64)
            end[numbers[0]] = rows
            uneven = self._uneven_alone(ts=at, event_ts=event, end=rows)
        else:
            owner = numbers[block.entity]
            if bool((np.diff(owner) < 0).any()):
                order = np.argsort(owner, kind="stable")
                owner, at, event = owner[order], at[order], event[order]
            first = np.searchsorted(owner, np.arange(count), side="left").astype(np.int64)
            end = np.searchsorted(owner, np.arange(count), side="right").astype(np.int64)
            uneven = self._uneven(ts=at, event_ts=event, owner=owner, end=rows)
        table = _Table(block.kind, tuple(block.entity_ids), first, end, _frozen(at), event=_frozen(event), prompt=uneven == 0)
        for name, values in block.columns.items():
            if (block.kind, name) in self.recorded:
                column = np.ascontiguousarray(values, np.float64)
                table.raw[SLOT[block.kind, name]] = _frozen(column if order is None else column[order])
        return table

    def _start_block(self) -> None:
        """Columns of the rows fed, windows along all of them, instances ready to go on."""
        for kind, table in self._tables.items():
            self._fill_columns(kind, table)
        for window in self._windows:
            self._run_window(window)
        for g, group in enumerate(self._groups):
            self._place(group)
            self._hungry += [(g, -1)]

    def _fill_columns(self, kind: Kind, table: _Table) -> None:
        arena = self.arenas.kinds[kind]
        wanted = {column.place for column in self._needed.get(kind, ()) if column.what in "vsm"}
        owners = np.flatnonzero(table.end > table.first).tolist()
        for slot in sorted(SLOT[key] for key in self.recorded if key[0] is kind):
            raw, cell = table.raw.get(slot), HEADER + CELLS * slot
            late = any(arena.I[number][cell] >= table.at[table.first[number]] for number in owners)
            if table.prompt and not late and slot not in wanted:
                continue  # nobody but the cold side reads it, and it looks it up
            if raw is None:
                # Recorded in some other part of the history: nothing new of it here.
                raw = _frozen(np.full(len(table.at), INF))
            value, seen, sampled = (Column(kind, what, slot) for what in "vsm")
            if table.prompt and not late and self._nulls(column=raw, end=len(raw)) == 0:
                table.columns[value] = raw
                table.columns[seen] = table.columns[sampled] = table.came[slot] = table.at
                continue
            V, S, M, C = np.empty(len(raw)), *(np.empty(len(raw), np.int64) for _ in range(3))
            for number in owners:
                ints = arena.I[number]
                self._fill(
                    column=raw, ts=table.at, event_ts=table.event, first=int(table.first[number]), end=int(table.end[number]),
                    value=arena.F[number][slot], seen=ints[cell + SEEN], sampled=ints[cell + SAMPLED], came=ints[cell + CAME],
                    V=V, S=S, M=M, C=C,
                )  # fmt: skip
            table.columns[value], table.columns[seen], table.columns[sampled] = _frozen(V), _frozen(S), _frozen(M)
            table.came[slot] = C

    def _point(self, run: Called, unit: Unit) -> None:
        """Hands a unit its columns of the rows fed."""
        for name, column in unit.columns.items():
            table = self._tables.get(column.kind)
            values = None if table is None else table.columns.get(column)
            if table is None or values is None:
                run.bind(name, _NO_INTS if column.integral else _NO_FLOATS)
                continue
            address = table.addresses.get(column)
            if address is None:
                address = table.addresses[column] = values.__array_interface__["data"][0]
            run.point(name, values, address)

    def _run_window(self, window: _WindowUnit) -> None:
        unit = window.unit
        table = self._tables.get(unit.scope)
        if table is None:
            return
        outs: list[Array] = [np.empty(len(table.at), np.int64 if column.integral else np.float64) for column in unit.outputs.values()]
        segments = np.stack([table.first, table.end], axis=1)
        if len(window.F) < len(table.first):
            self._widen(window, len(table.first))
        if isinstance(unit.item, Series):
            self._make_room(window, table)
        run = window.run
        self._point(run, unit)
        for name, out in zip(unit.outputs, outs, strict=True):
            run.bind(name, out)
        run(lo=0, hi=len(segments), SEG=segments, T0s=window.T, V0s=window.V, B=self._bounds_array, AT=table.at)
        table.columns |= {column: _frozen(out) for column, out in zip(unit.outputs.values(), outs, strict=True)}

    def _widen(self, window: _WindowUnit, count: int) -> None:
        """Rows for entities that were named since."""
        have, kind = len(window.F), window.unit.scope
        more = count - have
        window.F = np.concatenate((window.F, np.full((more, window.F.shape[1]), NAN)))
        window.I = np.concatenate((window.I, np.zeros((more, window.I.shape[1]), np.int64)))
        window.T = np.concatenate((window.T, np.zeros((more, window.T.shape[1]), np.int64)))
        window.V = np.concatenate((window.V, np.zeros((more, window.V.shape[1]))))
        window.run.bind("F0s", window.F)
        window.run.bind("I0s", window.I)
        for number in range(have, count):
            self._read_row(window.unit, kind, number, window.F[number], window.I[number])
            if isinstance(window.unit.item, Series):
                self._read_samples(window, number)
        window.line = 0

    def _make_room(self, window: _WindowUnit, table: _Table) -> None:
        """Moves the samples that some window still needs to the front of each entity's line, and makes room for the rows fed."""
        unit, series = window.unit, window.unit.item
        assert isinstance(series, Series)
        kind = unit.scope
        s = unit.cells.i(kind, series.s)
        deques = [unit.cells.i(kind, w) for (state, _), (w, _g) in series.states.items() if state in ("min", "max")]
        sorts = [unit.cells.i(kind, w) for (state, _), (w, _g) in series.states.items() if state == "order"]
        live = window.I[:, s + 1] - window.I[:, s + 2]
        coming = table.end - table.first
        if window.line and int((window.I[:, s + 5] + window.I[:, s + 1] + coming).max()) + SAMPLES_FREE <= window.line:
            return
        # Moved seldom: a line has room for some more rows than those fed.
        line = window.line = int((2 * live + 4 * coming).max()) + SAMPLES_FREE
        kept: list[tuple[int, Ints, Floats]] = []
        for number in range(len(live)):
            ints = window.I[number]
            head, tail, base = int(ints[s + 1]), int(ints[s + 2]), int(ints[s + 5])
            kept.append((number, window.T[number, base + tail : base + head].copy(), window.V[number, base + tail : base + head].copy()))
        parts = [
            (cell, [window.T[n, int(window.I[n, cell + 2] + window.I[n, cell]) : int(window.I[n, cell + 2] + window.I[n, cell + 1])].copy()
                    if window.I[n, cell + 1] > window.I[n, cell] else _NO_INTS for n in range(len(live))])
            for cell in deques
        ]  # fmt: skip
        ordered = [
            (cell, [window.V[n, int(window.I[n, cell + 2]) : int(window.I[n, cell + 2] + window.I[n, cell + 1])].copy()
                    if window.I[n, cell + 1] else _NO_FLOATS for n in range(len(live))])
            for cell in sorts
        ]  # fmt: skip
        width = line * (1 + max(len(deques), len(sorts)))
        if window.T.shape[1] < width:
            window.T = np.zeros((len(live), width + width // 4), np.int64)
            window.V = np.zeros((len(live), width + width // 4))
        for number, times, values in kept:
            ints = window.I[number]
            window.T[number, : len(times)], window.V[number, : len(values)] = times, values
            ints[s + 5] = -int(ints[s + 2])
            ints[s + 6] = -1
        for j, (cell, lines) in enumerate(parts, start=1):
            for number, places in enumerate(lines):
                window.T[number, j * line : j * line + len(places)] = places
                window.I[number, cell + 2] = j * line - window.I[number, cell]
        for j, (cell, sorted_) in enumerate(ordered, start=1):
            for number, samples in enumerate(sorted_):
                window.V[number, j * line : j * line + len(samples)] = samples
                window.I[number, cell + 2] = j * line

    def _place(self, group: _Group) -> None:
        """Where each instance goes on in the rows fed."""
        table = group.table
        self._point(group.run, group.unit)
        if not group.unit.joined:
            assert group.unit.axis is not None
            rows = self._tables.get(group.unit.axis)
            group.run.bind("AT", _NO_INTS if rows is None else rows.at)
            for k, reads in enumerate(group.reads):
                number = next(number for kind, number in reads if kind is group.unit.axis)
                table[k, units.NEXT] = 0 if rows is None else rows.first[number]
                table[k, units.END] = 0 if rows is None else rows.end[number]
            return
        group.axes = []
        for k, reads in enumerate(group.reads):
            axis = self._joined(reads)
            group.axes.append(axis)
            table[k, units.NEXT], table[k, units.END] = 0, len(axis[0])

    def _joined(self, reads: frozenset[tuple[Kind, int]]) -> tuple[Ints, Ints, Ints, Ints]:
        """(time, kind, number, column) of every row that an instance looks at, in order of time, then kinds, then rows."""
        parts: list[tuple[Ints, Ints, Ints, Ints]] = []
        for kind in PUSH_ORDER:
            table = self._tables.get(kind)
            if table is None:
                continue
            for number in sorted(n for k, n in reads if k is kind and n < len(table.first)):
                where = np.arange(table.first[number], table.end[number], dtype=np.int64)
                code = np.full(len(where), units.KIND_CODE[kind], np.int64)
                parts.append((table.at[where], code, np.full(len(where), number, np.int64), where))
        if not parts:
            return _NO_INTS, _NO_INTS, _NO_INTS, _NO_INTS
        if len(parts) == 1:
            return parts[0]
        at = np.concatenate([part[0] for part in parts])
        order = np.argsort(at, kind="stable")
        return at[order], *(np.concatenate([part[j] for part in parts])[order] for j in (1, 2, 3))  # type: ignore[return-value]

    def next_row_at(self, keys: Iterable[tuple[Kind, int]] | None, after: int) -> int:
        """When the next row fed of one of these entities (None: of any) is known, later than `after`; FOREVER when there is none."""
        if keys is None:
            keys = [(kind, number) for kind, table in self._tables.items() for number in range(1, len(table.first))]
        found = FOREVER
        for kind, number in keys:
            table = self._tables.get(kind)
            if table is not None and number < len(table.first):
                first, end = int(table.first[number]), int(table.end[number])
                c = first + int(np.searchsorted(table.at[first:end], after, side="right"))
                if c < end:
                    found = min(found, int(table.at[c]))
        return found

    # --- advancing --------------------------------------------------------------------------------------------------------
    def advance(self, limit: int) -> tuple[int, list[Edge]]:
        """Goes on to the first instant up to `limit` at which a trigger crosses an edge: `(at, edges)`; `(limit, [])` when none does."""
        limit = min(limit, self._end)
        self._sate()
        while True:
            first = self._first_edge()
            bound = min(limit, first)
            lagging = [
                (g, k) for g, group in enumerate(self._groups) if group.changeable for k in range(len(group.reached))
                if group.reached[k] < bound and group.table[k, units.EDGE_AT] == FOREVER
            ]  # fmt: skip
            if not lagging:
                break
            step = min(bound, self._ahead_of(lagging))
            for g, k in lagging:
                until = min(step, self._first_edge())
                if self._groups[g].reached[k] < until:
                    self._go(g, k, k + 1, until)
        first = self._first_edge()
        self.now = max(self.now, min(first, limit))
        self._settled = self.now
        return (limit, []) if first > limit else (first, self._take_edges(first))

    def _ahead_of(self, lagging: Sequence[tuple[int, int]]) -> int:
        """A time not too far ahead: an edge found soon takes back what ran past it."""
        behind = min(self._groups[g].reached[k] for g, k in lagging)
        table = max(self._tables.values(), key=lambda t: len(t.at), default=None)
        if table is None or len(table.at) == 0:
            return self._end
        position = int(np.searchsorted(self._times, behind, side="right"))
        ahead = position + self._ahead
        self._ahead = min(2 * self._ahead, AHEAD_MAX)
        return self._end if ahead >= len(self._times) else int(self._times[ahead])

    @property
    def _times(self) -> Ints:
        """Times of one entity of the kind with most rows: how fast rows come."""
        table = max(self._tables.values(), key=lambda t: len(t.at))
        number = int(np.argmax(table.end - table.first))
        return table.at[table.first[number] : table.end[number]]

    def _sate(self) -> None:
        """Runs every instance that reads recorded rows only to the end of them."""
        hungry, self._hungry = dict.fromkeys(self._hungry), []
        for g, k in hungry:
            group = self._groups[g]
            if group.changeable or (k >= 0 and (g, -1) in hungry):
                continue
            if k < 0:
                self._go(g, 0, len(group.reached), self._end)
            else:
                self._go(g, k, k + 1, self._end)

    def _go(self, g: int, lo: int, hi: int, until: int) -> None:
        """Advances instances `[lo, hi)` of a group to `until` or their first edge."""
        group = self._groups[g]
        if max(group.reached[lo:hi]) <= self._settled:
            group.save(lo, hi)
        else:
            for k in range(lo, hi):
                # What ran ahead may have to be taken back to before: its older copy is kept.
                if group.reached[k] <= self._settled:
                    group.save(k, k + 1)
        if group.unit.joined:
            for k in range(lo, hi):
                self._step(group, k, k + 1, until, group.axes[k])
        else:
            self._step(group, lo, hi, until, None)
        for k in range(lo, hi):
            edge = int(group.table[k, units.EDGE_AT])
            if edge == FOREVER:
                group.reached[k] = until
            else:
                group.reached[k] = edge
                flag = 1 - int(group.table[k, units.ROW])
                heapq.heappush(self._edges, (edge, flag, group.orders[k], g, k, group.version[k]))

    def _step(self, group: _Group, lo: int, hi: int, until: int, axis: tuple[Ints, ...] | None) -> None:
        if axis is not None:
            for name, array in zip(("AT", "AXK", "AXE", "AXC"), axis, strict=True):
                group.run.bind(name, array)
        group.run(lo=lo, hi=hi, until=until)

    def _first_edge(self) -> int:
        while self._edges:
            at, _, _, g, k, version = self._edges[0]
            if self._groups[g].version[k] == version:
                return at
            heapq.heappop(self._edges)
        return FOREVER

    def _take_edges(self, at: int) -> list[Edge]:
        edges: list[Edge] = []
        while self._first_edge() == at:
            _, _, _, g, k, _ = heapq.heappop(self._edges)
            group = self._groups[g]
            cells = group.rows[units.OWN][1][k, group.q : group.q + TRIGGER_CELLS].tolist()
            code = int(group.table[k, units.CODE])
            changes: tuple[Literal["fired", "cleared", "gone"], ...] = _CHANGES[code]
            edges += [
                Edge(at=at, runbook=group.runbook, entity=group.entities[k], change=change, pending_at=cells[1], fired_at=cells[5])
                for change in changes
            ]
            group.table[k, units.EDGE_AT] = FOREVER
            group.save(k, k + 1)  # nothing goes back behind an edge that was handed over
            self._hungry.append((g, k))
        self._ahead = max(AHEAD_MIN, self._ahead // 2)
        return edges

    @property
    def changeable(self) -> bool:
        """True when some runbook's trigger reads what actions change, or nothing is known of them yet."""
        return not self._built or any(group.changeable for group in self._groups)

    def absorb(self, rows: Sequence[Row], at: int) -> None:
        """Facts that no trigger reads."""
        for row in rows:
            self._ingest(row, at, FOREVER)
        if self.arenas.changed:
            self._relink()

    # --- facts told from outside --------------------------------------------------------------------------------------------
    def take(self, rows: Sequence[Row], at: int, history: bool = False) -> list[Edge]:
        """One instant with facts of the simulated account in it (`event_ts` FOREVER); recorded rows among them are in the columns."""
        assert not history, "a replay fills windows from its own rows"
        facts = [row for row in rows if row.event_ts == FOREVER]
        told = {(row.kind, self.arenas.row(row.kind, row.entity)) for row in facts}
        if not self._built:
            for row in facts:
                self._ingest(row, at, FOREVER)
            self._relink()
            for kind, table in self._tables.items():
                # Entities that the account named first have no row here.
                more = np.zeros(len(self.arenas.kinds[kind].ids) - len(table.first), np.int64)
                table.first, table.end = np.concatenate((table.first, more)), np.concatenate((table.end, more))
            self._build()
            self._tell_sets()
            self._start_block()
            for kind, number in told:
                for g, k in self._by_row.get((kind, number), ()):
                    self._groups[g].table[k, units.FORCE] = at
        elif facts:
            self._tell(facts, told, at)
        self._sate()
        for g, group in enumerate(self._groups):
            if group.changeable:
                for k in range(len(group.reached)):
                    waits = group.reached[k] < at or group.table[k, units.FORCE] <= at
                    if waits and group.table[k, units.EDGE_AT] == FOREVER:
                        self._go(g, k, k + 1, at)
        self.now = self._settled = at
        return self._take_edges(at)

    def _tell(self, facts: Sequence[Row], told: set[tuple[Kind, int]], at: int) -> None:
        concerned = sorted({place for key in told for place in self._by_row.get(key, ())})
        # Rows before this instant saw what was known then; so did its own, when the facts follow from them.
        before = at if self._settled >= at else at - 1
        for g, k in concerned:
            group = self._groups[g]
            if group.reached[k] > before:
                self._rewind(g, k, before)
            elif group.reached[k] < before:
                self._go(g, k, k + 1, before)
        for key in told:
            self._bring(*key, at - 1)
        for row in facts:
            self._ingest(row, at, FOREVER)
        if self.arenas.changed:
            self._relink()
            self._tell_sets()
        if self.layout.version != self._window_version:
            raise Unsupported("a window that came while the replay ran")
        for row in facts:
            number = self.arenas.row(row.kind, row.entity)
            for g, k in self._by_row.get((row.kind, number), ()):
                self._put(self._groups[g], k, row, number, at)
                self._groups[g].table[k, units.FORCE] = at

    def _rewind(self, g: int, k: int, until: int) -> None:
        """Takes an instance back and forth again to `until`, which it had passed."""
        group = self._groups[g]
        assert group.saved_at[k] <= until, "an instance ran further ahead than it can be taken back"
        group.back(k)
        self._go(g, k, k + 1, until)

    def _put(self, group: _Group, k: int, row: Row, number: int, at: int) -> None:
        """The values of a fact into an instance's own rows."""
        targets = [
            (group.rows[path][0][k], group.rows[path][1][k])
            for path, numbers in group.numbers.items()
            if path in group.rows and numbers[k] == number and units.path_kind(group.unit.scope, path) is row.kind
        ]
        if row.kind in group.arenas:
            targets.append((group.arenas[row.kind][0][k, number], group.arenas[row.kind][1][k, number]))
        for signal, value in row.values.items():
            if (row.kind, signal) not in SLOT:
                continue
            cell = seen_cell(row.kind, signal)
            for F, I in targets:  # noqa: E741
                F[SLOT[row.kind, signal]] = value
                I[cell : cell + CELLS] = (FOREVER, at, at)

    def _tell_sets(self) -> None:
        """Member lists as tables: the first cell of a row counts its members."""
        for listed in self._set_tables:
            members = self.arenas.want(listed)
            width = 1 + max((len(ids) for ids in members), default=0)
            table = np.zeros((len(members), width), np.int64)
            for number, ids in enumerate(members):
                table[number, 0] = len(ids)
                table[number, 1 : 1 + len(ids)] = ids
            self._set_tables[listed] = table
        for group in self._groups:
            for listed in group.unit.sets:
                group.run.bind(listed, self._set_tables[listed])

    # --- what the cold side reads ---------------------------------------------------------------------------------------------
    def _bring(self, kind: Kind, number: int, at: int) -> None:
        """The engine's own row of an entity as it stood after every recorded row up to `at`."""
        table = self._tables.get(kind)
        if table is None or number >= len(table.first):
            return
        first, end = int(table.first[number]), int(table.end[number])
        c = first + int(np.searchsorted(table.at[first:end], at, side="right")) - 1
        if c < first or self._brought.get((kind, number)) == c:
            return
        self._brought[kind, number] = c
        floats, ints = self.arenas.kinds[kind].F[number], self.arenas.kinds[kind].I[number]
        for column, values in table.columns.items():
            match column.what:
                case "v":
                    floats[column.place] = float(values[c])
                case "s":
                    ints[HEADER + CELLS * column.place] = int(values[c])
                case "m":
                    ints[HEADER + CELLS * column.place + SAMPLED] = int(values[c])
                case "f":
                    floats[column.place] = float(values[c])
                case _:
                    ints[column.place] = int(values[c])
        for slot, came in table.came.items():
            ints[HEADER + CELLS * slot + CAME] = int(came[c])
        for slot, raw in table.raw.items():
            if slot not in table.came:
                held = _last_known(raw, first, c)
                if held >= first:
                    floats[slot] = float(raw[held])
                    cell = HEADER + CELLS * slot
                    ints[cell : cell + CELLS] = [int(table.at[held])] * CELLS

    def _run_program(self, arguments: Sequence[str], kind: Kind, number: int, at: int) -> None:
        key = (id(arguments), kind.value, number)
        found = self._rows_of.get(key)
        if found is None:
            found = self._rows_of[key] = list(self._rows_read(arguments, kind, number))
        for of, row in found:
            if row >= 0:
                self._bring(of, row, at)
            else:
                for each in range(1, len(self.arenas.kinds[of].ids)):
                    self._bring(of, each, at)

    def _rows_read(self, arguments: Sequence[str], kind: Kind, number: int) -> Iterator[tuple[Kind, int]]:
        """Rows that a generated function is handed; -1: every row of a kind."""
        for name in arguments:
            head, _, tail = name.partition("_")
            if head in ("F0", "I0"):
                yield kind, number
            elif head == "F":
                at = (kind, number)
                for relation in tail.split("_"):
                    at = self._follow(*at, relation)
                yield at
            elif tail == "F":
                yield Kind(head), -1

    def _run(
        self, held: Linked, name: str, number: int, at: int, start: Mapping[str, float] | None, plan: Plan | None
    ) -> float | tuple[float, ...]:
        if self._built:
            self._run_program(held.program.functions[name].arguments, held.program.scope, number, at)
        return super()._run(held, name, number, at, start, plan)

    def seen_at(self, kind: Kind, entity: str, signal: str) -> int:
        """When a reading of that signal last arrived; NEVER when none did."""
        number = self.arenas.kinds[kind].rows.get(entity)
        if number is not None and self._built:
            self._bring(kind, number, self.now)
        return super().seen_at(kind, entity, signal)

    def state(self, runbook: str, entity: str, *, lacking: bool = True) -> TriggerState:
        """Where the trigger of an instance stands now, however far ahead it was advanced."""
        instance = self._by_key.get((runbook, entity))
        place = next(
            ((g, group.entities.index(entity)) for g, group in enumerate(self._groups) if (runbook, entity) in group.keys),
            None,
        )
        if instance is not None and place is not None:
            instance.ints[instance.q : instance.q + TRIGGER_CELLS] = self._cells_at(*place, self.now)
        return super().state(runbook, entity, lacking=lacking)

    def _cells_at(self, g: int, k: int, at: int) -> list[int]:
        group = self._groups[g]
        cells = slice(group.q, group.q + TRIGGER_CELLS)
        if group.reached[k] <= at or group.saved_at[k] > at:
            return [int(cell) for cell in group.rows[units.OWN][1][k, cells]]
        live = [array[k].copy() for array in group.live]
        for kept, array in zip(group.saved, group.live, strict=True):
            array[k] = kept[k]
        self._step(group, k, k + 1, at, group.axes[k] if group.unit.joined else None)
        found = [int(cell) for cell in group.rows[units.OWN][1][k, cells]]
        for array, was in zip(group.live, live, strict=True):
            array[k] = was
        return found
