"""What a replay learns of a history before it begins: exact whatever the slices, holding neither rows nor series."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulation.account import AccountSpec, OpeningPosition
from daemon.simulation.history import Kept, Part, Spacing, Survey
from daemon.units import MINUTE_NS, NS
from daemon.world.entities import Kind

HYPE, BTC = "dydx:HYPE-USD", "dydx:BTC-USD"


@given(st.lists(st.integers(1, 4 * MINUTE_NS), max_size=30), st.integers(1, 5))
def test_spacing_is_the_median_where_that_is_above_a_minute(apart: list[int], size: int) -> None:
    times = np.cumsum(np.array([7 * NS, *apart], np.int64))
    spacing = Spacing()
    for start in range(0, len(times), size):
        spacing.take(times[start : start + size])
    median = int(np.median(np.diff(times))) if apart else 0
    assert spacing.median == (median if median > MINUTE_NS else None)
    assert not (spacing.surely_near(len(times)) and median > MINUTE_NS)


def history(rows: int, **columns: list[float]) -> Kept:
    """HYPE and BTC in turns, a row each 40 s; columns are given for HYPE, and BTC has none of them."""
    ts = np.arange(1, 2 * rows + 1, dtype=np.int64) * 40 * NS
    entity = np.array([1, 0] * rows, np.int32)
    cells = {name: np.full(2 * rows, np.inf) for name in columns}
    for name, values in columns.items():
        cells[name][::2] = values
    block = Part(kind=Kind.MARKET, ts=ts, event_ts=ts, entity=entity, entity_ids=(BTC, HYPE), columns=cells)
    return Kept([block], rows=3)


def account(**sizes: int) -> AccountSpec:
    positions = tuple(OpeningPosition(market=f"{name}-USD", size=Decimal(size), entry_price=1.0) for name, size in sizes.items())
    return AccountSpec(venue="dydx", collateral_usd=1.0, positions=positions)


def test_a_survey_finds_the_coarse_the_unpriced_and_the_bars() -> None:
    nan = float("nan")
    found = Survey.of(history(5, oracle_price=[1.0] * 5, last_price=[1.0] * 5), account(HYPE=1, BTC=2))
    assert found == Survey(coarse={HYPE: 80 * NS}, unpriced=(BTC,), has_extremes=False)
    # A book of one quote says nothing of how far apart quotes are: the next series is asked.
    found = Survey.of(history(5, bid_price=[nan, 1.0, nan, nan, nan], last_price=[1.0, nan, 1.0, nan, 1.0]), account(HYPE=1))
    assert found == Survey(coarse={HYPE: 160 * NS}, unpriced=(), has_extremes=False)
    found = Survey.of(history(2, bar_high=[nan, 1.0]), account(HYPE=1, BTC=0))
    assert found == Survey(coarse={}, unpriced=(HYPE,), has_extremes=True)
    assert Survey.of(history(2), account(HYPE=1)) == Survey(coarse={}, unpriced=(HYPE,), has_extremes=False)
