"""A large recording on disk, made in pieces in bounded memory, and `reefd replay` over it: seconds and peak memory.

    python -m benchmarks.big --rows 100_000_000 --out big
"""

from __future__ import annotations

import argparse
import json
import resource
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import polars as pl
from polars.io.plugins import register_io_source

from benchmarks.measure import Ran, reefd, write_runbooks
from benchmarks.rules import FAMILIES, NS
from benchmarks.series import SIGNALS, START_NS, VENUE, account, signals
from daemon.journal.recording import ROW_GROUP_ROWS, Facts, Recording
from daemon.world.entities import Kind

PIECE_ROWS = 8 * ROW_GROUP_ROWS
MARKET = "BENCH000-USD"
SCHEMA = {
    "ts": pl.Int64, "event_ts": pl.Int64, "venue": pl.String, "market": pl.String, **dict.fromkeys(SIGNALS, pl.Float64),
}  # fmt: skip


def piece(start: int, rows: int, seed: int = 7) -> pl.DataFrame:
    """Rows `start` up to `start + rows` of one market at 1 Hz, as a recording stores them."""
    chance = np.random.default_rng((seed, start))
    ts = START_NS + np.arange(start, start + rows, dtype=np.int64) * NS
    frame = pl.DataFrame({"ts": ts, **signals(rows, chance, origin=start)})
    return frame.select(
        "ts", pl.lit(None, pl.Int64).alias("event_ts"), pl.lit(VENUE).alias("venue"), pl.lit(MARKET).alias("market"), *SIGNALS
    )


def write(folder: Path, rows: int) -> None:
    """A recording of `rows` rows in `folder`; never more than a few pieces in memory."""

    def pieces(
        columns: list[str] | None, predicate: pl.Expr | None, most: int | None, batch: int | None
    ) -> Iterator[pl.DataFrame]:
        assert predicate is None, "a plain sink asks for every row"
        for start in range(0, min(rows, most or rows), PIECE_ROWS):
            frame = piece(start, min(PIECE_ROWS, rows - start))
            yield frame if columns is None else frame.select(columns)

    folder.mkdir(parents=True, exist_ok=True)
    source = register_io_source(pieces, schema=SCHEMA)
    source.sink_parquet(folder / "market.parquet", row_group_size=ROW_GROUP_ROWS, maintain_order=True, metadata=_metadata())


def _metadata() -> dict[str, str]:
    """What a recording of such rows says of itself: taken from a small one, so that the format has one place."""
    with tempfile.TemporaryDirectory() as folder:
        Recording.write(Path(folder), Kind.MARKET, piece(0, 16), Facts(intervals={"funding_rate": {VENUE: 3600 * NS}}))
        told = pl.read_parquet_metadata(Path(folder) / "market.parquet")
    return {name: text for name, text in told.items() if name != "ARROW:schema"}


def replay(folder: Path, family: str) -> Ran:
    """`reefd replay` over the recording with an account."""
    path = folder / "account.yaml"
    path.write_text(account((MARKET,)), encoding="utf-8")
    write_runbooks(FAMILIES[family], folder / "runbooks")
    words = ("--recording", str(folder / "recording"), "--runbooks", str(folder / "runbooks"), "--account", str(path), "--format", "json")
    return reefd("replay", *words, cache_folder=folder / "cache")


def main() -> None:
    """Makes the recording and replays it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.big", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=100_000_000)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--family", choices=sorted(FAMILIES), default="two")
    parser.add_argument("--only-write", action="store_true", help="make the recording, replay nothing")
    told = parser.parse_args()
    started = time.perf_counter()
    write(told.out / "recording", told.rows)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)
    size = (told.out / "recording" / "market.parquet").stat().st_size / 1e6
    print(f"wrote {told.rows:,} rows, {size:,.0f} MB, in {time.perf_counter() - started:.1f} s; peak memory {peak:,.0f} MB", flush=True)
    if told.only_write:
        return
    ran = replay(told.out, told.family)
    report = json.loads(ran.stdout)
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in report["seconds"].items())
    rate = report["rows"] / report["seconds"]["replay"] / 1e6
    firings = len(report["episodes"])
    print(f"reefd replay: {ran.wall_s:.1f} s ({phases}), {rate:.2f} M rows/s, {firings} firings; peak memory {ran.rss_mb:,.0f} MB")


if __name__ == "__main__":
    main()
