"""What the hot side hands to the cold side (floor 4): edges, readings, where a trigger stands; and the plan's own names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

NAN = float("nan")


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """An instance entered firing or left it."""

    at: int
    runbook: str
    entity: str
    change: Literal["fired", "cleared", "gone"]
    pending_at: int
    fired_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """The plan's own names, USD, >= 0; NaN where a step has none."""

    notional_change: float = NAN
    amount: float = NAN
    fee_estimate: float = NAN


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """A signal's value (NaN unknown; a bool is 1.0 or 0.0), unit and age."""

    value: float
    unit: str
    age_ns: int
    known: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerState:
    """Where a trigger stands; times in ns, 0 when they never were; `held_ns` is the present hold's, `unknown` names what it lacks."""

    status: str
    pending_at: int = 0
    fired_at: int = 0
    held_ns: int = 0
    unknown: tuple[str, ...] = ()
