"""The static filter `where` (floor 2): labels compared with texts, two-valued; a missing label is the empty text.

`matches(parse('venue == "dydx" and bucket != "contingency"'), {"venue": "dydx"})` is True.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.language.problems import ExpressionError, Problem
from daemon.language.syntax import Binary, Compare, Name, Node, Text, Unary

_SHAPE = 'where compares labels with quoted texts; write for example venue == "dydx" and bucket != "contingency"'


def check_where(node: Node, text: str) -> None:
    """Raise ExpressionError for everything in `node` that is not a comparison of a label with a text."""
    problems: list[Problem] = []
    _check(node, text, problems)
    if problems:
        raise ExpressionError(problems)


def _check(node: Node, text: str, problems: list[Problem]) -> None:
    match node:
        case Binary(op="and" | "or", left=left, right=right):
            _check(left, text, problems)
            _check(right, text, problems)
        case Unary(op="not", operand=operand):
            _check(operand, text, problems)
        case Compare(ops=ops, operands=operands):
            if any(op not in ("==", "!=") for op in ops):
                problems.append(Problem(node.start, node.end, "E020", f"labels are texts and only == and != compare them; {_SHAPE}"))
            for operand in operands:
                if not isinstance(operand, Text) and not (isinstance(operand, Name) and not operand.scope and not operand.at_start):
                    found = text[operand.start : operand.end]
                    problems.append(Problem(operand.start, operand.end, "E020", f"found {found!r}; {_SHAPE}"))
            if not any(isinstance(operand, Name) for operand in operands):
                problems.append(Problem(node.start, node.end, "E020", f"no label is compared here; {_SHAPE}"))
        case _:
            problems.append(Problem(node.start, max(node.end, node.start + 1), "E020", f"found {text[node.start : node.end]!r}; {_SHAPE}"))


def matches(node: Node, labels: Mapping[str, str]) -> bool:
    """True when an entity with these labels is meant; `node` has passed `check_where`."""
    match node:
        case Binary(op="and", left=left, right=right):
            return matches(left, labels) and matches(right, labels)
        case Binary(left=left, right=right):
            return matches(left, labels) or matches(right, labels)
        case Unary(operand=operand):
            return not matches(operand, labels)
        case Compare(ops=ops, operands=operands):
            texts = [o.value if isinstance(o, Text) else labels.get(o.name, "") if isinstance(o, Name) else "" for o in operands]
            return all((a == b) == (op == "==") for op, a, b in zip(ops, texts[:-1], texts[1:], strict=True))
        case _:
            raise AssertionError(f"where was not checked: {node}")


def names(node: Node) -> frozenset[str]:
    """The labels a filter reads."""
    match node:
        case Binary(left=left, right=right):
            return names(left) | names(right)
        case Unary(operand=operand):
            return names(operand)
        case Compare(operands=operands):
            return frozenset(o.name for o in operands if isinstance(o, Name))
        case _:
            return frozenset()
