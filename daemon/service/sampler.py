"""Quantities that are worked out, sampled for charts (floor 7): what triggers compare, and the figures of accounts.

    sampler = Sampler(engine=engine, tracks=tracks); sampler.turn(at)        # on the loop's thread, a few milliseconds at most

Instances take turns within a budget of time: however many there are, the loop is never held up, only the points come further apart.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from daemon.engine.engine import Engine
from daemon.language.catalogue import CATALOGUE
from daemon.service.tracks import POINT_EVERY_NS, Tracks
from daemon.service.why import compared
from daemon.world.entities import Kind

BUDGET_NS = 2_000_000
ACCOUNTS_MAX = 50
OF_ACCOUNTS = ("margin_ratio", "margin_ratio_at_mid", "margin_ratio_at_reference", "survivable_move", "equity", "net_delta", "leverage")
TRIGGER = "trigger"  # the kind of a trigger's quantities among the tracks; its entity is `<runbook>/<entity>`


class Sampler:
    """Goes round all instances, again and again."""

    def __init__(self, *, engine: Engine, tracks: Tracks, monotonic_ns: Callable[[], int] = time.monotonic_ns) -> None:
        self._engine = engine
        self._tracks = tracks
        self._monotonic_ns = monotonic_ns
        self._round: list[tuple[str, str]] = []
        self._accounts_at = 0

    def turn(self, at: int) -> None:
        """Sample the accounts, and as many instances as the budget allows."""
        began = self._monotonic_ns()
        if at - self._accounts_at >= POINT_EVERY_NS:  # more often would not be kept, and a book of 500 positions costs some 10 ms
            self._accounts_at = at
            self._accounts(at)
        if not self._round:
            self._round = list(reversed(self._engine.hot.instances()))
        while self._round:  # at least one, whatever the rest took
            self._instance(*self._round.pop(), at)
            if self._monotonic_ns() - began >= BUDGET_NS:
                break

    def _accounts(self, at: int) -> None:
        for account in self._engine.hot.entities(Kind.ACCOUNT)[:ACCOUNTS_MAX]:
            for signal in OF_ACCOUNTS:
                value = self._engine.hot.glance(Kind.ACCOUNT, account, signal, at)
                unit = CATALOGUE[Kind.ACCOUNT, signal].unit
                self._tracks.sample(kind=Kind.ACCOUNT.value, entity=account, name=signal, unit=unit, value=value, at=at)

    def _instance(self, runbook: str, entity: str, at: int) -> None:
        for found in compared(self._engine, runbook, entity, at):
            value = math.nan if found.value is None else found.value
            self._tracks.sample(
                kind=TRIGGER, entity=f"{runbook}/{entity}", name=found.text, unit=found.unit, value=value, at=at,
                bound=found.when if found.when is not None else found.until, clears=found.until if found.when is not None else None,
            )  # fmt: skip
