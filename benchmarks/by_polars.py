"""The rules by polars' rolling expressions, as masks over whole columns: no account, no action that changes a row."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.firings import Bounds, Times, firing_times
from benchmarks.rules import DAY_S, FAMILIES, HOUR_S, NS, Rule, gap_bps, z_threshold

c = pl.col


def load(folder: Path, rows: int | None) -> pl.DataFrame:
    """The recording as a frame, its first `rows` rows."""
    frame = pl.read_parquet(folder / "recording" / "market.parquet", n_rows=rows).drop("event_ts", "venue")
    return frame.with_columns(c("market").cast(pl.Categorical)).rechunk()


def with_polars(frame: pl.DataFrame, family: str, bounds: Bounds) -> Times:
    """Firings by polars' rolling expressions; `frame` has `ts`, `market` and the signals, sorted by ts. Markets run in parallel."""
    rules = FAMILIES[family]
    parts = frame.partition_by("market") if frame["market"].n_unique() > 1 else [frame]
    asked = [_polars_masks(part.lazy(), rules, windows=family == "windows10") for part in parts]
    told: Times = {rule.name: {} for rule in rules}
    for part, masks in zip(parts, pl.collect_all(asked), strict=True):
        ts, market = part["ts"].to_numpy(), str(part["market"][0])
        for rule in rules:
            mask = masks[rule.name]
            unknown = mask.is_null().arg_true().to_numpy().astype(np.int64) if mask.null_count() else np.empty(0, np.int64)
            true = mask.arg_true().to_numpy().astype(np.int64)
            told[rule.name][market] = firing_times(ts, true, unknown, hold_ns=rule.hold_ns, bound_ns=rule.bound_ns(bounds))
    return told


def _polars_masks(frame: pl.LazyFrame, rules: tuple[Rule, ...], *, windows: bool) -> pl.LazyFrame:
    """One nullable boolean column a rule: null is UNKNOWN, and polars' `&` is Kleene's."""
    if windows:
        back = frame.select("ts", before="mark_price").set_sorted("ts")
        frame = frame.with_columns(past=c("ts") - 300 * NS).set_sorted("ts")
        frame = frame.join_asof(back, left_on="past", right_on="ts", strategy="backward")
    frame = frame.with_columns(time=c("ts").cast(pl.Datetime("ns")), basis=c("mark_price") / c("index_price") - 1)
    # One stage after another: polars does not find common rolling windows inside one stage.
    frame = frame.with_columns(mean=_rolling("funding_rate", "mean", "24h"), std=_rolling("funding_rate", "std", "24h", 12))
    frame = frame.with_columns(
        z=pl.when((c("std") > 0) & _warm(DAY_S)).then((c("funding_rate") - c("mean")) / c("std")),
        gap=(c("oracle_price") / ((c("bid_price") + c("ask_price")) / 2) - 1).abs(),
    )
    z, gap = c("z"), c("gap")
    if not windows:
        masks = []
        for level in range((len(rules) + 1) // 2):
            masks.append(z.gt(z_threshold(level)) & c("funding_rate").gt(0.0005))
            masks.append(gap.gt(gap_bps(level) / 10_000))
        return frame.select(mask.alias(rule.name) for rule, mask in zip(rules, masks, strict=False))
    frame = frame.with_columns(
        hour=_rolling("basis", "mean", "1h"),
        hour_std=_rolling("basis", "std", "1h", 12),
        ten=_rolling("mark_price", "std", "10m", 12) / _rolling("mark_price", "mean", "10m"),
        spread=_rolling("mark_price", "max", "1h") / _rolling("mark_price", "min", "1h") - 1,
        eight=_rolling("funding_rate", "mean", "8h"),
    )
    masks = [
        z.gt(4) & c("funding_rate").gt(0.0005),
        gap.gt(0.003),
        pl.when(_warm(HOUR_S)).then(c("hour").gt(0.002)),
        pl.when(_warm(600)).then(c("ten").gt(0.005)),
        (c("mark_price") / c("before") - 1).lt(-0.02),
        (c("ask_price") / c("bid_price") - 1).gt(0.002),
        pl.when(_warm(HOUR_S)).then(c("spread").gt(0.03)),
        pl.when(_warm(HOUR_S) & (c("hour_std") > 0)).then(((c("basis") - c("hour")) / c("hour_std")).gt(6)),
        pl.when(_warm(8 * HOUR_S)).then(c("eight").gt(0.00003)),
        (c("index_price") / c("oracle_price") - 1).abs().gt(0.004),
    ]
    return frame.select(mask.alias(rule.name) for rule, mask in zip(rules, masks, strict=True))


def _rolling(column: str, what: str, window: str, least: int = 1) -> pl.Expr:
    function = getattr(c(column), f"rolling_{what}_by")
    rolled: pl.Expr = function("time", window_size=window, min_samples=least)
    return rolled


def _warm(seconds: int) -> pl.Expr:
    """True once the market's first row is as old as the window."""
    return c("ts") >= c("ts").first() + seconds * NS
