"""The driver of runbook tests (floor 5): a runbook's `tests:` through the production engine in virtual time.

    outcome = run_test(runbook, test, engine=make_engine)      # TestOutcome(failures=(), ...)

The venue of a test has no fees, pays no funding and liquidates nobody; an order settles at the instant it is sent against the book
known then. `0s` is a whole hour and a whole day of UTC.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import assert_never

from daemon.engine.actions import (
    Action,
    CallWebhook,
    CancelOrders,
    Halt,
    MoveBuffer,
    Notify,
    Outcome,
    OutcomeStatus,
    Resume,
    ShrinkPosition,
)
from daemon.engine.contract import TriggerState
from daemon.engine.engine import Engine
from daemon.engine.events import Gap, Observed, OperatorCommand, Row, RunbooksLoaded
from daemon.engine.hot import Sources
from daemon.engine.records import (
    ActionFinished,
    ActionRequested,
    ActionWould,
    ApprovalAnswered,
    ApprovalRequested,
    Record,
    RunFinished,
    RunRefused,
    RunStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
)
from daemon.runbook.model import Expectation, Runbook, Test
from daemon.simulation.account import SimulatedAccount, marks
from daemon.simulation.coverage import Coverage
from daemon.simulation.episodes import action_name
from daemon.simulation.rehearsal import SOURCE, Answer, Rehearsal
from daemon.simulation.staging import Staging, exact, stage
from daemon.units import DAY_NS, FOREVER, HOUR_NS, NS, show, show_duration
from daemon.world.entities import Kind, Topology

START = 20_454 * DAY_NS  # 2026-01-01T00:00:00Z: a whole hour, a whole day
QUIET = frozenset({"notify", "wait"})  # kinds that `did` and `would` name only when the expectation does
LOOKUP_AFTER_NS = 5 * NS  # an order whose reply was lost is found at the venue this much later
LOOKUP_MARGIN_NS = NS // 2  # and given up as absent this long after its expiry
HISTORY_ROWS_MAX = 20_000  # rows of one history event
DONE = Outcome(status="done")


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One expectation that was not met; `at` as the test writes it."""

    runbook: str
    test: str
    at: str
    expected: str
    got: str
    path: str = ""
    line: int = 0

    def as_json(self) -> dict[str, str]:
        """The shape that `reefd test --format json` prints."""
        return {"runbook": self.runbook, "test": self.test, "at": self.at, "expected": self.expected, "got": self.got}


@dataclass(frozen=True, slots=True, kw_only=True)
class TestOutcome:
    """One test that was run."""

    __test__ = False

    runbook: str
    test: str
    failures: tuple[Failure, ...]

    @property
    def passed(self) -> bool:
        """True when every expectation was met."""
        return not self.failures


class _Ledger:
    """What the instance under test did, read out of the engine's records."""

    def __init__(self, runbook: Runbook, entity: str) -> None:
        self.kinds = {step.id: step.kind for step in runbook.all_steps()}
        self.runbook, self.entity = runbook.id, entity
        self.run = "none"
        self.did: list[str] = []
        self.would: list[str] = []
        self.waiting_approval: dict[str, str] = {}  # step -> run id
        self.kind_of: dict[str, str] = {}  # action id -> YAML name
        self._runs: dict[str, bool] = {}  # run id -> belongs to on_clear
        self._shadow: set[str] = set()
        self._acted: set[tuple[str, str]] = set()
        self._done: set[tuple[str, str]] = set()
        self._step_of: dict[str, tuple[str, str, float]] = {}  # action id -> run, step, usd
        self._spent: dict[str, float] = {}

    @property
    def spent(self) -> float:
        """USD counted against limits: every intent but those rejected or failed."""
        return math.fsum(self._spent.values())

    def take(self, record: Record) -> None:
        match record:
            case RunStarted(runbook=self.runbook, entity=self.entity):
                self._runs[record.run_id] = record.on_clear
                if record.shadow:
                    self._shadow.add(record.run_id)
                self._say(record.run_id, "running")
            case RunRefused(runbook=self.runbook, entity=self.entity):
                self.run = record.status
            case ActionRequested():
                self.kind_of[record.action.action_id] = self.kinds.get(record.step) or action_name(record.action)
                if record.run_id in self._runs:
                    self._step_of[record.action.action_id] = (record.run_id, record.step, record.usd)
                    self._spent[record.action.action_id] = record.usd
                    self._say(record.run_id, "running")
            case ActionFinished(run_id=run_id) if run_id in self._runs:
                self._finish(record)
            case StepStarted(run_id=run_id) if run_id in self._runs:
                self._say(run_id, "running")
            case StepWaiting(run_id=run_id) if run_id in self._runs:
                self._say(run_id, "waiting")
                # All its slices are done when a step waits for its proof: what it did is done, whatever the proof will say.
                if record.waiting == "verify" and (run_id, record.step) in self._acted:
                    self._count(run_id, record.step)
            case StepFinished(run_id=run_id) if run_id in self._runs:
                self.waiting_approval.pop(record.step, None)
                if record.acted or (record.status == "done" and record.kind in ("pause", "wait")):
                    self._count(run_id, record.step)
            case ApprovalRequested(run_id=run_id) if run_id in self._runs:
                self.waiting_approval[record.step] = run_id
                self._say(run_id, "waiting")
            case ApprovalAnswered(run_id=run_id) if run_id in self._runs and (record.granted or record.answer != "approved"):
                self.waiting_approval.pop(record.step, None)
                self._say(run_id, "running")
            case ActionWould(run_id=run_id) if run_id in self._runs:
                self.would.append(record.kind)
            case RunFinished(run_id=run_id) if run_id in self._runs:
                self._say(run_id, record.status)
            case _:
                pass

    def _say(self, run_id: str, status: str) -> None:
        if not self._runs[run_id]:
            self.run = status

    def _finish(self, record: ActionFinished) -> None:
        run_id, step, _ = self._step_of.get(record.action_id, ("", "", 0.0))
        if record.outcome.status == "done":
            self._acted.add((run_id, step))
        if record.outcome.status in ("rejected", "failed"):
            self._spent[record.action_id] = 0.0

    def _count(self, run_id: str, step: str) -> None:
        if run_id not in self._shadow and (run_id, step) not in self._done:
            self._done.add((run_id, step))
            self.did.append(self.kinds.get(step, step))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Mock:
    """What the venue says to the next sends of one kind of action."""

    outcome: OutcomeStatus
    reconcile: str
    reason: str
    sets: Mapping[str, float]


class _Venue:
    """The simulated venue of a test: an account that fills at once, and the mocks."""

    def __init__(self, staging: Staging, test: Test) -> None:
        self.staging = staging
        cells = marks(staging.spec, bound_ns=lambda market, signal: HOUR_NS, interval_ns=lambda market: HOUR_NS)
        self.account = SimulatedAccount(staging.spec, mark=cells)
        self.mocks = {kind: deque(_mocks(entry)) for kind, entry in test.mocks.items()}
        self.kind_of: Mapping[str, str] = {}
        self.later: list[tuple[int, str, Callable[[int], Answer]]] = []  # (when, action id, what is found then)
        self.overrides: dict[tuple[Kind, str, str], float] = {}  # what `sets` put in place of a sampled value

    def answer(self, action: Action, at: int) -> Answer:
        """The outcome of an action now, or later for a lost reply."""
        waiting = self.mocks.get(self.kind_of.get(action.action_id, action_name(action)))
        if not waiting:
            return self.perform(action, at)
        mock = waiting.popleft()
        if mock.outcome != "unknown":
            return self.pretend(action, mock, at)
        if mock.reconcile == "applied":
            self.later.append((at + LOOKUP_AFTER_NS, action.action_id, lambda then: self.applied(action, mock, then)))
        elif mock.reconcile == "absent":
            expires = getattr(action, "expires_at", at)
            absent = Answer(outcome=Outcome(status="failed", reason="absent at the venue"))
            self.later.append((max(at + LOOKUP_AFTER_NS, expires + LOOKUP_MARGIN_NS), action.action_id, lambda then: absent))
        return Answer(outcome=Outcome(status="unknown", reason=mock.reason or "no answer"))

    def applied(self, action: Action, mock: _Mock, at: int) -> Answer:
        """What a lookup finds of an action that had happened although its reply was lost."""
        if mock.sets:
            return self.pretend(action, replace(mock, outcome="done"), at)
        return self.perform(action, at)

    def perform(self, action: Action, at: int) -> Answer:
        """What the venue does to an action nobody mocks."""
        match action:
            case ShrinkPosition():
                self.account.value(at)
                outcome = self.account.fill(action, at)
                return Answer(outcome=outcome, rows=self.account.report(action.market))
            case MoveBuffer():
                self.account.value(at)
                outcome = self.account.move(action, at)
                # The effect of an action is observed at the instant it is sent, whatever the route's eta.
                self.account.credit(FOREVER)
                return Answer(outcome=outcome, rows=self.account.report())
            case CancelOrders():
                return Answer(outcome=DONE, rows=self.account.report())
            case Halt() | Resume() | Notify() | CallWebhook():
                return Answer(outcome=DONE)
            case _:
                assert_never(action)

    def pretend(self, action: Action, mock: _Mock, at: int) -> Answer:
        """A mocked outcome: the world changes by `sets` only, whatever the venue says."""
        before = self.account.size(action.market) if isinstance(action, ShrinkPosition) else Decimal(0)
        rows = [self.put(key, value, at) for key, value in mock.sets.items()]
        outcome = Outcome(status=mock.outcome, reason=mock.reason)
        if mock.outcome == "done" and isinstance(action, ShrinkPosition):
            after = self.account.size(action.market)
            outcome = replace(outcome, filled_size=abs(before - after) if "size" in mock.sets else action.size)
        elif mock.outcome == "done" and isinstance(action, MoveBuffer):
            outcome = replace(outcome, amount=action.amount)
        market = action.market if isinstance(action, ShrinkPosition) else ""
        return Answer(outcome=outcome, rows=(*self.account.report(market), *(row for row in rows if row is not None)))

    def put(self, key: str, value: float, at: int) -> Row | None:
        """Sets one signal from now on: a fact of the account, or what is sampled."""
        place = self.staging.place(key)
        assert place is not None, "a test's signals were checked when it was loaded"
        kind, entity, signal = place
        if self.own(kind, entity, signal, value):
            return None
        self.overrides[place] = value
        return Row(kind=kind, entity=entity, values={signal: value}, event_ts=at)

    def own(self, kind: Kind, entity: str, signal: str, value: float) -> bool:
        """Sets a fact that the venue keeps itself; False when the signal is none of those."""
        match kind, signal:
            case Kind.POSITION, "size":
                self.account.put_size(self.staging.spec.market_id(entity.partition(":")[2]), exact(value))
            case Kind.ACCOUNT, "collateral":
                self.account.put_collateral(value)
            case Kind.CHAIN, "buffer_balance":
                self.account.put_buffer(entity, value)
            case _:
                return False
        return True


def _mocks(entry: object) -> Iterator[_Mock]:
    for item in entry if isinstance(entry, list) else [entry]:
        assert isinstance(item, Mapping), "mocks were checked when the runbook was loaded"
        yield _Mock(outcome=item["outcome"], reconcile=item.get("reconcile", ""), reason=item.get("reason", ""), sets=item.get("sets", {}))


class _Case:
    """One test on its way through virtual time."""

    def __init__(self, runbook: Runbook, test: Test, make_engine: Callable[[Topology, Sources], Engine], coverage: Coverage | None) -> None:
        self.runbook = runbook if test.stage is None else replace(runbook, stage=test.stage)  # type: ignore[arg-type]
        self.test = test
        self.make_engine = make_engine
        self.staging = stage(runbook, test)
        self.ledger = _Ledger(runbook, self.staging.entity)
        self.venue = _Venue(self.staging, test)
        self.venue.kind_of = self.ledger.kind_of
        self.engine = make_engine(self.staging.topology, self.staging.sources(test.every_ns))
        self.engine.load((self.runbook,))
        self.coverage = coverage
        self.rehearsal = Rehearsal(self.engine, answer=self.venue.answer, take=self._take)
        self.failures: list[Failure] = []
        self.down_until = -1  # offset; no samples before it
        self.owned_before: dict[tuple[Kind, str, str], float | None] = {}

    def play(self) -> tuple[Failure, ...]:
        self._begin()
        for offset, items in self._agenda():
            self._pass(START + offset)
            for item in items:
                self._turn(item, offset)
            if offset >= self.down_until:
                self.rehearsal.wake(START + offset)
                if self.coverage is not None and self._state().unknown:
                    self.coverage.saw_unknown()
            for expectation in (item for item in items if isinstance(item, Expectation)):
                self._compare(expectation)
        return tuple(self.failures)

    def _take(self, record: Record) -> None:
        self.ledger.take(record)
        if self.coverage is not None:
            self.coverage.take(record)

    # -- time ----------------------------------------------------------------------------------------------------------------

    def _begin(self) -> None:
        self.rehearsal.send(Gap(at=START - 2, since=START - 2, cause="start"))
        self.rehearsal.send(RunbooksLoaded(at=START - 1, runbooks={self.runbook.path: self.runbook.digest}))
        rows: list[Row] = []
        for row in self.staging.history(START, self.test.every_ns):
            rows.append(row)
            if len(rows) >= HISTORY_ROWS_MAX:
                self.rehearsal.send(Observed(at=START - 1, source=SOURCE, rows=tuple(rows), history=True))
                rows = []
        if rows:
            self.rehearsal.send(Observed(at=START - 1, source=SOURCE, rows=tuple(rows), history=True))
        self.venue.account.begin(START)
        self.owned_before = {(cell.kind, cell.entity, cell.signal): cell.value_at(0) for cell in self.staging.owned}

    def _agenda(self) -> Iterator[tuple[int, list[object]]]:
        """Every offset at which something is planned, with its items: samples first, then a restart, approvals, expectations."""
        last = max((expectation.at_ns for expectation in self.test.expect), default=0)
        plan: dict[int, list[object]] = {offset: ["sample"] for offset in range(0, last + 1, self.test.every_ns)}
        if self.test.restart is not None:
            at, down = self.test.restart
            plan.setdefault(at, []).append("restart")
            plan.setdefault(at + down, []).insert(0 if down else len(plan[at]), "start")
        for at, step in self.test.approvals:
            plan.setdefault(at, []).append((step,))
        for expectation in self.test.expect:
            plan.setdefault(expectation.at_ns, []).append(expectation)
        yield from sorted(plan.items())

    def _turn(self, item: object, offset: int) -> None:
        match item:
            case "sample" if offset >= self.down_until:
                self._sample(offset)
            case "restart":
                self._stop(offset)
            case "start":
                self._start(offset)
            case (str() as step,):
                self._approve(step, offset)
            case _:
                pass

    def _pass(self, limit: int) -> None:
        """Lost replies found up to `limit`, timers due before it, in order of time."""
        if limit <= START + self.down_until:
            return
        while True:
            event = min((when for when, _, _ in self.venue.later), default=FOREVER)
            due = min(event, self.rehearsal.wake_at)
            if due > limit or (due == limit and event > limit):
                return
            at = max(due, self.rehearsal.now)
            if event == due:
                self._find(at)
            else:
                self.rehearsal.wake(at)

    def _find(self, at: int) -> None:
        for entry in [entry for entry in self.venue.later if entry[0] <= at]:
            self.venue.later.remove(entry)
            self.rehearsal.settle(entry[1], entry[2](at), at)

    def _sample(self, offset: int) -> None:
        at = START + offset
        for cell in self.staging.owned:
            key = (cell.kind, cell.entity, cell.signal)
            value = cell.value_at(offset)
            if value != self.owned_before.get(key) and value is not None:
                self.venue.own(cell.kind, cell.entity, cell.signal, value)
            self.owned_before[key] = value
        rows = [*self.venue.account.parameters()] if offset == 0 else []
        rows += self.venue.account.report() if offset == 0 else self.venue.account.changes()
        for row in self.staging.rows_at(offset, at):
            changed = {name: self.venue.overrides.get((row.kind, row.entity, name), value) for name, value in row.values.items()}
            rows.append(replace(row, values=changed))
            if row.kind is Kind.MARKET:
                self.venue.account.observe(row.entity, changed, at)
        self.venue.account.value(at)
        if rows:
            self.rehearsal.send(Observed(at=at, source=SOURCE, rows=tuple(rows)))

    def _stop(self, offset: int) -> None:
        assert self.test.restart is not None
        self.rehearsal.wake(START + offset)
        blobs = self.engine.checkpoint()
        self.down_until = offset + self.test.restart[1]
        self.engine = self.make_engine(self.staging.topology, self.staging.sources(self.test.every_ns))
        self.engine.load((self.runbook,))
        self.engine.restore(blobs)
        self.rehearsal.engine = self.engine

    def _start(self, offset: int) -> None:
        assert self.test.restart is not None
        at = START + offset
        self.rehearsal.send(Gap(at=at, since=START + self.test.restart[0], cause="start"))

    def _approve(self, step_id: str, offset: int) -> None:
        step = next(step for step in self.runbook.all_steps() if step.id == step_id)
        run_id = self.ledger.waiting_approval.get(step_id)
        if run_id is None:
            return  # nobody was asked: the expectation will say what did not happen
        people = step.approval.people if step.approval and step.approval.people else ("operator",)
        quorum = step.approval.quorum if step.approval else 1
        for person in people[: max(1, quorum)]:
            command = f"approve-{step_id}-{offset}-{person}"
            self.rehearsal.send(OperatorCommand(at=START + offset, command_id=command, actor=person, verb="approve", target=run_id))

    # -- what is expected ----------------------------------------------------------------------------------------------------

    def _state(self) -> TriggerState:
        known = self.engine.hot.instances(self.runbook.id)
        if (self.runbook.id, self.staging.entity) not in known:
            return TriggerState(status="inactive", pending_at=0, fired_at=0, held_ns=0)
        return self.engine.hot.state(self.runbook.id, self.staging.entity)

    def _compare(self, want: Expectation) -> None:
        state = self._state()
        ledger = self.ledger
        if want.state is not None and want.state != state.status:
            self._fail(want, f"state: {want.state}", f"state: {state.status}")
        if want.run is not None and want.run != ledger.run:
            self._fail(want, f"run: {want.run}", f"run: {ledger.run}")
        if want.did is not None:
            self._compare_actions(want, "did", want.did, ledger.did)
        if want.would is not None:
            self._compare_actions(want, "would", want.would, ledger.would)
        if want.spent is not None and not math.isclose(want.spent, ledger.spent, rel_tol=1e-6, abs_tol=0.005):
            self._fail(want, f"spent: {show(want.spent, 'USD')}", f"spent: {show(ledger.spent, 'USD')}")
        if want.unknown is not None and not (set(want.unknown) <= set(state.unknown) if want.unknown else not state.unknown):
            self._fail(want, f"unknown: {_listed(want.unknown)}", f"unknown: {_listed(state.unknown)}")

    def _compare_actions(self, want: Expectation, key: str, wanted: tuple[str, ...], found: list[str]) -> None:
        shown = [kind for kind in found if kind not in QUIET or kind in wanted]
        if list(wanted) != shown:
            self._fail(want, f"{key}: {_listed(wanted)}", f"{key}: {_listed(shown)}")

    def _fail(self, want: Expectation, expected: str, got: str) -> None:
        at = show_duration(want.at_ns / NS)
        self.failures.append(
            Failure(runbook=self.runbook.id, test=self.test.name, at=at, expected=expected, got=got, path=self.runbook.path, line=want.line)
        )


def _listed(names: tuple[str, ...] | list[str]) -> str:
    return f"[{', '.join(names)}]"


def run_test(
    runbook: Runbook, test: Test, *, make_engine: Callable[[Topology, Sources], Engine], coverage: Coverage | None = None
) -> TestOutcome:
    """Runs one test of a runbook on a fresh engine of `make_engine`; `coverage` is told of every record."""
    failures = _Case(runbook, test, make_engine, coverage).play()
    return TestOutcome(runbook=runbook.id, test=test.name, failures=failures)

