"""Units of a source's columns, and how each becomes the catalogue's (floor 5): `rate/8h` is divided by 8, `bps` by 10,000.

Always one division (or one multiplication) by an exact integer: the quotient is then the double nearest to the true value.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS

_PER_YEAR_H = 8760  # 365 d, as venues annualise
_RATE = re.compile(r"(rate|ratio|%|bps|ppm)\s*/\s*(\d*)\s*(m|min|h|d|y)")
_RATIOS = {"ratio": 1, "rate": 1, "%": 100, "bps": 10_000, "ppm": 1_000_000}
_PLAIN: dict[str, dict[str, tuple[int, int]]] = {
    "ratio": {"ratio": (1, 1), "%": (1, 100), "bps": (1, 10_000), "ppm": (1, 1_000_000)},
    "price": {"price": (1, 1), "USD/base": (1, 1)},
    "USD": {"USD": (1, 1), "kUSD": (1000, 1), "mUSD": (1_000_000, 1), "cents": (1, 100)},
    "base": {"base": (1, 1)},
    "s": {"s": (1, 1), "ms": (1, 1000), "us": (1, 1_000_000), "ns": (1, 10**9), "m": (60, 1), "h": (3600, 1), "d": (86_400, 1)},
    "gwei": {"gwei": (1, 1), "wei": (1, 10**9)},
    "bool": {"bool": (1, 1)},
    "1": {"1": (1, 1)},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Conversion:
    """value x multiply / divide; `interval_ns` is the period a rate was given for (its natural cadence), None for other units."""

    multiply: int
    divide: int
    interval_ns: int | None = None


def conversion(text: str, into: str) -> Conversion:
    """How a column of unit `text` becomes the catalogue's unit `into`; raises ValueError with what to write instead."""
    unit = text.strip()
    if into == "rate/h":
        return _rate(unit)
    found = _PLAIN.get(into, {}).get(unit)
    if found is None:
        raise ValueError(f"{text!r} cannot become {into}; write {_choices(into)}")
    return Conversion(multiply=found[0], divide=found[1])


def _rate(unit: str) -> Conversion:
    match = _RATE.fullmatch(unit)
    if match is None or match[2] == "0":
        hint = f"{unit!r} does not say the period of the rate" if unit in _RATIOS else f"{unit!r} cannot become rate/h"
        raise ValueError(f"{hint}; write {_choices('rate/h')}")
    count, scale = int(match[2] or 1), _RATIOS[match[1]]
    match match[3]:
        case "h":
            return Conversion(multiply=1, divide=scale * count, interval_ns=count * HOUR_NS)
        case "d":
            return Conversion(multiply=1, divide=scale * count * 24, interval_ns=count * DAY_NS)
        case "y":
            # An annualised figure says nothing about how often it settles: hourly unless the mapping says otherwise.
            return Conversion(multiply=1, divide=scale * count * _PER_YEAR_H, interval_ns=HOUR_NS)
        case _:
            return Conversion(multiply=60, divide=scale * count, interval_ns=count * MINUTE_NS)


def _choices(into: str) -> str:
    if into == "rate/h":
        return "rate/h, rate/8h, %/h, %/8h, bps/8h or the like (a fraction, per cent or basis points, per so many hours)"
    names = list(_PLAIN.get(into, {}))
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"
