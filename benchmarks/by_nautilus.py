"""The two rules as a strategy of nautilus_trader, in an environment of its own (`venues.py`); it also models orders, matching and accounts.

Each row is an event of a type of its own, with all that the rules read: cheaper for it than quotes that pass through its matching engine.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable

import numpy as np
from nautilus_trader.backtest.engine import BacktestEngine, BacktestEngineConfig
from nautilus_trader.config import LoggingConfig
from nautilus_trader.core.data import Data
from nautilus_trader.model.data import CustomData, DataType
from nautilus_trader.model.identifiers import ClientId
from nautilus_trader.trading.strategy import Strategy

from benchmarks.firings import Bounds, Columns, Times, load
from benchmarks.rules import DAY_S, FAMILIES, NS

__all__ = ["load", "prepare"]
CLIENT = ClientId("BENCH")
DAY = DAY_S * NS


class Row(Data):  # type: ignore[misc]
    """One row of the series."""

    __slots__ = ("ask", "at", "bid", "funding", "oracle")

    def __init__(self, at: int, bid: float, ask: float, oracle: float, funding: float) -> None:
        self.at, self.bid, self.ask, self.oracle, self.funding = at, bid, ask, oracle, funding

    @property
    def ts_event(self) -> int:
        """When it was true, ns."""
        return self.at

    @property
    def ts_init(self) -> int:
        """When it was known, ns."""
        return self.at


ROW = DataType(Row)
READ = ("ts", "bid_price", "ask_price", "oracle_price", "funding_rate")


class TwoRules(Strategy):  # type: ignore[misc]
    """The loop over deques, fed by events."""

    def __init__(self, first: int, hold_ns: int, bound_ns: int) -> None:
        super().__init__()
        self.hold_ns, self.bound_ns = hold_ns, bound_ns
        self.seen: deque[tuple[int, float]] = deque()
        self.total = self.squares = 0.0
        self.rows = self.held = self.since = 0
        self.warm = first + DAY
        self.counting = self.fired = self.apart = False
        self.funding_times: list[int] = []
        self.oracle_times: list[int] = []

    def on_start(self) -> None:
        """Asks for the rows."""
        self.subscribe_data(ROW, client_id=CLIENT)

    def on_data(self, row: Row) -> None:
        """One row."""
        at, funding = row.at, row.funding
        self.rows += 1
        seen = self.seen
        seen.append((at, funding))
        self.total += funding
        self.squares += funding * funding
        while seen[0][0] <= at - DAY:
            old = seen.popleft()[1]
            self.total -= old
            self.squares -= old * old
        if self.counting:
            self.lapse(at)
        if funding > 0.0005:
            count = len(seen)
            if at >= self.warm and count >= 12:
                variance = (self.squares - self.total * self.total / count) / (count - 1)
                if variance > 0:
                    if (funding - self.total / count) / math.sqrt(variance) > 4:
                        self.rise(at)
                    else:
                        self.held, self.fired = 0, False
        else:
            self.held, self.fired = 0, False
        far = abs(row.oracle / ((row.bid + row.ask) / 2) - 1) > 0.003
        if far and not self.apart:
            self.oracle_times.append(at)
        self.apart = far

    def lapse(self, at: int) -> None:
        """Counts the time since the last TRUE row, and fires where the hold was due on the way."""
        self.counting = False
        lasted, left = at - self.since, self.hold_ns - self.held
        if left <= self.bound_ns and left < lasted:
            self.funding_times.append(self.since + left)
            self.fired = True
        self.held += min(lasted, self.bound_ns + 1)

    def rise(self, at: int) -> None:
        """A TRUE row."""
        if self.fired:
            return
        if self.held >= self.hold_ns:
            self.funding_times.append(at)
            self.fired = True
        else:
            self.since, self.counting = at, True


def prepare(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Callable[[], Times]:
    """An engine with its rows and its strategy; what is returned runs it."""
    columns, names = loaded
    assert (family, len(names)) == ("two", 1), "the strategy knows two rules and one market"
    engine = BacktestEngine(BacktestEngineConfig(logging=LoggingConfig(bypass_logging=True), run_analysis=False))
    cells = zip(*(columns[name].tolist() for name in READ), strict=True)
    engine.add_data([CustomData(ROW, Row(*row)) for row in cells], client_id=CLIENT, sort=False)
    rule = FAMILIES[family][0]
    strategy = TwoRules(int(columns["ts"][0]), rule.hold_ns, rule.bound_ns(bounds))
    engine.add_strategy(strategy)

    def run() -> Times:
        engine.run()
        assert strategy.rows == len(columns["ts"]), "the strategy saw another number of rows"
        told = {"funding-0": strategy.funding_times, "oracle-0": strategy.oracle_times}
        engine.dispose()
        return {name: {names[0]: np.array(times, np.int64)} for name, times in told.items()}

    return run
