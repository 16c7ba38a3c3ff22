"""An MQTT broker as configured, and what goes over the line (floor 6): plain facts, so that settings and loops load no MQTT stack.

    Outgoing(topic="reefd/status", payload=b"online", retain=True)      # `edges/mqtt.py` puts it on the wire
"""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import unquote

ENDPOINT = "mqtt"  # the member of a channel, and the lane of the outbox, that means the broker
LEVEL_BYTES_MAX = 200
_ESCAPED = frozenset("%/+#") | {chr(code) for code in (*range(0x20), 0x7F)}


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """How the broker proves who it is (`ca`: a file of certificates, None = the system's) and how we do, where it asks."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None

    def prepared(self) -> ssl.SSLContext:
        """A context that checks chain and host name. Raises OSError (ssl.SSLError is one) when a file cannot be read or used."""
        context = ssl.create_default_context(cafile=None if self.ca is None else str(self.ca))
        if self.certificate is not None:
            context.load_cert_chain(str(self.certificate), None if self.key is None else str(self.key))
        return context


@dataclass(frozen=True, slots=True, kw_only=True)
class Broker:
    """Where the broker is and who we are there. Times are real seconds; `password` is the secret itself and is never shown."""

    host: str
    port: int
    client_id: str
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    tls: ssl.SSLContext | None = None
    keepalive_s: int = 15
    timeout_s: float = 5.0

    @property
    def address(self) -> str:
        """For people: `mqtts://host:8883`."""
        return f"{'mqtt' if self.tls is None else 'mqtts'}://{self.host}:{self.port}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Outgoing:
    """A message out, at QoS 1. `expiry_s`: the broker forgets it after so many seconds (None: never)."""

    topic: str
    payload: bytes
    retain: bool = False
    expiry_s: int | None = None
    properties: Mapping[str, str] = field(default_factory=dict)  # user properties
    correlation: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """A message in. `retained`: the broker had kept it, so nobody said it just now."""

    topic: str
    payload: bytes
    retained: bool = False
    response_topic: str = ""
    correlation: bytes = b""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """What the broker said of a message: `refused` says why it did not take it; `heard` False: it took it, but nobody is subscribed."""

    refused: str = ""
    too_large: bool = False
    heard: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Subscription:
    """A filter; `stored` False: what the broker has retained under it is not wanted."""

    topics: str
    stored: bool = True


class Connection(Protocol):
    """One connection to a broker. Everything raises EdgeError when it is gone."""

    async def publish(self, message: Outgoing) -> Ack:
        """Send a message and wait for what the broker says of it."""

    async def subscribe(self, subscription: Subscription) -> str:
        """Subscribe; why the broker refuses, empty when it does not."""

    def messages(self) -> AsyncIterator[Incoming]:
        """What comes in, commands first; raises EdgeError when the connection ends."""

    @property
    def dropped(self) -> int:
        """Messages that came in faster than they were read, and are lost."""


class Wire(Protocol):
    """Makes connections, one at a time."""

    def connect(self, will: Outgoing | None) -> AbstractAsyncContextManager[Connection]:
        """A connection; raises EdgeError when there is none to be had. Left by an exception, the broker publishes `will`."""


def level(name: str) -> str:
    """A name as one level of a topic: `%`, `/`, `+`, `#` and control characters are written as in a URL (`dydx#1` is `dydx%231`)."""
    return "".join("".join(f"%{byte:02X}" for byte in c.encode()) if c in _ESCAPED else c for c in name)


def name_of(text: str) -> str:
    """The name that a level of a topic means. Raises ValueError when it is none."""
    try:
        name = unquote(text, errors="strict")
    except UnicodeDecodeError:
        raise ValueError(f"{text!r} is no name: its % escapes are not UTF-8") from None
    if not name or len(name.encode()) > LEVEL_BYTES_MAX or any(c in name for c in "\0\n\r"):
        raise ValueError(f"{text[:40]!r} is no name")
    return name


def joined(*levels: str) -> str:
    """A topic of levels that are written as they are."""
    return "/".join(levels)


def filters(subscriptions: Sequence[Subscription]) -> str:
    """The filters of subscriptions, for a message."""
    return ", ".join(subscription.topics for subscription in subscriptions)
