"""The hot side: trigger lifecycle, three-valued holds, staleness, gaps, dead venues, clocks that cross, checkpoints."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine.edge import Edge
from daemon.engine.events import Row
from daemon.engine.hot import Hot, Sources
from daemon.runbook.load import load_text
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, NS
from daemon.world.entities import Account, Kind, Route, Topology, Venue

MARKET = "dydx:HYPE-USD"
START = 10**18
M = 60 * NS
OURS = 'where: venue == "dydx"'


def runbook(trigger: Mapping[str, str], *, scope: str = "market", name: str = "probe", extra: str = "") -> Runbook:
    lines = "\n".join(f"  {key}: {value}" for key, value in trigger.items())
    loaded = load_text(
        f"""schema: reefd/v1
runbook: {name}
title: probe
owner: desk
severity: info
stage: armed
scope: {scope}
{extra}
trigger:
{lines}
steps:
  - id: tell
    notify: {{to: [desk], text: "fired"}}
""",
        f"{name}.yaml",
    )
    assert not loaded.errors, [e.render() for e in loaded.errors]
    return loaded.runbooks[0]


class Desk:
    """Drives one hot side: rows at a time, dues before and at it, as the engine does."""

    def __init__(self, *runbooks: Runbook, topology: Topology | None = None, sources: Sources | None = None) -> None:
        self.hot = Hot(topology or Topology(), sources)
        self.hot.link(runbooks)
        self.edges: list[tuple[float, str]] = []

    def _note(self, edges: list[Edge]) -> None:
        self.edges += [((e.at - START) / NS, e.change) for e in edges]

    def until(self, at: int) -> None:
        while self.hot.next_due <= at:
            _, edges = self.hot.fire_due(at)
            self._note(edges)

    def see(self, seconds: float, event_s: float | None = None, kind: Kind = Kind.MARKET, entity: str = MARKET, **values: float) -> None:
        at = START + int(seconds * NS)
        self.until(at - 1)
        event = None if event_s is None else START + int(event_s * NS)
        self._note(self.hot.take([Row(kind=kind, entity=entity, values=values, event_ts=event)], at))
        self.until(at)

    def wait(self, seconds: float) -> None:
        self.until(START + int(seconds * NS))

    def status(self, name: str = "probe", entity: str = MARKET) -> str:
        return self.hot.state(name, entity).status


SPREAD = {"when": "oracle_price > 100 price", "for": "3m", "until": "oracle_price < 90 price", "until_for": "1m"}


def test_trigger_fires_when_the_condition_held_for_its_time_and_not_before() -> None:
    desk = Desk(runbook(SPREAD))
    for second in range(0, 200, 20):
        desk.see(second, oracle_price=101)
    assert desk.edges == [(180.0, "fired")]


def test_trigger_fires_at_its_own_time_between_observations() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "50s"}))
    desk.see(0, oracle_price=101)
    desk.see(55, oracle_price=99)
    assert desk.edges == [(50.0, "fired"), (55.0, "cleared")]


def test_a_false_observation_resets_the_hold() -> None:
    desk = Desk(runbook(SPREAD))
    for second, price in ((0, 101), (60, 101), (100, 99), (110, 101), (170, 101), (230, 101), (289, 101)):
        desk.see(second, oracle_price=price)
    assert desk.status() == "pending"
    desk.see(290, oracle_price=101)
    assert desk.edges == [(290.0, "fired")]


def test_missing_data_pauses_the_hold_and_neither_fires_nor_resets_it() -> None:
    desk = Desk(runbook(SPREAD))
    desk.see(0, oracle_price=101)
    desk.see(60, oracle_price=float("nan"))
    desk.see(200, oracle_price=float("nan"))
    assert desk.status() == "pending"
    desk.see(240, oracle_price=101)
    desk.see(300, oracle_price=101)
    desk.see(359, oracle_price=101)
    assert desk.edges == []
    desk.see(360, oracle_price=101)
    assert desk.edges == [(360.0, "fired")]


def test_a_hold_counts_while_its_input_is_fresh_and_stands_still_once_it_is_stale() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "100s"}))
    desk.see(0, oracle_price=101)
    desk.wait(500)
    assert desk.status() == "pending"
    assert desk.hot.state("probe", MARKET).held_ns == 60 * NS + 1  # fresh up to and including 60 s, the bound of the catalogue
    assert desk.hot.state("probe", MARKET).unknown == ("oracle_price",)
    desk.see(500, oracle_price=101)
    desk.see(545, oracle_price=101)
    assert desk.edges == [(pytest.approx(540.0), "fired")]


def test_a_hold_due_exactly_when_its_input_ages_out_still_fires() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "60s"}))
    desk.see(0, oracle_price=101)
    desk.wait(61)
    assert desk.edges == [(60.0, "fired")]


def test_an_observation_at_the_due_instant_is_seen_before_the_hold_fires() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "60s"}))
    desk.see(0, oracle_price=101)
    desk.see(60, oracle_price=99)
    assert desk.edges == []
    assert desk.status() == "inactive"


def test_a_firing_trigger_reads_only_until_and_clears_after_its_own_time() -> None:
    desk = Desk(runbook(SPREAD | {"for": "0s"}))
    desk.see(0, oracle_price=101)
    desk.see(10, oracle_price=95)
    assert desk.status() == "firing"
    desk.see(20, oracle_price=89)
    assert desk.status() == "clearing"
    desk.see(50, oracle_price=91)
    assert desk.status() == "firing"
    desk.see(60, oracle_price=89)
    desk.see(110, oracle_price=89)
    desk.see(121, oracle_price=89)
    assert desk.edges == [(0.0, "fired"), (120.0, "cleared")]


def test_unknown_never_clears() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price"}))
    desk.see(0, oracle_price=101)
    desk.see(10, oracle_price=float("nan"))
    desk.wait(100_000)
    assert desk.status() == "firing"


def test_on_unknown_fire_counts_missing_data_as_true_from_the_moment_it_goes_stale() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "on_unknown": "fire", "for": "30s"}))
    desk.see(0, oracle_price=50)
    desk.wait(300)
    assert desk.edges == [(pytest.approx(90.0), "fired")]


def test_a_trigger_that_clears_while_its_condition_is_true_is_pending_again_at_once() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "30s", "until": "oracle_price > 110 price"}))
    desk.see(0, oracle_price=101)
    desk.see(40, oracle_price=120)
    assert desk.edges == [(30.0, "fired"), (40.0, "cleared")]
    assert desk.status() == "pending"
    desk.see(70, oracle_price=105)
    assert desk.edges[-1] == (70.0, "fired")


def test_a_gap_stops_the_hold_and_a_long_one_resets_it() -> None:
    desk = Desk(runbook(SPREAD))
    desk.see(0, oracle_price=101)
    desk.see(50, oracle_price=101)
    assert desk.hot.gap(START + 150 * NS, START + 60 * NS) == []
    desk.until(START + 150 * NS)
    assert desk.status() == "pending"
    assert desk.hot.state("probe", MARKET).held_ns == 60 * NS
    desk.see(160, oracle_price=101)
    assert desk.hot.gap(START + 1000 * NS, START + 170 * NS) == [("probe", MARKET)]
    assert desk.status() == "inactive"


def test_a_dead_venue_makes_all_its_readings_unknown_until_it_answers() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": "3m"}))
    for second in range(0, 60, 10):
        desk.see(second, oracle_price=101)
    desk.see(60, kind=Kind.VENUE, entity="dydx", block_age=61.0)
    desk.see(70, oracle_price=101)
    assert desk.hot.state("probe", MARKET).unknown == ("oracle_price",)
    assert desk.hot.read(Kind.VENUE, "dydx", "block_age", START + 70 * NS).value == 61.0
    desk.see(80, kind=Kind.VENUE, entity="dydx", block_age=1.0)
    desk.see(81, oracle_price=101)
    assert desk.hot.state("probe", MARKET).unknown == ()


def test_a_reading_is_never_younger_than_its_venues_blocks() -> None:
    desk = Desk(runbook({"when": "bid_price > 100 price"}))
    desk.see(0, kind=Kind.VENUE, entity="dydx", block_age=11.0)
    desk.see(1, bid_price=101)
    assert desk.edges == []
    desk.see(2, kind=Kind.VENUE, entity="dydx", block_age=2.0)
    assert desk.edges == [(2.0, "fired")]


def test_age_and_known_turn_by_the_passing_of_time_alone() -> None:
    desk = Desk(
        runbook({"when": "age(oracle_price) > 3m"}, name="aged"),
        runbook({"when": "not known(oracle_price)"}, name="lost"),
    )
    desk.see(0, oracle_price=101)
    desk.wait(1000)
    assert desk.edges == [(pytest.approx(60.0, abs=1e-6), "fired"), (pytest.approx(180.0, abs=1e-6), "fired")]


def test_venue_up_for_counts_from_the_moment_blocks_advance_again() -> None:
    desk = Desk(runbook({"when": "venue_up_for > 10m"}, scope="venue"))
    for second in range(0, 60, 5):
        desk.see(second, kind=Kind.VENUE, entity="dydx", venue_up=1.0, block_age=2.0)
    desk.see(60, kind=Kind.VENUE, entity="dydx", venue_up=0.0, block_age=70.0)
    for second in range(65, 800, 5):
        desk.see(second, kind=Kind.VENUE, entity="dydx", venue_up=1.0, block_age=2.0)
    assert desk.edges == [(pytest.approx(665.0, abs=1e-6), "fired")]


def test_oracle_stale_for_counts_while_mid_moves_and_the_oracle_does_not() -> None:
    desk = Desk(runbook({"when": "oracle_stale_for > 30s"}))
    desk.see(0, oracle_price=100.0, bid_price=99.99, ask_price=100.01)
    desk.see(5, oracle_price=100.0, bid_price=99.99, ask_price=100.01)
    for second in range(10, 60, 5):
        desk.see(second, oracle_price=100.0, bid_price=101.99, ask_price=102.01)
    assert desk.edges == [(pytest.approx(30.0, abs=1e-6), "fired")]


def test_prices_of_different_times_make_a_derived_signal_unknown() -> None:
    desk = Desk(runbook({"when": "oracle_divergence > 1bps"}))
    desk.see(0, oracle_price=101.0)
    desk.see(3, bid_price=99.99, ask_price=100.01)
    assert desk.edges == [(3.0, "fired")]
    other = Desk(runbook({"when": "oracle_divergence > 1bps"}))
    other.see(0, oracle_price=101.0)
    other.see(3.1, bid_price=99.99, ask_price=100.01)
    assert other.edges == []
    assert other.hot.state("probe", MARKET).unknown == ("oracle_divergence",)


def test_a_position_instance_lives_from_its_first_size_to_size_zero() -> None:
    desk = Desk(runbook({"when": "funding_paid > 0"}, scope="position"))
    assert desk.hot.instances() == []
    desk.see(0, funding_rate=1e-4)
    desk.see(1, kind=Kind.POSITION, entity=MARKET, size=-5.0)
    assert desk.hot.instances() == [("probe", MARKET)]
    assert desk.edges == []
    desk.see(2, kind=Kind.POSITION, entity=MARKET, size=5.0)
    desk.see(3, kind=Kind.POSITION, entity=MARKET, size=0.0)
    assert desk.edges == [(2.0, "fired"), (3.0, "gone")]
    assert desk.hot.instances() == []


ACCOUNT = Topology(
    venues={"dydx": Venue(id="dydx", chain="dydx-chain", valued_at=("oracle_price",))},
    accounts={"dydx": Account(id="dydx", venue="dydx")},
    routes={"cctp": Route(name="cctp", source="ethereum", destination="dydx-chain")},
)


def book(desk: Desk, second: float) -> None:
    """The cross account of the venue's published vector: 3 BTC long at 98,000, 100 ETH short at 4,100, 150,000 USDC of quote balance."""
    desk.see(second, entity="dydx:BTC-USD", oracle_price=98_000.0, imf=0.02, mmf=0.012)
    desk.see(second, entity="dydx:ETH-USD", oracle_price=4_100.0, imf=0.02, mmf=0.012)
    desk.see(second, event_s=None, kind=Kind.POSITION, entity="dydx:BTC-USD", size=3.0, entry_price=90_000.0)
    desk.see(second, event_s=None, kind=Kind.POSITION, entity="dydx:ETH-USD", size=-100.0, entry_price=4_000.0)
    # Q is the quote balance; collateral adds the entry cost, so that equity = collateral + unrealized PnL.
    desk.see(second, kind=Kind.ACCOUNT, entity="dydx", collateral=150_000.0 + 3 * 90_000.0 - 100 * 4_000.0)


@pytest.mark.parametrize(
    ("kind", "entity", "signal", "expected"),
    [
        (Kind.ACCOUNT, "dydx", "equity", 34_000.0),
        (Kind.ACCOUNT, "dydx", "initial_margin", 14_080.0),
        (Kind.ACCOUNT, "dydx", "maintenance_margin", 8_448.0),
        (Kind.ACCOUNT, "dydx", "free_collateral", 19_920.0),
        (Kind.ACCOUNT, "dydx", "leverage", 704_000 / 34_000),
        (Kind.ACCOUNT, "dydx", "margin_ratio", 8_448 / 34_000),
        (Kind.ACCOUNT, "dydx", "net_delta", -116_000.0),
        (Kind.POSITION, "dydx:BTC-USD", "liquidation_price", 89_379.217273954),
        (Kind.POSITION, "dydx:ETH-USD", "liquidation_price", 4_352.490118577),
        (Kind.POSITION, "dydx:BTC-USD", "notional", 294_000.0),
        (Kind.POSITION, "dydx:BTC-USD", "liquidation_distance", 1 - 89_379.217273954 / 98_000),
        (Kind.PORTFOLIO, "portfolio", "gross_notional", 704_000.0),
    ],
)
def test_account_signals_equal_the_venues_published_vector(kind: Kind, entity: str, signal: str, expected: float) -> None:
    desk = Desk(topology=ACCOUNT)
    book(desk, 0)
    assert desk.hot.read(kind, entity, signal, START).value == pytest.approx(expected, rel=1e-12)


def test_the_survivable_move_is_the_common_move_at_which_margin_equals_equity() -> None:
    desk = Desk(topology=ACCOUNT)
    book(desk, 0)
    move = desk.hot.read(Kind.ACCOUNT, "dydx", "survivable_move", START).value
    # The book is net short: the adverse common move is up.
    equity = 150_000 + 3 * 98_000 * (1 + move) - 100 * 4_100 * (1 + move)
    maintenance = 704_000 * (1 + move) * 0.012
    assert equity == pytest.approx(maintenance, rel=1e-12)
    assert move > 0


def test_buffer_coverage_counts_the_chains_that_tell_of_a_buffer_and_is_unknown_when_one_of_them_is_silent() -> None:
    desk = Desk(topology=ACCOUNT)
    book(desk, 0)
    desk.see(1, kind=Kind.CHAIN, entity="dydx-chain", block_age=1.0)
    desk.see(1, kind=Kind.CHAIN, entity="ethereum", buffer_balance=84_480.0)
    at = START + NS
    assert desk.hot.read(Kind.PORTFOLIO, "portfolio", "buffer_coverage", at).value == pytest.approx(10.0)
    desk.see(2, kind=Kind.CHAIN, entity="ethereum", buffer_balance=float("nan"))
    assert not desk.hot.read(Kind.PORTFOLIO, "portfolio", "buffer_coverage", at + NS).known


def test_margin_is_unknown_while_one_position_has_no_price_and_zero_without_positions() -> None:
    desk = Desk(topology=ACCOUNT)
    book(desk, 0)
    desk.see(1, kind=Kind.POSITION, entity="dydx:SOL-USD", size=1.0, entry_price=100.0)
    assert not desk.hot.read(Kind.ACCOUNT, "dydx", "margin_ratio", START + NS).known
    for symbol in ("BTC", "ETH", "SOL"):
        desk.see(2, kind=Kind.POSITION, entity=f"dydx:{symbol}-USD", size=0.0)
    assert desk.hot.read(Kind.ACCOUNT, "dydx", "margin_ratio", START + 2 * NS).value == 0.0


def test_cross_venue_divergence_needs_three_live_sources() -> None:
    desk = Desk()
    for second, venue, price in ((0, "dydx", 103.0), (1, "binance", 100.0)):
        desk.see(second, entity=f"{venue}:HYPE-USD", bid_price=price, ask_price=price)
    assert not desk.hot.read(Kind.MARKET, MARKET, "cross_venue_divergence", START + NS).known
    desk.see(1, entity="okx:HYPE-USD", bid_price=101.0, ask_price=101.0)
    assert desk.hot.read(Kind.MARKET, MARKET, "cross_venue_divergence", START + NS).value == pytest.approx(103 / 100.5 - 1)


def test_count_over_counts_the_members_on_which_a_condition_is_true_and_is_unknown_when_none_is_known() -> None:
    desk = Desk(runbook({"when": "count_over(peers, mid_price > 100 price) >= 2"}, extra=OURS))
    desk.see(0, oracle_price=1.0)
    assert desk.hot.state("probe", MARKET).unknown == ()
    assert desk.hot.value("probe", 0, MARKET, START) == 1.0
    for second, venue, price in ((1, "binance", 101.0), (2, "okx", 99.0), (3, "bybit", 101.0)):
        desk.see(second, entity=f"{venue}:HYPE-USD", bid_price=price, ask_price=price)
        assert desk.edges == ([(3.0, "fired")] if second == 3 else [])


def test_a_verdict_turns_true_at_the_moment_a_peer_that_held_it_back_goes_stale() -> None:
    calm = Desk(runbook({"when": "last_price / median_over(peers, last_price) - 1 > 1%"}, extra=OURS))
    calm.see(0, entity="binance:HYPE-USD", last_price=101.0)
    calm.see(10, entity="bybit:HYPE-USD", last_price=100.0)
    calm.see(20, entity="okx:HYPE-USD", last_price=90.0)
    calm.see(25, last_price=100.5)
    assert calm.edges == []  # 0.5 % above the median of three
    calm.wait(40)
    assert calm.edges == [(pytest.approx(30.0, abs=1e-6), "fired")]


def test_a_dead_venues_own_parameters_are_unknown_and_its_liveness_is_not() -> None:
    desk = Desk()
    desk.see(0, kind=Kind.VENUE, entity="dydx", withdrawals_open=1.0, block_age=1.0, venue_up=1.0)
    assert desk.hot.read(Kind.VENUE, "dydx", "withdrawals_open", START).value == 1.0
    desk.see(1, kind=Kind.VENUE, entity="dydx", block_age=61.0)
    assert not desk.hot.read(Kind.VENUE, "dydx", "withdrawals_open", START + NS).known
    assert desk.hot.read(Kind.VENUE, "dydx", "venue_up", START + NS).known


def test_signals_of_another_entity_and_of_a_chain_are_read_by_name() -> None:
    desk = Desk(
        runbook({"when": 'signal("dydx:BTC-USD", oracle_price) < 50 price and buffer(ethereum) > 10 USD'}),
        topology=ACCOUNT,
    )
    desk.see(0, oracle_price=1.0)
    desk.see(1, kind=Kind.CHAIN, entity="ethereum", buffer_balance=11.0)
    assert desk.edges == []
    desk.see(2, entity="dydx:BTC-USD", oracle_price=49.0)
    assert (2.0, "fired") in desk.edges


def test_a_trace_holds_the_same_value_and_every_reading_with_its_age() -> None:
    desk = Desk(runbook({"when": "oracle_price > 100 price and funding_rate > mean(funding_rate, 1h)"}))
    desk.see(0, oracle_price=101.0)
    desk.see(10, funding_rate=1e-4)
    trace = desk.hot.trace("probe", 0, MARKET, START + 12 * NS)
    assert trace["value"] == desk.hot.value("probe", 0, MARKET, START + 12 * NS) == 1.0
    first = trace["kids"][0]["kids"][0]  # type: ignore[index]
    assert (first["signal"], first["value"], first["age"]) == ("oracle_price", 101.0, 12.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 90), st.sampled_from([101.0, 95.0, 85.0, float("nan")])), min_size=5, max_size=40),
    st.integers(1, 39),
)
def test_a_restored_checkpoint_goes_on_exactly_as_if_it_had_never_stopped(steps: list[tuple[int, float]], cut: int) -> None:
    book_of = runbook(SPREAD | {"when": "oracle_price > 100 price and oracle_price >= mean(oracle_price, 1m)"})

    def run(stop: int | None) -> tuple[list[tuple[float, str]], float, str]:
        desk, second = Desk(book_of), 0
        for i, (wait, price) in enumerate(steps):
            if i == stop:
                blobs, edges = desk.hot.checkpoint(), desk.edges
                desk = Desk(book_of)
                desk.hot.restore(blobs)
                desk.edges = edges
            second += wait
            desk.see(second, oracle_price=price)
        return desk.edges, desk.hot.value("probe", 0, MARKET, START + second * NS), desk.status()

    assert run(None) == run(min(cut, len(steps) - 1))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(1, 50), st.sampled_from([101.0, 99.0, float("nan"), None])), min_size=1, max_size=60))
def test_the_trigger_follows_the_page_over_any_sequence_of_known_unknown_and_silence(steps: list[tuple[int, float | None]]) -> None:
    """Against a second, naive reading of the page: second by second, holds counted in whole seconds known TRUE."""
    hold, bound = 45, 60
    desk = Desk(runbook({"when": "oracle_price > 100 price", "for": f"{hold}s", "until": "oracle_price < 100 price", "until_for": "10s"}))
    at, plan = 0, {}
    for wait, price in steps:
        at += wait
        plan[at] = price
    expected: list[tuple[float, str]] = []
    status, held, seen, value = "inactive", 0, -(10**9), float("nan")
    previous = "unknown"
    for second in range(at + 1):
        # the second that just passed counts when the verdict that stood in it was TRUE
        if previous == "true" and status == "pending":
            held += 1
        if previous == "false" and status == "clearing":
            held += 1
        if plan.get(second) is not None:
            value, seen = plan[second], second  # type: ignore[assignment]
        fresh = second - seen <= bound and value == value
        previous = ("true" if value > 100 else "false") if fresh else "unknown"
        if status == "inactive" and previous == "true":
            status, held = "pending", 0
        if status == "pending" and previous == "false":
            status = "inactive"
        elif status == "pending" and previous == "true" and held >= hold:
            status = "firing"
            expected.append((float(second), "fired"))
        elif status == "firing" and previous == "false":
            status, held = "clearing", 0
        elif status == "clearing" and previous == "true":
            status = "firing"
        if status == "clearing" and previous == "false" and held >= 10:
            status = "inactive"
            expected.append((float(second), "cleared"))
    for second in sorted(plan):
        price = plan[second]
        desk.see(second, **({} if price is None else {"oracle_price": price}))
    desk.wait(at)
    assert [(round(t), c) for t, c in desk.edges] == [(round(t), c) for t, c in expected]
    assert FOREVER > 0


def test_watching_the_end_of_a_route_makes_no_account_of_a_chain() -> None:
    hot = Hot(Topology(routes={"cctp": Route(name="cctp", source="ethereum", destination="dydx")}), Sources())
    hot.link([runbook({"when": "buffer(ethereum) > 1_000 USD"}, scope="account")])
    hot.watch([(Kind.CHAIN, "ethereum"), (Kind.VENUE, "ethereum"), (Kind.ACCOUNT, "ethereum")])
    hot.take([Row(kind=Kind.CHAIN, entity="ethereum", values={"buffer_balance": 5_000.0})], 10**18)
    assert hot.entities(Kind.ACCOUNT) == []
    assert hot.instances() == []
    assert len(hot.watched_rows) == 1
