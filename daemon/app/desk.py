"""The desk of the running daemon (floor 9): what its surface reads and asks, from the surface's own thread.

The daemon's loop is asked by handing it a function, and never waited for longer than `ASK_S`; the past comes from the chronicle or from
the journal by a connection of its own; the snapshot is there even while the loop stands. A halt is a file first: it counts at once.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

from daemon.edges.broker import ENDPOINT
from daemon.engine.engine import Engine
from daemon.engine.events import OperatorCommand
from daemon.errors import UserError
from daemon.journal.entry import JournalError
from daemon.journal.reader import Letter, Reader
from daemon.service.alerts import Alerts
from daemon.service.chronicle import Chronicle
from daemon.service.clock import Clock
from daemon.service.commands import Answer, Commands, did_something
from daemon.service.entries import find
from daemon.service.gate import gate
from daemon.service.halting import HaltFlag, Mark
from daemon.service.moments import run_detail
from daemon.service.now import standing
from daemon.service.rounds import Rounds
from daemon.service.runbooks import runbook_detail, runbook_views
from daemon.service.sampler import TRIGGER
from daemon.service.tracks import Tracks
from daemon.service.views import (
    Command,
    DeliveryView,
    Effect,
    EndpointView,
    EntityView,
    Entries,
    EntryQuery,
    EpisodeView,
    GateAnswer,
    Happening,
    Now,
    RunbookDetail,
    RunbookView,
    RunDetail,
    RunQuery,
    RunView,
    Series,
    StressView,
    WhyView,
)
from daemon.service.why import nearest, why
from daemon.service.world import entities, entity_view, names
from daemon.units import iso, parse_iso
from daemon.web.desk import NotKnown, Unavailable
from daemon.world.entities import Kind, Topology

T = TypeVar("T")
ASK_S = 2.0  # real seconds that a read waits for the loop
COMMAND_S = 5.0  # real seconds that a command waits for its record
BUDGET_NS = 4_000_000  # that one portion of a list holds the loop; it turns in between
NAMES_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """What is behind the desk; everything but `reader`, `chronicle`, `flag` and `snapshot` belongs to the loop's thread."""

    loop: asyncio.AbstractEventLoop
    engine: Engine
    rounds: Rounds
    topology: Topology
    clock: Clock
    commands: Commands
    alerts: Alerts
    reader: Reader
    chronicle: Chronicle
    tracks: Tracks
    flag: HaltFlag
    resuming: Callable[[str, Mark], None]  # the flag goes when this command is journaled, unless it was set after that moment
    fault: Callable[[], str]  # why the snapshot is old although the loop turns; empty when it is not
    ready: Callable[[], str]  # why the daemon cannot answer for its gates; empty when it can
    reload: Callable[[], Coroutine[object, object, str]]  # reads the runbooks anew: empty, or the errors
    snapshot: Callable[[], Now | None]
    stress: Callable[[], StressView]
    report: Callable[[str], str | None]


class LiveDesk:
    """Implements `daemon.web.desk.Desk`."""

    def __init__(self, behind: Behind, *, ask_s: float = ASK_S, command_s: float = COMMAND_S) -> None:
        self._behind = behind
        self._ask_s = ask_s
        self._command_s = command_s
        self._walking = asyncio.Lock()  # one long list at a time: however many ask, the loop is held by one of them

    # --- the loop -----------------------------------------------------------------------------------------------------

    async def _ask(self, read: Callable[[], T]) -> T:
        """What a function gives that is run on the loop's thread. Raises Unavailable when the loop does not come to it."""
        answer: Future[T] = Future()

        def run() -> None:
            if answer.set_running_or_notify_cancel():
                try:
                    answer.set_result(read())
                except LookupError as error:
                    answer.set_exception(NotKnown(str(error.args[0]) if error.args else "there is no such thing"))
                except (ValueError, UserError, NotKnown, ArithmeticError, AssertionError) as error:
                    answer.set_exception(error)

        try:
            self._behind.loop.call_soon_threadsafe(run)
        except RuntimeError as error:
            raise Unavailable("the daemon has stopped") from error
        try:
            async with asyncio.timeout(self._ask_s):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            raise Unavailable(f"the daemon's loop did not answer within {self._ask_s:g} s; `halt` works all the same") from error

    async def _read(self, read: Callable[[], T]) -> T:
        """What a function gives that reads the journal, in a thread of its own."""
        try:
            return await asyncio.to_thread(read)
        except JournalError as error:
            raise Unavailable(str(error)) from error

    # --- now ----------------------------------------------------------------------------------------------------------

    async def now(self) -> Now:
        """The latest snapshot; one that is old says so by its line."""
        now = self._behind.snapshot()
        if now is None:
            raise Unavailable("the daemon is starting: it has not told its state yet")
        fault = self._behind.fault()
        if fault:
            return replace(now, line="BLIND", why=f"what follows is old: {fault}")
        return standing(now, (datetime.now(UTC) - datetime.fromisoformat(now.published)).total_seconds())

    async def world(self, kind: str, *, signals: tuple[str, ...] = (), limit: int = 1_000) -> tuple[EntityView, ...]:
        """Entities of a kind, read a portion at a time."""
        found, behind = _kind(kind), self._behind
        ids = (await self._ask(lambda: names(behind.engine, found)))[:limit]
        views: list[EntityView] = []
        async with self._walking:
            while len(views) < len(ids):
                views += await self._ask(partial(self._some, found, ids[len(views) :], signals))
        return tuple(views)

    def _some(self, kind: Kind, ids: Sequence[str], signals: tuple[str, ...]) -> list[EntityView]:
        """The first of these entities, as many as the loop may be held for, at least one."""
        began, views = time.monotonic_ns(), []
        for name in ids:
            views += [self._gated(view) for view in entities(self._behind.engine, kind, [name], self._behind.clock.now(), signals)]
            if time.monotonic_ns() - began >= BUDGET_NS:
                break
        return views

    async def entity(self, kind: str, entity: str) -> EntityView:
        """One entity with all its readings."""
        found, behind = _kind(kind), self._behind
        return await self._ask(lambda: self._gated(entity_view(behind.engine, found, entity, (), behind.clock.now())))

    def _gated(self, view: EntityView) -> EntityView:
        return replace(view, gate=self._gate(view.id)) if view.kind == Kind.MARKET.value else view

    async def history(self, kind: str, entity: str, signals: tuple[str, ...] = ()) -> tuple[Series, ...]:
        """What was seen of an entity's signals."""
        found = _kind(kind)
        return self._behind.tracks.series(found.value, entity, signals)

    async def routes(self) -> tuple[EntityView, ...]:
        """The routes with their readings."""
        return await self.world(Kind.ROUTE.value)

    # --- what is decided ----------------------------------------------------------------------------------------------

    async def runbooks(self) -> tuple[RunbookView, ...]:
        """The set in force."""
        behind = self._behind
        return await self._ask(lambda: runbook_views(behind.engine, behind.rounds, behind.clock.now()))

    async def runbook(self, runbook: str) -> RunbookDetail:
        """One runbook with its source."""
        behind = self._behind

        def read() -> RunbookDetail:
            self._expect(runbook)
            return runbook_detail(behind.engine, behind.rounds, runbook, behind.clock.now())

        return await self._ask(read)

    def _expect(self, runbook: str) -> None:
        names = sorted(self._behind.engine.cold.in_force)
        if runbook not in names:
            raise NotKnown(_no("runbook", runbook, names))

    async def why(self, runbook: str, entity: str = "") -> WhyView:
        """Why an instance is where it is."""
        behind = self._behind

        def read() -> WhyView:
            self._expect(runbook)
            at = behind.clock.now()
            names = [name for _, name in behind.engine.hot.instances(runbook)]
            if entity and entity not in names:
                raise NotKnown(_no(f"instance of {runbook}", entity, names))
            if not names:
                raise NotKnown(f"{runbook} has no instance: nothing of its scope is there")
            return why(behind.engine, runbook, entity or nearest(behind.engine, runbook, at), at)

        return await self._ask(read)

    async def trigger_history(self, runbook: str, entity: str) -> tuple[Series, ...]:
        """The compared quantities of a trigger, with their bounds."""
        return self._behind.tracks.series(TRIGGER, f"{runbook}/{entity}")

    async def episodes(self, *, limit: int = 200) -> tuple[EpisodeView, ...]:
        """The latest episodes."""
        return self._behind.chronicle.episodes(limit)

    async def runs(self, query: RunQuery) -> tuple[RunView, ...]:
        """Runs, newest first."""
        return self._behind.chronicle.runs(query)

    async def run(self, run_id: str) -> RunDetail:
        """One run with its trace."""
        behind = self._behind
        found = await self._read(lambda: run_detail(behind.reader, run_id, behind.chronicle.place(run_id)))
        if found is None:
            latest = [run.run_id for run in behind.chronicle.runs(RunQuery(limit=NAMES_SHOWN))]
            raise NotKnown(_no("run", run_id, latest))
        return found

    async def entries(self, query: EntryQuery) -> Entries:
        """Search the journal."""
        try:
            return await self._read(lambda: find(self._behind.reader, query))
        except JournalError:
            raise
        except UserError as error:
            raise NotKnown(str(error)) from error

    # --- the gate -----------------------------------------------------------------------------------------------------

    async def gate(self, market: str) -> GateAnswer:
        """May strategies open in this market?"""

        def read() -> GateAnswer:
            names = [f"{venue}:{symbol}" for venue, symbol in self._markets()]
            if market not in names:
                raise NotKnown(_no("market", market, names))
            return self._gate(market)

        flagged = self._behind.flag.text()
        if flagged:  # the flag counts even while the loop does not answer
            return GateAnswer(market=market, open=False, why=flagged, at=iso(self._behind.clock.now()))
        return await self._ask(read)

    def _markets(self) -> list[tuple[str, str]]:
        found = (name.partition(":") for name in self._behind.engine.hot.entities(Kind.MARKET))
        return sorted((venue, symbol) for venue, _, symbol in found)

    def _gate(self, market: str) -> GateAnswer:
        behind = self._behind
        return gate(
            behind.engine, behind.topology, market, behind.clock.now(), flag=behind.flag.text(), ready=behind.ready()
        )

    # --- stress, alerts -----------------------------------------------------------------------------------------------

    async def stress(self) -> StressView:
        """The scheduled stress."""
        return await self._ask(self._behind.stress)

    async def report(self, name: str) -> str:
        """A stored report."""
        found = await self._read(lambda: self._behind.report(name))
        if found is None:
            raise NotKnown(f"there is no report {name!r}")
        return found

    async def endpoints(self) -> tuple[EndpointView, ...]:
        """Where alerts go."""
        alerts = self._behind.alerts
        found = await self._read(alerts.overview)
        return tuple(
            EndpointView(
                name=each.name,
                kind=ENDPOINT if each.format == ENDPOINT else "webhook",
                format=each.format,
                address=each.address,
                state=each.state,
                waiting=each.waiting,
                delivered=each.delivered,
                dead=each.dead,
                last_at=None if each.delivered_at is None else iso(each.delivered_at),
                last_error=each.error,
            )
            for each in found
        )

    async def deliveries(self, *, endpoint: str = "", status: str = "", limit: int = 200) -> tuple[DeliveryView, ...]:
        """Messages, newest first."""
        found = await self._read(lambda: self._behind.reader.letters(endpoint=endpoint, status=status, limit=limit))
        return tuple(_delivery(letter) for letter in found)

    async def redeliver(self, delivery_id: str, actor: str) -> Effect:
        """Put dead letters back into their lanes."""
        again = await self._on_loop(self._behind.alerts.redeliver(delivery_id))
        text = f"{len(again)} put back: {', '.join(sorted({d.endpoint for d in again}))}" if again else "nothing: no such dead letter"
        return await self._journaled(actor, "redeliver", delivery_id, text, done=bool(again))

    async def enable_endpoint(self, endpoint: str, actor: str) -> Effect:
        """Send again to an endpoint."""
        text = await self._on_loop(self._behind.alerts.enable(endpoint))
        return await self._journaled(actor, "enable", endpoint, text, done=did_something(text))

    async def test_endpoint(self, endpoint: str, actor: str) -> Effect:
        """Send a test message now."""
        tested = await self._on_loop(self._behind.alerts.test(endpoint), timeout_s=60.0)
        return await self._journaled(actor, "test", endpoint, f"{endpoint}: {tested.answer}", done=tested.delivered)

    # --- commands -----------------------------------------------------------------------------------------------------

    async def command(self, command: Command) -> Effect:
        """Journal a command and tell what came of it. A halt of everything sets the flag first, a resume takes it away."""
        everything = command.target == ""
        # The flag first, and here: nothing that others wait for may stand before a halt.
        flagged = self._set_flag(command) if everything and command.verb == "halt" else ""
        event = OperatorCommand(
            at=0,
            command_id=command.command_id,
            actor=command.actor,
            verb=command.verb,
            target=command.target,
            reason=command.reason,
            until=None if command.until is None else parse_iso(command.until),
            digest=command.digest,
        )
        # A resume is journaled first; the loop takes the flag away when it is, unless somebody set it after this moment.
        asked = self._behind.flag.mark(time.time_ns()) if everything and command.verb == "resume" else None
        try:
            answer = await self._taken(event, asked)
        except Unavailable as error:
            if not flagged:
                raise
            return Effect(done=True, effect=f"{flagged}; {error}", seq=0, at=iso(self._behind.clock.now()))
        effect = answer.taken.effect
        if flagged and self._behind.flag.held:
            effect = f"{effect}; {flagged}"
        return self._effect(answer, effect, done=did_something(answer.taken.effect))

    def _set_flag(self, command: Command) -> str:
        """Set the halt flag; what is certain from then on. Where the file cannot be written, this process is halted all the same."""
        reason = f"{command.actor}: {command.reason}" if command.reason else command.actor
        try:
            self._behind.flag.set(reason)
        except OSError as error:
            self._behind.flag.hold(reason)
            return f"nothing is sent any more, but the halt flag cannot be written ({error.strerror or error}): a restart would not know"
        return "the halt flag is set, nothing is sent any more"

    async def _taken(self, event: OperatorCommand, resuming: Mark | None = None) -> Answer:
        """What came of a command once it is on disk. Raises Unavailable when that is not known in time: it may still be taken."""

        def put() -> Future[Answer]:
            answer = self._behind.commands.put(event)
            if resuming is not None and not answer.done():  # neither taken before nor refused
                self._behind.resuming(event.command_id, resuming)
            return answer

        answer = await self._ask(put)
        try:
            async with asyncio.timeout(self._command_s):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            text = f"the command {event.command_id} waits for the daemon's loop; the same command id again counts once"
            raise Unavailable(text) from error

    async def _journaled(self, actor: str, verb: str, target: str, text: str, *, done: bool) -> Effect:
        """What a person did beside the engine, with its outcome in the journal."""
        at = self._behind.clock.now()
        event = OperatorCommand(at=0, command_id=f"{verb}-{actor}-{at}", actor=actor, verb=verb, target=target, reason=text)
        return self._effect(await self._taken(event), text, done=done)

    def _effect(self, answer: Answer, text: str, *, done: bool) -> Effect:
        return Effect(done=done, effect=text, seq=answer.seq, at=iso(answer.taken.at or self._behind.clock.now()))

    async def _on_loop(self, work: Coroutine[object, object, T], timeout_s: float = COMMAND_S) -> T:
        """What a coroutine gives that runs on the daemon's loop. Raises Unavailable when it takes too long."""
        try:
            answer = asyncio.run_coroutine_threadsafe(work, self._behind.loop)
        except RuntimeError as error:
            work.close()
            raise Unavailable("the daemon has stopped") from error
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.wrap_future(answer)
        except TimeoutError as error:
            raise Unavailable(f"the daemon's loop did not answer within {timeout_s:g} s") from error
        except JournalError as error:
            raise Unavailable(str(error)) from error
        except UserError as error:
            raise NotKnown(str(error)) from error

    async def reload(self, actor: str) -> Effect:
        """Read the runbooks anew."""
        errors = await self._on_loop(self._behind.reload(), timeout_s=60.0)
        text = f"nothing: the set in force stays\n{errors}" if errors else "the runbooks were read anew"
        return await self._journaled(actor, "reload", "", text, done=not errors)

    # --- the stream ---------------------------------------------------------------------------------------------------

    async def stream(self) -> AsyncIterator[Happening]:
        """What happens from now on."""
        async for happening in self._behind.chronicle.happenings.subscribe():
            yield happening


def _kind(name: str) -> Kind:
    try:
        return Kind(name)
    except ValueError as error:
        raise NotKnown(_no("kind", name, [kind.value for kind in Kind])) from error


def _no(what: str, name: str, names: Sequence[str]) -> str:
    there = ", ".join(names[:NAMES_SHOWN]) + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")
    return f"there is no {what} {name!r}; there is {there or 'none'}"


def _delivery(letter: Letter) -> DeliveryView:
    return DeliveryView(
        id=letter.id,
        position=letter.position,
        endpoint=letter.endpoint,
        severity=letter.severity,
        status=letter.status,
        attempts=letter.attempts,
        created_at=iso(letter.created_at),
        next_due=iso(letter.next_due) if letter.status == "waiting" else None,
        settled_at=None if letter.settled_at is None else iso(letter.settled_at),
        error=letter.error,
        body=letter.body,
    )
