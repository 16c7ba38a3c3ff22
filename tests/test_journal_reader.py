"""Searching the journal beside its writer: what is found, in which order, how it is paged, and that the work is bounded."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import pytest
from chronicle_world import PLAIN, journaled
from engine_world import T0, World
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.errors import UserError
from daemon.journal.audit import GENESIS, link
from daemon.journal.entry import Entry, JournalError, OutboxItem
from daemon.journal.reader import CHUNK, Reader, Search, Stored
from daemon.journal.schema import STATE_MIGRATIONS, open_writer
from daemon.journal.store import Journal
from daemon.service.entries import find
from daemon.service.views import EntryQuery
from daemon.units import NS, iso

TYPES = ("FeedFailed", "RunStarted", "StepStarted", "NoticeSent")


def entry(seq: int, at: int, role: str, kind: str, body: str) -> Entry:
    return Entry(seq=seq, at=at, role=role, type=kind, body=body)  # type: ignore[arg-type]


@cache
def many(count: int) -> list[tuple[Entry | None, list[Entry]]]:
    """`count` events with one record each; a record's time may lie a little before its event's, as a due time does."""
    return [
        (
            entry(seq, T0 + seq * NS, "event", "FeedFailed", f'{{"n":{seq}}}'),
            [entry(seq, T0 + seq * NS - seq % 3, "record", TYPES[1 + seq % 3], f'{{"text":"note {seq} of \\"all\\"","n":{seq}}}')],
        )
        for seq in range(1, count + 1)
    ]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("journal") / "state.db"
    with Journal.open(path) as journal:
        for event, records in many(2 * CHUNK):
            journal.append(event, records)
    return path


def pages(reader: Reader, query: Search, scanned_max: int = 10**9) -> tuple[list[Stored], int]:
    """All pages of a search, one after the other, and how many entries were looked at."""
    found: list[Stored] = []
    searched, before = 0, query.before
    for _ in range(1_000):
        page = reader.search(
            Search(
                text=query.text, type=query.type, role=query.role, since=query.since, until=query.until, before=before, limit=query.limit
            ),
            scanned_max=scanned_max,
        )
        found += page.entries
        searched += page.searched
        if page.next_before is None:
            return found, searched
        assert before is None or page.next_before < before
        before = page.next_before
    raise AssertionError("the search has no end")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    text=st.sampled_from(["", "note 7", 'of "all"', 'of \\"all\\"', "nowhere"]),
    kind=st.sampled_from(["", *TYPES]),
    role=st.sampled_from(["", "event", "record"]),
    since=st.none() | st.integers(-10, 2 * CHUNK + 10),
    until=st.none() | st.integers(-10, 2 * CHUNK + 10),
    limit=st.sampled_from([300, 1_000]),
    scanned_max=st.sampled_from([1_500, 10**9]),
)
def test_all_pages_together_are_exactly_what_fits_newest_first(
    written: Path, text: str, kind: str, role: str, since: int | None, until: int | None, limit: int, scanned_max: int
) -> None:
    low = None if since is None else T0 + since * NS
    high = None if until is None else T0 + until * NS
    found, searched = pages(
        Reader(written), Search(text=text, type=kind, role=role, since=low, until=high, limit=limit), scanned_max=scanned_max
    )
    plain = text.replace('\\"', '"').replace('"', '\\"')
    expected = [
        e.body
        for event, records in many(2 * CHUNK)
        for e in (event, *records)
        if e is not None
        and (not kind or e.type == kind)
        and (not role or e.role == role)
        and (low is None or e.at >= low)
        and (high is None or e.at <= high)
        and plain in e.body
    ]
    assert [stored.body for stored in found] == expected[::-1]
    assert searched >= len(found)
    if not (kind or since or until):
        assert searched == 4 * CHUNK


def test_a_search_looks_at_no_more_than_its_bound_and_says_where_it_stopped(written: Path) -> None:
    page = Reader(written).search(Search(text="nowhere"), scanned_max=3_000)
    assert (page.entries, page.searched, page.next_before) == ((), 3_000, 4 * CHUNK - 3_000 + 1)
    rest = Reader(written).search(Search(text="note 1 of", before=page.next_before))
    assert [stored.seq for stored in rest.entries] == [1]
    assert rest.next_before is None


def test_a_page_knows_its_position_part_and_hash(written: Path) -> None:
    newest = Reader(written).search(Search(limit=2)).entries
    assert [(stored.position, stored.seq, stored.part, stored.role) for stored in newest] == [
        (4 * CHUNK, 2 * CHUNK, 1, "record"),
        (4 * CHUNK - 1, 2 * CHUNK, 0, "event"),
    ]
    with Journal.open_readonly(written) as journal:
        assert journal.head() == (newest[0].seq, newest[0].hash)


def test_a_search_by_type_uses_the_index_and_does_not_walk_the_journal(written: Path) -> None:
    page = Reader(written).search(Search(type="NoticeSent", text="nowhere"), scanned_max=10**9)
    assert page.searched == len([r for _, records in many(2 * CHUNK) for r in records if r.type == "NoticeSent"])


def test_the_reader_sees_what_the_writer_has_committed_and_nothing_holds_the_writer_up(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        reader = Reader(journal.path)
        assert (reader.search(Search()).entries, reader.last_seq()) == ((), 0)
        for event, records in many(3):
            journal.append(event, records).result()
            assert reader.search(Search()).entries[0].body == records[0].body
        portions = reader.latest({"RunStarted": 1}, TYPES, entries_max=100)
        next(portions)
        journal.append(entry(4, T0 + 4 * NS, "event", "FeedFailed", "{}"), []).result(timeout=10)
        assert list(portions) == []
        assert reader.last_seq() == 4


def test_entries_between_are_those_that_name_a_text_or_have_a_type(written: Path) -> None:
    found = Reader(written).between(10, 20, texts=("note 12 ",), types=("NoticeSent",))
    assert [(stored.seq, stored.type) for stored in found] == [
        (seq, TYPES[1 + seq % 3]) for seq in range(10, 21) if seq == 12 or seq % 3 == 2
    ]
    assert len(Reader(written).between(1, 2 * CHUNK, limit=7)) == 7


def test_the_span_of_a_text_is_looked_for_from_a_time_on(written: Path) -> None:
    reader = Reader(written)
    assert reader.span('note 9000 of \\"', since=T0) == (9_000, 9_000)
    assert reader.span("note 9000 of", since=T0, scanned_max=5_000) is None
    assert reader.span("of", since=T0 + 9_990 * NS, scanned_max=10**6) == (9_990 - 1_000, 2 * CHUNK)
    assert reader.span("note 3", since=T0, last=TYPES) == (3, CHUNK // 2 * 2 - 1_001)


def test_what_is_no_journal_is_refused(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="there is no journal here"):
        Reader(tmp_path / "state.db").search(Search())


def test_a_journal_of_the_version_before_is_brought_to_this_one(tmp_path: Path) -> None:
    path = tmp_path / "state.db"
    first = open_writer(path, STATE_MIGRATIONS[:1], "FULL")
    body = '{"n":1}'
    chained = link(GENESIS, seq=1, part=0, at=T0, role="event", type="FeedFailed", body=body)
    first.execute("INSERT INTO entry VALUES (1, 1, 0, ?, 'event', 'FeedFailed', ?, ?)", (T0, body, chained))
    first.close()
    with Journal.open(path) as journal:
        journal.append(*many(2)[1]).result()
        assert Reader(journal.path).search(Search(type="FeedFailed")).searched == 2
        assert journal.verify_chain().intact


# --- deliveries ---------------------------------------------------------------------------------------------------------


def test_deliveries_are_listed_newest_first_and_counted_by_endpoint_and_fate(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        items = [
            OutboxItem(id=f"a{n}", endpoint="desk" if n % 2 else "phone", body="{}", severity="info", created_at=T0 + n)
            for n in range(1, 7)
        ]
        journal.append(entry(1, T0, "event", "FeedFailed", "{}"), [], items).result()
        journal.mark_delivered(1, T0 + 100)
        journal.mark_failed(3, T0 + 200, "500", T0 + 900).result()
        journal.mark_failed(2, T0 + 300, "410 Gone", None).result()
        reader = Reader(journal.path)
        letters = reader.letters()
        assert [letter.id for letter in letters] == ["a6", "a5", "a4", "a3", "a2", "a1"]
        assert [letter.id for letter in reader.letters(endpoint="desk", status="waiting")] == ["a5", "a3"]
        assert [letter.id for letter in reader.letters(before=3, limit=1)] == ["a2"]
        dead = reader.letters(status="dead")[0]
        assert (dead.error, dead.attempts, dead.settled_at, dead.endpoint) == ("410 Gone", 1, T0 + 300, "phone")
        traffic = reader.traffic()
        assert traffic["desk"].counts == {"delivered": 1, "waiting": 2}
        assert (traffic["desk"].last_at, traffic["desk"].last_error) == (T0 + 100, "500")
        assert traffic["phone"].counts == {"dead": 1, "waiting": 2}
        assert (traffic["phone"].last_at, traffic["phone"].last_error) == (T0 + 300, "410 Gone")


def test_endpoints_without_a_message_have_no_traffic(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        assert Reader(journal.path).traffic() == {}
        assert Reader(journal.path).letters() == ()


# --- in words -----------------------------------------------------------------------------------------------------------


def test_a_page_of_the_journal_is_in_words_for_events_too(tmp_path: Path) -> None:
    world = World(PLAIN)
    world.until(40, funding_rate=0.001)
    world.command("pause", "spike", actor="ana")
    reader = journaled(world, tmp_path)
    page = find(reader, EntryQuery(limit=1_000))
    assert [view.position for view in page.entries] == sorted((view.position for view in page.entries), reverse=True)
    said = {view.type: view.summary for view in page.entries}
    assert said["OperatorCommand"] == "ana asks to pause spike"
    assert said["RunbooksLoaded"] == "1 runbook loaded: spike.yaml"
    assert said["PauseSet"] == "spike paused by operator ana until it is unpaused"
    assert said["ActionSettled"].endswith(" is done")
    assert all(view.summary and view.hash for view in page.entries)
    orders = find(reader, EntryQuery(text="shrink.1.1", type="ActionRequested"))
    assert [view.body["action"]["type"] for view in orders.entries] == ["ShrinkPosition"]  # type: ignore[index]
    early = find(reader, EntryQuery(until=iso(T0)))
    assert {view.at for view in early.entries} <= {iso(T0), iso(T0 - 1), iso(T0 - 2)}
    assert early.entries


def test_an_entry_of_another_build_is_shown_with_its_type(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        journal.append(entry(1, T0, "event", "MoonRose", '{"type":"MoonRose","at":1}'), []).result()
        view = find(Reader(journal.path), EntryQuery()).entries[0]
    assert (view.summary, view.body) == ("MoonRose: written by another build, this one has no words for it", {"type": "MoonRose", "at": 1})


def test_a_query_that_makes_no_sense_says_what_to_write(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        reader = Reader(journal.path)
        with pytest.raises(UserError, match="write event or record"):
            find(reader, EntryQuery(role="both"))
        with pytest.raises(UserError, match="since: 'yesterday' is no ISO-8601 time"):
            find(reader, EntryQuery(since="yesterday"))
        for text in ("x" * 1_001, "\ud800"):
            with pytest.raises(UserError, match="characters of Unicode"):
                find(reader, EntryQuery(text=text))


@given(
    text=st.text(max_size=20),
    kind=st.text(max_size=5),
    since=st.none() | st.datetimes().map(lambda moment: moment.isoformat()),
    before=st.none() | st.integers(),
    limit=st.integers(),
)
@settings(max_examples=100, deadline=None)
def test_no_query_breaks_the_search(written: Path, text: str, kind: str, since: str | None, before: int | None, limit: int) -> None:
    try:
        page = find(Reader(written), EntryQuery(text=text, type=kind, since=since, until=since, before=before, limit=limit))
    except UserError:
        return
    assert len(page.entries) <= 1_000


@pytest.mark.parametrize(("text", "found"), [("100%", 1), ("a_b", 1), ("a^b", 1), ("AXB", 1), ("größe", 1), ("\x00", 1), ("a%b", 0)])
def test_a_text_is_taken_by_its_letters_whatever_they_mean_to_the_file(tmp_path: Path, text: str, found: int) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        for seq, text_of in enumerate(["100%", "a_b", "a^b", "axb", "größe", "\\u0000"], start=1):
            journal.append(entry(seq, T0 + seq, "event", "X", f'{{"r":"{text_of}"}}'), [])
        journal.flush().result()
        assert len(Reader(journal.path).search(Search(text=text)).entries) == found
