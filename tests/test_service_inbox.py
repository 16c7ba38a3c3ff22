"""What waits for the engine: bounded, coalescing observations, never dropping outcomes or commands."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from service_world import drained, rows, run_virtual

from daemon.engine.actions import Outcome
from daemon.engine.events import ActionSettled, Event, FeedFailed, Observed, OperatorCommand, Row
from daemon.service.inbox import Inbox, merge
from daemon.world.entities import Kind


def observed(source: str, value: float, *, name: str = "oracle_price", history: bool = False) -> Observed:
    return Observed(at=0, source=source, rows=tuple(rows(source, value=value, name=name)), history=history)


def settled(number: int) -> ActionSettled:
    return ActionSettled(at=0, action_id=f"a.{number}", outcome=Outcome(status="done"))


def test_inbox_gives_events_back_in_their_order_while_there_is_room() -> None:
    inbox = Inbox(observations_max=3)
    events: list[Event] = [observed("a", 1.0), settled(1), observed("b", 2.0), FeedFailed(at=0, source="c", reason="down")]
    for event in events:
        inbox.put(event)
    assert drained(inbox) == events


@given(st.lists(st.sampled_from(["a", "b", "c", "fail a", "settled", "command", "history"]), max_size=80), st.integers(4, 6))
def test_inbox_never_drops_outcomes_commands_or_the_latest_value_of_a_source(kinds: list[str], places: int) -> None:
    inbox = Inbox(observations_max=places)
    latest: dict[str, float] = {}
    kept: list[Event] = []
    for number, kind in enumerate(kinds):
        match kind:
            case "settled":
                kept.append(settled(number))
                inbox.put(kept[-1])
            case "command":
                kept.append(OperatorCommand(at=0, command_id=str(number), actor="me", verb="ack"))
                inbox.put(kept[-1])
            case "fail a":
                inbox.put(FeedFailed(at=0, source="a", reason="down"))
            case "history":
                if "history" not in kinds[:number]:
                    kept.append(observed("past", 1.0, history=True))
                    inbox.put(kept[-1])
            case source:
                latest[source] = float(number)
                inbox.put(observed(source, float(number)))
    found = drained(inbox)
    assert [event for event in found if event in kept] == kept
    assert sum(isinstance(event, Observed | FeedFailed) for event in found) <= places
    for source, value in latest.items():
        last = [event for event in found if isinstance(event, Observed) and event.source == source][-1]
        assert last.rows[-1].values["oracle_price"] == value


def test_inbox_refuses_commands_beyond_its_bound_and_says_so() -> None:
    inbox = Inbox(commands_max=1)
    assert inbox.put(OperatorCommand(at=0, command_id="1", actor="me", verb="ack"))
    assert not inbox.put(OperatorCommand(at=0, command_id="2", actor="me", verb="ack"))
    assert len(inbox) == 1


def test_merge_keeps_what_only_the_older_batch_said_with_its_own_time() -> None:
    old = Observed(at=0, source="s", rows=(Row(kind=Kind.MARKET, entity="m", values={"bid_price": 1.0, "ask_price": 2.0}, event_ts=10),))
    new = Observed(at=0, source="s", rows=(Row(kind=Kind.MARKET, entity="m", values={"bid_price": 1.5}, event_ts=20),))
    merged = merge(old, new)
    assert isinstance(merged, Observed)
    assert [(dict(row.values), row.event_ts) for row in merged.rows] == [({"ask_price": 2.0}, 10), ({"bid_price": 1.5}, 20)]


def test_merge_never_puts_a_failed_poll_in_place_of_readings() -> None:
    assert merge(observed("s", 1.0), FeedFailed(at=0, source="s", reason="down")) is None
    assert merge(observed("s", 1.0), observed("other", 1.0)) is None
    assert merge(observed("s", 1.0), observed("s", 2.0, history=True)) is None


def test_inbox_wait_ends_when_something_arrives_or_the_time_is_over() -> None:
    async def main() -> None:
        inbox = Inbox()
        await inbox.wait(1.0)
        assert len(inbox) == 0
        inbox.put(observed("a", 1.0))
        await inbox.wait(3600.0)
        assert len(inbox) == 1

    run_virtual(main())


def test_inbox_owes_outcomes_and_commands_and_no_observation() -> None:
    inbox = Inbox(observations_max=3)
    for event in (observed("a", 1.0), settled(1), FeedFailed(at=0, source="c", reason="down")):
        inbox.put(event)
    assert (len(inbox), inbox.owed) == (3, 1)
    drained(inbox)
    assert inbox.owed == 0
