"""A toy source of paths for the tests of the stress driver: a random walk a market, everything else said in plain arrays."""

from __future__ import annotations

from dataclasses import fields

import numpy as np

from daemon.simulation.stress.path import Grid, Path
from daemon.simulation.stress.surroundings import Fact
from daemon.units import NS
from daemon.world.entities import Kind

START = 1_770_000_000 * NS // (3600 * NS) * (3600 * NS)


OPEN = {"route_open": 1.0, "route_fee": 0.001, "route_eta": 600.0, "route_eta_slow": 1200.0}


class Delays:
    """Every transfer takes ten minutes, and each one minute more than the one before."""

    def delay_s(self, draws: object, route: str, k: int, *moment: object) -> float:
        return 600.0 + 60.0 * k


class ToySource:
    def __init__(
        self, prices: list[float], *, steps: int = 1440, volatility: float = 0.8, seed: int = 7, facts: tuple[Fact, ...] = (),
        halted: tuple[tuple[str, int, int], ...] = (),
    ) -> None:
        self.grid = Grid(start=START, steps=steps)
        self.prices, self.volatility, self.seed, self._facts, self._halted = np.array(prices), volatility, seed, facts, halted

    def _walk(self, number: int, at: np.ndarray, spot: np.ndarray, scale: float) -> Path:
        rng = np.random.Generator(np.random.Philox(key=np.array([self.seed, number % (1 << 64)], np.uint64)))
        count, rows = len(spot), len(at)
        steps = rng.standard_normal((count, rows)) * (self.volatility * scale / np.sqrt(525_600))
        mid = spot[:, None] * np.exp(np.cumsum(steps, axis=1))
        hours = at[at % (3600 * NS) == 0]
        said = {
            "number": number, "at": at, "mid": mid, "oracle": mid.copy(), "index": mid, "spread": np.full_like(mid, 4e-4),
            "depth": np.full_like(mid, 2e6), "funding": rng.standard_normal((count, len(hours))) * 1e-4, "funding_at": hours,
            "facts": self._facts, "halted": self._halted, "adl": (), "regime": np.zeros(rows, np.int8), "pushed": False,
            "surroundings": Delays(),
        }  # fmt: skip
        return Path(**{each.name: None for each in fields(Path)} | said)

    def path(self, number: int) -> Path:
        return self._walk(number, self.grid.at, self.prices, 1.0)

    def refined(self, path: Path, stretches: list[tuple[int, int]], step_ns: int) -> Path:
        return path

    def opening(self) -> Path:
        return self._walk(0, np.array([START], np.int64), self.prices, 0.0)

    def warm_up(self, days: int) -> Path:
        at = START - np.arange(days * 1440 - 1, -1, -1, dtype=np.int64) * 60 * NS
        path = self._walk(2**40, at, self.prices, 0.1)
        path.funding *= 0.05
        path.mid *= (self.prices / path.mid[:, -1])[:, None]
        path.oracle = path.mid.copy()
        path.facts, path.halted = (), ()
        return path

    def surroundings(self) -> tuple[Fact, ...]:
        return (
            Fact(at=START, kind=Kind.ROUTE, entity="cctp", values=OPEN),
            Fact(at=START, kind=Kind.CHAIN, entity="ethereum", values={"gas_price": 8.0, "tx_cost": 1.0}),
            Fact(at=START, kind=Kind.CHAIN, entity="arbitrum", values={"sequencer_up": 1.0, "block_age": 0.0}),
            Fact(at=START, kind=Kind.VENUE, entity="dydx", values={"venue_up": 1.0, "block_age": 0.0}),
        )
