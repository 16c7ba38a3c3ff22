"""The futures that `reefd stress` plays (floor 5): `PathSource(...).path(12)` is the same path on every machine and in every order.

    source = PathSource(world, markets=("dydx:BTC-USD",), routes=(), chains=(), prices={"dydx:BTC-USD": 98_000.0}, grid=grid, seed=7)
    path = source.path(0)           # path.mid: float64[markets, rows], USD

Arrays of a path are read-only: with and without runbooks share them. Row j is at grid.start + (j + 1) steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from daemon.errors import UserError
from daemon.simulation.stress.draws import Bits, Draws
from daemon.simulation.stress.premium import Premiums, dydx_rates, hyperliquid_rates, sampled
from daemon.simulation.stress.prices import Coins, Jump
from daemon.simulation.stress.regime import Spells, by_row, counts_of_rows, regime_spells
from daemon.simulation.stress.surroundings import Adl, Fact, RouteLike, SpellsOf, Surroundings
from daemon.simulation.stress.tilt import Tilt
from daemon.simulation.stress.worldfile import CALM, WorldSpec
from daemon.units import HOUR_NS, MINUTE_NS, NS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """When a path has rows: `steps` of them, at start + (j + 1) x step_ns."""

    start: int
    step_ns: int = MINUTE_NS
    steps: int
    at: Ints = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.step_ns <= 0 or HOUR_NS % self.step_ns or self.steps <= 0:
            raise ValueError(f"an hour is a whole number of steps, and there is at least one; found {self.step_ns} ns x {self.steps}")
        at = self.start + self.step_ns * np.arange(1, self.steps + 1, dtype=np.int64)
        at.flags.writeable = False
        object.__setattr__(self, "at", at)

    @property
    def rows_per_hour(self) -> int:
        """Rows of an hour."""
        return HOUR_NS // self.step_ns

    @property
    def hours(self) -> float:
        """Length in hours."""
        return self.steps * self.step_ns / HOUR_NS


@dataclass(slots=True, kw_only=True)
class Path:
    """One future. Arrays by market and row; what is private to its source serves `PathSource.refined`."""

    number: int
    at: Ints
    regime: NDArray[np.int8]  # 0 calm, 1 stressed, 2 crisis
    mid: Floats  # what the book trades at, USD
    oracle: Floats  # what margin uses, USD: oracle price of dYdX, mark price of Hyperliquid
    index: Floats  # the spot composite that nobody delays or freezes, USD
    spread: Floats  # ratio of mid
    depth: Floats  # USD a side within 50 bps
    funding: Floats  # float64[markets, hours]: settled rate an hour, > 0 longs pay
    funding_at: Ints
    facts: tuple[Fact, ...]
    halted: tuple[tuple[str, int, int], ...]  # (venue, since, until)
    adl: tuple[Adl, ...]
    log_ratio: Floats | None  # cumulative log dP/dQ, None when every path is plain
    pushed: bool  # drawn from the tilted law
    spells: Spells
    scale: Floats  # factor on volatility: float64[rows], or [coins, rows] without dependence
    jumps: tuple[Jump, ...]
    surroundings: Surroundings
    draws: Draws

    def delay_s(self, route: str, k: int, at: int | None = None) -> float:
        """Seconds that the k-th transfer of this path over a route takes when nothing stalls it; inf: it never arrives.

        With `at` (its start, ns) the regime of that time slows it down, and a finality delay of its source chain adds to it.
        """
        return self.surroundings.delay_s(self.draws, route, k, None if at is None else (at, self.spells))

    def chance(self, purpose: str, entity: str, k: int) -> float:
        """One number in (0, 1) that is the same with and without runbooks."""
        return self.draws.chance(purpose, entity, k)


def venue_model(venue: str) -> str:
    """The model that a venue of this id is taken to have when nobody says it."""
    return "hyperliquid" if venue.partition("#")[0] in ("hyperliquid", "hl") or venue.startswith("hyperliquid") else "dydx-v4"


class PathSource:
    """Makes paths of one world for the markets of one book: a pure function of (world, seed, number).

    `models`: margin model by venue id; `margins`: (initial, maintenance) fraction by market id, for the clamp of dYdX funding. Raises
    UserError when the world has no law for one of the markets.
    """

    def __init__(
        self,
        world: WorldSpec,
        *,
        markets: Sequence[str],
        routes: Sequence[RouteLike] = (),
        chains: Sequence[str] = (),
        prices: Mapping[str, float],
        grid: Grid,
        seed: int,
        tilt: Tilt | None = None,
        dependence: bool = True,
        models: Mapping[str, str] | None = None,
        margins: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.world, self.grid, self.seed, self.tilt, self.dependence = world, grid, seed, tilt, dependence
        self.markets = tuple(markets)
        self.prices: Floats = np.array([prices[market] for market in self.markets])
        bases = [market.partition(":")[2].partition("-")[0] for market in self.markets]
        unknown = sorted({base for base in bases if base not in world.assets and "default" not in world.assets})
        if unknown:
            raise UserError(f"world '{world.world}' has no asset {', '.join(unknown)}; add it, or an asset 'default'")
        self.coins = Coins(world, tuple(dict.fromkeys(bases)))
        self.coin_of = [self.coins.bases.index(base) for base in bases]
        venues = [market.partition(":")[0] for market in self.markets]
        self.venues = {venue: (models or {}).get(venue, venue_model(venue)) for venue in venues}
        laws = [world.venues.get(self.venues[venue]) for venue in venues]  # type: ignore[call-overload]
        self._step_s = grid.step_ns / NS
        self._premiums = Premiums(self.markets, [law.premium if law else None for law in laws], self.coin_of, self._step_s)
        specs = [world.asset(base) for base in bases]
        self._spreads = [spec.spread for spec in specs]
        self._depths = [spec.depth for spec in specs]
        self._impact: Floats = np.array([law.premium.impact if law and law.premium else 0.0 for law in laws])
        self._default_8h: Floats = np.array([law.funding_default if law else 0.0 for law in laws])
        fractions = [(margins or {}).get(m, (s.initial_margin, s.maintenance_margin)) for m, s in zip(self.markets, specs, strict=True)]
        self._margins: Floats = np.array(fractions).reshape(-1, 2)
        self._is_dydx = np.array([self.venues[venue] == "dydx-v4" for venue in venues])
        self.surroundings = Surroundings(world, venues=self.venues, markets=self.markets, routes=routes, chains=chains, start=grid.start)
        self._bits = Bits()
        shape = (len(self.coins.bases), grid.steps)
        self._normals, self._moves = np.empty(shape), np.empty(shape)
        self._premium = np.zeros((len(self.markets), grid.steps))
        self._is_plain_map = self.coin_of == list(range(len(self.coins.bases)))
        first_hour = (grid.start // HOUR_NS + 1) * HOUR_NS
        self.funding_at: Ints = np.arange(first_hour, int(grid.at[-1]) + 1, HOUR_NS, dtype=np.int64)
        self._hour_rows: Ints = np.searchsorted(grid.at, self.funding_at, side="right")  # rows up to each full hour
        self._before_start = grid.rows_per_hour - int(self._hour_rows[0]) if len(self.funding_at) else 0

    def path(self, number: int) -> Path:
        """The path of a number."""
        draws = Draws(self._bits, seed=self.seed, path=number)
        grid, coins = self.grid, self.coins
        spells = regime_spells(draws, self.world.regimes, grid.hours)
        own = self._own_spells(draws, spells)
        coins.normals(draws, self._normals)
        scale = self._scale(draws, own)
        coins.log_moves(self._normals, scale, self._step_s / 3600.0, self._moves, correlated=self.dependence)
        jumps = coins.jumps(draws, own, grid.hours, grid.rows_per_hour, together=self.dependence)
        for jump in jumps:
            self._moves[jump.base, jump.row] += jump.size
        return self._assembled(draws, number, spells, scale, jumps)

    def _own_spells(self, draws: Draws, shared: Spells) -> list[Spells]:
        """The regimes of each coin: the shared ones, or its own without dependence."""
        if self.dependence or self.world.regimes is None:
            return [shared] * len(self.coins.bases)
        return [regime_spells(draws, self.world.regimes, self.grid.hours, f"price:{base}") for base in self.coins.bases]

    def _scale(self, draws: Draws, own: Sequence[Spells]) -> Floats:
        grid, bases = self.grid, self.coins.bases
        if self.dependence:
            return self.coins.scale(draws, "", own[0], grid.steps, grid.rows_per_hour)
        parts = [self.coins.scale(draws, base, own[i], grid.steps, grid.rows_per_hour) for i, base in enumerate(bases)]
        return np.stack(parts)

    def _assembled(self, draws: Draws, number: int, spells: Spells, scale: Floats, jumps: tuple[Jump, ...]) -> Path:
        """The path whose log moves stand in `_moves`."""
        grid, rows = self.grid, self.grid.steps
        of_driver = self.surroundings.drivers(draws, spells, self.dependence, grid.hours)
        by_market = [of_driver("premium", market) for market in self.markets]
        first = self._premiums.draw(draws, by_market, self._moves, self._premium) if self._premiums.rows else np.zeros(len(self.markets))
        events = self.surroundings.events(draws, of_driver, grid.hours)
        walked = np.cumsum(self._moves, axis=1, out=self._normals)
        logs = walked if self._is_plain_map else walked[self.coin_of]
        index = np.exp(logs)
        index *= (self.prices / (1.0 + first))[:, None]
        mid = index
        if self._premiums.rows:
            mid = np.multiply(index, self._premium)
            mid += index
        halts = events.halts
        oracle = index
        funding = self._funding(first, halts)
        regime = np.repeat(np.array([state for _, state in spells], dtype=np.int8), counts_of_rows(spells, rows, grid.rows_per_hour))
        spread, depth = self._books(of_driver)
        for array in (regime, index, mid, oracle, spread, depth, funding, scale):
            array.flags.writeable = False
        return Path(
            number=number, at=grid.at, regime=regime, mid=mid, oracle=oracle, index=index, spread=spread, depth=depth, funding=funding,
            funding_at=self.funding_at, facts=events.facts, halted=halts, adl=events.adl, log_ratio=None, pushed=False, spells=spells,
            scale=scale, jumps=jumps, surroundings=self.surroundings, draws=draws,
        )  # fmt: skip

    def _books(self, of_driver: SpellsOf) -> tuple[Floats, Floats]:
        table = self.world.regimes.multipliers() if self.world.regimes else (CALM, CALM, CALM)
        made = []
        for driver, values, factors in (
            ("spread", self._spreads, [m.spread for m in table]),
            ("depth", self._depths, [m.depth for m in table]),
        ):
            spells: Spells = of_driver(driver, "")
            row = by_row(factors, spells, counts_of_rows(spells, self.grid.steps, self.grid.rows_per_hour))
            made.append(np.multiply.outer(np.array(values), row))
        return made[0], made[1]

    def _funding(self, first: Floats, halts: Sequence[tuple[str, int, int]]) -> Floats:
        """Settled rates of every full hour: float64[markets, hours]."""
        hours = len(self._hour_rows)
        if not hours or not self._premiums.rows:
            return np.zeros((len(self.markets), hours))
        ends = self._hour_rows
        shown = sampled(self._premium[:, : ends[-1]], self._impact[:, None])
        per_hour = float(self.grid.rows_per_hour)
        counts = np.full((len(self.markets), hours), per_hour)
        opening = sampled(first, self._impact)
        begins = np.concatenate([[0], ends[:-1]])
        sums = np.add.reduceat(shown, begins, axis=1)
        if ends[0] == 0:
            sums[:, 0] = 0.0
        sums[:, 0] += opening * self._before_start
        minute = FUNDING_MINUTES / per_hour
        rates = np.where(
            self._is_dydx[:, None],
            dydx_rates(sums * minute, counts * minute, self._default_8h[:, None], self._margins[:, :1], self._margins[:, 1:]),
            hyperliquid_rates(sums / np.maximum(counts, 1.0)),
        )
        return rates


FUNDING_MINUTES = 60.0
