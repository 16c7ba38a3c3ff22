"""ACCOUNT.yaml: what a replay's account may say, and what it is told when it says something else."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path

import pytest

from daemon.errors import RunbookError, UserError
from daemon.simulation.account_file import load_account, parse_account
from daemon.units import MINUTE_NS

WHOLE = """\
venue: dydx
model: dydx-v4                       # margin model
collateral: {USDC: 50_000 USD}
positions: [{market: HYPE-USD, size: 1_000, entry_price: 33.0}]
markets: {HYPE-USD: {initial_margin: 5%, maintenance_margin: 3%}}
valued_at: [oracle_price, mark_price, last_price]
buffers: {ethereum: 100_000 USD}
routes: [{name: cctp, from: ethereum, to: dydx, eta: 20m, fee: 0.1%}]
fees: {taker: 5bps}
slippage: {fixed: 5bps}
labels: {HYPE-USD: {bucket: income}}
"""


def problems(text: str) -> list[tuple[int, int, str]]:
    with pytest.raises(RunbookError) as caught:
        parse_account(text, "account.yaml")
    return [(problem.line, problem.column, problem.message) for problem in caught.value.diagnostics]


def test_account_file_reads_every_key_in_internal_units() -> None:
    spec = parse_account(WHOLE, "account.yaml")
    assert (spec.venue, spec.model, spec.collateral_usd) == ("dydx", "dydx-v4", 50_000.0)
    assert (spec.positions[0].market, spec.positions[0].size, spec.positions[0].entry_price) == ("HYPE-USD", Decimal(1000), 33.0)
    assert (spec.markets["HYPE-USD"].initial_margin, spec.markets["HYPE-USD"].maintenance_margin) == (0.05, 0.03)
    assert (spec.taker_fee, spec.slippage, spec.liquidation_fee) == (0.0005, 0.0005, 0.015)
    assert spec.buffers == {"ethereum": 100_000.0}
    route = spec.routes[0]
    assert (route.source, route.destination, route.eta_ns, route.fee) == ("ethereum", "dydx", 20 * MINUTE_NS, 0.001)
    assert spec.labels == {"HYPE-USD": {"bucket": "income"}}


def test_account_file_defaults_everything_but_venue_model_collateral_and_positions() -> None:
    spec = parse_account("venue: dydx\nmodel: dydx-v4\ncollateral: {USDC: 1000}\npositions: []\n", "account.yaml")
    assert (spec.taker_fee, spec.slippage, spec.latency_ns, spec.buffers, spec.routes) == (0.0, 0.0, 0, {}, ())
    assert spec.valued_at == ("oracle_price", "mark_price", "last_price")


def test_account_file_reports_every_mistake_at_once_with_its_place() -> None:
    held = "positions: [{market: HYPE-USD, size: lots, entry_price: 5%}]"
    found = problems(f"venue: dydx\nmodel: dydx-v9\ncolateral: {{USDC: 5}}\n{held}\nfees: {{taker: 5}}\n")
    places = [(line, column) for line, column, _ in found]
    assert places == [(1, 1), (2, 8), (3, 1), (4, 38), (4, 57), (5, 15)]
    text = "\n".join(message for _, _, message in found)
    for part in ("'collateral' is missing", "dydx-v4, found 'dydx-v9'", "did you mean 'collateral'?", "'lots'", "ratio", "5% or 5bps"):
        assert part in text


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "empty"),
        ("- a\n", "mapping"),
        ("venue: dydx\nvenue: dydx\nmodel: dydx-v4\ncollateral: {USDC: 1}\npositions: []\n", "twice"),
        (WHOLE.replace("from: ethereum", "from: solana"), "neither a chain of buffers nor the venue"),
        (WHOLE.replace("eta: 20m", "eta: soon"), "no duration"),
        (WHOLE.replace("market: HYPE-USD, size", "market: 'dydx:HYPE-USD', size"), "market alone"),
        (WHOLE.replace("positions: [", "positions: [{market: HYPE-USD, size: 1, entry_price: 1}, "), "held twice"),
        (WHOLE.replace("maintenance_margin: 3%", "maintenance_margin: 8%"), "above initial_margin"),
        (WHOLE.replace("valued_at: [oracle_price", "valued_at: [orcale_price"), "no price an account is valued at"),
        (WHOLE.replace("50_000 USD", "-1 USD"), "below 0"),
        (WHOLE.replace("taker: 5bps", "taker: 60%"), "fees.taker: found '60%', above 50%; write for example 5bps"),
        (WHOLE.replace("fee: 0.1%", "fee: 51%"), "routes[0].fee: found '51%', above 50%"),
        (WHOLE.replace("fixed: 5bps", "fixed: 500%"), "slippage.fixed: found '500%', above 50%"),
        (WHOLE.replace("initial_margin: 5%", "initial_margin: 500%"), "initial_margin: found '500%', above 100%"),
        (WHOLE.replace("maintenance_margin: 3%", "maintenance_margin: 101%"), "maintenance_margin: found '101%', above 100%"),
        (WHOLE.replace("maintenance_margin: 3%", "maintenance_margin: 8%"), "write a maintenance_margin of at most 5%"),
    ],
)
def test_account_file_says_what_to_write_when(text: str, word: str) -> None:
    assert any(word in message for _, _, message in problems(text))


def test_account_file_takes_ratios_up_to_their_limits() -> None:
    text = WHOLE.replace("taker: 5bps", "taker: 50%").replace("initial_margin: 5%", "initial_margin: 100%")
    assert parse_account(text.replace("maintenance_margin: 3%", "maintenance_margin: 100%"), "account.yaml").taker_fee == 0.5


def test_account_file_that_is_missing_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such file"):
        load_account(tmp_path / "nowhere.yaml")
