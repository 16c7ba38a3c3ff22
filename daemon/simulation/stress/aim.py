"""Where rare liquidations of a book are looked for (floor 5): the move of its markets that its weakest account does not survive."""

from __future__ import annotations

from daemon.simulation.book import Book
from daemon.simulation.stress.futures import WorldFutures
from daemon.simulation.stress.ledger import Costs, Ledger
from daemon.simulation.stress.path import Grid
from daemon.simulation.stress.tilt import Tilt, towards
from daemon.simulation.stress.worldfile import WorldSpec


def aim(world: WorldSpec, book: Book, *, horizon_ns: int, start: int) -> Tilt | None:
    """A tilt towards the move that uses up the equity above maintenance of the account that has least of it, for what it holds.

    None where no account holds anything that a move could take. To first order: exposure is size x price, less what maintenance margin
    frees when the price falls.
    """
    futures = WorldFutures(world, book, grid=Grid(start=start, steps=60), seed=0)
    ledger = Ledger(
        book, futures.opening(), start=start, costs=Costs(), index={market: m for m, market in enumerate(book.market_ids)}
    )  # fmt: skip
    found: tuple[float, dict[str, float], float] | None = None
    for account in ledger.accounts.values():
        exposure: dict[str, float] = {}
        gross = 0.0
        for holding in account.held:
            usd = float(holding.size) * account.price(holding)
            gross += abs(usd)
            exposure[holding.market] = usd - abs(usd) * holding.maintenance
        room = account.equity() - account.maintenance()
        if gross > 0.0 and room > 0.0 and (found is None or room / gross < found[0]):
            found = room / gross, exposure, room
    if found is None:
        return None
    return towards(world, found[1], loss_usd=found[2], horizon_ns=horizon_ns)
