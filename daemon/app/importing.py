"""`reefd import` (floor 9): runs the import and prints its report, for people or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from daemon.errors import RunbookError, UserError
from daemon.journal.importing import ImportReport, import_sources, show_cadence
from daemon.journal.mapping import read_mapping
from daemon.journal.recording import Recording
from daemon.units import iso, show

REJECTED_SHOWN = 10  # of the listed ones, on a terminal; the JSON form has up to 100
GAPS_SHOWN = 10


def import_(map_file: Path, sources: Sequence[Path], out: Path, *, json_format: bool) -> int:
    """Imports `sources` into the recording `out`: 0 done, 1 the mapping has mistakes or no row was kept, 2 something cannot be read."""
    try:
        mapping = read_mapping(map_file)
        with _progress(len(sources)) as heard:
            report = import_sources(mapping, sources, out, heard)
    except RunbookError as error:
        if json_format:
            print(json.dumps({"errors": [found.as_json() for found in error.diagnostics]}))
        print(error, file=sys.stderr)
        return 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    print(json.dumps(as_json(report), indent=2) if json_format else as_text(report))
    return 0 if report.kept else 1


def as_json(report: ImportReport) -> dict[str, object]:
    """The report in the shape of `reefd import --format json`."""
    return {
        "rows": {
            "read": report.read,
            "kept": report.kept,
            "rejected": report.rejected,
            "filtered": report.filtered,
            "empty": report.empty,
        },
        "rejected": [{"file": found.file, "line": found.line, "reason": found.reason} for found in report.rejections],
        "gaps": [found.as_json() for found in report.gaps],
        "gaps_total": report.gap_count,
        "duplicates": report.duplicates,
        "entities": report.entities,
        "columns": {name: column.as_json() for name, column in report.columns.items()},
        "from": iso(report.since) if report.kept else None,
        "to": iso(report.until) if report.kept else None,
        "warnings": list(report.warnings),
        "out": str(report.out),
    }


def as_text(report: ImportReport) -> str:
    """The report as lines for a person."""
    lines = [f"{report.read:,} rows read, {report.kept:,} kept, {report.rejected:,} rejected"]
    if report.filtered or report.empty:
        lines[0] += f", {report.filtered:,} left out by `where`, {report.empty:,} without a value"
    lines += [f"  {found.file}:{found.line}: {found.reason}" for found in report.rejections[:REJECTED_SHOWN]]
    if report.rejected > REJECTED_SHOWN:
        lines.append(f"  and {report.rejected - REJECTED_SHOWN:,} more (--format json lists the first 100)")
    if not report.kept:
        return "\n".join([*lines, "no row was kept, nothing was written"])
    entities = f"{report.entities} {'entity' if report.entities == 1 else 'entities'}"
    lines.append(f"{entities} of kind {report.kind.value}, {iso(report.since)} to {iso(report.until)}")
    recording = Recording.open(report.out)
    counted = ((report.duplicates, "duplicate"), (report.gap_count, "gap"))
    for name, column in report.columns.items():
        shown = f"  {name}: {column.values:,} values"
        if column.least is not None and column.greatest is not None:
            shown += f" from {show(column.least, column.unit)} to {show(column.greatest, column.unit)}"
        if column.missing:
            shown += f", {column.missing:,} of them known to be missing"
        hold = recording.holds.get((report.kind, name))
        lines.append(shown + (f", held for {show_cadence(hold)}" if hold else ""))
    duplicates, gaps = (f"{count:,} {noun}{'' if count == 1 else 's'}" for count, noun in counted)
    lines.append(f"{duplicates} (the last value counts), {gaps}")
    longest = sorted(report.gaps, key=lambda gap: gap.since - gap.until)[:GAPS_SHOWN]
    lines += [f"  {gap.entity}: nothing from {iso(gap.since)} to {iso(gap.until)} (about {gap.rows:,} of its rows)" for gap in longest]
    if report.gap_count > len(longest):
        lines.append(f"  and {report.gap_count - len(longest):,} shorter ones")
    lines += [f"warning: {warning}" for warning in report.warnings]
    lines.append(f"recording: {report.out} ({recording.row_count:,} rows)")
    return "\n".join(lines)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[Path], None]]:
    """A bar on a terminal, nothing elsewhere; the function tells it of the next source."""
    console = Console(stderr=True)
    columns = (TextColumn("importing"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=total)
        started = 0

        def heard(path: Path) -> None:
            nonlocal started
            bar.update(task, completed=started, description=path.name)
            started += 1

        yield heard
