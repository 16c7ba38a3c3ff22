"""`reefd eval` and `reefd explain`: an expression, or a runbook's trigger, over a recording (floor 9)."""

from __future__ import annotations

import io
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import polars as pl

from daemon.engine.columns import Stream, instants
from daemon.engine.edge import Edge
from daemon.engine.events import Row
from daemon.engine.hot import Hot, Sources
from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.journal.recording import Recording
from daemon.language.explain import describe
from daemon.language.parse import parse
from daemon.language.problems import ExpressionError
from daemon.language.slots import SLOT
from daemon.language.terms import Derived, Elsewhere, Over, Read, Term, children
from daemon.language.typing import Scope, Typed, check
from daemon.runbook.load import load_paths, there
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec, SimulatedAccount, marks
from daemon.simulation.account_file import load_account
from daemon.units import FOREVER, HOUR_NS, iso, parse_iso, show
from daemon.world.entities import Kind, Topology, Venue


def recorded_sources(recording: Recording) -> Sources:
    """What a recording declares: holds as the cadence too, and derived signals that it holds as columns."""
    given = frozenset((kind, name) for kind in recording.kinds for name in recording.table(kind).columns if (kind, name) in SLOT)
    holds = dict(recording.holds)
    return Sources(holds=holds, cadence=holds, given=given)


def _kind_of(recording: Recording, entity: str) -> Kind:
    order = (Kind.MARKET, Kind.POSITION, Kind.VENUE, Kind.ACCOUNT, Kind.CHAIN, Kind.ROUTE)
    for kind in order:
        if entity in recording.entities.get(kind, ()):
            return kind
    known = sorted({e for ids in recording.entities.values() for e in ids})
    shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
    raise UserError(f"{entity!r} is not in the recording {recording.folder}; it has {shown or 'no rows'}")


def _typed(text: str, kind: Kind) -> Typed:
    try:
        return check(parse(text), text, Scope(kind=kind))
    except ExpressionError as error:
        raise RunbookError(
            [
                Diagnostic(
                    file="<expression>", line=1, column=p.start + 1, code=p.code, message=p.message, source_line=text, width=p.end - p.start
                )
                for p in error.problems
            ]
        ) from None


def _streams(recording: Recording, hot: Hot) -> list[Stream]:
    return [Stream(hot, recording.table(kind)) for kind in recording.kinds]


def _topology(recording: Recording) -> Topology:
    venues = {entity.partition(":")[0] for entity in recording.entities.get(Kind.MARKET, ())}
    return Topology(venues={venue: Venue(id=venue) for venue in sorted(venues)})


def evaluate(expression: str, *, recording: Path, entity: str, out: Path | None) -> int:
    """Write `ts,value` of an expression at every distinct ts of an entity: CSV or Parquet to `out`, else CSV to standard output."""
    if out is not None and out.suffix not in (".csv", ".parquet"):
        raise UserError(f"{out}: the format is told by the name; write a file that ends in .csv or .parquet")
    source = Recording.open(recording)
    kind = _kind_of(source, entity)
    typed = _typed(expression, kind)
    hot = Hot(_topology(source), recorded_sources(source))
    value_at = hot.expression(typed, kind, entity)
    number = hot.arenas.row(kind, entity)
    streams = _streams(source, hot)
    truth = typed.dimension.truth
    times: list[int] = []
    values: list[float] = []
    for at, parts in instants(streams):
        touched: dict[tuple[Kind, int], None] = {}
        for stream, first, end in parts:
            for i in range(first, end):
                touched[stream.ingest(i)] = None
        hot.evaluate(touched, at)
        if (kind, number) in touched:
            value = value_at(at)
            times.append(at)
            values.append((0.0, math.nan, 1.0)[int(value)] if truth else float(value))
    _write(times, values, truth, out)
    if all(math.isnan(value) for value in values):
        for absent in dict.fromkeys(_unrecorded(source, typed.term, entity)):
            print(f"{absent}: every value is UNKNOWN", file=sys.stderr)
    return 0


def _unrecorded(recording: Recording, term: Term, entity: str) -> Iterator[str]:
    """What a term names of one entity that the recording never says; what it reads of sets of entities is left out."""
    match term:
        case Read() | Derived():
            place = {"": entity, "venue": entity.partition(":")[0]}.get(term.relation)
            if place is None or _is_recorded(recording, term.kind, place, term.signal):
                return
            if isinstance(term, Derived):
                yield from _unrecorded(recording, term.body, place)
            else:
                yield f"{term.signal} is not recorded for {place}"
        case Elsewhere():
            yield from _unrecorded(recording, term.body, term.entity)
        case Over():
            if term.own is not None:
                yield from _unrecorded(recording, term.own, entity)
        case _:
            for child in children(term):
                yield from _unrecorded(recording, child, entity)


def _is_recorded(recording: Recording, kind: Kind, entity: str, signal: str) -> bool:
    """True when some row of the entity holds a value of the signal."""
    if entity not in recording.entities.get(kind, ()):
        return False
    table = recording.table(kind)
    column = table.columns.get(signal)
    return column is not None and bool(np.isfinite(column[table.entity == table.entity_ids.index(entity)]).any())


def _write(times: list[int], values: list[float], truth: bool, out: Path | None) -> None:
    if out is not None and out.suffix == ".parquet":
        known = [None if math.isnan(v) else v for v in values]
        frame = pl.DataFrame({"ts": pl.Series(times, dtype=pl.Int64), "value": pl.Series(known, dtype=pl.Float64)})
        content = io.BytesIO()
        frame.write_parquet(content)
        _replace(out, content.getbuffer())
        return
    text = "".join(
        ["ts,value\n", *(f"{t},{'' if v != v else int(v) if truth else _decimal(v)}\n" for t, v in zip(times, values, strict=True))]
    )
    if out is None:
        sys.stdout.write(text)
    else:
        _replace(out, text.encode())


def _replace(out: Path, content: bytes | memoryview) -> None:
    """Puts a file in place whole: a disk that fills up leaves the old one, or none. Raises UserError naming the file."""
    if not out.parent.is_dir():
        raise UserError(f"{out}: its folder does not exist")
    partial = out.with_name(f".{out.name}.partial")
    try:
        try:
            partial.write_bytes(content)
            os.replace(partial, out)
        finally:
            partial.unlink(missing_ok=True)
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {(error.strerror or str(error)).lower()}") from error


def _decimal(value: float) -> str:
    """The shortest decimal that reads back as the same double."""
    if math.isinf(value):
        return "inf" if value > 0 else "-inf"
    text = repr(value)
    return text.removesuffix(".0")


def explain(runbook: Path, *, recording: Path, entity: str, at: str, json_format: bool, account: Path | None = None) -> int:
    """Say why a runbook's trigger stood where it stood at a moment of a recording: readings, ages, what was missing.

    `account` gives sizes, collateral and margins as the account starts with them: a recording of markets has none.
    """
    loaded = load_paths(there(runbook))
    if loaded.errors:
        raise RunbookError(loaded.errors)
    if len(loaded.runbooks) != 1:
        raise UserError(f"{runbook} holds {len(loaded.runbooks)} runbooks; name the file of one")
    try:
        moment = parse_iso(at)
    except ValueError as error:
        raise UserError(f"--at: {error}") from None
    spec = load_account(account) if account is not None else None
    told = standing(Recording.open(recording), loaded.runbooks[0], entity=entity, at=moment, spec=spec)
    if json_format:
        print(json.dumps(told, indent=2))
    else:
        print(standing_text(told))
    return 0


def standing(source: Recording, chosen: Runbook, *, entity: str, at: int, spec: AccountSpec | None) -> dict[str, object]:
    """Where a runbook's trigger stood on an entity at a moment of a recording, and why: what `explain` prints as JSON.

    Raises UserError for an entity that is not there, or a moment before the first row.
    """
    moment = at
    _known_entity(source, chosen, entity)
    venues = _topology(source)
    hot = Hot(spec.topology(venues.venues) if spec else venues, recorded_sources(source))
    hot.link([chosen])
    hot.arenas.row(chosen.scope, entity)
    facts = _facts(spec)
    edges: list[Edge] = []
    last = 0
    for instant, parts in instants(_streams(source, hot)):
        if instant > moment:
            break
        while hot.next_due < instant:
            edges += hot.fire_due(instant - 1)[1]
        if facts:
            hot.take(facts, instant)
            facts = ()
        touched: dict[tuple[Kind, int], None] = {}
        for stream, first, end in parts:
            for i in range(first, end):
                touched[stream.ingest(i)] = None
        edges += hot.evaluate(touched, instant)
        last = instant
    if last == 0:
        raise UserError(f"the recording {source.folder} has no row at or before {iso(moment)}")
    while hot.next_due <= moment:
        edges += hot.fire_due(moment)[1]
    return _told(hot, chosen, entity, moment, [e for e in edges if e.entity == entity])


def _facts(spec: AccountSpec | None) -> tuple[Row, ...]:
    """What the account says of itself at its start; always fresh."""
    if spec is None:
        return ()
    account = SimulatedAccount(spec, mark=marks(spec, bound_ns=lambda market, signal: FOREVER, interval_ns=lambda market: HOUR_NS))
    return (*account.parameters(), *account.changes())


def _known_entity(recording: Recording, runbook: Runbook, entity: str) -> None:
    """A position, bucket or portfolio need not be recorded; what it belongs to must be."""
    if runbook.scope in (Kind.BUCKET, Kind.PORTFOLIO):
        return
    kind = Kind.MARKET if runbook.scope is Kind.POSITION else runbook.scope
    if entity not in recording.entities.get(kind, ()) and entity not in recording.entities.get(runbook.scope, ()):
        _kind_of(recording, entity)
        raise UserError(f"{entity!r} is no {runbook.scope.value}; {runbook.id} is about a {runbook.scope.value}")


def _told(hot: Hot, runbook: Runbook, entity: str, at: int, edges: list[Edge]) -> dict[str, object]:
    trigger = runbook.trigger
    state = hot.state(runbook.id, entity)
    fired = [e for e in edges if e.change == "fired"]
    told: dict[str, object] = {
        "runbook": runbook.id,
        "entity": entity,
        "at": iso(at),
        "state": state.status,
        "pending_at": iso(state.pending_at) if state.status != "inactive" else None,
        "fired_at": iso(state.fired_at) if state.status in ("firing", "clearing") else None,
        "held": show(state.held_ns / 1e9, "s"),
        "hold": show(trigger.for_ns / 1e9, "s"),
        "fired_before": [iso(e.at) for e in fired],
        "unknown": list(hot.unknown(runbook, trigger.when.index, entity, at)),
        "when": hot.trace(runbook, trigger.when.index, entity, at),
    }
    if trigger.until is not None:
        told["until"] = hot.trace(runbook, trigger.until.index, entity, at)
    told["guards"] = [hot.trace(runbook, guard.index, entity, at) for guard in runbook.guards]
    return told


def standing_text(told: Mapping[str, object]) -> str:
    """What `standing` found, as lines for people."""
    lines = [f"{told['runbook']} on {told['entity']} at {told['at']}: {told['state']}"]
    match told["state"]:
        case "pending":
            lines.append(f"  since {told['pending_at']}, held {told['held']} of {told['hold']}")
        case "firing" | "clearing":
            lines.append(f"  fired at {told['fired_at']}")
        case _:
            fired = told["fired_before"]
            lines.append(f"  fired before at {', '.join(fired)}" if isinstance(fired, list) and fired else "  did not fire before")
    unknown = told["unknown"]
    if isinstance(unknown, list) and unknown:
        lines.append(f"  missing: {', '.join(unknown)}")
    if "size" in (unknown if isinstance(unknown, list) else ()):
        lines.append("  a recording of markets has no positions: --account FILE gives them")
    for name in ("when", "until"):
        if name in told:
            lines.append(f"{name}:")
            lines += describe(told[name])
    guards = told["guards"]
    if isinstance(guards, list) and guards:
        lines.append("guards:")
        for guard in guards:
            lines += describe(guard)
    return "\n".join(lines)
