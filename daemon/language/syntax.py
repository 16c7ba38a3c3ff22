"""Syntax tree of an expression (floor 2). Every node knows its span in the expression's own text: `text[start:end]`.

The tree is what the grammar gives; `typing.py` turns it into typed nodes. Nodes are frozen and compare by value without spans.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Literal:
    """A number with its unit, already in internal units (`5%` is 0.05 ratio)."""

    value: float
    unit: str
    text: str
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Text:
    """A quoted text: an entity id or a label's value."""

    value: str
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Name:
    """A signal, a let, a label or a plan's name; `scope` is `venue` in `venue.block_age`; `at_start` for `size@start`."""

    name: str
    scope: str
    at_start: bool
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Unary:
    """`-x` or `not x`."""

    op: str
    operand: Node
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Binary:
    """`+ - * /`, `and`, `or`."""

    op: str
    left: Node
    right: Node
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Compare:
    """A chain `a < b <= c`: `operands` has one more item than `ops`."""

    ops: tuple[str, ...]
    operands: tuple[Node, ...]
    start: int = field(compare=False)
    end: int = field(compare=False)


@dataclass(frozen=True, slots=True)
class Call:
    """A function or a signal with arguments; `scope` as in `Name`."""

    name: str
    scope: str
    args: tuple[Node, ...]
    start: int = field(compare=False)
    end: int = field(compare=False)


Node = Literal | Text | Name | Unary | Binary | Compare | Call


def plain_names(node: Node) -> frozenset[str]:
    """Every name without a scope in front that stands in a tree."""
    match node:
        case Name(name=name, scope=scope):
            return frozenset() if scope else frozenset((name,))
        case Unary(operand=operand):
            return plain_names(operand)
        case Binary(left=left, right=right):
            return plain_names(left) | plain_names(right)
        case Compare(operands=inside) | Call(args=inside):
            return frozenset().union(*(plain_names(item) for item in inside))
        case _:
            return frozenset()
