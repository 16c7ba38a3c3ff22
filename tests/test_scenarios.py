"""Every shipped scenario, played with and without the shipped runbooks, shows what its file says; and how the driver comes to that."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import pytest
from ruamel.yaml import YAML
from sim_world import ADDRESS, START, account_of, still_text
from typer.testing import CliRunner

from daemon import cli
from daemon.app.scenarios import PROVIDED, find_scenario, load_books, scenario_files, undergo
from daemon.edges.bridge import BridgeFeed, BridgePlan
from daemon.edges.dydx.feed import DydxFeed, FeedPlan
from daemon.edges.http import HttpSource
from daemon.engine.actions import CancelOrders, MoveBuffer, ShrinkPosition
from daemon.engine.events import Row
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError, UserError
from daemon.simulation.expectations import ExpectedToll
from daemon.simulation.hands import Hands
from daemon.simulation.observer import Observer
from daemon.simulation.ordeal import Ordeal
from daemon.simulation.scenario import Scenario, load_scenario, parse_scenario
from daemon.simulation.theatre import accounts_of, play_alone, topology_of, world_of
from daemon.simulation.toll import Tally
from daemon.simulation.world import World
from daemon.units import NS
from daemon.web.sim import SimulatedVenue, VenueClock
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
NAMES = sorted(path.stem for path in (ROOT / "config/scenarios").glob("*.yaml"))
INCIDENTS = {
    "luna-minanswer", "usdc-depeg", "dydx-yfi", "arb-seq-78m", "arb-seq-7h", "dydx-halt-2024", "polyzk-10h", "starknet-4h", "linea-46m",
    "hl-eth-whale", "hl-jelly", "hl-api-37m", "base-33m", "hl-xpl", "crash-1010", "dydx-halt-1010", "hl-popcat", "base-116m",
}  # fmt: skip
FUNDING_CAPS = {"funding-cap-hl", "funding-cap-dydx-lt"}
FLAGSHIP = "worst-case-bridging"
MINUTE = 60


@cache
def scenario_of(name: str) -> Scenario:
    return load_scenario(ROOT / f"config/scenarios/{name}.yaml")


@cache
def played(name: str) -> Ordeal:
    """A scenario with its own seed, with and without the shipped runbooks; played once."""
    scenario = scenario_of(name)
    return undergo(scenario, books=load_books(ROOT / "runbooks", scenario), seed=scenario.seed, house=HouseLimits())


# --- what is shipped -------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_a_shipped_scenario_shows_what_its_file_says(name: str) -> None:
    ordeal = played(name)
    assert ordeal.broken == []
    assert ordeal.scenario.expect != type(ordeal.scenario.expect)(), "a shipped scenario says what it is expected to show"
    for course in (ordeal.having, ordeal.lacking):
        assert len(course.tally.ratios) == ordeal.scenario.seconds + 1
        toll = course.toll
        moved = toll.equity_end_usd - toll.equity_start_usd + toll.buffers_end_usd + toll.in_flight_usd
        assert toll.pnl_usd == pytest.approx(moved - sum(ordeal.scenario.buffers.values()), abs=1e-6)


def test_every_named_incident_has_a_scenario_with_source_and_confidence() -> None:
    assert {*INCIDENTS, *FUNDING_CAPS, FLAGSHIP} <= set(NAMES)
    for name in (*INCIDENTS, *FUNDING_CAPS, FLAGSHIP):
        scenario = scenario_of(name)
        assert scenario.scenario == name
        assert scenario.source, name
        assert scenario.confidence, name


@pytest.mark.parametrize("name", sorted(INCIDENTS))
def test_a_scenario_of_an_incident_says_what_helps(name: str) -> None:
    assert "# What helps:" in (ROOT / f"config/scenarios/{name}.yaml").read_text(encoding="utf-8")


def test_the_flagship_is_about_the_example_book() -> None:
    book = YAML(typ="safe").load((ROOT / "config/books/example.yaml").read_text(encoding="utf-8"))
    raw = YAML(typ="safe").load((ROOT / f"config/scenarios/{FLAGSHIP}.yaml").read_text(encoding="utf-8"))
    account = book["accounts"]["dydx"]
    assert raw["accounts"] == [{"collateral": account["collateral"], "positions": account["positions"]}]
    assert raw["buffers"] == book["buffers"]
    assert set(raw["markets"]) == set(account["markets"])
    for market, spec in account["markets"].items():
        assert {key: raw["markets"][market][key] for key in spec} == spec, market
    assert set(raw["routes"]) == set(book["routes"])


def test_the_flagship_liquidates_without_runbooks_survives_with_them_and_explains_each_act() -> None:
    ordeal = played(FLAGSHIP)
    assert ordeal.lacking.toll.liquidations >= 1
    assert ordeal.having.toll.liquidations == 0
    text = ordeal.as_text()
    assert "margin-low on dydx, because" in text
    assert "margin_ratio_worst > 60%" in text
    assert "step   top-up failed: rejected: cctp: cannot arrive in time" in text
    acts = [act for episode in ordeal.as_json()["episodes"] for act in episode["acts"]]  # type: ignore[attr-defined]
    assert len(acts) > 10
    for act in acts:
        assert act["asked"]
        assert act["outcome"] in ("done", "rejected", "failed", "unknown")
        assert act["margin_ratio_before"] > 0
        assert f"{act['action']}: {act['asked']}" in text
    shrinks = [act for act in acts if act["action"] == "shrink_account" and act["outcome"] == "done"]
    assert sum(act["margin_ratio_after"] < act["margin_ratio_before"] for act in shrinks) > 0.8 * len(shrinks)


def test_a_course_depends_on_nothing_but_scenario_runbooks_and_seed() -> None:
    scenario = scenario_of("linea-46m")
    once = json.dumps(played("linea-46m").as_json())
    books = load_books(ROOT / "runbooks", scenario)
    assert json.dumps(undergo(scenario, books=books, seed=scenario.seed, house=HouseLimits()).as_json()) == once
    other = play_alone(scenario, seed=scenario.seed + 1)
    assert other.toll != played("linea-46m").lacking.toll


def test_a_world_that_nobody_reads_needs_no_past() -> None:
    scenario = scenario_of("hl-popcat")
    world = world_of(scenario, scenario.seed)  # with all its history
    tally = Tally(world)
    for second in range(1, 20 * MINUTE):
        world.advance((world.start_s + second) * NS)
        tally.follow()
    assert list(tally.ratios) == list(played("hl-popcat").lacking.tally.ratios[: 20 * MINUTE])


@pytest.mark.parametrize("name", ["hl-api-37m", "dydx-halt-2024"])
def test_orders_whose_replies_are_lost_are_never_sent_twice(name: str) -> None:
    ordeal = played(name)
    orders = [entry for entry in ordeal.having.world.log if entry.kind == "order"]
    lost = [entry for entry in orders if entry.reply != "sent"]
    assert len(lost) >= 3, "the scenario loses replies while orders are sent"
    assert all(entry.outcome != "duplicate" for entry in orders)
    assert max(Counter(entry.client_id for entry in orders).values()) == 1
    held = sum(abs(position.size) for account in ordeal.scenario.accounts for position in account.positions)
    left = sum(abs(h.size) for account in ordeal.having.world.exchange.subaccounts.values() for h in account.holdings.values())
    filled = sum(Decimal(entry.detail["filled_size"]) for entry in orders if entry.outcome == "executed")
    assert held - left == filled


# --- the eyes --------------------------------------------------------------------------------------------------------------------------

TROUBLED = """[
  {at: 20s, kind: oracle_freeze, market: ETH-USD, for: 60s}, {at: 30s, kind: thin_book, market: BTC-USD, to: 10%, spread: 60bps, for: 40s},
  {at: 40s, kind: sequencer_stop, chain: arbitrum, for: 50s}, {at: 50s, kind: finality_delay, chain: ethereum, to: 1h, for: 60s},
  {at: 60s, kind: congestion, chain: ethereum, for: 20s}, {at: 70s, kind: venue_halt, for: 15s},
  {at: 75s, kind: price_move, market: all, by: -3%, over: 20s}, {at: 90s, kind: market_status, market: BTC-USD, to: PAUSED, for: 30s},
  {at: 95s, kind: external_close, market: BTC-USD}]"""


class Clock:
    """The world's time as an adapter's clock."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.speed = 1.0

    def now(self) -> int:
        return self.world.now_ns

    def steady_ns(self) -> int:
        return self.world.now_ns

    async def sleep(self, ns: int) -> None:
        raise AssertionError(f"nothing here waits ({ns} ns)")


def plain(rows: list[Row], now: int) -> dict[Any, Any]:
    """Rows by entity and time, values rounded where the wire rounds; no time of its own is the event's."""
    found: dict[Any, Any] = {}
    for row in rows:
        found.setdefault((row.kind, row.entity, now if row.event_ts is None else row.event_ts), {}).update(row.values)
    return found


@pytest.mark.asyncio
async def test_the_observer_reads_a_world_as_the_live_adapters_do() -> None:
    proposals = "proposals: [{id: 7, at: -1h, title: x, messages: [/dydxprotocol.perpetuals.MsgSetLiquidityTier]}]\n"
    scenario = parse_scenario(still_text(shocks=TROUBLED, btc=", volatility: 60%").replace("volatility: 0%,", "", 1) + proposals, "x.yaml")
    world = World(scenario, seed=3, started_ns=START, history_h=26)
    accounts = accounts_of(scenario)
    observer = Observer(world, accounts)
    clock = Clock(world)
    served = SimulatedVenue(world=world, clock=VenueClock(started_ns=START, speed=1.0, monotonic=lambda: world.now_ns - START))
    transport = httpx.ASGITransport(app=served.app)
    sources = [HttpSource(name=name, url=url, transport=transport) for name, url in (("dydx", "http://v/v4"), ("bridge", "http://v"))]
    plan = FeedPlan(venue="dydx", markets=tuple(scenario.markets), accounts=accounts)
    feed = DydxFeed(plan, source=sources[0], clock=clock)
    bridge = BridgeFeed(
        BridgePlan(chains=tuple(scenario.chains), routes=tuple(scenario.routes), venue="dydx"), source=sources[1], clock=clock
    )
    history = plain(observer.history(), world.now_ns)
    assert history == plain(await feed.history(), world.now_ns)
    assert len(history) > 2 * 25 * 60
    compared = 0
    for second in (0, 60, 75, 84, 120, 180):
        world.advance(START + second * NS)
        seen, failures = observer.poll()
        assert failures == []
        rows = plain(seen, world.now_ns)
        wanted: list[Row] = []
        for poll in (*feed.polls, *bridge.polls):
            if second % (poll.every_ns // NS) == 0:
                wanted += await poll.fetch()
        expected = plain(wanted, world.now_ns)
        assert rows.keys() == expected.keys()
        for key, values in expected.items():
            assert rows[key] == pytest.approx(values, rel=1e-12, abs=1e-9, nan_ok=True), (second, key)
            compared += len(values)
    assert compared > 150
    for source in sources:
        await source.close()


def test_the_observer_reports_what_fails() -> None:
    shocks = "[{at: 10s, kind: venue_error, status: 502, for: 5s}, {at: 20s, kind: rate_limit, to: 1, for: 20s}]"
    scenario = parse_scenario(still_text(shocks=shocks), "x.yaml")
    world = World(scenario, seed=3, started_ns=START, history_h=2)
    observer = Observer(world, accounts_of(scenario))
    world.advance(START + 12 * NS)
    rows, failures = observer.poll()
    assert rows == []
    assert ("dydx.height", "HTTP 502: Internal Server Error") in failures
    world.advance(START + 18 * NS)
    assert observer.poll()[1] == []
    world.advance(START + 30 * NS)
    rows, failures = observer.poll()
    assert {row.kind for row in rows} >= {Kind.VENUE, Kind.ROUTE}
    assert {reason for _, reason in failures} == {"rate limited"}


# --- the hands -------------------------------------------------------------------------------------------------------------------------


def shrink(**changes: Any) -> ShrinkPosition:
    fields: dict[str, Any] = {
        "action_id": "run-1.shrink.0.1", "run_id": "run-1", "runbook": "x", "account": "dydx", "market": "dydx:BTC-USD", "side": "SELL",
        "size": Decimal("0.1"), "limit_price": Decimal(97_000), "reference_price": 98_000.0, "notional_usd": 9_800.0,
        "expires_at": START + 20 * NS,
    }  # fmt: skip
    return ShrinkPosition(**(fields | changes))


def desk(shocks: str = "[]", **parts: str) -> tuple[World, Hands]:
    scenario = parse_scenario(still_text(shocks=shocks, **parts), "x.yaml")
    world = World(scenario, seed=3, started_ns=START, history_h=2)
    return world, Hands(world, accounts_of(scenario))


def passes(world: World, hands: Hands, seconds: int) -> list[tuple[int, str, str]]:
    """Seconds go by: (second, status, reason) of what became known."""
    found = []
    for _ in range(seconds):
        world.advance(world.now_ns + NS)
        found += [(world.second, outcome.status, outcome.reason) for _, outcome in hands.work()]
    return found


def test_an_order_reaches_the_venue_with_the_next_second() -> None:
    world, hands = desk()
    hands.take(shrink(), START + 1)
    assert passes(world, hands, 2) == [(1, "done", "")]
    assert account_of(world).holdings["BTC-USD"].size == Decimal("0.9")


def test_a_lost_reply_is_looked_up_at_once_and_the_order_is_not_sent_again() -> None:
    world, hands = desk("[{at: 0s, kind: error_after_accept, reply: dropped, for: 1h}]")
    hands.take(shrink(), START + 1)
    assert passes(world, hands, 5) == [(1, "done", "")]
    assert [entry.outcome for entry in world.log if entry.kind == "order"] == ["executed"]


def test_an_outage_makes_an_order_unknown_until_the_venue_can_say_that_it_never_came() -> None:
    world, hands = desk("[{at: 0s, kind: venue_error, for: 30s}]")
    hands.take(shrink(), START + 1)
    found = passes(world, hands, 60)
    assert [status for _, status, _ in found] == ["unknown", "failed"]
    assert found[1][0] >= 30
    assert "does not know it after its expiry" in found[1][2]
    assert account_of(world).holdings["BTC-USD"].size == Decimal(1)


def test_an_order_that_lands_in_an_outage_is_found_afterwards() -> None:
    world, hands = desk("[{at: 0s, kind: venue_error, lands: true, for: 30s}]")
    hands.take(shrink(), START + 1)
    found = passes(world, hands, 60)
    assert [status for _, status, _ in found] == ["unknown", "done"]
    assert account_of(world).holdings["BTC-USD"].size == Decimal("0.9")


def test_refusals_become_outcomes() -> None:
    world, hands = desk()
    hands.take(shrink(side="BUY"), START + 1)
    hands.take(shrink(action_id="late", expires_at=START + NS // 2), START + 1)
    hands.take(CancelOrders(action_id="c", run_id="r", runbook="x", account="dydx", market=None, expires_at=START + 20 * NS), START + 1)
    [buy, late, cancel] = passes(world, hands, 1)
    assert (buy[1], buy[2].partition(":")[0]) == ("rejected", "reduce_only_would_increase")
    assert late[1:] == ("failed", "it expired before it was sent")
    assert cancel[1:] == ("done", "0 canceled")


def test_a_transfer_is_done_when_it_is_debited_and_refused_when_the_route_is_shut() -> None:
    move = MoveBuffer(
        action_id="m", run_id="r", runbook="x", source="ethereum", destination="dydx", route="cctp", amount=Decimal(1_000),
        max_fee=Decimal(10), expires_at=START + 100 * NS,
    )  # fmt: skip
    world, hands = desk("[{at: 10s, kind: bridge_stall, route: cctp, for: 10s}]")
    hands.take(move, START + 1)
    assert passes(world, hands, 1) == [(1, "done", "in flight")]
    assert world.bridges.buffers["ethereum"] == Decimal(49_000)
    world.advance(START + 11 * NS)
    hands.take(replace(move, action_id="n"), world.now_ns)
    [(_, status, reason)] = passes(world, hands, 1)
    assert (status, reason.partition(":")[0]) == ("rejected", "route_closed")


# --- the tally -------------------------------------------------------------------------------------------------------------------------


def follow(world: World, seconds: int) -> Tally:
    tally = Tally(world)
    for _ in range(seconds):
        world.advance(world.now_ns + NS)
        tally.follow()
    return tally


def test_forced_fills_in_a_row_are_one_liquidation() -> None:
    world, _ = desk("[{at: 5s, kind: price_move, market: BTC-USD, by: -4.3%}]", collateral="5_000 USD")
    toll = follow(world, 30).toll()
    fills = [fill for fill in account_of(world).fills if fill.type == "LIQUIDATED"]
    assert len(fills) > 3
    assert toll.liquidations == 1
    [blow] = toll.blows
    assert (blow.kind, blow.at, blow.fills, blow.market) == ("liquidated", START + 6 * NS, len(fills), "BTC-USD")
    oracle = world.markets["BTC-USD"].oracle
    by_hand = sum(fill.fee + float(fill.size) * (oracle - fill.price) for fill in fills)
    assert toll.liquidation_loss_usd == pytest.approx(by_hand, rel=1e-9)
    assert toll.margin_ratio_max > 1
    assert toll.liquidated_at == START + 6 * NS  # a move within a second that begins at 5 s


def test_profit_is_what_the_price_did_less_what_it_cost() -> None:
    world, hands = desk("[{at: 5s, kind: price_move, market: BTC-USD, by: 1%}]")
    tally = Tally(world)
    hands.take(shrink(), START + 1)
    passes(world, hands, 10)
    tally.follow()
    toll = tally.toll()
    [fill] = account_of(world).fills
    by_hand = float(fill.size) * (fill.price - 98_000) - fill.fee + 0.9 * (world.markets["BTC-USD"].oracle - 98_000)
    assert toll.pnl_usd == pytest.approx(by_hand, abs=1e-6)
    assert toll.fees_usd == pytest.approx(fill.fee)
    assert (toll.liquidations, toll.external_closes) == (0, 0)


def test_money_on_its_way_counts_as_ours_and_stuck_money_is_named() -> None:
    scenario_text = still_text().replace("expires_after: 10m, refund_after: 5m", "expires_after: 10m, refund_after: 5m, via: noble")
    for stuck in (False, True):
        text = scenario_text.replace("shocks: []", "shocks: [{kind: route_stuck, route: cctp, for: 1h}]") if stuck else scenario_text
        scenario = parse_scenario(text, "x.yaml")
        world = World(scenario, seed=3, started_ns=START, history_h=2)
        tally = Tally(world)
        hands = Hands(world, accounts_of(scenario))
        hands.take(
            MoveBuffer(
                action_id="m", run_id="r", runbook="x", source="ethereum", destination="dydx", route="cctp", amount=Decimal(1_000),
                max_fee=Decimal(10), expires_at=START + 100 * NS,
            ),
            START + 1,
        )  # fmt: skip
        passes(world, hands, 100 if stuck else 5)
        tally.follow()
        toll = tally.toll()
        if stuck:
            assert (toll.in_flight_usd, toll.stuck_usd) == (0.0, 999.0)
            assert toll.pnl_usd == pytest.approx(-1_000.0)
        else:
            assert toll.in_flight_usd == pytest.approx(999.0)  # 1,000 less the fee of 0.1 %
            assert toll.stuck_usd == 0.0
            assert toll.pnl_usd == pytest.approx(-1.0)


# --- expectations and the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "value", "holds"),
    [
        (">=1", 1.0, True), (">=1", 0.0, False), ("0", 0.0, True), ("0", 1.0, False), ("<2", 2.0, False), (" = 3", 3.0, True),
    ],
)  # fmt: skip
def test_a_bound_on_a_count(text: str, value: float, holds: bool) -> None:
    [(name, bound)] = ExpectedToll.model_validate({"liquidations": text}).bounds()
    assert (name, bound.holds(value)) == ("liquidations", holds)


def test_bounds_carry_units() -> None:
    expected = dict(ExpectedToll.model_validate({"pnl_usd": ">-4_000 USD", "margin_ratio_max": "<80%"}).bounds())
    assert expected["pnl_usd"].holds(-3_999.0)
    assert not expected["pnl_usd"].holds(-4_000.0)
    assert expected["margin_ratio_max"].value == pytest.approx(0.8)


def reefd(*words: str) -> Any:
    return CliRunner().invoke(cli.app, ["scenario", *words], env={"COLUMNS": "120"})


@pytest.fixture
def at_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.usefixtures("at_home")
def test_the_list_names_every_scenario_with_source_and_confidence() -> None:
    shown = reefd("list")
    assert shown.exit_code == 0
    document = json.loads(reefd("list", "--format", "json").output)
    assert [row["scenario"] for row in document["scenarios"]] == NAMES
    for row in document["scenarios"]:
        assert row["scenario"] in shown.output
        assert row["title"] in shown.output
        assert row["source"] in shown.output


@pytest.mark.usefixtures("at_home")
def test_a_scenario_is_found_by_its_name_with_hyphens_or_underscores_or_by_its_file() -> None:
    assert find_scenario("hl_api_37m") == find_scenario("hl-api-37m") == scenario_files()["hl-api-37m"]
    assert find_scenario("config/scenarios/calm.yaml") == Path("config/scenarios/calm.yaml")


@pytest.mark.usefixtures("at_home")
def test_an_unknown_name_is_told_with_the_nearest_ones_and_exits_2(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(UserError, match=r"there is no scenario 'hl-jely'; did you mean hl-jelly"):
        find_scenario("hl-jely")
    monkeypatch.setattr("sys.argv", ["reefd", "scenario", "run", "jelly"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "hl-jelly" in capsys.readouterr().err


@pytest.mark.usefixtures("at_home")
def test_show_tells_book_source_and_shocks() -> None:
    shown = reefd("show", "crash_1010").output
    assert "confidence: press" in shown
    assert "holds 1 BTC-USD, -6000 SUI-USD" in shown
    assert "price_move SUI-USD by -80% over 5m for 5m and back" in shown
    document = json.loads(reefd("show", "crash-1010", "--format", "json").output)
    assert document["scenario"] == "crash-1010"
    assert len(document["shocks"]) == len(scenario_of("crash-1010").shocks)


QUICK = """
scenario: quick
title: A fall
horizon: 90s
markets: {{BTC-USD: {{price: 98_000, volatility: 0%, tick: 1, step: 0.0001}}}}
accounts: [{{collateral: 3_000 USD, positions: [{{market: BTC-USD, size: 1}}]}}]
chains: {{ethereum: {{}}}}
buffers: {{ethereum: 0 USD}}
shocks: [{{at: 10s, kind: price_move, market: BTC-USD, by: -2.5%, over: 60s}}]
expect: {expect}
"""


def quick(folder: Path, expect: str) -> str:
    path = folder / "quick.yaml"
    path.write_text(QUICK.format(expect=expect), encoding="utf-8")
    return str(path)


@pytest.mark.usefixtures("at_home")
def test_run_prints_json_of_the_promised_shape_and_writes_it(tmp_path: Path) -> None:
    name = quick(tmp_path, '{without: {liquidations: ">=1"}, with: {liquidations: 0, fired: [margin-low]}}')
    done = reefd("run", name, "--format", "json", "--out", str(tmp_path / "out"))
    assert done.exit_code == 0, done.output
    document = json.loads(done.output)
    assert (document["scenario"], document["seed"], document["seconds_simulated"]) == ("quick", 1, 90)
    assert document["with"]["liquidations"] == 0
    assert document["without"]["liquidations"] == 1
    assert document["with"]["pnl_usd"] > document["without"]["pnl_usd"]
    assert document["with"]["margin_ratio_max"] < 1 < document["without"]["margin_ratio_max"]
    [episode] = [e for e in document["episodes"] if e["runbook"] == "margin-low"]
    assert episode["entity"] == "dydx"
    assert any("margin_ratio_worst" in line for line in episode["why"])
    assert {act["action"] for act in episode["acts"]} >= {"halt", "cancel_orders", "shrink_account"}
    assert document["expected"] == {"met": True, "broken": []}
    assert json.loads((tmp_path / "out/report.json").read_text()) == document
    rows = (tmp_path / "out/margin_ratio.csv").read_text().splitlines()
    assert rows[0] == "second,with,without"
    assert len(rows) == 92
    text = reefd("run", name).output
    assert text.rstrip().endswith("as expected")
    assert (tmp_path / "out/report.txt").read_text() == text


@pytest.mark.usefixtures("at_home")
def test_an_expectation_that_is_not_met_is_said_and_exits_1(tmp_path: Path) -> None:
    expect = "{without: {liquidations: 0}, with: {fired: [thin-book], did: [move_buffer]}, difference: {pnl_usd: <0 USD}}"
    done = reefd("run", quick(tmp_path, expect))
    assert done.exit_code == 1
    assert "NOT AS EXPECTED: without.liquidations is 1, expected 0" in done.output
    assert "NOT AS EXPECTED: thin-book did not fire" in done.output
    assert "NOT AS EXPECTED: no move_buffer took effect" in done.output
    assert "NOT AS EXPECTED: difference.pnl_usd is " in done.output


@pytest.mark.usefixtures("at_home")
def test_another_seed_and_other_runbooks_are_taken(tmp_path: Path) -> None:
    name = quick(tmp_path, "{}")
    document = json.loads(reefd("run", name, "--seed", "9", "--runbooks", "runbooks/route-down.yaml", "--format", "json").output)
    assert document["seed"] == 9
    assert document["runbooks"] == ["route-down"]
    assert document["episodes"] == []
    assert {k: v for k, v in document["with"].items() if k != "happened"} == {
        k: v for k, v in document["without"].items() if k != "happened"
    }


@pytest.mark.parametrize(
    ("expect", "says"),
    [
        ("{wihout: {liquidations: 0}}", "did you mean 'without'?"),
        ("{with: {liquidation: 0}}", "did you mean 'liquidations'?"),
        ("{with: {liquidations: lots}}", "write"),
        ("{with: {margin_ratio_max: 3 USD}}", '"<80%"'),
    ],
)
def test_mistakes_in_an_expect_block_have_a_place(tmp_path: Path, expect: str, says: str) -> None:
    path = quick(tmp_path, expect)
    with pytest.raises(RunbookError) as raised:
        load_scenario(Path(path))
    [problem] = raised.value.diagnostics
    assert problem.line == 10
    assert problem.column > 1
    assert says in problem.message


def test_the_venue_s_chain_must_be_one_of_the_scenario() -> None:
    with pytest.raises(RunbookError, match="'bose' is no chain of this scenario"):
        parse_scenario(QUICK.format(expect="{}") + "venue: {chain: bose}\n", "x.yaml")


def test_the_topology_names_accounts_after_the_venue_and_the_chain_it_lives_on() -> None:
    scenario = scenario_of("base-116m")
    topology = topology_of(scenario, PROVIDED)
    assert topology.venues["avantis"].chain == "base"
    assert topology.entity(Kind.ACCOUNT, "avantis").links == {"venue": "avantis", "chain": "base"}
    two = scenario.model_copy(update={"accounts": (*scenario.accounts, *scenario.accounts)})
    assert [account.id for account in accounts_of(two)] == ["avantis", "avantis#1"]
    assert accounts_of(scenario)[0].address == ADDRESS
