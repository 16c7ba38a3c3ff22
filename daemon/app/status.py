"""What the daemon is doing (floor 9): a small JSON beside the journal, replaced atomically at most four times a second, and its reader.

    page = read_page(status_path(settings.journal.path)); page["journal"] = read_journal(...); degraded(page, now)
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from daemon.engine.codec import plain
from daemon.errors import UserError
from daemon.journal.store import Journal
from daemon.service.clock import Clock
from daemon.service.poller import FeedHealth
from daemon.service.views import STANDS_AFTER_S
from daemon.units import NS

PUBLISH_EVERY_NS = NS // 4
STALE_AFTER_POLLS = 3  # a feed that did not succeed for this many of its slots is behind
STALE_AFTER_MIN_NS = 5 * NS


def status_path(state: Path) -> Path:
    """Where the daemon of a journal publishes: `state.status.json` beside `state.db`."""
    return state.with_name(f"{state.stem}.status.json")


class Publication:
    """Writes the status page's file; readers see a whole page or the one before, never half of one."""

    def __init__(self, *, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._published_at = -PUBLISH_EVERY_NS
        self._page: Mapping[str, object] = {}
        self._started = datetime.now(UTC)

    def due(self) -> bool:
        """True when a quarter of a second has passed since the last page."""
        return self._clock.real_ns() - self._published_at >= PUBLISH_EVERY_NS

    def publish(self, page: Mapping[str, object]) -> None:
        """Replace the page. A page that cannot be written is not worth stopping for: its age will show."""
        self._published_at = self._clock.real_ns()
        self._page = page
        self._write({**page, "ended": None})

    def last_words(self, why: str) -> None:
        """Publish the last page again, with why there will be no other."""
        self._write({**self._page, "ended": why})

    def feed(self, health: FeedHealth) -> Mapping[str, object]:
        """One feed's line: `state` is ok | failing | stale | waiting."""
        now = self._clock.now()
        age_ns = now - health.succeeded_at if health.succeeded_at else None
        stale_after_ns = max(STALE_AFTER_POLLS * health.every_ns, STALE_AFTER_MIN_NS)
        if health.failures:
            state = "failing"
        elif age_ns is None:
            state = "waiting"
        else:
            state = "stale" if age_ns > stale_after_ns else "ok"
        return {
            "source": health.source,
            "state": state,
            "every_s": health.every_ns / NS,
            "age_s": None if age_ns is None else age_ns / NS,
            "failures": health.failures,
            "skipped": health.skipped,
            "reason": health.reason,
            "waits_for": health.waits_for,
        }

    def _write(self, page: Mapping[str, object]) -> None:
        now = datetime.now(UTC)
        body = {**page, "pid": os.getpid(), "started": self._started.isoformat(), "published": now.isoformat()}
        partial = self._path.with_name(f".{self._path.name}.partial")
        try:
            partial.write_text(json.dumps(plain(body)), encoding="utf-8")
            os.replace(partial, self._path)
        except OSError:
            return


def read_page(path: Path) -> dict[str, Any]:
    """The page as published; empty when there is none."""
    try:
        page = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return page if isinstance(page, dict) else {}


def read_journal(state: Path, feed: Path) -> dict[str, Any]:
    """What the journal says by itself, read only: its head, what waits to be delivered and what never was."""
    try:
        journal = Journal.open_readonly(state, feed)
    except UserError as error:
        return {"path": str(state), "problem": str(error)}
    with journal:
        seq, head = journal.head()
        dead = journal.dead_letters()
        return {
            "path": str(state),
            "problem": "",
            "head": f"{seq}:{head}",
            "outbox_waiting": journal.waiting_deliveries(),
            "dead_letters": [{"id": d.id, "endpoint": d.endpoint, "severity": d.severity, "reason": d.error} for d in dead],
        }


def degraded(page: Mapping[str, Any], now: datetime) -> list[str]:
    """Everything that is not as it should be, in words; empty when the daemon runs and all is well."""
    journal = page["journal"]
    found: list[str] = [journal["problem"]] if journal["problem"] else []
    if "pid" not in page:
        return [*found, "the daemon has not run with these settings"]
    if page.get("ended"):
        return [*found, f"the daemon is not running: {page['ended']}", *halted_by(page)]
    silent_s = (now - datetime.fromisoformat(page["published"])).total_seconds()
    if not alive(int(page["pid"])):
        gone = f"the daemon is not running: process {page['pid']} is gone and left no last words; its next start recovers"
        return [*found, gone, *halted_by(page)]
    if silent_s > STANDS_AFTER_S:
        found.append(f"the daemon has not turned for {silent_s:.0f} s")
    return [*found, *troubles(page), *undelivered(journal)]


def halted_by(page: Mapping[str, Any]) -> list[str]:
    """Why the next start will send nothing: the halt flag as it is on disk now; empty when it is not there."""
    return [f"its next start sends nothing: {page['halt_flag']}"] if page.get("halt_flag") else []


def troubles(page: Mapping[str, Any]) -> list[str]:
    """Everything of a running daemon that is not as it should be, in words."""
    found: list[str] = []
    if page.get("halted"):
        found.append(str(page["halted"]))
    if page.get("reload_error"):
        found.append(f"the last reload was refused, the old runbooks are in force:\n{page['reload_error']}")
    for feed in page.get("feeds", []):
        if feed["state"] in ("failing", "stale"):
            age = "never succeeded" if feed["age_s"] is None else f"last success {feed['age_s']:.0f} s ago"
            waiting = sum(1 for other in page["feeds"] if other.get("waits_for") == feed["source"])
            behind = f"; {waiting} feeds wait for it" if waiting else ""
            found.append(f"feed {feed['source']} is {feed['state']}: {age}{'; ' + feed['reason'] if feed['reason'] else ''}{behind}")
    for venue, age_s in page.get("blind_venues", {}).items():
        found.append(f"{venue}: its last block is {age_s:.0f}s old: all its readings are UNKNOWN")
    found += page.get("clock_problems", [])
    if page.get("lost_instances"):
        found.append(unjudged(page["lost_instances"]))
    broker = page.get("mqtt")
    if broker and not broker["connected"]:
        found.append(f"the MQTT broker {broker['broker']} is away for {broker['since_s']:.0f} s: {broker['reason']}; notices wait for it")
    elif broker and broker["reason"]:
        found.append(f"MQTT: {broker['reason']}")
    if (page.get("http") or {}).get("problem"):
        found.append(f"the page and the API are not served: {page['http']['problem']}")
    if (page.get("http") or {}).get("fault"):
        found.append(page["http"]["fault"])
    for name in page.get("disabled_endpoints", []):
        found.append(f"endpoint {name} said 410 Gone and gets nothing more; `reefd webhook enable {name}` sends there again")
    return found


def undelivered(journal: Mapping[str, Any]) -> list[str]:
    """The dead letters of a journal, in words."""
    return [f"notice {letter['id']} never reached {letter['endpoint']}: {letter['reason']}" for letter in journal.get("dead_letters", [])]


def unjudged(instances: Sequence[Mapping[str, Any]]) -> str:
    """How many instances cannot be judged, and what the first one of each runbook lacks: no runbook hides behind another's many."""
    of_runbook: dict[str, list[Mapping[str, Any]]] = {}
    for instance in instances:
        of_runbook.setdefault(instance["runbook"], []).append(instance)
    said = []
    for runbook, its in of_runbook.items():
        more = f" (and {len(its) - 1} more)" if len(its) > 1 else ""
        said.append(f"{runbook} on {its[0]['entity']}{more} lacks {', '.join(its[0]['lacks'])}")
    return f"{len(instances)} {'instance' if len(instances) == 1 else 'instances'} cannot be judged: {'; '.join(said)}"


def never_judged(page: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The instances that have lacked a reading since the daemon started: most often there is no such reading here."""
    if "never_judged" in page:
        return list(page["never_judged"])
    lost = {(i["runbook"], i["entity"]) for i in page.get("lost_instances", [])}
    return [
        {"runbook": i["runbook"], "entity": i["entity"], "lacks": i["unknown"]}
        for i in page.get("engine", {}).get("instances", [])
        if i["unknown"] and (i["runbook"], i["entity"]) not in lost
    ]


def alive(pid: int) -> bool:
    """True when a process of this id exists."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def show(page: Mapping[str, Any], problems: Sequence[str]) -> None:
    """Print the page for a person."""
    console = Console(highlight=False, soft_wrap=True)
    dead = next((problem for problem in problems if problem.startswith("the daemon is not running")), "")
    if dead:
        console.print(f"NOT RUNNING: {dead}", markup=False)
        console.print(f"what follows is as it was at {page.get('published', '?')}:")
    if "pid" in page:
        mode = " (dry run)" if page.get("dry_run") else ""
        console.print(f"reefd {page.get('build', '')}{mode}, process {page['pid']}, at {page.get('at', '?')}, seq {page.get('seq', '?')}")
        for feed in page.get("feeds", []):
            age = "-" if feed["age_s"] is None else f"{feed['age_s']:.1f} s"
            waits = f", waits for {feed['waits_for']}" if feed.get("waits_for") else ""
            console.print(f"  feed {feed['source']:<28} {feed['state']:<8} age {age:<8} every {feed['every_s']:g} s{waits}")
        gates = page.get("gates", [])
        if gates:
            console.print(f"  {len(gates)} {'gate' if len(gates) == 1 else 'gates'} closed:")
        for gate in gates:
            why = f": {gate['reason']}" if gate["reason"] else ""
            console.print(f"  openings halted: {gate['what']} by {gate['by']} since {gate['since']}{why}", markup=False)
        never = never_judged(page)
        if never:
            console.print(f"  since the start {unjudged(never)}", markup=False)
        for action_id in page.get("unsettled", []):
            console.print(f"  not settled: {action_id}", markup=False)
        turned = page.get("loop", {})
        console.print(
            f"  {turned.get('events', 0)} events, {turned.get('records', 0)} records, "
            f"slowest decision {turned.get('step_ms_max', 0):.2f} ms, slowest commit {turned.get('commit_ms_max', 0):.2f} ms"
        )
    journal = page["journal"]
    if not journal["problem"]:
        waiting = journal["outbox_waiting"]
        console.print(f"  journal {journal['path']}, head {journal['head'][:24]}, {waiting} notices waiting", markup=False)
    console.print("degraded:" if problems else "all is well")
    for problem in problems:
        console.print(f"  {problem}", markup=False)
