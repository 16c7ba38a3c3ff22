"""The daemon's time (floor 7): the wall, or a simulated venue's accelerated clock. Every other room is handed `at`.

`Clock.now` is engine time and strictly increasing; `steady_ns` is engine time that no clock step touches (poll slots, waits);
`real_ns` is this machine's monotonic time (HTTP timeouts, freeze detection). Nine engine seconds at speed 3 are three real ones.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol

from daemon.units import NS


class Clock(Protocol):
    """Engine time and real time, and how to wait in engine time."""

    @property
    def speed(self) -> float:
        """Engine nanoseconds in one real nanosecond, > 0."""

    def now(self) -> int:
        """Engine time, int64 ns UTC; strictly greater than every earlier answer."""

    def steady_ns(self) -> int:
        """Engine nanoseconds since some origin; runs at `speed` and never steps."""

    def real_ns(self) -> int:
        """Monotonic nanoseconds of this machine."""

    def drift_ns(self) -> int:
        """How far wall time ran ahead of monotonic time since the clock was made, in ns; negative after a step back."""

    async def sleep(self, duration_ns: int) -> None:
        """Wait for a duration of engine time; returns at once when it is <= 0."""


class WallClock:
    """UTC as this machine has it."""

    def __init__(self, *, wall: Callable[[], int] = time.time_ns, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        self._wall = wall
        self._monotonic = monotonic
        self._origin = wall() - monotonic()
        self._last = 0

    @property
    def speed(self) -> float:
        """1: engine time is real time."""
        return 1.0

    def now(self) -> int:
        """Wall time, at least one nanosecond after the last answer: a clock set back makes time crawl, never run backwards."""
        self._last = max(self._wall(), self._last + 1)
        return self._last

    def steady_ns(self) -> int:
        """Monotonic nanoseconds."""
        return self._monotonic()

    def real_ns(self) -> int:
        """Monotonic nanoseconds."""
        return self._monotonic()

    def drift_ns(self) -> int:
        """Wall minus monotonic time, relative to when the clock was made: a suspend or a clock step shows here."""
        return self._wall() - self._monotonic() - self._origin

    async def sleep(self, duration_ns: int) -> None:
        """Wait `duration_ns` real nanoseconds."""
        if duration_ns > 0:
            await asyncio.sleep(duration_ns / NS)


class AcceleratedClock:
    """A simulated venue's clock: scaled monotonic time from a moment at which the venue told its own.

    `now_ns` is the venue's time when the clock is made. Within one machine both scale the same monotonic clock, so they stay
    apart by no more than the round trip that carried the venue's time.
    """

    def __init__(self, *, speed: float, now_ns: int, monotonic: Callable[[], int] = time.monotonic_ns) -> None:
        assert speed > 0, "a clock runs forward"
        self._speed = speed
        self._monotonic = monotonic
        self._started = monotonic()
        self._origin = now_ns
        self._last = 0

    @property
    def speed(self) -> float:
        """Engine nanoseconds in one real nanosecond."""
        return self._speed

    def _elapsed(self) -> int:
        return int((self._monotonic() - self._started) * self._speed)

    def now(self) -> int:
        """The venue's time, at least one nanosecond after the last answer."""
        self._last = max(self._origin + self._elapsed(), self._last + 1)
        return self._last

    def steady_ns(self) -> int:
        """Scaled nanoseconds since the clock was made."""
        return self._elapsed()

    def real_ns(self) -> int:
        """Monotonic nanoseconds of this machine."""
        return self._monotonic()

    def drift_ns(self) -> int:
        """Always 0: engine time is scaled monotonic time and cannot step."""
        return 0

    async def sleep(self, duration_ns: int) -> None:
        """Wait for `duration_ns` of engine time, which is `duration_ns / speed` real nanoseconds."""
        if duration_ns > 0:
            await asyncio.sleep(duration_ns / self._speed / NS)
