"""The simulated account of a replay or a test (floor 5): positions, funding, fees, slippage, margin, liquidation, buffers on their way.

Equity = collateral + sum size x (P - entry price), where collateral already holds funding received, fees paid and profit realised.
It never looks ahead: the driver feeds each batch (`observe`, then `settle`), and asks `changes()` for what the venue would report.

    account = SimulatedAccount(spec, mark=marks(spec, bound_ns=bounds, interval_ns=intervals))
    account.begin(at); account.observe("dydx:HYPE-USD", {"oracle_price": 33.0}, at); account.settle(at)
    account.changes()       # rows of the simulated venue: collateral, size, entry price, buffers
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal

from daemon.engine.actions import MoveBuffer, Outcome, ShrinkPosition
from daemon.engine.events import Row
from daemon.simulation.marks import NAN, Mark
from daemon.units import FOREVER, NEVER, NS
from daemon.world.entities import Account, Kind, Route, Topology, Venue

ROUNDING = 1e-12  # relative: a price comes through one float product, a limit through a decimal one
RATIO_MAX = 1e6  # what a report prints for a margin ratio at or below zero equity: JSON has no infinity


@dataclass(frozen=True, slots=True, kw_only=True)
class OpeningPosition:
    """A position the account starts with: `size` base units, + long, - short; entry price in USD."""

    market: str  # symbol, HYPE-USD
    size: Decimal
    entry_price: float


@dataclass(frozen=True, slots=True, kw_only=True)
class MarketRules:
    """What the venue asks for one market: margins as ratios of value; `step` None: any size fills."""

    initial_margin: float | None = None
    maintenance_margin: float | None = None
    step: Decimal | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AccountSpec:
    """A simulated account as written in ACCOUNT.yaml, checked; ratios are fractions, money is USD, times ns."""

    venue: str
    model: str = "dydx-v4"
    collateral_usd: float
    positions: tuple[OpeningPosition, ...] = ()
    markets: Mapping[str, MarketRules] = field(default_factory=dict)  # by symbol
    valued_at: tuple[str, ...] = ("oracle_price", "mark_price", "last_price")
    buffers: Mapping[str, float] = field(default_factory=dict)  # chain -> USD
    routes: tuple[Route, ...] = ()
    taker_fee: float = 0.0
    slippage: float = 0.0
    liquidation_fee: float = 0.015
    latency_ns: int = 0
    labels: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    sample: str = ""  # in | out; empty: not said
    account: str = ""  # entity id; empty: the venue's name

    @property
    def account_id(self) -> str:
        """The entity id of the account."""
        return self.account or self.venue

    def market_id(self, symbol: str) -> str:
        """The entity id of one of the account's markets."""
        return f"{self.venue}:{symbol}"

    def topology(self, venues: Mapping[str, Venue]) -> Topology:
        """The world of a replay: the venues its recording has seen, and this account at its own."""
        own = venues.get(self.venue) or Venue(id=self.venue)
        mine = Venue(
            id=self.venue, chain=own.chain, model=self.model, valued_at=self.valued_at,
            funding_interval_ns=own.funding_interval_ns, provides=own.provides,
        )  # fmt: skip
        return Topology(
            venues={**venues, self.venue: mine},
            accounts={self.account_id: Account(id=self.account_id, venue=self.venue)},
            routes={route.name: route for route in self.routes},
            labels=self.labels,
        )


@dataclass(slots=True, kw_only=True)
class Totals:
    """What happened so far, USD; every cost >= 0; funding > 0 = received. pnl = direction + funding - fees - slippage - liquidation."""

    funding_usd: float = 0.0
    fees_usd: float = 0.0
    transfer_fees_usd: float = 0.0
    slippage_usd: float = 0.0
    liquidation_usd: float = 0.0
    turnover_usd: float = 0.0
    liquidations: int = 0
    margin_ratio_max: float = 0.0
    funding_unknown_hours: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Transfer:
    """Money on its way: `amount` arrives net of the fee."""

    action_id: str
    route: str
    destination: str
    amount: float
    arrives_at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Liquidated:
    """One position the venue closed."""

    at: int
    market: str
    size: float
    price: float
    cost_usd: float


@dataclass(slots=True, kw_only=True)
class Holding:
    """One market the account holds or held."""

    symbol: str
    mark: Mark
    size: Decimal
    units: float  # float(size), the one that is multiplied
    entry: float
    rules: MarketRules
    maintenance: float
    price: float = NAN
    dirty: bool = True
    changed_at: list[int] = field(default_factory=list)  # when it was resized, ascending
    units_before: list[float] = field(default_factory=list)  # and what it held before each

    def units_at(self, boundary: int) -> float:
        """Base units held as the boundary came, whatever was sold at it or since."""
        index = bisect_left(self.changed_at, boundary)
        return self.units_before[index] if index < len(self.units_before) else self.units


def marks(
    spec: AccountSpec, *, bound_ns: Callable[[str, str], int], interval_ns: Callable[[str], int]
) -> Callable[[str], Mark]:
    """Makes marks: `bound_ns(market, signal)` is how long a reading stays fresh, `interval_ns(market)` the venue's funding interval."""

    def make(market: str) -> Mark:
        def bound(signal: str) -> int:
            return bound_ns(market, signal)

        return Mark(market, valued_at=spec.valued_at, bound_ns=bound, interval_ns=interval_ns(market))

    return make


class SimulatedAccount:
    """An account that fills, pays, is margined and is liquidated as the signal catalogue's last section has it.

    `mark(market)` makes the cells of one market.
    """

    def __init__(self, spec: AccountSpec, *, mark: Callable[[str], Mark]) -> None:
        self.spec = spec
        self.totals = Totals()
        self.collateral = spec.collateral_usd
        self.buffers = dict(spec.buffers)
        self.transfers: list[Transfer] = []
        self.liquidated: list[Liquidated] = []
        self.opening_equity = NAN  # at the first batch where every position is valued
        self.closing_equity = NAN  # at the last such batch; both include buffers and money on its way
        self.valued_from = self.valued_to = NEVER  # when those two were
        self.series: list[tuple[int, float, float]] | None = None  # (at, equity USD, margin ratio) of each batch, when a list is put here
        self._routes = {route.name: route for route in spec.routes}
        self._holdings: dict[str, Holding] = {}
        for position in spec.positions:
            market = spec.market_id(position.market)
            rules = spec.markets.get(position.market, MarketRules())
            self._holdings[market] = Holding(
                symbol=position.market, mark=mark(market), size=position.size, units=float(position.size), entry=position.entry_price,
                rules=rules, maintenance=NAN if rules.maintenance_margin is None else rules.maintenance_margin,
            )  # fmt: skip
        self._held = list(self._holdings.values())
        self._touched: list[Holding] = []
        self._until = NEVER
        self._cash_dirty = True
        self._buffers_dirty = True
        self._opened = False

    # -- one batch -----------------------------------------------------------------------------------------------------------

    def begin(self, at: int) -> None:
        """Starts the account at the first instant it lives through; funding is due from here on."""
        for holding in self._held:
            holding.mark.begin(at)

    def observe(self, market: str, values: Mapping[str, float], event_ts: int) -> bool:
        """Takes one market row of the batch in hand; False when the account does not hold that market."""
        holding = self._holdings.get(market)
        if holding is None:
            return False
        holding.mark.take(values, event_ts)
        self._touched.append(holding)
        return True

    def settle(self, at: int) -> None:
        """Ends a batch: values positions, pays funding, tests for liquidation (a bar's adverse extreme first)."""
        if not self._touched and at <= self._until:
            return
        self._revalue(at)
        valued = all(holding.price == holding.price for holding in self._held)
        existed = self._opened
        if valued and not self._opened:
            self.opening_equity = self.worth()
            self.valued_from = at
            self._opened = True
        self._pay_funding(valued)
        if valued:
            # A bar that closes as the account begins describes a time before it: its extremes are not the account's.
            if existed and any(holding.mark.closes_bar for holding in self._held):
                self._test_liquidation(at, extremes=True)
            self._test_liquidation(at, extremes=False)
            self.totals.margin_ratio_max = max(self.totals.margin_ratio_max, min(self.margin_ratio(), RATIO_MAX))
            self.valued_to = at
        self._close()
        if self.series is not None:
            self.series.append((at, self.equity(), self.margin_ratio()))
        for holding in self._touched:
            holding.mark.clear_batch()
        self._touched.clear()

    def end(self, at: int) -> None:
        """Closes the books at the last instant: boundaries that nobody settled are counted as unknown."""
        for holding in self._held:
            holding.mark.give_up(at)
        self._pay_funding(True)
        for holding in self._held:
            holding.mark.clear_batch()
        self._close()

    def value(self, at: int) -> None:
        """Values the positions at `at` and does nothing else: for a venue that neither pays funding nor liquidates."""
        self._revalue(at)
        for holding in self._touched:
            holding.mark.clear_batch()
        self._touched.clear()

    def _close(self) -> None:
        if self._opened and all(holding.price == holding.price for holding in self._held):
            self.closing_equity = self.worth()

    def _revalue(self, at: int) -> None:
        until = FOREVER
        for holding in self._held:
            holding.price = holding.mark.price_at(at)
            until = min(until, holding.mark.until)
        self._until = until

    def _pay_funding(self, valued: bool) -> None:
        for holding in self._held:
            for due in holding.mark.dues:
                if due.rate is None or not valued:
                    # One that never comes is noticed much later: what counts is whether anything was held as the boundary came.
                    if holding.units_at(due.boundary):
                        self.totals.funding_unknown_hours += due.hours
                    continue
                # One that comes is paid on the value at its observation, before anything that it triggers.
                if not holding.units:
                    continue
                received = -holding.units * holding.price * due.rate * due.hours
                self._changed()
                self.collateral += received
                self.totals.funding_usd += received
                self._cash_dirty = True

    # -- margin --------------------------------------------------------------------------------------------------------------

    def equity(self) -> float:
        """Collateral and unrealised profit, USD; NaN when a position has no price."""
        total = self.collateral
        for holding in self._held:
            if holding.units:
                total += holding.units * (holding.price - holding.entry)
        return total

    def maintenance_margin(self) -> float:
        """Sum of |size| x P x maintenance fraction, USD, >= 0; NaN when a price or a fraction is unknown."""
        total = 0.0
        for holding in self._held:
            if holding.units:
                total += abs(holding.units) * holding.price * holding.maintenance
        return total

    def initial_margin(self) -> float:
        """Sum of |size| x P x initial fraction, USD, >= 0; NaN when a price or a fraction is unknown."""
        total = 0.0
        for holding in self._held:
            if holding.units:
                fraction = holding.rules.initial_margin
                total += abs(holding.units) * holding.price * (NAN if fraction is None else fraction)
        return total

    def margin_ratio(self) -> float:
        """Maintenance margin over equity, 1 = liquidation; 0 without positions, infinite at zero equity or below, NaN unknown."""
        if not any(holding.units for holding in self._held):
            return 0.0
        equity, maintenance = self.equity(), self.maintenance_margin()
        if equity <= 0.0:
            return math.inf
        return maintenance / equity

    @property
    def margins_known(self) -> bool:
        """True when the maintenance fraction of every market it started with is given."""
        return all(holding.maintenance == holding.maintenance for holding in self._held)

    def worth(self) -> float:
        """Equity, buffers and money on its way, USD: what a transfer between them leaves as it was, but for its fee."""
        return self.equity() + sum(self.buffers.values()) + sum(transfer.amount for transfer in self.transfers)

    def _test_liquidation(self, at: int, *, extremes: bool) -> None:
        prices = [self._adverse(holding) if extremes else holding.price for holding in self._held]
        if extremes and all(price == holding.price for price, holding in zip(prices, self._held, strict=True)):
            return
        equity, maintenance = self.collateral, 0.0
        for holding, price in zip(self._held, prices, strict=True):
            if holding.units:
                equity += holding.units * (price - holding.entry)
                maintenance += abs(holding.units) * price * holding.maintenance
        if not maintenance > equity or maintenance == 0.0:
            return
        self.totals.margin_ratio_max = max(self.totals.margin_ratio_max, min(maintenance / equity, RATIO_MAX) if equity > 0 else RATIO_MAX)
        for holding, price in zip(self._held, prices, strict=True):
            if holding.units:
                self._liquidate(holding, price, at)

    @staticmethod
    def _adverse(holding: Holding) -> float:
        """The worse of the batch's price and its bar's extreme on the position's losing side."""
        extreme = holding.mark.low if holding.units > 0 else holding.mark.high
        if extreme != extreme or extreme <= 0.0:
            return holding.price
        return min(extreme, holding.price) if holding.units > 0 else max(extreme, holding.price)

    def _liquidate(self, holding: Holding, price: float, at: int) -> None:
        units = holding.units
        fee = abs(units) * price * self.spec.liquidation_fee
        cost = fee + units * (holding.price - price)
        self.collateral += units * (price - holding.entry) - fee
        self.totals.liquidation_usd += cost
        self.totals.liquidations += 1
        self.liquidated.append(Liquidated(at=at, market=holding.mark.market, size=units, price=price, cost_usd=cost))
        self._resize(holding, Decimal(0), at)

    def _changed(self) -> None:
        """Called when what the account owns has changed: whatever was worked out ahead no longer holds."""

    def _resize(self, holding: Holding, size: Decimal, at: int) -> None:
        self._changed()
        holding.changed_at.append(at)
        holding.units_before.append(holding.units)
        self._put(holding, size)

    def _put(self, holding: Holding, size: Decimal) -> None:
        holding.size = size
        holding.units = float(size)
        holding.dirty = True
        self._cash_dirty = True

    # -- what the runbooks ask for -------------------------------------------------------------------------------------------

    def size(self, market: str) -> Decimal:
        """Base units held now, + long, - short; 0 when none."""
        holding = self._holdings.get(market)
        return holding.size if holding else Decimal(0)

    def put_size(self, market: str, size: Decimal) -> None:
        """Sets a size that somebody else changed; the profit of that change is not ours to know."""
        holding = self._holdings.get(market)
        if holding is not None and holding.size != size:
            self._changed()
            self._put(holding, size)

    def put_collateral(self, amount: float) -> None:
        """Sets the collateral that somebody else changed, USD."""
        self.collateral = amount
        self._cash_dirty = True

    def put_buffer(self, chain: str, amount: float) -> None:
        """Sets a buffer that somebody else changed, USD."""
        self.buffers[chain] = amount
        self._buffers_dirty = True

    def fill(self, order: ShrinkPosition, at: int) -> Outcome:
        """Fills a reduce-only order against what is known at `at`: done (in full or in part), or failed with why. It never flips."""
        holding = self._holdings.get(order.market)
        if holding is None or not holding.size:
            return Outcome(status="rejected", reason="reduce_only: there is no position")
        if (order.side == "SELL") != (holding.size > 0):
            return Outcome(status="rejected", reason="reduce_only: the order would add to the position")
        price = holding.mark.fill_price(order.side, at, self.spec.slippage)
        if price != price:
            return Outcome(status="failed", reason="no_price")
        limit = float(order.limit_price)
        slack = limit * ROUNDING  # a fill exactly at the bound is no worse than it, whatever the last digit says
        if limit > 0.0 and (price < limit - slack if order.side == "SELL" else price > limit + slack):
            return Outcome(status="failed", reason="no_fill")
        size = min(order.size, abs(holding.size))
        if holding.rules.step and size != abs(holding.size):
            size -= size % holding.rules.step
        if size <= 0:
            return Outcome(status="rejected", reason="below_minimum")
        return self._book_fill(holding, order.side == "SELL", size, price, at)

    def _book_fill(self, holding: Holding, selling: bool, size: Decimal, price: float, at: int) -> Outcome:
        units = float(size) if selling else -float(size)  # what leaves the position, signed as the position
        value = holding.mark.price_at(at)
        fee = abs(units) * price * self.spec.taker_fee
        gain = units * (price - holding.entry)
        self.collateral += (gain if gain == gain else 0.0) - fee
        self.totals.fees_usd += fee
        self.totals.turnover_usd += abs(units) * price
        if value == value:
            self.totals.slippage_usd += units * (value - price)
        self._resize(holding, holding.size - size if selling else holding.size + size, at)
        self._close()
        return Outcome(
            status="done", filled_size=size, fill_price=Decimal(repr(price)), amount=Decimal(repr(abs(units) * price)),
            fee_usd=Decimal(repr(fee)), reference=f"fill@{at}",
        )  # fmt: skip

    def move(self, order: MoveBuffer, at: int) -> Outcome:
        """Accepts a transfer and debits it at once; it is credited, less its fee, when the route's eta has passed."""
        route = self._routes.get(order.route)
        if route is None:
            return Outcome(status="rejected", reason=f"there is no route {order.route!r}")
        amount = float(order.amount)
        fee = amount * route.fee
        if fee > float(order.max_fee):
            return Outcome(status="rejected", reason=f"the fee of {fee:.2f} USD is above max_fee")
        if amount <= 0.0 or amount > route.capacity_usd:
            return Outcome(status="rejected", reason="the amount is zero or above the route's capacity")
        if not self._debit(order.source, amount):
            return Outcome(status="rejected", reason=f"less than {amount:.2f} USD is free at {order.source!r}")
        self.totals.transfer_fees_usd += fee
        self._buffers_dirty = True
        self.transfers.append(
            Transfer(
                action_id=order.action_id, route=route.name, destination=order.destination, amount=amount - fee,
                arrives_at=at + route.eta_ns,
            )
        )  # fmt: skip
        self._close()
        return Outcome(status="done", amount=order.amount, fee_usd=Decimal(repr(fee)), reference=f"transfer@{at}")

    def _debit(self, source: str, amount: float) -> bool:
        if source == self.spec.account_id:
            # A withdrawal must leave the initial margin behind: the chain refuses it otherwise.
            if not self.equity() - amount >= self.initial_margin():
                return False
            self._changed()
            self.collateral -= amount
            self._cash_dirty = True
            return True
        if self.buffers.get(source, 0.0) < amount:
            return False
        self.buffers[source] -= amount
        self._buffers_dirty = True
        return True

    def next_arrival(self) -> int:
        """When the next transfer is credited; FOREVER when none is on its way."""
        return min((transfer.arrives_at for transfer in self.transfers), default=FOREVER)

    def credit(self, at: int) -> None:
        """Credits every transfer that has arrived by `at`."""
        arrived = [transfer for transfer in self.transfers if transfer.arrives_at <= at]
        for transfer in arrived:
            self.transfers.remove(transfer)
            if transfer.destination == self.spec.account_id:
                self._changed()
                self.collateral += transfer.amount
                self._cash_dirty = True
            else:
                self.buffers[transfer.destination] = self.buffers.get(transfer.destination, 0.0) + transfer.amount
            self._buffers_dirty = True

    # -- what the venue reports ----------------------------------------------------------------------------------------------

    def report(self, market: str = "") -> tuple[Row, ...]:
        """Rows of the account and of one of its positions whether they changed or not: what is read back after a write."""
        self._cash_dirty = True
        self._buffers_dirty = self._buffers_dirty or bool(self.buffers or self._routes)
        if market in self._holdings:
            self._holdings[market].dirty = True
        return self.changes()

    def changes(self) -> tuple[Row, ...]:
        """Rows of everything that changed since the last call, always fresh: a simulated account knows itself."""
        rows: list[Row] = []
        if self._cash_dirty:
            cash = {} if self.collateral != self.collateral else {"collateral": self.collateral}
            rows.append(_fact(Kind.ACCOUNT, self.spec.account_id, {**cash, "open_orders": 0.0}))
        for holding in self._held:
            if holding.dirty:
                entry = {} if holding.entry != holding.entry else {"entry_price": holding.entry}
                values = {"size": holding.units, **entry, "accrued_funding": 0.0}
                rows.append(_fact(Kind.POSITION, f"{self.spec.account_id}:{holding.symbol}", values))
                holding.dirty = False
        if self._buffers_dirty:
            rows.extend(self._buffer_rows())
        self._cash_dirty = self._buffers_dirty = False
        return tuple(rows)

    def _buffer_rows(self) -> list[Row]:
        rows = [_fact(Kind.CHAIN, chain, {"buffer_balance": amount}) for chain, amount in sorted(self.buffers.items())]
        for name in sorted(self._routes):
            moving = sum(transfer.amount for transfer in self.transfers if transfer.route == name)
            rows.append(_fact(Kind.ROUTE, name, {"in_flight": moving}))
        return rows

    def parameters(self) -> tuple[Row, ...]:
        """Rows of what never changes: margin fractions of the markets held, the costs assumed, routes open with their fee and time."""
        rows: list[Row] = []
        for holding in self._held:
            values: dict[str, float] = {}
            if holding.rules.initial_margin is not None:
                values["imf"] = holding.rules.initial_margin
            if holding.rules.maintenance_margin is not None:
                values["mmf"] = holding.rules.maintenance_margin
            if values:
                rows.append(_fact(Kind.MARKET, holding.mark.market, values))
        for route in self.spec.routes:
            slow = 2 * route.eta_ns if route.eta_p95_ns is None else route.eta_p95_ns
            terms = {"route_open": 1.0, "route_fee": route.fee, "route_eta": route.eta_ns / NS, "route_eta_slow": slow / NS}
            rows.append(_fact(Kind.ROUTE, route.name, terms))
        costs = {"taker_fee": self.spec.taker_fee, "fixed_slippage": self.spec.slippage, "liquidation_fee": self.spec.liquidation_fee}
        rows.append(_fact(Kind.VENUE, self.spec.venue, costs))
        rows.append(_fact(Kind.ACCOUNT, self.spec.account_id, {"external_change": 0.0}))
        return tuple(rows)

    def pnl_usd(self) -> float:
        """Worth at the last minus at the first batch where every position was valued; 0 when there was none."""
        pnl = self.closing_equity - self.opening_equity
        return pnl if pnl == pnl else 0.0


def _fact(kind: Kind, entity: str, values: Mapping[str, float]) -> Row:
    return Row(kind=kind, entity=entity, values=values, event_ts=FOREVER)

