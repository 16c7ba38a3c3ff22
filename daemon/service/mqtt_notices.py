"""Notices over MQTT (floor 7): the outbox's lane `mqtt`, each on `<prefix>/notice/<severity>` with its id as a user property.

An acknowledgement is not durability: a broker that is killed loses what it acknowledged. So a notice counts as delivered only when
somebody was subscribed and the connection stood for a while after the acknowledgement; else it is sent again, under the same id. What
is not delivered stays in the outbox, over broker and daemon, and holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from daemon.edges.broker import ENDPOINT, Connection, Outgoing, joined, level
from daemon.edges.notice import undelivered_body
from daemon.edges.webhook import SCHEDULE_CRITICAL_NS, retry_at
from daemon.errors import EdgeError
from daemon.journal.entry import Delivery, JournalError, OutboxItem
from daemon.journal.store import Journal
from daemon.service.clock import Clock
from daemon.service.logging import log
from daemon.units import NS

SETTLE_NS = 5 * NS  # real time that a connection must outlive an acknowledgement
LOOK_NS = NS // 4  # how long a new notice may wait when nobody calls `look`
BATCH = 50
ALARMS_MAX = 1_000  # of the notices that wait, how many are looked at
EXPIRY_S = 3 * 86_400  # a session that was away longer reads the journal, not a pile of old alarms
INTERRUPTED_MAX = 3  # sends of one notice that ended the connection, before it is put off as an attempt that failed
CRITICAL = "critical"
ALARM_NS = sum(SCHEDULE_CRITICAL_NS)  # as long as a webhook has for a critical notice
NOBODY = "the broker took it, but nobody is subscribed"


class NoticeLane:
    """Sends what waits for the endpoint `mqtt`, and settles it in the journal."""

    def __init__(
        self, *, journal: Journal, clock: Clock, prefix: str, raise_alarm: Callable[[Delivery, str], None], fallback: str = ""
    ) -> None:
        self._journal = journal
        self._fallback = fallback  # the webhook that is told what is urgent and did not arrive
        self._clock = clock
        self._prefix = prefix
        self._raise_alarm = raise_alarm
        self._more = asyncio.Event()
        self._acknowledged: dict[int, tuple[Delivery, int]] = {}  # position -> when (real ns), on the connection that stands
        self._interrupted: dict[int, int] = {}  # position -> connections that ended while it was sent
        self._alarmed: set[int] = set()
        self.dead = 0  # given up since the start

    def look(self) -> None:
        """Something new was committed to the outbox."""
        self._more.set()

    async def speak(self, connection: Connection) -> None:
        """Send for ever. What the connection before had acknowledged too late to count is sent again."""
        self._acknowledged.clear()
        while True:
            self._more.clear()
            await self._settle(self._clock.real_ns() - SETTLE_NS)
            waiting = self._journal.lane(ENDPOINT, self._clock.now(), BATCH + len(self._acknowledged))
            fresh = [delivery for delivery in waiting if delivery.position not in self._acknowledged]
            for delivery in fresh:
                await self._send(connection, delivery)
            if len(fresh) < BATCH:
                await self._wait()

    async def farewell(self, connection: Connection) -> None:
        """The connection stands to the end: what it acknowledged counts."""
        await self._settle(self._clock.real_ns())

    async def watch(self) -> None:
        """Raise, once each, what is urgent and nobody has had after minutes; it stays in the outbox. Runs for ever."""
        while True:
            await self._raise_overdue()
            await asyncio.sleep(1.0)

    async def _raise_overdue(self) -> None:
        now = self._clock.now()
        for delivery in self._journal.lane(ENDPOINT, now, ALARMS_MAX):
            if _urgent(delivery) and now - delivery.created_at > ALARM_NS and delivery.position not in self._acknowledged:
                await self._raise(delivery, delivery.error or "the MQTT broker cannot be reached; it is still tried")

    async def _raise(self, delivery: Delivery, why: str) -> None:
        """Tell the fallback and, of what is critical, whoever watches this process; once."""
        if delivery.position in self._alarmed:
            return
        self._alarmed.add(delivery.position)
        if self._fallback:
            item = OutboxItem(
                id=delivery.id,
                endpoint=self._fallback,
                body=undelivered_body(delivery.body, f"it was not delivered over MQTT: {why}"),
                severity=delivery.severity,
                created_at=self._clock.now(),
                urgent=True,
            )
            try:
                await asyncio.wrap_future(self._journal.send([item]))
            except JournalError as error:
                log().error("notice.unmarked", action_id=delivery.id, endpoint=self._fallback, reason=str(error))
            else:
                log().warning("notice.raised_elsewhere", action_id=delivery.id, endpoint=ENDPOINT, fallback=self._fallback, reason=why)
        if delivery.severity == CRITICAL:
            self._raise_alarm(delivery, why)

    async def _wait(self) -> None:
        try:
            async with asyncio.timeout(LOOK_NS / NS):
                await self._more.wait()
        except TimeoutError:
            return

    async def _send(self, connection: Connection, delivery: Delivery) -> None:
        ended = self._interrupted.get(delivery.position, 0)
        if ended >= INTERRUPTED_MAX:
            # Once or twice is the broker's doing; always at the same notice is the notice's.
            del self._interrupted[delivery.position]
            await self._failed(delivery, f"the connection ended {ended} times while it was sent")
            return
        message = Outgoing(
            topic=joined(self._prefix, "notice", level(delivery.severity)),
            payload=delivery.body.encode(),
            expiry_s=EXPIRY_S,
            properties={"id": delivery.id},
        )
        try:
            ack = await connection.publish(message)
        except (EdgeError, asyncio.CancelledError):
            self._interrupted[delivery.position] = ended + 1
            raise
        self._interrupted.pop(delivery.position, None)
        if not ack.refused and ack.heard:
            self._acknowledged[delivery.position] = (delivery, self._clock.real_ns())
        else:
            await self._failed(delivery, ack.refused or NOBODY, final=ack.too_large)

    async def _settle(self, until: int) -> None:
        due = [position for position, (_, at) in self._acknowledged.items() if at <= until]
        marks = [(position, self._journal.mark_delivered(position, self._clock.now())) for position in due]
        for position, mark in marks:
            delivery, _ = self._acknowledged[position]
            try:
                await asyncio.wrap_future(mark)
            except JournalError as error:
                log().error("notice.unmarked", action_id=delivery.id, endpoint=ENDPOINT, reason=str(error))
            else:
                log().info("notice.delivered", action_id=delivery.id, endpoint=ENDPOINT, attempts=delivery.attempts + 1)
            del self._acknowledged[position]

    async def _failed(self, delivery: Delivery, why: str, *, final: bool = False) -> None:
        at = self._clock.now()
        due = None
        if not final:
            due = retry_at(
                message_id=delivery.id,
                endpoint=ENDPOINT,
                attempts=delivery.attempts + 1,
                failed_at=at,
                critical=delivery.severity == CRITICAL,
            )
        try:
            await asyncio.wrap_future(self._journal.endpoint_failed(ENDPOINT, at, why))
            await asyncio.wrap_future(self._journal.mark_failed(delivery.position, at, why, due))
        except JournalError as error:
            log().error("notice.unmarked", action_id=delivery.id, endpoint=ENDPOINT, reason=str(error))
            return
        if _urgent(delivery) and (due is None or due - delivery.created_at > ALARM_NS):
            await self._raise(delivery, why)
        if due is not None:
            log().warning("notice.delayed", action_id=delivery.id, endpoint=ENDPOINT, reason=why, retry_in_s=(due - at) // NS)
            return
        self.dead += 1
        log().error("notice.undeliverable", action_id=delivery.id, endpoint=ENDPOINT, reason=why, severity=delivery.severity)


def _urgent(delivery: Delivery) -> bool:
    return delivery.urgent or delivery.severity == CRITICAL
