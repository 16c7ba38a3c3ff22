"""The gate (floor 7): may a strategy open in a market now? Open only when everything that could close it is known not to.

    answer = gate(engine, topology, "dydx:BTC-USD", clock.now(), flag=halt_flag_text(), ready="")
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from daemon.engine.engine import Engine
from daemon.engine.state import Closure
from daemon.engine.turn import Turn
from daemon.language.catalogue import BLOCK_AGE_LIMIT_S, CATALOGUE
from daemon.service.verdict import ago, moment
from daemon.service.views import GateAnswer, GateView
from daemon.units import NEVER, NS, iso
from daemon.world.entities import PORTFOLIO_ID, Kind, Topology

BOOK = ("bid_price", "ask_price")  # what an opening order would be priced by, where the venue has been seen to give it


def gate(engine: Engine, topology: Topology, market: str, at: int, *, flag: str, ready: str) -> GateAnswer:
    """Whether openings are allowed in a market. `flag` is why nothing may be sent (the halt flag's text), `ready` why the daemon is not
    ready to answer for it (starting, stopping, restored); both empty when there is nothing of the kind. What cannot be known is closed."""
    turn = engine.look(at)
    reasons = closed_because(turn, topology, market, flag=flag, ready=ready)
    first = next(reasons, "")
    more = sum(1 for _ in reasons) if first else 0
    why = f"{first} (and {more} more)" if more else first
    return GateAnswer(market=market, open=not first, why=why or "nothing is closed, and the market's readings are fresh", at=iso(turn.at))


def closed_because(turn: Turn, topology: Topology, market: str, *, flag: str, ready: str) -> Iterator[str]:
    """Every reason why openings in a market are closed, the weightiest first."""
    if flag:
        yield flag
    if turn.cold.halted and turn.cold.halted != flag:
        yield f"everything is halted: {turn.cold.halted}"
    if ready:
        yield ready
    yield from _closures(turn, topology, market)
    if not turn.hot.knows(Kind.MARKET, market):
        yield f"nothing was seen of {market} yet"
        return
    yield from _venue(turn, topology, market)
    yield from _market(turn, topology, market)


def around(turn: Turn, topology: Topology, market: str) -> Mapping[str, None]:
    """The keys (`<kind>/<entity>`) of every gate that concerns a market: its own, of its positions, of their accounts and buckets, of the
    venue's accounts, of the venue, its chain and the portfolio."""
    own = topology.entity(Kind.MARKET, market)
    venue, chain = own.links.get("venue", ""), own.links.get("chain", "")
    keys: dict[str, None] = {f"{Kind.MARKET.value}/{market}": None, f"{Kind.PORTFOLIO.value}/{PORTFOLIO_ID}": None}
    keys |= {f"{Kind.VENUE.value}/{venue}": None}
    if chain:
        keys |= {f"{Kind.CHAIN.value}/{chain}": None}
    if bucket := own.labels.get("bucket", ""):
        keys |= {f"{Kind.BUCKET.value}/{bucket}": None}
    accounts = {name for name, account in topology.accounts.items() if account.venue == venue}
    accounts |= {name for name in turn.hot.entities(Kind.ACCOUNT) if topology.entity(Kind.ACCOUNT, name).links.get("venue") == venue}
    for account in sorted(accounts):
        position = f"{account}:{market.partition(':')[2]}"
        for kind, name in ((Kind.ACCOUNT, account), (Kind.POSITION, position)):
            keys |= {f"{kind.value}/{name}": None}
            links = topology.entity(kind, name).links
            keys |= {f"{relation}/{target}": None for relation, target in links.items() if relation in ("bucket", "chain")}
    return keys


def closure_words(key: str, closure: Closure) -> str:
    """`openings of account dydx are halted by margin-low since 2026-02-03T17:00:00Z: ...`."""
    kind, _, entity = key.partition("/")
    what = "everything" if kind == Kind.PORTFOLIO.value else f"{kind} {entity}"
    return f"openings of {what} are halted by {closure.by} since {moment(closure.at)}" + (f": {closure.reason}" if closure.reason else "")


def gates(closed: Mapping[str, Sequence[Closure]]) -> tuple[GateView, ...]:
    """Every gate that stands closed, once for each who closed it."""
    return tuple(
        GateView(what=key.partition("/")[2], by=closure.by, since=iso(closure.at), reason=closure.reason)
        for key, closures in sorted(closed.items())
        for closure in closures
    )


def _closures(turn: Turn, topology: Topology, market: str) -> Iterator[str]:
    if not turn.cold.gates:
        return
    for key in around(turn, topology, market):
        for closure in turn.cold.gates.get(key, ()):
            yield closure_words(key, closure)


def _venue(turn: Turn, topology: Topology, market: str) -> Iterator[str]:
    """The venue answers, its blocks are young, its chain (where it has one that tells) produces blocks."""
    links = topology.entity(Kind.MARKET, market).links
    venue, chain = links.get("venue", ""), links.get("chain", "")
    if _told(turn, topology, Kind.VENUE, venue, "block_age"):
        age = turn.hot.peek(Kind.VENUE, venue, "block_age", turn.at)
        if not age.known:
            yield f"the block age of {venue} is unknown{_last(turn, Kind.VENUE, venue, 'block_age')}"
        elif (old := age.value + age.age_ns / NS) > BLOCK_AGE_LIMIT_S:  # as old as it may be by now, not as it was when it was read
            yield f"the last block of {venue} is {ago(old)} old: its readings cannot be trusted"
    yield from _must_hold(turn, topology, Kind.VENUE, venue, "venue_up", f"{venue} is down")
    if chain and turn.hot.knows(Kind.CHAIN, chain) and turn.hot.seen_at(Kind.CHAIN, chain, "sequencer_up") != NEVER:
        yield from _must_hold(turn, topology, Kind.CHAIN, chain, "sequencer_up", f"the sequencer of {chain} is down")


def _market(turn: Turn, topology: Topology, market: str) -> Iterator[str]:
    """The market takes orders, and the prices that margin and orders use are fresh."""
    yield from _must_hold(turn, topology, Kind.MARKET, market, "market_open", f"{market} takes no orders")
    if not turn.hot.glance(Kind.MARKET, market, "value_price", turn.at) > 0.0:
        venue = topology.venues.get(market.partition(":")[0])
        names = venue.valued_at if venue is not None else ("oracle_price", "mark_price", "last_price")
        yield f"the price that margin uses in {market} is unknown{_last(turn, Kind.MARKET, market, *names)}"
    for name in BOOK:
        if _told(turn, topology, Kind.MARKET, market, name) and not turn.hot.glance(Kind.MARKET, market, name, turn.at) > 0.0:
            yield f"{name} of {market} is unknown{_last(turn, Kind.MARKET, market, name)}"


def _must_hold(turn: Turn, topology: Topology, kind: Kind, entity: str, signal: str, otherwise: str) -> Iterator[str]:
    """Nothing when a signal of unit bool is known to be true; a source that does not provide it cannot be asked for it."""
    if not _told(turn, topology, kind, entity, signal):
        return
    value = turn.hot.glance(kind, entity, signal, turn.at)
    if value != value:
        yield f"{signal} of {entity} is unknown{_last(turn, kind, entity, signal)}"
    elif value == 0.0:
        yield otherwise


def _told(turn: Turn, topology: Topology, kind: Kind, entity: str, signal: str) -> bool:
    """True when a signal is to be had: it was seen, or the venue's adapter provides it (or does not say what it provides)."""
    assert (kind, signal) in CATALOGUE
    if turn.hot.knows(kind, entity) and turn.hot.seen_at(kind, entity, signal) != NEVER:
        return True
    venue = topology.venues.get(entity if kind is Kind.VENUE else entity.partition(":")[0])
    return venue is None or venue.provides is None or signal in venue.provides.get(kind, frozenset())


def _last(turn: Turn, kind: Kind, entity: str, *signals: str) -> str:
    """`, last seen 2026-02-03T17:00:00Z (12m ago)`."""
    seen = max((turn.hot.seen_at(kind, entity, signal) for signal in signals), default=NEVER) if turn.hot.knows(kind, entity) else NEVER
    return f", last seen {moment(seen)} ({ago(max(0, turn.at - seen) / NS)} ago)" if seen != NEVER else ": it was never seen"
