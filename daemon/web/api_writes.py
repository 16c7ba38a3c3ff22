"""The HTTP API (floor 8): what people ask for. Every write needs a token or a session, and is journaled with who asked.

`Idempotency-Key` (up to 100 letters, digits, `.`, `_`, `-`, `:`) makes a command count once for whoever sends it twice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Annotated, Any

from fastapi import APIRouter, Header
from fastapi.routing import APIRoute
from starlette.requests import Request
from starlette.responses import Response

from daemon.service.views import Effect
from daemon.web.asking import Asking, Told
from daemon.web.desk import Person
from daemon.web.door import Doorkeeper
from daemon.web.wire import (
    AckBody,
    ApproveBody,
    DeliveryId,
    DenyBody,
    EndpointName,
    HaltBody,
    PauseBody,
    RunId,
    TargetBody,
    answering,
    failing,
    said,
)

V1 = "/api/v1"
Guarding = Callable[[Callable[[Request], Awaitable[Person]]], type[APIRoute]]
Key = Annotated[
    str,
    Header(
        alias="Idempotency-Key", max_length=100, pattern=r"^[A-Za-z0-9._:-]*$",
        description="Makes the command count once: sent again by the same person for the same thing it answers as before.",
    ),
]  # fmt: skip
WRITE_FAILURES: dict[int | str, dict[str, Any]] = {
    401: failing("Nobody said who they are."),
    403: failing("The role is too low, or the request is not of this session's own pages."),
    404: failing("There is no such thing; the message says what there is."),
    409: failing("It did nothing, and why."),
    422: failing("It makes no sense; the message says what to write."),
    429: failing("Too often; Retry-After says when."),
    503: failing("The daemon does not answer; the message says what is certain."),
}


def add_writes(router: APIRouter, asking: Asking, guard: Doorkeeper, guarded: Guarding) -> None:
    """Add every path that changes something."""
    deeds = Deeds(asking)

    def post(path: str, endpoint: Callable[..., Awaitable[Response]], verb: str, summary: str, name: str = "") -> None:
        router.add_api_route(
            f"{V1}/{path}", endpoint, methods=["POST"], response_model=None, summary=summary, tags=["ask"],
            operation_id=name or endpoint.__name__, route_class_override=guarded(guard.acting(verb)),
            responses={200: answering(Effect), **WRITE_FAILURES},
            openapi_extra={"security": [{"token": []}]},
        )  # fmt: skip

    post("approvals/{run_id:path}/approve", deeds.approve, "approve", "Approve exactly the plan whose digest was seen")
    post("approvals/{run_id:path}/deny", deeds.deny, "deny", "Deny a plan")
    post("runs/{run_id:path}/approve", deeds.approve, "approve", "Approve exactly the plan whose digest was seen", "approve_run")
    post("runs/{run_id:path}/deny", deeds.deny, "deny", "Deny a plan", "deny_run")
    post("pause", deeds.pause, "pause", "Let runs wait, for a time and a reason")
    post("unpause", deeds.unpause, "unpause", "End a pause")
    post("halt", deeds.halt, "halt", "Stop: the kill switch, every opening, or the openings of one entity")
    post("resume", deeds.resume, "resume", "End a halt")
    post("ack", deeds.ack, "ack", "Say that something was seen to")
    post("reload", deeds.reload, "reload", "Read the runbooks anew")
    post("webhooks/{name}/test", deeds.test, "test", "Send a test message now")
    post("webhooks/{name}/enable", deeds.enable, "enable", "Send again to an endpoint that had said 410")
    post("deadletters/{delivery_id:path}/redeliver", deeds.redeliver, "redeliver", "Put a dead letter back into its lane")


class Deeds:
    """What can be asked of a desk."""

    def __init__(self, asking: Asking) -> None:
        self._asking = asking

    async def approve(self, request: Request, run_id: RunId, body: ApproveBody, key: Key = "") -> Response:
        """Approve a plan."""
        return _said(await self._asking.approve(_person(request), run_id, digest=body.digest, reason=body.reason, key=key))

    async def deny(self, request: Request, run_id: RunId, body: DenyBody | None = None, key: Key = "") -> Response:
        """Deny a plan."""
        body = body or DenyBody()
        return _said(await self._asking.deny(_person(request), run_id, digest=body.digest, reason=body.reason, key=key))

    async def pause(self, request: Request, body: PauseBody, key: Key = "") -> Response:
        """Pause."""
        told = await self._asking.pause(
            _person(request), body.target, reason=body.reason, lasting=body.lasting, until=body.until, key=key
        )  # fmt: skip
        return _said(told)

    async def unpause(self, request: Request, body: TargetBody | None = None, key: Key = "") -> Response:
        """End a pause."""
        body = body or TargetBody()
        return _said(await self._asking.unpause(_person(request), body.target, reason=body.reason, key=key))

    async def halt(self, request: Request, body: HaltBody | None = None, key: Key = "") -> Response:
        """Halt."""
        body = body or HaltBody()
        return _said(await self._asking.halt(_person(request), body.target, reason=body.reason, key=key))

    async def resume(self, request: Request, body: TargetBody | None = None, key: Key = "") -> Response:
        """End a halt."""
        body = body or TargetBody()
        return _said(await self._asking.resume(_person(request), body.target, reason=body.reason, key=key))

    async def ack(self, request: Request, body: AckBody, key: Key = "") -> Response:
        """Acknowledge."""
        return _said(await self._asking.ack(_person(request), body.target, reason=body.reason, key=key))

    async def reload(self, request: Request) -> Response:
        """Reload."""
        return _said(await self._asking.reload(_person(request)))

    async def test(self, request: Request, name: EndpointName) -> Response:
        """Test an endpoint."""
        return _said(await self._asking.test(_person(request), name))

    async def enable(self, request: Request, name: EndpointName) -> Response:
        """Enable an endpoint."""
        return _said(await self._asking.enable(_person(request), name))

    async def redeliver(self, request: Request, delivery_id: DeliveryId) -> Response:
        """Redeliver."""
        return _said(await self._asking.redeliver(_person(request), delivery_id))


def _person(request: Request) -> Person:
    person: Person = request.state.person
    return person


def _said(told: Told) -> Response:
    return said(told.effect, told.status)
