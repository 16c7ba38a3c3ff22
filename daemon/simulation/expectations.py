"""What a scenario is expected to show (floor 5): bounds on the figures of its two courses, checked wherever it is played.

    expect:
      without: {liquidations: ">=1"}
      with: {liquidations: 0, pnl_usd: ">-4_000 USD", fired: [margin-low], did: [shrink_account]}
      difference: {pnl_usd: ">0 USD"}          # with less without
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from daemon.units import parse_quantity

OPERATORS: Mapping[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt, "=": operator.eq,
}  # fmt: skip
_BOUND = re.compile(r"\s*(>=|<=|>|<|=)?\s*(.+)")


@dataclass(frozen=True, slots=True)
class Bound:
    """A comparison with a number: `>= 1`, `< 80%`, `> -4_000 USD`; without an operator it must be equal."""

    operator: str
    value: float
    text: str

    def holds(self, found: float) -> bool:
        """True when a figure keeps it."""
        return OPERATORS[self.operator](found, self.value)


def _bound(*units: str) -> Callable[[object], Bound]:
    def read(raw: object) -> Bound:
        if isinstance(raw, Bound):
            return raw
        text = str(raw)
        match = _BOUND.fullmatch(text)
        value, unit = parse_quantity(match[2]) if match else (0.0, "")
        if match is None or (unit not in units and value != 0.0):
            raise ValueError(f"expected a bound in {units[0]}, found {text!r}; write for example {_EXAMPLES[units[0]]}")
        return Bound(match[1] or "=", value, " ".join(text.split()))

    return read


_EXAMPLES = {"1": '">=1"', "USD": '">-4_000 USD"', "ratio": '"<80%"'}
Count = Annotated[Bound, BeforeValidator(_bound("1"))] | None
Money = Annotated[Bound, BeforeValidator(_bound("USD", "1"))] | None
Share = Annotated[Bound, BeforeValidator(_bound("ratio", "1"))] | None


class ExpectedToll(BaseModel):
    """Bounds on the figures of one course, or of the difference of two; see `toll.Toll`."""

    model_config = ConfigDict(frozen=True, extra="forbid", arbitrary_types_allowed=True)

    liquidations: Count = None
    external_closes: Count = None
    liquidation_loss_usd: Money = None
    pnl_usd: Money = None
    equity_end_usd: Money = None
    equity_min_usd: Money = None
    margin_ratio_start: Share = None
    margin_ratio_max: Share = None
    margin_ratio_end: Share = None
    fees_usd: Money = None
    transfer_fees_usd: Money = None
    funding_usd: Money = None
    in_flight_usd: Money = None
    stuck_usd: Money = None
    buffers_end_usd: Money = None

    def bounds(self) -> Iterator[tuple[str, Bound]]:
        """The figures that are bounded."""
        for name in ExpectedToll.model_fields:
            bound = getattr(self, name)
            if bound is not None:
                yield name, bound


class ExpectedCourse(ExpectedToll):
    """What the course with runbooks shall show besides: runbooks that fire, that stay quiet, actions that take effect."""

    fired: tuple[str, ...] = ()
    quiet: tuple[str, ...] = ()
    did: tuple[str, ...] = ()
    did_not: tuple[str, ...] = ()


class Expectation(BaseModel):
    """The `expect:` block of a scenario."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

    having: Annotated[ExpectedCourse, Field(alias="with")] = ExpectedCourse()
    lacking: Annotated[ExpectedToll, Field(alias="without")] = ExpectedToll()
    difference: ExpectedToll = ExpectedToll()

    def broken(
        self, having: Mapping[str, float], lacking: Mapping[str, float], fired: Collection[str], did: Collection[str]
    ) -> list[str]:
        """What is not as expected, a sentence each; empty when everything is."""
        less = {name: having[name] - lacking[name] for name in having}
        found = []
        courses = (("with", self.having, having), ("without", self.lacking, lacking), ("difference", self.difference, less))
        for where, expected, figures in courses:
            found += [
                f"{where}.{name} is {figures[name]:,g}, expected {bound.text}"
                for name, bound in expected.bounds()
                if not bound.holds(figures[name])
            ]
        found += [f"{name} did not fire" for name in self.having.fired if name not in fired]
        found += [f"{name} fired, and should not have" for name in self.having.quiet if name in fired]
        found += [f"no {name} took effect" for name in self.having.did if name not in did]
        found += [f"{name} took effect, and should not have" for name in self.having.did_not if name in did]
        return found
