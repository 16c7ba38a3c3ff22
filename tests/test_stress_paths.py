"""Paths of stress: the same whatever else was drawn, with the laws that the world states, against independent computations."""

from __future__ import annotations

import math

import numpy as np
import pytest
from stress_paths import MARKETS, PRICES, START, same, source, world, written

from daemon.simulation.stress.backtest import uniformity
from daemon.simulation.stress.draws import NORMAL, Bits, Draws, Purpose
from daemon.simulation.stress.path import Path
from daemon.simulation.stress.regime import exposure, happenings, regime_spells
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import HOUR_NS


# --- draws --------------------------------------------------------------------------------------------------------------------------
def test_a_stream_is_the_same_whatever_was_drawn_before() -> None:
    bits = Bits()
    first, again = np.empty(1000), np.empty(1000)
    Draws(bits, seed=3, path=5).normals(Purpose.PRICE, "BTC", first)
    other = Draws(bits, seed=3, path=6)
    other.normals(Purpose.PREMIUM, "x", np.empty(77))
    other.uniform(Purpose.DELAY, "cctp", 2)
    Draws(bits, seed=3, path=5).normals(Purpose.PRICE, "BTC", again)
    assert np.array_equal(first, again)
    fresh = np.empty(1000)
    Draws(Bits(), seed=3, path=5).normals(Purpose.PRICE, "BTC", fresh)
    assert np.array_equal(first, fresh)


def test_a_longer_stream_begins_with_the_shorter_one() -> None:
    draws = Draws(Bits(), seed=1, path=0)
    short, long = np.empty(4097), np.empty(300_000)
    draws.normals(Purpose.PRICE, "BTC", short)
    draws.normals(Purpose.PRICE, "BTC", long)
    assert np.array_equal(short, long[: len(short)])
    assert np.abs(long).max() > 4.2  # values of the outermost bins are there, and only they are beyond the table


def test_streams_of_other_seeds_paths_purposes_entities_and_blocks_are_others() -> None:
    seen = set()
    for seed, path, purpose, entity, block in [
        (1, 0, Purpose.PRICE, "BTC", 0), (2, 0, Purpose.PRICE, "BTC", 0), (1, 1, Purpose.PRICE, "BTC", 0),
        (1, 0, Purpose.PREMIUM, "BTC", 0), (1, 0, Purpose.PRICE, "ETH", 0), (1, 0, Purpose.PRICE, "BTC", 1),
        (1, -1, Purpose.PRICE, "BTC", 0),
    ]:  # fmt: skip
        out = np.empty(64)
        Draws(Bits(), seed=seed, path=path).normals(purpose, entity, out, block)
        seen.add(out.tobytes())
    assert len(seen) == 7


def test_normals_are_normal() -> None:
    out = np.empty(1_000_000)
    Draws(Bits(), seed=11, path=0).normals(Purpose.PRICE, "BTC", out)
    count = len(out)
    assert abs(out.mean()) < 3.0 / math.sqrt(count)
    assert abs(out.var() - 1.0) < 3.0 * math.sqrt(2.0 / count)
    assert abs((out**3).mean()) < 3.0 * math.sqrt(15.0 / count)
    assert abs((out**4).mean() - 3.0) < 3.0 * math.sqrt(96.0 / count)
    ranks = np.array([NORMAL.cdf(value) for value in out[:200_000].tolist()])
    assert uniformity(ranks)[1] > 0.01
    beyond = int(np.sum(np.abs(out) > 4.2))
    expected = count * 2.0 * NORMAL.cdf(-4.2)
    assert abs(beyond - expected) < 4.0 * math.sqrt(expected)


def test_uniforms_are_uniform_and_never_0_or_1() -> None:
    draws = Draws(Bits(), seed=5, path=2)
    drawn = np.array([draws.chance("reject", "dydx", k) for k in range(20_000)])
    assert drawn.min() > 0.0
    assert drawn.max() < 1.0
    assert uniformity(drawn)[1] > 0.01
    assert draws.chance("reject", "dydx", 3) == drawn[3]


# --- the same path in every order -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", ["gbm", "calm", "stressed"])
@pytest.mark.parametrize("dependence", [True, False])
def test_a_path_is_the_same_in_any_order_and_by_any_source(name: str, dependence: bool) -> None:
    forward, backward = source(world(name), dependence=dependence), source(world(name), dependence=dependence)
    paths = [forward.path(number) for number in range(5)]
    for number in reversed(range(5)):
        backward.path(number + 40)
        same(paths[number], backward.path(number))
    delays = [paths[3].delay_s("cctp", k) for k in range(4)]
    assert [backward.path(3).delay_s("cctp", k) for k in reversed(range(4))] == delays[::-1]


def test_another_market_changes_no_path_of_the_others() -> None:
    of = world("calm").model_copy(update={"copula": None, "jumps": None})  # what is shared between coins mixes them on purpose
    few = source(of, markets=MARKETS[:1]).path(4)
    more = source(of, markets=(MARKETS[2], MARKETS[0])).path(4)
    assert np.array_equal(few.mid[0], more.mid[1])
    assert np.array_equal(few.funding[0], more.funding[1])


def test_what_a_path_holds_cannot_be_written() -> None:
    path = source(world("calm")).path(1)
    for name in ("at", "mid", "oracle", "index", "spread", "depth", "funding", "regime"):
        with pytest.raises(ValueError, match="read-only"):
            getattr(path, name)[..., 0] = 0
    assert path.mid.flags.c_contiguous


# --- prices ---------------------------------------------------------------------------------------------------------------------------
def test_gbm_ends_with_the_law_it_states() -> None:
    made = source(world("gbm"), steps=168, step_ns=HOUR_NS, markets=MARKETS[:1])
    count = 8000
    ends = np.log([made.path(number).mid[0, -1] / PRICES[MARKETS[0]] for number in range(count)])
    variance = 0.8**2 * 168.0 / 8766.0
    assert abs(ends.mean() + variance / 2.0) < 3.0 * math.sqrt(variance / count)
    assert abs(ends.var() - variance) < 3.0 * variance * math.sqrt(2.0 / count)
    ranks = np.array([NORMAL.cdf((end + variance / 2.0) / math.sqrt(variance)) for end in ends.tolist()])
    assert uniformity(ranks)[1] > 0.01


def test_gbm_has_no_funding_no_facts_of_trouble_and_an_oracle_that_is_the_mid() -> None:
    path = source(world("gbm")).path(0)
    assert path.oracle is path.mid
    assert not path.funding.any()
    assert not path.spread.any()
    assert path.halted == ()
    assert {fact.at for fact in path.facts} == {START}


def test_a_drift_is_the_expected_return() -> None:
    of = written("assets: {default: {volatility: 100%, drift: 500%, source: assumed}}", "gbm")
    made = source(of, steps=168, step_ns=HOUR_NS, markets=MARKETS[:1])
    count = 4000
    returns = np.array([made.path(number).mid[0, -1] / PRICES[MARKETS[0]] for number in range(count)])
    assert abs(returns.mean() - math.exp(5.0 * 168.0 / 8766.0)) < 3.0 * returns.std() / math.sqrt(count)


def hourly_moves(path: Path) -> np.ndarray:
    logs = np.log(path.index[:, 59::60])
    return np.diff(logs, axis=1)


def test_jump_diffusion_has_fat_tails_and_volatility_that_lasts_but_no_memory_of_direction() -> None:
    made = source(world("calm"), steps=168 * 60, markets=MARKETS[:1])
    moves = np.concatenate([hourly_moves(made.path(number))[0] for number in range(150)])
    kurtosis = np.mean((moves - moves.mean()) ** 4) / moves.var() ** 2
    assert kurtosis > 5.0  # 3 is normal
    memory = np.corrcoef(moves[:-1], moves[1:])[0, 1]
    assert abs(memory) < 5.0 / math.sqrt(len(moves))  # 5: fat tails widen it
    size = np.minimum(np.abs(moves), np.quantile(np.abs(moves), 0.99))
    assert np.corrcoef(size[:-1], size[1:])[0, 1] > 0.05
    assert np.corrcoef(size[:-6], size[6:])[0, 1] > 0.02


def test_jumps_come_at_their_rate_and_size_and_common_ones_hit_every_coin() -> None:
    of = written(
        "assets: {BTC: {volatility: 0%, source: a}, ETH: {volatility: 0%, jump_factor: 2, "
        "jumps: {rate: 1/d, deviation: 1%}, source: a}}\njumps: {rate: 2/d, mean: 1%, deviation: 3%, source: a}"
    )
    made = source(of, steps=168, step_ns=HOUR_NS, markets=MARKETS[:2])
    common, own, sizes = 0, 0, []
    for number in range(400):
        path = made.path(number)
        btc = [jump for jump in path.jumps if jump.base == 0]
        eth = [jump for jump in path.jumps if jump.base == 1]
        common += len(btc)
        own += len(eth) - len(btc)
        sizes += [jump.size for jump in btc]
        assert math.log(path.mid[0, -1] / PRICES[MARKETS[0]]) == pytest.approx(sum(jump.size for jump in btc), abs=1e-12)
        for jump in btc:
            assert any(other.row == jump.row and other.size == pytest.approx(2 * jump.size) for other in eth)
    assert abs(common - 400 * 14) < 4.0 * math.sqrt(400 * 14)
    assert abs(own - 400 * 7) < 4.0 * math.sqrt(400 * 7)
    assert abs(np.mean(sizes) - 0.01) < 4.0 * 0.03 / math.sqrt(len(sizes))
    assert np.std(sizes) == pytest.approx(0.03, rel=0.05)


COPULA = "copula: {{dof: {dof}, correlation: 80%, source: a}}\nassets: {{default: {{volatility: 80%, source: a}}}}"


def hourly(of: WorldSpec, *, paths: int = 250, dependence: bool = True) -> np.ndarray:
    made = source(of, steps=168, step_ns=HOUR_NS, markets=MARKETS[:2], dependence=dependence)
    return np.concatenate([np.diff(np.log(made.path(k).index), axis=1) for k in range(paths)], axis=1)


def test_hours_are_multivariate_t_with_the_stated_variance_correlation_and_shared_tails() -> None:
    moves = hourly(written(COPULA.format(dof=4)))
    count = moves.shape[1]
    deviation = 0.8 / math.sqrt(8766.0)
    ranked = np.argsort(np.argsort(moves, axis=1), axis=1) / count
    kendall = 2.0 / math.pi * math.asin(0.8)  # of every elliptical law
    sampled = moves[:, :: count // 2000]
    signs = np.sign(sampled[0][:, None] - sampled[0]) * np.sign(sampled[1][:, None] - sampled[1])
    assert signs.sum() / (len(signs) * (len(signs) - 1)) == pytest.approx(kendall, abs=0.04)
    # An independent sample of the same law: margins and joint tails agree.
    other = np.random.default_rng(1)
    normal = other.standard_normal((2, 400_000))
    normal[1] = 0.8 * normal[0] + 0.6 * normal[1]
    student = normal * np.sqrt(2.0 / other.chisquare(4.0, 400_000)) * deviation
    for share in (0.001, 0.01, 0.1):
        expected = np.quantile(student[0], share)
        assert np.quantile(moves[0], share) == pytest.approx(expected, rel=0.12 if share < 0.01 else 0.05)
    joint = np.mean((ranked[0] < 0.01) & (ranked[1] < 0.01)) / 0.01
    reference = np.mean(np.all(student < np.quantile(student, 0.01, axis=1)[:, None], axis=0)) / 0.01
    gaussian = np.mean(np.all(normal < np.quantile(normal, 0.01, axis=1)[:, None], axis=0)) / 0.01
    assert joint == pytest.approx(reference, abs=0.08)
    assert joint > gaussian + 0.05


def test_without_dependence_margins_stay_and_coins_do_not_know_each_other() -> None:
    of = written(COPULA.format(dof=4))
    together, apart = hourly(of), hourly(of, dependence=False)
    assert abs(np.corrcoef(np.sign(apart))[0, 1]) < 4.0 / math.sqrt(apart.shape[1])
    assert np.corrcoef(np.sign(together))[0, 1] > 0.5
    for share in (0.01, 0.1, 0.9, 0.99):
        assert np.quantile(apart[0], share) == pytest.approx(np.quantile(together[0], share), rel=0.06)


def test_without_dependence_each_driver_has_regimes_of_its_own() -> None:
    made = source(world("stressed"), dependence=False)
    paths = [made.path(number) for number in range(6)]
    drivers = [("gas", "ethereum"), ("gas", "arbitrum"), ("depth", ""), ("spread", ""), ("venue_halt", "dydx"), ("bridge_lock", "cctp")]
    assert len({tuple(path.drivers(*driver) for path in paths) for driver in drivers}) == len(drivers)
    together = source(world("stressed")).path(2)
    assert {together.drivers(*driver) for driver in drivers} == {together.spells}


# --- regimes --------------------------------------------------------------------------------------------------------------------------
def test_regimes_spend_the_time_that_their_rates_say() -> None:
    regimes = world("calm").regimes
    assert regimes is not None
    spent = np.zeros(3)
    for number in range(300):
        spells = regime_spells(Draws(Bits(), seed=1, path=number), regimes, 500.0)
        ends = [at for at, _ in spells[1:]] + [500.0]
        for (at, state), end in zip(spells, ends, strict=True):
            spent[state] += end - at
    rate = {"up": 1.55, "down": 1.79, "crash": 0.013, "back": 2.0}
    weights = np.array([1.0, rate["up"] / rate["down"], rate["up"] / rate["down"] * rate["crash"] / rate["back"]])
    assert spent / spent.sum() == pytest.approx(weights / weights.sum(), abs=0.03)


def test_happenings_follow_the_rate_of_their_regime() -> None:
    spells = ((0.0, 0), (40.0, 2), (50.0, 1))
    factors = (1.0, 0.0, 20.0)
    expected = exposure(0.05, spells, factors, 100.0)
    assert expected == pytest.approx(0.05 * 40 + 1.0 * 10)
    counts, inside = [], 0
    for number in range(2000):
        found = happenings(Draws(Bits(), seed=1, path=number), Purpose.ADL, "x", 0.05, spells, factors, 100.0, expected)
        counts.append(len(found))
        inside += sum(40.0 <= at < 50.0 for at, _, _ in found)
        assert all(at < 50.0 for at, _, _ in found)
    assert abs(np.mean(counts) - expected) < 4.0 * math.sqrt(expected / 2000)
    assert np.var(counts) == pytest.approx(expected, rel=0.15)
    assert inside / sum(counts) == pytest.approx(10.0 / 12.0, abs=0.02)


def test_a_regime_multiplies_depth_spread_and_volatility() -> None:
    made = source(world("stressed"), steps=168 * 60)
    path = next(path for number in range(50) if len(set((path := made.path(number)).regime.tolist())) == 3)
    for state, depth, spread in ((0, 1.0, 1.0), (1, 0.6, 1.5), (2, 0.15, 6.0)):
        rows = path.regime == state
        assert np.unique(path.depth[0, rows]) == pytest.approx([4_000_000.0 * depth])
        assert np.unique(path.spread[0, rows]) == pytest.approx([0.0001 * spread])
