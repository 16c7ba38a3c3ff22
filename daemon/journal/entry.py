"""What is kept in the journal (floor 5): entries, outbox items, deliveries, checkpoints, and the one error of the room.

`Entry(seq=7, at=..., role="event", type="ActionSettled", body=encode(event))`; a record carries the seq of the event that caused it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from daemon.errors import UserError

Role = Literal["event", "record"]

OBSERVED = "Observed"  # the one type of entry that goes to the feed file


class JournalError(UserError):
    """The journal cannot do what was asked: it is locked, damaged, too new, full, or a commit failed. Nothing was acknowledged."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One event or record as journaled: `seq` counts all events, `at` is int64 ns UTC, `body` is canonical JSON."""

    seq: int
    at: int
    role: Role
    type: str
    body: str


@dataclass(frozen=True, slots=True, kw_only=True)
class OutboxItem:
    """A message that leaves the house, committed together with the records that caused it; `id` is the action id."""

    id: str
    endpoint: str
    body: str
    severity: str
    created_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """An outbox item on its lane: `position` orders the lane, `attempts` were made so far, `next_due` is when to try again (ns)."""

    position: int
    id: str
    endpoint: str
    body: str
    severity: str
    created_at: int
    attempts: int
    next_due: int
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The engine's state after the event `seq`: restore `blobs`, then apply the entries after `seq`."""

    seq: int
    at: int
    blobs: Mapping[str, bytes]
