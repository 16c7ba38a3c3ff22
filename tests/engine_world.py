"""A small world around the engine for tests: one runbook text or several, readings that hold, a venue that answers, virtual time.

world = World(runbook(steps="- id: shrink\n    shrink_position: {by: 25%}"))
world.until(60, funding_rate=0.001)
"""

from __future__ import annotations

import textwrap
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import TypeVar

from daemon.engine.actions import Action, CallWebhook, CancelOrders, MoveBuffer, Notify, Outcome, ShrinkPosition
from daemon.engine.codec import encode
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import ActionSettled, Event, Gap, Observed, OperatorCommand, Row, RunbooksLoaded, Woke
from daemon.engine.limits import HouseLimits
from daemon.engine.records import Record
from daemon.runbook.load import load_text
from daemon.runbook.model import Runbook
from daemon.units import FOREVER, NS
from daemon.world.entities import Account, Kind, Route, Topology, Venue

R = TypeVar("R")
T0 = 1_700_000_000 * NS
MARKET = "dydx:ETH-USD"
POSITION = "dydx:ETH-USD"
ACCOUNT = "dydx"
TOPOLOGY = Topology(
    venues={"dydx": Venue(id="dydx", valued_at=("oracle_price",))},
    accounts={ACCOUNT: Account(id=ACCOUNT, venue="dydx")},
    routes={
        "cctp": Route(name="cctp", source="ethereum", destination="dydx", eta_ns=600 * NS, fee=0.001, capacity_usd=1e6),
        "fast": Route(name="fast", source="ethereum", destination="dydx", eta_ns=60 * NS, fee=0.01, capacity_usd=1e5),
    },
)
DONE = Outcome(status="done")


def runbook(
    steps: str = "- id: shrink\n  shrink_position: {by: 25%}",
    *,
    name: str = "spike",
    scope: str = "position",
    intent: str = "economy",
    when: str = "funding_rate > 0.05%/h",
    stage: str = "armed",
    hold: str = "0s",
    until: str = "",
    rest: str = "",
) -> str:
    """A runbook's text; `steps` and `rest` are YAML."""
    head = f"""\
schema: reefd/v1
runbook: {name}
title: Title of {name}
owner: desk
severity: warning
intent: {intent}
stage: {stage}
scope: {scope}
trigger:
  when: {when}
  for: {hold}
"""
    if until:
        head += f"  until: {until}\n"
    return head + "steps:\n" + textwrap.indent(textwrap.dedent(steps).strip("\n"), "  ") + "\n" + textwrap.dedent(rest)


def load(text: str) -> Runbook:
    """The runbook of a text that has no mistakes."""
    loaded = load_text(text, "test.yaml")
    assert not loaded.errors, "\n".join(d.render() for d in loaded.errors)
    return loaded.runbooks[0]


CALM: Mapping[tuple[Kind, str, str], float] = {
    (Kind.MARKET, MARKET, "oracle_price"): 3000.0,
    (Kind.MARKET, MARKET, "bid_price"): 2999.5,
    (Kind.MARKET, MARKET, "ask_price"): 3000.5,
    (Kind.MARKET, MARKET, "bid_size"): 50.0,
    (Kind.MARKET, MARKET, "ask_size"): 50.0,
    (Kind.MARKET, MARKET, "funding_rate"): 0.0,
    (Kind.POSITION, POSITION, "size"): 10.0,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """One journaled event and its records."""

    event: Event
    records: tuple[Record, ...]


class World:
    """The engine, the readings and a venue that fills at once (or as `answers` says)."""

    def __init__(
        self,
        *texts: str,
        house: HouseLimits | None = None,
        topology: Topology = TOPOLOGY,
        readings: Mapping[tuple[Kind, str, str], float] | None = None,
        answer: Callable[[Action], Outcome | None] | None = None,
    ) -> None:
        self.books = tuple(load(text) for text in texts)
        self.house = house or HouseLimits()
        self.topology = topology
        self.readings = dict(CALM) | dict(readings or {})
        self.answer = answer or (lambda action: DONE)
        self.shows_fills = True
        self.tick = 0  # ns between an event and what follows from it; live it is never 0
        self.now = T0
        self.entries: list[Entry] = []
        self.records: list[Record] = []
        self.actions: list[Action] = []
        self.wake_at = FOREVER
        self.engine = self.new_engine()
        self.engine.load(self.books)
        self.step(Gap(at=T0 - 2, since=T0 - 3, cause="start"))
        self.step(RunbooksLoaded(at=T0 - 1, runbooks={f"{b.id}.yaml": b.digest for b in self.books}))

    def new_engine(self) -> Engine:
        return Engine(topology=self.topology, house=self.house, build="test")

    # --- driving ------------------------------------------------------------------------------------------------------

    def step(self, event: Event) -> Transition:
        """Step one event and, at the same instant, everything its actions bring about."""
        queue: deque[Event] = deque([event])
        first: Transition | None = None
        while queue:
            current = queue.popleft()
            transition = self.engine.step(current)
            first = first or transition
            self.wake_at = transition.wake_at
            if not isinstance(current, Woke) or transition.records:
                self.entries.append(Entry(event=current, records=transition.records))
            self.records += transition.records
            self.actions += transition.actions
            for action in transition.actions:
                for follower in self._settle(action, current.at):
                    self.now += self.tick
                    queue.append(replace(follower, at=max(self.now, follower.at) if self.tick else follower.at))
        assert first is not None
        return first

    def _settle(self, action: Action, at: int) -> list[Event]:
        outcome = self.answer(action)
        if outcome is None:
            return []
        events: list[Event] = [ActionSettled(at=at, action_id=action.action_id, outcome=outcome)]
        return events + (self.effect(action, outcome, at) if outcome.status == "done" else [])

    def effect(self, action: Action, outcome: Outcome, at: int) -> list[Event]:
        """What the venue reports after a done action."""
        match action:
            case ShrinkPosition():
                filled = outcome.filled_size if outcome.filled_size is not None else action.size
                key = (Kind.POSITION, f"{action.account}:{action.market.partition(':')[2]}", "size")
                signed = filled if action.side == "BUY" else -filled
                self.readings[key] = float(Decimal(repr(self.readings[key])) + signed)
                return [self.rows(at, key)] if self.shows_fills else []
            case MoveBuffer():
                key = (Kind.CHAIN, action.source, "buffer_balance")
                self.readings[key] -= float(action.amount)
                return [self.rows(at, key)]
            case _:
                return []

    def rows(self, at: int, *keys: tuple[Kind, str, str]) -> Observed:
        """An observation of these readings, or of all."""
        grouped: dict[tuple[Kind, str], dict[str, float]] = {}
        for kind, entity, signal in keys or self.readings:
            grouped.setdefault((kind, entity), {})[signal] = self.readings[kind, entity, signal]
        return Observed(at=at, source="test", rows=tuple(Row(kind=k, entity=e, values=v) for (k, e), v in grouped.items()))

    def set(self, **changes: float) -> None:
        """Change readings of the one market, position or account by signal name."""
        for signal, value in changes.items():
            key = next((k for k in self.readings if k[2] == signal), None)
            assert key is not None, f"no reading {signal}"
            self.readings[key] = value

    def observe(self, **changes: float) -> None:
        """Observe everything now, with changes."""
        self.set(**changes)
        self.step(self.rows(self.now))

    def until(self, seconds: float, every: float = 5.0, **changes: float) -> None:
        """Observe with changes now, then every 5 s up to T0 + `seconds`."""
        self.set(**changes)
        end = T0 + int(seconds * NS)
        while self.now <= end:
            self.wake_to(self.now - 1)  # what is due at this very instant comes after its rows
            self.step(self.rows(self.now))
            self.wake_to(self.now)
            if self.now == end:
                break
            self.now = min(end, self.now + int(every * NS))

    def wake_to(self, at: int) -> None:
        """Wake the engine for what is due up to `at`, as a live loop does."""
        for _ in range(10_000):
            if self.wake_at > at:
                return
            self.step(Woke(at=at))
        raise AssertionError("the engine wants to be woken for ever")

    def settle(self, action: Action, outcome: Outcome) -> None:
        """Answer an action late, and show its effect."""
        self.step(ActionSettled(at=self.now, action_id=action.action_id, outcome=outcome))
        if outcome.status == "done":
            for event in self.effect(action, outcome, self.now):
                self.now += self.tick
                self.step(replace(event, at=self.now))

    def command(self, verb: str, target: str = "", actor: str = "desk-lead", command_id: str = "") -> None:
        """A person's command now."""
        name = command_id or f"{verb}-{target}-{self.now}-{actor}"
        self.step(OperatorCommand(at=self.now, command_id=name, actor=actor, verb=verb, target=target))

    # --- looking ------------------------------------------------------------------------------------------------------

    def of(self, kind: type[R]) -> list[R]:
        """Records of a kind, in order."""
        return [record for record in self.records if isinstance(record, kind)]

    def sent(self, kind: type[R]) -> list[R]:
        """Actions of a kind, in order."""
        return [action for action in self.actions if isinstance(action, kind)]

    @property
    def writes(self) -> list[Action]:
        """Actions that change something."""
        return [a for a in self.actions if not isinstance(a, Notify)]

    @property
    def orders(self) -> list[ShrinkPosition]:
        return self.sent(ShrinkPosition)

    @property
    def size(self) -> float:
        return self.readings[Kind.POSITION, POSITION, "size"]

    def status(self, name: str = "spike", entity: str = POSITION) -> str:
        """Status of the instance's last run."""
        return self.engine.cold.memories[f"{name}/{entity}"].last_status

    def reason(self, name: str = "spike", entity: str = POSITION) -> str:
        return self.engine.cold.memories[f"{name}/{entity}"].last_reason

    def pages(self) -> list[Notify]:
        return [n for n in self.sent(Notify) if n.event == "page"]

    def bodies(self) -> list[str]:
        """All records as canonical JSON."""
        return [encode(record) for record in self.records]


MONEY = (ShrinkPosition, MoveBuffer, CancelOrders, CallWebhook)
