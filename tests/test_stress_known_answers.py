"""The stress engine against answers in closed form: geometric Brownian motion, one position, no runbooks, within three standard errors.

`make test` plays a few thousand paths of each; `make known` 200,000 (REEFD_KNOWN_PATHS). Rows are discrete, so a barrier is hit less often
than by Brownian motion: as often as one that lies exp(-/+ 0.5826 sigma sqrt(dt)) further away (Broadie, Glasserman and Kou, 1997).
"""

from __future__ import annotations

import math
import os
from decimal import Decimal
from statistics import NormalDist

import numpy as np
import pytest

from daemon.app.execution import compiler
from daemon.engine.actions import MoveBuffer
from daemon.runbook.load import load_documents
from daemon.simulation.stress import estimates
from daemon.simulation.stress.aim import aim
from daemon.simulation.stress.stage import FINE_STEP_NS, Stage
from daemon.simulation.stress.tally import Tally
from daemon.units import FOREVER, HOUR_NS, NS
from tests.stress_books import ACCOUNT, CALM, GBM, SPOT, START, one_position, stage_of

MANY = int(os.environ.get("REEFD_KNOWN_PATHS", "0"))
SIGMA = GBM.asset("BTC").volatility
YEAR_S = 365.25 * 86_400.0
NU = -0.5 * SIGMA**2  # of the log, a year: the file's drift is 0
SHIFT = 0.5826  # -zeta(1/2) / sqrt(2 pi)
NORMAL = NormalDist()
SIDES = pytest.mark.parametrize("size", [1.0, -1.0], ids=["long", "short"])


def paths(few: int) -> int:
    return MANY or few


def hit(distance: float, size: float, horizon_s: float, dt_s: float) -> float:
    """P(the barrier is touched within the horizon), by the reflection principle with drift, the barrier shifted for rows `dt_s` apart."""
    away = math.log1p(-distance) if size > 0.0 else math.log1p(distance)
    away += math.copysign(SHIFT * SIGMA * math.sqrt(dt_s / YEAR_S), away)
    span = horizon_s / YEAR_S
    deviation, down = SIGMA * math.sqrt(span), math.copysign(1.0, away)
    first = NORMAL.cdf((NU * span - away) * down / deviation)
    return first + math.exp(2.0 * NU * away / SIGMA**2) * NORMAL.cdf((-NU * span - away) * down / deviation)


def before_money(distance: float, size: float, rate_h: float, dt_s: float) -> float:
    """P(the barrier is touched before an exponential time): the Laplace transform of its first passage."""
    away = math.log1p(-distance) if size > 0.0 else math.log1p(distance)
    away += math.copysign(SHIFT * SIGMA * math.sqrt(dt_s / YEAR_S), away)
    rate = rate_h * YEAR_S / 3600.0
    return math.exp((NU * away - abs(away) * math.sqrt(NU**2 + 2.0 * rate * SIGMA**2)) / SIGMA**2)


def within(name: str, found: float, exact: float, error: float) -> None:
    """Asserts |z| < 3, and tells the numbers (pytest -rP shows them)."""
    z = (found - exact) / error
    print(f"{name}: {found:.6g}, exact {exact:.6g}, SE {error:.2g}, z {z:+.2f}")
    assert abs(z) < 3.0, name


def share(name: str, hits: int, count: int, exact: float) -> None:
    within(name, hits / count, exact, math.sqrt(exact * (1.0 - exact) / count))


@SIDES
def test_prices_and_profits_at_the_horizon_have_their_law(size: float) -> None:
    count, hours = paths(4_000), 24
    stage = stage_of(one_position(size=size, distance=0.9), GBM, seed=11, hours=hours)
    logs, profits = np.empty(count), np.empty(count)
    for number in range(count):
        played = stage.open(number)
        logs[number], profits[number] = math.log(played.path.mid[0, -1] / SPOT), played.end.without.pnl_usd
        assert played.end.without.liquidated_at == FOREVER
    span = hours * 3600.0 / YEAR_S
    mean, deviation = NU * span, SIGMA * math.sqrt(span)
    within("mean of the log", float(logs.mean()), mean, deviation / math.sqrt(count))
    within("variance of the log", float(logs.var()), deviation**2, deviation**2 * math.sqrt(2.0 / count))
    spread = SPOT * abs(size) * math.sqrt(math.expm1(SIGMA**2 * span))
    within("mean profit, USD", float(profits.mean()), 0.0, spread / math.sqrt(count))
    fourth = float(np.mean((profits - profits.mean()) ** 4))
    within("variance of profit, USD2", float(profits.var()), spread**2, math.sqrt((fourth - spread**4) / count))
    for level in (0.01, 0.05, 0.5, 0.95, 0.99):
        z = NORMAL.inv_cdf(level if size > 0.0 else 1.0 - level)
        threshold = size * SPOT * math.expm1(mean + deviation * z)
        share(f"P(profit <= its {level:.0%} quantile)", int(np.count_nonzero(profits <= threshold)), count, level)
    # Kolmogorov-Smirnov: the whole law; its limit exceeds 1.818 in 0.27 % of samples, as a normal exceeds three deviations.
    ranks = np.array([NORMAL.cdf((value - mean) / deviation) for value in np.sort(logs)])
    steps = np.arange(1, count + 1) / count
    distance = max(float((steps - ranks).max()), float((ranks - steps + 1.0 / count).max()))
    print(f"Kolmogorov-Smirnov: {distance * math.sqrt(count):.3f} of at most 1.818")
    assert distance * math.sqrt(count) < 1.818


@SIDES
def test_the_barrier_is_hit_as_often_as_brownian_motion_looked_at_every_minute_hits_it(size: float) -> None:
    count, hours, distance = paths(4_000), 24, 0.05
    stage = stage_of(one_position(size=size, distance=distance), GBM, seed=21, hours=hours, fine=False)
    at = np.array([stage.play(number).without.liquidated_at for number in range(count)])
    for looked in (6, hours):
        exact = hit(distance, size, looked * 3600.0, 60.0)
        share(f"P(liquidated within {looked} h)", int(np.count_nonzero(at <= looked * HOUR_NS)), count, exact)


@SIDES
def test_near_the_barrier_rows_are_five_seconds_apart_and_so_is_the_shift(size: float) -> None:
    # 70 % of the way to liquidation begins 1.3 % before the barrier, twelve deviations of a minute: whatever hits it is cut before it does.
    count, hours, distance = paths(1_000), 12, 0.03
    stage = stage_of(one_position(size=size, distance=distance), GBM, seed=22, hours=hours)
    hits = sum(stage.play(number).without.liquidated_at < FOREVER for number in range(count))
    share("P(liquidated)", hits, count, hit(distance, size, hours * 3600.0, FINE_STEP_NS / NS))


@SIDES
def test_money_with_an_exponential_delay_comes_too_late_as_often_as_it_must(size: float) -> None:
    # Rows of 10 s: the shift of the barrier is right to first order in sqrt(rate x dt). P(the money takes longer than 12 h) = 6e-6.
    count, distance = paths(2_000), 0.01
    stage = stage_of(one_position(size=size, distance=distance), GBM, seed=31, hours=12, step_s=10, fine=False)
    order = MoveBuffer(
        action_id="1", run_id="1", runbook="none", source="ethereum", destination="dydx", route="cctp", amount=Decimal(1_000_000),
        max_fee=Decimal(0), expires_at=FOREVER,
    )  # fmt: skip
    hits = 0
    for number in range(count):
        ledger = stage.ledger(stage.source.path(number))
        refused, arrives = ledger.move(order, START)
        assert refused is None
        assert arrives > START
        ledger.run()
        liquidated_at = ledger.counts.liquidated_at
        assert liquidated_at == FOREVER or START + liquidated_at < arrives, "a million USD keep it alive"
        hits += liquidated_at < FOREVER
    share("P(liquidated before the money arrives)", hits, count, before_money(distance, size, 1.0, 10.0))


# -- rare paths, looked for ------------------------------------------------------------------------------------------------------


def played(stage: Stage, count: int) -> Tally:
    tally = Tally()
    for number in range(count):
        tally.add(stage.play(number))
    return tally


def weighted_error(values: np.ndarray, weights: np.ndarray) -> tuple[float, float]:
    return estimates.mean(values, weights), estimates.standard_error(values, weights)


def is_one(name: str, weights: np.ndarray) -> None:
    within(f"mean weight, {name}", float(weights.mean()), 1.0, float(weights.std()) / math.sqrt(len(weights)))


@pytest.mark.parametrize("size", [1.0, -1.0], ids=["falls", "rises"])
def test_rare_hits_of_brownian_motion_are_found_at_a_tenth_of_the_variance(size: float) -> None:
    count, hours, distance = paths(1_000), 24, 0.12
    book = one_position(size=size, distance=distance)
    tilt = aim(GBM, book, horizon_ns=hours * HOUR_NS, start=START)
    assert tilt is not None
    tally = played(stage_of(book, GBM, seed=41, hours=hours, fine=False, tilt=tilt), count)
    hits, weights = (tally.without.liquidated_at < FOREVER).astype(np.float64), tally.without.weights
    p, error = weighted_error(hits, weights)
    exact = hit(distance, size, hours * 3600.0, 60.0)
    assert exact < 0.01
    within("P(liquidated)", p, exact, error)
    is_one("stopped", weights)
    is_one("at the horizon", tally.weights)
    assert float(tally.weights.max()) <= 1.0 / tilt.plain + 1e-9
    times = exact * (1.0 - exact) / count / error**2
    print(f"variance of {count} plain paths: {times:.1f} times")
    assert times > 10.0


def test_rare_hits_of_the_calm_world_agree_with_plain_paths_at_a_tenth_of_the_variance() -> None:
    hours = 24
    book = one_position(size=1.0, distance=0.09)
    tilt = aim(CALM, book, horizon_ns=hours * HOUR_NS, start=START)
    assert tilt is not None
    assert set(tilt.shares) == {"plain", "move", "jumps", "worse", "wild"}
    plain = played(stage_of(book, CALM, seed=51, hours=hours), paths(4_000))
    tally = played(stage_of(book, CALM, seed=52, hours=hours, tilt=tilt), paths(2_000))
    weights = tally.without.weights
    p, error = weighted_error((tally.without.liquidated_at < FOREVER).astype(np.float64), weights)
    q = float(np.mean(plain.without.liquidated_at < FOREVER))
    assert 0.0 < p < 0.01
    within("P(liquidated), plain against weighted", p, q, math.hypot(error, math.sqrt(p * (1.0 - p) / len(plain))))
    is_one("stopped", weights)
    is_one("at the horizon", tally.weights)
    times = p * (1.0 - p) / len(tally) / error**2
    print(f"variance of as many plain paths: {times:.1f} times")
    assert times > 10.0
    mean, mean_error = weighted_error(tally.without.pnl_usd, tally.weights)
    other, other_error = weighted_error(plain.without.pnl_usd, plain.weights)
    within("mean profit, plain against weighted, USD", mean, other, math.hypot(mean_error, other_error))


def test_what_comes_after_a_liquidation_needs_the_weight_of_the_horizon() -> None:
    # The small account is what is aimed at. The large one lives on; its profit is a martingale: on paths that hit the small one's barrier
    # it comes, whatever follows, to what it was then.
    hours, count, distance = 24, paths(1_200), 0.08
    book = one_position(size=0.001, distance=distance, more=ACCOUNT.format(name="safe", collateral=1_000_000, size=1))
    tilt = aim(GBM, book, horizon_ns=hours * HOUR_NS, start=START)
    assert tilt is not None
    tally = played(stage_of(book, GBM, seed=61, hours=hours, fine=False, tilt=tilt), count)
    profits = np.where(tally.without.liquidated_at < FOREVER, tally.without.pnl_usd, 0.0)
    there = SPOT * ((1.0 - distance) * math.exp(-SHIFT * SIGMA * math.sqrt(60.0 / YEAR_S)) - 1.0)
    exact = there * hit(distance, 1.0, hours * 3600.0, 60.0)
    # The normaliser has its own noise, so the plain average of w x.
    error = float((tally.weights * profits).std()) / math.sqrt(count)
    within("mean profit on liquidated paths, USD", float((tally.weights * profits).mean()), exact, error)
    stopped = float((tally.without.weights * profits).mean())
    assert abs(stopped - exact) > 4.0 * error, "a weight that stops before the profit is known must show in this test"


TOP_UP = """
schema: reefd/v1
runbook: top-up
title: A fixed top-up
owner: risk
severity: critical
intent: survival
stage: armed
scope: account
trigger: {when: margin_ratio > 46%, for: 0s, until: margin_ratio < 1%}
cooldown: 30s
steps:
  - id: top-up
    move_buffer: {from: ethereum, amount: 1_000 USD, route: cctp, max_fee: 1%, deadline: 1h, keep_at_source: 0 USD}
    timeout: 1h
"""


def test_liquidation_with_the_runbooks_has_a_weight_of_its_own() -> None:
    # The runbook pays in 1,000 USD, which arrive at once: with it the account is liquidated where one with so much more would be.
    hours, count, distance = 6, paths(500), 0.04
    world = GBM.model_copy(update={"routes": {"default": GBM.routes["default"].model_copy(update={"exponential": 1e9})}})
    loaded = load_documents({"top-up.yaml": TOP_UP})
    assert not loaded.errors, loaded.errors
    book = one_position(size=1.0, distance=distance)
    tilt = aim(world, book, horizon_ns=hours * HOUR_NS, start=START)
    stage = stage_of(book, world, seed=71, hours=hours, fine=False, tilt=tilt, runbooks=loaded.runbooks, compiler=compiler())
    tally = played(stage, count)
    saved = distance + 0.01 / 0.97
    for name, side, away in (("without", tally.without, distance), ("with", tally.having, saved)):
        p, error = weighted_error((side.liquidated_at < FOREVER).astype(np.float64), side.weights)
        within(f"P(liquidated {name})", p, hit(away, 1.0, hours * 3600.0, 60.0), error)
        is_one(name, side.weights)
    wrong, _ = weighted_error((tally.having.liquidated_at < FOREVER).astype(np.float64), tally.without.weights)
    assert abs(wrong - hit(saved, 1.0, hours * 3600.0, 60.0)) > 4.0 * error, "the weight of the side without must show in this test"
