"""Names that nobody will ever fill in (floor 3): signals a runbook reads although no matched venue's adapter provides them.

    unprovided(runbooks, topology)      # E044 at each expression that can never be known

Files alone cannot tell; whoever knows the venues (the daemon's start and reload) asks. A venue that declares nothing provides everything.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator

from daemon.errors import Diagnostic
from daemon.language.labels import matches
from daemon.language.terms import Derived, Elsewhere, Over, Read, Saved, Term, children
from daemon.runbook.document import Document
from daemon.runbook.model import Expression, Runbook
from daemon.runbook.warnings import label_demands
from daemon.world.entities import Kind, Topology, Venue

_OF_A_VENUE = (Kind.MARKET, Kind.POSITION, Kind.ACCOUNT, Kind.VENUE)


def _named(term: Term) -> Iterator[Read]:
    """The observed signals that an expression reads of its own entities; what derived signals and sets read is theirs to do without."""
    match term:
        case Read():
            yield term
        case Derived() | Over() | Elsewhere():
            return
        case Saved(term=inside):
            yield from _named(inside)
        case _:
            for child in children(term):
                yield from _named(child)


def _venues(runbook: Runbook, topology: Topology) -> list[Venue]:
    """The venues whose entities the runbook's filter may match: those its demands on the label `venue` do not exclude."""
    demands = label_demands(runbook.where.node) if runbook.where is not None else []
    wanted = [(value, same) for label, value, same in demands if label == "venue" or (label == "id" and runbook.scope is Kind.VENUE)]
    found = [venue for venue in topology.venues.values() if all((venue.id == value) == same for value, same in wanted)]
    if runbook.scope is Kind.VENUE and runbook.where is not None:
        return [venue for venue in found if matches(runbook.where.node, topology.entity(Kind.VENUE, venue.id).labels)]
    return found


def _missing(read: Read, venue: Venue) -> bool:
    return venue.provides is not None and read.signal not in venue.provides.get(read.kind, frozenset())


def _problem(runbook: Runbook, expression: Expression, read: Read, message: str) -> Diagnostic:
    document = Document(path=runbook.path, text=runbook.source)
    start = document.starts[expression.line - 1] + expression.column - 1
    within = expression.text.find(read.signal)
    # An expression over several lines or with a let in between is shown at its start.
    exact = within >= 0 and document.text.startswith(read.signal, start + within)
    at, width = (start + within, len(read.signal)) if exact else (start, 1)
    return document.diagnostic("E044", message, at, at + width, expression.where)


def unprovided(runbooks: Iterable[Runbook], topology: Topology, unscheduled: Collection[str] = ()) -> list[Diagnostic]:
    """An error for every expression that reads an observed signal which no matched venue provides, or one of the portfolio that is told by
    a stress nobody scheduled (`unscheduled`)."""
    found: list[Diagnostic] = []
    for runbook in runbooks:
        venues = _venues(runbook, topology)
        for expression in runbook.expressions:
            for read in dict.fromkeys(_named(expression.typed.term)):
                if read.kind in _OF_A_VENUE and venues and all(_missing(read, venue) for venue in venues):
                    names = " and ".join(sorted(venue.id for venue in venues))
                    never = f"{read.text} is never known here, and this can never be TRUE"
                    message = f"'{read.signal}' does not exist on {names}: {never}; read another signal"
                    found.append(_problem(runbook, expression, read, message))
                if read.kind is Kind.PORTFOLIO and read.signal in unscheduled:
                    message = f"'{read.signal}' is told by the scheduled stress, and none is scheduled; write stress: into the settings"
                    found.append(_problem(runbook, expression, read, message))
    return found
