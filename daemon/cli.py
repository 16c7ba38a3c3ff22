"""The command line (floor 10): verbs only. Each verb reads its arguments, calls one function of `daemon.app`, and exits with its answer.

Exit codes: 0 fine · 1 something is wrong in your files, or a check failed · 2 wrong usage, missing file, unreachable venue, port in use ·
3 the journal cannot commit · 130 interrupted.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from datetime import date
from enum import StrEnum
from importlib import import_module
from pathlib import Path
from typing import Annotated

import typer

from daemon import __version__
from daemon.errors import RunbookError, UserError
from daemon.runbook.templates import template_names

app = typer.Typer(
    name="reefd",
    help="reefd watches perpetuals and carries out runbooks: funding, oracles, margin, bridges; every write bounded in money.",
    epilog="Exit codes: 0 fine; 1 something is wrong in your files or a check failed; 2 wrong usage, missing file, unreachable venue,"
    " port in use; 3 the journal cannot commit; 130 interrupted.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
audit = typer.Typer(help="The journal: verify its chain, copy it.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(audit, name="audit")
scenario = typer.Typer(help="Named incidents of a simulated world: list, show, run.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(scenario, name="scenario")
token = typer.Typer(help="Who may use the API and the pages: new, list, revoke.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(token, name="token")
webhook = typer.Typer(help="Alerts out: endpoints, dead letters, a test.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(webhook, name="webhook")


class Format(StrEnum):
    """How a verb prints: for people, or one JSON document on standard output."""

    TEXT = "text"
    JSON = "json"


class EngineChoice(StrEnum):
    """How a replay is executed: as it fits, as plain Python, or compiled."""

    AUTO = "auto"
    PYTHON = "python"
    COMPILED = "compiled"


class Goal(StrEnum):
    """What the cells of a sweep are ranked by."""

    PNL = "pnl_without_direction"
    LIQUIDATIONS = "liquidations_avoided"
    RUNS = "runs"
    FALSE_ALARMS = "false_alarms"


class Rare(StrEnum):
    """Whether rare liquidations are looked for by importance sampling."""

    AUTO = "auto"
    OFF = "off"


class Switch(StrEnum):
    """On or off."""

    ON = "on"
    OFF = "off"


class Written(StrEnum):
    """A kind of file that people write, and that has a schema."""

    RUNBOOK = "runbook"
    SETTINGS = "settings"
    LIMITS = "limits"
    SCENARIO = "scenario"


class Log(StrEnum):
    """How the daemon logs: one JSON object a line, or columns for a terminal."""

    JSON = "json"
    CONSOLE = "console"


class RoleChoice(StrEnum):
    """What a token may do."""

    VIEW = "view"
    APPROVE = "approve"
    ADMIN = "admin"


class Choice(StrEnum):
    """Whether to compute what takes extra passes: when it is quick, always, or never."""

    AUTO = "auto"
    ON = "on"
    OFF = "off"



def _named(folder: str) -> list[str]:
    """Names that a shell completes: the YAML files of a folder of the working directory."""
    return sorted(path.stem for path in Path(folder).glob("*.yaml"))


Paths = Annotated[list[Path], typer.Argument(metavar="PATH...", help="Runbook files, or folders of them.")]
Output = Annotated[Format, typer.Option("--format", help="text for people, json for programs.")]
Config = Annotated[Path, typer.Option("--config", "-c", metavar="FILE", envvar="REEFD_CONFIG", help="The daemon's settings.")]
ExecutedBy = Annotated[EngineChoice, typer.Option("--engine", help="auto compiles when there is enough to replay.")]
ScenarioName = Annotated[
    str,
    typer.Argument(
        metavar="NAME", help="A name of reefd scenario list, or a scenario's file.", autocompletion=lambda: _named("config/scenarios")
    ),
]
Recording = Annotated[Path, typer.Option("--recording", metavar="DIR", help="A recording made by reefd import.")]

Piped = Annotated[Format | None, typer.Option("--format", help="text for people, json for programs; json when piped.")]
Url = Annotated[
    str | None, typer.Option("--url", metavar="URL", envvar="REEFD_URL", help="A daemon elsewhere, with its token in REEFD_TOKEN.")
]
Reason = Annotated[str, typer.Option("--reason", metavar="TEXT", help="Why; it is journaled.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

DEFAULT_CONFIG = Path("config/reefd.yaml")
DEFAULT_SCENARIO = Path("config/scenarios/demo.yaml")


def _job(module: str, function: str) -> Callable[..., int]:
    """The function `daemon.app.<module>.<function>`, imported when its verb is called and not before.

    The one import in this house that is not at the top of a file: `reefd --version` and `reefd check` must answer without loading
    numpy, polars and an HTTP stack (docs/decisions/lazy-verbs.md). `tests/test_cli.py` checks every pair against the real signature.
    """
    job: Callable[..., int] = getattr(import_module(f"daemon.app.{module}"), function)
    return job


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"reefd {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")] = False,
) -> None:
    """reefd watches perpetuals and carries out runbooks: funding, oracles, margin, bridges; every write bounded in money."""


@app.command()
def check(
    paths: Paths,
    output: Output = Format.TEXT,
    strict: Annotated[bool, typer.Option("--strict", help="Warnings and overdue reviews count as errors.")] = False,
    as_of: Annotated[str | None, typer.Option("--as-of", metavar="DATE", help="Judge overdue reviews as of this day.")] = None,
) -> None:
    """Check runbooks: every mistake of every file at once, with line, column and what to write.

    \b
    Example: reefd check runbooks/
             reefd check runbooks/funding-spike.yaml --strict --format json

    Exit codes: 0 no error; 1 errors, a path that does not exist among them (with --strict also warnings).
    """
    _finish(_job("check", "check")(paths, json_format=output is Format.JSON, strict=strict, as_of=_day(as_of)))


@app.command("test")
def scenario_tests(
    paths: Paths,
    output: Output = Format.TEXT,
    coverage: Annotated[bool, typer.Option("--coverage", help="Name the branches, guards and limits that no test reached.")] = False,
) -> None:
    """Run the tests that runbooks carry, in virtual time, on the engine that acts live.

    \b
    Example: reefd test runbooks/
             reefd test runbooks/funding-spike.yaml --coverage

    Exit codes: 0 all passed; 1 a test failed, a file has errors, or a path holds no test.
    """
    _finish(_job("testing", "test")(paths, json_format=output is Format.JSON, coverage=coverage))


@app.command()
def new(
    template: Annotated[
        str | None, typer.Argument(metavar="[TEMPLATE]", help="A name of reefd new --list.", autocompletion=template_names)
    ] = None,
    listed: Annotated[bool, typer.Option("--list", help="List the templates with what they are for.")] = False,
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="The new file; its name becomes the runbook's id.")] = None,
) -> None:
    """Write a new runbook from a template: complete, commented, with tests. A file that exists is never overwritten.

    \b
    Example: reefd new --list
             reefd new funding --out runbooks/my-funding.yaml

    Exit codes: 0 written or listed; 2 no such template, or the file exists or cannot be written.
    """
    _finish(_job("templates", "new")(template, listed=listed, out=out))


@app.command()
def fmt(
    paths: Paths,
    check: Annotated[bool, typer.Option("--check", help="Write nothing, print what would change.")] = False,
) -> None:
    """Format runbooks: order of keys, indentation, quotes, empty lines. Comments stay, and so does what the runbook means.

    \b
    Example: reefd fmt runbooks/
             reefd fmt --check runbooks/

    Exit codes: 0 formatted, or in form already; 1 a file has errors and is left as it is, or --check found something; 2 cannot be written.
    """
    _finish(_job("formatting", "fmt")(paths, check=check))


@app.command()
def schema(
    what: Annotated[Written, typer.Argument(metavar="[runbook|settings|limits|scenario]", help="The kind of file.")] = Written.RUNBOOK,
) -> None:
    """Print the JSON Schema (draft 2020-12) of a kind of file, for YAML language servers and other programs.

    \b
    Example: reefd schema > runbook.schema.json

    Exit codes: 0 printed.
    """
    _finish(_job("schemas", "schema")(what.value))


@app.command("import")
def import_(
    sources: Annotated[list[Path], typer.Argument(metavar="SRC...", help="CSV, CSV.GZ, Parquet, JSONL or JSONL.GZ files.")],
    map_file: Annotated[Path, typer.Option("--map", metavar="MAP.yaml", help="Which column is which signal, in which unit.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The recording; rows are merged into an existing one.")],
    output: Output = Format.TEXT,
) -> None:
    """Make a recording from your own history: rows kept and rejected, with reasons, gaps and duplicates.

    \b
    Example: reefd import --map map.yaml candles.csv.gz --out recording/

    Exit codes: 0 imported; 1 no row could be kept, or the map has errors; 2 a file that is missing or cannot be read.
    """
    _finish(_job("importing", "import_")(map_file, sources, out, json_format=output is Format.JSON))


@app.command("eval")
def evaluate(
    expression: Annotated[str, typer.Argument(metavar="EXPR", help="An expression of the runbook language, in quotes.")],
    recording: Recording,
    entity: Annotated[str, typer.Option("--entity", metavar="E", help="Whose signals to read, as dydx:HYPE-USD.")],
    out: Annotated[Path | None, typer.Option("--out", metavar="F.csv|F.parquet", help="Where to write; else standard output.")] = None,
) -> None:
    """Evaluate one expression over a recording: columns ts and value; an empty value is UNKNOWN.

    \b
    Example: reefd eval "zscore(funding_rate, 7d)" --recording recording/ --entity dydx:HYPE-USD

    Exit codes: 0 evaluated; 1 the expression has errors; 2 the recording or the entity does not exist.
    """
    _finish(_job("evaluating", "evaluate")(expression, recording=recording, entity=entity, out=out))


@app.command()
def replay(
    recording: Annotated[Path | None, typer.Option("--recording", metavar="DIR", help="A recording made by reefd import.")] = None,
    runbooks: Annotated[Path | None, typer.Option("--runbooks", metavar="PATH", help="Runbooks to replay.")] = None,
    account: Annotated[Path | None, typer.Option("--account", metavar="FILE", help="The simulated account: collateral, positions.")] = None,
    output: Output = Format.TEXT,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write the report and its series here.")] = None,
    limits: Annotated[Path | None, typer.Option("--limits", metavar="FILE", help="House limits to apply; none when absent.")] = None,
    engine: ExecutedBy = EngineChoice.AUTO,
    leave_one_out: Annotated[
        Choice, typer.Option("--leave-one-out", help="What each run contributed, by leaving it out; auto: when it is quick.")
    ] = Choice.AUTO,
    journal: Annotated[Path | None, typer.Option("--journal", metavar="STATE.db", help="A daemon's journal, with --verify.")] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Decide a journal's events anew and compare every record.")] = False,
) -> None:
    """Replay history: what the runbooks would have done, WITH them beside WITHOUT; or verify a daemon's journal.

    \b
    Example: reefd replay --recording recording/ --runbooks runbooks/ --account account.yaml
             reefd replay --journal var/state.db --verify

    Exit codes: 0 replayed (records agree); 1 your files have errors, or records differ; 2 wrong usage or a missing file.
    """
    if journal is not None or verify:
        if journal is None or not verify:
            raise typer.BadParameter("a journal is verified: write --journal STATE.db --verify")
        if recording is not None or runbooks is not None or account is not None or limits is not None or out is not None:
            raise typer.BadParameter("--journal carries its own events and runbooks; leave out the options of a recording")
        _finish(_job("verifying", "verify_journal")(journal, json_format=output is Format.JSON))
    missing = [name for name, path in (("--recording", recording), ("--runbooks", runbooks), ("--account", account)) if path is None]
    if missing:
        raise typer.BadParameter(f"a replay needs {', '.join(missing)}; see reefd replay --help")
    job = _job("replaying", "replay")
    as_json = output is Format.JSON
    _finish(
        job(
            recording, runbooks=runbooks, account=account, json_format=as_json, out=out, limits=limits, engine=engine.value,
            leave_one_out=leave_one_out.value,
        )
    )  # fmt: skip


@app.command()
def sweep(
    runbook: Annotated[Path, typer.Argument(metavar="RUNBOOK", help="The file of the runbook whose values are tried.")],
    recording: Recording,
    sets: Annotated[
        list[str], typer.Option("--set", metavar="PATH=VALUES", help="A param or field, and values: 1m,3m,10m or 0.02%/h..0.10%/h/5.")
    ],
    account: Annotated[Path | None, typer.Option("--account", metavar="FILE", help="The simulated account; nothing held without.")] = None,
    runbooks: Annotated[Path | None, typer.Option("--runbooks", metavar="PATH", help="Others that run beside it.")] = None,
    limits: Annotated[Path | None, typer.Option("--limits", metavar="FILE", help="House limits to apply; none when absent.")] = None,
    draw: Annotated[int | None, typer.Option("--random", metavar="N", min=1, help="Draw N cells instead of trying all.")] = None,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the draws.")] = 0,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes; as many as cores when absent.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="tcp://HOST:PORT", help="A Dask scheduler in their place.")] = None,
    objective: Annotated[Goal, typer.Option("--objective", help="What the best cell has most (counts: least) of.")] = Goal.PNL,
    walk_forward: Annotated[
        int, typer.Option("--walk-forward", metavar="K", min=1, max=50, help="Parts of the history: chosen on earlier, judged on later.")
    ] = 2,
    output: Output = Format.TEXT,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write sweep.json, cells.parquet, sweep.html.")] = None,
    engine: ExecutedBy = EngineChoice.AUTO,
) -> None:
    """Try many values of a runbook's params and fields over a recording: a table, a map, and what luck alone would have found.

    \b
    Example: reefd sweep runbooks/funding-spike.yaml --recording recording/ --account account.yaml \\
                 --set trigger.when.threshold=0.03%/h,0.05%/h,0.08%/h --set trigger.for=1m,3m,10m

    Exit codes: 0 played; 1 the runbook or a value has errors; 2 wrong usage, a missing file, an unreachable cluster.
    """
    options = {
        "sets": sets, "recording": recording, "account": account, "runbooks": runbooks, "limits": limits, "draw": draw, "seed": seed,
        "workers": workers, "objective": objective.value, "walk_forward": walk_forward, "json_format": output is Format.JSON, "out": out,
        "engine": engine.value,
    }  # fmt: skip
    if cluster is None:
        _finish(_job("sweeping", "sweep")(runbook, **options))
    _finish(_installed(lambda: _job("clustering", "sweep_on_cluster"))(runbook, cluster=cluster, **options))


def _installed(
    load: Callable[[], Callable[..., int]], module: str = "distributed", what: str = "--cluster", extra: str = "cluster"
) -> Callable[..., int]:
    """A job that needs an extra, where it is installed."""
    try:
        return load()
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] != module:
            raise
        raise UserError(f"{what} needs the module {module}; install it with: pip install 'reefd[{extra}]'") from error


@app.command()
def stress(
    book: Annotated[str, typer.Option("--book", metavar="FILE|live", help="The book: accounts, positions, buffers, routes.")],
    world: Annotated[list[str], typer.Option("--world", metavar="FILE", help="The world; several make a report each.")],
    more: Annotated[list[str] | None, typer.Argument(metavar="[FILE...]", help="Further worlds, as a shell expands them.")] = None,
    paths: Annotated[int, typer.Option("--paths", metavar="N", min=1, help="How many futures.")] = 10_000,
    horizon: Annotated[str, typer.Option("--horizon", metavar="DURATION", help="How far they go: whole hours, 1h to 92d.")] = "7d",
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of every draw.")] = 0,
    runbooks: Annotated[
        Path | None, typer.Option("--runbooks", metavar="PATH", help="A file or folder; absent: runbooks/, of a live book those in force.")
    ] = None,
    no_runbooks: Annotated[bool, typer.Option("--no-runbooks", help="Nobody acts: the book alone.")] = False,
    limits: Annotated[Path | None, typer.Option("--limits", metavar="FILE", help="House limits to apply; none when absent.")] = None,
    workers: Annotated[int | None, typer.Option("--workers", metavar="N", min=1, help="Processes; as many as cores when absent.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="tcp://HOST:PORT", help="A Dask scheduler in their place.")] = None,
    rare: Annotated[Rare, typer.Option("--rare", help="auto looks for rare liquidations where plain paths see too few.")] = Rare.AUTO,
    dependence: Annotated[Switch, typer.Option("--dependence", help="off: what independence would have claimed.")] = Switch.ON,
    leave_one_out: Annotated[Switch, typer.Option("--leave-one-out", help="Play again without each runbook that ran.")] = Switch.ON,
    history: Annotated[Path | None, typer.Option("--history", metavar="DIR", help="Draw prices and funding from a recording.")] = None,
    history_venue: Annotated[
        str | None, typer.Option("--history-venue", metavar="NAME", help="Whose closes there; each market's own venue when absent.")
    ] = None,
    output: Output = Format.TEXT,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write stress.json, paths.parquet, stress.html.")] = None,
    config: Config = DEFAULT_CONFIG,
    engine: ExecutedBy = EngineChoice.AUTO,
) -> None:
    """Play a book through thousands of futures, with its runbooks and without: who is liquidated, what it costs, whom it harms.

    \b
    Example: reefd stress --book config/books/example.yaml --world config/worlds/calm.yaml --paths 2000 --horizon 7d

    The same seed gives the same figures, whatever the number of workers.
    Exit codes: 0 played; 1 the book, a world or a runbook has errors; 2 wrong usage, a missing file, an unreachable cluster.
    """
    options = {
        "book": book, "worlds": [*world, *(more or ())], "runbooks": runbooks, "nobody": no_runbooks, "limits": limits, "paths": paths,
        "horizon": horizon, "seed": seed, "workers": workers, "rare": rare is Rare.AUTO, "dependence": dependence is Switch.ON,
        "leave_one_out": leave_one_out is Switch.ON, "json_format": output is Format.JSON, "out": out, "config": config,
        "engine": engine.value, "history": history, "history_venue": history_venue,
    }  # fmt: skip
    if cluster is None:
        _finish(_job("stressing", "stress")(**options))
    _finish(_installed(lambda: _job("clustering", "stress_on_cluster"))(cluster=cluster, **options))


@app.command()
def diff(
    old: Annotated[Path, typer.Argument(metavar="OLD", help="Runbooks as they were: a file or a folder.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Runbooks as they shall be.")],
    recording: Recording,
    account: Annotated[Path, typer.Option("--account", metavar="FILE", help="The simulated account: collateral, positions.")],
    output: Output = Format.TEXT,
    limits: Annotated[Path | None, typer.Option("--limits", metavar="FILE", help="House limits to apply; none when absent.")] = None,
    engine: ExecutedBy = EngineChoice.AUTO,
) -> None:
    """Compare how two versions of runbooks behave over a recording: episodes, runs, actions, and what they came to.

    \b
    Example: reefd diff runbooks/ edited/ --recording recording/ --account account.yaml

    Exit codes: 0 compared, different or not; 1 the runbooks or the account have errors; 2 a missing or unreadable file.
    """
    job = _job("diffing", "diff")
    as_json = output is Format.JSON
    _finish(job(old, new, recording=recording, account=account, json_format=as_json, limits=limits, engine=engine.value))


@app.command()
def margin(
    book: Annotated[Path, typer.Option("--book", metavar="FILE", help="The book: accounts, buffers, routes.")],
    output: Output = Format.TEXT,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write margin.json, margin.txt and margin.html.")] = None,
) -> None:
    """Say how far a book is from liquidation: liquidation prices, and what price, funding and delay do to them.

    \b
    Example: reefd margin --book config/books/example.yaml --out margin/

    Exit codes: 0 computed; 1 the book has errors; 2 a missing or unreadable file, or a market without a price.
    """
    _finish(_job("margins", "margin")(book, json_format=output is Format.JSON, out=out))


@app.command()
def explain(
    runbook: Annotated[Path, typer.Argument(metavar="RUNBOOK", help="The runbook's file.")],
    recording: Recording,
    entity: Annotated[str, typer.Option("--entity", metavar="E", help="The instance, as dydx:HYPE-USD.")],
    at: Annotated[str, typer.Option("--at", metavar="T", help="The moment, ISO-8601; without a zone it is UTC.")],
    account: Annotated[Path | None, typer.Option("--account", metavar="FILE", help="Sizes and collateral, as for a replay.")] = None,
    output: Output = Format.TEXT,
) -> None:
    """Explain why a runbook fired, or did not, at a moment: readings, ages, and what was missing.

    \b
    Example: reefd explain runbooks/funding-spike.yaml --recording recording/ \\
                 --entity dydx:HYPE-USD --at 2026-02-03T18:00:00Z

    Exit codes: 0 explained; 1 the runbook has errors; 2 the recording, the entity or the moment does not exist.
    """
    job = _job("evaluating", "explain")
    _finish(job(runbook, recording=recording, entity=entity, at=at, json_format=output is Format.JSON, account=account))


@app.command()
def run(
    config: Config = DEFAULT_CONFIG,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Decide and journal everything, send nothing.")] = False,
    log: Annotated[Log | None, typer.Option("--log", help="Log format; the settings decide when absent.")] = None,
) -> None:
    """Run the daemon: poll, decide, act, journal. SIGHUP reloads the runbooks, SIGTERM stops after what is in flight.

    \b
    Example: reefd run --config config/reefd.yaml --dry-run

    Exit codes: 0 stopped as asked; 1 the runbooks have errors; 2 the settings cannot be used; 3 the journal cannot commit.
    """
    _finish(_job("live", "run")(config, dry_run=dry_run, log=log.value if log else None))


@app.command()
def sim(
    scenario: Annotated[Path, typer.Option("--scenario", metavar="FILE", help="The paths and shocks to play.")] = DEFAULT_SCENARIO,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="Port to listen on; 0 takes a free one and prints it.")] = 8480,
    host: Annotated[str, typer.Option("--host", help="Address to listen on.")] = "127.0.0.1",
    speed: Annotated[float, typer.Option("--speed", help="Venue seconds a second.")] = 1.0,
    seed: Annotated[int | None, typer.Option("--seed", help="Seed of every path; the scenario decides when absent.")] = None,
) -> None:
    """Serve a simulated venue over HTTP: the paths and shapes of the dYdX v4 indexer, and a small order API.

    \b
    Example: reefd sim --scenario config/scenarios/demo.yaml --port 8480 --speed 60

    Exit codes: 0 stopped as asked; 1 the scenario has errors; 2 the scenario is missing, or the port is in use.
    """
    _finish(_job("simulating", "sim")(scenario, port=port, host=host, speed=speed, seed=seed))


@app.command()
def demo(
    seconds: Annotated[float | None, typer.Option("--seconds", min=1, help="End after this many seconds, whatever was seen.")] = None,
    speed: Annotated[float | None, typer.Option("--speed", min=0.1, help="Venue seconds a second.")] = None,
) -> None:
    """Show the whole of reefd in about a minute: a simulated venue, the daemon, a webhook receiver; then check what happened.

    \b
    Example: reefd demo
             reefd demo --seconds 90 --speed 20

    Exit codes: 0 everything that the demo promises happened; 1 something did not, and it says what; 2 it could not start.
    """
    _finish(_job("demo", "demo")(seconds=seconds, speed=speed))


@app.command()
def status(
    config: Config = DEFAULT_CONFIG,
    output: Piped = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it anew each second; JSON lines when piped.")] = False,
    url: Url = None,
) -> None:
    """Show what the daemon is doing: the line, what it needs, accounts, runs, feeds, dead letters.

    \b
    Example: reefd status --watch
             reefd status --config config/reefd.yaml --format json

    Without a daemon that answers it shows what was published beside the journal.

    Exit codes: 0 running and turning; 1 not running, or degraded; 2 the settings cannot be used, or --url does not answer.
    """
    _finish(_job("watching", "status")(config, json_format=_as_json(output), watch=watch, url=url))


@app.command()
def why(
    runbook: Annotated[str, typer.Argument(metavar="RUNBOOK", help="The id of a runbook in force.")],
    entity: Annotated[str, typer.Argument(metavar="ENTITY", help="As dydx:BTC-USD; where it is nearest to firing when absent.")] = "",
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Say why a runbook is where it is, or is not: each condition, its value now, and how far it is from its bound.

    \b
    Example: reefd why funding-spike dydx:BTC-USD

    Exit codes: 0 told; 2 there is no such runbook or instance, or no daemon answers.
    """
    _finish(_job("operator", "why")(config, url, runbook, entity, json_format=_as_json(output)))


@app.command()
def runs(
    run_id: Annotated[str | None, typer.Argument(metavar="RUN", help="One run with its trace, as reefd runs lists them.")] = None,
    runbook: Annotated[str, typer.Option("--runbook", metavar="ID", help="Only of this runbook.")] = "",
    entity: Annotated[str, typer.Option("--entity", metavar="E", help="Only on this entity.")] = "",
    status: Annotated[
        str, typer.Option("--status", metavar="S", help="running, done, skipped, blocked, failed, aborted, unknown or shadow.")
    ] = "",
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, max=1000, help="How many at most.")] = 20,
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """List runs, newest first; or show one with everything that came of it.

    \b
    Example: reefd runs --runbook funding-spike --status failed
             reefd runs funding-spike/dydx:BTC-USD/1767225600000000000/1

    Exit codes: 0 shown; 2 there is no such run, or no daemon answers.
    """
    job = _job("operator", "runs")
    _finish(job(config, url, run_id, runbook=runbook, entity=entity, status=status, limit=limit, json_format=_as_json(output)))


@app.command()
def tail(
    after: Annotated[str, typer.Option("--after", metavar="ID", help="Go on after this line: the `id` of its JSON.")] = "",
    times: Annotated[int | None, typer.Option("--times", metavar="N", min=1, help="End after so many lines.")] = None,
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Follow what happens: triggers, runs, actions, outcomes, commands. JSON lines when piped. Ends with Ctrl-C, or with the daemon.

    \b
    Example: reefd tail
             reefd tail | jq 'select(.severity == "critical")'

    Exit codes: 0 the daemon stopped, or so many lines were told; 2 no daemon answers; 130 interrupted.
    """
    _finish(_job("operator", "tail")(config, url, after=after, times=times, json_format=_as_json(output)))


@app.command()
def gate(
    market: Annotated[str, typer.Argument(metavar="MARKET", help="As dydx:BTC-USD.")],
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Ask whether strategies may open in a market. What cannot be told is closed.

    \b
    Example: reefd gate dydx:BTC-USD && ./open-position

    Exit codes: 0 open; 1 closed; 2 it cannot be told, which is closed too.
    """
    _finish(_job("operator", "gate")(config, url, market, json_format=_as_json(output)))


@app.command()
def approve(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that waits; or its runbook, when only one of it does.")],
    digest: Annotated[str, typer.Option("--digest", metavar="D", help="The plan that was seen; another one is not approved.")] = "",
    reason: Reason = "",
    yes: Yes = False,
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Show the plan that a run waits with, and approve exactly that one.

    \b
    Example: reefd approve funding-spike/dydx:BTC-USD/1767225600000000000/1 --reason "looked at it"

    On a terminal it asks first; a script writes --yes, or the --digest of the plan it looked at.

    Exit codes: 0 approved; 1 it did nothing, or was not confirmed; 2 no such run waits, the plan is another one, no daemon answers.
    """
    job = _job("operator", "approve")
    _finish(job(config, url, run, digest=digest, reason=reason, yes=yes, confirm=_confirm, json_format=_as_json(output)))


@app.command()
def deny(
    run: Annotated[str, typer.Argument(metavar="RUN", help="A run that waits; or its runbook, when only one of it does.")],
    reason: Reason = "",
    yes: Yes = False,
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Show the plan that a run waits with, and deny it.

    \b
    Example: reefd deny funding-spike/dydx:BTC-USD/1767225600000000000/1 --reason "too large"

    Exit codes: 0 denied; 1 it did nothing, or was not confirmed; 2 no such run waits, or no daemon answers.
    """
    _finish(_job("operator", "deny")(config, url, run, reason=reason, yes=yes, confirm=_confirm, json_format=_as_json(output)))


@app.command()
def pause(
    lasting: Annotated[str, typer.Option("--for", metavar="DURATION", help="How long, as 2h; 31d at most.")],
    reason: Reason,
    target: Annotated[str, typer.Argument(metavar="TARGET", help="A runbook, or RUNBOOK/ENTITY; everything when absent.")] = "",
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Let the runs of a runbook, of one instance, or of everything wait. A pause always ends.

    \b
    Example: reefd pause funding-spike --for 2h --reason "rebalancing by hand"

    Exit codes: 0 paused; 1 it did nothing; 2 there is no such runbook, or no daemon answers.
    """
    _finish(_job("operator", "pause")(config, url, target, lasting=lasting, reason=reason, json_format=_as_json(output)))


@app.command()
def unpause(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What was paused; everything when absent.")] = "",
    reason: Reason = "",
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """End a pause before its time.

    \b
    Example: reefd unpause funding-spike

    Exit codes: 0 ended; 1 it was not paused; 2 no daemon answers.
    """
    _finish(_job("operator", "unpause")(config, url, target, reason=reason, json_format=_as_json(output)))


@app.command()
def halt(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="portfolio, or an entity: nothing opens there. Absent: all.")] = "",
    reason: Reason = "",
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """Stop. Without a target this is the kill switch: nothing is sent any more, reducing runbooks included, until reefd resume.

    \b
    Example: reefd halt --reason "the venue is in maintenance"
             reefd halt portfolio                # nothing opens; runbooks go on reducing

    The kill switch writes the halt flag itself, first, and so works without a daemon, without a token, and survives a restart.

    Exit codes: 0 halted; 1 it did nothing; 2 the flag cannot be written, or a target was named and no daemon answers.
    """
    _finish(_job("operator", "halt")(config, url, target, reason=reason, json_format=_as_json(output)))


@app.command()
def resume(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="What was halted: portfolio or an entity; or a paused runbook.")] = "",
    reason: Reason = "",
    config: Config = DEFAULT_CONFIG,
    url: Url = None,
    output: Piped = None,
) -> None:
    """End a halt: of everything, or of what is named. When what is named is a runbook or RUNBOOK/ENTITY, its pause ends.

    \b
    Example: reefd resume
             reefd resume portfolio
             reefd resume funding-spike          # the same as reefd unpause funding-spike

    Without a target and without a daemon the halt flag is taken away.

    Exit codes: 0 resumed; 1 nothing was halted or paused there; 2 no daemon answers.
    """
    _finish(_job("operator", "resume")(config, url, target, reason=reason, json_format=_as_json(output)))


@token.command("new")
def token_new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who it is for; it is what the journal names.")],
    role: Annotated[RoleChoice, typer.Option("--role", help="view reads; approve also approves, pauses, halts; admin does all.")],
    expires: Annotated[str | None, typer.Option("--expires", metavar="DURATION", help="How long it counts, as 90d; for good else.")] = None,
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
) -> None:
    """Make a token for the API and the pages, and print it: once, it is kept nowhere.

    \b
    Example: reefd token new ana --role approve --expires 90d

    Exit codes: 0 made; 2 the name is taken or wrong, or the file cannot be written.
    """
    _finish(_job("tokens", "new")(config, name, role=role.value, expires=expires, json_format=output is Format.JSON))


@token.command("list")
def token_list(config: Config = DEFAULT_CONFIG, output: Output = Format.TEXT) -> None:
    """List who has a token, and what they may.

    \b
    Example: reefd token list

    Exit codes: 0 listed; 2 the file cannot be read.
    """
    _finish(_job("tokens", "listed")(config, json_format=output is Format.JSON))


@token.command("revoke")
def token_revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Whose.")],
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
) -> None:
    """Revoke a token: it is refused from the next request on, and the sessions that it opened end.

    \b
    Example: reefd token revoke ana

    Exit codes: 0 revoked; 2 there is none of that name.
    """
    _finish(_job("tokens", "revoke")(config, name, json_format=output is Format.JSON))


@app.command()
def doctor(
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
    send: Annotated[bool, typer.Option("--send", help="Also send a test message to every endpoint.")] = False,
) -> None:
    """Look at everything that a bad night would find out: settings, permissions, disk, runbooks, clock, feeds, endpoints, a silent day.

    \b
    Example: reefd doctor --config config/reefd.yaml --send

    Exit codes: 0 nothing failed; 1 a check failed.
    """
    _finish(_job("doctor", "doctor")(config, json_format=output is Format.JSON, send=send))


@app.command()
def drill(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", metavar="FILE", envvar="REEFD_CONFIG", help="Whose endpoints hear of it.")
    ] = None,
    output: Output = Format.TEXT,
    send: Annotated[bool, typer.Option("--send", help="Tell every endpoint of the settings how it went.")] = False,
) -> None:
    """Play the whole path end to end against a simulated venue: feed, trigger, notice, approval, order, gate, kill -9, audit.

    \b
    Example: reefd drill
             reefd drill --config config/reefd.yaml --send

    Exit codes: 0 every link held; 1 one did not, and it says what was seen; 2 the settings cannot be used.
    """
    if send and config is None:
        raise typer.BadParameter("--send needs --config: whose endpoints are meant")
    _finish(_job("drill", "drill")(config, json_format=output is Format.JSON, send=send))


@app.command()
def traces(
    config: Config = DEFAULT_CONFIG,
    endpoint: Annotated[
        str, typer.Option("--endpoint", metavar="URL", envvar="OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", help="The collector, OTLP over HTTP.")
    ] = "http://127.0.0.1:4318/v1/traces",
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is still to come.")] = False,
    after: Annotated[int, typer.Option("--after", metavar="SEQ", min=0, help="Only what came after this event number.")] = 0,
) -> None:
    """Send the journal's runs to an OpenTelemetry collector: a trace a run, its steps, approvals and writes below it.

    \b
    Example: reefd traces --config config/reefd.yaml --follow

    Exit codes: 0 sent; 1 the collector did not take some; 2 no journal, or the extra is not installed: pip install 'reefd[otel]'.
    """
    job = _installed(lambda: _job("traces", "traces"), "opentelemetry", "reefd traces", "otel")
    _finish(job(config, endpoint=endpoint, follow=follow, after=after))


@audit.command("verify")
def audit_verify(
    state: Annotated[Path, typer.Argument(metavar="STATE.db", help="The daemon's journal.")] = Path("var/state.db"),
    anchor: Annotated[str | None, typer.Option("--anchor", metavar="SEQ:HASH", help="A head kept elsewhere: finds a cut tail.")] = None,
    output: Output = Format.TEXT,
) -> None:
    """Verify the sha256 chain over every entry of a journal; with an anchor also that nothing was cut off.

    \b
    Example: reefd audit verify var/state.db

    Exit codes: 0 intact; 1 an entry was changed, or the tail is missing; 2 the journal cannot be read.
    """
    _finish(_job("auditing", "audit_verify")(state, anchor=anchor, json_format=output is Format.JSON))


@audit.command("backup")
def audit_backup(
    state: Annotated[Path, typer.Argument(metavar="STATE.db", help="The daemon's journal.")],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="A new folder for the copy.")],
    output: Output = Format.TEXT,
) -> None:
    """Copy a journal with its feed, also while the daemon writes it; the copy's first start only reconciles.

    \b
    Example: reefd audit backup var/state.db --out backup/2026-10-01

    Exit codes: 0 copied; 2 the journal cannot be read, or the folder cannot be written.
    """
    _finish(_job("auditing", "backup")(state, out, json_format=output is Format.JSON))


@webhook.command("list")
def webhook_list(config: Config = DEFAULT_CONFIG, output: Output = Format.TEXT) -> None:
    """Show where alerts go and how that goes: format, state, breaker, what waits, the last delivery; then the dead letters.

    \b
    Example: reefd webhook list --config config/reefd.yaml

    Exit codes: 0 shown; 2 the settings cannot be used, or there is no journal.
    """
    _finish(_job("webhooks", "list_")(config, json_format=output is Format.JSON))


@webhook.command("test")
def webhook_test(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="A name under webhooks: of the settings.")],
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
) -> None:
    """Send one test message right now, in the endpoint's format and signed as any, and print the answer.

    \b
    Example: reefd webhook test desk

    Exit codes: 0 the endpoint took it; 1 it did not; 2 the settings cannot be used, or there is no such endpoint.
    """
    _finish(_job("webhooks", "test")(endpoint, config=config, json_format=output is Format.JSON))


@webhook.command("redeliver")
def webhook_redeliver(
    message: Annotated[str | None, typer.Argument(metavar="ID", help="Id or number of a dead letter (reefd webhook list).")] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every dead letter.")] = False,
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
) -> None:
    """Put a dead letter back into its lane, at its old place; a running daemon sends it at once.

    \b
    Example: reefd webhook redeliver 17
             reefd webhook redeliver --all

    Exit codes: 0 it goes again; 2 there is no such dead letter, or the daemon that runs cannot be asked.
    """
    if (message is None) is not everything:
        raise typer.BadParameter("write the id or number of one dead letter, or --all")
    _finish(_job("webhooks", "redeliver")(None if everything else message, config=config, json_format=output is Format.JSON))


@webhook.command("enable")
def webhook_enable(
    endpoint: Annotated[str, typer.Argument(metavar="ENDPOINT", help="A name of reefd webhook list.")],
    config: Config = DEFAULT_CONFIG,
    output: Output = Format.TEXT,
) -> None:
    """Send again to an endpoint that said 410 Gone; an open breaker closes too.

    \b
    Example: reefd webhook enable desk

    Exit codes: 0 enabled; 2 there is no such endpoint, or the daemon that runs cannot be asked.
    """
    _finish(_job("webhooks", "enable")(endpoint, config=config, json_format=output is Format.JSON))


@scenario.command("list")
def scenario_list(output: Output = Format.TEXT) -> None:
    """List every scenario with its title, source and confidence.

    \b
    Example: reefd scenario list

    Exit codes: 0 listed; 1 a scenario's file has errors; 2 there is no config/scenarios here.
    """
    _finish(_job("scenarios", "list_")(json_format=output is Format.JSON))


@scenario.command("show")
def scenario_show(name: ScenarioName, output: Output = Format.TEXT) -> None:
    """Show what a scenario is made of: its book, its markets, its routes, and what happens when.

    \b
    Example: reefd scenario show crash-1010

    Exit codes: 0 shown; 1 the scenario's file has errors; 2 there is no such scenario.
    """
    _finish(_job("scenarios", "show_")(name, json_format=output is Format.JSON))


@scenario.command("run")
def scenario_run(
    name: ScenarioName,
    output: Output = Format.TEXT,
    runbooks: Annotated[Path | None, typer.Option("--runbooks", metavar="PATH", help="Runbooks in force; the shipped ones else.")] = None,
    seed: Annotated[int | None, typer.Option("--seed", min=0, help="Seed of every path; the scenario decides when absent.")] = None,
    out: Annotated[Path | None, typer.Option("--out", metavar="DIR", help="Also write the report and margin ratios by second.")] = None,
    limits: Annotated[Path | None, typer.Option("--limits", metavar="FILE", help="House limits to apply; none when absent.")] = None,
) -> None:
    """Play a scenario in virtual time, with runbooks and without: each act with its reason, its outcome, and what it did to the margin.

    \b
    Example: reefd scenario run worst-case-bridging
             reefd scenario run hl-jelly --runbooks runbooks/ --seed 7 --format json

    Exit codes: 0 played, and as the scenario's `expect:` says; 1 not as expected, or a file has errors; 2 no such scenario or file.
    """
    job = _job("scenarios", "run")
    _finish(job(name, json_format=output is Format.JSON, runbooks=runbooks, seed=seed, out=out, limits=limits))


def _day(text: str | None) -> date | None:
    if text is None:
        return None
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise typer.BadParameter(f"{text!r} is no day; write for example 2026-10-01", param_hint="--as-of") from error


def _as_json(output: Format | None) -> bool:
    return output is Format.JSON if output is not None else not sys.stdout.isatty()


def _confirm(question: str) -> bool:
    return typer.confirm(question)


def _finish(code: int) -> None:
    raise typer.Exit(code)


def main() -> None:
    """Run the command line; a user's mistake is one message on standard error, never a traceback."""
    try:
        app()
    except RunbookError as error:
        _complain(str(error), 1)
    except UserError as error:
        _complain(f"reefd: {error}", 2)
    except BrokenPipeError:
        # The reader of our output went away (`reefd eval ... | head`): nothing is wrong, and the flush at exit must not complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except OSError as error:
        _complain(f"reefd: {error.filename or 'the system'}: {(error.strerror or str(error)).lower()}", 2)
    except KeyboardInterrupt:
        sys.exit(130)


def _complain(message: str, code: int) -> None:
    sys.stderr.write(message.rstrip("\n") + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
