"""The desk between the surface's thread and the daemon's loop: what it tells, and what still works while the loop stands."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest
from desk_fake import FakeDesk
from engine_world import MARKET, POSITION, TOPOLOGY, World, runbook

from daemon.app.desk import Behind, LiveDesk
from daemon.engine.events import OperatorCommand
from daemon.journal.reader import Reader
from daemon.journal.store import Journal
from daemon.service.alerts import Alerts
from daemon.service.chronicle import Chronicle
from daemon.service.clock import AcceleratedClock
from daemon.service.commands import Commands
from daemon.service.halting import HaltFlag, Mark
from daemon.service.inbox import Inbox
from daemon.service.rounds import Rounds
from daemon.service.tracks import Tracks
from daemon.service.views import Command, Now, RunQuery, StressView
from daemon.web.desk import NotKnown, Unavailable


class Daemon:
    """Just enough of a daemon behind a desk: an engine, an inbox that somebody may empty, a journal on disk."""

    def __init__(self, folder: Path) -> None:
        self.world = World(runbook(hold="1m"))
        self.world.until(5)
        self.inbox = Inbox()
        self.commands = Commands(inbox=self.inbox, known=lambda name: name in self.world.engine.cold.commands)
        self.flag = HaltFlag(folder / "halt")
        self.snapshot: Now | None = None
        self.errors = ""
        self.fault = ""
        self.resuming: dict[str, Mark] = {}
        self.journal = Journal.open(folder / "state.db", folder / "feed.db")

    def desk(self, loop: asyncio.AbstractEventLoop, *, ask_s: float = 5.0) -> LiveDesk:
        async def reload() -> str:
            return self.errors

        behind = Behind(
            loop=loop,
            engine=self.world.engine,
            rounds=Rounds(self.world.engine),
            topology=TOPOLOGY,
            clock=AcceleratedClock(speed=1.0, now_ns=self.world.now, monotonic=lambda: 0),
            commands=self.commands,
            alerts=cast("Alerts", None),  # no test here asks for alerts
            reader=Reader(self.journal.path),
            chronicle=Chronicle(),
            tracks=Tracks(),
            flag=self.flag,
            ready=lambda: "",
            resuming=self.resuming.__setitem__,
            fault=lambda: self.fault,
            reload=reload,
            snapshot=lambda: self.snapshot,
            stress=lambda: StressView(enabled=False, figures=(), last_at=None, problem="", reports=()),
            report=lambda name: None,
        )
        return LiveDesk(behind, ask_s=ask_s, command_s=5.0)

    async def turn(self) -> None:
        """What the loop does: take what waits, decide, answer. Ends when it is cancelled."""
        while True:
            await self.inbox.wait(1.0)
            while (event := self.inbox.take()) is not None:
                assert isinstance(event, OperatorCommand)
                self.world.now += 1
                transition = self.world.engine.step(replace(event, at=self.world.now))
                asked = self.resuming.pop(event.command_id, None)  # as the daemon does once the resume is on disk
                if asked is not None:
                    self.flag.remove(asked=asked)
                self.commands.follow(transition.records, 7)


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    found = Daemon(tmp_path)
    yield found
    found.journal.close()


@pytest.fixture
def standing() -> Iterator[asyncio.AbstractEventLoop]:
    """A loop that stands: it takes calls and never runs them."""
    loop = asyncio.new_event_loop()
    yield loop
    loop.close()


def command(verb: str, **more: str) -> Command:
    return Command(verb=verb, actor="ana", command_id=f"{verb}-1", **more)  # type: ignore[arg-type]


# --- while the loop stands ----------------------------------------------------------------------------------------------


async def test_halt_counts_while_the_loop_stands_and_says_what_is_certain(daemon: Daemon, standing: asyncio.AbstractEventLoop) -> None:
    desk = daemon.desk(standing, ask_s=0.01)
    effect = await desk.command(command("halt", reason="the oracle lies"))
    assert daemon.flag.text() == f"halted by {daemon.flag.path}: ana: the oracle lies"
    assert effect.done
    assert effect.effect.startswith("the halt flag is set, nothing is sent any more; the daemon's loop did not answer")
    answer = await desk.gate(MARKET)
    assert not answer.open
    assert "the oracle lies" in answer.why


async def test_halt_that_cannot_write_its_flag_halts_this_process_and_says_so(
    daemon: Daemon, standing: asyncio.AbstractEventLoop
) -> None:
    daemon.flag.path.parent.joinpath("halt").mkdir()  # a folder where the file should be: it can be neither opened nor written
    effect = await daemon.desk(standing, ask_s=0.01).command(command("halt", reason="now"))
    assert effect.done
    assert "the halt flag cannot be written" in effect.effect
    assert daemon.flag.there()
    assert daemon.flag.text().startswith("halted in memory")


async def test_halt_does_not_wait_for_what_readers_wait_for(daemon: Daemon, standing: asyncio.AbstractEventLoop) -> None:
    release = threading.Event()
    loop = asyncio.get_running_loop()
    busy = [loop.run_in_executor(None, release.wait) for _ in range(100)]  # every thread of the pool, and a queue before it
    try:
        effect = await asyncio.wait_for(daemon.desk(standing, ask_s=0.01).command(command("halt")), 5)
        assert effect.done
        assert daemon.flag.there()
    finally:
        release.set()
        await asyncio.gather(*busy)


async def test_snapshot_that_cannot_be_made_says_so_and_not_that_the_loop_stands(daemon: Daemon) -> None:
    daemon.snapshot = replace(await FakeDesk().now(), published=datetime.now(UTC).isoformat())
    daemon.fault = "the page cannot be made: a chart"
    now = await daemon.desk(asyncio.get_running_loop()).now()
    assert (now.line, now.why) == ("BLIND", "what follows is old: the page cannot be made: a chart")


async def test_every_other_question_says_that_the_loop_stands(daemon: Daemon, standing: asyncio.AbstractEventLoop) -> None:
    desk = daemon.desk(standing, ask_s=0.01)
    for question in (desk.runbooks(), desk.why("spike"), desk.gate(MARKET), desk.entity("market", MARKET), desk.command(command("pause"))):
        with pytest.raises(Unavailable, match="did not answer"):
            await question
    assert await desk.runs(RunQuery()) == ()


async def test_questions_after_the_end_say_that_the_daemon_has_stopped(daemon: Daemon) -> None:
    loop = asyncio.new_event_loop()
    loop.close()
    desk = daemon.desk(loop)
    with pytest.raises(Unavailable, match="has stopped"):
        await desk.runbooks()
    with pytest.raises(Unavailable, match="has stopped"):
        await desk.reload("ana")


async def test_snapshot_that_is_old_is_blind_and_one_that_never_was_is_unavailable(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    with pytest.raises(Unavailable, match="starting"):
        await desk.now()
    fresh = replace(await FakeDesk().now(), published=datetime.now(UTC).isoformat())
    daemon.snapshot = fresh
    assert (await desk.now()).line == fresh.line
    daemon.snapshot = replace(fresh, published=(datetime.now(UTC) - timedelta(seconds=60)).isoformat())
    old = await desk.now()
    assert old.line == "BLIND"
    assert "has not turned for" in old.why


# --- while it turns -----------------------------------------------------------------------------------------------------


async def test_commands_are_answered_with_what_was_journaled_and_count_once(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    turning = asyncio.create_task(daemon.turn())
    try:
        paused = await desk.command(command("pause", target="spike", until="2030-01-01T00:00:00Z", reason="tests"))
        assert (paused.done, paused.effect, paused.seq) == (True, "paused spike", 7)
        again = await desk.command(command("pause", target="spike"))
        assert "counts once" in again.effect
        nothing = await desk.command(command("approve", target="spike"))
        assert not nothing.done
        halted = await desk.command(command("halt"))
        assert halted.effect == "halted everything"
        assert daemon.world.engine.cold.halted
        resumed = await desk.command(command("resume"))
        assert resumed.done
        assert not daemon.flag.there()
        assert not daemon.world.engine.cold.halted
        await desk.command(replace(command("halt", reason="again"), command_id="halt-2"))
        late = await desk.command(command("resume"))
        assert "counts once" in late.effect
        assert daemon.flag.there(), "a resume that is sent again must not undo a halt that came after it"
        assert daemon.world.engine.cold.halted
    finally:
        turning.cancel()


async def test_a_resume_on_its_way_does_not_take_away_a_flag_that_is_set_meanwhile(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    daemon.flag.set("ana")
    resume = asyncio.create_task(desk.command(command("resume")))
    async with asyncio.timeout(5):
        await daemon.inbox.wait(5.0)  # it is asked for
    assert daemon.resuming
    daemon.flag.set("ben: the oracle lies")
    turning = asyncio.create_task(daemon.turn())
    try:
        assert (await resume).done
        assert daemon.flag.there()
    finally:
        turning.cancel()


async def test_a_resume_that_is_not_taken_leaves_the_flag(daemon: Daemon) -> None:
    daemon.commands = Commands(inbox=Inbox(commands_max=1), known=lambda _: False)
    daemon.commands.put(OperatorCommand(at=0, command_id="other", actor="ben", verb="ack"))
    daemon.flag.set("ana")
    refused = await daemon.desk(asyncio.get_running_loop()).command(command("resume"))
    assert not refused.done
    assert daemon.flag.there()


async def test_openings_alone_are_halted_by_the_portfolios_gate_and_no_flag(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    turning = asyncio.create_task(daemon.turn())
    try:
        halted = await desk.command(command("halt", target="portfolio"))
        assert halted.done
        assert not daemon.flag.there()
        assert "portfolio/portfolio" in daemon.world.engine.cold.gates
    finally:
        turning.cancel()


async def test_reload_that_is_refused_tells_the_errors_and_is_journaled_with_its_actor(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    turning = asyncio.create_task(daemon.turn())
    try:
        assert (await desk.reload("ana")).done
        daemon.errors = "spike.yaml:3:1: error R001: ..."
        refused = await desk.reload("ana")
        assert not refused.done
        assert "spike.yaml:3:1" in refused.effect
        assert any(name.startswith("reload-ana-") for name in daemon.world.engine.cold.commands)
    finally:
        turning.cancel()


async def test_names_that_are_not_known_are_told_with_those_that_are(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    for question, said in (
        (desk.why("spike", "dydx:XYZ-USD"), POSITION),
        (desk.runbook("spoke"), "spike"),
        (desk.entity("market", "dydx:XYZ-USD"), MARKET),
        (desk.world("planet"), "market"),
        (desk.gate("dydx:XYZ-USD"), MARKET),
        (desk.run("spike/dydx:ETH-USD/1/1"), "there is no run"),
        (desk.report("x.html"), "no report"),
    ):
        with pytest.raises(NotKnown, match=said):
            await question


async def test_looking_tells_what_is_there_and_leaves_the_engine_as_it_was(daemon: Daemon) -> None:
    desk = daemon.desk(asyncio.get_running_loop())
    before = {name: bytes(blob) for name, blob in daemon.world.engine.checkpoint().items()}
    view = await desk.entity("market", MARKET)
    assert {"oracle_price", "mid_price"} <= {reading.signal for reading in view.readings}
    assert view.gate is not None
    why = await desk.why("spike")
    assert (why.entity, why.state) == (POSITION, "inactive")
    detail = await desk.runbook("spike")
    assert detail.hold_s == 60.0
    assert [each.id for each in await desk.runbooks()] == ["spike"]
    assert (await desk.world("position", signals=("size",)))[0].readings[0].shown == "10 base"
    assert {name: bytes(blob) for name, blob in daemon.world.engine.checkpoint().items()} == before
