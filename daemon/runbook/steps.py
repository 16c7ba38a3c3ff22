"""Steps of a runbook (floor 3): one action each, with what may gate, confirm and follow it.

`read_steps(section, "steps", setting)` gives the steps that are right and records everything that is wrong.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from daemon.language.catalogue import RELATIONS, nearest
from daemon.language.terms import Constant
from daemon.language.typing import Scope
from daemon.runbook.fields import ID, Findings, Section, describe, hint
from daemon.runbook.model import (
    Act,
    Amount,
    Approval,
    Cancel,
    Gate,
    Label,
    Move,
    Pause,
    Rebalance,
    Retry,
    Shrink,
    ShrinkAccount,
    Step,
    Tell,
    Template,
    TextPart,
    Verify,
    Wait,
    Webhook,
)
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.units import MINUTE_NS, NS
from daemon.world.entities import Kind

ShrinkOrder = Literal["best_survival", "most_expensive_first", "pro_rata"]
SHRINK_ORDERS: tuple[ShrinkOrder, ...] = ("best_survival", "most_expensive_first", "pro_rata")
REBALANCE_TO: tuple[Literal["target", "edge"], ...] = ("target", "edge")
OTHERWISE: tuple[Literal["skip", "proceed", "abort"], ...] = ("skip", "proceed", "abort")
STEP_ON_FAILURE: tuple[Literal["abort", "continue", "escalate"], ...] = ("abort", "continue", "escalate")
ACTIONS = (
    "shrink_position", "shrink_account", "move_buffer", "cancel_orders", "halt", "resume", "rebalance", "notify", "webhook", "wait",
    "pause",
)  # fmt: skip
RESERVED_ACTIONS = dict.fromkeys(
    ("shrink_pair", "hedge", "reduce_delta", "swap_collateral"), "is reserved for the portfolio work and not part of this version"
)
STEPS_MAX = 50
SLICES_MAX = 100
ATTEMPTS_MAX = 20

# Labels every entity of a kind carries; others come from the accounts' `labels:` and are read as {label.NAME}.
COMMON_LABELS = frozenset({"id", "kind", "symbol", "base", "bucket", *(kind.value for kind in Kind)})
_IDENTIFIER = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_LABEL = re.compile(r"label\.([A-Za-z_][A-Za-z0-9_-]*)")
_NUMBER = re.compile(r"[+-]?(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?")

HALT_SCOPES = (Kind.POSITION, Kind.MARKET, Kind.ACCOUNT, Kind.VENUE, Kind.CHAIN, Kind.BUCKET, Kind.PORTFOLIO)
CANCEL_SCOPES = (Kind.POSITION, Kind.MARKET, Kind.ACCOUNT)


def reached(kind: Kind) -> tuple[Kind, ...]:
    """The kinds of which an instance of `kind` has exactly one: itself and what it lies in."""
    if kind is Kind.ROUTE:  # from. and to. are two chains: neither is THE chain of a route
        return (Kind.ROUTE, Kind.PORTFOLIO)
    return (kind, *(target for _, target in RELATIONS[kind]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What the steps of one runbook may refer to."""

    kind: Kind
    scope: Scope  # of expressions in steps
    planned: Scope  # the same with the plan's own names
    labels: frozenset[str]
    survival: bool


def read_template(findings: Findings, node: YamlNode, where: str, setting: Setting) -> Template | None:
    """A text with `{label}` and `{expression}` parts; `{{` and `}}` stand for braces."""
    text = findings.text(node, where)
    if text is None or not isinstance(node, ScalarNode):
        return None
    parts: list[TextPart] = []
    plain, at, good = "", 0, True
    while at < len(text):
        if text.startswith(("{{", "}}"), at):
            plain += text[at]
            at += 2
        elif text[at] == "}":
            findings.inside("E042", "a '}' without its '{'; write {expression}, or }} for a brace", node, at, at + 1, where)
            good, at = False, at + 1
        elif text[at] == "{":
            end = text.find("}", at)
            if end < 0 or "{" in text[at + 1 : end]:
                findings.inside("E042", "a '{' without its '}'; write {expression}, or {{ for a brace", node, at, at + 1, where)
                return None
            if plain:
                parts.append(plain)
                plain = ""
            part = _template_part(findings, node, where, setting, at + 1, end)
            good = good and part is not None
            if part is not None:
                parts.append(part)
            at = end + 1
        else:
            plain += text[at]
            at += 1
    if plain:
        parts.append(plain)
    return tuple(parts) if good else None


def _template_part(findings: Findings, node: ScalarNode, where: str, setting: Setting, start: int, end: int) -> TextPart | None:
    inner = node.text[start:end]
    word = inner.strip()
    start += len(inner) - len(inner.lstrip())
    if not word:
        findings.inside(
            "E042",
            "nothing between the braces; write a label or an expression, for example {market} or {notional}",
            node,
            start - 1,
            end + 1,
            where,
        )
        return None
    labelled = _LABEL.fullmatch(word)
    if labelled:
        return Label(name=labelled[1])
    named = word in setting.planned.lets or word in setting.planned.params
    if _IDENTIFIER.fullmatch(word) and not named and not nearest(setting.kind, word) and word in setting.labels:
        return Label(name=word)
    return findings.expression(node, where, setting.planned, None, (start, start + len(word)))


def _kind(section: Section, allowed: tuple[Kind, ...], setting: Setting, what: str) -> Kind | None:
    node = section.required("scope", "scope: " + setting.kind.value)
    if node is None:
        return None
    words = tuple(kind.value for kind in Kind)
    word = section.findings.choice(node, section.path("scope"), words)
    if word is None:
        return None
    kind = Kind(word)
    possible = [k for k in reached(setting.kind) if k in allowed]
    if kind in possible:
        return kind
    choices = ", ".join(k.value for k in possible) or "none"
    section.findings.error(
        "E038", f"{what} of a {setting.kind.value} runbook has the scope {choices}; found '{word}'", node, section.path("scope")
    )
    return None


def _amount(section: Section, key: str, scope: Scope, units: tuple[str, ...], *, share: bool = False) -> Amount | None:
    expression = section.expression(key, scope, units)
    if expression is None:
        return None
    unit = expression.typed.unit if expression.typed.unit in units else units[0]
    term = expression.typed.term
    node = section.node.get(key)
    assert node is not None
    if isinstance(term, Constant) and (term.value < 0 or (share and term.value == 0) or (unit == "ratio" and share and term.value > 1)):
        bound = "above 0% and at most 100%" if share and unit == "ratio" else "above 0" if share else "at least 0"
        section.findings.error("E032", f"{section.path(key)} is {bound}, found {expression.text}", node, section.path(key))
        return None
    return Amount(expression=expression, unit=unit)


def _one_of(section: Section, keys: tuple[str, ...]) -> bool:
    """True when exactly one of the keys is written."""
    found = [key for key in keys if section.has(key)]
    if len(found) == 1:
        return True
    says = "none of them" if not found else " and ".join(found)
    section.findings.error("E039", f"{section.name} takes exactly one of {', '.join(keys)}; found {says}", section.node, section.where)
    return False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Slicing:
    max_slippage: float | None
    max_share_of_depth: float | None
    slices: int
    every_ns: int


def _slicing(section: Section) -> _Slicing:
    slices = section.count("slices", 1, 1, SLICES_MAX)
    every = section.duration("every", 0)
    every_node = section.node.get("every")
    if every_node is not None and slices == 1 and not section.has("slices"):
        section.findings.error(
            "E039", "'every' is the time between slices and needs 'slices'; write slices: 4", every_node, section.path("every")
        )
    return _Slicing(
        max_slippage=section.ratio("max_slippage"), max_share_of_depth=section.ratio("max_share_of_depth"), slices=slices, every_ns=every
    )


def _shrink(section: Section, setting: Setting) -> Shrink | None:
    one = _one_of(section, ("by", "to"))
    by = _amount(section, "by", setting.planned, ("ratio", "base", "USD"), share=True)
    to = _amount(section, "to", setting.scope, ("ratio", "base", "USD"))
    cut = _slicing(section)
    stop = section.expression("stop_when", setting.scope, "bool")
    section.close()
    if setting.kind is not Kind.POSITION:
        message = f"shrink_position needs scope: position, this one has {setting.kind.value}; write shrink_account, or scope: position"
        section.findings.error("E038", message, section.node, section.where)
        return None
    if not one or (by is None and to is None):
        return None
    return Shrink(
        by=by,
        to=to,
        max_slippage=cut.max_slippage,
        max_share_of_depth=cut.max_share_of_depth,
        slices=cut.slices,
        every_ns=cut.every_ns,
        stop_when=stop,
    )


def _shrink_account(section: Section, setting: Setting) -> ShrinkAccount | None:
    one = _one_of(section, ("to_margin_ratio", "by"))
    target = _amount(section, "to_margin_ratio", setting.scope, ("ratio",), share=True)
    by = _amount(section, "by", setting.planned, ("ratio",), share=True)
    order = section.choice("order", SHRINK_ORDERS, "best_survival")
    cut = _slicing(section)
    stop = section.expression("stop_when", setting.scope, "bool")
    section.close()
    if Kind.ACCOUNT not in reached(setting.kind):
        message = f"shrink_account needs scope: account or position; a {setting.kind.value} runbook has no account"
        section.findings.error("E038", message, section.node, section.where)
        return None
    if not one or (target is None and by is None):
        return None
    return ShrinkAccount(
        to_margin_ratio=target, by=by, order=order, max_slippage=cut.max_slippage, max_share_of_depth=cut.max_share_of_depth,
        slices=cut.slices, every_ns=cut.every_ns, stop_when=stop,
    )  # fmt: skip


def _move(section: Section, setting: Setting) -> Move | None:
    source_node = section.required("from", "from: ethereum")
    source = section.findings.text(source_node, section.path("from")) if source_node is not None else None
    destination = section.text("to") or ""
    one = _one_of(section, ("amount", "to_ratio"))
    amount = _amount(section, "amount", setting.planned, ("USD",), share=True)
    to_ratio = _amount(section, "to_ratio", setting.scope, ("ratio",), share=True)
    route = section.text("route") or "best"
    max_fee = _amount(section, "max_fee", setting.scope, ("USD", "ratio"))
    deadline = section.duration("deadline", 0) or None
    keep = section.usd("keep_at_source") or 0.0
    section.close()
    if destination in ("", "account"):
        destination = ""
        if Kind.ACCOUNT not in reached(setting.kind):
            message = f"a {setting.kind.value} runbook has no account of its own; write to: and the name of an account or a chain"
            section.findings.error("E008", message, section.node, section.path("to"))
            return None
    elif destination == source:
        section.findings.error("E039", f"moves from '{source}' to itself; write two different places", section.node, section.where)
        return None
    if source is None or not one or (amount is None and to_ratio is None):
        return None
    return Move(
        source=source,
        destination=destination,
        amount=amount,
        to_ratio=to_ratio,
        route=route,
        max_fee=max_fee,
        deadline_ns=deadline,
        keep_at_source=keep,
    )


def _tell(section: Section, setting: Setting) -> Tell | None:
    to_node = section.required("to", "to: [desk]")
    to = section.findings.texts(to_node, section.path("to"), "[desk]") if to_node is not None else ()
    if isinstance(to_node, ListNode) and not to_node.items:
        section.findings.error("E008", f"{section.path('to')} names nobody; write to: [desk]", to_node, section.path("to"))
    node = section.required("text", 'text: "{market} pays {funding_rate}"')
    text = read_template(section.findings, node, section.path("text"), setting) if node is not None else None
    section.close()
    return Tell(to=to, text=text) if to and text is not None else None


def _leaf(findings: Findings, node: YamlNode, where: str, setting: Setting) -> object:
    """A payload's value: mappings to dicts, lists to tuples, texts to templates, plain numbers and bools as such."""
    match node:
        case MapNode(entries=entries):
            return {key.text: _leaf(findings, value, f"{where}.{key.text}", setting) for key, value in entries}
        case ListNode(items=items):
            return tuple(_leaf(findings, item, f"{where}[{i}]", setting) for i, item in enumerate(items))
        case ScalarNode(empty=True):
            return None
        case ScalarNode(style="", text="true" | "True" | "TRUE"):
            return True
        case ScalarNode(style="", text="false" | "False" | "FALSE"):
            return False
        case ScalarNode(style="", text=text) if _NUMBER.fullmatch(text) and len(text) < 40:
            return float(text)
        case ScalarNode(text=""):
            return ()  # the empty template
        case _:
            return read_template(findings, node, where, setting)


def _webhook(section: Section, setting: Setting) -> Webhook | None:
    node = section.required("endpoint", "endpoint: custody")
    endpoint = section.findings.text(node, section.path("endpoint")) if node is not None else None
    payload_node = section.get("payload")
    payload: Mapping[str, object] = {}
    if isinstance(payload_node, MapNode):
        read = _leaf(section.findings, payload_node, section.path("payload"), setting)
        assert isinstance(read, dict)
        payload = read
    elif payload_node is not None:
        section.findings.error(
            "E009",
            f'payload is a mapping, found {describe(payload_node)}; write payload: {{size: "{{size}}"}}',
            payload_node,
            section.path("payload"),
        )
    section.close()
    return Webhook(endpoint=endpoint, payload=payload) if endpoint is not None else None


def _wait(section: Section, setting: Setting) -> Wait | None:
    node = section.required("that", "that: route_open")
    that = section.findings.expression(node, section.path("that"), setting.scope, "bool") if node is not None else None
    section.required("within", "within: 5m")
    within = section.duration("within", 0)
    section.close()
    return Wait(that=that, within_ns=within) if that is not None else None


def _pause(section: Section) -> Pause | None:
    node = section.required("runbook", "runbook: funding-spike")
    name = section.findings.text(node, section.path("runbook")) if node is not None else None
    section.required("for", "for: 1h")
    time = section.duration("for", 0)
    section.close()
    return Pause(runbook=name, for_ns=time) if name is not None else None


def _rebalance(section: Section, setting: Setting) -> Rebalance | None:
    bucket = section.text("bucket")
    everything = section.choice("all", ("true", "false"), "false") == "true"
    to = section.choice("to", REBALANCE_TO, "target")
    section.close()
    if (bucket is not None and everything) or (bucket is None and not everything and setting.kind is not Kind.BUCKET):
        section.findings.error(
            "E039", f"{section.name} takes exactly one of bucket, all; write bucket: income, or all: true", section.node, section.where
        )
        return None
    section.findings.warn(
        "W010", "rebalance is checked but not executed by this version: the step ends rejected", section.node, section.where
    )
    return Rebalance(bucket=bucket or "", to=to)


def _act(step: Section, kind: str, setting: Setting) -> Act | None:
    section = step.section(kind, f"{kind}: {{...}}, see docs/runbooks.md")
    if section is None:
        return None
    section.name = kind
    match kind:
        case "shrink_position":
            return _shrink(section, setting)
        case "shrink_account":
            return _shrink_account(section, setting)
        case "move_buffer":
            return _move(section, setting)
        case "cancel_orders":
            scope = _kind(section, CANCEL_SCOPES, setting, "cancel_orders")
            section.close()
            return Cancel(scope=scope) if scope else None
        case "halt" | "resume":
            scope = _kind(section, HALT_SCOPES, setting, kind)
            section.close()
            return Gate(scope=scope, closed=kind == "halt") if scope else None
        case "notify":
            return _tell(section, setting)
        case "webhook":
            return _webhook(section, setting)
        case "wait":
            return _wait(section, setting)
        case "pause":
            return _pause(section)
        case "rebalance":
            return _rebalance(section, setting)
        case _:
            raise AssertionError(f"{kind} is listed in ACTIONS and read nowhere")


def _approval(step: Section, setting: Setting) -> Approval | None:
    section = step.section("approval", "approval: {from: [desk-lead], timeout: 2m, otherwise: abort}")
    if section is None:
        return None
    section.name = "approval"
    when = section.expression("when", setting.planned, "bool")
    node = section.required("from", "from: [desk-lead]")
    people = section.findings.texts(node, section.path("from"), "[desk-lead]") if node is not None else ()
    if isinstance(node, ListNode) and not node.items:
        section.findings.error("E008", f"{section.path('from')} names nobody; write from: [desk-lead]", node, section.path("from"))
    quorum = section.count("quorum", 1, 1, 20)
    timeout = section.duration("timeout", 2 * MINUTE_NS)
    otherwise = section.choice("otherwise", OTHERWISE, "skip")
    section.close()
    if setting.survival and otherwise == "skip":
        at = section.node.get("otherwise") or section.node
        message = "an approval of a survival runbook may not be skipped when nobody answers; write otherwise: proceed, or otherwise: abort"
        section.findings.error("E036", message, at, section.path("otherwise"))
    return Approval(when=when, people=people, quorum=quorum, timeout_ns=timeout, otherwise=otherwise)


def _step_id(section: Section, used: dict[str, ScalarNode]) -> str | None:
    node = section.required("id", "id: shrink")
    text = section.findings.text(node, section.path("id")) if node is not None else None
    if text is None or not isinstance(node, ScalarNode):
        return None
    if not ID.fullmatch(text):
        section.findings.error("E041", f"a step's id is made of a-z, 0-9 and '-', found '{text}'", node, section.path("id"))
        return None
    if text in used:
        line, _ = section.findings.document.position(used[text].start)
        section.findings.error(
            "E033", f"the step id '{text}' is used twice, first in line {line}; give every step its own", node, section.path("id")
        )
        return None
    used[text] = node
    return text


def _step(section: Section, setting: Setting, used: dict[str, ScalarNode]) -> Step | None:
    section.name = "a step"
    name = _step_id(section, used)
    when = section.expression("when", setting.scope, "bool")
    kinds = [kind for kind in ACTIONS if section.has(kind)]
    reserved = [kind for kind in RESERVED_ACTIONS if section.node.get(kind) is not None]
    if len(kinds) != 1 and not reserved:
        unknown = [key.text for key in section.names() if key.text not in section.asked and key.text not in _STEP_KEYS]
        near = hint(unknown[0], ACTIONS) if unknown and not kinds else ""
        found = " and ".join(kinds) or (f"'{unknown[0]}'" if unknown else "none")
        message = f"a step does exactly one action, found {found}{near or '; actions are ' + ', '.join(ACTIONS)}"
        at = next((key for key in section.names() if key.text in (*unknown[:1], *kinds[1:2])), section.node)
        section.findings.error("E038", message, at, section.where)
        for word in unknown[:1] if not kinds else ():
            section.asked[word] = None
    act = [_act(section, kind, setting) for kind in kinds]
    approval = _approval(section, setting)
    timeout = section.duration("timeout", 20 * NS)
    if timeout == 0:
        node = section.node.get("timeout") or section.node
        section.findings.error("E032", f"{section.path('timeout')} is above 0s", node, section.path("timeout"))
    retry = Retry()
    tries = section.section("retry", "retry: {attempts: 3, backoff: 2s}")
    if tries is not None:
        tries.name = "retry"
        retry = Retry(attempts=tries.count("attempts", 1, 1, ATTEMPTS_MAX), backoff_ns=tries.duration("backoff", 2 * NS))
        tries.close()
    verify = _verify(section, setting)
    on_failure = section.choice("on_failure", STEP_ON_FAILURE, "abort")
    section.close(RESERVED_ACTIONS)
    if name is None or len(act) != 1 or act[0] is None:
        return None
    return Step(
        id=name,
        kind=kinds[0],
        act=act[0],
        when=when,
        approval=approval,
        timeout_ns=timeout,
        retry=retry,
        verify=verify,
        on_failure=on_failure,
    )


_STEP_KEYS = ("id", "when", "approval", "timeout", "retry", "verify", "on_failure")


def _verify(step: Section, setting: Setting) -> Verify | None:
    section = step.section("verify", "verify: {that: abs(size) < abs(size@start), within: 15s}")
    if section is None:
        return None
    section.name = "verify"
    node = section.required("that", "that: abs(size) < abs(size@start)")
    that = section.findings.expression(node, section.path("that"), setting.scope, "bool") if node is not None else None
    section.required("within", "within: 15s")
    within = section.duration("within", 0)
    section.close()
    return Verify(that=that, within_ns=within) if that is not None else None


def read_steps(top: Section, key: str, setting: Setting, used: dict[str, ScalarNode]) -> tuple[Step, ...]:
    """The steps of `steps:` or `on_clear:`; `used` collects their ids, unique over both."""
    sections = top.sections(key, f"{key}: [{{id: tell, notify: {{to: [desk], text: ...}}}}]")
    node = top.node.get(key)
    if isinstance(node, ListNode) and not node.items and key == "steps":
        top.findings.error(
            "E008", "the runbook has no steps; write at least one, for example - {id: tell, notify: {to: [desk], text: ...}}", node, key
        )
    if len(sections) > STEPS_MAX:
        top.findings.error("E032", f"{key} has {len(sections)} steps, at most {STEPS_MAX}", sections[STEPS_MAX].node, key)
        sections = sections[:STEPS_MAX]
    return tuple(step for section in sections if (step := _step(section, setting, used)) is not None)
