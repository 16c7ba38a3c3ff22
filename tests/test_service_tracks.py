"""Charts' history: what is sampled, what is kept of it, unknown time, and what a start reads back."""

from __future__ import annotations

import math
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.events import FeedFailed, Observed, Row
from daemon.journal.store import Journal
from daemon.service.loop import event_entry
from daemon.service.track import COARSE, FINE, KEPT, POINTS_MAX, Track, thinned
from daemon.service.tracks import Tracks
from daemon.service.views import Series
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind

T0 = 1_700_000_000 * NS
ETH = "dydx:ETH-USD"


def seen(at: int, entity: str = ETH, source: str = "dydx.markets", history: bool = False, **values: float) -> Observed:
    row = Row(kind=Kind.MARKET, entity=entity, values=values, event_ts=at if history else None)
    return Observed(at=T0 + 10 * HOUR_NS if history else at, source=source, rows=(row,), history=history)


def drawn(tracks: Tracks, signal: str = "oracle_price", kind: str = "market", entity: str = ETH) -> Series:
    found = tracks.series(kind, entity, (signal,))
    assert len(found) == 1
    return found[0]


# --- following ----------------------------------------------------------------------------------------------------------


def test_a_signal_has_at_most_one_point_in_five_seconds() -> None:
    tracks = Tracks()
    for second in range(60):
        tracks.follow(seen(T0 + second * NS, oracle_price=3000.0 + second))
    series = drawn(tracks)
    assert (series.unit, series.entity, series.threshold) == ("price", ETH, None)
    gaps = [after - before for before, after in zip(series.times, series.times[1:], strict=False)]
    assert min(gaps) >= 5.0
    assert len(series.times) == 12
    assert series.times[0] == T0 / NS
    assert series.values[-1] == 3000.0 + series.times[-1] - series.times[0]


def test_what_does_not_change_is_two_points_and_what_is_not_seen_is_unknown_from_its_staleness_on() -> None:
    tracks = Tracks()
    for second in range(0, 600, 5):
        tracks.follow(seen(T0 + second * NS, oracle_price=3000.0))
    assert tracks.points == 2
    tracks.follow(seen(T0 + 900 * NS, oracle_price=3000.0))
    tracks.follow(seen(T0 + 905 * NS, oracle_price=3001.0))
    series = drawn(tracks)
    assert series.values == (3000.0, 3000.0, None, 3000.0, 3001.0)
    assert [round(time - T0 / NS) for time in series.times] == [0, 595, 595 + 65, 900, 905]


def test_a_signal_that_the_source_says_there_is_none_of_is_unknown_and_so_is_one_nobody_told_any_more() -> None:
    tracks = Tracks()
    tracks.follow(seen(T0, oracle_price=3000.0))
    tracks.follow(seen(T0 + 5 * NS, oracle_price=math.nan))
    tracks.follow(seen(T0 + 10 * NS, oracle_price=3010.0))
    assert drawn(tracks).values == (3000.0, None, 3010.0)
    tracks.follow(seen(T0 + 300 * NS, entity="dydx:BTC-USD", oracle_price=1.0))
    series = drawn(tracks)
    assert series.values[-1] is None
    assert round(series.times[-1] - T0 / NS) == 10 + 65


def test_events_that_are_no_readings_leave_no_point() -> None:
    tracks = Tracks()
    tracks.follow(FeedFailed(at=T0, source="dydx.markets", reason="503"))
    assert (len(tracks), tracks.series("market", ETH), tracks.series("nothing", "x")) == (0, (), ())


def test_the_past_that_a_first_start_reads_back_is_drawn_without_holes_between_its_minutes() -> None:
    tracks = Tracks()
    now = T0 + 10 * HOUR_NS
    for minute in range(0, 600):
        tracks.follow(seen(T0 + minute * MINUTE_NS, history=True, last_price=100.0 + minute % 7))
    tracks.follow(seen(now, last_price=100.0))
    series = drawn(tracks, "last_price")
    assert None not in series.values[:-2]  # the one before the last: from the end of what was read back to the first reading
    assert series.times[0] >= (now - 6 * HOUR_NS) / NS - 60
    assert {value for value in series.values if value is not None} == {100.0 + n for n in range(7)}


def test_sampled_quantities_stand_beside_the_observed_ones_with_their_bounds() -> None:
    tracks = Tracks()
    row = Row(kind=Kind.ACCOUNT, entity="dydx", values={"collateral": 1000.0})
    for second in range(0, 30, 2):
        at = T0 + second * NS
        tracks.follow(Observed(at=at, source="dydx.account", rows=(row,)))
        tracks.sample(kind="account", entity="dydx", name="margin_ratio", unit="ratio", value=0.4 + second / 100, at=at, bound=0.6)
        tracks.sample(kind="trigger", entity=f"spike/{ETH}", name="paid", unit="rate/h", value=math.nan, at=at, bound=0.5, clears=0.2)
    names = {series.name: series for series in tracks.series("account", "dydx")}
    assert set(names) == {"collateral", "margin_ratio"}
    assert (names["margin_ratio"].unit, names["margin_ratio"].threshold) == ("ratio", 0.6)
    assert names["margin_ratio"].values == pytest.approx((0.4, 0.46, 0.52, 0.58, 0.64))
    paid = drawn(tracks, "paid", "trigger", f"spike/{ETH}")
    assert (paid.threshold, paid.clears, set(paid.values)) == (0.5, 0.2, {None})


def test_an_infinite_value_is_not_drawn() -> None:
    tracks = Tracks()
    tracks.sample(kind="account", entity="dydx", name="survivable_move", unit="ratio", value=math.inf, at=T0)
    assert drawn(tracks, "survivable_move", "account", "dydx").values == (None,)


def test_there_are_never_more_tracks_than_the_bound() -> None:
    tracks = Tracks(tracks_max=3)
    for number in range(10):
        tracks.follow(seen(T0 + number * NS, entity=f"dydx:M{number}", oracle_price=1.0))
    assert len(tracks) == 3
    tracks.sample(kind="account", entity="dydx", name="equity", unit="USD", value=1.0, at=T0)
    assert tracks.series("account", "dydx") == ()


# --- keeping ------------------------------------------------------------------------------------------------------------


def test_a_signal_that_always_moves_is_bounded_and_keeps_its_extremes() -> None:
    track = Track(gap=150)
    for i in range(24 * 720):
        spike = 1e6 if i == 24 * 720 - 3_000 else 0.0
        track.add(1 + i * 50, float(i % 11) + spike)
    assert len(track) < 360 + 12 + 2 * 330 + 40
    times, values = track.points(track.last - KEPT)
    assert times[-1] - times[0] <= KEPT
    assert times[-1] - times[0] > KEPT - 2 * COARSE
    assert max(values) > 1e6
    assert times == sorted(set(times))


POINTS = st.lists(st.tuples(st.integers(1, 3_000), st.sampled_from([math.nan, 1.0, 2.0, 5.0, -3.0])), min_size=1, max_size=600)


@settings(max_examples=60, deadline=None)
@given(points=POINTS)
def test_a_track_says_of_every_time_what_was_known_then_or_lies_between_the_extremes_of_its_minute(
    points: list[tuple[int, float]],
) -> None:
    gap, time = 200, 0
    track = Track(gap)
    added: list[tuple[int, float]] = []
    for step, value in points:
        time += step
        track.add(time, value)
        added.append((time, value))
    times, values = track.points(0)
    assert times == sorted(set(times))
    fine = time - FINE
    kept = dict(zip(times, values, strict=True))
    for at, value in added:
        if at < time - KEPT + COARSE:
            continue
        if at >= fine:  # nothing is lost of the last half hour: a point, or a stretch of equal ones around it
            around = kept.get(at)
            if around is None:
                before = max(i for i, t in enumerate(times) if t < at)
                assert same(values[before], value)
                assert before + 1 < len(times)
                assert same(values[before + 1], value)
            else:
                assert same(around, value)
    # Where nothing was told for longer than the gap, something unknown stands in between.
    for (before, value), (after, _) in pairwise(added):
        if after - before > gap and value == value and before >= fine:
            assert any(before < t < after and v != v for t, v in kept.items())


def same(left: float, right: float) -> bool:
    return left == right or (left != left and right != right)


@given(
    values=st.lists(st.one_of(st.sampled_from([math.nan, math.inf, -math.inf]), st.floats(-1e6, 1e6)), min_size=1, max_size=4_000),
    silence=st.integers(1, 100_000),
)
@settings(max_examples=60, deadline=None)
def test_a_thinned_series_is_short_keeps_extremes_ends_and_that_something_was_unknown(values: list[float], silence: int) -> None:
    times = [10 * i + silence * (i > len(values) // 2) for i in range(len(values))]
    kept = thinned(times, values)
    assert kept == sorted(set(kept))
    assert len(kept) <= POINTS_MAX
    assert (kept[0], kept[-1]) == (0, len(values) - 1)
    known = [v for v in values if v == v]
    if known:
        left = [values[i] for i in kept if values[i] == values[i]]
        assert (min(left), max(left)) == (min(known), max(known))
    assert any(values[i] != values[i] for i in kept) == any(v != v for v in values)


def test_unknown_time_does_not_grow_where_a_series_is_thinned() -> None:
    values = [float(i % 50) for i in range(3_000)]
    values[1_500] = math.nan
    kept = thinned(list(range(0, 30_000, 10)), values)
    place = kept.index(1_500)
    assert kept[place + 1] - 1_500 <= 3_000 // 149 + 1


# --- after a restart ----------------------------------------------------------------------------------------------------


def life(entities: int, seconds: int, start: int = T0) -> list[Observed]:
    """Two feeds: markets every second, funding every thirty; values that move."""
    events = []
    for second in range(seconds):
        at = start + second * NS
        rows = tuple(
            Row(kind=Kind.MARKET, entity=f"dydx:M{n}", values={"oracle_price": 100.0 + (second * (n + 1)) % 97, "imf": 0.05})
            for n in range(entities)
        )
        events.append(Observed(at=at, source="dydx.markets", rows=rows))
        if second % 30 == 0:
            funding = tuple(
                Row(kind=Kind.MARKET, entity=f"dydx:M{n}", values={"predicted_funding_rate": 1e-5 * (second % 7)}) for n in range(entities)
            )
            events.append(Observed(at=at + 1, source="dydx.funding", rows=funding))
    return events


def store(folder: Path, events: list[Observed]) -> Path:
    with Journal.open(folder / "state.db") as journal:
        for seq, event in enumerate(events, start=1):
            journal.observe(event_entry(seq, event))
            if seq % 1_000 == 0:
                journal.flush().result()
        journal.flush().result()
        return journal.feed_path


def test_a_start_reads_the_last_hours_back_and_goes_on_behind_them(tmp_path: Path) -> None:
    events = life(2, 7_200)
    feed = store(tmp_path, events)
    whole, again = Tracks(), Tracks()
    for event in events:
        whole.follow(event)
    at = events[-1].at
    later = life(2, 60, at + 120 * NS)
    again.follow(later[0])  # the feed is read while the daemon already follows
    read = again.refill(feed, at=at, through_seq=len(events))
    for event in later[1:]:
        again.follow(event)
    assert read < len(events) / 5
    before, after = drawn(whole, entity="dydx:M1"), drawn(again, entity="dydx:M1")
    assert abs(after.times[0] - before.times[0]) <= 60
    known = [value for value in after.values if value is not None]
    assert {*known} <= {100.0 + n for n in range(97)}
    assert max(known) >= 190.0
    assert after.times[-1] > at / NS + 120
    # Unknown only while the daemon was down.
    unknown = [time for time, value in zip(after.times, after.values, strict=True) if value is None]
    assert unknown
    assert all(at / NS <= time <= at / NS + 120 for time in unknown)
    funding = drawn(again, "predicted_funding_rate", entity="dydx:M0")
    assert len(funding.values) > 60
    assert set(drawn(again, "imf", entity="dydx:M0").values) == {0.05}  # its staleness bound is longer than the daemon was down


def test_what_is_read_back_is_bounded_in_time_seq_and_bytes(tmp_path: Path) -> None:
    events = life(1, 1_200)
    feed = store(tmp_path, events)
    tracks = Tracks()
    tracks.refill(feed, at=events[600].at, through_seq=601)
    assert drawn(tracks, entity="dydx:M0").times[-1] <= events[600].at / NS
    short = Tracks()
    read = short.refill(feed, at=events[-1].at, through_seq=len(events), bytes_max=20_000)
    assert 0 < read < 60
    late = Tracks()
    assert late.refill(feed, at=events[-1].at + 7 * HOUR_NS, through_seq=len(events)) == 0


def test_a_refill_that_is_told_to_stop_leaves_the_rest(tmp_path: Path) -> None:
    events = life(1, 1_200)
    tracks = Tracks()
    tracks.stop()
    assert tracks.refill(store(tmp_path, events), at=events[-1].at, through_seq=len(events)) == 1
    assert tracks.series("market", "dydx:M0") == ()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_special_values_come_back_from_the_feed_as_what_they_are(tmp_path: Path, value: float) -> None:
    events = [seen(T0, oracle_price=1.0), seen(T0 + 5 * NS, oracle_price=value), seen(T0 + 10 * NS, oracle_price=2.0)]
    tracks = Tracks()
    tracks.refill(store(tmp_path, events), at=T0 + 10 * NS, through_seq=3)
    assert drawn(tracks).values == (1.0, None, 2.0)
