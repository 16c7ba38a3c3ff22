"""What surrounds the prices of a path (floor 5): venues that halt, oracles that stand still, bridges that lock, money that is late."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.regime import Spells, regime_spells
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.world.entities import Kind

SpellsOf = Callable[[str, str], Spells]


class Fact(NamedTuple):
    """What a source tells of an entity at a time, ns: values by signal of the catalogue, in its units."""

    at: int
    kind: Kind
    entity: str
    values: Mapping[str, float]


class Adl(NamedTuple):
    """At a time, ns, this share of a position in this market is closed for its owner if it is in profit."""

    at: int
    market: str
    share: float


class RouteLike(Protocol):
    """What a source needs to know of a route."""

    @property
    def name(self) -> str:
        """Its id."""

    @property
    def source(self) -> str:
        """Chain, venue or account that it leaves."""

    @property
    def destination(self) -> str:
        """Chain, venue or account that it reaches."""

    @property
    def eta_ns(self) -> int:
        """Typical time to arrive."""

    @property
    def p95_ns(self) -> int:
        """The slow tail."""

    @property
    def model(self) -> str:
        """Its law in the world file; empty: by its name, else the default's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What happened around the prices of a path."""

    facts: tuple[Fact, ...]
    halts: tuple[tuple[str, int, int], ...]
    adl: tuple[Adl, ...]


class Surroundings:
    """The laws of venues, chains and routes of one book in one world."""

    def __init__(
        self,
        world: WorldSpec,
        *,
        venues: Mapping[str, str],
        markets: Sequence[str],
        routes: Sequence[RouteLike],
        chains: Sequence[str],
        start: int,
    ) -> None:
        self.world, self.venues, self.markets, self.start = world, dict(venues), tuple(markets), start
        self.routes = {route.name: route for route in routes}
        self.chains = tuple(chains)

    def drivers(self, draws: Draws, shared: Spells, dependence: bool, hours: float) -> SpellsOf:
        """The regimes of each driver: the shared ones, or drawn independently."""
        if dependence or self.world.regimes is None:
            return lambda driver, entity: shared
        known: dict[tuple[str, str], Spells] = {}

        def of_driver(driver: str, entity: str) -> Spells:
            key = (driver, entity)
            if key not in known:
                known[key] = regime_spells(draws, self.world.regimes, hours, f"{driver}:{entity}")
            return known[key]

        return of_driver

    def events(self, draws: Draws, of_driver: SpellsOf, hours: float) -> Events:
        """Everything that happens around the prices until `hours` after the start."""
        return Events(facts=(), halts=(), adl=())

    def delay_s(self, draws: Draws, route: str, k: int, moment: tuple[int, Spells] | None = None) -> float:
        """Seconds of the k-th transfer over a route."""
        law = self.world.route(self.routes[route].model if route in self.routes else "", route)
        u = draws.uniform(Purpose.DELAY, route, k)
        if law is not None and law.exponential is not None:
            return -math.log(u) / law.exponential * 3600.0 if law.exponential > 0.0 else math.inf
        return self.routes[route].eta_ns / 1e9
