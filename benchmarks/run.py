"""`make bench`: data, reefd and its peers in one run, their firings compared; a table, the goals, and benchmarks/out/bench.json.

    make bench [ROWS=200000] [PEERS=all]
    python -m benchmarks.run --rows 200000 --only ev1/two,jitter/windows10 --write-docs

Nothing is asserted about time. That all find the same firings is, since a fast wrong answer is none: exit code 1 when they differ.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from benchmarks.contender import REPEATS
from benchmarks.document import write_docs
from benchmarks.firings import differences, summary, until
from benchmarks.goals import goals
from benchmarks.measure import Failed, Measured, environment, offers, peer, replayed, write_runbooks
from benchmarks.reefd_only import compile_times, sweep_times
from benchmarks.rules import FAMILIES, TOLD
from benchmarks.venues import PINNED, interpreter

OUT = Path(__file__).resolve().parent / "out"
ROWS = 5_000_000
FEWER = {"deques": 300_000, "nautilus": 500_000, "hftbacktest": 2_000_000}  # rows of contenders that are too slow for all
JITTERED_ROWS = 60_000
SHORT_ROWS = 20_000  # of the series on which compiling is timed


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """One series: its key, how it is made, and what it is."""

    key: str
    markets: int
    told: str
    rows: int | None = None  # None: as asked for
    jittered: bool = False


DATA = (
    Data(key="ev1", markets=1, told="1 market, a row a second"),
    Data(key="ev50", markets=50, told="50 markets, interleaved"),
    Data(key="ev500", markets=500, told="500 markets, interleaved"),
    Data(key="jitter", markets=3, told="3 markets, uneven steps and gaps (correctness)", rows=JITTERED_ROWS, jittered=True),
    Data(key="short", markets=1, told="a short series, for compile times", rows=SHORT_ROWS),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One table: a series, a family of rules, and who runs over it beside reefd."""

    data: str
    family: str
    peers: tuple[str, ...]

    @property
    def key(self) -> str:
        """`ev1/two`."""
        return f"{self.data}/{self.family}"


CASES = (
    Case(data="ev1", family="two", peers=(
        "floor", "njit", "njit-eager", "polars-1", "polars", "pandas", "deques", "nautilus", "hftbacktest",
    )),
    Case(data="ev1", family="account", peers=("njit-account",)),
    Case(data="ev1", family="one", peers=("njit",)),
    Case(data="ev1", family="shared10", peers=("njit", "polars-1", "polars", "pandas")),
    Case(data="ev1", family="shared50", peers=("njit", "polars-1", "polars")),
    Case(data="ev1", family="windows10", peers=("njit", "polars-1", "polars", "pandas", "deques")),
    Case(data="ev50", family="two", peers=("njit", "polars-1", "polars", "pandas")),
    Case(data="ev50", family="shared10", peers=("njit", "polars-1", "polars")),
    Case(data="ev500", family="two", peers=("njit",)),
    Case(data="jitter", family="shared10", peers=("njit", "polars-1", "pandas")),
    Case(data="jitter", family="windows10", peers=("njit", "polars-1", "pandas")),
)  # fmt: skip


def main() -> None:
    """Runs the benchmark."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.run", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=ROWS, help=f"rows of a series (default {ROWS:,})")
    parser.add_argument(
        "--peers", choices=("installed", "all"), default="installed", help="all: also those that want their own environment"
    )
    parser.add_argument("--only", help="cases, by comma: ev1/two,jitter/windows10")
    parser.add_argument("--out", type=Path, default=OUT, help="folder of bench.json")
    parser.add_argument("--write-docs", action="store_true", help="only write the results of bench.json into docs/performance.md")
    told = parser.parse_args()
    if told.write_docs:
        write_docs(told.out / "bench.json")
        return
    chosen = [case for case in CASES if told.only is None or case.key in told.only.split(",")]
    if not chosen:
        parser.error(f"--only names no case; there are {', '.join(case.key for case in CASES)}")
    started = time.perf_counter()
    told.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="run-", dir=told.out) as folder:
        bench = Bench(Path(folder), told.rows, out=told.out, everyone=told.peers == "all")
        try:
            report, disagreements = bench.run(chosen, whole=told.only is None)
        except Failed as error:
            sys.exit(str(error))
    report["minutes"] = (time.perf_counter() - started) / 60
    path = told.out / "bench.json"
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"\n{report['minutes']:.1f} minutes; written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if disagreements:
        sys.exit("\nthe contenders disagree on the firings:\n  " + "\n  ".join(disagreements))
    print("all contenders found the same firings")


class Bench:
    """One run: makes series as they are needed, measures, prints as it goes."""

    def __init__(self, folder: Path, rows: int, *, out: Path, everyone: bool = False, repeats: int = REPEATS) -> None:
        self.folder, self.rows, self.out, self.everyone, self.repeats = folder, rows, out, everyone, repeats
        self.left_out: dict[str, str] = {}
        self.pythons: dict[str, Path] = {}

    def run(self, cases: Sequence[Case], *, whole: bool) -> tuple[dict[str, object], list[str]]:
        """(report, one line a disagreement). `whole`: also what reefd does alone."""
        self._venues(cases)
        machine = machine_told()
        print(" · ".join(f"{name} {value}" for name, value in machine.items()))
        replay: dict[str, dict[str, dict[str, object]]] = {}
        firings: dict[str, dict[str, object]] = {}
        disagreements: list[str] = []
        for number, case in enumerate(cases):
            measured, unlike = self.case(case)
            disagreements += unlike
            replay[case.key] = {name: one.as_json() for name, one in measured.items()}
            firings[case.key] = dict(summary(measured["reefd"].firings))
            if case.data != "ev1" and all(later.data != case.data for later in cases[number + 1 :]):
                shutil.rmtree(self.folder / "series" / case.data)  # some hundred megabytes
        report: dict[str, object] = {"date": datetime.now(UTC).isoformat(timespec="seconds"), "machine": machine, "rows": self.rows}
        observation = {}
        if whole:
            observation = self.observation()
            report["compile"] = compile_times(self.series("short"), self.folder)
            report["sweep"] = sweep_times(self.folder, min(self.rows, 1_000_000))
        reached = list(goals(replay, observation))
        print("\nGOALS" + "".join(f"\n{goal.line()}" for goal in reached))
        report |= {
            "replay": replay, "firings": firings, "observation_us": observation, "left_out": self.left_out,
            "goals": [goal.as_json() for goal in reached], "disagreements": disagreements,
        }  # fmt: skip
        return report, disagreements

    def case(self, case: Case) -> tuple[dict[str, Measured], list[str]]:
        """All contenders of a case by name, and where they disagree with reefd."""
        folder = self.series(case.data)
        about = json.loads((folder / "series.json").read_text(encoding="utf-8"))
        told = next(data.told for data in DATA if data.key == case.data)
        print(f"\n{case.key}: {TOLD[case.family]}; {about['rows']:,} rows, {told}")
        measured: dict[str, Measured] = {}
        for name, one in self._contenders(case, folder):
            measured[name] = one
            print(_line(one, measured["reefd"]), flush=True)
        ours = measured["reefd"]
        unlike = []
        for name, one in measured.items():
            if name not in ("reefd", "floor"):
                rules = [rule.name for rule in FAMILIES[case.family]]
                unlike += differences("reefd", until(ours.firings, one.last_ms), one.told, one.firings, rules)
        silent = [rule for rule, found in ours.firings.items() if not found]
        if silent:
            print(f"  no firing of {', '.join(silent)} in these rows")
        for line in unlike:
            print(f"  DISAGREE: {line}")
        return measured, [f"{case.key}: {line}" for line in unlike]

    def _contenders(self, case: Case, folder: Path) -> Iterator[tuple[str, Measured]]:
        runbooks = self.folder / "runbooks" / case.family
        write_runbooks(FAMILIES[case.family], runbooks)
        for name, told, account, engine in self._executions(case):
            one = replayed(
                folder, case.family, runbooks=runbooks, account=folder / account, cache_folder=self.folder / "cache", engine=engine,
                repeats=self.repeats,
            )  # fmt: skip
            yield name, replace(one, told=told)
        for name in case.peers:
            if name in PINNED and name not in self.pythons:
                continue
            rows = FEWER.get(name)
            about = rows if rows is not None and rows < self._rows_of(case.data) else None
            try:
                one = peer(name, folder, case.family, rows=about, python=self.pythons.get(name))
            except Failed as error:
                if name not in PINNED:
                    raise
                self.left_out[name] = str(error).splitlines()[-1]
                print(f"  {name} is left out: {self.left_out[name]}")
                continue
            yield name, one if about is None else replace(one, told=f"{one.told} ({about:,} rows)")

    def _executions(self, case: Case) -> Iterator[tuple[str, str, str, str]]:
        """(name, name for people, account file, engine) of each way in which reefd runs a case."""
        if case.data == "jitter" and offers("replay", "--engine"):
            # Few rows, on which `auto` would not compile: both executions have to find the same.
            yield "reefd", "reefd replay, plain Python", "account.yaml", "python"
            yield "reefd-compiled", "reefd replay, compiled", "account.yaml", "compiled"
            return
        yield "reefd", "reefd replay", "account.yaml", "auto"
        if case.key == "ev1/two":
            yield "reefd-flat", "reefd replay, no position held", "flat.yaml", "auto"

    def _rows_of(self, key: str) -> int:
        return next(data.rows for data in DATA if data.key == key) or self.rows

    def _venues(self, cases: Sequence[Case]) -> None:
        for name in PINNED:
            if not any(name in case.peers for case in cases):
                continue
            if not self.everyone:
                self.left_out[name] = "not asked for; make bench PEERS=all"
                continue
            found = interpreter(name, self.out)
            if isinstance(found, str):
                self.left_out[name] = found
                print(f"{name} is left out: {found}")
            else:
                self.pythons[name] = found

    def series(self, key: str) -> Path:
        """The folder of a series, made when it is first asked for."""
        folder = self.folder / "series" / key
        if not folder.exists():
            data = next(data for data in DATA if data.key == key)
            words = ["-m", "benchmarks.series", str(folder), "--markets", str(data.markets), "--rows", str(data.rows or self.rows)]
            words += ["--jittered"] if data.jittered else []
            subprocess.run([sys.executable, *words], check=True, env=environment({}))
        return folder

    def observation(self) -> dict[str, dict[str, float]]:
        """Microseconds of one observation by family."""
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.observation", str(self.series("ev1"))], check=True, capture_output=True, text=True,
            env=environment({}),
        )  # fmt: skip
        told: dict[str, dict[str, float]] = json.loads(done.stdout)
        print("\none observation (a row of six readings) through the hot program, plain Python")
        for family, times in told.items():
            print(f"  {TOLD[family]:<34} p50 {times['p50']:7.2f} us   p99 {times['p99']:7.2f} us")
        return told


def _line(one: Measured, ours: Measured) -> str:
    low, high = one.rows / max(one.seconds), one.rows / min(one.seconds)
    ratio = ours.rows_per_s / one.rows_per_s
    phases = " ".join(f"{phase} {seconds:.2f}" for phase, seconds in one.phases.items())
    wall = f" wall {one.wall_s:.2f}" if one.wall_s else ""
    return (
        f"  {one.told:<52} {one.rows_per_s / 1e6:>9.3f} M rows/s ({low / 1e6:.3f} to {high / 1e6:.3f}, {len(one.seconds)} runs)"
        f"   reefd is {ratio:>8.3f}x   {one.rss_mb:>6,.0f} MB   s: {phases}{wall}"
    )


def machine_told() -> dict[str, str]:
    """What the figures were measured on."""
    told = {"cpu": cpu_model(), "cores": str(os.cpu_count()), "python": platform.python_version()}
    return told | {name: metadata.version(name) for name in ("numba", "numpy", "polars", "pandas")}


def cpu_model() -> str:
    """The processor's name, as the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor() or platform.machine())


if __name__ == "__main__":
    main()
