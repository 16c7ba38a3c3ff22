"""What surrounds the prices of a stress path: facts, routes, delays, and the past before the first row."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from stress_paths import MARKETS, PRICES, ROUTES, START, same, source, world, written

from daemon.errors import UserError
from daemon.simulation.stress.backtest import uniformity
from daemon.simulation.stress.surroundings import check_models, delay_quantile
from daemon.world.entities import Kind

# --- chains, routes, delays -------------------------------------------------------------------------------------------------------------
BUSY = """
assets: {default: {volatility: 10%, source: a}}
venues: {dydx-v4: {halt: {rate: 1/d, typical: 1h, p95: 2h, source: a}, gate: 1m, source: a}}
routes: {default: {typical: 5m, p95: 20m, lock: {rate: 1/d, typical: 1h, p95: 3h, source: a}, source: a}}
chains: {default: {rollup: true, gas_price: 3 gwei, stop: {rate: 1/d, typical: 30m, p95: 2h, source: a}, source: a}}
"""


def test_a_route_is_open_while_it_is_not_locked_its_chain_advances_and_its_venue_trades() -> None:
    made = source(written(BUSY), steps=7 * 1440)
    for number in range(5):
        path = made.path(number)
        state: dict[tuple[str, str], float] = {}
        by_outage, by_lock = 0, 0
        for at in sorted({fact.at for fact in path.facts}):
            for fact in path.facts:
                if fact.at == at:
                    state |= {(fact.entity, name): value for name, value in fact.values.items()}
            for route in ROUTES:
                is_open = state[route.name, "route_open"] == 1.0
                if state[route.source, "sequencer_up"] == 0.0 or state["dydx", "venue_up"] == 0.0:
                    by_outage += 1
                    assert not is_open
                by_lock += not is_open
        assert by_outage
        assert by_lock > by_outage


def test_facts_come_in_order_and_begin_with_what_everything_tells() -> None:
    path = source(world("stressed")).path(0)
    opening = [fact for fact in path.facts if fact.at == START]
    assert {(fact.kind, fact.entity) for fact in opening} >= {
        (Kind.VENUE, "dydx"), (Kind.VENUE, "hyperliquid"), (Kind.CHAIN, "ethereum"), (Kind.CHAIN, "arbitrum"), (Kind.ROUTE, "cctp"),
        (Kind.ROUTE, "fast"),
    }  # fmt: skip
    assert all(START <= fact.at <= path.at[-1] for fact in path.facts)


def test_a_route_whose_model_nobody_knows_is_an_error_that_names_those_that_are_known() -> None:
    own = written(BUSY.replace("routes: {", "routes: {our-bridge: {typical: 3m, source: a}, "))
    check_models(own, {"a": "", "b": "our-bridge", "c": "skip-go-fast"})  # the world's default, its own, a real one without a law here
    with pytest.raises(UserError) as told:
        check_models(own, {"a": "skip-go-fats", "b": "default", "c": ""})
    first, second, known = str(told.value).split("\n")
    assert first.startswith("route 'a': 'skip-go-fats' is no model of a route; did you mean 'skip-go-fast")
    assert second == "route 'b': 'default' is no model of a route"
    assert known.startswith("models that world 'written' or reefd knows: ")
    assert {"our-bridge", "across", "skip-go-regular"} <= {*known.partition(": ")[2].split(", ")}
    with pytest.raises(UserError, match="route 'cctp': 'over-there' is no model"):
        source(own, routes=(replace(ROUTES[0], model="over-there"),))


def test_delays_have_the_median_the_slow_tail_and_the_share_that_never_arrives() -> None:
    law = world("calm").route("skip-go-regular")
    assert law is not None
    assert delay_quantile(law, 0.0, 0.0, 0.5) == pytest.approx(480.0)
    assert delay_quantile(law, 0.0, 0.0, 0.95) == pytest.approx(1800.0)
    assert delay_quantile(law, 0.0, 0.0, 1.0 - law.stuck - 1e-9) < math.inf
    assert delay_quantile(law, 0.0, 0.0, 1.0 - law.stuck + 1e-9) == math.inf
    steps = [delay_quantile(law, 0.0, 0.0, u) for u in np.linspace(0.001, 0.994, 400).tolist()]
    assert steps == sorted(steps)
    path = source(world("calm")).path(0)
    drawn = np.array([path.delay_s("cctp", k) for k in range(4000)])
    assert np.median(drawn) == pytest.approx(480.0, rel=0.06)
    assert np.mean(drawn == math.inf) == pytest.approx(0.005, abs=0.004)


def test_a_tail_is_passed_by_one_transfer_in_a_thousand() -> None:
    law = world("calm").route("skip-go-fast")
    assert law is not None
    assert delay_quantile(law, 0.0, 0.0, 0.999) == pytest.approx(1800.0)


def test_money_of_the_gbm_world_takes_an_exponential_time() -> None:
    path = source(world("gbm")).path(0)
    drawn = np.array([path.delay_s("cctp", k) for k in range(5000)])
    assert uniformity(1.0 - np.exp(-drawn / 3600.0))[1] > 0.01


def test_a_transfer_takes_longer_in_a_worse_regime_and_while_finality_is_slow() -> None:
    made = source(world("stressed"), steps=168 * 60)
    path = next(path for number in range(50) if len(set((path := made.path(number)).regime.tolist())) == 3)
    plain = path.delay_s("fast", 0)
    for state, factor in ((0, 1.0), (1, 1.3), (2, 3.0)):
        at = int(path.at[np.flatnonzero(path.regime == state)[10]])
        assert path.delay_s("fast", 0, at) == pytest.approx(plain * factor)
    slow = written(
        "assets: {default: {volatility: 10%, source: a}}\n"
        "chains: {ethereum: {finality: 10m, finality_delay: {rate: 5/d, typical: 1h, p95: 2h, to: 70m, source: a}, source: a}}"
    )
    path = source(slow, steps=1440).path(0)
    since = next(fact.at for fact in path.facts if fact.values.get("finality_delay") == 4200.0)
    assert path.delay_s("cctp", 0, since) == pytest.approx(path.delay_s("cctp", 0) + 3600.0)
    assert path.delay_s("cctp", 0, since - 1) == pytest.approx(path.delay_s("cctp", 0))


def test_a_warm_up_ends_at_the_start_and_its_prices() -> None:
    made = source(world("stressed"))
    past = made.warm_up(2)
    assert past.at[-1] == START
    assert past.mid[:, -1].tolist() == [PRICES[market] for market in MARKETS]
    assert len(past.at) == 2 * 1440
    assert past.halted == ()
    assert not past.regime.any()
    same(past, source(world("stressed")).warm_up(2))
