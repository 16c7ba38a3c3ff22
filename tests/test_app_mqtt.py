"""MQTT of the daemon as a whole: the desk's state and commands over a real broker, and a real `reefd run` whose broker is killed."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast

import aiomqtt
import pytest
from mqtt_world import BrokerProcess, Listener, broker, said, stranger, until
from service_processes import Venue, ended, free_port, lay_out, spawn, tail
from service_processes import until as until_or_tail
from test_service_mqtt import commanded, item
from test_service_mqtt_state import BOOK, NOW

from daemon.app.doctor import _broker as examine_broker
from daemon.app.live_mqtt import LiveMqtt
from daemon.app.status import degraded
from daemon.journal.store import Journal
from daemon.service.alerts import overview
from daemon.service.clock import WallClock
from daemon.service.inbox import Inbox
from daemon.service.views import Command, Effect, GateAnswer, Now, RunbookView
from daemon.settings import parse_settings
from daemon.web.desk import Desk, NotKnown, Unavailable
from daemon.web.tokens import TokenFile

assert broker  # the fixture


class QuietDesk:
    """A desk that says what a test tells it to."""

    def __init__(self) -> None:
        self.view = NOW
        self.broken: Exception | None = None
        self.asked = 0
        self.commands: list[Command] = []
        self.refused: dict[str, Exception] = {
            "nobody": NotKnown("there is no runbook 'nobody'"), "slow": Unavailable("the command waits"), "wrong": KeyError("x"),
        }  # fmt: skip

    async def now(self) -> Now:
        self.asked += 1
        if self.broken is not None:
            raise self.broken
        return self.view

    async def gate(self, market: str) -> GateAnswer:
        return GateAnswer(market=market, open=not self.view.halted, why=self.view.halted or "all is well", at=self.view.at)

    async def runbooks(self) -> tuple[RunbookView, ...]:
        return (BOOK,)

    async def command(self, command: Command) -> Effect:
        self.commands.append(command)
        if command.target in self.refused:
            raise self.refused[command.target]
        self.view = replace(self.view, halted=f"{command.actor}: {command.reason}")
        return Effect(done=True, effect="halted everything", seq=8, at="then")


@asynccontextmanager
async def live(
    broker: BrokerProcess, tmp_path: Path, desk: QuietDesk | None, *, dry_run: bool = False, commands: bool = True
) -> AsyncIterator[LiveMqtt]:
    text = f"""
venues: {{dydx: {{adapter: dydx-v4, url: "http://127.0.0.1:1/v4", markets: [BTC-USD, ETH-USD]}}}}
mqtt: {{host: 127.0.0.1, port: {broker.port}, feed: [market.index_price], commands: {str(commands).lower()}}}
"""
    settings = parse_settings(text, "s.yaml")
    at = settings.mqtt_broker()
    assert at is not None
    with Journal.open(tmp_path / "state.db") as journal:
        mqtt = LiveMqtt(
            settings=settings, broker=at, journal=journal, inbox=Inbox(), clock=WallClock(), dry_run=dry_run,
            raise_alarm=lambda _d, _w: None,
        )  # fmt: skip
        if desk is not None:
            mqtt.serve(cast("Desk", desk), lambda token, _verb: "ana" if token == "approver" else None)
        running = asyncio.create_task(mqtt.run())
        try:
            await until(lambda: mqtt.page()["connected"] or running.done())
            yield mqtt
        finally:
            await mqtt.stop()
            await asyncio.wait_for(running, 10)


def gate(listener: Listener, market: str = "/dydx/BTC-USD") -> object:
    text = listener.last(f"reefd/gate{market}")
    return json.loads(text)["open"] if text else None


async def test_the_desk_is_told_as_topics_and_a_halt_closes_every_gate_at_once(broker: BrokerProcess, tmp_path: Path) -> None:
    desk = QuietDesk()
    async with Listener(broker, "reefd/#", "answers/#") as listener, live(broker, tmp_path, desk), stranger(broker) as somebody:
        await until(lambda: listener.last("reefd/status") == "online")
        assert json.loads(listener.last("reefd/state"))["line"] == "NEEDS YOU"
        assert (gate(listener), gate(listener, "/dydx/ETH-USD"), gate(listener, "")) == (True, True, True)
        assert listener.last("reefd/runs/a%2Fb%231")
        await said(somebody, "reefd/command", commanded(), answer_to="answers/ana", correlation=b"1")
        await until(lambda: (gate(listener), gate(listener, "/dydx/ETH-USD"), gate(listener, "")) == (False, False, False))
        await until(lambda: listener.of("answers/ana"))
        assert json.loads(listener.last("answers/ana"))["effect"] == "halted everything"
        order = commanded(id="c-2", verb="ack", target="nobody")
        await said(somebody, "reefd/command", order, answer_to="answers/ana", correlation=b"2")
        await until(lambda: len(listener.of("answers/ana")) == 2)
        assert json.loads(listener.last("answers/ana"))["effect"] == "nothing: there is no runbook 'nobody'"
    assert next((c.actor, c.reason) for c in desk.commands) == ("ana", "maintenance")
    assert desk.commands[0].command_id.startswith("mqtt:ana/halt//c-1/")


async def test_a_desk_that_does_not_answer_closes_every_gate_until_it_does(broker: BrokerProcess, tmp_path: Path) -> None:
    desk = QuietDesk()
    async with Listener(broker, "reefd/#") as listener, live(broker, tmp_path, desk):
        await until(lambda: gate(listener) is True)
        desk.broken = Unavailable("the loop has not turned for 6 s")
        await until(lambda: gate(listener) is False)
        assert "the daemon cannot tell: the loop has not turned for 6 s" in listener.last("reefd/gate/dydx/BTC-USD")
        desk.broken = None
        await until(lambda: gate(listener) is True)


@pytest.mark.parametrize("fault", [NotKnown("x"), AssertionError("x"), ValueError("x"), KeyError("x")])
async def test_a_fault_of_a_view_closes_every_gate_is_told_once_and_ends_nothing(
    broker: BrokerProcess, tmp_path: Path, fault: Exception, capsys: pytest.CaptureFixture[str]
) -> None:
    desk = QuietDesk()
    async with Listener(broker, "reefd/#") as listener, live(broker, tmp_path, desk):
        await until(lambda: gate(listener) is True)
        asked, desk.broken = desk.asked, fault
        await until(lambda: (gate(listener), gate(listener, "")) == (False, False))
        assert f"a fault of its own ({type(fault).__name__})" in listener.last("reefd/gate/dydx/BTC-USD")
        await until(lambda: desk.asked > asked + 2)
        desk.broken = None
        await until(lambda: (gate(listener), gate(listener, "")) == (True, True))
    assert capsys.readouterr().out.count("mqtt.fault") == 1


async def test_a_part_that_breaks_is_begun_anew_and_the_others_speak_on(
    broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.app.live_mqtt.AGAIN_MIN_S", 0.01)
    desk = QuietDesk()
    broken = 0

    def breaks(*_: object) -> object:
        nonlocal broken
        broken += 1
        raise AssertionError("a fault of ours")

    monkeypatch.setattr(Journal, "lane", breaks)  # of the lane that speaks and of the one that watches
    async with Listener(broker, "reefd/#") as listener, live(broker, tmp_path, desk) as mqtt:
        await until(lambda: broken > 3)
        await until(lambda: gate(listener) is True)
        assert (mqtt.page()["connected"], mqtt.page()["connects"]) == (True, 1)


async def test_a_link_that_breaks_is_made_anew_and_the_will_says_offline_meanwhile(
    broker: BrokerProcess, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.app.live_mqtt.AGAIN_MIN_S", 0.01)
    async with Listener(broker, "reefd/status") as listener, live(broker, tmp_path, QuietDesk()) as mqtt:
        await until(lambda: listener.last("reefd/status") == "online")
        with monkeypatch.context() as broken:
            broken.setattr("daemon.service.mqtt_state.StateSpeaker._wait", lambda _self: 1 / 0)
            mqtt._state.look()
            await until(lambda: "offline" in [one.text for one in listener.heard])
        await until(lambda: listener.last("reefd/status") == "online")


@pytest.mark.parametrize(("target", "says"), [("slow", "not known yet: the command waits"), ("wrong", "a fault of the daemon (KeyError)")])
async def test_a_command_that_may_still_be_taken_is_not_told_as_nothing(
    broker: BrokerProcess, tmp_path: Path, target: str, says: str
) -> None:
    async with Listener(broker, "answers/#") as listener, live(broker, tmp_path, QuietDesk()), stranger(broker) as somebody:
        await said(somebody, "reefd/command", commanded(verb="ack", target=target), answer_to="answers/ana")
        await until(lambda: listener.of("answers/ana"))
    answer = json.loads(listener.last("answers/ana"))
    assert not answer["done"]
    assert says in answer["effect"]
    assert "it may still be taken; sent again with the same id it counts once" in answer["effect"]
    assert "nothing" not in answer["effect"]


async def test_commands_are_heard_only_where_the_settings_say_so(broker: BrokerProcess, tmp_path: Path) -> None:
    desk = QuietDesk()
    living = live(broker, tmp_path, desk, commands=False)
    async with Listener(broker, "reefd/#", "answers/#") as listener, stranger(broker) as somebody, living as mqtt:
        await until(lambda: listener.last("reefd/status") == "online")
        await said(somebody, "reefd/command", commanded(), answer_to="answers/ana")
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_price": 1}')
        await until(lambda: mqtt.page()["observations"] == 1)
    assert desk.commands == []
    assert listener.of("answers/ana") == []


async def test_a_dry_run_listens_and_says_nothing(broker: BrokerProcess, tmp_path: Path) -> None:
    living = live(broker, tmp_path, QuietDesk(), dry_run=True)
    async with Listener(broker, "reefd/#", "answers/#") as listener, stranger(broker) as somebody, living as mqtt:
        await said(somebody, "reefd/command", commanded(), answer_to="answers/ana")
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_price": 1}')
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"oops": 1}')
        await until(lambda: (mqtt.page()["observations"], mqtt.page()["observations_refused"]) == (1, 1))
    heard = {one.topic for one in listener.heard}
    assert heard == {"reefd/command", "reefd/feed/market/dydx:BTC-USD"}


def test_status_says_since_when_the_broker_is_away() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    page = {"broker": "mqtt://b:1883", "connected": False, "since_s": 12.0, "reason": "refused"}
    told = degraded({"journal": {"problem": ""}, "pid": os.getpid(), "published": at.isoformat(), "mqtt": page}, at)
    assert told == ["the MQTT broker mqtt://b:1883 is away for 12 s: refused; notices wait for it"]
    refused = {**page, "connected": True, "reason": "the broker refused reefd/feed/+/+: Not authorized"}
    told = degraded({"journal": {"problem": ""}, "pid": os.getpid(), "published": at.isoformat(), "mqtt": refused}, at)
    assert told == ["MQTT: the broker refused reefd/feed/+/+: Not authorized"]


def test_the_broker_is_an_endpoint_like_any_other_with_its_own_address(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "state.db") as journal:
        journal.append(None, (), [item(1), item(2)]).result()
        journal.mark_failed(journal.lane("mqtt", 1 << 62)[0].position, 1, "nobody", None).result()
        (report,) = overview(journal, {}, 1, {"desk": ("mqtt",)}, {"mqtt": "mqtts://b:8883"})
    assert (report.name, report.format, report.address, report.channels) == ("mqtt", "mqtt", "mqtts://b:8883", ("desk",))
    assert (report.waiting, report.dead) == (1, 1)


async def test_doctor_finds_out_whether_the_broker_lets_us_in_and_whether_anybody_listens(broker: BrokerProcess) -> None:
    settings = parse_settings(f"mqtt: {{host: 127.0.0.1, port: {broker.port}, feed: [chain], commands: true}}", "s.yaml")
    at = settings.mqtt_broker()
    assert at is not None
    found = await examine_broker(settings, at, send=False)
    assert (found.verdict, found.text) == ("ok", f"mqtt://127.0.0.1:{broker.port} lets us in; --send sends a test message")
    found = await examine_broker(settings, at, send=True)
    assert (found.verdict, "nobody is subscribed to reefd/notice/info" in found.text) == ("warning", True)
    async with Listener(broker, "reefd/notice/#") as listener:
        found = await examine_broker(settings, at, send=True)
        assert (found.verdict, found.text) == ("ok", f"mqtt://127.0.0.1:{broker.port} took a test message")
        await until(lambda: listener.heard)
    broker.kill()
    found = await examine_broker(settings, at, send=False)
    assert (found.check, found.verdict, "refused" in found.text) == ("mqtt", "failed", True)


RUNBOOK = """
schema: reefd/v1
runbook: index-high
title: The index is high
owner: tests
severity: critical
intent: economy
stage: armed
scope: market
trigger: {when: index_price > 100_000 USD/base, until: index_price < 90_000 USD/base}
steps: [{id: tell, notify: {to: [desk], text: "{market}: index {index_price}"}}]
on_failure: {then: stay_armed}
"""


@pytest.mark.slow
async def test_a_running_daemon_tells_its_state_and_is_halted_and_resumed_by_whoever_has_the_token(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    venue, log = Venue(free_port()), tmp_path / "run.log"
    config = lay_out(tmp_path, venue.port, runbook=RUNBOOK)
    text = config.read_text().replace("http: {enabled: false}", f"http: {{enabled: false, tokens: {tmp_path / 'tokens.yaml'}}}")
    config.write_text(text + f"mqtt: {{host: 127.0.0.1, port: {broker.port}, feed: [market.index_price], commands: true}}\n")
    at = "2026-01-01T00:00:00Z"
    approver, admin = (TokenFile(tmp_path / "tokens.yaml").add(name, role, at=at) for name, role in (("ana", "approve"), ("root", "admin")))
    await venue.start(tmp_path / "scenario.yaml", 1.0, tmp_path / "sim.log")
    process = await spawn("run", "--config", str(config), "--log", "json", log=log)

    async def answer(somebody: aiomqtt.Client, **changes: object) -> dict[str, Any]:
        number = len(listener.of("answers/x")) + 1
        await said(somebody, "reefd/command", commanded(id=f"c-{number}", **changes), answer_to="answers/x")
        await until_or_tail(lambda: len(listener.of("answers/x")) == number, log, process)
        return cast("dict[str, Any]", json.loads(listener.last("answers/x")))

    try:
        async with Listener(broker, "reefd/#", "answers/#") as listener, stranger(broker) as somebody:
            await until_or_tail(lambda: listener.last("reefd/status") == "online", log, process)
            await until_or_tail(lambda: gate(listener) is True, log, process)
            first = json.loads(listener.last("reefd/state"))
            assert (first["house"], first["halted"], first["worst_account"]["id"]) == ("test", "", "dydx")
            await until_or_tail(lambda: listener.last("reefd/runs/index-high") != "", log, process)
            assert json.loads(listener.last("reefd/runs/index-high"))["stage"] == "armed"
            assert (await answer(somebody, token="guessed"))["effect"] == "nothing: this token may not halt"
            assert (await answer(somebody, token=approver, verb="resume"))["effect"] == "nothing: this token may not resume"
            halted = await answer(somebody, token=approver)
            assert (halted["done"], halted["seq"] > 0) == (True, True)
            await until_or_tail(lambda: (gate(listener), gate(listener, "")) == (False, False), log, process)
            assert "ana: maintenance" in listener.last("reefd/gate/dydx/BTC-USD")
            assert (tmp_path / "halt").exists(), "it lasts over a restart"
            assert (await answer(somebody, token=admin, verb="resume", reason="it is over"))["done"]
            await until_or_tail(lambda: (gate(listener), gate(listener, "")) == (True, True), log, process)
            head = listener.last("reefd/audit/head")
            assert await ended(process) == 0, tail(log)
            await until(lambda: listener.last("reefd/status") == "offline")
            assert (gate(listener), gate(listener, "")) == (False, False)
        with Journal.open_readonly(tmp_path / "state.db", tmp_path / "feed.db") as journal:
            bodies = [entry.body for entry in journal.entries() if entry.type == "OperatorCommand"]
            report = journal.verify_chain(head)
        assert (report.intact, report.anchored) == (True, True)
        taken = [body for body in bodies if '"mqtt:' in body]
        assert [('"actor":"ana"' in body, '"actor":"root"' in body) for body in taken] == [(True, False), (False, True)]
        assert approver not in log.read_text() + "".join(bodies)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await venue.stop()


@pytest.mark.slow
async def test_a_running_daemon_goes_on_while_its_broker_is_killed_and_tells_what_happened_meanwhile(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    venue, log = Venue(free_port()), tmp_path / "run.log"
    config = lay_out(tmp_path, venue.port, runbook=RUNBOOK)
    mqtt = f"mqtt: {{host: 127.0.0.1, port: {broker.port}, feed: [market.index_price]}}\nchannels: {{desk: [mqtt]}}\n"
    config.write_text(config.read_text() + mqtt)
    await venue.start(tmp_path / "scenario.yaml", 1.0, tmp_path / "sim.log")
    process = await spawn("run", "--config", str(config), "--log", "json", log=log)

    def page() -> dict[str, Any]:
        return cast("dict[str, Any]", json.loads((tmp_path / "state.status.json").read_text()))

    def printed(event: str) -> int:
        return log.read_text().count(f'"{event}"')

    try:
        await until_or_tail(lambda: printed("mqtt.connected"), log, process)
        topic = "reefd/feed/market/dydx:BTC-USD"
        async with Listener(broker, "reefd/notice/#") as listener, stranger(broker) as somebody:
            await said(somebody, topic, '{"index_price": 120000}')
            await until_or_tail(lambda: len(listener.heard) == 1, log, process)
        first = listener.heard[0]
        assert "index 120,000 price" in first.text
        broker.kill()
        await until_or_tail(lambda: printed("mqtt.disconnected"), log, process)
        turned = page()["loop"]["events"]
        await until_or_tail(lambda: page()["loop"]["events"] > turned + 5, log, process)  # nothing waits for the broker
        assert page()["mqtt"]["connected"] is False
        broker.start()
        async with Listener(broker, "reefd/notice/#") as listener:
            # The first was acknowledged a moment before the end, which does not count: it comes once more, under the same id.
            await until_or_tail(lambda: first.properties in [one.properties for one in listener.heard], log, process)
            async with stranger(broker) as somebody:
                await said(somebody, topic, '{"index_price": 80000}')
                await said(somebody, topic, '{"index_price": 130000}')
            await until_or_tail(lambda: any("index 130,000 price" in one.text for one in listener.heard), log, process)
            await until_or_tail(lambda: page()["mqtt"]["connects"] == 2, log, process)
        assert await ended(process) == 0, tail(log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await venue.stop()
