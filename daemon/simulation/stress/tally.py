"""Paths' ends as columns (floor 5): filled by each worker in any order, merged into one that does not depend on who filled it.

tally = Tally(); tally.add(end)
whole = Tally.merged([first, second])       # in the order of path numbers
whole.having.pnl_usd                        # float64[paths], USD
whole.weights                               # float64[paths], 1 each when every path was drawn plainly
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.outcome import PathEnd, Side

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

FLOATS = (
    "pnl_usd", "margin_ratio_max", "worst_equity_usd", "needed_usd", "fees_usd", "slippage_usd", "funding_usd", "liquidation_usd",
    "transfer_fees_usd", "stuck_usd", "turnover_usd", "weight_log",
)  # fmt: skip
INTS = ("liquidated_at", "in_80_at", "liquidations")


@dataclass(frozen=True, slots=True, kw_only=True)
class SideColumns:
    """One side of every path, a value each; the fields are those of `outcome.Side`."""

    pnl_usd: Floats
    margin_ratio_max: Floats
    worst_equity_usd: Floats
    needed_usd: Floats
    fees_usd: Floats
    slippage_usd: Floats
    funding_usd: Floats
    liquidation_usd: Floats
    transfer_fees_usd: Floats
    stuck_usd: Floats
    turnover_usd: Floats
    weight_log: Floats  # log likelihood ratio, stopped at this side's first liquidation
    liquidated_at: Ints
    in_80_at: Ints
    liquidations: Ints
    first_account: Ints  # index into `Tally.accounts`, -1 none

    @property
    def weights(self) -> Floats:
        """float64[paths]: likelihood ratios for what is known at this side's first liquidation; 1 for every path of a plain sample."""
        weights: Floats = np.exp(self.weight_log)
        return weights

    @property
    def costs_usd(self) -> Floats:
        """Fees, slippage and transfer fees, USD >= 0."""
        return self.fees_usd + self.slippage_usd + self.transfer_fees_usd


class _Columns:
    """One side while it grows."""

    def __init__(self) -> None:
        self.floats = {name: array("d") for name in FLOATS}
        self.ints = {name: array("q") for name in (*INTS, "first_account")}

    def add(self, side: Side, account: int) -> None:
        for name, column in self.floats.items():
            column.append(getattr(side, name))
        for name in INTS:
            self.ints[name].append(getattr(side, name))
        self.ints["first_account"].append(account)

    def frozen(self) -> SideColumns:
        f = {name: np.array(column, np.float64) for name, column in self.floats.items()}
        i = {name: np.array(column, np.int64) for name, column in self.ints.items()}
        return SideColumns(
            pnl_usd=f["pnl_usd"],
            margin_ratio_max=f["margin_ratio_max"],
            worst_equity_usd=f["worst_equity_usd"],
            needed_usd=f["needed_usd"],
            fees_usd=f["fees_usd"],
            slippage_usd=f["slippage_usd"],
            funding_usd=f["funding_usd"],
            liquidation_usd=f["liquidation_usd"],
            transfer_fees_usd=f["transfer_fees_usd"],
            stuck_usd=f["stuck_usd"],
            turnover_usd=f["turnover_usd"],
            weight_log=f["weight_log"],
            liquidated_at=i["liquidated_at"],
            in_80_at=i["in_80_at"],
            liquidations=i["liquidations"],
            first_account=i["first_account"],
        )


class Tally:
    """A collection of `PathEnd`s as columns, about 300 bytes a path; picklable."""

    def __init__(self) -> None:
        self.accounts: list[str] = []  # ids, as they were first liquidated
        self._numbers = array("q")
        self._rows = array("q")
        self._weights_log = array("d")
        self._tilted = array("b")
        self._without = _Columns()
        self._having = _Columns()
        self._runs: dict[str, array[int]] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def add(self, end: PathEnd) -> None:
        """Takes one path in; each number once over all parts of a tally."""
        for side, columns in ((end.without, self._without), (end.having, self._having)):
            columns.add(side, self._account(side.first_account))
        for runbook in end.having.runs:
            if runbook not in self._runs:
                self._runs[runbook] = array("q", bytes(8 * len(self._numbers)))
        for runbook, column in self._runs.items():
            column.append(end.having.runs.get(runbook, 0))
        self._numbers.append(end.number)
        self._rows.append(end.rows)
        self._weights_log.append(end.weight_log)
        self._tilted.append(end.tilted)

    def _account(self, name: str) -> int:
        if not name:
            return -1
        if name not in self.accounts:
            self.accounts.append(name)
        return self.accounts.index(name)

    @property
    def numbers(self) -> Ints:
        """int64[paths]: path numbers."""
        return np.array(self._numbers, np.int64)

    @property
    def rows(self) -> int:
        """Rows played over all paths."""
        return sum(self._rows)

    @property
    def tilted(self) -> NDArray[np.bool_]:
        """bool[paths]: drawn from the tilted law."""
        return np.array(self._tilted, np.bool_)

    @property
    def weights_log(self) -> Floats:
        """float64[paths]: log likelihood ratios at the horizon."""
        return np.array(self._weights_log, np.float64)

    @property
    def weights(self) -> Floats:
        """float64[paths]: likelihood ratios at the horizon, for any figure; 1 for every path of a plain sample."""
        weights: Floats = np.exp(self.weights_log)
        return weights

    @property
    def without(self) -> SideColumns:
        """What happened without the runbooks."""
        return self._without.frozen()

    @property
    def having(self) -> SideColumns:
        """What happened with them."""
        return self._having.frozen()

    @property
    def runs(self) -> Mapping[str, Ints]:
        """int64[paths] by runbook, in alphabetic order: how often it ran."""
        return {name: np.array(self._runs[name], np.int64) for name in sorted(self._runs)}

    @classmethod
    def merged(cls, parts: Sequence[Tally]) -> Tally:
        """The parts as one, in the order of path numbers; whoever filled them, the answer is the same. A number in two parts is a fault."""
        numbers = np.concatenate([part.numbers for part in parts]) if parts else np.empty(0, np.int64)
        order = np.argsort(numbers, kind="stable")
        whole = cls()
        ordered = numbers[order]
        assert not np.any(ordered[1:] == ordered[:-1]), "a path came back twice"
        whole.accounts = sorted({name for part in parts for name in part.accounts})
        whole._numbers = array("q", ordered.tobytes())
        whole._rows = _joined("q", [part._rows for part in parts], order)
        whole._weights_log = _joined("d", [part._weights_log for part in parts], order)
        whole._tilted = _joined("b", [part._tilted for part in parts], order)
        for mine, theirs in ((whole._without, [p._without for p in parts]), (whole._having, [p._having for p in parts])):
            for name in FLOATS:
                mine.floats[name] = _joined("d", [columns.floats[name] for columns in theirs], order)
            for name in INTS:
                mine.ints[name] = _joined("q", [columns.ints[name] for columns in theirs], order)
            renamed = [
                _renamed(columns.ints["first_account"], p.accounts, whole.accounts) for columns, p in zip(theirs, parts, strict=True)
            ]
            mine.ints["first_account"] = _joined("q", renamed, order)
        for runbook in sorted({name for part in parts for name in part._runs}):
            columns = [part._runs.get(runbook, array("q", bytes(8 * len(part)))) for part in parts]
            whole._runs[runbook] = _joined("q", columns, order)
        return whole

    def replaced(self, other: Tally) -> Tally:
        """This tally with what `other` says about the paths it has: a runbook left out is played only where it had run."""
        theirs = other.numbers
        kept = ~np.isin(self.numbers, theirs)
        assert int(kept.sum()) + len(theirs) == len(self), "a path that this tally does not have"
        return Tally.merged([self.only(kept), other])

    def only(self, kept: NDArray[np.bool_]) -> Tally:
        """The paths of a mask, bool[paths]."""
        part = Tally()
        order = np.flatnonzero(kept)
        part.accounts = list(self.accounts)
        part._numbers = _joined("q", [self._numbers], order)
        part._rows = _joined("q", [self._rows], order)
        part._weights_log = _joined("d", [self._weights_log], order)
        part._tilted = _joined("b", [self._tilted], order)
        for mine, theirs in ((part._without, self._without), (part._having, self._having)):
            mine.floats = {name: _joined("d", [column], order) for name, column in theirs.floats.items()}
            mine.ints = {name: _joined("q", [column], order) for name, column in theirs.ints.items()}
        part._runs = {name: _joined("q", [column], order) for name, column in self._runs.items()}
        return part


def _joined(code: str, columns: Iterable[array[float]] | Iterable[array[int]], order: Ints) -> array:  # type: ignore[type-arg]
    """The columns one after another, then in the order given."""
    kind = {"q": np.int64, "d": np.float64, "b": np.int8}[code]
    parts = [np.frombuffer(column, kind) for column in columns if len(column)]
    joined = np.concatenate(parts) if parts else np.empty(0, kind)
    return array(code, joined[order].tobytes())


def _renamed(column: array[int], before: Sequence[str], after: Sequence[str]) -> array[int]:
    """Indices into one list of names as indices into another."""
    places = [after.index(name) for name in before]
    return array("q", [places[index] if index >= 0 else -1 for index in column])
