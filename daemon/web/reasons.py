"""Why, and why not (floor 8): the comparisons of an instance's conditions, each with its distance to the point where it turns."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from daemon.service.views import WhyNode, WhyView

TRUTHS = ("FALSE", "UNKNOWN", "TRUE")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """A part of a condition that can be true or not by itself."""

    condition: str  # when | until | guard
    text: str
    verdict: str  # TRUE | FALSE | UNKNOWN
    now: str  # what is compared, as it is
    bound: str  # what it is compared with
    distance: str
    lacking: tuple[str, ...]  # signals that are missing


def comparisons(why: WhyView) -> tuple[Comparison, ...]:
    """All of them, the ones that do not hold first within their condition."""
    found: list[Comparison] = []
    for condition in why.conditions:
        parts = [_comparison(condition.name, node) for node in _parts(condition.tree)]
        found += sorted(parts, key=lambda part: part.verdict == "TRUE")
    return tuple(found)


def verdict(node: WhyNode) -> str:
    """TRUE, FALSE or UNKNOWN of a condition; empty for a quantity."""
    if node.unit != "truth":
        return ""
    return TRUTHS[int(node.value)] if node.value is not None and 0 <= node.value <= 2 else "UNKNOWN"


def _parts(node: WhyNode) -> Iterator[WhyNode]:
    """The innermost conditions: what has no condition inside."""
    inner = [kid for kid in node.kids if kid.unit == "truth"]
    if inner:
        for kid in inner:
            yield from _parts(kid)
    else:
        yield node


def _lacking(node: WhyNode) -> Iterator[str]:
    if node.signal and node.value is None:
        yield node.signal
    for kid in node.kids:
        yield from _lacking(kid)


def _comparison(condition: str, node: WhyNode) -> Comparison:
    sides = [kid.shown for kid in node.kids] + ["", ""]
    return Comparison(
        condition=condition,
        text=node.text,
        verdict=verdict(node),
        now=sides[0] or node.shown,
        bound=sides[1],
        distance=node.distance_shown,
        lacking=tuple(dict.fromkeys(_lacking(node))),
    )
