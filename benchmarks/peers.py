"""The same ten rules by other means: polars, pandas, a hand-written loop over deques. Each returns how often every rule fired.

They compute conditions and holds only: no staleness, no UNKNOWN, no lifecycle, no account, no feedback of an action into the next row.
reefd does all of that; a ratio says what it costs.
"""

from __future__ import annotations

import math
from collections import deque

import numpy as np
import pandas as pd
import polars as pl

from benchmarks.series import NS, RULES, Series

WARM = {"funding-z": 86_400, "basis-mean": 3600, "volatility": 600, "fall": 300, "range": 3600, "basis-z": 3600, "funding-mean": 28_800}


def with_polars(series: Series) -> dict[str, int]:
    """Firings by rule, computed with polars' rolling expressions."""
    frame = pl.DataFrame({"ts": series.ts, **series.columns()}).with_columns(
        pl.col("ts").cast(pl.Datetime("ns")), basis=pl.col("mark_price") / pl.col("index_price") - 1
    )

    def rolling(column: str, what: str, window: str) -> pl.Expr:
        function = getattr(pl.col(column), f"rolling_{what}_by")
        rolled: pl.Expr = function("ts", window_size=window)
        return rolled

    c = pl.col
    mid = (c("bid_price") + c("ask_price")) / 2
    z = (c("funding_rate") - rolling("funding_rate", "mean", "24h")) / rolling("funding_rate", "std", "24h")
    basis_z = (c("basis") - rolling("basis", "mean", "1h")) / rolling("basis", "std", "1h")
    masks = frame.select(
        (z.gt(4) & c("funding_rate").gt(0.0005)).alias("funding-z"),
        (c("oracle_price") / mid - 1).abs().gt(0.003).alias("oracle"),
        rolling("basis", "mean", "1h").gt(0.002).alias("basis-mean"),
        (rolling("mark_price", "std", "10m") / rolling("mark_price", "mean", "10m")).gt(0.005).alias("volatility"),
        (c("mark_price") / c("mark_price").shift(300) - 1).lt(-0.02).alias("fall"),
        (c("ask_price") / c("bid_price") - 1).gt(0.002).alias("spread"),
        (rolling("mark_price", "max", "1h") / rolling("mark_price", "min", "1h") - 1).gt(0.03).alias("range"),
        basis_z.gt(6).alias("basis-z"),
        rolling("funding_rate", "mean", "8h").gt(0.00003).alias("funding-mean"),
        (c("index_price") / c("oracle_price") - 1).abs().gt(0.004).alias("index"),
    )
    return {rule.name: firings(masks[rule.name].fill_null(False).to_numpy(), rule.name, rule.hold_s) for rule in RULES}


def with_pandas(series: Series) -> dict[str, int]:
    """Firings by rule, computed with pandas' time-based rolling windows."""
    frame = pd.DataFrame(series.columns(), index=pd.DatetimeIndex(series.ts.astype("datetime64[ns]")))
    basis = frame.mark_price / frame.index_price - 1
    mid = (frame.bid_price + frame.ask_price) / 2
    day, hour, ten = frame.funding_rate.rolling("24h"), basis.rolling("1h"), frame.mark_price.rolling("10min")
    mark_hour = frame.mark_price.rolling("1h")
    masks = {
        "funding-z": ((frame.funding_rate - day.mean()) / day.std() > 4) & (frame.funding_rate > 0.0005),
        "oracle": (frame.oracle_price / mid - 1).abs() > 0.003,
        "basis-mean": hour.mean() > 0.002,
        "volatility": ten.std() / ten.mean() > 0.005,
        "fall": frame.mark_price / frame.mark_price.shift(300) - 1 < -0.02,
        "spread": frame.ask_price / frame.bid_price - 1 > 0.002,
        "range": mark_hour.max() / mark_hour.min() - 1 > 0.03,
        "basis-z": (basis - hour.mean()) / hour.std() > 6,
        "funding-mean": frame.funding_rate.rolling("8h").mean() > 0.00003,
        "index": (frame.index_price / frame.oracle_price - 1).abs() > 0.004,
    }
    return {rule.name: firings(masks[rule.name].to_numpy(), rule.name, rule.hold_s) for rule in RULES}


def firings(mask: np.ndarray, name: str, hold_s: int) -> int:
    """How often a condition had been TRUE for `hold_s` rows (seconds), counted once a stretch, after the window is warm."""
    mask = mask.copy()
    mask[: WARM.get(name, 0)] = False
    edges = np.flatnonzero(np.diff(np.concatenate(([0], mask.view(np.int8), [0]))))
    lengths = edges[1::2] - edges[::2]
    return int(np.count_nonzero(lengths > hold_s))


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
        return math.sqrt(max(0.0, (self.squares - self.total * self.total / count) / (count - 1))) if count > 1 else math.nan


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


def with_deques(series: Series) -> dict[str, int]:
    """Firings by rule, in one hand-written loop: rules hard-coded, running sums, nothing shared that is not needed."""
    day, eight, basis_hour, ten = Moments(86_400), Moments(28_800), Moments(3600), Moments(600)
    high, low = Extreme(3600, 1.0), Extreme(3600, -1.0)
    back: deque[float] = deque(maxlen=301)
    since = [0] * len(RULES)
    fired = [False] * len(RULES)
    count = [0] * len(RULES)
    holds = [rule.hold_s * NS for rule in RULES]
    warm = [WARM.get(rule.name, 0) * NS for rule in RULES]
    start = int(series.ts[0])
    rows = zip(series.ts.tolist(), *(column.tolist() for column in series.columns().values()), strict=True)
    for at, bid, ask, mark, index, oracle, funding in rows:
        basis = mark / index - 1
        day.push(at, funding)
        eight.push(at, funding)
        basis_hour.push(at, basis)
        ten.push(at, mark)
        high.push(at, mark)
        low.push(at, mark)
        back.append(mark)
        spread_of_day, spread_of_basis = day.std(), basis_hour.std()
        verdicts = (
            funding > 0.0005 and spread_of_day > 0 and (funding - day.mean()) / spread_of_day > 4,
            abs(oracle / ((bid + ask) / 2) - 1) > 0.003,
            basis_hour.mean() > 0.002,
            ten.std() / ten.mean() > 0.005,
            len(back) == 301 and mark / back[0] - 1 < -0.02,
            ask / bid - 1 > 0.002,
            high.value() / low.value() - 1 > 0.03,
            spread_of_basis > 0 and (basis - basis_hour.mean()) / spread_of_basis > 6,
            eight.mean() > 0.00003,
            abs(index / oracle - 1) > 0.004,
        )
        for i, holds_now in enumerate(verdicts):
            if not holds_now or at - start < warm[i]:
                since[i], fired[i] = 0, False
            elif not since[i]:
                since[i] = at
                if not holds[i]:
                    fired[i] = True
                    count[i] += 1
            elif not fired[i] and at - since[i] >= holds[i]:
                fired[i] = True
                count[i] += 1
    return {rule.name: count[i] for i, rule in enumerate(RULES)}
