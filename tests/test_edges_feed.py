"""The dYdX feed against recorded and written payloads: rows, their times, gone positions, history."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from daemon.edges.dydx.feed import Cadences, DydxFeed, FeedPlan
from daemon.edges.http import HttpSource
from daemon.edges.protocol import WriteMarks
from daemon.edges.provides import DYDX
from daemon.engine.events import Row
from daemon.errors import EdgeError
from daemon.language.catalogue import CATALOGUE
from daemon.units import DAY_NS, FOREVER, HOUR_NS, MINUTE_NS, NS, iso, parse_iso
from daemon.world.entities import Account, Kind

RECORDED = Path(__file__).parents[2] / "shared" / "data" / "fixtures" / "dydx_v4_ccxt"
NOW = parse_iso("2026-02-03T17:30:10Z")
BLOCK = parse_iso("2026-02-03T17:30:09.250Z")
ADDRESS = "dydx1abc"
ACCOUNT = Account(id="dydx", venue="dydx", address=ADDRESS)
SUBACCOUNT = f"/addresses/{ADDRESS}/subaccountNumber/0"

MARKET = {
    "clobPairId": "7",
    "ticker": "HYPE-USD",
    "status": "ACTIVE",
    "oraclePrice": "33.5",
    "priceChange24H": "-1.2",
    "volume24H": "1292729.36",
    "trades24H": 938,
    "nextFundingRate": "0.0002",
    "initialMarginFraction": "0.05",
    "maintenanceMarginFraction": "0.03",
    "openInterest": "52000",
    "atomicResolution": -8,
    "quantumConversionExponent": -9,
    "tickSize": "0.001",
    "stepSize": "0.1",
    "stepBaseQuantums": 10000000,
    "subticksPerTick": 100000,
    "marketType": "CROSS",
    "openInterestLowerCap": "0",
    "openInterestUpperCap": "0",
    "baseOpenInterest": "50000",
    "defaultFundingRate1H": "0",
    "someNewField": {"nobody": "knows"},
}
BOOK = {
    "bids": [{"price": "99.9", "size": "2"}, {"price": "99.6", "size": "10"}, {"price": "99", "size": "100"}],
    "asks": [{"price": "100.1", "size": "3"}, {"price": "100.5", "size": "1"}, {"price": "102", "size": "50"}],
}


def position(market: str, size: str, entry: str) -> dict[str, Any]:
    return {
        "market": market,
        "status": "OPEN",
        "side": "SHORT" if size.startswith("-") else "LONG",
        "size": size,
        "maxSize": size,
        "entryPrice": entry,
        "exitPrice": None,
        "realizedPnl": "0",
        "unrealizedPnl": "0",
        "createdAt": iso(NOW),
        "createdAtHeight": "1",
        "closedAt": None,
        "sumOpen": size,
        "sumClose": "0",
        "netFunding": "0",
        "subaccountNumber": 0,
    }


def subaccount(quote: str, *positions: dict[str, Any]) -> dict[str, Any]:
    size, side = quote.lstrip("-"), "SHORT" if quote.startswith("-") else "LONG"
    return {
        "subaccount": {
            "address": ADDRESS,
            "subaccountNumber": 0,
            "equity": "0",
            "freeCollateral": "8123.5",
            "marginEnabled": True,
            "openPerpetualPositions": {p["market"]: p for p in positions},
            "updatedAtHeight": "1",
            "latestProcessedBlockHeight": "2",
            "assetPositions": {"USDC": {"size": size, "symbol": "USDC", "side": side, "assetId": "0", "subaccountNumber": 0}},
        }
    }


class SteppedClock:
    """A clock that moves only when somebody sleeps or the test moves it."""

    def __init__(self) -> None:
        self.at = NOW

    def now(self) -> int:
        return self.at

    async def sleep(self, ns: int, /) -> None:
        self.at += ns


class Indexer:
    """A fake indexer: answers by path, remembers what it was asked."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {"/height": {"height": "52246761", "time": iso(BLOCK)}, "/orders": []}
        self.answers |= {path.replace("__", "/"): answer for path, answer in answers.items()}
        self.asked: list[tuple[str, Mapping[str, str]]] = []

    def __call__(self, request: httpx.Request) -> httpx.Response:
        path = request.url.path.removeprefix("/v4")
        self.asked.append((path, dict(request.url.params)))
        answer = self.answers.get(path)
        if answer is None:
            return httpx.Response(404, json={"errors": [{"msg": "not found"}]})
        return httpx.Response(200, json=answer(dict(request.url.params)) if callable(answer) else answer)

    def times(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


def feed_of(indexer: Callable[[httpx.Request], httpx.Response], markets: tuple[str, ...] = ("HYPE-USD",), **options: Any) -> DydxFeed:
    plan = FeedPlan(venue="dydx", markets=markets, accounts=(ACCOUNT,), cadences=Cadences(height_ns=NS))
    source = HttpSource(name="dydx", url="http://venue/v4", transport=httpx.MockTransport(indexer))
    return DydxFeed(plan, source=source, clock=options.pop("clock", SteppedClock()), **options)


def by_entity(rows: list[Row]) -> dict[str, Mapping[str, float]]:
    return {f"{row.kind.value} {row.entity}": row.values for row in rows}


def test_everything_provided_is_in_the_catalogue_as_observed() -> None:
    for kind, names in DYDX.items():
        for name in names:
            assert CATALOGUE[kind, name].role == "observed", (kind, name)


async def test_every_poll_gives_only_what_is_declared() -> None:
    indexer = Indexer(
        __perpetualMarkets={"markets": {"HYPE-USD": MARKET}},
        __orderbooks__perpetualMarket__x=BOOK,
    )
    indexer.answers["/orderbooks/perpetualMarket/HYPE-USD"] = BOOK
    indexer.answers["/historicalFunding/HYPE-USD"] = {"historicalFunding": [settlement(NOW, "0.002")]}
    indexer.answers["/candles/perpetualMarkets/HYPE-USD"] = {"candles": [candle(NOW - MINUTE_NS, "33")]}
    indexer.answers[SUBACCOUNT] = subaccount("100", position("HYPE-USD", "1", "33"))
    given: dict[Kind, set[str]] = {}
    feed = feed_of(indexer)
    for poll in feed.polls:
        for row in await poll.fetch():
            given.setdefault(row.kind, set()).update(row.values)
    assert given == {kind: set(names) for kind, names in feed.provides.items()}


def settlement(at: int, rate: str, market: str = "HYPE-USD") -> dict[str, str]:
    return {"ticker": market, "rate": rate, "price": "33.1", "effectiveAt": iso(at), "effectiveAtHeight": "44500000"}


def candle(started_at: int, close: str) -> dict[str, Any]:
    return {
        "startedAt": iso(started_at),
        "ticker": "HYPE-USD",
        "resolution": "1MIN",
        "low": "32",
        "high": "34",
        "open": "33",
        "close": close,
        "baseTokenVolume": "1",
        "usdVolume": "33",
        "trades": 1,
        "startingOpenInterest": "50000",
        "orderbookMidPriceOpen": None,
        "orderbookMidPriceClose": None,
        "id": "x",
    }


async def test_markets_row_is_dated_by_the_last_block() -> None:
    [row] = await feed_of(Indexer(__perpetualMarkets={"markets": {"HYPE-USD": MARKET, "ODD-USD": {"ticker": 1}}})).fetch_markets()
    assert (row.kind, row.entity, row.event_ts) == (Kind.MARKET, "dydx:HYPE-USD", BLOCK)
    assert row.values["oracle_price"] == 33.5
    assert row.values["predicted_funding_rate"] == 0.0002
    assert row.values["market_open"] == 1.0
    assert (row.values["step_size"], row.values["min_size"], row.values["tick_size"]) == (0.1, 0.1, 0.001)


@pytest.mark.parametrize("status", ["PAUSED", "CANCEL_ONLY", "FINAL_SETTLEMENT"])
async def test_market_that_takes_no_orders_is_not_open(status: str) -> None:
    [row] = await feed_of(Indexer(__perpetualMarkets={"markets": {"HYPE-USD": {**MARKET, "status": status}}})).fetch_markets()
    assert row.values["market_open"] == 0.0


async def test_market_that_the_venue_does_not_list_has_no_price_and_blinds_no_other() -> None:
    indexer = Indexer(__perpetualMarkets={"markets": {"HYPE-USD": {**MARKET, "oraclePrice": None}}})
    first, second = await feed_of(indexer, ("HYPE-USD", "GONE-USD")).fetch_markets()
    assert math.isnan(first.values["oracle_price"])
    assert first.values["mmf"] == 0.03
    assert math.isnan(second.values["oracle_price"])
    assert second.values["market_open"] == 0.0


async def test_book_gives_the_top_and_the_value_within_fifty_basis_points() -> None:
    indexer = Indexer()
    indexer.answers["/orderbooks/perpetualMarket/HYPE-USD"] = BOOK
    [row] = await feed_of(indexer).fetch_book("HYPE-USD")
    assert row.event_ts == BLOCK
    assert (row.values["bid_price"], row.values["ask_price"], row.values["bid_size"], row.values["ask_size"]) == (99.9, 100.1, 2.0, 3.0)
    # mid 100: bids from 99.5, asks to 100.5
    assert row.values["bid_depth"] == pytest.approx(99.9 * 2 + 99.6 * 10)
    assert row.values["ask_depth"] == pytest.approx(100.1 * 3 + 100.5 * 1)


async def test_empty_side_of_a_book_has_no_price_and_no_depth() -> None:
    indexer = Indexer()
    indexer.answers["/orderbooks/perpetualMarket/HYPE-USD"] = {"bids": BOOK["bids"], "asks": []}
    [row] = await feed_of(indexer).fetch_book("HYPE-USD")
    assert math.isnan(row.values["ask_price"])
    assert (row.values["ask_size"], row.values["ask_depth"]) == (0.0, 0.0)
    assert row.values["bid_depth"] > 0


async def test_settlement_carries_its_own_time_so_that_its_polls_are_one_observation() -> None:
    effective = parse_iso("2026-02-03T17:00:00.294Z")
    indexer = Indexer()
    indexer.answers["/historicalFunding/HYPE-USD"] = {"historicalFunding": [settlement(effective, "0.002018")]}
    feed = feed_of(indexer)
    first, second = await feed.fetch_funding("HYPE-USD"), await feed.fetch_funding("HYPE-USD")
    assert first == second == [Row(kind=Kind.MARKET, entity="dydx:HYPE-USD", values={"funding_rate": 0.002018}, event_ts=effective)]
    assert indexer.asked[0] == ("/historicalFunding/HYPE-USD", {"limit": "1"})


async def test_market_without_a_settlement_yet_gives_no_row() -> None:
    indexer = Indexer()
    indexer.answers["/historicalFunding/HYPE-USD"] = {"historicalFunding": []}
    assert await feed_of(indexer).fetch_funding("HYPE-USD") == []


async def test_last_price_is_known_at_the_end_of_its_minute_or_at_the_last_block() -> None:
    indexer = Indexer()
    feed = feed_of(indexer)
    old, running = parse_iso("2026-02-03T17:20:00Z"), parse_iso("2026-02-03T17:30:00Z")
    for started_at, known_at in ((old, old + MINUTE_NS), (running, BLOCK)):
        indexer.answers["/candles/perpetualMarkets/HYPE-USD"] = {"candles": [candle(started_at, "33.25")]}
        [row] = await feed.fetch_candles("HYPE-USD")
        assert (row.values, row.event_ts) == ({"last_price": 33.25}, known_at)


async def test_collateral_and_positions_give_the_equity_of_the_chain() -> None:
    indexer = Indexer()
    indexer.answers[SUBACCOUNT] = subaccount("-20000", position("HYPE-USD", "1000", "33"), position("BTC-USD", "-0.5", "90000"))
    indexer.answers["/orders"] = [order("1"), order("2")]
    rows = by_entity(await feed_of(indexer).fetch_account(ACCOUNT))
    account, hype, btc = rows["account dydx"], rows["position dydx:HYPE-USD"], rows["position dydx:BTC-USD"]
    assert (hype["size"], btc["size"], account["open_orders"], account["free_collateral_reported"]) == (1000.0, -0.5, 2.0, 8123.5)
    prices = {"HYPE-USD": 35.0, "BTC-USD": 88_000.0}
    equity = account["collateral"] + hype["size"] * (35.0 - hype["entry_price"]) + btc["size"] * (88_000.0 - btc["entry_price"])
    assert equity == pytest.approx(-20_000 + 1000 * prices["HYPE-USD"] - 0.5 * prices["BTC-USD"])
    assert dict(indexer.asked)["/orders"] == {"address": ADDRESS, "subaccountNumber": "0", "status": "OPEN"}


def order(client_id: str) -> dict[str, Any]:
    return {
        "id": f"id-{client_id}",
        "subaccountId": "s",
        "clientId": client_id,
        "clobPairId": "7",
        "side": "BUY",
        "size": "1",
        "totalFilled": "0",
        "price": "30",
        "type": "LIMIT",
        "status": "OPEN",
        "timeInForce": "GTT",
        "reduceOnly": False,
        "orderFlags": "64",
        "goodTilBlockTime": iso(NOW),
        "clientMetadata": "0",
        "postOnly": False,
        "ticker": "HYPE-USD",
        "subaccountNumber": 0,
    }


async def test_position_that_a_reading_lacks_is_observed_with_size_zero() -> None:
    indexer = Indexer()
    feed = feed_of(indexer)
    indexer.answers[SUBACCOUNT] = subaccount("100", position("HYPE-USD", "5", "33"), position("DOGE-USD", "9", "0.1"))
    await feed.fetch_account(ACCOUNT)
    indexer.answers[SUBACCOUNT] = subaccount("100", position("HYPE-USD", "5", "33"))
    for _ in range(2):
        rows = by_entity(await feed.fetch_account(ACCOUNT))
        assert rows["position dydx:DOGE-USD"] == {"size": 0.0}
        assert rows["position dydx:HYPE-USD"]["size"] == 5.0


async def test_first_reading_tells_which_configured_positions_are_not_there() -> None:
    indexer = Indexer()
    indexer.answers[SUBACCOUNT] = subaccount("100", position("HYPE-USD", "5", "33"))
    feed = feed_of(indexer, ("BTC-USD", "HYPE-USD"))
    first, second = by_entity(await feed.fetch_account(ACCOUNT)), by_entity(await feed.fetch_account(ACCOUNT))
    assert first["position dydx:BTC-USD"] == {"size": 0.0}
    assert "position dydx:BTC-USD" not in second


async def test_failed_account_reading_says_nothing_about_positions() -> None:
    indexer = Indexer()
    feed = feed_of(indexer)
    indexer.answers[SUBACCOUNT] = subaccount("100", position("HYPE-USD", "5", "33"))
    await feed.fetch_account(ACCOUNT)
    del indexer.answers[SUBACCOUNT]
    with pytest.raises(EdgeError, match="404"):
        await feed.fetch_account(ACCOUNT)
    indexer.answers[SUBACCOUNT] = subaccount("100")
    assert by_entity(await feed.fetch_account(ACCOUNT))["position dydx:HYPE-USD"] == {"size": 0.0}


async def test_account_is_read_again_when_a_write_of_ours_settles_meanwhile() -> None:
    indexer, marks = Indexer(), WriteMarks()

    def answer(_: Mapping[str, str]) -> dict[str, Any]:
        if indexer.times(SUBACCOUNT) == 1:
            marks.settled("dydx")  # the order fills after this body was made
            return subaccount("100", position("HYPE-USD", "5", "33"))
        return subaccount("100", position("HYPE-USD", "3", "33"))

    indexer.answers[SUBACCOUNT] = answer
    rows = by_entity(await feed_of(indexer, marks=marks).fetch_account(ACCOUNT))
    assert rows["position dydx:HYPE-USD"]["size"] == 3.0
    assert indexer.times(SUBACCOUNT) == 2


async def test_account_reading_gives_up_when_writes_never_rest() -> None:
    indexer, marks = Indexer(), WriteMarks()

    def answer(_: Mapping[str, str]) -> dict[str, Any]:
        marks.settled("dydx")
        return subaccount("100")

    indexer.answers[SUBACCOUNT] = answer
    with pytest.raises(EdgeError) as caught:
        await feed_of(indexer, marks=marks).fetch_account(ACCOUNT)
    assert (caught.value.reason, caught.value.retryable) == ("changed_while_read", True)


async def test_block_age_grows_and_the_venue_counts_as_down_when_blocks_stop() -> None:
    indexer, clock = Indexer(), SteppedClock()
    feed = feed_of(indexer, clock=clock)
    readings = []
    for step_s, height, block in (
        (0, 1, BLOCK),
        (2, 2, BLOCK + 2 * NS),
        (5, 2, BLOCK + 2 * NS),
        (8, 2, BLOCK + 2 * NS),
        (60, 3, BLOCK + 3 * NS),
    ):
        clock.at += step_s * NS
        indexer.answers["/height"] = {"height": str(height), "time": iso(block)}
        [row] = await feed.fetch_height()
        readings.append((row.values["block_age"], row.values["venue_up"]))
    # the last one: far behind, but blocks advance
    assert readings == [(0.75, 1.0), (0.75, 1.0), (5.75, 1.0), (13.75, 0.0), (72.75, 1.0)]


async def test_halted_chain_makes_every_reading_age() -> None:
    indexer, clock = Indexer(__perpetualMarkets={"markets": {"HYPE-USD": MARKET}}), SteppedClock()
    feed = feed_of(indexer, clock=clock)
    await feed.fetch_height()
    clock.at += 300 * NS
    await feed.fetch_height()
    [row] = await feed.fetch_markets()
    assert row.event_ts == BLOCK


async def test_height_is_asked_for_again_only_when_its_poll_is_late() -> None:
    indexer, clock = Indexer(__perpetualMarkets={"markets": {"HYPE-USD": MARKET}}), SteppedClock()
    feed = feed_of(indexer, clock=clock)
    await feed.fetch_height()
    await feed.fetch_markets()
    assert indexer.times("/height") == 1
    clock.at += 3 * NS
    indexer.answers["/height"] = {"height": "52246764", "time": iso(BLOCK + 3 * NS)}
    [row] = await feed.fetch_markets()
    assert (indexer.times("/height"), row.event_ts) == (2, BLOCK + 3 * NS)


async def test_replica_that_lags_does_not_turn_the_clock_back() -> None:
    indexer, clock = Indexer(__perpetualMarkets={"markets": {"HYPE-USD": MARKET}}), SteppedClock()
    feed = feed_of(indexer, clock=clock)
    await feed.fetch_height()
    indexer.answers["/height"] = {"height": "52246700", "time": iso(BLOCK - 60 * NS)}
    [row] = await feed.fetch_height()
    assert row.values["block_age"] == 60.75
    [row] = await feed.fetch_markets()
    assert row.event_ts == BLOCK


async def test_configured_facts_are_always_fresh() -> None:
    [row] = await feed_of(Indexer()).fetch_parameters()
    assert row.event_ts == FOREVER
    assert row.values == {"funding_interval": 3600.0, "taker_fee": 0.0005, "fixed_slippage": 0.0005}


def test_polls_are_named_by_what_they_read() -> None:
    names = [poll.name for poll in feed_of(Indexer(), ("BTC-USD",)).polls]
    assert names == [
        "dydx.height",
        "dydx.parameters",
        "dydx.markets",
        "dydx.book:BTC-USD",
        "dydx.funding:BTC-USD",
        "dydx.candles:BTC-USD",
        "dydx.account:dydx",
    ]


class PagedIndexer(Indexer):
    """Nine days of settlements and 26 h of minutes, in pages, newest first, as the indexer sends them."""

    def __init__(self, page_rows: int) -> None:
        super().__init__()
        self.page_rows = page_rows
        last_hour = NOW - NOW % HOUR_NS
        self.settled = [(last_hour - i * HOUR_NS + 300_000_000, "0.0001") for i in range(9 * 24)]
        last_minute = NOW - NOW % MINUTE_NS
        self.minutes = [last_minute - i * MINUTE_NS for i in range(26 * 60)]
        self.answers["/historicalFunding/HYPE-USD"] = self.funding
        self.answers["/candles/perpetualMarkets/HYPE-USD"] = self.candles

    def funding(self, query: Mapping[str, str]) -> dict[str, Any]:
        until = parse_iso(query["effectiveBeforeOrAt"])
        rows = [settlement(at, rate) for at, rate in self.settled if at <= until]
        return {"historicalFunding": rows[: min(int(query["limit"]), self.page_rows)]}

    def candles(self, query: Mapping[str, str]) -> dict[str, Any]:
        since, until = parse_iso(query["fromISO"]), parse_iso(query["toISO"])
        rows = [candle(at, "33") for at in self.minutes if since <= at < until]
        return {"candles": rows[: min(int(query["limit"]), self.page_rows)]}


async def test_history_is_eight_days_of_settlements_and_25_hours_of_finished_minutes() -> None:
    indexer = PagedIndexer(1000)
    rows = await feed_of(indexer).history()
    settled = [row for row in rows if "funding_rate" in row.values]
    closes = [row for row in rows if "last_price" in row.values]
    assert len(settled) == 8 * 24
    assert len({row.event_ts for row in settled}) == len(settled)
    # from 16:31 of the day before (the first minute that begins inside) to 17:29 (the last that is finished)
    assert len(closes) == 25 * 60 - 1
    assert len({row.event_ts for row in closes}) == len(closes)
    assert max(row.event_ts or 0 for row in closes) == parse_iso("2026-02-03T17:30:00Z")
    times = [row.event_ts or 0 for row in rows]
    assert times == sorted(times)
    assert min(times) >= NOW - 8 * DAY_NS


async def test_history_is_the_same_whatever_the_size_of_a_page(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = await feed_of(PagedIndexer(1000)).history()
    monkeypatch.setattr("daemon.edges.dydx.feed.PAGE_ROWS", 100)
    assert await feed_of(PagedIndexer(100)).history() == whole


async def test_history_of_a_market_that_fails_does_not_spoil_the_others_and_is_asked_for_again() -> None:
    indexer = PagedIndexer(1000)
    feed = feed_of(indexer, ("NOPE-USD", "HYPE-USD"))
    rows = await feed.history()
    assert {row.entity for row in rows} == {"dydx:HYPE-USD"}
    assert len(rows) == 8 * 24 + 25 * 60 - 1
    asked = indexer.times("/historicalFunding/HYPE-USD")
    with pytest.raises(EdgeError, match="NOPE-USD"):
        await feed.history()
    indexer.answers["/historicalFunding/NOPE-USD"] = indexer.funding
    indexer.answers["/candles/perpetualMarkets/NOPE-USD"] = indexer.candles
    assert {row.entity for row in await feed.history()} == {"dydx:NOPE-USD"}
    assert await feed.history() == []
    assert indexer.times("/historicalFunding/HYPE-USD") == asked


async def test_live_readings_that_would_shut_out_a_lacking_past_are_held_back_for_a_minute_at_most() -> None:
    indexer, clock = PagedIndexer(1000), SteppedClock()
    last = {"historicalFunding": [settlement(BLOCK, "0.0002")]}
    indexer.answers["/historicalFunding/HYPE-USD"] = {"historicalFunding": "broken"}
    feed = feed_of(indexer, clock=clock)
    with pytest.raises(EdgeError):
        await feed.history()
    indexer.answers["/historicalFunding/HYPE-USD"] = last
    indexer.answers["/candles/perpetualMarkets/HYPE-USD"] = {"candles": [candle(NOW - 2 * MINUTE_NS, "33")]}
    assert await feed.fetch_funding("HYPE-USD") == []
    assert await feed.fetch_candles("HYPE-USD") == []
    clock.at += MINUTE_NS
    assert len(await feed.fetch_funding("HYPE-USD")) == 1
    assert len(await feed.fetch_candles("HYPE-USD")) == 1


@pytest.mark.skipif(not RECORDED.is_dir(), reason="the recorded indexer replies are not here")
async def test_recorded_indexer_replies_become_rows() -> None:
    def recorded(name: str) -> Any:
        return json.loads((RECORDED / f"{name}.json").read_text(encoding="utf-8"))["response"]

    indexer = Indexer(__perpetualMarkets=recorded("perpetualMarkets"), __time=recorded("time"))
    indexer.answers["/historicalFunding/BTC-USD"] = recorded("historicalFunding_BTC-USD")
    indexer.answers["/candles/perpetualMarkets/BTC-USD"] = recorded("candles_perpetualMarkets_BTC-USD_1MIN")
    feed = feed_of(indexer, ("BTC-USD",))
    [market] = await feed.fetch_markets()
    assert (market.values["oracle_price"], market.values["imf"], market.values["mmf"]) == (118700.5426, 0.02, 0.012)
    [funding] = await feed.fetch_funding("BTC-USD")
    assert (funding.values["funding_rate"], funding.event_ts) == (0.000176, parse_iso("2025-07-29T05:00:01.053Z"))
    [close] = await feed.fetch_candles("BTC-USD")
    assert (close.values["last_price"], close.event_ts) == (118810.0, parse_iso("2025-07-29T05:47:00Z"))
    assert await feed.time() == parse_iso("2025-07-29T05:45:08Z")


async def test_wrong_shape_is_one_edge_error_that_names_the_field() -> None:
    indexer = Indexer(__perpetualMarkets={"markets": {"HYPE-USD": {**MARKET, "maintenanceMarginFraction": "much"}}})
    with pytest.raises(EdgeError, match=r"HYPE-USD\.maintenanceMarginFraction"):
        await feed_of(indexer).fetch_markets()
