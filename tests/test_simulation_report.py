"""The report of a replay: the split adds up, clusters count independent cases, and it says what it cannot know."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.simulation.episode import Episode, EpisodeAction, clusters
from daemon.simulation.outturn import Outturn, difference
from daemon.simulation.report import Report
from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS

T0 = 1_770_134_400 * NS
USD = st.floats(-1e6, 1e6)
COST = st.floats(0, 1e5)


def outturn(**more: float) -> Outturn:
    numbers = {
        "pnl_usd": 0.0, "funding_usd": 0.0, "fees_usd": 0.0, "liquidations": 0, "margin_ratio_max": 0.1, "turnover_usd": 0.0,
        "funding_unknown_hours": 0.0, "slippage_usd": 0.0, "transfer_fees_usd": 0.0, "liquidation_usd": 0.0,
    }  # fmt: skip
    return Outturn(**(numbers | more))  # type: ignore[arg-type]


def episode(fired_at: int, subject: str = "dydx:HYPE-USD", lasts: int | None = MINUTE_NS) -> Episode:
    return Episode(
        runbook="funding-spike", entity=subject, subject=subject, pending_at=fired_at, fired_at=fired_at,
        cleared_at=None if lasts is None else fired_at + lasts,
    )  # fmt: skip


def report(*episodes: Episode, **more: object) -> Report:
    return Report(
        rows=100, first_at=T0, last_at=T0 + DAY_NS, seconds={"load": 0.1, "compile": 0.2, "replay": 0.3, "without": 0.1}, episodes=episodes,
        having=outturn(pnl_usd=10.0, fees_usd=2.0, funding_usd=-3.0), lacking=outturn(pnl_usd=-20.0, funding_usd=-9.0), costs="none",
        **more,  # type: ignore[arg-type]
    )  # fmt: skip


PASS = st.builds(outturn, pnl_usd=USD, funding_usd=USD, fees_usd=COST, slippage_usd=COST, transfer_fees_usd=COST, liquidation_usd=COST)


@given(having=PASS, lacking=PASS)
def test_difference_adds_up_to_the_difference_of_the_profits(having: Outturn, lacking: Outturn) -> None:
    split = difference(having, lacking)
    assert split.pnl_usd == pytest.approx(having.pnl_usd - lacking.pnl_usd, abs=1e-6)
    extra = 2 * (having.costs_usd - lacking.costs_usd)
    assert split.without_direction_at_3x_costs_usd == pytest.approx(split.without_direction_usd - extra, abs=1e-6)


@pytest.mark.parametrize(
    ("episodes", "count"),
    [
        ([], 0),
        ([episode(T0)], 1),
        ([episode(T0), episode(T0 + DAY_NS + MINUTE_NS)], 1),
        ([episode(T0), episode(T0 + DAY_NS + MINUTE_NS + 1)], 2),
        ([episode(T0), episode(T0 + HOUR_NS, "dydx:ETH-USD")], 1),
        ([episode(T0), episode(T0 + HOUR_NS + 1, "dydx:ETH-USD")], 2),
        ([episode(T0 + hours * 20 * HOUR_NS) for hours in range(9)], 1),
        ([episode(T0, lasts=None), episode(T0 + 9 * DAY_NS)], 1),
        ([episode(T0, lasts=9 * DAY_NS), episode(T0 + DAY_NS), episode(T0 + 8 * DAY_NS)], 1),
        ([episode(T0 + days * 3 * DAY_NS) for days in range(12)], 12),
    ],
)
def test_clusters_join_episodes_of_one_market_within_a_day_or_of_several_within_an_hour(episodes: list[Episode], count: int) -> None:
    assert clusters(episodes) == count
    assert clusters(list(reversed(episodes))) == count


def test_report_under_ten_clusters_calls_itself_an_anecdote_and_from_ten_on_does_not() -> None:
    assert "1 cluster of 1 episode: an anecdote, not evidence" in report(episode(T0)).as_text()
    many = report(*(episode(T0 + days * 3 * DAY_NS) for days in range(10)))
    assert many.clusters == 10
    assert "anecdote" not in many.as_text()


def test_report_headlines_without_direction_and_ends_with_what_it_cannot_know() -> None:
    text = report(episode(T0)).as_text()
    assert "came to +4.00 USD without direction (+0.00 at 3x costs)" in text
    assert "and +26.00 of direction" in text
    endings = [line.partition(":")[0] for line in text.splitlines()[-5:]]
    assert endings == ["static book", "costs", "clusters", "liquidation", "sample"]


def test_report_as_json_has_numbers_times_in_milliseconds_and_null_for_an_open_episode() -> None:
    action = EpisodeAction(action="shrink_position", outcome="done", size=250.0, notional_usd=8000.0, at=T0 + 294 * 10**6, price=32.0)
    spike = Episode(
        runbook="funding-spike", entity="dydx:HYPE-USD", subject="dydx:HYPE-USD", pending_at=T0, fired_at=T0 + 294 * 10**6, cleared_at=None,
        run_statuses=("done",), actions=(action,),
    )  # fmt: skip
    document = json.loads(json.dumps(report(spike).as_json(), allow_nan=False))
    found = document["episodes"][0]
    assert found["fired_at"] == "2026-02-03T16:00:00.294Z"
    assert found["cleared_at"] is None
    assert found["run_status"] == "done"
    assert {key: found["actions"][0][key] for key in ("action", "outcome", "size", "notional_usd")} == {
        "action": "shrink_position", "outcome": "done", "size": 250.0, "notional_usd": 8000.0,
    }  # fmt: skip
    assert document["with"]["pnl_usd"] == 10.0
    assert document["without"]["funding_usd"] == -9.0
    assert set(document["seconds"]) == {"load", "compile", "replay", "without"}
