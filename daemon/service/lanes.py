"""Delivery of the outbox (floor 7): one lane an endpoint, ordered, never in the way of the engine or of another endpoint.

What is due comes from the journal and its fate goes back there, so a restart goes on where it stopped. A delivery that the endpoint
took but whose mark did not reach the disk is sent again under the same webhook id: receivers count an id once.
Groups are told here, at delivery time (`grouping.py`); an endpoint that fails is spared (`breaker.py`); what is urgent and cannot be
delivered soon goes to the endpoint's fallback too, once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Protocol, assert_never

from daemon.edges.notice import group_body, undelivered_body, worst_of
from daemon.edges.webhook import Answer, Dead, Delivered, Disabled, Endpoint, RetryLater, retry_at
from daemon.journal.entry import Delivery, EndpointRecord, Held, OutboxItem
from daemon.journal.store import Journal
from daemon.service.breaker import state_of, tripped
from daemon.service.clock import Clock
from daemon.service.grouping import CRITICAL, MEMBERS_MAX, told_due
from daemon.service.logging import log
from daemon.units import MINUTE_NS, NS

IDLE_NS = NS // 4  # how long a new item may wait before a lane sees it when nobody calls `look`
WIDTH_MAX = 10  # deliveries on the wire to one endpoint whose messages need no order
UNBOOKED_NS = MINUTE_NS  # how long a delivery rests whose outcome could not be written down
URGENT_WITHIN_NS = 3 * MINUTE_NS  # an urgent notice that will not be there by then is raised elsewhere at once


def wall() -> datetime:
    """Now as an aware UTC time: receivers judge a signature's age by their own wall clock, whatever clock the venue runs on."""
    return datetime.now(UTC)


class Sender(Protocol):
    """What carries a message to an endpoint."""

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The endpoints of the settings by name."""

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: datetime) -> Answer:
        """One try; raises nothing."""


class Lanes:
    """Sends what is due and settles it in the journal."""

    def __init__(
        self,
        *,
        journal: Journal,
        sender: Sender,
        clock: Clock,
        raise_alarm: Callable[[Delivery, str], None],
        elsewhere: frozenset[str] = frozenset(),
        idle_ns: int = IDLE_NS,
    ) -> None:
        """`idle_ns` is how often the lanes look by themselves, in real time."""
        self._idle_s = idle_ns / NS
        self._journal = journal
        self._elsewhere = elsewhere  # endpoints of the outbox that somebody else serves: MQTT
        self._sender = sender
        self._clock = clock
        self._raise_alarm = raise_alarm  # a critical notice that reached nobody: somebody else must hear of it
        self._unordered = frozenset(name for name, endpoint in sender.endpoints.items() if not endpoint.ordered)
        self._sending: dict[int, asyncio.Task[None]] = {}
        self._resting: dict[int, int] = {}  # until when (ns), by position: what could not be booked must not be tried without end
        self._busy: dict[str, int] = {}  # deliveries on the wire by endpoint
        self._more = asyncio.Event()
        self.dead = 0  # given up since the start

    @property
    def disabled(self) -> set[str]:
        """The endpoints that said 410 and that nobody has enabled since."""
        return {name for name, record in self._journal.endpoint_records().items() if record.disabled_at is not None}

    def look(self) -> None:
        """Something new was committed to the outbox."""
        self._more.set()

    async def run(self) -> None:
        """Deliver for ever."""
        while True:
            await self.tell_groups()
            self.start_due()
            self._more.clear()
            try:
                async with asyncio.timeout(self._idle_s):
                    await self._more.wait()
            except TimeoutError:
                continue

    # --- groups -------------------------------------------------------------------------------------------------------

    async def tell_groups(self) -> None:
        """Put into its lane what each group that is due has to say: one message, whose fate its notices share."""
        now = self._clock.now()
        for held in self._journal.held_groups():
            target = self._sender.endpoints.get(held.endpoint)
            grouping = None if target is None else target.grouping
            if grouping is None or told_due(held, grouping, now) <= now:
                await self._tell(held, now, together=grouping is not None)

    async def _tell(self, held: Held, now: int, *, together: bool) -> None:
        members = self._journal.group_members(held.endpoint, held.group, MEMBERS_MAX)
        if len(members) == 1 or not together:  # the settings may group no longer what waited in a group
            for member in members:
                await asyncio.wrap_future(self._journal.release(member.position, now))
            return
        id_ = f"{members[0].id}.group"
        item = OutboxItem(
            id=id_,
            endpoint=held.endpoint,
            body=group_body(
                [member.body for member in members],
                id_=id_,
                group=held.group,
                at=now,
                anchor=":".join(str(part) for part in self._journal.head()),
            ),
            severity=worst_of([member.severity for member in members]),
            created_at=now,
            urgent=any(member.urgent for member in members),
        )
        await asyncio.wrap_future(self._journal.coalesce([member.position for member in members], item))
        log().info("notices.grouped", action_id=id_, endpoint=held.endpoint, group=held.group, notices=len(members))

    # --- the wire -----------------------------------------------------------------------------------------------------

    def start_due(self) -> None:
        """Put on the wire everything that is due and whose lane is free; and a probe where an endpoint may be back."""
        now = self._clock.now()
        records = self._journal.endpoint_records()
        spared = frozenset(name for name, record in records.items() if self._spared(name, record, now))
        sending = frozenset(self._sending) | {position for position, until in self._resting.items() if until > now}
        for delivery in self._journal.due_deliveries(now, unordered=self._unordered, spared=spared, sending=sending, limit=WIDTH_MAX):
            if delivery.endpoint in self._elsewhere:
                continue
            busy = self._busy.get(delivery.endpoint, 0)
            probing = not delivery.urgent and state_of(records.get(delivery.endpoint), now) == "half-open"
            if busy >= WIDTH_MAX or (busy and (delivery.endpoint not in self._unordered or probing)):
                continue
            self._start(delivery)
        for name, record in records.items():
            ours = name in self._sender.endpoints and record.disabled_at is None
            if ours and not self._busy.get(name) and state_of(record, now) == "half-open":
                head = self._journal.lane_head(name)
                if head is not None and self._resting.get(head.position, 0) <= now:
                    self._start(head, probe=True)

    def _start(self, delivery: Delivery, *, probe: bool = False) -> None:
        self._busy[delivery.endpoint] = self._busy.get(delivery.endpoint, 0) + 1
        task = asyncio.create_task(self._deliver(delivery, probe=probe), name=f"delivery {delivery.id}")
        self._sending[delivery.position] = task
        task.add_done_callback(partial(self._done, delivery))

    def _spared(self, name: str, record: EndpointRecord, now: int) -> bool:
        """True when what is not urgent does not go to an endpoint now. What waits for a disabled one becomes a dead letter instead."""
        state = state_of(record, now)
        return record.disabled_at is None and (state == "open" or (state == "half-open" and self._busy.get(name, 0) > 0))

    async def drain(self, timeout_s: float) -> None:
        """Wait for what is on the wire, at most `timeout_s` real seconds, then leave the rest to the next start."""
        if self._sending:
            await asyncio.wait(self._sending.values(), timeout=timeout_s)
        for task in list(self._sending.values()):
            task.cancel()

    def _done(self, delivery: Delivery, done: asyncio.Task[None]) -> None:
        self._resting.pop(delivery.position, None)
        if not done.cancelled() and done.exception() is not None:
            self._resting[delivery.position] = self._clock.now() + UNBOOKED_NS
            log().error("notice.unmarked", action_id=delivery.id, endpoint=delivery.endpoint, reason=str(done.exception()))
        self._sending.pop(delivery.position, None)
        self._busy[delivery.endpoint] -= 1
        self._more.set()

    async def _deliver(self, delivery: Delivery, *, probe: bool = False) -> None:
        """One try with its outcome in the journal; a fault of ours is a failed try like any other, so that it comes to an end."""
        try:
            await self._try(delivery, probe=probe)
        except Exception as error:
            at = self._clock.now()
            why = f"a fault of ours at this try: {type(error).__name__}: {str(error)[:200]}"
            log().error("notice.fault", action_id=delivery.id, endpoint=delivery.endpoint, reason=why)
            await asyncio.wrap_future(self._journal.endpoint_failed(delivery.endpoint, at, why))
            if not probe:
                await self._booked(delivery, at, why, self._again_at(delivery, at))

    async def _try(self, delivery: Delivery, *, probe: bool) -> None:
        name = delivery.endpoint
        record = self._journal.endpoint_records().get(name)
        if record is not None and record.disabled_at is not None:
            why = f"the endpoint said 410 Gone; `reefd webhook enable {name}` sends there again"
            await self._failed(delivery, self._clock.now(), why, None)
            return
        answer = await self._sender.send(name, delivery.id, delivery.body, signed_at=wall())
        at = self._clock.now()
        match answer:
            case Delivered():
                log().info("notice.delivered", action_id=delivery.id, endpoint=name, attempts=delivery.attempts + 1)
                await asyncio.wrap_future(self._journal.mark_delivered(delivery.position, at))
            case RetryLater():
                due = self._again_at(delivery, at, answer.after_ns)
                not_before = 0 if answer.after_ns is None else at + answer.after_ns
                await asyncio.wrap_future(self._journal.endpoint_failed(name, at, answer.reason, not_before))
                if not probe:  # a probe is a try of the endpoint's, none of the message's
                    await self._failed(delivery, at, answer.reason, due)
            case Disabled():
                await asyncio.wrap_future(self._journal.disable_endpoint(name, at, answer.reason))
                log().error("endpoint.disabled", endpoint=name, reason=answer.reason, enable=f"reefd webhook enable {name}")
                await self._failed(delivery, at, answer.reason, None)
            case Dead():
                await self._failed(delivery, at, answer.reason, None)
            case _:
                assert_never(answer)

    async def _failed(self, delivery: Delivery, at: int, why: str, due: int | None) -> None:
        late = due is None or due - delivery.created_at > URGENT_WITHIN_NS
        if delivery.urgent and (late or tripped(self._journal.endpoint_records().get(delivery.endpoint))):
            await self._raise_elsewhere(delivery, at, why)
        await self._booked(delivery, at, why, due)

    def _again_at(self, delivery: Delivery, at: int, after_ns: int | None = None) -> int | None:
        return retry_at(
            message_id=delivery.id,
            endpoint=delivery.endpoint,
            attempts=delivery.attempts + 1,
            failed_at=at,
            after_ns=after_ns,
            critical=delivery.severity == CRITICAL,
        )

    async def _booked(self, delivery: Delivery, at: int, why: str, due: int | None) -> None:
        """The journal has the failed try, and people hear of what was given up."""
        await asyncio.wrap_future(self._journal.mark_failed(delivery.position, at, why, due))
        if due is not None:
            log().warning("notice.delayed", action_id=delivery.id, endpoint=delivery.endpoint, reason=why, retry_in_s=(due - at) // NS)
            return
        self.dead += 1
        log().error("notice.undeliverable", action_id=delivery.id, endpoint=delivery.endpoint, reason=why, severity=delivery.severity)
        if delivery.severity == CRITICAL:
            self._raise_alarm(delivery, why)

    async def _raise_elsewhere(self, delivery: Delivery, at: int, why: str) -> None:
        """Tell the endpoint's fallback, once: its message has the same id, and an id goes to an endpoint once."""
        target = self._sender.endpoints.get(delivery.endpoint)
        if target is None or target.fallback not in self._sender.endpoints:
            return
        item = OutboxItem(
            id=delivery.id,
            endpoint=target.fallback,
            body=undelivered_body(delivery.body, f"{delivery.endpoint} did not take it: {why}"),
            severity=delivery.severity,
            created_at=at,
            urgent=True,
        )
        if any(known.endpoint == target.fallback for known in self._journal.messages_of(delivery.id)):
            return
        await asyncio.wrap_future(self._journal.send([item]))
        log().warning("notice.raised_elsewhere", action_id=delivery.id, endpoint=delivery.endpoint, fallback=target.fallback, reason=why)
        self.look()
