"""A small simulated venue for tests: its text, a world of it at a fixed start, and requests with defaults."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from daemon.simulation.scenario import parse_scenario
from daemon.simulation.subaccount import OrderRequest, Subaccount
from daemon.simulation.world import World
from daemon.units import NS

START = 1_770_000_000 * NS  # 2026-02-02T02:40:00Z, a whole minute
ADDRESS = "dydx1reefdsim"

# No volatility and no oracle deadband: prices are exactly the scenario's, so that tests can compute by hand.
STILL = """
scenario: still
seed: 11
venue: {{taker_fee: 5bps{venue}}}
markets:
  BTC-USD: {{price: 98_000, volatility: 0%, tick: 1, step: 0.0001, initial_margin: 2%, maintenance_margin: 1.2%, oracle_deadband: 0%, funding_noise: 0%/h{btc}}}
  ETH-USD: {{price: 4_100, volatility: 0%, tick: 0.1, step: 0.001, initial_margin: 2%, maintenance_margin: 1.2%, oracle_deadband: 0%, funding_noise: 0%/h}}
accounts:
  - collateral: {collateral}
    positions: {positions}
    orders: {orders}{more}
chains:
  ethereum: {{}}
  arbitrum: {{rollup: true, block_time: 250ms}}
buffers: {{ethereum: 50_000 USD}}
routes:
  cctp: {{from: ethereum, to: dydx, eta: 60s, p95: 90s, fee: 0.1%, capacity: 20_000 USD, expires_after: 10m, refund_after: 5m}}
  back: {{from: dydx, to: ethereum, eta: 30s, p95: 30s, fee: 0%}}
  hop: {{from: arbitrum, to: dydx, eta: 10s, p95: 10s}}
shocks: {shocks}
"""  # noqa: E501


def still_text(
    *,
    collateral: str = "50_000 USD",
    positions: str = "[{market: BTC-USD, size: 1}]",
    orders: str = "[]",
    shocks: str = "[]",
    btc: str = "",
    venue: str = "",
    more: str = "",
) -> str:
    """The scenario's text with the parts that a test is about."""
    return STILL.format(collateral=collateral, positions=positions, orders=orders, shocks=shocks, btc=btc, venue=venue, more=more)


def still_world(**parts: str) -> World:
    """A world without noise."""
    scenario = parse_scenario(still_text(**parts), "still.yaml")
    return World(scenario, seed=scenario.seed, started_ns=START, history_h=2)


# The table of vector H2: BTC 40x and 20x above 150 M USD, ETH 25x and 15x above 100 M USD.
HYPERLIQUID = """
scenario: still
seed: 11
venue: {{model: hyperliquid, name: hl, taker_fee: 5bps}}
markets:
  BTC: {{price: 100_000, volatility: 0%, tick: 1, step: 0.0001, oracle_deadband: 0%, funding_noise: 0%/h, margin_tiers: [{{from: 0 USD, max_leverage: 40}}, {{from: 150_000_000 USD, max_leverage: 20}}]{btc}}}
  ETH: {{price: 4_000, volatility: 0%, tick: 0.1, step: 0.001, oracle_deadband: 0%, funding_noise: 0%/h, margin_tiers: [{{from: 0 USD, max_leverage: 25}}, {{from: 100_000_000 USD, max_leverage: 15}}]}}
accounts:
  - collateral: {collateral}
    positions: {positions}{more}
chains: {{arbitrum: {{rollup: true}}}}
buffers: {{arbitrum: 50_000 USD}}
routes:
  in: {{from: arbitrum, to: hl, eta: 10s, p95: 10s}}
  out: {{from: hl, to: arbitrum, eta: 60s, p95: 60s}}
shocks: {shocks}
"""  # noqa: E501


def hyperliquid_world(
    *, collateral: str = "10_000 USD", positions: str = "[]", shocks: str = "[]", btc: str = "", more: str = "", seed: int = 11
) -> World:
    """A world without noise that follows Hyperliquid's rules."""
    text = HYPERLIQUID.format(collateral=collateral, positions=positions, shocks=shocks, btc=btc, more=more)
    return World(parse_scenario(text, "still.yaml"), seed=seed, started_ns=START, history_h=2)


def account_of(world: World) -> Subaccount:
    """The scenario's first subaccount."""
    return next(iter(world.exchange.subaccounts.values()))


def order(world: World, **changes: Any) -> OrderRequest:
    """A reduce-only IOC sale of 0.1 BTC far below the market, good for 20 s, with the changes a test is about."""
    fields: dict[str, Any] = {
        "address": ADDRESS,
        "subaccount": 0,
        "client_id": 1,
        "market": "BTC-USD",
        "side": "SELL",
        "size": Decimal("0.1"),
        "limit_price": Decimal(97_000),
        "reduce_only": True,
        "time_in_force": "IOC",
        "good_til": world.now_ns + 20 * NS,
    }
    return OrderRequest(**(fields | changes))
