"""Start == recover (floor 7): checkpoint, then the entries after it applied, never decided anew; then what was in flight is looked up.

`Standing` is what the service must remember beside the engine; it follows the same events and records, live and in recovery.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from daemon.engine.codec import decode, decode_as, dumps, encode_as
from daemon.engine.engine import Engine
from daemon.engine.events import Event, Observed, OperatorCommand, RunbooksLoaded, Woke
from daemon.engine.records import Record
from daemon.journal.store import Journal
from daemon.runbook.model import Runbook
from daemon.service.loop import Position
from daemon.world.entities import Account, Kind, Route, Topology, Venue

STANDING = "service"  # the name of its blob in a checkpoint
HALT_FLAG = "halt-file-"  # command ids of the halt flag begin with this
SetReader = Callable[[RunbooksLoaded], Sequence[Runbook]]  # the runbooks that an event names, read from the journal's documents


@dataclass(slots=True, kw_only=True)
class Standing:
    """What the service remembers beside the engine."""

    in_force: RunbooksLoaded | None = None
    histories: tuple[str, ...] = ()  # sources whose past was read
    halt_flag: str = ""  # the command of the halt flag that is in force

    def follow(self, entry: Event | Record) -> None:
        """Take note of an event or record that is on disk."""
        match entry:
            case RunbooksLoaded():
                self.in_force = entry
            case Observed() if entry.history and entry.source not in self.histories:
                self.histories = (*self.histories, entry.source)
            case OperatorCommand() if entry.command_id.startswith(HALT_FLAG):
                self.halt_flag = entry.command_id if entry.verb == "halt" else ""
            case OperatorCommand() if entry.verb == "resume" and entry.target == "":
                self.halt_flag = ""  # whoever resumes everything takes the flag away with it
            case _:
                pass

    def blobs(self) -> Mapping[str, bytes]:
        """Its part of a checkpoint."""
        return {STANDING: encode_as(self, Standing).encode()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Recovered:
    """What a start found: where the journal stands, what the service knew, and how much was applied. `fresh`: nothing was there.

    `undecided` is the last observation when it is on disk behind every decision: the life before may have ended between the commit of
    the feed and the commit of what it decided. Nothing can have been sent for it; `Loop.redecide` decides it, and most often nothing.
    """

    position: Position
    standing: Standing
    applied: int
    fresh: bool
    undecided: Observed | None = None


def recover(engine: Engine, journal: Journal, read_set: SetReader) -> Recovered:
    """Bring a new engine to where the journal ends. Raises JournalError, and UserError when the set in force cannot be read."""
    standing, position, after, applied = Standing(), Position(), 0, 0
    checkpoint = journal.latest_checkpoint()
    if checkpoint is not None:
        blobs = dict(checkpoint.blobs)
        standing = cast("Standing", decode_as(blobs.pop(STANDING).decode(), Standing))
        if standing.in_force is not None:
            engine.load(read_set(standing.in_force))
        engine.restore(blobs)
        position.at, after = checkpoint.at, checkpoint.seq
    decided = journal.head()[0]
    undecided: Observed | None = None
    for entry in journal.entries(after):
        decoded = decode(entry.body)
        if undecided is not None:
            engine.apply_entry(undecided)
            undecided = None
        position.at = max(position.at, entry.at)
        applied += 1
        if isinstance(decoded, Observed) and entry.seq > decided and not journal.restored:
            undecided = decoded  # a restored backup may lack decisions whose orders were sent: there nothing is decided anew
            continue
        if isinstance(decoded, RunbooksLoaded):
            engine.load(read_set(decoded))
        engine.apply_entry(decoded)
        standing.follow(decoded)
    if position.at and undecided is None:
        recovered_at(engine, position.at)
    # A number may have been given to a wake-up that left no entry: the next one only has to be greater than all on disk.
    position.seq = max(journal.last_seq(), after)
    return Recovered(position=position, standing=standing, applied=applied, fresh=position.seq == 0, undecided=undecided)


def recovered_at(engine: Engine, at: int) -> None:
    """Tell a recovered engine what time it was when somebody last watched; the gap that opens the start begins there."""
    engine.apply_entry(Woke(at=at))


def describe_topology(topology: Topology) -> str:
    """The topology as canonical JSON, to be kept as a document."""
    venues = {
        venue.id: {
            "chain": venue.chain,
            "model": venue.model,
            "valued_at": list(venue.valued_at),
            "funding_interval_ns": venue.funding_interval_ns,
            "provides": None if venue.provides is None else {kind.value: sorted(names) for kind, names in venue.provides.items()},
        }
        for venue in topology.venues.values()
    }
    return dumps(
        {
            "venues": venues,
            "accounts": {name: decoded(encode_as(account, Account)) for name, account in topology.accounts.items()},
            "routes": {name: decoded(encode_as(route, Route)) for name, route in topology.routes.items()},
            "labels": {name: dict(labels) for name, labels in topology.labels.items()},
        }
    )


def read_topology(text: str) -> Topology:
    """The topology that `describe_topology` printed."""
    body = decoded(text)
    venues = {}
    for name, venue in body["venues"].items():
        provides = venue["provides"]
        venues[name] = Venue(
            id=name,
            chain=venue["chain"],
            model=venue["model"],
            valued_at=tuple(venue["valued_at"]),
            funding_interval_ns=venue["funding_interval_ns"],
            provides=None if provides is None else {Kind(kind): frozenset(names) for kind, names in provides.items()},
        )
    return Topology(
        venues=venues,
        accounts={name: cast("Account", decode_as(json.dumps(account), Account)) for name, account in body["accounts"].items()},
        routes={name: cast("Route", decode_as(json.dumps(route), Route)) for name, route in body["routes"].items()},
        labels=body["labels"],
    )


def decoded(text: str) -> Any:
    """JSON text as plain values."""
    return json.loads(text)
