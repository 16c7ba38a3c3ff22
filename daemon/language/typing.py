"""Dimensions and names of an expression (floor 2): syntax tree to typed term, every problem at once.

`check(parse("paid > 5bps/h"), text, Scope(kind=Kind.POSITION))` is a `Typed`; raises `ExpressionError`.
"""

from __future__ import annotations

import difflib
import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.language import dimension as dim
from daemon.language.catalogue import CATALOGUE, RELATIONS, SETS, Signal
from daemon.language.dimension import Dimension, noun, of_unit
from daemon.language.parse import parse
from daemon.language.problems import ExpressionError, Problem
from daemon.language.syntax import Binary, Call, Compare, Literal, Name, Node, Text, Unary
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
    children,
    walk,
)
from daemon.units import NS, show
from daemon.world.entities import Kind

TRUTH = of_unit("bool")
NUMBER = of_unit("1")
RATIO = of_unit("ratio")
SECONDS = of_unit("s")
NOTHING = Dimension(flavour="either")  # the dimension of a term with a problem, and of the bare literal 0

WINDOWS = ("mean", "std", "zscore", "min", "max", "sum", "count", "change", "pct_change", "ewma", "quantile", "share", "slope")
SCALARS = ("abs", "sign", "sqrt", "least", "greatest", "clamp")
OVERS = ("median_over", "sum_over", "min_over", "max_over", "mean_over", "count_over")
PLAN_NAMES = ("notional_change", "amount", "fee_estimate")
WINDOW_MIN_OBSERVATIONS = {"std": 12, "zscore": 12, "quantile": 12, "slope": 2}

# Functions of the catalogue's own derivations: (unit of the value or None = of the first argument, number of arguments or None)
_INTERNAL: Mapping[str, tuple[str | None, int | None]] = {
    "where_told": (None, 1),
    "coalesce": (None, None), "aligned": (None, None), "enough": ("1", 2), "valued": ("price", 0), "until_next": ("s", 1),
    "repaid_in": ("s", 2), "liquidation_price_of": ("price", 5), "liquidation_distance_of": ("ratio", 5), "margin_ratio_of": ("ratio", 2),
    "survivable_move_of": ("ratio", 3), "time_to_move": ("s", 2), "share_of_asset": ("ratio", 1), "on_chain": ("USD", 2),
    "reachable_from": ("USD", 5), "of_asset": ("USD", 2), "stranded_of": ("USD", 2),
}  # fmt: skip
_STATEFUL = {"steady_for": 1, "since_change": 1, "frozen_for": 3}


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Where an expression stands: the kind of its entity, the params, the lets before it, and which special names it may use.

    A param's constant carries its literal as text and its own name; NaN of no dimension stands for one whose definition is wrong.
    """

    kind: Kind
    lets: Mapping[str, Typed] = field(default_factory=dict)
    in_steps: bool = False
    plan: bool = False
    max_age: Mapping[str, int] = field(default_factory=dict)
    internal: bool = False
    parameters: tuple[Term, ...] = ()
    params: Mapping[str, Constant] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Typed:
    """A checked expression: its term, dimension, unit, and every `(kind, signal)` it names."""

    term: Term
    text: str

    @property
    def dimension(self) -> Dimension:
        """The dimension of the value."""
        return self.term.dimension

    @property
    def unit(self) -> str:
        """The catalogue's unit of the value; `bool` for a condition."""
        return self.term.dimension.unit

    @property
    def signals(self) -> frozenset[tuple[Kind, str]]:
        """The signals named in the text, derived ones by their own name (their inputs are not listed)."""
        return frozenset(_named(self.term))

    @property
    def saved(self) -> tuple[Saved, ...]:
        """Every `name@start` it uses."""
        return tuple(dict.fromkeys(t for t in walk(self.term) if isinstance(t, Saved)))


def _named(term: Term) -> set[tuple[Kind, str]]:
    if isinstance(term, Read | Derived):
        return {(term.kind, term.signal)}
    return {item for child in children(term) for item in _named(child)}


class _Checker:
    """One pass over one expression; collects problems instead of stopping at the first."""

    def __init__(self, text: str, scope: Scope) -> None:
        self.text = text
        self.scope = scope
        self.problems: list[Problem] = []

    def fail(self, node: Node, code: str, message: str) -> Term:
        self.problems.append(Problem(node.start, max(node.end, node.start + 1), code, message))
        return Constant(math.nan, NOTHING, self.slice(node))

    def slice(self, node: Node) -> str:
        return self.text[node.start : node.end]

    # --- nodes --------------------------------------------------------------------------------------------------------
    def term(self, node: Node, kind: Kind) -> Term:
        match node:
            case Literal(value=value, unit=unit):
                zero = value == 0.0 and unit == "1"
                return Constant(value, NOTHING if zero else of_unit(unit), self.slice(node))
            case Text():
                return self.fail(
                    node,
                    "E015",
                    f'the text {node.value!r} has no value here; texts name entities, as in signal("dydx:BTC-USD", mark_price)',
                )
            case Name():
                return self.name(node, kind)
            case Unary(op="not", operand=operand):
                return Apply("not", (self.truth(operand, kind, "not"),), TRUTH, self.slice(node))
            case Unary(operand=operand):
                inside = self.number(operand, kind, "'-'")
                return Apply("neg", (inside,), inside.dimension, self.slice(node))
            case Binary(op="and" | "or"):
                left, right = self.truth(node.left, kind, node.op), self.truth(node.right, kind, node.op)
                return Apply(node.op, (left, right), TRUTH, self.slice(node))
            case Binary():
                return self.arithmetic(node, kind)
            case Compare():
                return self.comparison(node, kind)
            case Call():
                return self.call(node, kind)

    def truth(self, node: Node, kind: Kind, role: str) -> Term:
        inside = self.term(node, kind)
        if inside.dimension.truth or inside.dimension is NOTHING:
            return inside
        return self.fail(
            node,
            "E015",
            f"{role} joins conditions, found {noun(inside.dimension)}: {self.slice(node)!r}; write a comparison, such as one with >",
        )

    def number(self, node: Node, kind: Kind, role: str) -> Term:
        inside = self.term(node, kind)
        if not inside.dimension.truth:
            return inside
        return self.fail(node, "E015", f"{role} takes numbers, found the truth {self.slice(node)!r}; a bool is no number")

    def arithmetic(self, node: Binary, kind: Kind) -> Term:
        left, right = self.number(node.left, kind, f"'{node.op}'"), self.number(node.right, kind, f"'{node.op}'")
        text = self.slice(node)
        if _broken(left) or _broken(right):
            return Constant(math.nan, NOTHING, text)  # told already: what follows from it would only mislead
        if node.op == "*":
            factor = dim.time_factor(left.dimension, right.dimension, divide=False)
            return Apply("*", (left, right), dim.product(left.dimension, right.dimension), text, factor)
        if node.op == "/":
            factor = dim.time_factor(left.dimension, right.dimension, divide=True)
            return Apply("/", (left, right), dim.quotient(left.dimension, right.dimension), text, factor)
        for number, other in ((left, right), (right, left)):
            # The bare literal 1 may be added to a ratio, and the result stays a ratio.
            bare = isinstance(number, Constant) and not number.name and number.value == 1.0 and number.dimension == NUMBER
            if bare and other.dimension == RATIO:
                return Apply(node.op, (left, right), RATIO, text)
        joined = self.joined((node.left, node.right), (left, right), f"'{node.op}'")
        return Apply(node.op, (left, right), joined, text)

    def joined(self, nodes: tuple[Node, ...], terms: tuple[Term, ...], role: str) -> Dimension:
        """The common dimension of terms that are compared or added; a problem at the first that differs."""
        known = [(n, t) for n, t in zip(nodes, terms, strict=True) if t.dimension is not NOTHING]
        if not known:
            return NOTHING
        first_node, first = known[0]
        # Problems point at the literal where there is one: that is what has to be rewritten.
        for node, other in known[1:]:
            if dim.same(first.dimension, other.dimension):
                if first.dimension.flavour == "either" and other.dimension.dimensionless:
                    first = other
                continue
            if isinstance(first, Constant) and not isinstance(other, Constant):
                self.mismatch(node, other, first_node, first)
            else:
                self.mismatch(first_node, first, node, other)
            return NOTHING
        return first.dimension

    def mismatch(self, node: Node, right: Term, culprit: Node, wrong: Term) -> None:
        found = (
            f"the {noun(wrong.dimension).split(' ', 1)[1]} {self.slice(culprit)}"
            if isinstance(wrong, Constant) and not wrong.name
            else f"{noun(wrong.dimension)}: {_shown(wrong, self.slice(culprit))}"
        )
        self.fail(
            culprit,
            "E014",
            f"{self.slice(node)} is {noun(right.dimension)}, found {found}; {_advice(right.dimension, wrong, self.slice(culprit))}",
        )

    def comparison(self, node: Compare, kind: Kind) -> Term:
        terms = []
        for operand in node.operands:
            inside = self.term(operand, kind)
            if inside.dimension.truth:
                written = self.slice(operand)
                inside = self.fail(operand, "E015", f"{written} is a truth and compares with nothing; write {written} or not {written}")
            terms.append(inside)
        pairs = []
        for i, op in enumerate(node.ops):
            pair, nodes = (terms[i], terms[i + 1]), (node.operands[i], node.operands[i + 1])
            self.joined(nodes, pair, f"'{op}'")
            self.reachable(node, pair, op)
            text = self.slice(node) if len(node.ops) == 1 else self.text[nodes[0].start : nodes[1].end]
            pairs.append(Apply(op, pair, TRUTH, text))
        return functools.reduce(lambda a, b: Apply("and", (a, b), TRUTH, self.slice(node)), pairs)

    def reachable(self, node: Compare, pair: tuple[Term, Term], op: str) -> None:
        """A z-score of n observations never exceeds (n - 1) / sqrt(n): a threshold beyond it can never be TRUE."""
        if op not in (">", ">=", "<", "<="):
            return
        z, bound = pair
        upwards = op in (">", ">=")
        if isinstance(z, Constant):
            z, bound, upwards = bound, z, not upwards
        if not isinstance(bound, Constant):
            return
        threshold = bound.value if upwards else -bound.value
        if isinstance(z, Apply) and z.function == "abs" and upwards:
            z = z.arguments[0]
        if not (isinstance(z, Window) and z.function == "zscore" and isinstance(z.argument, Read)):
            return
        cadence = CATALOGUE[z.argument.kind, z.argument.signal].cadence_ns
        count = z.duration_ns // cadence if cadence else 0
        if count >= 1 and threshold >= (count - 1) / math.sqrt(count):
            reach = (count - 1) / math.sqrt(count)
            message = (
                f"{z.text} has {count} observations at the signal's cadence of {show(cadence / NS, 's')}:"
                f" it never exceeds {reach:.2f} either way"
            )
            self.fail(node, "E016", f"{message}, found {bound.text}; write a longer window or a lower threshold")

    # --- names --------------------------------------------------------------------------------------------------------
    def name(self, node: Name, kind: Kind) -> Term:
        scope = self.scope
        if not node.scope and node.name in scope.lets and kind is scope.kind:
            term = scope.lets[node.name].term
        elif not node.scope and node.name in scope.params:
            known = scope.params[node.name]
            term = Constant(known.value, known.dimension, self.slice(node), known.name)
        elif not node.scope and node.name in PLAN_NAMES and scope.plan:
            term = Planned(node.name, of_unit("USD"), self.slice(node))
        elif node.name in ("true", "false") and not node.scope:
            return self.fail(node, "E015", f"{node.name!r} is no value of the language; write the condition itself, or not in front of it")
        else:
            term = self.signal(node, node.scope, node.name, (), kind)
        if not node.at_start:
            return term
        if isinstance(term, Constant) and term.name:
            return self.fail(node, "E018", f"{node.name} is a param and never changes; write {node.name}")
        if not scope.in_steps:
            return self.fail(
                node, "E018", f"{self.slice(node)} is the value at the start of a run; outside of steps there is no run, write {node.name}"
            )
        if isinstance(term, Planned):
            return self.fail(node, "E018", f"{node.name} belongs to the plan and has no value at the start; write {node.name}")
        return Saved(self.slice(node)[: -len("@start")], term, term.dimension, self.slice(node))

    def signal(self, node: Name | Call, prefix: str, name: str, arguments: tuple[Term, ...], kind: Kind) -> Term:
        places = [("", kind), *RELATIONS[kind]]
        if prefix:
            chosen = [
                (relation, target) for relation, target in places if relation == prefix or (relation == "" and target.value == prefix)
            ]
            if not chosen:
                known = ", ".join(r or kind.value for r, _ in places)
                return self.fail(node, "E011", f"{prefix!r} is not reached from a {kind.value}; scopes are {known}")
            places = chosen
        found = [(relation, CATALOGUE[target, name]) for relation, target in places if (target, name) in CATALOGUE]
        found = [(relation, signal) for relation, signal in found if self.scope.internal or not signal.internal]
        fitting = [item for item in found if len(item[1].arguments) == len(arguments)]
        if not found:
            return self.unknown(node, name, places)
        if not fitting:
            wants = ", ".join(found[0][1].arguments) or "no arguments"
            return self.fail(node, "E013", f"{name} takes {wants}; found {len(arguments)} argument{'s' if len(arguments) != 1 else ''}")
        relation, chosen_signal = fitting[0]
        if kind is Kind.ROUTE and len(fitting) > 1 and fitting[1][1].kind is chosen_signal.kind and relation == "from":
            return self.fail(node, "E012", f"{name} is found at from. and to. of a route, equally near; write from.{name} or to.{name}")
        for argument, wanted in zip(arguments, chosen_signal.arguments, strict=True):
            is_duration = isinstance(argument, Constant) and argument.dimension == SECONDS and argument.value > 0
            if isinstance(argument, Constant) and argument.dimension is NOTHING:
                return argument  # told already
            if is_duration != (wanted == "duration"):
                example = {"duration": "24h", "chain": "ethereum", "asset": "BTC"}[wanted]
                shape = f"{name}({', '.join({'duration': '24h', 'chain': 'ethereum', 'asset': 'BTC'}[a] for a in chosen_signal.arguments)})"
                noun_of = {"duration": "a duration above 0", "chain": "the name of a chain", "asset": "the name of an asset"}[wanted]
                return self.fail(node, "E013", f"{name} takes {noun_of} such as {example}, found {argument.text!r}; write {shape}")
        if chosen_signal.role == "display" and not self.scope.internal:
            return self.fail(node, "E011", f"{name} is for display only and may not be read by a runbook")
        return _signal_term(chosen_signal, relation, arguments, self.slice(node))

    def unknown(self, node: Name | Call, name: str, places: list[tuple[str, Kind]]) -> Term:
        reachable = {s.name for (k, _), s in CATALOGUE.items() if k in {t for _, t in places} and not s.internal and s.role != "display"}
        elsewhere = sorted({k.value for (k, n), s in CATALOGUE.items() if n == name and not s.internal})
        near = difflib.get_close_matches(
            name, [*reachable, *self.scope.lets, *self.scope.params, *WINDOWS, *SCALARS, *OVERS, "age", "known", "signal"], n=1, cutoff=0.6
        )
        if elsewhere:
            return self.fail(
                node, "E011", f"{name!r} belongs to a {' or '.join(elsewhere)} and is not reached from a {self.scope.kind.value}"
            )
        if name in PLAN_NAMES:
            return self.fail(node, "E011", f"{name!r} is only known in by, amount, text and approval.when of a step")
        hint = f"; did you mean {near[0]}?" if near else "; see the signal catalogue, docs/signals.md"
        return self.fail(node, "E011", f"unknown name {name!r}{hint}")

    # --- calls --------------------------------------------------------------------------------------------------------
    def call(self, node: Call, kind: Kind) -> Term:
        if node.scope:
            return self.parametrised(node, kind)
        name = node.name
        if name in WINDOWS:
            return self.window(node, kind)
        if name in SCALARS:
            return self.scalar(node, kind)
        if name in OVERS or (name == "median_near" and self.scope.internal):
            return self.over(node, kind)
        if name == "signal":
            return self.elsewhere(node, kind)
        if name in ("age", "known"):
            if not self.arity(node, 1):
                return self.fail(node, "E013", f"{name} takes one argument, found {len(node.args)}")
            inside = self.term(node.args[0], kind)
            return Apply(name, (inside,), SECONDS if name == "age" else TRUTH, self.slice(node))
        if self.scope.internal and (name in _INTERNAL or name in _STATEFUL or name == "volatility"):
            return self.own(node, kind)
        return self.parametrised(node, kind)

    def arity(self, node: Call, count: int) -> bool:
        return len(node.args) == count

    def parametrised(self, node: Call, kind: Kind) -> Term:
        arguments: list[Term] = []
        for argument in node.args:
            match argument:
                case Name() if (known := self.param(argument)) is not None and known.dimension == SECONDS:
                    # Its literal stands in the name of the derived signal: two lengths are two signals.
                    arguments.append(Constant(known.value, SECONDS, known.text))
                case Name(name=name) | Text(value=name):
                    arguments.append(Names(name, NOTHING, name))
                case Literal(unit="s"):
                    arguments.append(Constant(argument.value, SECONDS, argument.text))
                case _:
                    arguments.append(self.fail(argument, "E013", f"{node.name} takes a name or a duration, found {self.slice(argument)!r}"))
        return self.signal(node, node.scope, node.name, tuple(arguments), kind)

    def param(self, node: Node) -> Constant | None:
        """The param that a node names, None for anything else."""
        named = isinstance(node, Name) and not node.scope and not node.at_start
        return self.scope.params.get(node.name) if named and isinstance(node, Name) else None

    def literal(self, node: Node) -> tuple[float, str] | None:
        """Value and unit of a literal or a param, None for what is neither; NaN for a param whose definition is wrong."""
        if isinstance(node, Literal):
            return node.value, node.unit
        known = self.param(node)
        return None if known is None else (known.value, known.dimension.unit)

    def duration(self, node: Node) -> int:
        found = self.literal(node)
        if found is not None and math.isnan(found[0]):
            return NS  # told already
        if found is not None and found[1] == "s" and found[0] > 0:
            return round(found[0] * NS)
        known = self.param(node)
        if known is not None:
            message = f"a window's length is a duration above 0, found {noun(known.dimension)}: {_shown(known, self.slice(node))}"
            self.fail(node, "E013", f"{message}; give the param a default such as 24h")
            return NS
        self.fail(node, "E013", f"a window's length is a duration literal above 0, found {self.slice(node)!r}; write for example 24h")
        return NS

    def window(self, node: Call, kind: Kind) -> Term:
        name = node.name
        count = 3 if name == "quantile" else 2
        if not self.arity(node, count):
            shape = "quantile(x, 99%, 7d)" if name == "quantile" else f"{name}({'condition' if name == 'share' else 'x'}, 24h)"
            return self.fail(node, "E013", f"{name} takes {count} arguments, found {len(node.args)}; write {shape}")
        duration = self.duration(node.args[-1])
        rank = 0.0
        if name == "quantile":
            literal = self.literal(node.args[1])
            told = literal is not None and math.isnan(literal[0])
            if not told and not (literal is not None and literal[1] in ("ratio", "1") and 0.0 <= literal[0] <= 1.0):
                found = self.slice(node.args[1])
                return self.fail(
                    node.args[1],
                    "E013",
                    f"the rank of a quantile is a ratio literal from 0% to 100%, found {found!r}; write for example 99%",
                )
            rank = literal[0] if literal is not None and not told else 0.0
        argument = self.truth(node.args[0], kind, name) if name == "share" else self.number(node.args[0], kind, name)
        if any(isinstance(t, Saved | Planned) for t in walk(argument)):
            return self.fail(node.args[0], "E019", f"a window reads signals, {self.slice(node.args[0])!r} belongs to a run")
        if _broken(argument):
            return argument
        return Window(name, argument, duration, rank, _window_dimension(name, argument.dimension), self.slice(node))

    def scalar(self, node: Call, kind: Kind) -> Term:
        name, count = node.name, len(node.args)
        wants = {"least": (2, 20), "greatest": (2, 20), "clamp": (3, 3)}.get(name, (1, 1))
        if not wants[0] <= count <= wants[1]:
            least = "at least 2" if wants[1] == 20 else str(wants[0])
            return self.fail(node, "E013", f"{name} takes {least} argument{'s' if wants[0] > 1 else ''}, found {count}")
        terms = tuple(self.number(argument, kind, name) for argument in node.args)
        text = self.slice(node)
        if any(_broken(term) for term in terms):
            return Constant(math.nan, NOTHING, text)
        if name == "sign":
            return Apply(name, terms, NUMBER, text)
        if name == "sqrt":
            inside = terms[0].dimension
            if not inside.dimensionless:
                return self.fail(node, "E014", f"sqrt takes a ratio or a number, found {noun(inside)}; divide it by its own unit first")
            return Apply(name, terms, inside, text)
        return Apply(name, terms, self.joined(node.args, terms, name), text)

    def over(self, node: Call, kind: Kind) -> Term:
        name = node.name
        if len(node.args) != (3 if name == "median_near" else 2):
            return self.fail(
                node,
                "E013",
                f"{name} takes a set and an expression, found {len(node.args)} arguments; write for example {name}(peers, mid_price)",
            )
        which = node.args[0]
        if not isinstance(which, Name) or which.name not in SETS or which.scope or which.at_start:
            return self.fail(which, "E013", f"{self.slice(which)!r} is no set; write one of {', '.join(SETS)}")
        if which.name == "peers" and not (kind is Kind.MARKET or "market" in {r for r, _ in RELATIONS[kind]}):
            return self.fail(which, "E013", f"peers are the same market on other venues; a {kind.value} has none")
        member = SETS[which.name]
        body = self.term(node.args[1], member)
        if name == "count_over":
            return Over(name, which.name, member, body, None, NUMBER, self.slice(node))
        if body.dimension.truth:
            return self.fail(
                node.args[1],
                "E015",
                f"{name} takes numbers, found the truth {self.slice(node.args[1])!r}; write count_over to count known members",
            )
        own = self.term(node.args[2], kind) if name == "median_near" else None
        return Over(name, which.name, member, body, own, body.dimension, self.slice(node))

    def elsewhere(self, node: Call, kind: Kind) -> Term:
        if not self.arity(node, 2) or not isinstance(node.args[0], Text):
            return self.fail(node, "E013", 'signal takes an entity in quotes and a signal; write signal("dydx:BTC-USD", mark_price)')
        entity = node.args[0].value
        named = next((n.name for n in [node.args[1]] if isinstance(n, Name | Call)), "")
        kinds = [k for k in _kinds_of(entity) if (k, named) in CATALOGUE] or _kinds_of(entity)
        body = self.term(node.args[1], kinds[0])
        return Elsewhere(kinds[0], entity, body, body.dimension, self.slice(node))

    def own(self, node: Call, kind: Kind) -> Term:
        """The functions that only the catalogue's derivations use."""
        text = self.slice(node)
        if node.name == "on_chain":
            chain = self.parameter(node.args[0], kind)
            assert isinstance(chain, Names)
            body = self.term(node.args[1], Kind.CHAIN)
            return Elsewhere(Kind.CHAIN, chain.value, body, body.dimension, text)
        terms = tuple(self.parameter(argument, kind) for argument in node.args)
        if node.name == "volatility":
            assert isinstance(terms[1], Constant)
            return Window("volatility", terms[0], round(terms[1].value * NS), 0.0, RATIO, text)
        if node.name in _STATEFUL:
            assert len(terms) == _STATEFUL[node.name], text
            return Stateful(node.name, terms, SECONDS, text)
        unit, count = _INTERNAL[node.name]
        assert count is None or len(terms) == count, text
        if node.name == "coalesce":
            return Apply("coalesce", terms, self.joined(node.args, terms, "coalesce"), text)
        return Apply(node.name, terms, terms[0].dimension if unit is None else of_unit(unit), text)

    def parameter(self, node: Node, kind: Kind) -> Term:
        if isinstance(node, Name) and node.name.startswith("parameter_"):
            return self.scope.parameters[int(node.name.removeprefix("parameter_"))]
        return self.term(node, kind)


def _shown(term: Term, text: str) -> str:
    """A term's own text; a param's with the literal it stands for."""
    if isinstance(term, Constant) and term.name:
        return f"the param {term.name}"
    return text


def _broken(term: Term) -> bool:
    """True for what stands in the place of something that was told as a problem."""
    return isinstance(term, Constant) and math.isnan(term.value)


def _kinds_of(entity: str) -> list[Kind]:
    """The kinds an entity id can be of, likeliest first."""
    if ":" in entity:
        return [Kind.MARKET, Kind.POSITION]
    if entity == "portfolio":
        return [Kind.PORTFOLIO]
    return [Kind.VENUE, Kind.CHAIN, Kind.ACCOUNT, Kind.ROUTE, Kind.BUCKET]


def _window_dimension(name: str, argument: Dimension) -> Dimension:
    match name:
        case "zscore" | "count":
            return NUMBER
        case "share" | "pct_change":
            return RATIO
        case "slope":
            return dim.quotient(argument, SECONDS)
        case _:
            return argument


def _signal_term(signal: Signal, relation: str, arguments: tuple[Term, ...], text: str) -> Term:
    dimension = of_unit(signal.unit)
    if signal.role == "observed":
        return Read(signal.kind, relation, signal.name, dimension, text)
    body = derivation(signal.kind, signal.name, arguments)
    shown = signal.name + (f"({', '.join(a.text for a in arguments)})" if arguments else "")
    return Derived(signal.kind, relation, shown, body, dimension, text)


@functools.cache
def derivation(kind: Kind, name: str, arguments: tuple[Term, ...] = ()) -> Term:
    """The term a derived signal stands for, relative to its own entity; parameters `$0 $1` are replaced by `arguments`."""
    text = CATALOGUE[kind, name].derivation
    for i in range(len(arguments)):
        text = text.replace(f"${i}", f"parameter_{i}")
    scope = Scope(kind=kind, internal=True, parameters=arguments)
    checker = _Checker(text, scope)
    term = checker.term(parse(text), kind)
    if checker.problems:
        raise AssertionError(f"derivation of {kind.value}.{name}: {checker.problems}")
    return term


def _advice(wanted: Dimension, wrong: Term, text: str) -> str:
    if not isinstance(wrong, Constant):
        return f"write a value in {wanted.unit}"
    if wrong.name:
        return f"give the param {wrong.name} a default in {wanted.unit}, or write another name"
    number = text.split("%")[0].split("/")[0].replace("bps", "").split(" ")[0]
    digits = (
        number if number and (number[-1].isdigit() or number[-1] == "_") else "".join(c for c in number if c.isdigit() or c in "._") or "1"
    )
    unit = wrong.dimension.unit
    match wanted.unit:
        case "rate/h":
            return f"write {text.split('/')[0] if unit == 'ratio' else digits + '%'}/h"
        case "ratio" if isinstance(wrong, Constant) and unit == "1" and 0 < abs(wrong.value) < 1:
            return f"write {show(wrong.value, 'ratio')}"
        case "ratio":
            return f"write {text.split('/')[0] if unit == 'rate/h' else digits + '%'}"
        case "USD":
            return f"write {digits} USD"
        case "price":
            return f"write {digits} price"
        case "base":
            return f"write {digits} base"
        case "s":
            return f"write {digits}s, {digits}m or {digits}h"
        case "gwei":
            return f"write {digits} gwei"
        case "1":
            return f"write {digits}"
        case _:
            return f"write a value in {wanted.unit}"


def check(node: Node, text: str, scope: Scope, expect: str | tuple[str, ...] | None = None) -> Typed:
    """The typed expression of a syntax tree; `expect` is its unit (or units), "bool" for a condition. Raises ExpressionError."""
    checker = _Checker(text, scope)
    term = checker.term(node, scope.kind)
    if not checker.problems and expect is not None:
        wanted = (expect,) if isinstance(expect, str) else expect
        found = term.dimension
        free = found is NOTHING and "bool" not in wanted  # the bare literal 0 has every dimension
        if (
            not free
            and found.unit not in wanted
            and not (found.flavour == "either" and found.dimensionless and set(wanted) & {"1", "ratio"})
        ):
            whole = text.strip()
            if wanted == ("bool",):
                checker.fail(
                    node, "E015", f"a condition is wanted, found {noun(found)}: {whole!r}; write a comparison such as {whole} > ..."
                )
            else:
                nouns = " or ".join(dim.NOUNS[unit] for unit in wanted)
                advice = (
                    _advice(of_unit(wanted[0]), term, whole) if isinstance(term, Constant) else f"write a value in {' or '.join(wanted)}"
                )
                checker.fail(node, "E014", f"{nouns} is wanted, found {noun(found)}: {whole}; {advice}")
    if checker.problems:
        raise ExpressionError(checker.problems)
    return Typed(term, text)
