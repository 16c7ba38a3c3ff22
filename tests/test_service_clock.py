"""Engine time: strictly increasing, scaled where the venue's is, and honest about steps of the wall clock."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from daemon.service.clock import AcceleratedClock, WallClock
from daemon.units import NS


@given(st.lists(st.integers(min_value=0, max_value=10 * NS), min_size=1, max_size=50))
def test_wall_clock_is_strictly_increasing_whatever_the_wall_does(wall: list[int]) -> None:
    told = iter([wall[0], *wall])
    clock = WallClock(wall=lambda: next(told), monotonic=lambda: 0)
    answers = [clock.now() for _ in wall]
    assert all(later > earlier for earlier, later in pairwise(answers))
    assert all(answer >= true for answer, true in zip(answers, wall, strict=True))


def test_wall_clock_shows_a_suspend_as_drift_and_running_time_as_none() -> None:
    wall, monotonic = [1_000 * NS], [5 * NS]
    clock = WallClock(wall=lambda: wall[0], monotonic=lambda: monotonic[0])
    wall[0] += 60 * NS
    monotonic[0] += 60 * NS
    assert clock.drift_ns() == 0
    wall[0] += 30 * NS  # suspended: monotonic time stood still
    assert clock.drift_ns() == 30 * NS
    wall[0] -= 90 * NS
    assert clock.drift_ns() == -60 * NS


def test_accelerated_clock_scales_monotonic_time_from_the_venues_moment() -> None:
    monotonic = [7 * NS]
    clock = AcceleratedClock(speed=60.0, now_ns=1_000 * NS, monotonic=lambda: monotonic[0])
    monotonic[0] += 2 * NS
    assert clock.now() == 1_120 * NS
    assert clock.now() == 1_120 * NS + 1  # the same instant, yet later
    assert clock.steady_ns() == 120 * NS
    assert clock.real_ns() == 9 * NS
    assert clock.drift_ns() == 0
