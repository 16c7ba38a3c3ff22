"""Real processes for the service's tests: a simulated venue, a daemon, and a proxy between them that sees every order on the wire."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import httpx

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 120.0  # a machine with much else to do; what is waited for comes within a second or two on a quiet one
Ordered = Callable[["Exchange"], Awaitable[None]]


SCENARIO = """
scenario: grind
seed: 7
venue: {requests_in_10s: 100000}
markets:
  BTC-USD: {price: 100_000, volatility: 0%, funding_noise: 0%/h}
accounts:
  - {collateral: 1_000_000 USD, positions: [{market: BTC-USD, size: 100}]}
"""

RUNBOOK = """
schema: reefd/v1
runbook: grinder
title: Takes a little off, again and again
owner: tests
severity: warning
intent: economy
stage: armed
scope: position
trigger: {when: abs(size) > 0}
repeat: {every: 2s, max: 10000}
locks: [position]
steps:
  - id: shrink
    shrink_position: {by: 0.2%, max_slippage: 100bps, slices: 2, every: 1s}
    timeout: 20s
    retry: {attempts: 3, backoff: 1s}
on_failure: {then: stay_armed}
"""


def settings(folder: Path, port: int, *, clock: str = "venue") -> str:
    """Settings of a daemon that reads the venue behind a port and keeps everything in a folder."""
    return f"""
house: test
runbooks: {folder / "runbooks"}
journal: {{path: {folder / "state.db"}}}
halt_file: {folder / "halt"}
http: {{enabled: false}}
clock: {{follow: {clock}}}
venues:
  dydx:
    adapter: dydx-v4
    url: http://127.0.0.1:{port}/v4
    orders: simulated
    markets: [BTC-USD]
    requests_per_10s: 1000
    accounts: {{dydx: {{address: dydx1reefdsim, subaccount: 0}}}}
    polls: {{height: 1s, markets: 2s, book: 2s, account: 1s}}
"""


def lay_out(folder: Path, port: int, *, clock: str = "venue", runbook: str = RUNBOOK) -> Path:
    """A folder with a scenario, one runbook and settings for the venue behind a port; the settings' path."""
    (folder / "runbooks").mkdir(exist_ok=True)
    (folder / "runbooks" / "grinder.yaml").write_text(runbook, encoding="utf-8")
    (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    path = folder / "reefd.yaml"
    path.write_text(settings(folder, port, clock=clock), encoding="utf-8")
    return path


# Below what systems give to outgoing connections (Linux from 32768), so that none of those takes a port before its server does; each
# process of a parallel run begins elsewhere, and gives no port twice.
_PORTS = iter(range(12_000 + os.getpid() * 131 % 16_000, 32_000))


def free_port() -> int:
    """A loopback port that nobody listens on, and that nobody else is likely to take."""
    for port in _PORTS:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise AssertionError("no port is left")


async def spawn(*words: str, log: Path, environment: Mapping[str, str] | None = None) -> asyncio.subprocess.Process:
    """A `reefd` of this tree as a process of its own; its output goes to `log`."""
    with log.open("ab") as stream:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "daemon.cli", *words),
            cwd=ROOT,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=stream,
            stderr=asyncio.subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT), **(environment or {})},
        )


def tail(log: Path) -> str:
    """The end of a process's output."""
    return log.read_text(encoding="utf-8", errors="replace")[-6000:]


async def until(true: Callable[[], bool], log: Path, process: asyncio.subprocess.Process, wait_s: float = WAIT_S) -> None:
    """Wait until something is so; the process's output when it never is, or when the process ended by itself."""
    began = time.monotonic()
    while not true():
        assert process.returncode is None, tail(log)
        assert time.monotonic() - began < wait_s, tail(log)
        await asyncio.sleep(0.01)


async def ended(process: asyncio.subprocess.Process, number: int = signal.SIGTERM) -> int:
    """Send a signal and wait for the end; its exit code."""
    if process.returncode is None:
        process.send_signal(number)
    return await asyncio.wait_for(process.wait(), WAIT_S)


class Venue:
    """A simulated venue in its own process, and what its log and lookups say."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, scenario: Path, speed: float, log: Path) -> None:
        self.process = await spawn("sim", "--scenario", str(scenario), "--port", str(self.port), "--speed", f"{speed:g}", log=log)
        began = time.monotonic()
        try:
            while not await self._answers():
                assert self.process.returncode is None, tail(log)
                assert time.monotonic() - began < WAIT_S, tail(log)
                await asyncio.sleep(0.05)
        except BaseException:
            await self.stop()  # nothing is left running, whoever called
            raise

    async def _answers(self) -> bool:
        try:
            await self.get("/sim/clock")
        except httpx.HTTPError:
            return False
        return True

    async def get(self, path: str) -> Any:
        async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
            answer = await client.get(self.url + path)
            answer.raise_for_status()
            return answer.json()

    async def log(self) -> list[dict[str, Any]]:
        entries: list[dict[str, Any]] = []
        while True:
            page = (await self.get(f"/sim/log?after={entries[-1]['seq'] if entries else 0}"))["entries"]
            if not page:
                return entries
            entries += page

    async def stop(self) -> None:
        if self.process is not None:
            await ended(self.process)


class Exchange:
    """One order on its way: `forward` brings it to the venue, `reply` brings the venue's answer to the daemon."""

    def __init__(self, request: bytes, forward: Callable[[bytes], Awaitable[bytes]], writer: asyncio.StreamWriter) -> None:
        self.request = request
        self._forward = forward
        self._writer = writer
        self._answer: bytes | None = None

    async def forward(self) -> None:
        self._answer = await self._forward(self.request)

    async def reply(self) -> None:
        assert self._answer is not None, "an answer comes from the venue"
        try:
            self._writer.write(self._answer)
            await self._writer.drain()
        except ConnectionError:
            return  # nobody is there to hear it


class Proxy:
    """Passes every request to the venue, one connection each; orders are handed to `ordered`, which decides what becomes of them."""

    def __init__(self, venue: Venue, ordered: Ordered) -> None:
        self._venue = venue
        self._ordered = ordered
        self._server: asyncio.Server | None = None
        self._orders: set[asyncio.Task[None]] = set()
        self.port = free_port()

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await asyncio.gather(*self._orders, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await _message(reader)
            if request is None:
                return
            if request.startswith(b"POST /sim/orders"):
                # In a task of its own: an order goes on to the venue although the daemon that sent it is dead.
                task = asyncio.ensure_future(self._ordered(Exchange(request, self._forward, writer)))
                self._orders.add(task)
                await task
            else:
                writer.write(await self._forward(request))
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            return
        finally:
            writer.close()

    async def _forward(self, request: bytes) -> bytes:
        head, _, body = request.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        reader, writer = await asyncio.open_connection("127.0.0.1", self._venue.port)
        try:
            writer.write(b"\r\n".join([*lines, b"connection: close", b"", b""]) + body)
            await writer.drain()
            return await reader.read(-1)
        finally:
            writer.close()


async def _message(reader: asyncio.StreamReader) -> bytes | None:
    """One HTTP request with its body; None when the connection was closed instead."""
    try:
        head = await reader.readuntil(b"\r\n\r\n")
    except asyncio.IncompleteReadError:
        return None
    length = 0
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            length = int(line.split(b":")[1])
    return head + await reader.readexactly(length)


def body_of(request: bytes) -> dict[str, Any]:
    """The JSON body of a request."""
    found = json.loads(request.partition(b"\r\n\r\n")[2])
    assert isinstance(found, dict)
    return found
