"""One observation through the hot program, plain Python: every row brings six new readings, moves all windows and judges all rules.

python -m benchmarks.observation SERIES       # microseconds by family, as JSON
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.firings import Columns, load
from benchmarks.rules import BOUNDS_S, FAMILIES, Rule, runbook
from daemon.engine.events import Row
from daemon.engine.hot import Hot
from daemon.runbook.load import load_text
from daemon.world.entities import Kind, Topology, Venue

MEASURED = ("one", "two", "shared10", "shared50", "windows10")
SIGNALS = tuple(BOUNDS_S)


def observation_us(columns: Columns, name: str, rules: Sequence[Rule], warm: int = 90_000, measured: int = 20_000) -> dict[str, float]:
    """Microseconds of `Hot.take` for one row with `rules` loaded: p50 and p99 of `measured` rows after `warm` rows (25 h)."""
    hot = Hot(Topology(venues={"dydx": Venue(id="dydx")}))
    loaded = [load_text(runbook(rule), f"{rule.name}.yaml") for rule in rules]
    assert not any(one.errors for one in loaded), [one.errors for one in loaded]
    hot.link([book for one in loaded for book in one.runbooks])
    stop = min(len(columns["ts"]), warm + measured)
    warm = min(warm, stop // 2)
    cells = [columns[signal][:stop].tolist() for signal in SIGNALS]
    took = []
    clock = time.perf_counter_ns
    for i, (at, *values) in enumerate(zip(columns["ts"][:stop].tolist(), *cells, strict=True)):
        row = (Row(kind=Kind.MARKET, entity=f"dydx:{name}", values=dict(zip(SIGNALS, values, strict=True)), event_ts=at),)
        start = clock()
        if hot.next_due <= at:
            hot.fire_due(at)
        hot.take(row, at)
        end = clock()
        if i >= warm:
            took.append((end - start) / 1000)
    return {"p50": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98], "rules": len(rules), "rows": len(took)}


def main() -> None:
    """Measures every family over the first market of a series of one."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observation")
    parser.add_argument("series", type=Path)
    columns, names = load(parser.parse_args().series, 110_000)
    json.dump({family: observation_us(columns, names[0], FAMILIES[family]) for family in MEASURED}, sys.stdout)


if __name__ == "__main__":
    main()
