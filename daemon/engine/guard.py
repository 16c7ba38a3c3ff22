"""May this run act now? Halts, pauses, inhibition, survival's precedence, locks, freshness and the runbook's guards (floor 4).

Every function denies what it cannot check.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from daemon.engine.contract import TRUE, UNKNOWN
from daemon.engine.episode import turn_due
from daemon.engine.records import WaitReason
from daemon.engine.state import Cold, Episode, Run, instance_of
from daemon.engine.turn import Turn, members, progress_of, related
from daemon.runbook.model import Gate, Move, Runbook, Shrink, ShrinkAccount, Step, Tell, Wait
from daemon.units import FOREVER
from daemon.world.entities import Entity, Kind

KINDS = frozenset(kind.value for kind in Kind)
FIRST_ECONOMY = (True, -math.inf)  # ranks after every survival runbook and before every other


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """Why an action has to wait."""

    waiting: WaitReason
    reason: str


def acts(book: Runbook) -> bool:
    """True when some step does more than tell."""
    return any(not isinstance(step.act, Tell) for step in book.steps)


def held(turn: Turn, run: Run, book: Runbook, step: Step) -> Hold | None:
    """What keeps this step from acting besides guards; None when nothing does."""
    inhibitor = inhibited(turn, book, run.entity)
    if inhibitor:
        return Hold(waiting="inhibited", reason=f"inhibited by {inhibitor}")
    if run.shadow:
        return None
    if run.on_clear and isinstance(step.act, Gate) and not step.act.closed:
        target = related(turn.entity(book.scope, run.entity), step.act.scope)
        danger = survival_against(turn, book, run.entity, step.act.scope, target) if target is not None else None
        if danger is not None:  # what an episode closed is opened once the danger is over, not left closed for ever
            return Hold(waiting="inhibited", reason=f"{danger} fires: {target} is not opened")
    if turn.cold.halted and step.writes:
        return Hold(waiting="halted", reason=f"everything is halted: {turn.cold.halted}")
    paused = pause_of(turn.cold, book.id, run.entity, people_only=True)
    if paused is not None and step.writes:
        return Hold(waiting="paused", reason=paused)
    if step.writes:
        holder = lock_holder(turn, book, run.entity, run)
        if holder:
            return Hold(waiting="lock", reason=f"{holder} holds a lock it needs")
    for resource in resources(turn, run, book, step):
        if resource in turn.cold.unseen:
            return Hold(waiting="fresh", reason=f"no reading of {resource} since it was last written")
    return None


def first_failing(turn: Turn, run: Run, book: Runbook) -> str | None:
    """The first guard that is not known TRUE, with its truth; None when all are."""
    for guard in book.guards:
        truth = turn.value(run, guard)
        if truth != TRUE:
            return f"guard {guard.text} is {'UNKNOWN' if truth == UNKNOWN else 'FALSE'}"
    return None


def pause_of(cold: Cold, runbook: str, entity: str, *, people_only: bool = False) -> str | None:
    """Why runs of this instance are paused; None when they are not. `people_only`: pauses that a person set."""
    for target in ("", runbook, instance_of(runbook, entity)):
        pause = cold.pauses.get(target)
        if pause and (not people_only or pause.by.startswith("operator")):
            return f"paused by {pause.by}: {pause.reason}" if pause.reason else f"paused by {pause.by}"
    return None


def encloses(turn: Turn, outer_kind: Kind, outer: str, inner: Entity) -> bool:
    """True when `outer` is `inner` itself or one of the entities it belongs to."""
    return related(inner, outer_kind) == outer or (inner.kind is Kind.ROUTE and outer in (inner.links.get("from"), inner.links.get("to")))


def inhibited(turn: Turn, book: Runbook, entity: str) -> str | None:
    """The instance whose episode forbids this one to act, or None."""
    if not book.inhibited_by or not acts(book):
        return None
    own = turn.entity(book.scope, entity)
    for episode in turn.cold.episodes.values():
        if not episode.open or episode.runbook not in book.inhibited_by:
            continue
        other = turn.current(episode.runbook)
        if other is None or other.stage == "disabled" or (book.intent == "survival" and other.intent == "economy"):
            continue
        if encloses(turn, other.scope, episode.entity, own):
            return instance_of(episode.runbook, episode.entity)
    return None


def survival_on(turn: Turn, account: str) -> str | None:
    """The armed survival runbook that fires on this account or something in or around it; None when none does."""
    of_account = turn.entity(Kind.ACCOUNT, account)
    for episode in turn.cold.episodes.values():
        if not episode.open:
            continue
        book = turn.current(episode.runbook)
        if book is None or book.intent != "survival" or book.stage != "armed":
            continue
        firing = turn.entity(book.scope, episode.entity)
        match book.scope:
            case Kind.POSITION | Kind.ACCOUNT:
                inside = related(firing, Kind.ACCOUNT) == account
            case Kind.MARKET:  # a market belongs to no account: it endangers those that hold a position in it
                held_here = members(turn, Kind.ACCOUNT, account, "positions")
                inside = any(turn.entity(Kind.POSITION, p).links.get("market") == episode.entity for p in held_here)
            case _:
                inside = False
        if inside or encloses(turn, book.scope, episode.entity, of_account):
            return instance_of(episode.runbook, episode.entity)
    return None


def survival_against(turn: Turn, book: Runbook, entity: str, scope: Kind, target: str) -> str | None:
    """The survival runbook that forbids opening a gate: one that fires on the account it belongs to; None when none does."""
    account = target if scope is Kind.ACCOUNT else related(turn.entity(book.scope, entity), Kind.ACCOUNT)
    return survival_on(turn, account) if account is not None else None


def lock_names(turn: Turn, book: Runbook, entity: str) -> tuple[str, ...]:
    """The resources this instance locks, sorted; `position` is its own, `market:dydx:BTC-USD` a named one."""
    if not book.locks:
        return ()
    own = turn.entity(book.scope, entity)
    names = []
    for lock in book.locks:
        kind, colon, name = lock.partition(":")
        target = name if colon else related(own, Kind(kind)) if kind in KINDS else None
        names.append(f"{kind}/{target if target is not None else own.id}")
    return tuple(sorted(set(names)))


def lock_holder(turn: Turn, book: Runbook, entity: str, run: Run | None) -> str | None:
    """Who holds, or goes before us to, a lock of this instance; None when it is free for us. `run`: ours, None before it starts."""
    names = set(lock_names(turn, book, entity))
    if run is not None:
        names -= set(run.locks)
    if not names:
        return None
    for other in turn.cold.runs.values():
        if (run is None or other.id != run.id) and names & set(other.locks):
            return other.id
    # A run takes all its locks at once and waits for none while it holds some, so whoever goes first never waits for who goes after.
    own = _rank(book)
    return _waiter(turn, names, (*own, run.started_at, run.id) if run is not None else (*own, FOREVER, ""), own)


def survival_waiter(turn: Turn, names: set[str]) -> str | None:
    """A survival run, under way or wanted, that waits for one of these locks: it goes before every economy run."""
    return _waiter(turn, names, FIRST_ECONOMY, FIRST_ECONOMY)


def _rank(book: Runbook) -> tuple[bool, float]:
    """Precedence of a runbook's runs, the smaller first: survival, then priority."""
    return (book.intent != "survival", -book.priority)


def _waiter(turn: Turn, names: set[str], before: Sequence[object], rank: Sequence[object]) -> str | None:
    """Who waits for one of these locks: a run that comes before `before` (rank, start, id), or a wanted one of lower rank than `rank`."""
    for run in turn.cold.runs.values():
        book = turn.book(run)
        waits = run.step is not None and run.step.waiting == "lock"
        if waits and (*_rank(book), run.started_at, run.id) < tuple(before) and names & set(lock_names(turn, book, run.entity)):
            return run.id
    for episode in turn.cold.episodes.values():
        current = turn.current(episode.runbook)
        if current is None or current.stage != "armed" or not _rank(current) < tuple(rank) or not _wants_now(turn, current, episode):
            continue
        if names & set(lock_names(turn, current, episode.entity)):
            return instance_of(episode.runbook, episode.entity)
    return None


def _wants_now(turn: Turn, book: Runbook, episode: Episode) -> bool:
    """True when a run of it would start but for locks."""
    if not episode.open or turn_due(book, episode) > turn.at or turn.cold.halted:
        return False
    memory = turn.cold.memories.get(instance_of(episode.runbook, episode.entity))
    cooling = memory is not None and memory.last_end_at + book.cooldown_ns > turn.at
    clearing = episode.turns > 0 and turn.hot.state(book.id, episode.entity).status == "clearing"
    if cooling or clearing or not acts(book) or turn.cold.active_runs(episode.runbook, episode.entity):
        return False
    return pause_of(turn.cold, book.id, episode.entity) is None and inhibited(turn, book, episode.entity) is None


def resources(turn: Turn, run: Run, book: Runbook, step: Step) -> list[str]:
    """The written resources whose fresh reading this step's sizing and verify need."""
    match step.act:
        case Shrink():
            return [f"size/{run.entity}"]
        case ShrinkAccount():
            legs = progress_of(run).legs if run.step is not None and run.step.planned else ()
            account = account_of(turn, book, run.entity)
            positions = [leg.position for leg in legs] or (members(turn, Kind.ACCOUNT, account, "positions") if account else [])
            return [f"size/{position}" for position in positions]
        case Move(source=source):
            return [f"buffer/{source}"]
        case Wait():
            return [f"size/{position}" for position in run.sizes]
        case _:
            return []


def account_of(turn: Turn, book: Runbook, entity: str) -> str | None:
    """The account an instance belongs to, or None."""
    return related(turn.entity(book.scope, entity), Kind.ACCOUNT)
