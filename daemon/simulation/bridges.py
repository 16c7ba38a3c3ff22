"""Bridges of a simulated venue (floor 5): routes, buffers and transfers, idempotent by client id for ever.

    REQUESTED -> DEBITED -> ATTESTED -> CREDITED | EXPIRED -> REFUNDED | STUCK -> ATTESTED | LOST,  or REQUESTED -> REJECTED

Money that was debited counts nowhere until it is credited or refunded: neither in the source's balance nor in the destination's. The delay
of a transfer hangs on its client id alone; what happens on the way (stops, empty blocks, congestion, late finality, locks) stretches it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

from daemon.simulation import chain, paths
from daemon.simulation.faults import BridgeLock, BridgeStall, RouteCapacity, RouteStuck, SequencerStop
from daemon.simulation.fields import TimedShock, is_lasting
from daemon.simulation.requests import delay_ns
from daemon.simulation.route_models import RouteSpec
from daemon.simulation.scenario import ChainSpec
from daemon.units import NS

MICRO = Decimal("0.000001")  # the smallest part of a USDC
FLYING = frozenset({"DEBITED", "ATTESTED", "STUCK", "EXPIRED"})  # debited, and neither credited nor refunded nor lost
FINAL = frozenset({"CREDITED", "REFUNDED", "LOST", "REJECTED"})


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
    """An accepted transfer. Amounts USD, times ns; `times` has when each status was entered last."""

    request: TransferRequest
    source: str
    destination: str
    fee: Decimal
    requested_at: int
    total_ns: int  # from debit to credit, when nothing disturbs
    remaining_ns: int
    attested_ns: int  # what remains when it is attested
    debit_ns: int = 0  # what remains until the debit
    is_doomed: bool = False  # nobody will deliver it: it expires
    is_sticking: bool = False  # it stops at the intermediate chain until somebody sweeps it
    is_swept: bool = False
    status: str = "REQUESTED"
    reason: str = ""
    debited_at: int | None = None
    credited_at: int | None = None
    refund_at: int | None = None
    times: dict[str, int] = field(default_factory=dict)

    @property
    def arriving(self) -> Decimal:
        """USD that arrive."""
        return self.request.amount - self.fee

    def become(self, status: str, at: int) -> None:
        """Enters a status at a time, ns."""
        assert self.status not in FINAL, f"a transfer that is {self.status} stays so"
        self.status = status
        self.times[status] = at


@dataclass(frozen=True, slots=True, kw_only=True)
class Passage:
    """What a second lets through on one route. `source_pace` and `destination_pace`: ns of progress in it, 0 where the end stands still."""

    source_pace: int
    destination_pace: int
    takes: bool  # the source chain puts transactions into blocks
    is_locked: bool
    is_sticking: bool
    late_ns: int  # how much later than usual the source is final


@dataclass(frozen=True, slots=True, kw_only=True)
class Ledger:
    """Where the money of routes is, USD. Without deposits from outside, buffers + venue + in_flight + fees + lost never changes."""

    buffers: Decimal
    in_flight: Decimal  # STUCK and EXPIRED included
    stuck: Decimal  # of it
    fees: Decimal
    lost: Decimal


Debit = Callable[[TransferRequest], Refusal | None]


@dataclass(slots=True, kw_only=True)
class Bridges:
    """All routes and what moves on them."""

    seed: int
    venue: str
    routes: Mapping[str, RouteSpec]
    chains: Mapping[str, ChainSpec]
    buffers: dict[str, Decimal]
    start_s: int = 0
    transfers: dict[str, TransferState] = field(default_factory=dict)
    _moving: dict[str, TransferState] = field(default_factory=dict)

    # -- reading -----------------------------------------------------------------------------------------------------------------

    def is_open(self, name: str, shocks: Sequence[TimedShock], second: int) -> bool:
        """True when a route takes transfers: it is neither stalled nor locked to new ones, and both its ends produce blocks."""
        ends = (self.routes[name].source, self.routes[name].destination)
        for shock in shocks:
            if isinstance(shock, BridgeStall) and shock.route == name and is_lasting(shock, second):
                return False
            if isinstance(shock, BridgeLock) and shock.route == name and not shock.accepts and is_lasting(shock, second):
                return False
            if isinstance(shock, SequencerStop) and shock.chain in ends and is_lasting(shock, second):
                return False
        return True

    def is_locked(self, name: str, shocks: Sequence[TimedShock], second: int) -> bool:
        """True while nothing that was debited on a route is credited or refunded."""
        return any(isinstance(shock, BridgeLock) and shock.route == name and is_lasting(shock, second) for shock in shocks)

    def eta_ns(self, name: str, shocks: Sequence[TimedShock], second: int) -> tuple[int, int]:
        """Typical delay and its 95th percentile of a transfer requested now, ns, if finality and congestion stay as they are."""
        route = self.routes[name]
        late = self._late_ns(route, shocks, second)
        stretch = route.attested * chain.slowdown(route.source, shocks, second)
        stretch += (1.0 - route.attested) * chain.slowdown(route.destination, shocks, second)
        return int(route.eta * stretch) + late, int(route.slow * stretch) + late

    def fee(self, route: RouteSpec, amount: Decimal, shocks: Sequence[TimedShock], second: int) -> Decimal:
        """What a transfer of `amount` costs now, USD: the ratio, the fixed part, and the transaction that the route has the sender pay."""
        fixed = Decimal(repr(self.fixed_fee_usd(route, shocks, second)))
        return (amount * Decimal(repr(route.fee)) + fixed).quantize(MICRO)

    def fixed_fee_usd(self, route: RouteSpec, shocks: Sequence[TimedShock], second: int) -> float:
        """The part of the fee that does not grow with the amount, USD."""
        paying = {"none": "", "source": route.source, "destination": route.destination}[route.gas]
        spec = self.chains.get(paying)
        if spec is None:
            return route.fee_usd
        return route.fee_usd + chain.chain_status(paying, spec, shocks, self.start_s, second).tx_cost_usd

    def in_flight(self, name: str) -> Decimal:
        """USD debited and neither credited, refunded nor lost on a route, STUCK and EXPIRED included."""
        moving = (t for t in self._moving.values() if t.request.route == name and t.status in FLYING)
        return sum((t.request.amount for t in moving), Decimal(0))

    def stuck(self, name: str) -> Decimal:
        """USD of `in_flight` that stays at the intermediate chain."""
        return sum((t.request.amount for t in self._moving.values() if t.request.route == name and t.status == "STUCK"), Decimal(0))

    def capacity(self, name: str, shocks: Sequence[TimedShock], second: int) -> Decimal:
        """USD that a route takes now, in one transfer."""
        route = self.routes[name]
        limits = [shock.to for shock in shocks if isinstance(shock, RouteCapacity) and shock.route == name and is_lasting(shock, second)]
        asked = sum((t.request.amount for t in self._moving.values() if t.request.route == name), Decimal(0))
        left = max(Decimal(0), Decimal(repr(min([route.capacity, *limits]))) - asked)
        return left if route.maximum is None else min(left, Decimal(repr(route.maximum)))

    def ledger(self) -> Ledger:
        """Where the money of all routes is."""
        done = self.transfers.values()
        return Ledger(
            buffers=sum(self.buffers.values(), Decimal(0)),
            in_flight=sum((self.in_flight(name) for name in self.routes), Decimal(0)),
            stuck=sum((self.stuck(name) for name in self.routes), Decimal(0)),
            fees=sum((t.fee for t in done if t.status == "CREDITED"), Decimal(0)),
            lost=sum((t.request.amount for t in done if t.status == "LOST"), Decimal(0)),
        )

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def check(self, request: TransferRequest, shocks: Sequence[TimedShock], second: int, at: int) -> Refusal | Decimal:
        """The fee of a transfer that could be accepted, USD, or why not. The venue's own end is the caller's to check."""
        if request.route not in self.routes:
            return Refusal(reason="unknown_route", message=f"No route found with name {request.route}")
        route = self.routes[request.route]
        fee = self.fee(route, request.amount, shocks, second)
        if at > request.expires:
            return Refusal(reason="expired", message="the transfer has expired")
        if request.amount <= 0 or request.amount % MICRO or (fee >= request.amount and float(request.amount) >= route.lost_below):
            return Refusal(reason="amount", message="amount must be above the fee and a multiple of 0.000001")
        if float(request.amount) < route.minimum:
            return Refusal(reason="minimum", message=f"route {request.route} takes at least {route.minimum:g} USD")
        if request.max_fee is not None and fee > request.max_fee:
            return Refusal(reason="fee", message=f"the fee {fee} exceeds max_fee {request.max_fee}")
        if not self.is_open(request.route, shocks, second):
            return Refusal(reason="route_closed", message=f"route {request.route} is closed")
        if request.amount > self.capacity(request.route, shocks, second):
            return Refusal(reason="capacity", message=f"the amount exceeds what route {request.route} can take now")
        if route.source != self.venue and self.buffers.get(route.source, Decimal(0)) < request.amount:
            return Refusal(reason="balance", message=f"the buffer on {route.source} is {self.buffers.get(route.source, Decimal(0))}")
        if route.expires_after is None and self._chance(request, "congested") < self._failure(route, shocks, second):
            return Refusal(reason="congested", message=f"the transaction was dropped: route {request.route} is congested")
        return fee

    def waits(self, name: str, shocks: Sequence[TimedShock], second: int) -> bool:
        """True when a transfer requested now is not debited at once."""
        route = self.routes[name]
        return route.debit_after > 0 or not chain.takes_transactions(route.source, shocks, second)

    def accept(self, request: TransferRequest, fee: Decimal, shocks: Sequence[TimedShock], second: int, at: int) -> TransferState:
        """Starts a transfer; unless it `waits`, debits the source chain (the venue's own debit is the caller's)."""
        route = self.routes[request.route]
        chance = self._chance(request, "transfer")
        total = delay_ns(route.eta, route.slow, chance, shortest=route.shortest, longest=route.longest)
        fails = route.fails
        if route.expires_after is not None:
            fails = 1.0 - (1.0 - fails) * (1.0 - self._failure(route, shocks, second))
        transfer = TransferState(
            request=request, source=route.source, destination=route.destination, fee=fee, requested_at=at, total_ns=total,
            remaining_ns=total, attested_ns=total - int(total * route.attested), debit_ns=route.debit_after,
            is_doomed=self._chance(request, "fails") < fails,
            is_sticking=self._chance(request, "stuck") < route.stuck,
            times={"REQUESTED": at},
        )  # fmt: skip
        self.transfers[request.client_id] = self._moving[request.client_id] = transfer
        if not self.waits(request.route, shocks, second):
            self._debit_source(transfer, at)
        return transfer

    def release(self, client_id: str, at: int) -> TransferState | Refusal:
        """Sweeps a STUCK transfer on its way again: an operator's act. Refused where there is none."""
        transfer = self.transfers.get(client_id)
        if transfer is None:
            return Refusal(reason="unknown_transfer", message=f"No transfer found with client_id {client_id}")
        if transfer.status != "STUCK":
            return Refusal(reason="not_stuck", message=f"the transfer is {transfer.status}")
        transfer.is_swept = True
        transfer.become("ATTESTED", at)
        return transfer

    # -- time --------------------------------------------------------------------------------------------------------------------

    def advance(
        self, shocks: Sequence[TimedShock], second: int, at: int, *, halted: bool = False, debit: Debit | None = None
    ) -> list[TransferState]:
        """Moves every transfer by one second; returns those whose status changed, in the order of their acceptance.

        `halted`: the venue's chain stands. `debit` takes a withdrawal out of the venue, for transfers that were not debited at once.
        """
        passages: dict[str, Passage] = {}
        changed = []
        for client_id, transfer in list(self._moving.items()):
            name, before = transfer.request.route, transfer.status
            if name not in passages:
                passages[name] = self._passage(name, shocks, second, halted=halted)
            self._move(transfer, passages[name], at, debit)
            if transfer.status in FINAL:
                del self._moving[client_id]
            if transfer.status != before:
                changed.append(transfer)
        return changed

    def _move(self, transfer: TransferState, passage: Passage, at: int, debit: Debit | None) -> None:
        route = self.routes[transfer.request.route]
        match transfer.status:
            case "REQUESTED":
                self._request(transfer, passage, at, debit)
            case "DEBITED" | "ATTESTED":
                self._carry(transfer, route, passage, at)
            case "STUCK":
                if not transfer.is_sticking and not passage.is_sticking:
                    transfer.become("ATTESTED", at)
            case "EXPIRED":
                assert transfer.refund_at is not None, "an expired transfer has a time of refund"
                if at >= transfer.refund_at and passage.takes and not passage.is_locked:
                    self._book(transfer.source, transfer.request.amount)
                    transfer.become("REFUNDED", at)
            case final:
                raise AssertionError(f"a transfer that is {final} does not move")

    def _request(self, transfer: TransferState, passage: Passage, at: int, debit: Debit | None) -> None:
        """In the source chain's queue: debited when a block takes it, given up once the request has expired."""
        if at > transfer.request.expires:
            transfer.reason = "expired"
            transfer.become("REJECTED", at)
            return
        transfer.debit_ns -= passage.source_pace
        if not passage.takes or transfer.debit_ns > 0:
            return
        refusal = debit(transfer.request) if transfer.source == self.venue and debit is not None else None
        if transfer.source != self.venue and self.buffers.get(transfer.source, Decimal(0)) < transfer.request.amount:
            refusal = Refusal(reason="balance", message="the buffer is smaller by now")
        if refusal is not None:
            transfer.reason = refusal.reason
            transfer.become("REJECTED", at)
            return
        self._debit_source(transfer, at)

    def _debit_source(self, transfer: TransferState, at: int) -> None:
        if transfer.source != self.venue:
            self.buffers[transfer.source] -= transfer.request.amount
        transfer.debited_at = at
        transfer.become("DEBITED", at)

    def _carry(self, transfer: TransferState, route: RouteSpec, passage: Passage, at: int) -> None:
        """One second under way: towards attestation at the source's pace, from there on at the destination's."""
        assert transfer.debited_at is not None, "a transfer under way was debited"
        if not transfer.is_doomed and transfer.status == "DEBITED":
            self._attest(transfer, route, passage, at)
        elif not transfer.is_doomed:
            transfer.remaining_ns = max(0, transfer.remaining_ns - passage.destination_pace)
        if transfer.status == "ATTESTED" and transfer.remaining_ns <= 0 and passage.destination_pace and not passage.is_locked:
            self._arrive(transfer, route, at)
        elif transfer.status != "STUCK" and route.expires_after is not None and at - transfer.debited_at >= route.expires_after:
            chance = self._chance(transfer.request, "refund")
            back = delay_ns(route.refund_after, route.refund_p95 or route.refund_after, chance)
            transfer.refund_at = at + back
            transfer.become("EXPIRED", at)

    def _attest(self, transfer: TransferState, route: RouteSpec, passage: Passage, at: int) -> None:
        assert transfer.debited_at is not None, "only what was debited is attested"
        if not passage.source_pace:
            return
        transfer.remaining_ns -= passage.source_pace
        if transfer.remaining_ns > transfer.attested_ns:
            return
        if passage.late_ns and at - transfer.debited_at < transfer.total_ns - transfer.attested_ns + passage.late_ns:
            transfer.remaining_ns = transfer.attested_ns  # all but the source's finality is done
            return
        transfer.remaining_ns = max(0, transfer.remaining_ns)
        if route.via is not None and not transfer.is_swept and (transfer.is_sticking or passage.is_sticking):
            transfer.become("STUCK", at)
        else:
            transfer.become("ATTESTED", at)

    def _arrive(self, transfer: TransferState, route: RouteSpec, at: int) -> None:
        if float(transfer.request.amount) < route.lost_below:
            transfer.reason = f"below {route.lost_below:g} USD"
            transfer.become("LOST", at)
            return
        self._book(transfer.destination, transfer.arriving)
        transfer.credited_at = at
        transfer.become("CREDITED", at)

    def _passage(self, name: str, shocks: Sequence[TimedShock], second: int, *, halted: bool) -> Passage:
        route = self.routes[name]
        stalled = any(isinstance(shock, BridgeStall) and shock.route == name and is_lasting(shock, second) for shock in shocks)
        sticking = any(isinstance(shock, RouteStuck) and shock.route == name and is_lasting(shock, second) for shock in shocks)

        def pace(end: str) -> int:
            stands = stalled or (halted and end == self.venue) or not chain.takes_transactions(end, shocks, second)
            return 0 if stands else int(NS / chain.slowdown(end, shocks, second))

        return Passage(
            source_pace=pace(route.source),
            destination_pace=pace(route.destination),
            takes=not (halted and route.source == self.venue) and chain.takes_transactions(route.source, shocks, second),
            is_locked=self.is_locked(name, shocks, second),
            is_sticking=sticking,
            late_ns=self._late_ns(route, shocks, second),
        )

    def _late_ns(self, route: RouteSpec, shocks: Sequence[TimedShock], second: int) -> int:
        return chain.finality_late_ns(route.source, self.chains.get(route.source), shocks, second) if route.waits_finality else 0

    def _failure(self, route: RouteSpec, shocks: Sequence[TimedShock], second: int) -> float:
        """Probability that congestion at either end (or in between) undoes a transfer that is requested now."""
        ends = [end for end in (route.source, route.destination, route.via) if end is not None]
        full = [shock for shock in (chain.congestion(end, shocks, second) for end in ends) if shock is not None]
        return max([0.0, *(shock.failure * shock.level for shock in full)])

    def _chance(self, request: TransferRequest, purpose: str) -> float:
        return paths.uniform(self.seed, f"{purpose}.{request.client_id}")

    def _book(self, end: str, amount: Decimal) -> None:
        """Adds to a chain's buffer; what reaches the venue is the caller's to book."""
        if end != self.venue:
            self.buffers[end] = self.buffers.get(end, Decimal(0)) + amount
