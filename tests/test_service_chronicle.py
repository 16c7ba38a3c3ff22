"""The index of runs, episodes and acts: followed as they come, found again in the journal, and both the same."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import get_args

import pytest
from chronicle_world import ALL, APPROVED, PLAIN, answering, everything, filled, follow, journaled, write
from engine_world import Entry, World, runbook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.engine.actions import Outcome
from daemon.engine.events import FeedFailed, Gap, Observed
from daemon.engine.records import ActionFinished, ActionRequested, Record, RunFinished, RunStarted
from daemon.journal.reader import Reader
from daemon.journal.store import Journal
from daemon.service.annals import Annals, run_of, subject_of
from daemon.service.chronicle import TAKEN, Chronicle
from daemon.service.views import RunQuery
from daemon.units import NS

SLOW = runbook(
    name="slow", steps="- id: stop\n  halt: {scope: market}\n- id: hold\n  wait: {that: 'size > 1000 base', within: 30d}"
)
UNKNOWN = Outcome(status="unknown", reason="no answer within 20s")
FAILED = Outcome(status="failed", reason="503")
REJECTED = Outcome(status="rejected", reason="not enough margin")


def followed(world: World) -> Chronicle:
    chronicle = Chronicle()
    follow(chronicle, world.entries)
    return chronicle


def loaded(reader: Reader, under_way: tuple[str, ...] = (), **bounds: int) -> Chronicle:
    chronicle = Chronicle(**bounds)
    chronicle.load(reader, under_way)
    return chronicle


# --- what a run comes to ------------------------------------------------------------------------------------------------


def test_a_run_tells_what_was_asked_filled_and_paid() -> None:
    world = World(PLAIN, answer=answering(filled, filled))
    world.until(40, funding_rate=0.001)
    run = followed(world).runs(ALL)[-1]
    orders = world.orders
    assert (run.status, run.runbook, run.entity) == ("done", "spike", "dydx:ETH-USD")
    sizes = [float(order.size) for order in orders[:2]]
    assert run.asked_usd == pytest.approx(2.5 * 3000)
    assert run.filled_usd == pytest.approx(sum(size * 2998.5 for size in sizes))
    assert run.cost_usd == pytest.approx(sum(sizes) * 1.5 + 2 * 0.75)
    assert run.unknown_outcomes == 0
    assert run.ended_at is not None


def test_a_fill_better_than_mid_costs_less_than_its_fee() -> None:
    world = World(PLAIN, answer=answering(lambda a: filled(a, worse="-2"), lambda a: filled(a, worse="-2")))
    world.until(40, funding_rate=0.001)
    run = followed(world).runs(ALL)[-1]
    assert run.cost_usd == pytest.approx(2 * 0.75 - 2.5 * 2)


def test_an_unknown_outcome_counts_until_its_lookup_answers_also_after_the_run_has_ended() -> None:
    world = World(PLAIN, answer=answering(UNKNOWN))
    world.until(5, funding_rate=0.001)
    chronicle = followed(world)
    running = chronicle.running()[0]
    assert (running.status, running.unknown_outcomes) == ("running", 1)
    assert running.waiting == "what became of: SELL 1.25 dydx:ETH-USD, reduce-only"
    assert chronicle.acts()[0].status == "unknown"
    world.until(300)
    ended = followed(world).run(running.run_id)
    assert ended is not None
    assert (ended.status, ended.unknown_outcomes, ended.filled_usd) == ("unknown", 1, 0.0)
    world.settle(world.orders[0], filled(world.orders[0]))
    chronicle = followed(world)
    ended = chronicle.run(running.run_id)
    assert ended is not None
    assert (ended.status, ended.unknown_outcomes, ended.filled_usd) == ("unknown", 0, pytest.approx(1.25 * 2998.5))
    assert chronicle.acts()[0].status == "done"


def test_an_act_tells_filled_of_asked_and_its_price_against_mid() -> None:
    world = World(PLAIN, answer=answering(lambda a: filled(a, share="0.4"), REJECTED))
    world.until(40, funding_rate=0.001)
    rejected, partly = followed(world).acts()[:2]
    assert (partly.asked, partly.filled, partly.price, partly.mid) == ("1.25", "0.5", 2998.5, 3000.0)
    assert partly.cost_usd == pytest.approx(0.5 * 1.5 + 0.75)
    assert partly.text == "SELL 1.25 dydx:ETH-USD, reduce-only"
    assert (rejected.status, rejected.reason, rejected.filled, rejected.cost_usd) == ("rejected", "not enough margin", "", None)


def test_a_run_that_waits_for_an_approval_says_for_whom_and_until_when() -> None:
    world = World(APPROVED)
    world.until(5, funding_rate=0.001)
    run = followed(world).running()[0]
    assert run.waiting == "an approval of shrink by ana, ben, until 2023-11-14T22:23:20.000Z"
    world.command("approve", run.run_id, actor="ana")
    world.until(15)
    assert followed(world).runs(ALL)[0].waiting == ""
    assert "next slice, not before" in next(followed_until(world, "slice"))


def followed_until(world: World, _word: str):  # type: ignore[no-untyped-def]
    """What the run waited for after each event."""
    chronicle = Chronicle()
    for seq, entry in enumerate(world.entries, start=1):
        follow(chronicle, [entry], seq)
        for run in chronicle.running():
            if "slice" in run.waiting:
                yield run.waiting


def test_a_refused_run_is_a_run_that_ended_at_once() -> None:
    world = World(PLAIN + "limits: {runs: 1/day}\n")
    world.until(40, funding_rate=0.001)
    world.until(60, funding_rate=0.0)
    world.until(100, funding_rate=0.001)
    chronicle = followed(world)
    refused = chronicle.runs(RunQuery(status="blocked"))[0]
    assert refused.started_at == refused.ended_at
    assert "over limits.runs" in refused.reason
    assert any(refused.run_id in episode.runs for episode in chronicle.episodes())


def test_runs_are_filtered_and_paged_newest_first() -> None:
    world = World(PLAIN, APPROVED)
    for start in range(0, 600, 100):
        world.until(start + 40, funding_rate=0.001)
        world.until(start + 90, funding_rate=0.0)
    chronicle = followed(world)
    runs = chronicle.runs(ALL)
    assert len(runs) > 8
    assert [run.started_at for run in runs] == sorted((run.started_at for run in runs), reverse=True)
    spikes = chronicle.runs(RunQuery(runbook="spike", limit=3))
    assert [run.run_id for run in spikes] == [run.run_id for run in runs if run.runbook == "spike"][:3]
    rest = chronicle.runs(RunQuery(runbook="spike", before=spikes[-1].run_id, limit=1_000))
    assert [*spikes, *rest] == [run for run in runs if run.runbook == "spike"]
    assert chronicle.runs(RunQuery(entity="dydx:BTC-USD")) == ()
    assert {run.status for run in chronicle.runs(RunQuery(status="done"))} == {"done"}


def test_the_index_keeps_the_latest_and_never_forgets_what_is_under_way() -> None:
    world = World(SLOW, PLAIN)
    for start in range(0, 1_000, 100):
        world.until(start + 40, funding_rate=0.001)
        world.until(start + 90, funding_rate=0.0)
    chronicle = Chronicle(runs_max=5, episodes_max=3, acts_max=4)
    follow(chronicle, world.entries)
    runs = chronicle.runs(ALL)
    under_way = [run for run in runs if run.status == "running"]
    assert len(runs) <= 5 + len(under_way)
    assert [run.runbook for run in under_way] == [run.runbook for run in chronicle.running()][::-1]
    assert "slow" in {run.runbook for run in under_way}
    assert (len(chronicle.episodes()), len(chronicle.acts())) == (3, 4)
    assert chronicle.run(under_way[-1].run_id) == under_way[-1]


# --- followed and found again -------------------------------------------------------------------------------------------

ANSWERS = st.sampled_from([filled, lambda a: filled(a, share="0.4"), UNKNOWN, FAILED, REJECTED, None])
DEEDS = st.one_of(
    st.tuples(st.just("watch"), st.integers(1, 80), st.sampled_from([0.0, 0.001])),
    st.tuples(st.just("answer"), st.integers(0, 3), st.sampled_from(["ana", "ben", "eve"])),
    st.tuples(st.just("deny"), st.integers(0, 3), st.just("ana")),
    st.tuples(st.just("pause"), st.just(0), st.sampled_from(["", "spike", "asks"])),
    st.tuples(st.just("unpause"), st.just(0), st.sampled_from(["", "spike", "asks"])),
    st.tuples(st.just("halt"), st.just(0), st.just("")),
    st.tuples(st.just("resume"), st.just(0), st.just("")),
    st.tuples(st.just("settle"), st.just(0), st.just("")),
)


def lived(answers: list[object], deeds: list[tuple[str, int, object]]) -> World:
    world = World(PLAIN, APPROVED, answer=answering(*answers))  # type: ignore[arg-type]
    at = 0
    for verb, number, what in deeds:
        match verb:
            case "watch":
                at += number
                world.until(at, funding_rate=float(str(what)))
            case "answer" | "deny":
                waiting = [run.id for run in world.engine.cold.runs.values()]
                target = waiting[number % len(waiting)] if waiting else "none"
                world.command("approve" if verb == "answer" else "deny", target, actor=str(what))
            case "settle":
                for sent in list(world.engine.cold.sent.values()):
                    world.settle(sent.action, filled(sent.action))
            case _:
                world.command(verb, str(what))
    return world


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(answers=st.lists(ANSWERS, max_size=8), deeds=st.lists(DEEDS, min_size=1, max_size=14), cut=st.floats(0, 1), late=st.floats(0, 1))
def test_the_index_by_following_is_the_index_by_loading(
    answers: list[object], deeds: list[tuple[str, int, object]], cut: float, late: float, tmp_path_factory: pytest.TempPathFactory
) -> None:
    world = lived(answers, deeds)
    reader = journaled(world, tmp_path_factory.mktemp("life"))
    whole = followed(world)
    assert everything(loaded(reader)) == everything(whole)
    # A life that ended at `cut`; of the next one everything up to `late` was followed before the journal had been read, whose picture
    # may hold some of that too.
    first = int(cut * len(world.entries))
    second = first + int(late * (len(world.entries) - first))
    joined = Chronicle()
    follow(joined, world.entries[first:second], first + 1)
    assert not joined.complete
    with Journal.open(tmp_path_factory.mktemp("cut") / "state.db") as journal:
        write(journal, world.entries[: (first + second) // 2])
        joined.load(Reader(journal.path))
    follow(joined, world.entries[second:], second + 1)
    assert joined.complete
    assert everything(joined) == everything(whole)


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(answers=st.lists(ANSWERS, max_size=8), deeds=st.lists(DEEDS, min_size=1, max_size=14))
def test_a_bounded_index_holds_the_end_of_the_whole_one(answers: list[object], deeds: list[tuple[str, int, object]]) -> None:
    world = lived(answers, deeds)
    whole = followed(world)
    small = Chronicle(runs_max=3, episodes_max=2, acts_max=2)
    follow(small, world.entries)
    runs, kept = whole.runs(ALL), small.runs(ALL)
    assert kept[:3] == runs[:3]
    assert small.running() == whole.running()
    assert [run for run in runs if run in kept] == list(kept)
    assert small.acts() == whole.acts()[:2]
    assert [(e.id, e.cleared_at) for e in small.episodes()] == [(e.id, e.cleared_at) for e in whole.episodes()[:2]]


def test_a_load_that_starts_late_in_the_journal_finds_the_runs_that_are_still_under_way(tmp_path: Path) -> None:
    world = World(SLOW, PLAIN)
    for start in range(0, 1_000, 100):
        world.until(start + 40, funding_rate=0.001)
        world.until(start + 90, funding_rate=0.0)
    reader = journaled(world, tmp_path)
    under_way = tuple(world.engine.cold.runs)
    found = loaded(reader, under_way, runs_max=4, episodes_max=2)
    assert {run.run_id for run in found.running()} == set(under_way)
    assert len(found.runs(ALL)) < len(followed(world).runs(ALL))
    followed_too = Chronicle(runs_max=4, episodes_max=2)
    follow(followed_too, world.entries)
    assert found.runs(ALL) == followed_too.runs(ALL)


def test_loading_reads_while_the_daemon_goes_on_writing(tmp_path: Path) -> None:
    world = World(PLAIN)
    for start in range(0, 2_000, 100):
        world.until(start + 40, funding_rate=0.001)
        world.until(start + 90, funding_rate=0.0)
    half = len(world.entries) // 2
    chronicle = Chronicle()
    with Journal.open(tmp_path / "state.db") as journal:
        write(journal, world.entries[:half])
        loading = threading.Thread(target=chronicle.load, args=(Reader(journal.path),))
        loading.start()
        for seq, entry in enumerate(world.entries[half:], start=half + 1):
            write(journal, [entry], seq)
            follow(chronicle, [entry], seq)
        loading.join(timeout=30)
    assert not loading.is_alive()
    assert everything(chronicle) == everything(followed(world))


def test_reading_from_other_threads_goes_on_while_the_loop_follows() -> None:
    world = World(PLAIN, APPROVED)
    for start in range(0, 1_000, 100):
        world.until(start + 40, funding_rate=0.001)
        world.until(start + 90, funding_rate=0.0)
    chronicle, done, wrong = Chronicle(runs_max=10), threading.Event(), []

    def read() -> None:
        while not done.is_set():
            runs = chronicle.runs(ALL)
            if [run.started_at for run in runs] != sorted((run.started_at for run in runs), reverse=True):
                wrong.append(runs)
            chronicle.episodes(), chronicle.acts(), chronicle.recent(5)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    follow(chronicle, world.entries)
    done.set()
    for reader in readers:
        reader.join(timeout=30)
    assert not wrong
    assert len(chronicle.runs(ALL)) >= 10


def test_the_records_that_are_read_at_a_start_are_those_that_the_index_takes() -> None:
    taken = set()
    for kind in get_args(Record):
        for instance in lived_records().get(kind, []):
            annals = Annals()
            before = repr(vars(annals))
            for record in prelude(instance):
                annals.take(1, record)
            changed = repr(vars(annals))
            annals.take(2, instance)
            if repr(vars(annals)) not in (before, changed):
                taken.add(kind.__name__)
    assert taken <= set(TAKEN)
    assert {"TriggerChanged", "RunStarted", "RunFinished", "ActionFinished", "StepPlanned", "ApprovalRequested"} <= taken


def lived_records() -> dict[type, list[Record]]:
    world = lived([filled, UNKNOWN, FAILED], [("watch", 40, 0.001), ("answer", 0, "ana"), ("watch", 200, 0.0), ("settle", 0, "")])
    found: dict[type, list[Record]] = {}
    for record in world.records:
        found.setdefault(type(record), []).append(record)
    return found


def prelude(record: Record) -> list[Record]:
    """What a record needs before it to mean something: its run's start, its action's intent."""
    world_records = [r for rs in lived_records().values() for r in rs]
    run_id = getattr(record, "run_id", "")
    starts = [r for r in world_records if isinstance(r, RunStarted) and r.run_id == run_id and r is not record]
    action_id = getattr(record, "action_id", "")
    asked = [r for r in world_records if isinstance(r, ActionRequested) and r.action.action_id == action_id]
    return [*starts[:1], *asked[:1]]


# --- the stream ---------------------------------------------------------------------------------------------------------


def test_every_record_happens_in_order_with_its_seq_and_part() -> None:
    world = World(PLAIN)
    world.until(40, funding_rate=0.001)
    chronicle = followed(world)
    happened = [h for h in chronicle.happenings.latest(10_000) if h.kind not in ("Gap", "FeedFailed", "FeedBack")]
    assert [h.kind for h in happened] == [type(record).__name__ for record in world.records]
    assert [(h.seq, h.part) for h in happened] == sorted((h.seq, h.part) for h in happened)
    assert len({(h.seq, h.part) for h in chronicle.happenings.latest(10_000)}) == len(chronicle.happenings.latest(10_000))
    fired = next(h for h in happened if h.kind == "TriggerChanged")
    assert fired.summary == "spike on dydx:ETH-USD: fired (funding_rate 0.1%/h, 0.05%/h above 0.05%/h; dydx:ETH-USD: 10 ETH)"
    assert (fired.runbook, fired.entity, fired.severity) == ("spike", "dydx:ETH-USD", "warning")
    done = next(h for h in happened if h.kind == "ActionFinished" and "filled" in h.summary)
    assert done.summary.startswith("spike on dydx:ETH-USD: filled 1.25 ETH")
    assert done.run_id == world.orders[0].run_id


def test_a_feed_that_fails_is_told_once_and_so_is_its_return() -> None:
    chronicle = Chronicle()
    at = 1_700_000_000 * NS
    events = [
        Gap(at=at, since=at - 90 * NS, cause="start"),
        FeedFailed(at=at + 1, source="dydx.book", reason="503"),
        FeedFailed(at=at + 2, source="dydx.book", reason="503"),
        Observed(at=at + 3, source="dydx.markets", rows=()),
        Observed(at=at + 4, source="dydx.book", rows=()),
        Observed(at=at + 5, source="dydx.book", rows=()),
        FeedFailed(at=at + 6, source="dydx.book", reason="timeout"),
    ]
    follow(chronicle, [Entry(event=event, records=()) for event in events])
    assert [h.summary for h in chronicle.happenings.latest(100)] == [
        "nobody watched for 1m30s (start): holds start anew",
        "dydx.book fails: 503",
        "dydx.book is back",
        "dydx.book fails: timeout",
    ]


def test_ids_name_their_run_and_its_subject() -> None:
    assert run_of("spike/dydx#1:ETH-USD/1700000000000000000/12.shrink.2.1") == "spike/dydx#1:ETH-USD/1700000000000000000/12"
    assert run_of("spike/dydx:ETH-USD/1700000000000000000+/clear.reopen.1.1") == "spike/dydx:ETH-USD/1700000000000000000+/clear"
    assert subject_of("spike/dydx#1:ETH-USD/1700000000000000000/12") == ("spike", "dydx#1:ETH-USD")
    assert subject_of("review") == ("", "")
    world = World(PLAIN)
    world.until(40, funding_rate=0.001)
    for record in world.records:
        if isinstance(record, ActionFinished):
            assert run_of(record.action_id) == record.run_id
        if isinstance(record, RunFinished):
            assert subject_of(record.run_id) == ("spike", "dydx:ETH-USD")
