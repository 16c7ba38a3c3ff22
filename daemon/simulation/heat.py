"""A sweep as a map of two axes (floor 5): the best cell over all others at each place, as text and as a page that fetches nothing."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.simulation.grid import Axis, position
from daemon.simulation.selection import COUNTED, Study, value_of

BINS = 6  # of a drawn axis with more values than this
SHADES = " .:-=+*#%@"
CELL_W, CELL_H, TOP = 92, 34, 34  # px
CHARACTER_W = 7.5  # px of a label, at most
_STYLE = """
:root{--paper:#fbfbf9;--ink:#1c1f23;--soft:#6a7078;--line:#dcdfe3;--good:31,122,92;--bad:178,62,54}
@media (prefers-color-scheme:dark){:root{--paper:#15181b;--ink:#e7e9eb;--soft:#9aa1a9;--line:#343a40;--good:86,190,150;--bad:232,121,110}}
body{background:var(--paper);color:var(--ink);font:15px/1.5 system-ui,sans-serif;margin:2rem auto;max-width:1280px;padding:0 1rem}
h1{font-size:1.4rem;margin:0 0 .3rem}h2{font-size:1.05rem;margin:2rem 0 .5rem}p{margin:.3rem 0}
.soft,svg .soft{color:var(--soft);fill:var(--soft)}.scroll{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums}
table{font-size:.9rem}th,td{padding:.25rem .5rem;border-bottom:1px solid var(--line);text-align:right;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
svg text{fill:var(--ink);font:12px system-ui,sans-serif}svg .best{stroke:var(--ink);stroke-width:2}
.stamp{border:1px solid var(--line);border-radius:4px;padding:.05rem .4rem;font-size:.8rem;color:var(--soft)}
""".strip()


@dataclass(frozen=True, slots=True, kw_only=True)
class HeatMap:
    """The best value of the objective at each place of one or two axes; None where no cell lies. `rows` is empty for one axis."""

    column_path: str
    row_path: str
    columns: tuple[str, ...]
    rows: tuple[str, ...]
    values: tuple[tuple[float | None, ...], ...]

    def as_json(self) -> dict[str, object]:
        """The grid as `reefd sweep` prints it."""
        return {
            "columns": {"path": self.column_path, "values": list(self.columns)},
            "rows": {"path": self.row_path, "values": list(self.rows)} if self.row_path else None,
            "best": [list(row) for row in self.values],
        }  # fmt: skip

    def as_text(self, *, fewer_is_better: bool = False) -> list[str]:
        """Lines for a terminal: values, each with a shade behind it, `@` the best and a space the worst."""
        known = [value for row in self.values for value in row if value is not None]
        if not known:
            return []
        low, high = min(known), max(known)

        def cell(value: float | None) -> str:
            if value is None:
                return f"{'':>12}  "
            share = (value - low) / (high - low) if high > low else 1.0
            share = 1.0 - share if fewer_is_better and high > low else share
            return f"{compact(value):>12} {SHADES[round(share * (len(SHADES) - 1))]}"

        head = self.row_path or ""
        width = max([len(head), *(len(row) for row in self.rows)], default=0)
        across = self.column_path
        lines = [f"  {head:<{width}}   {across}", f"  {'':<{width}} " + "".join(f"{column:>12}  " for column in self.columns).rstrip()]
        names = self.rows or ("",)
        for name, row in zip(names, self.values, strict=True):
            lines.append(f"  {name:<{width}} " + "".join(cell(value) for value in row).rstrip())
        return lines


def compact(value: float) -> str:
    """A figure in few characters."""
    if value == 0.0:
        return "0"
    if abs(value) >= 1000.0:
        return f"{value:,.0f}"
    return f"{value:.2f}" if abs(value) < 100.0 and value != round(value) else f"{value:.1f}".removesuffix(".0")


def _places(study: Study, number: int) -> tuple[tuple[str, ...], list[int]]:
    """(labels, the label of each cell) of an axis: its values in order, or bins of a drawn one."""
    axis: Axis = study.axes[number]
    values = [cell[number] for cell in study.cells]
    distinct = list(dict.fromkeys(values))
    at = {value: position(value) for value in distinct}
    numbers = not any(math.isnan(place) for place in at.values())
    if not (study.drawn and axis.span is not None and numbers and len(distinct) > BINS):
        labels = sorted(distinct, key=at.__getitem__) if numbers else distinct
        return tuple(labels), [labels.index(value) for value in values]
    edges = [axis.span.at(k / BINS) for k in range(BINS + 1)]
    bounds = [position(edge) for edge in edges]
    found = [next((k for k in range(BINS - 1) if at[value] < bounds[k + 1]), BINS - 1) for value in values]
    return tuple(f">={edge}" for edge in edges[:-1]), found


def heat_map(study: Study) -> HeatMap | None:
    """The map over the first two axes that take several values; None where no axis does."""
    varied = [n for n in range(len(study.axes)) if len({cell[n] for cell in study.cells}) > 1]
    if not varied:
        return None
    down = varied[0] if len(varied) > 1 else None
    columns, column_of = _places(study, varied[1] if down is not None else varied[0])
    rows, row_of = _places(study, down) if down is not None else ((), [0] * len(study.cells))
    best: dict[tuple[int, int], float] = {}
    fewer = study.objective in COUNTED
    for index, tally in enumerate(study.chosen_on):
        key, value = (row_of[index], column_of[index]), value_of(tally, study.objective)
        best[key] = (min if fewer else max)(best.get(key, value), value)
    return HeatMap(
        column_path=study.axes[varied[1] if down is not None else varied[0]].path,
        row_path="" if down is None else study.axes[down].path,
        columns=columns, rows=rows,
        values=tuple(tuple(best.get((row, column)) for column in range(len(columns))) for row in range(max(1, len(rows)))),
    )  # fmt: skip


def tint(value: float, low: float, high: float, *, fewer: bool) -> str:
    """Green for what is better than nothing, red for worse; counts from few to many."""
    if fewer:
        share = (value - low) / (high - low) if high > low else 0.0
        return f"rgba(var(--bad),{0.05 + 0.6 * share:.3f})"
    most = max(abs(low), abs(high)) or 1.0
    return f"rgba(var(--{'good' if value >= 0 else 'bad'}),{0.05 + 0.6 * abs(value) / most:.3f})"


def svg(heat: HeatMap, *, fewer_is_better: bool) -> str:
    """The map as one inline picture with its values."""
    known = [value for row in heat.values for value in row if value is not None]
    low, high = min(known), max(known)
    best = low if fewer_is_better else high
    left = round(CHARACTER_W * max(len(name) for name in (heat.row_path, *heat.rows))) + 24
    width, height = left + CELL_W * len(heat.columns), TOP + 20 + CELL_H * len(heat.values)
    label = html.escape(f"best of {heat.row_path or 'the sweep'} by {heat.column_path}")
    parts = [f'<svg role="img" aria-label="{label}" width="{width}" height="{height}" viewBox="0 0 {width} {height}">']
    parts.append(f'<text class="soft" x="{left}" y="14">{html.escape(heat.column_path)}</text>')
    parts.append(f'<text class="soft" x="0" y="14">{html.escape(heat.row_path)}</text>')
    for x, name in enumerate(heat.columns):
        parts.append(f'<text x="{left + CELL_W * x + CELL_W / 2}" y="{TOP + 6}" text-anchor="middle">{html.escape(name)}</text>')
    marked = False
    for y, row in enumerate(heat.values):
        top = TOP + 16 + CELL_H * y
        if heat.rows:
            parts.append(f'<text x="{left - 10}" y="{top + CELL_H / 2 + 4}" text-anchor="end">{html.escape(heat.rows[y])}</text>')
        for x, value in enumerate(row):
            if value is None:
                continue
            first = value == best and not marked
            marked = marked or first
            at = f'x="{left + CELL_W * x + 1}" y="{top + 1}" width="{CELL_W - 2}" height="{CELL_H - 2}" rx="3"'
            shade = tint(value, low, high, fewer=fewer_is_better)
            outline = ' class="best"' if first else ""
            parts.append(f'<rect {at}{outline} style="fill:{shade}"/>')
            middle = left + CELL_W * x + CELL_W / 2
            parts.append(f'<text x="{middle}" y="{top + CELL_H / 2 + 4}" text-anchor="middle">{html.escape(compact(value))}</text>')
    return "".join([*parts, "</svg>"])


def page(*, title: str, stamp: str, lines: Sequence[str], heat: HeatMap | None, head: Sequence[str], rows: Sequence[Sequence[str]],
         closing: Sequence[str], fewer_is_better: bool) -> str:  # fmt: skip
    """One HTML page: what was found, the map, the best cells, and what all of it cannot say. Nothing in it is fetched."""
    def escaped(items: Sequence[str]) -> str:
        return "".join(f"<p>{html.escape(line)}</p>" for line in items)

    picture = "" if heat is None else f'<h2>Best over the others</h2><div class="scroll">{svg(heat, fewer_is_better=fewer_is_better)}</div>'
    header = "".join(f"<th>{html.escape(name)}</th>" for name in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(value)}</td>" for value in row) + "</tr>" for row in rows)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body><h1>{html.escape(title)}</h1>"
        f'<p><span class="stamp">{html.escape(stamp)}</span></p>{escaped(lines)}{picture}<h2>Cells</h2>'
        f'<div class="scroll"><table><thead><tr>{header}</tr></thead><tbody>{body}</tbody></table></div>'
        f'<h2>What this cannot say</h2><div class="soft">{escaped(closing)}</div></body></html>\n'
    )
