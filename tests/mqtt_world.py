"""MQTT for tests: a broker in a process of its own (mosquitto where it is installed, the small one of these tests always), and listeners.

Every test that takes the fixture `broker` runs once with each; its id says which one served.
"""

from __future__ import annotations

import asyncio
import getpass
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import aiomqtt
import pytest
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties
from service_processes import free_port

from daemon.edges.broker import Broker

MOSQUITTO = shutil.which("mosquitto") or shutil.which("mosquitto", path="/usr/sbin")
WAIT_S = 20.0
Program = Literal["mosquitto", "embedded"]
PROGRAMS: tuple[Program, ...] = ("mosquitto", "embedded") if MOSQUITTO else ("embedded",)
EMBEDDED = Path(__file__).with_name("mqtt_broker.py")


@dataclass
class BrokerProcess:
    """A broker on a loopback port, and how to end it."""

    program: Program
    folder: Path
    port: int = field(default_factory=free_port)
    user: str = ""
    password: str = ""
    deny: str = ""  # a filter under which nobody may publish
    certificate: str = ""
    key: str = ""
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it listens."""
        log = (self.folder / f"{self.program}.log").open("ab")
        with log:
            self.process = subprocess.Popen(self._words(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
        began = time.monotonic()
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port), timeout=1.0).close()
                return
            except OSError:
                assert self.process.poll() is None, self.log()
                assert time.monotonic() - began < WAIT_S, self.log()
                time.sleep(0.01)  # the only thing a starting process can be asked is whether it listens

    def kill(self) -> None:
        """End it with SIGKILL: it writes nothing down and says nothing."""
        self._end(signal.SIGKILL)

    def stop(self) -> None:
        """End it in good order."""
        self._end(signal.SIGTERM)

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None
        self.process.send_signal(number)

    def log(self) -> str:
        """What it printed."""
        return (self.folder / f"{self.program}.log").read_text(errors="replace")[-4000:]

    def _end(self, number: int) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)
            self.process.wait(WAIT_S)
        self.process = None

    def _words(self) -> list[str]:
        if self.program == "embedded":
            words = [sys.executable, str(EMBEDDED), "--port", str(self.port)]
            for name in ("user", "password", "deny", "certificate", "key"):
                words += [f"--{name}", getattr(self, name)] if getattr(self, name) else []
            return words
        assert MOSQUITTO is not None
        lines = [f"listener {self.port} 127.0.0.1", f"user {getpass.getuser()}", "persistence false", "set_tcp_nodelay true"]
        if self.user:
            secrets = self.folder / "passwords"
            secrets.touch(mode=0o600)
            tool = shutil.which("mosquitto_passwd")
            assert tool is not None, "mosquitto without its mosquitto_passwd"
            subprocess.run([tool, "-b", "-c", str(secrets), self.user, self.password], check=True)
            lines += ["allow_anonymous false", f"password_file {secrets}"]
        else:
            lines.append("allow_anonymous true")
        if self.deny:
            rules = self.folder / "acl"
            rules.touch(mode=0o600)
            rules.write_text((f"user {self.user}\n" if self.user else "") + f"topic deny {self.deny}\ntopic readwrite #\n")
            lines.append(f"acl_file {rules}")
        if self.certificate:
            lines += [f"certfile {self.certificate}", f"keyfile {self.key}"]
        path = self.folder / "mosquitto.conf"
        path.write_text("\n".join(lines) + "\n")
        return [MOSQUITTO, "-c", str(path)]

    def at(self, client_id: str = "reefd", tls: ssl.SSLContext | None = None, timeout_s: float = 5.0, keepalive_s: int = 15) -> Broker:
        """This broker as the daemon's settings would have it."""
        return Broker(
            host="localhost" if tls else "127.0.0.1", port=self.port, client_id=client_id, username=self.user or None,
            password=self.password or None, tls=tls, timeout_s=timeout_s, keepalive_s=keepalive_s,
        )  # fmt: skip


@pytest.fixture(params=PROGRAMS)
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker that runs, once of each program."""
    served = BrokerProcess(program=request.param, folder=tmp_path)
    served.start()
    try:
        yield served
    finally:
        served.kill()


@dataclass
class Heard:
    """One message as a subscriber got it."""

    topic: str
    text: str
    retained: bool
    properties: dict[str, str]
    expiry_s: int | None
    correlation: bytes


class Listener:
    """A subscriber of its own (a persistent session, where the broker keeps one) that comes back when the broker does."""

    def __init__(self, at: BrokerProcess, *topics: str, client_id: str = "listener") -> None:
        self._at, self._topics, self._client_id = at, topics, client_id
        self.heard: list[Heard] = []
        self.subscribed = 0  # how often so far
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Listener:
        self._task = asyncio.create_task(self._listen())
        await until(lambda: self.subscribed > 0)
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    def of(self, topic: str) -> list[Heard]:
        """What was heard on one topic."""
        return [one for one in self.heard if one.topic == topic]

    def last(self, topic: str) -> str:
        """The latest text on a topic; empty when there is none."""
        return next((one.text for one in reversed(self.heard) if one.topic == topic), "")

    async def _listen(self) -> None:
        first = True
        while True:
            kept = Properties(PacketTypes.CONNECT)
            kept.SessionExpiryInterval = 3600
            try:
                async with aiomqtt.Client(
                    "127.0.0.1", self._at.port, identifier=self._client_id, protocol=aiomqtt.ProtocolVersion.V5, clean_start=first,
                    properties=kept, username=self._at.user or None, password=self._at.password or None, timeout=3,
                ) as client:  # fmt: skip
                    first = False
                    for topic in self._topics:
                        await client.subscribe(topic, qos=1)
                    self.subscribed += 1
                    async for message in client.messages:
                        self.heard.append(heard(message))
            except aiomqtt.MqttError:
                await asyncio.sleep(0.05)  # the broker is away: ask again until it is there


def heard(message: aiomqtt.Message) -> Heard:
    """A message as plain values."""
    given = message.properties
    return Heard(
        topic=message.topic.value, text=bytes(message.payload).decode(), retained=message.retain,
        properties=dict(getattr(given, "UserProperty", [])), expiry_s=getattr(given, "MessageExpiryInterval", None),
        correlation=getattr(given, "CorrelationData", b""),
    )  # fmt: skip


@asynccontextmanager
async def stranger(at: BrokerProcess, client_id: str = "stranger") -> AsyncIterator[aiomqtt.Client]:
    """A client of somebody else."""
    async with aiomqtt.Client(
        "127.0.0.1", at.port, identifier=client_id, protocol=aiomqtt.ProtocolVersion.V5,
        username=at.user or None, password=at.password or None, timeout=5,
    ) as client:  # fmt: skip
        yield client


async def said(
    client: aiomqtt.Client, topic: str, body: str | bytes, *, retain: bool = False, answer_to: str = "", correlation: bytes = b"",
    expiry_s: int | None = None,
) -> None:  # fmt: skip
    """Publish at QoS 1 as somebody else."""
    given = Properties(PacketTypes.PUBLISH)
    if answer_to:
        given.ResponseTopic = answer_to
    if correlation:
        given.CorrelationData = correlation
    if expiry_s is not None:
        given.MessageExpiryInterval = expiry_s
    await client.publish(topic, body, qos=1, retain=retain, properties=given)


async def until(true: Callable[[], object], wait_s: float = WAIT_S) -> None:
    """Wait until something is so; fails when it never is."""
    try:
        async with asyncio.timeout(wait_s):
            while not true():  # noqa: ASYNC110 - it may be anything: what a broker says, or a file
                await asyncio.sleep(0.005)
    except TimeoutError:
        raise AssertionError(f"not so within {wait_s:g} s") from None


async def in_time(work: Awaitable[object], wait_s: float = WAIT_S) -> object:
    """The value of a wait that must end."""
    return await asyncio.wait_for(work, wait_s)


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(os.listdir("/proc/self/fd"))
