"""What a person asks the running daemon for from a terminal (floor 9): over its API, with the halt flag where the API does not answer.

    reach = Reach.of(Path("config/reefd.yaml"), url=None)          # where the daemon listens, and with which token it is asked
    approve(reach, "funding-spike", digest="", reason="", confirm=typer.confirm, json_format=False)

Every function prints what came of it and returns the exit code: 0 done, 1 it did nothing; what could not be asked is a UserError (exit 2).
"""

from __future__ import annotations

import difflib
import getpass
import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.app import operator_show as show
from daemon.app.status import alive, read_page, status_path
from daemon.edges.operator import ANSWER_S, OperatorClient, ServerEvent, part
from daemon.errors import EdgeError, UserError
from daemon.service.halting import HaltFlag
from daemon.settings import Settings, load_settings
from daemon.units import parse_duration

TOKEN = "REEFD_TOKEN"
LOOK_S = 2.0  # a first look at whether a daemon answers
PORTFOLIO = "portfolio"
RUNS_SEARCHED = 1_000
Confirm = Callable[[str], bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reach:
    """Where a daemon is asked and as whom. `settings` is None when an address alone was given: then nothing of this machine is touched."""

    url: str
    token: str
    settings: Settings | None
    problem: str = ""  # why the daemon that runs here serves no API: whatever answers at its address is another one
    ended: bool = False  # the daemon of these settings ran and does not now: whatever answers at its address is another one too

    @classmethod
    def of(cls, config: Path, url: str | None) -> Reach:
        """From an address, else from the settings. The token is that of REEFD_TOKEN, else the operator's own, which the daemon wrote."""
        token = os.environ.get(TOKEN, "").strip()
        if url is not None:
            return cls(url=url, token=token, settings=None)
        settings = load_settings(config)
        page = read_page(status_path(settings.journal.path))
        told = page.get("http")
        address, problem = "", ""
        ended = "pid" in page and (bool(page.get("ended")) or not alive(int(page["pid"])))
        if isinstance(told, dict) and not ended:
            address, problem = str(told.get("url", "")), str(told.get("problem", ""))
        own = token or _own_token(settings)
        return cls(url=address or settings.http.own_url(), token=own, settings=settings, problem=problem, ended=ended)

    def open(self, answer_s: float = ANSWER_S) -> OperatorClient:
        """A client, to be closed. Raises UserError when the daemon serves no API, or has ended."""
        if self.ended:
            text = "the daemon of these settings is not running; start it with: reefd run, or name another with --url"
            raise UserError(text) from EdgeError(text, edge=self.url, reason="unreachable", retryable=False)
        if self.problem:
            raise UserError(f"the daemon runs, but serves no API: {self.problem}")
        return OperatorClient(url=self.url, token=self.token, answer_s=answer_s)

    @contextmanager
    def client(self, answer_s: float = ANSWER_S) -> Iterator[OperatorClient]:
        """A client; what goes wrong with it is one message for the user."""
        with self.open(answer_s) as client:
            try:
                yield client
            except EdgeError as error:
                raise self.complaint(error) from error

    def complaint(self, error: EdgeError) -> UserError:
        """What the user is told, with what they can do."""
        message = str(error)
        if error.reason == "http_401":
            where = "" if self.settings is None else f", or read {self.settings.http.operator_token} as the daemon's user"
            message = f"{message}; put it into {TOKEN}{where}"
        return UserError(message)


def _own_token(settings: Settings) -> str:
    try:
        return settings.http.operator_token.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        return ""  # reading may be open; a change is refused with what to do


# --- looking ---------------------------------------------------------------------------------------------------------------


def why(config: Path, url: str | None, runbook: str, entity: str, *, json_format: bool) -> int:
    """Print why a runbook is where it is, or is not."""
    with Reach.of(config, url).client() as client:
        found = client.get(f"why/{part(runbook)}", {"entity": entity} if entity else None)
    _tell(found, json_format, show.why)
    return 0


def runs(
    config: Path, url: str | None, run_id: str | None, *, runbook: str, entity: str, status: str, limit: int, json_format: bool
) -> int:  # fmt: skip
    """Print the latest runs, or one with its trace."""
    reach = Reach.of(config, url)
    with reach.open() as client:
        try:
            if run_id is not None:
                _tell(client.get(f"runs/{part(run_id)}"), json_format, show.run)
                return 0
            asked: dict[str, str | int] = {"runbook": runbook, "entity": entity, "status": status, "limit": limit}
            found = client.get("runs", {key: value for key, value in asked.items() if value != ""})
        except EdgeError as error:
            if error.reason == "http_404" and run_id is not None:
                raise UserError(f"there is no run {run_id!r}; {_near(run_id, _run_ids(client))}") from error
            raise reach.complaint(error) from error
    _tell(found, json_format, show.runs)
    return 0


def gate(config: Path, url: str | None, market: str, *, json_format: bool) -> int:
    """Print whether strategies may open in a market; 0 open, 1 closed, 2 when it cannot be told, which is closed too."""
    try:
        with Reach.of(config, url).client(answer_s=5.0) as client:
            found = client.get("gate", {"market": market}, accept=(200, 404, 422, 503))
    except UserError as error:
        found = {"open": False, "why": str(error), "market": market, "at": None, "error": {"code": "not_asked", "message": str(error)}}
    _tell(found, json_format, show.gate)
    if found.get("open") is True:
        return 0
    return 2 if "error" in found else 1


def tail(config: Path, url: str | None, *, after: str, times: int | None, json_format: bool) -> int:
    """Print what happens, as it happens, until interrupted; a stream that breaks is taken up where it was.

    `after` is the id of the last line that was seen; `times`: so many lines, then end.
    """
    reach = Reach.of(config, url)
    last_id, told, failures = after, 0, 0
    while True:
        try:
            with reach.open() as client:
                for event in client.events(last_id):
                    last_id, failures = event.id or last_id, 0
                    if event.name in ("happening", "lagged"):
                        told += 1
                        _line(event, json_format)
                        if times is not None and told >= times:
                            return 0
            sys.stderr.write("the stream ended: the daemon stops\n")
            return 0
        except EdgeError as error:
            failures += 1
            if error.reason not in ("broken", "timeout") and (not last_id or failures > show.TRIES):
                raise reach.complaint(error) from error
            show.again(str(error), failures)


def _line(event: ServerEvent, json_format: bool) -> None:
    if json_format:
        print(json.dumps({"event": event.name, "id": event.id, **event.content}), flush=True)
    else:
        show.happening(event.name, event.content)


# --- acting ----------------------------------------------------------------------------------------------------------------


def approve(
    config: Path, url: str | None, run: str, *, digest: str, reason: str, yes: bool, confirm: Confirm, json_format: bool
) -> int:  # fmt: skip
    """Show the plan that waits, and approve exactly that one; 1 when it is not the plan whose digest was given, or was not confirmed."""
    return _answer(config, url, run, "approve", digest=digest, reason=reason, yes=yes, confirm=confirm, json_format=json_format)


def deny(config: Path, url: str | None, run: str, *, reason: str, yes: bool, confirm: Confirm, json_format: bool) -> int:
    """Show the plan that waits, and deny it."""
    return _answer(config, url, run, "deny", digest="", reason=reason, yes=yes, confirm=confirm, json_format=json_format)


def _answer(
    config: Path, url: str | None, run: str, verb: str, *, digest: str, reason: str, yes: bool, confirm: Confirm, json_format: bool
) -> int:  # fmt: skip
    with Reach.of(config, url).client() as client:
        need = _waiting(client, run)
        if not json_format:
            show.need(need)
        if digest and digest != need["digest"]:
            raise UserError(f"{need['run_id']} waits with another plan ({need['digest']}) than the one you name ({digest}); look again")
        if not (yes or digest):
            if json_format or not sys.stdin.isatty():
                raise UserError(f"nobody is there to confirm; write --yes, or --digest {need['digest']}")
            if not confirm(f"{verb} this plan?"):
                sys.stderr.write("nothing was done\n")
                return 1
        body = {"digest": need["digest"], "reason": reason}
        return _done(client, f"approvals/{part(need['run_id'])}/{verb}", body, json_format)


def _waiting(client: OperatorClient, name: str) -> dict[str, Any]:
    """The one plan that waits and is meant by a run id, an instance (`runbook/entity`) or a runbook."""
    waiting: list[dict[str, Any]] = client.get("approvals")["approvals"]
    for named in (
        lambda need: need["run_id"],
        lambda need: f"{need['runbook']}/{need['entity']}",
        lambda need: need["runbook"],
    ):
        found = [need for need in waiting if named(need) == name]
        if len(found) == 1:
            return found[0]
        if found:
            listed = "\n  ".join(need["run_id"] for need in found)
            raise UserError(f"{len(found)} runs of {name} wait for an approval; name one:\n  {listed}")
    ids = [need["run_id"] for need in waiting]
    raise UserError(f"no run {name!r} waits for an approval; {_near(name, ids)}" if ids else "no run waits for an approval")


def pause(config: Path, url: str | None, target: str, *, lasting: str, reason: str, json_format: bool) -> int:
    """Let runs wait for a time."""
    try:
        parse_duration(lasting)
    except ValueError as error:
        raise UserError(f"--for: {error}") from error
    with Reach.of(config, url).client() as client:
        return _done(client, "pause", {"target": target, "for": lasting, "reason": reason}, json_format)


def unpause(config: Path, url: str | None, target: str, *, reason: str, json_format: bool) -> int:
    """End a pause."""
    with Reach.of(config, url).client() as client:
        return _done(client, "unpause", {"target": target, "reason": reason}, json_format)


def halt(config: Path, url: str | None, target: str, *, reason: str, json_format: bool) -> int:
    """Stop. Without a target the halt flag is set first, which counts at once whatever else stands; then the daemon is told."""
    reach = Reach.of(config, url)
    flagged = ""
    if target == "" and reach.settings is not None:
        flagged = _set_flag(reach.settings.halt_file, reason)
    try:
        with reach.client(answer_s=10.0) as client:
            return _done(client, "halt", {"target": target, "reason": reason}, json_format, before=flagged)
    except UserError as error:
        if not flagged.startswith("set"):
            instead = "" if target == "" else "; reefd halt, without a target, stops everything and needs no daemon"
            raise UserError(f"{error}{instead}{f'; {flagged}' if flagged else ''}") from error
        _tell(_untold(True, flagged, str(error)), json_format, show.halted)
        return 0


def _set_flag(path: Path, reason: str) -> str:
    """What came of setting the halt flag; begins with `set` when it stands."""
    try:
        HaltFlag(path).set(f"{getpass.getuser()}: {reason}" if reason else getpass.getuser())
    except OSError as error:
        return f"the halt flag {path} cannot be set: {(error.strerror or str(error)).lower()}"
    return f"set the halt flag {path}: nothing is sent from now on, also after a restart, until reefd resume"


def resume(config: Path, url: str | None, target: str, *, reason: str, json_format: bool) -> int:
    """End a halt; with a runbook or an instance as target, its pause. Without a daemon the halt flag is taken away, if nothing is named."""
    reach = Reach.of(config, url)
    try:
        with reach.client() as client:
            paused = target != "" and target != PORTFOLIO and target.partition("/")[0] in _runbook_ids(client)
            return _done(client, "unpause" if paused else "resume", {"target": target, "reason": reason}, json_format)
    except UserError as error:
        cause = error.__cause__
        gone = isinstance(cause, EdgeError) and cause.reason == "unreachable"
        if target != "" or reach.settings is None or not gone:
            raise
        return _remove_flag(reach.settings.halt_file, str(error), json_format)


def _remove_flag(path: Path, why_not: str, json_format: bool) -> int:
    flag = HaltFlag(path)
    was = flag.there()
    try:
        flag.remove()
    except OSError as error:
        raise UserError(f"{why_not}; and the halt flag {path} cannot be removed: {(error.strerror or str(error)).lower()}") from error
    told = f"took the halt flag {path} away: the daemon acts when it is started" if was else f"there is no halt flag at {path}"
    _tell(_untold(was, told, why_not), json_format, show.halted)
    return 0 if was else 1


def _untold(done: bool, flag: str, why_not: str) -> dict[str, Any]:
    """What came of a change of the flag alone."""
    return {"done": done, "flag": flag, "effect": f"the daemon could not be told: {why_not}", "seq": 0, "at": ""}


def _done(client: OperatorClient, path: str, body: Mapping[str, Any], json_format: bool, before: str = "") -> int:
    """Ask for a change and print what came of it: 0 done, 1 it did nothing and why."""
    try:
        effect = client.post(path, body)
    except EdgeError as error:
        if error.reason not in ("http_409", "http_404"):
            raise
        effect = {"done": False, "effect": str(error), "seq": 0, "at": ""}
    if before:
        effect["flag"] = before
    _tell(effect, json_format, show.halted if before else show.effect)
    return 0 if effect["done"] else 1


# --- shared ----------------------------------------------------------------------------------------------------------------


def _tell(found: Mapping[str, Any], json_format: bool, printed: Callable[[Mapping[str, Any]], None]) -> None:
    if json_format:
        print(json.dumps(found, indent=2))
    else:
        printed(found)


def _runbook_ids(client: OperatorClient) -> list[str]:
    return [view["id"] for view in client.get("runbooks")["runbooks"]]


def _run_ids(client: OperatorClient) -> list[str]:
    return [view["run_id"] for view in client.get("runs", {"limit": RUNS_SEARCHED})["runs"]]


def _near(name: str, known: Sequence[str]) -> str:
    near = [other for other in known if name in other][:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.4)
    if near:
        return "did you mean\n  " + "\n  ".join(near)
    return ("the latest are\n  " + "\n  ".join(known[:3])) if known else "there is none"
