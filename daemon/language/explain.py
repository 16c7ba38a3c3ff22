"""A trace as text (floor 2): each sub-expression with its value, each reading with its age, and how far a comparison is from turning.

`describe(tree)` takes the JSON-able tree that the generated `trace_<n>` functions lead to, so a stored trace reads like a fresh one.
"""

from __future__ import annotations

from daemon.units import show, show_duration

TRUTHS = {0.0: "FALSE", 1.0: "UNKNOWN", 2.0: "TRUE"}


def describe(tree: object, depth: int = 1) -> list[str]:
    """Lines of an explanation, indented by depth; constants are left out, they stand in the text."""
    assert isinstance(tree, dict)
    lines = []
    if tree["role"] != "constant":
        lines.append("  " * depth + f"{value_of(tree)}  {tree['text']}{_note(tree)}")
    for kid in tree["kids"]:
        lines += describe(kid, depth + 1)
    return lines


def value_of(tree: dict[str, object]) -> str:
    """The value of a node as a trader reads it."""
    value, unit = tree["value"], str(tree["unit"])
    if unit == "truth":
        return TRUTHS[value] if isinstance(value, float) else "UNKNOWN"
    if not isinstance(value, float | int):
        return "unknown"
    return show(float(value), unit)


def _note(tree: dict[str, object]) -> str:
    notes = []
    if tree["role"] in ("reading", "derived") and tree["signal"] != tree["text"]:
        notes.append(str(tree["signal"]))
    age = tree["age"]
    if isinstance(age, float):
        notes.append("never seen" if age == float("inf") else f"{show_duration(age)} old")
    if tree["role"] == "compare":
        distance = _distance(tree)
        if distance:
            notes.append(distance)
    return f"  ({', '.join(notes)})" if notes else ""


def _distance(tree: dict[str, object]) -> str:
    kids = tree["kids"]
    if not isinstance(kids, list | tuple) or len(kids) != 2:
        return ""
    left, right = kids
    if not isinstance(left["value"], float) or not isinstance(right["value"], float):
        missing = [str(k["text"]) for k in kids if not isinstance(k["value"], float)]
        return f"missing {', '.join(missing)}" if missing else ""
    away = left["value"] - right["value"]
    if away != away or abs(away) == float("inf"):
        return ""
    unit = str(left["unit"] if left["role"] != "constant" else right["unit"])
    side = "above" if away > 0 else "below"
    return f"{show(abs(away), unit)} {side}" if away else "equal"
