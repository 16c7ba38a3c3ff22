"""Limits: the house's document, rolling windows, and room."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.limits import HouseLimits, Intent, Spend, parse_house_limits, room, size_room
from daemon.errors import SettingsError
from daemon.runbook.model import Limits
from daemon.units import DAY_NS, HOUR_NS

NOW = 100 * DAY_NS


def entry(at: int, usd: float, **changes) -> Spend:
    values = {
        "runbook": "r",
        "run_id": "r/e/1/1",
        "episode": "r/e/1",
        "instance": "r/e",
        "account": "a",
        "position": "p",
        "size": 1.0,
        "shadow": False,
    }
    return Spend(at=at, usd=usd, **(values | changes))


def intent(**changes) -> Intent:
    values = {"at": NOW, "runbook": "r", "run_id": "r/e/1/1", "episode": "r/e/1", "account": "a", "shadow": False}
    return Intent(**(values | changes))


def test_house_limits_are_read_with_their_units():
    document = {"account": {"turnover_per_hour": "100_000 USD"}, "house": {"turnover_per_day": "1_000_000 USD", "runs": "200/day"}}
    assert parse_house_limits(document) == HouseLimits(account_turnover_hour_usd=1e5, house_turnover_day_usd=1e6, runs_day=200)
    assert parse_house_limits({}) == HouseLimits()


def test_every_mistake_in_house_limits_is_said_at_once():
    document = {"account": {"turnover_per_hour": 5, "x": 1}, "house": {"runs": "many"}, "what": {}}
    with pytest.raises(SettingsError) as raised:
        parse_house_limits(document, "limits.yaml")
    lines = str(raised.value).splitlines()
    assert len(lines) == 4
    assert any("account.turnover_per_hour is an amount of USD, found 5; write for example 100_000 USD" in line for line in lines)


def test_day_is_rolling_and_a_spend_of_exactly_a_day_ago_no_longer_counts():
    limits = Limits(per_day_usd=100.0)
    ledger = [entry(NOW - DAY_NS, 60.0), entry(NOW - DAY_NS + 1, 30.0)]
    assert room(ledger, intent(), limits, HouseLimits()).usd == 70.0


def test_tightest_limit_names_itself():
    limits = Limits(per_run_usd=50.0, per_day_usd=100.0, per_episode_usd=80.0)
    ledger = [entry(NOW - 5, 45.0, run_id="r/e/1/0")]
    left = room(ledger, intent(), limits, HouseLimits())
    assert (left.usd, left.limit) == (35.0, "per_episode")


def test_day_limit_counts_all_instances_of_the_runbook_and_no_other_runbook():
    ledger = [entry(NOW, 10.0, instance="r/other", episode="r/other/1", run_id="x"), entry(NOW, 99.0, runbook="other")]
    assert room(ledger, intent(), Limits(per_day_usd=100.0), HouseLimits()).usd == 90.0


def test_house_counts_accounts_by_the_hour_and_everything_by_the_day():
    house = HouseLimits(account_turnover_hour_usd=100.0, house_turnover_day_usd=1000.0)
    ledger = [entry(NOW - HOUR_NS, 50.0), entry(NOW - 1, 20.0, runbook="other"), entry(NOW - 1, 30.0, account="b")]
    left = room(ledger, intent(), Limits(), house)
    assert (left.usd, left.limit) == (80.0, "house limit: turnover of an account an hour")


def test_share_of_the_episode_is_of_the_size_at_its_start_by_position():
    ledger = [entry(NOW, 1.0, size=1.5), entry(NOW, 1.0, size=9.0, position="q"), entry(NOW, 1.0, size=9.0, episode="r/e/0")]
    assert size_room(ledger, intent(), Limits(per_episode_ratio=0.5), "p", -10.0) == 3.5
    assert size_room(ledger, intent(), Limits(), "p", -10.0) == math.inf


def test_shadow_counts_apart():
    ledger = [entry(NOW, 80.0, shadow=True)]
    assert room(ledger, intent(), Limits(per_day_usd=100.0), HouseLimits()).usd == 100.0
    assert room(ledger, intent(shadow=True), Limits(per_day_usd=100.0), HouseLimits()).usd == 20.0


@given(st.lists(st.tuples(st.integers(0, 3 * DAY_NS), st.floats(0, 1e6)), max_size=20), st.floats(0, 1e6))
def test_room_is_never_negative_and_filling_it_never_breaks_the_limit(spends, bound):
    ledger = [entry(NOW - back, usd) for back, usd in spends]
    left = room(ledger, intent(), Limits(per_day_usd=bound), HouseLimits()).usd
    assert left >= 0.0
    used = math.fsum(usd for back, usd in spends if back < DAY_NS)
    if left > 0.0:
        assert used + left <= bound * (1 + 1e-12)
