"""`reefd stress` on the shipped book: seconds, paths and rows a second, peak memory of a process, for few paths and for many.

    python -m benchmarks.stress --paths 10000 --few 1000

Beside it the floor: the same paths drawn and not played. There is no peer that plays runbooks against a venue's rules; whoever simulates
prices alone does what the floor does.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.measure import ROOT
from daemon.simulation.book import load_book
from daemon.simulation.stress.futures import WorldFutures
from daemon.simulation.stress.path import Grid
from daemon.simulation.stress.worldfile import load_world
from daemon.units import DAY_NS, MINUTE_NS

BOOK, WORLD = ROOT / "config/books/example.yaml", ROOT / "config/worlds/calm.yaml"
PLAYED = ("margin-low", "funding-spike", "oracle-divergence")
FLOOR_PATHS = 100
GOAL_S = 60.0


def stressed(paths: int, runbooks: Path) -> dict[str, float]:
    """One run as a user starts it: wall seconds, its own phases, rows; peak memory of the largest process so far, MB."""
    words = [
        sys.executable, "-m", "daemon.cli", "stress", "--book", str(BOOK), "--world", str(WORLD), "--paths", str(paths), "--horizon", "7d",
        "--runbooks", str(runbooks), "--leave-one-out", "off", "--format", "json",
    ]  # fmt: skip
    began = time.perf_counter()
    found = json.loads(subprocess.run(words, cwd=ROOT, check=True, capture_output=True, text=True).stdout)
    wall_s = time.perf_counter() - began
    rss_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
    return {"paths": paths, "wall_s": wall_s, "rows": found["rows"], "rss_mb": rss_mb, **found["seconds"]}


def floor_s(paths: int) -> float:
    """Seconds of one core to draw one path."""
    book = load_book(BOOK)
    start = 1_767_571_200 * 1_000_000_000
    futures = WorldFutures(load_world(WORLD), book, grid=Grid(start=start, steps=7 * DAY_NS // MINUTE_NS), seed=0)
    futures.path(0)
    began = time.process_time()
    for number in range(paths):
        futures.path(number)
    return (time.process_time() - began) / paths


def main() -> None:
    """Runs both sizes and prints what they took."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--paths", type=int, default=10_000)
    options.add_argument("--few", type=int, default=1_000)
    chosen = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for name in PLAYED:
            (Path(folder) / f"{name}.yaml").write_text((ROOT / f"runbooks/{name}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
        rows = [stressed(chosen.few, Path(folder)), stressed(chosen.paths, Path(folder))]
    for row in rows:
        sys.stdout.write(
            f"{row['paths']:>7,.0f} paths x 7 d x 5 markets, {len(PLAYED)} runbooks, {row['workers']:.0f} workers: {row['wall_s']:.1f} s,"
            f" {row['rows'] / row['wall_s'] / 1e6:.2f} M rows/s; largest process {row['rss_mb']:.0f} MB\n"
        )
    each = floor_s(FLOOR_PATHS)
    sys.stdout.write(f"floor: {1e3 * each:.1f} ms of a core to draw a path, {each * chosen.paths:.0f} core seconds for {chosen.paths:,}\n")
    last = rows[-1]
    if chosen.paths == 10_000:
        verdict = "reached" if last["wall_s"] <= GOAL_S else f"short by {last['wall_s'] / GOAL_S:.1f}x"
        sys.stdout.write(f"goal: 10,000 paths in {GOAL_S:.0f} s on 2 cores: {verdict}\n")


if __name__ == "__main__":
    main()
