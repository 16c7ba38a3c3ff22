"""Deterministic simulation: the real engine, loop, dispatcher and recovery on a clock that jumps, against a venue that loses, delays and
half-does things, and a process that dies before or after any commit. Every seed must lose nothing and double nothing; and the test is
itself tested: a dispatcher that sends again, or does not wait for the expiry, is caught.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from decimal import Decimal
from typing import cast

import pytest
from service_processes import RUNBOOK
from service_world import ORIGIN_NS, START_S, run_virtual

from daemon.engine.actions import Action, Outcome, ShrinkPosition
from daemon.engine.codec import decode
from daemon.engine.engine import Engine
from daemon.engine.events import ActionSettled, Observed, Row, RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.engine.records import ActionRequested
from daemon.errors import EdgeError, UnknownOutcome
from daemon.journal.entry import Checkpoint, Entry, OutboxItem
from daemon.journal.store import Journal
from daemon.runbook.load import load_text
from daemon.runbook.model import Runbook
from daemon.service import dispatcher as dispatching
from daemon.service.clock import AcceleratedClock, Clock
from daemon.service.dispatcher import Dispatcher, Wired
from daemon.service.inbox import Inbox
from daemon.service.loop import Loop, Mail
from daemon.service.recover import Standing, recover
from daemon.service.verify import verify
from daemon.units import FOREVER, NS
from daemon.world.entities import Account, Kind, Topology, Venue

SEEDS = 8
LIVES = 5
LIFE_S_MAX = 40.0
QUIET_S = 60.0  # after the last crash nothing goes wrong any more: what is open must come to its end
VENUE_LAG_NS = 3 * NS // 10  # the venue's clock is behind ours by this
TOPOLOGY = Topology(venues={"dydx": Venue(id="dydx")}, accounts={"dydx": Account(id="dydx", venue="dydx")})
PATH = "grinder.yaml"


class Crash(Exception):
    """The process is gone."""


def now_ns() -> int:
    return ORIGIN_NS + round((asyncio.get_running_loop().time() - START_S) * NS)


@dataclass(slots=True)
class Disk:
    """What survives a crash: committed entries, the last checkpoint. As a journal it may die around any commit."""

    chance: random.Random
    entries_kept: list[Entry] = field(default_factory=list)
    kept: Checkpoint | None = None
    waiting: list[Entry] = field(default_factory=list)  # observations not on disk yet: a crash loses them
    deadly: bool = True

    def append(self, event: Entry | None, records: Sequence[Entry], outbox: Sequence[OutboxItem] = ()) -> Future[None]:
        if self.deadly and self.chance.random() < 0.02:
            raise Crash
        self.entries_kept += self.waiting
        self.waiting.clear()
        if event is not None and event.type == "Observed":
            # The feed commits first: a crash here leaves an observation on disk without what it decided.
            self.entries_kept.append(event)
            event = None
            if self.deadly and self.chance.random() < 0.04:
                raise Crash
        self.entries_kept += [*([event] if event else []), *records]
        if self.deadly and self.chance.random() < 0.02:
            raise Crash
        return _done()

    restored = False

    def head(self) -> tuple[int, str]:
        return max((entry.seq for entry in self.entries_kept if entry.type != "Observed"), default=0), ""

    def observe(self, entry: Entry) -> None:
        self.waiting.append(entry)

    def write_checkpoint(self, seq: int, at: int, blobs: Mapping[str, bytes]) -> Future[None]:
        self.entries_kept += self.waiting
        self.waiting.clear()
        self.kept = Checkpoint(seq=seq, at=at, blobs=dict(blobs))
        return _done()

    def latest_checkpoint(self) -> Checkpoint | None:
        return self.kept

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        return iter([entry for entry in self.entries_kept if entry.seq > after_seq])

    def last_seq(self) -> int:
        return max((entry.seq for entry in self.entries_kept), default=0)


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


class FaultyVenue:
    """Executes reduce-only orders at most until their expiry on its own late clock; loses, delays and half-does what a seed says."""

    name = "faulty"

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.size = Decimal(100)
        self.executed: dict[str, Outcome] = {}
        self.executions: Counter[str] = Counter()
        self.kind = True  # nothing goes wrong
        self.at_the_last = False  # what is late arrives around its expiry, which the venue sees later than we do

    def takes(self, action: Action) -> bool:
        return isinstance(action, ShrinkPosition)

    async def close(self) -> None:
        return None

    def execute(self, action: ShrinkPosition) -> Outcome | None:
        """Fill the order unless it has expired here; the same id inside its window is not filled twice, as at dYdX."""
        if now_ns() - VENUE_LAG_NS > action.expires_at:
            return None
        if action.action_id not in self.executed:
            self.size -= action.size
            self.executions[action.action_id] += 1
            self.executed[action.action_id] = Outcome(status="done", filled_size=action.size, fill_price=Decimal(100))
        return self.executed[action.action_id]

    async def send(self, action: Action) -> Outcome:
        assert isinstance(action, ShrinkPosition)
        fate = "kind" if self.kind else self.chance.choice(("kind", "kind", "lost", "executed", "late", "late", "refused", "broken"))
        # Latencies from a continuous range: a few fixed values miss the races that matter.
        await asyncio.sleep(self.chance.uniform(0.001, 1.0))
        match fate:
            case "lost":
                raise UnknownOutcome("no answer", edge=self.name, reason="timeout")
            case "executed":
                self.execute(action)
                raise UnknownOutcome("HTTP 500", edge=self.name, reason="http_500")
            case "late":
                # It reaches the venue when it likes: before, at or after its expiry there.
                left_s = (action.expires_at - now_ns()) / NS
                delay_s = left_s + self.chance.uniform(0.0, 0.35) if self.at_the_last else self.chance.uniform(0.0, left_s + 1.0)
                asyncio.get_running_loop().call_later(delay_s, self.execute, action)
                raise UnknownOutcome("connection broken", edge=self.name, reason="broken")
            case "refused":
                raise EdgeError("HTTP 429", edge=self.name, reason="rate_limited", retryable=True)
            case "broken":
                self.execute(action)
                raise RuntimeError("a bug in the edge, after the order was filled")
            case _:
                return self.execute(action) or Outcome(status="failed", reason="expired")

    async def lookup(self, action: Action) -> Outcome | None:
        await asyncio.sleep(self.chance.uniform(0.001, 0.2))
        if not self.kind and self.chance.random() < 0.3:
            raise EdgeError("down", edge=self.name, reason="unreachable", retryable=True)
        return self.executed.get(action.action_id)

    def rows(self) -> tuple[Row, ...]:
        market = {
            "oracle_price": 100.0, "bid_price": 99.99, "ask_price": 100.01, "bid_size": 1e6, "ask_size": 1e6, "bid_depth": 1e8,
            "ask_depth": 1e8, "step_size": 0.001, "min_size": 0.001, "tick_size": 0.01, "imf": 0.02, "mmf": 0.012,
        }  # fmt: skip
        return (
            Row(kind=Kind.MARKET, entity="dydx:BTC-USD", values=market),
            Row(kind=Kind.ACCOUNT, entity="dydx", values={"collateral": 1e6, "open_orders": 0.0}),
            Row(kind=Kind.POSITION, entity="dydx:BTC-USD", values={"size": float(self.size), "entry_price": 100.0}),
            Row(kind=Kind.VENUE, entity="dydx", values={"taker_fee": 0.0005, "fixed_slippage": 0.0005}, event_ts=FOREVER),
        )


BOOKS = load_text(RUNBOOK.replace("timeout: 20s", "timeout: 4s"), PATH)
assert BOOKS.ok, BOOKS.errors
SET = RunbooksLoaded(at=0, runbooks={PATH: BOOKS.runbooks[0].digest})


def read_set(_event: RunbooksLoaded) -> Sequence[Runbook]:
    return BOOKS.runbooks


def new_engine() -> Engine:
    return Engine(topology=TOPOLOGY, house=HouseLimits(), build="simulation", documents=lambda _digest: BOOKS.runbooks[0].source)


async def live(disk: Disk, venue: FaultyVenue, clock: Clock, dispatcher_class: type[Dispatcher], seconds: float) -> None:
    """One life of a daemon: recovered from the disk, ended by a crash of its own or after `seconds`."""
    engine, inbox = new_engine(), Inbox()
    recovered = recover(engine, cast("Journal", disk), read_set)
    standing: Standing = recovered.standing
    dispatcher = dispatcher_class(edges=[venue], inbox=inbox, clock=clock)
    loop = Loop(
        engine=engine,
        journal=cast("Journal", disk),
        inbox=inbox,
        clock=clock,
        dispatcher=dispatcher,
        mail=Mail(channels={}, compose=lambda _notify, _at, _seq: ""),
        position=recovered.position,
        build="simulation",
        committed=lambda event, _transition: standing.follow(event),
        beside=standing.blobs,
    )

    async def poll() -> None:
        while True:
            before = sum(venue.executions.values())
            rows = venue.rows()
            await asyncio.sleep(venue.chance.uniform(0.01, 0.3))
            if sum(venue.executions.values()) == before:  # an account is read as of one moment, or read again
                inbox.put(Observed(at=0, source="poll", rows=rows))
            await asyncio.sleep(0.5)

    if recovered.undecided is not None:
        await loop.redecide(recovered.undecided)
    loop.begin(since=recovered.position.at)
    loop.bring(SET, BOOKS.runbooks)
    for action in engine.unsettled():
        dispatcher.resume(action)
    tasks = [asyncio.create_task(loop.run()), asyncio.create_task(poll())]
    done, _ = await asyncio.wait(tasks, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await dispatcher.stop()
    await asyncio.gather(*tasks, return_exceptions=True)
    disk.waiting.clear()
    for task in done:
        if not isinstance(task.exception(), Crash):
            task.result()


def play(seed: int, dispatcher_class: type[Dispatcher] = Dispatcher, *, at_the_last: bool = False) -> tuple[Disk, FaultyVenue]:
    """Some lives full of faults and one quiet one."""

    async def main() -> tuple[Disk, FaultyVenue]:
        chance = random.Random(seed)
        loop = asyncio.get_running_loop()
        clock = AcceleratedClock(speed=1.0, now_ns=ORIGIN_NS, monotonic=lambda: round(loop.time() * NS))
        disk, venue = Disk(chance), FaultyVenue(chance)
        venue.kind, venue.at_the_last = False, at_the_last
        for _ in range(LIVES):
            await live(disk, venue, clock, dispatcher_class, chance.uniform(0.5, LIFE_S_MAX))
            await asyncio.sleep(chance.uniform(0.0, 10.0))
        disk.deadly, venue.kind = False, True
        await live(disk, venue, clock, dispatcher_class, QUIET_S)
        return disk, venue

    return run_virtual(main())


def wrongs(disk: Disk, venue: FaultyVenue) -> list[str]:
    """Everything that was lost or doubled."""
    intents: dict[str, ActionRequested] = {}
    outcomes: dict[str, list[Outcome]] = defaultdict(list)
    for entry in disk.entries_kept:
        decoded = decode(entry.body)
        if isinstance(decoded, ActionRequested):
            intents[decoded.action.action_id] = decoded
        elif isinstance(decoded, ActionSettled):
            outcomes[decoded.action_id].append(decoded.outcome)
    found = [f"{action_id} was executed without an intent on disk" for action_id in venue.executed if action_id not in intents]
    found += [f"{action_id} was executed {n} times" for action_id, n in venue.executions.items() if n > 1]
    slices = Counter((intents[i].run_id, intents[i].step, intents[i].slice) for i in venue.executed if i in intents)
    found += [f"slice {key} was executed {n} times" for key, n in slices.items() if n > 1]
    last = list(intents)[-3:]  # the quiet life may end in the middle of one
    for action_id in intents:
        final = outcomes[action_id][-1] if outcomes[action_id] else None
        if final is None or final.status == "unknown":
            found += [] if action_id in last else [f"{action_id} never came to an outcome"]
        elif (final.status == "done") != (action_id in venue.executed):
            there = "executed" if action_id in venue.executed else "not executed"
            found.append(f"{action_id} is {final.status} in the journal and {there} at the venue")
    return found


@pytest.mark.parametrize("seed", range(SEEDS))
def test_nothing_is_lost_or_doubled_whatever_the_venue_does_and_whenever_the_process_dies(seed: int) -> None:
    disk, venue = play(seed)
    assert len(venue.executed) > 3
    assert wrongs(disk, venue) == []
    found = verify(disk.entries(), lambda _set, before: _carry(before), read_set)
    assert found.identical, found.difference


def _carry(before: Engine | None) -> Engine:
    engine = new_engine()
    if before is not None:
        engine.load(BOOKS.runbooks)
        engine.restore(before.checkpoint())
    return engine


def test_a_seed_plays_the_same_again() -> None:
    first, _ = play(3)
    second, _ = play(3)
    assert [entry.body for entry in first.entries_kept] == [entry.body for entry in second.entries_kept]


class SendsAgain(Dispatcher):
    """Planted bug: a lost answer is a failure, so that the engine arms again at once."""

    async def _send(self, edge: object, action: Wired) -> Outcome:
        outcome = await super()._send(cast("FaultyVenue", edge), action)
        return Outcome(status="failed", reason="taken for failed") if outcome.status == "unknown" else outcome


def test_the_simulation_catches_a_dispatcher_that_takes_a_lost_answer_for_a_failure() -> None:
    assert any(wrongs(*play(seed, SendsAgain)) for seed in range(4))


class Impatient(Dispatcher):
    """Planted bug: an order that the venue does not know yet is given up before its expiry."""

    async def _lookup(self, edge: object, action: Wired) -> Outcome | None:
        outcome = await super()._lookup(cast("FaultyVenue", edge), action)
        return outcome or Outcome(status="failed", reason="given up early")


def test_the_simulation_catches_a_dispatcher_that_does_not_wait_for_the_expiry() -> None:
    assert any(wrongs(*play(seed, Impatient)) for seed in range(4))


@pytest.mark.parametrize(("margin_ns", "caught"), [(NS // 2, False), (0, True)])
def test_the_simulation_catches_a_margin_that_is_shorter_than_the_venues_clock_is_late(
    monkeypatch: pytest.MonkeyPatch, margin_ns: int, caught: bool
) -> None:
    monkeypatch.setattr(dispatching, "EXPIRY_MARGIN_NS", margin_ns)
    monkeypatch.setattr(dispatching, "LOOKUP_PAUSE_MAX_NS", NS // 20)
    monkeypatch.setattr(dispatching, "LOOKUP_PAUSE_MIN_NS", NS // 20)
    assert any(wrongs(*play(seed, at_the_last=True)) for seed in range(4)) == caught
