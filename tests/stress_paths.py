"""What the tests of stress paths share: a source over three markets, worlds written in a line, and what makes two paths the same."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path as File

import numpy as np

from daemon.simulation.stress.path import Grid, Path, PathSource
from daemon.simulation.stress.worldfile import WorldSpec, load_world, parse_world
from daemon.units import MINUTE_NS, NS

WORLDS = File(__file__).resolve().parent.parent / "config" / "worlds"
START = 1_770_000_000 * NS  # 2026-02-02T02:40:00Z
MARKETS = ("dydx:BTC-USD", "dydx:ETH-USD", "hyperliquid:HYPE-USD")
PRICES = {"dydx:BTC-USD": 98_000.0, "dydx:ETH-USD": 3_300.0, "hyperliquid:HYPE-USD": 33.0}


@dataclass(frozen=True)
class Way:
    name: str
    source: str
    destination: str
    eta_ns: int = 480 * NS
    p95_ns: int = 1800 * NS
    fee: float = 0.0001
    model: str = ""


ROUTES = (
    Way("cctp", "ethereum", "dydx", model="skip-go-regular"),
    Way("fast", "arbitrum", "dydx", 20 * NS, 60 * NS, 0.001, "skip-go-fast"),
)
CHAINS = ("ethereum", "arbitrum")


def world(name: str) -> WorldSpec:
    return load_world(WORLDS / f"{name}.yaml")


def written(text: str, model: str = "jump-diffusion") -> WorldSpec:
    return parse_world(f"world: written\nmodel: {model}\n{text}", "written.yaml")


def source(
    of: WorldSpec,
    *,
    steps: int = 48 * 60,
    step_ns: int = MINUTE_NS,
    markets: tuple[str, ...] = MARKETS,
    prices: Mapping[str, float] = PRICES,
    routes: tuple[Way, ...] = ROUTES,
    **more: object,
) -> PathSource:
    grid = Grid(start=START, step_ns=step_ns, steps=steps)
    return PathSource(of, markets=markets, routes=routes, chains=CHAINS, prices=prices, grid=grid, seed=7, **more)  # type: ignore[arg-type]


def same(one: Path, other: Path) -> None:
    for name in ("at", "regime", "mid", "oracle", "index", "spread", "depth", "funding", "funding_at"):
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
    assert (one.facts, one.halted, one.adl, one.jumps, one.spells) == (other.facts, other.halted, other.adl, other.jumps, other.spells)
    assert (one.log_ratio is None) == (other.log_ratio is None)
    if one.log_ratio is not None and other.log_ratio is not None:
        assert np.array_equal(one.log_ratio, other.log_ratio)
