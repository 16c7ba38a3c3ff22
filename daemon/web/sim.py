"""The simulated venue over HTTP (floor 8): the dYdX v4 indexer's read API under `/v4`, its state API under `/sim`.

One process, one event loop, no locks: every request first moves the world to now, then reads or changes it. Bodies that many polls
share (markets, books) are printed once a second of venue time. Documented for users in docs/simulated-venue.md.
"""

from __future__ import annotations

import asyncio
import json
import re
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Annotated, Literal, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from daemon.edges.dydx import wire
from daemon.edges.dydx.wire import Json
from daemon.simulation.bridges import Refusal, TransferRequest
from daemon.simulation.markets import MarketState
from daemon.simulation.scenario import SHOCK
from daemon.simulation.subaccount import CLIENT_ID_MAX, OrderRequest, Subaccount
from daemon.simulation.world import Reply, World
from daemon.units import NS, parse_iso
from daemon.web import sim_views as views

LIMIT_MAX = 1000
RATE_WINDOW_NS = 10 * NS
CANDLES_FACTOR = 10  # candles have ten times the limit of every other group
BODY_MAX = 1 << 16
CANDLES_CACHED_MAX = 64

M = TypeVar("M", bound=BaseModel)
Handler = Callable[[Request], Awaitable[Response]]


class VenueClock:
    """The venue's time: `speed` x monotonic time since it was made, from `started_ns` on."""

    def __init__(self, *, started_ns: int, speed: float, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        assert speed > 0, "a venue's clock runs forward"
        self.started_ns = started_ns
        self.speed = speed
        self._monotonic = monotonic
        self._origin = monotonic()

    def now_ns(self) -> int:
        """The venue's time, ns UTC."""
        return self.started_ns + int((self._monotonic() - self._origin) * self.speed)


class WrongRequest(Exception):
    """A request that gets a 4xx: the texts are the indexer's where it has one."""

    def __init__(self, status: int, *errors: dict[str, Json]) -> None:
        super().__init__(status)
        self.status = status
        self.errors = errors


def _wrong_param(name: str, message: str, location: str = "query") -> WrongRequest:
    return WrongRequest(400, {"msg": message, "param": name, "location": location})


def _not_found(message: str) -> WrongRequest:
    return WrongRequest(404, {"msg": message})


class BrokenReply(Response):
    """A reply whose connection breaks before its body: the client cannot know what was done."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Announces a body and sends none; the server then closes the connection."""
        headers = [(b"content-type", b"application/json"), (b"content-length", b"64")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})


def _json(body: Json, status: int = 200) -> Response:
    return Response(json.dumps(body, separators=(",", ":")), status_code=status, media_type="application/json")


@dataclass(slots=True)
class RateLimiter:
    """Fixed windows of ten seconds of venue time a client address and group."""

    windows: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)  # (address, group) -> (window's start, requests in it)

    def take(self, address: str, group: str, now_ns: int, limit: int) -> tuple[int, int]:
        """Counts one request; returns (requests left, ns to the window's end). Negative left: refused."""
        start, used = self.windows.get((address, group), (now_ns, 0))
        if now_ns - start >= RATE_WINDOW_NS:
            start, used = now_ns, 0
        self.windows[(address, group)] = (start, used + 1)
        return limit - used - 1, start + RATE_WINDOW_NS - now_ns


# --- parameters ------------------------------------------------------------------------------------------------------------------------


def _limit(request: Request) -> int:
    text = request.query_params.get("limit")
    if text is None:
        return LIMIT_MAX
    if not re.fullmatch(r"\d{1,9}", text) or not 0 < int(text) <= LIMIT_MAX:
        raise _wrong_param("limit", f"limit must be a positive integer that is not greater than max: {LIMIT_MAX}")
    return int(text)


def _page(request: Request) -> int | None:
    text = request.query_params.get("page")
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,9}", text) or int(text) < 1:
        raise _wrong_param("page", "page must be a non-negative integer")
    return int(text)


def _time(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    try:
        return parse_iso(text.replace(" ", "+"))  # a plus sign that the client did not escape arrives as a blank
    except ValueError:
        raise _wrong_param(name, "Invalid value") from None


def _height(request: Request, name: str) -> int | None:
    text = request.query_params.get(name)
    if text is None:
        return None
    if not re.fullmatch(r"\d{1,18}", text):
        raise _wrong_param(name, f"{name} must be a non-negative integer")
    return int(text)


def _listed(request: Request, name: str) -> set[str]:
    """Every value of a repeatable parameter, also `name[]` and comma-separated."""
    texts = [*request.query_params.getlist(name), *request.query_params.getlist(f"{name}[]")]
    return {part for text in texts for part in text.split(",") if part}


def _market(world: World, ticker: str) -> MarketState:
    state = world.markets.get(ticker)
    if state is None:
        raise _wrong_param("ticker", "ticker must be a valid ticker (BTC-USD, etc)", "params")
    return state


def _subaccount(world: World, address: str | None, number: str | None, location: str = "query") -> Subaccount:
    errors: list[dict[str, Json]] = []
    if address is None or not re.fullmatch(r"[a-zA-Z0-9]{1,90}", address):
        errors.append({"msg": "address must be a valid dydx address", "param": "address", "location": location})
    if number is None or not re.fullmatch(r"\d{1,6}", number) or int(number) > 128_000:
        message = "subaccountNumber must be a non-negative integer less than 128001"
        errors.append({"msg": message, "param": "subaccountNumber", "location": location})
    if errors or address is None or number is None:
        raise WrongRequest(400, *errors)
    account = world.exchange.subaccounts.get((address, int(number)))
    if account is None:
        raise _not_found(f"No subaccount found with address {address} and subaccountNumber {int(number)}")
    return account


def _asked_subaccount(world: World, request: Request) -> Subaccount:
    return _subaccount(world, request.query_params.get("address"), request.query_params.get("subaccountNumber"))


# --- bodies of the state API -----------------------------------------------------------------------------------------------------------


class _Body(BaseModel):
    model_config = ConfigDict(extra="ignore")
    address: str = ""
    subaccount: Annotated[int, Field(ge=0)] = 0


class OrderBody(_Body):
    """The body of `POST /sim/orders`."""

    client_id: Annotated[int, Field(ge=0, le=CLIENT_ID_MAX)]
    market: str
    side: Literal["BUY", "SELL"]
    size: Annotated[Decimal, Field(gt=0)]
    limit_price: Annotated[Decimal, Field(gt=0)]
    reduce_only: bool
    time_in_force: Literal["IOC", "GTT"] = "IOC"
    good_til: int


class CancelBody(_Body):
    """The body of `POST /sim/cancel`; None matches every one."""

    market: str | None = None
    client_id: int | None = None


class TransferBody(_Body):
    """The body of `POST /sim/transfers`."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)]
    route: str
    amount: Annotated[Decimal, Field(gt=0)]
    expires: int
    max_fee: Decimal | None = None


class ReleaseBody(_Body):
    """The body of `POST /sim/release`."""

    client_id: Annotated[str, Field(min_length=1, max_length=200)]


async def _read_body(request: Request, model: type[M]) -> tuple[M, Mapping[str, object]]:
    raw = await request.body()
    if len(raw) > BODY_MAX:
        raise WrongRequest(400, {"msg": f"the body is over {BODY_MAX} bytes", "reason": "body"})
    try:
        decoded = json.loads(raw, parse_float=Decimal)
    except (ValueError, RecursionError):
        raise WrongRequest(400, {"msg": "the body is no JSON", "reason": "body"}) from None
    if not isinstance(decoded, dict):
        raise WrongRequest(400, {"msg": "the body is no JSON object", "reason": "body"})
    try:
        return model.model_validate(decoded), decoded
    except ValidationError as error:
        problems: list[dict[str, Json]] = [
            {"msg": _located(p["loc"], p["msg"]), "param": str(p["loc"][0]) if p["loc"] else "", "reason": "body"} for p in error.errors()
        ]
        raise WrongRequest(400, *problems) from None


def _located(where: tuple[int | str, ...], message: str) -> str:
    return f"{'.'.join(str(part) for part in where)}: {message}" if where else message


def _refused(refusal: Refusal) -> Response:
    return _json({"errors": [{"msg": refusal.message, "code": refusal.code, "reason": refusal.reason}]}, 400)


def _replied(body: Json, reply: Reply) -> Response:
    match reply:
        case "sent":
            return _json(body)
        case "error":
            return _json(wire.print_errors("Internal Server Error"), 500)
        case "dropped":
            return BrokenReply()


# --- the app ---------------------------------------------------------------------------------------------------------------------------


class SimulatedVenue:
    """The routes of one world; `app` is what a server runs."""

    def __init__(self, *, world: World, clock: VenueClock, pause: Callable[[float], Awaitable[None]] = asyncio.sleep) -> None:
        self.world = world
        self.clock = clock
        self._pause = pause  # for so many seconds of the wall: requests that are on their way to the book
        self.limiter = RateLimiter()
        self._printed: dict[str, tuple[int, bytes]] = {}
        self.app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
        self.app.add_exception_handler(HTTPException, _no_such_path)
        self._read("/perpetualMarkets", "get", self._markets)
        self._read("/orderbooks/perpetualMarket/{ticker}", "get", self._book)
        self._read("/trades/perpetualMarket/{ticker}", "get", self._trades)
        self._read("/historicalFunding/{ticker}", "get", self._funding)
        self._read("/candles/perpetualMarkets/{ticker}", "candles", self._candles)
        self._read("/addresses/{address}", "get", self._address)
        self._read("/addresses/{address}/subaccountNumber/{number}", "get", self._one_subaccount)
        self._read("/addresses/{address}/parentSubaccountNumber/{number}", "get", self._parent_subaccount)
        self._read("/perpetualPositions", "get", self._positions)
        self._read("/assetPositions", "get", self._assets)
        self._read("/orders", "orders", self._orders)
        self._read("/orders/{order_id}", "orders", self._order)
        self._read("/fills", "fills", self._fills)
        self._read("/fundingPayments", "funding", self._payments)
        self._read("/transfers", "get", self._transfers)
        self._read("/height", "get", self._block)
        self._read("/time", "get", self._now)
        self._serve("GET", "/cosmos/gov/v1/proposals", self._proposals)
        self._serve("GET", "/sim/proposals", self._proposals)
        self._serve("GET", "/sim/chains", self._chains)
        self._serve("GET", "/sim/routes", self._routes)
        self._serve("GET", "/sim/buffers", self._buffers)
        self._serve("GET", "/sim/oracles", self._oracles)
        self._serve("GET", "/sim/venue", self._venue)
        self._serve("POST", "/sim/orders", self._place)
        self._serve("GET", "/sim/orders/{address}/{number}/{client_id}", self._find_order)
        self._serve("POST", "/sim/cancel", self._cancel)
        self._serve("POST", "/sim/transfers", self._transfer)
        self._serve("POST", "/sim/release", self._release)
        self._serve("GET", "/sim/transfers", self._all_transfers)
        self._serve("GET", "/sim/transfers/{client_id:path}", self._find_transfer)
        # The observer's side: it answers whatever the venue suffers, or a test could not see what happened.
        self._serve("GET", "/sim/clock", self._clock, faulty=False)
        self._serve("GET", "/sim/log", self._log, faulty=False)
        self._serve("GET", "/sim/money", self._money, faulty=False)
        self._serve("POST", "/sim/shocks", self._inject, faulty=False)

    def _serve(self, method: str, path: str, handler: Handler, *, group: str | None = None, faulty: bool = True) -> None:
        async def endpoint(request: Request) -> Response:
            self.world.advance(self.clock.now_ns())
            headers: dict[str, str] = {}
            try:
                if faulty:
                    status = self.world.error_status(writing=method == "POST")
                    if status is not None:
                        return _json(wire.print_errors("Internal Server Error"), status)
                if group is not None:
                    headers, refusal = self._refuse_excess(request, group)
                    if refusal is not None:
                        return refusal
                response = await handler(request)
                landed = self.world.error_status() if faulty and method == "POST" else None
                if landed is not None:  # it was done all the same
                    return _json(wire.print_errors("Internal Server Error"), landed)
            except WrongRequest as wrong:
                response = _json({"errors": list(wrong.errors)}, wrong.status)
            response.headers.update(headers)
            return response

        self.app.add_route(path, endpoint, methods=[method])  # a plain route: parameters are checked here, in the indexer's words

    def _read(self, path: str, group: str, handler: Handler) -> None:
        self._serve("GET", "/v4" + path, handler, group=group)

    def _refuse_excess(self, request: Request, group: str) -> tuple[dict[str, str], Response | None]:
        limit = self.world.requests_in_10s() * (CANDLES_FACTOR if group == "candles" else 1)
        address = request.client.host if request.client else ""
        now = self.world.now_ns
        left, wait_ns = self.limiter.take(address, group, now, limit)
        reset_ms, wait_ms = -(-(now + wait_ns) // 1_000_000), -(-wait_ns // 1_000_000)
        headers = {"RateLimit-Limit": str(limit), "RateLimit-Remaining": str(max(0, left)), "RateLimit-Reset": str(reset_ms)}
        if left >= 0:
            return headers, None
        refusal = _json(wire.print_errors("Too many requests"), 429)
        # Milliseconds where HTTP has seconds, as the indexer sends it.
        refusal.headers.update(headers | {"Retry-After": str(wait_ms)})
        return headers, refusal

    def _once_a_second(self, key: str, body: Callable[[], Json]) -> Response:
        """A body that stands for a second of venue time, printed once."""
        second, printed = self._printed.get(key, (-1, b""))
        if second != self.world.second:
            printed = json.dumps(body(), separators=(",", ":")).encode()
            self._printed[key] = (self.world.second, printed)
        return Response(printed, media_type="application/json", headers={"Cache-Control": "max-age=1"})

    # -- /v4: markets ------------------------------------------------------------------------------------------------------------

    async def _markets(self, request: Request) -> Response:
        limit = _limit(request)
        ticker, other = request.query_params.get("ticker"), request.query_params.get("market")
        if ticker and other:
            raise WrongRequest(400, {"msg": "Only one of ticker or market may be provided"})
        wanted = ticker or other
        if wanted:
            if wanted not in self.world.markets:
                raise _wrong_param("ticker" if ticker else "market", "ticker must be a valid ticker (BTC-USD, etc)")
            state = self.world.markets[wanted]
            return self._once_a_second(f"market {wanted}", lambda: wire.print_markets([views.market(state)]))
        states = list(self.world.markets.values())[:limit]
        return self._once_a_second(f"markets {len(states)}", lambda: wire.print_markets([views.market(state) for state in states]))

    async def _book(self, request: Request) -> Response:
        state = _market(self.world, request.path_params["ticker"])
        if state.is_touched:  # an order of this second took from it: what was printed is out of date
            self._printed.pop(f"book {state.symbol}", None)
        return self._once_a_second(f"book {state.symbol}", lambda: views.book(state))

    async def _trades(self, request: Request) -> Response:
        state = _market(self.world, request.path_params["ticker"])
        return _json({"trades": views.trades(state, self.world, _limit(request))})

    async def _funding(self, request: Request) -> Response:
        state, limit = _market(self.world, request.path_params["ticker"]), _limit(request)
        before, below = _time(request, "effectiveBeforeOrAt"), _height(request, "effectiveBeforeOrAtHeight")
        rows: list[Json] = []
        for settlement in reversed(state.settled):
            if len(rows) == limit:
                break
            if (before is None or settlement.at <= before) and (below is None or settlement.height <= below):
                rows.append(views.funding(state.symbol, settlement))
        return _json({"historicalFunding": rows})

    async def _candles(self, request: Request) -> Response:
        state, limit = _market(self.world, request.path_params["ticker"]), _limit(request)
        resolution = request.query_params.get("resolution")
        if resolution not in wire.RESOLUTIONS_NS:
            raise _wrong_param("resolution", f"resolution must be a valid Candle Resolution, one of {','.join(wire.RESOLUTIONS_NS)}")
        since, until = _time(request, "fromISO"), _time(request, "toISO")
        return _json({"candles": views.candles(state, resolution, since, until, limit)})

    # -- /v4: accounts -----------------------------------------------------------------------------------------------------------

    async def _address(self, request: Request) -> Response:
        address = request.path_params["address"]
        found = [account for account in self.world.exchange.subaccounts.values() if account.address == address]
        if not found:
            raise _not_found(f"No subaccounts found for address {address}")
        return _json({"subaccounts": [views.subaccount(self.world, account).as_json() for account in found], "totalTradingRewards": "0"})

    async def _one_subaccount(self, request: Request) -> Response:
        account = _subaccount(self.world, request.path_params["address"], request.path_params["number"], "params")
        return _json(wire.print_subaccount(views.subaccount(self.world, account)))

    async def _parent_subaccount(self, request: Request) -> Response:
        address, number = request.path_params["address"], request.path_params["number"]
        if not re.fullmatch(r"\d{1,3}", number) or int(number) > 127:
            raise _wrong_param("parentSubaccountNumber", "parentSubaccountNumber must be a non-negative integer less than 128", "params")
        accounts = self.world.exchange.subaccounts.values()
        children = [account for account in accounts if account.address == address and account.number % 128 == int(number)]
        if not children:
            raise _not_found(f"No subaccounts found with address {address} and parentSubaccountNumber {number}")
        bodies = [views.subaccount(self.world, account) for account in children]
        total: dict[str, Json] = {
            "address": address,
            "parentSubaccountNumber": int(number),
            "equity": wire.decimal_text(views.usdc(sum(body.equity for body in bodies))),
            "freeCollateral": wire.decimal_text(views.usdc(sum(body.free_collateral for body in bodies))),
            "childSubaccounts": [body.as_json() for body in bodies],
        }
        return _json({"subaccount": total})

    async def _positions(self, request: Request) -> Response:
        account, limit = _asked_subaccount(self.world, request), _limit(request)
        statuses = _listed(request, "status")
        held = [*account.holdings.values(), *reversed(account.closed)]
        rows: list[Json] = [
            views.position(self.world, account, holding).as_json() for holding in held if not statuses or holding.status in statuses
        ]
        return _json({"positions": rows[:limit]})

    async def _assets(self, request: Request) -> Response:
        account = _asked_subaccount(self.world, request)
        return _json({"positions": [asset.as_json() for asset in views.assets(account).values()]})

    async def _orders(self, request: Request) -> Response:
        account, limit = _asked_subaccount(self.world, request), _limit(request)
        statuses, asked = _listed(request, "status"), request.query_params
        rows: list[Json] = []
        for state in sorted(account.orders.values(), key=lambda order: -order.accepted_at):
            wire_order = views.order(self.world, account, state)
            if (
                (not statuses or wire_order.status in statuses)
                and asked.get("ticker", wire_order.ticker) == wire_order.ticker
                and asked.get("side", wire_order.side) == wire_order.side
                and asked.get("type", wire_order.type) == wire_order.type
            ):
                rows.append(wire_order.as_json())
        return _json(rows[:limit])

    async def _order(self, request: Request) -> Response:
        wanted = request.path_params["order_id"]
        for account in self.world.exchange.subaccounts.values():
            for state in account.orders.values():
                if state.id == wanted:
                    return _json(views.order(self.world, account, state).as_json())
        raise _not_found(f"Unable to find order id {wanted}")

    def _paged(self, request: Request, key: str, newest_first: list[Json]) -> Response:
        limit, page = _limit(request), _page(request)
        if page is None:
            return _json({key: newest_first[:limit]})
        offset = (page - 1) * limit
        return _json({key: newest_first[offset : offset + limit], "pageSize": limit, "totalResults": len(newest_first), "offset": offset})

    async def _fills(self, request: Request) -> Response:
        account = _asked_subaccount(self.world, request)
        before, below = _time(request, "createdBeforeOrAt"), _height(request, "createdBeforeOrAtHeight")
        wanted = request.query_params.get("market")
        rows = [
            views.fill(account, record)
            for record in reversed(account.fills)
            if wanted in (None, record.market) and (before is None or record.at <= before) and (below is None or record.height <= below)
        ]
        return self._paged(request, "fills", rows)

    async def _payments(self, request: Request) -> Response:
        account = _asked_subaccount(self.world, request)
        after, wanted = _time(request, "afterOrAt"), request.query_params.get("ticker")
        with_zeros = request.query_params.get("zeroPayments", "true") != "false"
        rows = [
            views.payment(self.world, account, record)
            for record in reversed(account.payments)
            if wanted in (None, record.market) and (after is None or record.at >= after) and (with_zeros or record.payment)
        ]
        return self._paged(request, "fundingPayments", rows)

    async def _transfers(self, request: Request) -> Response:
        account = _asked_subaccount(self.world, request)
        before, below = _time(request, "createdBeforeOrAt"), _height(request, "createdBeforeOrAtHeight")
        rows = [
            views.movement(account, record)
            for record in reversed(account.movements)
            if (before is None or record.at <= before) and (below is None or record.height <= below)
        ]
        return self._paged(request, "transfers", rows)

    async def _block(self, request: Request) -> Response:
        return _json(wire.Height(height=self.world.height, at=self.world.block_at).as_json())

    async def _now(self, request: Request) -> Response:
        return _json(wire.print_time(self.world.now_ns))

    # -- /sim --------------------------------------------------------------------------------------------------------------------

    async def _clock(self, request: Request) -> Response:
        body: dict[str, Json] = {
            "speed": self.clock.speed,
            "now_ns": self.world.now_ns,
            "started_ns": self.world.started_ns,
            "seed": self.world.seed,
            "scenario": self.world.scenario.scenario,
        }
        return _json(body)

    async def _proposals(self, request: Request) -> Response:
        return _json(views.proposals(self.world, request.query_params.get("proposal_status")))

    async def _chains(self, request: Request) -> Response:
        return self._once_a_second("chains", lambda: views.chains(self.world))

    async def _routes(self, request: Request) -> Response:
        return _json(views.routes(self.world))

    async def _buffers(self, request: Request) -> Response:
        return _json(views.buffers(self.world))

    async def _oracles(self, request: Request) -> Response:
        return self._once_a_second("oracles", lambda: views.oracles(self.world))

    async def _venue(self, request: Request) -> Response:
        return _json(views.venue(self.world))

    async def _place(self, request: Request) -> Response:
        body, raw = await _read_body(request, OrderBody)
        await self._travel(f"{self._address_of(body)}/{body.subaccount}/{body.client_id}")
        found = self.world.place(
            OrderRequest(
                address=self._address_of(body), subaccount=body.subaccount, client_id=body.client_id, market=body.market, side=body.side,
                size=body.size, limit_price=body.limit_price, reduce_only=body.reduce_only, time_in_force=body.time_in_force,
                good_til=body.good_til,
            ),
            raw,
        )  # fmt: skip
        if isinstance(found, Refusal):
            return _refused(found)
        order, duplicate, reply = found
        return _replied(views.order_reply(order, duplicate), reply)

    async def _travel(self, name: str) -> None:
        """Lets a request take its way to the book: the world has moved on by its latency when it arrives."""
        sent = self.clock.now_ns()
        self.world.advance(sent)
        arrives = sent + self.world.latency_ns(name)
        if arrives > sent:
            await self._pause((arrives - sent) / NS / self.clock.speed)
        self.world.advance(max(arrives, self.clock.now_ns()))

    def _address_of(self, body: _Body) -> str:
        """The address asked for; the scenario's first one when none was given."""
        return body.address or self.world.scenario.accounts[0].address

    async def _find_order(self, request: Request) -> Response:
        account = _subaccount(self.world, request.path_params["address"], request.path_params["number"], "params")
        client_id = request.path_params["client_id"]
        order = account.orders.get(int(client_id)) if re.fullmatch(r"\d{1,10}", client_id) else None
        if order is None:
            raise _not_found(f"No order found with client_id {client_id}")
        return _json(views.order_reply(order, False))

    async def _cancel(self, request: Request) -> Response:
        body, raw = await _read_body(request, CancelBody)
        await self._travel(f"cancel/{self._address_of(body)}/{body.subaccount}/{self.world.now_ns}")
        found = self.world.cancel(self._address_of(body), body.subaccount, body.market, body.client_id, raw)
        if isinstance(found, Refusal):
            return _refused(found)
        return _json({"canceled": [views.order_reply(order, False) for order in found]})

    async def _transfer(self, request: Request) -> Response:
        body, raw = await _read_body(request, TransferBody)
        self.world.advance(self.clock.now_ns())
        found = self.world.transfer(
            TransferRequest(
                client_id=body.client_id, route=body.route, amount=body.amount, expires=body.expires, address=self._address_of(body),
                subaccount=body.subaccount, max_fee=body.max_fee,
            ),
            raw,
        )  # fmt: skip
        if isinstance(found, Refusal):
            return _refused(found)
        transfer, duplicate, reply = found
        return _replied(views.transfer_reply(transfer, self.world.now_ns, duplicate), reply)

    async def _release(self, request: Request) -> Response:
        body, raw = await _read_body(request, ReleaseBody)
        found = self.world.release(body.client_id, raw)
        if isinstance(found, Refusal):
            return _refused(found)
        return _json(views.transfer_reply(found, self.world.now_ns, False))

    async def _all_transfers(self, request: Request) -> Response:
        return _json({"transfers": [views.transfer_reply(t, self.world.now_ns, False) for t in self.world.bridges.transfers.values()]})

    async def _find_transfer(self, request: Request) -> Response:
        client_id = request.path_params["client_id"]
        transfer = self.world.bridges.transfers.get(client_id)
        if transfer is None:
            raise _not_found(f"No transfer found with client_id {client_id}")
        return _json(views.transfer_reply(transfer, self.world.now_ns, False))

    async def _log(self, request: Request) -> Response:
        return _json(views.log(self.world, _height(request, "after") or 0, _listed(request, "kind")))

    async def _money(self, request: Request) -> Response:
        return _json(views.money(self.world))

    async def _inject(self, request: Request) -> Response:
        raw = await request.body()
        try:
            shock = SHOCK.validate_json(raw)
        except ValidationError as error:
            problems: list[dict[str, Json]] = [{"msg": _located(p["loc"], p["msg"])} for p in error.errors()]
            raise WrongRequest(400, *problems) from None
        self.world.inject(shock)
        return _json({"at": self.world.now_ns, "kind": shock.kind})


async def _no_such_path(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 500
    return _json(wire.print_errors(f"Cannot {request.method} {request.url.path}"), status)


def server(venue: SimulatedVenue) -> uvicorn.Server:
    """A server of the venue, to be run on a socket of `bind`."""
    config = uvicorn.Config(
        venue.app,
        log_level="critical",
        access_log=False,
        lifespan="off",
        timeout_graceful_shutdown=2,
        timeout_keep_alive=75,
        server_header=False,
    )
    return uvicorn.Server(config)
