"""Hand-written loops under numba's njit, rules hard-coded: the bar. What a desk writes when it wants one backtest and no engine.

Windows are cursors into the columns with running sums (of differences to the first value, so that a variance keeps its digits), nothing is
copied, z-scores are taken only where the cheaper half of the condition holds, and a hold looks at the next row's time at once.
`two` knows one market; `shared` and `ten` know many, by a list of each row's next row of the same market; `two_held` carries an account.
Needs numpy and numba only.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from benchmarks.firings import Bounds, Columns, Times, load
from benchmarks.rules import DAY_S, FAMILIES, MARGIN_LIMIT, NS, WINDOWS, gap_bps, z_threshold

DAY = DAY_S * NS
HOUR = 3600 * NS
MINUTE = 60 * NS
HOLD_FUNDING = 120 * NS
MOST_FIRINGS = 1 << 18  # of a rule, in all markets together
IDLE, FIRED = -1, -2  # `held` of a rule that is not TRUE, and of one that fired already
__all__ = ["load", "with_eager_loop", "with_floor", "with_held_loop", "with_loop"]
compiled = njit(error_model="numpy", nogil=True, cache=True)


@compiled
def read_once(ts, bid, ask, mark, index, oracle, funding):  # type: ignore[no-untyped-def]
    """Sum of every cell: what merely reading the columns once costs, the floor of them all."""
    total = 0.0
    times = 0
    for i in range(len(ts)):
        times += ts[i]
        total += bid[i] + ask[i] + mark[i] + index[i] + oracle[i] + funding[i]
    return total + times


@compiled
def two(ts, bid, ask, oracle, funding, bound, fired, count):  # type: ignore[no-untyped-def]
    """Both rules over one market. `fired` int64[2, most], `count` int64[2]; rule 0 funding, rule 1 oracle."""
    n = len(ts)
    first = ts[0]
    anchor = funding[0]
    s1 = s2 = 0.0
    lo = 0
    held = IDLE
    apart = False
    for i in range(n):
        at = ts[i]
        rate = funding[i]
        x = rate - anchor
        s1 += x
        s2 += x * x
        edge = at - DAY
        while ts[lo] <= edge:
            x = funding[lo] - anchor
            s1 -= x
            s2 -= x * x
            lo += 1
        if rate > 0.0005:
            samples = i + 1 - lo
            if edge >= first and samples >= 12:
                variance = (s2 - s1 * s1 / samples) / (samples - 1)
                if variance > 0.0:
                    if (rate - anchor - s1 / samples) / np.sqrt(variance) > 4.0:
                        if held != FIRED:
                            held = hold(ts, i, i + 1, n, held, HOLD_FUNDING, bound, fired, count, 0)
                    else:
                        held = IDLE
        else:
            held = IDLE
        if abs(oracle[i] / ((bid[i] + ask[i]) / 2) - 1) > 0.003:
            if not apart:
                apart = True
                fired[1, count[1]] = at
                count[1] += 1
        else:
            apart = False


@compiled
def two_eager(ts, bid, ask, oracle, funding, bound, fired, count):  # type: ignore[no-untyped-def]
    """As `two`, every condition evaluated at every row, as an engine does that may be asked for any value at any time."""
    n = len(ts)
    first = ts[0]
    anchor = funding[0]
    s1 = s2 = 0.0
    lo = 0
    held = IDLE
    apart = False
    for i in range(n):
        at = ts[i]
        rate = funding[i]
        x = rate - anchor
        s1 += x
        s2 += x * x
        edge = at - DAY
        while ts[lo] <= edge:
            x = funding[lo] - anchor
            s1 -= x
            s2 -= x * x
            lo += 1
        samples = i + 1 - lo
        z = np.nan
        if edge >= first and samples >= 12:
            variance = (s2 - s1 * s1 / samples) / (samples - 1)
            if variance > 0.0:
                z = (rate - anchor - s1 / samples) / np.sqrt(variance)
        truth = verdict(z, 4.0)
        high = verdict(rate, 0.0005)
        truth = truth if truth < high else high
        if truth == 2:
            if held != FIRED:
                held = hold(ts, i, i + 1, n, held, HOLD_FUNDING, bound, fired, count, 0)
        elif truth == 0:
            held = IDLE
        if abs(oracle[i] / ((bid[i] + ask[i]) / 2) - 1) > 0.003:
            if not apart:
                apart = True
                fired[1, count[1]] = at
                count[1] += 1
        else:
            apart = False


@compiled
def hold(ts, i, following, n, held, wanted, bound, fired, count, rule):  # type: ignore[no-untyped-def]
    """Time held after a TRUE row `i`, whose market's next row is `following`; FIRED once the rule has fired."""
    at = ts[i]
    if held < 0:
        held = 0
    left = wanted - held
    if left <= 0:
        fired[rule, count[rule]] = at
        count[rule] += 1
        return FIRED
    if following >= n:
        return held
    lasts = ts[following] - at
    if left <= bound and left < lasts:
        fired[rule, count[rule]] = at + left
        count[rule] += 1
        return FIRED
    return held + min(lasts, bound + 1)


@compiled
def two_held(ts, bid, ask, oracle, funding, bound, size, entry, mmf, cash, fired, count):  # type: ignore[no-untyped-def]
    """`two` with a position: valued at the oracle, funding at each whole hour, a liquidation test a row, and a rule on the margin ratio.

    Stops at a liquidation; returns (collateral, rows done). Rule 2 is the margin ratio.
    """
    n = len(ts)
    first = ts[0]
    anchor = funding[0]
    s1 = s2 = 0.0
    lo = 0
    held = IDLE
    apart = high = False
    boundary = (first + HOUR - 1) // HOUR * HOUR
    for i in range(n):
        at = ts[i]
        price = oracle[i]
        rate = funding[i]
        if at >= boundary:
            # A settlement is the first rate at or within five minutes after its hour; later ones stay unpaid.
            if at <= boundary + 5 * MINUTE:
                cash -= size * price * rate
            boundary = at // HOUR * HOUR + HOUR
        equity = cash + size * (price - entry)
        maintenance = abs(size) * price * mmf
        if maintenance > equity:
            return cash, i
        if maintenance / equity > MARGIN_LIMIT:
            if not high:
                high = True
                fired[2, count[2]] = at
                count[2] += 1
        else:
            high = False
        x = rate - anchor
        s1 += x
        s2 += x * x
        edge = at - DAY
        while ts[lo] <= edge:
            x = funding[lo] - anchor
            s1 -= x
            s2 -= x * x
            lo += 1
        if rate > 0.0005:
            samples = i + 1 - lo
            if edge >= first and samples >= 12:
                variance = (s2 - s1 * s1 / samples) / (samples - 1)
                if variance > 0.0:
                    if (rate - anchor - s1 / samples) / np.sqrt(variance) > 4.0:
                        if held != FIRED:
                            held = hold(ts, i, i + 1, n, held, HOLD_FUNDING, bound, fired, count, 0)
                    else:
                        held = IDLE
        else:
            held = IDLE
        if abs(price / ((bid[i] + ask[i]) / 2) - 1) > 0.003:
            if not apart:
                apart = True
                fired[1, count[1]] = at
                count[1] += 1
        else:
            apart = False
    return cash, n


@compiled
def next_rows(market, markets):  # type: ignore[no-untyped-def]
    """For each row the next row of the same market; `len(market)` where there is none."""
    n = len(market)
    following = np.empty(n, np.int64)
    latest = np.full(markets, n, np.int64)
    for i in range(n - 1, -1, -1):
        following[i] = latest[market[i]]
        latest[market[i]] = i
    return following


@compiled
def shared(ts, market, following, markets, bid, ask, oracle, funding, scores, gaps, bound, fired, count):  # type: ignore[no-untyped-def]
    """Both rules at `len(scores)` levels over many markets. `fired` int64[2, 2 * levels, most]: times and markets; rules by turns."""
    n = len(ts)
    levels = len(scores)
    s1 = np.zeros(markets)
    s2 = np.zeros(markets)
    anchors = np.zeros(markets)
    first = np.full(markets, -1, np.int64)
    tail = np.zeros(markets, np.int64)
    samples = np.zeros(markets, np.int64)
    held = np.full((markets, levels), IDLE, np.int64)
    rising = np.zeros(markets, np.bool_)  # some level holds or has fired
    apart = np.zeros(markets, np.int64)  # levels of the gap that are TRUE: they are nested
    for i in range(n):
        m = market[i]
        at = ts[i]
        rate = funding[i]
        if first[m] < 0:
            first[m] = at
            anchors[m] = rate
            tail[m] = i
        anchor = anchors[m]
        x = rate - anchor
        a1 = s1[m] + x
        a2 = s2[m] + x * x
        lo = tail[m]
        k = samples[m] + 1
        edge = at - DAY
        while ts[lo] <= edge:
            x = funding[lo] - anchor
            a1 -= x
            a2 -= x * x
            k -= 1
            lo = following[lo]
        tail[m] = lo
        s1[m] = a1
        s2[m] = a2
        samples[m] = k
        if rate > 0.0005:
            if edge >= first[m] and k >= 12:
                variance = (a2 - a1 * a1 / k) / (k - 1)
                if variance > 0.0:
                    z = (rate - anchor - a1 / k) / np.sqrt(variance)
                    for level in range(levels):
                        if z > scores[level]:
                            rising[m] = True
                            if held[m, level] != FIRED:
                                before = count[2 * level]
                                held[m, level] = hold(
                                    ts, i, following[i], n, held[m, level], HOLD_FUNDING, bound, fired[0], count, 2 * level
                                )
                                if count[2 * level] > before:
                                    fired[1, 2 * level, before] = m
                        else:
                            held[m, level] = IDLE
        elif rising[m]:
            rising[m] = False
            held[m, :] = IDLE
        gap = abs(oracle[i] / ((bid[i] + ask[i]) / 2) - 1)
        was = apart[m]
        if was or gap > gaps[0]:
            level = 0
            while level < levels and gap > gaps[level]:
                if level >= was:
                    rule = 2 * level + 1
                    fired[0, rule, count[rule]] = at
                    fired[1, rule, count[rule]] = m
                    count[rule] += 1
                level += 1
            apart[m] = level


@compiled
def push_sum(values, i, m, ts, following, edge, tail, samples, anchors, s1, s2):  # type: ignore[no-untyped-def]
    """Slides one window of market `m` to row `i`."""
    x = values[i] - anchors[m]
    a1 = s1[m] + x
    a2 = s2[m] + x * x
    k = samples[m] + 1
    lo = tail[m]
    while ts[lo] <= edge:
        x = values[lo] - anchors[m]
        a1 -= x
        a2 -= x * x
        k -= 1
        lo = following[lo]
    tail[m] = lo
    s1[m] = a1
    s2[m] = a2
    samples[m] = k


@compiled
def deviation(m, samples, s1, s2):  # type: ignore[no-untyped-def]
    """Standard deviation (ddof 1) of market `m`'s window; NaN under 12 samples."""
    k = samples[m]
    if k < 12:
        return np.nan
    variance = (s2[m] - s1[m] * s1[m] / k) / (k - 1)
    return np.sqrt(variance) if variance > 0.0 else 0.0


@compiled
def push_extreme(values, i, m, ts, edge, sign, queue, ends, slots):  # type: ignore[no-untyped-def]
    """Largest (`sign` 1) or smallest (-1) of market `m`'s window, by a queue of rows in a ring of `slots` (a power of two)."""
    head, last = ends[m, 0], ends[m, 1]
    mask = slots - 1
    x = values[i] * sign
    while last > head and values[queue[m, (last - 1) & mask]] * sign <= x:
        last -= 1
    queue[m, last & mask] = i
    last += 1
    while ts[queue[m, head & mask]] <= edge:
        head += 1
    assert last - head < slots
    ends[m, 0] = head
    ends[m, 1] = last
    return values[queue[m, head & mask]]


@compiled
def ten(ts, market, following, markets, bid, ask, mark, index, oracle, funding, holds, bounds, fired, count):  # type: ignore[no-untyped-def]
    """The ten rules over ten windows. `holds`, `bounds` int64[10] ns; `fired` int64[2, 10, most]: times and markets."""
    n = len(ts)
    slots = 8192
    basis = mark / index - 1
    first = np.full(markets, -1, np.int64)
    tail = np.zeros((5, markets), np.int64)  # day, eight hours, hour of basis, ten minutes; and the row 5 m ago
    samples = np.zeros((4, markets), np.int64)
    anchors = np.zeros((4, markets))
    s1 = np.zeros((4, markets))
    s2 = np.zeros((4, markets))
    high = np.zeros((markets, slots), np.int64)
    low = np.zeros((markets, slots), np.int64)
    high_ends = np.zeros((markets, 2), np.int64)
    low_ends = np.zeros((markets, 2), np.int64)
    held = np.full((markets, 10), IDLE, np.int64)
    truth = np.zeros(10, np.int8)  # 0 FALSE 1 UNKNOWN 2 TRUE
    for i in range(n):
        m = market[i]
        at = ts[i]
        if first[m] < 0:
            first[m] = at
            tail[:, m] = i
            anchors[0, m] = anchors[1, m] = funding[i]
            anchors[2, m] = basis[i]
            anchors[3, m] = mark[i]
        age = at - first[m]
        rate = funding[i]
        push_sum(funding, i, m, ts, following, at - DAY, tail[0], samples[0], anchors[0], s1[0], s2[0])
        push_sum(funding, i, m, ts, following, at - 8 * HOUR, tail[1], samples[1], anchors[1], s1[1], s2[1])
        push_sum(basis, i, m, ts, following, at - HOUR, tail[2], samples[2], anchors[2], s1[2], s2[2])
        push_sum(mark, i, m, ts, following, at - 10 * MINUTE, tail[3], samples[3], anchors[3], s1[3], s2[3])
        top = push_extreme(mark, i, m, ts, at - HOUR, 1.0, high, high_ends, slots)
        bottom = push_extreme(mark, i, m, ts, at - HOUR, -1.0, low, low_ends, slots)
        back = tail[4, m]
        if age >= 5 * MINUTE:
            while ts[following[back]] <= at - 5 * MINUTE:
                back = following[back]
            tail[4, m] = back
        truth[0] = 0
        if rate > 0.0005:
            spread = deviation(m, samples[0], s1[0], s2[0]) if age >= DAY else np.nan
            z = (rate - anchors[0, m] - s1[0, m] / samples[0, m]) / spread if spread > 0.0 else np.nan
            truth[0] = verdict(z, 4.0)
        truth[1] = verdict(abs(oracle[i] / ((bid[i] + ask[i]) / 2) - 1), 0.003)
        middle = anchors[2, m] + s1[2, m] / samples[2, m]
        truth[2] = verdict(middle, 0.002) if age >= HOUR else 1
        ratio = deviation(m, samples[3], s1[3], s2[3]) / (anchors[3, m] + s1[3, m] / samples[3, m])
        truth[3] = verdict(ratio, 0.005) if age >= 10 * MINUTE else 1
        truth[4] = verdict(-(mark[i] / mark[back] - 1), 0.02) if age >= 5 * MINUTE else 1
        truth[5] = verdict(ask[i] / bid[i] - 1, 0.002)
        truth[6] = verdict(top / bottom - 1, 0.03) if age >= HOUR else 1
        if age >= HOUR:
            spread = deviation(m, samples[2], s1[2], s2[2])
            truth[7] = verdict((basis[i] - middle) / spread, 6.0) if spread > 0.0 else 1
        else:
            truth[7] = 1
        truth[8] = verdict(anchors[1, m] + s1[1, m] / samples[1, m], 0.00003) if age >= 8 * HOUR else 1
        truth[9] = verdict(abs(index[i] / oracle[i] - 1), 0.004)
        for rule in range(10):
            if truth[rule] == 2:
                if held[m, rule] != FIRED:
                    before = count[rule]
                    held[m, rule] = hold(ts, i, following[i], n, held[m, rule], holds[rule], bounds[rule], fired[0], count, rule)
                    if count[rule] > before:
                        fired[1, rule, before] = m
            elif truth[rule] == 0:
                held[m, rule] = IDLE


@compiled
def verdict(value, bound):  # type: ignore[no-untyped-def]
    """Whether `value > bound`: 0 FALSE, 1 UNKNOWN, 2 TRUE."""
    if value != value:
        return 1
    return 2 if value > bound else 0


def with_loop(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Times:
    """Times of firing (ns) by rule and market, by the loop that fits the family best."""
    columns, names = loaded
    rules = FAMILIES[family]
    if family == "two" and len(names) == 1:
        fired, count = _firings(1, 2)
        two(*_picked(columns, "ts", "bid_price", "ask_price", "oracle_price", "funding_rate"), bounds["funding_rate"], fired[0], count)
    elif family == "windows10":
        fired, count = _firings(2, len(rules))
        wanted = np.array([rule.hold_ns for rule in WINDOWS], np.int64)
        stands = np.array([rule.bound_ns(bounds) for rule in WINDOWS], np.int64)
        following = next_rows(columns["market"], len(names))
        prices = _picked(columns, "bid_price", "ask_price", "mark_price", "index_price", "oracle_price", "funding_rate")
        ten(columns["ts"], columns["market"], following, len(names), *prices, wanted, stands, fired, count)
    else:
        levels = (len(rules) + 1) // 2
        fired, count = _firings(2, 2 * levels)
        scores = np.array([z_threshold(level) for level in range(levels)])
        gaps = np.array([gap_bps(level) / 10_000 for level in range(levels)])
        following = next_rows(columns["market"], len(names))
        prices = _picked(columns, "bid_price", "ask_price", "oracle_price", "funding_rate")
        shared(columns["ts"], columns["market"], following, len(names), *prices, scores, gaps, bounds["funding_rate"], fired, count)
    return _by_market(rules, names, fired, count)


def with_eager_loop(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Times:
    """As `with_loop` of two rules over one market, every condition evaluated at every row."""
    columns, names = loaded
    assert (family, len(names)) == ("two", 1), "the eager loop has two rules and one market"
    fired, count = _firings(1, 2)
    two_eager(*_picked(columns, "ts", "bid_price", "ask_price", "oracle_price", "funding_rate"), bounds["funding_rate"], fired[0], count)
    return _by_market(FAMILIES[family], names, fired, count)


def with_held_loop(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Times:
    """As `with_loop` of two rules over one market, with the account of `series.account` and the rule on its margin ratio."""
    columns, names = loaded
    assert len(names) == 1, "the loop with an account knows one market"
    fired, count = _firings(1, 3)
    prices = _picked(columns, "ts", "bid_price", "ask_price", "oracle_price", "funding_rate")
    _, done = two_held(*prices, bounds["funding_rate"], 100.0, 100.0, 0.03, 2_000.0, fired[0], count)
    assert done == len(columns["ts"]), "the account of the benchmark was liquidated"
    told = _by_market(FAMILIES[family], names, fired, count)
    for rule in FAMILIES[family]:
        if rule.scope != "market":  # it names no market
            told[rule.name] = {rule.scope: np.concatenate([np.empty(0, np.int64), *told[rule.name].values()])}
    return told


def with_floor(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Times:
    """Reads every column once and finds nothing."""
    columns, _ = loaded
    read_once(*_picked(columns, "ts", "bid_price", "ask_price", "mark_price", "index_price", "oracle_price", "funding_rate"))
    return {}


def _firings(planes: int, rules: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    return np.empty((planes, rules, MOST_FIRINGS), np.int64), np.zeros(rules, np.int64)


def _picked(columns: Columns, *names: str) -> tuple[npt.NDArray[Any], ...]:
    return tuple(columns[name] for name in names)


def _by_market(rules, names, fired, count):  # type: ignore[no-untyped-def]
    assert count.max(initial=0) < MOST_FIRINGS, "more firings than there is room for"
    told = {}
    for number, rule in enumerate(rules):
        times = fired[0, number, : count[number]]
        markets = fired[1, number, : count[number]] if len(fired) > 1 else np.zeros(len(times), np.int64)
        told[rule.name] = {names[m]: times[markets == m] for m in np.unique(markets).tolist()}
    return told
