"""The goals of the performance page, each with what was measured: reached, short by how much, or not measured and why."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """`measured` and `wanted` in the same unit; `most`: at most, else at least. None: not measured, and `why` says why."""

    what: str
    wanted: float
    measured: float | None
    unit: str
    most: bool = False
    why: str = ""

    @property
    def reached(self) -> bool | None:
        """Whether it is; None when it was not measured."""
        if self.measured is None:
            return None
        return self.measured <= self.wanted if self.most else self.measured >= self.wanted

    def verdict(self) -> str:
        """`reached`, `short by 2.4x`, or `not measured: why`."""
        if self.measured is None:
            return f"not measured: {self.why}"
        if self.reached:
            return "reached"
        factor = self.measured / self.wanted if self.most else self.wanted / self.measured
        return f"short by {factor:.2f}x"

    def line(self) -> str:
        """For people."""
        found = "-" if self.measured is None else f"{self.measured:,.2f}"
        return f"  {self.what:<74} {'<=' if self.most else '>='} {self.wanted:>6,.2f} {self.unit:<12} {found:>10}  {self.verdict()}"

    def as_json(self) -> dict[str, object]:
        """For programs."""
        return {
            "what": self.what, "wanted": self.wanted, "measured": self.measured, "unit": self.unit,
            "at_most": self.most, "reached": self.reached, "verdict": self.verdict(),
        }  # fmt: skip


def goals(replay: Mapping[str, Mapping[str, Mapping[str, Any]]], observation: Mapping[str, Mapping[str, float]]) -> Iterator[Goal]:
    """Goals from `replay[case][contender]` (figures of `Measured.as_json`) and `observation[family]`."""

    def rate(case: str, contender: str) -> float | None:
        told = replay.get(case, {}).get(contender)
        return None if told is None else float(told["rows_per_s"])

    def ratio(case: str, contender: str, ours: str = "reefd") -> float | None:
        mine, theirs = rate(case, ours), rate(case, contender)
        return None if mine is None or theirs is None else mine / theirs

    absent, wanting = "its case did not run", "it did not run; make bench PEERS=all"
    two, ten, fifty = "ev1/two", "ev1/shared10", "ev1/shared50"
    yield Goal(what="2 rules, account: against the njit loop with every condition at every row", wanted=1.0, unit="x",
               measured=ratio(two, "njit-eager"), why=absent)  # fmt: skip
    yield Goal(what="2 rules, account: against the njit loop that skips what cannot matter", wanted=1.0, unit="x",
               measured=ratio(two, "njit"), why=absent)  # fmt: skip
    yield Goal(what="2 rules, account: against polars, 1 thread", wanted=2.5, unit="x", measured=ratio(two, "polars-1"), why=absent)
    yield Goal(what="2 rules, account: against nautilus_trader run()", wanted=100.0, unit="x", measured=ratio(two, "nautilus"), why=wanting)
    yield Goal(what="10 rules: against polars, 1 thread", wanted=5.0, unit="x", measured=ratio(ten, "polars-1"), why=absent)
    fast = rate(fifty, "reefd")
    yield Goal(what="50 rules", wanted=4.0, unit="M rows/s", measured=None if fast is None else fast / 1e6, why=absent)
    yield _loading(replay.get(two, {}).get("reefd"))
    one, many = rate(two, "reefd"), rate("ev500/two", "reefd")
    yield Goal(what="growth: rows/s at 1 market over rows/s at 500", wanted=3.0, unit="x", most=True,
               measured=None if one is None or many is None else one / many, why=absent)  # fmt: skip
    few = rate(ten, "reefd")
    yield Goal(what="growth: time a row at 50 rules over 10 rules (linear is 5)", wanted=5.0, unit="x", most=True,
               measured=None if few is None or fast is None else few / fast, why=absent)  # fmt: skip
    for family, rules, bound in (("shared10", 10, 15.0), ("shared50", 50, 60.0)):
        told = observation.get(family)
        p50, tail = (None, None) if told is None else (told["p50"], told["p99"] / told["p50"])
        yield Goal(what=f"live: one observation, {rules} rules, p50", wanted=bound, unit="us", most=True,
                   measured=p50, why="no observation was timed")  # fmt: skip
        yield Goal(what=f"live: one observation, {rules} rules, p99 over p50", wanted=5.0, unit="x", most=True,
                   measured=tail, why="no observation was timed")  # fmt: skip


def _loading(told: Mapping[str, Any] | None) -> Goal:
    share = None
    if told is not None:
        phases = told["phases"]
        share = 100.0 * phases["load"] / sum(phases.values())
    return Goal(
        what="2 rules from Parquet, end to end with report: share of loading",
        wanted=30.0,
        unit="%",
        most=True,
        measured=share,
        why="no replay",
    )
