"""The audit chain (floor 5): every state entry carries the sha256 of its predecessor's hash and its own fields.

Edits, deletions and reordering break the chain by themselves; a cut tail shows only against an anchor (`seq:hash`) kept elsewhere.
"""

from __future__ import annotations

import hashlib
import json
import re
import sqlite3
from dataclasses import dataclass

from daemon.errors import UserError

GENESIS = hashlib.sha256(b"reefd/journal/v1").hexdigest()  # the predecessor of the first entry
PROBLEMS_MAX = 20  # a broken chain says where it breaks; the hundredth consequence says nothing new


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainReport:
    """What a walk over the whole chain found; `anchored` is None when no anchor was given."""

    entries: int
    documents: int
    head_seq: int
    head_hash: str
    anchored: bool | None
    problems: tuple[str, ...]

    @property
    def intact(self) -> bool:
        """True when nothing was found to be edited, deleted, moved or cut."""
        return not self.problems


def link(previous: str, *, seq: int, part: int, at: int, role: str, type: str, body: str) -> str:
    """Hash of an entry: sha256 over its predecessor's hash and the canonical JSON of all its fields, in hexadecimal."""
    fields = json.dumps([seq, part, at, role, type, body], ensure_ascii=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous}{fields}".encode()).hexdigest()


def parse_anchor(text: str) -> tuple[int, str]:
    """Seq and hash of an anchor `seq:hash`; a prefix of at least 16 hexadecimal digits will do. Raises UserError."""
    match = re.fullmatch(r"(\d+):([0-9a-fA-F]{16,64})", text.strip())
    if match is None:
        raise UserError(f"{text!r} is no anchor; write the seq and the hash as published, for example 1042:9f86d081884c7d65...")
    return int(match[1]), match[2].lower()


def verify(connection: sqlite3.Connection, anchor: str | None = None) -> ChainReport:
    """Walks the whole chain and every document, and compares with `anchor`; finds, never repairs. Raises UserError for a bad anchor."""
    wanted = parse_anchor(anchor) if anchor is not None else None
    problems: list[str] = []
    previous, position, seq_last, entries = GENESIS, 0, -1, 0
    anchored = False
    rows = connection.execute("SELECT position, seq, part, at, role, type, body, hash FROM entry ORDER BY position")
    for found, seq, part, at, role, type_, body, stored in rows:
        entries += 1
        if found != position + 1:
            missing = found - position - 1
            problems.append(f"{missing} {'entry is' if missing == 1 else 'entries are'} missing before entry {found} (seq {seq})")
        if seq < seq_last:
            problems.append(f"entry {found} has seq {seq}, after seq {seq_last}: entries were reordered")
        hashed = link(previous, seq=seq, part=part, at=at, role=role, type=type_, body=body)
        if hashed != stored:
            problems.append(f"entry {found} (seq {seq}, {role} {type_}) is not what was written: its hash does not follow")
        # Going on with the stored hash keeps one edit from being reported once an entry.
        previous, position, seq_last = stored, found, max(seq, seq_last)
        if wanted is not None and seq == wanted[0] and stored.startswith(wanted[1]):
            anchored = True
    highest = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'entry'").fetchone()
    if highest is not None and highest[0] > position:
        problems.append(f"the last {highest[0] - position} entries were deleted (the file once held {highest[0]})")
    if wanted is not None and not anchored:
        problems.append(f"the anchor {wanted[0]}:{wanted[1][:16]} is not in the chain: the tail was cut, or the history was written anew")
    documents = 0
    for digest, text in connection.execute("SELECT sha256, text FROM document"):
        documents += 1
        if hashlib.sha256(text.encode()).hexdigest() != digest:
            problems.append(f"document {digest[:16]} is not what was written: its content has another digest")
    if len(problems) > PROBLEMS_MAX:
        problems = [*problems[:PROBLEMS_MAX], f"and {len(problems) - PROBLEMS_MAX} more"]
    return ChainReport(
        entries=entries,
        documents=documents,
        head_seq=max(seq_last, 0),
        head_hash=previous,
        anchored=anchored if wanted is not None else None,
        problems=tuple(problems),
    )
