"""Courses as drawings (floor 8): inline SVG without a script, a style attribute or a font of its own, legible at any width.

Lines live in a nested box that stretches; the words stand outside of it, in percent of the whole, so they are never stretched with it.
A gap in which nothing was known stays a gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from daemon.service.views import Series
from daemon.web.presenters import quantity, span

WIDTH, HEIGHT = 1_000.0, 100.0  # of the stretching box
TOP, PLOT, FOOT = 18, 132, 20  # px above, of and below the plot
POINTS_MAX = 400  # buckets; each shows its lowest and its highest
FIGURES = 12  # rows of the table under a drawing
_AXES = {"ratio": (100.0, "%"), "rate/h": (100.0, "%/h"), "USD": (1.0, " USD"), "price": (1.0, " USD")}
GRID = (0.0, 0.5, 1.0)
CLEAR = 9  # px between two words


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """What the edges of a drawing stand for."""

    first: float
    last: float
    low: float
    high: float

    def x(self, time: float) -> float:
        """0 to WIDTH."""
        return WIDTH * (time - self.first) / ((self.last - self.first) or 1.0)

    def y(self, value: float) -> float:
        """0 at the top to HEIGHT."""
        return HEIGHT * (1.0 - (value - self.low) / ((self.high - self.low) or 1.0))

    def percent(self, value: float) -> float:
        """px from the top of the whole drawing."""
        return TOP + PLOT * self.y(value) / HEIGHT


def known(series: Series) -> list[tuple[float, float]]:
    """The points of a series that were known."""
    return [(time, value) for time, value in zip(series.times, series.values, strict=True) if value is not None and math.isfinite(value)]


def scale(series: Series) -> Scale | None:
    """What a drawing of the series spans, its bounds in sight; None when nothing was ever known."""
    points = known(series)
    if not points:
        return None
    values = [value for _, value in points]
    bounds = [bound for bound in (series.threshold, series.clears) if bound is not None and math.isfinite(bound)]
    low, high = min(values), max(values)
    reach = high - low
    # A bound that is far away would flatten the course to a line: it is then named below the drawing instead.
    near = [bound for bound in bounds if low - 6 * (reach or abs(bound)) <= bound <= high + 6 * (reach or abs(bound))]
    low, high = min([low, *near]), max([high, *near])
    pad = 0.06 * ((high - low) or abs(high) or 1.0)
    return Scale(first=series.times[0], last=series.times[-1], low=low - pad, high=high + pad)


@dataclass(frozen=True, slots=True, kw_only=True)
class Courses:
    """The drawings of an entity: what is looked at first, the rest, and what never changed."""

    first: tuple[Markup, ...]
    more: tuple[Markup, ...]
    still: tuple[tuple[str, str], ...]


def arranged(found: Sequence[Series], order: Sequence[str]) -> Courses:
    """The series in the order in which they are looked at."""
    moving = [series for series in found if len({value for _, value in known(series)}) > 1]
    still = [(series.name, quantity(series.values[-1] if series.values else None, series.unit)) for series in found if series not in moving]
    first = sorted((series for series in moving if series.name in order), key=lambda series: order.index(series.name))
    more = [series for series in moving if series.name not in order]
    if not first:
        first, more = more, []
    return Courses(first=tuple(chart(one) for one in first), more=tuple(chart(one) for one in more), still=tuple(still))


def axis(value: float, reach: float, unit: str) -> str:
    """What a line of the grid stands for, with as many digits as the drawing's reach gives sense to."""
    factor, suffix = _AXES.get(unit, (1.0, f" {unit}" if unit not in ("1", "bool") else ""))
    if unit in ("s", "bool") or reach <= 0.0:
        return quantity(value, unit)
    digits = min(8, max(0, math.ceil(-math.log10(reach * factor)) + 1))
    return f"{value * factor:,.{digits}f}{suffix}"


def _thinned(points: Sequence[tuple[float, float | None]]) -> list[tuple[float, float | None]]:
    """At most two points a bucket, the lowest and the highest in their order; a bucket with a gap keeps it."""
    if len(points) <= 2 * POINTS_MAX:
        return list(points)
    size = len(points) / POINTS_MAX
    kept: list[tuple[float, float | None]] = []
    for i in range(POINTS_MAX):
        bucket = points[int(i * size) : int((i + 1) * size)]
        there = [(time, value) for time, value in bucket if value is not None]
        if there:
            low, high = min(there, key=lambda p: p[1]), max(there, key=lambda p: p[1])
            kept += sorted({low, high})
        if len(there) < len(bucket):
            kept.append((bucket[-1][0], None))
    return kept


def line(series: Series, edges: Scale) -> str:
    """The course as path commands; each gap begins a new stroke, a lone point is a dot."""
    commands: list[str] = []
    drawing = False
    points: list[tuple[float, float | None]] = [
        (time, value if value is not None and math.isfinite(value) else None)
        for time, value in zip(series.times, series.values, strict=True)
    ]
    for time, value in _thinned(points):
        if value is None:
            drawing = False
            continue
        at = f"{edges.x(time):.1f} {edges.y(value):.2f}"
        commands.append(f"L{at}" if drawing else f"M{at}h.01")
        drawing = True
    return "".join(commands)


def chart(series: Series, *, name: str = "", hold_s: float = 0.0) -> Markup:
    """A figure of a series with its bounds, and its figures as a table for whoever cannot see it; `hold_s` is shaded at the end."""
    title = name or series.name
    edges = scale(series)
    if edges is None:
        told = "nothing was ever read" if not series.times else "unknown all the time"
        return Markup('<figure class="chart"><figcaption><b>{}</b> <span class="soft">{}</span></figcaption></figure>').format(title, told)
    points = known(series)
    latest = series.values[-1]
    values = [value for _, value in points]
    facts = [f"now {quantity(latest, series.unit)}", f"{quantity(min(values), series.unit)} to {quantity(max(values), series.unit)}"]
    if series.threshold is not None:
        facts.append(f"bound {quantity(series.threshold, series.unit)}")
    if series.clears is not None:
        facts.append(f"clears at {quantity(series.clears, series.unit)}")
    if hold_s > 0:
        facts.append(f"shaded: the hold of {span(hold_s)}")
    return Markup(
        '<figure class="chart"><figcaption><b>{title}</b> <span class="soft">{facts}</span></figcaption>'
        '<svg role="img" width="100%" height="{height}" aria-label="{label}">{grid}'
        '<svg x="0" y="{top}" width="100%" height="{plot}" viewBox="0 0 {wide:g} {high:g}" preserveAspectRatio="none">{hold}{bounds}'
        '<path class="course" d="{path}"/></svg>{values}{names}{times}</svg>{figures}</figure>'
    ).format(
        title=title,
        facts=" · ".join(facts),
        label=f"{title} over {span(edges.last - edges.first)}: {'; '.join(facts)}",
        height=TOP + PLOT + FOOT,
        top=TOP,
        plot=PLOT,
        wide=WIDTH,
        high=HEIGHT,
        grid=_grid(),
        values=_values(series, edges),
        hold=_hold(edges, hold_s),
        bounds=_bounds(series, edges),
        path=line(series, edges),
        names=_names(series, edges),
        times=_times(edges),
        figures=_figures(series),
    )


def _grid() -> Markup:
    return Markup("").join(
        Markup('<line class="grid" x1="0" x2="100%" y1="{y:.1f}" y2="{y:.1f}"/>').format(y=TOP + PLOT * (1.0 - part)) for part in GRID
    )


def _values(series: Series, edges: Scale) -> Markup:
    """What the lines of the grid stand for; on top of the course, so that they can be read."""
    drawn = Markup("")
    bounds = [edges.percent(bound) for bound in (series.threshold, series.clears) if bound is not None and _drawn(edges, bound)]
    for part in GRID:
        value = edges.low + part * (edges.high - edges.low)
        if any(abs(edges.percent(value) - 5 - bound) < CLEAR for bound in bounds):
            continue  # the bound's own name says enough there
        told = axis(value, edges.high - edges.low, series.unit)
        drawn += Markup('<text x="2" y="{:.1f}">{}</text>').format(TOP + PLOT * (1.0 - part) - 4, told)
    return drawn


def _drawn(edges: Scale, bound: float | None) -> bool:
    return bound is not None and edges.low <= bound <= edges.high


def _bounds(series: Series, edges: Scale) -> Markup:
    drawn = Markup("")
    for kind, bound in (("bound", series.threshold), ("clears", series.clears)):
        if bound is not None and _drawn(edges, bound):
            drawn += Markup('<line class="{}" x1="0" x2="{:g}" y1="{y:.2f}" y2="{y:.2f}"/>').format(kind, WIDTH, y=edges.y(bound))
    return drawn


def _hold(edges: Scale, hold_s: float) -> Markup:
    if hold_s <= 0:
        return Markup("")
    wide = min(WIDTH, max(4.0, WIDTH * hold_s / ((edges.last - edges.first) or 1.0)))
    return Markup('<rect class="hold" x="{:.1f}" y="0" width="{:.1f}" height="{:g}"/>').format(WIDTH - wide, wide, HEIGHT)


def _names(series: Series, edges: Scale) -> Markup:
    drawn = Markup("")
    for kind, word, bound in (("bound", "bound", series.threshold), ("clears", "clears", series.clears)):
        if bound is not None and _drawn(edges, bound):
            y = edges.percent(bound)
            drawn += Markup('<text class="{}" x="100%" dx="-2" y="{:.1f}" text-anchor="end">{} {}</text>').format(
                kind, y - 4 if y > TOP + 12 else y + 13, word, quantity(bound, series.unit)
            )
    return drawn


def _times(edges: Scale) -> Markup:
    pattern = "%H:%M" if edges.last - edges.first < 86_400 else "%d %b %H:%M"
    drawn = Markup("")
    for part, anchor in ((0.0, "start"), (0.5, "middle"), (1.0, "end")):
        moment = datetime.fromtimestamp(edges.first + part * (edges.last - edges.first), UTC)
        drawn += Markup('<text x="{:.0%}" y="{}" text-anchor="{}">{}</text>').format(
            part, TOP + PLOT + 15, anchor, moment.strftime(pattern) + (" UTC" if part == 1.0 else "")
        )
    return drawn


def _figures(series: Series) -> Markup:
    """Some rows of the course, evenly spaced, the last one with them."""
    count = len(series.times)
    rows = sorted({round(i * (count - 1) / (FIGURES - 1)) for i in range(FIGURES)}) if count > 1 else [0]
    cells = Markup("").join(
        Markup("<tr><th scope=row>{}</th><td>{}</td></tr>").format(
            datetime.fromtimestamp(series.times[i], UTC).strftime("%H:%M:%S"), quantity(series.values[i], series.unit)
        )
        for i in rows
    )
    return Markup(
        "<details class=figures><summary>Figures</summary><table><thead><tr><th scope=col>UTC</th><th scope=col>{}</th></tr></thead>"
        "<tbody>{}</tbody></table></details>"
    ).format(series.unit, cells)
