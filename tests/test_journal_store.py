"""The journal as its callers see it: order, durability of what was acknowledged, refusal after a failure, documents, checkpoints."""

from __future__ import annotations

import random
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.journal import store
from daemon.journal.entry import Role
from daemon.journal.feed import ROWS_MAX, pack, unpack
from daemon.journal.store import Entry, Journal, JournalError, OutboxItem


def event(seq: int, type: str = "ActionSettled", body: str = '{"x":1}', role: Role = "event") -> Entry:
    return Entry(seq=seq, at=seq * 1000, role=role, type=type, body=body)


def observed(seq: int, body: str = '{"rows":[]}') -> Entry:
    return event(seq, "Observed", body)


def record(seq: int, body: str = '{"r":1}') -> Entry:
    return event(seq, "StepStarted", body, "record")


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "state.db")
    yield opened
    opened.close()


def test_entries_come_back_merged_by_seq_with_records_behind_their_event(journal: Journal) -> None:
    journal.observe(observed(1))
    journal.observe(observed(2))
    journal.append(None, [record(2, "a"), record(2, "b")])
    journal.append(event(3), [record(3)])
    journal.observe(observed(4))

    assert [(e.seq, e.type, e.body) for e in journal.entries()] == [
        (1, "Observed", '{"rows":[]}'),
        (2, "Observed", '{"rows":[]}'),
        (2, "StepStarted", "a"),
        (2, "StepStarted", "b"),
        (3, "ActionSettled", '{"x":1}'),
        (3, "StepStarted", '{"r":1}'),
        (4, "Observed", '{"rows":[]}'),
    ]
    assert [e.seq for e in journal.entries(after_seq=2)] == [3, 3, 4]
    assert journal.last_seq() == 4


def test_an_observation_given_to_append_goes_to_the_feed_before_its_records(journal: Journal) -> None:
    journal.append(observed(1), [record(1)]).result()

    assert [(e.seq, e.role) for e in journal.entries()] == [(1, "event"), (1, "record")]
    assert journal.verify_chain().entries == 1


def test_a_merge_by_seq_ignores_times_that_go_backwards(journal: Journal) -> None:
    journal.observe(Entry(seq=1, at=5000, role="event", type="Observed", body="{}"))
    journal.append(Entry(seq=2, at=10, role="event", type="Gap", body="{}"), [])
    journal.observe(Entry(seq=3, at=7, role="event", type="Observed", body="{}"))

    assert [e.seq for e in journal.entries()] == [1, 2, 3]


def test_append_commits_the_feed_with_full_before_the_state(journal: Journal) -> None:
    statements: list[str] = []
    assert journal._feed_file is not None
    assert journal._state is not None
    journal._feed_file.set_trace_callback(lambda text: statements.append(f"feed {text.split(' VALUES')[0]}"))
    journal._state.set_trace_callback(lambda text: statements.append(f"state {text.split(' VALUES')[0]}"))

    journal.observe(observed(1))
    journal.flush().result()
    journal.observe(observed(2))
    journal.append(None, [record(2)]).result()
    journal.append(event(3), []).result()

    interesting = [s for s in statements if "synchronous" in s or "COMMIT" in s]
    flush_of_observation = ["feed COMMIT"]
    barrier = ["feed PRAGMA synchronous = FULL", "feed COMMIT", "feed PRAGMA synchronous = NORMAL", "state COMMIT"]
    nothing_observed_since = ["state COMMIT"]
    # The first observation may have been taken alone before the flush: then there are two commits without a barrier.
    while interesting[:2] == ["feed COMMIT", "feed COMMIT"]:
        interesting.pop(0)
    assert interesting == flush_of_observation + barrier + nothing_observed_since
    assert journal._state.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._state.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_barrier_syncs_observations_that_an_earlier_commit_left_unsynced(journal: Journal) -> None:
    statements: list[str] = []
    journal.observe(observed(1))
    journal.flush().result()
    assert journal._feed_file is not None
    journal._feed_file.set_trace_callback(statements.append)

    journal.append(event(2), []).result()

    assert [s for s in statements if "synchronous" in s or s == "COMMIT"] == [
        "PRAGMA synchronous = FULL",
        "COMMIT",
        "PRAGMA synchronous = NORMAL",
    ]


def test_appends_that_wait_together_share_one_commit(journal: Journal) -> None:
    commits: list[str] = []
    assert journal._state is not None
    journal._state.set_trace_callback(lambda text: commits.append(text) if text == "COMMIT" else None)
    hold = threading.Event()
    journal._change(lambda connection: hold.wait(10))

    futures = [journal.append(event(seq), [record(seq)]) for seq in range(1, 101)]
    hold.set()
    for future in futures:
        future.result()

    assert len(commits) <= 3
    assert len(list(journal.entries())) == 200


def test_observations_alone_reach_the_disk_without_anybody_asking(journal: Journal, tmp_path: Path) -> None:
    journal.observe(observed(1))

    wait = threading.Event()
    for _ in range(100):
        with sqlite3.connect(tmp_path / "feed.db") as other:
            if other.execute("SELECT count(*) FROM feed").fetchone() == (1,):
                return
        wait.wait(0.05)
    pytest.fail("the observation never reached the feed file")


def test_a_long_queue_of_observations_is_cut_into_blobs_of_256(journal: Journal, tmp_path: Path) -> None:
    hold = threading.Event()
    journal._change(lambda connection: hold.wait(10))
    for seq in range(1, 1001):
        journal.observe(observed(seq))
    hold.set()
    journal.flush().result()

    with sqlite3.connect(tmp_path / "feed.db") as other:
        sizes = [n for (n,) in other.execute("SELECT n FROM feed ORDER BY seq_first")]
    assert sum(sizes) == 1000
    assert max(sizes) <= ROWS_MAX
    assert [e.seq for e in journal.entries()] == list(range(1, 1001))


def test_a_full_queue_refuses_and_the_journal_stays_refusing(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(store, "QUEUE_MAX", 10)
    hold, taken = threading.Event(), threading.Event()

    def wait(connection: sqlite3.Connection) -> None:
        taken.set()
        hold.wait(10)

    journal._change(wait)
    taken.wait(10)
    accepted = [journal.append(event(seq), []) for seq in range(1, 11)]

    with pytest.raises(JournalError, match="wait for the disk"):
        journal.append(event(11), [])
    hold.set()
    for future in accepted:
        future.result()
    with pytest.raises(JournalError, match="wait for the disk"):
        journal.observe(observed(12))
    assert journal.failure is not None
    assert [e.seq for e in journal.entries()] == list(range(1, 11))


def test_a_full_disk_fails_the_append_and_everything_after_it(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "state.db")
    acknowledged = 0
    assert journal._state is not None
    pages = int(journal._state.execute("PRAGMA page_count").fetchone()[0])
    journal._state.execute(f"PRAGMA max_page_count = {pages + 10}")

    for seq in range(1, 100):
        done = journal.append(event(seq, body="x" * 2000), [record(seq)])
        if done.exception() is not None:
            break
        acknowledged = seq
    assert 0 < acknowledged < 99
    with pytest.raises(JournalError, match="cannot commit"):
        done.result()
    with pytest.raises(JournalError, match="cannot commit"):
        journal.observe(observed(2000))
    with pytest.raises(JournalError, match="full"):
        journal.append(event(2001), [])
    assert journal.failure is not None
    journal.close()

    again = Journal.open(tmp_path / "state.db")
    assert sorted({e.seq for e in again.entries()}) == list(range(1, acknowledged + 1))
    assert again.verify_chain().intact
    again.append(event(acknowledged + 1), []).result()
    again.close()


def test_a_full_disk_under_the_feed_stops_the_append_before_the_state(tmp_path: Path) -> None:
    journal = Journal.open(tmp_path / "state.db")
    assert journal._feed_file is not None
    pages = int(journal._feed_file.execute("PRAGMA page_count").fetchone()[0])
    journal._feed_file.execute(f"PRAGMA max_page_count = {pages}")
    journal.observe(observed(1, body=random.Random(3).randbytes(100_000).hex()))  # what compression cannot make small

    with pytest.raises(JournalError, match="cannot commit"):
        journal.append(None, [record(1)]).result()
    journal.close()

    again = Journal.open(tmp_path / "state.db")
    assert list(again.entries()) == []
    again.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_an_error_of_our_own_in_the_writer_leaves_nobody_waiting(journal: Journal) -> None:
    done = journal.append(event(1, body="half a pair: \ud800"), [])

    with pytest.raises(JournalError):
        done.result(timeout=10)
    with pytest.raises(JournalError):
        journal.append(event(2), [])


def test_a_second_daemon_is_refused_and_a_reader_is_not(journal: Journal, tmp_path: Path) -> None:
    journal.append(event(1), []).result()

    with pytest.raises(JournalError, match="another reefd is running"):
        Journal.open(tmp_path / "state.db")
    reader = Journal.open_readonly(tmp_path / "state.db")
    assert [e.seq for e in reader.entries()] == [1]
    with pytest.raises(JournalError, match="reading only"):
        reader.append(event(2), [])
    reader.close()


def test_a_reader_beside_a_running_daemon_sees_no_observation_behind_the_state(journal: Journal, tmp_path: Path) -> None:
    journal.append(event(1), []).result()
    journal.observe(observed(2))
    journal.flush().result()
    reader = Journal.open_readonly(tmp_path / "state.db")

    assert [e.seq for e in reader.entries()] == [1]
    journal.close()
    assert [e.seq for e in reader.entries()] == [1, 2]
    reader.close()


def test_a_closed_journal_goes_on_where_it_was(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as first:
        first.append(event(5), [record(5)])
        first.observe(observed(6))
        head = first.verify_chain().head_hash
    with pytest.raises(JournalError, match="closed"):
        first.append(event(7), [])

    with Journal.open(tmp_path / "state.db") as second:
        assert second.head() == (5, head)
        assert second.last_seq() == 6
        second.append(event(7), []).result()
        report = second.verify_chain(anchor=f"5:{head}")
        assert report.intact
        assert report.anchored


def test_documents_are_kept_by_content_and_precede_what_names_them(journal: Journal, tmp_path: Path) -> None:
    text = "schema: reefd/v1\nrunbook: ünïcode\n"
    digest = journal.put_document(text)
    assert journal.put_document(text) == digest
    journal.append(event(1, "RunbooksLoaded", digest), []).result()

    reader = Journal.open_readonly(tmp_path / "state.db")
    assert reader.document(digest) == text
    with pytest.raises(JournalError, match="no document"):
        reader.document("0" * 64)
    reader.close()


def test_the_newest_checkpoint_comes_back_and_older_ones_go(journal: Journal, tmp_path: Path) -> None:
    assert journal.latest_checkpoint() is None
    journal.append(event(9), []).result()
    same = bytes(range(256)) * 100
    for seq in range(1, 6):
        journal.write_checkpoint(seq, seq * 10, {"rings": same, "cold": b"%d" % seq, "empty": b""}).result()

    found = journal.latest_checkpoint()
    assert found is not None
    assert (found.seq, found.at, dict(found.blobs)) == (5, 50, {"rings": same, "cold": b"5", "empty": b""})
    with sqlite3.connect(tmp_path / "feed.db") as other:
        assert other.execute("SELECT count(*) FROM checkpoint").fetchone() == (2,)
        # rings once, empty once, and the cold state of two checkpoints
        assert other.execute("SELECT count(*) FROM blob").fetchone() == (4,)


def test_a_checkpoint_ahead_of_the_state_is_not_used(journal: Journal) -> None:
    journal.append(event(3), []).result()
    journal.write_checkpoint(99, 1, {"cold": b"x"}).result()

    assert journal.latest_checkpoint() is None


def test_a_backup_is_whole_marked_and_goes_on(journal: Journal, tmp_path: Path) -> None:
    digest = journal.put_document("text")
    journal.observe(observed(1))
    journal.append(None, [record(1)], [OutboxItem(id="a", endpoint="desk", body="{}", severity="info", created_at=1)])
    assert not journal.restored

    journal.backup(tmp_path / "copy")
    journal.append(event(2), []).result()

    with Journal.open(tmp_path / "copy" / "state.db") as copy:
        assert copy.restored
        assert [e.seq for e in copy.entries()] == [1, 1]
        assert copy.verify_chain().intact
        assert copy.document(digest) == "text"
        assert len(copy.due_deliveries(10)) == 1
        copy.confirm_restored().result()
    with Journal.open(tmp_path / "copy" / "state.db") as opened_again:
        assert not opened_again.restored
    with pytest.raises(JournalError, match="empty folder"):
        journal.backup(tmp_path / "copy")


@pytest.mark.parametrize("content", [b"not a database, by far not one....", b"SQLite format 3\x00" + b"\xff" * 5000])
def test_a_file_that_is_no_journal_is_named_and_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "state.db").write_bytes(content)

    with pytest.raises(JournalError, match=r"state\.db"):
        Journal.open(tmp_path / "state.db")
    with pytest.raises(JournalError, match=r"state\.db"):
        Journal.open_readonly(tmp_path / "state.db")


def test_another_programs_sqlite_file_is_refused_and_untouched(tmp_path: Path) -> None:
    other = sqlite3.connect(tmp_path / "state.db")
    other.execute("CREATE TABLE theirs (x)")
    other.commit()
    other.close()

    with pytest.raises(JournalError, match="not a journal"):
        Journal.open(tmp_path / "state.db")


def test_a_journal_of_a_newer_build_is_refused(tmp_path: Path) -> None:
    Journal.open(tmp_path / "state.db").close()
    other = sqlite3.connect(tmp_path / "state.db")
    other.execute("PRAGMA user_version = 99")
    other.close()

    with pytest.raises(JournalError, match="newer reefd"):
        Journal.open(tmp_path / "state.db")
    with pytest.raises(JournalError, match="version 99"):
        Journal.open_readonly(tmp_path / "state.db")


def test_damage_inside_the_file_is_found_when_it_is_opened(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        for seq in range(1, 400):
            journal.append(event(seq, body="y" * 500), [])
    content = bytearray((tmp_path / "state.db").read_bytes())
    content[8192:40960] = b"\x5a" * (40960 - 8192)
    (tmp_path / "state.db").write_bytes(content)

    with pytest.raises(JournalError, match="damaged"):
        Journal.open(tmp_path / "state.db")


def test_a_missing_journal_and_an_unwritable_place_say_so(tmp_path: Path) -> None:
    with pytest.raises(JournalError, match="no journal here"):
        Journal.open_readonly(tmp_path / "nowhere.db")
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match="cannot be opened"):
        Journal.open(tmp_path / "file" / "state.db")


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)


@given(st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), texts), max_size=300))
def test_a_blob_gives_back_its_rows(rows: list[tuple[int, str]]) -> None:
    entries = [Entry(seq=seq, at=at, role="event", type="Observed", body=body) for seq, (at, body) in enumerate(rows)]

    assert list(unpack(pack(entries))) == entries


def test_a_damaged_blob_is_an_error_and_not_other_rows() -> None:
    blob = bytearray(pack([observed(1, "a" * 1000)]))
    blob[len(blob) // 2] ^= 0xFF

    with pytest.raises(JournalError, match="damaged"):
        list(unpack(bytes(blob)))


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.tuples(st.booleans(), texts, st.lists(texts, max_size=3)), max_size=25))
def test_whatever_is_journaled_comes_back_in_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, str, list[str]]]
) -> None:
    folder = tmp_path_factory.mktemp("journal")
    expected: list[Entry] = []
    with Journal.open(folder / "state.db") as journal:
        for seq, (is_observation, body, record_bodies) in enumerate(steps, start=1):
            caused = [record(seq, text) for text in record_bodies]
            entry = observed(seq, body) if is_observation else event(seq, body=body)
            expected += [entry, *caused]
            if not is_observation:
                journal.append(entry, caused)
            else:
                journal.observe(entry)
                if caused:
                    journal.append(None, caused)
        assert list(journal.entries()) == expected
    with Journal.open(folder / "state.db") as journal:
        assert list(journal.entries()) == expected
        assert journal.verify_chain().intact
        for after in range(0, len(steps), 5):
            assert list(journal.entries(after)) == [e for e in expected if e.seq > after]


def test_reader_of_a_journal_whose_feed_is_still_being_made_is_told_so(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db"):
        pass
    (tmp_path / "feed.db").unlink()
    sqlite3.connect(tmp_path / "feed.db").execute("CREATE TABLE other (x)").connection.close()
    with pytest.raises(JournalError, match="the feed cannot be read"):
        Journal.open_readonly(tmp_path / "state.db")


def test_journal_files_are_their_owners_alone(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db", tmp_path / "feed.db") as journal:
        journal.flush().result()
        modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir() if path.name.startswith(("state.db", "feed.db"))}
    assert {"state.db", "feed.db", "state.db-wal"} <= set(modes)
    assert all(mode & 0o077 == 0 for name, mode in modes.items() if not name.endswith(".lock")), modes
