"""What the daemon is doing, for a terminal (floor 9): its latest snapshot over its API, beside what it published and journaled.

    status(Path("config/reefd.yaml"), json_format=False, watch=False, url=None)      # 0 running and fine, 1 not running or degraded

Without an API that answers, what is published beside the journal and the journal itself say what they know.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.live import Live
from rich.text import Text

from daemon.app import operator_show
from daemon.app.operator import LOOK_S, Reach
from daemon.app.status import degraded, read_journal, read_page, show, status_path
from daemon.edges.operator import OperatorClient
from daemon.errors import EdgeError, UserError
from daemon.service.halting import HaltFlag
from daemon.settings import Settings

EVERY_S = 1.0


def status(config: Path, *, json_format: bool, watch: bool, url: str | None) -> int:
    """Print what the daemon is doing, once or until interrupted. Raises UserError when an address that was given does not answer."""
    reach = Reach.of(config, url)
    if watch:
        with suppress(KeyboardInterrupt):
            _watch(reach, json_format or not sys.stdout.isatty())
        return 0
    if reach.settings is None:
        with reach.client() as client:
            now = client.get("status")
        if json_format:
            print(json.dumps(now, indent=2))
        else:
            operator_show.console().print(operator_show.now(now))
        return 1 if now["problems"] or now["line"] == "BLIND" else 0
    return _here(reach, reach.settings, json_format)


def _here(reach: Reach, settings: Settings, json_format: bool) -> int:
    page = read_page(status_path(settings.journal.path))
    page["journal"] = read_journal(settings.journal.path, settings.journal.feed())
    page["halt_flag"] = HaltFlag(settings.halt_file).text()
    problems = page["degraded"] = degraded(page, datetime.now(UTC))
    now: dict[str, Any] | None = None
    if settings.http.enabled:
        with suppress(UserError), reach.client(answer_s=LOOK_S) as client:
            now = client.get("status")
    if json_format:
        print(json.dumps({**page, "now": now}, indent=2))
        return 1 if problems else 0
    if now is not None:
        operator_show.console().print(operator_show.now(now))
        operator_show.console().print()
    show(page, problems)
    return 1 if problems else 0


def _watch(reach: Reach, as_lines: bool) -> None:
    """The snapshot, each second anew; what does not answer is shown as old."""
    with reach.open(LOOK_S) as client:
        if as_lines:
            for now, why in _looks(reach, client):
                print(json.dumps({"problem": why} if why else now), flush=True)
            return
        with Live(console=operator_show.console(), auto_refresh=False) as live:
            for now, why in _looks(reach, client):
                stale = Text(f"OLD, as of {now['at'] if now else 'never'}: {why}", style="bold red") if why else Text("")
                live.update(stale if now is None else Group(stale, operator_show.now(now)), refresh=True)


def _looks(reach: Reach, client: OperatorClient) -> Iterator[tuple[dict[str, Any] | None, str]]:
    """The latest snapshot each second, and why it is not of now; empty when it is."""
    last: dict[str, Any] | None = None
    while True:
        why = ""
        try:
            last = client.get("status")
        except EdgeError as error:
            if error.reason in ("http_401", "http_403"):
                raise reach.complaint(error) from error
            why = str(error)
        yield last, why
        time.sleep(EVERY_S)
