"""A desk's book for stress and margin (floor 5): accounts with positions and margin rules, idle buffers, the routes between them.

    book = load_book(Path("config/books/example.yaml"))      # raises RunbookError with every mistake, each at its line and column
    book.market_ids                                          # ("dydx:BTC-USD", "dydx:ETH-USD", ...)

Money is USD, prices USD per base unit, sizes base units (negative short), ratios fractions, durations int ns. Every key: docs/books.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from daemon.simulation.fields import Duration, Exact, Price, Ratio, Usd
from daemon.simulation.strict_file import FileForm, Plain, Strict, Where, items, load_strict, read_strict, section, unknown_name
from daemon.units import parse_quantity
from daemon.world.entities import Account, Route, Topology, Venue

Model = Literal["dydx-v4", "hyperliquid"]
# What each model's margin is computed at: the first price that is known.
VALUED_AT: Mapping[str, tuple[str, ...]] = {
    "dydx-v4": ("oracle_price", "mark_price", "last_price"),
    "hyperliquid": ("mark_price", "oracle_price", "last_price"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class BookPosition:
    """A position held at the start: `size` base units, + long, - short."""

    market: str  # symbol, HYPE-USD
    size: Decimal
    entry_price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class BookMarket:
    """What a venue asks for one market. `price` None: the world's own start price.

    dydx-v4: initial margin grows from `initial_margin` at `oi_lower_cap` to 1 at `oi_upper_cap` USD of open interest (0: not scaled).
    hyperliquid: `tiers` of (notional from which it holds in USD, leverage at most); maintenance is half of what that leverage asks.
    """

    price: float | None = None
    initial_margin: float
    maintenance_margin: float
    oi_lower_cap: float = 0.0  # USD
    oi_upper_cap: float = 0.0  # USD; 0: not scaled
    open_interest: float = 0.0  # base units, at the start
    tiers: tuple[tuple[float, float], ...] = ()
    step: Decimal | None = None  # None: any size


@dataclass(frozen=True, slots=True, kw_only=True)
class BookAccount:
    """A cross-margin account: equity at the start is `collateral_usd` plus what the positions gained since entry."""

    id: str
    venue: str
    model: Model
    collateral_usd: float
    positions: tuple[BookPosition, ...]
    markets: Mapping[str, BookMarket]  # by symbol; more than are held, where runbooks or a later trade need them
    taker_fee: float = 0.0
    liquidation_fee: float = 0.015
    chain: str | None = None  # whose sequencer and gas the venue depends on

    def price(self, symbol: str) -> float:
        """The start price that the book gives a market, NaN when it leaves it to the world."""
        price = self.markets[symbol].price
        return math.nan if price is None else price


@dataclass(frozen=True, slots=True, kw_only=True)
class BookRoute:
    """A way for buffer capital: `eta_ns` typical, `p95_ns` the slow tail; `model` names its latency law in the world."""

    name: str
    source: str  # chain, or account or venue
    destination: str  # chain, or account or venue
    eta_ns: int
    p95_ns: int
    fee: float = 0.0
    capacity_usd: float = math.inf
    model: str = ""  # empty: the world's default


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """Everything a desk holds: accounts in the file's order, buffers by chain in USD, routes."""

    name: str
    title: str = ""
    accounts: tuple[BookAccount, ...]
    buffers: Mapping[str, float] = field(default_factory=dict)
    routes: tuple[BookRoute, ...] = ()
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def market_ids(self) -> tuple[str, ...]:
        """`venue:SYMBOL` of every market, each once, in order of appearance over the accounts; an empty account's count too."""
        return tuple(dict.fromkeys(f"{account.venue}:{symbol}" for account in self.accounts for symbol in account.markets))

    @property
    def prices(self) -> dict[str, float]:
        """Start price by market id, where the book gives one; of two accounts at a venue the first that does."""
        found: dict[str, float] = {}
        for account in self.accounts:
            for symbol, market in account.markets.items():
                if market.price is not None:
                    found.setdefault(f"{account.venue}:{symbol}", market.price)
        return found

    def account(self, account_id: str) -> BookAccount:
        """The account of that id; raises KeyError."""
        for account in self.accounts:
            if account.id == account_id:
                return account
        raise KeyError(account_id)

    def topology(self) -> Topology:
        """The venues, accounts and routes as the engine knows them."""
        return Topology(
            venues={
                account.venue: Venue(
                    id=account.venue, chain=account.chain, model=account.model, valued_at=VALUED_AT[account.model],
                )
                for account in self.accounts
            },
            accounts={account.id: Account(id=account.id, venue=account.venue) for account in self.accounts},
            routes={
                route.name: Route(
                    name=route.name, source=route.source, destination=route.destination, eta_ns=route.eta_ns,
                    eta_p95_ns=route.p95_ns, fee=route.fee, capacity_usd=route.capacity_usd,
                )
                for route in self.routes
            },
            labels=self.labels,
        )  # fmt: skip


def load_book(path: Path) -> Book:
    """The book of a file. Raises RunbookError with every mistake, UserError when the file cannot be read."""
    return _built(load_strict(path, _FORM))


def parse_book(content: bytes | str, path: str) -> Book:
    """The book of a text. Raises RunbookError with every mistake."""
    return _built(read_strict(content, path, _FORM))


# -- the file ------------------------------------------------------------------------------------------------------------------


def _leverage(raw: object) -> float:
    text = str(raw).strip().removesuffix("x")
    value, unit = parse_quantity(text)
    if unit != "1":
        raise ValueError(f"expected a leverage, found {raw!r}; write for example 40x")
    return value


_Leverage = Annotated[float, BeforeValidator(_leverage), Field(ge=1, le=1000)]
_Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.#-]*$")]


class _Tier(Strict):
    from_usd: Annotated[Usd, Field(alias="from", ge=0)]
    max_leverage: _Leverage


class _Market(Strict):
    price: Annotated[Price, Field(gt=0)] | None = None
    initial_margin: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    maintenance_margin: Annotated[Ratio, Field(gt=0, le=1)] | None = None
    oi_lower_cap: Annotated[Usd, Field(ge=0)] = 0.0
    oi_upper_cap: Annotated[Usd, Field(ge=0)] = 0.0
    open_interest: Annotated[Exact, Field(ge=0)] = Decimal(0)
    tiers: tuple[_Tier, ...] = ()
    step: Annotated[Exact, Field(gt=0)] | None = None


class _Position(Strict):
    market: str
    size: Exact
    entry_price: Annotated[Price, Field(gt=0)] | None = None


class _Account(Strict):
    venue: _Name
    model: Model
    collateral: Usd
    taker_fee: Annotated[Ratio, Field(ge=0, le=0.05)] = 0.0005
    liquidation_fee: Annotated[Ratio, Field(ge=0, le=0.2)] | None = None
    chain: _Name | None = None
    markets: Annotated[dict[_Name, _Market], Field(min_length=1)]
    positions: tuple[_Position, ...] = ()


class _Route(Strict):
    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    eta: Annotated[Duration, Field(gt=0)]
    p95: Annotated[Duration, Field(gt=0)] | None = None
    fee: Annotated[Ratio, Field(ge=0, le=0.5)] = 0.0
    capacity: Annotated[Usd, Field(ge=0)] = math.inf
    model: Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9_-]*$")] = ""


class _BookFile(Strict):
    book: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str = ""
    accounts: Annotated[dict[_Name, _Account], Field(min_length=1)]
    buffers: dict[_Name, Annotated[Usd, Field(ge=0)]] = Field(default_factory=dict)
    routes: dict[_Name, _Route] = Field(default_factory=dict)
    labels: dict[str, dict[str, str]] = Field(default_factory=dict)


def _built(file: _BookFile) -> Book:
    return Book(
        name=file.book,
        title=file.title,
        accounts=tuple(_account(name, account) for name, account in file.accounts.items()),
        buffers=file.buffers,
        routes=tuple(
            BookRoute(
                name=name, source=route.source, destination=route.destination, eta_ns=route.eta,
                p95_ns=2 * route.eta if route.p95 is None else route.p95, fee=route.fee, capacity_usd=route.capacity, model=route.model,
            )
            for name, route in file.routes.items()
        ),
        labels=file.labels,
    )  # fmt: skip


def _account(name: str, account: _Account) -> BookAccount:
    fee = account.liquidation_fee
    return BookAccount(
        id=name,
        venue=account.venue,
        model=account.model,
        collateral_usd=account.collateral,
        positions=tuple(
            BookPosition(market=held.market, size=held.size, entry_price=_entry(account, held)) for held in account.positions if held.size
        ),
        markets={symbol: _market(market) for symbol, market in account.markets.items()},
        taker_fee=account.taker_fee,
        # dYdX takes up to 1.5 % for its insurance fund, Hyperliquid no clearance fee.
        liquidation_fee=fee if fee is not None else (0.015 if account.model == "dydx-v4" else 0.0),
        chain=account.chain,
    )


def _entry(account: _Account, held: _Position) -> float:
    entry = held.entry_price if held.entry_price is not None else account.markets[held.market].price
    assert entry is not None, "checked with the references"
    return entry


def _market(market: _Market) -> BookMarket:
    first = market.tiers[0].max_leverage if market.tiers else 1.0
    initial = market.initial_margin if market.initial_margin is not None else 1.0 / first
    return BookMarket(
        price=market.price,
        initial_margin=initial,
        maintenance_margin=0.5 / first if market.maintenance_margin is None else market.maintenance_margin,
        oi_lower_cap=market.oi_lower_cap,
        oi_upper_cap=market.oi_upper_cap,
        open_interest=float(market.open_interest),
        tiers=tuple((tier.from_usd, tier.max_leverage) for tier in market.tiers),
        step=market.step,
    )


# -- what one key cannot know of another ------------------------------------------------------------------------------------------


def _references(plain: Mapping[str, Plain]) -> Iterator[tuple[Where, str]]:
    """Names that name nothing, and numbers that contradict each other: (path, message)."""
    accounts, chains = section(plain, "accounts"), section(plain, "buffers")
    models: dict[str, tuple[str, object]] = {}
    for name, account in accounts.items():
        if not isinstance(account, dict):
            continue
        where: Where = ("accounts", name)
        if name in chains:
            yield where, f"'{name}' is a chain of buffers as well; give the account another name"
        venue, model = account.get("venue"), account.get("model")
        first = models.setdefault(str(venue), (name, model)) if venue else (name, model)
        if first[1] != model:
            yield (*where, "model"), f"the venue '{venue}' has the model '{first[1]}' in account '{first[0]}'; a venue has one"
        yield from _markets(account, where)
        yield from _positions(account, where)
    ends = dict.fromkeys((*chains, *accounts, *models))
    for name, route in section(plain, "routes").items():
        if not isinstance(route, dict):
            continue
        for end in ("from", "to"):
            message = unknown_name(route.get(end), ends, "chain of buffers and no account or venue of this book")
            if message:
                yield ("routes", name, end), message
        if route.get("from") == route.get("to") is not None:
            yield ("routes", name, "to"), f"a route needs two ends, found '{route['to']}' twice"
        yield from _not_above(route, ("eta", "p95"), ("routes", name, "p95"), "the slow tail p95 is below the typical eta")


def _markets(account: Mapping[str, Plain], where: Where) -> Iterator[tuple[Where, str]]:
    model = account.get("model")
    for symbol, market in section(account, "markets").items():
        here: Where = (*where, "markets", symbol)
        rules: Mapping[str, Plain] = market if isinstance(market, dict) else {}
        if model == "dydx-v4":
            for key in ("initial_margin", "maintenance_margin"):
                if rules.get(key) is None:
                    yield here, f"{key} is missing; dydx-v4 margins each market by a fraction, write for example {key}: 5%"
            if rules.get("tiers") is not None:
                yield (*here, "tiers"), "tiers are Hyperliquid's; dydx-v4 scales by open interest, write oi_lower_cap and oi_upper_cap"
            if rules.get("oi_upper_cap") is not None and rules.get("open_interest") is None:
                yield here, "open_interest is missing; initial margin grows with it between the caps, write it in base units"
        elif model == "hyperliquid":
            if not rules.get("tiers"):
                yield here, "tiers are missing; write for example tiers: [{from: 0 USD, max_leverage: 40x}]"
            for key in ("oi_lower_cap", "oi_upper_cap", "maintenance_margin"):
                if rules.get(key) is not None:
                    yield (*here, key), f"{key} is dydx-v4's; hyperliquid's margin follows from tiers alone"
            yield from _tiers(rules, here)
        margins = (*here, "maintenance_margin")
        yield from _not_above(rules, ("maintenance_margin", "initial_margin"), margins, "maintenance margin is above initial margin")
        caps = (*here, "oi_lower_cap")
        yield from _not_above(rules, ("oi_lower_cap", "oi_upper_cap"), caps, "the lower cap of open interest is above the upper one")


def _tiers(rules: Mapping[str, Plain], here: Where) -> Iterator[tuple[Where, str]]:
    bounds = [_number(tier.get("from")) for tier in items(rules, "tiers")]
    leverages = [_number(str(tier.get("max_leverage")).removesuffix("x")) for tier in items(rules, "tiers")]
    for i, bound in enumerate(bounds):
        at: Where = (*here, "tiers", i)
        if i == 0 and bound != 0.0 and bound is not None:
            yield (*at, "from"), "the first tier starts at 0 USD"
        if i == 0:
            continue
        lower, leverage, before = bounds[i - 1], leverages[i], leverages[i - 1]
        if bound is not None and lower is not None and bound <= lower:
            yield (*at, "from"), "tiers go upwards: this one starts at or below the one before"
        if leverage is not None and before is not None and leverage >= before:
            yield (*at, "max_leverage"), "a larger position has less leverage: this tier allows as much as the one before, or more"


def _positions(account: Mapping[str, Plain], where: Where) -> Iterator[tuple[Where, str]]:
    markets = section(account, "markets")
    seen: set[str] = set()
    for i, held in enumerate(items(account, "positions")):
        here: Where = (*where, "positions", i)
        symbol = held.get("market")
        if not isinstance(symbol, str):
            continue
        message = unknown_name(symbol, markets, "market of this account")
        if message:
            yield (*here, "market"), message
            continue
        if symbol in seen:
            yield (*here, "market"), f"'{symbol}' is held twice; write its net size once"
        seen.add(symbol)
        market = markets[symbol]
        rules: Mapping[str, Plain] = market if isinstance(market, dict) else {}
        if held.get("entry_price") is None and rules.get("price") is None:
            yield here, f"entry_price is missing, and '{symbol}' has no price that could stand for it"
        step, size = _decimal(rules.get("step")), _decimal(held.get("size"))
        if step is not None and size is not None and step > 0 and size % step:
            yield (*here, "size"), f"the size {held.get('size')} is no multiple of the market's step {rules.get('step')}"


def _not_above(plain: Mapping[str, Plain], keys: tuple[str, str], where: Where, what: str) -> Iterator[tuple[Where, str]]:
    low, high = (_number(plain.get(key)) for key in keys)
    if low is not None and high is not None and low > high:
        yield where, f"{what}: {keys[0]} {plain.get(keys[0])}, {keys[1]} {plain.get(keys[1])}"


def _number(raw: object) -> float | None:
    """The value of a literal; None for none, or one that its own key is told about."""
    try:
        return None if raw is None else parse_quantity(str(raw))[0]
    except ValueError:
        return None


def _decimal(raw: object) -> Decimal | None:
    text = str(raw).replace("_", "")
    try:
        return None if raw is None else Decimal(text)
    except ArithmeticError:
        return None


_FORM = FileForm(
    model=_BookFile,
    code="B",
    what="a book",
    starts="`book: NAME` and needs accounts",
    docs="docs/books.md",
    flag="--book names a file like config/books/example.yaml",
    references=_references,
)
