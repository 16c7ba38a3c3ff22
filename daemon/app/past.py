"""A recording as the past that futures are drawn from (floor 9): read once, here; every process and every machine gets the arrays.

    past = past_of(Path("recording"), book, world)      # past.residuals, past.tests; raises UserError
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from daemon.errors import UserError
from daemon.journal.recording import Recording
from daemon.simulation.book import Book
from daemon.simulation.stress.heldout import HeldOut, held_out, told
from daemon.simulation.stress.history import Residuals, residuals
from daemon.simulation.stress.recorded import FUNDING, PRICES, Hourly, HourlyPast, Source
from daemon.simulation.stress.report import BackTest
from daemon.simulation.stress.tilt import base_of
from daemon.simulation.stress.worldfile import HistorySpec, WorldSpec
from daemon.units import show_duration
from daemon.world.entities import Kind

SEED = 1  # of the fit of premiums
SHOWN_MAX = 8  # entities that an error names


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """What a job carries of a recording; two are equal when their digests are."""

    digest: str
    recording: str = field(compare=False)  # name of its folder
    hours: int = field(compare=False)
    told: tuple[str, ...] = field(compare=False)
    residuals: Residuals = field(compare=False, repr=False)
    tests: tuple[HeldOut, ...] = field(compare=False, repr=False)

    def drawn_by(self, world: WorldSpec) -> WorldSpec:
        """The world with prices and premiums drawn from this past; everything else as its file says."""
        law = world.history or HistorySpec(source=f"recording {self.recording}")
        return world.model_copy(update={"model": "history", "history": law, "jumps": None, "copula": None})

    def back_test(self) -> tuple[BackTest, ...]:
        """The tests for people."""
        return tuple(BackTest(f"{one.of} over {show_duration(one.window_h * 3600.0)}", told(one), one.holds) for one in self.tests)

    def as_json(self) -> dict[str, object]:
        """The past and its tests as they stand under `back_test`."""
        return {
            "recording": self.recording,
            "hours": self.hours,
            "told": list(self.told),
            "tests": [
                {
                    "of": one.of,
                    "window_h": one.window_h,
                    "windows": one.windows,
                    "quantiles": [
                        {"q": each.probability, "below": each.failures, "share": each.share, "kupiec_p": each.p_value}
                        for each in one.quantiles
                    ],
                    "pit": {"gap": one.gap, "p": one.p_value},
                    "holds": one.holds,
                }
                for one in self.tests
            ],
        }


def past_of(folder: Path, book: Book, world: WorldSpec, *, venue: str | None = None) -> Past:
    """The past of a book's markets in a recording; `venue`: whose closes stand for every coin, else each market's own venue.

    Raises UserError for what cannot be read, a market that is not there, or a past that is too short.
    """
    recording = Recording.open(folder)
    if Kind.MARKET not in recording.kinds:
        raise UserError(f"{folder}: holds no markets; prices are drawn from rows of kind market")
    hourly = Hourly(sources_of(book, recording.entities[Kind.MARKET], folder=folder, venue=venue))
    for blocks in recording.slices({Kind.MARKET: (*PRICES, FUNDING)}):
        for block in blocks:
            hourly.take(block)
    try:
        past = hourly.past()
        law = world.history or HistorySpec(source=f"recording {folder.name}")
        fitted = residuals(
            past.closes, past.funding, models=_models(book), decay=law.decay, margins=_margins(book), seed=SEED
        )  # fmt: skip
    except UserError as error:
        raise UserError(f"{folder}: {error}") from error
    tests = held_out(past.closes, markets=past.markets, usd=_held_usd(book, past), law=law)
    notes = past.told if tests else (*past.told, "no back-test: the past is too short to hold a part of it out")
    return Past(
        digest=_digest(past, law), recording=folder.resolve().name, hours=len(past.at), told=notes, residuals=fitted, tests=tests
    )  # fmt: skip


def sources_of(book: Book, entities: Iterable[str], *, folder: Path, venue: str | None) -> dict[str, Source]:
    """Where each market's closes and funding are: the entity of its own name, else one of that venue and coin. Raises UserError."""
    known = tuple(entities)
    found: dict[str, Source] = {}
    for market in book.market_ids:
        own = _entity(market.partition(":")[0], market, known)
        price = own if venue is None else _entity(venue, market, known)
        if price is None:
            coin = base_of(market)
            others = sorted({entity.partition(":")[0] for entity in known if base_of(entity) == coin})
            hint = f"{', '.join(others[:SHOWN_MAX])} have it: write --history-venue {others[0]}" if others else "no venue there has it"
            raise UserError(f"{folder}: there is no {coin} of {venue or market.partition(':')[0]}; {hint}")
        found[market] = Source(price=price, funding=own)
    return found


def _entity(venue: str, market: str, known: tuple[str, ...]) -> str | None:
    exact = f"{venue}:{market.partition(':')[2]}"
    if exact in known:
        return exact
    return next((entity for entity in known if entity.partition(":")[0] == venue and base_of(entity) == base_of(market)), None)


def _models(book: Book) -> tuple[str, ...]:
    models = {account.venue: account.model for account in book.accounts}
    return tuple(models[market.partition(":")[0]] for market in book.market_ids)


def _margins(book: Book) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    rules = {f"{account.venue}:{symbol}": one for account in book.accounts for symbol, one in account.markets.items()}
    return np.array([(rules[market].initial_margin, rules[market].maintenance_margin) for market in book.market_ids])


def _held_usd(book: Book, past: HourlyPast) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    """What the book holds of each market, USD, signed; at the last close where the book has no price of its own."""
    held = np.zeros(len(past.markets))
    for account in book.accounts:
        for position in account.positions:
            at = past.markets.index(f"{account.venue}:{position.market}")
            price = account.markets[position.market].price
            held[at] += float(position.size) * (float(past.closes[-1, at]) if price is None else price)
    return held


def _digest(past: HourlyPast, law: HistorySpec) -> str:
    digest = hashlib.sha256(repr((past.markets, law.decay)).encode())
    for array in (past.at, past.closes, past.funding):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
