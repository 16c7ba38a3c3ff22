"""What the engine asks of the edges (floor 4): the closed union `Action`, and `Outcome`, the closed answer.

`action_id` is `<run_id>.<step>.<slice>.<attempt>`: derived, never random; it travels as idempotency key, webhook id and, hashed to
32 bits, as the venue's client id. Decimals are what we own or send.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

OutcomeStatus = Literal["done", "rejected", "failed", "unknown"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """done · rejected (will not work) · failed (certainly did nothing) · unknown (may have happened)."""

    status: OutcomeStatus
    reason: str = ""
    reference: str = ""  # the venue's own id
    filled_size: Decimal | None = None  # base units, >= 0
    fill_price: Decimal | None = None
    amount: Decimal | None = None  # USD moved or credited
    fee_usd: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShrinkPosition:
    """A reduce-only IOC order: `size` base units (> 0) on `side`, never worse than `limit_price`."""

    action_id: str
    run_id: str
    runbook: str
    account: str
    market: str  # entity id, dydx:BTC-USD
    side: Literal["BUY", "SELL"]
    size: Decimal
    limit_price: Decimal
    reference_price: float  # mid, or the value price, at sending
    notional_usd: float  # |size| x value price, >= 0
    expires_at: int  # ns; the venue must refuse it later


@dataclass(frozen=True, slots=True, kw_only=True)
class MoveBuffer:
    """Move `amount` USD of idle collateral over one named route."""

    action_id: str
    run_id: str
    runbook: str
    source: str  # chain or venue id
    destination: str  # chain id or account id
    route: str
    amount: Decimal
    max_fee: Decimal  # USD
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CancelOrders:
    """Cancel the open orders of an account, of one market or of all of them (`market` None)."""

    action_id: str
    run_id: str
    runbook: str
    account: str
    market: str | None
    expires_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Halt:
    """Close the gate for opening orders of an entity; reducing stays allowed. State of the engine, published by the edges."""

    action_id: str
    run_id: str
    runbook: str
    kind: str
    entity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """Open the gate that this runbook's halt closed."""

    action_id: str
    run_id: str
    runbook: str
    kind: str
    entity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    """A message to people; `done` once it is in the outbox."""

    action_id: str
    run_id: str
    runbook: str
    to: tuple[str, ...]
    event: str  # fired | acted | blocked | failed | no_data | cleared | step | ...
    severity: str
    text: str
    detail: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CallWebhook:
    """A webhook as executor; `done` once the endpoint took it."""

    action_id: str
    run_id: str
    runbook: str
    endpoint: str
    payload: Mapping[str, object]
    expires_at: int


Action = ShrinkPosition | MoveBuffer | CancelOrders | Halt | Resume | Notify | CallWebhook
