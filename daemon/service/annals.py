"""What the records say of runs, episodes and acts (floor 7): `Annals.take(seq, record)`, a pure fold that is bounded in memory.

Following the loop and reading the journal feed the same fold, so both come to the same. Money is USD, sizes are base units, times are ns.

    annals.take(seq, record)
    annals.runs["spike/dydx:ETH-USD/1700000000000000000/1"].view()
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import assert_never

from daemon.engine import records as r
from daemon.engine.actions import CallWebhook, CancelOrders, MoveBuffer, Outcome, ShrinkPosition
from daemon.service.views import ActView, EpisodeView, RunView
from daemon.service.words import WAITS, act_text, plain, when
from daemon.units import FOREVER, iso, show

RUNS_MAX = 10_000  # about 40 MB of rows
EPISODES_MAX = 2_000
ACTS_MAX = 500
ELDERS_MAX = 500  # runs under way that ten thousand later ones have passed
ENDED_MAX = 200  # of the latest ends, for the page of now

Write = ShrinkPosition | MoveBuffer | CancelOrders | CallWebhook  # what leaves the house: the gate and notices are state of the engine


@dataclass(slots=True, kw_only=True)
class ActRow:
    """A write that was sent; the filled part is counted once its outcome is definite."""

    requested: r.ActionRequested
    action: Write
    runbook: str
    outcome: Outcome | None = None

    @property
    def status(self) -> str:
        """sent | done | rejected | failed | unknown."""
        return "sent" if self.outcome is None else self.outcome.status

    def filled(self) -> tuple[float, float]:
        """USD that was done, and what it cost: fees and price against mid (> 0 paid)."""
        outcome, action = self.outcome, self.action
        if outcome is None or outcome.status != "done":
            return 0.0, 0.0
        fee = 0.0 if outcome.fee_usd is None else float(outcome.fee_usd)
        match action:
            case ShrinkPosition():
                size = float(action.size if outcome.filled_size is None else outcome.filled_size)
                mid = action.reference_price
                paid = mid if outcome.fill_price is None else float(outcome.fill_price)
                worse = paid - mid if action.side == "BUY" else mid - paid
                # A reference that is not known (NaN) costs nothing that could be told.
                return (size * paid if paid == paid else 0.0), fee + (size * worse if worse == worse else 0.0)
            case MoveBuffer():
                return float(action.amount if outcome.amount is None else outcome.amount), fee
            case CancelOrders() | CallWebhook():
                return 0.0, fee
            case _:
                assert_never(action)

    def view(self) -> ActView:
        """The act as the surface shows it."""
        outcome, action = self.outcome, self.action
        done = outcome is not None and outcome.status == "done"
        asked = filled = ""
        mid: float | None = None
        match action:
            case ShrinkPosition():
                asked, mid = plain(action.size), action.reference_price if action.reference_price == action.reference_price else None
                if outcome is not None and (done or outcome.filled_size is not None):
                    filled = plain(action.size if outcome.filled_size is None else outcome.filled_size)
            case MoveBuffer():
                asked = show(float(action.amount), "USD")
                if outcome is not None and done:
                    filled = show(float(action.amount if outcome.amount is None else outcome.amount), "USD")
            case CancelOrders() | CallWebhook():
                pass
        return ActView(
            action_id=action.action_id,
            run_id=self.requested.run_id,
            runbook=self.runbook,
            at=iso(self.requested.at),
            text=act_text(action),
            status=self.status,
            reason="" if outcome is None else outcome.reason,
            asked=asked,
            filled=filled,
            price=None if outcome is None or outcome.fill_price is None else float(outcome.fill_price),
            mid=mid,
            cost_usd=self.filled()[1] if done else None,
        )


@dataclass(slots=True, kw_only=True)
class RunRow:
    """A run and what came of it so far. `waiting` is a text, or what makes one when somebody asks."""

    run_id: str
    runbook: str
    entity: str
    episode: str
    started_at: int
    shadow: bool
    on_clear: bool
    seq_first: int
    seq_last: int
    status: str = "running"
    reason: str = ""
    ended_at: int | None = None
    asked_usd: float = 0.0
    filled_usd: float = 0.0
    cost_usd: float = 0.0
    waiting: str | Callable[[], str] = ""
    sent: dict[str, ActRow] = field(default_factory=dict)  # acts without a definite outcome, by action id
    approvers: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # steps that were passed over for a reason, which a run that is done must not hide

    @property
    def unknown(self) -> int:
        """How many of its acts may have happened."""
        return sum(act.outcome is not None for act in self.sent.values())

    def view(self) -> RunView:
        """The run as the surface shows it."""
        return RunView(
            run_id=self.run_id,
            runbook=self.runbook,
            entity=self.entity,
            episode=self.episode,
            started_at=iso(self.started_at),
            ended_at=None if self.ended_at is None else iso(self.ended_at),
            status=self.status,
            reason=self.reason,
            shadow=self.shadow,
            on_clear=self.on_clear,
            asked_usd=self.asked_usd,
            filled_usd=self.filled_usd,
            cost_usd=self.cost_usd,
            waiting=self.waiting if isinstance(self.waiting, str) else self.waiting(),
            unknown_outcomes=self.unknown,
        )


@dataclass(slots=True, kw_only=True)
class EpisodeRow:
    """An episode and the runs it had, refused ones too."""

    seq: int  # of its firing
    id: str
    runbook: str
    entity: str
    pending_at: int
    fired_at: int
    cleared_at: int | None = None
    ended: str = ""
    runs: list[str] = field(default_factory=list)

    def view(self) -> EpisodeView:
        """The episode as the surface shows it."""
        return EpisodeView(
            id=self.id,
            runbook=self.runbook,
            entity=self.entity,
            pending_at=when(self.pending_at),
            fired_at=iso(self.fired_at),
            cleared_at=None if self.cleared_at is None else iso(self.cleared_at),
            ended=self.ended,
            runs=tuple(self.runs),
        )


class Annals:
    """The latest runs, episodes and acts, in the order in which they began; one thread at a time."""

    def __init__(self, *, runs_max: int = RUNS_MAX, episodes_max: int = EPISODES_MAX, acts_max: int = ACTS_MAX) -> None:
        self.runs_max, self.episodes_max, self.acts_max = runs_max, episodes_max, acts_max
        self.runs: dict[str, RunRow] = {}
        self.elders: dict[str, RunRow] = {}  # under way when later ones took their place
        self.running: dict[str, RunRow] = {}
        self.ended: deque[RunRow] = deque(maxlen=ENDED_MAX)
        self.episodes: dict[str, EpisodeRow] = {}
        self.acts: dict[str, ActRow] = {}

    def run(self, run_id: str) -> RunRow | None:
        """A run that is remembered; None when it is not."""
        return self.runs.get(run_id) or self.elders.get(run_id)

    def take(self, seq: int, record: r.Record) -> None:
        """Take note of a record that is on disk; what is about a run that is not remembered is passed over."""
        match record:
            case r.TriggerChanged():
                self._trigger(seq, record)
            case r.RunStarted():
                self._start(seq, record)
            case r.RunRefused():
                self._refuse(seq, record)
            case r.RunFinished():
                self._finish(seq, record)
            case r.ActionRequested():
                self._request(seq, record)
            case r.ActionFinished():
                self._settle(seq, record)
            case r.StepFinished():
                row = self._touch(seq, record.run_id, "")
                if row is not None and record.status == "skipped" and record.reason:
                    row.skipped = (*row.skipped, f"{record.step} SKIPPED: {record.reason}")
            case r.StepStarted() | r.LocksTaken() | r.LocksReleased() | r.ActionWould() | r.LimitClipped():
                self.touch(seq, record.run_id)
            case r.LegAbandoned() | r.LegFinished() | r.ActionDenied():
                self.touch(seq, record.run_id)
            case r.StepPlanned():
                row = self._touch(seq, record.run_id, "")
                if row is not None:
                    row.asked_usd += record.notional_usd
            case r.StepWaiting() | r.RetryScheduled():
                self._touch(seq, record.run_id, lambda: _waiting(record))
            case r.ApprovalRequested():
                row = self._touch(seq, record.run_id, lambda: _approval(record, row))
                if row is not None:
                    row.approvers = ()
            case r.ApprovalAnswered():
                self._answered(seq, record)
            case r.MoveProgress():
                self._touch(seq, run_of(record.action_id), None)
            case r.RunbooksInForce() | r.HoldReset() | r.NoticeSent() | r.GateChanged() | r.PauseSet() | r.PauseEnded():
                pass
            case r.HaltChanged() | r.CommandTaken() | r.ResourceSeen() | r.SizeChanged() | r.KnowledgeChanged() | r.TimerTaken():
                pass
            case _:
                assert_never(record)

    def touch(self, seq: int, run_id: str) -> None:
        """Take note of a record that says no more than that its run goes on."""
        self._touch(seq, run_id, "")

    # --- episodes -----------------------------------------------------------------------------------------------------

    def _trigger(self, seq: int, record: r.TriggerChanged) -> None:
        if record.change == "fired":
            self.episodes[record.episode] = EpisodeRow(
                seq=seq,
                id=record.episode,
                runbook=record.runbook,
                entity=record.entity,
                pending_at=record.pending_at,
                fired_at=record.fired_at,
            )
            if len(self.episodes) > self.episodes_max:
                del self.episodes[next(iter(self.episodes))]
            return
        row = self.episodes.get(record.episode)
        if row is not None:
            row.cleared_at, row.ended = record.at, record.change

    # --- runs ---------------------------------------------------------------------------------------------------------

    def _start(self, seq: int, record: r.RunStarted) -> None:
        row = RunRow(
            run_id=record.run_id,
            runbook=record.runbook,
            entity=record.entity,
            episode=record.episode,
            started_at=record.at,
            shadow=record.shadow,
            on_clear=record.on_clear,
            seq_first=seq,
            seq_last=seq,
        )
        self.running[record.run_id] = row
        self._add(row)

    def _refuse(self, seq: int, record: r.RunRefused) -> None:
        row = RunRow(
            run_id=record.run_id,
            runbook=record.runbook,
            entity=record.entity,
            episode=record.episode,
            started_at=record.at,
            ended_at=record.at,
            status=record.status,
            reason=record.reason,
            shadow=False,
            on_clear=False,
            seq_first=seq,
            seq_last=seq,
        )
        self.ended.append(row)
        self._add(row)

    def _add(self, row: RunRow) -> None:
        self.runs[row.run_id] = row
        episode = self.episodes.get(row.episode)
        if episode is not None:
            episode.runs.append(row.run_id)
        if len(self.runs) > self.runs_max:
            oldest = self.runs.pop(next(iter(self.runs)))
            if oldest.ended_at is None:  # what is under way is never forgotten
                self.elders[oldest.run_id] = oldest
                if len(self.elders) > ELDERS_MAX:
                    past = next((row.run_id for row in self.elders.values() if row.ended_at is not None), None)
                    if past is not None:
                        del self.elders[past]

    def _touch(self, seq: int, run_id: str, waiting: str | Callable[[], str] | None) -> RunRow | None:
        """The run that a record is about; `waiting` None leaves what it waits for as it is."""
        row = self.runs.get(run_id) or self.elders.get(run_id)
        if row is not None:
            row.seq_last = seq
            if waiting is not None and row.ended_at is None:
                row.waiting = waiting
        return row

    def _finish(self, seq: int, record: r.RunFinished) -> None:
        row = self._touch(seq, record.run_id, "")
        if row is None:
            return
        row.status, row.reason, row.ended_at = record.status, record.reason or "; ".join(row.skipped), record.at
        self.running.pop(row.run_id, None)
        self.ended.append(row)

    def _answered(self, seq: int, record: r.ApprovalAnswered) -> None:
        row = self._touch(seq, record.run_id, "" if record.granted or record.answer != "approved" else None)
        if row is not None and record.answer == "approved" and record.actor not in row.approvers:
            row.approvers = (*row.approvers, record.actor)

    # --- acts ---------------------------------------------------------------------------------------------------------

    def _request(self, seq: int, record: r.ActionRequested) -> None:
        action = record.action
        if not isinstance(action, Write):
            self._touch(seq, record.run_id, "")
            return
        act = ActRow(requested=record, action=action, runbook=action.runbook)
        self.acts[action.action_id] = act
        if len(self.acts) > self.acts_max:
            del self.acts[next(iter(self.acts))]
        row = self._touch(seq, record.run_id, lambda: f"the answer to: {act_text(action)}")
        if row is not None:
            row.sent[action.action_id] = act

    def _settle(self, seq: int, record: r.ActionFinished) -> None:
        row = self._touch(seq, record.run_id, "")
        act = row.sent.get(record.action_id) if row is not None else None
        act = act or self.acts.get(record.action_id)
        if act is None:
            return
        act.outcome = record.outcome
        if row is None:
            return
        if record.outcome.status == "unknown":
            row.waiting = "" if row.ended_at is not None else f"what became of: {act_text(act.action)}"
            return
        row.sent.pop(record.action_id, None)
        filled, cost = act.filled()
        row.filled_usd += filled
        row.cost_usd += cost
        resume_at = act.requested.resume_at
        if row.ended_at is None and resume_at > record.at:
            row.waiting = lambda: f"its next slice, not before {iso(resume_at)}"


def run_of(action_id: str) -> str:
    """The run of an action: `spike/dydx:ETH-USD/1700000000000000000/1` of that, followed by `.shrink.1.1`."""
    episode, _, rest = action_id.rpartition("/")
    return f"{episode}/{rest.partition('.')[0]}"


def subject_of(run_id: str) -> tuple[str, str]:
    """Runbook and entity of a run: `spike`, `dydx:ETH-USD`; empty texts for what is no run id."""
    runbook, _, rest = run_id.partition("/")
    entity = rest.rpartition("/")[0].rpartition("/")[0]
    return (runbook, entity) if entity else ("", "")


def _waiting(record: r.StepWaiting | r.RetryScheduled) -> str:
    if isinstance(record, r.RetryScheduled):
        return f"its retry at {iso(record.next_at)}: {record.reason}"
    until = "" if record.until >= FOREVER else f", until {iso(record.until)}"
    return f"{WAITS[record.waiting]}: {record.reason}{until}"


def _approval(record: r.ApprovalRequested, row: RunRow | None) -> str:
    given = len(row.approvers) if row is not None else 0
    count = f", {given} of {record.quorum} so far" if record.quorum > 1 else ""
    who = ", ".join(record.people) or "anyone who may approve"
    return f"an approval of {record.step} by {who}{count}, until {iso(record.deadline)}"


