"""Dimensions of values (floor 2): products and quotients of USD, base units, time and gwei, and the truth of a condition.

Numbers are kept in the catalogue's units: a positive power of time is in seconds, a negative one per hour, so a product of the two
carries a power of 3600 (`time_factor`). A dimensionless value is a bare number, a ratio, or either (a quotient of bare numbers).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

Flavour = Literal["number", "ratio", "either"]


@dataclass(frozen=True, slots=True)
class Dimension:
    """Exponents; `truth` for conditions; `flavour` only matters when all exponents are 0."""

    usd: int = 0
    base: int = 0
    time: int = 0
    gwei: int = 0
    flavour: Flavour = "number"
    truth: bool = False

    @property
    def dimensionless(self) -> bool:
        """True for numbers and ratios."""
        return not (self.truth or self.usd or self.base or self.time or self.gwei)

    @property
    def unit(self) -> str:
        """The catalogue's name of this dimension, or a product such as `USD.s`."""
        if self.truth:
            return "bool"
        key = (self.usd, self.base, self.time, self.gwei)
        if key == (0, 0, 0, 0):
            return "ratio" if self.flavour == "ratio" else "1"
        if key in _NAMES:
            return _NAMES[key]
        powers = (("USD", self.usd), ("base", self.base), ("s" if self.time > 0 else "h", self.time), ("gwei", self.gwei))
        return ".".join(name if power == 1 else f"{name}^{power}" for name, power in powers if power)


_UNITS = {
    "1": Dimension(),
    "ratio": Dimension(flavour="ratio"),
    "USD": Dimension(usd=1),
    "price": Dimension(usd=1, base=-1),
    "base": Dimension(base=1),
    "rate/h": Dimension(time=-1),
    "s": Dimension(time=1),
    "gwei": Dimension(gwei=1),
    "bool": Dimension(truth=True),
}
_NAMES = {(d.usd, d.base, d.time, d.gwei): name for name, d in _UNITS.items() if not d.truth and not d.dimensionless}

NOUNS = {
    "1": "a number",
    "ratio": "a ratio",
    "USD": "an amount in USD",
    "price": "a price (USD per base unit)",
    "base": "a size in base units",
    "rate/h": "a rate per hour",
    "s": "a duration",
    "gwei": "a gas price in gwei",
    "bool": "a truth",
}


def of_unit(unit: str) -> Dimension:
    """The dimension of a unit of the catalogue."""
    return _UNITS[unit]


def noun(dimension: Dimension) -> str:
    """The dimension in words, for messages."""
    return NOUNS.get(dimension.unit, f"a value in {dimension.unit}")


def same(left: Dimension, right: Dimension) -> bool:
    """True when the two may be compared, added and subtracted."""
    if left.truth or right.truth:
        return False
    if left.dimensionless and right.dimensionless:
        return "either" in (left.flavour, right.flavour) or left.flavour == right.flavour
    return replace(left, flavour="number") == replace(right, flavour="number")


def _flavour(left: Dimension, right: Dimension, *, quotient: bool) -> Flavour:
    if not (left.dimensionless and right.dimensionless):
        return "ratio"
    if left.flavour == right.flavour == "number":
        return "either" if quotient else "number"
    return "either" if {left.flavour, right.flavour} <= {"either", "number"} else "ratio"


def product(left: Dimension, right: Dimension) -> Dimension:
    """The dimension of `left * right`."""
    return Dimension(
        usd=left.usd + right.usd,
        base=left.base + right.base,
        time=left.time + right.time,
        gwei=left.gwei + right.gwei,
        flavour=_flavour(left, right, quotient=False),
    )


def quotient(left: Dimension, right: Dimension) -> Dimension:
    """The dimension of `left / right`."""
    return Dimension(
        usd=left.usd - right.usd,
        base=left.base - right.base,
        time=left.time - right.time,
        gwei=left.gwei - right.gwei,
        flavour=_flavour(left, right, quotient=True),
    )


def time_factor(left: Dimension, right: Dimension, *, divide: bool) -> int:
    """The power of 3600 that a product (or quotient) of values in catalogue units must be multiplied by."""
    other = right.time
    total = left.time - other if divide else left.time + other
    own = min(left.time, 0) + (-min(other, 0) if divide else min(other, 0))
    return own - min(total, 0)
