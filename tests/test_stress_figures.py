"""What a stress comes to: estimates against known answers, harm and cash by hand, and one answer whoever counted."""

from __future__ import annotations

import json
import math
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulation.book import Book, load_book
from daemon.simulation.stress import estimates
from daemon.simulation.stress.figures import Subject, figures
from daemon.simulation.stress.outcome import PathEnd
from daemon.simulation.stress.tally import Tally
from daemon.units import DAY_NS, HOUR_NS
from tests.stress_ends import drawn, end

BOOK: Book = load_book(Path(__file__).resolve().parent.parent / "config/books/example.yaml")
SUBJECT = Subject(book=BOOK, horizon_ns=7 * DAY_NS, seed=7, equity_usd=42_300.0, harm_usd=100.0)


def tally_of(ends: list[PathEnd]) -> Tally:
    tally = Tally()
    for one in ends:
        tally.add(one)
    return Tally.merged([tally])


# -- estimates -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "count", "low", "high"),
    [
        # Brown, Cai and DasGupta (2001) and Newcombe (1998), tables of Wilson's interval.
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)  # fmt: skip
def test_interval_of_a_plain_share_is_wilsons(hits: int, count: int, low: float, high: float) -> None:
    hit = np.arange(count) < hits
    found = estimates.probability(hit, np.ones(count))
    assert (found.value, round(found.low, 4), round(found.high, 4)) == (hits / count, low, high)


def test_weighted_share_finds_a_rare_tail_that_plain_paths_miss() -> None:
    draws = np.random.Generator(np.random.Philox(3)).standard_normal(20_000)
    truth = 0.5 * math.erfc(4.0 / math.sqrt(2.0))  # P(z < -4) = 3.2e-5
    shifted = draws.copy()
    pushed = np.arange(len(draws)) % 5 != 0  # 80 % from N(-4, 1), 20 % plain
    shifted[pushed] -= 4.0
    ratio = 1.0 / (0.2 + 0.8 * np.exp(-4.0 * shifted - 8.0))
    found = estimates.probability(shifted < -4.0, ratio)
    error = estimates.standard_error((shifted < -4.0).astype(float), ratio)
    assert abs(found.value - truth) < 3.0 * error
    assert found.low < truth < found.high
    plain = math.sqrt(truth * (1.0 - truth) / len(draws))
    assert error**2 < plain**2 / 10.0, "ten times less variance is what it is for"
    assert estimates.worth_weighting(ratio)


def test_effective_sample_counts_what_the_weights_are_worth() -> None:
    assert estimates.effective_sample_size(np.ones(50)) == pytest.approx(50.0)
    assert estimates.effective_sample_size(np.array([1.0, 0.0, 0.0, 0.0])) == 1.0
    assert not estimates.worth_weighting(np.array([1.0] + [1e-6] * 99))
    assert not estimates.worth_weighting(np.empty(0))


def test_delta_interval_covers_the_truth_as_often_as_it_says() -> None:
    truth, covered = 0.5 * math.erfc(2.0 / math.sqrt(2.0)), 0
    for seed in range(300):
        draws = np.random.Generator(np.random.Philox(seed)).standard_normal(1_000)
        draws[np.arange(1_000) % 2 == 0] -= 2.0
        ratio = 1.0 / (0.5 + 0.5 * np.exp(-2.0 * draws - 2.0))
        found = estimates.probability(draws < -2.0, ratio)
        covered += found.low < truth < found.high
    assert 0.91 <= covered / 300 <= 0.99


def test_quantiles_and_shortfall_of_equal_weights_are_those_of_the_sorted_values() -> None:
    values = np.random.Generator(np.random.Philox(1)).standard_normal(1_000)
    weights = np.full(1_000, 0.3)
    levels = [0.01, 0.05, 0.5, 0.95, 0.99, 1.0]
    assert estimates.quantiles(values, weights, levels) == np.quantile(values, levels, method="inverted_cdf").tolist()
    assert estimates.shortfall(values, weights, 0.05) == pytest.approx(np.sort(values)[:50].mean())


def test_a_weight_counts_as_so_many_paths() -> None:
    values, weights = np.array([-3.0, -1.0, 2.0]), np.array([1.0, 3.0, 6.0])
    repeated = np.repeat(values, [1, 3, 6])
    ones = np.ones(10)
    levels = [0.05, 0.1, 0.11, 0.4, 0.41, 0.99]
    assert estimates.quantiles(values, weights, levels) == estimates.quantiles(repeated, ones, levels)
    assert estimates.mean(values, weights) == pytest.approx(repeated.mean())
    assert estimates.shortfall(values, weights, 0.25) == pytest.approx((-3.0 - 1.0 * 1.5) / 2.5)


# -- the document ----------------------------------------------------------------------------------------------------------------


def test_document_of_a_few_paths_says_what_can_be_counted_by_hand() -> None:
    ends = [
        end(0, -30_000.0, -8_000.0, at=2 * HOUR_NS, cost=50.0),  # saved
        end(1, -1_000.0, -25_000.0, at=30 * 60 * 10**9),  # liquidated only with
        end(2, 500.0, 450.0, cost=50.0),  # quiet
        end(3, -5_000.0, -5_900.0),  # poorer
        end(4, -40_000.0, -39_000.0, at=3 * DAY_NS),  # lost either way
    ]
    found = figures(tally_of(ends), SUBJECT)
    a, b = found["with"], found["without"]
    assert (a["liquidation_probability"], b["liquidation_probability"]) == (0.4, 0.4)
    assert [a["liquidation"][key]["p"] for key in ("1h", "24h", "7d")] == [0.2, 0.2, 0.4]
    assert [b["liquidation"][key]["p"] for key in ("1h", "24h", "7d")] == [0.0, 0.2, 0.4]
    assert b["pnl_usd"]["mean"] == pytest.approx((-30_000 - 1_000 + 500 - 5_000 - 40_000) / 5)
    assert (b["pnl_usd"]["p01"], b["pnl_usd"]["p50"], b["pnl_usd"]["p99"]) == (-40_000.0, -5_000.0, 500.0)
    assert b["worst"] == {"path": 4, "pnl_usd": -40_000.0}
    assert (found["harmed_paths"], found["saved_paths"]) == (2, 1)
    harm = found["harm"]
    assert (harm["liquidated_only_with"]["paths"], harm["liquidated_only_with"]["worst"]) == (1, {"path": 1, "usd": -24_000.0})
    assert (harm["poorer"]["paths"], harm["poorer"]["worst"]) == (1, {"path": 3, "usd": -900.0})
    assert (found["premium"]["paths"], found["premium"]["cost_usd"]) == (2, 25.0)
    assert found["premium"]["pnl_change_usd"] == pytest.approx((-50.0 - 900.0) / 2)


def test_cash_names_the_amount_the_chain_and_the_time_it_must_leave() -> None:
    ends = [end(n, -20_000.0 - 100.0 * (n + 1), 0.0, at=(10 + n) * HOUR_NS) for n in range(100)]
    (cash,) = figures(tally_of(ends), SUBJECT)["cash"]
    assert (cash["account"], cash["liquidated_paths"], cash["usd"]) == ("dydx", 100, {"95%": 9_500.0, "99%": 9_900.0})
    assert cash["liquidated_after_s"] == {"95%": 14 * 3600.0, "99%": 10 * 3600.0}
    fast, slow = cash["routes"]
    assert (fast["route"], fast["chain"], slow["route"], slow["chain"]) == ("fast", "arbitrum", "cctp", "ethereum")
    assert slow["leave_by_s"]["99%"] == 10 * 3600.0 - 1_800.0
    assert fast["enough"] == {"95%": True, "99%": True}
    time = figures(tally_of(ends), SUBJECT)["from_80_to_liquidation"]
    assert (time["s"]["p50"], [way["in_time"] for way in time["routes"]]) == (3600.0, [1.0, 1.0])


def test_a_runbook_left_out_changes_only_the_paths_it_ran_on() -> None:
    whole = tally_of([end(0, -30_000.0, -8_000.0), end(1, 100.0, 90.0), end(2, -15_000.0, -16_000.0)])
    assert whole.runs["margin-low"].tolist() == [1, 0, 1]
    part = tally_of([end(0, -30_000.0, -30_000.0), end(2, -15_000.0, -15_000.0)])
    told = figures(whole, SUBJECT, left_out={"margin-low": part})["leave_one_out"]["margin-low"]
    assert told["paths_it_ran_on"] == 2
    assert told["liquidation_probability"] == pytest.approx(1 / 3)
    assert told["contributes"]["saved_paths"] == 1
    assert told["contributes"]["pnl_mean_usd"] == pytest.approx((22_000.0 - 1_000.0) / 3)


def test_nothing_that_happened_is_null_and_json_stays_json() -> None:
    found = figures(tally_of([end(0, 100.0, 90.0)]), SUBJECT)
    assert found["cash"] == []
    assert found["from_80_to_liquidation"]["s"]["p50"] is None
    assert found["harm"]["poorer"]["worst"] is None
    empty = figures(Tally.merged([]), SUBJECT)
    for document in (found, empty):
        json.dumps(document, allow_nan=False)
    assert empty["with"]["liquidation_probability"] is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=40, max_size=40), st.permutations(range(40)))
def test_document_does_not_depend_on_who_played_which_path_and_when(owners: list[int], order: list[int]) -> None:
    ends = drawn(40, 5)
    parts = [Tally() for _ in range(4)]
    for place in order:
        parts[owners[place]].add(ends[place])
    other = Tally.merged([pickle.loads(pickle.dumps(part)) for part in parts])
    assert json.dumps(figures(other, SUBJECT)) == json.dumps(figures(tally_of(ends), SUBJECT))


def test_the_same_path_twice_is_a_fault() -> None:
    with pytest.raises(AssertionError, match="twice"):
        Tally.merged([tally_of(drawn(3, 1)), tally_of(drawn(1, 1))])


def test_weighted_document_agrees_with_a_plain_one_within_its_errors() -> None:
    plain = figures(tally_of(drawn(20_000, 11)), SUBJECT)
    draws = np.random.Generator(np.random.Philox(12))
    pushed = []
    for number in range(4_000):
        z = float(draws.standard_normal()) - (1.8 if number % 5 else 0.0)
        log_ratio = -math.log(0.2 + 0.8 * math.exp(-1.8 * z - 1.62))
        pnl = 12_000.0 * z
        after = pnl * (0.5 if pnl < -10_000.0 else 1.0) - 25.0
        pushed.append(end(number, pnl, after, cost=25.0, weight_log=log_ratio, tilted=number % 5 != 0))
    weighted = figures(tally_of(pushed), SUBJECT)
    p, q = plain["without"]["liquidation"]["7d"], weighted["without"]["liquidation"]["7d"]
    assert q["low"] < p["high"]
    assert p["low"] < q["high"]
    a, b = plain["without"]["pnl_usd"], weighted["without"]["pnl_usd"]
    assert abs(a["mean"] - b["mean"]) < 3.0 * math.hypot(a["mean_se"], b["mean_se"])
    assert b["cvar95"] == pytest.approx(a["cvar95"], rel=0.03)
    importance = weighted["importance"]
    assert importance["used"]
    assert importance["tilted_paths"] == 3_200
    assert importance["largest_weight"] <= 5.0
    assert 0.1 < importance["effective_share"] < 1.0
    assert not plain["importance"]["used"]
