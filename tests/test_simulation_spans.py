"""The arithmetic of spans: over columns and row by row the same to the last bit, whatever is unknown, short or not held."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulation.spans import NULL, Book, Columnwise, Rowwise, Series

PRICE = st.one_of(st.just(float("nan")), st.floats(5.0, 60.0))
UNITS = st.one_of(st.just(0.0), st.floats(-900.0, 900.0))
INSTANTS = st.lists(st.tuples(PRICE, PRICE, PRICE, PRICE), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(INSTANTS, st.tuples(UNITS, UNITS), st.floats(-5_000, 60_000), st.sampled_from([0.03, 0.0, float("nan")]), st.booleans())
def test_a_span_is_scanned_alike_over_columns_and_row_by_row(
    instants: list[tuple[float, float, float, float]], units: tuple[float, float], cash: float, fraction: float, bars: bool
) -> None:
    cells = np.array(instants).T
    none = np.empty((2, 0))
    book = Book(
        prices=np.ascontiguousarray(cells[:2]), lows=cells[2:] if bars else none, highs=cells[2:] + 10.0 if bars else none,
        units=np.array(units), entries=np.array([33.0, 20.0]), fractions=np.array([fraction, 0.05]),
    )  # fmt: skip
    alone = replace(book, prices=book.prices[:1], units=book.units[:1], entries=book.entries[:1], fractions=book.fractions[:1])
    for held in (book, replace(alone, lows=book.lows[:1], highs=book.highs[:1])):
        for start in range(len(instants)):
            assert repr(Columnwise().scan(held, cash, start, len(instants))) == repr(Rowwise().scan(held, cash, start, len(instants)))


STEP = st.tuples(st.integers(1, 30), st.integers(-20, 60), st.one_of(st.just(NULL), PRICE))


@settings(max_examples=100, deadline=None)
@given(st.lists(STEP, max_size=20), st.lists(st.integers(100, 900), unique=True), st.integers(0, 90), PRICE, st.integers(0, 99))
def test_prices_and_their_expiry_are_found_alike_over_columns_and_row_by_row(
    steps: list[tuple[int, int, float]], others: list[int], bound: int, value: float, seen: int
) -> None:
    ts = 99 + np.cumsum(np.array([step for step, _, _ in steps], np.int64))
    event_ts = ts - np.array([late for _, late, _ in steps], np.int64)
    series = Series(ts=ts, event_ts=event_ts, column=np.array([cell for *_, cell in steps]), bound=bound, value=value, seen=seen)
    one, other = Columnwise().expired(series, 99), Rowwise().expired(series, 99)
    assert [found.tolist() for found in one] == [found.tolist() for found in other]
    for grid in (ts, np.unique(np.concatenate((ts, np.array(others, np.int64))))):
        laid = [np.full(len(grid), np.nan) for _ in range(2)]
        for prices, spans in zip(laid, (Columnwise(), Rowwise()), strict=True):
            prices[::3] = 7.0
            spans.lay(prices, grid, series)
        assert repr(laid[0].tolist()) == repr(laid[1].tolist())
