"""Recorded history through the production engine, answered by the simulated account (floor 5); and the same rows with no engine.

    played = play(course, engine=engine, runbooks=runbooks)
    alone = play_without(course)

The rows come slice by slice, a stretch of time each: memory does not grow with the recording. Batch by batch, in the one order of the
engine: transfers that arrive and timers that are due before an instant, then the instant's
rows with what they do to the account (funding, liquidation), then fills, then timers due exactly then. Between two things that happen
to the account the batches pass it by (`tape.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import assert_never

from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.columns import Columns, Stream, instants
from daemon.engine.engine import Engine
from daemon.engine.events import Gap, Observed, Row, RunbooksLoaded
from daemon.engine.hot import Hot, Sources
from daemon.language.catalogue import CATALOGUE
from daemon.language.slots import SLOT
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec, SimulatedAccount
from daemon.simulation.columnar import ColumnHot
from daemon.simulation.curve import Track
from daemon.simulation.episodes import EpisodeLog
from daemon.simulation.history import SLICE_ROWS, History, Kept, Part, Survey
from daemon.simulation.rehearsal import SOURCE, Answer, Rehearsal
from daemon.simulation.spans import Spans
from daemon.simulation.tape import TapedAccount, TapeMark
from daemon.units import FOREVER, HOUR_NS, NEVER
from daemon.world.entities import Kind, Topology

NULL = float("inf")  # a cell that is not part of its row
ROWS_FED = 16_384  # rows an entity that the compiled execution takes at once: many enough to amortise its calls, few enough for the cache
PROGRESS_ROWS = 8_192  # how often a progress bar is told
DONE = Outcome(status="done")
REPORTED = (Kind.ACCOUNT, Kind.POSITION)  # recorded rows of these are left out: the simulated account reports itself
OWNED = {Kind.CHAIN: ("buffer_balance",), Kind.ROUTE: ("in_flight",)}  # signals that the simulated account reports itself
KIND_ORDER = {kind: index for index, kind in enumerate((Kind.CHAIN, Kind.VENUE, Kind.ACCOUNT, Kind.MARKET, Kind.POSITION, Kind.ROUTE))}


@dataclass(frozen=True, kw_only=True)
class Course:
    """What a replay runs over: a history, the account, and what the recording declares.

    The history is `history`, or `blocks` in memory (one or more a kind, sorted by ts) in slices of `slice_rows`, of which the compiled
    execution takes `rows_fed` an entity at once. `holds` is (kind, signal, venue or "*") -> ns, `intervals` venue or market id -> ns
    between fundings.
    """

    blocks: tuple[Columns, ...] = ()
    history: History | None = None
    slice_rows: int = SLICE_ROWS
    rows_fed: int = ROWS_FED
    spec: AccountSpec
    topology: Topology
    holds: Mapping[tuple[Kind, str, str], int] = field(default_factory=dict)
    intervals: Mapping[str, int] = field(default_factory=dict)
    keep_series: bool = False  # equity, margin ratio, funding and prices, thinned

    def bound_ns(self, market: str, signal: str) -> int:
        """How long a reading of a market's signal stays fresh: the larger of the catalogue's bound and the recording's hold."""
        known = CATALOGUE.get((Kind.MARKET, signal))
        bound = known.max_age_ns if known else 0
        return max(bound, self.holds.get((Kind.MARKET, signal, market.partition(":")[0]), 0), self.holds.get((Kind.MARKET, signal, "*"), 0))

    def interval_ns(self, market: str) -> int:
        """The funding interval of a market."""
        venue = market.partition(":")[0]
        return self.intervals.get(market) or self.intervals.get(venue) or HOUR_NS

    @cached_property
    def source(self) -> History:
        """The history it runs over."""
        return Kept(self.blocks, rows=self.slice_rows) if self.history is None else self.history

    @property
    def sources(self) -> Sources:
        """What the engine must know of this recording: holds (the longest of all venues) and derived signals that it holds itself."""
        holds: dict[tuple[Kind, str], int] = {}
        for (kind, signal, _), ns in self.holds.items():
            holds[kind, signal] = max(ns, holds.get((kind, signal), 0))
        recorded = {(kind, name) for kind, names in self.source.signals.items() for name in names}
        given = frozenset(key for key in recorded if key in CATALOGUE and CATALOGUE[key].role == "derived")
        return Sources(holds=holds, cadence=holds, given=given)

    def account(self, spans: Spans | None = None) -> TapedAccount:
        """A fresh account as it begins; it is handed the slices by whoever moves it. `spans` is its arithmetic, by default numpy's."""
        marks = {self.spec.market_id(position.market): self._mark(self.spec.market_id(position.market)) for position in self.spec.positions}
        account = TapedAccount(self.spec, marks=marks, spans=spans)
        account.series = Track(self.first_at, self.last_at, list(marks)) if self.keep_series else None
        return account

    def _mark(self, market: str) -> TapeMark:
        def bound(signal: str) -> int:
            return self.bound_ns(market, signal)

        return TapeMark(market, valued_at=self.spec.valued_at, bound_ns=bound, interval_ns=self.interval_ns(market))

    def slices(self) -> Iterator[tuple[Columns, ...]]:
        """All rows that are played, one stretch of time after another; at most one block a kind where they come from a recording."""
        return self.source.slices({kind: names for kind, names in self.source.signals.items() if kind not in REPORTED})

    @property
    def entities(self) -> Mapping[Kind, tuple[str, ...]]:
        """Entity ids of each kind recorded."""
        return self.source.entities

    @property
    def rows(self) -> int:
        """Distinct (ts, entity)."""
        return self.source.row_count

    @property
    def first_at(self) -> int:
        """The first instant; 0 without rows."""
        return self.source.first_at

    @property
    def last_at(self) -> int:
        """The last instant; 0 without rows."""
        return self.source.last_at

    @cached_property
    def survey(self) -> Survey:
        """What has to be known of all rows before the first is played: one pass over a few columns, taken once."""
        return Survey.of(self.source, self.spec)


class _Desk:
    """The simulated account at work: answers actions, fills orders, and says at which instant it has to be looked at again."""

    def __init__(self, course: Course, account: TapedAccount) -> None:
        self.account = account
        self.coarse = course.survey.coarse
        self.latency_ns = course.spec.latency_ns
        self.waiting: list[tuple[int, int, ShrinkPosition]] = []  # (when it fills: its market's next row, later than this, order)
        self.next_at = NEVER  # no later than the next instant at which the account changes by itself or an order fills

    def live(self, at: int) -> tuple[Row, ...]:
        """Lives through everything up to `at`, arrivals first; what the venue then reports."""
        if self.account.next_arrival() <= at:
            self.account.pass_to(at - 1)
            self.account.credit(at)
        self.account.pass_to(at)
        self._look_ahead(at)
        return self.account.changes()

    def _look_ahead(self, at: int) -> None:
        fills = min((when for when, _, _ in self.waiting if when > at), default=FOREVER)
        self.next_at = min(self.account.next_event_at(), fills)

    def extend(self, blocks: Sequence[Columns]) -> None:
        """Takes the next slice, the one before being played to its end: what lay beyond it is looked for again."""
        self.account.extend(blocks)
        beyond = [(after, order) for when, after, order in self.waiting if when == FOREVER]
        self.waiting = [item for item in self.waiting if item[0] != FOREVER]
        self.waiting += [(self.account.next_row_at(order.market, after), after, order) for after, order in beyond]
        self._look_ahead(NEVER)

    def answer(self, action: Action, at: int) -> Answer:
        """The outcome of an action, or none yet for an order that waits for its market's next row."""
        match action:
            case ShrinkPosition():
                if action.market not in self.coarse and self.account.size(action.market):
                    after = at + self.latency_ns
                    self.waiting.append((self.account.next_row_at(action.market, after), after, action))
                    self._look_ahead(at)
                    return Answer(outcome=None)
                return self.fill(action, at)
            case MoveBuffer():
                self.account.pass_to(at)
                outcome = self.account.move(action, at)
                self._look_ahead(at)
                return Answer(outcome=outcome, rows=self.account.report())
            case CancelOrders():
                return Answer(outcome=DONE, rows=self.account.report())
            case Halt() | Resume() | Notify() | CallWebhook():
                return Answer(outcome=DONE)
            case _:
                assert_never(action)

    def fill(self, order: ShrinkPosition, at: int) -> Answer:
        """The order against what is known now, and what the venue then reports."""
        self.account.pass_to(at)
        outcome = self.account.fill(order, at)
        self._look_ahead(at)
        return Answer(outcome=outcome, rows=self.account.report(order.market))

    def due(self, at: int) -> tuple[ShrinkPosition, ...]:
        """Takes the orders that fill at this instant."""
        if not self.waiting:
            return ()
        ready = tuple(order for when, _, order in self.waiting if when <= at)
        self.waiting = [item for item in self.waiting if item[0] > at]
        return ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One pass WITH the runbooks: the account as it ended and the episodes."""

    account: SimulatedAccount
    log: EpisodeLog


class Passage:
    """One pass of a recording through an engine; made (runbooks compiled), then played."""

    def __init__(self, course: Course, *, engine: Engine, runbooks: Sequence[Runbook], spans: Spans | None = None) -> None:
        """`spans`: the account's arithmetic, by default numpy's."""
        engine.load(runbooks)
        self.course = course
        self.account = course.account(spans)
        self.log = EpisodeLog(runbooks, course.topology)
        self._desk = _Desk(course, self.account)
        self._rehearsal = Rehearsal(engine, answer=self._desk.answer, take=self.log.take)
        first = course.first_at
        self._rehearsal.send(Gap(at=first, since=first, cause="start"))
        self._rehearsal.send(RunbooksLoaded(at=first, runbooks={book.path: book.digest for book in runbooks}))
        assert isinstance(engine.hot, Hot)
        self._hot = engine.hot
        self._engine = engine
        for kind in course.source.signals:
            if kind not in REPORTED:
                for entity in course.entities[kind]:
                    engine.hot.arenas.row(kind, entity)
        self._facts: tuple[Row, ...] = ()  # of the simulated venue, not yet told
        self._done = NEVER  # everything up to this time has happened

    def reload(self, runbooks: Sequence[Runbook], at: int) -> None:
        """Puts another set of runbooks in force between two stretches, the last ending at `at`."""
        if isinstance(self._hot, ColumnHot):
            self._catch_up(self._hot, at)
        self._engine.load(runbooks)
        self._rehearsal.send(RunbooksLoaded(at=at, runbooks={book.path: book.digest for book in runbooks}))

    def play(self, progress: Callable[[int], None] | None = None) -> Played:
        """Runs the whole recording; `progress` is told of rows done."""
        for _ in self.stretches(progress):
            pass
        return Played(account=self.account, log=self.log)

    def stretches(self, progress: Callable[[int], None] | None = None) -> Iterator[int]:
        """Runs the recording stretch by stretch (a slice each); gives the last instant of each."""
        account, desk = self.account, self._desk
        account.begin(self.course.first_at)
        self._facts = (*account.parameters(), *account.changes())
        for blocks in self.course.slices():
            desk.extend(blocks)
            if isinstance(self._hot, ColumnHot):
                self._play_columns(self._hot, blocks, progress)
            else:
                self._play_rows([Stream(self._hot, block, OWNED.get(block.kind, ())) for block in blocks], progress)
            yield max(int(block.ts[-1]) for block in blocks)
        account.pass_to(self.course.last_at)
        account.end(self.course.last_at)

    def _play_columns(self, hot: ColumnHot, blocks: Sequence[Columns], progress: Callable[[int], None] | None) -> None:
        """The compiled execution: from edge to edge, and to what happens to the account between them."""
        rehearsal, desk, facts, done = self._rehearsal, self._desk, self._facts, self._done
        for parts, end in cut(blocks, self.course.rows_fed):
            hot.feed(parts, end)
            while True:
                look = self.course.first_at if facts else self._next_look(hot, done)
                # Where nobody asks, the account lives on by itself and is caught up with at the next edge.
                alone = not (facts or desk.waiting or hot.watched_rows or self._engine.attentive or hot.changeable)
                bound = max(min(FOREVER if alone else desk.next_at, look), self.course.first_at)
                limit = min(bound - 1, rehearsal.wake_at, end)
                at, edges = hot.advance(limit)
                if edges:
                    self._catch_up(hot, at)
                    rehearsal.taken(at, edges)
                    rehearsal.wake(at)
                    done = at
                elif rehearsal.wake_at <= limit:
                    done = max(rehearsal.wake_at, rehearsal.now)
                    self._catch_up(hot, done)
                    rehearsal.wake(done)
                elif bound > end:
                    break
                else:
                    if desk.next_at <= bound:
                        facts = (*facts, *desk.live(bound))
                    rows = (*(_rows_at(parts, bound) if look == bound else ()), *facts)
                    facts = ()
                    if rows or _is_instant(parts, bound):
                        rehearsal.send(Observed(at=bound, source=SOURCE, rows=rows))
                    for order in desk.due(bound):
                        rehearsal.settle(order.action_id, desk.fill(order, bound), bound)
                    rehearsal.wake(bound)
                    done = bound
            if progress is not None:
                progress(sum(len(part.ts) for part in parts))
        self._facts, self._done = facts, done

    def _catch_up(self, hot: ColumnHot, at: int) -> None:
        """What happened to the account up to `at` while nobody asked."""
        if self._desk.next_at <= at:
            hot.absorb(self._desk.live(at), at)

    def _next_look(self, hot: ColumnHot, done: int) -> int:
        """The next instant whose rows the cold side has to see."""
        if self._engine.attentive:
            return hot.next_row_at(None, done)
        return hot.next_row_at(hot.watched_rows, done) if hot.watched_rows else FOREVER

    def _play_rows(self, streams: Sequence[Stream], progress: Callable[[int], None] | None) -> None:
        rehearsal, desk, hot, engine = self._rehearsal, self._desk, self._hot, self._engine
        facts, told = self._facts, 0
        for at, parts in instants(streams):
            if rehearsal.wake_at < at or desk.next_at < at:
                self._pass_time(at)
            venues = any(stream.kind is Kind.VENUE for stream, _, _ in parts)  # the engine looks at their blocks itself
            if desk.next_at <= at or facts or venues or engine.attentive or (hot.watched_rows and self._watched(parts)):
                if desk.next_at <= at:
                    facts = (*facts, *desk.live(at))
                rows = (*(stream.row(i) for stream, first, end in parts for i in range(first, end)), *facts)
                rehearsal.send(Observed(at=at, source=SOURCE, rows=rows))
                facts = ()
                for order in desk.due(at):
                    rehearsal.settle(order.action_id, desk.fill(order, at), at)
            else:
                # Nobody waits for these rows: they go straight into their slots, and only an edge reaches the engine.
                stream, first, end = parts[0]
                if end - first == 1 and len(parts) == 1:
                    edges = hot.evaluate_row(stream.ingest(first), at)
                else:
                    edges = hot.evaluate({stream.ingest(i): None for stream, first, end in parts for i in range(first, end)}, at)
                if edges or hot.next_due <= at:
                    rehearsal.taken(at, edges)
                elif hot.next_due < rehearsal.wake_at:
                    rehearsal.wake_at = hot.next_due
            if rehearsal.wake_at <= at:
                rehearsal.wake(at)
            if progress is not None:
                told += sum(end - first for _, first, end in parts)
                if told >= PROGRESS_ROWS:
                    progress(told)
                    told = 0
        self._facts = facts
        if progress is not None:
            progress(told)

    def _watched(self, parts: list[tuple[Stream, int, int]]) -> bool:
        rows = self._hot.watched_rows
        return any(stream.keys[stream.entity[i]] in rows for stream, first, end in parts for i in range(first, end))

    def _pass_time(self, limit: int) -> None:
        """What happens to the account and timers that are due before `limit`, in order of time; the account first at one instant."""
        rehearsal, desk = self._rehearsal, self._desk
        while min(desk.next_at, rehearsal.wake_at) < limit:
            due = min(desk.next_at, rehearsal.wake_at)
            if desk.next_at > due:
                rehearsal.wake(max(due, rehearsal.now))
                continue
            rows = desk.live(due)
            if rows:
                rehearsal.send(Observed(at=due, source=SOURCE, rows=rows))


def cut(blocks: Sequence[Columns], rows: int) -> Iterator[tuple[list[Part], int]]:
    """A slice in shorter stretches of time, each with its end: about `rows` rows an entity of its largest block, no instant split."""
    largest = max(blocks, key=lambda block: len(block.ts))
    steps = largest.ts[rows * len(largest.entity_ids) - 1 :: rows * len(largest.entity_ids)].tolist()
    last = max(int(block.ts[-1]) for block in blocks)
    starts = [0] * len(blocks)
    for end in (*(step for step in steps if step < last), last):
        parts = []
        for j, block in enumerate(blocks):
            stop = int(block.ts.searchsorted(end, side="right"))
            if stop > starts[j]:
                parts.append(Part.cut(block, starts[j], stop))
                starts[j] = stop
        yield parts, end


def _is_instant(blocks: Sequence[Columns], at: int) -> bool:
    """True when some block has a row of that time."""
    places = [(block, int(block.ts.searchsorted(at))) for block in blocks]
    return any(place < len(block.ts) and int(block.ts[place]) == at for block, place in places)


def _rows_at(blocks: Sequence[Columns], at: int) -> Iterator[Row]:
    """The rows of one instant as an event carries them."""
    for block in blocks:
        own = OWNED.get(block.kind, ())
        names = [name for name in block.columns if (block.kind, name) in SLOT and name not in own]
        for i in range(int(block.ts.searchsorted(at)), int(block.ts.searchsorted(at, side="right"))):
            values = {name: float(block.columns[name][i]) for name in names if block.columns[name][i] != NULL}
            yield Row(kind=block.kind, entity=block.entity_ids[int(block.entity[i])], values=values, event_ts=int(block.event_ts[i]))


def recorded(course: Course) -> dict[Kind, tuple[str, ...]]:
    """The signals that a course's rows bring, by kind, but for what the simulated account reports itself."""
    return {
        kind: tuple(name for name in names if name not in OWNED.get(kind, ()))
        for kind, names in course.source.signals.items()
        if kind not in REPORTED
    }


def play(course: Course, *, engine: Engine, runbooks: Sequence[Runbook], progress: Callable[[int], None] | None = None) -> Played:
    """Runs a recording through a fresh engine."""
    return Passage(course, engine=engine, runbooks=runbooks).play(progress)


def play_without(course: Course, spans: Spans | None = None) -> SimulatedAccount:
    """The same rows and account with no action."""
    account = course.account(spans)
    account.begin(course.first_at)
    for blocks in course.slices():
        account.extend(blocks)
    account.pass_to(course.last_at)
    account.end(course.last_at)
    return account
