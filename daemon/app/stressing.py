"""`reefd stress`: a book through thousands of futures of a world, with its runbooks and without (floor 9)."""

from __future__ import annotations

import glob
import json
import os
import sys
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

from daemon.app.execution import Choice, compiler
from daemon.app.live_book import LIVE, live_desk
from daemon.app.past import Past, past_of
from daemon.app.pool import Pool, progress_bar
from daemon.app.replaying import house_limits
from daemon.app.stress_files import write_report
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError, UserError
from daemon.runbook.load import load_documents, runbook_files, there
from daemon.runbook.model import Runbook
from daemon.simulation.book import Book, parse_book
from daemon.simulation.book_text import book_text
from daemon.simulation.stress.aim import aim, survival_of
from daemon.simulation.stress.estimates import worth_weighting
from daemon.simulation.stress.fan import Act, DrawnPath, Fan
from daemon.simulation.stress.figures import Json, Subject, figures
from daemon.simulation.stress.futures import WorldFutures
from daemon.simulation.stress.grounds import grounds
from daemon.simulation.stress.ledger import Ledger
from daemon.simulation.stress.path import Grid
from daemon.simulation.stress.report import StressReport, pairs_of
from daemon.simulation.stress.stage import Played, Stage
from daemon.simulation.stress.tally import Tally
from daemon.simulation.stress.worldfile import WorldSpec, parse_world
from daemon.units import FOREVER, HOUR_NS, MINUTE_NS, parse_duration, parse_iso

RUNBOOKS = Path("runbooks")
START = "2026-01-05T00:00:00Z"  # a Monday; nothing depends on it but hours of funding
HORIZON_NS_MAX = 92 * 24 * HOUR_NS
BATCH = 50  # paths that a worker takes at once
PILOT_PATHS, PILOT_LEAST = 200, 50  # by which it is judged whether liquidations are rare; fewer say nothing
RARE_BELOW = 0.01  # of the pilot's paths liquidated: below it the rare ones are looked for
DRAWN_MAX = 20
COMPILED_FROM = 20  # paths below which a compiler does not pay


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """All that a worker must know; texts, so that the machines of a cluster need no files."""

    book: tuple[str, str]  # path, text
    world: tuple[str, str]
    runbooks: tuple[tuple[str, str], ...]
    house: HouseLimits
    steps: int
    start: int
    seed: int
    compiled: bool
    dependence: bool = True
    left_out: str = ""
    past: Past | None = None  # what prices are drawn from, in the place of the world's own law
    aimed: bool = False  # rare liquidations are looked for by importance sampling

    @property
    def horizon_ns(self) -> int:
        """From the start to the last row."""
        return self.steps * MINUTE_NS


@dataclass(slots=True, kw_only=True)
class Batch:
    """What a worker brings back."""

    tally: Tally
    fan: Fan
    note: str = ""


# --- one process --------------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=2)
def stage_of(job: Job) -> Stage:
    """The job made ready, once a process."""
    book, world = book_of(job), world_of(job)
    tilt = aim(world, book, horizon_ns=job.horizon_ns, start=job.start) if job.aimed else None
    grid = Grid(start=job.start, steps=job.steps)
    futures = WorldFutures(
        world, book, grid=grid, seed=job.seed, tilt=tilt, dependence=job.dependence,
        past=job.past.residuals if job.past else None,
    )  # fmt: skip
    return Stage(
        book, runbooks=runbooks_of(job), house=job.house, source=futures,
        compiler=compiler() if job.compiled else None,
    )  # fmt: skip


def book_of(job: Job) -> Book:
    """The book. Raises RunbookError with every mistake."""
    return parse_book(job.book[1], job.book[0])


def world_of(job: Job) -> WorldSpec:
    """The world, drawing from the job's past where it has one. Raises RunbookError with every mistake."""
    world = parse_world(job.world[1], job.world[0])
    return world if job.past is None else job.past.drawn_by(world)


def with_past(job: Job, folder: Path | None = None, venue: str | None = None) -> Job:
    """The job with the past of a recording: of `folder`, else of the world's own file where it draws from one. Raises UserError."""
    world = world_of(job)
    if folder is None and world.model == "history" and world.history is not None and world.history.recording:
        folder = Path(world.history.recording)
    return job if folder is None else replace(job, past=past_of(folder, book_of(job), world, venue=venue))


def runbooks_of(job: Job) -> tuple[Runbook, ...]:
    """The runbooks in force, without the one left out. Raises RunbookError with every mistake."""
    loaded = load_documents(dict(job.runbooks))
    if loaded.errors:
        raise RunbookError(loaded.errors)
    return tuple(book for book in loaded.runbooks if book.id != job.left_out)


def play_batch(job: Job, numbers: tuple[int, ...]) -> Batch:
    """Some paths."""
    stage = stage_of(job)
    hours = job.horizon_ns // HOUR_NS
    tally, fan = Tally(), Fan(hours)
    ends = job.start + HOUR_NS * np.arange(1, hours + 1, dtype=np.int64)
    for number in numbers:
        played = stage.open(number)
        tally.add(played.end)
        rows = np.searchsorted(played.path.at, ends, side="right") - 1
        without = _until(played.without[rows], played.end.without.liquidated_at, ends - job.start)
        having = _until(played.having[rows], played.end.having.liquidated_at, ends - job.start)
        fan.add(without, having, float(np.exp(played.end.weight_log)))
    return Batch(tally=tally, fan=fan, note=stage.note)


def _until(ratio: npt.NDArray[np.float64], liquidated_at: int, ends: npt.NDArray[np.int64]) -> npt.NDArray[np.float64]:
    return np.where(ends >= liquidated_at, np.inf, ratio)


# --- the whole ----------------------------------------------------------------------------------------------------------------


def stress(
    *,
    book: str,
    worlds: Sequence[str],
    runbooks: Path | None,
    nobody: bool = False,
    limits: Path | None,
    paths: int,
    horizon: str,
    seed: int,
    workers: int | None,
    rare: bool,
    dependence: bool,
    leave_one_out: bool,
    json_format: bool,
    out: Path | None,
    config: Path,
    engine: Choice = "auto",
    executor: Executor | None = None,
    history: Path | None = None,
    history_venue: str | None = None,
) -> int:
    """Stress a book and print what comes of it; 0 when it was played.

    Several worlds make one document each, by name. `runbooks` None: the folder `runbooks`, of a live book those in force with their house
    limits; `nobody` acts at all. `history`: a recording that prices and funding are drawn from, of `history_venue` where one is named.
    `executor` takes the place of a pool of this machine. Raises RunbookError for mistakes in the files, UserError for what is missing or
    cannot be read.
    """
    if out is not None:
        _writable(out)
    if paths < 1:
        raise UserError(f"--paths {paths}: write at least 1")
    try:
        horizon_ns = parse_duration(horizon)
    except ValueError as error:
        raise UserError(f"--horizon: {error}") from error
    if not HOUR_NS <= horizon_ns <= HORIZON_NS_MAX or horizon_ns % HOUR_NS:
        raise UserError("--horizon: write whole hours, from 1h to 92d")
    cast = cast_of(book, runbooks, nobody=nobody, limits=limits, config=config)
    documents: dict[str, Json] = {}
    texts = []
    names = _worlds(worlds)
    for world in names:
        job = Job(
            book=cast.book, world=(world, read_text(world, "--world names a file like config/worlds/calm.yaml")), runbooks=cast.runbooks,
            house=cast.house, steps=horizon_ns // MINUTE_NS, start=cast.start,
            seed=seed, compiled=engine == "compiled" or (engine == "auto" and paths >= COMPILED_FROM), dependence=dependence,
        )  # fmt: skip
        job = with_past(job, history, history_venue)
        report, tally = stressed(
            job, paths=paths, workers=workers, rare=rare, leave_one_out=leave_one_out, executor=executor, draw=out is not None
        )
        name = world_of(job).world
        documents[name] = report.figures
        texts.append(report.as_text())
        if out is not None:
            write_report(out if len(names) == 1 else out / name, report, tally)
    document = next(iter(documents.values())) if len(documents) == 1 else {"worlds": documents}
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) if json_format else "\n\n".join(texts)
    sys.stdout.write(text + "\n")
    return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cast:
    """Who is played, whatever the world."""

    book: tuple[str, str]
    runbooks: tuple[tuple[str, str], ...]
    house: HouseLimits
    start: int


def cast_of(book: str, runbooks: Path | None, *, nobody: bool, limits: Path | None, config: Path) -> Cast:
    """A book's file with the runbooks of a folder, or what the daemon of `config` holds with what is in force there. Raises UserError."""
    house = HouseLimits() if limits is None else house_limits(limits)
    if book != LIVE:
        text = read_text(book, "--book names a file like config/books/example.yaml, or is `live`")
        acting = () if nobody else _runbooks(runbooks or RUNBOOKS)
        return Cast(book=(book, text), runbooks=acting, house=house, start=parse_iso(START))
    desk = live_desk(config)
    acting = () if nobody else desk.runbooks if runbooks is None else _runbooks(runbooks)
    return Cast(
        book=(LIVE, book_text(desk.book)), runbooks=acting, house=desk.house if limits is None else house,
        start=desk.at // MINUTE_NS * MINUTE_NS,
    )  # fmt: skip


def stressed(
    job: Job,
    *,
    paths: int,
    workers: int | None = None,
    rare: bool = True,
    leave_one_out: bool = True,
    executor: Executor | None = None,
    draw: bool = False,
) -> tuple[StressReport, Tally]:
    """Every path of a job, and what they come to; the same whatever the number of workers."""
    began = time.perf_counter()
    book, books = book_of(job), runbooks_of(job)
    world = world_of(job)
    stage = stage_of(job)  # here first: what is wrong with the files is told once, and by this process
    opened = time.perf_counter()
    count = max(1, min(workers or _workers(paths), -(-paths // BATCH)))
    notes = list(_warnings(book, stage))
    if not job.dependence:
        notes.append("dependence off: every coin and driver was drawn by itself, whatever the world says of correlation")
    if rare:
        job, note = _aimed(job, stage, paths)
        notes += [note] if note else []
    with progress_bar("stressing", paths) as progress, Pool(count, executor) as pool:
        batches = pool.spread(play_batch, job, _batches(range(paths)), progress=progress)
        tally = Tally.merged([batch.tally for batch in batches])
        if job.aimed and not worth_weighting(tally.weights):
            job = replace(job, aimed=False)
            notes.append("the paths that were pushed weigh too little, so all were drawn plainly")
            batches = pool.spread(play_batch, job, _batches(range(paths)))
            tally = Tally.merged([batch.tally for batch in batches])
        played = time.perf_counter()
        left = _left_out(job, books, tally, pool) if leave_one_out else {}
    fan = Fan(job.horizon_ns // HOUR_NS)
    for batch in batches:
        fan.merge(batch.fan)
    notes += list(dict.fromkeys(batch.note for batch in batches if batch.note))
    ended = time.perf_counter()
    subject = Subject(
        book=book, horizon_ns=job.horizon_ns, seed=job.seed, equity_usd=_equity(book, stage), world=world.world,
        runbooks=tuple(one.id for one in books),
    )  # fmt: skip
    seconds = {"open": opened - began, "paths": played - opened, "leave_one_out": ended - played, "workers": count}
    document = figures(tally, subject, left_out=left, seconds=seconds)
    document["dependence"] = "on" if job.dependence else "off"
    document["back_test"] = job.past.as_json() if job.past else None
    notes = [*(job.past.told if job.past else ()), *notes]
    drawn = tuple(_drawn(stage_of(job), number, why) for number, why in _worst(tally)) if draw else ()
    report = StressReport(
        figures=document, rests_on=grounds(world), back_test=job.past.back_test() if job.past else (), fan=fan, drawn=drawn,
        pairs=pairs_of(tally, subject.harm_above_usd),
        survival=survival_of(world, book, horizon_ns=job.horizon_ns, start=job.start), notes=tuple(notes),
    )  # fmt: skip
    return report, tally


def _batches(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    return [tuple(numbers[at : at + BATCH]) for at in range(0, len(numbers), BATCH)]


def _workers(paths: int) -> int:
    return 1 if paths < 4 * BATCH else os.cpu_count() or 1


def _warnings(book: Book, stage: Stage) -> Iterator[str]:
    """Accounts that begin where the venue liquidates them. Raises UserError for one that has nothing to lose."""
    ledger = Ledger(book, stage.source.opening(), start=stage.start, costs=stage.costs, index=stage.index)
    for name, account in ledger.accounts.items():
        equity, maintenance = account.equity(), account.maintenance()
        if maintenance > 0.0 and equity <= 0.0:
            raise UserError(f"book {book.name}: account {name} starts with an equity of {equity:,.0f} USD: there is nothing left to stress")
        if maintenance > equity:
            yield f"account {name} starts below its maintenance margin ({equity:,.0f} of {maintenance:,.0f} USD): it is liquidated at once"


def _equity(book: Book, stage: Stage) -> float:
    ledger = Ledger(book, stage.source.opening(), start=stage.start, costs=stage.costs, index=stage.index)
    return sum(account.equity() for account in ledger.accounts.values())


def _aimed(job: Job, stage: Stage, paths: int) -> tuple[Job, str]:
    """The job with a tilt where liquidations are rare among its first paths."""
    pilot = min(PILOT_PATHS, paths)
    bare = stage if not stage.runbooks else stage_of(replace(job, runbooks=()))
    hits = sum(bare.play(number).without.liquidated_at < FOREVER for number in range(pilot))
    if hits >= RARE_BELOW * pilot or pilot < PILOT_LEAST:
        return job, ""
    if job.past is not None:
        return job, "futures drawn from a past are not pushed: rare liquidations were sampled plainly"
    if aim(world_of(job), bare.book, horizon_ns=job.horizon_ns, start=job.start) is None:
        return job, "no move of these markets liquidates the book, so rare paths were not looked for"
    return replace(job, aimed=True), ""


def _left_out(job: Job, books: Sequence[Runbook], tally: Tally, pool: Pool) -> dict[str, Tally]:
    """By runbook: the paths on which it ran, played without it."""
    found: dict[str, Tally] = {}
    if len(books) < 2:
        return found
    for runbook, runs in tally.runs.items():
        numbers = tally.numbers[runs > 0].tolist()
        if numbers:
            batches = pool.spread(play_batch, replace(job, left_out=runbook), _batches(numbers))
            found[runbook] = Tally.merged([batch.tally for batch in batches])
    return found


def _worst(tally: Tally) -> list[tuple[int, str]]:
    """The paths worth a look: the worst losses, and the worst harm."""
    having, without = tally.having.pnl_usd, tally.without.pnl_usd
    worst = np.argsort(having, kind="stable")[: DRAWN_MAX - 1]
    found = [(int(tally.numbers[i]), "worst loss") for i in worst]
    harm = int(np.argmin(having - without))
    if having[harm] < without[harm] and int(tally.numbers[harm]) not in {number for number, _ in found}:
        found.append((int(tally.numbers[harm]), "worst only with the runbooks"))
    return found


def _drawn(stage: Stage, number: int, why: str) -> DrawnPath:
    played = stage.open(number)
    keep = _thinned(played)
    start, end = stage.start, played.end
    at = played.path.at[keep] - start
    return DrawnPath(
        number=number, at=at, without=_until(played.without[keep], end.without.liquidated_at, at),
        having=_until(played.having[keep], end.having.liquidated_at, at),
        acts=tuple(Act(at=act.at - start, text=f"{act.kind} {act.subject}: {act.text}") for act in played.acts),
        pnl_without_usd=end.without.pnl_usd, pnl_with_usd=end.having.pnl_usd, why=why,
    )  # fmt: skip


def _thinned(played: Played) -> npt.NDArray[np.intp]:
    """About 500 rows of a path, its worst ones among them."""
    rows = len(played.path.at)
    step = max(1, rows // 400)
    keep = set(range(0, rows, step)) | {rows - 1}
    keep |= {int(i) for i in np.argsort(-played.without)[:50]} | {int(i) for i in np.argsort(-played.having)[:50]}
    return np.array(sorted(keep), np.intp)


# --- files --------------------------------------------------------------------------------------------------------------------


def _worlds(names: Sequence[str]) -> list[str]:
    found: list[str] = []
    for name in names:
        if glob.has_magic(name):
            matched = sorted(glob.glob(name))
            if not matched:
                raise UserError(f"--world {name}: no file matches; write config/worlds/calm.yaml")
            found += matched
        else:
            found.append(name)
    return list(dict.fromkeys(found))


def read_text(name: str, flag: str) -> str:
    """The text of a file. Raises UserError, which ends in `flag`."""
    try:
        return Path(name).read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{name}: not UTF-8; save the file as UTF-8") from error
    except OSError as error:
        raise UserError(f"{name}: {(error.strerror or str(error)).lower()}; {flag}") from error


def _runbooks(folder: Path) -> tuple[tuple[str, str], ...]:
    files, wrong = runbook_files(there(folder))
    if wrong:
        raise RunbookError(wrong)
    return tuple((str(path), read_text(str(path), "--runbooks names files or folders")) for path in files)


def _writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".reefd"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error
