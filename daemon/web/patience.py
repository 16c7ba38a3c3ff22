"""How long a connection is waited for (floor 8): so many at once, and so long until a request has come.

    uvicorn.Config(app, http=patient())

uvicorn waits for the head of a request without end and counts no connections; the surface shares its process, and its file
descriptors, with a daemon that must go on writing its journal.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_S = 10.0
CONNECTIONS_MAX = 256


def patient(*, head_s: float = HEAD_S, most: int = CONNECTIONS_MAX) -> type[H11Protocol]:
    """The protocol that gives a client `head_s` real seconds for the head of a request, and lets `most` connections stand."""

    class Patient(H11Protocol):
        """One connection."""

        _timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: Any) -> None:
            """Begin to wait for a request, if there is room."""
            super().connection_made(transport)
            if len(self.connections) > most:
                transport.abort()
            else:
                self._wait()

        def data_received(self, chunk: bytes) -> None:
            """Take a part of a request; until its head is whole, time runs."""
            super().data_received(chunk)
            if self.cycle is None or self.cycle.response_complete:
                self._wait()
            else:
                self._stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            """Wait no longer."""
            self._stop_waiting()
            super().connection_lost(exc)

        def _wait(self) -> None:
            if self._timer is None:
                self._timer = asyncio.get_running_loop().call_later(head_s, self._give_up)

        def _stop_waiting(self) -> None:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

        def _give_up(self) -> None:
            self._timer = None
            self.transport.abort()

    return Patient
