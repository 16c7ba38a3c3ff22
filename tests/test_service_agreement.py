"""Agreement of clocks: a simulated venue that was started anew, and a machine whose clock is wrong, are noticed and said."""

from __future__ import annotations

import asyncio
import io
import json

import pytest
from service_world import ORIGIN_NS, START_S, run_virtual, virtual_clock

from daemon.errors import EdgeError
from daemon.service.agreement import ClockWatch, Told
from daemon.service.logging import configure
from daemon.units import HOUR_NS, NS


def problems(*answers: Told | Exception, speed: float = 10.0, simulated: bool = True) -> list[str]:
    """What a watch says after each answer; `now` of an answer is relative to our clock."""

    async def main() -> list[str]:
        clock = virtual_clock(speed)
        left = list(answers)

        async def ask() -> Told:
            answer = left.pop(0)
            if isinstance(answer, Exception):
                raise answer
            return Told(now=clock.now() + answer.now, started=answer.started)

        watch = ClockWatch(venue="dydx", clock=clock, ask=ask, simulated=simulated)
        found = []
        for _ in answers:
            await watch.look()
            found.append(watch.problem)
        return found

    return run_virtual(main())


@pytest.mark.parametrize(("apart_s", "noticed"), [(0, False), (29, False), (-29, False), (31, True), (-31, True), (-7200, True)])
def test_venue_time_that_is_over_thirty_seconds_from_ours_is_a_problem(apart_s: int, noticed: bool) -> None:
    [said] = problems(Told(now=apart_s * NS, started=5))
    assert bool(said) == noticed


def test_accelerated_venue_may_be_apart_by_three_real_seconds() -> None:
    assert problems(Told(now=-170 * NS, started=5), speed=60.0) == [""]
    assert problems(Told(now=-190 * NS, started=5), speed=60.0) != [""]


def test_venue_that_was_started_anew_stays_a_problem_even_when_its_clock_catches_up() -> None:
    first, second, third = problems(Told(now=0, started=5), Told(now=0, started=6), Told(now=0, started=6))
    assert first == ""
    assert second.startswith("dydx: the simulated venue was started anew: its clock says 2026-01-01T00:00:00")
    assert "ours 2026-01-01T00:00:00" in second
    assert second.endswith("restart the daemon on a new journal")
    assert "started anew" in third


def test_real_venue_that_tells_another_time_asks_for_the_machines_clock_and_is_forgotten_when_it_agrees_again() -> None:
    first, second = problems(Told(now=-HOUR_NS), Told(now=0), speed=1.0, simulated=False)
    assert "set this machine's clock" in first
    assert second == ""


def test_venue_that_does_not_answer_says_nothing_about_its_clock() -> None:
    down = EdgeError("down", edge="dydx", reason="unreachable", retryable=True)
    before, during = problems(Told(now=-HOUR_NS, started=5), down)
    assert before == during != ""
    assert problems(down) == [""]


def test_watch_looks_every_ten_real_seconds_and_logs_one_error() -> None:
    stream = io.StringIO()
    configure("json", stream)

    async def main() -> list[float]:
        asked: list[float] = []

        async def ask() -> Told:
            asked.append(asyncio.get_running_loop().time() - START_S)
            return Told(now=ORIGIN_NS - HOUR_NS, started=5)

        task = asyncio.create_task(ClockWatch(venue="dydx", clock=virtual_clock(60.0), ask=ask, simulated=True).run())
        await asyncio.sleep(35)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return asked

    assert run_virtual(main()) == pytest.approx([0.0, 10.0, 20.0, 30.0], abs=1e-3)
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert [(line["event"], line["level"]) for line in lines] == [("clock.apart", "error")]
