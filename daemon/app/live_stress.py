"""The live book stressed by the calendar (floor 9): what is asked of the process that plays it, and what its answer tells runbooks.

    live = LiveStress(settings=settings, clock=clock, inbox=inbox, engine=engine, house=house, in_force=sources)
    live.resume(); live.follow(transition.records)

Played with the runbooks that are in force and may act: not those that a person paused, none while everything is halted. Their triggers,
cooldowns and limits begin anew. Inside of it the signals of the stress itself are unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from daemon.app.live_book import book_of
from daemon.engine.codec import decode_as, encode_as
from daemon.engine.engine import Engine
from daemon.engine.events import Row
from daemon.engine.guard import pause_of
from daemon.engine.limits import HouseLimits
from daemon.engine.records import Record, TimerTaken
from daemon.errors import EdgeError, SettingsError, UserError
from daemon.service.apart import apart
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.service.poller import FeedHealth
from daemon.service.scheduler import Timer, last_missed
from daemon.service.stress import SIGNALS, STRESS, ScheduledStress
from daemon.settings import Settings, StressSettings
from daemon.simulation.book import Book
from daemon.simulation.book_text import book_text
from daemon.simulation.stress.surroundings import check_models
from daemon.simulation.stress.worldfile import load_world
from daemon.units import MINUTE_NS, NS, iso
from daemon.world.entities import PORTFOLIO_ID, Kind

WORKER = ("-m", "daemon.app.stress_worker")
PATIENCE_NS = 5 * MINUTE_NS  # how long readings that are missing are waited for: a start has none at first
LOOK_EVERY_NS = 5 * NS
Sources = Callable[[], Mapping[str, tuple[str, str]]]  # the runbooks in force by digest: path, text


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: the book's text, the world's file, the runbooks in force, and how many futures, from when and how far."""

    book: str
    world: str  # path
    runbooks: tuple[tuple[str, str], ...]  # path, text
    house: HouseLimits
    start: int
    horizon_ns: int
    paths: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Figures:
    """The answer. NaN: it cannot be said."""

    liquidation_probability: float  # within the horizon, with the runbooks
    liquidation_probability_without: float  # the same with nobody
    cvar_usd: float  # mean P&L of the worst 5 % with the runbooks, a loss < 0
    seconds: float  # real ones that it took


def _check_routes(settings: Settings, path: Path) -> None:
    """A typo is told to who starts the daemon; a world that cannot be read, at the first run, since it may be there by then."""
    try:
        world = load_world(path)
    except UserError:
        return
    try:
        check_models(world, {name: route.model for name, route in settings.routes.items()})
    except UserError as error:
        raise SettingsError(f"routes.*.model: {error}") from None


def timer_of(settings: StressSettings) -> Timer:
    """Its calendar timer."""
    return Timer(name=STRESS, every_ns=settings.every, missed=settings.missed)


class LiveStress:
    """Plays the live book whenever its timer is due, and turns the answer into a reading."""

    def __init__(self, *, settings: Settings, clock: Clock, inbox: Inbox, engine: Engine, house: HouseLimits, in_force: Sources) -> None:
        """Raises SettingsError where a route is to behave by a model that neither the stress's world nor reefd knows."""
        assert settings.stress is not None, "who is not asked to stress makes none"
        _check_routes(settings, settings.stress.world)
        self._settings = settings
        self._chosen = settings.stress
        self._clock = clock
        self._engine = engine
        self._house = house
        self._in_force = in_force
        self._runs = ScheduledStress(every_ns=self._chosen.every, play=self.play, inbox=inbox, clock=clock)

    @property
    def health(self) -> FeedHealth:
        """How its runs go, for the status page."""
        return self._runs.health

    def follow(self, records: Sequence[Record]) -> None:
        """Begin a run when its timer was taken: a due time that comes twice is taken once."""
        for record in records:
            if isinstance(record, TimerTaken) and record.timer == STRESS:
                self._runs.begin(record.due)

    def resume(self) -> None:
        """Begin the run that the life before took and did not answer, unless one is due anyway. Call it at the start."""
        last = self._engine.cold.timers.get(STRESS)
        timer = timer_of(self._chosen)
        if last is None or timer.missed == "skip" or last_missed(timer, last, self._clock.now()) is not None:
            return
        if self._engine.hot.seen_at(Kind.PORTFOLIO, PORTFOLIO_ID, SIGNALS[0]) < last:
            self._runs.begin(last)

    async def stop(self) -> None:
        """End the run under way."""
        await self._runs.stop()

    async def play(self, due: int) -> list[Row]:
        """The portfolio's row of a due time (ns). Raises EdgeError where the book stays incomplete or its process fails."""
        chosen = self._chosen
        book, at = await self._whole_book()
        question = Question(
            book=book_text(book), world=str(chosen.world), runbooks=self._acting(), house=self._house, start=due,
            horizon_ns=chosen.horizon, paths=chosen.paths, seed=due // NS,
        )  # fmt: skip
        answer = await apart(WORKER, encode_as(question, Question).encode(), name=STRESS, timeout_s=chosen.timeout / NS)
        found = cast("Figures", decode_as(answer.decode(), Figures))
        log().info(
            "stress.played", due=iso(due), book_at=iso(at), paths=chosen.paths, seconds=round(found.seconds, 1),
            liquidation_probability=found.liquidation_probability, without=found.liquidation_probability_without, cvar_usd=found.cvar_usd,
        )  # fmt: skip
        values = dict(zip(SIGNALS, (found.liquidation_probability, found.cvar_usd), strict=True))
        return [Row(kind=Kind.PORTFOLIO, entity=PORTFOLIO_ID, values=values, event_ts=at)]

    async def _whole_book(self) -> tuple[Book, int]:
        """The live book and its time, as soon as nothing of it is missing."""
        give_up = self._clock.now() + PATIENCE_NS
        while True:
            at = self._clock.now()
            try:
                return book_of(self._engine, self._settings, at), at
            except UserError as error:
                if at >= give_up:
                    raise EdgeError(str(error), edge=STRESS, reason="incomplete", retryable=True) from error
            await self._clock.sleep(LOOK_EVERY_NS)

    def _acting(self) -> tuple[tuple[str, str], ...]:
        """The runbooks in force that no person keeps from acting: path, text."""
        cold = self._engine.cold
        if cold.halted:
            return ()
        paused = {digest for runbook, digest in cold.in_force.items() if pause_of(cold, runbook, "", people_only=True)}
        return tuple(source for digest, source in self._in_force().items() if digest not in paused)
