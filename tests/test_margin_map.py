"""`reefd margin`: the fact sheet's vectors, thresholds against an independent computation, and what the verb prints and writes."""

from __future__ import annotations

import json
import math
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.app.margins import margin as reefd_margin
from daemon.errors import UserError
from daemon.language.kernels import survivable_move_of
from daemon.simulation.book import BookAccount, BookMarket, BookPosition, load_book, parse_book
from daemon.simulation.margin_map import MOVES, account_map, hours_paid, margin_map, shocked, stand, survivable
from daemon.simulation.margin_report import as_json, as_text, page
from daemon.units import HOUR_NS, MINUTE_NS

ROOT = Path(__file__).resolve().parent.parent
Held = tuple[str, str, float, BookMarket]  # symbol, size, price and entry, rules


def fraction(initial: float, maintenance: float) -> BookMarket:
    return BookMarket(initial_margin=initial, maintenance_margin=maintenance)


def tiered(*tiers: tuple[float, float], leverage: float | None = None) -> BookMarket:
    first = tiers[0][1]
    return BookMarket(initial_margin=1.0 / (leverage or first), maintenance_margin=0.5 / first, tiers=tiers)


def account(collateral: float, *held: Held, model: str = "dydx-v4") -> tuple[BookAccount, dict[str, float]]:
    return (
        BookAccount(
            id="a", venue="v", model=model, collateral_usd=collateral,  # type: ignore[arg-type]
            positions=tuple(BookPosition(market=name, size=Decimal(size), entry_price=price) for name, size, price, _ in held),
            markets={name: rules for name, _, _, rules in held},
        ),
        {name: price for name, _, price, _ in held},
    )  # fmt: skip


# -- the fact sheet, section 4 ---------------------------------------------------------------------------------------------------


def test_vector_d1_cross_account_on_dydx() -> None:
    # Q = 150,000 with +3 BTC and -100 ETH: collateral is Q plus the cost of the positions.
    large = fraction(0.02, 0.012)
    s = stand(*account(150_000.0 + 3 * 98_000.0 - 100 * 4_100.0, ("BTC", "3", 98_000.0, large), ("ETH", "-100", 4_100.0, large)))
    assert (s.equity_usd, s.initial_usd, s.maintenance_usd, s.free_usd) == pytest.approx((34_000.0, 14_080.0, 8_448.0, 19_920.0))
    assert s.leverage == pytest.approx(20.705882, abs=1e-6)
    assert s.margin_ratio == pytest.approx(0.248470, abs=1e-6)
    assert [held.liquidation_price for held in s.positions] == pytest.approx([89_379.217273954, 4_352.490118577])
    assert s.positions[0].distance == pytest.approx(1 - 89_379.217273954 / 98_000)


def test_vector_d2_of_the_documentation() -> None:
    alone = stand(*account(1_000.0 + 3 * 3_000.0 - 3 * 3_000.0, ("ETH", "-3", 3_000.0, fraction(0.1, 0.05))))
    assert alone.positions[0].liquidation_price == pytest.approx(3_174.603, abs=1e-3)
    both = stand(*account(1_000.0, ("STRK", "1000", 1.75, fraction(0.2, 0.1)), ("ETH", "-1.5", 3_000.0, fraction(0.1, 0.05))))
    assert both.positions[1].liquidation_price == pytest.approx(3_380.952, abs=1e-3)


@pytest.mark.parametrize(
    ("size", "price", "balance", "leverage", "shown"),
    [
        ("0.015", 2_458.5, 36.864593, 50.0, 0.86915825),
        ("-0.00105", 68_240.0, 17.887922, 50.0, 84_431.79820839),
        ("0.6", 173.06, 20.735658, 20.0, 142.05186667),
        ("-0.007", 2_518.4, 17.62263, 50.0, 4_986.05799151),
    ],
)  # fmt: skip
def test_vector_h1_liquidation_prices_that_hyperliquid_has_shown(
    size: str, price: float, balance: float, leverage: float, shown: float
) -> None:
    s = stand(*account(balance, ("X", size, price, tiered((0.0, leverage))), model="hyperliquid"))
    assert s.positions[0].liquidation_price == pytest.approx(shown, abs=5e-7)


def test_vector_h2_cross_account_on_hyperliquid() -> None:
    s = stand(
        *account(10_000.0, ("BTC", "0.5", 100_000.0, tiered((0.0, 40.0))), ("ETH", "-5", 4_000.0, tiered((0.0, 25.0))), model="hyperliquid")
    )
    assert s.maintenance_usd == pytest.approx(1_025.0)
    assert [held.liquidation_price for held in s.positions] == pytest.approx([81_822.784810, 5_759.803921])


def test_vector_h3_the_second_tier_costs_more() -> None:
    s = stand(*account(5e6, ("X", "30000000", 1.0, tiered((0.0, 10.0), (20e6, 5.0))), model="hyperliquid"))
    assert s.maintenance_usd == pytest.approx(2.0e6)
    assert s.initial_usd == pytest.approx(6.0e6), "no more leverage than the tier allows"


# -- thresholds ------------------------------------------------------------------------------------------------------------------

SIZES = st.lists(st.tuples(st.floats(-50.0, 50.0).map(lambda x: round(x, 3)), st.floats(1.0, 5_000.0)), min_size=1, max_size=5)


@settings(max_examples=150, deadline=None)
@given(SIZES, st.floats(100.0, 200_000.0))
def test_survivable_move_is_the_engines_own_where_margin_is_a_fraction(held: list[tuple[float, float]], collateral: float) -> None:
    rows = [(f"M{i}", str(size), price, fraction(0.05, 0.03)) for i, (size, price) in enumerate(held) if size]
    one, prices = account(collateral, *rows)
    s = stand(one, prices)
    expected = survivable_move_of(s.equity_usd, s.maintenance_usd, s.net_usd)
    found = min(s.survivable_down, s.survivable_up)
    if math.isinf(expected) or expected > 1e5:
        assert math.isinf(found) or found > 0.9e5
    else:
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(SIZES, st.floats(100.0, 200_000.0), st.floats(0.0, 0.2), st.sampled_from([-1, 1]))
def test_threshold_divides_the_living_from_the_liquidated_with_tiers_and_funding(
    held: list[tuple[float, float]], collateral: float, paid: float, direction: int
) -> None:
    rows = [
        (f"M{i}", str(size), price, tiered((0.0, 20.0), (20_000.0, 10.0), (90_000.0, 5.0))) for i, (size, price) in enumerate(held) if size
    ]
    one, prices = account(collateral, *rows, model="hyperliquid")
    threshold = survivable(one, prices, direction=direction, funding_share=paid)

    def gone(move: float) -> bool:
        equity, kept = shocked(one, prices, direction * move, paid)
        return kept > 0.0 and kept > equity

    if threshold == 0.0:
        assert gone(0.0)
        return
    top = 0.999 if direction < 0 else 50.0
    for k in range(200):
        move = top * k / 200
        if abs(move - threshold) > 1e-9:
            assert gone(move) == (move > threshold)


def test_funding_counts_every_hour_that_a_delay_can_hold() -> None:
    assert [hours_paid(delay) for delay in (0, MINUTE_NS, HOUR_NS, HOUR_NS + 1, 24 * HOUR_NS)] == [0, 1, 1, 2, 24]


def test_each_cell_of_the_map_is_the_account_after_its_shock() -> None:
    one, prices = account(40_000.0, ("BTC", "2", 98_000.0, fraction(0.02, 0.012)), ("ETH", "-30", 3_300.0, fraction(0.02, 0.012)))
    found = account_map(one, prices)
    # 1 %/h for 4 h against a fall of 10 %, by hand.
    notional = 0.9 * (2 * 98_000.0 + 30 * 3_300.0)
    equity = 40_000.0 - 0.1 * (2 * 98_000.0 - 30 * 3_300.0) - 0.04 * notional
    assert found.ratios[2][2][MOVES.index(-0.1)] == pytest.approx(0.012 * notional / equity)
    by_funding = {(t.funding_rate, t.delay_ns): t.down for t in found.thresholds}
    assert by_funding[(0.0, 0)] > by_funding[(0.001, HOUR_NS)] > by_funding[(0.01, HOUR_NS)] > by_funding[(0.01, 4 * HOUR_NS)]


def test_an_empty_account_and_one_that_is_gone_are_said_to_be_so() -> None:
    empty = stand(*account(1_000.0))
    assert (empty.margin_ratio, math.isinf(empty.survivable_down), empty.positions) == (0.0, True, ())
    gone = stand(*account(10.0, ("BTC", "1", 100_000.0, fraction(0.02, 0.012))))
    assert (gone.liquidatable, gone.survivable_down, gone.survivable_up, gone.positions[0].distance) == (True, 0.0, 0.0, 0.0)


# -- what is printed -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["example", "two-venues"])
def test_document_text_and_page_tell_the_same(name: str) -> None:
    book = load_book(ROOT / f"config/books/{name}.yaml")
    maps = margin_map(book)
    document = json.loads(json.dumps(as_json(book, maps), allow_nan=False))
    text, shown = as_text(book, maps), page(book, maps)
    axes = document["axes"]
    for told, one in zip(document["accounts"], maps, strict=True):
        ratios = told["map"]["margin_ratio"]
        assert (len(ratios), len(ratios[0]), len(ratios[0][0])) == tuple(
            map(len, (axes["funding_rates_hourly"], axes["delays_s"], axes["moves"]))
        )
        assert told["map"]["liquidated"][0][0][axes["moves"].index(0.0)] is False
        for held in told["positions"]:
            if held["liquidation_price"] is not None:
                price = f"{held['liquidation_price']:,.6g}"
                assert price in text
                assert price in shown
        assert f"{100 * one.standing.margin_ratio:.0f}%" in shown
    assert "LIQ" in text
    assert ">LIQ</td>" in shown
    assert "http" not in shown.replace("http-equiv", "")


def test_verb_prints_and_writes_and_asks_for_a_missing_price(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert reefd_margin(ROOT / "config/books/example.yaml", json_format=True, out=tmp_path / "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert document["accounts"][0]["margin_ratio"] == pytest.approx(0.3158, abs=1e-4)
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"margin.json", "margin.txt", "margin.html"}
    unpriced = parse_book(
        "book: x\naccounts:\n  dydx:\n    venue: dydx\n    model: dydx-v4\n    collateral: 5 USD\n"
        "    markets: {BTC-USD: {initial_margin: 2%, maintenance_margin: 1%}}\n"
        "    positions: [{market: BTC-USD, size: 1, entry_price: 9}]\n",
        "x.yaml",
    )
    with pytest.raises(UserError, match="BTC-USD of account 'dydx' has no price"):
        margin_map(unpriced)
