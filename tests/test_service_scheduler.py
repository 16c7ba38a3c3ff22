"""Calendar timers: due in engine time, once each, and what was missed is decided at the start."""

from __future__ import annotations

import asyncio
import time
from datetime import UTC, datetime

from daemon.engine.events import Scheduled
from daemon.service.clock import AcceleratedClock
from daemon.service.inbox import Inbox
from daemon.service.scheduler import Scheduler, Timer, last_missed
from daemon.units import DAY_NS, HOUR_NS, NS, parse_iso


def ns(text: str) -> int:
    return parse_iso(text)


def test_timer_is_due_at_its_hour_and_never_at_the_moment_it_is_asked_after() -> None:
    timer = Timer(name="review", hour=9)
    assert timer.next_due(ns("2026-01-01T08:59:59Z")) == ns("2026-01-01T09:00:00Z")
    assert timer.next_due(ns("2026-01-01T09:00:00Z")) == ns("2026-01-02T09:00:00Z")
    assert timer.next_due(ns("2026-01-01T08:59:59.999999999Z")) >= ns("2026-01-01T09:00:00Z")


def test_timer_counts_weekdays_by_name() -> None:
    due = Timer(name="weekly", weekday="mon", hour=6).next_due(ns("2026-01-01T00:00:00Z"))  # a Thursday
    assert datetime.fromtimestamp(due / NS, UTC).strftime("%A %H:%M") == "Monday 06:00"


def test_timer_of_a_zone_follows_its_daylight_saving() -> None:
    timer = Timer(name="desk", hour=9, zone="Europe/Berlin")
    assert timer.next_due(ns("2026-01-10T00:00:00Z")) == ns("2026-01-10T08:00:00Z")
    assert timer.next_due(ns("2026-07-10T00:00:00Z")) == ns("2026-07-10T07:00:00Z")


def test_last_missed_is_the_latest_due_of_a_downtime_and_none_without_one() -> None:
    timer = Timer(name="review", hour=9)
    last = ns("2026-01-01T09:00:00Z")
    assert last_missed(timer, last, last + 23 * HOUR_NS) is None
    assert last_missed(timer, last, last + 3 * DAY_NS + HOUR_NS) == last + 3 * DAY_NS


def test_scheduler_puts_each_due_time_once_in_engine_time_and_catches_up_one_missed_run() -> None:
    async def main() -> list[Scheduled]:
        begin = ns("2026-01-10T08:30:00Z")
        inbox = Inbox()
        clock = AcceleratedClock(speed=5_000.0, now_ns=begin, monotonic=time.monotonic_ns)
        timers = [Timer(name="review", hour=9), Timer(name="quiet", hour=9, missed="skip")]
        scheduler = Scheduler(timers=timers, inbox=inbox, clock=clock)
        scheduler.start({"review": begin - 5 * DAY_NS, "quiet": begin - 5 * DAY_NS})
        found: list[Scheduled] = []
        for _ in range(1_000):  # half an hour of the venue is a third of a second here
            await asyncio.sleep(0.01)
            event = inbox.take()
            if isinstance(event, Scheduled):
                found.append(event)
            if len(found) == 3:
                break
        scheduler.stop()
        return found

    found = asyncio.run(main())
    assert [(event.timer, event.due) for event in found[:1]] == [("review", ns("2026-01-09T09:00:00Z"))]
    assert sorted((event.timer, event.due) for event in found[1:]) == [
        ("quiet", ns("2026-01-10T09:00:00Z")),
        ("review", ns("2026-01-10T09:00:00Z")),
    ]
