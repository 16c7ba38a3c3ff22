"""What is allowed and still doubtful: each static warning, and that nothing right is warned of."""

from __future__ import annotations

from datetime import date

import pytest
from runbook_example import EXAMPLE

from daemon.runbook.load import load_documents, load_text
from daemon.runbook.provided import unprovided
from daemon.runbook.warnings import overdue
from daemon.world.entities import Kind, Topology, Venue


def changed(*pairs: tuple[str, str]) -> str:
    text = EXAMPLE
    for old, new in pairs:
        assert text.count(old) >= 1, old
        text = text.replace(old, new, 1)
    return text


def codes(*texts: str) -> list[str]:
    loaded = load_documents({f"{i}.yaml": text for i, text in enumerate(texts)})
    assert not loaded.errors, [e.render() for e in loaded.errors]
    return [w.code for w in loaded.warnings]


def small(name: str, *, steps: str, extra: str = "", intent: str = "economy", scope: str = "account", when: str = "equity < 5 USD") -> str:
    return (
        f"schema: reefd/v1\nrunbook: {name}\ntitle: t\nowner: o\nseverity: info\nintent: {intent}\nstage: shadow\nscope: {scope}\n"
        f"trigger: {{when: {when}}}\n{extra}limits: {{per_run: 5 USD}}\nsteps: [{steps}]\n"
        "tests: [{name: n, given: {equity: 100 USD}, expect: [{at: 1s, state: inactive}]}]\n"
    )


def test_a_write_without_a_limit_in_money_is_warned_of() -> None:
    loaded = load_text(
        changed(("limits: {per_run: 25_000 USD, per_day: 60_000 USD, per_episode: 50%, runs: 6/day}", "limits: {runs: 6/day}")), "x.yaml"
    )
    assert [(w.code, w.source_line[: w.column - 1]) for w in loaded.warnings] == [("W001", "limits: ")]
    assert "'shrink'" in loaded.warnings[0].message


def test_no_tests_are_warned_of_at_the_id() -> None:
    text = EXAMPLE[: EXAMPLE.index("tests:")]
    (warning,) = load_text(text, "x.yaml").warnings
    assert (warning.code, warning.line, warning.column) == ("W002", 2, 10)


@pytest.mark.parametrize(
    ("guard", "warned"),
    [("oracle_divergence < 50bps", True), ("venue_up_for > 1m", False), ("max_over(positions, spread) < 1%", True), ("calm", True)],
)
def test_price_guard_on_survival_is_warned_of(guard: str, warned: bool) -> None:
    text = small(
        "a", intent="survival", scope="position", steps="{id: s, shrink_position: {by: 10%}}", when="margin_ratio > 50%",
        extra=f"let: {{calm: basis < 1%}}\nguards: ['{guard}']\n",
    )  # fmt: skip
    assert codes(text) == (["W003"] if warned else [])
    assert codes(text.replace("survival", "economy")) == []


@pytest.mark.parametrize(
    ("every", "last", "as_of", "warned"),
    [
        ("quarter", date(2026, 10, 1), date(2027, 1, 1), False),  # 92 days
        ("quarter", date(2026, 10, 1), date(2027, 1, 2), True),
        ("month", date(2026, 10, 1), date(2026, 11, 1), False),
        ("month", date(2026, 10, 1), date(2026, 11, 2), True),
        ("year", date(2026, 10, 1), date(2027, 10, 2), False),
        ("quarter", date(9999, 12, 31), date(2027, 1, 1), False),
    ],
)
def test_overdue_review_is_warned_of(every: str, last: date, as_of: date, warned: bool) -> None:
    text = changed(("{every: quarter, last: 2026-10-01}", f"{{every: {every}, last: {last.isoformat()}}}"))
    found = overdue(load_text(text, "x.yaml").runbooks, as_of)
    assert [w.code for w in found] == (["W004"] if warned else [])
    assert all(w.source_line[w.column - 1 : w.column - 1 + w.width] == f"{last.isoformat()}}}" for w in found)


@pytest.mark.parametrize(
    ("when", "until", "warned"),
    [
        ("paid > 0.05%/h", "paid < 0.02%/h", False),
        ("paid > 0.05%/h", "paid < 0.05%/h", False),
        ("paid > 0.05%/h", "paid <= 0.05%/h", False),
        ("paid >= 0.05%/h", "paid <= 0.05%/h", True),
        ("paid > 0.05%/h", "paid < 0.06%/h", True),
        ("paid > 0.05%/h", "0.06%/h > paid", True),
        ("paid > 0.05%/h", "paid < 0.48%/8h", True),
        ("paid > 0.05%/h", "paid > 0.02%/h", True),
        ("paid > 0.05%/h and basis > 1%", "paid < 0.02%/h or basis < 1%", False),
        ("paid > 0.05%/h or basis > 1%", "paid < 0.02%/h", True),
        ("paid > 0.05%/h or basis > 1%", "paid < 0.02%/h and basis < 1%", False),
        ("paid > 0.05%/h and funding_rate > mean(funding_rate, 7d)", "paid < 0.02%/h", False),
        ("paid > 0.05%/h and funding_rate > mean(funding_rate, 7d)", "paid < 0.06%/h", True),
        ("not (paid < 0.05%/h)", "paid < 0.04%/h", False),
        ("not (paid < 0.05%/h)", "not (paid > 0.05%/h)", True),
        ("market_open", "not market_open", False),
        ("market_open", "market_open", True),
        ("0.05%/h < paid < 1%/h", "paid < 0.05%/h or paid > 1%/h", False),
        ("paid > 0.05%/h", "spread < 1%", False),  # two signals: nothing is known of how they go together
    ],
)
def test_until_that_overlaps_when_is_warned_of(when: str, until: str, warned: bool) -> None:
    text = changed(
        ("when: paid > 0.05%/h and funding_rate > quantile(funding_rate, 99%, 7d)", f"when: {when}"),
        ("until: paid < 0.02%/h", f"until: {until}"),
    )
    assert codes(text) == (["W005"] if warned else [])


SHRINK = "{id: s, shrink_account: {by: 10%}}"
MOVE = "{id: m, move_buffer: {from: ethereum, amount: 5 USD}}"


@pytest.mark.parametrize(
    ("first", "second", "warned"),
    [
        (small("a", steps=SHRINK), small("b", steps=SHRINK), True),
        (small("a", steps=SHRINK, extra="locks: [account]\n"), small("b", steps=SHRINK, extra="locks: [account]\n"), False),
        (small("a", steps=SHRINK, extra="locks: [account]\n"), small("b", steps=SHRINK), True),
        (small("a", steps=SHRINK, extra="where: venue == 'x'\n"), small("b", steps=SHRINK, extra="where: venue == 'y'\n"), False),
        (small("a", steps=SHRINK, extra="where: venue == 'x'\n"), small("b", steps=SHRINK, extra="where: venue != 'x'\n"), False),
        (small("a", steps=SHRINK, extra="where: venue == 'x'\n"), small("b", steps=SHRINK, extra="where: bucket == 'y'\n"), True),
        (small("a", steps=SHRINK), small("b", steps=MOVE), False),
        (small("a", steps=MOVE), small("b", steps=MOVE), True),
        (small("a", steps=MOVE), small("b", steps=MOVE.replace("ethereum", "arbitrum")), False),
        (small("a", steps=SHRINK), small("b", steps=SHRINK).replace("stage: shadow", "stage: disabled"), False),
    ],
)
def test_two_writers_without_a_common_lock_are_warned_of(first: str, second: str, warned: bool) -> None:
    assert codes(first, second) == (["W006"] if warned else [])


def test_loops_are_warned_of_once() -> None:
    tell = "{id: t, notify: {to: [x], text: y}}"
    assert codes(small("a", steps=tell, extra="inhibited_by: [b]\n"), small("b", steps=tell, extra="inhibited_by: [a]\n")) == ["W007"]
    pauses = [small(a, steps=f"{{id: p, pause: {{runbook: {b}, for: 1h}}}}") for a, b in (("a", "b"), ("b", "c"), ("c", "a"))]
    assert codes(*pauses) == ["W007"]
    assert codes(pauses[0], pauses[1], small("c", steps=tell)) == []
    there = small("a", steps="{id: m, move_buffer: {from: ethereum, to: arbitrum, amount: 5 USD}}")
    back = small("b", steps="{id: m, move_buffer: {from: arbitrum, to: ethereum, amount: 5 USD}}")
    assert codes(there, back) == ["W007"]
    assert codes(small("a", steps="{id: p, pause: {runbook: a, for: 1h}}")) == []


def test_executor_that_cannot_be_looked_up_is_warned_of() -> None:
    call = "{id: w, webhook: {endpoint: custody}}"
    assert codes(small("a", steps=call)) == ["W008"]
    assert codes(small("a", steps=call[:-1] + ", verify: {that: equity > 5 USD, within: 1m}}")) == []


@pytest.mark.parametrize(
    ("where", "warned"),
    [
        ("venue == 'x' and venue == 'y'", True),
        ("venue == 'x' and venue != 'x'", True),
        ("venue == 'x' or venue == 'y'", False),
        ("venue == 'x'", False),
    ],
)
def test_filter_that_matches_nothing_is_warned_of(where: str, warned: bool) -> None:
    assert codes(small("a", steps=SHRINK, extra=f'where: "{where}"\n')) == (["W009"] if warned else [])


def test_rebalance_says_that_it_is_not_executed() -> None:
    assert codes(small("a", scope="portfolio", when="equity_total < 5 USD", steps="{id: r, rebalance: {all: true}}")) == ["W010"]


DYDX = Venue(id="dydx", provides={Kind.MARKET: frozenset({"oracle_price", "bid_price"}), Kind.POSITION: frozenset({"size"})})
OPEN = Venue(id="open", provides=None)
HYPER = Venue(id="hyper", provides={Kind.MARKET: frozenset({"oracle_price", "mark_price"})})


@pytest.mark.parametrize(
    ("guard", "where", "venues", "reported"),
    [
        ("mark_price > 5 price", "", (DYDX,), True),
        ("oracle_price > 5 price", "", (DYDX,), False),
        ("mark_price > 5 price", "", (DYDX, HYPER), False),
        ("mark_price > 5 price", "venue == 'dydx'", (DYDX, HYPER), True),
        ("mark_price > 5 price", "venue != 'dydx'", (DYDX, HYPER), False),
        ("mark_price > 5 price", "", (OPEN,), False),
        ("mark_price > 5 price", "", (), False),
        ("basis > 5%", "", (DYDX,), False),  # a derived signal does without what it has another way for
        ("median_over(peers, mark_price) > 5 price", "", (DYDX,), False),
        ("gas_price > 5 gwei", "", (DYDX,), False),  # a chain's, not a venue's
    ],
)
def test_signal_that_no_matched_venue_provides_is_an_error(guard: str, where: str, venues: tuple[Venue, ...], reported: bool) -> None:
    extra = f'guards: ["{guard}"]\n' + (f'where: "{where}"\n' if where else "")
    (runbook,) = load_text(small("a", scope="position", steps="{id: s, shrink_position: {by: 10%}}", extra=extra), "a.yaml").runbooks
    found = unprovided([runbook], Topology(venues={venue.id: venue for venue in venues}))
    assert [d.code for d in found] == (["E044"] if reported else [])
    for problem in found:
        assert problem.source_line[problem.column - 1 : problem.column - 1 + problem.width] == "mark_price"
        assert "does not exist on dydx" in problem.message


@pytest.mark.parametrize(("unscheduled", "reported"), [((), False), (("stress_liquidation_probability", "stress_cvar"), True)])
def test_signal_of_a_stress_that_nobody_scheduled_is_an_error(unscheduled: tuple[str, ...], reported: bool) -> None:
    extra = 'guards: ["stress_cvar > -5_000 USD"]\n'
    (runbook,) = load_text(small("a", scope="position", steps="{id: s, shrink_position: {by: 10%}}", extra=extra), "a.yaml").runbooks
    found = unprovided([runbook], Topology(venues={"dydx": DYDX}), unscheduled)
    assert [d.code for d in found] == (["E044"] if reported else [])
    assert all("write stress: into the settings" in problem.message for problem in found)
