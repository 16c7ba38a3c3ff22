"""Entities with their readings (floor 7): everything that is known of one, or chosen signals of many.

    entity_view(engine, Kind.MARKET, "dydx:BTC-USD", (), at)      # all signals: a millisecond
    for chunk in chunks(names(engine, Kind.MARKET)):              # many: let the loop turn between the chunks
        entities(engine, Kind.MARKET, chunk, at, ("funding_rate",))
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from daemon.engine.engine import Engine
from daemon.language.catalogue import CATALOGUE, Signal
from daemon.service.views import EntityView, ReadingView
from daemon.units import FOREVER, NEVER, NS, show
from daemon.world.entities import Kind

CHUNK = 25  # entities of a list that are read in one go
LISTED: dict[Kind, tuple[str, ...]] = {
    Kind.MARKET: ("oracle_price", "mid_price", "spread", "depth", "funding_rate", "predicted_funding_rate", "oracle_divergence"),
    Kind.POSITION: ("size", "notional", "unrealized_pnl", "funding_paid", "liquidation_distance", "exit_cost"),
    Kind.ACCOUNT: ("equity", "margin_ratio", "survivable_move", "free_collateral", "leverage", "net_delta"),
    Kind.VENUE: ("venue_up", "block_age", "taker_fee", "withdrawals_open", "insurance_fund", "proposal_open"),
    Kind.CHAIN: ("sequencer_up", "block_age", "gas_price", "tx_cost", "buffer_balance"),
    Kind.ROUTE: ("route_open", "route_fee", "route_eta", "route_eta_p95", "route_capacity", "in_flight"),
    Kind.BUCKET: ("target", "weight", "drift", "bucket_notional", "bucket_funding_daily"),
    Kind.PORTFOLIO: ("equity_total", "gross_notional", "buffer_coverage", "stress_liquidation_probability", "stress_cvar"),
}
"""What a list shows of each entity when nothing is asked for; one entity alone shows everything."""


def names(engine: Engine, kind: Kind) -> list[str]:
    """Ids of everything of a kind that was seen or is configured, sorted; where routes end stands with what it is, not with the chains."""
    topology = engine.topology
    configured = {Kind.VENUE: topology.venues, Kind.ACCOUNT: topology.accounts, Kind.ROUTE: topology.routes}.get(kind, {})
    found = {*engine.hot.entities(kind), *configured}
    if kind is Kind.CHAIN:
        found -= {*topology.venues, *topology.accounts}
    return sorted(found)


def chunks(ids: Sequence[str], size: int = CHUNK) -> Iterator[Sequence[str]]:
    """A list in pieces that are each read without holding the loop up."""
    return (ids[i : i + size] for i in range(0, len(ids), size))


def entities(engine: Engine, kind: Kind, ids: Sequence[str], at: int, signals: Sequence[str] = ()) -> tuple[EntityView, ...]:
    """Several entities with some of their readings. Raises LookupError for one that nobody knows."""
    return tuple(entity_view(engine, kind, name, tuple(signals) or LISTED[kind], at) for name in ids)


def entity_view(engine: Engine, kind: Kind, name: str, signals: Sequence[str], at: int) -> EntityView:
    """An entity with the readings that are asked for, all of them where none are. Raises LookupError: unknown entity or signal."""
    own = engine.hot.seen(kind, name)
    if own is None or (kind is Kind.CHAIN and name in {*engine.topology.venues, *engine.topology.accounts}):
        known = names(engine, kind)
    else:
        known = [name]
    if name not in known:
        few = ", ".join(known[:10]) + (f" and {len(known) - 10} more" if len(known) > 10 else "")
        raise LookupError(f"no {kind} {name!r} is known; there {'are ' + few if few else 'is none'}")
    own = own or engine.topology.entity(kind, name)
    wanted = [_signal(kind, signal) for signal in signals] if signals else shown_signals(kind)
    return EntityView(
        kind=kind.value,
        id=name,
        labels=dict(own.labels),
        links=dict(own.links),
        readings=tuple(reading(engine, kind, name, signal, at) for signal in wanted),
    )


def shown_signals(kind: Kind) -> list[Signal]:
    """The signals of a kind that are read by name, in catalogue order."""
    return [signal for signal in CATALOGUE.values() if signal.kind is kind and not signal.internal and not signal.arguments]


def reading(engine: Engine, kind: Kind, name: str, signal: Signal, at: int) -> ReadingView:
    """One signal of an entity. A derived one over windows is known where a runbook in force follows them."""
    turn = engine.look(at)
    observed = signal.role == "observed"
    if observed:
        value = turn.hot.glance(kind, name, signal.name, turn.at)
        true_at = turn.hot.true_at(kind, name, signal.name)
        age_s = None if true_at == NEVER else 0.0 if true_at == FOREVER else max(0, turn.at - true_at) / NS
    else:
        found = turn.hot.peek(kind, name, signal.name, turn.at)
        value = found.value
        age_s = found.age_ns / NS if found.known and found.age_ns < 10**9 * NS else None
    return ReadingView(
        signal=signal.name,
        value=None if math.isnan(value) else value,
        unit=signal.unit,
        shown=show(value, signal.unit),
        age_s=age_s,
        role="observed" if observed else "derived",
    )


def _signal(kind: Kind, name: str) -> Signal:
    found = CATALOGUE.get((kind, name))
    if found is None or found.arguments:
        raise LookupError(f"a {kind} has no signal {name!r}; it has {', '.join(signal.name for signal in shown_signals(kind))}")
    return found
