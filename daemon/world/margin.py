"""dYdX v4 cross-margin, funding and liquidation formulas (floor 1): plain numbers in, plain numbers out.

Prices are oracle prices (dYdX margins on nothing else), sizes are signed base units (negative short), fractions are ratios, rates per
HOUR, USD unrounded (the chain rounds each requirement up to 1e-6 USD: `rounded_up`, for whoever decides as the chain does). Every function
is branches and arithmetic over floats, so that it runs as it is in the generated program, interpreted or compiled (`rounded_up` alone needs
the standard library and stays out of it). An answer that does not exist is NaN; a division by zero is never reached.
Sources: dydxprotocol/v4-chain protocol/x/perpetuals/lib/lib.go, protocol/lib/margin/risk.go, protocol/x/subaccounts/lib/updates.go,
protocol/x/clob/keeper/liquidations.go, protocol/x/perpetuals/keeper/perpetual.go.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

NAN = float("nan")
INFINITE = float("inf")
FUNDING_SAMPLES_AN_HOUR = 60  # an hour with fewer minute samples is padded with zeros
FUNDING_CLAMP_FACTOR = 6.0  # of (initial - maintenance) fraction, on the 8-hour rate
SPREAD_TO_MAINTENANCE = 1.5  # SMMR of the liquidations configuration
BANKRUPTCY_ADJUSTMENT = 1.0  # BA of the liquidations configuration
LIQUIDATION_FEE_CAP = 0.015  # of the fill's notional
LIQUIDATION_USD_MIN = 1000.0  # of a position, a block
LIQUIDATION_SHARE = 0.1  # of a position, a block
LIQUIDATION_USD_MAX = 100_000.0  # of a subaccount, a block
INSURANCE_LOSS_MAX = 1_000_000.0  # USD of a subaccount's fills, a block
MICRO = 1e6  # a USDC has a million parts; the chain has none smaller
ULPS = 1e-15  # relative noise of a float product of three factors


def equity(quote_balance: float, sizes: Sequence[float], prices: Sequence[float]) -> float:
    """Total net collateral, USD: the quote balance (cost of entry included) + sum of size x price."""
    total = quote_balance
    for i in range(len(sizes)):
        total = total + sizes[i] * prices[i]
    return total


def initial_fraction(base_fraction: float, open_notional: float, lower_cap: float, upper_cap: float) -> float:
    """The initial margin fraction in force: from `base_fraction` at `lower_cap` linearly to 1 at `upper_cap` USD of open interest.

    An upper cap of 0 means that the market is not scaled.
    """
    if upper_cap == 0.0 or open_notional <= lower_cap:
        return base_fraction
    if open_notional >= upper_cap:
        return 1.0
    return base_fraction + (1.0 - base_fraction) * (open_notional - lower_cap) / (upper_cap - lower_cap)


def requirement(size: float, price: float, fraction: float) -> float:
    """Margin that one position needs, USD >= 0: |size x price| x the initial or the maintenance fraction."""
    return abs(size * price) * fraction


def requirement_sum(sizes: Sequence[float], prices: Sequence[float], fractions: Sequence[float]) -> float:
    """Margin that all positions of a cross account need together, USD >= 0."""
    total = 0.0
    for i in range(len(sizes)):
        total = total + abs(sizes[i] * prices[i]) * fractions[i]
    return total


def rounded_up(amount: float) -> float:
    """USD rounded up to 1e-6, as the chain rounds each position's requirement; the noise of binary floats is not rounded up."""
    scaled = amount * MICRO
    return math.ceil(scaled - abs(scaled) * ULPS) / MICRO


def requirement_sum_rounded(sizes: Sequence[float], prices: Sequence[float], fractions: Sequence[float]) -> float:
    """As `requirement_sum`, each position rounded up to 1e-6 USD first: what the chain compares with equity."""
    total = 0.0
    for i in range(len(sizes)):
        total = total + rounded_up(abs(sizes[i] * prices[i]) * fractions[i])
    return total


def margin_ratio(equity_usd: float, maintenance: float) -> float:
    """Maintenance margin / equity: 1 at liquidation, 0 without positions, infinite when equity is used up."""
    if maintenance == 0.0:
        return 0.0
    if equity_usd <= 0.0:
        return INFINITE
    return maintenance / equity_usd


def is_liquidatable(equity_usd: float, maintenance: float) -> bool:
    """True when maintenance margin is above 0 and strictly above equity."""
    return maintenance > 0.0 and maintenance > equity_usd


def liquidation_price(size: float, price: float, maintenance_fraction: float, equity_usd: float, maintenance: float) -> float:
    """The price of this market at which the account is liquidated, the others standing still; NaN when flat or when no price > 0 does it.

    p' = (equity - s P - MMR_other) / (|s| MMF - s), MMR_other = `maintenance` without this position.
    """
    slope = abs(size) * maintenance_fraction - size
    if slope == 0.0:
        return NAN
    others = maintenance - abs(size * price) * maintenance_fraction
    found = (equity_usd - size * price - others) / slope
    return found if found > 0.0 else NAN


def is_allowed(
    equity_before: float,
    maintenance_before: float,
    equity_after: float,
    initial_after: float,
    maintenance_after: float,
) -> bool:
    """True when the chain accepts a change of a subaccount: initial margin is covered afterwards, or the change reduces risk.

    Below initial margin the maintenance margin may not rise and equity / maintenance may not fall.
    """
    if equity_after >= initial_after:
        return True
    if maintenance_after > maintenance_before or maintenance_after == 0.0:
        return False
    if maintenance_after == maintenance_before:
        return equity_after >= equity_before
    return equity_after * maintenance_before >= equity_before * maintenance_after


def slippage_allowed(
    equity_usd: float,
    initial: float,
    maintenance: float,
    maintenance_fraction: float,
    taker_fee: float,
) -> float:
    """How much worse than the oracle price the chain lets a reduce-only fill be, a ratio; infinite when margin does not bind.

    Below initial margin: slippage + fee <= MMF x equity / MMR per unit of notional. Negative: only a better price would do.
    """
    if maintenance == 0.0 or equity_usd >= initial:
        return INFINITE
    return maintenance_fraction * equity_usd / maintenance - taker_fee


def fillable_price(
    size: float,
    price: float,
    maintenance_fraction: float,
    equity_usd: float,
    maintenance: float,
    spread: float = SPREAD_TO_MAINTENANCE,
    adjustment: float = BANKRUPTCY_ADJUSTMENT,
) -> float:
    """The worst price at which a liquidation order of the position may fill; NaN when flat.

    (s P - ABR SMMR MMR_position) / s with ABR = clamp(BA (1 - equity / MMR), 0, 1).
    """
    if size == 0.0 or maintenance == 0.0:
        return NAN
    bankruptcy_ratio = adjustment * (1.0 - equity_usd / maintenance)
    if bankruptcy_ratio < 0.0:
        bankruptcy_ratio = 0.0
    if bankruptcy_ratio > 1.0:
        bankruptcy_ratio = 1.0
    return (size * price - bankruptcy_ratio * spread * abs(size * price) * maintenance_fraction) / size


def bankruptcy_price(size: float, price: float, maintenance_fraction: float, equity_usd: float, maintenance: float) -> float:
    """The price at which closing the whole position uses up its share (by maintenance margin) of equity; NaN when flat.

    P - sign(s) equity (MMR_position / MMR) / |s|.
    """
    if size == 0.0 or maintenance == 0.0:
        return NAN
    return price - equity_usd * (abs(size * price) * maintenance_fraction / maintenance) / size


def liquidation_fee(size: float, fill_price: float, bankruptcy: float, fee_cap: float = LIQUIDATION_FEE_CAP) -> float:
    """USD that the insurance fund takes of a liquidation fill of `size` (signed): the capped fee, at most what is left above bankruptcy."""
    left = (fill_price - bankruptcy) * size
    capped = abs(size) * fill_price * fee_cap
    if left <= 0.0:
        return 0.0
    return left if left < capped else capped


def liquidation_notional(position_notional: float, liquidated_usd: float = 0.0) -> float:
    """USD of a position that one block may liquidate: max(1,000, 10 %), within what is left of the subaccount's 100,000 USD a block.

    `liquidated_usd` is what this block has liquidated of the subaccount before. Never more than the position.
    """
    allowed = position_notional * LIQUIDATION_SHARE
    if allowed < LIQUIDATION_USD_MIN:
        allowed = LIQUIDATION_USD_MIN
    left = LIQUIDATION_USD_MAX - liquidated_usd
    if allowed > left:
        allowed = left
    if allowed > position_notional:
        allowed = position_notional
    return allowed if allowed > 0.0 else 0.0


def insurance_change(size: float, fill_price: float, bankruptcy: float, fee_cap: float = LIQUIDATION_FEE_CAP) -> float:
    """USD by which a liquidation fill of `size` (signed, the part closed) changes the insurance fund.

    >= 0: the fee it takes of the account; < 0: what it pays to the account because the fill is worse than bankruptcy.
    """
    left = (fill_price - bankruptcy) * size
    if left < 0.0:
        return left
    return liquidation_fee(size, fill_price, bankruptcy, fee_cap)


def funding_premium(impact_bid: float, impact_ask: float, index_price: float) -> float:
    """A premium vote, ratio on the 8-hour basis: (max(0, impact bid - index) - max(0, index - impact ask)) / index; 0 without an index."""
    if not index_price > 0.0:
        return 0.0
    above = impact_bid - index_price
    below = index_price - impact_ask
    premium = 0.0
    if above > 0.0:
        premium = above
    if below > 0.0:
        premium = premium - below
    return premium / index_price


def funding_rate_hourly(
    samples_sum: float,
    samples: int,
    default_rate_8h: float,
    initial: float,
    maintenance: float,
    factor: float = FUNDING_CLAMP_FACTOR,
) -> float:
    """The settled rate, fraction per hour: mean of max(60, n) premium samples, missing ones counted as 0, + default, clamped, / 8.

    `samples_sum` and `default_rate_8h` are on the 8-hour basis; the clamp is +- factor x (initial - maintenance) fraction.
    """
    count = samples if samples > FUNDING_SAMPLES_AN_HOUR else FUNDING_SAMPLES_AN_HOUR
    rate = samples_sum / count + default_rate_8h
    bound = factor * (initial - maintenance)
    if rate > bound:
        rate = bound
    if rate < -bound:
        rate = -bound
    return rate / 8.0


def funding_rate_predicted(samples_sum: float, samples: int, default_rate_8h: float) -> float:
    """What the indexer shows as next rate, fraction per hour: the mean of the samples so far, not padded, not clamped; NaN without any."""
    if samples <= 0:
        return NAN
    return (samples_sum / samples + default_rate_8h) / 8.0


def funding_payment(size: float, price: float, rate_hourly: float) -> float:
    """USD that the position receives at a settlement (negative: pays): -s P rate."""
    return -size * price * rate_hourly
