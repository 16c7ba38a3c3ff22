"""Importance sampling agrees with plain sampling and cuts variance; finer rows keep the coarse ones."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stress_paths import MARKETS, PRICES, same, source, world, written

from daemon.simulation.stress.draws import NORMAL, Bits, Draws
from daemon.simulation.stress.path import Path
from daemon.simulation.stress.regime import regime_spells, worsening_log_ratio
from daemon.simulation.stress.tilt import Tilt, towards
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import HOUR_NS, MINUTE_NS, NS

HOURS = 72
HELD = {MARKETS[0]: 1000.0, MARKETS[1]: -300.0}
LOUD = """
regimes:
  initial: {calm: 80%, stressed: 20%}
  moves: {calm: {stressed: 1/d}, stressed: {calm: 1/d, crisis: 0.2/d}, crisis: {stressed: 2/d}}
  stressed: {volatility: 2, jumps: 3}
  crisis: {volatility: 4, jumps: 10}
  source: a
jumps: {rate: 0.1/d, mean: -1%, deviation: 4%, source: a}
copula: {dof: 5, correlation: 70%, source: a}
assets: {default: {volatility: 50%, jumps: {rate: 0.05/d, deviation: 3%}, source: a}}
"""


def pnl(path: Path, row: int = -1) -> float:
    return sum(held * (float(path.mid[MARKETS.index(market), row]) / PRICES[market] - 1.0) for market, held in HELD.items())


def drawn(of: WorldSpec, count: int, tilt: Tilt | None, *, dependence: bool = True) -> tuple[np.ndarray, np.ndarray]:
    made = source(of, steps=HOURS, step_ns=HOUR_NS, markets=MARKETS[:2], tilt=tilt, dependence=dependence)
    gains, weights = np.empty(count), np.ones(count)
    for number in range(count):
        path = made.path(number)
        gains[number] = pnl(path)
        if path.log_ratio is not None:
            weights[number] = math.exp(path.log_ratio[-1])
    return gains, weights


@pytest.mark.parametrize(("of", "loss"), [(world("gbm"), 140.0), (written(LOUD), 180.0)], ids=["gbm", "jumps and regimes"])
def test_weights_average_to_one_and_weighted_tails_are_the_plain_ones(of: WorldSpec, loss: float) -> None:
    count = 3000
    tilt = towards(of, HELD, loss_usd=loss, horizon_ns=HOURS * HOUR_NS)
    plain, _ = drawn(of, count, None)
    gains, weights = drawn(of, count, tilt)
    assert abs(weights.mean() - 1.0) < 3.0 * weights.std() / math.sqrt(count)
    assert weights.max() <= 1.0 / tilt.plain + 1e-9
    for level in (0.5 * loss, 0.8 * loss):
        share, hit = plain < -level, (gains < -level) * weights
        error = math.sqrt((share.var() + hit.var()) / count)
        assert abs(share.mean() - hit.mean()) < 3.0 * error, level
    order = np.argsort(gains)
    reached = np.cumsum(weights[order]) / count
    for probability in (0.02, 0.05):
        weighted = gains[order][np.searchsorted(reached, probability)]
        below = np.mean(plain < weighted)
        assert abs(below - probability) < 3.5 * math.sqrt(2.0 * probability / count)


def test_a_rare_loss_under_gbm_has_its_exact_probability_at_a_tenth_of_the_variance() -> None:
    of = world("gbm")
    made = source(of, steps=HOURS, step_ns=HOUR_NS, markets=MARKETS[:1], tilt=None)
    barrier = math.log(0.8)
    variance = 0.8**2 * HOURS / 8766.0
    exact = NORMAL.cdf((barrier + variance / 2.0) / math.sqrt(variance))
    assert exact < 0.01
    tilt = Tilt(move={MARKETS[0]: barrier}, horizon_ns=HOURS * HOUR_NS, plain=0.2)
    made = source(of, steps=HOURS, step_ns=HOUR_NS, markets=MARKETS[:1], tilt=tilt)
    count = 3000
    hits = np.empty(count)
    for number in range(count):
        path = made.path(number)
        assert path.log_ratio is not None
        hits[number] = math.exp(path.log_ratio[-1]) * (math.log(path.mid[0, -1] / PRICES[MARKETS[0]]) < barrier)
    assert abs(hits.mean() - exact) < 3.0 * hits.std() / math.sqrt(count)
    assert exact * (1.0 - exact) / hits.var() > 10.0


def test_a_weight_stopped_at_the_first_crossing_gives_the_same_probability() -> None:
    of = written(LOUD)
    count, barrier = 2500, math.log(0.88)
    tilt = towards(of, {MARKETS[0]: 1000.0}, loss_usd=130.0, horizon_ns=HOURS * HOUR_NS)
    plain = source(of, steps=HOURS, step_ns=HOUR_NS, markets=MARKETS[:1])
    pushed = source(of, steps=HOURS, step_ns=HOUR_NS, markets=MARKETS[:1], tilt=tilt)
    crossed = np.array([np.log(plain.path(k).mid[0] / PRICES[MARKETS[0]]).min() < barrier for k in range(count)])
    stopped, ended = np.zeros(count), np.zeros(count)
    for number in range(count):
        path = pushed.path(number)
        assert path.log_ratio is not None
        below = np.flatnonzero(np.log(path.mid[0] / PRICES[MARKETS[0]]) < barrier)
        if len(below):
            stopped[number] = math.exp(path.log_ratio[below[0]])
            ended[number] = math.exp(path.log_ratio[-1])
    for weighted in (stopped, ended):
        assert abs(weighted.mean() - crossed.mean()) < 3.0 * math.sqrt((weighted.var() + crossed.var()) / count)


def test_without_dependence_weights_still_average_to_one() -> None:
    of = written(LOUD)
    _, weights = drawn(of, 2000, towards(of, HELD, loss_usd=150.0, horizon_ns=HOURS * HOUR_NS), dependence=False)
    assert abs(weights.mean() - 1.0) < 3.0 * weights.std() / math.sqrt(len(weights))


def test_paths_take_their_laws_by_number_and_plain_ones_are_untouched() -> None:
    of = written(LOUD)
    tilt = towards(of, HELD, loss_usd=150.0, horizon_ns=HOURS * HOUR_NS)
    laws = [tilt.law(number) for number in range(20)]
    assert {law: laws.count(law) / 20 for law in set(laws)} == dict(tilt.shares)
    assert [tilt.law(number + 20) for number in range(20)] == laws
    assert set(tilt.shares) == {"plain", "move", "jumps", "worse", "wild"}
    assert sum(tilt.shares.values()) == pytest.approx(1.0)
    pushed, plain = source(of, tilt=tilt), source(of)
    for number in range(20):
        path = pushed.path(number)
        assert path.pushed == (laws[number] != "plain")
        if not path.pushed:
            assert np.array_equal(path.mid, plain.path(number).mid)
    same(pushed.path(3), source(of, tilt=tilt).path(3))


def test_a_push_moves_prices_by_what_was_asked_for_within_its_horizon() -> None:
    of = written("copula: {correlation: 60%, source: a}\nassets: {BTC: {volatility: 40%, source: a}, ETH: {volatility: 80%, source: a}}")
    tilt = Tilt(move={MARKETS[0]: -0.10, MARKETS[1]: 0.05}, horizon_ns=24 * HOUR_NS, plain=0.05)
    made = source(of, steps=48, step_ns=HOUR_NS, markets=MARKETS[:2], tilt=tilt)
    starts = np.array([[PRICES[market]] for market in MARKETS[:2]])
    logs = np.array([np.log(made.path(k).mid[:, [23, 47]] / starts) for k in range(2000) if tilt.law(k) == "move"])
    for coin, (move, volatility) in enumerate(((-0.10, 0.4), (0.05, 0.8))):
        variance = volatility**2 * 24 / 8766
        assert logs[:, coin, 0].mean() == pytest.approx(move - variance / 2, abs=4 * math.sqrt(variance / len(logs)))
        assert logs[:, coin, 1].mean() == pytest.approx(move - variance, abs=4 * math.sqrt(2 * variance / len(logs)))


def test_the_likeliest_move_loses_what_it_should_and_no_nearer_one_does() -> None:
    of = written("copula: {correlation: 60%, source: a}\nassets: {BTC: {volatility: 40%, source: a}, ETH: {volatility: 80%, source: a}}")
    tilt = towards(of, HELD, loss_usd=100.0, horizon_ns=HOUR_NS)
    move = np.array([tilt.move[MARKETS[0]], tilt.move[MARKETS[1]]])
    held = np.array([1000.0, -300.0])
    assert float(held @ move) == pytest.approx(-100.0)
    covariance = np.array([[0.16, 0.6 * 0.32], [0.6 * 0.32, 0.64]])
    inverse = np.linalg.inv(covariance)
    for angle in np.linspace(0.0, 2.0 * math.pi, 50):
        other = np.array([math.cos(angle), math.sin(angle)])
        if abs(held @ other) > 1e-6:
            other *= -100.0 / (held @ other)
            assert other @ inverse @ other >= move @ inverse @ move - 1e-9


def test_the_ratio_of_worsening_regimes_averages_to_one() -> None:
    from_plain, from_pushed = [], []
    regimes = written(LOUD).regimes
    bits = Bits()
    for number in range(4000):
        draws = Draws(bits, seed=1, path=number)
        plain = regime_spells(draws, regimes, 72.0)
        from_plain.append(math.exp(worsening_log_ratio(plain, regimes, 72.0, 3.0)))
        pushed = regime_spells(draws, regimes, 72.0, worsening=3.0)
        from_pushed.append(math.exp(-worsening_log_ratio(pushed, regimes, 72.0, 3.0)))
    for ratios in (np.array(from_plain), np.array(from_pushed)):
        assert abs(ratios.mean() - 1.0) < 4.0 * ratios.std() / math.sqrt(len(ratios))


@pytest.mark.parametrize("bad", [{"plain": 0.0}, {"plain": 0.33}, {"jump_factor": 0.0}, {"horizon_ns": 0}])
def test_a_tilt_that_makes_no_mixture_is_refused(bad: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="a tilt needs"):
        Tilt(**({"move": {}, "horizon_ns": HOUR_NS} | bad))  # type: ignore[arg-type]


def test_exposure_to_nothing_that_moves_has_no_direction() -> None:
    with pytest.raises(ValueError, match="no direction"):
        towards(world("gbm"), {MARKETS[0]: 0.0}, loss_usd=1.0, horizon_ns=HOUR_NS)


# --- finer rows -------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gbm", "calm", "stressed"])
@pytest.mark.parametrize("dependence", [True, False])
def test_finer_rows_keep_the_coarse_ones_to_the_last_bit(name: str, dependence: bool) -> None:
    made = source(world(name), steps=600, dependence=dependence)
    path = made.path(3)
    fine = made.refined(path, [(0, 20), (15, 40), (590, 600)], 5 * NS)
    assert len(fine.at) == 600 + 11 * 50
    assert np.all(np.diff(fine.at) > 0)
    rows = np.searchsorted(fine.at, path.at)
    for field in ("at", "regime", "mid", "oracle", "index", "spread", "depth"):
        assert np.array_equal(getattr(fine, field)[..., rows], getattr(path, field)), field
    assert np.diff(fine.at[: 12 * 40]).tolist() == [5 * NS] * (12 * 40 - 1)
    assert fine.funding is path.funding
    assert fine.facts == path.facts
    again = made.refined(path, [(10, 12)], 5 * NS)
    inside = (again.at > path.at[9]) & (again.at <= path.at[11])
    assert np.array_equal(again.mid[:, inside], fine.mid[:, (fine.at > path.at[9]) & (fine.at <= path.at[11])])
    assert made.refined(path, [], 5 * NS) is path


def test_finer_rows_have_the_volatility_of_the_path() -> None:
    made = source(world("gbm"), steps=2000, markets=MARKETS[:2])
    moves = []
    for number in range(4):
        fine = made.refined(made.path(number), [(0, 2000)], 5 * NS)
        moves.append(np.diff(np.log(fine.mid), axis=1))
    squares = np.concatenate(moves, axis=1)
    variance = 0.8**2 * 5.0 / (365.25 * 86_400)
    assert np.mean(squares**2) == pytest.approx(variance, rel=3.0 * math.sqrt(2.0 / squares.size))
    assert abs(np.corrcoef(squares)[0, 1]) < 4.0 / math.sqrt(squares.shape[1])


def test_a_jump_stays_at_its_row() -> None:
    of = written("assets: {default: {volatility: 1%, jumps: {rate: 2/h, deviation: 10%}, source: a}}")
    made = source(of, steps=240, markets=MARKETS[:1])
    path = made.path(0)
    assert path.jumps
    fine = made.refined(path, [(0, 240)], 5 * NS)
    steps = np.abs(np.diff(np.log(fine.mid[0])))
    at = {int(path.at[jump.row]) for jump in path.jumps if abs(jump.size) > 0.01}
    assert {int(fine.at[j + 1]) for j in np.flatnonzero(steps > 0.005)} <= {int(path.at[jump.row]) for jump in path.jumps}
    assert at <= {int(fine.at[j + 1]) for j in np.flatnonzero(steps > 0.005)}


def test_an_oracle_that_stands_stands_in_finer_rows_too() -> None:
    of = written(
        "assets: {default: {volatility: 100%, source: a}}\n"
        "venues: {dydx-v4: {oracle: {freeze: {rate: 20/d, typical: 1h, p95: 2h, source: a}, source: a}, source: a}}"
    )
    made = source(of, steps=600, markets=MARKETS[:1])
    path = made.path(0)
    stood = np.flatnonzero(np.diff(path.oracle[0]) == 0.0) + 1
    fine = made.refined(path, [(0, 600)], 5 * NS)
    for row in stood.tolist():
        inside = (fine.at > path.at[row - 1]) & (fine.at <= path.at[row])
        assert np.all(fine.oracle[0, inside] == path.oracle[0, row])
    assert len(stood)


def test_finer_rows_weigh_what_their_coarse_row_weighs() -> None:
    tilt = towards(world("gbm"), HELD, loss_usd=100.0, horizon_ns=HOURS * HOUR_NS)
    made = source(world("gbm"), steps=120, markets=MARKETS[:2], tilt=tilt)
    path = made.path(1)
    fine = made.refined(path, [(4, 6)], 5 * NS)
    assert path.log_ratio is not None
    assert fine.log_ratio is not None
    assert fine.log_ratio[4:16].tolist() == [path.log_ratio[4]] * 12


def test_steps_that_do_not_fit_are_refused() -> None:
    made = source(world("gbm"), steps=60)
    path = made.path(0)
    for step in (7 * NS, 0, 2 * MINUTE_NS):
        with pytest.raises(ValueError, match="whole steps"):
            made.refined(path, [(0, 5)], step)
    fine = made.refined(path, [(0, 5)], 5 * NS)
    with pytest.raises(ValueError, match="whole steps"):
        made.refined(fine, [(0, 5)], 5 * NS)
