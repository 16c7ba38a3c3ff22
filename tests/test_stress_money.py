"""Money in stress: nothing appears and nothing is lost, whatever is ordered on whatever path; accounts against a loop over their rows."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from decimal import Decimal

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.simulation.book import Book, BookAccount, BookMarket, BookPosition, BookRoute
from daemon.simulation.stress.ledger import Costs, Ledger, _Account, _Holding
from daemon.simulation.stress.path import Path
from daemon.simulation.stress.surroundings import Adl, Fact
from daemon.units import FOREVER, NS
from daemon.world import hyperliquid, margin
from daemon.world.entities import Kind
from tests.stress_world import START

MINUTE, HOUR = 60 * NS, 3600 * NS
PRICES = {"dydx:BTC-USD": 100_000.0, "dydx:SOL-USD": 200.0, "hl:BTC-USD": 100_000.0, "hl:DOGE-USD": 0.25}
MARKETS = tuple(PRICES)
TIERS = {"BTC-USD": ((0.0, 40.0), (60_000.0, 20.0)), "DOGE-USD": ((0.0, 10.0), (20_000.0, 5.0))}
FRACTIONS = {"BTC-USD": (0.02, 0.012), "SOL-USD": (0.05, 0.03)}
ROUTES = (
    BookRoute(name="in", source="ethereum", destination="dydx", eta_ns=MINUTE, p95_ns=MINUTE, fee=0.001, capacity_usd=50_000.0),
    BookRoute(name="over", source="arbitrum", destination="hl", eta_ns=MINUTE, p95_ns=MINUTE, fee=0.0),
    BookRoute(name="out", source="dydx", destination="ethereum", eta_ns=MINUTE, p95_ns=MINUTE, fee=0.0005),
    BookRoute(name="shut", source="ethereum", destination="dydx", eta_ns=MINUTE, p95_ns=MINUTE),
    BookRoute(name="lost", source="ethereum", destination="dydx", eta_ns=MINUTE, p95_ns=MINUTE, fee=0.01),
)


class Delays:
    """Half a minute and more for each transfer than for the one before; what goes over `lost` never arrives."""

    def delay_s(self, draws: object, route: str, k: int, *moment: object) -> float:
        return math.inf if route == "lost" else 31.0 + 47.0 * k


def book_of(sizes: dict[str, float], collateral: tuple[float, float]) -> Book:
    accounts = []
    for (name, model), cash in zip((("dydx", "dydx-v4"), ("hl", "hyperliquid")), collateral, strict=True):
        symbols = [market.partition(":")[2] for market in MARKETS if market.startswith(name)]
        markets = {}
        for symbol in symbols:
            tiers = TIERS[symbol] if model == "hyperliquid" else ()
            initial, maintenance = (1.0 / tiers[0][1], 0.5 / tiers[0][1]) if tiers else FRACTIONS[symbol]
            markets[symbol] = BookMarket(
                price=PRICES[f"{name}:{symbol}"], initial_margin=initial, maintenance_margin=maintenance, tiers=tiers,
                step=Decimal("0.0001") if symbol == "BTC-USD" else None,
            )  # fmt: skip
        held = [(symbol, sizes[f"{name}:{symbol}"]) for symbol in symbols if sizes[f"{name}:{symbol}"]]
        positions = tuple(
            BookPosition(market=symbol, size=Decimal(repr(size)), entry_price=PRICES[f"{name}:{symbol}"] * 1.01) for symbol, size in held
        )
        accounts.append(
            BookAccount(
                id=name, venue=name, model=model, collateral_usd=cash, positions=positions, markets=markets, taker_fee=0.0005,  # type: ignore[arg-type]
                liquidation_fee=0.01 if model == "dydx-v4" else 0.0,
            )
        )  # fmt: skip
    return Book(name="b", accounts=tuple(accounts), buffers={"ethereum": 60_000.0, "arbitrum": 20_000.0}, routes=ROUTES)


def path_of(seed: int, *, rows: int, volatility: float, depth: float = 3e5, halted: bool = False, adl: bool = False) -> Path:
    """Random walks with jumps, an oracle that lags, settlements every hour."""
    rng = np.random.Generator(np.random.Philox(seed))
    at = START + MINUTE * np.arange(1, rows + 1, dtype=np.int64)
    steps = rng.standard_normal((len(MARKETS), rows)) * volatility
    steps += (rng.random((len(MARKETS), rows)) < 0.01) * rng.standard_normal((len(MARKETS), rows)) * 0.03
    mid = np.array(list(PRICES.values()))[:, None] * np.exp(np.cumsum(steps, axis=1))
    oracle = mid * np.exp(rng.standard_normal(mid.shape) * 0.0005)
    hours = at[at % HOUR == 0]
    said = {
        "number": seed, "at": at, "mid": mid, "oracle": oracle, "index": mid, "spread": np.full_like(mid, 4e-4),
        "depth": depth * (0.5 + rng.random(mid.shape)), "funding": rng.standard_normal((len(MARKETS), len(hours))) * 1e-3,
        "funding_at": hours, "halted": (("dydx", int(at[rows // 3]) - 7, int(at[rows // 2]) + 9),) if halted else (),
        "facts": (Fact(at=START + 40 * MINUTE, kind=Kind.ROUTE, entity="shut", values={"route_open": 0.0}),),
        "adl": tuple(Adl(START + (11 + 30 * k) * MINUTE + 5, MARKETS[k % len(MARKETS)], 0.4) for k in range(rows // 30 - 1)) if adl else (),
        "regime": np.zeros(rows, np.int8), "pushed": False, "surroundings": Delays(),
    }  # fmt: skip
    return Path(**{each.name: None for each in fields(Path)} | said)


def ledger_of(book: Book, path: Path) -> Ledger:
    return Ledger(book, path, start=START, costs=Costs(), index={market: m for m, market in enumerate(MARKETS)})


@dataclass(frozen=True)
class Wish:
    """Something ordered `after` ns: a sale or purchase of `amount` units, or a transfer of `amount` USD over `name`."""

    after: int
    name: str  # a market, or a route
    amount: float
    side: str = ""

    def shrink(self) -> ShrinkPosition:
        return ShrinkPosition(
            action_id=str(self.after), run_id="r", runbook="r", account=self.name.partition(":")[0], market=self.name,
            side=self.side, size=Decimal(repr(self.amount)), limit_price=Decimal("0" if self.side == "SELL" else "1e12"),  # type: ignore[arg-type]
            reference_price=1.0, notional_usd=1.0, expires_at=FOREVER,
        )  # fmt: skip

    def move(self) -> MoveBuffer:
        route = next((route for route in ROUTES if route.name == self.name), ROUTES[0])
        return MoveBuffer(
            action_id=str(self.after), run_id="r", runbook="r", source=route.source, destination=route.destination, route=self.name,
            amount=Decimal(repr(self.amount)), max_fee=Decimal(1000), expires_at=FOREVER,
        )  # fmt: skip


SIZES = {"dydx:BTC-USD": 1.0, "dydx:SOL-USD": 300.0, "hl:BTC-USD": 0.9, "hl:DOGE-USD": 90_000.0}
shares = st.floats(-1.0, 1.0).map(lambda share: round(share, 3))
books = st.builds(
    lambda a, b, c, d, cash, other: book_of(
        {market: round(share * SIZES[market], 4) for market, share in zip(MARKETS, (a, b, c, d), strict=True)}, (cash, other)
    ),
    shares, shares, shares, shares, st.floats(3_000, 30_000), st.floats(3_000, 30_000),
)  # fmt: skip
moments = st.integers(0, 150 * MINUTE)
wishes = st.lists(
    st.one_of(
        st.builds(
            lambda after, market, share, side: Wish(after, market, max(0.001, share * SIZES[market]), side),
            moments, st.sampled_from(MARKETS), st.floats(0.01, 1.5), st.sampled_from(["BUY", "SELL"]),
        ),
        st.builds(
            lambda after, route, usd: Wish(after, route, usd), moments, st.sampled_from(["in", "over", "out", "shut", "lost", "none"]),
            st.floats(1.0, 20_000.0),
        ),
    ),
    max_size=8,
)  # fmt: skip


class Bookkeeper:
    """What the ledger should come to, kept by a loop of its own: sizes are watched, everything else is worked out anew."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger, self.row = ledger, -1
        self.profit = self.funding = self.fees = self.slippage = self.transfer_fees = 0.0
        self.liquidation = 0.0
        self.sizes = self.now()

    def now(self) -> dict[str, float]:
        found = dict.fromkeys(MARKETS, 0.0)
        for account in self.ledger.accounts.values():
            for holding in account.held:
                found[holding.market] = float(holding.size)
        return found

    def price(self, market: str, row: int) -> float:
        return PRICES[market] if row < 0 else float(self.ledger.path.oracle[MARKETS.index(market), row])

    def paid_on(self, market: str, row: int) -> float:
        """What funding is paid on: dYdX's oracle price, the index on Hyperliquid."""
        path = self.ledger.path
        prices = path.oracle if market.startswith("dydx") else path.index
        return float(prices[MARKETS.index(market), row])

    def to(self, at: int) -> None:
        """Lives to `at`, at most one row on: what was held gains or loses, then settlements are paid on it."""
        path = self.ledger.path
        row = int(np.searchsorted(path.at, at, side="right")) - 1
        assert row - self.row <= 1
        worth = self.ledger.worth()
        self.ledger.pass_to(at)
        gained = paid = 0.0
        for m, market in enumerate(MARKETS):
            gained += self.sizes[market] * (self.price(market, row) - self.price(market, self.row))
            if row > self.row:
                for hour, when in enumerate(path.funding_at.tolist()):
                    if when == int(path.at[row]):
                        paid += margin.funding_payment(self.sizes[market], self.paid_on(market, row), float(path.funding[m, hour]))
        self.profit += gained
        self.funding += paid
        if self.now() != self.sizes or self.ledger.worth() != worth:
            self.liquidation += worth + gained + paid - self.ledger.worth()
        self.sizes, self.row = self.now(), row

    def wish(self, wish: Wish) -> None:
        ledger, before, at = self.ledger, self.now(), START + wish.after
        worth, stand = ledger.worth(), {name: account.equity() for name, account in ledger.accounts.items()}
        if wish.side:
            outcome = ledger.shrink(wish.shrink(), at)
            after = self.now()
            account = ledger.accounts[wish.name.partition(":")[0]]
            if outcome.status == "done":
                assert outcome.fill_price is not None
                assert outcome.filled_size is not None
                units = float(outcome.filled_size) * (1.0 if wish.side == "SELL" else -1.0)
                assert before[wish.name] * units > 0.0, "it reduced"
                assert 0.0 <= after[wish.name] / before[wish.name] < 1.0, "it neither opened nor flipped"
                price = float(outcome.fill_price)
                self.slippage += units * (self.price(wish.name, self.row) - price)
                self.fees += abs(units) * price * account.spec.taker_fee
            else:
                assert after[wish.name] == before[wish.name]
                assert ledger.worth() == worth
            assert {**after, wish.name: 0.0} == {**before, wish.name: 0.0}, "no other position moved"
            self.sizes = after
            return
        order = wish.move()
        buffers = dict(ledger.buffers)
        refused, arrives = ledger.move(order, at)
        if refused is not None:
            assert refused.status == "rejected"
            assert ledger.worth() == worth
            return
        assert wish.name != "none"
        assert arrives > at
        assert wish.name != "shut" or wish.after < 40 * MINUTE
        route = ledger.routes[wish.name]
        self.transfer_fees += wish.amount * route.fee
        # In flight it is nowhere but in the total.
        left = {**stand, **buffers}
        left[route.source] -= wish.amount
        assert {**{name: account.equity() for name, account in ledger.accounts.items()}, **ledger.buffers} == pytest.approx(left, abs=1e-6)
        assert ledger.worth() == pytest.approx(worth - wish.amount * route.fee, abs=1e-6)


@settings(max_examples=60, deadline=None)
@given(book=books, wanted=wishes, seed=st.integers(0, 10_000), halted=st.booleans(), adl=st.booleans(), wild=st.booleans())
def test_what_is_earned_is_what_prices_and_funding_brought_less_every_cost(
    book: Book, wanted: list[Wish], seed: int, halted: bool, adl: bool, wild: bool
) -> None:
    path = path_of(seed, rows=180, volatility=0.006 if wild else 0.002, halted=halted, adl=adl)
    ledger = ledger_of(book, path)
    own = Bookkeeper(ledger)
    moments = {int(at) for at in path.at} | {START + wish.after for wish in wanted} | {each.at for each in path.adl}
    by_time = sorted(wanted, key=lambda wish: wish.after)
    start = ledger.worth()
    for at in sorted(moments):
        if at > START:
            own.to(at)
        while by_time and START + by_time[0].after == at:
            own.wish(by_time.pop(0))
    side = ledger.side()
    costs = own.fees + own.slippage + own.transfer_fees + own.liquidation
    lost = sum(transfer.amount for transfer in ledger.transfers if transfer.arrives_at == FOREVER)
    assert side.pnl_usd == pytest.approx(ledger.worth() - lost - start, abs=1e-6)
    assert side.pnl_usd == pytest.approx(own.profit + own.funding - costs - lost, abs=1e-6)
    assert side.funding_usd == pytest.approx(own.funding, abs=1e-6)
    assert side.fees_usd == pytest.approx(own.fees, abs=1e-6)
    assert side.slippage_usd == pytest.approx(own.slippage, abs=1e-6)
    assert side.transfer_fees_usd == pytest.approx(own.transfer_fees, abs=1e-6)
    assert side.liquidation_usd == pytest.approx(own.liquidation, abs=1e-6)


# -- accounts, row by row --------------------------------------------------------------------------------------------------------


def requirement(account: _Account, holding: _Holding, price: float) -> float:
    notional = abs(float(holding.size) * price)
    if account.spec.model == "dydx-v4":
        return margin.requirement(float(holding.size), price, FRACTIONS[holding.symbol][1])
    bounds, leverages = zip(*TIERS[holding.symbol], strict=True)
    return hyperliquid.maintenance(notional, bounds, leverages)


@settings(max_examples=40, deadline=None)
@given(book=books, seed=st.integers(0, 10_000), halted=st.booleans())
def test_what_lies_ahead_of_an_account_is_what_a_loop_over_its_rows_finds(book: Book, seed: int, halted: bool) -> None:
    path = path_of(seed, rows=130, volatility=0.003, halted=halted)
    hours = {int(at): hour for hour, at in enumerate(path.funding_at)}
    for name, account in ledger_of(book, path).accounts.items():
        cash, liquidated = account.spec.collateral_usd, len(path.at)
        for row, at in enumerate(path.at.tolist()):
            prices = {holding.market: float(path.oracle[holding.m, row]) for holding in account.held}
            if at in hours:
                paid_on = path.oracle if account.spec.model == "dydx-v4" else path.index
                cash += sum(
                    margin.funding_payment(float(h.size), float(paid_on[h.m, row]), float(path.funding[h.m, hours[at]]))
                    for h in account.held
                )
            equity = cash + sum(float(h.size) * (prices[h.market] - h.entry) for h in account.held)
            needed = sum(requirement(account, h, prices[h.market]) for h in account.held)
            assert float(account.ahead.equity[row]) == pytest.approx(equity, abs=1e-6)
            assert float(account.ahead.maintenance[row]) == pytest.approx(needed, abs=1e-6)
            stands = any(venue == name and since <= at < until for venue, since, until in path.halted)
            dies = margin.is_liquidatable if account.spec.model == "dydx-v4" else hyperliquid.is_liquidatable
            if liquidated == len(path.at) and not stands and dies(equity, needed):
                liquidated = row
        assert account.ahead.liquidated == liquidated


@settings(max_examples=40, deadline=None)
@given(book=books, seed=st.integers(0, 10_000), drop=st.floats(0.02, 0.4), sign=st.sampled_from([-1.0, 1.0]))
def test_a_liquidated_account_ends_healthy_or_flat(book: Book, seed: int, drop: float, sign: float) -> None:
    path = path_of(seed, rows=60, volatility=0.0, depth=1e9)
    path.oracle = path.mid = np.array(list(PRICES.values()))[:, None] * np.where(np.arange(60) < 5, 1.0, 1.0 + sign * drop)
    path.funding = np.zeros_like(path.funding)
    ledger = ledger_of(book, path)
    ledger.run()
    for account in ledger.accounts.values():
        flat = not any(holding.size for holding in account.held)
        # As near to healthy as the fillable price allows: just below maintenance it lies within the spread, and nobody pays it.
        assert flat or account.equity() >= 0.99 * account.maintenance()
        assert not flat or account.collateral > -1e-6, "debts are others'"
    assert ledger.side().liquidations == sum(account.was_liquidated for account in ledger.accounts.values()) <= 2


# -- by hand ---------------------------------------------------------------------------------------------------------------------


def flat_path(rows: int = 30, **more: object) -> Path:
    path = path_of(1, rows=rows, volatility=0.0, **more)  # type: ignore[arg-type]
    path.mid = path.oracle = np.array(list(PRICES.values()))[:, None] * np.ones(rows)
    return path


BOOK = book_of({"dydx:BTC-USD": 1.0, "dydx:SOL-USD": 0.0, "hl:BTC-USD": -0.5, "hl:DOGE-USD": 0.0}, (20_000.0, 20_000.0))


def test_orders_and_transfers_that_cannot_be_are_refused_and_say_why() -> None:
    path = flat_path(halted=True)
    ledger = ledger_of(BOOK, path)
    halt = path.halted[0]
    said = {
        "no position": ledger.shrink(Wish(0, "dydx:SOL-USD", 1.0, "SELL").shrink(), START).reason,
        "adds": ledger.shrink(Wish(0, "dydx:BTC-USD", 0.1, "BUY").shrink(), START).reason,
        "halted": ledger.shrink(Wish(0, "dydx:BTC-USD", 0.1, "SELL").shrink(), halt[1] + MINUTE).reason,
        "dust": ledger.shrink(Wish(0, "hl:BTC-USD", 0.00001, "BUY").shrink(), halt[1] + MINUTE).reason,
    }
    assert said == {
        "no position": "reduce_only: there is no position", "adds": "reduce_only: the order would add to the position",
        "halted": "venue_halted", "dust": "below_minimum",
    }  # fmt: skip
    at = halt[2] + MINUTE
    moves = {
        "none": Wish(0, "none", 10.0), "lost": Wish(0, "lost", 200_000.0), "in": Wish(0, "in", 50_001.0), "out": Wish(0, "out", 19_000.0),
    }  # fmt: skip
    reasons = {}
    for name, wish in moves.items():
        refused, _ = ledger.move(wish.move(), at)
        assert refused is not None
        reasons[name] = refused.reason
    assert reasons == {
        "none": "there is no route 'none'", "lost": "the fee of 2000.00 USD is above max_fee",
        "in": "the amount is zero or above the route's capacity", "out": "margin: the withdrawal would leave less than initial margin",
    }  # fmt: skip
    later = ledger_of(BOOK, flat_path(rows=90))
    refused, _ = later.move(Wish(0, "shut", 10.0).move(), START + 41 * MINUTE)
    assert refused is not None
    assert refused.reason == "route_closed"


def test_what_is_sold_at_the_start_is_sold_at_the_prices_of_the_start() -> None:
    path = flat_path()
    path.mid = path.oracle = path.mid * 0.9
    ledger = ledger_of(BOOK, path)
    outcome = ledger.shrink(Wish(0, "dydx:BTC-USD", 0.1, "SELL").shrink(), START)
    assert outcome.fill_price is not None
    assert 99_000.0 < float(outcome.fill_price) < 100_000.0


def test_a_cross_account_of_hyperliquid_matches_vector_h2_and_a_tiered_one_h3() -> None:
    rules = {
        "BTC-USD": BookMarket(price=100_000.0, initial_margin=1 / 40, maintenance_margin=1 / 80, tiers=((0.0, 40.0), (150e6, 20.0))),
        "DOGE-USD": BookMarket(price=4_000.0, initial_margin=1 / 25, maintenance_margin=1 / 50, tiers=((0.0, 25.0), (100e6, 15.0))),
    }
    positions = (
        BookPosition(market="BTC-USD", size=Decimal("0.5"), entry_price=100_000.0),
        BookPosition(market="DOGE-USD", size=Decimal(-5), entry_price=4_000.0),
    )
    account = BookAccount(id="hl", venue="hl", model="hyperliquid", collateral_usd=10_000.0, positions=positions, markets=rules)
    path = flat_path(rows=4)
    path.oracle = path.oracle.copy()
    path.oracle[2] = [100_000.0, 81_822.79, 81_822.78, 81_822.78]
    path.oracle[3] = 4_000.0
    found = ledger_of(Book(name="b", accounts=(account,)), path).accounts["hl"]
    assert float(found.ahead.maintenance[0]) == pytest.approx(1025.0, rel=1e-12)
    assert found.ahead.liquidated == 2, "at 81,822.784810"
    assert float(found.ahead.equity[2]) == pytest.approx(911.39, abs=5e-3)
    assert found.initial() == pytest.approx(50_000.0 / 40 + 20_000.0 / 25)
    assert found.may_leave(10_000.0 - 7_000.0), "a tenth of the notional stays, which is above initial margin"
    assert not found.may_leave(10_000.0 - 6_999.0)
    path.oracle[2], path.oracle[3] = 100_000.0, [4_000.0, 5_759.803, 5_759.804, 5_759.804]
    assert ledger_of(Book(name="b", accounts=(account,)), path).accounts["hl"].ahead.liquidated == 2, "at 5,759.803921"
    alt = BookMarket(price=0.25, initial_margin=0.1, maintenance_margin=0.05, tiers=((0.0, 10.0), (20e6, 5.0)))
    big = BookPosition(market="DOGE-USD", size=Decimal(120_000_000), entry_price=0.25)
    account = BookAccount(id="hl", venue="hl", model="hyperliquid", collateral_usd=9e6, positions=(big,), markets={"DOGE-USD": alt})
    found = ledger_of(Book(name="b", accounts=(account,)), flat_path(rows=4)).accounts["hl"]
    assert float(found.ahead.maintenance[0]) == pytest.approx(2.0e6, rel=1e-12)
    assert found.initial() == pytest.approx(6.0e6, rel=1e-12), "5x in that tier"
