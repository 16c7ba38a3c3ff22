"""A stress for people (floor 5): text in the order in which a trader reads, from the figures that the JSON has.

report = StressReport(figures=document, rests_on=(RestsOn("BTC volatility", "35% a year", "2025 hourly closes"), ...))
report.as_text()
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from daemon.simulation.stress.fan import DrawnPath, Fan
from daemon.simulation.stress.figures import Json, harms
from daemon.simulation.stress.survival import SurvivalMap
from daemon.simulation.stress.tally import Tally
from daemon.units import show_duration

ASSUMED = "assumed"
VALUE_CHARS = 72  # of a section's numbers on a terminal
NAN = float("nan")


@dataclass(frozen=True, slots=True)
class RestsOn:
    """Something the world takes for granted: what, its value, and where that is from; `assumed` when nobody measured it."""

    what: str
    value: str
    source: str

    @property
    def assumed(self) -> bool:
        """True when no measurement stands behind it."""
        return self.source.startswith(ASSUMED)


@dataclass(frozen=True, slots=True)
class BackTest:
    """One comparison of the world with history that it was not fitted to."""

    what: str
    value: str
    passed: bool | None = None  # None: a figure without a verdict


@dataclass(frozen=True, slots=True)
class Pair:
    """One path's P&L without and with the runbooks, and what they did to it: saved | harmed | empty."""

    without_usd: float
    with_usd: float
    kind: str = ""


def pairs_of(tally: Tally, harm_above_usd: float) -> tuple[Pair, ...]:
    """Every path of a tally as a pair; the kinds are those of `figures`."""
    saved, killed, poorer = harms(tally, harm_above_usd)
    kinds = np.where(saved, "saved", np.where(killed | poorer, "harmed", "")).tolist()
    return tuple(map(Pair, tally.without.pnl_usd.tolist(), tally.having.pnl_usd.tolist(), kinds))


@dataclass(frozen=True, slots=True, kw_only=True)
class StressReport:
    """Everything that a stress says: its figures, what they rest on, and what is drawn of them."""

    figures: Json
    rests_on: tuple[RestsOn, ...] = ()
    back_test: tuple[BackTest, ...] = ()
    fan: Fan | None = None
    drawn: tuple[DrawnPath, ...] = ()
    pairs: tuple[Pair, ...] = ()  # for the scatter
    survival: SurvivalMap | None = None
    notes: tuple[str, ...] = field(default=())

    def as_text(self) -> str:
        """The report for a terminal."""
        read = Reading(self.figures)
        blocks = [
            list(_title(read)), list(_liquidation(read)), list(_harm(read)), list(_cash(read)), list(_time(read)), list(_loss(read)),
            list(_premium(read)), list(_stuck(read)), list(_left_out(read)), list(_weights(read)), list(_independent(read)),
            list(self._grounds()), [f"note: {note}" for note in self.notes], list(_seconds(read)),
        ]  # fmt: skip
        return "\n".join("\n".join(block) + "\n" for block in blocks if block).rstrip("\n")

    def _grounds(self) -> Iterator[str]:
        taken = sum(1 for one in self.rests_on if one.assumed)
        if self.rests_on:
            yield f"rests on {len(self.rests_on)} sections of the world, {taken} of them assumed (the page has them in full):"
            width = min(44, max(len(one.what) for one in self.rests_on))
            for one in sorted(self.rests_on, key=lambda one: one.assumed):
                value = one.value if len(one.value) <= VALUE_CHARS else one.value[:VALUE_CHARS].rpartition(",")[0] + ", ..."
                yield f"  {one.what:<{width}}  {value}  [{one.source}]"
        else:
            yield "rests on: not said"
        for test in self.back_test:
            verdict = "" if test.passed is None else "  holds" if test.passed else "  FAILS"
            yield f"  back-test, {test.what}: {test.value}{verdict}"


class Reading:
    """Figures by path: a number that is null, or not there, is NaN."""

    def __init__(self, document: Mapping[str, object]) -> None:
        self.document = document

    def at(self, *path: str) -> object:
        """What stands at a path; None when nothing does."""
        here: object = self.document
        for step in path:
            here = here.get(step) if isinstance(here, Mapping) else None
        return here

    def number(self, *path: str) -> float:
        """A number, NaN for none."""
        found = self.at(*path)
        return float(found) if isinstance(found, int | float) else NAN

    def text(self, *path: str) -> str:
        """A text, empty for none."""
        found = self.at(*path)
        return found if isinstance(found, str) else ""

    def section(self, *path: str) -> Mapping[str, object]:
        """A mapping, empty for none."""
        found = self.at(*path)
        return found if isinstance(found, Mapping) else {}

    def rows(self, *path: str) -> list[Reading]:
        """The mappings of a list."""
        found = self.at(*path)
        return [Reading(item) for item in found if isinstance(item, Mapping)] if isinstance(found, list) else []


def share(value: float) -> str:
    """A probability in per cent, as many digits as it is worth; `none seen` for NaN."""
    if math.isnan(value):
        return "not known"
    if 0.0 < value < 0.0001:
        return f"{100 * value:.1g}%"
    return f"{round(100 * value, 2) + 0.0:.2f}%"  # + 0.0: no -0.00%


def usd(value: float, *, sign: bool = False) -> str:
    """Whole USD; `-` before a loss, with `sign` also `+` before a gain."""
    if math.isnan(value):
        return "not known"
    rounded = round(value) + 0
    return f"{rounded:+,} USD" if sign else f"{rounded:,} USD"


def between(low: float, high: float) -> str:
    """A 95 % interval."""
    return "" if math.isnan(low) else f"{share(low)[:-1]}-{share(high)}"


def took(seconds: float) -> str:
    """A duration, to the minute once it is longer than an hour."""
    if math.isnan(seconds):
        return "not known"
    return show_duration(float(round(seconds)) if seconds < 3600 else 60.0 * round(seconds / 60.0))


def _title(read: Reading) -> Iterator[str]:
    horizon, paths = took(read.number("horizon_s")), round(read.number("paths"))
    where = f"book {read.text('book')} in world {read.text('world') or 'not named'}"
    yield f"{where}: {paths:,} paths of {horizon}, seed {round(read.number('seed'))}"
    books = read.at("runbooks")
    yield f"WITHOUT -> WITH {', '.join(books) if isinstance(books, list) and books else 'no runbook'}"


def _liquidation(read: Reading) -> Iterator[str]:
    yield "P(liquidation)                  without                       with"
    for name in read.section("without", "liquidation"):
        cells = []
        for side in ("without", "with"):
            p, low, high = (read.number(side, "liquidation", name, key) for key in ("p", "low", "high"))
            cells.append(f"{share(p):>9} ({between(low, high)})" if p == p else "not looked for")
        yield f"  within {name:<8} {cells[0]:>28}  -> {cells[1]:>26}"
    yield f"  paths saved by the runbooks: {round(read.number('saved_paths')):,} ({share(read.number('saved_probability', 'p'))})"


def _harm(read: Reading) -> Iterator[str]:
    count, p = round(read.number("harmed_paths")), read.number("harmed_probability", "p")
    yield f"HARM: {count:,} path{'' if count == 1 else 's'} {'is' if count == 1 else 'are'} worse only with the runbooks ({share(p)})"
    killed, poorer = Reading(read.section("harm", "liquidated_only_with")), Reading(read.section("harm", "poorer"))
    for what, found in (
        ("liquidated with the runbooks, not without", killed),
        (f"poorer by more than {usd(poorer.number('by_more_than_usd'))}, no liquidation avoided", poorer),
    ):
        line = f"  {what}: {round(found.number('paths')):,}"
        if found.section("worst"):
            line += f"; the worst is path {round(found.number('worst', 'path'))}, {usd(found.number('worst', 'usd'), sign=True)}"
        yield line


def _cash(read: Reading) -> Iterator[str]:
    rows = read.rows("cash")
    if not rows:
        yield "CASH: nothing was liquidated without the runbooks"
    for row in rows:
        amounts = row.section("usd")
        count = round(row.number("liquidated_paths"))
        yield f"CASH that, in {row.text('account')} before, would have prevented its liquidations ({count:,} paths)"
        for level in amounts:
            yield f"  {level} of them: {usd(row.number('usd', level))}"
            for way in row.rows("routes"):
                leave = way.number("leave_by_s", level)
                when = "must stand there from the start" if leave <= 0.0 else f"must leave within {took(leave)} of the start"
                enough = "enough there" if way.at("enough", level) is True else f"NOT enough there ({usd(way.number('buffer_usd'))})"
                yield f"    from {way.text('chain')} by {way.text('route')} (95 % within {took(way.number('p95_s'))}): {when}; {enough}"


def _time(read: Reading) -> Iterator[str]:
    count = round(read.number("from_80_to_liquidation", "paths"))
    if not count:
        yield "TIME from a margin ratio of 80 % to liquidation: none seen"
        return
    cells = ", ".join(f"{name} {took(read.number('from_80_to_liquidation', 's', name))}" for name in ("p05", "p50", "p95"))
    yield f"TIME from a margin ratio of 80 % to liquidation, without: {cells}"
    for way in read.rows("from_80_to_liquidation", "routes"):
        yield (
            f"  {way.text('route')} from {way.text('chain')} (95 % within {took(way.number('p95_s'))}):"
            f" in time in {share(way.number('in_time'))} of liquidations"
        )


LOSSES = (
    ("mean", "mean"), ("p05", "p05"), ("p50", "median"), ("p95", "p95"), ("cvar95", "ES95"), ("cvar99", "ES99"),
)  # fmt: skip


def _loss(read: Reading) -> Iterator[str]:
    yield f"P&L, USD          {'without':>16} {'with':>16}"
    for key, name in LOSSES:
        cells = [f"{usd(read.number(side, 'pnl_usd', key), sign=True):>16}" for side in ("without", "with")]
        yield f"  {name:<15} {' '.join(cells)}"
    worst = [f"path {round(read.number(side, 'worst', 'path'))}: {usd(read.number(side, 'worst', 'pnl_usd'), sign=True)}"
             for side in ("without", "with") if read.section(side, "worst")]  # fmt: skip
    if worst:
        yield f"  worst path      {'   with '.join(worst)}"


def _premium(read: Reading) -> Iterator[str]:
    count = round(read.number("premium", "paths"))
    if not count:
        yield "PREMIUM: no path stayed quiet"
        return
    cost, change = read.number("premium", "cost_usd"), read.number("premium", "pnl_change_usd")
    quiet = f"PREMIUM where nothing happened ({count:,} paths)"
    yield f"{quiet}: {usd(cost)} a path in fees, slippage and transfers; P&L {usd(change, sign=True)}"


def _stuck(read: Reading) -> Iterator[str]:
    p, mean, most = (read.number("with", "stuck_usd", *key) for key in (("probability", "p"), ("mean",), ("max",)))
    yield f"STUCK at the horizon, with: on {share(p)} of paths; {usd(mean)} on average, {usd(most)} at most"


def _left_out(read: Reading) -> Iterator[str]:
    books = read.section("leave_one_out")
    if not books:
        return
    yield f"{'LEFT OUT':<24}{'ran on':>10}{'P(liq.)':>10}{'change':>10}{'mean P&L, USD':>16}{'ES95, USD':>14}{'saved':>8}{'lost':>7}"
    for name in books:
        one = Reading(read.section("leave_one_out", name))
        yield (
            f"  {name:<22}{round(one.number('paths_it_ran_on')):>10,}{share(one.number('liquidation_probability')):>10}"
            f"{100 * -one.number('contributes', 'liquidation_probability'):>+9.2f}%"
            f"{-one.number('contributes', 'pnl_mean_usd'):>+16,.0f}{-one.number('contributes', 'cvar95_usd'):>+14,.0f}"
            f"{round(one.number('contributes', 'saved_paths')):>8,}{round(one.number('contributes', 'lost_paths')):>7,}"
        )
    yield "  change, P&L and ES95: left out less all; saved and lost: paths liquidated only without it, and only with it"


def _weights(read: Reading) -> Iterator[str]:
    if read.at("importance", "used") is not True:
        return
    ess, part = read.number("importance", "effective_sample_size"), read.number("importance", "effective_share")
    yield (
        f"importance sampling: {round(read.number('importance', 'tilted_paths')):,} paths tilted towards the loss; effective sample"
        f" {ess:,.0f} ({share(part)} of paths), largest weight {read.number('importance', 'largest_weight'):.3g}"
    )


def _independent(read: Reading) -> Iterator[str]:
    if not read.section("independent"):
        return
    for side in ("without", "with"):
        claimed, found = read.number("independent", side, "liquidation_probability"), read.number(side, "liquidation_probability")
        yield f"had nothing depended on anything, {side}: P(liquidation) {share(claimed)} instead of {share(found)}"


def _seconds(read: Reading) -> Iterator[str]:
    found = read.section("seconds")
    if found:
        yield "seconds: " + ", ".join(
            f"{name} {value:.2f}" if isinstance(value, float) else f"{name} {value}" for name, value in found.items()
        )
