"""What a message to people says (floor 6): a notice, or several told together, read from the body that the outbox keeps.

The outbox keeps every message in one form, the native one (`{"type", "timestamp", "data", "seq"}`); what an endpoint gets is rendered
from it at each try (`formats.py`). So a retry says the same, a changed format is obeyed, and no key of a receiver is ever on disk.

    message = read_message(body)        # one notice, or a group of them
    told = tell(message, room=2000)     # headline and lines, plain text
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any
from urllib.parse import quote

from daemon.units import NS, iso, parse_iso, show_duration

GROUP = "notice.group"
TEST = "notice.test"
SEVERITIES = ("critical", "warning", "info")  # worst first
NAMED_MAX = 10  # entities that a group's message names; the rest is counted
HEADLINE_MAX = 140  # characters: a phone shows two lines of them before it is unlocked
LINE_MAX = 300
ELLIPSIS = "…"

_VERBS = {
    "fired": "fired",
    "acted": "acted",
    "blocked": "blocked: nothing was done",
    "failed": "failed",
    "no_data": "cannot see",
    "cleared": "is over",
    "page": "needs you",
    "approval": "asks for approval",
    "step": "says",
    "review": "is due for review",
    "test": "test message",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Notice:
    """One thing that people are told. `title` is the runbook's, `said` what the engine said of it; times in ns."""

    id: str
    kind: str  # notice.fired
    event: str
    severity: str
    runbook: str
    entity: str
    title: str
    said: str
    run_id: str
    at: int
    seq: int
    house: str
    anchor: str
    why: tuple[str, ...] = ()  # the readings that made its trigger judge as it does
    did: tuple[str, ...] = ()  # the steps of its run and how they ended
    detail: Mapping[str, Any] = field(default_factory=dict)
    undelivered: str = ""  # where it could not be delivered, and why: this is the second channel

    @property
    def instance(self) -> str:
        """`<runbook>/<entity>`."""
        return f"{self.runbook}/{self.entity}"

    @property
    def episode(self) -> str:
        """The id of the episode that it is about, else of the instance or run; the same for everything that one firing leads to."""
        match = re.match(re.escape(self.instance) + r"/\d+\+*", self.run_id)
        return match[0] if match else self.instance if self.entity else self.run_id

    @property
    def fired_at(self) -> int:
        """When its episode fired (ns), which the id says; its own time when it belongs to none."""
        digits = re.search(r"/(\d+)\+*$", self.episode)
        return int(digits[1]) if digits else self.at

    @property
    def resolved(self) -> bool:
        """True when it says that an episode is over."""
        return self.event == "cleared"


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What one delivery carries: one notice, or those of a group; `payload` is everything of a body that is no notice at all."""

    id: str
    kind: str
    severity: str
    at: int
    seq: int
    house: str
    anchor: str
    notices: tuple[Notice, ...] = ()
    group: str = ""
    payload: str = ""

    @property
    def resolved(self) -> bool:
        """True when everything in it is over."""
        return bool(self.notices) and all(notice.resolved for notice in self.notices)

    @property
    def worst(self) -> tuple[Notice, ...]:
        """The notices, the worst first, then the oldest."""
        return tuple(sorted(self.notices, key=lambda notice: (_rank(notice.severity), notice.resolved, notice.at)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """A message in words: one line that stands alone, the lines under it, and where to look."""

    headline: str
    lines: tuple[str, ...]
    commands: tuple[tuple[str, str], ...] = ()  # what to do about it: label, command line
    link: str = ""
    footer: str = ""


def worst_of(severities: Sequence[str]) -> str:
    """The worst of some severities; `info` of none."""
    return min(severities, key=_rank, default="info")


def _rank(severity: str) -> int:
    return SEVERITIES.index(severity) if severity in SEVERITIES else 1  # a word of another house: no less than a warning


def read_message(body: str) -> Message:
    """The message of a native body; anything that is no notice (an executor's payload, garbage) becomes its `payload`. Raises nothing."""
    try:
        return _message(json.loads(body))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, RecursionError):
        return Message(id="", kind="message", severity="warning", at=0, seq=0, house="reefd", anchor="", payload=body)


def _message(document: Mapping[str, Any]) -> Message:
    kind, content, at, seq = str(document["type"]), document["data"], parse_iso(str(document["timestamp"])), int(document["seq"])
    notices: tuple[Notice, ...] = ()
    payload = ""
    if kind == GROUP:
        notices = tuple(_notice(str(n["type"]), n["data"], parse_iso(str(n["timestamp"])), int(n["seq"])) for n in content["notices"])
    elif kind.startswith("notice."):
        notices = (_notice(kind, content, at, seq),)
    else:
        payload = json.dumps(content.get("payload", content), ensure_ascii=False, indent=1)
    return Message(
        id=str(content.get("action_id", "")),
        kind=kind,
        severity=str(content.get("severity", "warning")),
        at=at,
        seq=seq,
        house=str(content.get("house", "reefd")),
        anchor=str(content.get("anchor", "")),
        notices=notices,
        group=str(content.get("group", "")),
        payload=payload,
    )


def _notice(kind: str, content: Mapping[str, Any], at: int, seq: int) -> Notice:
    detail = content.get("detail") or {}
    runbook = str(content.get("runbook", ""))
    entity = entity_of(runbook, str(content.get("run_id", "")), detail)
    title, divider, said = str(content.get("text", "")).partition(f" · {entity}: ")
    return Notice(
        id=str(content.get("action_id", "")),
        kind=kind,
        event=str(content.get("event", "")),
        severity=str(content.get("severity", "warning")),
        runbook=runbook,
        entity=entity,
        title=str(content.get("title", "")) or (title if divider else runbook or "reefd"),
        said=said if divider else title,  # the text of a step is the author's own, whole
        run_id=str(content.get("run_id", "")),
        at=at,
        seq=seq,
        house=str(content.get("house", "reefd")),
        anchor=str(content.get("anchor", "")),
        why=tuple(str(line) for line in content.get("why", ())),
        did=tuple(str(line) for line in content.get("did", ())),
        detail=detail,
        undelivered=str(content.get("undelivered", "")),
    )


def entity_of(runbook: str, run_id: str, detail: Mapping[str, Any]) -> str:
    """What a notice is about: as its detail names it, else as the id of its run does (the notice of a step); empty when it is neither."""
    named = detail.get("entity")
    if named:
        return str(named)
    match = re.match(re.escape(runbook) + r"/(.+?)/\d{10,}\+*(?:[/.]|$)", run_id)  # the nanoseconds of a firing have more than ten digits
    return match[1] if match else ""


def group_body(bodies: Sequence[str], *, id_: str, group: str, at: int, anchor: str) -> str:
    """The native body of a message that tells several notices together, oldest first. `at` in ns; the same arguments, the same bytes."""
    notices = [json.loads(body) for body in bodies]
    contents = [notice["data"] for notice in notices]
    events: dict[str, int] = {}
    for content in contents:
        events[str(content.get("event", ""))] = events.get(str(content.get("event", "")), 0) + 1
    content = {
        "action_id": id_,
        "anchor": anchor,
        "count": len(notices),
        "events": events,
        "group": group,
        "house": str(contents[-1].get("house", "reefd")),
        "notices": notices,
        "severity": worst_of([str(content.get("severity", "warning")) for content in contents]),
    }
    document = {"type": GROUP, "timestamp": iso(at), "data": content, "seq": max(int(notice["seq"]) for notice in notices)}
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


def undelivered_body(body: str, why: str) -> str:
    """The same message for a second channel, with where the first one failed."""
    document = json.loads(body)
    content = document["data"]
    for notice in content.get("notices", [document]):
        notice["data"]["undelivered"] = why
    return json.dumps(document, ensure_ascii=False, separators=(",", ":"), sort_keys=True)


# --- words ------------------------------------------------------------------------------------------------------------


def tell(message: Message, *, link_base: str = "", room: int = 3_000) -> Told:
    """The message in plain words, in at most about `room` characters (what does not fit is cut, whole entities first)."""
    if not message.notices:
        headline = f"{message.severity.upper()} {message.kind} from {message.house}"
        return Told(headline=_cut(headline, HEADLINE_MAX), lines=tuple(_fitting(message.payload.splitlines(), room - HEADLINE_MAX)))
    told = _single(message.notices[0], link_base) if len(message.notices) == 1 else _group(message, link_base)
    footer = f"{message.house} · {iso(message.at)}" + (f" · journal {message.anchor}" if message.anchor else "")
    spent = sum(len(label) + len(command) + 10 for label, command in told.commands)
    spent += len(told.headline) + len(told.link) + len(footer) + 10
    return replace(told, lines=tuple(_fitting(told.lines, room - spent)), footer=footer)


def headline_of(notice: Notice) -> str:
    """Severity, what it is, on what: `CRITICAL Margin low on dydx fired`."""
    verb = _VERBS.get(notice.event, notice.event)
    on = f" on {notice.entity}" if notice.entity else ""
    return _cut(f"{notice.severity.upper()} {notice.title}{on} {verb}", HEADLINE_MAX)


def _single(notice: Notice, link_base: str) -> Told:
    lines = [f"second channel: {notice.undelivered}"] if notice.undelivered else []
    lines += _said(notice)
    lines += [f"seen: {', '.join(notice.why)}"] if notice.why else []
    lines += [f"done: {', '.join(notice.did)}"] if notice.did else []
    run = run_of(notice)
    commands = [("yes", f"reefd approve {run}"), ("no", f"reefd deny {run}")] if notice.event == "approval" else []
    if notice.event == "approval":
        lines += _deadline(notice)
    elif run:
        lines.append(f"run: {run}")
    link = f"{link_base}/runs/{quote(run, safe='')}" if link_base and run else link_base
    return Told(headline=headline_of(notice), lines=tuple(_cut(line, LINE_MAX) for line in lines), commands=tuple(commands), link=link)


def _said(notice: Notice) -> list[str]:
    said = notice.said
    if notice.event == "fired" and said.startswith("fired: "):
        return [f"why: {said.removeprefix('fired: ')}"]
    words = {"acted": "result", "blocked": "why not", "failed": "what failed", "no_data": "what is missing", "page": "what is wrong"}
    said = said.removeprefix("done: ") if notice.event == "acted" else said.removeprefix("no data: ")
    return [f"{words[notice.event]}: {said}"] if notice.event in words else [said]


def _deadline(notice: Notice) -> list[str]:
    """Until when an answer is wanted, and from whom."""
    detail, lines = notice.detail, []
    deadline = detail.get("deadline")
    if isinstance(deadline, int):
        left = show_duration(max(0, deadline - notice.at) // NS)
        lines.append(f"answer by: {iso(deadline)} (within {left}); without an answer the step's own rule decides")
    people = detail.get("from") or ()
    return [*lines, f"from: {', '.join(str(person) for person in people)}"] if people else lines


def run_of(notice: Notice) -> str:
    """The id of the run that a notice is about; empty when there is none (an episode without a run)."""
    named = notice.detail.get("run_id")
    if isinstance(named, str):
        return named
    match = re.match(re.escape(notice.episode) + r"/(?:\d+|clear)", notice.run_id)
    return match[0] if match and notice.episode != notice.instance else ""


def _group(message: Message, link_base: str) -> Told:
    by_entity: dict[tuple[str, str], list[Notice]] = {}
    for notice in message.worst:
        by_entity.setdefault((notice.runbook, notice.entity), []).append(notice)
    titles = list(dict.fromkeys(notice.title for notice in message.worst))
    what = titles[0] if len(titles) == 1 else f"{titles[0]} and {len(titles) - 1} other runbooks"
    where = f"on {len(by_entity)} entities" if len(by_entity) > 1 else f"on {message.worst[0].entity}"
    severity = worst_of([notice.severity for notice in message.notices])
    headline = _cut(f"{severity.upper()} {what} {where}: {_counted(message.notices)}", HEADLINE_MAX)
    lines = [f"second channel: {n.undelivered}" for n in message.worst[:1] if n.undelivered]
    named = list(by_entity.values())[:NAMED_MAX]
    lines += [_line(notices, titled=len(titles) > 1) for notices in named]
    if len(by_entity) > len(named):
        lines.append(f"and {len(by_entity) - len(named)} more")
    commands = (("all of them", "reefd status"),)
    return Told(headline=headline, lines=tuple(_cut(line, LINE_MAX) for line in lines), commands=commands, link=link_base)


def _counted(notices: Sequence[Notice]) -> str:
    """`180 fired, 20 is over`: how many of each, fired first."""
    found: dict[str, int] = {}
    for notice in notices:
        found[notice.event] = found.get(notice.event, 0) + 1
    order = list(_VERBS)
    words = {"no_data": "without data", "cleared": "over", "page": "need you", "step": "messages"}
    known = sorted(found, key=lambda event: order.index(event) if event in order else len(order))
    return ", ".join(f"{found[event]} {words.get(event, event)}" for event in known)


def _line(notices: Sequence[Notice], *, titled: bool) -> str:
    """One entity of a group: the worst severity, its reason, and the latest thing that was said of it."""
    first = notices[0]
    latest = max(notices, key=lambda notice: (notice.at, notice.seq))
    title = f"{first.title} on " if titled else ""
    reason = first.said.removeprefix("fired: ")
    seen = f" ({', '.join(first.why)})" if first.why else ""
    then = f"; then {_VERBS.get(latest.event, latest.event)}: {latest.said}" if latest is not first else ""
    return f"• {first.severity} {title}{first.entity}: {reason}{seen}{then}"


def _fitting(lines: Sequence[str], room: int) -> list[str]:
    """As many lines as fit; what was left out is counted in a last one (an `and n more` that is there counts with it)."""
    kept: list[str] = []
    left = room
    for number, line in enumerate(lines):
        rest = lines[number + 1 :]
        reserve = 30 if rest else 0
        if len(line) + 1 + reserve > left:
            hidden = sum(1 for other in lines[number:] if other.startswith("• "))
            more = re.fullmatch(r"and (\d+) more", next((other for other in lines if other.startswith("and ")), ""))
            count = hidden + (int(more[1]) if more else 0)
            cut = _cut(line, left - 31) if not kept and left > 40 else ""
            return [*kept, *([cut] if cut else []), f"and {count} more" if count else ELLIPSIS]
        kept.append(line)
        left -= len(line) + 1
    return kept


def _cut(text: str, length: int) -> str:
    """One line of at most `length` characters."""
    line = " ".join(text.split())
    return line if len(line) <= length else line[: max(0, length - 1)].rstrip() + ELLIPSIS
