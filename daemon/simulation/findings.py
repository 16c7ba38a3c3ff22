"""What a sweep says (floor 5): its cells as rows, what luck would have found, and every reason to doubt it; as text, JSON or a page.

    findings = Findings(study=study, runbook="spike", recording="hype-2026", seconds={"load": 0.2, "cells": 41.0})
    findings.as_text(); findings.as_json(); findings.as_page()
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from daemon.simulation.heat import HeatMap, compact, heat_map, page
from daemon.simulation.report import ANECDOTE_BELOW
from daemon.simulation.selection import COUNTED, IN_SAMPLE, Study, named, value_of
from daemon.units import iso

SHOWN_MAX = 20  # cells that a person reads; the files have all of them
PAGE_MAX = 500
UNITS = {"pnl_without_direction": "USD", "liquidations_avoided": "liquidations", "runs": "runs", "false_alarms": "false alarms"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """A study with where it was made."""

    study: Study
    runbook: str
    recording: str
    sample: str = ""  # of the account file: in | out | nothing said
    neutral: bool = False  # no account was given
    seconds: Mapping[str, float] = field(default_factory=dict)

    @property
    def stamp(self) -> str:
        """What every figure must be read with."""
        parts = self.study.parts
        if len(parts) == 1:
            return f"{IN_SAMPLE}: every figure is chosen and judged on the same history"
        until = iso(parts[-1][0])
        return f"{IN_SAMPLE} but for what is marked later: chosen on everything before {until}, judged on what came after"

    def head(self) -> tuple[str, ...]:
        """Names of the columns of `row`."""
        later = (f"later, {UNITS[self.study.objective]}",) if len(self.study.parts) > 1 else ()
        figures = ("USD without direction", "at 3x costs", "liq. avoided", "runs", "episodes", "clusters", "false alarms")
        return ("#", *(axis.path for axis in self.study.axes), *figures, *later)

    def row(self, rank: int) -> tuple[str, ...]:
        """The cell of a rank (0 = best) as texts."""
        cell = self.study.order[rank]
        tally = self.study.chosen_on[cell]
        later = (self._figure(value_of(self.study.tallies[cell][-1], self.study.objective)),) if len(self.study.parts) > 1 else ()
        return (
            str(rank + 1), *self.study.cells[cell], _usd(tally.without_direction_usd), _usd(tally.at_3x_costs_usd),
            str(tally.liquidations_avoided), str(tally.runs), str(tally.episodes), str(tally.clusters), str(tally.false_alarms), *later,
        )  # fmt: skip

    def _figure(self, value: float) -> str:
        return _usd(value) if self.study.objective == "pnl_without_direction" else compact(value)

    def heat(self) -> HeatMap | None:
        """The map over the first two axes."""
        return heat_map(self.study)

    def _found(self) -> Iterator[str]:
        """What was found, most important first."""
        study, luck = self.study, self.study.luck()
        unit = UNITS[study.objective]
        best = study.order[0]
        values = ", ".join(f"{path} {value}" for path, value in named(study.axes, study.cells[best]).items())
        figure = self._figure(value_of(study.chosen_on[best], study.objective))
        yield f"best by {study.objective}: {values}: {figure} {unit} ({IN_SAMPLE})"
        different = f", {luck.independent} of them different" if luck.independent != luck.tries else ""
        if study.objective in COUNTED:
            yield f"tried: {luck.tries} cells{different}; a count is not deflated: a runbook that never fires has the fewest {unit}"
        else:
            yield (
                f"tried: {luck.tries} cells{different}; without skill the best of them would come to {self._figure(luck.by_luck)} {unit}"
                f" (spread {compact(luck.spread)}); the best has {self._figure(luck.beyond)} beyond luck"
                + ("" if luck.beyond > 0 else ": nothing was found")
            )
        for fold in study.folds():
            before = "part 1" if fold.part == 1 else f"parts 1 to {fold.part}"
            params = ", ".join(study.cells[fold.chosen])
            yield (
                f"walk forward: chosen on {before} ({params}): {self._figure(fold.in_sample)} {unit} there ({IN_SAMPLE}),"
                f" {self._figure(fold.out_of_sample)} on part {fold.part + 1}, rank {fold.rank} of {len(study.cells)}"
                f" (the best there: {self._figure(fold.best_there)})"
            )

    def warnings(self) -> tuple[str, ...]:
        """Reasons not to take the best cell."""
        study = self.study
        found = []
        cliffs = study.cliffs()
        if cliffs:
            beside = "; ".join(
                f"{', '.join(study.cells[cell])}: {self._figure(value_of(study.chosen_on[cell], study.objective))}" for cell in cliffs[:4]
            )
            found.append(f"the best cell is a cliff, not a plateau: beside it the objective falls by more than half ({beside})")
        if edges := study.edges():
            found.append(f"the best cell lies on the edge of {' and '.join(edges)}: something better may lie beyond")
        if same := study.indifferent():
            found.append(f"{' and '.join(same)} changed nothing anywhere: this history cannot tell its values apart")
        count = study.chosen_on[study.order[0]].clusters
        if count < ANECDOTE_BELOW:
            found.append(f"the best cell rests on {count} cluster{'' if count == 1 else 's'} of episodes: an anecdote, not evidence")
        if self.neutral:
            found.append("no account was given: nothing is held, so profit and liquidations are zero and only what fired says anything")
        return tuple(found)

    def closing(self) -> tuple[str, ...]:
        """What no sweep can know."""
        split = "every part begins with the account as written and with empty windows" if len(self.study.parts) > 1 else ""
        sample = {
            "in": "the account file says that this history was in sight when the runbooks were written",
            "out": "the account file says that this history was held back; whoever sweeps over it looks at it now",
        }.get(self.sample, "")
        return tuple(
            line
            for line in (
                f"stamp: {self.stamp}", *self.study.notes, split, sample,
                "luck: expected best of independent tries with the spread of the cells (Bailey and Lopez de Prado, 2014); about"
                " half of all sweeps without any skill come out above it, and luck that all cells share (this very history) is not in it",
                "false alarm: an episode that had not earned its costs by its own end, in funding saved and liquidation spared",
                "a shrunk position stays small: part of what a cell saves is the time after its episodes (reefd replay shows it restored)",
                "static book: the prices, the books and the other traders do not react to these fills",
            )
            if line
        )  # fmt: skip

    def as_json(self) -> dict[str, object]:
        """The document that `reefd sweep --format json` prints: every cell, best first."""
        study = self.study
        heat = self.heat()
        return {
            "runbook": self.runbook, "recording": self.recording, "objective": study.objective, "stamp": self.stamp,
            "axes": [{"path": axis.path, "values": None if study.drawn else list(axis.values)} for axis in study.axes],
            "parts": [{"from": iso(first), "to": iso(last)} for first, last in study.parts],
            "cells": [
                {
                    "rank": rank + 1, "params": named(study.axes, study.cells[cell]), "stamp": IN_SAMPLE,
                    **study.chosen_on[cell].as_json(),
                    "later": study.tallies[cell][-1].as_json() if len(study.parts) > 1 else None,
                }
                for rank, cell in enumerate(study.order)
            ],
            "grid": heat.as_json() if heat is not None else None,
            "luck": study.luck().as_json(deflated=study.objective not in COUNTED),
            "walk_forward": [fold.as_json(study.cells, study.axes) for fold in study.folds()],
            "warnings": list(self.warnings()),
            "notes": list(self.closing()),
            "seconds": dict(self.seconds),
        }  # fmt: skip

    def as_text(self) -> str:
        """The same for people."""
        study = self.study
        parts = f" on each of {len(study.parts)} parts" if len(study.parts) > 1 else ""
        shown = min(SHOWN_MAX, len(study.order))
        more = len(study.order) - shown
        rows = [self.head(), *(self.row(rank) for rank in range(shown))]
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        table = ["  ".join(f"{text:>{width}}" for text, width in zip(row, widths, strict=True)) for row in rows]
        heat = self.heat()
        lines = heat.as_text(fewer_is_better=study.objective in COUNTED) if heat is not None else []
        picture = [f"best over the others, {UNITS[study.objective]} ({IN_SAMPLE}):", *lines, ""] if lines else []
        return "\n".join([
            f"{self.runbook} over {self.recording}: {len(study.cells)} {'draws' if study.drawn else 'cells'}{parts}, by {study.objective}",
            *(f"seconds: {name} {value:.2f}" for name, value in self.seconds.items() if name == "cells"),
            "",
            *table, *([f"and {more} more; --format json and --out have them all"] if more else []), "",
            *picture,
            *self._found(),
            *(f"WARNING: {line}" for line in self.warnings()),
            "",
            *self.closing(),
        ])  # fmt: skip

    def as_page(self) -> str:
        """One HTML page for a browser without a network."""
        study = self.study
        lines = [*self._found(), *(f"Warning: {line}" for line in self.warnings())]
        return page(
            title=f"Sweep of {self.runbook} over {self.recording}", stamp=self.stamp, lines=lines, heat=self.heat(), head=self.head(),
            rows=[self.row(rank) for rank in range(min(PAGE_MAX, len(study.order)))], closing=self.closing(),
            fewer_is_better=study.objective in COUNTED,
        )  # fmt: skip


def _usd(value: float) -> str:
    return f"{value + 0.0:+,.2f}"
