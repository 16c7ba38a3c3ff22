"""The audit chain finds what was done to a journal behind its back, and `reefd audit verify` says so."""

from __future__ import annotations

import hashlib
import json
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest

from daemon.app.auditing import audit_verify, backup
from daemon.errors import UserError
from daemon.journal import audit
from daemon.journal.store import Entry, Journal


@pytest.fixture
def state(tmp_path: Path) -> Path:
    path = tmp_path / "state.db"
    with Journal.open(path) as journal:
        journal.put_document("limits: {}")
        for seq in range(1, 11):
            records = [Entry(seq=seq, at=seq, role="record", type="StepStarted", body=f'{{"n":{seq}}}')]
            journal.append(Entry(seq=seq, at=seq, role="event", type="ActionSettled", body="{}"), records)
    return path


def change(path: Path, *statements: str) -> None:
    connection = sqlite3.connect(path)
    for statement in statements:
        connection.execute(statement)
    connection.commit()
    connection.close()


def findings(path: Path, anchor: str | None = None) -> audit.ChainReport:
    journal = Journal.open_readonly(path)
    report = journal.verify_chain(anchor)
    journal.close()
    return report


def test_an_untouched_journal_is_intact_and_knows_its_head(state: Path) -> None:
    report = findings(state)

    assert report.intact
    assert (report.entries, report.documents, report.head_seq, report.anchored) == (20, 1, 10, None)
    assert findings(state, f"10:{report.head_hash}").anchored is True
    assert findings(state, f"10:{report.head_hash[:16]}").anchored is True


def test_the_hash_of_an_entry_is_sha256_over_its_predecessor_and_its_fields() -> None:
    # The canonical form is part of the format: another implementation must be able to verify a chain.
    genesis = "a" * 64
    expected = hashlib.sha256((genesis + '[1,0,5,"event","Gap","{}"]').encode()).hexdigest()

    assert audit.link(genesis, seq=1, part=0, at=5, role="event", type="Gap", body="{}") == expected


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entry SET body = '{\"n\":99}' WHERE position = 7",
        "UPDATE entry SET at = at + 1 WHERE position = 7",
        "UPDATE entry SET type = 'Gap' WHERE position = 7",
        "UPDATE entry SET role = 'record' WHERE position = 7",
        "UPDATE entry SET hash = (CASE substr(hash, 1, 1) WHEN 'f' THEN 'e' ELSE 'f' END) || substr(hash, 2) WHERE position = 7",
        "DELETE FROM entry WHERE position = 7",
        "DELETE FROM entry WHERE position = 1",
        "DELETE FROM entry WHERE position = 20",
        "UPDATE document SET text = 'limits: {none}'",
    ],
)
def test_a_change_behind_its_back_is_found(state: Path, statement: str) -> None:
    change(state, statement)

    assert not findings(state).intact


def test_two_entries_that_changed_places_are_found(state: Path) -> None:
    change(
        state,
        "UPDATE entry SET position = 1000 WHERE position = 7",
        "UPDATE entry SET position = 7 WHERE position = 8",
        "UPDATE entry SET position = 8 WHERE position = 1000",
        "UPDATE sqlite_sequence SET seq = 20",
    )

    assert not findings(state).intact


def cut(path: Path) -> None:
    change(path, "DELETE FROM entry WHERE seq > 8", "UPDATE sqlite_sequence SET seq = 16 WHERE name = 'entry'")


def write_anew(path: Path) -> None:
    """What a thief who knows the code does: changes an entry and computes every later hash again."""
    connection = sqlite3.connect(path)
    connection.execute("UPDATE entry SET body = '{\"n\":99}' WHERE position = 6")
    previous = audit.GENESIS
    rows = connection.execute("SELECT position, seq, part, at, role, type, body FROM entry ORDER BY position").fetchall()
    for position, seq, part, at, role, type_, body in rows:
        previous = audit.link(previous, seq=seq, part=part, at=at, role=role, type=type_, body=body)
        connection.execute("UPDATE entry SET hash = ? WHERE position = ?", (previous, position))
    connection.commit()
    connection.close()


@pytest.mark.parametrize("attack", [cut, write_anew])
def test_a_cut_tail_and_a_history_written_anew_show_only_against_an_anchor(state: Path, attack: Callable[[Path], None]) -> None:
    head = findings(state)
    attack(state)

    assert findings(state).intact
    report = findings(state, f"10:{head.head_hash}")
    assert not report.intact
    assert report.anchored is False


def test_an_anchor_of_another_seq_is_not_accepted(state: Path) -> None:
    head = findings(state).head_hash

    assert findings(state, f"9:{head}").anchored is False


@pytest.mark.parametrize("anchor", ["", "10", "10:", "10:xyz", "10:abc", "ten:" + "a" * 64])
def test_a_text_that_is_no_anchor_is_named(state: Path, anchor: str) -> None:
    with pytest.raises(UserError, match="is no anchor"):
        findings(state, anchor)


def test_audit_verify_prints_and_returns_what_it_found(state: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head = findings(state).head_hash
    assert audit_verify(state, anchor=None, json_format=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["intact"] is True
    assert told["head"] == {"seq": 10, "hash": head}
    assert audit_verify(state.parent, anchor=f"10:{head}", json_format=False) == 0
    assert "intact: 20 entries" in capsys.readouterr().out

    change(state, "UPDATE entry SET body = 'x' WHERE position = 3")
    assert audit_verify(state, anchor=None, json_format=False) == 1
    assert "entry 3" in capsys.readouterr().out
    assert audit_verify(state, anchor="nonsense", json_format=False) == 2
    assert audit_verify(state.with_name("absent.db"), anchor=None, json_format=False) == 2
    assert "no journal here" in capsys.readouterr().err


def test_backup_makes_a_folder_that_verifies(state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert backup(state, tmp_path / "copy", json_format=True) == 0
    head = json.loads(capsys.readouterr().out)["head"]

    assert audit_verify(tmp_path / "copy", anchor=f"{head['seq']}:{head['hash']}", json_format=True) == 0
    assert backup(state, tmp_path / "copy", json_format=False) == 2
