"""Rounds (floor 7): looks at every instance in turn, a few milliseconds at a time, so that thousands never hold up the loop.

    rounds = Rounds(engine); rounds.walk(clock.now())       # at most `budget_ns`; the next walk goes on from there
    rounds.lost(), rounds.seen["spike", "dydx:BTC-USD"].near

What it saw is as old as its last round: some seconds with thousands of instances, nothing with a hundred.
"""

from __future__ import annotations

import heapq
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from daemon.engine.contract import UNKNOWN
from daemon.engine.engine import Engine
from daemon.runbook.model import Runbook
from daemon.service.verdict import Comparison, Tree, comparison, lacking, nearness
from daemon.units import MINUTE_NS

BUDGET_NS = 3_000_000  # real ns a walk may take; one instance more may begin within it
NEAR = 0.05  # instances this near to firing are looked at in each walk
TOLD_MAX = 500  # instances of a list that people read
CLOSE_MAX = 32  # how many of them

Instance = tuple[str, str]  # runbook id, entity id


@dataclass(frozen=True, slots=True, kw_only=True)
class Glimpse:
    """What one look at an instance showed, at engine time `at`: its state, what its trigger and guards lack, how near it is to firing."""

    at: int
    state: str
    held_ns: int
    lacks: tuple[str, ...]
    guards: tuple[str, ...]  # texts of guards that are UNKNOWN
    near: float
    binding: Comparison | None  # of what has to change, the comparison that is farthest from it


class Rounds:
    """Walks over the instances for ever; keeps the last glimpse of each that there is."""

    def __init__(self, engine: Engine, *, budget_ns: int = BUDGET_NS, tick: Callable[[], int] = time.perf_counter_ns) -> None:
        self._engine = engine
        self._budget_ns = budget_ns
        self._tick = tick
        self._left: deque[Instance] = deque()
        self._judged: set[Instance] = set()
        self.seen: dict[Instance, Glimpse] = {}
        self.lacking: dict[Instance, tuple[str, ...]] = {}  # of those seen, the ones whose triggers lack readings
        self.unsure: dict[Instance, tuple[str, ...]] = {}  # the ones with guards that are UNKNOWN
        self.moving: dict[Instance, Glimpse] = {}  # the ones that are not inactive
        self._near: set[Instance] = set()  # the ones that move or are about to
        self.rounds = 0  # complete ones since the start

    def walk(self, at: int) -> None:
        """Look at as many instances as the budget allows, those that move or are near first; one at least."""
        until = self._tick() + self._budget_ns
        for instance in self._close():
            self._look(instance, at)
            if self._tick() >= until:
                return
        if not self._left:
            self._begin()
        for _ in range(len(self._left)):
            self._look(self._left.popleft(), at)
            if self._tick() >= until:
                break
        if not self._left:
            self.rounds += 1

    def lost(self) -> list[tuple[Instance, tuple[str, ...]]]:
        """The instances that lack readings now and were judged since the start, with what they lack."""
        return [(instance, lacks) for instance, lacks in self.lacking.items() if instance in self._judged]

    def never(self) -> list[tuple[Instance, tuple[str, ...]]]:
        """The instances that have lacked a reading ever since the start: most often there is no such reading here."""
        return [(instance, lacks) for instance, lacks in self.lacking.items() if instance not in self._judged]

    def _begin(self) -> None:
        """Begin a round: forget what is gone."""
        there = self._engine.hot.instances()
        self._left.extend(there)
        if len(self.seen) > len(there):
            kept = set(there)
            for instance in [instance for instance in self.seen if instance not in kept]:
                self._forget(instance)

    def _close(self) -> list[Instance]:
        """What moves or is about to: looked at in each walk, the longest unseen first."""
        return heapq.nsmallest(CLOSE_MAX, self._near, key=lambda instance: (self.seen[instance].at, instance)) if self._left else []

    def _look(self, instance: Instance, at: int) -> None:
        runbook, entity = instance
        turn = self._engine.look(at)
        book = turn.current(runbook)
        if book is None or book.stage == "disabled" or not turn.hot.knows(book.scope, entity):
            self._forget(instance)
            return
        glimpse = self.seen[instance] = self._glimpse(book, entity, turn.at)
        if not glimpse.lacks:
            self._judged.add(instance)
        _put(self.lacking, instance, glimpse.lacks)
        _put(self.unsure, instance, glimpse.guards)
        if glimpse.state != "inactive":
            self.moving[instance] = glimpse
        else:
            self.moving.pop(instance, None)
        if glimpse.state != "inactive" or glimpse.near <= NEAR:
            self._near.add(instance)
        else:
            self._near.discard(instance)

    def _forget(self, instance: Instance) -> None:
        for kept in (self.seen, self.lacking, self.unsure, self.moving):
            kept.pop(instance, None)
        self._near.discard(instance)
        self._judged.discard(instance)

    def _glimpse(self, book: Runbook, entity: str, at: int) -> Glimpse:
        hot = self._engine.hot
        state = hot.state(book.id, entity, lacking=False)
        when = hot.trace(book.id, book.trigger.when.index, entity, at)
        asked = when
        if state.status in ("firing", "clearing") and book.trigger.until is not None:
            asked = hot.trace(book.id, book.trigger.until.index, entity, at)
        guards = tuple(guard.text for guard in book.guards if hot.value(book.id, guard.index, entity, at) == UNKNOWN)
        found = [item for leaf in lacking(when) if (item := comparison(leaf)) is not None]
        near = nearness(when)
        binding = max(found, key=lambda item: item.nearness) if found and near < float("inf") else None
        return Glimpse(
            at=at, state=state.status, held_ns=state.held_ns, lacks=unknown_signals(asked), guards=guards, near=near, binding=binding
        )


def _put(kept: dict[Instance, tuple[str, ...]], instance: Instance, names: tuple[str, ...]) -> None:
    if names:
        kept[instance] = names
    else:
        kept.pop(instance, None)


def unknown_signals(tree: Tree) -> tuple[str, ...]:
    """Names of the signals in a condition's text that are UNKNOWN, in order of appearance; as `hot.unknown` has them."""
    found: dict[str, None] = {}

    def visit(node: Mapping[str, object]) -> None:
        if node["role"] in ("reading", "derived") and (node["value"] is None or (node["unit"] == "truth" and node["value"] == UNKNOWN)):
            found[str(node["signal"])] = None
        elif node["role"] != "derived":
            kids = node["kids"]
            assert isinstance(kids, Sequence)
            for kid in kids:
                visit(kid)

    visit(tree)
    return tuple(found)


def describe_lacking(lacking: Sequence[tuple[Instance, tuple[str, ...]]]) -> list[dict[str, object]]:
    """Instances and what they lack, as a status page has them."""
    return [{"runbook": runbook, "entity": entity, "lacks": lacks} for (runbook, entity), lacks in lacking[:TOLD_MAX]]


def stale(glimpse: Glimpse, at: int) -> bool:
    """True when a glimpse is so old that nobody should be told of it as of now."""
    return at - glimpse.at > MINUTE_NS
