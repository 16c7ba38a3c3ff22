"""MQTT of the running daemon, composed (floor 9): one link, what speaks over it and who listens to it.

    mqtt = LiveMqtt(settings=settings, broker=broker, journal=journal, inbox=inbox, clock=clock, raise_alarm=..., dry_run=False)
    mqtt.serve(desk, authorise)            # state out and commands in, as soon as there is a desk
    await mqtt.run(); await mqtt.stop()    # a background task; nobody waits for it

A dry run listens and says nothing: its state would stand in the place of the real daemon's. A fault of all this is told, closes the
gates and is tried again: what is shown never stops what acts.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

from daemon.edges.broker import Broker, Connection, Outgoing, Subscription
from daemon.edges.mqtt import MqttWire
from daemon.errors import EdgeError
from daemon.journal.entry import Delivery
from daemon.journal.store import Journal
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.service.mqtt_commands import Authorise, CommandDoor
from daemon.service.mqtt_feed import Allowed, FeedDoor
from daemon.service.mqtt_link import STOP_S, Hearing, Link, Part, Post, Standing
from daemon.service.mqtt_notices import NoticeLane
from daemon.service.mqtt_state import LOOK_S, StateSpeaker, StateTopics, gate_text, gate_topic
from daemon.service.poller import FeedHealth
from daemon.service.views import Command, Effect, GateAnswer
from daemon.settings import MqttSettings, Settings
from daemon.units import iso
from daemon.web.desk import Desk, NotKnown, Unavailable

ASKED_S = 5.0  # how long the desk is waited for before every gate counts as closed
SHARE = 20  # one part in so many of the time goes into asking
PAUSE_MAX_S = 5.0
MAY_COUNT = "it may still be taken; sent again with the same id it counts once"
AGAIN_MIN_S, AGAIN_MAX_S = 1.0, 60.0  # pauses before a task that broke is started anew
DRAIN_S = 1.0  # for effects of commands that are on their way when the daemon stops


class LiveMqtt:
    """Everything of the daemon that speaks MQTT."""

    def __init__(
        self,
        *,
        settings: Settings,
        broker: Broker,
        journal: Journal,
        inbox: Inbox,
        clock: Clock,
        raise_alarm: Callable[[Delivery, str], None],
        dry_run: bool,
    ) -> None:
        assert settings.mqtt is not None
        self._spec: MqttSettings = settings.mqtt
        self._broker = replace(broker, client_id=f"{broker.client_id}-dry-run") if dry_run else broker
        self._clock = clock
        self._dry_run = dry_run
        self._markets = tuple(f"{name}:{market}" for name, venue in settings.venues.items() for market in venue.markets)
        self._desk: Desk | None = None
        self._said: Mapping[str, str] = {}
        self._asked_at = ""  # when the desk was asked for what is said, ISO
        self._made = StateTopics()
        self._post = Post()
        self._faults: set[str] = set()  # kinds that were told
        self._stopping = asyncio.Event()
        self._ended = asyncio.Event()
        self._started = False
        prefix = self._spec.prefix
        self._state = StateSpeaker(prefix=prefix, snapshot=lambda: self._said, at=lambda: self._asked_at)
        self.lane = NoticeLane(journal=journal, clock=clock, prefix=prefix, raise_alarm=raise_alarm, fallback=self._spec.fallback or "")
        fed = self._spec.fed()
        self._feed = None
        if fed:
            allowed = Allowed(signals=fed, told=settings.adapter_tells)
            self._feed = FeedDoor(prefix=prefix, allowed=allowed, inbox=inbox, clock=clock, tell=self._tell)
        self._door: CommandDoor | None = None
        self._link: Link | None = None

    @property
    def health(self) -> FeedHealth | None:
        """How the observations do; None where none may come in."""
        return None if self._feed is None else self._feed.health

    def serve(self, desk: Desk, authorise: Authorise) -> None:
        """Tell the desk's state, and hand it the commands of whoever may. Call it before `run`."""
        self._desk = desk
        if self._spec.commands and not self._dry_run:
            self._door = CommandDoor(
                prefix=self._spec.prefix,
                clock=self._clock,
                wall=time.time_ns,
                authorise=authorise,
                perform=self._perform,
                tell=self._tell,
            )

    def look(self) -> None:
        """Something was committed: a notice may wait, the state may have changed."""
        self.lane.look()

    async def run(self) -> None:
        """Keep the connection up until `stop`; whatever fails begins anew."""
        self._started = True
        try:
            async with asyncio.TaskGroup() as group:
                beside = [group.create_task(self._kept("state", self._refresh), name="mqtt state")]
                if not self._dry_run:
                    beside.append(group.create_task(self._kept("overdue", self.lane.watch), name="mqtt overdue"))
                await self._kept("link", self._hold)
                for task in beside:
                    task.cancel()
        finally:
            self._ended.set()

    async def _kept(self, where: str, work: Callable[[], Awaitable[None]]) -> None:
        """Do a work that ends only with the daemon, and again after a pause when it fails."""
        pause_s = AGAIN_MIN_S
        while not self._stopping.is_set():
            began = time.monotonic()
            try:
                await work()
            except EdgeError as gone:
                if where in PARTS:
                    raise  # the connection's end, which is the link's to see
                self._fault(where, gone)
            except Exception as error:
                self._fault(where, error)
            if time.monotonic() - began >= AGAIN_MAX_S:
                pause_s = AGAIN_MIN_S
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause_s):
                    await self._stopping.wait()
            pause_s = min(2 * pause_s, AGAIN_MAX_S)

    async def _hold(self) -> None:
        link = self._link = self._make_link()
        try:
            await link.run()
        except Exception as error:
            # The broker has published `offline` by then: the line was cut.
            link.standing.connected, link.standing.since = False, time.monotonic()
            link.standing.reason = f"a fault of the daemon: {_first(error)!r}"
            self._changed(link.standing)
            raise

    def _fault(self, where: str, error: Exception) -> None:
        """Tell a fault, once a kind."""
        first = _first(error)
        kind = f"{where} {type(first).__name__}"
        if kind not in self._faults:
            self._faults.add(kind)
            log().error("mqtt.fault", where=where, reason=repr(first), consequence="the nets go on; it is tried again", exc_info=error)

    async def stop(self) -> None:
        """Say the last words, in a few seconds or not at all."""
        if self._link is None or not self._started:
            return
        if self._door is not None:
            await self._door.drain(DRAIN_S)
        self._stopping.set()
        self._link.stop()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_S):
                await self._ended.wait()

    def page(self) -> Mapping[str, object]:
        """The connection, for status pages."""
        standing = self._link.standing if self._link is not None else Standing(address=self._broker.address)
        return {
            "broker": self._broker.address,
            "connected": standing.connected,
            "since_s": round(time.monotonic() - standing.since, 1) if standing.since else 0.0,
            "reason": standing.reason,
            "connects": standing.connects,
            "received": standing.received,
            "dropped": standing.dropped,
            "observations": 0 if self._feed is None else self._feed.taken,
            "observations_refused": 0 if self._feed is None else self._feed.refused,
            "commands": 0 if self._door is None else self._door.taken,
            "commands_refused": 0 if self._door is None else self._door.refused,
        }

    # --- parts --------------------------------------------------------------------------------------------------------

    def _make_link(self) -> Link:
        hear: list[Hearing] = []
        if self._feed is not None:
            subscription = Subscription(topics=self._feed.topics)
            hear.append(Hearing(subscription=subscription, takes=self._feed.takes, take=self._feed.take))
        if self._door is not None:
            subscription = Subscription(topics=self._door.topics, stored=False)
            hear.insert(0, Hearing(subscription=subscription, takes=self._door.takes, take=self._door.take))
        steady: list[Part] = [_Steady(self.lane, self._kept, "notices"), _Steady(self._post, self._kept, "answers")]
        parts: list[Part] = [] if self._dry_run else steady
        if self._desk is not None and not self._dry_run:
            parts.insert(0, self._state)
        return Link(
            wire=MqttWire(self._broker),
            address=self._broker.address,
            parts=parts,
            hear=hear,
            will=self._state.will if self._state in parts else None,
            changed=self._changed,
        )

    def _changed(self, standing: Standing) -> None:
        if self._feed is not None:
            self._feed.connected(standing.connected, standing.reason)

    def _tell(self, message: Outgoing) -> None:
        if not self._dry_run:
            self._post.put(message)

    async def _perform(self, command: Command) -> Effect:
        assert self._desk is not None
        try:
            return await self._desk.command(command)
        except NotKnown as error:
            text = f"nothing: {error}"
        except Unavailable as error:
            text = f"not known yet: {error}; {MAY_COUNT}"
        except Exception as error:
            text = f"not known: a fault of the daemon ({type(error).__name__}); {MAY_COUNT}"
            self._fault(command.verb, error)
        log().warning("command.not_done", door="mqtt", command_id=command.command_id, verb=command.verb, reason=text)
        return Effect(done=False, effect=text, seq=0, at=iso(self._clock.now()))

    # --- state --------------------------------------------------------------------------------------------------------

    async def _refresh(self) -> None:
        """Ask the desk each second; what it cannot answer is closed."""
        while True:
            if self._feed is not None:
                self._feed.beat()
            began, at = time.monotonic(), iso(self._clock.now())
            if self._desk is not None:
                try:
                    async with asyncio.timeout(ASKED_S):
                        before, self._said = self._said, await self._ask(self._desk)
                except (TimeoutError, Unavailable) as error:
                    before, self._said = self._said, self._unanswered(str(error) or "it does not answer")
                except Exception as error:
                    self._fault("state", error)
                    before, self._said = self._said, self._unanswered(f"a fault of its own ({type(error).__name__})")
                self._asked_at = at
                if before != self._said:
                    self._state.look()
            # Telling takes a small part of the loop's time, however many markets there are.
            await asyncio.sleep(min(max(LOOK_S / 2, SHARE * (time.monotonic() - began)), PAUSE_MAX_S))

    async def _ask(self, desk: Desk) -> Mapping[str, str]:
        now = await desk.now()
        gates: dict[str, GateAnswer] = {}
        for market in self._markets:
            try:
                gates[market] = await desk.gate(market)
            except NotKnown as error:
                gates[market] = GateAnswer(market=market, open=False, why=str(error), at=now.at)
        gates[""] = overall(now.halted, openings_halted=now.openings_halted, at=now.at)
        return self._made.of(now, gates, await desk.runbooks())

    def _unanswered(self, why: str) -> Mapping[str, str]:
        """The topics as they were, with every gate closed."""
        closed = GateAnswer(market="", open=False, why=f"the daemon cannot tell: {why}", at=iso(self._clock.now()))
        gates = {gate_topic(market) for market in (*self._markets, "")}
        before = {topic: text for topic, text in self._said.items() if topic not in gates}
        already = next((text for topic, text in self._said.items() if topic in gates), "")
        text = already if "the daemon cannot tell" in already else gate_text(closed)
        return {**before, **dict.fromkeys(gates, text)}


PARTS = ("notices", "answers")


class _Steady:
    """A part whose own faults do not end the connection: others speak over it."""

    def __init__(self, part: Part, kept: Callable[[str, Callable[[], Awaitable[None]]], Awaitable[None]], name: str) -> None:
        self._part, self._kept, self._name = part, kept, name

    async def speak(self, connection: Connection) -> None:
        """Speak, and again after a fault. Raises EdgeError."""
        await self._kept(self._name, lambda: self._part.speak(connection))

    async def farewell(self, connection: Connection) -> None:
        """The part's last words."""
        await self._part.farewell(connection)


def _first(error: BaseException) -> BaseException:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def overall(halted: str, *, openings_halted: bool, at: str) -> GateAnswer:
    """The gate of everything: closed while everything is halted, or all openings are; each market has its own besides."""
    why = halted or ("openings of everything are halted" if openings_halted else "")
    return GateAnswer(market="", open=not why, why=why or "nothing is halted as a whole; ask for the market's own gate", at=at)
