"""Cold reactions of one instant (floor 4): edges open and close episodes, wanted runs start, runs advance, until nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from daemon.engine.codec import plain
from daemon.engine.contract import Edge
from daemon.engine.episode import clear_wanted, episode_id, turn_due
from daemon.engine.guard import account_of, acts, inhibited, lock_holder, pause_of
from daemon.engine.notices import lifecycle, page
from daemon.engine.observe import overdue, overdue_at
from daemon.engine.records import PauseEnded, RunRefused, RunStarted, TriggerChanged
from daemon.engine.run import advance
from daemon.engine.state import Cold, Episode, Memory, Run, instance_of
from daemon.engine.turn import Turn, members
from daemon.runbook.model import Runbook
from daemon.units import DAY_NS, FOREVER, NEVER, iso
from daemon.world.entities import Kind

ROUNDS_MAX = 10_000  # rounds of reactions at one instant; more is a fault of ours


@dataclass(frozen=True, slots=True, kw_only=True)
class Want:
    """A run that an episode is due: its own, or its on_clear."""

    book: Runbook
    episode: Episode
    on_clear: bool


# --- edges ------------------------------------------------------------------------------------------------------------


def take_edges(turn: Turn, edges: Sequence[Edge]) -> None:
    """Open and close episodes, in the order of the edges."""
    for edge in edges:
        book = turn.current(edge.runbook)
        if book is None or book.stage == "disabled":
            continue
        if edge.change == "fired":
            _fired(turn, book, edge)
        else:
            close(turn, book, edge.entity, edge.change, "")


def _fired(turn: Turn, book: Runbook, edge: Edge) -> None:
    before = turn.cold.episodes.get(instance_of(book.id, edge.entity))
    if before is not None and before.open:
        return  # an edge that a restart shows twice
    name = episode_id(book.id, edge.entity, edge.fired_at)
    while before is not None and before.id == name:
        name += "+"  # fired, reset and fired again within one instant: ids stay unique
    turn.emit(
        TriggerChanged(
            at=turn.at,
            runbook=book.id,
            entity=edge.entity,
            episode=name,
            change="fired",
            pending_at=edge.pending_at,
            fired_at=edge.fired_at,
            sizes=_sizes(turn, book, edge.entity),
            trace=plain(turn.hot.trace(book, book.trigger.when.index, edge.entity, turn.at)),
        )
    )
    lifecycle(turn, book, edge.entity, "fired", f"fired: {book.trigger.when.text}", name)


def _sizes(turn: Turn, book: Runbook, entity: str) -> dict[str, float]:
    """The positions an instance is about and their sizes now: its own, or all of its account."""
    if book.scope is Kind.POSITION:
        positions = [entity]
    elif book.scope is Kind.ACCOUNT:
        account = account_of(turn, book, entity)
        positions = members(turn, Kind.ACCOUNT, account, "positions") if account else []
    else:
        positions = []
    sizes = {p: turn.read(book, Kind.POSITION, p, "size").value for p in positions}
    return {p: size for p, size in sizes.items() if size == size}


def close(turn: Turn, book: Runbook, entity: str, change: str, reason: str) -> None:
    """End an episode; a run that was wanted and never started is recorded as skipped, with what held it."""
    instance = instance_of(book.id, entity)
    episode = turn.cold.episodes.get(instance)
    if episode is None or not episode.open:
        return
    if turn_due(book, episode) <= turn.at:
        why = holding(turn, Want(book=book, episode=episode, on_clear=False)) or "its episode ended"
        _refuse(turn, book, episode, "skipped", f"{why}; its episode ended before it could start")
    turn.emit(
        TriggerChanged(
            at=turn.at,
            runbook=book.id,
            entity=entity,
            episode=episode.id,
            change="gone" if change == "gone" else "reset" if change == "reset" else "cleared",
            pending_at=episode.pending_at,
            fired_at=episode.fired_at,
            reason=reason,
        )
    )
    text = {"cleared": "cleared", "gone": "over: the position is gone"}.get(change, f"over: {reason}")
    lifecycle(turn, book, entity, "cleared", text, episode.id)
    if change == "reset" and book.intent == "survival" and book.stage == "armed":
        page(turn, book, entity, f"its episode ended without clearing: {reason}", episode.id)


# --- wanted runs ------------------------------------------------------------------------------------------------------


def wants(turn: Turn) -> list[Want]:
    """Every run that is due now, by precedence: survival first, then priority, then who waits longest, then id."""
    found: list[Want] = []
    for instance, episode in turn.cold.episodes.items():
        book = turn.current(episode.runbook)
        if book is None or book.stage == "disabled":
            continue
        if turn_due(book, episode) <= turn.at:
            found.append(Want(book=book, episode=episode, on_clear=False))
        elif clear_wanted(book, episode) and not turn.cold.active_runs(*_pair(instance)):
            found.append(Want(book=book, episode=episode, on_clear=True))
    return sorted(found, key=lambda w: (w.book.intent != "survival", -w.book.priority, turn_due(w.book, w.episode), w.episode.id))


def _pair(instance: str) -> tuple[str, str]:
    runbook, _, entity = instance.partition("/")
    return runbook, entity


def holding(turn: Turn, want: Want) -> str | None:
    """Why a wanted run cannot start yet; None when it can."""
    book, entity = want.book, want.episode.entity
    active = turn.cold.active_runs(book.id, entity)
    if active:
        return f"run {active[0].id} is still going"
    shadow = book.stage == "shadow"
    writes = any(step.writes for step in (book.on_clear if want.on_clear else book.steps))
    if turn.cold.halted and writes and not shadow:
        return f"everything is halted: {turn.cold.halted}"
    paused = pause_of(turn.cold, book.id, entity, people_only=want.on_clear)
    if paused:
        return paused
    if want.on_clear:
        return None
    if want.episode.turns and turn.hot.state(book.id, entity).status == "clearing":
        return "its trigger is clearing"  # further runs are for a trigger that still fires
    memory = turn.cold.memories.get(instance_of(book.id, entity), Memory())
    if memory.last_end_at + book.cooldown_ns > turn.at:
        return f"in cooldown until {iso(memory.last_end_at + book.cooldown_ns)}"
    inhibitor = inhibited(turn, book, entity)
    if inhibitor:
        return f"inhibited by {inhibitor}"
    holder = None if shadow or not acts(book) else lock_holder(turn, book, entity, None)
    return f"{holder} holds a lock it needs" if holder else None


def _refuse(turn: Turn, book: Runbook, episode: Episode, status: str, reason: str) -> None:
    turn.emit(
        RunRefused(
            at=turn.at,
            run_id=_run_id(episode, on_clear=False),
            runbook=book.id,
            entity=episode.entity,
            episode=episode.id,
            status="blocked" if status == "blocked" else "skipped",
            reason=reason,
        )
    )


def _run_id(episode: Episode, *, on_clear: bool) -> str:
    return f"{episode.id}/{'clear' if on_clear else episode.turns + 1}"


def start(turn: Turn, want: Want) -> str | None:
    """Start a wanted run and name it; None when it was refused or has to wait."""
    book, episode = want.book, want.episode
    main = [run for run in turn.cold.active_runs(book.id, episode.entity) if not run.on_clear]
    if main and not want.on_clear and book.mode == "single":
        _refuse(turn, book, episode, "skipped", f"run {main[0].id} is still going (mode single)")
        return None
    if holding(turn, want) is not None:
        return None
    over = None if want.on_clear else runs_over(turn, book)
    if over is not None:
        _refuse(turn, book, episode, "blocked", over)
        lifecycle(turn, book, episode.entity, "blocked", over, episode.id)
        if book.intent == "survival" and book.stage == "armed":
            page(turn, book, episode.entity, f"survival run blocked: {over}", episode.id)
        return None
    run_id = _run_id(episode, on_clear=want.on_clear)
    shadow = book.stage == "shadow" or (want.on_clear and not episode.acted)
    turn.emit(
        RunStarted(
            at=turn.at,
            run_id=run_id,
            runbook=book.id,
            entity=episode.entity,
            episode=episode.id,
            digest=book.digest,
            on_clear=want.on_clear,
            shadow=shadow,
            frame=turn.hot.start_frame(book, episode.entity, turn.at),
            trace=plain(turn.hot.trace(book, book.trigger.when.index, episode.entity, turn.at)),
        )
    )
    return run_id


def runs_over(turn: Turn, book: Runbook) -> str | None:
    """The limit on numbers of runs that one more would break, in words; None when there is room. Shadow runs count apart."""
    limits, shadow = book.limits, book.stage == "shadow"
    if limits.runs is None and turn.house.runs_day is None:
        return None
    counted = [s for s in turn.cold.starts if s.shadow == shadow]
    if limits.runs is not None:
        window = limits.runs_per_ns or DAY_NS
        own = sum(1 for s in counted if s.runbook == book.id and s.at > turn.at - window)
        if own >= limits.runs:
            return f"over limits.runs: {own} of {limits.runs} runs used"
    bound = turn.house.runs_day
    if bound is not None:
        used = sum(1 for s in counted if s.at > turn.at - DAY_NS)
        if used >= bound:
            return f"over the house limit of runs a day: {used} of {bound} used"
    return None


# --- one instant ------------------------------------------------------------------------------------------------------


def react(turn: Turn) -> None:
    """Let every wanted and active run go as far as it can, until a whole round changes nothing."""
    for _ in range(ROUNDS_MAX):
        before = len(turn.records)
        _end_pauses(turn)
        overdue(turn)
        for run_id in _in_order(turn):
            run = turn.cold.runs.get(run_id)
            if run is not None:
                advance(turn, run_id, superseded=_superseded(turn, run))
        for want in wants(turn):
            if turn.cold.episodes.get(instance_of(want.book.id, want.episode.entity)) == want.episode:
                started = start(turn, want)
                if started is not None:  # at once, so that its locks are taken before the next in line looks at them
                    advance(turn, started, superseded=False)
        _repeat_notices(turn)
        if len(turn.records) == before:
            return
    raise AssertionError(f"the cold side does not come to rest at {turn.at}")


def _in_order(turn: Turn) -> list[str]:
    """Active runs by precedence: survival first, then priority, then age."""

    def precedence(run: Run) -> tuple[bool, int, int, str]:
        book = turn.book(run)
        return (book.intent != "survival", -book.priority, run.started_at, run.id)

    return [run.id for run in sorted(turn.cold.runs.values(), key=precedence)]


def _superseded(turn: Turn, run: Run) -> bool:
    """True when a newer run takes this one's place: mode restart, or a firing that comes while on_clear still waits to begin."""
    episode = turn.cold.episodes.get(instance_of(run.runbook, run.entity))
    book = turn.current(run.runbook)
    if episode is None or book is None or turn_due(book, episode) > turn.at:
        return False
    return book.mode == "restart" if not run.on_clear else not run.wrote


def _end_pauses(turn: Turn) -> None:
    for target, pause in list(turn.cold.pauses.items()):
        if pause.until <= turn.at:
            turn.emit(PauseEnded(at=turn.at, target=target, by="time"))


def _repeat_notices(turn: Turn) -> None:
    for episode in list(turn.cold.episodes.values()):
        book = turn.current(episode.runbook)
        if book is not None and _notice_due(book, episode) <= turn.at:
            lifecycle(turn, book, episode.entity, "fired", f"still firing since {iso(episode.fired_at)}", f"{episode.id}/still")


def _notice_due(book: Runbook, episode: Episode) -> int:
    if not episode.open or book.notify is None or book.notify.repeat_ns is None or episode.noticed_at == NEVER:
        return FOREVER
    return episode.noticed_at + book.notify.repeat_ns


def dues(turn: Turn) -> Iterator[int]:
    """Every time at which the cold side has something to look at, past ones included."""
    cold: Cold = turn.cold
    for run in cold.runs.values():
        step = run.step
        if step is None:
            continue
        match step.phase:
            case "ready":
                yield step.next_at
                yield step.wait_until
            case "sent":
                sent = cold.sent[step.action_id]
                book = turn.book(run)
                steps = book.on_clear if run.on_clear else book.steps
                yield sent.at + steps[step.index].timeout_ns
            case "settled" | "verify":
                yield step.wait_until
    for instance, episode in cold.episodes.items():
        book_now = turn.current(episode.runbook)
        if book_now is None or not episode.open:
            continue
        due = turn_due(book_now, episode)
        yield due
        memory = cold.memories.get(instance)
        if memory is not None and due < FOREVER:
            yield memory.last_end_at + book_now.cooldown_ns
        yield _notice_due(book_now, episode)
    for pause in cold.pauses.values():
        yield pause.until
    for action_id in cold.transfers:
        yield overdue_at(turn, action_id)
