"""Routes, chains and requests of the simulated venue: the named models, every state of a transfer, and where its money is meanwhile."""

from __future__ import annotations

import collections
import re
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sim_world import ADDRESS, START, account_of, order, still_text, still_world

from daemon.edges.bridge import BridgeEdge
from daemon.edges.http import HttpSource
from daemon.engine.actions import MoveBuffer, Outcome
from daemon.errors import EdgeError, RunbookError, UnknownOutcome
from daemon.simulation.bridges import FINAL, FLYING, Bridges, Refusal, TransferRequest, TransferState
from daemon.simulation.chain import chain_status
from daemon.simulation.faults import EmptyBlocks, SequencerStop
from daemon.simulation.oracle_models import KINDS
from daemon.simulation.requests import delay_ns, latency_ns
from daemon.simulation.route_models import MODELS, RouteSpec
from daemon.simulation.scenario import SHOCK_KINDS, VenueSpec, parse_scenario
from daemon.simulation.world import World
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS
from daemon.web.sim import SimulatedVenue, VenueClock

DRAWS = 4000


def text(routes: str = "", shocks: str = "[]", buffers: str = "{ethereum: 50_000 USD, arbitrum: 50_000 USD}", **parts: str) -> str:
    """The still scenario with money on both chains and more routes, each `{from: ..., to: ...}` on a line of its own."""
    base = still_text(shocks=shocks, **parts).replace("buffers: {ethereum: 50_000 USD}", f"buffers: {buffers}")
    return base.replace("routes:\n", f"routes:\n{routes}" if routes else "routes:\n")


def world_of(routes: str = "", shocks: str = "[]", **parts: str) -> World:
    scenario = parse_scenario(text(routes, shocks, **parts), "routes.yaml")
    return World(scenario, seed=scenario.seed, started_ns=START, history_h=2)


def to(world: World, ns: int) -> World:
    world.advance(START + ns)
    return world


def ask(world: World, route: str, amount: str = "1000", client_id: str = "t1", **changes: Any) -> TransferState | Refusal:
    fields: dict[str, Any] = {
        "client_id": client_id, "route": route, "amount": Decimal(amount), "expires": world.now_ns + 20 * NS, "address": ADDRESS,
        "subaccount": 0,
    }  # fmt: skip
    found = world.transfer(TransferRequest(**(fields | changes)), {})
    return found if isinstance(found, Refusal) else found[0]


def taken(world: World, route: str, amount: str = "1000", client_id: str = "t1", **changes: Any) -> TransferState:
    found = ask(world, route, amount, client_id, **changes)
    assert isinstance(found, TransferState), found
    return found


def money(world: World) -> Decimal:
    """Everything that was there at the start of a world without positions, USD."""
    ledger = world.bridges.ledger()
    return Decimal(repr(account_of(world).quote)) + ledger.buffers + ledger.in_flight + ledger.fees + ledger.lost


# --- models ----------------------------------------------------------------------------------------------------------------------------


def spec_of(model: str, **keys: str) -> RouteSpec:
    return RouteSpec.model_validate({"model": model, "from": "arbitrum", "to": "dydx"} | keys)


@pytest.mark.parametrize("model", MODELS)
def test_every_field_of_a_model_says_where_it_is_from_and_is_one_of_a_routes_keys(model: str) -> None:
    assert spec_of(model).model == model
    assert {"eta", "p95", "capacity"} <= set(MODELS[model].facts)
    assert MODELS[model].title
    for name, fact in MODELS[model].facts.items():
        assert name in RouteSpec.model_fields
        assert fact.source.strip()


def test_the_models_have_the_published_numbers() -> None:
    def seconds(model: str) -> tuple[float, float]:
        return spec_of(model).eta / NS, spec_of(model).slow / NS

    assert seconds("optimistic-canonical")[0] == 7 * 86_400
    assert spec_of("optimistic-canonical").shortest == 6 * DAY_NS + 8 * HOUR_NS + 43 * MINUTE_NS
    assert [seconds(f"cctp-v2-fast{chain}")[0] for chain in ("", "-ethereum", "-linea", "-solana")] == [8, 20, 8, 8]
    fees = {chain: spec_of(f"cctp-v2-fast{chain}").fee for chain in ("", "-ethereum", "-linea", "-starknet")}
    assert fees == pytest.approx({"": 0.00013, "-ethereum": 0.0001, "-linea": 0.0011, "-starknet": 0.0014})
    assert (spec_of("cctp-standard").shortest, spec_of("cctp-standard").p95) == (13 * MINUTE_NS, 19 * MINUTE_NS)
    assert [seconds(f"cctp-standard-{chain}")[0] for chain in ("fast-finality", "hyperevm", "solana")] == [8, 5, 25]
    assert seconds("across")[0] == 2
    go = spec_of("skip-go-fast")
    assert (go.p95, go.minimum, go.maximum, go.fee) == (30 * NS, 10, 100_000, 0.001)
    assert spec_of("skip-go-fast-ethereum").minimum == 50
    assert (spec_of("skip-go-regular").shortest, spec_of("skip-go-regular").p95) == (2 * MINUTE_NS, 30 * MINUTE_NS)
    assert (spec_of("skip-go-regular-withdraw").shortest, spec_of("skip-go-regular-withdraw").p95) == (MINUTE_NS, 5 * MINUTE_NS)
    assert spec_of("skip-go-regular").via == "noble"
    assert (spec_of("ibc-direct").p95, spec_of("ibc-direct").expires_after) == (30 * NS, 10 * MINUTE_NS)
    assert spec_of("hl-deposit").lost_below == 5
    hl = spec_of("hl-withdraw")
    assert (hl.shortest, hl.p95, hl.fee_usd) == (3 * MINUTE_NS, 4 * MINUTE_NS, 1)


def share_within(delays: list[int], limit: int) -> float:
    return sum(delay <= limit for delay in delays) / len(delays)


@pytest.mark.parametrize("model", MODELS)
def test_the_delays_of_a_model_have_its_stated_median_and_tail(model: str) -> None:
    spec = spec_of(model, capacity="1_000_000_000 USD", fails="0%")
    bridges = Bridges(seed=4, venue="dydx", routes={"r": spec}, chains={}, buffers={"arbitrum": Decimal(10**9)})
    delays = []
    for i in range(DRAWS):
        asked = TransferRequest(
            client_id=f"run-{i}", route="r", amount=Decimal(60), expires=NS, address=ADDRESS, subaccount=0
        )  # fmt: skip
        delays.append(bridges.accept(asked, Decimal(0), (), 0, 0).total_ns)
    # Four standard errors of a share of 4,000 draws.
    assert share_within(delays, spec.eta) == pytest.approx(0.5, abs=4 * (0.25 / DRAWS) ** 0.5)
    assert share_within(delays, spec.slow) == pytest.approx(0.95, abs=4 * (0.0475 / DRAWS) ** 0.5)
    assert min(delays) >= (spec.shortest if spec.shortest is not None else spec.eta // 2)
    assert spec.longest is None or max(delays) <= spec.longest


@pytest.mark.parametrize(("typical", "slow", "shortest"), [(8, 60, 4), (2, 20, 1), (960, 1140, 780), (210, 240, 180)])
def test_a_delay_at_its_quantiles_is_the_stated_one(typical: int, slow: int, shortest: int) -> None:
    at_half, at_95 = (delay_ns(typical * NS, slow * NS, chance, shortest=shortest * NS) for chance in (0.5, 0.95))
    assert (at_half, at_95) == (pytest.approx(typical * NS, rel=1e-9), pytest.approx(slow * NS, rel=1e-9))
    # An independent point: one standard deviation above the median multiplies the excess by exp(sigma).
    above = delay_ns(typical * NS, slow * NS, 0.8413447460685429, shortest=shortest * NS) / NS - shortest
    assert above == pytest.approx((typical - shortest) * ((slow - shortest) / (typical - shortest)) ** (1 / 1.6448536269514722), rel=1e-6)


def test_a_refund_has_a_distribution_of_its_own() -> None:
    spec = spec_of("across", fails="100%", expires_after="1s", refund_after="4h", refund_p95="12h", capacity="1_000_000_000 USD")
    bridges = Bridges(seed=4, venue="dydx", routes={"r": spec}, chains={}, buffers={"arbitrum": Decimal(10**9)})
    for i in range(1000):
        asked = TransferRequest(client_id=str(i), route="r", amount=Decimal(60), expires=NS, address=ADDRESS, subaccount=0)
        bridges.accept(asked, Decimal(0), (), 0, 0)
    bridges.advance((), 1, NS)
    waits = [(transfer.refund_at or 0) - NS for transfer in bridges.transfers.values()]
    assert {transfer.status for transfer in bridges.transfers.values()} == {"EXPIRED"}
    assert share_within(waits, 4 * HOUR_NS) == pytest.approx(0.5, abs=4 * (0.25 / 1000) ** 0.5)
    assert share_within(waits, 12 * HOUR_NS) == pytest.approx(0.95, abs=4 * (0.0475 / 1000) ** 0.5)


def test_the_shares_of_failures_and_of_sticking_are_the_stated_ones() -> None:
    spec = spec_of("skip-go-regular", stuck="20%", fails="30%", expires_after="1h", capacity="1_000_000_000 USD")
    bridges = Bridges(seed=4, venue="dydx", routes={"r": spec}, chains={}, buffers={"arbitrum": Decimal(10**9)})
    for i in range(DRAWS):
        asked = TransferRequest(client_id=str(i), route="r", amount=Decimal(60), expires=NS, address=ADDRESS, subaccount=0)
        bridges.accept(asked, Decimal(0), (), 0, 0)
    made = list(bridges.transfers.values())
    assert sum(t.is_doomed for t in made) / DRAWS == pytest.approx(0.3, abs=4 * (0.21 / DRAWS) ** 0.5)
    assert sum(t.is_sticking for t in made) / DRAWS == pytest.approx(0.2, abs=4 * (0.16 / DRAWS) ** 0.5)


def test_a_delay_hangs_on_the_client_id_and_the_seed_alone() -> None:
    one, other = world_of(), to(world_of(), 5 * NS)
    taken(other, "cctp", client_id="before")
    assert taken(one, "cctp").total_ns == taken(other, "cctp").total_ns
    assert taken(one, "cctp", client_id="t2").total_ns != taken(one, "cctp").total_ns


def test_a_named_model_is_used_and_explicit_keys_override_it() -> None:
    world = world_of("  fast: {model: cctp-v2-fast, from: arbitrum, to: dydx, fee: 3bps}\n")
    route = world.scenario.routes["fast"]
    assert (route.eta, route.fee, route.waits_finality) == (8 * NS, pytest.approx(0.0003), False)


@pytest.mark.parametrize(
    ("route", "expected"),
    [
        ("{model: cctp-v2-fats, from: arbitrum, to: dydx}", "'cctp-v2-fats' is no model of a route; did you mean 'cctp-v2-fast'?"),
        ("{model: hl-withdraw, from: dydx, to: arbitrum, eta: 1h}", "p95 is below eta"),
        ("{model: hl-withdraw, from: dydx, to: arbitrum, eta: 1m}", "shortest is not below eta"),
        ("{from: arbitrum, to: dydx, eta: 1m, fails: 2%}", "write expires_after beside fails"),
        ("{from: arbitrum, to: dydx, eta: 1m, stuck: 2%}", "write via"),
        ("{from: arbitrum, to: dydx, eta: 1m, longest: 1m}", "longest is below p95"),
        ("{model: across, from: arbitrum, to: dydx, tolls: 1}", "unknown key 'tolls'"),
    ],
)
def test_a_route_that_contradicts_itself_says_so_at_its_line(route: str, expected: str) -> None:
    with pytest.raises(RunbookError) as caught:
        parse_scenario(text(f"  odd: {route}\n"), "x.yaml")
    [problem] = caught.value.diagnostics
    assert expected in problem.message
    assert "odd:" in text(f"  odd: {route}\n").splitlines()[problem.line - 1]


def test_a_route_without_a_chain_in_between_cannot_have_transfers_stuck() -> None:
    with pytest.raises(RunbookError, match="'cctp' has no chain in between"):
        parse_scenario(text(shocks="[{kind: route_stuck, route: cctp, for: 1m}]"), "x.yaml")
    assert world_of("  r: {model: skip-go-regular, from: arbitrum, to: dydx}\n", "[{kind: route_stuck, route: r, for: 1m}]")


def test_every_model_kind_and_shock_is_documented_and_every_test_that_the_page_names_exists() -> None:
    root = Path(__file__).resolve().parent
    page = (root.parent / "docs/simulated-venue.md").read_text(encoding="utf-8")
    missing = [name for name in (*MODELS, *KINDS, *SHOCK_KINDS) if f"`{name}`" not in page]
    missing += [name for name in RouteSpec.model_fields if name not in ("source", "destination") and f"`{name}`" not in page]
    assert not missing
    named = re.findall(r"`(test_\w+)`", page)
    written = "".join(path.read_text(encoding="utf-8") for path in root.glob("test_*.py"))
    assert len(named) >= 15
    assert [name for name in named if f"def {name}(" not in written] == []


# --- states ----------------------------------------------------------------------------------------------------------------------------


def test_a_transfer_passes_its_states_in_order_and_each_has_its_time() -> None:
    world = to(world_of("  slow: {from: arbitrum, to: dydx, eta: 100s, p95: 100s, debit_after: 10s, attested: 60%}\n"), NS)
    quote, state = account_of(world).quote, taken(world, "slow")
    seen = [(state.status, world.bridges.in_flight("slow"), world.bridges.buffers["arbitrum"])]
    for second in range(2, 120):
        to(world, second * NS)
        now = (state.status, world.bridges.in_flight("slow"), world.bridges.buffers["arbitrum"])
        if now != seen[-1]:
            seen.append(now)
    assert seen == [("REQUESTED", 0, 50_000), ("DEBITED", 1000, 49_000), ("ATTESTED", 1000, 49_000), ("CREDITED", 0, 49_000)]
    assert account_of(world).quote == quote + 1000
    times = {status: (at - START) / NS for status, at in state.times.items()}
    assert times == {"REQUESTED": 1, "DEBITED": 11, "ATTESTED": 71, "CREDITED": 111}


def test_money_in_flight_counts_on_neither_side() -> None:
    world = to(world_of(positions="[]"), NS)
    before = account_of(world).quote, world.bridges.buffers["ethereum"]
    taken(world, "cctp", "5000")
    to(world, 5 * NS)
    assert (account_of(world).quote, world.bridges.buffers["ethereum"]) == (before[0], before[1] - 5000)
    assert world.bridges.ledger().in_flight == 5000
    assert money(world) == 150_000


def test_a_bridge_that_locks_after_the_debit_holds_the_money_until_it_is_unlocked() -> None:
    # Hyperliquid, 2025-11-12: the bridge was locked for about 25 minutes; a withdrawal is debited all the same.
    routes = "  out: {model: hl-withdraw, from: dydx, to: arbitrum}\n"
    world = to(world_of(routes, "[{at: 1m, kind: bridge_lock, route: out, for: 25m}]"), 2 * MINUTE_NS)
    quote = account_of(world).quote
    assert world.bridges.is_open("out", world.shocks, world.second)
    state = taken(world, "out")
    assert (state.status, account_of(world).quote) == ("DEBITED", quote - 1000)
    to(world, 26 * MINUTE_NS - NS)
    assert (state.status, world.bridges.buffers["arbitrum"]) == ("ATTESTED", 50_000)
    to(world, 26 * MINUTE_NS)
    assert (state.status, world.bridges.buffers["arbitrum"]) == ("CREDITED", 50_999)


def test_a_lock_that_takes_nothing_new_refuses_and_says_so() -> None:
    world = to(world_of(shocks="[{kind: bridge_lock, route: cctp, accepts: false, for: 5m}]"), NS)
    found = ask(world, "cctp")
    assert isinstance(found, Refusal)
    assert found.reason == "route_closed"


def test_a_lock_that_lasts_past_the_expiry_holds_back_the_refund_too() -> None:
    world = to(world_of(shocks="[{at: 5s, kind: bridge_lock, route: cctp, for: 40m}]"), NS)
    state = taken(world, "cctp")
    to(world, 20 * MINUTE_NS)
    assert state.status == "EXPIRED"
    to(world, 45 * MINUTE_NS)
    assert state.status == "REFUNDED"
    assert (state.times["REFUNDED"] - START) / NS == 40 * 60 + 5


def test_an_expired_transfer_is_refunded_hours_later_and_counts_nowhere_meanwhile() -> None:
    routes = "  relay: {model: across, from: arbitrum, to: dydx, fails: 100%}\n"
    world = to(world_of(routes, positions="[]"), NS)
    state = taken(world, "relay", "5000")
    quote = account_of(world).quote
    to(world, 90 * MINUTE_NS)
    assert state.status == "DEBITED", "nobody fills it, and the deadline has not passed"
    to(world, 90 * MINUTE_NS + NS)
    assert state.status == "EXPIRED"
    waited = (state.refund_at or 0) - state.times["EXPIRED"]
    assert waited >= 2 * HOUR_NS, "several hours: half of the typical four at the very least"
    to(world, (state.refund_at or 0) - START - 2 * NS)
    assert (state.status, world.bridges.buffers["arbitrum"], account_of(world).quote) == ("EXPIRED", 45_000, quote)
    assert world.bridges.in_flight("relay") == 5000
    to(world, (state.refund_at or 0) - START + NS)
    assert (state.status, world.bridges.buffers["arbitrum"], account_of(world).quote) == ("REFUNDED", 50_000, quote)
    assert world.bridges.in_flight("relay") == 0


def test_a_transfer_that_arrives_in_the_second_of_its_expiry_is_credited_and_nothing_else() -> None:
    routes = "  r: {from: ethereum, to: dydx, eta: 30s, p95: 30s, attested: 100%, expires_after: 30s, refund_after: 0s}\n"
    world = to(world_of(routes, positions="[]"), NS)
    state = taken(world, "r")
    to(world, MINUTE_NS)
    assert list(state.times) == ["REQUESTED", "DEBITED", "ATTESTED", "CREDITED"]
    assert money(world) == 150_000


def test_a_withdrawal_that_is_not_relayed_comes_back_to_the_account() -> None:
    routes = "  ibc: {model: ibc-direct, from: dydx, to: ethereum, fails: 100%, refund_p95: 1m}\n"
    world = to(world_of(routes, positions="[]"), NS)
    quote = account_of(world).quote
    state = taken(world, "ibc")
    assert account_of(world).quote == quote - 1000
    to(world, 13 * MINUTE_NS)
    assert (state.status, account_of(world).quote) == ("REFUNDED", quote)
    assert [entry.kind for entry in world.log if entry.outcome == "world"] == ["transfer_expired", "transfer_refunded"]


NOBLE = "  noble: {model: skip-go-regular, from: arbitrum, to: dydx, stuck: 0%}\n"


def test_money_is_stuck_at_the_chain_in_between_until_the_fault_ends() -> None:
    world = to(world_of(NOBLE, "[{kind: route_stuck, route: noble, for: 3h}]", positions="[]"), NS)
    state = taken(world, "noble")
    to(world, 2 * HOUR_NS)
    assert state.status == "STUCK"
    assert (world.bridges.stuck("noble"), world.bridges.in_flight("noble")) == (1000, 1000)
    assert money(world) == 150_000
    to(world, 3 * HOUR_NS)
    assert state.status == "ATTESTED"
    to(world, 4 * HOUR_NS)
    assert state.status == "CREDITED"
    assert world.bridges.stuck("noble") == 0


def test_money_that_sticks_by_itself_stays_until_an_operator_sweeps_it() -> None:
    world = to(world_of(NOBLE.replace("stuck: 0%", "stuck: 100%")), NS)
    state = taken(world, "noble")
    assert isinstance(world.release("t1", {}), Refusal), "it is not stuck yet"
    to(world, 5 * HOUR_NS)
    assert state.status == "STUCK"
    assert isinstance(world.release("nobody", {}), Refusal)
    assert world.release("t1", {}) is state
    to(world, 6 * HOUR_NS)
    assert state.status == "CREDITED"
    assert [entry.outcome for entry in world.log if entry.kind == "release"] == ["refused", "refused", "executed"]


def test_a_deposit_below_the_bridges_least_is_lost_for_ever() -> None:
    # Hyperliquid: less than 5 USDC sent to Bridge2 is taken and never credited.
    routes = "  hl: {model: hl-deposit, from: arbitrum, to: dydx}\n"
    world = to(world_of(routes, positions="[]"), NS)
    quote, small, enough = account_of(world).quote, taken(world, "hl", "4.99"), taken(world, "hl", "5", "t2")
    to(world, 2 * HOUR_NS)
    assert (small.status, enough.status) == ("LOST", "CREDITED")
    assert account_of(world).quote == pytest.approx(quote + float(enough.arriving))
    assert world.bridges.ledger().lost == Decimal("4.99")
    assert money(world) == pytest.approx(Decimal(150_000), abs=Decimal("0.000001"))


@pytest.mark.parametrize(("amount", "reason"), [("9.99", "minimum"), ("100_001", "capacity"), ("0.5", "minimum")])
def test_an_amount_outside_a_routes_bounds_is_refused(amount: str, reason: str) -> None:
    routes = "  go: {model: skip-go-fast, from: arbitrum, to: dydx, gas: none}\n"
    world = to(world_of(routes, buffers="{arbitrum: 500_000 USD}"), NS)
    found = ask(world, "go", amount)
    assert isinstance(found, Refusal)
    assert found.reason == reason


def test_a_capacity_that_tightens_binds_what_is_asked_next() -> None:
    world = to(world_of(shocks="[{at: 1m, kind: route_capacity, route: cctp, to: 1_500 USD, for: 1h}]"), NS)
    assert world.bridges.capacity("cctp", world.shocks, 1) == 20_000
    to(world, 61 * NS)
    assert world.bridges.capacity("cctp", world.shocks, world.second) == 1500
    taken(world, "cctp", "1000")
    found = ask(world, "cctp", "501", "t2")
    assert isinstance(found, Refusal)
    assert found.reason == "capacity"


def test_a_halted_venue_takes_in_no_deposit_until_it_is_back() -> None:
    world = to(world_of(shocks="[{at: 5s, kind: venue_halt, for: 8m}]", positions="[]"), NS)
    quote, state = account_of(world).quote, taken(world, "hop")
    to(world, 8 * MINUTE_NS)
    assert (state.status, account_of(world).quote) == ("ATTESTED", quote)
    to(world, 9 * MINUTE_NS)
    assert (state.status, account_of(world).quote) == ("CREDITED", quote + 1000)


# --- finality, congestion --------------------------------------------------------------------------------------------------------------


def test_late_finality_holds_what_is_already_under_way_and_spares_what_does_not_wait_for_it() -> None:
    routes = (
        "  standard: {model: cctp-standard, from: arbitrum, to: dydx, gas: none}\n"
        "  fast: {model: cctp-v2-fast, from: arbitrum, to: dydx, gas: none}\n"
    )
    world = to(world_of(routes, "[{at: 30s, kind: finality_delay, chain: arbitrum, to: 90m, for: 80m}]"), NS)
    standard, fast = taken(world, "standard"), taken(world, "fast", client_id="t2")
    to(world, 20 * MINUTE_NS)
    assert fast.status == "CREDITED"
    assert standard.status == "DEBITED"
    eta = world.bridges.eta_ns("standard", world.shocks, world.second)
    assert eta[0] == 16 * MINUTE_NS + 90 * MINUTE_NS - 15 * MINUTE_NS
    to(world, 80 * MINUTE_NS)
    assert standard.status == "DEBITED"
    to(world, 86 * MINUTE_NS)
    assert standard.status == "CREDITED", "finality is back: what waited for it alone goes on"


def test_finality_that_is_back_attests_nothing_while_the_sequencer_stands() -> None:
    routes = "  standard: {from: arbitrum, to: dydx, eta: 60s, p95: 60s}\n"
    shocks = "[{at: 5s, kind: finality_delay, chain: arbitrum, to: 1h, for: 5m}, {at: 4m, kind: sequencer_stop, chain: arbitrum, for: 10m}]"
    world = to(world_of(routes, shocks), NS)
    state = taken(world, "standard")
    to(world, 13 * MINUTE_NS + 59 * NS)
    assert state.status == "DEBITED"
    to(world, 15 * MINUTE_NS)
    assert state.status == "CREDITED"


def test_congestion_raises_gas_fee_latency_and_failures_together() -> None:
    routes = "  r: {from: ethereum, to: dydx, eta: 100s, p95: 100s, attested: 100%, gas: source}\n"
    world = to(world_of(routes, "[{at: 10s, kind: congestion, chain: ethereum, level: 50%, gas: 21, latency: 5, for: 1h}]"), NS)
    calm, full = (
        (
            chain_status("ethereum", world.scenario.chains["ethereum"], world.shocks, world.start_s, second),
            world.bridges.fee(world.scenario.routes["r"], Decimal(1000), world.shocks, second),
            world.bridges.eta_ns("r", world.shocks, second)[0],
        )
        for second in (5, 15)
    )
    # Half of the level: gas 1 + 20/2 = 11 times, delays 1 + 4/2 = 3 times, failures 25 % / 2.
    assert (calm[0].gas_price_gwei, full[0].gas_price_gwei) == (8.0, 88.0)
    assert (calm[1], full[1]) == (1, 11)
    assert (calm[2], full[2]) == (100 * NS, 300 * NS)
    assert full[0].tx_per_block > calm[0].tx_per_block
    to(world, 15 * NS)
    answers = [isinstance(ask(world, "r", "20", f"c{i}"), Refusal) for i in range(800)]
    assert sum(answers) / 800 == pytest.approx(0.125, abs=4 * (0.125 * 0.875 / 800) ** 0.5)
    assert [isinstance(ask(world, "r", "20", f"c{i}"), Refusal) for i in range(800)] == answers, "an id keeps its answer"


def test_congestion_stretches_what_is_under_way_while_it_lasts() -> None:
    routes = "  r: {from: ethereum, to: dydx, eta: 100s, p95: 100s}\n"
    shocks = "[{at: 21s, kind: congestion, chain: ethereum, latency: 4, failure: 0%, for: 80s}]"
    calm, full = to(world_of(routes), NS), to(world_of(routes, shocks), NS)
    states = taken(calm, "r"), taken(full, "r")
    to(calm, 3 * MINUTE_NS)
    to(full, 3 * MINUTE_NS)
    assert states[0].credited_at == START + 101 * NS
    # From second 21 to 100 eighty seconds do the work of twenty.
    assert states[1].credited_at == START + 161 * NS


def test_congestion_makes_a_route_with_an_expiry_expire_more_often() -> None:
    routes = "  r: {from: ethereum, to: dydx, eta: 5s, p95: 5s, fails: 10%, expires_after: 30s, refund_after: 0s}\n"

    def expired(shocks: str) -> float:
        world = to(world_of(routes, shocks), NS)
        for i in range(500):
            taken(world, "r", "1", f"c{i}")
        to(world, MINUTE_NS)
        return collections.Counter(t.status for t in world.bridges.transfers.values())["REFUNDED"] / 500

    assert expired("[]") == pytest.approx(0.1, abs=4 * (0.09 / 500) ** 0.5)
    # 1 - 0.9 x 0.6: either the route fails by itself, or the congestion undoes it.
    full = "[{kind: congestion, chain: ethereum, failure: 40%, latency: 1, for: 1m}]"
    assert expired(full) == pytest.approx(0.46, abs=4 * (0.46 * 0.54 / 500) ** 0.5)


# --- chains ----------------------------------------------------------------------------------------------------------------------------


def test_blocks_that_advance_empty_look_alive_and_take_nothing_in() -> None:
    # Base, 2025-08-05: height kept advancing with near-empty blocks.
    world = to(world_of(shocks="[{at: 30s, kind: empty_blocks, chain: arbitrum, to: 1%, for: 33m}]", positions="[]"), 10 * NS)
    spec = world.scenario.chains["arbitrum"]
    early = taken(world, "hop", client_id="early")
    before, during = (chain_status("arbitrum", spec, world.shocks, world.start_s, second) for second in (29, 600))
    assert during.height - before.height == (600 - 29) * 4
    assert (during.sequencer_up, during.block_at) == (True, START + 600 * NS)
    assert (before.tx_per_block, during.tx_per_block) == (150, 1.5)
    to(world, 60 * NS)
    assert early.status == "CREDITED", "it left before"
    assert world.bridges.is_open("hop", world.shocks, world.second), "nothing says that the route is closed"
    late = taken(world, "hop", client_id="late", expires=world.now_ns + 2 * HOUR_NS)
    short = taken(world, "hop", client_id="short")
    to(world, 20 * MINUTE_NS)
    assert (late.status, world.bridges.buffers["arbitrum"]) == ("REQUESTED", 49_000)
    assert (short.status, short.reason) == ("REJECTED", "expired")
    to(world, 34 * MINUTE_NS)
    assert (late.status, world.bridges.buffers["arbitrum"]) == ("CREDITED", 48_000)


def test_a_request_that_waited_is_rejected_when_the_money_has_gone_meanwhile() -> None:
    shocks = "[{kind: empty_blocks, chain: arbitrum, for: 1m}]"
    world = to(world_of(shocks=shocks, buffers="{arbitrum: 1_500 USD}"), NS)
    states = [taken(world, "hop", "1000", f"t{i}", expires=world.now_ns + HOUR_NS) for i in range(2)]
    to(world, 5 * MINUTE_NS)
    assert [(state.status, state.reason) for state in states] == [("CREDITED", ""), ("REJECTED", "balance")]
    assert world.bridges.buffers["arbitrum"] == 500


def test_a_withdrawal_that_waits_is_debited_at_the_venue_when_its_block_comes() -> None:
    routes = "  out: {from: dydx, to: arbitrum, eta: 10s, p95: 10s, debit_after: 30s}\n"
    world = to(world_of(routes, positions="[]"), NS)
    quote = account_of(world).quote
    state, greedy = taken(world, "out", "30_000", expires=world.now_ns + HOUR_NS), taken(world, "out", "30_000", "t2")
    assert account_of(world).quote == quote
    to(world, 2 * MINUTE_NS)
    assert (state.status, account_of(world).quote) == ("CREDITED", quote - 30_000)
    assert (greedy.status, greedy.reason) == ("REJECTED", "expired")


def test_an_outage_that_is_repeated_misses_the_blocks_of_both_and_overlaps_once() -> None:
    # Base, 2026-06-25 and the day after: 116 minutes, then 20.
    world = world_of()
    spec = world.scenario.chains["arbitrum"]
    first = SequencerStop(kind="sequencer_stop", chain="arbitrum", at=HOUR_NS, lasts=116 * MINUTE_NS)
    again = SequencerStop(kind="sequencer_stop", chain="arbitrum", at=24 * HOUR_NS, lasts=20 * MINUTE_NS)
    within = SequencerStop(kind="sequencer_stop", chain="arbitrum", at=2 * HOUR_NS, lasts=10 * MINUTE_NS)
    end = 26 * 3600

    def missed(*shocks: SequencerStop) -> float:
        up = chain_status("arbitrum", spec, (), world.start_s, end)
        return (up.height - chain_status("arbitrum", spec, shocks, world.start_s, end).height) / 4 / 60

    assert missed(first) == 116
    assert missed(first, again) == 136
    assert missed(within, first, again) == 136
    seen = [chain_status("arbitrum", spec, (first, again), world.start_s, hour * 3600 + 60).sequencer_up for hour in (0, 1, 12, 24, 25)]
    assert seen == [True, False, True, False, True]


def test_only_a_rollup_can_have_empty_blocks() -> None:
    with pytest.raises(RunbookError, match="'ethereum' has no sequencer"):
        parse_scenario(text(shocks="[{kind: empty_blocks, chain: ethereum, for: 1m}]"), "x.yaml")
    assert EmptyBlocks(kind="empty_blocks", chain="arbitrum", lasts=NS).to == 0.0


# --- requests --------------------------------------------------------------------------------------------------------------------------


def test_latency_has_its_stated_median_and_tail_and_hangs_on_the_id() -> None:
    venue = VenueSpec(latency=80_000_000, latency_p95=250_000_000)
    drawn = [latency_ns(venue, 3, str(i), (), 0) for i in range(DRAWS)]
    assert share_within(drawn, 80_000_000) == pytest.approx(0.5, abs=4 * (0.25 / DRAWS) ** 0.5)
    assert share_within(drawn, 250_000_000) == pytest.approx(0.95, abs=4 * (0.0475 / DRAWS) ** 0.5)
    assert drawn[:5] == [latency_ns(venue, 3, str(i), (), 99) for i in range(5)]
    assert latency_ns(VenueSpec(), 3, "1", (), 0) == 0
    assert {latency_ns(VenueSpec(latency=NS), 3, str(i), (), 0) for i in range(9)} == {NS}


def test_a_delay_without_spread_is_the_typical_one_and_a_longest_one_cuts() -> None:
    assert delay_ns(10 * NS, 10 * NS, 0.999) == 10 * NS
    assert delay_ns(10 * NS, 20 * NS, 1 - 1e-12, longest=30 * NS) == 30 * NS
    assert delay_ns(10 * NS, 20 * NS, 1e-12, shortest=9 * NS) == pytest.approx(9 * NS, rel=1e-5)


async def test_an_order_is_matched_at_the_book_of_its_arrival() -> None:
    shocks = "[{at: 11s, kind: price_move, market: BTC-USD, by: -1%}]"
    shown = {}
    for latency in ("0s", "3s"):
        scenario = parse_scenario(text(shocks=shocks).replace("taker_fee: 5bps", f"taker_fee: 5bps, latency: {latency}"), "x.yaml")
        world = World(scenario, seed=1, started_ns=START, history_h=2)
        wall = [10 * NS]
        asleep: list[float] = []

        async def pause(seconds: float, wall: list[int] = wall, asleep: list[float] = asleep) -> None:
            asleep.append(seconds)
            wall[0] += int(seconds * NS)

        clock = VenueClock(started_ns=START + 10 * NS, speed=1.0, monotonic=lambda wall=wall: wall[0])  # type: ignore[misc]
        app = SimulatedVenue(world=world, clock=clock, pause=pause).app
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://venue") as http:
            body = {
                "client_id": 7, "market": "BTC-USD", "side": "SELL", "size": "0.1", "limit_price": "90000", "reduce_only": True,
                "good_til": START + 60 * NS,
            }  # fmt: skip
            answer = (await http.post("/sim/orders", json=body)).json()
        shown[latency] = (float(answer["average_price"]), (answer["accepted_at"] - START) / NS, asleep)
    assert shown["0s"] == (pytest.approx(98_000, rel=1e-3), 10.0, [])
    assert shown["3s"] == (pytest.approx(97_020, rel=1e-3), 13.0, [3.0])


def test_an_order_that_arrives_after_its_last_moment_is_refused() -> None:
    world = still_world(shocks="[{kind: venue_latency, to: 30s, for: 1h}]")
    to(world, 5 * NS)
    late = order(world)
    world.advance(world.now_ns + world.latency_ns("1"))
    found = world.place(late, {})
    assert isinstance(found, Refusal)
    assert found.reason == "expired"


def test_a_share_of_orders_is_refused_by_chance_and_each_id_keeps_its_answer() -> None:
    world = to(still_world(shocks="[{kind: order_reject, market: BTC-USD, probability: 30%, for: 1h}]"), NS)
    before = account_of(world).quote

    def answers() -> list[bool]:
        orders = (order(world, client_id=i, size=Decimal("0.0001"), good_til=START + HOUR_NS) for i in range(600))
        return [isinstance(world.place(one, {}), Refusal) for one in orders]

    first = answers()
    assert sum(first) / 600 == pytest.approx(0.3, abs=4 * (0.21 / 600) ** 0.5)
    quote = account_of(world).quote
    assert quote != before
    to(world, 15 * NS)  # inside the 20 blocks in which a client id counts once
    assert answers() == first
    assert account_of(world).quote == quote, "what was taken is not taken again"


def test_an_order_that_was_taken_is_found_again_although_new_ones_are_refused() -> None:
    world = to(still_world(shocks="[{at: 10s, kind: order_reject, for: 1h}]"), NS)
    one = order(world)
    taken_order = world.place(one, {})
    to(world, 11 * NS)
    again = world.place(one, {})
    assert not isinstance(taken_order, Refusal)
    assert not isinstance(again, Refusal)
    assert (again[0], again[1]) == (taken_order[0], True)
    refused = world.place(order(world, client_id=2), {})
    assert isinstance(refused, Refusal)
    assert refused.reason == "congested"


class Wire:
    """A venue in this process at a fixed time, and the route's edge on it."""

    def __init__(self, world: World) -> None:
        self.gone_ns = 0
        clock = VenueClock(started_ns=world.now_ns, speed=1.0, monotonic=lambda: self.gone_ns)
        self.world = world
        self.app = SimulatedVenue(world=world, clock=clock).app
        self.http = httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app), base_url="http://venue")
        source = HttpSource(name="bridge", url="http://venue", transport=httpx.ASGITransport(app=self.app))
        self.edge = BridgeEdge(name="bridge", routes=list(world.scenario.routes), accounts=[], source=source)

    def move(self, route: str, amount: str = "1000", **changes: Any) -> MoveBuffer:
        fields: dict[str, Any] = {
            "action_id": "run-1.top-up.0.1", "run_id": "run-1", "runbook": "x", "source": "arbitrum", "destination": "dydx",
            "route": route, "amount": Decimal(amount), "max_fee": Decimal(15), "expires_at": self.world.now_ns + 20 * NS,
        }  # fmt: skip
        return MoveBuffer(**(fields | changes))


async def test_errors_while_orders_land_answer_every_read_and_do_every_order() -> None:
    # Hyperliquid, 2025-07-29 14:10 to 14:47: the API answered errors while orders reached the book.
    world = to(world_of(shocks="[{at: 5s, kind: venue_error, status: 502, lands: true, for: 37m}]"), 10 * NS)
    wire = Wire(world)
    body = {
        "client_id": 7, "market": "BTC-USD", "side": "SELL", "size": "0.1", "limit_price": "90000", "reduce_only": True,
        "good_til": START + HOUR_NS,
    }  # fmt: skip
    assert (await wire.http.get("/v4/time")).status_code == 502
    for _ in range(2):  # sent again it is a duplicate, and the answer is no better
        assert (await wire.http.post("/sim/orders", json=body)).status_code == 502
    assert account_of(world).holdings["BTC-USD"].size == Decimal("0.9")
    assert (await wire.http.post("/sim/cancel", json={})).status_code == 502
    assert (await wire.http.get(f"/sim/orders/{ADDRESS}/0/7")).status_code == 502
    wire.gone_ns = 38 * MINUTE_NS
    found = (await wire.http.get(f"/sim/orders/{ADDRESS}/0/7")).json()
    assert (found["status"], found["filled_size"]) == ("FILLED", "0.1")
    assert account_of(world).holdings["BTC-USD"].size == Decimal("0.9")


async def test_a_transfer_whose_answer_was_an_error_is_found_by_its_id_and_made_once() -> None:
    wire = Wire(to(world_of(shocks="[{at: 5s, kind: error_after_accept, for: 1m}]"), 10 * NS))
    with pytest.raises(UnknownOutcome):
        await wire.edge.send(wire.move("hop"))
    found = await wire.edge.lookup(wire.move("hop"))
    assert found is not None
    assert (found.status, found.reason) == ("done", "in flight")
    again = await wire.edge.send(wire.move("hop"))
    assert again == found, "a duplicate is answered with what was done, undisturbed"
    assert wire.world.bridges.buffers["arbitrum"] == 49_000


async def test_an_unknown_id_stays_unknown_however_often_it_is_asked_for() -> None:
    wire = Wire(to(world_of(), NS))
    action = wire.move("hop")
    for _ in range(3):
        assert await wire.edge.lookup(action) is None
        wire.gone_ns += 40 * NS
    with pytest.raises(EdgeError) as caught:
        await wire.edge.send(action)
    assert (caught.value.reason, caught.value.retryable) == ("expired", True)
    assert await wire.edge.lookup(action) is None


# --- the wire --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("status", "outcome", "reason"),
    [
        ("REQUESTED", "unknown", "the transfer is REQUESTED"),
        ("DEBITED", "done", "in flight"),
        ("ATTESTED", "done", "in flight"),
        ("CREDITED", "done", "credited"),
        ("EXPIRED", "unknown", "the transfer is EXPIRED"),
        ("REFUNDED", "failed", "refunded: the route gave it back"),
        ("STUCK", "unknown", "the transfer is STUCK"),
        ("LOST", "unknown", "the transfer is LOST"),
        ("REJECTED", "failed", "never debited: the source chain did not take it"),
        ("TELEPORTED", "unknown", "the transfer is TELEPORTED"),
    ],
)
async def test_a_status_is_read_for_what_it_is_and_an_unknown_one_never_as_credited(status: str, outcome: str, reason: str) -> None:
    answer = {"client_id": "run-1.top-up.0.1", "status": status, "amount": "1000", "fee": "1"}
    wire = Wire(world_of())
    source = HttpSource(name="bridge", url="http://x", transport=httpx.MockTransport(lambda _: httpx.Response(200, json=answer)))
    edge = BridgeEdge(name="bridge", routes=["hop"], accounts=[], source=source)
    for found in (await edge.lookup(wire.move("hop")), await edge.send(wire.move("hop"))):
        assert isinstance(found, Outcome)
        assert (found.status, found.reason) == (outcome, reason)
    assert status in FINAL | FLYING | {"REQUESTED", "TELEPORTED"}


async def test_a_stuck_transfer_is_seen_over_the_wire_and_swept_there() -> None:
    world = to(world_of(NOBLE.replace("stuck: 0%", "stuck: 100%")), NS)
    wire = Wire(world)
    assert (await wire.edge.send(wire.move("noble"))).reason == "in flight"
    wire.gone_ns = 5 * HOUR_NS
    found = await wire.edge.lookup(wire.move("noble"))
    assert found is not None
    assert (found.status, found.reason) == ("unknown", "the transfer is STUCK")
    route = (await wire.http.get("/sim/routes")).json()["routes"]["noble"]
    assert (route["in_flight_usd"], route["stuck_usd"], route["locked"]) == ("1000", "1000", False)
    refused = await wire.http.post("/sim/release", json={"client_id": "nobody"})
    assert (refused.status_code, refused.json()["errors"][0]["reason"]) == (400, "unknown_transfer")
    swept = (await wire.http.post("/sim/release", json={"client_id": "run-1.top-up.0.1"})).json()
    assert swept["status"] == "ATTESTED"
    assert list(swept["times"]) == ["REQUESTED", "DEBITED", "STUCK", "ATTESTED"]


async def test_a_route_tells_its_fixed_fee_and_an_oracle_its_age() -> None:
    routes = "  out: {model: hl-withdraw, from: dydx, to: arbitrum}\n"
    wire = Wire(to(world_of(routes), 5 * NS))
    route = (await wire.http.get("/sim/routes")).json()["routes"]["out"]
    assert (route["fee"], route["fee_usd"], route["eta_s"], route["eta_p95_s"]) == ("0", "1", 210, 240)
    oracle = (await wire.http.get("/sim/oracles")).json()["oracles"]["BTC-USD"]
    assert oracle == {"kind": None, "price": "98000", "published_at": START + 5 * NS, "conf_usd": "0", "sources": 6}


# --- money -----------------------------------------------------------------------------------------------------------------------------

ROUTES = """
  a: {from: ethereum, to: dydx, eta: 20s, p95: 60s, fee: 10bps, gas: source, fails: 25%, expires_after: 45s, refund_after: 20s, refund_p95: 2m}
  b: {from: arbitrum, to: dydx, eta: 15s, p95: 40s, fee_usd: 0.3, via: noble, stuck: 30%, lost_below: 40, debit_after: 4s}
  c: {from: dydx, to: arbitrum, eta: 10s, p95: 30s, fee_usd: 1, fails: 20%, expires_after: 30s, refund_after: 1m, debit_after: 3s}
  d: {from: ethereum, to: arbitrum, eta: 5s, p95: 9s, gas: destination, expires_after: 2m, refund_after: 0s}
"""  # noqa: E501
SHOCKS = st.lists(
    st.one_of(
        st.builds(
            "{{at: {}s, kind: {}, route: {}, for: {}s}}".format,
            st.integers(0, 300), st.sampled_from(["bridge_stall", "bridge_lock"]), st.sampled_from("abcd"), st.integers(5, 200),
        ),
        st.builds("{{at: {}s, kind: route_stuck, route: b, for: {}s}}".format, st.integers(0, 300), st.integers(5, 200)),
        st.builds(
            "{{at: {}s, kind: {}, chain: arbitrum, for: {}s}}".format,
            st.integers(0, 300), st.sampled_from(["sequencer_stop", "empty_blocks", "congestion"]), st.integers(5, 200),
        ),
        st.builds("{{at: {}s, kind: finality_delay, chain: ethereum, to: 20m, for: {}s}}".format, st.integers(0, 300), st.integers(5, 200)),
        st.builds("{{at: {}s, kind: venue_halt, for: {}s}}".format, st.integers(0, 300), st.integers(5, 200)),
        st.builds("{{at: {}s, kind: route_capacity, route: a, to: 900 USD, for: {}s}}".format, st.integers(0, 300), st.integers(5, 200)),
    ),
    max_size=5,
)  # fmt: skip
MOVES = st.lists(
    st.tuples(
        st.integers(0, 12), st.sampled_from("abcd"), st.decimals(Decimal("0.5"), Decimal(3000), places=6), st.integers(0, 60),
        st.booleans(), st.sampled_from([1, 5, 100]),
    ),
    min_size=1, max_size=12,
)  # fmt: skip


@settings(max_examples=30, deadline=None)
@given(SHOCKS, MOVES)
def test_money_over_routes_is_conserved_and_a_transfer_ends_once_in_every_world(
    shocks: list[str], moves: list[tuple[int, str, Decimal, int, bool, int]]
) -> None:
    world = world_of(ROUTES, f"[{', '.join(shocks)}]", positions="[]", buffers="{ethereum: 4_000 USD, arbitrum: 4_000 USD}")
    asked: dict[str, str] = {}
    history: dict[str, list[str]] = {}
    now = 0

    def look() -> None:
        assert abs(money(world) - Decimal(58_000)) <= Decimal("0.000001")
        assert all(amount >= 0 for amount in world.bridges.buffers.values())
        for client_id, transfer in world.bridges.transfers.items():
            passed = history.setdefault(client_id, [])
            if not passed or passed[-1] != transfer.status:
                passed.append(transfer.status)

    for number, route, amount, pause, sweep, expires in moves:
        client_id = f"id{number}"
        before = client_id in world.bridges.transfers
        found = ask(world, route, client_id=client_id, amount=amount, expires=world.now_ns + expires * NS)
        again = ask(world, route, client_id=client_id, amount=amount, expires=world.now_ns + expires * NS)
        if isinstance(found, TransferState):
            assert again is found, "the same request is answered with the same transfer"
            asked.setdefault(client_id, route)
        else:
            assert isinstance(again, Refusal)
            assert again.reason == found.reason
            assert before == (client_id in world.bridges.transfers), "what was refused leaves no trace"
        for _ in range(pause):
            now += 1
            to(world, now * NS)
            look()
        if sweep:
            world.release(client_id, {})
            look()
    for _ in range(17):
        now += 60
        to(world, now * NS)
        look()
    for passed in history.values():
        assert sum(status in FINAL for status in passed) <= 1, passed
        assert not {"CREDITED", "REFUNDED"} <= set(passed)
        assert all(status not in FINAL for status in passed[:-1]), "a final status stays"
    stuck = {client_id for client_id, transfer in world.bridges.transfers.items() if transfer.status == "STUCK"}
    unfinished = {client_id for client_id, transfer in world.bridges.transfers.items() if transfer.status not in FINAL}
    assert unfinished <= stuck, "long after the last fault only what nobody swept is left"


@settings(max_examples=15, deadline=None)
@given(SHOCKS, MOVES)
def test_transfers_are_the_same_whatever_the_polling_pattern(
    shocks: list[str], moves: list[tuple[int, str, Decimal, int, bool, int]]
) -> None:
    worlds = [world_of(ROUTES, f"[{', '.join(shocks)}]", positions="[]") for _ in range(2)]
    now = 0
    for number, route, amount, pause, _, expires in moves:
        for i, world in enumerate(worlds):
            ask(world, route, client_id=f"id{number}", amount=amount, expires=world.now_ns + expires * NS)
            for step in range(pause + 1) if i == 0 else (pause,):
                to(world, (now + step) * NS)
        now += pause
    one, other = ({k: (t.status, t.times) for k, t in world.bridges.transfers.items()} for world in worlds)
    assert one == other
    assert account_of(worlds[0]).quote == account_of(worlds[1]).quote
