"""Synthetic market series for the benchmarks, seeded: every run sees the same rows.

`regular` has one row a step for each market, all markets at the same instants; `jittered` has uneven steps and gaps. Both have funding
spikes, oracle gaps, falls, wide books and basis shifts in them, so that every rule fires sometimes, but rarely.

    python -m benchmarks.series FOLDER --markets 1 --rows 5000000     # recording/, columns/*.npy, accounts, series.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import polars as pl

from benchmarks.rules import BOUNDS_S, NS
from daemon.journal.recording import Facts, Recording
from daemon.world.entities import Kind

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
MS_NS = 1_000_000
VENUE = "dydx"
SIGNALS = tuple(BOUNDS_S)
SPAN_S = 100_000  # a market's history is at least this long, so that windows of a day become warm
HELD = 3  # markets in which the simulated account has a position, where there are several
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Rows sorted by ts, then market: `ts` int64[rows] ns UTC; `market` int32[rows] into `names`; signals float64[rows] by name.

    `bounds` is how long (ns) a reading of each signal stays fresh, `holds` what the recording declares of it (ns).
    """

    ts: Ints
    market: npt.NDArray[np.int32]
    names: tuple[str, ...]
    columns: dict[str, Floats]
    step_s: float

    def __len__(self) -> int:
        """Number of rows."""
        return len(self.ts)

    @property
    def holds(self) -> dict[str, int]:
        """Declared cadence (ns) of signals that this series brings less often than the catalogue's bound allows; jittered: none."""
        lasts = int(3 * self.step_s * NS)
        return {name: lasts for name, bound in BOUNDS_S.items() if self.step_s >= 1 and lasts > bound * NS}

    @property
    def bounds(self) -> dict[str, int]:
        """How long a reading of each signal stays fresh, ns."""
        return {name: max(bound * NS, self.holds.get(name, 0)) for name, bound in BOUNDS_S.items()}


def regular(markets: int, rows: int, seed: int = 7) -> Series:
    """`rows` rows in all, one a step for each market; a step is 1 s where that makes histories of `SPAN_S`, else longer."""
    each = rows // markets
    step_s = 1 if markets == 1 else max(1, SPAN_S // each)
    times = START_NS + np.arange(each, dtype=np.int64) * (step_s * NS)
    parts = [signals(each, np.random.default_rng((seed, number)), alone=markets == 1) for number in range(markets)]
    return Series(
        ts=np.repeat(times, markets),
        market=np.tile(np.arange(markets, dtype=np.int32), each),
        names=_names(markets),
        columns={name: np.stack([part[name] for part in parts], axis=1).reshape(-1) for name in SIGNALS},
        step_s=step_s,
    )


def jittered(markets: int, rows: int, seed: int = 11, step_ms: int = 15_000) -> Series:
    """Uneven steps of 5 ms to twice `step_ms` and gaps of up to three hours; every market at times of its own. For correctness only."""
    each = rows // markets
    times, columns = [], {name: [] for name in SIGNALS}  # type: ignore[var-annotated]
    for number in range(markets):
        chance = np.random.default_rng((seed, number))
        steps = chance.integers(5, 2 * step_ms, each)
        steps += np.where(chance.random(each) < 1 / 500, chance.integers(20_000, 10_800_000, each), 0)
        times.append(START_NS + np.cumsum(steps) * MS_NS)
        for name, values in signals(each, chance, fall=(4, 12)).items():
            columns[name].append(values)
    ts, market = np.concatenate(times), np.repeat(np.arange(markets, dtype=np.int32), each)
    order = np.lexsort((market, ts))
    return Series(
        ts=ts[order],
        market=market[order],
        names=_names(markets),
        columns={name: np.concatenate(parts)[order] for name, parts in columns.items()},
        step_s=0,
    )


def _names(markets: int) -> tuple[str, ...]:
    return tuple(f"BENCH{number:03d}-USD" for number in range(markets))


def signals(
    rows: int, chance: np.random.Generator, *, fall: tuple[int, int] = (60, 150), origin: int | None = None, alone: bool = True
) -> dict[str, Floats]:
    """One market's signals, float64[rows]: slow waves, noise, and events at random places; falls last `fall` rows, least and most.

    `origin` is the place of the first row in a series made piece by piece, so that the waves go on; None: a series of its own.
    A series that stands `alone` has some of every event, however short; one among many has as many a row as a long one.
    """
    phase = chance.random(2) * 2 * np.pi if origin is None else np.zeros(2)
    step = np.arange(rows) + (origin or 0)
    log = 0.008 * np.sin(step * (2 * np.pi / 233_000) + phase[0]) + 0.005 * np.sin(step * (2 * np.pi / 9_000) + phase[1])
    log += chance.normal(0.0, 2e-5, rows)
    for start, length, depth in _events(rows, 60_000, fall, (0.015, 0.05), chance, alone):
        # Down within `length` rows, back within nine times that.
        down, back = slice(start, start + length), slice(start + length, start + 10 * length)
        log[down] -= np.linspace(0.0, depth, length)[: len(log[down])]
        log[back] -= np.linspace(depth, 0.0, 9 * length)[: len(log[back])]
    mark = 100.0 * np.exp(log)
    half = np.full(rows, 2e-4)
    for start, length, depth in _events(rows, 60_000, (5, 120), (1e-3, 4e-3), chance, alone):
        half[start : start + length] += depth
    basis = chance.normal(2e-4, 1e-4, rows)
    for start, length, depth in _events(rows, 80_000, (200, 6_000), (1.5e-3, 6e-3), chance, alone):
        basis[start : start + length] += depth
    oracle = np.roll(mark, 3)
    oracle[:3] = mark[:3]
    for start, length, depth in _events(rows, 100_000, (3, 60), (1e-3, 2e-2), chance, alone):
        oracle[start : start + length] *= 1.0 + depth
    funding = -6e-5 + np.abs(chance.normal(0.0, 1e-5, rows))
    for start, length, depth in _events(rows, 40_000, (60, 4_000), (4e-4, 2.4e-3), chance, alone):
        funding[start : start + length] += depth
    return {
        "bid_price": mark * (1.0 - half),
        "ask_price": mark * (1.0 + half),
        "mark_price": mark,
        "index_price": mark * (1.0 - basis),
        "oracle_price": oracle,
        "funding_rate": funding,
    }


def _events(
    rows: int, every: int, lengths: tuple[int, int], depths: tuple[float, float], chance: np.random.Generator, alone: bool
) -> list[tuple[int, int, float]]:
    """(first row, rows, depth) of events that come on average every `every` rows; in a series that stands `alone` at least about six."""
    if alone:
        every = max(1, min(every, rows // 6))
    count = max(1, rows // every) if alone else int(chance.poisson(rows / every))
    starts = np.sort(chance.integers(0, rows, count))
    longest = max(2, min(lengths[1], every // 3))
    spans = chance.integers(min(lengths[0], longest - 1), longest, count)
    return list(zip(starts.tolist(), spans.tolist(), chance.uniform(*depths, count).tolist(), strict=True))


def write(series: Series, folder: Path) -> None:
    """The series as a recording, as one .npy a column for contenders that read no Parquet, and `series.json` with what else they need."""
    columns = folder / "columns"
    columns.mkdir(parents=True, exist_ok=True)
    np.save(columns / "ts.npy", series.ts)
    np.save(columns / "market.npy", series.market)
    for name, values in series.columns.items():
        np.save(columns / f"{name}.npy", values)
    names = pl.Series(series.names, dtype=pl.Categorical)
    frame = pl.DataFrame(
        {
            "ts": series.ts,
            "venue": pl.repeat(VENUE, len(series), eager=True),
            "market": names.gather(series.market),
            **series.columns,
        }
    )
    facts = Facts(holds={name: {VENUE: lasts} for name, lasts in series.holds.items()}, intervals={"funding_rate": {VENUE: 3600 * NS}})
    Recording.write(folder / "recording", Kind.MARKET, frame, facts)
    (folder / "account.yaml").write_text(account(series.names), encoding="utf-8")
    (folder / "flat.yaml").write_text(account(series.names, held=0), encoding="utf-8")
    told = {
        "rows": len(series), "markets": list(series.names), "step_s": series.step_s, "bounds": series.bounds,
        "last_ms": int(series.ts[-1]) // MS_NS,
    }  # fmt: skip
    (folder / "series.json").write_text(json.dumps(told), encoding="utf-8")


def account(names: tuple[str, ...], *, held: int = HELD) -> str:
    """An account file with a long position of 100 in the first `held` markets, far from liquidation."""
    markets = names[:held]
    positions = ", ".join(f"{{market: {name}, size: 100, entry_price: 100}}" for name in markets)
    margins = ", ".join(f"{name}: {{initial_margin: 5%, maintenance_margin: 3%}}" for name in markets)
    return (
        f"venue: {VENUE}\nmodel: dydx-v4\ncollateral: {{USDC: {2_000 * max(1, len(markets))} USD}}\n"
        f"positions: [{positions}]\nmarkets: {{{margins}}}\nvalued_at: [oracle_price, mark_price]\n"
    )


def main() -> None:
    """Makes a series on disk."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--markets", type=int, default=1)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--jittered", action="store_true")
    told = parser.parse_args()
    write((jittered if told.jittered else regular)(told.markets, told.rows), told.folder)


if __name__ == "__main__":
    main()
