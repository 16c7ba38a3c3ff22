"""What an observation means to the cold side (floor 4): freshness after a write, sizes that are not ours, money arriving, lost readings."""

from __future__ import annotations

import math
from collections.abc import Sequence

from daemon.engine.actions import ShrinkPosition
from daemon.engine.apply import position_of, signed_size
from daemon.engine.episode import turn_due
from daemon.engine.events import Row
from daemon.engine.notices import lifecycle, page
from daemon.engine.records import KnowledgeChanged, MoveProgress, ResourceSeen, SizeChanged
from daemon.engine.routing import credit_signal, overdue_ns
from daemon.engine.state import Memory, instance_of
from daemon.engine.turn import Turn, members
from daemon.language.terms import Elsewhere, walk
from daemon.runbook.model import Runbook
from daemon.units import FOREVER
from daemon.world.entities import PORTFOLIO_ID, Kind

SIZE_TOLERANCE = 1e-9  # relative to the larger size: doubles that came through decimal text
CREDIT_SHARE = 0.95  # a credit is seen when this share of the amount less its fee has arrived


def observe(turn: Turn, rows: Sequence[Row]) -> None:
    """Record what the rows say about things the cold side has written or waits for."""
    for row in rows:
        match row.kind:
            case Kind.POSITION if "size" in row.values:
                _size(turn, row.entity, _held(turn, row, "size"))
                _seen(turn, f"size/{row.entity}", row)
            case Kind.ACCOUNT:
                if "external_change" in row.values and _held(turn, row, "external_change") == 1.0:
                    _external_account(turn, row.entity)
                if "collateral" in row.values:
                    _credit(turn, row.entity, _held(turn, row, "collateral"))
            case Kind.CHAIN if "buffer_balance" in row.values:
                _seen(turn, f"buffer/{row.entity}", row)
                _credit(turn, row.entity, _held(turn, row, "buffer_balance"))
            case Kind.ROUTE if "in_flight" in row.values:
                _on_route(turn, row.entity, _held(turn, row, "in_flight"))
            case _:
                pass


def _held(turn: Turn, row: Row, signal: str) -> float:
    """What a row leaves as the reading: its value, or what the hot side holds, which a row that comes late does not change."""
    if row.event_ts is None:
        return row.values[signal]
    return turn.hot.read(row.kind, row.entity, signal, turn.at).value


def _seen(turn: Turn, resource: str, row: Row) -> None:
    after = turn.cold.unseen.get(resource)
    # An Observed is processed after the settling it follows, so an equal time is late enough; only an order of unknown outcome has to
    # be out of reach first. What was true before the write says nothing about it, however late it arrives.
    true_at = turn.at if row.event_ts is None else row.event_ts
    if after is not None and after != FOREVER and min(turn.at, true_at) >= after:
        turn.emit(ResourceSeen(at=turn.at, resource=resource))


def _size(turn: Turn, position: str, size: float) -> None:
    track = turn.cold.sizes.get(position)
    if track is None or math.isnan(size) or size == track.size:
        return
    pending = sum(
        signed_size(s.action, s.action.size)
        for s in turn.cold.sent.values()
        if isinstance(s.action, ShrinkPosition) and position_of(s.action.account, s.action.market) == position
    )
    ours = explained(track.size, size, track.unobserved, pending)
    cause = "" if ours else f"external change: size of {position} went from {track.size:g} to {size:g}"
    episodes = () if ours else tuple(e for e in _concerned(turn, position))
    turn.emit(SizeChanged(at=turn.at, position=position, size=size, ours=ours, cause=cause, episodes=episodes))
    if not ours:
        _tell(turn, episodes, cause)


def explained(before: float, after: float, unobserved: float, pending: float) -> bool:
    """True when our fills (settled but not yet shown, or still unsettled) account for the whole change."""
    change = after - before
    if math.isnan(before):
        return True  # the first size we see explains nothing and accuses nobody
    tolerance = SIZE_TOLERANCE * max(abs(before), abs(after))
    low = min(0.0, unobserved, pending, unobserved + pending) - tolerance
    high = max(0.0, unobserved, pending, unobserved + pending) + tolerance
    return low <= change <= high


def _concerned(turn: Turn, position: str) -> list[str]:
    found = []
    for episode in turn.cold.episodes.values():
        book = turn.current(episode.runbook)
        running = any(run.episode == episode.id for run in turn.cold.runs.values())
        if (episode.open or running) and position in episode.sizes and book is not None and any(s.writes for s in book.steps):
            found.append(episode.id)
    return found


def _external_account(turn: Turn, account: str) -> None:
    cause = f"external change: the venue reports one on {account}"
    found = set()
    for position in turn.cold.sizes:
        if turn.entity(Kind.POSITION, position).links.get("account") == account:
            found |= set(_concerned(turn, position))
    fresh = tuple(sorted(e.id for e in turn.cold.episodes.values() if e.id in found and not e.external))
    if not fresh:
        return
    position = next(p for e in turn.cold.episodes.values() if e.id == fresh[0] for p in e.sizes)
    size = turn.cold.sizes[position].size
    turn.emit(SizeChanged(at=turn.at, position=position, size=size, ours=False, cause=cause, episodes=fresh))
    _tell(turn, fresh, cause)


def _tell(turn: Turn, episodes: Sequence[str], cause: str) -> None:
    for episode in turn.cold.episodes.values():
        book = turn.current(episode.runbook)
        running = any(run.episode == episode.id for run in turn.cold.runs.values())
        if episode.id in episodes and book is not None and book.stage == "armed" and not running:
            # A run under way pages by itself when it stops.
            page(turn, book, episode.entity, f"no further runs of this episode: {cause}", episode.id)


def _credit(turn: Turn, destination: str, held: float) -> None:
    for action_id, transfer in list(turn.cold.transfers.items()):
        sent = turn.cold.sent.get(action_id)
        left = transfer.settled or (sent is not None and sent.unknown)
        if transfer.destination != destination or not left or math.isnan(held) or math.isnan(transfer.baseline):
            continue
        if held - transfer.baseline >= CREDIT_SHARE * float(transfer.amount):
            turn.emit(MoveProgress(at=turn.at, action_id=action_id, stage="credited"))


def _on_route(turn: Turn, route: str, amount: float) -> None:
    for action_id, transfer in list(turn.cold.transfers.items()):
        if transfer.route != route or not transfer.settled:
            continue
        if amount > 0.0 and not transfer.shown:
            turn.emit(MoveProgress(at=turn.at, action_id=action_id, stage="shown"))
        elif amount <= 0.0 and transfer.shown:
            turn.emit(MoveProgress(at=turn.at, action_id=action_id, stage="credited"))


def overdue_at(turn: Turn, action_id: str) -> int:
    """When a person is told that a transfer has not arrived; FOREVER once told, or while it has not left."""
    transfer = turn.cold.transfers[action_id]
    if transfer.overdue or not transfer.settled:
        return FOREVER
    return transfer.at + overdue_ns(turn, transfer.route)


def overdue(turn: Turn) -> None:
    """Page for transfers that should have arrived."""
    for action_id, transfer in list(turn.cold.transfers.items()):
        if turn.at < overdue_at(turn, action_id):
            continue
        turn.emit(MoveProgress(at=turn.at, action_id=action_id, stage="overdue"))
        book = turn.current(transfer.runbook)
        if book is not None:
            text = f"{transfer.amount} USD over {transfer.route} to {transfer.destination} has not arrived; no further move goes there"
            page(turn, book, transfer.destination, text, action_id)


def feed_failed(turn: Turn, source: str, reason: str) -> None:
    """Tell once an instance when its trigger has lost its readings, and note when it has them again."""
    for digest in sorted(turn.cold.in_force.values()):
        book = turn.library[digest]
        if book.stage == "disabled" or book.notify is None or "no_data" not in book.notify.events:
            continue
        for runbook, entity in turn.hot.instances(book.id):
            unknown = turn.hot.unknown(book, book.trigger.when.index, entity, turn.at)
            memory = turn.cold.memories.get(instance_of(runbook, entity), Memory())
            if unknown == memory.unknown:
                continue
            turn.emit(KnowledgeChanged(at=turn.at, runbook=runbook, entity=entity, unknown=unknown))
            if unknown and not memory.unknown:
                text = f"no data: {', '.join(unknown)} unknown ({source}: {reason})"
                lifecycle(turn, book, entity, "no_data", text, f"{instance_of(runbook, entity)}/no-data")


def knowledge_back(turn: Turn) -> None:
    """Note the instances whose lost readings are back."""
    for instance, memory in list(turn.cold.memories.items()):
        runbook, _, entity = instance.partition("/")
        book = turn.current(runbook)
        if memory.unknown and book is not None and not turn.hot.unknown(book, book.trigger.when.index, entity, turn.at):
            turn.emit(KnowledgeChanged(at=turn.at, runbook=runbook, entity=entity, unknown=()))


def watched(turn: Turn) -> frozenset[tuple[Kind, str]]:
    """The entities whose batches the cold side must see: what runs wait for, written resources, sizes of episodes, money on its way."""
    cold = turn.cold
    found: set[tuple[Kind, str]] = {(Kind.POSITION, p) for p in cold.sizes}
    found |= {(Kind.ACCOUNT, turn.entity(Kind.POSITION, p).links.get("account", "")) for p in cold.sizes}
    for resource in cold.unseen:
        what, _, name = resource.partition("/")
        found.add((Kind.POSITION if what == "size" else Kind.CHAIN, name))
    for transfer in cold.transfers.values():
        found |= {(credit_signal(turn, transfer.destination)[0], transfer.destination), (Kind.ROUTE, transfer.route)}
    for run in cold.runs.values():
        if run.step is not None and run.step.phase in ("ready", "verify"):
            found |= _around(turn, turn.book(run), run.entity)
    for book, entity in held_back(turn):
        found |= _around(turn, book, entity)
    return frozenset(found)


def held_back(turn: Turn) -> list[tuple[Runbook, str]]:
    """Instances whose further run is due and waits for their trigger, which is clearing: it starts at the row that makes it fire again, and
    no edge tells of that. What else holds a run back (cooldown, a lock, a pause, an inhibition) ends with a due, a record or an edge."""
    found = []
    for episode in turn.cold.episodes.values():
        book = turn.current(episode.runbook)
        due = book is not None and episode.turns and turn_due(book, episode) <= turn.at
        if book is not None and due and turn.hot.state(book.id, episode.entity).status == "clearing":
            found.append((book, episode.entity))
    return found


def _around(turn: Turn, book: Runbook, entity: str) -> set[tuple[Kind, str]]:
    """Everything a run's expressions may read: its entity's relatives, their positions and peers, and what it names by id."""
    own = turn.entity(book.scope, entity)
    found: set[tuple[Kind, str]] = {(book.scope, entity), (Kind.PORTFOLIO, PORTFOLIO_ID)}
    for relation, target in own.links.items():
        kinds = (Kind.CHAIN, Kind.VENUE, Kind.ACCOUNT) if relation in ("from", "to") else (Kind(relation),)
        found |= {(kind, target) for kind in kinds}
    for kind, which, member in (
        (Kind.ACCOUNT, "positions", Kind.POSITION),
        (Kind.MARKET, "peers", Kind.MARKET),
        (Kind.VENUE, "markets", Kind.MARKET),
        (Kind.PORTFOLIO, "accounts", Kind.ACCOUNT),
        (Kind.PORTFOLIO, "chains", Kind.CHAIN),
        (Kind.PORTFOLIO, "routes", Kind.ROUTE),
    ):
        for item in [name for found_kind, name in sorted(found) if found_kind is kind]:
            found |= {(member, name) for name in members(turn, kind, item, which)}
    return found | _named(turn, book)


def _named(turn: Turn, book: Runbook) -> frozenset[tuple[Kind, str]]:
    """What a runbook's expressions name by id; worked out once a version, since it is asked for at every reaction."""
    found = turn.named.get(book.digest)
    if found is None:
        terms = (term for expression in book.expressions for term in walk(expression.typed.term))
        found = turn.named[book.digest] = frozenset((term.kind, term.entity) for term in terms if isinstance(term, Elsewhere))
    return found

