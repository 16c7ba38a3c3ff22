"""Tables of the journal's two files, their versions, and how a file is opened (floor 5).

`state.db` (FULL): entries, documents, the outbox. `feed.db` (NORMAL, FULL at barriers): blobs of observations, and checkpoints,
which are an optimisation and must never stand before an order in a queue.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from daemon.journal.entry import JournalError

# One script a version; a released script never changes, a change is a further script.
STATE_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE entry (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        seq INTEGER NOT NULL, part INTEGER NOT NULL, at INTEGER NOT NULL,
        role TEXT NOT NULL CHECK (role IN ('event', 'record')), type TEXT NOT NULL, body TEXT NOT NULL, hash TEXT NOT NULL,
        UNIQUE (seq, part));
    CREATE TABLE document (sha256 TEXT PRIMARY KEY, text TEXT NOT NULL) WITHOUT ROWID;
    CREATE TABLE outbox (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL, endpoint TEXT NOT NULL, body TEXT NOT NULL, severity TEXT NOT NULL, created_at INTEGER NOT NULL,
        status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'delivered', 'dead')),
        attempts INTEGER NOT NULL DEFAULT 0, next_due INTEGER NOT NULL, settled_at INTEGER, error TEXT NOT NULL DEFAULT '',
        UNIQUE (id, endpoint));
    CREATE INDEX outbox_lane ON outbox (endpoint, position) WHERE status = 'waiting';
    """,
    # Entries of a type newest first, for searching and for finding the latest runs at a start.
    "CREATE INDEX entry_type ON entry (type)",
    # Alerts out: urgent messages, groups (`grp` is the group a message still waits in, `carried_by` the message that told it), and what
    # is remembered of an endpoint. SQLite cannot change a CHECK, so the table is made anew; its positions stay.
    """
    CREATE TABLE outbox_next (
        position INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL, endpoint TEXT NOT NULL, body TEXT NOT NULL, severity TEXT NOT NULL, created_at INTEGER NOT NULL,
        status TEXT NOT NULL DEFAULT 'waiting' CHECK (status IN ('waiting', 'delivered', 'dead', 'grouped')),
        attempts INTEGER NOT NULL DEFAULT 0, next_due INTEGER NOT NULL, settled_at INTEGER, error TEXT NOT NULL DEFAULT '',
        urgent INTEGER NOT NULL DEFAULT 0, reminder INTEGER NOT NULL DEFAULT 0, grp TEXT NOT NULL DEFAULT '', carried_by INTEGER,
        UNIQUE (id, endpoint));
    INSERT INTO outbox_next (position, id, endpoint, body, severity, created_at, status, attempts, next_due, settled_at, error, urgent)
        SELECT position, id, endpoint, body, severity, created_at, status, attempts, next_due, settled_at, error, severity = 'critical'
        FROM outbox;
    DROP TABLE outbox;
    ALTER TABLE outbox_next RENAME TO outbox;
    CREATE INDEX outbox_lane ON outbox (endpoint, position) WHERE status = 'waiting' AND grp = '';
    CREATE INDEX outbox_held ON outbox (endpoint, grp, position) WHERE status = 'waiting' AND grp <> '';
    CREATE INDEX outbox_dead ON outbox (endpoint, position) WHERE status = 'dead';
    CREATE INDEX outbox_carried ON outbox (carried_by, position) WHERE carried_by IS NOT NULL;
    CREATE TABLE outbox_told (endpoint TEXT NOT NULL, grp TEXT NOT NULL, at INTEGER NOT NULL, PRIMARY KEY (endpoint, grp)) WITHOUT ROWID;
    CREATE TABLE endpoint (
        name TEXT PRIMARY KEY, delivered INTEGER NOT NULL DEFAULT 0, delivered_at INTEGER,
        failures INTEGER NOT NULL DEFAULT 0, failed_at INTEGER, not_before INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
        disabled_at INTEGER, disabled_reason TEXT NOT NULL DEFAULT '') WITHOUT ROWID;
    INSERT INTO endpoint (name, delivered, delivered_at)
        SELECT endpoint, count(*), max(settled_at) FROM outbox WHERE status = 'delivered' GROUP BY endpoint;
    """,
    # What is due is found by a few probes an endpoint, however much waits; what was settled long ago is found to be dropped.
    """
    CREATE INDEX outbox_due ON outbox (endpoint, urgent, next_due) WHERE status = 'waiting' AND grp = '';
    CREATE INDEX outbox_urgent ON outbox (endpoint, position) WHERE status = 'waiting' AND grp = '' AND urgent = 1;
    CREATE INDEX outbox_settled ON outbox (settled_at) WHERE settled_at IS NOT NULL;
    """,
)
FEED_MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE feed (seq_first INTEGER PRIMARY KEY, n INTEGER NOT NULL, seq_last INTEGER NOT NULL, body BLOB NOT NULL);
    CREATE TABLE barrier (one INTEGER PRIMARY KEY CHECK (one = 1), seq INTEGER NOT NULL);
    INSERT INTO barrier VALUES (1, 0);
    CREATE TABLE checkpoint (id INTEGER PRIMARY KEY AUTOINCREMENT, seq INTEGER NOT NULL, at INTEGER NOT NULL);
    CREATE TABLE checkpoint_blob (
        checkpoint INTEGER NOT NULL REFERENCES checkpoint (id) ON DELETE CASCADE,
        name TEXT NOT NULL, sha256 TEXT NOT NULL, PRIMARY KEY (checkpoint, name)) WITHOUT ROWID;
    CREATE TABLE blob (sha256 TEXT PRIMARY KEY, body BLOB NOT NULL);
    """,
)


def feed_beside(state: Path) -> Path:
    """The feed file that belongs to a state file: `feed.db` beside `state.db`, `x.feed.db` beside `x.db`."""
    return state.with_name("feed.db" if state.name == "state.db" else f"{state.stem}.feed{state.suffix}")


def open_writer(path: Path, migrations: Sequence[str], synchronous: str) -> sqlite3.Connection:
    """A connection that may write: checked, migrated, WAL. Raises JournalError when the file is damaged, too new or unwritable."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = not path.exists()
        if fresh:
            # What a trader holds and does is theirs to read; the log beside the file takes its permissions.
            os.close(os.open(path, os.O_CREAT | os.O_RDWR, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute(f"PRAGMA synchronous = {synchronous}")
            # Where fsync does not reach the disk's platter (macOS) ask for the call that does; elsewhere it does nothing.
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("PRAGMA foreign_keys = ON")
            # The writer moves the log into the file itself, after it has acknowledged: never while an order waits.
            connection.execute("PRAGMA wal_autocheckpoint = 0")
            check_sound(connection, path)
            _migrate(connection, path, migrations)
        except BaseException:
            connection.close()
            raise
        if fresh:
            sync_folder(path.parent)
    except sqlite3.DatabaseError as error:
        raise JournalError(_explained(path, error)) from error
    except OSError as error:
        raise JournalError(f"{path}: the journal cannot be opened: {error.strerror or error}") from error
    return connection


def open_reader(path: Path) -> sqlite3.Connection:
    """A connection that cannot write; other processes may be writing. Raises JournalError."""
    if not path.is_file():
        raise JournalError(f"{path}: there is no journal here; name the state.db that `reefd run` wrote")
    location = path.resolve().as_uri()
    try:
        connection = sqlite3.connect(f"{location}?mode=ro", uri=True, isolation_level=None, check_same_thread=False, timeout=5.0)
        try:
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        except sqlite3.OperationalError:
            connection.close()
            if path.with_name(f"{path.name}-wal").exists():
                raise
            # A file on a read-only disk: nobody can be writing to it, so SQLite needs no shared memory beside it.
            connection = sqlite3.connect(f"{location}?immutable=1", uri=True, isolation_level=None, check_same_thread=False)
            connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    except sqlite3.DatabaseError as error:
        raise JournalError(_explained(path, error)) from error
    return connection


def check_version(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    """Raises JournalError unless the file has exactly the version this build reads."""
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version == 0:
        raise JournalError(f"{path}: this is no journal of reefd; name the state.db that `reefd run` wrote")
    if version != len(migrations):
        raise JournalError(f"{path}: the journal has version {version}, this build reads {len(migrations)}; open it once with `reefd run`")


def check_sound(connection: sqlite3.Connection, path: Path) -> None:
    """Raises JournalError when SQLite finds damage (`quick_check`)."""
    found = [str(row[0]) for row in connection.execute("PRAGMA quick_check(3)")]
    if found != ["ok"]:
        raise JournalError(f"{path}: the journal is damaged ({'; '.join(found)}); restore a backup, its first start only reconciles")


def sync_folder(folder: Path) -> None:
    """Makes names created or renamed in a folder survive a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def sync_file(path: Path) -> None:
    """Makes the content of a file survive a power cut."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _migrate(connection: sqlite3.Connection, path: Path, migrations: Sequence[str]) -> None:
    version = int(connection.execute("PRAGMA user_version").fetchone()[0])
    if version > len(migrations):
        raise JournalError(f"{path}: written by a newer reefd (version {version}, this build knows {len(migrations)}); run the newer build")
    if version == 0 and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise JournalError(f"{path}: this SQLite file is not a journal of reefd; name another path")
    for number, script in enumerate(migrations[version:], start=version + 1):
        # One script is one transaction: a crash in the middle leaves the earlier version whole.
        connection.executescript(f"BEGIN IMMEDIATE;{script};PRAGMA user_version = {number};COMMIT;")


def _explained(path: Path, error: sqlite3.DatabaseError) -> str:
    text = str(error)
    if "not a database" in text or "malformed" in text:
        return f"{path}: the journal is damaged ({text}); restore a backup, its first start only reconciles"
    if "locked" in text:
        return f"{path}: the journal is in use by another process ({text})"
    return f"{path}: the journal cannot be opened ({text})"
