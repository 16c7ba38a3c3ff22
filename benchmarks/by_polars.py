"""The rules by polars' rolling expressions, as masks over whole columns: no account, no action that changes a row."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl

from benchmarks.firings import Bounds, Ints, Times, firing_times, load_names
from benchmarks.rules import DAY_S, FAMILIES, HOUR_S, NS, Rule, gap_bps, z_threshold

c = pl.col


def load(folder: Path, rows: int | None) -> pl.DataFrame:
    """The recording as a frame, its first `rows` rows."""
    frame = pl.read_parquet(folder / "recording" / "market.parquet", n_rows=rows).drop("event_ts", "venue")
    return frame.with_columns(c("market").cast(pl.Enum(load_names(folder)))).rechunk()


def with_polars(frame: pl.DataFrame, family: str, bounds: Bounds) -> Times:
    """Firings by polars' rolling expressions; `frame` has `ts`, `market` and the signals, sorted by ts."""
    rules = FAMILIES[family]
    several = frame["market"].n_unique() > 1
    masks = _polars_masks(frame.lazy(), rules, windows=family == "windows10", by="market" if several else None).collect()
    ts, places = frame["ts"].to_numpy(), Places(frame["market"])
    told: Times = {}
    for rule in rules:
        mask = masks[rule.name]
        true = mask.arg_true().to_numpy().astype(np.int64)
        unknown = mask.is_null().arg_true().to_numpy().astype(np.int64) if mask.null_count() else np.empty(0, np.int64)
        told[rule.name] = {
            market: firing_times(ts[own], one, other, hold_ns=rule.hold_ns, bound_ns=rule.bound_ns(bounds))
            for market, own, one, other in places.apart(true, unknown)
        }
    return told


class Places:
    """Rows of interleaved markets told apart: only those of markets in which something is TRUE are looked at."""

    def __init__(self, market: pl.Series) -> None:
        assert isinstance(market.dtype, pl.Enum)
        self.names = market.dtype.categories.to_list()
        self.codes = market.to_physical().to_numpy().astype(np.uint16)
        # A stable sort of small numbers is linear.
        self.order = np.argsort(self.codes, kind="stable") if market.n_unique() > 1 else np.arange(len(market))
        self.ends = np.cumsum(np.bincount(self.codes, minlength=len(self.names)))

    def apart(self, true: Ints, unknown: Ints) -> Iterator[tuple[str, Ints, Ints, Ints]]:
        """(market, its rows, places of TRUE among them, places of UNKNOWN among them) of each market with a TRUE row."""
        of_true, of_unknown = self.codes[true], self.codes[unknown]
        for code in np.unique(of_true).tolist():
            own = self.order[self.ends[code - 1] if code else 0 : self.ends[code]]
            yield (
                self.names[code],
                own,
                np.searchsorted(own, true[of_true == code]),
                np.searchsorted(own, unknown[of_unknown == code]),
            )


def _polars_masks(frame: pl.LazyFrame, rules: tuple[Rule, ...], *, windows: bool, by: str | None) -> pl.LazyFrame:
    """One nullable boolean column a rule: null is UNKNOWN, and polars' `&` is Kleene's. `by` groups the windows, None: one market."""

    def rolling(column: str, what: str, window: str, least: int = 1) -> pl.Expr:
        rolled: pl.Expr = getattr(c(column), f"rolling_{what}_by")("time", window_size=window, min_samples=least)
        return rolled if by is None else rolled.over(by)

    def warm(seconds: int) -> pl.Expr:
        """True once the market's first row is as old as the window."""
        first = c("ts").first() if by is None else c("ts").first().over(by)
        return c("ts") >= first + seconds * NS

    if windows:
        keys = [] if by is None else [by]
        back = frame.select("ts", *keys, before="mark_price").set_sorted("ts")
        frame = frame.with_columns(past=c("ts") - 300 * NS).set_sorted("ts")
        frame = frame.join_asof(back, left_on="past", right_on="ts", by=by, strategy="backward", check_sortedness=False)
    frame = frame.with_columns(time=c("ts").cast(pl.Datetime("ns")), basis=c("mark_price") / c("index_price") - 1)
    # One stage after another: polars does not find common rolling windows inside one stage.
    frame = frame.with_columns(mean=rolling("funding_rate", "mean", "24h"), std=rolling("funding_rate", "std", "24h", 12))
    frame = frame.with_columns(
        z=pl.when((c("std") > 0) & warm(DAY_S)).then((c("funding_rate") - c("mean")) / c("std")),
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
        hour=rolling("basis", "mean", "1h"),
        hour_std=rolling("basis", "std", "1h", 12),
        ten=rolling("mark_price", "std", "10m", 12) / rolling("mark_price", "mean", "10m"),
        spread=rolling("mark_price", "max", "1h") / rolling("mark_price", "min", "1h") - 1,
        eight=rolling("funding_rate", "mean", "8h"),
    )
    masks = [
        z.gt(4) & c("funding_rate").gt(0.0005),
        gap.gt(0.003),
        pl.when(warm(HOUR_S)).then(c("hour").gt(0.002)),
        pl.when(warm(600)).then(c("ten").gt(0.005)),
        (c("mark_price") / c("before") - 1).lt(-0.02),
        (c("ask_price") / c("bid_price") - 1).gt(0.002),
        pl.when(warm(HOUR_S)).then(c("spread").gt(0.03)),
        pl.when(warm(HOUR_S) & (c("hour_std") > 0)).then(((c("basis") - c("hour")) / c("hour_std")).gt(6)),
        pl.when(warm(8 * HOUR_S)).then(c("eight").gt(0.00003)),
        (c("index_price") / c("oracle_price") - 1).abs().gt(0.004),
    ]
    return frame.select(mask.alias(rule.name) for rule, mask in zip(rules, masks, strict=True))
