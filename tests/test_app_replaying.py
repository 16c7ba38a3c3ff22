"""`reefd replay` from files to its report: the JSON that programs read, the files of --out, acceptance, and a user's mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import polars as pl
import pytest

from daemon.app.replaying import replay
from daemon.errors import RunbookError, UserError
from daemon.journal import recording as recording_module
from daemon.journal.recording import Facts, Recording
from daemon.units import HOUR_NS, NS
from daemon.world.entities import Kind

T0 = 1_770_134_400 * NS  # 2026-02-03T16:00:00Z

RUNBOOK = """\
schema: reefd/v1
runbook: spike
title: Shrink while a long pays too much
owner: desk
severity: warning
intent: economy
stage: armed
scope: position
trigger: {when: funding_rate * sign(size) > 0.1%/h}
limits: {per_run: 1_000_000 USD}
steps:
  - id: shrink
    shrink_position: {by: 50%, max_slippage: 1%}
replay:
  - {data: recording, assert: ["liquidations.with <= liquidations.without", "pnl.delta > -1_000 USD", "runs <= 12"]}
  - {data: another, assert: ["runs <= 0"]}
"""
ACCOUNT = """\
venue: dydx
model: dydx-v4
collateral: {USDC: 50_000 USD}
positions: [{market: HYPE-USD, size: 1_000, entry_price: 33.0}]
markets: {HYPE-USD: {initial_margin: 5%, maintenance_margin: 3%}}
fees: {taker: 5bps}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "spike.yaml").write_text(RUNBOOK, encoding="utf-8")
    (tmp_path / "account.yaml").write_text(ACCOUNT, encoding="utf-8")
    hours = range(6)
    frame = pl.DataFrame({
        "ts": [T0 + hour * HOUR_NS for hour in hours],
        "venue": ["dydx"] * 6,
        "market": ["HYPE-USD"] * 6,
        "last_price": [33.0, 34.0, 35.0, 34.0, 33.0, 32.0],
        "funding_rate": [0.0, 0.0, 0.002, 0.0, 0.0, 0.0],
    })
    facts = Facts(holds={"last_price": {"dydx": HOUR_NS}, "funding_rate": {"dydx": HOUR_NS}}, intervals={"funding_rate": {"dydx": HOUR_NS}})
    Recording.write(tmp_path / "recording", Kind.MARKET, frame, facts)
    return tmp_path


def run(folder: Path, *, limits: Path | None = None, out: Path | None = None, json_format: bool = True) -> int:
    recording, books, account = folder / "recording", [folder / "spike.yaml"], folder / "account.yaml"
    return replay(recording, runbooks=books, account=account, json_format=json_format, out=out, limits=limits)


def test_the_report_has_the_keys_that_programs_read(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["rows"] == 6
    assert {"load", "compile", "replay", "without", "counterfactuals"} == set(report["seconds"])
    (episode,) = report["episodes"]
    assert episode["pending_at"] == episode["fired_at"] == "2026-02-03T18:00:00.000Z"
    assert episode["run_status"] == "done"
    (action,) = episode["actions"]
    assert (action["action"], action["outcome"], action["size"], action["notional_usd"]) == ("shrink_position", "done", 500.0, 17_500.0)
    for name in ("pnl_usd", "funding_usd", "fees_usd", "liquidations", "margin_ratio_max", "turnover_usd", "funding_unknown_hours"):
        assert isinstance(report["with"][name], int | float)
        assert isinstance(report["without"][name], int | float)
    assert report["with"]["funding_usd"] == pytest.approx(-70.0)
    assert report["with"]["pnl_usd"] == pytest.approx(1000 * 2.0 - 500 * 3.0 - 70.0 - 17_500 * 0.0005)
    assert report["without"]["pnl_usd"] == pytest.approx(-1000.0 - 70.0)
    assert [(item["assert"], item["met"]) for item in report["acceptance"]] == [
        ("liquidations.with <= liquidations.without", True), ("pnl.delta > -1_000 USD", True), ("runs <= 12", True),
    ]  # fmt: skip


def test_a_recording_too_large_to_keep_comes_to_the_same_report(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    reports = []
    for cells, rows in ((20_000_000, 131_072), (0, 2)):
        monkeypatch.setattr(recording_module, "KEPT_CELLS", cells)
        monkeypatch.setitem(Recording.slices.__kwdefaults__, "rows", rows)
        assert run(folder) == 0
        reports.append({name: found for name, found in json.loads(capsys.readouterr().out).items() if name != "seconds"})
    assert reports[0] == reports[1]


def test_out_writes_the_report_the_page_and_both_passes_as_parquet(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = folder / "out"
    assert run(folder, out=out, json_format=False) == 0
    assert "the runbooks came to" in capsys.readouterr().out
    report = json.loads((out / "report.json").read_text(encoding="utf-8"))
    assert report["rows"] == 6
    assert {path.name for path in out.iterdir()} == {
        "report.json", "report.txt", "report.html", "equity.parquet", "episodes.parquet", "actions.parquet",
    }  # fmt: skip
    series = pl.read_parquet(out / "equity.parquet")
    assert series.columns == [
        "ts", "equity_with", "equity_without", "margin_ratio_with", "margin_ratio_without", "funding_with", "funding_without",
    ]  # fmt: skip
    assert series["ts"].dtype == pl.Int64
    last = series.row(-1, named=True)
    assert last["ts"] == T0 + 5 * HOUR_NS
    assert last["equity_without"] == pytest.approx(50_000.0 - 70.0 - 1000.0)
    assert (last["funding_with"], last["funding_without"]) == (pytest.approx(-70.0), pytest.approx(-70.0))
    (action,) = pl.read_parquet(out / "actions.parquet").rows(named=True)
    assert (action["market"], action["outcome"], action["size"], action["ts"]) == ("dydx:HYPE-USD", "done", 500.0, T0 + 2 * HOUR_NS)
    (episode,) = pl.read_parquet(out / "episodes.parquet").rows(named=True)
    assert episode["why"].startswith("TRUE  funding_rate * sign(size) > 0.1%/h  (0.1%/h above)")
    assert action["episode"] == episode["episode"]
    assert action["run"].startswith(episode["episode"])


@pytest.mark.parametrize(("choice", "seconds", "note"), [("off", 30.0, "--leave-one-out off"), ("auto", 0.0, "--leave-one-out on")])
def test_a_report_without_leave_one_out_notes_that_no_run_was_left_out(
    folder: Path, choice: str, seconds: float, note: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.app.replaying.LEAVE_ONE_OUT_S", seconds)
    books, account = [folder / "spike.yaml"], folder / "account.yaml"
    found = replay(
        folder / "recording", runbooks=books, account=account, json_format=True, out=None, limits=None, leave_one_out=choice
    )
    assert found == 0
    report = json.loads(capsys.readouterr().out)
    assert report["leave_one_out"] is None
    assert any(note in line for line in report["notes"])


def test_house_limits_apply_only_where_they_are_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "limits.yaml").write_text("house: {turnover_per_day: 100 USD}\n", encoding="utf-8")
    assert run(folder, limits=folder / "limits.yaml") == 0
    report = json.loads(capsys.readouterr().out)
    assert report["episodes"][0]["run_status"] == "blocked"
    assert report["with"]["turnover_usd"] == 0.0


def test_an_acceptance_that_is_not_met_exits_with_one(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "spike.yaml").write_text(RUNBOOK.replace("runs <= 12", "runs <= 0"), encoding="utf-8")
    assert run(folder, json_format=False) == 1
    assert "NOT MET spike: runs <= 0 (1 and 0)" in capsys.readouterr().out


def test_positions_at_a_venue_that_the_recording_lacks_are_an_error_with_what_it_has(folder: Path) -> None:
    (folder / "account.yaml").write_text(ACCOUNT.replace("venue: dydx", "venue: dyx"), encoding="utf-8")
    with pytest.raises(UserError, match=r"account.yaml: venue 'dyx' has no row in the recording .*; it has dydx: write one of them"):
        run(folder)


@pytest.mark.parametrize("change", [("HYPE-USD", "HYPR-USD"), ("collateral:", "valued_at: [oracle_price]\ncollateral:")])
def test_a_held_market_that_is_never_valued_is_noted_with_what_the_recording_has(
    folder: Path, change: tuple[str, str], capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "account.yaml").write_text(ACCOUNT.replace(*change), encoding="utf-8")
    assert run(folder) == 0
    (note,) = [note for note in json.loads(capsys.readouterr().out)["notes"] if "never valued" in note]
    assert "of dydx it has HYPE-USD" in note


def test_the_run_that_cleans_up_after_an_episode_is_shown_with_what_it_did(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    book = RUNBOOK.replace("steps:\n", "steps:\n  - {id: stop, halt: {scope: position}}\n")
    book = book.replace("replay:", "on_clear: [{id: go, resume: {scope: position}}]\nreplay:").replace("runs <= 12", "runs <= 1")
    (folder / "spike.yaml").write_text(book, encoding="utf-8")
    assert run(folder) == 0  # `runs` still counts what the trigger asked for
    (episode,) = json.loads(capsys.readouterr().out)["episodes"]
    assert [item["status"] for item in episode["runs"]] == ["done", "done"]
    assert [item["on_clear"] for item in episode["runs"]] == [False, True]
    assert episode["run_status"] == "done"
    assert [action["action"] for action in episode["actions"]] == ["halt", "shrink_position", "resume"]
    assert run(folder, json_format=False) == 0
    assert "    clear run done\n" in capsys.readouterr().out


def test_a_users_mistakes_are_errors_of_the_user(folder: Path) -> None:
    (folder / "account.yaml").write_text(ACCOUNT.replace("dydx-v4", "dydx"), encoding="utf-8")
    with pytest.raises(RunbookError, match="dydx-v4"):
        run(folder)
    (folder / "account.yaml").unlink()
    with pytest.raises(UserError, match="no such file"):
        run(folder)


def test_a_report_folder_that_cannot_be_made_is_told_before_anything_is_played(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "taken").write_text("a file")
    monkeypatch.setattr("daemon.app.execution.Execution.play", lambda *_, **__: pytest.fail("it was played"))
    with pytest.raises(UserError, match="taken: cannot be written"):
        run(folder, out=folder / "taken")
