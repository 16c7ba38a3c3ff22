"""One observation through the hot program, plain Python: every row brings six new readings, moves all windows and judges all rules."""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence

from benchmarks.series import SIGNALS, Rule, Series, runbook
from daemon.engine.events import Row
from daemon.engine.hot import Hot
from daemon.runbook.load import load_text
from daemon.world.entities import Kind, Topology, Venue

ENTITY = "dydx:BENCH-USD"


def observation_us(series: Series, rules: Sequence[Rule], warm: int = 90_000, measured: int = 20_000) -> dict[str, float]:
    """Microseconds of `Hot.take` for one row with `rules` loaded: p50 and p99 of `measured` rows after `warm` rows (25 h)."""
    hot = Hot(Topology(venues={"dydx": Venue(id="dydx")}))
    loaded = [load_text(runbook(rule), f"{rule.name}.yaml") for rule in rules]
    assert not any(one.errors for one in loaded), [one.errors for one in loaded]
    hot.link([book for one in loaded for book in one.runbooks])
    stop = min(len(series.ts), warm + measured)
    columns = [series.columns()[name][:stop].tolist() for name in SIGNALS]
    took = []
    clock = time.perf_counter_ns
    for i, (at, *values) in enumerate(zip(series.ts[:stop].tolist(), *columns, strict=True)):
        row = (Row(kind=Kind.MARKET, entity=ENTITY, values=dict(zip(SIGNALS, values, strict=True)), event_ts=at),)
        start = clock()
        if hot.next_due <= at:
            hot.fire_due(at)
        hot.take(row, at)
        end = clock()
        if i >= warm:
            took.append((end - start) / 1000)
    return {"p50": statistics.median(took), "p99": statistics.quantiles(took, n=100)[98], "rules": len(rules), "rows": len(took)}
