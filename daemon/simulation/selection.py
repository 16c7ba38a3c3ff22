"""Choosing among the cells of a sweep without fooling oneself (floor 5): ranks, luck, walk-forward, cliffs.

    study = Study(axes=axes, cells=cells, tallies=tallies, parts=parts, objective="pnl_without_direction")
    study.order[0]          # the best cell on what it was chosen on
    study.luck().beyond     # by how much it beats the best of as many tries without skill
    study.folds()           # chosen on the earlier parts, judged on a later one
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal, get_args

from daemon.simulation.grid import Axis, Cell, position
from daemon.simulation.sweep import Tally

Objective = Literal["pnl_without_direction", "liquidations_avoided", "runs", "false_alarms"]
OBJECTIVES: tuple[Objective, ...] = get_args(Objective)
COUNTED = ("runs", "false_alarms")  # fewer are better
EULER_GAMMA = 0.5772156649015329
ALIKE = 0.01  # of the spread, or of the best: a difference that is none
CLIFF_SHARE = 0.5  # of the best cell's objective that a neighbour keeps on a plateau
IN_SAMPLE = "in sample"


def value_of(tally: Tally, objective: Objective) -> float:
    """The objective as a person reads it: USD, or a count."""
    match objective:
        case "pnl_without_direction":
            return tally.without_direction_usd
        case "liquidations_avoided":
            return float(tally.liquidations_avoided)
        case "runs":
            return float(tally.runs)
        case "false_alarms":
            return float(tally.false_alarms)


def score(tally: Tally, objective: Objective) -> float:
    """The same, so that more is better."""
    value = value_of(tally, objective)
    return -value if objective in COUNTED else value


def expected_maximum(tries: int) -> float:
    """The expected largest of so many independent standard normal draws; 0 for one.

    (1 - g) Z(1 - 1/N) + g Z(1 - 1/(N e)), with g Euler's constant and Z the normal quantile: Bailey and Lopez de Prado, The Deflated
    Sharpe Ratio, Journal of Portfolio Management 40 (5), 2014. It is 2.5 % high at 5 tries, 1 % at 100: on the careful side.
    """
    if tries < 2:
        return 0.0
    normal = statistics.NormalDist()
    return (1 - EULER_GAMMA) * normal.inv_cdf(1 - 1 / tries) + EULER_GAMMA * normal.inv_cdf(1 - 1 / (tries * math.e))


@dataclass(frozen=True, slots=True, kw_only=True)
class Luck:
    """What the best of so many tries comes to without any skill, in the objective's unit.

    Without skill every cell is a draw around 0 with the spread that the cells show; `by_luck` is the expected best of `independent` such
    draws. Cells that fired and ran as often on every part, and whose objectives are within a hundredth of the spread, are one try: they
    differ in nothing that this history knows of.
    """

    tries: int
    independent: int
    spread: float
    best: float
    by_luck: float

    @property
    def beyond(self) -> float:
        """The deflated result: what the best has more than luck would; 0 or below says nothing was found."""
        return self.best - self.by_luck

    def as_json(self, *, deflated: bool) -> dict[str, object]:
        """The figures by name; a count, of which the least is best, is not deflated."""
        return {
            "tries": self.tries, "independent": self.independent, "spread": self.spread,
            "best": self.best if deflated else 0.0 - self.best, "by_luck": self.by_luck if deflated else None,
            "beyond_luck": self.beyond if deflated else None,
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Fold:
    """One step of a walk forward: the best cell of all parts before `part`, and what it came to there, where nobody had looked."""

    part: int
    chosen: int
    in_sample: float
    out_of_sample: float
    rank: int  # of the chosen cell on the judging part, 1 = best
    best_there: float

    def as_json(self, cells: Sequence[Cell], axes: Sequence[Axis]) -> dict[str, object]:
        """The fold as `reefd sweep` prints it."""
        return {
            "judged_on": self.part + 1, "params": named(axes, cells[self.chosen]), "in_sample": self.in_sample,
            "out_of_sample": self.out_of_sample, "rank": self.rank, "of": len(cells), "best_there": self.best_there,
        }  # fmt: skip


def named(axes: Sequence[Axis], cell: Cell) -> dict[str, str]:
    """The values of a cell by path."""
    return {axis.path: value for axis, value in zip(axes, cell, strict=True)}


@dataclass(frozen=True, kw_only=True)
class Study:
    """All cells of a sweep with what they came to on each part. With one part everything is in sample."""

    axes: tuple[Axis, ...]
    cells: tuple[Cell, ...]
    tallies: tuple[tuple[Tally, ...], ...]  # by cell, then part
    parts: tuple[tuple[int, int], ...]  # first and last instant of each
    objective: Objective = "pnl_without_direction"
    drawn: bool = False  # cells are draws, not a grid
    notes: tuple[str, ...] = field(default_factory=tuple)

    @cached_property
    def chosen_on(self) -> tuple[Tally, ...]:
        """Each cell over the parts that are chosen on: all but the last, or the only one."""
        parts = max(1, len(self.parts) - 1)
        return tuple(Tally.joined(tallies[:parts]) for tallies in self.tallies)

    @cached_property
    def order(self) -> tuple[int, ...]:
        """The cells from best to worst, on the parts that are chosen on; a tie goes to the better profit without direction."""
        return self._ranked([(score(tally, self.objective), tally.without_direction_usd) for tally in self.chosen_on])

    @staticmethod
    def _ranked(scores: Sequence[tuple[float, float]]) -> tuple[int, ...]:
        return tuple(sorted(range(len(scores)), key=lambda index: (-scores[index][0], -scores[index][1], index)))

    def _objective(self, cell: int, parts: range) -> float:
        return sum(value_of(self.tallies[cell][part], self.objective) for part in parts)

    def folds(self) -> tuple[Fold, ...]:
        """The walk forward: for each part but the first, the best of all parts before it, judged there."""
        found = []
        for part in range(1, len(self.parts)):
            before = [Tally.joined(tallies[:part]) for tallies in self.tallies]
            chosen = self._ranked([(score(tally, self.objective), tally.without_direction_usd) for tally in before])[0]
            later = [score(tallies[part], self.objective) for tallies in self.tallies]
            found.append(
                Fold(
                    part=part, chosen=chosen, in_sample=self._objective(chosen, range(part)),
                    out_of_sample=self._objective(chosen, range(part, part + 1)),
                    rank=1 + sum(other > later[chosen] for other in later),
                    best_there=max(later) if self.objective not in COUNTED else -max(later),
                )
            )  # fmt: skip
        return tuple(found)

    def luck(self) -> Luck:
        """What the best of as many tries would come to without skill, on the parts that are chosen on."""
        scores = [score(tally, self.objective) for tally in self.chosen_on]
        width = ALIKE * statistics.pstdev(scores)
        groups: dict[tuple[tuple[float, int, int], ...], float] = {}
        for cell in self.order:  # the best of each group speaks for it
            alike = tuple(
                (round(score(tally, self.objective) / width) if width else 0, tally.episodes, tally.runs) for tally in self.tallies[cell]
            )
            groups.setdefault(alike, scores[cell])
        spread = statistics.stdev(groups.values()) if len(groups) > 1 else 0.0
        by_luck = spread * expected_maximum(len(groups))
        return Luck(tries=len(self.cells), independent=len(groups), spread=spread, best=max(scores), by_luck=by_luck)

    # --- cliff or plateau -------------------------------------------------------------------------------------------------

    def _places(self) -> list[list[float]]:
        """Where each cell lies: on a grid in steps of each axis, for draws as a share of what was drawn."""
        places = []
        for number, axis in enumerate(self.axes):
            values = [cell[number] for cell in self.cells]
            scale = {value: position(value) for value in dict.fromkeys(values)}
            if any(math.isnan(at) for at in scale.values()):
                scale = {value: float(axis.values.index(value)) for value in scale}
            elif not self.drawn:
                ranks = {at: float(step) for step, at in enumerate(sorted(set(scale.values())))}
                scale = {value: ranks[at] for value, at in scale.items()}
            low, high = min(scale.values()), max(scale.values())
            width = (high - low) if self.drawn and high > low else 1.0
            places.append([(scale[value] - low) / width for value in values])
        return [list(place) for place in zip(*places, strict=True)]

    def neighbours(self, cell: int) -> tuple[int, ...]:
        """The cells one step away on one axis; of draws the nearest ones, two for each axis."""
        places = self._places()
        own = places[cell]
        if not self.drawn:
            return tuple(
                other for other, place in enumerate(places) if sum(abs(a - b) for a, b in zip(own, place, strict=True)) == 1.0
            )
        away = sorted((math.dist(own, place), other) for other, place in enumerate(places) if other != cell and place != own)
        return tuple(other for _, other in away[: 2 * len(self.axes)])

    def cliffs(self) -> tuple[int, ...]:
        """The neighbours of the best cell that keep less than half of its objective, or flip its sign: a plateau has none.

        Of draws these are told only when they are most of the neighbours. A count (runs, false alarms) falls off where it more than
        doubles, and by more than one.
        """
        best = self.order[0]
        around = self.neighbours(best)
        at_best = value_of(self.chosen_on[best], self.objective)
        worse = [cell for cell in around if self._falls(at_best, value_of(self.chosen_on[cell], self.objective))]
        if self.drawn and 2 * len(worse) <= len(around):
            return ()
        return tuple(worse)

    def _falls(self, best: float, beside: float) -> bool:
        if self.objective in COUNTED:
            return beside > 2 * best and beside > best + 1
        return best > 0.0 and beside < CLIFF_SHARE * best

    def edges(self) -> tuple[str, ...]:
        """The axes on whose first or last value the best cell of a grid lies, and on which it matters: something better may lie beyond."""
        if self.drawn:
            return ()
        places, best = self._places(), self.order[0]
        own = places[best]
        highest = [max(column) for column in zip(*places, strict=True)]
        at_best = score(self.chosen_on[best], self.objective)
        found = []
        for number, axis in enumerate(self.axes):
            if highest[number] <= 1.0 or own[number] not in (0.0, highest[number]):
                continue
            inwards = [other for other in self.neighbours(best) if places[other][number] != own[number]]
            if any(at_best - score(self.chosen_on[other], self.objective) > ALIKE * abs(at_best) for other in inwards):
                found.append(axis.path)
        return tuple(found)

    def indifferent(self) -> tuple[str, ...]:
        """The axes along which nothing changes anywhere, of several values."""
        found = []
        for number, axis in enumerate(self.axes):
            groups: dict[Cell, set[tuple[Tally, ...]]] = {}
            for cell, tallies in zip(self.cells, self.tallies, strict=True):
                groups.setdefault((*cell[:number], *cell[number + 1 :]), set()).add(tallies)
            if len({cell[number] for cell in self.cells}) > 1 and not self.drawn and all(len(group) == 1 for group in groups.values()):
                found.append(axis.path)
        return tuple(found)
