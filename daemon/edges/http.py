"""One HTTP source and how its answers become errors of this house (floor 6): `await source.get("/height")` is the parsed JSON.

One try a call. A read that fails certainly did nothing. A write that fails did nothing only when no connection was made or the source
refused it (3xx, 4xx); a timeout, a dropped connection, a 5xx or an unreadable answer may have happened: `UnknownOutcome`.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Mapping

import httpx

from daemon.edges.protocol import Clock
from daemon.errors import EdgeError, UnknownOutcome
from daemon.units import NS

BODY_BYTES_MAX = 16 << 20  # all markets of the largest venue are well under 1 MiB
REFUSAL_CHARS_MAX = 300
_NOT_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.UnsupportedProtocol, httpx.LocalProtocolError)


class RequestBudget:
    """At most `limit` requests in any window of `per_ns` venue time; shared by all sources of one address.

    It remembers when each of the last `limit` requests went out, so no window, wherever the venue lets it begin, holds more than `limit`.
    """

    def __init__(self, *, clock: Clock, limit: int, per_ns: int = 10 * NS, wait_max_ns: int = 5 * NS) -> None:
        assert limit > 0, "a budget allows something"
        self._clock = clock
        self._per_ns = per_ns
        self._wait_max_ns = wait_max_ns
        self._sent: deque[int] = deque(maxlen=limit)  # when each request goes out, oldest first; may lie ahead for those waiting
        self._closed_until = 0

    async def take(self, edge: str) -> None:
        """Returns when a request may go out; raises EdgeError(rate_limited) when that is more than `wait_max_ns` away."""
        now = self._clock.now()
        at = max(now, self._closed_until)
        if len(self._sent) == self._sent.maxlen:
            at = max(at, self._sent[0] + self._per_ns)
        if at - now > self._wait_max_ns:
            wait_s = (at - now) / NS
            message = f"{edge}: the request budget is used up for {wait_s:.1f} s; poll less often"
            raise EdgeError(message, edge=edge, reason="rate_limited", retryable=True, retry_after_s=wait_s)
        self._sent.append(at)
        if at > now:
            await self._clock.sleep(at - now)

    def close_for(self, ns: int) -> None:
        """Lets nothing out for `ns`: the source said 429."""
        self._closed_until = max(self._closed_until, self._clock.now() + ns)


class HttpSource:
    """One base address of one source. `retry_after_unit_ns` is what a bare number in its `Retry-After` counts (dYdX: milliseconds)."""

    def __init__(
        self, *, name: str, url: str, budget: RequestBudget | None = None, timeout_s: float = 5.0, retry_after_unit_ns: int = NS,
        proxy: str | None = None, transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:  # fmt: skip
        self.name = name
        self.url = url.rstrip("/")
        self._budget = budget
        self._retry_after_unit_ns = retry_after_unit_ns
        # trust_env=False: a proxy is configured, never picked up from whatever shell started the daemon. The timeout is real time.
        self._client = httpx.AsyncClient(trust_env=False, follow_redirects=False, timeout=timeout_s, proxy=proxy, transport=transport)

    async def get(self, path: str, params: Mapping[str, str | int] | None = None) -> object:
        """The parsed JSON of one GET; raises EdgeError with reason unreachable, timeout, rate_limited, http_<status> or wrong_shape."""
        if self._budget is not None:
            await self._budget.take(self.name)
        what = f"{self.name}: GET {path}"
        try:
            response, content = await self._exchange(self._client.build_request("GET", self.url + path, params=dict(params or {})))
        except _NOT_SENT as error:
            raise self._failed(f"{what}: cannot connect to {self.url}: {_say(error)}", "unreachable") from error
        except httpx.TimeoutException as error:
            raise self._failed(f"{what}: no answer in time", "timeout") from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._failed(f"{what}: {_say(error)}", "broken") from error
        if response.status_code != 200:
            raise self._refused(what, response, content)
        try:
            return json.loads(content)
        except ValueError as error:
            message = f"{what}: the answer is no JSON: {_excerpt(content)}"
            raise EdgeError(message, edge=self.name, reason="wrong_shape", retryable=False) from error

    async def post(self, path: str, body: Mapping[str, object]) -> object:
        """The parsed JSON of one POST; raises EdgeError when it certainly did nothing, else UnknownOutcome."""
        what = f"{self.name}: POST {path}"
        try:
            response, content = await self._exchange(self._client.build_request("POST", self.url + path, json=dict(body)))
        except _NOT_SENT as error:
            raise self._failed(f"{what}: cannot connect to {self.url}: {_say(error)}", "unreachable") from error
        except httpx.TimeoutException as error:
            raise UnknownOutcome(f"{what}: no answer in time", edge=self.name, reason="timeout") from error
        except httpx.HTTPError as error:
            raise UnknownOutcome(f"{what}: {_say(error)}", edge=self.name, reason="broken") from error
        if 300 <= response.status_code < 500 and response.status_code != 408:
            raise self._refused(what, response, content)
        if not 200 <= response.status_code < 300:
            message = f"{what}: HTTP {response.status_code}: {_excerpt(content)}"
            raise UnknownOutcome(message, edge=self.name, reason=f"http_{response.status_code}")
        try:
            return json.loads(content)
        except ValueError as error:
            raise UnknownOutcome(f"{what}: taken, but the answer is no JSON", edge=self.name, reason="wrong_shape") from error

    async def close(self) -> None:
        """Closes the connections."""
        await self._client.aclose()

    async def _exchange(self, request: httpx.Request) -> tuple[httpx.Response, bytes]:
        response = await self._client.send(request, stream=True)
        content = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                content += chunk
                if len(content) > BODY_BYTES_MAX:
                    raise httpx.ReadError(f"the answer is larger than {BODY_BYTES_MAX >> 20} MiB", request=request)
        finally:
            await response.aclose()
        return response, bytes(content)

    def _failed(self, message: str, reason: str) -> EdgeError:
        return EdgeError(message, edge=self.name, reason=reason, retryable=True)

    def _refused(self, what: str, response: httpx.Response, content: bytes) -> EdgeError:
        status = response.status_code
        if status == 429:
            wait_ns = self._retry_after_ns(response.headers.get("retry-after"))
            if self._budget is not None:
                self._budget.close_for(wait_ns)
            message = f"{what}: rate limited for {wait_ns / NS:g} s"
            return EdgeError(message, edge=self.name, reason="rate_limited", retryable=True, retry_after_s=wait_ns / NS)
        said, reason = _errors(content)
        message = f"{what}: HTTP {status}: {said or _excerpt(content)}"
        return EdgeError(message, edge=self.name, reason=reason or f"http_{status}", retryable=status >= 500 or status == 408)

    def _retry_after_ns(self, header: str | None) -> int:
        """Nanoseconds of a Retry-After; a second when there is none or it cannot be read, a minute at most."""
        try:
            count = float(header) if header is not None else NS / self._retry_after_unit_ns
        except ValueError:
            return NS
        return int(min(max(0.0, count) * self._retry_after_unit_ns, 60 * NS))


def _say(error: Exception) -> str:
    return str(error) or type(error).__name__


def _excerpt(content: bytes) -> str:
    return " ".join(content[:REFUSAL_CHARS_MAX].decode(errors="replace").split()) or "an empty answer"


def _errors(content: bytes) -> tuple[str, str]:
    """The joined texts of an `{"errors": [{"msg", "reason"?}]}` body, and the first reason; empty when it is none."""
    try:
        body = json.loads(content)
    except ValueError:
        return "", ""
    rows = body.get("errors") if isinstance(body, dict) else None
    found = [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []
    said = "; ".join(str(row["msg"]) for row in found if "msg" in row)[:REFUSAL_CHARS_MAX]
    return said, next((str(row["reason"]) for row in found if row.get("reason")), "")
