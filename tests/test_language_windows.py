"""Windows of the generated program against an exact oracle (fsum, sorting) on jittered, gappy, equal and repeated samples."""

from __future__ import annotations

import math
import random
import statistics

import pytest

from daemon.engine.events import Row
from daemon.engine.hot import Hot, Sources
from daemon.language.parse import parse
from daemon.language.typing import Scope, check
from daemon.units import NS
from daemon.world.entities import Kind, Topology

MARKET = "dydx:HYPE-USD"
SECOND = NS


def evaluator(text: str, hot: Hot):
    """A function of `at` that evaluates one expression on the market."""
    typed = check(parse(text), text, Scope(kind=Kind.MARKET))
    return hot.expression(typed, Kind.MARKET, MARKET)


def oracle(function: str, samples: list[tuple[int, float]], d: int, rank: float = 0.0) -> float:
    """The window's value by definition, from all samples so far (the last one is now)."""
    at, x = samples[-1]
    if samples[0][0] > at - d:
        return math.nan
    inside = [v for t, v in samples if at - d < t <= at]
    n = len(inside)
    match function:
        case "mean":
            return math.fsum(inside) / n
        case "sum":
            return math.fsum(inside)
        case "count":
            return float(n)
        case "min":
            return min(inside)
        case "max":
            return max(inside)
        case "std" | "zscore":
            if n < 12:
                return math.nan
            mean = math.fsum(inside) / n
            std = 0.0 if len(set(inside)) == 1 else math.sqrt(math.fsum((v - mean) ** 2 for v in inside) / (n - 1))
            if function == "std":
                return std
            return (x - mean) / std if std > 0 else math.nan
        case "quantile":
            if n < 12:
                return math.nan
            ordered = sorted(inside)
            place = rank * (n - 1)
            low = math.floor(place)
            return ordered[low] + ((ordered[low + 1] - ordered[low]) * (place - low) if low + 1 < n else 0.0)
        case "change" | "pct_change":
            before = [v for t, v in samples if t <= at - d][-1]
            return x - before if function == "change" else x / before - 1
        case "slope":
            if n < 2:
                return math.nan
            times = [(t - at) / 3.6e12 for t, _ in samples if at - d < t <= at]
            return statistics.linear_regression(times, inside).slope
        case "share":
            return sum(v > 0.5 for v in inside) / n
    raise AssertionError(function)


def stream(seed: int, n: int) -> list[tuple[int, float]]:
    """Samples with jitter, gaps, bursts of equal values and a spike a thousand times the rest."""
    rng = random.Random(seed)
    at, x, found = 10**18, 33.0, []
    for i in range(n):
        at += int(rng.choice((0.2, 1.0, 1.0, 1.0, 7.3, 40.0)) * SECOND * (0.5 + rng.random()))
        if rng.random() < 0.6:
            x *= 1 + rng.gauss(0, 0.001)
        value = x * 1000 if i == n // 3 else x
        found.append((at, value))
    return found


FUNCTIONS = ["mean", "sum", "count", "min", "max", "std", "zscore", "quantile", "change", "pct_change", "slope"]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("function", FUNCTIONS)
def test_window_equals_the_exact_oracle_when_samples_are_jittered_and_gappy(function: str, seed: int) -> None:
    hot = Hot(Topology(), Sources())
    rank = 0.9
    inner = "oracle_price, 90%, 10m" if function == "quantile" else "oracle_price, 10m"
    evaluate = evaluator(f"{function}({inner})", hot)
    samples: list[tuple[int, float]] = []
    known = 0
    for at, value in stream(seed, 1200):
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": value})], at)
        samples.append((at, value))
        expected, got = oracle(function, samples[-1200:], 600 * SECOND, rank), evaluate(at)
        assert math.isnan(got) == math.isnan(expected), (function, len(samples), got, expected)
        if not math.isnan(expected):
            known += 1
            # A slope through a spike of a thousand times the rest cancels 6 digits by itself.
            tolerance = 1e-6 if function == "slope" else 1e-9
            assert abs(got - expected) <= tolerance * max(abs(expected), 1.0 if function in ("slope", "zscore") else 0.0) + 1e-12, (
                function,
                len(samples),
                got,
                expected,
            )
    assert known > 600


def test_share_counts_the_samples_on_which_the_condition_holds() -> None:
    hot = Hot(Topology(), Sources())
    evaluate = evaluator("share(oracle_price > 33 price, 10m)", hot)
    samples: list[tuple[int, float]] = []
    for at, value in stream(9, 400):
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": value})], at)
        samples.append((at, 1.0 if value > 33 else 0.0))
        expected, got = oracle("share", samples, 600 * SECOND), evaluate(at)
        assert math.isnan(got) == math.isnan(expected)
        if not math.isnan(expected):
            assert got == pytest.approx(expected, abs=1e-12)


def test_ewma_follows_its_definition_over_irregular_times() -> None:
    hot = Hot(Topology(), Sources())
    evaluate = evaluator("ewma(oracle_price, 5m)", hot)
    y, last, first = math.nan, 0, 0
    for at, value in stream(3, 500):
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": value})], at)
        if math.isnan(y):
            y, first = value, at
        else:
            y += (1 - 2 ** (-(at - last) / (300 * SECOND))) * (value - y)
        last = at
        got = evaluate(at)
        assert math.isnan(got) == (first > at - 300 * SECOND)
        if not math.isnan(got):
            assert got == pytest.approx(y, rel=1e-12)


def test_a_settlement_polled_again_adds_no_sample_and_a_late_answer_changes_nothing() -> None:
    hot = Hot(Topology(), Sources())
    evaluate = evaluator("count(funding_rate, 3h)", hot)
    hour = 3600 * SECOND
    start = 10**18
    for i in range(6):
        for poll in range(5):
            hot.take(
                [Row(kind=Kind.MARKET, entity=MARKET, values={"funding_rate": 1e-5 * i}, event_ts=start + i * hour)],
                start + i * hour + poll * 60 * SECOND,
            )
    now = start + 5 * hour + 4 * 60 * SECOND
    assert evaluate(now) == 3.0
    hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"funding_rate": 9.0}, event_ts=start + 2 * hour)], now + SECOND)
    assert evaluate(now + SECOND) == 3.0
    assert hot.read(Kind.MARKET, MARKET, "funding_rate", now + SECOND).value == 5e-5


def test_equal_values_have_no_deviation_and_no_zscore_even_after_a_spike_has_left() -> None:
    hot = Hot(Topology(), Sources())
    std, zscore = evaluator("std(oracle_price, 1m)", hot), evaluator("zscore(oracle_price, 1m)", hot)
    at = 10**18
    for i in range(400):
        at += SECOND
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": 1e6 if i == 100 else 0.1})], at)
    assert std(at) == 0.0
    assert math.isnan(zscore(at))


def test_a_window_stands_between_observations_and_is_unknown_once_its_argument_is_stale() -> None:
    hot = Hot(Topology(), Sources())
    mean = evaluator("mean(oracle_price, 1m)", hot)
    at = 10**18
    for _ in range(100):
        at += SECOND
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": 5.0})], at)
    assert mean(at + 60 * SECOND) == 5.0
    assert math.isnan(mean(at + 60 * SECOND + 1))


def test_equal_windows_of_two_expressions_share_one_series() -> None:
    hot = Hot(Topology(), Sources())
    evaluator("mean(funding_rate, 24h)", hot)
    evaluator("std(funding_rate, 24h) + quantile(funding_rate, 99%, 7d)", hot)
    assert len(hot.layout.series[Kind.MARKET]) == 1
    (series,) = hot.layout.series[Kind.MARKET].values()
    assert series.kept_ns == 7 * 86_400 * NS


@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_window_that_comes_later_goes_on_as_if_it_had_always_been_there(function: str) -> None:
    """A reload brings a shorter window over samples that are kept already: it is known at once, and equals the one that was there."""
    text = f"{function}(oracle_price, 90%, 10m)" if function == "quantile" else f"{function}(oracle_price, 10m)"
    late, early = Hot(Topology(), Sources()), Hot(Topology(), Sources())
    evaluator("mean(oracle_price, 30m)", late)
    expected_of = evaluator(text, early)
    samples = stream(5, 900)
    for at, value in samples[:600]:
        for hot in (late, early):
            hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": value})], at)
    got_of = evaluator(text, late)
    compared = 0
    for at, value in samples[600:]:
        for hot in (late, early):
            hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": value})], at)
        expected, got = expected_of(at), got_of(at)
        assert got == pytest.approx(expected, rel=1e-9, abs=1e-9)
        compared += not math.isnan(got)
    assert compared > 250


def test_a_longer_window_than_was_kept_stays_unknown_until_its_samples_are_old_enough() -> None:
    hot = Hot(Topology(), Sources())
    evaluator("mean(oracle_price, 1m)", hot)
    at = 10**18
    for _ in range(600):
        at += SECOND
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": 5.0})], at)
    count = evaluator("count(oracle_price, 5m)", hot)
    first_known = 0
    for i in range(300):
        at += SECOND
        hot.take([Row(kind=Kind.MARKET, entity=MARKET, values={"oracle_price": 5.0})], at)
        if not math.isnan(count(at)):
            first_known = first_known or i
            assert count(at) == 300.0
    assert 200 < first_known < 300
