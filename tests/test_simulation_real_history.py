"""The main job on real hourly history of seven venues: the HYPE spike of 2026-02-03 is found, shrunk and reported honestly."""

from __future__ import annotations

import json
import os
from pathlib import Path

import polars as pl
import pytest

from daemon.app.importing import import_
from daemon.app.replaying import replay

HERE = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("REEFD_DATA", HERE.parent / "shared" / "data"))
CANDLES = DATA / "prices" / "multi7venue_5coins_candles_1h_2025-03_2026-03.parquet"
FUNDING = DATA / "funding" / "multi7venue_5coins_funding_2025-03_2026-03.parquet"

ABSENT = "the real history is not here; REEFD_DATA names its folder"
pytestmark = pytest.mark.skipif(not (CANDLES.exists() and FUNDING.exists()), reason=ABSENT)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("history") / "recording"
    for name, source in (("candles", CANDLES), ("funding", FUNDING)):
        assert import_(HERE / "config" / "maps" / f"multi7venue_{name}.yaml", [source], folder, json_format=True) == 0
    return folder


def test_replay_of_real_history_finds_the_spike_and_the_gap_shrinks_and_calls_it_an_anecdote(
    recording: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    folder = HERE / "docs" / "real-history"
    code = replay(recording, runbooks=[folder / "runbooks"], account=folder / "account.yaml", json_format=True, out=None, limits=None)
    assert code == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 207_204
    spike, gap = report["episodes"]
    assert (spike["runbook"], spike["entity"], spike["fired_at"]) == ("hype-funding-spike", "dydx:HYPE-USD", "2026-02-03T17:00:00.294Z")
    assert (gap["runbook"], gap["fired_at"], gap["cleared_at"]) == ("venue-apart", "2026-02-03T18:00:00.000Z", "2026-02-03T19:00:00.000Z")
    shrinks = [action for action in spike["actions"] if action["action"] == "shrink_position"]
    assert [(action["outcome"], action["size"]) for action in shrinks] == [("done", 250.0), ("done", 250.0)]
    assert report["clusters"] == 1
    assert "an anecdote, not evidence" in report["verdict"]
    _without_matches_an_independent_computation(report["without"])
    fees = sum(action["notional_usd"] for action in shrinks) * 0.0005
    assert report["with"]["fees_usd"] == pytest.approx(fees)
    assert report["with"]["pnl_usd"] - report["without"]["pnl_usd"] == pytest.approx(report["difference"]["pnl_usd"])


def _without_matches_an_independent_computation(without: dict[str, float]) -> None:
    """1,000 HYPE held through: each settlement on the last close known at it, and the closes at both ends; in polars alone."""
    mine = (pl.col("venue") == "dydx") & (pl.col("coin") == "HYPE")
    bars = pl.read_parquet(CANDLES).filter(mine).sort("timestamp")
    bars = bars.select(known=pl.col("timestamp").cast(pl.Datetime("ms", "UTC")) + pl.duration(hours=1), price="c")
    rates = pl.read_parquet(FUNDING).filter(mine).sort("timestamp")
    rates = rates.select(known=pl.col("timestamp").cast(pl.Datetime("ms", "UTC")), rate="funding_rate")
    paid = rates.join_asof(bars.rename({"known": "bar_known"}), left_on="known", right_on="bar_known", strategy="backward")
    paid = paid.filter((pl.col("known") - pl.col("bar_known")) <= pl.duration(hours=1))
    funding = -1000.0 * paid.select((pl.col("price") * pl.col("rate")).sum()).item()
    assert without["funding_usd"] == pytest.approx(funding, rel=1e-9)
    direction = 1000.0 * (bars["price"][-1] - bars["price"][0])
    assert without["pnl_usd"] == pytest.approx(direction + funding, rel=1e-9)
