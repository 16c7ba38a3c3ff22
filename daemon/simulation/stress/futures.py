"""A world's paths as the driver takes them (floor 5): with what stands at the start, and a past for the windows.

    futures = WorldFutures(world, book, grid=grid, seed=7, tilt=None, dependence=True)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from daemon.errors import UserError
from daemon.simulation.book import Book
from daemon.simulation.stress.history import Residuals
from daemon.simulation.stress.path import Floats, Grid, Path, PathSource
from daemon.simulation.stress.surroundings import Fact
from daemon.simulation.stress.tilt import Tilt
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import NS
from daemon.world.entities import Kind


class WorldFutures:
    """The futures of one book in one world: a pure function of (world, book, grid, seed, tilt, dependence)."""

    def __init__(
        self,
        world: WorldSpec,
        book: Book,
        *,
        grid: Grid,
        seed: int,
        tilt: Tilt | None = None,
        dependence: bool = True,
        past: Residuals | None = None,
    ) -> None:
        """`past`: what a world of model `history` draws from, columns as `book.market_ids`. Raises UserError where the world has no law for
        a market, or no past."""
        self.world, self.book, self.seed, self.past = world, book, seed, past
        self.chains = tuple(dict.fromkeys((*book.buffers, *(account.chain for account in book.accounts if account.chain))))
        self._source = self._made(world, grid, tilt, dependence)

    def _made(self, world: WorldSpec, grid: Grid, tilt: Tilt | None, dependence: bool) -> PathSource:
        book = self.book
        unpriced = [market for market in book.market_ids if market not in book.prices]
        if unpriced:
            raise UserError(f"book {book.name}: {', '.join(unpriced)} has no price to start from; write price: under its market")
        margins = {
            f"{account.venue}:{symbol}": (rules.initial_margin, rules.maintenance_margin)
            for account in book.accounts
            for symbol, rules in account.markets.items()
        }
        return PathSource(
            world, markets=book.market_ids, routes=book.routes, chains=self.chains, prices=book.prices, grid=grid, seed=self.seed,
            tilt=tilt, dependence=dependence, past=self.past, margins=margins,
            models={account.venue: account.model for account in book.accounts},
        )  # fmt: skip

    @property
    def grid(self) -> Grid:
        """When the rows of a path stand."""
        return self._source.grid

    @property
    def tilt(self) -> Tilt | None:
        """What paths are pushed by."""
        return self._source.tilt

    def path(self, number: int) -> Path:
        """One future."""
        return self._source.path(number)

    def refined(self, path: Path, stretches: Sequence[tuple[int, int]], step_ns: int) -> Path:
        """The same future with finer rows in `stretches`, [lo, hi) of its rows."""
        return self._source.refined(path, stretches, step_ns)

    def opening(self) -> Path:
        """One row, at the start: the book's own prices, the market as calm as it gets."""
        at = np.array([self.grid.start], np.int64)
        prices: Floats = self._source.prices[:, None].copy()
        specs = [self.world.asset(market.partition(":")[2].partition("-")[0]) for market in self.book.market_ids]
        return replace(
            self._bare(self._source.path(0), at), mid=prices, oracle=prices, index=prices,
            spread=np.array([[spec.spread] for spec in specs]), depth=np.array([[spec.depth] for spec in specs]),
            funding=np.zeros((len(specs), 0)), funding_at=np.zeros(0, np.int64), regime=np.zeros(1, np.int8),
        )  # fmt: skip

    def warm_up(self, days: int) -> Path:
        """A past in which nothing happens but prices and funding; its last row is the start and stands at the book's prices."""
        path = self._source.warm_up(days)
        return self._bare(path, path.at)

    @staticmethod
    def _bare(path: Path, at: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Path:
        return replace(path, at=at, facts=(), halted=(), adl=(), log_ratio=None, pushed=False)

    def surroundings(self) -> tuple[Fact, ...]:
        """Chains, routes and venues as they are at the start."""
        at = self.grid.start
        facts = [
            Fact(at, Kind.ROUTE, route.name, {
                "route_open": 1.0, "route_fee": route.fee, "route_eta": route.eta_ns / NS, "route_eta_slow": route.p95_ns / NS,
            })
            for route in self.book.routes
        ]  # fmt: skip
        for name in self.chains:
            chain = self.world.chain(name)
            values = {"block_age": 0.0}
            if chain is not None:
                values |= {
                    "finality_delay": chain.finality / NS, "gas_price": chain.gas_price, "tx_cost": chain.tx_cost,
                    "tx_per_block": chain.tx_per_block,
                }  # fmt: skip
                if chain.rollup:
                    values["sequencer_up"] = 1.0
            facts.append(Fact(at, Kind.CHAIN, name, values))
        for venue in dict.fromkeys(account.venue for account in self.book.accounts):
            facts.append(Fact(at, Kind.VENUE, venue, {"venue_up": 1.0, "block_age": 0.0, "withdrawals_open": 1.0}))
        return tuple(facts)
