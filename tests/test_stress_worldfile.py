"""World files: what is shipped loads with its sources, and every mistake is found at its line and column."""

from __future__ import annotations

import pytest
from stress_paths import WORLDS, source, world, written

from daemon.errors import RunbookError, UserError
from daemon.simulation.stress.worldfile import REGIMES, load_world, parse_world
from daemon.units import MINUTE_NS

GOOD = """world: mine
model: jump-diffusion
regimes:
  initial: {calm: 100%}
  moves: {calm: {stressed: 0.5/d}}
  stressed: {volatility: 2}
  crisis: {volatility: 4}
  source: a
assets:
  default: {volatility: 80%, source: a}
  BTC: {volatility: 40%}
venues:
  dydx-v4: {halt: {rate: 1/30d, typical: 1h, p95: 2h, source: a}, source: a}
routes:
  cctp: {typical: 5m, p95: 9m, source: a}
"""


@pytest.mark.parametrize("name", ["calm", "stressed", "gbm"])
def test_a_shipped_world_loads_and_says_where_every_section_is_from(name: str) -> None:
    shipped = world(name)
    assert shipped.world == name
    sections = dict(shipped.sources())
    assert all(text.strip() for text in sections.values())
    expected = {"assets.default", "routes.default"}
    if name != "gbm":
        expected |= {
            "regimes",
            "jumps",
            "copula",
            "venues.dydx-v4",
            "venues.dydx-v4.premium",
            "venues.hyperliquid.oracle",
            "chains.arbitrum",
        }
        assert any("assumed" in text for text in sections.values())
        assert any("bybit 2025-26" in text for text in sections.values())
    assert expected <= set(sections)


def test_the_shipped_worlds_make_paths_of_any_coin() -> None:
    for name in ("calm", "stressed", "gbm"):
        markets = ("dydx:BTC-USD", "dydx:NEW-USD", "hyperliquid:DOGE-USD", "elsewhere:SOL-USD")
        path = source(world(name), steps=90, markets=markets, prices=dict.fromkeys(markets, 1.0)).path(0)
        assert path.mid.shape == (4, 90)


def test_entries_inherit_from_their_default_and_rates_are_hourly() -> None:
    mine = parse_world(GOOD, "mine.yaml")
    assert mine.asset("BTC").volatility == 0.4
    assert mine.asset("BTC").source == "a"
    assert mine.asset("OTHER").volatility == 0.8
    assert mine.regimes is not None
    assert mine.regimes.moves["calm"]["stressed"] == pytest.approx(0.5 / 24)
    halt = mine.venues["dydx-v4"].halt
    assert halt is not None
    assert halt.rate == pytest.approx(1 / 720)
    route = mine.route("", "cctp")
    assert route is not None
    assert route.typical == 5 * MINUTE_NS
    assert mine.route("", "other") is None
    assert [m.volatility for m in mine.regimes.multipliers()] == [1.0, 2.0, 4.0]
    assert len(REGIMES) == 3


@pytest.mark.parametrize(
    ("old", "new", "where", "message"),
    [
        ("volatility: 80%", "volatility: 80", "mine.yaml:10:25", "expected ratio"),
        ("volatility: 80%", "volatilty: 80%", "mine.yaml:10:13", "did you mean 'volatility'"),
        ("initial: {calm: 100%}", "initial: {calm: 90%}", "mine.yaml:4:12", "add up to 100%"),
        ("0.5/d", "0.5", "mine.yaml:5:28", "0.5/d"),
        ("{stressed: 0.5/d}", "{calm: 0.5/d}", "mine.yaml:5:24", "does not move to itself"),
        ("typical: 1h, p95: 2h", "typical: 3h, p95: 2h", "mine.yaml:13:51", "slow tail"),
        ("typical: 5m, p95: 9m", "typical: 5m, p95: 4m", "mine.yaml:15:9", "do not rise"),
        ("model: jump-diffusion", "model: gbm", "mine.yaml:4:3", "gbm world has no regimes"),
        ("model: jump-diffusion", "model: heston", "mine.yaml:2:8", "heston"),
        ("world: mine", "world: My World", "mine.yaml:1:8", "pattern"),
        (", source: a}\n  BTC", "}\n  BTC", "mine.yaml:10:12", "'source' is missing"),
        ("dydx-v4:", "dydx-v3:", "mine.yaml:13", "dydx-v4"),
    ],
)
def test_a_mistake_is_found_at_its_line_and_column(old: str, new: str, where: str, message: str) -> None:
    assert old in GOOD
    with pytest.raises(RunbookError) as caught:
        parse_world(GOOD.replace(old, new, 1), "mine.yaml")
    rendered = [problem.render() for problem in caught.value.diagnostics]
    assert any(text.startswith(where) and message in text for text in rendered), rendered


def test_all_mistakes_are_told_at_once() -> None:
    spoiled = GOOD.replace("80%", "80").replace("100%", "10%").replace("typical: 5m", "typical: soon")
    with pytest.raises(RunbookError) as caught:
        parse_world(spoiled, "mine.yaml")
    assert {problem.line for problem in caught.value.diagnostics} >= {4, 10, 15}


@pytest.mark.parametrize(("pair", "message"), [("BTC", "no pair of coins"), ("BTC/BTC", "no pair of coins"), ("ETH/BTC", "there twice")])
def test_pairs_of_coins_are_two_and_named_once(pair: str, message: str) -> None:
    with pytest.raises(RunbookError, match=message):
        parse_world(GOOD + f"copula: {{pairs: {{BTC/ETH: 50%, {pair}: 50%}}, source: a}}\n", "mine.yaml")


def test_correlations_that_contradict_each_other_are_refused_with_their_coins() -> None:
    of = written("assets: {default: {volatility: 50%, source: a}}\ncopula: {pairs: {BTC/ETH: 95%, BTC/SOL: 95%, ETH/SOL: -50%}, source: a}")
    markets = ("dydx:BTC-USD", "dydx:ETH-USD", "dydx:SOL-USD")
    with pytest.raises(UserError, match="BTC, ETH, SOL"):
        source(of, markets=markets, prices=dict.fromkeys(markets, 1.0))


def test_a_market_that_the_world_does_not_know_is_named() -> None:
    of = written("assets: {ETH: {volatility: 50%, source: a}}")
    with pytest.raises(UserError, match="BTC, HYPE"):
        source(of)


def test_a_file_that_is_not_there_or_empty_says_what_to_give() -> None:
    with pytest.raises(UserError, match="--world names a file"):
        load_world(WORLDS / "none.yaml")
    with pytest.raises(RunbookError, match="a world starts with"):
        parse_world("", "empty.yaml")
