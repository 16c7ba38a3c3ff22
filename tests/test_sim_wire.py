"""The indexer's shapes: what is printed reads back as it was, foreign fields are ignored, wrong shapes are named."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.edges.dydx import wire
from daemon.errors import EdgeError

FIXTURES = Path(__file__).resolve().parents[2] / "shared/data/fixtures/dydx_v4_ccxt"
AT = 1_770_000_000_294_000_000

MARKET = wire.Market(
    ticker="BTC-USD",
    clob_pair_id=0,
    status="ACTIVE",
    oracle_price=118976.5376,
    next_funding_rate=0.0000125,
    initial_margin=0.02,
    maintenance_margin=0.012,
    open_interest=52.0691,
    tick_size=Decimal(1),
    step_size=Decimal("0.0001"),
    price_change_24h=-659.9736,
    volume_24h=1292729.3605,
    trades_24h=9387,
    default_funding_rate_1h=0.0,
)
POSITION = wire.Position(
    market="BTC-USD",
    status="OPEN",
    size=-0.407,
    entry_price=118692.04,
    unrealized_pnl=-57.26,
    net_funding=503.13,
    max_size=-0.409,
    created_at=AT,
    created_at_height=44140908,
)
ORDER = wire.Order(
    id="e1d3",
    client_id=716238006,
    ticker="BTC-USD",
    side="BUY",
    size=Decimal("0.001"),
    price=Decimal("400000"),
    total_filled=Decimal("0.001"),
    status="FILLED",
    time_in_force="IOC",
    reduce_only=True,
    good_til_block=12,
    updated_at=AT,
    updated_at_height=7,
)


def through_json(payload: object) -> object:
    return json.loads(json.dumps(payload))


def test_markets_read_back_as_they_were_printed() -> None:
    assert wire.parse_markets(through_json(wire.print_markets([MARKET]))) == {"BTC-USD": MARKET}


def test_printed_numbers_are_decimal_strings_without_exponents_and_counts_are_numbers() -> None:
    printed = MARKET.as_json()
    assert printed["nextFundingRate"] == "0.0000125"
    assert printed["trades24H"] == 9387
    assert printed["clobPairId"] == "0"


def test_account_shapes_read_back_as_they_were_printed() -> None:
    subaccount = wire.Subaccount(
        address="dydx1x",
        number=0,
        equity=161451.04,
        free_collateral=152508.28,
        positions={"BTC-USD": POSITION},
        assets={"USDC": wire.AssetPosition(symbol="USDC", size=-12.5)},
        latest_processed_block_height=52246761,
    )
    assert wire.parse_subaccount(through_json(wire.print_subaccount(subaccount))) == subaccount
    assert wire.parse_subaccount(through_json(subaccount.as_json())) == subaccount, "the published schema has no envelope"
    assert wire.parse_positions(through_json({"positions": [POSITION.as_json()]})) == (POSITION,)
    assert wire.parse_orders(through_json([ORDER.as_json()])) == (ORDER,)
    assert subaccount.as_json()["assetPositions"] == {
        "USDC": {"symbol": "USDC", "side": "SHORT", "size": "12.5", "assetId": "0", "subaccountNumber": 0}
    }


def test_a_short_is_negative_even_where_the_source_sends_it_unsigned() -> None:
    body = POSITION.as_json() | {"size": "0.407"}
    assert wire.parse_positions({"positions": [body]})[0].size == -0.407


def test_histories_read_back_as_they_were_printed() -> None:
    funding = wire.FundingRow(ticker="BTC-USD", rate=-0.0000125, price=118976.5, effective_at=AT, effective_at_height=44500000)
    candle = wire.Candle(ticker="BTC-USD", resolution="1MIN", started_at=1_770_000_000 * 10**9, open=2, high=3, low=1, close=2)
    fill = wire.Fill(
        id="f", market="BTC-USD", side="SELL", size=Decimal("0.1"), price=9.5, fee=0.1, liquidity="TAKER", type="LIMIT",
        created_at=AT, created_at_height=3, order_id="o",
    )  # fmt: skip
    payment = wire.FundingPayment(
        ticker="BTC-USD", perpetual_id=0, created_at=AT, created_at_height=3, oracle_price=98000, size=-3, rate=0.0000125, payment=3.675,
    )  # fmt: skip
    transfer = wire.Transfer(
        id="t", type="DEPOSIT", size=10.0, created_at=AT, created_at_height=3, sender="noble1x", recipient="dydx1x", recipient_subaccount=0
    )
    assert wire.parse_funding(through_json({"historicalFunding": [funding.as_json()]})) == (funding,)
    assert wire.parse_candles(through_json({"candles": [candle.as_json()]})) == (candle,)
    assert wire.parse_fills(through_json({"fills": [fill.as_json()]})) == (fill,)
    assert wire.parse_funding_payments(through_json({"fundingPayments": [payment.as_json()]})) == (payment,)
    assert wire.parse_transfers(through_json({"transfers": [transfer.as_json()]})) == (transfer,)
    assert "subaccountNumber" not in str(transfer.as_json()["sender"])


def test_time_is_in_seconds_and_height_has_the_blocks_time() -> None:
    assert wire.print_time(AT) == {"iso": "2026-02-02T02:40:00.294Z", "epoch": 1770000000.294}
    assert wire.parse_time(wire.print_time(AT)) == AT
    height = wire.Height(height=52246761, at=AT)
    assert wire.parse_height(through_json(height.as_json())) == height
    assert height.as_json()["height"] == "52246761"


def test_unknown_fields_are_ignored_and_the_book_is_sorted() -> None:
    body = {"bids": [{"price": "9", "size": "1", "offset": 7}, {"price": "10", "size": "2"}], "asks": [], "extra": {}}
    assert wire.parse_orderbook(body).bids == ((10.0, 2.0), (9.0, 1.0))


@pytest.mark.parametrize(
    ("parse", "payload", "named"),
    [
        (wire.parse_markets, {"markets": []}, "markets"),
        (wire.parse_markets, {"markets": {"BTC-USD": {"ticker": "BTC-USD", "status": "ACTIVE"}}}, "markets.BTC-USD.initialMarginFraction"),
        (wire.parse_markets, [], "the reply"),
        (wire.parse_orderbook, {"bids": [{"price": "x", "size": "1"}], "asks": []}, "bids[0].price"),
        (wire.parse_orderbook, {"bids": [{"price": "NaN", "size": "1"}], "asks": []}, "bids[0].price"),
        (wire.parse_funding, {"historicalFunding": [{"ticker": "A", "rate": "0", "price": "1", "effectiveAt": 5}]}, "effectiveAt"),
        (wire.parse_candles, {"candles": None}, "candles"),
        (wire.parse_subaccount, {"subaccount": {"address": "a"}}, "subaccount.openPerpetualPositions"),
        (wire.parse_orders, {"orders": []}, "orders"),
        (wire.parse_orders, [{"id": "x", "clientId": "1.5"}], "orders[0].clientId"),
        (wire.parse_height, {"height": True, "time": "2026-01-01T00:00:00Z"}, "height"),
        (wire.parse_time, "<html>", "the reply"),
    ],
)
def test_a_wrong_shape_is_an_edge_error_that_names_the_field(parse: object, payload: object, named: str) -> None:
    with pytest.raises(EdgeError) as caught:
        parse(payload)  # type: ignore[operator]
    assert named in str(caught.value)
    assert caught.value.reason == "wrong_shape"


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_decimal_text_reads_back_exactly_and_has_no_exponent(value: float) -> None:
    text = wire.decimal_text(value)
    assert float(text) == value
    assert "e" not in text.lower()


def test_error_texts_are_read_from_error_bodies_only() -> None:
    assert wire.parse_errors(wire.print_errors("one", "two")) == "one; two"
    assert wire.parse_errors("<html>") == ""


@pytest.mark.skipif(not FIXTURES.exists(), reason="the recorded payloads are not on this machine")
def test_recorded_payloads_of_the_real_indexer_are_read_and_printed_alike() -> None:
    def recorded(name: str) -> dict[str, object]:
        body = json.loads((FIXTURES / name).read_text())["response"]
        assert isinstance(body, dict)
        return body

    body = recorded("perpetualMarkets.json")
    [parsed] = wire.parse_markets(body).values()
    assert parsed.oracle_price == 118700.5426
    printed = parsed.as_json()
    [original] = body["markets"].values()  # type: ignore[attr-defined]
    assert printed.keys() == original.keys()
    for key, value in original.items():
        assert type(printed[key]) is type(value), key
        if isinstance(value, str) and key not in ("ticker", "status", "marketType"):
            assert float(str(printed[key])) == float(value), key
        else:
            assert printed[key] == value, key
    [candle] = wire.parse_candles(recorded("candles_perpetualMarkets_BTC-USD_1MIN.json"))
    assert candle.close == 118810.0
    [row] = wire.parse_funding(recorded("historicalFunding_BTC-USD.json"))
    assert (row.rate, row.effective_at % 1_000_000_000) == (0.000176, 53_000_000)
    assert wire.parse_time(recorded("time.json")) == 1753767908 * 10**9
