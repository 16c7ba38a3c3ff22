"""`reefd sweep` from files to its table, map and documents: whoever plays the cells, and every mistake of a user."""

from __future__ import annotations

import json
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from daemon.app import execution, sweeping
from daemon.app.replaying import replay
from daemon.app.sweeping import sweep
from daemon.errors import RunbookError, UserError
from daemon.simulation.compiled import Compiler
from tests.sweep_world import BOOK, MARKET_BOOK, make

SETS = ("trigger.when.threshold=0.05%/h,0.1%/h,0.15%/h", "trigger.for=1m,90m")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    sweeping.room_of.cache_clear()
    return make(tmp_path)


def run(folder: Path, *sets: str, account: bool = True, book: str = "spike.yaml", workers: int | None = 1, executor: Executor | None = None,
        **more: Any) -> int:  # fmt: skip
    options: dict[str, Any] = {
        "runbooks": None, "limits": None, "draw": None, "seed": 0, "objective": "pnl_without_direction", "walk_forward": 2,
        "json_format": True, "out": None, **more,
    }  # fmt: skip
    return sweep(
        folder / book, sets=sets or SETS, recording=folder / "recording", account=folder / "account.yaml" if account else None,
        workers=workers, executor=executor, **options,
    )  # fmt: skip


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    found.pop("seconds")
    return found


def test_the_document_has_every_cell_with_what_it_came_to_best_first(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    found = document(capsys)
    assert (found["runbook"], found["recording"], found["objective"]) == ("spike", "recording", "pnl_without_direction")
    cells = found["cells"]
    assert [cell["rank"] for cell in cells] == [1, 2, 3, 4, 5, 6]
    assert cells[0]["params"] == {"trigger.when.threshold": "0.15%/h", "trigger.for": "1m"}
    # The long spike pays off and the one of an hour does not; later only the threshold that waits for more is spared the second one.
    assert [cell["false_alarms"] for cell in cells if cell["params"]["trigger.for"] == "1m"] == [0, 1, 1]
    values = [cell["without_direction_usd"] for cell in cells]
    assert values == sorted(values, reverse=True)
    later = {cell["params"]["trigger.when.threshold"]: cell["later"]["episodes"] for cell in cells if cell["params"]["trigger.for"] == "1m"}
    assert later == {"0.05%/h": 1, "0.1%/h": 1, "0.15%/h": 0}
    assert found["grid"]["columns"]["path"] == "trigger.for"
    assert found["luck"]["tries"] == 6
    (fold,) = found["walk_forward"]
    assert fold["params"] == cells[0]["params"]
    assert len(found["parts"]) == 2


def test_a_cell_comes_to_what_a_replay_of_the_runbook_with_its_values_comes_to(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, "threshold=0.15%/h", "hold=5m", walk_forward=1)
    (cell,) = document(capsys)["cells"]
    written = folder / "written.yaml"
    written.write_text(BOOK.replace("default: 0.1%/h", "default: 0.15%/h").replace("hold: 1m", "hold: 5m"), encoding="utf-8")
    replay(folder / "recording", runbooks=[written], account=folder / "account.yaml", json_format=True, out=None, limits=None)
    report = json.loads(capsys.readouterr().out)
    assert cell["without_direction_usd"] == report["difference"]["without_direction_usd"]
    assert cell["at_3x_costs_usd"] == report["difference"]["without_direction_at_3x_costs_usd"]
    assert cell["pnl_usd"] == report["difference"]["pnl_usd"]
    assert (cell["episodes"], cell["clusters"]) == (len(report["episodes"]), report["clusters"])


@pytest.mark.parametrize("engine", ["python", "compiled"])
@pytest.mark.parametrize("workers", [2, 5])
def test_the_results_are_the_same_whoever_plays_the_cells(
    folder: Path, workers: int, engine: str, capsys: pytest.CaptureFixture[str]
) -> None:
    run(folder)
    alone = document(capsys)
    with ThreadPoolExecutor(1) as executor:  # the room is prepared once and shared: its batches take turns
        run(folder, workers=workers, executor=executor, engine=engine)
    assert document(capsys) == alone


def test_more_cells_compile_nothing_more(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    made: list[Compiler] = []

    def compiler() -> Compiler:
        made.append(Compiler(None))
        return made[-1]

    monkeypatch.setattr(execution, "compiler", compiler)
    windowed = BOOK.replace("> threshold\n  for", "> threshold and funding_rate > quantile(funding_rate, rank, span)\n  for")
    (folder / "spike.yaml").write_text(windowed.replace("  hold: 1m", "  hold: 1m\n  rank: 50%\n  span: 2h"), encoding="utf-8")
    run(folder, "threshold=0.1%/h", engine="compiled")
    run(folder, "threshold=0.1%/h,0.15%/h", "hold=0s,1m", "span=2h,3h", "rank=50%,90%", engine="compiled")
    assert [one.compiled for one in made] == [made[0].compiled] * 2
    assert made[0].compiled > 0


@pytest.mark.parametrize(("stage", "says"), [("shadow", "writes nothing"), ("disabled", "never fires")])
def test_a_runbook_that_is_not_armed_is_noted(folder: Path, stage: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "spike.yaml").write_text(BOOK.replace("stage: armed", f"stage: {stage}"), encoding="utf-8")
    run(folder)
    assert any(says in note for note in document(capsys)["notes"])


@pytest.mark.slow
def test_processes_play_the_same_cells_to_the_same_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder)
    alone = document(capsys)
    run(folder, workers=2)
    assert document(capsys) == alone


def test_draws_come_again_with_their_seed_and_are_mapped_in_bins(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sets = ("threshold=0.05%/h..0.15%/h", "hold=1m..10m..log")
    run(folder, *sets, draw=12, seed=5)
    first = document(capsys)
    run(folder, *sets, draw=12, seed=5)
    assert document(capsys) == first
    assert len(first["cells"]) == 12
    assert first["axes"][0] == {"path": "threshold", "values": None}
    assert first["grid"]["rows"]["values"][0] == ">=0.05%/h"
    run(folder, *sets, draw=12, seed=6)
    assert document(capsys)["cells"] != first["cells"]


def test_out_has_the_document_a_row_a_cell_and_a_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, out=folder / "out", json_format=False) == 0
    text = capsys.readouterr().out
    assert "spike over recording: 6 cells on each of 2 parts, by pnl_without_direction" in text
    assert "walk forward: chosen on part 1 (0.15%/h, 1m)" in text
    saved = json.loads((folder / "out" / "sweep.json").read_text(encoding="utf-8"))
    frame = pl.read_parquet(folder / "out" / "cells.parquet")
    assert frame["without_direction_usd"].to_list() == [cell["without_direction_usd"] for cell in saved["cells"]]
    assert {"rank", "trigger.for", "later_false_alarms"} <= set(frame.columns)
    page = (folder / "out" / "sweep.html").read_text(encoding="utf-8")
    assert "<svg" in page
    assert "http" not in page


def test_without_an_account_what_fires_is_still_counted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "seen.yaml").write_text(MARKET_BOOK, encoding="utf-8")
    run(folder, "threshold=0.05%/h,0.15%/h", account=False, book="seen.yaml", walk_forward=1)
    found = document(capsys)
    assert {cell["params"]["threshold"]: (cell["episodes"], cell["runs"]) for cell in found["cells"]} == {
        "0.05%/h": (3, 3), "0.15%/h": (1, 1),
    }  # fmt: skip
    assert any("no account was given" in warning for warning in found["warnings"])
    with pytest.raises(UserError, match="its scope is position, and without --account FILE nothing is held"):
        run(folder, account=False)


def test_others_run_beside_the_one_that_is_swept(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    beside = folder / "books"
    beside.mkdir()
    (beside / "seen.yaml").write_text(MARKET_BOOK, encoding="utf-8")
    (beside / "spike.yaml").write_text(BOOK, encoding="utf-8")
    run(folder, "threshold=0.15%/h", walk_forward=1)
    (alone,) = document(capsys)["cells"]
    sweep(
        beside / "spike.yaml", sets=["threshold=0.15%/h"], recording=folder / "recording", account=folder / "account.yaml", runbooks=beside,
        limits=None, draw=None, seed=0, workers=1, objective="runs", walk_forward=1, json_format=True, out=None,
    )  # fmt: skip
    (both,) = document(capsys)["cells"]
    assert both["episodes"] == alone["episodes"] + 3
    assert both["without_direction_usd"] == alone["without_direction_usd"]


def test_windows_longer_than_a_part_can_fill_are_noted(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = BOOK.replace("> threshold\n  for", "> threshold and funding_rate > quantile(funding_rate, 50%, 1d)\n  for")
    (folder / "spike.yaml").write_text(text, encoding="utf-8")
    run(folder, "threshold=0.15%/h")
    assert any("windows of up to 1d are UNKNOWN until they are full" in note for note in document(capsys)["notes"])


@pytest.mark.parametrize(
    ("sets", "says"),
    [
        (("threshold=5%",), "E046.*the param is a rate per hour"),
        (("threshold=2%/h",), r"E032.*above its max of 1%/h \(set: threshold=2%/h\)"),
        (("trigger.fro=1m", "stepz=3", "hold=x"), "(?s)trigger.fro.*did you mean 'for'.*"),
    ],
)
def test_wrong_values_are_told_before_anything_is_played(folder: Path, sets: tuple[str, ...], says: str) -> None:
    with pytest.raises(RunbookError, match=says) as told:
        run(folder, *sets)
    assert len(told.value.diagnostics) == len(sets)


@pytest.mark.parametrize(
    ("sets", "more", "says"),
    [
        (("threshold",), {}, "write PATH=VALUES"),
        (("hold=1m", "hold=2m"), {}, "hold is set twice"),
        (("hold=1m..5m", "x=1..2"), {}, r"(?s)hold: '1m\.\.5m' does not say how many values.*x: "),
        (("hold=1m",), {"walk_forward": 51}, "--walk-forward 51: a history is split into 1 to 50 parts"),
        (("hold=1m",), {"runbooks": Path("nowhere")}, "nowhere: no such file or folder; write a runbook"),
    ],
)
def test_wrong_usage_is_one_message(folder: Path, sets: tuple[str, ...], more: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        run(folder, *sets, **more)


def test_a_missing_runbook_or_account_is_named(folder: Path) -> None:
    with pytest.raises(UserError, match=r"none.yaml: no such file"):
        run(folder, book="none.yaml")
    (folder / "account.yaml").unlink()
    with pytest.raises(UserError, match="no such file"):
        run(folder)


def test_values_that_go_wrong_together_are_told_although_each_is_right_alone(folder: Path) -> None:
    text = BOOK.replace("intent: economy", "intent: economy\nmax_age: {funding_rate: 2h}").replace(
        "> threshold\n  for", "> threshold and zscore(funding_rate, span) > level\n  for"
    )
    text = text.replace("  hold: 1m", "  hold: 1m\n  span: 24h\n  level: 1.0")
    (folder / "spike.yaml").write_text(text, encoding="utf-8")
    with pytest.raises(RunbookError, match="E016"):
        run(folder, "span=13h,24h", "level=1.0,4.0")


def test_a_scheduler_that_cannot_be_reached_is_an_error_of_the_user(folder: Path) -> None:
    clustering = pytest.importorskip("daemon.app.clustering")
    with pytest.MonkeyPatch.context() as patched:

        def refuse(*_: object, **__: object) -> None:
            raise OSError("Timed out trying to connect")

        patched.setattr(clustering, "_connect", refuse)
        with pytest.raises(UserError, match=r"--cluster tcp://nobody:1: the scheduler cannot be reached \(Timed out"):
            clustering.sweep_on_cluster(folder / "spike.yaml", cluster="tcp://nobody:1")


@pytest.mark.slow
def test_a_cluster_plays_the_same_cells_to_the_same_results(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    clustering = pytest.importorskip("daemon.app.clustering")
    run(folder)
    alone = document(capsys)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        options: dict[str, Any] = {
            "sets": SETS, "recording": folder / "recording", "account": folder / "account.yaml", "runbooks": None, "limits": None,
            "draw": None, "seed": 0, "workers": None, "objective": "pnl_without_direction", "walk_forward": 2, "json_format": True,
            "out": None,
        }  # fmt: skip
        assert clustering.sweep_on_cluster(folder / "spike.yaml", cluster=cluster.scheduler_address, **options) == 0
    assert document(capsys) == alone
