"""The live book: what the daemon holds and nothing else, and its text gives the same book back."""

from __future__ import annotations

import math
import string
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon import __version__
from daemon.app.live_book import book_of
from daemon.engine.engine import Engine
from daemon.engine.events import Observed, Row
from daemon.engine.limits import HouseLimits
from daemon.errors import UserError
from daemon.settings import load_settings
from daemon.simulation.book import Book, BookAccount, BookMarket, BookPosition, BookRoute, load_book, parse_book
from daemon.simulation.book_text import book_text
from daemon.units import FOREVER, MINUTE_NS, NS
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
AT = 1_767_225_600 * NS
SETTINGS = load_settings(ROOT / "config/reefd.yaml")

Said = dict[tuple[Kind, str], dict[str, float]]


def market(price: float) -> dict[str, float]:
    return {"oracle_price": price, "imf": 0.05, "mmf": 0.03, "step_size": 0.001}


def whole() -> Said:
    """Everything that the shipped settings' book takes."""
    return {
        (Kind.MARKET, "dydx:BTC-USD"): market(98_000.0),
        (Kind.MARKET, "dydx:ETH-USD"): market(3_300.0),
        (Kind.MARKET, "dydx:HYPE-USD"): market(33.0),
        (Kind.ACCOUNT, "dydx"): {"collateral": 42_000.0},
        (Kind.POSITION, "dydx:BTC-USD"): {"size": 0.3, "entry_price": 97_000.0},
        (Kind.POSITION, "dydx:ETH-USD"): {"size": 0.0},
        (Kind.POSITION, "dydx:HYPE-USD"): {"size": -1_000.0, "entry_price": 34.0},
        (Kind.CHAIN, "ethereum"): {"buffer_balance": 100_000.0},
        (Kind.CHAIN, "arbitrum"): {"buffer_balance": 25_000.0},
    }


def engine_with(said: Said, at: int = AT) -> Engine:
    """An engine that has just been told all this."""
    engine = Engine(topology=SETTINGS.topology(), house=HouseLimits(), build=__version__)
    rows = [Row(kind=kind, entity=entity, values=values) for (kind, entity), values in said.items()]
    rows.append(Row(kind=Kind.VENUE, entity="dydx", values={"taker_fee": 0.0004}, event_ts=FOREVER))
    engine.step(Observed(at=at, source="test", rows=tuple(rows)))
    return engine


def test_live_book_is_what_the_readings_say() -> None:
    said = whole()
    said[Kind.ROUTE, "cctp"] = {"route_eta": 900.0, "route_eta_slow": 2_400.0, "route_fee": 0.002, "route_capacity": 5e5, "route_open": 1.0}
    said[Kind.ROUTE, "fast"] = {"route_open": 0.0}
    book = book_of(engine_with(said), SETTINGS, AT + NS)
    [account] = book.accounts
    assert (book.name, account.id, account.venue, account.model) == ("live", "dydx", "dydx", "dydx-v4")
    assert (account.collateral_usd, account.taker_fee, account.liquidation_fee) == (42_000.0, 0.0004, 0.015)
    assert account.positions == (
        BookPosition(market="BTC-USD", size=Decimal("0.3"), entry_price=97_000.0),
        BookPosition(market="HYPE-USD", size=Decimal("-1000.0"), entry_price=34.0),
    )
    assert list(account.markets) == ["BTC-USD", "ETH-USD", "HYPE-USD"]
    assert account.markets["ETH-USD"] == BookMarket(price=3_300.0, initial_margin=0.05, maintenance_margin=0.03, step=Decimal("0.001"))
    assert book.buffers == {"ethereum": 100_000.0, "arbitrum": 25_000.0}
    cctp, fast = book.routes
    assert cctp == BookRoute(
        name="cctp", source="ethereum", destination="dydx", eta_ns=15 * MINUTE_NS, p95_ns=40 * MINUTE_NS, fee=0.002, capacity_usd=5e5
    )
    # A closed route carries nothing; its time and fee are the settings', because its readings are silent.
    assert (fast.capacity_usd, fast.eta_ns, fast.p95_ns, fast.fee) == (0.0, 20 * NS, 40 * NS, pytest.approx(0.001))
    assert book.labels["HYPE-USD"] == {"bucket": "income"}
    # And it can be played: its text is a book's file.
    assert parse_book(book_text(book), "live") == book


@pytest.mark.parametrize(
    ("key", "signal", "told"),
    [
        ((Kind.MARKET, "dydx:HYPE-USD"), "oracle_price", "market dydx:HYPE-USD has no price yet"),
        ((Kind.MARKET, "dydx:ETH-USD"), "mmf", "market dydx:ETH-USD has no maintenance margin fraction (mmf) yet"),
        ((Kind.ACCOUNT, "dydx"), "collateral", "account dydx has no collateral yet"),
        ((Kind.POSITION, "dydx:BTC-USD"), "entry_price", "position dydx:BTC-USD has no entry price yet"),
        ((Kind.CHAIN, "arbitrum"), "buffer_balance", "chain arbitrum has no buffer balance yet"),
    ],
)
def test_live_book_names_what_is_missing_and_guesses_nothing(key: tuple[Kind, str], signal: str, told: str) -> None:
    said = whole()
    said[key].pop(signal)
    with pytest.raises(UserError) as caught:
        book_of(engine_with(said), SETTINGS, AT + NS)
    assert told in str(caught.value)
    said[key][signal] = math.nan  # a source that says there is none is no better
    with pytest.raises(UserError):
        book_of(engine_with(said), SETTINGS, AT + NS)


def test_live_book_takes_no_reading_that_is_too_old_but_a_flat_position_needs_none() -> None:
    engine = engine_with(whole())
    later = AT + 90 * NS
    fresh = {key: values for key, values in whole().items() if key[0] is not Kind.POSITION}
    rows = tuple(Row(kind=kind, entity=entity, values=values) for (kind, entity), values in fresh.items())
    engine.step(Observed(at=later, source="test", rows=rows))
    with pytest.raises(UserError) as caught:
        book_of(engine, SETTINGS, later)
    said = str(caught.value)
    assert "position dydx:BTC-USD has no size that counts: the last is 1m30s old" in said
    assert "position dydx:HYPE-USD" in said
    assert "ETH-USD" not in said


def test_live_book_takes_nothing_of_a_venue_whose_blocks_are_too_old() -> None:
    said = whole()
    said[Kind.VENUE, "dydx"] = {"block_age": 61.0}
    with pytest.raises(UserError, match="market dydx:BTC-USD has no price that counts"):
        book_of(engine_with(said), SETTINGS, AT + NS)


# --- a book as text -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", sorted((ROOT / "config/books").glob("*.yaml")), ids=lambda path: path.stem)
def test_text_of_a_shipped_book_is_the_book(path: Path) -> None:
    book = load_book(path)
    assert parse_book(book_text(book), "live") == book


names = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.#-]{0,8}", fullmatch=True)
texts = st.text(st.sampled_from(string.printable.strip() + "äΩ —") | st.just(" "), max_size=12)
usd = st.floats(0.0, 1e12)
ratio = st.floats(1e-6, 0.5)
prices = st.floats(1e-9, 1e9)
sizes = st.decimals(min_value=-(10**9), max_value=10**9, places=6, allow_nan=False).filter(bool)


@st.composite
def accounts(draw: st.DrawFn, name: str, symbols: Sequence[str]) -> BookAccount:
    model = draw(st.sampled_from(("dydx-v4", "hyperliquid")))
    rules: dict[str, BookMarket] = {}
    for symbol in symbols:
        price = draw(st.none() | prices)
        if model == "dydx-v4":
            low, high = sorted((draw(ratio), draw(ratio)))
            made = BookMarket(price=price, initial_margin=high, maintenance_margin=low)
            if draw(st.booleans()):
                lower, upper = sorted((draw(usd), draw(usd)))
                made = replace(made, oi_lower_cap=lower, oi_upper_cap=upper, open_interest=draw(usd))
        else:
            leverages = sorted(draw(st.lists(st.floats(1.0, 100.0), min_size=1, max_size=3, unique=True)), reverse=True)
            bounds = sorted(draw(st.lists(st.floats(1.0, 1e9), min_size=len(leverages) - 1, max_size=len(leverages) - 1, unique=True)))
            initial = draw(st.floats(0.5 / leverages[0], 1.0))
            tiers = tuple(zip((0.0, *bounds), leverages, strict=True))
            made = BookMarket(price=price, initial_margin=initial, maintenance_margin=0.5 / leverages[0], tiers=tiers)
        rules[symbol] = replace(made, step=draw(st.none() | st.just(Decimal("0.000001"))))
    held = [BookPosition(market=symbol, size=draw(sizes), entry_price=draw(prices)) for symbol in symbols if draw(st.booleans())]
    return BookAccount(
        id=name, venue=f"v-{name.replace('#', '')}", model=model, collateral_usd=draw(st.floats(-1e9, 1e9)),
        positions=tuple(held), markets=rules,
        taker_fee=draw(st.floats(0.0, 0.05)), liquidation_fee=draw(st.floats(0.0, 0.2)), chain=draw(st.none() | names),
    )  # fmt: skip


@st.composite
def books(draw: st.DrawFn) -> Book:
    ids = draw(st.lists(names, min_size=1, max_size=2, unique=True))
    chains = [chain for chain in draw(st.lists(names, max_size=2, unique=True)) if chain not in ids]
    symbols = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    routes = []
    for name in draw(st.lists(names, max_size=2, unique=True)) if chains else ():
        fast, slow = sorted((draw(st.integers(1, 10**15)), draw(st.integers(1, 10**15))))
        routes.append(
            BookRoute(
                name=name, source=draw(st.sampled_from(chains)), destination=draw(st.sampled_from(ids)), eta_ns=fast, p95_ns=slow,
                fee=draw(st.floats(0.0, 0.5)), capacity_usd=draw(usd | st.just(math.inf)), model=draw(st.sampled_from(("", "cctp-slow"))),
            )
        )  # fmt: skip
    return Book(
        name="live", title=draw(texts), accounts=tuple(draw(accounts(name, symbols)) for name in ids),
        buffers={chain: draw(usd) for chain in chains}, routes=tuple(routes),
        labels=draw(st.dictionaries(names, st.dictionaries(names, texts.filter(bool), min_size=1, max_size=2), max_size=2)),
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@given(books())
def test_text_of_any_book_is_the_book(book: Book) -> None:
    assert parse_book(book_text(book), "live") == book
