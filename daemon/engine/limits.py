"""Bounds in money and what was spent under them (floor 4): `HouseLimits` of `config/limits.yaml`, the ledger, and the room left.

The day is rolling, 24 h ending at `at`, over all instances of a runbook; spending is counted at intent, an unknown outcome counts,
a rejected or failed one gives back. House limits lie outside the reach of runbooks. Shadow spending counts apart.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from daemon.errors import SettingsError
from daemon.runbook.model import Limits
from daemon.units import DAY_NS, HOUR_NS, parse_quantity


@dataclass(frozen=True, slots=True, kw_only=True)
class HouseLimits:
    """What no runbook may exceed; None = no bound. USD count both |size change| x value and amounts moved."""

    account_turnover_hour_usd: float | None = None  # each account, rolling hour
    house_turnover_day_usd: float | None = None  # everything, rolling 24 h
    runs_day: int | None = None  # runs started, rolling 24 h


@dataclass(frozen=True, slots=True, kw_only=True)
class Spend:
    """One counted intent."""

    at: int
    runbook: str
    run_id: str
    episode: str
    instance: str
    account: str
    position: str  # "" for a move
    usd: float
    size: float  # base units; 0 for a move
    shadow: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """What is left under the tightest limit: USD and, for a share of the episode's start, base units; `limit` names it."""

    usd: float = math.inf
    size: float = math.inf
    limit: str = ""
    size_limit: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """Whose room is asked for."""

    at: int
    runbook: str
    run_id: str
    episode: str
    account: str
    shadow: bool


def parse_house_limits(document: Mapping[str, object], path: str = "config/limits.yaml") -> HouseLimits:
    """The limits of a document such as `{account: {turnover_per_hour: 100_000 USD}, house: {turnover_per_day: 1_000_000 USD,
    runs: 200/day}}`; raises SettingsError with every mistake at once."""
    known = {"account": ("turnover_per_hour",), "house": ("turnover_per_day", "runs")}
    problems: list[str] = []
    found: dict[tuple[str, str], object] = {}
    for section, entries in document.items():
        if section not in known:
            problems.append(f"{path}: {section!r} is no section of the house limits; write {' or '.join(known)}")
        elif not isinstance(entries, Mapping):
            problems.append(f"{path}: {section} is a mapping of limits, found {entries!r}")
        else:
            for key, value in entries.items():
                if key in known[section]:
                    found[section, str(key)] = value
                else:
                    problems.append(f"{path}: {section}.{key} is no limit; write {' or '.join(known[section])}")
    hour = _usd(found.get(("account", "turnover_per_hour")), f"{path}: account.turnover_per_hour", problems)
    day = _usd(found.get(("house", "turnover_per_day")), f"{path}: house.turnover_per_day", problems)
    runs = _runs(found.get(("house", "runs")), f"{path}: house.runs", problems)
    if problems:
        raise SettingsError("\n".join(problems))
    return HouseLimits(account_turnover_hour_usd=hour, house_turnover_day_usd=day, runs_day=runs)


def _usd(value: object, where: str, problems: list[str]) -> float | None:
    if value is None:
        return None
    try:
        number, unit = parse_quantity(str(value))
    except ValueError:
        number, unit = math.nan, ""
    if unit != "USD" or not number >= 0:
        problems.append(f"{where} is an amount of USD, found {value!r}; write for example 100_000 USD")
        return None
    return number


def _runs(value: object, where: str, problems: list[str]) -> int | None:
    if value is None:
        return None
    match = re.fullmatch(r"(\d[\d_]*)/day", str(value))
    if match is None:
        problems.append(f"{where} is a number of runs a day, found {value!r}; write for example 200/day")
        return None
    return int(match[1].replace("_", ""))


def spent(ledger: Iterable[Spend], *, since: int) -> float:
    """USD of the entries after `since` (exclusive): a spend exactly 24 h old no longer counts."""
    return math.fsum(entry.usd for entry in ledger if entry.at > since)


def room(ledger: Iterable[Spend], intent: Intent, limits: Limits, house: HouseLimits) -> Room:
    """USD left for `intent` under the runbook's and the house's limits; never negative."""
    entries = [e for e in ledger if e.shadow == intent.shadow]
    own = [e for e in entries if e.runbook == intent.runbook]
    day, hour = intent.at - DAY_NS, intent.at - HOUR_NS
    bounds: list[tuple[float | None, float, str]] = [
        (limits.per_run_usd, spent((e for e in own if e.run_id == intent.run_id), since=-(1 << 63)), "per_run"),
        (limits.per_day_usd, spent(own, since=day), "per_day"),
        (limits.per_episode_usd, spent((e for e in own if e.episode == intent.episode), since=-(1 << 63)), "per_episode"),
        (
            house.account_turnover_hour_usd,
            spent((e for e in entries if e.account == intent.account), since=hour),
            "house limit: turnover of an account an hour",
        ),
        (house.house_turnover_day_usd, spent(entries, since=day), "house limit: turnover a day"),
    ]
    left = [(max(0.0, bound - used), name) for bound, used, name in bounds if bound is not None]
    usd, name = min(left, default=(math.inf, ""))
    return Room(usd=usd, limit=name)


def size_room(ledger: Iterable[Spend], intent: Intent, limits: Limits, position: str, start_size: float) -> float:
    """Base units of `position` that `per_episode` as a share of the episode's start leaves; infinite without such a limit."""
    if limits.per_episode_ratio is None:
        return math.inf
    used = math.fsum(
        e.size
        for e in ledger
        if e.shadow == intent.shadow and e.runbook == intent.runbook and e.episode == intent.episode and e.position == position
    )
    return max(0.0, limits.per_episode_ratio * abs(start_size) - used)
