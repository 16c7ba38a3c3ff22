"""The door: tokens, sessions, roles, cross-site requests, host names, rate limits, and what is too large or too slow."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import stat
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import httpx
import pytest

from daemon.errors import UserError
from daemon.web.buckets import WHO_MAX, Buckets
from daemon.web.desk import NEEDED, RANK, Person, may
from daemon.web.door import Doorkeeper
from daemon.web.patience import patient
from daemon.web.sessions import IDLE_S, LIFE_S, SESSIONS_MAX, Sessions
from daemon.web.stage import local
from daemon.web.threshold import Threshold
from daemon.web.tokens import OPERATOR, TokenFile, digest_of, new_secret, read_tokens, write_operator_token
from tests.surface_world import BASE, CREATED, StoppedClock, Surface, serve

HALT = "/api/v1/halt"
READ = "/api/v1/status"


@pytest.fixture
def surface(tmp_path: Path) -> Surface:
    return Surface(tmp_path)


def code(response: httpx.Response) -> str:
    found: str = response.json()["error"]["code"]
    return found


# --- tokens ----------------------------------------------------------------------------------------------------------------


def test_a_tokens_file_holds_hashes_and_no_secret_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    path = tmp_path / "var" / "tokens.yaml"
    secret = TokenFile(path).add("ana", "approve", at=CREATED, expires="2027-01-01T00:00:00Z")
    text = path.read_text(encoding="utf-8")
    assert secret not in text
    assert digest_of(secret) in text
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (token,) = read_tokens(path)
    assert (token.name, token.role, token.created, token.expires) == ("ana", "approve", CREATED, "2027-01-01T00:00:00Z")
    assert len({new_secret() for _ in range(100)}) == 100
    assert all(len(new_secret()) >= len("reefd_") + 43 for _ in range(10)), "256 bit"


def test_a_token_expires_and_a_revoked_one_is_refused_at_once(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.yaml")
    secret = tokens.add("ana", "admin", at=CREATED, expires="2027-01-01T00:00:00Z")
    ends_s = 1_798_761_600.0
    assert tokens.find(secret, at_s=ends_s - 1) is not None
    assert tokens.find(secret, at_s=ends_s) is None
    lasting = tokens.add("ben", "view", at=CREATED)
    assert tokens.find(lasting, at_s=ends_s) is not None
    tokens.remove("ben")
    assert tokens.find(lasting, at_s=0.0) is None
    with pytest.raises(UserError, match=r"there is no token named 'ben' .* there is: ana"):
        tokens.remove("ben")


@pytest.mark.parametrize(
    ("name", "role", "said"),
    [
        ("ana", "view", "there is a token named 'ana'"),
        ("Ana", "view", "is no name for a token"),
        ("a b", "view", "is no name for a token"),
        ("../x", "view", "is no name for a token"),
        (OPERATOR, "view", "is no name for a token"),
        ("ben", "root", "there is no role 'root'; write view, approve, admin"),
    ],
)
def test_a_token_with_a_wrong_name_or_role_is_not_made(tmp_path: Path, name: str, role: str, said: str) -> None:
    tokens = TokenFile(tmp_path / "tokens.yaml")
    tokens.add("ana", "admin", at=CREATED)
    with pytest.raises(UserError, match=said):
        tokens.add(name, role, at=CREATED)
    assert [token.name for token in tokens.tokens()] == ["ana"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("tokens: [", "it is written by"),
        ("", "it is written by"),
        ("people: []\n", "it holds one key"),
        ("tokens: x\n", "is a list"),
        ("tokens:\n  - name: ana\n    role: boss\n    sha256: " + "a" * 64 + "\n", "found the role 'boss'"),
        ("tokens:\n  - name: operator\n    role: admin\n    sha256: " + "a" * 64 + "\n", "found the name 'operator'"),
        ("tokens:\n  - name: ana\n    role: view\n    sha256: abc\n", "64 hexadecimal digits"),
        ("tokens:\n  - name: ana\n    role: view\n    sha256: " + "a" * 64 + "\n    expires: soon\n", "found expires 'soon'"),
        ("tokens:\n" + ("  - name: ana\n    role: view\n    sha256: " + "a" * 64 + "\n") * 2, "two tokens have one name"),
    ],
)
def test_a_tokens_file_with_a_mistake_admits_nobody_and_says_why(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "tokens.yaml"
    operator = write_operator_token(tmp_path / "operator.token", at=CREATED)
    tokens = TokenFile(path, fixed=(operator,))
    secret = tokens.add("ana", "admin", at=CREATED)
    assert tokens.find(secret, at_s=0.0) is not None
    path.write_text(text, encoding="utf-8")
    assert tokens.find(secret, at_s=0.0) is None
    assert said in tokens.problem
    own = (tmp_path / "operator.token").read_text(encoding="utf-8").strip()
    found = tokens.find(own, at_s=0.0)
    assert found is not None, "the local command line goes on working"
    assert (found.name, found.role) == (OPERATOR, "admin")


def test_a_tokens_file_that_everybody_may_write_admits_nobody(tmp_path: Path) -> None:
    tokens = TokenFile(tmp_path / "tokens.yaml")
    secret = tokens.add("ana", "admin", at=CREATED)
    os.chmod(tmp_path / "tokens.yaml", 0o666)
    assert tokens.find(secret, at_s=0.0) is None
    assert "chmod 600" in tokens.problem
    os.chmod(tmp_path / "tokens.yaml", 0o600)
    assert tokens.find(secret, at_s=0.0) is not None


def test_the_operators_token_is_readable_by_its_user_only_and_new_each_time(tmp_path: Path) -> None:
    path = tmp_path / "operator.token"
    first = write_operator_token(path, at=CREATED)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    second = write_operator_token(path, at=CREATED)
    assert first.digest != second.digest
    assert digest_of(path.read_text(encoding="utf-8").strip()) == second.digest
    with pytest.raises(UserError, match=r"`http\.operator_token` of the settings names it"):
        write_operator_token(path / "below-a-file", at=CREATED)


# --- who may what ----------------------------------------------------------------------------------------------------------


def test_reading_is_open_where_it_is_configured_and_writing_never_is(surface: Surface) -> None:
    async def asked() -> tuple[httpx.Response, httpx.Response]:
        async with surface.client() as client:
            return await client.get(READ), await client.post(HALT)

    read, write = asyncio.run(asked())
    assert read.status_code == 200
    assert (write.status_code, code(write)) == (401, "sign_in_needed")
    assert write.headers["www-authenticate"] == 'Bearer realm="reefd"'
    assert "reefd token new" in write.json()["error"]["message"]
    assert surface.desk.commands == []


async def test_reading_needs_a_token_where_it_is_not_open(tmp_path: Path) -> None:
    surface = Surface(tmp_path, open_reading=False)
    async with surface.client() as nobody, surface.client("vic") as vic:
        for path in (READ, "/metrics", "/api/v1/stream", "/api/v1/journal", "/api/v1/whoami"):
            assert (await nobody.get(path)).status_code == 401, path
        assert (await vic.get(READ)).status_code == 200
        gate = await nobody.get("/api/v1/gate?market=dydx:ETH-USD")
        assert (gate.status_code, gate.json()["open"]) == (401, False)
        assert (await nobody.get("/healthz")).status_code == 200


@pytest.mark.parametrize("verb", sorted(NEEDED))
def test_every_verb_is_refused_to_a_role_that_is_too_low(verb: str) -> None:
    for role, rank in RANK.items():
        person = Person(name="x", role=role, door="token")
        assert may(person, verb) is (rank >= RANK[NEEDED[verb]])
    assert not may(Person(name="", role="admin", door="open"), verb), "nobody may change anything"


async def test_a_view_token_changes_nothing_on_any_path(surface: Surface) -> None:
    paths = [path for path, methods in (await document(surface))["paths"].items() if "post" in methods]
    assert len(paths) >= 13
    async with surface.client("vic") as vic, surface.client() as nobody:
        for path in paths:
            path = path.replace("{run_id}", surface.desk.current.needs[0].run_id).replace("{name}", "desk")
            path = path.replace("{delivery_id}", "msg_02")
            body = {"digest": surface.desk.current.needs[0].digest, "target": "x", "for": "2h", "reason": "y"}
            assert (await nobody.post(path, json=body)).status_code == 401, path
            refused = await vic.post(path, content=b"not even json")
            assert (refused.status_code, code(refused)) == (403, "role_too_low"), path
    assert surface.desk.commands == []
    assert surface.desk.asked == []


async def document(surface: Surface) -> dict[str, dict[str, dict[str, object]]]:
    async with surface.client() as client:
        found: dict[str, dict[str, dict[str, object]]] = (await client.get("/api/v1/openapi.json")).json()
        return found


async def test_a_person_who_approves_may_halt_but_not_resume(surface: Surface) -> None:
    async with surface.client("ben") as ben, surface.client("ana") as ana:
        assert (await ben.post(HALT, json={"reason": "maintenance"})).status_code == 200
        refused = await ben.post("/api/v1/resume")
        assert (refused.status_code, code(refused)) == (403, "role_too_low")
        assert surface.desk.current.halted
        assert (await ana.post("/api/v1/resume")).status_code == 200
    assert [(command.verb, command.actor) for command in surface.desk.commands] == [("halt", "ben"), ("resume", "ana")]


@pytest.mark.parametrize(
    "shown", ["Bearer wrong", "Bearer reefd_" + "x" * 43, "Basic YW5hOmFuYQ==", "Bearer", "reefd_x", "Bearer " + "x" * 4000]
)
async def test_a_wrong_token_is_refused_even_for_reading(surface: Surface, shown: str) -> None:
    async with surface.client(authorization=shown) as client:
        refused = await client.get(READ)
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["www-authenticate"]


async def test_a_token_works_until_its_file_says_otherwise(surface: Surface) -> None:
    async with surface.client("ben") as ben:
        assert (await ben.post(HALT)).status_code == 200
        surface.tokens.remove("ben")
        assert (await ben.post(HALT)).status_code == 401


# --- browsers --------------------------------------------------------------------------------------------------------------


async def sign_in(client: httpx.AsyncClient, secret: str, **headers: str) -> httpx.Response:
    return await client.post("/login", data={"token": secret, "next": "/runs"}, headers={"origin": BASE, **headers})


async def csrf_of(surface: Surface, client: httpx.AsyncClient) -> str:
    session = surface.guard._sessions.find(client.cookies[surface.guard.cookie])
    assert session is not None
    return session.csrf


async def test_a_browser_signs_in_and_its_cookie_is_for_no_script_and_no_other_site(surface: Surface) -> None:
    async with surface.client() as browser:
        answer = await sign_in(browser, surface.secrets["ben"])
        assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
        cookie = answer.headers["set-cookie"]
        assert "HttpOnly" in cookie
        assert "SameSite=strict" in cookie
        assert "Secure" not in cookie
        assert surface.secrets["ben"] not in cookie
        me = (await browser.get("/api/v1/whoami")).json()
        assert (me["name"], me["role"], me["door"]) == ("ben", "approve", "session")
        assert me["may"] == ["approve", "deny", "ack", "pause", "halt"]


async def test_behind_https_the_cookie_is_sent_encrypted_only(tmp_path: Path) -> None:
    surface = Surface(tmp_path, public_url="https://reefd.example.com")
    async with surface.client(base="https://reefd.example.com") as browser:
        answer = await sign_in(browser, surface.secrets["ben"], origin="https://reefd.example.com")
        assert answer.status_code == 303
        assert answer.headers["set-cookie"].startswith("__Host-reefd=")
        assert "Secure" in answer.headers["set-cookie"]
        assert answer.headers["strict-transport-security"]


async def test_a_change_by_cookie_needs_the_sessions_csrf(surface: Surface) -> None:
    async with surface.client() as browser:
        await sign_in(browser, surface.secrets["ben"])
        csrf = await csrf_of(surface, browser)
        for headers in ({}, {"x-csrf-token": "wrong"}, {"x-csrf-token": csrf[:-1]}):
            refused = await browser.post(HALT, headers={"origin": BASE, **headers})
            assert (refused.status_code, code(refused)) == (403, "wrong_csrf")
        refused = await browser.post(HALT, data={"csrf": "wrong"}, headers={"origin": BASE})
        assert code(refused) == "wrong_csrf"
        assert surface.desk.commands == []
        assert (await browser.post(HALT, headers={"origin": BASE, "x-csrf-token": csrf})).status_code == 200
    assert [command.actor for command in surface.desk.commands] == ["ben"]


async def test_the_csrf_of_another_session_does_not_count(surface: Surface) -> None:
    async with surface.client() as ben, surface.client() as ana:
        await sign_in(ben, surface.secrets["ben"])
        await sign_in(ana, surface.secrets["ana"])
        refused = await ben.post(HALT, headers={"origin": BASE, "x-csrf-token": await csrf_of(surface, ana)})
    assert code(refused) == "wrong_csrf"


@pytest.mark.parametrize(
    "headers",
    [
        {"origin": "https://evil.example"},
        {"origin": "null"},
        {"origin": "http://127.0.0.1:9999"},
        {"origin": "https://127.0.0.1:8470"},
        {"origin": BASE, "sec-fetch-site": "cross-site"},
        {"origin": BASE, "sec-fetch-site": "same-site"},
    ],
)
async def test_a_change_by_cookie_from_another_site_is_refused(surface: Surface, headers: dict[str, str]) -> None:
    async with surface.client() as browser:
        await sign_in(browser, surface.secrets["ben"])
        refused = await browser.post(HALT, headers={"x-csrf-token": await csrf_of(surface, browser), **headers})
        assert (refused.status_code, code(refused)[:6]) == (403, "wrong_")
        assert (await sign_in(browser, surface.secrets["ana"], **headers)).status_code == 403, "nor does it sign anybody in"
    assert surface.desk.commands == []


async def test_signing_out_ends_the_session_and_needs_its_csrf(surface: Surface) -> None:
    async with surface.client() as browser:
        await sign_in(browser, surface.secrets["ben"])
        kept = browser.cookies[surface.guard.cookie]
        csrf = await csrf_of(surface, browser)
        assert (await browser.post("/logout", headers={"origin": BASE})).status_code == 403
        assert (await browser.post("/logout", data={"csrf": csrf}, headers={"origin": BASE})).status_code == 303
        browser.cookies.set(surface.guard.cookie, kept)
        assert (await browser.get("/api/v1/whoami")).json()["door"] == "open"
        assert (await browser.post(HALT, headers={"origin": BASE, "x-csrf-token": csrf})).status_code == 401


async def test_a_session_ends_with_its_token_and_takes_the_role_that_it_has_now(surface: Surface) -> None:
    async with surface.client() as browser:
        await sign_in(browser, surface.secrets["ana"])
        text = surface.path.read_text(encoding="utf-8")
        surface.path.write_text(text.replace("role: admin", "role: view"), encoding="utf-8")
        assert (await browser.get("/api/v1/whoami")).json()["role"] == "view"
        surface.tokens.remove("ana")
        assert (await browser.get("/api/v1/whoami")).json()["name"] == ""


def test_a_session_ends_after_an_hour_alone_and_after_twelve_in_any_case() -> None:
    clock = StoppedClock()
    sessions = Sessions(clock=clock)
    session_id = sessions.begin("token")
    for _ in range(int(LIFE_S / IDLE_S * 2) - 1):
        clock.now += IDLE_S / 2
        assert sessions.find(session_id) is not None
    clock.now += IDLE_S / 2
    assert sessions.find(session_id) is None
    session_id = sessions.begin("token")
    clock.now += IDLE_S
    assert sessions.find(session_id) is None


def test_sessions_are_kept_as_hashes_and_are_bounded() -> None:
    sessions = Sessions(clock=StoppedClock())
    first, second = sessions.begin("token"), sessions.begin("token")
    assert first not in str(sessions._kept)
    assert sessions.find(first) is not None, "seen last: not the one that makes room"
    for _ in range(SESSIONS_MAX - 1):
        sessions.begin("token")
    assert sessions.find(second) is None
    assert sessions.find(first) is not None


@pytest.mark.parametrize(
    ("target", "led"),
    [
        ("/runs?status=done", "/runs?status=done"),
        ("", "/"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example", "/"),
        ("javascript:alert(1)", "/"),
        ("/a\nb", "/"),
        ("runs", "/"),
        ("http://[", "/"),
    ],
)
def test_signing_in_never_leads_to_another_site(target: str, led: str) -> None:
    assert local(target) == led


# --- how often -------------------------------------------------------------------------------------------------------------


async def test_wrong_sign_ins_are_limited_by_address_and_not_those_of_others(surface: Surface) -> None:
    async with surface.client(address="10.0.0.9") as thief, surface.client() as ben:
        for _ in range(5):
            assert (await sign_in(thief, "reefd_" + "x" * 43)).status_code == 401
        refused = await sign_in(thief, "reefd_" + "x" * 43)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 12
        assert (await sign_in(ben, surface.secrets["ben"])).status_code == 303
        assert (await sign_in(thief, surface.secrets["ben"])).status_code == 303, "who shares an address with a thief is not locked out"
        surface.clock.now += 12
        assert (await sign_in(thief, "reefd_" + "x" * 43)).status_code == 401


async def test_wrong_tokens_are_limited_but_a_right_one_is_never_kept_out(surface: Surface) -> None:
    async with surface.client(authorization="Bearer reefd_" + "x" * 43) as thief, surface.client("ben") as ben:
        answers = [(await thief.get(READ)).status_code for _ in range(40)]
        assert answers[:30] == [401] * 30
        assert set(answers[30:]) == {429}
        assert (await ben.post(HALT)).status_code == 200


async def test_changes_are_limited_by_person_and_a_halt_never_is(surface: Surface) -> None:
    body = {"target": "", "for": "1h", "reason": "again"}
    async with surface.client("ben") as ben, surface.client("ana") as ana:
        answers = [await ben.post("/api/v1/pause", json=body) for _ in range(20)]
        assert [answer.status_code for answer in answers] == [200] * 15 + [429] * 5
        assert answers[-1].headers["retry-after"] == "2"
        assert code(answers[-1]) == "too_many_requests"
        assert (await ana.post("/api/v1/pause", json=body)).status_code == 200
        for _ in range(50):
            assert (await ben.post(HALT)).status_code == 200
        surface.clock.now += 2
        assert (await ben.post("/api/v1/pause", json=body)).status_code == 200


def test_a_bucket_fills_with_time_and_many_names_do_not_fill_the_memory() -> None:
    clock = StoppedClock()
    buckets = Buckets(per_minute=60, burst=2, clock=clock)
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    assert buckets.wait_s("b") == 0.0
    clock.now += 0.25
    assert buckets.take("a") == pytest.approx(0.75)
    clock.now += 1_000
    assert [buckets.take("a") for _ in range(3)] == [0.0, 0.0, 1.0]
    for number in range(WHO_MAX + 10):
        buckets.take(str(number))
    assert len(buckets._levels) == WHO_MAX


# --- where, how large, how slow --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8470", "127.0.0.1.evil.example", "", "localhost@evil.example", "[::2]", "::1:x"]
)
async def test_a_host_that_is_not_ours_is_refused(surface: Surface, host: str) -> None:
    async with surface.client("ana", host=host) as client:
        for path in (READ, "/healthz", "/login"):
            refused = await client.get(path)
            assert (refused.status_code, code(refused)) == (421, "wrong_host")
        gate = await client.get("/api/v1/gate?market=dydx:ETH-USD")
        assert gate.json()["open"] is False
        assert (await client.post(HALT)).status_code == 421
    assert surface.desk.commands == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1:8470", "localhost", "LOCALHOST:1", "[::1]:8470", "reefd.lan", "reefd.lan.:80", "reefd.example.com"]
)
async def test_a_host_of_ours_is_served(tmp_path: Path, host: str) -> None:
    surface = Surface(tmp_path, hosts=("reefd.lan",), public_url="https://reefd.example.com")
    async with surface.client(host=host) as client:
        assert (await client.get("/healthz")).status_code == 200


async def test_every_answer_tells_the_browser_to_trust_nothing_and_keep_nothing(surface: Surface) -> None:
    async with surface.client() as client:
        answers = [await client.get(path) for path in (READ, "/no-such-path", "/api/v1/gate", "/metrics", "/api/v1/world/nonsense")]
        answers.append(await client.post(HALT))
        answers.append(await client.get(READ, headers={"host": "evil.example"}))
    for answer in answers:
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "frame-ancestors 'none'" in policy
        assert "unsafe-inline" not in policy
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["referrer-policy"] == "same-origin"
        assert "access-control-allow-origin" not in answer.headers


async def test_a_body_that_is_too_large_is_refused_before_anybody_reads_it(surface: Surface) -> None:
    async def endless() -> object:
        for _ in range(100):
            yield b"x" * 10_000

    async with surface.client("ana") as client:
        refused = await client.post(HALT, content=b"x" * ((1 << 16) + 1))
        assert (refused.status_code, code(refused)) == (413, "too_large")
        refused = await client.post(HALT, content=endless())
        assert (refused.status_code, code(refused)) == (413, "too_large")
    assert surface.desk.commands == []


async def test_a_request_that_takes_too_long_is_ended_with_a_reason() -> None:
    started = asyncio.Event()

    async def stuck(scope: object, receive: object, send: object) -> None:
        started.set()
        await asyncio.Event().wait()

    limited = Threshold(stuck, ours=lambda _host: True, secure=False, request_s=0.05)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=limited), base_url=BASE) as client:
        answer = await client.get("/api/v1/gate?market=x")
    assert started.is_set()
    assert (answer.status_code, answer.json()["open"], code(answer)) == (503, False, "too_slow")
    assert answer.headers["retry-after"] == "5"


async def test_a_body_that_does_not_come_is_not_waited_for() -> None:
    async def never() -> object:
        yield b"{"
        await asyncio.Event().wait()

    async def reads(scope: object, receive: object, send: object) -> None:
        raise AssertionError("nobody reads half a body")

    limited = Threshold(reads, ours=lambda _host: True, secure=False, body_s=0.05)
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app=limited), base_url=BASE) as client:
        answer = await client.post(HALT, content=never())
    assert (answer.status_code, code(answer)) == (408, "too_slow")


@pytest.fixture
def address(surface: Surface) -> Iterator[tuple[str, int]]:
    with serve(surface.app) as url:
        parts = urlsplit(url)
        assert parts.hostname
        assert parts.port
        yield parts.hostname, parts.port


def exchange(address: tuple[str, int], request: bytes) -> bytes:
    """What a real server answers to bytes as they are."""
    with socket.create_connection(address, timeout=10) as connection:
        connection.sendall(request)
        answer = b""
        while chunk := connection.recv(65_536):
            answer += chunk
            if b"\r\n\r\n" in answer and b"Connection: close" not in request:
                break
        return answer


@pytest.mark.parametrize(
    ("head", "status"),
    [
        (b"POST /api/v1/halt HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 99999999\r\nConnection: close\r\n\r\n", b"413"),
        (b"GET /api/v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n", b"421"),
        (b"GET /api/v1/status HTTP/1.0\r\nConnection: close\r\n\r\n", b"421"),
        (b"GET //evil.example/%2e%2e/ HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"404"),
        (b"GET /api/v1/runs/%00%ff HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"422"),
        (b"BREW /api/v1/halt HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n", b"405"),
    ],
)
def test_a_real_server_refuses_what_no_client_would_send(address: tuple[str, int], head: bytes, status: bytes) -> None:
    assert exchange(address, head).split(b" ", 2)[1] == status


def closed(connection: socket.socket) -> bool:
    """Whether the server ends a connection, within ten seconds."""
    connection.settimeout(10)
    try:
        return connection.recv(1) == b""
    except ConnectionResetError:
        return True


def test_who_does_not_finish_asking_is_not_waited_for(surface: Surface) -> None:
    with serve(surface.app, http=patient(head_s=0.2)) as url:
        parts = urlsplit(url)
        where = (parts.hostname, parts.port)
        with socket.create_connection(where) as silent, socket.create_connection(where) as slow, httpx.Client() as client:
            slow.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n")
            assert client.get(url + "/healthz").status_code == 200
            assert closed(silent)
            assert closed(slow)
            assert client.get(url + "/healthz").status_code == 200, "one that asked is kept"


def test_a_second_request_that_is_not_finished_is_not_waited_for_either(surface: Surface) -> None:
    whole = b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    with serve(surface.app, http=patient(head_s=0.2)) as url:
        parts = urlsplit(url)
        with socket.create_connection((parts.hostname, parts.port), timeout=10) as connection:
            connection.sendall(whole)
            answer = b""
            while b'"why"' not in answer:
                answer += connection.recv(65_536)
            connection.sendall(whole[:20])
            while chunk := connection.recv(65_536):
                answer += chunk
            assert answer.count(b"HTTP/1.1 200") == 1


def test_connections_are_bounded_and_a_free_place_is_taken_again(surface: Surface) -> None:
    with serve(surface.app, http=patient(most=2)) as url:
        parts = urlsplit(url)
        where = (parts.hostname, parts.port)
        with socket.create_connection(where) as first, socket.create_connection(where):
            with socket.create_connection(where) as third:
                assert closed(third)
            first.sendall(b"GET /healthz HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            while first.recv(65_536):
                pass
        assert httpx.get(url + "/healthz").status_code == 200


def test_a_server_with_an_open_stream_stops(surface: Surface) -> None:
    began = time.monotonic()
    with serve(surface.app) as url:
        client = httpx.Client()
        stream = client.stream("GET", url + "/api/v1/stream", timeout=10)
        answer = stream.__enter__()
        lines = answer.iter_lines()
        assert next(lines).startswith(":")
        ended = time.monotonic()
    assert time.monotonic() - ended < 5, "the stream ended with the server"
    assert all(re.match(r"(:|retry|event|data|id|$)", line) for line in lines)
    stream.__exit__(None, None, None)
    client.close()
    assert time.monotonic() - began < 30


def test_a_run_id_with_slashes_and_colons_is_found_escaped_or_not(surface: Surface) -> None:
    run_id = surface.desk.current.running[0].run_id
    with serve(surface.app) as url:
        for text in (run_id, quote(run_id, safe=""), quote(run_id, safe="/")):
            assert httpx.get(f"{url}/api/v1/runs/{text}").json()["head"]["run_id"] == run_id


def test_a_doorkeeper_knows_its_own_names() -> None:
    guard = Doorkeeper(tokens=TokenFile(Path("none.yaml")), open_reading=True, hosts=("Reefd.LAN",))
    assert guard.is_ours("reefd.lan:8470")
    assert not guard.is_ours("reefd.lan.evil:8470")
