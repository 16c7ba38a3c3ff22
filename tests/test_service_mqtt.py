"""MQTT in service: state, notices, observations and commands over a real broker that is killed again and again; the test's id says which.

Nothing is waited for by time alone: every wait is for a condition, with a limit.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
from engine_world import runbook
from mqtt_world import BrokerProcess, Listener, broker, said, stranger, until
from service_world import ORIGIN_NS, run_virtual, virtual_clock

from daemon.edges.broker import Ack, Connection, Incoming, Outgoing, Subscription
from daemon.edges.mqtt import MqttWire
from daemon.edges.webhook import SCHEDULE_CRITICAL_NS
from daemon.engine.actions import Notify
from daemon.engine.engine import Engine
from daemon.engine.events import OperatorCommand, RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.errors import EdgeError
from daemon.journal.entry import Delivery, OutboxItem
from daemon.journal.store import Journal
from daemon.runbook.load import load_text
from daemon.service.clock import WallClock
from daemon.service.commands import Commands, did_something
from daemon.service.dispatcher import Dispatcher
from daemon.service.inbox import Inbox
from daemon.service.loop import Loop, Mail, Position
from daemon.service.mqtt_commands import CommandDoor
from daemon.service.mqtt_feed import Allowed, FeedDoor
from daemon.service.mqtt_link import Hearing, Link, Part, Post
from daemon.service.mqtt_notices import ALARM_NS, NOBODY, SETTLE_NS, NoticeLane
from daemon.service.mqtt_state import StateSpeaker
from daemon.service.views import Command, Effect
from daemon.units import NS, iso
from daemon.world.entities import Kind, Topology, Venue

assert broker  # the fixture
PREFIX = "reefd"
OPEN = json.dumps({"open": True, "why": "all is well", "since": "2026-01-01T00:00:00.000Z"})
STATE = {"state": '{"line":"QUIET"}', "gate": OPEN, "gate/dydx/BTC-USD": OPEN, "audit/head": "7:ab"}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with Journal.open(tmp_path / "state.db") as opened:
        yield opened


def item(number: int, severity: str = "warning") -> OutboxItem:
    return OutboxItem(id=f"n.{number}", endpoint="mqtt", body=f'{{"n":{number}}}', severity=severity, created_at=WallClock().now())


def link(broker: BrokerProcess, *parts: Part, hear: Sequence[Hearing] = (), speaker: StateSpeaker | None = None) -> Link:
    wire = MqttWire(broker.at())
    will = None if speaker is None else speaker.will
    return Link(wire=wire, address="test", parts=[*([speaker] if speaker else []), *parts], hear=hear, will=will)


@asynccontextmanager
async def running(a_link: Link) -> AsyncIterator[asyncio.Task[None]]:
    task = asyncio.create_task(a_link.run())
    try:
        yield task
    finally:
        a_link.stop()
        await asyncio.wait_for(task, 10)


# --- state ------------------------------------------------------------------------------------------------------------


async def test_state_comes_back_by_itself_when_the_broker_has_lost_everything(broker: BrokerProcess) -> None:
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)
    async with running(link(broker, speaker=speaker)):
        for life in range(3):
            async with Listener(broker, "reefd/#", client_id=f"reader-{life}") as listener:
                await until(lambda here=listener: here.last("reefd/status") == "online")
                told = {one.topic.removeprefix("reefd/"): one.text for one in listener.heard if one.topic != "reefd/status"}
                assert told == STATE
                expiries = {one.topic: one.expiry_s for one in listener.heard}
                assert expiries["reefd/audit/head"] is None, "the anchor is for the day on which this machine is gone"
                assert all(0 < (expiries[t] or 0) <= 150 for t in ("reefd/status", "reefd/state"))
                assert 0 < (expiries["reefd/gate"] or 0) <= 15
            broker.kill()
            broker.start()


async def test_online_is_said_after_the_state_so_that_nobody_believes_an_answer_of_the_life_before(broker: BrokerProcess) -> None:
    known: dict[str, str] = {}
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: known)
    async with Listener(broker, "reefd/#") as listener, running(link(broker, speaker=speaker)) as task:
        await until(lambda: not task.done() and speaker._more is not None)
        known.update(STATE)
        speaker.look()
        await until(lambda: listener.last("reefd/status") == "online")
        assert [one.topic for one in listener.heard].index("reefd/status") == len(STATE)


async def test_only_what_changed_is_said_again_and_what_is_no_more_is_taken_back(broker: BrokerProcess) -> None:
    known: dict[str, str | bytes] = dict(STATE)
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: dict(known))
    async with Listener(broker, "reefd/#") as listener, running(link(broker, speaker=speaker)):
        await until(lambda: listener.last("reefd/status") == "online")
        said_so_far = len(listener.heard)
        known["state"] = '{"line":"ACTING"}'
        del known["gate/dydx/BTC-USD"]
        speaker.look()
        await until(lambda: listener.last("reefd/gate/dydx/BTC-USD") == "" and len(listener.of("reefd/state")) == 2)
        assert listener.last("reefd/state") == '{"line":"ACTING"}'
        assert listener.of("reefd/gate/dydx/BTC-USD")[-1].text == ""
        # A gate that did not change may be repeated any moment.
        assert {one.topic for one in listener.heard[said_so_far:]} <= {"reefd/state", "reefd/gate", "reefd/gate/dydx/BTC-USD"}
        assert len(listener.of("reefd/state")) == 2
        async with Listener(broker, "reefd/#", client_id="late") as late:
            await until(lambda: late.of("reefd/status"))
            assert late.of("reefd/gate/dydx/BTC-USD") == []


async def test_a_stop_closes_every_gate_and_says_offline(broker: BrokerProcess) -> None:
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)
    async with running(link(broker, speaker=speaker)), Listener(broker, "reefd/#", client_id="during") as during:
        await until(lambda: during.last("reefd/status") == "online")
    async with Listener(broker, "reefd/#", client_id="after") as after:
        await until(lambda: after.of("reefd/status"))
        told = {one.topic: one.text for one in after.heard}
    assert told["reefd/status"] == "offline"
    assert told["reefd/audit/head"] == "7:ab"
    assert {json.loads(told[t])["open"] for t in ("reefd/gate", "reefd/gate/dydx/BTC-USD")} == {False}
    assert "reefd/state" not in told


async def test_the_broker_says_offline_when_the_daemon_is_gone_without_a_word(broker: BrokerProcess) -> None:
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)
    task = asyncio.create_task(link(broker, speaker=speaker).run())
    async with Listener(broker, "reefd/status") as listener:
        await until(lambda: listener.last("reefd/status") == "online")
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        await until(lambda: listener.last("reefd/status") == "offline")
    async with Listener(broker, "reefd/status", client_id="late") as late:
        await until(lambda: late.last("reefd/status") == "offline")


# --- notices ----------------------------------------------------------------------------------------------------------


async def test_a_notice_arrives_on_the_topic_of_its_severity_with_its_id_and_counts_once_it_has_settled(
    broker: BrokerProcess, journal: Journal
) -> None:
    lane = NoticeLane(journal=journal, clock=WallClock(), prefix=PREFIX, raise_alarm=lambda _d, _w: None)
    async with Listener(broker, "reefd/notice/#") as listener, running(link(broker, lane)):
        journal.append(None, (), [item(1), item(2, "critical")]).result()
        lane.look()
        await until(lambda: len(listener.heard) == 2)
        # Acknowledged is not yet delivered: the connection has to outlive the acknowledgement.
        assert journal.waiting_deliveries() == 2
        await until(lambda: journal.waiting_deliveries() == 0)
    assert [(one.topic, one.text, one.properties) for one in listener.heard] == [
        ("reefd/notice/warning", '{"n":1}', {"id": "n.1"}),
        ("reefd/notice/critical", '{"n":2}', {"id": "n.2"}),
    ]


@pytest.mark.slow
async def test_no_notice_is_unaccounted_for_over_many_kills_of_the_broker(broker: BrokerProcess, journal: Journal) -> None:
    """Every notice was seen by the subscriber, or is still in the outbox; and in the end every one was seen."""
    kills, each = 5, 40
    clock = WallClock()
    lane = NoticeLane(journal=journal, clock=clock, prefix=PREFIX, raise_alarm=lambda _d, _w: None)
    speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)
    total = kills * each

    def seen() -> set[str]:
        return {one.properties["id"] for one in listener.heard if one.topic.startswith("reefd/notice/")}

    def unaccounted() -> set[str]:
        # What waits is read first: a notice that is delivered meanwhile is seen.
        waiting = {delivery.id for delivery in journal.lane("mqtt", clock.now() + 7 * 86_400 * NS, 10_000)}
        return {f"n.{number}" for number in range(written)} - waiting - seen()

    written = 0
    async with Listener(broker, "reefd/#") as listener, running(link(broker, lane, speaker=speaker)):
        for life in range(kills):
            journal.append(None, (), [item(written + number) for number in range(each)]).result()
            written += each
            lane.look()
            # Killed at another moment each time: before the first of its notices is seen, in the middle of them, or after the last.
            goal = min(written, (written - each) + (each * life) // (kills - 1))
            await until(lambda goal=goal: len(seen()) >= goal, 60)
            broker.kill()
            assert unaccounted() == set()
            broker.start()
        await until(lambda: len(seen()) == total, 90)
        await until(lambda: journal.waiting_deliveries() == 0, 90)
        assert journal.dead_letters() == []
        assert listener.last("reefd/status") == "online"
    times = Counter(one.properties["id"] for one in listener.heard if one.topic.startswith("reefd/notice/"))
    again = sum(count - 1 for count in times.values())
    print(f"{broker.program}: {total} notices over {kills} kills, all seen, {again} of them again under the same id")


async def test_a_notice_that_the_broker_acknowledged_for_a_sleeping_session_and_lost_is_sent_again(
    broker: BrokerProcess, journal: Journal
) -> None:
    lane = NoticeLane(journal=journal, clock=WallClock(), prefix=PREFIX, raise_alarm=lambda _d, _w: None)
    async with Listener(broker, "reefd/notice/#", client_id="sleeper"):
        pass
    async with running(link(broker, lane)):
        journal.append(None, (), [item(1)]).result()
        await until(lambda: lane._acknowledged)  # kept for the sleeper, says the broker
        broker.kill()
        broker.start()
        async with Listener(broker, "reefd/notice/#", client_id="sleeper") as listener:
            await until(lambda: [one.properties["id"] for one in listener.heard] == ["n.1"])
            await until(lambda: journal.waiting_deliveries() == 0)


async def test_a_notice_that_nobody_listens_to_waits_in_the_outbox_and_holds_nobody_up(broker: BrokerProcess, journal: Journal) -> None:
    clock = WallClock()
    lane = NoticeLane(journal=journal, clock=clock, prefix=PREFIX, raise_alarm=lambda _d, _w: None)
    async with running(link(broker, lane)):
        journal.append(None, (), [item(1, "info")]).result()
        await until(lambda: [d.error for d in journal.lane("mqtt", clock.now() + 60 * NS)] == [NOBODY])
        async with Listener(broker, "reefd/notice/#") as listener:
            journal.append(None, (), [item(2)]).result()
            await until(lambda: {one.properties["id"] for one in listener.heard} == {"n.1", "n.2"})
            assert listener.heard[0].properties["id"] == "n.2", "the first is tried again after 5 s"


class Kept:
    """An outbox in memory, for virtual time: a journal's own thread knows of none."""

    def __init__(self, *items: OutboxItem) -> None:
        self.waiting = {n: Delivery(position=n, id=i.id, endpoint=i.endpoint, body=i.body, severity=i.severity, created_at=i.created_at,
                                    attempts=0, next_due=i.created_at, error="") for n, i in enumerate(items)}  # fmt: skip
        self.delivered: list[str] = []
        self.dead: list[str] = []
        self.sent: list[OutboxItem] = []

    def lane(self, endpoint: str, now: int, limit: int = 100) -> list[Delivery]:
        return [delivery for delivery in self.waiting.values() if delivery.next_due <= now][:limit]

    def mark_delivered(self, position: int, at: int) -> Future[None]:
        self.delivered.append(self.waiting.pop(position).id)
        return done()

    def send(self, items: Sequence[OutboxItem]) -> Future[None]:
        self.sent += items
        return done()

    def endpoint_failed(self, name: str, at: int, error: str) -> Future[None]:
        return done()

    def mark_failed(self, position: int, at: int, error: str, retry_at: int | None) -> Future[None]:
        delivery = self.waiting.pop(position)
        if retry_at is None:
            self.dead.append(delivery.id)
        else:
            again = replace(delivery, error=error, next_due=retry_at, attempts=delivery.attempts + 1)
            self.waiting = dict(sorted({**self.waiting, position: again}.items()))
        return done()


def done() -> Future[None]:
    future: Future[None] = Future()
    future.set_result(None)
    return future


def test_a_critical_notice_raises_an_alarm_when_the_broker_is_away_and_still_waits() -> None:
    kept, alarms = Kept(virtual_item(1, "critical"), virtual_item(2)), []

    async def main() -> None:
        clock = virtual_clock()
        lane = NoticeLane(
            journal=cast("Journal", kept), clock=clock, prefix=PREFIX, fallback="pager",
            raise_alarm=lambda delivery, _why: alarms.append(delivery.id),
        )  # fmt: skip
        watching = asyncio.create_task(lane.watch())
        await clock.sleep(ALARM_NS)
        assert alarms == []
        await clock.sleep(10 * NS)
        watching.cancel()

    run_virtual(main())
    assert alarms == ["n.1"]
    assert len(kept.waiting) == 2
    # The fallback is told under the same id, and where it should have gone.
    assert [(item.id, item.endpoint, item.urgent) for item in kept.sent] == [("n.1", "pager", True)]
    told = json.loads(kept.sent[0].body)["data"]["undelivered"]
    assert told == "it was not delivered over MQTT: the MQTT broker cannot be reached; it is still tried"


class ScriptedBroker:
    """A broker that answers each message as a test says; `None` ends the connection."""

    def __init__(self, answer: Callable[[Outgoing], Ack | None]) -> None:
        self.answer = answer
        self.sent: list[str] = []
        self.connects = 0
        self._ended = asyncio.Event()

    def connect(self, will: Outgoing | None) -> AbstractAsyncContextManager[Connection]:
        return self._connect()

    @asynccontextmanager
    async def _connect(self) -> AsyncIterator[Connection]:
        self.connects += 1
        self._ended.clear()
        yield self

    @property
    def dropped(self) -> int:
        return 0

    async def publish(self, message: Outgoing) -> Ack:
        self.sent.append(message.properties.get("id", message.topic))
        answer = self.answer(message)
        if answer is None:
            self._ended.set()
            raise gone()
        return answer

    async def subscribe(self, subscription: Subscription) -> str:
        return ""

    async def messages(self) -> AsyncIterator[Incoming]:
        await self._ended.wait()
        raise gone()
        yield


def gone() -> EdgeError:
    return EdgeError("gone", edge="mqtt", reason="disconnected", retryable=True)


def scripted(kept: Kept, answer: Callable[[Outgoing], Ack | None], *, venue_s: float) -> tuple[ScriptedBroker, list[str]]:
    """What a lane does with a broker of that temper in some seconds of virtual time; what was sent, which alarms were raised."""
    alarms: list[str] = []

    async def main() -> ScriptedBroker:
        server = ScriptedBroker(answer)
        lane = NoticeLane(
            journal=cast("Journal", kept), clock=virtual_clock(), prefix=PREFIX, raise_alarm=lambda d, _w: alarms.append(d.id)
        )
        a_link = Link(wire=server, address="test", parts=[lane])
        task = asyncio.create_task(a_link.run())
        await asyncio.sleep(venue_s)
        a_link.stop()
        await task
        return server

    return run_virtual(main()), alarms


def virtual_item(number: int, severity: str = "warning") -> OutboxItem:
    return OutboxItem(id=f"n.{number}", endpoint="mqtt", body='{"data":{}}', severity=severity, created_at=ORIGIN_NS)


def test_an_acknowledgement_that_the_connection_did_not_outlive_does_not_count() -> None:
    kept, ends = Kept(virtual_item(1), virtual_item(2)), [True]
    server, _ = scripted(kept, lambda m: None if m.properties["id"] == "n.2" and ends and ends.pop() else Ack(), venue_s=3 * SETTLE_NS / NS)
    # n.1 was acknowledged before the connection ended: it is sent again, and n.2 with it.
    assert server.sent == ["n.1", "n.2", "n.1", "n.2"]
    assert kept.delivered == ["n.1", "n.2"]


def test_a_notice_that_always_ends_the_connection_is_put_off_and_the_others_go_on() -> None:
    kept = Kept(virtual_item(1), virtual_item(2))
    server, _ = scripted(kept, lambda m: None if m.properties["id"] == "n.1" else Ack(), venue_s=60.0)
    assert "n.2" in server.sent
    assert kept.delivered == ["n.2"]
    assert [(d.id, d.error) for d in kept.waiting.values()] == [("n.1", "the connection ended 3 times while it was sent")]


def test_a_refused_critical_notice_is_dead_after_minutes_and_raises_an_alarm() -> None:
    kept = Kept(virtual_item(1, "critical"))
    server, alarms = scripted(kept, lambda _m: Ack(refused="Not authorized"), venue_s=600.0)
    assert len(server.sent) == len(SCHEDULE_CRITICAL_NS)
    assert kept.dead == alarms == ["n.1"]


def test_a_notice_that_is_too_large_for_the_broker_is_dead_at_once() -> None:
    kept = Kept(virtual_item(1), virtual_item(2))
    answers = {"n.1": Ack(refused="Packet too large", too_large=True), "n.2": Ack()}
    server, _ = scripted(kept, lambda m: answers[m.properties["id"]], venue_s=20.0)
    assert server.sent == ["n.1", "n.2"]
    assert (kept.dead, kept.delivered) == (["n.1"], ["n.2"])


def test_an_answer_that_ends_the_connection_is_not_sent_again() -> None:
    async def main() -> ScriptedBroker:
        server = ScriptedBroker(lambda message: None if message.topic == "poison" else Ack())
        post = Post()
        task = asyncio.create_task((a_link := Link(wire=server, address="test", parts=[post])).run())
        post.put(Outgoing(topic="poison", payload=b""))
        post.put(Outgoing(topic="answers/ana", payload=b""))
        await asyncio.sleep(60.0)
        a_link.stop()
        await task
        return server

    assert run_virtual(main()).sent == ["poison", "answers/ana"]


def test_a_topic_that_the_broker_refuses_is_told_once_and_the_others_go_on(capsys: pytest.CaptureFixture[str]) -> None:
    async def main() -> ScriptedBroker:
        server = ScriptedBroker(lambda message: Ack(refused="Not authorized") if message.topic == "reefd/state" else Ack())
        a_link = Link(wire=server, address="test", parts=[StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)])
        task = asyncio.create_task(a_link.run())
        await asyncio.sleep(3.0)
        a_link.stop()
        await task
        return server

    sent = run_virtual(main()).sent
    # Gates before the rest, `online` after everything; at the stop the gates closed, what is gone taken back, `offline` last.
    assert sent == [
        *("reefd/gate", "reefd/gate/dydx/BTC-USD", "reefd/state", "reefd/audit/head", "reefd/status"),
        *("reefd/gate", "reefd/gate/dydx/BTC-USD", "reefd/state", "reefd/status"),
    ]
    assert capsys.readouterr().out.count("mqtt.state_refused") == 1


def test_everything_is_said_again_each_minute_although_nothing_changed() -> None:
    async def main() -> ScriptedBroker:
        server = ScriptedBroker(lambda _message: Ack())
        a_link = Link(wire=server, address="test", parts=[StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE)])
        task = asyncio.create_task(a_link.run())
        await asyncio.sleep(190.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return server

    sent = Counter(run_virtual(main()).sent)
    gates = ("reefd/gate", "reefd/gate/dydx/BTC-USD")
    assert {topic: number for topic, number in sent.items() if topic not in gates} == dict.fromkeys(
        ("reefd/state", "reefd/audit/head", "reefd/status"), 4
    )
    assert all(190 / 6 <= sent[gate] <= 190 / 5 + 4 for gate in gates)


def test_a_gate_is_said_again_every_few_seconds_with_the_time_of_its_answer_and_forgotten_soon() -> None:
    said: list[tuple[float, Outgoing]] = []

    async def main() -> None:
        time_s = asyncio.get_running_loop().time
        began = time_s()

        def hear(message: Outgoing) -> Ack:
            said.append((time_s() - began, message))
            return Ack()

        speaker = StateSpeaker(prefix=PREFIX, snapshot=lambda: STATE, at=lambda: f"second {time_s() - began:.0f}")
        a_link = Link(wire=ScriptedBroker(hear), address="test", parts=[speaker])
        task = asyncio.create_task(a_link.run())
        await asyncio.sleep(30.0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run_virtual(main())
    gates = [(at, message) for at, message in said if message.topic == "reefd/gate/dydx/BTC-USD"]
    times = [at for at, _ in gates]
    assert all(4.9 <= after - before <= 6.1 for before, after in pairwise(times)), times
    assert len(gates) >= 5
    assert {message.expiry_s for _, message in gates} == {15}
    assert [json.loads(message.payload) for _, message in gates] == [
        {"open": True, "why": "all is well", "since": "2026-01-01T00:00:00.000Z", "at": f"second {at:.0f}"} for at in times
    ]
    assert {message.expiry_s for _, message in said if message.topic == "reefd/state"} == {150}


def test_the_pauses_between_attempts_grow_and_the_reason_is_kept() -> None:
    class Away:
        def __init__(self) -> None:
            self.asked: list[float] = []

        @asynccontextmanager
        async def connect(self, will: Outgoing | None) -> AsyncIterator[Connection]:
            self.asked.append(asyncio.get_running_loop().time())
            raise gone()
            yield

    async def main() -> tuple[Away, Link]:
        away = Away()
        a_link = Link(wire=away, address="test", parts=[])
        task = asyncio.create_task(a_link.run())
        await asyncio.sleep(300.0)
        a_link.stop()
        await task
        return away, a_link

    away, a_link = run_virtual(main())
    pauses = [later - earlier for earlier, later in zip(away.asked, away.asked[1:], strict=False)]
    assert 0.2 <= pauses[0] <= 0.3
    assert all(24.0 <= pause <= 36.0 for pause in pauses[8:])
    assert (a_link.standing.connected, a_link.standing.reason, a_link.standing.attempts) == (False, "gone", len(away.asked))


# --- in: the real loop -----------------------------------------------------------------------------------------------

TEXT = runbook(
    name="index-high", scope="market", when="index_price > 100_000 USD/base", until="index_price < 90_000 USD/base",
    steps="- id: tell\n  notify: {to: [desk], text: '{market}: index {index_price}'}",
)  # fmt: skip


class House:
    """The real engine, loop and journal, fed and commanded over MQTT; its notices go out over MQTT too."""

    def __init__(self, journal: Journal, broker: BrokerProcess, text: str = TEXT) -> None:
        self.clock = WallClock()
        self.journal = journal
        self.inbox = Inbox()
        topology = Topology(venues={"dydx": Venue(id="dydx")})
        self.engine = Engine(topology=topology, house=HouseLimits(), build="test", documents=journal.document)
        self.commands = Commands(inbox=self.inbox, known=lambda name: name in self.engine.cold.commands)
        self.lane = NoticeLane(journal=journal, clock=self.clock, prefix=PREFIX, raise_alarm=lambda _d, _w: None)
        self.post = Post()
        self.events: list[object] = []
        signals = {Kind.MARKET: frozenset({"index_price"})}
        self.feed = FeedDoor(prefix=PREFIX, allowed=Allowed(signals=signals), inbox=self.inbox, clock=self.clock, tell=self.post.put)
        self.door = CommandDoor(
            prefix=PREFIX, clock=self.clock, wall=self.clock.now, authorise=self.authorise, perform=self.perform, tell=self.post.put
        )
        hear = [
            Hearing(subscription=Subscription(topics=self.feed.topics), takes=self.feed.takes, take=self.feed.take),
            Hearing(subscription=Subscription(topics=self.door.topics, stored=False), takes=self.door.takes, take=self.door.take),
        ]
        self.speaker = StateSpeaker(prefix=PREFIX, snapshot=self.snapshot)
        self.link = link(broker, self.lane, self.post, hear=hear, speaker=self.speaker)
        self.loop = Loop(
            engine=self.engine, journal=journal, inbox=self.inbox, clock=self.clock,
            dispatcher=Dispatcher(edges=[], inbox=self.inbox, clock=self.clock),
            mail=Mail(channels={"desk": ("mqtt",)}, compose=lambda notify, _at, _seq: json.dumps({"text": notify.text})),
            position=Position(), committed=self.committed,
        )  # fmt: skip
        book = load_text(text, "r.yaml").runbooks[0]
        self.loop.begin(since=self.clock.now())
        self.loop.bring(RunbooksLoaded(at=0, runbooks={book.path: journal.put_document(book.source)}), [book])

    def authorise(self, token: str, verb: str) -> str | None:
        return "ana" if token == "approver" and verb in ("halt", "pause") else None

    async def perform(self, command: Command) -> Effect:
        order = OperatorCommand(
            at=0, command_id=command.command_id, actor=command.actor, verb=command.verb, target=command.target, reason=command.reason
        )
        answer = await asyncio.wrap_future(self.commands.put(order))
        return Effect(done=did_something(answer.taken.effect), effect=answer.taken.effect, seq=answer.seq, at=iso(answer.taken.at))

    def committed(self, event: object, transition: object) -> None:
        self.events.append(event)
        self.commands.follow(transition.records, self.loop.position.seq)  # type: ignore[attr-defined]
        if any(isinstance(action, Notify) for action in transition.actions):  # type: ignore[attr-defined]
            self.lane.look()
        self.speaker.look()

    def snapshot(self) -> Mapping[str, str]:
        halted = self.engine.cold.halted
        return {"gate": json.dumps({"open": not halted, "why": halted or "all is well", "at": ""})}

    @asynccontextmanager
    async def live(self) -> AsyncIterator[None]:
        turning = asyncio.create_task(self.loop.run())
        try:
            async with running(self.link):
                await until(lambda: self.link.standing.connected)
                yield
        finally:
            await self.door.drain(5)
            self.loop.stop()
            await asyncio.wait_for(turning, 10)


def commanded(**changes: object) -> str:
    body = {"id": "c-1", "at": iso(WallClock().now()), "token": "approver", "verb": "halt", "reason": "maintenance"}
    return json.dumps({**body, **changes})


async def test_an_observation_makes_a_trigger_fire_and_its_notice_goes_out(broker: BrokerProcess, journal: Journal) -> None:
    house = House(journal, broker)
    async with Listener(broker, "reefd/#") as listener, house.live(), stranger(broker) as somebody:
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_price": 99000}')
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_prise": 120000}')
        await until(lambda: listener.of("reefd/feed/errors"))
        assert listener.of("reefd/notice/warning") == []
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_price": "120_000 USD/base"}')
        await until(lambda: listener.of("reefd/notice/warning"))
    assert "index 120,000 price" in listener.of("reefd/notice/warning")[0].text
    assert "'index_prise' is no signal of a market; did you mean 'index_price'?" in listener.of("reefd/feed/errors")[0].text
    assert (house.feed.taken, house.feed.refused) == (2, 1)


async def test_a_retained_observation_fires_nothing_when_its_time_is_long_ago(broker: BrokerProcess, journal: Journal) -> None:
    topic = "reefd/feed/market/dydx:BTC-USD"
    async with stranger(broker) as somebody:
        old = iso(WallClock().now() - 3600 * NS)
        await said(somebody, topic, json.dumps({"index_price": 120_000, "event_ts": old}), retain=True)
        house = House(journal, broker)
        async with Listener(broker, "reefd/notice/#", "reefd/feed/errors") as listener, house.live():
            await until(lambda: house.feed.taken == 1)
            await said(somebody, topic, '{"index_price": 120000}', retain=True)
            await until(lambda: len(listener.heard) == 1)  # said just now, although it is retained: that one counts
            assert listener.heard[0].topic == "reefd/notice/warning"


async def test_a_retained_observation_without_a_time_is_refused_on_connect(broker: BrokerProcess, journal: Journal) -> None:
    async with stranger(broker) as somebody:
        await said(somebody, "reefd/feed/market/dydx:BTC-USD", '{"index_price": 120000}', retain=True)
        house = House(journal, broker)
        async with Listener(broker, "reefd/feed/errors") as listener, house.live():
            await until(lambda: listener.heard)
    assert "write event_ts, or do not retain it" in listener.heard[0].text
    assert house.feed.taken == 0


async def test_a_halt_over_mqtt_is_journaled_and_answered_each_time(broker: BrokerProcess, journal: Journal) -> None:
    house = House(journal, broker)
    async with Listener(broker, "reefd/gate", "answers/#") as listener, house.live(), stranger(broker) as somebody:
        await until(lambda: json.loads(listener.last("reefd/gate") or "{}").get("open") is True)
        order = commanded()
        for number in (b"1", b"2"):
            await said(somebody, "reefd/command", order, answer_to="answers/ana", correlation=number)
        await until(lambda: len(listener.of("answers/ana")) == 2)
        await until(lambda: json.loads(listener.last("reefd/gate"))["open"] is False)
    answers = {one.correlation: json.loads(one.text) for one in listener.of("answers/ana")}
    assert [answers[number]["effect"] for number in (b"1", b"2")] == ["halted everything"] * 2
    taken = [event for event in house.events if isinstance(event, OperatorCommand)]
    assert [(event.actor, event.verb) for event in taken] == [("ana", "halt")] * 2
    ids = [event.command_id for event in taken]
    assert all(one.startswith("mqtt:ana/halt//c-1/") for one in ids)
    assert ids[0] != ids[1], "the engine counts an id once, and a resume may come between"
    bodies = [entry.body for entry in journal.entries() if entry.type == "CommandTaken"]
    assert [f'"command_id":"{one}"' in body for one, body in zip(ids, bodies, strict=True)] == [True, True]
    assert "approver" not in "".join(entry.body for entry in journal.entries()), "the token stays out of the journal"
    assert house.engine.cold.halted


async def test_a_command_of_a_stranger_is_refused_logged_and_changes_nothing(
    broker: BrokerProcess, journal: Journal, capsys: pytest.CaptureFixture[str]
) -> None:
    house = House(journal, broker)
    async with Listener(broker, "answers/#") as listener, house.live(), stranger(broker) as somebody:
        await said(somebody, "reefd/command", commanded(token="guessed"), answer_to="answers/x")
        await said(somebody, "reefd/command", commanded(verb="resume", id="c-2"), answer_to="answers/x")
        await until(lambda: len(listener.heard) == 2)
    assert [json.loads(one.text)["effect"] for one in listener.heard] == [
        "nothing: this token may not halt",
        "nothing: this token may not resume",
    ]
    assert house.engine.cold.halted == ""
    assert not [event for event in house.events if isinstance(event, OperatorCommand)]
    printed = capsys.readouterr().out
    assert "command.refused" in printed
    assert "guessed" not in printed
