"""Looking into a journal beside the daemon that writes it (floor 5): search, the entries of a run, the latest runs, deliveries.

    reader = Reader(Path("state.db"))
    found = reader.search(Search(text="ETH-USD", type="RunFinished"))       # newest first; found.next_before is the next page

Every question opens a connection of its own that cannot write, so any thread may ask and nobody waits for anybody. Every question is
bounded in the entries it looks at, and says how many these were. Observations are in the feed file and are not searched here.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from daemon.journal.entry import JournalError
from daemon.journal.schema import open_reader

SCANNED_MAX = 200_000  # entries a search looks at before it hands out what it has: about 0.2 s
CHUNK = 5_000  # entries of one statement
PORTION = 500  # entries that are decoded at a stretch
PAGE_MAX = 1_000
SLACK = 2_000  # positions around a time: records of one event carry due times of their own, so times do not strictly rise
_LIKE = "body LIKE ? ESCAPE '^'"
_WILD, _ESCAPED = r"([%_^])", r"^\1"
_COLUMNS = "position, seq, part, at, role, type, body, hash"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stored:
    """An entry as it stands in the file: `position` counts entries, `part` those of one event, `hash` its link of the audit chain."""

    position: int
    seq: int
    part: int
    at: int
    role: str
    type: str
    body: str
    hash: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What is looked for: empty fields are not asked about. `text` must stand in the body, in large or small letters; `since` and `until`
    are ns."""

    text: str = ""
    type: str = ""
    role: str = ""
    since: int | None = None
    until: int | None = None
    before: int | None = None  # a position
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A page, newest first; `next_before` goes on (None: that was all); `searched` entries were looked at."""

    entries: tuple[Stored, ...]
    next_before: int | None
    searched: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """An outbox item with its fate; times in ns. `next_due` counts while it waits."""

    position: int
    id: str
    endpoint: str
    body: str
    severity: str
    created_at: int
    status: str
    attempts: int
    next_due: int
    settled_at: int | None
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What became of an endpoint's items: how many by status, when one was last settled (ns), and the last error that was noted."""

    counts: Mapping[str, int] = field(default_factory=dict)
    last_at: int | None = None
    last_error: str = ""


class Reader:
    """Questions to `state.db`; they raise JournalError when the file cannot be read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextmanager
    def _asking(self) -> Iterator[sqlite3.Connection]:
        connection = open_reader(self.path)
        try:
            # One picture of the file for all statements of a question.
            connection.execute("BEGIN")
            yield connection
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{self.path}: the journal cannot be read ({error})") from error
        finally:
            connection.close()

    # --- entries ------------------------------------------------------------------------------------------------------

    def search(self, query: Search, *, scanned_max: int = SCANNED_MAX) -> Found:
        """Entries that fit, newest first, at most `limit`; fewer with a `next_before` when `scanned_max` entries were looked at."""
        limit = max(1, min(query.limit, PAGE_MAX))
        with self._asking() as connection:
            top = _last_position(connection) + 1
            before = top if query.before is None else min(query.before, top)
            if query.until is not None:
                before = min(before, _position_at(connection, query.until + 1) + SLACK)
            floor = 1 if query.since is None else max(1, _position_at(connection, query.since) - SLACK)
            where, given = _conditions(query)
            kind, kind_given = ("AND type = ?", (query.type,)) if query.type else ("", ())
            entries: list[Stored] = []
            searched = 0
            while before > floor and searched < scanned_max:
                lowest, count = connection.execute(
                    f"SELECT min(position), count(*) FROM (SELECT position FROM entry WHERE position < ? AND position >= ? {kind} "
                    "ORDER BY position DESC LIMIT ?)",
                    (before, floor, *kind_given, min(CHUNK, scanned_max - searched)),
                ).fetchone()
                if not count:
                    return Found(entries=tuple(entries), next_before=None, searched=searched)
                rows = connection.execute(
                    f"SELECT {_COLUMNS} FROM entry WHERE position < ? AND position >= ? {kind} {where} ORDER BY position DESC LIMIT ?",
                    (before, lowest, *kind_given, *given, limit - len(entries)),
                ).fetchall()
                entries += [_stored(row) for row in rows]
                if len(entries) >= limit:
                    last = entries[-1].position
                    searched += _count(connection, last, before, kind, kind_given)
                    return Found(entries=tuple(entries), next_before=last if last > floor else None, searched=searched)
                before = lowest
                searched += count
            return Found(entries=tuple(entries), next_before=before if before > floor else None, searched=searched)

    def between(
        self, seq_first: int, seq_last: int, *, texts: Sequence[str] = (), types: Sequence[str] = (), limit: int = PAGE_MAX
    ) -> tuple[Stored, ...]:
        """Records from seq to seq in their order, at most `limit`: those whose body has one of `texts`, and those of `types`."""
        tests = [*("instr(body, ?) > 0" for _ in texts), *("type = ?" for _ in types)]
        where = f"AND ({' OR '.join(tests)})" if tests else ""
        with self._asking() as connection:
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM entry WHERE seq >= ? AND seq <= ? AND role = 'record' {where} ORDER BY seq, part LIMIT ?",
                (seq_first, seq_last, *texts, *types, limit),
            )
            return tuple(_stored(row) for row in rows)

    def span(self, *texts: str, since: int, last: Sequence[str] = (), scanned_max: int = SCANNED_MAX) -> tuple[int, int] | None:
        """First and last seq of the records that name one of `texts`, from the time `since` (ns) on; None when no entry looked at does.
        Behind one whose type is in `last` only a little more is looked at."""
        marks = ",".join("?" * len(last))
        tests = " OR ".join("instr(body, ?) > 0" for _ in texts)
        low: int | None = None
        high = 0
        with self._asking() as connection:
            first = max(1, _position_at(connection, since) - SLACK)
            stop = min(first + scanned_max, _last_position(connection) + 1)
            while first < stop:
                found_low, found_high, ends = connection.execute(
                    f"SELECT min(seq), max(seq), max(type IN ({marks})) FROM entry "
                    f"WHERE position >= ? AND position < ? AND role = 'record' AND ({tests})",
                    (*last, first, min(first + CHUNK, stop), *texts),
                ).fetchone()
                if found_low is not None:
                    low, high = found_low if low is None else low, found_high
                    if ends:
                        stop = min(stop, first + 2 * CHUNK)
                first += CHUNK
        return None if low is None else (int(low), int(high))

    def last_seq(self) -> int:
        """Seq of the last entry; 0 for an empty journal."""
        with self._asking() as connection:
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM entry").fetchone()[0])

    def latest(
        self, wanted: Mapping[str, int], types: Sequence[str], *, brief: Sequence[str] = (), entries_max: int
    ) -> Iterator[Sequence[tuple[int, str, str]]]:
        """Seq, type and body of the records of `types`, in order and in portions, from where the last `wanted[type]` entries of each wanted
        type begin; at most the last `entries_max` entries are looked at. Traces are left out; of the types in `brief` the text is not the
        body but its `run_id`. The picture is that of the first portion."""
        marks, briefs = ",".join("?" * len(types)), ",".join("?" * len(brief))
        with self._asking() as connection:
            last = _last_position(connection)
            starts = []
            for kind, count in wanted.items():
                row = connection.execute(
                    "SELECT position FROM entry WHERE type = ? ORDER BY position DESC LIMIT 1 OFFSET ?", (kind, count - 1)
                ).fetchone()
                starts.append(1 if row is None else int(row[0]))
            first = max(min(starts, default=1), last - entries_max + 1, 1)
            for low in range(first, last + 1, PORTION):
                yield connection.execute(
                    f"SELECT seq, type, CASE WHEN type IN ({briefs}) THEN json_extract(body, '$.run_id') "
                    "WHEN instr(body, '\"trace\":') THEN json_remove(body, '$.trace') ELSE body END FROM entry "
                    f"WHERE position >= ? AND position < ? AND type IN ({marks}) ORDER BY position",
                    (*brief, low, low + PORTION, *types),
                ).fetchall()

    # --- deliveries ---------------------------------------------------------------------------------------------------

    def letters(self, *, endpoint: str = "", status: str = "", before: int | None = None, limit: int = 200) -> tuple[Letter, ...]:
        """Outbox items, newest first."""
        tests = [("position < ?", before)] if before is not None else []
        tests += [("endpoint = ?", endpoint)] if endpoint else []  # type: ignore[list-item]
        tests += [("status = ?", status)] if status else []  # type: ignore[list-item]
        where = f"WHERE {' AND '.join(test for test, _ in tests)}" if tests else ""
        with self._asking() as connection:
            rows = connection.execute(
                "SELECT position, id, endpoint, body, severity, created_at, status, attempts, next_due, settled_at, error FROM outbox "
                f"{where} ORDER BY position DESC LIMIT ?",
                (*(value for _, value in tests), max(1, min(limit, PAGE_MAX))),
            )
            return tuple(_letter(row) for row in rows)

    def traffic(self) -> dict[str, Traffic]:
        """What became of the items of each endpoint that ever had one."""
        with self._asking() as connection:
            rows = connection.execute(
                "SELECT endpoint, status, count(*), max(settled_at), max(CASE WHEN error <> '' THEN position END) FROM outbox "
                "GROUP BY endpoint, status ORDER BY endpoint"
            ).fetchall()
            counts: dict[str, dict[str, int]] = {}
            settled: dict[str, int] = {}
            failed: dict[str, int] = {}
            for endpoint, status, count, settled_at, failed_at in rows:
                counts.setdefault(endpoint, {})[status] = count
                settled[endpoint] = max(settled.get(endpoint, -1), -1 if settled_at is None else settled_at)
                failed[endpoint] = max(failed.get(endpoint, -1), -1 if failed_at is None else failed_at)
            errors = {
                endpoint: str(connection.execute("SELECT error FROM outbox WHERE position = ?", (position,)).fetchone()[0])
                for endpoint, position in failed.items()
                if position >= 0
            }
        return {
            endpoint: Traffic(
                counts=counts[endpoint],
                last_at=settled[endpoint] if settled[endpoint] >= 0 else None,
                last_error=errors.get(endpoint, ""),
            )
            for endpoint in counts
        }


def storable(text: str) -> bool:
    """False for a text with half a surrogate pair, which no file can hold and no question may name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _conditions(query: Search) -> tuple[str, tuple[object, ...]]:
    """The tests of a search besides position and type."""
    where, given = "", ()  # type: tuple[str, tuple[object, ...]]
    if query.role:
        where, given = f"{where} AND role = ?", (*given, query.role)
    if query.since is not None:
        where, given = f"{where} AND at >= ?", (*given, query.since)
    if query.until is not None:
        where, given = f"{where} AND at <= ?", (*given, query.until)
    if query.text:
        # A body is JSON: what a person types with quotes or a backslash stands there escaped, what they copied from it does not.
        forms = dict.fromkeys((json.dumps(query.text, ensure_ascii=False)[1:-1], query.text))
        patterns = [f"%{re.sub(_WILD, _ESCAPED, form)}%" for form in forms if "\x00" not in form]
        where = f"{where} AND ({' OR '.join(_LIKE for _ in patterns)})"
        given = (*given, *patterns)
    return where, given


def _last_position(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(position), 0) FROM entry").fetchone()[0])


def _position_at(connection: sqlite3.Connection, at: int) -> int:
    """The first position whose time is `at` or later, by halving; one more than the last when all are earlier."""
    low, high = 1, _last_position(connection) + 1
    while low < high:
        middle = (low + high) // 2
        row = connection.execute("SELECT position, at FROM entry WHERE position >= ? ORDER BY position LIMIT 1", (middle,)).fetchone()
        if row is None or row[1] >= at:
            high = middle
        else:
            low = int(row[0]) + 1
    return low


def _count(connection: sqlite3.Connection, low: int, before: int, kind: str, given: tuple[str, ...]) -> int:
    row = connection.execute(f"SELECT count(*) FROM entry WHERE position >= ? AND position < ? {kind}", (low, before, *given)).fetchone()
    return int(row[0])


def _stored(row: tuple[int, int, int, int, str, str, str, str]) -> Stored:
    position, seq, part, at, role, type_, body, hash_ = row
    return Stored(position=position, seq=seq, part=part, at=at, role=role, type=type_, body=body, hash=hash_)


def _letter(row: tuple[int, str, str, str, str, int, str, int, int, int | None, str]) -> Letter:
    position, id_, endpoint, body, severity, created_at, status, attempts, next_due, settled_at, error = row
    return Letter(
        position=position,
        id=id_,
        endpoint=endpoint,
        body=body,
        severity=severity,
        created_at=created_at,
        status=status,
        attempts=attempts,
        next_due=next_due,
        settled_at=settled_at,
        error=error,
    )
