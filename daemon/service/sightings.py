"""Entities with their readings (floor 7), for pages and the API: what was ever seen of them, and what follows from it.

    view = entity_view(engine, Kind.MARKET, "dydx:BTC-USD", at, ("mid_price", "funding_rate"))      # all of them when none is named

Runs on the loop's own thread and changes nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

from daemon.engine.engine import Engine
from daemon.language.catalogue import CATALOGUE, Signal
from daemon.service.views import EntityView, ReadingView
from daemon.units import FOREVER, NEVER, NS, show
from daemon.world.entities import Kind

UNKNOWN = "unknown"


@cache
def signals_of(kind: Kind) -> tuple[Signal, ...]:
    """What can be shown of an entity of this kind, in the catalogue's order: no parts of other derivations, nothing with arguments."""
    return tuple(s for (k, _), s in CATALOGUE.items() if k is kind and not s.internal and not s.arguments)


def entity_view(engine: Engine, kind: Kind, entity: str, at: int, signals: Sequence[str] = ()) -> EntityView:
    """One entity that is known; of all its signals those that were ever seen or are known, or exactly the named ones that there are."""
    found = engine.hot.entity(kind, entity)
    wanted = [s for s in signals_of(kind) if not signals or s.name in signals]
    readings = [reading for s in wanted if (reading := reading_of(engine, s, entity, at, always=bool(signals))) is not None]
    return EntityView(kind=kind.value, id=entity, labels=dict(found.labels), links=dict(found.links), readings=tuple(readings))


def reading_of(engine: Engine, signal: Signal, entity: str, at: int, *, always: bool) -> ReadingView | None:
    """A signal's reading; None when there never was one, unless it is shown `always`."""
    reading = engine.hot.peek(signal.kind, entity, signal.name, at)
    if not always and not reading.known and (signal.role != "observed" or engine.hot.seen_at(signal.kind, entity, signal.name) == NEVER):
        return None
    value = reading.value
    return ReadingView(
        signal=signal.name,
        value=value if reading.known else None,
        unit=signal.unit,
        shown=shown(value, signal.unit) if reading.known else UNKNOWN,
        age_s=None if reading.age_ns >= FOREVER else reading.age_ns / NS,
        role="observed" if signal.role == "observed" else "derived",
    )


def shown(value: float, unit: str) -> str:
    """A value as a person reads it."""
    if unit == "bool":
        return "yes" if value else "no"
    return "none" if math.isinf(value) else show(value, unit)
