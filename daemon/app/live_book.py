"""What the daemon holds, as a book (floor 9): from the running engine, or from the journal of a daemon that nobody disturbs.

    book = book_of(engine, settings, at)            # raises UserError naming every reading that is missing
    desk = live_desk(Path("config/reefd.yaml"))     # desk.book, desk.runbooks in force, desk.house

Nothing is guessed. Sizes, collateral, prices, margin fractions and buffers are readings that count now; a route carries what its own
readings say, and where they are silent what the settings assume. Money on its way counts nowhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import cast

from daemon import __version__
from daemon.engine.codec import decode_as
from daemon.engine.engine import Engine
from daemon.engine.events import RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError, UserError
from daemon.journal.store import Journal
from daemon.runbook.load import load_documents
from daemon.runbook.model import Runbook
from daemon.service.recover import recover
from daemon.settings import Settings, load_settings
from daemon.simulation.book import Book, BookAccount, BookMarket, BookPosition, BookRoute
from daemon.units import FOREVER, NEVER, NS, iso, show_duration
from daemon.world.entities import Account, Kind

LIVE = "live"  # the name of the book, and what `--book` calls it
LIQUIDATION_FEE = 0.015  # of dYdX, at most, where the venue does not say: as a book's file that is silent about it (docs/books.md)


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """What a journal says that a daemon holds and does; `at` is when somebody last watched."""

    book: Book
    runbooks: tuple[tuple[str, str], ...]  # path, text of each that is in force
    house: HouseLimits
    at: int


def book_of(engine: Engine, settings: Settings, at: int) -> Book:
    """The book as of `at` (ns). Raises UserError with everything that is not known."""
    found = _Reader(engine=engine, at=at)
    book = Book(
        name=LIVE,
        title=f"The live book of {settings.house} at {iso(at)}",
        accounts=tuple(_account(found, settings, account) for name in settings.venues for account in settings.accounts(name)),
        buffers=_buffers(found, settings),
        routes=tuple(_route(found, settings, name) for name in settings.routes),
        labels=settings.labels,
    )
    if not book.accounts:
        found.missing.append("no account is configured; write one under venues: of the settings")
    if found.missing:
        raise UserError(f"the live book is not complete: {'; '.join(dict.fromkeys(found.missing))}")
    return book


def live_desk(config: Path) -> Desk:
    """The desk of these settings as their journal has it, also while the daemon runs. Raises UserError."""
    settings = load_settings(config)
    with Journal.open_readonly(settings.journal.path, settings.journal.feed()) as journal:

        def read_set(event: RunbooksLoaded) -> Sequence[Runbook]:
            loaded = load_documents({path: journal.document(digest) for path, digest in event.runbooks.items()})
            if loaded.errors:
                raise RunbookError(loaded.errors)
            return loaded.runbooks

        engine = Engine(topology=settings.topology(), house=HouseLimits(), build=__version__, documents=journal.document)
        recovered = recover(engine, journal, read_set)
        at, loaded = recovered.position.at, recovered.standing.in_force
        if recovered.undecided is not None:
            engine.apply_entry(recovered.undecided)
        if loaded is None:
            raise UserError(f"{settings.journal.path}: no daemon has run with these settings; start `reefd run`, or name a book's file")
        return Desk(
            book=book_of(engine, settings, at),
            runbooks=tuple((path, journal.document(digest)) for path, digest in loaded.runbooks.items()),
            house=cast("HouseLimits", decode_as(journal.document(loaded.limits), HouseLimits)),
            at=at,
        )


@dataclass(slots=True, kw_only=True)
class _Reader:
    """Readings of one moment; what is not known is noted, and stands as NaN until the whole is refused."""

    engine: Engine
    at: int
    missing: list[str] = field(default_factory=list)

    def known(self, kind: Kind, entity: str, signal: str) -> float | None:
        """The reading, None when it does not count now."""
        reading = self.engine.hot.peek(kind, entity, signal, self.at)
        return reading.value if reading.known else None

    def last(self, kind: Kind, entity: str, signal: str) -> float | None:
        """The reading however old it is, None when there never was one."""
        reading = self.engine.hot.peek(kind, entity, signal, self.at, {signal: FOREVER})
        return reading.value if reading.known else None

    def need(self, kind: Kind, entity: str, *signals: str, what: str) -> float:
        """The first of `signals` that is known; noted as missing when none is."""
        for signal in signals:
            value = self.known(kind, entity, signal)
            if value is not None:
                return value
        self.missing.append(f"{kind.value} {entity} has no {what} {self._since(kind, entity, signals)}")
        return 1.0

    def _since(self, kind: Kind, entity: str, signals: Sequence[str]) -> str:
        seen = max(self.engine.hot.seen_at(kind, entity, signal) for signal in signals)
        return "yet" if seen == NEVER else f"that counts: the last is {show_duration(max(0, self.at - seen) // NS)} old"


def _account(found: _Reader, settings: Settings, account: Account) -> BookAccount:
    venue = settings.venues[account.venue]
    positions, held = [], []
    for entity in sorted(found.engine.hot.entities(Kind.POSITION)):
        owner, _, symbol = entity.partition(":")
        # A position that was flat when it was last read needs no reading any more.
        if owner != account.id or found.last(Kind.POSITION, entity, "size") == 0.0:
            continue
        size = found.need(Kind.POSITION, entity, "size", what="size")
        if size:
            entry = found.need(Kind.POSITION, entity, "entry_price", what="entry price")
            positions.append(BookPosition(market=symbol, size=Decimal(repr(size)), entry_price=entry))
            held.append(symbol)
    fee = found.known(Kind.VENUE, account.venue, "liquidation_fee")
    return BookAccount(
        id=account.id, venue=account.venue, model=venue.model,
        collateral_usd=found.need(Kind.ACCOUNT, account.id, "collateral", what="collateral"),
        positions=tuple(positions),
        markets={symbol: _market(found, f"{account.venue}:{symbol}", venue.valued_at) for symbol in dict.fromkeys((*venue.markets, *held))},
        taker_fee=found.need(Kind.VENUE, account.venue, "taker_fee", what="taker fee"),
        liquidation_fee=LIQUIDATION_FEE if fee is None else fee,
        chain=venue.chain,
    )  # fmt: skip


def _market(found: _Reader, market: str, valued_at: Sequence[str]) -> BookMarket:
    step = found.known(Kind.MARKET, market, "step_size")
    return BookMarket(
        price=found.need(Kind.MARKET, market, *valued_at, what="price"),
        initial_margin=found.need(Kind.MARKET, market, "imf", what="initial margin fraction (imf)"),
        maintenance_margin=found.need(Kind.MARKET, market, "mmf", what="maintenance margin fraction (mmf)"),
        step=Decimal(repr(step)) if step else None,
    )


def _buffers(found: _Reader, settings: Settings) -> dict[str, float]:
    """What every buffer holds; the other chains that routes name hold nothing of ours."""
    held = {chain: found.need(Kind.CHAIN, chain, "buffer_balance", what="buffer balance") for chain in settings.buffers}
    ends = (end for route in settings.routes.values() for end in (route.source, route.destination))
    return held | {chain: 0.0 for chain in ends if chain in settings.chains and chain not in held}


def _route(found: _Reader, settings: Settings, name: str) -> BookRoute:
    """A route as its readings have it; one that is closed carries nothing."""
    assumed = settings.routes[name]
    values = {signal: found.known(Kind.ROUTE, name, f"route_{signal}") for signal in ("open", "fee", "eta", "eta_slow", "capacity")}
    eta = values["eta"]
    eta_ns = assumed.eta if eta is None else round(eta * NS)
    if eta_ns <= 0:
        found.missing.append(f"route {name} has no time to arrive yet; write eta: into its settings, for example eta: 20m")
        eta_ns = NS
    slow = values["eta_slow"]
    slow_ns = (assumed.eta_p95 if eta is None and assumed.eta_p95 else 2 * eta_ns) if slow is None else round(slow * NS)
    fee, capacity = values["fee"], values["capacity"]
    open_now = values["open"] is None or values["open"] > 0.0
    return BookRoute(
        name=name, source=assumed.source, destination=assumed.destination, eta_ns=eta_ns, p95_ns=max(slow_ns, eta_ns),
        fee=assumed.fee if fee is None else fee,
        capacity_usd=0.0 if not open_now else assumed.capacity if capacity is None else capacity,
        model=assumed.model,
    )  # fmt: skip
