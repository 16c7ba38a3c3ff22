"""What people are told (floor 4): texts of steps, lifecycle notices, pages and approval requests, as `Notify` actions.

A notice never gates anything: it is `done` once it is in the outbox. An empty `to` means the house's default channels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, cast

from daemon.engine.actions import Notify
from daemon.engine.contract import Plan
from daemon.engine.records import NoticeSent
from daemon.engine.state import Run, instance_of
from daemon.engine.turn import Turn
from daemon.runbook.model import Expression, Label, Runbook, Template
from daemon.units import show

Lifecycle = Literal["fired", "acted", "blocked", "failed", "no_data", "cleared"]


def render(turn: Turn, run: Run, book: Runbook, text: Template, plan: Plan | None = None) -> str:
    """The text with every `{...}` filled in as a trader writes it; what is unknown says so. `plan`: else the run's last one."""
    labels = turn.entity(book.scope, run.entity).labels
    parts = []
    for part in text:
        match part:
            case str():
                parts.append(part)
            case Label(name=name):
                parts.append(labels.get(name, ""))
            case Expression():
                unit = part.typed.unit
                parts.append(show(turn.value(run, part, plan), "truth" if unit == "bool" else unit))
    return "".join(parts)


def render_payload(turn: Turn, run: Run, book: Runbook, payload: Mapping[str, object]) -> dict[str, object]:
    """A webhook's payload with its texts filled in."""
    return {key: _leaf(turn, run, book, value) for key, value in payload.items()}


def _leaf(turn: Turn, run: Run, book: Runbook, value: object) -> object:
    if isinstance(value, Mapping):
        return {str(key): _leaf(turn, run, book, item) for key, item in value.items()}
    if isinstance(value, tuple):
        if all(isinstance(part, str | Expression | Label) for part in value):
            return render(turn, run, book, cast("Template", value))
        return tuple(_leaf(turn, run, book, item) for item in value)
    return value


def lifecycle(turn: Turn, book: Runbook, entity: str, event: Lifecycle, text: str, subject: str) -> None:
    """Send the runbook's own notice of an event, where it asks for it."""
    if book.notify is None or event not in book.notify.events:
        return
    _send(turn, book, entity, book.notify.to, event, book.severity, text, subject)


def page(turn: Turn, book: Runbook, entity: str, text: str, subject: str) -> None:
    """Wake a person: the runbook's on_failure channels, else its notify channels, else the house's default."""
    to = book.on_failure.notify or (book.notify.to if book.notify else ())
    _send(turn, book, entity, to, "page", "critical", text, subject)


def ask(turn: Turn, book: Runbook, run: Run, step: str, text: str, deadline: int, plan_digest: str, people: tuple[str, ...]) -> None:
    """Tell people that their approval is wanted."""
    to = book.notify.to if book.notify else book.on_failure.notify
    detail = {"run_id": run.id, "step": step, "deadline": deadline, "plan_digest": plan_digest, "from": people}
    _send(turn, book, run.entity, to, "approval", book.severity, text, f"{run.id}.{step}", detail)


def _send(
    turn: Turn,
    book: Runbook,
    entity: str,
    to: tuple[str, ...],
    event: str,
    severity: str,
    text: str,
    subject: str,
    detail: Mapping[str, object] | None = None,
) -> None:
    instance = instance_of(book.id, entity)
    name = f"{subject}.{event}.{turn.at}"
    again = sum(1 for action in turn.actions if action.action_id.startswith(name))
    notice = Notify(
        action_id=f"{name}.{again + 1}" if again else name,
        run_id=subject,
        runbook=book.id,
        to=to,
        event=event,
        severity=severity,
        text=f"{book.title} · {entity}: {text}",
        detail={"runbook": book.id, "entity": entity, "instance": instance, **(detail or {})},
    )
    turn.emit(NoticeSent(at=turn.at, action=notice, instance=instance))
    turn.act(notice)
