"""The dYdX v4 feed (floor 6): polls an indexer's REST API and turns it into rows in the catalogue's names and units.

    feed = DydxFeed(plan, source=HttpSource(name="dydx", url="https://indexer.dydx.trade/v4", ...), clock=clock)
    rows = await feed.polls[0].fetch()

Times. REST sends no time with books, markets or accounts: their `event_ts` is the time of the last block the indexer had processed when
they were asked for (`/height`, polled at its own cadence, asked again when that is late), so that a halted chain or a lagging indexer
makes every reading age. A settlement carries its `effectiveAt`: polls of one settlement are one observation. A bar's close is known
at its end.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial

from daemon.edges.dydx.wire import (
    RESOLUTIONS_NS,
    Candle,
    FundingRow,
    Height,
    Market,
    Subaccount,
    parse_candles,
    parse_funding,
    parse_height,
    parse_markets,
    parse_orderbook,
    parse_orders,
    parse_subaccount,
    parse_time,
)
from daemon.edges.http import HttpSource
from daemon.edges.protocol import Clock, Poll, WriteMarks
from daemon.edges.provides import DYDX, MARKET_SIGNALS
from daemon.engine.events import Row
from daemon.errors import EdgeError
from daemon.units import DAY_NS, FOREVER, HOUR_NS, MINUTE_NS, NS, iso
from daemon.world.entities import Account, Kind
from daemon.world.readings import book_values, is_up

MILLISECOND_NS = 1_000_000
FUNDING_HISTORY_NS = 8 * DAY_NS
CANDLE_HISTORY_NS = 25 * HOUR_NS
PAGE_ROWS = 1000  # the indexer's own maximum
PAGES_MAX = 20  # of one history; 25 h of minutes are two pages
OF_THE_SOURCE = ("unreachable", "timeout", "rate_limited")  # failures that say nothing about the market that was asked for
PAST_AWAITED_NS = MINUTE_NS  # how long a market's settled readings are held back for its past, which can only enter before them
ACCOUNT_READS_MAX = 3  # while writes of ours keep settling during the reading


@dataclass(frozen=True, slots=True, kw_only=True)
class Cadences:
    """How often each thing is asked for, in venue time. The height should be asked for at least as often as the books."""

    height_ns: int = NS
    markets_ns: int = 2 * NS
    book_ns: int = 2 * NS
    account_ns: int = 3 * NS
    funding_ns: int = 30 * NS
    candles_ns: int = 15 * NS


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedPlan:
    """What to observe at one venue. `taker_fee` and `slippage` are ratios of the account's own tier, which no public endpoint tells."""

    venue: str
    markets: tuple[str, ...]
    accounts: tuple[Account, ...] = ()
    cadences: Cadences = field(default_factory=Cadences)
    taker_fee: float = 0.0005
    slippage: float = 0.0005
    funding_interval_ns: int = HOUR_NS


class DydxFeed:
    """Eyes on one dYdX v4 venue. `marks` tells it when a write of ours settled while it was reading that account."""

    def __init__(
        self, plan: FeedPlan, *, source: HttpSource, clock: Clock, candles: HttpSource | None = None, marks: WriteMarks | None = None
    ) -> None:
        self._plan = plan
        self._source = source
        self._candles_source = candles or source  # the indexer counts candle requests apart
        self._clock = clock
        self._marks = marks or WriteMarks()
        self._height: Height | None = None
        self._height_asked_at = 0
        self._height_lock = asyncio.Lock()
        self._pasts_owed = list(plan.markets)
        self._past_awaited_until = 0  # when the live readings of a market whose past failed count all the same
        self._held: dict[str, set[str]] = {}  # account -> markets it was ever seen to hold; absent before its first reading

    @property
    def name(self) -> str:
        """The venue's id."""
        return self._plan.venue

    @property
    def provides(self) -> Mapping[Kind, frozenset[str]]:
        """The observed signals the indexer can give: no mark price, no index price, no sequencer."""
        return DYDX

    @property
    def polls(self) -> tuple[Poll, ...]:
        """Height, parameters and markets, then a book, a settlement and a candle poll a market, then the accounts."""
        name, cadences = self._plan.venue, self._plan.cadences
        polls = [
            Poll(name=f"{name}.height", every_ns=cadences.height_ns, fetch=self.fetch_height),
            Poll(name=f"{name}.parameters", every_ns=MINUTE_NS, fetch=self.fetch_parameters),
            Poll(name=f"{name}.markets", every_ns=cadences.markets_ns, fetch=self.fetch_markets),
        ]
        for market in self._plan.markets:
            polls += [
                Poll(name=f"{name}.book:{market}", every_ns=cadences.book_ns, fetch=partial(self.fetch_book, market)),
                Poll(name=f"{name}.funding:{market}", every_ns=cadences.funding_ns, fetch=partial(self.fetch_funding, market)),
                Poll(name=f"{name}.candles:{market}", every_ns=cadences.candles_ns, fetch=partial(self.fetch_candles, market)),
            ]
        for account in self._plan.accounts:
            fetch = partial(self.fetch_account, account)
            polls.append(Poll(name=f"{name}.account:{account.id}", every_ns=cadences.account_ns, fetch=fetch))
        return tuple(polls)

    async def time(self) -> int:
        """The venue's own clock in ns (`/time`); raises EdgeError."""
        return parse_time(await self._source.get("/time"))

    async def fetch_height(self) -> list[Row]:
        """`block_age` and `venue_up`: up while blocks advance, or the last one is young."""
        before = self._height
        height = await self._ask_height()
        age_ns = max(0, self._clock.now() - height.at)
        advanced = before is None or height.height > before.height
        up = is_up(age_ns=age_ns, advanced=advanced, seen_before=before is not None)
        values = {"block_age": age_ns / NS, "venue_up": float(up)}
        return [Row(kind=Kind.VENUE, entity=self._plan.venue, values=values)]

    async def fetch_parameters(self) -> list[Row]:
        """Facts of the venue that are configured, not polled: always fresh."""
        plan = self._plan
        values = {"funding_interval": plan.funding_interval_ns / NS, "taker_fee": plan.taker_fee, "fixed_slippage": plan.slippage}
        return [Row(kind=Kind.VENUE, entity=plan.venue, values=values, event_ts=FOREVER)]

    async def fetch_markets(self) -> list[Row]:
        """Prices, open interest and parameters of the configured markets; one that the venue does not list has none (NaN), not open."""
        at = await self._block_time()
        payload = await self._source.get("/perpetualMarkets")
        listed = payload.get("markets") if isinstance(payload, dict) else None
        if isinstance(listed, dict):  # read only what was asked for: an odd market elsewhere must not blind this account
            payload = {"markets": {market: listed[market] for market in self._plan.markets if market in listed}}
        markets = parse_markets(payload)
        none: dict[str, float] = {**dict.fromkeys(MARKET_SIGNALS, math.nan), "market_open": 0.0}
        return [
            self._market_row(market, market_values(markets[market]) if market in markets else none, at) for market in self._plan.markets
        ]

    async def fetch_book(self, market: str) -> list[Row]:
        """The top of one book and its depth within 50 bps of mid."""
        at = await self._block_time()
        book = parse_orderbook(await self._source.get(f"/orderbooks/perpetualMarket/{market}"))
        return [self._market_row(market, book_values(book.bids, book.asks), at)]

    async def fetch_funding(self, market: str) -> list[Row]:
        """The last settled rate, with the settlement's own time; no row before the market's first settlement."""
        rows = parse_funding(await self._source.get(f"/historicalFunding/{market}", {"limit": 1}))
        return [] if self._past_awaited(market) else [self._funding_row(market, row) for row in rows[:1]]

    async def fetch_candles(self, market: str) -> list[Row]:
        """The last trade's price: the close of the newest minute, known at its end, or at the last block while it runs."""
        at = await self._block_time()
        path = f"/candles/perpetualMarkets/{market}"
        candles = parse_candles(await self._candles_source.get(path, {"resolution": "1MIN", "limit": 1}))
        found = [] if self._past_awaited(market) else candles[:1]
        return [self._market_row(market, {"last_price": c.close}, min(_closed_at(c), at)) for c in found]

    async def fetch_account(self, account: Account) -> list[Row]:
        """Collateral, open orders and positions of one account, of one consistent moment.

        A position seen before that is lacking now is observed with size 0; so is every configured market at the first reading, because
        a position of an earlier process may have closed while nobody watched. Read again while a write of ours settles meanwhile.
        """
        for _ in range(ACCOUNT_READS_MAX):
            settled = self._marks.count(account.id)
            at = await self._block_time()
            path = f"/addresses/{account.address}/subaccountNumber/{account.subaccount}"
            subaccount = parse_subaccount(await self._source.get(path))
            query: dict[str, str | int] = {"address": account.address, "subaccountNumber": account.subaccount, "status": "OPEN"}
            orders = parse_orders(await self._source.get("/orders", query))
            if self._marks.count(account.id) == settled:
                return self._account_rows(account, subaccount, len(orders), at)
        message = f"{self.name}: writes to {account.id} kept settling while it was read"
        raise EdgeError(message, edge=self.name, reason="changed_while_read", retryable=True)

    async def history(self) -> list[Row]:
        """8 days of settlements and 25 h of minute closes (as `last_price`) of every market not read yet, oldest first.

        A market whose past cannot be read does not spoil the others' and is asked for again by the next call; empty when nothing is left
        to read. Raises EdgeError when nothing of what is left could be read.
        Mids and oracle prices of the past are left out: bars carry no spread, and one oracle price an hour would stand in for sixty
        minutes.
        """
        now = self._clock.now()
        rows: list[Row] = []
        failure: EdgeError | None = None
        for market in tuple(self._pasts_owed):
            try:
                rows += await self._past(market, now)
            except EdgeError as error:
                failure = failure or error
                self._past_awaited_until = now + PAST_AWAITED_NS
                if error.reason in OF_THE_SOURCE:
                    break  # the other markets would wait for the same
            else:
                self._pasts_owed.remove(market)
        if failure is not None and not rows:
            raise failure
        return sorted(rows, key=lambda row: row.event_ts or 0)

    async def close(self) -> None:
        """Closes the connections."""
        await self._source.close()
        if self._candles_source is not self._source:
            await self._candles_source.close()

    async def _ask_height(self) -> Height:
        height = parse_height(await self._source.get("/height"))
        if self._height is None or height.at >= self._height.at:  # replicas behind one address may answer out of order
            self._height = height
        self._height_asked_at = self._clock.now()
        return height

    async def _block_time(self) -> int:
        """Time of the last block, asked for anew when the last answer is older than two polls of it."""
        async with self._height_lock:
            if self._height is None or self._clock.now() - self._height_asked_at > 2 * self._plan.cadences.height_ns:
                await self._ask_height()
            assert self._height is not None
            return self._height.at

    def _past_awaited(self, market: str) -> bool:
        """True while a market's past that failed may still come: a live reading before it would shut it out of the windows."""
        return market in self._pasts_owed and self._clock.now() < self._past_awaited_until

    async def _past(self, market: str, now: int) -> list[Row]:
        rows = [self._funding_row(market, row) for row in await self._funding_history(market, now)]
        candles = await self._candle_history(market, now)
        return rows + [self._market_row(market, {"last_price": candle.close}, _closed_at(candle)) for candle in candles]

    async def _funding_history(self, market: str, now: int) -> list[FundingRow]:
        """Settlements of the last 8 days, newest first, each once."""
        found: dict[int, FundingRow] = {}
        until = now
        for _ in range(PAGES_MAX):
            query: dict[str, str | int] = {"limit": PAGE_ROWS, "effectiveBeforeOrAt": iso(until)}
            page = parse_funding(await self._source.get(f"/historicalFunding/{market}", query))
            fresh = [row for row in page if row.effective_at not in found]
            found |= {row.effective_at: row for row in fresh}
            if not fresh or len(page) < PAGE_ROWS:
                break
            until = min(row.effective_at for row in page)
            if until < now - FUNDING_HISTORY_NS:
                break
        return [row for at, row in sorted(found.items(), reverse=True) if now - FUNDING_HISTORY_NS <= at <= now]

    async def _candle_history(self, market: str, now: int) -> list[Candle]:
        """Finished minutes of the last 25 h, newest first, each once; the running minute is left out."""
        found: dict[int, Candle] = {}
        since, until = now - CANDLE_HISTORY_NS, now
        for _ in range(PAGES_MAX):
            query: dict[str, str | int] = {"resolution": "1MIN", "limit": PAGE_ROWS, "fromISO": iso(since), "toISO": iso(until)}
            page = parse_candles(await self._candles_source.get(f"/candles/perpetualMarkets/{market}", query))
            fresh = [candle for candle in page if candle.started_at not in found]
            found |= {candle.started_at: candle for candle in fresh}
            if not fresh:
                break
            until = min(candle.started_at for candle in page)
            if until <= since:
                break
        return [candle for at, candle in sorted(found.items(), reverse=True) if at >= since and _closed_at(candle) <= now]

    def _market_row(self, market: str, values: Mapping[str, float], at: int) -> Row:
        return Row(kind=Kind.MARKET, entity=f"{self._plan.venue}:{market}", values=values, event_ts=at)

    def _funding_row(self, market: str, row: FundingRow) -> Row:
        return self._market_row(market, {"funding_rate": row.rate}, row.effective_at)

    def _account_rows(self, account: Account, subaccount: Subaccount, open_orders: int, at: int) -> list[Row]:
        now_held = {market: p for market, p in subaccount.positions.items() if p.status == "OPEN" and p.size != 0}
        held = self._held.get(account.id)
        gone = (set(self._plan.markets) if held is None else held) - now_held.keys()
        self._held[account.id] = (held or set()) | now_held.keys()
        rows = [Row(kind=Kind.ACCOUNT, entity=account.id, values=account_values(subaccount, open_orders), event_ts=at)]
        for market, position in sorted(now_held.items()):
            values = {"size": position.size, "entry_price": position.entry_price}
            rows.append(Row(kind=Kind.POSITION, entity=f"{account.id}:{market}", values=values, event_ts=at))
        rows += [Row(kind=Kind.POSITION, entity=f"{account.id}:{market}", values={"size": 0.0}, event_ts=at) for market in sorted(gone)]
        return rows


def market_values(market: Market) -> dict[str, float]:
    """A market's signals. `imf` is the BASE initial margin: the scaled one moves with every trade and would read as a changed parameter."""
    return {
        "oracle_price": math.nan if market.oracle_price is None else market.oracle_price,
        "predicted_funding_rate": market.next_funding_rate,
        "open_interest": market.open_interest,
        "volume_24h": math.nan if market.volume_24h is None else market.volume_24h,
        "market_open": float(market.status == "ACTIVE"),
        "imf": market.initial_margin,
        "mmf": market.maintenance_margin,
        "step_size": float(market.step_size),
        "min_size": float(market.step_size),  # the chain's smallest order is one step
        "tick_size": float(market.tick_size),
    }


def account_values(subaccount: Subaccount, open_orders: int) -> dict[str, float]:
    """An account's signals. `collateral` is quote balance plus cost of the positions: equity = collateral + sum of size x (P - entry)."""
    quote = subaccount.assets["USDC"].size if "USDC" in subaccount.assets else 0.0
    cost = math.fsum(p.size * p.entry_price for p in subaccount.positions.values() if p.status == "OPEN")
    return {
        "collateral": quote + cost,
        "free_collateral_reported": subaccount.free_collateral,
        "open_orders": float(open_orders),
    }


def _closed_at(candle: Candle) -> int:
    return candle.started_at + RESOLUTIONS_NS[candle.resolution]
