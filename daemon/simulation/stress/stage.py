"""One book played through many futures that begin alike (floor 5): the production engine on each, and nobody.

    stage = Stage(book, runbooks=runbooks, house=house, source=source, compiler=compiler)
    end = stage.play(17)        # PathEnd: what the 17th future comes to without and with the runbooks

The engine lives through a warm-up that ends at the start, is marked there, and goes back to the mark for each future. What the account
is worth at each settlement is told ahead (`StageHot.foretell`), so a future in which no trigger fires costs a scan of its columns.
Without a compiler, or where the compiled execution does not take the runbooks, every instant is an event of the plain engine.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, assert_never

import numpy as np
import numpy.typing as npt

from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.engine import Engine, Mark
from daemon.engine.events import Gap, Observed, Row, RunbooksLoaded
from daemon.engine.hot import Hot, Sources
from daemon.engine.limits import HouseLimits
from daemon.engine.records import Record, RunStarted
from daemon.engine.unit import Unsupported
from daemon.runbook.model import Runbook
from daemon.simulation.book import Book
from daemon.simulation.columnar import Compiles
from daemon.simulation.history import Part
from daemon.simulation.rehearsal import SOURCE, Answer, Rehearsal
from daemon.simulation.stress.hot import StageHot
from daemon.simulation.stress.ledger import Act, Costs, Ledger, needed_usd
from daemon.simulation.stress.outcome import PathEnd, Side
from daemon.simulation.stress.path import Grid, Path
from daemon.simulation.stress.surroundings import Fact
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind

NULL = float("inf")  # a cell that is not part of its row
FINE_STEP_NS = 5 * NS
FINE_RATIO = 0.7  # margin ratio from which a path is looked at more closely
FINE_ROWS_MAX = 720  # rows that are cut into finer ones
GRAIN = 1e-9  # base units of a position before the start: it is there, and no price moves the account
WARM_UP_DAYS = 8  # windows of a week are full
DONE = Outcome(status="done")
Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Futures(Protocol):
    """Where paths come from: `daemon.simulation.stress.path.PathSource`, or a test's own."""

    @property
    def grid(self) -> Grid:
        """When the rows of a path stand."""

    def path(self, number: int) -> Path:
        """One future."""

    def refined(self, path: Path, stretches: Sequence[tuple[int, int]], step_ns: int) -> Path:
        """The same future with finer rows in `stretches`, [lo, hi) of its rows."""

    def opening(self) -> Path:
        """One row, at the start."""

    def warm_up(self, days: int) -> Path:
        """A calm past that ends at the start, its last row."""

    def surroundings(self) -> Sequence[Fact]:
        """Chains, routes and venues as they are at the start."""


@dataclass(slots=True, kw_only=True)
class Played:
    """A path played: what it came to, and the series of whoever draws it."""

    end: PathEnd
    path: Path
    without: Floats  # margin ratio at each row, the worst account's
    having: Floats
    acts: tuple[Act, ...]  # of the side with the runbooks
    acts_without: tuple[Act, ...] = ()


class _PlainHot(Hot):
    """The plain hot side that goes back to a mark."""

    def mark(self) -> None:
        self._kept = {
            kind: [(f.copy(), i.copy(), t[:], v[:]) for f, i, t, v in zip(arena.F, arena.I, arena.T, arena.V, strict=True)]
            for kind, arena in self.arenas.kinds.items()
        }
        self._kept_now, self._kept_due = self.now, self.next_due

    def go_back(self) -> None:
        for kind, rows in self._kept.items():
            arena = self.arenas.kinds[kind]
            for number, (floats, ints, times, values) in enumerate(rows):
                arena.F[number][:] = floats
                arena.I[number][:] = ints
                arena.T[number][:] = array("q", times)
                arena.V[number][:] = array("d", values)
        self.relink()
        self.now, self.next_due = self._kept_now, self._kept_due


@dataclass(slots=True)
class _Grounds:
    """What the columns of every path share."""

    ids: tuple[str, ...]
    hyperliquid: npt.NDArray[np.bool_]
    accounts: tuple[str, ...]
    ts: dict[int, tuple[Ints, npt.NDArray[np.int32]]] = field(default_factory=dict)  # by id of a grid's `at`
    kept: list[Ints] = field(default_factory=list)


class Stage:
    """Plays paths; made once a process."""

    def __init__(
        self, book: Book, *, runbooks: Sequence[Runbook], house: HouseLimits, source: Futures, compiler: Compiles | None,
        costs: Costs | None = None, warm_up_days: int = WARM_UP_DAYS, fine_step_ns: int = FINE_STEP_NS,
    ) -> None:  # fmt: skip
        """`fine_step_ns`: between rows where the margin ratio is high; the grid's own step leaves every path as it was made."""
        self.book, self.source, self.costs = book, source, costs or Costs()
        self._fine_step = fine_step_ns
        self.runbooks = tuple(book for book in runbooks if book.stage != "disabled")
        self.start = source.grid.start
        self.note = ""
        self._house = house
        self._markets = book.market_ids
        self.index = {market: m for m, market in enumerate(self._markets)}  # the path's row of each market
        models = {account.venue: account.model for account in book.accounts}
        self._grounds = _Grounds(
            ids=self._markets, accounts=tuple(account.id for account in book.accounts),
            hyperliquid=np.array([models[market.partition(":")[0]] == "hyperliquid" for market in self._markets]),
        )  # fmt: skip
        names = ["oracle_price", "bid_price", "ask_price", "bid_size", "ask_size", "funding_rate"]
        if bool(self._grounds.hyperliquid.any()):
            names.append("mark_price")
        self._names = tuple(names)
        holds = {(Kind.MARKET, name): source.grid.step_ns for name in names if name != "funding_rate"}
        self._sources = Sources(holds=holds, cadence=holds)
        self._records: Callable[[Record], None] = lambda record: None
        self._compiler = compiler if self.runbooks else None
        if not self.runbooks:
            return
        for days in (warm_up_days, 0):
            try:
                self._open(days)
            except Unsupported as reason:
                self.note = f"played by the plain execution, which is slower: {reason}"
                self._compiler = None
                self._open(days)
            if self._opened:
                break
            self.note = "the runbooks fire before the start, so their windows start empty"

    @property
    def execution(self) -> str:
        """compiled | python."""
        return "python" if self._compiler is None else "compiled"

    # -- before the start --------------------------------------------------------------------------------------------------------
    def _open(self, days: int) -> None:
        """Links the runbooks, lives through the warm-up and marks the start."""
        topology = self.book.topology()
        self._fired = False
        hot: StageHot | _PlainHot
        if self._compiler is not None:
            recorded = {Kind.MARKET: self._names, Kind.ACCOUNT: ("collateral",)}
            hot = StageHot(topology, self._sources, compiler=self._compiler, recorded=recorded)
        else:
            hot = _PlainHot(topology, self._sources)
        self._hot = hot
        self._engine = Engine(topology=topology, house=self._house, build="stress", sources=self._sources, hot=hot)
        self._engine.load(self.runbooks)
        path = self.source.warm_up(days) if days else None
        first = self.start if path is None else int(path.at[0])
        rehearsal = Rehearsal(self._engine, answer=self._refuse, take=self._notice)
        rehearsal.send(Gap(at=first, since=first, cause="start"))
        rehearsal.send(RunbooksLoaded(at=first, runbooks={book.path: book.digest for book in self.runbooks}))
        for market in self._markets:
            hot.arenas.row(Kind.MARKET, market)
        ledger = Ledger(self.book, self.source.opening(), start=self.start, costs=self.costs, index=self.index)
        calm = (*ledger.parameters(), *self._surroundings(), *_flat(ledger.report(everything=True)))
        if path is None:
            path = self.source.opening()
        if isinstance(hot, StageHot):
            self._warm_columns(hot, rehearsal, path, calm)
        else:
            self._warm_rows(rehearsal, path, calm)
        self._opened = days == 0 or not self._starts()
        if not self._opened:
            return
        self._fired = False
        self._remember(rehearsal)
        opening = tuple(ledger.report(everything=True))
        rehearsal.send(Observed(at=self.start, source=SOURCE, rows=opening))
        rehearsal.wake(self.start)
        self._at_start: tuple[Row, ...] = ()
        if self._starts():
            # The book begins in trouble: what is done about it is part of every future.
            self._at_start = opening
            self._hot.go_back()
            self._engine.go_back(self._mark)
        else:
            self._remember(rehearsal)

    def _starts(self) -> bool:
        """True when some run has started."""
        return self._fired

    def _remember(self, rehearsal: Rehearsal) -> None:
        self._hot.mark()
        self._mark: Mark = self._engine.mark()
        self._wake_at = rehearsal.wake_at

    def _warm_columns(self, hot: StageHot, rehearsal: Rehearsal, path: Path, calm: tuple[Row, ...]) -> None:
        first = int(path.at[0])
        hot.feed([self._block(path)], self.start)
        rehearsal.send(Observed(at=first, source=SOURCE, rows=calm))
        rehearsal.wake(first)
        while True:
            at, edges = hot.advance(min(self.start, rehearsal.wake_at))
            if edges:
                rehearsal.taken(at, edges)
                rehearsal.wake(at)
            elif rehearsal.wake_at <= self.start:
                rehearsal.wake(max(rehearsal.wake_at, rehearsal.now))
            else:
                return

    def _warm_rows(self, rehearsal: Rehearsal, path: Path, calm: tuple[Row, ...]) -> None:
        for j, at in enumerate(path.at.tolist()):
            if rehearsal.wake_at < at:
                rehearsal.wake(at - 1)
            rehearsal.send(Observed(at=at, source=SOURCE, rows=(*self._market_rows(path, j), *(calm if j == 0 else ()))))
            rehearsal.wake(at)

    def _refuse(self, action: Action, at: int) -> Answer:
        return Answer(outcome=Outcome(status="rejected", reason="the world has not started"))

    def _notice(self, record: Record) -> None:
        if isinstance(record, RunStarted):
            self._fired = True

    def _surroundings(self) -> Iterator[Row]:
        for fact in self.source.surroundings():
            yield Row(kind=fact.kind, entity=fact.entity, values=fact.values, event_ts=FOREVER)

    # -- columns -----------------------------------------------------------------------------------------------------------------
    def _block(self, path: Path) -> Part:
        """The markets of a path, entity after entity."""
        count, rows = len(self._markets), len(path.at)
        key = id(path.at)
        ground = self._grounds
        if key in ground.ts:
            ts, entity = ground.ts[key]
        else:
            ts, entity = np.tile(path.at, count), np.repeat(np.arange(count, dtype=np.int32), rows)
            if path.at is self.source.grid.at:
                ground.ts[key] = ts, entity
                if isinstance(self._hot, StageHot):
                    self._hot.keep(ts)
        half = 0.5 * path.spread
        bid, ask = path.mid * (1.0 - half), path.mid * (1.0 + half)
        size = path.depth / path.mid
        funding = np.full((count, rows), NULL)
        funding[:, np.searchsorted(path.at, path.funding_at)] = path.funding
        oracle = path.oracle
        for venue, since, until in path.halted:
            lo, hi = (int(i) for i in np.searchsorted(path.at, [since, until]))
            silent = [m for m, market in enumerate(self._markets) if market.partition(":")[0] == venue]
            oracle = oracle.copy()
            for values in (bid, ask, size, oracle):
                values[silent, lo:hi] = NULL
        columns = {
            "oracle_price": oracle.reshape(-1), "bid_price": bid.reshape(-1), "ask_price": ask.reshape(-1),
            "bid_size": size.reshape(-1), "ask_size": size.reshape(-1), "funding_rate": funding.reshape(-1),
        }  # fmt: skip
        if "mark_price" in self._names:
            columns["mark_price"] = np.where(ground.hyperliquid[:, None], oracle, NULL).reshape(-1)
        return Part(kind=Kind.MARKET, ts=ts, event_ts=ts, entity=entity, entity_ids=ground.ids, columns=columns)

    def _cash(self, path: Path, ledger: Ledger) -> Part | None:
        """What every account's collateral will be at each settlement, if nobody acts."""
        hours = len(path.funding_at)
        if not hours:
            return None
        accounts = self._grounds.accounts
        key = -1 - hours
        if key not in self._grounds.ts:
            ts, entity = np.tile(path.funding_at, len(accounts)), np.repeat(np.arange(len(accounts), dtype=np.int32), hours)
            self._grounds.ts[key] = ts, entity
            assert isinstance(self._hot, StageHot)
            self._hot.keep(ts)
        ts, entity = self._grounds.ts[key]
        values = np.concatenate([ledger.collateral_ahead(name)[1] for name in accounts])
        always = np.full(len(ts), FOREVER, np.int64)
        return Part(kind=Kind.ACCOUNT, ts=ts, event_ts=always, entity=entity, entity_ids=accounts, columns={"collateral": values})

    def _market_rows(self, path: Path, j: int) -> list[Row]:
        """The markets' readings of one row as an event carries them."""
        at = int(path.at[j])
        halted = {venue for venue, since, until in path.halted if since <= at < until}
        hour = int(np.searchsorted(path.funding_at, at))
        settled = hour < len(path.funding_at) and int(path.funding_at[hour]) == at
        rows = []
        for m, market in enumerate(self._markets):
            values: dict[str, float] = {}
            if market.partition(":")[0] not in halted:
                mid, half, size = path.mid[m, j], 0.5 * path.spread[m, j], path.depth[m, j] / path.mid[m, j]
                values = {
                    "oracle_price": float(path.oracle[m, j]), "bid_price": float(mid * (1.0 - half)),
                    "ask_price": float(mid * (1.0 + half)), "bid_size": float(size), "ask_size": float(size),
                }  # fmt: skip
                if self._grounds.hyperliquid[m]:
                    values["mark_price"] = values["oracle_price"]
            if settled:
                values["funding_rate"] = float(path.funding[m, hour])
            if values:
                rows.append(Row(kind=Kind.MARKET, entity=market, values=values, event_ts=at))
        return rows

    # -- a path ------------------------------------------------------------------------------------------------------------------
    def play(self, number: int) -> PathEnd:
        """What one future comes to."""
        return self.open(number).end

    def open(self, number: int) -> Played:
        """One future with everything there is to see of it."""
        path = self.source.path(number)
        alone = self._alone(path)
        ratio = alone.ratio()
        stretches = _fine(ratio, alone.first_liquidation_row()) if self._fine_step < self.source.grid.step_ns else []
        if stretches:
            path = self.source.refined(path, stretches, self._fine_step)
            alone = self._alone(path)
            ratio = alone.ratio()
        without = replace(_weighed(path, alone.side(), self.start), needed_usd=alone.needed_usd)
        if not self.runbooks:
            having, ratio_with, acts = without, ratio, tuple(alone.acts)
        else:
            ledger = self.ledger(path)
            if self._follow(path, ledger):
                having = replace(_weighed(path, ledger.side(), self.start), needed_usd=without.needed_usd)
                ratio_with, acts = ledger.ratio(), tuple(ledger.acts)
            else:
                having, ratio_with, acts = replace(without, runs=ledger.counts.runs), ratio, tuple(alone.acts)
        end = PathEnd(
            number=number, weight_log=0.0 if path.log_ratio is None else float(path.log_ratio[-1]), tilted=path.pushed,
            rows=len(path.at) * len(self._markets), without=without, having=having,
        )  # fmt: skip
        return Played(end=end, path=path, without=ratio, having=ratio_with, acts=acts, acts_without=tuple(alone.acts))

    def ledger(self, path: Path) -> Ledger:
        """The book at the start of a path."""
        return Ledger(self.book, path, start=self.start, costs=self.costs, index=self.index)

    def _alone(self, path: Path) -> Ledger:
        ledger = self.ledger(path)
        needed = needed_usd(ledger)
        ledger.run()
        ledger.needed_usd = needed[ledger.counts.first_account] if ledger.counts.first_account else max(needed.values())
        return ledger

    def _follow(self, path: Path, ledger: Ledger) -> bool:
        """Plays the path with the runbooks; False when nothing they did touched the book."""
        hot, engine = self._hot, self._engine
        hot.go_back()
        engine.go_back(self._mark)
        desk = _Desk(self, path, ledger)
        rehearsal = Rehearsal(engine, answer=desk.answer, take=desk.take)
        rehearsal.wake_at, rehearsal.now = self._wake_at, self.start
        desk.rehearsal = rehearsal
        if isinstance(hot, StageHot):
            self._scan(hot, path, ledger, desk)
        else:
            self._walk(path, ledger, desk)
        if desk.touched:
            ledger.run()
        return desk.touched

    def _scan(self, hot: StageHot, path: Path, ledger: Ledger, desk: _Desk) -> None:
        """From edge to edge."""
        rehearsal, end = desk.rehearsal, int(path.at[-1])
        cash = self._cash(path, ledger)
        hot.feed([self._block(path), *([cash] if cash is not None else [])], end)
        done = self.start
        self._begin(desk)
        while True:
            if self._engine.attentive:
                look = hot.next_row_at(None, done)
            else:
                look = hot.next_row_at(hot.watched_rows, done) if hot.watched_rows else FOREVER
            bound = min(desk.next_fact_at, ledger.next_event_at(), look)
            limit = min(bound - 1, rehearsal.wake_at, end)
            at, edges = hot.advance(limit)
            if edges:
                ledger.pass_to(at)
                rehearsal.taken(at, edges)
                rehearsal.wake(at)
                done = at
            elif rehearsal.wake_at <= limit:
                done = max(rehearsal.wake_at, rehearsal.now)
                ledger.pass_to(done)
                rehearsal.wake(done)
            elif bound > end:
                return
            else:
                desk.live(bound, looked=look == bound)
                done = bound

    def _begin(self, desk: _Desk) -> None:
        """Tells what the book holds, where the start itself fires a trigger."""
        if self._at_start:
            desk.rehearsal.send(Observed(at=self.start, source=SOURCE, rows=self._at_start))
            desk.rehearsal.wake(self.start)

    def _walk(self, path: Path, ledger: Ledger, desk: _Desk) -> None:
        """Instant by instant."""
        rehearsal = desk.rehearsal
        self._begin(desk)
        for at in path.at.tolist():
            while True:
                due = min(desk.next_fact_at, ledger.next_event_at(), rehearsal.wake_at)
                if due >= at:
                    break
                if min(desk.next_fact_at, ledger.next_event_at()) > due:
                    due = max(due, rehearsal.now)
                    ledger.pass_to(due)
                    rehearsal.wake(due)
                else:
                    desk.live(due, looked=False)
            desk.live(at, looked=True)


class _Desk:
    """The world's side of one path: answers actions, tells what happened."""

    rehearsal: Rehearsal

    def __init__(self, stage: Stage, path: Path, ledger: Ledger) -> None:
        self.stage, self.path, self.ledger = stage, path, ledger
        self.touched = False
        self._facts = list(path.facts)
        self._told = 0

    @property
    def next_fact_at(self) -> int:
        """When a chain, a route or a venue changes next."""
        return self._facts[self._told].at if self._told < len(self._facts) else FOREVER

    def take(self, record: Record) -> None:
        """Counts runs."""
        if isinstance(record, RunStarted) and not record.on_clear:
            runs = self.ledger.counts.runs
            runs[record.runbook] = runs.get(record.runbook, 0) + 1

    def live(self, at: int, *, looked: bool) -> None:
        """One instant in which something happened, or at which the cold side wants to see the rows."""
        ledger, plain = self.ledger, not isinstance(self.stage._hot, StageHot)
        ledger.pass_to(at)
        rows: list[Row] = []
        row = ledger.row_at(at)
        if looked and row >= 0 and int(self.path.at[row]) == at:
            rows += self.stage._market_rows(self.path, row)
            hour = int(np.searchsorted(self.path.funding_at, at))
            if hour < len(self.path.funding_at) and int(self.path.funding_at[hour]) == at:
                ledger.cash_changed()
        while self.next_fact_at <= at:
            fact = self._facts[self._told]
            self._told += 1
            rows.append(Row(kind=fact.kind, entity=fact.entity, values=fact.values, event_ts=FOREVER))
        self._retell(at)
        rows += ledger.report()
        if rows or plain:
            self.rehearsal.send(Observed(at=at, source=SOURCE, rows=tuple(rows)))
        self.rehearsal.wake(at)

    def _retell(self, at: int) -> None:
        hot = self.stage._hot
        if isinstance(hot, StageHot):
            for name in self.ledger.take_retold():
                values = self.ledger.collateral_ahead(name)[1]
                if len(values):
                    hot.foretell(Kind.ACCOUNT, name, "collateral", at, values)

    def answer(self, action: Action, at: int) -> Answer:
        """The outcome of an action, and what is read back after it."""
        ledger = self.ledger
        match action:
            case ShrinkPosition():
                self.touched = True
                outcome = ledger.shrink(action, at)
                self._retell(at)
                return Answer(outcome=outcome, rows=tuple(ledger.report_of(action.account, action.market)))
            case MoveBuffer():
                self.touched = True
                refused, _ = ledger.move(action, at)
                self._retell(at)
                # As live: done once the source is debited; what arrives, and when, is read at the destination.
                outcome = refused or Outcome(status="done", reason="in flight", amount=action.amount, reference=f"transfer@{at}")
                return Answer(outcome=outcome, rows=tuple(ledger.report_of("")))
            case CancelOrders():
                return Answer(outcome=DONE, rows=tuple(ledger.report_of(action.account)))
            case Halt() | Resume() | Notify() | CallWebhook():
                return Answer(outcome=DONE)
            case _:
                assert_never(action)


def _flat(rows: Sequence[Row]) -> tuple[Row, ...]:
    """The same accounts with next to nothing in them: positions that are there, on their side, and weigh nothing."""
    return tuple(
        replace(row, values={**row.values, "size": math.copysign(GRAIN, row.values["size"])}) if row.kind is Kind.POSITION else row
        for row in rows
    )


def _fine(ratio: Floats, liquidated: int) -> list[tuple[int, int]]:
    """Where a path is looked at more closely: margin ratio over 70 % before the first liquidation, the worst rows where they are many."""
    before = ratio[: liquidated + 1]
    bound = FINE_RATIO
    if np.count_nonzero(before > bound) > FINE_ROWS_MAX:
        bound = max(bound, float(np.partition(before, -FINE_ROWS_MAX)[-FINE_ROWS_MAX]))
    return _stretches(before > bound)


def _stretches(wanted: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """[lo, hi) of every run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], wanted, [False])).astype(np.int8)))
    return [(int(lo), int(hi)) for lo, hi in zip(edges[::2], edges[1::2], strict=True)]


def _weighed(path: Path, side: Side, start: int) -> Side:
    """The side with its log likelihood ratio, stopped at its liquidation."""
    if path.log_ratio is None:
        return side
    if side.liquidated_at == FOREVER:
        return replace(side, weight_log=float(path.log_ratio[-1]))
    row = int(np.searchsorted(path.at, start + side.liquidated_at, side="right")) - 1
    return replace(side, weight_log=float(path.log_ratio[max(row, 0)]))
