"""The dead man's switch (floor 7): somebody outside hears at a cadence that this daemon turns and sees; silence is their alarm.

    heartbeat = Heartbeat(sender=sender, endpoint="heartbeat", every_s=60.0, unfit=lambda: "", says=lambda: {"line": "QUIET"})
    await heartbeat.run()                     # for ever

A beat is left out while the daemon cannot do its work (`unfit` says why): the other side then raises the alarm by another way than ours.
A loop that stands sends nothing by itself. A halt by a person is no reason: it is meant.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime

from daemon.edges.webhook import Delivered, WebhookSender
from daemon.service.logging import log

ENDPOINT = "heartbeat"  # its name in logs; no channel can name it


class Heartbeat:
    """One cadence of beats to one address. `failed` counts beats in a row that were not taken."""

    def __init__(
        self,
        *,
        sender: WebhookSender,
        every_s: float,
        unfit: Callable[[], str],
        says: Callable[[], Mapping[str, object]],
        wall: Callable[[], datetime] = lambda: datetime.now(UTC),
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._sender = sender
        self._every_s = every_s
        self._unfit = unfit
        self._says = says
        self._wall = wall
        self._pause = pause
        self.failed = 0
        self.left_out = ""  # why the last beat was left out; empty when it was sent

    async def run(self) -> None:
        """Beat for ever, on steady slots: a beat that took long does not move the next."""
        slot = time.monotonic()
        while True:
            await self.beat()
            slot = max(slot + self._every_s, time.monotonic())
            await self._pause(slot - time.monotonic())

    async def beat(self) -> None:
        """One beat, or the log line of why there is none. Raises nothing: a beat that fails must not end the daemon that it vouches for."""
        try:
            await self._beat()
        except Exception as error:
            self._missed(f"a fault of ours: {type(error).__name__}: {str(error)[:200]}")

    async def _beat(self) -> None:
        why = self._unfit()
        if why != self.left_out:
            self.left_out = why
            if why:
                log().warning("heartbeat.left_out", reason=why, consequence="whoever listens for it raises the alarm")
            else:
                log().info("heartbeat.resumed")
        if why:
            return
        at = self._wall()
        body = json.dumps({"type": "heartbeat", "timestamp": at.isoformat(), "data": dict(self._says())}, separators=(",", ":"))
        answer = await self._sender.send(ENDPOINT, f"heartbeat.{int(at.timestamp())}", body, signed_at=at)
        if isinstance(answer, Delivered):
            if self.failed:
                log().info("heartbeat.taken", failures=self.failed)
            self.failed = 0
            return
        self._missed(answer.reason)

    def _missed(self, why: str) -> None:
        self.failed += 1
        if self.failed == 1:
            log().warning("heartbeat.refused", reason=why)
