"""`reefd webhook`: on the journal while no daemon runs, through its HTTP API while one does; no secret is ever shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from alert_notices import notice
from service_world import ORIGIN_NS

from daemon.app.telling import open_sender
from daemon.app.webhooks import enable, list_, redeliver
from daemon.app.webhooks import test as send_test
from daemon.edges.receiver import Receiver
from daemon.errors import SettingsError, UserError
from daemon.journal.entry import OutboxItem
from daemon.journal.store import Journal
from daemon.settings import load_settings, parse_settings
from daemon.units import NS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
TOKEN = "123456:bot-token-of-the-desk"


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as running:
        yield running


@pytest.fixture
def config(tmp_path: Path, receiver: Receiver, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DESK_SECRET", SECRET)
    monkeypatch.setenv("CHAT_URL", f"https://hooks.slack.example/services/{TOKEN}")
    path = tmp_path / "reefd.yaml"
    path.write_text(
        f"journal: {{path: {tmp_path}/state.db, feed_path: {tmp_path}/feed.db}}\n"
        "webhooks:\n"
        f"  desk: {{url: '{receiver.url}', secret: env:DESK_SECRET, allow_private: true, fallback: chat}}\n"
        "  chat: {format: slack, url: env:CHAT_URL}\n"
        "channels: {page: [desk, chat]}\n"
        f"http: {{operator_token: {tmp_path}/operator.token}}\n"
    )
    return path


@pytest.fixture
def journal(config: Path) -> Iterator[Journal]:
    """With a dead letter at `desk`, which said 410, and one that waits for `chat`."""
    opened = Journal.open(load_settings(config).journal.path)
    items = [
        OutboxItem(id=id_, endpoint=name, body=notice(), severity="critical", created_at=ORIGIN_NS, urgent=True)
        for id_, name in (("n.1", "desk"), ("n.2", "chat"))
    ]
    opened.append(None, (), items).result()
    opened.mark_failed(1, ORIGIN_NS + NS, "HTTP 410", None).result()
    opened.disable_endpoint("desk", ORIGIN_NS + NS, "HTTP 410").result()
    yield opened
    opened.close()


def test_list_shows_how_endpoints_do_and_what_was_given_up(config: Path, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_(config, json_format=False) == 0
    text = capsys.readouterr().out
    for said in ("disabled", "HTTP 410", "reefd webhook enable desk", "of page, told one by one, fallback chat", "never used"):
        assert said in text
    for said in ("chat: env:CHAT_URL, of page, told in groups", "1 dead letter:", "n.1", "again: reefd webhook redeliver NUMBER"):
        assert said in text
    assert TOKEN not in text
    assert SECRET not in text


def test_list_as_json_has_every_field(config: Path, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    assert list_(config, json_format=True) == 0
    told = json.loads(capsys.readouterr().out)
    desk, chat = told["endpoints"]
    assert (desk["name"], desk["state"], desk["dead"], desk["fallback"], desk["channels"]) == ("desk", "disabled", 1, "chat", ["page"])
    assert (chat["format"], chat["waiting"], chat["grouped"], chat["state"], chat["delivered_at"]) == ("slack", 1, True, "never used", None)
    assert told["dead_letters"] == [
        {
            "number": 1, "id": "n.1", "endpoint": "desk", "severity": "critical", "created_at": "2026-01-01T00:00:00.000Z",
            "given_up_at": "2026-01-01T00:00:01.000Z", "attempts": 1, "reason": "HTTP 410",
        }
    ]  # fmt: skip


def test_list_works_without_the_secrets(config: Path, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DESK_SECRET")
    monkeypatch.delenv("CHAT_URL")
    assert list_(config, json_format=True) == 0


def test_test_sends_a_signed_message_and_prints_the_answer(config: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    assert send_test("desk", config=config, json_format=False) == 0
    assert capsys.readouterr().out == "desk: taken (HTTP 204)\n"
    [message] = receiver.verified()
    assert message.kind == "notice.test"
    assert "this is a test" in message.body["data"]["text"]  # type: ignore[index]


def test_test_that_is_not_taken_exits_with_one(config: Path, receiver: Receiver, capsys: pytest.CaptureFixture[str]) -> None:
    receiver.stop()
    assert send_test("desk", config=config, json_format=True) == 1
    told = json.loads(capsys.readouterr().out)
    assert told["delivered"] is False
    assert "cannot connect" in told["answer"]


def test_verbs_name_what_there_is_when_they_do_not_know_an_endpoint(config: Path, journal: Journal) -> None:
    journal.close()
    with pytest.raises(UserError, match="the settings have: chat, desk"):
        send_test("dessk", config=config, json_format=False)
    with pytest.raises(UserError, match="did you mean 'desk'"):
        enable("dessk", config=config, json_format=False)
    with pytest.raises(UserError, match="there is no message '99'"):
        redeliver("99", config=config, json_format=False)


def test_verbs_change_the_journal_while_no_daemon_runs(config: Path, journal: Journal, capsys: pytest.CaptureFixture[str]) -> None:
    journal.close()
    assert enable("desk", config=config, json_format=False) == 0
    assert "desk is enabled again; 1 dead letter stays so" in capsys.readouterr().out
    assert redeliver("1", config=config, json_format=False) == 0
    assert "n.1 to desk: goes again when the daemon runs" in capsys.readouterr().out
    with Journal.open(load_settings(config).journal.path) as again:
        assert again.dead_letters() == []
        assert [m.id for m in again.due_deliveries(ORIGIN_NS)] == ["n.1", "n.2"]
        assert again.endpoint_records()["desk"].disabled_at is None
    assert redeliver(None, config=config, json_format=True) == 0
    assert json.loads(capsys.readouterr().out) == {"done": True, "effect": "there are no dead letters"}


class Api:
    """What a running daemon would answer: the paths that were asked for are kept with their tokens."""

    def __init__(self, status: int = 200, said: dict[str, Any] | None = None) -> None:
        self.asked: list[tuple[str, str | None]] = []
        body = json.dumps(said if said is not None else {"done": True, "effect": "so it is", "seq": 1, "at": ""}).encode()
        api = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("content-length") or 0))
                api.asked.append((self.path, self.headers.get("authorization")))
                self.send_response(status)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()
        self.port = int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(timeout=5)
        self._server.server_close()


def listening(config: Path, api: Api) -> None:
    text = config.read_text()
    config.write_text(text.replace("http: {", f"http: {{port: {api.port}, "))
    (config.parent / "operator.token").write_text("reefd-operator-token\n")


def test_verbs_ask_the_daemon_while_it_runs(
    config: Path, journal: Journal, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    api = Api()
    listening(config, api)
    try:
        assert redeliver("a/b:c", config=config, json_format=False) == 0
        assert redeliver(None, config=config, json_format=False) == 0
        assert enable("desk", config=config, json_format=False) == 0
        monkeypatch.delenv("DESK_SECRET")  # the daemon has it, this shell has not
        assert send_test("desk", config=config, json_format=False) == 0
    finally:
        api.stop()
    assert capsys.readouterr().out == "so it is\n" * 3 + "desk: so it is\n"
    assert [path for path, _ in api.asked] == [
        "/api/v1/deadletters/a/b:c/redeliver",
        "/api/v1/deadletters/%2A/redeliver",
        "/api/v1/webhooks/desk/enable",
        "/api/v1/webhooks/desk/test",
    ]
    assert {token for _, token in api.asked} == {"Bearer reefd-operator-token"}
    assert journal.dead_letters()  # nothing was done behind its back


def test_daemon_that_refuses_or_cannot_be_reached_is_said(config: Path, journal: Journal) -> None:
    api = Api(401, {"error": {"code": "unauthorized", "message": "this needs a token"}})
    listening(config, api)
    try:
        with pytest.raises(UserError, match=r"this needs a token; put it into REEFD_TOKEN, or read .*operator\.token as the daemon's user"):
            enable("desk", config=config, json_format=False)
    finally:
        api.stop()
    with pytest.raises(UserError, match="no daemon answers at"):
        redeliver(None, config=config, json_format=False)
    config.write_text(config.read_text().replace("http: {", "http: {enabled: false, "))
    with pytest.raises(UserError, match="a daemon runs on this journal and has no HTTP API"):
        redeliver(None, config=config, json_format=False)


def test_apprise_without_its_module_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BROAD", "json://127.0.0.1:9/")
    monkeypatch.setitem(__import__("sys").modules, "apprise", None)
    monkeypatch.delitem(__import__("sys").modules, "daemon.edges.breadth", raising=False)
    settings = parse_settings("webhooks: {broad: {format: apprise, url: env:BROAD}}\n", "reefd.yaml")
    with pytest.raises(SettingsError, match=r"webhooks\.broad\.format: apprise needs .* pip install 'reefd\[apprise\]'"):
        open_sender(settings)


def test_links_of_messages_lead_to_the_public_address(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CHAT_URL", "https://hooks.slack.example/x")
    settings = parse_settings(
        "webhooks: {chat: {format: slack, url: env:CHAT_URL}}\nhttp: {public_url: https://reefd.example.com}\n", "reefd.yaml"
    )
    sender = open_sender(settings)
    assert "https://reefd.example.com" in sender.rendered(sender.endpoints["chat"], notice())
