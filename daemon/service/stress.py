"""The scheduled stress of the live book (floor 7): one run at a time beside the loop; its figures enter as an observation like any other.

    stress = ScheduledStress(every_ns=HOUR_NS, play=play, inbox=inbox, clock=clock)
    stress.begin(due)               # when the timer `stress` was taken

A run that fails, whatever the reason, is a `FeedFailed` of the source `stress`: the last figures stand and age, and unknown never acts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial

from daemon.edges.protocol import Poll
from daemon.engine.events import Row
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.service.poller import FeedHealth, Poller
from daemon.units import iso

STRESS = "stress"  # the timer, and the source of its observations
SIGNALS = ("stress_liquidation_probability", "stress_cvar")
Play = Callable[[int], Awaitable[list[Row]]]  # of a due time (ns); one try, raises whatever went wrong


class ScheduledStress:
    """Plays the live book whenever it is due; a due time that comes while a run is under way is skipped, never caught up."""

    def __init__(self, *, every_ns: int, play: Play, inbox: Inbox, clock: Clock) -> None:
        self._every_ns = every_ns
        self._play = play
        self._inbox = inbox
        self._clock = clock
        self._running: asyncio.Task[int] | None = None
        self.health = FeedHealth(source=STRESS, every_ns=every_ns)

    @property
    def running(self) -> bool:
        """True while a run is under way."""
        return self._running is not None and not self._running.done()

    def begin(self, due: int) -> None:
        """Start the run of a due time (ns); returns at once."""
        if self.running:
            self.health.skipped += 1
            log().warning("stress.skipped", due=iso(due), reason="the run before is still under way; write a longer every: or fewer paths:")
            return
        # A failure of any kind is the poller's to tell: it is one poll, whose slots are the calendar's.
        poll = Poll(name=STRESS, every_ns=self._every_ns, fetch=partial(self._play, due))
        poller = Poller(source=STRESS, poll=poll, inbox=self._inbox, clock=self._clock, health=self.health)
        self._running = asyncio.create_task(poller.poll_once(), name=STRESS)

    async def stop(self) -> None:
        """End the run under way, if there is one; nothing comes of it."""
        if self._running is not None:
            self._running.cancel()
            await asyncio.gather(self._running, return_exceptions=True)
