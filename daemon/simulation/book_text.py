"""A book as the text of its file (floor 5): `parse_book(book_text(book), "live")` is the book again, to the last digit.

For books that nobody wrote: what the daemon holds goes as text to the processes that stress it, and a person can keep it as a file.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping
from decimal import Decimal

from daemon.simulation.book import Book, BookAccount, BookMarket, BookRoute
from daemon.units import NS

Lines = Mapping[str, "str | Lines | tuple[str, ...]"]  # a list's items are flow text already
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9_.-]*")


def book_text(book: Book) -> str:
    """The book's file. A hyperliquid market's maintenance margin follows from its tiers and is not written."""
    file: Lines = {
        "book": _name(book.name),
        **({"title": _name(book.title)} if book.title else {}),
        "accounts": {account.id: _account(account) for account in book.accounts},
        "buffers": {chain: _usd(balance) for chain, balance in book.buffers.items()},
        "routes": {route.name: _route(route) for route in book.routes},
        "labels": {name: {key: _name(value) for key, value in labels.items()} for name, labels in book.labels.items()},
    }
    return "".join(f"{line}\n" for line in _lines(file, ""))


def _lines(section: Lines, indent: str) -> Iterator[str]:
    for key, value in section.items():
        head = f"{indent}{_name(key)}:"
        if isinstance(value, str):
            yield f"{head} {value}"
        elif isinstance(value, tuple):
            yield head if value else f"{head} []"
            yield from (f"{indent}  - {item}" for item in value)
        else:
            yield head if value else f"{head} {{}}"
            yield from _lines(value, f"{indent}  ")


def _account(account: BookAccount) -> Lines:
    return {
        "venue": _name(account.venue),
        "model": account.model,
        "collateral": _usd(account.collateral_usd),
        "taker_fee": _ratio(account.taker_fee),
        "liquidation_fee": _ratio(account.liquidation_fee),
        **({"chain": _name(account.chain)} if account.chain else {}),
        "markets": {symbol: _market(rules, account.model) for symbol, rules in account.markets.items()},
        "positions": tuple(
            f"{{market: {_name(held.market)}, size: {held.size}, entry_price: {_number(held.entry_price)}}}" for held in account.positions
        ),
    }


def _market(rules: BookMarket, model: str) -> Lines:
    found: dict[str, str | tuple[str, ...]] = {}
    if rules.price is not None:
        found["price"] = _number(rules.price)
    found["initial_margin"] = _ratio(rules.initial_margin)
    if model == "dydx-v4":
        found["maintenance_margin"] = _ratio(rules.maintenance_margin)
    if rules.oi_lower_cap:
        found["oi_lower_cap"] = _usd(rules.oi_lower_cap)
    if rules.oi_upper_cap:
        found["oi_upper_cap"] = _usd(rules.oi_upper_cap)
    if rules.open_interest or rules.oi_upper_cap:
        found["open_interest"] = _number(rules.open_interest)
    if rules.tiers:
        found["tiers"] = tuple(f"{{from: {_usd(bound)}, max_leverage: {_number(leverage)}x}}" for bound, leverage in rules.tiers)
    if rules.step is not None:
        found["step"] = str(rules.step)
    return found


def _route(route: BookRoute) -> Lines:
    found = {"from": _name(route.source), "to": _name(route.destination), "eta": _duration(route.eta_ns), "p95": _duration(route.p95_ns)}
    found["fee"] = _ratio(route.fee)
    if math.isfinite(route.capacity_usd):
        found["capacity"] = _usd(route.capacity_usd)
    if route.model:
        found["model"] = _name(route.model)
    return found


def _name(text: str) -> str:
    """A text as a scalar, quoted where it could be read as something else."""
    return text if _PLAIN.fullmatch(text) else json.dumps(text, ensure_ascii=False)


def _duration(ns: int) -> str:
    return f"{ns}ns" if ns % NS else f"{ns // NS}s"


def _number(value: float) -> str:
    return repr(float(value))


def _usd(value: float) -> str:
    return f"{_number(value)} USD"


def _ratio(value: float) -> str:
    return f"{Decimal(_number(value)) * 100}%"  # exact: repr has 17 digits at most
