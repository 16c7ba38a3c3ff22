"""How far each account of a book is from liquidation (floor 5): liquidation prices, and what price x funding x delay does to the threshold.

    standing = stand(account, prices)               # equity, margins, free collateral, each position's liquidation price
    survivable(account, prices, direction=-1)       # the common fall that liquidates, a ratio; infinite: none does
    margin_map(book)                                # every account with its map

Formulas: `world.margin` (dYdX v4, at the oracle price), `world.hyperliquid` (by tiers, at the mark). Money is USD, sizes are signed.
A funding shock is taken against the account: EVERY position pays the rate on its notional at the shocked price, at each hour of the delay.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from daemon.errors import UserError
from daemon.simulation.book import Book, BookAccount, BookMarket
from daemon.units import HOUR_NS
from daemon.world import hyperliquid, margin

NAN, INFINITE = float("nan"), float("inf")
MOVES = (-0.3, -0.2, -0.1, -0.05, 0.0, 0.05, 0.1, 0.2, 0.3)
FUNDING_RATES = (0.0, 0.001, 0.01, 0.04)  # an hour, paid; 4 % is Hyperliquid's cap, 7.5 % that of dYdX's long tail
DELAYS_NS = (0, HOUR_NS, 4 * HOUR_NS, 8 * HOUR_NS, 24 * HOUR_NS)
RISE_MAX = 1e6  # a common rise that is looked for at most, a ratio
Prices = Mapping[str, float]  # by symbol


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionStanding:
    """A position at the account's prices. `liquidation_price` NaN: none above 0; `distance` of it, a ratio; infinite: none, 0: crossed."""

    market: str
    size: float
    price: float
    entry_price: float
    maintenance_usd: float
    liquidation_price: float
    distance: float

    @property
    def notional_usd(self) -> float:
        """Size x price, signed."""
        return self.size * self.price


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """An account at given prices."""

    account: str
    venue: str
    model: str
    equity_usd: float
    initial_usd: float
    maintenance_usd: float
    gross_usd: float
    net_usd: float
    positions: tuple[PositionStanding, ...]
    survivable_down: float  # the common fall that liquidates, a ratio; infinite: none
    survivable_up: float

    @property
    def margin_ratio(self) -> float:
        """Maintenance margin / equity: liquidated above 1."""
        return margin.margin_ratio(self.equity_usd, self.maintenance_usd)

    @property
    def free_usd(self) -> float:
        """Equity - initial margin."""
        return self.equity_usd - self.initial_usd

    @property
    def leverage(self) -> float:
        """Gross notional / equity; NaN without equity."""
        return self.gross_usd / self.equity_usd if self.equity_usd > 0.0 else NAN

    @property
    def liquidatable(self) -> bool:
        """True when the venue may liquidate it now."""
        return margin.is_liquidatable(self.equity_usd, self.maintenance_usd)


def equity_usd(account: BookAccount, prices: Prices) -> float:
    """Collateral + what every position gained since entry, USD."""
    balance = account.collateral_usd - sum(float(held.size) * held.entry_price for held in account.positions)
    sizes = [float(held.size) for held in account.positions]
    return margin.equity(balance, sizes, [prices[held.market] for held in account.positions])


def maintenance_usd(rules: BookMarket, size: float, price: float) -> float:
    """Maintenance margin of one position, USD: by tiers where the market has them, else the fraction."""
    if rules.tiers:
        return hyperliquid.maintenance(abs(size * price), *_tiers(rules))
    return margin.requirement(size, price, rules.maintenance_margin)


def initial_usd(rules: BookMarket, size: float, price: float) -> float:
    """Initial margin of one position, USD: at the leverage set, but no more than its tier allows; on dYdX scaled by open interest."""
    if rules.tiers:
        allowed = hyperliquid.max_leverage(abs(size * price), *_tiers(rules))
        return hyperliquid.initial(abs(size * price), min(1.0 / rules.initial_margin, allowed))
    scaled = margin.initial_fraction(rules.initial_margin, rules.open_interest * price, rules.oi_lower_cap, rules.oi_upper_cap)
    return margin.requirement(size, price, scaled)


def _tiers(rules: BookMarket) -> tuple[tuple[float, ...], tuple[float, ...]]:
    return tuple(bound for bound, _ in rules.tiers), tuple(leverage for _, leverage in rules.tiers)


def stand(account: BookAccount, prices: Prices) -> Standing:
    """The account at these prices, by symbol."""
    held = [(position, account.markets[position.market], float(position.size), prices[position.market]) for position in account.positions]
    equity = equity_usd(account, prices)
    kept = [maintenance_usd(rules, size, price) for _, rules, size, price in held]
    maintenance = sum(kept)
    positions = []
    for (position, rules, size, price), own in zip(held, kept, strict=True):
        if rules.tiers:
            at = hyperliquid.liquidation_price(size, price, equity, maintenance, *_tiers(rules))
        else:
            at = margin.liquidation_price(size, price, rules.maintenance_margin, equity, maintenance)
        positions.append(
            PositionStanding(
                market=position.market, size=size, price=price, entry_price=position.entry_price, maintenance_usd=own, liquidation_price=at,
                distance=_distance(size, price, at, margin.is_liquidatable(equity, maintenance)),
            )
        )  # fmt: skip
    return Standing(
        account=account.id,
        venue=account.venue,
        model=account.model,
        equity_usd=equity,
        initial_usd=sum(initial_usd(rules, size, price) for _, rules, size, price in held),
        maintenance_usd=maintenance,
        gross_usd=sum(abs(size * price) for _, _, size, price in held),
        net_usd=sum(size * price for _, _, size, price in held),
        positions=tuple(positions),
        survivable_down=survivable(account, prices, direction=-1),
        survivable_up=survivable(account, prices, direction=1),
    )


def _distance(size: float, price: float, liquidation_price: float, liquidatable: bool) -> float:
    """The adverse move to the liquidation price, a ratio; infinite when no price liquidates, 0 once crossed."""
    if liquidatable:
        return 0.0
    if math.isnan(liquidation_price):
        return INFINITE
    away = (price - liquidation_price) if size > 0.0 else (liquidation_price - price)
    return max(away / price, 0.0)


def shocked(account: BookAccount, prices: Prices, move: float, funding_share: float = 0.0) -> tuple[float, float]:
    """(equity, maintenance margin) after all prices moved by a ratio and every position paid `funding_share` of its notional, USD."""
    moved = {market: price * (1.0 + move) for market, price in prices.items()}
    gross = sum(abs(float(held.size) * moved[held.market]) for held in account.positions)
    kept = sum(maintenance_usd(account.markets[held.market], float(held.size), moved[held.market]) for held in account.positions)
    return equity_usd(account, moved) - funding_share * gross, kept


def survivable(account: BookAccount, prices: Prices, *, direction: int, funding_share: float = 0.0) -> float:
    """The smallest common move (ratio > 0) in a direction that liquidates the account after it paid; infinite: none; 0: already.

    Equity is linear in the move and maintenance margin convex (tiers only get dearer), so that their difference has one zero.
    """

    def alive(move: float) -> bool:
        return not margin.is_liquidatable(*shocked(account, prices, direction * move, funding_share))

    if not account.positions:
        return INFINITE
    if not alive(0.0):
        return 0.0
    low, high = 0.0, 1.0
    if direction < 0:
        # At 0 nothing needs margin; what is left of equity says whether it was crossed on the way.
        if shocked(account, prices, -1.0)[0] >= 0.0:
            return INFINITE
        high = math.nextafter(1.0, 0.0)
    else:
        while alive(high):
            low, high = high, 2.0 * high
            if high > RISE_MAX:
                return INFINITE
    while True:
        middle = 0.5 * (low + high)
        if not low < middle < high:
            return high
        if alive(middle):
            low = middle
        else:
            high = middle


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """What an hourly rate, paid for as long as money takes, leaves of the moves that an account survives."""

    funding_rate: float  # an hour
    delay_ns: int
    paid_usd: float  # at today's prices
    down: float
    up: float


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountMap:
    """An account with its thresholds, and its margin ratio after each shock: by funding rate, delay, move; infinite: no equity left."""

    standing: Standing
    thresholds: tuple[Threshold, ...]
    ratios: tuple[tuple[tuple[float, ...], ...], ...]


def hours_paid(delay_ns: int) -> int:
    """Full hours that a delay can hold: funding settles at each, and the worst start just before one."""
    return -(-delay_ns // HOUR_NS)


def start_prices(book: Book, account: BookAccount) -> dict[str, float]:
    """The book's prices by symbol; raises UserError for a market that is held and has none."""
    known = {market_id.partition(":")[2]: price for market_id, price in book.prices.items() if market_id.startswith(f"{account.venue}:")}
    missing = [held.market for held in account.positions if held.market not in known]
    if missing:
        raise UserError(f"book '{book.name}': {', '.join(missing)} of account '{account.id}' has no price; write price: at the market")
    return known


def account_map(account: BookAccount, prices: Prices) -> AccountMap:
    """The account at these prices, under every shock of the axes."""
    standing = stand(account, prices)
    thresholds, ratios = [], []
    for rate in FUNDING_RATES:
        by_delay = []
        for delay in DELAYS_NS:
            share = rate * hours_paid(delay)
            if delay > 0 or rate == 0.0:
                thresholds.append(
                    Threshold(
                        funding_rate=rate, delay_ns=delay, paid_usd=share * standing.gross_usd,
                        down=survivable(account, prices, direction=-1, funding_share=share),
                        up=survivable(account, prices, direction=1, funding_share=share),
                    )
                )  # fmt: skip
            by_delay.append(tuple(margin.margin_ratio(*shocked(account, prices, move, share)) for move in MOVES))
        ratios.append(tuple(by_delay))
    kept = tuple(t for t in thresholds if t.funding_rate > 0.0 or t.delay_ns == 0)  # without funding a delay changes nothing
    return AccountMap(standing=standing, thresholds=kept, ratios=tuple(ratios))


def margin_map(book: Book) -> tuple[AccountMap, ...]:
    """Every account of the book that holds something; raises UserError for a market without a price."""
    return tuple(account_map(account, start_prices(book, account)) for account in book.accounts)
