"""What comes in over MQTT: observations and commands of strangers, read by doors that never crash and say what is wrong."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from service_world import ORIGIN_NS, drained, run_virtual, virtual_clock

from daemon.edges.broker import Incoming, Outgoing
from daemon.engine.events import FeedFailed, Observed
from daemon.language.catalogue import observed
from daemon.service.clock import AcceleratedClock
from daemon.service.inbox import Inbox
from daemon.service.mqtt_commands import (
    AGE_MAX_NS,
    REMEMBERED_MAX,
    UNDER_WAY_MAX,
    CommandDoor,
    CommandMessage,
    CommandRefused,
    check,
    read_command,
)
from daemon.service.mqtt_feed import AHEAD_NS, ENTITIES_MAX, Allowed, FeedDoor, Refused, read
from daemon.service.views import Command, Effect
from daemon.units import DAY_NS, MINUTE_NS, NS, iso
from daemon.world.entities import Kind

ALLOWED = Allowed(
    signals={
        Kind.MARKET: frozenset({"index_price", "funding_rate", "market_open", "open_interest", "oracle_price"}),
        Kind.CHAIN: frozenset(s.name for s in observed(Kind.CHAIN)),
    },
    told=lambda kind, entity: frozenset({"oracle_price"}) if entity.startswith("dydx:") else frozenset(),
)


def message(body: object, topic: str = "reefd/feed/market/dydx:BTC-USD", *, retained: bool = False) -> Incoming:
    payload = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Incoming(topic=topic, payload=payload, retained=retained)


def reading(body: object, kind: str = "market", entity: str = "dydx:BTC-USD", *, retained: bool = False) -> Any:
    return read(message(body, retained=retained), kind, entity, allowed=ALLOWED, now=ORIGIN_NS)


# --- observations -----------------------------------------------------------------------------------------------------


def test_an_observation_becomes_a_row_in_catalogue_units_with_its_own_time() -> None:
    body = {
        "index_price": 97000.5, "funding_rate": "0.4%/8h", "market_open": False, "open_interest": None,
        "event_ts": iso(ORIGIN_NS - 3 * NS),
    }  # fmt: skip
    row = reading(body)
    assert (row.kind, row.entity, row.event_ts) == (Kind.MARKET, "dydx:BTC-USD", ORIGIN_NS - 3 * NS)
    assert math.isnan(row.values.pop("open_interest"))
    assert row.values == {"index_price": 97000.5, "funding_rate": 0.0005, "market_open": 0.0}


def test_an_observation_without_a_time_is_of_its_arrival() -> None:
    assert reading({"index_price": "97000.5"}).event_ts is None


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        ({"index_price": 1.0, "event_ts": iso(ORIGIN_NS + AHEAD_NS + NS)}, "a reading of the future would stay fresh for ever"),
        ({"index_price": 1.0, "event_ts": iso(ORIGIN_NS - 9 * DAY_NS)}, "is over 8d ago"),
        ({"index_price": 1.0, "event_ts": "yesterday"}, "event_ts is 'yesterday'; write an ISO-8601 time"),
        ({"index_price": 1.0, "event_ts": "9999-12-31T23:59:59Z"}, "is after now"),
        ({"index_price": 1.0, "event_ts": "0001-01-01T00:00:00Z"}, "is over 8d ago"),
        ({"index_price": 1.0, "event_ts": 5}, "event_ts is no text"),
        ({"index_prise": 1.0}, "'index_prise' is no signal of a market; did you mean 'index_price'?"),
        ({"mid_price": 1.0}, "'mid_price' is worked out from other signals; tell those"),
        ({"mark_price": 1.0}, "the settings do not allow 'mark_price'; write market.mark_price into mqtt.feed"),
        ({"oracle_price": 1.0}, "'oracle_price' of 'dydx:BTC-USD' is told by its own adapter, and one signal has one source"),
        ({"index_price": 0}, "a price is more than 0"),
        ({"index_price": True}, "index_price is of unit price, found true"),
        ({"index_price": "5%"}, "index_price is of unit price, found '5%', which is of unit ratio"),
        ({"index_price": "a lot"}, "write a number, or one with its unit"),
        ({"market_open": 2}, "market_open is true or false, found 2"),
        ({"index_price": [1.0]}, "'index_price' is neither a number, true, false, a text nor null"),
        ({"index_price": 1.0, "index_prise": 1.0}, "'index_prise' is no signal"),
        ({}, "it tells nothing"),
        (["index_price"], "the payload is no JSON object"),
        (b"index_price=1", "the payload is no JSON object"),
        (b'{"index_price": 1e999}', "index_price is inf"),
        (b'{"index_price": NaN}', "index_price is nan"),
        (b"\xff\xfe", "the payload is no JSON object"),
        (b'{"index_price": ' + b"9" * 70_000 + b"}", "the payload has 70017 bytes"),
        (b"[" * 5_000, "the payload is no JSON object"),
    ],
)  # fmt: skip
def test_an_observation_that_is_wrong_is_refused_with_what_to_write(body: object, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        reading(body)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("kind", "entity", "reason"),
    [
        ("account", "dydx", "the settings do not allow observations of a account; they allow market, chain (mqtt.feed)"),
        ("planet", "mars", "'planet' is no kind of entity; the settings allow market, chain"),
        ("market", "BTC-USD", "'BTC-USD' is no market; write venue:SYMBOL, for example dydx:BTC-USD"),
        ("chain", "a:b", "'a:b' is no chain: its name has no colon"),
        ("chain", "%00", "is no name"),
    ],
)
def test_an_observation_of_something_that_is_not_allowed_or_not_there_is_refused(kind: str, entity: str, reason: str) -> None:
    with pytest.raises(Refused) as refused:
        reading({"index_price": 1.0}, kind, entity)
    assert reason in str(refused.value)


def test_a_retained_observation_counts_by_its_own_time_or_not_at_all() -> None:
    with pytest.raises(Refused, match="write event_ts, or do not retain it"):
        reading({"index_price": 1.0}, retained=True)
    old = ORIGIN_NS - 3600 * NS
    assert reading({"index_price": 1.0, "event_ts": iso(old)}, retained=True).event_ts == old


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=10), inner, max_size=3),
    max_leaves=8,
)
signal_names = st.sampled_from(["index_price", "funding_rate", "market_open", "oracle_price", "gas_price", "event_ts", "mid_price"])
payloads = st.binary(max_size=200) | st.dictionaries(signal_names | st.text(max_size=12), json_values, max_size=5).map(
    lambda body: json.dumps(body).encode()
)
levels = st.sampled_from(["market", "chain", "position", "portfolio", "errors"]) | st.text(max_size=12)
entities = st.sampled_from(["dydx:BTC-USD", "base", "dydx%231", ":", "a:", ":b"]) | st.text(max_size=30)


@settings(max_examples=300, deadline=None)
@given(payloads, levels, entities, st.booleans())
@example(b'{"event_ts":"2026-01-01T00:00:00+99:99","index_price":1}', "market", "dydx:BTC-USD", False)
@example(b'{"index_price":"1e999999999"}', "market", "dydx:BTC-USD", False)
@example(b'{"index_price":"' + b"9" * 5000 + b'"}', "market", "dydx:BTC-USD", True)
def test_no_observation_crashes_the_door_and_each_is_taken_or_counted(payload: bytes, kind: str, entity: str, retained: bool) -> None:
    inbox, told = Inbox(), []
    clock = AcceleratedClock(speed=1.0, now_ns=ORIGIN_NS)
    door = FeedDoor(prefix="reefd", allowed=ALLOWED, inbox=inbox, clock=clock, tell=told.append)
    topic = f"reefd/feed/{kind}/{entity}"
    if not door.takes(topic):
        return
    door.take(message(payload, topic, retained=retained))
    events = drained(inbox)
    assert (door.taken, door.refused) == (len(events), 1 - len(events))
    assert len(told) == door.refused
    for event in events:
        assert isinstance(event, Observed)
        for row in event.rows:
            assert all(not math.isinf(value) for value in row.values.values())
            assert row.event_ts is None or ORIGIN_NS - 9 * DAY_NS < row.event_ts < ORIGIN_NS + 60 * NS


def test_the_same_mistake_is_told_once_a_minute_and_every_one_is_counted() -> None:
    async def main() -> None:
        told: list[Outgoing] = []
        clock = virtual_clock()
        door = FeedDoor(prefix="reefd", allowed=ALLOWED, inbox=Inbox(), clock=clock, tell=told.append)
        for _ in range(50):
            door.take(message({"index_prise": 1.0}))
        assert (door.refused, len(told)) == (50, 1)
        assert told[0].topic == "reefd/feed/errors"
        assert json.loads(told[0].payload)["topic"] == "reefd/feed/market/dydx:BTC-USD"
        await clock.sleep(MINUTE_NS)
        door.take(message({"index_prise": 1.0}))
        assert json.loads(told[1].payload)["refused"] == 51

    run_virtual(main())


def test_a_sender_of_endless_entities_is_stopped_and_the_known_ones_go_on() -> None:
    inbox = Inbox(observations_max=2 * ENTITIES_MAX)
    door = FeedDoor(
        prefix="reefd", allowed=ALLOWED, inbox=inbox, clock=AcceleratedClock(speed=1.0, now_ns=ORIGIN_NS), tell=lambda _: None
    )
    for number in range(ENTITIES_MAX + 5):
        door.take(message({"index_price": 1.0}, f"reefd/feed/market/venue:{number}-USD"))
    assert (door.taken, door.refused) == (ENTITIES_MAX, 5)
    door.take(message({"index_price": 2.0}, "reefd/feed/market/venue:0-USD"))
    assert door.taken == ENTITIES_MAX + 1


def test_the_feed_fails_with_the_connection_and_is_well_again_with_it() -> None:
    inbox = Inbox()
    door = FeedDoor(prefix="r", allowed=ALLOWED, inbox=inbox, clock=AcceleratedClock(speed=1.0, now_ns=ORIGIN_NS), tell=lambda _: None)
    door.connected(True, "")
    assert (door.health.failures, door.health.succeeded_at >= ORIGIN_NS) == (0, True)
    door.connected(False, "refused")
    assert (door.health.failures, door.health.reason) == (1, "refused")
    assert drained(inbox) == [FeedFailed(at=0, source="mqtt", reason="refused")]


# --- commands ---------------------------------------------------------------------------------------------------------

ORDER = {"id": "7", "at": iso(ORIGIN_NS), "token": "letmein", "verb": "halt", "reason": "maintenance"}


def order(**changes: object) -> dict[str, object]:
    return {key: value for key, value in {**ORDER, **changes}.items() if value is not ...}


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (order(at=iso(ORIGIN_NS - 61 * NS)), "it is 1m1s old, and one of over 1m is not taken"),
        (order(at=iso(ORIGIN_NS + 61 * NS)), "it is 1m1s ahead of this clock"),
        (order(at="now"), "at is no ISO-8601 time"),
        (order(verb="pause"), "a pause has an end; write until"),
        (order(verb="pause", until=iso(ORIGIN_NS - NS)), "until must lie within 7d from now"),
        (order(verb="pause", until=iso(ORIGIN_NS + 8 * DAY_NS)), "until must lie within 7d from now"),
        (order(verb="pause", until=iso(ORIGIN_NS + NS), reason=" "), "write a reason to pause"),
        (order(verb="approve", target="r/1"), "write target and plan_digest"),
        (order(verb="deny"), "write the target to deny"),
        (order(verb="resume", reason=...), "write a reason to resume"),
    ],
)
def test_a_command_that_must_not_be_asked_is_refused_with_what_to_write(body: dict[str, object], reason: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        check(read_command(json.dumps(body).encode()), wall=ORIGIN_NS, now=ORIGIN_NS)
    assert reason in str(refused.value)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (json.dumps(order(verb="explode")).encode(), "verb: input should be 'approve', 'deny', 'pause'"),
        (json.dumps(order(token=...)).encode(), "token is missing"),
        (json.dumps(order(tokn="x")).encode(), "'tokn' is no key of a command; the keys are: id, at, token, verb"),
        (json.dumps(order(id="a b")).encode(), "id has characters other than letters"),
        (json.dumps(order(id=7)).encode(), "id: input should be a valid string"),
        (b"halt", "the payload is no JSON object"),
        (b'"halt"', "the payload is no JSON object"),
        (b" " * 9_000, "the payload has 9000 bytes"),
    ],
)
def test_a_command_that_is_none_is_refused_and_its_token_is_not_told(payload: bytes, reason: str) -> None:
    with pytest.raises(CommandRefused) as refused:
        read_command(payload)
    assert reason in str(refused.value)
    assert "letmein" not in str(refused.value)


command_keys = st.dictionaries(st.sampled_from(list(CommandMessage.model_fields)), json_values)


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | command_keys.map(lambda body: json.dumps(body).encode()))
def test_no_command_crashes_the_door(payload: bytes) -> None:
    async def main() -> None:
        door = doorway(perform=lambda _command: never())
        door.take(Incoming(topic="reefd/command", payload=payload))
        assert door.taken + door.refused == 1
        await door.drain(0.0)

    run_virtual(main())


async def never() -> Effect:
    await asyncio.Event().wait()
    raise AssertionError


def doorway(
    *,
    perform: Callable[[Command], Awaitable[Effect]],
    tell: Callable[[Outgoing], None] = lambda _: None,
    authorise: Callable[[str, str], str | None] = lambda token, _verb: "ana" if token == "letmein" else None,
) -> CommandDoor:
    clock = virtual_clock()
    return CommandDoor(prefix="reefd", clock=clock, wall=clock.now, authorise=authorise, perform=perform, tell=tell)


def asked(body: dict[str, object], answer_to: str = "answers/ana", *, retained: bool = False) -> Incoming:
    return Incoming(
        topic="reefd/command", payload=json.dumps(body).encode(), retained=retained, response_topic=answer_to, correlation=b"42"
    )


def test_a_command_is_handed_on_with_its_actor_and_answered_where_its_sender_asked() -> None:
    async def main() -> None:
        commands: list[Command] = []
        told: list[Outgoing] = []

        async def perform(command: Command) -> Effect:
            commands.append(command)
            return Effect(done=True, effect="approved", seq=9, at="then")

        door = doorway(perform=perform, tell=told.append)
        door.take(asked(order(verb="approve", target="run/1", plan_digest="abc")))
        await door.drain(1.0)
        reason = "maintenance"
        command_id = "mqtt:ana/approve/run/1/7"
        assert commands == [Command(verb="approve", actor="ana", command_id=command_id, target="run/1", reason=reason, digest="abc")]
        assert (told[0].topic, told[0].correlation, told[0].retain) == ("answers/ana", b"42", False)
        assert json.loads(told[0].payload) == {"id": "7", "done": True, "effect": "approved", "seq": 9, "at": "then"}

    run_virtual(main())


def test_a_command_that_is_delivered_twice_is_asked_once_and_answered_twice() -> None:
    async def main() -> None:
        commands: list[Command] = []
        told: list[Outgoing] = []
        slow = asyncio.Event()

        async def perform(command: Command) -> Effect:
            commands.append(command)
            await slow.wait()
            return Effect(done=True, effect=f"number {len(commands)}", seq=9, at="then")

        door = doorway(perform=perform, tell=told.append)
        door.take(asked(order(verb="resume")))
        door.take(asked(order(verb="resume")))
        slow.set()
        await door.drain(1.0)
        door.take(asked(order(verb="resume")))  # long after: a halt may have come between, and a resume again would undo it
        await door.drain(1.0)
        assert [command.verb for command in commands] == ["resume"]
        assert [json.loads(answer.payload)["effect"] for answer in told] == ["number 1"] * 3

    run_virtual(main())


@pytest.mark.parametrize("token", ["wrong", ""])
def test_a_stranger_learns_nothing_but_that_the_token_may_not(token: str) -> None:
    async def main() -> None:
        told: list[Outgoing] = []
        door = doorway(perform=lambda _command: never(), tell=told.append)
        door.take(asked(order(token=token, at="not even a time")))
        assert (door.taken, door.refused) == (0, 1)
        assert json.loads(told[0].payload)["effect"] == "nothing: this token may not halt"

    run_virtual(main())


def test_the_role_of_a_token_is_asked_with_the_verb() -> None:
    async def main() -> None:
        seen: list[tuple[str, str]] = []

        def authorise(token: str, verb: str) -> str | None:
            seen.append((token, verb))
            return None

        doorway(perform=lambda _command: never(), authorise=authorise).take(asked(order(verb="resume")))
        assert seen == [("letmein", "resume")]

    run_virtual(main())


def test_a_command_that_the_broker_had_kept_is_refused() -> None:
    async def main() -> None:
        door = doorway(perform=lambda _command: never())
        door.take(asked(order(), retained=True))
        assert (door.taken, door.refused) == (0, 1)

    run_virtual(main())


@pytest.mark.parametrize(
    ("topic", "answered"),
    [
        ("answers/ana", True), ("reefd/answer/ana", True), ("reefd/gate/dydx/BTC-USD", False),
        ("a/#", False), ("$SYS/x", False), ("a\nb", False), ("a" * 501, False), ("", False),
    ],
)  # fmt: skip
def test_an_answer_never_goes_to_a_topic_of_our_own(topic: str, answered: bool) -> None:
    async def main() -> None:
        told: list[Outgoing] = []
        door = doorway(perform=lambda _command: never(), tell=told.append)
        door.take(asked(order(token="wrong"), topic))
        assert bool(told) is answered

    run_virtual(main())


def test_a_halt_is_taken_although_many_commands_wait() -> None:
    async def main() -> None:
        door = doorway(perform=lambda _command: never())
        for number in range(UNDER_WAY_MAX + 1):
            door.take(asked(order(id=str(number), verb="ack", target="x")))
        assert (door.taken, door.refused) == (UNDER_WAY_MAX, 1)
        door.take(asked(order(id="halt")))
        assert door.taken == UNDER_WAY_MAX + 1
        await door.drain(0.1)

    run_virtual(main())


def test_a_command_whose_effect_never_comes_is_not_answered() -> None:
    async def main() -> None:
        told: list[Outgoing] = []
        door = doorway(perform=lambda _command: never(), tell=told.append)
        door.take(asked(order()))
        await door.drain(60.0)
        assert told == []

    run_virtual(main())


# --- what comes twice -------------------------------------------------------------------------------------------------


class Desk:
    """Keeps what it is asked, and answers what a test says."""

    def __init__(self, *answers: Effect) -> None:
        self.asked: list[Command] = []
        self.told: list[dict[str, Any]] = []
        self.wall = ORIGIN_NS
        self._answers = list(answers)
        clock = virtual_clock()
        self.door = CommandDoor(
            prefix="reefd", clock=clock, wall=lambda: self.wall, perform=self._perform,
            authorise=lambda token, _verb: token, tell=lambda message: self.told.append(json.loads(message.payload)),
        )  # fmt: skip

    async def _perform(self, command: Command) -> Effect:
        self.asked.append(command)
        number = len(self.asked)
        return self._answers.pop(0) if self._answers else Effect(done=True, effect=f"{number}: {command.verb} done", seq=number, at="")

    async def ask(self, **changes: object) -> dict[str, Any]:
        """The answer to a message, sent at the wall clock of now unless it says otherwise."""
        self.door.take(asked(order(**{"at": iso(self.wall), "token": "ana", **changes})))
        await self.door.drain(1.0)
        return self.told[-1]


UNSURE = Effect(done=False, effect="not answered in time", seq=0, at="")


@pytest.mark.parametrize("target", ["", "portfolio", "dydx"])
def test_a_halt_reaches_the_desk_each_time_although_its_button_has_one_id(target: str) -> None:
    async def main() -> None:
        desk = Desk()
        for verb in ("halt", "resume", "halt", "halt"):
            assert (await desk.ask(id="panic", verb=verb, target=target))["done"]
        assert [command.verb for command in desk.asked] == ["halt", "resume", "halt", "halt"]
        assert [answer["effect"] for answer in desk.told] == ["1: halt done", "2: resume done", "3: halt done", "4: halt done"]
        # The engine counts an id once: each halt has one of its own, also in one moment.
        assert len({command.command_id for command in desk.asked}) == 4
        assert all(c.command_id.startswith(f"mqtt:ana/{c.verb}/{target}/panic") for c in desk.asked)

    run_virtual(main())


def test_a_halt_does_not_wait_for_the_same_halt_that_hangs() -> None:
    async def main() -> None:
        commands: list[Command] = []

        async def perform(command: Command) -> Effect:
            commands.append(command)
            return await never()

        door = doorway(perform=perform)
        door.take(asked(order(id="panic")))
        door.take(asked(order(id="panic")))
        await door.drain(0.1)
        assert len(commands) == 2

    run_virtual(main())


@pytest.mark.parametrize("other", [{"token": "ben"}, {"verb": "deny"}, {"target": "run/2"}])
def test_an_id_is_one_persons_for_one_verb_and_target(other: dict[str, object]) -> None:
    async def main() -> None:
        desk = Desk()
        await desk.ask(id="1", verb="ack", target="run/1")
        await desk.ask(id="1", **{"verb": "ack", "target": "run/1", **other})
        assert [answer["effect"].split(":")[0] for answer in desk.told] == ["1", "2"]
        assert desk.asked[0].command_id == "mqtt:ana/ack/run/1/1"
        assert desk.asked[1].command_id != desk.asked[0].command_id

    run_virtual(main())


def test_a_command_that_was_not_done_is_asked_again_under_the_same_id_when_it_may_still_be_taken() -> None:
    async def main() -> None:
        desk = Desk(UNSURE)
        assert not (await desk.ask(verb="ack", target="x"))["done"]
        assert (await desk.ask(verb="ack", target="x"))["done"]
        assert [command.command_id for command in desk.asked] == ["mqtt:ana/ack/x/7"] * 2

    run_virtual(main())


def test_a_command_that_was_journaled_and_did_nothing_is_asked_again_as_a_new_one() -> None:
    async def main() -> None:
        # The journal would say "already taken" of the same id, which reads as if it had been done.
        desk = Desk(Effect(done=False, effect="nothing: there is no x", seq=5, at=""), UNSURE)
        for _ in range(3):
            await desk.ask(verb="ack", target="x")
        first, second, third = (command.command_id for command in desk.asked)
        assert second.startswith(f"{first}/")
        assert second == third, "what may still be taken keeps its id"

    run_virtual(main())


def test_what_was_done_is_forgotten_when_its_message_is_too_old_to_be_taken() -> None:
    async def main() -> None:
        desk = Desk()
        ahead = iso(ORIGIN_NS + 50 * NS)  # a sender whose clock is before ours
        await desk.ask(verb="resume", at=ahead)
        desk.wall += AGE_MAX_NS + NS
        assert (await desk.ask(verb="resume", at=ahead))["effect"] == "1: resume done"
        desk.wall += AGE_MAX_NS
        # The journal knows the id, and the desk says so.
        assert (await desk.ask(verb="resume"))["effect"] == "2: resume done"
        assert [command.command_id for command in desk.asked] == ["mqtt:ana/resume//7"] * 2

    run_virtual(main())


@pytest.mark.parametrize("verb", ["resume", "unpause"])
def test_what_lets_loose_and_failed_is_asked_again_only_when_its_sender_says_so_anew(verb: str) -> None:
    async def main() -> None:
        desk = Desk(UNSURE)
        sent = iso(desk.wall)
        await desk.ask(verb=verb, at=sent)
        await desk.ask(verb="halt", id="panic")
        desk.wall += NS
        # The same message, delivered late: a halt came between.
        assert (await desk.ask(verb=verb, at=sent))["effect"] == "not answered in time"
        assert [command.verb for command in desk.asked] == [verb, "halt"]
        assert (await desk.ask(verb=verb))["done"]

    run_virtual(main())


def test_what_is_remembered_does_not_grow_without_end() -> None:
    async def main() -> None:
        desk = Desk()
        for number in range(REMEMBERED_MAX + 2):
            await desk.ask(verb="ack", target="x", id=str(number))
        await desk.ask(verb="ack", target="x", id="0")
        await desk.ask(verb="ack", target="x", id=str(REMEMBERED_MAX))
        assert [command.command_id for command in desk.asked[-2:]] == [f"mqtt:ana/ack/x/{REMEMBERED_MAX + 1}", "mqtt:ana/ack/x/0"]

    run_virtual(main())
