"""Typed terms (floor 2): what an expression means once its names are resolved and its dimensions checked.

A term is relative to an entity of some kind (its scope); `relation` names the row it reads from there: "" its own, `market`,
`venue`, ... Terms are frozen and compare by meaning (spans do not count), so equal terms are computed once.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from daemon.language.dimension import Dimension
from daemon.world.entities import Kind


@dataclass(frozen=True, slots=True)
class Constant:
    """A literal in catalogue units, or a param of the runbook: then `name` is its name, so that no value it is given makes it another's."""

    value: float
    dimension: Dimension
    text: str = field(compare=False)
    name: str = ""


@dataclass(frozen=True, slots=True)
class Read:
    """An observed signal of the row at `relation`."""

    kind: Kind
    relation: str
    signal: str
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Derived:
    """A derived signal of the row at `relation`: `body` is a term relative to that row."""

    kind: Kind
    relation: str
    signal: str
    body: Term
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Saved:
    """`name@start`: the value in the frame saved when the run started; `term` is what is saved."""

    name: str
    term: Term
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Planned:
    """One of the plan's own names: notional_change, amount, fee_estimate (USD, >= 0)."""

    name: str
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Apply:
    """An operator or scalar function over terms; `factor` is the power of 3600 of a product or quotient."""

    function: str
    arguments: tuple[Term, ...]
    dimension: Dimension
    text: str = field(compare=False)
    factor: int = 0


@dataclass(frozen=True, slots=True)
class Window:
    """A window function over the samples of `argument` in `(t - duration, t]`; `rank` is a quantile's."""

    function: str
    argument: Term
    duration_ns: int
    rank: float
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Stateful:
    """An accumulator over time: steady_for, since_change, frozen_for."""

    function: str
    arguments: tuple[Term, ...]
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Over:
    """An aggregate of `body` (relative to each member) over a set of entities; `own` is median_near's own price."""

    function: str
    members: str
    kind: Kind
    body: Term
    own: Term | None
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Elsewhere:
    """`signal("dydx:BTC-USD", expression)`: a term relative to one named entity."""

    kind: Kind
    entity: str
    body: Term
    dimension: Dimension
    text: str = field(compare=False)


@dataclass(frozen=True, slots=True)
class Names:
    """A literal name given to a parametrised signal (a chain, an asset), or a duration in ns as text."""

    value: str
    dimension: Dimension
    text: str = field(compare=False)


Term = Constant | Read | Derived | Saved | Planned | Apply | Window | Stateful | Over | Elsewhere | Names


def children(term: Term) -> tuple[Term, ...]:
    """The terms directly inside a term."""
    match term:
        case Derived(body=body) | Elsewhere(body=body):
            return (body,)
        case Over(body=body, own=own):
            return (body,) if own is None else (body, own)
        case Saved(term=saved):
            return (saved,)
        case Apply(arguments=arguments) | Stateful(arguments=arguments):
            return arguments
        case Window(argument=argument):
            return (argument,)
        case _:
            return ()


def walk(term: Term) -> Iterator[Term]:
    """Every term inside a term, itself first."""
    yield term
    for child in children(term):
        yield from walk(child)


def signature(term: Term) -> str:
    """The meaning of a term as text, without its spelling: equal terms have equal signatures, in every process."""
    inside = ",".join(signature(child) for child in children(term))
    match term:
        case Constant(value=value):
            return repr(value)
        case Read() | Derived():
            return f"{term.relation}.{term.kind.value}.{term.signal}"
        case Saved(name=name) | Planned(name=name):
            return f"@{name}"
        case Apply() | Stateful():
            return f"{term.function}({inside})"
        case Window():
            return f"{term.function}({inside},{term.duration_ns},{term.rank!r})"
        case Over():
            return f"{term.function}[{term.members}]({inside})"
        case Elsewhere():
            return f"[{term.kind.value} {term.entity}]({inside})"
        case Names(value=name):
            return repr(name)
