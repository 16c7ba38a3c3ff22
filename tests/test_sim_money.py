"""No dollar appears or vanishes, and no position: in every generated world of both models, whatever happens to it."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_world import START

from daemon.simulation.bridges import TransferRequest
from daemon.simulation.scenario import parse_scenario
from daemon.simulation.subaccount import OrderRequest
from daemon.simulation.world import World
from daemon.units import NS

STARTED = START + 1170 * NS  # half a minute before a full hour: every world settles funding

WORLD = """
scenario: generated
venue: {{model: {model}, name: venue, insurance_fund: {fund} USD, matching_delay: {latency}s, tvl: 10_000_000 USD, maker_fee: 1bps}}
markets:
  BTC: {{price: 100_000, volatility: 120%, tick: 1, step: 0.001, depth: {depth} USD{btc}}}
  ETH: {{price: 4_000, volatility: 150%, tick: 0.1, step: 0.01, depth: {depth} USD, recovery: 5s{eth}}}
accounts: [{accounts}]
chains: {{here: {{}}, there: {{rollup: true}}}}
buffers: {{here: 30_000 USD, there: 1_000 USD}}
routes:
  in: {{from: here, to: venue, eta: 10s, p95: 30s, fee: 0.13%, expires_after: 40s, refund_after: 20s, lost_below: 50 USD, fails: 20%, via: middle, stuck: 20%}}
  out: {{from: venue, to: there, eta: 15s, p95: 60s, fee: 0.07%, fee_usd: 1 USD, fails: 20%, expires_after: 30s, refund_after: 5s}}
  over: {{from: here, to: there, eta: 5s, fee: 0.01%}}
shocks: [{shocks}]
"""  # noqa: E501
TIERS = ", margin_tiers: [{from: 0 USD, max_leverage: 40}, {from: 120_000 USD, max_leverage: 20}]"

lots = st.integers(-3000, 3000)
positions = st.fixed_dictionaries({"BTC": lots, "ETH": lots})
accounts = st.lists(st.tuples(st.integers(200, 60_000), positions), min_size=1, max_size=4)
jumps = st.tuples(st.integers(1, 80), st.sampled_from(["BTC", "ETH", "all"]), st.integers(-35, 45), st.integers(1, 9))
faults = st.sampled_from(
    [
        "{at: 20s, kind: venue_halt, for: 30s}",
        "{at: 5s, kind: funding_spike, market: all, to: 9%/h, for: 2h}",
        "{at: 5s, kind: funding_spike, market: BTC, to: -2%/h, for: 2h}",
        "{at: 10s, kind: oracle_freeze, market: BTC, for: 25s}",
        "{at: 12s, kind: thin_book, market: all, to: 2%, spread: 3%, for: 60s}",
        "{at: 30s, kind: parameter_change, market: BTC, initial_margin: 20%, maintenance_margin: 12%}",
        "{at: 45s, kind: market_status, market: ETH, to: FINAL_SETTLEMENT, for: 1h}",
        "{at: 40s, kind: external_close, market: BTC, by: 33%, cause: adl}",
        "{at: 15s, kind: bridge_stall, route: in, for: 2m}",
        "{at: 3s, kind: bridge_lock, route: out, for: 30s}",
        "{at: 9s, kind: congestion, chain: here, for: 40s}",
        "{at: 4s, kind: empty_blocks, chain: there, for: 20s}",
        "{at: 20s, kind: venue_halt, for: 10s, stale_for: 20s}",
        "{at: 8s, kind: book_move, market: BTC, by: 30%, over: 5s, for: 20s}",
        "{at: 25s, kind: order_reject, market: all, probability: 50%, for: 20s}",
    ]
)
orders = st.tuples(
    st.just("order"), st.integers(0, 4), st.sampled_from(["BTC", "ETH"]), st.booleans(), st.booleans(), st.booleans(),
    st.integers(1, 2500), st.integers(-60, 60),
)  # fmt: skip
transfers = st.tuples(st.just("transfer"), st.integers(0, 4), st.sampled_from(["in", "out", "over"]), st.integers(1, 5_000_000_000))
deeds = st.lists(st.tuples(st.integers(0, 9), st.one_of(orders, transfers)), max_size=14)


def world_of(
    model: str, seed: int, fund: int, latency: int, depth: int, wealth: list[tuple[int, dict[str, int]]], shocks: list[str], isolated: bool
) -> World:
    held = ", ".join(
        f"{{subaccount: {n}, collateral: {usd} USD, positions: [{{market: BTC, size: {Decimal(lots['BTC']) / 1000}}}, "
        f"{{market: ETH, size: {Decimal(0 if isolated else lots['ETH']) / 100}}}]}}"
        for n, (usd, lots) in enumerate(wealth)
    )
    btc, eth = ", oi_lower_cap: 50_000_000, oi_upper_cap: 150_000_000", ""
    if isolated:
        btc = ", isolated: true, insurance_fund: 700 USD"
    if model == "hyperliquid":
        btc = eth = TIERS
    text = WORLD.format(
        model=model, fund=fund, latency=latency, depth=depth, accounts=held, shocks=", ".join(shocks), btc=btc, eth=eth
    )
    return World(parse_scenario(text, "generated.yaml"), seed=seed, started_ns=STARTED, history_h=2)


def sizes_left(world: World) -> dict[str, Decimal]:
    """All positions of a market together, everybody's."""
    exchange = world.exchange
    total = {market: Decimal(0) for market in world.markets}
    for account in exchange.subaccounts.values():
        for market, holding in account.holdings.items():
            total[market] += holding.size
    for pool in (exchange.ledger.counterparties, exchange.ledger.vault):
        for market, size in pool.sizes.items():
            total[market] += size
    return total


def perform(world: World, number: int, deed: tuple[object, ...]) -> None:
    match deed:
        case ("order", int(account), str(market), bool(buys), bool(reduce_only), bool(rests), int(steps), int(off)):
            spec, price = world.markets[market].spec, Decimal(repr(world.markets[market].index))
            limit = (price * (1 + Decimal(off) / 1000)) // spec.tick * spec.tick
            request = OrderRequest(
                address="dydx1reefdsim", subaccount=account, client_id=number % 5, market=market, side="BUY" if buys else "SELL",
                size=steps * spec.step, limit_price=limit, reduce_only=reduce_only, time_in_force="GTT" if rests else "IOC",
                good_til=world.now_ns + 25 * NS,
            )  # fmt: skip
            world.place(request, {})
        case ("transfer", int(account), str(route), int(micro)):
            wanted = TransferRequest(
                client_id=f"{number}", route=route, amount=Decimal(micro) / 1_000_000, expires=world.now_ns + NS,
                address="dydx1reefdsim", subaccount=account,
            )  # fmt: skip
            world.transfer(wanted, {})
        case _:
            raise AssertionError(deed)


def assert_reduce_only_reduced(world: World, start: Mapping[tuple[int, str], Decimal], reducing: set[str]) -> None:
    """Every position walked again from its start, fill by fill."""
    for account in world.exchange.subaccounts.values():
        held = {market: start[(account.number, market)] for market in world.markets}
        for fill in account.fills:
            before = held[fill.market]
            held[fill.market] += fill.size if fill.side == "BUY" else -fill.size
            if fill.order_id in reducing:
                assert abs(held[fill.market]) < abs(before), "a reduce-only order made a position larger"
                assert held[fill.market] * before >= 0, "a reduce-only order flipped a position"
        left = {market: account.holdings[market].size if market in account.holdings else Decimal(0) for market in world.markets}
        assert held == left


@settings(max_examples=100, deadline=None)
@given(
    model=st.sampled_from(["dydx-v4", "hyperliquid"]),
    seed=st.integers(0, 1 << 40),
    fund=st.sampled_from([0, 300, 5_000_000]),
    latency=st.sampled_from([0, 0, 2]),
    depth=st.sampled_from([30_000, 2_000_000, 80_000_000]),
    wealth=accounts,
    moves=st.lists(jumps, max_size=4),
    troubles=st.lists(faults, max_size=3, unique=True),
    steps=deeds,
    isolated=st.booleans(),
)
def test_money_and_positions_are_conserved_and_reduce_only_reduces_in_every_world(
    model: str, seed: int, fund: int, latency: int, depth: int, wealth: list[tuple[int, dict[str, int]]],
    moves: list[tuple[int, str, int, int]], troubles: list[str], steps: list[tuple[int, tuple[object, ...]]], isolated: bool,
) -> None:  # fmt: skip
    shocks = [f"{{at: {at}s, kind: price_move, market: {market}, by: {by}%, over: {over}s}}" for at, market, by, over in moves]
    world = world_of(model, seed, fund, latency, depth, wealth, shocks + troubles, isolated)
    paid_in = sum(usd for usd, _ in wealth) + fund + 31_000 + (700 if isolated and model == "dydx-v4" else 0)
    start = {
        (account.number, market): account.holdings[market].size if market in account.holdings else Decimal(0)
        for account in world.exchange.subaccounts.values()
        for market in world.markets
    }
    reducing: set[str] = set()
    second = 0
    for number, (wait, deed) in enumerate([*steps, (30, ())]):
        for _ in range(wait + 3):
            second += 1
            world.advance(STARTED + second * NS)
            assert world.money().total == pytest.approx(paid_in, abs=1e-6)
        if deed:
            perform(world, number, deed)
            assert world.money().total == pytest.approx(paid_in, abs=1e-6)
        for account in world.exchange.subaccounts.values():
            reducing |= {order.id for order in account.orders.values() if order.request.reduce_only}
            if not account.holdings:
                assert account.quote >= -1e-6, "an account without a position owes nothing"
        assert set(sizes_left(world).values()) == {Decimal(0)}
        assert min(world.exchange.ledger.insurance.values()) >= 0.0
    assert_reduce_only_reduced(world, start, reducing)


def test_generated_worlds_do_meet_what_they_are_for() -> None:
    """The worlds above are no calm ones: the kinds of distress that they must survive do occur in the few that stand here."""
    seen: set[str] = set()
    for model in ("dydx-v4", "hyperliquid"):
        for collateral, jump, fund, spread in ((3_000, -20, 0, 0), (2_200, -1, 0, 3), (1_800, 2, 300, 0), (2_400, -1, 300, 0)):
            shocks = [f"{{at: 5s, kind: price_move, market: all, by: {jump}%, over: 2s}}"]
            shocks += [f"{{at: 1s, kind: thin_book, market: all, to: 50%, spread: {spread}%, for: 1h}}"] if spread else []
            wealth = [(collateral, {"BTC": 2000, "ETH": 0}), (collateral * 9, {"BTC": -1500, "ETH": 900})]
            world = world_of(model, 3, fund, 0, 2_000_000, wealth, shocks, False)
            world.advance(STARTED + 120 * NS)
            seen |= {entry.kind for entry in world.log}
    assert seen >= {"funding", "liquidated", "deleveraged", "auto_deleveraged", "backstop"}
