"""Durations in buckets against a count by hand, and what became of runs and writes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.engine.actions import Outcome
from daemon.engine.records import ActionFinished, RunFinished
from daemon.service.tally import BOUNDS_S, Durations, Tally


@given(st.lists(st.integers(0, 3_000_000_000), max_size=50))
def test_buckets_are_cumulative_and_count_every_duration_once(durations: list[int]) -> None:
    tally = Durations()
    for took in durations:
        tally.note(took)
    stats = tally.stats("x")
    for bound in BOUNDS_S:
        assert stats[f"x_bucket.{bound:g}"] == sum(took <= round(bound * 1e9) for took in durations)
    assert stats["x_count"] == len(durations)
    assert stats["x_sum"] == sum(durations) / 1e9


def test_tally_counts_what_became_of_writes_and_runs() -> None:
    tally = Tally()
    lost = ActionFinished(at=1, action_id="a", run_id="r", outcome=Outcome(status="unknown"))
    ended = [RunFinished(at=at, run_id=f"r{at}", status="done", reason="") for at in (2, 3)]
    tally.follow([lost, *ended])
    assert tally.stats() == {"actions.unknown": 1.0, "runs.done": 2.0}
