"""Endpoints that fail, in virtual time: breaker, Retry-After, 410 over restarts, the second channel; and what a person may ask for."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace

import pytest
from alert_world import Receivers, Scene
from hypothesis import given
from hypothesis import strategies as st
from service_world import run_virtual

from daemon.edges.notice import read_message
from daemon.edges.webhook import Answer, Dead, Delivered, Disabled, Endpoint, Grouping, RetryLater
from daemon.errors import UserError
from daemon.journal.entry import EndpointRecord
from daemon.service.alerts import Alerts
from daemon.service.breaker import OPEN_AFTER, PAUSE_MAX_NS, PAUSE_NS, opens_until, state_of
from daemon.service.lanes import WIDTH_MAX
from daemon.units import HOUR_NS, MINUTE_NS, NS

DESK = Endpoint(name="desk", url="https://hooks.example.com/reefd", secrets=("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",))
PHONE = Endpoint(name="phone", url="https://phone.example.com/")
DOWN = RetryLater(reason="HTTP 503", status=503)
TAKEN = Delivered(status=200)


def alerts_of(scene: Scene) -> Alerts:
    return Alerts(
        journal=scene.outbox,  # type: ignore[arg-type]
        sender=scene.receivers,
        now=scene.clock.now,
        house="reefd",
        channels={"page": tuple(scene.receivers.endpoints)},
        look=lambda: scene.lanes.look(),
    )


def times(receivers: Receivers, endpoint: str) -> list[float]:
    return [round(at, 1) for at, name, *_ in receivers.sent if name == endpoint]


# --- breaker ----------------------------------------------------------------------------------------------------------


@given(failures=st.integers(0, 200), failed_at=st.integers(0, 10**15), now=st.integers(0, 10**15))
def test_breaker_opens_after_failures_in_a_row_and_never_for_longer_than_its_bound(failures: int, failed_at: int, now: int) -> None:
    record = EndpointRecord(name="desk", failures=failures, failed_at=failed_at)
    until = opens_until(record, now)
    assert (until == 0) == (failures < OPEN_AFTER)
    assert until <= min(failed_at, now) + PAUSE_MAX_NS
    assert state_of(record, now) == ("closed" if failures < OPEN_AFTER else "open" if until > now else "half-open")


def test_breaker_pauses_twice_as_long_at_each_further_failure() -> None:
    pauses = [opens_until(EndpointRecord(name="d", failures=OPEN_AFTER + n, failed_at=0), 0) for n in range(7)]
    assert pauses == [PAUSE_NS, 2 * PAUSE_NS, 4 * PAUSE_NS, 8 * PAUSE_NS, 16 * PAUSE_NS, PAUSE_MAX_NS, PAUSE_MAX_NS]
    assert state_of(None, 0) == "closed"


def test_endpoint_that_is_down_is_spared_and_probed_by_one_message_at_a_time() -> None:
    async def main() -> None:
        desk = replace(DESK, ordered=False)
        receivers = Receivers(desk, PHONE, answers=lambda name, _id, at: DOWN if name == "desk" and at < 600 else TAKEN)
        scene = Scene(receivers, idle_s=0.5)
        for n in range(50):
            scene.put(to=("desk", "phone"), entity=f"dydx:M{n}-USD")
        await scene.until(20)
        # As many at once as have a place on the wire, since it is unordered, and then none of the others.
        assert len(times(receivers, "desk")) == WIDTH_MAX
        assert state_of(scene.outbox.endpoint_records()["desk"], scene.clock.now()) == "open"
        # The other endpoint notices nothing.
        assert len(times(receivers, "phone")) == 50
        await scene.until(600)
        probes = [at for at in times(receivers, "desk") if at > 20]
        assert len(probes) <= 2
        await scene.until(1_500)
        assert set(scene.fates("desk").values()) == {"delivered"}
        assert state_of(scene.outbox.endpoint_records()["desk"], scene.clock.now()) == "closed"
        await scene.kill()

    run_virtual(main())


def test_endpoint_that_is_back_is_noticed_within_minutes_however_long_its_head_was_to_wait() -> None:
    async def main() -> None:
        receivers = Receivers(DESK, answers=lambda _name, _id, at: DOWN if at < 4 * 3_600 else TAKEN)
        scene = Scene(receivers, idle_s=2)
        first, second = scene.put(to=("desk",)), scene.put(to=("desk",), entity="dydx:ETH-USD")
        await scene.until(4 * 3_600)
        assert {id_ for *_, id_, _ in receivers.sent} == {first}
        # Probed each ten minutes at most often, and none of the message's own tries is used up by that.
        assert len(receivers.sent) < 4 * 6 + 15
        assert scene.outbox.messages_of(first)[0].attempts <= 5
        await scene.until(4 * 3_600 + 11 * 60)
        assert set(scene.fates("desk").values()) == {"delivered"}
        assert receivers.ids("desk")[-2:] == [first, second]
        await scene.kill()

    run_virtual(main())


def test_breaker_outlives_a_restart() -> None:
    async def main() -> None:
        receivers = Receivers(replace(DESK, ordered=False), answers=lambda *_: DOWN)
        scene = Scene(receivers)
        for n in range(OPEN_AFTER):
            scene.put(to=("desk",), entity=f"dydx:M{n}-USD")
        await scene.until(1)
        await scene.kill()
        scene.begin()
        scene.put(to=("desk",), entity="dydx:NEW-USD")
        await scene.until(25)
        assert len(receivers.sent) == OPEN_AFTER
        await scene.kill()

    run_virtual(main())


def test_urgent_message_passes_an_open_breaker_and_a_lane_whose_head_waits() -> None:
    async def main() -> None:
        receivers = Receivers(DESK, answers=lambda _name, _id, at: DOWN if at < 400 else TAKEN)
        scene = Scene(receivers)
        first = scene.put(to=("desk",))
        await scene.until(390)  # its third try is due in half an hour
        page = scene.put("page", severity="critical", to=("desk",), said="run failed")
        wanted = scene.put("approval", to=("desk",), run="1")
        await scene.until(440)
        ids = [id_ for at, _, id_, _ in receivers.sent if at > 389]
        # Both are tried at once; when the endpoint takes one, what waited goes too, in order.
        assert ids[0] == page
        assert ids[-1] == first
        assert wanted in ids
        assert set(scene.fates("desk").values()) == {"delivered"}
        await scene.kill()

    run_virtual(main())


def test_message_that_is_not_urgent_overtakes_nothing() -> None:
    async def main() -> None:
        receivers = Receivers(DESK, answers=lambda _name, _id, at: DOWN if at < 3 else TAKEN)
        scene = Scene(receivers)
        ids = [scene.put(to=("desk",), severity=severity) for severity in ("critical", "warning", "critical", "info")]
        await scene.until(60)
        taken = [id_ for at, _, id_, _ in receivers.sent if at >= 3]
        assert taken[0] == ids[0]
        assert taken.index(ids[1]) < taken.index(ids[3])
        await scene.kill()

    run_virtual(main())


def test_endpoint_that_asks_for_silence_gets_it_from_every_message() -> None:
    async def main() -> None:
        asking = [RetryLater(reason="HTTP 429", status=429, after_ns=90 * NS)]
        receivers = Receivers(replace(DESK, ordered=False), answers=lambda *_: asking.pop() if asking else TAKEN)
        scene = Scene(receivers)
        scene.put(to=("desk",))
        await scene.until(10)
        scene.put(to=("desk",), entity="dydx:ETH-USD")
        await scene.until(89)
        assert len(receivers.sent) == 1
        await scene.until(400)
        assert all(at >= 90 for at in times(receivers, "desk")[1:])
        assert len(receivers.sent) == 3
        await scene.kill()

    run_virtual(main())


# --- 410 --------------------------------------------------------------------------------------------------------------


def test_endpoint_that_is_gone_stays_so_over_restarts_until_it_is_enabled() -> None:
    async def main() -> None:
        gone = [Disabled(reason="HTTP 410")]
        receivers = Receivers(DESK, answers=lambda *_: gone.pop() if gone else TAKEN)
        scene = Scene(receivers)
        first = scene.put(to=("desk",))
        await scene.until(2)
        await scene.kill()
        scene.begin()
        second = scene.put(to=("desk",))
        await scene.until(4)
        assert receivers.ids("desk") == [first]
        assert scene.lanes.disabled == {"desk"}
        assert [letter.id for letter in scene.outbox.dead_letters()] == [first, second]
        assert "reefd webhook enable desk" in scene.outbox.dead_letters()[1].error
        alerts = alerts_of(scene)
        assert alerts.overview()[0].state == "disabled"
        assert "2 dead letters" in await alerts.enable("desk")
        assert [letter.id for letter in await alerts.redeliver("*")] == [first, second]
        await scene.until(8)
        assert receivers.ids("desk") == [first, first, second]
        assert scene.lanes.disabled == set()
        assert alerts.overview()[0].state == "ok"
        await scene.kill()

    run_virtual(main())


# --- the second channel -----------------------------------------------------------------------------------------------


def with_fallback(answers: Sequence[Answer] | Answer) -> tuple[Receivers, Scene]:
    left = list(answers) if isinstance(answers, Sequence) else [answers]

    def answer(name: str, _id: str, _at: float) -> Answer:
        if name == "phone":
            return TAKEN
        return left.pop(0) if len(left) > 1 else left[0]

    receivers = Receivers(replace(DESK, fallback="phone"), PHONE, answers=answer)
    return receivers, Scene(receivers, idle_s=1)


@pytest.mark.parametrize(
    ("answer", "within_s", "given_up"),
    [
        (DOWN, 180, True),
        (Disabled(reason="HTTP 410"), 2, True),
        (Dead(reason="HTTP 413"), 2, True),
        (RetryLater(reason="HTTP 429", status=429, after_ns=HOUR_NS), 2, False),
    ],
)
def test_critical_notice_that_cannot_be_delivered_is_raised_elsewhere_once(answer: Answer, within_s: float, given_up: bool) -> None:
    async def main() -> None:
        receivers, scene = with_fallback(answer)
        id_ = scene.put("page", severity="critical", to=("desk",), said="run failed: timeout")
        await scene.until(600)
        assert receivers.ids("phone") == [id_]
        assert times(receivers, "phone")[0] <= within_s
        [body] = [body for _, name, _, body in receivers.sent if name == "phone"]
        assert read_message(body).notices[0].undelivered.startswith("desk did not take it: HTTP")
        assert scene.alarms == ([id_] if given_up else [])
        await scene.kill()

    run_virtual(main())


def test_notice_of_an_endpoint_that_is_known_to_be_down_is_raised_elsewhere_at_once() -> None:
    async def main() -> None:
        receivers, scene = with_fallback(DOWN)
        for n in range(OPEN_AFTER):
            scene.put(to=("desk",), entity=f"dydx:M{n}-USD")
        # An ordered lane fails one message at a time: by its fifth try the breaker is open.
        await scene.until(3 * 3_600)
        assert receivers.ids("phone") == []
        id_ = scene.put("page", severity="critical", to=("desk",), said="run failed")
        await scene.until(3 * 3_600 + 2)
        assert receivers.ids("phone") == [id_]
        await scene.kill()
        scene.begin()
        await scene.until(3 * 3_600 + 300)
        assert receivers.ids("phone") == [id_]
        await scene.kill()

    run_virtual(main())


def test_notice_that_is_not_urgent_is_not_raised_elsewhere() -> None:
    async def main() -> None:
        receivers, scene = with_fallback(Dead(reason="HTTP 413"))
        scene.put(to=("desk",))
        await scene.until(600)
        assert receivers.ids("phone") == []
        assert scene.alarms == []
        await scene.kill()

    run_virtual(main())


def test_fallback_that_was_told_anyway_is_not_told_twice() -> None:
    async def main() -> None:
        receivers, scene = with_fallback(DOWN)
        id_ = scene.put("page", severity="critical", to=("desk", "phone"), said="run failed")
        await scene.until(600)
        assert receivers.ids("phone") == [id_]
        await scene.kill()

    run_virtual(main())


def test_group_with_a_critical_notice_is_raised_elsewhere_whole() -> None:
    async def main() -> None:
        chat = replace(DESK, name="chat", format="slack", grouping=Grouping(), fallback="phone")
        receivers = Receivers(chat, PHONE, answers=lambda name, _id, _at: DOWN if name == "chat" else TAKEN)
        scene = Scene(receivers)
        for n in range(20):
            scene.put(entity=f"dydx:M{n}-USD", severity="critical")
        await scene.until(400)
        told = [read_message(body) for _, name, _, body in receivers.sent if name == "phone"]
        assert sum(len(message.notices) for message in told) == 20
        assert all(notice.undelivered for message in told for notice in message.notices)
        await scene.kill()

    run_virtual(main())


# --- what a person may ask for ----------------------------------------------------------------------------------------


def test_overview_says_how_each_endpoint_does_without_its_secrets() -> None:
    async def main() -> None:
        receivers = Receivers(replace(DESK, fallback="phone"), PHONE, answers=lambda name, _id, _at: DOWN if name == "desk" else TAKEN)
        scene = Scene(receivers)
        alerts = alerts_of(scene)
        assert {report.state for report in alerts.overview()} == {"never used"}
        scene.put(to=("desk", "phone"))
        await scene.until(10)
        desk, phone = alerts.overview()
        assert (desk.state, desk.waiting, desk.dead, desk.failures, desk.error, desk.fallback) == ("retrying", 1, 0, 2, "HTTP 503", "phone")
        assert (phone.state, phone.delivered, phone.waiting, phone.channels) == ("ok", 1, 0, ("page",))
        assert phone.delivered_at is not None
        assert desk.address == "https://hooks.example.com/…"
        assert "whsec" not in repr(alerts.overview())
        await scene.kill()

    run_virtual(main())


def test_dead_letter_goes_again_by_id_and_anything_else_is_refused_in_words() -> None:
    async def main() -> None:
        refused = [Dead(reason="HTTP 413")]
        receivers = Receivers(DESK, answers=lambda *_: refused.pop() if refused else TAKEN)
        scene = Scene(receivers)
        alerts = alerts_of(scene)
        id_ = scene.put(to=("desk",))
        await scene.until(1)
        [letter] = alerts.dead_letters()
        assert [m.id for m in await alerts.redeliver(str(letter.position))] == [id_]
        await scene.until(2)
        assert scene.fates("desk") == {id_: "delivered"}
        with pytest.raises(UserError, match="is no dead letter: it is delivered at desk"):
            await alerts.redeliver(id_)
        with pytest.raises(UserError, match="there is no message 'nothing'"):
            await alerts.redeliver("nothing")
        assert await alerts.redeliver("*") == []
        with pytest.raises(UserError, match="did you mean 'desk'"):
            await alerts.enable("desc")
        with pytest.raises(UserError, match="did you mean 'desk'"):
            await alerts.test("desc")
        await scene.kill()

    run_virtual(main())


def test_member_of_a_dead_group_brings_the_group_back() -> None:
    async def main() -> None:
        refused = [Dead(reason="HTTP 400")]
        chat = replace(DESK, name="chat", format="slack", grouping=Grouping())
        receivers = Receivers(chat, answers=lambda *_: refused.pop() if refused else TAKEN)
        scene = Scene(receivers)
        ids = [scene.put(entity=f"dydx:M{n}-USD") for n in range(3)]
        await scene.until(20)
        [again] = await alerts_of(scene).redeliver(ids[1])
        assert again.id == f"{ids[0]}.group"
        await scene.until(30)
        assert {scene.fates()[id_] for id_ in ids} == {"delivered"}
        await scene.kill()

    run_virtual(main())


@pytest.mark.parametrize(
    ("answer", "delivered", "said"),
    [
        (TAKEN, True, "taken (HTTP 200)"),
        (DOWN, False, "not taken: HTTP 503"),
        (RetryLater(reason="HTTP 429", status=429, after_ns=2 * MINUTE_NS), False, "not taken: HTTP 429; it asks for 2m of silence"),
        (Disabled(reason="HTTP 410"), False, "gone: HTTP 410; the daemon stops sending to an endpoint that says so"),
        (Dead(reason="HTTP 413"), False, "refused: HTTP 413"),
    ],
)
def test_test_message_goes_at_once_and_tells_the_answer(answer: Answer, delivered: bool, said: str) -> None:
    async def main() -> None:
        receivers = Receivers(replace(DESK, grouping=Grouping()), answers=lambda *_: answer)
        scene = Scene(receivers)
        tested = await alerts_of(scene).test("desk")
        assert (tested.delivered, tested.answer) == (delivered, said)
        [(_, _, id_, body)] = receivers.sent
        assert id_.startswith("test/desk/")
        assert json.loads(body)["type"] == "notice.test"
        # A test disables nothing and is in no outbox.
        assert scene.lanes.disabled == set()
        assert scene.outbox.messages() == []
        await scene.kill()

    run_virtual(main())


def test_an_endpoint_with_all_its_places_taken_hides_no_other() -> None:
    async def play() -> None:
        wide = replace(PHONE, name="wide", ordered=False)
        receivers = Receivers(wide, DESK, takes_s=30.0)
        scene = Scene(receivers)
        for _ in range(120):
            scene.put(to=("wide",))
        await scene.until(1)
        assert len(receivers.ids("wide")) == WIDTH_MAX
        newer = scene.put(to=("desk",))
        await scene.until(2)
        assert receivers.ids("desk") == [newer]
        await scene.until(600)
        assert len(set(receivers.ids("wide"))) == len(receivers.ids("wide")) == 120
        await scene.kill()

    run_virtual(play())
