"""The dead man's switch against a real receiver: it beats while all is well, and is silent while it cannot do its work."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from daemon.edges.receiver import Received, Receiver
from daemon.edges.webhook import Endpoint, WebhookSender
from daemon.service.heartbeat import ENDPOINT, Heartbeat

SECRET = "whsec_" + base64.b64encode(b"0123456789abcdef01234567").decode()


class Enough(Exception):
    """The test has seen enough."""


@pytest.fixture
def heard() -> Iterator[tuple[Receiver, list[Received]]]:
    received: list[Received] = []
    with Receiver(SECRET, on_received=received.append) as receiver:
        yield receiver, received


def heartbeat(url: str, unfit: list[str], beats: int) -> Heartbeat:
    """A heartbeat that stops after so many; `unfit` gives, beat by beat, why there is none."""
    left = iter(range(beats - 1))
    seconds = iter(range(100))

    async def pause(_seconds: float) -> None:
        if next(left, None) is None:
            raise Enough

    sender = WebhookSender([Endpoint(name=ENDPOINT, url=url, secrets=(SECRET,), allow_private=True)])
    reasons = iter(unfit)
    return Heartbeat(
        sender=sender,
        every_s=60.0,
        unfit=lambda: next(reasons),
        says=lambda: {"line": "QUIET"},
        wall=lambda: datetime.fromtimestamp(datetime.now(UTC).timestamp() + next(seconds), UTC),
        pause=pause,
    )


async def beat(one: Heartbeat) -> None:
    with pytest.raises(Enough):
        await asyncio.wait_for(one.run(), 20)


async def test_heartbeat_is_signed_and_says_what_the_daemon_is_doing(heard: tuple[Receiver, list[Received]]) -> None:
    receiver, received = heard
    one = heartbeat(receiver.url, ["", ""], 2)
    await beat(one)
    assert [(message.kind, message.verified, message.repeated) for message in received] == [("heartbeat", True, False)] * 2
    assert one.failed == 0


async def test_heartbeat_is_silent_while_the_daemon_cannot_do_its_work_and_comes_back(heard: tuple[Receiver, list[Received]]) -> None:
    receiver, received = heard
    one = heartbeat(receiver.url, ["", "dydx: blind", "dydx: blind", ""], 4)
    await beat(one)
    assert len(received) == 2
    assert one.left_out == ""


async def test_heartbeat_goes_on_when_nobody_takes_it() -> None:
    one = heartbeat("http://127.0.0.1:9/", ["", ""], 2)
    await beat(one)
    assert one.failed == 2


async def test_a_fault_at_a_beat_does_not_end_the_daemon() -> None:
    one = heartbeat("http://127.0.0.1:9/", [], 3)  # its question for why there is none raises
    await beat(one)
    assert one.failed == 3
