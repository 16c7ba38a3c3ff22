"""`reefd new`, `reefd fmt` and `reefd schema` as verbs: files that are written, files that are left alone, and what is said."""

from __future__ import annotations

import json
import os
import re
import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator
from test_runbook_schema import core

from daemon.app.check import check
from daemon.app.formatting import fmt
from daemon.app.schemas import SCHEMAS, schema
from daemon.app.templates import new
from daemon.app.testing import test as run_tests
from daemon.errors import SettingsError, UserError
from daemon.runbook.document import compose
from daemon.runbook.formatting import formatted
from daemon.runbook.load import load_text
from daemon.runbook.templates import id_of, template_names, template_says
from daemon.settings import parse_settings

ROOT = Path(__file__).resolve().parent.parent
UNTIDY = (ROOT / "runbooks/thin-book.yaml").read_text(encoding="utf-8").replace("scope: position\nlet:", "scope:   'position'\n\n\nlet:")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, with the committed schema where a checkout has it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config/schema").mkdir(parents=True)
    (tmp_path / "config/schema/runbook.json").write_bytes((ROOT / "config/schema/runbook.json").read_bytes())
    (tmp_path / "runbooks").mkdir()
    return tmp_path


# --- new ------------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", template_names())
def test_a_new_runbook_passes_its_check_and_its_tests_as_created(here: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path(f"runbooks/{name}.yaml")
    assert new(name, listed=False, out=path) == 0
    assert check([path], json_format=False, strict=True, as_of=None) == 0, capsys.readouterr().out
    assert run_tests([path], json_format=False, coverage=False) == 0, capsys.readouterr().out
    assert fmt([path], check=True) == 0


def test_the_templates_stand_side_by_side_without_a_warning(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in template_names():
        new(name, listed=False, out=Path("runbooks"))
    assert check([Path("runbooks")], json_format=False, strict=True, as_of=None) == 0, capsys.readouterr().out


def test_a_template_says_what_it_is_for_and_explains_its_keys() -> None:
    assert len(template_names()) >= 7
    for name in template_names():
        text = (ROOT / f"daemon/runbook/templates/{name}.yaml").read_text(encoding="utf-8")
        assert 20 < len(template_says(name)) < 110
        assert "# Why: " in text
        assert len(re.findall(r"\S  +# \w", text)) >= 3, f"{name} explains too little in its lines"


def test_a_new_runbook_takes_its_id_and_title_from_the_file_and_names_the_schema(here: Path) -> None:
    new("funding", listed=False, out=Path("runbooks/HYPE funding.yaml"))
    text = Path("runbooks/HYPE funding.yaml").read_text(encoding="utf-8")
    (runbook,) = load_text(text, "x.yaml").runbooks
    assert (runbook.id, runbook.title) == ("hype-funding", "Hype funding - stop adding where funding is dear, shrink with approval")
    named = re.match(r"# yaml-language-server: \$schema=(\S+)\n", text)
    assert named
    assert (Path("runbooks") / named[1]).resolve() == (here / "config/schema/runbook.json").resolve()


def test_a_new_runbook_names_no_schema_where_there_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    new("alert", listed=False, out=None)
    assert Path("alert.yaml").read_text(encoding="utf-8").startswith("# Why: ")


def test_a_new_runbook_was_reviewed_today(here: Path) -> None:
    new("review", listed=False, out=Path("runbooks"))
    (runbook,) = load_text(Path("runbooks/review.yaml").read_text(encoding="utf-8"), "x.yaml").runbooks
    assert runbook.review_last == datetime.now(UTC).date().isoformat()


def test_a_file_that_exists_is_never_overwritten(here: Path) -> None:
    path = Path("mine.yaml")
    path.write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match=r"mine\.yaml exists and is not overwritten"):
        new("alert", listed=False, out=path)
    assert path.read_text(encoding="utf-8") == "mine"


@pytest.mark.parametrize(
    ("template", "out", "says"),
    [
        ("fundng", None, "there is no template 'fundng'; templates are alert, bridge"),
        (None, None, "reefd new --list"),
        ("alert", Path("no/such/a.yaml"), "there is no folder no/such"),
        ("alert", Path("a.txt"), "write --out alert.yaml"),
        ("alert", Path("---.yaml"), "write --out alert.yaml"),
    ],
)
def test_a_new_that_cannot_be_says_what_to_write(here: Path, template: str | None, out: Path | None, says: str) -> None:
    with pytest.raises(UserError, match=re.escape(says)):
        new(template, listed=False, out=out)


def test_the_list_names_every_template(capsys: pytest.CaptureFixture[str]) -> None:
    assert new(None, listed=True, out=None) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == template_names()


@pytest.mark.parametrize(("stem", "wanted"), [("My Runbook", "my-runbook"), ("a_b", "a-b"), ("-x-", "x"), ("é", ""), ("a" * 99, "a" * 80)])
def test_an_id_is_made_of_what_a_file_is_called(stem: str, wanted: str) -> None:
    assert id_of(stem) == wanted


# --- fmt ------------------------------------------------------------------------------------------------------------------------------
def test_fmt_writes_what_is_not_in_form_and_keeps_its_permissions(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("runbooks/thin-book.yaml")
    path.write_text(UNTIDY, encoding="utf-8")
    path.chmod(0o640)
    assert fmt([Path("runbooks")], check=False) == 0
    assert path.read_text(encoding="utf-8") == formatted(UNTIDY, "x.yaml") != UNTIDY
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert capsys.readouterr().out == f"formatted {path}\n1 file, 1 formatted\n"
    before = path.stat().st_mtime_ns
    assert fmt([path], check=False) == 0
    assert path.stat().st_mtime_ns == before
    assert os.listdir("runbooks") == ["thin-book.yaml"]


def test_fmt_check_prints_the_difference_and_writes_nothing(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = Path("runbooks/thin-book.yaml")
    path.write_text(UNTIDY, encoding="utf-8")
    assert fmt([path], check=True) == 1
    shown = capsys.readouterr().out
    assert "\n-scope:   'position'\n" in shown
    assert "\n+scope: position\n" in shown
    assert shown.endswith("1 file, 1 to format\n")
    assert path.read_text(encoding="utf-8") == UNTIDY


def test_fmt_leaves_a_file_with_mistakes_as_it_is_and_formats_the_others(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = UNTIDY.replace("severity: warning", "severity: warn").replace("thin-book", "broken")
    Path("runbooks/broken.yaml").write_text(broken, encoding="utf-8")
    Path("runbooks/good.yaml").write_text(UNTIDY, encoding="utf-8")
    Path("runbooks/latin.yaml").write_bytes(b"title: caf\xe9\n")
    assert fmt([Path("runbooks")], check=False) == 1
    shown = capsys.readouterr()
    assert "E030" in shown.err
    assert "latin.yaml: not UTF-8" in shown.err
    assert shown.out.endswith("3 files, 1 formatted, 2 wrong\n")
    assert Path("runbooks/broken.yaml").read_text(encoding="utf-8") == broken
    assert Path("runbooks/good.yaml").read_text(encoding="utf-8") == formatted(UNTIDY, "x.yaml")


def test_fmt_writes_through_a_link_and_keeps_it(here: Path) -> None:
    Path("real.yaml").write_text(UNTIDY, encoding="utf-8")
    Path("runbooks/link.yaml").symlink_to(Path("real.yaml").resolve())
    assert fmt([Path("runbooks/link.yaml")], check=False) == 0
    assert Path("runbooks/link.yaml").is_symlink()
    assert Path("real.yaml").read_text(encoding="utf-8") == formatted(UNTIDY, "x.yaml")


def test_fmt_of_nothing_is_a_mistake(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert fmt([Path("no/such")], check=False) == 1
    assert "E001" in capsys.readouterr().err


# --- schema ---------------------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("what", sorted(SCHEMAS))
def test_a_schema_is_printed_as_one_json_document(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert schema(what) == 0
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))


def complaints(what: str, text: str) -> list[str]:
    return [error.json_path for error in Draft202012Validator(SCHEMAS[what]()).iter_errors(core(compose(text, "x.yaml").root))]


@pytest.mark.parametrize("path", ["config/reefd.yaml"])
def test_the_shipped_settings_are_right_by_their_schema(path: str) -> None:
    assert complaints("settings", (ROOT / path).read_text(encoding="utf-8")) == []


def test_the_shipped_limits_are_right_by_their_schema() -> None:
    assert complaints("limits", (ROOT / "config/limits.yaml").read_text(encoding="utf-8")) == []
    assert complaints("limits", "house: {run: 5/day}") == ["$.house"]
    assert complaints("limits", "house: {runs: 5}") == ["$.house.runs"]


@pytest.mark.parametrize("path", sorted((ROOT / "config/scenarios").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_scenario_is_right_by_its_schema(path: Path) -> None:
    assert complaints("scenario", path.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("written", "instead"),
    [
        ("adapter: dydx-v4", "adapter: dydx"),
        ("adapter: dydx-v4", "adaptor: dydx-v4"),
        ("taker_fee: 5bps", "taker_fee: 5"),
        ("height: 1s", "height: 1"),
        ("markets: [BTC-USD, ETH-USD, HYPE-USD]", "markets: {BTC-USD: 1}"),
        ("log: {format: auto}", "log: {format: pretty}"),
        ("lateness: {request: 5s, stop: 10s}", "lateness: soon"),
        ("halt_file: var/halt", "halt-file: var/halt"),
    ],
)
def test_settings_that_are_refused_are_refused_by_their_schema_too(written: str, instead: str) -> None:
    text = (ROOT / "config/reefd.yaml").read_text(encoding="utf-8")
    assert written in text
    changed = text.replace(written, instead, 1)
    with pytest.raises(SettingsError):
        parse_settings(changed, "x.yaml")
    assert complaints("settings", changed)
