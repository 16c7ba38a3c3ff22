"""Runs: slices, verify, retry, unknown outcomes, approvals, lifecycle, notices; through the real hot side in virtual time."""

from __future__ import annotations

from decimal import Decimal

import pytest
from engine_world import DONE, MARKET, POSITION, T0, World, load, runbook

from daemon.engine.actions import CallWebhook, CancelOrders, Halt, Notify, Outcome, Resume, ShrinkPosition
from daemon.engine.events import Gap, Observed, Row, RunbooksLoaded
from daemon.engine.observe import held_back
from daemon.engine.records import (
    ActionDenied,
    ActionWould,
    ApprovalRequested,
    CommandTaken,
    ResourceSeen,
    RunFinished,
    RunRefused,
    RunStarted,
    SizeChanged,
    StepFinished,
    TriggerChanged,
)
from daemon.units import NS
from daemon.world.entities import Kind

SPIKE = {"funding_rate": 0.001}
SLICED = "- id: shrink\n  shrink_position: {by: 20%, slices: 4, every: 10s}\n  timeout: 20s"


def test_run_shrinks_by_share_of_the_episodes_start_in_slices_spaced_by_every():
    world = World(runbook(SLICED))
    world.until(60, **SPIKE)
    assert [order.size for order in world.orders] == [Decimal("0.5")] * 4
    starts = [r.at for r in world.records if type(r).__name__ == "ActionRequested"]
    assert [(at - T0) // NS for at in starts] == [0, 10, 20, 30]
    assert world.status() == "done"
    assert world.size == 8.0


def test_repeats_do_not_compound_and_stop_after_max_further_runs():
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}", rest="repeat: {every: 60s, max: 3}\n"))
    world.until(600, **SPIKE)
    assert [float(order.size) for order in world.orders] == [1.0] * 4
    assert [(r.at - T0) // NS for r in world.of(RunStarted)] == [0, 60, 120, 180]


def test_a_repeat_waits_while_the_trigger_is_clearing_and_starts_when_it_fires_again():
    text = runbook("- id: s\n  shrink_position: {by: 10%}", rest="repeat: {every: 60s, max: 3}\n")
    world = World(text.replace("  for: 0s\n", "  for: 0s\n  until: funding_rate < 0.02%/h\n  until_for: 10m\n"))
    world.until(30, **SPIKE)
    world.until(120, funding_rate=0.0)
    assert [(r.at - T0) // NS for r in world.of(RunStarted)] == [0]
    world.until(200, **SPIKE)
    assert [(r.at - T0) // NS for r in world.of(RunStarted)] == [0, 120, 180]


def test_cooldown_counts_from_the_end_of_a_run_and_a_wanted_run_waits_for_it():
    rest = "cooldown: 100s\nrepeat: {every: 10s, max: 1}\n"
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}", rest=rest))
    world.until(300, **SPIKE)
    assert [(r.at - T0) // NS for r in world.of(RunStarted)] == [0, 100]


def test_a_run_that_waits_for_its_cooldown_asks_for_no_rows_and_one_whose_trigger_clears_does():
    told = "- id: s\n  notify: {to: [desk], text: told}"
    waiting = World(runbook(told, rest="cooldown: 10m\nrepeat: {every: 10s, max: 5}\n"))
    waiting.until(60, **SPIKE)
    assert not held_back(waiting.engine._turn(waiting.engine._now))
    text = runbook(told, rest="repeat: {every: 10s, max: 5}\n")
    clearing = World(text.replace("  for: 0s\n", "  for: 0s\n  until: funding_rate < 0.02%/h\n  until_for: 10m\n"))
    clearing.until(5, **SPIKE)
    clearing.until(60, funding_rate=0.0)
    assert held_back(clearing.engine._turn(clearing.engine._now))


def test_wanted_run_is_recorded_as_skipped_with_the_reason_when_its_episode_ends_first():
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}", rest="cooldown: 10m\n"))
    world.until(10, **SPIKE)
    world.until(20, funding_rate=0.0)
    world.until(30, **SPIKE)
    world.until(40, funding_rate=0.0)
    assert len(world.orders) == 1
    refused = world.of(RunRefused)
    assert len(refused) == 1
    assert refused[0].status == "skipped"
    assert "in cooldown until" in refused[0].reason


def test_short_position_is_bought_back_and_never_flipped():
    world = World(runbook("- id: s\n  shrink_position: {to: 0}"), readings={(Kind.POSITION, POSITION, "size"): -3.0})
    world.until(5, **SPIKE)
    assert [(o.side, o.size) for o in world.orders] == [("BUY", Decimal("3.0"))]
    assert world.size == 0.0


def test_limit_price_is_never_worse_than_max_slippage_from_mid():
    world = World(runbook("- id: s\n  shrink_position: {by: 50%, max_slippage: 15bps}"), readings={(Kind.MARKET, MARKET, "tick_size"): 1.0})
    world.until(5, **SPIKE)
    assert world.orders[0].limit_price == Decimal("2996.0")  # 3000 x (1 - 0.0015) = 2995.5, up to the tick
    assert world.orders[0].expires_at == T0 + 20 * NS


def test_order_without_max_slippage_is_bounded_at_50_bps():
    world = World(runbook())
    world.until(5, **SPIKE)
    assert world.orders[0].limit_price == Decimal("2985")


def test_size_rounds_down_to_the_step_and_below_the_minimum_nothing_is_done():
    steps = "- id: s\n  shrink_position: {by: 25%}"
    readings = {(Kind.POSITION, POSITION, "size"): 1.03, (Kind.MARKET, MARKET, "step_size"): 0.1, (Kind.MARKET, MARKET, "min_size"): 0.1}
    world = World(runbook(steps), readings=readings)
    world.until(5, **SPIKE)
    assert [o.size for o in world.orders] == [Decimal("0.2")]
    tiny = World(runbook(steps), readings=readings | {(Kind.POSITION, POSITION, "size"): 0.3})
    tiny.until(5, **SPIKE)
    assert tiny.orders == []
    assert tiny.of(StepFinished)[0].reason == "nothing to do"
    assert tiny.status() == "skipped"


def test_share_of_depth_caps_each_slice():
    readings = {(Kind.MARKET, MARKET, "bid_size"): 2.0}
    world = World(runbook("- id: s\n  shrink_position: {by: 50%, max_share_of_depth: 25%, slices: 2}"), readings=readings)
    world.until(30, **SPIKE)
    assert all(float(o.notional_usd) <= 0.25 * 2.0 * 2999.5 + 1e-9 for o in world.orders)
    assert len(world.orders) == 2


def test_unknown_depth_blocks_when_a_share_of_depth_is_asked_for():
    readings = {(Kind.MARKET, MARKET, "bid_size"): float("nan")}
    world = World(runbook("- id: s\n  shrink_position: {by: 50%, max_share_of_depth: 25%}"), readings=readings)
    world.until(10, **SPIKE)
    assert world.orders == []
    assert world.status() == "blocked"
    assert "depth is unknown" in world.reason()


def test_stop_when_ends_the_step_between_slices():
    steps = "- id: s\n  shrink_position: {by: 40%, slices: 4, every: 10s, stop_when: abs(size) < 9.5 base}"
    world = World(runbook(steps))
    world.until(60, **SPIKE)
    assert len(world.orders) == 1
    assert world.status() == "done"


def test_retry_sends_again_only_after_failed_with_doubling_backoff_and_new_ids():
    answers = [Outcome(status="failed", reason="no_fill"), Outcome(status="failed", reason="no_fill"), DONE]
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 3, backoff: 2s}"), answer=lambda a: answers.pop(0))
    world.until(30, every=1, **SPIKE)
    assert [o.action_id.rsplit(".", 2)[1:] for o in world.orders] == [["1", "1"], ["1", "2"], ["1", "3"]]
    requested = [(r.at - T0) / NS for r in world.records if type(r).__name__ == "ActionRequested"]
    assert requested == [0, 2, 6]
    assert world.status() == "done"


def test_attempts_bound_the_sends_and_the_failed_run_pauses_the_instance_and_pages():
    rest = "on_failure: {notify: [page], then: pause}\nrepeat: {every: 60s, max: 5}\n"
    steps = "- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 2, backoff: 1s}"
    world = World(runbook(steps, rest=rest), answer=lambda a: Outcome(status="failed", reason="no_fill"))
    world.until(300, **SPIKE)
    assert len(world.orders) == 2
    assert world.status() == "failed"
    assert [n.to for n in world.pages()] == [("page",)]
    assert "spike/dydx:ETH-USD" in world.engine.cold.pauses
    assert len(world.of(RunStarted)) == 1


def test_rejected_is_not_retried():
    steps = "- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 3, backoff: 1s}"
    world = World(runbook(steps), answer=lambda a: Outcome(status="rejected", reason="market closed"))
    world.until(60, **SPIKE)
    assert len(world.orders) == 1
    assert world.reason() == "s: rejected: market closed"


def test_failed_step_with_continue_goes_on_and_the_run_is_still_red():
    steps = "- id: s\n  shrink_position: {by: 10%}\n  on_failure: continue\n- id: t\n  notify: {to: [desk], text: after}"
    world = World(runbook(steps), answer=lambda a: Outcome(status="rejected"))
    world.until(10, **SPIKE)
    assert [n.text for n in world.sent(Notify) if n.event == "step"] == ["after"]
    assert world.status() == "failed"


def test_lost_reply_is_never_sent_again_and_ends_the_run_unknown_with_a_page():
    steps = "- id: s\n  shrink_position: {by: 10%}\n  retry: {attempts: 3, backoff: 1s}\n  timeout: 20s"
    world = World(runbook(steps, rest="repeat: {every: 30s, max: 5}\n"), answer=lambda a: None)
    world.until(300, **SPIKE)
    assert len(world.orders) == 1
    assert world.status() == "unknown"
    assert len(world.pages()) == 1
    assert len(world.engine.cold.ledger) == 1, "money that may have moved counts"
    assert world.engine.unsettled() == (world.orders[0],)


def test_late_definite_outcome_sets_the_books_right_after_the_run_ended_unknown():
    world = World(runbook("- id: s\n  shrink_position: {by: 10%}"), answer=lambda a: None)
    world.until(200, **SPIKE)
    world.settle(world.orders[0], Outcome(status="failed", reason="absent"))
    assert world.engine.cold.ledger == {}
    assert world.engine.unsettled() == ()
    assert world.status() == "unknown"


def test_outcome_found_by_lookup_goes_on_as_if_it_had_answered():
    world = World(runbook(SLICED), answer=lambda a: None)
    world.until(5, **SPIKE)
    world.answer = lambda action: DONE
    world.settle(world.orders[0], Outcome(status="unknown", reason="socket died"))
    world.until(40)
    assert len(world.orders) == 1
    world.settle(world.orders[0], DONE)
    world.until(100)
    assert len(world.orders) == 4
    assert world.status() == "done"


def test_partial_fill_is_done_with_what_was_filled_and_the_rest_goes_into_later_slices():
    first = [True]

    def answer(action):
        if isinstance(action, ShrinkPosition) and first:
            first.clear()
            return Outcome(status="done", filled_size=Decimal("0.1"))
        return DONE

    world = World(runbook("- id: s\n  shrink_position: {by: 20%, slices: 2, every: 10s}"), answer=answer)
    world.until(30, **SPIKE)
    assert [o.size for o in world.orders] == [Decimal("1"), Decimal("1.9")]
    assert world.size == pytest.approx(8.0)
    spent = sum(s.usd for s in world.engine.cold.ledger.values())
    assert spent == pytest.approx(2.0 * 3000)


def test_verify_fails_when_not_shown_in_time_whatever_the_venue_said():
    steps = "- id: s\n  shrink_position: {by: 20%}\n  verify: {that: abs(size) <= 85% * abs(size@start), within: 15s}"
    world = World(runbook(steps))
    world.shows_fills = False
    world.effect = lambda action, outcome, at: []  # the venue says done and nothing changes
    world.until(60, **SPIKE)
    assert world.status() == "failed"
    assert "not shown within 15s" in world.reason()
    assert (world.of(RunFinished)[0].at - T0) // NS == 15


def test_verify_does_not_accept_a_reading_from_before_the_write():
    steps = "- id: s\n  shrink_position: {by: 20%}\n  verify: {that: abs(size) <= 10 base, within: 15s}"
    world = World(runbook(steps))
    world.shows_fills = False
    world.observe(**SPIKE)  # size 10 was read in this very instant, before the order
    assert world.of(RunFinished) == []
    world.now += 5 * NS
    world.observe()
    assert world.status() == "done"


def late_row(world: World, size: float, event_s: float) -> None:
    """A position's row that arrives now with the venue's own time."""
    row = Row(kind=Kind.POSITION, entity=POSITION, values={"size": size}, event_ts=T0 + int(event_s * NS))
    world.wake_to(world.now - 1)
    world.step(Observed(at=world.now, source="late", rows=(row,)))


def test_row_that_arrives_after_the_write_but_is_older_than_it_does_not_count_as_seen():
    one = runbook("- id: s\n  shrink_position: {to: 5 base}", name="first")
    two = runbook("- id: s\n  shrink_position: {to: 5 base}", name="second")
    world = World(one, two)
    world.shows_fills = False
    world.now = T0 + 10 * NS
    world.observe(**SPIKE)
    world.now += 2 * NS
    late_row(world, 10.0, event_s=9.0)
    assert [r.resource for r in world.of(ResourceSeen)] == []
    late_row(world, 5.0, event_s=10.0)
    assert [r.resource for r in world.of(ResourceSeen)] == ["size/dydx:ETH-USD"]
    assert len(world.orders) == 1


def test_late_row_that_is_older_than_what_is_known_is_no_external_change():
    world = World(runbook(SLICED))
    world.until(15, **SPIKE)
    late_row(world, 10.0, event_s=2.0)
    world.until(60)
    assert all(r.ours for r in world.of(SizeChanged))
    assert len(world.orders) == 4
    assert world.status() == "done"


def test_second_run_does_not_size_from_a_reading_older_than_the_first_runs_write():
    one = runbook("- id: s\n  shrink_position: {to: 5 base}", name="first")
    two = runbook("- id: s\n  shrink_position: {to: 5 base}", name="second")
    world = World(one, two)
    world.shows_fills = False
    world.observe(**SPIKE)
    assert len(world.orders) == 1
    world.now += 5 * NS
    world.observe()
    assert len(world.orders) == 1, "the fill is seen now and 5 is left: nothing to do"
    assert world.size == 5.0


def test_size_change_that_is_not_ours_stops_the_run_and_pages():
    world = World(runbook(SLICED, rest="repeat: {every: 60s, max: 5}\n"))
    world.until(5, **SPIKE)
    assert len(world.orders) == 1
    world.until(9, size=4.0)
    world.until(300)
    assert len(world.orders) == 1
    assert world.status() == "aborted"
    assert "external change" in world.reason()
    assert len(world.pages()) == 1
    assert [r.ours for r in world.of(SizeChanged)] == [True, False]


def test_our_own_fills_are_no_external_change():
    world = World(runbook(SLICED))
    world.until(60, **SPIKE)
    assert all(r.ours for r in world.of(SizeChanged))
    assert world.pages() == []


def test_gone_position_stops_the_run_before_its_next_write():
    world = World(runbook(SLICED))
    world.until(5, **SPIKE)
    world.until(60, size=0.0)
    assert len(world.orders) == 1
    changes = [r.change for r in world.of(TriggerChanged)]
    assert changes == ["fired", "gone"]
    assert world.status() == "aborted"


def test_run_that_has_written_finishes_although_its_episode_clears():
    world = World(runbook(SLICED))
    world.until(5, **SPIKE)
    world.until(60, funding_rate=0.0)
    assert len(world.orders) == 4
    assert world.status() == "done"


def test_run_that_has_not_written_ends_skipped_when_its_episode_clears():
    world = World(
        runbook(rest="guards: [oracle_divergence < 10bps]\nguard_wait: 5m\n"), readings={(Kind.MARKET, MARKET, "oracle_price"): 3030.0}
    )
    world.until(30, **SPIKE)
    world.until(40, funding_rate=0.0)
    assert world.orders == []
    assert world.status() == "skipped"
    assert "cleared before it wrote" in world.reason()


def test_on_clear_runs_once_after_the_episode_and_only_when_something_was_done():
    steps = "- id: h\n  halt: {scope: market}"
    world = World(runbook(steps, rest="on_clear: [{id: resume, resume: {scope: market}}]\n"))
    world.until(10, **SPIKE)
    assert [type(a) for a in world.writes] == [Halt]
    assert world.engine.snapshot().gates == {"market/dydx:ETH-USD": ("spike",)}
    world.until(60, funding_rate=0.0)
    assert [type(a) for a in world.writes] == [Halt, Resume]
    assert world.engine.snapshot().gates == {}
    held = World(runbook(rest="guards: [oracle_divergence < 0bps]\non_clear: [{id: resume, resume: {scope: market}}]\n"))
    held.until(10, **SPIKE)
    held.until(60, funding_rate=0.0)
    assert held.writes == []


def test_resume_leaves_closed_what_somebody_else_closed():
    steps = "- id: h\n  halt: {scope: market}"
    world = World(runbook(steps, rest="on_clear: [{id: resume, resume: {scope: market}}]\n"))
    world.until(10, **SPIKE)
    world.command("halt", MARKET)
    world.until(60, funding_rate=0.0)
    assert [type(a) for a in world.writes] == [Halt]
    assert world.engine.snapshot().gates == {"market/dydx:ETH-USD": ("operator desk-lead",)}


def test_shadow_plans_everything_and_writes_nothing():
    steps = "- id: h\n  halt: {scope: position}\n" + SLICED + "\n  verify: {that: size < 1 base, within: 1s}"
    world = World(runbook(steps, stage="shadow", rest="limits: {per_day: 1_000_000 USD}\n"))
    world.until(60, **SPIKE)
    assert world.writes == []
    assert [(w.kind, w.usd) for w in world.of(ActionWould)] == [("halt", 0.0), ("shrink_position", 6000.0)]
    assert world.status() == "shadow"
    assert world.engine.snapshot().gates == {}


def test_shadow_spending_counts_apart():
    rest = "limits: {per_day: 7_000 USD}\nrepeat: {every: 60s, max: 5}\n"
    world = World(runbook("- id: s\n  shrink_position: {by: 20%}", stage="shadow", rest=rest))
    world.until(100, **SPIKE)
    assert [r.status for r in world.of(RunFinished)] == ["shadow", "blocked"]
    assert world.engine.snapshot().house_spent_day_usd == 0.0


APPROVED = """\
- id: s
  shrink_position: {by: 50%}
  approval: {when: notional_change > 10_000 USD, from: [desk-lead, risk], quorum: QUORUM, timeout: 2m, otherwise: OTHERWISE}
"""


def approval(quorum: int = 1, otherwise: str = "skip", rest: str = "") -> str:
    return runbook(APPROVED.replace("QUORUM", str(quorum)).replace("OTHERWISE", otherwise), rest=rest)


def test_approval_below_its_threshold_is_not_asked_for():
    world = World(approval(), readings={(Kind.POSITION, POSITION, "size"): 1.0})
    world.until(5, **SPIKE)
    assert world.of(ApprovalRequested) == []
    assert len(world.orders) == 1


def test_approved_step_executes_the_smaller_of_approved_and_fresh_size():
    world = World(approval())
    world.until(10, **SPIKE)
    assert world.orders == []
    asked = world.of(ApprovalRequested)[0]
    assert (asked.deadline - T0) // NS == 120
    assert asked.notional_usd == 15_000.0
    world.until(15, oracle_price=3030.0)
    world.command("approve", asked.run_id)
    assert [o.size for o in world.orders] == [Decimal("5")]


def test_approval_from_a_stranger_counts_nothing_and_a_quorum_needs_two_people():
    world = World(approval(quorum=2))
    world.until(10, **SPIKE)
    run_id = world.of(ApprovalRequested)[0].run_id
    world.command("approve", run_id, actor="stranger")
    world.command("approve", run_id, actor="risk")
    world.command("approve", run_id, actor="risk", command_id="twice")
    assert world.orders == []
    assert world.of(CommandTaken)[0].effect.startswith("nothing: stranger is not one of")
    world.command("approve", run_id, actor="desk-lead")
    assert len(world.orders) == 1


def test_same_command_id_counts_once():
    world = World(approval(quorum=2))
    world.until(10, **SPIKE)
    run_id = world.of(ApprovalRequested)[0].run_id
    world.command("approve", run_id, actor="risk", command_id="one")
    world.command("approve", run_id, actor="desk-lead", command_id="one")
    assert world.orders == []
    assert len(world.of(CommandTaken)) == 1


@pytest.mark.parametrize(("otherwise", "orders", "status"), [("skip", 0, "skipped"), ("proceed", 1, "done"), ("abort", 0, "aborted")])
def test_approval_timeout_does_what_otherwise_says(otherwise, orders, status):
    world = World(approval(otherwise=otherwise))
    world.until(119, **SPIKE)
    assert world.orders == []
    world.until(125)
    assert len(world.orders) == orders
    assert world.status() == status


def test_denied_approval_aborts_the_run():
    world = World(approval())
    world.until(10, **SPIKE)
    world.command("deny", "spike")
    assert world.orders == []
    assert world.status() == "aborted"


def test_guards_are_checked_again_after_approval():
    world = World(approval(rest="guards: [oracle_divergence < 50bps]\n"))
    world.until(10, **SPIKE)
    world.until(15, oracle_price=3100.0)
    world.command("approve", world.of(ApprovalRequested)[0].run_id)
    assert world.orders == []
    assert world.status() == "skipped"


def test_approval_keeps_its_deadline_over_a_restart():
    world = World(approval(otherwise="abort"))
    world.until(60, **SPIKE)
    blobs = world.engine.checkpoint()
    world.engine = world.new_engine()
    world.engine.load(world.books)
    world.engine.restore(blobs)
    world.now = T0 + 100 * NS
    world.step(Gap(at=world.now, since=T0 + 60 * NS, cause="start"))
    world.until(119)
    assert world.of(RunFinished) == []
    world.until(121)
    assert world.status() == "aborted"


def test_deadline_that_passed_while_down_is_due_at_once_after_the_gap():
    world = World(approval(otherwise="abort"))
    world.until(60, **SPIKE)
    world.now = T0 + 500 * NS
    world.step(Gap(at=world.now, since=T0 + 60 * NS, cause="freeze"))
    assert world.of(RunFinished)[0].at == world.now


def test_wait_step_ends_when_true_and_fails_when_not_in_time():
    steps = "- id: w\n  wait: {that: oracle_divergence < 1bps, within: 30s}\n- id: s\n  shrink_position: {by: 10%}"
    world = World(runbook(steps), readings={(Kind.MARKET, MARKET, "oracle_price"): 3010.0})
    world.until(20, **SPIKE)
    assert world.orders == []
    world.until(25, oracle_price=3000.0)
    assert len(world.orders) == 1
    late = World(runbook(steps), readings={(Kind.MARKET, MARKET, "oracle_price"): 3010.0})
    late.until(60, **SPIKE)
    assert late.status() == "failed"


def test_pause_step_holds_back_another_runbook_for_its_time():
    one = runbook("- id: p\n  pause: {runbook: other, for: 60s}", name="spike")
    other = runbook("- id: s\n  shrink_position: {by: 10%}", name="other", hold="10s")
    world = World(one, other)
    world.until(50, **SPIKE)
    assert world.orders == []
    world.until(65)
    assert len(world.orders) == 1


def test_operator_halt_stops_every_write_and_resume_lets_it_go_on():
    world = World(runbook(SLICED))
    world.until(5, **SPIKE)
    world.command("halt")
    world.until(60)
    assert len(world.orders) == 1
    world.command("resume")
    world.until(120)
    assert len(world.orders) == 4


def test_operator_pause_holds_back_runs_until_unpaused():
    world = World(runbook())
    world.command("pause", "spike")
    world.until(30, **SPIKE)
    assert world.orders == []
    world.command("unpause", "spike")
    assert len(world.orders) == 1


def test_cancel_and_webhook_steps_send_their_actions():
    steps = """\
- id: c
  cancel_orders: {scope: market}
- id: hook
  webhook: {endpoint: custody, payload: {market: "{market}", sizes: [1, 2]}}
"""
    world = World(runbook(steps))
    world.until(10, **SPIKE)
    cancel, hook = world.writes
    assert isinstance(cancel, CancelOrders)
    assert (cancel.account, cancel.market) == ("dydx", MARKET)
    assert isinstance(hook, CallWebhook)
    assert hook.payload["market"] == MARKET
    assert world.status() == "done"


def test_text_is_rendered_with_units():
    world = World(runbook("- id: t\n  notify: {to: [desk], text: '{market} pays {funding_rate}, holds {notional}'}"))
    world.until(5, **SPIKE)
    assert [n.text for n in world.sent(Notify)] == ["dydx:ETH-USD pays 0.1%/h, holds 30,000 USD"]


def test_text_and_payload_after_a_shrink_see_its_plan():
    steps = """\
- id: s
  shrink_position: {by: 25%}
- id: t
  notify: {to: [desk], text: "took off {notional_change} for {fee_estimate}"}
- id: hook
  webhook: {endpoint: custody, payload: {usd: "{notional_change}"}}
"""
    world = World(runbook(steps))
    world.until(5, **SPIKE)
    assert [n.text for n in world.sent(Notify)] == ["took off 7,500 USD for 3.75 USD"]
    assert [a.payload for a in world.sent(CallWebhook)] == [{"usd": "7,500 USD"}]


def test_lifecycle_notices_go_out_for_the_events_asked_for_and_repeat():
    world = World(runbook(rest="notify: {to: [desk], events: [fired, acted, cleared], repeat: 60s}\n"))
    world.until(130, **SPIKE)
    world.until(140, funding_rate=0.0)
    assert [n.event for n in world.sent(Notify)] == ["fired", "acted", "fired", "fired", "cleared"]
    assert len({n.action_id for n in world.sent(Notify)}) == 5


def test_single_mode_skips_and_queued_mode_keeps_a_run_wanted_while_one_goes():
    rest = "repeat: {every: 10s, max: 1}\n"
    single = World(runbook(SLICED, rest=rest))
    single.until(100, **SPIKE)
    assert len(single.of(RunStarted)) == 1
    assert "mode single" in single.of(RunRefused)[0].reason
    queued = World(runbook(SLICED, rest=rest + "mode: queued\n"))
    queued.until(100, **SPIKE)
    assert [(r.at - T0) // NS for r in queued.of(RunStarted)] == [0, 30]


def test_restart_mode_ends_the_old_run_at_a_step_boundary():
    rest = "repeat: {every: 10s, max: 1}\nmode: restart\n"
    steps = SLICED + "\n- id: t\n  notify: {to: [desk], text: end}"
    world = World(runbook(steps, rest=rest))
    world.until(100, **SPIKE)
    assert [r.status for r in world.of(RunFinished)] == ["aborted", "done"]
    assert (world.of(RunStarted)[1].at - T0) // NS == 30


def test_run_in_flight_finishes_on_the_version_that_started_it():
    old = runbook(SLICED)
    world = World(old)
    world.until(5, **SPIKE)
    new = load(old.replace("slices: 4", "slices: 1").replace("by: 20%", "by: 1%"))
    world.engine.load((new,))
    world.step(RunbooksLoaded(at=world.now, runbooks={"spike.yaml": new.digest}))
    world.until(60)
    assert [o.size for o in world.orders] == [Decimal("0.5")] * 4
    assert world.engine.cold.episodes["spike/dydx:ETH-USD"].open, "a change of steps resets no trigger"


def test_change_of_logic_ends_the_episode_and_says_so():
    old = runbook(SLICED)
    world = World(old)
    world.until(5, **SPIKE)
    new = load(old.replace("0.05%/h", "0.06%/h"))
    world.engine.load((new,))
    world.step(RunbooksLoaded(at=world.now, runbooks={"spike.yaml": new.digest}))
    ended = [r for r in world.of(TriggerChanged) if r.change == "reset"]
    assert len(ended) == 1
    assert "logic changed" in ended[0].reason
    world.until(60)
    assert len(world.orders) > 1, "the new logic fires anew"


def test_pending_and_every_record_carry_the_due_time_of_a_timer():
    world = World(runbook(hold="7s"))
    world.until(20, **SPIKE)
    fired = world.of(TriggerChanged)[0]
    assert (fired.at, fired.pending_at) == (T0 + 7 * NS, T0)
    assert world.of(RunStarted)[0].at == T0 + 7 * NS


def test_run_started_keeps_the_trace_of_the_firing_and_the_start_frame():
    steps = "- id: s\n  shrink_position: {by: 10%}\n  verify: {that: abs(size) < abs(size@start), within: 15s}"
    world = World(runbook(steps))
    world.until(10, **SPIKE)
    started = world.of(RunStarted)[0]
    assert dict(started.frame) == {"size": 10.0}
    assert "funding_rate" in str(started.trace)
    assert world.status() == "done"


def test_missing_price_denies_the_action():
    world = World(
        runbook(), readings={(Kind.MARKET, MARKET, "oracle_price"): float("nan"), (Kind.MARKET, MARKET, "bid_price"): float("nan")}
    )
    world.until(10, **SPIKE)
    assert world.orders == []
    assert world.status() == "blocked"
    assert len(world.of(ActionDenied)) == 1


def test_snapshot_is_plain_and_shows_an_approval_with_its_deadline():
    world = World(approval())
    world.until(10, **SPIKE)
    status = world.engine.snapshot()
    assert status.approvals[0].deadline.endswith("Z")
    assert status.instances[0].state == "firing"
    assert status.instances[0].runs[0].waiting == "approval"


def test_a_venue_whose_blocks_stand_still_is_told_as_lost_data_although_its_polls_succeed():
    world = World(
        runbook(rest="notify: {to: [desk], events: [no_data]}\n"), readings={(Kind.VENUE, "dydx", "block_age"): 1.0}
    )
    world.until(30)
    assert world.sent(Notify) == []
    world.set(block_age=75.0)
    world.until(60)
    (told,) = world.sent(Notify)
    assert told.event == "no_data"
    assert "its last block is 1m15s old" in told.text
    world.set(block_age=1.0)
    world.until(90)
    world.set(block_age=90.0)
    world.until(120)
    assert len(world.sent(Notify)) == 2


def test_what_an_episode_closed_is_opened_once_a_survival_runbook_has_cleared():
    economy = runbook("- id: h\n  halt: {scope: position}", name="economy", rest="on_clear: [{id: r, resume: {scope: position}}]\n")
    survival = runbook("- id: s\n  shrink_position: {by: 10%}", name="zz-survival", intent="survival", when="oracle_price < 2900 price")
    world = World(economy, survival)
    world.until(20, **SPIKE)
    world.until(30, oracle_price=2800.0)
    world.until(60, funding_rate=0.0)
    assert world.sent(Resume) == []
    world.until(90, oracle_price=3000.0)
    assert [a.runbook for a in world.sent(Resume)] == ["economy"]


def test_what_an_episode_closed_waits_for_its_guards_and_is_not_left_closed_for_ever():
    economy = runbook(
        "- id: h\n  halt: {scope: position}",
        name="economy",
        rest="guards: [oracle_divergence < 50bps]\non_clear: [{id: r, resume: {scope: position}}]\n",
    )
    world = World(economy)
    world.until(20, **SPIKE)
    world.until(60, funding_rate=0.0, oracle_price=3100.0)
    assert world.sent(Resume) == []
    world.until(90, oracle_price=3000.0)
    assert len(world.sent(Resume)) == 1
