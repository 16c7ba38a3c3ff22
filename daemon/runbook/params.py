"""The `params:` of a runbook (floor 3): named constants with a unit, usable wherever a literal of that unit is.

    params:
      hold: 3m
      threshold: {default: 0.05%/h, min: 0.01%/h, max: 1%/h, doc: what an hour may cost}

Their values are folded into the program's constants: giving a param another value changes no line of generated source.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

from daemon.language.catalogue import nearest
from daemon.language.dimension import NOUNS, of_unit
from daemon.language.terms import Constant
from daemon.language.typing import NOTHING
from daemon.runbook.fields import WORD, Findings, Section, describe
from daemon.runbook.model import Param
from daemon.runbook.nodes import MapNode, ScalarNode, YamlNode
from daemon.units import parse_duration, parse_quantity
from daemon.world.entities import Kind

PARAMS_MAX = 100
_EXAMPLE = "params: {threshold: 0.05%/h, hold: 3m}"
_LONG = "{default: 0.05%/h, min: 0.01%/h, max: 1%/h}"


def read_params(top: Section, kind: Kind, words: Collection[str]) -> dict[str, Param]:
    """The params of a runbook by name; `words` are names that the language keeps for itself. What is wrong is recorded."""
    section = top.section("params", _EXAMPLE)
    if section is None:
        return {}
    findings = section.findings
    if len(section.node.entries) > PARAMS_MAX:
        findings.error("E032", f"{len(section.node.entries)} params, at most {PARAMS_MAX}", section.node, "params")
    params: dict[str, Param] = {}
    for key, node in section.node.entries[:PARAMS_MAX]:
        name, where = key.text, f"params.{key.text}"
        if not WORD.fullmatch(name):
            findings.error("E041", f"a param's name is made of a-z, 0-9 and '_', found '{name}'", key, where)
        elif name in words or nearest(kind, name):
            what = "a word of the language" if name in words else "a signal"
            findings.error("E041", f"'{name}' is {what} already; give the param another name", key, where)
        read = _param(findings, name, node, where)
        params[name] = read or Param(name=name, value=math.nan, unit="", text="")
    return params


def _param(findings: Findings, name: str, node: YamlNode, where: str) -> Param | None:
    if isinstance(node, ScalarNode):
        found = _literal(findings, node, where)
        return None if found is None else Param(name=name, value=found[0], unit=found[1], text=node.text.strip())
    if not isinstance(node, MapNode):
        findings.error("E009", f"{where} is a literal or a mapping, found {describe(node)}; write 0.05%/h, or {_LONG}", node, where)
        return None
    section = Section(findings, node, where, "a param")
    written = section.required("default", "default: 0.05%/h")
    bounds = section.get("min"), section.get("max")
    doc = section.text("doc") or ""
    section.close()
    found = _literal(findings, written, f"{where}.default") if written is not None else None
    if found is None or not isinstance(written, ScalarNode):
        return None
    value, unit = found
    low, high = (_bound(findings, bound, f"{where}.{end}", written.text, unit) for bound, end in zip(bounds, ("min", "max"), strict=True))
    if low is not None and high is not None and low > high:
        at = bounds[0] or node
        findings.error("E032", f"{where}.min is above its max; write {_LONG}", at, f"{where}.min")
        return None
    for end, out in (("min", low is not None and value < low), ("max", high is not None and value > high)):
        bound = node.get(end)
        if out and isinstance(bound, ScalarNode):
            side = "below" if end == "min" else "above"
            findings.error("E032", f"{where} is {written.text}, {side} its {end} of {bound.text}", written, f"{where}.default")
            return None
    return Param(name=name, value=value, unit=unit, text=written.text.strip(), low=low, high=high, doc=doc)


def _literal(findings: Findings, node: YamlNode, where: str) -> tuple[float, str] | None:
    """Value and unit of a literal of any unit."""
    text = findings.text(node, where)
    if text is None:
        return None
    try:
        value, unit = parse_quantity(text)
        if unit == "s":
            parse_duration(text)  # a param may stand for a duration field, which reads no more than this
    except (ValueError, ArithmeticError):
        message = f"{where} is a literal with its unit, found '{text}'; write for example 25%, 0.05%/h, 25_000 USD, 3m or 3"
        findings.error("E031", message, node, where)
        return None
    if not abs(value) <= 1e300:
        findings.error("E032", f"{where} is too large a number: {text}", node, where)
        return None
    return value, unit


def _bound(findings: Findings, node: YamlNode | None, where: str, default: str, unit: str) -> float | None:
    found = _literal(findings, node, where) if node is not None else None
    if found is None or node is None:
        return None
    if found[1] == unit:
        return found[0]
    text = node.text if isinstance(node, ScalarNode) else ""
    findings.error("E031", f"{where} is {NOUNS[unit]} like the default {default}, found {NOUNS[found[1]]}: {text}", node, where)
    return None


def constants(params: Mapping[str, Param]) -> dict[str, Constant]:
    """The params as expressions read them; one whose definition is wrong has no dimension, and nothing that uses it is told again."""
    return {
        name: Constant(param.value, of_unit(param.unit) if param.unit else NOTHING, param.text, name) for name, param in params.items()
    }


def unused(top: Section) -> None:
    """Warns of every param that nothing names."""
    section = top.node.get("params")
    for key, _ in section.entries if isinstance(section, MapNode) else ():
        if key.text in top.findings.params and key.text not in top.findings.used:
            message = f"nothing uses the param '{key.text}'; name it in an expression or a field, or take it out"
            top.findings.warn("W012", message, key, f"params.{key.text}")
