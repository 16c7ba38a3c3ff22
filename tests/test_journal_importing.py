"""`reefd import`: formats, times, units, merging, what is rejected and where, gaps, and equality with an independent computation."""

from __future__ import annotations

import gzip
import json
import math
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.app.importing import import_
from daemon.errors import RunbookError, UserError
from daemon.journal.importing import ImportReport, import_sources
from daemon.journal.mapping import parse_mapping
from daemon.journal.recording import Recording
from daemon.units import HOUR_NS, NS, parse_iso
from daemon.world.entities import Kind

SIMPLE = """
kind: market
time: {column: time, format: %s}
entity: {venue: {const: dydx}, market: {column: coin, suffix: "-USD"}}
signals:
  last_price: {column: close, unit: price}
"""
BARS = """
kind: market
time: {column: timestamp, format: iso8601, known_after: 1h}
entity: {venue: {column: venue}, market: {column: coin, suffix: "-USD"}}
where: {venue: [dydx, binance]}
signals:
  last_price: {column: c, unit: price, holds_for: 1h}
  funding_rate: {column: funding_rate, holds_for: 8h, unit: {by: venue, dydx: rate/h, default: rate/8h}}
"""


def run(mapping: str, folder: Path, *contents: str, name: str = "source.csv") -> ImportReport:
    paths = []
    for number, content in enumerate(contents):
        path = folder / f"{number}{name}"
        path.write_text(content)
        paths.append(path)
    return import_sources(parse_mapping(mapping, "map.yaml"), paths, folder / "recording")


def rows(folder: Path, signal: str = "last_price") -> list[tuple[int, str, float | None]]:
    frame = Recording.open(folder / "recording").frame(Kind.MARKET)
    return [(row["ts"], f"{row['venue']}:{row['market']}", row[signal]) for row in frame.iter_rows(named=True)]


def test_the_same_rows_as_csv_jsonl_and_parquet_plain_and_compressed_make_the_same_recording(tmp_path: Path) -> None:
    times = ["2026-02-03T17:00:00.294Z", "2026-02-03T18:00:00.000Z"]
    table = [(times[0], "HYPE", 33.25), (times[1], "HYPE", 0.1 + 0.2)]
    csv_text = "time,coin,close\n" + "".join(f"{t},{c},{p!r}\n" for t, c, p in table)
    json_text = "".join(json.dumps({"coin": c, "time": t, "close": p, "more": {}}) + "\n" for t, c, p in table)
    (tmp_path / "a.csv").write_text(csv_text)
    (tmp_path / "b.csv.gz").write_bytes(gzip.compress(csv_text.encode()))
    (tmp_path / "c.jsonl").write_text(json_text)
    (tmp_path / "d.jsonl.gz").write_bytes(gzip.compress(json_text.encode()))
    (tmp_path / "e.csv").write_text("\ufeff" + csv_text.replace(",", ";").replace("\n", "\r\n"))
    frame = pl.DataFrame(table, schema=["time", "coin", "close"], orient="row")
    frame.write_parquet(tmp_path / "f.parquet")
    moments = pl.col("time").str.to_datetime(time_unit="us", time_zone="UTC")
    frame.with_columns(moments).write_parquet(tmp_path / "g.parquet")
    frame.with_columns(moments.dt.cast_time_unit("ms").dt.replace_time_zone(None)).write_parquet(tmp_path / "h.parquet")

    expected = [(parse_iso(times[0]), "dydx:HYPE-USD", 33.25), (parse_iso(times[1]), "dydx:HYPE-USD", 0.30000000000000004)]
    for source in sorted(path for path in tmp_path.iterdir() if path.is_file()):
        report = import_sources(parse_mapping(SIMPLE % "iso8601", "m"), [source], tmp_path / source.stem / "recording")
        assert (report.kept, report.rejected, report.duplicates) == (2, 0, 0), source
        assert rows(tmp_path / source.stem) == expected, source


@pytest.mark.parametrize(
    ("format", "text", "ns"),
    [
        ("epoch_s", "1770138000", 1_770_138_000 * NS),
        ("epoch_s", "1770138000.294", 1_770_138_000_294_000_000),
        ("epoch_s", "1.770138e9", 1_770_138_000 * NS),
        ("epoch_ms", "1770138000294", 1_770_138_000_294_000_000),
        ("epoch_us", "1770138000294001", 1_770_138_000_294_001_000),
        ("epoch_ns", "1770138000294000001", 1_770_138_000_294_000_001),  # a float would round the last digits away
        ("iso8601", "2026-02-03T17:00:00.294000001Z", 1_770_138_000_294_000_001),
        ("iso8601", "2026-02-03 17:00:00.294", 1_770_138_000_294_000_000),
        ("iso8601", "2026-02-03T18:00:00.294+01:00", 1_770_138_000_294_000_000),
        ("iso8601", "2026-02-03 17:00:00+00:00", 1_770_138_000 * NS),
        ("iso8601", "2026-02-03", 1_770_076_800 * NS),
        ("iso8601", "2026-02-03T17:00Z", 1_770_138_000 * NS),
    ],
)
def test_a_time_is_exact_to_the_nanosecond(tmp_path: Path, format: str, text: str, ns: int) -> None:
    run(SIMPLE % format, tmp_path, f"time,coin,close\n{text},HYPE,1\n2026-01-01,X,\n")
    assert rows(tmp_path)[0][0] == ns

    line = json.dumps({"time": json.loads(text) if format != "iso8601" else text, "coin": "HYPE", "close": "1"})
    (tmp_path / "json").mkdir()
    run(SIMPLE % format, tmp_path / "json", line, name="s.jsonl")
    assert rows(tmp_path / "json")[0][0] == ns


def test_integer_nanoseconds_of_a_parquet_file_never_pass_a_float(tmp_path: Path) -> None:
    odd = 1_770_138_000_294_000_001
    pl.DataFrame({"time": [odd, odd + 1], "coin": ["A", "A"], "close": [1.0, 2.0]}).write_parquet(tmp_path / "x.parquet")
    import_sources(parse_mapping(SIMPLE % "epoch_ns", "m"), [tmp_path / "x.parquet"], tmp_path / "recording")

    assert [row[0] for row in rows(tmp_path)] == [odd, odd + 1]
    pl.DataFrame({"time": [float(odd)], "coin": ["A"], "close": [1.0]}).write_parquet(tmp_path / "y.parquet")
    with pytest.raises(RunbookError, match="cannot hold nanoseconds"):
        import_sources(parse_mapping(SIMPLE % "epoch_ns", "m"), [tmp_path / "y.parquet"], tmp_path / "recording")


@pytest.mark.parametrize(
    ("frame", "format", "says"),
    [
        ({"time": [1770138000]}, None, "write format"),
        ({"time": ["2026-01-01"]}, None, "write format"),
        ({"time": [1770138000]}, "iso8601", "write format: epoch_s"),
        ({"time": [True]}, "epoch_s", "found no time"),
    ],
)
def test_a_time_column_that_needs_a_format_points_at_the_mapping(
    tmp_path: Path, frame: dict[str, list[object]], format: str | None, says: str
) -> None:
    pl.DataFrame({**frame, "coin": ["A"], "close": [1.0]}).write_parquet(tmp_path / "x.parquet")
    mapping = SIMPLE % format if format else SIMPLE.replace(", format: %s", "")

    with pytest.raises(RunbookError, match=says) as caught:
        import_sources(parse_mapping(mapping, "map.yaml"), [tmp_path / "x.parquet"], tmp_path / "recording")
    assert (caught.value.diagnostics[0].file, caught.value.diagnostics[0].line) == ("map.yaml", 3)


def test_rows_that_cannot_be_read_are_rejected_with_line_and_reason(tmp_path: Path) -> None:
    report = run(
        SIMPLE % "iso8601",
        tmp_path,
        "time,coin,close\n"
        "2026-01-01T00:00:00Z,A,1.5\n"
        "yesterday,A,1.5\n"
        ",A,1.5\n"
        "2026-01-01T01:00:00Z,,1.5\n"
        "2026-01-01T02:00:00Z,A,abc\n"
        "2026-01-01T03:00:00Z,A,inf\n"
        "2026-01-01T04:00:00Z,A,-Infinity\n"
        "2026-01-01T05:00:00Z,A,1e999\n"
        "2026-01-01T06:00:00Z,A\n"
        "\n"
        '"2026-01-01T07:00:00Z","A\n","2.5"\n'
        "2026-01-01T08:00:00Z,A,1,234\n"
        "2026-01-01T09:00:00Z,A,1_000\n"
        "2026-01-01T10:00:00Z,A,\n"
        "2026-01-01T11:00:00Z,A,nan\n"
        "2026-01-01T12:00:00Z,A,+3.5\n",
    )

    assert {(r.line, r.reason) for r in report.rejections} == {
        (3, "column time: 'yesterday' is no iso8601"),
        (4, "no time in column time"),
        (5, "no market"),
        (6, "column close: 'abc' is no number"),
        (7, "column close: infinite"),
        (8, "column close: infinite"),
        (9, "column close: infinite"),
        (10, "has 2 fields, the header has 3"),
        (14, "has 4 fields, the header has 3"),
        (15, "column close: '1_000' is no number"),
    }
    assert (report.read, report.kept, report.rejected, report.empty) == (15, 4, 10, 1)
    assert report.read == report.kept + report.rejected + report.filtered + report.empty
    values = [value for _, _, value in rows(tmp_path)]
    assert values[0] == 1.5
    assert values[1] == 2.5
    assert values[2] is not None
    assert math.isnan(values[2])
    assert values[3] == 3.5
    assert report.columns["last_price"].missing == 1


def test_a_price_that_is_not_above_zero_is_rejected_and_other_signals_may_be(tmp_path: Path) -> None:
    mapping = (SIMPLE % "epoch_s") + "  funding_rate: {column: rate, unit: rate/h}\n"
    report = run(mapping, tmp_path, "time,coin,close,rate\n1,A,-1.5,0\n2,A,0,0\n3,A,2,-0.001\n4,A,nan,0\n5,A,-0.0,0\n")
    reason = "column close: {} is no price: prices are above 0"
    assert [(r.line, r.reason) for r in report.rejections] == [
        (2, reason.format("'-1.5'")), (3, reason.format("'0'")), (6, reason.format("'-0.0'")),
    ]  # fmt: skip
    assert report.kept == 2


def test_the_report_counts_one_of_a_thing_in_the_singular(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "map.yaml").write_text(SIMPLE % "epoch_s")
    hours = [0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 24]
    (tmp_path / "s.csv").write_text("time,coin,close\n" + "".join(f"{1770138000 + 3600 * hour},A,2\n" for hour in hours))
    assert import_(tmp_path / "map.yaml", [tmp_path / "s.csv"], tmp_path / "out", json_format=False) == 0
    text = capsys.readouterr().out
    assert "1 entity of kind market" in text
    assert "1 duplicate (the last value counts), 1 gap\n" in text


def test_the_list_of_rejected_rows_is_capped_and_the_count_is_not(tmp_path: Path) -> None:
    report = run(SIMPLE % "epoch_s", tmp_path, "time,coin,close\n1,A,1\n" + "x,A,1\n" * 500)

    assert (report.rejected, len(report.rejections)) == (500, 100)
    assert [r.line for r in report.rejections] == list(range(3, 103))


def test_lines_of_jsonl_that_are_no_objects_are_rejected(tmp_path: Path) -> None:
    good = '{"time": 1770138000, "coin": "A", "close": "33.5"}'
    text = f'{good}\n{{"time": 1\n[1]\n\n{{"coin": "A", "close": 1}}\n{{"time": 5, "coin": "A", "close": Infinity}}\n'

    report = run(SIMPLE % "epoch_s", tmp_path, text, name="s.jsonl")

    assert [(r.line, r.reason) for r in report.rejections] == [
        (2, "is no JSON"),
        (3, "is no JSON object"),
        (5, "no time in column time"),
        (6, "column close: infinite"),
    ]
    assert report.kept == 1


def test_a_bar_is_known_at_its_close_and_where_keeps_the_named_venues(tmp_path: Path) -> None:
    report = run(
        BARS,
        tmp_path,
        "timestamp,venue,coin,c,funding_rate\n"
        "2026-02-03T17:00:00Z,dydx,HYPE,34.1,0.002\n"
        "2026-02-03T17:00:00Z,binance,HYPE,33.2,0.0008\n"
        "2026-02-03T17:00:00Z,kraken,HYPE,not-a-price,\n",
    )

    frame = Recording.open(tmp_path / "recording").frame(Kind.MARKET)
    assert frame["ts"].to_list() == [parse_iso("2026-02-03T18:00:00Z")] * 2
    assert frame["event_ts"].to_list() == [None, None]
    by_venue = dict(zip(frame["venue"], frame["funding_rate"], strict=True))
    assert by_venue == {"dydx": 0.002, "binance": 0.0008 / 8}
    assert (report.kept, report.filtered, report.rejected) == (2, 1, 0)
    recording = Recording.open(tmp_path / "recording")
    assert recording.intervals == {"dydx": HOUR_NS, "binance": 8 * HOUR_NS}
    assert recording.holds == {(Kind.MARKET, "last_price"): HOUR_NS, (Kind.MARKET, "funding_rate"): 8 * HOUR_NS}


def test_a_second_time_column_says_when_it_was_true(tmp_path: Path) -> None:
    mapping = (SIMPLE % "epoch_ns").replace("entity:", "event_time: {column: venue_ms, format: epoch_ms}\nentity:")
    report = run(mapping, tmp_path, "time,venue_ms,coin,close\n1770138001000000000,1770138000294,A,1\n1770138002000000000,,A,1\n")

    assert report.kept == 2
    assert Recording.open(tmp_path / "recording").frame(Kind.MARKET)["event_ts"].to_list() == [1_770_138_000_294_000_000, None]


def test_names_are_renamed_then_given_prefix_and_suffix(tmp_path: Path) -> None:
    mapping = (SIMPLE % "epoch_s").replace('suffix: "-USD"', 'rename: {XBT: BTC}, prefix: "", suffix: "-USD"')
    run(mapping, tmp_path, "time,coin,close\n1770138000,XBT,1\n1770138000, ETH ,2\n")

    assert [entity for _, entity, _ in rows(tmp_path)] == ["dydx:BTC-USD", "dydx:ETH-USD"]


def test_a_venue_with_a_colon_is_rejected_and_a_market_with_one_is_not(tmp_path: Path) -> None:
    mapping = (SIMPLE % "epoch_s").replace("{const: dydx}", "{column: venue}")
    report = run(mapping, tmp_path, "time,venue,coin,close\n1770138000,a:b,X,1\n1770138000,a,xyz:GOLD,2\n")

    assert [r.reason for r in report.rejections] == ["venue 'a:b' holds a colon; rename it"]
    assert [entity for _, entity, _ in rows(tmp_path)] == ["a:xyz:GOLD-USD"]


def test_a_value_of_by_without_a_unit_is_rejected(tmp_path: Path) -> None:
    mapping = BARS.replace(", default: rate/8h", "")
    report = run(
        mapping,
        tmp_path,
        "timestamp,venue,coin,c,funding_rate\n2026-02-03,dydx,A,1,0.1\n2026-02-03,binance,A,1,0.1\n2026-02-04,binance,A,1,\n",
    )

    assert [(r.line, r.reason) for r in report.rejections] == [(3, "no unit of funding_rate for venue 'binance'")]
    assert report.kept == 2


def test_a_duplicate_row_is_counted_and_the_last_value_counts(tmp_path: Path) -> None:
    report = run(SIMPLE % "epoch_s", tmp_path, "time,coin,close\n20,A,3\n10,A,1\n10,A,2\n", "time,coin,close\n10,A,5\n10,B,7\n")

    assert report.duplicates == 2
    assert rows(tmp_path) == [(10 * NS, "dydx:A-USD", 5.0), (10 * NS, "dydx:B-USD", 7.0), (20 * NS, "dydx:A-USD", 3.0)]
    assert report.kept == 5


def test_rows_of_one_instant_merge_column_by_column(tmp_path: Path) -> None:
    mapping = (SIMPLE % "epoch_s") + "  oracle_price: {column: oracle, unit: price}\n"
    report = run(mapping, tmp_path, "time,coin,close,oracle\n10,A,1,\n10,A,,2\n10,A,nan,\n")

    frame = Recording.open(tmp_path / "recording").frame(Kind.MARKET)
    assert frame.height == 1
    assert frame["oracle_price"].to_list() == [2.0]
    assert math.isnan(frame["last_price"][0])  # the last thing that was said: there is none
    assert report.duplicates == 1


def test_a_second_import_adds_columns_rows_and_holds_and_counts_what_it_replaces(tmp_path: Path) -> None:
    run(BARS, tmp_path, "timestamp,venue,coin,c,funding_rate\n2026-01-01T00:00:00Z,dydx,A,1,0.1\n2026-01-01T01:00:00Z,dydx,A,2,\n")
    oracle = (SIMPLE % "iso8601").replace("last_price", "oracle_price").replace("unit: price", "unit: price, holds_for: 1m")
    second = run(oracle, tmp_path, "time,coin,close\n2026-01-01T01:00:00Z,A,10\n2026-01-01T00:30:00Z,A,11\n", name="b.csv")
    assert second.duplicates == 0
    third = run(BARS, tmp_path, "timestamp,venue,coin,c,funding_rate\n2026-01-01T00:00:00Z,dydx,A,9,\n", name="c.csv")
    assert third.duplicates == 1

    frame = Recording.open(tmp_path / "recording").frame(Kind.MARKET)
    assert frame.select("ts", "last_price", "funding_rate", "oracle_price").rows() == [
        (parse_iso("2026-01-01T00:30:00Z"), None, None, 11.0),
        (parse_iso("2026-01-01T01:00:00Z"), 9.0, 0.1, 10.0),
        (parse_iso("2026-01-01T02:00:00Z"), 2.0, None, None),
    ]
    assert Recording.open(tmp_path / "recording").holds[Kind.MARKET, "oracle_price"] == 60 * NS
    assert Recording.open(tmp_path / "recording").holds[Kind.MARKET, "last_price"] == HOUR_NS


def test_gaps_of_a_regular_series_are_found_and_an_event_driven_one_has_few(tmp_path: Path) -> None:
    hours = [h for h in range(100) if h not in (10, 50, 51, 52)]
    text = "time,coin,close\n" + "".join(f"{h * 3600},A,1\n" for h in hours)
    text += "".join(f"{second},E,1\n" for second in [0, 7, 8, 60, 75, 200, 201, 260, 400, 410, 100_000])
    report = run(SIMPLE % "epoch_s", tmp_path, text)

    assert [(gap.entity, gap.since // (3600 * NS), gap.rows) for gap in report.gaps if "A" in gap.entity] == [
        ("dydx:A-USD", 9, 1),
        ("dydx:A-USD", 49, 3),
    ]
    assert [(gap.since, gap.until) for gap in report.gaps if ":E-" in gap.entity] == [(410 * NS, 100_000 * NS)]
    assert report.gap_count == 3
    assert any("is time.format right" in warning for warning in report.warnings)


@pytest.mark.parametrize(
    ("kind", "entity", "signal", "id"),
    [
        ("chain", "{chain: {column: coin}}", "gas_price: {column: close, unit: gwei}", "A"),
        ("route", "{route: {column: coin}}", "route_fee: {column: close, unit: bps}", "A"),
        ("parameter", "{venue: {column: coin}}", "block_age: {column: close, unit: ms}", "A"),
        ("account", "{account: {column: coin}}", "collateral: {column: close, unit: USD}", "A"),
        ("position", "{account: {const: dydx}, market: {column: coin}}", "size: {column: close, unit: base}", "dydx:A"),
    ],
)
def test_every_kind_can_be_imported(tmp_path: Path, kind: str, entity: str, signal: str, id: str) -> None:
    mapping = f"kind: {kind}\ntime: {{column: time, format: epoch_s}}\nentity: {entity}\nsignals: {{{signal}}}\n"
    run(mapping, tmp_path, "time,coin,close\n10,A,-3\n")

    (block,) = Recording.open(tmp_path / "recording").blocks()
    assert block.entity_ids == (id,)
    assert (tmp_path / "recording" / f"{kind}.parquet").exists()


def test_booleans_are_read_as_truths_and_nothing_else(tmp_path: Path) -> None:
    mapping = "kind: chain\ntime: {column: time, format: epoch_s}\nentity: {chain: {const: base}}\nsignals: {sequencer_up: {column: up}}\n"
    report = run(mapping, tmp_path, "time,up\n1,true\n2,False\n3,1\n4,0\n5,2\n6,yes\n")

    assert report.rejected == 2
    assert Recording.open(tmp_path / "recording").frame(Kind.CHAIN)["sequencer_up"].to_list() == [1.0, 0.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"", "is empty"),
        ("x.csv", b"time,coin,close\n1,\xff,2\n", "not UTF-8"),
        ("x.csv.gz", gzip.compress(b"time,coin,close\n1,A,2\n" * 5000)[:-200], "damaged or cut short"),
        ("x.csv.gz", b"no gzip", "damaged or cut short"),
        ("x.jsonl", b"\n\n", "is empty"),
        ("x.parquet", b"PAR1", "cannot be read"),
        ("x.xlsx", b"PK", "reefd reads"),
        ("x.csv", b"time,coin,close,close\n1,A,2,3\n", "twice"),
        ("x.csv", b"time,coin,close\n1,A," + b"9" * 200_000 + b"\n", "cannot be read"),
    ],
)
def test_a_source_that_cannot_be_read_is_named_and_nothing_is_written(tmp_path: Path, name: str, content: bytes, says: str) -> None:
    (tmp_path / name).write_bytes(content)

    with pytest.raises(UserError, match=says):
        import_sources(parse_mapping(SIMPLE % "epoch_s", "m"), [tmp_path / name], tmp_path / "recording")
    assert not (tmp_path / "recording").exists()


def test_an_absent_column_points_at_the_mapping_and_lists_what_is_there(tmp_path: Path) -> None:
    with pytest.raises(RunbookError) as caught:
        run(SIMPLE % "epoch_s", tmp_path, "time,symbol,price\n1,A,2\n")

    assert [(d.line, d.where) for d in caught.value.diagnostics] == [(4, "entity.market.column"), (6, "signals.last_price.column")]
    assert "it has time, symbol, price" in caught.value.diagnostics[0].message


def test_import_prints_its_report_and_returns_an_exit_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "map.yaml").write_text(SIMPLE % "epoch_s")
    (tmp_path / "s.csv").write_text("time,coin,close\n1770138000,A,2\n1770138000,A,3\nx,A,2\n")
    out = tmp_path / "recording"

    assert import_(tmp_path / "map.yaml", [tmp_path / "s.csv"], out, json_format=True) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["rows"] == {"read": 3, "kept": 2, "rejected": 1, "filtered": 0, "empty": 0}
    assert told["rejected"] == [{"file": str(tmp_path / "s.csv"), "line": 4, "reason": "column time: 'x' is no epoch_s"}]
    assert (told["duplicates"], told["entities"], told["gaps"], told["out"]) == (1, 1, [], str(out))
    assert told["columns"]["last_price"] == {"unit": "price", "values": 1, "missing": 0, "min": 3.0, "max": 3.0}

    assert import_(tmp_path / "map.yaml", [tmp_path / "s.csv"], out, json_format=False) == 0
    assert "3 rows read, 2 kept, 1 rejected" in capsys.readouterr().out
    assert import_(tmp_path / "map.yaml", [tmp_path / "absent.csv"], out, json_format=False) == 2
    assert import_(tmp_path / "absent.yaml", [tmp_path / "s.csv"], out, json_format=False) == 2
    (tmp_path / "none.csv").write_text("time,coin,close\nx,A,2\n")
    assert import_(tmp_path / "map.yaml", [tmp_path / "none.csv"], out, json_format=False) == 1
    (tmp_path / "map.yaml").write_text((SIMPLE % "epoch_s").replace("unit: price", "unit: USD"))
    assert import_(tmp_path / "map.yaml", [tmp_path / "s.csv"], out, json_format=False) == 1
    assert "map.yaml:6:" in capsys.readouterr().err


@settings(max_examples=60, deadline=None)
@given(st.lists(st.one_of(st.floats(allow_infinity=False), st.integers(-(10**20), 10**20).map(float)), min_size=1, max_size=50))
def test_a_number_is_read_as_python_reads_it(tmp_path_factory: pytest.TempPathFactory, values: list[float]) -> None:
    folder = tmp_path_factory.mktemp("numbers")
    mapping = (SIMPLE % "epoch_s").replace("last_price: {column: close, unit: price}", "funding_rate: {column: close, unit: rate/h}")
    run(mapping, folder, "time,coin,close\n" + "".join(f"{i},A,{value!r}\n" for i, value in enumerate(values)))

    read = np.array([value for _, _, value in rows(folder, "funding_rate")], dtype=np.float64)
    assert np.array_equal(read, values, equal_nan=True)


def test_an_import_equals_an_independent_computation(tmp_path: Path) -> None:
    """Bars and funding of three venues, shuffled, with holes and repeats; the recording against pandas on the same files."""
    rng = np.random.default_rng(20260203)
    start = datetime(2026, 1, 1, tzinfo=UTC)
    bars, funding = [], []
    for venue in ("dydx", "binance", "kraken"):
        for coin in ("BTC", "HYPE"):
            prices = 100 * np.exp(np.cumsum(rng.normal(0, 0.01, 300)))
            bars += [(start + timedelta(hours=h), venue, coin, p) for h, p in enumerate(prices) if rng.random() > 0.05]
            funding += [(start + timedelta(hours=h, milliseconds=int(rng.integers(0, 2)) * 294), venue, coin, r) for h, r in
                        enumerate(rng.normal(0, 1e-4, 300)) if rng.random() > 0.5]  # fmt: skip
    bars += bars[:40]
    columns = ["timestamp", "venue", "coin", "c"]
    bar_frame = pd.DataFrame(bars, columns=columns).sample(frac=1, random_state=1)
    funding_frame = pd.DataFrame(funding, columns=[*columns[:3], "funding_rate"])
    bar_frame.to_csv(tmp_path / "bars.csv.gz", index=False)
    pl.DataFrame(funding, schema=[*columns[:3], "funding_rate"], orient="row").write_parquet(tmp_path / "funding.parquet")
    by_venue = "{by: venue, binance: rate/8h, default: rate/h}"
    head = 'kind: market\nentity: {venue: {column: venue}, market: {column: coin, suffix: "-USD"}}\n'
    bar_map = head + "time: {column: timestamp, format: iso8601, known_after: 1h}\nsignals: {last_price: {column: c, unit: price}}\n"
    funding_map = head + f"time: {{column: timestamp}}\nsignals: {{funding_rate: {{column: funding_rate, unit: {by_venue}}}}}\n"

    import_sources(parse_mapping(bar_map, "m"), [tmp_path / "bars.csv.gz"], tmp_path / "recording")
    import_sources(parse_mapping(funding_map, "m"), [tmp_path / "funding.parquet"], tmp_path / "recording")

    bar_frame["timestamp"] += pd.Timedelta(hours=1)
    funding_frame["funding_rate"] /= np.where(funding_frame["venue"] == "binance", 8, 1)
    for frame in (bar_frame, funding_frame):
        frame["ts"] = frame["timestamp"].dt.as_unit("ns").astype("int64")
        frame["entity"] = frame["venue"] + ":" + frame["coin"] + "-USD"
    keys = ["ts", "entity"]
    expected = pd.merge(
        bar_frame.drop_duplicates(keys)[[*keys, "c"]], funding_frame[[*keys, "funding_rate"]], on=keys, how="outer"
    ).sort_values(keys)
    (block,) = Recording.open(tmp_path / "recording").blocks()
    assert block.ts.tolist() == expected["ts"].tolist()
    assert [block.entity_ids[i] for i in block.entity] == expected["entity"].tolist()
    assert np.array_equal(block.columns["last_price"], expected["c"].fillna(math.inf))
    assert np.array_equal(block.columns["funding_rate"], expected["funding_rate"].fillna(math.inf))


SHARED = Path(os.environ.get("REEFD_DATA", Path(__file__).parent.parent.parent / "shared" / "data"))
MAPS = Path(__file__).parents[1] / "config" / "maps"


@pytest.mark.skipif(not SHARED.is_dir(), reason="the real history is not here; REEFD_DATA names its folder")
def test_the_real_funding_spike_and_divergence_are_in_the_recording(tmp_path: Path) -> None:
    candles = SHARED / "prices" / "multi7venue_5coins_candles_1h_2025-03_2026-03.parquet"
    funding = SHARED / "funding" / "multi7venue_5coins_funding_2025-03_2026-03.parquet"
    assert import_(MAPS / "multi7venue_candles.yaml", [candles], tmp_path, json_format=True) == 0
    assert import_(MAPS / "multi7venue_funding.yaml", [funding], tmp_path, json_format=True) == 0

    block = Recording.open(tmp_path).table(Kind.MARKET)

    def at(entity: str, text: str, signal: str) -> float:
        row = (block.ts == parse_iso(text)) & (block.entity == block.entity_ids.index(entity))
        return float(block.columns[signal][row].item())

    assert at("dydx:HYPE-USD", "2026-02-03T17:00:00.294Z", "funding_rate") == pytest.approx(0.002018, abs=5e-7)
    close = "2026-02-03T18:00:00Z"
    # Hyperliquid and Lighter have no bar of that hour.
    others = [at(f"{venue}:HYPE-USD", close, "last_price") for venue in ("binance", "bybit", "kraken", "okx")]
    gap = at("dydx:HYPE-USD", close, "last_price") / float(np.median(others)) - 1
    assert gap == pytest.approx(0.0261, abs=5e-5)
