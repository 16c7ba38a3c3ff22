"""What a dispatcher does with actions, on a simulated world in this process (floor 5): send once, then look up, never send again.

    hands = Hands(world, accounts)
    hands.take(action, at)            # decided; it reaches the venue with the world's next second
    for action_id, outcome in hands.work(): ...

Refusals, lost replies and outages become the outcomes that `service/dispatcher.py` would report over HTTP.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from typing import assert_never

from daemon.engine.actions import (
    Action,
    CallWebhook,
    CancelOrders,
    Halt,
    MoveBuffer,
    Notify,
    Outcome,
    OutcomeStatus,
    Resume,
    ShrinkPosition,
)
from daemon.engine.answers import (
    RETRYABLE_REFUSALS,
    RETRYABLE_TRANSFER_REFUSALS,
    client_id,
    order_outcome,
    transfer_outcome,
)
from daemon.simulation.bridges import Refusal, TransferRequest, TransferState
from daemon.simulation.exchange import OrderRequest, OrderState
from daemon.simulation.world import Reply, World
from daemon.units import NS
from daemon.world.entities import Account

EXPIRY_MARGIN_NS = NS // 2  # of the dispatcher: the venue's clock may lag
LOOKUP_PAUSES_S = (1, 1, 1, 2, 4, 5)  # of the dispatcher in whole seconds; the last one again and again

Wired = ShrinkPosition | MoveBuffer | CancelOrders


@dataclass(slots=True, kw_only=True)
class _Asked:
    """An action whose outcome is unknown: it is looked up at `next_s` (second of the world)."""

    action: Wired
    next_s: int
    tries: int = 0


@dataclass(slots=True)
class Hands:
    """Performs actions on a world; `settled_at` says when each action's outcome was known for good (ns)."""

    world: World
    accounts: Sequence[Account]
    settled_at: dict[str, int] = field(default_factory=dict)
    _waiting: list[tuple[int, Wired | CallWebhook]] = field(default_factory=list)  # (when it reaches the venue, ns; what)
    _asked: list[_Asked] = field(default_factory=list)

    def take(self, action: Action, at: int) -> None:
        """Queues an action whose intent is decided at `at`; gates and notices are done with that."""
        match action:
            case Halt() | Resume() | Notify():
                return
            case ShrinkPosition() | MoveBuffer() | CancelOrders() | CallWebhook():
                self._waiting.append((at + self._latency_ns(action, at), action))
            case _:
                assert_never(action)

    def work(self) -> list[tuple[str, Outcome]]:
        """Sends what waits and looks up what is unknown, at the world's second; `(action id, outcome)` of what is known now."""
        now = self.world.now_ns
        arrived = [action for when, action in self._waiting if when <= now]
        self._waiting = [(when, action) for when, action in self._waiting if when > now]
        found = [(action.action_id, outcome) for action in arrived for outcome in self._carry_out(action)]
        for asked in [asked for asked in self._asked if asked.next_s <= self.world.second]:
            outcome = self._lookup(asked.action)
            if outcome is None:
                asked.tries += 1
                asked.next_s = self.world.second + LOOKUP_PAUSES_S[min(asked.tries, len(LOOKUP_PAUSES_S) - 1)]
            else:
                self._asked.remove(asked)
                found.append((asked.action.action_id, outcome))
        for action_id, outcome in found:
            if outcome.status != "unknown":
                self.settled_at[action_id] = self.world.now_ns
        return found

    def _latency_ns(self, action: Wired | CallWebhook, at: int) -> int:
        """How long a request is on its way to the book; a transfer's own delay is its route's."""
        match action:
            case ShrinkPosition():
                request = self._order(action)
                return self.world.latency_ns(f"{request.address}/{request.subaccount}/{request.client_id}")
            case CancelOrders():
                account = self._account(action.account)
                return self.world.latency_ns(f"cancel/{account.address}/{account.subaccount}/{at}")
            case MoveBuffer() | CallWebhook():
                return 0
            case _:
                assert_never(action)

    def _carry_out(self, action: Wired | CallWebhook) -> list[Outcome]:
        """Sends one action; an unclear answer is looked up at once, and reported unknown where that does not help."""
        if action.expires_at <= self.world.now_ns:
            return [Outcome(status="failed", reason="it expired before it was sent")]
        if isinstance(action, CallWebhook):
            return [Outcome(status="done", reason="the simulated world answers no webhook: taken as delivered")]
        outcome = self._send(action)
        if outcome.status != "unknown":
            return [outcome]
        found = self._lookup(action)
        if found is not None:
            return [found]
        self._asked.append(_Asked(action=action, next_s=self.world.second + LOOKUP_PAUSES_S[0]))
        return [outcome]

    def _send(self, action: Wired) -> Outcome:
        status = self.world.error_status(writing=True)
        if status is not None:
            return Outcome(status="unknown", reason=f"HTTP {status}: Internal Server Error")
        match action:
            case ShrinkPosition():
                request = self._order(action)
                placed = self.world.place(request, _raw(request))
                return _refused(placed) if isinstance(placed, Refusal) else _replied(_order_outcome(placed[0]), placed[2])
            case MoveBuffer():
                transfer = self._transfer(action)
                moved = self.world.transfer(transfer, _raw(transfer))
                if isinstance(moved, Refusal):
                    return _refused(moved, RETRYABLE_TRANSFER_REFUSALS)
                return _replied(_transfer_outcome(moved[0]), moved[2])
            case CancelOrders():
                account = self._account(action.account)
                market = None if action.market is None else _ticker(action.market)
                canceled = self.world.cancel(account.address, account.subaccount, market, None, {"market": market})
                if isinstance(canceled, Refusal):
                    return _refused(canceled)
                return Outcome(status="done", reason=f"{len(canceled)} canceled")
            case _:
                assert_never(action)

    def _lookup(self, action: Wired) -> Outcome | None:
        """The final outcome where the venue knows one, failed where it never will; None: ask again."""
        if self.world.error_status() is not None:
            return None
        found: Outcome | None = None
        match action:
            case ShrinkPosition():
                request = self._order(action)
                order = self.world.exchange.find(request.address, request.subaccount, request.client_id)
                if order is not None and _same(order.request, request):
                    found = _order_outcome(order)
            case MoveBuffer():
                transfer = self.world.bridges.transfers.get(action.action_id)
                found = None if transfer is None else _transfer_outcome(transfer)
            case CancelOrders():
                account = self._account(action.account)
                orders = self.world.exchange.subaccounts[(account.address, account.subaccount)].orders.values()
                market = None if action.market is None else _ticker(action.market)
                if not any(order.status == "OPEN" and market in (None, order.request.market) for order in orders):
                    found = Outcome(status="done", reason="no open order left")
            case _:
                assert_never(action)
        if found is not None:
            return None if found.status == "unknown" else found
        if self.world.now_ns > action.expires_at + EXPIRY_MARGIN_NS:
            return Outcome(status="failed", reason="the venue does not know it after its expiry: it did nothing")
        return None

    def _order(self, action: ShrinkPosition) -> OrderRequest:
        account = self._account(action.account)
        return OrderRequest(
            address=account.address, subaccount=account.subaccount, client_id=client_id(action.action_id), market=_ticker(action.market),
            side=action.side, size=action.size, limit_price=action.limit_price, reduce_only=True, time_in_force="IOC",
            good_til=action.expires_at,
        )  # fmt: skip

    def _transfer(self, action: MoveBuffer) -> TransferRequest:
        account = next((a for end in (action.destination, action.source) for a in self.accounts if end in (a.id, a.venue)), None)
        return TransferRequest(
            client_id=action.action_id, route=action.route, amount=action.amount, expires=action.expires_at, max_fee=action.max_fee,
            address=account.address if account else "", subaccount=account.subaccount if account else 0,
        )  # fmt: skip

    def _account(self, account_id: str) -> Account:
        return next(account for account in self.accounts if account.id == account_id)


def _replied(outcome: Outcome, reply: Reply) -> Outcome:
    """The outcome as the client learns it: a reply that got lost on its way says nothing."""
    match reply:
        case "sent":
            return outcome
        case "error":
            return Outcome(status="unknown", reason="HTTP 500: Internal Server Error")
        case "dropped":
            return Outcome(status="unknown", reason="the connection broke before the answer")


def _refused(refusal: Refusal, retryable: Collection[str] = RETRYABLE_REFUSALS) -> Outcome:
    status: OutcomeStatus = "failed" if refusal.reason in retryable else "rejected"
    return Outcome(status=status, reason=f"{refusal.reason}: {refusal.message}")


def _order_outcome(order: OrderState) -> Outcome:
    price = order.average_price
    return order_outcome(
        status=order.status, reference=order.id, filled=order.filled, price=None if price is None else Decimal(repr(round(price, 10))),
        fee_usd=Decimal(repr(round(order.fee_usd, 6))), reason=order.reason,
    )  # fmt: skip


def _transfer_outcome(transfer: TransferState) -> Outcome:
    request = transfer.request
    return transfer_outcome(status=transfer.status, reference=request.client_id, amount=request.amount, fee_usd=transfer.fee)


def _same(one: OrderRequest, other: OrderRequest) -> bool:
    """32 bits are not a name: another order of ours may have carried this id in another window."""
    return (one.market, one.side, one.size, one.good_til) == (other.market, other.side, other.size, other.good_til)


def _ticker(market: str) -> str:
    """`BTC-USD` of `dydx:BTC-USD`."""
    return market.partition(":")[2] or market


def _raw(request: OrderRequest | TransferRequest) -> Mapping[str, object]:
    return {key: str(value) for key, value in asdict(request).items()}
