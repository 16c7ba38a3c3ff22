"""`reefd doctor` (floor 9): everything that a night of trouble would find out, found out now; nothing is written, nothing is traded.

    doctor(Path("config/reefd.yaml"), json_format=False, send=False)      # 0 nothing failed, 1 something did

Settings, files and their permissions, disk, secrets, runbooks, journal, the venue's clock and each of its polls, endpoints (with
`--send` a test message to each), and what a day of silence would do to each account.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import stat
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from rich.console import Console

from daemon import __version__
from daemon.app.connections import Edges, connect, read_clock
from daemon.app.reading import load_set, read_house_limits
from daemon.app.status import alive, read_page, status_path
from daemon.app.telling import open_sender
from daemon.edges.broker import Ack, Broker, Outgoing, Subscription, joined
from daemon.edges.dydx.feed import DydxFeed
from daemon.edges.mqtt import MqttWire
from daemon.edges.protocol import Feed
from daemon.edges.webhook import WebhookSender, render
from daemon.engine.engine import Engine
from daemon.engine.events import Event, Gap, Observed, RunbooksLoaded
from daemon.engine.limits import HouseLimits
from daemon.errors import EdgeError, SettingsError, UserError
from daemon.journal.store import Journal
from daemon.runbook.load import load_documents
from daemon.service.alerts import send_test
from daemon.service.clock import Clock
from daemon.service.halting import HaltFlag
from daemon.service.inbox import Inbox
from daemon.service.lanes import wall
from daemon.service.logging import quiet
from daemon.service.poller import Poller
from daemon.settings import Settings, load_settings
from daemon.units import DAY_NS, NS, show, show_duration
from daemon.world.entities import Kind

Verdict = Literal["ok", "warning", "failed", "skipped"]
DISK_LOW_BYTES = 2 * 2**30  # a busy daemon's journal and feed grow by some 100 MB a day
DISK_OUT_BYTES = 200 * 2**20
SKEW_WARN_NS = NS // 2  # the margin of an order's expiry
SKEW_FAIL_NS = 5 * NS
HISTORY_TRIES = 8  # pages of a feed's past
CONNECT_S = 5.0
# What the windows of a silent day's reading need; it never runs, it is only read.
WATCHER = """\
schema: reefd/v1
runbook: silent-day
title: What a day of silence would do
owner: doctor
severity: warning
intent: economy
stage: shadow
scope: account
trigger: {when: time_to_liquidation < 1d}
steps: [{id: tell, notify: {to: [nobody], text: "unread"}}]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What one check found, and what to do about it."""

    check: str
    verdict: Verdict
    text: str
    fix: str = ""


def doctor(config: Path, *, json_format: bool, send: bool) -> int:
    """Run every check and print what was found; 0 nothing failed, 1 something did."""
    quiet()
    findings = list(examine(config, send=send))
    failed = [finding for finding in findings if finding.verdict == "failed"]
    if json_format:
        print(json.dumps({"healthy": not failed, "findings": [asdict(finding) for finding in findings]}, indent=2))
    else:
        _show(findings)
    return 1 if failed else 0


def examine(config: Path, *, send: bool) -> Iterator[Finding]:
    """Every finding, in the order in which a person would look."""
    try:
        settings = load_settings(config)
    except SettingsError as error:
        yield Finding(check="settings", verdict="failed", text=str(error), fix="mend the settings; nothing else can be looked at")
        return
    yield Finding(check="settings", verdict="ok", text=f"{config} can be used")
    yield from _files(settings)
    yield from _runbooks(settings)
    yield from _journal(settings)
    yield from asyncio.run(_collected(settings, send=send))


# --- on this machine ----------------------------------------------------------------------------------------------------


def _files(settings: Settings) -> Iterator[Finding]:
    folder = settings.journal.path.parent
    there = next(parent for parent in (folder, *folder.resolve().parents) if parent.is_dir())
    if os.access(there, os.W_OK):
        free = shutil.disk_usage(there).free
        verdict: Verdict = "failed" if free < DISK_OUT_BYTES else "warning" if free < DISK_LOW_BYTES else "ok"
        fix = "" if verdict == "ok" else "make room: when the journal cannot commit, the daemon stops acting"
        yield Finding(check="disk", verdict=verdict, text=f"{free / 2**30:,.1f} GiB free for {folder}", fix=fix)
    else:
        yield Finding(check="disk", verdict="failed", text=f"{folder} cannot be written", fix=f"give {_user()} the folder")
    for path in (settings.journal.path, settings.journal.feed()):
        if path.exists() and path.stat().st_mode & stat.S_IROTH:
            yield Finding(
                check="permissions", verdict="warning", text=f"{path} can be read by everybody on this machine", fix=f"chmod o-rwx {path}"
            )
    for what, path in _secret_files(settings):
        yield _secret_file(what, path)
    flag = HaltFlag(settings.halt_file)
    if flag.there():
        yield Finding(check="halt flag", verdict="warning", text=f"nothing will be sent: {flag.text()}", fix=f"rm {flag.path}, when it may")
    try:
        settings.endpoints()
        settings.mqtt_broker()
        read_house_limits(settings.limits)
    except SettingsError as error:
        yield Finding(check="secrets and limits", verdict="failed", text=str(error), fix="the daemon does not start without them")
    else:
        yield Finding(check="secrets and limits", verdict="ok", text="every secret and the house limits can be read")


def _secret_files(settings: Settings) -> Iterator[tuple[str, Path]]:
    for name, webhook in settings.webhooks.items():
        for reference in (webhook.secret, webhook.previous_secret, webhook.token, webhook.routing_key, webhook.url):
            if reference is not None and reference.startswith("file:"):
                yield f"webhooks.{name}", Path(reference.removeprefix("file:"))


def _secret_file(what: str, path: Path) -> Finding:
    try:
        mode = path.stat().st_mode
    except OSError as error:
        return Finding(check="permissions", verdict="failed", text=f"{what}: {path}: {(error.strerror or str(error)).lower()}")
    if mode & (stat.S_IRGRP | stat.S_IROTH):
        return Finding(check="permissions", verdict="warning", text=f"{what}: others can read {path}", fix=f"chmod 600 {path}")
    return Finding(check="permissions", verdict="ok", text=f"{what}: {path} is its owner's alone")


def _user() -> str:
    return f"the user {os.environ.get('USER') or os.getuid()}"


def _runbooks(settings: Settings) -> Iterator[Finding]:
    loaded = load_set(settings.runbooks, settings.topology(), stressed=settings.stress is not None)
    if loaded.errors:
        text = "\n".join(problem.render() for problem in loaded.errors)
        yield Finding(check="runbooks", verdict="failed", text=text, fix=f"reefd check {settings.runbooks}")
        return
    armed = [book.id for book in loaded.runbooks if book.stage == "armed"]
    verdict: Verdict = "ok" if armed else "warning"
    fix = "" if armed else "nothing acts: set `stage: armed` where you mean it"
    yield Finding(check="runbooks", verdict=verdict, text=f"{len(loaded.runbooks)} load, {len(armed)} are armed", fix=fix)


def _journal(settings: Settings) -> Iterator[Finding]:
    path = settings.journal.path
    page = read_page(status_path(path))
    running = "pid" in page and not page.get("ended") and alive(int(page["pid"]))
    who = f"process {page['pid']} runs with these settings" if running else "no daemon runs with these settings"
    yield Finding(check="daemon", verdict="ok" if running else "warning", text=who, fix="" if running else "reefd run")
    if not path.exists():
        yield Finding(check="journal", verdict="ok", text=f"{path} does not exist yet; the first start makes it")
        return
    try:
        with Journal.open_readonly(path, settings.journal.feed()) as journal:
            dead = journal.dead_letters()
            head = journal.head()
    except UserError as error:
        yield Finding(check="journal", verdict="failed", text=str(error), fix="docs/operations.md, Backup and restore")
        return
    yield Finding(check="journal", verdict="ok", text=f"{path} can be read, head {head[0]}:{head[1][:16]}")
    if dead:
        yield Finding(
            check="dead letters", verdict="warning", text=f"{len(dead)} messages reached nobody, the last at {dead[-1].endpoint}",
            fix="reefd webhook list",
        )  # fmt: skip


# --- on the network -----------------------------------------------------------------------------------------------------


async def _collected(settings: Settings, *, send: bool) -> list[Finding]:
    return [finding async for finding in _network(settings, send=send)]


async def _network(settings: Settings, *, send: bool) -> AsyncIterator[Finding]:
    try:
        clock = await read_clock(settings)
        sender = open_sender(settings)
        broker = settings.mqtt_broker()
    except UserError as error:
        yield Finding(check="venue", verdict="failed", text=str(error))
        return
    edges = connect(settings, clock, sender)
    try:
        for feed in edges.feeds:
            if isinstance(feed, DydxFeed) and settings.clock.follow == "wall":
                yield await _skew(feed)
        if settings.clock.follow == "venue":
            yield Finding(check="clock", verdict="ok", text="the clock of the venue is followed, there is nothing to differ from")
        inbox = Inbox(observations_max=100_000)
        for feed in edges.feeds:
            async for finding in _poll(feed, inbox, clock):
                yield finding
        for finding in silent_day(settings, inbox, clock):
            yield finding
        for name in sender.endpoints:
            yield await _endpoint(sender, name, house=settings.house, send=send)
        if broker is not None:
            yield await _broker(settings, broker, send=send)
        if not sender.endpoints and broker is None:
            yield Finding(
                check="alerts", verdict="warning", text="no endpoint is configured: nobody is told of anything",
                fix="write `webhooks:` and `channels:`; docs/alerts.md",
            )  # fmt: skip
    finally:
        await _close(edges)


async def _close(edges: Edges) -> None:
    await edges.close()


async def _skew(feed: DydxFeed) -> Finding:
    before = time.time_ns()
    try:
        told = await feed.time()
    except EdgeError as error:
        return Finding(check="clock", verdict="failed", text=f"{feed.name} does not tell its time: {error}")
    after = time.time_ns()
    skew_ns, error_ns = told - (before + after) // 2, (after - before) // 2
    shown = f"{feed.name}'s clock is {show_duration(abs(skew_ns) / NS)} {'ahead of' if skew_ns > 0 else 'behind'} ours"
    beyond = abs(skew_ns) - error_ns  # what a slow answer cannot explain
    verdict: Verdict = "failed" if beyond > SKEW_FAIL_NS else "warning" if beyond > SKEW_WARN_NS else "ok"
    fix = "" if verdict == "ok" else "let this machine's clock follow NTP: orders expire by the venue's clock"
    return Finding(check="clock", verdict=verdict, text=f"{shown}, give or take {show_duration(error_ns / NS)}", fix=fix)


async def _poll(feed: Feed, inbox: Inbox, clock: Clock) -> AsyncIterator[Finding]:
    rows, problem = 0, ""
    try:
        for _ in range(HISTORY_TRIES):
            past = await feed.history()
            if not past:
                break
            rows += len(past)
            inbox.put(Observed(at=0, source=feed.name, rows=tuple(past), history=True))
    except EdgeError as error:
        problem = str(error)
    if problem:
        yield Finding(
            check="feed", verdict="warning", text=f"{feed.name}: its past cannot be read: {problem}", fix="windows start cold without it"
        )
    elif rows:
        yield Finding(check="feed", verdict="ok", text=f"{feed.name}: {rows:,} rows of its past")
    for poll in feed.polls:
        poller = Poller(source=poll.name, poll=poll, inbox=inbox, clock=clock)
        began = time.monotonic_ns()
        await poller.poll_once()
        took = show_duration((time.monotonic_ns() - began) / NS)
        if poller.health.failures:
            yield Finding(check="feed", verdict="failed", text=f"{poll.name}: {poller.health.reason}")
        else:
            yield Finding(check="feed", verdict="ok", text=f"{poll.name} answers in {took}")


def silent_day(settings: Settings, inbox: Inbox, clock: Clock) -> Iterator[Finding]:
    """What a day in which nobody acts would do to each account: the time in which current volatility covers its survivable move."""
    engine = Engine(topology=settings.topology(), house=HouseLimits(), build=__version__)
    loaded = load_documents({"silent-day.yaml": WATCHER})
    assert loaded.ok, loaded.errors
    book = loaded.runbooks[0]
    at = clock.now()
    engine.load(loaded.runbooks)
    events: list[Event] = [Gap(at=at, since=at, cause="start"), RunbooksLoaded(at=at, runbooks={book.path: book.digest})]
    while (event := inbox.take()) is not None:
        events.append(event)
    for number, event in enumerate(events):
        at = max(at + 1, clock.now()) if number else at
        engine.step(replace(event, at=at))
    accounts = [account.id for name in settings.venues for account in settings.accounts(name)]
    if not accounts:
        yield Finding(check="silent day", verdict="skipped", text="no account is configured")
    for account in accounts:
        if not engine.hot.read(Kind.ACCOUNT, account, "collateral", at).known:
            yield Finding(check="silent day", verdict="failed", text=f"{account}: nothing was read of this account")
            continue
        tree = engine.hot.trace(book, book.trigger.when.index, account, at)
        kids = tree["kids"]
        assert isinstance(kids, list)
        yield _survives(account, kids[0]["value"], engine.hot.read(Kind.ACCOUNT, account, "survivable_move", at).value)


def _survives(account: str, seconds: float | None, move: float) -> Finding:
    """A day is what a weekend, an illness or a lost phone take at least."""
    if move == float("inf"):
        return Finding(check="silent day", verdict="ok", text=f"{account}: no open position, nothing to liquidate")
    if seconds is None or seconds != seconds:
        text = f"{account}: cannot be said, volatility or prices are unknown"
        return Finding(check="silent day", verdict="warning", text=text, fix="run it again when a day of candles is there")
    takes = "longer than a year" if seconds > 365 * 86_400 else show_duration(seconds)
    text = f"{account}: a move of {show(move, 'ratio')} liquidates it; at the current volatility that takes {takes}"
    if seconds * NS < DAY_NS:
        return Finding(check="silent day", verdict="failed", text=text, fix="shrink, or add collateral: nobody can sleep on this")
    return Finding(check="silent day", verdict="ok", text=text)


async def _endpoint(sender: WebhookSender, name: str, *, house: str, send: bool) -> Finding:
    endpoint = sender.endpoints[name]
    if send:
        tested = await send_test(sender, name, house=house, at=time.time_ns(), signed_at=wall())
        verdict: Verdict = "ok" if tested.delivered else "failed"
        return Finding(check="alerts", verdict=verdict, text=f"{name}, a test message: {tested.answer}")
    if endpoint.format == "apprise":  # its address holds keys where others have a host
        return Finding(check="alerts", verdict="ok", text=f"{name}: only apprise knows where it goes; --send sends a test message")
    parts = urlsplit(endpoint.url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    secure = ssl.create_default_context(cafile=endpoint.ca_file or None) if parts.scheme == "https" else None
    try:
        async with asyncio.timeout(CONNECT_S):
            _, writer = await asyncio.open_connection(parts.hostname, port, ssl=secure)
            writer.close()
    except (OSError, TimeoutError) as error:
        why = f"no answer within {CONNECT_S:g} s" if isinstance(error, TimeoutError) else str(error).lower()
        return Finding(check="alerts", verdict="failed", text=f"{name}: {parts.hostname} port {port}: {why}")
    return Finding(check="alerts", verdict="ok", text=f"{name}: {parts.hostname} port {port} listens; --send sends a test message")


async def _broker(settings: Settings, broker: Broker, *, send: bool) -> Finding:
    """Whether the MQTT broker lets us in, and lets us say and hear what the settings want; under a client id of its own."""
    assert settings.mqtt is not None
    prefix = settings.mqtt.prefix
    wanted = [joined(prefix, "feed", "+", "+")] if settings.mqtt.feed else []
    wanted += [joined(prefix, "command")] if settings.mqtt.commands else []
    at = time.time_ns()
    content = {"text": "reefd doctor: a test message over MQTT; nothing has happened", "severity": "info", "event": "test"}
    test = Outgoing(
        topic=joined(prefix, "notice", "info"),
        payload=render("notice.test", content, at=at, seq=0).encode(),
        properties={"id": f"doctor.{at}"},
    )
    try:
        async with MqttWire(replace(broker, client_id=f"{broker.client_id}-doctor")).connect(None) as connection:
            refused = [why for topics in wanted if (why := await connection.subscribe(Subscription(topics=topics, stored=False)))]
            ack = await connection.publish(test) if send else Ack()
    except EdgeError as error:
        return Finding(check="mqtt", verdict="failed", text=str(error))
    refused += [f"{test.topic}: {ack.refused}"] if ack.refused else []
    if refused:
        fix = "give the user access in the broker's rules; docs/mqtt.md"
        return Finding(check="mqtt", verdict="failed", text="; ".join(refused), fix=fix)
    if not ack.heard:
        text = f"{broker.address} took a test message, but nobody is subscribed to {test.topic}"
        return Finding(check="mqtt", verdict="warning", text=text)
    took = "took a test message" if send else "lets us in; --send sends a test message"
    return Finding(check="mqtt", verdict="ok", text=f"{broker.address} {took}")


# --- telling ------------------------------------------------------------------------------------------------------------


def _show(findings: Sequence[Finding]) -> None:
    console = Console(highlight=False, soft_wrap=True)
    words = {"ok": "  ok    ", "warning": "WARNING ", "failed": "FAILED  ", "skipped": "skipped "}
    for finding in findings:
        lines = finding.text.splitlines() or [""]
        console.print(f"{words[finding.verdict]}{finding.check:<20}{lines[0]}", markup=False)
        for line in [*lines[1:], *([f"-> {finding.fix}"] if finding.fix else [])]:
            console.print(f"{'':<28}{line}", markup=False)
    counts = {verdict: sum(f.verdict == verdict for f in findings) for verdict in ("failed", "warning")}
    console.print(f"{len(findings)} checks, {counts['failed']} failed, {counts['warning']} warnings")
