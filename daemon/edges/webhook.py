"""Webhooks out (floor 6): one try a call, the retry schedule as a pure function, and a guard against private addresses.

What is handed over is the native body; the endpoint's format is rendered from it here, at the try, so that no key of a receiver is kept.

Standard Webhooks: `webhook-id` stays the same over retries, `webhook-timestamp` is the moment of the try, `webhook-signature` holds one
signature a secret (two while a secret is being rotated). `await sender.send("desk", item_id, body, signed_at=now)` -> `Delivered`,
`RetryLater`, `Disabled` or `Dead`; whoever keeps the outbox asks `retry_at(...)` when to try again.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import assert_never

import httpx
from standardwebhooks import Webhook

from daemon.edges.formats import Format, Receiver, plain, render_for
from daemon.edges.notice import read_message
from daemon.engine.actions import Action, CallWebhook, Outcome
from daemon.errors import EdgeError, UnknownOutcome
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS, iso

IPAddress = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]  # (host, port) -> addresses as text
Breadth = Callable[[str, str, str, str], bool]  # apprise: (address, title, text, severity) -> taken; blocks, so it is called in a thread

# The delay before attempt n (the first goes at once). Standard Webhooks' own example schedule: a receiver may be down for two days.
SCHEDULE_NS = (
    0, 5 * NS, 5 * MINUTE_NS, 30 * MINUTE_NS, 2 * HOUR_NS, 5 * HOUR_NS, 10 * HOUR_NS, 14 * HOUR_NS, 20 * HOUR_NS, 24 * HOUR_NS,
)  # fmt: skip
# A critical notice that nobody took is dead after minutes, so that another channel can be raised while it still matters.
SCHEDULE_CRITICAL_NS = (0, 5 * NS, 30 * NS, 2 * MINUTE_NS)
JITTER = 0.1  # a delay is stretched by up to this share, so that many failed deliveries do not come back at once
RETRY_AFTER_MAX_NS = DAY_NS
ANSWER_BYTES_MAX = 1024  # of a refusal's body that is kept for the reason
CONNECTIONS_MAX = 20
BROAD_THREADS = 2  # of apprise's own: in the loop's pool, stuck ones would take the places of the venues' name lookups
SECONDS_DIGITS_MAX = 12  # of a Retry-After: 30,000 years
SECRET_PART_MIN = 8  # characters of a part of an address that is hidden where it is quoted

_NAT64 = IPv6Network("64:ff9b::/96")
_METADATA = frozenset({ip_address("169.254.169.254"), ip_address("fd00:ec2::254"), ip_address("100.100.100.200")})


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouping:
    """Which messages to one endpoint are told together, and how often. Durations in ns of the daemon's clock.

    `by` names what messages of one group have in common; `wait` is how long the first of a group waits for company (what is critical does
    not), `interval` how long the group is silent after a message (what is critical waits `wait` at most), `repeat` how long until it is
    reminded of what still fires.
    """

    by: tuple[str, ...] = ("runbook",)
    wait_ns: int = 10 * NS
    interval_ns: int = 5 * MINUTE_NS
    repeat_ns: int = 4 * HOUR_NS


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """Where a channel's messages go. `secrets` are `whsec_...`, the current one first; two while rotating, none: it is not signed.

    `url` may be a secret itself (chat services put a token into it), so it is in no message; `address` is what may be shown.
    """

    name: str
    url: str = field(repr=False)
    secrets: tuple[str, ...] = field(default=(), repr=False)
    format: Format = "reefd"
    allow_private: bool = False
    ordered: bool = True
    timeout_s: float = 10.0
    ca_file: str = ""  # certificates of the only authorities that are believed here; empty: the usual ones
    chat_id: str = ""  # telegram
    routing_key: str = field(default="", repr=False)  # pagerduty
    grouping: Grouping | None = None  # None: each message by itself
    fallback: str = ""  # the endpoint that is told what is critical and could not be delivered here

    @property
    def address(self) -> str:
        """Scheme and host, without what may be secret: `https://hooks.slack.com/…`."""
        try:
            url = httpx.URL(self.url)
        except httpx.InvalidURL:
            return "…"
        if self.format == "apprise" or not url.host:
            return f"{url.scheme}://…" if url.scheme else "…"
        port = f":{url.port}" if url.port else ""
        return f"{url.scheme}://{url.host}{port}{'/…' if url.path.strip('/') else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivered:
    """The endpoint took it."""

    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryLater:
    """Not taken now; `after_ns` is what the endpoint asked for (None: nothing). `status` None: no answer came."""

    reason: str
    after_ns: int | None = None
    status: int | None = None
    sent: bool = True  # False: no connection was made, so it certainly was not taken


@dataclass(frozen=True, slots=True, kw_only=True)
class Disabled:
    """The endpoint said 410 Gone: nothing more goes there until a person enables it again."""

    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dead:
    """This message can never be taken there; it goes to the dead letters."""

    reason: str


Answer = Delivered | RetryLater | Disabled | Dead


def render(kind: str, content: Mapping[str, object], *, at: int, seq: int) -> str:
    """The native body of a message: `{"type", "timestamp", "data", "seq"}` with `at` (ns) as ISO-8601. Same arguments, same bytes."""
    body = {"type": kind, "timestamp": iso(at), "data": content, "seq": seq}
    return json.dumps(body, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def signature_headers(secrets: Sequence[str], message_id: str, body: str, signed_at: datetime) -> dict[str, str]:
    """The three Standard Webhooks headers, none without a secret. `signed_at` must be aware and UTC: any other is mis-signed silently."""
    assert signed_at.tzinfo is not None, "signed_at must be aware: a naive time is signed as if it were UTC"
    assert signed_at.utcoffset() == timedelta(0), "signed_at must be UTC: another zone is signed hours off"
    if not secrets:
        return {}
    at = signed_at.astimezone(UTC)
    signatures = " ".join(Webhook(secret).sign(message_id, at, body) for secret in secrets)
    return {"webhook-id": message_id, "webhook-timestamp": str(int(at.timestamp())), "webhook-signature": signatures}


def retry_at(
    *, message_id: str, endpoint: str, attempts: int, failed_at: int, after_ns: int | None = None, critical: bool = False
) -> int | None:
    """When to try again (ns) after `attempts` tries, the last of which failed at `failed_at`; None = no further try, a dead letter.

    The jitter is a function of endpoint, id and attempt: the same failure is retried at the same time after a restart. `Retry-After`
    only ever makes it later, by a day at most.
    """
    schedule = SCHEDULE_CRITICAL_NS if critical else SCHEDULE_NS
    if attempts >= len(schedule):
        return None
    digest = hashlib.sha256(f"{endpoint}\n{message_id}\n{attempts}".encode()).digest()
    share = int.from_bytes(digest[:4], "big") / 2**32
    delay = schedule[attempts] + int(schedule[attempts] * JITTER * share)
    return failed_at + max(delay, min(after_ns or 0, RETRY_AFTER_MAX_NS))


def retry_after_ns(header: str | None, now: datetime) -> int | None:
    """Nanoseconds of a `Retry-After` header, in seconds or as an HTTP date; None when absent or unreadable, never negative."""
    if header is None:
        return None
    text = header.strip()
    if text.isdecimal():
        # Digits without end are a long time, and more of them than Python turns into a number.
        if len(text.lstrip("0")) > SECONDS_DIGITS_MAX:
            return RETRY_AFTER_MAX_NS
        return min(int(text[-SECONDS_DIGITS_MAX:]) * NS, RETRY_AFTER_MAX_NS)
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return min(max(0, int((moment - now).total_seconds() * NS)), RETRY_AFTER_MAX_NS)


def classify(status: int, retry_after: str | None, now: datetime, body: str = "", *, fixed: bool = False) -> Answer:
    """What an HTTP answer means: 2xx delivered, 410 disabled, 413 dead (the body does not shrink), anything else later.

    `fixed`: the receiver's form is its vendor's, so what it calls malformed (400, 422) never gets better and is dead too.

    Redirects are not followed, so they count as not taken: a receiver that moved must be configured anew.
    """
    if 200 <= status < 300:
        return Delivered(status=status)
    said = f": {' '.join(body.split())[:200]}" if body.strip() else ""
    if status == 410:
        return Disabled(reason=f"HTTP 410{said}")
    if status == 413:
        return Dead(reason=f"HTTP 413, the message is too large for the endpoint{said}")
    if fixed and status in (400, 422):
        return Dead(reason=f"HTTP {status}, the receiver does not take this message{said}")
    after_ns = retry_after_ns(retry_after, now)
    return RetryLater(reason=f"HTTP {status}{said}", after_ns=_retry_after_of_body(body) if after_ns is None else after_ns, status=status)


def _retry_after_of_body(body: str) -> int | None:
    """What Telegram (`parameters.retry_after`) and Discord (`retry_after`) say in a refusal's body, in ns; None when nothing."""
    try:
        said = json.loads(body)
        seconds = float(said["parameters"]["retry_after"] if "parameters" in said else said["retry_after"])
    except (KeyError, TypeError, ValueError, OverflowError, RecursionError):  # whatever JSON it is, and however deep
        return None
    return int(min(max(0.0, seconds), RETRY_AFTER_MAX_NS / NS) * NS) if seconds == seconds else None


def refusal(address: IPAddress, *, allow_private: bool) -> str | None:
    """Why a webhook must not go to `address`; None when it may.

    Private and loopback addresses are for `allow_private` endpoints only. Link-local, cloud metadata, unspecified and multicast addresses
    are never right. An IPv4 address wrapped into IPv6 is judged as what it wraps.
    """
    if isinstance(address, IPv6Address):
        wrapped = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if wrapped is None and address in _NAT64:
            wrapped = IPv4Address(int(address) & 0xFFFFFFFF)
        if wrapped is not None:
            return refusal(wrapped, allow_private=allow_private)
    if address in _METADATA or address.is_link_local:
        return f"{address} is a link-local or metadata address"
    if address.is_unspecified or address.is_multicast or (address.is_reserved and not address.is_private):
        return f"{address} is no address of one receiver"
    if not address.is_global and not allow_private:
        return f"{address} is a private or loopback address; write allow_private: true for this endpoint if that is meant"
    return None


async def resolve_host(host: str, port: int) -> Sequence[str]:
    """All addresses of a host by the system's resolver; raises OSError when it has none."""
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(sockaddr[0]) for *_, sockaddr in found))


def _client(ca_file: str, transport: httpx.AsyncBaseTransport | None) -> httpx.AsyncClient:
    # trust_env=False: a proxy variable of the environment would undo the pinned address. No kept connections: they are pooled by
    # address, so one opened (and checked) for one host name could carry a message meant for another.
    limits = httpx.Limits(max_keepalive_connections=0, max_connections=CONNECTIONS_MAX)
    verify: ssl.SSLContext | bool = True
    if ca_file:
        try:
            verify = ssl.create_default_context(cafile=ca_file)
        except OSError as error:  # ssl.SSLError is one: no certificate in the file
            why = error.strerror or "it holds no certificate"
            raise EdgeError(f"the ca_file {ca_file} cannot be used: {why}", edge="webhook", reason="ca_file", retryable=False) from error
    return httpx.AsyncClient(trust_env=False, follow_redirects=False, limits=limits, transport=transport, verify=verify)


def _hidden(target: Endpoint, text: str) -> str:
    """The text without anything secret of the endpoint: receivers and libraries quote addresses in what they say. Raises nothing."""
    try:
        url = httpx.URL(target.url)
    except httpx.InvalidURL:
        url = httpx.URL()
    secrets = {target.url, url.path, url.raw_path.decode(), url.query.decode(), target.routing_key, *target.secrets}
    secrets |= {part for part in url.path.split("/") if len(part) >= SECRET_PART_MIN}
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) >= SECRET_PART_MIN:
            text = text.replace(secret, "***")
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pinned:
    """Where to connect: `url` holds the address, `host` the Host header, `name` the host name that TLS must prove."""

    url: httpx.URL
    host: str
    name: str


class WebhookSender:
    """Sends bodies to endpoints: resolves the host, refuses forbidden addresses, connects to the very address it checked, no redirects."""

    def __init__(
        self,
        endpoints: Sequence[Endpoint],
        *,
        resolve: Resolve = resolve_host,
        transport: httpx.AsyncBaseTransport | None = None,
        link_base: str = "",
        breadth: Breadth | None = None,
    ) -> None:
        """`link_base` is the public address of the operator's surface, for links; `breadth` sends for `format: apprise`.

        Raises EdgeError when the certificates of an endpoint's `ca_file` cannot be read.
        """
        self._endpoints = {endpoint.name: endpoint for endpoint in endpoints}
        self._resolve = resolve
        self._link_base = link_base.rstrip("/")
        self._breadth = breadth
        self._threads = ThreadPoolExecutor(max_workers=BROAD_THREADS, thread_name_prefix="apprise")
        self._clients = {ca_file: _client(ca_file, transport) for ca_file in {endpoint.ca_file for endpoint in endpoints}}

    @property
    def endpoints(self) -> Mapping[str, Endpoint]:
        """The configured endpoints by name."""
        return self._endpoints

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: datetime) -> Answer:
        """One try. `message_id` stays the same over retries; `signed_at` is the wall clock of this try (aware, UTC). Raises nothing."""
        target = self._endpoints.get(endpoint)
        if target is None:
            return Dead(reason=f"no endpoint is named {endpoint!r}; the configuration has: {', '.join(sorted(self._endpoints)) or 'none'}")
        try:
            return await self._send(target, message_id, body, signed_at)
        except Exception as error:
            # What a receiver says must end neither the daemon nor the lane; nothing is known of the message then, so it is tried again.
            return RetryLater(reason=_hidden(target, f"a fault of ours at this try: {type(error).__name__}: {str(error)[:200]}"))

    async def _send(self, target: Endpoint, message_id: str, body: str, signed_at: datetime) -> Answer:
        if target.format == "apprise":
            return await self._send_broadly(target, body)
        try:
            async with asyncio.timeout(target.timeout_s):
                pinned = await self._pin(target)
        except TimeoutError:
            return RetryLater(reason="cannot resolve the endpoint's host: no answer in time", sent=False)
        if not isinstance(pinned, _Pinned):
            return pinned
        body = self.rendered(target, body)
        signed = signature_headers(target.secrets, message_id, body, signed_at)
        headers = {"host": pinned.host, "content-type": "application/json", "user-agent": "reefd", **signed}
        client = self._clients[target.ca_file]
        request = client.build_request(
            "POST", pinned.url, content=body.encode(), headers=headers, extensions={"sni_hostname": pinned.name}, timeout=target.timeout_s
        )
        said = b""
        try:
            async with asyncio.timeout(target.timeout_s):  # of the whole exchange: a receiver may not drip bytes for ever
                response = await client.send(request, stream=True)
                try:
                    async for chunk in response.aiter_bytes():
                        said += chunk
                        if len(said) >= ANSWER_BYTES_MAX:
                            break  # nor fill our memory
                finally:
                    await response.aclose()
        except (httpx.ConnectError, httpx.ConnectTimeout) as error:
            return RetryLater(reason=_hidden(target, f"cannot connect: {error or type(error).__name__}"), sent=False)
        except (httpx.HTTPError, TimeoutError) as error:
            return RetryLater(reason=f"no answer: {type(error).__name__}")
        text = said[:ANSWER_BYTES_MAX].decode(errors="replace")
        fixed = target.format in ("slack", "discord", "telegram", "pagerduty")
        return classify(response.status_code, response.headers.get("retry-after"), signed_at, _hidden(target, text), fixed=fixed)

    def rendered(self, target: Endpoint, body: str) -> str:
        """What an endpoint gets of a native body."""
        if target.format == "reefd" or target.format == "apprise":
            return body
        receiver = Receiver(name=target.name, link_base=self._link_base, chat_id=target.chat_id, routing_key=target.routing_key)
        return render_for(target.format, read_message(body), receiver)

    async def close(self) -> None:
        """Closes the connections."""
        self._threads.shutdown(wait=False, cancel_futures=True)
        for client in self._clients.values():
            await client.aclose()

    async def _send_broadly(self, target: Endpoint, body: str) -> Answer:
        """One try through apprise, which connects by itself: the guard against private addresses does not reach it."""
        if self._breadth is None:
            return RetryLater(reason="format: apprise needs the module apprise; install it with: pip install 'reefd[apprise]'", sent=False)
        message = read_message(body)
        title, text = plain(message, Receiver(name=target.name, link_base=self._link_base))
        try:
            async with asyncio.timeout(target.timeout_s):
                loop = asyncio.get_running_loop()
                taken = await loop.run_in_executor(self._threads, self._breadth, target.url, title, text, message.severity)
        except TimeoutError:
            return RetryLater(reason="no answer: apprise took too long")
        return Delivered(status=200) if taken else RetryLater(reason="apprise could not deliver it; `reefd webhook test` tries again")

    async def _pin(self, target: Endpoint) -> _Pinned | Answer:
        """One checked address of the endpoint's host, with the host kept for TLS and the Host header."""
        try:
            url = httpx.URL(target.url)
        except httpx.InvalidURL:
            url = httpx.URL()
        if url.scheme not in ("http", "https") or not url.host:
            return Dead(reason=f"endpoint {target.name!r}: its url is no web address; write https://...")
        port = url.port or (443 if url.scheme == "https" else 80)
        try:
            addresses = [ip_address(text.partition("%")[0]) for text in await self._resolve(url.host, port)]
        except OSError as error:
            return RetryLater(reason=f"cannot resolve {url.host!r}: {error.strerror or error}", sent=False)
        except ValueError:  # a name that cannot be encoded for DNS, or a resolver's answer that is no address
            return Dead(reason=f"endpoint {target.name!r}: {url.host!r} is no host name")
        if not addresses:
            return RetryLater(reason=f"cannot resolve {url.host!r}: no address", sent=False)
        for address in addresses:  # one forbidden address condemns the name: which one is used must not depend on luck
            why = refusal(address, allow_private=target.allow_private)
            if why is not None:
                return Dead(reason=f"endpoint {target.name!r}: {why}")
        if url.scheme == "http" and addresses[0].is_global:
            return Dead(reason=f"endpoint {target.name!r}: http:// would send this unencrypted over the internet; write https://{url.host}...")
        return _Pinned(url=url.copy_with(host=str(addresses[0]), userinfo=b""), host=url.netloc.decode(), name=url.host)


class WebhookExecutor:
    """The `webhook` action as a venue edge: `done` once the endpoint took it. It cannot be looked up: an unknown one goes to a person."""

    name = "webhook"

    def __init__(self, sender: WebhookSender, *, wall: Callable[[], datetime], at: Callable[[], int]) -> None:
        self._sender = sender
        self._wall = wall
        self._at = at

    def takes(self, action: Action) -> bool:
        """True for `CallWebhook`."""
        return isinstance(action, CallWebhook)

    async def send(self, action: Action) -> Outcome:
        """Posts the payload once; the action id is the webhook id."""
        assert isinstance(action, CallWebhook)
        at = self._at()
        if action.expires_at <= at:
            return Outcome(status="failed", reason="expired before it was sent")
        content = {"action_id": action.action_id, "run_id": action.run_id, "runbook": action.runbook, "payload": action.payload}
        body = render("action.webhook", {**content, "expires_at": iso(action.expires_at)}, at=at, seq=0)
        answer = await self._sender.send(action.endpoint, action.action_id, body, signed_at=self._wall())
        match answer:
            case Delivered():
                return Outcome(status="done", reference=f"HTTP {answer.status}")
            case RetryLater(sent=False):
                raise EdgeError(answer.reason, edge=self.name, reason="unreachable", retryable=True)
            case RetryLater(status=429 | 425):
                after = None if answer.after_ns is None else answer.after_ns / NS
                raise EdgeError(answer.reason, edge=self.name, reason="rate_limited", retryable=True, retry_after_s=after)
            case RetryLater(status=int(status)) if 300 <= status < 500 and status != 408:
                return Outcome(status="rejected", reason=answer.reason)
            case RetryLater():  # 5xx, 408 and silence prove nothing: it may have been taken
                raise UnknownOutcome(answer.reason, edge=self.name, reason="no_definite_answer")
            case Disabled() | Dead():
                return Outcome(status="rejected", reason=answer.reason)
            case unknown:
                assert_never(unknown)

    async def lookup(self, action: Action) -> Outcome | None:
        """Always raises UnknownOutcome: a plain webhook has no question to ask, and None would read as `it did nothing`."""
        raise UnknownOutcome(f"{action.action_id} cannot be looked up: a webhook has no query", edge=self.name, reason="no_lookup")

    async def close(self) -> None:
        """Nothing of its own to close: the sender belongs to whoever made it."""
