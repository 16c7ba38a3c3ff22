"""The past behind the surface (floor 7): which runs, episodes and acts there were, followed as they come and found again at a start.

    chronicle.follow(event, transition, seq)         # on the loop's thread, after every commit: microseconds
    chronicle.load(Reader(journal.path), under_way)  # in a thread of its own: what was before this start
    chronicle.runs(RunQuery(runbook="spike"))        # from any thread

While `complete` is False the journal is still being read, and only what happened since the start is known.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from typing import cast

from daemon.engine.codec import decode
from daemon.engine.engine import Transition
from daemon.engine.events import Event, FeedFailed, Gap, Observed, Woke
from daemon.engine.records import ActionRequested, Record
from daemon.journal.reader import Reader, Stored, storable
from daemon.service.annals import ACTS_MAX, EPISODES_MAX, RUNS_MAX, Annals, RunRow
from daemon.service.happenings import Happenings
from daemon.service.views import ActView, EpisodeView, Happening, RunQuery, RunView
from daemon.units import NS, iso, show_duration

RECORDS_KEPT = 1_000_000  # the tail of the journal that a start looks at
PORTION_PAUSE_S = 0.002  # between portions of the journal, so that the loop's thread is not kept from its turn
TOUCHING = (
    "StepStarted",
    "StepFinished",
    "LocksTaken",
    "LocksReleased",
    "ActionDenied",
    "ActionWould",
    "LimitClipped",
    "LegAbandoned",
    "LegFinished",
)  # records that `Annals` only takes as a sign of life of their run
TAKEN = (
    *TOUCHING,
    "TriggerChanged",
    "RunStarted",
    "RunRefused",
    "RunFinished",
    "StepWaiting",
    "StepPlanned",
    "RetryScheduled",
    "ApprovalRequested",
    "ApprovalAnswered",
    "ActionRequested",
    "ActionFinished",
    "MoveProgress",
)  # what `Annals.take` does not pass over; a test holds the two together
ENDS = ("RunFinished", "RunRefused")


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a run stands in the journal: seq of its first and last record, and of the firing that it answers."""

    first: int
    last: int
    fired: int


class Chronicle:
    """The index of runs, episodes and acts, and the stream of what happens."""

    def __init__(self, *, runs_max: int = RUNS_MAX, episodes_max: int = EPISODES_MAX, acts_max: int = ACTS_MAX) -> None:
        self._bounds = (runs_max, episodes_max, acts_max)
        self._annals = Annals(runs_max=runs_max, episodes_max=episodes_max, acts_max=acts_max)
        self._pending: list[tuple[int, Sequence[Record]]] = []  # followed while the journal is being read
        self._through = 0  # what is up to this seq came from the journal
        self._lock = threading.Lock()
        self._complete = False
        self._failing: set[str] = set()  # sources whose last poll failed
        self._stopping = threading.Event()
        self.happenings = Happenings(requested=self.requested)

    @property
    def complete(self) -> bool:
        """True when everything the journal has (within the bounds) is in here."""
        return self._complete

    # --- the loop's thread --------------------------------------------------------------------------------------------

    def follow(self, event: Event, transition: Transition, seq: int) -> None:
        """Take note of an event and its records, which are on disk. Call it for every event, in order."""
        records = transition.records
        told = self._event(event, seq)
        if not records and told is None:
            return
        if records:
            with self._lock:
                if seq > self._through:
                    take = self._annals.take
                    for record in records:
                        take(seq, record)
                    if not self._complete:
                        self._pending.append((seq, records))
        self.happenings.publish(seq, records if told is None else (told, *records))

    def _event(self, event: Event, seq: int) -> Happening | None:
        """The few events that are told beside their records: time that nobody watched, a feed that fails and one that is back."""
        if isinstance(event, Woke):
            return None
        if isinstance(event, Observed):
            if not self._failing or event.source not in self._failing:
                return None
            self._failing.discard(event.source)
            return Happening(seq=seq, at=iso(event.at), kind="FeedBack", summary=f"{event.source} is back")
        if isinstance(event, FeedFailed):
            if event.source in self._failing:
                return None
            self._failing.add(event.source)
            return Happening(
                seq=seq, at=iso(event.at), kind="FeedFailed", summary=f"{event.source} fails: {event.reason}", severity="warning"
            )
        if isinstance(event, Gap):
            since_s = max(0.0, (event.at - event.since) / NS) if event.since > 0 else 0.0
            said = f"nobody watched for {show_duration(since_s)}" if since_s else "first start"
            return Happening(seq=seq, at=iso(event.at), kind="Gap", summary=f"{said} ({event.cause}): holds start anew", severity="warning")
        return None

    # --- a thread of its own ------------------------------------------------------------------------------------------

    def load(self, reader: Reader, under_way: Sequence[str] = ()) -> None:
        """Read what the journal has of the past and join it with what was followed meanwhile. `under_way`: ids of runs that have not
        ended, found however long ago they began. Raises JournalError; then what was followed since the start stays all there is."""
        annals = Annals(runs_max=self._bounds[0], episodes_max=self._bounds[1], acts_max=self._bounds[2])
        through = reader.last_seq()
        wanted = {"RunStarted": self._bounds[0], "RunRefused": self._bounds[0], "TriggerChanged": 2 * self._bounds[1]}
        first_seq: int | None = None
        for portion in reader.latest(wanted, TAKEN, brief=TOUCHING, entries_max=RECORDS_KEPT):
            if first_seq is None and portion:
                first_seq = portion[0][0]
                self._take_elders(reader, annals, under_way, first_seq)
            for seq, kind, text in portion:
                if seq > through:
                    break
                if kind in TOUCHING:
                    annals.touch(seq, text)
                else:
                    _take(annals, seq, text)
            if self._stopping.wait(PORTION_PAUSE_S):
                return
        with self._lock:
            for seq, records in self._pending:
                if seq > through:
                    for record in records:
                        annals.take(seq, record)
            self._annals, self._pending, self._through, self._complete = annals, [], through, True

    def stop(self) -> None:
        """Let a `load` under way end soon, and the stream's readers."""
        self._stopping.set()
        self.happenings.close()

    def _take_elders(self, reader: Reader, annals: Annals, under_way: Sequence[str], before_seq: int) -> None:
        """Runs under way that began before the tail of the journal that is read."""
        for run_id in under_way:
            place = find(reader, run_id)
            for stored in entries_of(reader, run_id, place) if place is not None else ():
                if stored.seq < before_seq and stored.type in TAKEN:
                    _take(annals, stored.seq, stored.body)

    # --- any thread ---------------------------------------------------------------------------------------------------

    def runs(self, query: RunQuery) -> tuple[RunView, ...]:
        """The runs that fit, newest first, refused ones too; those older than the run `before`, when it is given and known."""
        with self._lock:
            rows = [*self._annals.elders.values(), *self._annals.runs.values()]
        rows.reverse()
        found: list[RunRow] = []
        waiting = bool(query.before)
        for row in rows:
            if waiting:
                waiting = row.run_id != query.before
                continue
            if (
                (not query.runbook or row.runbook == query.runbook)
                and (not query.entity or row.entity == query.entity)
                and (not query.status or row.status == query.status)
            ):
                found.append(row)
                if len(found) >= query.limit:
                    break
        return self._views(found)

    def running(self) -> tuple[RunView, ...]:
        """Runs under way, oldest first."""
        with self._lock:
            rows = list(self._annals.running.values())
        return self._views(rows)

    def recent(self, count: int) -> tuple[RunView, ...]:
        """The runs that ended last, the latest first."""
        with self._lock:
            rows = list(islice(reversed(self._annals.ended), count))
        return self._views(rows)

    def run(self, run_id: str) -> RunView | None:
        """One run; None when it is not (or no longer) in here: `moments.run_detail` finds it in the journal all the same."""
        with self._lock:
            row = self._annals.run(run_id)
            return None if row is None else row.view()

    def place(self, run_id: str) -> Place | None:
        """Where the run stands in the journal; None when it is not in here."""
        with self._lock:
            row = self._annals.run(run_id)
            if row is None:
                return None
            episode = self._annals.episodes.get(row.episode)
            return Place(first=row.seq_first, last=row.seq_last, fired=row.seq_first if episode is None else episode.seq)

    def episodes(self, limit: int = 200) -> tuple[EpisodeView, ...]:
        """The latest episodes, newest first."""
        with self._lock:
            return tuple(row.view() for row in islice(reversed(self._annals.episodes.values()), limit))

    def acts(self, limit: int = 50) -> tuple[ActView, ...]:
        """The latest writes, newest first."""
        with self._lock:
            return tuple(row.view() for row in islice(reversed(self._annals.acts.values()), limit))

    def requested(self, action_id: str) -> ActionRequested | None:
        """The intent of an act; None when it is not among the latest."""
        with self._lock:
            act = self._annals.acts.get(action_id)
            return None if act is None else act.requested

    def _views(self, rows: Sequence[RunRow]) -> tuple[RunView, ...]:
        views = []
        for row in rows:
            with self._lock:  # a row at a time: the loop's thread never waits for a page
                views.append(row.view())
        return tuple(views)


def find(reader: Reader, run_id: str) -> Place | None:
    """Where a run stands in the journal, looked for from the time on that its id begins with; None when it is not found. Raises
    JournalError."""
    episode = run_id.rpartition("/")[0]
    fired = re.search(r"/(\d{1,19})\+*$", episode)
    if fired is None or not storable(run_id):
        return None
    since = int(fired[1])
    # Its own records name the run, those about its transfers an action of it.
    span = reader.span(f'"{run_id}"', f'"{run_id}.', since=since, last=ENDS)
    of_episode = reader.span(f'"{episode}"', since=since, last=ENDS)
    if span is None or of_episode is None:
        return None
    return Place(first=span[0], last=span[1], fired=of_episode[0])


def entries_of(reader: Reader, run_id: str, place: Place, *, limit: int = 5_000) -> tuple[Stored, ...]:
    """Every record that may be about a run, in order: what names its episode, and sizes, resources and pauses meanwhile. Raises
    JournalError."""
    episode = run_id.rpartition("/")[0]
    fired = reader.between(place.fired, place.fired, texts=(episode,)) if place.fired < place.first else ()
    return fired + reader.between(place.first, place.last, texts=(episode,), types=("ResourceSeen", "SizeChanged", "PauseSet"), limit=limit)


def _take(annals: Annals, seq: int, body: str) -> None:
    try:
        record = cast("Record", decode(body))
    except (ValueError, KeyError):
        return  # an entry of another build: what it says of a run is not known here
    annals.take(seq, record)
