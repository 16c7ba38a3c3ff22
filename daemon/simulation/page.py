"""The report as one page that opens anywhere (floor 5): HTML with its style, script and drawings inside, and nothing fetched.

In the order in which a trader reads: what it came to without luck, what it rests on, the account, the markets, the margin, the
funding, every episode with why it fired, every run with what it contributed, and what none of this can know.

    page(report, Picture(having=..., lacking=...))      # a str; a few hundred kB, whatever the recording holds
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from daemon.simulation.account import Liquidated
from daemon.simulation.charts import DRAWN_BUCKETS, Chart, Line, Marks, figure
from daemon.simulation.curve import Curve, Track
from daemon.simulation.episode import Episode, EpisodeAction
from daemon.simulation.outturn import Difference
from daemon.simulation.page_style import SCRIPT, STYLE
from daemon.simulation.report import ANECDOTE_BELOW, Report, signed, split_table
from daemon.units import iso, show, show_duration

EPISODES_SHOWN_MAX = 600  # on the page; report.json and episodes.parquet have all
EPISODES_A_PAGE = 50
ACTIONS_SHOWN_MAX = 10  # of one episode
WHY_SHOWN_MAX = 14  # lines of one explanation
COLUMNS = "".join(f'<col style="width:{width}%">' for width in (17, 10, 20, 23, 30))  # of the episodes
MARKETS_DRAWN_MAX = 8
RATIO_CUT = 1.5  # a margin ratio is drawn up to here: beyond 1 it was liquidated
LOGARITHMIC_BELOW = 0.2  # a margin ratio that never comes near 1 is drawn by powers of ten


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What is drawn of the two passes."""

    having: Track
    lacking: Track
    liquidated: tuple[Liquidated, ...] = ()  # WITH
    liquidated_without: tuple[Liquidated, ...] = ()

    @property
    def since(self) -> int:
        """When the account was first worth something known: where every chart begins."""
        known = self.lacking.equity.points()
        return int(known.at[0]) if len(known) else self.lacking.equity.first_at


def page(report: Report, picture: Picture, acceptance: Sequence[str] = ()) -> str:
    """The whole document; `acceptance` are lines on what the runbooks' own `replay:` sections ask."""
    named = f" of {report.recording}" if report.recording else ""
    sections = [
        ("headline", "Headline", _headline(report)),
        ("account", "Account", _account(report, picture)),
        ("markets", "Markets", _markets(report, picture)),
        ("margin", "Margin and funding", _margin(report, picture)),
        ("episodes", "Episodes", _episodes(report)),
        ("runs", "Runs left out", _contributions(report)),
        ("restore", "Restored or not", _restore(report)),
        ("limits", "What it cannot know", _limits(report, acceptance)),
    ]
    links = "".join(f'<li><a href="#{key}">{name}</a></li>' for key, name, _ in sections)
    body = "".join(f'<section id="{key}" aria-labelledby="{key}-h">{content}</section>' for key, _, content in sections)
    books = ", ".join(report.runbooks[:12]) + (f" and {len(report.runbooks) - 12} more" if len(report.runbooks) > 12 else "")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>Replay{escape(named)}</title><style>{STYLE}</style></head><body>'
        f'<header><h1>Replay{escape(named)}</h1><p class="soft">{_minute(report.first_at)} to {_minute(report.last_at)} UTC,'
        f" {report.rows:,} rows{': ' + escape(books) if books else ''}. WITH the runbooks beside WITHOUT any action, on the same rows and"
        f' account.</p><nav aria-label="Sections"><ul>{links}</ul></nav></header><main>{body}</main>'
        '<footer class="soft">reefd replay. Times are UTC. The figures are those of report.json.</footer>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def _heading(key: str, text: str, lead: str = "") -> str:
    return f'<h2 id="{key}-h">{escape(text)}</h2>' + (f'<p class="soft">{escape(lead)}</p>' if lead else "")


def _minute(at: int) -> str:
    return iso(at)[:16].replace("T", " ")


def _second(at: int) -> str:
    return iso(at)[:19].replace("T", " ")


def _direction_of(value: float) -> str:
    return "up" if round(value, 2) > 0 else "down" if round(value, 2) < 0 else ""


# -- headline --------------------------------------------------------------------------------------------------------------------


def _headline(report: Report) -> str:
    split = report.difference
    value = split.without_direction_usd
    solid = " solid" if report.clusters >= ANECDOTE_BELOW else ""
    sample = {"in": "in sample", "out": "out of sample"}.get(report.sample, "taken as in sample")
    told = {"in": "the runbooks were written with this history in sight", "out": "as the account file says"}
    found = report.contributions
    alarms = ("not computed", "see the notes")
    if found is not None:
        cost = f"cost {found.false_alarms_usd:,.2f} USD" if found.false_alarms else "each left out once"
        if len(found.runs) < found.acted:
            cost += f"; the costliest of {found.acted} that acted"
        alarms = (f"{len(found.false_alarms)} of {len(found.runs)} runs", cost)
    back = report.difference_restored
    dearer = f"bought back by hand; {signed(back.without_direction_at_3x_costs_usd)} at 3x costs"
    tiles = [
        ("At 3x costs", f"{signed(split.without_direction_at_3x_costs_usd)} USD", "fees, slippage and transfer fees tripled"),
        ("Positions liquidated", f"{report.having.liquidations} with, {report.lacking.liquidations} without", _ratio_note(report)),
        ("Had the owner restored on clear", f"{signed(back.without_direction_usd)} USD", dearer),
        ("Sample", sample, told.get(report.sample, "the account file does not say otherwise")),
        ("False alarms", *alarms),
        ("Direction, left out above", f"{signed(split.direction_usd)} USD", "luck unless shown otherwise"),
    ]
    listed = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(big)}<small>{escape(small)}</small></dd></div>" for name, big, small in tiles
    )
    return (
        f'<div class="lead"><div>{_heading("headline", "What the runbooks came to, without direction")}'
        f'<p class="figure {_direction_of(value)}">{signed(value)} <small>USD</small></p>'
        f'<p class="verdict{solid}">{escape(report.verdict)}</p>'
        '<p class="soft">WITH less WITHOUT. Left out is what prices did to the size that had been shrunk.</p></div>'
        f"{_bars(split)}</div><dl class=\"tiles\">{listed}</dl>"
    )


def _ratio_note(report: Report) -> str:
    high, other = report.having.margin_ratio_max, report.lacking.margin_ratio_max
    if high is None or other is None:
        return "margins are not given"
    return f"highest margin ratio {_ratio(high)} and {_ratio(other)}"


def _ratio(value: float | None) -> str:
    if value is None:
        return "not given"
    return "no equity left" if value >= 1e6 else show(value, "ratio")


def _bars(split: Difference) -> str:
    rows = [
        ("Funding", split.funding_usd, ""),
        ("Fees and slippage", split.fees_and_slippage_usd, ""),
        ("Liquidation avoided", split.liquidation_avoided_usd, ""),
        ("Without direction", split.without_direction_usd, "sum"),
        ("Direction", split.direction_usd, "luck"),
    ]
    widest = max(abs(value) for _, value, _ in rows) or 1.0
    listed = ""
    for name, value, style in rows:
        share = 50.0 * abs(value) / widest
        bar = f'<i class="{"plus" if value > 0 else "minus"}" style="width:{share:.2f}%"></i>' if share >= 0.01 else ""
        listed += (
            f'<tr class="{style}"><th scope="row">{name}</th><td class="bar" aria-hidden="true"><span>{bar}</span></td>'
            f'<td class="num">{signed(value)}</td></tr>'
        )
    return (
        '<div><table class="bars"><caption class="soft" style="text-align:left;padding-bottom:4px">WITH less WITHOUT, split, USD</caption>'
        f"<tbody>{listed}</tbody></table></div>"
    )


# -- charts ----------------------------------------------------------------------------------------------------------------------


def _drawn(name: str, style: str, curve: Curve, since: int) -> Line:
    return Line(name=name, style=style, points=curve.coarser(DRAWN_BUCKETS, since).points())


def _pair(picture: Picture, having: Curve, lacking: Curve) -> tuple[Line, ...]:
    return _drawn("with", "with", having, picture.since), _drawn("without", "without", lacking, picture.since)


def _bands(report: Report, episodes: Sequence[Episode]) -> tuple[tuple[int, int], ...]:
    return tuple((episode.fired_at, report.last_at if episode.cleared_at is None else episode.cleared_at) for episode in episodes)


def _account(report: Report, picture: Picture) -> str:
    a, b = report.having, report.lacking
    chart = Chart(
        id="equity", title="Equity", unit="USD", first_at=picture.since, last_at=report.last_at,
        about=f"Equity with and without the runbooks; profit {signed(a.pnl_usd)} with, {signed(b.pnl_usd)} without.",
        lines=_pair(picture, picture.having.equity, picture.lacking.equity), marks=_moves(report),
        bands=_bands(report, report.episodes),
    )  # fmt: skip
    note = '<p class="soft">Equity is what stands at the venue: a buffer that arrives lifts it, which is no profit.</p>'
    step = note if chart.marks else ""
    rows: list[tuple[str, str, str, str]] = [
        ("Profit, USD", signed(a.pnl_usd), signed(b.pnl_usd), "sum"),
        ("direction", signed(a.direction_usd), signed(b.direction_usd), "part"),
        ("funding (+ received)", signed(a.funding_usd), signed(b.funding_usd), "part"),
        ("fees", signed(-a.fees_usd), signed(-b.fees_usd), "part"),
        ("slippage", signed(-a.slippage_usd), signed(-b.slippage_usd), "part"),
        ("transfer fees", signed(-a.transfer_fees_usd), signed(-b.transfer_fees_usd), "part"),
        ("lost in liquidation", signed(-a.liquidation_usd), signed(-b.liquidation_usd), "part"),
        ("Positions liquidated", f"{a.liquidations}", f"{b.liquidations}", ""),
        ("Highest margin ratio", _ratio(a.margin_ratio_max), _ratio(b.margin_ratio_max), ""),
        ("Turnover, USD", f"{a.turnover_usd:,.2f}", f"{b.turnover_usd:,.2f}", ""),
        ("Funding unknown, hours", f"{a.funding_unknown_hours:,g}", f"{b.funding_unknown_hours:,g}", ""),
    ]
    body = "".join(f'<tr class="{style}"><th scope="row">{name}</th><td>{x}</td><td>{y}</td></tr>' for name, x, y, style in rows)
    valued = "Profit counts nothing: at no instant does every position have a price."
    if b.valued_from is not None and b.valued_to is not None:
        valued = f"Profit counts from {_minute(b.valued_from)} to {_minute(b.valued_to)} UTC, while every position has a price."
    return (
        f"{_heading('account', 'The account, with and without')}{figure(chart)}{step}"
        f"{_table(('', 'With', 'Without'), body, 'Figures of both passes')}<p class=\"soft\">{valued}</p>"
    )


def _table(names: Sequence[str], body: str, label: str, text: frozenset[int] = frozenset()) -> str:
    heads = "".join(f'<th scope="col"{" class=text" if index in text else ""}>{escape(name)}</th>' for index, name in enumerate(names))
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(label)}"><table class="numbers">'
        f"<thead><tr>{heads}</tr></thead>"
        f"<tbody>{body}</tbody></table></div>"
    )


def _markets(report: Report, picture: Picture) -> str:
    curves = {market: curve for market, curve in picture.lacking.prices.items() if len(curve.points())}
    if not curves:
        return f"{_heading('markets', 'Markets held')}<p>No market that is held has a price.</p>"
    about = {market: [episode for episode in report.episodes if _concerns(episode, market)] for market in curves}
    ordered = sorted(curves, key=lambda market: -len(about[market]))  # stable: the rest as the account lists them
    drawn = "".join(figure(_market_chart(report, picture, market, curves[market], about[market])) for market in ordered[:MARKETS_DRAWN_MAX])
    rest = ordered[MARKETS_DRAWN_MAX:]
    more = f'<p class="soft">Not drawn: {escape(", ".join(rest))}, held with no more episodes than these.</p>' if rest else ""
    lead = "The price that margin uses, the time of each episode as a band, and what was done as marks."
    return f"{_heading('markets', 'Markets held', lead)}{drawn}{more}"


def _concerns(episode: Episode, market: str) -> bool:
    return episode.subject == market or any(action.market == market for action in episode.actions)


def _market_chart(report: Report, picture: Picture, market: str, curve: Curve, episodes: Sequence[Episode]) -> Chart:
    actions = [action for episode in episodes for action in episode.actions if action.market in (market, "") and action.at is not None]
    done = tuple((a.at or 0, _nan_of(a.price)) for a in actions if a.action.startswith("shrink") and a.outcome == "done")
    would = tuple((a.at or 0, _nan_of(None)) for a in actions if a.outcome == "would")
    marks = [
        Marks(name="shrunk", style="shrink", at=done),
        Marks(name="would have acted (shadow)", style="would", at=would),
        Marks(name="liquidated without", style="liquidated-without", at=_hits(picture.liquidated_without, market)),
        Marks(name="liquidated with", style="liquidated", at=_hits(picture.liquidated, market)),
    ]
    return Chart(
        id=f"price-{list(picture.lacking.prices).index(market)}", title=market, unit="USD", first_at=picture.since, last_at=report.last_at,
        about=f"Price of {market} with {len(episodes)} episodes and {len(done)} shrinks.",
        lines=(_drawn("price", "price", curve, picture.since),), bands=_bands(report, episodes),
        marks=tuple(mark for mark in marks if mark.at),
    )  # fmt: skip


def _nan_of(value: float | None) -> float:
    """The value, NaN for none: the chart puts it at its bottom."""
    return float("nan") if value is None else value


def _hits(liquidated: Sequence[Liquidated], market: str) -> tuple[tuple[int, float], ...]:
    return tuple((hit.at, hit.price) for hit in liquidated if hit.market == market)


def _moves(report: Report) -> tuple[Marks, ...]:
    """The transfers that were accepted, one mark each at the bottom; empty without any."""
    found = tuple(
        (action.at, float("nan"))
        for episode in report.episodes
        for action in episode.actions
        if action.action == "move_buffer" and action.outcome == "done" and action.at is not None
    )
    return (Marks(name="buffer moved", style="move", at=found),) if found else ()


def _margin(report: Report, picture: Picture) -> str:
    high = max(report.having.margin_ratio_max or 0.0, report.lacking.margin_ratio_max or 0.0)
    moves = _moves(report)
    ratio = Chart(
        id="ratio", title="Margin ratio", unit="maintenance margin / equity", first_at=picture.since, last_at=report.last_at,
        about=f"Margin ratio with and without the runbooks; liquidation at 100 %. Highest {_ratio(report.having.margin_ratio_max)} with,"
        f" {_ratio(report.lacking.margin_ratio_max)} without.",
        lines=_pair(picture, picture.having.margin_ratio, picture.lacking.margin_ratio),
        level=(1.0, "liquidation, 100%"), cut=RATIO_CUT,
        percent=True, logarithmic=0.0 < high < LOGARITHMIC_BELOW, marks=moves,
    )  # fmt: skip
    funding = Chart(
        id="funding", title="Cumulative funding", unit="USD, falling = paid, rising = received", first_at=picture.since,
        last_at=report.last_at, bands=_bands(report, report.episodes),
        about=f"Funding since the start: {signed(report.having.funding_usd)} with, {signed(report.lacking.funding_usd)} without.",
        lines=_pair(picture, picture.having.funding, picture.lacking.funding),
    )  # fmt: skip
    known = report.having.margin_ratio_max is not None
    drawn = figure(ratio) if known else '<p>No margin ratio: the account file gives no maintenance margin for a market that is held.</p>'
    return f"{_heading('margin', 'Margin and funding')}{drawn}{figure(funding)}"


# -- episodes --------------------------------------------------------------------------------------------------------------------


def _episodes(report: Report) -> str:
    if not report.episodes:
        return _heading("episodes", "No episode", "No trigger fired: no evidence either way.")
    shown = _chosen(report.episodes)
    lead = f"{len(report.episodes)} in {report.clusters} cluster{'' if report.clusters == 1 else 's'}, in order of firing."
    if len(shown) < len(report.episodes):
        lead += f" Shown are {len(shown)}, those that acted first; all are in report.json and episodes.parquet."
    parts = []
    for start in range(0, len(shown), EPISODES_A_PAGE):
        group = shown[start : start + EPISODES_A_PAGE]
        span = f"{start + 1} to {start + len(group)}: {_minute(group[0].fired_at)} to {_minute(group[-1].fired_at)}"
        rows = "".join(_episode_row(episode) for episode in group)
        names = ("Fired, UTC", "Lasted", "Runbook and entity", "Runs", "Actions and why")
        heads = "".join(f'<th scope="col">{name}</th>' for name in names)
        table = f'<table class="runs"><colgroup>{COLUMNS}</colgroup><thead><tr>{heads}</tr></thead><tbody>{rows}</tbody></table>'
        parts.append(f'<details class="page"{"" if start else " open"}><summary>{span}</summary>{table}</details>')
    return f"{_heading('episodes', 'Episodes', lead)}{''.join(parts)}"


def _chosen(episodes: Sequence[Episode]) -> tuple[Episode, ...]:
    """At most as many as a page bears: those that acted before those that did not, in order of firing."""
    ranked = sorted(range(len(episodes)), key=lambda index: (not episodes[index].actions, index))[:EPISODES_SHOWN_MAX]
    return tuple(episodes[index] for index in sorted(ranked))


def _episode_row(episode: Episode) -> str:
    lasted = "still open" if episode.cleared_at is None else show_duration((episode.cleared_at - episode.fired_at) / 1e9)
    ended = f'<br><span class="soft">{escape(episode.ending)}</span>' if episode.ending in ("gone", "reset") else ""
    runs = "".join(f"<li>{escape(line)}</li>" for line in episode.run_groups())
    status = episode.run_status or "no run"
    style = {"done": " good", "failed": " bad", "unknown": " bad", "aborted": " bad"}.get(status, "")
    several = len(episode.run_statuses) + len(episode.clear_runs) > 1 or any(episode.run_reasons)
    detail = f"<ul>{runs}</ul>" if several else ""
    return (
        f'<tr><td data-label="Fired">{_second(episode.fired_at)}</td><td data-label="Lasted">{lasted}{ended}</td>'
        f"<td><strong>{escape(episode.runbook)}</strong><br>{escape(episode.entity)}</td>"
        f'<td><span class="tag{style}">{escape(status)}</span>{detail}</td>'
        f"<td>{_action_list(episode.actions)}{_why(episode.why)}</td></tr>"
    )


def _action_list(actions: Sequence[EpisodeAction]) -> str:
    if not actions:
        return '<span class="soft">no action</span>'
    items = "".join(f"<li>{escape(_told(action))}</li>" for action in actions[:ACTIONS_SHOWN_MAX])
    more = f'<li class="soft">and {len(actions) - ACTIONS_SHOWN_MAX} more</li>' if len(actions) > ACTIONS_SHOWN_MAX else ""
    return f"<ul>{items}{more}</ul>"


def _told(action: EpisodeAction) -> str:
    text = action.as_text()
    return text if action.at is None else text.replace(iso(action.at), iso(action.at)[11:19], 1)


def _why(lines: Sequence[str]) -> str:
    if not lines:
        return ""
    shown = [line if len(line) <= 160 else line[:157] + "..." for line in lines[:WHY_SHOWN_MAX]]
    if len(lines) > WHY_SHOWN_MAX:
        shown.append(f"... {len(lines) - WHY_SHOWN_MAX} more lines in report.json")
    return f"<details><summary>why it fired</summary><pre>{escape(chr(10).join(shown))}</pre></details>"


# -- counterfactuals -------------------------------------------------------------------------------------------------------------


def _contributions(report: Report) -> str:
    found = report.contributions
    lead = (
        "Each run that changed the account, left out once with every other deed as it was. What it contributed is WITH less"
        " WITH-without-this-run, without direction; below zero it was a false alarm."
    )
    head = _heading("runs", "Each run left out", lead)
    if found is None:
        return f"{head}<p>Not computed; the notes say why.</p>"
    if not found.acted:
        return f"{head}<p>No run changed the account.</p>"
    rows = ""
    for run in found.runs:
        tag = '<span class="tag bad">false alarm</span>' if run.false_alarm else '<span class="tag good">useful</span>'
        if abs(run.split.without_direction_usd) < 0.005:
            tag = '<span class="tag">no difference</span>'
        numbers = (
            run.split.without_direction_usd, run.split.without_direction_at_3x_costs_usd, run.split.funding_usd,
            run.split.liquidation_avoided_usd, -run.cost_usd, run.split.direction_usd,
        )  # fmt: skip
        cells = "".join(f"<td>{signed(value)}</td>" for value in numbers)
        name = f'<th scope="row">{escape(_run_name(run.run_id))}<br><span class="soft">{_second(run.at)}</span></th>'
        rows += f'<tr>{name}<td class="text">{tag}</td>{cells}</tr>'
    names = ("Run and its first action", "Judged", "Contributed, USD", "At 3x costs", "Funding", "Liquidation avoided", "Its costs",
             "Direction, left out")  # fmt: skip
    note = f"<p><strong>{escape(found.note)}.</strong></p>" if found.note else ""
    table = _table(names, rows, "Contribution of each run", frozenset({1}))
    return f"{head}<p><strong>{escape(found.summary)}.</strong></p>{note}{table}"


def _run_name(run_id: str) -> str:
    """`<runbook> on <entity>, run <n>` of a run's id."""
    runbook, _, rest = run_id.partition("/")
    episode, _, number = rest.rpartition("/")
    entity = episode.rpartition("/")[0]
    return f"{runbook} on {entity}, {'clear run' if number == 'clear' else f'run {number}'}"


def _restore(report: Report) -> str:
    lead = (
        "reefd never opens a position: what it shrank stays small (never). Beside it, had the owner bought back by hand what an"
        " episode's runs sold, at the first row of its market once the episode cleared, at the price and costs of that moment (on_clear)."
    )
    rows = ""
    for name, never, cleared in split_table(report.difference, report.difference_restored):
        style = "part" if name.startswith(" ") else "sum" if name == "without direction" else ""
        label = name.strip()
        head = f'<th scope="row">{label[0].upper()}{label[1:]}</th>'
        rows += f'<tr class="{style}">{head}<td>{signed(never)}</td><td>{signed(cleared)}</td></tr>'
    names = ("WITH less WITHOUT, USD", "restore: never", "restore: on_clear")
    lines = ("nothing was shrunk: both are the same",) if report.restored is None else report.restored.lines()
    listed = "".join(f"<li>{escape(line)}</li>" for line in lines)
    table = _table(names, rows, "Difference by what the owner does")
    return f'{_heading("restore", "Restored or not", lead)}{table}<ul class="plain">{listed}</ul>'


def _limits(report: Report, acceptance: Sequence[str]) -> str:
    closing = "".join(
        f"<li><strong>{escape(line.partition(': ')[0])}</strong>: {escape(line.partition(': ')[2])}</li>" for line in report.closing()
    )
    notes = "".join(f"<li>{escape(note)}</li>" for note in report.notes)
    judged = "".join(f"<li>{escape(line)}</li>" for line in acceptance)
    parts = [_heading("limits", "What this report cannot know"), f'<ul class="plain">{closing}</ul>']
    parts += [f'<h3>Notes</h3><ul class="plain">{notes}</ul>'] if notes else []
    parts += [f"<h3>What the runbooks ask of a replay</h3><ul class=\"plain\">{judged}</ul>"] if judged else []
    took = ", ".join(f"{name} {value:.2f} s" for name, value in report.seconds.items())
    return f"{''.join(parts)}<p class=\"soft\">Took: {escape(took)}.</p>"
