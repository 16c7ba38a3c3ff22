"""Observations on disk (floor 5): up to 256 rows packed into one blob, `pack(rows)` and `unpack(blob)`.

A blob is zlib (its checksum finds a damaged one) over length-prefixed rows, so that a body may hold any character.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Sequence

from daemon.journal.entry import OBSERVED, Entry, JournalError

ROWS_MAX = 256  # rows of a blob: 4-5 commits a second at 500 observations a second
DELAY_MAX_S = 0.25  # an observation that decided nothing reaches the disk after this at the latest

_HEAD = struct.Struct("<qqI")  # seq, at, bytes of the body
_LEVEL = 1  # the fastest: a third of the size for a millisecond a blob, on the writer's thread


def pack(rows: Sequence[Entry]) -> bytes:
    """The rows as one blob; all are observations."""
    parts: list[bytes] = []
    for row in rows:
        assert row.type == OBSERVED, row.type
        body = row.body.encode()
        parts += (_HEAD.pack(row.seq, row.at, len(body)), body)
    return zlib.compress(b"".join(parts), _LEVEL)


def unpack(blob: bytes) -> Iterator[Entry]:
    """The rows of a blob in their order; raises JournalError when the blob is damaged."""
    for seq, at, body in unpack_raw(blob):
        yield Entry(seq=seq, at=at, role="event", type=OBSERVED, body=body.decode())


def unpack_raw(blob: bytes) -> Iterator[tuple[int, int, bytes]]:
    """The rows of a blob as seq, time (ns) and undecoded body, for who looks at few of many; raises JournalError as `unpack` does."""
    try:
        packed = zlib.decompress(blob)
    except zlib.error as error:
        raise JournalError(f"the feed file is damaged ({error}); restore a backup, its first start only reconciles") from error
    offset = 0
    while offset < len(packed):
        seq, at, size = _HEAD.unpack_from(packed, offset)
        offset += _HEAD.size
        yield seq, at, packed[offset : offset + size]
        offset += size
