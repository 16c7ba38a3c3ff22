"""The benchmark's contenders find the same firings, and those that an exact reference finds; nothing here looks at time."""

from __future__ import annotations

import json
import math
from bisect import bisect_right
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from benchmarks import big, by_deques, by_loops, by_pandas, by_polars
from benchmarks.document import BEGIN, END, write_docs
from benchmarks.firings import Bounds, Columns, Found, Times, differences, firing_times, found, load
from benchmarks.goals import Goal
from benchmarks.rules import DAY_S, FAMILIES, HOUR_S, NS, Rule, gap_bps, z_threshold
from benchmarks.run import Bench, Case
from benchmarks.series import SIGNALS, jittered, regular, write
from daemon.journal.recording import Recording
from daemon.world.entities import Kind

CONTENDERS: dict[str, Callable[[Path, str, Bounds], Times]] = {
    "njit": lambda folder, family, bounds: by_loops.with_loop(by_loops.load(folder, None), family, bounds),
    "polars": lambda folder, family, bounds: by_polars.with_polars(by_polars.load(folder, None), family, bounds),
    "pandas": lambda folder, family, bounds: by_pandas.with_pandas(by_pandas.load(folder, None), family, bounds),
    "deques": lambda folder, family, bounds: by_deques.with_deques(by_deques.load(folder, None), family, bounds),
}


@pytest.fixture(scope="module")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("uneven")
    write(jittered(1, 9_000, seed=4), folder)
    return folder


def bounds_of(folder: Path) -> Bounds:
    bounds: Bounds = json.loads((folder / "series.json").read_text(encoding="utf-8"))["bounds"]
    return bounds


# --- an exact, slow reference -----------------------------------------------------------------------------------------
class Windows:
    """Windows of one market recomputed from scratch at every row."""

    def __init__(self, columns: Columns) -> None:
        self.ts: list[int] = columns["ts"].tolist()

    def inside(self, values: list[float], i: int, seconds: int) -> list[float] | None:
        """The values of the last `seconds` at row `i`; None until the first row is as old."""
        edge = self.ts[i] - seconds * NS
        return values[bisect_right(self.ts, edge) : i + 1] if self.ts[0] <= edge else None

    def before(self, values: list[float], i: int, seconds: int) -> float | None:
        """The value in force `seconds` ago."""
        place = bisect_right(self.ts, self.ts[i] - seconds * NS) - 1
        return values[place] if place >= 0 else None


def mean(values: list[float] | None) -> float | None:
    return math.fsum(values) / len(values) if values else None


def std(values: list[float] | None) -> float | None:
    if values is None or len(values) < 12:
        return None
    middle = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((value - middle) * (value - middle) for value in values) / (len(values) - 1))


def zscore(values: list[float] | None) -> float | None:
    deviation, middle = std(values), mean(values)
    return (values[-1] - middle) / deviation if values and deviation and middle is not None else None


def above(value: float | None, bound: float) -> bool | None:
    return None if value is None else value > bound


def verdicts(columns: Columns, family: str) -> Iterator[list[bool | None]]:
    """Truth of each rule row by row; None is UNKNOWN."""
    window = Windows(columns)
    bid, ask, mark, index, oracle, funding = (
        columns[name].tolist() for name in ("bid_price", "ask_price", "mark_price", "index_price", "oracle_price", "funding_rate")
    )
    basis = [one / other - 1 for one, other in zip(mark, index, strict=True)]
    for i in range(len(mark)):
        high = funding[i] > 0.0005
        z = zscore(window.inside(funding, i, DAY_S)) if high else None
        gap = abs(oracle[i] / ((bid[i] + ask[i]) / 2) - 1)
        if family != "windows10":
            levels = range((len(FAMILIES[family]) + 1) // 2)
            yield [truth for level in levels for truth in (high and above(z, z_threshold(level)), gap > gap_bps(level) / 10_000)]
            continue
        ten, hour, past = window.inside(mark, i, 600), window.inside(mark, i, HOUR_S), window.before(mark, i, 300)
        spread = std(ten)
        yield [
            high and above(z, 4),
            gap > 0.003,
            above(mean(window.inside(basis, i, HOUR_S)), 0.002),
            None if spread is None else above(spread / math.fsum(ten or ()) * len(ten or ()), 0.005),
            None if past is None else mark[i] / past - 1 < -0.02,
            ask[i] / bid[i] - 1 > 0.002,
            None if hour is None else max(hour) / min(hour) - 1 > 0.03,
            above(zscore(window.inside(basis, i, HOUR_S)), 6),
            above(mean(window.inside(funding, i, 8 * HOUR_S)), 0.00003),
            abs(index[i] / oracle[i] - 1) > 0.004,
        ]


def fired(ts: list[int], truths: list[bool | None], rule: Rule, bounds: Bounds) -> list[int]:
    """Times of firing: stretches of one truth in continuous time, in which a reading turns UNKNOWN when it is stale."""
    bound = rule.bound_ns(bounds)
    stretches: list[tuple[int, int, bool | None]] = []
    for i, truth in enumerate(truths):
        end = ts[i + 1] if i + 1 < len(ts) else ts[i]
        stale = min(end, ts[i] + bound + 1)
        stretches += [(ts[i], stale, truth), (stale, end, None)]
    times, held, over = [], 0, False
    for start, end, truth in stretches:
        if truth is False:
            held, over = 0, False
        if truth is not True or over:
            continue
        left = max(rule.hold_ns - held, 0)
        if left == 0 or left < end - start:
            times.append(start + left)
            over = True
        held += end - start
    return times


def reference(folder: Path, family: str) -> Found:
    columns, names = load(folder, None)
    ts = columns["ts"].tolist()
    rows = list(verdicts(columns, family))
    bounds = bounds_of(folder)
    times: Times = {
        rule.name: {names[0]: np.array(fired(ts, [row[number] for row in rows], rule, bounds), np.int64)}
        for number, rule in enumerate(FAMILIES[family])
    }
    return found(times)


# --- contenders -------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def exact(uneven: Path) -> dict[str, Found]:
    return {family: reference(uneven, family) for family in ("two", "shared10", "windows10")}


@pytest.mark.parametrize(
    ("contender", "family"),
    # The loop over deques is written for two families.
    [(c, f) for c in sorted(CONTENDERS) for f in ("two", "shared10", "windows10") if (c, f) != ("deques", "shared10")],
)
def test_a_contender_finds_what_the_exact_reference_finds_over_uneven_rows(
    uneven: Path, exact: dict[str, Found], contender: str, family: str
) -> None:
    told = found(CONTENDERS[contender](uneven, family, bounds_of(uneven)))

    assert differences(contender, told, "reference", exact[family], [rule.name for rule in FAMILIES[family]]) == []


def test_every_rule_fires_sometimes_over_uneven_rows(exact: dict[str, Found]) -> None:
    silent = [rule for family in exact.values() for rule, firings in family.items() if not firings]

    assert silent == []


def test_contenders_agree_over_several_markets(tmp_path: Path) -> None:
    write(jittered(3, 9_000), tmp_path)
    told = {name: found(CONTENDERS[name](tmp_path, "windows10", bounds_of(tmp_path))) for name in ("njit", "polars", "pandas")}

    assert told["njit"] == told["polars"] == told["pandas"]


def test_the_loop_with_every_condition_finds_what_the_lazy_one_finds(uneven: Path) -> None:
    loaded, bounds = by_loops.load(uneven, None), bounds_of(uneven)

    assert found(by_loops.with_eager_loop(loaded, "two", bounds)) == found(by_loops.with_loop(loaded, "two", bounds))


# --- firings out of masks ---------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("truths", "expected"),
    [
        ("FTTTTF", [4]),  # due with the row of its time
        ("FTTFTT", []),  # FALSE resets
        ("FTTUTF", []),  # UNKNOWN pauses: two seconds count, the third is not over when FALSE comes
        ("FTTUTTF", [5]),
        ("TTTTTT", [3]),  # once a stretch
        ("TTTTFTTTT", [3, 8]),
        ("UUUU", []),
    ],
)
def test_a_hold_of_three_seconds_fires(truths: str, expected: list[int]) -> None:
    ts = np.arange(len(truths), dtype=np.int64) * NS

    told = firing_times(ts, rows_of(truths, "T"), rows_of(truths, "U"), hold_ns=3 * NS, bound_ns=10 * NS)

    assert (told // NS).tolist() == expected


@pytest.mark.parametrize(
    ("steps_s", "bound_s", "expected"),
    [
        ((0, 10), 10, [3.0]),  # due between two rows
        ((0, 10), 3, [3.0]),  # due exactly when the reading is as old as it may be
        ((0, 10), 2, []),  # stale before
        ((0, 10, 20), 2, [10.999999999]),  # 2 s and 1 ns count before it was stale, the rest after the next row
    ],
)
def test_a_hold_counts_while_readings_are_fresh(steps_s: tuple[int, ...], bound_s: int, expected: list[float]) -> None:
    ts = np.array(steps_s, np.int64) * NS
    true = np.arange(len(ts))

    told = firing_times(ts, true, np.empty(0, np.int64), hold_ns=3 * NS, bound_ns=bound_s * NS)

    assert told.tolist() == [round(seconds * NS) for seconds in expected]


def rows_of(truths: str, which: str) -> np.ndarray:
    return np.flatnonzero([truth == which for truth in truths])


# --- the run ----------------------------------------------------------------------------------------------------------
@pytest.mark.slow
def test_a_small_run_finds_the_same_firings_everywhere_and_fills_the_page(tmp_path: Path) -> None:
    write(jittered(1, 12_000), tmp_path / "series" / "ev1")
    case = Case(data="ev1", family="two", peers=("njit", "njit-eager", "polars-1", "deques"))

    report, disagreements = Bench(tmp_path, 12_000, out=tmp_path, repeats=1).run([case], whole=False)

    assert disagreements == []
    page = tmp_path / "performance.md"
    page.write_text(f"head\n{BEGIN}\nold\n{END}\ntail\n", encoding="utf-8")
    (tmp_path / "bench.json").write_text(json.dumps({**report, "minutes": 0.5}), encoding="utf-8")
    write_docs(tmp_path / "bench.json", page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith(f"head\n{BEGIN}\nMeasured ")
    assert text.endswith(f"{END}\ntail\n")
    assert "| hand-written njit loop |" in text


def test_a_large_recording_is_one_that_replay_reads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(big, "PIECE_ROWS", 400)

    big.write(tmp_path, 1_000)

    recording = Recording.open(tmp_path)
    block = recording.table(Kind.MARKET)
    assert len(block) == 1_000
    assert (np.diff(block.ts) == NS).all()
    assert recording.provides("dydx")[Kind.MARKET] == set(SIGNALS)
    assert recording.intervals == {"dydx": 3600 * NS}


def test_disagreement_names_the_rule_and_the_firings() -> None:
    one: Found = {"a": [(1, "X"), (2, "X")], "b": []}
    other: Found = {"a": [(1, "X"), (3, "Y")], "b": []}

    assert differences("reefd", one, "njit", other, ["a", "b"]) == [
        "a: reefd found 2, njit 2; only reefd: X at 2 ms; only njit: Y at 3 ms"
    ]


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (Goal(what="", wanted=2.0, measured=1.0, unit="x"), "short by 2.00x"),
        (Goal(what="", wanted=2.0, measured=2.0, unit="x"), "reached"),
        (Goal(what="", wanted=2.0, measured=3.0, unit="us", most=True), "short by 1.50x"),
        (Goal(what="", wanted=2.0, measured=None, unit="x", why="it did not run"), "not measured: it did not run"),
    ],
)
def test_a_goal_says_whether_it_is_reached(goal: Goal, verdict: str) -> None:
    assert goal.verdict() == verdict


def test_a_series_of_many_markets_is_as_long_as_a_day_and_sorted() -> None:
    series = regular(50, 5_000)

    assert len(series) == 5_000
    assert series.ts[-1] - series.ts[0] > DAY_S * NS
    assert (np.diff(series.ts) >= 0).all()
