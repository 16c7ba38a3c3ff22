"""`reefd demo` (floor 9): a simulated venue, the daemon and a webhook receiver, for about a minute; then what happened is checked.

The venue and the daemon are processes of their own and talk HTTP; this process only watches, and stops both at the end.
"""

from __future__ import annotations

import asyncio
import base64
import secrets
import shutil
import signal
import socket
import sys
import tempfile
import time
from asyncio.subprocess import Process
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from daemon.app.shipped import own_environment, shipped
from daemon.app.status import read_page, status_path
from daemon.app.story import AUDITED, PROMISES, SERVED, Story
from daemon.app.verifying import verify_journal
from daemon.edges.http import HttpSource
from daemon.edges.receiver import Received, Receiver
from daemon.engine.codec import decode
from daemon.errors import EdgeError, UserError
from daemon.journal.entry import JournalError
from daemon.journal.store import Journal
from daemon.simulation.scenario import Scenario, load_scenario
from daemon.units import NS, iso, parse_iso

SECONDS_MAX = 180.0  # real seconds; the shipped scenario has shown everything after about 40 where nothing else runs
LINGER_SECONDS = 2.0  # after the last promise, so that what it led to is seen too
SPEED = 14.0  # venue seconds a second: some 50 requests a second; a stall of half a second is 7 s of the venue, within every max_age
START_SECONDS_MAX = 60.0  # two seconds are enough where nothing else runs
STOP_SECONDS_MAX = 15.0  # more than the settings give the daemon for what is on the wire
LOOK_EVERY_SECONDS = 0.5
FEED_LINE_EVERY_SECONDS = 6.0
LOG_LINES_SHOWN = 30  # of a process that died
SECRET_VARIABLE = "REEFD_DEMO_WEBHOOK_SECRET"
HTTP_PORT = 8470  # the default of `http.port`


def demo(*, seconds: float | None, speed: float | None) -> int:
    """Plays the demo; 0 when everything it promises really happened, else 1. Raises UserError when it cannot start."""
    scenario_file, runbooks = shipped("config/scenarios/demo.yaml"), shipped("runbooks")
    stage = Stage(
        folder=Path(tempfile.mkdtemp(prefix="reefd-demo-")),
        scenario_file=scenario_file,
        scenario=load_scenario(scenario_file),
        runbooks=runbooks,
        port=free_port(),
        http_port=HTTP_PORT if is_free(HTTP_PORT) else free_port(),
        speed=SPEED if speed is None else speed,
        secret="whsec_" + base64.b64encode(secrets.token_bytes(24)).decode(),
    )
    try:
        return asyncio.run(Demo(stage, seconds).play())
    finally:
        shutil.rmtree(stage.folder, ignore_errors=True)


def free_port() -> int:
    """A loopback port that nobody listens on right now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    assert isinstance(port, int)
    return port


def is_free(port: int) -> bool:
    """True when a loopback port can be had right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the demo plays: `folder` is temporary and holds settings, journal and logs."""

    folder: Path
    scenario_file: Path
    scenario: Scenario
    runbooks: Path
    port: int
    http_port: int
    speed: float
    secret: str

    @property
    def journal(self) -> Path:
        """The daemon's journal."""
        return self.folder / "state.db"

    def settings(self, webhook_url: str) -> str:
        """The settings file of the daemon, as a person would write it for this venue."""
        scenario, url = self.scenario, f"http://127.0.0.1:{self.port}"
        account, venue = scenario.accounts[0], scenario.venue.name
        limits = self.runbooks.parent / "config/limits.yaml"
        lines = [
            "house: demo",
            f"runbooks: {self.runbooks}",
            *([f"limits: {limits}"] if limits.exists() else []),
            f"journal: {{path: {self.journal}}}",
            "lateness: {request: 5s, stop: 3s}",
            f"halt_file: {self.folder / 'halt'}",
            f"http: {{port: {self.http_port}}}",
            "log: {format: json}",
            f"clock: {{follow: venue, venue: {venue}}}",
            "venues:",
            f"  {venue}:",
            "    adapter: dydx-v4",
            f"    url: {url}/v4",
            "    orders: simulated",
            f"    markets: [{', '.join(scenario.markets)}]",
            f"    accounts: {{{venue}: {{address: {account.address}, subaccount: {account.subaccount}}}}}",
            f"bridge: {{adapter: simulated, url: {url}, governance: {venue}}}",
            "chains: {" + ", ".join(f"{name}: {{}}" for name in scenario.chains) + "}",
            "buffers: {" + ", ".join(f"{name}: {{}}" for name in scenario.buffers) + "}",
            "routes:",
            *(
                f"  {name}: {{from: {route.source}, to: {route.destination}, eta: {route.eta // NS}s, fee: {route.fee * 100:g}%}}"
                for name, route in scenario.routes.items()
            ),
            "webhooks:",
            f"  receiver: {{url: '{webhook_url}', secret: 'env:{SECRET_VARIABLE}', allow_private: true}}",
            "channels: {desk: [receiver], page: [receiver]}",
        ]
        return "\n".join(lines) + "\n"


class Demo:
    """One performance: starts the processes, watches, checks, and stops what it started."""

    def __init__(self, stage: Stage, seconds: float | None) -> None:
        self._stage = stage
        self._seconds = seconds
        self._story = Story()
        self._console = Console(highlight=False, soft_wrap=True)
        self._began = time.monotonic()
        self._venue_seq = 0
        self._journal_seq = 0
        self._fed = 0.0  # when the feeds were last told of
        self._processes: dict[str, Process] = {}
        self._page = HttpSource(name="page", url=f"http://127.0.0.1:{stage.http_port}", timeout_s=5.0)

    async def play(self) -> int:
        """Everything, in order; the exit code."""
        stage = self._stage
        webhooks: list[Received] = []
        venue = HttpSource(name="venue", url=f"http://127.0.0.1:{stage.port}", timeout_s=5.0)
        try:
            with Receiver(stage.secret, on_received=webhooks.append) as receiver:
                await self._start(venue, receiver.url)
                await self._watch(venue, webhooks)
                await self._stop("run")  # first the daemon, so that what is in flight can still settle and be delivered
                await self._look(venue, webhooks)
        finally:
            await venue.close()
            await self._page.close()
            for name in list(self._processes):
                await self._stop(name)
        self._audit()
        return self._summary()

    # --- the processes ------------------------------------------------------------------------------------------------

    async def _start(self, venue: HttpSource, webhook_url: str) -> None:
        stage = self._stage
        words = ["sim", "--scenario", str(stage.scenario_file), "--port", str(stage.port), "--speed", f"{stage.speed:g}"]
        settings = stage.folder / "reefd.yaml"
        settings.write_text(stage.settings(webhook_url), encoding="utf-8")
        # Both at once: the venue's time runs from its start on, and the daemon waits for a venue that is still starting.
        await self._spawn("sim", words)
        await self._spawn("run", ["run", "--config", str(settings), "--log", "json"], {SECRET_VARIABLE: stage.secret})
        clock = await self._answer(venue, "/sim/clock")
        at = int(str(clock["now_ns"]))
        self._say(
            f"a simulated venue listens on port {stage.port}: {', '.join(stage.scenario.markets)}; {stage.speed:g} seconds in one", at
        )
        self._say(f"the daemon runs with {len(list(stage.runbooks.glob('*.yaml')))} runbooks; a webhook receiver listens on {webhook_url}")

    async def _spawn(self, name: str, words: list[str], environment: Mapping[str, str] | None = None) -> None:
        log = (self._stage.folder / f"{name}.log").open("wb")
        with log:
            self._processes[name] = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "daemon.cli", *words),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=asyncio.subprocess.STDOUT,
                env=own_environment({"PYTHONUNBUFFERED": "1", **(environment or {})}),
            )

    async def _answer(self, venue: HttpSource, path: str) -> Mapping[str, object]:
        """The venue's answer once it is up; raises UserError when that takes too long."""
        while time.monotonic() - self._began < START_SECONDS_MAX:
            self._expect_alive()
            try:
                answer = await venue.get(path)
            except EdgeError:
                await asyncio.sleep(0.1)
            else:
                assert isinstance(answer, dict)
                return answer
        raise UserError(f"the simulated venue did not answer within {START_SECONDS_MAX:g} s\n{self._log_tail('sim')}")

    def _expect_alive(self) -> None:
        for name, process in self._processes.items():
            if process.returncode is not None:
                raise UserError(f"reefd {name} ended by itself with exit code {process.returncode}\n{self._log_tail(name)}")

    def _log_tail(self, name: str) -> str:
        lines = (self._stage.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join(f"  {line}" for line in lines[-LOG_LINES_SHOWN:])

    async def _stop(self, name: str) -> None:
        process = self._processes.pop(name)
        if process.returncode is not None:
            return
        process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
        except TimeoutError:
            self._say(f"reefd {name} did not stop within {STOP_SECONDS_MAX:g} s and was killed")
            process.kill()
            await process.wait()

    # --- watching -----------------------------------------------------------------------------------------------------

    async def _watch(self, venue: HttpSource, webhooks: list[Received]) -> None:
        """Look until the time is over, or (without --seconds) until everything was seen."""
        limit = self._began + self._seconds if self._seconds else time.monotonic() + SECONDS_MAX
        complete_at = None
        while time.monotonic() < limit:
            self._expect_alive()
            await self._look(venue, webhooks)
            if self._seconds is None and not self._story.missing([promise for promise in PROMISES if promise != AUDITED]):
                complete_at = complete_at or time.monotonic()
                if time.monotonic() - complete_at >= LINGER_SECONDS:
                    return
            await asyncio.sleep(LOOK_EVERY_SECONDS)

    async def _look(self, venue: HttpSource, webhooks: list[Received]) -> None:
        """Tell what is new in the journal, at the venue and at the receiver."""
        self._tell_feed()
        self._tell_journal()
        await self._tell_page()
        try:
            answer = await venue.get("/sim/log", {"after": self._venue_seq})
        except EdgeError as error:
            self._say(f"the venue did not answer: {error}")
        else:
            assert isinstance(answer, dict)
            for entry in answer["entries"]:
                self._venue_seq = max(self._venue_seq, int(entry["seq"]))
                self._tell(self._story.venue(entry), int(entry["at"]))
        while webhooks:
            message = webhooks.pop(0)
            line = self._story.webhook(
                kind=message.kind, message_id=message.message_id, verified=message.verified and not message.repeated, status=message.status
            )
            self._say(line)

    def _tell_feed(self) -> None:
        """A line about the feeds now and then, from the page that the daemon publishes for `reefd status`."""
        if time.monotonic() - self._fed < FEED_LINE_EVERY_SECONDS:
            return
        page = read_page(status_path(self._stage.journal))
        if not page or not page["loop"]["events"]:
            return  # the daemon has not published one yet
        self._fed = time.monotonic()
        feeds = page["feeds"]
        answering = sum(feed["state"] == "ok" for feed in feeds)
        self._say(
            f"feed: {answering} of {len(feeds)} polls answer in time; {page['loop']['events']:,} events so far", parse_iso(page["at"])
        )

    async def _tell_page(self) -> None:
        """Once: ask the daemon's own page and gate, and say where a person finds them."""
        if SERVED in self._story.seen or "run" not in self._processes:
            return
        market = f"{self._stage.scenario.venue.name}:{next(iter(self._stage.scenario.markets))}"
        try:
            status, gate = await self._page.get("/api/v1/status"), await self._page.get("/api/v1/gate", {"market": market})
            token = (self._stage.folder / "operator.token").read_text(encoding="utf-8").strip()
        except (EdgeError, OSError):
            return  # it is still starting
        assert isinstance(status, dict)
        assert isinstance(gate, dict)
        self._story.told(SERVED, f"{status['line']}; may {market} be opened? {'yes' if gate['open'] else 'no'}: {gate['why']}")
        self._say(f"its page: http://127.0.0.1:{self._stage.http_port} (to approve, pause or halt, sign in with {token})")
        if self._stage.http_port != HTTP_PORT:
            self._say(f"  port {HTTP_PORT} is in use, so it is served there")

    def _tell_journal(self) -> None:
        """Tell what the daemon has journaled since the last look; it goes on writing meanwhile."""
        try:
            with Journal.open_readonly(self._stage.journal) as journal:
                for entry in journal.entries(self._journal_seq):
                    self._journal_seq = entry.seq
                    self._tell(self._story.entry(decode(entry.body)), entry.at)
        except JournalError:
            # The daemon is still making it; a journal that stays unreadable shows as a promise that was not kept.
            return

    def _tell(self, lines: Iterable[str], at: int) -> None:
        for line in lines:
            self._say(line, at)

    def _say(self, line: str, at: int | None = None) -> None:
        """Print a line: real seconds since the start, the venue's time, the text."""
        moment = " " * 8 if at is None else iso(at)[11:19]
        self._console.print(f"{time.monotonic() - self._began:5.1f}s  {moment}  {line}", markup=False)

    # --- the end ------------------------------------------------------------------------------------------------------

    def _audit(self) -> None:
        """Verify the audit chain of the journal that was left, and that deciding it anew gives the same records."""
        try:
            with Journal.open_readonly(self._stage.journal) as journal:
                report = journal.verify_chain()
        except JournalError as error:
            self._say(f"the journal cannot be verified: {error}")
            return
        if report.intact and report.entries:
            self._story.told(AUDITED, f"{report.entries:,} entries, head {report.head_seq}:{report.head_hash[:16]}")
        for problem in report.problems:
            self._say(f"the audit chain is broken: {problem}")

    def _summary(self) -> int:
        story = self._story
        self._console.print()
        for promise in PROMISES:
            kept = promise in story.seen
            self._console.print(f"{'  ok  ' if kept else 'MISSING'}  {promise}{': ' + story.seen[promise] if kept else ''}", markup=False)
        missing = story.missing()
        if not self._stage.journal.exists() or verify_journal(self._stage.journal, json_format=False) != 0:
            missing.append("the journal decided anew gives the same records")
        took = time.monotonic() - self._began
        if missing:
            self._console.print(f"\nthe demo did not show in {took:.0f} s: {'; '.join(missing)}", markup=False)
            return 1
        self._console.print(f"\nall of it happened, in {took:.0f} s", markup=False)
        return 0
