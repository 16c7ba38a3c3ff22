"""The hot side as the cold side sees it (floor 4): structural, so that tests can stand in for the generated program."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

from daemon.engine.edge import Edge, Plan, Reading, TriggerState
from daemon.engine.events import Row
from daemon.runbook.model import Runbook
from daemon.world.entities import Entity, Kind

__all__ = ["FALSE", "NAN", "TRUE", "UNKNOWN", "Edge", "HotSide", "Plan", "Reading", "TriggerState"]

NAN = float("nan")
FALSE, UNKNOWN, TRUE = 0.0, 1.0, 2.0


class HotSide(Protocol):
    """What the generated program offers; see `docs/internals.md`."""

    @property
    def next_due(self) -> int:
        """A lower bound of all hot dues."""
        ...

    def take(self, rows: Sequence[Row], at: int, history: bool = False) -> list[Edge]:
        """One batch: slots, windows, verdicts; edges in instance order."""
        ...

    def fire_due(self, limit: int) -> tuple[int, list[Edge]]:
        """Everything due at the least due time d <= limit; (limit, []) when nothing is."""
        ...

    def gap(self, at: int, since: int, reset: bool = True) -> list[tuple[str, str]]:
        """Tell it of time nobody watched; the instances it reset."""
        ...

    def link(self, runbooks: Sequence[Runbook]) -> list[tuple[str, str, str]]:
        """Put this set in force, cells kept by key; (runbook, entity, reason) of instances restarted."""
        ...

    def value(
        self, runbook: Runbook | str, index: int, entity: str, at: int, start: Mapping[str, float] | None = None, plan: Plan | None = None
    ) -> float:
        """The expression's value; NaN unknown; conditions 0.0 FALSE, 1.0 UNKNOWN, 2.0 TRUE."""
        ...

    def trace(
        self, runbook: Runbook | str, index: int, entity: str, at: int, start: Mapping[str, float] | None = None, plan: Plan | None = None
    ) -> dict[str, object]:
        """The same evaluation with all its steps."""
        ...

    def start_frame(self, runbook: Runbook | str, entity: str, at: int) -> dict[str, float]:
        """Values of every `name@start`."""
        ...

    def read(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> Reading:
        """A reading, observed or derived."""
        ...

    def knows(self, kind: Kind, entity: str) -> bool:
        """True when an entity was named so far."""
        ...

    def seen(self, kind: Kind, entity: str) -> Entity | None:
        """An entity that was named so far; None for any other."""
        ...

    def peek(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> Reading:
        """A reading for whoever only looks: no entity and no window comes of it."""
        ...

    def prepare(self, kind: Kind, signal: str) -> None:
        """Compile what looks at a signal before it is asked for."""
        ...

    def glance(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> float:
        """The value alone of a peek; NaN unknown."""
        ...

    def true_at(self, kind: Kind, entity: str, signal: str) -> int:
        """When a reading was true by its source's own time (NEVER; FOREVER for what holds for ever)."""
        ...

    def state(self, runbook: str, entity: str, *, lacking: bool = True) -> TriggerState:
        """Where an instance's trigger is; without `lacking` it does not say which readings it lacks."""
        ...

    def unknown(self, runbook: Runbook | str, index: int, entity: str, at: int) -> tuple[str, ...]:
        """Signals of an expression that are UNKNOWN now."""
        ...

    def instances(self, runbook: str | None = None) -> list[tuple[str, str]]:
        """(runbook, entity) of all instances."""
        ...

    def has(self, runbook: str, entity: str) -> bool:
        """True while there is this instance."""
        ...

    def entities(self, kind: Kind) -> list[str]:
        """Every entity of a kind seen so far."""
        ...

    def entity(self, kind: Kind, entity: str) -> Entity:
        """An entity with its labels and links."""
        ...

    def members(self, kind: Kind, of: str, which: str = "positions") -> list[str]:
        """Ids of a set as seen from entity `of` of kind `kind`: open positions of an account, peers of a market, ..."""
        ...

    def watch(self, entities: Iterable[tuple[Kind, str]]) -> None:
        """The driver comes back at batches of these."""
        ...

    def seen_at(self, kind: Kind, entity: str, signal: str) -> int:
        """When that reading last arrived (NEVER)."""
        ...

    def mute(self, muted: bool) -> None:
        """While muted, batches move state without producing edges."""
        ...

    def checkpoint(self) -> Mapping[str, bytes]:
        """Its cells and rings by key."""
        ...

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        """Its cells and rings back; the runbooks are linked before."""
        ...
