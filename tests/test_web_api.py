"""The API over a desk in memory: what is read, what is asked, how it says no, the gate, the stream, metrics and health."""

from __future__ import annotations

import asyncio
import json
import shutil
import subprocess
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from daemon.service.views import Command, Effect, GateAnswer, Happening, Now
from daemon.units import HOUR_NS, NS, iso, parse_iso
from daemon.web.asking import Asking
from daemon.web.desk import Person, Unavailable
from daemon.web.metrics import COUNTERS, GAUGES, HISTOGRAMS, LABELLED, exposition
from daemon.web.refusals import Refused
from daemon.web.streams import BEHIND_MAX, READERS_MAX_EACH, Streams
from tests.desk_fake import FakeDesk
from tests.surface_world import Surface, serve

ROOT = Path(__file__).parents[1]
BEN = Person(name="ben", role="approve", door="token")
PROMTOOL = shutil.which("promtool", path="/usr/local/bin:/usr/bin:/usr/sbin:/bin")


@pytest.fixture
def surface(tmp_path: Path) -> Surface:
    return Surface(tmp_path)


def code(response: httpx.Response) -> str:
    found: str = response.json()["error"]["code"]
    return found


# --- reading ---------------------------------------------------------------------------------------------------------------


async def test_everything_that_a_desk_shows_can_be_read(surface: Surface) -> None:
    run_id = surface.desk.current.running[0].run_id
    keys = {
        "status": "line", "whoami": "role", "world/market": "entities", "world/market/dydx:ETH-USD": "readings",
        "history/market/dydx:ETH-USD": "series", "runbooks": "runbooks", "runbooks/funding-spike": "source", "instances": "instances",
        "why/funding-spike": "sentence", "episodes": "episodes", "runs": "runs", f"runs/{run_id}": "moments", "journal": "entries",
        "approvals": "approvals", "gates": "gates", "routes": "entities", "stress": "figures", "webhooks": "endpoints",
        "deliveries": "deliveries", "deadletters": "deliveries", "gate?market=dydx:ETH-USD": "open",
    }  # fmt: skip
    async with surface.client() as client:
        for path, key in keys.items():
            answer = await client.get(f"/api/v1/{path}")
            assert answer.status_code == 200, (path, answer.text)
            assert answer.json()[key] not in (None, [], ""), path


async def test_an_infinite_or_unknown_figure_is_null(surface: Surface) -> None:
    first = replace(surface.desk.current.accounts[0], survivable_move=float("inf"), margin_ratio=float("nan"), equity_usd=None)
    surface.desk.current = replace(surface.desk.current, accounts=(first,))
    async with surface.client() as client:
        account = (await client.get("/api/v1/status")).json()["accounts"][0]
    assert (account["survivable_move"], account["margin_ratio"], account["equity_usd"]) == (None, None, None)


async def test_runs_are_read_page_by_page(surface: Surface) -> None:
    seen: list[str] = []
    before = ""
    async with surface.client() as client:
        while True:
            page = (await client.get("/api/v1/runs", params={"limit": 3, "before": before})).json()
            seen += [run["run_id"] for run in page["runs"]]
            if page["next_before"] is None:
                break
            before = page["next_before"]
        whole = (await client.get("/api/v1/runs", params={"limit": 1000})).json()
        done = (await client.get("/api/v1/runs", params={"status": "done"})).json()["runs"]
    assert seen == [run["run_id"] for run in whole["runs"]]
    assert len(seen) > 3
    assert done
    assert {run["status"] for run in done} == {"done"}


async def test_the_journal_is_searched_with_bounds(surface: Surface) -> None:
    at = surface.desk._entries[2].at
    async with surface.client() as client:
        page = (await client.get("/api/v1/journal", params={"limit": 2})).json()
        assert len(page["entries"]) == 2
        older = (await client.get("/api/v1/journal", params={"limit": 1000, "before": page["next_before"]})).json()
        assert older["entries"][0]["position"] < page["entries"][-1]["position"]
        since = (await client.get("/api/v1/journal", params={"since": at})).json()["entries"]
        assert len(since) == 3
        records = (await client.get("/api/v1/journal", params={"role": "record", "type": since[0]["type"]})).json()["entries"]
        assert {entry["type"] for entry in records} <= {since[0]["type"]}


async def test_readings_can_be_chosen(surface: Surface) -> None:
    async with surface.client() as client:
        every = (await client.get("/api/v1/world/market")).json()["entities"][0]["readings"]
        name = every[1]["signal"]
        chosen = (await client.get("/api/v1/world/market", params={"signal": [name]})).json()["entities"]
        one = (await client.get("/api/v1/world/market", params={"limit": 1})).json()["entities"]
    assert len(every) > 1
    assert {reading["signal"] for entity in chosen for reading in entity["readings"]} == {name}
    assert len(one) == 1


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [
        ("runbooks/funding-spik", 404, "there are funding-spike"),
        ("runs/none/such/1", 404, "no run is called"),
        ("why/funding-spike?entity=x", 404, "has no instance on 'x'"),
        ("world/market/dydx:NONE-USD", 404, "no market is called"),
        ("world/planet", 422, "kind: input should be 'portfolio'"),
        ("runs?limit=0", 422, "limit: input should be greater than or equal to 1"),
        ("runs?limit=1001", 422, "limit:"),
        ("runs?status=odd", 422, "status:"),
        ("journal?since=yesterday", 422, "write an ISO-8601 time"),
        ("journal?before=-1", 422, "before:"),
        ("stress/reports/nothing.html", 404, "no report is called"),
        ("stress/reports/..%2f..%2fetc%2fpasswd", 422, "name: string should match pattern"),
        ("nothing", 404, "there is no such path; /api/v1/openapi.json lists them"),
        ("world/market?signal=" + "&signal=".join("abc" for _ in range(51)), 422, "signal:"),
    ],
)
async def test_what_cannot_be_answered_says_what_to_write(surface: Surface, path: str, status: int, said: str) -> None:
    async with surface.client() as client:
        answer = await client.get(f"/api/v1/{path}")
    assert answer.status_code == status
    assert said in answer.json()["error"]["message"]
    assert set(answer.json()) == {"error"}


async def test_a_report_is_a_page_that_can_load_and_run_nothing(surface: Surface) -> None:
    async with surface.client() as client:
        name = (await client.get("/api/v1/stress")).json()["reports"][0]
        page = await client.get(f"/api/v1/stress/reports/{name}")
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "sandbox" in policy
    assert "script-src" not in policy


async def test_the_document_describes_and_bounds_every_parameter(surface: Surface) -> None:
    async with surface.client() as client:
        document = (await client.get("/api/v1/openapi.json")).json()
        assert (await client.get("/docs")).status_code == 404
        assert (await client.get("/redoc")).status_code == 404
    assert document["info"]["version"] == "1.2.3"
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            assert operation["summary"], path
            if method == "post":
                assert operation["security"] == [{"token": []}], path
                assert {"401", "403", "409", "429", "503"} <= set(operation["responses"]), path
            for parameter in operation.get("parameters", ()):
                assert parameter.get("description") or "Idempotency" in parameter["name"], (path, parameter["name"])
                assert _bounded(parameter["schema"]), (path, parameter)
    for name, schema in document["components"]["schemas"].items():
        if name.endswith("Body"):
            assert schema["additionalProperties"] is False
            assert all(_bounded(field) for field in schema["properties"].values()), name


def _bounded(schema: Mapping[str, object]) -> bool:
    variants = schema.get("anyOf")
    if isinstance(variants, list):
        return all(_bounded(variant) for variant in variants if variant != {"type": "null"})
    return any(key in schema for key in ("enum", "maxLength", "maximum", "maxItems", "$ref", "const"))


async def test_the_page_of_the_api_names_every_path(surface: Surface) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    async with surface.client() as client:
        paths = (await client.get("/api/v1/openapi.json")).json()["paths"]
    for path in paths:
        words = [word for word in path.removeprefix("/api/v1/").split("/") if word and not word.startswith("{")]
        assert all(word in page for word in words), path


def test_the_gate_of_the_docs_says_no_to_everything_but_a_yes(surface: Surface) -> None:
    page = (ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    source = page.partition("```python\n")[2].partition("```")[0]
    assert "def may_open" in source
    with serve(surface.app) as url:
        scope: dict[str, Callable[[str], bool]] = {}
        exec(source.replace("http://127.0.0.1:8470", url), scope)  # the example itself, as a reader would paste it
        may_open = scope["may_open"]
        assert may_open("dydx:ETH-USD") is True
        assert may_open("dydx:NONE-USD") is False
        surface.desk.current = replace(surface.desk.current, openings_halted=True)
        assert may_open("dydx:ETH-USD") is False
        surface.desk.unavailable = "the loop stands"
        assert may_open("dydx:ETH-USD") is False
    assert may_open("dydx:ETH-USD") is False, "nobody listens there any more"


async def test_a_desk_that_does_not_answer_is_a_503_with_its_reason(surface: Surface) -> None:
    surface.desk.unavailable = "the loop has not turned for 12 s"
    async with surface.client("ana") as client:
        for path in ("status", "runs", "world/market", "journal", "runbooks/funding-spike", "instances"):
            answer = await client.get(f"/api/v1/{path}")
            assert (answer.status_code, answer.json()["error"]["message"]) == (503, "the loop has not turned for 12 s"), path
            assert answer.headers["retry-after"]
        answer = await client.post("/api/v1/ack", json={"target": "x"})
        assert (answer.status_code, code(answer)) == (503, "unavailable")


async def test_a_fault_of_ours_tells_no_secrets_and_closes_the_gate(tmp_path: Path) -> None:
    class Broken(FakeDesk):
        async def now(self) -> Now:
            raise ValueError("secret")

        async def gate(self, market: str) -> GateAnswer:
            raise ZeroDivisionError("secret")

    surface = Surface(tmp_path)
    surface.app = Surface(_folder(tmp_path), desk=Broken()).app
    async with surface.client() as client:
        answers = [await client.get("/api/v1/status"), await client.get("/api/v1/gate?market=dydx:ETH-USD")]
    assert [answer.status_code for answer in answers] == [500, 500]
    assert answers[1].json()["open"] is False
    assert all("secret" not in answer.text for answer in answers)
    assert all(answer.headers["cache-control"] == "no-store" for answer in answers)


def _folder(parent: Path) -> Path:
    folder = parent / "other"
    folder.mkdir()
    return folder


# --- the gate --------------------------------------------------------------------------------------------------------------


async def test_the_gate_is_open_only_when_the_desk_says_so(surface: Surface) -> None:
    async with surface.client() as client:
        is_open = (await client.get("/api/v1/gate?market=dydx:ETH-USD")).json()
        surface.desk.current = replace(surface.desk.current, openings_halted=True)
        closed = (await client.get("/api/v1/gate?market=dydx:ETH-USD")).json()
    assert (is_open["open"], is_open["market"]) == (True, "dydx:ETH-USD")
    assert set(is_open) == {"market", "open", "why", "at"}
    assert (closed["open"], closed["why"]) == (False, "openings are halted by a person")


@pytest.mark.parametrize(
    ("query", "status"),
    [
        ("", 422),
        ("?market=", 422),
        ("?Market=dydx:ETH-USD", 422),
        ("?market=dydx:NONE-USD", 404),
        ("?market=dydx:ETH-USD&market=dydx:BTC-USD", 422),
        ("?market=" + "x" * 300, 422),
        ("?market=dydx:ETH-USD%00", 422),
    ],
)
async def test_the_gate_of_what_is_not_one_known_market_is_closed(surface: Surface, query: str, status: int) -> None:
    async with surface.client() as client:
        answer = await client.get(f"/api/v1/gate{query}")
        by_post = await client.post(f"/api/v1/gate{query}")
    assert (answer.status_code, answer.json()["open"]) == (status, False)
    assert answer.json()["why"]
    assert answer.headers["cache-control"] == "no-store"
    assert (by_post.status_code, by_post.json()["open"]) == (405, False)


async def test_the_gate_of_a_desk_that_does_not_answer_or_answers_for_another_is_closed(tmp_path: Path) -> None:
    class Confused(FakeDesk):
        async def gate(self, market: str) -> GateAnswer:
            return GateAnswer(market="dydx:OTHER-USD", open=True, why="", at="")

    surface = Surface(tmp_path)
    surface.desk.unavailable = "the loop has not turned for 12 s"
    async with surface.client() as client:
        answer = await client.get("/api/v1/gate?market=dydx:ETH-USD")
        assert (answer.status_code, answer.json()["open"], answer.json()["market"]) == (503, False, "dydx:ETH-USD")
        surface.app = Surface(_folder(tmp_path), desk=Confused()).app
    async with surface.client() as client:
        answer = await client.get("/api/v1/gate?market=dydx:ETH-USD")
        assert (answer.status_code, answer.json()["open"]) == (503, False)


# --- asking ----------------------------------------------------------------------------------------------------------------


async def test_a_plan_is_approved_by_its_digest_only(surface: Surface) -> None:
    need = surface.desk.current.needs[0]
    async with surface.client("ben") as ben:
        for body in ({}, {"digest": ""}, {"digest": need.digest, "also": 1}, [], "x", None):
            assert (await ben.post(f"/api/v1/approvals/{need.run_id}/approve", json=body)).status_code == 422
        wrong = await ben.post(f"/api/v1/approvals/{need.run_id}/approve", json={"digest": "0" * 64})
        assert (wrong.status_code, code(wrong)) == (409, "did_nothing")
        assert "the plan is another one by now" in wrong.json()["error"]["message"]
        assert surface.desk.current.needs[0] is need
        done = await ben.post(f"/api/v1/runs/{need.run_id}/approve", json={"digest": need.digest, "reason": "looks right"})
        assert (done.status_code, done.json()["done"]) == (200, True)
    command = surface.desk.commands[-1]
    assert (command.verb, command.actor, command.target, command.digest) == ("approve", "ben", need.run_id, need.digest)
    assert command.reason == "looks right"


async def test_a_run_that_is_not_there_or_waits_for_nothing_is_told_apart(surface: Surface) -> None:
    idle = surface.desk.current.recent[0].run_id
    async with surface.client("ben") as ben:
        missing = await ben.post("/api/v1/approvals/no/such/run/approve", json={"digest": "abc"})
        assert (missing.status_code, code(missing)) == (404, "not_known")
        waiting = await ben.post(f"/api/v1/approvals/{idle}/deny")
        assert (waiting.status_code, code(waiting)) == (409, "did_nothing")


async def test_a_denial_needs_no_digest(surface: Surface) -> None:
    need = surface.desk.current.needs[0]
    async with surface.client("ben") as ben:
        assert (await ben.post(f"/api/v1/approvals/{need.run_id}/deny", json={"reason": "no"})).status_code == 200
    assert surface.desk.commands[-1].verb == "deny"


async def test_a_pause_ends_says_why_and_names_something_that_is_there(surface: Surface) -> None:
    now = parse_iso(surface.desk.current.at)
    async with surface.client("ben") as ben:
        refusals = [
            ({"reason": "x"}, "a pause ends"),
            ({"for": "2h"}, "reason"),
            ({"for": "2h", "reason": ""}, "reason"),
            ({"for": "2h", "reason": "  "}, "say why"),
            ({"for": "2h", "until": iso(now + HOUR_NS), "reason": "x"}, "a pause ends"),
            ({"for": "0s", "reason": "x"}, "a pause ends after now"),
            ({"for": "-1h", "reason": "x"}, "a pause ends after now"),
            ({"for": "32d", "reason": "x"}, "within 31 days"),
            ({"for": "two hours", "reason": "x"}, "is no duration"),
            ({"until": iso(now - 1), "reason": "x"}, "a pause ends after now"),
            ({"until": "soon", "reason": "x"}, "no ISO-8601 time"),
            ({"target": "funding-spik", "for": "2h", "reason": "x"}, "did you mean funding-spike?"),
            ({"target": "funding-spike/x", "for": "2h", "reason": "x"}, "has no instance on 'x'"),
        ]
        for body, said in refusals:
            refused = await ben.post("/api/v1/pause", json=body)
            assert refused.status_code in (404, 422), body
            assert said in refused.json()["error"]["message"], body
            surface.clock.now += 60
        assert surface.desk.commands == []
        entity = (await ben.get("/api/v1/runbooks/funding-spike")).json()["instances"][0]["entity"]
        for target in ("", "funding-spike", f"funding-spike/{entity}"):
            assert (await ben.post("/api/v1/pause", json={"target": target, "for": "2h", "reason": "x"})).status_code == 200
    assert [command.target for command in surface.desk.commands] == ["", "funding-spike", f"funding-spike/{entity}"]
    until = surface.desk.commands[0].until
    assert until is not None
    assert 0 <= parse_iso(until) - now - 2 * HOUR_NS < 60 * NS


async def test_a_halt_takes_no_body_at_all(surface: Surface) -> None:
    async with surface.client("ben") as ben:
        answer = await ben.post("/api/v1/halt")
        assert (answer.status_code, answer.json()["effect"]) == (200, "halted everything")
        assert (await ben.post("/api/v1/halt", json={"target": "portfolio", "reason": "r"})).status_code == 200
        for body in (b"{", b'{"targt": "portfolio"}', b"[]"):
            refused = await ben.post("/api/v1/halt", content=body, headers={"content-type": "application/json"})
            assert refused.status_code == 422, "a target that cannot be read is not taken for the kill switch"
    assert [command.target for command in surface.desk.commands] == ["", "portfolio"]


async def test_an_idempotency_key_counts_once_for_one_person_and_one_thing(surface: Surface) -> None:
    key = {"Idempotency-Key": "k1"}
    async with surface.client("ben") as ben, surface.client("ana") as ana:
        first = await ben.post("/api/v1/halt", headers=key)
        again = await ben.post("/api/v1/halt", headers=key)
        assert first.json() == again.json()
        assert len(surface.desk.commands) == 1
        await ben.post("/api/v1/halt", headers=key, json={"target": "portfolio"})
        await ana.post("/api/v1/halt", headers=key)
        assert len(surface.desk.commands) == 3, "nobody's key stands in for another command"
        await ben.post("/api/v1/halt")
        await ben.post("/api/v1/halt")
        assert len({command.command_id for command in surface.desk.commands}) == 5
        assert (await ben.post("/api/v1/halt", headers={"Idempotency-Key": "a b"})).status_code == 422


async def test_webhooks_and_dead_letters_are_asked_for_by_name(surface: Surface) -> None:
    async with surface.client("ana") as ana:
        assert (await ana.post("/api/v1/webhooks/page/test")).status_code == 200
        assert (await ana.post("/api/v1/webhooks/none/test")).status_code == 404
        letter = (await ana.get("/api/v1/deadletters")).json()["deliveries"][0]["id"]
        assert (await ana.post(f"/api/v1/deadletters/{letter}/redeliver")).status_code == 200
        assert (await ana.post(f"/api/v1/deadletters/{letter}/redeliver")).status_code == 404
        assert (await ana.post("/api/v1/deadletters/*/redeliver")).status_code == 200
        assert (await ana.post("/api/v1/webhooks/desk/enable")).status_code == 200
        assert (await ana.post("/api/v1/reload")).status_code == 200
    assert ("redeliver", letter, "ana") in surface.desk.asked
    assert ("reload", "", "ana") in surface.desk.asked


class StuckDesk(FakeDesk):
    """Its loop stands: a halt sets the flag, and nothing else is ever answered."""

    def __init__(self) -> None:
        super().__init__()
        self.flag = False

    async def command(self, command: Command) -> Effect:
        if command.verb == "halt" and command.target == "":
            self.flag = True
        await asyncio.Event().wait()
        raise AssertionError


async def test_a_halt_counts_while_the_loop_stands_and_says_what_is_certain() -> None:
    desk = StuckDesk()
    asking = Asking(desk, flagged=lambda: desk.flag, command_s=0.02, halt_s=0.02)
    told = await asking.halt(BEN)
    assert (told.status, told.effect.done) == (202, True)
    assert "the halt flag is set, nothing is sent any more; it is not journaled yet" in told.effect.effect
    desk.flag = False
    for act in (asking.halt(BEN, "portfolio"), asking.ack(BEN, "x"), asking.resume(BEN)):
        with pytest.raises(Refused, match="is not known: look before you ask again") as caught:
            await act
        assert caught.value.status == 503


async def test_a_halt_whose_flag_could_not_be_set_is_never_said_to_count() -> None:
    class NoDisk(FakeDesk):
        async def command(self, command: Command) -> Effect:
            raise Unavailable("var/halt: no space left on device")

    for flagged in (None, lambda: False):
        with pytest.raises(Refused, match="no space left") as caught:
            await Asking(NoDisk(), flagged=flagged).halt(BEN)
        assert caught.value.status == 503


# --- the stream ------------------------------------------------------------------------------------------------------------


def events(chunks: list[bytes]) -> list[tuple[str, str, dict[str, object]]]:
    """(event, id, content) of what was read; comments left out."""
    found = []
    for chunk in b"".join(chunks).decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in chunk.split("\n") if ": " in line and not line.startswith(":"))
        if "event" in fields:
            found.append((fields["event"], fields.get("id", ""), json.loads(fields["data"])))
    return found


async def take(stream: AsyncIterator[bytes], until: Callable[[list[bytes]], bool]) -> list[bytes]:
    """Read chunks until there are enough, at most five seconds."""
    chunks: list[bytes] = []
    async with asyncio.timeout(5):
        while not until(chunks):
            chunks.append(await anext(stream))
    return chunks


async def reading(desk: FakeDesk) -> None:
    """Until the desk's stream is read."""
    async with asyncio.timeout(5):
        while not desk._readers:  # noqa: ASYNC110 - the fake tells nobody when it is read
            await asyncio.sleep(0)


async def opened(streams: Streams, last_id: str = "", address: str = "a") -> tuple[AsyncIterator[bytes], list[bytes]]:
    stream = streams.open(address, last_id)
    chunks = await take(stream, lambda read: len(events(read)) == 1)
    return stream, chunks


async def test_a_stream_tells_the_snapshot_and_then_what_happens() -> None:
    desk = FakeDesk()
    streams = Streams(desk)
    stream, first = await opened(streams)
    assert first[0].startswith(b": reefd\nretry: 2000")
    assert events(first)[0][0] == "snapshot"
    assert events(first)[0][2]["line"] == "NEEDS YOU"
    await reading(desk)
    run = desk.fire("dydx:BTC-USD")
    more = events(await take(stream, lambda read: len(events(read)) == 2))
    assert (more[0][0], more[0][1], more[0][2]["run_id"]) == ("happening", f"{desk.current.seq}-0", run.run_id)
    assert (more[1][0], more[1][1], more[1][2]["seq"]) == ("snapshot", "", desk.current.seq)
    await streams.stop()
    with pytest.raises(StopAsyncIteration):
        await anext(stream)
    assert streams.readers == 0


async def test_one_who_comes_back_gets_what_it_missed_and_no_more() -> None:
    desk = FakeDesk()
    streams = Streams(desk)
    stream, _ = await opened(streams)
    await reading(desk)
    for number in range(3):
        desk.publish("CommandTaken", f"number {number}")
    told = events(await take(stream, lambda read: sum(e[0] == "happening" for e in events(read)) == 3))
    ids = [event[1] for event in told if event[0] == "happening"]
    again = streams.open("b", ids[0])
    caught = events(await take(again, lambda read: len(events(read)) == 3))
    assert [(event[0], event[2].get("summary")) for event in caught[1:]] == [("happening", "number 1"), ("happening", "number 2")]
    late = streams.open("b", "1-0")
    assert [event[0] for event in events(await take(late, lambda read: len(events(read)) >= 2))][1] == "lagged", "older than is remembered"
    for odd in ("", "x", "9" * 30, "1; drop"):
        fresh, chunks = await opened(streams, odd)
        assert [event[0] for event in events(chunks)] == ["snapshot"]
        await fresh.aclose()  # type: ignore[attr-defined]
    await streams.stop()


async def test_lines_of_one_number_are_told_apart_and_none_is_lost_on_return() -> None:
    streams = Streams(FakeDesk())
    streams.start()
    for kind in ("TriggerChanged", "RunStarted", "ActionRequested"):
        streams._spread(Happening(seq=7, at="", kind=kind, summary=kind))
    stream = streams.open("a", "7-0")
    told = events(await take(stream, lambda read: len(events(read)) == 3))
    assert [event[1] for event in told[1:]] == ["7-1", "7-2"]
    await streams.stop()


async def test_a_slow_reader_loses_the_oldest_and_is_told() -> None:
    streams = Streams(FakeDesk())
    stream, _ = await opened(streams)
    for number in range(BEHIND_MAX + 100):
        streams._spread(Happening(seq=number + 1, at="", kind="CommandTaken", summary=str(number)))
        streams._spread(Happening(seq=number + 1, at="", kind="snapshot", summary=""))
    told = events(await take(stream, lambda read: bool(read) and b'"summary": "%d"' % (BEHIND_MAX + 99) in read[-1]))
    assert told[0][0] == "lagged"
    assert len(told) <= BEHIND_MAX + 1
    streams._spread(Happening(seq=9_999, at="", kind="lagged", summary=""))
    rest = events(await take(stream, lambda read: any(event[0] == "lagged" for event in events(read))))
    assert rest[-1][0] == "lagged", "what the desk lost is told on"
    await streams.stop()


async def test_a_quiet_stream_beats() -> None:
    streams = Streams(FakeDesk(), heartbeat_s=0.01)
    stream, _ = await opened(streams)
    beats = await take(stream, lambda read: len(read) == 2)
    assert beats == [b": still here\n\n"] * 2
    await streams.stop()


async def test_streams_are_bounded_and_room_comes_back() -> None:
    streams = Streams(FakeDesk())
    held = [(await opened(streams))[0] for _ in range(READERS_MAX_EACH)]
    with pytest.raises(Refused) as caught:
        streams.open("a")
    assert caught.value.status == 429
    others = [(await opened(streams, address=f"b{number // 10}"))[0] for number in range(64 - READERS_MAX_EACH)]
    with pytest.raises(Refused) as caught:
        streams.open("c")
    assert caught.value.status == 503
    await held[0].aclose()  # type: ignore[attr-defined]
    assert (await opened(streams, address="c"))[1]
    await streams.stop()
    with pytest.raises(Refused, match="stopping"):
        streams.open("c")
    assert len(others) == 52


def test_a_real_stream_carries_a_firing_at_once(surface: Surface) -> None:
    with serve(surface.app) as url, httpx.stream("GET", url + "/api/v1/stream", timeout=10) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.headers["cache-control"] == "no-store"
        lines = answer.iter_lines()
        while not next(lines).startswith("event: snapshot"):
            pass
        run = surface.desk.fire("dydx:BTC-USD")
        text = ""
        while run.run_id not in text:
            text += next(lines)


# --- watching --------------------------------------------------------------------------------------------------------------


async def test_health_is_about_the_process_and_readiness_about_what_it_sees(tmp_path: Path) -> None:
    surface = Surface(tmp_path, desk=FakeDesk.quiet())
    async with surface.client() as client:
        assert (await client.get("/healthz")).json()["alive"] is True
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()) == (200, {"ready": True, "lacking": [], "degraded": []})
        written = surface.path.read_text(encoding="utf-8")
        surface.path.write_text("tokens: [", encoding="utf-8")
        assert "nobody but the operator is admitted" in (await client.get("/readyz")).json()["degraded"][0]
        surface.path.write_text(written, encoding="utf-8")
        calm = surface.desk.current
        failing = replace(calm.feeds[-1], state="failing", reason="answered 502")
        surface.desk.current = replace(calm, feeds=(*calm.feeds[:-1], failing))
        ready = await client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert "answered 502" in ready.json()["degraded"][0]
        surface.desk.current = replace(calm, feeds=(replace(calm.feeds[0], state="waiting", age_s=None),))
        ready = await client.get("/readyz")
        assert ready.status_code == 503
        assert len(ready.json()["lacking"]) == 1
        surface.desk.current = calm
        surface.late_s = 12.0
        alive = await client.get("/healthz")
        assert (alive.status_code, alive.json()["why"]) == (503, "the daemon has not turned for 12 s")
        assert (await client.get("/readyz")).status_code == 503
        surface.desk.unavailable = "gone"
        assert (await client.get("/healthz")).json() == {"alive": False, "age_s": None, "why": "gone"}
        assert "reefd_up 0.0" in (await client.get("/metrics")).text


async def test_a_blind_daemon_lives_but_is_not_ready_and_tells_strangers_no_more(tmp_path: Path) -> None:
    surface = Surface(tmp_path, desk=FakeDesk.blind(), open_reading=False)
    async with surface.client() as nobody, surface.client("vic") as vic:
        assert (await nobody.get("/healthz")).status_code == 200
        told = (await vic.get("/readyz")).json()["lacking"]
        hidden = (await nobody.get("/readyz")).json()["lacking"]
    assert any(reason.startswith("blind: ") for reason in told)
    assert hidden == ["reading needs a token here"]


STATS = {
    **dict.fromkeys((*COUNTERS, *GAUGES), 3.0),
    **{f"{key}.done": 2.0 for key in LABELLED},
    **{f"{key}_bucket.{bound}": value for key in HISTOGRAMS for bound, value in (("0.001", 5.0), ("0.01", 7.0))},
    **{f"{key}_sum": 0.5 for key in HISTOGRAMS},
    **{f"{key}_count": 8.0 for key in HISTOGRAMS},
}


async def metrics_of(desk: FakeDesk) -> str:
    now = replace(desk.current, stats=STATS)
    return exposition(now, await desk.runbooks(), build="1.2.3", wall_s=parse_iso(now.published) / NS + 0.5).decode()


async def test_metrics_say_what_the_snapshot_says() -> None:
    desk = FakeDesk()
    text = await metrics_of(desk)
    first = desk.current.accounts[0]
    for line in (
        "reefd_up 1.0",
        'reefd_build_info{dry_run="false",house="reefd",version="1.2.3"} 1.0',
        'reefd_line{line="NEEDS YOU"} 1.0',
        'reefd_line{line="QUIET"} 0.0',
        "reefd_snapshot_age_seconds 0.5",
        f'reefd_account_margin_ratio{{account="{first.id}",price="oracle",venue="{first.venue}"}} {first.margin_ratio}',
        'reefd_actions_total{status="done"} 2.0',
        "reefd_events_total 3.0",
        'reefd_decision_seconds_bucket{le="0.001"} 5.0',
        'reefd_decision_seconds_bucket{le="+Inf"} 8.0',
        "reefd_decision_seconds_sum 0.5",
        'reefd_needs{kind="approval"} 1.0',
    ):
        assert f"{line}\n" in text, line


async def test_an_unknown_figure_has_no_sample_but_is_told() -> None:
    desk = FakeDesk()
    account = replace(desk.current.accounts[0], id="lost", margin_ratio=None, equity_usd=None, survivable_move=float("inf"))
    desk.current = replace(desk.current, accounts=(account,))
    text = await metrics_of(desk)
    assert 'reefd_account_equity_usd{account="lost"' not in text
    assert f'reefd_account_unknown{{account="lost",venue="{account.venue}"}} 1.0' in text
    assert f'reefd_account_survivable_move_ratio{{account="lost",venue="{account.venue}"}} +Inf' in text


async def test_metrics_and_their_page_name_the_same_metrics() -> None:
    text = await metrics_of(FakeDesk())
    exposed = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    page = (ROOT / "docs" / "metrics.md").read_text(encoding="utf-8")
    told = {row.split("`")[1].split("{")[0] for row in page.splitlines() if row.startswith("| `reefd_")}
    assert exposed == told
    for key in (*COUNTERS, *GAUGES):
        assert f"`{key}`" in page, key


@pytest.mark.skipif(PROMTOOL is None, reason="promtool is not installed here")
async def test_promtool_finds_nothing_to_complain_of() -> None:
    text = await metrics_of(FakeDesk())
    checked = await asyncio.to_thread(
        subprocess.run, [str(PROMTOOL), "check", "metrics"], input=text, capture_output=True, text=True, timeout=60
    )  # fmt: skip
    assert (checked.returncode, checked.stdout, checked.stderr) == (0, "", "")


async def test_a_house_of_five_hundred_markets_is_told_quickly(tmp_path: Path) -> None:
    surface = Surface(tmp_path, desk=FakeDesk.large(markets=500, runs=10_000))
    async with surface.client() as client:
        await client.get("/api/v1/world/market")
        loop = asyncio.get_running_loop()
        began = loop.time()
        answer = await client.get("/api/v1/world/market")
        assert len(answer.json()["entities"]) == 500
        runs = await client.get("/api/v1/runs?limit=1000")
        assert len(runs.json()["runs"]) == 1_000
        assert loop.time() - began < 2.0
