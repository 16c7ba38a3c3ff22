"""The world of a simulated venue (floor 5): markets, exchange, chains and bridges behind one `advance(now)`.

    world = World(scenario, seed=7, started_ns=1_770_000_000 * NS)
    world.advance(now_ns)            # every second up to now, in order, whoever asked last

The world moves in whole seconds, so two runs of a scenario and seed pass through the same states whatever is polled and when. Requests
change it between two seconds and are all in `log`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from daemon.simulation.bridges import Bridges, Refusal, TransferRequest, TransferState
from daemon.simulation.exchange import Exchange
from daemon.simulation.faults import ALL_MARKETS, ErrorAfterAccept, RateLimit, VenueError, VenueHalt
from daemon.simulation.fields import is_lasting
from daemon.simulation.ledger import Money
from daemon.simulation.liquidation import GATE_BLOCKS
from daemon.simulation.markets import HEIGHT_AT_START, MarketState, Settlement
from daemon.simulation.paths import HISTORY_H
from daemon.simulation.requests import is_rejected, latency_ns
from daemon.simulation.scenario import ExternalClose, Scenario, Shock
from daemon.simulation.subaccount import Happening, OrderRequest, OrderState
from daemon.units import NS

LOG_MAX = 200_000
OUTAGE_GATE_S = 300  # a halt this long shuts withdrawals afterwards

Reply = Literal["sent", "error", "dropped"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LogEntry:
    """One state-changing request and what was done, or one happening of the world (`outcome` "world")."""

    seq: int
    at: int
    kind: str
    client_id: str
    outcome: str  # executed | duplicate | refused | world
    reply: Reply
    request: Mapping[str, object]
    detail: Mapping[str, str]


class World:
    """A venue with its surroundings, as of the last second that was reached."""

    def __init__(self, scenario: Scenario, *, seed: int, started_ns: int, history_h: int = HISTORY_H) -> None:
        self.scenario = scenario
        self.seed = seed
        self.started_ns = started_ns
        self.start_s = started_ns // NS
        self.second = 0
        self.now_ns = started_ns
        self.height = HEIGHT_AT_START
        self.block_at = self.start_s * NS
        self.shocks: list[Shock] = list(scenario.shocks)
        self.log: deque[LogEntry] = deque(maxlen=LOG_MAX)
        self.markets = {
            symbol: MarketState(
                symbol=symbol, pair_id=i, spec=spec, seed=seed, start_s=self.start_s, history_h=history_h, model=scenario.venue.model
            )
            for i, (symbol, spec) in enumerate(scenario.markets.items())
        }
        self.exchange = Exchange(
            venue=scenario.venue, markets=self.markets, accounts=scenario.accounts, at=self.start_s * NS, height=self.height, seed=seed
        )
        self.bridges = Bridges(
            seed=seed, venue=scenario.venue.name, routes=scenario.routes, chains=scenario.chains,
            buffers={chain: Decimal(repr(amount)) for chain, amount in scenario.buffers.items()}, start_s=self.start_s,
        )  # fmt: skip
        self._done: set[int] = set()  # indices of one-off shocks that have happened
        self._failed_replies: dict[int, int] = {}
        self._halted_s = 0
        self._seq = 0

    # -- time --------------------------------------------------------------------------------------------------------------------

    def advance(self, now_ns: int) -> None:
        """Moves the world to `now_ns`, one whole second after the other; an earlier time moves nothing."""
        target = now_ns // NS - self.start_s
        while self.second < target:
            self._next_second()
        self.now_ns = max(self.now_ns, now_ns)
        self.exchange.at = self.now_ns

    def _next_second(self) -> None:
        self.second += 1
        at = (self.start_s + self.second) * NS
        halted = self.halted
        if halted:
            self._halted_s += 1
        else:
            if self._halted_s >= OUTAGE_GATE_S and self.scenario.venue.model == "dydx-v4":
                self.exchange.gate_until_height = self.height + GATE_BLOCKS
            self._halted_s = 0
            self.height += 1
            self.block_at = at
        settlements: dict[str, Settlement] = {}
        for symbol, market in self.markets.items():
            settlement = market.advance(self.second, self.shocks, halted=halted, height=self.height)
            if settlement is not None:
                settlements[symbol] = settlement
        for happening in self.exchange.advance(at, self.height, settlements, halted=halted):
            self._note(at, happening)
        for transfer in self.bridges.advance(self.shocks, self.second, at, halted=halted, debit=self._withdraw):
            self._tell_transfer(at, transfer)
        for i, shock in enumerate(self.shocks):
            if isinstance(shock, ExternalClose) and i not in self._done and shock.at <= self.second * NS:
                self._done.add(i)
                for symbol in self.markets if shock.market == ALL_MARKETS else (shock.market,):
                    for happening in self.exchange.close_externally(symbol, shock.by, shock.cause):
                        self._note(at, happening)

    def _tell_transfer(self, at: int, transfer: TransferState) -> None:
        """Notes a transfer's new status, and books what reached the venue: a deposit that arrived, or a withdrawal that came back."""
        if transfer.status in ("DEBITED", "ATTESTED"):
            return
        end, amount = {
            "CREDITED": (transfer.destination, transfer.arriving),
            "REFUNDED": (transfer.source, transfer.request.amount),
        }.get(transfer.status, ("", transfer.request.amount))
        if end == self.scenario.venue.name:
            account = self.exchange.subaccounts.get((transfer.request.address, transfer.request.subaccount))
            assert account is not None, "a transfer to or from the venue was accepted for a known subaccount"
            self.exchange.move(account, amount, transfer.source)
        detail = {"client_id": transfer.request.client_id, "amount": str(amount)}
        if transfer.reason:
            detail["reason"] = transfer.reason
        self._note(at, Happening(kind=f"transfer_{transfer.status.lower()}", detail=detail))

    def _withdraw(self, request: TransferRequest) -> Refusal | None:
        """Takes the amount of a transfer out of the venue, or says why not."""
        return self.exchange.withdraw(request.address, request.subaccount, request.amount)

    @property
    def halted(self) -> bool:
        """True while the venue's chain produces no blocks."""
        return any(isinstance(shock, VenueHalt) and is_lasting(shock, self.second) for shock in self.shocks)

    def inject(self, shock: Shock) -> None:
        """Adds a shock whose `at` counts from now."""
        self.shocks.append(shock.model_copy(update={"at": self.now_ns - self.started_ns + shock.at}))

    # -- faults ------------------------------------------------------------------------------------------------------------------

    def _in_force(self, shock: Shock) -> bool:
        """Faults of the HTTP side count in nanoseconds, not in seconds of the world."""
        gone = self.now_ns - self.started_ns
        return shock.at <= gone < shock.at + (getattr(shock, "lasts", None) or 0)

    def error_status(self, *, writing: bool = False) -> int | None:
        """The status that every request gets now, None when the venue answers, or does what is asked and only says otherwise."""
        errors = (shock for shock in self.shocks if isinstance(shock, VenueError) and self._in_force(shock))
        return next((shock.status for shock in errors if not (writing and shock.lands)), None)

    def latency_ns(self, client_id: str) -> int:
        """How long a request of this client id is on its way to the book, ns: who carries requests places them that much later."""
        return latency_ns(self.scenario.venue, self.seed, client_id, self.shocks, self.now_ns - self.started_ns)

    def requests_in_10s(self) -> int:
        """The rate limit in force."""
        limits = [shock.to for shock in self.shocks if isinstance(shock, RateLimit) and self._in_force(shock)]
        return min([self.scenario.venue.requests_in_10s, *limits])

    def _reply(self) -> Reply:
        """How the answer to a request that was just executed reaches its client."""
        for i, shock in enumerate(self.shocks):
            if isinstance(shock, VenueError) and shock.lands and self._in_force(shock):
                return "error"
            if isinstance(shock, ErrorAfterAccept) and self._in_force(shock):
                used = self._failed_replies.get(i, 0)
                if shock.count is None or used < shock.count:
                    self._failed_replies[i] = used + 1
                    return shock.reply
        return "sent"

    # -- requests ----------------------------------------------------------------------------------------------------------------

    def place(self, request: OrderRequest, raw: Mapping[str, object]) -> tuple[OrderState, bool, Reply] | Refusal:
        """Takes an order at `now_ns`: `(order, duplicate, how the reply goes out)`, or why it was refused."""
        found = self._place(request)
        if isinstance(found, Refusal):
            self._record("order", str(request.client_id), "refused", "sent", raw, {"reason": found.reason})
            return found
        order, duplicate = found
        reply: Reply = "sent" if duplicate else self._reply()
        detail = {"order_id": order.id, "status": order.status, "filled_size": str(order.filled), "reason": order.reason}
        self._record("order", str(request.client_id), "duplicate" if duplicate else "executed", reply, raw, detail)
        return order, duplicate, reply

    def _place(self, request: OrderRequest) -> tuple[OrderState, bool] | Refusal:
        if self.halted:
            return Refusal(reason="venue_halted", message="the chain produces no blocks")
        before = self.exchange.find(request.address, request.subaccount, request.client_id)
        is_known = (  # it was taken: asking again changes nothing
            before is not None and before.window_height >= self.height and before.request.good_til >= self.now_ns
        )
        name = f"{request.address}/{request.subaccount}/{request.client_id}"
        if not is_known and is_rejected(self.seed, name, request.market, self.shocks, self.now_ns - self.started_ns):
            return Refusal(reason="congested", message="the order was dropped before the book: the venue is congested")
        return self.exchange.place(request)

    def cancel(
        self, address: str, number: int, market: str | None, client_id: int | None, raw: Mapping[str, object]
    ) -> list[OrderState] | Refusal:
        """Cancels open orders; the reply is never disturbed, since to cancel twice does no harm."""
        found = self.exchange.cancel(address, number, market, client_id)
        if isinstance(found, Refusal):
            self._record("cancel", "", "refused", "sent", raw, {"reason": found.reason})
        else:
            self._record("cancel", "", "executed", "sent", raw, {"canceled": str(len(found))})
        return found

    def transfer(self, request: TransferRequest, raw: Mapping[str, object]) -> tuple[TransferState, bool, Reply] | Refusal:
        """Takes a transfer at `now_ns`: `(transfer, duplicate, how the reply goes out)`, or why it was refused."""
        found = self._start_transfer(request)
        if isinstance(found, Refusal):
            self._record("transfer", request.client_id, "refused", "sent", raw, {"reason": found.reason})
            return found
        transfer, duplicate = found
        reply: Reply = "sent" if duplicate else self._reply()
        detail = {"status": transfer.status, "amount": str(request.amount), "fee": str(transfer.fee)}
        self._record("transfer", request.client_id, "duplicate" if duplicate else "executed", reply, raw, detail)
        return transfer, duplicate, reply

    def _start_transfer(self, request: TransferRequest) -> tuple[TransferState, bool] | Refusal:
        before = self.bridges.transfers.get(request.client_id)
        if before is not None:
            same = (before.request.route, before.request.amount, before.request.address, before.request.subaccount) == (
                request.route, request.amount, request.address, request.subaccount,
            )  # fmt: skip
            if same:
                return before, True
            return Refusal(reason="client_id_reused", message="a transfer with this client id and other terms exists")
        fee = self.bridges.check(request, self.shocks, self.second, self.now_ns)
        if isinstance(fee, Refusal):
            return fee
        route, venue = self.scenario.routes[request.route], self.scenario.venue.name
        if venue in (route.source, route.destination):
            if (request.address, request.subaccount) not in self.exchange.subaccounts:
                message = f"No subaccount found with address {request.address} and subaccountNumber {request.subaccount}"
                return Refusal(reason="unknown_subaccount", message=message)
            if self.halted:
                return Refusal(reason="venue_halted", message="the chain produces no blocks")
        if route.source == venue and not self.bridges.waits(request.route, self.shocks, self.second):
            refusal = self._withdraw(request)
            if refusal:
                return refusal
        return self.bridges.accept(request, fee, self.shocks, self.second, self.now_ns), False

    def release(self, client_id: str, raw: Mapping[str, object]) -> TransferState | Refusal:
        """Sweeps a transfer that is STUCK at an intermediate chain on its way again."""
        found = self.bridges.release(client_id, self.now_ns)
        outcome, detail = ("refused", {"reason": found.reason}) if isinstance(found, Refusal) else ("executed", {"status": found.status})
        self._record("release", client_id, outcome, "sent", raw, detail)
        return found

    def money(self) -> Money:
        """Everybody's balances now, USD; their total never changes."""
        exchange, ledger, routes = self.exchange, self.exchange.ledger, self.bridges.ledger()
        return Money(
            collateral=math.fsum(account.quote for account in exchange.subaccounts.values()),
            insurance_fund=ledger.insurance_total,
            fees=ledger.fees,
            counterparties=ledger.counterparties.quote,
            vault=ledger.vault.quote,
            buffers=float(routes.buffers),
            in_flight=float(routes.in_flight),
            route_fees=float(routes.fees),
            lost=float(routes.lost),
        )

    # -- log ---------------------------------------------------------------------------------------------------------------------

    def _record(
        self,
        kind: str,
        client_id: str,
        outcome: str,
        reply: Reply,
        raw: Mapping[str, object],
        detail: Mapping[str, str],
        at: int | None = None,
    ) -> None:
        self._seq += 1
        entry = LogEntry(
            seq=self._seq, at=self.now_ns if at is None else at, kind=kind, client_id=client_id, outcome=outcome, reply=reply,
            request=raw, detail=detail,
        )  # fmt: skip
        self.log.append(entry)

    def _note(self, at: int, happening: Happening) -> None:
        self._record(happening.kind, "", "world", "sent", {}, happening.detail, at)
