"""Lives of a small world, journaled for real: what the index, the trace of a run and the search are tested on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from decimal import Decimal
from pathlib import Path

from engine_world import Entry, World, runbook

from daemon.engine.actions import Action, Notify, Outcome, ShrinkPosition
from daemon.engine.engine import Transition
from daemon.journal.entry import OBSERVED
from daemon.journal.reader import Reader
from daemon.journal.store import Journal
from daemon.service.chronicle import Chronicle
from daemon.service.loop import event_entry, record_entry
from daemon.service.views import RunQuery
from daemon.units import FOREVER

ALL = RunQuery(limit=1_000_000)

APPROVED = runbook(
    name="asks",
    steps="""
    - id: shrink
      shrink_position: {by: 20%, slices: 2, every: 10s}
      approval: {when: "notional_change > 1 USD", from: [ana, ben], timeout: 10m, otherwise: skip}
      verify: {that: "abs(size) < 10 base", within: 2m}
      retry: {attempts: 2, backoff: 3s}
    """,
    rest="locks: [position]\n",
)
PLAIN = runbook(
    name="spike",
    steps="""
    - id: stop
      halt: {scope: market}
    - id: shrink
      shrink_position: {by: 25%, slices: 2, every: 10s}
      retry: {attempts: 2, backoff: 3s}
    """,
    until="funding_rate < 0.02%/h",
    rest="repeat: {every: 60s, max: 3}\ncooldown: 10s\non_clear:\n  - id: reopen\n    resume: {scope: market}\n",
)


def filled(action: Action, share: str = "1", worse: str = "1.5") -> Outcome:
    """A fill of a share of an order, `worse` USD from mid."""
    assert isinstance(action, ShrinkPosition)
    mid = Decimal(repr(action.reference_price))
    size = (action.size * Decimal(share)).quantize(Decimal("0.001"))
    price = mid - Decimal(worse) if action.side == "SELL" else mid + Decimal(worse)
    return Outcome(status="done", filled_size=size, fill_price=price, fee_usd=Decimal("0.75"))


def answering(*answers: Outcome | Callable[[Action], Outcome | None] | None) -> Callable[[Action], Outcome | None]:
    """A venue that gives these answers to its writes one after the other, then fills; notices are always done."""
    left = list(answers)

    def answer(action: Action) -> Outcome | None:
        if isinstance(action, Notify) or not isinstance(action, ShrinkPosition):
            return Outcome(status="done")
        chosen = left.pop(0) if left else filled
        return chosen(action) if callable(chosen) else chosen

    return answer


def write(journal: Journal, entries: Sequence[Entry], first_seq: int = 1) -> None:
    """Journal what a world went through, an event a number."""
    for seq, entry in enumerate(entries, start=first_seq):
        records = [record_entry(seq, record) for record in entry.records]
        event = event_entry(seq, entry.event)
        if event.type == OBSERVED and not records:
            journal.observe(event)
        elif event.type == "Woke":
            journal.append(None, records)
        else:
            journal.append(event, records)
    journal.flush().result()


def follow(chronicle: Chronicle, entries: Sequence[Entry], first_seq: int = 1) -> None:
    """Let a chronicle follow what a world went through."""
    for seq, entry in enumerate(entries, start=first_seq):
        chronicle.follow(entry.event, Transition(records=entry.records, actions=(), wake_at=FOREVER), seq)


def everything(chronicle: Chronicle) -> tuple[object, ...]:
    """All that a chronicle shows."""
    return (
        chronicle.runs(ALL), chronicle.episodes(10_000), chronicle.acts(10_000), chronicle.running(), chronicle.recent(1_000),
        [chronicle.place(run.run_id) for run in chronicle.runs(ALL)],
    )  # fmt: skip


def journaled(world: World, folder: Path) -> Reader:
    """The world's past in a journal of its own, closed; its reader."""
    path = folder / "state.db"
    with Journal.open(path) as journal:
        write(journal, world.entries)
    return Reader(path)
