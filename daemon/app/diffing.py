"""`reefd diff`: how two versions of runbooks behave over a recording with the same account (floor 9)."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from daemon.app.evaluating import standing, standing_text
from daemon.app.execution import Choice, Execution
from daemon.app.replaying import house_limits, recorded_course, require_history
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError
from daemon.journal.recording import Recording
from daemon.runbook.load import load_paths, there
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec
from daemon.simulation.account_file import load_account
from daemon.simulation.contrast import Contrast, Pair
from daemon.simulation.outturn import outturn
from daemon.units import iso


def diff(
    old: Path, new: Path, *, recording: Path, account: Path, json_format: bool, limits: Path | None, engine: Choice = "auto"
) -> int:
    """Play both versions and print where they part; 0 when they could be compared, whether they differ or not.

    Raises RunbookError for mistakes in the runbooks or the account, UserError for what is missing or unreadable.
    """
    versions = [_runbooks(path) for path in (old, new)]
    spec = load_account(account)
    house = HouseLimits() if limits is None else house_limits(limits)
    course, _ = recorded_course(recording, spec, keep_series=False)
    require_history(course, recording, account)
    execution = Execution(engine, rows=2 * course.rows, runbooks=max(map(len, versions)))
    before, after = (execution.play(course, runbooks=books, house=house) for books in versions)
    contrast = Contrast(
        old=before.log.episodes(), new=after.log.episodes(), having_old=outturn(before.account), having_new=outturn(after.account),
        lacking=outturn(execution.play_without(course)), notes=(execution.note,) if execution.note else (),
    )  # fmt: skip
    first = contrast.divergence
    if first is not None:
        contrast = replace(contrast, why=tuple(_why(first, versions[0], versions[1], recording, spec)))
    document = json.dumps(contrast.as_json(), indent=2, ensure_ascii=False, allow_nan=False) if json_format else contrast.as_text()
    sys.stdout.write(document + "\n")
    return 0


def _runbooks(path: Path) -> tuple[Runbook, ...]:
    found = load_paths(there(path))
    if found.errors:
        raise RunbookError(found.errors)
    return found.runbooks


def _why(pair: Pair, old: Sequence[Runbook], new: Sequence[Runbook], recording: Path, spec: AccountSpec) -> Iterator[str]:
    """Where each version's trigger stood at the moment at which the two part."""
    source = Recording.open(recording)
    name, entity, at = pair.any.runbook, pair.any.entity, pair.since
    for which, books in (("OLD", old), ("NEW", new)):
        book = next((book for book in books if book.id == name), None)
        if book is None or book.stage == "disabled":
            yield f"{which}: the runbook '{name}' is {'not there' if book is None else 'disabled'}"
            continue
        told = standing(source, book, entity=entity, at=at, spec=spec)
        yield f"{which}, at {iso(at)}, with sizes as the account began:"
        yield from (f"  {line}" for line in standing_text(told).splitlines())
