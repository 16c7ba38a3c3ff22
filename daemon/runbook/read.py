"""One file to one runbook (floor 3): every key of schema `reefd/v1` read and checked, all mistakes recorded in one pass.

`read_runbook(document)` is a `Draft`: the runbook, or None and the mistakes, and what it refers to in other files.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields, is_dataclass, replace
from typing import Literal

from daemon.language.catalogue import CATALOGUE, nearest
from daemon.language.labels import check_where, names
from daemon.language.problems import ExpressionError
from daemon.language.terms import Constant, Derived
from daemon.language.typing import NOTHING, OVERS, PLAN_NAMES, SCALARS, WINDOWS, Scope, Typed
from daemon.runbook.cases import read_replay, read_tests
from daemon.runbook.document import Document
from daemon.runbook.fields import ID, WORD, Findings, Section, describe, hint
from daemon.runbook.model import (
    Approval,
    Cancel,
    Expression,
    Gate,
    Limits,
    Notices,
    OnFailure,
    Repeat,
    Runbook,
    Step,
    Tell,
    Trigger,
    Where,
)
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.params import constants, read_params, unused
from daemon.runbook.steps import COMMON_LABELS, Setting, reached, read_steps
from daemon.units import DAY_NS, HOUR_NS, NS
from daemon.world.entities import Kind

SCHEMA = "reefd/v1"
SEVERITIES: tuple[Literal["info", "warning", "critical"], ...] = ("info", "warning", "critical")
INTENTS: tuple[Literal["economy", "survival"], ...] = ("economy", "survival")
STAGES: tuple[Literal["disabled", "shadow", "armed"], ...] = ("disabled", "shadow", "armed")
MODES: tuple[Literal["single", "queued", "restart"], ...] = ("single", "queued", "restart")
ON_UNKNOWN: tuple[Literal["hold", "fire"], ...] = ("hold", "fire")
THEN: tuple[Literal["pause", "stay_armed", "halt_all"], ...] = ("pause", "stay_armed", "halt_all")
EVENTS = ("fired", "acted", "blocked", "failed", "no_data", "cleared")
REVIEW_DAYS = {"month": 31, "quarter": 92, "half-year": 183, "year": 366}
SURVIVAL_FOR_MAX_NS = 15 * NS
SURVIVAL_COOLDOWN_MAX_NS = 30 * NS
LETS_MAX = 100
GUARDS_MAX = 50

_RESERVED = {"levels": "is reserved for the portfolio work and not part of this version"}
_RUNS = re.compile(r"(\d{1,6})\s*/\s*(\d{0,4})\s*(h|hour|d|day|w|week)")
_PERIODS = {"h": HOUR_NS, "hour": HOUR_NS, "d": DAY_NS, "day": DAY_NS, "w": 7 * DAY_NS, "week": 7 * DAY_NS}
WORDS = frozenset((*WINDOWS, *SCALARS, *OVERS, *PLAN_NAMES, "and", "or", "not", "age", "known", "signal", "true", "false", "missing"))


@dataclass(slots=True, kw_only=True)
class Reference:
    """A runbook id written in another runbook."""

    key: str  # inhibited_by | pause
    id: str
    node: ScalarNode
    where: str


@dataclass(slots=True, kw_only=True)
class Draft:
    """What one file gave: `runbook` is None when it has mistakes; `id` is known even then, where it could be read."""

    findings: Findings
    id: str | None = None
    id_node: ScalarNode | None = None
    runbook: Runbook | None = None
    references: list[Reference] = field(default_factory=list)
    top: MapNode | None = None


def canonical(term: object) -> object:
    """A term as nested lists of what it means: no spans, no texts, derived signals by name."""
    if isinstance(term, Derived):
        return ["Derived", term.kind.value, term.relation, term.signal]
    if isinstance(term, Constant):  # a param means its value, whatever it is called
        return ["Constant", canonical(term.value), canonical(term.dimension)]
    if is_dataclass(term):
        return [type(term).__name__, *(canonical(getattr(term, f.name)) for f in fields(term) if f.compare)]
    if isinstance(term, tuple):
        return [canonical(item) for item in term]
    if isinstance(term, float):
        return repr(term)
    return term


def _positions(document: Document, node: YamlNode, path: str, into: dict[str, tuple[int, int]]) -> None:
    into.setdefault(path, document.position(node.start))
    if isinstance(node, MapNode):
        for key, value in node.entries:
            if path or key.text not in ("tests", "replay"):
                _positions(document, value, f"{path}.{key.text}" if path else key.text, into)
    elif isinstance(node, ListNode):
        for i, item in enumerate(node.items):
            _positions(document, item, f"{path}[{i}]", into)


class _Reader:
    """Reads one runbook; `draft` collects what can be used although something else is wrong."""

    def __init__(self, draft: Draft, top: Section) -> None:
        self.draft = draft
        self.findings = draft.findings
        self.top = top

    def required_text(self, key: str, example: str) -> str:
        node = self.top.required(key, example)
        text = self.findings.text(node, key) if node is not None else None
        if text is not None and not text.strip() and node is not None:
            self.findings.error("E009", f"{key} is empty; write for example {example}", node, key)
        return text or ""

    def schema(self) -> None:
        node = self.top.required("schema", f"schema: {SCHEMA}")
        text = self.findings.text(node, "schema") if node is not None else None
        if node is not None and text is not None and text != SCHEMA:
            self.findings.error("E030", f"this version reads schema {SCHEMA}, found '{text}'; write schema: {SCHEMA}", node, "schema")

    def id(self) -> None:
        node = self.top.required("runbook", "runbook: funding-spike")
        text = self.findings.text(node, "runbook") if node is not None else None
        if text is None or not isinstance(node, ScalarNode):
            return
        if not ID.fullmatch(text) or len(text) > 80:
            self.findings.error("E041", f"a runbook's id is made of a-z, 0-9 and '-', at most 80 of them; found '{text}'", node, "runbook")
            return
        self.draft.id, self.draft.id_node = text, node

    def scope(self) -> Kind:
        """The runbook's kind; a position when it cannot be read, which reaches the most names and so adds the fewest follow-up errors."""
        node = self.top.required("scope", "scope: position")
        text = self.findings.text(node, "scope") if node is not None else None
        if node is None or text is None:
            return Kind.POSITION
        if text == "pair":
            self.findings.error("E040", "the scope 'pair' is reserved for the portfolio work and not part of this version", node, "scope")
            return Kind.POSITION
        word = self.findings.choice(node, "scope", tuple(kind.value for kind in Kind))
        return Kind(word) if word else Kind.POSITION

    def where(self) -> Where | None:
        node = self.top.get("where")
        text = self.findings.text(node, "where") if node is not None else None
        if text is None or not isinstance(node, ScalarNode):
            return None
        tree = self.findings.parsed(node, "where", text)
        if tree is None:
            return None
        try:
            check_where(tree, text)
        except ExpressionError as error:
            for problem in error.problems:
                self.findings.inside(problem.code, problem.message, node, problem.start, problem.end, "where")
            return None
        return Where(text=text, node=tree)

    def max_age(self, kind: Kind) -> dict[str, int]:
        section = self.top.section("max_age", "max_age: {oracle_price: 30s}")
        read: dict[str, int] = {}
        for key, node in section.node.entries if section is not None else ():
            where = f"max_age.{key.text}"
            scope, dot, name = key.text.rpartition(".")
            observed = [s for (k, n), s in CATALOGUE.items() if n == name and k in (kind, *reached(kind)) and s.role == "observed"]
            if not observed or (dot and scope not in {k.value for k in Kind} | {"from", "to"}):
                derived = nearest(kind, name)
                known = sorted({n for (_, n), s in CATALOGUE.items() if s.role == "observed"})
                why = (
                    " is derived and has no age of its own; name what it is made of"
                    if derived
                    else f" is no observed signal{hint(name, known)}"
                )
                self.findings.error("E034", f"'{key.text}'{why}", key, where)
            age = self.findings.duration(node, where)
            if age == 0:
                self.findings.error("E032", f"{where} is above 0s", node, where)
            if age:
                read[key.text] = age
        return read

    def lets(self, kind: Kind, max_age: Mapping[str, int], params: Mapping[str, Constant]) -> dict[str, Typed]:
        section = self.top.section("let", "let: {paid: funding_rate * sign(size)}")
        lets: dict[str, Typed] = {}
        if section is None:
            return lets
        if len(section.node.entries) > LETS_MAX:
            self.findings.error("E032", f"{len(section.node.entries)} lets, at most {LETS_MAX}", section.node, "let")
        for key, node in section.node.entries[:LETS_MAX]:
            name, where = key.text, f"let.{key.text}"
            if not WORD.fullmatch(name):
                self.findings.error("E041", f"a let's name is made of a-z, 0-9 and '_', found '{name}'", key, where)
            elif name in WORDS or name in params or nearest(kind, name):
                what = "a word of the language" if name in WORDS else "a param" if name in params else "a signal"
                self.findings.error("E041", f"'{name}' is {what} already; give the let another name", key, where)
            typed = None
            if isinstance(node, ScalarNode) and not node.empty:
                typed = self.findings.typed(node, where, Scope(kind=kind, lets=dict(lets), max_age=max_age, params=params), None, node.text)
            else:
                self.findings.error("E009", f"{where} is an expression, found {describe(node)}", node, where)
            # A let that failed stands for anything, so that its one mistake is reported once.
            lets[name] = typed or Typed(Constant(math.nan, NOTHING, name), name)
        return lets

    def trigger(self, scope: Scope) -> Trigger | None:
        node = self.top.required("trigger", "trigger: {when: funding_rate > 0.05%/h, for: 3m}")
        section = self.top.section("trigger", "trigger: {when: funding_rate > 0.05%/h, for: 3m}")
        if node is None or section is None:
            return None
        section.name = "trigger"
        when_node = section.required("when", "when: funding_rate > 0.05%/h")
        when = self.findings.expression(when_node, "trigger.when", scope, "bool") if when_node is not None else None
        until = section.expression("until", scope, "bool")
        read = {
            "for_ns": section.duration("for", 0),
            "until_for_ns": section.duration("until_for", 0),
        }
        on_unknown = section.choice("on_unknown", ON_UNKNOWN, "hold")
        section.close()
        if when is None:
            return None
        return Trigger(when=when, for_ns=read["for_ns"], until=until, until_for_ns=read["until_for_ns"], on_unknown=on_unknown)

    def repeat(self) -> Repeat | None:
        section = self.top.section("repeat", "repeat: {every: 1h, max: 3}")
        if section is None:
            return None
        section.name = "repeat"
        every_node = section.required("every", "every: 1h")
        section.required("max", "max: 3")
        every, most = section.duration("every", HOUR_NS), section.count("max", 1, 1, 10_000)
        if every == 0 and every_node is not None:
            self.findings.error("E032", "repeat.every is above 0s", every_node, "repeat.every")
        section.close()
        return Repeat(every_ns=every, max=most)

    def locks(self, kind: Kind) -> tuple[str, ...]:
        node = self.top.get("locks")
        words = self.top.texts("locks", "[position]")
        kinds = [k.value for k in reached(kind)]
        for i, word in enumerate(words):
            head, colon, name = word.partition(":")
            at = node.items[i] if isinstance(node, ListNode) and i < len(node.items) else node
            assert at is not None
            if colon and (head not in {k.value for k in Kind} or not name):
                self.findings.error(
                    "E034", f"a named lock is written kind:name, found '{word}'; write for example chain:ethereum", at, f"locks[{i}]"
                )
            elif not colon and word not in kinds:
                message = f"a {kind.value} runbook locks {', '.join(kinds)}, or kind:name; found '{word}'{hint(word, kinds)}"
                self.findings.error("E034", message, at, f"locks[{i}]")
        return words

    def inhibited_by(self) -> tuple[str, ...]:
        node = self.top.get("inhibited_by")
        words = self.top.texts("inhibited_by", "[oracle-divergence]")
        for i, item in enumerate(node.items if isinstance(node, ListNode) else ()):
            if isinstance(item, ScalarNode) and not item.empty:
                where = f"inhibited_by[{i}]"
                if item.text == self.draft.id:
                    self.findings.error("E034", "a runbook cannot be inhibited by itself", item, where)
                else:
                    self.draft.references.append(Reference(key="inhibited_by", id=item.text, node=item, where=where))
        return words

    def guards(self, scope: Scope) -> tuple[Expression, ...]:
        node = self.top.get("guards")
        if node is None:
            return ()
        if not isinstance(node, ListNode):
            self.findings.error(
                "E009", f"guards is a list of conditions, found {describe(node)}; write [oracle_divergence < 50bps]", node, "guards"
            )
            return ()
        if len(node.items) > GUARDS_MAX:
            self.findings.error("E032", f"{len(node.items)} guards, at most {GUARDS_MAX}", node.items[GUARDS_MAX], "guards")
        read = [self.findings.expression(item, f"guards[{i}]", scope, "bool") for i, item in enumerate(node.items[:GUARDS_MAX])]
        return tuple(guard for guard in read if guard is not None)

    def limits(self) -> Limits:
        section = self.top.section("limits", "limits: {per_run: 25_000 USD, per_day: 60_000 USD, runs: 6/day}")
        if section is None:
            return Limits()
        section.name = "limits"
        per_run, per_day = section.usd("per_run"), section.usd("per_day")
        usd = ratio = None
        node = section.get("per_episode")
        if node is not None:
            read = self.findings.quantity(node, "limits.per_episode", ("ratio", "USD"))
            if read is not None and read[1] == "ratio" and 0 < read[0] <= 1:
                ratio = read[0]
            elif read is not None and read[1] == "USD" and read[0] >= 0:
                usd = read[0]
            elif read is not None:
                self.findings.error(
                    "E032", "limits.per_episode is above 0% and at most 100%, or an amount in USD", node, "limits.per_episode"
                )
        runs = period = None
        node = section.get("runs")
        text = self.findings.text(node, "limits.runs") if node is not None else None
        if node is not None and text is not None:
            match = _RUNS.fullmatch(text)
            if match and int(match[1]) > 0 and match[2] != "0":
                runs, period = int(match[1]), int(match[2] or 1) * _PERIODS[match[3]]
            else:
                self.findings.error(
                    "E031",
                    f"limits.runs is a number of runs in a time, found '{text}'; write for example 6/day or 2/hour",
                    node,
                    "limits.runs",
                )
        section.close()
        return Limits(per_run_usd=per_run, per_day_usd=per_day, per_episode_usd=usd, per_episode_ratio=ratio, runs=runs, runs_per_ns=period)

    def on_failure(self, *, survival: bool) -> OnFailure:
        default: Literal["pause", "stay_armed"] = "stay_armed" if survival else "pause"
        section = self.top.section("on_failure", "on_failure: {notify: [page], then: pause}")
        if section is None:
            return OnFailure(then=default)
        section.name = "on_failure"
        notify = section.texts("notify", "[page]")
        then = section.choice("then", THEN, default)
        section.close()
        return OnFailure(notify=notify, then=then)

    def notices(self) -> Notices | None:
        section = self.top.section("notify", "notify: {to: [desk], events: [fired, acted, failed]}")
        if section is None:
            return None
        section.name = "notify"
        section.required("to", "to: [desk]")
        to = section.texts("to", "[desk]")
        events = section.texts("events", "[fired, failed]") if section.has("events") else EVENTS
        node = section.get("events")
        for event in events:
            if event not in EVENTS and node is not None:
                self.findings.error(
                    "E030", f"notify.events are {', '.join(EVENTS)}; found '{event}'{hint(event, EVENTS)}", node, "notify.events"
                )
        repeat = section.duration("repeat", 0) or None
        section.close()
        return Notices(to=to, events=events, repeat_ns=repeat)

    def labels(self) -> dict[str, str]:
        section = self.top.section("labels", "labels: {risk: carry}")
        entries = section.node.entries if section is not None else ()
        read = {key.text: self.findings.text(node, f"labels.{key.text}") for key, node in entries}
        return {key: text for key, text in read.items() if text is not None}

    def review(self) -> tuple[str | None, str | None]:
        section = self.top.section("review", "review: {every: quarter, last: 2026-10-01}")
        if section is None:
            return None, None
        section.name = "review"
        every_node = section.required("every", "every: quarter")
        section.required("last", "last: 2026-10-01")
        every = self.findings.choice(every_node, "review.every", tuple(REVIEW_DAYS)) if every_node is not None else None
        last = section.day("last")
        section.close()
        return every, last.isoformat() if last else None

    # --- rules that join several keys -----------------------------------------------------------------------------------
    def at(self, *keys: str) -> YamlNode:
        """The node of the first of the key paths that is written, the whole mapping when none is."""
        for path in keys:
            node: YamlNode | None = self.top.node
            for key in path.split("."):
                node = node.get(key) if isinstance(node, MapNode) else None
            if node is not None:
                return node
        return self.top.node

    def check_intent(self, intent: str | None, steps: tuple[Step, ...]) -> None:
        writer = next((step for step in steps if step.writes), None)
        if writer is not None and not self.top.has("intent"):
            message = (
                f"the step '{writer.id}' writes ({writer.kind}), so the runbook says why; "
                "write intent: economy (saves money) or intent: survival (keeps the account alive)"
            )
            self.findings.error("E035", message, self.at("severity", "runbook"), "intent")

    def check_survival(self, trigger: Trigger | None, cooldown_ns: int) -> None:
        if trigger is not None and trigger.for_ns > SURVIVAL_FOR_MAX_NS:
            self.findings.error(
                "E036", "a survival runbook waits at most 15s; write for: 15s or less", self.at("trigger.for"), "trigger.for"
            )
        if cooldown_ns > SURVIVAL_COOLDOWN_MAX_NS:
            self.findings.error(
                "E036", "a survival runbook cools down at most 30s; write cooldown: 30s or less", self.at("cooldown"), "cooldown"
            )

    def check_on_unknown(self, steps: tuple[Step, ...]) -> None:
        """`fire` may only reach what harms nobody when nothing is known: halt, cancel_orders, notify, or what a person approves."""
        for i, step in enumerate(steps):
            harmless = isinstance(step.act, Cancel | Tell) or (isinstance(step.act, Gate) and step.act.closed)
            asked = step.approval is not None and step.approval.when is None and step.approval.otherwise != "proceed"
            if not harmless and not asked:
                message = (
                    f"on_unknown: fire may only reach halt, cancel_orders and notify without an approval, step '{step.id}' is {step.kind}; "
                    "write on_unknown: hold, or an approval without when: that ends in skip or abort"
                )
                self.findings.error("E037", message, self.at("trigger.on_unknown"), f"steps[{i}]")
                return
            if asked and step.when is None and isinstance(step.approval, Approval) and step.approval.otherwise == "abort":
                return  # nothing behind it is reached without a person

    def check_escalation(self, steps: tuple[Step, ...], on_failure: OnFailure) -> None:
        for step in steps:
            if step.on_failure == "escalate" and not on_failure.notify:
                message = f"the step '{step.id}' escalates to on_failure.notify, which is empty; write on_failure: {{notify: [page]}}"
                self.findings.error("E039", message, self.at("on_failure", "steps"), "on_failure.notify")
                return

    def read(self) -> None:
        top, findings = self.top, self.findings
        self.schema()
        self.id()
        title = self.required_text("title", "title: Funding spike - stop adding")
        owner = self.required_text("owner", "owner: perps-desk")
        severity_node = top.required("severity", "severity: warning")
        severity = findings.choice(severity_node, "severity", SEVERITIES) if severity_node is not None else None
        intent_node = top.get("intent")
        intent = findings.choice(intent_node, "intent", INTENTS) if intent_node is not None else None
        survival = intent == "survival"
        labels = self.labels()
        review_every, review_last = self.review()
        stage_node = top.required("stage", "stage: shadow")
        stage = findings.choice(stage_node, "stage", STAGES) if stage_node is not None else None
        kind = self.scope()
        where = self.where()
        findings.params = read_params(top, kind, WORDS)
        params = constants(findings.params)
        max_age = self.max_age(kind)
        lets = self.lets(kind, max_age, params)
        scope = Scope(kind=kind, lets=lets, max_age=max_age, params=params)
        trigger = self.trigger(scope)
        cooldown = top.duration("cooldown", 0)
        repeat = self.repeat()
        mode = top.choice("mode", MODES, "single")
        priority = top.count("priority", 50, 0, 1000)
        locks = self.locks(kind)
        inhibited_by = self.inhibited_by()
        guards = self.guards(scope)
        guard_wait = top.duration("guard_wait", 0)
        limits = self.limits()
        setting = Setting(
            kind=kind, scope=replace(scope, in_steps=True), planned=replace(scope, in_steps=True, plan=True),
            labels=COMMON_LABELS | (names(where.node) if where else frozenset()), survival=survival,
        )  # fmt: skip
        used: dict[str, ScalarNode] = {}
        top.required("steps", "steps: [{id: tell, notify: {to: [desk], text: ...}}]")
        steps = read_steps(top, "steps", setting, used)
        on_clear = read_steps(top, "on_clear", setting, used)
        on_failure = self.on_failure(survival=survival)
        notices = self.notices()
        tests = read_tests(top, kind, lets, tuple(used))
        replay = read_replay(top)
        self.pauses()
        top.close(_RESERVED)
        unused(top)
        self.check_intent(intent, (*steps, *on_clear))
        self.check_escalation((*steps, *on_clear), on_failure)
        if survival:
            self.check_survival(trigger, cooldown)
        if trigger is not None and trigger.on_unknown == "fire":
            self.check_on_unknown(steps)
        document = findings.document
        if findings.errors or self.draft.id is None or severity is None or stage is None or trigger is None:
            return
        logic = {
            "scope": kind.value, "where": " ".join(where.text.split()) if where else "", "max_age": dict(sorted(max_age.items())),
            "let": {name: canonical(let.term) for name, let in lets.items()},
            "trigger": {
                "when": canonical(trigger.when.typed.term), "for_ns": trigger.for_ns,
                "until": canonical(trigger.until.typed.term) if trigger.until else None, "until_for_ns": trigger.until_for_ns,
                "on_unknown": trigger.on_unknown,
            },
        }  # fmt: skip
        positions: dict[str, tuple[int, int]] = {}
        _positions(document, top.node, "", positions)
        self.draft.runbook = Runbook(
            id=self.draft.id, title=title, owner=owner, severity=severity, intent=intent, stage=stage, scope=kind, trigger=trigger,
            steps=steps, path=document.path, source=document.text, digest=hashlib.sha256(document.text.encode()).hexdigest(),
            logic_digest=hashlib.sha256(json.dumps(logic, sort_keys=True, separators=(",", ":")).encode()).hexdigest(),
            labels=labels, review_every=review_every, review_last=review_last, where=where, max_age=max_age, lets=lets,
            cooldown_ns=cooldown, repeat=repeat, mode=mode, priority=priority, locks=locks, inhibited_by=inhibited_by, guards=guards,
            guard_wait_ns=guard_wait, limits=limits,
            on_clear=on_clear, on_failure=on_failure, notify=notices, tests=tests, replay=replay, expressions=tuple(findings.expressions),
            positions=positions, params=findings.params,
        )  # fmt: skip

    def pauses(self) -> None:
        """Collect the ids that `pause` steps name, for the check over all files."""
        for key in ("steps", "on_clear"):
            node = self.top.node.get(key)
            for i, item in enumerate(node.items if isinstance(node, ListNode) else ()):
                act = item.get("pause") if isinstance(item, MapNode) else None
                name = act.get("runbook") if isinstance(act, MapNode) else None
                if isinstance(name, ScalarNode) and not name.empty and name.text != self.draft.id:
                    self.draft.references.append(Reference(key="pause", id=name.text, node=name, where=f"{key}[{i}].pause.runbook"))


def read_runbook(document: Document) -> Draft:
    """The draft of one composed file; never raises for what a user can write."""
    findings = Findings(document=document, errors=list(document.problems))
    draft = Draft(findings=findings)
    if document.root is None:
        return draft
    if not isinstance(document.root, MapNode):
        findings.error("E009", f"a runbook is a mapping, found {describe(document.root)}; it starts with `schema: {SCHEMA}`", document.root)
        return draft
    draft.top = document.root
    _Reader(draft, Section(findings, document.root, "")).read()
    if findings.errors:
        draft.runbook = None
    return draft
