"""`make bench`: one observation through the hot program and a replay, with ten rules; beside polars, pandas and a deque loop.

Prints rows/s, ratios and memory, and writes them as JSON into benchmarks/out/. Nothing is asserted about time; that all contenders find the
same firings is asserted, since a fast wrong answer is none. One option: --rows N (default 200,000).
"""

from __future__ import annotations

import argparse
import json
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from benchmarks.observation import observation_us
from benchmarks.peers import with_deques, with_pandas, with_polars
from benchmarks.series import RULES, SHARED, Rule, Series, runbook, series

OURS = "reefd replay, whole engine, account simulated"
OUT = Path(__file__).resolve().parent / "out"
MAP = """\
kind: market
time: {column: ts, format: epoch_ns}
entity: {venue: {const: dydx}, market: {const: BENCH-USD}}
signals:
  bid_price: {column: bid_price, unit: price}
  ask_price: {column: ask_price, unit: price}
  mark_price: {column: mark_price, unit: price}
  index_price: {column: index_price, unit: price}
  oracle_price: {column: oracle_price, unit: price}
  funding_rate: {column: funding_rate, unit: rate/h}
"""
ACCOUNT = """\
venue: dydx
model: dydx-v4
collateral: {USDC: 1_000_000 USD}
positions: [{market: BENCH-USD, size: 100, entry_price: 100}]
markets: {BENCH-USD: {initial_margin: 5%, maintenance_margin: 3%}}
"""


def main() -> None:
    """Measures, prints a table, writes JSON."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="rows (seconds) of the replayed series")
    rows = parser.parse_args().rows
    market = series(rows)
    report: dict[str, object] = {"machine": platform.processor() or platform.machine(), "python": platform.python_version(), "rows": rows}

    one = {
        "1 rule": observation_us(market, RULES[:1]),
        "2 rules": observation_us(market, RULES[:2]),
        "10 rules over one shared window": observation_us(market, SHARED),
        "10 rules over 10 windows": observation_us(market, RULES),
    }
    report["observation_us"] = one
    print(f"one observation (a row of six readings) through the hot program, plain Python {platform.python_version()}")
    for name, times in one.items():
        print(f"  {name:<34} p50 {times['p50']:7.2f} us   p99 {times['p99']:7.2f} us")

    found, table = contenders(market)
    ours = table[OURS]["rows_per_s"]
    print(f"\nreplay, {len(RULES)} rules over 10 windows where not said otherwise, {rows:,} rows of one market at 1 Hz")
    for name, line in table.items():
        line["ratio"] = ours / line["rows_per_s"]
        print(f"  {name:<48} {line['rows_per_s']:>12,.0f} rows/s   reefd is {line['ratio']:8.3f}x")
    report["replay"] = table
    report["rss_mb"] = {
        "this process and its peers": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "reefd replay": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
    }
    print("\npeak memory, MB: " + ", ".join(f"{name} {size:,.0f}" for name, size in report["rss_mb"].items()))  # type: ignore[attr-defined]
    differ = {name: firings for name, firings in found.items() if firings != found["polars"]}
    report["firings"] = found
    OUT.mkdir(exist_ok=True)
    path = OUT / "bench.json"
    path.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    print(f"written: {path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path}")
    if differ:
        sys.exit(f"the contenders disagree on the firings: polars {found['polars']}, {differ}")


def contenders(market: Series) -> tuple[dict[str, dict[str, int]], dict[str, dict[str, float]]]:
    """(firings by rule, rows/s) of each contender, all in this run."""
    found: dict[str, dict[str, int]] = {}
    table: dict[str, dict[str, float]] = {}
    peers: dict[str, tuple[Callable[[Series], dict[str, int]], int]] = {
        "polars": (with_polars, 5),
        "pandas": (with_pandas, 3),
        "a deque loop written by hand": (with_deques, 1),
    }
    seconds, _ = replayed(market, SHARED)
    table["reefd replay, rules over one shared window"] = {"rows_per_s": len(market.ts) / seconds["replay"], **seconds}
    seconds, found["reefd"] = replayed(market, RULES)
    table[OURS] = {"rows_per_s": len(market.ts) / seconds["replay"], **seconds}
    for name, (peer, repeats) in peers.items():
        took = []
        for _ in range(repeats):
            start = time.perf_counter()
            found[name] = peer(market)
            took.append(time.perf_counter() - start)
        table[name] = {"rows_per_s": len(market.ts) / statistics.median(took)}
    return found, table


def replayed(market: Series, rules: Sequence[Rule]) -> tuple[dict[str, float], dict[str, int]]:
    """(seconds by phase, firings by rule) of `reefd import` and `reefd replay` over the series, as a user would run them."""
    with tempfile.TemporaryDirectory() as folder:
        here = Path(folder)
        pl.DataFrame({"ts": market.ts, **market.columns()}).write_parquet(here / "rows.parquet")
        (here / "map.yaml").write_text(MAP, encoding="utf-8")
        (here / "account.yaml").write_text(ACCOUNT, encoding="utf-8")
        (here / "runbooks").mkdir()
        for rule in rules:
            (here / "runbooks" / f"{rule.name}.yaml").write_text(runbook(rule), encoding="utf-8")
        reefd("import", "--map", "map.yaml", "rows.parquet", "--out", "recording", folder=here)
        told = reefd(
            *("replay", "--recording", "recording", "--runbooks", "runbooks", "--account", "account.yaml", "--format", "json"), folder=here
        )
    answer = json.loads(told)
    counts = {rule.name: 0 for rule in rules}
    for episode in answer["episodes"]:
        counts[episode["runbook"].removeprefix("bench-")] += 1
    return {name: float(value) for name, value in answer["seconds"].items()}, counts


def reefd(*words: str, folder: Path) -> str:
    """Standard output of a `reefd` command run in `folder`; ends the benchmark with its message when it fails."""
    done = subprocess.run([sys.executable, "-m", "daemon.cli", *words], cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        sys.exit(f"reefd {words[0]} exited with {done.returncode}:\n{done.stderr}{done.stdout}")
    return done.stdout


if __name__ == "__main__":
    main()
