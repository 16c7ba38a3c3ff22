"""The journal (floor 5): one writer thread, group commit, the feed barrier; nothing is acknowledged before it is on disk.

    journal = Journal.open(Path("state.db"))
    journal.observe(entry)                              # an Observed: to the feed file within 250 ms
    journal.append(event, records, outbox).result()     # on disk, and every observation before it

Whoever appends and observes is ONE thread (the loop); reading calls may come from any. The first commit that fails fails its futures
with JournalError, and the journal refuses everything after it: what the disk holds then is decided by the next start, from the disk.
"""

from __future__ import annotations

import fcntl
import hashlib
import heapq
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TypeVar, assert_never

from daemon.journal import audit, checkpoint, feed, outbox
from daemon.journal.audit import ChainReport
from daemon.journal.entry import OBSERVED, Checkpoint, Delivery, EndpointRecord, Entry, Held, JournalError, OutboxItem
from daemon.journal.schema import (
    FEED_MIGRATIONS,
    STATE_MIGRATIONS,
    check_version,
    feed_beside,
    open_reader,
    open_writer,
    sync_file,
    sync_folder,
)
from daemon.units import DAY_NS

__all__ = ["Checkpoint", "Delivery", "Entry", "Journal", "JournalError", "OutboxItem", "feed_beside"]

QUEUE_MAX = 50_000  # rows and commands that wait for the writer: 100 s of 500 observations a second, then the disk is taken for dead
LOG_BYTES_MAX = 4 << 20  # of a write-ahead log before it is moved into its file
COMMIT_BYTES = 16_384  # about what a small commit adds to a log: a few pages of 4 KiB
DELIVERIES_MAX = 100  # deliveries handed out at once
DELIVERED_KEPT_NS = 30 * DAY_NS  # a delivered message stays in the outbox for so long
PRUNED_MAX = 200  # of them that one checkpoint drops: a few milliseconds of the writer

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class _Append:
    event: Entry | None
    records: tuple[Entry, ...]
    outbox: tuple[OutboxItem, ...]
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _State:
    """A change of state.db that is no entry: a document, a delivery's fate."""

    change: Callable[[sqlite3.Connection], object]
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _Checkpoint:
    seq: int
    at: int
    blobs: Mapping[str, bytes]
    done: Future[None]


@dataclass(frozen=True, slots=True)
class _Flush:
    done: Future[None]


_Command = _Append | _State | _Checkpoint | _Flush


def _promise() -> Future[None]:
    """A future that nobody can cancel: a commit cannot be called back, and a cancelled waiter must not stop the writer."""
    future: Future[None] = Future()
    future.set_running_or_notify_cancel()
    return future


class Journal:
    """The append-only journal of one daemon: entries with their audit chain, documents, outbox, feed and checkpoints."""

    def __init__(
        self, path: Path, feed_path: Path, writers: tuple[sqlite3.Connection, sqlite3.Connection] | None = None, lock: int | None = None
    ) -> None:
        """Use `open` or `open_readonly`; `writers` are the connections of the state and of the feed."""
        self.path = path
        self.feed_path = feed_path
        self._state = writers[0] if writers else None
        self._feed_file = writers[1] if writers else None
        self._lock = lock
        self._reading = threading.Lock()
        self._reader = open_reader(path)
        check_version(self._reader, path, STATE_MIGRATIONS)
        self._restored = self._reader.execute("SELECT 1 FROM meta WHERE key = 'restored'").fetchone() is not None
        self._turn = threading.Condition()
        self._commands: list[_Command] = []
        self._rows: list[Entry] = []
        self._stopping = False
        self._closed = False
        self._failure: str | None = None
        self._documents: dict[str, str] = {}
        self._unsynced = False  # feed rows committed without fsync
        self._log_bytes = {"state": 0, "feed": 0}  # written since the log was last moved into its file, roughly
        last = self._reader.execute("SELECT position, seq, part, hash FROM entry ORDER BY position DESC LIMIT 1").fetchone()
        chain: tuple[int, int, int, str] = last or (0, 0, -1, audit.GENESIS)
        self._position, self._seq, self._part, self._hash = chain
        self._head = (self._seq, self._hash)
        self._accepted_seq = self._seq  # the last state seq taken into the queue
        self._observed_seq = self._last_feed_seq()
        self._writer: threading.Thread | None = None
        if writers is not None:
            # A daemon thread: a process that dies without `close` must not hang on its journal.
            self._writer = threading.Thread(target=self._write_until_stopped, name="journal-writer", daemon=True)
            self._writer.start()

    # --- opening and closing ------------------------------------------------------------------------------------------

    @classmethod
    def open(cls, path: Path, feed_path: Path | None = None) -> Journal:
        """The journal for writing, made when absent. Raises JournalError: in use, damaged, too new, or not writable."""
        feed_path = feed_path or feed_beside(path)
        lock = _lock(path)
        try:
            state = open_writer(path, STATE_MIGRATIONS, "FULL")
            try:
                feed_file = open_writer(feed_path, FEED_MIGRATIONS, "NORMAL")
            except JournalError:
                state.close()
                raise
            return cls(path, feed_path, (state, feed_file), lock)
        except JournalError:
            os.close(lock)
            raise

    @classmethod
    def open_readonly(cls, path: Path, feed_path: Path | None = None) -> Journal:
        """The journal for reading only, also while a daemon writes it. Raises JournalError."""
        return cls(path, feed_path or feed_beside(path))

    def close(self) -> None:
        """Commits what is queued, moves the logs into their files, lets the next process in. May be called twice."""
        with self._turn:
            if self._closed:
                return
            self._stopping = True
            self._closed = True
            self._turn.notify_all()
        if self._writer is not None:
            self._writer.join()
        with self._reading:
            self._reader.close()
        for connection in (self._feed_file, self._state):
            if connection is None:
                continue
            if self._failure is None:
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            connection.close()
        if self._lock is not None:
            os.close(self._lock)

    def __enter__(self) -> Journal:
        """The journal itself, closed at the end of the block."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the journal."""
        self.close()

    @property
    def failure(self) -> str | None:
        """Why this journal refuses everything, None while it works."""
        return self._failure

    @property
    def restored(self) -> bool:
        """True on a restored backup: this start may only reconcile; `confirm_restored` ends that."""
        return self._restored

    def confirm_restored(self) -> Future[None]:
        """Takes the mark of a restored backup off, once everything that was in flight has been looked up."""
        self._restored = False
        return self._change(lambda connection: connection.execute("DELETE FROM meta WHERE key = 'restored'"))

    # --- writing ------------------------------------------------------------------------------------------------------

    def append(self, event: Entry | None, records: Sequence[Entry], outbox: Sequence[OutboxItem] = ()) -> Future[None]:
        """Queues one transition; resolves when it is on disk, and every observation before it too (the barrier).

        `event` None: the event was an Observed given to `observe`, or a Woke; an Observed given here goes to the feed. The future
        raises JournalError when nothing was acknowledged. Raises JournalError at once when the queue is full or the journal failed.
        """
        if event is not None and event.type == OBSERVED:
            self.observe(event)
            event = None
        entries = (*(() if event is None else (event,)), *records)
        done = _promise()
        with self._turn:
            for entry in entries:
                assert entry.seq >= self._accepted_seq, f"seq {entry.seq} after {self._accepted_seq}: events are journaled in order"
                self._accepted_seq = entry.seq
            self._push(_Append(event, tuple(records), tuple(outbox), done))
        return done

    def observe(self, entry: Entry) -> None:
        """Queues an observation for the feed file: committed after 256 rows or 250 ms, or by the next `append`. Raises JournalError."""
        with self._turn:
            self._admit()
            assert entry.type == OBSERVED, f"{entry.type} is no observation: append it"
            assert entry.seq > self._observed_seq, f"seq {entry.seq} after {self._observed_seq}: observations are journaled in order"
            self._observed_seq = entry.seq
            self._rows.append(entry)
            if len(self._rows) in (1, feed.ROWS_MAX):
                self._turn.notify_all()

    def flush(self) -> Future[None]:
        """Resolves when everything queued so far is on disk."""
        done = _promise()
        with self._turn:
            self._push(_Flush(done))
        return done

    def put_document(self, text: str) -> str:
        """Queues a text to be kept by content, before every later entry; returns its sha256. Raises JournalError."""
        digest = hashlib.sha256(text.encode()).hexdigest()
        if digest not in self._documents:
            self._documents[digest] = text
            self._change(lambda connection: connection.execute("INSERT OR IGNORE INTO document VALUES (?, ?)", (digest, text)))
        return digest

    def write_checkpoint(self, seq: int, at: int, blobs: Mapping[str, bytes]) -> Future[None]:
        """Queues the engine's state after event `seq`; written after the entries before it, and never before an append's barrier."""
        done = _promise()
        with self._turn:
            self._push(_Checkpoint(seq, at, dict(blobs), done))
        return done

    def mark_delivered(self, position: int, at: int) -> Future[None]:
        """The endpoint took this delivery. Wait for the future before asking for what is due."""
        return self._change(lambda connection: outbox.delivered(connection, position, at))

    def mark_failed(self, position: int, at: int, error: str, retry_at: int | None) -> Future[None]:
        """One attempt failed; again at `retry_at`, None makes it a dead letter. Wait for the future before asking for what is due."""
        return self._change(lambda connection: outbox.failed(connection, position, at, error, retry_at))

    def redeliver(self, position: int, at: int) -> Future[None]:
        """A dead letter waits again, at its old place of the lane."""
        return self._change(lambda connection: outbox.revive(connection, position, at))

    def send(self, items: Sequence[OutboxItem]) -> Future[None]:
        """Puts messages into the outbox that no record caused (of delivery itself); an id that its endpoint has already is left out."""
        return self._change(lambda connection: outbox.insert(connection, items))

    def release(self, position: int, at: int) -> Future[None]:
        """A message that waited in its group alone joins its lane."""
        return self._change(lambda connection: outbox.release(connection, position, at))

    def coalesce(self, positions: Sequence[int], item: OutboxItem) -> Future[None]:
        """`item` is sent in the place of the messages at `positions`, which share its fate; in one transaction."""
        return self._change(lambda connection: outbox.coalesce(connection, positions, item))

    def endpoint_failed(self, name: str, at: int, error: str, not_before: int = 0) -> Future[None]:
        """An endpoint did not take a message; it asked for no tries before `not_before` (ns)."""
        return self._change(lambda connection: outbox.endpoint_failed(connection, name, at, error, not_before))

    def disable_endpoint(self, name: str, at: int, reason: str) -> Future[None]:
        """Nothing more goes to an endpoint until it is enabled, over restarts."""
        return self._change(lambda connection: outbox.disable(connection, name, at, reason))

    def enable_endpoint(self, name: str, at: int) -> Future[None]:
        """Messages go to an endpoint again, those that wait at once."""
        return self._change(lambda connection: outbox.enable(connection, name, at))

    # --- reading ------------------------------------------------------------------------------------------------------

    def entries(self, after_seq: int = 0) -> Iterator[Entry]:
        """All entries with a greater seq: feed and state merged by seq, an event before its records. Sees what was queued before."""
        if self._writer is not None and self._failure is None and not self._closed:
            self.flush().result()
        live = self._writer is None and is_held(self.path)
        state, feed_file = open_reader(self.path), open_reader(self.feed_path)
        try:
            # The state first: every observation that one of its entries needs is then in the feed that is opened after it.
            state.execute("BEGIN")
            last = int(state.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()[0])
            feed_file.execute("BEGIN")
            rows = _feed_entries(feed_file, after_seq)
            if live:
                # A daemon goes on writing: what it decided on later observations is not in this picture of the state.
                rows = (entry for entry in rows if entry.seq <= last)
            # At equal seq heapq.merge keeps the order of its arguments: an observation, then its records.
            yield from heapq.merge(rows, _state_entries(state, after_seq), key=lambda entry: entry.seq)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path}: the journal cannot be read ({error})") from error
        finally:
            feed_file.close()
            state.close()

    def last_seq(self) -> int:
        """The greatest seq in either file or queue; the next event is one more."""
        return max(self._accepted_seq, self._observed_seq)

    def head(self) -> tuple[int, str]:
        """Seq of the last state entry on disk and the chain's hash: `f"{seq}:{hash}"` is the anchor to publish."""
        return self._head

    def document(self, sha256: str) -> str:
        """The text of a document; raises JournalError when the journal never saw it."""
        if sha256 in self._documents:
            return self._documents[sha256]
        row = self._read(lambda connection: connection.execute("SELECT text FROM document WHERE sha256 = ?", (sha256,)).fetchone())
        if row is None:
            raise JournalError(f"{self.path}: no document {sha256[:16]}; the journal was cut or belongs to another daemon")
        return str(row[0])

    def latest_checkpoint(self) -> Checkpoint | None:
        """The newest checkpoint, None when there is none; raises JournalError."""
        connection = open_reader(self.feed_path)
        try:
            found = checkpoint.latest(connection)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.feed_path}: the checkpoint cannot be read ({error})") from error
        finally:
            connection.close()
        # One that is ahead of the state belongs to another history (a state.db restored alone): without it the start is slower, not wrong.
        return None if found is None or found.seq > self.last_seq() else found

    def due_deliveries(
        self,
        now: int,
        *,
        unordered: frozenset[str] = frozenset(),
        spared: frozenset[str] = frozenset(),
        sending: frozenset[int] = frozenset(),
        limit: int = DELIVERIES_MAX,
    ) -> list[Delivery]:
        """What may be sent now and is not being sent at a position of `sending`: the head of each endpoint's lane when due, of `unordered`
        endpoints what is due, at most `limit` of each, of `spared` ones only what is urgent."""
        return self._read(lambda connection: outbox.due(connection, now, unordered, spared, limit, sending))

    def lane(self, endpoint: str, now: int, limit: int = DELIVERIES_MAX) -> list[Delivery]:
        """What waits for one endpoint and is due, urgent ones first, whatever waits for others."""
        return self._read(lambda connection: outbox.lane(connection, endpoint, now, limit))

    def lane_head(self, endpoint: str) -> Delivery | None:
        """The message of an endpoint's lane whose turn it is, due or not; None when nothing waits there."""
        return self._read(lambda connection: outbox.head(connection, endpoint))

    def next_delivery_due(self, *, unordered: frozenset[str] = frozenset()) -> int | None:
        """When the next delivery is due (ns); None when nothing waits."""
        return self._read(lambda connection: outbox.next_due(connection, unordered))

    def waiting_deliveries(self) -> int:
        """How many deliveries wait, over all endpoints."""
        return self._ask(outbox.waiting)

    def dead_letters(self, endpoint: str | None = None, *, after: int | None = None, limit: int = -1) -> list[Delivery]:
        """Deliveries given up, oldest first; at most `limit` (-1: all), the newest, or the first behind the position `after`."""
        return self._ask(lambda connection: outbox.dead(connection, endpoint, after, limit))

    def messages(self, endpoint: str = "", status: str = "", limit: int = DELIVERIES_MAX) -> list[Delivery]:
        """Messages of any fate, newest first."""
        return self._ask(lambda connection: outbox.latest(connection, endpoint, status, limit))

    def messages_of(self, id_or_position: str) -> list[Delivery]:
        """The deliveries of one message, one an endpoint; by its id, or by the position of one of them."""
        return self._read(lambda connection: outbox.of_id(connection, id_or_position))

    def carried_by(self, position: int) -> list[Delivery]:
        """The messages that the one at `position` told in their place."""
        return self._ask(lambda connection: outbox.carried(connection, position))

    def delivery_counts(self) -> dict[tuple[str, str], int]:
        """How many messages are `waiting` or `dead`, by (endpoint, status)."""
        return self._ask(outbox.counts)

    def endpoint_records(self) -> dict[str, EndpointRecord]:
        """What is remembered of each endpoint that was ever tried."""
        return self._read(outbox.endpoints)

    def held_groups(self) -> list[Held]:
        """Every group with messages that wait to be told together."""
        return self._read(outbox.held)

    def group_members(self, endpoint: str, group: str, limit: int) -> list[Delivery]:
        """The messages of a group that wait to be told, oldest first."""
        return self._read(lambda connection: outbox.members(connection, endpoint, group, limit))

    def verify_chain(self, anchor: str | None = None) -> ChainReport:
        """Walks the whole audit chain, and compares it with `anchor` (`seq:hash`). Raises UserError for a text that is no anchor."""
        if self._writer is not None and self._failure is None and not self._closed:
            self.flush().result()
        connection = open_reader(self.path)
        try:
            return audit.verify(connection, anchor)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path}: the journal cannot be read ({error})") from error
        finally:
            connection.close()

    def backup(self, folder: Path) -> None:
        """Copies both files into a new `folder` while the daemon goes on; the copy's first start only reconciles. Raises JournalError."""
        if self._writer is not None and self._failure is None and not self._closed:
            self.flush().result()
        back_up(self.path, self.feed_path, folder)

    def _read(self, question: Callable[[sqlite3.Connection], T]) -> T:
        with self._reading:
            try:
                return question(self._reader)
            except sqlite3.DatabaseError as error:
                raise JournalError(f"{self.path}: the journal cannot be read ({error})") from error

    def _ask(self, question: Callable[[sqlite3.Connection], T]) -> T:
        """A question that may take long, on a connection of its own: what the loop reads does not wait for it."""
        connection = open_reader(self.path)
        try:
            return question(connection)
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path}: the journal cannot be read ({error})") from error
        finally:
            connection.close()

    def _last_feed_seq(self) -> int:
        if not self.feed_path.exists():
            return 0
        connection = open_reader(self.feed_path)
        try:
            return int(connection.execute("SELECT coalesce(max(seq_last), 0) FROM feed").fetchone()[0])
        except sqlite3.DatabaseError as error:  # for whoever looks while the daemon is still making it
            raise JournalError(f"{self.feed_path}: the feed cannot be read ({error})") from error
        finally:
            connection.close()

    # --- the queue ----------------------------------------------------------------------------------------------------

    def _change(self, change: Callable[[sqlite3.Connection], object]) -> Future[None]:
        done = _promise()
        with self._turn:
            self._push(_State(change, done))
        return done

    def _push(self, command: _Command) -> None:
        self._admit()
        self._commands.append(command)
        self._turn.notify_all()

    def _admit(self) -> None:
        if self._writer is None:
            raise JournalError(f"{self.path}: opened for reading only")
        if self._failure is None and self._closed:
            self._failure = f"{self.path}: the journal is closed"
        if self._failure is None and len(self._commands) + len(self._rows) >= QUEUE_MAX:
            # Refusing one row and taking the next would leave a hole that no replay survives.
            self._failure = f"{self.path}: {QUEUE_MAX} entries wait for the disk; the daemon stops acting, look at the disk"
        if self._failure is not None:
            raise JournalError(self._failure)

    # --- the writer's thread ------------------------------------------------------------------------------------------

    def _write_until_stopped(self) -> None:
        while True:
            with self._turn:
                self._turn.wait_for(lambda: bool(self._commands or self._rows or self._stopping))
                # Observations alone wait for company; an append never does.
                self._turn.wait_for(lambda: bool(self._commands or self._stopping or len(self._rows) >= feed.ROWS_MAX), feed.DELAY_MAX_S)
                commands, self._commands = self._commands, []
                rows, self._rows = self._rows, []
                stopping = self._stopping
            self._commit_group(commands, rows)
            if stopping and not commands and not rows:
                return

    def _commit_group(self, commands: list[_Command], rows: list[Entry]) -> None:
        """One group: feed, state, then checkpoints; whatever fails, every future of the group gets an answer."""
        failure: str | None = "the writer stopped on an error of its own"
        try:
            self._commit_feed(rows, barrier=any(isinstance(command, _Append) for command in commands))
            self._commit_state(commands)
            for command in commands:
                if not isinstance(command, _Checkpoint):
                    command.done.set_result(None)
            for command in commands:
                if isinstance(command, _Checkpoint):
                    self._commit_checkpoint(command)
                    command.done.set_result(None)
                    self._prune(command.at - DELIVERED_KEPT_NS)
            self._move_logs()
            failure = None
        except (sqlite3.Error, OSError) as error:
            failure = str(error)
        finally:
            # Also reached by an error of our own: then the thread ends, the journal refuses, and nobody waits for ever.
            if failure is not None:
                self._refuse(failure, commands)

    def _refuse(self, cause: str, group: Sequence[_Command]) -> None:
        with self._turn:
            if self._failure is None:
                self._failure = f"{self.path}: the journal cannot commit ({cause}); nothing more is acted on"
            queued, self._commands, self._rows = self._commands, [], []
        for command in (*group, *queued):
            if not command.done.done():
                command.done.set_exception(JournalError(self._failure))

    def _commit_feed(self, rows: Sequence[Entry], *, barrier: bool) -> None:
        if not rows and not (barrier and self._unsynced):
            return
        assert self._feed_file is not None
        connection = self._feed_file
        if barrier:
            # One commit with FULL also syncs every commit before it in the same log.
            connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN IMMEDIATE")
        try:
            for start in range(0, len(rows), feed.ROWS_MAX):
                part = rows[start : start + feed.ROWS_MAX]
                connection.execute("INSERT INTO feed VALUES (?, ?, ?, ?)", (part[0].seq, len(part), part[-1].seq, feed.pack(part)))
            if barrier:
                connection.execute("UPDATE barrier SET seq = ?", (self._observed_seq,))
            connection.execute("COMMIT")
        except sqlite3.Error:
            _roll_back(connection)
            raise
        if barrier:
            connection.execute("PRAGMA synchronous = NORMAL")
        self._unsynced = not barrier
        self._log_bytes["feed"] += COMMIT_BYTES + sum(len(row.body) for row in rows)

    def _commit_state(self, commands: Sequence[_Command]) -> None:
        work = [command for command in commands if isinstance(command, _Append | _State)]
        if not work:
            return
        assert self._state is not None
        connection = self._state
        chain = (self._position, self._seq, self._part, self._hash)
        connection.execute("BEGIN IMMEDIATE")
        try:
            for command in work:
                match command:
                    case _Append():
                        self._insert_entries(connection, (*(() if command.event is None else (command.event,)), *command.records))
                        outbox.insert(connection, command.outbox)
                    case _State():
                        command.change(connection)
                    case _:
                        assert_never(command)
            connection.execute("COMMIT")
        except sqlite3.Error:
            self._position, self._seq, self._part, self._hash = chain
            _roll_back(connection)
            raise
        self._head = (self._seq, self._hash)
        self._log_bytes["state"] += COMMIT_BYTES * len(work)

    def _insert_entries(self, connection: sqlite3.Connection, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._part = self._part + 1 if entry.seq == self._seq else 0
            self._position += 1
            self._seq = entry.seq
            self._hash = audit.link(
                self._hash, seq=entry.seq, part=self._part, at=entry.at, role=entry.role, type=entry.type, body=entry.body
            )
            connection.execute(
                "INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
                (self._position, entry.seq, self._part, entry.at, entry.role, entry.type, entry.body, self._hash),
            )

    def _commit_checkpoint(self, command: _Checkpoint) -> None:
        assert self._feed_file is not None
        self._feed_file.execute("BEGIN IMMEDIATE")
        try:
            checkpoint.write(self._feed_file, command.seq, command.at, command.blobs)
            self._feed_file.execute("COMMIT")
        except sqlite3.Error:
            _roll_back(self._feed_file)
            raise
        self._unsynced = True
        self._log_bytes["feed"] += COMMIT_BYTES + sum(len(body) for body in command.blobs.values())

    def _prune(self, before: int) -> None:
        assert self._state is not None
        if self._state.execute("SELECT 1 FROM outbox WHERE settled_at < ? LIMIT 1", (before,)).fetchone() is None:
            return
        self._state.execute("BEGIN IMMEDIATE")
        try:
            outbox.prune(self._state, before, PRUNED_MAX)
            self._state.execute("COMMIT")
        except sqlite3.Error:
            _roll_back(self._state)
            raise
        self._log_bytes["state"] += COMMIT_BYTES * PRUNED_MAX // 4

    def _move_logs(self) -> None:
        """Moves a long write-ahead log into its file, after the futures are answered: this fsync must not stand before an order."""
        for name, connection in (("state", self._state), ("feed", self._feed_file)):
            if connection is not None and self._log_bytes[name] > LOG_BYTES_MAX:
                # PASSIVE never waits for a reader; what a reader still holds back is moved the next time.
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                self._log_bytes[name] = 0


def back_up(path: Path, feed_path: Path, folder: Path) -> None:
    """Copies a journal into a new `folder`, also while a daemon writes it; the copy is marked as restored. Raises JournalError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise JournalError(f"{folder}: a backup goes into a new or empty folder")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # The state first: the feed copied after it holds every observation that the state's entries were decided on.
        for source, copy in ((path, folder / path.name), (feed_path, folder / feed_path.name)):
            partial = copy.with_name(f".{copy.name}.partial")
            reader = open_reader(source)
            try:
                reader.execute("VACUUM INTO ?", (str(partial),))
            finally:
                reader.close()
            if source == path:
                _mark_restored(partial)
            sync_file(partial)
            os.replace(partial, copy)
        sync_folder(folder)
    except sqlite3.DatabaseError as error:
        raise JournalError(f"{folder}: the backup failed ({error})") from error
    except OSError as error:
        raise JournalError(f"{folder}: the backup failed ({error.strerror or error})") from error


def _mark_restored(copy: Path) -> None:
    connection = sqlite3.connect(copy, isolation_level=None)
    try:
        connection.execute("INSERT OR REPLACE INTO meta VALUES ('restored', '1')")
    finally:
        connection.close()


def _state_entries(connection: sqlite3.Connection, after_seq: int) -> Iterator[Entry]:
    rows = connection.execute("SELECT seq, at, role, type, body FROM entry WHERE seq > ? ORDER BY position", (after_seq,))
    for seq, at, role, type_, body in rows:
        yield Entry(seq=seq, at=at, role=role, type=type_, body=body)


def _feed_entries(connection: sqlite3.Connection, after_seq: int) -> Iterator[Entry]:
    for (blob,) in connection.execute("SELECT body FROM feed WHERE seq_last > ? ORDER BY seq_first", (after_seq,)):
        yield from (entry for entry in feed.unpack(blob) if entry.seq > after_seq)


def _roll_back(connection: sqlite3.Connection) -> None:
    # A full disk rolls back by itself: then there is no transaction left to end.
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _lock(path: Path) -> int:
    """An exclusive lock that dies with its process. Raises JournalError when another one holds it."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"{path}: the journal cannot be opened: {error.strerror or error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(handle)
        raise JournalError(f"{path}: another reefd is running on this journal; stop it first, or name another path") from error
    return handle


def is_held(path: Path) -> bool:
    """True while a process writes this journal: a daemon runs."""
    lock = path.with_name(f"{path.name}.lock")
    if not lock.exists():
        return False
    try:
        handle = os.open(lock, os.O_RDONLY)
    except OSError:
        return True  # not ours to look at: taken for a running daemon's
    try:
        fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return True
    finally:
        os.close(handle)
    return False
