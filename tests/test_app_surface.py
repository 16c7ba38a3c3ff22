"""The surface of a daemon: a fault of what is shown never reaches the loop, and a port that is taken is asked for again."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest
from engine_world import TOPOLOGY, World, runbook

from daemon.app import surface as module
from daemon.app.surface import House, Surface
from daemon.edges.webhook import WebhookSender
from daemon.engine.engine import Transition
from daemon.engine.events import OperatorCommand
from daemon.engine.records import CommandTaken
from daemon.journal.store import Journal
from daemon.service.alerts import Alerts
from daemon.service.clock import AcceleratedClock
from daemon.service.halting import HaltFlag
from daemon.service.inbox import Inbox
from daemon.service.loop import Turns
from daemon.service.rounds import Rounds
from daemon.service.views import StressView
from daemon.settings import parse_settings
from daemon.units import FOREVER
from daemon.web.listening import bind

PAGE = {
    "dry_run": False, "seq": 7, "head": "7:ab", "halted": "", "feeds": [], "blind_venues": {}, "reload_error": "", "coalesced": 0,
    "inbox": 0, "unsettled": [],
}  # fmt: skip


class Stand:
    """A surface with everything that it stands on."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.world = World(runbook())
        self.world.until(5)
        self.journal = Journal.open(folder / "state.db", folder / "feed.db")
        clock = AcceleratedClock(speed=1.0, now_ns=self.world.now, monotonic=lambda: 0)
        settings = parse_settings(f"journal: {{path: {folder / 'state.db'}}}\nhttp: {{port: {port}}}\n", "reefd.yaml")

        async def reload() -> str:
            return ""

        self.surface = Surface(
            House(
                settings=settings,
                topology=TOPOLOGY,
                engine=self.world.engine,
                clock=clock,
                journal=self.journal,
                inbox=Inbox(),
                flag=HaltFlag(folder / "halt"),
                alerts=Alerts(journal=self.journal, sender=WebhookSender([]), now=clock.now, house="test"),
                ready=lambda: "",
                resuming=lambda command_id, asked: None,
                reload=reload,
                stress=lambda: StressView(enabled=False, figures=(), last_at=None, problem="", reports=()),
                rounds=Rounds(self.world.engine),
                timers=dict,
            )
        )


@pytest.fixture
def stand(tmp_path: Path) -> Iterator[Callable[[int], Stand]]:
    made: list[Stand] = []

    def make(port: int = 0) -> Stand:
        made.append(Stand(tmp_path, port))
        return made[-1]

    yield make
    for each in made:
        each.journal.close()


async def until(true: Callable[[], bool], wait_s: float = 60.0) -> None:
    began = time.monotonic()
    while not true():
        assert time.monotonic() - began < wait_s
        await asyncio.sleep(0.01)


def taken(command_id: str) -> CommandTaken:
    return CommandTaken(at=1, command_id=command_id, actor="ana", verb="halt", target="", effect="halted everything", reason="")


async def test_a_fault_of_what_is_shown_is_told_and_stops_nothing(stand: Callable[[int], Stand], monkeypatch: pytest.MonkeyPatch) -> None:
    surface = stand(0).surface

    def broken(*_: object) -> None:
        raise ZeroDivisionError("a chart")

    monkeypatch.setattr(surface._chronicle, "follow", broken)
    monkeypatch.setattr(surface._keeper, "build", broken)
    answer = surface._commands.put(OperatorCommand(at=0, command_id="a", actor="ana", verb="halt"))
    event = OperatorCommand(at=1, command_id="a", actor="ana", verb="halt")
    surface.follow(event, Transition(records=(taken("a"),), actions=(), wake_at=FOREVER), 7)
    surface.publish(PAGE, Turns())
    assert answer.result(0).taken.effect == "halted everything", "people are answered whatever else is broken"
    assert "a chart" in surface.fault
    assert surface.problem == "", "people may go on asking: the API is served"
    monkeypatch.undo()
    surface._cost_ns = 0  # the next snapshot is due at once
    surface.publish(PAGE, Turns())
    assert surface.fault == ""
    assert surface.contained("status", broken) is None


async def test_a_port_that_is_taken_is_asked_for_again_and_served_once_it_is_free(
    stand: Callable[[int], Stand], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "AGAIN_S", 0.05)
    with bind("127.0.0.1", 0) as other:
        other.listen()
        surface = stand(other.getsockname()[1]).surface
        surface.open(asyncio.get_running_loop(), at=0, seq=0)
        try:
            await until(lambda: "is in use" in surface.problem)
            assert surface.url == ""
            other.close()
            await until(lambda: surface.url != "")
            assert surface.problem == ""
            surface.publish(PAGE, Turns())
            async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
                status = (await client.get(f"{surface.url}/api/v1/status")).json()
            assert status["seq"] == 7
            operator = (surface._house.settings.http.operator_token).read_text(encoding="utf-8").strip()
            assert surface.authorise(operator, "halt") == "operator"
            assert surface.authorise("reefd_" + "x" * 43, "halt") is None
        finally:
            await surface.close()
    assert surface.url == ""
