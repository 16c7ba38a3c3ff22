"""What a sweep tries (floor 5): axes of values as written on the command line, and the cells they span.

    parse_axis("trigger.for=1m,3m,10m")                     # three values
    parse_axis("threshold=0.02%/h..0.10%/h/5")              # five, evenly spaced, both ends included; `..log/5` geometric
    parse_axis("threshold=0.02%/h..0.10%/h", drawn=True)    # anything between, for draws

A value stays the text that is put into the runbook; ranges are worked out in exact decimals, in the unit of their lower end.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from daemon.runbook.fields import UNIT_NOUNS
from daemon.units import NS, parse_duration, parse_quantity

CELLS_MAX = 100_000
VALUES_MAX = 10_000  # of one axis
DIGITS = 6  # significant digits of a value that is no end of its range
_RANGE = re.compile(r"(?P<low>.+?)\.\.(?P<high>.+?)(?P<log>\.\.log)?(?:/(?P<count>\d{1,9}))?")
_NUMBER = re.compile(r"([+-]?(?:\d[\d_]*(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)(.*)", re.DOTALL)
_SUFFIX = {"s": ("s", 1), "ratio": ("%", 100), "rate/h": ("%/h", 100), "USD": (" USD", 1), "price": (" price", 1), "base": (" base", 1),
           "gwei": (" gwei", 1), "1": ("", 1)}  # fmt: skip

Cell = tuple[str, ...]
"""One value an axis, in the order of the axes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """A range of one unit: its ends as numbers before a suffix; `whole`: only whole numbers are meant."""

    low: Decimal
    high: Decimal
    suffix: str
    ends: tuple[str, str]
    logarithmic: bool = False
    whole: bool = False

    def at(self, share: float) -> str:
        """The value a share of the way from the lower end to the upper one; the ends exactly as they were written."""
        if share in (0.0, 1.0):
            return self.ends[int(share)]
        if self.logarithmic:
            return self._text(self.low * Decimal(math.exp(share * math.log(float(self.high / self.low)))))
        return self._text(self.low + (self.high - self.low) * Decimal(share))

    def spread(self, count: int) -> tuple[str, ...]:
        """So many values, evenly (or geometrically) spaced, both ends included."""
        if self.logarithmic:
            return tuple(self.at(k / (count - 1)) for k in range(count))
        # In decimals: a third of the way from 0.1 to 0.4 is 0.2.
        inner = [self._text(self.low + (self.high - self.low) * k / (count - 1)) for k in range(1, count - 1)]
        return (self.ends[0], *inner, self.ends[1])

    def _text(self, number: Decimal) -> str:
        rounded = number if number == 0 else round(number, DIGITS - 1 - number.adjusted())
        if self.whole:
            rounded = number.to_integral_value()
        return f"{rounded.normalize():f}{self.suffix}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One place of the runbook and what it is set to: values to try one by one, or a span to draw from."""

    path: str
    values: tuple[str, ...]
    span: Span | None = None

    def positions(self) -> tuple[float, ...] | None:
        """Where each value lies on its scale; None where the values are no quantities of one unit."""
        found = [_quantity(value) for value in self.values]
        if any(item is None for item in found) or len({item[1] for item in found if item}) > 1:
            return None
        return tuple(item[0] for item in found if item)


def _quantity(text: str) -> tuple[float, str] | None:
    try:
        return parse_quantity(text)
    except (ValueError, ArithmeticError):
        return None


def position(value: str) -> float:
    """Where one value lies on its scale; NaN for a word."""
    found = _quantity(value)
    return math.nan if found is None else found[0]


def parse_axis(text: str, *, drawn: bool = False) -> Axis:
    """The axis of `PATH=VALUES`; `drawn`: a range needs no number of values. Raises ValueError with what to write."""
    path, equals, written = (part.strip() for part in text.partition("="))
    if not path or not equals or not written:
        raise ValueError(f"{text!r} sets nothing; write PATH=VALUES, for example threshold=0.03%/h,0.05%/h or trigger.for=1m..10m/4")
    items = [item.strip() for item in written.split(",")]
    if not all(items):
        raise ValueError(f"{path}: an empty value in {written!r}; write values with one comma between them")
    values: list[str] = []
    span: Span | None = None
    for item in items:
        match = _RANGE.fullmatch(item)
        if match is None:
            values.append(item)
            continue
        found = _span(path, item, match)
        if match["count"] is None:
            if not drawn or len(items) > 1:
                raise ValueError(f"{path}: {item!r} does not say how many values; write {item}/5, or draw with --random")
            span = found
            values += found.ends
            continue
        count = int(match["count"])
        if not 2 <= count <= VALUES_MAX:
            raise ValueError(f"{path}: a range has 2 to {VALUES_MAX:,} values, found {count} in {item!r}")
        values += found.spread(count)
    return Axis(path=path, values=tuple(dict.fromkeys(values)), span=span)


def _span(path: str, text: str, match: re.Match[str]) -> Span:
    ends = match["low"].strip(), match["high"].strip()
    quantities = [_quantity(end) for end in ends]
    low, high = quantities
    if low is None or high is None:
        wrong = ends[0] if low is None else ends[1]
        raise ValueError(f"{path}: {wrong!r} is no quantity; a range runs between two, for example 0.02%/h..0.10%/h/5")
    if low[1] != high[1]:
        raise ValueError(f"{path}: {ends[0]} is {UNIT_NOUNS[low[1]]} and {ends[1]} is {UNIT_NOUNS[high[1]]}; write both in one unit")
    if not low[0] < high[0]:
        raise ValueError(f"{path}: {text!r} does not run upwards; write the lower end first")
    if match["log"] and low[0] <= 0:
        raise ValueError(f"{path}: a geometric range begins above 0, found {ends[0]}")
    split = [_NUMBER.fullmatch(end) for end in ends]
    # Numbers before one and the same unit; of `2m30s` the rest is none.
    if split[0] and split[1] and split[0][2].strip() == split[1][2].strip() and not re.search(r"[a-z]\d", split[0][2]):
        numbers = [Decimal(part[1].replace("_", "")) for part in split if part]
        suffix = split[0][2]
    else:
        suffix, factor = _SUFFIX[low[1]]
        numbers = [_exact(end, low[1]) * factor for end in ends]
    whole = low[1] == "1" and not any("." in end or "e" in end.lower() for end in ends)
    return Span(
        low=numbers[0], high=numbers[1], suffix=suffix, ends=ends, logarithmic=match["log"] is not None,
        whole=whole and match["count"] is None,
    )  # fmt: skip


def _exact(text: str, unit: str) -> Decimal:
    if unit == "s":
        try:
            return Decimal(parse_duration(text)) / NS
        except ValueError:
            pass
    return Decimal(repr(parse_quantity(text)[0]))


def grid(axes: Sequence[Axis]) -> tuple[Cell, ...]:
    """Every combination of the axes' values, the last axis moving fastest. Raises ValueError where there are too many."""
    count = math.prod(len(axis.values) for axis in axes)
    if count > CELLS_MAX:
        raise ValueError(f"{count:,} cells, at most {CELLS_MAX:,} are tried; take fewer values, or draw with --random N")
    return tuple(itertools.product(*(axis.values for axis in axes)))


def draws(axes: Sequence[Axis], count: int, seed: int) -> tuple[Cell, ...]:
    """So many cells drawn: uniformly from spans (in logarithms where they are geometric), and one of the values of other axes."""
    if not 1 <= count <= CELLS_MAX:
        raise ValueError(f"1 to {CELLS_MAX:,} cells are drawn, found {count:,}")
    generator = np.random.default_rng(seed)
    shares = generator.random((count, len(axes)))
    return tuple(tuple(_drawn(axis, float(share)) for axis, share in zip(axes, row, strict=True)) for row in shares)


def _drawn(axis: Axis, share: float) -> str:
    if axis.span is None:
        return axis.values[min(int(share * len(axis.values)), len(axis.values) - 1)]
    if axis.span.whole:  # every whole number alike, the ends as well
        low, high = int(axis.span.low), int(axis.span.high)
        return str(low + min(int(share * (high - low + 1)), high - low))
    return axis.span.at(share)
