"""The simulated venue over HTTP: the indexer's paths and shapes, its refusals, and the state API; read by a third-party client too."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from typing import Any

import httpx
import pytest
import pytest_asyncio
from sim_world import ADDRESS, HYPERLIQUID, START, still_text

from daemon.edges.dydx import wire
from daemon.simulation.paths import HISTORY_H
from daemon.simulation.scenario import parse_scenario
from daemon.simulation.world import World
from daemon.units import DAY_NS, HOUR_NS, NS, iso, parse_iso
from daemon.web.listening import bind
from daemon.web.sim import SimulatedVenue, VenueClock, server


class Venue:
    """A venue in this process, on a clock that the test moves."""

    def __init__(self, text: str, *, speed: float = 1.0, history_h: int = 2) -> None:
        self.real_ns = 0
        scenario = parse_scenario(text, "test.yaml")
        self.world = World(scenario, seed=scenario.seed, started_ns=START, history_h=history_h)
        clock = VenueClock(started_ns=START, speed=speed, monotonic=lambda: self.real_ns)
        transport = httpx.ASGITransport(app=SimulatedVenue(world=self.world, clock=clock).app)
        self.http = httpx.AsyncClient(transport=transport, base_url="http://venue")

    def to(self, ns: int) -> None:
        """Moves real time on to `ns` after the start."""
        self.real_ns = ns

    async def get(self, path: str, **params: Any) -> Any:
        """The body of a GET that must succeed."""
        answer = await self.http.get(path, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def order(self, **changes: Any) -> dict[str, Any]:
        """The body of a reduce-only IOC sale, with changes."""
        return {
            "address": ADDRESS, "subaccount": 0, "client_id": 7, "market": "BTC-USD", "side": "SELL", "size": "0.1", "limit_price": "97000",
            "reduce_only": True, "time_in_force": "IOC", "good_til": START + self.real_ns + 20 * NS,
        } | changes  # fmt: skip


@pytest_asyncio.fixture
async def long_venue() -> AsyncIterator[Venue]:
    """A venue with the whole history that a served one has."""
    made = Venue(still_text(), history_h=HISTORY_H)
    yield made
    await made.http.aclose()


@pytest_asyncio.fixture
async def venue() -> AsyncIterator[Venue]:
    made = Venue(still_text(positions="[{market: BTC-USD, size: 1}, {market: ETH-USD, size: -5}]"))
    yield made
    await made.http.aclose()


ACCOUNT = {"address": ADDRESS, "subaccountNumber": 0}


# --- shapes ----------------------------------------------------------------------------------------------------------------------------


async def test_markets_book_and_account_have_the_indexers_shapes(venue: Venue) -> None:
    markets = wire.parse_markets(await venue.get("/v4/perpetualMarkets", unknown="ignored"))
    assert set(markets) == {"BTC-USD", "ETH-USD"}
    assert (markets["BTC-USD"].status, markets["BTC-USD"].initial_margin) == ("ACTIVE", 0.02)
    assert set(wire.parse_markets(await venue.get("/v4/perpetualMarkets", ticker="ETH-USD"))) == {"ETH-USD"}
    book = wire.parse_orderbook(await venue.get("/v4/orderbooks/perpetualMarket/BTC-USD"))
    assert 1 <= len(book.bids) <= 100
    assert book.bids[0][0] < book.asks[0][0]
    body = await venue.get(f"/v4/addresses/{ADDRESS}/subaccountNumber/0")
    subaccount = wire.parse_subaccount(body)
    assert body["subaccount"]["openPerpetualPositions"]["ETH-USD"]["size"] == "-5"
    assert subaccount.equity == 50_000
    assert subaccount.assets["USDC"].size == 50_000 - 98_000 + 5 * 4_100
    assert subaccount.free_collateral == pytest.approx(50_000 - 0.02 * (98_000 + 20_500))
    positions = wire.parse_positions(await venue.get("/v4/perpetualPositions", **ACCOUNT, status="OPEN"))
    assert {p.market: p.size for p in positions} == {"BTC-USD": 1.0, "ETH-USD": -5.0}
    assert wire.parse_asset_positions(await venue.get("/v4/assetPositions", **ACCOUNT))[0].symbol == "USDC"
    parent = await venue.get(f"/v4/addresses/{ADDRESS}/parentSubaccountNumber/0")
    assert parent["subaccount"]["equity"] == "50000"
    assert len((await venue.get(f"/v4/addresses/{ADDRESS}"))["subaccounts"]) == 1


async def test_orders_are_a_bare_array_and_histories_are_enveloped(venue: Venue) -> None:
    await venue.http.post("/sim/orders", json=venue.order())
    orders = wire.parse_orders(await venue.get("/v4/orders", **ACCOUNT))
    assert [(o.client_id, o.status, o.reduce_only) for o in orders] == [(7, "FILLED", True)]
    assert wire.parse_orders(await venue.get("/v4/orders", **ACCOUNT, status="OPEN,CANCELED")) == ()
    assert (await venue.get(f"/v4/orders/{orders[0].id}"))["id"] == orders[0].id
    fills = wire.parse_fills(await venue.get("/v4/fills", **ACCOUNT))
    assert sum(f.size for f in fills) == orders[0].total_filled
    venue.to(25 * 60 * NS)
    payments = wire.parse_funding_payments(await venue.get("/v4/fundingPayments", **ACCOUNT))
    assert {p.ticker for p in payments} == {"BTC-USD", "ETH-USD"}
    paged = await venue.get("/v4/fundingPayments", **ACCOUNT, limit=1, page=2)
    assert (paged["pageSize"], paged["totalResults"], paged["offset"], len(paged["fundingPayments"])) == (1, 2, 1, 1)


async def test_time_is_in_seconds_and_height_is_the_blocks(venue: Venue) -> None:
    venue.to(90 * NS + 250_000_000)
    body = await venue.get("/v4/time")
    assert body == {"iso": iso(START + 90 * NS + 250_000_000), "epoch": (START + 90 * NS + 250_000_000) / NS}
    height = wire.parse_height(await venue.get("/v4/height"))
    assert height.at == START + 90 * NS
    venue.to(100 * NS)
    assert wire.parse_height(await venue.get("/v4/height")).height == height.height + 10


async def test_funding_history_is_newest_first_pages_back_and_covers_eight_days(long_venue: Venue) -> None:
    rows = wire.parse_funding(await long_venue.get("/v4/historicalFunding/BTC-USD"))
    assert [r.effective_at for r in rows] == sorted((r.effective_at for r in rows), reverse=True)
    assert START - rows[-1].effective_at >= 8 * DAY_NS
    assert START - rows[0].effective_at < HOUR_NS
    page = wire.parse_funding(
        await long_venue.get("/v4/historicalFunding/BTC-USD", limit=3, effectiveBeforeOrAt=iso(rows[5].effective_at), ticker="x")
    )
    assert page == rows[5:8]
    by_height = await long_venue.get("/v4/historicalFunding/BTC-USD", limit=1, effectiveBeforeOrAtHeight=rows[5].effective_at_height)
    assert wire.parse_funding(by_height) == (rows[5],)


async def test_candles_are_newest_first_consistent_across_resolutions_and_bounded_by_time(long_venue: Venue) -> None:
    path = "/v4/candles/perpetualMarkets/BTC-USD"
    minutes = wire.parse_candles(await long_venue.get(path, resolution="1MIN"))
    assert len(minutes) == 1000
    starts = [c.started_at for c in minutes]
    assert starts == list(range(starts[0], starts[0] - 1000 * 60 * NS, -60 * NS))
    assert starts[0] % (60 * NS) == 0
    since, until = START - 27 * HOUR_NS, START - 26 * HOUR_NS
    old = wire.parse_candles(await long_venue.get(path, resolution="1MIN", fromISO=iso(since), toISO=iso(until)))
    assert len(old) == 60
    assert {since <= c.started_at < until for c in old} == {True}
    [hour] = wire.parse_candles(await long_venue.get(path, resolution="1HOUR", limit=1, toISO=iso(until)))
    bounds = {"fromISO": iso(hour.started_at), "toISO": iso(hour.started_at + HOUR_NS)}
    inside = wire.parse_candles(await long_venue.get(path, resolution="1MIN", **bounds))
    assert len(inside) == 60
    assert (hour.high, hour.low) == (max(c.high for c in inside), min(c.low for c in inside))
    assert (hour.open, hour.close) == (inside[-1].open, inside[0].close)
    assert len(wire.parse_candles(await long_venue.get(path, resolution="1DAY"))) in (9, 10)


# --- refusals --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "params", "status", "message"),
    [
        ("/v4/addresses/dydx1nobody/subaccountNumber/3", {}, 404, "No subaccount found with address dydx1nobody and subaccountNumber 3"),
        ("/v4/perpetualPositions", {"address": "dydx1nobody", "subaccountNumber": 0}, 404, "No subaccount found"),
        ("/v4/orders", {"address": ADDRESS}, 400, "subaccountNumber must be a non-negative integer less than 128001"),
        ("/v4/orders", {"subaccountNumber": 0}, 400, "address must be a valid dydx address"),
        ("/v4/candles/perpetualMarkets/BTC-USD", {}, 400, "resolution must be a valid Candle Resolution"),
        ("/v4/candles/perpetualMarkets/BTC-USD", {"resolution": "2MINS"}, 400, "resolution must be a valid Candle Resolution"),
        ("/v4/historicalFunding/BTC-USD", {"limit": 1001}, 400, "limit must be a positive integer that is not greater than max: 1000"),
        ("/v4/historicalFunding/BTC-USD", {"effectiveBeforeOrAt": "yesterday"}, 400, "Invalid value"),
        ("/v4/orderbooks/perpetualMarket/NOSUCH-USD", {}, 400, "ticker must be a valid ticker (BTC-USD, etc)"),
        ("/v4/perpetualMarkets", {"ticker": "NOSUCH-USD"}, 400, "ticker must be a valid ticker (BTC-USD, etc)"),
        ("/v4/nothing", {}, 404, "Cannot GET /v4/nothing"),
    ],
)
async def test_a_wrong_request_gets_the_indexers_status_and_text(
    venue: Venue, path: str, params: dict[str, Any], status: int, message: str
) -> None:
    answer = await venue.http.get(path, params=params)
    assert answer.status_code == status
    assert message in wire.parse_errors(answer.json())


async def test_the_rate_limit_counts_in_the_venues_time_and_retry_after_is_in_milliseconds() -> None:
    venue = Venue(still_text(), speed=60.0)
    for _ in range(100):
        answer = await venue.http.get("/v4/height")
        assert answer.status_code == 200
    assert answer.headers["RateLimit-Remaining"] == "0"
    venue.to(50_000_000)  # three seconds of the venue's time
    refused = await venue.http.get("/v4/height")
    assert refused.status_code == 429
    assert wire.parse_errors(refused.json()) == "Too many requests"
    assert refused.headers["Retry-After"] == "7000"
    assert int(refused.headers["RateLimit-Reset"]) == (START + 10 * NS) // 1_000_000
    assert (await venue.http.get("/v4/candles/perpetualMarkets/BTC-USD", params={"resolution": "1MIN", "limit": 1})).status_code == 200
    assert (await venue.http.get("/sim/clock")).status_code == 200
    venue.to(50_000_000 + 7 * NS // 60 + 1_000_000)
    assert (await venue.http.get("/v4/height")).status_code == 200


async def test_a_rate_limit_shock_lets_fewer_requests_through() -> None:
    venue = Venue(still_text(shocks="[{at: 0s, kind: rate_limit, to: 3, for: 1m}]"))
    assert [(await venue.http.get("/v4/time")).status_code for _ in range(5)] == [200, 200, 200, 429, 429]


# --- the state API ---------------------------------------------------------------------------------------------------------------------


async def test_an_order_is_filled_found_and_not_doubled(venue: Venue) -> None:
    first = await venue.http.post("/sim/orders", json=venue.order())
    assert first.status_code == 200
    assert (first.json()["status"], first.json()["filled_size"], first.json()["duplicate"]) == ("FILLED", "0.1", False)
    again = await venue.http.post("/sim/orders", json=venue.order())
    assert again.json() == first.json() | {"duplicate": True}
    assert await venue.get(f"/sim/orders/{ADDRESS}/0/7") == first.json()
    assert (await venue.http.get(f"/sim/orders/{ADDRESS}/0/8")).status_code == 404
    book = await venue.get("/v4/orderbooks/perpetualMarket/BTC-USD")
    assert float(book["bids"][0]["price"]) <= float(first.json()["average_price"])
    entries = (await venue.get("/sim/log", kind="order"))["entries"]
    assert [(e["client_id"], e["outcome"], e["reply"]) for e in entries] == [("7", "executed", "sent"), ("7", "duplicate", "sent")]
    assert (await venue.get("/sim/log", after=entries[0]["seq"], kind="order"))["entries"] == entries[1:]


async def test_a_printed_book_is_renewed_when_an_order_takes_from_it(venue: Venue) -> None:
    before = await venue.get("/v4/orderbooks/perpetualMarket/BTC-USD")
    await venue.http.post("/sim/orders", json=venue.order())
    after = await venue.get("/v4/orderbooks/perpetualMarket/BTC-USD")
    assert float(before["bids"][0]["size"]) - float(after["bids"][0]["size"]) == pytest.approx(0.1)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"client_id": -1}, "body"),
        ({"client_id": 1 << 32}, "body"),
        ({"size": "a lot"}, "body"),
        ({"side": "HOLD"}, "body"),
        ({"size": "0.00001"}, "size"),
        ({"time_in_force": "GTT"}, "reduce_only_not_ioc"),
        ({"side": "BUY", "limit_price": "99000"}, "reduce_only_would_increase"),
        ({"good_til": START - 1}, "expired"),
    ],
)
async def test_a_refused_order_is_a_400_with_a_reason_and_leaves_no_trace(venue: Venue, changes: dict[str, Any], reason: str) -> None:
    answer = await venue.http.post("/sim/orders", json=venue.order(**changes))
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["reason"] == reason
    assert (await venue.get("/v4/orders", **ACCOUNT)) == []


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b"\xff\xfe", b"[" * 50_000, b'{"client_id": 1e400}'])
async def test_a_body_that_is_no_order_is_a_400(venue: Venue, body: bytes) -> None:
    answer = await venue.http.post("/sim/orders", content=body)
    assert answer.status_code == 400
    assert answer.json()["errors"]


async def test_an_error_after_accept_is_a_500_for_an_order_that_was_done() -> None:
    venue = Venue(still_text(shocks="[{at: 0s, kind: error_after_accept, count: 1, for: 1m}]"))
    answer = await venue.http.post("/sim/orders", json=venue.order())
    assert answer.status_code == 500
    assert (await venue.get(f"/sim/orders/{ADDRESS}/0/7"))["filled_size"] == "0.1"
    assert (await venue.http.post("/sim/orders", json=venue.order(client_id=8))).status_code == 200
    assert [e["reply"] for e in (await venue.get("/sim/log", kind="order"))["entries"]] == ["error", "sent"]


async def test_a_venue_error_does_nothing_and_the_observers_paths_still_answer() -> None:
    venue = Venue(still_text(shocks="[{at: 10s, kind: venue_error, status: 502, for: 1m}]"))
    venue.to(20 * NS)
    assert (await venue.http.get("/v4/height")).status_code == 502
    assert (await venue.http.post("/sim/orders", json=venue.order())).status_code == 502
    assert (await venue.get("/sim/log"))["entries"] == []
    venue.to(80 * NS)
    assert (await venue.http.get("/v4/height")).status_code == 200


async def test_a_transfer_over_http_is_done_once_found_and_seen_by_the_indexer(venue: Venue) -> None:
    body = {"client_id": "run-1.top-up.0.1", "route": "cctp", "amount": "1000", "expires": START + 20 * NS}
    first = (await venue.http.post("/sim/transfers", json=body)).json()
    assert (first["status"], first["fee"], first["from"], first["to"]) == ("DEBITED", "1", "ethereum", "dydx")
    again = (await venue.http.post("/sim/transfers", json=body)).json()
    assert again["duplicate"] is True
    assert (await venue.get("/sim/buffers"))["buffers"] == {"ethereum": "49000"}
    assert (await venue.get("/sim/routes"))["routes"]["cctp"]["in_flight_usd"] == "1000"
    venue.to(600 * NS)
    found = await venue.get("/sim/transfers/run-1.top-up.0.1")
    assert found["status"] == "CREDITED"
    assert found["credited_at"] == found["expected_at"]
    [seen] = wire.parse_transfers(await venue.get("/v4/transfers", **ACCOUNT))
    assert (seen.type, seen.size, seen.recipient, seen.sender_subaccount) == ("DEPOSIT", 999.0, ADDRESS, None)
    assert (await venue.http.get("/sim/transfers/none")).status_code == 404


async def test_chains_routes_venue_and_proposals_are_told_with_their_time() -> None:
    venue = Venue(
        still_text(shocks="[{at: 0s, kind: sequencer_stop, chain: arbitrum, for: 1m}]")
        + "proposals: [{id: 5, at: -1h, title: t, messages: [/dydxprotocol.perpetuals.MsgSetLiquidityTier]}]\n"
    )
    venue.to(30 * NS)
    chains = await venue.get("/sim/chains")
    assert parse_iso(chains["time"]) == START + 30 * NS
    assert chains["chains"]["arbitrum"]["sequencer_up"] is False
    assert parse_iso(chains["chains"]["arbitrum"]["block_time"]) == START
    assert chains["chains"]["ethereum"]["sequencer_up"] is None
    assert (await venue.get("/sim/routes"))["routes"]["hop"]["open"] is False
    assert (await venue.get("/sim/venue"))["withdrawals_open"] is True
    proposals = await venue.get("/cosmos/gov/v1/proposals", proposal_status="PROPOSAL_STATUS_VOTING_PERIOD")
    assert proposals["proposals"][0]["messages"][0]["@type"] == "/dydxprotocol.perpetuals.MsgSetLiquidityTier"
    assert await venue.get("/sim/proposals") == proposals
    assert (await venue.get("/cosmos/gov/v1/proposals", proposal_status="PROPOSAL_STATUS_PASSED"))["proposals"] == []


async def test_a_parameter_changes_without_a_proposal_and_only_the_parameters_say_so() -> None:
    venue = Venue(still_text(shocks="[{at: 10s, kind: parameter_change, market: BTC-USD, initial_margin: 5%, maintenance_margin: 3%}]"))
    before = (await venue.get("/v4/perpetualMarkets"))["markets"]["BTC-USD"]
    venue.to(20 * NS)
    after = (await venue.get("/v4/perpetualMarkets"))["markets"]["BTC-USD"]
    assert (before["initialMarginFraction"], before["maintenanceMarginFraction"]) == ("0.02", "0.012")
    assert (after["initialMarginFraction"], after["maintenanceMarginFraction"]) == ("0.05", "0.03")
    assert (await venue.get("/cosmos/gov/v1/proposals"))["proposals"] == []


async def test_free_collateral_is_shown_by_the_base_margin_and_a_withdrawal_is_decided_by_the_scaled_one() -> None:
    caps = ", open_interest: 800, oi_lower_cap: 60_000_000, oi_upper_cap: 100_000_000"
    venue = Venue(still_text(btc=caps))
    venue.to(NS)
    shown = (await venue.get(f"/v4/addresses/{ADDRESS}/subaccountNumber/0"))["subaccount"]["freeCollateral"]
    assert shown == "48040"
    body = {"client_id": "all-of-it", "route": "back", "amount": shown, "expires": START + 20 * NS}
    refused = await venue.http.post("/sim/transfers", json=body)
    assert (refused.status_code, refused.json()["errors"][0]["reason"]) == (400, "margin")


async def test_the_venue_tells_its_capacity_gate_and_funds_and_everybodys_money_adds_up() -> None:
    venue = Venue(still_text(positions="[{market: BTC-USD, size: 1}]"))
    venue.to(NS)
    first = await venue.get("/sim/money")
    assert first["total_usd"] == str(50_000 + 5_000_000 + 50_000)
    body = {"client_id": "some", "route": "back", "amount": "12000", "expires": START + 20 * NS}
    assert (await venue.http.post("/sim/transfers", json=body)).status_code == 200
    assert (await venue.http.post("/sim/orders", json=venue.order())).status_code == 200
    told = await venue.get("/sim/venue")
    assert (told["model"], told["withdrawal_capacity_usd"], told["insurance_funds_usd"]) == ("dydx-v4", "988000", {"cross": "5000000"})
    venue.to(3000 * NS)
    later = await venue.get("/sim/money")
    assert float(later["fees_usd"]) == pytest.approx(0.1 * 98_000 * 0.0005, rel=0.001)
    assert later["total_usd"] == first["total_usd"]


async def test_a_venue_by_hyperliquids_rules_is_served_in_the_same_shapes() -> None:
    venue = Venue(HYPERLIQUID.format(collateral="10_000 USD", positions="[{market: BTC, size: 0.5}]", shocks="[]", btc="", more=""))
    venue.to(5 * NS)
    told = await venue.get("/sim/venue")
    assert (told["model"], told["mark_prices"]) == ("hyperliquid", {"BTC": "100000", "ETH": "4000"})
    assert told["margin_tables"]["BTC"] == [{"lowerBound": "0", "maxLeverage": "40"}, {"lowerBound": "150000000", "maxLeverage": "20"}]
    market = wire.parse_markets(await venue.get("/v4/perpetualMarkets"))["BTC"]
    assert (market.initial_margin, market.maintenance_margin, market.next_funding_rate) == (0.025, 0.0125, 0.0000125)
    subaccount = wire.parse_subaccount(await venue.get(f"/v4/addresses/{ADDRESS}/subaccountNumber/0"))
    assert (subaccount.equity, subaccount.free_collateral) == (10_000, 10_000 - 1250)


async def test_a_shock_can_be_sent_while_the_venue_runs(venue: Venue) -> None:
    venue.to(10 * NS)
    sent = await venue.http.post("/sim/shocks", json={"kind": "oracle_freeze", "market": "BTC-USD", "at": "5s", "for": "30s"})
    assert sent.json() == {"at": START + 10 * NS, "kind": "oracle_freeze"}
    await venue.http.post("/sim/shocks", json={"kind": "price_move", "market": "BTC-USD", "at": "6s", "by": "5%"})
    venue.to(20 * NS)
    assert wire.parse_markets(await venue.get("/v4/perpetualMarkets"))["BTC-USD"].oracle_price == 98_000
    wrong = await venue.http.post("/sim/shocks", json={"kind": "earthquake"})
    assert wrong.status_code == 400
    assert "earthquake" in wire.parse_errors(wrong.json())


async def test_the_clock_is_shared_and_accelerated() -> None:
    venue = Venue(still_text(), speed=60.0)
    venue.to(2 * NS)
    body = await venue.get("/sim/clock")
    assert body == {"speed": 60.0, "now_ns": START + 120 * NS, "started_ns": START, "seed": 11, "scenario": "still"}


# --- a real server ---------------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served() -> Iterator[str]:
    """A venue on a real loopback port, at wall speed."""
    text = still_text(
        positions="[{market: BTC-USD, size: 1}, {market: ETH-USD, size: -5}]",
        shocks="[{at: 0s, kind: error_after_accept, reply: dropped, for: 1h}]",
    )
    scenario = parse_scenario(text, "test.yaml")
    world = World(scenario, seed=1, started_ns=START)
    listener = bind("127.0.0.1", 0)
    running = server(SimulatedVenue(world=world, clock=VenueClock(started_ns=START, speed=1.0)))
    thread = threading.Thread(target=lambda: running.run(sockets=[listener]), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    running.should_exit = True
    thread.join(5)
    listener.close()


def test_a_dropped_reply_breaks_the_connection_after_the_order_was_done(served: str) -> None:
    body = {
        "client_id": 7, "market": "BTC-USD", "side": "SELL", "size": "0.1", "limit_price": "97000", "reduce_only": True,
        "good_til": START + HOUR_NS,
    }  # fmt: skip
    with httpx.Client(base_url=served, timeout=60) as http:
        with pytest.raises(httpx.RemoteProtocolError):
            http.post("/sim/orders", json=body)
        assert http.get(f"/sim/orders/{ADDRESS}/0/7").json()["status"] == "FILLED"
        assert http.get("/sim/log", params={"kind": "order"}).json()["entries"][0]["reply"] == "dropped"


def test_an_unmodified_third_party_client_reads_the_venue(served: str) -> None:
    ccxt = pytest.importorskip("ccxt.async_support", reason="ccxt is not installed")

    async def read() -> dict[str, Any]:
        api = {"indexer": served + "/v4", "nodeRpc": served + "/rpc", "nodeRest": served + "/rest"}
        client = ccxt.dydx({"urls": {"api": api}, "walletAddress": ADDRESS, "enableRateLimit": False})
        try:
            return {
                "markets": await client.load_markets(),
                "book": await client.fetch_order_book("BTC/USDC:USDC"),
                "candles": await client.fetch_ohlcv("BTC/USDC:USDC", "1m", limit=100),
                "hours": await client.fetch_ohlcv("BTC/USDC:USDC", "1h", limit=30),
                "funding": await client.fetch_funding_rate_history("BTC/USDC:USDC", limit=50),
                "positions": await client.fetch_positions(),
                "balance": await client.fetch_balance(),
                "time": await client.fetch_time(),
                "trades": await client.fetch_trades("BTC/USDC:USDC", limit=10),
                "orders": await client.fetch_orders(),
                "transfers": await client.fetch_transfers(),
            }
        finally:
            await client.close()

    seen = asyncio.run(read())
    assert set(seen["markets"]) == {"BTC/USDC:USDC", "ETH/USDC:USDC"}
    assert seen["markets"]["BTC/USDC:USDC"]["active"] is True
    precision = seen["markets"]["BTC/USDC:USDC"]["precision"]
    assert (precision["amount"], precision["price"]) == (0.0001, 1.0)
    assert seen["book"]["bids"][0][0] < seen["book"]["asks"][0][0]
    assert len(seen["candles"]) == 100
    assert all(low <= min(o, c) and max(o, c) <= high for _, o, high, low, c, _ in seen["candles"])
    assert len(seen["hours"]) == 30
    assert [row["timestamp"] for row in seen["funding"]] == sorted(row["timestamp"] for row in seen["funding"])
    assert len(seen["funding"]) == 50
    assert {(p["symbol"], p["side"], p["contracts"]) for p in seen["positions"]} >= {("ETH/USDC:USDC", "short", 5.0)}
    assert seen["balance"]["USDC"]["free"] > 0
    assert abs(seen["time"] - START // NS) < 600
    assert len(seen["trades"]) == 10
