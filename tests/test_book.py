"""A desk's book: what its file may say, what it is told when it says something else; the shipped books fit the shipped runbooks."""

from __future__ import annotations

import re
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.errors import RunbookError, UserError
from daemon.simulation.book import load_book, parse_book
from daemon.units import MINUTE_NS, NS
from daemon.world import margin
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
BOOKS = sorted((ROOT / "config/books").glob("*.yaml"))

WHOLE = """\
book: desk
accounts:
  dydx:
    venue: dydx
    model: dydx-v4
    collateral: 50_000 USD
    markets:
      BTC-USD: {price: 98_000, initial_margin: 2%, maintenance_margin: 1.2%, step: 0.0001}
      HYPE-USD: {initial_margin: 10%, maintenance_margin: 5%, oi_lower_cap: 20_000_000, oi_upper_cap: 50_000_000 USD, open_interest: 6e5}
    positions:
      - {market: BTC-USD, size: 1.5}
      - {market: HYPE-USD, size: -1_000, entry_price: 33.0}
  hl:
    venue: hyperliquid
    model: hyperliquid
    collateral: 1_000 USD
    chain: arbitrum
    markets: {ETH: {price: 3_300, tiers: [{from: 0 USD, max_leverage: 25x}, {from: 100_000_000 USD, max_leverage: 15}]}}
buffers: {ethereum: 100_000 USD, arbitrum: 5_000 USD}
routes:
  cctp: {from: ethereum, to: dydx, eta: 20m, p95: 35m, fee: 1bps, capacity: 1_000_000 USD, model: cctp-standard}
  back: {from: hl, to: arbitrum, eta: 4m}
labels: {HYPE-USD: {bucket: income}}
"""


def problems(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(RunbookError) as caught:
        parse_book(text, "book.yaml")
    return [(problem.line, problem.column, problem.message) for problem in caught.value.diagnostics]


def test_book_reads_every_key_in_internal_units() -> None:
    book = parse_book(WHOLE, "book.yaml")
    assert book.market_ids == ("dydx:BTC-USD", "dydx:HYPE-USD", "hyperliquid:ETH")
    assert book.prices == {"dydx:BTC-USD": 98_000.0, "hyperliquid:ETH": 3_300.0}
    dydx, hl = book.accounts
    assert (dydx.id, dydx.model, dydx.collateral_usd, dydx.taker_fee, dydx.liquidation_fee) == ("dydx", "dydx-v4", 50_000.0, 0.0005, 0.015)
    assert [(held.market, held.size, held.entry_price) for held in dydx.positions] == [
        ("BTC-USD", Decimal("1.5"), 98_000.0),
        ("HYPE-USD", Decimal(-1000), 33.0),
    ]
    hype = dydx.markets["HYPE-USD"]
    assert (hype.oi_lower_cap, hype.oi_upper_cap, hype.open_interest, hype.step) == (20e6, 50e6, 600_000.0, None)
    assert (hl.positions, hl.liquidation_fee, hl.chain) == ((), 0.0, "arbitrum")
    eth = hl.markets["ETH"]
    assert (eth.tiers, eth.initial_margin, eth.maintenance_margin) == (((0.0, 25.0), (100e6, 15.0)), 0.04, 0.02)
    cctp, back = book.routes
    assert (cctp.eta_ns, cctp.p95_ns, cctp.fee, cctp.model) == (20 * MINUTE_NS, 35 * MINUTE_NS, 0.0001, "cctp-standard")
    assert (back.p95_ns, back.capacity_usd) == (8 * MINUTE_NS, float("inf"))


def test_book_topology_links_what_runbooks_ask_for() -> None:
    topology = parse_book(WHOLE, "book.yaml").topology()
    position = topology.entity(Kind.POSITION, "dydx:HYPE-USD")
    assert (position.links["account"], position.labels["bucket"]) == ("dydx", "income")
    assert topology.entity(Kind.ACCOUNT, "hl").links == {"venue": "hyperliquid", "chain": "arbitrum"}
    assert topology.venues["hyperliquid"].valued_at[0] == "mark_price"
    assert topology.routes["cctp"].eta_p95_ns == 35 * MINUTE_NS


def test_book_reports_every_mistake_at_once_with_its_place() -> None:
    text = (
        WHOLE.replace("collateral: 50_000 USD", "colateral: 50_000 USD")
        .replace("size: 1.5", "size: 1.50005")
        .replace("eta: 4m", "eta: soon")
    )
    found = problems(text.replace("to: arbitrum, ", "to: optimism, "))
    assert [(line, column) for line, column, _ in found] == [(4, 5), (6, 5), (11, 33), (22, 24), (22, 39)]
    told = "\n".join(message for _, _, message in found)
    for part in (
        "'collateral' is missing",
        "did you mean 'collateral'?",
        "no multiple of the market's step 0.0001",
        "'optimism'",
        "'soon'",
    ):
        assert part in told


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("market: BTC-USD, size: 1.5", "market: BTC, size: 1.5", "did you mean 'BTC-USD'?"),
        ("market: BTC-USD, size: 1.5", "market: HYPE-USD, size: 1, entry_price: 3", "held twice"),
        (", entry_price: 33.0", "", "entry_price is missing"),
        ("initial_margin: 2%", "initial_margin: 1%", "maintenance margin is above initial margin"),
        ("initial_margin: 2%, ", "", "initial_margin is missing"),
        ("initial_margin: 2%", "initial_margin: 0.02", "expected ratio, found '0.02'"),
        ("oi_lower_cap: 20_000_000", "oi_lower_cap: 60_000_000", "lower cap"),
        (", open_interest: 6e5", "", "open_interest is missing"),
        ("model: hyperliquid", "model: hyperlite", "'dydx-v4' or 'hyperliquid'"),
        ("from: 100_000_000 USD", "from: 0 USD", "tiers go upwards"),
        ("max_leverage: 15", "max_leverage: 30", "less leverage"),
        ("from: 0 USD, max", "from: 5 USD, max", "starts at 0 USD"),
        ("p95: 35m", "p95: 5m", "p95 is below"),
        ("to: arbitrum", "to: hl", "two ends"),
        ("fee: 1bps", "fee: 90%", "less than or equal to 0.5"),
        ("buffers: {ethereum: 100_000 USD", "buffers: {ethereum: -1 USD", "greater than or equal to 0"),
        ("  hl:\n    venue: hyperliquid", "  arbitrum:\n    venue: hyperliquid", "chain of buffers as well"),
        ("  hl:\n    venue: hyperliquid", "  hl:\n    venue: dydx", "a venue has one"),
        ("tiers: [", "maintenance_margin: 2%, tiers: [", "follows from tiers"),
    ],
)  # fmt: skip
def test_book_says_what_to_write_when(old: str, new: str, said: str) -> None:
    assert old in WHOLE
    found = problems(WHOLE.replace(old, new))
    assert any(said in message for _, _, message in found), found
    assert all(line > 0 and column > 0 for line, column, _ in found)


def test_book_that_is_missing_or_empty_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=re.escape("--book names a file like config/books/example.yaml")):
        load_book(tmp_path / "nowhere.yaml")
    assert [message for _, _, message in problems("")] == ["the file is empty; a book starts with `book: NAME` and needs accounts"]
    assert "a book is a mapping" in problems("- a\n")[0][2]


@pytest.mark.parametrize("path", BOOKS, ids=lambda path: path.stem)
def test_a_shipped_book_starts_between_safe_and_liquidated(path: Path) -> None:
    book = load_book(path)
    for account in book.accounts:
        sizes = [float(held.size) for held in account.positions]
        prices = [account.price(held.market) for held in account.positions]
        rules = [account.markets[held.market] for held in account.positions]
        equity = account.collateral_usd + sum(s * (p - h.entry_price) for s, p, h in zip(sizes, prices, account.positions, strict=True))
        kept = margin.requirement_sum(sizes, prices, [rule.maintenance_margin for rule in rules])
        opened = [
            margin.initial_fraction(r.initial_margin, r.open_interest * p, r.oi_lower_cap, r.oi_upper_cap)
            for r, p in zip(rules, prices, strict=True)
        ]
        assert 0.15 < margin.margin_ratio(equity, kept) < 0.40
        assert margin.requirement_sum(sizes, prices, opened) < equity, "a position that could not have been opened"


def test_the_shipped_books_have_what_the_shipped_runbooks_name() -> None:
    named = set()
    for path in (ROOT / "runbooks").glob("*.yaml"):
        rules = path.read_text(encoding="utf-8").partition("\ntests:")[0]
        named |= set(re.findall(r"move_buffer: \{from: (\w+)", rules)) | set(re.findall(r", to: ([a-z]+)[,}]", rules))
        named |= set(re.findall(r"buffer\((\w+)\)", rules))
    assert named == {"ethereum", "dydx"}
    for path in BOOKS:
        book = load_book(path)
        assert named <= {*book.buffers, *(account.id for account in book.accounts)}
        ways = {(route.source, route.destination) for route in book.routes}
        assert {("ethereum", "dydx"), ("dydx", "ethereum")} <= ways
        assert all(route.p95_ns >= route.eta_ns >= NS for route in book.routes)
