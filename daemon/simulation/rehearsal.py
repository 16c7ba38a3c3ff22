"""The production engine in virtual time with a simulated venue to answer it (floor 5): what replay and runbook tests share.

    rehearsal = Rehearsal(engine, answer=answer, take=log.take)
    rehearsal.send(Observed(...))       # and everything that follows from it at the same instant, to quiescence
    rehearsal.wake(rehearsal.wake_at)   # timers, each at its own time
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from daemon.engine.actions import Action, Outcome
from daemon.engine.edge import Edge
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import ActionSettled, Event, Observed, Row, Woke
from daemon.engine.records import Record
from daemon.units import FOREVER, NEVER

EVENTS_AT_ONE_INSTANT_MAX = 100_000  # more than this at one instant is a loop of ours, not a busy market
SOURCE = "simulation"


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What the simulated venue says to an action: its outcome (None: later), and what it then reports in the same instant."""

    outcome: Outcome | None
    rows: tuple[Row, ...] = ()


class Rehearsal:
    """Steps the engine, performs its actions and feeds their outcomes back; `wake_at` is when it wants to be woken next."""

    def __init__(self, engine: Engine, *, answer: Callable[[Action, int], Answer], take: Callable[[Record], None]) -> None:
        self.engine = engine
        self.wake_at = FOREVER
        self.now = NEVER
        self._answer = answer
        self._take = take

    def send(self, event: Event) -> None:
        """One event and, at the same instant, the outcomes and effects of every action that follows from it."""
        self.now = event.at
        self._follow(self.engine.step(event))

    def taken(self, at: int, edges: Sequence[Edge]) -> None:
        """As `send` of an observation whose rows the hot side took already."""
        self.now = at
        self._follow(self.engine.taken(at, edges))

    def _follow(self, transition: Transition) -> None:
        queue: deque[Event] = deque()
        for _ in range(EVENTS_AT_ONE_INSTANT_MAX):
            self.wake_at = transition.wake_at
            for record in transition.records:
                self._take(record)
            for action in transition.actions:
                answer = self._answer(action, self.now)
                if answer.outcome is not None:
                    queue.append(ActionSettled(at=self.now, action_id=action.action_id, outcome=answer.outcome))
                if answer.rows:
                    queue.append(Observed(at=self.now, source=SOURCE, rows=answer.rows))
            if not queue:
                return
            transition = self.engine.step(queue.popleft())
        raise AssertionError(f"the engine does not come to rest at {self.now}")

    def settle(self, action_id: str, answer: Answer, at: int) -> None:
        """Feeds back an outcome that was not known at once, and its effect."""
        if answer.outcome is not None:
            self.send(ActionSettled(at=at, action_id=action_id, outcome=answer.outcome))
        if answer.rows:
            self.send(Observed(at=at, source=SOURCE, rows=answer.rows))

    def wake(self, at: int) -> None:
        """Fires what is due up to `at`, that instant included; a lower bound of dues that held nothing is tightened."""
        for _ in range(EVENTS_AT_ONE_INSTANT_MAX):
            if self.wake_at > at:
                return
            self.send(Woke(at=at))
        raise AssertionError(f"the engine asks again and again to be woken at {at}")
