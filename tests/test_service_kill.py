"""kill -9 of the real daemon in the middle of an action, twenty times, against the simulated venue over HTTP: 0 lost, 0 doubled.

A proxy sits on the wire, so that the kill falls where a seed says: before the order reaches the venue, after it was executed but before
the answer, right after the answer, or at any moment at all; and an order may still arrive after its daemon is dead. The venue's own log
and lookups are the judge.
"""

from __future__ import annotations

import asyncio
import random
import signal
from collections import Counter, defaultdict
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from service_processes import WAIT_S, Exchange, Proxy, Venue, body_of, ended, free_port, lay_out, spawn, tail, until

from daemon.app.verifying import verify_entries
from daemon.engine.actions import ShrinkPosition
from daemon.engine.answers import client_id
from daemon.engine.codec import decode
from daemon.engine.events import ActionSettled, Gap
from daemon.engine.records import ActionRequested
from daemon.journal.store import Journal

KILLS = 20
SPEED = 10.0
SEED = 20260203


class Killer:
    """Decides, order by order, what happens on the wire and when the daemon dies."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.armed = False
        self.process: asyncio.subprocess.Process | None = None
        self.phases: Counter[str] = Counter()
        self.sent: list[dict[str, Any]] = []  # every order body that came over the wire, late or not
        self.victims: set[int] = set()  # client ids of orders on the wire around a kill

    def has_seen(self, orders: int) -> bool:
        return len(self.sent) >= orders

    def kill(self, phase: str) -> None:
        assert self.process is not None
        self.armed = False
        self.phases[phase] += 1
        self.process.kill()

    async def ordered(self, exchange: Exchange) -> None:
        body = body_of(exchange.request)
        self.sent.append(body)
        if not self.armed:
            await exchange.forward()
            await exchange.reply()
            return
        self.victims.add(int(body["client_id"]))
        match self.chance.choice(("lost", "late", "executed", "answered", "passing")):
            case "lost":  # it never reaches the venue
                self.kill("lost")
            case "late":  # it reaches the venue when its daemon is dead, perhaps when the next one is already looking
                self.kill("late")
                await asyncio.sleep(self.chance.uniform(0.0, 2.2))
                await exchange.forward()
            case "executed":  # done, and nobody was told
                await exchange.forward()
                self.kill("executed")
            case "answered":  # told, perhaps not yet written down
                await exchange.forward()
                await exchange.reply()
                await asyncio.sleep(self.chance.uniform(0.0, 0.01))
                if self.armed:
                    self.kill("answered")
            case _:
                await exchange.forward()
                await exchange.reply()


@pytest.mark.slow
async def test_daemon_loses_and_doubles_nothing_when_it_is_killed_in_the_middle_of_an_action_twenty_times(tmp_path: Path) -> None:
    venue, killer = Venue(free_port()), Killer(SEED)
    proxy = Proxy(venue, killer.ordered)
    config = str(lay_out(tmp_path, proxy.port))
    log = tmp_path / "run.log"
    await venue.start(tmp_path / "scenario.yaml", SPEED, tmp_path / "sim.log")
    await proxy.start()
    try:
        for number in range(KILLS):
            killer.process = await spawn("run", "--config", config, "--log", "json", log=log)
            # Sometimes the first order of a life is the one, sometimes the daemon lives on for a while.
            orders = len(killer.sent) + killer.chance.randint(0, 2)
            await until(partial(killer.has_seen, orders), log, killer.process)
            killer.armed = True
            anyway = asyncio.create_task(kill_at_random(killer, number))
            await asyncio.wait_for(killer.process.wait(), WAIT_S)
            anyway.cancel()
            assert killer.process.returncode == -signal.SIGKILL, tail(log)
        killer.process = await spawn("run", "--config", config, "--log", "json", log=log)
        orders = len(killer.sent) + 2
        await until(partial(killer.has_seen, orders), log, killer.process)
        assert await ended(killer.process) == 0, tail(log)
        await proxy.stop()
        positions = await venue.get("/v4/perpetualPositions?address=dydx1reefdsim&subaccountNumber=0")
        judge(await venue.log(), killer, positions, tmp_path)
    finally:
        if killer.process is not None and killer.process.returncode is None:
            killer.process.kill()
        await venue.stop()


async def kill_at_random(killer: Killer, number: int) -> None:
    """Every fourth kill falls at any moment: while recovering, polling, deciding or writing."""
    await asyncio.sleep(killer.chance.uniform(0.0, 2.0) if number % 4 == 3 else 10.0)
    if killer.armed:
        killer.kill("anywhere")


def judge(entries: list[dict[str, Any]], killer: Killer, positions: dict[str, Any], folder: Path) -> None:
    intents: dict[str, ActionRequested] = {}
    outcomes: dict[str, list[ActionSettled]] = defaultdict(list)
    starts = 0
    with Journal.open_readonly(folder / "state.db") as journal:
        assert journal.verify_chain().intact
        for entry in journal.entries():
            decoded = decode(entry.body)
            match decoded:
                case ActionRequested() if isinstance(decoded.action, ShrinkPosition):
                    assert decoded.action.action_id not in intents, "an intent is journaled once"
                    intents[decoded.action.action_id] = decoded
                case ActionSettled():
                    outcomes[decoded.action_id].append(decoded)
                case Gap(cause="start"):
                    starts += 1
                case _:
                    pass
    assert KILLS // 2 < starts <= KILLS + 1  # a daemon that dies while it starts leaves no mark
    assert sum(killer.phases.values()) == KILLS
    executed = [entry for entry in entries if entry["kind"] == "order" and entry["outcome"] == "executed"]
    by_client = Counter(int(entry["client_id"]) for entry in executed)
    known = {client_id(action_id): action_id for action_id in intents}

    # Nothing was sent without an intent on disk, nothing was sent twice.
    assert {int(body["client_id"]) for body in killer.sent} <= set(known)
    assert max(Counter(int(body["client_id"]) for body in killer.sent).values()) == 1
    # 0 doubled: the venue executed no id twice, and no slice of a plan under two ids.
    assert max(by_client.values()) == 1
    filled = {known[int(entry["client_id"])]: Decimal(str(entry["detail"]["filled_size"])) for entry in executed}
    slices = Counter((intents[i].run_id, intents[i].step, intents[i].slice) for i, size in filled.items() if size)
    assert max(slices.values()) == 1, slices.most_common(3)
    # 0 lost: every intent has come to a definite outcome, and it is the one the venue has.
    for action_id in intents:
        final = outcomes[action_id][-1].outcome
        assert final.status in ("done", "failed"), (action_id, final)
        assert (final.status == "done") == (filled.get(action_id, Decimal(0)) > 0), (action_id, final)
        if final.status == "done":
            assert final.filled_size == filled[action_id], action_id
    # The position is what the journal's books say it is.
    left = Decimal(str(next(row for row in positions["positions"] if row["status"] == "OPEN")["size"]))
    assert left == 100 - sum(filled.values())
    # The test itself: kills fell on every side of the send, and restarts had both to find orders and to give them up for lost.
    assert {"lost", "late", "executed", "answered", "anywhere"} <= set(killer.phases), killer.phases
    victims = {known[number] for number in killer.victims if number in known}
    assert {"done", "failed"} <= {outcomes[action_id][-1].outcome.status for action_id in victims}
    # What was decided live is decided again, byte for byte, over all twenty-one lives.
    with Journal.open_readonly(folder / "state.db") as journal:
        found = verify_entries(journal)
    assert found.identical, found.difference
