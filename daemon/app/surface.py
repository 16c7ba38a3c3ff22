"""The operator's surface of the running daemon, composed (floor 9): what follows the loop, what it publishes, and the server.

    surface = Surface(settings=settings, ...); surface.open(loop)      # on the loop: the desk is there, the server listens
    surface.follow(event, transition, seq)                             # after each commit
    surface.publish(page, turns)                                       # a snapshot, at most four times a second
    await surface.close()

The web has a thread and an event loop of its own (docs/architecture.md): it never waits for the engine, nor the engine for it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeVar

from daemon import __version__
from daemon.app.desk import Behind, LiveDesk
from daemon.app.status import troubles
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import Event
from daemon.errors import UserError
from daemon.journal.entry import JournalError
from daemon.journal.reader import Reader
from daemon.journal.store import Journal
from daemon.service.alerts import Alerts
from daemon.service.chronicle import Chronicle
from daemon.service.clock import Clock
from daemon.service.commands import Commands
from daemon.service.halting import HaltFlag, Mark
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.service.loop import Turns
from daemon.service.needs import Undelivered
from daemon.service.now import NowKeeper, Shell
from daemon.service.rounds import Rounds
from daemon.service.sampler import Sampler
from daemon.service.tally import Tally
from daemon.service.tracks import Tracks
from daemon.service.views import FeedView, Happening, Now, StressView
from daemon.settings import HttpSettings, Settings
from daemon.units import NS
from daemon.web.desk import Person, may
from daemon.web.door import Doorkeeper
from daemon.web.listening import Served, bind
from daemon.web.surface import close_streams, make_surface
from daemon.web.tokens import TokenFile, write_operator_token
from daemon.world.entities import Topology

T = TypeVar("T")
AGAIN_S = 10.0  # a port that is taken is asked for again: the nets are up without a page
LOOK_S = 5.0  # between two looks whether the server still serves
STOP_S = 3.0
OUTBOX_EVERY_S = 1.0
REPORTS_MAX = 200
RECENT = 20  # runs and writes of the snapshot
UNDELIVERED_MAX = 20
# What the page of `reefd status` tells and the snapshot does not find out by itself.
OWN_TROUBLES = frozenset({"clock_problems", "disabled_endpoints", "mqtt"})
SHARE = 20  # the loop spends at most one part in twenty on telling


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """What the surface stands on; all of it is the daemon's own."""

    settings: Settings
    topology: Topology
    engine: Engine
    clock: Clock
    journal: Journal
    inbox: Inbox
    flag: HaltFlag
    alerts: Alerts
    ready: Callable[[], str]
    resuming: Callable[[str, Mark], None]
    reload: Callable[[], Coroutine[object, object, str]]
    stress: Callable[[], StressView]
    rounds: Rounds
    timers: Callable[[], Mapping[str, int]]  # calendar timers and when each is due next


class Surface:
    """One surface of one daemon."""

    def __init__(self, house: House) -> None:
        self._house = house
        self._reader = Reader(house.journal.path)
        self._chronicle = Chronicle()
        self._tally = Tally()
        self._tracks = Tracks()
        self._sampler = Sampler(engine=house.engine, tracks=self._tracks)
        self._commands = Commands(inbox=house.inbox, known=lambda command_id: command_id in house.engine.cold.commands)
        self._now: Now | None = None
        self._published_ns = 0
        self._cost_ns = 0
        self._faults: set[str] = set()
        self._outbox: Mapping[str, float] = {}
        self._undelivered: tuple[Undelivered, ...] = ()
        self._watching: asyncio.Task[None] | None = None
        self._served: Served | None = None
        self._serving: asyncio.Task[None] | None = None
        self._loading: asyncio.Task[None] | None = None
        self._desk: LiveDesk | None = None
        self._guard: Doorkeeper | None = None
        self._tokens = TokenFile(house.settings.http.tokens)
        self._keeper = NowKeeper(house.engine, house.topology, rounds=house.rounds)
        self.fault = ""  # why the last snapshot could not be made; empty when it could
        self.problem = ""  # why nothing is served; empty when it is, or is not to be

    @property
    def url(self) -> str:
        """Where it is served; empty when it is not."""
        return self._served.url if self._served is not None and self._served.alive else ""

    def open(self, loop: asyncio.AbstractEventLoop, *, at: int, seq: int) -> LiveDesk:
        """Begin to read the past, up to the event `seq` at `at` (ns), and to serve; the desk, for others who tell of the daemon."""
        house = self._house
        self._keeper.warm(house.clock.now())
        self._desk = LiveDesk(
            Behind(
                loop=loop,
                engine=house.engine,
                rounds=house.rounds,
                topology=house.topology,
                clock=house.clock,
                commands=self._commands,
                alerts=house.alerts,
                reader=self._reader,
                chronicle=self._chronicle,
                tracks=self._tracks,
                flag=house.flag,
                ready=house.ready,
                resuming=house.resuming,
                fault=lambda: self.fault,
                reload=house.reload,
                snapshot=lambda: self._now,
                stress=house.stress,
                report=self._report,
            )
        )
        under_way = tuple(house.engine.cold.runs)
        self._loading = asyncio.create_task(self._load(under_way, at, seq), name="chronicle")
        self._watching = asyncio.create_task(self._watch_outbox(), name="outbox watch")
        if house.settings.http.enabled:
            self._serving = asyncio.create_task(self._serve(self._desk), name="http")
        return self._desk

    async def close(self) -> None:
        """Stop serving and reading."""
        self._chronicle.stop()
        self._tracks.stop()
        tasks = [task for task in (self._serving, self._loading, self._watching) if task is not None]
        for task in tasks:
            task.cancel()
        for ended in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(ended, Exception):
                self._fault("background", ended)
        if self._served is not None:
            await asyncio.to_thread(self._served.stop, STOP_S)

    def authorise(self, token: str, verb: str) -> str | None:
        """The name behind a token that may do this, for doors beside the surface; None when it may not."""
        if self._guard is not None:
            return self._guard.named(token, verb)
        # A halt from elsewhere must not wait for a port that is taken, or for a surface that is off.
        found = self._tokens.find(token, at_s=time.time())
        return found.name if found is not None and may(Person(name=found.name, role=found.role, door="token"), verb) else None

    # --- following the loop -------------------------------------------------------------------------------------------

    def follow(self, event: Event, transition: Transition, seq: int) -> None:
        """Take note of what was committed."""
        self._commands.follow(transition.records, seq)
        try:
            self._chronicle.follow(event, transition, seq)
            self._tally.follow(transition.records)
            self._tracks.follow(event)
        except Exception as error:
            self._fault("follow", error)

    def publish(self, page: Mapping[str, Any], turns: Turns) -> None:
        """A new snapshot, unless the last one is too young for what it cost."""
        began = time.monotonic_ns()
        if began - self._published_ns < SHARE * self._cost_ns:
            return
        try:
            self._sampler.turn(self._house.clock.now())
            self._now = self._build(page, turns)
            self.fault = ""
            self._chronicle.happenings.announce(
                Happening(seq=self._now.seq, at=self._now.at, kind="snapshot", summary=f"{self._now.line}: {self._now.why}")
            )
        except Exception as error:
            self._fault("publish", error)
        self._published_ns = time.monotonic_ns()
        self._cost_ns = self._published_ns - began

    def contained(self, where: str, make: Callable[[], T]) -> T | None:
        """What `make` gives; None when that is a fault: what is told must not stop what acts."""
        try:
            return make()
        except Exception as error:
            self._fault(where, error)
            return None

    def _fault(self, where: str, error: Exception) -> None:
        """A fault of what is shown never stops the nets: it is told once a kind, and the snapshot that ages says BLIND by itself."""
        kind = f"{where} {type(error).__name__}"
        if kind not in self._faults:
            self._faults.add(kind)
            log().error("surface.fault", where=where, reason=repr(error), consequence="the nets go on, the page is old", exc_info=error)
        self.fault = f"the page cannot be made: {error!r}"

    @property
    def line(self) -> str:
        """The line of the last snapshot, for a process supervisor."""
        return "" if self._now is None else f"{self._now.line}: {self._now.why}"

    def _build(self, page: Mapping[str, Any], turns: Turns) -> Now:
        house = self._house
        shell = Shell(
            at=house.clock.now(),
            published=datetime.now(UTC).isoformat(),
            build=__version__,
            house=house.settings.house,
            dry_run=bool(page["dry_run"]),
            speed=house.clock.speed,
            seq=page["seq"],
            head=page["head"],
            flag=page["halted"],
            feeds=tuple(FeedView(**{each.name: feed[each.name] for each in fields(FeedView)}) for feed in page["feeds"]),
            blind=page["blind_venues"],
            refused_reload=page["reload_error"],
            undelivered=self._undelivered,
            restored="this journal is a restored backup: compare it with the venue, then resume" if house.journal.restored else "",
            problems=tuple(troubles({key: value for key, value in page.items() if key in OWN_TROUBLES})),
            timers=house.timers(),
            running=self._chronicle.running(),
            recent=self._chronicle.recent(RECENT),
            acts=self._chronicle.acts(RECENT),
            stats=self._stats(page, turns),
        )
        return self._keeper.build(shell)

    def _stats(self, page: Mapping[str, Any], turns: Turns) -> Mapping[str, float]:
        return {
            "events": float(turns.events),
            "records": float(turns.records),
            "gaps": float(turns.gaps),
            "coalesced": float(page["coalesced"]),
            "inbox": float(page["inbox"]),
            "unsettled": float(len(page["unsettled"])),
            "slowest_decision_s": turns.step_ns_max / NS,
            "slowest_commit_s": turns.commit_ns_max / NS,
            **turns.decisions.stats("decision_seconds"),
            **turns.commits.stats("commit_seconds"),
            **self._tally.stats(),
            **self._outbox,
        }

    async def _watch_outbox(self) -> None:
        """Look at the outbox every second, off the loop's thread."""
        while True:
            try:
                self._outbox, self._undelivered = await asyncio.to_thread(self._look_at_outbox)
            except JournalError as error:
                log().warning("surface.outbox_unread", reason=str(error))
            await asyncio.sleep(OUTBOX_EVERY_S)

    def _look_at_outbox(self) -> tuple[Mapping[str, float], tuple[Undelivered, ...]]:
        """How many messages wait, went and died, and the last that died."""
        reports = self._house.alerts.overview()
        counts = {
            "outbox": float(sum(each.waiting for each in reports)),
            "dead_letters": float(sum(each.dead for each in reports)),
        }
        letters = self._house.alerts.dead_letters()[-UNDELIVERED_MAX:] if counts["dead_letters"] else []
        return counts, tuple(Undelivered(id=each.id, endpoint=each.endpoint, reason=each.error, at=each.created_at) for each in letters)

    def reports(self) -> tuple[str, ...]:
        """Names of the pages in the folder of reports, the latest first."""
        folder = self._house.settings.http.reports
        found = [path for pattern in ("*.html", "*/*.html") for path in folder.glob(pattern)]
        found.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        return tuple(path.relative_to(folder).as_posix() for path in found[:REPORTS_MAX])

    def _report(self, name: str) -> str | None:
        """A page that `reefd replay`, `sweep` or `stress` left in the folder of reports."""
        folder = self._house.settings.http.reports.resolve()
        path = (folder / name).resolve()
        if path.suffix != ".html" or not path.is_relative_to(folder) or not path.is_file():
            return None
        return path.read_text(encoding="utf-8")

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _load(self, under_way: tuple[str, ...], at: int, seq: int) -> None:
        try:
            await asyncio.to_thread(self._chronicle.load, self._reader, under_way)
            await asyncio.to_thread(self._tracks.refill, self._house.journal.feed_path, at=at, through_seq=seq)
        except JournalError as error:
            log().error("chronicle.incomplete", reason=str(error), consequence="runs of earlier lives are found one by one only")

    async def _serve(self, desk: LiveDesk) -> None:
        """Serve, and serve again when nobody has a token yet, the port was taken, or the server ended: the nets are up all the same, and
        the status says what is wrong."""
        while True:
            try:
                spec = self._house.settings.listens()
                if spec is not None:
                    await self._serve_once(spec, desk)
            except UserError as error:
                if str(error) != self.problem:
                    self.problem = str(error)
                    log().error("web.unavailable", reason=self.problem, consequence="the daemon acts, nobody sees it", again_s=AGAIN_S)
            await asyncio.sleep(AGAIN_S)

    async def _serve_once(self, spec: HttpSettings, desk: LiveDesk) -> None:
        """Serve until the server ends, which it does not do by itself. Raises UserError."""
        listener = bind(spec.host, spec.port)
        try:
            operator = await asyncio.to_thread(write_operator_token, spec.operator_token, at=datetime.now(UTC).isoformat())
        except UserError:
            listener.close()
            raise
        guard = self._guard = Doorkeeper(
            tokens=TokenFile(spec.tokens, fixed=(operator,)),
            open_reading=spec.reading_is_open(),
            hosts=spec.hosts,
            public_url=spec.public_url,
        )
        app = make_surface(desk, guard=guard, build=__version__, flagged=self._house.flag.there)
        served = self._served = Served(app, listener, ending=lambda: close_streams(app), behind_proxy=spec.public_url is not None)
        served.start()
        self.problem = ""
        log().info("web.listening", url=served.url, sign_in_with=str(spec.operator_token))
        while True:
            await asyncio.sleep(LOOK_S)
            if not served.alive:
                break
        raise UserError(f"the server of the page ended by itself: {served.failure or 'no reason was given'}")
