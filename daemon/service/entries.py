"""The journal as a list to search (floor 7): `find(reader, EntryQuery(text="ETH-USD"))` is a page of entries, each in one line of words.

Observations stand in the feed file and are not listed here; what they led to is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import assert_never, cast

from daemon.engine.codec import decode
from daemon.engine.events import (
    ActionSettled,
    Event,
    FeedFailed,
    Gap,
    Observed,
    OperatorCommand,
    RunbooksLoaded,
    Scheduled,
    Woke,
)
from daemon.engine.records import Record
from daemon.errors import UserError
from daemon.journal.reader import Reader, Search, Stored, storable
from daemon.service.happenings import happening
from daemon.service.views import Entries, EntryQuery, EntryView
from daemon.units import NS, iso, parse_iso, show_duration

ROLES = ("", "event", "record")
TEXT_MAX = 1_000  # characters
TIME_MAX = 1 << 62  # ns: what SQLite can compare


def find(reader: Reader, query: EntryQuery) -> Entries:
    """A page of the journal, newest first. Raises UserError for a role or a time that is none, JournalError when it cannot be read."""
    if len(query.text) > TEXT_MAX or not storable(query.text + query.type):
        raise UserError(f"text: at most {TEXT_MAX} characters of Unicode can be looked for; write the part that matters")
    if query.role not in ROLES:
        raise UserError(f"{query.role!r} is no role of an entry; write event or record, or leave it out")
    found = reader.search(
        Search(
            text=query.text,
            type=query.type,
            role=query.role,
            since=_time("since", query.since),
            until=_time("until", query.until),
            before=query.before,
            limit=query.limit,
        )
    )
    return Entries(
        entries=tuple(entry_view(stored) for stored in found.entries), next_before=found.next_before, searched=found.searched
    )


def entry_view(stored: Stored) -> EntryView:
    """An entry as the surface shows it."""
    body = json.loads(stored.body)
    return EntryView(
        seq=stored.seq,
        part=stored.part,
        position=stored.position,
        at=iso(stored.at),
        role=stored.role,
        type=stored.type,
        summary=summary(stored),
        hash=stored.hash,
        body=body if isinstance(body, Mapping) else {},
    )


def summary(stored: Stored) -> str:
    """An entry in one line."""
    try:
        entry = decode(stored.body)
    except (ValueError, KeyError):
        return f"{stored.type}: written by another build, this one has no words for it"
    if stored.role == "event":
        return event_text(cast("Event", entry))
    return happening(stored.seq, stored.part, cast("Record", entry)).summary


def event_text(event: Event) -> str:
    """An event in one line."""
    match event:
        case Observed():
            kinds: dict[str, int] = {}
            for row in event.rows:
                kinds[row.kind.value] = kinds.get(row.kind.value, 0) + 1
            counts = ", ".join(f"{count} of {kind}" for kind, count in sorted(kinds.items()))
            return f"{event.source}: {len(event.rows)} rows of {'the past' if event.history else 'readings'} ({counts})"
        case FeedFailed():
            return f"{event.source} failed: {event.reason}"
        case Gap():
            since_s = (event.at - event.since) / NS
            return f"nobody watched for {show_duration(max(0.0, since_s))} ({event.cause})" if event.since > 0 else "the first start"
        case ActionSettled():
            outcome = event.outcome
            return f"{event.action_id} is {outcome.status}{': ' + outcome.reason if outcome.reason else ''}"
        case OperatorCommand():
            until = f" until {iso(event.until)}" if event.until is not None else ""
            why = f": {event.reason}" if event.reason else ""
            return f"{event.actor} asks to {event.verb} {event.target or 'everything'}{until}{why}"
        case RunbooksLoaded():
            count = len(event.runbooks)
            return f"{count} {'runbook' if count == 1 else 'runbooks'} loaded: {', '.join(event.runbooks)}"
        case Scheduled():
            return f"timer {event.timer} was due at {iso(event.due)}"
        case Woke():
            return "woke up for what was due"
        case _:
            assert_never(event)


def _time(name: str, text: str | None) -> int | None:
    if text is None or not text.strip():
        return None
    try:
        return max(-TIME_MAX, min(parse_iso(text), TIME_MAX))
    except ValueError as error:
        raise UserError(f"{name}: {error}") from error
