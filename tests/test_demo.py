"""The demo: what counts as evidence, and the whole of it once, as a user runs it."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from daemon.app.demo import Stage
from daemon.app.story import DIVERGENCE, MOVED, POLLED, PROMISES, SHRUNK, SPIKE, WEBHOOK, Story
from daemon.engine.actions import Outcome, ShrinkPosition
from daemon.engine.events import Observed, Row
from daemon.engine.records import ActionFinished, ActionRequested, TriggerChanged
from daemon.settings import load_settings
from daemon.simulation.scenario import load_scenario
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent


def fired(runbook: str) -> TriggerChanged:
    return TriggerChanged(at=2, runbook=runbook, entity="dydx:ETH-USD", episode="e", change="fired", pending_at=1, fired_at=2)


def shrink() -> ShrinkPosition:
    return ShrinkPosition(
        action_id="a.shrink.0.1",
        run_id="a",
        runbook="funding-spike",
        account="dydx",
        market="dydx:ETH-USD",
        side="SELL",
        size=Decimal("2.5"),
        limit_price=Decimal("2995.5"),
        reference_price=3000.0,
        notional_usd=7500.0,
        expires_at=10,
    )


def test_nothing_is_shown_before_anything_happened() -> None:
    assert Story().missing() == list(PROMISES)


def test_a_reading_counts_as_a_poll_and_is_counted() -> None:
    story = Story()
    row = Row(kind=Kind.MARKET, entity="dydx:ETH-USD", values={"oracle_price": 3000.0})
    lines = [line for at in (1, 2) for line in story.entry(Observed(at=at, source="dydx", rows=(row,)))]
    assert story.seen[POLLED] == "2 readings in 2 batches, 0 failed polls"
    assert lines == [], "the feed is told of by its own page, not once a reading"


def test_a_runbook_that_fires_is_told_with_the_readings_behind_it() -> None:
    story = Story()
    values = {"funding_rate": 0.0008, "oracle_price": 3030.0, "bid_price": 2999.0, "ask_price": 3001.0}
    list(story.entry(Observed(at=1, source="dydx", rows=(Row(kind=Kind.MARKET, entity="dydx:ETH-USD", values=values),))))
    [line] = story.entry(fired("funding-spike"))
    assert line == "funding-spike FIRES on dydx:ETH-USD: funding 0.08%/h, oracle 3,030 beside mid 3,000 (1%)"
    assert SPIKE in story.seen
    assert DIVERGENCE not in story.seen


def test_a_position_counts_as_shrunk_only_when_the_venue_says_so() -> None:
    story = Story()
    action = shrink()
    requested = ActionRequested(at=3, run_id="a", step="shrink", slice=0, attempt=1, action=action, usd=7500.0, resume_at=4, give_up_at=9)
    outcome = Outcome(status="done", filled_size=Decimal("2.5"), fill_price=Decimal("2999"))
    lines = [*story.entry(requested), *story.entry(ActionFinished(at=4, action_id=action.action_id, run_id="a", outcome=outcome))]
    assert lines == [
        "  decided and on disk: SELL 2.5 dydx:ETH-USD, never worse than 2995.5 (7,500 USD)",
        "  outcome done: filled 2.5 at 2999",
    ]
    assert SHRUNK not in story.seen
    entry = {
        "kind": "order",
        "outcome": "executed",
        "request": {"market": "ETH-USD", "side": "SELL", "size": "2.5", "reduce_only": True},
        "detail": {"filled_size": "2.5"},
    }
    assert list(story.venue(entry)) == ["VENUE: filled SELL 2.5 ETH-USD, reduce-only"]
    assert SHRUNK in story.seen


def test_an_order_without_a_fill_is_no_shrink() -> None:
    story = Story()
    entry = {"kind": "order", "outcome": "executed", "request": {"reduce_only": True}, "detail": {"filled_size": "0"}}
    list(story.venue(entry))
    assert SHRUNK not in story.seen


def test_a_transfer_counts_as_moved_when_it_is_credited_not_when_it_is_taken() -> None:
    story = Story()
    list(
        story.venue(
            {"kind": "transfer", "outcome": "executed", "request": {"client_id": "a", "amount": "100", "route": "cctp"}, "detail": {}}
        )
    )
    assert MOVED not in story.seen
    list(story.venue({"kind": "transfer_credited", "outcome": "world", "request": {}, "detail": {"client_id": "a", "amount": "99.9"}}))
    assert story.seen[MOVED] == "credited 99.9 USD over cctp"


@pytest.mark.parametrize(("verified", "status", "counts"), [(True, 204, True), (True, 500, False), (False, 401, False)])
def test_a_webhook_counts_when_its_signature_fits_and_it_was_taken(verified: bool, status: int, counts: bool) -> None:
    story = Story()
    story.webhook(kind="reefd.notice", message_id="a/b", verified=verified, status=status)
    assert (WEBHOOK in story.seen) is counts


def test_the_settings_that_the_demo_writes_are_settings(tmp_path: Path) -> None:
    scenario_file = ROOT / "config/scenarios/demo.yaml"
    stage = Stage(
        folder=tmp_path,
        scenario_file=scenario_file,
        scenario=load_scenario(scenario_file),
        runbooks=ROOT / "runbooks",
        port=8650,
        http_port=8651,
        speed=20.0,
        secret="whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw",
    )
    path = tmp_path / "reefd.yaml"
    path.write_text(stage.settings("http://127.0.0.1:9/hook"), encoding="utf-8")
    settings = load_settings(path)
    assert list(settings.topology().accounts) == [stage.scenario.venue.name]
    assert set(settings.routes) == set(stage.scenario.routes)


@pytest.mark.slow
def test_the_demo_shows_all_it_promises_and_leaves_nothing_running() -> None:
    shown = ""
    # A machine with much else to do cannot follow 14 seconds in one; nobody waits there for a demo, and 5 will do.
    for more in ((), ("--speed", "5")):
        words = [sys.executable, "-m", "daemon.cli", "demo", *more]
        done = subprocess.run(words, capture_output=True, text=True, cwd=ROOT, timeout=400, check=False)
        shown = done.stdout + done.stderr
        if done.returncode == 0:
            break
    assert done.returncode == 0, shown
    assert [promise for promise in PROMISES if f"ok    {promise}" not in shown] == []
    assert "Traceback" not in shown


@pytest.mark.slow
def test_the_demo_says_what_it_did_not_show_when_its_time_is_too_short() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "demo", "--seconds", "1"], capture_output=True, text=True, cwd=ROOT, timeout=300, check=False
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert "the demo did not show" in done.stdout
    assert SHRUNK in done.stdout.splitlines()[-1]
