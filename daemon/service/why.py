"""Why an instance is where it is, and why not (floor 7): what its trigger, its end and its guards come to now, in words and as trees.

    view = why(engine, "funding-spike", "dydx:BTC-USD", clock.now())
    view.sentence     # not firing: funding_rate is 0.012%/h, 0.038%/h below 0.05%/h

Runs on the loop's own thread and changes nothing. An entity that was never seen has no instance: `why` raises LookupError.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.engine.contract import TriggerState
from daemon.engine.engine import Engine
from daemon.engine.state import Memory, instance_of
from daemon.engine.turn import Turn, members
from daemon.language.catalogue import BLOCK_AGE_LIMIT_S
from daemon.language.explain import describe
from daemon.runbook.model import Runbook
from daemon.service.holds import held_back
from daemon.service.verdict import (
    TRUE,
    Tree,
    ago,
    comparisons,
    holding,
    in_words,
    lacking,
    missing_readings,
    moment,
    name_of,
    nearness,
    verdict_of,
)
from daemon.service.views import Condition, WhyNode, WhyView
from daemon.service.whynode import node_of
from daemon.units import FOREVER, NEVER, NS, iso
from daemon.world.entities import Kind

COMPARED_MAX = 200  # instances that one search for the nearest evaluates; more of them are left to the rounds
BEHIND_MAX = 50  # positions that are looked through for what an account lacks
ACCOUNT_SUMS = ("gross", "equity", "initial_margin", "maintenance_margin", "net_delta")


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One quantity that a trigger compares: its value now (None unknown), and the bounds of `when` and of `until` (None: not compared)."""

    text: str
    value: float | None
    unit: str
    when: float | None
    until: float | None


def why(engine: Engine, runbook: str, entity: str, at: int) -> WhyView:
    """Where the trigger of an instance stands and why, and what holds it back. Raises LookupError when there is no such instance."""
    turn = engine.look(at)
    book = turn.current(runbook)
    if book is None:
        raise LookupError(f"no runbook {runbook!r} is in force; in force are {', '.join(sorted(engine.cold.in_force)) or 'none'}")
    if book.stage == "disabled":
        return _disabled(book, entity)
    if not _is_instance(turn, book, entity):
        raise LookupError(f"{runbook} has no instance on {entity!r}: it is about each {book.scope}" + _meant(book))
    state = engine.hot.state(runbook, entity, lacking=False)
    when = turn.hot.trace(runbook, book.trigger.when.index, entity, turn.at)
    until = turn.hot.trace(runbook, book.trigger.until.index, entity, turn.at) if book.trigger.until else None
    conditions = [Condition(name="when", verdict=verdict_of(when), tree=node(when))]
    if until is not None:
        conditions.append(Condition(name="until", verdict=verdict_of(until), tree=node(until)))
    guards = [turn.hot.trace(runbook, guard.index, entity, turn.at) for guard in book.guards]
    conditions += [Condition(name="guard", verdict=verdict_of(guard), tree=node(guard)) for guard in guards]
    back = held_back(turn, book, entity)
    memory = engine.cold.memories.get(instance_of(runbook, entity), Memory())
    sentence = _sentence(turn, book, entity, state, when, until)
    leaving = state.status in ("firing", "clearing")
    since = _since(turn, book, entity, state)
    return WhyView(
        runbook=runbook,
        title=book.title,
        entity=entity,
        stage=book.stage,
        state=state.status,
        sentence=sentence,
        since=iso(since) if since > 0 else None,
        held_s=state.held_ns / NS,
        hold_s=(book.trigger.until_for_ns if leaving else book.trigger.for_ns) / NS,
        conditions=tuple(conditions),
        held_back=back,
        last_run=memory.last_run,
        last_status=memory.last_status,
        last_reason=memory.last_reason,
        lines=tuple(_lines(sentence, when, until, guards, back)),
    )


def nearest(engine: Engine, runbook: str, at: int, among: Sequence[str] = ()) -> str:
    """The instance of a runbook that is nearest to firing: firing before pending before the smallest distance; "" when it has none.

    Looks at no more than COMPARED_MAX instances; `among` names those to look at first.
    """
    turn = engine.look(at)
    book = turn.current(runbook)
    if book is None or book.stage == "disabled":
        return ""
    own = [entity for _, entity in engine.hot.instances(runbook)]
    known = set(own)
    first = [entity for entity in among if entity in known]
    looked = list(dict.fromkeys([*first, *own]))[:COMPARED_MAX]
    moving = [e for e in own if engine.hot.state(runbook, e, lacking=False).status != "inactive"]
    ranks = {"firing": 0, "clearing": 1, "pending": 2, "inactive": 3}

    def rank(entity: str) -> tuple[int, float, str]:
        status = engine.hot.state(runbook, entity, lacking=False).status
        far = nearness(turn.hot.trace(runbook, book.trigger.when.index, entity, turn.at))
        return ranks[status], far, entity

    return min(dict.fromkeys([*moving[:COMPARED_MAX], *looked]), key=rank, default="")


def compared(engine: Engine, runbook: str, entity: str, at: int) -> tuple[Compared, ...]:
    """The quantities that a trigger compares, with what they are compared with now; none where there is no such instance."""
    turn = engine.look(at)
    book = turn.current(runbook)
    if book is None or book.stage == "disabled" or not _is_instance(turn, book, entity):
        return ()
    found: dict[str, Compared] = {}
    for name, expression in (("when", book.trigger.when), ("until", book.trigger.until)):
        if expression is None:
            continue
        for item in comparisons(turn.hot.trace(runbook, expression.index, entity, turn.at)):
            text = name_of(item)
            before = found.get(text)
            bound = item.bound["value"]
            found[text] = Compared(
                text=text,
                value=item.quantity["value"],
                unit=item.unit,
                when=bound if name == "when" else before.when if before else None,
                until=bound if name == "until" else before.until if before else None,
            )
    return tuple(found.values())


def node(tree: Tree) -> WhyNode:
    """A fresh trace as a view."""
    found = node_of(tree)
    assert found is not None, "a trace has a text"
    return found


def _disabled(book: Runbook, entity: str) -> WhyView:
    sentence = "not judged: its stage is disabled"
    return WhyView(
        runbook=book.id, title=book.title, entity=entity, stage=book.stage, state="inactive", sentence=sentence, since=None, held_s=0.0,
        hold_s=book.trigger.for_ns / NS, conditions=(), held_back=("its stage is disabled: it is not judged at all",), last_run="",
        last_status="", last_reason="", lines=(sentence,),
    )  # fmt: skip


def _is_instance(turn: Turn, book: Runbook, entity: str) -> bool:
    """True for an entity that the runbook is, or lately was, about; naming any other must not make a row of it."""
    if not turn.hot.knows(book.scope, entity):
        return False
    return turn.hot.has(book.id, entity) or instance_of(book.id, entity) in turn.cold.episodes


def _meant(book: Runbook) -> str:
    where = f" where {book.where.text}" if book.where is not None else ""
    return f"{where} that was seen{' with a size' if book.scope is Kind.POSITION else ''}"


def _since(turn: Turn, book: Runbook, entity: str, state: TriggerState) -> int:
    """Since when an instance is in its state; 0 when that was never told."""
    if state.status == "pending":
        return state.pending_at
    if state.status in ("firing", "clearing"):
        return state.fired_at
    episode = turn.cold.episodes.get(instance_of(book.id, entity))
    return episode.cleared_at or 0 if episode is not None else 0


def _sentence(turn: Turn, book: Runbook, entity: str, state: TriggerState, when: Tree, until: Tree | None) -> str:
    """One line that says where the trigger stands and what it takes to go on."""
    verdict = verdict_of(when)
    made = _joined([in_words(leaf, turn.at) for leaf in holding(when)])
    match state.status:
        case "pending":
            left = max(0, book.trigger.for_ns - state.held_ns) / NS
            held = f"held {ago(state.held_ns / NS)} of {ago(book.trigger.for_ns / NS)}"
            if verdict == "TRUE":
                return f"pending: {made}; {held}, fires in {ago(left)} if it stays so"
            return f"pending, its hold stands at {held}: {_lacking(turn, book, entity, when)}"
        case "firing":
            ends = _ending(turn, book, entity, when, until)
            begun = f"firing since {moment(state.fired_at)} ({ago((turn.at - state.fired_at) / NS)})"
            cause = made if verdict == "TRUE" else f"its condition is {verdict} now, {_lacking(turn, book, entity, when)}"
            return f"{begun}: {cause}; {ends}"
        case "clearing":
            left = max(0, book.trigger.until_for_ns - state.held_ns) / NS
            return f"clearing: its end has held {ago(state.held_ns / NS)} of {ago(book.trigger.until_for_ns / NS)}, over in {ago(left)}"
        case _:
            prefix = "cannot be judged" if verdict == "UNKNOWN" else "not firing"
            if verdict == "TRUE":
                return f"not firing yet: {made}; judged when the next reading arrives"
            return f"{prefix}: {_lacking(turn, book, entity, when)}"


def _ending(turn: Turn, book: Runbook, entity: str, when: Tree, until: Tree | None) -> str:
    """What it takes for a firing trigger to clear."""
    leaves = lacking(until) if until is not None else lacking(when, wanted=False)
    text = book.trigger.until.text if book.trigger.until else f"not ({book.trigger.when.text})"
    if not leaves:
        return f"its end ({text}) holds"
    return f"clears when {text}: {_joined([_leaf(turn, book, entity, leaf) for leaf in leaves])}"


def _lacking(turn: Turn, book: Runbook, entity: str, tree: Tree) -> str:
    leaves = lacking(tree)
    unknown = [leaf for leaf in leaves if leaf["value"] not in (0.0, TRUE)]
    return _joined([_leaf(turn, book, entity, leaf) for leaf in (unknown or leaves)])


def _leaf(turn: Turn, book: Runbook, entity: str, leaf: Tree) -> str:
    """A leaf in words; where it is a sum over positions that is unknown, what of which position is missing."""
    words = in_words(leaf, turn.at)
    if leaf["value"] in (0.0, TRUE):
        return words
    sums = [item for item in missing_readings(leaf) if item["signal"] in ACCOUNT_SUMS]
    behind = behind_account(turn, book, entity) if sums else ""
    blind = _blind(turn, book, entity)
    return words + (f" ({behind})" if behind else "") + (f" ({blind})" if blind else "")


def behind_account(turn: Turn, book: Runbook, entity: str) -> str:
    """What of an account's positions is missing, so that its sums are unknown; empty when that cannot be told."""
    account = entity if book.scope is Kind.ACCOUNT else turn.entity(book.scope, entity).links.get("account", "")
    found = []
    for position in members(turn, Kind.ACCOUNT, account, "positions")[:BEHIND_MAX]:
        market = turn.entity(Kind.POSITION, position).links.get("market", "")
        needed = ((Kind.POSITION, position, "size"), (Kind.POSITION, position, "entry_price"), (Kind.MARKET, market, "value_price"),
                  (Kind.MARKET, market, "mmf"))  # fmt: skip
        for kind, name, signal in needed:
            value = turn.hot.glance(kind, name, signal, turn.at, book.max_age)
            if value != value:
                found.append(f"{signal.replace('value_price', 'price')} of {name}")
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return f"unknown: {', '.join(found[:3])}{more}" if found else ""


def _blind(turn: Turn, book: Runbook, entity: str) -> str:
    """That the entity's venue is blind, where it is: then everything of it is UNKNOWN."""
    venue = entity if book.scope is Kind.VENUE else turn.entity(book.scope, entity).links.get("venue", "")
    if not venue or not turn.hot.knows(Kind.VENUE, venue) or turn.hot.seen_at(Kind.VENUE, venue, "block_age") == NEVER:
        return ""
    age = turn.hot.glance(Kind.VENUE, venue, "block_age", turn.at, {"block_age": FOREVER - 1})
    return f"the last block of {venue} is {ago(age)} old: all its readings are unknown" if age > BLOCK_AGE_LIMIT_S else ""


def _joined(parts: Sequence[str]) -> str:
    unique = list(dict.fromkeys(parts))
    more = f" and {len(unique) - 3} more" if len(unique) > 3 else ""
    return "; ".join(unique[:3]) + more


def _lines(sentence: str, when: Tree, until: Tree | None, guards: Sequence[Tree], back: Sequence[str]) -> list[str]:
    """The same for a terminal: the sentence, each condition with its tree, and what holds it back."""
    found = [sentence]
    named = [("when", when), *([("until", until)] if until is not None else []), *(("guard", guard) for guard in guards)]
    for name, tree in named:
        found.append(f"{name}:")
        found += describe(dict(tree))
    if back:
        found.append("held back:")
        found += [f"  {item}" for item in back]
    return found
