"""`reefd replay`: runbooks over a recording with a simulated account, WITH beside WITHOUT (floor 9)."""

from __future__ import annotations

import csv
import json
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.app.execution import Choice, Execution
from daemon.engine.limits import HouseLimits, parse_house_limits
from daemon.errors import RunbookError, UserError
from daemon.journal.recording import Block, Recording
from daemon.runbook.document import compose
from daemon.runbook.load import load_paths
from daemon.runbook.model import Runbook
from daemon.runbook.nodes import MapNode, ScalarNode, YamlNode
from daemon.simulation.acceptance import Verdict, judge
from daemon.simulation.account import AccountSpec, SimulatedAccount
from daemon.simulation.account_file import load_account
from daemon.simulation.replay import Course
from daemon.simulation.report import Report, outturn
from daemon.units import NS, show, show_duration
from daemon.world.entities import Kind, Venue

MARKETS_SHOWN = 12  # of a venue, in an error


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
) -> int:
    """Replay a recording and print the report; 0 replayed, 1 when a `replay:` acceptance of a runbook is not met.

    Raises RunbookError for mistakes in the runbooks or the account, UserError for what is missing or unreadable.
    """
    started = time.perf_counter()
    books = _runbooks([runbooks] if isinstance(runbooks, Path) else list(runbooks))
    spec = load_account(account)
    house = HouseLimits() if limits is None else _house(limits)
    course, read = _course(recording, spec, keep_series=out is not None)
    _require_history(course, recording, account)
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
    report = Report(
        rows=course.rows,
        first_at=course.first_at,
        last_at=course.last_at,
        seconds={
            "load": loaded - started + read_with + read_without,
            "compile": compiled - loaded + compiling,
            "replay": replayed - compiled - read_with - compiling,
            "without": done - replayed - read_without,
        },
        episodes=played.log.episodes(),
        having=outturn(played.account),
        lacking=outturn(alone),
        extremes=survey.has_extremes,
        sample=spec.sample,
        costs=_costs(spec),
        notes=tuple(_notes(course, limits, execution)),
    )
    verdicts = judge(books, recording.resolve().name, report)
    _print(report, verdicts, json_format=json_format)
    if out is not None:
        _write(out, report, verdicts, {"with": played.account, "without": alone})
    return int(any(not verdict.met for verdict in verdicts))


def _runbooks(paths: Sequence[Path]) -> tuple[Runbook, ...]:
    found = load_paths(paths)
    if found.errors:
        raise RunbookError(found.errors)
    return found.runbooks


def _course(folder: Path, spec: AccountSpec, *, keep_series: bool) -> tuple[Course, _Timed]:
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


def _require_history(course: Course, recording: Path, account: Path) -> None:
    """Refuses positions at a venue that the recording has no row of: the report would be all zero."""
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


def _house(path: Path) -> HouseLimits:
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
    if json_format:
        sys.stdout.write(_document(report, verdicts) + "\n")
        return
    sys.stdout.write(report.as_text() + "\n")
    for verdict in verdicts:
        sys.stdout.write(f"{verdict.line()}\n")


def _document(report: Report, verdicts: Sequence[Verdict]) -> str:
    document = report.as_json()
    if verdicts:
        document["acceptance"] = [verdict.as_json() for verdict in verdicts]
    return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)


def _write(out: Path, report: Report, verdicts: Sequence[Verdict], accounts: dict[str, SimulatedAccount]) -> None:
    """The report as JSON and text, and each pass's equity and margin ratio of every batch as CSV."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / "report.json").write_text(_document(report, verdicts) + "\n", encoding="utf-8")
        text = "\n".join([report.as_text(), *(verdict.line() for verdict in verdicts)])
        (out / "report.txt").write_text(text + "\n", encoding="utf-8")
        for name, account in accounts.items():
            with (out / f"{name}.csv").open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow(("ts", "equity_usd", "margin_ratio"))
                writer.writerows((at, _cell(equity), _cell(ratio)) for at, equity, ratio in account.series or ())
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def _cell(value: float) -> str:
    return "" if value != value else repr(value)


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    with Progress(TextColumn("replaying"), BarColumn(), TimeRemainingColumn(), console=console, transient=True) as bar:
        task = bar.add_task("rows", total=total)
        yield lambda rows: bar.advance(task, rows)
