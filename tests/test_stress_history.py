"""Futures drawn from a recorded past, the premiums behind censored funding, and the back-tests, against published figures."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stress_paths import MARKETS, PRICES, START, same, written

from daemon.errors import UserError
from daemon.simulation.stress.backtest import coverage, kolmogorov, kupiec, probability_ranks, quantile_tests, uniformity
from daemon.simulation.stress.censored import fit_premium, premium_bounds
from daemon.simulation.stress.draws import Bits, Draws
from daemon.simulation.stress.history import WARM_UP_H, Residuals, ewma_deviations, residuals
from daemon.simulation.stress.path import Grid, PathSource
from daemon.simulation.stress.tilt import Tilt
from daemon.units import HOUR_NS, NS
from daemon.world import hyperliquid

PAST_H = 3000
OF = "history: {decay: 0.97, block: 12h, source: a}\nassets: {default: {volatility: 1%, source: a}}\nregimes: {initial: {calm: 100%}, " + (
    "moves: {calm: {stressed: 1/d}}, stressed: {volatility: 9, depth: 0.5}, crisis: {depth: 0.1}, source: a}"
)
MODELS = ("dydx-v4", "dydx-v4", "hyperliquid")


def recorded(seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Hourly closes and funding of three markets with volatility that comes and goes."""
    chance = np.random.default_rng(seed)
    level = np.exp(np.cumsum(chance.standard_normal(PAST_H) * 0.03) * 0.3)
    common = chance.standard_normal(PAST_H)
    moves = np.stack([0.8 * common + 0.6 * chance.standard_normal(PAST_H) for _ in MODELS], axis=1)
    moves *= level[:, None] * np.array([0.004, 0.006, 0.01])
    closes = np.exp(np.cumsum(moves, axis=0)) * 100.0
    premium = np.zeros((PAST_H, 3))
    for k in range(1, PAST_H):
        premium[k] = 0.9 * premium[k - 1] + 0.0002 * chance.standard_normal(3) + 0.01 * moves[k]
    funding = premium / 8.0
    funding[:, 2] = [hyperliquid.funding_rate_hourly(value) for value in premium[:, 2]]
    return closes, funding


@pytest.fixture(scope="module")
def past() -> Residuals:
    closes, funding = recorded()
    return residuals(closes, funding, models=MODELS)


def made(past: Residuals, *, steps: int = 72 * 60, dependence: bool = True, tilt: Tilt | None = None) -> PathSource:
    grid = Grid(start=START, steps=steps)
    of = written(OF, "history")
    return PathSource(of, markets=MARKETS, prices=PRICES, grid=grid, seed=7, past=past, dependence=dependence, tilt=tilt)


def test_residuals_are_moves_over_the_deviation_that_was_expected_of_them(past: Residuals) -> None:
    closes, _ = recorded()
    moves = np.diff(np.log(closes), axis=0)
    variance = np.mean(moves[:WARM_UP_H] ** 2, axis=0)
    expected = []
    for move in moves:
        expected.append(move / np.sqrt(variance))
        variance = 0.97 * variance + 0.03 * move**2
    kept = np.array(expected)[WARM_UP_H:]
    assert past.moves == pytest.approx(kept - kept.mean(axis=0))
    assert past.deviation == pytest.approx(np.sqrt(variance))
    assert past.moves.std(axis=0) == pytest.approx(1.0, abs=0.1)
    assert ewma_deviations(moves, 0.97).shape == (PAST_H, 3)


def test_drawn_volatility_is_the_ewma_of_the_drawn_moves(past: Residuals) -> None:
    drawn = past.draw(Draws(Bits(), seed=1, path=0), hours=200, block_h=12.0)
    variance = past.deviation**2
    for deviation, move in zip(drawn.deviations, drawn.moves, strict=True):
        assert deviation == pytest.approx(np.sqrt(variance))
        variance = 0.97 * variance + 0.03 * move**2
    level = past.premium
    for hour, premium in zip(drawn.index.tolist(), drawn.premiums, strict=True):
        level = past.premium_mean + past.premium_decay * (level - past.premium_mean) + past.innovations[hour]
        assert premium == pytest.approx(level, abs=1e-12)


def test_blocks_begin_anywhere_and_are_as_long_as_asked(past: Residuals) -> None:
    bits = Bits()
    index = np.stack([past.index(Draws(bits, seed=1, path=k), 240, 12.0) for k in range(400)])
    follows = np.diff(index, axis=1) % len(past.moves) == 1
    assert 1.0 - follows.mean() == pytest.approx(1.0 / 12.0, rel=0.05)
    assert uniformity(index[:, 0] / len(past.moves))[1] > 0.01
    assert index.min() >= 0
    assert index.max() < len(past.moves)


def test_all_markets_and_their_premiums_take_the_same_hours(past: Residuals) -> None:
    together = past.draw(Draws(Bits(), seed=1, path=3), hours=100, block_h=12.0)
    assert together.index.ndim == 1
    assert together.moves / together.deviations == pytest.approx(past.moves[together.index])
    apart = past.draw(Draws(Bits(), seed=1, path=3), hours=100, block_h=12.0, together=False)
    assert apart.index.shape == (100, 3)
    assert len(np.unique(apart.index[0])) == 3


def test_minutes_bridge_the_drawn_hours(past: Residuals) -> None:
    source = made(past)
    path = source.path(5)
    drawn = past.draw(Draws(Bits(), seed=7, path=5), hours=72, block_h=12.0)
    ends = np.log(path.index[:, 59::60])
    starts = np.log(np.array([PRICES[market] for market in MARKETS]) / (1.0 + past.premium))
    assert np.diff(np.concatenate([starts[:, None], ends], axis=1), axis=1) == pytest.approx(drawn.moves.T, abs=1e-10)
    assert (path.mid[:, 59::60] / path.index[:, 59::60] - 1.0) == pytest.approx(drawn.premiums.T, abs=1e-10)
    minutes = np.diff(np.log(path.index[0]))
    assert np.sum(minutes**2) == pytest.approx(np.sum(drawn.deviations[:, 0] ** 2), rel=0.2)
    assert path.funding.shape == (3, 72)
    assert np.abs(path.funding).sum() > 0.0


def test_a_drawn_path_is_the_same_in_any_order_and_its_regime_is_its_volatility(past: Residuals) -> None:
    one, other = made(past), made(past)
    paths = [one.path(number) for number in range(4)]
    for number in reversed(range(4)):
        same(paths[number], other.path(number))
    seen = set()
    for number in range(60):
        path = one.path(number)
        drawn = past.draw(Draws(Bits(), seed=7, path=number), hours=72, block_h=12.0)
        level = np.mean(drawn.deviations / past.usual, axis=1)
        expected = (level >= 1.5).astype(int) + (level >= 3.0)
        assert path.regime[::60].tolist() == expected.tolist()
        seen |= set(expected.tolist())
        assert np.unique(path.depth[0, path.regime == 1]).tolist() in ([], [0.5e15])
    assert {0, 1} <= seen


def test_a_drawn_path_is_refined_and_warmed_up_and_not_tilted(past: Residuals) -> None:
    source = made(past, tilt=Tilt(move={MARKETS[0]: -0.1}, horizon_ns=HOUR_NS))
    path = source.path(1)
    assert not source.is_tilted
    assert path.log_ratio is None
    fine = source.refined(path, [(30, 60)], 5 * NS)
    rows = np.searchsorted(fine.at, path.at)
    assert np.array_equal(fine.mid[:, rows], path.mid)
    assert source.warm_up(1).mid[:, -1].tolist() == [PRICES[market] for market in MARKETS]


def test_a_history_world_without_a_past_says_what_is_missing() -> None:
    grid = Grid(start=START, steps=60)
    with pytest.raises(UserError, match="--history"):
        PathSource(written(OF, "history"), markets=MARKETS, prices=PRICES, grid=grid, seed=1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda c, f: (c[:100], f[:100]), "too short"),
        (lambda c, f: (np.where(np.arange(PAST_H)[:, None] == 50, np.nan, c), f), "hour 50"),
        (lambda c, f: (c, f[:, :2]), "tables of hours"),
    ],
)
def test_a_past_that_cannot_be_drawn_from_is_refused(spoil: object, message: str) -> None:
    assert callable(spoil)
    closes, funding = spoil(*recorded())
    with pytest.raises(UserError, match=message):
        residuals(closes, funding, models=MODELS)


# --- censored premiums ------------------------------------------------------------------------------------------------------------------
def test_bounds_hold_the_premium_that_the_venues_rule_was_given() -> None:
    premiums = np.concatenate([np.linspace(-0.5, 0.5, 4001), np.linspace(-0.001, 0.001, 2001)])
    rates = np.array([hyperliquid.funding_rate_hourly(value) for value in premiums.tolist()])
    low, high = premium_bounds(rates, "hyperliquid")
    assert np.all(low <= premiums + 1e-8)
    assert np.all(premiums <= high + 1e-8)
    inside = (premiums > -0.0004 + 1e-6) & (premiums < 0.0006 - 1e-6)
    assert np.all(high[inside] - low[inside] == pytest.approx(0.001))
    known = ~inside & (np.abs(premiums) < 0.3) & ~((premiums > -0.00041) & (premiums < 0.00061))
    assert low[known] == pytest.approx(premiums[known], abs=1e-12)
    assert np.all(np.isinf(high[premiums > 0.3206]))


def test_the_process_behind_censored_rates_is_found_again() -> None:
    chance = np.random.default_rng(3)
    premium = np.zeros(6000)
    for k in range(1, len(premium)):
        premium[k] = 0.0002 + 0.9 * (premium[k - 1] - 0.0002) + 0.0002 * chance.standard_normal()
    rates = np.array([hyperliquid.funding_rate_hourly(value) for value in premium.tolist()])
    fit = fit_premium(rates, "hyperliquid")
    assert 0.5 < fit.censored < 0.95
    assert fit.mean == pytest.approx(0.0002, abs=0.00006)
    assert fit.decay == pytest.approx(0.9, abs=0.03)
    assert fit.deviation == pytest.approx(0.0002, rel=0.12)
    back = [hyperliquid.funding_rate_hourly(value) for value in fit.premiums.tolist()]
    assert back == pytest.approx(rates.tolist(), abs=1e-9)
    again = fit_premium(rates, "hyperliquid")
    assert np.array_equal(again.premiums, fit.premiums)
    naive = np.where(np.abs(rates - 0.0000125) < 1e-9, 0.0001, rates * 8)  # the floor taken at its word loses a third of the noise
    assert np.std(naive) < 0.75 * np.std(premium)
    assert np.std(fit.premiums) == pytest.approx(np.std(premium), rel=0.1)


def test_rates_of_dydx_are_their_premiums_short_of_the_clamp() -> None:
    rates = np.array([0.00001, -0.00002, 0.006, -0.006])
    low, high = premium_bounds(rates, "dydx-v4", clamp_8h=0.048)
    assert low.tolist() == [*(rates[:3] * 8).tolist(), -math.inf]
    assert high.tolist() == [*(rates[:2] * 8).tolist(), math.inf, rates[3] * 8]


# --- back-tests ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("probability", "trials", "lowest", "highest"),
    [  # Kupiec (1995), table 3: failures that do not reject at 95 %, as Jorion prints it (N between the bounds, both excluded)
        (0.01, 510, 1, 11), (0.01, 1000, 4, 17), (0.025, 255, 2, 12), (0.025, 510, 6, 21), (0.025, 1000, 15, 36), (0.05, 255, 6, 21),
        (0.05, 510, 16, 36), (0.05, 1000, 37, 65), (0.075, 255, 11, 28), (0.075, 510, 27, 51), (0.075, 1000, 59, 92), (0.10, 255, 16, 36),
        (0.10, 510, 38, 65), (0.10, 1000, 81, 120),
    ],
)  # fmt: skip
def test_kupiec_rejects_where_his_table_does(probability: float, trials: int, lowest: int, highest: int) -> None:
    for failures in range(trials):
        _, p_value = kupiec(failures, trials, probability)
        assert (p_value > 0.05) == (lowest < failures < highest), failures


def test_kupiec_of_the_expected_share_is_sure_and_of_no_trials_refuses() -> None:
    assert kupiec(10, 1000, 0.01) == (0.0, 1.0)
    assert kupiec(0, 255, 0.01)[0] == pytest.approx(-2 * 255 * math.log(0.99))
    for failures, trials, probability in ((1, 0, 0.5), (5, 4, 0.5), (1, 4, 0.0)):
        with pytest.raises(ValueError, match="no proportion"):
            kupiec(failures, trials, probability)


@pytest.mark.parametrize(("x", "p"), [(1.2239, 0.10), (1.3581, 0.05), (1.5174, 0.02), (1.6276, 0.01), (1.9495, 0.001), (0.8276, 0.5)])
def test_kolmogorovs_distribution_has_its_published_critical_values(x: float, p: float) -> None:
    assert kolmogorov(x) == pytest.approx(p, rel=2e-3)


def test_uniformity_accepts_uniform_ranks_as_often_as_it_says_and_refuses_others() -> None:
    chance = np.random.default_rng(1)
    p_values = np.array([uniformity(chance.random(60))[1] for _ in range(1500)])
    assert np.mean(p_values < 0.05) == pytest.approx(0.05, abs=0.018)
    assert uniformity(chance.beta(2.0, 2.0, 300))[1] < 0.01
    assert uniformity(np.array([0.5]))[0] == 0.5
    assert math.isnan(uniformity(np.array([]))[1])


def test_quantiles_cover_as_often_as_they_should_and_ranks_are_uniform() -> None:
    chance = np.random.default_rng(2)
    drawn, realised = chance.standard_normal((800, 500)), chance.standard_normal(800)
    for found in quantile_tests(drawn, realised, (0.05, 0.5, 0.95)):
        assert found.trials == 800
        assert abs(found.share - found.probability) < 4.0 * math.sqrt(found.probability * (1.0 - found.probability) / 800)
        assert found.p_value > 0.001
    assert uniformity(probability_ranks(drawn, realised))[1] > 0.01
    assert uniformity(probability_ranks(drawn * 0.5, realised))[1] < 1e-6
    narrow = quantile_tests(drawn * 0.5, realised, (0.05,))[0]
    assert narrow.failures > 100
    assert narrow.p_value < 1e-6
    holes = np.array([0.0, np.nan, 0.0])
    assert coverage(holes, np.array([-1.0, 0.0, np.nan]), 0.5).trials == 1


def test_the_filtered_past_covers_returns_that_it_has_not_seen() -> None:
    closes, funding = recorded(5)
    drawn, realised = [], []
    for k, end in enumerate(range(2000, PAST_H - 24, 24)):
        past = residuals(closes[:end], np.full_like(funding[:end], np.nan), models=MODELS)
        bits = Bits()
        moves = [past.draw(Draws(bits, seed=k, path=j), hours=24, block_h=12.0).moves[:, 0].sum() for j in range(100)]
        drawn.append(moves)
        realised.append(math.log(closes[end - 1 + 24, 0] / closes[end - 1, 0]))
    ranks = probability_ranks(np.array(drawn), np.array(realised))
    assert uniformity(ranks)[1] > 0.01
