"""Calendar timers (floor 7): APScheduler in memory, whose fire times become `Scheduled` events. Never for holds, cooldowns or polls.

The calendar is reckoned in engine time, so that a day of an accelerated venue is a day here too; APScheduler is only asked to wait for
the real moment that corresponds. It forgets what came due while the daemon was down: `missed` decides that from the journal at start.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal
from zoneinfo import ZoneInfo

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from apscheduler.triggers.cron import CronTrigger
from apscheduler.triggers.date import DateTrigger

from daemon.engine.events import Scheduled
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.units import NS

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True, kw_only=True)
class Timer:
    """One calendar timer: at `hour:minute` of every day, of one day of the week or of the month; or every so often."""

    name: str
    hour: int = 0
    minute: int = 0
    weekday: str | None = None  # a name of `DAYS`: crontab numbers start the week on different days
    monthday: int | None = None
    zone: str = "UTC"
    every_ns: int = 0  # > 0: each multiple of it since 1970, whatever the rest says
    missed: Literal["run_once", "skip"] = "run_once"  # due while the daemon was down

    def trigger(self) -> CronTrigger:
        """APScheduler's trigger of this calendar."""
        assert self.weekday is None or self.weekday in DAYS
        zone = UTC if self.zone == "UTC" else ZoneInfo(self.zone)  # UTC needs no zone files, which a small image may lack
        return CronTrigger(day_of_week=self.weekday, day=self.monthday, hour=self.hour, minute=self.minute, second=0, timezone=zone)

    def next_due(self, after: int) -> int:
        """The first due time (ns) strictly after `after` (ns)."""
        if self.every_ns > 0:
            return (after // self.every_ns + 1) * self.every_ns
        # A microsecond later, because APScheduler counts a fire time that equals `now` as still to come.
        found: datetime | None = self.trigger().get_next_fire_time(None, EPOCH + timedelta(microseconds=after // 1_000 + 1))
        assert found is not None, "a daily, weekly or monthly calendar has no end"
        return (found - EPOCH) // timedelta(microseconds=1) * 1_000


# What the daemon itself wants to be woken for. The engine decides what a timer means.
HOUSE_TIMERS = (Timer(name="review", hour=9),)


class Scheduler:
    """Puts a `Scheduled` event in the inbox when a timer is due."""

    def __init__(self, *, timers: Sequence[Timer], inbox: Inbox, clock: Clock) -> None:
        self._timers = tuple(timers)
        self._inbox = inbox
        self._clock = clock
        self._waiting = AsyncIOScheduler(timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True})

    def start(self, last_due: Mapping[str, int]) -> None:
        """Begin to wait; `last_due` is the last due time that the journal has of each timer."""
        for timer in self._timers:
            self._inbox_missed(timer, last_due.get(timer.name))
            self._wait_for(timer, timer.next_due(self._clock.now()))
        self._waiting.start()

    def stop(self) -> None:
        """Wait no longer."""
        if self._waiting.running:
            self._waiting.shutdown(wait=False)

    def upcoming(self) -> Mapping[str, int]:
        """When each timer is due next, ns of the daemon's clock."""
        now = self._clock.now()
        return {timer.name: timer.next_due(now) for timer in self._timers}

    def _inbox_missed(self, timer: Timer, last: int | None) -> None:
        if last is None or timer.missed == "skip":
            return
        missed = last_missed(timer, last, self._clock.now())
        if missed is not None:
            self._inbox.put(Scheduled(at=0, timer=timer.name, due=missed))

    def _wait_for(self, timer: Timer, due: int) -> None:
        real_s = max(0.0, (due - self._clock.now()) / self._clock.speed / NS)
        moment = DateTrigger(datetime.now(UTC) + timedelta(seconds=real_s), timezone=UTC)
        self._waiting.add_job(self._fire, moment, args=(timer, due))

    async def _fire(self, timer: Timer, due: int) -> None:
        if self._clock.now() < due:
            self._wait_for(timer, due)  # the wall clock was moved: not due yet in engine time
            return
        self._inbox.put(Scheduled(at=0, timer=timer.name, due=due))
        self._wait_for(timer, timer.next_due(max(due, self._clock.now())))


def last_missed(timer: Timer, last: int, now: int) -> int | None:
    """The latest due time after `last` and at or before `now`; None when nothing was missed. At most a few hundred steps."""
    due, found = timer.next_due(max(last, now - 40 * 86_400 * NS)), None
    while due <= now:
        found, due = due, timer.next_due(due)
    return found
