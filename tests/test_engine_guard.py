"""Who may act: guards, guard_wait, locks, priority, inhibition, survival's precedence, limits of runs and money."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from engine_world import ACCOUNT, DONE, MARKET, POSITION, T0, TOPOLOGY, World, runbook

from daemon.engine.actions import Halt, MoveBuffer, Notify, Outcome, ShrinkPosition
from daemon.engine.events import Observed, Row
from daemon.engine.limits import HouseLimits
from daemon.engine.records import ActionDenied, LimitClipped, LocksReleased, LocksTaken, RunFinished, RunRefused, RunStarted, StepWaiting
from daemon.units import NS
from daemon.world.entities import Kind

SPIKE = {"funding_rate": 0.001}
ORACLE = (Kind.MARKET, MARKET, "oracle_price")
NAN = float("nan")
SLICED = "- id: s\n  shrink_position: {by: 20%, slices: 4, every: 10s}"


def test_guards_are_checked_before_every_slice_and_a_run_ends_skipped_when_they_do_not_hold():
    world = World(runbook(SLICED, rest="guards: [oracle_divergence < 50bps]\n"))
    world.until(15, **SPIKE)
    assert len(world.orders) == 2
    world.until(60, oracle_price=3030.0)
    assert len(world.orders) == 2
    assert world.status() == "skipped"
    assert world.reason() == "guard oracle_divergence < 50bps is FALSE"


def test_unknown_guard_denies():
    world = World(runbook(rest="guards: [oracle_divergence < 50bps]\n"), readings={(Kind.MARKET, MARKET, "bid_price"): NAN})
    world.until(10, **SPIKE)
    assert world.orders == []
    assert world.reason().endswith("is UNKNOWN")


def test_guard_wait_sees_rows_and_acts_when_the_guard_holds_again():
    world = World(runbook(rest="guards: [oracle_divergence < 50bps]\nguard_wait: 2m\n"), readings={ORACLE: 3030.0})
    world.until(60, **SPIKE)
    assert world.orders == []
    world.until(65, oracle_price=3000.0)
    assert len(world.orders) == 1


def test_guard_wait_ends_the_run_at_its_deadline():
    world = World(runbook(rest="guards: [oracle_divergence < 50bps]\nguard_wait: 42s\n"), readings={ORACLE: 3030.0})
    world.until(120, **SPIKE)
    assert world.of(RunFinished)[0].at == T0 + 42 * NS
    assert world.status() == "skipped"


def test_guard_wait_counts_from_the_first_failing_guard_whatever_the_run_waits_for_in_between():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="bid_size < 10 base")
    rest = "inhibited_by: [divergence]\nguards: [oracle_divergence < 50bps]\nguard_wait: 60s\n"
    world = World(divergence, runbook(rest=rest), readings={ORACLE: 3030.0})
    world.until(19, **SPIKE)
    world.until(29, bid_size=5.0)
    world.until(49, bid_size=50.0)
    assert [r.waiting for r in world.of(StepWaiting)] == ["guards", "inhibited", "guards"]
    world.until(120)
    assert [(r.runbook, (r.at - T0) // NS) for r in world.of(RunStarted) if r.runbook == "spike"] == [("spike", 0)]
    assert [(r.at - T0) // NS for r in world.of(RunFinished) if r.run_id.startswith("spike/")] == [60]


def test_halt_and_notify_are_not_gated_by_guards():
    steps = "- id: h\n  halt: {scope: market}\n- id: t\n  notify: {to: [desk], text: x}\n- id: s\n  shrink_position: {by: 10%}"
    world = World(runbook(steps, rest="guards: [oracle_divergence < 50bps]\n"), readings={ORACLE: 3030.0})
    world.until(10, **SPIKE)
    assert [type(a) for a in world.actions] == [Halt, Notify]
    assert world.status() == "skipped"


def test_guards_are_checked_again_before_each_retry():
    outcomes = [Outcome(status="failed", reason="no_fill"), DONE]
    steps = "- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 2, backoff: 5s}"
    world = World(runbook(steps, rest="guards: [oracle_divergence < 50bps]\n"), answer=lambda a: outcomes.pop(0))
    world.until(1, every=1, **SPIKE)
    world.until(20, every=1, oracle_price=3030.0)
    assert len(world.orders) == 1
    assert world.status() == "skipped"


# --- locks ------------------------------------------------------------------------------------------------------------


def locked(name: str, priority: int, by: str, steps: str = "", **more: str) -> str:
    rest = f"locks: [position]\npriority: {priority}\n" + more.pop("rest", "")
    return runbook(steps or f"- id: s\n  shrink_position: {{by: {by}, slices: 2, every: 20s}}", name=name, rest=rest, **more)


def test_two_runs_never_hold_one_lock_and_priority_orders_who_waits():
    world = World(locked("aa", 10, "10%"), locked("bb", 90, "20%"), locked("cc", 50, "30%"))
    world.until(200, **SPIKE)
    assert [o.runbook for o in world.orders] == ["bb", "bb", "cc", "cc", "aa", "aa"]
    assert [r.run_id.split("/")[0] for r in world.of(LocksTaken)] == ["bb", "cc", "aa"]


def test_wanted_run_behind_a_lock_is_skipped_with_the_reason_when_its_episode_ends():
    world = World(locked("aa", 90, "10%"), locked("bb", 10, "20%"))
    world.until(5, **SPIKE)
    world.until(40, funding_rate=0.0)
    refused = world.of(RunRefused)
    assert [r.runbook for r in refused] == ["bb"]
    assert "holds a lock" in refused[0].reason


def test_survival_takes_the_lock_at_the_economy_runs_next_step_boundary():
    steps = SLICED + "\n- id: second\n  shrink_position: {by: 10%}"
    economy = runbook(steps, name="economy", rest="locks: [position]\n")
    survival = runbook(
        "- id: s\n  shrink_position: {by: 10%}",
        name="zz-survival",
        intent="survival",
        when="funding_rate > 0.5%/h",
        rest="locks: [position]\n",
    )
    world = World(economy, survival)
    world.until(5, **SPIKE)
    world.until(200, funding_rate=0.01)
    assert [o.runbook for o in world.orders] == ["economy"] * 4 + ["zz-survival", "economy"]
    assert [r.run_id.split("/")[0] for r in world.of(LocksReleased)] == ["economy"]


def test_survival_does_not_wait_for_an_economy_run_that_waits_for_its_guards():
    economy = runbook(
        "- id: h\n  halt: {scope: position}\n- id: s\n  shrink_position: {by: 10%}",
        name="economy",
        rest="locks: [position]\nguards: [oracle_divergence < 50bps]\nguard_wait: 10m\n",
    )
    survival = runbook(name="zz-survival", intent="survival", when="funding_rate > 0.5%/h", rest="locks: [position]\n")
    world = World(economy, survival)
    world.until(60, **(SPIKE | {"oracle_price": 3100.0}))
    world.until(80, funding_rate=0.01)
    assert [o.runbook for o in world.orders] == ["zz-survival"]
    assert [(r.at - T0) // NS for r in world.of(LocksReleased)] == [60]
    world.until(200, oracle_price=3000.0)
    assert [o.runbook for o in world.orders] == ["zz-survival", "economy"]


SURVIVAL = runbook(
    "- id: cut\n  shrink_position: {by: 10%}",
    name="zz-survival",
    intent="survival",
    when="bid_size < 10 base",
    rest="locks: [position]\n",
)
IN_DANGER = {"bid_size": 5.0}


def economy(steps: str, rest: str = "") -> str:
    """An economy runbook that shares its lock with `SURVIVAL`."""
    return runbook(steps, name="economy", rest="locks: [position]\n" + rest)


def released(world: World) -> list[tuple[str, int]]:
    """Who gave locks back, and when (s)."""
    return [(r.run_id.split("/")[0], (r.at - T0) // NS) for r in world.of(LocksReleased)]


def test_survival_does_not_wait_for_an_economy_run_in_a_wait_step():
    steps = "- id: h\n  halt: {scope: position}\n- id: w\n  wait: {that: oracle_price > 5_000 price, within: 1h}"
    world = World(economy(steps), SURVIVAL)
    world.until(15, **SPIKE)
    world.until(30, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["zz-survival"]
    assert released(world) == [("economy", 15)]


def test_survival_does_not_wait_for_an_economy_run_that_verifies():
    steps = "- id: s\n  shrink_position: {by: 10%}\n  verify: {that: oracle_price > 5_000 price, within: 1h}"
    world = World(economy(steps), SURVIVAL)
    world.until(15, **SPIKE)
    world.until(30, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival"]
    assert released(world) == [("economy", 15)]


def test_survival_does_not_wait_for_the_backoff_of_an_economy_run():
    outcomes = [Outcome(status="failed", reason="no_fill"), DONE, DONE]
    steps = "- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 2, backoff: 10m}"
    world = World(economy(steps), SURVIVAL, answer=lambda a: outcomes.pop(0))
    world.until(15, **SPIKE)
    world.until(30, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival"]
    assert released(world) == [("economy", 15)]


def test_survival_does_not_wait_for_an_economy_run_that_is_inhibited_between_slices():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="oracle_divergence > 50bps")
    world = World(divergence, economy(SLICED, "inhibited_by: [divergence]\n"), SURVIVAL)
    world.until(5, **SPIKE)
    world.until(30, oracle_price=3030.0)
    world.until(60, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival"]
    world.until(120, oracle_price=3000.0)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival", "economy", "economy", "economy"]


def test_survival_does_not_wait_for_the_next_slice_of_an_economy_run_that_could_not_send_it():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="oracle_divergence > 50bps")
    steps = "- id: s\n  shrink_position: {by: 20%, slices: 2, every: 30m}"
    world = World(divergence, economy(steps, "inhibited_by: [divergence]\n"), SURVIVAL)
    world.until(5, **SPIKE)
    world.until(60, oracle_price=3030.0, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival"]


def test_survival_does_not_wait_for_an_economy_run_that_a_person_paused():
    world = World(economy(SLICED), SURVIVAL)
    world.until(5, **SPIKE)
    world.command("pause", "economy")
    world.until(30)
    world.until(60, **IN_DANGER)
    assert [o.runbook for o in world.orders] == ["economy", "zz-survival"]


def test_survival_goes_first_once_a_halt_of_everything_is_lifted():
    world = World(economy(SLICED), SURVIVAL)
    world.until(5, **SPIKE)
    world.command("halt")
    world.until(60, **IN_DANGER)
    world.command("resume")
    assert [o.runbook for o in world.orders][:2] == ["economy", "zz-survival"]


def test_shipped_funding_spike_gives_its_lock_to_the_shipped_oracle_divergence_that_inhibits_it():
    shipped = Path(__file__).parent.parent / "runbooks"
    texts = [(shipped / f"{name}.yaml").read_text() for name in ("funding-spike", "oracle-divergence", "margin-low")]
    readings = {
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 30_000.0,
        (Kind.ACCOUNT, ACCOUNT, "open_orders"): 0.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "imf"): 0.05,
        (Kind.MARKET, MARKET, "mmf"): 0.03,
        (Kind.VENUE, "dydx", "block_age"): 1.0,
        (Kind.VENUE, "dydx", "venue_up"): 1.0,
        (Kind.VENUE, "dydx", "taker_fee"): 0.0005,
    }
    world = World(*texts, readings=readings)
    past = tuple(
        Row(kind=Kind.MARKET, entity=MARKET, values={"funding_rate": 1e-5 * (1 + i % 3)}, event_ts=T0 - (200 - i) * 3600 * NS)
        for i in range(200)
    )
    world.step(Observed(at=T0 - 1, source="past", rows=past, history=True))
    del world.readings[Kind.MARKET, MARKET, "funding_rate"]
    world.until(700)
    spike = Row(kind=Kind.MARKET, entity=MARKET, values={"funding_rate": 0.0012}, event_ts=world.now)
    world.step(Observed(at=world.now, source="feed", rows=(spike,)))
    world.until(872)
    world.until(960, oracle_price=3200.0)
    started = {r.runbook for r in world.of(RunStarted)}
    assert {"funding-spike", "oracle-divergence"} <= started
    assert world.status("oracle-divergence") == "done"
    assert [name for name, _ in released(world)] == ["funding-spike"]


def test_lock_that_is_released_goes_to_the_waiting_run_of_highest_priority():
    def waiting_for(price: int) -> str:
        return f"""\
- id: w
  wait: {{that: oracle_price > {price} price, within: 10m}}
- id: c
  cancel_orders: {{scope: position}}
- id: w2
  wait: {{that: oracle_price > 3_300 price, within: 10m}}
"""

    world = World(
        locked("aa", 50, "", waiting_for(3100)), locked("bb", 90, "", waiting_for(3200)), locked("cc", 10, "", waiting_for(3200))
    )
    world.until(15, **SPIKE)
    world.until(20, oracle_price=3150.0)
    world.until(25, oracle_price=3250.0)
    world.until(40, oracle_price=3350.0)
    assert [r.run_id.split("/")[0] for r in world.of(LocksTaken)] == ["aa", "bb", "cc"]


def test_locks_are_not_kept_over_an_approval():
    steps = """\
- id: first
  shrink_position: {by: 10%}
- id: second
  shrink_position: {by: 10%}
  approval: {from: [desk-lead], timeout: 100s, otherwise: skip}
"""
    world = World(runbook(steps, name="aa", rest="locks: [position]\n"), locked("bb", 10, "20%"))
    world.until(60, **SPIKE)
    assert [r.reason for r in world.of(LocksReleased)] == ["waiting for approval"]
    assert [o.runbook for o in world.orders] == ["aa", "bb", "bb"]


# --- inhibition and survival ------------------------------------------------------------------------------------------


def test_inhibited_runbook_waits_and_its_notices_still_go_out():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="oracle_divergence > 50bps")
    rest = "inhibited_by: [divergence]\nnotify: {to: [desk], events: [fired]}\n"
    world = World(divergence, runbook(rest=rest), readings={ORACLE: 3030.0})
    world.until(30, **SPIKE)
    assert world.orders == []
    assert [n.event for n in world.sent(Notify) if n.runbook == "spike"] == ["fired"]
    world.until(40, oracle_price=3000.0)
    assert len(world.orders) == 1


def test_inhibition_holds_a_run_between_its_writes():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="oracle_divergence > 50bps")
    world = World(divergence, runbook(SLICED, rest="inhibited_by: [divergence]\n"))
    world.until(5, **SPIKE)
    world.until(60, oracle_price=3030.0)
    assert len(world.orders) == 1
    assert world.of(StepWaiting)[-1].waiting == "inhibited"
    world.until(120, oracle_price=3000.0)
    assert len(world.orders) == 4


def test_inhibition_of_another_market_does_not_count():
    divergence = runbook("- id: t\n  notify: {to: [desk], text: x}", name="divergence", scope="market", when="oracle_divergence > 50bps")
    btc = "dydx:BTC-USD"
    other = {
        (Kind.MARKET, btc, n): v for n, v in (("oracle_price", 101.0), ("bid_price", 99.9), ("ask_price", 100.1), ("funding_rate", 0.0))
    }
    world = World(divergence, runbook(rest="inhibited_by: [divergence]\n"), readings=other)
    world.until(10, **SPIKE)
    assert len(world.orders) == 1


def test_survival_is_not_inhibited_by_an_economy_runbook():
    economy = runbook("- id: h\n  halt: {scope: market}", name="econ", scope="market", when="funding_rate > 0.01%/h")
    survival = runbook(name="spike", intent="survival", rest="inhibited_by: [econ]\n")
    world = World(economy, survival)
    world.until(10, **SPIKE)
    assert len(world.orders) == 1


def test_outgoing_move_of_an_account_is_denied_while_survival_fires_on_it():
    readings = {
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 50_000.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "imf"): 0.05,
        (Kind.MARKET, MARKET, "mmf"): 0.03,
    }
    sweep = runbook(
        "- id: m\n  move_buffer: {from: dydx, to: ethereum, amount: 1_000 USD}", name="sweep", scope="account", when="equity > 1 USD"
    )
    survival = runbook("- id: t\n  halt: {scope: account}", name="danger", scope="account", intent="survival", when="equity > 2 USD")
    world = World(survival, sweep, readings=readings)
    world.until(10)
    assert world.sent(MoveBuffer) == []
    assert "danger/dydx fires" in world.of(ActionDenied)[0].reason
    assert world.status("sweep", "dydx") == "blocked"


@pytest.mark.parametrize(
    ("scope", "step"), [("market", "halt: {scope: market}"), ("venue", "halt: {scope: venue}"), ("position", "halt: {scope: position}")]
)
def test_survival_that_fires_on_a_market_or_venue_protects_the_accounts_with_positions_there(scope, step):
    readings = {
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 50_000.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "imf"): 0.05,
        (Kind.MARKET, MARKET, "mmf"): 0.03,
        (Kind.VENUE, "dydx", "block_age"): 1.0,
    }
    sweep = runbook(
        "- id: m\n  move_buffer: {from: dydx, to: ethereum, amount: 1_000 USD}", name="sweep", scope="account", when="equity > 1 USD"
    )
    when = "block_age > 0.5s" if scope == "venue" else "oracle_price > 2_000 price"
    survival = runbook(f"- id: t\n  {step}", name="danger", scope=scope, intent="survival", when=when)
    world = World(survival, sweep, readings=readings)
    world.until(10)
    assert world.sent(MoveBuffer) == []
    assert "fires: nothing may leave dydx" in world.reason("sweep", "dydx")


def test_survival_that_fires_on_a_market_without_a_position_of_the_account_does_not_hold_its_money():
    btc = "dydx:BTC-USD"
    routes = {**TOPOLOGY.routes, "out": replace(TOPOLOGY.routes["cctp"], name="out", source="dydx", destination="ethereum")}
    readings = {
        (Kind.ACCOUNT, ACCOUNT, "collateral"): 50_000.0,
        (Kind.POSITION, POSITION, "entry_price"): 3000.0,
        (Kind.MARKET, MARKET, "imf"): 0.05,
        (Kind.MARKET, MARKET, "mmf"): 0.03,
        (Kind.MARKET, btc, "oracle_price"): 60_000.0,
        (Kind.CHAIN, "ethereum", "buffer_balance"): 0.0,
    }
    sweep = runbook(
        "- id: m\n  move_buffer: {from: dydx, to: ethereum, amount: 1_000 USD}", name="sweep", scope="account", when="equity > 1 USD"
    )
    survival = runbook(
        "- id: t\n  halt: {scope: market}", name="danger", scope="market", intent="survival", when="oracle_price > 50_000 price"
    )
    world = World(survival, sweep, readings=readings, topology=replace(TOPOLOGY, routes=routes))
    world.effect = lambda action, outcome, at: []
    world.until(10)
    assert len(world.sent(MoveBuffer)) == 1


# --- limits -----------------------------------------------------------------------------------------------------------


def test_economy_over_a_limit_is_blocked_and_nothing_is_clipped():
    world = World(
        runbook("- id: s\n  shrink_position: {by: 50%}", rest="limits: {per_run: 10_000 USD}\nnotify: {to: [d], events: [blocked]}\n")
    )
    world.until(10, **SPIKE)
    assert world.orders == []
    assert world.status() == "blocked"
    assert world.of(ActionDenied)[0].limit == "per_run"
    assert [n.event for n in world.sent(Notify)] == ["blocked"]


def test_survival_over_a_limit_is_clipped_to_it_and_paged():
    text = runbook("- id: s\n  shrink_position: {by: 50%}", intent="survival", rest="limits: {per_run: 10_000 USD}\n")
    world = World(text, readings={(Kind.MARKET, MARKET, "step_size"): 0.01})
    world.until(10, **SPIKE)
    assert [str(o.size) for o in world.orders] == ["3.33"]
    assert world.of(LimitClipped)[0].limit == "per_run"
    assert len(world.pages()) == 1


def test_per_episode_share_bounds_all_runs_of_an_episode():
    rest = "limits: {per_episode: 25%}\nrepeat: {every: 30s, max: 5}\n"
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}", rest=rest))
    world.until(200, **SPIKE)
    assert len(world.orders) == 2
    assert world.of(ActionDenied)[0].limit == "per_episode"


def test_day_limit_rolls_and_failed_actions_give_back():
    rest = "limits: {per_day: 4_000 USD}\nrepeat: {every: 10h, max: 9}\non_failure: {then: stay_armed}\n"
    outcomes = [Outcome(status="failed", reason="x"), DONE, DONE, DONE, DONE]
    world = World(
        runbook("- id: s\n  shrink_position: {by: 10%}", rest=rest + "max_age: {funding_rate: 100h}\n"), answer=lambda a: outcomes.pop(0)
    )
    world.until(80 * 3600, every=1800, **SPIKE)
    hours = [(r.at - T0) // NS // 3600 for r in world.records if type(r).__name__ == "ActionRequested"]
    # 0 h failed and gave back; 10 h counts until 34 h; 20 h and 30 h are blocked; 40 h is free again.
    assert hours == [0, 10, 40, 70]


def test_number_of_runs_is_bounded_a_day():
    rest = "limits: {runs: 2/day}\nrepeat: {every: 30s, max: 9}\n"
    world = World(runbook("- id: s\n  shrink_position: {by: 1%}", rest=rest))
    world.until(100, **SPIKE)
    assert len(world.of(RunStarted)) == 2
    assert {r.status for r in world.of(RunRefused)} == {"blocked"}


@pytest.mark.parametrize(
    "house",
    [HouseLimits(account_turnover_hour_usd=5_000), HouseLimits(house_turnover_day_usd=5_000)],
)
def test_house_limits_bound_all_runbooks_together(house):
    step = "- id: s\n  shrink_position: {by: 10%}"
    world = World(runbook(step, name="aa"), runbook(step, name="bb"), house=house)
    world.until(10, **SPIKE)
    assert [o.runbook for o in world.orders] == ["aa"]
    assert world.status("bb") == "blocked"
    assert "house limit" in world.reason("bb")


def test_house_bounds_runs_a_day():
    step = "- id: s\n  shrink_position: {by: 10%}"
    world = World(runbook(step, name="aa"), runbook(step, name="bb"), house=HouseLimits(runs_day=1))
    world.until(10, **SPIKE)
    assert len(world.of(RunStarted)) == 1
    assert all(isinstance(a, ShrinkPosition | Notify) for a in world.actions)
