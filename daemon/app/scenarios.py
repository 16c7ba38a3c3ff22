"""`reefd scenario list | show | run` (floor 9): named incidents of a simulated world, with and without runbooks."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon import __version__
from daemon.app.replaying import house_limits
from daemon.app.shipped import shipped
from daemon.edges.provides import BRIDGE, DYDX
from daemon.engine.engine import Engine
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError, UserError
from daemon.runbook.load import load_paths, there
from daemon.runbook.model import Runbook
from daemon.runbook.provided import unprovided
from daemon.simulation.ordeal import Ordeal, describe_shock, show_ratio
from daemon.simulation.scenario import Scenario, load_scenario
from daemon.simulation.theatre import play, play_alone, topology_of
from daemon.units import NS, show, show_duration
from daemon.world.entities import Kind

FOLDER = "config/scenarios"
NAMES_SUGGESTED = 3
PROVIDED: Mapping[Kind, frozenset[str]] = {**DYDX, Kind.VENUE: DYDX[Kind.VENUE] | BRIDGE[Kind.VENUE]}
WITH_MARK: Mapping[Kind, frozenset[str]] = {**PROVIDED, Kind.MARKET: PROVIDED[Kind.MARKET] | {"mark_price"}}
RATIOS_FILE = "margin_ratio.csv"


def scenario_files() -> Mapping[str, Path]:
    """Every shipped scenario's file by its name, in the order of names. Raises UserError where there is no checkout."""
    return {path.stem: path for path in sorted(shipped(FOLDER, "scenario").glob("*.yaml"))}


def find_scenario(name: str) -> Path:
    """The file of a scenario by its name (hyphens or underscores), or a path to one. Raises UserError with the nearest names."""
    if name.endswith((".yaml", ".yml")):
        return Path(name)
    files = scenario_files()
    wanted = name.replace("_", "-")
    if wanted in files:
        return files[wanted]
    close = difflib.get_close_matches(wanted, files, NAMES_SUGGESTED, 0.4)
    hint = f"did you mean {' or '.join(close)}?" if close else "see reefd scenario list"
    raise UserError(f"there is no scenario '{name}'; {hint}")


def list_(*, json_format: bool) -> int:
    """Print every shipped scenario with title, source and confidence; returns 0. Raises RunbookError for mistakes in a file."""
    found = [load_scenario(path) for path in scenario_files().values()]
    if json_format:
        rows = [_heading(scenario) for scenario in found]
        sys.stdout.write(json.dumps({"scenarios": rows}, indent=2, ensure_ascii=False) + "\n")
        return 0
    width = max((len(scenario.scenario) for scenario in found), default=0)
    for scenario in found:
        takes = show_duration(scenario.seconds)
        sys.stdout.write(f"{scenario.scenario:{width}}  {scenario.title} ({takes})\n")
        sys.stdout.write(f"{'':{width}}  {scenario.confidence or 'made up'}: {scenario.source or 'no source, an example'}\n")
    return 0


def _heading(scenario: Scenario) -> dict[str, object]:
    return {
        "scenario": scenario.scenario, "title": scenario.title, "source": scenario.source, "confidence": scenario.confidence,
        "seconds": scenario.seconds,
    }  # fmt: skip


def show_(name: str, *, json_format: bool) -> int:
    """Print what a scenario is made of; returns 0. Raises UserError for an unknown name, RunbookError for mistakes in the file."""
    path = find_scenario(name)
    scenario = load_scenario(path)
    if json_format:
        body = {**_heading(scenario), "file": str(path), **scenario.model_dump(mode="json", by_alias=True, exclude={"expect"})}
        sys.stdout.write(json.dumps(body, indent=2, ensure_ascii=False) + "\n")
        return 0
    lines = [
        f"{scenario.scenario}: {scenario.title}",
        f"source: {scenario.source or 'none: it is made up'}",
        f"confidence: {scenario.confidence or 'not stated'}",
        f"file: {path}",
        f"plays {show_duration(scenario.seconds)}, seed {scenario.seed}",
        "",
        *_book_lines(scenario),
        "",
        *(f"{show_duration(shock.at / NS):>10}  {describe_shock(shock)}" for shock in sorted(scenario.shocks, key=lambda s: s.at)),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _book_lines(scenario: Scenario) -> list[str]:
    lines = []
    for account in scenario.accounts:
        held = ", ".join(f"{position.size:f} {position.market}" for position in account.positions) or "nothing"
        lines.append(f"an account with {show(account.collateral, 'USD')} holds {held}")
    for symbol, spec in scenario.markets.items():
        margins = f"margin {show_ratio(spec.initial_margin)} / {show_ratio(spec.maintenance_margin)}"
        lines.append(f"{symbol} starts at {spec.price:,g}, volatility {show(spec.volatility, 'ratio')}, {margins}")
    lines += [f"{show(amount, 'USD')} wait on {chain}" for chain, amount in scenario.buffers.items()]
    for name, route in scenario.routes.items():
        lines.append(f"route {name}: {route.source} to {route.destination}, about {show_duration(route.eta / NS)}")
    return lines


def run(
    name: str, *, json_format: bool, runbooks: Path | None = None, seed: int | None = None, out: Path | None = None,
    limits: Path | None = None,
) -> int:  # fmt: skip
    """Play a scenario with and without runbooks and print both; 0 as expected (or nothing is), 1 when its `expect:` is not met.

    Raises UserError for an unknown name or a missing file, RunbookError for mistakes in the scenario or the runbooks.
    """
    scenario = load_scenario(find_scenario(name))
    books = load_books(shipped("runbooks", "scenario") if runbooks is None else runbooks, scenario)
    house = HouseLimits() if limits is None else house_limits(limits)
    ordeal = undergo(scenario, books=books, seed=scenario.seed if seed is None else seed, house=house, limited=limits is not None)
    document = json.dumps(ordeal.as_json(), indent=2, ensure_ascii=False, allow_nan=False)
    text = ordeal.as_text()
    sys.stdout.write((document if json_format else text) + "\n")
    if out is not None:
        _write(out, {"report.json": document + "\n", "report.txt": text + "\n", RATIOS_FILE: _ratios(ordeal)})
    return int(bool(ordeal.broken))


def load_books(path: Path, scenario: Scenario) -> Sequence[Runbook]:
    """The runbooks of a file or folder, for the scenario's venue. Raises RunbookError with every mistake, UserError for no such path."""
    loaded = load_paths(there(path))
    problems = [*loaded.errors, *unprovided(loaded.runbooks, topology_of(scenario, provided(scenario)))]
    if problems:
        raise RunbookError(sorted(problems, key=lambda problem: (problem.file, problem.line, problem.column)))
    return loaded.runbooks


def provided(scenario: Scenario) -> Mapping[Kind, frozenset[str]]:
    """What an adapter of the scenario's venue observes, by kind."""
    return WITH_MARK if scenario.venue.model == "hyperliquid" else PROVIDED


def undergo(scenario: Scenario, *, books: Sequence[Runbook], seed: int, house: HouseLimits, limited: bool = False) -> Ordeal:
    """Both courses of a scenario."""
    topology = topology_of(scenario, provided(scenario))
    engine = Engine(topology=topology, house=house, build=__version__)
    having = play(scenario, seed=seed, topology=topology, engine=engine, runbooks=books)
    notes = ["nobody answers: an approval that a runbook asks for ends as it says for that case"]
    if not limited:
        notes.append("house limits were not applied (--limits FILE applies them)")
    return Ordeal(
        scenario=scenario, seed=seed, having=having, lacking=play_alone(scenario, seed=seed),
        runbooks=tuple(sorted(book.id for book in books)), notes=tuple(notes),
    )  # fmt: skip


def _ratios(ordeal: Ordeal) -> str:
    """The worst margin ratio of every second, with and without; `inf` once equity was used up."""
    both = zip(ordeal.having.tally.ratios, ordeal.lacking.tally.ratios, strict=True)
    return "second,with,without\n" + "".join(f"{i},{having!r},{lacking!r}\n" for i, (having, lacking) in enumerate(both))


def _write(out: Path, texts: Mapping[str, str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            (out / name).write_text(text, encoding="utf-8")
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise UserError(f"{error.filename or out}: cannot be written: {why}; --out names a folder") from error
