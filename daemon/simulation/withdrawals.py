"""The withdrawal limits of dYdX v4 (floor 5): an hourly and a daily capacity that fill up again.

Each limiter's baseline is max(a minimum, a share of the value locked); a withdrawal takes from all of them, a deposit gives back, and time
brings each back to its baseline within its period. Source: dydxprotocol/v4-chain protocol/x/ratelimit (keeper, types/params.go).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from daemon.units import DAY_NS, HOUR_NS, NS

HOURLY_SHARE, DAILY_SHARE = 0.01, 0.1  # of the value locked
DAILY_MINIMUM = 10.0  # times the hourly minimum


@dataclass(slots=True)
class Limiter:
    """One capacity, USD; above its baseline (after deposits) it falls back to it as it would rise."""

    baseline: float
    period_ns: int
    left: float = field(init=False)

    def __post_init__(self) -> None:
        self.left = self.baseline

    def refill(self, elapsed_ns: int) -> None:
        """Time passes: at least the baseline is regained (or, above it, the excess lost) in a period."""
        change = max(self.baseline, self.left - self.baseline) * elapsed_ns / self.period_ns
        self.left = max(self.baseline, self.left - change) if self.left > self.baseline else min(self.baseline, self.left + change)


class Capacity:
    """What may be withdrawn now; every amount USD."""

    def __init__(self, *, hourly_minimum: float, locked_usd: float) -> None:
        self.limiters = (
            Limiter(max(hourly_minimum, HOURLY_SHARE * locked_usd), HOUR_NS),
            Limiter(max(hourly_minimum * DAILY_MINIMUM, DAILY_SHARE * locked_usd), DAY_NS),
        )

    @property
    def left(self) -> float:
        """The most that one withdrawal may take."""
        return min(limiter.left for limiter in self.limiters)

    def take(self, amount: float) -> None:
        """A withdrawal leaves."""
        assert amount <= self.left, "a withdrawal above capacity was not refused"
        for limiter in self.limiters:
            limiter.left -= amount

    def give(self, amount: float) -> None:
        """A deposit, or a withdrawal that comes back."""
        for limiter in self.limiters:
            limiter.left += amount

    def second(self) -> None:
        """One block of a second passes."""
        for limiter in self.limiters:
            limiter.refill(NS)
