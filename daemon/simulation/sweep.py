"""One runbook over one history with many values (floor 5): what a cell is, and what it comes to.

    grounds = [Ground.of(part, play_without(part)) for part in split(course, 2)]
    tally = grounds[0].tally(play(grounds[0].course, runbooks))

The history may be split into parts by time; every cell is played on each of them, from the same account with empty windows. A cell is
judged by what it came to WITH less WITHOUT; WITHOUT is the same for all cells and played once a part.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from daemon.engine.actions import ShrinkPosition
from daemon.language.terms import Window, walk
from daemon.runbook.model import Runbook
from daemon.simulation.account import Deed, Liquidated, SimulatedAccount
from daemon.simulation.episode import Episode, clusters
from daemon.simulation.history import Part
from daemon.simulation.outturn import Outturn, difference, outturn
from daemon.simulation.replay import Course, Played
from daemon.simulation.retrace import NOTICEABLE_USD, episode_of
from daemon.simulation.tape import TapeMark

CHOOSING_SHARE = 0.6  # of the history that a split in two chooses on; the rest judges
PARTS_MAX = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Tally:
    """What one cell came to on one part, or on several: WITH less WITHOUT in USD, > 0 it did better; and how often it did what."""

    without_direction_usd: float
    at_3x_costs_usd: float
    pnl_usd: float
    liquidations_avoided: int
    liquidation_avoided_usd: float
    turnover_usd: float
    runs: int
    episodes: int
    clusters: int
    false_alarms: int

    @classmethod
    def joined(cls, tallies: Iterable[Tally]) -> Tally:
        """The sum over several parts. A cluster that a split cuts in two counts twice."""
        found = list(tallies)
        return cls(**{field.name: sum(getattr(tally, field.name) for tally in found) for field in fields(cls)})

    def as_json(self) -> dict[str, object]:
        """The figures by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def split(course: Course, parts: int) -> tuple[Course, ...]:
    """The course cut into parts by time: one, two (60 % and 40 %), or so many of equal length. Its blocks are in memory.

    Raises ValueError where a part would hold no row.
    """
    if not 1 <= parts <= PARTS_MAX:
        raise ValueError(f"a history is split into 1 to {PARTS_MAX} parts, found {parts}")
    if parts == 1:
        return (course,)
    first, last = course.first_at, course.last_at + 1
    shares = [0.0, CHOOSING_SHARE, 1.0] if parts == 2 else [k / parts for k in range(parts + 1)]
    bounds = [first + int((last - first) * share) for share in shares]
    found = []
    for since, until in pairwise(bounds):
        blocks = []
        for block in course.blocks:
            start, end = (int(i) for i in np.searchsorted(block.ts, [since, until]))
            if end > start:
                blocks.append(Part.cut(block, start, end))
        if not blocks:
            raise ValueError(f"the history is too short or too patchy for {parts} parts: one of them holds no row")
        found.append(replace(course, blocks=tuple(blocks)))
    return tuple(found)


def longest_window_ns(runbooks: Sequence[Runbook]) -> int:
    """How far back the runbooks look: what is UNKNOWN at the beginning of every part; 0 without windows."""
    terms = (term for book in runbooks for expression in book.expressions for term in walk(expression.typed.term))
    return max((term.duration_ns for term in terms if isinstance(term, Window)), default=0)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Market:
    """A market held, and the funding of one unit of it, summed up."""

    units: float  # at the start, + long, - short
    paid_at: npt.NDArray[np.int64]
    paid: npt.NDArray[np.float64]  # USD that one unit long has paid after so many settlements

    def funding(self, since: int, until: int) -> float:
        """USD that one unit long pays in `(since, until]`."""
        first, last = np.searchsorted(self.paid_at, [since, until], side="right")
        return float(self.paid[last] - self.paid[first])


class Ground:
    """One part of the history, and what every cell played on it shares."""

    def __init__(self, course: Course, *, lacking: Outturn, liquidated: Sequence[Liquidated]) -> None:
        self.course = course
        self.lacking = lacking
        self.liquidated = tuple(liquidated)
        self._markets = {market: _market(course, market, units) for market, units in _held(course).items()}

    @classmethod
    def of(cls, course: Course, alone: SimulatedAccount) -> Ground:
        """The ground of a part; `alone` is its account after the pass WITHOUT."""
        return cls(course, lacking=outturn(alone), liquidated=alone.liquidated)

    def tally(self, played: Played) -> Tally:
        """What a cell came to here."""
        having = outturn(played.account)
        episodes = played.log.episodes()
        came_to = difference(having, self.lacking)
        return Tally(
            without_direction_usd=came_to.without_direction_usd + 0.0,
            at_3x_costs_usd=came_to.without_direction_at_3x_costs_usd + 0.0,
            pnl_usd=came_to.pnl_usd + 0.0,
            liquidations_avoided=self.lacking.liquidations - having.liquidations,
            liquidation_avoided_usd=came_to.liquidation_avoided_usd,
            turnover_usd=having.turnover_usd,
            runs=sum(len(episode.run_statuses) for episode in episodes),
            episodes=len(episodes),
            clusters=clusters(episodes),
            false_alarms=self.false_alarms(episodes, played.account),
        )

    def false_alarms(self, episodes: Sequence[Episode], account: SimulatedAccount) -> int:
        """How many episodes acted and had not earned what their deeds cost by their own end (or that of the part).

        Cost: the fees and slippage of its fills, the fees of its transfers. Earned: the funding that the size it sold would have paid
        from the fill to the end, and what liquidations of the same market (of any, where the episode is about no market) cost the pass
        WITHOUT between firing and end, where the pass WITH was spared them. What prices did counts neither way. An episode that moved
        nothing costs nothing and is none. A stand-in for leaving each run out (`retrace.py`), which takes a pass for each.
        """
        deeds: dict[str, list[Deed]] = {}
        for deed in account.deeds:
            deeds.setdefault(episode_of(deed.order.run_id), []).append(deed)
        return sum(
            self._net(episode, deeds[episode.id], account) < -NOTICEABLE_USD for episode in episodes if episode.id in deeds
        )

    def _net(self, episode: Episode, deeds: Sequence[Deed], account: SimulatedAccount) -> float:
        """What an episode earned less what it cost, USD."""
        end = self.course.last_at if episode.cleared_at is None else episode.cleared_at
        net = self._spared(episode, account, end)
        for deed in deeds:
            net -= deed.cost_usd
            if isinstance(deed.order, ShrinkPosition):
                market = self._markets[deed.order.market]
                sold = float(deed.filled) if market.units > 0 else -float(deed.filled)
                net += sold * market.funding(deed.at, max(deed.at, end))
        return net

    def _spared(self, episode: Episode, account: SimulatedAccount, end: int) -> float:
        suffered = {item.market for item in account.liquidated if item.at <= end}
        about = episode.subject if episode.subject in self._markets else ""
        return sum(
            item.cost_usd
            for item in self.liquidated
            if episode.fired_at <= item.at <= end and item.market not in suffered and about in ("", item.market)
        )


def _held(course: Course) -> dict[str, float]:
    return {course.spec.market_id(position.market): float(position.size) for position in course.spec.positions}


def _market(course: Course, market: str, units: float) -> _Market:
    def bound(signal: str) -> int:
        return course.bound_ns(market, signal)

    mark = TapeMark(market, valued_at=course.spec.valued_at, bound_ns=bound, interval_ns=course.interval_ns(market))
    mark.begin(course.first_at)
    mark.extend(course.blocks)
    times: list[int] = []
    paid: list[float] = [0.0]
    for at, dues in sorted(mark.settlements().items()):
        price = mark.price_at(at)
        for due in dues:
            if due.rate is not None and price == price:
                times.append(at)
                paid.append(paid[-1] + price * due.rate * due.hours)
    return _Market(units=units, paid_at=np.array(times, np.int64), paid=np.array(paid))
