"""Counts since the start (floor 7), as a metrics endpoint shows them: durations in buckets, and what became of writes, runs, messages.

    decisions = Durations(); decisions.note(350_000); decisions.stats("decision_seconds")     # {"decision_seconds_bucket.0.0005": 1.0, ...}
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from daemon.engine.records import ActionFinished, Record, RunFinished, RunRefused
from daemon.units import NS

BOUNDS_S = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)


class Durations:
    """A histogram of durations; a duration counts in the first bucket whose bound it does not exceed."""

    def __init__(self, bounds_s: Sequence[float] = BOUNDS_S) -> None:
        self._bounds_ns = [round(bound * NS) for bound in bounds_s]
        self._bounds_s = tuple(bounds_s)
        self._counts = [0] * (len(bounds_s) + 1)
        self._sum_ns = 0

    def note(self, took_ns: int) -> None:
        """Count one duration, ns."""
        self._counts[bisect_left(self._bounds_ns, took_ns)] += 1
        self._sum_ns += took_ns

    def stats(self, name: str) -> dict[str, float]:
        """Cumulative buckets, their count and their sum in seconds, as keys below `name`."""
        told: dict[str, float] = {}
        total = 0
        for bound, count in zip(self._bounds_s, self._counts, strict=False):
            total += count
            told[f"{name}_bucket.{bound:g}"] = float(total)
        return {**told, f"{name}_count": float(total + self._counts[-1]), f"{name}_sum": self._sum_ns / NS}


class Tally:
    """What became of writes and runs since the start."""

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()

    def follow(self, records: Sequence[Record]) -> None:
        """Count what these records end."""
        for record in records:
            match record:
                case ActionFinished():
                    self._counts[f"actions.{record.outcome.status}"] += 1
                case RunFinished() | RunRefused():
                    self._counts[f"runs.{record.status}"] += 1
                case _:
                    pass

    def stats(self) -> Mapping[str, float]:
        """The counts by `actions.<status>` and `runs.<status>`."""
        return {name: float(count) for name, count in self._counts.items()}
