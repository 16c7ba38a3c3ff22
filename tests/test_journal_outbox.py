"""Lanes of the outbox: order within an endpoint, independence between endpoints, retries, dead letters, redelivery."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.journal import outbox
from daemon.journal.schema import STATE_MIGRATIONS
from daemon.journal.store import DELIVERED_KEPT_NS, PRUNED_MAX, Entry, Journal, OutboxItem


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


# --- groups and endpoints ---------------------------------------------------------------------------------------------


def held(id: str, at: int = 100, *, urgent: bool = False, reminder: bool = False) -> OutboxItem:
    return OutboxItem(
        id=id, endpoint="chat", body=f'{{"id":"{id}"}}', severity="warning", created_at=at, urgent=urgent, group="g", reminder=reminder
    )


def carrier(at: int) -> OutboxItem:
    return OutboxItem(id="h1.group", endpoint="chat", body="{}", severity="warning", created_at=at)


def test_message_with_a_group_is_on_no_lane_until_it_is_released(journal: Journal) -> None:
    journal.send([held("h1"), held("h2", 120, urgent=True), held("h3", 130, reminder=True)]).result()

    assert due(journal, 200) == ["a1", "p1"]
    (group,) = journal.held_groups()
    assert (group.endpoint, group.group, group.count, group.first_at, group.urgent_at, group.reminder_at) == ("chat", "g", 3, 100, 120, 130)
    assert group.told_at is None

    journal.release(journal.group_members("chat", "g", 10)[0].position, 150).result()

    assert due(journal, 200) == ["a1", "p1", "h1"]
    assert journal.held_groups()[0].told_at == 150


def test_members_share_the_fate_of_the_message_that_tells_them(journal: Journal) -> None:
    journal.send([held("h1"), held("h2")]).result()
    positions = [m.position for m in journal.group_members("chat", "g", 10)]

    journal.coalesce(positions, carrier(150)).result()

    assert journal.held_groups() == []
    assert due(journal, 150) == ["a1", "p1", "h1.group"]
    (group,) = journal.messages_of("h1.group")
    assert [(m.id, m.status, m.settled_at) for m in journal.carried_by(group.position)] == [("h1", "grouped", 150), ("h2", "grouped", 150)]
    assert journal.waiting_deliveries() == 5


def test_message_that_was_told_already_is_not_told_by_a_second_group(journal: Journal) -> None:
    journal.send([held("h1"), held("h2")]).result()
    first, second = (m.position for m in journal.group_members("chat", "g", 10))
    journal.coalesce([first, second], carrier(150)).result()
    other = OutboxItem(id="again.group", endpoint="chat", body="{}", severity="warning", created_at=160)

    journal.coalesce([second], other).result()

    assert [m.id for m in journal.carried_by(journal.messages_of("h1.group")[0].position)] == ["h1", "h2"]
    assert journal.failure is None


def test_urgent_message_overtakes_a_head_that_waits_and_is_overtaken_by_nothing(journal: Journal) -> None:
    journal.send([OutboxItem(id="u1", endpoint="desk", body="{}", severity="critical", created_at=100, urgent=True)]).result()
    assert due(journal, 100) == ["u1", "a1", "p1"]

    for id in ("a1", "a2", "a3"):
        journal.mark_delivered(position(journal, id), 110).result()
    journal.send([item("a4")]).result()
    journal.mark_failed(position(journal, "u1"), 110, "503", retry_at=500).result()

    assert due(journal, 200) == ["p1"]
    assert due(journal, 500) == ["u1", "p1"]


def test_spared_endpoint_gets_what_is_urgent_only(journal: Journal) -> None:
    journal.send([OutboxItem(id="u1", endpoint="desk", body="{}", severity="critical", created_at=100, urgent=True)]).result()

    found = journal.due_deliveries(100, spared=frozenset({"desk"}))

    assert [delivery.id for delivery in found] == ["u1", "p1"]


def test_failures_of_an_endpoint_are_counted_until_it_takes_something(tmp_path: Path, journal: Journal) -> None:
    for at in (110, 120):
        journal.endpoint_failed("desk", at, "503", at + 7).result()
    journal.mark_failed(position(journal, "a1"), 120, "503", retry_at=9_000).result()
    journal.close()

    with Journal.open(tmp_path / "state.db") as again:
        record = again.endpoint_records()["desk"]
        assert (record.failures, record.failed_at, record.error, record.not_before) == (2, 120, "503", 127)
        again.mark_delivered(position(again, "a2"), 130).result()
        record = again.endpoint_records()["desk"]
        assert (record.failures, record.delivered, record.delivered_at, record.not_before) == (0, 1, 130, 0)
        # It takes messages again: what waited for a further try need not wait any longer.
        assert due(again, 130) == ["a1", "p1"]


def test_disabled_endpoint_is_so_until_it_is_enabled(journal: Journal) -> None:
    journal.disable_endpoint("desk", 110, "410 gone").result()
    assert journal.endpoint_records()["desk"].disabled_at == 110
    journal.endpoint_failed("desk", 120, "503").result()
    assert journal.endpoint_records()["desk"].disabled_reason == "410 gone"

    journal.enable_endpoint("desk", 130).result()

    record = journal.endpoint_records()["desk"]
    assert (record.disabled_at, record.disabled_reason, record.failures) == (None, "", 0)


def test_outbox_of_the_first_version_is_carried_over_with_its_places(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    old = sqlite3.connect(path)
    old.executescript(f"BEGIN;{STATE_MIGRATIONS[0]};PRAGMA user_version = 1;COMMIT;")
    rows = [("w", "desk", "warning", "waiting", 2, 500), ("c", "desk", "critical", "waiting", 0, 100)]
    rows += [("d", "page", "warning", "dead", 4, 100), ("t", "desk", "warning", "delivered", 1, 100)]
    for id_, endpoint, severity, status, attempts, next_due in rows:
        old.execute(
            "INSERT INTO outbox (id, endpoint, body, severity, created_at, status, attempts, next_due, settled_at, error) "
            "VALUES (?, ?, '{}', ?, 100, ?, ?, ?, 300, 'x')",
            (id_, endpoint, severity, status, attempts, next_due),
        )
    old.commit()
    old.close()

    with Journal.open(path) as journal:
        kept = [(m.position, m.id, m.status, m.attempts) for m in reversed(journal.messages())]
        assert kept == [(1, "w", "waiting", 2), (2, "c", "waiting", 0), (3, "d", "dead", 4), (4, "t", "delivered", 1)]
        assert [m.id for m in journal.messages() if m.urgent] == ["c"]
        assert due(journal, 200) == ["c"]
        assert due(journal, 500) == ["c", "w"]
        assert journal.endpoint_records()["desk"].delivered == 1
        journal.send([item("new")]).result()
        assert journal.messages_of("new")[0].position == 5


@given(
    rows=st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 1), st.integers(0, 3), st.sampled_from(["waiting", "dead", "delivered"])),
        max_size=25,
    ),
    unordered=st.frozensets(st.sampled_from("abc")),
    spared=st.frozensets(st.sampled_from("abc")),
    now=st.integers(0, 3),
)
def test_what_is_due_is_what_the_rules_of_lanes_say(
    rows: list[tuple[str, int, int, str]], unordered: frozenset[str], spared: frozenset[str], now: int
) -> None:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in STATE_MIGRATIONS:
        connection.executescript(script)
    for number, (endpoint, urgent, next_due, status) in enumerate(rows, start=1):
        connection.execute(
            "INSERT INTO outbox (id, endpoint, body, severity, created_at, next_due, urgent, status) VALUES (?, ?, '', '', 0, ?, ?, ?)",
            (str(number), endpoint, next_due, urgent, status),
        )

    def may_go(number: int) -> bool:
        endpoint, urgent, next_due, status = rows[number - 1]
        before = [row for row in rows[: number - 1] if row[0] == endpoint and row[3] == "waiting"]
        first = not before or (urgent and not any(row[1] for row in before))
        return status == "waiting" and next_due <= now and (first or endpoint in unordered) and (bool(urgent) or endpoint not in spared)

    expected = sorted((n for n in range(1, len(rows) + 1) if may_go(n)), key=lambda n: (-rows[n - 1][1], n))
    assert [d.position for d in outbox.due(connection, now, unordered, spared, 100, frozenset())] == expected
    assert outbox.waiting(connection) == sum(status == "waiting" for *_, status in rows)
    connection.close()


# --- how much is looked at --------------------------------------------------------------------------------------------

MANY = 2_000


@pytest.fixture
def full() -> Iterator[sqlite3.Connection]:
    """A table with many that wait, many that were delivered and one that is dead."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    for script in STATE_MIGRATIONS:
        connection.executescript(script)
    connection.execute("BEGIN")
    outbox.insert(connection, [item(f"t{n}", "page") for n in range(MANY)])
    connection.execute("UPDATE outbox SET status = 'delivered', settled_at = 110")
    outbox.insert(connection, [item(f"{name}{n}", name) for n in range(MANY) for name in ("desk", "wide")])
    outbox.insert(connection, [item("x", "page")])
    connection.execute("UPDATE outbox SET status = 'dead' WHERE id = 'x'")
    connection.execute("COMMIT")
    yield connection
    connection.close()


def effort(connection: sqlite3.Connection, question: Callable[[], object]) -> int:
    """Steps of SQLite's machine that a question takes: the same on every computer."""
    steps = 0

    def step() -> int:
        nonlocal steps
        steps += 1
        return 0

    connection.set_progress_handler(step, 1)
    question()
    connection.set_progress_handler(None, 1)
    return steps


@pytest.mark.parametrize("spared", [frozenset[str](), frozenset({"desk", "wide"})])
def test_what_is_due_is_found_without_looking_at_all_that_waits(full: sqlite3.Connection, spared: frozenset[str]) -> None:
    wide = frozenset({"wide"})
    assert effort(full, lambda: outbox.due(full, 100, wide, spared, 10, frozenset())) < MANY
    assert effort(full, lambda: outbox.due(full, 50, wide, spared, 10, frozenset())) < MANY / 4  # nothing is due yet


def test_dead_letters_are_found_without_looking_at_what_was_delivered(full: sqlite3.Connection) -> None:
    assert [letter.id for letter in outbox.dead(full, None, None, 5)] == ["x"]
    assert effort(full, lambda: outbox.dead(full, None, None, 5)) < MANY / 4
    assert outbox.counts(full) == {("desk", "waiting"): MANY, ("wide", "waiting"): MANY, ("page", "dead"): 1}


def test_one_wide_lane_hides_no_other(journal: Journal) -> None:
    wide = frozenset({"wide"})
    journal.send([item(f"w{n}", "wide") for n in range(120)]).result()
    journal.send([item("new", "other")]).result()
    first = journal.due_deliveries(100, unordered=wide, limit=10)
    assert [d.id for d in first] == ["a1", "p1", *(f"w{n}" for n in range(10)), "new"]
    second = journal.due_deliveries(100, unordered=wide, sending=frozenset(d.position for d in first), limit=10)
    assert [d.id for d in second] == [f"w{n}" for n in range(10, 20)]


def test_dead_letters_come_in_portions(journal: Journal) -> None:
    for id_ in ("a1", "a2", "a3"):
        journal.mark_failed(journal.messages_of(id_)[0].position, 110, "gone", None).result()
    assert [letter.id for letter in journal.dead_letters(limit=2)] == ["a2", "a3"]
    assert [letter.id for letter in journal.dead_letters(after=0, limit=2)] == ["a1", "a2"]
    assert [letter.id for letter in journal.dead_letters(after=journal.messages_of("a2")[0].position, limit=2)] == ["a3"]


def test_what_was_delivered_long_ago_is_dropped_in_portions_and_the_chain_holds(journal: Journal) -> None:
    journal.send([item(f"w{n}", "wide") for n in range(PRUNED_MAX)]).result()
    for message in journal.messages("wide", limit=PRUNED_MAX):
        journal.mark_delivered(message.position, 200).result()
    journal.mark_delivered(journal.messages_of("a1")[0].position, 100).result()
    journal.mark_failed(journal.messages_of("a2")[0].position, 100, "gone", None).result()
    journal.send([held("h1"), held("h2")]).result()
    grouped = OutboxItem(id="h.group", endpoint="chat", body="{}", severity="warning", created_at=100)
    journal.coalesce([m.position for m in journal.group_members("chat", "g", 9)], grouped).result()
    journal.mark_failed(journal.messages_of("h.group")[0].position, 100, "gone", None).result()

    def checkpoint(at: int) -> set[str]:
        journal.write_checkpoint(1, at, {}).result()
        journal.flush().result()
        return {m.id for m in journal.messages(limit=1_000)}

    assert len(checkpoint(DELIVERED_KEPT_NS + 100)) == PRUNED_MAX + 7
    # Dead is kept, with those that it told: it may go again. The oldest go first.
    left = checkpoint(DELIVERED_KEPT_NS + 1_000)
    assert "a1" not in left
    assert len(left) == 7
    assert checkpoint(DELIVERED_KEPT_NS + 1_000) == {"p1", "a2", "a3", "h1", "h2", "h.group"}
    assert journal.endpoint_records()["wide"].delivered == PRUNED_MAX
    assert journal.verify_chain().intact
