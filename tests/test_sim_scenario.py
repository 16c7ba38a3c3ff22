"""Scenario files: the shipped ones load and start calm; a user's mistakes are all told at once, each at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
from sim_world import START, still_text

from daemon.errors import RunbookError, UserError
from daemon.simulation.scenario import PriceMove, load_scenario, parse_scenario
from daemon.simulation.world import World
from daemon.units import DAY_NS, HOUR_NS, NS, iso
from daemon.world.margin import margin_ratio

SHIPPED = sorted((Path(__file__).resolve().parent.parent / "config/scenarios").glob("*.yaml"))


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_scenario_starts_calm_with_warm_windows(path: Path) -> None:
    scenario = load_scenario(path)
    assert scenario.scenario == path.stem
    world = World(scenario, seed=scenario.seed, started_ns=scenario.started_ns(START))
    for market in world.markets.values():
        assert market.status == "ACTIVE"
        bids, asks = market.book()
        assert bids[0][0] < asks[0][0]
        assert abs(market.oracle / market.index - 1) < 0.001
        assert world.started_ns - market.settled[0].at >= 8 * DAY_NS
        gaps = {round((b.at - a.at) / HOUR_NS) for a, b in zip(market.settled, list(market.settled)[1:], strict=False)}
        assert gaps == {1}, "an hour without a settlement"
        assert world.started_ns - market.all_bars()[0].minute * 60 * NS >= 25 * HOUR_NS
    for account in world.exchange.subaccounts.values():
        margins = world.exchange.margins(account)
        assert margins.equity >= margins.initial


def test_there_are_shipped_scenarios() -> None:
    assert {path.stem for path in SHIPPED} >= {"calm", "demo", "funding-spike", "oracle-freeze", "thin-book", "bridge-stall"}


def test_demo_spikes_diverges_and_squeezes_an_account_that_nobody_tends() -> None:
    scenario = load_scenario(next(path for path in SHIPPED if path.stem == "demo"))
    world = World(scenario, seed=scenario.seed, started_ns=scenario.started_ns(START))
    seen = {"rate": 0.0, "divergence": 0.0, "ratio": 0.0}
    account = next(iter(world.exchange.subaccounts.values()))
    for second in range(0, 1200, 5):
        world.advance(world.started_ns + second * NS)
        margins = world.exchange.margins(account)
        eth = world.markets["ETH-USD"]
        seen["rate"] = max(seen["rate"], world.markets["HYPE-USD"].settled[-1].rate)
        seen["divergence"] = max(seen["divergence"], abs(eth.index / eth.oracle - 1))
        seen["ratio"] = max(seen["ratio"], margin_ratio(margins.equity, margins.maintenance))
    assert seen["rate"] > 0.0005
    assert seen["divergence"] > 0.02
    assert seen["ratio"] > 0.6


def test_every_mistake_is_told_at_once_at_its_line_and_column() -> None:
    text = still_text(
        positions="[{market: BTC-USDT, size: 1}, {market: ETH-USD, size: 0.0005}]",
        shocks="[{at: 1m, kind: price_moove, market: BTC-USD, by: 5%}, {at: 1m, kind: price_move, market: BTC-USD, by: 5, over: 10s}, "
        "{at: soon, kind: oracle_freeze, market: ETH-USD}, {kind: sequencer_stop, chain: ethereum, for: 1m}]",
    ).replace("eta: 60s", "eta: 60s, tolls: 1")
    with pytest.raises(RunbookError) as caught:
        parse_scenario(text, "x.yaml")
    told = {(d.line, d.code): d for d in caught.value.diagnostics}
    messages = str(caught.value)
    for expected in (
        "'BTC-USDT' is no market of this scenario; did you mean 'BTC-USD'?",
        "the size 0.0005 is no multiple of the market's step 0.001",
        "'price_moove' is no kind of shock; did you mean 'price_move'?",
        "expected ratio, found '5'; write for example 2%",
        "'soon' is no duration",
        "the key 'for' is missing",
        "unknown key 'tolls'",
        "'ethereum' has no sequencer",
    ):
        assert expected in messages
    lines = text.splitlines()
    for d in told.values():
        assert 1 <= d.line <= len(lines)
        assert d.column <= len(lines[d.line - 1]) + 1
    toll = next(d for d in caught.value.diagnostics if "tolls" in d.message)
    assert lines[toll.line - 1][toll.column - 1 :].startswith("tolls")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "a scenario starts with"),
        ("- a\n- b\n", "a scenario is a mapping"),
        ("scenario: x\n", "the key 'markets' is missing"),
        ("scenario: x\nscenario: y\n", "scenario"),
        ("a:\n\tb: 1\n", "tab"),
        (still_text(btc=", maintenance_margin: 3%"), "maintenance_margin"),
        (still_text().replace("maintenance_margin: 1.2%", "maintenance_margin: 3%", 1), "maintenance margin 3% is above initial margin 2%"),
        (still_text().replace("buffers: {ethereum", "buffers: {etherium"), "'etherium' is no chain of this scenario; did you mean"),
        (still_text().replace("to: dydx, eta: 60s", "to: dydxx, eta: 60s"), "'dydxx' is no chain or venue"),
    ],
)
def test_a_file_that_cannot_be_used_says_why(text: str, expected: str) -> None:
    with pytest.raises(RunbookError) as caught:
        parse_scenario(text, "x.yaml")
    assert expected in str(caught.value)


def test_a_missing_file_is_one_readable_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_scenario(tmp_path / "none.yaml")


def test_the_start_is_the_walls_now_or_a_fixed_time_or_a_minute_of_the_hour() -> None:
    assert parse_scenario(still_text(), "x").started_ns(START) == START
    fixed = parse_scenario("start: 2026-02-03T16:40:00Z\n" + still_text(), "x")
    assert iso(fixed.started_ns(START)) == "2026-02-03T16:40:00.000Z"
    earlier = parse_scenario("minute_of_hour: 30\n" + still_text(), "x").started_ns(START)
    later = parse_scenario("minute_of_hour: 50\n" + still_text(), "x").started_ns(START)
    assert (iso(earlier), iso(later)) == ("2026-02-02T02:30:00.000Z", "2026-02-02T01:50:00.000Z")


def test_units_are_converted_once() -> None:
    scenario = parse_scenario(still_text(shocks="[{at: 1m, kind: price_move, market: all, by: -50bps, over: 10s, for: 1m}]"), "x")
    [shock] = scenario.shocks
    assert shock == PriceMove(kind="price_move", at="60s", market="all", by="-0.5%", over="10s", lasts="60s")  # type: ignore[arg-type]
    assert scenario.routes["cctp"].fee == 0.001
    assert scenario.markets["BTC-USD"].maintenance_margin == 0.012
