"""The dYdX v4 indexer's wire shapes, parsed and printed (floor 6): `parse_markets(payload)["BTC-USD"].oracle_price`.

Parsing is tolerant of unknown fields and strict about the ones it reads: a wrong shape is one `EdgeError` that names the field and what was
found. Printing (`as_json`) gives what the indexer sends: decimals as strings without exponents, heights as strings, counts as numbers,
negative sizes for shorts. Rates are fractions per HOUR (the indexer's own basis), times int64 ns UTC, heights int.
Shapes: dydxprotocol/v4-chain, indexer/services/comlink/public/swagger.json.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Literal, TypeVar

from daemon.errors import EdgeError
from daemon.units import NS, iso, parse_iso

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")
Side = Literal["BUY", "SELL"]

EDGE = "dydx"
MARKET_STATUSES = ("ACTIVE", "PAUSED", "CANCEL_ONLY", "POST_ONLY", "INITIALIZING", "FINAL_SETTLEMENT")
RESOLUTIONS_NS = {
    "1MIN": 60 * NS,
    "5MINS": 300 * NS,
    "15MINS": 900 * NS,
    "30MINS": 1800 * NS,
    "1HOUR": 3600 * NS,
    "4HOURS": 14_400 * NS,
    "1DAY": 86_400 * NS,
}


def decimal_text(value: float | Decimal) -> str:
    """The shortest decimal that reads back as `value`, without an exponent: `0.0000125` for 1.25e-05."""
    text = format(value, "f") if isinstance(value, Decimal) else repr(float(value))
    if "e" in text:
        text = format(Decimal(text), "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in ("", "-0") else text


def _wrong(where: str, expected: str, found: object) -> EdgeError:
    shown = repr(found)
    if len(shown) > 80:
        shown = shown[:77] + "..."
    return EdgeError(f"{where}: expected {expected}, found {shown}", edge=EDGE, reason="wrong_shape", retryable=False)


def _mapping(payload: object, where: str) -> Mapping[str, object]:
    if not isinstance(payload, Mapping):
        raise _wrong(where, "an object", payload)
    return payload


def _sequence(payload: object, where: str) -> Sequence[object]:
    if not isinstance(payload, list):
        raise _wrong(where, "an array", payload)
    return payload


@dataclass(frozen=True, slots=True)
class _Fields:
    """One JSON object being read, with the path to it for error texts."""

    fields: Mapping[str, object]
    where: str

    def _at(self, key: str) -> str:
        return f"{self.where}.{key}" if self.where else key

    def text(self, key: str, default: str | None = None) -> str:
        found = self.fields.get(key)
        if isinstance(found, str):
            return found
        if isinstance(found, int) and not isinstance(found, bool):
            return str(found)
        if found is None and default is not None:
            return default
        raise _wrong(self._at(key), "text", found)

    def number(self, key: str) -> float:
        found = self.optional_number(key)
        if found is None:
            raise _wrong(self._at(key), "a decimal string", self.fields.get(key))
        return found

    def optional_number(self, key: str) -> float | None:
        found = self.fields.get(key)
        if found is None:
            return None
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            try:
                value = float(found)
            except ValueError:
                raise _wrong(self._at(key), "a decimal string", found) from None
            if math.isfinite(value):
                return value
        raise _wrong(self._at(key), "a finite decimal string", found)

    def number_or(self, key: str, default: float) -> float:
        found = self.optional_number(key)
        return default if found is None else found

    def exact(self, key: str) -> Decimal:
        found = self.fields.get(key)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            try:
                value = Decimal(str(found))
            except InvalidOperation:
                raise _wrong(self._at(key), "a decimal string", found) from None
            if value.is_finite():
                return value
        raise _wrong(self._at(key), "a decimal string", found)

    def exact_or(self, key: str, default: Decimal) -> Decimal:
        return default if self.fields.get(key) is None else self.exact(key)

    def count(self, key: str, default: int | None = None) -> int:
        found = self.fields.get(key)
        if found is None and default is not None:
            return default
        if isinstance(found, str | int) and not isinstance(found, bool):
            try:
                return int(found)
            except ValueError:
                pass
        raise _wrong(self._at(key), "a whole number", found)

    def optional_count(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self.count(key)

    def flag(self, key: str, default: bool) -> bool:
        found = self.fields.get(key)
        if found is None:
            return default
        if not isinstance(found, bool):
            raise _wrong(self._at(key), "true or false", found)
        return found

    def time(self, key: str) -> int:
        found = self.fields.get(key)
        if not isinstance(found, str):
            raise _wrong(self._at(key), "an ISO-8601 time", found)
        try:
            return parse_iso(found)
        except ValueError:
            raise _wrong(self._at(key), "an ISO-8601 time", found) from None

    def optional_time(self, key: str) -> int | None:
        return None if self.fields.get(key) is None else self.time(key)

    def side(self, key: str) -> Side:
        match self.fields.get(key):
            case "BUY":
                return "BUY"
            case "SELL":
                return "SELL"
            case other:
                raise _wrong(self._at(key), "BUY or SELL", other)


def _each(payload: object, key: str, read: Callable[[_Fields], T]) -> tuple[T, ...]:
    rows = _sequence(_mapping(payload, "the reply").get(key), key)
    return tuple(read(_Fields(_mapping(row, f"{key}[{i}]"), f"{key}[{i}]")) for i, row in enumerate(rows))


def _optional_text(value: float | None) -> str | None:
    return None if value is None else decimal_text(value)


# --- markets ---------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Market:
    """A perpetual market. `initial_margin` is the BASE fraction (before open-interest scaling); the next rate is not zero-padded."""

    ticker: str
    clob_pair_id: int
    status: str
    oracle_price: float | None
    next_funding_rate: float  # per hour
    initial_margin: float
    maintenance_margin: float
    open_interest: float  # base units
    tick_size: Decimal
    step_size: Decimal
    price_change_24h: float | None = None
    volume_24h: float | None = None
    trades_24h: int = 0
    atomic_resolution: int = -10
    quantum_conversion_exponent: int = -9
    step_base_quantums: int = 1_000_000
    subticks_per_tick: int = 100_000
    market_type: str = "CROSS"
    open_interest_lower_cap: float = 0.0  # USD
    open_interest_upper_cap: float = 0.0  # USD; 0: not scaled
    base_open_interest: float = 0.0
    default_funding_rate_1h: float | None = None

    def as_json(self) -> dict[str, Json]:
        """The market as `/perpetualMarkets` prints it."""
        return {
            "clobPairId": str(self.clob_pair_id),
            "ticker": self.ticker,
            "status": self.status,
            "oraclePrice": _optional_text(self.oracle_price),
            "priceChange24H": decimal_text(self.price_change_24h or 0.0),
            "volume24H": decimal_text(self.volume_24h or 0.0),
            "trades24H": self.trades_24h,
            "nextFundingRate": decimal_text(self.next_funding_rate),
            "initialMarginFraction": decimal_text(self.initial_margin),
            "maintenanceMarginFraction": decimal_text(self.maintenance_margin),
            "openInterest": decimal_text(self.open_interest),
            "atomicResolution": self.atomic_resolution,
            "quantumConversionExponent": self.quantum_conversion_exponent,
            "tickSize": decimal_text(self.tick_size),
            "stepSize": decimal_text(self.step_size),
            "stepBaseQuantums": self.step_base_quantums,
            "subticksPerTick": self.subticks_per_tick,
            "marketType": self.market_type,
            "openInterestLowerCap": decimal_text(self.open_interest_lower_cap),
            "openInterestUpperCap": decimal_text(self.open_interest_upper_cap),
            "baseOpenInterest": decimal_text(self.base_open_interest),
            "defaultFundingRate1H": decimal_text(self.default_funding_rate_1h or 0.0),
        }


def parse_markets(payload: object) -> dict[str, Market]:
    """Markets by ticker from `GET /perpetualMarkets`; raises EdgeError."""
    markets = _mapping(_mapping(payload, "the reply").get("markets"), "markets")
    return {ticker: _market(_Fields(_mapping(row, f"markets.{ticker}"), f"markets.{ticker}")) for ticker, row in markets.items()}


def _market(f: _Fields) -> Market:
    return Market(
        ticker=f.text("ticker"),
        clob_pair_id=f.count("clobPairId", 0),
        status=f.text("status"),
        oracle_price=f.optional_number("oraclePrice"),
        next_funding_rate=f.number_or("nextFundingRate", 0.0),
        initial_margin=f.number("initialMarginFraction"),
        maintenance_margin=f.number("maintenanceMarginFraction"),
        open_interest=f.number_or("openInterest", 0.0),
        tick_size=f.exact("tickSize"),
        step_size=f.exact("stepSize"),
        price_change_24h=f.optional_number("priceChange24H"),
        volume_24h=f.optional_number("volume24H"),
        trades_24h=f.count("trades24H", 0),
        atomic_resolution=f.count("atomicResolution", -10),
        quantum_conversion_exponent=f.count("quantumConversionExponent", -9),
        step_base_quantums=f.count("stepBaseQuantums", 1_000_000),
        subticks_per_tick=f.count("subticksPerTick", 100_000),
        market_type=f.text("marketType", "CROSS"),
        open_interest_lower_cap=f.number_or("openInterestLowerCap", 0.0),
        open_interest_upper_cap=f.number_or("openInterestUpperCap", 0.0),
        base_open_interest=f.number_or("baseOpenInterest", 0.0),
        default_funding_rate_1h=f.optional_number("defaultFundingRate1H"),
    )


def print_markets(markets: Sequence[Market]) -> dict[str, Json]:
    """The body of `/perpetualMarkets`."""
    return {"markets": {m.ticker: m.as_json() for m in markets}}


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """An order book, best first: `(price, size)` in USD and base units. The indexer sends no time with it."""

    bids: tuple[tuple[float, float], ...]
    asks: tuple[tuple[float, float], ...]

    def as_json(self) -> dict[str, Json]:
        """The body of `/orderbooks/perpetualMarket/{ticker}`."""
        return {
            "bids": [{"price": decimal_text(p), "size": decimal_text(s)} for p, s in self.bids],
            "asks": [{"price": decimal_text(p), "size": decimal_text(s)} for p, s in self.asks],
        }


def _levels(payload: object, key: str) -> tuple[tuple[float, float], ...]:
    rows = _sequence(_mapping(payload, "the reply").get(key), key)
    levels = []
    for i, row in enumerate(rows):
        f = _Fields(_mapping(row, f"{key}[{i}]"), f"{key}[{i}]")
        levels.append((f.number("price"), f.number("size")))
    return tuple(levels)


def parse_orderbook(payload: object) -> Book:
    """The book from `GET /orderbooks/perpetualMarket/{ticker}`, bids falling and asks rising whatever order came; raises EdgeError."""
    bids, asks = _levels(payload, "bids"), _levels(payload, "asks")
    return Book(bids=tuple(sorted(bids, key=lambda level: -level[0])), asks=tuple(sorted(asks)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Candle:
    """A bar, stamped with its OPEN: it is known only at `started_at` + its resolution. Mids are None when the book was empty."""

    ticker: str
    resolution: str
    started_at: int
    open: float
    high: float
    low: float
    close: float
    base_volume: float = 0.0
    usd_volume: float = 0.0
    trades: int = 0
    starting_open_interest: float = 0.0
    mid_open: float | None = None
    mid_close: float | None = None

    def as_json(self) -> dict[str, Json]:
        """One element of `candles`."""
        return {
            "startedAt": iso(self.started_at),
            "ticker": self.ticker,
            "resolution": self.resolution,
            "low": decimal_text(self.low),
            "high": decimal_text(self.high),
            "open": decimal_text(self.open),
            "close": decimal_text(self.close),
            "baseTokenVolume": decimal_text(self.base_volume),
            "usdVolume": decimal_text(self.usd_volume),
            "trades": self.trades,
            "startingOpenInterest": decimal_text(self.starting_open_interest),
            "orderbookMidPriceOpen": _optional_text(self.mid_open),
            "orderbookMidPriceClose": _optional_text(self.mid_close),
            "id": f"{self.ticker}-{self.resolution}-{self.started_at // NS}",
        }


def parse_candles(payload: object) -> tuple[Candle, ...]:
    """Bars from `GET /candles/perpetualMarkets/{ticker}` in the order sent (newest first); raises EdgeError."""
    return _each(payload, "candles", _candle)


def _candle(f: _Fields) -> Candle:
    return Candle(
        ticker=f.text("ticker"),
        resolution=f.text("resolution"),
        started_at=f.time("startedAt"),
        open=f.number("open"),
        high=f.number("high"),
        low=f.number("low"),
        close=f.number("close"),
        base_volume=f.number_or("baseTokenVolume", 0.0),
        usd_volume=f.number_or("usdVolume", 0.0),
        trades=f.count("trades", 0),
        starting_open_interest=f.number_or("startingOpenInterest", 0.0),
        mid_open=f.optional_number("orderbookMidPriceOpen"),
        mid_close=f.optional_number("orderbookMidPriceClose"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingRow:
    """One settlement: `rate` a fraction per hour, > 0 longs paid; `price` the oracle price it was paid on."""

    ticker: str
    rate: float
    price: float
    effective_at: int
    effective_at_height: int

    def as_json(self) -> dict[str, Json]:
        """One element of `historicalFunding`."""
        return {
            "ticker": self.ticker,
            "rate": decimal_text(self.rate),
            "price": decimal_text(self.price),
            "effectiveAt": iso(self.effective_at),
            "effectiveAtHeight": str(self.effective_at_height),
        }


def parse_funding(payload: object) -> tuple[FundingRow, ...]:
    """Settlements from `GET /historicalFunding/{ticker}` in the order sent (newest first); raises EdgeError."""
    return _each(payload, "historicalFunding", _funding_row)


def _funding_row(f: _Fields) -> FundingRow:
    return FundingRow(
        ticker=f.text("ticker"),
        rate=f.number("rate"),
        price=f.number("price"),
        effective_at=f.time("effectiveAt"),
        effective_at_height=f.count("effectiveAtHeight", 0),
    )


# --- accounts --------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    """A perpetual position; `size` is signed (negative short); `net_funding` > 0 was received."""

    market: str
    status: str  # OPEN CLOSED LIQUIDATED
    size: float
    entry_price: float
    unrealized_pnl: float = 0.0
    realized_pnl: float = 0.0
    net_funding: float = 0.0
    max_size: float = 0.0
    sum_open: float = 0.0
    sum_close: float = 0.0
    exit_price: float | None = None
    created_at: int = 0
    created_at_height: int = 0
    closed_at: int | None = None
    subaccount: int = 0

    def as_json(self) -> dict[str, Json]:
        """One element of `positions`, or one value of `openPerpetualPositions`."""
        return {
            "market": self.market,
            "status": self.status,
            "side": "SHORT" if (self.size or self.max_size) < 0 else "LONG",
            "size": decimal_text(self.size),
            "maxSize": decimal_text(self.max_size),
            "entryPrice": decimal_text(self.entry_price),
            "exitPrice": _optional_text(self.exit_price),
            "realizedPnl": decimal_text(self.realized_pnl),
            "unrealizedPnl": decimal_text(self.unrealized_pnl),
            "createdAt": iso(self.created_at),
            "createdAtHeight": str(self.created_at_height),
            "closedAt": None if self.closed_at is None else iso(self.closed_at),
            "sumOpen": decimal_text(self.sum_open),
            "sumClose": decimal_text(self.sum_close),
            "netFunding": decimal_text(self.net_funding),
            "subaccountNumber": self.subaccount,
        }


def parse_positions(payload: object) -> tuple[Position, ...]:
    """Positions from `GET /perpetualPositions`; shorts have negative sizes; raises EdgeError."""
    return _each(payload, "positions", _position)


def _position(f: _Fields) -> Position:
    size = f.number("size")
    if f.text("side", "LONG") == "SHORT":
        size = -abs(size)  # a source that sends shorts unsigned (websocket re-prints) must not become a long
    return Position(
        market=f.text("market"),
        status=f.text("status"),
        size=size,
        entry_price=f.number("entryPrice"),
        unrealized_pnl=f.number_or("unrealizedPnl", 0.0),
        realized_pnl=f.number_or("realizedPnl", 0.0),
        net_funding=f.number_or("netFunding", 0.0),
        max_size=f.number_or("maxSize", 0.0),
        sum_open=f.number_or("sumOpen", 0.0),
        sum_close=f.number_or("sumClose", 0.0),
        exit_price=f.optional_number("exitPrice"),
        created_at=f.optional_time("createdAt") or 0,
        created_at_height=f.count("createdAtHeight", 0),
        closed_at=f.optional_time("closedAt"),
        subaccount=f.count("subaccountNumber", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class AssetPosition:
    """A balance of an asset; signed: a negative USDC balance is printed as side SHORT with a positive size, as the indexer does."""

    symbol: str
    size: float
    asset_id: int = 0
    subaccount: int = 0

    def as_json(self) -> dict[str, Json]:
        """One element of `positions` of `/assetPositions`."""
        return {
            "symbol": self.symbol,
            "side": "SHORT" if self.size < 0 else "LONG",
            "size": decimal_text(abs(self.size)),
            "assetId": str(self.asset_id),
            "subaccountNumber": self.subaccount,
        }


def parse_asset_positions(payload: object) -> tuple[AssetPosition, ...]:
    """Balances from `GET /assetPositions`, signed; raises EdgeError."""
    return _each(payload, "positions", _asset_position)


def _asset_position(f: _Fields) -> AssetPosition:
    size = abs(f.number("size"))
    return AssetPosition(
        symbol=f.text("symbol"),
        size=-size if f.text("side", "LONG") == "SHORT" else size,
        asset_id=f.count("assetId", 0),
        subaccount=f.count("subaccountNumber", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Subaccount:
    """A subaccount. `free_collateral` is overstated while open-interest scaling applies: the indexer uses the base initial margin.

    `assets["USDC"].size` is the chain's quote balance (it includes the cost of entry): equity = that + sum of size x oracle price.
    """

    address: str
    number: int
    equity: float
    free_collateral: float
    positions: Mapping[str, Position]
    assets: Mapping[str, AssetPosition]
    margin_enabled: bool = True
    updated_at_height: int = 0
    latest_processed_block_height: int | None = None

    def as_json(self) -> dict[str, Json]:
        """The subaccount without its envelope; `print_subaccount` wraps it."""
        return {
            "address": self.address,
            "subaccountNumber": self.number,
            "equity": decimal_text(self.equity),
            "freeCollateral": decimal_text(self.free_collateral),
            "openPerpetualPositions": {market: p.as_json() for market, p in self.positions.items()},
            "assetPositions": {symbol: a.as_json() for symbol, a in self.assets.items()},
            "marginEnabled": self.margin_enabled,
            "updatedAtHeight": str(self.updated_at_height),
            "latestProcessedBlockHeight": str(self.latest_processed_block_height or 0),
        }


def print_subaccount(subaccount: Subaccount) -> dict[str, Json]:
    """The body of `/addresses/{address}/subaccountNumber/{n}`: wrapped, as the code (not the published schema) has it."""
    return {"subaccount": subaccount.as_json()}


def parse_subaccount(payload: object) -> Subaccount:
    """The subaccount from `GET /addresses/{address}/subaccountNumber/{n}`; the envelope may be missing; raises EdgeError."""
    outer = _mapping(payload, "the reply")
    f = _Fields(_mapping(outer.get("subaccount", outer), "subaccount"), "subaccount")
    positions = _mapping(f.fields.get("openPerpetualPositions"), "subaccount.openPerpetualPositions")
    assets = _mapping(f.fields.get("assetPositions"), "subaccount.assetPositions")
    return Subaccount(
        address=f.text("address"),
        number=f.count("subaccountNumber"),
        equity=f.number("equity"),
        free_collateral=f.number("freeCollateral"),
        positions={
            market: _position(_Fields(_mapping(row, f"openPerpetualPositions.{market}"), f"openPerpetualPositions.{market}"))
            for market, row in positions.items()
        },
        assets={
            symbol: _asset_position(_Fields(_mapping(row, f"assetPositions.{symbol}"), f"assetPositions.{symbol}"))
            for symbol, row in assets.items()
        },
        margin_enabled=f.flag("marginEnabled", True),
        updated_at_height=f.count("updatedAtHeight", 0),
        latest_processed_block_height=f.optional_count("latestProcessedBlockHeight"),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """An order as the indexer knows it; exactly one of `good_til_block` and `good_til_block_time` is set on real orders."""

    id: str
    client_id: int
    ticker: str
    side: Side
    size: Decimal
    price: Decimal
    total_filled: Decimal
    status: str  # OPEN FILLED CANCELED BEST_EFFORT_CANCELED BEST_EFFORT_OPENED UNTRIGGERED ERROR
    time_in_force: str
    reduce_only: bool
    type: str = "LIMIT"
    post_only: bool = False
    clob_pair_id: int = 0
    order_flags: int = 0  # 0 short-term, 32 conditional, 64 long-term
    good_til_block: int | None = None
    good_til_block_time: int | None = None
    created_at_height: int | None = None
    updated_at: int | None = None
    updated_at_height: int | None = None
    subaccount_id: str = ""
    subaccount: int = 0
    client_metadata: int = 0

    def as_json(self) -> dict[str, Json]:
        """One element of the bare array that `/orders` sends."""
        body: dict[str, Json] = {
            "id": self.id,
            "subaccountId": self.subaccount_id,
            "clientId": str(self.client_id),
            "clobPairId": str(self.clob_pair_id),
            "side": self.side,
            "size": decimal_text(self.size),
            "totalFilled": decimal_text(self.total_filled),
            "price": decimal_text(self.price),
            "type": self.type,
            "status": self.status,
            "timeInForce": self.time_in_force,
            "reduceOnly": self.reduce_only,
            "orderFlags": str(self.order_flags),
            "clientMetadata": str(self.client_metadata),
            "postOnly": self.post_only,
            "ticker": self.ticker,
            "subaccountNumber": self.subaccount,
        }
        if self.good_til_block is not None:
            body["goodTilBlock"] = str(self.good_til_block)
        if self.good_til_block_time is not None:
            body["goodTilBlockTime"] = iso(self.good_til_block_time)
        if self.created_at_height is not None:
            body["createdAtHeight"] = str(self.created_at_height)
        if self.updated_at is not None:
            body["updatedAt"] = iso(self.updated_at)
            body["updatedAtHeight"] = str(self.updated_at_height or 0)
        return body


def parse_orders(payload: object) -> tuple[Order, ...]:
    """Orders from `GET /orders` (a BARE array); raises EdgeError."""
    return tuple(_order(_Fields(_mapping(row, f"orders[{i}]"), f"orders[{i}]")) for i, row in enumerate(_sequence(payload, "orders")))


def _order(f: _Fields) -> Order:
    return Order(
        id=f.text("id"),
        client_id=f.count("clientId"),
        ticker=f.text("ticker"),
        side=f.side("side"),
        size=f.exact("size"),
        price=f.exact("price"),
        total_filled=f.exact_or("totalFilled", Decimal(0)),
        status=f.text("status"),
        time_in_force=f.text("timeInForce", "GTT"),
        reduce_only=f.flag("reduceOnly", False),
        type=f.text("type", "LIMIT"),
        post_only=f.flag("postOnly", False),
        clob_pair_id=f.count("clobPairId", 0),
        order_flags=f.count("orderFlags", 0),
        good_til_block=f.optional_count("goodTilBlock"),
        good_til_block_time=f.optional_time("goodTilBlockTime"),
        created_at_height=f.optional_count("createdAtHeight"),
        updated_at=f.optional_time("updatedAt"),
        updated_at_height=f.optional_count("updatedAtHeight"),
        subaccount_id=f.text("subaccountId", ""),
        subaccount=f.count("subaccountNumber", 0),
        client_metadata=f.count("clientMetadata", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One execution; `fee` > 0 was paid. `type` LIQUIDATED and DELEVERAGED are not ours."""

    id: str
    market: str
    side: Side
    size: Decimal
    price: float
    fee: float
    liquidity: str  # TAKER MAKER
    type: str  # LIMIT LIQUIDATED LIQUIDATION DELEVERAGED OFFSETTING TWAP_SUBORDER
    created_at: int
    created_at_height: int
    order_id: str | None = None
    client_metadata: int = 0
    subaccount: int = 0

    def as_json(self) -> dict[str, Json]:
        """One element of `fills`."""
        return {
            "id": self.id,
            "side": self.side,
            "liquidity": self.liquidity,
            "type": self.type,
            "market": self.market,
            "marketType": "PERPETUAL",
            "price": decimal_text(self.price),
            "size": decimal_text(self.size),
            "fee": decimal_text(self.fee),
            "createdAt": iso(self.created_at),
            "createdAtHeight": str(self.created_at_height),
            "orderId": self.order_id,
            "clientMetadata": str(self.client_metadata),
            "subaccountNumber": self.subaccount,
        }


def parse_fills(payload: object) -> tuple[Fill, ...]:
    """Executions from `GET /fills`, newest first; raises EdgeError."""
    return _each(payload, "fills", _fill)


def _fill(f: _Fields) -> Fill:
    return Fill(
        id=f.text("id"),
        market=f.text("market"),
        side=f.side("side"),
        size=f.exact("size"),
        price=f.number("price"),
        fee=f.number_or("fee", 0.0),
        liquidity=f.text("liquidity", "TAKER"),
        type=f.text("type", "LIMIT"),
        created_at=f.time("createdAt"),
        created_at_height=f.count("createdAtHeight", 0),
        order_id=f.text("orderId", "") or None,
        client_metadata=f.count("clientMetadata", 0),
        subaccount=f.count("subaccountNumber", 0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class FundingPayment:
    """A payment at a settlement: `payment` > 0 was received; `rate` per hour; `size` signed."""

    ticker: str
    perpetual_id: int
    created_at: int
    created_at_height: int
    oracle_price: float
    size: float
    rate: float
    payment: float
    subaccount: int = 0
    funding_index: float = 0.0

    def as_json(self) -> dict[str, Json]:
        """One element of `fundingPayments`."""
        return {
            "createdAt": iso(self.created_at),
            "createdAtHeight": str(self.created_at_height),
            "perpetualId": str(self.perpetual_id),
            "ticker": self.ticker,
            "oraclePrice": decimal_text(self.oracle_price),
            "size": decimal_text(self.size),
            "side": "SHORT" if self.size < 0 else "LONG",
            "rate": decimal_text(self.rate),
            "payment": decimal_text(self.payment),
            "subaccountNumber": str(self.subaccount),
            "fundingIndex": decimal_text(self.funding_index),
        }


def parse_funding_payments(payload: object) -> tuple[FundingPayment, ...]:
    """Payments from `GET /fundingPayments`, newest first; raises EdgeError."""
    return _each(payload, "fundingPayments", _funding_payment)


def _funding_payment(f: _Fields) -> FundingPayment:
    size = f.number("size")
    return FundingPayment(
        ticker=f.text("ticker"),
        perpetual_id=f.count("perpetualId", 0),
        created_at=f.time("createdAt"),
        created_at_height=f.count("createdAtHeight", 0),
        oracle_price=f.number("oraclePrice"),
        size=-abs(size) if f.text("side", "LONG") == "SHORT" else size,
        rate=f.number("rate"),
        payment=f.number("payment"),
        subaccount=f.count("subaccountNumber", 0),
        funding_index=f.number_or("fundingIndex", 0.0),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """A movement of collateral; `type` is relative to the queried subaccount; an outside party has no subaccount number."""

    id: str
    type: str  # TRANSFER_IN TRANSFER_OUT DEPOSIT WITHDRAWAL
    size: float
    created_at: int
    created_at_height: int
    sender: str
    recipient: str
    sender_subaccount: int | None = None
    recipient_subaccount: int | None = None
    symbol: str = "USDC"
    transaction_hash: str = ""

    def as_json(self) -> dict[str, Json]:
        """One element of `transfers`."""
        return {
            "id": self.id,
            "sender": _party(self.sender, self.sender_subaccount),
            "recipient": _party(self.recipient, self.recipient_subaccount),
            "size": decimal_text(self.size),
            "createdAt": iso(self.created_at),
            "createdAtHeight": str(self.created_at_height),
            "symbol": self.symbol,
            "type": self.type,
            "transactionHash": self.transaction_hash,
        }


def _party(address: str, subaccount: int | None) -> dict[str, Json]:
    return {"address": address} if subaccount is None else {"address": address, "subaccountNumber": subaccount}


def parse_transfers(payload: object) -> tuple[Transfer, ...]:
    """Movements from `GET /transfers`, newest first; raises EdgeError."""
    return _each(payload, "transfers", _transfer)


def _transfer(f: _Fields) -> Transfer:
    sender = _Fields(_mapping(f.fields.get("sender"), f"{f.where}.sender"), f"{f.where}.sender")
    recipient = _Fields(_mapping(f.fields.get("recipient"), f"{f.where}.recipient"), f"{f.where}.recipient")
    return Transfer(
        id=f.text("id"),
        type=f.text("type"),
        size=f.number("size"),
        created_at=f.time("createdAt"),
        created_at_height=f.count("createdAtHeight", 0),
        sender=sender.text("address"),
        recipient=recipient.text("address"),
        sender_subaccount=sender.optional_count("subaccountNumber"),
        recipient_subaccount=recipient.optional_count("subaccountNumber"),
        symbol=f.text("symbol", "USDC"),
        transaction_hash=f.text("transactionHash", ""),
    )


# --- chain time ------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Height:
    """The indexer's last block: `at` is the BLOCK's time, so now - at is the block age (halt and indexer lag alike)."""

    height: int
    at: int

    def as_json(self) -> dict[str, Json]:
        """The body of `/height`."""
        return {"height": str(self.height), "time": iso(self.at)}


def parse_height(payload: object) -> Height:
    """Height and block time from `GET /height`; raises EdgeError."""
    f = _Fields(_mapping(payload, "the reply"), "")
    return Height(height=f.count("height"), at=f.time("time"))


def print_time(at: int) -> dict[str, Json]:
    """The body of `/time` at `at`: `epoch` is in SECONDS."""
    return {"iso": iso(at), "epoch": at // 1_000_000 / 1000}


def parse_time(payload: object) -> int:
    """The indexer's clock in ns from `GET /time`; raises EdgeError."""
    return _Fields(_mapping(payload, "the reply"), "").time("iso")


def parse_errors(payload: object) -> str:
    """The texts of an error body, joined; empty when it has none. Raises nothing: a proxy's page may come instead."""
    if not isinstance(payload, Mapping) or not isinstance(payload.get("errors"), list):
        return ""
    return "; ".join(str(e["msg"]) for e in payload["errors"] if isinstance(e, Mapping) and "msg" in e)


def print_errors(*messages: str) -> dict[str, Json]:
    """The body of a 400, 404, 429 or 500."""
    return {"errors": [{"msg": message} for message in messages]}
