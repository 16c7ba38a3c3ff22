"""The daemon as a process: what a person does to it, and what breaks around it."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
import pytest_asyncio
from service_processes import RUNBOOK, WAIT_S, Venue, ended, free_port, lay_out, spawn, tail, until

from daemon.app.verifying import verify_entries
from daemon.engine.codec import decode
from daemon.engine.events import OperatorCommand, RunbooksLoaded
from daemon.engine.records import ActionFinished, ActionRequested, HaltChanged
from daemon.journal.entry import JournalError
from daemon.journal.store import Journal

SPEED = 10.0
pytestmark = pytest.mark.slow


class Running:
    """One daemon of a test: its folder, and its process while it runs."""

    def __init__(self, folder: Path, venue: Venue) -> None:
        self.folder = folder
        self.venue = venue
        self.log = folder / "run.log"
        self.process: asyncio.subprocess.Process | None = None

    async def start(self, *words: str, port: int | None = None, clock: str = "venue") -> asyncio.subprocess.Process:
        config = lay_out(self.folder, port or self.venue.port, clock=clock) if not (self.folder / "reefd.yaml").exists() else None
        path = config or self.folder / "reefd.yaml"
        self.process = await spawn("run", "--config", str(path), "--log", "json", *words, log=self.log)
        return self.process

    async def wait_for(self, text: str, times: int = 1) -> None:
        assert self.process is not None
        await until(lambda: self.said(text) >= times, self.log, self.process)

    def said(self, text: str) -> int:
        return self.log.read_text(encoding="utf-8").count(text) if self.log.exists() else 0

    def entries(self, *kinds: type, name: str = "state.db") -> list[Any]:
        feed = "feed.db" if name == "state.db" else "dry-run-feed.db"
        with Journal.open_readonly(self.folder / name, self.folder / feed) as journal:
            return [entry for entry in (decode(e.body) for e in journal.entries()) if isinstance(entry, kinds)]

    async def status(self) -> tuple[int, dict[str, Any]]:
        out = self.folder / "status.out"
        out.unlink(missing_ok=True)
        process = await spawn("status", "--config", str(self.folder / "reefd.yaml"), "--format", "json", log=out)
        code = await process.wait()
        return code, json.loads(out.read_text(encoding="utf-8"))


@pytest_asyncio.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Running]:
    venue = Venue(free_port())
    running = Running(tmp_path, venue)
    yield running
    if running.process is not None and running.process.returncode is None:
        running.process.kill()
        await running.process.wait()
    await venue.stop()


async def begin(daemon: Running, *words: str) -> None:
    """A venue, a daemon, and the daemon's first order filled (or rejected, or halted)."""
    lay_out(daemon.folder, daemon.venue.port)
    await daemon.venue.start(daemon.folder / "scenario.yaml", SPEED, daemon.folder / "sim.log")
    await daemon.start(*words)


async def test_daemon_keeps_the_old_runbooks_when_a_reload_is_bad_and_takes_a_good_one(daemon: Running) -> None:
    await begin(daemon)
    await daemon.wait_for('"action.finished"')
    file, process = daemon.folder / "runbooks" / "grinder.yaml", daemon.process
    assert process is not None
    file.write_text(RUNBOOK.replace("max_slippage: 100bps", "max_slipage: 100"), encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    await daemon.wait_for('"runbooks.kept"')
    finished = daemon.said('"action.finished"')
    await daemon.wait_for('"action.finished"', finished + 2)  # the old set goes on acting
    await asyncio.sleep(0.3)
    code, page = await daemon.status()
    assert code == 1
    assert any("max_slipage" in problem and "grinder.yaml:" in problem for problem in page["degraded"])
    file.write_text(RUNBOOK.replace("abs(size) > 0", "mark_price > 0"), encoding="utf-8")  # right, but this venue has no such price
    process.send_signal(signal.SIGHUP)
    await daemon.wait_for('"runbooks.kept"', 2)
    assert "E044" in tail(daemon.log)
    file.write_text(RUNBOOK.replace("0.2%", "0.1%"), encoding="utf-8")
    process.send_signal(signal.SIGHUP)
    await daemon.wait_for('"runbooks.reloaded"')
    finished = daemon.said('"action.finished"')
    await daemon.wait_for('"action.finished"', finished + 2)
    code, page = await daemon.status()
    assert (code, page["degraded"]) == (0, [])
    assert await ended(process) == 0, tail(daemon.log)
    sets = daemon.entries(RunbooksLoaded)
    assert len(sets) == 2
    assert sets[0].runbooks != sets[1].runbooks
    with Journal.open_readonly(daemon.folder / "state.db") as journal:
        assert verify_entries(journal).identical
    # The next start finds broken files: the set that was in force goes on, and says so.
    file.write_text("runbook: [", encoding="utf-8")
    process = await daemon.start()
    await daemon.wait_for('"runbooks.kept"', 3)
    finished = daemon.said('"action.finished"')
    await daemon.wait_for('"action.finished"', finished + 1)
    assert await ended(process) == 0
    assert daemon.entries(RunbooksLoaded)[2].runbooks == sets[1].runbooks


async def test_daemon_obeys_the_halt_flag_at_start_and_while_it_runs_and_goes_on_when_it_is_removed(daemon: Running) -> None:
    flag = daemon.folder / "halt"
    flag.write_text("maintenance at the venue\n", encoding="utf-8")
    await begin(daemon)
    await daemon.wait_for('"halt.changed"')
    await asyncio.sleep(1.0)  # ten seconds of the venue, in which it would have acted
    assert await daemon.venue.log() == []
    code, page = await daemon.status()
    assert code == 1
    assert "maintenance at the venue" in page["halted"]
    flag.unlink()
    await daemon.wait_for('"action.finished"')
    flag.touch()
    await daemon.wait_for('"halt.changed"', 3)
    assert daemon.process is not None
    assert await ended(daemon.process) == 0, tail(daemon.log)
    orders = len(await daemon.venue.log())
    assert orders >= 1
    assert [change.halted for change in daemon.entries(HaltChanged)] == [True, False, True]
    assert {command.actor for command in daemon.entries(OperatorCommand)} == {"halt flag"}


async def test_daemon_of_a_dry_run_decides_everything_and_sends_nothing(daemon: Running) -> None:
    await begin(daemon, "--dry-run")
    await daemon.wait_for('"action.finished"')
    assert daemon.process is not None
    assert await ended(daemon.process) == 0, tail(daemon.log)
    assert await daemon.venue.log() == []
    finished = daemon.entries(ActionFinished, name="dry-run-state.db")
    assert finished
    assert {(found.outcome.status, found.outcome.reason) for found in finished} == {("rejected", "dry run: nothing was sent")}
    assert not (daemon.folder / "state.db").exists()


async def test_second_daemon_on_one_journal_is_refused_with_one_message(daemon: Running) -> None:
    await begin(daemon)
    await daemon.wait_for('"daemon.started"')
    other = daemon.folder / "other.log"
    second = await spawn("run", "--config", str(daemon.folder / "reefd.yaml"), log=other)
    assert await second.wait() == 2
    said = tail(other)
    assert "another reefd is running on this journal" in said
    assert "Traceback" not in said


async def test_daemon_stops_acting_and_ends_with_code_three_when_the_journal_cannot_commit(daemon: Running) -> None:
    lay_out(daemon.folder, daemon.venue.port)
    await daemon.venue.start(daemon.folder / "scenario.yaml", SPEED, daemon.folder / "sim.log")
    await limited(daemon, ["run", "--config", str(daemon.folder / "reefd.yaml"), "--log", "json"], kilobytes=260)
    assert daemon.process is not None
    assert await asyncio.wait_for(daemon.process.wait(), WAIT_S) == 3, tail(daemon.log)
    said = tail(daemon.log)
    assert "the journal cannot commit" in said
    assert "Traceback" not in said
    # Every order that the venue saw was on disk before it was sent.
    executed = [entry for entry in await daemon.venue.log() if entry["kind"] == "order"]
    try:
        intents = len(daemon.entries(ActionRequested))
    except JournalError:
        intents = 0
    assert len(executed) <= intents
    # With room on the disk again the next start recovers and goes on.
    process = await daemon.start()
    await daemon.wait_for('"daemon.started"', 2)
    finished = daemon.said('"action.finished"')
    await daemon.wait_for('"action.finished"', finished + 1)
    assert await ended(process) == 0, tail(daemon.log)


async def limited(daemon: Running, words: Sequence[str], kilobytes: int) -> None:
    """A daemon that can write no file larger than so many kilobytes: a full disk as far as SQLite can tell. Its log goes through a pipe."""
    command = f"ulimit -f {kilobytes}; exec {sys.executable} -m daemon.cli {' '.join(words)}"
    with daemon.log.open("ab") as stream:
        daemon.process = await asyncio.create_subprocess_exec("bash", "-c", command, stdout=stream, stderr=stream)


async def test_daemon_without_its_venue_keeps_running_and_says_that_it_is_blind(daemon: Running) -> None:
    lay_out(daemon.folder, daemon.venue.port, clock="wall")
    process = await daemon.start(clock="wall")
    await daemon.wait_for('"history.failed"')
    await asyncio.sleep(0.5)
    code, page = await daemon.status()
    assert code == 1
    assert any("failing" in problem and "cannot connect" in problem for problem in page["degraded"])
    assert await ended(process) == 0, tail(daemon.log)
    assert "Traceback" not in tail(daemon.log)


async def test_halted_venue_degrades_the_status_and_names_the_instances_that_it_blinds(daemon: Running) -> None:
    lay_out(daemon.folder, daemon.venue.port)
    await daemon.venue.start(daemon.folder / "scenario.yaml", 100.0, daemon.folder / "sim.log")
    await daemon.start()
    await daemon.wait_for('"action.finished"')
    async with httpx.AsyncClient(trust_env=False, timeout=WAIT_S) as client:
        (await client.post(f"{daemon.venue.url}/sim/shocks", json={"kind": "venue_halt", "for": "20m"})).raise_for_status()
    await daemon.wait_for('"venue.blind"')
    await asyncio.sleep(0.5)
    code, page = await daemon.status()
    assert code == 1
    assert any("dydx: its last block is" in problem and "UNKNOWN" in problem for problem in page["degraded"])
    assert "1 instance cannot be judged: grinder on dydx:BTC-USD lacks size" in page["degraded"]
    # The slowest decision of all was to compile the runbooks, pages ago.
    assert page["loop"]["step_ms_max"] > 1.0
    await daemon.wait_for('"venue.seen"')
    assert daemon.said('"venue.blind"') == 1


async def test_daemon_whose_simulated_venue_is_started_anew_says_that_it_must_be_restarted(daemon: Running) -> None:
    await begin(daemon)
    await daemon.wait_for('"action.finished"')
    await daemon.venue.stop()
    await daemon.venue.start(daemon.folder / "scenario.yaml", SPEED, daemon.folder / "sim.log")
    await daemon.wait_for('"clock.apart"')
    await asyncio.sleep(0.5)
    code, page = await daemon.status()
    assert code == 1
    assert any("the simulated venue was started anew: its clock says" in problem for problem in page["degraded"])


async def test_daemon_that_shares_a_clock_nobody_tells_ends_with_code_two_and_one_message(daemon: Running) -> None:
    process = await daemon.start()
    assert await asyncio.wait_for(process.wait(), WAIT_S) == 2
    said = tail(daemon.log)
    assert "start `reefd sim` first" in said
    assert "Traceback" not in said


@pytest.mark.parametrize(("right", "wrong"), [("owner: tests", "ownr: tests"), ("abs(size) > 0", "mark_price > 0")])
async def test_first_start_with_broken_runbooks_ends_with_code_one_and_every_mistake(daemon: Running, right: str, wrong: str) -> None:
    lay_out(daemon.folder, daemon.venue.port, clock="wall", runbook=RUNBOOK.replace(right, wrong))
    process = await daemon.start()
    assert await asyncio.wait_for(process.wait(), WAIT_S) == 1
    said = tail(daemon.log)
    assert wrong.split()[0].rstrip(":") in said
    assert "Traceback" not in said


async def test_venue_on_a_port_in_use_ends_with_code_two_and_one_message(daemon: Running) -> None:
    lay_out(daemon.folder, daemon.venue.port)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        log = daemon.folder / "sim.log"
        process = await spawn("sim", "--scenario", str(daemon.folder / "scenario.yaml"), "--port", str(port), "--speed", "1", log=log)
        assert await asyncio.wait_for(process.wait(), WAIT_S) == 2
    assert str(port) in tail(log)
    assert "Traceback" not in tail(log)
