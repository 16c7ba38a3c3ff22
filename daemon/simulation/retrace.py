"""What else could have been (floor 5): the same rows again with other deeds, and nothing decided anew.

A pass WITH leaves a list of `Deed`s: what each order changed, and when. `retrace` lives through the rows once more and does those deeds at
the same instants; with all of them it comes to the same account to the last bit (a test). Two questions are asked with it:

    leave_one_out(course, played)           # what did each run contribute? the same deeds without that run's
    restore_on_clear(course, played)        # had the owner bought back what an episode sold, when it cleared?

No engine is involved, so a counterfactual cannot set off a runbook's own failure handling, and one costs as little as the pass WITHOUT.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal

from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.engine.columns import Columns
from daemon.simulation.account import Deed, SimulatedAccount
from daemon.simulation.outturn import Difference, Json, Outturn, difference, outturn
from daemon.simulation.replay import Course
from daemon.simulation.spans import Spans
from daemon.simulation.tape import TapedAccount
from daemon.units import FOREVER, NEVER, iso

RUNS_LEFT_OUT_MAX = 50  # passes of leave-one-run-out; the costliest runs come first
NOTICEABLE_USD = 0.005  # less than half a cent is rounding of sums, no contribution

WALKS_AT_ONCE = 10  # accounts that share one reading of the recording: each holds its slice of the markets it owns

_DEED, _CLEARED, _RESTORE = range(3)  # the order of one instant
_Item = tuple[int, int, int, Deed | tuple[str, str]]
"""(when, its rank at one instant, its number there, a deed or (episode, market))."""


def episode_of(run_id: str) -> str:
    """The episode of a run: `<episode>/<n>`, or `<episode>/clear`."""
    return run_id.rpartition("/")[0]


def retrace(course: Course, deeds: Sequence[Deed], *, spans: Spans | None = None) -> SimulatedAccount:
    """The account after the same rows with these deeds (ascending in time) and no others."""
    walk = _Walk(course, deeds, spans)
    _lead(course, [walk])
    return walk.account


def _lead(course: Course, walks: Sequence[_Walk]) -> None:
    """Reads the rows once for all of these accounts."""
    for blocks in course.slices():
        for walk in walks:
            walk.take(blocks)
    for walk in walks:
        walk.close(course.last_at)


class _Walk:
    """One account on its way through the slices of a course, with deeds to be done again on the way."""

    def __init__(self, course: Course, deeds: Sequence[Deed], spans: Spans | None) -> None:
        self.account: TapedAccount = course.account(spans)
        self.account.series = None  # nobody draws what did not happen
        self.account.begin(course.first_at)
        self._agenda: list[_Item] = [(deed.at, _DEED, number, deed) for number, deed in enumerate(deeds)]
        heapq.heapify(self._agenda)

    def take(self, blocks: Sequence[Columns]) -> None:
        """Lives through one slice and everything that is to happen in it."""
        end = max((int(block.ts[-1]) for block in blocks if len(block.ts)), default=NEVER)
        self.account.extend(blocks)
        self._look_again()
        while self._agenda and self._agenda[0][0] <= end:
            item = heapq.heappop(self._agenda)
            self._to(item[0])
            self._happens(item)
        self._to(end)

    def close(self, at: int) -> None:
        """Ends the pass."""
        self._to(at)
        self.account.end(at)

    def _to(self, at: int) -> None:
        account = self.account
        while (arrival := account.next_arrival()) <= at:
            account.pass_to(arrival - 1)
            account.credit(arrival)
        account.pass_to(at)

    def _look_again(self) -> None:
        """Called when a slice has come: what lay beyond the one before may be in this one."""

    def _happens(self, item: _Item) -> None:
        deed = item[3]
        assert isinstance(deed, Deed)
        self._do(deed, deed.filled)

    def _do(self, deed: Deed, size: Decimal) -> Decimal:
        """Does a deed over again, a shrink with `size` base units; what it filled, 0 where there is nothing to shrink any more."""
        match deed.order:
            case ShrinkPosition():
                outcome = self.account.fill(replace(deed.order, size=size), deed.at)
                return outcome.filled_size or Decimal(0)
            case MoveBuffer():
                self.account.move(deed.order, deed.at)
                return Decimal(0)


# -- leave one run out -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Contribution:
    """What one run contributed: WITH less WITH-without-this-run, USD; `cost_usd` (>= 0) are its own fees, slippage and transfer fees."""

    run_id: str
    runbook: str
    at: int  # its first deed
    cost_usd: float
    split: Difference
    liquidations_avoided: int

    @property
    def false_alarm(self) -> bool:
        """True when the account had been better off without this run, direction left aside."""
        return self.split.without_direction_usd < -NOTICEABLE_USD

    def as_json(self) -> Json:
        """The run as `reefd replay` prints it."""
        return {
            "run": self.run_id, "runbook": self.runbook, "at": iso(self.at), "false_alarm": self.false_alarm, "cost_usd": self.cost_usd,
            "liquidations_avoided": self.liquidations_avoided, **self.split.as_json(),
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Contributions:
    """Leave-one-run-out over a replay: the runs that were left out one by one, of all `acted` that changed the account."""

    acted: int
    runs: tuple[Contribution, ...] = ()
    note: str = ""  # why it is incomplete; empty when every run that acted is here

    @property
    def false_alarms(self) -> tuple[Contribution, ...]:
        """The runs that the account had been better off without."""
        return tuple(run for run in self.runs if run.false_alarm)

    @property
    def false_alarms_usd(self) -> float:
        """What the false alarms cost, without direction, >= 0."""
        return -sum(run.split.without_direction_usd for run in self.false_alarms)

    @property
    def summary(self) -> str:
        """How many runs were false alarms and what they cost, in a sentence."""
        count = len(self.false_alarms)
        cost = f", which cost {self.false_alarms_usd:,.2f} USD without direction" if count else ""
        left_out = f"{len(self.runs)} run{'' if len(self.runs) == 1 else 's'} left out one by one"
        return f"{left_out}: {count or 'no'} false alarm{'' if count == 1 else 's'}{cost}"

    def as_json(self) -> Json:
        """The section `leave_one_out` of a report."""
        return {
            "acted": self.acted, "left_out": len(self.runs), "false_alarms": len(self.false_alarms),
            "false_alarms_usd": self.false_alarms_usd, "note": self.note, "runs": [run.as_json() for run in self.runs],
        }  # fmt: skip


def runs_that_acted(deeds: Iterable[Deed]) -> dict[str, list[Deed]]:
    """Deeds by run, in the order of their first."""
    found: dict[str, list[Deed]] = {}
    for deed in deeds:
        found.setdefault(deed.order.run_id, []).append(deed)
    return found


def leave_one_out(
    course: Course,
    played: SimulatedAccount,
    *,
    runs_max: int = RUNS_LEFT_OUT_MAX,
    spans: Spans | None = None,
    tell: Callable[[int], None] | None = None,
) -> Contributions:
    """What each run contributed: the same deeds once more without its own, for the `runs_max` costliest runs; `tell` of passes done."""
    having = outturn(played)
    acted = runs_that_acted(played.deeds)
    costs = {run: sum(deed.cost_usd for deed in deeds) for run, deeds in acted.items()}
    costliest = set(sorted(acted, key=lambda run: -costs[run])[:runs_max])  # stable: of equals the first
    chosen = [run for run in acted if run in costliest]
    found = []
    for start in range(0, len(chosen), WALKS_AT_ONCE):
        runs = chosen[start : start + WALKS_AT_ONCE]
        walks = [_Walk(course, [deed for deed in played.deeds if deed.order.run_id != run], spans) for run in runs]
        _lead(course, walks)
        for run, walk in zip(runs, walks, strict=True):
            lacking, first = outturn(walk.account), acted[run][0]
            found.append(
                Contribution(
                    run_id=run, runbook=first.order.runbook, at=first.at, cost_usd=costs[run], split=difference(having, lacking),
                    liquidations_avoided=lacking.liquidations - having.liquidations,
                )
            )  # fmt: skip
        if tell is not None:
            tell(len(runs))
    note = f"only the {len(found)} costliest of {len(acted)} runs that acted were left out" if len(found) < len(acted) else ""
    return Contributions(acted=len(acted), runs=tuple(found), note=note)


# -- restore on clear ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Restored:
    """Had the owner bought back what each episode sold: what that pass came to, how often, and why not where not."""

    account: SimulatedAccount
    outturn: Outturn
    restored: int  # positions put back to their size before an episode
    bought_usd: float
    refused: Mapping[str, int] = field(default_factory=dict)  # why not -> how often

    def lines(self) -> list[str]:
        """How often a position was restored, and why not where not, for people."""
        times = f"{self.restored} position{'' if self.restored == 1 else 's'} restored by hand for {self.bought_usd:,.2f} USD"
        lines = [times, *(f"{count} not restored: {why}" for why, count in self.refused.items())]
        hits = self.outturn.liquidations
        return [*lines, f"{hits} position{'' if hits == 1 else 's'} liquidated in that pass"] if hits else lines

    def as_json(self) -> Json:
        """The numbers of `restore.on_clear` in a report, the difference aside."""
        return {
            "restored": self.restored, "restored_usd": self.bought_usd, "not_restored": dict(self.refused),
            "liquidations": self.outturn.liquidations,
        }  # fmt: skip


@dataclass(slots=True, kw_only=True)
class _Sold:
    """What one episode's runs took off one position in this pass."""

    since: int
    size: Decimal = Decimal(0)


def restore_on_clear(
    course: Course, played: SimulatedAccount, cleared: Mapping[str, int], *, spans: Spans | None = None
) -> Restored:
    """The pass in which the owner restores by hand; `cleared` is episode -> when it cleared, those that ended otherwise left out.

    Every shrink happens at its time and takes the same share of the position as it did WITH: a quarter stays a quarter. What an episode's
    runs took off is bought back at the first row of its market at or after clearing, unless the position was liquidated in between.
    """
    walk = _Restoring(course, played.deeds, cleared, spans)
    _lead(course, [walk])
    return Restored(
        account=walk.account, outturn=outturn(walk.account), restored=walk.restored, bought_usd=walk.bought_usd, refused=dict(+walk.refused)
    )


class _Restoring(_Walk):
    """The walk on which the owner buys back."""

    def __init__(self, course: Course, deeds: Sequence[Deed], cleared: Mapping[str, int], spans: Spans | None) -> None:
        super().__init__(course, deeds, spans)
        shrunk = {episode_of(deed.order.run_id) for deed in deeds if isinstance(deed.order, ShrinkPosition)}
        for number, name in enumerate(sorted(shrunk & cleared.keys())):
            heapq.heappush(self._agenda, (cleared[name], _CLEARED, number, (name, "")))
        self.restored, self.bought_usd = 0, 0.0
        self.refused: Counter[str] = Counter({"the episode did not clear": len(shrunk - cleared.keys())})
        self._sold: dict[str, dict[str, _Sold]] = {}  # episode -> market
        self._cleared: set[str] = set()
        self._beyond: list[tuple[int, str, str]] = []  # (later than this, episode, market): the row is not in the slices so far

    def close(self, at: int) -> None:
        """Ends the pass."""
        super().close(at)
        self.refused["the recording ended first"] += len(self._beyond)

    def _look_again(self) -> None:
        beyond, self._beyond = self._beyond, []
        for after, episode, market in beyond:
            self._plan(after, episode, market)

    def _plan(self, after: int, episode: str, market: str) -> None:
        when = self.account.next_row_at(market, after)
        if when == FOREVER:
            self._beyond.append((after, episode, market))
        else:
            heapq.heappush(self._agenda, (when, _RESTORE, 0, (episode, market)))

    def _happens(self, item: _Item) -> None:
        at, rank, _, what = item
        if isinstance(what, Deed):
            self._shrink_by_share(what)
        elif rank == _CLEARED:
            self._cleared.add(what[0])
            for market in self._sold.get(what[0], {}):
                self._plan(at - 1, what[0], market)  # the row at which it cleared counts, if it is this market's
        else:
            self._restore(*what, at)

    def _restore(self, episode: str, market: str, at: int) -> None:
        gone = self._sold[episode].pop(market)
        if any(hit.market == market and hit.at >= gone.since for hit in self.account.liquidated):
            self.refused["the position was liquidated meanwhile"] += 1
            return
        outcome = self.account.reopen(market, gone.size, at)
        if outcome.status == "done":
            self.restored += 1
            self.bought_usd += float(outcome.amount or 0)
        else:
            self.refused[outcome.reason] += 1

    def _shrink_by_share(self, deed: Deed) -> None:
        """Does a deed of the pass WITH over again on a position that may be larger by now."""
        if not isinstance(deed.order, ShrinkPosition):
            self._do(deed, deed.filled)
            return
        market, now = deed.order.market, abs(self.account.size(deed.order.market))
        size = deed.filled if now == deed.held else now * deed.filled / deed.held
        filled = self._do(deed, size) if size else Decimal(0)
        if filled:
            episode = episode_of(deed.order.run_id)
            planned = market in self._sold.get(episode, {})
            taken = self._sold.setdefault(episode, {}).setdefault(market, _Sold(since=deed.at))
            taken.size += filled
            if episode in self._cleared and not planned:
                self._plan(deed.at, episode, market)  # sold after it had cleared: by a later slice, or by its on_clear
