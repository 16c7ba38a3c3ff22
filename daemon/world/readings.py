"""What is read off a book and off a list of proposals (floor 1): the same arithmetic for a venue's API and for a world in this process."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from daemon.units import NS

DEPTH_SHARE = 0.005  # `bid_depth` and `ask_depth` reach 50 bps from mid, as the catalogue has it
ROUNDING = 1e-12  # a level at exactly 50 bps counts, whatever the last bit of the product says
BLOCK_AGE_ALIVE_S = 10  # blocks come about every second: a height may stand this long before the venue counts as down
FIRST_BLOCK_AGE_ALIVE_S = 60  # ... and this long when it is seen for the first time
VOTING = "PROPOSAL_STATUS_VOTING_PERIOD"
# Messages that change margin, funding, markets or liquidations, or halt the chain.
# Source: dydxprotocol/v4-chain, protocol/app/msgs/internal_msgs.go.
RISK_MESSAGES = (
    "/dydxprotocol.perpetuals.",
    "/dydxprotocol.prices.",
    "/dydxprotocol.clob.",
    "/dydxprotocol.ratelimit.",
    "/dydxprotocol.listing.",
    "/dydxprotocol.blocktime.",
    "/dydxprotocol.delaymsg.",
    "/slinky.marketmap.",
    "/cosmos.upgrade.",
)


def book_values(bids: Sequence[tuple[float, float]], asks: Sequence[tuple[float, float]]) -> dict[str, float]:
    """The top of a book, and the USD value within 50 bps of mid; an empty side has no price (NaN) and size and depth 0.

    Levels are `(price, size)`, USD and base units, best first.
    """
    bid, bid_size = bids[0] if bids else (math.nan, 0.0)
    ask, ask_size = asks[0] if asks else (math.nan, 0.0)
    mid = (bid + ask) / 2
    low = (bid if math.isnan(mid) else mid) * (1 - DEPTH_SHARE - ROUNDING)
    high = (ask if math.isnan(mid) else mid) * (1 + DEPTH_SHARE + ROUNDING)
    return {
        "bid_price": bid,
        "ask_price": ask,
        "bid_size": bid_size,
        "ask_size": ask_size,
        "bid_depth": math.fsum(price * size for price, size in bids if price >= low),
        "ask_depth": math.fsum(price * size for price, size in asks if price <= high),
    }


def is_up(*, age_ns: int, advanced: bool, seen_before: bool) -> bool:
    """True when a venue's height advanced since it was seen before, or its last block is young enough."""
    limit_s = BLOCK_AGE_ALIVE_S if seen_before else FIRST_BLOCK_AGE_ALIVE_S
    return (advanced and seen_before) or age_ns <= limit_s * NS


def proposal_values(voting: Iterable[tuple[Sequence[str], float]]) -> dict[str, float]:
    """Signals of the proposals being voted on, each `(message types, seconds to its end)`; NaN seconds: none is open."""
    found = list(voting)
    touches = any(name.startswith(RISK_MESSAGES) for messages, _ in found for name in messages)
    ends_in_s = min((left_s for _, left_s in found), default=math.nan)
    return {"proposal_open": float(bool(found)), "proposal_touches_risk": float(touches), "proposal_ends_in": ends_in_s}
