"""How a venue's answer to an action is read (floor 4): the same words over HTTP and in a world in this process.

`done` took effect, wholly or in part; `failed` certainly did nothing; `unknown` may yet take effect.
"""

from __future__ import annotations

import hashlib
from decimal import Decimal

from daemon.engine.actions import Outcome

# Refusals that say nothing against sending the rest again under a new id: late, a clash of 32-bit ids, too many, dropped in a crowd.
RETRYABLE_REFUSALS = frozenset({"expired", "client_id_reused", "rate_limited", "congested"})
# The same of a transfer, whose ids are unique for ever.
RETRYABLE_TRANSFER_REFUSALS = frozenset({"expired", "congested"})


def client_id(action_id: str) -> int:
    """The first 32 bits of sha256(action_id): the venue's client id, unique enough inside its good-til window."""
    return int.from_bytes(hashlib.sha256(action_id.encode()).digest()[:4], "big")


def order_outcome(
    *, status: str, reference: str, filled: Decimal, price: Decimal | None, fee_usd: Decimal | None, reason: str
) -> Outcome:
    """What an order's status means; one that still rests is unknown, because it may yet fill. `filled` base units, `price` USD each."""
    match status:
        case "FILLED" | "CANCELED" if filled > 0:
            said = "" if status == "FILLED" else f"partly filled: {reason or 'canceled'}"
            return Outcome(status="done", reason=said, reference=reference, filled_size=filled, fill_price=price, fee_usd=fee_usd)
        case "CANCELED":
            said = f"no_fill: {reason}" if reason else "no_fill"
            return Outcome(status="failed", reason=said, reference=reference, filled_size=Decimal(0))
        case other:
            return Outcome(status="unknown", reason=f"the order is {other}", reference=reference)


def transfer_outcome(*, status: str, reference: str, amount: Decimal, fee_usd: Decimal) -> Outcome:
    """What a transfer's status means: done once the source is debited, failed when the money came back. USD."""
    match status:
        case "DEBITED" | "ATTESTED":
            return Outcome(status="done", reason="in flight", reference=reference, amount=amount, fee_usd=fee_usd)
        case "CREDITED":
            return Outcome(status="done", reason="credited", reference=reference, amount=amount, fee_usd=fee_usd)
        case "REFUNDED":
            return Outcome(status="failed", reason="refunded: the route gave it back", reference=reference)
        case "REJECTED":
            return Outcome(status="failed", reason="never debited: the source chain did not take it", reference=reference)
        case other:  # REQUESTED: not debited yet. EXPIRED, STUCK, LOST: debited, neither credited nor refunded. Else: not known here.
            return Outcome(status="unknown", reason=f"the transfer is {other}", reference=reference, amount=amount)
