"""Recordings (floor 5): a folder of Parquet files, one a kind, sorted by `ts`; written atomically, read as sorted blocks.

    recording = Recording.open(Path("recording"))
    for block in recording.blocks(): ...          # numpy columns; null = +inf (not in this row), NaN = the source says there is none

Columns of a file: `ts` and `event_ts` (int64 ns UTC; null = ts), the entity's keys, one float64 a signal in the catalogue's unit.
Declared holds and funding intervals stand in the Parquet metadata, by venue (`*` where the kind has none).
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from daemon.errors import UserError
from daemon.journal.schema import sync_folder
from daemon.world.entities import Kind

FILES: Mapping[Kind, str] = {
    Kind.CHAIN: "chain",
    Kind.VENUE: "parameter",
    Kind.ACCOUNT: "account",
    Kind.MARKET: "market",
    Kind.POSITION: "position",
    Kind.ROUTE: "route",
}
"""File of each kind, in the order in which rows of one instant are read: a venue's parameters before its markets."""

KEYS: Mapping[Kind, tuple[str, ...]] = {
    Kind.CHAIN: ("chain",),
    Kind.VENUE: ("venue",),
    Kind.ACCOUNT: ("account",),
    Kind.MARKET: ("venue", "market"),
    Kind.POSITION: ("account", "market"),
    Kind.ROUTE: ("route",),
}
"""Key columns of each kind; joined by `:` they are the entity id."""

ANY = "*"  # stands for "whatever the venue" where a kind has none
BLOCK_ROWS = 65_536  # rows of a block at most, an instant never split: small enough for the cache, large enough to amortise a call
ROW_GROUP_ROWS = 131_072
_METADATA_KEY = "reefd"
_VERSION = 1

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Block:
    """Rows of one kind, sorted by ts, then entity. `entity` indexes `entity_ids`; columns: float64[rows], null = +inf, NaN = missing."""

    kind: Kind
    ts: Ints
    event_ts: Ints
    entity: npt.NDArray[np.int32]
    entity_ids: tuple[str, ...]
    columns: Mapping[str, Floats]

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ts)

    def cut(self, start: int, end: int) -> Block:
        """Rows `start` up to `end`, without copying."""
        return Block(
            kind=self.kind,
            ts=self.ts[start:end],
            event_ts=self.event_ts[start:end],
            entity=self.entity[start:end],
            entity_ids=self.entity_ids,
            columns={name: values[start:end] for name, values in self.columns.items()},
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What a file's metadata says: holds and intervals in ns as `{signal: {venue or "*": ns}}`, signals as `{venue or "*": names}`."""

    holds: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    intervals: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    provides: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def merged(self, later: Facts) -> Facts:
        """Both, entry by entry; where both say something the later one counts."""
        holds = {s: {**self.holds.get(s, {}), **later.holds.get(s, {})} for s in {**self.holds, **later.holds}}
        intervals = {s: {**self.intervals.get(s, {}), **later.intervals.get(s, {})} for s in {**self.intervals, **later.intervals}}
        venues = sorted({*self.provides, *later.provides})
        provides = {v: tuple(sorted({*self.provides.get(v, ()), *later.provides.get(v, ())})) for v in venues}
        return Facts(holds=holds, intervals=intervals, provides=provides)


def entity_expression(kind: Kind) -> pl.Expr:
    """The entity id of each row, from its key columns."""
    return pl.concat_str([pl.col(key) for key in KEYS[kind]], separator=":")


def venue_expression(kind: Kind) -> pl.Expr:
    """The venue of each row, `*` for kinds that have none."""
    match kind:
        case Kind.MARKET | Kind.VENUE:
            return pl.col("venue")
        case Kind.ACCOUNT | Kind.POSITION:
            return pl.col("account").str.split("#").list.first()
        case _:
            return pl.lit(ANY)


def signal_columns(kind: Kind, frame: pl.DataFrame) -> list[str]:
    """Names of the signal columns of a frame, in order."""
    return [name for name in frame.columns if name not in ("ts", "event_ts", *KEYS[kind])]


class Recording:
    """A recording on disk, read lazily kind by kind."""

    def __init__(self, folder: Path, files: Mapping[Kind, Path]) -> None:
        """Use `open`."""
        self.folder = folder
        self._files = files
        self._blocks: dict[Kind, Block] = {}

    @classmethod
    def open(cls, folder: Path) -> Recording:
        """The recording in `folder`; raises UserError when there is none or a file is not one of a recording."""
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no recording here; make one with `reefd import --map MAP.yaml SOURCE --out {folder}`")
        files = {kind: folder / f"{name}.parquet" for kind, name in FILES.items() if (folder / f"{name}.parquet").is_file()}
        if not files:
            expected = ", ".join(f"{name}.parquet" for name in FILES.values())
            raise UserError(f"{folder}: holds no recording (none of {expected}); make one with `reefd import`")
        recording = cls(folder, files)
        for kind in files:
            recording._check_columns(kind)
        return recording

    @property
    def kinds(self) -> tuple[Kind, ...]:
        """Kinds that were recorded, in reading order."""
        return tuple(self._files)

    @cached_property
    def facts(self) -> Mapping[Kind, Facts]:
        """What each file's metadata declares."""
        return {kind: _read_facts(path) for kind, path in self._files.items()}

    @property
    def row_count(self) -> int:
        """Distinct (ts, entity) over all kinds."""
        return sum(int(pl.scan_parquet(path).select(pl.len()).collect().item()) for path in self._files.values())

    @property
    def holds(self) -> Mapping[tuple[Kind, str], int]:
        """Declared natural cadence (ns) of each recorded signal that has one; the longest where venues differ (see `holds_by_venue`)."""
        return {(kind, name): max(by.values()) for kind, facts in self.facts.items() for name, by in facts.holds.items() if by}

    @property
    def holds_by_venue(self) -> Mapping[tuple[Kind, str, str], int]:
        """Declared natural cadence (ns) by kind, signal and venue (`*` for kinds that have no venue)."""
        return {(k, name, venue): ns for k, facts in self.facts.items() for name, by in facts.holds.items() for venue, ns in by.items()}

    @property
    def intervals(self) -> Mapping[str, int]:
        """Funding interval (ns) by venue, or by entity id where the mapping told markets apart."""
        return dict(self.facts[Kind.MARKET].intervals.get("funding_rate", {})) if Kind.MARKET in self._files else {}

    @property
    def entities(self) -> Mapping[Kind, tuple[str, ...]]:
        """Entity ids of each recorded kind, sorted."""
        return {kind: self.table(kind).entity_ids for kind in self._files}

    def provides(self, venue: str) -> Mapping[Kind, frozenset[str]]:
        """Observed signals that this venue's rows hold, by kind; kinds without a row of the venue are absent."""
        found = {kind: frozenset(facts.provides.get(venue, ())) for kind, facts in self.facts.items()}
        return {kind: names for kind, names in found.items() if names}

    def frame(self, kind: Kind) -> pl.DataFrame:
        """The rows of a kind as stored (nulls are nulls), sorted by ts and entity; raises UserError for a damaged file."""
        if kind not in self._files:
            raise UserError(f"{self.folder}: no {kind.value} was recorded; recorded: {', '.join(k.value for k in self._files)}")
        try:
            return pl.read_parquet(self._files[kind])
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{self._files[kind]}: cannot be read ({_first_line(error)})") from error

    def table(self, kind: Kind) -> Block:
        """All rows of a kind as one block; kept, so that the second call is free."""
        if kind not in self._blocks:
            self._blocks[kind] = to_block(kind, self.frame(kind))
        return self._blocks[kind]

    def blocks(self, kinds: Sequence[Kind] | None = None) -> Iterator[Block]:
        """All rows as blocks, sorted by ts over all kinds; at one ts kinds in the order of `FILES`, then entities by id.

        A block holds one kind; one instant of one kind is never split over two blocks.
        """
        tables = [self.table(kind) for kind in self._files if kinds is None or kind in kinds]
        if len(tables) == 1:
            yield from _chunks(tables[0], 0, len(tables[0]))
        elif tables:
            yield from _interleaved(tables)

    @staticmethod
    def write(folder: Path, kind: Kind, frame: pl.DataFrame, facts: Facts | None = None) -> None:
        """Replaces one kind's file atomically: rows sorted by ts and entity, `event_ts` null where it is ts. Raises UserError.

        `frame` has ts (int64), the keys of the kind, float64 signals, and event_ts when it differs. Which venue provides what is
        found in the rows and need not be in `facts`.
        """
        missing = [name for name in ("ts", *KEYS[kind]) if name not in frame.columns]
        assert not missing, f"a recording of {kind.value} needs {missing}"
        if "event_ts" not in frame.columns:
            frame = frame.with_columns(pl.lit(None, dtype=pl.Int64).alias("event_ts"))
        signals = signal_columns(kind, frame)
        frame = frame.select(
            pl.col("ts").cast(pl.Int64),
            pl.when(pl.col("event_ts") != pl.col("ts")).then(pl.col("event_ts")).cast(pl.Int64).alias("event_ts"),
            *(pl.col(key).cast(pl.String) for key in KEYS[kind]),
            *(pl.col(name).cast(pl.Float64) for name in signals),
        ).sort("ts", *KEYS[kind], maintain_order=True)
        provided = frame.group_by(venue_expression(kind).alias("venue_")).agg(pl.col(name).is_not_null().any() for name in signals)
        names = {row["venue_"]: tuple(sorted(name for name in signals if row[name])) for row in provided.iter_rows(named=True)}
        stored = Facts(holds=(facts or Facts()).holds, intervals=(facts or Facts()).intervals, provides=names)
        _write_atomically(folder / f"{FILES[kind]}.parquet", frame, stored)

    def _check_columns(self, kind: Kind) -> None:
        path = self._files[kind]
        try:
            schema = pl.read_parquet_schema(path)
        except (pl.exceptions.PolarsError, OSError) as error:
            raise UserError(f"{path}: is no Parquet file ({_first_line(error)})") from error
        missing = [name for name in ("ts", *KEYS[kind]) if name not in schema]
        if missing:
            raise UserError(f"{path}: is no recording of kind {FILES[kind]}: it has no column {missing[0]}; use `reefd import`")
        wrong = [name for name in schema if name not in ("ts", "event_ts", *KEYS[kind]) and schema[name] != pl.Float64]
        if schema["ts"] != pl.Int64 or wrong:
            named = f"{wrong[0]} is {schema[wrong[0]]}" if wrong else f"ts is {schema['ts']}"
            raise UserError(f"{path}: is no recording: {named}; ts is int64 ns and signals are float64; use `reefd import`")


def to_block(kind: Kind, frame: pl.DataFrame) -> Block:
    """A frame of a recording as numpy columns."""
    ids = frame.select(entity_expression(kind).alias("id"))["id"]
    distinct = sorted(ids.unique().to_list())
    entity = ids.cast(pl.Enum(distinct)).to_physical().to_numpy().astype(np.int32) if distinct else np.zeros(0, np.int32)
    ts = frame["ts"].to_numpy()
    event_ts = frame["event_ts"].fill_null(frame["ts"]).to_numpy() if "event_ts" in frame.columns else ts
    columns = {name: frame[name].fill_null(float("inf")).to_numpy() for name in signal_columns(kind, frame)}
    return Block(kind=kind, ts=ts, event_ts=event_ts, entity=entity, entity_ids=tuple(distinct), columns=columns)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Holds the folder alone: two imports into one recording take turns. The lock dies with its process."""
    folder.mkdir(parents=True, exist_ok=True)
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


def _chunks(table: Block, start: int, end: int) -> Iterator[Block]:
    while start < end:
        stop = min(start + BLOCK_ROWS, end)
        if stop < end:
            # Go on to the end of the instant: whoever reads a block may take its last ts for complete.
            stop = min(int(np.searchsorted(table.ts, table.ts[stop - 1], side="right")), end)
        yield table.cut(start, stop)
        start = stop


def _interleaved(tables: Sequence[Block]) -> Iterator[Block]:
    owners = np.concatenate([np.full(len(table), number, np.int8) for number, table in enumerate(tables)])
    order = np.argsort(np.concatenate([table.ts for table in tables]), kind="stable")
    owners = owners[order]
    changes = np.flatnonzero(np.diff(owners)) + 1
    starts, ends = np.concatenate(([0], changes)), np.concatenate((changes, [len(owners)]))
    cursors = [0] * len(tables)
    for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
        number = int(owners[start])
        first = cursors[number]
        cursors[number] = first + end - start
        yield from _chunks(tables[number], first, cursors[number])


def _read_facts(path: Path) -> Facts:
    stored = pl.read_parquet_metadata(path).get(_METADATA_KEY)
    if stored is None:
        return Facts()
    told = json.loads(stored)
    provides = {venue: tuple(names) for venue, names in told["provides"].items()}
    return Facts(holds=told["holds"], intervals=told["intervals"], provides=provides)


def _write_atomically(path: Path, frame: pl.DataFrame, facts: Facts) -> None:
    told = {"version": _VERSION, "holds": facts.holds, "intervals": facts.intervals, "provides": facts.provides}
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            frame.write_parquet(file, row_group_size=ROW_GROUP_ROWS, metadata={_METADATA_KEY: json.dumps(told, sort_keys=True)})
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        sync_folder(path.parent)
    except (OSError, pl.exceptions.PolarsError) as error:
        partial.unlink(missing_ok=True)
        raise UserError(f"{path}: cannot be written: {_first_line(error)}") from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
