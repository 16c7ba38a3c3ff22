"""Grouping in virtual time: a storm is a few messages, nothing is lost or told twice, what is critical or asks a person does not wait."""

from __future__ import annotations

import itertools
from collections import Counter
from dataclasses import replace

import pytest
from alert_world import Receivers, Scene, notices_in
from hypothesis import given, settings
from hypothesis import strategies as st
from service_world import run_virtual

from daemon.edges.webhook import Answer, Delivered, Endpoint, Grouping, RetryLater
from daemon.journal.entry import Held
from daemon.service.grouping import told_due
from daemon.units import NS

GROUPING = Grouping()
CHAT = Endpoint(name="chat", url="https://chat.example.com/", format="slack", grouping=GROUPING)
ARCHIVE = Endpoint(name="archive", url="https://archive.example.com/")
LOOK_S = 0.35  # the lanes look four times a second, and a message takes a little


def held(*, first: int | None = None, urgent: int | None = None, reminder: int | None = None, told: int | None = None) -> Held:
    at = {"first_at": first, "urgent_at": urgent, "reminder_at": reminder, "told_at": told}
    return Held(endpoint="chat", group="g", count=1, **{key: None if s is None else s * NS for key, s in at.items()})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("group", "due_s"),
    [
        (held(first=100), 110),  # group_wait
        (held(urgent=100), 100),  # what is critical does not wait
        (held(first=100, urgent=105), 105),
        (held(first=100, told=50), 350),  # group_interval
        (held(first=400, told=50), 410),  # the group was silent for longer: it begins anew
        (held(urgent=100, told=98), 108),  # within group_wait of a message: at most that long
        (held(urgent=100, told=50), 100),
        (held(reminder=100, told=50), 50 + 4 * 3600),  # repeat_interval
        (held(reminder=100), 110),
        (held(first=300, reminder=100, told=50), 350),  # goes with what is told anyway
    ],
)
def test_group_is_told_when_its_members_are_due(group: Held, due_s: int) -> None:
    assert told_due(group, GROUPING, now=1_000 * NS) == due_s * NS


def test_clock_that_was_set_back_holds_a_group_up_for_an_interval_at_most() -> None:
    late = held(first=100, told=10_000_000)
    assert told_due(late, GROUPING, now=100 * NS) == (100 + 300) * NS


@given(
    told=st.none() | st.integers(0, 10**6), urgent=st.integers(0, 10**6), first=st.none() | st.integers(0, 10**6), now=st.integers(0, 10**6)
)
def test_what_is_critical_never_waits_longer_than_the_groups_wait(told: int | None, urgent: int, first: int | None, now: int) -> None:
    now = max(now, urgent, first or 0)
    told = None if told is None else min(told, urgent)  # told before it came, else it would have been told with it
    assert told_due(held(first=first, urgent=urgent, told=told), GROUPING, now * NS) <= (urgent * NS) + GROUPING.wait_ns


def test_storm_of_two_hundred_firings_is_one_message_a_lane_and_every_firing_is_accounted_for() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT, ARCHIVE)
        scene = Scene(receivers)
        ids = []
        for n in range(200):
            await scene.until(n * 5 / 200)
            ids.append(scene.put(entity=f"dydx:M{n}-USD", to=("chat", "archive")))
        await scene.until(600)
        chat = [body for _, name, _, body in receivers.sent if name == "chat"]
        assert len(chat) == 1
        assert notices_in(chat[0]) == ids
        # Machines are told one by one.
        assert receivers.ids("archive") == ids
        fates = scene.fates()
        assert Counter(fates[id_] for id_ in ids) == {"delivered": 200}
        # The journal says by which message each was told.
        (carrier,) = [m for m in scene.outbox.messages("chat") if m.status == "delivered"]
        assert [m.id for m in scene.outbox.carried_by(carrier.position)] == ids
        await scene.kill()

    run_virtual(main())


def test_storm_of_critical_firings_is_told_at_once_and_then_in_few_messages() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers)
        for n in range(200):
            await scene.until(n * 5 / 200)
            scene.put(entity=f"dydx:M{n}-USD", severity="critical")
        await scene.until(600)
        assert len(receivers.sent) == 2
        times = [at for at, *_ in receivers.sent]
        assert times[0] < LOOK_S
        assert times[1] == pytest.approx(10, abs=LOOK_S + 0.05)
        assert sum(len(notices_in(body)) for *_, body in receivers.sent) == 200
        await scene.kill()

    run_virtual(main())


def test_storm_that_goes_on_for_hours_stays_readable() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers, idle_s=5)
        for n in range(2_000):
            await scene.until(n * 7.2)  # four hours
            scene.put(entity=f"dydx:M{n % 300}-USD", runbook=("funding-spike", "thin-book")[n % 2])
        await scene.until(6 * 3_600)
        # Two groups, a message each five minutes at most, over four hours.
        assert len(receivers.sent) <= 2 * (4 * 12 + 2)
        assert sum(len(notices_in(body)) for *_, body in receivers.sent) == 2_000
        await scene.kill()

    run_virtual(main())


def test_request_for_an_approval_is_a_message_of_its_own_in_the_middle_of_a_storm() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers)
        for n in range(100):
            scene.put(entity=f"dydx:M{n}-USD")
        wanted = scene.put("approval", run="1")
        for n in range(100, 200):
            scene.put(entity=f"dydx:M{n}-USD")
        await scene.until(1)
        assert receivers.ids("chat") == [wanted]
        await scene.until(60)
        assert len(receivers.sent) == 2
        await scene.kill()

    run_virtual(main())


def test_single_notice_is_sent_as_it_is_after_the_wait() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers)
        id_ = scene.put()
        await scene.until(9)
        assert receivers.sent == []
        await scene.until(20)
        assert [(name, sent) for _, name, sent, _ in receivers.sent] == [("chat", id_)]
        assert notices_in(receivers.sent[0][3]) == [id_]
        await scene.kill()

    run_virtual(main())


def test_reminders_come_once_in_the_groups_repeat() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers, idle_s=5)
        scene.put()
        for minute in range(10, 601, 10):  # the runbook repeats every ten minutes, for ten hours
            await scene.until(minute * 60)
            scene.put(run="still", said="still firing since 2026-01-01T00:00:00.000Z")
        await scene.until(13 * 3_600)
        hours = [at / 3_600 for at, *_ in receivers.sent]
        assert len(hours) == 4
        assert all(later - earlier >= 4 for earlier, later in itertools.pairwise(hours))
        assert sum(len(notices_in(body)) for *_, body in receivers.sent) == 61
        await scene.kill()

    run_virtual(main())


def test_group_that_is_not_taken_is_retried_under_one_id_and_its_members_share_its_fate() -> None:
    async def main() -> None:
        down = RetryLater(reason="HTTP 503", status=503)
        receivers = Receivers(CHAT, answers=lambda _endpoint, _id, at: Delivered(status=200) if at > 60 else down)
        scene = Scene(receivers)
        ids = [scene.put(entity=f"dydx:M{n}-USD") for n in range(3)]
        await scene.until(30)
        assert {scene.fates()[id_] for id_ in ids} == {"waiting"}
        await scene.until(3_600)
        assert len(set(receivers.ids("chat"))) == 1
        assert len(receivers.sent) == 3
        assert {scene.fates()[id_] for id_ in ids} == {"delivered"}
        await scene.kill()

    run_virtual(main())


def test_settings_that_no_longer_group_let_go_of_what_waited() -> None:
    async def main() -> None:
        receivers = Receivers(CHAT)
        scene = Scene(receivers)
        ids = [scene.put(entity=f"dydx:M{n}-USD") for n in range(3)]
        await scene.kill()
        scene.receivers = receivers = Receivers(Endpoint(name="chat", url="https://chat.example.com/"))
        scene.begin()
        await scene.until(2)
        assert receivers.ids("chat") == ids
        await scene.kill()

    run_virtual(main())


arrivals = st.lists(
    st.tuples(
        st.floats(0, 120), st.sampled_from(["warning", "warning", "warning", "critical", "info"]),
        st.sampled_from(["fired", "failed", "approval"]), st.integers(0, 2),
    ),
    min_size=1,
    max_size=40,
)  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(arrivals=arrivals, kills=st.lists(st.floats(0, 150), max_size=3), failing=st.lists(st.floats(0, 150), max_size=2))
def test_nothing_is_lost_or_told_twice_over_kills_and_failures(
    arrivals: list[tuple[float, str, str, int]], kills: list[float], failing: list[float]
) -> None:
    def answer(_endpoint: str, _id: str, at: float) -> Answer:
        down = any(begin <= at < begin + 4 for begin in failing)
        return RetryLater(reason="HTTP 503", status=503) if down else Delivered(status=200)

    async def main() -> None:
        quick = Grouping(wait_ns=5 * NS, interval_ns=30 * NS)
        receivers = Receivers(replace(CHAT, grouping=quick), answers=answer)
        scene = Scene(receivers, idle_s=0.3)
        put: dict[str, tuple[float, str, str]] = {}
        happenings = sorted([*((at, "put", rest) for at, *rest in arrivals), *((at, "kill", []) for at in kills)], key=lambda h: h[0])
        for at, what, rest in happenings:
            await scene.until(at)
            if what == "kill":
                await scene.kill()
                scene.begin()
                continue
            severity, event, book = rest
            put[scene.put(event, severity=severity, runbook=f"book-{book}", run="1")] = (at, severity, event)
        await scene.until(600)  # a second failure is tried again after five minutes
        told: dict[str, set[str]] = {}
        for _, _, id_, body in receivers.sent:
            for member in notices_in(body):
                told.setdefault(member, set()).add(id_)
        assert set(told) == set(put)
        # One message tells a notice, however often that message had to be sent.
        assert all(len(ids) == 1 for ids in told.values())
        assert set(scene.fates().values()) == {"delivered"}
        first = {id_: at for at, _, id_, _ in reversed(receivers.sent)}
        for member, (at, severity, event) in put.items():
            (by,) = told[member]
            if event == "approval":
                assert by == member
            if not failing and (severity == "critical" or event == "approval"):
                assert first[by] - at <= (5 if event != "approval" else 0) + LOOK_S + 0.1
        await scene.kill()

    run_virtual(main())
