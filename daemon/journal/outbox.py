"""The outbox table (floor 5): one ordered lane an endpoint; what is due, what is told together, what failed, what is dead.

Functions over a connection: reads on the journal's reader, writes inside the journal's own transaction. A message with a group waits
beside its lane until its group is told: alone it then joins the lane, with others one message takes their place (`coalesce`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from daemon.journal.entry import Delivery, EndpointRecord, Held, OutboxItem

_FIELDS = "position, id, endpoint, body, severity, created_at, attempts, next_due, error, status, urgent, grp, settled_at, carried_by"
_ON_LANE = "status = 'waiting' AND grp = ''"
# The endpoints with something on their lanes, one index look-up each; then of each lane its head, and the first urgent one: that may
# overtake a head that waits for its next try, but nothing overtakes it.
_LANES = (
    f"WITH RECURSIVE lanes (name) AS (SELECT min(endpoint) FROM outbox WHERE {_ON_LANE} UNION ALL "
    f"SELECT (SELECT min(endpoint) FROM outbox WHERE {_ON_LANE} AND endpoint > lanes.name) FROM lanes WHERE lanes.name IS NOT NULL), "
    f"heads (position) AS (SELECT (SELECT min(position) FROM outbox WHERE {_ON_LANE} AND endpoint = lanes.name) FROM lanes UNION "
    f"SELECT (SELECT min(position) FROM outbox WHERE {_ON_LANE} AND urgent = 1 AND endpoint = lanes.name) FROM lanes) "
)
_INSERT = (
    "INSERT OR IGNORE INTO outbox (id, endpoint, body, severity, created_at, next_due, urgent, reminder, grp) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)"
)


def insert(connection: sqlite3.Connection, items: Sequence[OutboxItem]) -> None:
    """Puts items at the end of their lanes, due at once; the same id to the same endpoint twice is one delivery."""
    connection.executemany(_INSERT, [_row(item) for item in items])


def due(
    connection: sqlite3.Connection, now: int, unordered: frozenset[str], spared: frozenset[str], limit: int, sending: frozenset[int]
) -> list[Delivery]:
    """What may be sent now and is not at one of the positions in `sending`, urgent ones first: of an ordered lane its head and its first
    urgent one, of the lanes in `unordered` what is due, at most `limit` of each, of the endpoints in `spared` only what is urgent."""
    found: dict[int, Delivery] = {}
    for endpoint in _lanes(connection):
        some = _due_of(connection, endpoint, now, limit, sending) if endpoint in unordered else _heads(connection, endpoint)
        for each in some:
            if each.next_due <= now and each.position not in sending and (each.urgent or endpoint not in spared):
                found[each.position] = each
    return sorted(found.values(), key=lambda each: (not each.urgent, each.position))


def _lanes(connection: sqlite3.Connection) -> list[str]:
    """The endpoints for which something waits in a lane: one step of the index for each."""
    names: list[str] = []
    question = f"SELECT min(endpoint) FROM outbox INDEXED BY outbox_lane WHERE {_ON_LANE} AND endpoint > ?"
    while (name := connection.execute(question, (names[-1] if names else "",)).fetchone()[0]) is not None:
        names.append(str(name))
    return names


def _heads(connection: sqlite3.Connection, endpoint: str) -> list[Delivery]:
    first = head(connection, endpoint)
    row = connection.execute(
        f"SELECT {_FIELDS} FROM outbox INDEXED BY outbox_urgent WHERE {_ON_LANE} AND urgent = 1 AND endpoint = ? ORDER BY position LIMIT 1",
        (endpoint,),
    ).fetchone()
    return [*([] if first is None else [first]), *([] if row is None else [_delivery(row)])]


def _due_of(connection: sqlite3.Connection, endpoint: str, now: int, limit: int, sending: frozenset[int]) -> list[Delivery]:
    """What is due in a lane without an order: the urgent, then the rest, that which is due for longest first."""
    found: list[Delivery] = []
    marks = ",".join("?" * len(sending))
    for urgent in (1, 0):
        rows = connection.execute(
            f"SELECT {_FIELDS} FROM outbox INDEXED BY outbox_due WHERE {_ON_LANE} AND endpoint = ? AND urgent = ? AND next_due <= ? "
            f"AND position NOT IN ({marks}) ORDER BY next_due, position LIMIT ?",
            (endpoint, urgent, now, *sorted(sending), limit - len(found)),
        )
        found += [_delivery(row) for row in rows]
    return found


def lane(connection: sqlite3.Connection, endpoint: str, now: int, limit: int) -> list[Delivery]:
    """What waits for one endpoint and is due, urgent ones first: what is being retried later does not hold up the others."""
    found: list[Delivery] = []
    for index, urgent in (("outbox_urgent", 1), ("outbox_lane", 0)):
        rows = connection.execute(
            f"SELECT {_FIELDS} FROM outbox INDEXED BY {index} WHERE {_ON_LANE} AND urgent = {urgent} AND endpoint = ? AND next_due <= ? "
            "ORDER BY position LIMIT ?",
            (endpoint, now, limit - len(found)),
        )
        found += [_delivery(row) for row in rows]
    return found


def head(connection: sqlite3.Connection, endpoint: str) -> Delivery | None:
    """The message of a lane whose turn it is, due or not; None when nothing waits there."""
    row = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE {_ON_LANE} AND endpoint = ? ORDER BY position LIMIT 1", (endpoint,)
    ).fetchone()
    return None if row is None else _delivery(row)


def next_due(connection: sqlite3.Connection, unordered: frozenset[str]) -> int | None:
    """When the next delivery of a lane is due (ns); None when nothing waits there."""
    marks = ",".join("?" * len(unordered))
    question = f"{_LANES} SELECT min(next_due) FROM outbox WHERE {_ON_LANE} AND (endpoint IN ({marks}) OR position IN heads)"
    row = connection.execute(question, tuple(sorted(unordered))).fetchone()
    return None if row[0] is None else int(row[0])


def dead(connection: sqlite3.Connection, endpoint: str | None, after: int | None, limit: int) -> list[Delivery]:
    """Deliveries given up, oldest first, of one endpoint or of all; at most `limit` (-1: all), the newest, or the first behind `after`."""
    order = "DESC" if after is None else "ASC"
    where, given = ("", ()) if endpoint is None else (" AND endpoint = ?", (endpoint,))
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE position IN (SELECT position FROM outbox INDEXED BY outbox_dead WHERE status = 'dead'{where} "
        f"AND position > ? ORDER BY position {order} LIMIT ?) ORDER BY position",
        (*given, after or 0, limit),
    )
    return [_delivery(row) for row in rows]


# The statuses that are counted, each answered by a partial index alone.
_COUNTED = (
    ("waiting", "outbox_lane", _ON_LANE),
    ("waiting", "outbox_held", "status = 'waiting' AND grp <> ''"),
    ("dead", "outbox_dead", "status = 'dead'"),
)


def waiting(connection: sqlite3.Connection) -> int:
    """How many deliveries wait, over all lanes and groups."""
    return sum(count for (_, status), count in counts(connection).items() if status == "waiting")


def counts(connection: sqlite3.Connection) -> dict[tuple[str, str], int]:
    """How many messages wait or are dead, by (endpoint, status)."""
    found: dict[tuple[str, str], int] = {}
    for status, index, where in _COUNTED:
        question = f"SELECT endpoint, count(*) FROM outbox INDEXED BY {index} WHERE {where} GROUP BY endpoint"
        for endpoint, count in connection.execute(question):
            found[(endpoint, status)] = found.get((endpoint, status), 0) + int(count)
    return found


def latest(connection: sqlite3.Connection, endpoint: str, status: str, limit: int) -> list[Delivery]:
    """Messages of any fate, newest first; empty `endpoint` or `status` means all."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE (? = '' OR endpoint = ?) AND (? = '' OR status = ?) ORDER BY position DESC LIMIT ?",
        (endpoint, endpoint, status, status, limit),
    )
    return [_delivery(row) for row in rows]


def of_id(connection: sqlite3.Connection, id_: str) -> list[Delivery]:
    """The deliveries of one message, one an endpoint; a text of digits is a position too."""
    position = int(id_) if id_.isdecimal() and len(id_) < 19 else -1
    rows = connection.execute(f"SELECT {_FIELDS} FROM outbox WHERE id = ? OR position = ? ORDER BY position", (id_, position))
    return [_delivery(row) for row in rows]


def delivered(connection: sqlite3.Connection, position: int, at: int) -> None:
    """The endpoint took it: a later one of its lane may go, and after failures everything that waits there for a further try."""
    connection.execute(
        "UPDATE outbox SET next_due = ? WHERE status = 'waiting' AND grp = '' AND next_due > ? AND endpoint = "
        "(SELECT name FROM endpoint JOIN outbox AS taken ON taken.endpoint = endpoint.name WHERE taken.position = ? AND failures > 0)",
        (at, at, position),
    )
    connection.execute(
        "UPDATE outbox SET status = 'delivered', attempts = attempts + 1, settled_at = ?, error = '' WHERE position = ?", (at, position)
    )
    connection.execute(
        "INSERT INTO endpoint (name, delivered, delivered_at) SELECT endpoint, 1, ? FROM outbox WHERE position = ? ON CONFLICT (name) "
        "DO UPDATE SET delivered = delivered + 1, delivered_at = excluded.delivered_at, failures = 0, not_before = 0, error = ''",
        (at, position),
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
    change = "UPDATE outbox SET status = 'waiting', attempts = 0, next_due = ?, settled_at = NULL, grp = '' WHERE position = ?"
    connection.execute(change, (at, position))


def prune(connection: sqlite3.Connection, before: int, limit: int) -> int:
    """Drops the oldest `limit` messages that were delivered before the time `before` (ns), and those that one of them told; how many.

    What is dead or waits stays, and so does what a dead one told: it may go again. The audit chain holds what was decided, not its mail."""
    rows = connection.execute(
        "DELETE FROM outbox WHERE position IN (SELECT position FROM outbox AS old INDEXED BY outbox_settled WHERE settled_at < ? AND "
        "(status = 'delivered' OR (status = 'grouped' AND NOT EXISTS (SELECT 1 FROM outbox AS carrier WHERE carrier.position = "
        "old.carried_by AND carrier.status <> 'delivered'))) ORDER BY settled_at LIMIT ?)",
        (before, limit),
    )
    return rows.rowcount


# --- groups -----------------------------------------------------------------------------------------------------------


def held(connection: sqlite3.Connection) -> list[Held]:
    """Every group with messages that wait to be told together."""
    rows = connection.execute(
        "SELECT outbox.endpoint, outbox.grp, count(*), min(CASE WHEN urgent = 0 AND reminder = 0 THEN created_at END), "
        "min(CASE WHEN urgent = 1 AND reminder = 0 THEN created_at END), min(CASE WHEN reminder = 1 THEN created_at END), outbox_told.at "
        "FROM outbox LEFT JOIN outbox_told ON outbox_told.endpoint = outbox.endpoint AND outbox_told.grp = outbox.grp "
        "WHERE status = 'waiting' AND outbox.grp <> '' GROUP BY outbox.endpoint, outbox.grp"
    )
    return [
        Held(endpoint=endpoint, group=group, count=count, first_at=first, urgent_at=urgent, reminder_at=reminder, told_at=told)
        for endpoint, group, count, first, urgent, reminder, told in rows
    ]


def members(connection: sqlite3.Connection, endpoint: str, group: str, limit: int) -> list[Delivery]:
    """The messages of a group that wait to be told, oldest first."""
    rows = connection.execute(
        f"SELECT {_FIELDS} FROM outbox WHERE status = 'waiting' AND endpoint = ? AND grp = ? AND grp <> '' ORDER BY position LIMIT ?",
        (endpoint, group, limit),
    )
    return [_delivery(row) for row in rows]


def carried(connection: sqlite3.Connection, position: int) -> list[Delivery]:
    """The messages that one message told in their place, oldest first."""
    rows = connection.execute(f"SELECT {_FIELDS} FROM outbox WHERE carried_by = ? ORDER BY position", (position,))
    return [_delivery(row) for row in rows]


def release(connection: sqlite3.Connection, position: int, at: int) -> None:
    """A message that waited in a group alone joins its lane."""
    _told(connection, position, at)
    connection.execute("UPDATE outbox SET grp = '', next_due = ? WHERE position = ? AND status = 'waiting'", (at, position))


def coalesce(connection: sqlite3.Connection, positions: Sequence[int], item: OutboxItem) -> None:
    """`item` takes the place of the messages at `positions`: its fate is theirs from now on. All of it or nothing."""
    _told(connection, positions[0], item.created_at)
    connection.execute(_INSERT, _row(item))
    connection.executemany(
        "UPDATE outbox SET status = 'grouped', settled_at = ?, carried_by = (SELECT position FROM outbox WHERE id = ? AND endpoint = ?) "
        "WHERE position = ? AND status = 'waiting'",
        [(item.created_at, item.id, item.endpoint, position) for position in positions],
    )


def _told(connection: sqlite3.Connection, position: int, at: int) -> None:
    connection.execute(
        "INSERT OR REPLACE INTO outbox_told (endpoint, grp, at) SELECT endpoint, grp, ? FROM outbox WHERE position = ?", (at, position)
    )


# --- endpoints --------------------------------------------------------------------------------------------------------


def endpoints(connection: sqlite3.Connection) -> dict[str, EndpointRecord]:
    """What is remembered of each endpoint that was ever tried."""
    rows = connection.execute(
        "SELECT name, delivered, delivered_at, failures, failed_at, not_before, error, disabled_at, disabled_reason FROM endpoint"
    )
    return {
        name: EndpointRecord(
            name=name,
            delivered=delivered_count,
            delivered_at=delivered_at,
            failures=failures,
            failed_at=failed_at,
            not_before=not_before,
            error=error,
            disabled_at=disabled_at,
            disabled_reason=why,
        )
        for name, delivered_count, delivered_at, failures, failed_at, not_before, error, disabled_at, why in rows
    }


def endpoint_failed(connection: sqlite3.Connection, name: str, at: int, error: str, not_before: int) -> None:
    """One more try in a row that the endpoint did not take; it asked for none before `not_before` (0: it asked for nothing)."""
    connection.execute(
        "INSERT INTO endpoint (name, failures, failed_at, error, not_before) VALUES (?, 1, ?, ?, ?) ON CONFLICT (name) DO UPDATE "
        "SET failures = failures + 1, failed_at = excluded.failed_at, error = excluded.error, not_before = excluded.not_before",
        (name, at, error, not_before),
    )


def disable(connection: sqlite3.Connection, name: str, at: int, reason: str) -> None:
    """The endpoint said that it is gone: nothing more goes there until `enable`."""
    connection.execute(
        "INSERT INTO endpoint (name, disabled_at, disabled_reason) VALUES (?, ?, ?) "
        "ON CONFLICT (name) DO UPDATE SET disabled_at = excluded.disabled_at, disabled_reason = excluded.disabled_reason",
        (name, at, reason),
    )


def enable(connection: sqlite3.Connection, name: str, at: int) -> None:
    """Messages go there again, those that wait at once, and its failures are counted anew."""
    change = "UPDATE outbox SET next_due = ? WHERE status = 'waiting' AND grp = '' AND next_due > ? AND endpoint = ?"
    connection.execute(change, (at, at, name))
    connection.execute(
        "UPDATE endpoint SET disabled_at = NULL, disabled_reason = '', failures = 0, not_before = 0, error = '' WHERE name = ?", (name,)
    )


def _row(item: OutboxItem) -> tuple[str, str, str, str, int, int, bool, bool, str]:
    return (
        item.id, item.endpoint, item.body, item.severity, item.created_at, item.created_at, item.urgent, item.reminder, item.group,
    )  # fmt: skip


def _delivery(row: tuple[int, str, str, str, str, int, int, int, str, str, int, str, int | None, int | None]) -> Delivery:
    position, id_, endpoint, body, severity, created_at, attempts, due_at, error, status, urgent, group, settled_at, carrier = row
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
        status=status,  # type: ignore[arg-type]  # the table's CHECK holds it
        urgent=bool(urgent),
        group=group,
        settled_at=settled_at,
        carried_by=carrier,
    )
