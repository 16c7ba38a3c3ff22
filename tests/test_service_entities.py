"""Entities and runbooks as the surface shows them."""

from __future__ import annotations

from pathlib import Path

import pytest
from engine_world import ACCOUNT, MARKET, POSITION, TOPOLOGY, World, runbook

from daemon.language.catalogue import CATALOGUE
from daemon.runbook.load import load_paths
from daemon.service.rounds import Rounds
from daemon.service.runbooks import runbook_detail, runbook_views, step_words
from daemon.service.world import LISTED, chunks, entities, entity_view, names
from daemon.units import NS
from daemon.world.entities import Kind

SHIPPED = Path(__file__).resolve().parent.parent / "runbooks"


def world(*texts: str) -> World:
    made = World(*(texts or (runbook(),)), readings={(Kind.MARKET, MARKET, "market_open"): 1.0})
    made.until(5)
    return made


def test_a_reading_carries_its_unit_and_age_or_says_unknown() -> None:
    made = world()
    view = entity_view(
        made.engine, Kind.MARKET, MARKET, ("oracle_price", "spread", "market_open", "index_price", "funding_rate"), made.now + 3 * NS
    )
    assert [(r.signal, r.shown, r.age_s, r.role) for r in view.readings] == [
        ("oracle_price", "3,000 price", 3.0, "observed"),
        ("spread", "0.03333%", 3.0, "derived"),
        ("market_open", "true", 3.0, "observed"),
        ("index_price", "unknown", None, "observed"),
        ("funding_rate", "0%/h", 3.0, "observed"),
    ]
    assert view.labels["base"] == "ETH"
    assert view.links["venue"] == "dydx"
    stale = entity_view(made.engine, Kind.MARKET, MARKET, ("oracle_price",), made.now + 90 * NS).readings[0]
    assert (stale.value, stale.shown, stale.age_s) == (None, "unknown", 90.0)


def test_one_entity_alone_shows_every_signal_of_its_kind() -> None:
    made = world()
    for kind in Kind:
        for name in names(made.engine, kind):
            shown = [r.signal for r in entity_view(made.engine, kind, name, (), made.now).readings]
            assert shown == [s.name for s in CATALOGUE.values() if s.kind is kind and not s.internal and not s.arguments]


def test_names_are_what_was_seen_or_is_configured_and_asking_for_another_is_refused() -> None:
    made = world()
    assert names(made.engine, Kind.ROUTE) == ["cctp", "fast"]
    assert names(made.engine, Kind.CHAIN) == ["ethereum"]  # `dydx`, where the routes end, is a venue
    assert names(made.engine, Kind.ACCOUNT) == [ACCOUNT]
    with pytest.raises(LookupError, match="there are cctp, fast"):
        entity_view(made.engine, Kind.ROUTE, "swift", (), made.now)
    with pytest.raises(LookupError):
        entity_view(made.engine, Kind.CHAIN, "dydx", (), made.now)
    with pytest.raises(LookupError, match="a market has no signal 'size'; it has bid_price"):
        entity_view(made.engine, Kind.MARKET, MARKET, ("size",), made.now)
    assert not made.engine.hot.knows(Kind.ROUTE, "swift")


def test_a_list_shows_chosen_signals_in_pieces() -> None:
    made = world()
    assert [list(piece) for piece in chunks(["a", "b", "c"], 2)] == [["a", "b"], ["c"]]
    (view,) = entities(made.engine, Kind.POSITION, [POSITION], made.now)
    assert tuple(r.signal for r in view.readings) == LISTED[Kind.POSITION]
    assert all((kind, signal) in CATALOGUE for kind, signals in LISTED.items() for signal in signals)


# --- runbooks ------------------------------------------------------------------------------------------------------------


def test_a_runbook_counts_its_instances_by_state_and_what_it_spent() -> None:
    made = world(runbook(rest="limits: {per_day: 10_000 USD, runs: 4/day}"), runbook(name="blind", when="index_price > 1 price"))
    made.until(10, funding_rate=0.001)
    rounds = Rounds(made.engine, budget_ns=10**12)
    rounds.walk(made.now)
    blind, spike = runbook_views(made.engine, rounds, made.now)
    assert (blind.instances, blind.last_run) == ({"inactive": 1, "unknown": 1}, "")
    assert spike.instances == {"firing": 1}
    assert (spike.spent_day_usd, spike.per_day_usd, spike.runs_day, spike.runs_max) == (7_500.0, 10_000.0, 1, 4)
    assert (spike.last_status, spike.stage, spike.scope) == ("done", "armed", "position")
    made.command("pause", "spike")
    assert runbook_views(made.engine, rounds, made.now)[1].paused == "paused until somebody unpauses it by operator desk-lead"


def test_a_runbook_alone_has_its_text_its_steps_in_words_and_its_instances() -> None:
    steps = """
- id: shrink
  when: size > 1 base
  shrink_position: {by: 25%, slices: 4, every: 10s}
  approval: {when: notional_change > 1_000 USD, from: [ana, ben], quorum: 2, timeout: 2m, otherwise: skip}
  verify: {that: size < 9 base, within: 15s}
  retry: {attempts: 3, backoff: 2s}
  on_failure: escalate
"""
    made = world(
        runbook(
            steps,
            rest="cooldown: 30m\non_failure: {notify: [page]}\non_clear: [{id: open, resume: {scope: market}}]",
            hold="3m",
            until="funding_rate < 0.01%/h",
        )
    )
    rounds = Rounds(made.engine, budget_ns=10**12)
    rounds.walk(made.now)
    detail = runbook_detail(made.engine, rounds, "spike", made.now)
    assert detail.steps == (
        "shrink: shrink the position by 25%, in 4 slices every 10s; only when size > 1 base; when notional_change > 1_000 USD, "
        "2 of 2 (ana, ben) approve within 2m, else it is skipped; then size < 9 base must show within 15s; tried up to 3 times; "
        "wakes somebody when it fails",
        "when it clears: open: resume openings of the market",
    )
    assert (detail.when, detail.until) == ("funding_rate > 0.05%/h", "funding_rate < 0.01%/h")
    assert (detail.hold_s, detail.cooldown_s, detail.source) == (180.0, 1_800.0, made.books[0].source)
    assert [(i.entity, i.state, i.running) for i in detail.instances] == [(POSITION, "inactive", ())]
    with pytest.raises(LookupError, match="in force are spike"):
        runbook_detail(made.engine, rounds, "nothing", made.now)


def test_every_step_of_the_shipped_runbooks_has_words() -> None:
    told = [step_words(step) for book in load_paths([SHIPPED]).runbooks for step in book.all_steps()]
    assert len(told) > 15
    assert "halt: halt openings of the account" in told
    assert any(
        words.startswith("refill: move least(50_000 USD, 25% * free_collateral) from dydx to ethereum over best route") for words in told
    )
    assert TOPOLOGY.routes  # the worlds of these tests have them
