"""What the doctor finds: on a healthy machine nothing, and each thing that is wrong by its name."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from service_processes import RUNBOOK, Venue, free_port, settings

from daemon.app.doctor import Finding, examine, silent_day
from daemon.engine.events import Observed, Row
from daemon.service.clock import WallClock
from daemon.service.inbox import Inbox
from daemon.settings import load_settings
from daemon.units import FOREVER, HOUR_NS
from daemon.world.entities import Kind

SCENARIO = """
scenario: doctor
seed: 7
venue: {requests_in_10s: 100000}
markets:
  BTC-USD: {price: 100_000, volatility: 60%}
accounts:
  - {collateral: 1_000_000 USD, positions: [{market: BTC-USD, size: 20}]}
"""


@pytest_asyncio.fixture
async def venue(tmp_path: Path) -> AsyncIterator[Venue]:
    venue = Venue(free_port())
    (tmp_path / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    await venue.start(tmp_path / "scenario.yaml", 1.0, tmp_path / "sim.log")
    yield venue
    await venue.stop()


def lay_out(folder: Path, port: int, more: str = "", clock: str = "venue") -> Path:
    (folder / "runbooks").mkdir()
    (folder / "runbooks" / "grinder.yaml").write_text(RUNBOOK, encoding="utf-8")
    path = folder / "reefd.yaml"
    path.write_text(settings(folder, port, clock=clock) + more, encoding="utf-8")
    return path


def of(findings: list[Finding], check: str) -> list[Finding]:
    return [finding for finding in findings if finding.check == check]


@pytest.mark.slow
async def test_doctor_fails_nothing_when_the_venue_answers_and_says_how_long_a_silent_account_lasts(tmp_path: Path, venue: Venue) -> None:
    config = lay_out(tmp_path, venue.port)
    findings = await asyncio.to_thread(lambda: list(examine(config, send=False)))
    assert [finding for finding in findings if finding.verdict == "failed"] == []
    assert len(of(findings, "feed")) >= 7
    (day,) = of(findings, "silent day")
    assert "at the current volatility that takes" in day.text


@pytest.mark.slow
async def test_doctor_names_every_poll_that_fails_and_the_clock_when_the_venue_is_gone(tmp_path: Path) -> None:
    config = lay_out(tmp_path, free_port(), clock="wall")
    findings = await asyncio.to_thread(lambda: list(examine(config, send=False)))
    assert [finding.verdict for finding in of(findings, "clock")] == ["failed"]
    failed = [finding.text for finding in of(findings, "feed") if finding.verdict == "failed"]
    assert any("dydx.account:dydx" in text for text in failed)
    assert [finding.verdict for finding in of(findings, "silent day")] == ["failed"]


def test_doctor_stops_at_settings_that_cannot_be_used_and_says_why(tmp_path: Path) -> None:
    (tmp_path / "reefd.yaml").write_text("venuess: {}\n", encoding="utf-8")
    (finding,) = examine(tmp_path / "reefd.yaml", send=False)
    assert (finding.check, finding.verdict) == ("settings", "failed")
    assert "venuess" in finding.text


def test_doctor_finds_a_halt_flag_readable_secrets_faulty_runbooks_and_an_endpoint_that_does_not_listen(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n", encoding="utf-8")
    secret.chmod(0o644)
    more = f"webhooks: {{desk: {{url: 'http://127.0.0.1:{free_port()}/hook', secret: 'file:{secret}', allow_private: true}}}}\n"
    config = lay_out(tmp_path, free_port(), more, clock="wall")
    (tmp_path / "halt").write_text("ask Ana\n", encoding="utf-8")
    (tmp_path / "runbooks" / "worse.yaml").write_text("schema: reefd/v1\n", encoding="utf-8")
    findings = list(examine(config, send=False))
    assert "ask Ana" in of(findings, "halt flag")[0].text
    assert [(f.verdict, f.fix) for f in of(findings, "permissions")] == [("warning", f"chmod 600 {secret}")]
    assert of(findings, "runbooks")[0].verdict == "failed"
    (alert,) = of(findings, "alerts")
    assert alert.verdict == "failed"
    assert "desk" in alert.text


def test_doctor_sends_no_message_anywhere_when_it_is_not_asked_to(tmp_path: Path) -> None:
    config = lay_out(tmp_path, free_port(), clock="wall")
    assert "nobody is told" in of(list(examine(config, send=False)), "alerts")[0].text


def account_of(collateral: float, size: float, swing: float) -> Inbox:
    """An account with one position in a market whose price swung by `swing` each hour of the last two days."""
    inbox, now = Inbox(), WallClock().now()
    prices = [
        Row(
            kind=Kind.MARKET,
            entity="dydx:BTC-USD",
            event_ts=now - back * HOUR_NS,
            values={"oracle_price": 100_000.0 * (1 + swing * (back % 2)), "mark_price": 100_000.0},
        )
        for back in range(48, 0, -1)
    ]
    inbox.put(Observed(at=0, source="dydx", rows=tuple(prices), history=True))
    market = {"oracle_price": 100_000.0, "mark_price": 100_000.0, "imf": 0.05, "mmf": 0.03}
    rows = (
        Row(kind=Kind.VENUE, entity="dydx", values={"block_age": 0.0, "venue_up": 1.0}),
        Row(kind=Kind.MARKET, entity="dydx:BTC-USD", values=market),
        Row(kind=Kind.ACCOUNT, entity="dydx", values={"collateral": collateral}, event_ts=FOREVER),
        Row(kind=Kind.POSITION, entity="dydx:BTC-USD", values={"size": size, "entry_price": 100_000.0}, event_ts=FOREVER),
    )
    inbox.put(Observed(at=0, source="dydx", rows=rows))
    return inbox


@pytest.mark.parametrize(
    ("collateral", "size", "verdict"), [(1_000_000.0, 1.0, "ok"), (60_000.0, 10.0, "failed"), (1_000_000.0, 0.0, "ok")]
)
def test_a_silent_day_is_survived_or_not_by_the_move_that_the_margin_bears(
    tmp_path: Path, collateral: float, size: float, verdict: str
) -> None:
    config = load_settings(lay_out(tmp_path, free_port(), clock="wall"))
    (finding,) = silent_day(config, account_of(collateral, size, 0.02), WallClock())
    assert finding.verdict == verdict, finding.text
