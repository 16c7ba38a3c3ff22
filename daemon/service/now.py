"""The Now page (floor 7): one line that says how it stands, and everything a person on call asks first.

    keeper = NowKeeper(engine, topology)
    keeper.warm(clock.now())                       # once, before the loop turns: what reads signals is compiled (some 100 ms)
    now = keeper.build(Shell(at=..., ...))         # at most four times a second, on the loop's own thread

BLIND outranks NEEDS YOU outranks ACTING outranks WATCHING outranks QUIET. Parts that cost with the size of the book are looked at less
often the more they cost: each takes at most SHARE of the time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar, cast

from daemon.engine.engine import Engine
from daemon.engine.state import instance_of
from daemon.engine.turn import Turn, steps_of
from daemon.language.catalogue import CATALOGUE
from daemon.service.gate import gates
from daemon.service.holds import waiting_words
from daemon.service.money import (
    Hedges,
    Positions,
    account_names,
    accounts,
    cash,
    held_in,
    largest_first,
    market_of,
    part_of,
)
from daemon.service.needs import Undelivered, needs
from daemon.service.nets import nets_down, thresholds, upcoming
from daemon.service.rounds import Instance, Rounds
from daemon.service.verdict import ago
from daemon.service.views import STANDS_AFTER_S, AccountView, ActView, FeedView, Line, NeedView, Now, PositionView, RunView, ThresholdView
from daemon.units import NS, iso
from daemon.world.entities import PORTFOLIO_ID, Kind, Topology

SHARE = 0.005  # of real time that one part of the page may take
SPELL_NS = 5_000_000  # real ns that the parts of one page may take together before the others have to wait
PART = 50  # positions that are looked at in one go
PART_MIN_NS = NS // 4  # of real time between two looks at a part
PAST = "history"  # the feed of a venue's past: without it windows are cold, but the present is seen
STALE_SLOTS, STALE_MIN_S = 3.0, 5.0  # a feed without success for so many of its slots, and at least so long, is behind

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """What only the shell knows of this moment; texts are empty where there is nothing to say."""

    at: int  # engine ns
    published: str
    build: str
    house: str = ""
    dry_run: bool = False
    speed: float = 1.0
    seq: int = 0
    head: str = ""
    flag: str = ""  # why nothing may be sent: the halt flag's text
    feeds: tuple[FeedView, ...] = ()
    blind: Mapping[str, float] = field(default_factory=dict)  # venue -> age of its last block in s, where that is too old
    stands_s: float = 0.0  # how long the loop has not turned
    refused_reload: str = ""
    undelivered: Sequence[Undelivered] = ()
    restored: str = ""
    problems: tuple[str, ...] = ()  # what else is not as it should be: clocks, endpoints, ...
    timers: Mapping[str, int] = field(default_factory=dict)  # calendar timers and when each is due next
    running: tuple[RunView, ...] = ()
    recent: tuple[RunView, ...] = ()
    acts: tuple[ActView, ...] = ()
    stats: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """What the line is decided by; texts say what they found, the first of each is told."""

    blind: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    acting: tuple[str, ...] = ()
    watching: tuple[str, ...] = ()
    nearest: str = ""


def line_of(signs: Signs) -> tuple[Line, str]:
    """The line and its sentence. BLIND outranks all: what cannot be seen may be worse than what is asked."""
    ranked: tuple[tuple[Line, tuple[str, ...]], ...] = (
        ("BLIND", signs.blind), ("NEEDS YOU", signs.needs), ("ACTING", signs.acting), ("WATCHING", signs.watching),
    )  # fmt: skip
    for line, found in ranked:
        if found:
            more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
            return line, f"{found[0]}{more}"
    return "QUIET", f"nothing fires; the nearest is {signs.nearest}" if signs.nearest else "nothing fires"


class Since:
    """Remembers since when the line is what it is."""

    def __init__(self) -> None:
        self._line: Line | None = None
        self._at = 0

    def follow(self, line: Line, at: int) -> int:
        """Engine ns since when the line is `line`, seen at `at`."""
        if line != self._line:
            self._line, self._at = line, at
        return self._at


class Paced:
    """Keeps what was made until it may be made anew: after `cost / share` of real time, at least `least_ns`; once a round has spent
    SPELL_NS, what was made before is good for one round more."""

    def __init__(self, *, share: float = SHARE, least_ns: int = PART_MIN_NS, tick: Callable[[], int] = time.perf_counter_ns) -> None:
        self._share = share
        self._least_ns = least_ns
        self._tick = tick
        self._made: dict[str, tuple[int, Any]] = {}  # name -> when it may be made anew, and what was made
        self._spent_ns = 0

    def begin(self) -> None:
        """Begin a round."""
        self._spent_ns = 0

    def get(self, name: str, make: Callable[[], T]) -> T:
        """What `make` gave last, or gives now."""
        began = self._tick()
        held = self._made.get(name)
        if held is None or (began >= held[0] and self._spent_ns < SPELL_NS):
            fresh = make()
            ended = self._tick()
            self._spent_ns += ended - began
            held = (ended + max(self._least_ns, int((ended - began) / self._share)), fresh)
            self._made[name] = held
        return cast("T", held[1])


def standing(now: Now, silent_s: float) -> Now:
    """The last page as a reader must see it while the loop stands: BLIND, and why. The same page while it turns."""
    if silent_s <= STANDS_AFTER_S:
        return now
    why = f"the daemon's loop has not turned for {ago(silent_s)}: nothing is watched"
    return replace(now, line="BLIND", why=why, problems=(why, *now.problems))


class Holdings:
    """Looks at the positions of all accounts piece by piece: hundreds of them in one go would hold the loop up."""

    def __init__(self) -> None:
        self._queue: list[tuple[str, list[str]]] = []
        self._seen: dict[str, dict[str, PositionView]] = {}

    def look(self, turn: Turn) -> Positions:
        """The positions of each account: of at most PART of them as they are now, of the others as they were at their last turn."""
        if not self._seen:
            for name in account_names(turn):
                self._take(turn, name, held_in(turn, name))
        if not self._queue:
            for name in account_names(turn):
                held = held_in(turn, name)
                still = set(held)
                self._seen[name] = {position: view for position, view in self._seen.get(name, {}).items() if position in still}
                self._queue += [(name, held[i : i + PART]) for i in range(0, len(held), PART)]
        if self._queue:
            self._take(turn, *self._queue.pop(0))
        return {name: largest_first([tuple(views.values())]) for name, views in self._seen.items()}

    def _take(self, turn: Turn, name: str, held: Sequence[str]) -> None:
        alive = [position for position in held if turn.hot.glance(Kind.POSITION, position, "size", turn.at) != 0.0]
        there = self._seen.setdefault(name, {})
        for position in held:
            there.pop(position, None)
        there |= {view.id: view for view in part_of(turn, name, alive)}


class NowKeeper:
    """Builds the Now page of one engine."""

    def __init__(self, engine: Engine, topology: Topology, *, rounds: Rounds | None = None, paced: Paced | None = None) -> None:
        self._engine = engine
        self._topology = topology
        self._paced = paced or Paced()
        self._hedges = Hedges()
        self._holdings = Holdings()
        self._since = Since()
        self.rounds = rounds or Rounds(engine)

    def warm(self, at: int) -> None:
        """Compile whatever may be looked at, so that no turn of the loop pays for it: some hundred milliseconds, once."""
        for (kind, name), signal in CATALOGUE.items():
            if not signal.arguments:
                self._engine.hot.prepare(kind, name)
        self.rounds.walk(at)
        accounts(self._engine, at)
        self._hedges.look(self._engine, at)
        upcoming(self._engine, self.rounds, at)

    def build(self, shell: Shell) -> Now:
        """The page as of `shell.at`."""
        engine, at, keep = self._engine, shell.at, self._paced.get
        self.rounds.walk(at)
        self._paced.begin()
        turn = engine.look(at)
        wanted = needs(engine, at, refused_reload=shell.refused_reload, undelivered=shell.undelivered, restored=shell.restored)
        held = keep("positions", lambda: self._holdings.look(engine.look(at)))
        money = keep("accounts", lambda: accounts(engine, at, held))
        nearest = keep("thresholds", lambda: thresholds(engine, self.rounds, at))
        down = keep("nets", lambda: nets_down(engine, self.rounds, at))
        lost = self.rounds.lost()
        signs = self.signs(turn, shell, money, wanted, lost, nearest)
        line, why = line_of(signs)
        return Now(
            at=iso(at),
            published=shell.published,
            build=shell.build,
            house=shell.house,
            dry_run=shell.dry_run,
            speed=shell.speed,
            seq=shell.seq,
            head=shell.head,
            line=line,
            since=iso(self._since.follow(line, at)),
            why=why,
            worst_feed=worst_feed(shell.feeds),
            halted=shell.flag or (f"everything is halted: {turn.cold.halted}" if turn.cold.halted else ""),
            openings_halted=f"{Kind.PORTFOLIO.value}/{PORTFOLIO_ID}" in turn.cold.gates,
            needs=wanted,
            accounts=money,
            acts=shell.acts,
            hedges=keep("hedges", lambda: self._hedges.look(engine, at)),
            thresholds=nearest,
            cash=keep("cash", lambda: cash(engine, at)),
            nets_down=down,
            upcoming=keep("upcoming", lambda: upcoming(engine, self.rounds, at, shell.timers)),
            gates=gates(turn.cold.gates),
            feeds=shell.feeds,
            problems=problems_of(turn, shell, lost),
            running=shell.running,
            recent=shell.recent,
            stats=shell.stats,
        )

    def signs(
        self,
        turn: Turn,
        shell: Shell,
        money: Sequence[AccountView],
        wanted: Sequence[NeedView],
        lost: Sequence[tuple[Instance, tuple[str, ...]]],
        nearest: Sequence[ThresholdView],
    ) -> Signs:
        """What the line is decided by."""
        return Signs(
            blind=(*blindness(turn, shell, money), *_unjudged(turn, lost)),
            needs=tuple(f"{need.title}{_until(need)}" for need in wanted),
            acting=tuple(_acting(turn)),
            watching=tuple(_watching(turn, shell, self.rounds)),
            nearest=f"{nearest[0].runbook} on {nearest[0].entity}: {nearest[0].distance} {nearest[0].bound}" if nearest else "",
        )


# --- what is seen ---------------------------------------------------------------------------------------------------------


def blindness(turn: Turn, shell: Shell, money: Sequence[AccountView]) -> list[str]:
    """Why what is held cannot be seen: the loop stands, a venue with positions is blind, its feeds are behind."""
    found = []
    if shell.stands_s > STANDS_AFTER_S:
        found.append(f"the daemon's loop has not turned for {ago(shell.stands_s)}: nothing is watched")
    held = venues_held(turn, money)
    found += [_blind_words(venue, age) for venue, age in shell.blind.items() if venue in held]
    for feed in shell.feeds:
        venue, _, what = feed.source.partition(".")
        if venue in held and what != PAST and behind(feed, shell.speed):
            found.append(feed_words(feed))
    return found


def _blind_words(venue: str, age_s: float) -> str:
    return f"{venue}: its last block is {ago(age_s)} old, all its readings are unknown"


def venues_held(turn: Turn, money: Sequence[AccountView]) -> set[str]:
    """Venues with open positions, and those of accounts of which nobody can say that they are flat."""
    held = {view.venue for view in money if not view.flat}
    for run in turn.cold.runs.values():
        held |= {market_of(turn, position).partition(":")[0] for position in run.sizes}
    return held


def behind(feed: FeedView, speed: float = 1.0) -> bool:
    """True for a feed whose last success is too long ago to be seen by; a failure alone is not, a feed that only waits is. The least time
    is real time: an accelerated venue's answers take as long on the way as any other's."""
    if feed.age_s is None:
        return feed.state in ("failing", "waiting", "stale")
    return feed.age_s > max(STALE_SLOTS * feed.every_s, STALE_MIN_S * max(1.0, speed))


def feed_words(feed: FeedView) -> str:
    """`feed dydx.books is failing, last success 42s ago: connection refused`."""
    age = "never succeeded" if feed.age_s is None else f"last success {ago(feed.age_s)} ago"
    return f"feed {feed.source} is {feed.state}, {age}" + (f": {feed.reason}" if feed.reason else "")


def worst_feed(feeds: Sequence[FeedView]) -> FeedView | None:
    """The feed that is farthest behind, in its own slots; None without feeds."""
    rank = {"failing": 0, "stale": 1, "waiting": 2, "ok": 3}

    def badness(feed: FeedView) -> tuple[int, float, str]:
        slots = -feed.age_s / feed.every_s if feed.age_s is not None and feed.every_s > 0.0 else 0.0
        return rank.get(feed.state, 0), slots, feed.source

    return min(feeds, key=badness, default=None)


def _unjudged(turn: Turn, lost: Sequence[tuple[Instance, tuple[str, ...]]]) -> list[str]:
    """One line a runbook whose instances were judged and cannot be any more; a shadow one protects nothing."""
    of_runbook: dict[str, list[tuple[str, tuple[str, ...]]]] = {}
    for (runbook, entity), lacks in lost:
        book = turn.current(runbook)
        if book is not None and book.stage == "armed":
            of_runbook.setdefault(runbook, []).append((entity, lacks))
    return [
        f"{runbook} cannot be judged on {its[0][0]}{f' and {len(its) - 1} more' if len(its) > 1 else ''}: it lacks {', '.join(its[0][1])}"
        for runbook, its in of_runbook.items()
    ]


def _until(need: NeedView) -> str:
    return f" (until {need.deadline[:19]}Z)" if need.deadline else ""


def _acting(turn: Turn) -> list[str]:
    """Runs under way that write."""
    found = []
    for run in turn.cold.runs.values():
        if not run.shadow and any(step.writes for step in steps_of(turn.book(run), run)):
            found.append(f"{run.runbook} on {run.entity}: {waiting_words(turn, run)}")
    return found


def _watching(turn: Turn, shell: Shell, rounds: Rounds) -> list[str]:
    """Triggers that fire, clear or hold, runs that only tell, and that nothing may be sent."""
    found = []
    if shell.flag or turn.cold.halted:
        found.append(shell.flag or f"everything is halted: {turn.cold.halted}")
    told = set()
    for episode in turn.cold.episodes.values():
        if episode.open:
            told.add((episode.runbook, episode.entity))
            found.append(f"{episode.runbook} fires on {episode.entity} since {ago(max(0, turn.at - episode.fired_at) / NS)}")
    for instance, glimpse in rounds.moving.items():
        if instance not in told:
            found.append(f"{instance_of(*instance)} is {glimpse.state}")
    found += [f"run {run.id} is under way" for run in turn.cold.runs.values() if (run.runbook, run.entity) not in told]
    return found


def problems_of(turn: Turn, shell: Shell, lost: Sequence[tuple[Instance, tuple[str, ...]]]) -> tuple[str, ...]:
    """Everything that is not as it should be, whether it blinds or not."""
    found = []
    if shell.flag or turn.cold.halted:
        found.append(shell.flag or f"everything is halted: {turn.cold.halted}")
    if shell.restored:
        found.append(shell.restored)
    if shell.refused_reload:
        found.append(f"the last reload was refused, the runbooks before it are in force: {shell.refused_reload.splitlines()[0]}")
    found += [_blind_words(venue, age) for venue, age in shell.blind.items()]
    found += [feed_words(feed) for feed in shell.feeds if feed.state in ("failing", "stale")]
    found += _unjudged(turn, lost)
    found += [f"{letter.id} never reached {letter.endpoint}: {letter.reason}" for letter in shell.undelivered]
    return (*found, *shell.problems)

