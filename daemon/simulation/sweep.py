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

from daemon.language.terms import Window, walk
from daemon.runbook.model import Runbook
from daemon.simulation.account import Liquidated, SimulatedAccount
from daemon.simulation.history import Part
from daemon.simulation.replay import Course, Played
from daemon.simulation.report import Episode, EpisodeAction, Outturn, clusters, difference, outturn
from daemon.simulation.tape import TapeMark
from daemon.units import FOREVER

CHOOSING_SHARE = 0.6  # of the history that a split in two chooses on; the rest judges
PARTS_MAX = 50
SHRINKS = ("shrink_position", "shrink_account")
ROUNDING_USD = 1e-9


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
    """A market held: its marks over the whole part, and funding per unit held, summed up."""

    mark: TapeMark
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
        fees = [route.fee for route in course.spec.routes]
        self._transfer_fee = sum(fees) / len(fees) if fees else 0.0  # which route a transfer took is not told: their mean
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
            false_alarms=sum(self.is_false_alarm(episode, played.account) for episode in episodes),
        )

    def is_false_alarm(self, episode: Episode, account: SimulatedAccount) -> bool:
        """True for an episode that acted and had not earned what its acts cost by its own end (or that of the part).

        Cost: the fees and slippage of its fills, the fees of its transfers. Earned: the funding that the size it sold would have paid
        from the fill to the end, and what liquidations of the same market (of any, where the episode is about no market) cost the pass
        WITHOUT between firing and end, where the pass WITH was spared them. What prices did counts neither way. An episode that moved
        nothing costs nothing and is none. Fills of an episode that is about no market pay and save at the mean of what was held.
        """
        end = self.course.last_at if episode.cleared_at is None else episode.cleared_at
        own = self._markets.get(episode.subject)
        net = self._spared(episode, account, end)
        acted = False
        for action in episode.actions:
            if action.outcome != "done" or action.at is None or not action.notional_usd:
                continue
            acted = True
            if action.action not in SHRINKS:
                net -= action.notional_usd * self._transfer_fee
            elif own is not None:
                net += self._earned(own, action, end)
            else:
                net += self._earned_on_average(action, end)
        return acted and net < -ROUNDING_USD

    def _filled_at(self, market: _Market, at: int) -> int:
        if market.mark.market in self.course.survey.coarse:
            return at
        rows = market.mark.rows.ts
        index = int(np.searchsorted(rows, at + self.course.spec.latency_ns, side="right"))
        return int(rows[index]) if index < len(rows) else FOREVER

    def _earned(self, market: _Market, action: EpisodeAction, end: int) -> float:
        """Funding saved less fee and slippage of one fill, USD."""
        assert action.at is not None
        sign = 1.0 if market.units > 0 else -1.0
        at, size, price, notional = self._filled_at(market, action.at), action.size or 0.0, action.price or 0.0, action.notional_usd or 0.0
        value = market.mark.price_at(min(at, self.course.last_at))
        slippage = sign * size * (value - price) if value == value else 0.0
        return sign * size * market.funding(at, max(at, end)) - notional * self.course.spec.taker_fee - slippage

    def _earned_on_average(self, action: EpisodeAction, end: int) -> float:
        assert action.at is not None
        notional = action.notional_usd or 0.0
        values = {name: abs(m.units) * m.mark.price_at(action.at) for name, m in self._markets.items() if m.units}
        known = {name: value for name, value in values.items() if value == value and value > 0.0}
        saved = 0.0
        for name, value in known.items():
            market = self._markets[name]
            units = notional * value / sum(known.values()) / market.mark.price_at(action.at)
            saved += (units if market.units > 0 else -units) * market.funding(action.at, max(action.at, end))
        return saved - notional * (self.course.spec.taker_fee + self.course.spec.slippage)

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
    return _Market(mark=mark, units=units, paid_at=np.array(times, np.int64), paid=np.array(paid))
