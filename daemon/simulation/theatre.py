"""A scenario played in virtual time (floor 5): the production engine against the simulated world, and the same world left alone.

    having = play(scenario, seed=7, topology=topology, engine=engine, runbooks=books)
    lacking = play_alone(scenario, seed=7)

Each second: the world moves; what was decided reaches the venue, and what is known of it reaches the engine; then the polls that are due
are read as the live adapter would (`observer.py`) and decided on. Nothing here knows a clock, so a scenario and seed give one course.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from daemon.engine.actions import Action
from daemon.engine.engine import Engine
from daemon.engine.events import ActionSettled, FeedFailed, Gap, Observed, RunbooksLoaded
from daemon.engine.records import ActionDenied, ApprovalRequested, LimitClipped, Record, StepFinished
from daemon.runbook.model import Runbook
from daemon.simulation.episode import Episode
from daemon.simulation.episodes import EpisodeLog
from daemon.simulation.hands import Hands
from daemon.simulation.observer import Observer
from daemon.simulation.paths import HISTORY_H
from daemon.simulation.rehearsal import SOURCE, Answer, Rehearsal
from daemon.simulation.scenario import Scenario
from daemon.simulation.toll import Tally, Toll
from daemon.simulation.world import World
from daemon.units import NS, parse_iso, show
from daemon.world.entities import Account, Kind, Route, Topology, Venue

STARTED_NS = parse_iso("2026-02-03T00:00:00Z")  # where a scenario names no start: a course must not depend on today
VALUED_AT = {"dydx-v4": ("oracle_price",), "hyperliquid": ("mark_price", "oracle_price")}  # what margin uses, the first known
HISTORY_LEAST_H = 2  # hours of past of a world that nobody reads
LATER = Answer(outcome=None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Remark:
    """Why a step of a run did less than it says, or nothing; `status` as its record has it, asked | denied | clipped besides."""

    at: int
    run_id: str
    step: str
    status: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """One course: the world as it ended, what it cost, and with runbooks what they did. `settled_at` is ns by action id."""

    world: World
    tally: Tally
    toll: Toll
    episodes: tuple[Episode, ...] = ()
    remarks: tuple[Remark, ...] = ()
    settled_at: Mapping[str, int] = field(default_factory=dict)


def remark(record: Record) -> Remark | None:
    """What a record says of a step that did not simply do what it says; None for every other record."""
    match record:
        case StepFinished() if record.status != "done":
            return Remark(at=record.at, run_id=record.run_id, step=record.step, status=record.status, reason=record.reason)
        case ApprovalRequested():
            asked = f"{record.quorum} of {', '.join(record.people)}: {show(record.notional_usd, 'USD')}"
            return Remark(at=record.at, run_id=record.run_id, step=record.step, status="asked", reason=asked)
        case ActionDenied():
            reason = f"{record.limit or 'the guard'}: {record.reason}"
            return Remark(at=record.at, run_id=record.run_id, step=record.step, status="denied", reason=reason)
        case LimitClipped():
            clipped = f"{record.limit}: {show(record.wanted_usd, 'USD')} wanted, {show(record.allowed_usd, 'USD')} allowed"
            return Remark(at=record.at, run_id=record.run_id, step=record.step, status="clipped", reason=clipped)
        case _:
            return None


def accounts_of(scenario: Scenario) -> tuple[Account, ...]:
    """The scenario's subaccounts: the first carries the venue's name, the others a number behind it."""
    venue = scenario.venue.name
    return tuple(
        Account(id=venue if i == 0 else f"{venue}#{i}", venue=venue, address=spec.address, subaccount=spec.subaccount)
        for i, spec in enumerate(scenario.accounts)
    )


def topology_of(scenario: Scenario, provides: Mapping[Kind, frozenset[str]] | None = None) -> Topology:
    """What a daemon's settings would say of the scenario's venue, accounts and routes; `provides`: what its adapter can observe."""
    venue = scenario.venue
    routes = {
        name: Route(
            name=name, source=route.source, destination=route.destination, eta_ns=route.eta, eta_p95_ns=route.p95, fee=route.fee,
            capacity_usd=route.capacity,
        )
        for name, route in scenario.routes.items()
    }  # fmt: skip
    return Topology(
        venues={
            venue.name: Venue(
                id=venue.name, chain=venue.chain, model=venue.model, valued_at=VALUED_AT[venue.model], provides=provides
            )
        },
        accounts={account.id: account for account in accounts_of(scenario)},
        routes=routes,
    )


def world_of(scenario: Scenario, seed: int, history_h: int = HISTORY_H) -> World:
    """A fresh world of the scenario at its start; its past matters to who looks at windows only."""
    return World(scenario, seed=seed, started_ns=scenario.started_ns(STARTED_NS), history_h=history_h)


def play_alone(scenario: Scenario, *, seed: int) -> Course:
    """The scenario with nobody acting."""
    world = world_of(scenario, seed, HISTORY_LEAST_H)
    tally = Tally(world)
    for second in range(1, scenario.seconds + 1):
        world.advance((world.start_s + second) * NS)
        tally.follow()
    return Course(world=world, tally=tally, toll=tally.toll())


def play(scenario: Scenario, *, seed: int, topology: Topology, engine: Engine, runbooks: Sequence[Runbook]) -> Course:
    """The scenario with runbooks in force from its first second on; `engine` is fresh, over the same topology."""
    world = world_of(scenario, seed)
    tally = Tally(world)
    accounts = accounts_of(scenario)
    observer, hands = Observer(world, accounts), Hands(world, accounts)
    log = EpisodeLog(runbooks, topology)
    remarks: list[Remark] = []

    def answer(action: Action, at: int) -> Answer:
        hands.take(action, at)
        return LATER

    def take(record: Record) -> None:
        log.take(record)
        said = remark(record)
        if said is not None:
            remarks.append(said)

    rehearsal = Rehearsal(engine, answer=answer, take=take)
    started = world.start_s * NS
    engine.load(runbooks)
    rehearsal.send(Gap(at=started, since=started, cause="start"))
    rehearsal.send(RunbooksLoaded(at=started, runbooks={book.path: book.digest for book in runbooks}))
    rehearsal.send(Observed(at=started, source=SOURCE, rows=tuple(observer.history()), history=True))
    _look(rehearsal, observer, started)
    for second in range(1, scenario.seconds + 1):
        at = (world.start_s + second) * NS
        if rehearsal.wake_at < at:
            rehearsal.wake(at - 1)
        world.advance(at)
        for action_id, outcome in hands.work():
            rehearsal.send(ActionSettled(at=at, action_id=action_id, outcome=outcome))
        tally.follow()
        _look(rehearsal, observer, at)
    return Course(
        world=world, tally=tally, toll=tally.toll(), episodes=log.episodes(), remarks=tuple(remarks), settled_at=hands.settled_at
    )


def _look(rehearsal: Rehearsal, observer: Observer, at: int) -> None:
    """The polls of one second: one batch, then what failed, then what is due."""
    rows, failures = observer.poll()
    if rows:
        rehearsal.send(Observed(at=at, source=SOURCE, rows=tuple(rows)))
    for source, reason in failures:
        rehearsal.send(FeedFailed(at=at, source=source, reason=reason))
    if rehearsal.wake_at <= at:
        rehearsal.wake(at)
