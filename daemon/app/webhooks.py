"""`reefd webhook list | test | redeliver | enable` (floor 9): alerts out, for people or as JSON.

What changes the journal is done on it when no daemon runs, and asked of the daemon (which holds it) when one does.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Coroutine, Mapping
from contextlib import closing
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from daemon.app.operator import Reach
from daemon.app.telling import open_sender
from daemon.edges.broker import ENDPOINT
from daemon.edges.operator import OperatorClient, part
from daemon.edges.webhook import Endpoint
from daemon.errors import EdgeError, SettingsError, UserError
from daemon.journal.entry import Delivery
from daemon.journal.store import Journal, is_held
from daemon.service.alerts import ALL, Alerts, EndpointReport, Tested, overview, send_test
from daemon.service.lanes import wall
from daemon.settings import Settings, load_settings
from daemon.units import NS, iso, show_duration

HEADINGS = ("endpoint", "format", "state", "breaker", "waiting", "dead", "delivered", "last delivery")
UNDONE = "http_409"  # the daemon understood and did nothing; its words say why
ANSWER_S = 60.0  # a test waits for the endpoint
LETTERS_SHOWN = 50  # dead letters on a terminal; --format json has all


def list_(config: Path, *, json_format: bool) -> int:
    """Print how every endpoint does and what was given up: 0. Raises UserError when the settings or the journal cannot be read."""
    settings = load_settings(config)
    with Journal.open_readonly(settings.journal.path, settings.journal.feed()) as journal:
        now = _now(settings, journal)
        elsewhere = {} if settings.mqtt is None else {ENDPOINT: settings.mqtt.address()}
        reports = overview(journal, _shown(settings), now, settings.channels, elsewhere)
        letters = journal.dead_letters()
    reports = tuple(replace(report, address=_address(settings, report)) for report in reports)
    if json_format:
        print(json.dumps({"endpoints": [_plain(report) for report in reports], "dead_letters": [_letter(m) for m in letters]}, indent=2))
    else:
        _show(reports, letters, now)
    return 0


def test(endpoint: str, *, config: Path, json_format: bool) -> int:
    """Send a test message from here and print the answer: 0 taken, 1 not. A secret that only the daemon can read: it is asked to send.

    Raises UserError: no such endpoint, or settings that cannot be used.
    """
    settings = load_settings(config)
    if endpoint not in settings.webhooks:
        names = ", ".join(sorted(settings.webhooks)) or "none"
        raise UserError(f"there is no endpoint {endpoint!r}; the settings have: {names}")
    try:
        tested = asyncio.run(_send_test(settings, endpoint))
    except SettingsError:
        if not is_held(settings.journal.path):
            raise
        said = ask_daemon(config, f"webhooks/{part(endpoint)}/test")
        answer = str(said.get("effect", "")).removeprefix(f"{endpoint}: ")
        tested = Tested(endpoint=endpoint, delivered=bool(said.get("done")), answer=answer)
    if json_format:
        print(json.dumps(asdict(tested)))
    else:
        print(f"{endpoint}: {tested.answer}")
    return 0 if tested.delivered else 1


async def _send_test(settings: Settings, endpoint: str) -> Tested:
    sender = open_sender(settings)
    try:
        return await send_test(sender, endpoint, house=settings.house, at=time.time_ns(), signed_at=wall())
    finally:
        await sender.close()


def redeliver(message: str | None, *, config: Path, json_format: bool) -> int:
    """Put a dead letter (None: all of them) back into its lane: 0. Raises UserError when there is none, or the daemon cannot be asked."""
    settings = load_settings(config)
    which = message if message is not None else ALL
    if is_held(settings.journal.path):
        said = ask_daemon(config, f"deadletters/{part(which)}/redeliver")
        return _tell_effect(said, json_format=json_format, may_be_nothing=message is None)

    async def change(alerts: Alerts) -> str:
        letters = await alerts.redeliver(which)
        names = ", ".join(f"{letter.id} to {letter.endpoint}" for letter in letters[:5])
        more = f" and {len(letters) - 5} more" if len(letters) > 5 else ""
        return f"{names}{more}: goes again when the daemon runs" if letters else "there are no dead letters"

    return _tell_effect(_on_journal(settings, change), json_format=json_format)


def enable(endpoint: str, *, config: Path, json_format: bool) -> int:
    """Send again to an endpoint: 0. Raises UserError when there is no such endpoint, or the daemon cannot be asked."""
    settings = load_settings(config)
    if is_held(settings.journal.path):
        said = ask_daemon(config, f"webhooks/{part(endpoint)}/enable")
        return _tell_effect(said, json_format=json_format, may_be_nothing=True)

    async def change(alerts: Alerts) -> str:
        return await alerts.enable(endpoint)

    return _tell_effect(_on_journal(settings, change), json_format=json_format)


def ask_daemon(config: Path, path: str) -> Mapping[str, Any]:
    """The running daemon's answer to one write of its HTTP API (`done`, `effect`). Raises UserError when it cannot be asked or refuses."""
    if not load_settings(config).http.enabled:
        raise UserError("a daemon runs on this journal and has no HTTP API (http.enabled: false); stop it first")
    reach = Reach.of(config, None)
    with OperatorClient(url=reach.url, token=reach.token, answer_s=ANSWER_S) as client:
        try:
            return client.post(path)
        except EdgeError as error:
            if error.reason == UNDONE:
                return {"done": False, "effect": str(error)}
            raise reach.complaint(error) from error


def _on_journal(settings: Settings, change: Callable[[Alerts], Coroutine[Any, Any, str]]) -> Mapping[str, Any]:
    journal = Journal.open(settings.journal.path, settings.journal.feed())
    with closing(journal):
        # No clock runs: what is put back is due at once, whenever the daemon's next time may be.
        alerts = Alerts(journal=journal, sender=_Nobody(_shown(settings)), now=lambda: 0, house=settings.house)
        return {"done": True, "effect": asyncio.run(change(alerts))}


class _Nobody:
    """The endpoints by name, where nothing is sent."""

    def __init__(self, endpoints: Mapping[str, Endpoint]) -> None:
        self.endpoints = endpoints

    async def send(self, endpoint: str, message_id: str, body: str, *, signed_at: object) -> Any:
        """Never called: the verbs that change the journal send nothing."""
        raise AssertionError("nothing is sent without a daemon")


def _tell_effect(said: Mapping[str, Any], *, json_format: bool, may_be_nothing: bool = False) -> int:
    """Print what came of it: 0 when it was done, or when there was nothing to do and that is fine; else 2."""
    if json_format:
        print(json.dumps(said))
    else:
        print(said.get("effect", ""))
    return 0 if said.get("done", False) or may_be_nothing else 2


def _shown(settings: Settings) -> dict[str, Endpoint]:
    """The endpoints of the settings without their secrets: enough to show."""
    return {
        name: Endpoint(
            name=name,
            url=webhook.address() or "",
            format=webhook.format,
            grouping=webhook.grouping_wanted(),
            fallback=webhook.fallback or "",
        )
        for name, webhook in settings.webhooks.items()
    }


def _address(settings: Settings, report: EndpointReport) -> str:
    webhook = settings.webhooks.get(report.name)
    url = None if webhook is None else webhook.address()
    return url if url is not None and url.startswith(("env:", "file:")) else report.address


def _now(settings: Settings, journal: Journal) -> int:
    """The time that states are judged at: the wall's, or the latest that the journal knows of where the venue's clock is followed."""
    if settings.clock.follow == "wall":
        return time.time_ns()
    known = [at for record in journal.endpoint_records().values() for at in (record.delivered_at, record.failed_at, record.disabled_at)]
    return max((at for at in known if at is not None), default=0)


def _plain(report: EndpointReport) -> dict[str, Any]:
    times = {key: iso(at) if (at := getattr(report, key)) else None for key in ("opens_until", "delivered_at", "failed_at")}
    return asdict(report) | times | {"channels": list(report.channels)}


def _letter(letter: Delivery) -> dict[str, Any]:
    return {
        "number": letter.position,
        "id": letter.id,
        "endpoint": letter.endpoint,
        "severity": letter.severity,
        "created_at": iso(letter.created_at),
        "given_up_at": None if letter.settled_at is None else iso(letter.settled_at),
        "attempts": letter.attempts,
        "reason": letter.error,
    }


def _show(reports: tuple[EndpointReport, ...], letters: list[Delivery], now: int) -> None:
    console = Console(highlight=False, soft_wrap=True)
    if not reports:
        console.print("no endpoints: write `webhooks:` and `channels:` into the settings (docs/alerts.md)")
    rows: list[tuple[str, ...]] = [HEADINGS] if reports else []
    for report in reports:
        last = "never" if report.delivered_at is None else f"{show_duration(max(0, now - report.delivered_at) // NS)} ago"
        counts = (f"{report.waiting:,}", f"{report.dead:,}", f"{report.delivered:,}")
        rows.append((report.name, report.format or "-", report.state, report.breaker, *counts, last))
    for line in _aligned(rows):
        console.print(line, markup=False)
    for report in reports:
        where = f"{report.name}: {report.address}"
        where += f", of {', '.join(report.channels)}" if report.channels else ", of no channel"
        where += ", told in groups" if report.grouped else ", told one by one"
        where += f", fallback {report.fallback}" if report.fallback else ""
        console.print(f"  {where}", markup=False)
        if report.error:
            until = f"; tried again at {iso(report.opens_until)}" if report.opens_until else ""
            in_a_row = f" ({report.failures} in a row)" if report.failures > 1 else ""
            console.print(f"    {report.error}{in_a_row}{until}", markup=False)
        if report.state == "disabled":
            console.print(f"    reefd webhook enable {report.name}", markup=False)
    console.print(f"{len(letters):,} dead {'letter' if len(letters) == 1 else 'letters'}{':' if letters else ''}")
    for letter in letters[-LETTERS_SHOWN:]:
        said = f"{letter.severity} to {letter.endpoint}: {letter.error}"
        console.print(f"  {letter.position}  {iso(letter.created_at)}  {said}\n    {letter.id}", markup=False)
    if letters:
        console.print("again: reefd webhook redeliver NUMBER, or --all")


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    """Rows as lines with their columns under one another."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
