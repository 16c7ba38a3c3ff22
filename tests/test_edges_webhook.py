"""Webhooks: signatures, the schedule, what an answer means, the address guard, and a real exchange over loopback."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import json
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_address
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from standardwebhooks import Webhook

from daemon.edges.receiver import Receiver
from daemon.edges.webhook import (
    SCHEDULE_CRITICAL_NS,
    SCHEDULE_NS,
    Answer,
    Dead,
    Delivered,
    Disabled,
    Endpoint,
    RetryLater,
    WebhookExecutor,
    WebhookSender,
    classify,
    refusal,
    render,
    retry_after_ns,
    retry_at,
    signature_headers,
)
from daemon.engine.actions import CallWebhook
from daemon.errors import EdgeError, UnknownOutcome
from daemon.units import DAY_NS, MINUTE_NS, NS, parse_iso

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
OTHER = "whsec_" + base64.b64encode(b"another secret of 24 byt").decode()
AT = datetime(2026, 2, 3, 17, 0, 0, 294000, tzinfo=UTC)


def endpoint(url: str, **options: Any) -> Endpoint:
    return Endpoint(**{"name": "desk", "url": url, "secrets": (SECRET,), "allow_private": True} | options)


def resolving(*addresses: str) -> Callable[[str, int], Any]:
    async def resolve(host: str, port: int) -> Sequence[str]:
        return addresses

    return resolve


class Wire:
    """A fake transport that remembers the requests."""

    def __init__(self, answer: Callable[[httpx.Request], httpx.Response] = lambda _: httpx.Response(204)) -> None:
        self.requests: list[httpx.Request] = []
        self.answer = answer

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.requests.append(request)
        return self.answer(request)


async def send(url: str, wire: Wire, addresses: Sequence[str] = ("93.184.216.34",), **options: Any) -> Answer:
    sender = WebhookSender([endpoint(url, **options)], resolve=resolving(*addresses), transport=httpx.MockTransport(wire))
    try:
        return await sender.send("desk", "run-1.tell.0.1", '{"type":"x"}', signed_at=AT)
    finally:
        await sender.close()


def test_signature_is_the_hmac_of_id_timestamp_and_body() -> None:
    headers = signature_headers([SECRET], "msg_1", '{"a":1}', AT)
    key = base64.b64decode(SECRET.removeprefix("whsec_"))
    signed = f'msg_1.{int(AT.timestamp())}.{{"a":1}}'.encode()
    assert headers == {
        "webhook-id": "msg_1",
        "webhook-timestamp": "1770138000",
        "webhook-signature": "v1," + base64.b64encode(hmac.new(key, signed, hashlib.sha256).digest()).decode(),
    }


def test_signature_matches_the_published_vector_of_standard_webhooks() -> None:
    # github.com/standard-webhooks/standard-webhooks, libraries/python/tests/test_webhooks.py
    headers = signature_headers(
        [SECRET], "msg_p5jXN8AQM9LWM0D4loKWxJek", '{"test": 2432232314}', datetime.fromtimestamp(1614265330, tz=UTC)
    )
    assert headers["webhook-signature"] == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize("at", [AT.replace(tzinfo=None), AT.astimezone(timezone(timedelta(hours=9)))])
def test_times_that_the_package_would_sign_wrongly_are_refused(at: datetime) -> None:
    with pytest.raises(AssertionError):
        signature_headers([SECRET], "msg_1", "{}", at)


def test_two_secrets_give_two_signatures_and_each_receiver_accepts_its_own() -> None:
    now = datetime.now(UTC)
    headers = signature_headers([OTHER, SECRET], "msg_1", '{"a":1}', now)
    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        assert Webhook(secret).verify('{"a":1}', headers) == {"a": 1}


def test_body_is_the_same_bytes_for_the_same_message() -> None:
    at = parse_iso("2026-02-03T17:00:00.294Z")
    body = render("runbook.fired", {"b": 1, "a": "ü"}, at=at, seq=7)
    assert body == '{"data":{"a":"ü","b":1},"seq":7,"timestamp":"2026-02-03T17:00:00.294Z","type":"runbook.fired"}'


def test_retries_follow_the_schedule_and_end() -> None:
    due = [retry_at(message_id="m", endpoint="desk", attempts=n, failed_at=0) for n in range(1, 12)]
    assert due[9:] == [None, None]
    for attempts, at in enumerate(due[:9], start=1):
        assert at is not None
        assert SCHEDULE_NS[attempts] <= at <= SCHEDULE_NS[attempts] * 1.1
    assert SCHEDULE_NS[:4] == (0, 5 * NS, 5 * MINUTE_NS, 30 * MINUTE_NS)
    assert sum(SCHEDULE_NS) > 3 * DAY_NS


def test_critical_message_is_dead_within_minutes() -> None:
    at, attempts = 0, 1
    while (due := retry_at(message_id="m", endpoint="desk", attempts=attempts, failed_at=at, critical=True)) is not None:
        at, attempts = due, attempts + 1
    assert attempts == len(SCHEDULE_CRITICAL_NS)
    assert at < 5 * MINUTE_NS


@given(
    message_id=st.text(max_size=30), attempts=st.integers(1, 9), failed_at=st.integers(0, 2**61), after=st.none() | st.integers(0, 2**50)
)
def test_retry_is_a_function_of_its_arguments_and_never_earlier_than_asked(
    message_id: str, attempts: int, failed_at: int, after: int | None
) -> None:
    due = [retry_at(message_id=message_id, endpoint="e", attempts=attempts, failed_at=failed_at, after_ns=after) for _ in range(2)]
    assert due[0] is not None
    assert due[0] == due[1]
    assert due[0] - failed_at >= max(SCHEDULE_NS[attempts], min(after or 0, DAY_NS))


def test_jitter_spreads_messages_that_failed_together() -> None:
    due = {retry_at(message_id=f"m{n}", endpoint="desk", attempts=2, failed_at=0) for n in range(50)}
    assert len(due) == 50


@pytest.mark.parametrize(
    ("header", "ns"),
    [
        (None, None),
        ("120", 120 * NS),
        ("0", 0),
        ("999999999", DAY_NS),
        ("9" * 5_000, DAY_NS),
        ("0" * 5_000 + "7", 7_000_000_000),
        ("Mon, 01 Jan " + "9" * 30 + " 00:00:00 GMT", None),
        ("Tue, 03 Feb 2026 17:00:30 GMT", 29_706_000_000),
        ("Tue, 03 Feb 2026 16:00:00 GMT", 0),
        ("soon", None),
        ("-5", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str | None, ns: int | None) -> None:
    found = retry_after_ns(header, AT)
    assert found == (ns if ns is None else pytest.approx(ns, abs=1000))


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (200, Delivered),
        (204, Delivered),
        (301, RetryLater),
        (400, RetryLater),
        (401, RetryLater),
        (404, RetryLater),
        (410, Disabled),
        (413, Dead),
        (429, RetryLater),
        (500, RetryLater),
        (503, RetryLater),
    ],
)
def test_status_decides_what_happens_next(status: int, kind: type) -> None:
    assert isinstance(classify(status, None, AT), kind)


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1",
        "10.1.2.3",
        "172.16.0.1",
        "192.168.1.1",
        "100.64.0.1",
        "0.0.0.0",
        "169.254.169.254",
        "169.254.1.1",
        "224.0.0.1",
        "255.255.255.255",
        "240.0.0.1",
        "::1",
        "::",
        "fe80::1",
        "fc00::1",
        "ff02::1",
        "fd00:ec2::254",
        "100.100.100.200",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "64:ff9b::a9fe:a9fe",
        "2002:7f00:1::",
        "2002:a9fe:a9fe::",
    ],
)
def test_address_that_is_not_public_is_refused(address: str) -> None:
    assert refusal(ip_address(address), allow_private=False) is not None


@pytest.mark.parametrize("address", ["93.184.216.34", "2606:2800:220:1::1", "::ffff:93.184.216.34", "64:ff9b::5db8:d822"])
def test_public_address_is_allowed(address: str) -> None:
    assert refusal(ip_address(address), allow_private=False) is None


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True),
        ("10.1.2.3", True),
        ("::1", True),
        ("fc00::1", True),
        ("169.254.169.254", False),
        ("fe80::1", False),
        ("0.0.0.0", False),
        ("::ffff:169.254.169.254", False),
        ("fd00:ec2::254", False),
        ("224.0.0.1", False),
    ],
)
def test_allow_private_never_opens_metadata_addresses(address: str, allowed: bool) -> None:
    assert (refusal(ip_address(address), allow_private=True) is None) is allowed


async def test_connection_goes_to_the_address_that_was_checked_under_the_hosts_name() -> None:
    wire = Wire()
    assert await send("https://hooks.example.com:8443/a?b=1", wire, allow_private=False) == Delivered(status=204)
    [request] = wire.requests
    assert str(request.url) == "https://93.184.216.34:8443/a?b=1"
    assert request.headers["host"] == "hooks.example.com:8443"
    assert request.extensions["sni_hostname"] == "hooks.example.com"
    assert request.content == b'{"type":"x"}'
    assert request.headers["webhook-id"] == "run-1.tell.0.1"


async def test_ipv6_address_is_pinned_too() -> None:
    wire = Wire()
    await send("https://hooks.example.com/a", wire, ("2606:2800:220:1::1",), allow_private=False)
    assert wire.requests[0].url.host == "2606:2800:220:1::1"


@pytest.mark.parametrize("addresses", [("10.0.0.1",), ("93.184.216.34", "127.0.0.1"), ("::ffff:10.0.0.1",)])
async def test_host_with_any_private_address_is_refused_before_anything_is_sent(addresses: tuple[str, ...]) -> None:
    wire = Wire()
    answer = await send("https://hooks.example.com/a", wire, addresses, allow_private=False)
    assert isinstance(answer, Dead)
    assert "allow_private: true" in answer.reason
    assert wire.requests == []


async def test_plain_http_to_a_public_address_is_refused() -> None:
    wire = Wire()
    assert isinstance(await send("http://hooks.example.com/a", wire), Dead)
    assert wire.requests == []


async def test_redirect_is_not_followed() -> None:
    wire = Wire(lambda _: httpx.Response(302, headers={"location": "http://169.254.169.254/"}))
    answer = await send("https://hooks.example.com/a", wire)
    assert isinstance(answer, RetryLater)
    assert len(wire.requests) == 1


async def test_unresolvable_host_is_tried_again_later() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        raise OSError(-2, "Name or service not known")

    sender = WebhookSender([endpoint("https://hooks.example.com/a")], resolve=resolve)
    answer = await sender.send("desk", "m", "{}", signed_at=AT)
    assert answer == RetryLater(reason="cannot resolve 'hooks.example.com': Name or service not known", sent=False)
    await sender.close()


@pytest.mark.parametrize("url", ["https://" + "a" * 70 + ".com/", "https://[::1/", "ftp://example.com/"])
async def test_address_that_is_none_is_dead_and_nothing_is_raised(url: str) -> None:
    sender = WebhookSender([endpoint(url)])
    assert isinstance(await sender.send("desk", "m", "{}", signed_at=AT), Dead)
    await sender.close()


async def test_unknown_endpoint_is_dead_and_says_which_exist() -> None:
    sender = WebhookSender([endpoint("https://hooks.example.com/a")])
    assert await sender.send("dek", "m", "{}", signed_at=AT) == Dead(reason="no endpoint is named 'dek'; the configuration has: desk")
    await sender.close()


async def test_receiver_takes_a_signed_message_over_real_http() -> None:
    with Receiver(SECRET) as receiver:
        sender = WebhookSender([endpoint(receiver.url)])
        body = render("runbook.fired", {"market": "dydx:HYPE-USD"}, at=parse_iso("2026-02-03T17:00:00Z"), seq=3)
        now = datetime.now(UTC)
        assert await sender.send("desk", "m1", body, signed_at=now) == Delivered(status=204)
        assert await sender.send("desk", "m1", body, signed_at=now) == Delivered(status=204)
        await sender.close()
    assert [(m.message_id, m.kind, m.seq, m.verified, m.repeated) for m in receiver.received] == [
        ("m1", "runbook.fired", 3, True, False),
        ("m1", "runbook.fired", 3, True, True),
    ]
    assert len(receiver.verified()) == 1


@pytest.mark.parametrize("case", ["other secret", "old", "changed body", "no headers", "garbage"])
async def test_receiver_refuses_what_is_not_signed_by_us_now(case: str) -> None:
    now = datetime.now(UTC) - timedelta(minutes=10 if case == "old" else 0)
    headers = signature_headers([OTHER if case == "other secret" else SECRET], "m1", '{"type":"x"}', now)
    if case == "no headers":
        headers = {}
    if case == "garbage":
        headers["webhook-signature"] = "v1,###"
    body = b'{"type":"y"}' if case == "changed body" else b'{"type":"x"}'
    with Receiver(SECRET) as receiver:
        async with httpx.AsyncClient(trust_env=False) as client:
            response = await client.post(receiver.url, content=body, headers=headers)
    assert response.status_code == 401
    assert [message.verified for message in receiver.received] == [False]
    assert receiver.verified() == []


async def test_answers_of_the_receiver_are_told_apart_over_real_http() -> None:
    with Receiver(SECRET, answers=[(503, {"retry-after": "7"}), 410, 204]) as receiver:
        sender = WebhookSender([endpoint(receiver.url)])
        found = [await sender.send("desk", f"m{n}", '{"type":"x"}', signed_at=datetime.now(UTC)) for n in range(3)]
        await sender.close()
    assert found == [RetryLater(reason="HTTP 503", after_ns=7 * NS, status=503), Disabled(reason="HTTP 410"), Delivered(status=204)]


async def test_port_where_nobody_listens_certainly_took_nothing() -> None:
    receiver = Receiver(SECRET)
    url = receiver.url
    receiver.stop()
    sender = WebhookSender([endpoint(url)])
    answer = await sender.send("desk", "m", "{}", signed_at=AT)
    await sender.close()
    assert isinstance(answer, RetryLater)
    assert not answer.sent


async def test_receiver_that_never_answers_is_given_up_in_time() -> None:
    gone = asyncio.Event()

    async def mute(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        gone.set()

    server = await asyncio.start_server(mute, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    sender = WebhookSender([endpoint(f"http://127.0.0.1:{port}/", timeout_s=0.2)])
    answer = await sender.send("desk", "m", "{}", signed_at=AT)
    await sender.close()
    await gone.wait()
    server.close()
    assert isinstance(answer, RetryLater)
    assert answer.sent


async def test_endless_refusal_is_cut_off() -> None:
    async def endless():  # type: ignore[no-untyped-def]
        while True:
            yield b"no " * 1000

    answer = await send("https://hooks.example.com/a", Wire(lambda _: httpx.Response(500, content=endless())))
    assert isinstance(answer, RetryLater)
    assert len(answer.reason) < 300


ASKS = '{"retry_after":'
async def test_a_resolver_that_hangs_is_given_up_in_time() -> None:
    async def resolve(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return ()

    sender = WebhookSender([endpoint("https://hooks.example.com/a", timeout_s=0.05)], resolve=resolve)
    answer = await asyncio.wait_for(sender.send("desk", "m", "{}", signed_at=AT), 5)
    await sender.close()
    assert isinstance(answer, RetryLater)
    assert not answer.sent


async def test_stuck_chat_services_leave_the_loops_threads_to_others() -> None:
    free = threading.Event()
    on: set[str] = set()

    def stuck(*_: str) -> bool:
        on.add(threading.current_thread().name)
        return free.wait(10)

    sender = WebhookSender([endpoint("slack://a/b/c", format="apprise", timeout_s=0.2)], breadth=stuck)
    answers = await asyncio.gather(*(sender.send("desk", "m", "{}", signed_at=AT) for _ in range(40)))
    assert all(isinstance(answer, RetryLater) for answer in answers)
    assert await asyncio.wait_for(asyncio.to_thread(lambda: 7), 5) == 7
    free.set()
    await sender.close()
    assert len(on) <= 2
    assert all(name.startswith("apprise") for name in on)


HOSTILE = ["[" * 1_024, ASKS + "[" * 1_000, ASKS + "9" * 1_000 + "}", ASKS + "1e999}", "7", '"parameters"']


@pytest.mark.parametrize("body", HOSTILE)
async def test_what_a_receiver_answers_never_raises(body: str) -> None:
    for header in ({}, {"retry-after": "9" * 5_000}):
        wire = Wire(lambda _, header=header: httpx.Response(503, content=body.encode(), headers=header))  # type: ignore[misc]
        answer = await send("https://hooks.example.com/a", wire)
        assert isinstance(answer, RetryLater)
        assert answer.status == 503
        assert answer.after_ns in (None, DAY_NS)


async def test_a_fault_at_a_try_is_a_later_try_and_hides_what_is_secret() -> None:
    def broken(_: httpx.Request) -> httpx.Response:
        raise RuntimeError("no state for https://hooks.example.com/T0123456789/B")

    answer = await send("https://hooks.example.com/T0123456789/B", Wire(broken))
    assert isinstance(answer, RetryLater)
    assert answer.sent  # nothing is known: it may have been taken
    assert "RuntimeError" in answer.reason
    assert "T0123456789" not in answer.reason


CALL = CallWebhook(
    action_id="run-1.pay.0.1",
    run_id="run-1",
    runbook="top-up",
    endpoint="desk",
    payload={"amount": 5},
    expires_at=parse_iso("2026-02-03T17:01:00Z"),
)


def executor(wire: Wire, at: str = "2026-02-03T17:00:00Z") -> WebhookExecutor:
    sender = WebhookSender(
        [endpoint("https://hooks.example.com/a")], resolve=resolving("93.184.216.34"), transport=httpx.MockTransport(wire)
    )
    return WebhookExecutor(sender, wall=lambda: AT, at=lambda: parse_iso(at))


async def test_executor_posts_the_payload_under_the_action_id() -> None:
    wire = Wire()
    outcome = await executor(wire).send(CALL)
    assert outcome.status == "done"
    assert wire.requests[0].headers["webhook-id"] == "run-1.pay.0.1"
    sent = json.loads(wire.requests[0].content)["data"]
    assert (sent["payload"], sent["expires_at"]) == ({"amount": 5}, "2026-02-03T17:01:00.000Z")


async def test_executor_tells_refused_from_unknown() -> None:
    def broken(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadTimeout("late", request=request)

    def closed(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    assert (await executor(Wire(lambda _: httpx.Response(400))).send(CALL)).status == "rejected"
    assert (await executor(Wire(lambda _: httpx.Response(410))).send(CALL)).status == "rejected"
    for answer in (broken, lambda _: httpx.Response(500), lambda _: httpx.Response(408)):
        with pytest.raises(UnknownOutcome):
            await executor(Wire(answer)).send(CALL)
    for answer in (closed, lambda _: httpx.Response(429, headers={"retry-after": "3"})):
        with pytest.raises(EdgeError) as caught:
            await executor(Wire(answer)).send(CALL)
        assert caught.value.retryable


async def test_executor_sends_nothing_after_the_expiry() -> None:
    wire = Wire()
    assert (await executor(wire, "2026-02-03T17:01:00Z").send(CALL)).status == "failed"
    assert wire.requests == []


async def test_executor_cannot_be_looked_up() -> None:
    with pytest.raises(UnknownOutcome):
        await executor(Wire()).lookup(CALL)
