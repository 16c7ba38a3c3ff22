"""Safety nets that are down, what is nearest to firing, and what is known to come (floor 7).

All of it reads what `Rounds` saw last and the cold state; none of it walks over the instances. Changes nothing.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping
from datetime import UTC, date, datetime, timedelta

from daemon.engine.command import REVIEW_DAYS, review_overdue
from daemon.engine.engine import Engine
from daemon.engine.guard import inhibited
from daemon.engine.observe import overdue_at
from daemon.engine.state import instance_of
from daemon.engine.turn import Turn
from daemon.runbook.model import Runbook
from daemon.service.holds import cooldown_until, house_used_up, limits_used_up, pause_words
from daemon.service.money import market_of
from daemon.service.rounds import Glimpse, Rounds, stale
from daemon.service.verdict import ago, bound_words, distance_words, moment
from daemon.service.views import NetView, ThresholdView, UpcomingView
from daemon.units import FOREVER, HOUR_NS, NEVER, NS, iso, show
from daemon.world.entities import PORTFOLIO_ID, Kind

THRESHOLDS_MAX = 12
UPCOMING_MAX = 20
NETS_MAX = 100
INHIBITED_MAX = 100  # instances of one runbook that are asked who inhibits them
LEGS_MAX = 2_000  # positions whose funding is summed up
RATIO_SIGNALS = ("margin_ratio", "margin_ratio_at_mid", "margin_ratio_worst")


# --- nets that are down ---------------------------------------------------------------------------------------------------


def nets_down(engine: Engine, rounds: Rounds, at: int) -> tuple[NetView, ...]:
    """Every runbook, or instance of one, that would not act as written if its trigger fired; the widest first, NETS_MAX at most."""
    turn = engine.look(at)
    books = [book for name in sorted(turn.cold.in_force) if (book := turn.current(name)) is not None]
    blind = _blind(rounds)
    found: list[NetView] = [*_everything(turn), *_paused(turn)]
    for book in books:
        found += _stage(book)
        if book.stage == "disabled":
            continue
        found += [NetView(runbook=book.id, entity="", why=words, until=None) for words in limits_used_up(turn, book)]
        found += _inhibited(turn, book)
        found += blind.get(book.id, ())
    return tuple(found[:NETS_MAX])


def _everything(turn: Turn) -> Iterator[NetView]:
    if turn.cold.halted:
        yield NetView(runbook="", entity="", why=f"everything is halted: {turn.cold.halted}", until=None)
    for words in house_used_up(turn):
        yield NetView(runbook="", entity="", why=words, until=None)


def _paused(turn: Turn) -> Iterator[NetView]:
    for target, pause in sorted(turn.cold.pauses.items()):
        if pause.until > turn.at:
            runbook, _, entity = target.partition("/")
            until = iso(pause.until) if pause.until != FOREVER else None
            yield NetView(runbook=runbook, entity=entity, why=pause_words(target, pause), until=until)


def _stage(book: Runbook) -> Iterator[NetView]:
    if book.stage == "shadow":
        yield NetView(runbook=book.id, entity="", why="its stage is shadow: it decides and tells, nothing is sent", until=None)
    elif book.stage == "disabled":
        yield NetView(runbook=book.id, entity="", why="its stage is disabled: it is not judged at all", until=None)


def _inhibited(turn: Turn, book: Runbook) -> Iterator[NetView]:
    """The instances that another runbook's episode forbids to act, one line for each who forbids."""
    open_now = {episode.runbook for episode in turn.cold.episodes.values() if episode.open}
    if not open_now & set(book.inhibited_by):
        return
    held: dict[str, list[str]] = {}
    for _, entity in turn.hot.instances(book.id)[:INHIBITED_MAX]:
        inhibitor = inhibited(turn, book, entity)
        if inhibitor:
            held.setdefault(inhibitor, []).append(entity)
    for inhibitor, entities in held.items():
        yield NetView(runbook=book.id, entity=entities[0], why=f"inhibited by {inhibitor}, which is firing{_more(entities)}", until=None)


def _blind(rounds: Rounds) -> dict[str, list[NetView]]:
    """By runbook, the instances whose triggers lack readings or whose guards are UNKNOWN, one line for each lack."""
    lacks: dict[tuple[str, str], list[str]] = {}
    for (runbook, entity), names in rounds.lacking.items():
        lacks.setdefault((runbook, f"its trigger lacks {', '.join(names)}"), []).append(entity)
    for (runbook, entity), texts in rounds.unsure.items():
        for text in texts:
            lacks.setdefault((runbook, f"guard {text} is UNKNOWN, so nothing passes"), []).append(entity)
    found: dict[str, list[NetView]] = {}
    for (runbook, words), entities in lacks.items():
        found.setdefault(runbook, []).append(NetView(runbook=runbook, entity=entities[0], why=f"{words}{_more(entities)}", until=None))
    return found


def _more(entities: list[str]) -> str:
    return f" (and {len(entities) - 1} more)" if len(entities) > 1 else ""


# --- what is nearest to firing --------------------------------------------------------------------------------------------


def thresholds(engine: Engine, rounds: Rounds, at: int, limit: int = THRESHOLDS_MAX) -> tuple[ThresholdView, ...]:
    """The conditions of triggers that are nearest to holding, one an instance, the nearest first; what is unknown is not among them."""
    turn = engine.look(at)
    waiting = (
        (glimpse.near, instance, glimpse)
        for instance, glimpse in rounds.seen.items()
        if glimpse.state == "inactive" and glimpse.binding is not None and 0.0 < glimpse.near < math.inf and not stale(glimpse, at)
    )
    nearest = heapq.nsmallest(limit, waiting, key=lambda item: (item[0], item[1]))
    return tuple(_threshold(turn, *instance, glimpse) for _, instance, glimpse in nearest)


def _threshold(turn: Turn, runbook: str, entity: str, glimpse: Glimpse) -> ThresholdView:
    found = glimpse.binding
    assert found is not None
    return ThresholdView(
        runbook=runbook,
        entity=entity,
        text=str(found.tree["text"]),
        now=show(found.quantity["value"], found.unit),
        bound=bound_words(found),
        distance=distance_words(found),
        nearness=glimpse.near,
        price=_price(turn, runbook, entity, glimpse),
    )


def _price(turn: Turn, runbook: str, entity: str, glimpse: Glimpse) -> str:
    """The market price at which the condition turns, the other markets standing still; empty where there is none, or none can be told."""
    found, book = glimpse.binding, turn.current(runbook)
    if found is None or book is None or found.quantity["role"] not in ("reading", "derived"):
        return ""
    signal, bound = str(found.quantity["signal"]), float(found.bound["value"])
    own = turn.hot.seen(book.scope, entity)
    if own is None:
        return ""
    if found.unit == "price":
        market = entity if book.scope is Kind.MARKET else own.links.get("market", "")
        return f"{market} at {show(bound, 'price')}" if market else ""
    if signal == "liquidation_distance" and book.scope is Kind.POSITION:
        return _at(market_of(turn, entity), price_at_distance(turn, entity, bound))
    if signal in RATIO_SIGNALS:
        account = entity if book.scope is Kind.ACCOUNT else own.links.get("account", "")
        position = _largest(turn, account)
        return _at(market_of(turn, position), price_at_ratio(turn, account, position, bound)) if position else ""
    return ""


def _at(market: str, price: float) -> str:
    return f"{market} at {show(price, 'price')}" if price > 0.0 and math.isfinite(price) else ""


def price_at_distance(turn: Turn, position: str, bound: float) -> float:
    """The price at which a position's liquidation distance is `bound`: its liquidation price does not move with its own market's price."""
    size = turn.hot.glance(Kind.POSITION, position, "size", turn.at)
    liquidation = turn.hot.glance(Kind.POSITION, position, "liquidation_price", turn.at)
    if size > 0.0 and bound < 1.0:
        return liquidation / (1.0 - bound)
    return liquidation / (1.0 + bound) if size < 0.0 else math.nan


def price_at_ratio(turn: Turn, account: str, position: str, bound: float) -> float:
    """The price of one position's market at which the account's maintenance margin is `bound` times its equity.

    MM + |s| f (p - P) = b (E + s (p - P)), f the maintenance fraction and P the price now: p = P + (b E - MM) / (|s| f - b s).
    """
    hot, at, market = turn.hot, turn.at, market_of(turn, position)
    equity, maintenance = (hot.glance(Kind.ACCOUNT, account, signal, at) for signal in ("equity", "maintenance_margin"))
    size = hot.glance(Kind.POSITION, position, "size", at)
    price, fraction = hot.glance(Kind.MARKET, market, "value_price", at), hot.glance(Kind.MARKET, market, "mmf", at)
    slope = abs(size) * fraction - bound * size
    return price + (bound * equity - maintenance) / slope if slope != 0.0 else math.nan


def _largest(turn: Turn, account: str) -> str:
    """The position of an account with the largest notional; "" when it has none that is known."""
    if not turn.hot.knows(Kind.ACCOUNT, account):
        return ""
    sizes = [(turn.hot.glance(Kind.POSITION, p, "notional", turn.at), p) for p in turn.hot.members(Kind.ACCOUNT, account, "positions")]
    return max(((abs(usd), p) for usd, p in sizes if usd == usd), default=(0.0, ""))[1]


# --- what is known to come ------------------------------------------------------------------------------------------------


def upcoming(engine: Engine, rounds: Rounds, at: int, timers: Mapping[str, int] | None = None) -> tuple[UpcomingView, ...]:
    """What is known to come, the soonest first, UPCOMING_MAX at most. `timers`: calendar timers with their next due time (ns)."""
    turn = engine.look(at)
    found = [
        *_funding(turn),
        *_deadlines(turn),
        *_cooldowns(turn),
        *_votes(turn),
        *_reviews(turn),
        *_holds(turn, rounds),
        *((due, f"timer {name}") for name, due in (timers or {}).items()),
    ]
    return tuple(UpcomingView(at=iso(due), text=text) for due, text in heapq.nsmallest(UPCOMING_MAX, found))


def _funding(turn: Turn) -> Iterator[tuple[int, str]]:
    """The next settlement of every venue with open positions, and what it would pay at the rate that is expected now."""
    sums: dict[str, list[float]] = {}
    for position in turn.hot.members(Kind.PORTFOLIO, PORTFOLIO_ID, "positions")[:LEGS_MAX]:
        own = turn.hot.seen(Kind.POSITION, position)
        assert own is not None, "a member was named"
        notional = turn.hot.glance(Kind.POSITION, position, "notional", turn.at)
        market = own.links.get("market", "")
        rate = turn.hot.glance(Kind.MARKET, market, "predicted_funding_rate", turn.at)
        rate = rate if rate == rate else turn.hot.glance(Kind.MARKET, market, "funding_rate", turn.at)
        sums.setdefault(own.links.get("venue", ""), []).append(notional * rate)
    for venue, hourly in sums.items():
        seconds = turn.hot.glance(Kind.VENUE, venue, "funding_interval", turn.at)
        configured = turn.topology.venues.get(venue)
        interval = int(seconds * NS) if seconds >= 1.0 else configured.funding_interval_ns if configured is not None else HOUR_NS
        due = (turn.at // interval + 1) * interval
        known = [usd for usd in hourly if usd == usd]
        paid = math.fsum(known) * interval / HOUR_NS
        words = f"about {show(abs(paid), 'USD')} {'to pay' if paid > 0.0 else 'to receive'}" if known else "what it pays is unknown"
        unknown = f", {len(hourly) - len(known)} of them unknown" if known and len(known) < len(hourly) else ""
        yield due, f"funding of {venue}: {words} on {len(hourly)} {'position' if len(hourly) == 1 else 'positions'}{unknown}"


def _deadlines(turn: Turn) -> Iterator[tuple[int, str]]:
    """Ends of approvals and pauses; when money should have arrived."""
    for run in turn.cold.runs.values():
        if run.step is not None and run.step.approval is not None and run.step.approval.answer == "":
            yield run.step.approval.deadline, f"approval of {run.step.id} of {run.runbook} on {run.entity} ends"
    for target, pause in turn.cold.pauses.items():
        if turn.at < pause.until < FOREVER:
            yield pause.until, f"the pause of {target or 'everything'} ends"
    for action_id, transfer in turn.cold.transfers.items():
        due = overdue_at(turn, action_id)
        if due != FOREVER:
            yield due, f"{show(float(transfer.amount), 'USD')} over {transfer.route} is overdue unless {transfer.destination} shows it"


def _cooldowns(turn: Turn) -> Iterator[tuple[int, str]]:
    """Cooldowns of instances that fire: when each may act again."""
    for episode in turn.cold.episodes.values():
        book = turn.current(episode.runbook)
        if book is None or not episode.open or turn.cold.active_runs(episode.runbook, episode.entity):
            continue
        end = cooldown_until(turn, book, episode.entity)
        if end != NEVER:
            yield end, f"the cooldown of {instance_of(book.id, episode.entity)} ends, and it fires"


def _votes(turn: Turn) -> Iterator[tuple[int, str]]:
    for venue in turn.topology.venues:
        if turn.hot.glance(Kind.VENUE, venue, "proposal_open", turn.at) != 1.0:
            continue
        left = turn.hot.glance(Kind.VENUE, venue, "proposal_ends_in", turn.at)
        if left >= 0.0 and math.isfinite(left):
            risky = turn.hot.glance(Kind.VENUE, venue, "proposal_touches_risk", turn.at) == 1.0
            yield turn.at + int(left * NS), f"a vote at {venue} ends" + (", which changes margin or markets" if risky else "")


def _reviews(turn: Turn) -> Iterator[tuple[int, str]]:
    """Reviews that are overdue, by the day they were due."""
    today = (datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=turn.at // NS)).date()
    for runbook in turn.cold.in_force:
        book = turn.current(runbook)
        if book is not None and review_overdue(book, today):
            due = date.fromisoformat(str(book.review_last)) + timedelta(days=REVIEW_DAYS.get(str(book.review_every), 92))
            seconds = (datetime(due.year, due.month, due.day, tzinfo=UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(seconds=1)
            yield seconds * NS, f"the review of {runbook} is overdue ({book.owner})"


def _holds(turn: Turn, rounds: Rounds) -> Iterator[tuple[int, str]]:
    """Holds that run: when each would fire if nothing changes."""
    for (runbook, entity), glimpse in rounds.moving.items():
        book = turn.current(runbook)
        if glimpse.state == "pending" and glimpse.near == 0.0 and book is not None:
            due = glimpse.at + max(0, book.trigger.for_ns - glimpse.held_ns)
            if due >= turn.at:
                yield due, f"{runbook} on {entity} fires if it stays so (in {ago((due - turn.at) / NS)}, by {moment(due)})"
