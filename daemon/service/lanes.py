"""Delivery of the outbox (floor 7): one lane an endpoint, ordered, never in the way of the engine or of another endpoint.

What is due comes from the journal and its fate goes back there, so a restart goes on where it stopped. A delivery that the endpoint
took but whose mark did not reach the disk is sent again under the same webhook id: receivers count an id once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import assert_never

from daemon.edges.webhook import Dead, Delivered, Disabled, RetryLater, WebhookSender, retry_at
from daemon.journal.entry import Delivery
from daemon.journal.store import Journal
from daemon.service.clock import Clock
from daemon.service.logging import log
from daemon.units import NS

IDLE_NS = NS // 4  # how long a new item may wait before a lane sees it when nobody calls `look`
CRITICAL = "critical"


def wall() -> datetime:
    """Now as an aware UTC time: receivers judge a signature's age by their own wall clock, whatever clock the venue runs on."""
    return datetime.now(UTC)


class Lanes:
    """Sends what is due and settles it in the journal."""

    def __init__(
        self, *, journal: Journal, sender: WebhookSender, clock: Clock, raise_alarm: Callable[[Delivery, str], None]
    ) -> None:
        self._journal = journal
        self._sender = sender
        self._clock = clock
        self._raise_alarm = raise_alarm  # a critical notice that reached nobody: somebody else must hear of it
        self._unordered = frozenset(name for name, endpoint in sender.endpoints.items() if not endpoint.ordered)
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._busy: set[str] = set()  # ordered endpoints with a delivery on the wire
        self._more = asyncio.Event()
        self.disabled: set[str] = set()  # endpoints that said 410 since the start
        self.dead = 0  # given up since the start

    def look(self) -> None:
        """Something new was committed to the outbox."""
        self._more.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            self.start_due()
            self._more.clear()
            try:
                async with asyncio.timeout(IDLE_NS / NS):
                    await self._more.wait()
            except TimeoutError:
                continue

    def start_due(self) -> None:
        """Put on the wire everything that is due and whose lane is free."""
        for delivery in self._journal.due_deliveries(self._clock.now(), unordered=self._unordered):
            ordered = delivery.endpoint not in self._unordered
            if delivery.position in self._sending or (ordered and delivery.endpoint in self._busy):
                continue
            if ordered:
                self._busy.add(delivery.endpoint)
            task = asyncio.create_task(self._deliver(delivery), name=f"delivery {delivery.id}")
            self._sending[delivery.position] = task
            task.add_done_callback(partial(self._done, delivery))

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is on the wire, at most `timeout_s` real seconds, then leave the rest to the next start."""
        if self._sending:
            await asyncio.wait(self._sending.values(), timeout=timeout_s)
        for task in list(self._sending.values()):
            task.cancel()

    def _done(self, delivery: Delivery, done: asyncio.Task[None]) -> None:
        if not done.cancelled() and done.exception() is not None:
            log().error("notice.unmarked", action_id=delivery.id, endpoint=delivery.endpoint, reason=str(done.exception()))
        self._sending.pop(delivery.position, None)
        self._busy.discard(delivery.endpoint)
        self._more.set()

    async def _deliver(self, delivery: Delivery) -> None:
        if delivery.endpoint in self.disabled:
            await self._failed(delivery, self._clock.now(), "the endpoint said 410 Gone; enable it by a restart", None)
            return
        answer = await self._sender.send(delivery.endpoint, delivery.id, delivery.body, signed_at=wall())
        at = self._clock.now()
        match answer:
            case Delivered():
                log().info("notice.delivered", action_id=delivery.id, endpoint=delivery.endpoint, attempts=delivery.attempts + 1)
                await asyncio.wrap_future(self._journal.mark_delivered(delivery.position, at))
            case RetryLater():
                due = retry_at(
                    message_id=delivery.id,
                    endpoint=delivery.endpoint,
                    attempts=delivery.attempts + 1,
                    failed_at=at,
                    after_ns=answer.after_ns,
                    critical=delivery.severity == CRITICAL,
                )
                await self._failed(delivery, at, answer.reason, due)
            case Disabled():
                self.disabled.add(delivery.endpoint)
                await self._failed(delivery, at, answer.reason, None)
            case Dead():
                await self._failed(delivery, at, answer.reason, None)
            case _:
                assert_never(answer)

    async def _failed(self, delivery: Delivery, at: int, why: str, due: int | None) -> None:
        await asyncio.wrap_future(self._journal.mark_failed(delivery.position, at, why, due))
        if due is not None:
            log().warning("notice.delayed", action_id=delivery.id, endpoint=delivery.endpoint, reason=why, retry_in_s=(due - at) // NS)
            return
        self.dead += 1
        log().error("notice.undeliverable", action_id=delivery.id, endpoint=delivery.endpoint, reason=why, severity=delivery.severity)
        if delivery.severity == CRITICAL:
            self._raise_alarm(delivery, why)
