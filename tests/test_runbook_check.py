"""`reefd check`: its output, its exit codes, its speed; and the runbooks that are shipped."""

from __future__ import annotations

import json
import re
import time
from datetime import date
from pathlib import Path

import pytest
from runbook_example import EXAMPLE

from daemon.app.check import check
from daemon.app.testing import test as run_tests
from daemon.runbook.load import load_paths
from daemon.runbook.model import Shrink, ShrinkAccount

ROOT = Path(__file__).resolve().parents[1]
DAY = date(2026, 10, 2)


def run(
    capsys: pytest.CaptureFixture[str], *paths: Path, json_format: bool = False, strict: bool = False, as_of: date = DAY
) -> tuple[int, str]:
    code = check(paths, json_format=json_format, strict=strict, as_of=as_of)
    out, err = capsys.readouterr()
    assert err == ""
    return code, out


def test_check_prints_the_fixed_json_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE.replace("paid > 0.05%/h and", "paid > 5% and"))
    code, out = run(capsys, tmp_path, json_format=True)
    assert code == 1
    assert json.loads(out) == {
        "runbooks": 0,
        "errors": [
            {
                "file": str(tmp_path / "a.yaml"), "line": 18, "column": 16, "code": "E014",
                "message": json.loads(out)["errors"][0]["message"],
            }
        ],
        "warnings": [],
    }  # fmt: skip


def test_check_shows_the_line_and_a_caret_under_the_token(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE.replace("paid > 0.05%/h and", "paid > 5% and"))
    code, out = run(capsys, tmp_path)
    lines = out.splitlines()
    assert code == 1
    assert lines[0].startswith(f"{tmp_path / 'a.yaml'}:18:16: error E014 in trigger.when: ")
    assert lines[1].index("5%") == lines[2].index("^")
    assert lines[2].strip() == "^^"
    assert lines[-1] == "failed: 0 runbooks right, 1 error, 0 warnings"


def test_check_of_right_runbooks_ends_in_ok(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE)
    assert run(capsys, tmp_path) == (0, "ok: 1 runbook right, 0 errors, 0 warnings\n")


def test_check_fails_on_warnings_only_when_strict(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE[: EXAMPLE.index("tests:")])
    assert run(capsys, tmp_path)[0] == 0
    code, out = run(capsys, tmp_path, strict=True)
    assert code == 1
    assert "warning W002" in out
    assert run(capsys, tmp_path, strict=True, json_format=True)[0] == 1


def test_check_counts_an_overdue_review_from_the_day_given(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_text(EXAMPLE)
    assert run(capsys, tmp_path, strict=True, as_of=date(2027, 1, 1))[0] == 0
    code, out = run(capsys, tmp_path, strict=True, as_of=date(2027, 1, 2))
    assert code == 1
    assert "W004" in out


def test_check_of_a_missing_path_is_an_error_and_not_a_traceback(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, tmp_path / "none.yaml", json_format=True)
    assert code == 1
    assert [(e["code"], e["line"], e["column"]) for e in json.loads(out)["errors"]] == [("E001", 1, 1)]


def test_check_never_sends_control_characters_to_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.yaml").write_bytes(b'schema: reefd/v1\nrunbook: "\\x1b[31mred"\nbad\x1b[31m: x\n')
    (tmp_path / "b.yaml").write_bytes(b'schema: reefd/v1\nrunbook: "\\x1b[31mred"\n')
    _, out = run(capsys, tmp_path)
    assert "\x1b" not in out


def test_check_of_fifty_runbooks_stays_within_its_time(tmp_path: Path) -> None:
    for i in range(50):
        text = EXAMPLE.replace("runbook: funding-spike", f"runbook: r{i}").replace("0.05%/h", f"0.0{50 + i}%/h").replace("4h", f"{i + 1}h")
        (tmp_path / f"{i}.yaml").write_text(text)
    load_paths([tmp_path / "0.yaml"])
    started = time.process_time()
    assert len(load_paths([tmp_path]).runbooks) == 50
    # The goal is one second with the start of the process; this bound only catches the full parser taking over, on a slow machine too.
    assert time.process_time() - started < 2.5


# --- shipped runbooks -----------------------------------------------------------------------------------------------------

SHIPPED = ("buffer-low", "funding-spike", "margin-low", "oracle-divergence", "route-down", "sequencer-down", "thin-book")


def test_shipped_runbooks_pass_the_strict_check(capsys: pytest.CaptureFixture[str]) -> None:
    code, out = run(capsys, ROOT / "runbooks", strict=True)
    assert (code, out) == (0, f"ok: {len(SHIPPED)} runbooks right, 0 errors, 0 warnings\n")


def test_shipped_runbooks_say_why_and_carry_tests() -> None:
    runbooks = load_paths([ROOT / "runbooks"]).runbooks
    assert tuple(sorted(r.id for r in runbooks)) == SHIPPED
    for runbook in runbooks:
        assert Path(runbook.path).stem == runbook.id
        assert runbook.source.startswith("# Why: ")
        assert len(runbook.tests) >= 3
        # One that shows it acting, one that shows it not acting.
        dids = [e.did for test in runbook.tests for e in test.expect if e.did is not None]
        assert any(dids)
        assert any(not did for did in dids)


def test_shipped_runbooks_never_sell_in_one_go() -> None:
    for runbook in load_paths([ROOT / "runbooks"]).runbooks:
        for step in runbook.all_steps():
            if isinstance(step.act, Shrink | ShrinkAccount):
                assert step.act.slices >= 3
                assert step.act.every_ns > 0
                assert step.act.max_share_of_depth is not None
                assert step.act.max_share_of_depth <= 0.3
                assert step.act.max_slippage is not None
                limits = runbook.limits
                assert limits.per_episode_ratio is not None or limits.per_episode_usd is not None


def test_shipped_runbooks_pass_their_own_tests(capsys: pytest.CaptureFixture[str]) -> None:
    code = run_tests([ROOT / "runbooks"], json_format=True, coverage=False)
    report = json.loads(capsys.readouterr().out)
    assert report["failures"] == []
    assert (code, report["failed"]) == (0, 0)
    assert report["tests"] == report["passed"] >= 30


def test_table_of_codes_in_the_docs_is_the_one_in_the_code() -> None:
    page = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    told = re.findall(r"^\| ([EW]\d{3}) \|", page, re.MULTILINE)
    assert told == sorted(set(told))
    rooms = [*(ROOT / "daemon" / "runbook").glob("*.py"), *(ROOT / "daemon" / "language").glob("*.py")]
    used = {code for path in rooms for code in re.findall(r'"([EW]0\d\d)"', path.read_text(encoding="utf-8"))}
    assert used - set(told) == set()
    # The rest of the page belongs to rooms above.
    assert {code for code in told if code < "E043" or code.startswith("W00")} - used == set()


@pytest.mark.parametrize("index", range(1))
def test_runbooks_of_the_page_load(index: int, tmp_path: Path) -> None:
    page = (ROOT / "docs" / "runbooks.md").read_text(encoding="utf-8")
    blocks = [block for block in re.findall(r"```yaml\n(.*?)```", page, re.DOTALL) if block.startswith("schema:")]
    (tmp_path / "a.yaml").write_text(blocks[index])
    loaded = load_paths([tmp_path])
    assert [d.render() for d in (*loaded.errors, *loaded.warnings)] == []
    assert run_tests([tmp_path], json_format=True, coverage=False) == 0
