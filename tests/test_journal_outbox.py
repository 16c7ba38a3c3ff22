"""Lanes of the outbox: order within an endpoint, independence between endpoints, retries, dead letters, redelivery."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.journal.store import Entry, Journal, OutboxItem


def item(id: str, endpoint: str = "desk", at: int = 100) -> OutboxItem:
    return OutboxItem(id=id, endpoint=endpoint, body=f'{{"id":"{id}"}}', severity="warning", created_at=at)


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    opened = Journal.open(tmp_path / "state.db")
    record = Entry(seq=1, at=100, role="record", type="ActionRequested", body="{}")
    opened.append(None, [record], [item("a1"), item("p1", "page"), item("a2"), item("a3")]).result()
    yield opened
    opened.close()


def due(journal: Journal, now: int, unordered: frozenset[str] = frozenset()) -> list[str]:
    return [delivery.id for delivery in journal.due_deliveries(now, unordered=unordered)]


def position(journal: Journal, id: str) -> int:
    return next(d.position for d in journal.due_deliveries(1 << 60, unordered=frozenset({"desk", "page"})) if d.id == id)


def test_only_the_head_of_each_lane_is_due(journal: Journal) -> None:
    assert due(journal, 100) == ["a1", "p1"]
    assert due(journal, 99) == []
    assert due(journal, 100, unordered=frozenset({"desk"})) == ["a1", "p1", "a2", "a3"]


def test_one_endpoints_lane_is_handed_out_whole_and_what_is_retried_later_holds_nobody_up(journal: Journal) -> None:
    assert [d.id for d in journal.lane("desk", 100)] == ["a1", "a2", "a3"]
    assert journal.lane("desk", 99) == []
    journal.mark_failed(position(journal, "a1"), 110, "nobody", 500).result()
    assert [d.id for d in journal.lane("desk", 110)] == ["a2", "a3"]
    assert [d.id for d in journal.lane("desk", 500, 2)] == ["a1", "a2"]


def test_a_delivery_lets_the_next_of_its_lane_go(journal: Journal) -> None:
    journal.mark_delivered(position(journal, "a1"), 110).result()

    assert due(journal, 110) == ["p1", "a2"]
    assert journal.waiting_deliveries() == 3


def test_a_failure_holds_its_own_lane_back_and_no_other(journal: Journal) -> None:
    journal.mark_failed(position(journal, "a1"), 110, "503", retry_at=5_000).result()
    journal.mark_delivered(position(journal, "p1"), 110).result()

    assert due(journal, 4_999) == []
    assert journal.next_delivery_due() == 5_000
    (delivery,) = journal.due_deliveries(5_000)
    assert (delivery.id, delivery.attempts, delivery.error, delivery.body) == ("a1", 1, "503", '{"id":"a1"}')


def test_a_dead_letter_frees_its_lane_and_comes_back_at_its_old_place(journal: Journal) -> None:
    first = position(journal, "a1")
    journal.mark_failed(first, 110, "410 gone", retry_at=None).result()
    assert due(journal, 110) == ["p1", "a2"]
    (letter,) = journal.dead_letters("desk")
    assert (letter.id, letter.error) == ("a1", "410 gone")
    assert journal.dead_letters("page") == []

    journal.redeliver(first, 200).result()

    assert journal.dead_letters() == []
    assert due(journal, 200) == ["a1", "p1"]
    assert journal.due_deliveries(200)[0].attempts == 0


def test_the_same_action_to_the_same_endpoint_is_one_delivery(journal: Journal) -> None:
    record = Entry(seq=2, at=100, role="record", type="ActionRequested", body="{}")
    journal.append(None, [record], [item("a1"), item("a1", "page")]).result()

    assert due(journal, 100, unordered=frozenset({"desk", "page"})) == ["a1", "p1", "a2", "a3", "a1"]


def test_a_late_failure_of_a_delivered_item_does_not_bring_it_back(journal: Journal) -> None:
    first = position(journal, "a1")
    journal.mark_delivered(first, 110).result()
    journal.mark_failed(first, 111, "timeout", retry_at=120).result()

    assert due(journal, 200) == ["p1", "a2"]


def test_lanes_survive_a_restart_with_their_attempts(tmp_path: Path, journal: Journal) -> None:
    journal.mark_failed(position(journal, "a1"), 110, "503", retry_at=300).result()
    journal.close()

    with Journal.open(tmp_path / "state.db") as again:
        assert due(again, 299) == ["p1"]
        assert again.due_deliveries(300)[0].attempts == 1


def test_nothing_is_due_when_nothing_waits(tmp_path: Path) -> None:
    with Journal.open(tmp_path / "other.db") as journal:
        assert journal.next_delivery_due() is None
        assert journal.due_deliveries(1 << 60) == []
