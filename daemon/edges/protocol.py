"""What every edge looks like to the service (floor 6): a `Feed` is polled for rows, a `VenueEdge` is asked for actions.

An edge tries once and says what happened: `EdgeError` when it certainly did nothing, `UnknownOutcome` when it may have happened.
Waiting again, backing off and giving up are the engine's business. Edges never ask for the time: they are handed a `Clock`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from daemon.engine.actions import Action, Outcome
from daemon.engine.events import Row
from daemon.world.entities import Kind


class Clock(Protocol):
    """Venue time: the wall clock live, the simulated venue's clock under `--speed`."""

    def now(self) -> int:
        """Nanoseconds UTC."""
        ...

    async def sleep(self, ns: int, /) -> None:
        """Returns after `ns` of this clock (not of the wall clock)."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Poll:
    """One thing a feed is asked for at a cadence; `name` becomes the `source` of its events (`dydx.book:BTC-USD`)."""

    name: str
    every_ns: int  # in venue time, > 0
    fetch: Callable[[], Awaitable[list[Row]]]  # one try; raises EdgeError


class Feed(Protocol):
    """Eyes: what a source can observe and how often it is worth asking."""

    @property
    def name(self) -> str:
        """The feed's name in logs and errors (`dydx`)."""
        ...

    @property
    def provides(self) -> Mapping[Kind, frozenset[str]]:
        """The observed signals this source can give, by kind; `reefd check` uses it."""
        ...

    @property
    def polls(self) -> tuple[Poll, ...]:
        """The polls, each with its own cadence."""
        ...

    async def history(self) -> list[Row]:
        """Rows from before now that were not read yet, oldest first, each with its own `event_ts`, to fill windows; empty when nothing is
        left. Raises EdgeError."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


class VenueEdge(Protocol):
    """Hands: where actions are sent, once each."""

    @property
    def name(self) -> str:
        """The edge's name in logs and errors."""
        ...

    def takes(self, action: Action) -> bool:
        """True when this edge is the one to perform `action`."""
        ...

    async def send(self, action: Action) -> Outcome:
        """Performs the action once. Raises EdgeError (did nothing) or UnknownOutcome (may have happened: look it up)."""
        ...

    async def lookup(self, action: Action) -> Outcome | None:
        """What became of an action sent earlier; None = not known there. Raises EdgeError when the question could not be asked."""
        ...

    async def close(self) -> None:
        """Closes the connections."""
        ...


@dataclass(slots=True)
class WriteMarks:
    """Counts settled writes an account, so that a reading begun before a write settled is not taken for one made after it.

    The venue edge calls `settled`; the feed compares `count` before and after its request and asks again when it moved.
    """

    _settled: dict[str, int] = field(default_factory=dict)

    def settled(self, account: str) -> None:
        """Notes that a write to `account` has come to an outcome."""
        self._settled[account] = self.count(account) + 1

    def count(self, account: str) -> int:
        """How many writes to `account` have settled so far."""
        return self._settled.get(account, 0)
