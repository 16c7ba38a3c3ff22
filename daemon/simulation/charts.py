"""Charts of a report as inline SVG (floor 5): lines, bands and marks over time, sharp and legible at any width without a script.

The drawing is stretched to its box and its strokes are not; every text stands outside it as HTML, so a phone does not shrink it.

    figure(Chart(id="equity", title="Equity", unit="USD", ...))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

import numpy as np

from daemon.simulation.curve import Points
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS, iso

WIDTH, HEIGHT = 2_000, 500  # of the drawing, in its own units
DRAWN_BUCKETS = 500  # of a line: four points each, about a point a pixel on a desk
BAND_MIN, BAND_MAX = 1.2, 4.0  # units of WIDTH: an episode shorter than a pixel is still seen, and hundreds do not flood a chart
BANDS_SHARE = 0.1  # of the width that bands are made wider to, at most
MARKS_MAX = 400  # of one look on one chart: those that would lie on each other are one
TICKS = 5
_TIME_STEPS = (
    NS, 5 * NS, 15 * NS, 30 * NS, MINUTE_NS, 5 * MINUTE_NS, 15 * MINUTE_NS, 30 * MINUTE_NS, HOUR_NS, 3 * HOUR_NS, 6 * HOUR_NS, 12 * HOUR_NS,
    DAY_NS, 2 * DAY_NS, 7 * DAY_NS, 14 * DAY_NS, 28 * DAY_NS, 56 * DAY_NS, 91 * DAY_NS, 182 * DAY_NS, 365 * DAY_NS, 730 * DAY_NS,
    1825 * DAY_NS,
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One series; `style` is its class: `with`, `without`, `price`."""

    name: str
    style: str
    points: Points


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Things that happened, one look for all: (time, value; NaN = at the bottom)."""

    name: str
    style: str  # shrink | move | would | liquidated | liquidated-without
    at: tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn: `level` is a value with a name that the axis always shows; `cut` is where the axis ends at most."""

    id: str
    title: str
    unit: str
    about: str  # one sentence for those who do not see it
    first_at: int
    last_at: int
    lines: tuple[Line, ...]
    bands: tuple[tuple[int, int], ...] = ()
    marks: tuple[Marks, ...] = ()
    level: tuple[float, str] | None = None
    cut: float = math.inf
    logarithmic: bool = False
    percent: bool = False


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values to heights."""

    low: float
    high: float
    logarithmic: bool

    def share(self, value: float) -> float:
        """0 at the bottom, 1 at the top."""
        value = min(max(value, self.low), self.high)
        if self.logarithmic:
            return math.log(value / self.low) / math.log(self.high / self.low)
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        """Round values within."""
        if self.logarithmic:
            first = math.ceil(math.log10(self.low) - 1e-9)
            return [10.0**power for power in range(first, math.floor(math.log10(self.high) + 1e-9) + 1)]
        step = _round_step((self.high - self.low) / TICKS)
        return [k * step for k in range(math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9) + 1)]


def _round_step(rough: float) -> float:
    scale = 10.0 ** math.floor(math.log10(rough))
    return next(scale * nice for nice in (1.0, 2.0, 2.5, 5.0, 10.0) if scale * nice >= rough * (1 - 1e-9))


def figure(chart: Chart) -> str:
    """The chart as an HTML figure with its axes and legend."""
    axis = _axis(chart)
    span = max(chart.last_at - chart.first_at, 1)

    def x(at: int) -> float:
        return min(max((at - chart.first_at) / span, 0.0), 1.0) * WIDTH

    def y(value: float) -> float:
        return (1.0 - axis.share(value)) * HEIGHT

    ticks, times = axis.ticks(), time_ticks(chart.first_at, chart.last_at)
    # What ended before the chart begins would pile up at its edge.
    bands = [(start, end) for start, end in chart.bands if end >= chart.first_at]
    drawn = [f'<path class="grid" d="{"".join(f"M0 {y(tick):.0f}H{WIDTH}" for tick in ticks)}"/>']
    if bands:
        drawn.append(f'<path class="bands" d="{_band_path(bands, x)}"/>')
    if chart.level is not None:
        drawn.append(f'<path class="level" d="M0 {y(chart.level[0]):.1f}H{WIDTH}"/>')
    # The first line is drawn last, on top.
    for line in reversed(chart.lines):
        drawn.append(f'<path class="line {line.style}" data-name="{escape(line.name)}" d="{_path(line.points, x, y)}"/>')
    for mark in chart.marks:
        spots = _spots([(x(at), HEIGHT - 12.0 if value != value else y(value)) for at, value in mark.at if at >= chart.first_at])
        drawn.append(f'<path class="halo {mark.style}" d="{spots}"/><path class="mark {mark.style}" d="{spots}"/>')
    names = [(100 * y(tick) / HEIGHT, escape(_label(tick, ticks, chart.percent))) for tick in ticks]
    rising = "".join(f'<span style="top:{top:.2f}%">{name}</span>' for top, name in names)
    along = "".join(_time_label(100 * x(at) / WIDTH, text) for at, text in times)
    level = ""
    if chart.level is not None:
        level = f'<span class="level-name" style="top:{100 * y(chart.level[0]) / HEIGHT:.2f}%">{escape(chart.level[1])}</span>'
    scale = "" if not chart.logarithmic else ", logarithmic"
    return (
        f'<figure class="chart" id="{chart.id}"><figcaption><h3>{escape(chart.title)} <small>{escape(chart.unit)}{scale}</small></h3>'
        f"{_legend(chart)}</figcaption>"
        f'<div class="plot"><div class="ys" aria-hidden="true">{rising}</div>'
        f'<div class="area" data-low="{axis.low!r}" data-high="{axis.high!r}"'
        f' data-log="{int(axis.logarithmic)}" data-percent="{int(chart.percent)}" data-first="{chart.first_at // 1_000_000}"'
        f' data-last="{chart.last_at // 1_000_000}">'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-labelledby="{chart.id}-t {chart.id}-d">'
        f'<title id="{chart.id}-t">{escape(chart.title)}, {escape(chart.unit)}</title><desc id="{chart.id}-d">{escape(chart.about)}</desc>'
        f'{"".join(drawn)}</svg>{level}<div class="cursor" hidden></div><output class="reading" hidden></output></div>'
        f'<div class="xs" aria-hidden="true">{along}</div></div></figure>'
    )


def _axis(chart: Chart) -> _Axis:
    values = [line.points.value for line in chart.lines if len(line.points)]
    values += [np.array([value for _, value in mark.at if value == value]) for mark in chart.marks]
    joined = np.concatenate([*values, np.array([chart.level[0]] if chart.level else [])])
    joined = np.minimum(joined, chart.cut)
    if chart.logarithmic:
        known = joined[joined > 0.0]
        low = float(known.min()) if len(known) else 0.1
        return _Axis(10.0 ** math.floor(math.log10(low * 0.999)), float(max(known.max(), low * 10)) * 1.25, True)
    low, high = (float(joined.min()), float(joined.max())) if len(joined) else (0.0, 1.0)
    room = (high - low) * 0.06 or abs(high) * 0.01 or 1.0
    return _Axis(0.0 if low >= 0.0 and chart.percent else low - room, high + room, False)


def _path(points: Points, x: Callable[[int], float], y: Callable[[float], float]) -> str:
    """The points as path data: one `M` a stretch that is known, numbers to a tenth of a unit."""
    parts: list[str] = []
    start = True
    for at, value, broken in zip(points.at.tolist(), points.value.tolist(), points.broken.tolist(), strict=True):
        parts.append(f"{'M' if start or broken else 'L'}{_short(x(at))} {_short(y(value))}")
        start = False
    return "".join(parts)


def _time_label(left: float, text: str) -> str:
    """A text under the axis, within the drawing at both its ends."""
    style = "start" if left < 4 else "end" if left > 96 else ""
    return f'<span class="{style}" style="left:{left:.2f}%">{text}</span>'


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _band_path(bands: Sequence[tuple[int, int]], x: Callable[[int], float]) -> str:
    """Bands as rectangles; those that touch on the drawing are one, so that hundreds stay a few."""
    ordered = sorted(bands)
    least = min(max(BANDS_SHARE * WIDTH / max(len(ordered), 1), BAND_MIN), BAND_MAX)
    merged: list[list[float]] = []
    for start, end in ordered:
        left, right = x(start), max(x(end), x(start) + least)
        if merged and left <= merged[-1][1]:
            merged[-1][1] = max(merged[-1][1], right)
        else:
            merged.append([left, right])
    return "".join(f"M{_short(left)} 0H{_short(right)}V{HEIGHT}H{_short(left)}z" for left, right in merged)


def _spots(places: Sequence[tuple[float, float]]) -> str:
    """Marks as strokes without length, whose round ends no stretching deforms; those in one cell of a grid are drawn once."""
    cell = 8.0
    while True:
        cells = {(round(left / cell), round(top / cell)): (left, top) for left, top in reversed(places)}  # the first of a cell stays
        if len(cells) <= MARKS_MAX:
            return "".join(f"M{_short(left)} {_short(top)}h0" for left, top in reversed(cells.values()))
        cell *= 1.5


def _legend(chart: Chart) -> str:
    items = [(line.name, f"key {line.style}") for line in chart.lines if len(chart.lines) > 1 or chart.marks]
    items += [("episode", "key bands")] if chart.bands else []
    items += [(mark.name, f"key spot {mark.style}") for mark in chart.marks if mark.at]
    listed = "".join(f'<li><span class="{style}"></span>{escape(name)}</li>' for name, style in items)
    return f'<ul class="legend">{listed}</ul>' if listed else ""


def _label(value: float, ticks: Sequence[float], percent: bool) -> str:
    if percent:
        return f"{100 * value:,.4g}%"
    step = min((abs(b - a) for a, b in pairwise(ticks)), default=abs(value) or 1.0)
    digits = max(0, -math.floor(math.log10(step) + 1e-9)) if step < 1 else 0
    digits += step < 10 and round(step * 10**digits, 6) % 1 != 0
    return f"{value + 0.0:,.{digits}f}"


def time_ticks(first_at: int, last_at: int) -> list[tuple[int, str]]:
    """About five round UTC times within, each with its text; the day where it is a midnight."""
    rough = max(last_at - first_at, 1) / TICKS
    step = next((step for step in _TIME_STEPS if step >= rough), _TIME_STEPS[-1])
    found = range(-(-first_at // step) * step, last_at + 1, step)
    ticks = []
    for at in list(found)[:20]:
        text = iso(at)
        day, clock = text[:10], text[11:16] if step >= MINUTE_NS else text[11:19]
        ticks.append((at, day if clock.startswith("00:00") and step >= HOUR_NS else f"{day[5:]} {clock}" if step >= HOUR_NS else clock))
    return ticks
