"""What `reefd stress --out` writes (floor 9): the figures as JSON, text and page, and every path's end as a row of a Parquet file."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl

from daemon.errors import UserError
from daemon.simulation.stress.page import page
from daemon.simulation.stress.report import StressReport
from daemon.simulation.stress.tally import FLOATS, INTS, Tally
from daemon.units import FOREVER


def write_report(out: Path, report: StressReport, tally: Tally) -> None:
    """Writes stress.json, stress.txt, stress.html and paths.parquet into a folder. Raises UserError where it cannot."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.figures, indent=2, ensure_ascii=False, allow_nan=False)
        (out / "stress.json").write_text(text + "\n", encoding="utf-8")
        (out / "stress.txt").write_text(report.as_text() + "\n", encoding="utf-8")
        (out / "stress.html").write_text(page(report), encoding="utf-8")
        ends(tally).write_parquet(out / "paths.parquet")
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def ends(tally: Tally) -> pl.DataFrame:
    """A row a path: `with_*` and `without_*` of every figure, times in ns after the start (null: never), its weight."""
    columns: dict[str, object] = {"path": tally.numbers, "weight": tally.weights, "tilted": tally.tilted}
    for name, side in (("without", tally.without), ("with", tally.having)):
        columns |= {f"{name}_{figure}": getattr(side, figure) for figure in (*INTS, *FLOATS)}
    columns |= {f"runs_{runbook}": counts for runbook, counts in tally.runs.items()}
    frame = pl.DataFrame(columns)
    times = [name for name in frame.columns if name.endswith("_at")]
    return frame.with_columns(pl.when(pl.col(name) == FOREVER).then(None).otherwise(pl.col(name)).alias(name) for name in times)
