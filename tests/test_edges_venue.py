"""Venue and bridge against the simulated venue itself, and against written answers for what it cannot be made to say."""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import json
import math
from collections.abc import Callable
from decimal import Decimal
from typing import Any

import httpx
import pytest
from fastapi import FastAPI

from daemon.edges.bridge import BridgeEdge, BridgeFeed, BridgePlan
from daemon.edges.dydx.feed import DydxFeed, FeedPlan
from daemon.edges.dydx.venue import DydxVenue
from daemon.edges.http import HttpSource
from daemon.edges.protocol import WriteMarks
from daemon.edges.provides import BRIDGE
from daemon.engine.actions import CancelOrders, Halt, MoveBuffer, Notify, ShrinkPosition
from daemon.engine.answers import client_id
from daemon.errors import EdgeError, UnknownOutcome
from daemon.language.catalogue import CATALOGUE
from daemon.simulation.scenario import parse_scenario
from daemon.simulation.world import World
from daemon.units import NS, iso, parse_iso
from daemon.web.sim import SimulatedVenue, VenueClock
from daemon.world.entities import Account, Kind

STARTED = parse_iso("2026-02-03T17:00:00Z")
SCENARIO = """
scenario: edges
markets:
  HYPE-USD: {price: 33, tick: 0.001, step: 0.1, depth: 2_000_000 USD, initial_margin: 5%, maintenance_margin: 3%}
accounts:
  - address: dydx1reefdsim
    collateral: 50_000 USD
    positions: [{market: HYPE-USD, size: 1_000, entry_price: 32}]
    orders: [{market: HYPE-USD, side: BUY, size: 5, price: 20, client_id: 77}]
chains: {ethereum: {}, arbitrum: {rollup: true}}
buffers: {ethereum: 100_000 USD}
routes: {cctp: {from: ethereum, to: dydx, eta: 20m, p95: 30m, fee: 0.1%}}
proposals:
  - {id: 7, title: raise margins, messages: [/dydxprotocol.perpetuals.MsgSetLiquidityTier], at: -1h, voting: 4h}
"""
ACCOUNT = Account(id="dydx", venue="dydx", address="dydx1reefdsim")


class SteppedMonotonic:
    """A monotonic clock that the test moves."""

    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns


class Desk:
    """What the daemon would ask for, and a clock the test moves."""

    def __init__(self) -> None:
        self.monotonic = SteppedMonotonic()
        self.clock = VenueClock(started_ns=STARTED, speed=1.0, monotonic=self.monotonic)

    def now(self) -> int:
        return self.clock.now_ns()

    async def sleep(self, ns: int, /) -> None:
        self.monotonic.ns += ns

    def shrink(self, size: str = "250", price: str = "30", action_id: str = "run-1.shrink.0.1", **changes: Any) -> ShrinkPosition:
        action = ShrinkPosition(
            action_id=action_id,
            run_id="run-1",
            runbook="funding-spike",
            account="dydx",
            market="dydx:HYPE-USD",
            side="SELL",
            size=Decimal(size),
            limit_price=Decimal(price),
            reference_price=33.0,
            notional_usd=8250.0,
            expires_at=self.now() + 20 * NS,
        )
        return dataclasses.replace(action, **changes)

    def move(self, amount: str = "10000", action_id: str = "run-1.top-up@dydx:HYPE-USD.0.1", **changes: Any) -> MoveBuffer:
        action = MoveBuffer(
            action_id=action_id,
            run_id="run-1",
            runbook="margin-low",
            source="ethereum",
            destination="dydx",
            route="cctp",
            amount=Decimal(amount),
            max_fee=Decimal(15),
            expires_at=self.now() + 20 * NS,
        )
        return dataclasses.replace(action, **changes)

    def cancel(self, market: str | None = None) -> CancelOrders:
        return CancelOrders(
            action_id="run-1.cancel.0.1", run_id="run-1", runbook="x", account="dydx", market=market, expires_at=self.now() + 20 * NS
        )


class Stage(Desk):
    """The simulated venue in this process and the edges on it."""

    def __init__(self) -> None:
        super().__init__()
        world = World(parse_scenario(SCENARIO, "scenario.yaml"), seed=1, started_ns=STARTED)
        self.app: FastAPI = SimulatedVenue(world=world, clock=self.clock).app
        self.marks = WriteMarks()
        self.feed = DydxFeed(FeedPlan(venue="dydx", markets=("HYPE-USD",), accounts=(ACCOUNT,)), source=self.source("/v4"), clock=self)
        self.venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=self.source("/v4"), orders=self.source(""), marks=self.marks)
        plan = BridgePlan(chains=("ethereum", "arbitrum"), routes=("cctp",), venue="dydx")
        self.eyes = BridgeFeed(plan, source=self.source(""), clock=self)
        self.bridge = BridgeEdge(name="bridge", routes=["cctp"], accounts=[ACCOUNT], source=self.source(""), marks=self.marks)

    def source(self, path: str) -> HttpSource:
        return HttpSource(name="dydx", url=f"http://venue{path}", transport=httpx.ASGITransport(app=self.app))

    async def read(self, kind: Kind, entity: str) -> dict[str, float]:
        found: dict[str, float] = {}
        for poll in (*self.feed.polls, *self.eyes.polls):
            for row in await poll.fetch():
                if (row.kind, row.entity) == (kind, entity):
                    found |= row.values
        return found

    async def post(self, path: str, body: dict[str, Any]) -> None:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=self.app)) as client:
            response = await client.post(f"http://venue{path}", json=body)
        assert response.status_code == 200, response.text


@pytest.fixture
def stage() -> Stage:
    return Stage()


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_client_id_is_the_first_32_bits_of_the_action_id() -> None:
    assert client_id("run-1.shrink.0.1") == int(hashlib.sha256(b"run-1.shrink.0.1").hexdigest()[:8], 16)


async def test_shrink_is_filled_and_shows_in_the_account(stage: Stage) -> None:
    before = await stage.read(Kind.POSITION, "dydx:HYPE-USD")
    outcome = await stage.venue.send(stage.shrink())
    after = await stage.read(Kind.POSITION, "dydx:HYPE-USD")
    assert (outcome.status, outcome.filled_size) == ("done", Decimal(250))
    assert outcome.fill_price is not None
    assert outcome.fee_usd is not None
    assert outcome.fee_usd > 0
    assert outcome.reference
    assert (before["size"], after["size"]) == (1000.0, 750.0)


async def test_equity_from_the_rows_is_what_the_venue_reports(stage: Stage) -> None:
    await stage.venue.send(stage.shrink())
    account, position = await stage.read(Kind.ACCOUNT, "dydx"), await stage.read(Kind.POSITION, "dydx:HYPE-USD")
    oracle = (await stage.read(Kind.MARKET, "dydx:HYPE-USD"))["oracle_price"]
    body: Any = await stage.source("/v4").get("/addresses/dydx1reefdsim/subaccountNumber/0")
    equity = account["collateral"] + position["size"] * (oracle - position["entry_price"])
    assert equity == pytest.approx(float(body["subaccount"]["equity"]), abs=0.01)


async def test_order_sent_twice_is_filled_once(stage: Stage) -> None:
    action = stage.shrink()
    first, second = await stage.venue.send(action), await stage.venue.send(action)
    assert first == second
    assert (await stage.read(Kind.POSITION, "dydx:HYPE-USD"))["size"] == 750.0


async def test_lookup_finds_what_was_sent_and_nothing_else(stage: Stage) -> None:
    action = stage.shrink()
    assert await stage.venue.lookup(action) is None
    sent = await stage.venue.send(action)
    assert await stage.venue.lookup(action) == sent
    assert await stage.venue.lookup(stage.shrink(action_id="run-1.shrink.1.1")) is None
    # another order of ours that happens to carry the same 32 bits is not this one
    assert await stage.venue.lookup(dataclasses.replace(action, expires_at=action.expires_at + 1)) is None
    assert await stage.venue.lookup(dataclasses.replace(action, size=Decimal(10))) is None


async def test_order_that_the_book_cannot_fill_is_failed_and_did_nothing(stage: Stage) -> None:
    action = stage.shrink(price="50")
    outcome = await stage.venue.send(action)
    assert (outcome.status, outcome.filled_size) == ("failed", Decimal(0))
    assert outcome.reason.startswith("no_fill")
    assert await stage.venue.lookup(action) == outcome


async def test_shrink_without_a_position_is_rejected_with_the_venues_reason(stage: Stage) -> None:
    with pytest.raises(EdgeError) as caught:
        await stage.venue.send(stage.shrink(side="BUY", price="40"))
    assert not isinstance(caught.value, UnknownOutcome)
    assert (caught.value.reason, caught.value.retryable) == ("reduce_only_would_increase", False)


async def test_expired_order_is_refused_and_may_be_tried_again(stage: Stage) -> None:
    action = stage.shrink()
    stage.monotonic.ns += 21 * NS
    with pytest.raises(EdgeError) as caught:
        await stage.venue.send(action)
    assert (caught.value.reason, caught.value.retryable) == ("expired", True)
    assert await stage.venue.lookup(action) is None


async def test_error_after_the_order_was_taken_is_unknown_and_found_by_lookup(stage: Stage) -> None:
    await stage.post("/sim/shocks", {"kind": "error_after_accept", "for": "1m", "count": 1})
    stage.monotonic.ns += NS
    action = stage.shrink()
    with pytest.raises(UnknownOutcome):
        await stage.venue.send(action)
    found = await stage.venue.lookup(action)
    assert found is not None
    assert (found.status, found.filled_size) == ("done", Decimal(250))


async def test_error_that_did_nothing_is_unknown_until_the_venue_says_so(stage: Stage) -> None:
    await stage.post("/sim/shocks", {"kind": "venue_error", "for": "10s", "status": 503})
    stage.monotonic.ns += NS
    action = stage.shrink()
    with pytest.raises(UnknownOutcome):
        await stage.venue.send(action)
    with pytest.raises(EdgeError, match="503"):
        await stage.venue.lookup(action)
    stage.monotonic.ns += 10 * NS
    assert await stage.venue.lookup(action) is None


async def test_cancel_removes_the_open_orders_and_is_known_by_there_being_none(stage: Stage) -> None:
    action = stage.cancel("dydx:HYPE-USD")
    assert (await stage.read(Kind.ACCOUNT, "dydx"))["open_orders"] == 1.0
    assert await stage.venue.lookup(action) is None
    outcome = await stage.venue.send(action)
    assert (outcome.status, outcome.reason) == ("done", "1 canceled")
    found = await stage.venue.lookup(action)
    assert found is not None
    assert found.status == "done"
    assert (await stage.read(Kind.ACCOUNT, "dydx"))["open_orders"] == 0.0


async def test_account_without_an_order_api_is_read_only(stage: Stage) -> None:
    venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=stage.source("/v4"), orders=None)
    for action in (stage.shrink(), stage.cancel()):
        outcome = await venue.send(action)
        assert (outcome.status, outcome.reason) == ("rejected", "signing is not configured: dydx is read-only here")
    with pytest.raises(EdgeError):
        await venue.lookup(stage.shrink())


async def test_edges_take_only_what_is_theirs(stage: Stage) -> None:
    halt = Halt(action_id="a", run_id="r", runbook="b", kind="position", entity="dydx:HYPE-USD")
    notify = Notify(action_id="a", run_id="r", runbook="b", to=("desk",), event="fired", severity="info", text="")
    others = [halt, notify, stage.shrink(account="hyperliquid"), stage.move(route="across")]
    assert [stage.venue.takes(action) for action in (stage.shrink(), stage.cancel(), stage.move(), *others)] == [True, True] + [False] * 5
    assert [stage.bridge.takes(action) for action in (stage.move(), stage.shrink(), *others)] == [True] + [False] * 5


async def test_every_settled_write_leaves_a_mark(stage: Stage) -> None:
    await stage.venue.send(stage.shrink())
    await stage.venue.lookup(stage.shrink(action_id="never sent"))
    assert stage.marks.count("dydx") == 1
    with pytest.raises(EdgeError):
        await stage.venue.send(stage.shrink(side="BUY"))
    await stage.bridge.send(stage.move())
    assert stage.marks.count("dydx") == 3


async def test_transfer_is_debited_once_and_credited_at_the_account(stage: Stage) -> None:
    action = stage.move()
    assert await stage.bridge.lookup(action) is None
    collateral = (await stage.read(Kind.ACCOUNT, "dydx"))["collateral"]
    outcome, again = await stage.bridge.send(action), await stage.bridge.send(action)
    assert outcome == again
    assert (outcome.status, outcome.reason, outcome.amount, outcome.fee_usd) == ("done", "in flight", Decimal(10000), Decimal(10))
    assert (await stage.read(Kind.CHAIN, "ethereum"))["buffer_balance"] == 90_000.0
    assert (await stage.read(Kind.ROUTE, "cctp"))["in_flight"] == 10_000.0
    stage.monotonic.ns += 7200 * NS
    found = await stage.bridge.lookup(action)
    assert found is not None
    assert (found.status, found.reason) == ("done", "credited")
    assert (await stage.read(Kind.ROUTE, "cctp"))["in_flight"] == 0.0
    # two hours of funding are in it too, at most a few dollars of it
    assert (await stage.read(Kind.ACCOUNT, "dydx"))["collateral"] == pytest.approx(collateral + 9_990, abs=20)


@pytest.mark.parametrize(("amount", "max_fee", "reason"), [("200000", "500", "balance"), ("10000", "5", "fee")])
async def test_transfer_that_the_route_refuses_is_rejected(stage: Stage, amount: str, max_fee: str, reason: str) -> None:
    action = stage.move(amount, max_fee=Decimal(max_fee))
    with pytest.raises(EdgeError) as caught:
        await stage.bridge.send(action)
    assert (caught.value.reason, caught.value.retryable) == (reason, False)
    assert await stage.bridge.lookup(action) is None


async def test_transfer_lost_after_it_was_taken_is_found_by_lookup(stage: Stage) -> None:
    await stage.post("/sim/shocks", {"kind": "error_after_accept", "for": "1m"})
    stage.monotonic.ns += NS
    action = stage.move()
    with pytest.raises(UnknownOutcome):
        await stage.bridge.send(action)
    found = await stage.bridge.lookup(action)
    assert found is not None
    assert found.status == "done"


async def test_chains_routes_and_governance_become_rows(stage: Stage) -> None:
    stage.monotonic.ns += 60 * NS
    ethereum, arbitrum = await stage.read(Kind.CHAIN, "ethereum"), await stage.read(Kind.CHAIN, "arbitrum")
    assert 0 <= ethereum["block_age"] <= 15
    assert ethereum["buffer_balance"] == 100_000.0
    assert "sequencer_up" not in ethereum
    assert arbitrum["sequencer_up"] == 1.0
    route, venue = await stage.read(Kind.ROUTE, "cctp"), await stage.read(Kind.VENUE, "dydx")
    assert (route["route_open"], route["route_eta"], route["route_eta_slow"]) == (1.0, 1200.0, 1800.0)
    assert route["route_fee"] == pytest.approx(0.001)
    assert (venue["proposal_open"], venue["proposal_touches_risk"]) == (1.0, 1.0)
    assert venue["proposal_ends_in"] == pytest.approx(3 * 3600 - 60, abs=1.5)
    assert (venue["withdrawals_open"], venue["venue_up"]) == (1.0, 1.0)
    for kind, names in BRIDGE.items():
        assert all(CATALOGUE[kind, name].role == "observed" for name in names)


async def test_stopped_sequencer_and_stalled_bridge_are_seen(stage: Stage) -> None:
    await stage.post("/sim/shocks", {"kind": "sequencer_stop", "for": "10m", "chain": "arbitrum"})
    await stage.post("/sim/shocks", {"kind": "bridge_stall", "for": "10m", "route": "cctp"})
    stage.monotonic.ns += 60 * NS
    arbitrum = await stage.read(Kind.CHAIN, "arbitrum")
    assert arbitrum["sequencer_up"] == 0.0
    assert arbitrum["block_age"] > 50
    assert (await stage.read(Kind.ROUTE, "cctp"))["route_open"] == 0.0


async def test_history_of_the_simulated_venue_warms_every_window(stage: Stage) -> None:
    rows = await stage.feed.history()
    funding = [row for row in rows if "funding_rate" in row.values]
    closes = [row for row in rows if "last_price" in row.values]
    assert len(funding) >= 8 * 24 - 1
    assert len(closes) >= 25 * 60 - 2
    assert all(row.event_ts is not None and row.event_ts <= stage.now() for row in rows)


# --- answers that the simulated venue does not give ----------------------------------------------------------------------------------


def answering(answer: Callable[[httpx.Request], httpx.Response]) -> HttpSource:
    return HttpSource(name="dydx", url="http://venue", transport=httpx.MockTransport(answer))


def order_body(**changes: Any) -> dict[str, Any]:
    body = {
        "id": "9f", "client_id": 1, "market": "HYPE-USD", "side": "SELL", "size": "250", "good_til": 0, "status": "FILLED",
        "filled_size": "250", "average_price": "32.95", "fee_usd": "4.11", "reason": "",
    }  # fmt: skip
    return body | changes


@pytest.mark.parametrize(
    ("changes", "status", "filled"),
    [
        ({}, "done", Decimal(250)),
        ({"status": "CANCELED", "filled_size": "100", "reason": "limit_price"}, "done", Decimal(100)),
        ({"status": "CANCELED", "filled_size": "0", "average_price": None}, "failed", Decimal(0)),
        ({"status": "OPEN", "filled_size": "0", "average_price": None}, "unknown", None),
    ],
)
async def test_order_status_becomes_an_outcome(desk: Desk, changes: dict[str, Any], status: str, filled: Decimal | None) -> None:
    source = answering(lambda _: httpx.Response(200, json=order_body(**changes)))
    venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=source, orders=source)
    outcome = await venue.send(desk.shrink())
    assert (outcome.status, outcome.filled_size) == (status, filled)


@pytest.mark.parametrize(
    "body", [{}, [], {"id": "x"}, order_body(filled_size="much"), order_body(filled_size="NaN"), order_body(good_til=None)]
)
async def test_answer_that_cannot_be_read_is_unknown_after_a_send_and_an_error_after_a_lookup(desk: Desk, body: Any) -> None:
    source = answering(lambda _: httpx.Response(200, json=body))
    venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=source, orders=source)
    with pytest.raises(UnknownOutcome):
        await venue.send(desk.shrink())
    with pytest.raises(EdgeError) as caught:
        await venue.lookup(desk.shrink())
    assert not isinstance(caught.value, UnknownOutcome)


async def test_request_says_everything_the_venue_must_check(desk: Desk) -> None:
    sent: list[dict[str, Any]] = []

    def answer(request: httpx.Request) -> httpx.Response:
        sent.append(json.loads(request.content))
        return httpx.Response(200, json=order_body())

    source = answering(answer)
    action = desk.shrink(size="0.0000001", price="1E+3")
    await DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=source, orders=source).send(action)
    assert sent == [
        {
            "address": "dydx1reefdsim",
            "subaccount": 0,
            "client_id": client_id(action.action_id),
            "market": "HYPE-USD",
            "side": "SELL",
            "size": "0.0000001",
            "limit_price": "1000",
            "reduce_only": True,
            "time_in_force": "IOC",
            "good_til": action.expires_at,
        }
    ]


async def test_connection_that_breaks_after_the_request_is_unknown(desk: Desk) -> None:
    async def drop(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(drop, "127.0.0.1", 0)
    source = HttpSource(name="dydx", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=source, orders=source)
    with pytest.raises(UnknownOutcome):
        await venue.send(desk.shrink())
    await source.close()
    server.close()
    await server.wait_closed()


async def test_port_where_nobody_listens_is_retryable(desk: Desk) -> None:
    server = await asyncio.start_server(lambda reader, writer: None, "127.0.0.1", 0)
    source = HttpSource(name="dydx", url=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}")
    server.close()
    await server.wait_closed()
    venue = DydxVenue(venue="dydx", accounts=[ACCOUNT], indexer=source, orders=source)
    with pytest.raises(EdgeError) as caught:
        await venue.send(desk.shrink())
    assert not isinstance(caught.value, UnknownOutcome)
    assert (caught.value.reason, caught.value.retryable) == ("unreachable", True)
    await source.close()


@pytest.mark.parametrize(("status", "outcome"), [("EXPIRED", "unknown"), ("REFUNDED", "failed"), ("CREDITED", "done"), ("DEBITED", "done")])
async def test_transfer_status_becomes_an_outcome(desk: Desk, status: str, outcome: str) -> None:
    body = {"client_id": "x", "status": status, "amount": "10000", "fee": "10"}
    source = answering(lambda _: httpx.Response(200, json=body))
    bridge = BridgeEdge(name="bridge", routes=["cctp"], accounts=[ACCOUNT], source=source)
    found = await bridge.lookup(desk.move())
    assert found is not None
    assert found.status == outcome


async def test_action_id_survives_the_path_of_a_lookup(desk: Desk) -> None:
    asked: list[bytes] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.raw_path)
        return httpx.Response(404, json={"errors": [{"msg": "no"}]})

    bridge = BridgeEdge(name="bridge", routes=["cctp"], accounts=[ACCOUNT], source=answering(answer))
    assert await bridge.lookup(desk.move(action_id="run#1/top up.0.1")) is None
    assert asked == [b"/sim/transfers/run%231%2Ftop%20up.0.1"]


@pytest.mark.parametrize(
    ("messages", "touches"),
    [
        (["/dydxprotocol.clob.MsgUpdateLiquidationsConfig"], 1.0),
        (["/cosmos.distribution.v1beta1.MsgCommunityPoolSpend"], 0.0),
        (["/cosmos.bank.v1beta1.MsgSend", "/cosmos.upgrade.v1beta1.MsgSoftwareUpgrade"], 1.0),
    ],
)
async def test_proposals_in_voting_are_told_apart(desk: Desk, messages: list[str], touches: float) -> None:
    def proposal(status: str, hours: int) -> dict[str, Any]:
        ends = iso(desk.now() + hours * 3600 * NS)
        return {"id": "1", "messages": [{"@type": name} for name in messages], "status": status, "voting_end_time": ends}

    voting, passed = proposal("PROPOSAL_STATUS_VOTING_PERIOD", 5), proposal("PROPOSAL_STATUS_PASSED", -5)
    feed = BridgeFeed(
        BridgePlan(venue="dydx"), source=answering(lambda _: httpx.Response(200, json={"proposals": [passed, voting]})), clock=desk
    )
    [row] = await feed.fetch_proposals()
    assert row.values == {"proposal_open": 1.0, "proposal_touches_risk": touches, "proposal_ends_in": pytest.approx(5 * 3600)}
    feed = BridgeFeed(BridgePlan(venue="dydx"), source=answering(lambda _: httpx.Response(200, json={"proposals": [passed]})), clock=desk)
    [row] = await feed.fetch_proposals()
    assert (row.values["proposal_open"], row.values["proposal_touches_risk"]) == (0.0, 0.0)
    assert math.isnan(row.values["proposal_ends_in"])


@pytest.mark.parametrize("body", [[], {}, {"chains": []}, {"chains": {"ethereum": {"block_time": "now"}}}])
async def test_wrong_shape_of_chains_is_one_edge_error(desk: Desk, body: Any) -> None:
    source = answering(lambda request: httpx.Response(200, json=body if request.url.path.endswith("chains") else {"buffers": {}}))
    with pytest.raises(EdgeError) as caught:
        await BridgeFeed(BridgePlan(chains=("ethereum",)), source=source, clock=desk).fetch_chains()
    assert caught.value.reason == "wrong_shape"
