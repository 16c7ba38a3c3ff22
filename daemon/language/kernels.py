"""Windows and numbers (floor 2): the functions that generated programs call, over flat rows `F I T V`.

Written for CPython lists and arrays and within what a nopython compiler takes: no allocation, no `**`, no `sum`, no float `%`.
Truth is 0 FALSE, 1 UNKNOWN, 2 TRUE; an unknown number is NaN.

A series is a ring of samples on one row. Cells of a series at `s` in I: last sample's time, samples ever, oldest kept, first sample's
time, length of the run of equal values at the end, ring base, ring mask, time kept; its last value is F[f]. The state of a window at
`w` in I ends with the time of the first sample it saw (I[w+4]): it is UNKNOWN until that sample is as old as the window.
Sums of differences to an anchor, a sample of the window, so that a variance does not drown in the mean.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import MutableSequence
from math import floor, log, sqrt

from daemon.language.slots import GROW
from daemon.world.margin import liquidation_price, margin_ratio

Floats = MutableSequence[float]
Ints = MutableSequence[int]

NAN = float("nan")
INF = float("inf")
SERIES_CELLS = 8
WINDOW_CELLS = 5
NS_AN_HOUR = 3_600_000_000_000.0
NS_A_YEAR = 31_536_000_000_000_000.0
MIN_OBSERVATIONS = 12  # of std, zscore and quantile
STEADY_GAP_NS = 60_000_000_000  # a fact not confirmed for this long starts anew


# --- samples ----------------------------------------------------------------------------------------------------------
def room(I: Ints, T: Ints, s: int, h: int, b: int, m: int, at: int) -> None:  # noqa: E741
    """Let go of samples that no window needs (one at or before `at - kept` stays); raise the row's GROW flag before the ring is full.

    Called every eighth push, so a ring must have eight free places when it returns.
    """
    t, edge = I[s + 2], at - I[s + 7]
    while t < h and T[b + ((t + 1) & m)] <= edge:
        t += 1
    I[s + 2] = t
    if h + 10 - t > m:
        I[GROW] = 1


def moments(
    F: Floats,
    I: Ints,  # noqa: E741
    T: Ints,
    V: Floats,
    w: int,
    g: int,
    at: int,
    d: int,
    h: int,
    b: int,
    m: int,
    x: float,
) -> tuple[int, float, float, float]:
    """Slide a window's sums after sample `h` = x was stored: (samples, sum, sum of squares, anchor), sums of x - anchor.

    I[w]: first index inside, I[w+1]: mark (-1: no second accumulator), I[w+2]: 1 once begun. F[g..g+3]: sum, sum of squares and its
    rounding error, anchor; F[g+4..g+7] the second accumulator's. The squares carry their error, so that what is added and later taken
    away leaves no trace, not even a spike. When the anchor has drifted away from the window, a second accumulator with a new anchor
    collects what is newer than a mark and replaces the first when the window's tail reaches the mark.
    """
    lo = I[w]
    mark = I[w + 1]
    c = F[g + 3]
    if I[w + 2] == 0:
        I[w + 2] = 1
        I[w + 1] = mark = -1
        lo = h
        F[g + 3] = c = x
    y = x - c
    s1 = F[g] + y
    y *= y
    s2 = F[g + 1]
    e2 = F[g + 2]
    total = s2 + y
    e2 += y - (total - s2) if s2 >= y else s2 - (total - y)
    s2 = total
    if mark >= 0:
        second(F, g, x)
    edge = at - d
    i = b + (lo & m)
    while T[i] <= edge:
        if lo == mark:
            s1, s2, e2, c = F[g + 4], F[g + 5], F[g + 6], F[g + 7]
            F[g + 3] = c
            I[w + 1] = mark = -1
        y = V[i] - c
        s1 -= y
        y *= y
        total = s2 - y
        e2 -= y + (total - s2)
        s2 = total
        lo += 1
        i = b + (lo & m)
    if lo == mark:
        s1, s2, e2, c = F[g + 4], F[g + 5], F[g + 6], F[g + 7]
        F[g + 3] = c
        I[w + 1] = mark = -1
    I[w] = lo
    F[g] = s1
    F[g + 1] = s2
    F[g + 2] = e2
    n = h + 1 - lo
    s2 += e2
    if mark < 0 and h & 63 == 0:
        offset = s1 * s1 / n
        if offset > 100.0 * (s2 - offset):
            F[g + 4] = F[g + 5] = F[g + 6] = 0.0
            F[g + 7] = x
            I[w + 1] = h + 1
    return n, s1, s2, c


def second(F: Floats, g: int, x: float) -> None:
    """Add a sample to the second accumulator of a window."""
    y = x - F[g + 7]
    F[g + 4] += y
    y *= y
    s2 = F[g + 5]
    total = s2 + y
    F[g + 6] += y - (total - s2) if s2 >= y else s2 - (total - y)
    F[g + 5] = total


def std_of(n: int, s1: float, s2: float, equal: int) -> float:
    """Standard deviation (ddof 1) of n samples; NaN under 12; exactly 0 when the last `equal` >= n samples are equal."""
    if n < MIN_OBSERVATIONS:
        return NAN
    if equal >= n:
        return 0.0
    variance = (s2 - s1 * s1 / n) / (n - 1)
    return sqrt(variance) if variance > 0.0 else 0.0


def zscore_of(n: int, s1: float, s2: float, anchor: float, equal: int, x: float) -> float:
    """(x - mean) / std of the window that ends with x; NaN when std is 0 or unknown."""
    deviation = std_of(n, s1, s2, equal)
    return (x - anchor - s1 / n) / deviation if deviation > 0.0 else NAN


def value_before(I: Ints, T: Ints, V: Floats, s: int, w: int, at: int, d: int) -> float:  # noqa: E741
    """The value in force at `at - d`: the last sample at or before it; NaN when there is none. I[w] is its cursor."""
    edge = at - d
    if I[w + 4] > edge:
        return NAN
    h, b, m, lo = I[s + 1], I[s + 5], I[s + 6], I[w]
    while lo + 1 < h and T[b + ((lo + 1) & m)] <= edge:
        lo += 1
    I[w] = lo
    return V[b + (lo & m)]


def extreme(I: Ints, T: Ints, V: Floats, s: int, w: int, at: int, d: int, sign: float) -> float:  # noqa: E741
    """Largest (sign 1) or smallest (sign -1) of the window, by a deque of indices in T at base I[w+2]; I[w], I[w+1] its ends."""
    h, b, m = I[s + 1] - 1, I[s + 5], I[s + 6]
    first, last, q = I[w], I[w + 1], I[w + 2]
    x = V[b + (h & m)] * sign
    while last > first and V[b + (T[q + ((last - 1) & m)] & m)] * sign <= x:
        last -= 1
    T[q + (last & m)] = h
    last += 1
    edge = at - d
    while T[b + (T[q + (first & m)] & m)] <= edge:
        first += 1
    I[w], I[w + 1] = first, last
    if I[w + 4] > edge:
        return NAN
    return V[b + (T[q + (first & m)] & m)]


def order(I: Ints, T: Ints, V: Floats, s: int, w: int, at: int, d: int) -> None:  # noqa: E741
    """Keep the window's samples sorted in V at base I[w+2]; I[w] the first index inside, I[w+1] how many."""
    h, b, m = I[s + 1] - 1, I[s + 5], I[s + 6]
    lo, n, q = I[w], I[w + 1], I[w + 2]
    edge = at - d
    while lo < h and T[b + (lo & m)] <= edge:
        i = bisect_left(V, V[b + (lo & m)], q, q + n)
        V[i : q + n - 1] = V[i + 1 : q + n]
        n -= 1
        lo += 1
    x = V[b + (h & m)]
    i = bisect_right(V, x, q, q + n)
    V[i + 1 : q + n + 1] = V[i : q + n]
    V[i] = x
    I[w], I[w + 1] = lo, n + 1


def quantile_of(I: Ints, V: Floats, s: int, w: int, at: int, d: int, rank: float) -> float:  # noqa: E741
    """Quantile of the sorted window with linear interpolation; NaN while cold or under 12 samples."""
    n = I[w + 1]
    if I[w + 4] > at - d or n < MIN_OBSERVATIONS:
        return NAN
    place = rank * (n - 1)
    low = floor(place)
    i = I[w + 2] + low
    if low + 1 >= n:
        return V[i]
    return V[i] + (V[i + 1] - V[i]) * (place - low)


def halved(z: float) -> float:
    """2 ** -z for z >= 0, by range reduction and a polynomial: bit for bit the same on every CPU (libm's exp2 is not)."""
    if z > 1100.0:
        return 0.0
    whole = floor(z + 0.5)
    r = (z - whole) * -0.6931471805599453
    # Taylor's series of e**r for |r| <= 0.3466: the 14th term is below 1e-17.
    p = 1.0 + r / 13.0
    n = 12.0
    while n >= 1.0:
        p = 1.0 + r / n * p
        n -= 1.0
    while whole >= 32:
        p *= 2.3283064365386963e-10
        whole -= 32
    while whole > 0:
        p *= 0.5
        whole -= 1
    return p


def ewma(F: Floats, I: Ints, s: int, w: int, g: int, at: int, halflife: int, x: float) -> float:  # noqa: E741
    """Time-aware exponential mean, y += (1 - 2**(-dt/halflife)) (x - y); NaN before the first sample is a half-life old."""
    if I[w] == 0:
        F[g] = x
    else:
        F[g] += (1.0 - halved(float(at - I[w + 1]) / float(halflife))) * (x - F[g])
    I[w] = 1
    I[w + 1] = at
    return F[g] if I[w + 4] <= at - halflife else NAN


def slope(F: Floats, I: Ints, T: Ints, V: Floats, s: int, w: int, g: int, at: int, d: int) -> float:  # noqa: E741
    """Ordinary least squares slope per hour; NaN while cold, under 2 samples or when all are of one time.

    I[w]: first index inside, I[w+1]: mark, I[w+2], I[w+3]: anchors of time. F[g..g+4]: A's sums of t, t*t, x, t*x and the anchor of
    x; F[g+5..g+9]: B's. Times are hours since the anchor.
    """
    h, b, m = I[s + 1] - 1, I[s + 5], I[s + 6]
    lo, mark = I[w], I[w + 1]
    x = V[b + (h & m)]
    if h == lo and h == mark:
        I[w + 2] = I[w + 3] = at
        F[g + 4] = F[g + 9] = x
    for offset, anchor in ((0, I[w + 2]), (5, I[w + 3])):
        t, y = (at - anchor) / NS_AN_HOUR, x - F[g + offset + 4]
        F[g + offset] += t
        F[g + offset + 1] += t * t
        F[g + offset + 2] += y
        F[g + offset + 3] += t * y
    edge = at - d
    while True:
        if lo == mark:
            for k in range(5):
                F[g + k] = F[g + 5 + k]
                F[g + 5 + k] = 0.0
            F[g + 9] = x
            I[w + 2] = I[w + 3]
            I[w + 3] = at
            mark = h + 1
            I[w + 1] = mark
        i = b + (lo & m)
        if T[i] > edge:
            break
        t, y = (T[i] - I[w + 2]) / NS_AN_HOUR, V[i] - F[g + 4]
        F[g] -= t
        F[g + 1] -= t * t
        F[g + 2] -= y
        F[g + 3] -= t * y
        lo += 1
    I[w] = lo
    n = h + 1 - lo
    if I[w + 4] > edge or n < 2:
        return NAN
    spread = n * F[g + 1] - F[g] * F[g]
    return (n * F[g + 3] - F[g] * F[g + 2]) / spread if spread > 0.0 else NAN


def volatility(F: Floats, I: Ints, T: Ints, V: Floats, s: int, w: int, g: int, at: int, d: int) -> float:  # noqa: E741
    """Realized volatility, a ratio a year: root of the window's squared log returns over its length. F[g], F[g+1]: A's and B's sums."""
    h, b, m = I[s + 1] - 1, I[s + 5], I[s + 6]
    lo, mark = I[w], I[w + 1]
    r = 0.0
    if h > lo:
        before, x = V[b + ((h - 1) & m)], V[b + (h & m)]
        r = log(x / before) if before > 0.0 and x > 0.0 else 0.0
    F[g] += r * r
    if h > mark:
        F[g + 1] += r * r
    edge = at - d
    while True:
        if lo == mark:
            F[g] = F[g + 1]
            F[g + 1] = 0.0
            mark = h
            I[w + 1] = mark
            if lo == h:
                F[g] = 0.0
        if lo == h or T[b + (lo & m)] > edge:
            break
        before, x = V[b + (lo & m)], V[b + ((lo + 1) & m)]
        r = log(x / before) if before > 0.0 and x > 0.0 else 0.0
        F[g] -= r * r
        lo += 1
    I[w] = lo
    if I[w + 4] > edge or lo == h:
        return NAN
    squares = F[g]
    return sqrt(squares / (at - T[b + (lo & m)]) * NS_A_YEAR) if squares > 0.0 else 0.0


# --- facts over time --------------------------------------------------------------------------------------------------
def steady(I: Ints, c: int, at: int, truth: int) -> None:  # noqa: E741
    """Remember since when a condition is TRUE: I[c] (0 = it is not), I[c+1] when it was last seen TRUE."""
    if truth == 2:
        if I[c] == 0 or at - I[c + 1] > STEADY_GAP_NS:
            I[c] = at
        I[c + 1] = at
    elif truth == 0:
        I[c] = 0


def changed(F: Floats, I: Ints, g: int, c: int, at: int, x: float) -> None:  # noqa: E741
    """Remember when a value last changed: I[c] (0 = never)."""
    if x == x:
        if F[g] == F[g] and F[g] != x:
            I[c] = at
        F[g] = x


def frozen(F: Floats, I: Ints, g: int, c: int, at: int, x: float, reference: float) -> None:  # noqa: E741
    """Remember when `x` last changed and what `reference` was then: I[c], F[g], F[g+1]."""
    if x == x and F[g] != x:
        F[g], F[g + 1], I[c] = x, reference, at
    elif F[g + 1] != F[g + 1]:
        F[g + 1] = reference


# --- numbers ----------------------------------------------------------------------------------------------------------
def finite(a: float, b: float, x: float) -> float:
    """`x`, an infinite or NaN outcome of a and b: kept when an operand was infinite, else NaN (overflow is UNKNOWN)."""
    return x if x == x and (a - a != 0.0 or b - b != 0.0) else NAN


def median(W: Floats, n: int) -> float:
    """Median of W[0..n); sorts it in place; NaN when n is 0."""
    if n == 0:
        return NAN
    for i in range(1, n):
        x, j = W[i], i - 1
        while j >= 0 and W[j] > x:
            W[j + 1] = W[j]
            j -= 1
        W[j + 1] = x
    return W[n // 2] if n % 2 else (W[n // 2 - 1] + W[n // 2]) / 2.0


def repaid_in(cost: float, rate: float) -> float:
    """Seconds after which a rate per hour has paid a cost (ratio); infinite when the rate is not above 0."""
    if cost != cost or rate != rate:
        return NAN
    return cost / rate * 3600.0 if rate > 0.0 else INF


def margin_ratio_of(maintenance: float, equity: float) -> float:
    """Maintenance margin over equity: 0 without positions, infinite when equity is gone."""
    if maintenance != 0.0 and (maintenance != maintenance or equity != equity):
        return NAN
    return margin_ratio(equity, maintenance)


def liquidation_price_of(size: float, price: float, mmf: float, equity: float, maintenance: float) -> float:
    """p' = (TNC - s P - MMR_other) / (|s| MMF - s), the price of one market at which MMR = TNC (dYdX v4, concepts/trading/liquidations);
    NaN when there is none above 0."""
    return liquidation_price(size, price, mmf, equity, maintenance)


def liquidation_distance_of(size: float, price: float, mmf: float, equity: float, maintenance: float) -> float:
    """Adverse move of one market to liquidation, as a ratio of its price: 0 once crossed, infinite when none liquidates."""
    if size != size or price != price or mmf != mmf or equity != equity or maintenance != maintenance or price <= 0.0:
        return NAN
    if size == 0.0:
        return INF
    if maintenance > equity:
        return 0.0
    at = liquidation_price_of(size, price, mmf, equity, maintenance)
    if at != at:
        return INF
    move = (price - at) / price if size > 0.0 else (at - price) / price
    return move if move > 0.0 else 0.0


def survivable_move_of(equity: float, maintenance: float, delta: float) -> float:
    """The smallest common move m of all prices that liquidates: equity -+ m delta = maintenance (1 -+ m); 0 once crossed."""
    if equity != equity or maintenance != maintenance or delta != delta:
        return NAN
    if maintenance == 0.0:
        return INF
    room = equity - maintenance
    if room <= 0.0:
        return 0.0
    best = INF
    if delta > maintenance and room < delta - maintenance:
        best = room / (delta - maintenance)  # down: at most the whole price
    if maintenance > delta:
        up = room / (maintenance - delta)
        best = up if up < best else best
    return best


def time_to_move(move: float, volatility_yearly: float) -> float:
    """Seconds in which a volatility (ratio a year) covers a move (ratio): (move / volatility)**2 of a year."""
    if move != move or volatility_yearly != volatility_yearly:
        return INF if move == INF else NAN
    if volatility_yearly <= 0.0 or move == INF:
        return INF
    years = move / volatility_yearly
    return years * years * 31_536_000.0


def reachable(matches: bool, amount: float, eta: float, slow: float, within: float) -> float:
    """Amount times the probability that it arrives within a time: 0.95 when the slow tail does, 0.5 when the typical does."""
    if not matches:
        return 0.0
    if amount != amount or eta != eta:
        return NAN
    if slow <= within:
        return 0.95 * amount
    return 0.5 * amount if eta <= within else 0.0


# --- the trigger ------------------------------------------------------------------------------------------------------
INACTIVE, PENDING, FIRING, CLEARING = 0, 1, 2, 3
TRIGGER_CELLS = 6  # status, pending_at, held, since (counting since; -1 paused), due, fired_at
FIRED, CLEARED, GONE, REFIRED = 1, 2, 3, 4
MOVED = 8  # added to a code when the trigger's due was set anew
NOT_DUE = 1 << 62


def trigger(I: Ints, q: int, at: int, when: int, until: int, hold: int, until_hold: int, horizon: int) -> int:  # noqa: E741
    """Advance one trigger to `at`: MOVED, plus FIRED, CLEARED or REFIRED (cleared and fired in one instant) when it did.

    Holds count only time known TRUE; UNKNOWN pauses them, FALSE resets. `horizon` is the next time the verdict can change by
    itself (an input goes stale, a clock crosses its threshold), NOT_DUE when it cannot.
    """
    status = I[q]
    since = I[q + 3]
    if since >= 0:
        I[q + 2] += at - since
        I[q + 3] = -1
    I[q + 4] = horizon
    if status >= FIRING:
        if until != 2:
            if status == CLEARING and until == 0:
                I[q] = FIRING
                I[q + 2] = 0
            return MOVED
        if status == FIRING:
            I[q] = CLEARING
            I[q + 2] = 0
        if I[q + 2] < until_hold:
            I[q + 3] = at
            due = at + until_hold - I[q + 2]
            I[q + 4] = due if due < horizon else horizon
            return MOVED
        I[q] = INACTIVE
        I[q + 2] = 0
        if when != 2:
            return MOVED + CLEARED
        I[q] = PENDING
        I[q + 1] = at
        if hold > 0:
            I[q + 3] = at
            I[q + 4] = at + hold if at + hold < horizon else horizon
            return MOVED + CLEARED
        I[q] = FIRING
        I[q + 5] = at
        return MOVED + REFIRED
    if when == 0:
        I[q] = INACTIVE
        I[q + 2] = 0
        return MOVED
    if when == 1:
        return MOVED
    if status == INACTIVE:
        I[q] = PENDING
        I[q + 1] = at
        I[q + 2] = 0
    if I[q + 2] < hold:
        I[q + 3] = at
        due = at + hold - I[q + 2]
        I[q + 4] = due if due < horizon else horizon
        return MOVED
    I[q] = FIRING
    I[q + 2] = 0
    I[q + 5] = at
    return MOVED + FIRED


def gone(I: Ints, q: int) -> int:  # noqa: E741
    """End what a trigger holds because its entity is gone: GONE when it fired, else 0."""
    status = I[q]
    I[q] = INACTIVE
    I[q + 2] = 0
    I[q + 3] = -1
    I[q + 4] = NOT_DUE
    return GONE if status >= FIRING else 0


def valued(F: Floats, I: Ints, B: Ints, cell: int, first_bound: int, header: int, at: int) -> float:  # noqa: E741
    """The first known of a market's `valued_at` signals: I[cell..cell+3] are their slots, -1 ends the list."""
    for j in range(cell, cell + 4):
        k = I[j]
        if k < 0:
            break
        bound = B[first_bound + k]
        if at <= I[header + 3 * k] + bound and I[1] <= bound and F[k] == F[k]:
            return F[k]
    return NAN


def until_next(interval_s: float, at: int) -> float:
    """Seconds to the next multiple (UTC) of an interval in seconds; NaN when the interval is unknown."""
    if not interval_s >= 1.0:
        return NAN
    step = int(interval_s) * 1_000_000_000
    return (step - at % step) / 1e9


def elapsed(since: int, at: int) -> float:
    """Seconds since a time, never below 0; infinite since NEVER."""
    if since < 0:
        return INF
    return (at - since) / 1e9 if at > since else 0.0


def frozen_time(F: Floats, I: Ints, g: int, c: int, at: int, x: float, reference: float, tolerance: float) -> float:  # noqa: E741
    """Seconds since `x` changed, while `reference` has moved more than `tolerance` since; 0 while it has not; NaN unknown."""
    then = F[g + 1]
    if x != x or reference != reference or tolerance != tolerance or then != then or then == 0.0:
        return NAN
    move = reference / then - 1.0
    if (move if move >= 0.0 else -move) > tolerance:
        return (at - I[c]) / 1e9
    return 0.0


def crossing(at: int, value: float, bound: float) -> int:
    """The time at which a clock that grows by 1 s a second, now at `value`, passes `bound`; NOT_DUE when it has or never will."""
    ahead = bound - value
    if not ahead >= 0.0 or ahead > 1e9:
        return NOT_DUE
    return at + int(ahead * 1e9) + 1


def sooner(horizon: int, seen: int, bound: int, at: int) -> int:
    """The earlier of `horizon` and the moment a reading goes stale, if that lies ahead."""
    due = seen + bound + 1
    return due if at < due < horizon else horizon


def valued_horizon(horizon: int, I: Ints, B: Ints, cell: int, first_bound: int, header: int, at: int) -> int:  # noqa: E741
    """As `sooner`, over the signals of a market's `valued_at`."""
    for j in range(cell, cell + 4):
        k = I[j]
        if k < 0:
            break
        horizon = sooner(horizon, I[header + 3 * k], B[first_bound + k], at)
    return horizon
