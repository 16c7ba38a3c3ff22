"""The rules by a loop in plain Python over deques, hard-coded for one market: what one writes by hand, without a compiler."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from benchmarks.firings import Bounds, Columns, Times, load
from benchmarks.rules import DAY_S, FAMILIES, HOUR_S, NS, Rule

__all__ = ["load", "with_deques"]


class Moments:
    """Mean and standard deviation over the last `seconds`, by running sums: what one writes by hand."""

    def __init__(self, seconds: int) -> None:
        self.span = seconds * NS
        self.seen: deque[tuple[int, float]] = deque()
        self.total = self.squares = 0.0

    def push(self, at: int, value: float) -> None:
        seen = self.seen
        seen.append((at, value))
        self.total += value
        self.squares += value * value
        while seen[0][0] <= at - self.span:
            _, old = seen.popleft()
            self.total -= old
            self.squares -= old * old

    def mean(self) -> float:
        return self.total / len(self.seen)

    def std(self) -> float:
        count = len(self.seen)
        return math.sqrt(max(0.0, (self.squares - self.total * self.total / count) / (count - 1))) if count >= 12 else math.nan

    def zscore(self, value: float) -> float:
        deviation = self.std()
        return (value - self.mean()) / deviation if deviation > 0 else math.nan


class Extreme:
    """Largest of the last `seconds` (of `sign` times the value), by a monotonic deque."""

    def __init__(self, seconds: int, sign: float) -> None:
        self.span, self.sign = seconds * NS, sign
        self.seen: deque[tuple[int, float]] = deque()

    def push(self, at: int, value: float) -> None:
        seen, value = self.seen, value * self.sign
        while seen and seen[-1][1] <= value:
            seen.pop()
        seen.append((at, value))
        while seen[0][0] <= at - self.span:
            seen.popleft()

    def value(self) -> float:
        return self.seen[0][1] * self.sign


class Holds:
    """Holds and firings of rules, fed with verdicts row by row: None is UNKNOWN."""

    def __init__(self, rules: tuple[Rule, ...], bounds: Bounds) -> None:
        self.wanted = [rule.hold_ns for rule in rules]
        self.bounds = [rule.bound_ns(bounds) for rule in rules]
        self.held = [-1] * len(rules)  # -1 is not TRUE, -2 fired already
        self.since = [0] * len(rules)  # row from which time is still to be counted; 0 paused
        self.times: list[list[int]] = [[] for _ in rules]

    def take(self, at: int, i: int, verdict: bool | None) -> None:
        """One rule's verdict at a row."""
        held = self.held[i]
        if held >= 0 and self.since[i]:
            lasted, left, bound = at - self.since[i], self.wanted[i] - held, self.bounds[i]
            if left <= bound and left < lasted:
                self.times[i].append(self.since[i] + left)
                held = -2
            else:
                held += min(lasted, bound + 1)
            self.since[i] = 0
        if verdict is False:
            held = -1
        elif verdict and held != -2:
            held = max(held, 0)
            if held >= self.wanted[i]:
                self.times[i].append(at)
                held = -2
            else:
                self.since[i] = at
        self.held[i] = held


def with_deques(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Times:
    """Firings by a loop in plain Python over deques: rules hard-coded, running sums; two rules or the ten windows, one market."""
    columns, names = loaded
    assert len(names) == 1, "the loop over deques knows one market"
    rules = FAMILIES[family]
    holds = Holds(rules, bounds)
    rows = zip(*(columns[name].tolist() for name in _LOOPS[family][1]), strict=True)
    _LOOPS[family][0](rows, int(columns["ts"][0]), holds)
    return {rule.name: {names[0]: np.array(times, np.int64)} for rule, times in zip(rules, holds.times, strict=True)}


def _two(rows: Any, first: int, holds: Holds) -> None:
    take = holds.take
    warm = first + DAY_S * NS
    seen: deque[tuple[int, float]] = deque()
    push, pop = seen.append, seen.popleft
    total = squares = 0.0
    busy = apart = False
    for at, bid, ask, oracle, funding in rows:
        push((at, funding))
        total += funding
        squares += funding * funding
        edge = at - DAY_S * NS
        while seen[0][0] <= edge:
            old = pop()[1]
            total -= old
            squares -= old * old
        if funding > 0.0005:
            verdict = None
            count = len(seen)
            if at >= warm and count >= 12:
                variance = (squares - total * total / count) / (count - 1)
                verdict = (funding - total / count) / math.sqrt(variance) > 4 if variance > 0 else None
            take(at, 0, verdict)
            busy = True
        elif busy:
            take(at, 0, False)
            busy = False
        far = abs(oracle / ((bid + ask) / 2) - 1) > 0.003
        if far != apart:
            apart = far
            take(at, 1, far)


def _ten(rows: Any, first: int, holds: Holds) -> None:
    day, eight, basis_hour, ten = Moments(DAY_S), Moments(8 * HOUR_S), Moments(HOUR_S), Moments(600)
    high, low = Extreme(HOUR_S, 1.0), Extreme(HOUR_S, -1.0)
    back: deque[tuple[int, float]] = deque()
    for at, bid, ask, mark, index, oracle, funding in rows:
        basis = mark / index - 1
        day.push(at, funding)
        eight.push(at, funding)
        basis_hour.push(at, basis)
        ten.push(at, mark)
        high.push(at, mark)
        low.push(at, mark)
        back.append((at, mark))
        while len(back) > 1 and back[1][0] <= at - 300 * NS:
            back.popleft()
        age = (at - first) / NS
        z = day.zscore(funding) if funding > 0.0005 and age >= DAY_S else math.nan
        basis_z = basis_hour.zscore(basis) if age >= HOUR_S else math.nan
        volatility = ten.std() / ten.mean()
        verdicts = (
            funding > 0.0005 and (None if z != z else z > 4),
            abs(oracle / ((bid + ask) / 2) - 1) > 0.003,
            None if age < HOUR_S else basis_hour.mean() > 0.002,
            None if age < 600 or volatility != volatility else volatility > 0.005,
            None if age < 300 else mark / back[0][1] - 1 < -0.02,
            ask / bid - 1 > 0.002,
            None if age < HOUR_S else high.value() / low.value() - 1 > 0.03,
            None if basis_z != basis_z else basis_z > 6,
            None if age < 8 * HOUR_S else eight.mean() > 0.00003,
            abs(index / oracle - 1) > 0.004,
        )
        for i, verdict in enumerate(verdicts):
            if verdict is not False or holds.held[i] != -1:
                holds.take(at, i, verdict)


_LOOPS: Mapping[str, tuple[Callable[[Any, int, Holds], None], tuple[str, ...]]] = {
    "two": (_two, ("ts", "bid_price", "ask_price", "oracle_price", "funding_rate")),
    "windows10": (_ten, ("ts", "bid_price", "ask_price", "mark_price", "index_price", "oracle_price", "funding_rate")),
}
