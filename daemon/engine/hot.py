"""The hot side (floor 4): rows in, edges out. Owns slots, windows and triggers; runs the generated programs as plain Python.

`take(rows, at)` is one instant: every slot first, then windows, then each touched instance once, in instance order. The cold side
reads values and traces and never writes here, except through `link`, `gap`, `mute` and `restore`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import CodeType
from typing import Literal, cast

from daemon.engine.arenas import SIZE_SLOT, Arenas
from daemon.engine.checkpoint import freeze, thaw
from daemon.engine.edge import Edge, Plan, Reading, TriggerState
from daemon.engine.events import Row
from daemon.engine.layout import PUSH_ORDER, Layout
from daemon.engine.placed import Placed, Unplaced
from daemon.language.catalogue import CATALOGUE, MAX_SKEW_FLOOR_NS, Signal
from daemon.language.dimension import of_unit
from daemon.language.kernels import CLEARED, FIRED, GONE, REFIRED
from daemon.language.labels import matches
from daemon.language.slots import BLOCK, CAME, GLOBAL, GROW, LINKS, PLACES, SAMPLED, seen_cell
from daemon.language.terms import Apply, Derived, Elsewhere, Over, Read, Stateful, Term, Window
from daemon.language.typing import Typed, derivation
from daemon.runbook.compile import Function, Program, compile_expression, compile_runbook
from daemon.runbook.emit import Node, Number
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, MINUTE_NS, NEVER
from daemon.world.entities import Entity, Kind, Topology

NAN = float("nan")
RESET_AFTER_NS = 5 * MINUTE_NS  # a downtime longer than max(for, this) resets a pending hold
GIVEN_MAX_AGE_NS = MINUTE_NS  # staleness bound of a derived signal that a source observes
STATUSES = ("inactive", "pending", "firing", "clearing")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sources:
    """What is known of the sources: how long a recorded value holds, how often a reading comes, and derived signals that are observed."""

    holds: Mapping[tuple[Kind, str], int] = field(default_factory=dict)
    cadence: Mapping[tuple[Kind, str], int] = field(default_factory=dict)
    given: frozenset[tuple[Kind, str]] = frozenset()


@dataclass(slots=True)
class Linked:
    """A program with its functions and constants, ready to be called."""

    program: Program
    namespace: dict[str, Callable[..., float]]
    K: list[float]
    N: list[int]
    B: list[int]
    calls: dict[tuple[str, int], Callable[..., float]] = field(default_factory=dict)


@dataclass(slots=True)
class Instance:
    """One runbook on one entity, bound to its rows."""

    order: tuple[int, int]
    runbook: str
    entity: str
    kind: Kind
    row: int
    ints: list[int]
    q: int
    observe: Callable[[int], int]
    linked: Linked


@dataclass(slots=True)
class _Touched:
    """What a row's observation moves: push units and instances in order, and the rows whose rings may have to grow after it."""

    units: list[tuple[tuple[int, int], Callable[[int], None]]] = field(default_factory=list)
    instances: list[Instance] = field(default_factory=list)
    calls: list[tuple[Callable[[int], int], Instance]] = field(default_factory=list)
    grown: list[tuple[list[int], Kind, int]] = field(default_factory=list)


@dataclass(slots=True)
class _Loaded:
    """A runbook in force."""

    runbook: Runbook
    q: int
    linked: Linked


@functools.lru_cache(maxsize=512)
def _code(source: str, name: str) -> CodeType:
    return compile(source, name, "exec")


def _execute(source: str, name: str) -> dict[str, Callable[..., float]]:
    namespace: dict[str, Callable[..., float]] = {}
    exec(_code(source, name), namespace)  # our own generated text
    return namespace


class Hot:
    """The state of the generated program."""

    def __init__(self, topology: Topology, sources: Sources | None = None) -> None:
        self.sources = sources or Sources()
        self.layout = Layout(self.sources.given)
        self.arenas = Arenas(topology, self.layout)
        self.now = NEVER  # the last instant that was evaluated
        self.next_due = FOREVER  # a LOWER bound of all hot dues
        self.loaded: dict[str, _Loaded] = {}
        self.watched_rows: frozenset[tuple[Kind, int]] = frozenset()
        self._muted = False
        self._instances: list[Instance] = []
        self._by_key: dict[tuple[str, str], Instance] = {}
        self._touch: dict[tuple[Kind, int], _Touched] = {}
        self._pushers: dict[Kind, list[tuple[Function, Callable[..., None]]]] = {}
        self._pushed_version = -1
        self._push_constants: tuple[list[float], list[int], list[int]] = ([], [], [])
        self._readers: dict[tuple[Kind, str], Linked] = {}
        self._peeks: dict[tuple[Kind, str, str], Linked | None] = {}  # None: not while the layout is of `_peeked_version`
        self._peeked_version = -1
        self._bound_floor = FOREVER

    # --- linking ----------------------------------------------------------------------------------------------------------
    def link(self, runbooks: Sequence[Runbook]) -> list[tuple[str, str, str]]:
        """Put a set of runbooks in force; `(runbook, entity, reason)` of the instances whose logic changed and that start anew."""
        restarted: list[tuple[str, str, str]] = []
        fresh: dict[str, _Loaded] = {}
        for runbook in sorted(runbooks, key=lambda r: r.id):
            if runbook.stage == "disabled":
                continue
            before = self.loaded.get(runbook.id)
            if before is not None and before.runbook.digest == runbook.digest:
                fresh[runbook.id] = before
                continue
            if before is not None and before.runbook.logic_digest != runbook.logic_digest:
                for instance in self._instances:
                    if instance.runbook == runbook.id and instance.ints[instance.q]:
                        restarted.append((runbook.id, instance.entity, "the runbook's logic changed"))
                        instance.ints[instance.q : instance.q + 6] = [0, 0, 0, -1, FOREVER, 0]
            q = self.layout.trigger(runbook.scope, f"{runbook.id} {runbook.logic_digest}")
            program = compile_runbook(runbook, self.layout, self.sources.given, q)
            fresh[runbook.id] = _Loaded(runbook, q, self._link(program))
        for gone in set(self.loaded) - set(fresh):
            for instance in self._instances:
                if instance.runbook == gone and instance.ints[instance.q]:
                    restarted.append((gone, instance.entity, "the runbook was removed"))
                    instance.ints[instance.q : instance.q + 6] = [0, 0, 0, -1, FOREVER, 0]
        self.loaded = fresh
        for held in fresh.values():
            if any(step.kind == "move_buffer" for step in held.runbook.all_steps()):
                # What sizes a move is read by the engine itself: its windows must be warm by then.
                self._reader(Kind.ACCOUNT, "time_to_liquidation", held.runbook.max_age)
                self._reader(Kind.ROUTE, "route_eta_p95", held.runbook.max_age)
        self._relink()
        return restarted

    def _link(self, program: Program) -> Linked:
        namespace = _execute(program.source, f"<runbook {program.runbook or 'expression'}>")
        return Linked(program, namespace, list(program.floats), [self._number(n) for n in program.numbers], self._bounds(program.max_age))

    def _number(self, number: Number) -> int:
        what, detail, value = number
        if what == "ns":
            assert isinstance(value, int)
            return value
        if what == "name":
            return self.arenas.intern(str(detail))
        if what == "row":
            assert isinstance(detail, Kind)
            return self.arenas.row(detail, str(value))
        signals = detail
        assert isinstance(signals, tuple)
        return max(MAX_SKEW_FLOOR_NS, *(max(self.sources.holds.get(s, 0), self.sources.cadence.get(s, 0)) for s in signals))

    def _bounds(self, max_age: Mapping[str, int]) -> list[int]:
        bounds = []
        for key in GLOBAL:
            signal = CATALOGUE[key]
            bound = max_age.get(signal.name, signal.max_age_ns if signal.role == "observed" else GIVEN_MAX_AGE_NS)
            bounds.append(min(max(bound, self.sources.holds.get(key, 0)), FOREVER - 1))
        return bounds

    def _objects(self, arguments: Iterable[str], kind: Kind, number: int) -> list[object]:
        """What a generated function takes before its constants: `F0 I0 T0 V0` the row itself, `F_market I_market r_market` a related
        row and its number, `market_F` an arena, `positions_of_account` a member list."""
        found: list[object] = []
        for name in arguments:
            head, _, tail = name.partition("_")
            if head in ("F0", "I0", "T0", "V0"):
                found.append(getattr(self.arenas.kinds[kind], head[0])[number])
            elif head in ("F", "I", "r"):
                at = (kind, number)
                for relation in tail.split("_"):
                    at = self._follow(*at, relation)
                found.append(at[1] if head == "r" else getattr(self.arenas.kinds[at[0]], head)[at[1]])
            elif tail in ("F", "I"):
                found.append(getattr(self.arenas.kinds[Kind(head)], tail))
            else:
                found.append(self.arenas.want(name))
        return found

    def _relink(self) -> None:
        """Bring rows, pushers, instances and the map of who touches whom up to date."""
        if self.layout.version != self._pushed_version:
            source, functions, floats, numbers = self.layout.pushers()
            namespace = _execute(source, "<windows>")
            self._pushers = {kind: [(f, namespace[f.name]) for f in found] for kind, found in functions.items()}  # type: ignore[misc]
            bounds = self._bounds({}) + [max(bound, self.sources.holds.get(list(GLOBAL)[g], 0)) for g, bound in self.layout.bounds]
            self._push_constants = (list(floats), [self._number(n) for n in numbers], bounds)
            self._pushed_version = self.layout.version
        for kind, arena in self.arenas.kinds.items():
            wanted_f, wanted_i = len(self.layout.floats[kind]), len(self.layout.ints[kind])
            for number in range(len(arena.ids)):
                if len(arena.F[number]) != wanted_f or len(arena.I[number]) != wanted_i:
                    self.arenas.lengthen(kind, number)
        self.arenas.refill()
        self.arenas.changed = False
        self._make_instances()
        self._make_touch()
        bounds_used = [min(held.linked.B) for held in self.loaded.values()]
        self._bound_floor = min(bounds_used, default=FOREVER)

    def _make_instances(self) -> None:
        before = self._by_key
        self._instances, self._by_key = [], {}
        for rank, (name, held) in enumerate(sorted(self.loaded.items())):
            arena = self.arenas.kinds[held.runbook.scope]
            for entity in sorted(arena.rows):
                number = arena.rows[entity]
                if number == 0 or not self._meant(held.runbook, number):
                    continue
                known = before.get((name, entity))
                if known is not None and known.q == held.q and known.linked is held.linked:
                    known.order = (rank, len(self._instances))
                    instance = known
                else:
                    instance = self._instance(held, (rank, len(self._instances)), entity, number)
                self._instances.append(instance)
                self._by_key[name, entity] = instance

    def _instance(self, held: _Loaded, order: tuple[int, int], entity: str, number: int) -> Instance:
        linked, kind = held.linked, held.runbook.scope
        objects = self._objects(linked.program.functions["observe"].arguments, kind, number)
        observe = cast("Callable[..., int]", linked.namespace["observe"])
        bound = functools.partial(observe, *objects, linked.K, linked.N, linked.B, (), (), self.arenas.scratch, number)
        return Instance(order, held.runbook.id, entity, kind, number, self.arenas.kinds[kind].I[number], held.q, bound, linked)

    def _meant(self, runbook: Runbook, number: int) -> bool:
        return runbook.where is None or matches(runbook.where.node, self.arenas.kinds[runbook.scope].entities[number].labels)

    def _make_touch(self) -> None:
        touch: dict[tuple[Kind, int], _Touched] = {}
        for instance in self._instances:
            reads = {(instance.kind, instance.row)}
            for term in self.loaded[instance.runbook].linked.program.terms:
                self._reads(term, instance.kind, instance.row, reads)
            for key in reads:
                touch.setdefault(key, _Touched()).instances.append(instance)
        K, N, B = self._push_constants
        for rank, kind in enumerate(PUSH_ORDER):
            if not self._pushers.get(kind):
                continue
            terms = [s.argument for s in self.layout.series[kind].values()] + [a.term for a in self.layout.accumulators[kind].values()]
            for number in range(1, len(self.arenas.kinds[kind].ids)):
                reads = set()
                for term in terms:
                    self._reads(term, kind, number, reads)
                units = [
                    (
                        (rank, number * 16 + n),
                        functools.partial(fn, *self._objects(f.arguments, kind, number), K, N, B, (), (), self.arenas.scratch, number),
                    )
                    for n, (f, fn) in enumerate(self._pushers[kind])
                ]
                for key in reads:
                    entry = touch.setdefault(key, _Touched())
                    entry.units += units
                    entry.grown.append((self.arenas.kinds[kind].I[number], kind, number))
        for entry in touch.values():
            entry.units.sort(key=lambda item: item[0])
            entry.instances.sort(key=lambda instance: instance.order)
            entry.calls = [(instance.observe, instance) for instance in entry.instances]
        self._touch = touch

    def _reads(self, term: Term, kind: Kind, number: int, found: set[tuple[Kind, int]]) -> None:
        """Every row a term reads, seen from a row."""
        match term:
            case Read():
                found.add(self._follow(kind, number, term.relation))
            case Derived():
                at = self._follow(kind, number, term.relation)
                if (term.kind, term.signal) in self.sources.given:
                    found.add(at)
                else:
                    self._reads(term.body, *at, found)
            case Apply(function="valued"):
                found.add((kind, number))
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                for argument in arguments:
                    self._reads(argument, kind, number, found)
            case Window(argument=argument):
                self._reads(argument, kind, number, found)
            case Over():
                origin = self._follow(kind, number, "market") if term.members == "peers" and kind is not Kind.MARKET else (kind, number)
                for member in self.arenas.of(term.members, *origin):
                    found.add((term.kind, member))
                    self._reads(term.body, term.kind, member, found)
                if term.own is not None:
                    self._reads(term.own, kind, number, found)
            case Elsewhere():
                self._reads(term.body, term.kind, self.arenas.row(term.kind, term.entity), found)
            case _:
                pass
        found.discard((kind, 0))

    def _follow(self, kind: Kind, number: int, relation: str) -> tuple[Kind, int]:
        if relation == "":
            return kind, number
        target = Kind.CHAIN if relation in ("from", "to") else Kind(relation)
        return target, 1 if target is Kind.PORTFOLIO else self.arenas.kinds[kind].I[number][LINKS[relation]]

    def relink(self) -> None:
        """Bring everything up to date after rows came or changed hands outside of `take`."""
        self.arenas.changed = True
        self._relink()

    def tighten(self) -> None:
        """Make `next_due` the least of all dues."""
        self.next_due = min((i.ints[i.q + 4] for i in self._instances), default=FOREVER)

    # --- one instant ------------------------------------------------------------------------------------------------------
    def take(self, rows: Sequence[Row], at: int, history: bool = False) -> list[Edge]:
        """Ingest one batch and evaluate what it touches; history rows enter windows only, each at its own time."""
        if history:
            self._take_history(rows)
            return []
        touched: dict[tuple[Kind, int], None] = {}
        for row in rows:
            number = self._ingest(row, at, at if row.event_ts is None else row.event_ts)
            touched[row.kind, number] = None
            if row.kind is Kind.VENUE and "block_age" in row.values:
                touched |= dict.fromkeys(self._block(number))
        return self._evaluate(touched, at)

    def evaluate(self, touched: Mapping[tuple[Kind, int], None], at: int) -> list[Edge]:
        """Windows and verdicts of an instant whose rows are in their slots already (a replay's column blocks)."""
        if any(kind is Kind.VENUE for kind, _ in touched):
            more = dict(touched)
            for kind, number in touched:
                if kind is Kind.VENUE:
                    more |= dict.fromkeys(self._block(number))
            touched = more
        return self._evaluate(touched, at)

    def _ingest(self, row: Row, at: int, event: int) -> int:
        """Put the readings of a row into its slots; the number of the row. What the catalogue does not know is left out."""
        arena = self.arenas.kinds[row.kind]
        number = arena.rows.get(row.entity) or self.arenas.row(row.kind, row.entity)
        floats, ints, places = arena.F[number], arena.I[number], PLACES[row.kind]
        for signal, value in row.values.items():
            place = places.get(signal)
            if place is None:
                continue
            k, cell = place
            seen = ints[cell]
            ints[cell + CAME] = at
            if event > seen or seen == FOREVER:
                ints[cell] = event
                ints[cell + SAMPLED] = at
            elif event < seen:
                continue  # older than what is held: a late answer never overwrites a newer one
            if k == SIZE_SLOT and row.kind is Kind.POSITION and (seen == NEVER or (floats[k] != 0.0) != (value != 0.0)):
                self.arenas.changed = True
            floats[k] = value
        return number

    def _block(self, venue: int) -> list[tuple[Kind, int]]:
        """Carry a venue's block_age to its rows; the rows whose readings it may have made UNKNOWN, or known again."""
        age = self.arenas.block(venue)
        found = []
        self.arenas.kinds[Kind.VENUE].I[venue][BLOCK] = age
        for kind in (Kind.MARKET, Kind.POSITION, Kind.ACCOUNT):
            for number, ints in enumerate(self.arenas.kinds[kind].I):
                if ints[LINKS["venue"]] == venue and ints[BLOCK] != age:
                    if max(ints[BLOCK], age) > self._bound_floor:
                        found.append((kind, number))
                    ints[BLOCK] = age
        return found

    def _take_history(self, rows: Sequence[Row]) -> None:
        if self.arenas.changed:
            self._relink()
        for row in sorted(rows, key=lambda r: r.event_ts or 0):
            event = row.event_ts
            if event is None:
                continue
            number = self.arenas.row(row.kind, row.entity)
            if self.arenas.changed:
                self._relink()
            places, ints = PLACES[row.kind], self.arenas.kinds[row.kind].I[number]
            fresh = {s: v for s, v in row.values.items() if s in places and ints[places[s][1]] < event}
            if fresh:
                self._ingest(replace(row, values=fresh), event, event)
                self._push({(row.kind, number): None}, event)

    def _push(self, touched: Mapping[tuple[Kind, int], None], at: int) -> None:
        """Samples and windows of an instant, in order of kind."""
        entries = [self._touch[key] for key in touched if key in self._touch]
        if len(entries) == 1:
            for _, unit in entries[0].units:
                unit(at)
        else:
            units: dict[tuple[int, int], Callable[[int], None]] = {}
            for entry in entries:
                units.update(entry.units)
            for order in sorted(units):
                units[order](at)
        for entry in entries:
            for ints, kind, number in entry.grown:
                if ints[GROW]:
                    self.arenas.grow(kind, number)

    def _evaluate(self, touched: Mapping[tuple[Kind, int], None], at: int) -> list[Edge]:
        if self.arenas.changed:
            self._relink()
        if len(touched) == 1:
            return self.evaluate_row(next(iter(touched)), at)
        self.now = at
        self._push(touched, at)
        found: dict[tuple[int, int], Instance] = {}
        for key in touched:
            entry = self._touch.get(key)
            if entry is not None:
                for instance in entry.instances:
                    found[instance.order] = instance
        edges: list[Edge] = []
        for order in sorted(found):
            code = found[order].observe(at)
            if code:
                self._moved(found[order], code, at, edges)
        return edges

    def evaluate_row(self, key: tuple[Kind, int], at: int) -> list[Edge]:
        """As `evaluate`, for an instant with one row that is no venue's."""
        if self.arenas.changed:
            self._relink()
        self.now = at
        entry = self._touch.get(key)
        edges: list[Edge] = []
        if entry is None:
            return edges
        for _, unit in entry.units:
            unit(at)
        for ints, kind, number in entry.grown:
            if ints[GROW]:
                self.arenas.grow(kind, number)
        for observe, instance in entry.calls:
            code = observe(at)
            if code:
                self._moved(instance, code, at, edges)
        return edges

    def _moved(self, instance: Instance, code: int, at: int, edges: list[Edge]) -> None:
        """A trigger moved: its due may be the least, and it may have crossed an edge."""
        due = instance.ints[instance.q + 4]
        if due < self.next_due:
            self.next_due = due
        if code & 7:
            self._edge(instance, code & 7, at, edges)

    def _edge(self, instance: Instance, code: int, at: int, edges: list[Edge]) -> None:
        if self._muted:
            return
        ints, q = instance.ints, instance.q

        def add(change: Literal["fired", "cleared", "gone"]) -> None:
            edges.append(
                Edge(at=at, runbook=instance.runbook, entity=instance.entity, change=change, pending_at=ints[q + 1], fired_at=ints[q + 5])
            )

        match code:
            case _ if code == FIRED:
                add("fired")
            case _ if code == CLEARED:
                add("cleared")
            case _ if code == GONE:
                add("gone")
            case _:
                assert code == REFIRED
                add("cleared")
                add("fired")

    def fire_due(self, limit: int) -> tuple[int, list[Edge]]:
        """Evaluate everything hot that is due at the least due time d <= limit, AT d: `(d, edges)`; `(limit, [])` when nothing is."""
        if self.next_due > limit:
            return limit, []
        if self.arenas.changed:
            self._relink()
        exact = min((i.ints[i.q + 4] for i in self._instances), default=FOREVER)
        self.next_due = exact
        if exact > limit:
            return limit, []
        edges: list[Edge] = []
        self.now = exact
        for instance in self._instances:
            if instance.ints[instance.q + 4] == exact:
                code = instance.observe(exact)
                if instance.ints[instance.q + 4] <= exact:
                    instance.ints[instance.q + 4] = FOREVER
                if code & 7:
                    self._edge(instance, code & 7, exact, edges)
        self.tighten()
        return exact, edges

    def gap(self, at: int, since: int, reset: bool = True) -> list[tuple[str, str]]:
        """Time nobody watched: holds count up to `since` only and go on when next known TRUE; the pending instances it reset."""
        resets = []
        for instance in self._instances:
            ints, q = instance.ints, instance.q
            counting = ints[q + 3]
            if counting >= 0:
                ints[q + 2] += max(0, min(since, at) - counting)
                ints[q + 3] = -1
            if ints[q] == 1 and reset and at - since > max(self.loaded[instance.runbook].runbook.trigger.for_ns, RESET_AFTER_NS):
                ints[q], ints[q + 2] = 0, 0
                resets.append((instance.runbook, instance.entity))
            if ints[q] or ints[q + 4] != FOREVER:
                ints[q + 4] = at
                self.next_due = min(self.next_due, at)
        return resets

    # --- reading ----------------------------------------------------------------------------------------------------------
    def _call(self, held: Linked, name: str, number: int) -> Callable[..., float]:
        key = (name, number)
        if key not in held.calls:
            objects = self._objects(held.program.functions[name].arguments, held.program.scope, number)
            held.calls[key] = functools.partial(held.namespace[name], *objects, held.K, held.N, held.B)
        return held.calls[key]

    def _run(
        self, held: Linked, name: str, number: int, at: int, start: Mapping[str, float] | None, plan: Plan | None
    ) -> float | tuple[float, ...]:
        if self.arenas.changed:
            self._relink()
        frame = [NAN] * len(held.program.saved)
        for key, value in (start or {}).items():
            if key in held.program.saved:
                frame[held.program.saved[key]] = value
        names = (plan.notional_change, plan.amount, plan.fee_estimate) if plan else (NAN, NAN, NAN)
        return self._call(held, name, number)(frame, names, self.arenas.scratch, number, at)

    def _held(self, runbook: Runbook | str) -> tuple[Linked, Kind]:
        """The linked program of a runbook id in force, or of a runbook object that is not (a run that finishes on its own version)."""
        if isinstance(runbook, str):
            return self.loaded[runbook].linked, self.loaded[runbook].runbook.scope
        held = self.loaded.get(runbook.id)
        if held is not None and held.runbook.digest == runbook.digest:
            return held.linked, runbook.scope
        key = (runbook.scope, f"runbook {runbook.digest}")
        if key not in self._readers:
            q = self.layout.trigger(runbook.scope, f"{runbook.id} {runbook.logic_digest}")
            self._readers[key] = self._link(compile_runbook(runbook, self.layout, self.sources.given, q))
            self._relink()
        return self._readers[key], runbook.scope

    def value(
        self, runbook: Runbook | str, index: int, entity: str, at: int, start: Mapping[str, float] | None = None, plan: Plan | None = None
    ) -> float:
        """Value of expression `index` of a runbook on an entity: NaN unknown; a condition is 0.0 FALSE, 1.0 UNKNOWN, 2.0 TRUE."""
        held, scope = self._held(runbook)
        number = self.arenas.row(scope, entity)
        value = self._run(held, f"value_{index}", number, at, start, plan)
        assert not isinstance(value, tuple)
        return float(value)

    def trace(
        self, runbook: Runbook | str, index: int, entity: str, at: int, start: Mapping[str, float] | None = None, plan: Plan | None = None
    ) -> dict[str, object]:
        """The same evaluation with everything it used, as a JSON-able tree: text, value, unit, role, age in seconds, kids."""
        held, scope = self._held(runbook)
        number = self.arenas.row(scope, entity)
        values = self._run(held, f"trace_{index}", number, at, start, plan)
        assert isinstance(values, tuple)
        return _tree(held.program.nodes[index], values)

    def unknown(self, runbook: Runbook | str, index: int, entity: str, at: int) -> tuple[str, ...]:
        """Names of the signals in an expression's text that are UNKNOWN now, in order of appearance."""
        found: dict[str, None] = {}

        def visit(node: Mapping[str, object]) -> None:
            if node["role"] in ("reading", "derived") and (node["value"] is None or (node["unit"] == "truth" and node["value"] == 1.0)):
                found[str(node["signal"])] = None
            elif node["role"] != "derived":
                for kid in node["kids"]:  # type: ignore[attr-defined]
                    visit(kid)

        visit(self.trace(runbook, index, entity, at))
        return tuple(found)

    def start_frame(self, runbook: Runbook | str, entity: str, at: int) -> dict[str, float]:
        """Values of every `name@start` the runbook uses."""
        held, scope = self._held(runbook)
        number = self.arenas.row(scope, entity)
        frame: dict[str, float] = {}
        for name, j in held.program.saved.items():
            value = self._run(held, f"saved_{j}", number, at, None, None)
            assert not isinstance(value, tuple)
            frame[name] = float(value)
        return frame

    def read(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> Reading:
        """A signal of an entity, observed or derived; NaN when unknown, stale or never seen. Signals with arguments have no plain name."""
        found: Signal = CATALOGUE[kind, signal]
        number = self.arenas.kinds[kind].rows.get(entity)
        if number is None:
            return Reading(value=NAN, unit=found.unit, age_ns=FOREVER, known=False)
        return self._reading(self._reader(kind, signal, max_age), found, number, at)

    def _reading(self, reader: Linked, found: Signal, number: int, at: int) -> Reading:
        values = self._run(reader, "trace_0", number, at, None, None)
        assert isinstance(values, tuple)
        tree = _tree(reader.program.nodes[0], values)
        value = values[0]
        if found.unit == "bool":
            value = (0.0, NAN, 1.0)[int(value)]
        ages = _ages(tree)
        return Reading(value=value, unit=found.unit, age_ns=int(min(max(ages, default=0.0), 1e9) * 1e9), known=value == value)

    # --- looking without touching -------------------------------------------------------------------------------------------
    def knows(self, kind: Kind, entity: str) -> bool:
        """True when an entity of that kind was named so far; asking names none."""
        return entity in self.arenas.kinds[kind].rows

    def seen(self, kind: Kind, entity: str) -> Entity | None:
        """An entity that was named so far, with its labels and links; None for any other."""
        arena = self.arenas.kinds[kind]
        number = arena.rows.get(entity)
        return None if number is None else arena.entities[number]

    def peek(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> Reading:
        """As `read`, for whoever only looks: no entity and no window comes of it. A signal over windows that nothing in force has placed
        is unknown."""
        found: Signal = CATALOGUE[kind, signal]
        number = self.arenas.kinds[kind].rows.get(entity)
        reader = self._peeker(kind, signal, max_age) if number is not None else None
        if number is None or reader is None:
            return Reading(value=NAN, unit=found.unit, age_ns=FOREVER, known=False)
        return self._reading(reader, found, number, at)

    def prepare(self, kind: Kind, signal: str) -> None:
        """Compile what looks at a signal, so that no later `peek` pays for it (a few milliseconds)."""
        self._peeker(kind, signal, None)

    def glance(self, kind: Kind, entity: str, signal: str, at: int, max_age: Mapping[str, int] | None = None) -> float:
        """The value alone of a `peek` (a bool is 1.0 or 0.0; NaN unknown), at a tenth of its cost."""
        number = self.arenas.kinds[kind].rows.get(entity)
        reader = self._peeker(kind, signal, max_age) if number is not None else None
        if number is None or reader is None:
            return NAN
        value = self._run(reader, "value_0", number, at, None, None)
        assert not isinstance(value, tuple)
        return (0.0, NAN, 1.0)[int(value)] if CATALOGUE[kind, signal].unit == "bool" else float(value)

    def true_at(self, kind: Kind, entity: str, signal: str) -> int:
        """When a reading was true by its source's own time: NEVER when none came, FOREVER for what holds for ever."""
        number = self.arenas.kinds[kind].rows.get(entity)
        return NEVER if number is None else self.arenas.kinds[kind].I[number][seen_cell(kind, signal)]

    def _peeker(self, kind: Kind, signal: str, max_age: Mapping[str, int] | None) -> Linked | None:
        if self._peeked_version != self.layout.version:
            # Windows came: what was unknown for want of them may be known now.
            self._peeks = {key: held for key, held in self._peeks.items() if held is not None}
            self._peeked_version = self.layout.version
        key = (kind, signal, repr(sorted(max_age.items())) if max_age else "")
        if key not in self._peeks:
            term = _signal_term(kind, CATALOGUE[kind, signal])
            try:
                program = compile_expression(Typed(term, signal), kind, Placed(self.layout), self.sources.given, max_age or {})
            except Unplaced:
                self._peeks[key] = None
            else:
                self._peeks[key] = self._link(program)
        return self._peeks[key]

    def _reader(self, kind: Kind, signal: str, max_age: Mapping[str, int] | None) -> Linked:
        """The program that reads a signal; what it needs takes its place when it is first asked for."""
        key = (kind, signal + repr(sorted(max_age.items())) if max_age else signal)
        if key not in self._readers:
            term = _signal_term(kind, CATALOGUE[kind, signal])
            program = compile_expression(Typed(term, signal), kind, self.layout, self.sources.given, max_age or {})
            self._readers[key] = self._link(program)
            self._relink()
        return self._readers[key]

    def expression(self, typed: Typed, kind: Kind, entity: str) -> Callable[[int], float]:
        """A function of `at` that gives the value of a free expression on an entity (conditions 0 FALSE, 1 UNKNOWN, 2 TRUE); its windows
        see what is taken from now on."""
        program = compile_expression(typed, kind, self.layout, self.sources.given, {})
        held = self._link(program)
        number = self.arenas.row(kind, entity)
        self._readers[kind, f"expression {len(self._readers)}"] = held
        self._relink()
        call = self._call(held, "value_0", number)
        scratch = self.arenas.scratch
        return lambda at: call((), (), scratch, number, at)

    def state(self, runbook: str, entity: str, *, lacking: bool = True) -> TriggerState:
        """Where the trigger of an instance stands; `lacking` False leaves out which readings it lacks, which costs an evaluation."""
        instance = self._by_key.get((runbook, entity))
        if instance is None:
            return TriggerState(status="inactive", pending_at=0, fired_at=0, held_ns=0)
        ints, q = instance.ints, instance.q
        trigger = self.loaded[runbook].runbook.trigger
        asked = trigger.until or trigger.when if ints[q] >= 2 else trigger.when
        return TriggerState(
            status=STATUSES[ints[q]],
            pending_at=ints[q + 1],
            fired_at=ints[q + 5],
            held_ns=ints[q + 2] + (self.now - ints[q + 3] if ints[q + 3] >= 0 else 0),
            unknown=self.unknown(runbook, asked.index, entity, self.now) if lacking else (),
        )

    def instances(self, runbook: str | None = None) -> list[tuple[str, str]]:
        """The instances there are now; a position without size has none."""
        if self.arenas.changed:
            self._relink()
        return [
            (i.runbook, i.entity)
            for i in self._instances
            if (runbook is None or i.runbook == runbook) and (i.kind is not Kind.POSITION or self.arenas.alive(i.row))
        ]

    def has(self, runbook: str, entity: str) -> bool:
        """True while there is this instance; as `instances`, for one of thousands."""
        found = self._by_key.get((runbook, entity))
        return found is not None and (found.kind is not Kind.POSITION or self.arenas.alive(found.row))

    def entities(self, kind: Kind) -> list[str]:
        """Every entity of a kind that was named so far."""
        return self.arenas.kinds[kind].ids[1:]

    def entity(self, kind: Kind, entity: str) -> Entity:
        """An entity with its labels and links."""
        return self.arenas.kinds[kind].entities[self.arenas.row(kind, entity)]

    def members(self, kind: Kind, of: str, which: str = "positions") -> list[str]:
        """Ids of a set as seen from an entity: open positions of an account, accounts of the portfolio, peers of a market."""
        target = {
            "peers": Kind.MARKET,
            "markets": Kind.MARKET,
            "positions": Kind.POSITION,
            "accounts": Kind.ACCOUNT,
            "chains": Kind.CHAIN,
            "routes": Kind.ROUTE,
        }[which]
        ids = self.arenas.kinds[target].ids
        return [ids[i] for i in self.arenas.of(which, kind, self.arenas.row(kind, of))]

    def seen_at(self, kind: Kind, entity: str, signal: str) -> int:
        """When a reading of that signal last arrived; NEVER when none did."""
        number = self.arenas.kinds[kind].rows.get(entity)
        return NEVER if number is None else self.arenas.kinds[kind].I[number][seen_cell(kind, signal) + CAME]

    def checkpoint(self) -> dict[str, bytes]:
        """Rows of every kind as blobs by name (`checkpoint.py`)."""
        return freeze(self.arenas, self.now)

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        """Take the rows of a checkpoint; the runbooks are linked before."""
        self.relink()
        self.now = thaw(self.arenas, blobs, self.relink)
        self.relink()
        self.tighten()

    def watch(self, entities: Iterable[tuple[Kind, str]]) -> None:
        """Batches of these entities must reach the cold side even without an edge."""
        # Looking at a name makes no entity of it: a route's end may be a chain, a venue or an account, and is one of them only.
        named = ((kind, self.arenas.kinds[kind].rows.get(entity)) for kind, entity in entities)
        self.watched_rows = frozenset((kind, number) for kind, number in named if number is not None)

    def mute(self, muted: bool) -> None:
        """While muted, batches move state and produce no edges (recovery)."""
        self._muted = muted


def _signal_term(kind: Kind, found: Signal) -> Term:
    if found.role == "observed":
        return Read(kind, "", found.name, of_unit(found.unit), found.name)
    return Derived(kind, "", found.name, derivation(kind, found.name), of_unit(found.unit), found.name)


def _ages(tree: Mapping[str, object]) -> list[float]:
    own = [float(tree["age"])] if isinstance(tree["age"], float) else []
    for kid in tree["kids"]:  # type: ignore[attr-defined]
        own += _ages(kid)
    return own


def _tree(node: Node, values: Sequence[float]) -> dict[str, object]:
    value = node.constant if node.temporary < 0 else float(values[node.temporary])
    age = float(values[node.age]) if node.age > 0 else None
    return {
        "text": node.text,
        "value": None if math.isnan(value) else value,
        "unit": node.unit,
        "role": node.role,
        "signal": node.signal,
        "age": age,
        "kids": [_tree(kid, values) for kid in node.kids],
    }
