"""The Now page: which line it is, since when, what blinds it, and that thousands of instances do not hold up the loop."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, T0, TOPOLOGY, World, runbook

from daemon.engine.engine import Engine
from daemon.engine.events import RunbooksLoaded, Woke
from daemon.engine.limits import HouseLimits
from daemon.journal.entry import Entry
from daemon.runbook.load import load_paths
from daemon.runbook.model import Runbook
from daemon.service.loop import event_entry, record_entry
from daemon.service.needs import Undelivered
from daemon.service.now import NowKeeper, Paced, Shell, Signs, Since, behind, line_of, standing, worst_feed
from daemon.service.rounds import Rounds
from daemon.service.verify import verify
from daemon.service.views import FeedView, Line, Now
from daemon.units import NS
from daemon.world.entities import Kind

TELL = "- id: tell\n  notify: {to: [desk], text: x}"
MARGIN: Mapping[tuple[Kind, str, str], float] = {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 5_000.0,
    (Kind.POSITION, POSITION, "entry_price"): 3_000.0,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
    (Kind.MARKET, MARKET, "imf"): 0.05,
}
SHIPPED = Path(__file__).resolve().parent.parent / "runbooks"


def feed(source: str = "dydx.markets", state: str = "ok", age_s: float | None = 1.0, every_s: float = 1.0) -> FeedView:
    return FeedView(source=source, state=state, every_s=every_s, age_s=age_s, failures=0, skipped=0, reason="")


class Page:
    """A world with its keeper, whose parts are looked at anew each time."""

    def __init__(self, *texts: str, readings: Mapping[tuple[Kind, str, str], float] = MARGIN) -> None:
        self.world = World(*(texts or (runbook(TELL),)), readings=readings)
        ticks = itertools.count(0, 10**12)
        self.keeper = NowKeeper(
            self.world.engine, TOPOLOGY, rounds=Rounds(self.world.engine, budget_ns=10**15), paced=Paced(tick=lambda: next(ticks))
        )
        self.world.until(5)

    def now(self, **shell: object) -> Now:
        return self.keeper.build(Shell(**{"at": self.world.now, "published": "p", "build": "b", "feeds": (feed(),), **shell}))  # type: ignore[arg-type]


# --- the line --------------------------------------------------------------------------------------------------------------

ALL: tuple[tuple[str, Line], ...] = (("blind", "BLIND"), ("needs", "NEEDS YOU"), ("acting", "ACTING"), ("watching", "WATCHING"))


@pytest.mark.parametrize("there", list(itertools.product([False, True], repeat=4)))
def test_each_line_outranks_all_that_come_after_it(there: tuple[bool, ...]) -> None:
    found = {name: (f"{name} 1", f"{name} 2") for (name, _), is_there in zip(ALL, there, strict=True) if is_there}
    line, why = line_of(Signs(**found))
    expected = next(((name, line) for (name, line), is_there in zip(ALL, there, strict=True) if is_there), None)
    assert (line, why) == ((expected[1], f"{expected[0]} 1 (and 1 more)") if expected else ("QUIET", "nothing fires"))


def test_a_quiet_line_names_what_is_nearest() -> None:
    assert line_of(Signs(nearest="spike on x: 1% below 2%"))[1] == "nothing fires; the nearest is spike on x: 1% below 2%"


def test_since_is_kept_while_the_line_stays() -> None:
    since = Since()
    lines: list[Line] = ["QUIET", "QUIET", "BLIND", "BLIND", "QUIET"]
    assert [since.follow(line, at) for at, line in enumerate(lines)] == [0, 0, 2, 2, 4]


def test_a_loop_that_stands_is_blind_whatever_it_said_last() -> None:
    page = Page().now()
    assert standing(page, 4.0) is page
    stood = standing(page, 12.0)
    assert (page.line, stood.line, stood.why) == ("QUIET", "BLIND", "the daemon's loop has not turned for 12s: nothing is watched")
    assert stood.problems[0] == stood.why


def test_quiet_then_watching_then_acting_then_needs_you_and_back() -> None:
    steps = "- id: s\n  shrink_position: {by: 10%, slices: 2, every: 20s}\n  approval: {from: [ana], timeout: 2m, otherwise: skip}"
    page = Page(runbook(steps, hold="10s", until="funding_rate < 0.01%/h"))
    quiet = page.now()
    assert (quiet.line, quiet.why) == ("QUIET", "nothing fires; the nearest is spike on dydx:ETH-USD: 0.05%/h below 0.05%/h")
    page.world.until(8, funding_rate=0.001)
    watching = page.now()
    assert (watching.line, watching.why) == ("WATCHING", "spike/dydx:ETH-USD is pending")
    page.world.until(20)
    asks = page.now()
    assert asks.line == "NEEDS YOU"
    assert asks.why == "Approve shrink_position of 3,000 USD? Title of spike · dydx:ETH-USD (until 2023-11-14T22:15:35Z)"
    page.world.command("approve", asks.needs[0].target, actor="ana")
    acting = page.now()
    assert acting.line == "ACTING"
    assert acting.why.startswith("spike on dydx:ETH-USD: run spike/dydx:ETH-USD/")
    page.world.until(60)
    assert page.now().line == "WATCHING"
    page.world.until(90, funding_rate=0.0)
    back = page.now()
    assert (back.line, back.since) == ("QUIET", back.at)


def test_a_halt_is_never_quiet() -> None:
    page = Page()
    assert page.now(flag="halted by var/halt: x").line == "WATCHING"
    page.world.command("halt")
    said = page.now()
    assert (said.line, said.halted) == ("WATCHING", "everything is halted: operator desk-lead")
    assert said.problems[0] == said.halted


@pytest.mark.parametrize(
    ("shell", "why"),
    [
        ({"feeds": (feed(age_s=6.0),)}, "feed dydx.markets is ok, last success 6s ago"),
        ({"feeds": (feed(state="failing", age_s=None),)}, "feed dydx.markets is failing, never succeeded"),
        ({"blind": {"dydx": 75.0}}, "dydx: its last block is 1m15s old, all its readings are unknown"),
        ({"stands_s": 30.0}, "the daemon's loop has not turned for 30s: nothing is watched"),
    ],
)
def test_what_blinds_outranks_what_is_asked(shell: Mapping[str, object], why: str) -> None:
    page = Page()
    said = page.now(**shell, refused_reload="a.yaml: E001")
    assert (said.line, said.why) == ("BLIND", why)
    assert [need.kind for need in said.needs] == ["refused_reload"]


@pytest.mark.parametrize(
    "shell",
    [
        {"feeds": (feed(state="failing", age_s=2.0),)},  # one poll that failed is no blindness
        {"feeds": (feed(source="dydx.history", state="failing", age_s=None),)},
        {"feeds": (feed(source="other.markets", state="stale", age_s=600.0),)},  # nothing is held there
        {"blind": {"other": 75.0}},
        {"stands_s": 2.0},
    ],
)
def test_what_does_not_matter_for_what_is_held_does_not_blind(shell: Mapping[str, object]) -> None:
    page = Page()
    said = page.now(**shell)
    assert said.line == "QUIET"
    assert bool(said.problems) == ("stands_s" not in shell)


def test_instances_that_were_judged_and_cannot_be_any_more_blind_it_and_those_that_never_were_do_not() -> None:
    page = Page(runbook(TELL), runbook(TELL, name="never", when="index_price > 1 price"), runbook(TELL, name="ghost", stage="shadow"))
    assert page.now().line == "QUIET"
    page.world.now += 3 * 3_600 * NS
    said = page.now()
    assert said.line == "BLIND"
    assert "spike cannot be judged on dydx:ETH-USD: it lacks funding_rate" in said.problems
    assert not any("never" in problem or "ghost" in problem for problem in said.problems)


def test_feeds_are_judged_in_their_own_slots() -> None:
    slow, quick = feed("a.slow", age_s=100.0, every_s=60.0), feed("a.quick", age_s=9.0, every_s=1.0)
    assert (behind(slow), behind(quick)) == (False, True)
    assert not behind(quick, speed=20.0)  # 0.45 real seconds
    assert worst_feed((slow, quick)) == quick
    assert worst_feed((slow, quick, feed("a.bad", state="failing"))) == feed("a.bad", state="failing")
    assert worst_feed(()) is None


def test_the_page_has_everything_that_is_asked_first() -> None:
    page = Page(runbook(TELL, when="liquidation_distance < 5%"), runbook(TELL, name="off", stage="disabled"))
    said = page.now(undelivered=[Undelivered(id="n", endpoint="pager", reason="gone")], problems=("clocks are apart",), restored="a backup")
    assert said.accounts[0].margin_ratio == pytest.approx(0.18)
    assert said.accounts[0].positions[0].id == POSITION
    assert said.thresholds[0].price.startswith("dydx:ETH-USD at ")
    assert [net.runbook for net in said.nets_down] == ["off"]
    assert said.upcoming[0].text.startswith("funding of dydx: ")
    assert said.problems == ("a backup", "n never reached pager: gone", "clocks are apart")
    assert [need.kind for need in said.needs] == ["restored", "undelivered"]
    assert (said.at, said.published, said.openings_halted) == ("2023-11-14T22:13:25.000Z", "p", False)
    page.world.command("halt", "portfolio")
    halted = page.now()
    assert halted.openings_halted
    assert [gate.what for gate in halted.gates] == ["portfolio"]


# --- it is cheap, and changes nothing ----------------------------------------------------------------------------------------


def test_a_part_that_costs_is_made_the_less_often() -> None:
    now = [0]
    made: list[int] = []
    paced = Paced(share=0.01, least_ns=100, tick=lambda: now[0])

    def costly() -> int:
        now[0] += 50
        made.append(now[0])
        return now[0]

    assert paced.get("x", costly) == 50
    for _ in range(100):  # 50 of cost at 1 % is a rest of 5,000
        now[0] += 100
        paced.get("x", costly)
    assert made == [50, 5_100, 10_150]
    assert paced.get("x", costly) == made[-1]


def test_the_shipped_runbooks_are_watched_without_changing_what_they_decide() -> None:
    books = load_paths([SHIPPED]).runbooks

    def play(*, watched: bool) -> World:
        world = World(readings=MARGIN)
        world.engine.load(books)
        world.step(RunbooksLoaded(at=T0, runbooks={b.path: b.digest for b in books}))
        keeper = NowKeeper(world.engine, TOPOLOGY)
        if watched:
            keeper.warm(T0)
        lines = set()
        for step in range(1, 40):
            changes = {"oracle_price": 3_000.0 - 10.0 * step, "funding_rate": 0.001}
            world.until(5 * step, **changes)
            if watched:
                lines.add(keeper.build(replace(Shell(at=world.now, published="", build=""), feeds=(feed(),))).line)
        assert not watched or lines >= {"ACTING"}
        return world

    unwatched, watched = play(watched=False), play(watched=True)
    assert len(unwatched.records) > 20
    assert watched.bodies() == unwatched.bodies()
    # What a daemon whose page was read wrote down is decided anew by one that nobody looks at: `reefd replay --verify`.
    verified = verify(journal_of(watched), lambda _named, _before: new_engine(books), lambda _event: books)
    assert verified.identical, verified.difference
    assert verified.records == len(watched.records) - 1  # the empty set that a world begins with


def new_engine(books: Sequence[Runbook]) -> Engine:
    engine = Engine(topology=TOPOLOGY, house=HouseLimits(), build="test")
    engine.load(books)
    return engine


def journal_of(world: World) -> Iterator[Entry]:
    """What the loop would have written: each event with its records, under one number."""
    for seq, step in enumerate(world.entries[2:], start=1):  # without the world's own empty set
        if not isinstance(step.event, Woke):
            yield event_entry(seq, step.event)
        yield from (record_entry(seq, record) for record in step.records)
