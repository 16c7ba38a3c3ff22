"""Loops over columns (floor 5), written within what a nopython compiler takes; plain Python runs them too, slowly.

Arrays are one-dimensional, int64 or float64; null is +inf, an unknown number NaN, times are ns UTC.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

INF = float("inf")
NEVER_SEEN = -4611686018427387904
ALWAYS = 4611686018427387904


def within(AT: Ints, lo: int, hi: int, until: int) -> int:
    """The first index of `[lo, hi)` whose time is later than `until`; `hi` when none is. AT ascends there."""
    while lo < hi:
        middle = (lo + hi) >> 1
        if AT[middle] <= until:
            lo = middle + 1
        else:
            hi = middle
    return lo


def order(I: Ints, T: Ints, V: Floats, s: int, w: int, at: int, d: int) -> None:  # noqa: E741
    """As `kernels.order`, with loops for what it does by slices: the window's samples stay sorted in V at base I[w+2]."""
    h, b, m = I[s + 1] - 1, I[s + 5], I[s + 6]
    lo, n, q = I[w], I[w + 1], I[w + 2]
    edge = at - d
    while lo < h and T[b + (lo & m)] <= edge:
        x = V[b + (lo & m)]
        first, last = q, q + n
        while first < last:
            middle = (first + last) >> 1
            if V[middle] < x:
                first = middle + 1
            else:
                last = middle
        for j in range(first, q + n - 1):
            V[j] = V[j + 1]
        n -= 1
        lo += 1
    x = V[b + (h & m)]
    first, last = q, q + n
    while first < last:
        middle = (first + last) >> 1
        if x < V[middle]:
            last = middle
        else:
            first = middle + 1
    for j in range(q + n, first, -1):
        V[j] = V[j - 1]
    V[first] = x
    I[w], I[w + 1] = lo, n + 1


def uneven(ts: Ints, event_ts: Ints, owner: Ints, end: int) -> int:
    """How many of the first `end` rows were not true when they were known, or follow a row of their own entity at the same time."""
    count = 0
    for i in range(end):
        count += 1 if ts[i] != event_ts[i] else 0
    for i in range(1, end):
        count += 1 if ts[i] <= ts[i - 1] and owner[i] == owner[i - 1] else 0
    return count


def uneven_alone(ts: Ints, event_ts: Ints, end: int) -> int:
    """As `uneven`, of one entity's rows."""
    count = 0
    for i in range(end):
        count += 1 if ts[i] != event_ts[i] else 0
    for i in range(1, end):
        count += 1 if ts[i] <= ts[i - 1] else 0
    return count


def nulls(column: Floats, end: int) -> int:
    """How many of the first `end` cells are null."""
    count = 0
    for i in range(end):
        count += 1 if column[i] == INF else 0
    return count


def fill(
    column: Floats, ts: Ints, event_ts: Ints, first: int, end: int, value: float, seen: int, sampled: int, came: int,
    V: Floats, S: Ints, M: Ints, C: Ints,
) -> None:  # fmt: skip
    """What a row of state holds of one signal after each of the rows `[first, end)`: value, time seen, sampled and come; starts from
    what it held before. As `engine.columns` ingests: nulls leave it, and what is older than what is held is dropped."""
    for i in range(first, end):
        x = column[i]
        if x != INF:
            event = event_ts[i]
            came = ts[i]
            if event > seen or seen == ALWAYS:
                seen = event
                sampled = ts[i]
                value = x
            elif event == seen:
                value = x
        V[i] = value
        S[i] = seen
        M[i] = sampled
        C[i] = came
