"""A daemon whose surface is read all the time decides as if nobody looked: its journal is verified by a process that nobody asks."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import httpx
import pytest
from service_processes import Venue, ended, free_port, lay_out, spawn, tail, until

from daemon.app.verifying import verify_entries
from daemon.engine.codec import decode
from daemon.engine.events import RunbooksLoaded
from daemon.engine.records import ActionFinished, TriggerChanged
from daemon.journal.store import Journal

SPEED = 10.0
pytestmark = pytest.mark.slow
KINDS = ("portfolio", "bucket", "chain", "venue", "account", "market", "position", "route")
READS = (
    "/api/v1/status",
    "/api/v1/runbooks",
    "/api/v1/runbooks/grinder",
    "/api/v1/why/grinder",
    "/api/v1/gate?market=dydx:BTC-USD",
    "/api/v1/gate?market=dydx:NOBODY-USD",
    "/metrics",
    *(f"/api/v1/world/{kind}" for kind in KINDS),
    "/api/v1/world/market/dydx:BTC-USD",
    "/api/v1/world/position/dydx:NOBODY-USD",
    "/api/v1/world/account/dydx",
    "/api/v1/world/venue/dydx",
)
# It asks how long the venue has been up, which was looked at before and followed by nothing: a reader that began to follow it would make
# it fire too early, and no process that decides the journal anew would agree.
LATER = """
schema: reefd/v1
runbook: later
title: Asks for what was looked at before
owner: tests
severity: warning
intent: economy
stage: armed
scope: account
trigger: {when: venue_up_for > 30s}
steps: [{id: tell, notify: {to: [desk], text: "{account}"}}]
"""


async def test_the_journal_of_a_daemon_that_is_read_all_the_time_is_verified(tmp_path: Path) -> None:
    venue, port, log = Venue(free_port()), free_port(), tmp_path / "run.log"
    path = lay_out(tmp_path, venue.port)
    path.write_text(path.read_text(encoding="utf-8").replace("http: {enabled: false}", f"http: {{port: {port}}}"), encoding="utf-8")
    await venue.start(tmp_path / "scenario.yaml", SPEED, tmp_path / "sim.log")
    process = await spawn("run", "--config", str(path), "--log", "json", log=log)

    def said(text: str) -> int:
        return log.read_text(encoding="utf-8").count(text)

    try:
        await until(lambda: said('"daemon.started"') > 0, log, process)
        answers: dict[str, set[int]] = {read: set() for read in READS}
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=30.0, trust_env=False) as client:
            orders = reloaded = 0
            while orders < 12 or not said("later/dydx/"):
                for read in READS:
                    try:
                        answers[read].add((await client.get(read)).status_code)
                    except httpx.TransportError:
                        await asyncio.sleep(0.2)  # the surface is not there yet
                orders = said('"action.finished"')
                if orders >= 4 and not reloaded:
                    (tmp_path / "runbooks" / "later.yaml").write_text(LATER, encoding="utf-8")
                    process.send_signal(signal.SIGHUP)
                    await until(lambda: said('"runbooks.reloaded"') > 0, log, process)
                    reloaded = 1
                assert process.returncode is None, tail(log)
        assert await ended(process) == 0, tail(log)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
        await venue.stop()
    for read, codes in answers.items():
        unknown = "NOBODY" in read
        assert (404 if unknown else 200) in codes, f"{read}: {codes}"
        assert not {code for code in codes if code >= 500 and code != 503}, f"{read}: {codes}"
    with Journal.open_readonly(tmp_path / "state.db", tmp_path / "feed.db") as journal:
        entries = [decode(entry.body) for entry in journal.entries()]
        assert sum(isinstance(entry, RunbooksLoaded) for entry in entries) == 2
        assert sum(isinstance(entry, ActionFinished) for entry in entries) >= 12
        assert "later" in {entry.runbook for entry in entries if isinstance(entry, TriggerChanged) and entry.change == "fired"}
        verified = verify_entries(journal)
    assert verified.identical, verified.difference
