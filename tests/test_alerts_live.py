"""Alerts of the daemon as a process: a storm over eight markets in the words of each receiver, a 410, and a person who mends it."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from service_processes import Venue, ended, free_port, settings, spawn, tail, until

from daemon.edges.receiver import Receiver
from daemon.journal.store import Journal

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
MARKETS = ("BTC-USD", "ETH-USD", "SOL-USD", "HYPE-USD", "XRP-USD", "DOGE-USD", "AVAX-USD", "LINK-USD")
SPEED = 10.0
pytestmark = pytest.mark.slow

RUNBOOK = """
schema: reefd/v1
runbook: storm
title: Everything moves
owner: tests
severity: warning
intent: economy
stage: armed
scope: market
trigger: {when: oracle_price > 1 USD/base}
notify: {to: [desk], events: [fired]}
steps:
  - id: tell
    notify: {to: [desk], text: "price is {oracle_price}"}
"""


class Chat:
    """A chat service's webhook: keeps what is posted, and says 410 while it is `gone`."""

    def __init__(self) -> None:
        self.posts: list[dict[str, Any]] = []
        self.gone = False
        chat = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers.get("content-length") or 0)))
                if not chat.gone:
                    chat.posts.append(body)
                self.send_response(410 if chat.gone else 200)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/services/key-of-the-chat"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(timeout=5)
        self._server.server_close()

    def first_lines(self) -> list[str]:
        return [post["text"] for post in self.posts]


class House:
    """A venue, a daemon and two receivers, in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.venue = Venue(free_port())
        self.chat = Chat()
        self.receiver = Receiver(SECRET).start()
        self.log = folder / "run.log"
        self.environment = {"CHAT_URL": self.chat.url, "ARCHIVE_SECRET": SECRET}
        self.process: asyncio.subprocess.Process | None = None

    @property
    def config(self) -> Path:
        return self.folder / "reefd.yaml"

    async def start(self) -> None:
        folder = self.folder
        (folder / "runbooks").mkdir()
        (folder / "runbooks/storm.yaml").write_text(RUNBOOK)
        markets = "\n".join(f"  {name}: {{price: {100 + n}, volatility: 0%, funding_noise: 0%/h}}" for n, name in enumerate(MARKETS))
        (folder / "scenario.yaml").write_text(
            f"scenario: storm\nseed: 7\nvenue: {{requests_in_10s: 100000}}\nmarkets:\n{markets}\naccounts:\n  - {{collateral: 1_000 USD}}\n"
        )
        text = settings(folder, self.venue.port).replace("[BTC-USD]", f"[{', '.join(MARKETS)}]")
        text = text.replace(
            "http: {enabled: false}",
            f"http: {{port: {free_port()}, operator_token: {folder}/operator.token, tokens: {folder}/tokens.yaml}}",
        )
        self.config.write_text(
            text + "webhooks:\n"
            "  chat: {format: slack, url: env:CHAT_URL, allow_private: true, grouping: {wait: 30s, interval: 1m}}\n"
            f"  archive: {{url: '{self.receiver.url}', secret: env:ARCHIVE_SECRET, allow_private: true}}\n"
            "channels: {desk: [chat, archive]}\n"
        )
        await self.venue.start(folder / "scenario.yaml", SPEED, folder / "sim.log")
        self.process = await spawn("run", "--config", str(self.config), "--log", "json", log=self.log, environment=self.environment)

    async def wait_for(self, what: Any) -> None:
        assert self.process is not None
        await until(what, self.log, self.process)

    async def reefd(self, *words: str) -> tuple[int, str]:
        out = self.folder / "verb.out"
        out.unlink(missing_ok=True)
        process = await spawn("webhook", *words, "--config", str(self.config), log=out)  # without the daemon's secrets
        code = await asyncio.wait_for(process.wait(), 120)
        return code, out.read_text(encoding="utf-8")

    async def stop(self) -> None:
        if self.process is not None:
            await ended(self.process)
        await self.venue.stop()
        self.chat.stop()
        self.receiver.stop()


@pytest_asyncio.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    standing = House(tmp_path)
    await standing.start()
    yield standing
    await standing.stop()


async def test_storm_is_one_message_to_people_and_every_notice_to_machines_and_a_person_mends_a_410(house: House) -> None:
    # Eight firings and eight texts of steps: sixteen notices for the archive, each signed; one message in the chat.
    await house.wait_for(lambda: len(house.receiver.verified()) >= 16)
    await house.wait_for(lambda: bool(house.chat.posts))
    archived = house.receiver.verified()
    assert {message.kind for message in archived} == {"notice.fired", "notice.step"}
    fired = next(message.body for message in archived if message.kind == "notice.fired")
    assert any(reading.startswith("oracle_price 1") for reading in fired["data"]["why"])  # type: ignore[index]
    assert house.chat.first_lines() == ["WARNING Everything moves on 8 entities: 8 fired, 8 messages"]
    shown = json.dumps(house.chat.posts[0])
    assert all(f"dydx:{market}" in shown for market in MARKETS)

    # The chat is gone; the daemon says so and stops. A test is sent by the daemon, because only it knows the address.
    house.chat.gone = True
    code, said = await house.reefd("test", "chat")
    assert (code, said.strip()) == (1, "chat: gone: HTTP 410; the daemon stops sending to an endpoint that says so"), said
    code, said = await house.reefd("list", "--format", "json")
    assert code == 0, said
    chat = next(endpoint for endpoint in json.loads(said)["endpoints"] if endpoint["name"] == "chat")
    assert (chat["state"], chat["delivered"], chat["waiting"], chat["grouped"]) == ("ok", 1, 0, True)  # a test disables nothing
    assert "key-of-the-chat" not in said

    house.chat.gone = False
    code, said = await house.reefd("test", "chat")
    assert (code, said.strip()) == (0, "chat: taken (HTTP 200)"), said
    assert house.chat.first_lines()[-1].startswith("INFO reefd on chat test message")
    code, said = await house.reefd("enable", "chat")
    assert code == 0, said
    assert "was not disabled" in said
    code, said = await house.reefd("redeliver", "nothing")
    assert code == 2, said
    assert "there is no message 'nothing'" in said

    # Everything that was told is in the journal, and no key of a receiver is anywhere.
    with Journal.open_readonly(house.folder / "state.db") as journal:
        messages = journal.messages("chat")
        (told,) = [m for m in messages if m.status == "delivered"]
        assert len(journal.carried_by(told.position)) == 16
        assert all(m.carried_by == told.position for m in messages if m.status == "grouped")
    assert house.process is not None
    assert await ended(house.process) == 0, tail(house.log)
    for path in (house.log, *house.folder.glob("*.db*"), house.folder / "state.status.json"):
        content = path.read_bytes()
        assert b"key-of-the-chat" not in content, path
        assert SECRET.encode() not in content, path
