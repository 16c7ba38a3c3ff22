"""The connection to an MQTT broker, kept up for ever (floor 7): nothing here is ever waited for by the engine or by a webhook.

    link = Link(wire=MqttWire(broker), address=broker.address, parts=[state, lane, post], hear=[Hearing(...)], will=...)
    await link.run()                       # until `stop`; a broker that is away is asked again with growing pauses

A part speaks while a connection stands, and starts anew with each one.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from daemon.edges.broker import Connection, Incoming, Outgoing, Subscription, Wire
from daemon.errors import EdgeError
from daemon.service.logging import log

PAUSE_MIN_S = 0.25
PAUSE_MAX_S = 30.0
STEADY_S = 10.0  # a connection that lasted this long ends the growing of the pauses: two daemons of one client id do not race each other
STOP_S = 3.0  # for the last words
POST_MAX = 256  # small answers that wait; the oldest gives way


class Part(Protocol):
    """Something that speaks over the connection."""

    async def speak(self, connection: Connection) -> None:
        """Speak for as long as the connection stands; never returns. Raises EdgeError."""

    async def farewell(self, connection: Connection) -> None:
        """The last words, when the daemon stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hearing:
    """What is subscribed to, and who takes it; `take` raises nothing and does not wait."""

    subscription: Subscription
    takes: Callable[[str], bool]  # is a topic of this subscription?
    take: Callable[[Incoming], None]


@dataclass(slots=True, kw_only=True)
class Standing:
    """How the connection is doing, for status pages."""

    address: str
    connected: bool = False
    since: float = 0.0  # monotonic seconds; since the connection stands or is away
    reason: str = "not connected yet"  # why it is away, or what the broker refused; empty when all is well
    connects: int = 0
    attempts: int = 0  # in vain, since it was last up
    received: int = 0
    dropped: int = 0  # came in faster than it was read


class Link:
    """One connection at a time, made again whenever it is gone."""

    def __init__(
        self,
        *,
        wire: Wire,
        address: str,
        parts: Sequence[Part],
        hear: Sequence[Hearing] = (),
        will: Outgoing | None = None,
        changed: Callable[[Standing], None] = lambda _standing: None,
    ) -> None:
        self._wire = wire
        self._parts = parts
        self._hear = hear
        self._will = will
        self._changed = changed  # told when the connection comes and goes
        self._stopping = asyncio.Event()
        self.standing = Standing(address=address, since=time.monotonic())

    async def run(self) -> None:
        """Keep the connection up until `stop`. Raises only what is a fault of ours."""
        pause_s = PAUSE_MIN_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await self._live()
            except* EdgeError as broken:
                self._down(broken)
            if time.monotonic() - began >= STEADY_S:
                pause_s = PAUSE_MIN_S
            await self._rest(pause_s * random.uniform(0.8, 1.2))  # many daemons do not come back in one moment
            pause_s = min(2 * pause_s, PAUSE_MAX_S)

    def stop(self) -> None:
        """Say the last words and let `run` return."""
        self._stopping.set()

    async def _live(self) -> None:
        async with self._wire.connect(self._will) as connection:
            refused = [why for hearing in self._hear if (why := await connection.subscribe(hearing.subscription))]
            self._up("; ".join(refused))
            async with asyncio.TaskGroup() as group:
                speaking = [group.create_task(part.speak(connection), name=type(part).__name__) for part in self._parts]
                speaking.append(group.create_task(self._listen(connection), name="mqtt reading"))
                await self._stopping.wait()
                for task in speaking:
                    task.cancel()
            for part in self._parts:
                await part.farewell(connection)
        self.standing.connected = False

    async def _listen(self, connection: Connection) -> None:
        lost_before = self.standing.dropped
        async for message in connection.messages():
            self.standing.received += 1
            self.standing.dropped = lost_before + connection.dropped
            for hearing in self._hear:
                if hearing.takes(message.topic):
                    hearing.take(message)
                    break

    async def _rest(self, pause_s: float) -> None:
        try:
            async with asyncio.timeout(pause_s):
                await self._stopping.wait()
        except TimeoutError:
            return

    def _up(self, refused: str) -> None:
        standing = self.standing
        standing.connected, standing.since, standing.reason = True, time.monotonic(), refused
        standing.connects += 1
        if refused:
            log().error("mqtt.subscription_refused", broker=standing.address, reason=refused, consequence="nothing is heard there")
        log().info("mqtt.connected", broker=standing.address, attempts=standing.attempts, connects=standing.connects)
        standing.attempts = 0
        self._changed(standing)

    def _down(self, broken: ExceptionGroup[EdgeError]) -> None:
        standing = self.standing
        was_up, why = standing.connected, str(_first(broken))
        if was_up:
            standing.since = time.monotonic()
        # Said once when it goes and once when the reason is another one, not at each attempt.
        if was_up or why != standing.reason:
            log().warning("mqtt.disconnected", broker=standing.address, reason=why, consequence="notices wait in the outbox")
        standing.connected, standing.reason = False, why
        standing.attempts += 1
        self._changed(standing)


def _first(broken: BaseException) -> BaseException:
    while isinstance(broken, BaseExceptionGroup):
        broken = broken.exceptions[0]
    return broken


class Post:
    """Small messages that are worth one try each: answers to commands, and what was wrong with what came in."""

    def __init__(self) -> None:
        self._waiting: deque[Outgoing] = deque(maxlen=POST_MAX)
        self._more = asyncio.Event()

    def put(self, message: Outgoing) -> None:
        """Send it when there is a connection; too many push the oldest out."""
        self._waiting.append(message)
        self._more.set()

    async def speak(self, connection: Connection) -> None:
        """Send what waits, for ever."""
        while True:
            self._more.clear()
            await self._send(connection)
            await self._more.wait()

    async def farewell(self, connection: Connection) -> None:
        """Send what still waits."""
        await self._send(connection)

    async def _send(self, connection: Connection) -> None:
        while self._waiting:
            # Taken out first: one that ends the connection must not end the next one too. Its sender asks again.
            message = self._waiting.popleft()
            ack = await connection.publish(message)
            if ack.refused:
                log().warning("mqtt.answer_refused", topic=message.topic, reason=ack.refused)
