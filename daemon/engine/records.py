"""The engine's decisions (floor 4): the closed union `Record`. Each is JSON-able, says why, and is all that `apply` needs.

`at` is the time of the decision (for timers, the due time). Ids: instance `<runbook>/<entity>`, episode `<instance>/<fired_at>`,
run `<episode>/<n>` (`<episode>/clear` for on_clear), action `<run>.<step>.<slice>.<attempt>`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from daemon.engine.actions import Action, Notify, Outcome

RunStatus = Literal["done", "skipped", "blocked", "failed", "aborted", "unknown", "shadow"]
StepStatus = Literal["done", "skipped", "blocked", "failed", "unknown", "aborted"]
WaitReason = Literal["guards", "lock", "inhibited", "paused", "halted", "fresh", "approval", "verify", "wait", "slice", "retry", "lookup"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Leg:
    """One position's share of a shrink: `size` base units (> 0) to take off on `side`; `filled` so far."""

    position: str
    side: Literal["BUY", "SELL"]
    size: Decimal
    filled: Decimal = Decimal(0)
    slices: int = 0  # slices finished
    failed: str = ""  # why this leg was given up


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbooksInForce:
    """The set that decides from now on: runbook id -> digest of its source."""

    at: int
    runbooks: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerChanged:
    """An episode began (`fired`) or ended; `sizes` are the positions it is about, as they were when it fired."""

    at: int
    runbook: str
    entity: str
    episode: str
    change: Literal["fired", "cleared", "gone", "reset"]
    pending_at: int
    fired_at: int
    reason: str = ""
    sizes: Mapping[str, float] = field(default_factory=dict)
    trace: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class HoldReset:
    """An instance started anew at inactive: a gap longer than its hold bears, or a change of its logic."""

    at: int
    runbook: str
    entity: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRefused:
    """A run that was wanted and never started; it used up its turn of the episode."""

    at: int
    run_id: str
    runbook: str
    entity: str
    episode: str
    status: Literal["skipped", "blocked"]
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunStarted:
    """A run began: `frame` holds every `name@start`, `trace` why the trigger holds."""

    at: int
    run_id: str
    runbook: str
    entity: str
    episode: str
    digest: str
    on_clear: bool
    shadow: bool
    frame: Mapping[str, float]
    trace: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksTaken:
    """The run holds these resources from now on."""

    at: int
    run_id: str
    locks: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LocksReleased:
    """The run gave its resources back before its end: for an approval, or to a survival runbook."""

    at: int
    run_id: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepStarted:
    """A step's `when` was TRUE (or it has none)."""

    at: int
    run_id: str
    step: str
    index: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepWaiting:
    """A step waits for something, at most until `until` (FOREVER: no deadline of its own)."""

    at: int
    run_id: str
    step: str
    waiting: WaitReason
    until: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class StepPlanned:
    """What a sized step is going to do; for moves `amount` USD, for shrinks `legs`."""

    at: int
    run_id: str
    step: str
    legs: tuple[Leg, ...] = ()
    amount: Decimal | None = None
    notional_usd: float = 0.0
    fee_usd: float = math.nan


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalRequested:
    """People are asked: for `legs`, `amount` and `what` (the route of a move, the payload of a webhook); `plan_digest` names all of it."""

    at: int
    run_id: str
    step: str
    deadline: int
    people: tuple[str, ...]
    quorum: int
    notional_usd: float
    legs: tuple[Leg, ...]
    amount: Decimal | None
    plan_digest: str
    reason: str
    what: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ApprovalAnswered:
    """One person's answer, or the timeout's (`actor` empty); `granted` once the quorum is met."""

    at: int
    run_id: str
    step: str
    answer: Literal["approved", "denied", "timed_out"]
    actor: str
    granted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionRequested:
    """The intent: journaled before the wire. `usd` counts towards limits; `resume_at` is the earliest next slice."""

    at: int
    run_id: str
    step: str
    slice: int
    attempt: int
    action: Action
    usd: float
    resume_at: int
    give_up_at: int  # no answer and no lookup by then: unknown
    leg: int = 0
    collateral_before: float = 0.0  # moves: what the destination held, NaN when unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionDenied:
    """The guard refused an action: over a limit, against a survival runbook, or not checkable."""

    at: int
    run_id: str
    step: str
    kind: str
    limit: str
    reason: str
    usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LimitClipped:
    """A survival action was made smaller to stay within a limit; somebody is paged."""

    at: int
    run_id: str
    step: str
    limit: str
    wanted_usd: float
    allowed_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionWould:
    """What a shadow run would have done; nothing was sent."""

    at: int
    run_id: str
    step: str
    kind: str
    usd: float
    text: str
    account: str = ""
    legs: tuple[Leg, ...] = ()
    amount: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionFinished:
    """The outcome of an action, or `unknown` for want of one; a later definite outcome replaces an unknown one."""

    at: int
    action_id: str
    run_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryScheduled:
    """A failed send is tried again, not before `next_at`."""

    at: int
    run_id: str
    step: str
    next_at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LegAbandoned:
    """One position of a `shrink_account` could not be shrunk; the others go on."""

    at: int
    run_id: str
    step: str
    leg: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class LegFinished:
    """Nothing more to take off one position of a shrink."""

    at: int
    run_id: str
    step: str
    leg: int


@dataclass(frozen=True, slots=True, kw_only=True)
class StepFinished:
    """A step's end; `acted` when something of it was done in the world."""

    at: int
    run_id: str
    step: str
    kind: str
    status: StepStatus
    reason: str
    acted: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFinished:
    """A run's end; its cooldown starts and its locks are free."""

    at: int
    run_id: str
    status: RunStatus
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSent:
    """A message went to the outbox."""

    at: int
    action: Notify
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class GateChanged:
    """The gate for opening orders of an entity was closed or opened by `by` (a runbook id, or `operator`)."""

    at: int
    kind: str
    entity: str
    closed: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseSet:
    """No runs start for `target` (a runbook id, an instance, or "" for all) until `until` (FOREVER: until unpaused)."""

    at: int
    target: str
    until: int
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseEnded:
    """Runs may start again."""

    at: int
    target: str
    by: str


@dataclass(frozen=True, slots=True, kw_only=True)
class HaltChanged:
    """The halt of everything: no write of any runbook while it stands; notices still go out."""

    at: int
    halted: bool
    by: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CommandTaken:
    """A person's command counted, once; `effect` says what it did, or why it did nothing."""

    at: int
    command_id: str
    actor: str
    verb: str
    target: str
    effect: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ResourceSeen:
    """A reading of a written resource arrived after the write settled: it may be sized and verified again."""

    at: int
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeChanged:
    """A position's size moved during an episode; `ours` when our own fills explain it. Of one opened during the episode `joins`: the size
    it counts from there."""

    at: int
    position: str
    size: float
    ours: bool
    cause: str
    episodes: tuple[str, ...] = ()  # stopped by a change that is not ours
    joins: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveProgress:
    """A transfer under way: `shown` by its route, `credited`, `overdue`, or `acknowledged` by a person.

    `credited`: its destination holds more, or its route no longer shows it. The latter is so of a refund too: a route does not say which.
    """

    at: int
    action_id: str
    stage: Literal["shown", "credited", "overdue", "acknowledged"]


@dataclass(frozen=True, slots=True, kw_only=True)
class KnowledgeChanged:
    """An instance's trigger lost its readings (`unknown` names them) or has them again (empty)."""

    at: int
    runbook: str
    entity: str
    unknown: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TimerTaken:
    """A calendar timer counted, once a due time."""

    at: int
    timer: str
    due: int


Record = (
    RunbooksInForce
    | TriggerChanged
    | HoldReset
    | RunRefused
    | RunStarted
    | LocksTaken
    | LocksReleased
    | StepStarted
    | StepWaiting
    | StepPlanned
    | ApprovalRequested
    | ApprovalAnswered
    | ActionRequested
    | ActionDenied
    | LimitClipped
    | ActionWould
    | ActionFinished
    | RetryScheduled
    | LegAbandoned
    | LegFinished
    | StepFinished
    | RunFinished
    | NoticeSent
    | GateChanged
    | PauseSet
    | PauseEnded
    | HaltChanged
    | CommandTaken
    | ResourceSeen
    | SizeChanged
    | MoveProgress
    | KnowledgeChanged
    | TimerTaken
)
