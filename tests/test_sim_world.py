"""The simulated world: the same whatever is polled and when; its shocks do what they say; money is kept."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_world import ADDRESS, START, account_of, order, still_text, still_world

from daemon.simulation.bridges import Refusal, TransferRequest
from daemon.simulation.chain import chain_status, proposal_statuses
from daemon.simulation.paths import IndexPath, book, jitter_table, normals, premium_samples
from daemon.simulation.scenario import MarketSpec, ProposalSpec, parse_scenario
from daemon.simulation.world import World
from daemon.units import HOUR_NS, MINUTE_NS, NS

MOVING = still_text(shocks="[{at: 20s, kind: price_move, market: all, by: -3%, over: 30s}]").replace("volatility: 0%", "volatility: 80%")


def at(world: World, text_ns: int) -> World:
    world.advance(START + text_ns)
    return world


def transfer(world: World, **changes: object) -> TransferRequest:
    fields: dict[str, object] = {
        "client_id": "t1", "route": "cctp", "amount": Decimal(1000), "expires": world.now_ns + 20 * NS, "address": ADDRESS, "subaccount": 0,
    }  # fmt: skip
    return TransferRequest(**(fields | changes))  # type: ignore[arg-type]


# --- determinism -----------------------------------------------------------------------------------------------------------------------


def state_of(world: World) -> list[object]:
    return [
        (m.index, m.oracle, m.samples_sum, m.settled[-1], m.all_bars()[-1], m.book()[0][:3], account_of(world).quote)
        for m in world.markets.values()
    ]


@settings(max_examples=6, deadline=None)
@given(st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_the_world_is_the_same_whatever_the_polling_pattern(pauses: list[int]) -> None:
    scenario = parse_scenario(MOVING, "moving")
    polled, once = (World(scenario, seed=5, started_ns=START, history_h=2) for _ in range(2))
    now = START
    for pause in pauses:
        now += pause * NS // 7  # off the whole second, too
        polled.advance(now)
        for market in polled.markets.values():
            market.book()
    once.advance(now)
    assert state_of(polled) == state_of(once)


def test_another_seed_is_another_world_and_a_new_market_changes_no_other_path() -> None:
    scenario = parse_scenario(MOVING, "moving")
    one, other = (World(scenario, seed=seed, started_ns=START, history_h=2) for seed in (5, 6))
    alone = World(
        scenario.model_copy(
            update={"markets": {"BTC-USD": scenario.markets["BTC-USD"]}, "shocks": scenario.shocks, "accounts": scenario.accounts}
        ),
        seed=5,
        started_ns=START,
        history_h=2,
    )
    for world in (one, other, alone):
        at(world, 90 * NS)
    assert one.markets["BTC-USD"].index != other.markets["BTC-USD"].index
    assert one.markets["BTC-USD"].index == alone.markets["BTC-USD"].index


def test_prices_lead_from_history_into_the_start_and_are_reproducible_backwards() -> None:
    path = IndexPath(3, "BTC-USD", MarketSpec(price=98_000, volatility=0.5))
    history = path.history(3)
    assert len(history) == 3 * 3600
    longer = IndexPath(3, "BTC-USD", MarketSpec(price=98_000, volatility=0.5)).history(5)
    assert np.array_equal(longer[-len(history) :], history)
    per_second = 0.5 / np.sqrt(365.25 * 86_400)
    steps = np.diff(np.log([*history, path.at(0), path.at(1)]))
    assert np.std(steps) == pytest.approx(per_second, rel=0.05)
    assert np.max(np.abs(steps[-2:])) < 6 * per_second


def test_a_path_can_be_walked_again_from_an_earlier_hour() -> None:
    path = IndexPath(3, "X", MarketSpec(price=10, volatility=0.5))
    early, late = path.at(100), path.at(9000)
    assert path.at(100) == early
    assert path.at(9000) == late


def test_chunks_of_a_stream_differ_from_each_other_also_before_the_start() -> None:
    seen = {tuple(normals(1, "a", chunk, 3)) for chunk in (-2, -1, 0, 1)} | {tuple(normals(1, "b", 0, 3)), tuple(normals(2, "a", 0, 3))}
    assert len(seen) == 6


def test_premium_samples_do_not_depend_on_how_many_are_asked_for() -> None:
    spec = MarketSpec(price=10)
    many = premium_samples(1, "X", spec, (), -90, 180)
    assert [premium_samples(1, "X", spec, (), minute, 1)[0] for minute in range(-90, 90)] == list(many)


# --- funding ---------------------------------------------------------------------------------------------------------------------------


def test_an_hour_settles_the_zero_padded_mean_of_its_samples_and_is_paid_on_the_oracle_price() -> None:
    # 40 minutes past the hour at the start: 20 samples of the spike are in the hour that settles 20 minutes later.
    world = still_world(shocks="[{at: 1s, kind: funding_spike, market: BTC-USD, to: 0.06%/h, for: 2h}]")
    btc, account = world.markets["BTC-USD"], account_of(world)
    before = account.quote
    at(world, 19 * MINUTE_NS)
    assert btc.next_rate == pytest.approx(0.0006 * 19 / 59)
    at(world, 20 * MINUTE_NS)
    assert account.quote == before, "the boundary's own second has not settled yet"
    at(world, 20 * MINUTE_NS + 2 * NS)
    settled = btc.settled[-1]
    assert settled.rate == pytest.approx(0.0006 * 20 / 60, rel=1e-9)
    assert START + 20 * MINUTE_NS < settled.at < START + 20 * MINUTE_NS + NS
    assert account.quote - before == pytest.approx(-98_000 * 0.0002, rel=1e-6)
    assert account.holdings["BTC-USD"].net_funding == pytest.approx(account.quote - before)
    at(world, 20 * MINUTE_NS + HOUR_NS + 2 * NS)
    assert btc.settled[-1].rate == pytest.approx(0.0006, rel=1e-9)


def test_a_halt_pads_the_hour_with_zeros_and_stops_height_and_oracle() -> None:
    world = still_world(
        shocks="[{at: 1s, kind: funding_spike, market: BTC-USD, to: 0.06%/h, for: 2h}, {at: 10m30s, kind: venue_halt, for: 8m}, "
        "{at: 11m, kind: price_move, market: BTC-USD, by: -1%}]"
    )
    at(world, 10 * MINUTE_NS)
    running = world.height
    at(world, 18 * MINUTE_NS)
    assert world.height == running + 29
    assert world.now_ns - world.block_at > 7 * MINUTE_NS
    assert world.markets["BTC-USD"].oracle == 98_000
    refused = world.place(order(world), {})
    assert isinstance(refused, Refusal)
    assert refused.reason == "venue_halted"
    at(world, 20 * MINUTE_NS + 2 * NS)
    assert world.markets["BTC-USD"].settled[-1].rate == pytest.approx(0.0006 * 12 / 60, rel=1e-9)
    assert world.markets["BTC-USD"].oracle == pytest.approx(97_020, rel=1e-6)
    assert not world.exchange.withdrawals_open() or world.height > running + 29 + 50


def test_settled_funding_is_clamped_by_the_markets_margin_fractions() -> None:
    world = still_world(shocks="[{at: 1s, kind: funding_spike, market: BTC-USD, to: 50%/h, for: 3h}]")
    at(world, 90 * MINUTE_NS)
    assert world.markets["BTC-USD"].settled[-1].rate == pytest.approx(6 * 0.008 / 8)


# --- shocks ----------------------------------------------------------------------------------------------------------------------------


def test_a_frozen_oracle_stands_while_the_book_moves_and_then_catches_up() -> None:
    world = still_world(
        shocks="[{at: 10s, kind: oracle_freeze, market: BTC-USD, for: 60s}, "
        "{at: 20s, kind: price_move, market: BTC-USD, by: 2%, over: 10s}]"
    )
    btc = at(world, 40 * NS).markets["BTC-USD"]
    assert btc.oracle == 98_000
    assert float(btc.book()[0][0][0]) == pytest.approx(99_960, rel=2e-4)
    assert at(world, 71 * NS).markets["BTC-USD"].oracle == pytest.approx(99_960)


def test_a_lagging_oracle_shows_the_market_as_it_was() -> None:
    world = still_world(
        shocks="[{at: 5s, kind: oracle_lag, market: BTC-USD, by: 30s, for: 5m}, "
        "{at: 40s, kind: price_move, market: BTC-USD, by: 2%, over: 1s}]"
    )
    assert at(world, 70 * NS).markets["BTC-USD"].oracle == 98_000
    assert at(world, 71 * NS).markets["BTC-USD"].oracle == pytest.approx(99_960)


def test_a_price_move_goes_in_equal_relative_steps_and_back_where_it_ends() -> None:
    world = still_world(shocks="[{at: 10s, kind: price_move, market: BTC-USD, by: -19%, over: 20s, for: 30s}]")
    prices = [at(world, second * NS).markets["BTC-USD"].index for second in (10, 20, 30, 60, 70, 80, 90)]
    assert prices == pytest.approx([98_000, 98_000 * 0.9, 79_380, 79_380, 98_000 * 0.9, 98_000, 98_000])


def test_a_thin_book_has_less_depth_and_a_wider_spread_while_it_lasts() -> None:
    world = still_world(shocks="[{at: 10s, kind: thin_book, market: BTC-USD, to: 5%, spread: 80bps, for: 20s}]")
    depths, spreads = [], []
    for second in (5, 20, 40):
        bids, asks = at(world, second * NS).markets["BTC-USD"].book()
        depths.append(sum(float(price * size) for price, size in bids))
        spreads.append(float((asks[0][0] - bids[0][0]) / asks[0][0]))
    assert depths[1] == pytest.approx(depths[0] * 0.05, rel=0.35)
    assert depths[2] == pytest.approx(depths[0], rel=0.35)
    assert spreads[1] == pytest.approx(0.008, rel=0.05)
    assert spreads[0] < 0.0005 > spreads[2]


def test_parameters_and_status_change_when_the_scenario_says() -> None:
    world = still_world(
        shocks="[{at: 10s, kind: parameter_change, market: BTC-USD, initial_margin: 5%, maintenance_margin: 3%}, "
        "{at: 20s, kind: market_status, market: BTC-USD, to: CANCEL_ONLY, for: 10s}]"
    )
    btc = at(world, 15 * NS).markets["BTC-USD"]
    assert (btc.initial_margin, btc.maintenance_margin, btc.status) == (0.05, 0.03, "ACTIVE")
    assert at(world, 25 * NS).markets["BTC-USD"].status == "CANCEL_ONLY"
    refused = world.place(order(world), {})
    assert isinstance(refused, Refusal)
    assert refused.reason == "market_status"
    assert at(world, 31 * NS).markets["BTC-USD"].status == "ACTIVE"


def test_somebody_else_closes_a_share_of_the_position_once() -> None:
    world = still_world(shocks="[{at: 10s, kind: external_close, market: BTC-USD, by: 25%, cause: adl}]")
    at(world, 60 * NS)
    account = account_of(world)
    assert account.holdings["BTC-USD"].size == Decimal("0.75")
    assert [(fill.type, fill.size) for fill in account.fills] == [("DELEVERAGED", Decimal("0.25"))]
    assert [entry.kind for entry in world.log] == ["external_close"]


@settings(max_examples=40, deadline=None)
@given(
    tick=st.sampled_from(["1", "0.1", "0.001", "0.0005"]),
    price=st.floats(0.01, 200_000),
    spread=st.floats(1e-5, 0.1),
    second=st.integers(0, 10_000),
    depth=st.floats(0.01, 1),
)
def test_a_book_is_never_crossed_and_stands_on_tick_and_step(tick: str, price: float, spread: float, second: int, depth: float) -> None:
    spec = MarketSpec(price=100, tick=tick, step="0.01", levels=15)  # type: ignore[arg-type]
    bids, asks = book(spec, jitter_table(1, "X"), second, price, depth, spread)
    assert asks
    assert not bids or bids[0][0] < asks[0][0]
    assert [p for p, _ in bids] == sorted({p for p, _ in bids}, reverse=True)
    assert [p for p, _ in asks] == sorted({p for p, _ in asks})
    for level_price, size in (*bids, *asks):
        assert level_price % spec.tick == 0
        assert size % spec.step == 0
        assert size > 0


# --- chains, routes, proposals -----------------------------------------------------------------------------------------------------------


def test_a_stopped_sequencer_freezes_its_chain_and_closes_its_routes() -> None:
    world = still_world(shocks="[{at: 10s, kind: sequencer_stop, chain: arbitrum, for: 20s}]")
    spec = world.scenario.chains["arbitrum"]

    def status(second: int) -> tuple[int, int, bool | None]:
        seen = chain_status("arbitrum", spec, world.shocks, world.start_s, second)
        return seen.height, seen.block_at, seen.sequencer_up

    running, stopped, later, again = status(9), status(12), status(29), status(31)
    assert running[2] is True
    assert (stopped[2], later[2]) == (False, False)
    assert stopped[:2] == later[:2]
    assert again[0] > later[0]
    assert again[2] is True
    assert world.bridges.is_open("hop", world.shocks, 12) is False
    assert world.bridges.is_open("cctp", world.shocks, 12) is True
    assert world.bridges.is_open("hop", world.shocks, 30) is True
    ethereum = chain_status("ethereum", world.scenario.chains["ethereum"], world.shocks, world.start_s, 12)
    assert ethereum.sequencer_up is None


def test_late_finality_makes_transfers_out_of_that_chain_slower() -> None:
    world = still_world(shocks="[{at: 10s, kind: finality_delay, chain: ethereum, to: 40m, for: 1h}]")
    assert world.bridges.eta_ns("cctp", world.shocks, 5) == (60 * NS, 90 * NS)
    assert world.bridges.eta_ns("cctp", world.shocks, 15) == (60 * NS + 25 * MINUTE_NS, 90 * NS + 25 * MINUTE_NS)


def test_a_proposal_is_voted_on_and_then_decided() -> None:
    spec = ProposalSpec(id=1, title="t", messages=("/m",), at="-1h", voting="2h")  # type: ignore[arg-type]
    assert proposal_statuses([spec], START // NS, 0)[0].status == "PROPOSAL_STATUS_VOTING_PERIOD"
    assert proposal_statuses([spec], START // NS, 3600)[0].status == "PROPOSAL_STATUS_PASSED"
    late = spec.model_copy(update={"at": 60 * NS})
    assert proposal_statuses([late], START // NS, 59) == []


def test_a_transfer_leaves_at_once_and_arrives_less_its_fee() -> None:
    world = at(still_world(), 10 * NS)
    before = account_of(world).quote
    accepted = world.transfer(transfer(world), {})
    assert not isinstance(accepted, Refusal)
    state, duplicate, _ = accepted
    assert (state.status, state.fee, duplicate) == ("DEBITED", Decimal(1), False)
    assert world.bridges.buffers["ethereum"] == 49_000
    assert world.bridges.in_flight("cctp") == 1000
    at(world, 10 * MINUTE_NS)
    assert state.status == "CREDITED"
    assert account_of(world).quote == before + 999
    assert world.bridges.in_flight("cctp") == 0
    assert 30 * NS <= (state.credited_at or 0) - state.requested_at <= 10 * MINUTE_NS


def test_a_transfers_client_id_counts_once_for_ever() -> None:
    world = at(still_world(), NS)
    first = world.transfer(transfer(world), {})
    at(world, 30 * MINUTE_NS)
    again = world.transfer(transfer(world), {})
    other = world.transfer(transfer(world, amount=Decimal(7)), {})
    assert not isinstance(first, Refusal)
    assert not isinstance(again, Refusal)
    assert again[0] is first[0]
    assert again[1] is True
    assert isinstance(other, Refusal)
    assert world.bridges.buffers["ethereum"] == 49_000
    assert [entry.outcome for entry in world.log if entry.kind == "transfer"] == ["executed", "duplicate", "refused"]


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"route": "nowhere"}, "unknown_route"),
        ({"expires": START}, "expired"),
        ({"amount": Decimal("0.0000001")}, "amount"),
        ({"amount": Decimal(20_001)}, "capacity"),
        ({"max_fee": Decimal("0.99")}, "fee"),
        ({"subaccount": 9}, "unknown_subaccount"),
        ({"route": "back", "amount": Decimal(48_500)}, "margin"),
        ({"route": "hop"}, "balance"),
    ],
)
def test_a_transfer_that_cannot_be_made_is_refused_and_moves_nothing(changes: dict[str, object], reason: str) -> None:
    world = at(still_world(), 10 * NS)
    before = (account_of(world).quote, dict(world.bridges.buffers))
    refused = world.transfer(transfer(world, **changes), {})
    assert isinstance(refused, Refusal)
    assert refused.reason == reason
    assert (account_of(world).quote, dict(world.bridges.buffers)) == before


def test_a_stalled_bridge_holds_what_is_in_flight_and_takes_nothing_new() -> None:
    world = at(still_world(shocks="[{at: 20s, kind: bridge_stall, route: cctp, for: 5m}]"), 10 * NS)
    accepted = world.transfer(transfer(world), {})
    assert not isinstance(accepted, Refusal)
    at(world, 5 * MINUTE_NS)
    assert accepted[0].status == "DEBITED"
    refused = world.transfer(transfer(world, client_id="t2"), {})
    assert isinstance(refused, Refusal)
    assert refused.reason == "route_closed"
    at(world, 9 * MINUTE_NS)
    assert accepted[0].status == "CREDITED"


def test_an_undelivered_transfer_expires_and_is_refunded_in_full() -> None:
    world = at(still_world(shocks="[{at: 20s, kind: bridge_stall, route: cctp, for: 1h}]"), 10 * NS)
    accepted = world.transfer(transfer(world), {})
    assert not isinstance(accepted, Refusal)
    at(world, 11 * MINUTE_NS)
    assert accepted[0].status == "EXPIRED"
    assert world.bridges.buffers["ethereum"] == 49_000
    at(world, 16 * MINUTE_NS)
    assert accepted[0].status == "REFUNDED"
    assert world.bridges.buffers["ethereum"] == 50_000


def test_a_withdrawal_leaves_the_account_at_once_and_reaches_the_chain_later() -> None:
    world = at(still_world(), 10 * NS)
    before = account_of(world).quote
    accepted = world.transfer(transfer(world, route="back"), {})
    assert not isinstance(accepted, Refusal)
    assert account_of(world).quote == before - 1000
    at(world, 2 * MINUTE_NS)
    assert world.bridges.buffers["ethereum"] == 51_000


@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["cctp", "back"]), st.integers(1, 15_000), st.integers(1, 200)), max_size=10))
def test_money_is_neither_made_nor_lost_by_transfers(moves: list[tuple[str, int, int]]) -> None:
    world = still_world(positions="[]", shocks="[{at: 1m, kind: bridge_stall, route: cctp, for: 30m}]")
    now = 0
    for i, (route, amount, pause) in enumerate(moves):
        now += pause
        at(world, now * NS)
        world.transfer(transfer(world, client_id=str(i), route=route, amount=Decimal(amount)), {})
        fees = sum(t.fee for t in world.bridges.transfers.values() if t.status == "CREDITED")
        flying = sum(world.bridges.in_flight(name) for name in world.scenario.routes)
        total = Decimal(repr(account_of(world).quote)) + sum(world.bridges.buffers.values()) + flying + fees
        assert total == pytest.approx(Decimal(100_000), abs=Decimal("0.000001"))
