"""The engine (floor 4): `step(event) -> Transition(records, actions, wake_at)` decides everything and touches nothing.

    engine = Engine(topology=topology, house=HouseLimits(), build="0.1.0")
    engine.load(runbooks); engine.step(RunbooksLoaded(at=at, runbooks={path: digest}))
    transition = engine.step(Observed(at=at, source="dydx", rows=rows))

One total order: dues before the event, each at its own time, hot before cold; the event; dues at the event's own time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import assert_never, cast

from daemon.engine.actions import Action
from daemon.engine.apply import apply
from daemon.engine.codec import decode_as, encode_as
from daemon.engine.command import command, scheduled
from daemon.engine.contract import HotSide
from daemon.engine.edge import Edge
from daemon.engine.events import (
    ActionSettled,
    Event,
    FeedFailed,
    Gap,
    Observed,
    OperatorCommand,
    Row,
    RunbooksLoaded,
    Scheduled,
    Woke,
)
from daemon.engine.hot import Hot, Sources
from daemon.engine.limits import HouseLimits
from daemon.engine.observe import feed_failed, held_back, knowledge_back, observe, watched
from daemon.engine.react import close, dues, react, take_edges
from daemon.engine.records import ActionFinished, HoldReset, Record, RunbooksInForce
from daemon.engine.state import Cold
from daemon.engine.status import Lacks, Status, describe
from daemon.engine.turn import Turn
from daemon.language.catalogue import BLOCK_AGE_LIMIT_S
from daemon.runbook.load import load_documents
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, NEVER, show
from daemon.world.entities import Kind, Topology

COLD = "cold"  # the name of the cold state's blob in a checkpoint
CLOCK = "clock"  # the blob that holds the last instant, and the last the cold side reacted at
DUES_MAX = 1_000_000  # dues between two events; more is a timer that never moves on


@dataclass(frozen=True, slots=True, kw_only=True)
class Transition:
    """What one step decided, what it asks of the edges, and when it wants to be woken; FOREVER: nothing is due."""

    records: tuple[Record, ...]
    actions: tuple[Action, ...]
    wake_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """The cold side of an engine at one instant."""

    cold: Cold
    library: Mapping[str, Runbook]
    now: int
    reacted_at: int
    cold_due: int
    watched: frozenset[tuple[Kind, str]]
    waits: bool
    dead: frozenset[str]
    lost: bool


class Engine:
    """The only stateful class of the core: hot state, cold state, and the runbook versions they refer to."""

    def __init__(
        self,
        *,
        topology: Topology,
        house: HouseLimits,
        build: str,
        documents: Callable[[str], str] | None = None,
        hot: HotSide | None = None,
        sources: Sources | None = None,
    ) -> None:
        self.topology = topology
        self.house = house
        self.build = build
        self.hot: HotSide = hot if hot is not None else Hot(topology, sources)
        self.cold = Cold()
        self._documents = documents
        self._library: dict[str, Runbook] = {}
        self._named: dict[str, frozenset[tuple[Kind, str]]] = {}  # of the library, never more than it holds
        self._next: tuple[Runbook, ...] | None = None
        self._now = NEVER
        self._reacted_at = NEVER
        self._cold_due = FOREVER
        self._watched: frozenset[tuple[Kind, str]] = frozenset()
        self._waits = False  # some run, in flight or still to start, waits for a reading
        self._dead: frozenset[str] = frozenset()  # venues whose blocks are too old, as people were told
        self._lost = False  # some trigger lacks readings and people were told
        self._muted = False
        self._restored = False

    # --- runbooks -----------------------------------------------------------------------------------------------------

    def load(self, runbooks: Sequence[Runbook]) -> None:
        """Hand over the set that the next `RunbooksLoaded` puts in force; parsed outside, kept by digest."""
        self._next = tuple(runbooks)
        self._library |= {book.digest: book for book in runbooks}

    def book(self, runbook: str) -> Runbook | None:
        """The version of a runbook that is in force; None when there is none."""
        digest = self.cold.in_force.get(runbook)
        return self._library.get(digest) if digest else None

    def _set_of(self, event: RunbooksLoaded) -> tuple[Runbook, ...]:
        """The runbooks an event names: those handed over, else from the journal's documents."""
        if self._next is not None:
            return self._next
        assert self._documents is not None or not event.runbooks, "the runbooks were neither loaded nor are documents at hand"
        texts = {path: self._text(digest) for path, digest in event.runbooks.items()}
        books = load_documents(texts).runbooks
        self._library |= {book.digest: book for book in books}
        return books

    def _text(self, digest: str) -> str:
        assert self._documents is not None
        return self._documents(digest)

    def _link(self, books: Sequence[Runbook]) -> list[tuple[str, str, str]]:
        return self.hot.link([book for book in books if book.stage != "disabled"])

    # --- deciding -----------------------------------------------------------------------------------------------------

    def step(self, event: Event) -> Transition:
        """Decide everything that follows from `event`, which is not earlier than the one before."""
        edges: list[Edge] | None = None
        if isinstance(event, Observed) and self._undisturbed(event):
            # The path of nearly every observation: nothing due, nobody waits for it, and most often no edge.
            self._now = event.at
            edges = self.hot.take(event.rows, event.at, event.history)
            if not edges and self.hot.next_due > event.at:
                return Transition(records=(), actions=(), wake_at=min(self.hot.next_due, self._cold_due))
        turn = self._turn(event.at)
        if self._muted:
            self._muted = False
            self.hot.mute(False)
        if self._restored:
            self._restored = False
            self._look_anew(turn)
        if edges is not None:
            pass  # undisturbed: nothing was due before it
        elif isinstance(event, Gap):
            # What was due while somebody still watched; nothing fires inside the gap itself.
            self._pass_time(turn, event.since, inclusive=True)
        else:
            self._pass_time(turn, event.at, inclusive=False)
        turn.at = self._now = max(event.at, self._now)
        reacts = self._take(turn, event, edges)
        # A hold due at this very instant belongs to it: its edge is known before anybody reacts.
        reacts = self._hot_dues_at(turn) or reacts
        if reacts or self._cold_due <= turn.at:
            self._react(turn)
        return Transition(records=tuple(turn.records), actions=tuple(turn.actions), wake_at=self.next_due)

    @property
    def attentive(self) -> bool:
        """True while the cold side must see rows of every kind: people were told that readings are missing, or a restore is fresh."""
        return self._lost or self._restored or self._muted

    def taken(self, at: int, edges: Sequence[Edge]) -> Transition:
        """As `step(Observed)`, for rows that the hot side took already (a replay's columns): nothing was due before `at`, none of the
        rows is watched, and the engine is not `attentive`."""
        turn = self._turn(at)
        turn.at = self._now = max(at, self._now)
        take_edges(turn, edges)
        reacts = self._hot_dues_at(turn) or bool(edges)
        if reacts or self._cold_due <= turn.at:
            self._react(turn)
        return Transition(records=tuple(turn.records), actions=tuple(turn.actions), wake_at=self.next_due)

    @property
    def next_due(self) -> int:
        """When the engine wants to be woken, a lower bound; FOREVER when nothing is due. At once after a restore."""
        return self._now if self._restored else min(self.hot.next_due, self._cold_due)

    def _turn(self, at: int) -> Turn:
        return Turn(at=at, cold=self.cold, hot=self.hot, library=self._library, topology=self.topology, house=self.house, named=self._named)

    def _pass_time(self, turn: Turn, limit: int, *, inclusive: bool) -> None:
        """Everything due before `limit` (or at it), each at its own time, hot before cold."""
        last = limit if inclusive else limit - 1
        for _ in range(DUES_MAX):
            bound = min(last, self._cold_due)
            if self.hot.next_due <= bound:
                due, edges = self.hot.fire_due(bound)
                if edges:
                    self._at(turn, due)
                    take_edges(turn, edges)
                    self._react(turn)
                elif due == bound and self.hot.next_due <= bound:
                    raise AssertionError(f"the hot side is due at {self.hot.next_due} and does nothing")
                continue
            if self._cold_due > last:
                return
            self._at(turn, self._cold_due)
            self._react(turn)
        raise AssertionError(f"dues do not end before {limit}")

    def _hot_dues_at(self, turn: Turn) -> bool:
        """Fire what is hot and due at the turn's instant; True when an edge came of it."""
        found = False
        while self.hot.next_due <= turn.at:
            before = self.hot.next_due
            _, edges = self.hot.fire_due(turn.at)
            take_edges(turn, edges)
            found = found or bool(edges)
            assert edges or self.hot.next_due > before, "a hot due does not move on"
        return found

    def _at(self, turn: Turn, due: int) -> None:
        """Move the turn to a due time, never back: what came due in a gap is looked at after it."""
        turn.at = self._now = max(due, self._now)

    def _react(self, turn: Turn) -> None:
        react(turn)
        self._reacted_at = turn.at
        self._look_anew(turn)

    def _look_anew(self, turn: Turn) -> None:
        """Work out from the cold state what it waits for: times after the last reaction, and entities."""
        self._cold_due = min((due for due in dues(turn) if due > self._reacted_at), default=FOREVER)
        self._watched = watched(turn)
        self._waits = bool(self.cold.runs) or bool(held_back(turn))
        self._lost = any(memory.unknown for memory in self.cold.memories.values())
        self.hot.watch(self._watched)

    def _undisturbed(self, event: Observed) -> bool:
        """True when an observation can reach the hot side at once: no due before or at it, and the cold side does not look at its rows."""
        at = event.at
        if self._restored or self._muted or self._lost or at < self._now or self._cold_due <= at or self.hot.next_due < at:
            return False
        if any(self._turns(row) for row in event.rows):
            return False
        return not self._watched or not self._concerns(event.rows)

    def _take(self, turn: Turn, event: Event, edges: list[Edge] | None) -> bool:
        """Take the event itself (its edges, where the hot side had it already); True when the cold side has to react."""
        match event:
            case Observed():
                return self._observed(turn, event, edges)
            case FeedFailed():
                feed_failed(turn, event.source, event.reason)
                self._lost = any(memory.unknown for memory in self.cold.memories.values())
                return False
            case Gap():
                for runbook, entity in self.hot.gap(event.at, event.since):
                    reason = f"{event.cause}: nobody watched for longer than its hold bears"
                    turn.emit(HoldReset(at=turn.at, runbook=runbook, entity=entity, reason=reason))
                return True
            case ActionSettled():
                sent = self.cold.sent.get(event.action_id)
                if sent is None or (sent.unknown and event.outcome.status == "unknown"):
                    return False  # a notice, a gate, or an answer that came twice
                turn.emit(ActionFinished(at=turn.at, action_id=event.action_id, run_id=sent.run_id, outcome=event.outcome))
                return True
            case OperatorCommand():
                command(turn, event)
                return True
            case RunbooksLoaded():
                self._put_in_force(turn, self._set_of(event))
                return True
            case Scheduled():
                scheduled(turn, event)
                return False
            case Woke():
                return False
            case _:
                assert_never(event)

    def _observed(self, turn: Turn, event: Observed, taken: list[Edge] | None) -> bool:
        edges = self.hot.take(event.rows, turn.at, event.history) if taken is None else taken
        if event.history:
            return False
        looked = bool(self._watched) and self._concerns(event.rows)
        if looked:
            observe(turn, event.rows)
        self._look_at_venues(turn, event.rows)
        if self._lost:
            knowledge_back(turn)
            self._lost = any(memory.unknown for memory in self.cold.memories.values())
        if edges:
            take_edges(turn, edges)
        # A reading alone moves nothing but a run that waits for it, in flight or still to start.
        return bool(edges) or bool(turn.records) or (looked and self._waits)

    def _look_at_venues(self, turn: Turn, rows: Sequence[Row]) -> None:
        """A venue whose blocks are too old blinds every runbook about it although its polls succeed: people are told as of a lost feed."""
        for row in rows:
            if not self._turns(row):
                continue
            self._dead ^= {row.entity}
            if row.entity in self._dead:
                feed_failed(turn, row.entity, f"its last block is {show(row.values['block_age'], 's')} old")
                self._lost = any(memory.unknown for memory in self.cold.memories.values())

    def _turns(self, row: Row) -> bool:
        """True when a row tells that a venue's blocks have become too old, or are young again."""
        if row.kind is not Kind.VENUE:
            return False
        age = row.values.get("block_age")
        return age is not None and age == age and (age > BLOCK_AGE_LIMIT_S) != (row.entity in self._dead)

    def _concerns(self, rows: Sequence[Row]) -> bool:
        return any((row.kind, row.entity) in self._watched for row in rows)

    def _put_in_force(self, turn: Turn, books: Sequence[Runbook]) -> None:
        """Reload: atomic, instances whose logic changed start anew, runs in flight finish on their own version."""
        self._next = None
        before = dict(self.cold.in_force)
        restarted = self._link(books)
        ended: dict[tuple[str, str], str] = {(runbook, entity): reason for runbook, entity, reason in restarted}
        kept = {book.id for book in books if book.stage != "disabled"}
        for episode in self.cold.episodes.values():
            if episode.open and episode.runbook not in kept:
                ended[episode.runbook, episode.entity] = "the runbook was removed or disabled"
        for (runbook, entity), reason in sorted(ended.items()):
            turn.emit(HoldReset(at=turn.at, runbook=runbook, entity=entity, reason=reason))
            book = turn.current(runbook)
            if book is not None:
                close(turn, book, entity, "reset", reason)
        turn.emit(RunbooksInForce(at=turn.at, runbooks={book.id: book.digest for book in books}))
        needed = {*self.cold.in_force.values(), *(run.digest for run in self.cold.runs.values()), *before.values()}
        self._library = {digest: book for digest, book in self._library.items() if digest in needed}
        self._named = {digest: names for digest, names in self._named.items() if digest in needed}

    # --- recovery -----------------------------------------------------------------------------------------------------

    def apply_entry(self, entry: Event | Record) -> None:
        """Recovery: rows through the hot side with edges muted, records through `apply`; nothing is decided."""
        if not self._muted:
            self._muted = True
            self.hot.mute(True)
        match entry:
            case Observed():
                self._pass_hot(entry.at, inclusive=False)
                self.hot.take(entry.rows, entry.at, entry.history)
                self._pass_hot(entry.at, inclusive=True)
            case Gap():
                self._pass_hot(entry.since, inclusive=True)
                self.hot.gap(entry.at, entry.since)
                self._pass_hot(entry.at, inclusive=True)
            case RunbooksLoaded():
                self._pass_hot(entry.at, inclusive=False)
                self._link(self._set_of(entry))
                self._next = None
            case FeedFailed() | ActionSettled() | OperatorCommand() | Scheduled() | Woke():
                self._pass_hot(entry.at, inclusive=True)
            case _:
                apply(self.cold, entry)
        self._now = self._reacted_at = max(self._now, entry.at)
        self._restored = True

    def _pass_hot(self, limit: int, *, inclusive: bool) -> None:
        last = limit if inclusive else limit - 1
        while self.hot.next_due <= last:
            before = self.hot.next_due
            self.hot.fire_due(last)
            assert self.hot.next_due > before, "a hot due does not move on"

    def checkpoint(self) -> Mapping[str, bytes]:
        """Everything that `restore` needs, as blobs by name; the cold state is JSON."""
        blobs = dict(self.hot.checkpoint())
        assert not {COLD, CLOCK} & set(blobs), "the hot side must not use the names of the cold state"
        blobs[COLD] = encode_as(self.cold, Cold).encode()
        blobs[CLOCK] = encode_as((self._now, self._reacted_at), tuple[int, int]).encode()
        return blobs

    def restore(self, blobs: Mapping[str, bytes]) -> None:
        """Take a checkpoint; the runbooks it was made under were handed over by `load`, or are at hand as documents."""
        cold = cast("Cold", decode_as(blobs[COLD].decode(), Cold))
        wanted = {*cold.in_force.values(), *(run.digest for run in cold.runs.values())}
        missing = sorted(wanted - set(self._library))
        if self._documents is not None:
            for digest in missing:
                books = load_documents({f"{digest[:12]}.yaml": self._text(digest)}).runbooks
                self._library |= {book.digest: book for book in books}
        missing = sorted(wanted - set(self._library))
        assert not missing, f"the checkpoint needs runbooks that are not at hand: {', '.join(missing)}"
        self.cold = cold
        self._link([self._library[digest] for digest in cold.in_force.values()])
        self.hot.restore({name: blob for name, blob in blobs.items() if name not in (COLD, CLOCK)})
        self._now, self._reacted_at = cast("tuple[int, int]", decode_as(blobs[CLOCK].decode(), tuple[int, int]))
        self._restored = True

    # --- looking in ---------------------------------------------------------------------------------------------------

    def mark(self) -> Mark:
        """The cold side as it stands, to `go_back` to; the hot side remembers for itself."""
        return Mark(
            cold=self.cold.copied(), library=dict(self._library), now=self._now, reacted_at=self._reacted_at, cold_due=self._cold_due,
            watched=self._watched, waits=self._waits, dead=self._dead, lost=self._lost,
        )  # fmt: skip

    def go_back(self, mark: Mark) -> None:
        """As it stood at a mark: for worlds that begin alike and are played one after the other."""
        self.cold = mark.cold.copied()
        self._library = dict(mark.library)
        self._now, self._reacted_at, self._cold_due = mark.now, mark.reacted_at, mark.cold_due
        self._watched, self._waits, self._dead, self._lost = mark.watched, mark.waits, mark.dead, mark.lost
        self.hot.watch(self._watched)

    def unsettled(self) -> tuple[Action, ...]:
        """Actions whose outcome is not known for certain: what a start has to look up before anything else."""
        return tuple(sent.action for sent in self.cold.sent.values())

    @property
    def now(self) -> int:
        """The instant of the last event or due, ns UTC; NEVER before the first."""
        return self._now

    def look(self, at: int) -> Turn:
        """A turn at `at` to look in with: whoever holds it reads, and emits nothing."""
        return self._turn(max(at, self._now))

    def snapshot(self, lacks: Lacks | None = None) -> Status:
        """An immutable view for status pages; with `lacks` a brief one, which costs little with thousands of instances."""
        return describe(self._turn(self._now), self.build, lacks)


