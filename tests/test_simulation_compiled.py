"""The compiled execution: it agrees with the plain one to the last bit, its windows with an exact oracle, and its files survive."""

from __future__ import annotations

import inspect
import math
import os
import random
import subprocess
import sys
from collections.abc import Iterator
from math import floor
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.engine import unit as units
from daemon.engine.hot import Sources
from daemon.engine.unit import Column, Unsupported
from daemon.journal.recording import Block
from daemon.language import kernels
from daemon.runbook.load import load_text
from daemon.simulation import loops, lower
from daemon.simulation.columnar import ColumnHot
from daemon.simulation.compiled import OBJECTS_MAX, Compiler, _kernels
from daemon.units import FOREVER, NS
from daemon.world.entities import Kind, Topology, Venue
from tests.executions import Outcome, course, outcome, runbook
from tests.test_language_windows import FUNCTIONS, oracle

PAIRS = int(os.environ.get("REEFD_PAIRS", "200"))  # make soak: 1,000
THAN = {"count": "1_000_000", "zscore": "4", "pct_change": "1_000%", "slope": "1_000_000 price * 1 / 1h"}
START = 1_767_225_600 * NS
MARKET = "dydx:HYPE-USD"
WINDOW = """\
schema: reefd/v1
runbook: window
title: a window
owner: tests
severity: info
stage: shadow
scope: market
trigger:
  when: {window} > {than}
steps: [{{id: tell, notify: {{to: [desk], text: told}}}}]
"""


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Compiler:
    """One compiler for all: what a test compiled, the next one finds, in another process of a parallel run too."""
    own = tmp_path_factory.getbasetemp()
    return Compiler((own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "compiled")


def pairs(seeds: range, made: Compiler) -> Iterator[tuple[int, Outcome, Outcome | None]]:
    """(seed, plain, compiled) of generated runbook sets over generated series; None where only the plain execution applies."""
    spans = made.spans()
    for seed in seeds:
        chance = random.Random(seed)
        over = course(chance, chance.choice((25, 50, 120)))
        books = tuple(runbook(chance, f"r{j}") for j in range(chance.randint(1, 5)))
        reload = None
        if chance.random() < 0.4:
            kept = books[: chance.randint(0, 2)]
            fresh = tuple(runbook(chance, f"r{j}") for j in range(chance.randint(0, 3)))
            reload = tuple({book.id: book for book in (*fresh, *kept)}.values())
        plain = outcome(over, books, None, None, reload)
        try:
            yield seed, plain, outcome(over, books, made, spans, reload)
        except Unsupported:
            yield seed, plain, None


@pytest.mark.slow
@pytest.mark.parametrize("part", range(4))  # so that cores share the work
def test_plain_and_compiled_agree_over_generated_pairs(compiler: Compiler, part: int) -> None:
    differing, compared, changes = [], 0, 0
    seeds = range(PAIRS * part // 4, PAIRS * (part + 1) // 4)
    for seed, plain, compiled in pairs(seeds, compiler):
        if compiled is None:
            continue
        compared += 1
        changes += sum(1 for record in plain.records if type(record).__name__ == "TriggerChanged")
        if repr(plain) != repr(compiled):
            differing.append(seed)
    assert differing == []
    # The generator itself: nearly all of it applies, and triggers do fire.
    assert compared > 0.9 * len(seeds)
    assert changes > 5 * len(seeds)


def test_a_unit_s_text_does_not_change_with_its_thresholds_and_durations() -> None:
    texts = set()
    for threshold, hold in (("4", "2m"), ("2.5", "10m"), ("2", "1s")):
        text = WINDOW.format(window="zscore(funding_rate, 24h)", than=f"{threshold} and funding_rate > {threshold}%/h")
        book = load_text(text.replace("steps:", f"  for: {hold}\nsteps:"), "w.yaml").runbooks[0]
        hot = ColumnHot(Topology(venues={}), Sources(), compiler=Compiler(None), recorded={Kind.MARKET: ["funding_rate"]})
        hot.link([book])
        recorded = frozenset({(Kind.MARKET, "funding_rate")})
        texts.add(units.trigger_unit(book, hot.layout, frozenset(), recorded, units.OWN).text)
    assert len(texts) == 1


def test_a_runbook_s_unit_does_not_change_with_the_runbooks_beside_it() -> None:
    book = load_text(WINDOW.format(window="mean(mark_price, 1h)", than="5 price"), "w.yaml").runbooks[0]
    beside = WINDOW.format(window="std(mark_price, 2h)", than="5 price").replace("runbook: window", "runbook: a")
    other = load_text(beside, "a.yaml").runbooks[0]
    recorded = frozenset({(Kind.MARKET, "mark_price")})
    texts = set()
    for more in ((), (other,)):
        hot = ColumnHot(Topology(venues={}), Sources(), compiler=Compiler(None), recorded={Kind.MARKET: ["mark_price"]})
        hot.link([*more, book])
        texts.add(units.trigger_unit(book, hot.layout, frozenset(), recorded, units.OWN).text)
    assert len(texts) == 1


# --- windows against the oracle -----------------------------------------------------------------------------------------
def observations(seed: int, count: int) -> tuple[list[int], list[int], list[float]]:
    """(ts, event_ts, values): jittered, gappy, repeated, late and out of order; equal values, spikes and nulls among them."""
    chance = random.Random(seed)
    at, ts, events, values, value = START, [], [], [], 100.0
    for _ in range(count):
        at += chance.choice([1, 1, 3, 5, 10, 90]) * NS + chance.randrange(NS)
        late = chance.choice([0, 0, 0, 20, 90])
        repeated = bool(events) and chance.random() < 0.1
        event = events[-1] if repeated else at - late * NS
        value = value if chance.random() < 0.2 else chance.choice([chance.gauss(100.0, 1.0), chance.gauss(100.0, 1.0), 1e5])
        ts.append(at)
        events.append(event)
        values.append(math.inf if chance.random() < 0.1 else value)
    return ts, events, values


def counted(ts: list[int], events: list[int], values: list[float]) -> list[int]:
    """The rows that add a sample: not null, and newer than everything before."""
    newest, rows = -FOREVER, []
    for row, (event, value) in enumerate(zip(events, values, strict=True)):
        if value != math.inf and event > newest:
            newest = event
            rows.append(row)
    return rows


@pytest.mark.parametrize("size", [1, 7, 1_000])
@pytest.mark.parametrize("function", FUNCTIONS)
def test_a_compiled_window_equals_the_exact_oracle_whatever_the_stretches_it_is_fed(function: str, size: int, compiler: Compiler) -> None:
    count = 300 if size == 1 else 900
    ts, events, values = observations(len(function), count)
    rank = 0.9 if function == "quantile" else 0.0
    window = f"{function}(oracle_price, 90%, 10m)" if function == "quantile" else f"{function}(oracle_price, 10m)"
    hot = ColumnHot(Topology(venues={"dydx": Venue(id="dydx")}), Sources(), compiler=compiler, recorded={Kind.MARKET: ["oracle_price"]})
    loaded = load_text(WINDOW.format(window=window, than=THAN.get(function, "1_000_000_000 price")), "w.yaml")
    assert not loaded.errors, loaded.errors
    hot.link(loaded.runbooks)
    hot.arenas.row(Kind.MARKET, MARKET)
    series = next(iter(hot.layout.series[Kind.MARKET].values()))
    column = Column(Kind.MARKET, "f", next(iter(series.outputs.values())))
    got: list[float] = []
    for first in range(0, count, size):
        part = slice(first, min(first + size, count))
        block = Block(
            kind=Kind.MARKET, ts=np.array(ts[part]), event_ts=np.array(events[part]), entity=np.zeros(len(ts[part]), np.int32),
            entity_ids=(MARKET,), columns={"oracle_price": np.array(values[part])},
        )  # fmt: skip
        hot.feed([block], ts[part][-1])
        if first == 0:
            hot.take((), ts[0])
        hot.advance(ts[part][-1])
        got += hot._tables[Kind.MARKET].columns[column].tolist()
    samples: list[tuple[int, float]] = []
    known = 0
    for row in counted(ts, events, values):
        samples.append((ts[row], values[row]))
        expected = oracle(function, samples, 600 * NS, rank)
        known += expected == expected
        # A slope through a spike of a thousand times the rest cancels 6 digits by itself.
        close = 1e-6 if function == "slope" else 1e-9
        assert got[row] == pytest.approx(expected, rel=close, abs=close, nan_ok=True), (row, function)
    assert known > 20


# --- lowering -------------------------------------------------------------------------------------------------------------
@settings(deadline=None, max_examples=200)
@given(
    st.integers(-(10**12), 10**12), st.integers(1, 10**9), st.floats(allow_nan=True, allow_infinity=True), st.floats(-1e9, 1e9),
)  # fmt: skip
def test_lowered_arithmetic_is_python_s(n: int, d: int, x: float, y: float) -> None:
    found = LOWERED(n, d, x, y)
    expected = arithmetic(n, d, x, y)
    assert [repr(value) for value in found] == [repr(value) for value in expected]


def arithmetic(n: int, d: int, x: float, y: float) -> tuple[int, int, float, float, int, float, int]:
    """Whatever differs between Python's numbers and a machine's."""
    a = n % d
    b = n // -d
    c = (x if x == x else -1.0) * 0.5 - y
    e = n / d
    f = 0 if not x > y else (2 if x != y and y != 0.0 else 1)
    g = -y if y < 0.0 or x != x else abs(y)
    h = floor(y) + int(y) if -1e9 < y < 1e9 else d >> 1
    return a, b, c, e, f, g, h


LOWERED = Compiler(None).function(arithmetic, "iiffifi")


def test_every_kernel_is_lowered() -> None:
    whole, unlowered = _flat(), []
    for name, function in vars(kernels).items():
        if not inspect.isfunction(function) or function.__module__ != kernels.__name__ or name == "order":
            continue  # `order` has another writing in `loops`
        types = {p: _kernel_type(str(a)) for p, a in inspect.get_annotations(function).items() if p != "return"}
        try:
            lower.lower(whole, name, types, "kernel")
        except (lower.Unlowered, AssertionError, KeyError) as error:
            unlowered.append(f"{name}: {error!r}")
    assert unlowered == []


def _flat() -> str:
    functions, constants = _kernels()
    return "\n".join([*constants.values(), *functions.values()])


def _kernel_type(annotation: str) -> str:
    return {"Floats": "F1", "Ints": "I1", "int": "i", "float": "f", "bool": "i"}[annotation]


# --- files ----------------------------------------------------------------------------------------------------------------
def test_a_second_compiler_finds_what_the_first_one_compiled(tmp_path: Path) -> None:
    first, second = Compiler(tmp_path / "c"), Compiler(tmp_path / "c")
    assert first.function(loops.nulls)(column=np.array([1.0, math.inf]), end=2) == 1
    assert second.function(loops.nulls)(column=np.array([math.inf, math.inf]), end=2) == 2
    assert (first.compiled, second.compiled) == (1, 0)


def test_a_damaged_object_is_compiled_anew(tmp_path: Path) -> None:
    Compiler(tmp_path).function(loops.nulls)
    (path,) = tmp_path.glob("*.o")
    path.write_bytes(path.read_bytes()[:100])
    again = Compiler(tmp_path)
    assert again.function(loops.nulls)(column=np.array([math.inf]), end=1) == 1
    assert again.compiled == 1


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a folder")
    made = Compiler(tmp_path / "file" / "cache")
    assert made.folder is None
    assert made.function(loops.nulls)(column=np.array([math.inf]), end=1) == 1


def test_the_cache_is_bounded_and_lets_go_of_the_oldest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.simulation.compiled.OBJECTS_MAX", 2)
    made = Compiler(tmp_path)
    for function in (loops.nulls, loops.within, loops.fill):
        made.function(function)
    assert len(list(tmp_path.glob("*.o"))) == 2
    assert OBJECTS_MAX > 1_000


def test_two_processes_compile_the_same_text_at_once_without_harm(tmp_path: Path) -> None:
    program = (
        "import sys, numpy as np; from pathlib import Path; from daemon.simulation import loops; "
        "from daemon.simulation.compiled import Compiler; "
        "sys.exit(Compiler(Path(sys.argv[1])).function(loops.nulls)(column=np.array([np.inf]), end=1) != 1)"
    )
    running = [subprocess.Popen([sys.executable, "-c", program, str(tmp_path)]) for _ in range(3)]
    assert [process.wait() for process in running] == [0, 0, 0]
    assert len(list(tmp_path.iterdir())) == 1
