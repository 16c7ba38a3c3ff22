"""`reefd stress`: the same document whoever plays the paths, and whichever execution does."""

from __future__ import annotations

import json
from concurrent.futures import Executor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from daemon.app import stressing
from daemon.app.stressing import stress
from daemon.errors import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _fresh() -> None:
    stressing.stage_of.cache_clear()


def options(folder: Path, **more: Any) -> dict[str, Any]:
    """A book close to liquidation, three shipped runbooks, a few paths in batches of two."""
    books = folder / "runbooks"
    books.mkdir(exist_ok=True)
    for name in ("margin-low", "buffer-low", "oracle-divergence"):
        (books / f"{name}.yaml").write_text((ROOT / "runbooks" / f"{name}.yaml").read_text(encoding="utf-8"), encoding="utf-8")
    text = (ROOT / "config/books/example.yaml").read_text(encoding="utf-8")
    (folder / "book.yaml").write_text(text.replace("collateral: 42_000 USD", "collateral: 18_000 USD"), encoding="utf-8")
    return {
        "book": str(folder / "book.yaml"), "worlds": [str(ROOT / "config/worlds/stressed.yaml")], "runbooks": books, "limits": None,
        "paths": 12, "horizon": "8h", "seed": 3, "workers": 1, "rare": True, "dependence": True, "leave_one_out": True,
        "json_format": True, "out": None, "config": ROOT / "config", "engine": "compiled", **more,
    }  # fmt: skip


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    found.pop("seconds")
    return found


def played(folder: Path, capsys: pytest.CaptureFixture[str], executor: Executor | None = None, **more: Any) -> dict[str, Any]:
    assert stress(**options(folder, **more), executor=executor) == 0
    return document(capsys)


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stressing, "BATCH", 2)


def test_the_document_does_not_depend_on_who_plays_the_paths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = played(tmp_path, capsys)
    assert alone["runs"]["margin-low"]["paths"] > 0
    assert alone["without"]["liquidated_paths"] > 0
    assert alone["leave_one_out"]
    with ThreadPoolExecutor(1) as executor:  # a stage is prepared once and shared: its batches take turns
        assert played(tmp_path, capsys, executor, workers=3) == alone
    other = played(tmp_path, capsys, seed=4)
    assert other["without"]["pnl_usd"] != alone["without"]["pnl_usd"]


def test_both_executions_write_the_same_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    few = {"paths": 6, "horizon": "3h"}
    quick = played(tmp_path, capsys, **few)
    assert quick["runs"]["margin-low"]["paths"] > 0
    slow = played(tmp_path, capsys, engine="python", **few)
    assert slow == quick


@pytest.mark.slow
def test_processes_write_the_same_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = played(tmp_path, capsys)
    assert played(tmp_path, capsys, workers=2) == alone


@pytest.mark.slow
def test_a_cluster_writes_the_same_document(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    distributed = pytest.importorskip("distributed")
    clustering = pytest.importorskip("daemon.app.clustering")
    alone = played(tmp_path, capsys)
    with distributed.LocalCluster(n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None) as cluster:
        assert clustering.stress_on_cluster(cluster=cluster.scheduler_address, **options(tmp_path, workers=None)) == 0
    assert document(capsys) == alone


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"paths": 0}, "--paths 0: write at least 1"),
        ({"horizon": "90m"}, "whole hours"),
        ({"horizon": "93d"}, "from 1h to 92d"),
        ({"horizon": "soon"}, "--horizon: "),
        ({"worlds": ["nowhere/*.yaml"]}, "no file matches"),
        ({"book": "none.yaml"}, "none.yaml: no such file"),
    ],
)
def test_wrong_usage_is_one_message(tmp_path: Path, more: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        stress(**options(tmp_path, **more))
