"""Thinned series: bounded whatever the rows, no extreme lost, spans and single points alike, gaps kept."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.simulation.curve import Curve, Track

VALUE = st.one_of(st.floats(-100, 100), st.just(float("nan")))


@settings(max_examples=200, deadline=None)
@given(values=st.lists(VALUE, max_size=80), buckets=st.integers(1, 12), cut=st.integers(0, 80))
def test_a_curve_keeps_ends_and_extremes_of_what_it_was_given_in_at_most_four_points_a_bucket(
    values: list[float], buckets: int, cut: int
) -> None:
    at, given_values = np.arange(len(values), dtype=np.int64) * 7, np.array(values, np.float64)
    curve = Curve(0, 7 * 80, buckets)
    curve.add(at[:cut], given_values[:cut])
    curve.add(at[cut:], given_values[cut:])
    points = curve.points()
    assert len(points) <= 4 * buckets
    known = ~np.isnan(given_values)
    if not known.any():
        assert len(points) == 0
        return
    assert points.at.tolist() == sorted(points.at.tolist())
    assert (points.value.min(), points.value.max()) == (given_values[known].min(), given_values[known].max())
    assert (points.at[0], points.value[0]) == (at[known][0], given_values[known][0])
    assert (points.at[-1], points.value[-1]) == (at[known][-1], given_values[known][-1])
    exact = {int(time): value for time, value in zip(at, given_values, strict=True)}
    assert all(exact[time] == value for time, value in zip(points.at.tolist(), points.value.tolist(), strict=True))


@settings(max_examples=100, deadline=None)
@given(values=st.lists(VALUE, max_size=60), buckets=st.integers(1, 9))
def test_a_curve_taken_in_spans_is_the_curve_taken_point_by_point(values: list[float], buckets: int) -> None:
    at = np.arange(len(values), dtype=np.int64) * 3
    spans, single = Curve(0, 180, buckets), Curve(0, 180, buckets)
    spans.add(at, np.array(values, np.float64))
    for time, value in zip(at.tolist(), values, strict=True):
        single.point(time, value)
    first, second = spans.points(), single.points()
    assert first.at.tolist() == second.at.tolist()
    assert first.value.tolist() == second.value.tolist()
    assert first.broken.tolist() == second.broken.tolist()


def test_a_curve_of_ten_million_values_keeps_a_spike_of_one() -> None:
    curve = Curve(0, 10_000_000 - 1)
    for start in range(0, 10_000_000, 65_536):
        at = np.arange(start, min(start + 65_536, 10_000_000), dtype=np.int64)
        curve.add(at, np.where(at == 7_654_321, 99.0, 1.0))
    points = curve.points()
    assert len(points) <= 16_000
    assert points.at[points.value == 99.0].tolist() == [7_654_321]
    drawn = curve.coarser(500, since=5_000_000).points()
    assert len(drawn) <= 2_000
    assert drawn.at[drawn.value == 99.0].tolist() == [7_654_321]


def test_a_gap_breaks_the_line_where_nothing_was_known() -> None:
    curve = Curve(0, 99, 10)
    curve.add(np.array([0, 10], np.int64), np.array([1.0, 2.0]))
    curve.add(np.array([20, 30, 40], np.int64), np.array([np.nan, np.nan, np.nan]))
    curve.add(np.array([50, 60], np.int64), np.array([3.0, 4.0]))
    points = curve.points()
    assert points.at.tolist() == [0, 10, 50, 60]
    assert points.broken.tolist() == [False, False, True, False]


def test_a_track_caps_an_infinite_margin_ratio_and_keeps_before_and_after_of_one_instant() -> None:
    track = Track(0, 100, ["dydx:HYPE-USD"])
    track.add(np.array([1, 2], np.int64), np.array([10.0, 9.0]), np.array([0.5, np.inf]), -1.0, [np.array([3.0, 2.0])])
    track.point(3, 5.0, 1.2, -2.0, [1.0])
    track.point(3, 4.0, 0.0, -2.0, [1.0])
    assert track.margin_ratio.points().value.tolist() == [0.5, 1e6, 1.2, 0.0]
    assert track.equity.points().at.tolist() == [1, 2, 3, 3]
    assert track.funding.points().value.tolist() == [-1.0, -1.0, -2.0]
    assert track.prices["dydx:HYPE-USD"].points().value.tolist() == pytest.approx([3.0, 2.0, 1.0])
