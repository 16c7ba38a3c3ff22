"""Text to syntax tree (floor 2): `parse("funding_rate > 5bps/h and not halted")`; raises `ExpressionError` with the offending token.

The grammar is `grammar.lark`. Depth and length are bounded, so that no text can exhaust the parser.
"""

from __future__ import annotations

import functools
import importlib.resources
import re

from lark import Lark, Token, Transformer, v_args
from lark.exceptions import UnexpectedCharacters, UnexpectedEOF, UnexpectedInput, UnexpectedToken, VisitError
from lark.tree import Meta

from daemon.language.problems import ExpressionError, Problem
from daemon.language.syntax import Binary, Call, Compare, Literal, Name, Node, Text, Unary
from daemon.units import parse_quantity

LENGTH_MAX = 4_000  # characters of one expression
DEPTH_MAX = 40  # nested parentheses

_INSTEAD = (
    (re.compile(r"&&"), "'&&' is no operator; write and"),
    (re.compile(r"\|\|?"), "'|' is no operator; write or"),
    (re.compile(r"&"), "'&' is no operator; write and"),
    (re.compile(r"!(?!=)"), "'!' is no operator; write not"),
    (re.compile(r"=>"), "'=>' is no operator; write >="),
    (re.compile(r"=<"), "'=<' is no operator; write <="),
    (re.compile(r"=(?!=)"), "'=' does not compare; write =="),
    (re.compile(r"\*\*|\^"), "there is no power operator; write x * x"),
    (re.compile(r"%"), "there is no remainder operator; a percentage is written 25%"),
    (re.compile(r"\$"), "'$' is no unit; write 25_000 USD"),
    (re.compile(r"\?|:"), "there is no conditional expression; write two runbooks, or least(...) and greatest(...)"),
    (re.compile(r"\{|\["), "brackets are not part of the language; write the expression itself"),
)
_BAD_NUMBER = re.compile(r"[\d.][\d_.]*\s?[A-Za-z%/]*[\w/%]*")
_SPACED_UNITS = ("s", "m", "h", "d", "w", "ms", "bps")
_UNITS_KNOWN = "%, bps, USD, price, base, gwei, s, m, h, d, or a rate such as 0.05%/h"


def _span(meta: Meta) -> tuple[int, int]:
    return meta.start_pos, meta.end_pos


@v_args(meta=True)
class _Tree(Transformer[Token, Node]):
    """Lark's tree to ours."""

    def start(self, meta: Meta, children: list[Node]) -> Node:
        return children[0]

    def group(self, meta: Meta, children: list[Node]) -> Node:
        return children[0]

    def quantity(self, meta: Meta, children: list[Token]) -> Node:
        start, end = _span(meta)
        value, unit = parse_quantity(str(children[0]))
        return Literal(value, unit, str(children[0]), start, end)

    def text(self, meta: Meta, children: list[Token]) -> Node:
        return Text(str(children[0])[1:-1], *_span(meta))

    def reference(self, meta: Meta, children: list[Token]) -> Node:
        name, scope, at_start = _reference(str(children[0]))
        return Name(name, scope, at_start, *_span(meta))

    def call(self, meta: Meta, children: list[Token | list[Node] | None]) -> Node:
        start, end = _span(meta)
        name, scope, at_start = _reference(str(children[0]))
        if at_start:
            raise ExpressionError(
                [Problem(start, end, "E018", f"'{name}@start' takes no arguments; name it in let: and write the let's name with @start")]
            )
        arguments = children[1] if len(children) > 1 else None
        return Call(name, scope, tuple(arguments) if isinstance(arguments, list) else (), start, end)

    def arguments(self, meta: Meta, children: list[Node]) -> list[Node]:
        return children

    def negated(self, meta: Meta, children: list[Node]) -> Node:
        return Unary("not", children[-1], *_span(meta))

    def signed(self, meta: Meta, children: list[Node]) -> Node:
        start, end = _span(meta)
        operand = children[-1]
        if str(children[0]) == "+":
            return operand
        if isinstance(operand, Literal):
            return Literal(-operand.value, operand.unit, f"-{operand.text}", start, end)
        return Unary("-", operand, start, end)

    def _chain(self, meta: Meta, children: list[Node]) -> Node:
        tree = children[0]
        for op, right in zip(children[1::2], children[2::2], strict=True):
            tree = Binary(str(op), tree, right, tree.start, right.end)
        return tree

    either = _chain
    both = _chain
    sum = _chain
    term = _chain

    def comparison(self, meta: Meta, children: list[Node]) -> Node:
        return Compare(tuple(str(op) for op in children[1::2]), tuple(children[0::2]), *_span(meta))


def _reference(text: str) -> tuple[str, str, bool]:
    """Name, scope and whether it is the value at the start of the run."""
    body, _, start = text.partition("@")
    scope, dot, name = body.rpartition(".")
    return name, scope if dot else "", start == "start"


@functools.cache
def _parser() -> Lark:
    grammar = importlib.resources.files("daemon.language").joinpath("grammar.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", propagate_positions=True, maybe_placeholders=False)


def _explain(text: str, error: UnexpectedInput) -> Problem:
    if isinstance(error, UnexpectedEOF) or (isinstance(error, UnexpectedToken) and error.token.type == "$END"):
        end = len(text.rstrip())
        return Problem(max(0, end - 1), end, "E010", "the expression ends too early; an operand or ')' is missing")
    at = error.pos_in_stream or 0
    if isinstance(error, UnexpectedCharacters):
        for pattern, message in _INSTEAD:
            match = pattern.match(text, at)
            if match:
                return Problem(at, match.end(), "E010", message)
        number = _BAD_NUMBER.match(text, at)
        if number:
            return Problem(at, number.end(), "E010", f"{number[0]!r} has no unit that reefd knows; units are {_UNITS_KNOWN}")
        return Problem(at, at + 1, "E010", f"{text[at]!r} is not part of the language")
    assert isinstance(error, UnexpectedToken)
    token = str(error.token)
    before = text[:at].rstrip()
    if token in _SPACED_UNITS and before and before[-1].isdigit():
        number = re.search(r"[\d_.]+$", before)
        return Problem(at, at + len(token), "E010", f"a unit stands right behind its number; write {number[0] if number else ''}{token}")
    if error.token.type in ("REFERENCE", "QUANTITY", "STRING") and before and (before[-1].isalnum() or before[-1] in ")%"):
        return Problem(at, at + len(token), "E010", f"an operator is missing before {token!r}; write and, or, a comparison or * + - /")
    return Problem(at, at + len(token), "E010", f"{token!r} cannot stand here; an operand is expected")


def parse(text: str) -> Node:
    """The syntax tree of one expression; raises ExpressionError."""
    if len(text) > LENGTH_MAX:
        raise ExpressionError(
            [
                Problem(
                    0, LENGTH_MAX, "E010", f"the expression has {len(text)} characters, at most {LENGTH_MAX} are read; split it with let:"
                )
            ]
        )
    if not text.strip():
        raise ExpressionError([Problem(0, 1, "E010", "the expression is empty; write for example funding_rate > 0.05%/h")])
    depth = 0
    for at, character in enumerate(text):
        depth += (character == "(") - (character == ")")
        if depth > DEPTH_MAX:
            raise ExpressionError([Problem(at, at + 1, "E010", f"more than {DEPTH_MAX} nested parentheses; split it with let:")])
    if len(re.findall(r"\bnot\b|-", text)) > 200:
        raise ExpressionError([Problem(0, len(text), "E010", "more than 200 signs and nots in one expression; split it with let:")])
    try:
        tree = _parser().parse(text)
    except UnexpectedInput as error:
        raise ExpressionError([_explain(text, error)]) from None
    try:
        return _Tree().transform(tree)
    except VisitError as error:  # lark wraps what a transformer raises
        if isinstance(error.orig_exc, ExpressionError):
            raise error.orig_exc from None
        raise
