"""The outbox table (floor 5): one ordered lane an endpoint; what is due, what failed, what is dead.

Functions over a connection: reads on the journal's reader, writes inside the journal's own transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.journal.entry import Delivery, OutboxItem

_FIELDS = "position, id, endpoint, body, severity, created_at, attempts, next_due, error"
_HEAD_OF_LANE = "position = (SELECT min(position) FROM outbox AS lane WHERE lane.endpoint = outbox.endpoint AND lane.status = 'waiting')"


def insert(connection: sqlite3.Connection, items: Sequence[OutboxItem]) -> None:
    """Puts items at the end of their lanes, due at once; the same id to the same endpoint twice is one delivery."""
    connection.executemany(
        "INSERT OR IGNORE INTO outbox (id, endpoint, body, severity, created_at, next_due) VALUES (?, ?, ?, ?, ?, ?)",
        [(i.id, i.endpoint, i.body, i.severity, i.created_at, i.created_at) for i in items],
    )


def due(connection: sqlite3.Connection, now: int, unordered: frozenset[str], limit: int) -> list[Delivery]:
    """What may be sent now: of an ordered lane only its head, of the lanes in `unordered` everything that is due."""
    marks = ",".join("?" * len(unordered))
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE status = 'waiting' AND next_due <= ? AND (endpoint IN ({marks}) OR {_HEAD_OF_LANE}) "
        "ORDER BY position LIMIT ?",
        (now, *sorted(unordered), limit),
    )
    return [_delivery(row) for row in rows]


def lane(connection: sqlite3.Connection, endpoint: str, now: int, limit: int) -> list[Delivery]:
    """What waits for one endpoint and is due, oldest first: what is being retried later does not hold up the others."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE status = 'waiting' AND endpoint = ? AND next_due <= ? ORDER BY position LIMIT ?",
        (endpoint, now, limit),
    )
    return [_delivery(row) for row in rows]


def next_due(connection: sqlite3.Connection, unordered: frozenset[str]) -> int | None:
    """When the next delivery is due (ns); None when nothing waits."""
    marks = ",".join("?" * len(unordered))
    question = f"SELECT min(next_due) FROM outbox WHERE status = 'waiting' AND (endpoint IN ({marks}) OR {_HEAD_OF_LANE})"
    row = connection.execute(question, tuple(sorted(unordered))).fetchone()
    return None if row[0] is None else int(row[0])


def dead(connection: sqlite3.Connection, endpoint: str | None) -> list[Delivery]:
    """Deliveries given up, oldest first; of one endpoint or of all."""
    where, given = ("", ()) if endpoint is None else (" AND endpoint = ?", (endpoint,))
    rows = connection.execute(f"SELECT {_FIELDS} FROM outbox WHERE status = 'dead'{where} ORDER BY position", given)
    return [_delivery(row) for row in rows]


def waiting(connection: sqlite3.Connection) -> int:
    """How many deliveries wait, over all lanes."""
    return int(connection.execute("SELECT count(*) FROM outbox WHERE status = 'waiting'").fetchone()[0])


def delivered(connection: sqlite3.Connection, position: int, at: int) -> None:
    """The endpoint took it; a later one of its lane may go."""
    connection.execute(
        "UPDATE outbox SET status = 'delivered', attempts = attempts + 1, settled_at = ?, error = '' WHERE position = ?", (at, position)
    )


def failed(connection: sqlite3.Connection, position: int, at: int, error: str, retry_at: int | None) -> None:
    """One attempt failed: again at `retry_at`, or never (None: a dead letter)."""
    status = "dead" if retry_at is None else "waiting"
    connection.execute(
        "UPDATE outbox SET status = ?, attempts = attempts + 1, error = ?, next_due = coalesce(?, next_due), settled_at = ? "
        "WHERE position = ? AND status = 'waiting'",
        (status, error, retry_at, at if retry_at is None else None, position),
    )


def revive(connection: sqlite3.Connection, position: int, at: int) -> None:
    """A dead or delivered item waits again at its old place of the lane, its attempts counted anew."""
    change = "UPDATE outbox SET status = 'waiting', attempts = 0, next_due = ?, settled_at = NULL WHERE position = ?"
    connection.execute(change, (at, position))


def _delivery(row: tuple[int, str, str, str, str, int, int, int, str]) -> Delivery:
    position, id_, endpoint, body, severity, created_at, attempts, due_at, error = row
    return Delivery(
        position=position,
        id=id_,
        endpoint=endpoint,
        body=body,
        severity=severity,
        created_at=created_at,
        attempts=attempts,
        next_due=due_at,
        error=error,
    )
