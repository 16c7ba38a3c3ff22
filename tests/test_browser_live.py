"""A person at the dashboard of the real daemon, which acts on the simulated venue: Debian's Chromium, three processes, one journey."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
from playwright.sync_api import Browser, Page, expect

from daemon.web.tokens import TokenFile
from tests.browsing import PHONE, chromium, press, shoot, sign_in, too_wide, window
from tests.service_processes import ROOT, free_port
from tests.service_processes import settings as venue_settings

SHEETS = ("/runs", "/runbooks", "/runbooks/ran-away", "/markets", "/markets/dydx:BTC-USD", "/accounts/dydx", "/alerts", "/journal")
WAIT_S = 60.0
CREATED = "2026-01-01T00:00:00Z"
WAIT_MS = WAIT_S * 1000
expect.set_options(timeout=WAIT_MS)

SCENARIO = """
scenario: calm-until-told
seed: 7
venue: {requests_in_10s: 100000}
markets:
  BTC-USD: {price: 100_000, volatility: 0%, funding_noise: 0%/h, depth: 5_000_000 USD}
accounts:
  - {collateral: 200_000 USD, positions: [{market: BTC-USD, size: 10}]}
"""
RUNBOOK = """
# Why: the price ran away from where this book was meant to stand. Half of it goes, but only when a person who sees the desk says so:
# the plan waits with the account before and after, and is left alone when nobody answers, because the move alone endangers nothing.
schema: reefd/v1
runbook: ran-away
title: The price ran away - take half off, if somebody agrees
owner: tests
severity: warning
intent: economy
stage: armed
scope: position
trigger: {when: oracle_price > 104_000 price, for: 2s}
locks: [position]
steps:
  - id: shrink
    shrink_position: {by: 50%, max_slippage: 100bps}
    approval: {when: notional_change > 1_000 USD, from: [ana], timeout: 10m, otherwise: skip}
    timeout: 20s
    retry: {attempts: 3, backoff: 1s}
on_failure: {then: stay_armed}
"""


@dataclass
class Night:
    """A simulated venue and a daemon in a folder, and the tokens of two people."""

    folder: Path
    venue_port: int = field(default_factory=free_port)
    port: int = field(default_factory=free_port)
    secrets: dict[str, str] = field(default_factory=dict)
    _venue: subprocess.Popen[bytes] | None = None
    _daemon: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def settings(self) -> Path:
        return self.folder / "reefd.yaml"

    def lay_out(self) -> None:
        """Scenario, runbook, settings, tokens."""
        (self.folder / "runbooks").mkdir()
        (self.folder / "runbooks" / "ran-away.yaml").write_text(RUNBOOK, encoding="utf-8")
        (self.folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
        kept = [line for line in venue_settings(self.folder, self.venue_port).splitlines() if not line.startswith("http:")]
        text = "\n".join([*kept, f"http: {{port: {self.port}}}", ""])
        self.settings.write_text(text, encoding="utf-8")
        tokens = TokenFile(self.folder / "tokens.yaml")  # where the daemon looks: beside its journal
        self.secrets["ana"] = tokens.add("ana", "approve", at=CREATED)
        self.secrets["vic"] = tokens.add("vic", "view", at=CREATED)
        self.secrets["boss"] = tokens.add("boss", "admin", at=CREATED)

    def start_venue(self) -> None:
        """The venue, in real time, so that a person can keep up."""
        words = ("sim", "--scenario", str(self.folder / "scenario.yaml"), "--port", str(self.venue_port), "--speed", "1")
        self._venue = self._spawn("venue.log", words)
        self._until(lambda: answers(f"http://127.0.0.1:{self.venue_port}/sim/clock"), self._venue, "venue.log")

    def start_daemon(self) -> None:
        """The daemon; returns when it has judged its first snapshot."""
        self._daemon = self._spawn("daemon.log", ("run", "--config", str(self.settings)))
        self._until(lambda: answers(f"{self.url}/readyz"), self._daemon, "daemon.log")

    def stop_daemon(self, number: int = signal.SIGTERM) -> None:
        ended(self._daemon, number)
        self._daemon = None

    def stop(self) -> None:
        """End both."""
        ended(self._daemon)
        ended(self._venue)

    def shock(self, body: Mapping[str, str]) -> None:
        """Something happens at the venue."""
        httpx.post(f"http://127.0.0.1:{self.venue_port}/sim/shocks", json=dict(body), trust_env=False, timeout=10).raise_for_status()

    def size(self) -> float:
        """The position, as the venue has it."""
        answer = httpx.get(
            f"http://127.0.0.1:{self.venue_port}/v4/addresses/dydx1reefdsim/subaccountNumber/0", trust_env=False, timeout=10
        ).json()
        return float(answer["subaccount"]["openPerpetualPositions"]["BTC-USD"]["size"])

    def _spawn(self, log: str, words: Sequence[str]) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("ab") as stream:
            return subprocess.Popen(command(*words), cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=stream, stderr=stream)

    def _until(self, true: Callable[[], bool], process: subprocess.Popen[bytes], log: str) -> None:
        began = time.monotonic()
        while not true():
            told = (self.folder / log).read_text(encoding="utf-8", errors="replace")[-4000:]
            assert process.poll() is None, told
            assert time.monotonic() - began < WAIT_S, told
            time.sleep(0.05)


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "daemon.cli", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}


def answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=5).status_code == 200
    except httpx.HTTPError:
        return False


def ended(process: subprocess.Popen[bytes] | None, number: int = signal.SIGTERM) -> None:
    if process is not None and process.poll() is None:
        process.send_signal(number)
        process.wait(WAIT_S)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def night(browser: Browser, tmp_path: Path) -> Iterator[Night]:
    """Both processes; `browser` first, so that nothing starts where no browser is."""
    made = Night(tmp_path)
    made.lay_out()
    try:
        made.start_venue()
        made.start_daemon()
        yield made
    finally:
        made.stop()


def marked(page: Page) -> None:
    page.evaluate("window.unchanged = true")


def unchanged(page: Page) -> bool:
    return bool(page.evaluate("window.unchanged === true"))


@pytest.mark.slow
def test_a_night_at_the_dashboard_of_the_real_daemon(browser: Browser, night: Night) -> None:
    with window(browser, size=PHONE) as page, window(browser) as other:
        # Reading needs no token on the loopback; the firing appears by itself.
        page.goto(night.url)
        expect(page.locator("h1")).to_have_text(re.compile("QUIET|WATCHING|BLIND"))
        expect(page.locator("#account-dydx")).to_contain_text("BTC-USD")
        marked(page)
        night.shock({"kind": "price_move", "market": "BTC-USD", "at": "0s", "by": "6%"})
        expect(page.locator("h1")).to_have_text("NEEDS YOU")
        expect(page).to_have_title(re.compile("^NEEDS YOU"))
        row = page.locator("#done tr", has_text="ran-away").first
        expect(row).to_contain_text("running")
        assert unchanged(page)
        assert too_wide(page) == ""
        shoot(page, "live-now-phone")

        # Its trace says why.
        row.get_by_role("link", name="ran-away").click()
        expect(page.locator("h1")).to_contain_text("ran-away")
        expect(page.locator("#why")).to_contain_text("oracle_price > 104_000")
        expect(page.locator("#timeline")).to_contain_text(re.compile("approv", re.I))
        assert too_wide(page) == ""

        # Who may only view cannot approve: not on the page, not past it.
        sign_in(other, night.url, night.secrets["vic"])
        button = other.locator(".need form[action='/do/approve'] button")
        expect(button).to_be_disabled()
        button.evaluate("button => { button.disabled = false; button.form.submit(); }")
        expect(other.locator("main")).to_contain_text("vic has the role view")
        assert night.size() == 10.0

        # A plan with another digest is not approved; the one that is shown is, and the position shrinks.
        sign_in(page, night.url, night.secrets["ana"])
        form = page.locator(".need form[action='/do/approve']")
        digest = form.locator("input[name=digest]").input_value()
        assert len(digest) >= 16
        token = {"authorization": f"Bearer {night.secrets['ana']}"}
        run = form.locator("input[name=target]").input_value()
        wrong = httpx.post(
            f"{night.url}/do/approve", data={"target": run, "digest": digest[::-1]}, headers=token, trust_env=False, timeout=20
        )
        assert wrong.status_code == 303, "told on the page it came from"
        assert night.size() == 10.0
        expect(page.locator(".need .change")).to_contain_text("→")
        press(page, form.get_by_role("button"))
        expect(page.locator("#told")).to_contain_text("Done: approved")
        expect(page.locator("#done")).to_contain_text("SELL")
        page.locator("#account-dydx summary").click()
        expect(page.locator("#account-dydx tr", has_text="BTC-USD")).to_contain_text(re.compile(r"\b5\b"))
        shoot(page, "live-approved-phone")
        assert night.size() == 5.0

        # Pause, with an end and a reason.
        page.locator("#pause > summary").click()
        page.locator("#pause-target").select_option("ran-away")
        page.locator("#pause-reason").fill("looked at it")
        page.locator("#pause form button").click()
        expect(page.locator("#told")).to_contain_text("Done: paused ran-away")
        expect(page.locator("#nets")).to_contain_text("ran-away")

        # Halt openings, seen by the other one without a reload.
        other.goto(night.url)
        marked(other)
        page.get_by_role("button", name="HALT OPENINGS").click()
        expect(page.locator("#openings")).to_contain_text("Openings are halted")
        expect(other.locator("#openings")).to_be_visible()
        gate = httpx.get(f"{night.url}/api/v1/gate?market=dydx:BTC-USD", trust_env=False, timeout=20).json()
        assert gate["open"] is False

        # The daemon is killed and comes back: the page says so, and goes on by itself; the halt is still there.
        night.stop_daemon(signal.SIGKILL)
        expect(other.locator("#stale")).to_be_visible()
        expect(other.locator("#stale")).to_contain_text(re.compile(r"Stale since \d\d:\d\d:\d\d UTC"))
        night.start_daemon()
        expect(other.locator("#stale")).to_be_hidden()
        expect(other.locator("#openings")).to_be_visible()
        assert unchanged(other)

        # The kill switch, behind a second press; then an admin resumes.
        sign_in(page, night.url, night.secrets["ana"])
        page.locator("#stop > summary").click()
        page.locator("#stop-reason").fill("the venue lies")
        page.get_by_role("button", name="Yes, stop everything").click()
        expect(page.locator("#halted")).to_contain_text("the venue lies")
        assert (night.folder / "halt").exists()
        expect(other.locator("#halted")).to_be_visible()
        sign_in(page, night.url, night.secrets["boss"])
        page.get_by_role("button", name="Resume everything").click()
        expect(page.locator("#halted")).to_have_count(0)
        assert not (night.folder / "halt").exists()
        for path in SHEETS:
            page.goto(night.url + path)
            assert page.locator("h1").count() == 1
            assert too_wide(page) == "", path
            shoot(page, f"live{path.replace('/', '-').replace(':', '-')}-phone")
