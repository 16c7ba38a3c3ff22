"""An outbox in memory with the journal's own SQL, and receivers that keep what came: alerts in virtual time."""

from __future__ import annotations

import asyncio
import json
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from datetime import datetime
from typing import Any

from alert_notices import notice
from service_world import ORIGIN_NS, START_S, virtual_clock

from daemon.edges.notice import GROUP
from daemon.edges.webhook import Answer, Delivered, Endpoint
from daemon.engine.actions import Notify
from daemon.journal import outbox
from daemon.journal.entry import Delivery, EndpointRecord, Held, OutboxItem
from daemon.journal.schema import STATE_MIGRATIONS
from daemon.service.clock import AcceleratedClock
from daemon.service.grouping import group_of, urgent
from daemon.service.lanes import Lanes
from daemon.units import NS


class MemoryOutbox:
    """What the lanes and alerts need of a journal; a commit is done when it is asked for, so virtual time stands meanwhile."""

    def __init__(self) -> None:
        self.connection = sqlite3.connect(":memory:", isolation_level=None)
        for script in STATE_MIGRATIONS:
            self.connection.executescript(script)

    def _done(self) -> Future[None]:
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _change(self, change: Callable[..., object], *arguments: object) -> Future[None]:
        self.connection.execute("BEGIN")
        change(self.connection, *arguments)
        self.connection.execute("COMMIT")
        return self._done()

    def send(self, items: Sequence[OutboxItem]) -> Future[None]:
        return self._change(outbox.insert, items)

    def release(self, position: int, at: int) -> Future[None]:
        return self._change(outbox.release, position, at)

    def coalesce(self, positions: Sequence[int], item: OutboxItem) -> Future[None]:
        return self._change(outbox.coalesce, positions, item)

    def mark_delivered(self, position: int, at: int) -> Future[None]:
        return self._change(outbox.delivered, position, at)

    def mark_failed(self, position: int, at: int, error: str, retry_at: int | None) -> Future[None]:
        return self._change(outbox.failed, position, at, error, retry_at)

    def redeliver(self, position: int, at: int) -> Future[None]:
        return self._change(outbox.revive, position, at)

    def endpoint_failed(self, name: str, at: int, error: str, not_before: int = 0) -> Future[None]:
        return self._change(outbox.endpoint_failed, name, at, error, not_before)

    def disable_endpoint(self, name: str, at: int, reason: str) -> Future[None]:
        return self._change(outbox.disable, name, at, reason)

    def enable_endpoint(self, name: str, at: int) -> Future[None]:
        return self._change(outbox.enable, name, at)

    def due_deliveries(
        self,
        now: int,
        *,
        unordered: frozenset[str] = frozenset(),
        spared: frozenset[str] = frozenset(),
        sending: frozenset[int] = frozenset(),
        limit: int = 100,
    ) -> list[Delivery]:
        return outbox.due(self.connection, now, unordered, spared, limit, sending)

    def lane_head(self, endpoint: str) -> Delivery | None:
        return outbox.head(self.connection, endpoint)

    def endpoint_records(self) -> dict[str, EndpointRecord]:
        return outbox.endpoints(self.connection)

    def held_groups(self) -> list[Held]:
        return outbox.held(self.connection)

    def group_members(self, endpoint: str, group: str, limit: int) -> list[Delivery]:
        return outbox.members(self.connection, endpoint, group, limit)

    def messages_of(self, id_or_position: str) -> list[Delivery]:
        return outbox.of_id(self.connection, id_or_position)

    def messages(self, endpoint: str = "", status: str = "", limit: int = 10_000) -> list[Delivery]:
        return outbox.latest(self.connection, endpoint, status, limit)

    def carried_by(self, position: int) -> list[Delivery]:
        return outbox.carried(self.connection, position)

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        return outbox.counts(self.connection)

    def dead_letters(self, endpoint: str | None = None, *, after: int | None = None, limit: int = -1) -> list[Delivery]:
        return outbox.dead(self.connection, endpoint, after, limit)

    def head(self) -> tuple[int, str]:
        return 7, "ef" * 32


class Receivers:
    """Endpoints that answer as a test says (default: taken); `sent` is (seconds since the start, endpoint, id, body)."""

    def __init__(self, *endpoints: Endpoint, answers: Callable[[str, str, float], Answer] | None = None, takes_s: float = 0.05) -> None:
        self.endpoints: Mapping[str, Endpoint] = {endpoint.name: endpoint for endpoint in endpoints}
        self.answers = answers or (lambda _endpoint, _id, _at: Delivered(status=200))
        self.takes_s = takes_s
        self.sent: list[tuple[float, str, str, str]] = []

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: datetime) -> Answer:
        at = asyncio.get_running_loop().time() - START_S
        self.sent.append((at, endpoint, message_id, body))
        await asyncio.sleep(self.takes_s)
        return self.answers(endpoint, message_id, at)

    def ids(self, endpoint: str) -> list[str]:
        return [id_ for _, name, id_, _ in self.sent if name == endpoint]


class Scene:
    """Lanes in virtual time on an outbox that survives them."""

    def __init__(self, receivers: Receivers, *, idle_s: float = 0.25) -> None:
        self.receivers = receivers
        self.idle_s = idle_s
        self.outbox = MemoryOutbox()
        self.alarms: list[str] = []
        self.clock: AcceleratedClock = virtual_clock()
        self._number = 0
        self.begin()

    def begin(self) -> None:
        """A start, or a further one."""
        self.lanes = Lanes(
            journal=self.outbox,  # type: ignore[arg-type]
            sender=self.receivers,
            clock=self.clock,
            raise_alarm=lambda delivery, _why: self.alarms.append(delivery.id),
            idle_ns=round(self.idle_s * NS),
        )
        self.running = asyncio.create_task(self.lanes.run())

    async def kill(self) -> None:
        """The process is gone: what is on the wire is never marked."""
        self.running.cancel()
        await asyncio.gather(self.running, return_exceptions=True)
        await self.lanes.drain(0)

    def put(self, event: str = "fired", *, to: Sequence[str] = ("chat",), severity: str = "warning", **options: Any) -> str:
        """A notice enters the outbox as the loop would put it; its id."""
        self._number += 1
        at = self.clock.now()
        body = notice(event, severity=severity, seq=self._number, at=at, **options)
        content = json.loads(body)["data"]
        id_ = f"{content['action_id']}.{self._number}"
        body = body.replace(content["action_id"], id_)
        told = Notify(
            action_id=id_, run_id=content["run_id"], runbook=content["runbook"], to=tuple(to), event=event, severity=severity,
            text=content["text"], detail=content["detail"],
        )  # fmt: skip
        items = [
            OutboxItem(
                id=id_, endpoint=name, body=body, severity=severity, created_at=at, urgent=urgent(told),
                group=group_of(self.receivers.endpoints[name].grouping, told), reminder=content["run_id"].endswith("/still"),
            )
            for name in to
        ]  # fmt: skip
        self.outbox.send(items)
        self.lanes.look()
        return id_

    async def until(self, seconds: float) -> None:
        """Let virtual time pass until so many seconds after the start."""
        await asyncio.sleep(max(0.0, START_S + seconds - asyncio.get_running_loop().time()))

    def fates(self, endpoint: str = "chat") -> dict[str, str]:
        """What became of each message: its status, or that of the message which told it."""
        messages = {m.position: m for m in self.outbox.messages(endpoint)}
        return {
            m.id: messages[m.carried_by].status if m.status == "grouped" and m.carried_by is not None else m.status
            for m in messages.values()
        }


def notices_in(body: str) -> list[str]:
    """The ids of the notices that a message tells."""
    document = json.loads(body)
    if document["type"] == GROUP:
        return [member["data"]["action_id"] for member in document["data"]["notices"]]
    return [document["data"]["action_id"]]


def seconds(at: int) -> float:
    """Seconds after the start of a time of the daemon's clock."""
    return (at - ORIGIN_NS) / NS
