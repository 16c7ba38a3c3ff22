"""The effect protocol: sent once, looked up until known, `failed` only when it certainly did nothing."""

from __future__ import annotations

import asyncio
from decimal import Decimal

import pytest
from service_world import ORIGIN_NS, START_S, ScriptedVenue, answers, drained, run_virtual, shrink, virtual_clock

from daemon.engine.actions import Action, CallWebhook, Outcome
from daemon.engine.events import ActionSettled
from daemon.errors import EdgeError, UnknownOutcome
from daemon.service.dispatcher import Dispatcher
from daemon.service.inbox import Inbox
from daemon.units import NS

DONE = Outcome(status="done", filled_size=Decimal(1))
LOST = UnknownOutcome("no answer in time", edge="scripted", reason="timeout")


def settle(
    venue: ScriptedVenue, action: Action, *, resume: bool = False, dry_run: bool = False, speed: float = 1.0, refuse: str = ""
) -> list[tuple[float, Outcome]]:
    """Every outcome the action came to, each with the virtual second at which it did."""

    async def main() -> list[tuple[float, Outcome]]:
        inbox = Inbox()
        dispatcher = Dispatcher(edges=[venue], inbox=inbox, clock=virtual_clock(speed), dry_run=dry_run, refuse=lambda: refuse)
        (dispatcher.resume if resume else dispatcher.perform)(action)
        found: list[tuple[float, Outcome]] = []
        for _ in range(200_000):
            for event in drained(inbox):
                assert isinstance(event, ActionSettled)
                assert event.action_id == action.action_id
                found.append((asyncio.get_running_loop().time() - START_S, event.outcome))
            if not dispatcher.in_flight and not len(inbox):
                return found
            await asyncio.sleep(0.01)
        raise AssertionError("it never settled")

    return run_virtual(main())


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (DONE, "done"),
        (Outcome(status="failed", reason="no_fill"), "failed"),
        (EdgeError("429", edge="scripted", reason="rate_limited", retryable=True), "failed"),
        (EdgeError("bad size", edge="scripted", reason="bad_size", retryable=False), "rejected"),
    ],
)
def test_dispatcher_reports_a_definite_answer_without_a_lookup(reply: Outcome | Exception, status: str) -> None:
    venue = ScriptedVenue(send=answers(reply))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink())
    assert [outcome.status for _, outcome in outcomes] == [status]
    assert len(venue.sent) == 1
    assert venue.looked_up == []


@pytest.mark.parametrize("lost", [LOST, RuntimeError("a bug in the edge"), Outcome(status="unknown", reason="resting")])
def test_dispatcher_looks_up_and_never_sends_again_when_the_answer_is_lost(lost: Exception | Outcome) -> None:
    venue = ScriptedVenue(send=answers(lost), lookup=answers(DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink())
    assert [outcome for _, outcome in outcomes] == [DONE]
    assert len(venue.sent) == 1


def test_dispatcher_says_unknown_first_and_failed_only_after_expiry_and_margin_when_the_venue_knows_nothing() -> None:
    venue = ScriptedVenue(send=answers(LOST), lookup=answers(None))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(expires_at=ORIGIN_NS + 20 * NS))
    assert [outcome.status for _, outcome in outcomes] == ["unknown", "failed"]
    assert outcomes[1][0] > 20.5
    # The lookup that decides was asked after the margin, not merely answered after it.
    assert max(at for at, _ in venue.looked_up) > 20.5
    assert len(venue.sent) == 1


def test_dispatcher_finds_an_order_that_appears_late() -> None:
    venue = ScriptedVenue(send=answers(LOST), lookup=answers(None, None, None, DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink())
    assert [outcome.status for _, outcome in outcomes] == ["unknown", "done"]


def test_dispatcher_keeps_asking_past_the_expiry_while_the_venue_cannot_be_reached() -> None:
    down = EdgeError("down", edge="scripted", reason="unreachable", retryable=True)
    venue = ScriptedVenue(send=answers(LOST), lookup=answers(*[down] * 30, DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(expires_at=ORIGIN_NS + NS))
    assert [outcome.status for _, outcome in outcomes] == ["unknown", "done"]
    assert outcomes[1][0] > 100  # thirty refusals, five seconds apart at the end


def test_dispatcher_margin_grows_with_the_speed_of_the_venue_because_lag_is_real_time() -> None:
    venue = ScriptedVenue(send=answers(LOST), lookup=answers(None))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(expires_at=ORIGIN_NS + 60 * NS), speed=60.0)
    assert outcomes[-1][1].status == "failed"
    assert outcomes[-1][0] > 1.0 + 0.5  # real seconds: expiry after one, and half a second of margin


def test_dispatcher_does_not_send_what_has_expired() -> None:
    venue = ScriptedVenue(send=answers(DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(expires_at=ORIGIN_NS - 1))
    assert [outcome.status for _, outcome in outcomes] == ["failed"]
    assert venue.sent == []


def test_dispatcher_gives_up_waiting_for_a_silent_venue_and_looks_up() -> None:
    async def hang(_action: Action) -> Outcome:
        await asyncio.sleep(3600)
        return DONE

    venue = ScriptedVenue(send=hang, lookup=answers(DONE))
    outcomes = settle(venue, shrink(expires_at=ORIGIN_NS + 5 * NS))
    assert outcomes == [(pytest.approx(5.0, abs=0.1), DONE)]


def test_dispatcher_never_sends_when_it_resumes_after_a_restart() -> None:
    venue = ScriptedVenue(send=answers(DONE), lookup=answers(None))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(), resume=True)
    assert [outcome.status for _, outcome in outcomes] == ["unknown", "failed"]
    assert venue.sent == []


def test_dispatcher_leaves_a_webhook_of_unknown_outcome_to_a_person() -> None:
    action = CallWebhook(action_id="a.1", run_id="a", runbook="r", endpoint="treasury", payload={}, expires_at=ORIGIN_NS + NS)
    venue = ScriptedVenue(send=answers(LOST))  # type: ignore[arg-type]
    assert [outcome.status for _, outcome in settle(venue, action)] == ["unknown"]
    assert len(venue.sent) == 1


def test_dispatcher_rejects_every_write_of_a_dry_run() -> None:
    venue = ScriptedVenue(send=answers(DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(), dry_run=True)
    assert [outcome.status for _, outcome in outcomes] == ["rejected"]
    assert "dry run" in outcomes[0][1].reason
    assert venue.sent == []


def test_dispatcher_sends_nothing_while_the_halt_flag_stands_but_goes_on_looking_up() -> None:
    venue = ScriptedVenue(send=answers(DONE), lookup=answers(DONE))  # type: ignore[arg-type]
    outcomes = settle(venue, shrink(), refuse="halted by var/halt")
    assert [(outcome.status, outcome.reason) for _, outcome in outcomes] == [("rejected", "halted by var/halt")]
    assert venue.sent == []
    assert [outcome for _, outcome in settle(venue, shrink(), resume=True, refuse="halted by var/halt")] == [DONE]
