"""What the operator's surface shows (floor 7): immutable views, built by this room, told by API, pages, metrics, MQTT and command line.

Every text field that ends in `at`, `until`, `since` or `deadline` is ISO-8601 UTC of the daemon's clock (the venue's, when that is
followed) or None; ages and durations are seconds; money is USD; ratios are fractions; sizes are base units as decimal text. A number
that is None is UNKNOWN; an infinite one (a flat account's survivable move) is `inf` here and null in JSON.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

# The loop turns at least once a second and publishes four times: a snapshot that is older is the past, and the loop stands.
STANDS_AFTER_S = 5.0

Line = Literal["BLIND", "NEEDS YOU", "ACTING", "WATCHING", "QUIET"]
Verb = Literal["approve", "deny", "pause", "unpause", "halt", "resume", "ack"]


# --- the world ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class GateAnswer:
    """Whether strategies may open in a market. What cannot be known is closed."""

    market: str
    open: bool
    why: str
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadingView:
    """One signal of one entity: `shown` carries the unit (`0.012 %/h`), or says `unknown`."""

    signal: str
    value: float | None
    unit: str
    shown: str
    age_s: float | None  # None: never seen
    role: Literal["observed", "derived"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntityView:
    """An entity with its labels, links and readings."""

    kind: str
    id: str
    labels: Mapping[str, str]
    links: Mapping[str, str]
    readings: tuple[ReadingView, ...]
    gate: GateAnswer | None = None  # of a market


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedView:
    """One poll of one feed; `state` is ok | failing | stale | waiting."""

    source: str
    state: str
    every_s: float
    age_s: float | None
    failures: int
    skipped: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """A quantity over time: `times` are seconds since 1970 (the daemon's clock), `values` None where it was unknown."""

    name: str  # `funding_rate`, or the text of an expression
    entity: str
    unit: str
    times: tuple[float, ...]
    values: tuple[float | None, ...]
    threshold: float | None = None  # the bound it is compared with now
    clears: float | None = None  # the bound of `until`, where it differs


# --- what was decided ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyNode:
    """One sub-expression with what it came to; `distance` is value less bound of a comparison, in its own unit."""

    text: str
    shown: str
    value: float | None
    unit: str  # `truth`: value 0 FALSE, 1 UNKNOWN, 2 TRUE
    role: str
    signal: str = ""
    age_s: float | None = None
    distance: float | None = None
    distance_shown: str = ""  # `0.038 %/h below`
    kids: tuple[WhyNode, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """A named condition of a runbook: its trigger, its end, a guard."""

    name: Literal["when", "until", "guard"]
    verdict: Literal["TRUE", "FALSE", "UNKNOWN"]
    tree: WhyNode


@dataclass(frozen=True, slots=True, kw_only=True)
class WhyView:
    """Why an instance is where it is, and what it lacks to go on."""

    runbook: str
    title: str
    entity: str
    stage: str
    state: str  # inactive | pending | firing | clearing
    sentence: str  # one line: `not firing: funding_rate is 0.012 %/h, 0.038 %/h below 0.05 %/h`
    since: str | None
    held_s: float
    hold_s: float  # `for:` (or `until_for:` while clearing)
    conditions: tuple[Condition, ...]
    held_back: tuple[str, ...]  # paused, cooldown until ..., inhibited by ..., halted, limit used up
    last_run: str
    last_status: str
    last_reason: str
    lines: tuple[str, ...]  # the same as text, for a terminal


@dataclass(frozen=True, slots=True, kw_only=True)
class InstanceView:
    """A runbook on an entity."""

    runbook: str
    entity: str
    state: str
    since: str | None
    unknown: tuple[str, ...]
    running: tuple[str, ...]  # run ids under way
    last_run: str
    last_status: str
    last_reason: str
    cooldown_until: str | None
    paused: str
    spent_day_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbookView:
    """A runbook in force."""

    id: str
    title: str
    owner: str
    stage: str  # armed | shadow | disabled
    path: str
    digest: str
    scope: str
    instances: Mapping[str, int]  # state -> how many; `unknown`: how many lack a reading
    paused: str  # until when and why; empty when it is not
    spent_day_usd: float
    per_day_usd: float | None
    runs_day: int
    runs_max: int | None
    last_run: str
    last_status: str


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbookDetail:
    """A runbook with its source text as loaded."""

    head: RunbookView
    source: str
    when: str
    until: str
    hold_s: float
    until_hold_s: float
    cooldown_s: float
    steps: tuple[str, ...]  # one line a step
    instances: tuple[InstanceView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A run in one line; `status` is running, or done | skipped | blocked | failed | aborted | unknown | shadow."""

    run_id: str
    runbook: str
    entity: str
    episode: str
    started_at: str
    ended_at: str | None
    status: str
    reason: str
    shadow: bool
    on_clear: bool
    asked_usd: float  # notional that was asked for
    filled_usd: float
    cost_usd: float  # fees and price against mid; > 0 paid
    waiting: str  # what a running one waits for
    unknown_outcomes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """One thing that happened to a run: a record, in words and whole."""

    seq: int
    at: str
    kind: str  # the record's type
    step: str
    title: str
    lines: tuple[str, ...]
    tone: Literal["plain", "good", "bad", "wait"]
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDetail:
    """A run with its trace: why it started, and everything that came of it, oldest first."""

    head: RunView
    why: WhyNode | None
    frame: Mapping[str, float]
    moments: tuple[Moment, ...]
    source_digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeView:
    """From firing to clearing."""

    id: str
    runbook: str
    entity: str
    pending_at: str | None
    fired_at: str
    cleared_at: str | None
    ended: str
    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryView:
    """A journal entry."""

    seq: int
    part: int
    position: int
    at: str
    role: str  # event | record
    type: str
    summary: str
    hash: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Entries:
    """A page of the journal, newest first; `before` of the next page, None at the end."""

    entries: tuple[EntryView, ...]
    next_before: int | None
    searched: int  # entries that were looked at


# --- money --------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionView:
    """A position as its account's margin sees it."""

    id: str
    market: str
    size: str  # + long, - short
    notional_usd: float | None
    entry_price: float | None
    price: float | None  # what margin uses
    unrealized_pnl_usd: float | None
    funding_daily_usd: float | None  # > 0 paid
    liquidation_price: float | None
    liquidation_distance: float | None
    exit_cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountView:
    """A margin account; `margin_ratio` 1 is liquidation."""

    id: str
    venue: str
    equity_usd: float | None
    collateral_usd: float | None
    free_collateral_usd: float | None
    leverage: float | None
    margin_ratio: float | None  # at the oracle's (margin) price
    margin_ratio_at_mid: float | None
    margin_ratio_at_reference: float | None
    survivable_move: float | None  # fraction, >= 0; inf without positions
    time_to_liquidation_s: float | None
    net_delta_usd: float | None
    age_s: float | None
    flat: bool  # no open position: nothing can be liquidated
    positions: tuple[PositionView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outlook:
    """An account's figures before or after a plan."""

    margin_ratio: float | None
    survivable_move: float | None
    net_delta_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class LegView:
    """One write of a plan."""

    text: str  # `SELL 0.4 dydx:BTC-USD, reduce-only`
    notional_usd: float


@dataclass(frozen=True, slots=True, kw_only=True)
class NeedView:
    """Something that waits for a person. `digest` must come back with an approval: it names the exact plan."""

    kind: Literal["approval", "unknown_outcome", "stuck_transfer", "unread_resource", "refused_reload", "undelivered", "restored"]
    target: str  # what a command names: a run id, an action id, a resource
    title: str
    text: str
    runbook: str = ""
    entity: str = ""
    run_id: str = ""
    step: str = ""
    since: str | None = None
    deadline: str | None = None
    if_nothing: str = ""  # what happens when nobody answers
    digest: str = ""
    people: tuple[str, ...] = ()
    quorum: int = 1
    approvers: tuple[str, ...] = ()
    before: Outlook | None = None
    after: Outlook | None = None
    cost_usd: float | None = None
    legs: tuple[LegView, ...] = ()
    verbs: tuple[Verb, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class ActView:
    """A write that was sent: filled of asked, its price against mid, what it cost."""

    action_id: str
    run_id: str
    runbook: str
    at: str
    text: str
    status: str  # sent | done | rejected | failed | unknown
    reason: str
    asked: str
    filled: str
    price: float | None
    mid: float | None
    cost_usd: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class HedgeView:
    """An asset whose legs do not cancel as they did, or a size that somebody else changed."""

    asset: str
    net_delta_usd: float | None
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdView:
    """The nearest trigger conditions that do not hold yet: at which value, and price where it is one, they would."""

    runbook: str
    entity: str
    text: str  # `margin_ratio_worst > 60 %`
    now: str
    bound: str
    distance: str
    nearness: float  # |distance| over the bound; smaller is nearer
    price: str  # the market's price at which it turns, where that can be told; else empty


@dataclass(frozen=True, slots=True, kw_only=True)
class CashView:
    """Where idle collateral is and how soon it could be at a margin account; USD."""

    within_5m: float
    within_30m: float
    later: float
    in_flight: float
    stuck: float
    lines: tuple[str, ...]  # one a buffer or transfer


@dataclass(frozen=True, slots=True, kw_only=True)
class NetView:
    """A safety net that is not up: paused, shadow, inhibited, limit used up, guard UNKNOWN, lacking readings."""

    runbook: str
    entity: str
    why: str
    until: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class UpcomingView:
    """Something that is known to come: a settlement of funding, a timer, a vote, the end of a cooldown."""

    at: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class GateView:
    """A gate for opening orders that stands closed."""

    what: str
    by: str
    since: str
    reason: str


# --- alerts out ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointView:
    """Where alerts go, and how that goes."""

    name: str
    kind: str  # webhook | mqtt
    format: str
    address: str  # without secrets
    state: str  # ok | retrying | open breaker | disabled | never used
    waiting: int
    delivered: int
    dead: int
    last_at: str | None
    last_error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryView:
    """One message to one endpoint."""

    id: str  # the webhook id
    position: int
    endpoint: str
    severity: str
    status: str  # waiting | delivered | dead | grouped
    attempts: int
    created_at: str
    next_due: str | None
    settled_at: str | None
    error: str
    body: str


# --- the whole ----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Now:
    """Everything a person on call asks first; the order of the fields is the order of the page."""

    at: str  # the daemon's clock at this snapshot
    published: str  # the wall clock at this snapshot
    build: str
    house: str
    dry_run: bool
    speed: float
    seq: int
    head: str
    line: Line
    since: str
    why: str  # one sentence for the line
    worst_feed: FeedView | None
    halted: str  # why everything is halted; empty when it is not
    openings_halted: bool  # the gate of everything is closed
    needs: tuple[NeedView, ...]
    accounts: tuple[AccountView, ...]  # the worst first
    acts: tuple[ActView, ...]  # the latest first
    hedges: tuple[HedgeView, ...]
    thresholds: tuple[ThresholdView, ...]  # the nearest first
    cash: CashView
    nets_down: tuple[NetView, ...]
    upcoming: tuple[UpcomingView, ...]
    gates: tuple[GateView, ...]
    feeds: tuple[FeedView, ...]
    problems: tuple[str, ...]  # everything that is not as it should be
    running: tuple[RunView, ...]
    recent: tuple[RunView, ...]  # the latest that ended
    stats: Mapping[str, float]  # what /metrics shows of the loop, the inbox and the outbox


@dataclass(frozen=True, slots=True, kw_only=True)
class StressView:
    """The latest figures of the scheduled stress, and reports that were written."""

    enabled: bool
    figures: tuple[ReadingView, ...]
    last_at: str | None
    problem: str
    reports: tuple[str, ...]  # names that `report(name)` serves


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """What a person asks for. `command_id` makes it count once; `until` (ISO) ends a pause; `digest` names the plan that is approved."""

    verb: Verb
    actor: str
    command_id: str
    target: str = ""
    reason: str = ""
    until: str | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Effect:
    """What came of a command: `done` False when it did nothing, and why."""

    done: bool
    effect: str
    seq: int
    at: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Happening:
    """One line of the stream: a record, in words (`kind` = its type), or `snapshot` when a new `Now` is there.

    `seq` and `part` name it: a reader that comes back goes on behind them. `severity` is debug | info | warning | critical.
    """

    seq: int
    at: str
    kind: str
    summary: str
    runbook: str = ""
    entity: str = ""
    run_id: str = ""
    severity: str = "info"
    part: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RunQuery:
    """Which runs: empty fields select everything. `status` may be `running`."""

    runbook: str = ""
    entity: str = ""
    status: str = ""
    before: str = ""  # a run id of the last page
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class EntryQuery:
    """Which journal entries: `text` is searched in the bodies; `before` is a position."""

    text: str = ""
    type: str = ""
    role: str = ""
    since: str | None = None
    until: str | None = None
    before: int | None = None
    limit: int = 100
