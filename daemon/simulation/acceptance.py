"""The `replay:` section of a runbook against a report (floor 5): `liquidations.with <= liquidations.without`, `pnl.delta > -1_000 USD`."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from daemon.runbook.model import Runbook
from daemon.simulation.report import Report
from daemon.units import parse_quantity

_ASSERTION = re.compile(r"\s*([a-z_.]+)\s*(<=|>=|==|!=|<|>)\s*(.+?)\s*")
_FIGURES = (
    "pnl_usd", "funding_usd", "fees_usd", "liquidations", "margin_ratio_max", "turnover_usd", "slippage_usd", "funding_unknown_hours",
)  # fmt: skip
_OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    "<=": operator.le, ">=": operator.ge, "==": operator.eq, "!=": operator.ne, "<": operator.lt, ">": operator.gt,
}  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """One assertion of a runbook over this report; `found` says the figures, or what is wrong with the assertion."""

    runbook: str
    text: str
    met: bool
    found: str

    def as_json(self) -> dict[str, object]:
        """The shape of `acceptance` in `reefd replay --format json`."""
        return {"runbook": self.runbook, "assert": self.text, "met": self.met, "found": self.found}

    def line(self) -> str:
        """One line for people."""
        return f"{'met    ' if self.met else 'NOT MET'} {self.runbook}: {self.text} ({self.found})"


def figures(report: Report) -> dict[str, float]:
    """Every figure an assertion may name: `pnl.with`, `pnl.without`, `pnl.delta`, ..., `runs`, `episodes`, `clusters`."""
    found: dict[str, float] = {
        "episodes": len(report.episodes),
        "runs": sum(len(episode.run_statuses) for episode in report.episodes),
        "clusters": report.clusters,
        "pnl.delta_without_direction": report.difference.without_direction_usd,
    }
    for name in _FIGURES:
        having, lacking = getattr(report.having, name), getattr(report.lacking, name)
        if having is not None and lacking is not None:
            short = name.removesuffix("_usd")
            found |= {f"{short}.with": float(having), f"{short}.without": float(lacking), f"{short}.delta": float(having - lacking)}
    return found


def judge(runbooks: Sequence[Runbook], recording: str, report: Report) -> tuple[Verdict, ...]:
    """The verdict on every assertion that the runbooks make over a recording of this name (its folder's)."""
    known = figures(report)
    return tuple(
        _judge(book.id, text, known) for book in runbooks for item in book.replay if item.recording == recording for text in item.asserts
    )


def _judge(runbook: str, text: str, known: Mapping[str, float]) -> Verdict:
    match = _ASSERTION.fullmatch(text)
    if match is None:
        return Verdict(runbook=runbook, text=text, met=False, found="no comparison; write for example runs <= 12")
    try:
        left, right = _figure(match[1], known), _figure(match[3], known)
    except ValueError as error:
        return Verdict(runbook=runbook, text=text, met=False, found=str(error))
    return Verdict(runbook=runbook, text=text, met=_OPERATORS[match[2]](left, right), found=f"{left:g} and {right:g}")


def _figure(text: str, known: Mapping[str, float]) -> float:
    if text in known:
        return known[text]
    if re.match(r"[a-z]", text):
        raise ValueError(f"{text!r} is no figure of a report; known: {', '.join(sorted(known))}")
    return parse_quantity(text)[0]
