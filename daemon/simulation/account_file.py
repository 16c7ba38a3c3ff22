"""ACCOUNT.yaml as an `AccountSpec` (floor 5): every mistake at once, each with its line, column and what to write.

    spec = load_account(Path("account.yaml"))      # raises RunbookError with all diagnostics
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import TypeVar

from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.runbook.document import Document, compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition
from daemon.units import parse_duration, parse_quantity, show
from daemon.world.entities import Route

MODELS = ("dydx-v4",)
VALUED_AT = ("oracle_price", "mark_price", "last_price", "index_price")
REQUIRED = ("venue", "model", "collateral", "positions")
OPTIONAL = (
    "markets", "valued_at", "buffers", "routes", "fees", "slippage", "labels", "liquidation_fee", "latency", "sample",
)  # fmt: skip

T = TypeVar("T")


def load_account(path: Path) -> AccountSpec:
    """The account a file describes. Raises RunbookError with every mistake, UserError when the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; --account names the file of the simulated account") from error
    return parse_account(content, str(path))


def parse_account(content: bytes | str, path: str) -> AccountSpec:
    """The account a text describes. Raises RunbookError with every mistake."""
    document = compose(content, path)
    reader = _Reader(document)
    spec = reader.account()
    if document.problems or reader.problems or spec is None:
        problems = [_reworded(problem) for problem in document.problems] + reader.problems
        raise RunbookError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return spec


def _reworded(problem: Diagnostic) -> Diagnostic:
    """The same complaint for an account's file: an empty one does not start with a runbook's schema."""
    if problem.code != "E008":
        return problem
    return Diagnostic(
        file=problem.file, line=problem.line, column=problem.column, code=problem.code,
        message="the file is empty; an account starts with `venue: dydx` and needs model, collateral and positions",
    )  # fmt: skip


class _Reader:
    """Reads one document and collects what is wrong with it."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.problems: list[Diagnostic] = []

    def complain(self, node: YamlNode, where: str, message: str, code: str = "A003") -> None:
        self.problems.append(self.document.diagnostic(code, message, node.start, node.end, where))

    # -- pieces --------------------------------------------------------------------------------------------------------------

    def mapping(self, node: YamlNode | None, where: str, known: tuple[str, ...] = ()) -> Iterator[tuple[ScalarNode, YamlNode]]:
        """The entries of a mapping whose keys are known; anything else is complained about and left out."""
        if node is None:
            return
        if isinstance(node, ScalarNode) and node.empty:
            return
        if not isinstance(node, MapNode):
            self.complain(node, where, f"{where} is a mapping; write {where}: {{key: value}}")
            return
        for key, value in node.entries:
            if known and key.text not in known:
                close = difflib.get_close_matches(key.text, known, 1)
                hint = f"did you mean '{close[0]}'?" if close else f"known here: {', '.join(known)}"
                self.complain(key, where, f"unknown key '{key.text}'; {hint}", "A001")
                continue
            yield key, value

    def items(self, node: YamlNode | None, where: str) -> tuple[YamlNode, ...]:
        """The items of a list; an empty value is an empty list."""
        if node is None or (isinstance(node, ScalarNode) and node.empty):
            return ()
        if not isinstance(node, ListNode):
            self.complain(node, where, f"{where} is a list; write {where}: [...]")
            return ()
        return node.items

    def read(self, node: YamlNode, where: str, parse: Callable[[str], T]) -> T | None:
        """One scalar through a parser whose ValueError is the message."""
        if not isinstance(node, ScalarNode) or node.empty:
            self.complain(node, where, f"{where} needs one value")
            return None
        try:
            return parse(node.text)
        except ValueError as error:
            self.complain(node, where, f"{where}: {error}")
            return None

    # -- the account ---------------------------------------------------------------------------------------------------------

    def account(self) -> AccountSpec | None:
        """The whole file; None when something that everything else needs is missing."""
        root = self.document.root
        if root is None:
            return None
        if not isinstance(root, MapNode):
            self.complain(root, "", "an account is a mapping; write venue, model, collateral and positions, each as `key: value`")
            return None
        found = {key.text: value for key, value in self.mapping(root, "account", REQUIRED + OPTIONAL)}
        for key in REQUIRED:
            if key not in found:
                message = f"the key '{key}' is missing; {_EXAMPLE[key]}"
                self.problems.append(self.document.diagnostic("A002", message, root.start, root.start + 1))
        venue = self._text(found.get("venue"), "venue")
        model = self._choice(found.get("model"), "model", MODELS, MODELS[0])
        positions = tuple(self._positions(found.get("positions")))
        return AccountSpec(
            venue=venue,
            model=model,
            collateral_usd=sum(amount for _, amount in self._amounts(found.get("collateral"), "collateral")),
            positions=positions,
            markets=self._markets(found.get("markets")),
            valued_at=self._valued_at(found.get("valued_at")),
            buffers=dict(self._amounts(found.get("buffers"), "buffers")),
            routes=tuple(self._routes(found.get("routes"), found.get("buffers"), venue)),
            taker_fee=self._cost(found.get("fees"), "fees", "taker"),
            slippage=self._cost(found.get("slippage"), "slippage", "fixed"),
            liquidation_fee=self._scalar(found.get("liquidation_fee"), "liquidation_fee", ratio, 0.015),
            latency_ns=self._scalar(found.get("latency"), "latency", duration, 0),
            labels=self._labels(found.get("labels")),
            sample=self._choice(found.get("sample"), "sample", ("in", "out"), ""),
        )

    def _scalar(self, node: YamlNode | None, where: str, parse: Callable[[str], T], default: T) -> T:
        if node is None:
            return default
        value = self.read(node, where, parse)
        return default if value is None else value

    def _text(self, node: YamlNode | None, where: str) -> str:
        return self._scalar(node, where, str.strip, "")

    def _choice(self, node: YamlNode | None, where: str, known: tuple[str, ...], default: str) -> str:
        value = self._text(node, where)
        if not value:
            return default
        if value not in known and node is not None:
            self.complain(node, where, f"{where} is one of {', '.join(known)}, found '{value}'")
        return value

    def _amounts(self, node: YamlNode | None, where: str) -> Iterator[tuple[str, float]]:
        for key, value in self.mapping(node, where):
            amount = self.read(value, f"{where}.{key.text}", usd)
            if amount is not None:
                yield key.text, amount

    def _positions(self, node: YamlNode | None) -> Iterator[OpeningPosition]:
        seen: set[str] = set()
        for index, item in enumerate(self.items(node, "positions")):
            where = f"positions[{index}]"
            parts = {key.text: value for key, value in self.mapping(item, where, ("market", "size", "entry_price"))}
            missing = [key for key in ("market", "size", "entry_price") if key not in parts]
            if missing and isinstance(item, MapNode):
                self.complain(item, where, f"{' and '.join(missing)} missing; {_EXAMPLE['position']}", "A002")
            market = self._text(parts.get("market"), f"{where}.market")
            size = self._scalar(parts.get("size"), f"{where}.size", base, Decimal(0))
            entry = self._scalar(parts.get("entry_price"), f"{where}.entry_price", price, 0.0)
            if market in seen:
                self.complain(parts["market"], where, f"'{market}' is held twice; write its net size once")
            elif market and ":" in market:
                self.complain(parts["market"], where, f"'{market}' names a venue; write the market alone: {market.partition(':')[2]}")
            elif not missing:
                seen.add(market)
                yield OpeningPosition(market=market, size=size, entry_price=entry)

    def _markets(self, node: YamlNode | None) -> dict[str, MarketRules]:
        markets: dict[str, MarketRules] = {}
        for key, value in self.mapping(node, "markets"):
            where = f"markets.{key.text}"
            parts = {name.text: part for name, part in self.mapping(value, where, ("initial_margin", "maintenance_margin", "step_size"))}
            initial = self._scalar(parts.get("initial_margin"), f"{where}.initial_margin", margin, None)
            maintenance = self._scalar(parts.get("maintenance_margin"), f"{where}.maintenance_margin", margin, None)
            if initial is not None and maintenance is not None and maintenance > initial:
                why = "a position would be closed before it could be opened"
                write = f"write a maintenance_margin of at most {show(initial, 'ratio')}"
                self.complain(parts["maintenance_margin"], where, f"maintenance_margin is above initial_margin: {why}; {write}")
            step = self._scalar(parts.get("step_size"), f"{where}.step_size", base, None)
            markets[key.text] = MarketRules(initial_margin=initial, maintenance_margin=maintenance, step=step or None)
        return markets

    def _valued_at(self, node: YamlNode | None) -> tuple[str, ...]:
        names = []
        for item in self.items(node, "valued_at"):
            name = self._text(item, "valued_at")
            if name and name not in VALUED_AT:
                self.complain(item, "valued_at", f"'{name}' is no price an account is valued at; known: {', '.join(VALUED_AT)}")
            names.append(name)
        return tuple(names) or ("oracle_price", "mark_price", "last_price")

    def _routes(self, node: YamlNode | None, buffers: YamlNode | None, venue: str) -> Iterator[Route]:
        chains = {key.text for key, _ in buffers.entries} if isinstance(buffers, MapNode) else set()
        for index, item in enumerate(self.items(node, "routes")):
            where = f"routes[{index}]"
            known = ("name", "from", "to", "eta", "eta_p95", "fee", "capacity")
            parts = {key.text: value for key, value in self.mapping(item, where, known)}
            missing = [key for key in ("name", "from", "to", "eta") if key not in parts]
            if missing:
                self.complain(item, where, f"{' and '.join(missing)} missing; {_EXAMPLE['route']}", "A002")
                continue
            for end in ("from", "to"):
                place = self._text(parts[end], f"{where}.{end}")
                if place and place not in chains | {venue}:
                    message = f"'{place}' is neither a chain of buffers nor the venue '{venue}'; add it to buffers, 0 USD is enough"
                    self.complain(parts[end], where, message)
            yield Route(
                name=self._text(parts["name"], f"{where}.name"),
                source=self._text(parts["from"], f"{where}.from"),
                destination=self._text(parts["to"], f"{where}.to"),
                eta_ns=self._scalar(parts["eta"], f"{where}.eta", duration, 0),
                eta_p95_ns=self._scalar(parts.get("eta_p95"), f"{where}.eta_p95", duration, None),
                fee=self._scalar(parts.get("fee"), f"{where}.fee", share, 0.0),
                capacity_usd=self._scalar(parts.get("capacity"), f"{where}.capacity", usd, math.inf),
            )

    def _cost(self, node: YamlNode | None, where: str, key: str) -> float:
        for name, value in self.mapping(node, where, (key,)):
            return self._scalar(value, f"{where}.{name.text}", share, 0.0)
        return 0.0

    def _labels(self, node: YamlNode | None) -> dict[str, dict[str, str]]:
        labels: dict[str, dict[str, str]] = {}
        for key, pairs in self.mapping(node, "labels"):
            where = f"labels.{key.text}"
            labels[key.text] = {name.text: self._text(value, f"{where}.{name.text}") for name, value in self.mapping(pairs, where)}
        return labels


_EXAMPLE = {
    "venue": "write venue: dydx, the name its rows carry in the recording",
    "model": f"write model: {MODELS[0]}",
    "collateral": "write collateral: {USDC: 50_000 USD}",
    "positions": "write positions: [{market: HYPE-USD, size: 1_000, entry_price: 33.0}], or positions: []",
    "position": "write {market: HYPE-USD, size: 1_000, entry_price: 33.0}",
    "route": "write {name: cctp, from: ethereum, to: dydx, eta: 20m, fee: 0.1%}",
}


def _number(text: str, units: tuple[str, ...], write: str, *, least: float = 0.0) -> float:
    value, unit = parse_quantity(text)
    if unit not in units:
        raise ValueError(f"found {text!r}, a {unit if unit != '1' else 'bare number'}; write {write}")
    if value < least:
        raise ValueError(f"found {text!r}, which is below {least:g}; write {write}")
    return value


def usd(text: str) -> float:
    """USD >= 0 of `50_000 USD` or of a bare number; raises ValueError."""
    return _number(text, ("USD", "1"), "for example 50_000 USD")


def ratio(text: str) -> float:
    """A fraction >= 0 of `5%` or `5bps`; a bare number is refused, 5 and 0.05 have been confused too often. Raises ValueError."""
    if text.strip() in ("0", "0.0"):
        return 0.0
    return _number(text, ("ratio",), "for example 5% or 5bps")


def share(text: str) -> float:
    """A fraction of what changes hands, 0 to 50%: a cost above that is a slip of the unit. Raises ValueError."""
    return _at_most(text, 0.5)


def margin(text: str) -> float:
    """A margin fraction, 0 to 100%; raises ValueError."""
    return _at_most(text, 1.0)


def _at_most(text: str, most: float) -> float:
    value = ratio(text)
    if value > most:
        raise ValueError(f"found {text!r}, above {most:.0%}; write for example 5bps or 5%")
    return value


def price(text: str) -> float:
    """USD per base unit, > 0; raises ValueError."""
    value = _number(text, ("price", "USD", "1"), "for example 33.0")
    if value <= 0.0:
        raise ValueError(f"found {text!r}; a price is above 0")
    return value


def duration(text: str) -> int:
    """Nanoseconds >= 0 of `20m`; raises ValueError."""
    value = parse_duration(text)
    if value < 0:
        raise ValueError(f"found {text!r}, a time before now; write for example 20m")
    return value


def base(text: str) -> Decimal:
    """Base units as an exact decimal: `1_000`, `-0.5`; raises ValueError."""
    body = text.strip().removesuffix("base").strip().replace("_", "")
    try:
        value = Decimal(body)
    except InvalidOperation:
        raise ValueError(f"found {text!r}, no number of base units; write for example 1_000 or -0.5") from None
    if not value.is_finite():
        raise ValueError(f"found {text!r}; a size is a finite number")
    return value
