"""What can be wrong with an expression (floor 2): problems with offsets into its own text, raised all at once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One mistake in an expression: `text[start:end]` is the offending token; codes E010 to E029 are the language's."""

    start: int
    end: int
    code: str
    message: str


class ExpressionError(Exception):
    """Every problem of one expression, in order of position."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(sorted(problems, key=lambda p: (p.start, p.end)))
        super().__init__("; ".join(p.message for p in self.problems))
