"""Sweeps: what a cell comes to on a part of the history, false alarms, luck, walk-forward, cliffs, and how it is told."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.engine import Engine
from daemon.engine.limits import HouseLimits
from daemon.runbook.load import load_text
from daemon.runbook.override import overridden
from daemon.simulation.account import Liquidated
from daemon.simulation.findings import Findings
from daemon.simulation.grid import Axis, grid, parse_axis
from daemon.simulation.heat import heat_map, svg
from daemon.simulation.replay import Course, play, play_without
from daemon.simulation.selection import Objective, Study, expected_maximum
from daemon.simulation.sweep import Ground, Tally, longest_window_ns, split
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS
from tests.sweep_world import BOOK, HYPE, T0
from tests.test_simulation_replay import course

NOTHING = Tally(
    without_direction_usd=0.0, at_3x_costs_usd=0.0, pnl_usd=0.0, liquidations_avoided=0, liquidation_avoided_usd=0.0, turnover_usd=0.0,
    runs=0, episodes=0, clusters=0, false_alarms=0,
)  # fmt: skip


def paying(rates: dict[int, float], hours: int = 12) -> Course:
    """A minute of rows after another at a price of 33, with these settlements by hour."""
    rows = [(T0 + minute * MINUTE_NS, HYPE, {"oracle_price": 33.0}) for minute in range(hours * 60)]
    for hour, rate in rates.items():
        rows[hour * 60] = (*rows[hour * 60][:2], {"oracle_price": 33.0, "funding_rate": rate})
    return course(rows)


def played(over: Course, text: str = BOOK, **values: str) -> tuple[Ground, Tally]:
    loaded = overridden(text, "spike.yaml", values)
    assert not loaded.errors, [error.render() for error in loaded.errors]
    engine = Engine(topology=over.topology, house=HouseLimits(), build="test", sources=over.sources)
    ground = Ground.of(over, play_without(over))
    return ground, ground.tally(play(over, engine=engine, runbooks=loaded.runbooks))


def test_an_episode_that_earns_its_costs_in_funding_is_no_false_alarm() -> None:
    over = paying({2: 0.002, 3: 0.002, 4: 0.002, 5: 0.0})
    _, tally = played(over)
    assert (tally.episodes, tally.runs, tally.false_alarms) == (1, 1, 0)
    assert tally.without_direction_usd == pytest.approx(500 * 33 * 0.004 - 500 * 33 * 0.9995 * 0.0005 - 500 * 33 * 0.0005)


def test_an_episode_that_clears_before_it_has_earned_its_costs_is_a_false_alarm() -> None:
    over = paying({2: 0.002, 3: 0.00001})
    _, tally = played(over)
    assert (tally.episodes, tally.false_alarms) == (1, 1)
    assert tally.without_direction_usd < 0.0


def test_an_episode_that_only_tells_costs_nothing_and_is_no_false_alarm() -> None:
    telling = BOOK.replace("shrink_position: {by: 50%, max_slippage: 1%}", "notify: {to: [desk], text: paying}")
    _, tally = played(paying({2: 0.002, 3: 0.00001}), telling)
    assert (tally.episodes, tally.runs, tally.false_alarms) == (1, 1, 0)


def test_a_liquidation_spared_until_the_end_of_an_episode_pays_for_it() -> None:
    over = paying({2: 0.002, 3: 0.00001})
    ground, _ = played(over)
    hit = Liquidated(at=T0 + 2 * HOUR_NS + 30 * MINUTE_NS, market=HYPE, size=1000.0, price=33.0, cost_usd=500.0)
    spared = Ground(over, lacking=ground.lacking, liquidated=[hit])
    engine = Engine(topology=over.topology, house=HouseLimits(), build="test", sources=over.sources)
    both = play(over, engine=engine, runbooks=load_text(BOOK, "spike.yaml").runbooks)
    assert ground.tally(both).false_alarms == 1
    assert spared.tally(both).false_alarms == 0
    late = Ground(over, lacking=ground.lacking, liquidated=[replace(hit, at=T0 + 5 * HOUR_NS)])
    assert late.tally(both).false_alarms == 1


def test_fills_of_an_account_wide_runbook_are_judged_by_the_market_they_were_in() -> None:
    wide = BOOK.replace("scope: position", "scope: account").replace("funding_rate * sign(size)", "max_over(markets, funding_rate)")
    wide = wide.replace("shrink_position: {by: 50%, max_slippage: 1%}", "shrink_account: {by: 50%, max_slippage: 1%}")
    _, kept = played(paying({2: 0.002, 3: 0.002, 4: 0.002, 5: 0.0}), wide)
    _, wasted = played(paying({2: 0.002, 3: 0.00001}), wide)
    assert (kept.episodes, kept.false_alarms) == (1, 0)
    assert (wasted.episodes, wasted.false_alarms) == (1, 1)


def test_a_history_is_split_by_time_and_no_row_is_lost_or_counted_twice() -> None:
    over = paying({2: 0.002}, hours=10)
    first, second = split(over, 2)
    assert first.rows + second.rows == over.rows
    assert first.first_at == over.first_at
    assert second.last_at == over.last_at
    assert second.first_at == T0 + 6 * HOUR_NS
    assert sum(part.rows for part in split(over, 7)) == over.rows
    assert split(over, 1) == (over,)
    with pytest.raises(ValueError, match="too short or too patchy for 3 parts"):
        split(course([(T0, HYPE, {"oracle_price": 33.0}), (T0 + HOUR_NS, HYPE, {"oracle_price": 33.0})]), 3)


@pytest.mark.parametrize("rows_fed", [1, 100])
def test_how_many_rows_are_fed_at_once_is_nothing_that_a_result_knows_of(rows_fed: int) -> None:
    over = paying({2: 0.002, 3: 0.00001})
    assert played(replace(over, rows_fed=rows_fed))[1] == played(over)[1]


def test_the_longest_window_is_what_a_part_needs_to_warm_up() -> None:
    text = BOOK.replace("> threshold", "> threshold and funding_rate > quantile(funding_rate, 99%, 7d)")
    assert longest_window_ns(load_text(text, "x").runbooks) == 7 * DAY_NS
    assert longest_window_ns(load_text(BOOK, "x").runbooks) == 0


# --- luck -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tries", [5, 20, 100, 1000])
def test_the_expected_best_of_many_tries_is_that_of_normal_draws(tries: int) -> None:
    draws = np.random.default_rng(1).normal(size=(4000, tries)).max(axis=1)
    assert expected_maximum(tries) == pytest.approx(float(draws.mean()), rel=0.04)


def test_one_try_is_not_deflated() -> None:
    assert expected_maximum(1) == 0.0
    assert study([3.0], [parse_axis("x=1")]).luck().beyond == 3.0


def tallies(value: float, **more: int) -> Tally:
    return replace(NOTHING, without_direction_usd=value, episodes=int(abs(value)) + 1, **more)


def study(
    values: Sequence[float], axes: Sequence[Axis], later: Sequence[float] | None = None,
    objective: Objective = "pnl_without_direction", make: Callable[[float], Tally] = tallies, drawn: bool = False,
) -> Study:  # fmt: skip
    cells = grid(axes)
    parts = ((T0, T0 + 6 * HOUR_NS),) if later is None else ((T0, T0 + 6 * HOUR_NS), (T0 + 6 * HOUR_NS, T0 + 10 * HOUR_NS))
    found = [(make(value),) for value in values] if later is None else [(make(a), make(b)) for a, b in zip(values, later, strict=True)]
    return Study(axes=tuple(axes), cells=cells, tallies=tuple(found), parts=parts, objective=objective, drawn=drawn)


GRID = [parse_axis("a=1,2,3"), parse_axis("b=1m,2m,3m")]


def test_luck_is_the_spread_of_the_cells_times_the_best_of_as_many_normal_draws() -> None:
    values = [1.0, 5.0, -3.0, 8.0, 0.5, 2.0, -1.0, 4.0, 6.0]
    luck = study(values, GRID).luck()
    assert (luck.tries, luck.independent, luck.best) == (9, 9, 8.0)
    assert luck.by_luck == pytest.approx(statistics.stdev(values) * expected_maximum(9))
    assert luck.beyond == pytest.approx(8.0 - luck.by_luck)


def test_cells_that_came_to_the_same_are_one_try() -> None:
    luck = study([5.0, 5.0, 5.001, 0.0, 0.0, 0.0, 8.0, 8.0, 8.0], GRID).luck()
    assert (luck.tries, luck.independent) == (9, 3)


@settings(max_examples=50)
@given(st.lists(st.floats(-1e6, 1e6), min_size=9, max_size=9))
def test_the_order_is_by_the_objective_and_the_deflated_result_is_never_above_the_best(values: list[float]) -> None:
    found = study(values, GRID)
    ordered = [values[cell] for cell in found.order]
    assert ordered == sorted(values, reverse=True)
    assert sorted(found.order) == list(range(9))
    assert found.luck().beyond <= found.luck().best


@pytest.mark.parametrize("objective", ["runs", "false_alarms"])
def test_of_counts_the_fewest_are_best_and_a_tie_goes_to_the_better_profit(objective: Objective) -> None:
    made = iter([(3, 9.0), (1, 2.0), (1, 5.0)])

    def make(_: float) -> Tally:
        count, value = next(made)
        return replace(NOTHING, runs=count, false_alarms=count, without_direction_usd=value)

    assert study([0, 0, 0], [parse_axis("a=1,2,3")], objective=objective, make=make).order == (2, 1, 0)


# --- walk-forward, cliffs -----------------------------------------------------------------------------------------------------


def test_a_walk_forward_chooses_on_the_earlier_part_and_judges_on_the_later_one() -> None:
    found = study([1.0, 9.0, 3.0], [parse_axis("a=1,2,3")], later=[7.0, -2.0, 4.0])
    assert found.order == (1, 2, 0)
    (fold,) = found.folds()
    assert (fold.chosen, fold.in_sample, fold.out_of_sample, fold.rank, fold.best_there) == (1, 9.0, -2.0, 3, 7.0)
    assert study([1.0, 9.0, 3.0], [parse_axis("a=1,2,3")]).folds() == ()


def test_every_part_but_the_first_is_judged_once_by_what_all_before_it_chose() -> None:
    values = [(4.0, 0.0, 5.0), (1.0, 9.0, -1.0)]
    found = Study(
        axes=(parse_axis("a=1,2"),), cells=(("1",), ("2",)), tallies=tuple(tuple(map(tallies, row)) for row in values),
        parts=tuple((T0 + k * HOUR_NS, T0 + (k + 1) * HOUR_NS) for k in range(3)),
    )  # fmt: skip
    assert [(fold.part, fold.chosen, fold.out_of_sample) for fold in found.folds()] == [(1, 0, 0.0), (2, 1, -1.0)]
    assert [tally.without_direction_usd for tally in found.chosen_on] == [4.0, 10.0]


def test_a_peak_that_falls_away_is_a_cliff_and_a_plateau_is_none() -> None:
    peak = study([0.0, 1.0, 0.0, 1.0, 10.0, 9.0, 0.0, -4.0, 0.0], GRID)
    assert peak.neighbours(4) == (1, 3, 5, 7)
    assert peak.cliffs() == (1, 3, 7)
    assert study([5.0, 7.0, 6.0, 8.0, 10.0, 9.0, 5.0, 6.0, 5.0], GRID).cliffs() == ()
    assert study([-9.0, -8.0, -1.0], [parse_axis("a=1,2,3")]).cliffs() == ()  # nothing to fall from


def test_values_out_of_order_are_neighbours_by_size() -> None:
    found = study([0.0, 10.0, 0.0], [parse_axis("a=3,1,2")])
    assert found.neighbours(1) == (2,)


def test_a_best_cell_on_the_edge_and_an_axis_that_does_nothing_are_told() -> None:
    found = study([1.0, 1.0, 1.0, 5.0, 5.0, 5.0, 9.0, 9.0, 9.0], GRID)
    assert found.edges() == ("a",)
    assert found.indifferent() == ("b",)


# --- how it is told -----------------------------------------------------------------------------------------------------------


def told(found: Study) -> Findings:
    return Findings(study=found, runbook="spike", recording="recording")


def test_every_figure_chosen_and_judged_on_the_same_history_is_stamped() -> None:
    alone = told(study([1.0, 9.0, 3.0], [parse_axis("a=1,2,3")]))
    assert alone.stamp.startswith("in sample: every figure")
    document = alone.as_json()
    assert {cell["stamp"] for cell in document["cells"]} == {"in sample"}  # type: ignore[attr-defined]
    assert "(in sample)" in alone.as_text()
    later = told(study([1.0, 9.0, 3.0], [parse_axis("a=1,2,3")], later=[1.0, 2.0, 3.0]))
    assert "in sample but for what is marked later" in later.stamp
    assert later.head()[-1] == "later, USD"
    assert json.loads(json.dumps(later.as_json(), allow_nan=False))["walk_forward"][0]["params"] == {"a": "2"}


def test_the_text_says_how_many_were_tried_what_luck_finds_and_that_the_best_is_a_cliff() -> None:
    text = told(study([0.0, 1.0, 0.0, 1.0, 10.0, 9.0, 0.0, -4.0, 0.0], GRID)).as_text()
    assert "tried: 9 cells" in text
    assert "without skill the best of them would come to +" in text
    assert "WARNING: the best cell is a cliff, not a plateau" in text


def test_the_map_shows_the_best_over_the_other_axes() -> None:
    axes = [*GRID, parse_axis("c=1,2")]
    values = [float(n) for n in range(18)]
    heat = heat_map(study(values, axes))
    assert heat is not None
    assert (heat.row_path, heat.rows, heat.column_path, heat.columns) == ("a", ("1", "2", "3"), "b", ("1m", "2m", "3m"))
    assert heat.values == ((1.0, 3.0, 5.0), (7.0, 9.0, 11.0), (13.0, 15.0, 17.0))
    lines = heat.as_text()
    assert lines[-1].rstrip().endswith("17 @")
    picture = svg(heat, fewer_is_better=False)
    assert picture.count("<rect") == 9
    assert picture.count('class="best"') == 1


def test_the_page_fetches_nothing_and_escapes_what_it_is_given() -> None:
    found = replace(told(study([1.0, 9.0, 3.0], [parse_axis("a<b=1,2,3")])), runbook="<spike>")
    page = found.as_page()
    assert "a&lt;b" in page
    assert "<spike>" not in page
    assert all(word not in page for word in ("http:", "https:", "<script", "src="))
    assert "prefers-color-scheme:dark" in page


def test_figures_are_numbers_that_json_has() -> None:
    assert all(math.isfinite(float(value)) for value in NOTHING.as_json().values())  # type: ignore[arg-type]
