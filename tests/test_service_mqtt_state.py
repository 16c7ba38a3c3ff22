"""What MQTT tells of the daemon: one snapshot as topics, small, and stable as long as nothing changes."""

from __future__ import annotations

import json
from dataclasses import replace

from daemon.service.mqtt_state import StateTopics, gate_topic
from daemon.service.views import AccountView, CashView, GateAnswer, NeedView, Now, RunbookView

CASH = CashView(within_5m=0.0, within_30m=0.0, later=0.0, in_flight=0.0, stuck=0.0, lines=())
ACCOUNT = AccountView(
    id="dydx", venue="dydx", equity_usd=123_456.789, collateral_usd=None, free_collateral_usd=None, leverage=None, margin_ratio=0.412345,
    margin_ratio_at_mid=None, margin_ratio_at_reference=None, survivable_move=float("inf"), time_to_liquidation_s=None, net_delta_usd=None,
    age_s=None, flat=False, positions=(),
)  # fmt: skip
NEED = NeedView(
    kind="approval", target="run/1", title="Shrink", text="", deadline="2026-01-01T00:10:00.000Z", digest="abc", verbs=("approve",)
)
NOW = Now(
    at="2026-01-01T00:00:00.000Z", published="2026-01-01T00:00:00.000Z", build="1", house="test", dry_run=False, speed=1.0, seq=7,
    head="7:ab", line="NEEDS YOU", since="2026-01-01T00:00:00.000Z", why="an approval waits", worst_feed=None, halted="",
    openings_halted=False, needs=(NEED,), accounts=(ACCOUNT,), acts=(), hedges=(), thresholds=(), cash=CASH, nets_down=(), upcoming=(),
    gates=(), feeds=(), problems=(), running=(), recent=(), stats={},
)  # fmt: skip
BOOK = RunbookView(
    id="a/b#1", title="", owner="", stage="armed", path="", digest="", scope="market", instances={"firing": 1}, paused="",
    spent_day_usd=1.0, per_day_usd=None, runs_day=2, runs_max=None, last_run="r", last_status="done",
)  # fmt: skip


def gate(at: str, *, is_open: bool = True, why: str = "all is well") -> GateAnswer:
    return GateAnswer(market="dydx:BTC-USD", open=is_open, why=why, at=at)


def test_a_snapshot_becomes_topics_that_carry_the_whole_state() -> None:
    topics = StateTopics().of(NOW, {"": gate("t"), "dydx:BTC-USD": gate("t", is_open=False, why="halted")}, [BOOK])
    assert set(topics) == {"state", "audit/head", "gate", "gate/dydx/BTC-USD", "runs/a%2Fb%231"}
    assert topics["audit/head"] == "7:ab"
    assert json.loads(topics["gate/dydx/BTC-USD"]) == {"open": False, "why": "halted", "since": "t"}
    state = json.loads(topics["state"])
    assert (state["line"], state["halted"], state["needs_count"]) == ("NEEDS YOU", "", 1)
    assert state["needs"][0] == {
        "kind": "approval", "target": "run/1", "title": "Shrink", "deadline": NEED.deadline, "plan_digest": "abc", "verbs": ["approve"],
    }  # fmt: skip
    assert state["worst_account"] == {"id": "dydx", "margin_ratio": 0.4123, "survivable_move": None, "equity_usd": 123500.0, "flat": False}


def test_a_snapshot_in_which_nothing_happened_says_the_same_bytes() -> None:
    topics = StateTopics()
    before = topics.of(NOW, {"": gate("00:00")})
    later = replace(NOW, at="2026-01-01T00:01:00.000Z", published="x", seq=8, accounts=(replace(ACCOUNT, margin_ratio=0.412349),))
    assert topics.of(later, {"": gate("00:01")}) == before
    closed = topics.of(later, {"": gate("00:02", is_open=False, why="halted")})
    assert json.loads(closed["gate"])["since"] == "00:02"


def test_a_market_is_a_topic_of_its_venue() -> None:
    names = ("", "dydx:BTC-USD", "dydx#1:A/B", "dydx")
    assert [gate_topic(name) for name in names] == ["gate", "gate/dydx/BTC-USD", "gate/dydx%231/A%2FB", "gate/dydx"]
