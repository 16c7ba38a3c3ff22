"""The rules by pandas' time-based rolling windows, as masks over whole columns: as `by_polars.py`, in one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks.firings import Bounds, Times, firing_times, load_columns, load_names
from benchmarks.rules import DAY_S, FAMILIES, HOUR_S, NS, Rule, gap_bps, z_threshold

Flags = npt.NDArray[np.bool_]


def load(folder: Path, rows: int | None) -> pd.DataFrame:
    """The columns of a series as a frame, its first `rows` rows."""
    columns = load_columns(folder, rows)
    columns["market"] = pd.Categorical.from_codes(columns["market"], list(load_names(folder)))
    return pd.DataFrame(columns)


def with_pandas(frame: pd.DataFrame, family: str, bounds: Bounds) -> Times:
    """Firings by pandas' time-based rolling windows; `frame` has `ts`, `market` and the signals, sorted by ts."""
    rules = FAMILIES[family]
    several = frame["market"].nunique() > 1
    parts = frame.groupby("market", observed=True, sort=False) if several else [(str(frame["market"].iloc[0]), frame)]
    told: Times = {rule.name: {} for rule in rules}
    for market, part in parts:
        ts = part["ts"].to_numpy()
        masks = _pandas_masks(part.set_index(pd.DatetimeIndex(ts.view("datetime64[ns]"))), ts, rules, windows=family == "windows10")
        for rule, (true, unknown) in zip(rules, masks, strict=False):
            times = firing_times(ts, np.flatnonzero(true), np.flatnonzero(unknown), hold_ns=rule.hold_ns, bound_ns=rule.bound_ns(bounds))
            told[rule.name][str(market)] = times
    return told


def _pandas_masks(frame: pd.DataFrame, ts: npt.NDArray[np.int64], rules: tuple[Rule, ...], *, windows: bool) -> list[tuple[Flags, Flags]]:
    """(TRUE, UNKNOWN) row by row of each rule."""
    age = ts - ts[0]
    day = frame["funding_rate"].rolling("24h", min_periods=12)
    z = _pandas_zscore(frame["funding_rate"], day, age >= DAY_S * NS)
    high = frame["funding_rate"].to_numpy() > 0.0005
    gap = (frame["oracle_price"] / ((frame["bid_price"] + frame["ask_price"]) / 2) - 1).abs().to_numpy()
    never = np.zeros(len(ts), np.bool_)
    if not windows:
        masks = []
        for level in range((len(rules) + 1) // 2):
            masks.append(((z > z_threshold(level)) & high, np.isnan(z) & high))
            masks.append((gap > gap_bps(level) / 10_000, never))
        return masks

    def judged(values: Any, bound: float, warm_s: int = 0) -> tuple[Flags, Flags]:
        known = np.asarray(values)
        unknown = (age < warm_s * NS) | np.isnan(known)
        return (known > bound) & ~unknown, unknown

    mark, basis = frame["mark_price"], frame["mark_price"] / frame["index_price"] - 1
    hour, hour_of_mark, ten = basis.rolling("1h", min_periods=12), mark.rolling("1h"), mark.rolling("10min")
    prices = mark.to_numpy()
    back = np.searchsorted(ts, ts - 300 * NS, side="right") - 1
    change = np.where(back >= 0, prices / prices[np.maximum(back, 0)] - 1, np.nan)
    return [
        ((z > 4) & high, np.isnan(z) & high),
        (gap > 0.003, never),
        judged(basis.rolling("1h").mean(), 0.002, HOUR_S),
        judged(mark.rolling("10min", min_periods=12).std() / ten.mean(), 0.005, 600),
        judged(-change, 0.02),
        judged(frame["ask_price"] / frame["bid_price"] - 1, 0.002),
        judged(hour_of_mark.max() / hour_of_mark.min() - 1, 0.03, HOUR_S),
        judged(_pandas_zscore(basis, hour, age >= HOUR_S * NS), 6.0),
        judged(frame["funding_rate"].rolling("8h").mean(), 0.00003, 8 * HOUR_S),
        judged((frame["index_price"] / frame["oracle_price"] - 1).abs(), 0.004),
    ]


def _pandas_zscore(values: pd.Series[float], window: Any, warm: Flags) -> npt.NDArray[np.float64]:
    deviation = window.std().to_numpy()
    mean = window.mean().to_numpy()
    known = warm & (deviation > 0)
    return np.where(known, (values.to_numpy() - mean) / np.where(known, deviation, 1.0), np.nan)
