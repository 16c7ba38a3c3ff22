"""Column blocks into the hot side (floor 4): what a replay feeds instead of events, with the same ingest and the same order.

`Stream(hot, block)` turns numpy columns into rows once; `instants()` gives the bounds of each instant. +inf is null (the value stands),
NaN is missing, as in flat rows everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt

from daemon.engine.arenas import SIZE_SLOT
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


class Stream:
    """The rows of one block, ready for the hot side; a signal outside of the catalogue is left out."""

    def __init__(self, hot: Hot, block: Columns) -> None:
        self.hot = hot
        self.kind = block.kind
        self.ts: list[int] = block.ts.tolist()
        self.event_ts: list[int] = block.event_ts.tolist()
        rows = [hot.arenas.row(block.kind, entity) for entity in block.entity_ids]
        self.rows: list[int] = np.asarray(rows, dtype=np.int64)[block.entity].tolist() if len(rows) else []
        known = [name for name in block.columns if (block.kind, name) in SLOT]
        self.cells = [(SLOT[block.kind, name], seen_cell(block.kind, name)) for name in known]
        self.values: list[tuple[float, ...]] = (
            list(zip(*(block.columns[name].tolist() for name in known), strict=True)) if known else [()] * len(self.ts)
        )

    def __len__(self) -> int:
        return len(self.ts)

    def ingest(self, i: int) -> int:
        """Put row `i` into its slots; the number of its row."""
        number = self.rows[i]
        arena = self.hot.arenas.kinds[self.kind]
        floats, ints = arena.F[number], arena.I[number]
        at, event = self.ts[i], self.event_ts[i]
        for (k, cell), value in zip(self.cells, self.values[i], strict=True):
            if value == INF:
                continue
            ints[cell + CAME] = at
            seen = ints[cell + SEEN]
            if event < seen and seen != FOREVER:
                continue
            if event != seen:
                ints[cell + SEEN] = event
                ints[cell + SAMPLED] = at
            if self.kind is Kind.POSITION and k == SIZE_SLOT and (seen == NEVER or (floats[k] != 0.0) != (value != 0.0)):
                self.hot.arenas.changed = True
            floats[k] = value
        return number


def instants(streams: Sequence[Stream]) -> Iterator[tuple[int, list[tuple[Stream, int, int]]]]:
    """Every instant of several streams in order of time: `(at, [(stream, first row, end row), ...])`."""
    cursors = [0] * len(streams)
    while True:
        at = min((s.ts[c] for s, c in zip(streams, cursors, strict=True) if c < len(s)), default=FOREVER)
        if at == FOREVER:
            return
        parts = []
        for j, stream in enumerate(streams):
            first = end = cursors[j]
            while end < len(stream) and stream.ts[end] == at:
                end += 1
            if end > first:
                parts.append((stream, first, end))
                cursors[j] = end
        yield at, parts
