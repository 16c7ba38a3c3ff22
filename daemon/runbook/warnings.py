"""What is allowed and still doubtful (floor 3): static warnings of one runbook, of a set, and of a review that is overdue.

`of_runbook(runbook)` and `of_set(runbooks)` are diagnostics with the codes W001 to W009; `reefd check --strict` fails on them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from daemon.errors import Diagnostic
from daemon.language.syntax import Binary, Compare, Name, Node, Text
from daemon.language.terms import Apply, Constant, Read, Term
from daemon.runbook.document import Document
from daemon.runbook.model import Move, Pause, Rebalance, Runbook, Shrink, ShrinkAccount, Webhook
from daemon.runbook.read import REVIEW_DAYS
from daemon.units import show

# Signals that are wrong or missing exactly when a market breaks: a survival runbook that waits for them does not act when it must.
_PRICE_SIGNALS = frozenset(
    [
        "bid_price",
        "ask_price",
        "last_price",
        "mark_price",
        "index_price",
        "oracle_price",
        "mid_price",
        "spread",
        "basis",
        "oracle_divergence",
        "oracle_divergence_signed",
        "cross_venue_divergence",
        "oracle_stale_for",
    ]
)
_CONJUNCTIONS_MAX = 64


def _warning(runbook: Runbook, code: str, message: str, *keys: str) -> Diagnostic:
    """A warning at the first of the key paths that the file has."""
    line, column = next((runbook.positions[key] for key in keys if key in runbook.positions), (1, 1))
    document = Document(path=runbook.path, text=runbook.source)
    offset = document.starts[min(line, len(document.starts)) - 1] + column - 1
    word = document.line_text(line)[column - 1 :].split(" ", 1)[0].rstrip(",")
    return document.diagnostic(code, message, offset, offset + max(1, len(word)), severity="warning")


def _limits(runbook: Runbook) -> Iterator[Diagnostic]:
    limits = runbook.limits
    money = (
        limits.per_run_usd is not None
        or limits.per_day_usd is not None
        or limits.per_episode_usd is not None
        or limits.per_episode_ratio is not None
    )
    for step in runbook.all_steps():
        moves = isinstance(step.act, Shrink | ShrinkAccount | Move | Rebalance)
        if (moves and not money) or (isinstance(step.act, Webhook) and not money and limits.runs is None):
            example = "limits: {per_run: 25_000 USD, per_day: 60_000 USD}"
            message = f"the step '{step.id}' writes ({step.kind}) without a limit in money; write {example}"
            yield _warning(runbook, "W001", message, "limits", "steps")
            return


def _guards(runbook: Runbook) -> Iterator[Diagnostic]:
    if runbook.intent != "survival":
        return
    for i, guard in enumerate(runbook.guards):
        names = sorted({name for _, name in guard.typed.signals} & _PRICE_SIGNALS)
        if names:
            message = (
                f"the guard reads {', '.join(names)}: when prices break, a survival runbook would wait instead of acting; remove the guard"
            )
            yield _warning(runbook, "W003", message, f"guards[{i}]")


def _executors(runbook: Runbook) -> Iterator[Diagnostic]:
    for key, steps in (("steps", runbook.steps), ("on_clear", runbook.on_clear)):
        for i, step in enumerate(steps):
            if isinstance(step.act, Webhook) and step.verify is None:
                message = (
                    f"the executor '{step.act.endpoint}' cannot be looked up: it is called at most once, then a person is asked; "
                    "write verify: with what shows that it happened"
                )
                yield _warning(runbook, "W008", message, f"{key}[{i}].webhook")


# --- when against until ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Interval:
    """What a conjunction leaves of one value."""

    low: float = -math.inf
    high: float = math.inf
    low_open: bool = False
    high_open: bool = False

    @property
    def empty(self) -> bool:
        return self.low > self.high or (self.low == self.high and (self.low_open or self.high_open))

    def meet(self, other: _Interval) -> _Interval:
        low = max(self.low, other.low)
        high = min(self.high, other.high)
        low_open = (self.low_open and self.low == low) or (other.low_open and other.low == low)
        high_open = (self.high_open and self.high == high) or (other.high_open and other.high == high)
        return _Interval(low, high, low_open, high_open)


@dataclass(frozen=True, slots=True)
class _Conjunction:
    """Intervals by term, and whether parts of it could not be decided."""

    intervals: Mapping[Term, _Interval]
    partial: bool

    def meet(self, other: _Conjunction) -> _Conjunction | None:
        joined = dict(self.intervals)
        for term, interval in other.intervals.items():
            joined[term] = joined[term].meet(interval) if term in joined else interval
            if joined[term].empty:
                return None
        return _Conjunction(joined, self.partial or other.partial)


_FLIPPED = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_NEGATED = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def _atom(term: Apply, negated: bool) -> _Conjunction:
    left, right, op = *term.arguments, term.function
    if isinstance(left, Constant):
        left, right, op = right, left, _FLIPPED[op]
    op = _NEGATED[op] if negated else op
    if not isinstance(right, Constant) or isinstance(left, Constant) or op == "!=":
        return _Conjunction({}, True)
    bound = right.value
    interval = {
        "<": _Interval(high=bound, high_open=True), "<=": _Interval(high=bound), ">": _Interval(low=bound, low_open=True),
        ">=": _Interval(low=bound), "==": _Interval(low=bound, high=bound),
    }[op]  # fmt: skip
    return _Conjunction({left: interval}, False)


def _alternatives(term: Term, negated: bool = False) -> list[_Conjunction]:
    """The ways in which a condition is TRUE, as conjunctions; more than the bound = one that decides nothing."""
    match term:
        case Apply(function="not", arguments=(inside,)):
            return _alternatives(inside, not negated)
        case Apply(function="and" | "or", arguments=(left, right)):
            ways = _alternatives(left, negated), _alternatives(right, negated)
            if (term.function == "or") != negated:
                found = ways[0] + ways[1]
            else:
                met = [a.meet(b) for a in ways[0] for b in ways[1]]
                found = [way for way in met if way is not None]
            return found if len(found) <= _CONJUNCTIONS_MAX else [_Conjunction({}, True)]
        case Apply() if term.function in _FLIPPED:
            return [_atom(term, negated)]
        case Read():
            truth = 0.0 if negated else 1.0
            return [_Conjunction({term: _Interval(low=truth, high=truth)}, False)]
        case _:
            return [_Conjunction({}, True)]


def _overlap(runbook: Runbook) -> Iterator[Diagnostic]:
    """`until` that can be TRUE together with `when`: the instance would fire, clear and fire again on one value."""
    until = runbook.trigger.until
    if until is None:
        return
    entering, leaving = _alternatives(runbook.trigger.when.typed.term), _alternatives(until.typed.term)
    together = {term for way in entering for term in way.intervals} & {term for way in leaving for term in way.intervals}
    for a in entering:
        for b in leaving:
            shared = [term for term in a.intervals if term in b.intervals]
            undecided = not shared and (a.partial or b.partial or not together)
            if undecided or a.meet(b) is None:
                continue
            term = shared[0] if shared else next(iter(b.intervals), None)
            if term is None:
                continue
            both = a.intervals.get(term, _Interval()).meet(b.intervals[term])
            example = both.low if math.isfinite(both.low) else both.high
            message = (
                f"until can be TRUE while when still is, at {term.text} around {show(example, term.dimension.unit)}: "
                "it would fire, clear and fire again; "
                "write an until that starts where when has ended, with a distance"
            )
            yield _warning(runbook, "W005", message, "trigger.until")
            return


# --- filters --------------------------------------------------------------------------------------------------------------


def label_demands(node: Node | None) -> list[tuple[str, str, bool]]:
    """What every match fulfils: (label, text, equal) of the comparisons joined by `and`."""
    match node:
        case Binary(op="and", left=left, right=right):
            return label_demands(left) + label_demands(right)
        case Compare(ops=(op,), operands=(Name(name=name), Text(value=value)) | (Text(value=value), Name(name=name))):
            return [(name, value, op == "==")]
        case _:
            return []


def _contradict(demands: Sequence[tuple[str, str, bool]]) -> bool:
    equal: dict[str, str] = {}
    for label, value, same in demands:
        if same and equal.setdefault(label, value) != value:
            return True
    return any(not same and equal.get(label) == value for label, value, same in demands)


def _filters(runbook: Runbook) -> Iterator[Diagnostic]:
    if runbook.where is not None and _contradict(label_demands(runbook.where.node)):
        yield _warning(
            runbook, "W009", "no entity can match this filter: a label cannot have two values at once; write or between the values", "where"
        )


def of_runbook(runbook: Runbook) -> list[Diagnostic]:
    """The warnings that one runbook gives by itself."""
    found = [*_limits(runbook), *_guards(runbook), *_executors(runbook), *_overlap(runbook), *_filters(runbook)]
    if not runbook.tests:
        message = "the runbook has no tests; write tests: with what it must and must not do, and run `reefd test`"
        found.append(_warning(runbook, "W002", message, "runbook"))
    return found


# --- sets -----------------------------------------------------------------------------------------------------------------


def _resources(runbook: Runbook) -> set[str]:
    """What a runbook writes that another one may write too. Gates and cancellations may happen twice and are left out."""
    found: set[str] = set()
    for step in runbook.all_steps():
        match step.act:
            case Shrink() | ShrinkAccount():
                found.add("positions")
            case Move(source=source):
                found.add(f"the buffer on {source}")
            case _:
                pass
    return found


def _unlocked(runbooks: Sequence[Runbook]) -> Iterator[Diagnostic]:
    writers = [(runbook, _resources(runbook)) for runbook in runbooks if runbook.stage != "disabled"]
    writers = [(runbook, resources) for runbook, resources in writers if resources]
    for i, (later, theirs) in enumerate(writers):
        for earlier, ours in writers[:i]:
            shared = sorted(ours & theirs)
            if not shared or set(earlier.locks) & set(later.locks):
                continue
            demands = [label_demands(r.where.node) if r.where else [] for r in (earlier, later)]
            if _contradict(demands[0] + demands[1]):
                continue
            lock = "account" if shared == ["positions"] else "account (or chain:NAME)"
            message = f"'{later.id}' and '{earlier.id}' both write {' and '.join(shared)} and share no lock; write locks: [{lock}] in both"
            yield _warning(later, "W006", message, "locks", "steps")


def _cycle(edges: Mapping[str, set[str]], start: str) -> list[str] | None:
    """A way from `start` back to itself, None when there is none."""
    stack, seen = [(start, [start])], {start}
    while stack:
        at, way = stack.pop()
        for target in sorted(edges.get(at, ())):
            if target == start:
                return way
            if target not in seen:
                seen.add(target)
                stack.append((target, [*way, target]))
    return None


def _loops(runbooks: Sequence[Runbook]) -> Iterator[Diagnostic]:
    by_id = {runbook.id: runbook for runbook in runbooks}
    holds: dict[str, set[str]] = {}
    moves: dict[str, set[str]] = {}
    mover: dict[tuple[str, str], Runbook] = {}
    for runbook in runbooks:
        for other in runbook.inhibited_by:
            holds.setdefault(other, set()).add(runbook.id)
        for step in runbook.all_steps():
            if isinstance(step.act, Pause) and step.act.runbook != runbook.id:
                holds.setdefault(runbook.id, set()).add(step.act.runbook)
            if isinstance(step.act, Move) and step.act.destination:
                moves.setdefault(step.act.source, set()).add(step.act.destination)
                mover.setdefault((step.act.source, step.act.destination), runbook)
    yield from _named_loops(holds, {}, by_id, "hold each other back (pause or inhibited_by): neither may ever act; remove one of them")
    yield from _named_loops(moves, mover, by_id, "move money in a circle: what one moves the next moves back; remove one of the moves")


def _named_loops(
    edges: Mapping[str, set[str]], mover: Mapping[tuple[str, str], Runbook], by_id: Mapping[str, Runbook], says: str
) -> Iterator[Diagnostic]:
    done: set[frozenset[str]] = set()
    for start in sorted(edges):
        way = _cycle(edges, start)
        if way is None or frozenset(way) in done:
            continue
        done.add(frozenset(way))
        if mover:
            runbook = mover[way[0], way[1] if len(way) > 1 else way[0]]
            names = sorted({mover[a, b].id for a, b in zip(way, [*way[1:], way[0]], strict=True)})
            yield _warning(runbook, "W007", f"{' and '.join(names)} {says}", "steps")
        elif start in by_id:
            yield _warning(by_id[start], "W007", f"{' and '.join(sorted(way))} {says}", "inhibited_by", "steps")


def of_set(runbooks: Sequence[Runbook]) -> list[Diagnostic]:
    """The warnings that only a set of runbooks gives."""
    return [*_unlocked(runbooks), *_loops(runbooks)]


def overdue(runbooks: Iterable[Runbook], as_of: date) -> list[Diagnostic]:
    """The reviews that were due before `as_of`; a review never disarms a runbook."""
    found = []
    for runbook in runbooks:
        if runbook.review_every is None or runbook.review_last is None:
            continue
        last = date.fromisoformat(runbook.review_last)
        days = REVIEW_DAYS[runbook.review_every]
        if last > date.max - timedelta(days=days):
            continue
        due = last + timedelta(days=days)
        if as_of > due:
            was = f"{due.isoformat()} (a {runbook.review_every} after {runbook.review_last})"
            message = f"the review was due on {was}; review it and write last: {as_of.isoformat()}"
            found.append(_warning(runbook, "W004", message, "review.last"))
    return found
