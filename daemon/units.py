"""Units, quantities and times as text (floor 0): `parse_quantity("0.4%/8h")` is `(0.0005, "rate/h")`.

Internal units: prices and USD as written, ratios as fractions, rates as a fraction per HOUR, durations in SECONDS when they are
values and in int64 NANOSECONDS when they are times. A literal is the nearest double of its exact decimal.
"""

from __future__ import annotations

import math
import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal

NS = 1_000_000_000
MINUTE_NS = 60 * NS
HOUR_NS = 3600 * NS
DAY_NS = 24 * HOUR_NS
NEVER = -(1 << 62)  # a time before every other: "not seen yet"
FOREVER = 1 << 62  # a time after every other: "not due"

_DURATION_NS = {"ns": 1, "us": 1_000, "ms": 1_000_000, "s": NS, "m": MINUTE_NS, "h": HOUR_NS, "d": DAY_NS, "w": 7 * DAY_NS}
_DURATION_PART = re.compile(r"(\d[\d_]*(?:\.\d+)?)(ns|us|ms|s|m|h|d|w)")
_QUANTITY = re.compile(
    r"\s*(?P<number>[+-]?(?:\d[\d_]*(?:\.[\d_]*)?|\.\d+)(?:[eE][+-]?\d+)?)\s*"
    r"(?P<unit>%|bps|USD/base|USD|gwei|price|base|ns|us|ms|s|m|h|d|w)?(?:\s*/\s*(?P<per>\d*)(?P<time>m|h|d))?\s*"
)
_SCALE = {"%": ("ratio", Decimal(100)), "bps": ("ratio", Decimal(10_000)), "USD": ("USD", Decimal(1)), "gwei": ("gwei", Decimal(1))}
_SCALE |= {"USD/base": ("price", Decimal(1)), "price": ("price", Decimal(1)), "base": ("base", Decimal(1))}


def parse_duration(text: str) -> int:
    """Nanoseconds of `90s`, `2m30s`, `7d`, `0s` or `-25h`; raises ValueError when `text` is no duration."""
    body = text.strip()
    sign = -1 if body.startswith("-") else 1
    body = body.lstrip("+-")
    at, total = 0, Decimal(0)
    for part in _DURATION_PART.finditer(body):
        if part.start() != at:
            break
        total += Decimal(part[1].replace("_", "")) * _DURATION_NS[part[2]]
        at = part.end()
    if not body or at != len(body):
        raise ValueError(f"{text!r} is no duration; write for example 90s, 3m, 24h or 7d")
    return sign * int(total)


def parse_quantity(text: str) -> tuple[float, str]:
    """Value and unit (`1 ratio USD price base rate/h s gwei`) of a literal; raises ValueError when it is none.

    `0.4%/8h` is 0.0005 rate/h; `90s` is 90.0 s; `3000` is 3000.0 of unit 1. Exact in Decimal, then the nearest double.
    """
    match = _QUANTITY.fullmatch(text)
    if match is None:
        try:
            return float(Decimal(parse_duration(text)) / NS), "s"
        except ValueError:
            raise ValueError(f"{text!r} is no quantity; write for example 25%, 50bps, 0.05%/h, 25_000 USD, 90s or 3000") from None
    number = Decimal(match["number"].replace("_", ""))
    unit, time = match["unit"], match["time"]
    if unit in _DURATION_NS:
        if time:
            raise ValueError(f"{text!r} divides a duration by a duration; write a plain number")
        return float(number * _DURATION_NS[unit] / NS), "s"
    name, divisor = _SCALE.get(unit or "", ("1", Decimal(1)))
    if not time:
        return float(number / divisor), name
    if name not in ("ratio", "1"):
        raise ValueError(f"{text!r} is no unit of reefd; rates are written like 0.05%/h")
    hours = Decimal(match["per"] or 1) * _DURATION_NS[time] / HOUR_NS
    return float(number / divisor / hours), "rate/h"


def _trim(value: float, digits: int) -> str:
    text = f"{value:,.{digits}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def _significant(value: float, unit_scale: float = 1.0) -> str:
    scaled = value * unit_scale
    if scaled == 0.0:
        return "0"
    digits = max(0, min(10, 3 - math.floor(math.log10(abs(scaled)))))
    return _trim(scaled, digits)


def show_duration(seconds: float) -> str:
    """`2m30s` for 150.0; days at most, milliseconds at least."""
    if math.isnan(seconds):
        return "unknown"
    if math.isinf(seconds):
        return "infinite" if seconds > 0 else "-infinite"
    sign, rest = ("-" if seconds < 0 else ""), round(abs(seconds) * 1000)
    parts = []
    for name, size in (("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count}{name}")
    return sign + ("".join(parts[:3]) or "0s")


def show(value: float, unit: str) -> str:
    """A value in the unit a trader writes it in: `0.08%/h`, `25,000 USD`, `3m`; NaN is `unknown`."""
    if unit == "s":
        return show_duration(value)
    if unit == "truth":
        return ("FALSE", "UNKNOWN", "TRUE")[int(value)]
    if math.isnan(value):
        return "unknown"
    if unit == "bool":
        return "true" if value else "false"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    match unit:
        case "ratio":
            return f"{_significant(value, 100.0)}%"
        case "rate/h":
            return f"{_significant(value, 100.0)}%/h"
        case "USD":
            return f"{_trim(value, 2)} USD"
        case "1":
            return _significant(value)
        case _:
            return f"{_significant(value)} {unit}"


def iso(at: int) -> str:
    """ISO-8601 UTC with milliseconds of a time in ns: `2026-02-03T17:00:00.294Z` (truncated, never rounded up)."""
    millis = at // 1_000_000
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=millis)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{millis % 1000:03d}Z"


def parse_iso(text: str) -> int:
    """Nanoseconds UTC of an ISO-8601 time; naive is UTC; fractions to the nanosecond are kept. Raises ValueError."""
    body = text.strip()
    match = re.fullmatch(r"(\d{4}-\d\d-\d\d)(?:[T ](\d\d:\d\d(?::\d\d)?))?(?:[.,](\d{1,9})\d*)?\s*(Z|[+-]\d\d:?\d\d)?", body)
    if match is None:
        raise ValueError(f"{text!r} is no ISO-8601 time; write for example 2026-02-03T17:00:00Z")
    zone = (match[4] or "Z").replace("Z", "+00:00")
    moment = datetime.fromisoformat(f"{match[1]}T{match[2] or '00:00:00'}{zone}")
    seconds = (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
    return seconds * NS + int((match[3] or "0").ljust(9, "0"))
