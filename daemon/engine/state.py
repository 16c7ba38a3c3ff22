"""The cold state (floor 4): everything the engine remembers from the episode on, changed only by `apply(cold, record)`.

Frozen items in plain dictionaries, so that `codec.encode_as(cold, Cold)` is the checkpoint. Keys: an instance is
`<runbook>/<entity>`; a resource `size/<position>` or `buffer/<chain>`; a lock `<kind>/<entity>`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from decimal import Decimal
from typing import Literal

from daemon.engine.actions import Action, Outcome
from daemon.engine.edge import Plan
from daemon.engine.limits import Spend
from daemon.engine.records import Leg
from daemon.units import FOREVER, NEVER

StepPhase = Literal["ready", "sent", "settled", "verify"]


def instance_of(runbook: str, entity: str) -> str:
    """The key of an instance; a runbook id holds no slash."""
    return f"{runbook}/{entity}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """The latest episode of an instance, from firing to clearing."""

    id: str
    runbook: str
    entity: str
    pending_at: int
    fired_at: int
    cleared_at: int | None = None
    ended: str = ""  # cleared | gone | reset
    sizes: Mapping[str, float] = field(default_factory=dict)
    turns: int = 0  # runs started or refused
    last_turn_at: int = NEVER
    acted: bool = False  # some step was done and its on_clear has not run yet
    acted_shadow: bool = False
    clear_started: bool = False
    external: str = ""  # a size change that is not ours: no further runs
    noticed_at: int = NEVER  # last lifecycle notice `fired`

    @property
    def open(self) -> bool:
        """True while the trigger fires or clears."""
        return self.cleared_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A question to people, and their answers so far."""

    requested_at: int
    deadline: int
    people: tuple[str, ...]
    quorum: int
    notional_usd: float
    legs: tuple[Leg, ...]
    amount: Decimal | None
    plan_digest: str
    approvers: tuple[str, ...] = ()
    what: Mapping[str, object] = field(default_factory=dict)
    answer: Literal["", "granted", "denied", "timed_out"] = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProgress:
    """Where a run is in its current step."""

    id: str
    index: int
    started_at: int
    phase: StepPhase = "ready"
    planned: bool = False
    legs: tuple[Leg, ...] = ()
    leg: int = 0
    amount: Decimal | None = None
    plan: Plan | None = None
    slice: int = 0  # slices sent and settled, over all legs
    attempt: int = 0  # sends of the current slice
    next_at: int = NEVER  # not before
    waiting: str = ""
    wait_until: int = FOREVER
    wait_reason: str = ""
    guards_until: int = FOREVER  # how long the next write's guards may fail, once one did
    approval: Approval | None = None
    action_id: str = ""  # unsettled, or the last one
    sent_at: int = NEVER
    resume_at: int = NEVER
    settled_at: int = NEVER
    outcome: Outcome | None = None  # of the last send, until decided upon
    acted: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class StepOutcome:
    """How a finished step of a run ended."""

    step: str
    kind: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """A run under way."""

    id: str
    runbook: str
    entity: str
    episode: str
    digest: str
    started_at: int
    on_clear: bool
    shadow: bool
    frame: Mapping[str, float]
    sizes: Mapping[str, float]
    plan: Plan | None = None  # of the last planned step that has ended
    index: int = 0  # the next step to start, or the one under way
    step: StepProgress | None = None
    locks: tuple[str, ...] = ()
    wrote: bool = False
    cleared: bool = False  # its episode is over
    stop: str = ""  # ends at the next boundary with this reason: gone, external change
    failed: str = ""  # a failure that a step handled by `continue`
    paged: bool = False
    finished: tuple[StepOutcome, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What an instance leaves behind: cooldown, the last run, what was done (latest 100)."""

    last_start_at: int = NEVER
    last_end_at: int = NEVER
    last_run: str = ""
    last_status: Literal["", "done", "skipped", "blocked", "failed", "aborted", "unknown", "shadow"] = ""
    last_reason: str = ""
    last_steps: tuple[StepOutcome, ...] = ()
    did: tuple[str, ...] = ()
    would: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()  # readings its trigger lacks, as last told


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """An action whose outcome is not known for certain."""

    action: Action
    run_id: str
    step: str
    leg: int
    at: int
    usd: float
    give_up_at: int
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SizeTrack:
    """A position's last seen size while an episode is about it, and the signed change our fills will still show."""

    size: float
    unobserved: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Money on its way, from the request until the destination shows the credit."""

    runbook: str
    source: str
    destination: str
    route: str
    amount: Decimal
    at: int
    baseline: float  # what the destination held, NaN when unknown
    settled: bool = False
    shown: bool = False
    overdue: bool = False
    source_seen: bool = False  # the source's balance was read after the debit


@dataclass(frozen=True, slots=True, kw_only=True)
class Closure:
    """One who closed a gate."""

    by: str
    at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PauseState:
    """No runs start for its target."""

    until: int
    by: str
    at: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A run that started, for limits of runs."""

    at: int
    runbook: str
    shadow: bool


@dataclass(slots=True, kw_only=True)
class Cold:
    """The whole cold state; only `apply` changes it."""

    in_force: dict[str, str] = field(default_factory=dict)  # runbook id -> digest
    episodes: dict[str, Episode] = field(default_factory=dict)  # by instance
    runs: dict[str, Run] = field(default_factory=dict)
    memories: dict[str, Memory] = field(default_factory=dict)  # by instance
    ledger: dict[str, Spend] = field(default_factory=dict)  # by action id
    starts: tuple[Start, ...] = ()
    sent: dict[str, Sent] = field(default_factory=dict)  # by action id
    transfers: dict[str, Transfer] = field(default_factory=dict)  # by action id
    sizes: dict[str, SizeTrack] = field(default_factory=dict)  # by position
    unseen: dict[str, int] = field(default_factory=dict)  # resource -> only readings after this time count
    gates: dict[str, tuple[Closure, ...]] = field(default_factory=dict)  # "<kind>/<entity>" -> who closed it
    pauses: dict[str, PauseState] = field(default_factory=dict)
    halted: str = ""  # why everything is halted; empty when it is not
    commands: dict[str, int] = field(default_factory=dict)  # command id -> at, latest 10,000
    timers: dict[str, int] = field(default_factory=dict)  # calendar timer -> latest due taken

    def copied(self) -> Cold:
        """The same state, apart from this one: what it holds is frozen, so its dictionaries are all there is to copy."""
        made = replace(self)
        for each in fields(made):
            held = getattr(made, each.name)
            if isinstance(held, dict):
                setattr(made, each.name, dict(held))
        return made

    def active_runs(self, runbook: str, entity: str) -> list[Run]:
        """Runs of one instance that have not ended, oldest first."""
        return [run for run in self.runs.values() if run.runbook == runbook and run.entity == entity]
