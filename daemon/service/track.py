"""One signal's last hours (floor 7): `Track.add(time, value)`, fine for half an hour, a minimum and a maximum a minute before that.

Times are tenths of seconds since an origin that the owner keeps: with a double for the value a point is 12 bytes, a full track about 13 kB.
What was unknown stands as NaN at the time from which it was; a value that stays the same is two points, however long it stays.
"""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Sequence

TENTHS = 10
FINE = 30 * 60 * TENTHS  # this long every point stays
COARSE = 60 * TENTHS  # older ones: the extremes of each minute
KEPT = 6 * 3600 * TENTHS
POINTS_MAX = 600  # of a series that is drawn: more than a chart has pixels to show


class Track:
    """Points of one signal in the order of time; `gap` tenths without a point are unknown time.

    `turn` spreads the work of many tracks: one folds its old points so many tenths later than it could.
    """

    __slots__ = ("_fold_after", "_old_times", "_old_values", "_times", "_values", "gap")

    def __init__(self, gap: int, turn: int = 0) -> None:
        self.gap = gap
        self._fold_after = FINE + COARSE + turn
        self._times, self._values = array("I"), array("d")
        self._old_times, self._old_values = array("I"), array("d")

    def __len__(self) -> int:
        return len(self._times) + len(self._old_times)

    @property
    def last(self) -> int:
        """Time of the last point; -1 without one."""
        return self._times[-1] if self._times else self._old_times[-1] if self._old_times else -1

    def add(self, time: int, value: float, gap: int = 0) -> None:
        """Add a point; one that is not later than the last is passed over. `gap`: when points are further apart than usual here."""
        times, values = self._times, self._values
        if times:
            last = times[-1]
            if time <= last:
                return
            bound = gap or self.gap
            if time - last > bound and values[-1] == values[-1]:
                times.append(last + bound)
                values.append(math.nan)
            elif len(values) > 1 and _same(values[-1], value) and _same(values[-2], value):
                times[-1] = time
                return
        times.append(time)
        values.append(value)
        if time - times[0] > self._fold_after:
            self._fold(time - FINE)

    def _fold(self, before: int) -> None:
        """Keep of every whole minute before a time its extremes."""
        times, values = self._times, self._values
        end = bisect_left(times, before - before % COARSE)
        start = 0
        while start < end:
            minute = times[start] // COARSE
            stop = start + 1
            while stop < end and times[stop] // COARSE == minute:
                stop += 1
            for i in extremes(values, start, stop):
                _extend(self._old_times, self._old_values, times[i], values[i])
            start = stop
        del times[:end]
        del values[:end]
        cut = before + FINE - KEPT
        gone = bisect_left(self._old_times, cut) if cut > 0 else 0
        if gone > 32:  # a slice of both at once, not a shift a point; the last one before the cut still holds at it
            del self._old_times[: gone - 1]
            del self._old_values[: gone - 1]

    def points(self, since: int) -> tuple[list[int], list[float]]:
        """Times and values from `since` on, with the value that held there."""
        times = [*self._old_times, *self._times]
        values = [*self._old_values, *self._values]
        first = max(0, bisect_left(times, since) - 1)
        times, values = times[first:], values[first:]
        if times and times[0] < since:
            times[0] = since
            if len(times) > 1 and times[1] <= since:
                del times[0], values[0]
        return times, values


def extremes(values: Sequence[float], start: int, stop: int) -> list[int]:
    """Indices of the smallest and the largest of `values[start:stop]` (at least one), in order; with a NaN among them also of the first
    NaN and of the last value, so that unknown time neither vanishes nor grows."""
    part = values[start:stop]
    total = sum(part)
    if total == total:  # neither NaN nor both infinities are among them, nearly always
        low, high = start + part.index(min(part)), start + part.index(max(part))
        return [low] if low == high else [low, high] if low < high else [high, low]
    known = [i for i in range(start, stop) if values[i] == values[i]]
    nan = next((i for i in range(start, stop) if values[i] != values[i]), -1)
    ends = (min(known, key=values.__getitem__), max(known, key=values.__getitem__)) if known else ()
    return sorted({*ends, *((nan, stop - 1) if nan >= 0 else ())})


def thinned(times: Sequence[int], values: Sequence[float], points_max: int = POINTS_MAX) -> list[int]:
    """Indices of at most `points_max` points that look like all of them: each stretch of time keeps its extremes and its unknown time;
    the first and the last point stay."""
    count = len(times)
    if count <= points_max:
        return list(range(count))
    stretches = (points_max - 2) // 4
    width = (times[-1] - times[0]) / stretches
    kept = {0, count - 1}
    start = 0
    for number in range(1, stretches + 1):
        stop = count if number == stretches else bisect_left(times, times[0] + width * number, lo=start)
        if stop > start:
            kept.update(extremes(values, start, stop))
        start = stop
    return sorted(kept)


def _same(left: float, right: float) -> bool:
    return left == right or (left != left and right != right)


def _extend(times: array[int], values: array[float], time: int, value: float) -> None:
    if len(values) > 1 and _same(values[-1], value) and _same(values[-2], value):
        times[-1] = time
        return
    times.append(time)
    values.append(value)
