"""Nets that are down, what is nearest to firing with its price, and what is known to come."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, T0, World, runbook

from daemon.engine.engine import Engine
from daemon.engine.hot import Hot
from daemon.engine.limits import HouseLimits
from daemon.engine.state import PauseState
from daemon.service.nets import nets_down, price_at_distance, price_at_ratio, thresholds, upcoming
from daemon.service.rounds import Rounds
from daemon.units import HOUR_NS, NS, parse_iso
from daemon.world.entities import Kind

TELL = "- id: tell\n  notify: {to: [desk], text: x}"
MARGIN: Mapping[tuple[Kind, str, str], float] = {
    (Kind.ACCOUNT, ACCOUNT, "collateral"): 5_000.0,
    (Kind.POSITION, POSITION, "entry_price"): 3_000.0,
    (Kind.MARKET, MARKET, "mmf"): 0.03,
    (Kind.MARKET, MARKET, "imf"): 0.05,
}


def rounds(world: World) -> Rounds:
    found = Rounds(world.engine, budget_ns=10**12)
    found.walk(world.now)
    return found


def down(world: World) -> list[tuple[str, str, str]]:
    return [(net.runbook, net.entity, net.why) for net in nets_down(world.engine, rounds(world), world.now)]


# --- nets ----------------------------------------------------------------------------------------------------------------


def test_nothing_is_down_while_all_is_well() -> None:
    world = World(runbook())
    world.until(5)
    assert down(world) == []


def test_halts_pauses_and_stages_are_told_with_their_ends() -> None:
    world = World(runbook(), runbook(name="ghost", stage="shadow"), runbook(name="off", stage="disabled"))
    world.until(5)
    world.engine.cold.pauses[f"spike/{POSITION}"] = PauseState(until=world.now + 60 * NS, by="operator ana", at=world.now, reason="lunch")
    world.command("halt")
    assert down(world) == [
        ("", "", "everything is halted: operator desk-lead"),
        ("spike", POSITION, "paused until 2023-11-14T22:14:25Z by operator ana: lunch"),
        ("ghost", "", "its stage is shadow: it decides and tells, nothing is sent"),
        ("off", "", "its stage is disabled: it is not judged at all"),
    ]
    assert nets_down(world.engine, rounds(world), world.now)[1].until == "2023-11-14T22:14:25.000Z"


def test_limits_that_are_used_up_are_told_with_their_amounts() -> None:
    world = World(runbook(rest="limits: {per_day: 7_500 USD, runs: 1/day}"), house=HouseLimits(house_turnover_day_usd=7_500.0))
    world.until(5, funding_rate=0.001)
    assert down(world) == [
        ("", "", "house limit of turnover a day is used up: 7,500 USD of 7,500 USD"),
        ("spike", "", "limit per_day is used up: 7,500 USD of 7,500 USD in 24h"),
        ("spike", "", "over limits.runs: 1 of 1 runs used"),
    ]


def test_inhibition_is_told_once_for_all_its_instances() -> None:
    readings = {(Kind.POSITION, "dydx:BTC-USD", "size"): 1.0, (Kind.MARKET, "dydx:BTC-USD", "funding_rate"): 0.0}
    world = World(
        runbook(rest="inhibited_by: [all]"), runbook(TELL, name="all", scope="venue", when="block_age > 20s", intent="survival"),
        readings=readings | {(Kind.VENUE, "dydx", "block_age"): 30.0},
    )  # fmt: skip
    world.until(5)
    assert down(world) == [("spike", "dydx:BTC-USD", "inhibited by all/dydx, which is firing (and 1 more)")]


def test_what_lacks_readings_or_has_an_unknown_guard_is_told() -> None:
    world = World(runbook(when="index_price > 1 price", name="blind"), runbook(rest="guards: [index_price > 1 price]"))
    world.until(5)
    assert down(world) == [
        ("blind", POSITION, "its trigger lacks index_price"),
        ("spike", POSITION, "guard index_price > 1 price is UNKNOWN, so nothing passes"),
    ]


# --- thresholds ----------------------------------------------------------------------------------------------------------


def test_the_nearest_comes_first_with_its_distance_and_what_fires_is_not_among_them() -> None:
    world = World(
        runbook(name="far"), runbook(name="near", when="abs(notional) > 31_000 USD"), runbook(TELL, name="fires", when="size > 1 base"),
        runbook(name="unknown", when="index_price > 1 price"), readings={(Kind.MARKET, MARKET, "funding_rate"): 0.0001},
    )  # fmt: skip
    world.until(5)
    found = thresholds(world.engine, rounds(world), world.now)
    assert [(t.runbook, t.text, t.now, t.bound, t.distance, t.price) for t in found] == [
        ("near", "abs(notional) > 31_000 USD", "30,000 USD", "31,000 USD", "1,000 USD below", ""),
        ("far", "funding_rate > 0.05%/h", "0.01%/h", "0.05%/h", "0.04%/h below", ""),
    ]
    assert found[0].nearness == pytest.approx(1_000 / 31_000)


def test_a_margin_ratio_and_a_liquidation_distance_tell_the_price_at_which_they_turn() -> None:
    world = World(
        runbook(TELL, name="ratio", scope="account", when="margin_ratio_worst > 60%"),
        runbook(TELL, name="distance", when="liquidation_distance < 5%"), runbook(TELL, name="price", when="oracle_price < 2_900 price"),
        readings=MARGIN,
    )  # fmt: skip
    world.until(5)
    prices = {t.runbook: t.price for t in thresholds(world.engine, rounds(world), world.now)}
    # 10 x 3 % x p = 60 % x (5,000 + 10 (p - 3,000)); liquidation where 0.3 p = 10 p - 25,000, and 5 % above that.
    ratio = 0.6 * 25_000.0 / (0.6 * 10.0 - 0.3)
    distance = 25_000.0 / 9.7 / 0.95
    assert prices == {
        "price": f"{MARKET} at 2,900 price",
        "ratio": f"{MARKET} at {ratio:,.0f} price",
        "distance": f"{MARKET} at {distance:,.0f} price",
    }


@pytest.mark.parametrize("size", [10.0, -10.0])
def test_at_the_price_that_is_told_the_signal_is_at_its_bound(size: float) -> None:
    collateral = 5_000.0
    made = {**MARGIN, (Kind.POSITION, POSITION, "size"): size, (Kind.ACCOUNT, ACCOUNT, "collateral"): collateral}
    world = World(runbook(TELL), readings=made)
    world.until(5)
    turn = world.engine.look(world.now)
    for signal, bound in (("margin_ratio", 0.6), ("liquidation_distance", 0.05)):
        price = price_at_ratio(turn, ACCOUNT, POSITION, bound) if signal == "margin_ratio" else price_at_distance(turn, POSITION, bound)
        kind, entity = (Kind.ACCOUNT, ACCOUNT) if signal == "margin_ratio" else (Kind.POSITION, POSITION)
        moved = World(runbook(TELL), readings={**made, (Kind.MARKET, MARKET, "oracle_price"): price})
        moved.until(5)
        assert moved.engine.hot.peek(kind, entity, signal, moved.now).value == pytest.approx(bound, rel=1e-9), signal


def test_rounds_keep_to_their_budget_and_see_everything_in_the_end() -> None:
    readings = {}
    for i in range(40):
        readings |= {(Kind.POSITION, f"dydx:T{i}-USD", "size"): 1.0, (Kind.MARKET, f"dydx:T{i}-USD", "funding_rate"): 1e-5 * i}
    world = World(runbook(TELL), readings=readings)
    world.until(5)
    ticks = itertools.count(0, 1_000)
    seen = Rounds(world.engine, budget_ns=5_000, tick=lambda: next(ticks))
    seen.walk(world.now)
    assert len(seen.seen) == 5  # a tick an instance
    for _ in range(10):
        seen.walk(world.now)
    assert len(seen.seen) == 41
    assert seen.rounds == 1
    # What is within 5 % of firing is looked at in every walk, whoever's turn it is.
    world.readings[Kind.MARKET, "dydx:T39-USD", "funding_rate"] = 0.00049
    world.until(10)
    for _ in range(30):
        seen.walk(world.now)
    seen.walk(world.now + 1)
    assert seen.seen["spike", "dydx:T39-USD"].at == world.now + 1


def test_rounds_forget_what_is_gone_and_remember_what_was_judged() -> None:
    world = World(runbook(TELL, when="index_price > 1 price", name="never"), runbook(TELL))
    world.until(5)
    seen = rounds(world)
    assert seen.never() == [(("never", POSITION), ("index_price",))]
    assert seen.lost() == []
    later = world.now + 3 * HOUR_NS
    seen.walk(later)
    assert (("spike", POSITION), ("funding_rate",)) in seen.lost()
    world.readings[Kind.POSITION, POSITION, "size"] = 0.0
    world.until(10)
    seen.walk(world.now)
    assert seen.seen == {}
    assert seen.lacking == {}


class CountingHot(Hot):
    """A hot side that counts the evaluations of triggers."""

    evaluations = 0

    def trace(self, *arguments: Any, **more: Any) -> dict[str, object]:
        self.evaluations += 1
        return super().trace(*arguments, **more)


def test_a_brief_status_evaluates_nothing_and_says_the_same_of_what_there_is_to_say_of() -> None:
    readings = {}
    for i in range(30):
        readings |= {(Kind.POSITION, f"dydx:T{i}-USD", "size"): 1.0, (Kind.MARKET, f"dydx:T{i}-USD", "funding_rate"): 1e-5}
    readings |= {(Kind.POSITION, "dydx:BLIND-USD", "size"): 1.0}  # and no funding rate

    class Counted(World):
        def new_engine(self) -> Engine:
            return Engine(topology=self.topology, house=self.house, build="test", hot=CountingHot(self.topology))

    world = Counted(runbook(), readings=readings)
    world.until(10, funding_rate=0.001)
    lacking = rounds(world).lacking
    assert lacking == {("spike", "dydx:BLIND-USD"): ("funding_rate",)}
    hot = world.engine.hot
    assert isinstance(hot, CountingHot)
    before = hot.evaluations
    brief = world.engine.snapshot(lacking)
    assert hot.evaluations == before
    assert [(i.entity, i.state, i.unknown) for i in brief.instances] == [
        ("dydx:BLIND-USD", "inactive", ("funding_rate",)),
        (POSITION, "firing", ()),
    ]
    whole = world.engine.snapshot()
    assert hot.evaluations == before + 32
    assert [i for i in whole.instances if i.entity in ("dydx:BLIND-USD", POSITION)] == list(brief.instances)


# --- upcoming ------------------------------------------------------------------------------------------------------------


def test_funding_is_estimated_by_the_rate_that_is_expected() -> None:
    readings = dict(MARGIN) | {(Kind.MARKET, MARKET, "predicted_funding_rate"): 0.0001}
    world = World(runbook(TELL), readings=readings)
    world.until(5, funding_rate=0.0002)
    first = upcoming(world.engine, rounds(world), world.now)[0]
    # 10 x 3,000 x 0.01 %/h for one hour, at the next full hour.
    assert (first.at, first.text) == ("2023-11-14T23:00:00.000Z", "funding of dydx: about 3 USD to pay on 1 position")
    assert (parse_iso(first.at) - T0) % NS == 0
    closed = {(Kind.POSITION, "dydx:OLD-USD", "size"): 0.0}
    world.readings |= closed  # it was read once, and nobody reads it any more
    world.until(8)
    del world.readings[Kind.POSITION, "dydx:OLD-USD", "size"]
    world.until(200, size=-10.0)
    assert upcoming(world.engine, rounds(world), world.now)[0].text == "funding of dydx: about 3 USD to receive on 1 position"


def test_deadlines_pauses_cooldowns_holds_votes_reviews_and_timers_come_in_order() -> None:
    waiting = runbook("- id: s\n  shrink_position: {by: 10%}\n  approval: {from: [ana], timeout: 2m}", name="asks")
    cools = runbook("- id: s\n  shrink_position: {by: 1%}", name="cools", rest="cooldown: 10m\nrepeat: {every: 1m, max: 3}")
    holds = runbook(TELL, name="holds", hold="5m", rest="review: {every: quarter, last: 2023-01-01}")
    votes = {
        (Kind.VENUE, "dydx", "proposal_open"): 1.0,
        (Kind.VENUE, "dydx", "proposal_touches_risk"): 1.0,
        (Kind.VENUE, "dydx", "proposal_ends_in"): 1_000.0,
    }
    world = World(waiting, cools, holds, readings=votes)
    world.until(10, funding_rate=0.001)
    world.engine.cold.pauses[""] = PauseState(until=world.now + 30 * NS, by="operator ana", at=world.now, reason="")
    found = upcoming(world.engine, rounds(world), world.now, {"review": world.now + HOUR_NS // 2})
    assert [(view.at[11:19], view.text.partition(" (")[0]) for view in found] == [
        ("00:00:00", "the review of holds is overdue"),
        ("22:14:00", "the pause of everything ends"),
        ("22:15:20", "approval of s of asks on dydx:ETH-USD ends"),
        ("22:18:20", "holds on dydx:ETH-USD fires if it stays so"),
        ("22:23:20", "the cooldown of cools/dydx:ETH-USD ends, and it fires"),
        ("22:30:10", "a vote at dydx ends, which changes margin or markets"),
        ("22:43:30", "timer review"),
        ("23:00:00", "funding of dydx: about 29.7 USD to pay on 1 position"),
    ]
