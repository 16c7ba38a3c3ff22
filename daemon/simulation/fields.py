"""Literals of scenario files as checked fields (floor 5): what the models of a scenario are made of, and what every shock has.

    lasts: Annotated[Duration, Field(alias="for", gt=0)]     # "30m" in the file, int ns in the model

Durations are int ns, money USD, ratios fractions, rates per hour, prices USD.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal, InvalidOperation
from typing import Annotated

from pydantic import BeforeValidator, Field

from daemon.simulation.strict_file import Strict
from daemon.units import NS, parse_duration, parse_quantity


def _quantity(example: str, *units: str) -> Callable[[object], float]:
    """A parser of literals of one of `units`; its ValueError says what to write. Numbers (never from a file) are taken as they are."""

    def read(raw: object) -> float:
        if isinstance(raw, int | float) and not isinstance(raw, bool):
            return float(raw)
        value, unit = parse_quantity(str(raw))
        if unit not in units and value != 0.0:
            raise ValueError(f"expected {units[0]}, found {raw!r}; write for example {example}")
        return value

    return read


def exact(raw: object) -> Decimal:
    """The finite number of a literal, all its digits kept. Raises ValueError saying what to write."""
    try:
        value = Decimal(str(raw).replace("_", ""))
    except InvalidOperation:
        raise ValueError(f"expected a number, found {raw!r}; write for example 0.001") from None
    if not value.is_finite():
        raise ValueError(f"expected a finite number, found {raw!r}")
    return value


def _duration(raw: object) -> int:
    if isinstance(raw, int) and not isinstance(raw, bool):
        return raw
    return parse_duration(str(raw))


Usd = Annotated[float, BeforeValidator(_quantity("50_000 USD", "USD", "1"))]
Price = Annotated[float, BeforeValidator(_quantity("98_000", "price", "1", "USD"))]
Ratio = Annotated[float, BeforeValidator(_quantity("2%", "ratio"))]
Rate = Annotated[float, BeforeValidator(_quantity("0.01%/h", "rate/h"))]
Gwei = Annotated[float, BeforeValidator(_quantity("12 gwei", "gwei", "1"))]
Times = Annotated[float, BeforeValidator(_quantity("5", "1"))]
Exact = Annotated[Decimal, BeforeValidator(exact)]
Duration = Annotated[int, BeforeValidator(_duration)]


class TimedShock(Strict):
    """Something that happens `at` after the venue's start, ns."""

    at: Duration = 0


class LastingShock(TimedShock):
    """Something that is in force from `at` on for `lasts` (the file's `for`), ns."""

    lasts: Annotated[Duration, Field(alias="for", gt=0)]


def is_lasting(shock: TimedShock, second: int) -> bool:
    """True while a shock with a duration is in force at a second since the start."""
    return shock.at <= second * NS < shock.at + (getattr(shock, "lasts", None) or 0)
