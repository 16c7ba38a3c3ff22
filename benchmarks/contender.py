"""One peer in a process of its own: loads, warms up, runs, and prints seconds, peak memory and firings as one line of JSON.

    python -m benchmarks.contender njit SERIES two

Imports only what its peer needs, so that the memory reported is the peer's.
"""

from __future__ import annotations

import argparse
import importlib
import json
import resource
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from benchmarks.firings import MS, Times, found

WARM_ROWS = 2_000
SHORT_S = 1.0  # runs shorter than this are repeated `SHORT_REPEATS` times
REPEATS, SHORT_REPEATS = 3, 5
LONG_S = 45.0  # a first run longer than this is the only one


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Where a peer is written. `prepares`: its function returns what is to be timed, and is called before each run."""

    module: str
    function: str
    told: str
    prepares: bool = False


PEERS = {
    "floor": Peer(module="by_loops", function="with_floor", told="read the columns once (njit sum)"),
    "njit": Peer(module="by_loops", function="with_loop", told="hand-written njit loop"),
    "njit-eager": Peer(module="by_loops", function="with_eager_loop", told="the same loop, every condition at every row"),
    "njit-account": Peer(module="by_loops", function="with_held_loop", told="hand-written njit loop with account"),
    "polars-1": Peer(module="by_polars", function="with_polars", told="polars, 1 thread"),
    "polars": Peer(module="by_polars", function="with_polars", told="polars, all threads"),
    "pandas": Peer(module="by_pandas", function="with_pandas", told="pandas rolling"),
    "deques": Peer(module="by_deques", function="with_deques", told="pure-Python deque loop"),
    "nautilus": Peer(module="by_nautilus", function="prepare", told="nautilus_trader run()", prepares=True),
    "hftbacktest": Peer(module="by_hftbacktest", function="prepare", told="hftbacktest, njit strategy", prepares=True),
}


def main() -> None:
    """Runs one peer."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.contender")
    parser.add_argument("peer", choices=sorted(PEERS))
    parser.add_argument("series", type=Path)
    parser.add_argument("family")
    parser.add_argument("--rows", type=int, help="only the first rows")
    told = parser.parse_args()
    peer = PEERS[told.peer]
    module = importlib.import_module(f"benchmarks.{peer.module}")
    bounds = json.loads((told.series / "series.json").read_text(encoding="utf-8"))["bounds"]

    def job(loaded: object) -> Callable[[], Times]:
        function = getattr(module, peer.function)
        prepared: Callable[[], Times] = (
            function(loaded, told.family, bounds) if peer.prepares else partial(function, loaded, told.family, bounds)
        )
        return prepared

    job(module.load(told.series, WARM_ROWS))()
    started = time.perf_counter()
    loaded = module.load(told.series, told.rows)
    load_s = time.perf_counter() - started
    seconds: list[float] = []
    prepare_s = 0.0
    firings: Times = {}
    while len(seconds) < _repeats(seconds):
        started = time.perf_counter()
        run = job(loaded)
        prepare_s = time.perf_counter() - started
        started = time.perf_counter()
        firings = run()
        seconds.append(time.perf_counter() - started)
    ts = np.load(told.series / "columns" / "ts.npy", mmap_mode="r")[: told.rows]
    size = {"rows": len(ts), "last_ms": int(ts[-1]) // MS}
    json.dump({**size, "seconds": seconds, "load_s": load_s + prepare_s, "rss_mb": peak_mb(), "firings": found(firings)}, sys.stdout)


def _repeats(seconds: list[float]) -> int:
    if not seconds:
        return 1
    if seconds[0] > LONG_S:
        return 1
    return SHORT_REPEATS if seconds[0] < SHORT_S else REPEATS


def peak_mb() -> float:
    """Peak resident memory of this process, MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
