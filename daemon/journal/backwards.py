"""The feed read from its end (floor 5): `latest_observations(path, ...)` yields the newest first, of each stream as many as are wanted.

A stream is what one poll of one feed says about the same entities. Most observations are passed over without being decoded.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

from daemon.journal.entry import JournalError
from daemon.journal.feed import unpack_raw
from daemon.journal.schema import open_reader

BLOBS = 64  # read with one statement: a reader that stays open for long would keep the writer's log from being moved
BYTES_MAX = 1 << 30  # of unpacked observations: about three seconds of work


def latest_observations(
    path: Path, *, since: int, through_seq: int, every: Callable[[int], int], bytes_max: int = BYTES_MAX
) -> Iterator[tuple[int, str]]:
    """Time (ns) and body of observations up to `through_seq`, newest first, back to `since`; of each stream at most one in `every(at)` ns.

    Those that read the past back are left out. Ends early after `bytes_max` unpacked bytes. Raises JournalError.
    """
    taken: dict[tuple[bytes, bytes], int] = {}
    left = bytes_max
    for blob in _blobs(path, through_seq):
        newest = 0
        for seq, at, body in reversed(list(unpack_raw(blob))):
            newest = max(newest, at)
            left -= len(body)
            if seq > through_seq or at < since or b'"history":true' in body[:80]:
                continue
            stream = _stream(body)
            last = taken.get(stream)
            if last is None or at <= last - every(at):
                taken[stream] = at
                yield at, body.decode()
        if newest < since or left <= 0:
            return


def _stream(body: bytes) -> tuple[bytes, bytes]:
    """Source and first entity, read off the canonical JSON: keys are sorted, so `rows` come first and `source` stands near the end."""
    start = body.find(b'"entity":"')
    end = body.find(b'"', start + 10)
    return body[body.rfind(b'"source":"') :], body[start:end] if start >= 0 else b""


def _blobs(path: Path, through_seq: int) -> Iterator[bytes]:
    before = through_seq + 1
    while True:
        connection = open_reader(path)
        try:
            rows = connection.execute(
                "SELECT seq_first, body FROM feed WHERE seq_first < ? ORDER BY seq_first DESC LIMIT ?", (before, BLOBS)
            ).fetchall()
        except sqlite3.DatabaseError as error:
            raise JournalError(f"{path}: the feed cannot be read ({error})") from error
        finally:
            connection.close()
        for seq_first, body in rows:
            before = int(seq_first)
            yield body
        if len(rows) < BLOBS:
            return
