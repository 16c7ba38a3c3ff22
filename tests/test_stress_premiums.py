"""Premiums, funding and oracles of stress paths, against the margin formulas and recursions written out."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stress_paths import MARKETS, START, source, written

from daemon.simulation.stress.premium import dydx_rates, hyperliquid_rates, mean_reverting
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import HOUR_NS, MINUTE_NS
from daemon.world import hyperliquid, margin
from daemon.world.entities import Kind


# --- funding --------------------------------------------------------------------------------------------------------------------------
def test_funding_vectors_of_the_venues() -> None:
    assert dydx_rates(np.array([10 * 0.002]), np.array([10.0]), 0.0, 0.02, 0.012)[0] * 8.0 == pytest.approx(333.33e-6, rel=1e-4)  # F3
    vectors = [(0.0095 + 0.0005, 0.0011875), (0.00057962, 0.0000125), (-0.0009, -0.00005), (0.50, 0.04)]  # H4 to H7
    rates = hyperliquid_rates(np.array([premium for premium, _ in vectors]))
    assert rates == pytest.approx([rate for _, rate in vectors], rel=1e-9)


@given(st.lists(st.floats(-2.0, 2.0), min_size=1, max_size=30), st.integers(0, 60))
def test_funding_rules_are_those_of_the_margin_formulas_and_never_beyond_their_bounds(premiums: list[float], samples: int) -> None:
    array = np.array(premiums)
    ours = dydx_rates(array * samples, np.full(len(array), float(samples)), 0.0001, 0.05, 0.03)
    for premium, rate in zip(premiums, ours.tolist(), strict=True):
        assert rate == pytest.approx(margin.funding_rate_hourly(premium * samples, samples, 0.0001, 0.05, 0.03), abs=1e-15)
        assert abs(rate) <= 6.0 * 0.02 / 8.0 + 1e-15
    for premium, rate in zip(premiums, hyperliquid_rates(array).tolist(), strict=True):
        assert rate == pytest.approx(hyperliquid.funding_rate_hourly(premium), abs=1e-15)
        assert abs(rate) <= 0.04


LIVELY = """
assets: {default: {volatility: 100%, source: a}}
venues:
  dydx-v4:
    premium: {mean: {calm: 30bps, stressed: 0bps, crisis: 0bps}, noise: {calm: 500bps, stressed: 0bps, crisis: 0bps}, half_life: 1h, response: 0.1, impact: 20bps, source: a}
    funding_default: 1bps
    HALT
    source: a
  hyperliquid:
    premium: {mean: {calm: -30bps, stressed: 0bps, crisis: 0bps}, noise: {calm: 3000bps, stressed: 0bps, crisis: 0bps}, half_life: 20m, impact: 20bps, source: a}
    source: a
"""  # noqa: E501 - a world file


@pytest.mark.parametrize("halt", ["gate: 0s", "halt: {rate: 3/d, typical: 90m, p95: 3h, source: a}"])
def test_settled_funding_is_what_the_margin_formulas_make_of_the_minutes(halt: str) -> None:
    made = source(written(LIVELY.replace("HALT", halt)), steps=24 * 60)
    impact = 0.002
    for number in range(3):
        path = made.path(number)
        assert bool(path.halted) == halt.startswith("halt")
        premium = path.mid / path.index - 1.0
        assert path.funding_at.tolist() == [START + 20 * MINUTE_NS + k * HOUR_NS for k in range(24)]
        for k, hour in enumerate(path.funding_at.tolist()):
            for m in range(3):
                total, samples = 0.0, 0
                for minute in range(60):
                    at = hour - minute * MINUTE_NS
                    j = (at - START) // MINUTE_NS - 1
                    if m < 2 and any(since <= at < until for _, since, until in path.halted):
                        continue
                    shown = float(premium[m, j]) if j >= 0 else (0.003 if m < 2 else -0.003)
                    total += margin.funding_premium(1.0 + shown - impact, 1.0 + shown + impact, 1.0)
                    samples += 1
                if m < 2:
                    spec = made.world.asset("BTC")
                    expected = margin.funding_rate_hourly(total, samples, 0.0001, spec.initial_margin, spec.maintenance_margin)
                else:
                    expected = hyperliquid.funding_rate_hourly(total / samples)
                assert path.funding[m, k] == pytest.approx(expected, abs=1e-12)
    assert np.abs(path.funding[2]).max() == 0.04 or np.abs(path.funding[2]).max() < 0.04


def test_funding_never_passes_the_clamp_or_the_cap() -> None:
    of = written(LIVELY.replace("HALT", "gate: 0s").replace("500bps", "90%").replace("3000bps", "900%"))
    made = source(of, steps=24 * 60)
    funding = np.stack([made.path(number).funding for number in range(20)])
    assert np.abs(funding[:, :2]).max() == pytest.approx(6.0 * (0.05 - 0.03) / 8.0)  # it is reached, and not passed
    assert np.abs(funding[:, 2]).max() == 0.04


def test_an_hour_that_the_chain_stood_still_settles_at_the_default_rate() -> None:
    of = written(LIVELY.replace("HALT", "halt: {rate: 100/h, typical: 10d, p95: 10d, source: a}").replace("funding_default: 1bps", ""))
    path = source(of, steps=6 * 60).path(0)
    assert path.halted
    assert not path.funding[:2, 1:].any()
    assert path.funding[2].any()


@given(st.floats(0.01, 0.999), st.lists(st.floats(-1.0, 1.0), min_size=1, max_size=400), st.floats(-1.0, 1.0))
@settings(deadline=None)
def test_the_filter_is_the_recursion(decay: float, pushes: list[float], first: float) -> None:
    walked = mean_reverting(np.array([pushes]), decay, np.array([first]))[0]
    level = first
    for push, found in zip(pushes, walked.tolist(), strict=True):
        level = decay * level + push
        assert found == pytest.approx(level, abs=1e-9)


def test_premiums_revert_with_the_half_life_and_deviation_of_the_file() -> None:
    of = written(LIVELY.replace("HALT", "gate: 0s").replace("response: 0.1, ", ""))
    made = source(of, steps=96 * 60, markets=MARKETS[:1])
    tracks = np.stack([(path := made.path(k)).mid[0] / path.index[0] - 1.0 for k in range(150)])[:, 12 * 60 :]
    assert tracks.mean() == pytest.approx(0.003, abs=4 * 0.05 / math.sqrt(150 * 84 / 2))
    assert tracks.std() == pytest.approx(0.05, rel=0.05)
    centred = tracks - 0.003
    assert np.mean(centred[:, 60:] * centred[:, :-60]) / np.mean(centred**2) == pytest.approx(0.5, abs=0.05)


# --- oracles --------------------------------------------------------------------------------------------------------------------------
def oracle_world(inner: str, model: str = "dydx-v4", more: str = "") -> WorldSpec:
    return written(
        f"assets: {{default: {{volatility: 100%, source: a}}}}\nvenues: {{{model}: {{oracle: {{{inner}, source: a}}, {more} source: a}}}}"
    )


def test_a_deadband_keeps_the_oracle_near_and_stepping() -> None:
    path = source(oracle_world("deadband: 0.5%")).path(0)
    apart = np.log(path.oracle[0] / path.index[0])
    assert np.abs(apart).max() <= 0.005 / math.sqrt(2.0) + 1e-9
    assert apart.std() == pytest.approx(0.005 / math.sqrt(6.0), rel=0.1)  # a published price is triangular within the deadband
    stands = np.mean(np.diff(np.log(path.oracle[0])) == 0.0)
    shown = np.unique(np.round(np.log(path.oracle[0]) / (math.sqrt(2.0) * 0.005), 6) % 1.0)
    assert stands < 1.0
    assert len(shown) < 20  # a grid


def test_the_mark_of_hyperliquid_is_between_index_and_mid_and_follows_an_average() -> None:
    text = LIVELY.replace("HALT", "gate: 0s").replace(
        "impact: 20bps, source: a}\n    source: a\n", "impact: 20bps, source: a}\n    X\n    source: a\n"
    )
    of = written(text.replace("X", "oracle: {smoothing: 150s, source: a}"))
    path = source(of).path(0)
    premium = path.mid[2] / path.index[2] - 1.0
    mark = path.oracle[2] / path.index[2] - 1.0
    assert np.all(np.abs(mark) <= np.abs(premium) + 1e-12)
    average, late = 0.0, np.empty(len(premium))
    weight = 1.0 - math.exp(-60.0 / 150.0)
    for j, value in enumerate(premium.tolist()):
        average += weight * (value - average)
        late[j] = average
    expected = np.clip(late, np.minimum(premium, 0.0), np.maximum(premium, 0.0))
    assert np.corrcoef(mark[60:], expected[60:])[0, 1] > 0.99


def test_an_oracle_freezes_and_stands_after_a_halt_until_it_is_fresh_again() -> None:
    frozen = source(oracle_world("freeze: {rate: 12/d, typical: 30m, p95: 60m, source: a}")).path(0)
    apart = frozen.oracle[0] != frozen.index[0]
    assert 0.05 < apart.mean() < 0.95
    edges = np.flatnonzero(apart)
    assert all(frozen.oracle[0, j] == frozen.oracle[0, j - 1] for j in edges.tolist() if j)
    assert frozen.halted == ()

    halted = source(oracle_world("restart_stale: 5m", more="halt: {rate: 4/d, typical: 30m, p95: 60m, source: a},")).path(0)
    assert halted.halted
    for venue, since, until in halted.halted:
        assert venue == "dydx"
        rows = (halted.at >= since) & (halted.at < until + 5 * MINUTE_NS)
        assert len(np.unique(halted.oracle[0, rows])) == 1
        told = [fact for fact in halted.facts if fact.kind is Kind.VENUE and fact.at in (since, until)]
        assert [fact.values["venue_up"] for fact in told] == ([0.0, 1.0] if until <= halted.at[-1] else [0.0])
    assert np.array_equal(halted.oracle[2], halted.index[2])


def test_an_oracle_is_late_or_wrong_for_a_while() -> None:
    late = source(oracle_world("late: {rate: 6/d, typical: 30m, p95: 60m, by: 4m, source: a}")).path(1)
    apart = np.flatnonzero(late.oracle[0] != late.index[0])
    assert len(apart)
    assert all(late.oracle[0, j] == late.index[0, j - 4] for j in apart.tolist() if j >= 4)
    wrong = source(oracle_world("wrong: {rate: 6/d, typical: 30m, p95: 60m, deviation: 20%, source: a}")).path(1)
    ratios = wrong.oracle[0] / wrong.index[0]
    assert len(np.unique(np.round(ratios, 9))) > 1
    assert np.sum(np.abs(ratios - 1.0) < 1e-12) > 100
