"""A desk for tests: what a running daemon would show in an eventful night, a quiet or a blind one, and what it was asked to do.

desk = FakeDesk()                                   # NEEDS YOU: everything at once
desk = FakeDesk.quiet(); FakeDesk.blind(); FakeDesk.large(markets=500, runs=10_000)
desk.fire("dydx:BTC-USD")                           # a new run, told to every reader of the stream; from any thread
desk.unavailable = "the loop has not turned for 12 s"    # every method raises Unavailable; None again: all is well
desk.commands                                       # what was asked, in order
"""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import replace

from daemon.service.views import (
    Command,
    DeliveryView,
    Effect,
    EndpointView,
    EntityView,
    Entries,
    EntryQuery,
    EpisodeView,
    GateAnswer,
    GateView,
    Happening,
    NeedView,
    Now,
    Outlook,
    RunbookDetail,
    RunbookView,
    RunDetail,
    RunQuery,
    RunView,
    Series,
    StressView,
    WhyView,
)
from daemon.units import NS
from daemon.web.desk import Desk, NotKnown, Unavailable
from tests import desk_scenes as scenes

STREAM_BOUND = 256  # happenings that a slow reader may be behind
SOURCE = """\
# Why: a funding spike is a cost, not a danger <b>not bold</b>.
schema: reefd/v1
runbook: funding-spike
title: Funding spike - stop adding, and shrink where shrinking pays
stage: armed
scope: position
params:
  threshold: {default: 0.05%/h, min: 0.01%/h, max: 1%/h}
trigger:
  when: paid > threshold and rate > quantile(rate, 99%, lookback)   # high for this market and high in money
  for: 3m
  until: paid < 40% * threshold
  until_for: 10m
steps:
  - id: shrink
    shrink_position: {by: 25%, max_slippage: 15bps, slices: 4, every: 10s}
    approval: {when: "notional_change > 20_000 USD", from: [desk-lead], timeout: 2m, otherwise: skip}
"""


class FakeDesk:
    """A `Desk` in memory; `clock` gives seconds since 1970. Methods that change it may be called from any thread."""

    def __init__(self, build: Callable[[float], Now] = scenes.eventful, *, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self.at = clock()
        self.current: Now = build(self.at)
        self.commands: list[Command] = []
        self.asked: list[tuple[str, str, str]] = []  # (what, of which, by whom) of everything that is no command
        self.unavailable: str | None = None
        self.stands = False  # True: nothing new is published, the snapshot grows old
        self.markets: list[EntityView] = [scenes.market(symbol, self.at) for symbol in scenes.PRICES]
        self.past: list[RunView] = list(scenes.recent(self.at))
        self._seen: dict[str, Effect] = {}
        self._readers: list[tuple[asyncio.AbstractEventLoop, asyncio.Queue[Happening | None]]] = []
        self._lock = threading.Lock()
        self._entries = list(scenes.journal(self.at))
        self._deliveries = list(scenes.deliveries(self.at))
        self._endpoints = {endpoint.name: endpoint for endpoint in scenes.endpoints(self.at)}

    @classmethod
    def quiet(cls) -> FakeDesk:
        """A night in which nothing happens."""
        return cls(scenes.quiet)

    @classmethod
    def blind(cls) -> FakeDesk:
        """The venue was not heard of for five minutes."""
        return cls(scenes.blind)

    @classmethod
    def large(cls, markets: int = 500, runs: int = 10_000) -> FakeDesk:
        """A house with many markets and a long past."""
        desk = cls()
        desk.markets = [scenes.market(f"M{i:03d}-USD", desk.at) for i in range(markets)]
        desk.past = list(scenes.many_runs(desk.at, runs))
        return desk

    # --- what a test does to it ---------------------------------------------------------------------------------------

    def publish(self, kind: str, summary: str, **more: str) -> None:
        """Tell every reader of the stream, and then that there is a new snapshot."""
        at = scenes.stamp(self.clock())
        with self._lock:
            self.current = replace(self.current, at=at, published=at, seq=self.current.seq + 1)
            told = (
                Happening(seq=self.current.seq, at=at, kind=kind, summary=summary, **more),
                Happening(seq=self.current.seq, at=at, kind="snapshot", summary=self.current.line),
            )
            readers = list(self._readers)
        for loop, queue in readers:
            for happening in told:
                loop.call_soon_threadsafe(_put, queue, happening)

    def close_streams(self) -> None:
        """End every stream, as a daemon that stops does."""
        with self._lock:
            readers, self._readers = self._readers, []
        for loop, queue in readers:
            loop.call_soon_threadsafe(_put, queue, None)

    def fire(self, entity: str = "dydx:BTC-USD", runbook: str = "funding-spike") -> RunView:
        """A trigger fires and its run starts; the run."""
        now = self.clock()
        run = f"{runbook}/{entity}/{int(now) * NS}/1"
        head = replace(
            scenes.running(now)[0],
            run_id=run,
            runbook=runbook,
            entity=entity,
            episode=run.rpartition("/")[0],
            started_at=scenes.stamp(now),
            asked_usd=15_310.0,
            filled_usd=0.0,
            cost_usd=0.0,
            waiting="guards",
            unknown_outcomes=0,
        )
        line = self.current.line if self.current.line in ("BLIND", "NEEDS YOU") else "ACTING"
        self.current = replace(self.current, running=(head, *self.current.running), line=line, why=f"{runbook} fired on {entity}")
        self.publish("TriggerChanged", f"{runbook} fired on {entity}", runbook=runbook, entity=entity, run_id=run, severity="warning")
        return head

    def need(self, deadline_s: float = 120.0) -> NeedView:
        """A plan waits for a person, and the line says so."""
        view = scenes.approval(self.clock(), deadline_s)
        self.current = replace(self.current, line="NEEDS YOU", needs=(view, *self.current.needs), why="an approval waits")
        self.publish("ApprovalRequested", view.title, runbook=view.runbook, entity=view.entity, run_id=view.run_id, severity="warning")
        return view

    # --- reading ------------------------------------------------------------------------------------------------------

    async def now(self) -> Now:
        self._there()
        if not self.stands:
            at = scenes.stamp(self.clock())
            self.current = replace(self.current, at=at, published=at)
        return self.current

    async def world(self, kind: str, *, signals: tuple[str, ...] = (), limit: int = 1_000) -> tuple[EntityView, ...]:
        self._there()
        found = {"market": tuple(self.markets), "route": await self.routes()}.get(kind, ())
        cut = (replace(e, readings=tuple(r for r in e.readings if not signals or r.signal in signals)) for e in found[:limit])
        return tuple(cut)

    async def entity(self, kind: str, entity: str) -> EntityView:
        self._there()
        if kind == "account":
            account = next((a for a in self.current.accounts if a.id == entity), None)
            if account is not None:
                margin = scenes.reading("margin_ratio_worst", account.margin_ratio, "ratio", "41%", account.age_s)
                return EntityView(kind=kind, id=entity, labels={}, links={"venue": account.venue}, readings=(margin,))
        for view in await self.world(kind):
            if view.id == entity:
                return view
        known = ", ".join(view.id for view in (await self.world(kind))[:8])
        raise NotKnown(f"no {kind} is called {entity!r}; there are {known or 'none'}")

    async def history(self, kind: str, entity: str, signals: tuple[str, ...] = ()) -> tuple[Series, ...]:
        await self.entity(kind, entity)
        at = self.at
        if kind == "account":
            found: tuple[Series, ...] = (
                scenes.course("margin_ratio_worst", entity, "ratio", scenes.wave(at, 0.36, 0.04), at, threshold=0.6),
                scenes.course("equity", entity, "USD", scenes.wave(at, 61_000.0, 1_800.0), at),
                scenes.course("free_collateral", entity, "USD", scenes.wave(at, 19_000.0, 1_500.0), at, threshold=15_000.0),
            )
        else:
            price = next((m.readings[0].value for m in self.markets if m.id == entity), None) or 41.2
            found = (
                scenes.course("mid_price", entity, "price", scenes.wave(at, price, price * 0.012), at),
                scenes.course("oracle_price", entity, "price", scenes.wave(at, price, price * 0.011), at),
                scenes.course("funding_rate", entity, "rate/h", scenes.spike(at), at),
                scenes.course("depth", entity, "USD", scenes.wave(at, 400_000.0, 90_000.0), at),
                scenes.course("index_price", entity, "price", (None,) * 360, at),
            )
        return tuple(series for series in found if not signals or series.name in signals)

    async def runbooks(self) -> tuple[RunbookView, ...]:
        self._there()
        return scenes.runbooks(self.at)

    async def runbook(self, runbook: str) -> RunbookDetail:
        head = next((view for view in await self.runbooks() if view.id == runbook), None)
        if head is None:
            raise NotKnown(f"no runbook is called {runbook!r}; there are {', '.join(v.id for v in scenes.runbooks(self.at))}")
        steps = ("stop-adding: halt position", "shrink: shrink_position by 25% in 4 slices, approval over 20,000 USD", "tell: notify desk")
        return RunbookDetail(
            head=head,
            source=SOURCE.replace("funding-spike", runbook),
            when="paid > threshold and rate > quantile(rate, 99%, lookback)",
            until="paid < 40% * threshold",
            hold_s=180.0,
            until_hold_s=600.0,
            cooldown_s=1_800.0,
            steps=steps,
            instances=scenes.instances(runbook, self.at),
        )

    async def why(self, runbook: str, entity: str = "") -> WhyView:
        found = await self.runbook(runbook)
        if entity and entity not in {instance.entity for instance in found.instances}:
            raise NotKnown(f"{runbook} has no instance on {entity!r}; it has {', '.join(i.entity for i in found.instances)}")
        return scenes.why(runbook, entity or found.instances[0].entity, self.at)

    async def trigger_history(self, runbook: str, entity: str) -> tuple[Series, ...]:
        await self.why(runbook, entity)
        return (
            scenes.course("paid", entity, "rate/h", scenes.spike(self.at), self.at, threshold=0.0005, clears=0.0002),
            scenes.course(
                "rate - quantile(rate, 99%, lookback)", entity, "rate/h", scenes.wave(self.at, 0.0002, 0.0003), self.at, threshold=0.0
            ),
        )

    async def episodes(self, *, limit: int = 200) -> tuple[EpisodeView, ...]:
        self._there()
        return scenes.episodes(self.at)[:limit]

    async def runs(self, query: RunQuery) -> tuple[RunView, ...]:
        self._there()
        found = [*self.current.running, *self.past]
        wanted = {"runbook": query.runbook, "entity": query.entity, "status": query.status}
        found = [view for view in found if all(not value or getattr(view, name) == value for name, value in wanted.items())]
        if query.before:
            ids = [view.run_id for view in found]
            if query.before not in ids:
                raise NotKnown(f"no run is called {query.before!r}")
            found = found[ids.index(query.before) + 1 :]
        return tuple(found[: query.limit])

    async def run(self, run_id: str) -> RunDetail:
        self._there()
        for view in [*self.current.running, *self.past]:
            if view.run_id == run_id:
                return scenes.detail(view, self.at)
        raise NotKnown(f"no run is called {run_id!r}; the latest is {self.current.recent[0].run_id}")

    async def entries(self, query: EntryQuery) -> Entries:
        self._there()
        found = [
            entry
            for entry in self._entries
            if (query.before is None or entry.position < query.before)
            and (not query.type or entry.type == query.type)
            and (not query.role or entry.role == query.role)
            and (query.since is None or entry.at >= query.since)
            and (query.until is None or entry.at <= query.until)
            and query.text.lower() in (entry.summary + json.dumps(dict(entry.body))).lower()
        ]
        page = found[: query.limit]
        return Entries(entries=tuple(page), next_before=page[-1].position if len(found) > len(page) else None, searched=len(self._entries))

    async def gate(self, market: str) -> GateAnswer:
        view = await self.entity("market", market)
        assert view.gate is not None
        if self.current.halted or self.current.openings_halted:
            return replace(view.gate, open=False, why=self.current.halted or "openings are halted by a person")
        return view.gate

    async def routes(self) -> tuple[EntityView, ...]:
        self._there()
        return scenes.route("cctp", "20m", True, self.at), scenes.route("fast", "20s", False, self.at)

    async def stress(self) -> StressView:
        self._there()
        return scenes.stress(self.at)

    async def report(self, name: str) -> str:
        self._there()
        if name not in scenes.stress(self.at).reports:
            raise NotKnown(f"no report is called {name!r}; there are {', '.join(scenes.stress(self.at).reports)}")
        return f"<!DOCTYPE html><html lang=en><head><title>{name}</title></head><body><h1>{name}</h1></body></html>"

    async def endpoints(self) -> tuple[EndpointView, ...]:
        self._there()
        return tuple(self._endpoints.values())

    async def deliveries(self, *, endpoint: str = "", status: str = "", limit: int = 200) -> tuple[DeliveryView, ...]:
        self._there()
        return tuple(d for d in self._deliveries if endpoint in ("", d.endpoint) and status in ("", d.status))[:limit]

    # --- asking -------------------------------------------------------------------------------------------------------

    async def command(self, command: Command) -> Effect:
        self._there()
        if command.command_id in self._seen:
            return self._seen[command.command_id]
        self.commands.append(command)
        done, effect = self._take(command)
        answer = Effect(done=done, effect=effect, seq=self.current.seq, at=scenes.stamp(self.clock()))
        self._seen[command.command_id] = answer
        self.publish("CommandTaken", f"{command.actor}: {effect}", severity="info")
        return answer

    async def reload(self, actor: str) -> Effect:
        return self._asked("reload", "", actor, "read 7 runbooks")

    async def redeliver(self, delivery_id: str, actor: str) -> Effect:
        self._there()
        dead = [d for d in self._deliveries if d.status == "dead" and delivery_id in ("*", d.id)]
        if not dead and delivery_id != "*":
            raise NotKnown(f"no dead letter is called {delivery_id!r}")
        self._deliveries = [replace(d, status="waiting") if d in dead else d for d in self._deliveries]
        return self._asked("redeliver", delivery_id, actor, f"put {len(dead)} messages back into their lanes")

    async def enable_endpoint(self, endpoint: str, actor: str) -> Effect:
        self._endpoints[endpoint] = replace(self._known(endpoint), state="ok")
        return self._asked("enable", endpoint, actor, f"sends to {endpoint} again")

    async def test_endpoint(self, endpoint: str, actor: str) -> Effect:
        view = self._known(endpoint)
        good = view.state == "ok"
        return replace(self._asked("test", endpoint, actor, "answered 200 in 41ms" if good else view.last_error or "no answer"), done=good)

    async def stream(self) -> AsyncIterator[Happening]:
        self._there()
        queue: asyncio.Queue[Happening | None] = asyncio.Queue(STREAM_BOUND)
        entry = (asyncio.get_running_loop(), queue)
        with self._lock:
            self._readers.append(entry)
        try:
            while (happening := await queue.get()) is not None:
                yield happening
        finally:
            with self._lock:
                if entry in self._readers:
                    self._readers.remove(entry)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _there(self) -> None:
        if self.unavailable is not None:
            raise Unavailable(self.unavailable)

    def _known(self, endpoint: str) -> EndpointView:
        self._there()
        if endpoint not in self._endpoints:
            raise NotKnown(f"no endpoint is called {endpoint!r}; there are {', '.join(self._endpoints)}")
        return self._endpoints[endpoint]

    def _asked(self, what: str, which: str, actor: str, effect: str) -> Effect:
        self._there()
        self.asked.append((what, which, actor))
        return Effect(done=True, effect=effect, seq=self.current.seq, at=scenes.stamp(self.clock()))

    def _take(self, command: Command) -> tuple[bool, str]:
        now = self.current
        at = scenes.stamp(self.clock())
        match command.verb:
            case "approve" | "deny":
                return self._answer(command)
            case "halt" if command.target == "":
                self.current = replace(now, halted=f"{command.actor}: {command.reason}", openings_halted=True)
                return True, "halted everything"
            case "halt":
                gate = GateView(what=command.target, by=f"operator {command.actor}", since=at, reason=command.reason)
                self.current = replace(now, openings_halted=command.target == "portfolio" or now.openings_halted, gates=(*now.gates, gate))
                return True, f"closed the gate of {command.target}"
            case "resume":
                if command.target == "" and not now.halted:
                    return False, "nothing: nothing is halted"
                self.current = replace(now, halted="", openings_halted=False, gates=tuple(g for g in now.gates if g.what != command.target))
                return True, "resumed everything" if command.target == "" else f"opened the gate of {command.target}"
            case "pause":
                return True, f"paused {command.target or 'everything'} until {command.until}"
            case "unpause":
                return True, f"unpaused {command.target or 'everything'}"
            case "ack":
                waiting = [need for need in now.needs if need.target == command.target and "ack" in need.verbs]
                if not waiting:
                    return False, f"nothing: {command.target!r} waits for no acknowledgement"
                self.current = replace(now, needs=tuple(need for need in now.needs if need.target != command.target))
                return True, f"took {command.target} off the way"

    def _answer(self, command: Command) -> tuple[bool, str]:
        now = self.current
        need = next((n for n in now.needs if n.kind == "approval" and n.target == command.target), None)
        if need is None:
            return False, f"nothing: no run named {command.target!r} waits for an approval"
        if command.verb == "approve" and command.digest != need.digest:
            return False, f"nothing: the plan is another one by now ({need.digest[:8]}, you saw {command.digest[:8] or 'none'}); look again"
        rest = tuple(n for n in now.needs if n is not need)
        self.current = replace(now, needs=rest)
        if command.verb == "deny":
            return True, f"denied {need.step} of {need.run_id}"
        after = need.after or Outlook(margin_ratio=None, survivable_move=None, net_delta_usd=None)
        accounts = tuple(
            replace(
                a,
                margin_ratio=after.margin_ratio,
                survivable_move=after.survivable_move,
                net_delta_usd=after.net_delta_usd,
                positions=tuple(
                    replace(p, size="86.8", notional_usd=86.8 * 2_970.0) if p.market == need.entity else p for p in a.positions
                ),
            )
            if any(p.market == need.entity for p in a.positions)
            else a
            for a in now.accounts
        )
        self.current = replace(self.current, accounts=accounts)
        return True, f"approved {need.step} of {need.run_id}"


def _put(queue: asyncio.Queue[Happening | None], happening: Happening | None) -> None:
    """Put it in; a reader that does not keep up loses the oldest."""
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(happening)


def as_desk(desk: FakeDesk) -> Desk:
    """The fake as the protocol: what mypy checks."""
    return desk
