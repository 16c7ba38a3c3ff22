"""Episodes out of the engine's records (floor 5): `log.take(record)` for each, then `log.episodes()` in the order of a report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import assert_never

from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.records import ActionFinished, ActionRequested, ActionWould, Record, RunFinished, RunRefused, RunStarted, TriggerChanged
from daemon.runbook.model import Runbook
from daemon.simulation.episode import Episode, EpisodeAction
from daemon.units import show
from daemon.world.entities import Kind, Topology

DONE = Outcome(status="done")
UNANSWERED = Outcome(status="unknown", reason="the recording ended before the outcome")



@dataclass(slots=True, kw_only=True)
class _Sent:
    """One action that was asked for, and what became of it."""

    name: str
    run_id: str
    at: int
    action: Action
    outcome: Outcome = UNANSWERED


@dataclass(slots=True, kw_only=True)
class _Running:
    """One episode as its records come in."""

    runbook: str
    entity: str
    pending_at: int
    fired_at: int
    cleared_at: int | None = None
    ending: str = ""
    trace: object = None
    statuses: dict[str, str] = field(default_factory=dict)  # run id -> status
    reasons: dict[str, str] = field(default_factory=dict)  # run id -> why it ended so
    clearing: dict[str, str] = field(default_factory=dict)  # run id -> status of on_clear
    actions: list[_Sent | EpisodeAction] = field(default_factory=list)


class EpisodeLog:
    """Collects episodes, their runs and their actions."""

    def __init__(self, runbooks: Sequence[Runbook], topology: Topology) -> None:
        self._kinds: Mapping[tuple[str, str], str] = {(book.id, step.id): step.kind for book in runbooks for step in book.all_steps()}
        self._scopes: Mapping[str, Kind] = {book.id: book.scope for book in runbooks}
        self._topology = topology
        self._episodes: dict[str, _Running] = {}
        self._runs: dict[str, str] = {}  # run id -> episode
        self._sent: dict[str, _Sent] = {}

    def take(self, record: Record) -> None:
        """Takes one record, in order; records that say nothing of episodes are passed over."""
        match record:
            case TriggerChanged(change="fired"):
                self._episodes[record.episode] = _Running(
                    runbook=record.runbook, entity=record.entity, pending_at=record.pending_at, fired_at=record.fired_at,
                    trace=record.trace,
                )  # fmt: skip
            case TriggerChanged():
                episode = self._episodes.get(record.episode)
                if episode is not None:
                    episode.cleared_at = record.at
                    episode.ending = record.change
            case RunStarted():
                self._runs[record.run_id] = record.episode
                if record.episode in self._episodes:
                    started = self._episodes[record.episode]
                    (started.clearing if record.on_clear else started.statuses)[record.run_id] = "running"
            case RunRefused():
                if record.episode in self._episodes:
                    self._episodes[record.episode].statuses[record.run_id] = record.status
                    self._episodes[record.episode].reasons[record.run_id] = record.reason
            case RunFinished():
                episode = self._of(record.run_id)
                if episode is not None:
                    (episode.clearing if record.run_id in episode.clearing else episode.statuses)[record.run_id] = record.status
                    episode.reasons[record.run_id] = record.reason
            case ActionRequested():
                self._request(record)
            case ActionFinished():
                if record.action_id in self._sent:
                    self._sent[record.action_id].outcome = record.outcome
            case ActionWould():
                episode = self._of(record.run_id)
                if episode is not None:
                    size = float(sum(leg.size for leg in record.legs)) if record.legs else None
                    markets = {self._topology.entity(Kind.POSITION, leg.position).links.get("market", "") for leg in record.legs}
                    planned = EpisodeAction(
                        action=record.kind, outcome="would", size=size, notional_usd=record.usd, at=record.at, reason=record.text,
                        run_id=record.run_id, market=min(markets) if len(markets) == 1 else "",
                    )  # fmt: skip
                    episode.actions.append(planned)
            case _:
                pass

    def _of(self, run_id: str) -> _Running | None:
        return self._episodes.get(self._runs.get(run_id, ""))

    def _request(self, record: ActionRequested) -> None:
        episode = self._of(record.run_id)
        if episode is None or isinstance(record.action, Notify):
            return
        name = self._kinds.get((episode.runbook, record.step)) or action_name(record.action)
        # A gate is state of the engine itself: nobody answers for it.
        known = DONE if isinstance(record.action, Halt | Resume) else UNANSWERED
        sent = _Sent(name=name, run_id=record.run_id, at=record.at, action=record.action, outcome=known)
        self._sent[record.action.action_id] = sent
        episode.actions.append(sent)

    def episodes(self) -> tuple[Episode, ...]:
        """Every episode so far by fired_at, runbook, entity."""
        found = [
            Episode(
                id=name, ending=episode.ending, trace=episode.trace, run_ids=tuple(episode.statuses),
                runbook=episode.runbook, entity=episode.entity, subject=self._subject(episode), pending_at=episode.pending_at,
                fired_at=episode.fired_at, cleared_at=episode.cleared_at, run_statuses=tuple(episode.statuses.values()),
                run_reasons=tuple(episode.reasons.get(run_id, "") for run_id in episode.statuses),
                clear_runs=tuple((status, episode.reasons.get(run_id, "")) for run_id, status in episode.clearing.items()),
                actions=tuple(_finished(action) for action in episode.actions),
            )
            for name, episode in self._episodes.items()
        ]  # fmt: skip
        return tuple(sorted(found, key=lambda episode: (episode.fired_at, episode.runbook, episode.entity)))

    def _subject(self, episode: _Running) -> str:
        """The market an episode is about, else its entity: what makes two episodes one case."""
        entity = self._topology.entity(self._scopes[episode.runbook], episode.entity)
        return entity.links.get("market", episode.entity)


def _finished(action: _Sent | EpisodeAction) -> EpisodeAction:
    if isinstance(action, EpisodeAction):
        return action
    outcome = action.outcome
    size: float | None = None
    notional: float | None = None
    price = None if outcome.fill_price is None else float(outcome.fill_price)
    match action.action:
        case ShrinkPosition():
            size = float(outcome.filled_size or 0)
            notional = size * (price or 0.0)
        case MoveBuffer():
            notional = float(outcome.amount or 0) if outcome.status == "done" else 0.0
        case CancelOrders() | Halt() | Resume() | Notify() | CallWebhook():
            pass
        case _:
            assert_never(action.action)
    return EpisodeAction(
        action=action.name, outcome=outcome.status, size=size, notional_usd=notional, at=action.at, price=price, reason=outcome.reason,
        run_id=action.run_id, market=action.action.market if isinstance(action.action, ShrinkPosition) else "",
        action_id=action.action.action_id, asked=intent(action.action),
    )  # fmt: skip


def action_name(action: Action) -> str:
    """The YAML name of an action, for one that belongs to no step: `shrink_position`, `halt`."""
    match action:
        case ShrinkPosition():
            return "shrink_position"
        case MoveBuffer():
            return "move_buffer"
        case CancelOrders():
            return "cancel_orders"
        case Halt():
            return "halt"
        case Resume():
            return "resume"
        case Notify():
            return "notify"
        case CallWebhook():
            return "webhook"
        case _:
            assert_never(action)


def intent(action: Action) -> str:
    """An action in a few words."""
    match action:
        case ShrinkPosition():
            return (
                f"{action.side} {action.size} {action.market}, never worse than {action.limit_price} ({show(action.notional_usd, 'USD')})"
            )
        case MoveBuffer():
            return f"move {action.amount} USD from {action.source} to {action.destination} over {action.route}"
        case CancelOrders():
            return f"cancel the open orders of {action.market or action.account}"
        case Halt():
            return f"halt openings of {action.entity}"
        case Resume():
            return f"resume openings of {action.entity}"
        case Notify():
            return f"tell {', '.join(action.to)}: {action.text}"
        case CallWebhook():
            return f"call {action.endpoint}"
        case _:
            assert_never(action)
