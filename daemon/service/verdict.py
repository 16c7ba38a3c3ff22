"""A verdict in a person's words (floor 7): what a condition lacks, what made it so, and how far each comparison is from turning.

Works on the JSON-able trees that `hot.trace` gives. A truth is 0 FALSE, 1 UNKNOWN, 2 TRUE; a distance is value less bound.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from daemon.language.explain import TRUTHS, value_of
from daemon.units import NS, iso, show, show_duration

Tree = Mapping[str, Any]
Verdict = Literal["TRUE", "FALSE", "UNKNOWN"]
FALSE, UNKNOWN, TRUE = 0.0, 1.0, 2.0
FAR = math.inf
_OPERATOR = re.compile(r" (?:<=|>=|==|!=|<|>) ")


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One comparison of a condition, turned so that what moves stands first: `away` is quantity less bound, NaN when one is unknown."""

    tree: Tree
    quantity: Tree
    bound: Tree
    unit: str
    away: float

    @property
    def nearness(self) -> float:
        """|away| over the bound (over the quantity where the bound is 0): 0 at the bound, infinite when unknown."""
        if math.isnan(self.away):
            return FAR
        size = abs(self.bound["value"]) or abs(self.quantity["value"])
        if math.isinf(size) or math.isinf(self.away):
            return FAR
        return abs(self.away) / size if size else 0.0


def verdict_of(tree: Tree) -> Verdict:
    """The truth of a condition's tree in a word."""
    value = tree["value"]
    return TRUTHS[value] if isinstance(value, float) else "UNKNOWN"  # type: ignore[return-value]


def fixed(tree: Tree) -> bool:
    """True for what no reading moves: literals, params, and arithmetic over them."""
    if tree["role"] == "constant":
        return True
    if tree["role"] != "number" or tree["value"] is None:
        return False
    kids = tree["kids"]
    return all(fixed(kid) for kid in kids) if kids else str(tree["text"]).isidentifier()


def comparison(tree: Tree) -> Comparison | None:
    """The comparison at a node; None when there is none, or when it compares truths."""
    if tree["role"] != "compare" or len(tree["kids"]) != 2 or any(kid["unit"] in ("truth", "bool") for kid in tree["kids"]):
        return None
    left, right = tree["kids"]
    quantity, bound = (right, left) if fixed(left) and not fixed(right) else (left, right)
    unit = str(bound["unit"] if quantity["role"] == "constant" else quantity["unit"])
    known = quantity["value"] is not None and bound["value"] is not None
    return Comparison(tree=tree, quantity=quantity, bound=bound, unit=unit, away=quantity["value"] - bound["value"] if known else math.nan)


def comparisons(tree: Tree) -> Iterator[Comparison]:
    """Every comparison of a condition that decides its verdict, in order of appearance."""
    found = comparison(tree)
    if found is not None:
        yield found
    elif tree["role"] == "logic":
        for kid in tree["kids"]:
            yield from comparisons(kid)


# --- what has to change -------------------------------------------------------------------------------------------------


def nearness(tree: Tree, *, wanted: bool = True) -> float:
    """How far a condition is from being TRUE (or, not `wanted`, from being FALSE): 0 when it is, infinite when that is unknown."""
    if tree["value"] == (TRUE if wanted else FALSE):
        return 0.0
    parts, together = _parts(tree, wanted)
    if parts:
        far = [nearness(kid, wanted=want) for kid, want in parts]
        return max(far) if together else min(far)
    found = comparison(tree)
    if found is not None:
        return found.nearness
    return FAR if tree["value"] in (None, UNKNOWN) else 1.0


def lacking(tree: Tree, *, wanted: bool = True) -> tuple[Tree, ...]:
    """The leaves that have to change for a condition to be TRUE (not `wanted`: FALSE); of alternatives the nearest."""
    if tree["value"] == (TRUE if wanted else FALSE):
        return ()
    parts, together = _parts(tree, wanted)
    if not parts:
        return (tree,)
    if together:
        return tuple(leaf for kid, want in parts for leaf in lacking(kid, wanted=want))
    kid, want = min(parts, key=lambda part: nearness(part[0], wanted=part[1]))
    return lacking(kid, wanted=want)


def holding(tree: Tree, *, wanted: bool = True) -> tuple[Tree, ...]:
    """The leaves that make a condition TRUE (not `wanted`: FALSE); none when it is not."""
    if tree["value"] != (TRUE if wanted else FALSE):
        return ()
    parts, _ = _parts(tree, wanted)
    return tuple(leaf for kid, want in parts for leaf in holding(kid, wanted=want)) if parts else (tree,)


def _parts(tree: Tree, wanted: bool) -> tuple[list[tuple[Tree, bool]], bool]:
    """The operands of a logical node with the truth each is to have, and whether all of them have to."""
    if tree["role"] != "logic":
        return [], False
    kids = tree["kids"]
    if len(kids) == 1:  # not
        return [(kids[0], not wanted)], True
    values = [kid["value"] for kid in kids]
    both = min(1.0 if value is None else value for value in values)
    is_and = _operator(tree) == "and" if _operator(tree) else tree["value"] == both
    return [(kid, wanted) for kid in kids], is_and == wanted


def _operator(tree: Tree) -> str:
    """`and` or `or`: what stands between the two operands in the text; empty when that cannot be told."""
    text, (left, right) = str(tree["text"]), tree["kids"]
    first, last = str(left["text"]), str(right["text"])
    begin, end = text.find(first), text.rfind(last)
    between = text[begin + len(first) : end].strip(" ()") if 0 <= begin < end else ""
    return between if between in ("and", "or") else ""


# --- in words -----------------------------------------------------------------------------------------------------------


def moment(at: int) -> str:
    """`2026-02-03T17:00:00Z`: to the second, for people."""
    return f"{iso(at)[:19]}Z"


def ago(seconds: float) -> str:
    """`2h 10m` rounded so that nobody reads milliseconds: seconds below an hour, minutes beyond."""
    if seconds < 10.0:
        return show_duration(round(seconds, 1))
    return show_duration(float(round(seconds)) if seconds < 3_600.0 else 60.0 * round(seconds / 60.0))


def in_words(tree: Tree, at: int) -> str:
    """One leaf as a person says it: `funding_rate is 0.012%/h, 0.038%/h below 0.05%/h`."""
    if tree["value"] in (None, UNKNOWN) and (tree["unit"] == "truth" or tree["value"] is None):
        return unknown_words(tree, at)
    found = comparison(tree)
    if found is None:
        return f"{tree['text']} is {verdict_of(tree) if tree['unit'] == 'truth' else value_of(dict(tree))}"
    distance = distance_words(found)
    return f"{name_of(found)} is {show(found.quantity['value'], found.unit)}" + (f", {distance} {bound_words(found)}" if distance else "")


def distance_words(found: Comparison) -> str:
    """`0.038%/h below`; `equal to`; empty when one side is unknown or infinite."""
    if math.isnan(found.away) or math.isinf(found.away):
        return ""
    if found.away == 0.0:
        return "equal to"
    return f"{show(abs(found.away), found.unit)} {'above' if found.away > 0.0 else 'below'}"


def name_of(found: Comparison) -> str:
    """What the compared quantity is called in the runbook: the name of a `let` where it has one."""
    return _side(found, found.quantity)


def bound_words(found: Comparison) -> str:
    """The bound's value, and its name where it has one."""
    value = show(found.bound["value"], found.unit)
    return value if found.bound["role"] == "constant" else f"{_side(found, found.bound)} ({value})"


def _side(found: Comparison, kid: Tree) -> str:
    """A side of a comparison as it is written there; a tree's own text has the names of `let` filled in."""
    written = _OPERATOR.split(str(found.tree["text"]))
    return written[0 if kid is found.tree["kids"][0] else 1].strip() if len(written) == 2 else str(kid["text"])


def unknown_words(tree: Tree, at: int) -> str:
    """Which readings make a leaf UNKNOWN, and since when each was not seen."""
    culprits = list(missing_readings(tree)) or [tree]
    parts = []
    for culprit in {str(c["text"]): c for c in culprits}.values():
        age = culprit["age"]
        if culprit["role"] == "window":
            parts.append(f"{culprit['text']} has not seen enough yet")
        elif not isinstance(age, float):
            parts.append(f"{culprit['text']} is unknown")
        elif math.isinf(age):
            parts.append(f"{culprit['text']} was never seen")
        else:
            parts.append(f"{culprit['text']} is unknown, last seen {moment(at - int(age * NS))} ({ago(age)} ago)")
    return " and ".join(parts)


def missing_readings(tree: Tree) -> Iterator[Tree]:
    """The deepest readings under a node that are unknown; a derived signal over a set stands for itself."""
    if not _is_unknown(tree):
        return
    kids = [kid for kid in tree["kids"] if _is_unknown(kid)]
    if tree["role"] == "reading" or (tree["role"] in ("derived", "set", "window") and not kids):
        yield tree
        return
    for kid in kids:
        yield from missing_readings(kid)


def _is_unknown(tree: Tree) -> bool:
    return tree["value"] is None or (tree["unit"] == "truth" and tree["value"] == UNKNOWN)
