"""What an adapter would read of a simulated world, and when (floor 5): the rows and failures of each second, without a network.

    observer = Observer(world, accounts)
    observer.history()          # once, before the first poll
    rows, failures = observer.poll()

Cadences, names, times and digits are the live adapter's (`edges/dydx/feed.py`, `edges/bridge.py`): books and markets carry the time of
the last block, settlements and bars their own, so that a halted chain makes everything age. A test polls both and compares.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from daemon.engine.events import Row
from daemon.simulation.chain import chain_status, proposal_statuses
from daemon.simulation.markets import MarketState
from daemon.simulation.paths import Bar, Level
from daemon.simulation.world import World
from daemon.units import DAY_NS, FOREVER, HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Account, Kind
from daemon.world.readings import DEPTH_SHARE, VOTING, book_values, is_up, proposal_values

FUNDING_HISTORY_NS = 8 * DAY_NS
CANDLE_HISTORY_NS = 25 * HOUR_NS
RATE_WINDOW_S = 10  # the venue counts requests in windows of ten seconds
SLIPPAGE = 0.0005  # assumed where no book is known: the settings' default
USDC_DIGITS = 6
PRICE_DIGITS = 12  # more than any tick has: rounds away what binary floats add to a multiple of it
NEAR = 2 * DEPTH_SHARE  # from the best price: mid is no further from it than half of a spread that still has depth
CANDLE_GROUP, CANDLES_FACTOR = "candles", 10  # candles have ten times the limit of every other group


@dataclass(frozen=True, slots=True, kw_only=True)
class _Poll:
    """One thing that is asked for; `requests` are the venue's rate limit groups that it takes one request of."""

    source: str
    every_s: int
    read: Callable[[], list[Row]]
    requests: tuple[str, ...] = ()


@dataclass(slots=True)
class Observer:
    """Eyes on one world. `accounts` are ours, at the world's venue."""

    world: World
    accounts: Sequence[Account]
    _polls: tuple[_Poll, ...] = field(init=False)
    _height: int | None = None
    _held: dict[str, set[str]] = field(default_factory=dict)  # account -> markets it was ever seen to hold
    _windows: dict[str, tuple[int, int]] = field(default_factory=dict)  # group -> (first second of its window, requests in it)
    _volumes: dict[str, tuple[int, float]] = field(default_factory=dict)  # market -> (its newest whole minute, volume of a day)

    def __post_init__(self) -> None:
        venue = self.venue
        polls = [
            _Poll(source=f"{venue}.height", every_s=1, read=self._height_rows, requests=("get",)),
            _Poll(source=f"{venue}.parameters", every_s=60, read=self._parameter_rows),
            _Poll(source=f"{venue}.markets", every_s=2, read=self._market_rows, requests=("get",)),
        ]
        for symbol, state in self.world.markets.items():
            polls += [
                _Poll(source=f"{venue}.book:{symbol}", every_s=2, read=_bound(self._book_rows, state), requests=("get",)),
                _Poll(source=f"{venue}.funding:{symbol}", every_s=30, read=_bound(self._funding_rows, state), requests=("funding",)),
                _Poll(source=f"{venue}.candles:{symbol}", every_s=15, read=_bound(self._candle_rows, state), requests=(CANDLE_GROUP,)),
            ]
        for account in self.accounts:
            read = _of_account(self._account_rows, account)
            polls.append(_Poll(source=f"{venue}.account:{account.id}", every_s=3, read=read, requests=("get", "orders")))
        if self.world.scenario.chains:
            polls.append(_Poll(source="bridge.chains", every_s=5, read=self._chain_rows))
        if self.world.scenario.routes:
            polls.append(_Poll(source="bridge.routes", every_s=5, read=self._route_rows))
        polls.append(_Poll(source="bridge.venue", every_s=60, read=self._venue_rows))
        polls.append(_Poll(source="bridge.proposals", every_s=60, read=self._proposal_rows))
        self._polls = tuple(polls)

    @property
    def venue(self) -> str:
        """The venue's id."""
        return self.world.scenario.venue.name

    def poll(self) -> tuple[list[Row], list[tuple[str, str]]]:
        """The rows of every poll that is due at the world's second, and `(source, reason)` of those that failed."""
        second = self.world.second
        rows: list[Row] = []
        failures: list[tuple[str, str]] = []
        least_s = self.world.scenario.polls // NS
        if second % least_s:
            return rows, failures
        status = self.world.error_status()
        for poll in self._polls:
            if second % (-(-poll.every_s // least_s) * least_s):
                continue
            if status is not None and poll.source != f"{self.venue}.parameters":
                failures.append((poll.source, f"HTTP {status}: Internal Server Error"))
            elif any(self._over_limit(group) for group in poll.requests):
                failures.append((poll.source, "rate limited"))
            else:
                rows += poll.read()
        return rows, failures

    def history(self) -> list[Row]:
        """8 days of settlements and 25 h of minute closes of every market, oldest first."""
        now = self.world.now_ns
        rows: list[Row] = []
        for state in self.world.markets.values():
            settled = [s for s in state.settled if now - FUNDING_HISTORY_NS <= s.at <= now]
            rows += [self._row(state, {"funding_rate": s.rate}, s.at) for s in settled]
            ends = [(bar, (bar.minute + 1) * MINUTE_NS) for bar in state.bars]
            kept = [(bar, end) for bar, end in ends if end <= now and end - MINUTE_NS >= now - CANDLE_HISTORY_NS]
            rows += [self._row(state, {"last_price": _on_tick(state, bar)}, end) for bar, end in kept]
        return sorted(rows, key=lambda row: row.event_ts or 0)

    def _over_limit(self, group: str) -> bool:
        limit = self.world.requests_in_10s() * (CANDLES_FACTOR if group == CANDLE_GROUP else 1)
        start, used = self._windows.get(group, (self.world.second, 0))
        if self.world.second - start >= RATE_WINDOW_S:
            start, used = self.world.second, 0
        self._windows[group] = (start, used + 1)
        return used >= limit

    def _row(self, state: MarketState, values: dict[str, float], at: int) -> Row:
        return Row(kind=Kind.MARKET, entity=f"{self.venue}:{state.symbol}", values=values, event_ts=at)

    # --- the indexer ----------------------------------------------------------------------------------------------------------------

    def _height_rows(self) -> list[Row]:
        world, before = self.world, self._height
        age_ns = max(0, world.now_ns - world.block_at)
        advanced = before is None or world.height > before
        self._height = world.height
        up = is_up(age_ns=age_ns, advanced=advanced, seen_before=before is not None)
        return [Row(kind=Kind.VENUE, entity=self.venue, values={"block_age": age_ns / NS, "venue_up": float(up)})]

    def _parameter_rows(self) -> list[Row]:
        values = {
            "funding_interval": HOUR_NS / NS, "taker_fee": self.world.scenario.venue.taker_fee, "fixed_slippage": SLIPPAGE,
        }  # fmt: skip
        return [Row(kind=Kind.VENUE, entity=self.venue, values=values, event_ts=FOREVER)]

    def _market_rows(self) -> list[Row]:
        return [self._row(state, self._market_values(state), self.world.block_at) for state in self.world.markets.values()]

    def _market_values(self, state: MarketState) -> dict[str, float]:
        step = float(state.spec.step)
        # dYdX has no mark price; where a venue has one, margin uses it.
        mark = {"mark_price": state.mark} if self.world.scenario.venue.model == "hyperliquid" else {}
        return {
            **mark,
            "oracle_price": state.oracle,
            "predicted_funding_rate": round(state.next_rate, 12),
            "open_interest": float(state.spec.open_interest),
            "volume_24h": self._volume(state),
            "market_open": float(state.status == "ACTIVE"),
            "imf": state.initial_margin,
            "mmf": state.maintenance_margin,
            "step_size": step,
            "min_size": step,
            "tick_size": float(state.spec.tick),
        }

    def _volume(self, state: MarketState) -> float:
        """USD of the last 24 h: it changes with the newest whole minute only."""
        newest = state.bars[-1].minute if state.bars else -1
        known = self._volumes.get(state.symbol)
        if known is None or known[0] != newest:
            known = self._volumes[state.symbol] = (newest, round(state.day_ago()[1], 4))
        return known[1]

    def _book_rows(self, state: MarketState) -> list[Row]:
        bids, asks = (_near(side) for side in state.book())
        return [self._row(state, book_values(bids, asks), self.world.block_at)]

    def _funding_rows(self, state: MarketState) -> list[Row]:
        return [self._row(state, {"funding_rate": state.settled[-1].rate}, state.settled[-1].at)] if state.settled else []

    def _candle_rows(self, state: MarketState) -> list[Row]:
        bar = state.newest_bar
        return [self._row(state, {"last_price": _on_tick(state, bar)}, min((bar.minute + 1) * MINUTE_NS, self.world.block_at))]

    def _account_rows(self, account: Account) -> list[Row]:
        subaccount = self.world.exchange.subaccounts[(account.address, account.subaccount)]
        margins = self.world.exchange.margins(subaccount)
        at = self.world.block_at
        now_held = {market: held for market, held in subaccount.holdings.items() if held.size}
        before = self._held.get(account.id)
        gone = (set(self.world.markets) if before is None else before) - now_held.keys()
        self._held[account.id] = (before or set()) | now_held.keys()
        cost = math.fsum(float(held.size) * held.entry_price for held in now_held.values())
        values = {
            "collateral": round(subaccount.quote, USDC_DIGITS) + cost,
            "free_collateral_reported": round(margins.equity - margins.initial_published, USDC_DIGITS),
            "open_orders": float(sum(order.status == "OPEN" for order in subaccount.orders.values())),
        }
        rows = [Row(kind=Kind.ACCOUNT, entity=account.id, values=values, event_ts=at)]
        for market, held in sorted(now_held.items()):
            sized = {"size": float(held.size), "entry_price": held.entry_price}
            rows.append(Row(kind=Kind.POSITION, entity=f"{account.id}:{market}", values=sized, event_ts=at))
        rows += [Row(kind=Kind.POSITION, entity=f"{account.id}:{market}", values={"size": 0.0}, event_ts=at) for market in sorted(gone)]
        return rows

    # --- chains, routes, governance -------------------------------------------------------------------------------------------------

    def _chain_rows(self) -> list[Row]:
        world = self.world
        rows = []
        for name, spec in world.scenario.chains.items():
            status = chain_status(name, spec, world.shocks, world.start_s, world.second)
            values = {
                "block_age": max(0, world.now_ns - status.block_at // 1_000_000 * 1_000_000) / NS,  # the API tells milliseconds
                "finality_delay": status.finality_ns / NS,
                "gas_price": status.gas_price_gwei,
                "tx_cost": status.tx_cost_usd,
                "tx_per_block": status.tx_per_block,
            }
            if status.sequencer_up is not None:
                values["sequencer_up"] = float(status.sequencer_up)
            if name in world.bridges.buffers:
                values["buffer_balance"] = float(world.bridges.buffers[name])
            rows.append(Row(kind=Kind.CHAIN, entity=name, values=values))
        return rows

    def _route_rows(self) -> list[Row]:
        world, bridges = self.world, self.world.bridges
        rows = []
        for name, spec in world.scenario.routes.items():
            typical, slow = bridges.eta_ns(name, world.shocks, world.second)
            values = {
                "route_open": float(bridges.is_open(name, world.shocks, world.second)),
                "route_fee": spec.fee,
                "route_eta": typical / NS,
                "in_flight": float(bridges.in_flight(name)),
                "route_eta_slow": slow / NS,
                "route_capacity": float(bridges.capacity(name, world.shocks, world.second)),
            }
            rows.append(Row(kind=Kind.ROUTE, entity=name, values=values))
        return rows

    def _venue_rows(self) -> list[Row]:
        exchange = self.world.exchange
        values = {
            "insurance_fund": round(exchange.insurance_fund, USDC_DIGITS),
            "withdrawals_open": float(exchange.withdrawals_open() and not self.world.halted),
            "withdrawal_capacity": round(exchange.withdrawal_capacity(), USDC_DIGITS),
        }
        return [Row(kind=Kind.VENUE, entity=self.venue, values=values)]

    def _proposal_rows(self) -> list[Row]:
        world = self.world
        found = proposal_statuses(world.scenario.proposals, world.start_s, world.second)
        voting = [(p.spec.messages, (p.voting_end - world.now_ns) / NS) for p in found if p.status == VOTING]
        return [Row(kind=Kind.VENUE, entity=self.venue, values=proposal_values(voting))]


def _near(side: Sequence[Level]) -> list[tuple[float, float]]:
    """The levels of a side that can lie within 50 bps of mid, as floats."""
    if not side:
        return []
    best = float(side[0][0])
    low, high = best * (1.0 - NEAR), best * (1.0 + NEAR)
    found: list[tuple[float, float]] = []
    for price, size in side:
        level = float(price)
        if not low <= level <= high:
            break
        found.append((level, float(size)))
    return found


def _bound(read: Callable[[MarketState], list[Row]], state: MarketState) -> Callable[[], list[Row]]:
    return lambda: read(state)


def _of_account(read: Callable[[Account], list[Row]], account: Account) -> Callable[[], list[Row]]:
    return lambda: read(account)


def _on_tick(state: MarketState, bar: Bar) -> float:
    tick = float(state.spec.tick)
    return round(round(bar.close / tick) * tick, PRICE_DIGITS)
