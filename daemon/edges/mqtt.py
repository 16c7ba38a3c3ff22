"""MQTT 5 on the wire (floor 6), and the only file that imports aiomqtt: one connection, tried once; whoever calls reconnects.

    async with MqttWire(broker).connect(will) as connection:
        ack = await connection.publish(Outgoing(topic="reefd/status", payload=b"online", retain=True))

Every connection starts clean: what was not acknowledged is in the outbox, and state is published anew on each connect. Whatever goes
wrong on the line is an `EdgeError`.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from paho.mqtt.reasoncodes import ReasonCode
from paho.mqtt.subscribeoptions import SubscribeOptions

from daemon.edges.broker import Ack, Broker, Connection, Incoming, Outgoing, Subscription
from daemon.errors import EdgeError

EDGE = "mqtt"
# Acknowledgements that may be outstanding: brokers allow 10 (HiveMQ) or 20 (mosquitto) unless told otherwise, and end the connection
# of a client that does not keep to it.
IN_FLIGHT_MAX = 8
WAITING_MAX = 1_024  # messages that came in and were not read yet
COMMANDS_MAX = 256
COMMAND_LEVEL = "/command"  # topics that end so are read before all others

_REFUSED = 0x80  # reason codes from here on are failures
_NOBODY = 0x10  # no matching subscribers
_TOO_LARGE = 0x95


class MqttWire:
    """Connections to one broker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    @contextlib.asynccontextmanager
    async def connect(self, will: Outgoing | None) -> AsyncIterator[Connection]:
        """A connection, closed in good order at the end; left by an exception it is cut, and the broker publishes `will`."""
        client = _client(self._broker, will)
        try:
            await client.__aenter__()
        except (aiomqtt.MqttError, ValueError) as error:  # ValueError: a host or user that cannot be written into a packet
            client.cut()
            raise _edge_error(f"cannot connect to {self._broker.address}: {error}", "unreachable") from error
        except BaseException:
            client.cut()
            raise
        try:
            yield _Line(client, self._broker)
        except BaseException:
            client.cut()
            raise
        try:
            await client.__aexit__(None, None, None)
        except aiomqtt.MqttError:
            client.cut()  # it was to end anyway


@dataclass(slots=True)
class _Line:
    """One connection."""

    _client: _Client
    _broker: Broker
    _places: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(IN_FLIGHT_MAX))

    async def publish(self, message: Outgoing) -> Ack:
        """Send at QoS 1 and wait for the acknowledgement. Raises EdgeError: whether the broker took it is not known then."""
        try:
            # The time of a message runs from when it is sent, not from when it began to wait for its turn.
            async with self._places, asyncio.timeout(self._broker.timeout_s):
                code = await self._client.acknowledged(message)
        except TimeoutError:
            raise _edge_error(f"{self._broker.address} did not acknowledge within {self._broker.timeout_s:g} s", "timeout") from None
        except (aiomqtt.MqttError, ValueError) as error:
            raise _edge_error(f"the connection to {self._broker.address} is gone: {error}", "disconnected") from error
        if code.value >= _REFUSED:
            return Ack(refused=f"the broker refused it: {code} (0x{code.value:02X})", too_large=code.value == _TOO_LARGE)
        return Ack(heard=code.value != _NOBODY)

    async def subscribe(self, subscription: Subscription) -> str:
        """Subscribe at QoS 1; why the broker refuses, empty when it does not. Raises EdgeError."""
        handling = SubscribeOptions.RETAIN_SEND_ON_SUBSCRIBE if subscription.stored else SubscribeOptions.RETAIN_DO_NOT_SEND
        options = SubscribeOptions(qos=1, retainHandling=handling)
        try:
            codes = await self._client.subscribe(subscription.topics, options=options)
        except (aiomqtt.MqttError, ValueError) as error:
            raise _edge_error(f"cannot subscribe at {self._broker.address}: {error}", "disconnected") from error
        refused = [str(code) for code in codes if isinstance(code, ReasonCode) and code.value >= _REFUSED]
        return f"the broker refused {subscription.topics}: {', '.join(refused)}" if refused else ""

    async def messages(self) -> AsyncIterator[Incoming]:
        """What comes in, commands first. Raises EdgeError when the connection ends."""
        try:
            async for message in self._client.messages:
                yield _incoming(message)
        except aiomqtt.MqttError as error:
            why = error.__cause__ or error
            raise _edge_error(f"{self._broker.address} ended the connection: {why}", "disconnected") from error

    @property
    def dropped(self) -> int:
        """Messages that were lost because they came faster than they were read."""
        return self._client.waiting.dropped


class _Waiting(asyncio.Queue[aiomqtt.Message]):
    """What came in and waits: commands first, and of everything else the oldest gives way when there is too much."""

    def _init(self, maxsize: int) -> None:
        self._commands: deque[aiomqtt.Message] = deque()
        self._others: deque[aiomqtt.Message] = deque()
        self.dropped = 0

    def full(self) -> bool:
        """Never: it drops instead."""
        return False

    def qsize(self) -> int:
        """How many wait."""
        return len(self._commands) + len(self._others)

    def empty(self) -> bool:
        """True when nothing waits."""
        return not self._commands and not self._others

    def _put(self, item: aiomqtt.Message) -> None:
        if item.topic.value.endswith(COMMAND_LEVEL):
            if len(self._commands) < COMMANDS_MAX:
                self._commands.append(item)
            else:
                self.dropped += 1  # its sender gets no answer, and sends it again
            return
        if len(self._others) >= WAITING_MAX:
            self._others.popleft()
            self.dropped += 1
        self._others.append(item)

    def _get(self) -> aiomqtt.Message:
        return self._commands.popleft() if self._commands else self._others.popleft()


class _Client(aiomqtt.Client):
    """aiomqtt's client, but for what a PUBACK says: there a message that the broker refused counts as published."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, queue_type=_Waiting, **kwargs)
        self._acknowledgements: dict[int, asyncio.Future[ReasonCode]] = {}
        # An end that nobody waits for any more is no news.
        self._disconnected.add_done_callback(lambda ended: ended.cancelled() or ended.exception())

    @property
    def waiting(self) -> _Waiting:
        """What came in."""
        assert isinstance(self._queue, _Waiting)
        return self._queue

    async def acknowledged(self, message: Outgoing) -> ReasonCode:
        """Publish at QoS 1; what the broker said. Raises MqttError when it can say nothing any more."""
        sent = self._client.publish(message.topic, message.payload, 1, message.retain, _properties(message, PacketTypes.PUBLISH))
        if sent.rc != 0:
            raise aiomqtt.MqttCodeError(sent.rc, "could not publish")
        answer = self._loop.create_future()
        self._acknowledgements[sent.mid] = answer
        try:
            await asyncio.wait((answer, self._disconnected), return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._acknowledgements.pop(sent.mid, None)
        if not answer.done():
            raise aiomqtt.MqttError("disconnected before the acknowledgement") from self._disconnected.exception()
        code: ReasonCode = answer.result()
        return code

    def _on_publish(self, client: Any, userdata: Any, mid: int, reason_code: ReasonCode, properties: Properties) -> None:
        answer = self._acknowledgements.get(mid)
        if answer is not None and not answer.done():
            answer.set_result(reason_code)

    def cut(self) -> None:
        """End the connection without a word, so that the broker publishes the will."""
        line = self._client.socket()
        if isinstance(line, socket.socket):
            with contextlib.suppress(OSError):
                line.shutdown(socket.SHUT_RDWR)


def _client(broker: Broker, will: Outgoing | None) -> _Client:
    last = None
    if will is not None:
        last = aiomqtt.Will(will.topic, will.payload, qos=1, retain=will.retain, properties=_properties(will, PacketTypes.WILLMESSAGE))
    return _Client(
        broker.host,
        broker.port,
        username=broker.username,
        password=broker.password,
        identifier=broker.client_id,
        protocol=aiomqtt.ProtocolVersion.V5,
        will=last,
        timeout=broker.timeout_s,
        keepalive=broker.keepalive_s,
        clean_start=True,
        max_inflight_messages=IN_FLIGHT_MAX,
        tls_context=broker.tls,
    )


def _properties(message: Outgoing, packet: int) -> Properties:
    properties = Properties(packet)  # type: ignore[no-untyped-call]  # paho leaves this one without types
    if message.expiry_s is not None:
        properties.MessageExpiryInterval = message.expiry_s
    if message.properties:
        properties.UserProperty = list(message.properties.items())
    if message.correlation:
        properties.CorrelationData = message.correlation
    return properties


def _incoming(message: aiomqtt.Message) -> Incoming:
    properties = message.properties
    return Incoming(
        topic=message.topic.value,
        payload=bytes(message.payload or b""),
        retained=message.retain,
        response_topic=str(getattr(properties, "ResponseTopic", "")),
        correlation=bytes(getattr(properties, "CorrelationData", b"")),
    )


def _edge_error(text: str, reason: str) -> EdgeError:
    return EdgeError(text, edge=EDGE, reason=reason, retryable=True)
