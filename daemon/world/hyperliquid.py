"""Hyperliquid margin, funding, liquidation and mark price formulas (floor 1): plain numbers in, plain numbers out.

Margin is on MARK prices, funding on oracle prices. Sizes are signed base units (negative short), rates per HOUR, money USD. A margin table
is two equal sequences: `bounds` (USD of notional at which a tier begins, ascending, the first 0) and `leverages` (the most allowed in it).
An answer that does not exist is NaN; a division by zero is never reached.
Sources: hyperliquid.gitbook.io/hyperliquid-docs, pages trading/margin-tiers, trading/liquidations, trading/auto-deleveraging,
trading/funding, trading/robust-price-indices; the tests' numbers are liquidation prices that the exchange itself has shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from daemon.world.margin import funding_payment, funding_premium

__all__ = ["funding_payment", "funding_premium"]  # the same on both venues

NAN = float("nan")
INTEREST_8H = 0.0001  # the interest rate that a premium is pulled to
INTEREST_CLAMP = 0.0005  # how far it may be pulled, on the 8-hour rate
FUNDING_CAP_HOURLY = 0.04
BACKSTOP_SHARE = 2.0 / 3.0  # of maintenance margin: below it the liquidator vault takes over
PARTIAL_NOTIONAL = 100_000.0  # USD; a larger position is first liquidated in part
PARTIAL_SHARE = 0.2
COOLDOWN_S = 30  # after a partial liquidation
WITHDRAWAL_NOTIONAL_SHARE = 0.1  # of total notional that must stay covered
BASIS_SPAN_S = 150.0  # of the average of mid - oracle
BOOK_SPAN_S = 30.0  # of the average that stands in for perps elsewhere


def tier_of(notional: float, bounds: Sequence[float]) -> int:
    """Index of the tier that a notional (USD >= 0) is in; a bound itself belongs to the tier above it."""
    found = 0
    for i in range(1, len(bounds)):
        if notional >= bounds[i]:
            found = i
    return found


def max_leverage(notional: float, bounds: Sequence[float], leverages: Sequence[float]) -> float:
    """The most leverage that a position of this notional may have."""
    return leverages[tier_of(notional, bounds)]


def maintenance_fraction(leverage: float) -> float:
    """Maintenance margin rate of a tier: half of the initial one at its maximum leverage."""
    return 1.0 / (2.0 * leverage)


def deduction(tier: int, bounds: Sequence[float], leverages: Sequence[float]) -> float:
    """USD that make maintenance margin continuous: d_n = d_(n-1) + bound_n x (rate_n - rate_(n-1)), d_0 = 0."""
    total = 0.0
    for i in range(1, tier + 1):
        total = total + bounds[i] * (maintenance_fraction(leverages[i]) - maintenance_fraction(leverages[i - 1]))
    return total


def maintenance(notional: float, bounds: Sequence[float], leverages: Sequence[float]) -> float:
    """Maintenance margin of a position, USD >= 0: notional x the rate of its tier - the tier's deduction. `notional` >= 0, at the mark."""
    tier = tier_of(notional, bounds)
    return notional * maintenance_fraction(leverages[tier]) - deduction(tier, bounds, leverages)


def initial(notional: float, leverage: float) -> float:
    """Initial margin of a position, USD >= 0: notional / the leverage that its owner set."""
    return notional / leverage


def is_liquidatable(account_value: float, maintenance_usd: float) -> bool:
    """True when there is a requirement and the account is worth less than it."""
    return maintenance_usd > 0.0 and account_value < maintenance_usd


def backstop_due(account_value: float, maintenance_usd: float) -> bool:
    """True below 2/3 of maintenance margin: the vault takes all cross positions and what is left; nothing is given back."""
    return maintenance_usd > 0.0 and account_value < BACKSTOP_SHARE * maintenance_usd


def liquidation_price(
    size: float,
    price: float,
    account_value: float,
    maintenance_usd: float,
    bounds: Sequence[float],
    leverages: Sequence[float],
) -> float:
    """The mark price at which the account falls to its maintenance margin, other markets standing still; NaN when flat or without one > 0.

    `account_value` and `maintenance_usd` are the whole cross account's, or the isolated position's own. In one tier this is
    price - side x (account_value - maintenance) / |size| / (1 - l x side), l = 1 / (2 max leverage); the tier is the one at the answer.
    """
    if size == 0.0:
        return NAN
    held = abs(size)
    others = maintenance_usd - maintenance(held * price, bounds, leverages)
    for i in range(len(bounds)):
        rate = maintenance_fraction(leverages[i])
        # account_value + size (p - price) = others + |size| p rate - deduction
        slope = size - held * rate
        found = (size * price + others - account_value - deduction(i, bounds, leverages)) / slope
        if found <= 0.0:
            continue
        top = bounds[i + 1] if i + 1 < len(bounds) else math.inf
        if bounds[i] <= held * found < top:
            return found
    return NAN


def liquidation_share(notional: float, cooled: bool) -> float:
    """The share, a ratio, of a liquidatable position that goes to the book: a fifth when it is above 100,000 USD and was not cut before.

    `cooled`: a partial liquidation of the account lies at least 30 s back, and everything that is left goes.
    """
    return PARTIAL_SHARE if notional > PARTIAL_NOTIONAL and not cooled else 1.0


def withdrawable(account_value: float, initial_usd: float, notional: float) -> float:
    """USD >= 0 that may leave: what remains must cover max(initial margin, 0.1 x total notional)."""
    kept = initial_usd if initial_usd > WITHDRAWAL_NOTIONAL_SHARE * notional else WITHDRAWAL_NOTIONAL_SHARE * notional
    left = account_value - kept
    return left if left > 0.0 else 0.0


def adl_rank(size: float, mark: float, entry: float, account_value: float) -> float:
    """Place in the queue of auto-deleveraging, the highest first: gain x leverage = (mark / entry) x (notional / account value).

    For a short the gain is entry / mark. An account worth nothing has the highest leverage there is: infinite.
    """
    gain = mark / entry if size > 0.0 else entry / mark
    if account_value <= 0.0:
        return math.inf
    return gain * abs(size) * mark / account_value


def funding_rate_hourly(premium_8h: float) -> float:
    """The rate of an hour, fraction per hour: (P + clamp(0.0001 - P, -0.0005, 0.0005)) / 8, at most 4 % either way.

    `premium_8h` is the hour's mean premium. The documentation states the cap for the positive side; the same is taken for the negative one.
    """
    pull = INTEREST_8H - premium_8h
    if pull > INTEREST_CLAMP:
        pull = INTEREST_CLAMP
    if pull < -INTEREST_CLAMP:
        pull = -INTEREST_CLAMP
    rate = (premium_8h + pull) / 8.0
    if rate > FUNDING_CAP_HOURLY:
        return FUNDING_CAP_HOURLY
    if rate < -FUNDING_CAP_HOURLY:
        return -FUNDING_CAP_HOURLY
    return rate


def average_step(before: float, sample: float, elapsed_s: float, span_s: float) -> float:
    """An exponential average after one more sample, `elapsed_s` after the last one; NaN `before` starts it. Its memory is `span_s`."""
    if math.isnan(before):
        return sample
    kept = math.exp(-elapsed_s / span_s)
    return before * kept + sample * (1.0 - kept)


def weighted_median(prices: Sequence[float], weights: Sequence[float]) -> float:
    """The price at which half of the weight is reached, prices in any order; NaN ones are absent. NaN when all are."""
    present = [(prices[i], weights[i]) for i in range(len(prices)) if not math.isnan(prices[i]) and weights[i] > 0.0]
    present.sort()
    half = sum(weight for _, weight in present) / 2.0
    reached = 0.0
    for i in range(len(present)):
        reached = reached + present[i][1]
        if reached > half:
            return present[i][0]
        if reached == half:
            return (present[i][0] + present[i + 1][0]) / 2.0
    return NAN


def mark_price(oracle_with_basis: float, book: float, perps: float, book_average: float) -> float:
    """The mark price, a median of three; NaN when nothing is there.

    (1) oracle + 150 s average of (mid - oracle), (2) median of best bid, best ask and last trade, (3) perps elsewhere; NaN is
    absent. Where only two of the three exist, `book_average`, a 30 s average of (2), is the third.
    """
    found = [price for price in (oracle_with_basis, book, perps) if not math.isnan(price)]
    if len(found) == 2 and not math.isnan(book_average):
        found.append(book_average)
    if not found:
        return NAN
    found.sort()
    middle = len(found) // 2
    return found[middle] if len(found) % 2 else (found[middle - 1] + found[middle]) / 2.0
