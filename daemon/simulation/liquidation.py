"""How dYdX v4 liquidates (floor 5): slices a block at the book, the insurance fund, deleveraging, final settlement.

Sources: dydxprotocol/v4-chain protocol/x/clob/keeper/{liquidations,deleveraging}.go; the numbers are `daemon.world.margin`'s.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.simulation.clearing import Clearing
from daemon.simulation.subaccount import Happening, Subaccount, closing_side, happening, signed
from daemon.world import margin

GATE_BLOCKS = 50  # withdrawals are shut this long after a negative subaccount or a long halt


def liquidate(clearing: Clearing, account: Subaccount) -> list[Happening]:
    """One block of a subaccount below maintenance margin: a slice of each position, the largest first; below zero deleveraging of all."""
    now = clearing.margins(account)
    if not margin.is_liquidatable(now.equity, now.maintenance):
        return []
    clearing.cancel_open(account, "liquidation")
    happened: list[Happening] = []
    liquidated_usd = lost_usd = 0.0
    largest_first = sorted(account.holdings.values(), key=lambda held: -abs(float(held.size)) * clearing.price(held.market))
    for market in [holding.market for holding in largest_first]:
        now = clearing.margins(account)
        if now.equity < 0:
            clearing.gate_until_height = clearing.height + GATE_BLOCKS
            return happened + _deleverage_all(clearing, account)
        if not margin.is_liquidatable(now.equity, now.maintenance):
            break
        state = clearing.markets[market]
        notional = abs(float(account.holdings[market].size)) * state.oracle
        allowed = margin.liquidation_notional(notional, liquidated_usd)
        if allowed <= 0.0:
            break
        step, wanted = state.spec.step, abs(account.holdings[market].size)
        if allowed < notional:
            wanted = min(wanted, max(step, Decimal(repr(allowed / state.oracle)) // step * step))
        found, done_usd, paid_usd = _close_slice(clearing, account, market, wanted, lost_usd)
        happened += found
        liquidated_usd += done_usd
        lost_usd += paid_usd
    return happened


def _bankruptcy(clearing: Clearing, account: Subaccount, market: str) -> float:
    """The bankruptcy price of a position now; its share of maintenance is taken unrounded, so that all shares add up to one."""
    state, equity = clearing.markets[market], clearing.margins(account).equity
    held = [(float(holding.size), clearing.markets[holding.market]) for holding in account.holdings.values()]
    maintenance = sum(margin.requirement(size, other.oracle, other.maintenance_margin) for size, other in held)
    return margin.bankruptcy_price(float(account.holdings[market].size), state.oracle, state.maintenance_margin, equity, maintenance)


def _close_slice(
    clearing: Clearing, account: Subaccount, market: str, wanted: Decimal, lost_usd: float
) -> tuple[list[Happening], float, float]:
    """Fills a liquidation order level by level, not beyond its fillable price: what happened, USD liquidated, USD the fund paid.

    A fill worse than bankruptcy that the fund cannot pay for is none: what is left of the slice is deleveraged at the bankruptcy price.
    """
    state = clearing.markets[market]
    side = closing_side(account.holdings[market])
    size, now = float(account.holdings[market].size), clearing.margins(account)
    worst = margin.fillable_price(size, state.oracle, state.maintenance_margin, now.equity, now.maintenance)
    bids, asks = state.book()
    fund = clearing.fund_of(market)
    filled, paid, fees, lost = Decimal(0), 0.0, 0.0, 0.0
    happened: list[Happening] = []
    for price, available in bids if side == "SELL" else asks:
        level = float(price)
        if not wanted or (level < worst if side == "SELL" else level > worst):
            break
        part = min(available, wanted)
        bankrupt = _bankruptcy(clearing, account, market)
        change = margin.insurance_change(-float(signed(side, part)), level, bankrupt)
        if change < 0 and -change > clearing.ledger.insurance[fund]:
            happened += clearing.deleverage(account, market, bankrupt, clearing.opposite(account, market), wanted)
            break
        if change < 0 and lost_usd + lost - change > margin.INSURANCE_LOSS_MAX:
            break  # this block may cost the fund no more of this account
        state.take(side, part)
        pool = clearing.ledger.counterparties
        clearing.trade(account, market=market, side=side, size=part, price=level, fee=change, kind="LIQUIDATED", against=pool)
        filled, wanted = filled + part, wanted - part
        paid, fees, lost = paid + float(part) * level, fees + change, lost + max(0.0, -change)
    if not filled:
        return happened, 0.0, 0.0
    clearing.liquidations += 1
    average = paid / float(filled)
    done = happening("liquidated", account, market=market, size=str(filled), price=repr(average), fee=repr(fees))
    return [done, *happened], float(filled) * state.oracle, lost


def _deleverage_all(clearing: Clearing, account: Subaccount) -> list[Happening]:
    """Closes every position at its bankruptcy price, so that nothing is owed to anybody."""
    happened: list[Happening] = []
    for market in list(account.holdings):
        happened += clearing.deleverage(account, market, _bankruptcy(clearing, account, market), clearing.opposite(account, market))
    return happened


def settle_finally(clearing: Clearing, account: Subaccount) -> list[Happening]:
    """Closes the positions of markets in FINAL_SETTLEMENT at the oracle price, for everybody, and cancels their orders."""
    happened: list[Happening] = []
    for market, state in clearing.markets.items():
        if state.status != "FINAL_SETTLEMENT":
            continue
        clearing.cancel_open(account, "final_settlement", market)
        holding = account.holdings.get(market)
        if holding is not None:
            size = abs(holding.size)
            clearing.close_at(account, market, size, state.oracle, "DELEVERAGED", clearing.ledger.counterparties)
            happened.append(happening("final_settlement", account, market=market, size=str(size), price=repr(state.oracle)))
    return happened
