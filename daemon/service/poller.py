"""Pollers (floor 7): one task a poll, on slots of steady engine time; a slot that was missed is skipped, never caught up.

A poll that fails, whatever the reason, is a `FeedFailed` event: staleness follows by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.edges.protocol import Feed, Poll
from daemon.engine.events import FeedFailed, Observed, Row
from daemon.errors import EdgeError
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.units import NS

REASON_CHARS_MAX = 300
HISTORY_PAUSE_MIN_NS = NS
HISTORY_PAUSE_MAX_NS = 60 * NS
HISTORY_RETRIES = 5  # 1, 2, 4, 8 and 16 s after each other


@dataclass(slots=True, kw_only=True)
class FeedHealth:
    """How one poll is doing, for the status page. Times are engine ns, 0 = not yet."""

    source: str
    every_ns: int
    succeeded_at: int = 0
    failed_at: int = 0
    failures: int = 0  # in a row, 0 when the last poll succeeded
    skipped: int = 0  # slots missed since the start
    reason: str = ""
    waits_for: str = ""  # another poll that must come first


class Poller:
    """Runs one poll for ever."""

    def __init__(self, *, source: str, poll: Poll, inbox: Inbox, clock: Clock, health: FeedHealth | None = None) -> None:
        self._poll = poll
        self._inbox = inbox
        self._clock = clock
        self.health = health or FeedHealth(source=source, every_ns=poll.every_ns)

    async def run(self) -> None:
        """Poll at every slot until cancelled."""
        slot = self._clock.steady_ns()
        while True:
            pause_ns = await self.poll_once()
            slot, skipped = next_slot(slot, self._clock.steady_ns() + pause_ns, self.health.every_ns)
            self.health.skipped += skipped
            await self._clock.sleep(slot - self._clock.steady_ns())

    async def poll_once(self) -> int:
        """Poll and queue what came of it; returns how long the source asked to be left alone, in engine ns."""
        health = self.health
        try:
            rows = await self._poll.fetch()
        except Exception as error:  # whatever went wrong, the reading did not arrive: that is the event
            pause_ns = self._failed(error)
        else:
            if health.failures:
                log().info("feed.recovered", source=health.source, failures=health.failures)
            health.failures, health.reason = 0, ""
            health.succeeded_at = self._clock.now()
            self._inbox.put(Observed(at=0, source=health.source, rows=tuple(rows)))
            pause_ns = 0
        return pause_ns

    def _failed(self, error: Exception) -> int:
        health = self.health
        reason = str(error) if isinstance(error, EdgeError) else f"{type(error).__name__}: {error}"
        health.failures += 1
        health.reason = reason[:REASON_CHARS_MAX]
        health.failed_at = self._clock.now()
        if health.failures == 1:
            log().warning("feed.failed", source=health.source, reason=health.reason)
        self._inbox.put(FeedFailed(at=0, source=health.source, reason=health.reason))
        retry_after_s = error.retry_after_s if isinstance(error, EdgeError) else None
        return int((retry_after_s or 0.0) * NS)


async def fill_history(feed: Feed, *, inbox: Inbox, clock: Clock, health: FeedHealth) -> bool:
    """Queue the past of a feed before its first poll: rows from before the first live one can enter windows only now.

    While the source cannot be reached nothing live could be read either, so it is asked until it answers. True when the whole past was
    read; False when the source answered but some of it is lacking: the polls need not wait for that, `retry_history` asks for it.
    """
    pause_ns = HISTORY_PAUSE_MIN_NS
    rows: list[Row] = []
    while True:
        try:
            more = await feed.history()
        except Exception as error:  # as in a poll: whatever went wrong, the readings did not arrive
            _history_failed(error, inbox=inbox, clock=clock, health=health)
            if rows or not (isinstance(error, EdgeError) and error.retryable):
                # Not under the feed's own name: the next start asks for the whole past again.
                _queue_history(rows, source=health.source, inbox=inbox)
                return False
            await clock.sleep(pause_ns)
            pause_ns = min(2 * pause_ns, HISTORY_PAUSE_MAX_NS)
        else:
            if not more:
                _queue_history(rows, source=feed.name, inbox=inbox)
                return True
            rows += more


async def retry_history(feed: Feed, *, inbox: Inbox, clock: Clock, health: FeedHealth) -> bool:
    """Ask for the lacking part of a feed's past a few times, beside its polls; True when all of it came. What never came is logged."""
    pause_ns = HISTORY_PAUSE_MIN_NS
    for _ in range(HISTORY_RETRIES):
        await clock.sleep(pause_ns)
        pause_ns *= 2
        try:
            rows = await feed.history()
        except Exception as error:  # as above
            _history_failed(error, inbox=inbox, clock=clock, health=health)
        else:
            if not rows:
                return True
            _queue_history(rows, source=health.source, inbox=inbox)
    log().error("history.missing", source=feed.name, reason=health.reason, consequence="its windows start cold")
    return False


def _history_failed(error: Exception, *, inbox: Inbox, clock: Clock, health: FeedHealth) -> None:
    reason = (str(error) if isinstance(error, EdgeError) else f"{type(error).__name__}: {error}")[:REASON_CHARS_MAX]
    log().warning("history.failed", source=health.source, reason=reason)
    inbox.put(FeedFailed(at=0, source=health.source, reason=reason))
    health.failures, health.reason, health.failed_at = health.failures + 1, reason, clock.now()


def _queue_history(rows: Sequence[Row], *, source: str, inbox: Inbox) -> None:
    if rows:
        inbox.put(Observed(at=0, source=source, rows=tuple(sorted(rows, key=lambda row: row.event_ts or 0)), history=True))
        log().info("history.read", source=source, rows=len(rows))


def next_slot(slot: int, now: int, every_ns: int) -> tuple[int, int]:
    """The first slot after `now` on the grid of `slot` and `every_ns`, and how many slots lie between that were skipped."""
    steps = max(1, (now - slot) // every_ns + 1)
    return slot + steps * every_ns, steps - 1
