"""Column blocks into the hot side (floor 4): what a replay feeds instead of events, with the same ingest and the same order.

`Stream(hot, block)` turns numpy columns into rows once; `instants()` gives the bounds of each instant. +inf is null (the value stands),
NaN is missing, as in flat rows everywhere. `sliced()` cuts the blocks of several kinds at common instants, so that a recording can be taken
one stretch of time after another.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

import numpy as np
import numpy.typing as npt

from daemon.engine.arenas import SIZE_SLOT
from daemon.engine.events import Row
from daemon.engine.hot import Hot
from daemon.language.slots import CAME, SAMPLED, SEEN, SLOT, seen_cell
from daemon.units import FOREVER, NEVER
from daemon.world.entities import Kind

INF = float("inf")


class Columns(Protocol):
    """Rows of one kind, sorted by `ts`: a recording's block."""

    @property
    def kind(self) -> Kind:
        """The kind of entity of every row."""
        ...

    @property
    def ts(self) -> npt.NDArray[np.int64]:
        """int64[rows], ns UTC: when we knew it."""
        ...

    @property
    def event_ts(self) -> npt.NDArray[np.int64]:
        """int64[rows], ns UTC: when it was true."""
        ...

    @property
    def entity(self) -> npt.NDArray[np.int32]:
        """int32[rows], index into `entity_ids`."""
        ...

    @property
    def entity_ids(self) -> Sequence[str]:
        """Ids of the entities."""
        ...

    @property
    def columns(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """float64[rows] a signal."""
        ...


Rows = TypeVar("Rows", bound=Columns)


def sliced(pieces: Sequence[Iterator[Rows]], cut: Callable[[Rows, int, int], Rows]) -> Iterator[tuple[Rows, ...]]:
    """Slices of time: of each series of blocks the rows of one contiguous stretch, in the order of `pieces`; no instant is split.

    Each series is in order of time, its blocks hold rows and whole instants. Nothing is copied, and one block a series is in memory.
    """
    heads = [next(found, None) for found in pieces]
    while True:
        to = min((int(head.ts[-1]) for head in heads if head is not None), default=FOREVER)
        if to == FOREVER:
            return
        parts = []
        for number, head in enumerate(heads):
            if head is None:
                continue
            end, length = int(np.searchsorted(head.ts, to, side="right")), len(head.ts)
            if end:
                parts.append(cut(head, 0, end))
                heads[number] = cut(head, end, length) if end < length else next(pieces[number], None)
        yield tuple(parts)


class Stream:
    """The rows of one block, ready for the hot side; signals outside of the catalogue, and those of `without`, are left out."""

    def __init__(self, hot: Hot, block: Columns, without: Sequence[str] = ()) -> None:
        self.hot = hot
        self.kind = block.kind
        self.ts: list[int] = block.ts.tolist()
        self.event_ts: list[int] = block.event_ts.tolist()
        self.ids = tuple(block.entity_ids)
        numbers = [hot.arenas.row(block.kind, entity) for entity in self.ids]
        self.entity: list[int] = block.entity.tolist()
        self.keys = [(block.kind, number) for number in numbers]
        self.names = [name for name in block.columns if (block.kind, name) in SLOT and name not in without]
        columns = [block.columns[name].tolist() for name in self.names]
        self.values: list[tuple[float, ...]] = list(zip(*columns, strict=True)) if columns else [()] * len(self.ts)
        arena = hot.arenas.kinds[block.kind]
        self._floats = [arena.F[number] for number in numbers]
        self._ints = [arena.I[number] for number in numbers]
        self._put = _ingest(block.kind, self.names)

    def __len__(self) -> int:
        return len(self.ts)

    def ingest(self, i: int) -> tuple[Kind, int]:
        """Put row `i` into its slots; the kind and number of its row."""
        j = self.entity[i]
        if self._put(self._floats[j], self._ints[j], self.ts[i], self.event_ts[i], self.values[i]):
            self.hot.arenas.changed = True
        return self.keys[j]

    def row(self, i: int) -> Row:
        """Row `i` as an event carries it."""
        values = {name: value for name, value in zip(self.names, self.values[i], strict=True) if value != INF}
        return Row(kind=self.kind, entity=self.ids[self.entity[i]], values=values, event_ts=self.event_ts[i])


@functools.cache
def _ingest_of(kind: Kind, names: tuple[str, ...]) -> Callable[[list[float], list[int], int, int, tuple[float, ...]], bool]:
    """Straight-line code that puts one row of these signals into its slots, as `Hot.take` does; True when a position opened or closed."""
    lines = ["def put(F, I, at, event, row):"]
    if names:
        lines.append(f"    {', '.join(f'x{i}' for i in range(len(names)))}, = row")
    lines.append("    changed = False")
    for i, name in enumerate(names):
        k, c = SLOT[kind, name], seen_cell(kind, name)
        lines += [
            f"    if x{i} != INF:",
            f"        seen = I[{c + SEEN}]",
            f"        I[{c + CAME}] = at",
            "        if event > seen:",
            f"            I[{c + SEEN}] = event",
            f"            I[{c + SAMPLED}] = at",
        ]
        if kind is Kind.POSITION and k == SIZE_SLOT:
            lines.append(f"            changed = seen == {NEVER} or (F[{k}] != 0.0) != (x{i} != 0.0)")
        lines += [
            f"            F[{k}] = x{i}",
            f"        elif event == seen or seen == {FOREVER}:",
            f"            if event != seen or seen == {FOREVER}:",
            f"                I[{c + SEEN}] = event",
            f"                I[{c + SAMPLED}] = at",
        ]
        if kind is Kind.POSITION and k == SIZE_SLOT:
            lines.append(f"            changed = (F[{k}] != 0.0) != (x{i} != 0.0)")
        lines.append(f"            F[{k}] = x{i}")
    lines.append("    return changed")
    namespace: dict[str, Callable[[list[float], list[int], int, int, tuple[float, ...]], bool]] = {}
    exec("\n".join(lines), {"INF": INF}, namespace)  # our own generated text
    return namespace["put"]


def _ingest(kind: Kind, names: Sequence[str]) -> Callable[[list[float], list[int], int, int, tuple[float, ...]], bool]:
    return _ingest_of(kind, tuple(names))


def instants(streams: Sequence[Stream]) -> Iterator[tuple[int, list[tuple[Stream, int, int]]]]:
    """Every instant of several streams in order of time: `(at, [(stream, first row, end row), ...])`."""
    if len(streams) == 1:
        yield from _instants_of(streams[0])
        return
    cursors = [0] * len(streams)
    while True:
        at = min((s.ts[c] for s, c in zip(streams, cursors, strict=True) if c < len(s)), default=FOREVER)
        if at == FOREVER:
            return
        parts = []
        for j, stream in enumerate(streams):
            first = end = cursors[j]
            times, length = stream.ts, len(stream)
            while end < length and times[end] == at:
                end += 1
            if end > first:
                parts.append((stream, first, end))
                cursors[j] = end
        yield at, parts


def _instants_of(stream: Stream) -> Iterator[tuple[int, list[tuple[Stream, int, int]]]]:
    first, times, length = 0, stream.ts, len(stream)
    while first < length:
        at, end = times[first], first + 1
        while end < length and times[end] == at:
            end += 1
        yield at, [(stream, first, end)]
        first = end
