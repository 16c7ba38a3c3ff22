"""What a notice says when it leaves (floor 9): the engine's words, with the readings behind them, what was done, and the audit anchor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from importlib import import_module

from daemon.edges.notice import entity_of
from daemon.edges.webhook import Breadth, WebhookSender, render
from daemon.engine.actions import Notify
from daemon.engine.engine import Engine
from daemon.engine.state import instance_of
from daemon.errors import SettingsError
from daemon.journal.store import Journal
from daemon.language.explain import value_of
from daemon.runbook.model import Runbook
from daemon.service.logging import log
from daemon.settings import Settings
from daemon.units import show_duration

READINGS_MAX = 6  # that a message names; the whole trace is in the journal
WITH_STEPS = frozenset({"acted", "failed", "blocked", "page"})


def open_sender(settings: Settings) -> WebhookSender:
    """The sender of the settings' endpoints. Raises SettingsError: a secret that cannot be read, or an extra that is not installed."""
    endpoints = settings.endpoints()
    broad = [endpoint.name for endpoint in endpoints if endpoint.format == "apprise"]
    return WebhookSender(endpoints, link_base=settings.http.public_url or "", breadth=_breadth(broad[0]) if broad else None)


def _breadth(endpoint: str) -> Breadth:
    """apprise, loaded only where an endpoint asks for it: it is an extra, and reading it takes most of a second."""
    try:
        deliver: Breadth = import_module("daemon.edges.breadth").deliver
    except ModuleNotFoundError as error:
        if error.name != "apprise":
            raise
        text = f"webhooks.{endpoint}.format: apprise needs the module apprise; install it with: pip install 'reefd[apprise]'"
        raise SettingsError(text) from error
    return deliver


class Telling:
    """Composes the native body of notices; endpoints get it in their own format."""

    def __init__(self, *, engine: Engine, journal: Journal, house: str) -> None:
        self._engine = engine
        self._journal = journal
        self._house = house
        self._faults: set[str] = set()  # kinds that were logged

    def compose(self, notify: Notify, at: int, seq: int) -> str:
        """The body of a notice of the event `seq`, which the engine has just decided at `at` (ns). Raises nothing: the action that it tells
        of is committed with it, so where the words fail the bare facts go."""
        try:
            worded = self._worded(notify, at)
        except Exception as error:
            kind = f"{type(error).__name__} at {notify.event} of {notify.runbook}"
            if kind not in self._faults:
                self._faults.add(kind)
                log().exception("notice.wording_failed", kind=kind, action_id=notify.action_id)
            worded = {}
        return render(f"notice.{notify.event}", {**self._facts(notify), **worded}, at=at, seq=seq)

    def _facts(self, notify: Notify) -> dict[str, object]:
        head_seq, head = self._journal.head()
        return {
            "action_id": notify.action_id,
            "run_id": notify.run_id,
            "runbook": notify.runbook,
            "event": notify.event,
            "severity": notify.severity,
            "text": notify.text,
            "house": self._house,
            # Every message anchors the audit chain outside of this machine: a cut tail shows against it.
            "anchor": f"{head_seq}:{head}",
        }

    def _worded(self, notify: Notify, at: int) -> dict[str, object]:
        entity = entity_of(notify.runbook, notify.run_id, notify.detail)
        book = self._engine.book(notify.runbook)
        worded: dict[str, object] = {
            "title": book.title if book is not None else notify.runbook,
            "detail": notify.detail,
            "why": [] if book is None else self._why(book, entity, at),
            "did": self._did(notify, entity),
        }
        render("notice", worded, at=at, seq=0)  # what cannot be written down must show here
        return worded

    def _why(self, book: Runbook, entity: str, at: int) -> list[str]:
        """The readings that its trigger judges by, as they are now."""
        if not self._engine.hot.has(book.id, entity):
            return []
        tree = self._engine.hot.trace(book, book.trigger.when.index, entity, at)
        return list(dict.fromkeys(readings(tree)))[:READINGS_MAX]

    def _did(self, notify: Notify, entity: str) -> list[str]:
        """The steps of the run that has just ended, and how each did."""
        memory = self._engine.cold.memories.get(instance_of(notify.runbook, entity))
        if memory is None or notify.event not in WITH_STEPS or not notify.run_id.startswith(memory.last_run or "\0"):
            return []
        return [f"{step.step} ({step.kind}) {step.status}{': ' + step.reason if step.reason else ''}" for step in memory.last_steps]


def readings(tree: Mapping[str, object]) -> Iterator[str]:
    """`margin_ratio 83% (2s old)` for each reading of a trace, in order of appearance."""
    if tree["role"] in ("reading", "derived"):
        age = tree["age"]
        said = "" if not isinstance(age, float) else " (never seen)" if age == float("inf") else f" ({show_duration(age)} old)"
        yield f"{tree['text']} {value_of(dict(tree))}{said}"
        return
    kids = tree["kids"]
    assert isinstance(kids, list | tuple)
    for kid in kids:
        yield from readings(kid)
