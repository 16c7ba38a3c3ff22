"""What is kept in the journal (floor 5): entries, outbox items, deliveries, checkpoints, and the one error of the room.

`Entry(seq=7, at=..., role="event", type="ActionSettled", body=encode(event))`; a record carries the seq of the event that caused it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from daemon.errors import UserError

Role = Literal["event", "record"]
DeliveryStatus = Literal["waiting", "delivered", "dead", "grouped"]  # grouped: told by another message, whose fate is its own

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
    urgent: bool = False  # goes before what is not, also past one that waits for its next try
    group: str = ""  # waits to be told together with others of this key; "" goes into its lane at once
    reminder: bool = False  # says only that something told before is still so


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
    status: DeliveryStatus = "waiting"
    urgent: bool = False
    group: str = ""
    settled_at: int | None = None
    carried_by: int | None = None  # position of the message that told this one together with others


@dataclass(frozen=True, slots=True, kw_only=True)
class Held:
    """The messages of one group that wait to be told together. Times in ns; None where there is no such message."""

    endpoint: str
    group: str
    count: int
    first_at: int | None  # the oldest that is neither urgent nor a reminder
    urgent_at: int | None  # the oldest urgent one
    reminder_at: int | None
    told_at: int | None  # when the group last sent a message


@dataclass(frozen=True, slots=True, kw_only=True)
class EndpointRecord:
    """What is remembered of an endpoint, over restarts. Times in ns."""

    name: str
    delivered: int = 0  # messages it took
    delivered_at: int | None = None
    failures: int = 0  # tries in a row that it did not take
    failed_at: int | None = None
    not_before: int = 0  # it asked for no tries before this time
    error: str = ""  # of the last failure
    disabled_at: int | None = None  # it said 410 Gone and nobody has enabled it since
    disabled_reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The engine's state after the event `seq`: restore `blobs`, then apply the entries after `seq`."""

    seq: int
    at: int
    blobs: Mapping[str, bytes]
