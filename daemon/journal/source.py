"""Source files of an import (floor 5): CSV and JSONL (plain or .gz) and Parquet, as chunks of the columns that a mapping reads.

    for chunk in chunks(Path("candles.csv.gz"), ("timestamp", "c")): ...

Cells of CSV and JSONL stay text, so that an integer is never a float on the way; a Parquet column keeps its type. The extra column
`LINE` is the 1-based line in the file (Parquet: the row).
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

import polars as pl

from daemon.errors import UserError

LINE = " line"  # with a space in front: no column of a file is called so
CHUNK_ROWS = 100_000  # rows held as text at once
SUFFIXES = (".csv", ".csv.gz", ".jsonl", ".jsonl.gz", ".ndjson", ".ndjson.gz", ".parquet")
_DELIMITERS = ",;\t|"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rejection:
    """A row that was not taken: where it stands and why."""

    file: str
    line: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Chunk:
    """Some rows of a source, and the lines that are no rows at all."""

    frame: pl.DataFrame
    rejected: tuple[Rejection, ...] = ()


class MissingColumns(UserError):
    """A source lacks columns that the mapping names; `missing` are they, `found` is what the source has."""

    def __init__(self, path: Path, missing: Sequence[str], found: Sequence[str]) -> None:
        self.path = path
        self.missing = tuple(missing)
        self.found = tuple(found)
        super().__init__(f"{path}: has no column {', '.join(missing)}; it has {', '.join(found)}")


def chunks(path: Path, columns: Sequence[str]) -> Iterator[Chunk]:
    """The rows of a source in file order; raises UserError when it cannot be read, MissingColumns when columns are absent."""
    name = path.name.lower()
    if not name.endswith(SUFFIXES):
        raise UserError(f"{path}: reefd reads {', '.join(SUFFIXES)}; name the file by what it is")
    if not path.is_file():
        raise UserError(f"{path}: " + ("is a folder; name the files in it" if path.is_dir() else "there is no such file"))
    try:
        if name.endswith(".parquet"):
            yield from _parquet(path, columns)
            return
        with _opened(path) as file:
            text = io.TextIOWrapper(file, encoding="utf-8-sig", newline="")
            yield from _csv(path, text, columns) if ".csv" in name[-7:] else _jsonl(path, text, columns)
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8: found the byte 0x{error.object[error.start]:02x}; save the file as UTF-8") from error
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise UserError(f"{path}: the compressed file is damaged or cut short ({error}); fetch it again") from error
    except (pl.exceptions.PolarsError, csv.Error) as error:
        raise UserError(f"{path}: cannot be read: {(str(error).splitlines() or ['unknown'])[0]}") from error
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from error


def _opened(path: Path) -> gzip.GzipFile | io.BufferedReader:
    return gzip.open(path, "rb") if path.name.lower().endswith(".gz") else path.open("rb")


def _parquet(path: Path, columns: Sequence[str]) -> Iterator[Chunk]:
    schema = pl.read_parquet_schema(path)
    missing = [name for name in columns if name not in schema]
    if missing:
        raise MissingColumns(path, missing, list(schema))
    yield Chunk(frame=pl.read_parquet(path, columns=list(columns)).with_row_index(LINE, offset=1).cast({LINE: pl.Int64}))


def _csv(path: Path, text: io.TextIOWrapper, columns: Sequence[str]) -> Iterator[Chunk]:
    head = text.readline()
    if not head.strip():
        raise UserError(f"{path}: is empty; the first line names the columns")
    delimiter = max(_DELIMITERS, key=lambda d: len(set(columns) & set(_header(head, d))))
    header = _header(head, delimiter)
    missing = [name for name in columns if name not in header]
    if missing:
        raise MissingColumns(path, missing, header)
    twice = [name for name in columns if header.count(name) > 1]
    if twice:
        raise UserError(f"{path}: the column {twice[0]} is there twice; rename one of them")
    # One index more than needed, so that one column alone gives a tuple too.
    pick = itemgetter(*(header.index(name) for name in columns), 0)
    rows: list[tuple[str, ...]] = []
    lines: list[int] = []
    rejected: list[Rejection] = []
    reader = csv.reader(text, delimiter=delimiter)
    line = 2
    for row in reader:
        if len(row) == len(header):
            rows.append(pick(row))
            lines.append(line)
        elif row:
            reason = f"has {len(row)} field{'s' if len(row) != 1 else ''}, the header has {len(header)}"
            rejected.append(Rejection(file=str(path), line=line, reason=reason))
        line = reader.line_num + 2
        if len(rows) >= CHUNK_ROWS:
            yield _text_chunk(columns, list(zip(*rows, strict=True))[: len(columns)], lines, rejected)
            rows, lines, rejected = [], [], []
    if rows or rejected:
        cells = list(zip(*rows, strict=True))[: len(columns)] if rows else [()] * len(columns)
        yield _text_chunk(columns, cells, lines, rejected)


def _header(line: str, delimiter: str) -> list[str]:
    return [name.strip() for name in next(csv.reader([line], delimiter=delimiter), [])]


def _jsonl(path: Path, text: io.TextIOWrapper, columns: Sequence[str]) -> Iterator[Chunk]:
    cells: list[list[str | None]] = [[] for _ in columns]
    lines: list[int] = []
    rejected: list[Rejection] = []
    named: dict[str, None] = {}
    seen_any = False
    for number, raw in enumerate(text, start=1):
        if not raw.strip():
            continue
        seen_any = True
        try:
            row = json.loads(raw)
        except (ValueError, RecursionError):
            rejected.append(Rejection(file=str(path), line=number, reason="is no JSON"))
            continue
        if not isinstance(row, dict):
            rejected.append(Rejection(file=str(path), line=number, reason="is no JSON object"))
            continue
        if len(named) < 1000:
            named.update(dict.fromkeys(row))
        for cell, name in zip(cells, columns, strict=True):
            cell.append(_as_text(row.get(name)))
        lines.append(number)
        if len(lines) >= CHUNK_ROWS:
            yield _text_chunk(columns, cells, lines, rejected)
            cells, lines, rejected = [[] for _ in columns], [], []
    if not seen_any:
        raise UserError(f"{path}: is empty; one JSON object a line is read")
    missing = [name for name in columns if name not in named]
    if missing and named:
        raise MissingColumns(path, missing, list(named))
    if lines or rejected:
        yield _text_chunk(columns, cells, lines, rejected)


def _as_text(cell: object) -> str | None:
    """A JSON value as the text a CSV would hold: integers exactly, floats by their shortest form."""
    match cell:
        case None | str():
            return cell
        case bool():
            return "true" if cell else "false"
        case int() | float():
            return repr(cell)
        case _:
            return json.dumps(cell)


def _text_chunk(
    columns: Sequence[str], cells: Sequence[Sequence[str | None]], lines: Sequence[int], rejected: Sequence[Rejection]
) -> Chunk:
    series = [pl.Series(name, values, dtype=pl.String) for name, values in zip(columns, cells, strict=True)]
    return Chunk(frame=pl.DataFrame([*series, pl.Series(LINE, lines, dtype=pl.Int64)]), rejected=tuple(rejected))
