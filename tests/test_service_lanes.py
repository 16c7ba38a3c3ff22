"""Delivery: one ordered lane an endpoint, other endpoints unhindered, dead letters in the end, nothing twice in the journal's eyes."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest
from service_world import ORIGIN_NS

from daemon.edges.receiver import Receiver
from daemon.edges.webhook import SCHEDULE_CRITICAL_NS, Answer, Dead, Delivered, Disabled, Endpoint, RetryLater, WebhookSender
from daemon.journal.entry import Delivery, JournalError, OutboxItem
from daemon.journal.store import Journal
from daemon.service.clock import AcceleratedClock
from daemon.service.lanes import Lanes
from daemon.units import NS

SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


class Script:
    """A sender that answers by endpoint; what it was asked to send is kept."""

    def __init__(self, **answers: Sequence[Answer]) -> None:
        self.left = {name: list(replies) for name, replies in answers.items()}
        self.endpoints = {name: Endpoint(name=name, url="http://127.0.0.1:9/", secrets=(SECRET,)) for name in answers}
        self.sent: list[tuple[str, str]] = []

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: datetime) -> Answer:
        self.sent.append((endpoint, message_id))
        replies = self.left[endpoint]
        return replies.pop(0) if len(replies) > 1 else replies[0]


def item(number: int, endpoint: str = "desk", severity: str = "warning") -> OutboxItem:
    return OutboxItem(id=f"n.{number}", endpoint=endpoint, body=f'{{"n":{number}}}', severity=severity, created_at=ORIGIN_NS)


async def deliver(journal: Journal, sender: object, *, venue_hours: float, speed: float = 36_000.0) -> tuple[Lanes, list[Delivery]]:
    """Run the lanes for some hours of engine time (ten of them are a second here)."""
    alarms: list[Delivery] = []
    clock = AcceleratedClock(speed=speed, now_ns=ORIGIN_NS)
    lanes = Lanes(journal=journal, sender=sender, clock=clock, raise_alarm=lambda delivery, _why: alarms.append(delivery))  # type: ignore[arg-type]
    running = asyncio.create_task(lanes.run())
    until = ORIGIN_NS + int(venue_hours * 3600 * NS)
    while clock.now() < until and journal.waiting_deliveries():
        lanes.look()
        await asyncio.sleep(0.005)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    await lanes.drain(1.0)
    return lanes, alarms


@pytest.fixture
def journal(tmp_path: Path):  # type: ignore[no-untyped-def]
    with Journal.open(tmp_path / "state.db") as opened:
        yield opened


async def test_lanes_deliver_in_order_and_a_failing_head_holds_only_its_own_lane_back(journal: Journal) -> None:
    journal.append(None, (), [item(1), item(2), item(1, "page"), item(2, "page")]).result()
    sender = Script(desk=[RetryLater(reason="HTTP 503", status=503), Delivered(status=200)], page=[Delivered(status=200)])
    await deliver(journal, sender, venue_hours=3)
    assert [message for endpoint, message in sender.sent if endpoint == "desk"] == ["n.1", "n.1", "n.2"]
    assert [message for endpoint, message in sender.sent if endpoint == "page"] == ["n.1", "n.2"]
    assert journal.waiting_deliveries() == 0
    assert journal.dead_letters() == []


async def test_lanes_give_a_critical_notice_up_after_minutes_and_raise_an_alarm(journal: Journal) -> None:
    journal.append(None, (), [item(1, severity="critical"), item(2)]).result()
    # Two more failures than tries: a probe of the endpoint, which may fall between two tries, is none of the message's.
    sender = Script(desk=[RetryLater(reason="HTTP 503", status=503)] * (len(SCHEDULE_CRITICAL_NS) + 2) + [Delivered(status=200)] * 3)
    lanes, alarms = await deliver(journal, sender, venue_hours=3)
    assert [alarm.id for alarm in alarms] == ["n.1"]
    assert [letter.id for letter in journal.dead_letters()] == ["n.1"]
    assert lanes.dead == 1
    # The lane goes on behind it.
    assert sender.sent[-1] == ("desk", "n.2")
    assert journal.waiting_deliveries() == 0


@pytest.mark.parametrize(("answer", "sends"), [(Disabled(reason="HTTP 410"), 1), (Dead(reason="too large"), 2)])
async def test_lanes_stop_asking_an_endpoint_that_is_gone_and_go_on_after_a_message_it_cannot_take(
    journal: Journal, answer: Answer, sends: int
) -> None:
    journal.append(None, (), [item(1), item(2)]).result()
    sender = Script(desk=[answer])
    lanes, _ = await deliver(journal, sender, venue_hours=3)
    assert len(sender.sent) == sends
    assert len(journal.dead_letters()) == 2
    assert ("desk" in lanes.disabled) == isinstance(answer, Disabled)


async def test_lanes_reach_a_real_receiver_with_a_signature_it_accepts_and_one_id_over_retries(journal: Journal) -> None:
    journal.append(None, (), [item(1), item(2)]).result()
    with Receiver(SECRET, answers=[503]) as receiver:
        sender = WebhookSender([Endpoint(name="desk", url=receiver.url, secrets=(SECRET,), allow_private=True)])
        await deliver(journal, sender, venue_hours=5)
        await sender.close()
        assert [message.message_id for message in receiver.received] == ["n.1", "n.1", "n.2"]
        assert all(message.verified for message in receiver.received)


class Faulty(Script):
    """A sender that raises although it promised not to."""

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: datetime) -> Answer:
        self.sent.append((endpoint, message_id))
        if endpoint == "desk":
            raise RecursionError("maximum recursion depth exceeded")
        return Delivered(status=200)


async def test_a_fault_at_a_try_is_a_failed_try_and_comes_to_an_end(journal: Journal) -> None:
    journal.append(None, (), [item(1, severity="critical"), item(1, "page"), item(2, "page")]).result()
    sender = Faulty(desk=[], page=[])
    _, alarms = await deliver(journal, sender, venue_hours=3)
    assert sender.sent.count(("desk", "n.1")) <= len(SCHEDULE_CRITICAL_NS) + 5  # and a few probes of the breaker
    (letter,) = journal.dead_letters()
    assert (letter.id, letter.attempts) == ("n.1", len(SCHEDULE_CRITICAL_NS))
    assert "RecursionError" in letter.error
    assert [alarm.id for alarm in alarms] == ["n.1"]
    assert [message for endpoint, message in sender.sent if endpoint == "page"] == ["n.1", "n.2"]


async def test_a_delivery_whose_outcome_cannot_be_booked_rests(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(*_: object) -> None:
        raise JournalError("the disk is full")

    journal.append(None, (), [item(1)]).result()
    for call in ("mark_delivered", "mark_failed", "endpoint_failed"):
        monkeypatch.setattr(journal, call, refuses)
    sender = Script(desk=[Delivered(status=200)])
    await deliver(journal, sender, venue_hours=0.05, speed=600.0)  # three minutes of the clock
    assert 1 <= len(sender.sent) <= 4
