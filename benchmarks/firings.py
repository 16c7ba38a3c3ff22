"""When a rule fired: from its truth row by row to times of firing, and the comparison of what contenders found.

The trigger of `docs/runbooks.md`: a hold counts from the first TRUE row, only while the verdict is known TRUE (UNKNOWN and stale
readings pause it, FALSE resets it), and a hold that is due between two rows fires at its due time. Needs numpy only.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Columns = Mapping[str, npt.NDArray[Any]]
Bounds = Mapping[str, int]
Times = dict[str, dict[str, Ints]]
"""Times of firing (ns) by rule and market."""
Found = dict[str, list[tuple[int, str]]]
"""By rule: (time of firing in ms, market), sorted. Milliseconds, since that is what a report says."""
MS = 1_000_000
SHOWN = 5  # differences named in a message


def firing_times(ts: Ints, true_rows: Ints, unknown_rows: Ints, *, hold_ns: int, bound_ns: int) -> Ints:
    """Times of firing (ns) of one rule over one market's rows.

    `true_rows` and `unknown_rows` are sorted indices into `ts`; every other row is FALSE. A verdict stands `bound_ns` after its row.
    """
    if not len(true_rows):
        return np.empty(0, np.int64)
    between = np.diff(true_rows) - 1
    if len(unknown_rows):
        between = between - np.diff(np.searchsorted(unknown_rows, true_rows))
    begins = np.concatenate(([True], between > 0))
    starts = np.flatnonzero(begins)
    if not hold_ns:
        return ts[true_rows[starts]]
    stretch = np.cumsum(begins) - 1
    following = np.minimum(true_rows + 1, len(ts) - 1)
    lasts = ts[following] - ts[true_rows]
    counted = np.minimum(lasts, bound_ns + 1)
    before = np.cumsum(counted) - counted
    before -= before[starts][stretch]
    left = hold_ns - before
    fires = (left <= 0) | ((left <= bound_ns) & (left < lasts))
    at = ts[true_rows] + np.maximum(left, 0)
    chosen = np.flatnonzero(fires)
    first = np.unique(stretch[chosen], return_index=True)[1]
    return at[chosen[first]]


def found(times: Times) -> Found:
    """What a contender reports, from times of firing (ns) by rule and market."""
    return {
        rule: sorted((int(at) // MS, market) for market, all_times in by_market.items() for at in all_times)
        for rule, by_market in times.items()
    }


def summary(told: Found) -> dict[str, dict[str, object]]:
    """Count, first, last and a hash of the sorted firings, by rule."""
    return {
        rule: {
            "count": len(firings),
            "first_ms": firings[0][0] if firings else None,
            "last_ms": firings[-1][0] if firings else None,
            "sha256": hashlib.sha256("\n".join(f"{at} {market}" for at, market in firings).encode()).hexdigest()[:16],
        }
        for rule, firings in told.items()
    }


def until(told: Found, last_ms: int) -> Found:
    """Only what fired by then: what a contender that read fewer rows can know."""
    return {rule: [firing for firing in firings if firing[0] <= last_ms] for rule, firings in told.items()}


def differences(name: str, one: Found, other_name: str, other: Found, rules: Sequence[str]) -> list[str]:
    """One line for each rule of `rules` on which two contenders disagree."""
    lines = []
    for rule in rules:
        mine, theirs = one.get(rule, []), other.get(rule, [])
        if mine == theirs:
            continue
        only, missing = sorted(set(mine) - set(theirs)), sorted(set(theirs) - set(mine))
        alone = f"only {name}: {_shown(only)}; only {other_name}: {_shown(missing)}"
        lines.append(f"{rule}: {name} found {len(mine)}, {other_name} {len(theirs)}; {alone}")
    return lines


def _shown(firings: Sequence[tuple[int, str]]) -> str:
    named = ", ".join(f"{market} at {at} ms" for at, market in firings[:SHOWN])
    return f"{named}{', ...' if len(firings) > SHOWN else ''}" or "none"


def load_columns(folder: Path, rows: int | None = None) -> dict[str, npt.NDArray[Any]]:
    """The columns of a series by name, their first `rows` rows: `ts` int64 ns, `market` int32, signals float64."""
    return {path.stem: np.load(path)[:rows] for path in sorted((folder / "columns").glob("*.npy"))}


def load_names(folder: Path) -> tuple[str, ...]:
    """The markets of a series, in the order of its `market` column."""
    return tuple(json.loads((folder / "series.json").read_text(encoding="utf-8"))["markets"])


def load(folder: Path, rows: int | None) -> tuple[Columns, tuple[str, ...]]:
    """Columns and markets of a series, its first `rows` rows."""
    return load_columns(folder, rows), load_names(folder)
