"""A small MQTT 5 broker for machines on which no mosquitto is installed: QoS 0 and 1, retained messages, wills, expiry, sessions in memory.

    python tests/mqtt_broker.py --port 1883 [--user reefd --password secret] [--certificate c.pem --key k.pem] [--deny 'reefd/notice/#']

What it knows dies with it, as with mosquitto's defaults. It takes from a client only what the tests need, and says so to any other.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import signal
import ssl
import struct
import time
from collections import OrderedDict, deque
from dataclasses import dataclass, field, replace

CONNECT, CONNACK, PUBLISH, PUBACK, SUBSCRIBE, SUBACK, UNSUBSCRIBE, UNSUBACK = 1, 2, 3, 4, 8, 9, 10, 11
PINGREQ, PINGRESP, DISCONNECT = 12, 13, 14
NO_SUBSCRIBERS, MALFORMED, BAD_VERSION, BAD_PASSWORD, NOT_AUTHORISED, TAKEN_OVER, TOO_LARGE = 0x10, 0x81, 0x84, 0x86, 0x87, 0x8E, 0x95
RECEIVE_MAX = 20
QUEUED_MAX = 100_000
# Property -> how its value is written.
EXPIRY, RESPONSE_TOPIC, CORRELATION, SESSION_EXPIRY, WILL_DELAY, USER = 0x02, 0x08, 0x09, 0x11, 0x18, 0x26
FORMS = {
    0x01: "B", EXPIRY: "I", 0x03: "s", RESPONSE_TOPIC: "s", CORRELATION: "b", 0x0B: "v", SESSION_EXPIRY: "I", 0x12: "s", 0x13: "H",
    0x15: "s", 0x16: "b", 0x17: "B", WILL_DELAY: "I", 0x19: "B", 0x1A: "s", 0x1C: "s", 0x1F: "s", 0x21: "H", 0x22: "H", 0x23: "H",
    0x24: "B", 0x25: "B", USER: "p", 0x27: "I", 0x28: "B", 0x29: "B", 0x2A: "B",
}  # fmt: skip

Properties = list[tuple[int, object]]


class Malformed(Exception):
    """The client sent something that is no MQTT 5."""


class Reading:
    """A packet's body, read from the front."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.at = 0

    def take(self, count: int) -> bytes:
        if self.at + count > len(self.body):
            raise Malformed("a packet ends too early")
        self.at += count
        return self.body[self.at - count : self.at]

    def number(self, form: str) -> int:
        return int(struct.unpack(f"!{form}", self.take(struct.calcsize(form)))[0])

    def varint(self) -> int:
        value, shift = 0, 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if not byte & 0x80:
                return value
            shift += 7
            if shift > 21:
                raise Malformed("a length of more than four bytes")

    def binary(self) -> bytes:
        return self.take(self.number("H"))

    def text(self) -> str:
        try:
            return self.binary().decode()
        except UnicodeDecodeError:
            raise Malformed("a text that is no UTF-8") from None

    def properties(self) -> Properties:
        end = self.varint() + self.at
        found: Properties = []
        while self.at < end:
            name = self.varint()
            match FORMS.get(name):
                case "s":
                    found.append((name, self.text()))
                case "b":
                    found.append((name, self.binary()))
                case "p":
                    found.append((name, (self.text(), self.text())))
                case "v":
                    found.append((name, self.varint()))
                case None:
                    raise Malformed(f"no property is numbered {name:#x}")
                case form:
                    found.append((name, self.number(form)))
        return found

    def rest(self) -> bytes:
        return self.take(len(self.body) - self.at)


def varint(value: int) -> bytes:
    out = bytearray()
    while True:
        value, byte = value >> 7, value & 0x7F
        out.append(byte | (0x80 if value else 0))
        if not value:
            return bytes(out)


def binary(value: bytes) -> bytes:
    return struct.pack("!H", len(value)) + value


def text(value: str) -> bytes:
    return binary(value.encode())


def properties(given: Properties) -> bytes:
    body = b""
    for name, value in given:
        form = FORMS[name]
        body += varint(name)
        if form == "s":
            body += text(str(value))
        elif form == "b":
            assert isinstance(value, bytes)
            body += binary(value)
        elif form == "p":
            assert isinstance(value, tuple)
            body += text(value[0]) + text(value[1])
        elif form == "v":
            assert isinstance(value, int)
            body += varint(value)
        else:
            body += struct.pack(f"!{form}", value)
    return varint(len(body)) + body


def packet(kind: int, body: bytes, flags: int = 0) -> bytes:
    return bytes([kind << 4 | flags]) + varint(len(body)) + body


def matches(pattern: str, topic: str) -> bool:
    """True when a topic lies under a filter with `+` and `#`."""
    wanted, levels = pattern.split("/"), topic.split("/")
    for index, level in enumerate(wanted):
        if level == "#":
            return True
        if index >= len(levels) or level not in ("+", levels[index]):
            return False
    return len(wanted) == len(levels)


@dataclass(frozen=True)
class Message:
    """A message on its way; `expires_at` is monotonic seconds."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: tuple[tuple[int, object], ...]
    expires_at: float | None

    @staticmethod
    def of(topic: str, payload: bytes, qos: int, retain: bool, given: Properties) -> Message:
        expiry = next((value for name, value in given if name == EXPIRY), None)
        kept = tuple((name, value) for name, value in given if name not in (EXPIRY, WILL_DELAY))
        assert expiry is None or isinstance(expiry, int)
        return Message(topic, payload, qos, retain, kept, None if expiry is None else time.monotonic() + expiry)

    def gone(self) -> bool:
        return self.expires_at is not None and time.monotonic() >= self.expires_at

    def written(self, qos: int, number: int, again: bool) -> bytes:
        left: Properties = [] if self.expires_at is None else [(EXPIRY, max(0, round(self.expires_at - time.monotonic())))]
        body = text(self.topic) + (struct.pack("!H", number) if qos else b"") + properties([*left, *self.properties]) + self.payload
        return packet(PUBLISH, body, flags=(8 if again else 0) | qos << 1 | int(self.retain))


@dataclass
class Session:
    """What the broker knows of a client; it outlives the connection by `keeps` seconds."""

    client: str
    keeps: int = 0
    subscriptions: dict[str, tuple[int, bool]] = field(default_factory=dict)  # filter -> QoS, retain as published
    queue: deque[tuple[Message, int]] = field(default_factory=deque)
    unanswered: OrderedDict[int, Message] = field(default_factory=OrderedDict)
    number: int = 0
    writer: asyncio.StreamWriter | None = None

    def give(self, message: Message, qos: int) -> None:
        if len(self.queue) < QUEUED_MAX:
            self.queue.append((message, min(qos, message.qos)))
        self.flush()

    def flush(self, again: bool = False) -> None:
        while self.writer is not None and self.queue and len(self.unanswered) < RECEIVE_MAX:
            message, qos = self.queue.popleft()
            if message.gone():
                continue
            if qos:
                self.number = self.number % 65_535 + 1
                self.unanswered[self.number] = message
            self.writer.write(message.written(qos, self.number, again))

    def away(self) -> None:
        self.writer = None
        self.queue.extendleft((message, 1) for message in reversed(self.unanswered.values()))
        self.unanswered.clear()


class Broker:
    """Sessions, retained messages, and who may do what."""

    def __init__(self, *, user: str = "", password: str = "", deny: str = "", largest: int = 1 << 20) -> None:
        self.user, self.password, self.deny, self.largest = user, password, deny, largest
        self.sessions: dict[str, Session] = {}
        self.retained: dict[str, Message] = {}

    def publish(self, message: Message) -> int:
        """Give a message to everybody who wants it; the reason code."""
        if self.deny and matches(self.deny, message.topic):
            return NOT_AUTHORISED
        if message.retain:
            if message.payload:
                self.retained[message.topic] = message
            else:
                self.retained.pop(message.topic, None)
        heard = False
        for session in list(self.sessions.values()):
            wants = [how for pattern, how in session.subscriptions.items() if matches(pattern, message.topic)]
            if wants:
                heard = True
                qos, as_published = max(wants)
                session.give(message if as_published else replace(message, retain=False), qos)
        return 0 if heard else NO_SUBSCRIBERS

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, from CONNECT to its end."""
        line = Line(self, reader, writer)
        try:
            await line.run()
        except (Malformed, ConnectionError, asyncio.IncompleteReadError, TimeoutError):
            pass
        finally:
            line.end()
            writer.close()


class Line:
    """One client's connection."""

    def __init__(self, broker: Broker, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.broker, self.reader, self.writer = broker, reader, writer
        self.session: Session | None = None
        self.will: Message | None = None
        self.patience: float | None = 10.0

    async def run(self) -> None:
        kind, _, body = await self.packet()
        if kind != CONNECT or not await self.connect(Reading(body)):
            return
        while True:
            kind, flags, body = await self.packet()
            if kind == DISCONNECT:
                if not body or body[0] != 0x04:
                    self.will = None
                return
            self.take(kind, flags, Reading(body))
            await self.writer.drain()

    async def packet(self) -> tuple[int, int, bytes]:
        async with asyncio.timeout(self.patience):
            first = (await self.reader.readexactly(1))[0]
            length, shift = 0, 0
            while True:
                byte = (await self.reader.readexactly(1))[0]
                length |= (byte & 0x7F) << shift
                shift += 7
                if not byte & 0x80:
                    break
                if shift > 21:
                    raise Malformed("a length of more than four bytes")
            if length > self.broker.largest:
                self.writer.write(packet(DISCONNECT, bytes([TOO_LARGE, 0])))
                raise Malformed("a packet that is too large")
            return first >> 4, first & 15, await self.reader.readexactly(length)

    async def connect(self, body: Reading) -> bool:
        name, version, flags, keepalive = body.text(), body.number("B"), body.number("B"), body.number("H")
        if (name, version) != ("MQTT", 5):
            return self.refuse(BAD_VERSION)
        given = body.properties()
        client = body.text()
        if flags & 0x04:
            will_given, topic, payload = body.properties(), body.text(), body.binary()
            self.will = Message.of(topic, payload, flags >> 3 & 3, bool(flags & 0x20), will_given)
        user = body.text() if flags & 0x80 else ""
        password = body.binary().decode() if flags & 0x40 else ""
        if (user, password) != (self.broker.user, self.broker.password):
            self.will = None
            return self.refuse(BAD_PASSWORD)
        self.patience = keepalive * 1.5 if keepalive else None
        known = self.broker.sessions.get(client)
        if known is not None and known.writer is not None:
            known.writer.write(packet(DISCONNECT, bytes([TAKEN_OVER, 0])))
            known.writer.close()
            known.away()
        if known is None or flags & 0x02:
            present, known = False, Session(client)
        else:
            present = True
        expiry = next((value for name, value in given if name == SESSION_EXPIRY), 0)
        assert isinstance(expiry, int)
        known.keeps, known.writer, self.session = expiry, self.writer, known
        self.broker.sessions[client] = known
        answer: Properties = [(0x21, RECEIVE_MAX), (0x24, 1), (0x27, self.broker.largest)]
        self.writer.write(packet(CONNACK, bytes([int(present), 0]) + properties(answer)))
        known.flush(again=True)
        await self.writer.drain()
        return True

    def refuse(self, code: int) -> bool:
        self.writer.write(packet(CONNACK, bytes([0, code]) + properties([])))
        return False

    def take(self, kind: int, flags: int, body: Reading) -> None:
        assert self.session is not None
        match kind:
            case 3:
                self.publish(flags, body)
            case 4:
                self.session.unanswered.pop(body.number("H"), None)
                self.session.flush()
            case 8:
                self.subscribe(body)
            case 10:
                number, _ = body.number("H"), body.properties()
                codes = b""
                while body.at < len(body.body):
                    codes += bytes([0 if self.session.subscriptions.pop(body.text(), None) else 0x11])
                self.writer.write(packet(UNSUBACK, struct.pack("!H", number) + properties([]) + codes))
            case 12:
                self.writer.write(packet(PINGRESP, b""))
            case _:
                raise Malformed(f"packet type {kind} is not taken here")

    def publish(self, flags: int, body: Reading) -> None:
        qos = flags >> 1 & 3
        topic = body.text()
        if qos > 1 or not topic or "+" in topic or "#" in topic:
            raise Malformed("QoS 2, or no topic")
        number = body.number("H") if qos else 0
        given = body.properties()
        code = self.broker.publish(Message.of(topic, body.rest(), qos, bool(flags & 1), given))
        if qos:
            self.writer.write(packet(PUBACK, struct.pack("!HBB", number, code, 0)))

    def subscribe(self, body: Reading) -> None:
        assert self.session is not None
        number, _ = body.number("H"), body.properties()
        codes, stored = b"", []
        while body.at < len(body.body):
            pattern, options = body.text(), body.number("B")
            qos, handling = min(options & 3, 1), options >> 4 & 3
            fresh = pattern not in self.session.subscriptions
            self.session.subscriptions[pattern] = (qos, bool(options & 8))
            codes += bytes([qos])
            if handling == 0 or (handling == 1 and fresh):
                stored += [(m, qos) for m in self.broker.retained.values() if matches(pattern, m.topic)]
        self.writer.write(packet(SUBACK, struct.pack("!H", number) + properties([]) + codes))
        for message, qos in stored:
            self.session.give(message, qos)

    def end(self) -> None:
        session, self.session = self.session, None
        if session is None or session.writer is not self.writer:
            return  # another connection has taken the session over
        session.away()
        if session.keeps == 0:
            del self.broker.sessions[session.client]
        if self.will is not None:
            self.broker.publish(self.will)


async def main() -> None:
    """Serve until told to stop."""
    options = argparse.ArgumentParser()
    options.add_argument("--port", type=int, required=True)
    for name in ("user", "password", "deny", "certificate", "key"):
        options.add_argument(f"--{name}", default="")
    options.add_argument("--largest", type=int, default=1 << 20)
    given = options.parse_args()
    broker = Broker(user=given.user, password=given.password, deny=given.deny, largest=given.largest)
    context = None
    if given.certificate:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(given.certificate, given.key)
    server = await asyncio.start_server(broker.serve, "127.0.0.1", given.port, ssl=context)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    async with server:
        await stop.wait()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main())
