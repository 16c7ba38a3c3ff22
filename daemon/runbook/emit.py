"""Typed terms to straight-line source (floor 3): what the generated program is made of.

A function gets arenas of rows, constants (`K` floats, `N` ints, `B` staleness bounds by signal), the run's frame `S`, the plan's
names `X`, scratch `W`, its own row number `e` and the time `at`. No short circuit: every operand is computed, in three-valued logic.
Text is emitted within what a nopython compiler takes: no `**`, `%` or `//` on floats, no builtin sum, min, max or round, guarded division.
"""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from daemon.language.catalogue import CATALOGUE
from daemon.language.slots import ASSET, GLOBAL, HEADER, LINKS, NAME, SLOT, VALUED, seen_cell
from daemon.language.terms import (
    Apply,
    Constant,
    Derived,
    Elsewhere,
    Names,
    Over,
    Planned,
    Read,
    Saved,
    Stateful,
    Term,
    Window,
    walk,
)
from daemon.language.typing import PLAN_NAMES
from daemon.units import NEVER, NS
from daemon.world.entities import Kind

GUARDED_KINDS = (Kind.MARKET, Kind.POSITION, Kind.ACCOUNT, Kind.VENUE)  # kinds whose readings a dead venue makes UNKNOWN
LIVENESS = ("block_age", "venue_up")  # but for these, which tell of it
SHARED = ("venue", "chain", "portfolio")  # relations that lead to the same row whatever the way
TICK_NS = NS  # how often a verdict is looked at that depends on time in a way no crossing can be computed for

Number = tuple[str, str, int] | tuple[str, Kind, str] | tuple[str, tuple[tuple[Kind, str], ...], int]
"""An int constant that linking resolves: ("ns", "", n), ("name", text, 0), ("row", kind, id), ("skew", signals, 0)."""


class Offsets(Protocol):
    """Where windows and accumulators live; given by the engine's layout, append-only."""

    def window(self, kind: Kind, window: Window, max_age: Mapping[str, int]) -> int:
        """Offset in F of the window's output on rows of `kind`; `window.argument` is relative to that row."""

    def stateful(self, kind: Kind, term: Stateful, max_age: Mapping[str, int]) -> tuple[int, int]:
        """Offsets in F and I of an accumulator."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row variable of the function under emission: kind, and the names of its number, its F and its I."""

    kind: Kind
    number: str
    floats: str
    ints: str
    path: tuple[str, ...] | None = None  # relations from the function's own row; None inside loops and for named entities


@dataclass(frozen=True, slots=True)
class Node:
    """One node of an explanation: its text, unit, the temporary that holds its value (-1: `constant`), and what it was made of."""

    text: str
    unit: str
    temporary: int
    constant: float
    role: str  # reading | derived | window | compare | logic | number | set | start | plan
    signal: str
    age: int  # temporary of the reading's age in seconds, -1 none
    kids: tuple[Node, ...]


@dataclass(slots=True)
class Constants:
    """Constants of one program, shared by its functions."""

    floats: list[float] = field(default_factory=list)
    numbers: list[Number] = field(default_factory=list)

    def real(self, value: float) -> str:
        """The expression of a float constant. Each literal has a place of its own, also where two are equal: the text must not change
        when a threshold does."""
        self.floats.append(value)
        return f"K[{len(self.floats) - 1}]"

    def number(self, spec: Number) -> str:
        """The expression of an int constant; durations have a place each, as literals have."""
        if spec[0] == "ns" or spec not in self.numbers:
            self.numbers.append(spec)
            return f"N[{len(self.numbers) - 1}]"
        return f"N[{self.numbers.index(spec)}]"


_COMPARE = {"<", "<=", ">", ">=", "==", "!="}
_KERNELS = {"repaid_in", "liquidation_price_of", "liquidation_distance_of", "margin_ratio_of", "survivable_move_of", "time_to_move"}
_CLOCKS = {"age": 1, "steady_for": 1, "since_change": 1, "frozen_for": 1, "until_next": -1}


class Emitter:
    """Emits the lines of one function; `arguments` collects the arenas and member lists it needs."""

    def __init__(
        self,
        kind: Kind,
        offsets: Offsets,
        constants: Constants,
        given: frozenset[tuple[Kind, str]],
        max_age: Mapping[str, int],
        saved: Sequence[str] = (),
    ) -> None:
        self.offsets = offsets
        self.constants = constants
        self.given = given
        self.max_age = max_age
        self.saved = list(saved)
        self.lines: list[str] = []
        self.indent = 1
        self.temporaries = 0
        self.loops = 0
        self.arguments: dict[str, None] = {}
        self.memo: ChainMap[tuple[Term, str], str] = ChainMap()
        self.rows: ChainMap[tuple[str, str], Row] = ChainMap()
        self.pairs: ChainMap[tuple[str, ...], str] = ChainMap()
        self.horizons: set[tuple[str, str]] = set()
        self.arguments |= {"F0": None, "I0": None}
        self.own = Row(kind, "e", "F0", "I0", ())

    # --- lines and rows -----------------------------------------------------------------------------------------------
    def line(self, text: str) -> None:
        """Append one line at the present indentation."""
        self.lines.append("    " * self.indent + text)

    def new(self, expression: str) -> str:
        """A new temporary holding an expression."""
        self.temporaries += 1
        name = f"t{self.temporaries}"
        self.line(f"{name} = {expression}")
        return name

    def open_row(self, kind: Kind, number: str) -> Row:
        """Row views of row `number` of a kind's arena."""
        floats, ints = f"{kind.value}_F", f"{kind.value}_I"
        self.arguments |= {floats: None, ints: None}
        row = Row(kind, number, f"F{number}", f"I{number}")
        self.line(f"{row.floats} = {floats}[{number}]")
        self.line(f"{row.ints} = {ints}[{number}]")
        return row

    def row(self, origin: Row, relation: str) -> Row:
        """The row reached from another by a relation; one that hangs on the function's own row is handed to it, not looked up."""
        if relation == "":
            return origin
        kind = Kind.CHAIN if relation in ("from", "to") else Kind(relation)
        if origin.path is not None:
            path = (relation,) if relation in SHARED else (*origin.path, relation)
            tag = "_".join(path)
            self.arguments |= {f"F_{tag}": None, f"I_{tag}": None}
            return Row(kind, f"r_{tag}", f"F_{tag}", f"I_{tag}", path)
        key = (origin.number, relation)
        if key not in self.rows:
            self.loops += 1
            number = f"r{self.loops}"
            self.line(f"{number} = {origin.ints}[{LINKS[relation]}]" if kind is not Kind.PORTFOLIO else f"{number} = 1")
            self.rows[key] = self.open_row(kind, number)
        return self.rows[key]

    def enter(self, members: str, origin: Row, kind: Kind) -> Row:
        """Open a loop over a set of rows; what is computed inside stays inside."""
        listed = f"{members}_of_{origin.kind.value}"
        self.arguments[listed] = None
        self.loops += 1
        number = f"m{self.loops}"
        if origin.path:
            self.arguments[origin.number] = None
        self.line(f"for {number} in {listed}[{origin.number}]:")
        self.indent += 1
        self.memo = self.memo.new_child()
        self.rows = self.rows.new_child()
        self.pairs = self.pairs.new_child()
        return self.open_row(kind, number)

    def leave(self) -> None:
        """Close the innermost loop."""
        self.indent -= 1
        self.memo = self.memo.parents
        self.rows = self.rows.parents
        self.pairs = self.pairs.parents

    def bound(self, kind: Kind, signal: str) -> str:
        """The expression of a reading's staleness bound."""
        return f"B[{GLOBAL[kind, signal]}]"

    # --- values -------------------------------------------------------------------------------------------------------
    def value(self, term: Term, row: Row) -> str:
        """The expression (a temporary or a constant) of a term relative to a row."""
        if isinstance(term, Constant):
            return self.constants.real(term.value)
        term, row = self.near(term, row)
        key = (term, row.number)
        if key not in self.memo:
            self.memo[key] = self.emit(term, row)
        return self.memo[key]

    def near(self, term: Term, row: Row) -> tuple[Term, Row]:
        """A reading of a related row as a reading of that row's own, so that both are one temporary."""
        if isinstance(term, Read | Derived) and term.relation:
            return rebase(term, term.relation), self.row(row, term.relation)
        return term, row

    def emit(self, term: Term, row: Row) -> str:
        """Lines for one term; its expression."""
        match term:
            case Read():
                return self.reading(term.kind, term.signal, self.row(row, term.relation))
            case Derived():
                at = self.row(row, term.relation)
                if (term.kind, term.signal) in self.given:
                    return self.reading(term.kind, term.signal, at)
                return self.value(term.body, at)
            case Saved():
                if term.text.removesuffix("@start") not in self.saved:
                    self.saved.append(term.text.removesuffix("@start"))
                then = self.new(f"S[{self.saved.index(term.text.removesuffix('@start'))}]")
                if term.dimension.truth:
                    return self.new(f"1 if {then} != {then} or {then} == 1.0 else (2 if {then} == 2.0 else 0)")
                return then
            case Planned():
                return self.new(f"X[{PLAN_NAMES.index(term.name)}]")
            case Window():
                return self.window(term, row)
            case Stateful():
                return self.accumulated(term, row)
            case Over():
                return self.over(term, row)
            case Elsewhere():
                self.loops += 1
                number = f"x{self.loops}"
                self.line(f"{number} = {self.constants.number(('row', term.kind, term.entity))}")
                return self.value(term.body, self.open_row(term.kind, number))
            case Names():
                return self.constants.number(("name", term.value, 0))
            case Apply():
                return self.apply(term, row)
            case Constant():
                return self.constants.real(term.value)

    def reading(self, kind: Kind, signal: str, row: Row) -> str:
        """A fresh reading of a row, NaN when stale, missing or its venue is dead."""
        bound = self.bound(kind, signal)
        fresh = f"at <= {row.ints}[{seen_cell(kind, signal)}] + {bound}"
        if kind in GUARDED_KINDS and signal not in LIVENESS:
            fresh += f" and {row.ints}[1] <= {bound}"
        x = self.new(f"{row.floats}[{SLOT[kind, signal]}] if {fresh} else NAN")
        if is_truth(kind, signal):
            return self.new(f"1 if {x} != {x} else (2 if {x} != 0.0 else 0)")
        return x

    def owner(self, argument: Term, row: Row) -> tuple[Row, Term]:
        """The row a window's samples live on, and the argument relative to it: the one related row it reads, else its own."""
        relations = reached(argument)
        if len(relations) == 1 and (relation := next(iter(relations))) not in ("", "?"):
            return self.row(row, relation), rebase(argument, relation)
        return row, argument

    def window(self, term: Window, row: Row) -> str:
        """The output of a window, UNKNOWN while its argument is."""
        owner, argument = self.owner(term.argument, row)
        output = self.offsets.window(
            owner.kind, Window(term.function, argument, term.duration_ns, term.rank, term.dimension, term.text), self.max_age
        )
        x = self.value(argument, owner)
        known = f"{x} != 1" if argument.dimension.truth else f"{x} == {x}"
        return self.new(f"{owner.floats}[{output}] if {known} else NAN")

    def accumulated(self, term: Stateful, row: Row) -> str:
        """What an accumulator says at `at`."""
        floats, ints = self.offsets.stateful(row.kind, term, self.max_age)
        values = [self.value(a, row) for a in term.arguments]
        x = values[0]
        match term.function:
            case "steady_for":
                cell = f"{row.ints}[{ints}]"
                return self.new(f"(elapsed({cell}, at) if {cell} > 0 else NAN) if {x} == 2 else (0.0 if {x} == 0 else NAN)")
            case "since_change":
                cell = f"{row.ints}[{ints}]"
                return self.new(f"NAN if {x} != {x} else (elapsed({cell}, at) if {cell} > 0 else INF)")
            case _:
                return self.new(f"frozen_time({row.floats}, {row.ints}, {floats}, {ints}, at, {', '.join(values)})")

    def over(self, term: Over, row: Row) -> str:
        """An aggregate over a set, as a loop."""
        origin = self.row(row, "market") if term.members == "peers" and row.kind is not Kind.MARKET else row
        own = self.value(term.own, row) if term.own is not None else ""
        self.temporaries += 1
        total = f"t{self.temporaries}"
        count = f"n{self.temporaries}"
        self.line(f"{total} = {'0.0' if term.function in ('sum_over', 'mean_over') else 'NAN'}")
        self.line(f"{count} = 0")
        member = self.enter(term.members, origin, term.kind)
        x = self.value(term.body, member)
        if x.startswith("K"):
            x = self.new(x)
        match term.function:
            case "sum_over":
                self.line(f"{total} = {total} + {x}")
            case "mean_over":
                self.line(f"if {x} == {x}:")
                self.line(f"    {total} = {total} + {x}")
                self.line(f"    {count} += 1")
            case "min_over" | "max_over":
                better = "<" if term.function == "min_over" else ">"
                self.line(f"if {x} == {x} and ({total} != {total} or {x} {better} {total}):")
                self.line(f"    {total} = {x}")
            case "count_over":
                # A condition counts the members on which it is TRUE, a value the members of which it is known; neither known: UNKNOWN.
                truth = term.body.dimension.truth
                self.line(f"if {f'{x} != 1' if truth else f'{x} == {x}'}:")
                self.line(f"    {total} = ({total} if {total} == {total} else 0.0) + {f'{x} * 0.5' if truth else '1.0'}")
            case _:
                near = ""
                if term.function == "median_near":
                    skew = self.constants.number(("skew", ((Kind.MARKET, "bid_price"),), 0))
                    cell = seen_cell(Kind.MARKET, "bid_price")
                    near = f" and -{skew} <= {member.ints}[{cell}] - {origin.ints}[{cell}] <= {skew}"
                self.line(f"if {x} == {x}{near}:")
                self.line(f"    W[{count}] = {x}")
                self.line(f"    {count} += 1")
        self.leave()
        match term.function:
            case "mean_over":
                self.line(f"{total} = {total} / {count} if {count} > 0 else NAN")
            case "median_over":
                self.line(f"{total} = median(W, {count})")
            case "median_near":
                self.line(f"{total} = median(W, {count}) if {count} >= 2 and {own} == {own} else NAN")
        return total

    def apply(self, term: Apply, row: Row) -> str:
        """An operator or function over its operands."""
        function = term.function
        if function == "age":
            return self.age(term.arguments[0], row)
        if function == "aligned":
            return self.aligned(term, row)
        if function == "valued":
            first = GLOBAL[Kind.MARKET, next(s for (k, s) in SLOT if k is Kind.MARKET)]
            return self.new(f"valued({row.floats}, {row.ints}, B, {VALUED}, {first}, {HEADER}, at)")
        if function == "where_told":
            read = term.arguments[0]
            assert isinstance(read, Read)
            never = f"{self.row(row, read.relation).ints}[{seen_cell(read.kind, read.signal)}] == {NEVER}"
            return self.new(f"0.0 if {never} else {self.value(read, row)}")
        if function == "reachable_from":
            chain = self.row(row, "from")
            name, *rest = (self.value(a, row) for a in term.arguments)
            return self.new(f"reachable({chain.ints}[{NAME}] == {name}, {', '.join(rest)})")
        if function == "of_asset":
            name, x = (self.value(a, row) for a in term.arguments)
            return self.new(f"{x} if {row.ints}[{ASSET}] == {name} else 0.0")
        if function == "share_of_asset":
            asset = term.arguments[0]
            return self.constants.real(1.0 if isinstance(asset, Names) and asset.value == "USDC" else 0.0)
        values = [self.value(a, row) for a in term.arguments]
        truths = [a.dimension.truth for a in term.arguments]
        match function:
            case "+" | "-" | "*" | "/":
                return self.arithmetic(term, values)
            case "neg":
                return self.new(f"-{values[0]}")
            case "not":
                return self.new(f"2 - {values[0]}")
            case "and":
                a, b = values
                return self.new(f"{a} if {a} < {b} else {b}")
            case "or":
                a, b = values
                return self.new(f"{a} if {a} > {b} else {b}")
            case "known":
                return self.new(f"0 if {values[0]} == 1 else 2" if truths[0] else f"2 if {values[0]} == {values[0]} else 0")
            case "abs":
                return self.new(f"{values[0]} if {values[0]} >= 0.0 else -{values[0]}")
            case "sign":
                x = values[0]
                return self.new(f"1.0 if {x} > 0.0 else (-1.0 if {x} < 0.0 else (0.0 if {x} == 0.0 else NAN))")
            case "sqrt":
                return self.new(f"sqrt({values[0]}) if {values[0]} >= 0.0 else NAN")
            case "least" | "greatest":
                return self.least(values, "<" if function == "least" else ">")
            case "clamp":
                x, low, high = values
                inner = self.new(f"NAN if {x} != {x} or {low} != {low} else ({low} if {x} < {low} else {x})")
                return self.new(f"NAN if {inner} != {inner} or {high} != {high} else ({high} if {inner} > {high} else {inner})")
            case "coalesce":
                chain_of = values[-1]
                for x in reversed(values[:-1]):
                    chain_of = f"{x} if {x} == {x} else ({chain_of})"
                return self.new(chain_of)
            case "enough":
                return self.new(f"1.0 if {values[0]} >= {values[1]} else NAN")
            case "until_next":
                return self.new(f"until_next({values[0]}, at)")
            case "stranded_of":
                return self.new(f"0.0 if {values[0]} == 2 else ({values[1]} if {values[0]} == 0 else NAN)")
            case _ if function in _COMPARE:
                return self.compare(function, term, values)
            case _:
                assert function in _KERNELS, function
                return self.new(f"{function}({', '.join(values)})")

    def arithmetic(self, term: Apply, values: list[str]) -> str:
        """`+ - * /` in catalogue units; overflow and division by zero are UNKNOWN."""
        a, b = values
        scale = {1: " * 3600.0", -1: " / 3600.0"}.get(term.factor, "" if term.factor == 0 else f" * {3600.0**term.factor!r}")
        if term.function == "/":
            x = self.new(f"{a} / {b}{scale} if {b} != 0.0 else NAN")
        else:
            x = self.new(f"{a} {term.function} {b}{scale}")
        self.line(f"if {x} - {x} != 0.0:")
        self.line(f"    {x} = finite({a}, {b}, {x})")
        return x

    def least(self, values: list[str], better: str) -> str:
        """Smallest or largest of several values; UNKNOWN when one is."""
        x = values[0]
        for y in values[1:]:
            x = self.new(f"NAN if {x} != {x} or {y} != {y} else ({x} if {x} {better} {y} else {y})")
        return x

    def compare(self, op: str, term: Apply, values: list[str]) -> str:
        """A comparison in three-valued logic."""
        unknown = " or ".join(f"{v} != {v}" for v in dict.fromkeys(values) if not v.startswith("K"))
        a, b = values
        verdict = f"2 if {a} {op} {b} else 0"
        return self.new(f"1 if {unknown} else ({verdict})" if unknown else verdict)

    def aligned(self, term: Apply, row: Row) -> str:
        """The first price, UNKNOWN when the times of any two of the prices differ by more than the skew allowed."""
        values = [self.value(a, row) for a in term.arguments]
        reads = [a for a in term.arguments if isinstance(a, Read)]
        assert len(reads) == len(values)
        places = [(self.row(row, r.relation), (r.kind, r.signal)) for r in reads]
        checks = [self.together(*places[i], *places[j]) for i in range(len(places)) for j in range(i + 1, len(places))]
        return self.new(f"{values[0]} if {' and '.join(checks)} else NAN")

    def together(self, row: Row, signal: tuple[Kind, str], other: Row, second: tuple[Kind, str]) -> str:
        """True while the times of two readings differ by no more than the skew allowed; one temporary for each pair."""
        (row, signal), (other, second) = sorted(((row, signal), (other, second)), key=lambda item: (item[0].number, item[1]))
        key = (row.number, *signal, other.number, *second)
        if key not in self.pairs:
            skew = self.constants.number(("skew", (signal, second), 0))
            self.pairs[key] = self.new(f"-{skew} <= {row.ints}[{seen_cell(*signal)}] - {other.ints}[{seen_cell(*second)}] <= {skew}")
        return self.pairs[key]

    def age(self, term: Term, row: Row) -> str:
        """Seconds since the oldest reading a term is made of was true; infinite when one was never seen."""
        cells = []
        for read, at in self.direct(term, row):
            age = f"elapsed({at.ints}[{seen_cell(read.kind, read.signal)}], at)"
            cells.append(self.new(age))
            if read.kind in GUARDED_KINDS and read.signal not in LIVENESS:
                cells.append(self.new(f"{at.ints}[1] / 1e9"))
        if not cells:
            return self.constants.real(0.0)
        x = cells[0]
        for y in cells[1:]:
            x = self.new(f"{x} if {x} > {y} else {y}")
        return x

    def direct(self, term: Term, row: Row) -> list[tuple[Read, Row]]:
        """The readings a term is made of outside of sets, each with its row."""
        match term:
            case Read():
                return [(term, self.row(row, term.relation))]
            case Derived():
                at = self.row(row, term.relation)
                if (term.kind, term.signal) in self.given:
                    return [(Read(term.kind, "", term.signal, term.dimension, term.text), at)]
                return self.direct(term.body, at)
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                return [item for a in arguments for item in self.direct(a, row)]
            case Window(argument=argument):
                return self.direct(argument, row)
            case _:
                return []

    # --- when can a verdict change by itself ---------------------------------------------------------------------------
    def horizon(self, term: Term, row: Row) -> None:
        """Lines that lower `h` to the next time at which the value of a term can change without an observation."""
        mark = (row.number, repr(term)) if self.indent == 1 else ("", "")
        if mark[0]:
            if mark in self.horizons:
                return
            self.horizons.add(mark)
        match term:
            case Read():
                at = self.row(row, term.relation)
                self.line(f"h = sooner(h, {at.ints}[{seen_cell(term.kind, term.signal)}], {self.bound(term.kind, term.signal)}, at)")
            case Derived():
                at = self.row(row, term.relation)
                if (term.kind, term.signal) in self.given:
                    self.line(f"h = sooner(h, {at.ints}[{seen_cell(term.kind, term.signal)}], {self.bound(term.kind, term.signal)}, at)")
                else:
                    self.horizon(term.body, at)
            case Apply(function="valued"):
                first = GLOBAL[Kind.MARKET, next(s for (k, s) in SLOT if k is Kind.MARKET)]
                self.line(f"h = valued_horizon(h, {row.ints}, B, {VALUED}, {first}, {HEADER}, at)")
            case Apply(function=function, arguments=arguments) if function in _COMPARE:
                for clock, bound in (arguments, arguments[::-1]):
                    slope = clock_slope(clock)
                    if slope:
                        x, y = self.value(clock, row), self.value(bound, row)
                        if slope < 0:
                            wraps = self.new(f"crossing(at, 0.0, {x})")
                            self.line(f"if {wraps} < h:")
                            self.line(f"    h = {wraps}")
                            x, y = y, x
                        c = self.new(f"crossing(at, {x}, {y})")
                        self.line(f"if {c} < h:")
                        self.line(f"    h = {c}")
                    elif _timed(clock):
                        self.line(f"h = sooner(h, at, {TICK_NS}, at)")
                    self.horizon(clock, row)
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                for argument in arguments:
                    self.horizon(argument, row)
            case Window(argument=argument):
                self.horizon(argument, row)
            case Over():
                origin = self.row(row, "market") if term.members == "peers" and row.kind is not Kind.MARKET else row
                member = self.enter(term.members, origin, term.kind)
                self.horizon(term.body, member)
                self.leave()
            case Elsewhere():
                self.loops += 1
                number = f"x{self.loops}"
                self.line(f"{number} = {self.constants.number(('row', term.kind, term.entity))}")
                self.horizon(term.body, self.open_row(term.kind, number))
            case _:
                pass

    # --- explanation --------------------------------------------------------------------------------------------------
    def node(self, term: Term, row: Row) -> Node:
        """The explanation of a term: only what was computed on straight lines; call after `value`."""
        term, row = self.near(term, row)
        held = "" if isinstance(term, Constant) else self.memo.get((term, row.number), "")
        temporary = int(held[1:]) if held.startswith("t") else -1
        constant = (
            term.value
            if isinstance(term, Constant)
            else (self.constants.floats[int(held[2:-1])] if held.startswith("K[") else float("nan"))
        )
        role, signal, age = "number", "", -1
        kids: tuple[Node, ...] = ()
        match term:
            case Constant():
                role = "number" if term.name else "constant"  # a param's value does not stand in the text
            case Read():
                role, signal = "reading", term.signal
                at = self.row(row, term.relation)
                age = int(self.new(f"elapsed({at.ints}[{seen_cell(term.kind, term.signal)}], at)")[1:])
            case Derived():
                role, signal = "derived", term.signal
                at = self.row(row, term.relation)
                if (term.kind, term.signal) in self.given:
                    role = "reading"
                else:
                    kids = self.nodes_of(term.body, at)
            case Saved():
                role = "start"
            case Planned():
                role = "plan"
            case Window():
                role = "window"
                owner, argument = self.owner(term.argument, row)
                kids = (self.node(argument, owner),)
            case Over():
                role = "set"
            case Elsewhere():
                role = "set"
            case Apply():
                role = "compare" if term.function in _COMPARE else "logic" if term.function in ("and", "or", "not") else "number"
                if term.function != "age":
                    kids = tuple(self.node(a, row) for a in term.arguments if not isinstance(a, Names))
            case Stateful():
                kids = tuple(self.node(a, row) for a in term.arguments)
            case Names():
                role = "constant"
        return Node(term.text, "truth" if term.dimension.truth else term.dimension.unit, temporary, constant, role, signal, age, kids)

    def nodes_of(self, body: Term, row: Row) -> tuple[Node, ...]:
        """The readings and derived signals directly inside the derivation of a signal."""
        match body:
            case Read() | Derived():
                return (self.node(body, row),)
            case Apply(arguments=arguments) | Stateful(arguments=arguments):
                found: dict[str, Node] = {}
                for argument in arguments:
                    for node in self.nodes_of(argument, row):
                        found.setdefault(node.text, node)
                return tuple(found.values())
            case Window(argument=argument):
                owner, moved = self.owner(argument, row)
                return self.nodes_of(moved, owner)
            case _:
                return ()


def is_truth(kind: Kind, signal: str) -> bool:
    """True for signals of unit bool."""
    return CATALOGUE[kind, signal].unit == "bool"


def reached(term: Term) -> set[str]:
    """The relations a term reads directly; "?" for sets and named entities."""
    match term:
        case Read(relation=relation) | Derived(relation=relation):
            return {relation}
        case Over():
            return {"", "?"}
        case Elsewhere():
            return {"?"}
        case Apply(function="valued"):
            return {""}
        case Apply(arguments=arguments) | Stateful(arguments=arguments):
            return {r for a in arguments for r in reached(a)}
        case Window(argument=argument):
            return reached(argument)
        case _:
            return set()


def rebase(term: Term, relation: str) -> Term:
    """The same term relative to the row at `relation`, which is the only one it reads."""
    match term:
        case Read():
            return Read(term.kind, "", term.signal, term.dimension, term.text)
        case Derived():
            return Derived(term.kind, "", term.signal, term.body, term.dimension, term.text)
        case Apply():
            return Apply(term.function, tuple(rebase(a, relation) for a in term.arguments), term.dimension, term.text, term.factor)
        case Window():
            return Window(term.function, rebase(term.argument, relation), term.duration_ns, term.rank, term.dimension, term.text)
        case _:
            return term


def clock_slope(term: Term) -> int:
    """1 for a term that grows by 1 s a second, -1 for one that falls, 0 otherwise."""
    match term:
        case Derived(body=body):
            return clock_slope(body)
        case Apply(function=function) | Stateful(function=function):
            return _CLOCKS.get(function, 0)
        case _:
            return 0


def _timed(term: Term) -> bool:
    return any(isinstance(t, Apply | Stateful) and t.function in _CLOCKS for t in walk(term))


def timed(term: Term) -> bool:
    """True when the verdict of a term can become TRUE by the passing of time alone: a clock crosses a bound, a reading stops being known,
    a set goes on without a member that went stale, or a fallback takes the place of a reading that did."""
    for inner in walk(term):
        match inner:
            case Apply(function="known" | "coalesce" | "valued"):
                return True
            case Over(function=function) if function != "sum_over":
                return True
            case _:
                pass
    return _timed(term)
