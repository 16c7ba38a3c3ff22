"""The demo's eyes (floor 9): turns journal entries and the venue's own log into readable lines, and keeps the list of what must happen.

Nothing is believed because the daemon says so: a position counts as shrunk, and a buffer as moved, when the VENUE's log shows it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from daemon.engine.actions import Notify, Outcome
from daemon.engine.events import Event, FeedFailed, Observed
from daemon.engine.records import (
    ActionDenied,
    ActionFinished,
    ActionRequested,
    GateChanged,
    Record,
    RunFinished,
    RunRefused,
    TriggerChanged,
)
from daemon.simulation.episodes import intent
from daemon.units import show
from daemon.world.entities import Kind

READINGS_SHOWN = 4  # of those that decided a firing

POLLED = "the feed was polled"
SPIKE = "a funding spike was detected"
DIVERGENCE = "an oracle divergence was detected"
SHRUNK = "a position was shrunk at the venue"
MOVED = "buffer was moved to the venue"
WEBHOOK = "a signed webhook was received and verified"
SERVED = "the page and the gate answered"
AUDITED = "the journal's audit chain was verified"
PROMISES = (POLLED, SPIKE, DIVERGENCE, SHRUNK, MOVED, WEBHOOK, SERVED, AUDITED)
_NANOSECONDS = re.compile(r"[./]\d{13,}")


@dataclass(slots=True)
class Story:
    """What was seen so far: `seen` maps a promise to the evidence for it."""

    seen: dict[str, str] = field(default_factory=dict)
    rows: int = 0
    batches: int = 0
    failed_polls: int = 0
    readings: dict[tuple[Kind, str], dict[str, float]] = field(default_factory=dict)
    routes: dict[str, str] = field(default_factory=dict)  # transfer -> what to say of its way

    def missing(self, promises: Sequence[str] = PROMISES) -> list[str]:
        """The promises for which there is no evidence yet."""
        return [promise for promise in promises if promise not in self.seen]

    def told(self, promise: str, evidence: str) -> None:
        """Keep the first evidence for a promise."""
        self.seen.setdefault(promise, evidence)

    def entry(self, entry: Event | Record) -> Iterator[str]:
        """Lines about one journal entry; most entries have none."""
        match entry:
            case Observed(history=False):
                self._observed(entry)
            case FeedFailed():
                self.failed_polls += 1
                yield f"a poll of {entry.source} failed: {entry.reason}"
            case TriggerChanged():
                yield self._trigger(entry)
            case ActionRequested(action=Notify()):
                pass
            case ActionRequested():
                yield f"  decided and on disk: {intent(entry.action)}"
            case ActionFinished():
                yield f"  outcome {entry.outcome.status}{_outcome(entry.outcome)}"
            case ActionDenied():
                yield f"  denied by {entry.limit or 'the guard'}: {entry.reason}"
            case GateChanged():
                yield f"  opening orders of {entry.entity} are {'halted' if entry.closed else 'allowed again'}"
            case RunFinished():
                yield f"  run {_short(entry.run_id)} is {entry.status}{': ' + entry.reason if entry.reason else ''}"
            case RunRefused():
                yield f"  no run of {entry.runbook}: {entry.status}, {entry.reason}"
            case _:
                pass

    def _observed(self, event: Observed) -> None:
        self.batches += 1
        self.rows += len(event.rows)
        for row in event.rows:
            self.readings.setdefault((row.kind, row.entity), {}).update(row.values)
        self.seen[POLLED] = f"{self.rows:,} readings in {self.batches:,} batches, {self.failed_polls} failed polls"

    def _trigger(self, change: TriggerChanged) -> str:
        if change.change != "fired":
            return f"{change.runbook} on {change.entity} {change.change}{': ' + change.reason if change.reason else ''}"
        evidence = self.about(change.entity) or ", ".join(deciding(change.trace)) or "see the journal"
        match change.runbook:
            case "funding-spike":
                self.told(SPIKE, f"{change.entity}: {evidence}")
            case "oracle-divergence":
                self.told(DIVERGENCE, f"{change.entity}: {evidence}")
            case _:
                pass
        return f"{change.runbook} FIRES on {change.entity}: {evidence}"

    def about(self, entity: str) -> str:
        """The last readings of a market or position that matter for the shipped runbooks; empty for other entities."""
        venue, _, symbol = entity.partition(":")
        market = self.readings.get((Kind.MARKET, f"{venue.partition('#')[0]}:{symbol}"), {})
        parts = []
        if "funding_rate" in market:
            parts.append(f"funding {show(market['funding_rate'], 'rate/h')}")
        if "oracle_price" in market and "bid_price" in market and "ask_price" in market:
            mid = (market["bid_price"] + market["ask_price"]) / 2
            gap = market["oracle_price"] / mid - 1 if mid else float("nan")
            parts.append(f"oracle {show(market['oracle_price'], '1')} beside mid {show(mid, '1')} ({show(gap, 'ratio')})")
        size = self.readings.get((Kind.POSITION, entity), {}).get("size")
        if size is not None:
            parts.append(f"position {show(size, '1')}")
        return ", ".join(parts)

    def venue(self, entry: Mapping[str, object]) -> Iterator[str]:
        """Lines about one entry of the venue's own log (docs/simulated-venue.md)."""
        asked, detail = _mapping(entry.get("request")), _mapping(entry.get("detail"))
        match entry.get("kind"), entry.get("outcome"):
            case "order", "executed":
                filled = str(detail.get("filled_size", asked.get("size", "")))
                line = f"{asked.get('side')} {filled} {asked.get('market')}"
                if asked.get("reduce_only") and float(filled or 0) > 0:
                    line += ", reduce-only"
                    self.told(SHRUNK, line)
                yield f"VENUE: filled {line}"
            case "transfer_credited", _:
                line = f"{detail.get('amount')} USD{self.routes.get(str(detail.get('client_id')), '')}"
                self.told(MOVED, f"credited {line}")
                yield f"VENUE: credited {line}"
            case "transfer", "executed":
                self.routes[str(asked.get("client_id"))] = f" over {asked.get('route')}"
                yield f"VENUE: took a transfer of {asked.get('amount')} USD over {asked.get('route')}"
            case "cancel", "executed":
                market = asked.get("market")
                yield f"VENUE: canceled open orders of {'the account' if market in (None, 'None') else market}"
            case ("order" | "transfer" | "cancel") as kind, "refused":
                yield f"VENUE: refused {kind} {entry.get('client_id')}: {detail.get('reason', detail)}"
            case _:
                pass

    def webhook(self, *, kind: str, message_id: str, verified: bool, status: int) -> str:
        """A line about one webhook that the receiver got."""
        if verified and status < 300:
            self.told(WEBHOOK, f"{kind}, id {_short(message_id)}")
            return f"RECEIVER: {kind} with a valid signature, id {_short(message_id)}"
        return f"RECEIVER: refused {message_id} with {status}: the signature does not fit"


def _outcome(outcome: Outcome) -> str:
    parts = [f"filled {outcome.filled_size} at {outcome.fill_price}"] if outcome.filled_size is not None else []
    if outcome.amount is not None:
        parts.append(f"{outcome.amount} USD")
    if outcome.reason:
        parts.append(outcome.reason)
    return ": " + ", ".join(parts) if parts else ""


def deciding(trace: object) -> list[str]:
    """The first readings of a firing's trace, as text: `margin_ratio_worst 81.2%`."""
    found: dict[str, None] = {}

    def visit(node: Mapping[str, object]) -> None:
        value, kids = node.get("value"), node.get("kids")
        if node.get("signal") and isinstance(value, float):
            found.setdefault(f"{node.get('text')} {show(value, str(node.get('unit')))}")
        for kid in kids if isinstance(kids, list | tuple) else ():
            visit(_mapping(kid))

    visit(_mapping(trace))
    return list(found)[:READINGS_SHOWN]


def _short(run_id: str) -> str:
    """An id without the nanoseconds in it: `funding-spike/dydx:ETH-USD/1`."""
    return _NANOSECONDS.sub("", run_id)


def _mapping(value: object) -> Mapping[str, object]:
    return value if isinstance(value, Mapping) else {}
