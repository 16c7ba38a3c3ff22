"""What takes a book's weakest account (floor 5): where rare liquidations are looked for, and the map of who survives them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from daemon.simulation.book import Book
from daemon.simulation.stress.futures import WorldFutures
from daemon.simulation.stress.ledger import Costs, Ledger
from daemon.simulation.stress.path import Grid
from daemon.simulation.stress.prices import Coins
from daemon.simulation.stress.survival import SurvivalMap, closed_form, delays_grid, moves_grid, survival_map
from daemon.simulation.stress.tilt import Tilt, base_of, towards
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import NS

DISTANCE_MAX = 0.95  # a common move beyond this is none that a map shows


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakest:
    """The account with the least equity above maintenance for what it holds, at the start: USD, exposure by market id."""

    account: str
    exposure: dict[str, float]
    room_usd: float


def weakest(world: WorldSpec, book: Book, *, start: int) -> Weakest | None:
    """The weakest account; None where no account holds anything that a move could take.

    To first order: exposure is size x price, less what maintenance margin frees when the price falls.
    """
    # Only what stands at the start is asked of it, and that is the same whatever prices do afterwards.
    plain = world.model_copy(update={"model": "gbm", "history": None})
    futures = WorldFutures(plain, book, grid=Grid(start=start, steps=60), seed=0)
    index = {market: m for m, market in enumerate(book.market_ids)}
    ledger = Ledger(book, futures.opening(), start=start, costs=Costs(), index=index)
    found: tuple[float, Weakest] | None = None
    for name, account in ledger.accounts.items():
        exposure: dict[str, float] = {}
        gross = 0.0
        for holding in account.held:
            usd = float(holding.size) * account.price(holding)
            gross += abs(usd)
            exposure[holding.market] = usd - abs(usd) * holding.maintenance
        room = account.equity() - account.maintenance()
        if gross > 0.0 and room > 0.0 and (found is None or room / gross < found[0]):
            found = room / gross, Weakest(account=name, exposure=exposure, room_usd=room)
    return None if found is None else found[1]


def aim(world: WorldSpec, book: Book, *, horizon_ns: int, start: int) -> Tilt | None:
    """A tilt towards the move that uses up what the weakest account has; None where there is none, or the world draws from a past."""
    found = weakest(world, book, start=start) if world.model != "history" else None
    if found is None:
        return None
    try:
        return towards(world, found.exposure, loss_usd=found.room_usd, horizon_ns=horizon_ns)
    except ValueError:
        return None


def survival_of(world: WorldSpec, book: Book, *, horizon_ns: int, start: int) -> SurvivalMap | None:
    """The map of the weakest account: a common move of all prices that has happened x the delay of the money sent then.

    In closed form (Brownian motion, in the world's calm); None where no common move takes the account.
    """
    found = weakest(world, book, start=start)
    if found is None:
        return None
    net = math.fsum(found.exposure.values())
    volatility = _volatility(world, found.exposure, net)
    if not net or not volatility:
        return None
    distance, direction = found.room_usd / abs(net), -1 if net > 0 else 1
    if distance > DISTANCE_MAX:
        return None
    dots = [(route.name, 0.0, route.p95_ns / NS) for route in book.routes if route.source in book.buffers]
    about = (
        f"{found.account} alone, all prices moving together as Brownian motion of {volatility:.0%} a year (the world in calm, what it holds"
        " weighed); with: enough money leaves at once and takes an exponential time with the route's p95. In closed form, not played."
    )
    chance = closed_form(distance=distance, direction=direction, volatility=volatility, horizon_ns=horizon_ns)
    return survival_map(chance, moves=moves_grid(distance), delays_s=delays_grid(), about=about, direction=direction, dots=dots)


def _volatility(world: WorldSpec, exposure: dict[str, float], net: float) -> float:
    """Volatility a year of the common move that loses as much as what is held does, ratio; 0 without a net exposure."""
    bases = tuple(dict.fromkeys(base_of(market) for market in exposure))
    coins = Coins(world, bases)
    held = np.zeros(len(bases))
    for market, usd in exposure.items():
        held[bases.index(base_of(market))] += usd
    covariance = coins.correlation * np.outer(coins.volatility, coins.volatility)
    variance = float((held[:, None] * covariance * held[None, :]).sum())
    return math.sqrt(variance) / abs(net) if net else 0.0
