"""A stress as one page that opens anywhere (floor 5): HTML with its style and drawings inside, nothing fetched, no script.

page(report)        # a str; the figures are those of the JSON, in the order in which a trader reads
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from daemon.simulation.page_style import STYLE
from daemon.simulation.stress import drawings
from daemon.simulation.stress.fan import DrawnPath
from daemon.simulation.stress.report import ASSUMED, LOSSES, Reading, RestsOn, StressReport, between, share, took, usd
from daemon.units import NS

GROUNDS_OPEN_MAX = 60  # rows
ACTS_SHOWN_MAX = 30  # of one path
_LOCAL = """
.tiles.four{grid-template-columns:repeat(4,minmax(0,1fr))}
@media (max-width:760px){.tiles.four{grid-template-columns:repeat(2,minmax(0,1fr))}}
.arrow{color:var(--soft);font-weight:400}
.grounds td,.grounds th{white-space:normal!important}
table.numbers.grounds{min-width:0;width:100%}
.two{align-items:end}
.grounds td:nth-child(2){white-space:nowrap}
ol.paths{list-style:none;padding:0;margin:8px 0;columns:2 420px;column-gap:28px}
ol.paths>li{break-inside:avoid}
ol.paths summary{font-size:14px;padding:4px 0}
ol.paths ul{margin:2px 0 8px;padding-left:20px;font-size:14px}
.narrow th:first-child{min-width:0}
.tiles+p{margin-top:12px}
@media (max-width:640px){
  .stack thead{position:absolute;width:1px;height:1px;overflow:hidden;clip-path:inset(50%)}
  .stack,.stack tbody,.stack tr,.stack th,.stack td{display:block;width:100%}
  .stack tbody tr{border-top:1px solid var(--edge);padding:6px 0}
  .numbers.stack tbody th{font-weight:600}
  .numbers.stack th,.numbers.stack td{border:0;padding:2px 0;white-space:normal;display:flex;justify-content:space-between;gap:12px}
  .stack td::before{content:attr(data-label);color:var(--soft);text-align:left}
}
h2+.chart{margin-top:10px}
h3.apart{margin:18px 0 2px}
@media (max-width:640px){.grounds td:nth-child(2){white-space:normal}.grounds th:first-child{min-width:0}}
"""


def page(report: StressReport) -> str:
    """The whole document."""
    read = Reading(report.figures)
    sections = [
        ("liquidation", "Liquidation", _headline(read)),
        ("harm", "Harm", _harm(read)),
        ("cash", "Cash and time", _cash(read)),
        ("losses", "Losses", _losses(read, report)),
        ("fan", "Margin ratio", _fan(report)),
        ("survival", "Survival map", _survival(report)),
        ("runbooks", "Runbooks left out", _left_out(read)),
        ("grounds", "What it rests on", _grounds(report, read)),
    ]
    shown = [(key, name, content) for key, name, content in sections if content]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in shown)
    body = "".join(f'<section id="{key}" aria-labelledby="{key}-h">{content}</section>' for key, _, content in shown)
    book, world = escape(read.text("book")), escape(read.text("world") or "not named")
    runbooks = read.at("runbooks")
    named = ", ".join(map(str, runbooks)) if isinstance(runbooks, list) and runbooks else "no runbook"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Stress of {book}</title>'
        f"<style>{STYLE}{drawings.STYLE}{_LOCAL}</style></head><body><header><h1>Stress of {book} in a {world} world</h1>"
        f'<p class="soft">{round(read.number("paths")):,} paths of'
        f" {took(read.number('horizon_s'))}, seed {round(read.number('seed'))}, equity {usd(read.number('equity_usd'))} at the start. WITH:"
        f' {escape(named)}. WITHOUT: nobody does anything, on the same draws.</p><nav aria-label="Sections"><ul>{links}</ul></nav></header>'
        f'<main>{body}</main><footer class="soft">reefd stress. The figures are those of stress.json.</footer></body></html>\n'
    )


def _heading(key: str, text: str, lead: str = "") -> str:
    return f'<h2 id="{key}-h">{escape(text)}</h2>' + (f'<p class="soft">{escape(lead)}</p>' if lead else "")


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], label: str, *, text: frozenset[int] = frozenset(), style: str = "") -> str:
    """Cells are HTML already; the first of a row is its name."""
    heads = "".join(f'<th scope="col"{" class=text" if i in text else ""}>{escape(name)}</th>' for i, name in enumerate(names))
    body = ""
    for row in rows:
        cells = "".join(
            f'<td{" class=text" if i in text else ""} data-label="{escape(names[i])}"><span>{cell}</span></td>'
            for i, cell in enumerate(row[1:], 1)
        )
        body += f'<tr><th scope="row">{row[0]}</th>{cells}</tr>'
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="numbers {style}">'
        f"<thead><tr>{heads}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def _tiles(tiles: Sequence[tuple[str, str, str]], style: str = "") -> str:
    listed = "".join(f"<div><dt>{name}</dt><dd>{big}<small>{small}</small></dd></div>" for name, big, small in tiles)
    return f'<dl class="tiles {style}">{listed}</dl>'


# -- sections --------------------------------------------------------------------------------------------------------------------


def _headline(read: Reading) -> str:
    names = list(read.section("without", "liquidation"))
    tiles = []
    for name in names:
        before, after = (read.number(side, "liquidation", name, "p") for side in ("without", "with"))
        ends = [between(*(read.number(side, "liquidation", name, end) for end in ("low", "high"))) for side in ("without", "with")]
        tiles.append(
            (f"within {escape(name)}", f'{share(before)} <span class="arrow">→</span> {share(after)}', f"95 %: {ends[0]} → {ends[1]}")
        )
    saved = f"{round(read.number('saved_paths')):,}"
    tiles.append(("Saved by the runbooks", f"{saved} paths", f"{share(read.number('saved_probability', 'p'))} of all"))
    independent = ""
    if read.section("independent"):
        claims = " → ".join(share(read.number("independent", side, "liquidation_probability")) for side in ("without", "with"))
        independent = f'<p class="soft">Had coins, chains and venues nothing to do with each other, it would have read {claims}.</p>'
    return _heading("liquidation", "P(liquidation), without → with") + _tiles(tiles, "four") + independent


def _harm(read: Reading) -> str:
    killed, poorer = Reading(read.section("harm", "liquidated_only_with")), Reading(read.section("harm", "poorer"))
    names = (
        ("Liquidated with, not without", killed),
        (f"Poorer by more than {usd(poorer.number('by_more_than_usd'))}, no liquidation avoided", poorer),
    )
    rows = []
    for name, found in names:
        worst = found.section("worst")
        rows.append(
            [
                escape(name), f"{round(found.number('paths')):,}", share(found.number("probability", "p")),
                usd(found.number("mean_usd"), sign=True) if worst else "none",
                usd(found.number("worst", "usd"), sign=True) if worst else "none",
                f"{round(found.number('worst', 'path'))}" if worst else "none",
            ]
        )  # fmt: skip
    count, p = round(read.number("harmed_paths")), share(read.number("harmed_probability", "p"))
    cost, quiet = read.number("premium", "cost_usd"), round(read.number("premium", "paths"))
    premium = (
        f"<p><strong>Premium.</strong> On the {quiet:,} paths where nothing happened, the runbooks cost {usd(cost)} in fees, slippage and"
        f" transfers, and changed P&amp;L by {usd(read.number('premium', 'pnl_change_usd'), sign=True)} on average.</p>"
        if quiet
        else ""
    )
    return (
        _heading("harm", "Harm", f"{count:,} paths ({p}) are worse only with the runbooks.")
        + _table(("", "Paths", "Share", "On average", "Worst", "Its path"), rows, "Harm", style="stack")
        + premium
    )


def _cash(read: Reading) -> str:
    parts = [_heading("cash", "Cash that would have been enough, and the time there is")]
    for row in read.rows("cash"):
        account = escape(row.text("account"))
        rows = []
        for level in row.section("usd"):
            for way in row.rows("routes"):
                leave = way.number("leave_by_s", level)
                enough = way.at("enough", level) is True
                tag = f'<span class="tag {"good" if enough else "bad"}">{"enough" if enough else "not enough"}</span>'
                rows.append(
                    [
                        f"{level} of liquidations", usd(row.number("usd", level)),
                        f"{escape(way.text('chain'))}, by {escape(way.text('route'))}",
                        took(way.number("p95_s")), "from the start" if leave <= 0 else f"within {took(leave)}",
                        f"{usd(way.number('buffer_usd'))} {tag}",
                    ]
                )  # fmt: skip
        lead = f"Account {account}: {round(row.number('liquidated_paths')):,} paths liquidated without the runbooks."
        heads = ("Prevents", "Cash", "From", "95 % there within", "Must leave", "Buffer")
        parts.append(f"<p>{lead}</p>" + _table(heads, rows, f"Cash for {account}", text=frozenset({2}), style="stack"))
    if not read.rows("cash"):
        parts.append("<p>Nothing was liquidated without the runbooks.</p>")
    if read.number("from_80_to_liquidation", "paths"):
        rows = [
            [f"{escape(way.text('route'))}, from {escape(way.text('chain'))}", took(way.number("p95_s")), share(way.number("in_time"))]
            for way in read.rows("from_80_to_liquidation", "routes")
        ]
        cells = ", ".join(f"{name} {took(read.number('from_80_to_liquidation', 's', key))}" for key, name in _TIMES)
        parts.append(f'<h3 class="apart">From a margin ratio of 80 % to liquidation</h3><p>Without the runbooks: {cells}.</p>')
        parts.append(_table(("Money sent at 80 % by", "95 % there within", "In time in"), rows, "Time from 80 % to liquidation"))
    return "".join(parts)


_TIMES = (("p05", "one in twenty within"), ("p50", "half within"), ("p95", "nineteen in twenty within"))


def _losses(read: Reading, report: StressReport) -> str:
    rows = [[escape(name), *(_bare(read.number(side, "pnl_usd", key)) for side in ("without", "with"))] for key, name in LOSSES]
    worst = [
        f"{_bare(read.number(side, 'worst', 'pnl_usd'))}<br><span class=soft>path {round(read.number(side, 'worst', 'path'))}</span>"
        if read.section(side, "worst")
        else "none"
        for side in ("without", "with")
    ]
    stuck = [read.number("with", "stuck_usd", *key) for key in (("probability", "p"), ("mean",), ("max",))]
    note = f"<p>Money stuck at the horizon: on {share(stuck[0])} of paths, {usd(stuck[1])} on average, {usd(stuck[2])} at most.</p>"
    table = _table(("P&L, USD", "Without", "With"), [*rows, ["worst path", *worst]], "P&L", style="narrow")
    return _heading("losses", "What is lost") + table + note + (drawings.pairs_figure(_kinds(report)) if report.pairs else "")


def _bare(value: float) -> str:
    """Whole USD without their unit, which the column's head has."""
    return usd(value, sign=True).removesuffix(" USD")


def _kinds(report: StressReport) -> list[tuple[float, float, str]]:
    return [(pair.without_usd, pair.with_usd, pair.kind) for pair in report.pairs]


def _fan(report: StressReport) -> str:
    if report.fan is None or report.fan.empty:
        return ""
    lead = "The worst account's margin ratio: at 100 % it is liquidated. Bands hold 50 and 90 % of all paths; the worst are drawn singly."
    listed = "".join(_drawn(path) for path in report.drawn)
    paths = f'<h3 class="apart">The paths drawn, and what was done on them</h3><ol class="paths">{listed}</ol>' if listed else ""
    return _heading("fan", "Margin ratio over time", lead) + drawings.fans(report.fan, report.drawn) + paths


def _drawn(path: DrawnPath) -> str:
    acts = "".join(
        f"<li>{took(act.at / NS)}: {escape(f'{act.runbook}: ' if act.runbook else '')}{escape(act.text)}</li>"
        for act in path.acts[:ACTS_SHOWN_MAX]
    )
    more = f"<li>and {len(path.acts) - ACTS_SHOWN_MAX} more</li>" if len(path.acts) > ACTS_SHOWN_MAX else ""
    why = f", {escape(path.why)}" if path.why else ""
    head = f"path {path.number}{why}: {usd(path.pnl_without_usd, sign=True)} without, {usd(path.pnl_with_usd, sign=True)} with"
    return f"<li><details><summary>{head}</summary><ul>{acts}{more or ('' if acts else '<li>nothing was done</li>')}</ul></details></li>"


def _survival(report: StressReport) -> str:
    if report.survival is None:
        return ""
    return _heading("survival", "Survival map", report.survival.about) + drawings.survival_figure(report.survival)


def _left_out(read: Reading) -> str:
    books = read.section("leave_one_out")
    if not books:
        return ""
    rows = []
    for name in books:
        one = Reading(read.section("leave_one_out", name))
        change = {key: -one.number("contributes", key) for key in ("liquidation_probability", "pnl_mean_usd", "cvar95_usd")}
        rows.append(
            [
                escape(name), f"{round(one.number('paths_it_ran_on')):,}", share(one.number("liquidation_probability")),
                f"{100 * change['liquidation_probability']:+.2f}%", usd(change["pnl_mean_usd"], sign=True),
                usd(change["cvar95_usd"], sign=True), f"{round(one.number('contributes', 'saved_paths')):,}",
                f"{round(one.number('contributes', 'lost_paths')):,}",
            ]
        )  # fmt: skip
    names = ("Left out", "Ran on, paths", "P(liquidation) then", "Change", "Mean P&L", "ES95", "Saved by it", "Lost by it")
    lead = "Every path on which a runbook ran is played again without it. Changes are: left out, less all of them."
    return _heading("runbooks", "Runbooks left out", lead) + _table(names, rows, "Runbooks left out", style="stack")


def _source(one: RestsOn) -> str:
    if not one.assumed:
        return escape(one.source)
    return f'<span class="tag bad">assumed</span>{escape(one.source.removeprefix(ASSUMED).removeprefix(":"))}'


def _grounds(report: StressReport, read: Reading) -> str:
    rows = [[escape(one.what), escape(one.value), _source(one)] for one in sorted(report.rests_on, key=lambda one: one.assumed)]
    taken = sum(1 for one in report.rests_on if one.assumed)
    lead = f"{len(rows)} sections of the world, {taken} of them assumed: nobody measured those." if rows else "Not said."
    parts = [_heading("grounds", "What is calibrated, and what is assumed", lead)]
    heads, style, text = ("What", "Value", "Source"), "grounds", frozenset({1, 2})
    if rows:
        parts.append(_table(heads, rows[:GROUNDS_OPEN_MAX], "What it rests on", text=text, style=style))
    if rows[GROUNDS_OPEN_MAX:]:
        table = _table(heads, rows[GROUNDS_OPEN_MAX:], "More of what it rests on", text=text, style=style)
        parts.append(f"<details><summary>{len(rows) - GROUNDS_OPEN_MAX} more</summary>{table}</details>")
    if report.back_test:
        verdicts = {None: "", True: '<span class="tag good">holds</span>', False: '<span class="tag bad">fails</span>'}
        tests = [[escape(test.what), escape(test.value), verdicts[test.passed]] for test in report.back_test]
        parts.append('<h3 class="apart">Back-test of the world</h3>')
        parts.append(_table(("On history it was not fitted to", "Found", ""), tests, "Back-test", text=frozenset({1, 2}), style=style))
    if read.at("importance", "used") is True:
        found = Reading(read.section("importance"))
        parts.append(
            f'<p class="soft">Importance sampling: {round(found.number("tilted_paths")):,} paths tilted towards the loss, effective sample'
            f" {found.number('effective_sample_size'):,.0f} ({share(found.number('effective_share'))} of paths), largest weight"
            f" {found.number('largest_weight'):.3g}.</p>"
        )
    if report.notes:
        parts.append('<ul class="plain">' + "".join(f"<li>{escape(note)}</li>" for note in report.notes) + "</ul>")
    seconds = read.section("seconds")
    if seconds:
        told = ", ".join(f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in seconds.items())
        parts.append(f'<p class="soft">Seconds: {escape(told)}.</p>')
    return "".join(parts)
