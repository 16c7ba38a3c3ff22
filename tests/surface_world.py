"""The operator's surface for tests: the application over a desk in memory, asked in process or by a real server on a free port.

surface = Surface(tmp_path)                          # tokens ana (admin), ben (approve), vic (view); a clock that stands
async with surface.client("ana") as client: await client.get("/api/v1/status")
with serve(surface.app) as url: httpx.get(url + "/healthz")
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from daemon.units import NS, parse_iso
from daemon.web.door import Doorkeeper
from daemon.web.patience import patient
from daemon.web.surface import close_streams, make_surface
from daemon.web.tokens import TokenFile
from tests.desk_fake import FakeDesk

BASE = "http://127.0.0.1:8470"
CREATED = "2026-01-01T00:00:00Z"
PEOPLE = {"ana": "admin", "ben": "approve", "vic": "view"}


@dataclass
class StoppedClock:
    """Seconds that pass when a test says so."""

    now: float = 1_000.0
    each_look: float = 0.0  # goes on by itself whenever somebody looks

    def __call__(self) -> float:
        self.now += self.each_look
        return self.now


@dataclass
class Surface:
    """The application, its desk, and the secrets of three people."""

    folder: Path
    desk: FakeDesk = field(default_factory=FakeDesk)
    open_reading: bool = True
    hosts: tuple[str, ...] = ()
    public_url: str | None = None
    flagged: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        self.clock = StoppedClock()
        self.late_s = 0.0
        self.path = self.folder / "tokens.yaml"
        self.tokens = TokenFile(self.path)
        self.secrets = {name: self.tokens.add(name, role, at=CREATED) for name, role in PEOPLE.items()}
        self.guard = Doorkeeper(
            tokens=self.tokens, open_reading=self.open_reading, hosts=self.hosts, public_url=self.public_url, clock=self.clock,
            wall=self.wall,
        )  # fmt: skip
        self.app = make_surface(self.desk, guard=self.guard, build="1.2.3", flagged=self.flagged, wall=self.wall)

    def wall(self) -> float:
        """The wall clock: that of the desk's latest snapshot, and how late it is since."""
        return parse_iso(self.desk.current.published) / NS + self.late_s

    def client(self, person: str = "", *, address: str = "127.0.0.1", base: str = BASE, **headers: str) -> httpx.AsyncClient:
        """A client, with the token of a person, from an address."""
        transport = httpx.ASGITransport(app=self.app, client=(address, 50_000), raise_app_exceptions=False)
        shown = {"authorization": f"Bearer {self.secrets[person]}"} if person else {}
        return httpx.AsyncClient(transport=transport, base_url=base, headers={**shown, **headers})


@contextmanager
def serve(app: FastAPI, *, http: type[H11Protocol] | None = None) -> Iterator[str]:
    """The application on a free port of the loopback, in a thread of its own; the address."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        config = uvicorn.Config(
            app, http=http or patient(), log_level="critical", access_log=False, timeout_graceful_shutdown=2, server_header=False
        )
        server = uvicorn.Server(config)
        loops: list[asyncio.AbstractEventLoop] = []

        async def run() -> None:
            loops.append(asyncio.get_running_loop())
            await server.serve(sockets=[listener])

        thread = threading.Thread(target=lambda: asyncio.run(run()), name="surface")
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        try:
            yield url
        finally:
            server.should_exit = True
            if loops:
                loops[0].call_soon_threadsafe(close_streams, app)
            thread.join(20)
            assert not thread.is_alive(), "the server did not stop"
