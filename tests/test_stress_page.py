"""What a stress shows: the fan and the survival map against known answers, the text in a trader's order, and a page that needs nobody."""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from daemon.simulation.stress.fan import WITH, WITHOUT, Fan
from daemon.simulation.stress.page import page
from daemon.simulation.stress.report import StressReport
from daemon.simulation.stress.survival import closed_form, hit_before_money, hit_within, survival_map
from daemon.units import DAY_NS
from tests.stress_page import example

REPORT = example(400)


# -- the fan -----------------------------------------------------------------------------------------------------------------------


def test_fan_finds_the_quantiles_of_its_paths_to_a_bin() -> None:
    ratios = np.random.Generator(np.random.Philox(2)).uniform(0.1, 0.9, (500, 3))
    fan = Fan(3)
    for row in ratios:
        fan.add(row, 0.5 * row)
    for level in (0.05, 0.5, 0.95):
        exact = np.quantile(ratios, level, axis=0, method="inverted_cdf")
        assert np.all(np.abs(fan.bands(WITHOUT, (level,))[0] - exact) <= 0.005)
        assert np.all(np.abs(fan.bands(WITH, (level,))[0] - 0.5 * exact) <= 0.005)


def test_fan_counts_what_was_liquidated_and_weighs_it() -> None:
    fan = Fan(2)
    fan.add(np.array([0.5, math.inf]), np.array([0.5, 0.6]), weight=1.0)
    fan.add(np.array([0.5, 0.5]), np.array([0.5, 0.6]), weight=3.0)
    assert fan.beyond(WITHOUT).tolist() == [0.0, 0.25]
    assert fan.beyond(WITH).tolist() == [0.0, 0.0]
    assert math.isinf(fan.bands(WITHOUT, (0.99,))[0][1])


def test_fans_of_two_workers_are_the_fan_of_one() -> None:
    draws = np.random.Generator(np.random.Philox(4))
    rows, weights = draws.uniform(0.1, 1.3, (40, 5)), draws.uniform(0.0, 3.0, 40)
    one, first, second = Fan(5), Fan(5), Fan(5)
    for row, weight in zip(rows, weights, strict=True):
        one.add(row, row, float(weight))
    for i in range(39, -1, -1):
        (first if i % 3 else second).add(rows[i], rows[i], float(weights[i]))
    second.merge(first)
    assert np.array_equal(one.counts, second.counts)
    assert Fan(5).empty
    assert np.isnan(Fan(5).bands(WITH, (0.5,))).all()


# -- the survival map ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("barrier", "drift"), [(-0.1, 0.0), (-0.1, 0.8), (-0.1, -0.8), (0.08, 0.5)])
def test_chance_to_hit_within_a_week_and_before_money_is_that_of_played_paths(barrier: float, drift: float) -> None:
    volatility, years, mean = 0.9, 7 / 365.25, 12 / 24 / 365.25
    draws = np.random.Generator(np.random.Philox(9))
    paths, steps = 10_000, 1_000
    dt = years / steps
    moves = (drift * dt + volatility * math.sqrt(dt) * draws.standard_normal((steps, paths))).cumsum(axis=0)
    away = moves if barrier > 0 else -moves
    # Between rows a path goes further: Broadie, Glasserman and Kou move the barrier by 0.5826 sigma sqrt(dt).
    over = away >= abs(barrier) - 0.5826 * volatility * math.sqrt(dt)
    hit = over.any(axis=0)
    first = np.where(hit, (over.argmax(axis=0) + 1) * dt, np.inf)
    p = hit_within(barrier, drift, volatility, years)
    assert abs(hit.mean() - p) < 3.0 * math.sqrt(p * (1 - p) / paths)
    arrives = draws.exponential(mean, paths)
    q = hit_before_money(barrier, drift, volatility, mean)
    assert abs((first < arrives).mean() - q) < 3.0 * math.sqrt(q * (1 - q) / paths)


def test_map_is_certain_beyond_the_move_that_liquidates_and_grows_with_move_and_delay() -> None:
    chance = closed_form(distance=0.2, direction=-1, volatility=0.8, horizon_ns=7 * DAY_NS)
    picture = survival_map(chance, moves=[0.0, 0.1, 0.19, 0.21], delays_s=[60.0, 3_600.0, 86_400.0], about="")
    assert np.all(picture.having[:, -1] == 1.0)
    assert np.all(picture.without[:, -1] == 1.0)
    assert np.all(np.diff(picture.having[:, :3], axis=0) >= 0.0)
    assert np.all(np.diff(picture.having, axis=1) >= 0.0)
    assert np.all(picture.having <= picture.without), "money can only help"
    rise = closed_form(distance=0.2, direction=1, volatility=0.8, horizon_ns=7 * DAY_NS)
    assert 0.0 < rise(0.0, 60.0)[0] < 1.0


def test_contour_lies_where_the_chance_is() -> None:
    chance = closed_form(distance=0.2, direction=-1, volatility=0.8, horizon_ns=7 * DAY_NS)
    picture = survival_map(chance, moves=np.linspace(0.0, 0.2, 401).tolist(), delays_s=[3_600.0, 86_400.0], about="")
    for move, delay in picture.contour(True, 0.1):
        assert chance(move, delay)[1] == pytest.approx(0.1, abs=0.01)
    beyond = survival_map(chance, moves=[0.19, 0.2], delays_s=[60.0], about="")
    assert beyond.contour(False, 0.01) == [], "a level that is passed before any move is not drawn at the edge"


# -- text and page -------------------------------------------------------------------------------------------------------------------


def test_text_reads_in_the_order_in_which_a_trader_reads() -> None:
    text = REPORT.as_text()
    words = ["P(liquidation)", "HARM", "CASH", "TIME", "P&L", "worst path", "PREMIUM", "STUCK", "LEFT OUT", "had nothing depended"]
    words += ["rests on", "back-test", "seconds"]
    places = [text.index(word) for word in words]
    assert places == sorted(places)
    p = REPORT.figures["without"]["liquidation_probability"]
    assert f"{100 * p:.2f}%" in text
    assert "2 of them assumed" in text
    assert "nan" not in text.lower().replace("finance", "")


def test_text_of_nothing_says_so() -> None:
    text = StressReport(figures={"book": "x", "paths": 0, "seed": 1, "horizon_s": 3600.0, **_EMPTY}).as_text()
    assert "nothing was liquidated" in text
    assert "rests on: not said" in text


_EMPTY = {
    "with": {}, "without": {}, "harmed_paths": 0, "saved_paths": 0, "cash": [],
    "harm": {"liquidated_only_with": {"paths": 0}, "poorer": {"paths": 0}}, "from_80_to_liquidation": {"paths": 0}, "premium": {"paths": 0},
}  # fmt: skip


class _Tags(HTMLParser):
    """Finds tags that are not closed, or closed twice."""

    VOID = frozenset({"meta", "link", "br", "col", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attrs if name == "id" and value]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_page_is_whole_and_fetches_nothing() -> None:
    text = page(REPORT)
    tags = _Tags()
    tags.feed(text)
    assert tags.open == []
    assert len(tags.ids) == len(set(tags.ids))
    assert not re.search(r"https?:|src=|url\(|@import|<script", text)
    assert "prefers-color-scheme:dark" in text
    for word in ("P(liquidation)", "Harm", "Cash that", "Survival map", "Runbooks left out", "Back-test", "assumed"):
        assert word in text
    assert len(text) < 400_000


def test_page_draws_every_worst_path_and_escapes_what_others_wrote() -> None:
    text = page(REPORT)
    assert text.count("<details>") == len(REPORT.drawn)
    numbers = [float(x) for x in re.findall(r"[ML](-?[\d.]+) ", text)]
    assert numbers
    assert all(math.isfinite(x) for x in numbers)
    assert "nan" not in re.sub(r"<style>.*</style>", "", text).lower()
    hostile = StressReport(figures={**REPORT.figures, "book": "<b>x"}, notes=("<i>",))
    assert "<b>x" not in page(hostile)
    assert "<i>" not in page(hostile)
