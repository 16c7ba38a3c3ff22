"""`reefd import` without the printing (floor 5): sources through a mapping into a recording, and a report of what happened.

    report = import_sources(read_mapping(Path("map.yaml")), [Path("candles.parquet")], Path("recording"))

Nothing is written before every source has been read; the recording is replaced atomically, so a failed import leaves the old one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import polars as pl

from daemon.errors import RunbookError, UserError
from daemon.journal.mapping import Choice, SignalColumn
from daemon.journal.mapping import Mapping as SourceMapping
from daemon.journal.recording import FILES, KEYS, Facts, Recording, entity_expression, locked, signal_columns, venue_expression
from daemon.journal.rows import TimeMistake, convert
from daemon.journal.source import MissingColumns, Rejection, chunks
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS, iso
from daemon.world.entities import Kind

REJECTED_LISTED_MAX = 100  # the counts are of all of them
GAPS_LISTED_MAX = 100
PLAUSIBLE_FROM = 1_230_768_000 * NS  # 2009: a row before it is more likely a wrong unit of time than history of a market
REGULAR_SHARE = 0.9  # of the spacings that must be at most REGULAR_SPREAD medians for a series to have a cadence
REGULAR_SPREAD = 1.25
GAP_REGULAR = 1.5  # medians between two rows of a regular series that make a gap
GAP_IRREGULAR = 20  # and of an event-driven one; never less than 1.5 of its declared holds_for, or than a minute


@dataclass(frozen=True, slots=True, kw_only=True)
class Missing:
    """A hole in one entity's rows: no row between `since` and `until` (ns); `rows` is about how many its cadence would have had."""

    entity: str
    since: int
    until: int
    rows: int

    def as_json(self) -> dict[str, str | int]:
        """The gap as the report prints it."""
        return {"entity": self.entity, "from": iso(self.since), "to": iso(self.until), "rows": self.rows}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportedColumn:
    """One signal as it was imported: its unit, how many values, how many of them NaN, and their range."""

    unit: str
    values: int
    missing: int
    least: float | None
    greatest: float | None

    def as_json(self) -> dict[str, str | int | float | None]:
        """The column as the report prints it."""
        return {"unit": self.unit, "values": self.values, "missing": self.missing, "min": self.least, "max": self.greatest}


@dataclass(frozen=True, slots=True, kw_only=True)
class ImportReport:
    """What an import did. read = kept + rejected + filtered (by `where`) + empty (no signal in the row)."""

    out: Path
    kind: Kind
    read: int
    kept: int
    rejected: int
    filtered: int
    empty: int
    rejections: tuple[Rejection, ...]  # the first REJECTED_LISTED_MAX
    gap_count: int
    gaps: tuple[Missing, ...]  # the longest GAPS_LISTED_MAX, in order of entity and time
    duplicates: int
    entities: int
    since: int
    until: int
    columns: Mapping[str, ImportedColumn]
    warnings: tuple[str, ...]


def import_sources(
    mapping: SourceMapping, sources: Sequence[Path], out: Path, progress: Callable[[Path], None] | None = None
) -> ImportReport:
    """Reads all sources, merges them into the recording `out`, and reports. `progress` hears of each source before it is read.

    Raises RunbookError when the mapping does not fit a source, UserError for a source that cannot be read or a folder that cannot
    be written. When no row could be kept nothing is written and the report says `kept` 0.
    """
    frames: list[pl.DataFrame] = []
    rejections: list[Rejection] = []
    read = rejected = filtered = empty = 0
    for path in sources:
        if progress is not None:
            progress(path)
        try:
            for chunk in chunks(path, mapping.columns):
                converted = convert(chunk, mapping, str(path))
                frames.append(converted.frame)
                read += converted.read
                rejected += len(converted.rejected)
                filtered += converted.filtered
                empty += converted.empty
                rejections += converted.rejected[: REJECTED_LISTED_MAX - len(rejections)]
        except MissingColumns as error:
            raise _absent_columns(mapping, error) from error
        except TimeMistake as error:
            place = mapping.places[mapping.time.column]
            raise RunbookError([replace(place, code="E066", message=f"{error} ({path.name})", where="time")]) from error
    rows = pl.concat(frames) if frames else pl.DataFrame()
    kept = rows.height
    new, duplicates = _unique(rows, mapping.kind) if kept else (rows, 0)
    if kept:
        duplicates += _merge_into(out, mapping, new)
    gap_count, gaps = _gaps(new, mapping) if kept else (0, ())
    return ImportReport(
        out=out,
        kind=mapping.kind,
        read=read,
        kept=kept,
        rejected=rejected,
        filtered=filtered,
        empty=empty,
        rejections=tuple(rejections),
        gap_count=gap_count,
        gaps=gaps,
        duplicates=duplicates,
        entities=int(new.select(pl.struct(KEYS[mapping.kind]).n_unique()).item()) if kept else 0,
        since=int(new["ts"][0]) if kept else 0,
        until=int(new["ts"][-1]) if kept else 0,
        columns={c.signal.name: _described(new, c) for c in mapping.signals} if kept else {},
        warnings=(*(w.render() for w in mapping.warnings), *_doubts(new, mapping, kept)),
    )


def _absent_columns(mapping: SourceMapping, error: MissingColumns) -> RunbookError:
    known = ", ".join(error.found[:20]) + (", ..." if len(error.found) > 20 else "")
    said = {name: f"{error.path} has no column '{name}'; it has {known}" for name in error.missing}
    return RunbookError([replace(mapping.places[name], code="E060", message=text) for name, text in said.items()])


# --- merging ----------------------------------------------------------------------------------------------------------


def _unique(rows: pl.DataFrame, kind: Kind) -> tuple[pl.DataFrame, int]:
    """Rows sorted, one a (ts, entity): column by column the last value that is there; and how many rows said a column again."""
    by = ["ts", *KEYS[kind]]
    rows = rows.sort(by, maintain_order=True)
    repeated = pl.struct(by).is_duplicated()
    again = rows.filter(repeated)
    if not again.height:
        return rows, 0
    names = signal_columns(kind, rows)
    said = [(pl.col(n).is_not_null() & (pl.col(n).is_not_null().cum_sum().over(by) > 1)) for n in names]
    duplicates = int(again.select(pl.any_horizontal(said).sum()).item())
    merged = again.group_by(by, maintain_order=True).agg(pl.col("event_ts", *names).drop_nulls().last())
    return pl.concat([rows.filter(~repeated), merged.select(rows.columns)]).sort(by), duplicates


def _merge_into(out: Path, mapping: SourceMapping, new: pl.DataFrame) -> int:
    """Merges rows into the recording on disk; returns how many rows said a column that was there already."""
    kind = mapping.kind
    facts = Facts(
        holds={c.signal.name: _settled(new, kind, c.holds_for) for c in mapping.signals if c.holds_for != Choice()},
        intervals={c.signal.name: _settled(new, kind, _interval(c)) for c in mapping.signals if c.signal.name == "funding_rate"},
    )
    try:
        with locked(out):
            duplicates = 0
            if (out / f"{FILES[kind]}.parquet").exists():
                recording = Recording.open(out)
                facts = recording.facts[kind].merged(facts)
                new, duplicates = _joined(recording.frame(kind), new, kind)
            Recording.write(out, kind, new, facts)
    except OSError as error:
        raise UserError(f"{out}: the recording cannot be written: {error.strerror or error}") from error
    return duplicates


def _joined(old: pl.DataFrame, new: pl.DataFrame, kind: Kind) -> tuple[pl.DataFrame, int]:
    """Old and new rows, of the same (ts, entity) column by column, the new value where there is one."""
    by = ["ts", *KEYS[kind]]
    joined = old.join(new, on=by, how="full", suffix=" new", coalesce=True)
    both = [name for name in signal_columns(kind, new) if name in old.columns]
    said = [pl.col(name).is_not_null() & pl.col(f"{name} new").is_not_null() for name in both]
    duplicates = int(joined.select(pl.any_horizontal(said).sum()).item()) if said else 0
    updated = [pl.coalesce(f"{name} new", name).alias(name) for name in ("event_ts", *both)]
    return joined.with_columns(updated).drop([f"{name} new" for name in ("event_ts", *both)]), duplicates


def _interval(column: SignalColumn) -> Choice:
    """The funding interval: declared, else the period of the unit."""
    if column.interval != Choice():
        return column.interval
    units = column.units
    values = {key: found.interval_ns for key, found in units.values.items() if found.interval_ns is not None}
    return Choice(by=units.by, values=values, default=units.default.interval_ns if units.default else None)


def _settled(rows: pl.DataFrame, kind: Kind, choice: Choice) -> dict[str, int]:
    """What a choice says, by venue; where the markets of a venue differ also by entity, the longest standing for the venue."""
    found: dict[str, dict[str, int]] = {}
    seen = rows.select(*KEYS[kind], venue_expression(kind).alias(" venue"), entity_expression(kind).alias(" entity")).unique()
    for row in seen.iter_rows(named=True):
        ns = choice.default if choice.by is None else choice.values.get(row[choice.by], choice.default)
        if ns is not None:
            found.setdefault(row[" venue"], {})[row[" entity"]] = ns
    settled = {venue: max(by.values()) for venue, by in found.items()}
    differing = {entity: ns for by in found.values() if len(set(by.values())) > 1 for entity, ns in by.items()}
    return dict(sorted({**settled, **differing}.items()))


# --- the report -------------------------------------------------------------------------------------------------------


def _gaps(rows: pl.DataFrame, mapping: SourceMapping) -> tuple[int, tuple[Missing, ...]]:
    """Holes: spacings beyond 1.5 medians of a regular series, beyond 20 medians (and 1.5 holds_for) of an event-driven one."""
    declared = [ns for c in mapping.signals for ns in (*c.holds_for.values.values(), c.holds_for.default) if ns is not None]
    spaced = (
        rows.select(entity_expression(mapping.kind).alias("entity"), "ts")
        .sort("entity", "ts")
        .with_columns(pl.col("ts").shift(1).over("entity").alias("since"))
        .drop_nulls()
        .with_columns((pl.col("ts") - pl.col("since")).alias("spacing"))
    )
    median = pl.col("spacing").median().over("entity")
    regular = (pl.col("spacing") <= REGULAR_SPREAD * median).mean().over("entity") >= REGULAR_SHARE
    floor = pl.lit(max(GAP_REGULAR * max(declared, default=0), MINUTE_NS), dtype=pl.Float64)
    irregular = pl.max_horizontal(GAP_IRREGULAR * median, floor)
    holes = spaced.with_columns(median.alias("median")).filter(
        pl.col("spacing") > pl.when(regular).then(GAP_REGULAR * median).otherwise(irregular)
    )
    longest = holes.sort("spacing", descending=True).head(GAPS_LISTED_MAX).sort("entity", "ts")
    listed = [
        Missing(entity=entity, since=since, until=until, rows=max(1, round(spacing / cadence) - 1))
        for entity, until, since, spacing, cadence in longest.iter_rows()
    ]
    return holes.height, tuple(listed)


def _described(rows: pl.DataFrame, column: SignalColumn) -> ImportedColumn:
    values = rows[column.signal.name].drop_nulls()
    known = values.filter(values.is_not_nan())
    least, greatest = known.min(), known.max()
    return ImportedColumn(
        unit=column.signal.unit,
        values=len(values),
        missing=len(values) - len(known),
        least=least if isinstance(least, float) else None,
        greatest=greatest if isinstance(greatest, float) else None,
    )


def _doubts(rows: pl.DataFrame, mapping: SourceMapping, kept: int) -> list[str]:
    """What is legal and probably not meant."""
    if not kept:
        return []
    found: list[str] = []
    if rows["ts"][0] < PLAUSIBLE_FROM:
        found.append(f"the first row is of {iso(rows['ts'][0])}: is time.format right? (found {mapping.time.format or 'a timestamp'})")
    for name, values in mapping.where.items():
        there = set(rows[name].unique().to_list())
        for value in values:
            if value not in there:
                found.append(f"where.{name}: no row of '{value}' was found")
    for column in mapping.signals:
        if not rows[column.signal.name].is_not_null().any():
            found.append(f"{column.signal.name}: the column {column.column} is empty in every row")
    return found


def show_cadence(ns: int) -> str:
    """A cadence as `1h`, `30m` or `15s`."""
    for unit, size in (("d", DAY_NS), ("h", HOUR_NS), ("m", MINUTE_NS), ("s", NS)):
        if ns % size == 0:
            return f"{ns // size}{unit}"
    return f"{ns}ns"
