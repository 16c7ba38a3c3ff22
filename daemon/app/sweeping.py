"""`reefd sweep`: one runbook over a recording with many values of its params and fields, side by side (floor 9)."""

from __future__ import annotations

import json
import math
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import polars as pl

from daemon.app.execution import PLAIN_US_A_ROW, Choice, Execution
from daemon.app.pool import Pool, progress_bar
from daemon.app.replaying import house_limits, recorded_course, require_history
from daemon.engine.limits import HouseLimits
from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.journal.recording import Recording
from daemon.runbook.load import load_documents, load_paths, runbook_files, there
from daemon.runbook.model import Runbook
from daemon.runbook.override import Variants
from daemon.simulation.account import AccountSpec
from daemon.simulation.account_file import load_account
from daemon.simulation.findings import Findings
from daemon.simulation.grid import Axis, Cell, draws, grid, parse_axis
from daemon.simulation.replay import Course, Played
from daemon.simulation.selection import Objective, Study
from daemon.simulation.sweep import Ground, Tally, longest_window_ns, split
from daemon.units import show_duration
from daemon.world.entities import Kind

ROWS_FED = 65_536  # measured: one runbook gains a third over what suits many
CELL_S, COMPILED_US_A_ROW = 0.015, 0.15  # what a cell costs beside its rows, and a row of one compiled runbook; both measured
ALONE_S_MAX = 3.0  # of work that is not worth starting processes for
BATCH_MAX = 50  # cells that a worker takes at once
BATCHES_A_WORKER = 8  # few enough to amortise a call, many enough that no worker waits for the last one
WINDOW_SHARE_NOTED = 0.1  # of a part that windows take to fill
NEUTRAL_COLLATERAL_USD = 100_000.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker must know: small, and the same for every batch, so that a process prepares it once."""

    recording: str
    runbook: tuple[str, str]  # path, text
    others: tuple[tuple[str, str], ...]
    account: str | None
    limits: str | None
    paths: tuple[str, ...]  # of the axes
    parts: int
    engine: Choice
    cells: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """A job made ready in one process: the history in memory, WITHOUT played on each part, the runbook composed."""

    grounds: tuple[Ground, ...]
    variants: Variants
    others: tuple[Runbook, ...]
    house: HouseLimits
    execution: Execution


def sweep(
    runbook: Path,
    *,
    sets: Sequence[str],
    recording: Path,
    account: Path | None,
    runbooks: Path | None,
    limits: Path | None,
    draw: int | None,
    seed: int,
    workers: int | None,
    objective: Objective,
    walk_forward: int,
    json_format: bool,
    out: Path | None,
    engine: Choice = "auto",
    executor: Executor | None = None,
) -> int:
    """Play every cell and print what they came to; 0 when they were played.

    `executor` takes the place of a pool of `workers` processes of this machine. Raises RunbookError for mistakes in the runbooks or the
    values, UserError for what is missing or unreadable.
    """
    started = time.perf_counter()
    axes = _axes(sets, drawn=draw is not None)
    try:
        cells = grid(axes) if draw is None else draws(axes, draw, seed)
    except ValueError as error:
        raise UserError(f"--set: {error}") from error
    others = _others(runbook, runbooks)
    job = Job(
        recording=str(recording.resolve()), runbook=(str(runbook), _text(runbook)), others=others,
        account=None if account is None else str(account.resolve()), limits=None if limits is None else str(limits.resolve()),
        paths=tuple(axis.path for axis in axes), parts=walk_forward, engine=engine, cells=len(cells),
    )  # fmt: skip
    book = _checked(job, axes, runbooks)
    if account is None and book.scope is Kind.POSITION:
        raise UserError(f"{runbook}: its scope is position, and without --account FILE nothing is held: it would never fire")
    room = room_of(job)  # here first: what is wrong with the files is told once, and by this process
    loaded = time.perf_counter()
    count = min(workers or _workers(room, len(cells)), len(cells))
    if executor is None and count > 1:
        _kept(play_batch(job, cells[:1]))  # what is compiled, and what cannot be, is known before the workers begin
    size = max(1, min(BATCH_MAX, math.ceil(len(cells) / (count * BATCHES_A_WORKER))))
    batches = [tuple(cells[at : at + size]) for at in range(0, len(cells), size)]
    with progress_bar("sweeping", len(cells)) as progress, Pool(count, executor) as pool:
        played = pool.spread(play_batch, job, batches, progress=progress, look=_kept)
    tallies = tuple(tally for batch in played for tally in _kept(batch))
    ended = time.perf_counter()
    findings = Findings(
        study=Study(
            axes=axes, cells=cells, tallies=tallies, parts=tuple((g.course.first_at, g.course.last_at) for g in room.grounds),
            objective=objective, drawn=draw is not None, notes=tuple(_notes(job, room, book)),
        ),
        runbook=book.id, recording=recording.resolve().name, sample=room.grounds[0].course.spec.sample, neutral=account is None,
        seconds={"load": loaded - started, "cells": ended - loaded},
    )  # fmt: skip
    document = json.dumps(findings.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    sys.stdout.write((document if json_format else findings.as_text()) + "\n")
    if out is not None:
        _write(out, findings, document)
    return 0


# --- what is asked ------------------------------------------------------------------------------------------------------------


def _axes(sets: Sequence[str], *, drawn: bool) -> tuple[Axis, ...]:
    axes, wrong = [], []
    for text in sets:
        try:
            axes.append(parse_axis(text, drawn=drawn))
        except ValueError as error:
            wrong.append(str(error))
    paths = [axis.path for axis in axes]
    wrong += [f"{path} is set twice; give it all its values at once" for path in dict.fromkeys(paths) if paths.count(path) > 1]
    if wrong:
        raise UserError("--set: " + "\n  ".join(wrong))
    return tuple(axes)


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; write the file of one runbook") from error


def _others(runbook: Path, runbooks: Path | None) -> tuple[tuple[str, str], ...]:
    """The runbooks that run beside the one that is swept."""
    if runbooks is None:
        return ()
    files, wrong = runbook_files(there(runbooks))
    if wrong:
        raise RunbookError(wrong)
    return tuple((str(path), _text(path)) for path in files if path.resolve() != runbook.resolve())


def _checked(job: Job, axes: Sequence[Axis], runbooks: Path | None) -> Runbook:
    """The runbook as written, once the whole set and every value by itself have been found right."""
    path, text = job.runbook
    loaded = load_paths([Path(path)]) if runbooks is None else load_documents({path: text, **dict(job.others)})
    if loaded.errors:
        raise RunbookError(loaded.errors)
    variants = Variants(text, path)
    wrong: dict[tuple[int, int, str, str], Diagnostic] = {}
    for axis in axes:
        for value in axis.values:
            for error in variants.load({axis.path: value}, acceptance=False).errors:
                wrong.setdefault((error.line, error.column, error.code, error.message), error)
    if wrong:
        raise RunbookError([wrong[key] for key in sorted(wrong)])
    return next(book for book in loaded.runbooks if book.path == path)


def _neutral(recording: Path) -> AccountSpec:
    """An account that holds nothing, at the first venue of the recording."""
    markets = Recording.open(recording).entities.get(Kind.MARKET, ())
    return AccountSpec(venue=min((market.partition(":")[0] for market in markets), default="none"), collateral_usd=NEUTRAL_COLLATERAL_USD)


def _workers(room: Room, cells: int) -> int:
    """One a core, or this process alone where starting others would take longer than the cells."""
    us_a_row = COMPILED_US_A_ROW if room.execution.name == "compiled" else PLAIN_US_A_ROW
    rows = sum(ground.course.rows for ground in room.grounds)
    return 1 if cells * (CELL_S + rows * us_a_row / 1e6) < ALONE_S_MAX else os.cpu_count() or 1


# --- one process --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def room_of(job: Job) -> Room:
    """The job made ready, once a process. Raises UserError for what is missing, RunbookError for mistakes in its files."""
    folder = Path(job.recording)
    spec = _neutral(folder) if job.account is None else load_account(Path(job.account))
    recorded, _ = recorded_course(folder, spec, keep_series=False)
    if job.account is not None:
        require_history(recorded, folder, Path(job.account))
    source = Recording.open(folder)
    blocks = tuple(source.table(kind) for kind in source.kinds if source.row_counts[kind])
    course = replace(recorded, history=None, blocks=blocks, rows_fed=ROWS_FED)
    try:
        parts = split(course, job.parts)
    except ValueError as error:
        raise UserError(f"--walk-forward {job.parts}: {error}") from error
    others = load_documents(dict(job.others)).runbooks if job.others else ()
    execution = Execution(job.engine, rows=course.rows * job.cells, runbooks=1 + len(others))
    return Room(
        grounds=tuple(Ground.of(part, execution.play_without(part)) for part in parts),
        variants=Variants(job.runbook[1], job.runbook[0]),
        others=others,
        house=HouseLimits() if job.limits is None else house_limits(Path(job.limits)),
        execution=execution,
    )


def play_cell(course: Course, runbooks: Sequence[Runbook], *, execution: Execution, house: HouseLimits) -> Played:
    """One cell on one part, through a fresh engine: the one place where a sweep plays."""
    return execution.play(course, runbooks=runbooks, house=house)


def play_batch(
    job: Job, cells: tuple[Cell, ...]
) -> tuple[tuple[tuple[Tally, ...], ...], tuple[Diagnostic, ...]]:
    """What each cell came to on each part; where a cell's values go wrong together, the mistakes instead."""
    room = room_of(job)
    found = []
    for cell in cells:
        loaded = room.variants.load(dict(zip(job.paths, cell, strict=True)), acceptance=False)
        if loaded.errors:
            return (), loaded.errors
        books = (*loaded.runbooks, *room.others)
        found.append(
            tuple(ground.tally(play_cell(ground.course, books, execution=room.execution, house=room.house)) for ground in room.grounds)
        )
    return tuple(found), ()


def _kept(batch: tuple[tuple[tuple[Tally, ...], ...], tuple[Diagnostic, ...]]) -> tuple[tuple[Tally, ...], ...]:
    if batch[1]:
        raise RunbookError(batch[1])
    return batch[0]


# --- what is told -------------------------------------------------------------------------------------------------------------


def _notes(job: Job, room: Room, book: Runbook) -> Iterator[str]:
    longest = longest_window_ns((book, *room.others))
    shortest = min(ground.course.last_at - ground.course.first_at for ground in room.grounds)
    if longest > WINDOW_SHARE_NOTED * shortest:
        each = "a part" if job.parts > 1 else "the history"
        yield (
            f"windows of up to {show_duration(longest / 1e9)} are UNKNOWN until they are full, and {each} of"
            f" {show_duration(shortest / 1e9)} begins with empty ones"
        )
    if book.stage != "armed":
        does = "is not in force: it never fires" if book.stage == "disabled" else "writes nothing: only what fired says anything"
        yield f"stage {book.stage}: the runbook {does}; set stage=armed to see it act"
    if room.execution.note:
        yield room.execution.note
    if job.limits is None:
        yield "house limits were not applied (--limits FILE applies them)"


def _write(out: Path, findings: Findings, document: str) -> None:
    """The findings as JSON and as a page, and every cell as a row of a Parquet file."""
    study = findings.study
    rows: list[dict[str, object]] = []
    for rank, cell in enumerate(study.order):
        values = {axis.path: value for axis, value in zip(study.axes, study.cells[cell], strict=True)}
        later = {f"later_{name}": figure for name, figure in study.tallies[cell][-1].as_json().items()} if len(study.parts) > 1 else {}
        rows.append({"rank": rank + 1, **values, **study.chosen_on[cell].as_json(), **later})
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "sweep.json").write_text(document + "\n", encoding="utf-8")
        (out / "sweep.html").write_text(findings.as_page(), encoding="utf-8")
        pl.DataFrame(rows).write_parquet(out / "cells.parquet")
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error
