"""A chunk of a source turned into rows of a recording (floor 5): times to int64 ns, entity keys, signals in the catalogue's units.

`convert(chunk, mapping)` never guesses: a row with a cell that cannot be read is rejected whole, with the reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

import polars as pl

from daemon.journal.conversion import Conversion
from daemon.journal.mapping import EntityKey, Mapping, SignalColumn, TimeColumn
from daemon.journal.source import LINE, Chunk, Rejection
from daemon.units import NS, parse_iso

NULLS = ("", "null", "none", "na", "n/a")
"""Cells that say nothing (in any case of letters); `nan` says that the source has no value."""

TIME_MAX = 1 << 62  # ns, the year 2116
_SCALE = {"epoch_s": NS, "epoch_ms": 1_000_000, "epoch_us": 1000, "epoch_ns": 1}
_UNIT_NS = {"ms": 1_000_000, "us": 1000, "ns": 1}
_REASON = " reason"
_SHOWN = 40  # characters of a cell that a reason quotes


class TimeMistake(Exception):
    """The time column's type and the mapping's format do not go together; the text says what to write."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Converted:
    """Rows that were kept (ts, event_ts, keys, signals), and what became of the others."""

    frame: pl.DataFrame
    read: int
    filtered: int
    empty: int
    rejected: tuple[Rejection, ...]


def convert(chunk: Chunk, mapping: Mapping, path: str) -> Converted:
    """Rows of one chunk in the catalogue's units; raises TimeMistake when no row of the file could be read."""
    raw = chunk.frame
    keys = pl.DataFrame([_key(raw, key) for key in mapping.keys])
    frame = pl.DataFrame([raw[LINE], *keys])
    values: list[pl.Series] = []
    reasons: list[pl.Series] = []
    ts, wrong = _time(raw[mapping.time.column], mapping.time)
    reasons.append(wrong)
    event_ts = pl.Series("event_ts", [None] * raw.height, dtype=pl.Int64)
    if mapping.event_time is not None:
        cells = raw[mapping.event_time.column]
        event_ts, wrong = _time(cells, mapping.event_time)
        event_ts = event_ts.alias("event_ts")
        # A source that has no time of its own for a row leaves it empty: then it was true when we knew it.
        reasons.append(wrong.set(_absent(cells), None))
    reasons += [_key_reason(keys[key.name]) for key in mapping.keys]
    for column in mapping.signals:
        series, wrongs = _signal(raw[column.column], column, keys)
        values.append(series)
        reasons += wrongs
    reason = pl.select(pl.coalesce([pl.lit(r) for r in reasons])).to_series() if raw.height else pl.Series(_REASON, [], dtype=pl.String)
    frame = frame.with_columns(ts.alias("ts"), event_ts, *values, reason.alias(_REASON))
    wanted = frame
    for name, kept in mapping.where.items():
        wanted = wanted.filter(pl.col(name).is_in(list(kept)))
    sound = wanted.filter(pl.col(_REASON).is_null())
    names = [column.signal.name for column in mapping.signals]
    full = sound.filter(pl.any_horizontal(pl.col(name).is_not_null() for name in names)).drop(_REASON, LINE)
    refused = wanted.filter(pl.col(_REASON).is_not_null()).select(LINE, _REASON)
    found = tuple(Rejection(file=path, line=line, reason=text) for line, text in refused.iter_rows())
    return Converted(
        frame=full,
        read=raw.height + len(chunk.rejected),
        filtered=frame.height - wanted.height,
        empty=sound.height - full.height,
        rejected=tuple(sorted((*chunk.rejected, *found), key=lambda r: r.line)),
    )


# --- times ------------------------------------------------------------------------------------------------------------


def _time(cells: pl.Series, spec: TimeColumn) -> tuple[pl.Series, pl.Series]:
    """Times as int64 ns, known_after added; and why a row has none."""
    ns = _nanoseconds(cells, spec)
    usable = ns.is_not_null() & (ns.abs() < TIME_MAX - spec.known_after_ns)
    absent = _absent(cells)
    quoted = _quoted(cells)
    format_name = spec.format or "time"
    reason = pl.select(
        pl.when(pl.lit(usable))
        .then(None)
        .when(pl.lit(absent))
        .then(pl.lit(f"no time in column {spec.column}"))
        .otherwise(pl.format(f"column {spec.column}: {{}} is no {format_name}", pl.lit(quoted)))
        .alias(_REASON)
    ).to_series()
    kept = pl.select(pl.when(pl.lit(usable)).then(pl.lit(ns) + spec.known_after_ns)).to_series()
    return kept, reason


def _nanoseconds(cells: pl.Series, spec: TimeColumn) -> pl.Series:
    kind = cells.dtype
    if isinstance(kind, pl.Datetime):
        return _scaled(cells.to_physical(), _UNIT_NS[kind.time_unit])
    if kind == pl.Date:
        return _scaled(cells.to_physical().cast(pl.Int64), 86_400 * NS)
    if spec.format is None:
        found = f"the column {spec.column} is no timestamp but {_noun(kind)}"
        raise TimeMistake(f"{found}; write format: iso8601, epoch_s, epoch_ms or epoch_ns")
    if kind == pl.String:
        return _iso(cells) if spec.format == "iso8601" else _epochs(cells, _SCALE[spec.format])
    if spec.format == "iso8601":
        raise TimeMistake(f"the column {spec.column} holds {_noun(kind)}; write format: epoch_s, epoch_ms or epoch_ns")
    if kind.is_integer():
        return _scaled(cells.cast(pl.Int64, strict=False), _SCALE[spec.format])
    if kind.is_float() and spec.format != "epoch_ns":
        return _exact_times(cells.to_list(), _SCALE[spec.format])
    if kind.is_float():
        raise TimeMistake(f"the column {spec.column} holds floats, which cannot hold nanoseconds; export it as integers")
    raise TimeMistake(f"the column {spec.column} holds {_noun(kind)}, found no time in it")


def _noun(kind: pl.DataType) -> str:
    return "text" if kind == pl.String else "integers" if kind.is_integer() else "floats" if kind.is_float() else str(kind)


def _scaled(whole: pl.Series, scale: int) -> pl.Series:
    """whole x scale, null where that leaves the range of times."""
    return pl.select(pl.when(pl.lit(whole).abs() <= TIME_MAX // scale).then(pl.lit(whole) * scale)).to_series()


def _iso(cells: pl.Series) -> pl.Series:
    # The common shape in one pass; whatever it does not take goes through the exact parser, once a distinct text.
    plain = cells.str.strip_chars().str.strip_suffix("Z").str.replace(" ", "T", literal=True)
    fast = plain.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit="ns", strict=False).to_physical()
    rest = fast.is_null() & cells.is_not_null()
    if not rest.any():
        return fast
    distinct: list[str] = cells.filter(rest).unique().to_list()
    known = {text: _parsed_iso(text) for text in distinct}
    return pl.select(pl.coalesce(pl.lit(fast), pl.lit(cells).replace_strict(known, default=None, return_dtype=pl.Int64))).to_series()


def _parsed_iso(text: str) -> int | None:
    try:
        return parse_iso(text)
    except ValueError:
        return None


def _epochs(cells: pl.Series, scale: int) -> pl.Series:
    whole = _scaled(cells.str.strip_chars().cast(pl.Int64, strict=False), scale)
    rest = whole.is_null() & cells.is_not_null()
    if not rest.any():
        return whole
    return pl.select(pl.coalesce(pl.lit(whole), pl.lit(_exact_times(cells.to_list(), scale)))).to_series()


def _exact(text: str, scale: int) -> int | None:
    """Nanoseconds of a decimal number of units, without a float on the way; None when it is none."""
    try:
        number = Decimal(text.strip()) * scale
        return int(number) if abs(number) <= TIME_MAX else None
    except (InvalidOperation, ValueError, OverflowError):
        return None


def _exact_times(cells: Sequence[str | float | None], scale: int) -> pl.Series:
    """Texts and floats (by their shortest form) as nanoseconds."""
    return pl.Series("ns", [None if cell is None else _exact(str(cell), scale) for cell in cells], dtype=pl.Int64)


# --- entities ---------------------------------------------------------------------------------------------------------


def _key(raw: pl.DataFrame, key: EntityKey) -> pl.Series:
    if key.column is None:
        return pl.Series(key.name, [key.const], dtype=pl.String).new_from_index(0, raw.height).alias(key.name)
    cells = raw[key.column].cast(pl.String).str.strip_chars()
    cells = pl.select(pl.when(pl.lit(cells) != "").then(pl.lit(cells)).alias(key.name)).to_series()
    if key.rename:
        cells = cells.replace(dict(key.rename))
    return pl.select((pl.lit(key.prefix) + pl.lit(cells) + pl.lit(key.suffix)).alias(key.name)).to_series()


def _key_reason(cells: pl.Series) -> pl.Series:
    """Why a row has no entity; a colon would make `venue:market` ambiguous, except in the last part."""
    coloned = cells.str.contains(":", literal=True) if cells.name != "market" else pl.Series([False]).new_from_index(0, len(cells))
    return pl.select(
        pl.when(pl.lit(cells).is_null())
        .then(pl.lit(f"no {cells.name}"))
        .when(pl.lit(coloned))
        .then(pl.format(f"{cells.name} {{}} holds a colon; rename it", pl.lit(_quoted(cells))))
        .alias(_REASON)
    ).to_series()


# --- values -----------------------------------------------------------------------------------------------------------


def _signal(cells: pl.Series, column: SignalColumn, keys: pl.DataFrame) -> tuple[pl.Series, list[pl.Series]]:
    """A signal's values in the catalogue's unit (null = says nothing, NaN = has none), and why a row is refused."""
    name = column.signal.name
    absent = _absent(cells)
    numbers = _numbers(cells, column.signal.unit == "bool")
    unread = ~absent & numbers.is_null()
    given = pl.select(pl.when(~pl.lit(absent)).then(pl.lit(numbers))).to_series()
    converted, unknown_unit = _converted(given, column, keys)
    endless = converted.is_infinite().fill_null(False)
    # A price of 0 stands for "none" in some exports: taken for one it would value a position at nothing.
    worthless = (converted <= 0.0).fill_null(False) & (column.signal.unit == "price")
    noun = "true or false" if column.signal.unit == "bool" else "number"
    wrong = pl.select(
        pl.when(pl.lit(unread))
        .then(pl.format(f"column {column.column}: {{}} is no {noun}", pl.lit(_quoted(cells))))
        .when(pl.lit(endless))
        .then(pl.lit(f"column {column.column}: infinite"))
        .when(pl.lit(worthless))
        .then(pl.format(f"column {column.column}: {{}} is no price: prices are above 0", pl.lit(_quoted(cells))))
        .alias(_REASON)
    ).to_series()
    return converted.alias(name), [wrong, unknown_unit]


def _absent(cells: pl.Series) -> pl.Series:
    if cells.dtype != pl.String:
        return cells.is_null()
    return (cells.is_null() | cells.str.strip_chars().str.to_lowercase().is_in(list(NULLS))).fill_null(True)


def _numbers(cells: pl.Series, boolean: bool) -> pl.Series:
    """The cells as float64, null where they are no number."""
    if cells.dtype == pl.String:
        text = cells.str.strip_chars().str.strip_prefix("+")
        if boolean:
            words = {"true": 1.0, "false": 0.0, "1": 1.0, "0": 0.0, "1.0": 1.0, "0.0": 0.0, "nan": float("nan")}
            return text.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Float64)
        return text.cast(pl.Float64, strict=False)
    if cells.dtype.is_numeric() or cells.dtype == pl.Boolean:
        numbers = cells.cast(pl.Float64, strict=False)
        if boolean:
            return pl.select(pl.when(pl.lit(numbers).is_nan() | pl.lit(numbers).is_in([0.0, 1.0])).then(pl.lit(numbers))).to_series()
        return numbers
    return pl.Series(cells.name, [None] * len(cells), dtype=pl.Float64)


def _converted(numbers: pl.Series, column: SignalColumn, keys: pl.DataFrame) -> tuple[pl.Series, pl.Series]:
    units = column.units
    if units.by is None:
        assert units.default is not None, "a mapping without errors has a unit for every signal"
        return pl.select(_times(pl.lit(numbers), units.default)).to_series(), pl.Series(_REASON, [None] * len(numbers), dtype=pl.String)
    key = keys[units.by]
    chosen = pl.lit(None, dtype=pl.Float64) if units.default is None else _times(pl.lit(numbers), units.default)
    for value, conversion in units.values.items():
        chosen = pl.when(pl.lit(key) == value).then(_times(pl.lit(numbers), conversion)).otherwise(chosen)
    listed = key.is_in(list(units.values)) if units.default is None else pl.Series([True]).new_from_index(0, len(key))
    reason = pl.select(
        pl.when(~pl.lit(listed) & pl.lit(numbers).is_not_null())
        .then(pl.format(f"no unit of {column.signal.name} for {units.by} {{}}", pl.lit(_quoted(key))))
        .alias(_REASON)
    ).to_series()
    return pl.select(chosen.alias(numbers.name)).to_series(), reason


def _times(numbers: pl.Expr, conversion: Conversion) -> pl.Expr:
    # Divided by the exact integer, never multiplied by its inexact inverse.
    if conversion.multiply != 1:
        numbers = numbers * float(conversion.multiply)
    return numbers / float(conversion.divide) if conversion.divide != 1 else numbers


def _quoted(cells: pl.Series) -> pl.Series:
    text = cells.cast(pl.String, strict=False).fill_null("nothing")
    return pl.select(pl.format("'{}'", pl.lit(text).str.slice(0, _SHOWN))).to_series()
