"""The engine's inputs (floor 4): the closed union `Event`. Time is a field of every event: `at`, int64 ns UTC, strictly increasing live.

Events and records are plain frozen dataclasses of JSON-able fields, so that `engine/codec.py` can print and read any of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from daemon.engine.actions import Outcome
from daemon.world.entities import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What one source said of one entity at one moment: catalogue names and units; NaN = the source says there is none.

    A signal that is absent is not part of this row: its last value stands and ages. `event_ts` is the venue's own time of these
    values (None: the event's `at`; `units.FOREVER`: always fresh, for facts of a simulated account and static parameters).
    """

    kind: Kind
    entity: str
    values: Mapping[str, float]
    event_ts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Observed:
    """A batch of rows of one instant. `history` rows carry their own time in `event_ts` and enter windows only."""

    at: int
    source: str
    rows: tuple[Row, ...]
    history: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class FeedFailed:
    """A poll that failed; staleness follows by itself, this is for the record and for `no_data` notices."""

    at: int
    source: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """Time nobody watched, from `since` to `at`: holds do not count across it. First event of every start."""

    at: int
    since: int
    cause: str  # start | freeze | clock
    build: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSettled:
    """The outcome of one action that the engine asked for."""

    at: int
    action_id: str
    outcome: Outcome


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorCommand:
    """What a person asked for; `command_id` is unique: the same id twice counts once.

    `verb` is one of approve | deny | pause | unpause | halt | resume | ack; `target` a run id, runbook id or entity id
    ("" = everything); `until` ends a pause; `digest` names the plan that an approval is about ("": whatever is waited for).
    """

    at: int
    command_id: str
    actor: str
    verb: str
    target: str = ""
    reason: str = ""
    until: int | None = None
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunbooksLoaded:
    """The set in force from now on, by content: sha256 of each runbook's source, of the house limits and of the topology."""

    at: int
    runbooks: Mapping[str, str] = field(default_factory=dict)  # path -> sha256 of the source text
    limits: str = ""
    topology: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scheduled:
    """A calendar timer that came due; `timer@due` twice counts once."""

    at: int
    timer: str
    due: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Woke:
    """A wake-up for dues; never journaled."""

    at: int


Event = Observed | FeedFailed | Gap | ActionSettled | OperatorCommand | RunbooksLoaded | Scheduled | Woke
