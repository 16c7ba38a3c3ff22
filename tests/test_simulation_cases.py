"""The driver of runbook tests: the format page's own example, and one small world for each thing a test may say."""

from __future__ import annotations

import json
from pathlib import Path
from textwrap import dedent, indent

import pytest

from daemon.app.testing import test as run_command
from daemon.engine.engine import Engine
from daemon.engine.hot import Sources
from daemon.engine.limits import HouseLimits
from daemon.runbook.load import load_text
from daemon.simulation.cases import Failure, run_test
from daemon.simulation.coverage import Coverage
from daemon.world.entities import Topology

HEAD = """\
schema: reefd/v1
runbook: example
title: An example
owner: desk
severity: warning
"""

PAGE = HEAD + """\
intent: economy
stage: armed
scope: position
where: venue == "dydx" and bucket != "contingency"
max_age: {oracle_price: 30s}
let:
  paid: funding_rate * sign(size)
trigger:
  when: paid > 0.05%/h and funding_rate > quantile(funding_rate, 99%, 7d)
  for: 3m
  until: paid < 0.02%/h
  until_for: 10m
cooldown: 30m
repeat: {every: 1h, max: 3}
locks: [position]
guards:
  - oracle_divergence < 50bps
  - venue.block_age < 10s
  - venue_up_for > 10m
guard_wait: 2m
limits: {per_run: 25_000 USD, per_day: 60_000 USD, per_episode: 50%, runs: 6/day}
steps:
  - id: stop-adding
    halt: {scope: position}
  - id: shrink
    when: funding_breakeven < 4h and abs(notional) > 5_000 USD
    shrink_position: {by: 25%, max_slippage: 15bps, max_share_of_depth: 25%, slices: 4, every: 10s, stop_when: funding_breakeven > 8h}
    approval: {when: notional_change > 20_000 USD, from: [desk-lead], quorum: 1, timeout: 2m, otherwise: skip}
    timeout: 20s
    retry: {attempts: 3, backoff: 2s}
    verify: {that: abs(size) <= 80% * abs(size@start), within: 15s}
    on_failure: escalate
  - id: tell
    notify: {to: [desk], text: "{market}: paying {paid}, now {notional}"}
on_clear: [{id: resume, resume: {scope: position}}]
on_failure: {notify: [page], then: pause}
notify: {to: [desk], events: [fired, acted, blocked, failed, no_data, cleared], repeat: 1h}
tests:
  - name: halts and shrinks after 3m of spike, once
    given: {market: "dydx:ETH-USD", size: 10, oracle_price: 3000, bid_price: 2999.5, ask_price: 3000.5, bid_size: 50, ask_size: 50, block_age: 1s, venue_up_for: 1h}
    series: {funding_rate: {-8d: 0.001%/h, 0s: 0.08%/h, 30m: 0.001%/h}}
    expect:
      - {at: 2m30s, state: pending, did: []}
      - {at: 4m, state: firing, did: [halt, shrink_position]}
      - {at: 40m, state: inactive, did: [halt, shrink_position, resume]}
  - name: a gap neither fires nor resets the hold
    series: {funding_rate: {-8d: 0.001%/h, 0s: 0.08%/h, 1m: missing, 4m: 0.08%/h}}
    expect: [{at: 3m, state: pending, unknown: [funding_rate]}, {at: 6m30s, state: firing}]
"""  # noqa: E501

SHRINK = HEAD + """\
intent: economy
stage: armed
scope: position
trigger: {when: funding_rate * sign(size) > 0.05%/h, for: 1m}
limits: {per_run: 1_000_000 USD}
steps:
  - id: shrink
    shrink_position: {by: 40%, max_slippage: 20bps}
"""
WORLD = "{size: 10, oracle_price: 100, bid_price: 99.9, ask_price: 100.1, bid_size: 500, ask_size: 500, block_age: 1s}"
SPIKE = "{0s: 0.1%/h, 10m: 0.01%/h}"


def run(text: str, coverage: Coverage | None = None) -> list[Failure]:
    loaded = load_text(text, "example.yaml")
    assert not loaded.errors, [error.render() for error in loaded.errors]
    (book,) = loaded.runbooks

    def make(topology: Topology, sources: Sources) -> Engine:
        return Engine(topology=topology, house=HouseLimits(), build="test", sources=sources)

    return [failure for case in book.tests for failure in run_test(book, case, make_engine=make, coverage=coverage).failures]


def case(extra: str, *, body: str = SHRINK, world: str = WORLD, series: str = SPIKE) -> str:
    rest = indent(dedent(extra).strip("\n"), "    ")
    return f"{body}tests:\n  - name: one\n    given: {world}\n    series: {{funding_rate: {series}}}\n{rest}\n"


def test_the_example_of_the_format_page_passes_its_own_tests() -> None:
    assert run(PAGE) == []


def test_a_failure_says_what_was_expected_and_what_happened_and_when() -> None:
    failures = run(case("expect: [{at: 30s, state: firing, run: done, did: [halt], spent: 5 USD, unknown: [size]}]"))
    assert [(failure.at, failure.expected, failure.got) for failure in failures] == [
        ("30s", "state: firing", "state: pending"),
        ("30s", "run: done", "run: none"),
        ("30s", "did: [halt]", "did: []"),
        ("30s", "spent: 5 USD", "spent: 0 USD"),
        ("30s", "unknown: [size]", "unknown: []"),
    ]


def test_an_expectation_sees_what_is_due_at_its_own_time_and_nothing_later() -> None:
    assert run(case("expect: [{at: 59s, state: pending, run: none}, {at: 1m, state: firing, run: done, did: [shrink_position]}]")) == []


def test_spent_is_the_size_change_at_its_value() -> None:
    assert run(case("expect: [{at: 2m, spent: 400 USD}]")) == []


def test_the_venue_owns_the_size_after_the_start_and_the_episode_ends_when_it_is_gone() -> None:
    body = SHRINK.replace("by: 40%", "by: 100%").replace("max_slippage: 20bps", "max_slippage: 20bps")
    assert run(case("expect: [{at: 1m, did: [shrink_position]}, {at: 2m, state: inactive}]", body=body)) == []


def test_a_sliced_step_is_done_once_when_its_last_slice_is() -> None:
    body = SHRINK.replace("max_slippage: 20bps", "max_slippage: 20bps, slices: 4, every: 10s")
    expect = "expect: [{at: 1m25s, did: [], run: running}, {at: 1m30s, did: [shrink_position], spent: 400 USD, run: done}]"
    assert run(case(expect, body=body)) == []


@pytest.mark.parametrize(
    ("mock", "expect"),
    [
        ("{outcome: rejected}", "{at: 2m, did: [], run: failed, spent: 0 USD}"),
        ("{outcome: failed}", "{at: 2m, did: [], run: failed, spent: 0 USD}"),
        ("{outcome: unknown, reconcile: applied}", "{at: 2m, did: [shrink_position], run: done, spent: 400 USD}"),
        ("{outcome: unknown}", "{at: 5m, did: [], run: unknown, spent: 400 USD}"),
        ("{outcome: done, sets: {size: 7}}", "{at: 2m, did: [shrink_position], run: done}"),
    ],
)
def test_a_mock_replaces_the_next_send(mock: str, expect: str) -> None:
    assert run(case(f"mocks: {{shrink_position: {mock}}}\nexpect: [{expect}]")) == []


def test_a_list_of_mocks_covers_successive_sends_and_the_next_is_the_venues_own() -> None:
    body = SHRINK + "    retry: {attempts: 3, backoff: 2s}\n"
    mocks = "mocks: {shrink_position: [{outcome: failed}, {outcome: unknown, reconcile: absent}]}"
    assert run(case(f"{mocks}\nexpect: [{{at: 3m, did: [shrink_position], run: done, spent: 400 USD}}]", body=body)) == []


def test_a_venue_that_says_done_and_does_nothing_fails_the_verification() -> None:
    body = SHRINK + "    verify: {that: abs(size) < 8 base, within: 15s}\n"
    text = case(
        """
        mocks: {shrink_position: {outcome: done}}
        expect: [{at: 1m10s, did: [shrink_position], run: waiting}, {at: 1m15s, run: failed}]
        """,
        body=body,
    )
    assert run(text) == []


def test_an_approval_is_given_by_a_person_at_its_time() -> None:
    body = SHRINK + "    approval: {from: [lead], timeout: 2m, otherwise: abort}\n"
    expect = "expect: [{at: 90s, did: [], run: waiting}, {at: 2m, did: [shrink_position], run: done}]"
    assert run(case(f"approvals: {{2m: shrink}}\n{expect}", body=body)) == []
    assert run(case("expect: [{at: 3m, did: [], run: aborted}]", body=body)) == []


def test_a_shadow_test_plans_and_does_nothing() -> None:
    assert run(case("stage: shadow\nexpect: [{at: 2m, state: firing, run: shadow, did: [], would: [shrink_position]}]")) == []


def test_a_restart_keeps_the_hold_and_does_not_count_the_time_down() -> None:
    text = case(
        """
        restart: {at: 40s, down: 30s}
        expect: [{at: 60s, state: pending}, {at: 85s, state: pending}, {at: 90s, state: firing, did: [shrink_position]}]
        """
    )
    assert run(text) == []


def test_a_missing_value_is_unknown_and_a_given_derived_signal_replaces_its_derivation() -> None:
    body = SHRINK.replace("steps:", "guards: [venue_up_for > 10m]\nguard_wait: 30s\nsteps:")
    early, late = (WORLD.replace("block_age: 1s", f"block_age: 1s, venue_up_for: {time}") for time in ("5m", "11m"))
    held = case("expect: [{at: 2m, did: [], run: skipped}]", body=body, world=early)
    free = case("expect: [{at: 2m, did: [shrink_position]}]", body=body, world=late)
    assert run(held) == []
    assert run(free) == []
    assert run(case("expect: [{at: 2m, state: inactive, unknown: [funding_rate]}]", series="{0s: missing}")) == []


def test_a_transfer_is_credited_at_the_instant_it_is_sent() -> None:
    body = HEAD + dedent(
        """\
        intent: survival
        stage: armed
        scope: account
        trigger: {when: margin_ratio > 30%, until: margin_ratio < 25%}
        limits: {per_run: 1_000_000 USD}
        steps:
          - id: move
            move_buffer: {from: ethereum, to: dydx, amount: 1_000 USD, route: cctp}
        """
    )
    text = f"""{body}tests:
  - name: one
    given:
      market: "dydx:ETH-USD"
      size: 10
      entry_price: 100
      oracle_price: 100
      collateral: 100 USD
      time_to_liquidation: 12h
      maintenance_margin: 5%
      initial_margin: 10%
      buffers: {{ethereum: 5_000 USD}}
      routes: [{{name: cctp, from: ethereum, to: dydx, eta: 10s, fee: 0.1%}}]
    expect: [{{at: 0s, did: [move_buffer], state: inactive, spent: 1_000 USD}}]
"""
    assert run(text) == []


def test_history_before_the_start_fills_windows_only() -> None:
    body = SHRINK.replace("funding_rate * sign(size) > 0.05%/h, for: 1m", "'mean(oracle_price, 1h) > 150 price and funding_rate > 0%/h'")
    world = WORLD.replace("oracle_price: 100, ", "")
    text = f"""{body}tests:
  - name: one
    given: {world}
    series: {{funding_rate: {{0s: 0.1%/h}}, oracle_price: {{-2h: 200, 0s: 100}}}}
    expect: [{{at: 0s, state: firing}}, {{at: 29m, state: firing}}, {{at: 31m, state: inactive}}]
"""
    assert run(text) == []


def test_coverage_names_what_no_test_reached() -> None:
    body = SHRINK.replace("steps:", "guards: [bid_size > 10 base]\nsteps:") + "    when: bid_size > 100 base\n"
    text = case("expect: [{at: 2m, did: [shrink_position]}]", body=body)
    (book,) = load_text(text, "example.yaml").runbooks
    coverage = Coverage(book)
    assert run(text, coverage) == []
    missing = "\n".join(coverage.missing())
    for place in ("no episode ever cleared", "were never missing", "never skipped", "never failed", "bid_size > 10 base never", "per_run"):
        assert place in missing
    assert "never fired" not in missing
    assert "shrink was never reached" not in missing


def test_coverage_counts_readings_that_were_missing_at_any_sample() -> None:
    text = case("expect: [{at: 3m, state: inactive}]", series="{0s: 0.01%/h, 1m: missing, 2m: 0.01%/h}")
    (book,) = load_text(text, "example.yaml").runbooks
    coverage = Coverage(book)
    assert run(text, coverage) == []
    assert "the trigger's readings were never missing" not in coverage.missing()


def test_the_command_prints_the_failures_as_json_and_exits_with_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(case("expect: [{at: 2m, state: pending}]"), encoding="utf-8")
    assert run_command([path], json_format=True, coverage=False) == 1
    report = json.loads(capsys.readouterr().out)
    assert report == {
        "tests": 1, "passed": 0, "failed": 1,
        "failures": [{"runbook": "example", "test": "one", "at": "2m", "expected": "state: pending", "got": "state: firing"}],
    }  # fmt: skip


def test_the_command_refuses_a_path_without_any_test(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "example.yaml"
    path.write_text(SHRINK, encoding="utf-8")
    assert run_command([path], json_format=False, coverage=False) == 1
    assert "holds no test" in capsys.readouterr().out
