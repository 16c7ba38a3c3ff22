"""The HTTP API (floor 8): reading. What people ask for is in `api_writes.py`, the documented shapes in `wire.py`.

    /healthz /readyz /metrics /api/v1/{status, world, runbooks, why, runs, journal, gate, stream, ...}
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from fastapi import APIRouter
from fastapi.routing import APIRoute
from fastapi.sse import EventSourceResponse
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, Response

from daemon.service.views import (
    EntityView,
    Entries,
    EntryQuery,
    GateAnswer,
    Now,
    RunbookDetail,
    RunbookView,
    RunDetail,
    RunQuery,
    StressView,
    WhyView,
)
from daemon.web.api_writes import add_writes
from daemon.web.asking import Asking
from daemon.web.desk import NEEDED, Desk, NotKnown, Person, Unavailable, may
from daemon.web.door import Doorkeeper
from daemon.web.health import health, readiness
from daemon.web.metrics import CONTENT_TYPE, exposition
from daemon.web.refusals import Refused, as_json
from daemon.web.streams import Streams
from daemon.web.wire import (
    Approvals,
    BeforeEntry,
    BeforeRun,
    Deliveries,
    DeliveryStatus,
    Endpoints,
    Entities,
    EntityId,
    EntityKind,
    EntityLimit,
    EntryRole,
    EntryType,
    Episodes,
    GateFailure,
    Gates,
    Health,
    Histories,
    Instances,
    Limit,
    Market,
    OfEndpoint,
    OfEntity,
    OfRunbook,
    Readiness,
    ReportName,
    RunbookId,
    Runbooks,
    RunId,
    Runs,
    RunStatus,
    Searched,
    Signals,
    Since,
    Until,
    Whoami,
    answering,
    failing,
    said,
)

V1 = "/api/v1"
GATE_S = 2.0  # a strategy waits for this before it opens
READ_FAILURES: dict[int | str, dict[str, Any]] = {
    401: failing("Reading needs a token here."),
    404: failing("There is no such thing; the message says what there is."),
    422: failing("A parameter makes no sense; the message says what to write."),
    429: failing("Too often; Retry-After says when."),
    503: failing("The daemon does not answer."),
}
# A report is a page of its own, drawn with styles of its own and nothing else; in a sandbox it is of no origin.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'self'; sandbox"


def guarded(admit: Callable[[Request], Awaitable[Person]]) -> type[APIRoute]:
    """A route that asks who is there before it looks at anything else of the request; `request.state.person` is who."""

    class Guarded(APIRoute):
        """A route behind the door."""

        def get_route_handler(self) -> Callable[[Request], Any]:
            """The handler behind the door."""
            serve = super().get_route_handler()

            async def handler(request: Request) -> Response:
                request.state.person = await admit(request)
                return await serve(request)

            return handler

    return Guarded


def make_api(
    desk: Desk, *, guard: Doorkeeper, asking: Asking, streams: Streams, build: str, wall: Callable[[], float],
    document: Callable[[], dict[str, Any]],
) -> APIRouter:  # fmt: skip
    """Every path of the API."""
    router = APIRouter()
    reads, watch = Reads(desk, streams), Watch(desk, guard, build, wall)

    def get(path: str, endpoint: Callable[..., Awaitable[Response]], model: type, summary: str) -> None:
        router.add_api_route(
            path, endpoint, methods=["GET"], response_model=None, summary=summary, tags=["read"],
            operation_id=endpoint.__name__, route_class_override=guarded(guard.reader), responses={200: answering(model), **READ_FAILURES},
        )  # fmt: skip

    get(f"{V1}/status", reads.status, Now, "Everything that a person on call asks first")
    get(f"{V1}/whoami", reads.whoami, Whoami, "Who asks, and what they may")
    get(f"{V1}/world/{{kind}}", reads.world, Entities, "Entities of a kind with their readings and their ages")
    get(f"{V1}/world/{{kind}}/{{entity:path}}", reads.entity, EntityView, "One entity")
    get(f"{V1}/history/{{kind}}/{{entity:path}}", reads.history, Histories, "What was seen of an entity's signals in the last hours")
    get(f"{V1}/runbooks", reads.runbooks, Runbooks, "The runbooks in force")
    get(f"{V1}/runbooks/{{runbook}}", reads.runbook, RunbookDetail, "One runbook: its source, its steps, its instances")
    get(f"{V1}/instances", reads.instances, Instances, "Runbooks on entities, and their states")
    get(f"{V1}/why/{{runbook}}", reads.why, WhyView, "Why a runbook is where it is; without an entity, where it is nearest to firing")
    get(f"{V1}/episodes", reads.episodes, Episodes, "From firing to clearing, newest first")
    get(f"{V1}/runs", reads.runs, Runs, "Runs, newest first")
    get(f"{V1}/runs/{{run_id:path}}", reads.run, RunDetail, "One run with its trace")
    get(f"{V1}/journal", reads.journal, Entries, "Search the journal, newest first")
    get(f"{V1}/approvals", reads.approvals, Approvals, "Plans that wait for a person, with the digest that an approval names")
    get(f"{V1}/gates", reads.gates, Gates, "What is halted")
    get(f"{V1}/routes", reads.routes, Entities, "Routes for collateral, with their readings")
    get(f"{V1}/stress", reads.stress, StressView, "The latest stress of the live book")
    get(f"{V1}/webhooks", reads.webhooks, Endpoints, "Where alerts go, and how that goes")
    get(f"{V1}/deliveries", reads.deliveries, Deliveries, "Messages to endpoints, newest first")
    get(f"{V1}/deadletters", reads.deadletters, Deliveries, "Messages that were never taken")
    closed: dict[int | str, dict[str, Any]] = {
        status: failing(said_of["description"], GateFailure) for status, said_of in READ_FAILURES.items()
    }
    router.add_api_route(
        f"{V1}/gate", reads.gate, methods=["GET"], response_model=None, responses={200: answering(GateAnswer), **closed}, tags=["read"],
        operation_id="gate",
        summary="May strategies open in this market? Whatever is not `open: true` is no.", route_class_override=guarded(guard.reader),
    )  # fmt: skip
    router.add_api_route(
        f"{V1}/stress/reports/{{name:path}}", reads.report, methods=["GET"], response_class=HTMLResponse, responses=READ_FAILURES,
        tags=["read"], operation_id="report", summary="A report as a page", route_class_override=guarded(guard.reader),
    )  # fmt: skip
    streamed: dict[int | str, dict[str, Any]] = {200: {"content": {"text/event-stream": {}}, "description": "Events until one of us goes."}}
    router.add_api_route(
        f"{V1}/stream", reads.stream, methods=["GET"], response_class=Response, responses={**READ_FAILURES, **streamed}, tags=["read"],
        operation_id="stream", route_class_override=guarded(guard.reader),
        summary="What happens, as server-sent events: snapshot, happening, lagged; Last-Event-ID goes on where a reader was",
    )  # fmt: skip
    for path, endpoint, model, summary in (
        ("/healthz", watch.healthz, Health, "Does the process live and its loop turn?"),
        ("/readyz", watch.readyz, Readiness, "Does it see, and can it act? 503 says what is lacking"),
    ):
        told: dict[int | str, dict[str, Any]] = {200: answering(model, "It is."), 503: answering(model, "It is not.")}
        router.add_api_route(
            path, endpoint, methods=["GET"], response_model=None, responses=told, summary=summary, tags=["watch"],
            operation_id=endpoint.__name__,
        )  # fmt: skip
    router.add_api_route(
        "/metrics", watch.metrics, methods=["GET"], response_class=Response, responses=READ_FAILURES, tags=["watch"],
        operation_id="metrics", summary="Metrics in Prometheus' text format", route_class_override=guarded(guard.reader),
    )  # fmt: skip

    async def openapi() -> Response:
        return JSONResponse(document())

    router.add_api_route(f"{V1}/openapi.json", openapi, methods=["GET"], include_in_schema=False, response_model=None)
    add_writes(router, asking, guard, guarded)
    return router


class Reads:
    """What can be read of a desk."""

    def __init__(self, desk: Desk, streams: Streams) -> None:
        self._desk = desk
        self._streams = streams

    async def status(self) -> Response:
        """The latest snapshot."""
        return said(await self._desk.now())

    async def whoami(self, request: Request) -> Response:
        """Who asks."""
        person: Person = request.state.person
        return said(Whoami(name=person.name, role=person.role, door=person.door, may=tuple(verb for verb in NEEDED if may(person, verb))))

    async def world(self, kind: EntityKind, signals: Signals = [], limit: EntityLimit = 1_000) -> Response:  # noqa: B006 - fastapi copies it
        """Entities of a kind."""
        return said(Entities(entities=await self._desk.world(kind.value, signals=tuple(signals), limit=limit)))

    async def entity(self, kind: EntityKind, entity: EntityId) -> Response:
        """One entity."""
        return said(await self._desk.entity(kind.value, entity))

    async def history(self, kind: EntityKind, entity: EntityId, signals: Signals = []) -> Response:  # noqa: B006 - fastapi copies it
        """What was seen of an entity's signals."""
        return said(Histories(series=await self._desk.history(kind.value, entity, tuple(signals))))

    async def runbooks(self) -> Response:
        """The set in force."""
        return said(Runbooks(runbooks=await self._desk.runbooks()))

    async def runbook(self, runbook: RunbookId) -> Response:
        """One runbook."""
        return said(await self._desk.runbook(runbook))

    async def instances(self, runbook: OfRunbook = "", entity: OfEntity = "") -> Response:
        """Every instance, or those of a runbook or an entity."""
        names = [runbook] if runbook else [view.id for view in await self._desk.runbooks()]
        found = [instance for name in names for instance in (await self._desk.runbook(name)).instances]
        return said(Instances(instances=tuple(instance for instance in found if entity in ("", instance.entity))))

    async def why(self, runbook: RunbookId, entity: OfEntity = "") -> Response:
        """Why an instance is where it is."""
        return said(await self._desk.why(runbook, entity))

    async def episodes(self, limit: Limit = 200) -> Response:
        """The latest episodes."""
        return said(Episodes(episodes=await self._desk.episodes(limit=limit)))

    async def runs(
        self, runbook: OfRunbook = "", entity: OfEntity = "", status: RunStatus = "", before: BeforeRun = "", limit: Limit = 100
    ) -> Response:
        """A page of runs."""
        found = await self._desk.runs(RunQuery(runbook=runbook, entity=entity, status=status, before=before, limit=limit))
        return said(Runs(runs=found, next_before=found[-1].run_id if len(found) == limit else None))

    async def run(self, run_id: RunId) -> Response:
        """One run."""
        return said(await self._desk.run(run_id))

    async def journal(
        self, text: Searched = "", type_: EntryType = "", role: EntryRole = "", since: Since = None, until: Until = None,
        before: BeforeEntry = None, limit: Limit = 100,
    ) -> Response:  # fmt: skip
        """A page of the journal."""
        query = EntryQuery(text=text, type=type_, role=role, since=since, until=until, before=before, limit=limit)
        return said(await self._desk.entries(query))

    async def approvals(self) -> Response:
        """Plans that wait."""
        return said(Approvals(approvals=tuple(need for need in (await self._desk.now()).needs if need.kind == "approval")))

    async def gates(self) -> Response:
        """What is halted."""
        now = await self._desk.now()
        return said(Gates(halted=now.halted, openings_halted=now.openings_halted, gates=now.gates))

    async def gate(self, request: Request, market: Market) -> Response:
        """May strategies open in this market? Whatever cannot be told is closed."""
        if len(request.query_params.getlist("market")) != 1:
            return as_json(request.url.path, Refused(422, "wrong_request", "market: ask for one market at a time"))
        try:
            async with asyncio.timeout(GATE_S):
                answer = await self._desk.gate(market)
        except NotKnown as error:
            return _closed(market, Refused(404, "not_known", str(error)))
        except Unavailable as error:
            return _closed(market, Refused(503, "unavailable", str(error)))
        except TimeoutError:
            return _closed(market, Refused(503, "no_answer", f"the daemon did not answer within {GATE_S:g} s"))
        if answer.market != market:
            return _closed(market, Refused(503, "fault", f"the daemon answered for {answer.market!r}"))
        return said(answer)

    async def routes(self) -> Response:
        """The routes."""
        return said(Entities(entities=await self._desk.routes()))

    async def stress(self) -> Response:
        """The scheduled stress."""
        return said(await self._desk.stress())

    async def report(self, name: ReportName) -> Response:
        """A report as a page."""
        return HTMLResponse(await self._desk.report(name), headers={"content-security-policy": REPORT_POLICY})

    async def webhooks(self) -> Response:
        """Where alerts go."""
        return said(Endpoints(endpoints=await self._desk.endpoints()))

    async def deliveries(self, endpoint: OfEndpoint = "", status: DeliveryStatus = "", limit: Limit = 200) -> Response:
        """Messages."""
        return said(Deliveries(deliveries=await self._desk.deliveries(endpoint=endpoint, status=status, limit=limit)))

    async def deadletters(self, endpoint: OfEndpoint = "", limit: Limit = 200) -> Response:
        """Dead letters."""
        return said(Deliveries(deliveries=await self._desk.deliveries(endpoint=endpoint, status="dead", limit=limit)))

    async def stream(self, request: Request) -> Response:
        """What happens from now on, or since the last event that was seen."""
        address = request.client.host if request.client is not None else "?"
        return EventSourceResponse(self._streams.open(address, request.headers.get("last-event-id", "")))


class Watch:
    """What watches a daemon: a supervisor, a load balancer, Prometheus."""

    def __init__(self, desk: Desk, guard: Doorkeeper, build: str, wall: Callable[[], float]) -> None:
        self._desk = desk
        self._guard = guard
        self._build = build
        self._wall = wall

    async def healthz(self) -> Response:
        """200 alive, 503 not."""
        try:
            found = health(await self._desk.now(), wall_s=self._wall())
        except Unavailable as error:
            found = Health(alive=False, age_s=None, why=str(error))
        return said(found, 200 if found.alive else 503)

    async def readyz(self, request: Request) -> Response:
        """200 ready, 503 not; what is lacking is told to whoever may read."""
        try:
            self._guard.tokens.tokens()  # read again when it changed
            found = readiness(await self._desk.now(), wall_s=self._wall(), tokens=self._guard.tokens.problem)
        except Unavailable as error:
            found = Readiness(ready=False, lacking=(str(error),))
        if not found.ready and self._guard.who(request) is None:
            found = Readiness(ready=False, lacking=("reading needs a token here",))
        return said(found, 200 if found.ready else 503)

    async def metrics(self) -> Response:
        """What Prometheus scrapes; a daemon that does not answer is told by `reefd_up 0`."""
        now: Now | None = None
        runbooks: tuple[RunbookView, ...] = ()
        try:
            now = await self._desk.now()
            runbooks = await self._desk.runbooks()
        except Unavailable:
            pass  # what is known is told: the snapshot without the limits, or that there is none
        return Response(exposition(now, runbooks, build=self._build, wall_s=self._wall()), media_type=CONTENT_TYPE)


def _closed(market: str, refused: Refused) -> Response:
    error = {"code": refused.code, "message": refused.message}
    body = {"open": False, "why": refused.message, "market": market, "at": None, "error": error}
    return JSONResponse(body, status_code=refused.status)
