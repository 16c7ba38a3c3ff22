"""What reefd is timed at without a peer beside it: compiling cold, from its cache and after an edit; and a sweep of a thousand cells."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.measure import Failed, Measured, environment, offers, reefd, replayed, write_runbooks
from benchmarks.rules import FAMILIES, TOLD, Rule, runbook

COMPILED = ("two", "shared10", "shared50")
CELLS = 1_000
SWEPT = Rule(name="sweep", when="zscore(funding_rate, 24h) > 4", hold_s=120, reads=("funding_rate",))


def compile_times(series: Path, folder: Path) -> dict[str, dict[str, float]]:
    """Seconds before the first row by family and circumstance; `wall` counts the start of the interpreter too."""
    told: dict[str, dict[str, float]] = {}
    print("\nseconds before the first row (loading and compiling; in brackets with the start of the process)")
    for family in COMPILED:
        with tempfile.TemporaryDirectory(dir=folder, prefix="cache-") as cache:
            runbooks = folder / "compiled" / family
            write_runbooks(FAMILIES[family], runbooks)
            cold = _once(series, family, runbooks, Path(cache))
            warm = _once(series, family, runbooks, Path(cache))
            edited = FAMILIES[family][0]
            changed = replace(edited, when=f"{edited.when} and spread < 50%")
            (runbooks / f"{edited.name}.yaml").write_text(runbook(changed), encoding="utf-8")
            edit = _once(series, family, runbooks, Path(cache))
        figures = {}
        for name, one in (("cold", cold), ("warm", warm), ("one edited", edit)):
            figures[name] = one.phases["load"] + one.phases["compile"]
            figures[f"{name}, wall"] = one.wall_s - one.phases["replay"] - one.phases["without"]
        told[family] = figures
        shown = "   ".join(f"{name} {figures[name]:6.2f} ({figures[f'{name}, wall']:.2f})" for name in ("cold", "warm", "one edited"))
        print(f"  {TOLD[family]:<34} {shown}", flush=True)
    return told


def _once(series: Path, family: str, runbooks: Path, cache: Path) -> Measured:
    account = series / "account.yaml"
    return replayed(series, family, runbooks=runbooks, account=account, cache_folder=cache, engine="compiled", repeats=1)


def sweep_times(folder: Path, rows: int) -> dict[str, float | str]:
    """Seconds and peak memory of `reefd sweep` over a thousand cells, or why there are none."""
    if not offers("", "sweep"):
        return {"why": "this reefd has no sweep"}
    series = folder / "series" / "sweep"
    subprocess.run([sys.executable, "-m", "benchmarks.series", str(series), "--rows", str(rows)], check=True, env=environment({}))
    path = folder / "sweep.yaml"
    path.write_text(runbook(SWEPT), encoding="utf-8")
    words = ["sweep", str(path), "--set", "trigger.when.threshold=3..4.6/40", "--set", "trigger.for=30s..15m/25"]
    words += ["--recording", str(series / "recording"), "--workers", "2", "--format", "json"]
    words += ["--account", str(series / "account.yaml")] if offers("sweep", "--account") else []
    try:
        ran = reefd(*words, cache_folder=folder / "cache")
    except Failed as error:
        print(f"\nsweep: {error}")
        return {"why": str(error).splitlines()[-1]}
    print(f"\nsweep: {CELLS:,} cells over {rows:,} rows, 2 workers: {ran.wall_s:.1f} s, {ran.rss_mb:,.0f} MB (without its workers)")
    return {"cells": CELLS, "rows": rows, "wall_s": ran.wall_s, "rss_mb": ran.rss_mb, "row_cells_per_s": CELLS * rows / ran.wall_s}
