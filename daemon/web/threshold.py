"""What every request passes before anything looks at it (floor 8): is it meant for us, is it small, does it come in time.

Pure ASGI. A host name that is not ours is refused (a foreign page could have let it point here), a body is read whole before it is looked
at and is small, a request has a time limit, and every answer carries the headers that tell a browser to trust nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from daemon.web.refusals import HEADERS, Refused, as_json

BODY_MAX = 1 << 16
BODY_S = 10.0
REQUEST_S = 20.0
SEND_S = 30.0  # a reader of the stream that takes nothing for this long is gone
STREAM_PATH = "/api/v1/stream"
HSTS = "max-age=31536000"


class Threshold:
    """Middleware around the whole surface. `ours`: whether a `Host` is a name of ours; `secure`: https only; the limits are seconds."""

    def __init__(
        self, app: ASGIApp, *, ours: Callable[[str], bool], secure: bool, body_s: float = BODY_S, request_s: float = REQUEST_S,
        send_s: float = SEND_S,
    ) -> None:  # fmt: skip
        self._app = app
        self._ours = ours
        self._secure = secure
        self._body_s = body_s
        self._request_s = request_s
        self._send_s = send_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request, or say why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        answered = False

        async def hardened(message: Message) -> None:
            nonlocal answered
            if message["type"] == "http.response.start":
                answered = True
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                if self._secure:
                    headers.setdefault("strict-transport-security", HSTS)
            async with asyncio.timeout(self._send_s):
                await send(message)

        try:
            if scope["path"].removeprefix(scope.get("root_path", "")).rstrip("/") == STREAM_PATH:
                await self._admit(scope, receive, hardened)
                return
            async with asyncio.timeout(self._request_s):
                await self._admit(scope, receive, hardened)
        except TimeoutError:
            if answered:
                raise ConnectionError("a reader took its answer too slowly") from None
            refused = Refused(503, "too_slow", f"no answer within {self._request_s:g} s; ask again", headers={"Retry-After": "5"})
            await as_json(scope["path"], refused)(scope, receive, send)

    async def _admit(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = Headers(scope=scope)
        try:
            if len(headers.getlist("host")) != 1 or not self._ours(headers["host"]):
                raise Refused(421, "wrong_host", "this is not the host you asked for; add its name to `http.hosts` of the settings")
            body = await self._body(headers, receive)
        except Refused as refused:
            await as_json(scope["path"], refused)(scope, receive, send)
            return
        handed = False

        async def replay() -> Message:
            nonlocal handed
            if handed:
                return await receive()
            handed = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self._app(scope, replay, send)

    async def _body(self, headers: Headers, receive: Receive) -> bytes:
        """The whole body. Raises Refused 413 or 408."""
        close = {"Connection": "close"}
        too_large = Refused(413, "too_large", f"a body has at most {BODY_MAX >> 10} KiB", headers=close)
        declared = headers.get("content-length", "0")
        if not declared.isascii() or not declared.isdigit() or int(declared[:12]) > BODY_MAX or len(declared) > 12:
            raise too_large
        body = bytearray()
        try:
            async with asyncio.timeout(self._body_s):
                while True:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        return b""
                    body += message.get("body", b"")
                    if len(body) > BODY_MAX:
                        raise too_large
                    if not message.get("more_body", False):
                        return bytes(body)
        except TimeoutError:
            raise Refused(408, "too_slow", f"the body did not come within {self._body_s:g} s", headers=close) from None
