"""The live daemon, composed (floor 9): settings -> edges, journal, engine, loop; signals in, exit code out.

    run(Path("config/reefd.yaml"), dry_run=False, log=None)

SIGHUP reloads the runbooks, SIGTERM and SIGINT stop after what is on the wire. Everything that is decided is decided in the engine;
everything here is wiring.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from daemon import __version__
from daemon.app.connections import connect, read_clock
from daemon.app.live_mqtt import LiveMqtt
from daemon.app.live_stress import LiveStress, timer_of
from daemon.app.reading import describe_gates, journal_path, load_set, log_style, read_house_limits
from daemon.app.status import Publication, status_path
from daemon.app.surface import House, Surface
from daemon.app.telling import Telling, open_sender
from daemon.edges.broker import ENDPOINT
from daemon.edges.protocol import Feed
from daemon.edges.webhook import WebhookSender
from daemon.engine.actions import Notify
from daemon.engine.codec import encode_as
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import Event, OperatorCommand, RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.errors import RunbookError, UserError
from daemon.journal.entry import Delivery, JournalError
from daemon.journal.store import Journal
from daemon.language.catalogue import CATALOGUE
from daemon.runbook.load import Loaded, load_documents
from daemon.runbook.model import Runbook
from daemon.service.alerts import Alerts
from daemon.service.clock import Clock
from daemon.service.dispatcher import Dispatcher
from daemon.service.halting import HaltFlag, Mark
from daemon.service.heartbeat import Heartbeat
from daemon.service.inbox import Inbox
from daemon.service.lanes import Lanes
from daemon.service.logging import configure, log
from daemon.service.loop import Loop, Mail
from daemon.service.poller import HISTORY_PAUSE_MAX_NS, FeedHealth, Poller, fill_history, retry_history
from daemon.service.recover import HALT_FLAG, Recovered, Standing, describe_topology, recover
from daemon.service.rounds import Rounds, describe_lacking
from daemon.service.scheduler import HOUSE_TIMERS, Scheduler
from daemon.service.sight import Sight
from daemon.service.stress import SIGNALS, STRESS
from daemon.service.supervisor import Supervisor
from daemon.service.views import ReadingView, StressView
from daemon.settings import Settings, load_settings
from daemon.units import MINUTE_NS, NS, iso, show
from daemon.world.entities import PORTFOLIO_ID, Kind

JOURNAL_FAILED = 3  # exit code: the journal cannot commit


def run(config: Path, *, dry_run: bool, log: str | None) -> int:
    """Run the daemon until it is told to stop; the exit code: 0 stopped as asked, 3 the journal cannot commit.

    Raises UserError (exit 2) when it cannot start, RunbookError (exit 1) when the runbooks have errors and no set is in force.
    """
    settings = load_settings(config)
    configure(log_style(settings.log.format, log, terminal=sys.stdout.isatty()))
    return asyncio.run(_live(settings, dry_run=dry_run))


async def _live(settings: Settings, *, dry_run: bool) -> int:
    house = read_house_limits(settings.limits)
    endpoints = open_sender(settings)
    clock = await read_clock(settings)
    state, feed = journal_path(settings, dry_run=dry_run)
    try:
        journal = Journal.open(state, feed)
    except JournalError as error:
        if "another reefd" in str(error):
            raise
        log().error("journal.failed", reason=str(error))
        sys.stderr.write(f"reefd: {error}\n")
        return JOURNAL_FAILED
    try:
        daemon = Daemon(settings=settings, clock=clock, journal=journal, house=house, sender=endpoints, dry_run=dry_run)
        return await daemon.live()
    finally:
        # Closing waits for the writer: not on the loop's own thread, whose timers would stand still.
        await asyncio.to_thread(journal.close)


class Daemon:
    """One running daemon: what is wired together, and what happens on a signal."""

    def __init__(
        self, *, settings: Settings, clock: Clock, journal: Journal, house: HouseLimits, sender: WebhookSender, dry_run: bool
    ) -> None:
        self._settings = settings
        self._clock = clock
        self._journal = journal
        self._house = house
        self._dry_run = dry_run
        self._sender = sender
        self._topology = settings.topology()
        self._edges = connect(settings, clock, sender)
        self._inbox = Inbox()
        self._flag = HaltFlag(settings.halt_file)
        self._engine = Engine(topology=self._topology, house=house, build=__version__, documents=journal.document)
        self._dispatcher = Dispatcher(
            edges=self._edges.hands, inbox=self._inbox, clock=clock, dry_run=dry_run, refuse=self._flag.text
        )
        broker = settings.mqtt_broker()
        self._mqtt: LiveMqtt | None = None
        if broker is not None:
            self._mqtt = LiveMqtt(
                settings=settings,
                broker=broker,
                journal=journal,
                inbox=self._inbox,
                clock=clock,
                raise_alarm=self._alarm,
                dry_run=dry_run,
            )
        elsewhere = frozenset({ENDPOINT} if broker is not None else ())
        self._lanes = Lanes(journal=journal, sender=sender, clock=clock, raise_alarm=self._alarm, elsewhere=elsewhere)
        self.alerts = Alerts(
            journal=journal,
            sender=sender,
            now=clock.now,
            house=settings.house,
            channels=settings.channels,
            look=self._look,
            elsewhere={} if broker is None else {ENDPOINT: broker.address},
        )
        self._healths: list[FeedHealth] = []
        self._standing = Standing()
        self._stress: LiveStress | None = None
        if settings.stress is not None:
            self._stress = LiveStress(
                settings=settings, clock=clock, inbox=self._inbox, engine=self._engine, house=house, in_force=self._sources
            )
        timers = (*HOUSE_TIMERS, timer_of(settings.stress)) if settings.stress is not None else HOUSE_TIMERS
        self._scheduler = Scheduler(timers=timers, inbox=self._inbox, clock=clock)
        self._sight = Sight()
        self._rounds = Rounds(self._engine)
        self._resuming: dict[str, Mark] = {}  # resumes of everything on their way, and when they were asked for
        self._flag_asked: bool | None = None  # what the halt flag last made us ask of the engine
        self._reload_error = ""
        self._reloading: asyncio.Task[None] | None = None
        self._stop_by: int | None = None  # real ns
        self._loop: Loop | None = None
        self._publication = Publication(path=status_path(journal.path), clock=clock)
        self._supervisor = Supervisor.of(os.environ, pid=os.getpid())
        self._surface = Surface(
            House(
                settings=settings,
                topology=self._topology,
                engine=self._engine,
                clock=clock,
                journal=journal,
                inbox=self._inbox,
                flag=self._flag,
                alerts=self.alerts,
                ready=self._unready,
                resuming=self._resuming.__setitem__,
                reload=self._reload_asked,
                stress=self._stress_view,
                rounds=self._rounds,
                timers=self._scheduler.upcoming,
            )
        )
        self._heartbeat = self._make_heartbeat()

    def _make_heartbeat(self) -> Heartbeat | None:
        endpoint, spec = self._settings.heartbeat_endpoint(), self._settings.heartbeat
        if endpoint is None or spec is None:
            return None
        sender = WebhookSender([endpoint])
        self._edges.closers.append(sender.close)
        return Heartbeat(sender=sender, every_s=spec.every / NS, unfit=self._unfit, says=self._says)

    def _unfit(self) -> str:
        """Why this daemon cannot do its work, as far as it can tell; empty when it can."""
        blind = ", ".join(f"{venue}: its last block is {age_s:.0f} s old" for venue, age_s in self._sight.blind.items())
        return blind or ("this journal is a restored backup: nothing is sent" if self._journal.restored else "")

    def _says(self) -> Mapping[str, object]:
        seq, head = self._journal.head()
        return {"house": self._settings.house, "build": __version__, "halted": self._flag.text(), "anchor": f"{seq}:{head}"}

    # --- start and stop -----------------------------------------------------------------------------------------------

    async def live(self) -> int:
        """Recover, run until told to stop, and leave a journal that the next start goes on from; the exit code."""
        try:
            try:
                return await self._start_and_run()
            except JournalError as error:
                log().error("journal.failed", reason=str(error), consequence="nothing more is done; the daemon ends")
                sys.stderr.write(f"reefd: the journal cannot commit: {error}\n")
                self._publication.last_words(f"the journal cannot commit: {error}")
                return JOURNAL_FAILED
        finally:
            await self._dispatcher.stop()
            await self._edges.close()

    async def _start_and_run(self) -> int:
        recovered = recover(self._engine, self._journal, self.read_set)
        self._standing = recovered.standing
        self._check_clock(recovered)
        runbooks = self._set_at_start(await asyncio.to_thread(self._load_set))
        loop = self._loop = Loop(
            engine=self._engine,
            journal=self._journal,
            inbox=self._inbox,
            clock=self._clock,
            dispatcher=self._dispatcher,
            mail=Mail(
                channels=self._settings.channels,
                compose=Telling(engine=self._engine, journal=self._journal, house=self._settings.house).compose,
                endpoints=self._sender.endpoints,
            ),
            position=recovered.position,
            build=__version__,
            each_turn=self._each_turn,
            committed=self._committed,
            beside=self._standing.blobs,
        )
        log().info(
            "daemon.started",
            build=__version__,
            journal=str(self._journal.path),
            runbooks=len(runbooks),
            recovered_entries=recovered.applied,
            unsettled=len(self._engine.unsettled()),
            speed=self._clock.speed,
            dry_run=self._dry_run,
        )
        if self._journal.restored:
            self._refuse_on_backup()
        if recovered.undecided is not None:
            await loop.redecide(recovered.undecided)
        loop.begin(since=recovered.position.at)
        self._bring(runbooks)
        for action in self._engine.unsettled():
            log().warning("action.unsettled", action_id=action.action_id, consequence="it is looked up, never sent again")
            self._dispatcher.resume(action)
        # A stress that never was due is due at once: its figures are unknown until then.
        self._scheduler.start({STRESS: 0, **self._engine.cold.timers})
        if self._stress is not None:
            self._healths.append(self._stress.health)
            self._stress.resume()
        self._listen()
        desk = self._surface.open(asyncio.get_running_loop(), at=recovered.position.at, seq=recovered.position.seq)
        if self._mqtt is not None:
            self._mqtt.serve(desk, self._surface.authorise)
        background = [asyncio.create_task(self._watch(feed), name=feed.name) for feed in self._edges.feeds if feed.polls]
        background += [asyncio.create_task(watch.run(), name="clock watch") for watch in self._edges.watches]
        if not self._dry_run:
            background.append(asyncio.create_task(self._lanes.run(), name="lanes"))
            if self._heartbeat is not None:
                background.append(asyncio.create_task(self._heartbeat.run(), name="heartbeat"))
        if self._mqtt is not None:
            self._healths += [self._mqtt.health] if self._mqtt.health is not None else []
            background.append(asyncio.create_task(self._mqtt.run(), name="mqtt"))
        turning = asyncio.create_task(loop.run(), name="loop")
        self._supervisor.ready(f"{len(runbooks)} runbooks in force")
        try:
            # A task of the background never ends by itself: if one does, that is a fault of ours and ends the daemon.
            done, _ = await asyncio.wait([turning, *background], return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await self._surface.close()
            self._scheduler.stop()
            if self._stress is not None:
                await self._stress.stop()
            if self._mqtt is not None:
                await self._mqtt.stop()
            for task in (turning, *background):
                task.cancel()
            await asyncio.gather(turning, *background, return_exceptions=True)
        await self._dispatcher.stop()
        await self._lanes.drain(self._settings.lateness.stop / NS)
        await loop.checkpoint()
        if self._journal.restored and not self._engine.unsettled():
            await asyncio.wrap_future(self._journal.confirm_restored())
        self._publication.last_words("stopped as asked")
        log().info("daemon.stopped", seq=loop.position.seq, unsettled=len(self._engine.unsettled()))
        return 0

    def _check_clock(self, recovered: Recovered) -> None:
        ahead_ns = recovered.position.at - self._clock.now()
        if ahead_ns <= MINUTE_NS:
            return
        if self._settings.clock.follow == "venue":
            raise UserError(
                f"{self._journal.path} ends at {iso(recovered.position.at)}, {ahead_ns // NS} s after the venue's clock: "
                "the simulated venue was started anew; remove the journal, or name another one under `journal:`"
            )
        log().error("clock.behind", journal_ends=iso(recovered.position.at), behind_s=ahead_ns // NS)

    def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self.reload)

    def stop(self) -> None:
        """Stop after what is on the wire has settled, at most `lateness.stop`; asked twice, at once."""
        now = self._clock.real_ns()
        self._stop_by = now if self._stop_by is not None else now + self._settings.lateness.stop
        self._supervisor.stopping()
        log().info("daemon.stopping", in_flight=len(self._dispatcher.in_flight))

    async def _watch(self, feed: Feed) -> None:
        """One feed: its past, if the journal has none of it yet, then its polls for ever."""
        pollers = [Poller(source=poll.name, poll=poll, inbox=self._inbox, clock=self._clock) for poll in feed.polls]
        past = FeedHealth(source=f"{feed.name}.history", every_ns=HISTORY_PAUSE_MAX_NS)
        self._healths += [poller.health for poller in pollers]
        whole = feed.name in self._standing.histories
        if not whole:
            self._healths.append(past)
            for poller in pollers:
                poller.health.waits_for = past.source
            whole = await fill_history(feed, inbox=self._inbox, clock=self._clock, health=past)
            for poller in pollers:
                poller.health.waits_for = ""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._complete_past(feed, past, whole), name=past.source)
            for poller in pollers:
                group.create_task(poller.run(), name=poller.health.source)

    async def _complete_past(self, feed: Feed, past: FeedHealth, whole: bool) -> None:
        """What is lacking of a feed's past, beside its polls; a past that is whole is no feed any more."""
        if whole or await retry_history(feed, inbox=self._inbox, clock=self._clock, health=past):
            self._healths = [health for health in self._healths if health is not past]

    # --- the set of runbooks ------------------------------------------------------------------------------------------

    def reload(self) -> None:
        """Read the runbooks anew, off the loop's thread; all of them are valid, or the set in force stays and the log says so."""
        if self._reloading is not None and not self._reloading.done():
            log().warning("runbooks.busy", reason="a reload is under way; its files are read once more")
        self._reloading = asyncio.create_task(self._reload(), name="reload")

    def _load_set(self) -> Loaded:
        return load_set(self._settings.runbooks, self._topology, stressed=self._stress is not None)

    async def _reload_asked(self) -> str:
        """Read the runbooks anew because a person asked; empty, or the errors that keep the old set in force."""
        self.reload()
        if self._reloading is not None:
            await asyncio.shield(self._reloading)  # whoever stops waiting does not stop it
        return self._reload_error

    async def _reload(self) -> None:
        loaded = await asyncio.to_thread(self._load_set)
        if loaded.ok:
            self._reload_error = ""
            self._bring(loaded.runbooks)
            log().info("runbooks.reloaded", runbooks=len(loaded.runbooks))
        else:
            self._keep_old_set(loaded)

    def _keep_old_set(self, loaded: Loaded) -> None:
        self._reload_error = "\n".join(problem.render() for problem in loaded.errors)
        for problem in loaded.errors:
            where = f"{problem.file}:{problem.line}:{problem.column}"
            log().error("runbooks.refused", file=where, code=problem.code, reason=problem.message)
        log().error("runbooks.kept", errors=len(loaded.errors), consequence="the set that was in force stays in force")

    def _set_at_start(self, loaded: Loaded) -> Sequence[Runbook]:
        """The files' runbooks; while they have errors, the set that was in force when the daemon last ran: it never disarms silently."""
        if loaded.ok:
            return loaded.runbooks
        if self._standing.in_force is None:
            raise RunbookError(loaded.errors)
        sys.stderr.write("\n".join(problem.render() for problem in loaded.errors) + "\n")
        self._keep_old_set(loaded)
        return self.read_set(self._standing.in_force)

    def _bring(self, runbooks: Sequence[Runbook]) -> None:
        assert self._loop is not None
        put = self._journal.put_document
        event = RunbooksLoaded(
            at=0,
            runbooks={runbook.path: put(runbook.source) for runbook in runbooks},
            limits=put(encode_as(self._house, HouseLimits)),
            topology=put(describe_topology(self._topology)),
        )
        self._loop.bring(event, runbooks)

    def read_set(self, event: RunbooksLoaded) -> Sequence[Runbook]:
        """The runbooks that an event of the journal names, by content. Raises UserError when this build cannot read them any more."""
        loaded = load_documents({path: self._journal.document(digest) for path, digest in event.runbooks.items()})
        if loaded.errors:
            raise RunbookError(loaded.errors)
        return loaded.runbooks

    def _sources(self) -> Mapping[str, tuple[str, str]]:
        """The runbooks in force by digest: path, text."""
        loaded = self._standing.in_force
        return {} if loaded is None else {digest: (path, self._journal.document(digest)) for path, digest in loaded.runbooks.items()}

    # --- every turn ---------------------------------------------------------------------------------------------------

    def _each_turn(self) -> None:
        self._supervisor.turned(self._surface.line)
        self._follow_halt_flag()
        assert self._loop is not None
        if self._stop_by is not None:
            settled = not self._dispatcher.in_flight and not self._inbox.owed
            if settled or self._clock.real_ns() >= self._stop_by:
                self._loop.stop()
        if self._publication.due():
            page = self._surface.contained("status", self._status)
            if page is not None:
                self._publication.publish(page)
                self._surface.publish(page, self._loop.turns)

    def _committed(self, event: Event, transition: Transition) -> None:
        self._standing.follow(event)
        self._sight.follow(event)
        for record in transition.records:
            self._standing.follow(record)
        if any(isinstance(action, Notify) for action in transition.actions):
            self._look()
        if self._stress is not None:
            self._stress.follow(transition.records)
        if isinstance(event, OperatorCommand) and event.verb == "resume":
            self._take_flag_away(event.command_id)
        assert self._loop is not None
        self._surface.follow(event, transition, self._loop.position.seq)

    def _look(self) -> None:
        """Something was committed to the outbox."""
        self._lanes.look()
        if self._mqtt is not None:
            self._mqtt.look()

    def _follow_halt_flag(self) -> None:
        there = self._flag.there()
        if self._flag_asked is None:
            self._flag_asked = bool(self._standing.halt_flag)
        if there == self._flag_asked:
            return
        self._flag_asked = there
        verb = "halt" if there else "resume"
        reason = self._flag.text() if there else f"{self._settings.halt_file} was removed"
        log().warning("halt.flag_set" if there else "halt.flag_removed", path=str(self._settings.halt_file))
        self._inbox.put(
            OperatorCommand(at=0, command_id=f"{HALT_FLAG}{self._clock.now()}", actor="halt flag", verb=verb, reason=reason)
        )

    def _take_flag_away(self, command_id: str) -> None:
        """A resume of everything is on disk: the flag goes, unless somebody set it after the resume was asked for."""
        asked = self._resuming.pop(command_id, None)
        if asked is None:
            return
        try:
            gone = self._flag.remove(asked=asked)
        except OSError as error:
            log().error("halt.flag_stays", path=str(self._flag.path), reason=error.strerror or str(error))
            gone = False
        # One that stays is asked of the engine anew at the next turn.
        self._flag_asked = False
        log().warning("halt.flag_removed" if gone else "halt.flag_stays", path=str(self._flag.path))

    def _refuse_on_backup(self) -> None:
        """A restored backup does not know what was done after it was made: it only reconciles until a person removes the flag."""
        if not self._flag.there():
            self._flag.set("this journal is a restored backup: compare it with the venue, then remove this file")
        log().error("journal.restored", consequence="nothing is sent", remove=str(self._flag.path))

    # --- telling ------------------------------------------------------------------------------------------------------

    def _alarm(self, delivery: Delivery, why: str) -> None:
        """A critical notice reached nobody: say it where a supervisor of processes looks."""
        sys.stderr.write(f"reefd: CRITICAL notice {delivery.id} for {delivery.endpoint} was not delivered: {why}\n{delivery.body}\n")

    def _status(self) -> Mapping[str, object]:
        loop = self._loop
        assert loop is not None
        turns = loop.turns
        self._rounds.walk(self._clock.now())
        body: dict[str, object] = {
            "build": __version__,
            "house": self._settings.house,
            "dry_run": self._dry_run,
            "speed": self._clock.speed,
            "at": iso(loop.position.at),
            "seq": loop.position.seq,
            "head": ":".join(str(part) for part in self._journal.head()),
            "halted": self._flag.text(),
            "reload_error": self._reload_error,
            "stopping": self._stop_by is not None,
            "feeds": [self._publication.feed(health) for health in self._healths],
            "in_flight": list(self._dispatcher.in_flight),
            "unsettled": [action.action_id for action in self._engine.unsettled()],
            "inbox": len(self._inbox),
            "coalesced": self._inbox.coalesced,
            "loop": {
                "events": turns.events,
                "records": turns.records,
                "gaps": turns.gaps,
                "step_ms_max": turns.step_ns_max / 1e6,
                "commit_ms_max": turns.commit_ns_max / 1e6,
            },
            "undeliverable": self._lanes.dead,
            "disabled_endpoints": sorted(self._lanes.disabled),
            "blind_venues": dict(self._sight.blind),
            "clock_problems": [watch.problem for watch in self._edges.watches if watch.problem],
            "gates": describe_gates(self._engine.cold.gates),
            "mqtt": None if self._mqtt is None else self._mqtt.page(),
            "lost_instances": describe_lacking(self._rounds.lost()),
            "never_judged": describe_lacking(self._rounds.never()),
            "engine": self._engine.snapshot(self._rounds.lacking),
            "http": {"url": self._surface.url, "problem": self._surface.problem, "fault": self._surface.fault},
        }
        return body

    def _unready(self) -> str:
        """Why nobody may rely on what this daemon says of its gates; empty when they may."""
        if self._stop_by is not None:
            return "the daemon is stopping"
        if self._journal.restored:
            return "this journal is a restored backup"
        return "" if self._standing.in_force is not None else "no runbooks are in force yet"

    def _stress_view(self) -> StressView:
        """The figures of the scheduled stress as runbooks read them."""
        at = self._clock.now()
        read = [(signal, self._engine.hot.glance(Kind.PORTFOLIO, PORTFOLIO_ID, signal, at)) for signal in sorted(SIGNALS)]
        figures = tuple(
            ReadingView(
                signal=signal,
                value=None if value != value else value,
                unit=(unit := CATALOGUE[Kind.PORTFOLIO, signal].unit),
                shown="unknown" if value != value else show(value, unit),
                age_s=None,
                role="observed",
            )
            for signal, value in read
        )
        health = None if self._stress is None else self._stress.health
        return StressView(
            enabled=self._stress is not None,
            figures=figures if self._stress is not None else (),
            last_at=iso(health.succeeded_at) if health is not None and health.succeeded_at else None,
            problem="" if health is None else health.reason,
            reports=self._surface.reports(),
        )
