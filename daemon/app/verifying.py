"""`reefd replay --journal state.db --verify` (floor 9): every event of a journal decided anew, every record compared byte by byte."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from daemon import __version__
from daemon.engine.codec import decode_as
from daemon.engine.engine import Engine
from daemon.engine.events import RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError
from daemon.journal.store import Journal
from daemon.runbook.load import load_documents
from daemon.runbook.model import Runbook
from daemon.service.recover import read_topology
from daemon.service.verify import Verification, verify
from daemon.world.entities import Topology

EXCERPT_CHARS_MAX = 2_000


def verify_journal(state: Path, *, json_format: bool) -> int:
    """Verify a journal, also of a running daemon; 0 byte-identical, 1 not. Raises JournalError when it cannot be read."""
    with Journal.open_readonly(state) as journal:
        found = verify_entries(journal)
    if json_format:
        print(json.dumps(as_json(found)))
    else:
        print(as_text(found, state))
    return 0 if found.identical else 1


def verify_entries(journal: Journal) -> Verification:
    """Decide a journal's events anew with the runbooks, limits and topology that the journal itself keeps."""

    def read_set(event: RunbooksLoaded) -> Sequence[Runbook]:
        loaded = load_documents({path: journal.document(digest) for path, digest in event.runbooks.items()})
        if loaded.errors:
            raise RunbookError(loaded.errors)
        return loaded.runbooks

    def make_engine(event: RunbooksLoaded | None, before: Engine | None) -> Engine:
        topology, house = Topology(), HouseLimits()
        if event is not None and event.topology:
            topology = read_topology(journal.document(event.topology))
        if event is not None and event.limits:
            house = cast("HouseLimits", decode_as(journal.document(event.limits), HouseLimits))
        engine = Engine(topology=topology, house=house, build=__version__, documents=journal.document)
        if before is not None and sets:
            # A start: the new process recovers what the one before it left.
            engine.load(sets[-1])
            engine.restore(before.checkpoint())
        return engine

    sets: list[Sequence[Runbook]] = []

    def read_and_remember(event: RunbooksLoaded) -> Sequence[Runbook]:
        sets[:] = [read_set(event)]
        return sets[-1]

    return verify(journal.entries(), make_engine, read_and_remember)


def as_json(found: Verification) -> dict[str, object]:
    """The verification as one JSON document."""
    difference = found.difference
    return {
        "identical": found.identical,
        "events": found.events,
        "records": found.records,
        "builds": list(found.builds),
        "build": __version__,
        "difference": None
        if difference is None
        else {"seq": difference.seq, "journaled": difference.journaled, "decided": difference.decided},
    }


def as_text(found: Verification, state: Path) -> str:
    """The verification for a person."""
    lines = [f"{state}: {found.events} events decided anew, {found.records} records journaled"]
    if found.difference is None:
        lines.append("byte-identical: every record came out as it was journaled")
        return "\n".join(lines)
    other = [build for build in found.builds if build != __version__]
    if other:
        lines.append(f"written by build {', '.join(other)}, verified with {__version__}: only one and the same build must agree")
    lines.append(f"DIFFERENT at seq {found.difference.seq}:")
    lines.append(f"  journaled: {(found.difference.journaled or 'nothing')[:EXCERPT_CHARS_MAX]}")
    lines.append(f"  decided:   {(found.difference.decided or 'nothing')[:EXCERPT_CHARS_MAX]}")
    return "\n".join(lines)
