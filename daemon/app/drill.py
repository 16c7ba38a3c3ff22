"""`reefd drill` (floor 9): the whole path end to end, on this machine, now, against a simulated venue; what a fire drill is to a house.

    drill(Path("config/reefd.yaml"), json_format=False, send=False)          # 0 every link held, 1 one did not

Feed, trigger, notice, approval, order, gate, kill -9 and recovery, audit: each link with the seconds it took. Nothing of it touches a
real venue or the daemon that runs. With `send` every endpoint of the settings hears the outcome: whether people are reached is a link too.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console

from daemon.app.demo import free_port
from daemon.app.shipped import own_environment
from daemon.app.telling import open_sender
from daemon.app.verifying import verify_entries
from daemon.edges.http import HttpSource
from daemon.edges.operator import OperatorClient
from daemon.edges.receiver import Received, Receiver
from daemon.edges.webhook import Delivered, WebhookSender, render
from daemon.errors import EdgeError
from daemon.journal.entry import JournalError
from daemon.journal.store import Journal
from daemon.service.lanes import wall
from daemon.settings import load_settings
from daemon.web.tokens import TokenFile

SPEED = 10.0  # venue seconds a second
LINK_S = 120.0  # real seconds for one link; on an idle machine each takes a few
LOOK_S = 0.2
LOG_LINES = 5  # of each process, where a link broke
SECRET_VARIABLE = "REEFD_DRILL_WEBHOOK_SECRET"
MARKET, POSITION = "dydx:ETH-USD", "dydx:ETH-USD"
SCENARIO = """\
scenario: drill
seed: 1
venue: {requests_in_10s: 100000}
markets:
  ETH-USD: {price: 3_000, volatility: 0%, funding_noise: 0%/h}
accounts:
  - {collateral: 100_000 USD, positions: [{market: ETH-USD, size: 10}]}
"""
RUNBOOK = """\
schema: reefd/v1
runbook: drill
title: The drill's own
owner: drill
severity: critical
intent: economy
stage: armed
scope: position
trigger: {when: market.funding_rate > 0.05%/h or market.predicted_funding_rate > 0.05%/h, for: 2s}
notify: {to: [desk], events: [fired, acted, failed]}
steps:
  - id: shrink
    shrink_position: {by: 20%, max_slippage: 200bps}
    approval: {from: [operator], timeout: 2h, otherwise: abort}
    timeout: 10m
limits: {per_run: 30_000 USD, per_day: 60_000 USD}
on_failure: {then: stay_armed}
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """One link of the path: `held` or not, what was seen, and how long it took in real seconds."""

    name: str
    held: bool
    evidence: str
    took_s: float


class Broken(Exception):
    """A link did not hold; its text says what was seen instead."""


def drill(config: Path | None, *, json_format: bool, send: bool) -> int:
    """Plays the drill and prints the report; 0 when every link held. Raises UserError when the settings cannot be used."""
    sender = None
    if config is not None and send:
        sender = open_sender(load_settings(config))
    folder = Path(tempfile.mkdtemp(prefix="reefd-drill-"))
    console = Console(highlight=False, soft_wrap=True)

    def tell(link: Link) -> None:
        if not json_format:
            console.print(f"{'  ok  ' if link.held else 'BROKEN'}  {link.took_s:5.1f} s  {link.name}: {link.evidence}", markup=False)

    try:
        links = Drill(folder, tell=tell).play()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if sender is not None:
        links += asyncio.run(_tell_people(sender, links, tell))
    broken = [link for link in links if not link.held]
    if json_format:
        print(json.dumps({"passed": not broken, "links": [asdict(link) for link in links]}, indent=2))
    else:
        took = sum(link.took_s for link in links)
        console.print(f"{len(links) - len(broken)} of {len(links)} links held, in {took:.0f} s" + ("" if not broken else "; see above"))
    return 1 if broken else 0


async def _tell_people(sender: WebhookSender, links: list[Link], tell: Callable[[Link], None]) -> list[Link]:
    """The outcome to every endpoint; that it is taken is a link of its own."""
    held = sum(link.held for link in links)
    text = f"DRILL, nothing has happened: {held} of {len(links)} links held"
    found = []
    for name in sender.endpoints:
        began = time.monotonic()
        at = time.time_ns()
        id_ = f"drill.{at}"
        content: dict[str, object] = {"action_id": id_, "run_id": id_, "text": text, "severity": "info", "event": "drill"}
        content |= {"links": [asdict(link) for link in links]}
        answer = await sender.send(name, id_, render("notice.drill", content, at=at, seq=0), signed_at=wall())
        if sender.endpoints[name].format == "pagerduty" and isinstance(answer, Delivered):  # the drill leaves no incident open
            over = render("notice.cleared", {**content, "event": "cleared"}, at=at, seq=0)
            answer = await sender.send(name, f"{id_}.over", over, signed_at=wall())
        taken = isinstance(answer, Delivered)
        said = f"HTTP {answer.status}" if isinstance(answer, Delivered) else answer.reason
        found.append(Link(name=f"{name} is reached", held=taken, evidence=said, took_s=round(time.monotonic() - began, 1)))
        tell(found[-1])
    await sender.close()
    return found


@dataclass(slots=True)
class Drill:
    """One performance in a folder of its own."""

    folder: Path
    tell: Callable[[Link], None]
    links: list[Link] = field(default_factory=list)
    _port: int = field(default_factory=free_port)
    _http_port: int = field(default_factory=free_port)
    _secret: str = "whsec_" + base64.b64encode(secrets.token_bytes(24)).decode()
    _processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    _received: list[Received] = field(default_factory=list)
    _digest: str = ""
    _run_id: str = ""

    def play(self) -> list[Link]:
        """Every link in order; after one that broke the rest is not tried."""
        with Receiver(self._secret, on_received=self._received.append) as receiver:
            steps: tuple[tuple[str, Callable[[], str]], ...] = (
                ("a venue and the daemon start", lambda: self._start(receiver.url)),
                ("every feed answers", self._feeds),
                ("the gate is open while all is well", lambda: self._gate(opened=True)),
                ("a trigger fires and says why", self._fires),
                ("a signed notice arrives", self._noticed),
                ("a person is asked", self._asked),
                ("who may only look cannot approve", self._refused),
                ("another plan than the one shown is not approved", self._wrong_plan),
                ("halt closes the gate and nothing is sent", self._halted),
                ("resume opens it again", self._resumed),
                ("the approved order is filled at the venue, once", self._approved),
                ("kill -9 loses and doubles nothing", self._killed),
                ("the journal is whole and decides the same again", self._audited),
            )
            try:
                for name, step in steps:
                    if not self._link(name, step):
                        break
            finally:
                for process in self._processes.values():
                    process.kill()
                    process.wait()
        return self.links

    def _link(self, name: str, step: Callable[[], str]) -> bool:
        began = time.monotonic()
        try:
            held, evidence = True, step()
        except (Broken, EdgeError, JournalError, OSError) as error:
            held, evidence = False, f"{error}{self._log_tail()}"
        link = Link(name=name, held=held, evidence=evidence, took_s=round(time.monotonic() - began, 1))
        self.links.append(link)
        self.tell(link)
        return held

    # --- processes ----------------------------------------------------------------------------------------------------

    def _start(self, webhook_url: str) -> str:
        folder = self.folder
        (folder / "runbooks").mkdir()
        (folder / "runbooks" / "drill.yaml").write_text(RUNBOOK, encoding="utf-8")
        (folder / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
        (folder / "reefd.yaml").write_text(self._settings(webhook_url), encoding="utf-8")
        TokenFile(folder / "tokens.yaml").add("onlooker", "view", at="2000-01-01T00:00:00+00:00")
        self._spawn("sim", "--scenario", str(folder / "scenario.yaml"), "--port", str(self._port), "--speed", f"{SPEED:g}")
        self._spawn("run", "--config", str(folder / "reefd.yaml"), "--log", "json")
        status = self._until(lambda: self._ask().get("status"), "the daemon tells its state")
        return f"reefd {status['build']} watches {MARKET} at {SPEED:g} times the pace"

    def _settings(self, webhook_url: str) -> str:
        folder, url = self.folder, f"http://127.0.0.1:{self._port}"
        return f"""\
house: drill
runbooks: {folder / "runbooks"}
journal: {{path: {folder / "state.db"}}}
halt_file: {folder / "halt"}
clock: {{follow: venue}}
http: {{port: {self._http_port}}}
venues:
  dydx:
    adapter: dydx-v4
    url: {url}/v4
    orders: simulated
    markets: [ETH-USD]
    requests_per_10s: 1000
    accounts: {{dydx: {{address: dydx1reefdsim, subaccount: 0}}}}
webhooks:
  desk: {{url: '{webhook_url}', secret: 'env:{SECRET_VARIABLE}', allow_private: true}}
channels: {{desk: [desk]}}
"""

    def _spawn(self, verb: str, *words: str) -> None:
        environment = own_environment({SECRET_VARIABLE: self._secret, "PYTHONUNBUFFERED": "1"})
        with (self.folder / f"{verb}.log").open("ab") as log:
            self._processes[verb] = subprocess.Popen(
                [sys.executable, "-m", "daemon.cli", verb, *words], stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
            )

    def _log_tail(self) -> str:
        """The last lines of what the processes said; a link that broke is looked into by these."""
        said = []
        for name, process in self._processes.items():
            ended = "" if process.poll() is None else f" (ended by itself with exit code {process.returncode})"
            lines = (self.folder / f"{name}.log").read_text(encoding="utf-8", errors="replace").splitlines()[-LOG_LINES:]
            said += [f"  reefd {name}{ended}:", *(f"    {line[:300]}" for line in lines)]
        return "".join(f"\n{line}" for line in said)

    def _until(self, look: Callable[[], Any], what: str) -> Any:
        """What `look` gives once it gives something; raises Broken when it never does. A daemon that does not answer yet is waited for."""
        began, last = time.monotonic(), "nothing"
        while time.monotonic() - began < LINK_S:
            try:
                if found := look():
                    return found
            except EdgeError as error:
                last = str(error)
            if any(process.poll() is not None for process in self._processes.values()):
                break
            time.sleep(LOOK_S)
        raise Broken(f"{what}: not within {LINK_S:g} s; last seen: {last}")

    # --- asking -------------------------------------------------------------------------------------------------------

    def _ask(self, token: str = "") -> OperatorClient:
        return OperatorClient(url=f"http://127.0.0.1:{self._http_port}", token=token, answer_s=10.0)

    def _operator(self) -> OperatorClient:
        return self._ask((self.folder / "operator.token").read_text(encoding="utf-8").strip())

    def _venue(self, path: str, body: Mapping[str, object] | None = None) -> dict[str, Any]:
        async def ask() -> object:
            source = HttpSource(name="venue", url=f"http://127.0.0.1:{self._port}", timeout_s=5.0)
            try:
                return await (source.get(path) if body is None else source.post(path, body))
            finally:
                await source.close()

        found = asyncio.run(ask())
        assert isinstance(found, dict)
        return found

    def _orders(self) -> list[dict[str, Any]]:
        return [entry for entry in self._venue("/sim/log")["entries"] if entry["kind"] == "order"]

    # --- the links ----------------------------------------------------------------------------------------------------

    def _feeds(self) -> str:
        def look() -> str:
            feeds = self._ask().get("status")["feeds"]
            fine = [feed for feed in feeds if feed["state"] == "ok"]
            return f"{len(feeds)} polls answer in time" if feeds and len(fine) == len(feeds) else ""

        return str(self._until(look, "every poll answers in time"))

    def _gate(self, *, opened: bool) -> str:
        def look() -> str:
            gate = self._ask().get("gate", {"market": MARKET})
            return gate["why"] if gate["open"] is opened else ""

        return str(self._until(look, f"the gate of {MARKET} is {'open' if opened else 'closed'}"))

    def _fires(self) -> str:
        self._venue("/sim/shocks", {"kind": "funding_spike", "market": "ETH-USD", "to": "1%/h", "for": "6h"})

        def look() -> str:
            why = self._ask().get("why/drill")
            return why["sentence"] if why["state"] == "firing" else ""

        return str(self._until(look, "funding of 1 %/h fires the drill's runbook"))

    def _noticed(self) -> str:
        def look() -> Received | None:
            return next((each for each in self._received if each.kind == "notice.fired"), None)

        notice = self._until(look, "the receiver hears of the firing")
        if not notice.verified:
            raise Broken(f"the signature of {notice.message_id} is wrong")
        return f"{notice.message_id}, signature verified"

    def _asked(self) -> str:
        def look() -> dict[str, Any] | None:
            return next((need for need in self._ask().get("status")["needs"] if need["kind"] == "approval"), None)

        need = self._until(look, "an approval waits")
        self._run_id, self._digest = need["run_id"], need["digest"]
        return f"{need['title']}; {need['if_nothing']}"

    def _refused(self) -> str:
        onlooker = TokenFile(self.folder / "tokens.yaml").add("onlooker-2", "view", at="2000-01-01T00:00:00+00:00")
        for token, expected in (("", "http_401"), (onlooker, "http_403")):
            try:
                self._ask(token).post(f"approvals/{self._run_id}/approve", {"digest": self._digest})
            except EdgeError as error:
                if error.reason != expected:
                    raise
            else:
                raise Broken(f"an approval was taken from {'somebody who may only look' if token else 'nobody'}")
        return "401 without a token, 403 with one that may only look"

    def _wrong_plan(self) -> str:
        try:
            self._operator().post(f"approvals/{self._run_id}/approve", {"digest": "0" * 64})
        except EdgeError as error:
            return str(error)
        raise Broken("a digest that names no plan was approved")

    def _halted(self) -> str:
        effect = self._operator().post("halt", {"reason": "drill"})
        why = self._gate(opened=False)
        if not (self.folder / "halt").exists():
            raise Broken("the halt flag is not there: a restart would not know")
        return f"{effect['effect']}; {why}"

    def _resumed(self) -> str:
        self._operator().post("resume", {"reason": "drill"})
        return self._gate(opened=True)

    def _approved(self) -> str:
        self._operator().post(f"approvals/{self._run_id}/approve", {"digest": self._digest, "reason": "drill"})
        order = self._until(lambda: next((o for o in self._orders() if o["outcome"] == "executed"), None), "the venue executes the order")
        request = order["request"]
        if not request["reduce_only"]:
            raise Broken(f"the order was not reduce-only: {request}")
        return f"{request['side']} {request['size']} {request['market']}, reduce-only"

    def _killed(self) -> str:
        process = self._processes.pop("run")
        process.send_signal(signal.SIGKILL)
        process.wait()
        before = len(self._orders())
        self._spawn("run", "--config", str(self.folder / "reefd.yaml"), "--log", "json")

        def look() -> dict[str, Any] | None:
            run = self._ask().get(f"runs/{self._run_id}")["head"]
            return run if run["status"] == "done" else None

        run = self._until(look, f"the run {self._run_id} is done after the restart")
        orders = self._orders()
        ids = [order["request"]["client_id"] for order in orders]
        if len(orders) != before or len(set(ids)) != len(ids):
            raise Broken(f"the venue saw {len(orders)} orders, {before} of them before the kill: {ids}")
        return f"the run is {run['status']} with {len(orders)} order at the venue"

    def _audited(self) -> str:
        process = self._processes.pop("run")
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=LINK_S)
        with Journal.open_readonly(self.folder / "state.db", self.folder / "feed.db") as journal:
            report, decided = journal.verify_chain(), verify_entries(journal)
        if not report.intact:
            raise Broken("; ".join(report.problems))
        if not decided.identical:
            raise Broken(f"a record comes out otherwise when it is decided anew: {decided.difference}")
        return f"{report.entries} entries, every record as it was journaled; head {report.head_seq}:{report.head_hash[:16]}"
