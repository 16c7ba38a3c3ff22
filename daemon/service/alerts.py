"""What a person may ask of the alerts that leave (floor 7): how endpoints do, a dead letter again, an endpoint on again, a test.

`reefd webhook` and the HTTP API call these; all of them work on the journal alone, so they do while the daemon's loop stands.

    alerts = Alerts(journal=journal, sender=sender, now=clock.now, house="reefd")
    alerts.overview(); await alerts.redeliver("*"); await alerts.enable("desk"); await alerts.test("desk")
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Literal, assert_never

from daemon.edges.notice import TEST
from daemon.edges.webhook import Answer, Dead, Delivered, Disabled, Endpoint, RetryLater, render
from daemon.errors import UserError
from daemon.journal.entry import Delivery, EndpointRecord
from daemon.journal.store import Journal
from daemon.service.breaker import BreakerState, opens_until, state_of
from daemon.service.lanes import Sender, wall
from daemon.units import show_duration

EndpointState = Literal["ok", "retrying", "open breaker", "disabled", "never used"]
ALL = "*"
LETTERS_MAX = 500  # dead letters that are handed out at once


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointReport:
    """How one endpoint does. Times in ns of the daemon's clock; `address` is without secrets."""

    name: str
    format: str
    address: str
    state: EndpointState
    breaker: BreakerState
    opens_until: int  # while the breaker is open: when the next message is tried; else 0
    waiting: int
    delivered: int
    dead: int
    delivered_at: int | None
    failed_at: int | None
    failures: int  # in a row
    error: str
    grouped: bool
    fallback: str
    channels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Tested:
    """What came of a test message."""

    endpoint: str
    delivered: bool
    answer: str


class Alerts:
    """The questions and verbs; none of them raises for what an endpoint answers."""

    def __init__(
        self,
        *,
        journal: Journal,
        sender: Sender,
        now: Callable[[], int],
        house: str,
        channels: Mapping[str, tuple[str, ...]] | None = None,
        look: Callable[[], None] = lambda: None,
        elsewhere: Mapping[str, str] | None = None,
    ) -> None:
        """`now` is the daemon's clock (ns); `look` tells the lanes of a running daemon that there is something to deliver; `elsewhere` are
        the endpoints that are no webhooks, by name, with their address: MQTT."""
        self._elsewhere = elsewhere or {}
        self._journal = journal
        self._sender = sender
        self._now = now
        self._house = house
        self._channels = channels or {}
        self._look = look

    def overview(self) -> tuple[EndpointReport, ...]:
        """How every endpoint does: those of the settings, then those that only the journal remembers."""
        return overview(self._journal, self._sender.endpoints, self._now(), self._channels, self._elsewhere)

    def dead_letters(self, endpoint: str = "") -> list[Delivery]:
        """The newest `LETTERS_MAX` messages given up, oldest first."""
        return self._journal.dead_letters(endpoint or None, limit=LETTERS_MAX)

    async def redeliver(self, which: str) -> list[Delivery]:
        """Put a dead letter back into its lane, by its id or position, or all of them (`*`); those that go again.

        Raises UserError when there is no such message, or it is not dead. A message that was told with others brings back the one that
        told it.
        """
        letters = [] if which == ALL else self._dead_of(which)
        await self._revive(letters)
        # All of them in portions: a full list with its bodies takes long to read, and one commit a letter long to write.
        while which == ALL:
            some = self._journal.dead_letters(after=letters[-1].position if letters else 0, limit=LETTERS_MAX)
            if not some:
                break
            await self._revive(some)
            letters += some
        self._look()
        return letters

    async def _revive(self, letters: Sequence[Delivery]) -> None:
        now = self._now()
        await asyncio.gather(*(asyncio.wrap_future(self._journal.redeliver(letter.position, now)) for letter in letters))

    async def enable(self, endpoint: str) -> str:
        """Send again to an endpoint that said 410, or whose breaker is open; what that changes, in words. Raises UserError: no such."""
        records = self._journal.endpoint_records()
        if endpoint not in self._sender.endpoints and endpoint not in records:
            raise UserError(_no_endpoint(endpoint, [*self._sender.endpoints, *records]))
        record = records.get(endpoint, EndpointRecord(name=endpoint))
        await asyncio.wrap_future(self._journal.enable_endpoint(endpoint, self._now()))
        self._look()
        dead = self._journal.delivery_counts().get((endpoint, "dead"), 0)
        letters = "dead letter stays" if dead == 1 else "dead letters stay"
        more = f"; {dead} {letters} so: reefd webhook redeliver ID or --all" if dead else ""
        if record.disabled_at is not None:
            return f"{endpoint} is enabled again{more}"
        return f"{endpoint} was not disabled; its {record.failures} failures in a row are forgotten{more}"

    async def test(self, endpoint: str) -> Tested:
        """Send a test message right now, past groups, lanes and breaker; the endpoint's answer. Raises UserError: no such endpoint."""
        return await send_test(self._sender, endpoint, house=self._house, at=self._now(), signed_at=wall(), head=self._journal.head())

    def _dead_of(self, which: str) -> list[Delivery]:
        found = self._journal.messages_of(which)
        carriers = {m.carried_by for m in found if m.status == "grouped" and m.carried_by is not None}
        found += [carrier for position in sorted(carriers) for carrier in self._journal.messages_of(str(position))]
        dead = [message for message in found if message.status == "dead"]
        if dead:
            return dead
        if not found:
            raise UserError(f"there is no message {which!r}; `reefd webhook list` shows the dead letters with their ids")
        states = ", ".join(sorted({f"{message.status} at {message.endpoint}" for message in found}))
        raise UserError(f"message {which} is no dead letter: it is {states}")


def overview(
    journal: Journal,
    endpoints: Mapping[str, Endpoint],
    now: int,
    channels: Mapping[str, tuple[str, ...]] | None = None,
    elsewhere: Mapping[str, str] | None = None,
) -> tuple[EndpointReport, ...]:
    """How every endpoint does at `now` (ns), from a journal that may be open for reading only."""
    records, counts, others = journal.endpoint_records(), journal.delivery_counts(), elsewhere or {}
    names = dict.fromkeys([*endpoints, *others, *records, *(name for name, _ in counts)])
    reports = (_report(name, endpoints.get(name), records.get(name), counts, now, channels or {}) for name in names)
    return tuple(replace(each, format=each.name, address=others[each.name]) if each.name in others else each for each in reports)


def _report(
    name: str,
    endpoint: Endpoint | None,
    record: EndpointRecord | None,
    counts: Mapping[tuple[str, str], int],
    now: int,
    channels: Mapping[str, tuple[str, ...]],
) -> EndpointReport:
    known = record or EndpointRecord(name=name)
    breaker = state_of(record, now)
    return EndpointReport(
        name=name,
        format=endpoint.format if endpoint else "",
        address=endpoint.address if endpoint else "not in the settings",
        state=_state(record, breaker),
        breaker=breaker,
        opens_until=opens_until(record, now) if breaker == "open" else 0,
        waiting=counts.get((name, "waiting"), 0),
        delivered=known.delivered,
        dead=counts.get((name, "dead"), 0),
        delivered_at=known.delivered_at,
        failed_at=known.failed_at,
        failures=known.failures,
        error=known.disabled_reason or known.error,
        grouped=endpoint is not None and endpoint.grouping is not None,
        fallback=endpoint.fallback if endpoint else "",
        channels=tuple(channel for channel, members in channels.items() if name in members),
    )


def _state(record: EndpointRecord | None, breaker: BreakerState) -> EndpointState:
    if record is None:
        return "never used"
    if record.disabled_at is not None:
        return "disabled"
    if breaker != "closed":
        return "open breaker"
    return "retrying" if record.failures else "ok"


async def send_test(
    sender: Sender, endpoint: str, *, house: str, at: int, signed_at: datetime, head: tuple[int, str] = (0, "")
) -> Tested:
    """Send one message that says it is a test, in the endpoint's format and signed as any; `at` in ns makes its id. Raises UserError."""
    if endpoint not in sender.endpoints:
        raise UserError(_no_endpoint(endpoint, list(sender.endpoints)))
    id_ = f"test/{endpoint}/{at}"
    content = {
        "action_id": id_,
        "run_id": id_,
        "runbook": "reefd",
        "event": "test",
        "severity": "info",
        "text": f"reefd · {endpoint}: this is a test, sent by hand; nothing is wrong and nothing is wanted",
        "detail": {"entity": endpoint},
        "house": house,
        "anchor": f"{head[0]}:{head[1]}" if head[1] else "",
    }
    answer = await sender.send(endpoint, id_, render(TEST, content, at=at, seq=0), signed_at=signed_at)
    return Tested(endpoint=endpoint, delivered=isinstance(answer, Delivered), answer=in_words(answer))


def in_words(answer: Answer) -> str:
    """An endpoint's answer as a person reads it."""
    match answer:
        case Delivered():
            return f"taken (HTTP {answer.status})"
        case RetryLater():
            after = "" if answer.after_ns is None else f"; it asks for {show_duration(answer.after_ns / 1e9)} of silence"
            return f"not taken: {answer.reason}{after}"
        case Disabled():
            return f"gone: {answer.reason}; the daemon stops sending to an endpoint that says so"
        case Dead():
            return f"refused: {answer.reason}"
        case unknown:
            assert_never(unknown)


def _no_endpoint(name: str, names: list[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    known = ", ".join(sorted(set(names)))
    return f"there is no endpoint {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"there is: {known or 'none'}")
