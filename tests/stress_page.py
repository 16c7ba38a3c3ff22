"""A whole report of drawn paths, as the tests of text and page (and whoever wants to look at it) need it."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from daemon.simulation.book import load_book
from daemon.simulation.stress.fan import Act, DrawnPath, Fan
from daemon.simulation.stress.figures import Subject, figures
from daemon.simulation.stress.report import BackTest, RestsOn, StressReport, pairs_of
from daemon.simulation.stress.survival import closed_form, delays_grid, moves_grid, survival_map
from daemon.simulation.stress.tally import Tally
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS
from tests.stress_ends import drawn

BOOK = load_book(Path(__file__).resolve().parent.parent / "config/books/example.yaml")
HOURS = 168


def example(paths: int = 2_000, seed: int = 5) -> StressReport:
    """A report of normal losses with ratios that wander; figures by the real thing."""
    tally = Tally()
    for end in drawn(paths, seed):
        tally.add(end)
    tally = Tally.merged([tally])
    subject = Subject(
        book=BOOK, horizon_ns=7 * DAY_NS, seed=seed, equity_usd=42_300.0, harm_usd=100.0, world="stressed",
        runbooks=("margin-low", "funding-spike", "oracle-divergence"),
    )  # fmt: skip
    draws = np.random.Generator(np.random.Philox(seed))
    fan, worst = Fan(HOURS), []
    for number in range(paths):
        walk = np.cumsum(draws.normal(0.0, 0.05, HOURS))
        without = 0.32 * np.exp(walk)
        gone = np.maximum.accumulate(without) >= 1.0
        having = np.minimum(without, 0.6 + 0.3 * np.abs(np.sin(walk)))
        without[gone] = math.inf
        fan.add(without, having)
        if gone.any() and len(worst) < 20:
            at = HOUR_NS * np.arange(1, HOURS + 1)
            first = int(np.argmax(without > 0.6))
            acts = (
                Act(at=int(at[first]), text="top-up: 12,000 USD from ethereum by cctp, credited after 9m", runbook="margin-low"),
                Act(at=int(at[min(first + 2, HOURS - 1)]), text="shrink HYPE-USD by 900 of 3,000 at 31.20", runbook="margin-low"),
            )
            worst.append(
                DrawnPath(number=number, at=at, without=without, having=having, acts=acts, pnl_without_usd=-41_000.0,
                          pnl_with_usd=-12_000.0, why="worst loss")
            )  # fmt: skip
    left = tally.only(tally.runs["margin-low"] > 0)
    swapped = Tally()
    for end in drawn(paths, seed):
        if end.having.runs:
            swapped.add(type(end)(number=end.number, rows=end.rows, without=end.without, having=end.without))
    assert len(left) == len(swapped)
    chance = closed_form(distance=0.24, direction=-1, volatility=0.9, horizon_ns=7 * DAY_NS)
    dots = [(route.name, 0.0, route.p95_ns / NS) for route in BOOK.routes if route.destination == "dydx"]
    about = "Closed form: all prices fall together as a geometric Brownian motion of 90 % a year, the delay is exponential."
    return StressReport(
        figures=figures(tally, subject, left_out={"margin-low": swapped}, independent=tally, seconds={"total": 41.5, "workers": 2}),
        rests_on=(
            RestsOn("BTC volatility", "35% a year", "2025 hourly closes"), RestsOn("crisis: depth", "15% of calm", "assumed"),
            RestsOn("bridge lock, how often", "once in 60 d", "assumed: three in the list of incidents, which is not complete"),
        ),
        back_test=(BackTest("Kupiec, 1 % of BTC hours", "1.2 %, p 0.31", True), BackTest("PIT of SOL days", "p 0.02", False)),
        fan=fan, drawn=tuple(worst), pairs=pairs_of(tally, subject.harm_above_usd),
        survival=survival_map(chance, moves=moves_grid(0.24), delays_s=delays_grid(), about=about, dots=dots),
        notes=(f"paths have a row every {MINUTE_NS // NS} s",),
    )  # fmt: skip
