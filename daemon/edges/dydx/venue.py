"""The dYdX v4 venue's hands (floor 6): sends reduce-only orders and cancels, and looks them up by client id.

Orders go to the simulated venue's order API (`docs/simulated-venue.md`). On the real chain an order is a signed transaction; signing is not
built here, so an account without an order API is read-only and every send answers `rejected: signing is not configured`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation

from daemon.edges.dydx.wire import decimal_text, parse_orders
from daemon.edges.http import HttpSource
from daemon.edges.protocol import WriteMarks
from daemon.engine.actions import Action, CancelOrders, Outcome, ShrinkPosition
from daemon.engine.answers import RETRYABLE_REFUSALS, client_id, order_outcome
from daemon.errors import EdgeError, UnknownOutcome
from daemon.world.entities import Account


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """The order body of the order API, as far as it is read."""

    id: str
    market: str
    side: str
    size: Decimal
    good_til: int
    status: str
    filled_size: Decimal
    average_price: Decimal | None
    fee_usd: Decimal | None
    reason: str


class DydxVenue:
    """Hands on the accounts of one venue. `orders` is the order API, None where there is none; `indexer` reads open orders."""

    def __init__(
        self, *, venue: str, accounts: Sequence[Account], indexer: HttpSource, orders: HttpSource | None, marks: WriteMarks | None = None
    ) -> None:
        self._venue = venue
        self._accounts = {account.id: account for account in accounts}
        self._indexer = indexer
        self._orders = orders
        self._marks = marks or WriteMarks()

    @property
    def name(self) -> str:
        """The venue's id."""
        return self._venue

    def takes(self, action: Action) -> bool:
        """True for shrinks and cancels of this venue's accounts."""
        return isinstance(action, ShrinkPosition | CancelOrders) and action.account in self._accounts

    async def send(self, action: Action) -> Outcome:
        """Places or cancels once. Zero fill is `failed: no_fill`, a partial fill `done` with what was filled."""
        assert isinstance(action, ShrinkPosition | CancelOrders)
        account = self._accounts[action.account]
        if self._orders is None:
            return Outcome(status="rejected", reason=f"signing is not configured: {account.id} is read-only here")
        try:
            match action:
                case ShrinkPosition():
                    return _outcome(self._read(await self._place(self._orders, account, action), written=True))
                case CancelOrders():
                    return await self._cancel(self._orders, account, action)
        finally:
            self._marks.settled(account.id)

    async def lookup(self, action: Action) -> Outcome | None:
        """What became of an order of ours; None when the venue does not know it. A cancel is known by there being no open order left."""
        assert isinstance(action, ShrinkPosition | CancelOrders)
        account = self._accounts[action.account]
        if self._orders is None:
            message = f"{self.name}: {action.action_id} cannot be looked up: {account.id} is read-only here"
            raise EdgeError(message, edge=self.name, reason="read_only", retryable=False)
        match action:
            case ShrinkPosition():
                found = await self._find(self._orders, account, action)
            case CancelOrders():
                found = await self._find_canceled(account, action)
        if found is not None:
            self._marks.settled(account.id)
        return found

    async def close(self) -> None:
        """Closes the connection of the order API; the indexer's belongs to the feed."""
        if self._orders is not None:
            await self._orders.close()

    async def _place(self, orders: HttpSource, account: Account, action: ShrinkPosition) -> object:
        body = {
            "address": account.address,
            "subaccount": account.subaccount,
            "client_id": client_id(action.action_id),
            "market": _ticker(action.market),
            "side": action.side,
            "size": decimal_text(action.size),
            "limit_price": decimal_text(action.limit_price),
            "reduce_only": True,
            "time_in_force": "IOC",  # the chain takes reduce-only orders as IOC only
            "good_til": action.expires_at,
        }
        try:
            return await orders.post("/sim/orders", body)
        except UnknownOutcome:
            raise
        except EdgeError as error:
            if error.reason in RETRYABLE_REFUSALS and not error.retryable:
                raise EdgeError(str(error), edge=self.name, reason=error.reason, retryable=True) from error
            raise

    async def _cancel(self, orders: HttpSource, account: Account, action: CancelOrders) -> Outcome:
        body = {"address": account.address, "subaccount": account.subaccount, "market": _ticker(action.market), "client_id": None}
        answer = await orders.post("/sim/cancel", body)
        canceled = answer.get("canceled") if isinstance(answer, dict) else None
        if not isinstance(canceled, list):
            raise UnknownOutcome(f"{self.name}: the cancel's answer cannot be read", edge=self.name, reason="wrong_shape")
        return Outcome(status="done", reason=f"{len(canceled)} canceled")

    async def _find_canceled(self, account: Account, action: CancelOrders) -> Outcome | None:
        query: dict[str, str | int] = {"address": account.address, "subaccountNumber": account.subaccount, "status": "OPEN"}
        if action.market is not None:
            query["ticker"] = _ticker(action.market) or ""
        open_orders = parse_orders(await self._indexer.get("/orders", query))
        return None if open_orders else Outcome(status="done", reason="no open order left")

    async def _find(self, orders: HttpSource, account: Account, action: ShrinkPosition) -> Outcome | None:
        path = f"/sim/orders/{account.address}/{account.subaccount}/{client_id(action.action_id)}"
        try:
            answer = self._read(await orders.get(path), written=False)
        except EdgeError as error:
            if error.reason == "http_404" or error.reason == "not_found":
                return None
            raise
        # 32 bits are not a name: another order of ours may have carried this id in another window.
        sent = (_ticker(action.market), action.side, action.size, action.expires_at)
        return _outcome(answer) if (answer.market, answer.side, answer.size, answer.good_til) == sent else None

    def _read(self, body: object, *, written: bool) -> _Answer:
        """The order of an answer; raises UnknownOutcome after a write, EdgeError after a read, when it cannot be read."""
        try:
            if not isinstance(body, Mapping):
                raise TypeError(f"found {type(body).__name__}")
            return _Answer(
                id=str(body["id"]),
                market=str(body["market"]),
                side=str(body["side"]),
                size=_decimal(body["size"]),
                good_til=int(body["good_til"]),
                status=str(body["status"]),
                filled_size=_decimal(body["filled_size"]),
                average_price=None if body.get("average_price") is None else _decimal(body["average_price"]),
                fee_usd=None if body.get("fee_usd") is None else _decimal(body["fee_usd"]),
                reason=str(body.get("reason") or ""),
            )
        except (KeyError, TypeError, ValueError, InvalidOperation) as error:
            message = f"{self.name}: an order's answer cannot be read: {type(error).__name__} {error}"
            if written:
                raise UnknownOutcome(message, edge=self.name, reason="wrong_shape") from error
            raise EdgeError(message, edge=self.name, reason="wrong_shape", retryable=False) from error


def _outcome(answer: _Answer) -> Outcome:
    """What a final order means; an order that still rests is unknown, because it may yet fill."""
    return order_outcome(
        status=answer.status, reference=answer.id, filled=answer.filled_size, price=answer.average_price, fee_usd=answer.fee_usd,
        reason=answer.reason,
    )  # fmt: skip


def _ticker(market: str | None) -> str | None:
    """`BTC-USD` of `dydx:BTC-USD`."""
    return None if market is None else market.partition(":")[2] or market


def _decimal(value: object) -> Decimal:
    number = Decimal(str(value))
    if not number.is_finite():
        raise ValueError(f"{value!r} is no finite number")
    return number
