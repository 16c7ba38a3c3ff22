"""Recordings: atomic files, sorted blocks over kinds, null and NaN, what the metadata says."""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.errors import UserError
from daemon.journal import recording as recording_module
from daemon.journal.recording import FILES, Facts, Recording
from daemon.world.entities import Kind


def market(rows: Sequence[tuple[int, str, str, float | None]], event_ts: list[int | None] | None = None) -> pl.DataFrame:
    frame = pl.DataFrame(rows, schema={"ts": pl.Int64, "venue": pl.String, "market": pl.String, "last_price": pl.Float64}, orient="row")
    return frame if event_ts is None else frame.with_columns(pl.Series("event_ts", event_ts, dtype=pl.Int64))


def test_null_is_infinite_and_nan_stays_nan(tmp_path: Path) -> None:
    rows = [(3, "b", "X", float("nan")), (1, "a", "X", 1.5), (2, "b", "X", None)]
    Recording.write(tmp_path, Kind.MARKET, market(rows, [None, 1, 1]))

    (block,) = Recording.open(tmp_path).blocks()

    assert block.ts.tolist() == [1, 2, 3]
    assert block.ts.dtype == np.int64
    assert block.event_ts.tolist() == [1, 1, 3]
    assert [block.entity_ids[i] for i in block.entity] == ["a:X", "b:X", "b:X"]
    values = block.columns["last_price"]
    assert values.dtype == np.float64
    assert values[0] == 1.5
    assert values[1] == math.inf
    assert math.isnan(values[2])


def test_an_event_time_equal_to_ts_is_stored_as_null(tmp_path: Path) -> None:
    Recording.write(tmp_path, Kind.MARKET, market([(5, "a", "X", 1.0), (6, "a", "X", 1.0)], [5, 2]))

    stored = pl.read_parquet(tmp_path / "market.parquet")

    assert stored["event_ts"].to_list() == [None, 2]
    assert stored.columns == ["ts", "event_ts", "venue", "market", "last_price"]


def test_blocks_of_several_kinds_are_sorted_by_ts_then_kind(tmp_path: Path) -> None:
    Recording.write(tmp_path, Kind.MARKET, market([(t, "a", "X", 1.0) for t in (10, 20, 20 + 1, 30)]))
    Recording.write(tmp_path, Kind.CHAIN, pl.DataFrame({"ts": [10, 25, 40], "chain": ["e"] * 3, "gas_price": [1.0, 2.0, 3.0]}))
    Recording.write(tmp_path, Kind.VENUE, pl.DataFrame({"ts": [20], "venue": ["a"], "block_age": [1.0]}))

    recording = Recording.open(tmp_path)
    order = [(int(ts), block.kind) for block in recording.blocks() for ts in block.ts]

    assert order == [
        (10, Kind.CHAIN),
        (10, Kind.MARKET),
        (20, Kind.VENUE),
        (20, Kind.MARKET),
        (21, Kind.MARKET),
        (25, Kind.CHAIN),
        (30, Kind.MARKET),
        (40, Kind.CHAIN),
    ]
    assert [block.kind for block in recording.blocks([Kind.CHAIN])] == [Kind.CHAIN]
    assert recording.kinds == (Kind.CHAIN, Kind.VENUE, Kind.MARKET)
    assert recording.row_count == 8
    assert recording.entities[Kind.CHAIN] == ("e",)


def test_an_instant_is_never_split_over_two_blocks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "BLOCK_ROWS", 10)
    rows = [(instant, f"v{venue:02}", "X", 1.0) for instant in range(20) for venue in range(7)]
    Recording.write(tmp_path, Kind.MARKET, market(rows))

    blocks = list(Recording.open(tmp_path).blocks())

    assert sum(len(block) for block in blocks) == 140
    assert len(blocks) > 5
    for earlier, later in itertools.pairwise(blocks):
        assert earlier.ts[-1] < later.ts[0]


def test_holds_intervals_and_what_each_venue_provides(tmp_path: Path) -> None:
    facts = Facts(holds={"last_price": {"a": 60, "b": 3600}}, intervals={"funding_rate": {"a": 1, "b": 8}})
    rates = pl.Series("funding_rate", [None, float("nan")], dtype=pl.Float64)
    frame = market([(1, "a", "X", 1.0), (1, "b", "X", None)]).with_columns(rates)
    Recording.write(tmp_path, Kind.MARKET, frame, facts)
    Recording.write(tmp_path, Kind.POSITION, pl.DataFrame({"ts": [1], "account": ["a#2"], "market": ["X"], "size": [1.0]}))

    recording = Recording.open(tmp_path)

    assert recording.holds == {(Kind.MARKET, "last_price"): 3600}
    assert recording.holds_by_venue[Kind.MARKET, "last_price", "a"] == 60
    assert recording.intervals == {"a": 1, "b": 8}
    assert recording.provides("a") == {Kind.MARKET: frozenset({"last_price"}), Kind.POSITION: frozenset({"size"})}
    assert recording.provides("b") == {Kind.MARKET: frozenset({"funding_rate"})}
    assert recording.provides("nobody") == {}


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Recording.write(tmp_path, Kind.MARKET, market([(1, "a", "X", 1.0)]))

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pl.DataFrame, "write_parquet", full)
    with pytest.raises(UserError, match="No space left"):
        Recording.write(tmp_path, Kind.MARKET, market([(2, "a", "X", 2.0)]))

    assert [int(ts) for block in Recording.open(tmp_path).blocks() for ts in block.ts] == [1]
    assert [path.name for path in tmp_path.iterdir()] == ["market.parquet"]


def test_a_folder_that_is_no_recording_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="reefd import"):
        Recording.open(tmp_path / "absent")
    with pytest.raises(UserError, match=r"market\.parquet"):
        Recording.open(tmp_path)
    (tmp_path / "market.parquet").write_bytes(b"PAR1 but no Parquet")
    with pytest.raises(UserError, match="no Parquet file"):
        Recording.open(tmp_path)
    pl.DataFrame({"time": [1]}).write_parquet(tmp_path / "market.parquet")
    with pytest.raises(UserError, match="no column ts"):
        Recording.open(tmp_path)
    pl.DataFrame({"ts": [1.0], "venue": ["a"], "market": ["X"]}).write_parquet(tmp_path / "market.parquet")
    with pytest.raises(UserError, match="int64"):
        Recording.open(tmp_path)


def test_a_kind_that_was_not_recorded_is_named(tmp_path: Path) -> None:
    Recording.write(tmp_path, Kind.MARKET, market([(1, "a", "X", 1.0)]))

    with pytest.raises(UserError, match="no chain was recorded"):
        Recording.open(tmp_path).table(Kind.CHAIN)


def test_every_kind_with_rows_has_a_file() -> None:
    assert set(FILES) == set(Kind) - {Kind.PORTFOLIO, Kind.BUCKET}


keys = st.tuples(st.integers(-(2**61), 2**61), st.sampled_from(["a", "b#1", "ü"]), st.text("XY-", max_size=3))
cells = st.one_of(st.none(), st.floats(allow_infinity=False))


@settings(max_examples=50, deadline=None)
@given(st.dictionaries(keys, cells, max_size=40))
def test_whatever_is_written_is_read_back(written: dict[tuple[int, str, str], float | None]) -> None:
    if not written:
        return
    rows = [(ts, venue, symbol, value) for (ts, venue, symbol), value in written.items()]
    with tempfile.TemporaryDirectory() as folder:
        Recording.write(Path(folder), Kind.MARKET, market(rows))
        recording = Recording.open(Path(folder))
        read = [
            (int(ts), block.entity_ids[entity], float(value))
            for block in recording.blocks()
            for ts, entity, value in zip(block.ts, block.entity, block.columns["last_price"], strict=True)
        ]
    expected = sorted((ts, f"{venue}:{symbol}", math.inf if value is None else value) for ts, venue, symbol, value in rows)
    assert [row[:2] for row in read] == [row[:2] for row in expected]
    assert np.array_equal([row[2] for row in read], [row[2] for row in expected], equal_nan=True)


def sliced_rows(recording: Recording, rows: int) -> list[tuple[int, Kind, str, dict[str, str]]]:
    """Every row of the slices as they come; a slice that overlaps another, or splits an instant, fails here."""
    found, before = [], -(1 << 62)
    ids: dict[Kind, tuple[str, ...]] = {}
    for blocks in recording.slices(rows=rows):
        assert [block.kind for block in blocks] == [kind for kind in FILES if kind in {block.kind for block in blocks}]
        assert min(int(block.ts[0]) for block in blocks) > before
        before = max(int(block.ts[-1]) for block in blocks)
        rows_of_slice = []
        for block in blocks:
            assert ids.setdefault(block.kind, block.entity_ids) == block.entity_ids
            for i in range(len(block)):
                cells = {name: repr(float(values[i])) for name, values in block.columns.items()}
                cells["own"] = str(block.event_ts[i])
                rows_of_slice.append((int(block.ts[i]), block.kind, block.entity_ids[block.entity[i]], cells))
        found += sorted(rows_of_slice, key=lambda row: row[0])
    return found


steps = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["X", "Y"]), cells, st.one_of(st.none(), st.integers(0, 50))), max_size=60)


@settings(max_examples=40, deadline=None)
@given(steps, st.lists(st.integers(0, 90), unique=True, max_size=20), st.sampled_from([1, 2, 7, 1000]), st.sampled_from([1, 3, 1 << 20]))
def test_slices_are_the_rows_of_the_blocks_however_large_and_wherever_they_come_from(
    given_rows: list[tuple[int, str, float | None, int | None]], chains: list[int], rows: int, group: int
) -> None:
    at, markets = 10, {}
    for step, symbol, value, own in given_rows:
        at += step
        markets[at, symbol] = (value, own)
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setattr(recording_module, "ROW_GROUP_ROWS", group)
        frame = market([(at, "a", symbol, value) for (at, symbol), (value, _) in markets.items()], [own for _, own in markets.values()])
        Recording.write(folder, Kind.MARKET, frame)
        schema = {"ts": pl.Int64, "chain": pl.String, "gas_price": pl.Float64}
        gas = pl.DataFrame([(at, "e", 1.0) for at in sorted(chains)], schema=schema, orient="row")
        Recording.write(folder, Kind.CHAIN, gas)
        kept = Recording.open(folder)
        whole = sliced_rows(kept, 1 << 20)
        assert sliced_rows(kept, rows) == whole
        patch.setattr(recording_module, "KEPT_CELLS", 0)
        streamed = Recording.open(folder)
        assert sliced_rows(streamed, rows) == whole
        assert len(whole) == streamed.row_count == len(markets) + len(chains)
        times = [ts for ts, *_ in whole]
        assert (streamed.first_at, streamed.last_at) == ((min(times), max(times)) if times else (0, 0))
        assert streamed.entities == {kind: kept.table(kind).entity_ids for kind in kept.kinds}


def test_slices_of_a_file_somebody_else_wrote_need_no_metadata(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recording_module, "KEPT_CELLS", 0)
    rows = [(second, "a", symbol, float(second)) for second in range(50) for symbol in ("X", "Y")]
    market(rows).write_parquet(tmp_path / "market.parquet", row_group_size=1000)

    recording = Recording.open(tmp_path)

    assert recording.entities == {Kind.MARKET: ("a:X", "a:Y")}
    slices = list(recording.slices({Kind.MARKET: ("last_price",)}, rows=11))
    assert len(slices) > 5
    assert sum(len(block) for blocks in slices for block in blocks) == 100
    assert list(recording.slices({Kind.CHAIN: ("gas_price",)})) == []
    market(rows[::-1]).write_parquet(tmp_path / "market.parquet")
    with pytest.raises(UserError, match="not sorted by ts"):
        list(Recording.open(tmp_path).slices())
