"""A recording as the past of a stress: which hours are taken, what is told of them, and how the past's own end judges it."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from daemon.app.importing import import_
from daemon.app.past import past_of, sources_of
from daemon.app.stressing import Job, book_of, play_batch, stress, stressed, with_past
from daemon.engine.limits import HouseLimits
from daemon.errors import UserError
from daemon.journal.recording import Recording
from daemon.simulation.book import Book, parse_book
from daemon.simulation.stress.heldout import held_out
from daemon.simulation.stress.history import ewma_deviations
from daemon.simulation.stress.recorded import Hourly, HourlyPast, Source
from daemon.simulation.stress.worldfile import HistorySpec, WorldSpec, parse_world
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("REEFD_DATA", ROOT.parent / "shared" / "data"))
CANDLES = DATA / "prices" / "multi7venue_5coins_candles_1h_2025-03_2026-03.parquet"
FUNDING = DATA / "funding" / "multi7venue_5coins_funding_2025-03_2026-03.parquet"
START = 1_767_225_600 * NS
LAW = HistorySpec(source="tests")
HISTORY = "world: past\nmodel: history\nhistory: {source: tests}\nassets: {default: {volatility: 50%, source: tests}}\n"
BOOK = """
book: desk
accounts:
  dydx:
    venue: dydx
    model: dydx-v4
    collateral: 10_000 USD
    markets:
      BTC-USD: {price: 100_000, initial_margin: 5%, maintenance_margin: 3%}
      ETH-USD: {price: 3_000, initial_margin: 5%, maintenance_margin: 3%}
    positions: [{market: BTC-USD, size: 1}, {market: ETH-USD, size: -10}]
"""


def rows(market: str, times: Sequence[int], venue: str = "dydx", **signals: Sequence[float | None]) -> pl.DataFrame:
    columns = {name: pl.Series(name, list(values), dtype=pl.Float64) for name, values in signals.items()}
    return pl.DataFrame({"ts": list(times), "venue": [venue] * len(times), "market": [market] * len(times), **columns})


def written(folder: Path, *frames: pl.DataFrame) -> Recording:
    Recording.write(folder, Kind.MARKET, pl.concat(frames, how="diagonal"))
    return Recording.open(folder)


def hourly(recording: Recording, **sources: Source) -> HourlyPast:
    found = Hourly({f"dydx:{name}-USD": source for name, source in sources.items()})
    for blocks in recording.slices():
        for block in blocks:
            found.take(block)
    return found.past()


def own(name: str) -> Source:
    return Source(f"dydx:{name}-USD", f"dydx:{name}-USD")


def walk(hours: int, markets: int = 2, *, seed: int = 1, volatility: float = 0.006) -> np.ndarray:
    """Closes of a random walk whose volatility wanders, correlated over markets: float64[hours, markets]."""
    rng = np.random.default_rng(seed)
    level = np.exp(0.5 * np.sin(np.arange(hours) / 40.0))[:, None] * volatility
    shared, alone = rng.standard_normal((hours, 1)), rng.standard_normal((hours, markets))
    return np.array([100_000.0, 3_000.0][:markets]) * np.exp(np.cumsum(level * (0.8 * shared + 0.6 * alone), axis=0))


def recorded(folder: Path, hours: int = 900, *, venue: str = "dydx", funding: bool = True) -> Path:
    """A recording of a walk: hourly oracle prices, and what was settled at each hour."""
    closes = walk(hours)
    times = [START + k * HOUR_NS for k in range(hours)]
    rates = np.random.default_rng(2).normal(1e-5, 2e-5, hours)
    frames = []
    for i, name in enumerate(("BTC-USD", "ETH-USD")):
        said: dict[str, Sequence[float | None]] = {"oracle_price": closes[:, i].tolist()}
        if funding:
            said["funding_rate"] = rates.tolist()
        frames.append(rows(name, times, venue, **said))
    written(folder, *frames)
    return folder


def job(world: str = HISTORY, *, steps: int = 24 * 60, book: str = BOOK) -> Job:
    return Job(
        book=("desk.yaml", book), world=("past.yaml", world), runbooks=(), house=HouseLimits(), steps=steps, start=START, seed=3,
        compiled=False,
    )  # fmt: skip


def world_of(text: str = HISTORY) -> WorldSpec:
    return parse_world(text, "past.yaml")


def book() -> Book:
    return parse_book(BOOK, "desk.yaml")


# --- the hours ------------------------------------------------------------------------------------------------------------------------


def test_close_of_an_hour_is_the_last_price_within_it_and_its_funding_what_was_settled_at_its_end(tmp_path: Path) -> None:
    minute = [START + k * MINUTE_NS for k in (1, 59, 60, 61, 119, 120, 180)]
    recording = written(
        tmp_path,
        rows("BTC-USD", minute, oracle_price=[1.0, 2.0, 3.0, 4.0, 5.0, None, 7.0]),
        rows("BTC-USD", [START + HOUR_NS + NS // 3], funding_rate=[1e-5]),
        rows("BTC-USD", [START + HOUR_NS + 2 * NS], funding_rate=[9e-5]),  # told again, of a later reading
        rows("BTC-USD", [START + 2 * HOUR_NS + 6 * MINUTE_NS], funding_rate=[8e-5]),  # no settlement any more
        rows("BTC-USD", [START + 3 * HOUR_NS], funding_rate=[3e-5]),
    )
    past = hourly(recording, BTC=own("BTC"))
    assert ((past.at - START) // HOUR_NS).tolist() == [1, 2, 3]
    assert past.closes[:, 0] == pytest.approx([3.0, 5.0, 7.0])
    # One of three hours is not known: too many to make up.
    assert np.isnan(past.funding).all()
    assert any("drawn without a premium: the funding of 1 of 3 hours" in line for line in past.told)


def test_hours_of_which_a_price_is_missing_are_left_out_with_the_move_over_them_and_told(tmp_path: Path) -> None:
    times = [START + k * HOUR_NS for k in range(8)]
    recording = written(
        tmp_path,
        rows("BTC-USD", times, oracle_price=[100.0, 110.0, 121.0, None, 500.0, 550.0, 605.0, 665.5]),
        rows("ETH-USD", times[1:], oracle_price=[10.0, 10.0, 10.0, 10.0, 10.0, 10.0, 20.0]),
    )
    past = hourly(recording, BTC=own("BTC"), ETH=own("ETH"))
    # From hour 1, where both are known; hour 3 has no BTC, so the moves into 3 and into 4 are not known: 121 -> 500 never was one hour.
    assert ((past.at - START) // HOUR_NS).tolist() == [1, 2, 5, 6, 7]
    assert np.exp(np.diff(np.log(past.closes[:, 0]))) == pytest.approx([1.1] * 4)
    assert past.closes[-1].tolist() == pytest.approx([665.5, 20.0])
    assert any("2 of 6 hours are left out" in line for line in past.told)


def test_few_unknown_fundings_are_taken_as_the_hours_before_and_a_price_that_knows_more_hours_wins(tmp_path: Path) -> None:
    times = [START + k * HOUR_NS for k in range(60)]
    rates: list[float | None] = [k * 1e-6 for k in range(60)]
    rates[0] = rates[30] = None
    oracle: list[float | None] = [None] * 20 + [7.0] * 40
    recording = written(tmp_path, rows("BTC-USD", times, oracle_price=oracle, last_price=[5.0] * 60, funding_rate=rates))
    past = hourly(recording, BTC=own("BTC"))
    assert set(past.closes[:, 0].tolist()) == {5.0}
    assert past.funding[[0, 1, 29, 30, 31], 0].tolist() == pytest.approx([1e-6, 1e-6, 29e-6, 29e-6, 31e-6])
    assert any("the funding of 2 hours is not known and taken as the hour's before" in line for line in past.told)


def test_markets_are_found_by_name_or_coin_and_what_is_not_there_says_who_has_it() -> None:
    known = ("bybit:BTC-USD", "bybit:ETH-USD", "dydx:BTC-USD")
    with pytest.raises(UserError, match="there is no ETH of dydx; bybit have it: write --history-venue bybit"):
        sources_of(book(), known, folder=Path("rec"), venue=None)
    found = sources_of(book(), known, folder=Path("rec"), venue="bybit")
    assert found == {"dydx:BTC-USD": Source("bybit:BTC-USD", "dydx:BTC-USD"), "dydx:ETH-USD": Source("bybit:ETH-USD", None)}
    with pytest.raises(UserError, match="no venue there has it"):
        sources_of(book(), ("dydx:BTC-USD",), folder=Path("rec"), venue=None)


# --- the back-test --------------------------------------------------------------------------------------------------------------------


def test_back_test_holds_where_the_end_is_like_the_rest_and_fails_where_it_is_not() -> None:
    usd = np.array([1e5, -3e4])
    like = held_out(walk(4_000), markets=("a", "b"), usd=usd, law=LAW)
    assert [(one.of, one.window_h) for one in like] == [
        ("a", 1), ("b", 1), ("the book", 1), ("a", 24), ("b", 24), ("the book", 24),
    ]  # fmt: skip
    assert [one.windows for one in like] == [1_200, 1_200, 1_200, 50, 50, 50]
    assert all(one.holds for one in like), [(one.of, one.window_h, one.p_value) for one in like]
    closes = walk(4_000)
    closes[2_800:] *= np.exp(0.004 * np.arange(1_200))[:, None]  # a trend that nothing before had
    unlike = {(one.of, one.window_h): one for one in held_out(closes, markets=("a", "b"), usd=usd, law=LAW)}
    assert not unlike["a", 1].holds
    assert not unlike["the book", 24].holds


def test_back_test_counts_failures_as_an_independent_computation_does() -> None:
    closes = walk(2_000, 1)
    found = {one.window_h: one for one in held_out(closes, markets=("a",), usd=np.zeros(1), law=LAW)}
    assert set(found) == {1, 24}  # a book that holds nothing is not tested
    # Its 1-hour forecast is the volatility by then times the quantiles of what was left of the moves before: those are known exactly.
    moves = np.diff(np.log(closes[:, 0]))
    deviations = ewma_deviations(moves[:, None], LAW.decay)[:-1, 0]
    cut = int(0.7 * len(closes)) - 1
    left = (moves[:cut] / deviations[:cut])[48:]
    left -= left.mean()
    for each in found[1].quantiles:
        expected = int(np.sum(moves[cut:] < deviations[cut:] * np.quantile(left, each.probability)))
        assert abs(each.failures - expected) <= 0.01 * each.trials + 3


def test_back_test_of_a_short_past_says_that_there_is_none(tmp_path: Path) -> None:
    past = past_of(recorded(tmp_path / "rec", 300), book(), world_of())
    assert past.tests == ()
    assert past.told[-1] == "no back-test: the past is too short to hold a part of it out"
    with pytest.raises(UserError, match="is too short to draw from"):
        past_of(recorded(tmp_path / "shorter", 100), book(), world_of())


# --- the stress -----------------------------------------------------------------------------------------------------------------------


def test_stress_draws_from_the_recording_and_its_report_carries_the_back_test(tmp_path: Path) -> None:
    made = with_past(job(), recorded(tmp_path / "rec"))
    report, tally = stressed(made, paths=8, workers=1, leave_one_out=False)
    assert len(tally) == 8
    found = report.figures["back_test"]
    assert isinstance(found, dict)
    assert (found["recording"], found["hours"]) == ("rec", 900)
    assert [(test["of"], test["window_h"]) for test in found["tests"]] == [
        (of, hours) for hours in (1, 24) for of in ("dydx:BTC-USD", "dydx:ETH-USD", "the book")
    ]
    assert all(0.0 <= test["pit"]["p"] <= 1.0 and len(test["quantiles"]) == 4 for test in found["tests"])
    json.dumps(report.figures, allow_nan=False)
    text = report.as_text()
    assert "back-test, dydx:BTC-USD over 1h: 270 windows" in text
    assert "dydx:ETH-USD is drawn from the oracle_price of dydx:ETH-USD" in text


def test_job_carries_the_past_itself_so_that_other_machines_need_no_recording(tmp_path: Path) -> None:
    folder = recorded(tmp_path / "rec")
    made = with_past(job(steps=120), folder)
    assert made == with_past(job(steps=120), folder)
    assert hash(made) == hash(with_past(job(steps=120), folder))
    here = play_batch(made, (0, 1)).tally
    sent = pickle.dumps(made)
    shutil.rmtree(folder)
    there = play_batch(pickle.loads(sent), (0, 1)).tally
    assert here.without.pnl_usd.tolist() == there.without.pnl_usd.tolist()
    assert here.without.pnl_usd[0] != here.without.pnl_usd[1]
    # Another past is another job.
    assert made != with_past(job(steps=120), recorded(tmp_path / "other", 901))


def test_history_makes_any_world_draw_from_a_past_and_a_history_world_needs_one(tmp_path: Path) -> None:
    calm = (ROOT / "config/worlds/calm.yaml").read_text(encoding="utf-8")
    folder = recorded(tmp_path / "rec")
    drawn = with_past(job(calm, steps=120), folder)
    assert play_batch(drawn, (0,)).tally.without.pnl_usd[0] != play_batch(job(calm, steps=120), (0,)).tally.without.pnl_usd[0]
    named = with_past(job(HISTORY.replace("source: tests}", f"source: tests, recording: {folder}}}", 1), steps=120))
    assert named.past is not None
    by_option = with_past(job(steps=120), folder)
    assert play_batch(named, (0,)).tally.without.pnl_usd[0] == play_batch(by_option, (0,)).tally.without.pnl_usd[0]
    with pytest.raises(UserError, match=r"draws from a recorded past; give it one \(--history DIR"):
        stressed(with_past(job()), paths=1, workers=1)


def test_command_takes_a_history_and_tells_what_is_wrong_with_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    desk, world = tmp_path / "desk.yaml", tmp_path / "past.yaml"
    desk.write_text(BOOK, encoding="utf-8")
    world.write_text(HISTORY, encoding="utf-8")

    def run(history: Path | None, venue: str | None = None) -> dict[str, object]:
        code = stress(
            book=str(desk), worlds=[str(world)], runbooks=None, nobody=True, limits=None, paths=4, horizon="2h", seed=1, workers=1,
            rare=False, dependence=True, leave_one_out=False, json_format=True, out=None, config=tmp_path,
            history=history, history_venue=venue,
        )  # fmt: skip
        assert code == 0
        found = json.loads(capsys.readouterr().out)
        assert isinstance(found, dict)
        return found

    found = run(recorded(tmp_path / "rec"))
    assert found["back_test"]["hours"] == 900  # type: ignore[index]
    recorded(tmp_path / "bybit", venue="bybit", funding=False)
    with pytest.raises(UserError, match="bybit have it: write --history-venue bybit"):
        run(tmp_path / "bybit")
    told = run(tmp_path / "bybit", "bybit")["back_test"]["told"]  # type: ignore[index]
    assert "dydx:BTC-USD is drawn from the oracle_price of bybit:BTC-USD" in told
    with pytest.raises(UserError, match="there is no recording here"):
        run(tmp_path / "none")


@pytest.mark.slow
@pytest.mark.skipif(not (CANDLES.exists() and FUNDING.exists()), reason="the real history is not here; REEFD_DATA names its folder")
def test_real_year_is_drawn_from_and_its_book_holds_over_a_day(tmp_path: Path) -> None:
    folder = tmp_path / "recording"
    for name, source in (("candles", CANDLES), ("funding", FUNDING)):
        assert import_(ROOT / "config" / "maps" / f"multi7venue_{name}.yaml", [source], folder, json_format=True) == 0
    text = (ROOT / "config/books/example.yaml").read_text(encoding="utf-8")
    made = with_past(job(book=text), folder, "bybit")
    assert made.past is not None
    assert made.past.hours > 8_700
    tests = {(one.of, one.window_h): one for one in made.past.tests}
    assert tests["the book", 24].windows == 109
    assert tests["the book", 24].holds
    # A year of five coins: the fit is no perfect one by the hour, and says so.
    assert not tests["dydx:SOL-USD", 1].holds
    own_venue = with_past(job(book=text), folder)
    assert own_venue.past is not None
    assert own_venue.past.hours < 1_100
    assert np.all(own_venue.past.residuals.premium != 0.0)
    assert book_of(own_venue).market_ids[0] == "dydx:BTC-USD"
