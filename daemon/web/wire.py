"""What travels over the API (floor 8): parameters with their bounds, bodies, lists, and views as JSON.

Views are written as they are: field names are keys, tuples lists, `inf` and NaN null. They are not checked again: they are ours.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal

from fastapi import Path, Query
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, JsonValue, TypeAdapter
from starlette.responses import Response

from daemon.service.views import (
    DeliveryView,
    Effect,
    EndpointView,
    EntityView,
    Entries,
    EpisodeView,
    GateAnswer,
    GateView,
    InstanceView,
    NeedView,
    Now,
    RunbookDetail,
    RunbookView,
    RunDetail,
    RunView,
    Series,
    StressView,
    WhyView,
)
from daemon.units import iso, parse_iso
from daemon.world.entities import Kind

PRINTABLE = r"^[^\x00-\x1f\x7f]*$"
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
PATH = r"^[A-Za-z0-9][A-Za-z0-9._-]*(/[A-Za-z0-9][A-Za-z0-9._-]*)*$"  # no folder is left by two dots
TEXT_MAX = 500
TIME: dict[str, JsonValue] = {"format": "date-time"}


def _time(text: str) -> str:
    """A time of a query as ISO with milliseconds; a plus sign that was not escaped arrives as a blank."""
    try:
        return iso(parse_iso(text.strip().replace(" ", "+") if text.count(" ") == 1 and "T" in text else text))
    except (ValueError, OverflowError):
        raise ValueError(f"found {text!r}; write an ISO-8601 time, for example 2026-02-03T17:00:00Z") from None


Text = Annotated[str, Field(max_length=TEXT_MAX, pattern=PRINTABLE, description="Why; it is journaled.")]
RunId = Annotated[
    str, Path(min_length=1, max_length=300, pattern=PRINTABLE, description="A run, as `funding-spike/dydx:BTC-USD/1767225600000000000/1`.")
]
RunbookId = Annotated[str, Path(min_length=1, max_length=100, pattern=NAME, description="A runbook's id, as `funding-spike`.")]
EntityKind = Annotated[Kind, Path(description="What kind of thing.")]
EntityId = Annotated[str, Path(min_length=1, max_length=200, pattern=PRINTABLE, description="An entity, as `dydx:BTC-USD`.")]
EndpointName = Annotated[str, Path(min_length=1, max_length=100, pattern=NAME, description="An endpoint's name, as in the settings.")]
ReportName = Annotated[str, Path(min_length=1, max_length=300, pattern=PATH, description="A report's name, as `/api/v1/stress` lists it.")]
DeliveryId = Annotated[str, Path(min_length=1, max_length=300, pattern=PRINTABLE, description="A dead letter's id, or `*` for all.")]
Signals = Annotated[
    list[Annotated[str, Field(max_length=100, pattern=PRINTABLE)]],
    Query(alias="signal", max_length=50, description="Which signals, as `signal=funding_rate&signal=mark_price`; all without."),
]
OfRunbook = Annotated[str, Query(alias="runbook", max_length=100, pattern=PRINTABLE, description="Only of this runbook.")]
OfEntity = Annotated[str, Query(alias="entity", max_length=200, pattern=PRINTABLE, description="Only of this entity.")]
OfEndpoint = Annotated[str, Query(alias="endpoint", max_length=100, pattern=PRINTABLE, description="Only to this endpoint.")]
RunStatus = Annotated[
    Literal["", "running", "done", "skipped", "blocked", "failed", "aborted", "unknown", "shadow"],
    Query(alias="status", description="Only with this status."),
]
DeliveryStatus = Annotated[
    Literal["", "waiting", "delivered", "dead", "grouped"], Query(alias="status", description="Only with this status.")
]
EntryRole = Annotated[
    Literal["", "event", "record"], Query(alias="role", description="Only events (what came in) or records (what was decided).")
]
EntryType = Annotated[
    str, Query(alias="type", max_length=64, pattern=r"^[A-Za-z]*$", description="Only of this type, as `ActionRequested`.")
]
Searched = Annotated[str, Query(alias="text", max_length=200, pattern=PRINTABLE, description="Only entries whose body holds this text.")]
Since = Annotated[
    Annotated[str, AfterValidator(_time)] | None,
    Query(alias="since", max_length=40, description="Not before this ISO-8601 time (UTC).", json_schema_extra=TIME),
]
Until = Annotated[
    Annotated[str, AfterValidator(_time)] | None,
    Query(alias="until", max_length=40, description="Not after this ISO-8601 time (UTC).", json_schema_extra=TIME),
]
Limit = Annotated[int, Query(alias="limit", ge=1, le=1_000, description="How many at most.")]
EntityLimit = Annotated[int, Query(alias="limit", ge=1, le=5_000, description="How many at most.")]
BeforeRun = Annotated[
    str, Query(alias="before", max_length=300, pattern=PRINTABLE, description="Runs older than this one: `next_before` of the last page.")
]
BeforeEntry = Annotated[
    int | None, Query(alias="before", ge=0, le=1 << 62, description="Entries before this position: `next_before` of the last page.")
]
Market = Annotated[str, Query(alias="market", min_length=1, max_length=200, pattern=PRINTABLE, description="A market, as `dydx:BTC-USD`.")]


class Body(BaseModel):
    """A body: an unknown key is a mistake."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)


class ApproveBody(Body):
    """An approval: of exactly the plan that was seen."""

    digest: Annotated[str, Field(min_length=1, max_length=200, pattern=NAME, description="The plan's digest, as `approvals` tells it.")]
    reason: Text = ""


class DenyBody(Body):
    """A denial."""

    digest: Annotated[str, Field(max_length=200, pattern=r"^[A-Za-z0-9._-]*$", description="The plan's digest, where it was seen.")] = ""
    reason: Text = ""


class PauseBody(Body):
    """A pause: it always ends, and says why."""

    target: Annotated[
        str, Field(max_length=300, pattern=PRINTABLE, description="A runbook, an instance as `runbook/entity`, or empty for everything.")
    ] = ""
    lasting: str = Field(default="", alias="for", max_length=40, description="How long, as `2h`; this or `until`, 31 days at most.")
    until: Annotated[str, Field(max_length=40, description="Until when, ISO-8601 of the daemon's clock.")] = ""
    reason: Annotated[str, Field(min_length=1, max_length=TEXT_MAX, pattern=PRINTABLE, description="Why; it is journaled.")]


class TargetBody(Body):
    """What a command is about, and why."""

    target: Annotated[str, Field(max_length=300, pattern=PRINTABLE, description="What is meant.")] = ""
    reason: Text = ""


class HaltBody(TargetBody):
    """A halt. Without a body, or with an empty target, it is the kill switch."""

    target: Annotated[
        str,
        Field(
            max_length=300, pattern=PRINTABLE,
            description="Empty: nothing is sent any more. `portfolio`: nothing opens. An entity: nothing opens there.",
        ),
    ] = ""  # fmt: skip


class AckBody(TargetBody):
    """Seen to."""

    target: Annotated[str, Field(min_length=1, max_length=300, pattern=PRINTABLE, description="The `target` of what needed a person.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorView:
    """What went wrong: a code for programs and a text for people."""

    code: str
    message: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """The one shape of every error."""

    error: ErrorView


@dataclass(frozen=True, slots=True, kw_only=True)
class GateFailure:
    """A gate that cannot be told is closed."""

    open: Literal[False]
    why: str
    market: str | None
    at: str | None
    error: ErrorView


@dataclass(frozen=True, slots=True, kw_only=True)
class Entities:
    """Entities of one kind."""

    entities: tuple[EntityView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Histories:
    """What was seen of an entity's signals."""

    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runbooks:
    """The set in force."""

    runbooks: tuple[RunbookView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Instances:
    """Runbooks on entities."""

    instances: tuple[InstanceView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Episodes:
    """Episodes, newest first."""

    episodes: tuple[EpisodeView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Runs:
    """Runs, newest first; `next_before` is `before` of the next page, null at the end."""

    runs: tuple[RunView, ...]
    next_before: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Approvals:
    """Plans that wait for a person."""

    approvals: tuple[NeedView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Gates:
    """Gates for opening orders that stand closed."""

    halted: str
    openings_halted: bool
    gates: tuple[GateView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoints:
    """Where alerts go."""

    endpoints: tuple[EndpointView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deliveries:
    """Messages to endpoints, newest first."""

    deliveries: tuple[DeliveryView, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Whoami:
    """Who asks, and which verbs they may."""

    name: str
    role: str
    door: str
    may: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Whether the process lives and its loop turns; `age_s` is the age of the latest snapshot."""

    alive: bool
    age_s: float | None
    why: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Readiness:
    """Whether the daemon sees and can act, and what is lacking; `degraded`: what it can do without, for a while."""

    ready: bool
    lacking: tuple[str, ...]
    degraded: tuple[str, ...] = ()


_ADAPTERS: dict[type, TypeAdapter[Any]] = {}  # made when first needed: making all of them takes a second


def json_of(view: object) -> bytes:
    """A view as JSON."""
    kind = type(view)
    adapter = _ADAPTERS.get(kind)
    if adapter is None:
        adapter = _ADAPTERS[kind] = TypeAdapter(kind)
    return adapter.dump_json(view, warnings=False)


def said(view: object, status: int = 200) -> Response:
    """A view as an answer."""
    return Response(json_of(view), status_code=status, media_type="application/json")


# --- the document ------------------------------------------------------------------------------------------------------

SHOWN: tuple[type, ...] = (
    Now, Whoami, Entities, EntityView, Histories, Runbooks, RunbookDetail, Instances, WhyView, Episodes, Runs, RunDetail, Entries,
    Approvals, Gates, StressView, Endpoints, Deliveries, GateAnswer, Health, Readiness, Effect, Failure, GateFailure,
)  # fmt: skip


def answering(kind: type, text: str = "As asked.") -> dict[str, Any]:
    """How an answer is documented: by a reference, so that not every path of every start makes a model of its own."""
    assert kind in SHOWN, f"{kind.__name__} is not among what is described"
    return {"description": text, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{kind.__name__}"}}}}


def failing(text: str, kind: type = Failure) -> dict[str, Any]:
    """How a refusal is documented."""
    return answering(kind, text)


def schemas() -> dict[str, Any]:
    """The schemas that `answering` refers to."""
    kinds: list[Any] = [(kind.__name__, "serialization", TypeAdapter(kind)) for kind in SHOWN]
    _, document = TypeAdapter.json_schemas(kinds, ref_template="#/components/schemas/{model}")
    return dict(document["$defs"])
