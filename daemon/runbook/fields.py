"""Reading one mapping of a YAML file, key by key (floor 3): `section.duration("for", 0)`; what is wrong is recorded, never raised.

A reader asks for every key it knows; `close()` then reports the keys nobody asked for, with the nearest known one as a hint.
A method that finds a mistake records it and returns None (or the default), so that all mistakes of a file are found in one pass.
"""

from __future__ import annotations

import difflib
import functools
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from typing import TypeVar

from daemon.errors import Diagnostic
from daemon.language.parse import parse
from daemon.language.problems import ExpressionError
from daemon.language.syntax import Node, plain_names
from daemon.language.typing import Scope, Typed, check
from daemon.runbook.document import DIAGNOSTICS_MAX, Document
from daemon.runbook.model import Expression, Param
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.units import parse_duration, parse_quantity

L = TypeVar("L", bound=str)

ID = re.compile(r"[a-z0-9][a-z0-9-]*")
WORD = re.compile(r"[a-z_][a-z0-9_]*")
_NUMBER = re.compile(r"[+-]?\d[\d_]*")
UNIT_EXAMPLES = {
    "ratio": "25% or 50bps", "USD": "25_000 USD", "s": "90s", "rate/h": "0.05%/h", "price": "3000 price", "base": "0.5 base", "1": "3",
    "gwei": "20 gwei", "bool": "true or false",
}  # fmt: skip
UNIT_NOUNS = {
    "ratio": "a ratio", "USD": "an amount in USD", "s": "a duration", "rate/h": "a rate per hour", "price": "a price",
    "base": "a size in base units", "1": "a number", "gwei": "a gas price", "bool": "true or false",
}  # fmt: skip


@functools.lru_cache(maxsize=4096)
def _parse(text: str) -> Node:
    """The tree of an expression; the same guards and conditions stand in many runbooks and in every reload."""
    return parse(text)


def describe(node: YamlNode) -> str:
    """What a node is, in a user's words: `the text 'abc'`, `a list`, `a mapping`, `nothing`."""
    match node:
        case ListNode():
            return "a list"
        case MapNode():
            return "a mapping"
        case ScalarNode(empty=True):
            return "nothing"
        case ScalarNode(text=text):
            shown = text if len(text) <= 60 else text[:57] + "..."
            return f"'{shown}'"


def hint(word: str, known: Sequence[str]) -> str:
    """`; did you mean 'trigger'?` for a word near a known one, else an empty text."""
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    return f"; did you mean '{near[0]}'?" if near else ""


@dataclass(slots=True, kw_only=True)
class Findings:
    """The mistakes found in one file, the expressions read from it so far, its params and those that something uses."""

    document: Document
    errors: list[Diagnostic] = field(default_factory=list)
    warnings: list[Diagnostic] = field(default_factory=list)
    expressions: list[Expression] = field(default_factory=list)
    params: dict[str, Param] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    _seen: set[tuple[int, int, str, str]] = field(default_factory=set)

    def _add(self, into: list[Diagnostic], found: Diagnostic) -> None:
        key = (found.line, found.column, found.code, found.message)
        # A shared alias shows the same mistake at every use; one message is enough, and a hostile file must not print without end.
        if key not in self._seen and len(into) < DIAGNOSTICS_MAX:
            self._seen.add(key)
            into.append(found)

    def error(self, code: str, message: str, at: YamlNode, where: str = "") -> None:
        """Record a mistake that underlines a node (a collection: its first character)."""
        end = at.end if isinstance(at, ScalarNode) else at.start + 1
        self._add(self.errors, self.document.diagnostic(code, message, at.start, end, where))

    def warn(self, code: str, message: str, at: YamlNode, where: str = "") -> None:
        """Record a warning at a node."""
        end = at.end if isinstance(at, ScalarNode) else at.start + 1
        self._add(self.warnings, self.document.diagnostic(code, message, at.start, end, where, severity="warning"))

    def inside(self, code: str, message: str, at: ScalarNode, start: int, end: int, where: str) -> None:
        """Record a mistake that underlines `at.text[start:end]`."""
        first, last = self.document.offset_in(at, start), self.document.offset_in(at, max(start, end - 1))
        self._add(self.errors, self.document.diagnostic(code, message, first, max(first, last) + 1, where))

    # --- expressions --------------------------------------------------------------------------------------------------
    def parsed(self, at: ScalarNode, where: str, text: str, shift: int = 0) -> Node | None:
        """The syntax tree of `text`, which stands at `at.text[shift:]`."""
        try:
            return _parse(text)
        except ExpressionError as error:
            for problem in error.problems:
                self.inside(problem.code, problem.message, at, shift + problem.start, shift + problem.end, where)
            return None

    def typed(
        self, at: ScalarNode, where: str, scope: Scope, expect: str | tuple[str, ...] | None, text: str, shift: int = 0
    ) -> Typed | None:
        """The checked expression of `text`, which stands at `at.text[shift:]`."""
        node = self.parsed(at, where, text, shift)
        if node is None:
            return None
        if self.params:
            self.used |= plain_names(node) & self.params.keys()
        try:
            return check(node, text, scope, expect)
        except ExpressionError as error:
            for problem in error.problems:
                self.inside(problem.code, problem.message, at, shift + problem.start, shift + problem.end, where)
            return None

    def expression(
        self, node: YamlNode, where: str, scope: Scope, expect: str | tuple[str, ...] | None, span: tuple[int, int] | None = None
    ) -> Expression | None:
        """The typed expression of a scalar (or of `text[span]` of it), numbered in order of reading."""
        if not isinstance(node, ScalarNode) or node.empty:
            self.error(
                "E009",
                f"{where.rpartition('.')[2]} is an expression, found {describe(node)}; quote it if it holds a brace or a colon",
                node,
                where,
            )
            return None
        start, end = span or (0, len(node.text))
        text = node.text[start:end]
        typed = self.typed(node, where, scope, expect, text, start)
        if typed is None:
            return None
        line, column = self.document.position(self.document.offset_in(node, start))
        made = Expression(index=len(self.expressions), where=where, text=text, typed=typed, line=line, column=column)
        self.expressions.append(made)
        return made

    # --- scalars ------------------------------------------------------------------------------------------------------
    def text(self, node: YamlNode, where: str) -> str | None:
        """The text of a scalar; None (recorded) for anything else."""
        if isinstance(node, ScalarNode) and not node.empty:
            return node.text
        self.error("E009", f"{where} is a text, found {describe(node)}", node, where)
        return None

    def literal(self, node: YamlNode, where: str, units: tuple[str, ...]) -> str | None:
        """The literal of a scalar, or the one that the param of this name stands for; None (recorded) for a param of another unit."""
        text = self.text(node, where)
        if text is None or not self.params or not WORD.fullmatch(text):
            return text
        param = self.params.get(text)
        wanted = " or ".join(UNIT_NOUNS[unit] for unit in units)
        if param is None:
            near = hint(text, list(self.params)) or f"; params are {', '.join(self.params)}"
            self.error("E034", f"{where} is {wanted}, and there is no param '{text}'{near}", node, where)
            return None
        self.used.add(text)
        if param.unit in units:
            return param.text
        if param.unit:
            found = UNIT_NOUNS.get(param.unit, "a value")
            write = " or ".join(UNIT_EXAMPLES[unit] for unit in units)
            self.error("E031", f"{where} is {wanted}, found the param {text}, {found}: {param.text}; write {write}", node, where)
        return None

    def texts(self, node: YamlNode, where: str, example: str) -> tuple[str, ...]:
        """The texts of a list."""
        if not isinstance(node, ListNode):
            self.error("E009", f"{where} is a list, found {describe(node)}; write {example}", node, where)
            return ()
        read = [self.text(item, f"{where}[{i}]") for i, item in enumerate(node.items)]
        return tuple(item for item in read if item is not None)

    def choice(self, node: YamlNode, where: str, allowed: Sequence[L]) -> L | None:
        """One of the allowed words."""
        text = self.text(node, where)
        if text is None:
            return None
        for word in allowed:
            if word == text:
                return word
        self.error("E030", f"{where} is one of {', '.join(allowed)}; found '{text}'{hint(text, allowed)}", node, where)
        return None

    def duration(self, node: YamlNode, where: str, *, negative: bool = False) -> int | None:
        """Nanoseconds of a duration, >= 0 unless `negative`."""
        text = self.literal(node, where, ("s",))
        if text is None:
            return None
        try:
            read = parse_duration(text)
        except ValueError:
            self.error("E031", f"{where} is a duration, found '{text}'; write for example 90s, 3m, 24h or 7d", node, where)
            return None
        if abs(read) >= 1 << 61:
            self.error("E032", f"{where} is longer than 70 years", node, where)
            return None
        if read < 0 and not negative:
            self.error("E032", f"{where} is a duration of at least 0s, found {text}", node, where)
            return None
        return read

    def quantity(self, node: YamlNode, where: str, units: tuple[str, ...], bare: bool = False) -> tuple[float, str] | None:
        """Value and unit of a literal in one of `units`; `bare` accepts a number without unit as the first of them."""
        text = self.literal(node, where, (*units, "1") if bare and "1" not in units else units)
        if text is None:
            return None
        wanted = " or ".join(UNIT_NOUNS[unit] for unit in units)
        write = " or ".join(UNIT_EXAMPLES[unit] for unit in units)
        try:
            value, unit = parse_quantity(text)
        except (ValueError, ArithmeticError):
            self.error("E031", f"{where} is {wanted}, found '{text}'; write {write}", node, where)
            return None
        if not abs(value) <= 1e300:
            self.error("E032", f"{where} is too large a number: {text}", node, where)
            return None
        if unit in units:
            return value, unit
        if unit == "1" and bare:
            return value, units[0]
        found = "the number" if unit == "1" else UNIT_NOUNS.get(unit, "a value").replace("a ", "the ", 1)
        self.error("E031", f"{where} is {wanted}, found {found} {text}; write {_rewritten(text, unit, units) or write}", node, where)
        return None

    def count(self, node: YamlNode, where: str, low: int, high: int) -> int | None:
        """A whole number within bounds."""
        text = self.literal(node, where, ("1",))
        if text is None:
            return None
        if not _NUMBER.fullmatch(text) or len(text) > 18:
            self.error("E031", f"{where} is a whole number, found '{text}'", node, where)
            return None
        value = int(text.replace("_", ""))
        if not low <= value <= high:
            self.error("E032", f"{where} is between {low} and {high}, found {value}", node, where)
            return None
        return value


def _rewritten(text: str, unit: str, units: tuple[str, ...]) -> str:
    """What the user probably meant: the same number with the unit that is wanted, empty when there is no obvious one."""
    number = re.match(r"[+-]?[\d_.]+", text)
    if number is None or unit not in ("1", "ratio", "rate/h"):
        return ""
    match units[0]:
        case "ratio" if unit == "1":
            return f"{number[0]}%"
        case "rate/h":
            return f"{text}/h" if unit == "ratio" else f"{number[0]}%/h"
        case "ratio" if unit == "rate/h":
            return text.partition("/")[0]
        case "USD" if unit == "1":
            return f"{number[0]} USD"
        case "s" if unit == "1":
            return f"{number[0]}s"
    return ""


class Section:
    """One mapping while it is read; `where` is its key path, empty at the top of the file."""

    def __init__(self, findings: Findings, node: MapNode, where: str, name: str = "") -> None:
        self.findings = findings
        self.node = node
        self.where = where
        self.name = name or where or "a runbook"
        self.asked: dict[str, None] = {}

    def path(self, key: str) -> str:
        """The key path of one of this mapping's keys."""
        return f"{self.where}.{key}" if self.where else key

    def get(self, key: str) -> YamlNode | None:
        """The node of a key, None when absent."""
        self.asked[key] = None
        return self.node.get(key)

    def has(self, key: str) -> bool:
        """True when the key is written."""
        return self.get(key) is not None

    def required(self, key: str, example: str) -> YamlNode | None:
        """The node of a key that must be there."""
        node = self.get(key)
        if node is None:
            self.findings.error(
                "E008", f"the key '{key}' is missing in {self.name}; write for example {example}", self.node, self.path(key)
            )
        return node

    def names(self) -> list[ScalarNode]:
        """The keys as written."""
        return [key for key, _ in self.node.entries]

    def close(self, reserved: Mapping[str, str] | None = None) -> None:
        """Report every key that nobody asked for."""
        for key, _ in self.node.entries:
            if key.text in self.asked:
                continue
            if reserved and key.text in reserved:
                self.findings.error("E040", f"'{key.text}' {reserved[key.text]}", key, self.path(key.text))
            elif key.text == "<<":
                self.findings.error("E007", "merge keys ('<<') are not part of YAML 1.2; write the keys out", key, self.where)
            else:
                known = list(self.asked)
                advice = hint(key.text, known) or (f"; known keys are {', '.join(known)}" if len(known) <= 14 else "")
                self.findings.error("E007", f"unknown key '{key.text}' in {self.name}{advice}", key, self.path(key.text))

    # --- typed keys ---------------------------------------------------------------------------------------------------
    def text(self, key: str) -> str | None:
        """An optional text."""
        node = self.get(key)
        return None if node is None else self.findings.text(node, self.path(key))

    def texts(self, key: str, example: str) -> tuple[str, ...]:
        """An optional list of texts, empty when absent."""
        node = self.get(key)
        return () if node is None else self.findings.texts(node, self.path(key), example)

    def choice(self, key: str, allowed: Sequence[L], default: L) -> L:
        """One of the allowed words, the default when absent or wrong."""
        node = self.get(key)
        return default if node is None else (self.findings.choice(node, self.path(key), allowed) or default)

    def duration(self, key: str, default: int) -> int:
        """A duration in ns, the default when absent or wrong."""
        node = self.get(key)
        if node is None:
            return default
        read = self.findings.duration(node, self.path(key))
        return default if read is None else read

    def ratio(self, key: str, high: float = 1.0) -> float | None:
        """A ratio above 0 and at most `high`."""
        node = self.get(key)
        if node is None:
            return None
        read = self.findings.quantity(node, self.path(key), ("ratio",))
        if read is not None and not 0.0 < read[0] <= high:
            self.findings.error("E032", f"{self.path(key)} is above 0% and at most {high:.0%}", node, self.path(key))
            return None
        return None if read is None else read[0]

    def usd(self, key: str) -> float | None:
        """An amount in USD, >= 0."""
        node = self.get(key)
        if node is None:
            return None
        read = self.findings.quantity(node, self.path(key), ("USD",))
        if read is not None and read[0] < 0:
            self.findings.error("E032", f"{self.path(key)} is an amount of at least 0 USD", node, self.path(key))
            return None
        return None if read is None else read[0]

    def count(self, key: str, default: int, low: int, high: int) -> int:
        """A whole number within bounds, the default when absent or wrong."""
        node = self.get(key)
        if node is None:
            return default
        read = self.findings.count(node, self.path(key), low, high)
        return default if read is None else read

    def day(self, key: str) -> date | None:
        """A date such as 2026-10-01."""
        node = self.get(key)
        text = None if node is None else self.findings.text(node, self.path(key))
        if node is None or text is None:
            return None
        try:
            if not re.fullmatch(r"\d{4}-\d\d-\d\d", text):
                raise ValueError(text)
            return date.fromisoformat(text)
        except ValueError:
            self.findings.error("E031", f"{self.path(key)} is a date, found '{text}'; write for example 2026-10-01", node, self.path(key))
            return None

    def expression(self, key: str, scope: Scope, expect: str | tuple[str, ...] | None) -> Expression | None:
        """An optional expression."""
        node = self.get(key)
        return None if node is None else self.findings.expression(node, self.path(key), scope, expect)

    def section(self, key: str, example: str) -> Section | None:
        """An optional mapping as a section of its own."""
        node = self.get(key)
        if node is None:
            return None
        if isinstance(node, MapNode):
            return Section(self.findings, node, self.path(key))
        self.findings.error("E009", f"{self.path(key)} is a mapping, found {describe(node)}; write {example}", node, self.path(key))
        return None

    def sections(self, key: str, example: str) -> list[Section]:
        """An optional list of mappings."""
        node = self.get(key)
        if node is None:
            return []
        if not isinstance(node, ListNode):
            self.findings.error("E009", f"{self.path(key)} is a list, found {describe(node)}; write {example}", node, self.path(key))
            return []
        read = []
        for i, item in enumerate(node.items):
            where = f"{self.path(key)}[{i}]"
            if isinstance(item, MapNode):
                read.append(Section(self.findings, item, where))
            else:
                self.findings.error("E009", f"{where} is a mapping, found {describe(item)}; write {example}", item, where)
        return read
