"""Replay: what the account lives through over recorded rows, the order of one instant, and hand-computed small histories."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.actions import MoveBuffer, ShrinkPosition
from daemon.engine.columns import Stream, instants
from daemon.engine.engine import Engine
from daemon.engine.events import Row
from daemon.engine.hot import Hot
from daemon.engine.limits import HouseLimits
from daemon.runbook.load import load_text
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition, SimulatedAccount, marks
from daemon.simulation.replay import Course, Played, play, play_without
from daemon.simulation.report import outturn
from daemon.simulation.spans import NULL, Columnwise, Rowwise
from daemon.simulation.tape import TapedAccount
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind, Route, Venue

T0 = 1_770_134_400 * NS  # 2026-02-03T16:00:00Z
HYPE = "dydx:HYPE-USD"

SPIKE = """\
schema: reefd/v1
runbook: spike
title: Shrink while a long pays too much
owner: desk
severity: warning
intent: economy
stage: armed
scope: position
trigger:
  when: funding_rate * sign(size) > 0.1%/h
  until: funding_rate * sign(size) < 0.05%/h
limits: {per_run: 1_000_000 USD}
steps:
  - id: shrink
    shrink_position: {by: 50%, max_slippage: 1%}
"""


def batches(over: Course) -> Iterator[tuple[int, list[Row]]]:
    """Every instant of a course with its rows."""
    streams = [Stream(Hot(over.topology, over.sources), block) for block in over.blocks]
    for at, parts in instants(streams):
        yield at, [stream.row(i) for stream, first, end in parts for i in range(first, end)]


@dataclass(frozen=True, kw_only=True)
class Rows:
    """A block as a recording hands it over."""

    kind: Kind
    ts: npt.NDArray[np.int64]
    event_ts: npt.NDArray[np.int64]
    entity: npt.NDArray[np.int32]
    entity_ids: tuple[str, ...]
    columns: Mapping[str, npt.NDArray[np.float64]]


def block(rows: Sequence[tuple[int, str, Mapping[str, float]]], own: Sequence[int] | None = None) -> Rows:
    ids = tuple(sorted({entity for _, entity, _ in rows}))
    names = sorted({name for _, _, values in rows for name in values})
    times = np.array([at for at, _, _ in rows], np.int64)
    return Rows(
        kind=Kind.MARKET, ts=times, event_ts=times if own is None else np.array(own, np.int64),
        entity=np.array([ids.index(entity) for _, entity, _ in rows], np.int32), entity_ids=ids,
        columns={name: np.array([values.get(name, NULL) for _, _, values in rows]) for name in names},
    )  # fmt: skip


def account(size: str = "1000", **more: object) -> AccountSpec:
    return AccountSpec(
        venue="dydx", collateral_usd=50_000.0, positions=(OpeningPosition(market="HYPE-USD", size=Decimal(size), entry_price=33.0),),
        markets={"HYPE-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.03)}, taker_fee=0.0005, slippage=0.0005,
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


def course(rows: Sequence[tuple[int, str, Mapping[str, float]]], spec: AccountSpec | None = None, hold_ns: int = HOUR_NS) -> Course:
    spec = spec or account()
    holds = {(Kind.MARKET, name, "dydx"): hold_ns for _, _, values in rows for name in values}
    return Course(blocks=(block(rows),), spec=spec, topology=spec.topology({"dydx": Venue(id="dydx")}), holds=holds)


def run(over: Course, *texts: str) -> Played:
    books: list[Runbook] = []
    for text in texts:
        loaded = load_text(text, "spike.yaml")
        assert not loaded.errors, [error.render() for error in loaded.errors]
        books += loaded.runbooks
    engine = Engine(topology=over.topology, house=HouseLimits(), build="test", sources=over.sources)
    engine.load(books)
    return play(over, engine=engine, runbooks=books)


def test_replay_of_hourly_bars_fills_at_the_price_known_at_the_edge_and_matches_the_sums_done_by_hand() -> None:
    spike_at = T0 + HOUR_NS + 294_000_000
    over = course([
        (T0 + 30 * MINUTE_NS, HYPE, {"last_price": 33.0}),
        (T0 + HOUR_NS, HYPE, {"last_price": 34.0}),
        (spike_at, HYPE, {"funding_rate": 0.002}),
        (T0 + 2 * HOUR_NS, HYPE, {"last_price": 36.0}),
        (T0 + 2 * HOUR_NS + 294_000_000, HYPE, {"funding_rate": 0.0001}),
        (T0 + 3 * HOUR_NS, HYPE, {"last_price": 30.0}),
    ])  # fmt: skip
    played = run(over, SPIKE)
    (episode,) = played.log.episodes()
    assert (episode.runbook, episode.entity, episode.pending_at, episode.fired_at) == ("spike", HYPE, spike_at, spike_at)
    assert episode.cleared_at == T0 + 2 * HOUR_NS + 294_000_000
    assert episode.run_statuses == ("done",)
    (action,) = episode.actions
    assert (action.action, action.outcome, action.size) == ("shrink_position", "done", 500.0)
    fill = 34.0 * 0.9995
    assert action.notional_usd == pytest.approx(500 * fill)
    having, lacking = outturn(played.account), outturn(play_without(over))
    # 17:00 is paid on all 1,000 at 34 before the shrink that it triggers, 18:00 on 500 at 36; 19:00 nobody settled.
    assert having.funding_usd == pytest.approx(-1000 * 34 * 0.002 - 500 * 36 * 0.0001)
    assert lacking.funding_usd == pytest.approx(-1000 * 34 * 0.002 - 1000 * 36 * 0.0001)
    assert (having.funding_unknown_hours, lacking.funding_unknown_hours) == (1.0, 1.0)
    assert having.fees_usd == pytest.approx(500 * fill * 0.0005)
    assert having.turnover_usd == pytest.approx(500 * fill)
    assert having.slippage_usd == pytest.approx(500 * (34.0 - fill))
    # Equity at the last row less equity at the first, cash by cash.
    cash = 500 * (fill - 33.0) - having.fees_usd + having.funding_usd
    assert having.pnl_usd == pytest.approx(cash + 500 * (30.0 - 33.0))
    assert lacking.pnl_usd == pytest.approx(1000 * (30.0 - 33.0) + lacking.funding_usd)
    assert having.direction_usd == pytest.approx(1000 * (34.0 - 33.0) + 500 * (30.0 - 34.0))


@pytest.mark.parametrize("slice_rows", [1, 7, 1000])
def test_replay_of_a_live_cadence_fills_at_the_next_row_of_the_market_after_the_edge(slice_rows: int) -> None:
    rows = [(T0 + n * NS, HYPE, {"oracle_price": 33.0 + n * 0.001, "bid_price": 32.9 + n * 0.001}) for n in range(1, 40)]
    rows.insert(20, (T0 + 20 * NS + 1, HYPE, {"funding_rate": 0.002}))
    played = run(replace(course(rows), slice_rows=slice_rows), SPIKE)
    (episode,) = played.log.episodes()
    assert episode.fired_at == T0 + 20 * NS + 1
    (action,) = episode.actions
    assert action.price == pytest.approx(32.9 + 0.021)  # the bid of second 21, not of second 20
    assert action.outcome == "done"


def test_replay_credits_a_transfer_when_it_arrives_and_the_runbook_sees_it() -> None:
    top_up = """\
schema: reefd/v1
runbook: top-up
title: Top up
owner: desk
severity: critical
intent: survival
stage: armed
scope: account
trigger: {when: margin_ratio > 15%}
limits: {per_run: 1_000_000 USD}
steps:
  - id: move
    move_buffer: {from: ethereum, to: dydx, amount: 20_000 USD, route: cctp}
"""
    route = Route(name="cctp", source="ethereum", destination="dydx", eta_ns=3 * MINUTE_NS, eta_p95_ns=4 * MINUTE_NS, fee=0.001)
    spec = account(buffers={"ethereum": 30_000.0}, routes=(route,))
    spec = AccountSpec(
        venue="dydx", collateral_usd=6_000.0, positions=spec.positions, markets=spec.markets, buffers=spec.buffers, routes=spec.routes
    )
    rows = [(T0 + minute * MINUTE_NS, HYPE, {"oracle_price": 33.0}) for minute in range(1, 15)]
    played = run(course(rows, spec), top_up)
    (episode,) = played.log.episodes()
    (action,) = episode.actions
    assert (action.action, action.outcome, action.notional_usd) == ("move_buffer", "done", 20_000.0)
    assert episode.cleared_at == T0 + 4 * MINUTE_NS
    assert played.account.collateral == pytest.approx(25_980.0)
    assert played.account.buffers == {"ethereum": 10_000.0}
    assert outturn(played.account).pnl_usd == pytest.approx(-20.0)


PRICE = st.one_of(st.none(), st.just(float("nan")), st.floats(5.0, 90.0))
CELL = st.fixed_dictionaries({
    "step": st.integers(1, 2700),
    "late": st.sampled_from([0, 0, 0, 5, 400, 900, -200]),  # seconds from an event to its row
    "market": st.sampled_from([HYPE, "dydx:BTC-USD", "dydx:DOGE-USD"]),
    "oracle_price": PRICE, "last_price": PRICE, "bid_price": PRICE,
    "funding_rate": st.one_of(st.none(), st.floats(-0.003, 0.003)),
    "bar_low": st.one_of(st.none(), st.floats(5.0, 50.0)), "bar_high": st.one_of(st.none(), st.floats(40.0, 90.0)),
    "sold": st.one_of(st.none(), st.integers(1, 400)),
    "moved": st.one_of(st.none(), st.none(), st.tuples(st.booleans(), st.integers(1, 9_000))),
})  # fmt: skip
SIZE = st.integers(-900, 900)
SIGNALS = ("oracle_price", "last_price", "bid_price", "funding_rate", "bar_low", "bar_high")
ROUTES = (
    Route(name="in", source="ethereum", destination="dydx", eta_ns=17 * MINUTE_NS, eta_p95_ns=HOUR_NS, fee=0.001),
    Route(name="out", source="dydx", destination="ethereum", eta_ns=95 * MINUTE_NS, eta_p95_ns=HOUR_NS, fee=0.0),
)


def sale(market: str, size: int, held: Decimal) -> ShrinkPosition:
    return ShrinkPosition(
        action_id="a", run_id="r", runbook="x", account="dydx", market=market, side="SELL" if held > 0 else "BUY", size=Decimal(size),
        limit_price=Decimal(0), reference_price=1.0, notional_usd=0.0, expires_at=1 << 62,
    )  # fmt: skip


def transfer(inwards: bool, amount: int) -> MoveBuffer:
    route = ROUTES[0] if inwards else ROUTES[1]
    return MoveBuffer(
        action_id="b", run_id="r", runbook="x", source=route.source, destination=route.destination, route=route.name,
        amount=Decimal(amount), max_fee=Decimal(1000), expires_at=1 << 62,
    )  # fmt: skip


def lived(over: Course, cells: Mapping[int, dict[str, Any]], moving: SimulatedAccount) -> tuple[object, ...]:
    """What an account came to over a history with fills and transfers: taped where it can be, else row by row."""
    seen: list[object] = []
    moving.series = []
    moving.begin(over.first_at)
    slices, known_to = over.slices(), 0
    for at, batch in batches(over):
        if isinstance(moving, TapedAccount):
            if at > known_to:
                blocks = next(slices)
                moving.extend(blocks)
                known_to = max(int(part.ts[-1]) for part in blocks)
            if moving.next_arrival() <= at:
                moving.pass_to(at - 1)
                moving.credit(at)
        else:
            moving.credit(at)
            for row in batch:
                moving.observe(row.entity, row.values, row.event_ts)
            moving.settle(at)
        cell = cells[at]
        if isinstance(moving, TapedAccount) and (cell["sold"] or cell["moved"]):
            moving.pass_to(at)
        if cell["sold"]:
            seen.append(moving.fill(sale(HYPE, cell["sold"], moving.size(HYPE)), at))
        if cell["moved"]:
            seen.append(moving.move(transfer(*cell["moved"]), at))
        if cell["sold"] or cell["moved"]:
            seen.append(moving.changes())
    if isinstance(moving, TapedAccount):
        moving.pass_to(over.last_at)
    moving.end(over.last_at)
    return (*seen, outturn(moving), tuple(moving.liquidated))


@settings(max_examples=100, deadline=None)
@given(cells=st.lists(CELL, min_size=1, max_size=40), sizes=st.tuples(SIZE, SIZE), cash=st.floats(0, 40_000), hours=st.sampled_from([1, 4]))
def test_the_taped_account_is_the_account_taken_row_by_row_to_the_last_bit_in_slices_of_any_size(
    cells: list[dict[str, Any]], sizes: tuple[int, int], cash: float, hours: int
) -> None:
    rows, own, told, at = [], [], {}, T0
    for cell in cells:
        at += cell["step"] * NS
        rows.append((at, cell["market"], {name: cell[name] for name in SIGNALS if cell[name] is not None}))
        own.append(at - cell["late"] * NS)
        told[at] = cell
    held = dict(zip(("HYPE-USD", "BTC-USD"), sizes, strict=True))
    rules = MarketRules(initial_margin=0.05, maintenance_margin=0.03)
    spec = AccountSpec(
        venue="dydx", collateral_usd=cash, markets=dict.fromkeys(held, rules), taker_fee=0.0005, slippage=0.0005,
        positions=tuple(OpeningPosition(market=market, size=Decimal(size), entry_price=33.0) for market, size in held.items()),
        buffers={"ethereum": 20_000.0}, routes=ROUTES,
    )  # fmt: skip
    topology, intervals = spec.topology({"dydx": Venue(id="dydx")}), {"dydx": hours * HOUR_NS}
    holds = {(Kind.MARKET, name, "dydx"): 10 * MINUTE_NS for name in SIGNALS}

    def over(size: int) -> Course:
        return Course(blocks=(block(rows, own),), spec=spec, topology=topology, holds=holds, intervals=intervals, slice_rows=size)

    whole = over(1000)
    stepped = SimulatedAccount(spec, mark=marks(spec, bound_ns=whole.bound_ns, interval_ns=whole.interval_ns))
    expected = lived(whole, told, stepped)
    curve = {at: repr(rest) for at, *rest in stepped.series or ()}
    for size, spans in itertools.product((1000, 7, 1), (Columnwise(), Rowwise())):
        taped = over(size).account(spans)
        assert repr(lived(over(size), told, taped)) == repr(expected)
        # Row by row the very first instant counts whatever it is of.
        drawn = {at: repr(rest) for at, *rest in taped.series or ()}
        assert drawn == {at: shown for at, shown in curve.items() if at in drawn}
        assert curve.keys() - drawn.keys() <= {whole.first_at}


@settings(max_examples=12, deadline=None)
@given(cells=st.lists(CELL, min_size=1, max_size=40), size=st.integers(-900, 900))
def test_replay_without_runbooks_is_the_pass_without(cells: list[dict[str, Any]], size: int) -> None:
    rows, at = [], T0
    for cell in cells:
        at += cell["step"] * NS
        rows.append((at, cell["market"], {name: cell[name] for name in SIGNALS if cell[name] is not None}))
    over = course(rows, account(str(size)), hold_ns=10 * MINUTE_NS)
    assert outturn(run(over).account) == outturn(play_without(over))


def test_replay_takes_account_and_position_rows_from_the_simulated_account_only() -> None:
    recorded = Rows(
        kind=Kind.POSITION, ts=np.array([T0 + NS], np.int64), event_ts=np.array([T0 + NS], np.int64), entity=np.array([0], np.int32),
        entity_ids=(HYPE,), columns={"size": np.array([-7.0])},
    )  # fmt: skip
    over = course([(T0 + NS, HYPE, {"oracle_price": 33.0, "funding_rate": 0.01}), (T0 + 2 * NS, HYPE, {"oracle_price": 33.0})])
    both = Course(blocks=(over.blocks[0], recorded), spec=over.spec, topology=over.topology, holds=over.holds)
    played = run(both, SPIKE)
    assert played.log.episodes()[0].actions[0].size == 500.0


class StepByStep(Engine):
    """An engine that wants to see every row as an event: the slow way, which the column way must equal."""

    @property
    def attentive(self) -> bool:
        """Always: no row goes past `step`."""
        return True


CHATTER = SPIKE.replace("> 0.1%/h", "> 0.02%/h and oracle_price >= mean(oracle_price, 30m)").replace(
    "  until:", "  for: 7m\n  until_for: 3m\n  until:"
)


@settings(max_examples=25, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(1, 400),
            st.sampled_from([33.0, 33.5, 34.0, 32.0, None]),
            st.sampled_from([0.0005, 0.0001, None, None, float("nan")]),
        ),
        min_size=10,
        max_size=120,
    ),
    st.sampled_from([10, 600]),
)
def test_columns_straight_into_slots_equal_every_row_as_an_event(steps: list[tuple[int, float | None, float | None]], spacing: int) -> None:
    rows, at = [], 0
    for wait, price, rate in steps:
        at += wait * spacing // 10
        values = {name: value for name, value in (("oracle_price", price), ("funding_rate", rate)) if value is not None}
        rows.append((at * NS, HYPE, values or {"open_interest": 1.0}))
    rules = {"HYPE-USD": MarketRules(initial_margin=0.05, maintenance_margin=0.03)}
    opening = (OpeningPosition(market="HYPE-USD", size=Decimal(1000), entry_price=33.0),)
    spec = AccountSpec(venue="dydx", collateral_usd=20_000.0, markets=rules, positions=opening, taker_fee=0.0005, slippage=0.0005)
    over = course([(T0 + t, market, values) for t, market, values in rows], spec, hold_ns=10 * MINUTE_NS)
    books = load_text(CHATTER, "spike.yaml").runbooks
    assert books

    def outcome(kind: type[Engine], slice_rows: int = 1000) -> tuple[object, ...]:
        engine = kind(topology=over.topology, house=HouseLimits(), build="test", sources=over.sources)
        played = play(replace(over, slice_rows=slice_rows), engine=engine, runbooks=books)
        return outturn(played.account), played.log.episodes(), engine.checkpoint()["cold"]

    expected = repr(outcome(Engine))
    assert repr(outcome(StepByStep)) == expected
    assert repr(outcome(Engine, slice_rows=1)) == expected
    assert repr(outcome(Engine, slice_rows=7)) == expected
