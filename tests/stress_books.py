"""Books of one position (or two accounts) for tests of stress whose answers are known, and the futures they are played through."""

from __future__ import annotations

from pathlib import Path

from daemon.engine.limits import HouseLimits
from daemon.runbook.model import Runbook
from daemon.simulation.book import Book, parse_book
from daemon.simulation.columnar import Compiles
from daemon.simulation.stress.futures import WorldFutures
from daemon.simulation.stress.path import Grid
from daemon.simulation.stress.stage import FINE_STEP_NS, Stage
from daemon.simulation.stress.tilt import Tilt
from daemon.simulation.stress.worldfile import WorldSpec, load_world
from daemon.units import NS, parse_iso
from daemon.world import margin

ROOT = Path(__file__).resolve().parent.parent
START = parse_iso("2026-01-05T00:00:00Z")
SPOT, MAINTENANCE = 100_000.0, 0.03
GBM, CALM = (load_world(ROOT / f"config/worlds/{name}.yaml") for name in ("gbm", "calm"))
ACCOUNT = """  {name}:
    venue: {name}
    model: dydx-v4
    collateral: {collateral} USD
    taker_fee: 0bps
    markets: {{BTC-USD: {{price: 100_000, initial_margin: 5%, maintenance_margin: 3%}}}}
    positions: [{{market: BTC-USD, size: {size}, entry_price: 100_000}}]
"""


def one_position(*, size: float, distance: float, more: str = "") -> Book:
    """`size` BTC at 100,000 USD, liquidated where the price has moved against it by the ratio `distance`. A million USD stand by."""
    barrier = SPOT * (1.0 - distance if size > 0.0 else 1.0 + distance)
    collateral = abs(size) * barrier * MAINTENANCE - size * (barrier - SPOT)
    text = "book: one\naccounts:\n" + ACCOUNT.format(name="dydx", collateral=collateral, size=size) + more
    text += "buffers: {ethereum: 1_000_000 USD}\n"
    text += "routes: {cctp: {from: ethereum, to: dydx, eta: 5m, p95: 20m, fee: 0bps, capacity: 1_000_000 USD}}\n"
    book = parse_book(text, "one.yaml")
    held = book.accounts[0]
    equity, requirement = held.collateral_usd, abs(size) * SPOT * MAINTENANCE
    assert abs(margin.liquidation_price(size, SPOT, MAINTENANCE, equity, requirement) / barrier - 1.0) < 1e-9
    return book


def stage_of(
    book: Book, world: WorldSpec, *, seed: int, hours: int, step_s: int = 60, fine: bool = True, tilt: Tilt | None = None,
    runbooks: tuple[Runbook, ...] = (), compiler: Compiles | None = None,
) -> Stage:  # fmt: skip
    """The production stage; `fine` False: rows stay `step_s` apart near the barrier too."""
    grid = Grid(start=START, step_ns=step_s * NS, steps=hours * 3600 // step_s)
    source = WorldFutures(world, book, grid=grid, seed=seed, tilt=tilt)
    return Stage(
        book, runbooks=runbooks, house=HouseLimits(), source=source, compiler=compiler, warm_up_days=0,
        fine_step_ns=FINE_STEP_NS if fine else grid.step_ns,
    )  # fmt: skip
