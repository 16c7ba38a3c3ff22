"""Checkpoints in the feed file (floor 5): the engine's blobs, kept once by content, the last two kept whole.

They are an optimisation: a start without one applies the journal from its first entry.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from collections.abc import Mapping

from daemon.journal.entry import Checkpoint

KEPT = 2  # the one before stays until its successor is surely on disk
_LEVEL = 1


def write(connection: sqlite3.Connection, seq: int, at: int, blobs: Mapping[str, bytes]) -> None:
    """Writes a checkpoint inside the caller's transaction and drops those older than the last `KEPT`; equal blobs are stored once."""
    number = connection.execute("INSERT INTO checkpoint (seq, at) VALUES (?, ?)", (seq, at)).lastrowid
    for name, body in blobs.items():
        digest = hashlib.sha256(body).hexdigest()
        if connection.execute("SELECT 1 FROM blob WHERE sha256 = ?", (digest,)).fetchone() is None:
            connection.execute("INSERT INTO blob VALUES (?, ?)", (digest, zlib.compress(body, _LEVEL)))
        connection.execute("INSERT INTO checkpoint_blob VALUES (?, ?, ?)", (number, name, digest))
    connection.execute("DELETE FROM checkpoint WHERE id NOT IN (SELECT id FROM checkpoint ORDER BY id DESC LIMIT ?)", (KEPT,))
    connection.execute("DELETE FROM blob WHERE sha256 NOT IN (SELECT sha256 FROM checkpoint_blob)")


def latest(connection: sqlite3.Connection) -> Checkpoint | None:
    """The newest checkpoint, None when there is none."""
    row = connection.execute("SELECT id, seq, at FROM checkpoint ORDER BY id DESC LIMIT 1").fetchone()
    if row is None:
        return None
    blobs = connection.execute(
        "SELECT name, body FROM checkpoint_blob JOIN blob USING (sha256) WHERE checkpoint = ? ORDER BY name", (row[0],)
    ).fetchall()
    return Checkpoint(seq=row[1], at=row[2], blobs={name: zlib.decompress(body) for name, body in blobs})
