"""The latent regime of a path, and what happens at rates that depend on it (floor 5).

    spells = regime_spells(draws, world.regimes, hours=168.0)     # ((0.0, 0), (31.2, 1), ...): hour since the start, regime
    Clock(draws, of_driver, factors, 168.0).outages(Purpose.VENUE_HALT, "dydx", law.halt, "venue_halt", "dydx")

Regimes are numbered 0 calm, 1 stressed, 2 crisis. Times are hours since the start of the path, exact: rows are cut later.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.worldfile import REGIMES, Outage, Regimes

Spells = tuple[tuple[float, int], ...]
SpellsOf = Callable[[str, str], Spells]  # (driver, entity) -> its regimes
Interval = tuple[float, float]  # hours since the start: [since, until)
CALM_SPELLS: Spells = ((0.0, 0),)
SPELLS_MAX = 10_000
HAPPENINGS_MAX = 10_000
Z95 = 1.6448536269514722  # the standard normal's 95th percentile


def regime_spells(draws: Draws, regimes: Regimes | None, hours: float, entity: str = "", worsening: float = 1.0) -> Spells:
    """The regimes of a path, a continuous-time Markov chain: (hour it begins, regime), the first at 0.

    `worsening`: how much likelier a worse regime is made (importance sampling, weighed by `worsening_log_ratio`).
    """
    if regimes is None:
        return CALM_SPELLS
    stream = draws.stream(Purpose.REGIME, entity)
    u = stream.random()
    state, reached = 0, 0.0
    for name, share in _initial(regimes, worsening).items():
        reached += share
        state = REGIMES.index(name)
        if u < reached:
            break
    at = 0.0
    spells = [(at, state)]
    while len(spells) < SPELLS_MAX:
        moves = {
            name: part * (worsened(part * hours, worsening) if REGIMES.index(name) > state else 1.0)
            for name, part in regimes.moves.get(REGIMES[state], {}).items()
        }
        rate = sum(moves.values())
        if rate <= 0.0:
            break
        at += stream.standard_exponential() / rate
        u = stream.random() * rate
        if at >= hours:
            break
        reached = 0.0
        for name, part in moves.items():
            reached += part
            state = REGIMES.index(name)
            if u < reached:
                break
        spells.append((at, state))
    return tuple(spells)


def worsening_log_ratio(spells: Spells, regimes: Regimes | None, hours: float, worsening: float) -> float:
    """Log likelihood ratio of spells: the law in which worse regimes are likelier against the plain one."""
    if regimes is None or worsening == 1.0:
        return 0.0
    first = REGIMES[spells[0][1]]
    share = regimes.initial[first]
    total = math.log(_initial(regimes, worsening)[first] / share) if share > 0.0 else 0.0
    ends = [at for at, _ in spells[1:]] + [hours]
    for k, ((at, state), end) in enumerate(zip(spells, ends, strict=True)):
        for name, part in regimes.moves.get(REGIMES[state], {}).items():
            other = REGIMES.index(name)
            if other > state:
                factor = worsened(part * hours, worsening)
                total -= (factor - 1.0) * part * (end - at)
                if k + 1 < len(spells) and spells[k + 1][1] == other:
                    total += math.log(factor)
    return total


def worsened(expected: float, worsening: float) -> float:
    """The factor on something that is expected so often: `worsening`, but not so that more than two are; 1 where two are already."""
    return min(worsening, max(1.0, 2.0 / expected)) if expected > 0.0 else 1.0


def _initial(regimes: Regimes, worsening: float) -> dict[str, float]:
    """Shares of the first regime, those of stress and crisis multiplied as far as a fifth each."""
    shares = {
        name: share * (min(worsening, max(1.0, 0.2 / share)) if share > 0.0 and name != REGIMES[0] else 1.0)
        for name, share in regimes.initial.items()
    }
    total = sum(shares.values()) if worsening != 1.0 else 1.0
    return {name: share / total for name, share in shares.items()}


@lru_cache(maxsize=64)
def counts_of_rows(spells: Spells, rows: int, rows_per_hour: float) -> tuple[int, ...]:
    """How many rows each spell covers; a row has the regime in which it began."""
    starts = [min(rows, math.ceil(at * rows_per_hour)) for at, _ in spells]
    return tuple(end - start for start, end in zip(starts, [*starts[1:], rows], strict=True))


def by_row(values: Sequence[float], spells: Spells, counts: Sequence[int]) -> NDArray[np.float64]:
    """The value of each row's regime: float64[rows]."""
    return np.repeat(np.array([values[state] for _, state in spells]), counts)


def state_at(spells: Spells, hour: float) -> int:
    """The regime in force at an hour since the start."""
    found = spells[0][1]
    for at, state in spells:
        if at > hour:
            break
        found = state
    return found


@lru_cache(maxsize=256)
def exposure(rate: float, spells: Spells, factors: tuple[float, ...], hours: float) -> float:
    """Expected number of happenings until `hours`."""
    ends = [at for at, _ in spells[1:]] + [hours]
    return sum(rate * factors[state] * max(0.0, min(end, hours) - at) for (at, state), end in zip(spells, ends, strict=True))


Happening = tuple[float, float, float]  # hour since the start, a standard normal, a number in (0, 1)


def happenings(
    draws: Draws, purpose: Purpose, entity: str, rate: float, spells: Spells, factors: Sequence[float], hours: float, total: float
) -> list[Happening]:
    """A Poisson stream at `rate` an hour x the factor of the regime. `total`: its `exposure`, so that most streams end at once.

    Unit exponentials are spent along the accumulated rate, so that a path's happenings come earlier, not elsewhere, under a higher one.
    """
    stream = draws.stream(purpose, entity)
    left = stream.standard_exponential()
    if left > total:
        return []
    found: list[Happening] = []
    ends = [at for at, _ in spells[1:]] + [hours]
    for (begin, state), end in zip(spells, ends, strict=True):
        speed = rate * factors[state]
        at = begin
        while speed > 0.0 and at < end and len(found) < HAPPENINGS_MAX:
            if left > (end - at) * speed:
                left -= (end - at) * speed
                break
            at += left / speed
            found.append((at, stream.standard_normal(), stream.random()))
            left = stream.standard_exponential()
    return found


class Clock:
    """What happens within one path at rates that its regimes multiply: `factors` by driver and regime."""

    __slots__ = ("_draws", "_factors", "_hours", "_of_driver")

    def __init__(self, draws: Draws, of_driver: SpellsOf, factors: Mapping[str, tuple[float, ...]], hours: float) -> None:
        self._draws, self._of_driver, self._factors, self._hours = draws, of_driver, factors, hours

    def happenings(self, purpose: Purpose, entity: str, rate: float, driver: str, of: str) -> list[Happening]:
        """Everything of a stream at `rate` an hour in calm, multiplied as `driver` of the entity `of` is."""
        if rate <= 0.0:
            return []
        spells, factors = self._of_driver(driver, of), self._factors[driver]
        total = rate * exposure(1.0, spells, factors, self._hours)
        return happenings(self._draws, purpose, entity, rate, spells, factors, self._hours, total)

    def outages(self, purpose: Purpose, entity: str, outage: Outage | None, driver: str, of: str) -> list[Interval]:
        """When an outage is in force, overlaps joined."""
        if outage is None:
            return []
        happened = self.happenings(purpose, entity, outage.rate, driver, of)
        return merged([(at, at + lasting_hours(outage, normal)) for at, normal, _ in happened]) if happened else []


def merged(intervals: Iterable[Interval]) -> list[Interval]:
    """The union of intervals, in order."""
    joined: list[Interval] = []
    for since, until in sorted(intervals):
        if joined and since <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(joined[-1][1], until))
        else:
            joined.append((since, until))
    return joined


def lasting_hours(outage: Outage, normal: float) -> float:
    """How long an outage lasts, hours: log-normal through its typical and p95."""
    hour = 3600e9
    sigma = math.log(outage.p95 / outage.typical) / Z95
    return outage.typical / hour * math.exp(sigma * normal)
