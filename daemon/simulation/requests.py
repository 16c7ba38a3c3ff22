"""What can happen to a request on its way to a simulated venue (floor 5): latency with jitter, random refusals.

Both hang on the request's client id alone, so the same id meets the same fate whoever asks and when.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist

from daemon.simulation import paths
from daemon.simulation.faults import ALL_MARKETS, OrderReject, VenueLatency
from daemon.simulation.fields import TimedShock
from daemon.simulation.scenario import VenueSpec

Z_95 = 1.6448536269514722  # standard normal quantile of 95 %
NORMAL = NormalDist()


def delay_ns(typical: int, slow: int, chance: float, *, shortest: int | None = None, longest: int | None = None) -> int:
    """The delay at quantile `chance` (in (0, 1)) of a log-normal above `shortest`, ns: median `typical`, 95th percentile `slow`.

    `shortest` defaults to half of `typical`; what exceeds `longest` is cut to it. A `slow` of `typical` or less means no spread.
    """
    least = typical // 2 if shortest is None else shortest
    if slow <= typical or typical <= least:
        return typical
    sigma = math.log((slow - least) / (typical - least)) / Z_95
    delay = least + int((typical - least) * math.exp(sigma * NORMAL.inv_cdf(chance)))
    return delay if longest is None else min(delay, longest)


def latency_ns(venue: VenueSpec, seed: int, client_id: str, shocks: Sequence[TimedShock], gone_ns: int) -> int:
    """From sending a request, `gone_ns` after the start, to its arrival at the book, ns."""
    typical, slow = venue.latency, venue.latency_p95 or venue.latency
    for shock in shocks:
        if isinstance(shock, VenueLatency) and shock.at <= gone_ns < shock.at + shock.lasts and shock.to >= typical:
            typical, slow = shock.to, shock.p95 or shock.to
    return delay_ns(typical, slow, paths.uniform(seed, f"latency.{client_id}")) if typical else 0


def is_rejected(seed: int, client_id: str, market: str, shocks: Sequence[TimedShock], gone_ns: int) -> bool:
    """True when a new order is refused by chance."""
    chance = paths.uniform(seed, f"reject.{client_id}")
    return any(
        isinstance(shock, OrderReject)
        and shock.market in (market, ALL_MARKETS)
        and shock.at <= gone_ns < shock.at + shock.lasts
        and chance < shock.probability
        for shock in shocks
    )
