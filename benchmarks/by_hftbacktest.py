"""The two rules as a strategy of hftbacktest, in an environment of its own (`venues.py`); it also models queues, latency and fills.

Each row is a new bid and ask of its book; funding and oracle, for which it has no event, are read from their columns by position.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from hftbacktest import BUY_EVENT, DEPTH_EVENT, EXCH_EVENT, LOCAL_EVENT, SELL_EVENT, BacktestAsset, HashMapMarketDepthBacktest
from hftbacktest.types import event_dtype
from numba import njit

from benchmarks.by_loops import DAY, FIRED, HOLD_FUNDING, IDLE, hold
from benchmarks.firings import Bounds, Columns, Times, load

__all__ = ["load", "prepare"]
TICK = 1e-6


@njit(error_model="numpy")
def strategy(hbt, ts, oracle, funding, bound, fired, count):  # type: ignore[no-untyped-def]
    """`by_loops.two`, driven by the venue's clock and its book. Returns rows seen."""
    n = len(ts)
    first = ts[0]
    anchor = funding[0]
    s1 = s2 = 0.0
    lo = 0
    held = IDLE
    apart = False
    for i in range(n):
        at = ts[i]
        if hbt.elapse(at - hbt.current_timestamp) > 1:
            return i
        depth = hbt.depth(0)
        rate = funding[i]
        x = rate - anchor
        s1 += x
        s2 += x * x
        edge = at - DAY
        while ts[lo] <= edge:
            x = funding[lo] - anchor
            s1 -= x
            s2 -= x * x
            lo += 1
        if rate > 0.0005:
            samples = i + 1 - lo
            if edge >= first and samples >= 12:
                variance = (s2 - s1 * s1 / samples) / (samples - 1)
                if variance > 0.0:
                    if (rate - anchor - s1 / samples) / np.sqrt(variance) > 4.0:
                        if held != FIRED:
                            held = hold(ts, i, i + 1, n, held, HOLD_FUNDING, bound, fired, count, 0)
                    else:
                        held = IDLE
        else:
            held = IDLE
        if abs(oracle[i] / ((depth.best_bid + depth.best_ask) / 2) - 1) > 0.003:
            if not apart:
                apart = True
                fired[1, count[1]] = at
                count[1] += 1
        else:
            apart = False
    return n


def prepare(loaded: tuple[Columns, tuple[str, ...]], family: str, bounds: Bounds) -> Callable[[], Times]:
    """A venue with its events; what is returned runs the strategy over them."""
    columns, names = loaded
    assert (family, len(names)) == ("two", 1), "the strategy knows two rules and one market"
    ts = columns["ts"]
    # Four events a row: the old bid and ask go, the new ones come.
    events = np.zeros(4 * len(ts), event_dtype)
    for offset, side, name in ((0, BUY_EVENT, "bid_price"), (1, SELL_EVENT, "ask_price")):
        prices = np.round(columns[name] / TICK) * TICK
        for place, before, quantity in ((offset, 1, 0.0), (offset + 2, 0, 1.0)):
            part = events[place::4]
            part["ev"] = DEPTH_EVENT | EXCH_EVENT | LOCAL_EVENT | side
            part["exch_ts"] = part["local_ts"] = ts
            part["px"] = np.roll(prices, before)
            part["qty"] = quantity
    asset = (
        BacktestAsset()
        .data(events)
        .linear_asset(1.0)
        .constant_order_latency(0, 0)
        .risk_adverse_queue_model()
        .no_partial_fill_exchange()
        .trading_value_fee_model(0.0, 0.0005)
        .tick_size(TICK)
        .lot_size(1.0)
    )
    hbt = HashMapMarketDepthBacktest([asset])
    fired, count = np.empty((2, 1 << 16), np.int64), np.zeros(2, np.int64)

    def run() -> Times:
        # The venue reads `events` where they are: this function keeps them alive.
        rows = strategy(hbt, ts, columns["oracle_price"], columns["funding_rate"], bounds["funding_rate"], fired, count)
        hbt.close()
        assert len(events) == 4 * rows == 4 * len(ts), f"the strategy saw {rows} rows of {len(ts)}"
        return {name: {names[0]: fired[rule, : count[rule]].copy()} for rule, name in enumerate(("funding-0", "oracle-0"))}

    return run
