"""A small real HTTP receiver of signed webhooks (floor 6): verifies each signature and keeps what came. For the demo and the tests.

    with Receiver(secret="whsec_...") as receiver:
        ...                      # POST to receiver.url
        receiver.received[0].kind
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

BODY_BYTES_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One webhook as it came; `verified` False means the signature was refused. `repeated` = this id had been taken before."""

    message_id: str
    kind: str
    seq: int | None
    body: Mapping[str, object]
    verified: bool
    repeated: bool
    status: int  # what was answered
    raw: bytes = field(repr=False, default=b"")
    headers: Mapping[str, str] = field(repr=False, default_factory=dict)


class Receiver:
    """Listens on loopback in a thread of its own. A bad signature gets 401; a verified message 204, or the next of `answers`.

    `on_received` is called for every message, from the server's thread. Messages older or newer than five minutes are refused: a receiver
    judges by its own wall clock, whatever clock the venue runs on.
    """

    def __init__(self, secret: str, *, port: int = 0, answers: Sequence[int | tuple[int, Mapping[str, str]]] = (),
                 on_received: Callable[[Received], None] | None = None) -> None:  # fmt: skip
        self.received: list[Received] = []
        self._webhook = Webhook(secret)
        self._answers = list(answers)
        self._on_received = on_received
        self._taken: set[str] = set()
        self._lock = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, name="receiver", daemon=True)

    @property
    def url(self) -> str:
        """Where to post to."""
        return f"http://127.0.0.1:{self._server.server_address[1]}/hook"

    def start(self) -> Receiver:
        """Begins to listen; returns itself."""
        self._thread.start()
        return self

    def stop(self) -> None:
        """Stops listening and frees the port."""
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join(timeout=5)
        self._server.server_close()

    def __enter__(self) -> Receiver:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def verified(self) -> list[Received]:
        """The messages taken so far, each id once, in the order they came."""
        with self._lock:
            return [message for message in self.received if message.verified and not message.repeated and message.status < 300]

    def take(self, headers: Mapping[str, str], raw: bytes) -> tuple[int, Mapping[str, str]]:
        """Judges one message; returns the status and headers to answer with."""
        message_id = headers.get("webhook-id", "")
        try:
            self._webhook.verify(raw, dict(headers), json_parse=False)
            body = json.loads(raw)
            verified = isinstance(body, dict)
        except (WebhookVerificationError, ValueError):
            # ValueError: a signature header that is no base64, or a body that is no JSON.
            body, verified = {}, False
        with self._lock:
            answer: int | tuple[int, Mapping[str, str]] = 204 if verified else 401
            if verified and self._answers:
                answer = self._answers.pop(0)
            status, extra = answer if isinstance(answer, tuple) else (answer, {})
            message = Received(
                message_id=message_id,
                kind=str(body.get("type", "")) if verified else "",
                seq=body.get("seq") if verified else None,
                body=body if verified else {},
                verified=verified,
                repeated=message_id in self._taken,
                status=status,
                raw=raw,
                headers=dict(headers),
            )
            if verified and status < 300:
                self._taken.add(message_id)
            self.received.append(message)
        if self._on_received is not None:
            self._on_received(message)
        return status, extra


def _handler(receiver: Receiver) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length") or 0)
            if length > BODY_BYTES_MAX:
                self.send_error(413)
                return
            status, extra = receiver.take({name.lower(): value for name, value in self.headers.items()}, self.rfile.read(length))
            self.send_response(status)
            for name, value in extra.items():
                self.send_header(name, value)
            if status != 204:
                self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            """Says nothing: whoever started the receiver prints what it wants from `on_received`."""

    return Handler
