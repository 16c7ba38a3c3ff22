"""`reefd replay`: runbooks over a recording with a simulated account, WITH beside WITHOUT (floor 9)."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.app.execution import Choice, Execution
from daemon.app.report_files import as_document, as_text, write_report
from daemon.engine.actions import ShrinkPosition
from daemon.engine.limits import HouseLimits, parse_house_limits
from daemon.errors import RunbookError, UserError
from daemon.journal.recording import Block, Recording
from daemon.runbook.document import compose
from daemon.runbook.load import load_paths, there
from daemon.runbook.model import Runbook
from daemon.runbook.nodes import MapNode, ScalarNode, YamlNode
from daemon.simulation.acceptance import Verdict, judge
from daemon.simulation.account import AccountSpec, SimulatedAccount
from daemon.simulation.account_file import load_account
from daemon.simulation.episode import Episode
from daemon.simulation.outturn import outturn
from daemon.simulation.replay import Course
from daemon.simulation.report import Report
from daemon.simulation.retrace import RUNS_LEFT_OUT_MAX, Contributions, Restored, leave_one_out, restore_on_clear, runs_that_acted
from daemon.simulation.spans import Spans
from daemon.units import NS, show, show_duration
from daemon.world.entities import Kind, Venue

MARKETS_SHOWN = 12  # of a venue, in an error
LEAVE_ONE_OUT_S = 30.0  # what `auto` spends on passes without one run, by the time that one pass without decisions took


class _Timed:
    """A recording that knows how long it was read: a pass reads as it goes, and reading counts as loading."""

    def __init__(self, recording: Recording) -> None:
        self.seconds = 0.0
        self.row_count, self.first_at, self.last_at = recording.row_count, recording.first_at, recording.last_at
        self.signals, self.entities = recording.signals, recording.entities
        self._recording = recording

    def slices(self, signals: Mapping[Kind, Collection[str]] | None = None) -> Iterator[tuple[Block, ...]]:
        found = self._recording.slices(signals)
        while True:
            started = time.perf_counter()
            blocks = next(found, None)
            self.seconds += time.perf_counter() - started
            if blocks is None:
                return
            yield blocks


def replay(
    recording: Path,
    *,
    runbooks: Sequence[Path] | Path,
    account: Path,
    json_format: bool,
    out: Path | None,
    limits: Path | None,
    engine: Choice = "auto",
    leave_one_out: str = "auto",
) -> int:
    """Replay a recording and print the report; 0 replayed, 1 when a `replay:` acceptance of a runbook is not met.

    `leave_one_out` is auto, on or off: whether each run that acted is left out once to see what it contributed.
    Raises RunbookError for mistakes in the runbooks or the account, UserError for what is missing or unreadable.
    """
    started = time.perf_counter()
    if out is not None:
        _require_folder(out)
    books = _runbooks([runbooks] if isinstance(runbooks, Path) else list(runbooks))
    spec = load_account(account)
    house = HouseLimits() if limits is None else house_limits(limits)
    course, read = recorded_course(recording, spec, keep_series=out is not None)
    require_history(course, recording, account)
    survey = course.survey
    loaded = time.perf_counter()
    execution = Execution(engine, rows=course.rows, runbooks=len(books))
    compiled, read_before, compiling_before = time.perf_counter(), read.seconds, execution.seconds
    with _progress(course.rows) as progress:
        played = execution.play(course, runbooks=books, house=house, progress=progress)
    replayed, read_with = time.perf_counter(), read.seconds - read_before
    compiling = execution.seconds - compiling_before
    alone = execution.play_without(course)
    done, read_without = time.perf_counter(), read.seconds - read_before - read_with
    episodes = played.log.episodes()
    restored = _restored(course, played.account, episodes, execution.spans)
    one_pass = time.perf_counter() - done if restored is not None else done - replayed
    contributions, said = _contributions(course, played.account, leave_one_out, one_pass, execution.spans)
    ended = time.perf_counter()
    report = Report(
        rows=course.rows,
        first_at=course.first_at,
        last_at=course.last_at,
        seconds={
            "load": loaded - started + read_with + read_without,
            "compile": compiled - loaded + compiling,
            "replay": replayed - compiled - read_with - compiling,
            "without": done - replayed - read_without,
            "counterfactuals": ended - done,
        },
        episodes=episodes,
        having=outturn(played.account),
        lacking=outturn(alone),
        extremes=survey.has_extremes,
        sample=spec.sample,
        costs=_costs(spec),
        notes=(*_notes(course, limits, execution), *said),
        recording=recording.resolve().name,
        runbooks=tuple(sorted({book.id for book in books})),
        contributions=contributions,
        restored=restored,
    )
    verdicts = judge(books, recording.resolve().name, report)
    _print(report, verdicts, json_format=json_format)
    if out is not None:
        write_report(out, report, verdicts, having=played.account, lacking=alone)
    return int(any(not verdict.met for verdict in verdicts))


def _contributions(
    course: Course, played: SimulatedAccount, choice: str, pass_s: float, spans: Spans | None
) -> tuple[Contributions | None, tuple[str, ...]]:
    """What each run contributed, and what to note; None where nobody computed it."""
    acted = len(runs_that_acted(played.deeds))
    passes = min(acted, RUNS_LEFT_OUT_MAX)
    if choice == "off":
        return None, ("no run was left out (--leave-one-out off)",)
    if choice == "auto" and passes * pass_s > LEAVE_ONE_OUT_S:
        takes = show_duration(round(passes * pass_s))
        return None, (f"no run was left out: {passes} passes would take about {takes} (--leave-one-out on does it all the same)",)
    with _progress(passes, "leaving runs out") as progress:
        found = leave_one_out(course, played, spans=spans, tell=progress)
    return found, (found.note,) if found.note else ()


def _restored(course: Course, played: SimulatedAccount, episodes: Sequence[Episode], spans: Spans | None) -> Restored | None:
    """The pass in which the owner restores by hand; None where nothing was shrunk, which would be the pass WITH again."""
    if not any(isinstance(deed.order, ShrinkPosition) for deed in played.deeds):
        return None
    cleared = {episode.id: episode.cleared_at for episode in episodes if episode.ending == "cleared" and episode.cleared_at is not None}
    return restore_on_clear(course, played, cleared, spans=spans)


def _require_folder(out: Path) -> None:
    """Makes the folder of the report, before a replay that may take minutes; raises UserError where it cannot be written."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {(error.strerror or str(error)).lower()}; --out names a folder") from error
    if not os.access(out, os.W_OK | os.X_OK):
        raise UserError(f"{out}: cannot be written; --out names a folder of yours")


def _runbooks(paths: Sequence[Path]) -> tuple[Runbook, ...]:
    found = load_paths(there(*paths))
    if found.errors:
        raise RunbookError(found.errors)
    return found.runbooks


def recorded_course(folder: Path, spec: AccountSpec, *, keep_series: bool) -> tuple[Course, _Timed]:
    """The course over a recording, and the recording with its reading time. Raises UserError where there is none or it holds no row."""
    recording = Recording.open(folder)
    intervals = recording.intervals
    names = {entity.partition(":")[0] for kind in (Kind.MARKET, Kind.VENUE) for entity in recording.entities.get(kind, ())}
    venues = {
        name: Venue(
            id=name, valued_at=spec.valued_at, funding_interval_ns=intervals.get(name, 3600 * NS)
        )
        for name in sorted(names)
    }
    if not recording.row_count:
        raise UserError(f"{folder}: the recording holds no row; import some history first")
    timed = _Timed(recording)
    course = Course(
        history=timed, spec=spec, topology=spec.topology(venues), holds=recording.holds_by_venue, intervals=intervals,
        keep_series=keep_series,
    )  # fmt: skip
    return course, timed


def require_history(course: Course, recording: Path, account: Path) -> None:
    """Raises UserError for positions at a venue that the recording has no row of: the report would be all zero."""
    spec = course.spec
    venues = sorted(course.topology.venues.keys() & {entity.partition(":")[0] for ids in course.entities.values() for entity in ids})
    if spec.positions and spec.venue not in venues:
        there = f"it has {', '.join(venues)}: write one of them" if venues else "it has no market at all; import some history first"
        raise UserError(f"{account}: venue '{spec.venue}' has no row in the recording {recording}; {there}")


def _unpriced(course: Course) -> Iterator[str]:
    """What to know of markets that are held and never valued."""
    spec = course.spec
    recorded = course.entities.get(Kind.MARKET, ())
    lacking = [market.partition(":")[2] for market in course.survey.unpriced]
    if lacking:
        own = sorted(entity.partition(":")[2] for entity in recorded if entity.partition(":")[0] == spec.venue)
        shown = ", ".join(own[:MARKETS_SHOWN]) + (", ..." if len(own) > MARKETS_SHOWN else "")
        held = f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} held and never valued: the recording has no price of"
        each = "it" if len(lacking) == 1 else "them"
        yield f"{held} {each} ({', '.join(spec.valued_at)}); margin is UNKNOWN and profit 0; of {spec.venue} it has {shown}"


def house_limits(path: Path) -> HouseLimits:
    """The house limits of a file. Raises UserError where it cannot be read, RunbookError for its mistakes."""
    try:
        document = compose(path.read_bytes(), str(path))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; --limits names a file of house limits") from error
    if document.problems:
        raise RunbookError(document.problems)
    plain = _plain(document.root) if document.root is not None else {}
    if not isinstance(plain, dict):
        raise UserError(f"{path}: house limits are a mapping; write account: {{turnover_per_hour: 100_000 USD}}")
    return parse_house_limits(plain, str(path))


def _plain(node: YamlNode) -> object:
    match node:
        case ScalarNode():
            return node.text
        case MapNode():
            return {key.text: _plain(value) for key, value in node.entries}
        case _:
            return [_plain(item) for item in node.items]


def _costs(spec: AccountSpec) -> str:
    parts = [
        f"taker fee {show(spec.taker_fee, 'ratio')}",
        f"slippage {show(spec.slippage, 'ratio')} where no book is known",
        f"liquidation fee {show(spec.liquidation_fee, 'ratio')}",
    ]
    return ", ".join(parts) + "; funding at the first settlement within 5 m of its boundary"


def _notes(course: Course, limits: Path | None, execution: Execution) -> Iterator[str]:
    yield from _unpriced(course)
    for market, spacing in course.survey.coarse.items():
        typical = show_duration(spacing / NS)
        yield f"fills of {market} use the price known when the order was sent: its prices are {typical} apart (median), more than a minute"
    for position in course.spec.positions:
        rules = course.spec.markets.get(position.market)
        if position.size and (rules is None or rules.maintenance_margin is None):
            yield f"no margin is given for {position.market}: no margin ratio, and no liquidation; write it under markets:"
    if execution.note:
        yield execution.note
    if limits is None:
        yield "house limits were not applied (--limits FILE applies them)"


def _print(report: Report, verdicts: Sequence[Verdict], *, json_format: bool) -> None:
    sys.stdout.write((as_document(report, verdicts) if json_format else as_text(report, verdicts)) + "\n")


@contextmanager
def _progress(total: int, doing: str = "replaying") -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(TextColumn(doing), BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("rows", total=total)
        yield lambda rows: bar.advance(task, rows)
