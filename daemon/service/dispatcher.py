"""Performs each action once and brings its outcome back as an event (floor 7).

The effect protocol: the intent is on disk before `perform` is called; the action is sent once; without a definite answer it is
never sent again but looked up by its id, until it is found or until its expiry plus a margin has passed at the venue. Only then
is it `failed`, which certainly did nothing, and the engine may re-arm. After a restart `resume` starts at the lookup.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import assert_never

from daemon.edges.protocol import VenueEdge
from daemon.engine.actions import Action, CallWebhook, CancelOrders, Halt, MoveBuffer, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.events import ActionSettled
from daemon.errors import EdgeError, UnknownOutcome
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.units import NS

EXPIRY_MARGIN_NS = NS // 2  # the venue's clock may lag ours: with 0.05 s and a venue 0.3 s behind, orders doubled; with 0.5 s none
SEND_TIMEOUT_MIN_S = 1.0  # real seconds: HTTP does not get faster because the venue's clock does
SEND_TIMEOUT_MAX_S = 30.0
LOOKUP_TIMEOUT_S = 10.0
LOOKUP_PAUSE_MIN_NS = NS // 4
LOOKUP_PAUSE_MAX_NS = 5 * NS
LOOKUP_PAUSE_MIN_S = 0.02  # real seconds, so that an accelerated clock does not turn lookups into a flood
REASON_CHARS_MAX = 300

Wired = ShrinkPosition | MoveBuffer | CancelOrders | CallWebhook  # what leaves this process


class Dispatcher:
    """Sends actions to the edges that take them, each in a task of its own."""

    def __init__(
        self, *, edges: Sequence[VenueEdge], inbox: Inbox, clock: Clock, dry_run: bool = False, refuse: Callable[[], str] = lambda: ""
    ) -> None:
        self._edges = tuple(edges)
        self._inbox = inbox
        self._clock = clock
        self._dry_run = dry_run
        self._refuse = refuse  # why nothing may be sent right now, empty when it may: asked immediately before each send
        self._tasks: dict[str, asyncio.Task[None]] = {}
        # Lag is real time; on an accelerated venue it is worth `speed` times as much of the venue's.
        self._margin_ns = int(EXPIRY_MARGIN_NS * max(1.0, clock.speed))

    def perform(self, action: Action) -> None:
        """Start an action whose intent is committed. Its outcome arrives in the inbox."""
        assert action.action_id not in self._tasks, f"{action.action_id} is performed once"
        match action:
            case Halt() | Resume() | Notify():
                return  # done with the commit of their record: a gate is state of the engine, a notice is in the outbox
            case ShrinkPosition() | MoveBuffer() | CancelOrders() | CallWebhook():
                if self._dry_run:
                    self._settle(action, Outcome(status="rejected", reason="dry run: nothing was sent"))
                else:
                    self._start(action, send=True)
            case _:
                assert_never(action)

    def resume(self, action: Action) -> None:
        """Find out what became of an action that an earlier process may or may not have sent. Never sends."""
        match action:
            case Halt() | Resume() | Notify():
                return
            case ShrinkPosition() | MoveBuffer() | CancelOrders() | CallWebhook():
                if self._dry_run:
                    self._settle(action, Outcome(status="rejected", reason="dry run: nothing was sent"))
                else:
                    self._start(action, send=False)
            case _:
                assert_never(action)

    @property
    def in_flight(self) -> tuple[str, ...]:
        """Ids of the actions whose final outcome is not known yet."""
        return tuple(self._tasks)

    async def stop(self) -> None:
        """Give up on what is in flight: its intent is journaled and the next start looks it up."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _start(self, action: Wired, *, send: bool) -> None:
        task = asyncio.create_task(self._carry_out(action, send=send), name=f"action {action.action_id}")
        self._tasks[action.action_id] = task
        task.add_done_callback(lambda _done: self._tasks.pop(action.action_id, None))

    def _settle(self, action: Action, outcome: Outcome) -> None:
        self._inbox.put(ActionSettled(at=0, action_id=action.action_id, outcome=outcome))

    async def _carry_out(self, action: Wired, *, send: bool) -> None:
        edge = next((edge for edge in self._edges if edge.takes(action)), None)
        if edge is None:
            kind = type(action).__name__
            if send:
                self._settle(action, Outcome(status="rejected", reason=f"no edge is configured that takes {kind}"))
            else:
                # The settings before the restart may have had one, and it may have sent: a person must look.
                self._settle(action, Outcome(status="unknown", reason=f"no edge is configured to ask about {kind}"))
            return
        outcome = await self._send(edge, action) if send else Outcome(status="unknown", reason="the daemon stopped before it knew")
        if outcome.status != "unknown":
            self._settle(action, outcome)
            return
        if isinstance(action, CallWebhook):
            # Nothing to look up: at most once, and a person.
            self._settle(action, outcome)
            return
        found = await self._lookup(edge, action)
        if found is None:
            self._settle(action, outcome)
            found = await self._lookup_until_known(edge, action)
        self._settle(action, found)

    async def _send(self, edge: VenueEdge, action: Wired) -> Outcome:
        left_ns = action.expires_at - self._clock.now()
        if left_ns <= 0:
            return Outcome(status="failed", reason="it expired before it was sent")
        refused = self._refuse()
        if refused:
            return Outcome(status="rejected", reason=refused)
        timeout_s = min(max(left_ns / self._clock.speed / NS, SEND_TIMEOUT_MIN_S), SEND_TIMEOUT_MAX_S)
        try:
            async with asyncio.timeout(timeout_s):
                return await edge.send(action)
        except TimeoutError:
            return Outcome(status="unknown", reason=f"{edge.name} did not answer within {timeout_s:.3g} s")
        except UnknownOutcome as error:
            return Outcome(status="unknown", reason=str(error)[:REASON_CHARS_MAX])
        except EdgeError as error:
            return Outcome(status="failed" if error.retryable else "rejected", reason=str(error)[:REASON_CHARS_MAX])
        except Exception as error:  # it cannot be proven that nothing happened
            log().error("action.crashed", action_id=action.action_id, edge=edge.name, reason=f"{type(error).__name__}: {error}")
            return Outcome(status="unknown", reason=f"{type(error).__name__}: {error}"[:REASON_CHARS_MAX])

    async def _lookup(self, edge: VenueEdge, action: Wired) -> Outcome | None:
        """The final outcome if the venue knows one, `failed` if it knows nothing and never will; None: ask again."""
        asked_at = self._clock.now()
        try:
            async with asyncio.timeout(LOOKUP_TIMEOUT_S):
                outcome = await edge.lookup(action)
        except Exception as error:  # an unanswered question says nothing about the action
            log().warning("lookup.failed", action_id=action.action_id, edge=edge.name, reason=f"{type(error).__name__}: {error}")
            return None
        if outcome is not None:
            return None if outcome.status == "unknown" else outcome
        if asked_at > action.expires_at + self._margin_ns:
            return Outcome(status="failed", reason=f"{edge.name} does not know it after its expiry: it did nothing")
        return None

    async def _lookup_until_known(self, edge: VenueEdge, action: Wired) -> Outcome:
        pause_ns = LOOKUP_PAUSE_MIN_NS
        while True:
            floor_ns = int(LOOKUP_PAUSE_MIN_S * NS * self._clock.speed)
            await self._clock.sleep(max(pause_ns, floor_ns))
            outcome = await self._lookup(edge, action)
            if outcome is not None:
                return outcome
            pause_ns = min(2 * pause_ns, LOOKUP_PAUSE_MAX_NS)
