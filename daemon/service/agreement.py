"""Whether a venue's clock still agrees with ours (floor 7): a simulated venue that was started anew, or a machine whose clock is wrong.

    watch = ClockWatch(venue="dydx", clock=clock, ask=told, simulated=True)
    await watch.run()                         # for ever; `watch.problem` is what the status shows
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from daemon.errors import EdgeError
from daemon.service.clock import Clock
from daemon.service.logging import log
from daemon.units import NS, iso

LOOK_EVERY_NS = 10 * NS  # real time
APART_MAX_NS = 30 * NS  # venue time
APART_MAX_REAL_NS = 3 * NS  # real time: what a busy machine may be late by, whatever that is in an accelerated venue's time


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What a venue says of its clock, ns. `started`: when a simulated venue's time began; 0 = it does not say."""

    now: int
    started: int = 0


class ClockWatch:
    """Asks one venue for its time now and then."""

    def __init__(self, *, venue: str, clock: Clock, ask: Callable[[], Awaitable[Told]], simulated: bool) -> None:
        self._venue = venue
        self._clock = clock
        self._ask = ask
        self._simulated = simulated
        self._started = 0
        self._anew = False  # for ever: a venue that began again does not become the old one by catching up
        self.problem = ""

    async def run(self) -> None:
        """Look every ten real seconds until cancelled."""
        while True:
            await self.look()
            await self._clock.sleep(int(LOOK_EVERY_NS * self._clock.speed))

    async def look(self) -> None:
        """Ask once. A venue that does not answer says nothing about its clock: its feeds show that."""
        before = self._clock.now()
        try:
            told = await self._ask()
        except EdgeError:
            return
        after = self._clock.now()
        allowed_ns = max(APART_MAX_NS, int(APART_MAX_REAL_NS * self._clock.speed))
        # The answer was given at some moment between the two.
        apart = told.now < before - allowed_ns or told.now > after + allowed_ns
        self._anew = self._anew or (self._started != 0 and told.started != self._started)
        self._started = self._started or told.started
        found = self._say(told.now, after) if apart or self._anew else ""
        if found and not self.problem:
            log().error("clock.apart", venue=self._venue, says=iso(told.now), ours=iso(after), reason=found)
        elif self.problem and not found:
            log().warning("clock.agrees", venue=self._venue)
        self.problem = found

    def _say(self, theirs: int, ours: int) -> str:
        clocks = f"its clock says {iso(theirs)}, ours {iso(ours)}"
        if self._simulated:
            return f"{self._venue}: the simulated venue was started anew: {clocks}; restart the daemon on a new journal"
        return (
            f"{self._venue}: the venue's time is not ours: {clocks}; set this machine's clock, "
            "or write clock: {follow: venue} for a simulated venue"
        )
