"""Where a row of state keeps what (floor 2): fixed offsets of every catalogue signal, the same for every program.

A row is `F` (float64: latest values, then window outputs and sums), `I` (int64: a header, three times a signal, then cursors and
triggers), `T` (int64 rings) and `V` (float64 rings). Row 0 of every kind is the void entity: nothing is ever known of it.
"""

from __future__ import annotations

from daemon.language.catalogue import CATALOGUE, Signal
from daemon.world.entities import Kind

# Header of I. Links are row numbers in the arena of the related kind (0 = void).
GROW = 0  # 1 when a ring of this row is full and must grow before the next batch
BLOCK = 1  # the venue's block_age in ns (0 where it is not provided); FOREVER when it exceeds the catalogue's limit
NAME = 2  # interned entity id
ASSET = 3  # interned base asset
LINKS = {"market": 4, "account": 5, "venue": 6, "chain": 7, "bucket": 8, "from": 9, "to": 10, "portfolio": 11}
VALUED = 12  # four cells on a market: slots of valued_at, -1 = none
HEADER = 16

SEEN, SAMPLED, CAME = 0, 1, 2  # per signal: venue's own time; arrival of the last counted observation; arrival of any reading
CELLS = 3

_SIGNALS: dict[Kind, tuple[Signal, ...]] = {
    kind: tuple(s for s in CATALOGUE.values() if s.kind is kind and not s.arguments) for kind in Kind
}
SLOT: dict[tuple[Kind, str], int] = {(s.kind, s.name): i for signals in _SIGNALS.values() for i, s in enumerate(signals)}
GLOBAL: dict[tuple[Kind, str], int] = {key: i for i, key in enumerate(SLOT)}  # index into a runbook's table of bounds
SLOTS: dict[Kind, int] = {kind: len(signals) for kind, signals in _SIGNALS.items()}
VALUE_SIGNALS = ("oracle_price", "mark_price", "last_price", "index_price")  # what valued_at may name


PLACES: dict[Kind, dict[str, tuple[int, int]]] = {
    kind: {s.name: (i, HEADER + CELLS * i) for i, s in enumerate(signals)} for kind, signals in _SIGNALS.items()
}
"""By kind and signal: its slot in F and its SEEN cell in I."""


def seen_cell(kind: Kind, signal: str) -> int:
    """Offset in I of a signal's SEEN; SAMPLED and CAME follow it."""
    return HEADER + CELLS * SLOT[kind, signal]
