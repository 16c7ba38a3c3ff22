"""Kinds of entity, how they are linked, and the topology a daemon or a recording knows (floor 1).

An entity id is what a user reads: market `dydx:BTC-USD`, venue `dydx`, account `dydx` (or `dydx#1` for a second one), position
`<account>:<market symbol>` = `dydx:BTC-USD`, chain `ethereum`, route `cctp`, bucket `income`, and the one portfolio `portfolio`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


class Kind(StrEnum):
    """What a signal or a runbook is about; the order is the order of state arenas."""

    PORTFOLIO = "portfolio"
    BUCKET = "bucket"
    CHAIN = "chain"
    VENUE = "venue"
    ACCOUNT = "account"
    MARKET = "market"
    POSITION = "position"
    ROUTE = "route"

    # Enum hashes in Python; kinds are dictionary keys in the hottest loops, and equal as texts.
    __hash__ = str.__hash__


PORTFOLIO_ID = "portfolio"


@dataclass(frozen=True, slots=True, kw_only=True)
class Entity:
    """One thing of the world: its labels (for `where`, `{...}` in texts) and its links (relation -> entity id)."""

    kind: Kind
    id: str
    labels: Mapping[str, str]
    links: Mapping[str, str]  # of "market account venue chain bucket from to"; a missing relation is absent


@dataclass(frozen=True, slots=True, kw_only=True)
class Venue:
    """A venue as configured; `provides` is what its adapter can observe, by kind (None: not declared, everything may come)."""

    id: str
    chain: str | None = None
    model: str = "dydx-v4"
    valued_at: tuple[str, ...] = ("oracle_price", "mark_price", "last_price")  # what margin and notional use: the first known
    funding_interval_ns: int = 3_600_000_000_000
    provides: Mapping[Kind, frozenset[str]] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """A margin account (cross) at a venue."""

    id: str
    venue: str
    address: str = ""
    subaccount: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """A way for buffer capital from one chain (or venue) to another; `eta_ns` typical, `eta_p95_ns` the slow tail, fee a ratio."""

    name: str
    source: str
    destination: str
    eta_ns: int = 0
    eta_p95_ns: int | None = None  # None: twice eta_ns
    fee: float = 0.0
    capacity_usd: float = float("inf")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """Everything static that is known of the world: what entities link to and are labelled with."""

    venues: Mapping[str, Venue] = field(default_factory=dict)
    accounts: Mapping[str, Account] = field(default_factory=dict)
    routes: Mapping[str, Route] = field(default_factory=dict)
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)  # by entity id or market symbol (`HYPE-USD`)

    def entity(self, kind: Kind, entity_id: str) -> Entity:
        """The entity with its links and labels; a venue that nobody configured is taken as it is named."""
        head, _, symbol = entity_id.partition(":")
        links: dict[str, str] = {}
        labels: dict[str, str] = {"id": entity_id, "kind": kind.value, kind.value: entity_id}
        match kind:
            case Kind.MARKET:
                links["venue"] = head
            case Kind.POSITION:
                account = self.accounts.get(head)
                venue = account.venue if account else head.partition("#")[0]
                links |= {"venue": venue, "account": head, "market": f"{venue}:{symbol}"}
            case Kind.ACCOUNT:
                account = self.accounts.get(entity_id)
                links["venue"] = account.venue if account else entity_id.partition("#")[0]
            case Kind.ROUTE:
                route = self.routes.get(entity_id)
                if route:
                    links |= {"from": route.source, "to": route.destination}
            case Kind.VENUE:
                links["venue"] = entity_id
            case Kind.PORTFOLIO | Kind.BUCKET | Kind.CHAIN:
                pass
        venue_of = self.venues.get(links.get("venue", ""))
        if venue_of and venue_of.chain:
            links["chain"] = venue_of.chain
        if symbol:
            labels |= {"symbol": symbol, "base": symbol.partition("-")[0]}
        for key in (symbol, links.get("account", ""), entity_id):
            labels |= self.labels.get(key, {})
        labels |= {name: target for name, target in links.items() if name in ("market", "account", "venue", "chain")}
        if labels.get("bucket"):
            links["bucket"] = labels["bucket"]
        if kind is Kind.VENUE:
            links.pop("venue", None)
        return Entity(kind=kind, id=entity_id, labels=labels, links=links)
