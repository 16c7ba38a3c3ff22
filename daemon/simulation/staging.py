"""The world of one runbook test (floor 5): which entity each `given` and `series` value belongs to, and its samples.

Values before 0s fill windows only; from 0s on every value is sampled each `every`. Sizes, collateral and buffers are facts of the
simulated venue: it starts with what the test gives and afterwards changes only by fills, transfers, and the steps of a series.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from daemon.engine.events import Row
from daemon.engine.hot import Sources
from daemon.language.catalogue import CATALOGUE, RELATIONS
from daemon.language.terms import Window, walk
from daemon.runbook.cases import find_signal
from daemon.runbook.model import Runbook, Test
from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition
from daemon.units import HOUR_NS
from daemon.world.entities import PORTFOLIO_ID, Account, Kind, Route, Topology, Venue

MARKET_DEFAULT = "dydx:BTC-USD"
CHAIN_DEFAULT = "ethereum"
SETTLED = "funding_rate"  # sampled like everything else, but one settlement is one observation: new at its steps and each whole hour
# History of funding and of parameters: once an hour.
HOURLY = frozenset({
    "funding_rate", "predicted_funding_rate", "imf", "mmf", "step_size", "min_size", "tick_size", "funding_cap", "funding_interval",
    "oracle_cadence", "liquidation_fee", "taker_fee", "fixed_slippage",
})  # fmt: skip
_ELSEWHERE = re.compile(r"([^\s:]+:[^\s.]+)\.([a-z_0-9]+)")
_CALLED = re.compile(r"([a-z_0-9]+)\(([^()]*)\)")

Points = tuple[tuple[int, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One signal of one entity and its step function: `points` (offset, value); from the first one on it is sampled."""

    kind: Kind
    entity: str
    signal: str
    points: Points

    def value_at(self, offset: int) -> float | None:
        """The value in force; None before the first point."""
        index = bisect_right(self.points, offset, key=lambda point: point[0])
        return self.points[index - 1][1] if index else None

    def settled_at(self, offset: int) -> int:
        """When a settled rate in force was settled: at its step, or at the last whole hour since."""
        index = bisect_right(self.points, offset, key=lambda point: point[0])
        return max(self.points[index - 1][0] if index else 0, offset // HOUR_NS * HOUR_NS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Staging:
    """A test's world: topology, the simulated account, what is sampled, and the venue's own facts that change by themselves."""

    topology: Topology
    spec: AccountSpec
    entity: str  # the instance under test
    sampled: tuple[Cell, ...]
    owned: tuple[Cell, ...]  # size, entry price, collateral, buffers
    place: Callable[[str], tuple[Kind, str, str] | None]  # the cell a key of the test names
    windowed: frozenset[tuple[Kind, str]] = field(default_factory=frozenset)

    def sources(self, every_ns: int) -> Sources:
        """What the engine must know: a sample holds until the next one, and derived signals that are given replace their derivation."""
        holds = {(cell.kind, cell.signal): max(every_ns, HOUR_NS) if cell.signal == SETTLED else every_ns for cell in self.sampled}
        given = frozenset(key for key in holds if CATALOGUE[key].role == "derived")
        return Sources(holds=holds, cadence=holds, given=given)

    def rows_at(self, offset: int, at: int) -> tuple[Row, ...]:
        """The sample of every cell at one offset from 0s."""
        found: dict[tuple[Kind, str, int], dict[str, float]] = {}
        for cell in self.sampled:
            value = cell.value_at(offset)
            if value is not None:
                true_at = at - offset + cell.settled_at(offset) if cell.signal == SETTLED else at
                found.setdefault((cell.kind, cell.entity, true_at), {})[cell.signal] = value
        return tuple(Row(kind=kind, entity=entity, values=values, event_ts=true_at) for (kind, entity, true_at), values in found.items())

    def history(self, start: int, every_ns: int) -> Iterator[Row]:
        """Rows before 0s in order of time, each with its own `event_ts`; `start` is the time of 0s."""
        first = min((cell.points[0][0] for cell in self.sampled), default=0)
        past = [cell for cell in self.sampled if cell.points[0][0] < 0]
        past += [cell for cell in self.sampled if cell.points[0][0] >= 0 and (cell.kind, cell.signal) in self.windowed and first < 0]
        hourly = [cell for cell in past if cell.signal in HOURLY]
        often = [cell for cell in past if cell.signal not in HOURLY]
        times = {offset for cell in hourly for offset in range(_past_start(cell, first), 0, HOUR_NS)}
        times |= {offset for cell in often for offset in range(_past_start(cell, first), 0, every_ns)}
        for offset in sorted(times):
            yield from self._past_rows(hourly, often, offset, start, every_ns, first)

    def _past_rows(self, hourly: list[Cell], often: list[Cell], offset: int, start: int, every_ns: int, first: int) -> Iterator[Row]:
        found: dict[tuple[Kind, str], dict[str, float]] = {}
        for cells, step in ((hourly, HOUR_NS), (often, every_ns)):
            for cell in cells:
                since = _past_start(cell, first)
                if offset >= since and (offset - since) % step == 0:
                    value = cell.points[0][1] if cell.points[0][0] > offset else cell.value_at(offset)
                    if value is not None:
                        found.setdefault((cell.kind, cell.entity), {})[cell.signal] = value
        for (kind, entity), values in found.items():
            yield Row(kind=kind, entity=entity, values=values, event_ts=start + offset)


def _past_start(cell: Cell, first: int) -> int:
    """Where a cell's history begins: its own first step, or for a given value that a window reads the first step of any series."""
    return min(cell.points[0][0], 0) if cell.points[0][0] < 0 else first


class _Stage:
    """Reads one test."""

    def __init__(self, runbook: Runbook, test: Test) -> None:
        self.runbook = runbook
        self.given = test.given
        self.market = self._named("market", MARKET_DEFAULT)
        venue = self._named("venue", self.market.partition(":")[0])
        self.account = self._named("account", venue)
        self.venue = self.account.partition("#")[0] if "account" in test.given and "venue" not in test.given else venue
        self.chain = self._named("chain", CHAIN_DEFAULT)
        routes = test.given.get("routes")
        self.routes: tuple[Route, ...] = routes if isinstance(routes, tuple) else ()
        self.route = self._named("route", self.routes[0].name if self.routes else "route")
        self.symbol = self.market.partition(":")[2]

    def _named(self, key: str, default: str) -> str:
        value = self.given.get(key)
        return value if isinstance(value, str) and value else default

    def entity_of(self, kind: Kind) -> str:
        match kind:
            case Kind.PORTFOLIO:
                return PORTFOLIO_ID
            case Kind.BUCKET:
                return self.labels().get("bucket", self._named("bucket", "income"))
            case Kind.CHAIN:
                return self.chain
            case Kind.VENUE:
                return self.venue
            case Kind.ACCOUNT:
                return self.account
            case Kind.MARKET:
                return self.market
            case Kind.POSITION:
                return f"{self.account}:{self.symbol}"
            case Kind.ROUTE:
                return self.route

    def labels(self) -> dict[str, str]:
        labels = self.given.get("labels")
        found = {str(key): str(value) for key, value in labels.items()} if isinstance(labels, Mapping) else {}
        if "bucket" in self.given:
            found["bucket"] = self._named("bucket", "")
        return found

    def place(self, key: str) -> tuple[Kind, str, str] | None:
        """(kind, entity, signal) that a key of the test names; None for one that has no cell of its own."""
        elsewhere = _ELSEWHERE.fullmatch(key)
        if elsewhere:
            kind = Kind.MARKET if (Kind.MARKET, elsewhere[2]) in CATALOGUE else Kind.POSITION
            return kind, elsewhere[1], elsewhere[2]
        signal = find_signal(self.runbook.scope, key)
        if signal is None:
            return None
        scope, _, name = key.rpartition(".")
        called = _CALLED.fullmatch(name)
        if called and called[1] == "buffer":
            return Kind.CHAIN, called[2].strip().strip("\"'"), "buffer_balance"
        if called or signal.arguments:
            return None
        if scope in ("from", "to"):
            return signal.kind, self._route_end(scope), signal.name
        assert not scope or scope in {relation for relation, _ in RELATIONS[self.runbook.scope]} | {kind.value for kind in Kind}
        return signal.kind, self.entity_of(signal.kind), signal.name

    def _route_end(self, scope: str) -> str:
        route = next((route for route in self.routes if route.name == self.route), None)
        if route is None:
            return self.chain if scope == "from" else self.account
        return route.source if scope == "from" else route.destination


OWNED = {(Kind.POSITION, "size"), (Kind.POSITION, "entry_price"), (Kind.ACCOUNT, "collateral"), (Kind.CHAIN, "buffer_balance")}
OWNED |= {(Kind.ROUTE, "in_flight")}


def stage(runbook: Runbook, test: Test) -> Staging:
    """The world of one test of a runbook; a value that no cell can hold is left out."""
    reader = _Stage(runbook, test)
    points: dict[tuple[Kind, str, str], Points] = {}
    for key, value in test.given.items():
        if isinstance(value, float | int) and key not in ("initial_margin", "maintenance_margin"):
            place = reader.place(key)
            if place is not None:
                points[place] = ((0, float(value)),)
    for key, series in test.series.items():
        place = reader.place(key)
        if place is not None and series:
            points[place] = series
    buffers = test.given.get("buffers")
    if isinstance(buffers, Mapping):
        for chain, amount in buffers.items():
            points.setdefault((Kind.CHAIN, str(chain), "buffer_balance"), ((0, float(amount)),))
    cells = [Cell(kind=kind, entity=entity, signal=signal, points=steps) for (kind, entity, signal), steps in points.items()]
    return Staging(
        topology=_topology(reader),
        spec=_spec(reader, test, cells),
        entity=reader.entity_of(runbook.scope),
        sampled=tuple(cell for cell in cells if (cell.kind, cell.signal) not in OWNED),
        owned=tuple(cell for cell in cells if (cell.kind, cell.signal) in OWNED),
        place=reader.place,
        windowed=windowed_signals(runbook),
    )


def windowed_signals(runbook: Runbook) -> frozenset[tuple[Kind, str]]:
    """Every signal that some window of the runbook takes samples of."""
    found: set[tuple[Kind, str]] = set()
    for expression in runbook.expressions:
        for term in walk(expression.typed.term):
            if isinstance(term, Window):
                for inner in walk(term.argument):
                    signal, kind = getattr(inner, "signal", None), getattr(inner, "kind", None)
                    if isinstance(signal, str) and isinstance(kind, Kind):
                        found.add((kind, signal))
    return frozenset(found)


def _topology(reader: _Stage) -> Topology:
    venues = {reader.venue: Venue(id=reader.venue, chain=reader.chain)}
    labels = reader.labels()
    return Topology(
        venues=venues,
        accounts={reader.account: Account(id=reader.account, venue=reader.venue)},
        routes={route.name: route for route in reader.routes},
        labels={reader.entity_of(reader.runbook.scope): labels} if labels else {},
    )


def _spec(reader: _Stage, test: Test, cells: list[Cell]) -> AccountSpec:
    start = {(cell.kind, cell.entity, cell.signal): cell.value_at(0) for cell in cells}
    rules = MarketRules(
        initial_margin=_ratio(test.given.get("initial_margin")),
        maintenance_margin=_ratio(test.given.get("maintenance_margin")),
    )
    positions = []
    for cell in cells:
        if cell.kind is Kind.POSITION and cell.signal == "size" and cell.entity.partition(":")[0] == reader.account:
            symbol = cell.entity.partition(":")[2]
            entry = start.get((Kind.POSITION, cell.entity, "entry_price"))
            size = exact(start[cell.kind, cell.entity, cell.signal])
            positions.append(OpeningPosition(market=symbol, size=size, entry_price=math.nan if entry is None else entry))
    collateral = start.get((Kind.ACCOUNT, reader.account, "collateral"))
    return AccountSpec(
        venue=reader.venue,
        account=reader.account,
        collateral_usd=math.nan if collateral is None else collateral,
        positions=tuple(positions),
        markets={position.market: rules for position in positions},
        buffers={cell.entity: cell.value_at(0) or 0.0 for cell in cells if cell.kind is Kind.CHAIN and cell.signal == "buffer_balance"},
        routes=reader.routes,
    )


def _ratio(value: object) -> float | None:
    return float(value) if isinstance(value, float | int) else None


def exact(value: float | None) -> Decimal:
    """A size as an exact decimal; 0 when it is missing."""
    return Decimal(0) if value is None or not math.isfinite(value) else Decimal(repr(value))
