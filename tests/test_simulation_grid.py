"""The cells of a sweep: values and ranges as written, and draws."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulation.grid import draws, grid, parse_axis, position
from daemon.units import parse_duration, parse_quantity


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ("trigger.for=1m,3m,10m", ("1m", "3m", "10m")),
        ("x = 0.03%/h , 0.05%/h,0.03%/h", ("0.03%/h", "0.05%/h")),
        ("x=0.02%/h..0.10%/h/5", ("0.02%/h", "0.04%/h", "0.06%/h", "0.08%/h", "0.10%/h")),
        ("x=0.1..0.4/4", ("0.1", "0.2", "0.3", "0.4")),
        ("x=1..6/6", ("1", "2", "3", "4", "5", "6")),
        ("x=1m..100m..log/3", ("1m", "10m", "100m")),
        ("x=30s..2m/4", ("30s", "60s", "90s", "2m")),
        ("x=2m30s..3m30s/3", ("2m30s", "180s", "3m30s")),
        ("x=50bps..1%/3", ("50bps", "0.75%", "1%")),
        ("x=10_000 USD..30_000 USD/3", ("10_000 USD", "20000 USD", "30_000 USD")),
        ("x=0.1%/h..0.8%/8h/2", None),
        ("x=1m,10m..30m/3", ("1m", "10m", "20m", "30m")),
        ("x=-10%..10%/3", ("-10%", "0%", "10%")),
        ("x=armed,shadow", ("armed", "shadow")),
    ],
)
def test_an_axis_is_what_is_written(written: str, values: tuple[str, ...] | None) -> None:
    if values is None:
        with pytest.raises(ValueError, match="does not run upwards"):
            parse_axis(written)
    else:
        assert parse_axis(written).values == values


@pytest.mark.parametrize(
    ("written", "says"),
    [
        ("x", "write PATH=VALUES"),
        ("x=", "write PATH=VALUES"),
        ("x=1m,,3m", "an empty value"),
        ("x=1m..10m", "does not say how many values; write 1m..10m/5, or draw with --random"),
        ("x=1m..10m/1", "a range has 2 to 10,000 values, found 1"),
        ("x=1m..0.5%/h/4", "1m is a duration and 0.5%/h is a rate per hour; write both in one unit"),
        ("x=soon..10m/4", "'soon' is no quantity"),
        ("x=10m..1m/4", "does not run upwards"),
        ("x=0%..1%..log/4", "a geometric range begins above 0, found 0%"),
    ],
)
def test_a_mistake_says_what_to_write(written: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("(", "\\(")):
        parse_axis(written)


@given(
    low=st.integers(1, 10_000), width=st.integers(1, 10_000), count=st.integers(2, 40),
    unit=st.sampled_from(["%/h", "%", "bps", "s", "m", " USD", "", "h"]), log=st.booleans(),
)  # fmt: skip
def test_a_range_keeps_its_ends_and_climbs_in_even_steps(low: int, width: int, count: int, unit: str, log: bool) -> None:
    ends = f"{low / 100}{unit}", f"{(low + width) / 100}{unit}"
    axis = parse_axis(f"x={ends[0]}..{ends[1]}{'..log' if log else ''}/{count}")
    at = axis.positions()
    assert at is not None
    assert (axis.values[0], axis.values[-1]) == ends
    assert list(at) == sorted(at)
    for value in axis.values:
        assert parse_quantity(value)[1] == parse_quantity(ends[0])[1]
        if unit in ("s", "m", "h"):
            parse_duration(value)  # a field of the runbook reads it too
    if not log and len(at) == count:
        step = (at[-1] - at[0]) / (count - 1)
        assert all(abs(at[k] - at[0] - k * step) <= 2e-5 * at[-1] for k in range(count))


def test_a_grid_is_every_combination_in_order() -> None:
    cells = grid([parse_axis("a=1,2"), parse_axis("b=1m,2m,3m")])
    assert cells == (("1", "1m"), ("1", "2m"), ("1", "3m"), ("2", "1m"), ("2", "2m"), ("2", "3m"))
    with pytest.raises(ValueError, match=r"1,000,000 cells, at most 100,000 are tried; take fewer values, or draw with --random N"):
        grid([parse_axis(f"{name}=1..100/100") for name in "abc"])


@given(count=st.integers(1, 60), seed=st.integers(0, 1000))
def test_draws_lie_within_their_ranges_and_come_again_with_their_seed(count: int, seed: int) -> None:
    axes = [parse_axis(text, drawn=True) for text in ("a=0.02%/h..0.10%/h", "b=1m..1h..log", "c=2..5", "d=1m,3m")]
    cells = draws(axes, count, seed)
    assert cells == draws(axes, count, seed)
    assert len(cells) == count
    for a, b, c, d in cells:
        assert 0.0002 <= position(a) <= 0.001 + 1e-12
        assert 60 <= position(b) <= 3600
        assert c in ("2", "3", "4", "5")
        assert d in ("1m", "3m")
    assert draws(axes, 50, 1) != draws(axes, 50, 2)


def test_a_value_between_has_six_digits_at_most() -> None:
    values = parse_axis("x=0.1%..1%/7").values
    assert values == ("0.1%", "0.25%", "0.4%", "0.55%", "0.7%", "0.85%", "1%")
    assert parse_axis("x=1..2.0/4").values == ("1", "1.33333", "1.66667", "2.0")
    assert Decimal(parse_axis("x=1..3..log/3").values[1]) == Decimal("1.73205")
