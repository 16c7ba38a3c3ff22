"""The operator's API from a terminal (floor 6): one daemon, one token, and what it answers.

    with OperatorClient(url="http://127.0.0.1:8470", token="reefd_...") as client:
        client.get("status"); client.post("halt", {"reason": "maintenance"}); client.events()

Every failure is an EdgeError: reason `unreachable` (no daemon there), `timeout`, `broken` (a change may have happened), `wrong_shape`,
`http_<status>` with the daemon's own words. Waits are real seconds.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from daemon.errors import EdgeError

API = "/api/v1/"
BODY_BYTES_MAX = 64 << 20
CONNECT_S = 2.0
ANSWER_S = 20.0
SILENCE_S = 20.0  # a stream beats every five seconds
LINE_CHARS_MAX = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent:
    """One event of the stream: its name, its id (empty when it has none) and its content."""

    name: str
    id: str
    content: Mapping[str, Any]


def part(text: str) -> str:
    """A name as a part of a path: a run id keeps its slashes."""
    return quote(text, safe="/:@")


class OperatorClient:
    """Asks one daemon. `transport` stands in for the network in tests."""

    def __init__(self, *, url: str, token: str = "", answer_s: float = ANSWER_S, transport: httpx.BaseTransport | None = None) -> None:
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        timeout = httpx.Timeout(answer_s, connect=min(CONNECT_S, answer_s))
        self._client = httpx.Client(trust_env=False, follow_redirects=False, timeout=timeout, headers=headers, transport=transport)

    def __enter__(self) -> OperatorClient:
        """Itself."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Closes the connections."""
        self._client.close()

    def get(self, path: str, params: Mapping[str, str | int] | None = None, *, accept: tuple[int, ...] = (200,)) -> dict[str, Any]:
        """The JSON object of `/api/v1/<path>`; `accept`: further statuses whose body is an answer."""
        return self._answer("GET", path, accept, params=dict(params or {}))

    def post(self, path: str, body: Mapping[str, Any] | None = None, *, key: str = "") -> dict[str, Any]:
        """What came of a change; `key` makes it count once however often it is sent."""
        headers = {"idempotency-key": key} if key else {}
        return self._answer("POST", path, (200, 202), json=dict(body or {}), headers=headers)

    def events(self, last_id: str = "") -> Iterator[ServerEvent]:
        """What happens, until the stream ends; with the id that was seen last, also what was missed since."""
        timeout = httpx.Timeout(SILENCE_S, connect=CONNECT_S)
        headers = {"last-event-id": last_id} if last_id else {}
        try:
            with self._client.stream("GET", f"{self.url}{API}stream", timeout=timeout, headers=headers) as response:
                if response.status_code != 200:
                    response.read()
                    raise self._refused("GET", "stream", response)
                yield from _events(response.iter_lines())
        except httpx.HTTPError as error:
            raise self._failed("GET", "stream", error) from error

    def _answer(self, method: str, path: str, accept: tuple[int, ...], **more: Any) -> dict[str, Any]:
        try:
            response = self._client.request(method, f"{self.url}{API}{path}", **more)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(method, path, error) from error
        if response.status_code not in accept:
            raise self._refused(method, path, response)
        try:
            found = json.loads(response.content[:BODY_BYTES_MAX])
        except ValueError as error:
            raise self._strange(method, path, "what answers there speaks no JSON; is this a reefd?") from error
        if not isinstance(found, dict):
            raise self._strange(method, path, "what answers there is no reefd")
        return found

    def _failed(self, method: str, path: str, error: Exception) -> EdgeError:
        what = f"{self.url}: {method} {path}"
        match error:
            case httpx.ConnectError() | httpx.ConnectTimeout() | httpx.UnsupportedProtocol() | httpx.InvalidURL():
                message, reason = f"no daemon answers at {self.url}; start it with: reefd run, or name another with --url", "unreachable"
            case httpx.TimeoutException():
                message, reason = f"{what}: no answer in time; look at reefd status before you ask again", "timeout"
            case _:
                message, reason = f"{what}: the connection broke ({error}); look at reefd status before you ask again", "broken"
        return EdgeError(message, edge=self.url, reason=reason, retryable=False)

    def _refused(self, method: str, path: str, response: httpx.Response) -> EdgeError:
        try:
            message = str(response.json()["error"]["message"])
        except (ValueError, KeyError, TypeError):
            return self._strange(method, path, f"HTTP {response.status_code}; is this a reefd?")
        return EdgeError(message, edge=self.url, reason=f"http_{response.status_code}", retryable=False)

    def _strange(self, method: str, path: str, text: str) -> EdgeError:
        return EdgeError(f"{self.url}: {method} {path}: {text}", edge=self.url, reason="wrong_shape", retryable=False)


def _events(lines: Iterator[str]) -> Iterator[ServerEvent]:
    """The events of a text/event-stream; comments and events without content are left out."""
    name, last_id, told = "message", "", ""
    for line in lines:
        if line == "":
            if told:
                try:
                    content = json.loads(told)
                except ValueError:
                    content = None
                if isinstance(content, dict):
                    yield ServerEvent(name=name, id=last_id, content=content)
            name, last_id, told = "message", "", ""
            continue
        field, _, value = line.partition(":")
        value = value.removeprefix(" ")
        match field:
            case "event":
                name = value
            case "id":
                last_id = value
            case "data" if len(told) < LINE_CHARS_MAX:
                told += value
            case _:
                pass
