"""Whatever happens: records rebuild the state, deciding again says the same, limits hold, unknown never acts, nothing is sent twice."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from decimal import Decimal

from engine_world import ACCOUNT, MARKET, POSITION, T0, Entry, World, runbook
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.engine.actions import Action, MoveBuffer, Outcome, ShrinkPosition
from daemon.engine.codec import decode, encode, encode_as
from daemon.engine.engine import Engine
from daemon.engine.events import Gap, Woke
from daemon.engine.limits import HouseLimits
from daemon.engine.records import ActionFinished, ActionRequested, RunFinished
from daemon.engine.state import Cold
from daemon.units import DAY_NS, NS
from daemon.world.entities import Kind

ECONOMY = runbook(
    """\
- id: stop
  halt: {scope: market}
- id: shrink
  shrink_position: {by: 20%, slices: 3, every: 7s, max_slippage: 20bps, max_share_of_depth: 40%}
  approval: {when: notional_change > 5_500 USD, from: [desk-lead], timeout: 20s, otherwise: proceed}
  timeout: 6s
  retry: {attempts: 2, backoff: 3s}
  verify: {that: abs(size) < abs(size@start), within: 11s}
  on_failure: continue
- id: tell
  notify: {to: [desk], text: "{market}: {funding_rate}, {notional}"}
""",
    name="economy",
    hold="4s",
    rest="""\
cooldown: 9s
repeat: {every: 25s, max: 4}
locks: [position]
guards: [oracle_divergence < 80bps]
guard_wait: 13s
limits: {per_run: 7_000 USD, per_day: 15_000 USD, per_episode: 60%, runs: 9/day}
on_clear: [{id: resume, resume: {scope: market}}]
on_failure: {notify: [page], then: stay_armed}
notify: {to: [desk], events: [fired, acted, blocked, failed, no_data, cleared], repeat: 31s}
""",
)
SURVIVAL = runbook(
    """\
- id: top-up
  move_buffer: {from: ethereum, amount: 700 USD, keep_at_source: 100 USD, max_fee: 5%}
  on_failure: continue
- id: shrink
  shrink_account: {to_margin_ratio: 30%, slices: 2, every: 4s}
  retry: {attempts: 2, backoff: 1s}
""",
    name="survival",
    scope="account",
    intent="survival",
    when="margin_ratio > 45%",
    rest="cooldown: 11s\nrepeat: {every: 20s, max: 6}\nlocks: [account]\nlimits: {per_run: 4_000 USD, per_day: 12_000 USD}\n",
)
HOUSE = HouseLimits(account_turnover_hour_usd=15_000.0, house_turnover_day_usd=16_000.0, runs_day=40)
READINGS = {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 3_000.0,
    (Kind.POSITION, POSITION, "entry_price"): 3000.0,
    (Kind.MARKET, MARKET, "imf"): 0.05,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
    (Kind.MARKET, MARKET, "step_size"): 0.001,
    (Kind.CHAIN, "ethereum", "buffer_balance"): 5_000.0,
}
OUTCOMES = ("done",) * 6 + ("partial", "partial", "failed", "failed", "rejected", "unknown", "silent")
VALUES: dict[str, tuple[float, ...]] = {
    "funding_rate": (0.001, 0.001, 0.001, 0.0, float("nan")),
    "oracle_price": (2950.0, 3000.0, 3000.0, 3015.0, 3040.0, float("nan")),
    "collateral": (1_000.0, 1_500.0, 1_500.0, 1_800.0, 2_300.0, 9_000.0),
    "bid_size": (0.5, 50.0, 50.0, float("nan")),
    "size": (0.0, 4.0, 10.0, 10.0, 20.0, -6.0),
    "mmf": (0.03, 0.03, float("nan")),
}
Story = tuple[list[tuple[str, int, object]], list[str]]


def invent(seed: int) -> Story:
    """A story of some minutes, mostly of spikes and thin margin, and what the venue answers in it."""
    chance = random.Random(seed)
    moves: list[tuple[str, int, object]] = [("row", 1, [("funding_rate", 0.001)])]
    for _ in range(chance.randint(20, 90)):
        what = chance.choices(("row", "wake", "late", "command", "halt", "gap"), (70, 10, 10, 6, 1, 2))[0]
        match what:
            case "row":
                names = [name for name in VALUES if chance.random() < 0.06]
                moves.append((what, chance.randint(0, 9), [(name, chance.choice(VALUES[name])) for name in names]))
            case "wake":
                moves.append((what, chance.randint(0, 15), ()))
            case "late":
                moves.append((what, chance.randint(0, 3), chance.choice(OUTCOMES)))
            case "command":
                moves.append((what, chance.randint(0, 3), chance.choice(("approve", "approve", "deny", "unpause", "pause"))))
            case "halt":
                moves += [("command", 1, "halt"), ("row", 5, ()), ("command", 3, "resume")]
            case "gap":
                moves.append((what, chance.randint(1, 400), ()))
    return moves, [chance.choice(OUTCOMES) for _ in range(60)]


STORIES = st.integers(0, 1 << 32).map(invent)


def outcome_of(word: str, action: Action) -> Outcome | None:
    match word:
        case "silent":
            return None
        case "partial" if isinstance(action, ShrinkPosition):
            return Outcome(status="done", filled_size=(action.size / 2).quantize(Decimal("0.001")))
        case "partial" | "done":
            return Outcome(status="done")
        case "failed" | "rejected" | "unknown":
            return Outcome(status=word, reason="so the story goes")
    raise AssertionError(word)


def play(story: Sequence[tuple[str, int, object]], answers: Sequence[str]) -> World:
    """A world driven through a story."""
    script = list(answers)
    world = World(ECONOMY, SURVIVAL, house=HOUSE, readings=READINGS)
    world.tick = 1
    world.answer = lambda action: (
        outcome_of(script.pop(0), action) if script and isinstance(action, ShrinkPosition | MoveBuffer) else Outcome(status="done")
    )
    for number, (what, seconds, detail) in enumerate(story):
        world.now += seconds * NS + 1
        match what:
            case "row":
                world.wake_to(world.now - 1)
                world.observe(**dict(detail))
            case "wake":
                world.wake_to(world.now)
            case "late":
                pending = world.engine.unsettled()
                if pending:
                    answer = outcome_of(detail, pending[0])
                    if answer is not None:
                        world.settle(pending[0], answer)
            case "command":
                world.command(detail, "economy" if detail in ("approve", "deny", "pause", "unpause") else "", command_id=f"c{number}")
            case "gap":
                world.step(Gap(at=world.now, since=world.now - seconds * NS, cause="freeze"))
    world.now += 300 * NS
    world.wake_to(world.now)
    world.step(Woke(at=world.now))
    return world


GENERATED = settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))


@GENERATED
@given(tale=STORIES)
def test_applying_the_journal_gives_the_state_that_stepping_gave(tale):
    world = play(*tale)
    recovered = world.new_engine()
    recovered.load(world.books)
    for entry in world.entries:
        if not isinstance(entry.event, Woke):
            recovered.apply_entry(decode(encode(entry.event)))
        for record in entry.records:
            recovered.apply_entry(decode(encode(record)))
    assert encode_as(recovered.cold, Cold) == encode_as(world.engine.cold, Cold)
    assert {i: recovered.hot.state(*i).status for i in recovered.hot.instances()} == {
        i: world.engine.hot.state(*i).status for i in world.engine.hot.instances()
    }


@GENERATED
@given(tale=STORIES)
def test_deciding_the_journaled_events_again_gives_the_same_records_byte_for_byte(tale):
    world = play(*tale)
    again = world.new_engine()
    again.load(world.books)
    assert redecided(again, world.entries, world.now) == world.bodies()


def redecided(engine: Engine, entries: Sequence[Entry], last: int) -> list[str]:
    """Records of the events alone; wake-ups are not journaled."""
    bodies = [encode(r) for e in entries if not isinstance(e.event, Woke) for r in engine.step(decode(encode(e.event))).records]
    return bodies + [encode(r) for r in engine.step(Woke(at=last)).records]


@GENERATED
@given(tale=STORIES)
def test_a_restart_from_a_checkpoint_at_any_point_changes_no_later_decision(tale):
    world = play(*tale)
    cut = len(world.entries) // 2
    first = world.new_engine()
    first.load(world.books)
    for entry in world.entries[:cut]:
        first.step(entry.event)
    second = world.new_engine()
    second.load(world.books)
    second.restore(first.checkpoint())
    for entry in world.entries[cut:]:
        assert [encode(r) for r in second.step(entry.event).records] == [encode(r) for r in first.step(entry.event).records]


@GENERATED
@given(tale=STORIES)
def test_limits_hold_nothing_flips_and_no_action_is_sent_twice_whatever_happens(tale):
    world = play(*tale)
    requested = [r for r in world.records if isinstance(r, ActionRequested)]
    ids = [a.action_id for a in world.actions]
    assert len(ids) == len(set(ids)), "every action id is used once"
    assert [r.action.action_id for r in requested if r.usd > 0] == [
        a.action_id for a in world.actions if isinstance(a, ShrinkPosition | MoveBuffer)
    ]
    definite = {r.action_id: r.outcome for r in world.records if isinstance(r, ActionFinished) and r.outcome.status != "unknown"}
    money = [(r, counted(r, definite)) for r in requested if r.usd > 0]
    for runbook_id, per_run, per_day in (("economy", 7_000.0, 15_000.0), ("survival", 4_000.0, 12_000.0)):
        own = [(r, usd) for r, usd in money if r.run_id.startswith(f"{runbook_id}/")]
        for run_id in {r.run_id for r, _ in own}:
            assert math.fsum(usd for r, usd in own if r.run_id == run_id) <= per_run * (1 + 1e-6)
        for r, _ in own:
            window = [usd for other, usd in own if r.at - DAY_NS < other.at <= r.at]
            assert math.fsum(window) <= per_day * (1 + 1e-6)
    assert math.fsum(usd for r, usd in money) <= 16_000.0 * (1 + 1e-6)


def counted(request: ActionRequested, definite: dict[str, Outcome]) -> float:
    """What an intent counts once its outcome is known: nothing when nothing happened, the filled share when partial."""
    outcome = definite.get(request.action.action_id)
    if outcome is None:
        return request.usd
    if outcome.status in ("failed", "rejected"):
        return 0.0
    if outcome.filled_size is not None and isinstance(request.action, ShrinkPosition):
        return request.usd * float(outcome.filled_size / request.action.size)
    return request.usd


@GENERATED
@given(tale=STORIES)
def test_unknown_is_never_sent_again_before_it_is_known(tale):
    world = play(*tale)
    open_orders: dict[str, str] = {}
    for record in world.records:
        match record:
            case ActionRequested(action=ShrinkPosition() as order):
                position = f"{order.account}:{order.market}"
                holder = open_orders.get(position)
                assert holder is None or dead(world, holder, record.at), f"{order.action_id} was sent while {holder} was not known"
                open_orders[position] = order.action_id
            case ActionFinished(outcome=Outcome(status="done" | "failed" | "rejected")):
                open_orders = {p: a for p, a in open_orders.items() if a != record.action_id}
            case _:
                pass


def dead(world: World, action_id: str, at: int) -> bool:
    """True when an order of unknown outcome had expired long enough for the venue to refuse it."""
    order = next(a for a in world.orders if a.action_id == action_id)
    return at > order.expires_at + 30 * NS


def test_nothing_acts_while_everything_is_unknown():
    nan = float("nan")
    world = World(ECONOMY, SURVIVAL, house=HOUSE, readings=dict.fromkeys((*READINGS, *World(ECONOMY).readings), nan))
    world.until(120)
    assert world.actions == []
    assert world.records[1:] == []


def test_run_that_was_under_way_at_a_crash_ends_after_recovery():
    world = World(
        ECONOMY, readings=READINGS, house=HOUSE, answer=lambda a: None if isinstance(a, ShrinkPosition) else Outcome(status="done")
    )
    world.until(8, size=5.0, funding_rate=0.001)
    assert len(world.orders) == 1
    recovered = world.new_engine()
    recovered.load(world.books)
    for entry in world.entries:
        if not isinstance(entry.event, Woke):
            recovered.apply_entry(entry.event)
        for record in entry.records:
            recovered.apply_entry(record)
    assert recovered.unsettled() == tuple(world.orders)
    world.engine = recovered
    world.now = T0 + 60 * NS
    world.step(Gap(at=world.now, since=T0 + 8 * NS, cause="start"))
    world.settle(world.orders[0], Outcome(status="done"))
    world.answer = lambda action: Outcome(status="done")
    world.until(200)
    assert [r.status for r in world.of(RunFinished)][:1] == ["done"]
    assert len({o.action_id for o in world.orders}) == len(world.orders)
