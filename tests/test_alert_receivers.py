"""Real receivers: Alertmanager's own webhook has our form, two programs for it take ours, and apprise delivers.

Each program is Debian's; a test whose program is not installed is skipped and says so.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest
from alert_notices import ANCHOR, notice
from service_processes import free_port
from service_tools import program
from service_world import ORIGIN_NS

from daemon.edges.breadth import deliver
from daemon.edges.formats import Receiver, fingerprint, render_for
from daemon.edges.notice import group_body, read_message
from daemon.edges.webhook import Delivered, Endpoint, RetryLater, WebhookSender
from daemon.units import NS

PATIENCE_S = 90.0
FREE = ("labels", "annotations", "groupLabels", "commonLabels", "commonAnnotations")


@contextmanager
def running(*command: str, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as out:
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT)
        try:
            yield process
        finally:
            process.kill()
            process.wait(timeout=10)


async def answering(url: str) -> None:
    """Until somebody answers there at all."""
    async with asyncio.timeout(PATIENCE_S), httpx.AsyncClient(trust_env=False) as client:
        while True:
            try:
                await client.get(url)
                return
            except httpx.HTTPError:
                await asyncio.sleep(0.05)


async def posted(url: str, *bodies: str, **options: Any) -> list[object]:
    sender = WebhookSender([Endpoint(**{"name": "irc", "url": url, "format": "alertmanager", "allow_private": True} | options)])
    try:
        return [await sender.send("irc", f"m{n}", body, signed_at=datetime.now(UTC)) for n, body in enumerate(bodies)]
    finally:
        await sender.close()


class Channel:
    """A tiny IRC server: lets anybody in and keeps what is said to a channel."""

    def __init__(self) -> None:
        self.said: asyncio.Queue[str] = asyncio.Queue()
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []

    @asynccontextmanager
    async def open(self) -> AsyncIterator[Channel]:
        server = await asyncio.start_server(self._talk, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            for writer in self._writers:
                writer.close()
            server.close()

    async def _talk(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        nick = "x"

        def say(line: str) -> None:
            writer.write(f"{line}\r\n".encode())

        while line := (await reader.readline()).decode(errors="replace").strip():
            verb, _, rest = line.partition(" ")
            match verb.upper():
                case "NICK":
                    nick = rest.lstrip(":")
                case "USER":
                    say(f":fake 001 {nick} :welcome")
                    say(f":fake 376 {nick} :end of message of the day")
                case "PING":
                    say(f"PONG {rest}")
                case "JOIN":
                    name = rest.split()[0].lstrip(":")
                    say(f":{nick}!u@h JOIN {name}")
                    say(f":fake 366 {nick} {name} :end of names")
                case "NOTICE" | "PRIVMSG":
                    where, _, text = rest.partition(" :")
                    if where.startswith("#"):
                        self.said.put_nowait(f"{where} {text}")


async def test_alertmanager_irc_relay_says_our_alerts_in_the_channel(tmp_path: Path) -> None:
    relay, port = program("alertmanager-irc-relay"), free_port()
    async with Channel().open() as channel:
        settings = tmp_path / "relay.yml"
        settings.write_text(
            f"http_host: 127.0.0.1\nhttp_port: {port}\nirc_host: 127.0.0.1\nirc_port: {channel.port}\nirc_use_ssl: no\n"
            "irc_nickname: reefd\nirc_realname: reefd\nirc_channels: [{name: '#desk'}]\nmsg_once_per_alert_group: no\n"
            'msg_template: "{{ .Status }} {{ .Labels.alertname }} on {{ .Labels.instance }}: {{ .Annotations.summary }}"\n'
        )
        with running(relay, "-config", str(settings), log=tmp_path / "relay.log"):
            await answering(f"http://127.0.0.1:{port}/")
            bodies = [notice(severity="critical"), notice("cleared", said="cleared", severity="critical", at=ORIGIN_NS + 60 * NS)]
            several = [notice(entity=f"dydx:M{n}-USD", seq=n) for n in range(3)]
            bodies.append(group_body(several, id_="g", group="runbook=funding-spike", at=ORIGIN_NS + NS, anchor=ANCHOR))
            answers = await posted(f"http://127.0.0.1:{port}/desk", *bodies)
            assert all(isinstance(answer, Delivered) for answer in answers), answers
            async with asyncio.timeout(60):  # the relay says a line every two seconds, so as not to be thrown out
                said = [await channel.said.get() for _ in range(5)]
    assert said == [
        "#desk firing funding-spike on dydx:BTC-USD: CRITICAL Funding spike on dydx:BTC-USD fired",
        "#desk resolved funding-spike on dydx:BTC-USD: CRITICAL Funding spike on dydx:BTC-USD is over",
        *(f"#desk firing funding-spike on dydx:M{n}-USD: WARNING Funding spike on dydx:M{n}-USD fired" for n in range(3)),
    ]


@pytest.mark.parametrize("style", ["short", "full"])
async def test_prometheus_xmpp_alerts_takes_our_alerts(style: str, tmp_path: Path) -> None:
    receiver, port = program("prometheus-xmpp-alerts"), free_port()
    settings = tmp_path / "xmpp.yml"
    # It parses what it gets and answers, whether or not an XMPP server is there to pass it on to.
    settings.write_text(
        f"jid: a@127.0.0.1\npassword: x\nto_jid: b@127.0.0.1\nlisten_address: 127.0.0.1\nlisten_port: {port}\nformat: {style}\n"
    )
    with running(receiver, "--config", str(settings), log=tmp_path / "xmpp.log"):
        await answering(f"http://127.0.0.1:{port}/")
        several = group_body([notice(), notice("page", said="run failed")], id_="g", group="g", at=ORIGIN_NS, anchor=ANCHOR)
        answers = await posted(f"http://127.0.0.1:{port}/alert", notice(), notice("cleared", said="cleared"), several)
        async with httpx.AsyncClient(trust_env=False) as client:
            counted = (await client.get(f"http://127.0.0.1:{port}/metrics")).text
    assert answers == [Delivered(status=200)] * 3
    assert "alert_count_total 3.0" in counted


class Kept:
    """An HTTP server that keeps the bodies that are posted to it."""

    def __init__(self, status: int = 200) -> None:
        self.bodies: list[Any] = []
        self.came = threading.Event()
        kept = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                kept.bodies.append(json.loads(self.rfile.read(int(self.headers.get("content-length") or 0))))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()
                kept.came.set()

            def log_message(self, format: str, *args: object) -> None:
                return None

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = int(self._server.server_address[1])
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Kept:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join(timeout=5)
        self._server.server_close()


def shape(document: Any) -> Any:
    """The form of a JSON document: its keys, and the types of its values; which labels and annotations there are is anybody's choice."""
    if isinstance(document, dict):
        return {key: type(value).__name__ if key in FREE else shape(value) for key, value in document.items()}
    if isinstance(document, list):
        return [shape(document[0])]
    return type(document).__name__


async def test_our_body_has_the_form_of_the_real_alertmanagers(tmp_path: Path) -> None:
    alertmanager, port = program("prometheus-alertmanager"), free_port()
    with Kept() as kept:
        settings = tmp_path / "alertmanager.yml"
        settings.write_text(
            "route: {receiver: hook, group_by: [alertname], group_wait: 10ms, group_interval: 1s}\n"
            f"receivers: [{{name: hook, webhook_configs: [{{url: 'http://127.0.0.1:{kept.port}/'}}]}}]\n"
        )
        ours = json.loads(render_for("alertmanager", read_message(notice()), Receiver(name="hook")))
        given = [{key: ours["alerts"][0][key] for key in ("labels", "annotations")}]
        options = [f"--storage.path={tmp_path}/data", f"--web.listen-address=127.0.0.1:{port}", "--cluster.listen-address="]
        with running(alertmanager, f"--config.file={settings}", *options, log=tmp_path / "alertmanager.log"):
            await answering(f"http://127.0.0.1:{port}/-/ready")
            async with httpx.AsyncClient(trust_env=False) as client:
                assert (await client.post(f"http://127.0.0.1:{port}/api/v2/alerts", json=given)).status_code == 200
            assert await asyncio.to_thread(kept.came.wait, PATIENCE_S)
    [theirs] = kept.bodies
    assert shape(ours) == shape(theirs)
    for key in ("version", "groupKey", "status", "receiver", "groupLabels", "commonLabels", "commonAnnotations", "truncatedAlerts"):
        assert ours[key] == theirs[key]
    assert ours["alerts"][0]["fingerprint"] == theirs["alerts"][0]["fingerprint"] == fingerprint(ours["alerts"][0]["labels"])
    assert ours["alerts"][0]["endsAt"] == theirs["alerts"][0]["endsAt"]


async def test_apprise_delivers_in_words_from_a_thread() -> None:
    with Kept() as kept:
        target = Endpoint(name="broad", url=f"json://127.0.0.1:{kept.port}/key-of-the-service", format="apprise")
        sender = WebhookSender([target], breadth=deliver)
        body = notice(severity="critical", said="fired: @everyone <b> funding_rate > 0.05%/h")
        answer = await sender.send("broad", "m", body, signed_at=datetime.now(UTC))
        await sender.close()
    assert answer == Delivered(status=200)
    [taken] = kept.bodies
    assert taken["title"] == "CRITICAL Funding spike on dydx:BTC-USD fired"
    assert taken["type"] == "failure"
    assert "why: @\u2060everyone <b> funding_rate > 0.05%/h" in taken["message"]
    assert ANCHOR in taken["message"]


async def test_apprise_that_is_refused_is_tried_later_and_shows_no_key(capfd: pytest.CaptureFixture[str]) -> None:
    with Kept(status=500) as kept:
        target = Endpoint(name="broad", url=f"json://127.0.0.1:{kept.port}/key-of-the-service", format="apprise")
        sender = WebhookSender([target], breadth=deliver)
        answer = await sender.send("broad", "m", notice(), signed_at=datetime.now(UTC))
        await sender.close()
    assert isinstance(answer, RetryLater)
    shown = capfd.readouterr()
    for text in (answer.reason, target.address, repr(target), shown.out, shown.err):
        assert "key-of-the-service" not in text


async def test_apprise_that_is_not_installed_is_named_with_its_extra() -> None:
    sender = WebhookSender([Endpoint(name="broad", url="json://127.0.0.1:9/", format="apprise")])
    answer = await sender.send("broad", "m", notice(), signed_at=datetime.now(UTC))
    await sender.close()
    assert isinstance(answer, RetryLater)
    assert "pip install 'reefd[apprise]'" in answer.reason
