"""An expression's trace as the surface shows it (floor 7): `node_of(tree)` of the JSON-able tree that `Hot.trace` gives, fresh or stored.

    node_of(started.trace)           # a WhyNode; None where there is no trace

A stored trace has passed through JSON: its infinities are the texts `inf` and `-inf`, its lists tuples. Both forms read the same.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

from daemon.language.explain import TRUTHS
from daemon.service.views import WhyNode
from daemon.units import show

TEXTS = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}


def node_of(tree: object) -> WhyNode | None:
    """The node of a trace with everything under it; None when `tree` is no trace. `age_s` of a reading that was never seen is `inf`."""
    if not isinstance(tree, Mapping) or "text" not in tree:
        return None
    kids = tuple(node for kid in _items(tree.get("kids")) if (node := node_of(kid)) is not None)
    unit, role = str(tree.get("unit", "1")), str(tree.get("role", ""))
    value = _number(tree.get("value"))
    distance, away = _distance(kids) if role == "compare" else (None, "")
    return WhyNode(
        text=str(tree["text"]),
        shown=shown(value, unit),
        value=value,
        unit=unit,
        role=role,
        signal=str(tree.get("signal", "")),
        age_s=_number(tree.get("age")),
        distance=distance,
        distance_shown=away,
        kids=kids,
    )


def deciding(tree: object) -> list[str]:
    """The readings of a trace in words, where they are compared with the distance: `funding_rate 0.08%/h, 0.03%/h above 0.05%/h`."""
    node = node_of(tree)
    found: dict[str, None] = {}

    def visit(part: WhyNode) -> None:
        if part.role == "compare" and len(part.kids) == 2 and part.distance_shown:
            left, right = part.kids
            held, bound = (right, left) if _fixed(left) and not _fixed(right) else (left, right)
            if part.distance is not None:
                named = bound.shown if _fixed(bound) else f"{bound.text} ({bound.shown})"
                found[f"{held.text} {held.shown}, {part.distance_shown} {named}"] = None
                return
        if part.signal and part.value is not None:
            found[f"{part.text} {part.shown}"] = None
        for kid in part.kids:
            visit(kid)

    if node is not None:
        visit(node)
    return list(found)


def shown(value: float | None, unit: str) -> str:
    """A value with its unit; None is `unknown`, a truth is TRUE, FALSE or UNKNOWN."""
    if unit == "truth":
        return TRUTHS.get(value, "UNKNOWN") if value is not None else "UNKNOWN"
    return "unknown" if value is None else show(value, unit)


def _number(value: object) -> float | None:
    """A number of a trace; None for none and for NaN."""
    if isinstance(value, str):
        value = TEXTS.get(value)
    if isinstance(value, bool) or not isinstance(value, float | int):
        return None
    return None if math.isnan(value) else float(value)


def _items(value: object) -> tuple[object, ...]:
    return tuple(value) if isinstance(value, list | tuple) else ()


def _distance(kids: tuple[WhyNode, ...]) -> tuple[float | None, str]:
    """What is compared less its bound, and the same in words: `0.038%/h below`. The bound is the right side, unless only the left one is
    constant."""
    if len(kids) != 2:
        return None, ""
    left, right = kids
    held, bound = (right, left) if _fixed(left) and not _fixed(right) else (left, right)
    missing = [kid.text for kid in kids if kid.value is None]
    if missing:
        return None, f"missing {', '.join(missing)}"
    assert held.value is not None
    assert bound.value is not None
    away = held.value - bound.value
    if not math.isfinite(away):
        return None, ""
    if held.unit in ("truth", "bool"):
        return away, ""
    side = "above" if away > 0 else "below"
    return away, f"{show(abs(away), held.unit)} {side}" if away else "equal"


def _fixed(node: WhyNode) -> bool:
    """True for a literal, a parameter, or arithmetic of these."""
    if node.role == "constant":
        return True
    return node.role == "number" and all(_fixed(kid) for kid in node.kids)
