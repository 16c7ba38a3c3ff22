"""Listening (floor 8): a socket that is bound before anything is promised, and a server in a thread and event loop of its own.

    served = Served(app, bind("127.0.0.1", 8470)); served.start(); served.url; served.stop(timeout_s=3)

The daemon's pages never wait for its loop, and never hold it up: a loop that stands can still be halted, and told of.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import threading
from collections.abc import Callable

import uvicorn
from starlette.types import ASGIApp

from daemon.errors import UserError
from daemon.web.patience import patient

KEEP_ALIVE_S = 15  # an idle connection is closed after so long
DRAIN_S = 2  # what is being answered when the server stops


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises UserError when the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except (OSError, OverflowError) as error:
        listener.close()
        number = error.errno if isinstance(error, OSError) else None
        if number == errno.EADDRINUSE:
            raise UserError(f"port {port} on {host} is in use; stop what listens there or choose another port") from error
        if number == errno.EACCES:
            raise UserError(f"port {port} on {host} needs privileges; choose a port above 1023") from error
        raise UserError(f"cannot listen on {host} port {port}: {error}; name an address of this machine") from error
    return listener


class Served:
    """One application on one socket; `ending` is called on the server's loop before it stops, to end streams that would never end."""

    def __init__(
        self, app: ASGIApp, listener: socket.socket, *, ending: Callable[[], None] = lambda: None, behind_proxy: bool = False
    ) -> None:
        """`behind_proxy`: whether X-Forwarded-For of this machine's proxy tells who asks; else anybody here could say they are many."""
        self._listener = listener
        self._ending = ending
        config = uvicorn.Config(
            app,
            http=patient(),
            log_config=None,
            log_level="critical",
            access_log=False,
            lifespan="auto",
            timeout_graceful_shutdown=DRAIN_S,
            timeout_keep_alive=KEEP_ALIVE_S,
            proxy_headers=behind_proxy,
            server_header=False,
            h11_max_incomplete_event_size=65_536,
        )
        self._server = uvicorn.Server(config)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread = threading.Thread(target=self._run, name="http", daemon=True)
        address, port = listener.getsockname()[:2]
        self.url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        self.failure = ""  # why it ended by itself; empty while it serves

    def start(self) -> None:
        """Serve from now on."""
        self._thread.start()

    def stop(self, timeout_s: float) -> None:
        """Stop serving: what is being answered gets at most `timeout_s` real seconds."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end)
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            self._server.force_exit = True
            self._thread.join(1.0)
        self._listener.close()

    @property
    def alive(self) -> bool:
        """True while the thread serves."""
        return self._thread.is_alive()

    def _end(self) -> None:
        self._ending()
        self._server.should_exit = True

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except (OSError, RuntimeError, SystemExit) as error:
            self.failure = str(error) or type(error).__name__

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._server.serve(sockets=[self._listener])
