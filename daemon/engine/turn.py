"""One instant of deciding (floor 4): what the deciding functions read, and the records and actions they collect.

`turn.emit(record)` is both: the record leaves in the transition and is applied at once, so the next decision sees it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.engine.actions import Action
from daemon.engine.apply import apply
from daemon.engine.contract import TRUE, HotSide, Plan, Reading
from daemon.engine.limits import HouseLimits
from daemon.engine.records import Record
from daemon.engine.state import Cold, Run, StepProgress
from daemon.runbook.model import Expression, Runbook, Step
from daemon.units import NS
from daemon.world.entities import PORTFOLIO_ID, Entity, Kind, Topology


@dataclass(slots=True, kw_only=True)
class Turn:
    """The working set of one instant `at`; made and dropped inside `Engine.step`."""

    at: int
    cold: Cold
    hot: HotSide
    library: Mapping[str, Runbook]  # by digest: the set in force, and what runs in flight still need
    topology: Topology
    house: HouseLimits
    named: dict[str, frozenset[tuple[Kind, str]]]  # by digest: what a version's expressions name by id, as far as it was asked
    records: list[Record] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)

    def emit(self, record: Record) -> None:
        """Decide: record and apply."""
        self.records.append(record)
        apply(self.cold, record)

    def act(self, action: Action) -> None:
        """Ask the edges; the record that says so comes first."""
        self.actions.append(action)

    def current(self, runbook: str) -> Runbook | None:
        """The version of a runbook that is in force; None when it was removed."""
        digest = self.cold.in_force.get(runbook)
        return self.library.get(digest) if digest else None

    def book(self, run: Run) -> Runbook:
        """The version that started this run."""
        return self.library[run.digest]

    def entity(self, kind: Kind, entity: str) -> Entity:
        """An entity with its links, also of one that is not observed (any more)."""
        return self.topology.entity(kind, entity)

    def value(self, run: Run, expression: Expression, plan: Plan | None = None) -> float:
        """Value of one of the run's expressions now; the plan's names are those of `plan`, else of the run's last planned step."""
        return self.hot.value(self.book(run), expression.index, run.entity, self.at, run.frame, run.plan if plan is None else plan)

    def true(self, run: Run, expression: Expression, plan: Plan | None = None) -> bool:
        """True only when the condition is known TRUE."""
        return self.value(run, expression, plan) == TRUE

    def read(self, book: Runbook, kind: Kind, entity: str, signal: str) -> Reading:
        """A reading under the runbook's own staleness bounds."""
        return self.hot.read(kind, entity, signal, self.at, book.max_age)


def members(turn: Turn, kind: Kind, of: str, which: str) -> list[str]:
    """Ids of a set as seen from an entity; empty for an entity that nothing was ever observed of."""
    return turn.hot.members(kind, of, which) if of in turn.hot.entities(kind) else []


def steps_of(book: Runbook, run: Run) -> tuple[Step, ...]:
    """The steps this run goes through."""
    return book.on_clear if run.on_clear else book.steps


def progress_of(run: Run) -> StepProgress:
    """The step under way; asserts that there is one."""
    assert run.step is not None, f"{run.id} is between steps"
    return run.step


def related(entity: Entity, kind: Kind) -> str | None:
    """Id of the entity's own relative of a kind (itself included); None when it has none."""
    if entity.kind is kind:
        return entity.id
    if kind is Kind.PORTFOLIO:
        return PORTFOLIO_ID
    return entity.links.get(kind.value)


def seconds(ns: int) -> str:
    """`20s` of a number of ns, for reasons."""
    return f"{ns / NS:g}s"
