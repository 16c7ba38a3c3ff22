"""Observations over MQTT (floor 7): `<prefix>/feed/<kind>/<entity>` with `{signal: value, ..., "event_ts": ISO}` becomes a row, or a
reason why not.

What comes in is a stranger's until it has passed this door: kinds and signals that the settings allow, catalogue names and units, a
time that is neither in the future nor older than any window. Nothing here raises; a message that is refused is counted and told.
"""

from __future__ import annotations

import difflib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.edges.broker import Incoming, Outgoing, joined, name_of
from daemon.engine.events import FeedFailed, Observed, Row
from daemon.language.catalogue import Signal, signal
from daemon.service.clock import Clock
from daemon.service.inbox import Inbox
from daemon.service.logging import log
from daemon.service.poller import FeedHealth
from daemon.units import DAY_NS, MINUTE_NS, NS, iso, parse_iso, parse_quantity, show_duration
from daemon.world.entities import PORTFOLIO_ID, Kind

SOURCE = "mqtt"
FEED = "feed"
ERRORS = "feed/errors"
PAYLOAD_BYTES_MAX = 65_536
AHEAD_NS = 5 * NS  # real time that a sender's clock may be before ours
AGE_MAX_NS = 8 * DAY_NS  # no window is longer
ENTITIES_MAX = 1_000  # a broken sender must not grow the state without end
TOLD_EVERY_NS = MINUTE_NS  # the same reason is logged once in it
REASONS_MAX = 200
REASON_CHARS_MAX = 300
Value = float | bool | str | None


class Refused(Exception):
    """Why an observation is not taken."""


class Observation(BaseModel):
    """The payload: signals by catalogue name, in catalogue units or with their unit as text (`"0.01%/h"`); null = there is none."""

    model_config = ConfigDict(extra="allow", strict=True, frozen=True, hide_input_in_errors=True)
    __pydantic_extra__: dict[str, Value]

    event_ts: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Allowed:
    """What may come in: `signals` by kind as the settings have it, less what an adapter tells itself (`told`) of an entity."""

    signals: Mapping[Kind, frozenset[str]]
    told: Callable[[Kind, str], frozenset[str]] = lambda _kind, _entity: frozenset()


def read(message: Incoming, kind_name: str, entity_level: str, *, allowed: Allowed, now: int, ahead_ns: int = AHEAD_NS) -> Row:
    """The row of a message; raises Refused with what is wrong, what was found and what to write. `now` is the daemon's clock, ns."""
    kind = _kind(kind_name, allowed)
    entity = _entity(kind, entity_level)
    if len(message.payload) > PAYLOAD_BYTES_MAX:
        raise Refused(f"the payload has {len(message.payload)} bytes; at most {PAYLOAD_BYTES_MAX} are read")
    try:
        observation = Observation.model_validate_json(message.payload)
    except ValidationError as error:
        raise Refused(_worded(error)) from None
    told = allowed.told(kind, entity)
    values: dict[str, float] = {}
    problems: list[str] = []
    for name, value in observation.__pydantic_extra__.items():
        try:
            values[name] = _reading(_known(kind, name, allowed, told, entity), value)
        except Refused as refused:
            problems.append(str(refused))
    if problems:  # all or nothing: half a message is not what its sender said
        raise Refused("; ".join(problems[:5]))
    if not values:
        raise Refused('it tells nothing; write for example {"index_price": 97000.5, "event_ts": "2026-02-03T17:00:00Z"}')
    return Row(kind=kind, entity=entity, values=values, event_ts=_time(observation.event_ts, message.retained, now, ahead_ns))


def _kind(name: str, allowed: Allowed) -> Kind:
    names = ", ".join(kind.value for kind in allowed.signals)
    try:
        kind = Kind(name)
    except ValueError:
        raise Refused(f"{name!r} is no kind of entity; the settings allow {names}") from None
    if kind not in allowed.signals:
        raise Refused(f"the settings do not allow observations of a {name}; they allow {names} (mqtt.feed)")
    return kind


def _entity(kind: Kind, text: str) -> str:
    try:
        entity = name_of(text)
    except ValueError as error:
        raise Refused(str(error)) from None
    head, colon, symbol = entity.partition(":")
    if kind in (Kind.MARKET, Kind.POSITION):
        if not head or not symbol:
            owner = "venue" if kind is Kind.MARKET else "account"
            raise Refused(f"{entity!r} is no {kind.value}; write {owner}:SYMBOL, for example dydx:BTC-USD")
    elif colon:
        raise Refused(f"{entity!r} is no {kind.value}: its name has no colon")
    elif kind is Kind.PORTFOLIO and entity != PORTFOLIO_ID:
        raise Refused(f"there is one portfolio, found {entity!r}; write {PORTFOLIO_ID}")
    return entity


def _known(kind: Kind, name: str, allowed: Allowed, told: frozenset[str], entity: str) -> Signal:
    found = signal(kind, name)
    if found is None or found.internal:
        near = difflib.get_close_matches(name, sorted(allowed.signals[kind]), n=1)
        hint = f"did you mean {near[0]!r}?" if near else "docs/signals.md has the names"
        raise Refused(f"{name[:60]!r} is no signal of a {kind.value}; {hint}")
    if found.role != "observed":
        raise Refused(f"{name!r} is worked out from other signals; tell those")
    if name not in allowed.signals[kind]:
        raise Refused(f"the settings do not allow {name!r}; write {kind.value}.{name} into mqtt.feed")
    if name in told:
        raise Refused(f"{name!r} of {entity!r} is told by its own adapter, and one signal has one source")
    return found


def _reading(known: Signal, value: Value) -> float:
    """The value in the catalogue's unit; NaN for null."""
    if value is None:
        return math.nan
    if known.unit == "bool":
        if isinstance(value, str) or float(value) not in (0.0, 1.0):
            raise Refused(f"{known.name} is true or false, found {value!r}")
        return float(value)
    if isinstance(value, bool):
        raise Refused(f"{known.name} is of unit {known.unit}, found {str(value).lower()}; write a number")
    number = _quantity(known, value) if isinstance(value, str) else float(value)
    if not math.isfinite(number):
        raise Refused(f"{known.name} is {number}; write a number, or null when there is none")
    if known.unit == "price" and number <= 0:
        raise Refused(f"{known.name} is a price, found {number:g}; a price is more than 0")
    return number


def _quantity(known: Signal, text: str) -> float:
    try:
        number, unit = parse_quantity(text)
    except (ValueError, OverflowError, ArithmeticError):
        raise Refused(f"{known.name} is of unit {known.unit}, found {text[:40]!r}; write a number, or one with its unit") from None
    if unit not in (known.unit, "1"):
        raise Refused(f"{known.name} is of unit {known.unit}, found {text[:40]!r}, which is of unit {unit}")
    return number


def _time(text: str | None, retained: bool, now: int, ahead_ns: int) -> int | None:
    if text is None:
        if retained:
            raise Refused("the broker had kept it, and it does not say of when it is; write event_ts, or do not retain it")
        return None
    try:
        at = parse_iso(text)
    except (ValueError, OverflowError):
        raise Refused(f"event_ts is {text[:40]!r}; write an ISO-8601 time, for example 2026-02-03T17:00:00Z") from None
    if at > now + ahead_ns:
        raise Refused(f"event_ts {iso_or(text, at)} is after now, {iso(now)}: a reading of the future would stay fresh for ever")
    if now - at > AGE_MAX_NS:
        raise Refused(f"event_ts {text[:40]!r} is over {show_duration(AGE_MAX_NS / NS)} ago")
    return at


def iso_or(text: str, at: int) -> str:
    """The time as the house writes it, or as it was written where it is beyond what the house can write."""
    try:
        return iso(at)
    except OverflowError:
        return text[:40]


def _worded(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"][:1])
    if first["type"] in ("json_invalid", "model_type", "model_attributes_type"):
        return f"the payload is no JSON object ({first['msg'].lower()})"
    if place == "event_ts":
        return "event_ts is no text; write an ISO-8601 time, for example 2026-02-03T17:00:00Z"
    return f"{place[:40]!r} is neither a number, true, false, a text nor null"


class FeedDoor:
    """Takes messages of `<prefix>/feed/+/+` and puts rows into the inbox; what it refuses is counted, logged and told."""

    def __init__(self, *, prefix: str, allowed: Allowed, inbox: Inbox, clock: Clock, tell: Callable[[Outgoing], None]) -> None:
        self._prefix = prefix
        self._allowed = allowed
        self._inbox = inbox
        self._clock = clock
        self._tell = tell
        self._entities: set[tuple[Kind, str]] = set()
        self._told_at: dict[str, int] = {}  # reason -> engine ns
        self.taken = 0
        self.refused = 0
        # Fresh while the connection stands: each reading ages by itself, and who sends how often is not known here.
        self.health = FeedHealth(source=SOURCE, every_ns=MINUTE_NS)

    @property
    def topics(self) -> str:
        """What is subscribed to."""
        return joined(self._prefix, FEED, "+", "+")

    def takes(self, topic: str) -> bool:
        """True for `<prefix>/feed/<kind>/<entity>`."""
        return topic.startswith(f"{self._prefix}/{FEED}/") and topic != joined(self._prefix, ERRORS)

    def take(self, message: Incoming) -> None:
        """Put the message's row into the inbox, or say why not. Raises nothing."""
        levels = message.topic.removeprefix(f"{self._prefix}/{FEED}/").split("/")
        try:
            if len(levels) != 2:
                raise Refused(f"the topic is {self._prefix}/feed/<kind>/<entity>; write a / within a name as %2F")
            ahead_ns = int(AHEAD_NS * max(1.0, self._clock.speed))
            row = read(message, levels[0], levels[1], allowed=self._allowed, now=self._clock.now(), ahead_ns=ahead_ns)
            self._admit(row)
        except Refused as refused:
            self._refuse(message.topic, str(refused)[:REASON_CHARS_MAX])
            return
        self.taken += 1
        self._inbox.put(Observed(at=0, source=SOURCE, rows=(row,)))

    def connected(self, stands: bool, reason: str) -> None:
        """The connection came or went: what came before ages from now on, and `no_data` notices have their reason."""
        health = self.health
        if stands:
            health.failures, health.reason, health.succeeded_at = 0, "", self._clock.now()
            return
        health.failures, health.reason, health.failed_at = health.failures + 1, reason[:REASON_CHARS_MAX], self._clock.now()
        self._inbox.put(FeedFailed(at=0, source=SOURCE, reason=health.reason))

    def beat(self) -> None:
        """The connection still stands."""
        if not self.health.failures and self.health.succeeded_at:
            self.health.succeeded_at = self._clock.now()

    def _admit(self, row: Row) -> None:
        key = (row.kind, row.entity)
        if key not in self._entities:
            if len(self._entities) >= ENTITIES_MAX:
                raise Refused(f"{ENTITIES_MAX} entities were told already, and no more are taken; {row.entity!r} is a further one")
            self._entities.add(key)

    def _refuse(self, topic: str, reason: str) -> None:
        self.refused += 1
        now = self._clock.now()
        key = f"{topic}\0{reason}"
        if now - self._told_at.get(key, -TOLD_EVERY_NS) < TOLD_EVERY_NS * max(1.0, self._clock.speed):
            return
        if len(self._told_at) >= REASONS_MAX:
            self._told_at.clear()
        self._told_at[key] = now
        log().warning("mqtt.observation_refused", topic=topic, reason=reason, refused=self.refused)
        content = {"topic": topic, "reason": reason, "refused": self.refused, "at": iso(now)}
        self._tell(Outgoing(topic=joined(self._prefix, ERRORS), payload=json.dumps(content).encode(), expiry_s=3600))

