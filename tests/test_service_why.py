"""Why an instance is where it is: sentences a person understands at three in the morning, and nothing that reading changes."""

from __future__ import annotations

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, T0, World, load, runbook

from daemon.engine.actions import Action, Outcome, ShrinkPosition
from daemon.engine.engine import Engine, Transition
from daemon.engine.events import Event, RunbooksLoaded
from daemon.language.catalogue import CATALOGUE
from daemon.service.verdict import comparisons, holding, lacking, nearness
from daemon.service.why import compared, nearest, why
from daemon.units import NS
from daemon.world.entities import Kind


def sentence(world: World, name: str = "spike", entity: str = POSITION) -> str:
    return why(world.engine, name, entity, world.now).sentence


def test_an_instance_that_does_not_fire_says_how_far_it_is() -> None:
    world = World(runbook())
    world.until(10, funding_rate=0.00012)
    view = why(world.engine, "spike", POSITION, world.now)
    assert view.sentence == "not firing: funding_rate is 0.012%/h, 0.038%/h below 0.05%/h"
    assert (view.state, view.since, view.held_back) == ("inactive", None, ())
    compare = view.conditions[0].tree
    assert compare.distance == pytest.approx(-0.00038)
    assert compare.distance_shown == "0.038%/h below"
    assert (compare.kids[0].shown, compare.kids[0].age_s) == ("0.012%/h", 0.0)


def test_a_bound_that_stands_first_is_turned_round() -> None:
    world = World(runbook(when="0.05%/h < funding_rate"))
    world.until(10, funding_rate=0.00012)
    assert sentence(world) == "not firing: funding_rate is 0.012%/h, 0.038%/h below 0.05%/h"


def test_only_what_is_missing_is_told_of_a_conjunction() -> None:
    world = World(runbook(when="funding_rate > 0.05%/h and oracle_divergence < 50bps and abs(notional) > 100_000 USD"))
    world.until(10, funding_rate=0.001)
    assert sentence(world) == "not firing: abs(notional) is 30,000 USD, 70,000 USD below 100,000 USD"


def test_of_alternatives_the_nearest_is_told() -> None:
    world = World(runbook(when="funding_rate > 0.05%/h or abs(notional) > 31_000 USD"))
    world.until(10, funding_rate=0.0)
    assert sentence(world) == "not firing: abs(notional) is 30,000 USD, 1,000 USD below 31,000 USD"


def test_a_negation_says_what_has_to_end() -> None:
    world = World(runbook(when="not (funding_rate < 0.05%/h or abs(notional) < 1_000 USD)"))
    world.until(10, funding_rate=0.0001)
    assert sentence(world) == "not firing: funding_rate is 0.01%/h, 0.04%/h below 0.05%/h"


def test_a_let_is_called_by_its_name() -> None:
    text = runbook(when="paid > limit").replace("trigger:", "params: {limit: 0.05%/h}\nlet: {paid: funding_rate * sign(size)}\ntrigger:")
    world = World(text)
    world.until(10, funding_rate=0.0001)
    assert sentence(world) == "not firing: paid is 0.01%/h, 0.04%/h below limit (0.05%/h)"


def test_a_pending_one_says_how_long_it_has_held_and_when_it_fires() -> None:
    world = World(runbook(hold="1m"))
    world.until(20, funding_rate=0.001)
    view = why(world.engine, "spike", POSITION, world.now)
    assert view.sentence == "pending: funding_rate is 0.1%/h, 0.05%/h above 0.05%/h; held 20s of 1m, fires in 40s if it stays so"
    assert (view.held_s, view.hold_s, view.since) == (20.0, 60.0, "2023-11-14T22:13:20.000Z")


def test_a_firing_one_says_what_made_it_so_and_what_ends_it() -> None:
    world = World(runbook(until="funding_rate < 0.02%/h", steps="- id: tell\n  notify: {to: [desk], text: x}"))
    world.until(20, funding_rate=0.001)
    assert sentence(world) == (
        "firing since 2023-11-14T22:13:20Z (20s): funding_rate is 0.1%/h, 0.05%/h above 0.05%/h; "
        "clears when funding_rate < 0.02%/h: funding_rate is 0.1%/h, 0.08%/h above 0.02%/h"
    )


def test_an_unknown_one_says_which_reading_and_since_when() -> None:
    world = World(runbook(when="oracle_divergence > 50bps"))
    world.until(10)
    later = world.now + 300 * NS
    view = why(world.engine, "spike", POSITION, later)
    assert view.conditions[0].verdict == "UNKNOWN"
    assert "cannot be judged: " in view.sentence
    assert "oracle_price is unknown, last seen 2023-11-14T22:13:30Z (5m ago)" in view.sentence
    never = World(runbook(when="index_price > 1_000 price"))
    never.until(10)
    assert sentence(never) == "cannot be judged: index_price was never seen"


def test_a_sum_that_is_unknown_names_the_position() -> None:
    readings = {(Kind.ACCOUNT, ACCOUNT, "collateral"): 10_000.0, (Kind.POSITION, POSITION, "entry_price"): 3000.0}
    world = World(
        runbook(scope="account", when="margin_ratio > 60%", steps="- id: tell\n  notify: {to: [desk], text: x}"), readings=readings
    )
    world.until(10)
    assert sentence(world, entity=ACCOUNT) == f"cannot be judged: maintenance_margin is unknown (unknown: mmf of {MARKET})"


def test_everything_that_holds_back_is_told_at_once() -> None:
    text = runbook(rest="cooldown: 30m\nguards: [oracle_divergence < 50bps]\nlimits: {per_day: 7_500 USD, runs: 1/day}")
    world = World(text, runbook(name="other", steps="- id: tell\n  notify: {to: [desk], text: x}", when="funding_rate > 9%/h"))
    world.until(5, funding_rate=0.001)
    world.until(20, funding_rate=0.0)
    world.command("pause", "spike")
    world.command("halt")
    world.until(25, oracle_price=3100.0)
    back = why(world.engine, "spike", POSITION, world.now).held_back
    assert back == (
        "everything is halted: operator desk-lead",
        "paused until somebody unpauses it by operator desk-lead",
        "in cooldown until 2023-11-14T22:43:20Z",
        "limit per_day is used up: 7,500 USD of 7,500 USD in 24h",
        "over limits.runs: 1 of 1 runs used",
        "guard oracle_divergence < 50bps is FALSE: oracle_divergence is 3.333%, 2.833% above 0.5%",
    )
    assert why(world.engine, "other", POSITION, world.now).held_back == ()


def test_a_shadow_and_an_unknown_guard_and_a_run_under_way_are_told() -> None:
    shadow = World(runbook(stage="shadow", rest="guards: [index_price > 1 price]"))
    shadow.until(5)
    assert why(shadow.engine, "spike", POSITION, shadow.now).held_back == (
        "its stage is shadow: it decides and tells, nothing is sent",
        "guard index_price > 1 price is UNKNOWN: index_price was never seen",
    )
    waiting = World(runbook("- id: shrink\n  shrink_position: {by: 25%}\n  approval: {from: [ana], timeout: 2m}"))
    waiting.until(5, funding_rate=0.001)
    back = why(waiting.engine, "spike", POSITION, waiting.now).held_back
    assert back[0].startswith("run spike/dydx:ETH-USD/")
    assert "is at step shrink, waits for approval until 2023-11-14T22:15:20Z: approval wanted for shrink" in back[0]


def test_inhibition_is_told() -> None:
    world = World(
        runbook(rest="inhibited_by: [oracle]"),
        runbook(name="oracle", when="oracle_divergence > 50bps", intent="survival", steps="- id: tell\n  notify: {to: [desk], text: x}"),
    )
    world.until(10, oracle_price=3100.0)
    assert "inhibited by oracle/dydx:ETH-USD, which is firing" in why(world.engine, "spike", POSITION, world.now).held_back


def test_an_instance_that_is_not_there_is_refused_and_not_made() -> None:
    world = World(runbook())
    world.until(5)
    for entity in ("dydx:BTC-USD", "nobody", ""):
        with pytest.raises(LookupError):
            why(world.engine, "spike", entity, world.now)
    with pytest.raises(LookupError, match="in force are spike"):
        why(world.engine, "nothing", POSITION, world.now)
    assert not world.engine.hot.knows(Kind.POSITION, "dydx:BTC-USD")
    assert compared(world.engine, "spike", "dydx:BTC-USD", world.now) == ()


def test_the_nearest_of_several_instances_is_found() -> None:
    readings = {
        (Kind.POSITION, "dydx:BTC-USD", "size"): 1.0,
        (Kind.MARKET, "dydx:BTC-USD", "funding_rate"): 0.0004,
        (Kind.POSITION, "dydx:SOL-USD", "size"): 1.0,
        (Kind.MARKET, "dydx:SOL-USD", "funding_rate"): 0.0001,
    }
    world = World(runbook(steps="- id: tell\n  notify: {to: [desk], text: x}"), readings=readings)
    world.until(5)
    assert nearest(world.engine, "spike", world.now) == "dydx:BTC-USD"
    world.readings[Kind.MARKET, "dydx:SOL-USD", "funding_rate"] = 0.002
    world.until(10)
    assert nearest(world.engine, "spike", world.now) == "dydx:SOL-USD"  # it fires
    assert nearest(world.engine, "nothing", world.now) == ""


def test_what_a_trigger_compares_comes_with_both_bounds() -> None:
    world = World(runbook(when="funding_rate > 0.05%/h and abs(notional) > 1_000 USD", until="funding_rate < 0.02%/h"))
    world.until(5, funding_rate=0.0003)
    found = compared(world.engine, "spike", POSITION, world.now)
    assert [(c.text, c.value, c.unit, c.when, c.until) for c in found] == [
        ("funding_rate", 0.0003, "rate/h", 0.0005, 0.0002),
        ("abs(notional)", 30000.0, "USD", 1000.0, None),
    ]


@pytest.mark.parametrize(
    ("when", "rate", "far"),
    [
        ("funding_rate > 0.05%/h", 0.0004, 0.2),
        ("funding_rate > 0.05%/h", 0.0006, 0.0),
        ("funding_rate > 0.05%/h and abs(notional) > 60_000 USD", 0.0004, 0.5),
        ("funding_rate > 0.05%/h or abs(notional) > 60_000 USD", 0.0004, 0.2),
        ("not (funding_rate > 0.05%/h)", 0.0006, 0.2),
        ("index_price > 1 price", 0.0, float("inf")),
    ],
)
def test_nearness_is_the_distance_over_the_bound(when: str, rate: float, far: float) -> None:
    world = World(runbook(when=when, steps="- id: tell\n  notify: {to: [desk], text: x}"))
    world.until(5, funding_rate=rate)
    tree = world.engine.hot.trace("spike", 0, POSITION, world.now)
    assert nearness(tree) == pytest.approx(far)
    assert (far == 0.0) == (not lacking(tree)) == bool(holding(tree))
    assert all(c.unit in ("rate/h", "USD", "price") for c in comparisons(tree))


# --- reading changes nothing ---------------------------------------------------------------------------------------------


def _read_everything(engine: Engine, at: int) -> None:
    """Everything the surface may ask for: every signal of every entity and of some that do not exist, every why."""
    for kind, signal in CATALOGUE:
        if not CATALOGUE[kind, signal].arguments:
            for entity in (*engine.hot.entities(kind), "nobody", "dydx:NEW-USD"):
                engine.hot.peek(kind, entity, signal, at)
                engine.hot.glance(kind, entity, signal, at)
    for runbook_id, entity in engine.hot.instances():
        why(engine, runbook_id, entity, at)
        compared(engine, runbook_id, entity, at)
    for runbook_id in engine.cold.in_force:
        nearest(engine, runbook_id, at)
    for _ in range(2):
        engine.snapshot()


class Reader(World):
    """A world that, once `reads` is set, reads everything around every event."""

    reads = False

    def step(self, event: Event) -> Transition:
        if self.reads:
            _read_everything(self.engine, event.at)
        transition = super().step(event)
        if self.reads:
            _read_everything(self.engine, event.at)
        return transition

    def reload(self, *texts: str) -> None:
        self.books = tuple(load(text) for text in texts)
        self.engine.load(self.books)
        self.step(RunbooksLoaded(at=self.now, runbooks={f"{b.id}.yaml": b.digest for b in self.books}))


def test_an_engine_that_is_read_between_all_events_decides_the_same_bytes() -> None:
    # The runbook that comes later asks for windows that the reader asked for before: they must not be warmer for it.
    steps = "- id: shrink\n  shrink_position: {by: 25%, slices: 2, every: 10s}\n  verify: {that: abs(size) < 9 base, within: 10s}"
    first = runbook(steps, rest="cooldown: 20s\nguards: [oracle_divergence < 50bps]")
    when = "drawdown > 1% or time_to_liquidation < 10_000d"
    late = runbook("- id: tell\n  notify: {to: [desk], text: x}", name="late", scope="account", when=when, hold="5s")
    readings = {
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 3_000.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "mmf"): 0.03,
        (Kind.MARKET, MARKET, "imf"): 0.05,
    }

    def play(*, reads: bool) -> tuple[list[str], dict[str, bytes]]:
        world = Reader(first, readings=readings)
        world.reads = reads
        world.until(60, funding_rate=0.001)
        world.until(90, funding_rate=0.0, oracle_price=2990.0)
        world.reload(first, late)
        world.until(200, every=1.0, funding_rate=0.001, oracle_price=2800.0)
        return world.bodies(), dict(world.engine.checkpoint())

    unread, blobs = play(reads=False)
    read, looked = play(reads=True)
    assert len(unread) > 20
    assert any('"late"' in body for body in unread)
    assert read == unread
    assert looked == blobs


def answer_never(action: Action) -> Outcome | None:
    return None if isinstance(action, ShrinkPosition) else Outcome(status="done")


def test_reading_with_an_action_on_the_wire_names_it() -> None:
    world = World(runbook(), answer=answer_never)
    world.until(5, funding_rate=0.001)
    assert world.now == T0 + 5 * NS
    assert any("its action is on the wire" in item for item in why(world.engine, "spike", POSITION, world.now).held_back)
