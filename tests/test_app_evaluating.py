"""`reefd eval` and `reefd explain` over recordings the test writes itself: windows equal an independent polars computation to 1e-9."""

from __future__ import annotations

import json
import math
import resource
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from daemon.app.evaluating import evaluate, explain
from daemon.app.importing import import_
from daemon.errors import RunbookError, UserError

T0 = 1_700_000_000_000_000_000
MINUTE = 60_000_000_000
MAP = """kind: market
time: {column: t, format: epoch_ns}
entity: {venue: {column: venue}, market: {const: HYPE-USD}}
signals:
  last_price: {column: last, unit: price, holds_for: 2h}
  oracle_price: {column: oracle, unit: price, holds_for: 10m}
  funding_rate: {column: funding, unit: rate/8h, holds_for: 8h}
"""


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, pl.DataFrame]:
    """Two venues, one row a jittered minute, with holes, and funding only now and then."""
    folder = tmp_path_factory.mktemp("recording")
    rng = np.random.default_rng(7)
    n = 4000
    steps = rng.choice([20, 60, 60, 60, 61, 600], n) * 1_000_000_000 + rng.integers(0, 10**6, n)
    ts = T0 + np.cumsum(steps)
    last = 33 * np.exp(np.cumsum(rng.normal(0, 1e-3, n)))
    frame = pl.DataFrame(
        {
            "t": ts,
            "venue": rng.choice(["dydx", "binance"], n, p=[0.7, 0.3]),
            "last": last,
            "oracle": last * (1 + rng.normal(0, 1e-3, n)),
            "funding": np.where(rng.random(n) < 0.1, rng.normal(1e-4, 1e-4, n), np.nan),
        }
    ).with_columns(pl.col("funding").fill_nan(None))
    frame.write_parquet(folder / "source.parquet")
    (folder / "map.yaml").write_text(MAP)
    assert import_(folder / "map.yaml", [folder / "source.parquet"], folder / "out", json_format=True) == 0
    return folder / "out", frame


def evaluated(recording: Path, expression: str, entity: str = "dydx:HYPE-USD") -> pl.DataFrame:
    out = recording.parent / "values.csv"
    assert evaluate(expression, recording=recording, entity=entity, out=out) == 0
    return pl.read_csv(out, schema={"ts": pl.Int64, "value": pl.Float64})


def dydx(frame: pl.DataFrame) -> pl.DataFrame:
    return frame.filter(pl.col("venue") == "dydx").with_columns(pl.from_epoch("t", time_unit="ns").alias("at"))


@pytest.mark.parametrize(
    ("expression", "window"),
    [
        ("mean(oracle_price, 1h)", pl.col("oracle").rolling_mean_by("at", "1h")),
        ("std(oracle_price, 1h)", pl.col("oracle").rolling_std_by("at", "1h")),
        ("min(oracle_price, 2h)", pl.col("oracle").rolling_min_by("at", "2h")),
        ("max(oracle_price, 2h)", pl.col("oracle").rolling_max_by("at", "2h")),
        ("sum(last_price, 3h)", pl.col("last").rolling_sum_by("at", "3h")),
        ("quantile(last_price, 90%, 3h)", pl.col("last").rolling_quantile_by("at", "3h", quantile=0.9, interpolation="linear")),
        (
            "zscore(oracle_price, 6h)",
            (pl.col("oracle") - pl.col("oracle").rolling_mean_by("at", "6h")) / pl.col("oracle").rolling_std_by("at", "6h"),
        ),
    ],
)
def test_windows_equal_an_independent_computation_to_1e_9(recording: tuple[Path, pl.DataFrame], expression: str, window: pl.Expr) -> None:
    folder, frame = recording
    got = evaluated(folder, expression)
    expected = dydx(frame).select("t", window.alias("expected"))
    assert got["ts"].to_list() == expected["t"].to_list()
    both = got.with_columns(expected["expected"]).drop_nulls()
    assert len(both) > 1500
    error = ((both["value"] - both["expected"]).abs() / both["expected"].abs().clip(1e-6, None)).max()
    assert error is not None
    assert error < 1e-9  # type: ignore[operator]


def test_a_window_is_unknown_until_its_argument_is_as_old_as_it_and_nulls_leave_it_standing(recording: tuple[Path, pl.DataFrame]) -> None:
    folder, frame = recording
    got = evaluated(folder, "count(funding_rate, 12h)")
    rows = dydx(frame)
    seen = [(t, f) for t, f in zip(rows["t"].to_list(), rows["funding"].to_list(), strict=True)]
    samples: list[int] = []
    value = math.nan
    for (ts, found), (t, funding) in zip(got.iter_rows(), seen, strict=True):
        assert ts == t
        if funding is not None:
            samples.append(t)
            if samples[0] <= t - 720 * MINUTE:
                value = float(sum(t - 720 * MINUTE < s <= t for s in samples))
        fresh = bool(samples) and t <= samples[-1] + 480 * MINUTE
        assert (found is None) == (math.isnan(value) or not fresh)
        assert found is None or found == value


def test_values_are_the_shortest_decimals_in_the_catalogues_unit(recording: tuple[Path, pl.DataFrame]) -> None:
    folder, frame = recording
    out = folder.parent / "raw.csv"
    evaluate("funding_rate", recording=folder, entity="dydx:HYPE-USD", out=out)
    first = dydx(frame).drop_nulls("funding").row(0, named=True)
    line = next(row for row in out.read_text().splitlines() if row.startswith(str(first["t"])))
    assert float(line.split(",")[1]) == first["funding"] / 8
    assert line.split(",")[1] == repr(first["funding"] / 8)


def test_a_condition_is_one_or_zero_and_an_unknown_value_is_empty(
    recording: tuple[Path, pl.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = recording
    evaluate("mean(oracle_price, 1h) > 0", recording=folder, entity="dydx:HYPE-USD", out=None)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "ts,value"
    assert {row.split(",")[1] for row in lines[1:]} == {"", "1"}
    assert lines[1].endswith(",")


def test_the_gap_to_the_other_venues_is_measured_on_what_is_held(recording: tuple[Path, pl.DataFrame]) -> None:
    folder, frame = recording
    got = evaluated(folder, "last_price / median_over(peers, last_price) - 1")
    other: float | None = None
    expected: list[float | None] = []
    seen_at = 0
    for t, venue, last in frame.select("t", "venue", "last").iter_rows():
        if venue == "binance":
            other, seen_at = last, t
        else:
            expected.append(None if other is None or t > seen_at + 120 * MINUTE else last / other - 1)
    assert len(got) == len(expected)
    for found, wanted in zip(got["value"].to_list(), expected, strict=True):
        assert (found is None) == (wanted is None)
        assert found is None or found == pytest.approx(wanted, abs=1e-12)


RUNBOOK = """schema: reefd/v1
runbook: gap
title: gap
owner: desk
severity: info
stage: armed
scope: market
trigger: {when: oracle_price > 1 price and funding_rate > 99%/h, for: 1m}
steps:
  - {id: tell, notify: {to: [desk], text: "gap"}}
"""


def test_explain_tells_each_reading_its_age_and_the_distance_that_is_missing(
    recording: tuple[Path, pl.DataFrame], capsys: pytest.CaptureFixture[str]
) -> None:
    folder, frame = recording
    path = folder.parent / "gap.yaml"
    path.write_text(RUNBOOK)
    moment = dydx(frame)["at"][2000].isoformat() + "Z"
    assert explain(path, recording=folder, entity="dydx:HYPE-USD", at=moment, json_format=False) == 0
    text = capsys.readouterr().out
    assert "gap on dydx:HYPE-USD" in text
    assert "did not fire before" in text
    assert "funding_rate > 99%/h" in text
    assert "below" in text
    assert "old" in text
    explain(path, recording=folder, entity="dydx:HYPE-USD", at=moment, json_format=True)
    told = json.loads(capsys.readouterr().out)
    assert told["state"] == "inactive"
    assert told["when"]["value"] == 0.0


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("mark_price", "mark_price is not recorded for dydx:HYPE-USD: every value is UNKNOWN\n"),
        ("mean(mark_price, 1h) > 3 price", "mark_price is not recorded for dydx:HYPE-USD: every value is UNKNOWN\n"),
        ('signal("okx:HYPE-USD", last_price) / last_price', "last_price is not recorded for okx:HYPE-USD: every value is UNKNOWN\n"),
        ("venue.block_age", "block_age is not recorded for dydx: every value is UNKNOWN\n"),
        ("mark_price > 3 price or last_price > 3 price", ""),
        ('signal("binance:HYPE-USD", last_price)', ""),
    ],
)
def test_an_expression_about_what_was_never_recorded_says_so_beside_its_empty_values(
    recording: tuple[Path, pl.DataFrame], capsys: pytest.CaptureFixture[str], expression: str, says: str
) -> None:
    assert evaluate(expression, recording=recording[0], entity="dydx:HYPE-USD", out=None) == 0
    assert capsys.readouterr().err == says


@pytest.mark.parametrize("name", ["values.csv", "values.parquet"])
def test_a_file_that_does_not_fit_on_the_disk_is_one_error_and_leaves_no_half_of_it(
    recording: tuple[Path, pl.DataFrame], tmp_path: Path, name: str
) -> None:
    out = tmp_path / name
    out.write_text("before")
    old = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, old[1]))
    try:
        with pytest.raises(UserError) as caught:
            evaluate("last_price", recording=recording[0], entity="dydx:HYPE-USD", out=out)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, old)
    assert str(caught.value) == f"{out}: cannot be written: file too large"
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert out.read_text() == "before"
    with pytest.raises(UserError, match="its folder does not exist"):
        evaluate("last_price", recording=recording[0], entity="dydx:HYPE-USD", out=tmp_path / "nowhere" / name)


def test_a_mistake_in_the_expression_or_the_entity_is_told_with_what_there_is(recording: tuple[Path, pl.DataFrame]) -> None:
    folder, _ = recording
    with pytest.raises(RunbookError, match=r"<expression>:1:16: error E014"):
        evaluate("funding_rate > 5%", recording=folder, entity="dydx:HYPE-USD", out=None)
    with pytest.raises(UserError, match=r"'dydx:NOSUCH' is not in the recording .* it has binance:HYPE-USD, dydx:HYPE-USD"):
        evaluate("funding_rate", recording=folder, entity="dydx:NOSUCH", out=None)
