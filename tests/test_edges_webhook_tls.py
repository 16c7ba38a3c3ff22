"""Webhooks over real TLS on loopback: the pinned address under the host's name, private authorities, rotation, rebinding, redirects."""

from __future__ import annotations

import json
import ssl
import threading
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import trustme
from alert_notices import notice
from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from daemon.edges.webhook import Answer, Dead, Delivered, Disabled, Endpoint, RetryLater, WebhookSender, signature_headers
from daemon.errors import EdgeError
from daemon.units import NS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OLD_SECRET = "whsec_AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
HOST = "hooks.example.com"


class SecureServer:
    """An HTTPS server on loopback with a certificate for one name; keeps what was posted and the name that the client asked for."""

    def __init__(self, authority: trustme.CA, name: str, answers: Sequence[tuple[int, Mapping[str, str], bytes]] = ()) -> None:
        self.posted: list[tuple[str, dict[str, str], bytes]] = []
        self.asked_for: list[str | None] = []
        self.answers = list(answers)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert(name).configure_cert(context)
        context.sni_callback = lambda _socket, asked, _context: self.asked_for.append(asked)
        server = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                raw = self.rfile.read(int(self.headers.get("content-length") or 0))
                server.posted.append((self.path, {key.lower(): value for key, value in self.headers.items()}, raw))
                status, headers, body = server.answers.pop(0) if server.answers else (204, {}, b"")
                self.send_response(status)
                for key, value in headers.items():
                    self.send_header(key, value)
                if status != 204:
                    self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: object) -> None:
                return None

        class Quiet(ThreadingHTTPServer):
            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that refuses the certificate breaks the handshake off: that is what the test is about."""

        self._server = Quiet(("127.0.0.1", 0), Handler)
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def stop(self) -> None:
        self._server.shutdown()
        self._thread.join(timeout=5)
        self._server.server_close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture
def ca_file(authority: trustme.CA, tmp_path: Path) -> str:
    path = tmp_path / "ca.pem"
    authority.cert_pem.write_to_path(str(path))
    return str(path)


@pytest.fixture
def server(authority: trustme.CA) -> Iterator[SecureServer]:
    running = SecureServer(authority, HOST)
    yield running
    running.stop()


def resolving(*turns: Sequence[str]) -> Any:
    """A resolver that gives one answer after the other, the last for ever; every question is kept."""
    left = [list(turn) for turn in turns]

    async def resolve(host: str, port: int) -> Sequence[str]:
        resolve.asked.append((host, port))  # type: ignore[attr-defined]
        return left.pop(0) if len(left) > 1 else left[0]

    resolve.asked = []  # type: ignore[attr-defined]
    return resolve


async def post(port: int, *, resolve: Any = None, times: int = 1, body: str = '{"type":"x"}', **options: Any) -> list[Answer]:
    target = Endpoint(**{"name": "desk", "url": f"https://{HOST}:{port}/hook", "secrets": (SECRET,), "allow_private": True} | options)
    sender = WebhookSender([target], resolve=resolve or resolving(["127.0.0.1"]))
    try:
        return [await sender.send("desk", f"m{n}", body, signed_at=datetime.now(UTC)) for n in range(times)]
    finally:
        await sender.close()


async def test_message_goes_over_tls_to_the_pinned_address_under_the_hosts_name(server: SecureServer, ca_file: str) -> None:
    assert await post(server.port, ca_file=ca_file) == [Delivered(status=204)]
    [(path, headers, raw)] = server.posted
    assert (path, headers["host"]) == ("/hook", f"{HOST}:{server.port}")
    assert server.asked_for == [HOST]
    assert Webhook(SECRET).verify(raw, headers) == {"type": "x"}


async def test_certificate_of_another_name_is_refused(authority: trustme.CA, ca_file: str) -> None:
    other = SecureServer(authority, "other.example.com")
    try:
        [answer] = await post(other.port, ca_file=ca_file)
    finally:
        other.stop()
    assert isinstance(answer, RetryLater)
    assert not answer.sent
    assert "certificate" in answer.reason.lower()
    assert other.posted == []


async def test_certificate_for_the_address_alone_does_not_prove_the_host(authority: trustme.CA, ca_file: str) -> None:
    by_address = SecureServer(authority, "127.0.0.1")
    try:
        [answer] = await post(by_address.port, ca_file=ca_file)
    finally:
        by_address.stop()
    assert isinstance(answer, RetryLater)
    assert by_address.posted == []


async def test_unknown_authority_is_refused(server: SecureServer, tmp_path: Path) -> None:
    stranger = tmp_path / "stranger.pem"
    trustme.CA().cert_pem.write_to_path(str(stranger))
    for options in ({}, {"ca_file": str(stranger)}):
        [answer] = await post(server.port, **options)
        assert isinstance(answer, RetryLater)
        assert "certificate" in answer.reason.lower()
    assert server.posted == []


@pytest.mark.parametrize("content", [None, "no certificate"])
def test_authorities_that_cannot_be_read_are_named(content: str | None, tmp_path: Path) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    with pytest.raises(EdgeError, match=r"ca\.pem cannot be used"):
        WebhookSender([Endpoint(name="desk", url="https://hooks.example.com/", ca_file=str(path))])


async def test_rotated_secret_is_accepted_under_both_names_and_no_other(server: SecureServer, ca_file: str) -> None:
    assert await post(server.port, ca_file=ca_file, secrets=(SECRET, OLD_SECRET), body=notice()) == [Delivered(status=204)]
    [(_, headers, raw)] = server.posted
    assert Webhook(SECRET).verify(raw, headers) == Webhook(OLD_SECRET).verify(raw, headers) == json.loads(notice())
    with pytest.raises(WebhookVerificationError):
        Webhook("whsec_BBBBBBBBBBBBBBBBBBBBBBBBBBBBBBBB").verify(raw, headers)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(raw + b" ", headers)


async def test_host_that_resolves_to_a_private_address_the_second_time_is_refused_then(server: SecureServer, ca_file: str) -> None:
    # DNS rebinding: the name was public when it was looked at, and points inside when it is used. Each try asks once, and uses that answer.
    resolve = resolving(["127.0.0.1"], ["169.254.169.254"], ["127.0.0.1", "169.254.169.254"])
    first, second, third = await post(server.port, resolve=resolve, ca_file=ca_file, times=3)
    assert first == Delivered(status=204)
    assert isinstance(second, Dead)
    assert isinstance(third, Dead)
    assert len(server.posted) == 1
    assert resolve.asked == [(HOST, server.port)] * 3


async def test_address_of_a_try_is_the_one_that_was_checked_in_it(server: SecureServer, ca_file: str) -> None:
    # The answer that a second question within the try would get is forbidden: nobody may ask it.
    resolve = resolving(["127.0.0.1"], ["10.0.0.1"])
    assert await post(server.port, resolve=resolve, ca_file=ca_file) == [Delivered(status=204)]
    assert len(resolve.asked) == 1


async def test_redirect_over_tls_is_not_followed(authority: trustme.CA, ca_file: str) -> None:
    target = SecureServer(authority, HOST)
    moved = SecureServer(authority, HOST, [(307, {"location": f"https://{HOST}:{target.port}/hook"}, b"")])
    try:
        [answer] = await post(moved.port, ca_file=ca_file)
    finally:
        moved.stop()
        target.stop()
    assert answer == RetryLater(reason="HTTP 307", status=307)
    assert len(moved.posted) == 1
    assert target.posted == []


async def test_private_address_needs_leave_over_tls_too(server: SecureServer, ca_file: str) -> None:
    [answer] = await post(server.port, ca_file=ca_file, allow_private=False)
    assert isinstance(answer, Dead)
    assert server.posted == []


TOKEN = "123456789:AAF-secret-token-of-a-bot"
ROUTING_KEY = "R0UT1NGKEY0000000000000000000000"


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ((429, {}, b'{"ok":false,"error_code":429,"parameters":{"retry_after":7}}'), RetryLater),
        ((429, {"retry-after": "9"}, b'{"retry_after": 0.5}'), RetryLater),
        ((400, {}, b'{"ok":false,"description":"Bad Request: chat not found"}'), Dead),
        ((410, {}, b"channel_is_archived"), Disabled),
        ((404, {}, b"no such bot"), RetryLater),
    ],
)
async def test_answers_of_chat_services_are_understood(authority: trustme.CA, ca_file: str, answer: Any, kind: type) -> None:
    chat = SecureServer(authority, HOST, [answer])
    try:
        url = f"https://{HOST}:{chat.port}/bot{TOKEN}/sendMessage"
        [found] = await post(chat.port, ca_file=ca_file, url=url, format="telegram", chat_id="-1001", secrets=(), body=notice())
    finally:
        chat.stop()
    assert isinstance(found, kind)
    if isinstance(found, RetryLater) and answer[0] == 429:
        assert found.after_ns == (9 if answer[1] else 7) * NS
    [(path, headers, raw)] = chat.posted
    assert path == f"/bot{TOKEN}/sendMessage"
    assert json.loads(raw)["chat_id"] == "-1001"
    assert not [name for name in headers if name.startswith("webhook-")]


async def test_signed_chat_endpoint_signs_the_body_that_it_sends(server: SecureServer, ca_file: str) -> None:
    assert await post(server.port, ca_file=ca_file, format="slack", body=notice()) == [Delivered(status=204)]
    [(_, headers, raw)] = server.posted
    assert Webhook(SECRET).verify(raw, headers)["blocks"]


async def test_keys_of_receivers_are_in_no_answer_and_no_text_of_an_endpoint(authority: trustme.CA, ca_file: str) -> None:
    quoting = f"invalid routing key {ROUTING_KEY} for /bot{TOKEN}/sendMessage".encode()
    chat = SecureServer(authority, HOST, [(403, {}, quoting)])
    try:
        options: dict[str, Any] = {"url": f"https://{HOST}:{chat.port}/bot{TOKEN}/sendMessage", "secrets": (), "ca_file": ca_file}
        [refused] = await post(chat.port, **options, format="pagerduty", routing_key=ROUTING_KEY, body=notice())
        [unreachable] = await post(1, **options | {"url": f"https://{HOST}:1/bot{TOKEN}/sendMessage"}, format="telegram", chat_id="1")
        [wrong] = await post(1, **options | {"url": f"ftp://{HOST}/bot{TOKEN}/"})
    finally:
        chat.stop()
    assert json.loads(chat.posted[0][2])["routing_key"] == ROUTING_KEY
    endpoint = Endpoint(name="desk", url=f"https://{HOST}/bot{TOKEN}/x", routing_key=ROUTING_KEY, secrets=(SECRET,))
    assert endpoint.address == f"https://{HOST}/…"
    for said in (repr(refused), repr(unreachable), repr(wrong), repr(endpoint), endpoint.address):
        for secret in (TOKEN, ROUTING_KEY, SECRET):
            assert secret not in said
    assert "invalid routing key ***" in repr(refused)


def test_message_without_a_secret_has_no_signature() -> None:
    assert signature_headers((), "m", "{}", datetime.now(UTC)) == {}
