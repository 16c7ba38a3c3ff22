"""Writes the results of bench.json into docs/performance.md, between its two markers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks.rules import TOLD

PAGE = Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN, END = "<!-- results: begin -->", "<!-- results: end -->"


def write_docs(source: Path, page: Path = PAGE) -> None:
    """Replaces what stands between the markers; a page without them is an error."""
    text = page.read_text(encoding="utf-8")
    if BEGIN not in text or END not in text:
        raise SystemExit(f"{page}: has no '{BEGIN}' and '{END}' to write between")
    told = json.loads(source.read_text(encoding="utf-8"))
    head, tail = text[: text.index(BEGIN) + len(BEGIN)], text[text.index(END) :]
    page.write_text(head + "\n" + "\n".join(results(told)) + "\n" + tail, encoding="utf-8")


def results(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines of the page's results."""
    machine = ", ".join(f"{name} {value}" for name, value in told["machine"].items())
    yield f"Measured {told['date'][:10]} with `make bench ROWS={told['rows']}` in {told['minutes']:.0f} minutes on: {machine}."
    yield "Medians; the least and the most in brackets. `reefd` in the ratio is `reefd replay` with its account in the same case."
    for key, contenders in told["replay"].items():
        ours = contenders["reefd"]["rows_per_s"]
        data, family = key.split("/")
        rows = max(one["rows"] for one in contenders.values())
        yield f"\n### {data}, {TOLD[family]} ({rows:,} rows)\n"
        yield "| contender | M rows/s | | reefd is | RSS, MB |\n|---|---|---|---|---|"
        for one in contenders.values():
            low, high = one["rows"] / one["seconds_max"] / 1e6, one["rows"] / one["seconds_min"] / 1e6
            yield (
                f"| {one['told']} | {one['rows_per_s'] / 1e6:.3f} | ({low:.3f} to {high:.3f}) | {ours / one['rows_per_s']:.3f}x "
                f"| {one['rss_mb']:,.0f} |"
            )
        firings = sum(rule["count"] for rule in told["firings"][key].values())
        phases = ", ".join(f"{phase} {seconds:.2f} s" for phase, seconds in contenders["reefd"]["phases"].items())
        yield f"\nAll found the same {firings:,} firings. reefd: {phases}; {contenders['reefd']['wall_s']:.2f} s in all."
    if told["disagreements"]:
        yield "\n**The contenders disagreed**: " + "; ".join(told["disagreements"])
    yield from _alone(told)
    yield "\n### Goals\n\n| goal | wanted | measured | |\n|---|---|---|---|"
    for goal in told["goals"]:
        found = "" if goal["measured"] is None else f"{goal['measured']:,.2f} {goal['unit']}"
        yield f"| {goal['what']} | {'<=' if goal['at_most'] else '>='} {goal['wanted']:,.2f} {goal['unit']} | {found} | {goal['verdict']} |"
    for name, why in told["left_out"].items():
        yield f"\n{name} was left out: {why}."


def _alone(told: Mapping[str, Any]) -> Iterator[str]:
    """What reefd was timed at alone."""
    if told["observation_us"]:
        yield "\n### One live observation, plain Python\n\n| rules | p50, us | p99, us |\n|---|---|---|"
        for family, times in told["observation_us"].items():
            yield f"| {TOLD[family]} | {times['p50']:.2f} | {times['p99']:.2f} |"
    if told.get("compile"):
        yield "\n### Seconds before the first row of a replay (load and compile)"
        yield "\n| rules | cold | from cache | one edited |\n|---|---|---|---|"
        for family, times in told["compile"].items():
            yield f"| {TOLD[family]} | {times['cold']:.2f} | {times['warm']:.2f} | {times['one edited']:.2f} |"
    sweep = told.get("sweep") or {"why": "it was not run"}
    if "why" in sweep:
        yield f"\nNo sweep was timed: {sweep['why']}."
    else:
        yield f"\nA sweep of {sweep['cells']:,} cells over {sweep['rows']:,} rows took {sweep['wall_s']:.1f} s with 2 workers."
