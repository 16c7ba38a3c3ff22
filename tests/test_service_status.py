"""The status page: what counts as degraded, what is only shown, and the words."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from service_processes import RUNBOOK
from service_world import ORIGIN_NS

from daemon.app.connections import read_simulated
from daemon.app.reading import describe_gates, load_set
from daemon.app.status import Publication, degraded, show
from daemon.engine.state import Closure
from daemon.service.clock import AcceleratedClock
from daemon.service.poller import FeedHealth
from daemon.settings import load_settings
from daemon.units import NS

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ROOT = Path(__file__).parents[1]


def page(**parts: Any) -> dict[str, Any]:
    journal = {"path": "state.db", "problem": "", "head": "1:ab", "outbox_waiting": 0, "dead_letters": []}
    return {"pid": os.getpid(), "published": NOW.isoformat(), "journal": journal, "feeds": [], "ended": None, **parts}


def instance(runbook: str, entity: str, *unknown: str) -> Mapping[str, Any]:
    return {"runbook": runbook, "entity": entity, "unknown": list(unknown)}


def lost(runbook: str, entity: str, *lacks: str) -> Mapping[str, Any]:
    return {"runbook": runbook, "entity": entity, "lacks": list(lacks)}


def test_daemon_with_nothing_wrong_is_not_degraded() -> None:
    assert degraded(page(engine={"instances": [instance("margin-low", "dydx")]}), NOW) == []


def test_blind_venue_and_the_instances_it_blinds_are_degraded() -> None:
    found = degraded(
        page(
            blind_venues={"dydx": 214.3},
            lost_instances=[lost("margin-low", "dydx", "margin_ratio_worst"), lost("thin-book", "dydx:BTC-USD", "depth", "notional")],
        ),
        NOW,
    )
    assert found == [
        "dydx: its last block is 214s old: all its readings are UNKNOWN",
        "2 instances cannot be judged: margin-low on dydx lacks margin_ratio_worst; thin-book on dydx:BTC-USD lacks depth, notional",
    ]


def test_no_runbook_hides_behind_the_many_instances_of_another() -> None:
    many = [lost("thin-book", f"dydx:M{i}", "depth") for i in range(200)]
    assert degraded(page(lost_instances=[*many, lost("margin-low", "dydx", "margin_ratio_worst")]), NOW) == [
        "201 instances cannot be judged: thin-book on dydx:M0 (and 199 more) lacks depth; margin-low on dydx lacks margin_ratio_worst"
    ]


def test_instance_that_was_never_judged_is_shown_and_does_not_degrade(capsys: pytest.CaptureFixture[str]) -> None:
    shown = page(engine={"instances": [instance("sequencer-down", "dydx", "sequencer_up"), instance("margin-low", "dydx")]})
    assert degraded(shown, NOW) == []
    show(shown, [])
    assert "since the start 1 instance cannot be judged: sequencer-down on dydx lacks sequencer_up" in capsys.readouterr().out


def test_clock_that_does_not_agree_is_degraded() -> None:
    assert degraded(page(clock_problems=["dydx: the simulated venue was started anew"]), NOW) == [
        "dydx: the simulated venue was started anew"
    ]


def test_closed_gates_are_counted_and_shown_with_who_and_since_when(capsys: pytest.CaptureFixture[str]) -> None:
    gates = describe_gates(
        {
            "market/dydx:ETH-USD": (Closure(by="oracle-divergence", at=ORIGIN_NS, reason="the book left the oracle"),),
            "account/dydx": (Closure(by="margin-low", at=ORIGIN_NS, reason=""), Closure(by="operator", at=ORIGIN_NS + NS, reason="ana")),
        }
    )
    closed = page(gates=gates)
    assert degraded(closed, NOW) == []
    show(closed, [])
    said = capsys.readouterr().out
    assert "3 gates closed:" in said
    assert "openings halted: dydx:ETH-USD by oracle-divergence since 2026-01-01T00:00:00" in said
    assert "openings halted: dydx by operator since 2026-01-01T00:00:01" in said


def test_feed_that_waits_for_another_says_so_and_only_the_failing_one_is_degraded(tmp_path: Path) -> None:
    publication = Publication(path=tmp_path / "p.json", clock=AcceleratedClock(speed=1.0, now_ns=ORIGIN_NS))
    past = FeedHealth(source="dydx.history", every_ns=NS, failures=2, reason="dydx: GET /historicalFunding/BTC-USD: cannot connect")
    healths = [FeedHealth(source=name, every_ns=NS, waits_for="dydx.history") for name in ("dydx.height", "dydx.markets")]
    feeds = [publication.feed(health) for health in [*healths, past]]
    assert [feed["state"] for feed in feeds] == ["waiting", "waiting", "failing"]
    assert degraded(page(feeds=feeds), NOW) == [
        "feed dydx.history is failing: never succeeded; dydx: GET /historicalFunding/BTC-USD: cannot connect; 2 feeds wait for it"
    ]


def test_shipped_runbooks_load_with_the_shipped_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    settings = load_settings(Path("config/reefd.yaml"))
    loaded = load_set(settings.runbooks, settings.topology())
    assert loaded.errors == ()
    assert len(loaded.runbooks) == len(list((ROOT / "runbooks").glob("*.yaml")))


def test_runbook_that_reads_what_no_venue_provides_is_refused_like_any_other_mistake(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    topology = load_settings(Path("config/reefd.yaml")).topology()
    (tmp_path / "grinder.yaml").write_text(RUNBOOK.replace("abs(size) > 0", "mark_price > 0"), encoding="utf-8")
    (tmp_path / "right.yaml").write_text(RUNBOOK.replace("runbook: grinder", "runbook: right"), encoding="utf-8")
    loaded = load_set(tmp_path, topology)
    assert not loaded.ok
    assert [(Path(found.file).name, found.code) for found in loaded.errors] == [("grinder.yaml", "E044")]


def test_clock_answer_of_something_else_is_no_simulated_clock() -> None:
    speed, told = read_simulated({"speed": 10, "now_ns": 7, "started_ns": 5})
    assert (speed, told.now, told.started) == (10.0, 7, 5)
    answers: tuple[object, ...] = (None, [], {}, {"speed": 0, "now_ns": 7}, {"speed": 1, "now_ns": "noon"})
    for answer in answers:
        with pytest.raises(ValueError, match="simulated"):
            read_simulated(answer)
