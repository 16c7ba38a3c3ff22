"""Figures, times and conditions as a person reads them (floor 8): every number with its unit, every time both ways, no colour alone.

    usd(61_204.18)                      # '61,204 USD'
    Clock(at_s=...).when("2026-...Z")   # <time datetime="2026-...Z" data-rel="ago">6m 12s ago</time> <span class="abs">02:05:12 UTC</span>
    badge("unknown")                    # an icon, the word and a class; the colour only says it again
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from urllib.parse import quote

from markupsafe import Markup

from daemon.units import NS, parse_iso, show

UNKNOWN = "unknown"
_PRICE = re.compile(r"(?<=\d) price\b")
_MILLISECONDS = re.compile(r"(\d[smhd])\d{1,3}ms\b")
_ISO = re.compile(r"\b\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?Z")
_UNITS = (("d", 86_400), ("h", 3_600), ("m", 60), ("s", 1))

# Drawn in a box of 24 by 24, strokes only.
_ICONS: Mapping[str, str] = {
    "check": "M5 13l4 4L19 7",
    "cross": "M6 6l12 12M18 6L6 18",
    "question": "M9 9a3 3 0 1 1 4.5 2.6c-1 .6-1.5 1.2-1.5 2.4M12 17.5v.5M12 2a10 10 0 1 1 0 20 10 10 0 0 1 0-20z",
    "dash": "M6 12h12",
    "clock": "M12 7v5l3 2M12 3a9 9 0 1 1 0 18 9 9 0 0 1 0-18z",
    "alarm": "M12 9v4M12 16.5v.5M12 3L2 20h20z",
    "bolt": "M13 2L5 13h6l-1 9 8-11h-6z",
    "eye": "M2 12s4-7 10-7 10 7 10 7-4 7-10 7S2 12 2 12zM12 9a3 3 0 1 1 0 6 3 3 0 0 1 0-6z",
    "blind": "M3 3l18 18M10 5.3A9.7 9.7 0 0 1 12 5c6 0 10 7 10 7a17 17 0 0 1-3.3 4M6.5 6.7A17 17 0 0 0 2 12s4 7 10 7a9.5 9.5 0 0 0 4.9-1.4",
    "moon": "M20 14.5A8.5 8.5 0 1 1 9.5 4a7 7 0 0 0 10.5 10.5z",
    "bell": "M6 16V11a6 6 0 1 1 12 0v5l2 2H4zM10 21h4",
    "pause": "M9 5v14M15 5v14",
    "stop": "M8 3h8l5 5v8l-5 5H8l-5-5V8z",
    "play": "M7 5l11 7-11 7z",
    "shadow": "M12 3a9 9 0 1 1 0 18M12 3v18",
    "shut": "M5 11h14v9H5zM8 11V7a4 4 0 1 1 8 0v4",
    "open": "M5 11h14v9H5zM8 11V7a4 4 0 0 1 7.5-2",
}
LINES: Mapping[str, tuple[str, str]] = {
    "BLIND": ("blind", "blind"),
    "NEEDS YOU": ("bell", "needs"),
    "ACTING": ("bolt", "acting"),
    "WATCHING": ("eye", "watching"),
    "QUIET": ("moon", "quiet"),
}
# Word -> (icon, tone); a word that is not here stands plain.
_BADGES: Mapping[str, tuple[str, str]] = {
    "running": ("play", "act"),
    "sent": ("clock", "wait"),
    "done": ("check", "good"),
    "skipped": ("dash", "plain"),
    "blocked": ("stop", "warn"),
    "failed": ("cross", "bad"),
    "rejected": ("cross", "bad"),
    "aborted": ("stop", "warn"),
    "unknown": ("question", "bad"),
    "shadow": ("shadow", "plain"),
    "armed": ("check", "good"),
    "disabled": ("dash", "plain"),
    "inactive": ("dash", "plain"),
    "pending": ("clock", "wait"),
    "firing": ("bolt", "act"),
    "clearing": ("clock", "wait"),
    "ok": ("check", "good"),
    "failing": ("cross", "bad"),
    "stale": ("alarm", "bad"),
    "waiting": ("clock", "wait"),
    "delivered": ("check", "good"),
    "dead": ("cross", "bad"),
    "grouped": ("dash", "plain"),
    "retrying": ("clock", "warn"),
    "open breaker": ("alarm", "bad"),
    "never used": ("dash", "plain"),
    "TRUE": ("check", "good"),
    "FALSE": ("cross", "plain"),
    "UNKNOWN": ("question", "bad"),
    "open": ("open", "good"),
    "closed": ("shut", "warn"),
    "paused": ("pause", "warn"),
    "halted": ("stop", "bad"),
    "critical": ("alarm", "bad"),
    "warning": ("alarm", "warn"),
    "info": ("dash", "plain"),
}
TONES: Mapping[str, tuple[str, str]] = {
    "plain": ("dash", ""),
    "good": ("check", "went well"),
    "bad": ("alarm", "went wrong"),
    "wait": ("clock", "waits"),
}
LOUD = frozenset({"unknown", "failed", "rejected", "dead", "stale", "failing", "open breaker"})


def icon(name: str) -> Markup:
    """A small drawing that says nothing a word beside it does not say."""
    box = Markup('<svg class="icon" viewBox="0 0 24 24" width="24" height="24" aria-hidden="true" focusable="false"><path d="{}"/></svg>')
    return box.format(_ICONS[name])


def badge(word: str, text: str = "") -> Markup:
    """A condition as an icon and a word; what went wrong is in capitals too."""
    name, tone = _BADGES.get(word, ("dash", "plain"))
    told = text or (word.upper() if word in LOUD else word)
    return Markup('<span class="badge {}">{}{}</span>').format(tone, icon(name), told)


# --- figures ------------------------------------------------------------------------------------------------------------


def usd(value: float | None, *, sign: bool = False, unit: bool = True) -> str:
    """`61,204 USD`, cents below 1,000; None is `unknown`; `sign` writes a plus; without `unit` where a heading has it."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if math.isinf(value):
        return "without bound"
    digits = 0 if abs(value) >= 1_000 or value == 0 else 2
    return f"{value:{'+' if sign else ''},.{digits}f}" + (" USD" if unit else "")


def ratio(value: float | None, digits: int = 1) -> str:
    """`41.0%`; None is `unknown`."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return "any" if math.isinf(value) else f"{100 * value:,.{digits}f}%"


def price(value: float | None) -> str:
    """A price with five significant digits at least: `61,240.00`, `0.012345`; None is `unknown`."""
    if value is None or math.isnan(value):
        return UNKNOWN
    if value == 0 or math.isinf(value):
        return f"{value:g}"
    return f"{value:,.{max(2, 4 - math.floor(math.log10(abs(value))))}f}" if abs(value) < 1_000 else f"{value:,.2f}"


def quantity(value: float | None, unit: str) -> str:
    """A value in its unit, as `daemon.units.show` has it; prices are in USD."""
    if value is None or math.isnan(value):
        return UNKNOWN
    return f"{price(value)} USD" if unit == "price" else show(value, unit)


def breakable(name: str) -> Markup:
    """A name that may be broken behind an underscore, where a phone has no room for it."""
    return Markup("_<wbr>").join(name.split("_"))


def span(seconds: float | None) -> str:
    """The two largest units of a duration: `1h 52m`, `47s`; None is `unknown`."""
    if seconds is None or math.isnan(seconds):
        return UNKNOWN
    if math.isinf(seconds):
        return "never"
    rest = int(abs(seconds))
    parts: list[str] = []
    for name, size in _UNITS:
        count, rest = divmod(rest, size)
        if count or parts:
            parts.append(f"{count}{name}" if count else "")
        if len(parts) == 2:
            break
    return ("-" if seconds <= -1 else "") + (" ".join(filter(None, parts)) or "0s")


def share(filled: float, asked: float) -> str:
    """`13,872 of 18,540 USD (75%)`."""
    told = f"{usd(filled, unit=False)} of {usd(asked)}"
    return told + (f" ({filled / asked:.0%})" if asked > 0 else "")


def pretty(body: Mapping[str, object]) -> str:
    """A record whole, as indented JSON."""
    return json.dumps(dict(body), indent=2, ensure_ascii=False, default=str)


def path(text: str) -> str:
    """An id as part of a URL's path: run ids keep their slashes."""
    return quote(text, safe="/:@")


def seconds_of(text: str) -> float:
    """Seconds since 1970 of an ISO time."""
    return parse_iso(text) / NS


# --- times --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Clock:
    """The daemon's clock at the moment the page is written; what is shown as `ago` and `left` is reckoned from it."""

    at_s: float

    def absolute(self, text: str) -> str:
        """`02:05:12 UTC` of the same day, else with the day."""
        moment = datetime.fromtimestamp(seconds_of(text), UTC)
        same = moment.date() == datetime.fromtimestamp(self.at_s, UTC).date()
        return moment.strftime("%H:%M:%S UTC" if same else "%Y-%m-%d %H:%M UTC")

    def relative(self, text: str) -> str:
        """`6m 12s ago`, or `in 29m`."""
        away = seconds_of(text) - self.at_s
        return f"in {span(away)}" if away >= 1 else f"{span(-away)} ago" if away <= -1 else "now"

    def when(self, text: str | None) -> Markup:
        """A time both ways; nothing for None."""
        if text is None or text == "":
            return Markup("")
        return Markup('<time datetime="{}" data-rel="when">{}</time> <span class="abs">{}</span>').format(
            text, self.relative(text), self.absolute(text)
        )

    def since(self, text: str | None) -> Markup:
        """How long something has been so, and from when: `for 6m 12s · since 02:05:12 UTC`."""
        if text is None or text == "":
            return Markup("")
        return Markup('for <time datetime="{}" data-rel="for">{}</time> <span class="abs">since {}</span>').format(
            text, span(max(0.0, self.at_s - seconds_of(text))), self.absolute(text)
        )

    def left(self, text: str | None) -> Markup:
        """A countdown: `1m 47s left`, or `lapsed`."""
        if text is None or text == "":
            return Markup("")
        away = seconds_of(text) - self.at_s
        told = f"{span(away)} left" if away > 0 else "lapsed"
        return Markup('<time class="countdown" datetime="{}" data-rel="left">{}</time> <span class="abs">until {}</span>').format(
            text, told, self.absolute(text)
        )

    def said(self, text: str) -> str:
        """A text of the daemon's as it is shown: prices are in USD, times as on a watch, and nobody reads milliseconds beside seconds."""
        text = _MILLISECONDS.sub(r"\1", _PRICE.sub(" USD", text))
        return _ISO.sub(lambda found: self.absolute(found[0]), text)

    def passed(self, text: str | None) -> bool:
        """True when a time is over."""
        return bool(text) and seconds_of(text or "") <= self.at_s
