"""A scenario file as a checked model (floor 5): the markets, accounts, chains and shocks of a simulated venue.

    scenario = load_scenario(Path("config/scenarios/calm.yaml"))     # raises RunbookError with every mistake, each at its line and column

Times of shocks count from the venue's start. Durations are int ns, money USD, ratios fractions, rates per hour, prices USD.
"""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Iterator, Mapping
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Literal, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Field, TypeAdapter, ValidationError

from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.runbook.document import Document, compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.simulation.expectations import Expectation, ExpectedCourse, ExpectedToll
from daemon.simulation.faults import (
    ALL_MARKETS,
    BookMove,
    BridgeLock,
    BridgeStall,
    Congestion,
    EmptyBlocks,
    ErrorAfterAccept,
    FinalityDelay,
    GasSpike,
    OracleFreeze,
    OracleLag,
    OracleSources,
    OracleWrong,
    OrderReject,
    RateLimit,
    RouteCapacity,
    RouteStuck,
    SequencerStop,
    VenueError,
    VenueHalt,
    VenueLatency,
)
from daemon.simulation.fields import Duration, Exact, Gwei, LastingShock, Price, Rate, Ratio, TimedShock, Usd, exact
from daemon.simulation.oracle_models import OracleSpec
from daemon.simulation.route_models import RouteSpec, via_of
from daemon.simulation.strict_file import Strict
from daemon.units import NS, parse_iso, parse_quantity

Plain = None | str | list["Plain"] | dict[str, "Plain"]
Where = tuple[int | str, ...]  # a path of keys and indices
Model = Literal["dydx-v4", "hyperliquid"]
DYDX_KEYS = ("maintenance_margin", "oi_lower_cap", "oi_upper_cap", "isolated", "insurance_fund")  # of a market
HYPERLIQUID_KEYS = ("margin_tiers", "perps_elsewhere")
AFTERWARDS_NS = 1800 * NS  # what a course takes beyond its last shock


def _start(raw: object) -> int | None:
    return None if raw in (None, "now") else parse_iso(str(raw))


class TierSpec(Strict):
    """A tier of a margin table: from this notional on at most this leverage."""

    start: Annotated[Usd, Field(alias="from", ge=0)]
    max_leverage: Annotated[float, Field(ge=1, le=100)]


def _tiers(tiers: tuple[TierSpec, ...]) -> tuple[TierSpec, ...]:
    """Tiers as a table has them. Raises ValueError when they do not begin at 0, or do not lead up in notional and down in leverage."""
    if tiers and tiers[0].start:
        raise ValueError("the first margin tier begins at 0 USD")
    for lower, upper in itertools.pairwise(tiers):
        if upper.start <= lower.start or upper.max_leverage >= lower.max_leverage:
            raise ValueError("margin tiers go up in `from` and down in `max_leverage`")
    return tiers


class MarketSpec(Strict):
    """A market: its price process (annualised `volatility`), its book, its margin parameters and its funding."""

    price: Annotated[Price, Field(gt=0)]
    volatility: Annotated[Ratio, Field(ge=0, le=10)] = 0.5
    tick: Annotated[Exact, Field(gt=0)] = Decimal("0.01")
    step: Annotated[Exact, Field(gt=0)] = Decimal("0.001")
    initial_margin: Annotated[Ratio, Field(gt=0, le=1)] = 0.02
    maintenance_margin: Annotated[Ratio, Field(gt=0, le=1)] = 0.012
    oi_lower_cap: Annotated[Usd, Field(ge=0)] = 0.0
    oi_upper_cap: Annotated[Usd, Field(ge=0)] = 0.0
    open_interest: Annotated[Exact, Field(ge=0)] = Decimal(1000)  # base units
    funding: Rate = 0.0  # the level that settlements vary around
    funding_noise: Annotated[Rate, Field(ge=0)] = 0.000_005
    oracle_deadband: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0005  # moves below it are not published; `oracle` overrides it
    oracle: OracleSpec | None = None
    spread: Annotated[Ratio, Field(gt=0, lt=1)] = 0.0002
    depth: Annotated[Usd, Field(gt=0)] = 2_000_000.0  # USD on each side within 50 bps
    levels: Annotated[int, Field(ge=1, le=100)] = 20
    recovery: Annotated[Duration, Field(ge=0)] = 10 * NS  # half-life of what our fills took from the book; 0: back in the next second
    isolated: bool = False  # dydx-v4: a position stands alone in its subaccount, and the market has an insurance fund of its own
    insurance_fund: Annotated[Usd, Field(ge=0)] = 0.0  # of an isolated market
    margin_tiers: Annotated[tuple[TierSpec, ...], AfterValidator(_tiers)] = ()  # hyperliquid; none: one tier of 1 / initial_margin
    perps_elsewhere: bool = True  # hyperliquid: other exchanges' perps are a part of the mark price


class PositionSpec(Strict):
    """A position held at the start; `entry_price` defaults to the start price."""

    market: str
    size: Exact
    entry_price: Annotated[Price, Field(gt=0)] | None = None


class RestingSpec(Strict):
    """An order that rests in the book from the start."""

    market: str
    side: Literal["BUY", "SELL"]
    size: Annotated[Exact, Field(gt=0)]
    price: Annotated[Exact, Field(gt=0)]
    client_id: Annotated[int, Field(ge=0, lt=1 << 32)] = 0


class SubaccountSpec(Strict):
    """A cross-margin subaccount: equity at the start is `collateral` plus what the positions gained since entry.

    `leverage` is what its owner set, by market: it bounds what can be opened.
    """

    address: str = "dydx1reefdsim"
    subaccount: Annotated[int, Field(ge=0, le=128_000)] = 0
    collateral: Usd
    positions: tuple[PositionSpec, ...] = ()
    orders: tuple[RestingSpec, ...] = ()
    leverage: dict[str, Annotated[float, Field(ge=1, le=100)]] = Field(default_factory=dict)


class ChainSpec(Strict):
    """A chain; only a rollup has a sequencer that can stop."""

    rollup: bool = False
    block_time: Annotated[Duration, Field(gt=0)] = 12 * NS
    finality: Annotated[Duration, Field(ge=0)] = 900 * NS
    gas_price: Annotated[Gwei, Field(ge=0)] = 8.0
    tx_cost: Annotated[Usd, Field(ge=0)] = 1.0
    tx_per_block: Annotated[float, Field(ge=0)] = 150.0


class ProposalSpec(Strict):
    """A governance proposal that enters voting at `at` (negative: before the start) for `voting`."""

    id: Annotated[int, Field(ge=1)]
    title: str
    messages: tuple[str, ...]
    summary: str = ""
    at: Duration = 0
    voting: Annotated[Duration, Field(gt=0)] = 4 * 86_400 * NS
    outcome: Literal["passed", "rejected"] = "passed"
    expedited: bool = False


class VenueSpec(Strict):
    """The venue itself: its name as a route's end, whose rules it follows, fees, insurance fund and withdrawal limits."""

    name: str = "dydx"
    model: Model = "dydx-v4"
    chain: str | None = None  # the rollup that it lives on, none for a chain of its own
    taker_fee: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0005
    maker_fee: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    insurance_fund: Annotated[Usd, Field(ge=0)] = 5_000_000.0
    withdrawal_capacity: Annotated[Usd, Field(ge=0)] = 1_000_000.0  # an hour; dydx-v4: the minimum of the hourly limiter
    tvl: Annotated[Usd, Field(ge=0)] = 100_000_000.0  # value locked: 1 % of it may leave an hour, 10 % a day (dydx-v4)
    requests_in_10s: Annotated[int, Field(ge=1)] = 100
    latency: Annotated[Duration, Field(ge=0)] = 0  # from sending an order or a cancel to the book: the middle one
    latency_p95: Annotated[Duration, Field(ge=0)] | None = None  # and the slow tail; None: no jitter
    matching_delay: Annotated[Duration, Field(ge=0)] = 0  # from the acceptance of an order to its matching


class FundingSpike(LastingShock):
    """Premium samples stand at `to` (as an hourly rate): an hour that is hit for n of its 60 minutes settles near n / 60 of it."""

    kind: Literal["funding_spike"]
    market: str
    to: Rate


class PriceMove(TimedShock):
    """The price moves `by` within `over`, and back again after `for` where that is given."""

    kind: Literal["price_move"]
    market: str
    by: Annotated[Ratio, Field(gt=-1)]
    over: Annotated[Duration, Field(gt=0)] = NS
    lasts: Annotated[Duration | None, Field(alias="for", gt=0)] = None


class ThinBook(LastingShock):
    """The book keeps `to` of its depth, and its spread widens to `spread`."""

    kind: Literal["thin_book"]
    market: str
    to: Annotated[Ratio, Field(gt=0, le=1)]
    spread: Annotated[Ratio, Field(gt=0, lt=1)] | None = None


class MarketStatus(LastingShock):
    """The market leaves ACTIVE."""

    kind: Literal["market_status"]
    market: str
    to: Literal["PAUSED", "CANCEL_ONLY", "POST_ONLY", "FINAL_SETTLEMENT"]


class ParameterChange(TimedShock):
    """Margin fractions change, with or without a proposal that said so; on hyperliquid the most leverage becomes 1 / `initial_margin`."""

    kind: Literal["parameter_change"]
    market: str
    initial_margin: Annotated[Ratio, Field(gt=0, le=1)]
    maintenance_margin: Annotated[Ratio, Field(gt=0, le=1)]


class ExternalClose(TimedShock):
    """Somebody else reduces a position by a share of its size at the book's price: by hand, or by auto-deleveraging."""

    kind: Literal["external_close"]
    market: str
    by: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    cause: Literal["manual", "adl"] = "manual"


Shock = (
    FundingSpike
    | PriceMove
    | OracleFreeze
    | OracleLag
    | ThinBook
    | MarketStatus
    | ParameterChange
    | VenueHalt
    | SequencerStop
    | FinalityDelay
    | GasSpike
    | BridgeStall
    | VenueError
    | ErrorAfterAccept
    | RateLimit
    | ExternalClose
    | BridgeLock
    | RouteStuck
    | RouteCapacity
    | Congestion
    | EmptyBlocks
    | OracleWrong
    | OracleSources
    | OrderReject
    | VenueLatency
    | BookMove
)
SHOCK_KINDS: tuple[str, ...] = tuple(get_args(shock.model_fields["kind"].annotation)[0] for shock in get_args(Shock))
_AnyShock = Annotated[Shock, Field(discriminator="kind")]
SHOCK: TypeAdapter[Shock] = TypeAdapter(_AnyShock)


Confidence = Literal["high", "medium", "press", "assumed"]


class Scenario(Strict):
    """A simulated venue's world. `start` None is the wall clock's now; `minute_of_hour` moves the start back to that minute."""

    scenario: Annotated[str, Field(pattern=r"^[a-z0-9-]+$")]
    title: str = ""
    source: str = ""  # where its figures are from
    confidence: Confidence | None = None  # how far they can be trusted
    horizon: Annotated[Duration | None, Field(ge=NS)] = None  # how much of it `reefd scenario run` plays
    polls: Annotated[Duration, Field(ge=NS)] = NS  # nothing of the venue is read more often than that
    expect: Expectation = Expectation()
    seed: Annotated[int, Field(ge=0, lt=1 << 63)] = 1
    start: Annotated[int | None, BeforeValidator(_start)] = None
    minute_of_hour: Annotated[int, Field(ge=0, le=59)] | None = None
    venue: VenueSpec = VenueSpec()
    markets: Annotated[dict[str, MarketSpec], Field(min_length=1)]
    accounts: Annotated[tuple[SubaccountSpec, ...], Field(min_length=1)]
    chains: dict[str, ChainSpec] = Field(default_factory=dict)
    buffers: dict[str, Annotated[Usd, Field(ge=0)]] = Field(default_factory=dict)
    routes: dict[str, RouteSpec] = Field(default_factory=dict)
    proposals: tuple[ProposalSpec, ...] = ()
    shocks: tuple[_AnyShock, ...] = ()

    @property
    def seconds(self) -> int:
        """Seconds that a course of it takes: its horizon, else until half an hour after its last shock has ended."""
        if self.horizon is not None:
            return self.horizon // NS
        ends = [shock.at + (getattr(shock, "lasts", None) or 0) + (getattr(shock, "over", None) or 0) for shock in self.shocks]
        return (max(ends, default=0) + AFTERWARDS_NS) // NS

    def started_ns(self, wall_ns: int) -> int:
        """The venue's time at the start, ns UTC, when the wall shows `wall_ns`."""
        started = wall_ns if self.start is None else self.start
        if self.minute_of_hour is not None:
            hour = started - started % (3600 * NS)
            at_minute = hour + self.minute_of_hour * 60 * NS
            started = at_minute if at_minute <= started else at_minute - 3600 * NS
        return started


def load_scenario(path: Path) -> Scenario:
    """The scenario of a file. Raises RunbookError with every mistake, UserError when the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise UserError(f"{path}: {reason}; --scenario names a file like config/scenarios/calm.yaml") from error
    return parse_scenario(content, str(path))


def parse_scenario(content: bytes | str, path: str) -> Scenario:
    """The scenario of a text. Raises RunbookError with every mistake."""
    document = compose(content, path)
    if document.root is None:
        raise RunbookError([_reworded(problem) for problem in document.problems])
    plain = _plain(document.root)
    if not isinstance(plain, dict):
        message = "a scenario is a mapping; write scenario, markets and accounts, each as `key: value`"
        raise RunbookError([document.diagnostic("S003", message, document.root.start, document.root.start + 1)])
    problems = list(document.problems)
    scenario = None
    try:
        scenario = Scenario.model_validate(plain)
    except ValidationError as error:
        problems += _complaints(document, error)
    problems += [_point(document, where, "S004", message) for where, message in _references(plain)]
    if problems or scenario is None:
        raise RunbookError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return scenario


def _reworded(problem: Diagnostic) -> Diagnostic:
    """The same complaint for a scenario's file: an empty one does not start with a runbook's schema."""
    if problem.code != "E008":
        return problem
    message = "the file is empty; a scenario starts with `scenario: NAME` and needs markets and accounts"
    return Diagnostic(file=problem.file, line=problem.line, column=problem.column, code=problem.code, message=message)


def _plain(node: YamlNode) -> Plain:
    """The node as plain values; every scalar stays text, so that `0.0001` keeps its digits and `3m` its unit."""
    match node:
        case ScalarNode():
            return None if node.empty else node.text
        case ListNode():
            return [_plain(item) for item in node.items]
        case MapNode():
            return {key.text: _plain(value) for key, value in node.entries}


def _point(document: Document, where: Where, code: str, message: str, *, key: bool = False) -> Diagnostic:
    """A diagnostic at the deepest place of the path that the file has; steps that it does not have (a union's tag) are skipped."""
    assert document.root is not None
    node: YamlNode = document.root
    token: YamlNode = node
    named: list[str] = []
    for step in where:
        if isinstance(node, MapNode):
            entry = next(((name, value) for name, value in node.entries if name.text == step), None)
            if entry is None:
                continue
            token, node = (entry[0] if key else entry[1]), entry[1]
            named.append(str(step))
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            token = node = node.items[step]
            named[-1:] = [f"{named[-1] if named else ''}[{step}]"]
    end = token.end if isinstance(token, ScalarNode) else token.start + 1
    return document.diagnostic(code, message, token.start, end, ".".join(named))


def _complaints(document: Document, error: ValidationError) -> Iterator[Diagnostic]:
    for problem in error.errors():
        where = problem["loc"]
        name = str(where[-1]) if where else ""
        match problem["type"]:
            case "missing":
                yield _point(document, where, "S002", f"the key '{name}' is missing; add it here")
            case "extra_forbidden":
                close = difflib.get_close_matches(name, _known_keys(where), 1)
                hint = f"did you mean '{close[0]}'?" if close else "remove it, or see docs/simulated-venue.md"
                yield _point(document, where, "S001", f"unknown key '{name}'; {hint}", key=True)
            case "union_tag_invalid":
                tag = str(problem.get("ctx", {}).get("tag", ""))
                close = difflib.get_close_matches(tag, SHOCK_KINDS, 1)
                hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(SHOCK_KINDS)}"
                yield _point(document, (*where, "kind"), "S003", f"'{tag}' is no kind of shock; {hint}")
            case "union_tag_not_found":
                yield _point(document, where, "S002", f"the key 'kind' is missing; write one of {', '.join(SHOCK_KINDS)}")
            case _:
                text = problem["msg"].removeprefix("Value error, ")
                found = problem.get("input")
                shown = f", found {found!r}" if isinstance(found, str) and "found" not in text and repr(found) not in text else ""
                yield _point(document, where, "S003", text[:1].lower() + text[1:] + shown)


def _known_keys(where: Where) -> list[str]:
    """The keys known beside an unknown one."""
    model: type[BaseModel] = Scenario
    if len(where) > 1:
        sections: dict[str, type[BaseModel]] = {
            "venue": VenueSpec, "markets": MarketSpec, "accounts": SubaccountSpec,
            "chains": ChainSpec, "routes": RouteSpec, "proposals": ProposalSpec, "expect": Expectation,
        }  # fmt: skip
        inner: dict[int | str, type[BaseModel]] = {
            "positions": PositionSpec, "orders": RestingSpec, "oracle": OracleSpec, "margin_tiers": TierSpec,
            "with": ExpectedCourse, "without": ExpectedToll, "difference": ExpectedToll,
        }  # fmt: skip
        tags: dict[str, type[BaseModel]] = dict(zip(SHOCK_KINDS, get_args(Shock), strict=True))
        tag = next((tags[step] for step in where[1:-1] if isinstance(step, str) and step in tags), None)
        model = tag or next((inner[step] for step in where[1:-1] if step in inner), None) or sections.get(str(where[0]), Scenario)
    return [field.alias or name for name, field in model.model_fields.items()]


def _references(plain: Mapping[str, Plain]) -> Iterator[tuple[Where, str]]:
    """Names that name nothing, and numbers that contradict each other: (path, message)."""
    markets = _section(plain, "markets")
    chains, routes = _section(plain, "chains"), _section(plain, "routes")
    venue = str(_section(plain, "venue").get("name") or "dydx")

    def unknown(name: object, known: Mapping[str, Plain], what: str) -> str | None:
        if not isinstance(name, str) or name in known:
            return None
        close = difflib.get_close_matches(name, known, 1)
        hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(known) or 'none'}"
        return f"'{name}' is no {what} of this scenario; {hint}"

    for i, account in enumerate(_items(plain, "accounts")):
        for section in ("positions", "orders"):
            for j, row in enumerate(_items(account, section)):
                message = unknown(row.get("market"), markets, "market")
                if message:
                    yield ("accounts", i, section, j, "market"), message
                yield from _off_step(row, markets, ("accounts", i, section, j, "size"))
        for name in _section(account, "leverage"):
            message = unknown(name, markets, "market")
            if message:
                yield ("accounts", i, "leverage", name), message
    for chain in _section(plain, "buffers"):
        message = unknown(chain, chains, "chain")
        if message:
            yield ("buffers", chain), message
    home = _section(plain, "venue").get("chain")
    message = unknown(home, chains, "chain")
    if message:
        yield ("venue", "chain"), message
    for name, route in routes.items():
        if not isinstance(route, dict):
            continue
        for end in ("from", "to"):
            message = unknown(route.get(end), {**chains, venue: None}, "chain or venue")
            if message:
                yield ("routes", name, end), message
        if route.get("from") == route.get("to") is not None:
            yield ("routes", name, "to"), f"a route needs two ends, found '{route['to']}' twice"
    for i, shock in enumerate(_items(plain, "shocks")):
        for key, known in (("market", {**markets, ALL_MARKETS: None}), ("chain", chains), ("route", routes)):
            message = unknown(shock.get(key), known, key)
            if message:
                yield ("shocks", i, key), message
        if shock.get("kind") == "route_stuck":
            stuck = routes.get(str(shock.get("route")))
            if isinstance(stuck, dict) and not stuck.get("via") and not via_of(stuck.get("model")):
                yield ("shocks", i, "route"), f"'{shock.get('route')}' has no chain in between; write via: at the route, or name another"
        if shock.get("kind") in ("sequencer_stop", "empty_blocks"):
            stopped = chains.get(str(shock.get("chain")))
            if isinstance(stopped, dict) and stopped.get("rollup") != "true":
                yield ("shocks", i, "chain"), f"'{shock.get('chain')}' has no sequencer; write rollup: true at the chain, or name a rollup"
    for name, market in markets.items():
        if isinstance(market, dict):
            model = str(_section(plain, "venue").get("model") or "dydx-v4")
            yield from _of_another_model(name, market, model)
            if model == "dydx-v4":
                yield from _margins(name, market)


def _off_step(row: Mapping[str, Plain], markets: Mapping[str, Plain], where: Where) -> Iterator[tuple[Where, str]]:
    market = markets.get(str(row.get("market")))
    if not isinstance(market, dict):
        return
    try:
        step, size = exact(market.get("step") or "0.001"), exact(row.get("size"))
    except ValueError:
        return
    if step > 0 and size % step:
        yield where, f"the size {row.get('size')} is no multiple of the market's step {market.get('step') or '0.001'}"


def _margins(name: str, market: Mapping[str, Plain]) -> Iterator[tuple[Where, str]]:
    def value(key: str, default: float) -> float:
        try:
            return parse_quantity(str(market[key]))[0] if key in market else default
        except ValueError:
            return default

    if value("maintenance_margin", 0.012) > value("initial_margin", 0.02):
        kept, opened = market.get("maintenance_margin") or "1.2%", market.get("initial_margin") or "2%"
        yield ("markets", name, "maintenance_margin"), f"maintenance margin {kept} is above initial margin {opened}"
    if value("oi_upper_cap", 0.0) < value("oi_lower_cap", 0.0):
        yield ("markets", name, "oi_lower_cap"), "the lower cap of open interest is above the upper one; write oi_upper_cap too"


def _of_another_model(name: str, market: Mapping[str, Plain], model: str) -> Iterator[tuple[Where, str]]:
    """Keys of a market that its venue's model has no use for."""
    owner, keys = ("hyperliquid", HYPERLIQUID_KEYS) if model == "dydx-v4" else ("dydx-v4", DYDX_KEYS)
    for key in keys:
        if key in market:
            yield ("markets", name, key), f"{key} belongs to the model {owner}; remove it, or write model: {owner} at the venue"


def _section(plain: Mapping[str, Plain], key: str) -> dict[str, Plain]:
    found = plain.get(key)
    return found if isinstance(found, dict) else {}


def _items(plain: Mapping[str, Plain], key: str) -> list[dict[str, Plain]]:
    found = plain.get(key)
    return [item if isinstance(item, dict) else {} for item in found] if isinstance(found, list) else []
