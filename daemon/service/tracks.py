"""What was seen in the last six hours, for charts (floor 7): `Tracks.follow(event)` samples observations, `series(...)` draws them.

    tracks.follow(event)                                                    # on the loop's thread, for every event
    tracks.sample(kind="account", entity="dydx", name="margin_ratio", unit="ratio", value=0.41, at=at)
    tracks.refill(journal.feed_path, at=position.at, through_seq=position.seq)   # in a thread of its own, once at a start
    tracks.series("market", "dydx:ETH-USD", ("funding_rate",))              # from any thread

A signal has at most one point in five seconds; the last half hour is kept as it is, before that the extremes of each minute. A track that
moves all the time is about 13 kB, one that never does some hundred bytes: 500 markets of 12 moving signals are about 80 MB, and the most
that is ever kept (10,000 tracks) is 135 MB.
"""

from __future__ import annotations

import json
import math
import threading
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.engine.events import Event, Observed, Row
from daemon.journal.backwards import BYTES_MAX, latest_observations
from daemon.language.catalogue import CATALOGUE
from daemon.service.track import FINE, KEPT, TENTHS, Track, thinned
from daemon.service.views import Series
from daemon.units import NS
from daemon.world.entities import Kind

POINT_EVERY_NS = 5 * NS
TENTH_NS = NS // TENTHS
MINUTE_TENTHS = 60 * TENTHS  # between two points of the past that is read back, at least
TRACKS_MAX = 10_000
SAMPLED_GAP_S = 60.0  # a sampled quantity that was not told for this long was unknown
HEADROOM_TENTHS = 30 * 24 * 3600 * TENTHS  # before the first event: for what is refilled
REFILL_PAUSE_S = 0.001  # after a body that was decoded, so that the loop's thread is not kept from its turn

Key = tuple[str, str]  # kind and entity


@dataclass(slots=True, kw_only=True)
class Quantity:
    """What a sampled series is about, as last told: its unit and the bounds it is compared with now."""

    unit: str
    bound: float | None
    clears: float | None


class Tracks:
    """The last hours of every observed signal and of every sampled quantity."""

    def __init__(self, *, tracks_max: int = TRACKS_MAX) -> None:
        self._tracks_max = tracks_max
        self._tracks: dict[Key, dict[str, Track]] = {}
        self._count = 0
        self._due: dict[tuple[str, Kind, str], int] = {}  # (source, kind, entity) -> when its next row counts
        self._quantities: dict[tuple[str, str, str], Quantity] = {}
        self._origin: int | None = None  # tenths since 1970
        self._now = 0  # tenths since the origin: the latest event
        self._lock = threading.Lock()
        self._stopping = threading.Event()

    # --- the loop's thread --------------------------------------------------------------------------------------------

    def follow(self, event: Event) -> None:
        """Take note of an event that is on disk."""
        if not isinstance(event, Observed):
            return
        with self._lock:
            now = self._time(event.at)
            self._now = max(self._now, now)
            if event.history:
                self._take_past(event, now)
                return
            at, source, due = event.at, event.source, self._due
            for row in event.rows:
                key = (source, row.kind, row.entity)
                next_at = due.get(key)
                if next_at is None:
                    # Entities that are polled together have their turns spread over the five seconds.
                    due[key] = at + POINT_EVERY_NS - (len(due) % 5) * NS
                elif at < next_at:
                    continue
                else:
                    due[key] = max(next_at + POINT_EVERY_NS, at + 1)
                self._take(row, now)

    def sample(
        self,
        *,
        kind: str,
        entity: str,
        name: str,
        unit: str,
        value: float,
        at: int,
        bound: float | None = None,
        clears: float | None = None,
    ) -> None:
        """Note a quantity that is worked out, not observed: of an account, or of kind `trigger` and entity `<runbook>/<entity>` what its
        trigger compares. NaN is unknown. At most one in five seconds counts; `bound` and `clears` are those of now."""
        with self._lock:
            now = self._time(at)
            self._now = max(self._now, now)
            self._quantities[kind, entity, name] = Quantity(unit=unit, bound=bound, clears=clears)
            track = self._track((kind, entity), name, round(SAMPLED_GAP_S * TENTHS))
            if track is not None and (track.last < 0 or now - track.last >= POINT_EVERY_NS // TENTH_NS):
                track.add(now, value)

    def _take(self, row: Row, time: int, apart: int = 0) -> None:
        """Add a row's values; `apart`: how much further apart than usual such rows are, in tenths."""
        key = (row.kind.value, row.entity)
        tracks = self._tracks.get(key)
        for name, value in row.values.items():
            track = None if tracks is None else tracks.get(name)
            if track is None:
                track = self._track(key, name, _gap(row.kind, name))
                if track is None:
                    continue
                tracks = self._tracks[key]
            track.add(time, value, track.gap + apart if apart else 0)

    def _take_past(self, event: Observed, now: int) -> None:
        """Rows that a feed read back at the first start, each at its own time."""
        oldest = event.at - KEPT * TENTH_NS
        for row in event.rows:
            if row.event_ts is not None and oldest <= row.event_ts <= event.at:
                self._take(row, min(now, self._time(row.event_ts)), MINUTE_TENTHS)

    def _track(self, key: Key, name: str, gap: int) -> Track | None:
        tracks = self._tracks.setdefault(key, {})
        track = tracks.get(name)
        if track is None and self._count < self._tracks_max:
            track = tracks[name] = Track(gap, turn=self._count * 50 % MINUTE_TENTHS)
            self._count += 1
        return track

    def _time(self, at: int) -> int:
        tenths = at // TENTH_NS
        if self._origin is None:
            self._origin = tenths - HEADROOM_TENTHS
        return max(0, min(tenths - self._origin, (1 << 32) - 1))

    # --- a thread of its own ------------------------------------------------------------------------------------------

    def refill(self, feed_path: Path, *, at: int, through_seq: int, bytes_max: int = BYTES_MAX) -> int:
        """Read the six hours before `at` (ns) back from the feed, up to the event `through_seq`; what was followed since stays behind it.
        Returns how many observations were read. Raises JournalError."""
        with self._lock:
            now = self._time(at)
            self._now = max(self._now, now)
        points: dict[tuple[Key, str], tuple[array[int], array[float]]] = {}
        read = 0

        def every(seen_at: int) -> int:
            return POINT_EVERY_NS if at - seen_at <= FINE * TENTH_NS else 60 * NS

        bodies = latest_observations(
            feed_path, since=at - KEPT * TENTH_NS, through_seq=through_seq, every=every, bytes_max=bytes_max
        )
        for seen_at, body in bodies:
            read += 1
            time = self._time(seen_at)
            for row in json.loads(body)["rows"]:
                key = (str(row["kind"]), str(row["entity"]))
                for name, value in row["values"].items():
                    times, values = points.setdefault((key, name), (array("I"), array("d")))
                    times.append(time)
                    values.append(value if isinstance(value, float | int) else _SPECIAL.get(value, math.nan))
            if self._stopping.wait(REFILL_PAUSE_S):
                return read
        for (key, name), (times, values) in points.items():
            with self._lock:  # a signal at a time: the loop's thread waits for none of the work
                self._put_before(key, name, times, values)
        return read

    def _put_before(self, key: Key, name: str, times: array[int], values: array[float]) -> None:
        """Newest first, points from before everything that the track has."""
        try:
            gap = _gap(Kind(key[0]), name)
        except ValueError:
            return  # a kind of another build
        followed = self._track(key, name, gap)
        if followed is None:
            return
        track = Track(gap)
        for time, value in zip(reversed(times), reversed(values), strict=True):
            track.add(time, value, gap + MINUTE_TENTHS)
        for time, value in zip(*followed.points(0), strict=True):
            track.add(time, value)
        self._tracks[key][name] = track

    def stop(self) -> None:
        """Let a `refill` under way end soon."""
        self._stopping.set()

    # --- any thread ---------------------------------------------------------------------------------------------------

    def series(self, kind: str, entity: str, signals: Sequence[str] = ()) -> tuple[Series, ...]:
        """The named signals of an entity (all when empty) that have points, at most 600 points each: extremes are kept, unknown and
        infinite values are None. Of kind `trigger` the entity is `<runbook>/<entity>`."""
        with self._lock:
            names = tuple(signals) or tuple(sorted(self._tracks.get((kind, entity), {})))
        return tuple(series for name in names if (series := self._series(kind, entity, name)) is not None)

    def _series(self, kind: str, entity: str, name: str) -> Series | None:
        with self._lock:  # a signal at a time: the loop's thread never waits for a page
            track = self._tracks.get((kind, entity), {}).get(name)
            if track is None or not len(track):
                return None
            now, origin, gap = self._now, self._origin or 0, track.gap
            times, values = track.points(max(0, now - KEPT))
            quantity = self._quantities.get((kind, entity, name))
        if times and now - times[-1] > gap and values[-1] == values[-1]:
            times.append(times[-1] + gap)  # nothing was seen since
            values.append(math.nan)
        kept = thinned(times, values)
        return Series(
            name=name,
            entity=entity,
            unit=_unit(kind, name) if quantity is None else quantity.unit,
            times=tuple((origin + times[i]) / TENTHS for i in kept),
            values=tuple(values[i] if math.isfinite(values[i]) else None for i in kept),
            threshold=None if quantity is None else quantity.bound,
            clears=None if quantity is None else quantity.clears,
        )

    def __len__(self) -> int:
        """How many signals and quantities are kept."""
        return self._count

    @property
    def points(self) -> int:
        """How many points are kept, 12 bytes each."""
        with self._lock:
            return sum(len(track) for tracks in self._tracks.values() for track in tracks.values())


_SPECIAL = {"inf": math.inf, "-inf": -math.inf}


def _gap(kind: Kind, name: str) -> int:
    """Tenths after which a signal that is not seen again is unknown: its staleness bound, and the five seconds between two points."""
    signal = CATALOGUE.get((kind, name))
    max_age_ns = signal.max_age_ns if signal is not None and signal.max_age_ns > 0 else 60 * NS
    return (max_age_ns + POINT_EVERY_NS) // TENTH_NS


def _unit(kind: str, name: str) -> str:
    try:
        signal = CATALOGUE.get((Kind(kind), name))
    except ValueError:
        signal = None
    return "1" if signal is None else signal.unit
