"""`reefd check`: load runbooks and say everything that is wrong with them (floor 9)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime
from pathlib import Path

from daemon.edges.provides import BRIDGE, DYDX
from daemon.runbook.load import load_paths
from daemon.runbook.model import Runbook
from daemon.runbook.provided import unprovided
from daemon.runbook.warnings import label_demands, overdue
from daemon.world.entities import Kind, Topology, Venue

ADAPTERS = Topology(venues={"dydx": Venue(id="dydx", provides={**DYDX, Kind.VENUE: DYDX[Kind.VENUE] | BRIDGE[Kind.VENUE]})})
"""The venues whose adapter is known without settings; only runbooks that name one in `where` are held against it."""


def _plural(count: int, noun: str) -> str:
    return f"{count} {noun}{'' if count == 1 else 's'}"


def _names_an_adapter(runbook: Runbook) -> bool:
    """True when `where` pins the runbook to a venue whose adapter is known here."""
    demands = label_demands(runbook.where.node) if runbook.where is not None else []
    return any(label == "venue" and same and value in ADAPTERS.venues for label, value, same in demands)


def check(paths: Sequence[Path], *, json_format: bool, strict: bool, as_of: date | None) -> int:
    """Print every error and warning of the runbooks; 0 when there is none that counts, else 1 (`strict`: warnings count too).

    `as_of` is the day that reviews are judged by, today (UTC) when None.
    """
    loaded = load_paths(paths)
    errors = [*loaded.errors, *unprovided([runbook for runbook in loaded.runbooks if _names_an_adapter(runbook)], ADAPTERS)]
    today = as_of or datetime.now(UTC).date()
    warnings = sorted([*loaded.warnings, *overdue(loaded.runbooks, today)], key=lambda d: (d.file, d.line, d.column, d.code))
    failed = bool(errors) or (strict and bool(warnings))
    if json_format:
        report = {
            "runbooks": len(loaded.runbooks),
            "errors": [found.as_json() for found in errors],
            "warnings": [found.as_json() for found in warnings],
        }
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        return int(failed)
    for found in sorted([*errors, *warnings], key=lambda d: (d.file, d.line, d.column, d.code)):
        sys.stdout.write(found.render() + "\n")
    counts = (
        f"{_plural(len(loaded.runbooks), 'runbook')} right, {_plural(len(errors), 'error')}, {_plural(len(warnings), 'warning')}"
    )
    strictly = " (warnings count: --strict)" if strict and warnings and not errors else ""
    sys.stdout.write(f"{'failed' if failed else 'ok'}: {counts}{strictly}\n")
    return int(failed)
