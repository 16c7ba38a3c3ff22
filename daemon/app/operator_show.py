"""How the daemon's answers look on a terminal (floor 9): plain words, units on every number, colour beside words and never instead."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from daemon.units import show_duration

TRIES = 30  # of taking up a stream again
AGAIN_S = 2.0
TONES = {
    "BLIND": "bold white on red", "NEEDS YOU": "bold black on yellow", "ACTING": "bold cyan", "WATCHING": "bold", "QUIET": "bold green",
    "done": "green", "good": "green", "bad": "red", "failed": "red", "unknown": "bold red", "aborted": "red", "blocked": "yellow",
    "running": "cyan", "wait": "yellow", "critical": "bold red", "warning": "yellow",
}  # fmt: skip


def console() -> Console:
    """Standard output as it is now."""
    return Console(highlight=False, markup=False)


def _toned(text: str, tone: str = "") -> Text:
    return Text(text, style=TONES.get(tone or text, ""))


def usd(value: float | None) -> str:
    """An amount; None is unknown."""
    return "unknown" if value is None else f"{value:,.0f} USD"


def percent(value: float | None, none: str = "unknown") -> str:
    """A fraction in percent."""
    return none if value is None else f"{value:.1%}"


def _time(text: str | None) -> str:
    return (text or "-").replace("T", " ")[:19]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


# --- now -------------------------------------------------------------------------------------------------------------------


def now(found: Mapping[str, Any]) -> RenderableType:
    """The snapshot: what a person on call asks first, in that order."""
    return Group(*_now(found))


def _now(found: Mapping[str, Any]) -> Iterator[RenderableType]:
    mode = " (dry run)" if found["dry_run"] else ""
    line = Text.assemble((f" {found['line']} ", TONES[found["line"]]), f"  since {_time(found['since'])}: {found['why']}")
    yield line
    worst = found.get("worst_feed")
    feed = "" if worst is None else f", worst feed {worst['source']} {worst['state']}, age {_age(worst['age_s'])}"
    yield Text(f"{found['house']} {found['build']}{mode}, at {_time(found['at'])} UTC, seq {found['seq']}{feed}", style="dim")
    if found["halted"]:
        yield _toned(f"HALTED: {found['halted']}", "critical")
    if found["openings_halted"]:
        yield _toned("openings are halted: every gate is closed", "warning")
    for needed in found["needs"]:
        yield _need_line(needed)
    yield from _listed("accounts", _accounts(found["accounts"]), bool(found["accounts"]))
    yield from _listed("done so far", _acts(found["acts"]), bool(found["acts"]))
    if found["running"]:
        yield Text("\nrunning", style="bold")
        yield from _runs(found["running"])
    yield from _words("hedges", [hedge["text"] for hedge in found["hedges"]])
    near = [f"{t['runbook']} {t['entity']}: {t['text']}, now {t['now']}, {t['distance']}" for t in found["thresholds"][:8]]
    yield from _words("next thresholds", near)
    cash = found["cash"]
    reach = f"{usd(cash['within_5m'])} within 5m, {usd(cash['within_30m'])} within 30m, {usd(cash['later'])} later"
    moving = f"{usd(cash['in_flight'])} in flight, {usd(cash['stuck'])} stuck"
    yield Text(f"cash: {reach}; {moving}")
    yield from _words("nets down", [f"{net['runbook']} {net['entity']}: {net['why']}" for net in found["nets_down"]])
    yield from _words("coming", [f"{_time(each['at'])} {each['text']}" for each in found["upcoming"][:5]])
    yield from _words("degraded", found["problems"])


def _age(seconds: float | None) -> str:
    if seconds is None:
        return "never seen"
    return f"{seconds:.1f}s" if seconds < 60 else show_duration(round(seconds))


def _listed(title: str, table: Table, wanted: bool) -> Iterator[RenderableType]:
    if wanted:
        yield Text(f"\n{title}", style="bold")
        yield table


def _words(title: str, lines: Sequence[str]) -> Iterator[RenderableType]:
    if lines:
        yield Text(f"\n{title}", style="bold")
        yield from (Text(f"  {line}") for line in lines)


def _need_line(needed: Mapping[str, Any]) -> Text:
    deadline = f", until {_time(needed['deadline'])}" if needed["deadline"] else ""
    nothing = f"; if you do nothing: {needed['if_nothing']}" if needed["if_nothing"] else ""
    return Text.assemble(("> ", "bold"), (needed["title"], "bold yellow"), f"{deadline}{nothing} [{needed['target']}]")


def _accounts(accounts: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("account", "margin ratio oracle | mid | reference", "survives", "liquidation in", "equity", "net delta", "age")
    for each in accounts:
        ratios = " | ".join(percent(each[key]) for key in ("margin_ratio", "margin_ratio_at_mid", "margin_ratio_at_reference"))
        survives = "flat" if each["flat"] else percent(each["survivable_move"])
        left = each["time_to_liquidation_s"]
        table.add_row(
            each["id"], ratios, survives, "-" if left is None else show_duration(left), usd(each["equity_usd"]),
            usd(each["net_delta_usd"]), _age(each["age_s"]),
        )  # fmt: skip
    return table


def _acts(acts: Sequence[Mapping[str, Any]]) -> Table:
    table = _table("at", "what", "status", "filled of asked", "cost")
    for act in acts[:10]:
        filled = f"{act['filled'] or 'unknown'} of {act['asked']}"
        cost = "-" if act["cost_usd"] is None else usd(act["cost_usd"])
        table.add_row(_time(act["at"]), act["text"], _toned(act["status"]), filled, cost)
    return table


# --- runs and why ----------------------------------------------------------------------------------------------------------


def _runs(runs_: Sequence[Mapping[str, Any]]) -> Iterator[Text]:
    """Two lines a run: an id is long, and is copied whole."""
    for each in runs_:
        head = Text.assemble((f"{_time(each['started_at'])}  ", "dim"), _toned(each["status"]))
        if each["shadow"] and each["status"] != "shadow":
            head.append(" (shadow)")
        if each["unknown_outcomes"]:
            head.append(f", {each['unknown_outcomes']} unknown", style=TONES["unknown"])
        yield head.append(f"  {each['run_id']}")
        filled = f"{usd(each['filled_usd'])} of {usd(each['asked_usd'])}" if each["asked_usd"] else ""
        told = "; ".join(text for text in (filled, each["waiting"] or each["reason"]) if text)
        if told:
            yield Text(f"{'':21}{told}")


def runs(found: Mapping[str, Any]) -> None:
    """The runs, newest first."""
    out = console()
    if not found["runs"]:
        out.print("no such runs")
        return
    for line in _runs(found["runs"]):
        out.print(line, soft_wrap=True)
    if found["next_before"]:
        out.print(Text("there are more: --limit, --runbook, --status", style="dim"))


def run(found: Mapping[str, Any]) -> None:
    """One run with its trace."""
    out, head = console(), found["head"]
    ended = f", ended {_time(head['ended_at'])}" if head["ended_at"] else ""
    out.print(Text.assemble((head["run_id"], "bold"), "  ", _toned(head["status"]), f"  {head['reason'] or head['waiting']}"))
    amounts = f"filled {usd(head['filled_usd'])} of {usd(head['asked_usd'])}, cost {usd(head['cost_usd'])}"
    out.print(Text(f"started {_time(head['started_at'])}{ended}; {amounts}", style="dim"))
    if found["why"] is not None:
        out.print(f"because {found['why']['text']} ({found['why']['shown']})")
    for moment in found["moments"]:
        step = f"{moment['step']}: " if moment["step"] else ""
        out.print(Text.assemble((f"{_time(moment['at'])}  ", "dim"), f"{step}", _toned(moment["title"], moment["tone"])))
        for line in moment["lines"]:
            out.print(Text(f"{'':21}{line}"))


def why(found: Mapping[str, Any]) -> None:
    """Why a runbook is where it is."""
    out = console()
    out.print(Text.assemble((f"{found['runbook']} on {found['entity']}", "bold"), f" ({found['stage']}, {found['state']})"))
    out.print(found["sentence"])
    for line in found["lines"]:
        if line != found["sentence"]:
            out.print(Text(f"  {line}"))
    for held in found["held_back"]:
        out.print(_toned(f"held back: {held}", "warning"))
    if found["last_run"]:
        out.print(Text(f"last run {found['last_run']}: {found['last_status']} {found['last_reason']}", style="dim"))


# --- deeds -----------------------------------------------------------------------------------------------------------------


def need(found: Mapping[str, Any]) -> None:
    """A plan that waits: what it would do, what it would change, and its digest."""
    out = console()
    out.print(Text(found["title"], style="bold yellow"))
    out.print(Text(f"run {found['run_id']}, step {found['step']}"))
    if found["text"]:
        out.print(found["text"])
    for leg in found["legs"]:
        out.print(f"  {leg['text']}  ({usd(leg['notional_usd'])})")
    before, after = found["before"], found["after"]
    if before is not None and after is not None:
        for key, text, told in (
            ("margin_ratio", "margin ratio", percent),
            ("survivable_move", "survivable move", lambda value: percent(value, "flat or unknown")),
            ("net_delta_usd", "net delta", usd),
        ):
            out.print(f"  {text}: {told(before[key])} -> {told(after[key])}")
    if found["cost_usd"] is not None:
        out.print(f"  cost: {usd(found['cost_usd'])}")
    if found["deadline"]:
        out.print(f"until {_time(found['deadline'])} UTC; if you do nothing: {found['if_nothing'] or 'it is not done'}")
    if found["quorum"] > 1:
        out.print(f"{len(found['approvers'])} of {found['quorum']} approved: {', '.join(found['approvers']) or 'nobody'}")
    out.print(Text(f"digest {found['digest']}", style="dim"))


def effect(found: Mapping[str, Any]) -> None:
    """What came of a command."""
    console().print(_toned(found["effect"], "good" if found["done"] else "bad"))


def halted(found: Mapping[str, Any]) -> None:
    """What came of a halt or its end: the flag, and the daemon."""
    console().print(_toned(found["flag"], "warning"))
    effect(found)


def gate(found: Mapping[str, Any]) -> None:
    """Open or closed, and why."""
    word = Text("open", style="bold green") if found["open"] is True else Text("closed", style="bold red")
    console().print(Text.assemble(f"{found['market']}: ", word, f": {found['why']}"))


def happening(name: str, content: Mapping[str, Any]) -> None:
    """One line of the stream."""
    if name == "lagged":
        console().print(_toned(str(content.get("message", "something was left out")), "warning"))
        return
    console().print(
        Text.assemble((f"{_time(content['at'])}  ", "dim"), f"{content['kind']:<20} ", _toned(content["summary"], content["severity"]))
    )


def again(text: str, failures: int) -> None:
    """Say that the stream broke, and wait before it is taken up again."""
    if failures == 1:
        sys.stderr.write(f"{text}\ntrying again every {AGAIN_S:g} s\n")
    time.sleep(AGAIN_S)


def tokens(found: Sequence[Mapping[str, Any]]) -> None:
    """Who has a token."""
    table = _table("name", "role", "created", "expires")
    for each in found:
        table.add_row(each["name"], each["role"], _time(each["created"]), _time(each["expires"]) if each["expires"] else "never")
    console().print(table if found else "there are no tokens; make one with: reefd token new NAME --role approve")
