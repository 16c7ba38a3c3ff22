"""The futures that `reefd stress` plays (floor 5): `PathSource(...).path(12)` is the same path on every machine and in every order.

    source = PathSource(world, markets=("dydx:BTC-USD",), routes=(), chains=(), prices={"dydx:BTC-USD": 98_000.0}, grid=grid, seed=7)
    path = source.path(0)           # path.mid: float64[markets, rows], USD

Arrays of a path are read-only: with and without runbooks share them. Row j is at grid.start + (j + 1) steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from daemon.errors import UserError
from daemon.simulation.stress.draws import Bits, Draws
from daemon.simulation.stress.future import Diffusion, Made, Past
from daemon.simulation.stress.history import Residuals
from daemon.simulation.stress.oracle import Oracles
from daemon.simulation.stress.premium import Premiums, dydx_rates, hyperliquid_rates, sampled
from daemon.simulation.stress.prices import Jump
from daemon.simulation.stress.refine import cut, fine_index, straight
from daemon.simulation.stress.regime import Spells, SpellsOf, by_row, counts_of_rows
from daemon.simulation.stress.surroundings import Adl, Fact, RouteLike, Surroundings
from daemon.simulation.stress.tilt import Tilt, base_of
from daemon.simulation.stress.worldfile import OracleSpec, WorldSpec
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.margin import FUNDING_SAMPLES_AN_HOUR

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
# glibc gives the memory of a path back to the system and takes it anew for the next one, page by page, which costs a third of making the
# path; after a block of this many numbers was freed once it keeps up to twice as much (mallopt(3): M_MMAP_THRESHOLD is dynamic).
_ROOM = 3_000_000


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
    first: Floats  # premium at the start, float64[markets]
    surroundings: Surroundings
    drivers: SpellsOf  # regimes by what they drive: the shared ones, or its own without dependence
    draws: Draws

    def delay_s(self, route: str, k: int, at: int | None = None) -> float:
        """Seconds that the k-th transfer of this path over a route takes when nothing stalls it; inf: it never arrives.

        With `at` (its start, ns) the regime of that time slows it down, and a finality delay of its source chain adds to it.
        """
        return self.surroundings.delay_s(self.draws, route, k, at, self.drivers, self.facts)

    def chance(self, purpose: str, entity: str, k: int) -> float:
        """One number in (0, 1) that is the same with and without runbooks."""
        return self.draws.chance(purpose, entity, k)


def venue_model(venue: str) -> str:
    """The model that a venue of this id is taken to have when nobody says it."""
    return "hyperliquid" if venue.partition("#")[0] in ("hyperliquid", "hl") or venue.startswith("hyperliquid") else "dydx-v4"


def _healthy(oracle: OracleSpec | None) -> OracleSpec | None:
    """The same oracle without what can go wrong with it."""
    return None if oracle is None else oracle.model_copy(update={"freeze": None, "late": None, "wrong": None})


class PathSource:
    """Makes paths of one world for the markets of one book: a pure function of (world, seed, number).

    `past`: what a world of model `history` draws from, its columns in the order of `markets`; such a world is not tilted (`is_tilted`).
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
        past: Residuals | None = None,
        models: Mapping[str, str] | None = None,
        margins: Mapping[str, tuple[float, float]] | None = None,
    ) -> None:
        self.world, self.grid, self.seed, self.tilt, self.dependence = world, grid, seed, tilt, dependence
        self.markets = tuple(markets)
        self.prices: Floats = np.array([prices[market] for market in self.markets])
        bases = [base_of(market) for market in self.markets]
        unknown = sorted({base for base in bases if base not in world.assets and "default" not in world.assets})
        if unknown:
            raise UserError(f"world '{world.world}' has no asset {', '.join(unknown)}; add it, or an asset 'default'")
        self.future: Diffusion | Past
        if world.model == "history":
            if world.history is None or past is None:
                raise UserError(f"world '{world.world}' draws from a recorded past; give it one (--history DIR, or recording: in the file)")
            self.future = Past(world, self.markets, past, rows=grid.steps, step_ns=grid.step_ns, dependence=dependence)
            self.coin_of = list(range(len(self.markets)))
        else:
            coins = tuple(dict.fromkeys(bases))
            self.future = Diffusion(world, coins, rows=grid.steps, step_ns=grid.step_ns, tilt=tilt, dependence=dependence)
            self.coin_of = [coins.index(base) for base in bases]
        venues = [market.partition(":")[0] for market in self.markets]
        self.venues = {venue: (models or {}).get(venue, venue_model(venue)) for venue in venues}
        laws = [world.venues.get(self.venues[venue]) for venue in venues]  # type: ignore[call-overload]
        self._step_s = grid.step_ns / NS
        self._premiums = Premiums(self.markets, [law.premium if law else None for law in laws], self.coin_of, grid.steps, self._step_s)
        self._oracles = Oracles(self.markets, [law.oracle if law else None for law in laws], grid.steps, grid.step_ns)
        specs = [world.asset(base) for base in bases]
        self._market_of_coin = [self.coin_of.index(coin) for coin in range(len(self.future.bases))]
        self._spreads: Floats = np.array([spec.spread for spec in specs])
        self._depths: Floats = np.array([spec.depth for spec in specs])
        self._steady: dict[tuple[str, int], Floats] = {}
        self._impact: Floats = np.array([law.premium.impact if law and law.premium else 0.0 for law in laws])
        self._default_8h: Floats = np.array([law.funding_default if law else 0.0 for law in laws])
        fractions = [(margins or {}).get(m, (s.initial_margin, s.maintenance_margin)) for m, s in zip(self.markets, specs, strict=True)]
        self._margins: Floats = np.array(fractions).reshape(-1, 2)
        self._is_dydx = np.array([self.venues[venue] == "dydx-v4" for venue in venues])
        self.surroundings = Surroundings(world, venues=self.venues, markets=self.markets, routes=routes, chains=chains, start=grid.start)
        np.empty(_ROOM)  # allocated and given back at once, see _ROOM
        self._bits = Bits()
        self._shown = np.empty((len(self.markets), grid.steps))
        first_hour = (grid.start // HOUR_NS + 1) * HOUR_NS
        self.funding_at: Ints = np.arange(first_hour, int(grid.at[-1]) + 1, HOUR_NS, dtype=np.int64)
        self._hour_rows: Ints = np.searchsorted(grid.at, self.funding_at, side="right")  # rows up to each full hour
        self._before_start = grid.rows_per_hour - int(self._hour_rows[0]) if len(self.funding_at) else 0

    @property
    def is_tilted(self) -> bool:
        """True when paths carry weights."""
        return self.tilt is not None and isinstance(self.future, Diffusion)

    def path(self, number: int) -> Path:
        """The path of a number."""
        draws = Draws(self._bits, seed=self.seed, path=number)
        return self._assembled(draws, number, self.future.make(draws, number))

    def refined(self, path: Path, stretches: Sequence[tuple[int, int]], step_ns: int) -> Path:
        """The same path with its rows in `stretches` ([low, high) of coarse rows) cut into rows `step_ns` apart.

        Coarse rows keep their values; what happens once (facts, halts, funding) is untouched; a weight is that of the coarse row a fine one
        leads to. Raises ValueError when a coarse step is no whole number of fine ones, or the path is refined already.
        """
        if step_ns <= 0 or self.grid.step_ns % step_ns or path.at is not self.grid.at:
            raise ValueError(f"a step of {self.grid.step_ns} ns of a path as it was made is cut into whole steps, found {step_ns} ns")
        parts = self.grid.step_ns // step_ns
        made = cut(len(path.at), stretches, parts)
        if parts == 1 or not len(made.rows):
            return path
        at = path.at[made.row] - (parts - made.part) * step_ns
        first = path.first
        starts = self.prices / (1.0 + first)
        walked = np.log(path.index / starts[:, None])[self._market_of_coin]
        fine = fine_index(path.draws, self.future, made, walked, path.scale, path.jumps, self.grid.step_ns)
        fine = fine.reshape(len(self.future.bases), -1)
        in_cut = np.isin(made.row, made.rows)
        index = path.index[:, made.row]
        inside = made.inside
        index[:, inside] = (starts[:, None] * np.exp(fine[self.coin_of]))[:, inside[in_cut]]
        mid = index
        if path.mid is not path.index:
            mid = path.mid[:, made.row]
            premium = straight(made, path.mid / path.index - 1.0, first)
            mid[:, inside] = (index * (1.0 + premium))[:, inside]
        oracle = index
        if path.oracle is not path.index:
            oracle = path.oracle[:, made.row]
            apart = straight(made, path.oracle / path.index, np.ones(len(self.markets)))
            shown = np.where(self._stood(path, starts)[:, made.row], oracle, index * apart)
            oracle[:, inside] = shown[:, inside]
        taken = {name: getattr(path, name)[..., made.row] for name in ("regime", "spread", "depth", "scale")}
        for array in (at, index, mid, oracle, *taken.values()):
            array.flags.writeable = False
        log_ratio = None if path.log_ratio is None else path.log_ratio[made.row]
        return replace(path, at=at, index=index, mid=mid, oracle=oracle, log_ratio=log_ratio, **taken)

    def warm_up(self, days: int) -> Path:
        """A calm past of so many days that ends at the start, at the start prices: what windows of runbooks see before the first row.

        No jumps, no outages, no weights; the same for every path. The regime is calm throughout.
        """
        world, rows = self.world, days * 24 * self.grid.rows_per_hour
        venues = {
            name: law.model_copy(update={"halt": None, "adl": None, "oracle": _healthy(law.oracle)}) for name, law in world.venues.items()
        }
        assets = {name: spec.model_copy(update={"jumps": None, "drift": 0.0}) for name, spec in world.assets.items()}
        quiet = {"regimes": None, "jumps": None, "venues": venues, "assets": assets, "routes": {}, "chains": {}}
        source = PathSource(
            world.model_copy(update=quiet), markets=self.markets, prices=dict(zip(self.markets, self.prices.tolist(), strict=True)),
            grid=Grid(start=self.grid.start - rows * self.grid.step_ns, step_ns=self.grid.step_ns, steps=rows), seed=self.seed,
            dependence=self.dependence, past=self.future.past if isinstance(self.future, Past) else None, models=self.venues,
            margins=dict(zip(self.markets, map(tuple, self._margins.tolist()), strict=True)),
        )  # fmt: skip
        path = source.path(-1)
        factors = (self.prices / path.mid[:, -1])[:, None]
        mid = path.mid * factors
        mid[:, -1] = self.prices
        index = path.index * factors
        return replace(path, mid=mid, index=index, oracle=path.oracle * factors)

    def _stood(self, path: Path, starts: Floats) -> NDArray[np.bool_]:
        """True where the oracle did not move from the row before: bool[markets, rows]."""
        before = np.concatenate([starts[:, None], path.oracle[:, :-1]], axis=1)
        found: NDArray[np.bool_] = before == path.oracle
        return found

    def _assembled(self, draws: Draws, number: int, made: Made) -> Path:
        grid, rows, spells, walked = self.grid, self.grid.steps, made.spells, made.walked
        of_driver = self.surroundings.drivers(draws, spells, self.dependence, grid.hours)
        first, premium = np.zeros(len(self.markets)), made.premium
        if made.first is not None:
            first = made.first
        elif self._premiums.any:
            first, premium = self._premiums.draw(draws, [of_driver("premium", market) for market in self.markets], walked)
        events = self.surroundings.events(draws, of_driver, grid.hours)
        # Market by market, so that a row of a market is still in the cache when the next step reads it.
        index = np.empty((len(self.markets), rows))
        mid = index if premium is None else np.empty_like(index)
        starts = self.prices / (1.0 + first)
        for i, coin in enumerate(self.coin_of):
            np.exp(walked[coin], out=index[i])
            index[i] *= starts[i]
            if premium is not None:
                np.multiply(index[i], premium[i], out=mid[i])
                mid[i] += index[i]
        halts = events.halts
        by_coin = [walked[coin] for coin in self.coin_of]
        oracle = self._oracles.prices(draws, index, by_coin, first, premium, events.faults, starts)
        funding = self._funding(first, premium, halts)
        regime = np.repeat(np.array([state for _, state in spells], dtype=np.int8), counts_of_rows(spells, rows, grid.rows_per_hour))
        spread, depth = self._books(of_driver)
        for array in (regime, index, mid, oracle, spread, depth, funding, made.scale):
            array.flags.writeable = False
        return Path(
            number=number, at=grid.at, regime=regime, mid=mid, oracle=oracle, index=index, spread=spread, depth=depth, funding=funding,
            funding_at=self.funding_at, facts=events.facts, halted=halts, adl=events.adl,
            log_ratio=made.log_ratio, pushed=made.pushed, spells=spells,
            scale=made.scale, jumps=made.jumps, first=first, surroundings=self.surroundings, drivers=of_driver, draws=draws,
        )  # fmt: skip

    def _books(self, of_driver: SpellsOf) -> tuple[Floats, Floats]:
        """Spread and depth by market and row; one array serves every path that stays in one regime."""
        made = []
        for driver, values in (("spread", self._spreads), ("depth", self._depths)):
            spells = of_driver(driver, "")
            key = (driver, spells[0][1])
            array = self._steady.get(key) if len(spells) == 1 else None
            if array is None:
                factors = [getattr(multipliers, driver) for multipliers in self.surroundings.table]
                row = by_row(factors, spells, counts_of_rows(spells, self.grid.steps, self.grid.rows_per_hour))
                array = np.multiply.outer(values, row)
                if len(spells) == 1:
                    self._steady[key] = array
            made.append(array)
        return made[0], made[1]

    def _funding(self, first: Floats, premium: Floats | None, halts: Sequence[tuple[str, int, int]]) -> Floats:
        """Settled rates of every full hour: float64[markets, hours]."""
        hours = len(self._hour_rows)
        if not hours or premium is None:
            return np.zeros((len(self.markets), hours))
        ends = self._hour_rows
        shown = premium[:, : ends[-1]]
        if halts or self._impact.any():
            shown = sampled(premium, self._impact[:, None], out=self._shown)[:, : ends[-1]]
        per_hour = float(self.grid.rows_per_hour)
        counts = np.full((len(self.markets), hours), per_hour)
        for venue, since, until in halts:
            begin, end = np.searchsorted(self.grid.at, (since, until)).tolist()
            end = min(end, int(ends[-1]))
            mine = [i for i, market in enumerate(self.markets) if market.partition(":")[0] == venue]
            shown[mine, begin:end] = 0.0
            stood = np.clip(ends, begin, end) - np.clip(np.concatenate([[0], ends[:-1]]), begin, end)
            counts[mine] -= stood
        opening = sampled(first, self._impact)
        begins = np.concatenate([[0], ends[:-1]])
        sums = np.add.reduceat(shown, begins, axis=1) if ends[-1] else np.zeros((len(self.markets), hours))
        if ends[0] == 0:  # the first full hour strikes before the first row
            sums[:, 0] = 0.0
        sums[:, 0] += opening * self._before_start
        minute = FUNDING_SAMPLES_AN_HOUR / per_hour  # samples a row
        rates = np.where(
            self._is_dydx[:, None],
            dydx_rates(sums * minute, counts * minute, self._default_8h[:, None], self._margins[:, :1], self._margins[:, 1:]),
            hyperliquid_rates(sums / np.maximum(counts, 1.0)),
        )
        return rates
