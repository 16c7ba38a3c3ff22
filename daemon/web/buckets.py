"""Rate limits (floor 8): token buckets by whoever asks, bounded in number."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

WHO_MAX = 10_000  # a flood of addresses forgets the oldest, not the memory of this machine


class Buckets:
    """`burst` at once, then `per_minute` a minute; one bucket for each name. Times are seconds of `clock`."""

    def __init__(self, *, per_minute: float, burst: int, clock: Callable[[], float]) -> None:
        assert per_minute > 0, "a bucket fills"
        assert burst >= 1, "a bucket holds something"
        self._rate = per_minute / 60
        self._burst = burst
        self._clock = clock
        self._levels: OrderedDict[str, tuple[float, float]] = OrderedDict()  # who -> (level, when)

    def wait_s(self, who: str) -> float:
        """Seconds until one may be taken; 0 when it may be now. Takes nothing."""
        return max(0.0, (1 - self._level(who)) / self._rate)

    def take(self, who: str) -> float:
        """Take one: 0 when there was one, else the seconds to wait, and nothing is taken."""
        level = self._level(who)
        if level < 1:
            return (1 - level) / self._rate
        self._levels[who] = (level - 1, self._clock())
        self._levels.move_to_end(who)
        while len(self._levels) > WHO_MAX:
            self._levels.popitem(last=False)
        return 0.0

    def _level(self, who: str) -> float:
        level, at = self._levels.get(who, (float(self._burst), self._clock()))
        return min(float(self._burst), level + (self._clock() - at) * self._rate)
