"""The three pictures of a stress as inline SVG (floor 5): the fan of the margin ratio, with against without, and the survival map.

Drawings are stretched to their boxes and strokes are not; every text stands outside as HTML, so that a phone does not shrink it. Classes
are those of `page_style`, and what `STYLE` below adds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from daemon.simulation.stress.fan import WITH, WITHOUT, DrawnPath, Fan, Floats
from daemon.simulation.stress.survival import SurvivalMap
from daemon.units import HOUR_NS, show_duration

WIDTH, HEIGHT = 2_000, 1_000  # of a drawing, in its own units
RATIO_TOP = 1.1  # where the fan's axis ends: beyond 1 an account is liquidated
LEVELS = (0.01, 0.1, 0.5)  # of the survival map's contours
DOTS_MAX = 1_500  # of the scatter
ACTS_MAX = 400  # marks of the fan
STYLE = """
.two{display:grid;grid-template-columns:repeat(2,minmax(0,1fr));gap:0 28px}
.tall .plot{grid-template-rows:340px 22px}
.square .plot{grid-template-columns:66px minmax(0,520px)}
.square .area{aspect-ratio:1}
.square .plot{grid-template-rows:auto 22px}
svg path.fill{stroke:none}
.fill.outer{opacity:.16}.fill.inner{opacity:.3}
.fill.with{fill:var(--with)}.fill.without{fill:var(--without)}
.median{stroke-width:2.25}.median.with{stroke:var(--with)}.median.without{stroke:var(--without)}
.single{stroke:var(--price);stroke-width:.9;opacity:.5}
.contour{stroke-width:2}.contour.with{stroke:var(--with)}.contour.without{stroke:var(--without);stroke-dasharray:7 4}
.contour.l0{stroke-width:1.2}.contour.l2{stroke-width:3.2}
.dot{stroke-linecap:round;stroke-width:4.5;stroke:var(--price);opacity:.4}
.dot.saved{stroke:var(--with);stroke-width:6;opacity:.9}
.dot.harmed{stroke:var(--without);stroke-width:7;opacity:1;stroke-linecap:square}
.dot.here{stroke:var(--ink);stroke-width:11;opacity:1}
.diagonal{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:3 3}
.key.median{border-color:var(--with)}.key.median.without{border-top:2.5px solid var(--without)}
.key.outer{height:12px;width:14px;border:0;background:var(--with);opacity:.3}.key.outer.without{background:var(--without)}
.key.single{border-top:1px solid var(--price)}
.key.dots{width:9px;height:9px;border:0;border-radius:50%;background:var(--price);opacity:.6}
.key.dots.saved{background:var(--with);opacity:1}.key.dots.harmed{background:var(--without);border-radius:0;opacity:1}
.key.dots.here{background:var(--ink);opacity:1}
.tip{position:absolute;font-size:12px;color:var(--ink);transform:translate(9px,-50%);white-space:nowrap;background:var(--card);
  padding:0 4px;border-radius:3px;line-height:1.3}
.tip.left{transform:translate(calc(-100% - 9px),-50%)}
.axis{font-size:12px;color:var(--soft);margin:2px 0 0 66px}
.up-axis{font-size:12px;color:var(--soft);margin:0 0 4px}
.mark.act{stroke:var(--move);stroke-width:6}.halo.act{stroke-width:8}
.key.act{width:9px;height:9px;border:0;border-radius:50%;background:var(--move)}
@media (max-width:760px){.two{grid-template-columns:minmax(0,1fr)}}
@media (max-width:640px){
  .tall .plot{grid-template-rows:260px 22px}
  .square .plot{grid-template-columns:54px minmax(0,1fr);grid-template-rows:auto 22px}
  .axis{margin-left:54px}
  .tip.level{display:none}
}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Frame:
    """A drawing with its axes: ticks are (share of the way, text)."""

    id: str
    title: str
    about: str
    across: Sequence[tuple[float, str]]
    up: Sequence[tuple[float, str]]
    paths: Sequence[str]
    legend: Sequence[tuple[str, str]] = ()  # (class, name)
    tips: Sequence[tuple[float, float, str]] = ()  # (share across, share up, text)
    level: tuple[float, str] | None = None
    style: str = ""
    across_name: str = ""
    up_name: str = ""

    def html(self) -> str:
        """The figure."""
        grid = "".join(f"M0 {_y(share):.0f}H{WIDTH}" for share, _ in self.up)
        grid += "".join(f"M{WIDTH * share:.0f} 0V{HEIGHT}" for share, _ in self.across)
        level = over = ""
        if self.level is not None:
            level = f'<path class="level" d="M0 {_y(self.level[0]):.1f}H{WIDTH}"/>'
            over = f'<span class="level-name" style="top:{100 * (1 - self.level[0]):.2f}%">{escape(self.level[1])}</span>'
        rising = "".join(f'<span style="top:{100 * (1 - share):.2f}%">{escape(name)}</span>' for share, name in self.up)
        along = "".join(_below(share, name) for share, name in self.across)
        tips = "".join(_tip(x, y, text) for x, y, text in self.tips)
        legend = "".join(f'<li><span class="key {style}"></span>{escape(name)}</li>' for style, name in self.legend)
        listed = f'<ul class="legend">{legend}</ul>' if legend else ""
        above = f'<p class="up-axis">{escape(self.up_name)}</p>' if self.up_name else ""
        return (
            f'<figure class="chart {self.style}" id="{self.id}"><figcaption><h3>{escape(self.title)}</h3>{listed}</figcaption>{above}'
            f'<div class="plot"><div class="ys" aria-hidden="true">{rising}</div><div class="area">'
            f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none" role="img" aria-labelledby="{self.id}-t {self.id}-d">'
            f'<title id="{self.id}-t">{escape(self.title)}</title><desc id="{self.id}-d">{escape(self.about)}</desc>'
            f'<path class="grid" d="{grid}"/>{"".join(self.paths)}{level}</svg>{over}{tips}</div>'
            f'<div class="xs" aria-hidden="true">{along}</div></div>'
            f"{f'<p class=axis>{escape(self.across_name)}</p>' if self.across_name else ''}</figure>"
        )


def _y(share: float) -> float:
    return (1.0 - share) * HEIGHT


def _below(share: float, name: str) -> str:
    style = "start" if share < 0.04 else "end" if share > 0.96 else ""
    return f'<span class="{style}" style="left:{100 * share:.2f}%">{escape(name)}</span>'


def _tip(x: float, y: float, text: str) -> str:
    style = ("" if x <= 0.75 else " left") + (" level" if "%" in text else "")
    return f'<span class="tip{style}" style="left:{100 * x:.2f}%;top:{100 * (1 - y):.2f}%">{escape(text)}</span>'


def _line(points: Iterable[tuple[float, float]]) -> str:
    """Path data of points in shares of the drawing."""
    return "".join(f"{'L' if i else 'M'}{WIDTH * x:.1f} {_y(y):.1f}" for i, (x, y) in enumerate(points))


def _dots(places: Iterable[tuple[float, float]], cell: float = 4.0) -> str:
    """Strokes without length, which no stretching deforms; of those that would lie on each other one is drawn."""
    cells = {(round(WIDTH * x / cell), round(_y(y) / cell)): (WIDTH * x, _y(y)) for x, y in places}
    return "".join(f"M{x:.1f} {y:.1f}h0" for x, y in cells.values())


# -- the fan -----------------------------------------------------------------------------------------------------------------------


def fan_figure(fan: Fan, side: int, drawn: Sequence[DrawnPath]) -> str:
    """The margin ratio of one side over the horizon: bands of 90 and 50 % of paths, the median, the worst paths and what was done."""
    name = "with" if side == WITH else "without"
    levels = fan.bands(side, (0.05, 0.25, 0.5, 0.75, 0.95))
    span = fan.hours * HOUR_NS
    hours = [(hour + 1) / fan.hours for hour in range(fan.hours)]

    def height(ratio: float) -> float:
        return min(ratio, RATIO_TOP) / RATIO_TOP

    def band(low: int, high: int) -> str:
        there = list(zip(hours, map(height, levels[high].tolist()), strict=True))
        back = list(zip(hours, map(height, levels[low].tolist()), strict=True))[::-1]
        return _line([*there, *back]) + "z"

    paths = [
        f'<path class="fill outer {name}" d="{band(0, 4)}"/>',
        f'<path class="fill inner {name}" d="{band(1, 3)}"/>',
    ]
    acts: list[tuple[float, float]] = []
    singles = ""
    for path in drawn:
        ratios = path.having if side == WITH else path.without
        at = path.at / span
        kept = _until_liquidated(ratios)
        singles += _line((float(x), height(float(y))) for x, y in zip(at[:kept], ratios[:kept], strict=True))
        if side == WITH:
            for act in path.acts:
                place = min(int(np.searchsorted(path.at, act.at)), len(ratios) - 1)
                acts.append((act.at / span, height(float(ratios[place]))))
    if singles:
        paths.append(f'<path class="single" d="{singles}"/>')
    paths.append(f'<path class="median {name}" d="{_line(zip(hours, map(height, levels[2].tolist()), strict=True))}"/>')
    if acts:
        spots = _dots(acts[:ACTS_MAX], 8.0)
        paths.append(f'<path class="halo act" d="{spots}"/><path class="mark act" d="{spots}"/>')
    legend = [(f"median {name}", "median"), (f"outer {name}", "50 and 90 % of paths")]
    legend += [("single", f"the {len(drawn)} worst")] if drawn else []
    legend += [("act", "act of a runbook")] if acts else []
    lost = float(fan.beyond(side)[-1])
    return _Frame(
        id=f"fan-{name}", title=f"Margin ratio, {name} the runbooks", style="tall",
        about=f"Bands of the margin ratio {name} the runbooks; at the horizon {100 * lost:.2f} % of paths are liquidated.",
        across=_hour_ticks(fan.hours), up=[(height(ratio), f"{ratio:.0%}") for ratio in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)],
        paths=paths, legend=legend, level=(height(1.0), f"liquidation ({100 * lost:.2f}% of paths)"),
    ).html()  # fmt: skip


def _until_liquidated(ratios: Floats) -> int:
    """How many points a line has: it ends where it crosses the liquidation line."""
    over = np.flatnonzero(ratios >= 1.0)
    return int(over[0]) + 1 if len(over) else len(ratios)


def _hour_ticks(hours: int) -> list[tuple[float, str]]:
    step = next((step for step in (1, 2, 3, 6, 12, 24, 48, 72, 168) if hours / step <= 8), 168)
    return [(hour / hours, f"{hour // 24}d" if step >= 24 else f"{hour}h") for hour in range(0, hours + 1, step)]


# -- with against without -----------------------------------------------------------------------------------------------------------


def pairs_figure(pairs: Sequence[tuple[float, float, str]]) -> str:
    """P&L of each path without (across) and with (up); `pairs` are (without, with, saved | harmed | empty), the last drawn on top."""
    ordered = sorted(pairs, key=lambda pair: ("", "saved", "harmed").index(pair[2]))
    values = [value for pair in pairs for value in pair[:2]] or [0.0]
    low, high = min(values), max(values)
    room = (high - low) * 0.04 or 1.0
    low, high = low - room, high + room

    def place(value: float) -> float:
        return (value - low) / (high - low)

    kinds: dict[str, list[tuple[float, float]]] = {"": [], "saved": [], "harmed": []}
    for without, having, kind in ordered:
        kinds[kind].append((place(without), place(having)))
    step = max(1, -(-len(kinds[""]) // DOTS_MAX))
    shown = {"": kinds[""][::step], "saved": kinds["saved"], "harmed": kinds["harmed"]}
    paths = [f'<path class="diagonal" d="M0 {HEIGHT}L{WIDTH} 0"/>']
    paths += [f'<path class="dot {kind}" d="{_dots(places)}"/>' for kind, places in shown.items() if places]
    ticks = [(place(value), _thousands(value)) for value in _round_values(low, high)]
    legend = [("dots", "one path"), ("dots saved", "liquidated only without"), ("dots harmed", "worse only with")]
    return _Frame(
        id="pairs", title="P&L of each path, USD", style="square", across=ticks, up=ticks, paths=paths,
        about="Each path once: its P&L without the runbooks across, with them upwards; above the diagonal the runbooks helped.",
        legend=[legend[0], *(entry for entry, kind in zip(legend[1:], ("saved", "harmed"), strict=True) if kinds[kind])],
        across_name="without the runbooks; above the diagonal they helped", up_name="with the runbooks",
    ).html()  # fmt: skip


def _thousands(value: float) -> str:
    if value == 0.0:
        return "0"
    return f"{value / 1e6:+,.3g}M" if abs(value) >= 1e6 else f"{value / 1e3:+,.3g}k" if abs(value) >= 1e3 else f"{value:+,.3g}"


def _round_values(low: float, high: float) -> list[float]:
    rough = (high - low) / 5
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(scale * nice for nice in (1.0, 2.0, 2.5, 5.0, 10.0) if scale * nice >= rough * (1 - 1e-9))
    return [k * step for k in range(math.ceil(low / step), math.floor(high / step) + 1)]


# -- the survival map ----------------------------------------------------------------------------------------------------------------


def survival_figure(picture: SurvivalMap) -> str:
    """Contours of P(liquidation) over move and delay, with and without; the book as a dot by route."""
    moves, delays = picture.moves, picture.delays_s
    across, up = _scale(float(moves[0]), float(moves[-1])), _scale(math.log(float(delays[0])), math.log(float(delays[-1])))
    paths, tips = [], []
    for name, having in (("without", False), ("with", True)):
        for i, level in enumerate(LEVELS):
            points = [(across(move), up(math.log(delay))) for move, delay in picture.contour(having, level)]
            if len(points) < 2:
                continue
            paths.append(f'<path class="contour {name} l{i}" d="{_line(points)}"/>')
            x, y = points[len(points) * (5 + i) // 8] if having else points[-1]
            tips.append((x, y if having else y - 0.03 - 0.06 * i, f"{level:.0%} {name}"))
    dots = [(across(move), up(math.log(delay)), name) for name, move, delay in picture.dots if delays[0] <= delay <= delays[-1]]
    paths.append(f'<path class="dot here" d="{_dots((x, y) for x, y, _ in dots)}"/>' if dots else "")
    tips += dots
    way = "fall" if picture.direction < 0 else "rise"
    step = _round_values(float(moves[0]), float(moves[-1]))
    return _Frame(
        id="survival-map", title="P(liquidation) of 1, 10 and 50 %, thin to thick", style="tall", about=picture.about,
        across=[(across(move), f"{move:.0%}") for move in step],
        up=[(up(math.log(s)), show_duration(s)) for s in (10.0, 60.0, 600.0, 3_600.0, 21_600.0, 86_400.0) if delays[0] <= s <= delays[-1]],
        paths=paths, tips=tips,
        legend=[("with", "with: liquidated before the money is there"), ("without", "without: liquidated within the horizon"),
                ("dots here", "the book today, by route")],
        across_name=f"common {way} of all prices, money is sent then", up_name="settlement delay: 95 % of transfers are there within",
    ).html()  # fmt: skip


def _scale(low: float, high: float) -> Callable[[float], float]:
    span = (high - low) or 1.0
    return lambda value: (value - low) / span


def fans(fan: Fan, drawn: Sequence[DrawnPath]) -> str:
    """Both sides beside each other, below each other on a phone."""
    return f'<div class="two">{fan_figure(fan, WITHOUT, drawn)}{fan_figure(fan, WITH, drawn)}</div>'
