"""`reefd audit verify` and the backup of a journal (floor 9): what the chain says, for people or as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from daemon.errors import UserError
from daemon.journal.store import Journal, back_up, feed_beside


def audit_verify(state: Path, *, anchor: str | None, json_format: bool) -> int:
    """Walks the audit chain of a journal, also of a running daemon's: 0 intact, 1 changed or cut, 2 the journal cannot be read."""
    try:
        journal = Journal.open_readonly(_file(state))
        try:
            report = journal.verify_chain(anchor)
        finally:
            journal.close()
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if json_format:
        told = {
            "intact": report.intact,
            "entries": report.entries,
            "documents": report.documents,
            "head": {"seq": report.head_seq, "hash": report.head_hash},
            "anchored": report.anchored,
            "problems": list(report.problems),
        }
        print(json.dumps(told, indent=2))
        return 0 if report.intact else 1
    if report.intact:
        print(f"intact: {report.entries:,} entries and {report.documents:,} documents follow from one another")
    else:
        print(f"CHANGED: {len(report.problems)} findings in {report.entries:,} entries")
        for problem in report.problems:
            print(f"  {problem}")
    print(f"head: {report.head_seq}:{report.head_hash}")
    match report.anchored:
        case True:
            print("the anchor is in the chain: nothing before it was cut or written anew")
        case None:
            print("no anchor given: a cut tail shows only against a head published earlier (--anchor SEQ:HASH)")
        case False:
            pass
    return 0 if report.intact else 1


def backup(state: Path, out: Path, *, json_format: bool) -> int:
    """Copies a journal, also a running daemon's, into the new folder `out`: 0 done, 2 it cannot be read or written."""
    try:
        path = _file(state)
        journal = Journal.open_readonly(path)
        try:
            head = journal.head()
        finally:
            journal.close()
        back_up(path, feed_beside(path), out)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    if json_format:
        print(json.dumps({"out": str(out), "head": {"seq": head[0], "hash": head[1]}}))
    else:
        print(f"backup: {out} (head {head[0]}:{head[1]}); its first start only reconciles, it sends nothing before that")
    return 0


def _file(state: Path) -> Path:
    """The state file, also when its folder was named."""
    return state / "state.db" if state.is_dir() else state
