"""What keeps a runbook on an entity from acting (floor 7): everything at once, each in words with its amounts and its end.

Reads what the engine's own checks read (`guard.py`, `limits.py`, `react.py`), and asks each of them instead of stopping at the first.
"""

from __future__ import annotations

from collections.abc import Iterator

from daemon.engine.contract import TRUE
from daemon.engine.guard import acts, inhibited, lock_holder
from daemon.engine.limits import Spend, spent
from daemon.engine.react import runs_over
from daemon.engine.state import PauseState, Run, instance_of
from daemon.engine.turn import Turn
from daemon.runbook.model import Runbook
from daemon.service.verdict import in_words, lacking, moment, verdict_of
from daemon.units import DAY_NS, FOREVER, HOUR_NS, NEVER, show
from daemon.world.entities import Kind

FULL = 1e-9  # relative: a limit with less than this left is used up


def pauses_of(turn: Turn, runbook: str, entity: str) -> Iterator[tuple[str, PauseState]]:
    """The pauses that hold an instance: of everything, of its runbook, its own."""
    for target in ("", runbook, instance_of(runbook, entity)):
        pause = turn.cold.pauses.get(target)
        if pause is not None and pause.until > turn.at:
            yield target, pause


def pause_words(target: str, pause: PauseState) -> str:
    """`everything is paused until 2026-02-03T18:00:00Z by operator ana: maintenance`."""
    what = "everything is paused" if target == "" else "paused"
    end = "until somebody unpauses it" if pause.until == FOREVER else f"until {moment(pause.until)}"
    return f"{what} {end} by {pause.by}" + (f": {pause.reason}" if pause.reason else "")


def cooldown_until(turn: Turn, book: Runbook, entity: str) -> int:
    """When the cooldown of an instance ends; NEVER when it has none now."""
    memory = turn.cold.memories.get(instance_of(book.id, entity))
    if memory is None or memory.last_end_at == NEVER:
        return NEVER
    end = memory.last_end_at + book.cooldown_ns
    return end if end > turn.at else NEVER


def waiting_words(turn: Turn, run: Run) -> str:
    """Where a run under way stands: `run ... is at step shrink, waits for approval until ...: ...`."""
    step = run.step
    if step is None:
        return f"run {run.id} is between steps"
    text = f"run {run.id} is at step {step.id}"
    if step.phase == "sent":
        return f"{text}, its action is on the wire"
    if not step.waiting:
        return text
    end = f" until {moment(step.wait_until)}" if step.wait_until != FOREVER else ""
    return f"{text}, waits for {step.waiting}{end}" + (f": {step.wait_reason}" if step.wait_reason else "")


def used_up(turn: Turn, book: Runbook, entity: str) -> Iterator[str]:
    """The limits in money and in runs that leave an instance nothing, with their amounts."""
    yield from limits_used_up(turn, book)
    episode = turn.cold.episodes.get(instance_of(book.id, entity))
    if episode is not None and episode.open and (bound := book.limits.per_episode_usd) is not None:
        used = spent((spend for spend in _entries(turn, book) if spend.episode == episode.id), since=NEVER)
        if used >= bound * (1.0 - FULL):
            yield f"limit per_episode is used up: {show(used, 'USD')} of {show(bound, 'USD')}"
    yield from house_used_up(turn, shadow=book.stage == "shadow")
    hourly = turn.house.account_turnover_hour_usd
    if hourly is not None:
        account = entity if book.scope is Kind.ACCOUNT else turn.entity(book.scope, entity).links.get("account", "")
        spends = (spend for spend in turn.cold.ledger.values() if spend.account == account and spend.shadow == (book.stage == "shadow"))
        used = spent(spends, since=turn.at - HOUR_NS)
        if used >= hourly * (1.0 - FULL):
            yield f"house limit of turnover an hour of {account} is used up: {show(used, 'USD')} of {show(hourly, 'USD')}"


def limits_used_up(turn: Turn, book: Runbook) -> Iterator[str]:
    """The limits of a whole runbook that leave nothing: of its day, of its runs."""
    day = book.limits.per_day_usd
    if day is not None and (used := spent(_entries(turn, book), since=turn.at - DAY_NS)) >= day * (1.0 - FULL):
        yield f"limit per_day is used up: {show(used, 'USD')} of {show(day, 'USD')} in 24h"
    over = runs_over(turn, book)
    if over is not None:
        yield over


def house_used_up(turn: Turn, *, shadow: bool = False) -> Iterator[str]:
    """The house's limit of turnover a day, when it leaves nothing."""
    bound = turn.house.house_turnover_day_usd
    if bound is None:
        return
    used = spent((spend for spend in turn.cold.ledger.values() if spend.shadow == shadow), since=turn.at - DAY_NS)
    if used >= bound * (1.0 - FULL):
        yield f"house limit of turnover a day is used up: {show(used, 'USD')} of {show(bound, 'USD')}"


def _entries(turn: Turn, book: Runbook) -> Iterator[Spend]:
    return (spend for spend in turn.cold.ledger.values() if spend.runbook == book.id and spend.shadow == (book.stage == "shadow"))


def guards_failing(turn: Turn, book: Runbook, entity: str) -> Iterator[tuple[str, str]]:
    """(FALSE or UNKNOWN, words) of every guard that is not known TRUE now."""
    for guard in book.guards:
        if turn.hot.value(book.id, guard.index, entity, turn.at) == TRUE:
            continue
        tree = turn.hot.trace(book.id, guard.index, entity, turn.at)
        words = " and ".join(in_words(leaf, turn.at) for leaf in lacking(tree))
        yield verdict_of(tree), f"guard {guard.text} is {verdict_of(tree)}: {words}"


def held_back(turn: Turn, book: Runbook, entity: str) -> tuple[str, ...]:
    """Everything that keeps an instance from acting now, the weightiest first; empty when only its trigger does."""
    found: list[str] = []
    writes = any(step.writes for step in book.steps)
    if book.stage == "disabled":
        return ("its stage is disabled: it is not judged at all",)
    if turn.cold.halted and writes:
        found.append(f"everything is halted: {turn.cold.halted}")
    found += [pause_words(target, pause) for target, pause in pauses_of(turn, book.id, entity)]
    if book.stage == "shadow":
        found.append("its stage is shadow: it decides and tells, nothing is sent")
    running = turn.cold.active_runs(book.id, entity)
    found += [waiting_words(turn, run) for run in running]
    inhibitor = inhibited(turn, book, entity)
    if inhibitor:
        found.append(f"inhibited by {inhibitor}, which is firing")
    cooling = cooldown_until(turn, book, entity)
    if cooling != NEVER and not running:
        found.append(f"in cooldown until {moment(cooling)}")
    if acts(book) and book.stage == "armed" and not running:
        holder = lock_holder(turn, book, entity, None)
        if holder:
            found.append(f"{holder} holds a lock it needs")
    found += used_up(turn, book, entity)
    if any(step.guarded and step.writes for step in book.steps):
        found += [words for _, words in guards_failing(turn, book, entity)]
    episode = turn.cold.episodes.get(instance_of(book.id, entity))
    if episode is not None and episode.open and episode.external:
        found.append(f"no further runs of this episode: {episode.external}")
    return tuple(found)
