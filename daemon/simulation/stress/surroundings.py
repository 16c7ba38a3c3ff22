"""What surrounds the prices of a path (floor 5): venues that halt, oracles that stand still, bridges that lock, money that is late.

Everything here is rare: a path is a handful of intervals and the facts that tell of them. Rates are those of the world file times the
regime's factor; how long something lasts is log-normal. Hours count from the start of the path, facts carry times in ns.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple, Protocol

from daemon.errors import UserError
from daemon.simulation.route_models import MODELS
from daemon.simulation.stress.draws import NORMAL, Draws, Purpose
from daemon.simulation.stress.regime import Z95, Clock, Interval, Spells, SpellsOf, lasting_hours, merged, regime_spells, state_at
from daemon.simulation.stress.worldfile import CALM, DEFAULT, ChainWorld, RouteWorld, VenueWorld, WorldSpec
from daemon.units import HOUR_NS, NS
from daemon.world.entities import Kind

DRIVEN = ("venue_halt", "sequencer_stop", "bridge_lock", "adl", "oracle_freeze")  # rates that a regime multiplies
GATED_AFTER_H = 300.0 / 3600.0  # a halt this long shuts withdrawals afterwards (dydxprotocol/v4-chain x/subaccounts/types/update.go)
TAIL_SHARE = 0.001  # of transfers that take longer than a route's `tail`


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


class OracleFault(NamedTuple):
    """An oracle that is not what it should be: `lag_h` behind, off by a `factor`, or (both neutral) standing still."""

    market: int
    since: float
    until: float
    lag_h: float = 0.0
    factor: float = 1.0

    @property
    def stands(self) -> bool:
        """True when the price does not move at all."""
        return self.lag_h == 0.0 and self.factor == 1.0


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
    def fee(self) -> float:
        """Fee, a ratio."""

    @property
    def model(self) -> str:
        """Its law in the world file; empty: by its name, else the default's."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """What happened around the prices of a path. `faults` in the order in which they act on a price."""

    facts: tuple[Fact, ...]
    halts: tuple[tuple[str, int, int], ...]
    adl: tuple[Adl, ...]
    faults: tuple[OracleFault, ...]


NOTHING = Events(facts=(), halts=(), adl=(), faults=())


def delay_quantile(law: RouteWorld | None, eta_s: float, p95_s: float, u: float) -> float:
    """Seconds that a share `u` of transfers stays below; inf for those that get stuck. `eta_s`, `p95_s`: where the law says none.

    Log-normal through typical and p95; beyond p95 a Pareto tail through `tail` at one in a thousand, where the law states one.
    """
    if law is not None and law.exponential is not None:
        return -math.log1p(-u) / law.exponential * 3600.0 if law.exponential > 0.0 else math.inf
    typical = law.typical / NS if law and law.typical else eta_s
    p95 = law.p95 / NS if law and law.p95 else (max(p95_s, typical) if not (law and law.typical) else 2.0 * typical)
    if law is not None and u > 1.0 - law.stuck:
        return math.inf
    if typical <= 0.0:
        return 0.0
    if law is not None and law.tail is not None and u > 0.95:
        gamma = math.log(max(1.0, law.tail / NS / p95)) / math.log(0.05 / TAIL_SHARE)
        return p95 * math.exp(gamma * math.log(0.05 / (1.0 - u)))
    return typical * math.exp(math.log(p95 / typical) / Z95 * NORMAL.inv_cdf(u))


def check_models(world: WorldSpec, models: Mapping[str, str]) -> None:
    """`models`: by route, empty for the world's default. Raises UserError for those that are neither a law of the world nor a known model
    of a real route (of which the world then says nothing of its own): its transfers would arrive by a law that nobody meant."""
    known = sorted({*world.routes, *MODELS} - {DEFAULT})
    wrong: list[str] = []
    for route, model in models.items():
        if model and model not in known:
            close = difflib.get_close_matches(model, known, 1)
            wrong.append(f"route '{route}': '{model}' is no model of a route" + (f"; did you mean '{close[0]}'?" if close else ""))
    if wrong:
        raise UserError("\n".join([*wrong, f"models that world '{world.world}' or reefd knows: {', '.join(known)}"]))


class Surroundings:
    """The laws of venues, chains and routes of one book in one world. Raises UserError for a route's model that nobody knows."""

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
        check_models(world, {route.name: route.model for route in routes})
        self.world, self.start, self.markets = world, start, tuple(markets)
        self.routes = {route.name: route for route in routes}
        self.venue_laws: dict[str, VenueWorld | None] = {
            venue: next((law for name, law in world.venues.items() if name == model), None) for venue, model in venues.items()
        }
        self.laws = {name: world.route(route.model, name) for name, route in self.routes.items()}
        self.chain_laws: dict[str, ChainWorld] = {name: law for name in dict.fromkeys(chains) if (law := world.chain(name)) is not None}
        self._market_laws = [self.venue_laws[market.partition(":")[0]] for market in self.markets]
        self.table = world.regimes.multipliers() if world.regimes else (CALM, CALM, CALM)
        self._factors = {driver: tuple(getattr(m, driver) for m in self.table) for driver in DRIVEN}
        self._etas = {
            name: [{"route_eta": route.eta_ns / NS * m.delay, "route_eta_slow": route.p95_ns / NS * m.delay} for m in self.table]
            for name, route in self.routes.items()
        }
        self._opening = self._opening_facts()
        self.is_quiet = not (self._opening or any(self._market_laws))

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

    # --- what happens -----------------------------------------------------------------------------------------------------------
    def events(self, draws: Draws, of_driver: SpellsOf, hours: float) -> Events:
        """Everything that happens around the prices until `hours` after the start."""
        if self.is_quiet:
            return NOTHING
        facts = list(self._opening)
        clock = Clock(draws, of_driver, self._factors, hours)
        halts: dict[str, list[Interval]] = {}
        for venue, law in self.venue_laws.items():
            halts[venue] = clock.outages(Purpose.VENUE_HALT, venue, law.halt, "venue_halt", venue) if law else []
            for since, until in halts[venue]:
                shut = {"venue_up": 0.0, "withdrawals_open": 0.0}
                facts.append(Fact(self._ns(since), Kind.VENUE, venue, shut))
                gate = law.gate / HOUR_NS if law and until - since >= GATED_AFTER_H else 0.0
                if gate > 0.0:
                    facts.append(Fact(self._ns(until), Kind.VENUE, venue, {"venue_up": 1.0}))
                    facts.append(Fact(self._ns(until + gate), Kind.VENUE, venue, {"withdrawals_open": 1.0}))
                else:
                    facts.append(Fact(self._ns(until), Kind.VENUE, venue, {"venue_up": 1.0, "withdrawals_open": 1.0}))
        stops, slow = self._chain_events(draws, of_driver, clock, facts)
        self._route_facts(of_driver, clock, halts, stops, slow, facts)
        facts.sort(key=itemgetter(0))
        end = self._ns(hours)
        while facts and facts[-1].at > end:
            facts.pop()
        return Events(
            facts=tuple(facts),
            halts=tuple((venue, self._ns(a), self._ns(b)) for venue, found in halts.items() for a, b in found),
            adl=self._adl(clock),
            faults=self._faults(clock, halts),
        )

    def _chain_events(
        self, draws: Draws, of_driver: SpellsOf, clock: Clock, facts: list[Fact]
    ) -> tuple[dict[str, list[Interval]], dict[str, list[Interval]]]:
        """Stops and slow finality by chain; tells of them and of gas."""
        stops: dict[str, list[Interval]] = {}
        slow: dict[str, list[Interval]] = {}
        for chain, law in self.chain_laws.items():
            stops[chain] = clock.outages(Purpose.SEQUENCER_STOP, chain, law.stop, "sequencer_stop", chain)
            for since, until in stops[chain]:
                facts.append(Fact(self._ns(since), Kind.CHAIN, chain, {"sequencer_up": 0.0, "tx_per_block": 0.0}))
                facts.append(Fact(self._ns(until), Kind.CHAIN, chain, {"sequencer_up": 1.0, "tx_per_block": law.tx_per_block}))
            slow[chain] = clock.outages(Purpose.FINALITY, chain, law.finality_delay, "sequencer_stop", f"finality:{chain}")
            for since, until in slow[chain]:
                assert law.finality_delay is not None
                facts.append(Fact(self._ns(since), Kind.CHAIN, chain, {"finality_delay": law.finality_delay.to / NS}))
                facts.append(Fact(self._ns(until), Kind.CHAIN, chain, {"finality_delay": law.finality / NS}))
            spells = of_driver("gas", chain)
            if len(spells) > 1 or spells[0][1] or law.gas_deviation:
                normals = draws.stream(Purpose.GAS, chain).standard_normal(len(spells)).tolist()
                for (at, state), normal in zip(spells, normals, strict=True):
                    factor = self.table[state].gas * math.exp(law.gas_deviation * normal)
                    told = {"gas_price": law.gas_price * factor, "tx_cost": law.tx_cost * factor}
                    facts.append(Fact(self._ns(at), Kind.CHAIN, chain, told))
        return stops, slow

    def _route_facts(
        self,
        of_driver: SpellsOf,
        clock: Clock,
        halts: Mapping[str, list[Interval]],
        stops: Mapping[str, list[Interval]],
        slow: Mapping[str, list[Interval]],
        facts: list[Fact],
    ) -> None:
        """A route is open while it is not locked, its chains advance and its venues trade; routes of one model lock together."""
        for name, route in self.routes.items():
            law = self.laws[name]
            closed = clock.outages(Purpose.BRIDGE_LOCK, route.model or name, law.lock if law else None, "bridge_lock", route.model or name)
            for end in (route.source, route.destination):
                closed = closed + stops.get(end, []) + halts.get(end.partition("#")[0], [])
            for since, until in merged(closed):
                facts.append(Fact(self._ns(since), Kind.ROUTE, name, {"route_open": 0.0}))
                facts.append(Fact(self._ns(until), Kind.ROUTE, name, {"route_open": 1.0}))
            late = slow.get(route.source, []) if law is None or law.waits_finality else []
            spells = of_driver("delay", name)
            told = self._etas[name]
            if not late:
                facts += [Fact(self._ns(at), Kind.ROUTE, name, told[state]) for at, state in spells if at or state]
                continue
            extra = self._finality_extra_s(route.source)
            for at in sorted({at for at, _ in spells} | {at for interval in late for at in interval}):
                values = told[state_at(spells, at)]
                if any(since <= at < until for since, until in late):
                    values = {signal: value + extra for signal, value in values.items()}
                facts.append(Fact(self._ns(at), Kind.ROUTE, name, values))

    def _finality_extra_s(self, chain: str) -> float:
        law = self.chain_laws[chain]
        return max(0.0, (law.finality_delay.to - law.finality) / NS) if law.finality_delay else 0.0

    def _adl(self, clock: Clock) -> tuple[Adl, ...]:
        found = []
        for market, law in zip(self.markets, self._market_laws, strict=True):
            if law is not None and law.adl is not None:
                happened = clock.happenings(Purpose.ADL, market, law.adl.rate, "adl", market)
                found += [Adl(self._ns(at), market, law.adl.share) for at, _, _ in happened]
        return tuple(sorted(found))

    def _faults(self, clock: Clock, halts: Mapping[str, list[Interval]]) -> tuple[OracleFault, ...]:
        """Oracles that are late, then wrong, then stand still, which a halt and the time after it also make them do."""
        late, wrong, frozen = [], [], []
        for i, (market, law) in enumerate(zip(self.markets, self._market_laws, strict=True)):
            oracle = law.oracle if law else None
            stale = oracle.restart_stale / HOUR_NS if oracle else 0.0
            frozen += [OracleFault(i, since, until + stale) for since, until in halts[market.partition(":")[0]]]
            if oracle is None:
                continue
            behind = clock.outages(Purpose.ORACLE_LATE, market, oracle.late, "oracle_freeze", market)
            late += [OracleFault(i, since, until, lag_h=oracle.late.by / HOUR_NS) for since, until in behind if oracle.late]
            if oracle.wrong is not None:
                for at, normal, u in clock.happenings(Purpose.ORACLE_WRONG, market, oracle.wrong.rate, "oracle_freeze", market):
                    factor = math.exp(oracle.wrong.deviation * NORMAL.inv_cdf(min(max(u, 1e-15), 1.0 - 1e-15)))
                    wrong.append(OracleFault(i, at, at + lasting_hours(oracle.wrong, normal), factor=factor))
            stood = clock.outages(Purpose.ORACLE_FREEZE, market, oracle.freeze, "oracle_freeze", market)
            frozen += [OracleFault(i, since, until) for since, until in stood]
        return (*late, *wrong, *sorted(frozen, key=lambda fault: fault.since))

    # --- what is told at the start ----------------------------------------------------------------------------------------------
    def _opening_facts(self) -> list[Fact]:
        """What every entity tells at the start, in calm."""
        facts: list[Fact] = []
        for venue in self.venue_laws:
            facts.append(Fact(self.start, Kind.VENUE, venue, {"venue_up": 1.0, "withdrawals_open": 1.0}))
        for chain, law in self.chain_laws.items():
            told = {
                "finality_delay": law.finality / NS, "gas_price": law.gas_price, "tx_cost": law.tx_cost, "tx_per_block": law.tx_per_block,
            }  # fmt: skip
            facts.append(Fact(self.start, Kind.CHAIN, chain, {"sequencer_up": 1.0, **told} if law.rollup else told))
        for name, route in self.routes.items():
            told = {"route_open": 1.0, "route_fee": route.fee, "route_eta": route.eta_ns / NS, "route_eta_slow": route.p95_ns / NS}
            facts.append(Fact(self.start, Kind.ROUTE, name, told))
        return facts

    def _ns(self, hour: float) -> int:
        return self.start + round(hour * HOUR_NS)

    # --- transfers --------------------------------------------------------------------------------------------------------------
    def delay_s(self, draws: Draws, route: str, k: int, at: int | None, of_driver: SpellsOf, facts: Sequence[Fact]) -> float:
        """Seconds of the k-th transfer over a route; with its start `at` (ns) the regime of then and slow finality count."""
        known = self.routes.get(route)
        law = self.laws[route] if known else self.world.route("", route)
        eta_s, p95_s = (known.eta_ns / NS, known.p95_ns / NS) if known else (0.0, 0.0)
        seconds = delay_quantile(law, eta_s, p95_s, draws.uniform(Purpose.DELAY, route, k))
        if at is None or known is None:
            return seconds
        factor = self.table[state_at(of_driver("delay", route), (at - self.start) / HOUR_NS)].delay
        extra = 0.0
        if known.source in self.chain_laws and (law is None or law.waits_finality):
            usual = self.chain_laws[known.source].finality / NS
            told = usual
            for fact in facts:
                if fact.at > at:
                    break
                if fact.kind is Kind.CHAIN and fact.entity == known.source:
                    told = fact.values.get("finality_delay", told)
            extra = max(0.0, told - usual)
        return seconds * factor + extra
