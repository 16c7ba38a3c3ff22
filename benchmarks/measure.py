"""Runs contenders, each in a child process, so that memory is each one's own: reefd as a user runs it, peers by `contender.py`."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

from benchmarks.contender import LONG_S, PEERS, REPEATS
from benchmarks.firings import Found
from benchmarks.rules import FAMILIES, Rule, runbook

ROOT = Path(__file__).resolve().parent.parent
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
PHASES = ("load", "compile", "replay", "without")


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """What one contender took in one case. `seconds` of each run, over `rows`; `told` is its name for people."""

    told: str
    rows: int
    seconds: tuple[float, ...]
    rss_mb: float
    firings: Found = field(repr=False)
    last_ms: int
    phases: Mapping[str, float] = field(default_factory=dict)  # medians
    wall_s: float = 0.0

    @property
    def rows_per_s(self) -> float:
        """Of the median run."""
        return self.rows / statistics.median(self.seconds)

    def as_json(self) -> dict[str, object]:
        """The figures, without the firings."""
        return {
            "told": self.told, "rows": self.rows, "rows_per_s": self.rows_per_s, "seconds_median": statistics.median(self.seconds),
            "seconds_min": min(self.seconds), "seconds_max": max(self.seconds), "runs": len(self.seconds), "rss_mb": self.rss_mb,
            "phases": dict(self.phases), "wall_s": self.wall_s,
        }  # fmt: skip


class Failed(Exception):
    """A contender that could not be measured, and why."""


def peer(name: str, folder: Path, family: str, *, rows: int | None = None, python: Path | None = None) -> Measured:
    """One peer over a series on disk; raises Failed."""
    words = [str(python or sys.executable), "-m", "benchmarks.contender", name, str(folder), family]
    words += ["--rows", str(rows)] if rows else []
    done = subprocess.run(words, capture_output=True, text=True, check=False, env=environment({"POLARS_MAX_THREADS": _threads(name)}))
    if done.returncode != 0:
        raise Failed(f"{name} over {folder.name}, {family}: exit code {done.returncode}\n{done.stderr[-2000:]}")
    told = json.loads(done.stdout.splitlines()[-1])
    return Measured(
        told=PEERS[name].told,
        rows=told["rows"],
        seconds=tuple(told["seconds"]),
        rss_mb=told["rss_mb"],
        firings={rule: [(at, market) for at, market in firings] for rule, firings in told["firings"].items()},
        last_ms=told["last_ms"],
        phases={"load": told["load_s"]},
    )


def _threads(name: str) -> str:
    return "1" if name == "polars-1" else str(os.cpu_count() or 1)


def environment(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, in which `benchmarks` and `daemon` are those of this folder."""
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return {**os.environ, "PYTHONPATH": path, **more}


def write_runbooks(rules: Sequence[Rule], folder: Path) -> None:
    """Each rule as a runbook of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    for rule in rules:
        (folder / f"{rule.name}.yaml").write_text(runbook(rule), encoding="utf-8")


@cache
def offers(verb: str, word: str) -> bool:
    """Whether `reefd VERB --help` names a word; `offers("", "sweep")` asks for the verb itself."""
    words = [*filter(None, [verb]), "--help"]
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", *words], capture_output=True, text=True, check=False, env=environment({"COLUMNS": "120"})
    )
    return word in done.stdout


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """One `reefd` command: its output, wall seconds and peak memory."""

    stdout: str
    wall_s: float
    rss_mb: float


def reefd(*words: str, cache_folder: Path | None = None) -> Ran:
    """Runs a `reefd` command in a process of its own; raises Failed with its message."""
    more = {} if cache_folder is None else {"REEFD_CACHE_DIR": str(cache_folder)}
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as complaints:
        started = time.perf_counter()
        child = subprocess.Popen([sys.executable, "-m", "daemon.cli", *words], stdout=out, stderr=complaints, env=environment(more))
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - started
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        complaints.seek(0)
        if child.returncode != 0:
            raise Failed(f"reefd {' '.join(words)}: exit code {child.returncode}\n{complaints.read().decode()[-2000:]}")
        peak = usage.ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
        return Ran(stdout=out.read().decode(), wall_s=wall, rss_mb=peak)


def replayed(
    folder: Path, family: str, *, runbooks: Path, account: Path, cache_folder: Path, engine: str = "auto", repeats: int = REPEATS
) -> Measured:
    """`reefd replay` over a series on disk, as a user runs it; the seconds are those of its pass WITH the runbooks."""
    words = ["replay", "--recording", str(folder / "recording"), "--runbooks", str(runbooks), "--account", str(account), "--format", "json"]
    words += ["--engine", engine] if offers("replay", "--engine") else []
    ran: list[Ran] = []
    while len(ran) < repeats and not (ran and ran[0].wall_s > LONG_S):
        ran.append(reefd(*words, cache_folder=cache_folder))
    told = [json.loads(one.stdout) for one in ran]
    series = json.loads((folder / "series.json").read_text(encoding="utf-8"))
    return Measured(
        told="reefd replay",
        rows=told[0]["rows"],
        seconds=tuple(one["seconds"]["replay"] for one in told),
        rss_mb=max(one.rss_mb for one in ran),
        firings=_episodes(told[-1], FAMILIES[family]),
        last_ms=series["last_ms"],
        phases={phase: statistics.median(one["seconds"][phase] for one in told) for phase in PHASES},
        wall_s=statistics.median(one.wall_s for one in ran),
    )


def _episodes(report: Mapping[str, object], rules: Sequence[Rule]) -> Found:
    episodes = report["episodes"]
    assert isinstance(episodes, list)
    found: Found = {rule.name: [] for rule in rules}
    scopes = {rule.name: rule.scope for rule in rules}
    for episode in episodes:
        rule = episode["runbook"].removeprefix("bench-")
        entity = episode["entity"].rpartition(":")[2] if scopes[rule] == "market" else scopes[rule]
        found[rule].append((milliseconds(episode["fired_at"]), entity))
    return {rule: sorted(firings) for rule, firings in found.items()}


def milliseconds(text: str) -> int:
    """Of an ISO time in UTC, as reports have it."""
    return (datetime.fromisoformat(text.replace("Z", "+00:00")) - EPOCH) // timedelta(milliseconds=1)
