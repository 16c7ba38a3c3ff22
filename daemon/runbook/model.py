"""A loaded runbook: what the YAML said, checked and typed (floor 3). Made by `load.py`, compiled by `compile.py`, read by the engine.

Durations are int ns, money is float USD, ratios are fractions. An `Expression` is one typed expression at one place of the file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from daemon.language.syntax import Node
from daemon.language.typing import Typed
from daemon.world.entities import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Param:
    """A named constant of the runbook, as written: `value` in the catalogue's `unit`, `text` its literal; bounds in the same unit.

    A param whose definition is wrong has the unit "": it stands for anything, so that its one mistake is told once.
    """

    name: str
    value: float
    unit: str
    text: str
    low: float | None = None
    high: float | None = None
    doc: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Expression:
    """One typed expression: `index` numbers it within its runbook (`value_<index>` of the program)."""

    index: int
    where: str  # "trigger.when", "guards[0]", "steps[1].shrink_position.by"
    text: str
    typed: Typed
    line: int
    column: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Where:
    """The static filter over labels of the scope: two-valued, a missing label is the empty text (`language/labels.py` evaluates it)."""

    text: str
    node: Node


@dataclass(frozen=True, slots=True, kw_only=True)
class Label:
    """`{market}` in a text: a label of the instance's entity."""

    name: str


TextPart = str | Expression | Label
Template = tuple[TextPart, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """When an instance fires and when it clears; `until` None means `not (when)`."""

    when: Expression
    for_ns: int = 0
    until: Expression | None = None
    until_for_ns: int = 0
    on_unknown: Literal["hold", "fire"] = "hold"


@dataclass(frozen=True, slots=True, kw_only=True)
class Repeat:
    """Further runs while still firing: every `every_ns` after the previous start, at most `max` further."""

    every_ns: int
    max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Amount:
    """A bound or a size as written: an expression of unit ratio, USD, base or price (`25%`, `25_000 USD`)."""

    expression: Expression
    unit: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds in money of what this runbook may do; a ratio `per_episode` is of the size at the start of the episode."""

    per_run_usd: float | None = None
    per_day_usd: float | None = None
    per_episode_usd: float | None = None
    per_episode_ratio: float | None = None
    runs: int | None = None
    runs_per_ns: int | None = None  # 6/day: runs 6, runs_per_ns one day


@dataclass(frozen=True, slots=True, kw_only=True)
class Shrink:
    """`shrink_position`: by a share (or size) of the episode's start, or down to a size."""

    by: Amount | None = None
    to: Amount | None = None
    max_slippage: float | None = None
    max_share_of_depth: float | None = None
    slices: int = 1
    every_ns: int = 0
    stop_when: Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkAccount:
    """`shrink_account`: reduce positions of the account until its margin ratio is `to_margin_ratio`, or by a share each."""

    to_margin_ratio: Amount | None = None
    by: Amount | None = None
    order: Literal["best_survival", "most_expensive_first", "pro_rata"] = "best_survival"
    max_slippage: float | None = None
    max_share_of_depth: float | None = None
    slices: int = 1
    every_ns: int = 0
    stop_when: Expression | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """`move_buffer`: `amount` USD, or what brings the destination account's margin ratio to `to_ratio`."""

    source: str
    destination: str  # "" = the instance's account
    amount: Amount | None = None
    to_ratio: Amount | None = None
    route: str = "best"
    max_fee: Amount | None = None  # USD, or a ratio of the amount
    deadline_ns: int | None = None
    keep_at_source: float = 0.0  # USD


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """`cancel_orders` of this position's or market's market, or of the whole account."""

    scope: Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Gate:
    """`halt` (closed True) or `resume` (closed False) openings of the instance's entity of kind `scope`."""

    scope: Kind
    closed: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Tell:
    """`notify`: a text to channels."""

    to: tuple[str, ...]
    text: Template


@dataclass(frozen=True, slots=True, kw_only=True)
class Webhook:
    """`webhook`: an executor outside; `payload` leaves are texts (with `{...}`), numbers or bools."""

    endpoint: str
    payload: Mapping[str, object]  # leaves: Template | float | bool | None, nested in dicts and tuples


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """`wait`: until `that` is TRUE, at most `within_ns`; not shown in time = failed."""

    that: Expression
    within_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """`pause` another runbook (or this one) for a time."""

    runbook: str
    for_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rebalance:
    """`rebalance` of a bucket to its target or its band's edge."""

    bucket: str  # "" = all
    to: Literal["target", "edge"] = "target"


Act = Shrink | ShrinkAccount | Move | Cancel | Gate | Tell | Webhook | Wait | Pause | Rebalance


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """Who must agree before a step writes; `when` None = always."""

    when: Expression | None
    people: tuple[str, ...]
    quorum: int = 1
    timeout_ns: int = 120_000_000_000
    otherwise: Literal["skip", "proceed", "abort"] = "skip"


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """Sends of one slice, at most `attempts`; the backoff doubles."""

    attempts: int = 1
    backoff_ns: int = 2_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Verify:
    """What must show within a time of the settled outcome."""

    that: Expression
    within_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One item of a run. `kind` is the YAML key of its action (`shrink_position`), which `did` in tests names."""

    id: str
    kind: str
    act: Act
    when: Expression | None = None
    approval: Approval | None = None
    timeout_ns: int = 20_000_000_000
    retry: Retry = field(default_factory=Retry)
    verify: Verify | None = None
    on_failure: Literal["abort", "continue", "escalate"] = "abort"

    @property
    def writes(self) -> bool:
        """True when the step changes something at a venue or moves money."""
        return isinstance(self.act, Shrink | ShrinkAccount | Move | Cancel | Gate | Webhook | Rebalance)

    @property
    def guarded(self) -> bool:
        """True when guards gate the step: every step except halt, cancel_orders and notify."""
        return not (isinstance(self.act, Cancel | Tell) or (isinstance(self.act, Gate) and self.act.closed))


@dataclass(frozen=True, slots=True, kw_only=True)
class OnFailure:
    """What a failed run leads to."""

    notify: tuple[str, ...] = ()
    then: Literal["pause", "stay_armed", "halt_all"] = "pause"


@dataclass(frozen=True, slots=True, kw_only=True)
class Notices:
    """Lifecycle notices of the runbook."""

    to: tuple[str, ...]
    events: tuple[str, ...]
    repeat_ns: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Expectation:
    """What a test expects at `at_ns` after 0s; None = not asked."""

    at_ns: int
    state: str | None = None
    run: str | None = None
    did: tuple[str, ...] | None = None
    would: tuple[str, ...] | None = None
    spent: float | None = None
    unknown: tuple[str, ...] | None = None
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """One scenario test of a runbook, with `given` already merged with the first test's. Values are in catalogue units, NaN = `missing`."""

    __test__ = False

    name: str
    given: Mapping[str, object]  # signal -> float, plus entity keys (market, account, chain, route, venue, ...) as text
    series: Mapping[str, tuple[tuple[int, float], ...]]  # signal -> ((offset_ns, value), ...) sorted by offset
    expect: tuple[Expectation, ...]
    mocks: Mapping[str, object] = field(default_factory=dict)  # action kind -> {outcome, reconcile, sets} or a list of them
    approvals: tuple[tuple[int, str], ...] = ()  # (offset_ns, step id)
    restart: tuple[int, int] | None = None  # (at_ns, down_ns)
    stage: str | None = None
    every_ns: int = 5_000_000_000
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceptance:
    """One item of `replay:`: a recording's name and assertions over the report, as text triples (name, op, value)."""

    recording: str
    asserts: tuple[str, ...]
    line: int = 0


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Runbook:
    """A whole runbook. `logic_digest` covers scope, where, max_age, let and trigger only; `digest` the whole source text."""

    id: str
    title: str
    owner: str
    severity: Literal["info", "warning", "critical"]
    intent: Literal["economy", "survival"] | None
    stage: Literal["disabled", "shadow", "armed"]
    scope: Kind
    trigger: Trigger
    steps: tuple[Step, ...]
    path: str
    source: str
    digest: str
    logic_digest: str
    labels: Mapping[str, str] = field(default_factory=dict)
    review_every: str | None = None
    review_last: str | None = None
    where: Where | None = None
    params: Mapping[str, Param] = field(default_factory=dict)
    max_age: Mapping[str, int] = field(default_factory=dict)  # signal -> ns
    lets: Mapping[str, Typed] = field(default_factory=dict)
    cooldown_ns: int = 0
    repeat: Repeat | None = None
    mode: Literal["single", "queued", "restart"] = "single"
    priority: int = 50
    locks: tuple[str, ...] = ()
    inhibited_by: tuple[str, ...] = ()
    guards: tuple[Expression, ...] = ()
    guard_wait_ns: int = 0
    limits: Limits = field(default_factory=Limits)
    on_clear: tuple[Step, ...] = ()
    on_failure: OnFailure = field(default_factory=OnFailure)
    notify: Notices | None = None
    tests: tuple[Test, ...] = ()
    replay: tuple[Acceptance, ...] = ()
    expressions: tuple[Expression, ...] = ()  # all of them, by index
    positions: Mapping[str, tuple[int, int]] = field(default_factory=dict)  # key path -> (line, column), for warnings

    def all_steps(self) -> Iterator[Step]:
        """Steps, then the steps of on_clear."""
        yield from self.steps
        yield from self.on_clear
