"""The operator's verbs against a real server on a free port with a desk in memory: what they print, ask for, and exit with."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import httpx
import pytest
from typer.testing import CliRunner

from daemon import cli
from daemon.app import operator, watching
from daemon.app.status import status_path
from daemon.edges.operator import OperatorClient, _events, part
from daemon.errors import EdgeError, UserError
from daemon.settings import load_settings
from tests.surface_world import Surface, serve

SETTINGS = """
venues:
  dydx:
    adapter: dydx-v4
    url: http://127.0.0.1:9/v4
    accounts: {dydx: {address: dydx1abc}}
    markets: [BTC-USD]
"""
NOBODY = "http://127.0.0.1:9"  # discard: nothing listens there


@pytest.fixture
def surface(tmp_path: Path) -> Surface:
    return Surface(tmp_path)


@pytest.fixture
def url(surface: Surface) -> Iterator[str]:
    with serve(surface.app) as address:
        yield address


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Settings whose daemon is not there."""
    path = tmp_path / "reefd.yaml"
    http = f"http: {{port: 9, tokens: {tmp_path}/var/tokens.yaml, operator_token: {tmp_path}/var/operator.token}}\n"
    path.write_text(f"{SETTINGS}journal: {{path: {tmp_path}/state.db}}\nhalt_file: {tmp_path}/halt\n{http}", encoding="utf-8")
    return path


@dataclass(frozen=True)
class Ended:
    """How a verb ended, and what it wrote."""

    exit_code: int
    stdout: str
    output: str  # with standard error


def reefd(*words: str, token: str = "") -> Ended:
    """The verb as a shell would run it; a user's mistake is exit 2 with its message, as in `main`."""
    done = CliRunner().invoke(cli.app, words, env={"REEFD_TOKEN": token, "COLUMNS": "200", "REEFD_URL": None})
    if isinstance(done.exception, UserError):
        return Ended(2, done.stdout, f"{done.output}{done.exception}")
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return Ended(done.exit_code, done.stdout, done.output)


# --- looking ---------------------------------------------------------------------------------------------------------------


def test_status_shows_the_line_and_what_it_needs_and_exits_1_when_all_is_not_well(surface: Surface, url: str) -> None:
    shown = reefd("status", "--url", url, "--format", "text")
    assert shown.exit_code == 1
    first = surface.desk.current
    for text in (" NEEDS YOU ", first.why, first.needs[0].title, "if you do nothing: ", first.accounts[0].id, "cash: ", "degraded"):
        assert text in shown.output, text
    surface.desk.current = replace(first, line="QUIET", problems=())
    assert reefd("status", "--url", url).exit_code == 0
    assert json.loads(reefd("status", "--url", url, "--format", "json").output)["line"] == "QUIET"


def test_status_without_a_daemon_says_what_was_published(config: Path) -> None:
    shown = reefd("status", "--config", str(config))
    assert shown.exit_code == 1
    assert "the daemon has not run with these settings" in shown.output
    told = json.loads(reefd("status", "--config", str(config), "--format", "json").output)
    assert told["now"] is None
    assert told["degraded"]
    assert reefd("status", "--url", NOBODY).exit_code == 2


def test_an_address_that_another_daemon_has_taken_is_not_asked(surface: Surface, url: str, config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8").replace("port: 9,", f"port: {httpx.URL(url).port},")
    config.write_text(text, encoding="utf-8")
    page = {"pid": os.getpid(), "published": "2026-01-01T00:00:00Z", "http": {"url": "", "problem": "port 8470 on 127.0.0.1 is in use"}}
    (tmp_path / "state.status.json").write_text(json.dumps(page), encoding="utf-8")
    refused = reefd("runs", "--config", str(config))
    assert (refused.exit_code, "serves no API: port 8470 on 127.0.0.1 is in use" in refused.output) == (2, True)
    assert json.loads(reefd("status", "--config", str(config), "--format", "json").output)["now"] is None
    page["http"] = {"url": url, "problem": ""}
    (tmp_path / "state.status.json").write_text(json.dumps(page), encoding="utf-8")
    config.write_text(text.replace(f"port: {httpx.URL(url).port},", "port: 9,"), encoding="utf-8")
    found = json.loads(reefd("status", "--config", str(config), "--format", "json").output)
    assert found["now"]["line"] == "NEEDS YOU", "it is asked where it says that it listens"


def test_what_is_watched_and_does_not_answer_is_told_to_be_old(surface: Surface, url: str) -> None:
    reach = operator.Reach(url=url, token="", settings=None)
    with reach.open() as client:
        now, why = next(watching._looks(reach, client))
    assert now is not None
    assert (now["line"], why) == ("NEEDS YOU", "")
    gone = operator.Reach(url=NOBODY, token="", settings=None)
    with gone.open() as client:
        now, why = next(watching._looks(gone, client))
    assert now is None
    assert why.startswith("no daemon answers")


def test_why_says_how_far_each_condition_is(surface: Surface, url: str) -> None:
    shown = reefd("why", "funding-spike", "--url", url, "--format", "text")
    assert shown.exit_code == 0
    view = json.loads(reefd("why", "funding-spike", "--url", url).output)
    assert view["sentence"] in shown.output
    assert all(line.strip() in shown.output for line in view["lines"][:3])
    missing = reefd("why", "funding-spik", "--url", url)
    assert (missing.exit_code, "there are funding-spike" in missing.output) == (2, True)


def test_runs_are_listed_and_one_is_shown_with_its_trace(surface: Surface, url: str) -> None:
    listed = reefd("runs", "--url", url, "--format", "text", "--limit", "3")
    run_id = surface.desk.current.running[0].run_id
    assert run_id in listed.output
    assert "USD of " in listed.output
    assert len(json.loads(reefd("runs", "--url", url, "--limit", "3").output)["runs"]) == 3
    one = reefd("runs", run_id, "--url", url, "--format", "text")
    assert one.exit_code == 0
    detail = json.loads(reefd("runs", run_id, "--url", url).output)
    assert len(detail["moments"]) > 3
    assert all(moment["title"] in one.output for moment in detail["moments"])
    missing = reefd("runs", run_id[:-1] + "9", "--url", url)
    assert missing.exit_code == 2
    assert "did you mean" in missing.output
    assert run_id in missing.output
    assert reefd("runs", "--url", url, "--status", "odd").exit_code == 2


def test_the_gate_is_an_exit_code(surface: Surface, url: str) -> None:
    is_open = reefd("gate", "dydx:ETH-USD", "--url", url, "--format", "text")
    assert (is_open.exit_code, "dydx:ETH-USD: open" in is_open.output) == (0, True)
    surface.desk.current = replace(surface.desk.current, openings_halted=True)
    closed = reefd("gate", "dydx:ETH-USD", "--url", url)
    assert (closed.exit_code, json.loads(closed.output)["open"]) == (1, False)
    for market, address in (("dydx:NONE-USD", url), ("dydx:ETH-USD", NOBODY), ("", url)):
        unknown = reefd("gate", market, "--url", address)
        assert (unknown.exit_code, json.loads(unknown.output)["open"]) == (2, False)
    surface.desk.unavailable = "the loop has not turned for 12 s"
    silent = reefd("gate", "dydx:ETH-USD", "--url", url, "--format", "text")
    assert (silent.exit_code, "closed: the loop has not turned for 12 s" in silent.output) == (2, True)


def test_tail_goes_on_where_it_was_and_prints_a_line_for_whatever_happens(surface: Surface, url: str) -> None:
    with OperatorClient(url=url) as client:
        events = client.events()
        assert next(events).name == "snapshot"
        surface.desk.fire("dydx:BTC-USD")
        seen = next(event for event in events if event.name == "happening")
    for number in range(3):
        surface.desk.publish("CommandTaken", f"number {number}")
    told = reefd("tail", "--after", seen.id, "--times", "2", "--url", url)
    assert told.exit_code == 0
    lines = [json.loads(line) for line in told.stdout.splitlines()]
    assert [line["summary"] for line in lines] == ["number 0", "number 1"]
    rest = reefd("tail", "--after", lines[-1]["id"], "--times", "1", "--url", url, "--format", "text")
    assert "CommandTaken" in rest.output
    assert "number 2" in rest.output
    lost = reefd("tail", "--after", "1-0", "--times", "1", "--url", url, "--format", "text")
    assert "something was left out" in lost.output
    assert reefd("tail", "--url", NOBODY).exit_code == 2


def test_an_event_stream_is_read_as_it_is_written() -> None:
    text = ': hello\nretry: 5\n\nevent: happening\nid: 7-0\ndata: {"a": 1}\n\ndata: [1]\n\ndata: no json\n\nevent: lagged\ndata: {}\n\n'
    assert [(event.name, event.id, event.content) for event in _events(iter(text.split("\n")))] == [
        ("happening", "7-0", {"a": 1}),
        ("lagged", "", {}),
    ]


# --- acting ----------------------------------------------------------------------------------------------------------------


def test_approve_shows_the_plan_and_sends_the_digest_that_it_showed(surface: Surface, url: str) -> None:
    need = surface.desk.current.needs[0]
    shown = reefd("approve", need.run_id, "--yes", "--reason", "looked", "--url", url, "--format", "text", token=surface.secrets["ben"])
    assert shown.exit_code == 0, shown.output
    for text in (need.title, need.digest, need.legs[0].text, " -> ", "if you do nothing: ", f"approved {need.step}"):
        assert text in shown.output, text
    command = surface.desk.commands[-1]
    assert (command.verb, command.actor, command.digest, command.reason) == ("approve", "ben", need.digest, "looked")


def test_approve_takes_the_name_of_a_runbook_and_refuses_another_plan(surface: Surface, url: str) -> None:
    need = surface.desk.current.needs[0]
    token = surface.secrets["ben"]
    wrong = reefd("approve", need.runbook, "--digest", "0" * 64, "--url", url, token=token)
    assert (wrong.exit_code, "waits with another plan" in wrong.output) == (2, True)
    unsure = reefd("approve", need.runbook, "--url", url, token=token)
    assert (unsure.exit_code, f"write --yes, or --digest {need.digest}" in unsure.output) == (2, True)
    missing = reefd("approve", need.run_id + "0", "--yes", "--url", url, token=token)
    assert (missing.exit_code, f"did you mean\n  {need.run_id}" in missing.output) == (2, True)
    assert surface.desk.commands == []
    right = reefd("approve", need.runbook, "--digest", need.digest, "--url", url, token=token)
    assert right.exit_code == 0
    nothing = reefd("approve", need.runbook, "--yes", "--url", url, token=token)
    assert (nothing.exit_code, "no run waits for an approval" in nothing.output) == (2, True)


def test_on_a_terminal_approve_asks_and_no_is_no(surface: Surface, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    need = surface.desk.current.needs[0]
    monkeypatch.setenv("REEFD_TOKEN", surface.secrets["ben"])
    monkeypatch.setattr(sys, "stdin", _Terminal())
    asked: list[str] = []

    def ask(answer: bool) -> int:
        def confirm(question: str) -> bool:
            asked.append(question)
            return answer

        options = {"digest": "", "reason": "", "yes": False, "confirm": confirm, "json_format": False}
        return operator.approve(Path("none"), url, need.run_id, **options)  # type: ignore[arg-type]

    assert ask(False) == 1
    assert surface.desk.commands == []
    assert ask(True) == 0
    assert asked == ["approve this plan?"] * 2
    assert surface.desk.commands[-1].digest == need.digest


class _Terminal:
    def isatty(self) -> bool:
        return True


def test_a_view_token_or_none_acts_on_nothing(surface: Surface, url: str) -> None:
    need = surface.desk.current.needs[0]
    unknown = "reefd_" + "x" * 43
    for token, said in ((surface.secrets["vic"], "vic has the role view"), ("", "put it into REEFD_TOKEN"), (unknown, "not known")):
        for words in (
            ("approve", need.run_id, "--yes"),
            ("deny", need.run_id, "--yes"),
            ("pause", "--for", "2h", "--reason", "x"),
            ("halt", "portfolio"),
            ("resume", "portfolio"),
        ):
            refused = reefd(*words, "--url", url, token=token)
            assert (refused.exit_code, said in refused.output) == (2, True), (words, refused.output)
    assert surface.desk.commands == []


def test_pause_and_what_ends_it(surface: Surface, url: str) -> None:
    token = surface.secrets["ana"]
    paused = reefd("pause", "funding-spike", "--for", "2h", "--reason", "by hand", "--url", url, token=token)
    assert (paused.exit_code, json.loads(paused.output)["done"]) == (0, True)
    near = reefd("pause", "funding-spik", "--for", "2h", "--reason", "x", "--url", url, "--format", "text", token=token)
    assert (near.exit_code, "did you mean funding-spike?" in near.output) == (1, True)
    assert reefd("pause", "--for", "two", "--reason", "x", "--url", url, token=token).exit_code == 2
    assert reefd("pause", "--for", "2h", "--url", url, token=token).exit_code == 2, "a reason is needed"
    assert reefd("unpause", "funding-spike", "--url", url, token=token).exit_code == 0
    assert reefd("resume", "funding-spike", "--url", url, token=token).exit_code == 0
    assert reefd("resume", "portfolio", "--url", url, token=token).exit_code == 0
    asked = [(command.verb, command.target) for command in surface.desk.commands]
    assert asked == [("pause", "funding-spike"), ("unpause", "funding-spike"), ("unpause", "funding-spike"), ("resume", "portfolio")]


def test_a_halt_sets_the_flag_first_and_needs_neither_daemon_nor_token(config: Path, tmp_path: Path) -> None:
    flag = tmp_path / "halt"
    halted = reefd("halt", "--reason", "maintenance", "--config", str(config), "--format", "text")
    assert halted.exit_code == 0, halted.output
    assert flag.read_text(encoding="utf-8").rstrip().endswith(": maintenance")
    assert "nothing is sent from now on" in halted.output
    assert "the daemon could not be told: no daemon answers at http://127.0.0.1:9" in halted.output.replace("\n", " ")
    part_of = reefd("halt", "portfolio", "--config", str(config))
    assert (part_of.exit_code, "reefd halt, without a target, stops everything" in part_of.output) == (2, True)
    resumed = reefd("resume", "--config", str(config))
    assert (resumed.exit_code, json.loads(resumed.output)["done"]) == (0, True)
    assert not flag.exists()
    assert reefd("resume", "--config", str(config)).exit_code == 1, "nothing was halted"


def test_a_halt_whose_flag_cannot_be_written_and_that_nobody_hears_is_no_halt(config: Path, tmp_path: Path) -> None:
    (tmp_path / "halt").mkdir()
    failed = reefd("halt", "--config", str(config))
    assert failed.exit_code == 2
    assert "cannot be set" in failed.output
    assert "no daemon answers" in failed.output


def test_a_halt_is_told_to_a_daemon_that_answers(surface: Surface, url: str, config: Path, tmp_path: Path) -> None:
    text = config.read_text(encoding="utf-8").replace("port: 9,", f"port: {httpx.URL(url).port},")
    config.write_text(text, encoding="utf-8")
    refused = reefd("halt", "--config", str(config), "--format", "text", token=surface.secrets["vic"])
    assert refused.exit_code == 0, "the flag stands, whatever the token may"
    assert "vic has the role view" in refused.output
    (tmp_path / "var").mkdir()
    (tmp_path / "var" / "operator.token").write_text(surface.secrets["ana"] + "\n", encoding="utf-8")
    halted = reefd("halt", "--config", str(config))
    told = json.loads(halted.output)
    assert (halted.exit_code, told["done"], told["effect"]) == (0, True, "halted everything")
    assert told["flag"].startswith("set the halt flag")
    assert surface.desk.commands[-1].actor == "ana", "with the operator's own token"


@pytest.mark.parametrize("body", [b"<html>", b"[]"])
def test_what_is_no_reefd_is_told_so(body: bytes) -> None:
    transport = httpx.MockTransport(lambda _request: httpx.Response(200, content=body))
    with OperatorClient(url="http://x", transport=transport) as client, pytest.raises(EdgeError) as caught:
        client.get("status")
    assert caught.value.reason == "wrong_shape"
    transport = httpx.MockTransport(lambda _request: httpx.Response(502, content=b"bad gateway"))
    with OperatorClient(url="http://x", transport=transport) as client, pytest.raises(EdgeError, match="HTTP 502; is this a reefd"):
        client.post("halt")


def test_a_run_id_keeps_its_slashes_in_a_path_and_nothing_else_gets_through() -> None:
    assert part("a/dydx:BTC-USD/1/1") == "a/dydx:BTC-USD/1/1"
    assert part("a?b#c d%") == "a%3Fb%23c%20d%25"


# --- tokens ----------------------------------------------------------------------------------------------------------------


def test_tokens_are_made_listed_and_revoked(config: Path, tmp_path: Path) -> None:
    words = ("--config", str(config))
    made = json.loads(reefd("token", "new", "ana", "--role", "approve", "--expires", "90d", *words, "--format", "json").output)
    assert made["token"].startswith("reefd_")
    text = (tmp_path / "var" / "tokens.yaml").read_text(encoding="utf-8")
    assert made["token"] not in text
    plain = reefd("token", "new", "ben", "--role", "view", *words)
    assert plain.stdout.splitlines()[0].startswith("reefd_"), "alone on its line, so that it can be piped"
    listed = json.loads(reefd("token", "list", *words, "--format", "json").output)["tokens"]
    assert [(each["name"], each["role"], each["expires"] is None) for each in listed] == [("ana", "approve", False), ("ben", "view", True)]
    assert "never" in reefd("token", "list", *words).output
    again = reefd("token", "new", "ana", "--role", "view", *words)
    assert (again.exit_code, "there is a token named 'ana'" in again.output) == (2, True)
    assert reefd("token", "new", "zoe", "--role", "view", "--expires", "-1h", *words).exit_code == 2
    assert reefd("token", "new", "zoe", "--role", "root", *words).exit_code == 2
    assert reefd("token", "revoke", "ana", *words).exit_code == 0
    assert reefd("token", "revoke", "ana", *words).exit_code == 2


def test_what_answers_in_the_place_of_a_daemon_that_has_ended_is_not_believed(surface: Surface, url: str, config: Path) -> None:
    settings = load_settings(config)
    page = {"pid": 2**22 + 1, "ended": None, "published": "2026-01-01T00:00:00+00:00", "http": {"url": url, "problem": ""}}
    status_path(settings.journal.path).write_text(json.dumps(page), encoding="utf-8")
    asked = reefd("gate", "dydx:BTC-USD", "--config", str(config))
    assert asked.exit_code == 2
    assert json.loads(asked.output)["open"] is False
    assert "is not running" in asked.output
    assert surface.desk.commands == []
    settings.halt_file.write_text("ana\n", encoding="utf-8")
    resumed = reefd("resume", "--config", str(config))
    assert resumed.exit_code == 0, "without a daemon the flag is taken away"
    assert not settings.halt_file.exists()
    assert surface.desk.commands == []
