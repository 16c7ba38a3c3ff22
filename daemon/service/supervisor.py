"""What the process supervisor is told (floor 7): ready, alive, stopping, over systemd's notification socket; silence without one.

    supervisor = Supervisor.of(os.environ)
    supervisor.ready("6 runbooks"); supervisor.turned("QUIET"); supervisor.stopping()

`turned` is called by the loop itself, so a loop that stands is restarted by the supervisor's watchdog; a start recovers.
Protocol: sd_notify(3) of systemd, datagrams of `KEY=value` lines.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Mapping

WATCHDOG_SHARE = 3  # pings within one watchdog period: two may be late
STATUS_CHARS_MAX = 200


class Supervisor:
    """One supervisor, or none (`address` empty). A message that cannot be sent is dropped: nothing of the daemon depends on it."""

    def __init__(self, address: str = "", *, watchdog_us: int = 0, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._every_ns = watchdog_us * 1_000 // WATCHDOG_SHARE
        self._monotonic_ns = monotonic_ns
        self._pinged_at = -self._every_ns
        self._status = ""

    @classmethod
    def of(cls, environment: Mapping[str, str], *, pid: int) -> Supervisor:
        """The supervisor that the environment names; a watchdog that is meant for another process is none of ours."""
        meant = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        written = environment.get("WATCHDOG_USEC", "")
        return cls(environment.get("NOTIFY_SOCKET", ""), watchdog_us=int(written) if meant and written.isdecimal() else 0)

    def ready(self, status: str) -> None:
        """The start is over: runbooks are in force, the loop turns."""
        self._tell(f"READY=1\nSTATUS={_line(status)}")

    def turned(self, status: str) -> None:
        """The loop has turned; tells it when the watchdog wants to hear, and a status that changed at once."""
        now = self._monotonic_ns()
        said = []
        if self._every_ns and now - self._pinged_at >= self._every_ns:
            self._pinged_at = now
            said.append("WATCHDOG=1")
        if status != self._status:
            self._status = status
            said.append(f"STATUS={_line(status)}")
        if said:
            self._tell("\n".join(said))

    def stopping(self) -> None:
        """The stop has begun; what is on the wire gets its time."""
        self._tell("STOPPING=1\nSTATUS=stopping: waiting for what is on the wire")

    def _tell(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as wire:
                wire.sendto(text.encode(), self._address)
        except OSError:
            return


def _line(status: str) -> str:
    return " ".join(status.split())[:STATUS_CHARS_MAX]
