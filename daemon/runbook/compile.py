"""A runbook to its program (floor 3): one module of generated source, with its constants and the tables that explain it.

`observe(...)` evaluates the trigger of one instance and returns an edge code; `value_<n>` gives expression n, `trace_<n>` runs the
SAME lines and returns every temporary; `saved_<n>` gives what `name@start` saves; `horizon` says when the verdict may change by itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from daemon.language.slots import SLOT, seen_cell
from daemon.language.terms import Saved, Term
from daemon.language.typing import Typed
from daemon.runbook.emit import Constants, Emitter, Node, Number, Offsets, timed
from daemon.runbook.model import Runbook
from daemon.units import NEVER
from daemon.world.entities import Kind

HEAD = '''"""Generated from runbook {name}; do not edit."""
from math import sqrt
from daemon.language.kernels import *
from daemon.language.kernels import INF, NAN, NOT_DUE
'''
TAIL = ("K", "N", "B", "S", "X", "W", "e", "at")


@dataclass(frozen=True, slots=True, kw_only=True)
class Function:
    """One generated function: its name and the names of the arenas and member lists it takes before `TAIL`."""

    name: str
    arguments: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """The generated source of one runbook and what links it to state."""

    runbook: str
    scope: Kind
    source: str
    floats: tuple[float, ...]
    numbers: tuple[Number, ...]
    functions: Mapping[str, Function]
    nodes: Mapping[int, Node]  # expression index -> root of its explanation
    saved: Mapping[str, int]  # name@start -> index into the frame
    units: Mapping[int, str]  # expression index -> unit
    max_age: Mapping[str, int]
    terms: tuple[Term, ...]  # everything observe reads, for linking
    until: int  # index of `until`; -1: not (when)


def compile_runbook(runbook: Runbook, offsets: Offsets, given: frozenset[tuple[Kind, str]], trigger_at: int) -> Program:
    """The program of a runbook; windows and accumulators take their places from `offsets`, the trigger's cells stand at `trigger_at`."""
    constants = Constants()
    saved: list[Saved] = []
    for expression in runbook.expressions:
        saved += [s for s in expression.typed.saved if s.term not in [t.term for t in saved] or _name(s) not in [_name(t) for t in saved]]
    names = list(dict.fromkeys(_name(s) for s in saved))
    out = _Module(runbook, offsets, given, constants, names)
    out.observe(trigger_at)
    nodes: dict[int, Node] = {}
    for expression in runbook.expressions:
        nodes[expression.index] = out.expression(expression.index, expression.typed)
    for j, name in enumerate(names):
        out.saved_value(j, next(s.term for s in saved if _name(s) == name))
    trigger = runbook.trigger
    return Program(
        runbook=runbook.id,
        scope=runbook.scope,
        source=HEAD.format(name=runbook.id) + "\n".join(out.text),
        floats=tuple(constants.floats),
        numbers=tuple(constants.numbers),
        functions=out.functions,
        nodes=nodes,
        saved={name: j for j, name in enumerate(names)},
        units={e.index: e.typed.unit for e in runbook.expressions},
        max_age=runbook.max_age,
        terms=tuple(e.typed.term for e in (trigger.when, trigger.until) if e is not None),
        until=trigger.until.index if trigger.until is not None else -1,
    )


def compile_trigger(runbook: Runbook, offsets: Offsets, given: frozenset[tuple[Kind, str]], trigger_at: int) -> Program:
    """The program of a runbook's trigger alone (`horizon`, `observe`), as the compiled execution needs it."""
    out = _Module(runbook, offsets, given, Constants(), [])
    out.observe(trigger_at)
    trigger = runbook.trigger
    return Program(
        runbook=runbook.id,
        scope=runbook.scope,
        source="\n".join(out.text),
        floats=tuple(out.constants.floats),
        numbers=tuple(out.constants.numbers),
        functions=out.functions,
        nodes={},
        saved={},
        units={},
        max_age=runbook.max_age,
        terms=tuple(e.typed.term for e in (trigger.when, trigger.until) if e is not None),
        until=-1,
    )


def compile_expression(
    typed: Typed, scope: Kind, offsets: Offsets, given: frozenset[tuple[Kind, str]], max_age: Mapping[str, int]
) -> Program:
    """The program of one expression alone, as `value_0` and `trace_0` (for `reefd eval`)."""
    out = _Module(None, offsets, given, Constants(), [], scope=scope, max_age=max_age)
    node = out.expression(0, typed)
    return Program(
        runbook="",
        scope=scope,
        source=HEAD.format(name="(expression)") + "\n".join(out.text),
        floats=tuple(out.constants.floats),
        numbers=tuple(out.constants.numbers),
        functions=out.functions,
        nodes={0: node},
        saved={},
        units={0: typed.unit},
        max_age=max_age,
        terms=(typed.term,),
        until=-1,
    )


def _name(saved: Saved) -> str:
    return saved.text.removesuffix("@start")


class _Module:
    """Collects the functions of one generated module."""

    def __init__(
        self,
        runbook: Runbook | None,
        offsets: Offsets,
        given: frozenset[tuple[Kind, str]],
        constants: Constants,
        saved: list[str],
        *,
        scope: Kind = Kind.MARKET,
        max_age: Mapping[str, int] | None = None,
    ) -> None:
        self.runbook = runbook
        self.scope = runbook.scope if runbook else scope
        self.max_age = runbook.max_age if runbook else (max_age or {})
        self.offsets = offsets
        self.given = given
        self.constants = constants
        self.saved = saved
        self.text: list[str] = []
        self.functions: dict[str, Function] = {}

    def emitter(self) -> Emitter:
        return Emitter(self.scope, self.offsets, self.constants, self.given, self.max_age, self.saved)

    def add(self, name: str, emitter: Emitter, tail: list[str]) -> None:
        arguments = tuple(emitter.arguments)
        self.functions[name] = Function(name=name, arguments=arguments)
        self.text.append(f"\n\ndef {name}({', '.join((*arguments, *TAIL))}):")
        self.text += [*emitter.lines, *(f"    {line}" for line in tail)]

    def expression(self, index: int, typed: Typed) -> Node:
        emitter = self.emitter()
        last = emitter.value(typed.term, emitter.own)
        self.add(f"value_{index}", emitter, [f"return {last}"])
        node = emitter.node(typed.term, emitter.own)
        seen = [f"t{i}" for i in range(1, emitter.temporaries + 1)]
        inner = _loop_temporaries(emitter.lines)
        # Temporaries inside loops have no single value: they stand as NaN.
        shown = ["NAN" if t in inner else t for t in seen]
        self.add(f"trace_{index}", emitter, [f"return ({last}, {', '.join(shown)})" if shown else f"return ({last},)"])
        return node

    def saved_value(self, index: int, term: Term) -> None:
        emitter = self.emitter()
        last = emitter.value(term, emitter.own)
        self.add(f"saved_{index}", emitter, [f"return {last} * 1.0"])

    def observe(self, q: int) -> None:
        runbook = self.runbook
        assert runbook is not None
        trigger = runbook.trigger
        terms = [trigger.when.typed.term] + ([trigger.until.typed.term] if trigger.until else [])
        horizon = self.emitter()
        horizon.lines.insert(0, "    h = NOT_DUE")
        for term in terms:
            horizon.horizon(term, horizon.own)
        self.add("horizon", horizon, ["return h"])

        emitter = self.emitter()
        ints = emitter.own.ints
        if runbook.scope is Kind.POSITION:
            seen = f"{ints}[{seen_cell(Kind.POSITION, 'size')}]"
            size = f"{emitter.own.floats}[{SLOT[Kind.POSITION, 'size']}]"
            emitter.line(f"if {size} == 0.0 or {seen} == {NEVER}:")
            emitter.line(f"    return gone({ints}, {q})")
        when = emitter.value(terms[0], emitter.own)
        until = emitter.value(terms[1], emitter.own) if trigger.until else emitter.new(f"2 - {when}")
        fires_unknown = trigger.on_unknown == "fire"
        if fires_unknown:
            when = emitter.new(f"2 if {when} == 1 else {when}")
        always = fires_unknown or any(timed(term) for term in terms)
        if not always:
            emitter.line(f"s = {ints}[{q}]")
            emitter.line(f"if (s == 0 and {when} != 2) or (s == 2 and {until} != 2):")
            emitter.line("    return 0")
        for name in horizon.arguments:
            emitter.arguments.setdefault(name)
        called = ", ".join((*horizon.arguments, *TAIL))
        hold, until_hold = self.constants.number(("ns", "", trigger.for_ns)), self.constants.number(("ns", "", trigger.until_for_ns))
        self.add("observe", emitter, [f"return trigger({ints}, {q}, at, {when}, {until}, {hold}, {until_hold}, horizon({called}))"])


def _loop_temporaries(lines: list[str]) -> frozenset[str]:
    """The temporaries assigned inside loops only."""
    inside: set[str] = set()
    outside: set[str] = set()
    for line in lines:
        body = line.lstrip()
        name, equals, _ = body.partition(" = ")
        if equals and name.startswith("t") and name[1:].isdigit():
            (outside if len(line) - len(body) == 4 else inside).add(name)
    return frozenset(inside - outside)
