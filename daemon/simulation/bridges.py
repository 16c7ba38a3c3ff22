"""Bridges of a simulated venue (floor 5): routes, buffers and transfers, idempotent by client id for ever.

A transfer leaves its source at once (DEBITED) and is CREDITED when its delay has run; a stalled route or a stopped sequencer at either end
stops that delay. Where a route has `expires_after`, an undelivered transfer is EXPIRED and REFUNDED later.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from daemon.simulation import paths
from daemon.simulation.markets import is_lasting
from daemon.simulation.scenario import BridgeStall, ChainSpec, FinalityDelay, RouteSpec, SequencerStop, Shock
from daemon.units import NS

MICRO = Decimal("0.000001")  # the smallest part of a USDC
Z_95 = 1.6448536269514722  # standard normal quantile of 95 %
DELAY_SHORTEST = 0.5  # of the typical delay: no transfer beats this


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A request that was refused and certainly did nothing; `code` is the chain's where it has one."""

    reason: str
    message: str
    code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferRequest:
    """What a client asks for; `expires` is the last moment (ns) at which it may be accepted."""

    client_id: str
    route: str
    amount: Decimal
    expires: int
    address: str
    subaccount: int
    max_fee: Decimal | None = None


@dataclass(slots=True, kw_only=True)
class TransferState:
    """An accepted transfer: DEBITED, then CREDITED, or EXPIRED and REFUNDED. Amounts USD, times ns."""

    request: TransferRequest
    source: str
    destination: str
    fee: Decimal
    requested_at: int
    remaining_ns: int
    status: str = "DEBITED"
    credited_at: int | None = None
    refund_at: int | None = None

    @property
    def arriving(self) -> Decimal:
        """USD that arrive."""
        return self.request.amount - self.fee


@dataclass(slots=True, kw_only=True)
class Bridges:
    """All routes and what moves on them."""

    seed: int
    venue: str
    routes: Mapping[str, RouteSpec]
    chains: Mapping[str, ChainSpec]
    buffers: dict[str, Decimal]
    transfers: dict[str, TransferState] = field(default_factory=dict)

    def is_open(self, name: str, shocks: Sequence[Shock], second: int) -> bool:
        """True when a route takes transfers: it is not stalled and both its ends produce blocks."""
        ends = (self.routes[name].source, self.routes[name].destination)
        for shock in shocks:
            if isinstance(shock, BridgeStall) and shock.route == name and is_lasting(shock, second):
                return False
            if isinstance(shock, SequencerStop) and shock.chain in ends and is_lasting(shock, second):
                return False
        return True

    def eta_ns(self, name: str, shocks: Sequence[Shock], second: int) -> tuple[int, int]:
        """Typical delay and its 95th percentile of a transfer requested now, ns; late finality at the source is added to both."""
        route = self.routes[name]
        late = 0
        for shock in shocks:
            if isinstance(shock, FinalityDelay) and shock.chain == route.source and is_lasting(shock, second):
                late = max(late, shock.to - self.chains[shock.chain].finality)
        return route.eta + late, (route.p95 or 2 * route.eta) + late

    def in_flight(self, name: str) -> Decimal:
        """USD debited and neither credited nor refunded on a route."""
        moving = (t for t in self.transfers.values() if t.request.route == name and t.status in ("DEBITED", "EXPIRED"))
        return sum((t.request.amount for t in moving), Decimal(0))

    def check(self, request: TransferRequest, shocks: Sequence[Shock], second: int, at: int) -> Refusal | Decimal:
        """The fee of a transfer that could be accepted, USD, or why not. The venue's own end is the caller's to check."""
        if request.route not in self.routes:
            return Refusal(reason="unknown_route", message=f"No route found with name {request.route}")
        route = self.routes[request.route]
        fee = (request.amount * Decimal(repr(route.fee))).quantize(MICRO)
        if at > request.expires:
            return Refusal(reason="expired", message="the transfer has expired")
        if request.amount <= 0 or fee >= request.amount or request.amount % MICRO:
            return Refusal(reason="amount", message="amount must be above the fee and a multiple of 0.000001")
        if request.max_fee is not None and fee > request.max_fee:
            return Refusal(reason="fee", message=f"the fee {fee} exceeds max_fee {request.max_fee}")
        if not self.is_open(request.route, shocks, second):
            return Refusal(reason="route_closed", message=f"route {request.route} is closed")
        if self.in_flight(request.route) + request.amount > Decimal(repr(route.capacity)):
            return Refusal(reason="capacity", message=f"the amount exceeds what route {request.route} can take now")
        if route.source != self.venue and self.buffers.get(route.source, Decimal(0)) < request.amount:
            return Refusal(reason="balance", message=f"the buffer on {route.source} is {self.buffers.get(route.source, Decimal(0))}")
        return fee

    def accept(self, request: TransferRequest, fee: Decimal, shocks: Sequence[Shock], second: int, at: int) -> TransferState:
        """Debits the source chain (the venue's own debit is the caller's) and starts the transfer."""
        route = self.routes[request.route]
        typical, slow = self.eta_ns(request.route, shocks, second)
        if route.source != self.venue:
            self.buffers[route.source] -= request.amount
        transfer = TransferState(
            request=request,
            source=route.source,
            destination=route.destination,
            fee=fee,
            requested_at=at,
            remaining_ns=_delay_ns(typical, slow, paths.uniform(self.seed, f"transfer.{request.client_id}")),
        )
        self.transfers[request.client_id] = transfer
        return transfer

    def advance(self, shocks: Sequence[Shock], second: int, at: int) -> list[TransferState]:
        """Moves every transfer by one second; returns those that reached the VENUE now (credited or refunded), to be booked there."""
        arrived = []
        for transfer in self.transfers.values():
            route = self.routes[transfer.request.route]
            if transfer.status == "EXPIRED" and transfer.refund_at is not None and at >= transfer.refund_at:
                transfer.status = "REFUNDED"
                if self._book(transfer.source, transfer.request.amount):
                    arrived.append(transfer)
            if transfer.status != "DEBITED":
                continue
            if self.is_open(transfer.request.route, shocks, second):
                transfer.remaining_ns -= NS
            if transfer.remaining_ns <= 0:
                transfer.status, transfer.credited_at = "CREDITED", at
                if self._book(transfer.destination, transfer.arriving):
                    arrived.append(transfer)
            elif route.expires_after is not None and at - transfer.requested_at >= route.expires_after:
                transfer.status, transfer.refund_at = "EXPIRED", at + route.refund_after
        return arrived

    def _book(self, end: str, amount: Decimal) -> bool:
        """Adds to a chain's buffer; True when the end is the venue."""
        if end == self.venue:
            return True
        self.buffers[end] = self.buffers.get(end, Decimal(0)) + amount
        return False


def _delay_ns(typical: int, slow: int, chance: float) -> int:
    """A delay with median `typical` and 95th percentile `slow`: log-normal, by the logistic stand-in for the normal quantile."""
    sigma = math.log(max(slow, typical) / typical) / Z_95
    # 1.702 scales the logistic to the normal within 0.01 of probability: near enough for a bridge, and free of special functions.
    z = math.log(chance / (1.0 - chance)) / 1.702
    return int(max(DELAY_SHORTEST * typical, typical * math.exp(sigma * z)))
