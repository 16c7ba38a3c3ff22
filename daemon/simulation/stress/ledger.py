"""The book on one path (floor 5): collateral, positions, buffers and money on its way, with or without anybody acting.

    ledger = Ledger(book, path, costs=costs)
    ledger.run()                            # to the horizon, liquidations included: the side WITHOUT
    ledger.pass_to(at); ledger.shrink(order, at); ledger.move(order, at)      # WITH

Between two things that happen to an account its collateral, equity and margin are known for every row to come (`_Trajectory`), so a path
is a few array operations long. Margin is `daemon.world.margin`'s (dYdX v4, cross, at the oracle price) or `daemon.world.hyperliquid`'s
(tiers, at the mark). At one instant: money that arrives, funding, liquidation, then whoever acts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from daemon.engine.actions import MoveBuffer, Outcome, ShrinkPosition
from daemon.engine.events import Row
from daemon.simulation.book import Book, BookAccount, BookRoute
from daemon.simulation.stress.outcome import Side
from daemon.simulation.stress.path import Path
from daemon.units import FOREVER, NS
from daemon.world import hyperliquid, margin
from daemon.world.entities import Kind

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
Flags = npt.NDArray[np.bool_]

RATIO_MAX = 1e6  # a margin ratio at or below zero equity: JSON has no infinity
BLOCK_S = 1.3  # dYdX: one liquidation slice a block
DEPTH_REACH = 0.005  # `depth` is what stands within 50 bps
WARNED_RATIO = 0.8
DUST_USD = 0.01
LOOK_ROWS = 128  # looked at ahead while an account is being liquidated


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What the world takes of whoever trades in it."""

    impact_half_life_s: float = 600.0  # assumed: how fast a book refills after our own fills


@dataclass(frozen=True, slots=True, kw_only=True)
class Act:
    """Something that was done to the book, for whoever draws it."""

    at: int
    kind: str  # shrink | move | credited | liquidated | backstop | deleveraged | adl
    subject: str
    text: str


@dataclass(slots=True, kw_only=True)
class _Holding:
    """One position: `m` the market's row in the path."""

    m: int
    symbol: str
    market: str
    size: Decimal
    entry: float
    step: Decimal | None
    maintenance: float
    initial: float
    tiers: tuple[tuple[float, float], ...]
    opening: float  # its price at the start, USD
    open_interest: float  # base units
    oi_caps: tuple[float, float]  # USD
    told: bool = False


@dataclass(slots=True, kw_only=True)
class _Transfer:
    action_id: str
    route: str
    destination: str
    amount: float
    arrives_at: int  # FOREVER: stuck


@dataclass(slots=True)
class _Trajectory:
    """An account in rows [first, end), as long as nothing but prices and funding happens: float64[end - first]."""

    first: int
    end: int
    collateral: Floats  # after the funding of each row
    equity: Floats
    maintenance: Floats
    liquidated: int  # the first row at which the venue liquidates; the number of rows of the path when none


class _Account:
    """One margin account on one path."""

    def __init__(
        self, spec: BookAccount, path: Path, index: Mapping[str, int], *, hours: Ints, rows_of_hours: Ints, open_rows: Flags,
        opening: Mapping[str, float],
    ) -> None:  # fmt: skip
        self.spec = spec
        self.path = path
        self.hours = hours  # int64[rows]: settlements at or before each row
        self.rows_of_hours = rows_of_hours
        self.open_rows = open_rows
        self.collateral = spec.collateral_usd
        self.row = -1  # the last row lived through
        self.hour = 0  # settlements paid
        self.held = [
            _Holding(
                m=index[f"{spec.venue}:{position.market}"], symbol=position.market, market=f"{spec.venue}:{position.market}",
                size=position.size, entry=position.entry_price, step=spec.markets[position.market].step,
                maintenance=spec.markets[position.market].maintenance_margin, initial=spec.markets[position.market].initial_margin,
                tiers=spec.markets[position.market].tiers, opening=opening[f"{spec.venue}:{position.market}"],
                open_interest=spec.markets[position.market].open_interest,
                oi_caps=(spec.markets[position.market].oi_lower_cap, spec.markets[position.market].oi_upper_cap),
            )
            for position in spec.positions
        ]  # fmt: skip
        self.by_market = {holding.market: holding for holding in self.held}
        rows = len(path.at)
        self.ratio = np.zeros(rows)
        self.equity_track = np.zeros(rows)
        self.funding_usd = 0.0
        self.liquidating = False
        self.was_liquidated = False
        self.cut_at: int | None = None  # Hyperliquid: when a large position was cut in part
        self.ahead: _Trajectory = self.look_ahead(rows)

    # -- what is to come ---------------------------------------------------------------------------------------------------------
    def look_ahead(self, width: int) -> _Trajectory:
        """The account in the next `width` rows, if nobody acts."""
        path, rows = self.path, self.rows
        first = self.row + 1
        end = min(rows, first + width)
        held = [holding for holding in self.held if holding.size]
        if not held:
            collateral = np.full(end - first, self.collateral)
            return _Trajectory(first, end, collateral, collateral, np.zeros(end - first), rows)
        where = [holding.m for holding in held]
        sizes = np.array([float(holding.size) for holding in held])
        prices = path.oracle[where, first:end]
        cost = float(sum(float(holding.size) * holding.entry for holding in held))
        maintenance = self._requirement(held, sizes, prices)
        collateral = self.cash_ahead()[self.hours[first:end] - self.hour]
        equity = collateral + (_weighed(sizes, prices) - cost)
        below = (maintenance > equity) & self.open_rows[first:end]
        found = int(np.argmax(below)) if len(below) else 0
        liquidated = first + found if len(below) and bool(below[found]) else rows
        return _Trajectory(first, end, collateral, equity, maintenance, liquidated)

    def cash_ahead(self) -> Floats:
        """Collateral now and after each settlement still to come, if nobody acts: float64[settlements + 1]."""
        held = [holding for holding in self.held if holding.size]
        hours = self.rows_of_hours[self.hour :]
        steps = np.zeros(len(hours) + 1)
        # dYdX pays on the oracle price, which margin uses; Hyperliquid on its oracle, which is the index and not the mark.
        paid_on = self.path.oracle if self.spec.model == "dydx-v4" else self.path.index
        for holding in held:
            steps[1:] -= float(holding.size) * paid_on[holding.m][hours] * self.path.funding[holding.m, self.hour :]
        return self.collateral + np.cumsum(steps)

    def _requirement(self, held: Sequence[_Holding], sizes: Floats, prices: Floats) -> Floats:
        """Maintenance margin of every row, USD."""
        if self.spec.model == "dydx-v4":
            fractions = np.array([holding.maintenance for holding in held])
            return _weighed(np.abs(sizes) * fractions, prices)
        total = np.zeros(prices.shape[1])
        for k, holding in enumerate(held):
            notional = np.abs(sizes[k]) * prices[k]
            bounds = np.array([bound for bound, _ in holding.tiers])
            rates = np.array([0.5 / leverage for _, leverage in holding.tiers])
            deductions = np.concatenate(([0.0], np.cumsum(bounds[1:] * np.diff(rates))))
            tier = np.searchsorted(bounds, notional, side="right") - 1
            total += notional * rates[tier] - deductions[tier]
        return total

    def pass_to(self, row: int) -> None:
        """Lives through every row up to `row`; nothing but prices and funding happened there."""
        if row <= self.row:
            return
        ahead = self.ahead
        lo, hi = self.row + 1, row + 1
        a, b = lo - ahead.first, hi - ahead.first
        equity, maintenance = ahead.equity[a:b], ahead.maintenance[a:b]
        self.equity_track[lo:hi] = equity
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = np.where(equity > 0.0, maintenance / equity, np.where(maintenance > 0.0, RATIO_MAX, 0.0))
        self.ratio[lo:hi] = np.minimum(ratio, RATIO_MAX)
        collateral = float(ahead.collateral[b - 1])
        self.funding_usd += collateral - self.collateral
        self.collateral = collateral
        self.row, self.hour = row, int(self.hours[row])

    def look_on(self) -> None:
        """On to rows that have not been looked at."""
        self.pass_to(self.ahead.end - 1)
        self.ahead = self.look_ahead(4 * (self.ahead.end - self.ahead.first))

    def changed(self) -> None:
        """Something was done to the account at its present row. After a liquidation the next is often near, so little is looked at."""
        self.ahead = self.look_ahead(LOOK_ROWS if self.liquidating else self.rows)

    # -- now ---------------------------------------------------------------------------------------------------------------------
    def price(self, holding: _Holding) -> float:
        """What margin values it at, USD: at the last row lived through."""
        return float(self.path.oracle[holding.m, self.row]) if self.row >= 0 else holding.opening

    def fraction(self, holding: _Holding) -> float:
        """Maintenance margin of a position over its notional now, a ratio: on Hyperliquid what its tiers come to."""
        notional = abs(float(holding.size)) * self.price(holding)
        if self.spec.model == "dydx-v4" or not notional:
            return holding.maintenance
        required = self._requirement([holding], np.array([float(holding.size)]), np.array([[self.price(holding)]]))
        return float(required[0]) / notional

    def by_notional(self) -> list[_Holding]:
        """What is held, the largest first."""
        return sorted((held for held in self.held if held.size), key=lambda held: -abs(float(held.size)) * self.price(held))

    def equity(self) -> float:
        """Collateral and unrealised profit, USD."""
        return self.collateral + sum(float(held.size) * (self.price(held) - held.entry) for held in self.held if held.size)

    def maintenance(self) -> float:
        """Maintenance margin now, USD."""
        held = [holding for holding in self.held if holding.size]
        if not held:
            return 0.0
        sizes = np.array([float(holding.size) for holding in held])
        prices = np.array([[self.price(holding)] for holding in held])
        return float(self._requirement(held, sizes, prices)[0])

    def initial(self) -> float:
        """Initial margin now, USD: scaled by open interest on dYdX, of the tier that each position is in on Hyperliquid."""
        total = 0.0
        for held in self.held:
            price = self.price(held)
            notional = abs(float(held.size)) * price
            if self.spec.model == "dydx-v4":
                total += notional * margin.initial_fraction(held.initial, held.open_interest * price, *held.oi_caps)
            elif notional:
                bounds, leverages = [bound for bound, _ in held.tiers], [leverage for _, leverage in held.tiers]
                total += max(notional * held.initial, hyperliquid.initial(notional, hyperliquid.max_leverage(notional, bounds, leverages)))
        return total

    def may_leave(self, amount: float) -> bool:
        """True when a withdrawal of so much leaves what the venue asks for to stay."""
        equity, initial = self.equity(), self.initial()
        if self.spec.model == "dydx-v4":
            return equity - amount >= initial
        notional = sum(abs(float(held.size)) * self.price(held) for held in self.held)
        return amount <= hyperliquid.withdrawable(equity, initial, notional)

    @property
    def rows(self) -> int:
        """Rows of the path."""
        return len(self.path.at)


@dataclass(slots=True, kw_only=True)
class _Counts:
    fees_usd: float = 0.0
    slippage_usd: float = 0.0
    liquidation_usd: float = 0.0
    transfer_fees_usd: float = 0.0
    turnover_usd: float = 0.0
    liquidations: int = 0
    liquidated_at: int = FOREVER
    first_account: str = ""
    runs: dict[str, int] = field(default_factory=dict)


class Ledger:
    """Every account of the book, its buffers and its transfers, on one path."""

    def __init__(self, book: Book, path: Path, *, start: int, costs: Costs, index: Mapping[str, int]) -> None:
        """`start`: the instant before the first row; `index`: the path's row of each market."""
        self.book, self.path, self.start, self.costs = book, path, start, costs
        rows = len(path.at)
        self.index = index
        opening = {market: self.start_price(market) for market in book.market_ids}
        self._opening = {index[market]: price for market, price in opening.items()}
        rows_of_hours = np.searchsorted(path.at, path.funding_at)
        hours = np.searchsorted(path.funding_at, path.at, side="right")
        self.accounts = {
            spec.id: _Account(
                spec, path, index, hours=hours, rows_of_hours=rows_of_hours, open_rows=self._open_rows(spec.venue, rows),
                opening=opening,
            )
            for spec in book.accounts
        }  # fmt: skip
        self.buffers = dict(book.buffers)
        self.routes: dict[str, BookRoute] = {route.name: route for route in book.routes}
        self.transfers: list[_Transfer] = []
        self.acts: list[Act] = []
        self.counts = _Counts()
        self._moved = dict.fromkeys(self.routes, 0)
        self._shift: dict[int, tuple[int, float]] = {}  # by market: when and by how much our own fills had moved it
        self._closed = _closed_intervals(path, Kind.ROUTE, "route_open")
        self._gated = _closed_intervals(path, Kind.VENUE, "withdrawals_open")
        self._started_with = self._worth_at_start()
        self.needed_usd = 0.0  # of the account that went first, where it was worked out
        self._dirty_accounts: set[str] = set()
        self._dirty_buffers = False
        self._retold: set[str] = set()  # accounts whose collateral to come is not what was told
        self._adl = list(path.adl)

    def _open_rows(self, venue: str, rows: int) -> Flags:
        found = np.ones(rows, bool)
        for halted, since, until in self.path.halted:
            if halted == venue:
                lo, hi = np.searchsorted(self.path.at, [since, until])
                found[lo:hi] = False
        return found

    def _worth_at_start(self) -> float:
        total = sum(self.buffers.values())
        for account in self.accounts.values():
            spec = account.spec
            total += spec.collateral_usd
            for holding in account.held:
                price = self.start_price(holding.market)
                total += float(holding.size) * (price - holding.entry)
        return total

    def start_price(self, market: str) -> float:
        """The price at the start, USD."""
        venue, _, symbol = market.partition(":")
        for account in self.book.accounts:
            if account.venue == venue and symbol in account.markets:
                price = account.markets[symbol].price
                if price is not None:
                    return price
        return float(self.path.oracle[self.index[market], 0])

    # -- time --------------------------------------------------------------------------------------------------------------------
    def row_at(self, at: int) -> int:
        """The last row at or before `at`; -1 before the first."""
        return int(np.searchsorted(self.path.at, at, side="right")) - 1

    def next_event_at(self) -> int:
        """When something happens to the book by itself, but for prices and funding: a liquidation or an arrival; FOREVER when nothing."""
        found = min((transfer.arrives_at for transfer in self.transfers), default=FOREVER)
        if self._adl:
            found = min(found, self._adl[0].at)
        for account in self.accounts.values():
            if account.ahead.liquidated < account.rows:
                found = min(found, int(self.path.at[account.ahead.liquidated]))
            elif account.ahead.end < account.rows:
                found = min(found, int(self.path.at[account.ahead.end]))  # what comes there has not been looked at
        return found

    def pass_to(self, at: int) -> None:
        """Lives through everything up to `at`, in order."""
        while True:
            event = self.next_event_at()
            if event > at:
                break
            self._arrive(event)
            while self._adl and self._adl[0].at <= event:
                adl = self._adl.pop(0)
                self._deleveraged_by_others(adl.market, adl.share, event)
            for account in self.accounts.values():
                if account.ahead.liquidated < account.rows and int(self.path.at[account.ahead.liquidated]) <= event:
                    account.pass_to(account.ahead.liquidated)
                    self._liquidate(account)
                elif account.ahead.end < account.rows and int(self.path.at[account.ahead.end]) <= event:
                    account.look_on()
        row = self.row_at(at)
        for account in self.accounts.values():
            account.pass_to(row)

    def run(self) -> None:
        """To the horizon."""
        self.pass_to(int(self.path.at[-1]))

    def _arrive(self, at: int) -> None:
        row = self.row_at(at)
        for transfer in [transfer for transfer in self.transfers if transfer.arrives_at <= at]:
            self.transfers.remove(transfer)
            account = self.accounts.get(transfer.destination)
            if account is None:
                self.buffers[transfer.destination] = self.buffers.get(transfer.destination, 0.0) + transfer.amount
            else:
                # It stands in the account before that row's margin is looked at.
                account.pass_to(row - 1 if row >= 0 and int(self.path.at[row]) == at else row)
                account.collateral += transfer.amount
                self._change(account)
            self._dirty_buffers = True
            self._note(at, "credited", transfer.destination, f"{transfer.amount:,.0f} USD arrive over {transfer.route}")

    def _note(self, at: int, kind: str, subject: str, text: str) -> None:
        self.acts.append(Act(at=at, kind=kind, subject=subject, text=text))

    def _change(self, account: _Account) -> None:
        account.changed()
        self._dirty_accounts.add(account.spec.id)
        self._retold.add(account.spec.id)

    # -- liquidation -------------------------------------------------------------------------------------------------------------
    def _liquidate(self, account: _Account) -> None:
        at = int(self.path.at[account.row])
        if not account.liquidating:
            account.liquidating = True
            if account.cut_at is not None and at - account.cut_at >= hyperliquid.COOLDOWN_S * NS:
                account.cut_at = None  # it was healthy in between: begins anew
            self.counts.liquidations += not account.was_liquidated
            account.was_liquidated = True
            if self.counts.liquidated_at == FOREVER:
                self.counts.liquidated_at, self.counts.first_account = at - self.start, account.spec.id
        if account.spec.model == "dydx-v4":
            self._liquidate_dydx(account, at)
        else:
            self._liquidate_hyperliquid(account, at)
        self._change(account)
        if account.equity() >= account.maintenance():
            account.liquidating = False

    def _liquidate_dydx(self, account: _Account, at: int) -> None:
        """Slice by slice, a block each, as many blocks as this row lasts; below zero the rest is deleveraged at the bankruptcy price."""
        following = int(self.path.at[account.row + 1]) if account.row + 1 < account.rows else at + 60 * NS
        for _ in range(max(1, int((following - at) / NS / BLOCK_S))):
            equity, maintenance = account.equity(), account.maintenance()
            if not margin.is_liquidatable(equity, maintenance):
                return
            if equity < 0.0:
                self._deleverage(account, at)
                return
            if not any(self._slice(account, holding, equity, maintenance, at) for holding in account.by_notional()):
                return  # nobody pays enough now, in any market

    def _slice(self, account: _Account, holding: _Holding, equity: float, maintenance: float, at: int) -> bool:
        """One block's liquidation of one position, at the book and no worse than its fillable price; False when nothing fills."""
        size, price = float(holding.size), account.price(holding)
        part = margin.liquidation_notional(abs(size) * price) / price
        selling = size > 0
        worst = margin.fillable_price(size, price, holding.maintenance, equity, maintenance)
        fill, filled = self._book_price(holding.m, account.row, selling, part * price, worst, at)
        if filled <= 0.0:
            return False
        units = _all_but_dust(size, min(part, filled / price), price)
        bankrupt = margin.bankruptcy_price(size, price, holding.maintenance, equity, maintenance)
        # Below zero: a fill worse than bankruptcy, which the insurance fund makes good.
        fee = margin.insurance_change(units, fill, bankrupt, account.spec.liquidation_fee)
        self._close(account, holding, units, fill, fee)
        self.counts.liquidation_usd += fee + units * (price - fill)
        self._note(at, "liquidated", holding.market, f"{units:+.6g} at {fill:,.6g}")
        return True

    def _deleverage(self, account: _Account, at: int) -> None:
        """Every position at its bankruptcy price: what the account is worth afterwards is zero."""
        before = account.equity()
        for holding in account.held:
            if holding.size:
                price = account.price(holding)
                bankrupt = margin.bankruptcy_price(float(holding.size), price, holding.maintenance, account.equity(), account.maintenance())
                self._note(at, "deleveraged", holding.market, f"{float(holding.size):+.6g} at {bankrupt:,.6g}")
                self._close(account, holding, float(holding.size), bankrupt, 0.0)
        self.counts.liquidation_usd += before - account.equity()

    def _deleveraged_by_others(self, market: str, share: float, at: int) -> None:
        """Auto-deleveraging takes `share` of a position that is in profit, at the price that margin uses: a hedge leg can vanish."""
        row = self.row_at(at)
        for account in self.accounts.values():
            holding = account.by_market.get(market)
            if holding is None or not holding.size:
                continue
            account.pass_to(row)
            price = account.price(holding)
            if float(holding.size) * (price - holding.entry) <= 0.0:
                continue
            units = _all_but_dust(float(holding.size), abs(float(holding.size)) * share, price)
            self._note(at, "adl", market, f"{-units:+.6g} at {price:,.6g}, by auto-deleveraging")
            self._close(account, holding, units, price, 0.0)
            self._change(account)

    def _liquidate_hyperliquid(self, account: _Account, at: int) -> None:
        """At the book where equity is above two thirds of maintenance, else the backstop takes positions and margin."""
        equity, maintenance = account.equity(), account.maintenance()
        if hyperliquid.backstop_due(equity, maintenance):
            for holding in account.held:
                if holding.size:
                    self._close(account, holding, float(holding.size), account.price(holding), 0.0)
            self.counts.liquidation_usd += account.collateral  # below zero: what the vault and the deleveraged pay for the account
            account.collateral = 0.0
            self._note(at, "backstop", account.spec.id, "the backstop takes all cross positions and their margin")
            return
        cooled = account.cut_at is not None and at - account.cut_at >= hyperliquid.COOLDOWN_S * NS
        if account.cut_at is not None and not cooled:
            return
        for holding in account.by_notional():
            size, price = float(holding.size), account.price(holding)
            notional = abs(size) * price
            part = abs(size) * hyperliquid.liquidation_share(notional, cooled)
            account.cut_at = at if part < abs(size) else account.cut_at
            selling = size > 0
            fill, filled = self._book_price(holding.m, account.row, selling, part * price, 0.0 if selling else math.inf, at)
            units = _all_but_dust(size, min(part, filled / price), price)
            self._close(account, holding, units, fill, 0.0)
            self.counts.liquidation_usd += units * (price - fill)
            self._note(at, "liquidated", holding.market, f"{units:+.6g} at {fill:,.6g}")
            if account.equity() >= account.maintenance():
                return

    def _close(self, account: _Account, holding: _Holding, units: float, price: float, fee: float) -> None:
        """Takes `units` (signed as the position) off a position at a price."""
        account.collateral += units * (price - holding.entry) - fee
        holding.size = Decimal(repr(float(holding.size) - units))
        holding.told = False

    # -- the book of a market ----------------------------------------------------------------------------------------------------
    def _book_price(self, m: int, row: int, selling: bool, usd: float, worst: float, at: int) -> tuple[float, float]:
        """(average price, USD filled) of an order of `usd` that fills no worse than `worst`; deeper is worse (linear book)."""
        mid = float(self.path.mid[m, row]) if row >= 0 else self._opening[m]
        row = max(row, 0)
        half, depth = 0.5 * float(self.path.spread[m, row]), float(self.path.depth[m, row])
        since, shift = self._shift.get(m, (at, 0.0))
        shift *= 0.5 ** ((at - since) / NS / self.costs.impact_half_life_s)
        own = shift if selling else -shift  # our own sales have moved it down: sales get less, purchases get more
        best = half + max(own, -half)
        if worst <= 0.0 or worst == math.inf:
            room = math.inf
        else:
            room = (1.0 - worst / mid if selling else worst / mid - 1.0) - best
        if room < 0.0 or depth <= 0.0:
            return mid, 0.0
        filled = min(usd, room / DEPTH_REACH * depth)
        reached = DEPTH_REACH * filled / depth
        cost = min(best + 0.5 * reached, 0.9)
        self._shift[m] = (at, shift + (reached if selling else -reached))
        return mid * (1.0 - cost if selling else 1.0 + cost), filled

    # -- what the runbooks ask for -----------------------------------------------------------------------------------------------
    def shrink(self, order: ShrinkPosition, at: int) -> Outcome:
        """A reduce-only immediate order: done (in full or in part), or why not. It never flips."""
        account = self.accounts.get(order.account)
        holding = account.by_market.get(order.market) if account is not None else None
        if account is None or holding is None or not holding.size:
            return Outcome(status="rejected", reason="reduce_only: there is no position")
        selling = order.side == "SELL"
        if selling != (holding.size > 0):
            return Outcome(status="rejected", reason="reduce_only: the order would add to the position")
        self.pass_to(at)
        if not holding.size:
            return Outcome(status="rejected", reason="reduce_only: there is no position")
        if not bool(account.open_rows[max(account.row, 0)]):
            return Outcome(status="rejected", reason="venue_halted")
        size = min(order.size, abs(holding.size))
        if holding.step and size != abs(holding.size):
            size -= size % holding.step
        if size <= 0:
            return Outcome(status="rejected", reason="below_minimum")
        price = account.price(holding)
        worst = self._worst_allowed(account, holding, float(order.limit_price), price, selling)
        fill, usd = self._book_price(holding.m, account.row, selling, float(size) * price, worst, at)
        filled = size if usd >= float(size) * price * (1 - 1e-12) else Decimal(repr(usd / price))
        if holding.step and filled != abs(holding.size):
            filled -= filled % holding.step
        if filled <= 0:
            return Outcome(status="failed", reason="no_fill")
        units = float(filled) if selling else -float(filled)
        fee = abs(units) * fill * account.spec.taker_fee
        account.collateral += units * (fill - holding.entry) - fee
        holding.size -= filled if selling else -filled
        holding.told = False
        self.counts.fees_usd += fee
        self.counts.slippage_usd += units * (price - fill)
        self.counts.turnover_usd += abs(units) * fill
        self._change(account)
        self._note(at, "shrink", order.market, f"{order.runbook}: {-units:+.6g} at {fill:,.6g}")
        return Outcome(
            status="done", filled_size=filled, fill_price=Decimal(repr(fill)), amount=Decimal(repr(abs(units) * fill)),
            fee_usd=Decimal(repr(fee)), reference=f"fill@{at}",
        )  # fmt: skip

    def _worst_allowed(self, account: _Account, holding: _Holding, limit: float, price: float, selling: bool) -> float:
        """The order's own limit, or the chain's where that is tighter: below initial margin a fill may not raise the risk."""
        if account.spec.model != "dydx-v4":
            return limit
        allowed = margin.slippage_allowed(
            account.equity(), account.initial(), account.maintenance(), holding.maintenance, account.spec.taker_fee
        )
        if allowed == margin.INFINITE:
            return limit
        bound = price * (1.0 - allowed if selling else 1.0 + allowed)
        return max(limit, bound) if selling else min(limit, bound) if limit > 0.0 else bound

    def move(self, order: MoveBuffer, at: int) -> tuple[Outcome | None, int]:
        """Debits a transfer: (None, when it arrives) when it was taken, FOREVER never; else (why it was refused, 0)."""
        self.pass_to(at)
        route = self.routes.get(order.route)
        if route is None:
            return Outcome(status="rejected", reason=f"there is no route {order.route!r}"), 0
        amount = float(order.amount)
        fee = amount * route.fee
        if fee > float(order.max_fee):
            return Outcome(status="rejected", reason=f"the fee of {fee:.2f} USD is above max_fee"), 0
        if amount <= 0.0 or amount > route.capacity_usd:
            return Outcome(status="rejected", reason="the amount is zero or above the route's capacity"), 0
        closed = self._closed.get(order.route, ())
        if any(since <= at < until for since, until in closed):
            return Outcome(status="rejected", reason="route_closed"), 0
        account = self.accounts.get(order.source)
        if account is not None:
            if any(since <= at < until for since, until in self._gated.get(account.spec.venue, ())):
                return Outcome(status="rejected", reason="withdrawals_gated"), 0
            if not account.may_leave(amount) or not bool(account.open_rows[max(account.row, 0)]):
                return Outcome(status="rejected", reason="margin: the withdrawal would leave less than initial margin"), 0
            account.collateral -= amount
            self._change(account)
        elif self.buffers.get(order.source, 0.0) < amount:
            return Outcome(status="rejected", reason=f"less than {amount:.2f} USD is free at {order.source!r}"), 0
        else:
            self.buffers[order.source] -= amount
        k = self._moved[order.route]
        self._moved[order.route] += 1
        arrives = _arrival(at, self.path.delay_s(order.route, k, at), closed)
        self.counts.transfer_fees_usd += fee
        self._dirty_buffers = True
        self.transfers.append(
            _Transfer(action_id=order.action_id, route=order.route, destination=order.destination, amount=amount - fee, arrives_at=arrives)
        )
        self._note(at, "move", order.destination, f"{order.runbook}: {amount:,.0f} USD from {order.source} over {order.route}")
        return None, arrives

    # -- what the venue reports --------------------------------------------------------------------------------------------------
    def parameters(self) -> list[Row]:
        """Rows of what does not change by itself: margin fractions, fees, routes and their terms."""
        rows = []
        for account in self.accounts.values():
            spec = account.spec
            for symbol, rules in spec.markets.items():
                held = account.by_market.get(f"{spec.venue}:{symbol}")
                values = {"imf": rules.initial_margin, "mmf": rules.maintenance_margin if held is None else account.fraction(held)}
                rows.append(_fact(Kind.MARKET, f"{spec.venue}:{symbol}", values))
            costs = {"taker_fee": spec.taker_fee, "fixed_slippage": 0.0, "liquidation_fee": spec.liquidation_fee}
            rows.append(_fact(Kind.VENUE, spec.venue, costs))
            rows.append(_fact(Kind.ACCOUNT, spec.id, {"external_change": 0.0, "open_orders": 0.0}))
        return rows

    def report(self, everything: bool = False) -> list[Row]:
        """Rows of what changed since the last call, or of everything that is ours."""
        rows = []
        for name, account in self.accounts.items():
            if everything or name in self._dirty_accounts:
                rows.append(_fact(Kind.ACCOUNT, name, {"collateral": account.collateral, "open_orders": 0.0}))
            for holding in account.held:
                if everything or not holding.told:
                    values = {"size": float(holding.size), "entry_price": holding.entry, "accrued_funding": 0.0}
                    rows.append(_fact(Kind.POSITION, f"{name}:{holding.symbol}", values))
                    holding.told = True
        if everything or self._dirty_buffers:
            rows += [_fact(Kind.CHAIN, chain, {"buffer_balance": amount}) for chain, amount in sorted(self.buffers.items())]
            for route in sorted(self.routes):
                moving = sum(transfer.amount for transfer in self.transfers if transfer.route == route)
                rows.append(_fact(Kind.ROUTE, route, {"in_flight": moving}))
        self._dirty_accounts.clear()
        self._dirty_buffers = False
        return rows

    def report_of(self, account: str, market: str = "") -> list[Row]:
        """What is read back after a write: the account, the position, the buffers, changed or not."""
        if account in self.accounts:
            self._dirty_accounts.add(account)
        self._dirty_buffers = True
        found = self.accounts.get(account)
        if found is not None and market in found.by_market:
            found.by_market[market].told = False
        return self.report()

    def cash_changed(self) -> None:
        """Says that every account was paid funding, for the next report."""
        self._dirty_accounts.update(self.accounts)

    def take_retold(self) -> list[str]:
        """The accounts whose collateral to come is no longer what was told ahead."""
        found, self._retold = sorted(self._retold), set()
        return found

    def collateral_ahead(self, account: str) -> tuple[Ints, Floats]:
        """(times, collateral) of the settlements still to come."""
        found = self.accounts[account]
        return self.path.funding_at[found.hour :], found.cash_ahead()[1:]

    # -- how it ended ------------------------------------------------------------------------------------------------------------
    def worth(self) -> float:
        """Equity, buffers and money on its way, USD, stuck money included."""
        total = sum(self.buffers.values()) + sum(transfer.amount for transfer in self.transfers)
        return total + sum(account.equity() for account in self.accounts.values())

    def _lost(self) -> float:
        """Money that is on its way and never arrives, USD."""
        return sum(transfer.amount for transfer in self.transfers if transfer.arrives_at == FOREVER)

    def ratio(self) -> Floats:
        """The worst margin ratio of any account at each row: float64[rows]."""
        found = None
        for account in self.accounts.values():
            found = account.ratio if found is None else np.maximum(found, account.ratio)
        assert found is not None, "a book has an account"
        return found

    def first_liquidation_row(self) -> int:
        """The row of the first liquidation; the number of rows when there was none."""
        if self.counts.liquidated_at == FOREVER:
            return len(self.path.at)
        return self.row_at(self.start + self.counts.liquidated_at)

    def side(self) -> Side:
        """The figures of this side, at the horizon."""
        ratio = self.ratio()
        warned = ratio >= WARNED_RATIO
        first = int(np.argmax(warned)) if len(warned) else 0
        horizon = int(self.path.at[-1])
        counts = self.counts
        return Side(
            liquidated_at=counts.liquidated_at, first_account=counts.first_account, liquidations=counts.liquidations,
            pnl_usd=self.worth() - self._lost() - self._started_with, margin_ratio_max=float(ratio.max()),
            worst_equity_usd=min(float(account.equity_track.min()) for account in self.accounts.values()),
            fees_usd=counts.fees_usd, slippage_usd=counts.slippage_usd,
            funding_usd=sum(account.funding_usd for account in self.accounts.values()), liquidation_usd=counts.liquidation_usd,
            transfer_fees_usd=counts.transfer_fees_usd,
            stuck_usd=sum(transfer.amount for transfer in self.transfers if transfer.arrives_at > horizon),
            turnover_usd=counts.turnover_usd, in_80_at=int(self.path.at[first]) - self.start if bool(warned[first]) else FOREVER,
            needed_usd=0.0, runs=counts.runs,
        )  # fmt: skip


def _weighed(weights: Floats, rows: Floats) -> Floats:
    """Sum of weight x row, one row after the other: the same bits on every machine, whatever library multiplies matrices there."""
    total: Floats = weights[0] * rows[0]
    for weight, row in zip(weights[1:].tolist(), rows[1:], strict=True):
        total += weight * row
    return total


def needed_usd(ledger: Ledger) -> dict[str, float]:
    """By account: cash that would have kept maintenance margin below equity wherever the venue liquidates, as the book stood at the start.

    Asked before the ledger moves.
    """
    found = {}
    for name, account in ledger.accounts.items():
        lacking = (account.ahead.maintenance - account.ahead.equity)[account.open_rows[account.ahead.first : account.ahead.end]]
        found[name] = max(0.0, float(lacking.max())) if len(lacking) else 0.0
    return found


def _all_but_dust(size: float, part: float, price: float) -> float:
    """`part` (>= 0) of a position, signed as it is; all of it where less than a cent would stay."""
    return size if (abs(size) - part) * price < DUST_USD else math.copysign(part, size)


def _fact(kind: Kind, entity: str, values: Mapping[str, float]) -> Row:
    return Row(kind=kind, entity=entity, values=values, event_ts=FOREVER)


def _closed_intervals(path: Path, kind: Kind, signal: str) -> dict[str, tuple[tuple[int, int], ...]]:
    """By entity: when a flag of a path's facts is down; a route takes and delivers nothing, a venue lets no collateral out."""
    found: dict[str, list[tuple[int, int]]] = {}
    since: dict[str, int] = {}
    for fact in path.facts:
        if fact.kind is kind and signal in fact.values:
            if not fact.values[signal]:
                since.setdefault(fact.entity, fact.at)
            elif fact.entity in since:
                found.setdefault(fact.entity, []).append((since.pop(fact.entity), fact.at))
    for route, at in since.items():
        found.setdefault(route, []).append((at, FOREVER))
    return {route: tuple(intervals) for route, intervals in found.items()}


def _arrival(at: int, delay_s: float, closed: Sequence[tuple[int, int]]) -> int:
    """When a transfer that takes `delay_s` of open route arrives; FOREVER when it does not."""
    if not math.isfinite(delay_s):
        return FOREVER
    left, now = int(delay_s * NS), at
    for since, until in closed:
        if until <= now:
            continue
        if since - now >= left:
            break
        left -= max(0, since - now)
        if until == FOREVER:
            return FOREVER
        now = until
    return now + left
