"""What the past behind the surface costs: following, loading, a page of runs, a run's trace, searching a long journal, charts.

    python -m benchmarks.past [--entries 1000000] [--runs 10000] [--markets 500]

Times are of the processor, but for the lag of another thread.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path

from daemon.engine.actions import Outcome, ShrinkPosition
from daemon.engine.codec import encode
from daemon.engine.engine import Transition
from daemon.engine.events import Observed, Row, Woke
from daemon.engine.records import (
    ActionFinished,
    ActionRequested,
    Leg,
    LegFinished,
    LocksTaken,
    Record,
    ResourceSeen,
    RunFinished,
    RunStarted,
    SizeChanged,
    StepFinished,
    StepPlanned,
    StepStarted,
    StepWaiting,
    TriggerChanged,
)
from daemon.journal.entry import Entry
from daemon.journal.reader import Reader, Search
from daemon.journal.store import Journal
from daemon.service.chronicle import Chronicle
from daemon.service.moments import run_detail
from daemon.service.tracks import Tracks
from daemon.service.views import RunQuery
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind

T0 = 1_700_000_000 * NS
REPEATS = 5


def trace(number: int) -> dict[str, object]:
    """A trace of the size that a shipped runbook's trigger leaves: about 3 kB of JSON."""

    def node(text: str, value: float, unit: str, role: str, signal: str = "", kids: tuple[object, ...] = ()) -> dict[str, object]:
        age = 1.0 if role == "reading" else None
        return {"text": text, "value": value, "unit": unit, "role": role, "signal": signal, "age": age, "kids": kids}

    paid = node("funding_rate", 0.001 + number * 1e-9, "rate/h", "reading", "funding_rate")
    one = node("funding_rate > 0.05%/h", 2.0, "truth", "compare", kids=(paid, node("0.05%/h", 0.0005, "rate/h", "constant")))
    return node("all of it", 2.0, "truth", "logic", kids=(one,) * 8)


def run(number: int) -> Iterator[tuple[Record, ...]]:
    """The records of one run of two slices, an event each."""
    at = T0 + number * NS
    entity = f"dydx:M{number % 500}-USD"
    episode = f"spike/{entity}/{at}"
    run_id = f"{episode}/1"

    def order(piece: int) -> ShrinkPosition:
        return ShrinkPosition(
            action_id=f"{run_id}.shrink.{piece}.1", run_id=run_id, runbook="spike", account="dydx", market=entity, side="SELL",
            size=Decimal("1.25"), limit_price=Decimal(2985), reference_price=3000.0, notional_usd=3750.0, expires_at=at + 20 * NS,
        )  # fmt: skip

    def asked(piece: int) -> ActionRequested:
        return ActionRequested(
            at=at, run_id=run_id, step="shrink", slice=piece, attempt=1, action=order(piece), usd=3750.0, resume_at=at + NS,
            give_up_at=at + 80 * NS,
        )  # fmt: skip

    done = Outcome(status="done", reference="0xabc", filled_size=Decimal("1.25"), fill_price=Decimal("2998.5"), fee_usd=Decimal("1.9"))
    yield (
        TriggerChanged(
            at=at, runbook="spike", entity=entity, episode=episode, change="fired", pending_at=at - NS, fired_at=at, trace=trace(number)
        ),
        RunStarted(
            at=at, run_id=run_id, runbook="spike", entity=entity, episode=episode, digest="d" * 64, on_clear=False, shadow=False,
            frame={"size@start": 10.0}, trace=trace(number),
        ),
        StepStarted(at=at, run_id=run_id, step="shrink", index=0),
        StepPlanned(
            at=at, run_id=run_id, step="shrink", legs=(Leg(position=entity, side="SELL", size=Decimal("2.5")),), notional_usd=7500.0,
            fee_usd=3.8,
        ),
        LocksTaken(at=at, run_id=run_id, locks=(f"position/{entity}",)),
        asked(1),
    )  # fmt: skip
    yield (ActionFinished(at=at + 1, action_id=f"{run_id}.shrink.1.1", run_id=run_id, outcome=done),)
    yield (SizeChanged(at=at + 2, position=entity, size=8.75, ours=True, cause=""), ResourceSeen(at=at + 2, resource=f"size/{entity}"))
    yield (
        StepWaiting(at=at + 3, run_id=run_id, step="shrink", waiting="guards", until=FOREVER, reason="guard spread < 10bps is FALSE"),
        asked(2),
    )
    yield (
        ActionFinished(at=at + 4, action_id=f"{run_id}.shrink.2.1", run_id=run_id, outcome=done),
        LegFinished(at=at + 4, run_id=run_id, step="shrink", leg=0),
        StepFinished(at=at + 4, run_id=run_id, step="shrink", kind="shrink_position", status="done", reason="", acted=True),
        RunFinished(at=at + 4, run_id=run_id, status="done", reason=""),
    )
    yield (
        TriggerChanged(at=at + 5, runbook="spike", entity=entity, episode=episode, change="cleared", pending_at=at - NS, fired_at=at),
    )  # fmt: skip


def fill(path: Path, runs: int, entries: int) -> tuple[int, list[str]]:
    """A journal that ends with `runs` runs and has `entries` entries in all; the last seq and the run ids."""
    per_run = sum(len(records) for records in run(0)) + sum(1 for _ in run(0))
    seq, ids = 0, []
    with Journal.open(path) as journal:

        def put(at: int, records: tuple[Record, ...], kind: str, body: str) -> None:
            nonlocal seq
            seq += 1
            stored = [Entry(seq=seq, at=r.at, role="record", type=type(r).__name__, body=encode(r)) for r in records]
            done = journal.append(Entry(seq=seq, at=at, role="event", type=kind, body=body), stored)
            if seq % 2_000 == 0:
                done.result()

        for number in range(max(0, entries - runs * per_run)):
            at = T0 - 10**9 * NS + number * NS
            put(at, (), "FeedFailed", f'{{"at":{at},"reason":"503 from the venue {number}","source":"dydx.markets","type":"FeedFailed"}}')
        for number in range(runs):
            for records in run(number):
                put(records[0].at, records, "ActionSettled", '{"type":"ActionSettled","outcome":"' + "x" * 200 + '"}')
            first = next(run(number))[1]
            assert isinstance(first, RunStarted)
            ids.append(first.run_id)
    return seq, ids


def best(work: Callable[[], object], repeats: int = REPEATS) -> float:
    """Seconds of the processor for the fastest of some repeats: what the machine does besides does not count."""
    times = []
    for _ in range(repeats):
        began = time.process_time()
        work()
        times.append(time.process_time() - began)
    return min(times)


def held_bytes() -> int:
    """Memory that this process holds."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--entries", type=int, default=1_000_000)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--markets", type=int, default=500)
    given = parser.parse_args()
    following(given.runs)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "state.db"
        seq, ids = fill(path, given.runs, given.entries)
        reading(path, seq, ids)
    charting(given.markets)


def following(runs: int) -> None:
    """Records followed on the loop's thread."""
    chronicle = Chronicle()
    steps = [Transition(records=records, actions=(), wake_at=FOREVER) for number in range(runs) for records in run(number)]
    count = sum(len(step.records) for step in steps)
    event = Woke(at=T0)
    began = time.process_time()
    for seq, step in enumerate(steps, start=1):
        chronicle.follow(event, step, seq)
    took = time.process_time() - began
    print(f"follow              {took / count * 1e6:8.2f} us a record ({count:,} records)")
    quiet, nothing = Observed(at=T0, source="x", rows=()), Transition(records=(), actions=(), wake_at=FOREVER)
    took = best(lambda: [chronicle.follow(quiet, nothing, 1) for _ in range(10_000)]) / 10_000
    print(f"follow, no record   {took * 1e6:8.2f} us")


def reading(path: Path, seq: int, ids: list[str]) -> None:
    """Everything that is asked of a journal on disk."""
    reader = Reader(path)
    print(f"journal             {path.stat().st_size / 1e6:8.0f} MB, seq {seq:,}")
    chronicle = Chronicle()
    chronicle.load(reader)
    took = best(lambda: Chronicle().load(reader), 3)
    print(f"load                {took * 1e3:8.0f} ms for {len(chronicle.runs(RunQuery(limit=10**6))):,} runs")
    print(f"load beside a loop  {lag(lambda: Chronicle().load(reader)) * 1e3:8.2f} ms longest turn of another thread that works 0.1 ms")
    print(f"runs, first page    {best(lambda: chronicle.runs(RunQuery(limit=100))) * 1e3:8.2f} ms")
    print(f"runs, one market    {best(lambda: chronicle.runs(RunQuery(entity='dydx:M7-USD', limit=100))) * 1e3:8.2f} ms")
    print(f"runs, last page     {best(lambda: chronicle.runs(RunQuery(before=ids[100], limit=100))) * 1e3:8.2f} ms")
    print(f"runs, all           {best(lambda: chronicle.runs(RunQuery(limit=10**6))) * 1e3:8.2f} ms")
    middle = ids[len(ids) // 2]
    print(f"run, by its place   {best(lambda: run_detail(reader, middle, chronicle.place(middle))) * 1e3:8.2f} ms")
    print(f"run, by its id      {best(lambda: run_detail(reader, middle)) * 1e3:8.2f} ms")
    for name, query in {
        "search, newest 100": Search(),
        "search, a type": Search(type="RunFinished"),
        "search, a run": Search(text=ids[-50]),
        "search, an old text": Search(text="503 from the venue 17"),
        "search, not there": Search(text="nowhere to be found"),
        "search, rare type": Search(type="HaltChanged"),
        "search, a time": Search(until=T0 - 10**9 * NS + 1_000 * NS),
    }.items():
        found = reader.search(query)
        took = best(lambda query=query: reader.search(query), 3)  # type: ignore[misc]
        print(f"{name:20}{took * 1e3:8.1f} ms, {len(found.entries)} found of {found.searched:,} looked at, next {found.next_before}")
    began, pages, query = time.process_time(), 0, Search(text="nowhere to be found")
    while True:
        found, pages = reader.search(query), pages + 1
        if found.next_before is None:
            break
        query = Search(text=query.text, before=found.next_before)
    print(f"search, all of it   {(time.process_time() - began) * 1e3:8.0f} ms in {pages} pages")


def lag(work: Callable[[], object]) -> float:
    """The longest turn of another thread while `work` goes on, in seconds."""
    thread = threading.Thread(target=work)
    thread.start()
    longest = 0.0
    while thread.is_alive():
        began = time.perf_counter()
        sum(range(4_000))
        longest = max(longest, time.perf_counter() - began)
        time.sleep(0.001)
    thread.join()
    return longest


def charting(markets: int) -> None:
    """Following 500 markets a second for the six hours that are kept, and one chart."""
    names = ("bid_price", "ask_price", "bid_size", "ask_size", "bid_depth", "ask_depth", "last_price", "mark_price", "index_price",
             "oracle_price", "open_interest", "predicted_funding_rate")  # fmt: skip
    tracks = Tracks()
    before = held_bytes()
    longest, total, seconds = 0.0, 0.0, 6 * 3600 + 1_800
    for second in range(0, seconds, 5):
        # Five polls of which each entity's turn comes once: the time is that of all five.
        for part in range(5):
            at = T0 + (second + part) * NS
            values = {name: float(second * 7 + k) for k, name in enumerate(names)}
            rows = tuple(Row(kind=Kind.MARKET, entity=f"dydx:M{n}-USD", values=values) for n in range(markets))
            event = Observed(at=at, source="dydx.markets", rows=rows)
            if second + part > 5:
                began = time.process_time()
                tracks.follow(event)
                took = time.process_time() - began
                longest, total = max(longest, took), total + took
            else:
                tracks.follow(event)
    held = held_bytes() - before
    print(f"tracks              {held / 1e6:8.0f} MB held for {len(tracks):,} signals, {tracks.points:,} points")
    print(f"tracks, follow      {total / seconds * 1e3:8.2f} ms a poll of {markets} x {len(names)}, longest {longest * 1e3:.1f} ms")
    print(f"tracks, a chart     {best(lambda: tracks.series('market', 'dydx:M1-USD', ('oracle_price',))) * 1e3:8.2f} ms")
    print(f"tracks, an entity   {best(lambda: tracks.series('market', 'dydx:M1-USD')) * 1e3:8.2f} ms for {len(names)} signals")


if __name__ == "__main__":
    main()
