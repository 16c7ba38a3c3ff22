"""Recorded history through the production engine, answered by the simulated account (floor 5); and the same rows with no engine.

    played = play(course, engine=engine, runbooks=runbooks)
    alone = play_without(course)

Batch by batch, in the one order of the engine: transfers that arrive and timers that are due before an instant, then the instant's
rows with what they do to the account (funding, liquidation), then fills, then timers due exactly then. Between two things that happen
to the account the batches pass it by (`tape.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, assert_never

import numpy as np
import numpy.typing as npt

from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.columns import Stream, instants
from daemon.engine.engine import Engine
from daemon.engine.events import Gap, Observed, Row, RunbooksLoaded
from daemon.engine.hot import Hot, Sources
from daemon.language.catalogue import CATALOGUE
from daemon.language.slots import SLOT
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec, SimulatedAccount
from daemon.simulation.columnar import ColumnHot
from daemon.simulation.episodes import EpisodeLog
from daemon.simulation.rehearsal import SOURCE, Answer, Rehearsal
from daemon.simulation.tape import MarketRows, TapedAccount, TapeMark
from daemon.units import FOREVER, HOUR_NS, MINUTE_NS, NEVER
from daemon.world.entities import Kind, Topology

NULL = float("inf")  # a cell that is not part of its row
ROWS_FED = 8192  # rows an entity that the compiled execution takes at once: many enough to amortise its calls, few enough for the cache
PROGRESS_ROWS = 8_192  # how often a progress bar is told
DONE = Outcome(status="done")
OWNED = {Kind.CHAIN: ("buffer_balance",), Kind.ROUTE: ("in_flight",)}  # signals that the simulated account reports itself
KIND_ORDER = {kind: index for index, kind in enumerate((Kind.CHAIN, Kind.VENUE, Kind.ACCOUNT, Kind.MARKET, Kind.POSITION, Kind.ROUTE))}


class Block(Protocol):
    """Rows of one kind sorted by ts, then entity, as a recording hands them over; null = +inf, NaN = observed as missing."""

    @property
    def kind(self) -> Kind:
        """Kind of every row."""

    @property
    def ts(self) -> npt.NDArray[np.int64]:
        """When each row was known, ns UTC."""

    @property
    def event_ts(self) -> npt.NDArray[np.int64]:
        """When each row was true, ns UTC."""

    @property
    def entity(self) -> npt.NDArray[np.int32]:
        """Index into `entity_ids`."""

    @property
    def entity_ids(self) -> tuple[str, ...]:
        """Entity ids."""

    @property
    def columns(self) -> Mapping[str, npt.NDArray[np.float64]]:
        """float64[rows] a signal."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """What a replay runs over: blocks sorted by ts (one or more a kind), the account, and what the recording declares.

    `holds` is (kind, signal, venue or "*") -> ns, `intervals` venue or market id -> ns between fundings.
    """

    blocks: tuple[Block, ...]
    spec: AccountSpec
    topology: Topology
    holds: Mapping[tuple[Kind, str, str], int] = field(default_factory=dict)
    intervals: Mapping[str, int] = field(default_factory=dict)
    keep_series: bool = False  # equity and margin ratio of each batch

    def bound_ns(self, market: str, signal: str) -> int:
        """How long a reading of a market's signal stays fresh: the larger of the catalogue's bound and the recording's hold."""
        known = CATALOGUE.get((Kind.MARKET, signal))
        bound = known.max_age_ns if known else 0
        return max(bound, self.holds.get((Kind.MARKET, signal, market.partition(":")[0]), 0), self.holds.get((Kind.MARKET, signal, "*"), 0))

    def interval_ns(self, market: str) -> int:
        """The funding interval of a market."""
        venue = market.partition(":")[0]
        return self.intervals.get(market) or self.intervals.get(venue) or HOUR_NS

    @property
    def sources(self) -> Sources:
        """What the engine must know of this recording: holds (the longest of all venues) and derived signals that it holds itself."""
        holds: dict[tuple[Kind, str], int] = {}
        for (kind, signal, _), ns in self.holds.items():
            holds[kind, signal] = max(ns, holds.get((kind, signal), 0))
        recorded = {(block.kind, name) for block in self.blocks for name in block.columns}
        given = frozenset(key for key in recorded if key in CATALOGUE and CATALOGUE[key].role == "derived")
        return Sources(holds=holds, cadence=holds, given=given)

    def account(self) -> TapedAccount:
        """A fresh account as it begins."""
        marks = {self.spec.market_id(position.market): self._mark(self.spec.market_id(position.market)) for position in self.spec.positions}
        account = TapedAccount(self.spec, marks=marks, instants=self.instants)
        account.series = [] if self.keep_series else None
        return account

    def _mark(self, market: str) -> TapeMark:
        def bound(signal: str) -> int:
            return self.bound_ns(market, signal)

        rows = self.market_rows(market)
        return TapeMark(market, rows, valued_at=self.spec.valued_at, bound_ns=bound, interval_ns=self.interval_ns(market))

    def market_rows(self, market: str) -> MarketRows:
        """All rows of one market, blocks joined."""
        parts = [
            (block, np.flatnonzero(block.entity == block.entity_ids.index(market)))
            for block in self.blocks
            if block.kind is Kind.MARKET and market in block.entity_ids
        ]
        names = sorted({name for block, _ in parts for name in block.columns})

        def joined(name: str) -> npt.NDArray[np.float64]:
            found = [block.columns[name][rows] if name in block.columns else np.full(len(rows), NULL) for block, rows in parts]
            return np.concatenate(found)

        empty = np.empty(0, np.int64)
        return MarketRows(
            ts=np.concatenate([block.ts[rows] for block, rows in parts] or [empty]),
            event_ts=np.concatenate([block.event_ts[rows] for block, rows in parts] or [empty]),
            columns={name: joined(name) for name in names},
        )

    @property
    def instants(self) -> npt.NDArray[np.int64]:
        """All distinct times, sorted."""
        return np.unique(np.concatenate([block.ts for block in self.blocks] or [np.empty(0, np.int64)]))

    @property
    def rows(self) -> int:
        """Distinct (ts, entity)."""
        return sum(len(block.ts) for block in self.blocks)

    @property
    def first_at(self) -> int:
        """The first instant; 0 without rows."""
        return min((int(block.ts[0]) for block in self.blocks if len(block.ts)), default=0)

    @property
    def last_at(self) -> int:
        """The last instant; 0 without rows."""
        return max((int(block.ts[-1]) for block in self.blocks if len(block.ts)), default=0)

    def column(self, market: str, signal: str) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
        """(ts, values) of one market's signal, nulls and NaN left out."""
        times, values = [np.empty(0, np.int64)], [np.empty(0, np.float64)]
        for block in self.blocks:
            if block.kind is Kind.MARKET and signal in block.columns and market in block.entity_ids:
                column = block.columns[signal]
                chosen = (block.entity == block.entity_ids.index(market)) & np.isfinite(column)
                times.append(block.ts[chosen])
                values.append(column[chosen])
        return np.concatenate(times), np.concatenate(values)

    def fills_at_edge(self) -> dict[str, int]:
        """Markets held whose filling price series is coarser than a minute -> its median spacing, ns.

        A fill at the next row would be a look at a price an hour away: these fill at the price known when the order is sent.
        """
        coarse: dict[str, int] = {}
        for position in self.spec.positions:
            market = self.spec.market_id(position.market)
            for signal in ("bid_price", *self.spec.valued_at):
                times, _ = self.column(market, signal)
                if len(times) > 1:
                    spacing = int(np.median(np.diff(times)))
                    if spacing > MINUTE_NS:
                        coarse[market] = spacing
                    break
        return coarse

    def unpriced(self) -> tuple[str, ...]:
        """Markets held of which the recording has no price at all."""
        held = [self.spec.market_id(position.market) for position in self.spec.positions if position.size]
        return tuple(market for market in held if not any(len(self.column(market, signal)[0]) for signal in self.spec.valued_at))

    @property
    def has_extremes(self) -> bool:
        """True when bars' highs or lows were recorded for a market held."""
        held = [self.spec.market_id(position.market) for position in self.spec.positions]
        return any(len(self.column(market, signal)[0]) for market in held for signal in ("bar_high", "bar_low"))


class _Desk:
    """The simulated account at work: answers actions, fills orders, and says at which instant it has to be looked at again."""

    def __init__(self, course: Course, account: TapedAccount) -> None:
        self.account = account
        self.coarse = course.fills_at_edge()
        self.latency_ns = course.spec.latency_ns
        self.waiting: list[tuple[int, ShrinkPosition]] = []  # (when it fills: its market's next row, order)
        self.next_at = NEVER  # no later than the next instant at which the account changes by itself or an order fills

    def live(self, at: int) -> tuple[Row, ...]:
        """Lives through everything up to `at`, arrivals first; what the venue then reports."""
        self.account.pass_to(at - 1)
        self.account.credit(at)
        self.account.pass_to(at)
        self._look_ahead(at)
        return self.account.changes()

    def _look_ahead(self, at: int) -> None:
        fills = min((when for when, _ in self.waiting if when > at), default=FOREVER)
        self.next_at = min(self.account.next_event_at(), fills)

    def answer(self, action: Action, at: int) -> Answer:
        """The outcome of an action, or none yet for an order that waits for its market's next row."""
        match action:
            case ShrinkPosition():
                if action.market not in self.coarse and self.account.size(action.market):
                    self.waiting.append((self.account.next_row_at(action.market, at + self.latency_ns), action))
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
        ready = tuple(order for when, order in self.waiting if when <= at)
        self.waiting = [(when, order) for when, order in self.waiting if when > at]
        return ready


@dataclass(frozen=True, slots=True, kw_only=True)
class Played:
    """One pass WITH the runbooks: the account as it ended and the episodes."""

    account: SimulatedAccount
    log: EpisodeLog


class Passage:
    """One pass of a recording through an engine; made (runbooks compiled), then played."""

    def __init__(self, course: Course, *, engine: Engine, runbooks: Sequence[Runbook]) -> None:
        engine.load(runbooks)
        self.course = course
        self.account = course.account()
        self.log = EpisodeLog(runbooks, course.topology)
        self._desk = _Desk(course, self.account)
        self._rehearsal = Rehearsal(engine, answer=self._desk.answer, take=self.log.take)
        first = course.first_at
        self._rehearsal.send(Gap(at=first, since=first, cause="start"))
        self._rehearsal.send(RunbooksLoaded(at=first, runbooks={book.path: book.digest for book in runbooks}))
        assert isinstance(engine.hot, Hot)
        self._hot = engine.hot
        self._engine = engine
        # The simulated account reports itself: recorded rows of accounts and positions are left out.
        taken = [block for block in course.blocks if block.kind not in (Kind.ACCOUNT, Kind.POSITION)]
        self._taken = taken
        self._streams = [] if isinstance(self._hot, ColumnHot) else [Stream(engine.hot, block, OWNED.get(block.kind, ())) for block in taken]

    def play(self, progress: Callable[[int], None] | None = None) -> Played:
        """Runs the whole recording; `progress` is told of rows done."""
        if isinstance(self._hot, ColumnHot):
            self._play_columns(self._hot, progress)
        else:
            self._play_rows(progress)
        self.account.pass_to(self.course.last_at)
        self.account.end(self.course.last_at)
        return Played(account=self.account, log=self.log)

    def _play_columns(self, hot: ColumnHot, progress: Callable[[int], None] | None) -> None:
        """The compiled execution: from edge to edge, and to what happens to the account between them."""
        rehearsal, account, desk = self._rehearsal, self.account, self._desk
        account.begin(self.course.first_at)
        facts = (*account.parameters(), *account.changes())
        done = NEVER  # everything up to this time has happened
        for blocks, end in cut(self._taken, ROWS_FED):
            hot.feed(blocks, end)
            while True:
                look = self.course.first_at if facts else self._next_look(hot, done)
                bound = max(min(desk.next_at, look), self.course.first_at)
                limit = min(bound - 1, rehearsal.wake_at, end)
                at, edges = hot.advance(limit)
                if edges:
                    rehearsal.taken(at, edges)
                    rehearsal.wake(at)
                    done = at
                elif rehearsal.wake_at <= limit:
                    done = max(rehearsal.wake_at, rehearsal.now)
                    rehearsal.wake(done)
                elif bound > end:
                    break
                else:
                    if desk.next_at <= bound:
                        facts = (*facts, *desk.live(bound))
                    rows = (*(_rows_at(blocks, bound) if look == bound else ()), *facts)
                    facts = ()
                    if rows or _is_instant(blocks, bound):
                        rehearsal.send(Observed(at=bound, source=SOURCE, rows=rows))
                    for order in desk.due(bound):
                        rehearsal.settle(order.action_id, desk.fill(order, bound), bound)
                    rehearsal.wake(bound)
                    done = bound
            if progress is not None:
                progress(sum(len(block.ts) for block in blocks))

    def _next_look(self, hot: ColumnHot, done: int) -> int:
        """The next instant whose rows the cold side has to see."""
        if self._engine.attentive:
            return hot.next_row_at(None, done)
        return hot.next_row_at(hot.watched_rows, done) if hot.watched_rows else FOREVER

    def _play_rows(self, progress: Callable[[int], None] | None) -> None:
        """The plain execution: instant by instant."""
        rehearsal, account, desk, hot, engine = self._rehearsal, self.account, self._desk, self._hot, self._engine
        account.begin(self.course.first_at)
        facts = (*account.parameters(), *account.changes())
        told = 0
        for at, parts in instants(self._streams):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class _Cut:
    """Some rows of a block."""

    kind: Kind
    ts: npt.NDArray[np.int64]
    event_ts: npt.NDArray[np.int64]
    entity: npt.NDArray[np.int32]
    entity_ids: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[np.float64]]


def cut(blocks: Sequence[Block], rows: int) -> Iterator[tuple[list[_Cut], int]]:
    """Blocks in pieces of one stretch of time each, with its end; `rows` of the largest block for each entity of it, no instant split."""
    starts = [0] * len(blocks)
    while True:
        ahead = [(block, start) for block, start in zip(blocks, starts, strict=True) if start < len(block.ts)]
        if not ahead:
            return
        lasts = [int(block.ts[min(start + rows * len(block.entity_ids), len(block.ts)) - 1]) for block, start in ahead]
        # A kind with few rows left must not drag the others along to its end.
        end = min(last for last, (block, start) in zip(lasts, ahead, strict=True) if start + rows * len(block.entity_ids) < len(block.ts)) if any(
            start + rows * len(block.entity_ids) < len(block.ts) for block, start in ahead
        ) else max(lasts)
        parts = []
        for j, block in enumerate(blocks):
            stop = int(np.searchsorted(block.ts, end, side="right"))
            if stop > starts[j]:
                where = slice(starts[j], stop)
                columns = {name: values[where] for name, values in block.columns.items() if name not in OWNED.get(block.kind, ())}
                parts.append(
                    _Cut(
                        kind=block.kind, ts=block.ts[where], event_ts=block.event_ts[where], entity=block.entity[where],
                        entity_ids=tuple(block.entity_ids), columns=columns,
                    )
                )  # fmt: skip
                starts[j] = stop
        yield parts, end


def _is_instant(blocks: Sequence[Block], at: int) -> bool:
    """True when some block has a row of that time."""
    places = [(block, int(np.searchsorted(block.ts, at))) for block in blocks]
    return any(place < len(block.ts) and int(block.ts[place]) == at for block, place in places)


def _rows_at(blocks: Sequence[Block], at: int) -> Iterator[Row]:
    """The rows of one instant as an event carries them."""
    for block in blocks:
        first, end = (int(np.searchsorted(block.ts, at, side=side)) for side in ("left", "right"))
        for i in range(first, end):
            values = {name: float(column[i]) for name, column in block.columns.items() if column[i] != NULL and (block.kind, name) in SLOT}
            yield Row(kind=block.kind, entity=block.entity_ids[int(block.entity[i])], values=values, event_ts=int(block.event_ts[i]))


def recorded(blocks: Sequence[Block]) -> dict[Kind, tuple[str, ...]]:
    """The signals that blocks hold, by kind, but for what the simulated account reports itself."""
    found: dict[Kind, dict[str, None]] = {}
    for block in blocks:
        if block.kind not in (Kind.ACCOUNT, Kind.POSITION):
            names = found.setdefault(block.kind, {})
            names |= {name: None for name in block.columns if name not in OWNED.get(block.kind, ())}
    return {kind: tuple(names) for kind, names in found.items()}


def play(course: Course, *, engine: Engine, runbooks: Sequence[Runbook], progress: Callable[[int], None] | None = None) -> Played:
    """Runs a recording through a fresh engine."""
    return Passage(course, engine=engine, runbooks=runbooks).play(progress)


def play_without(course: Course) -> SimulatedAccount:
    """The same rows and account with no action."""
    account = course.account()
    account.begin(course.first_at)
    account.pass_to(course.last_at)
    account.end(course.last_at)
    return account
