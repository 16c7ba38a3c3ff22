"""How Hyperliquid liquidates (floor 5): market orders, a fifth of a large position first, the liquidator vault, auto-deleveraging.

Source: hyperliquid.gitbook.io/hyperliquid-docs, pages trading/liquidations and trading/auto-deleveraging; the numbers are
`daemon.world.hyperliquid`'s. Cross margin only.
"""

from __future__ import annotations

from decimal import Decimal

from daemon.simulation.clearing import Clearing
from daemon.simulation.subaccount import Happening, Subaccount, closing_side, happening
from daemon.units import NS
from daemon.world import hyperliquid

COOLDOWN_NS = hyperliquid.COOLDOWN_S * NS


def liquidate(clearing: Clearing, account: Subaccount) -> list[Happening]:
    """One second of a cross account: book, backstop below 2/3 of maintenance margin, deleveraging below zero."""
    if not account.holdings:
        return []
    now = clearing.margins(account)
    cooled = account.cut_at is not None and clearing.at - account.cut_at >= COOLDOWN_NS
    if not hyperliquid.is_liquidatable(now.equity, now.maintenance):
        if cooled:
            account.cut_at = None
        return []
    clearing.cancel_open(account, "liquidation")
    if now.equity < 0:
        return _deleverage_all(clearing, account)
    if hyperliquid.backstop_due(now.equity, now.maintenance):
        return _take_over(clearing, account, now.equity)
    if account.cut_at is not None and not cooled:
        return []
    happened: list[Happening] = []
    for market in sorted(account.holdings, key=lambda market: -abs(float(account.holdings[market].size)) * clearing.price(market)):
        now = clearing.margins(account)
        if not hyperliquid.is_liquidatable(now.equity, now.maintenance):
            break
        happened += _sell(clearing, account, market, cooled)
    return happened


def _sell(clearing: Clearing, account: Subaccount, market: str, cooled: bool) -> list[Happening]:
    """A market order of the liquidation: whatever the book pays, no clearance fee; a fill that would leave a debt is the backstop's."""
    state, size = clearing.markets[market], abs(account.holdings[market].size)
    share = hyperliquid.liquidation_share(float(size) * state.mark, cooled)
    step = state.spec.step
    wanted = size if share == 1.0 else max(step, size * Decimal(repr(share)) // step * step)
    side = closing_side(account.holdings[market])
    bids, asks = state.book()
    filled, paid = Decimal(0), 0.0
    for price, available in bids if side == "SELL" else asks:
        part = min(available, wanted - filled)
        loss = float(part) * abs(state.mark - float(price)) if (float(price) < state.mark) == (side == "SELL") else 0.0
        if not part or loss > clearing.margins(account).equity:
            break
        state.take(side, part)
        clearing.close_at(account, market, part, float(price), "LIQUIDATED", clearing.ledger.counterparties)
        filled, paid = filled + part, paid + float(part) * float(price)
    if not filled:
        return []
    if share < 1.0:
        account.cut_at = clearing.at
    clearing.liquidations += 1
    return [happening("liquidated", account, market=market, size=str(filled), price=repr(paid / float(filled)), fee="0.0")]


def _take_over(clearing: Clearing, account: Subaccount, value: float) -> list[Happening]:
    """The liquidator vault takes all cross positions at the mark, and everything that is left: the account is worth nothing then."""
    happened: list[Happening] = []
    vault = clearing.ledger.vault
    for market in list(account.holdings):
        mark, size = clearing.price(market), abs(account.holdings[market].size)
        clearing.close_at(account, market, size, mark, "LIQUIDATED", vault)
        happened.append(happening("backstop", account, market=market, size=str(size), price=repr(mark), value=repr(value)))
    vault.quote, account.quote = vault.quote + account.quote, 0.0
    clearing.liquidations += 1
    return happened


def _deleverage_all(clearing: Clearing, account: Subaccount) -> list[Happening]:
    """Closes every position at the previous mark against those with the most gain x leverage; a debt that remains is the vault's."""
    happened: list[Happening] = []
    for market in list(account.holdings):
        state = clearing.markets[market]

        def rank(other: Subaccount, market: str = market, mark: float = state.previous_mark) -> float:
            held = other.holdings[market]
            return hyperliquid.adl_rank(float(held.size), mark, held.entry_price, clearing.margins(other).equity)

        queue = sorted(clearing.opposite(account, market), key=rank, reverse=True)
        happened += clearing.deleverage(account, market, state.previous_mark, queue)
    if account.quote < 0:
        clearing.ledger.vault.quote += account.quote
        account.quote = 0.0
    clearing.liquidations += 1
    return happened
