"""Pollers: slots are skipped, never caught up; whatever goes wrong is an event."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st
from service_world import START_S, drained, rows, run_virtual, virtual_clock

from daemon.edges.protocol import Poll
from daemon.engine.events import Event, FeedFailed, Observed, Row
from daemon.errors import EdgeError
from daemon.service.inbox import Inbox
from daemon.service.poller import FeedHealth, Poller, fill_history, next_slot, retry_history
from daemon.units import NS
from daemon.world.entities import Kind


@given(st.integers(0, 10**12), st.integers(0, 10**12), st.integers(1, 10**10))
def test_next_slot_is_the_first_one_of_the_grid_that_is_still_to_come(slot: int, late: int, every: int) -> None:
    now = slot + late
    found, skipped = next_slot(slot, now, every)
    assert found > now
    assert (found - slot) % every == 0
    assert found - every <= now
    assert skipped == (found - slot) // every - 1


async def poll_for(
    seconds: float, took_s: list[float], speed: float = 1.0, failure: Exception | None = None
) -> tuple[list[float], Inbox, Poller]:
    loop = asyncio.get_running_loop()
    began: list[float] = []

    async def fetch() -> list[Row]:
        began.append(round(loop.time() - START_S, 6))
        await asyncio.sleep(took_s[min(len(began), len(took_s)) - 1])
        if failure is not None:
            raise failure
        return list(rows("m"))

    inbox = Inbox()
    poller = Poller(source="s", poll=Poll(name="s", every_ns=2 * NS, fetch=fetch), inbox=inbox, clock=virtual_clock(speed))
    task = asyncio.create_task(poller.run())
    await asyncio.sleep(seconds)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    return began, inbox, poller


def test_poller_skips_the_slots_that_a_slow_answer_missed() -> None:
    began, _, poller = run_virtual(poll_for(9.5, [0.1, 4.5, 0.1]))
    assert began == [0.0, 2.0, 8.0]
    assert poller.health.skipped == 2


def test_poller_keeps_its_cadence_in_the_time_of_an_accelerated_venue() -> None:
    began, _, _ = run_virtual(poll_for(0.19, [0.0], speed=60.0))
    assert began == pytest.approx([slot * 2 / 60 for slot in range(6)], abs=1e-3)


@pytest.mark.parametrize("failure", [EdgeError("HTTP 500", edge="s", reason="http_500", retryable=True), ZeroDivisionError("a bug")])
def test_poller_turns_any_failure_into_an_event_and_goes_on(failure: Exception) -> None:
    began, inbox, poller = run_virtual(poll_for(5.0, [0.0], failure=failure))
    assert len(began) == 3
    found = drained(inbox)
    assert all(isinstance(event, FeedFailed) and str(failure) in event.reason for event in found)
    assert poller.health.failures == 3


def test_poller_leaves_a_source_alone_for_as_long_as_it_asks() -> None:
    limited = EdgeError("429", edge="s", reason="rate_limited", retryable=True, retry_after_s=7.0)
    began, _, _ = run_virtual(poll_for(9.0, [0.0], failure=limited))
    assert began == [0.0, 8.0]


class Past:
    """A feed whose past comes in parts; each call takes the next of `parts`, a failure or rows, and when none is left there is no more."""

    name = "past"
    polls: tuple[Poll, ...] = ()
    provides: Mapping[Kind, frozenset[str]] = {}

    def __init__(self, *parts: Exception | list[Row]) -> None:
        self.parts = list(parts)
        self.asked: list[float] = []

    async def history(self) -> list[Row]:
        self.asked.append(round(asyncio.get_running_loop().time() - START_S, 6))
        part = self.parts.pop(0) if self.parts else []
        if isinstance(part, Exception):
            raise part
        return part

    async def close(self) -> None:
        return None


DOWN = EdgeError("down", edge="past", reason="unreachable", retryable=True)
WRONG = EdgeError("HTTP 404", edge="past", reason="http_404", retryable=False)
PART = list(rows("m"))


def filled(feed: Past, *, retry: bool = False) -> tuple[bool, list[Event], FeedHealth]:
    inbox, health = Inbox(), FeedHealth(source="past.history", every_ns=NS)

    async def main() -> bool:
        fill = retry_history if retry else fill_history
        return await fill(feed, inbox=inbox, clock=virtual_clock(), health=health)

    return run_virtual(main()), drained(inbox), health


def test_history_is_asked_for_until_the_source_answers_before_anything_live_is_polled() -> None:
    feed = Past(DOWN, DOWN, DOWN, PART)
    whole, events, health = filled(feed)
    assert whole
    assert feed.asked == [0.0, 1.0, 3.0, 7.0, 7.0]
    assert [type(event) for event in events] == [FeedFailed] * 3 + [Observed]
    assert isinstance(events[-1], Observed)
    assert (events[-1].history, events[-1].source) == (True, "past")
    assert (health.failures, health.reason) == (3, "down")


def test_history_that_the_source_refuses_leaves_windows_cold_instead_of_the_feed_dark() -> None:
    whole, events, _ = filled(Past(WRONG))
    assert not whole
    assert [type(event) for event in events] == [FeedFailed]


@pytest.mark.parametrize("failure", [WRONG, DOWN])
def test_history_that_came_in_part_is_used_and_not_taken_for_the_whole(failure: EdgeError) -> None:
    whole, events, _ = filled(Past(PART, failure))
    assert not whole
    [failed, observed] = events
    assert isinstance(failed, FeedFailed)
    assert isinstance(observed, Observed)
    # Under the feed's own name the next start would take it for the whole past and never ask again.
    assert (observed.history, observed.source, observed.rows) == (True, "past.history", tuple(PART))


def test_lacking_history_is_asked_for_a_few_times_beside_the_polls() -> None:
    feed = Past(WRONG, PART)
    whole, events, _ = filled(feed, retry=True)
    assert whole
    assert feed.asked == [1.0, 3.0, 7.0]
    assert [type(event) for event in events] == [FeedFailed, Observed]


def test_history_that_never_comes_is_given_up_after_half_a_minute() -> None:
    feed = Past(*[WRONG] * 9)
    whole, events, health = filled(feed, retry=True)
    assert not whole
    assert feed.asked == [1.0, 3.0, 7.0, 15.0, 31.0]
    assert len(events) == health.failures == 5
