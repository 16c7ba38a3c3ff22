"""The operator's surface as one application (floor 8): API, metrics, stream and pages behind one door.

    app = make_surface(desk, guard=Doorkeeper(...), build="0.1.0", flagged=Path("var/halt").exists)
    close_streams(app)               # from the server's loop, before the server is told to stop: its readers end then

Serve it with uvicorn; the lifespan starts and ends the one reading of the desk's stream.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response

from daemon.service.logging import log
from daemon.web.api import make_api
from daemon.web.asking import Asking
from daemon.web.desk import Desk, NotKnown, Unavailable
from daemon.web.door import Doorkeeper
from daemon.web.pages import make_pages
from daemon.web.refusals import HEADERS, Refused, as_json
from daemon.web.streams import Streams
from daemon.web.threshold import Threshold
from daemon.web.wire import schemas

API = "/api/"
TITLE = "reefd"
SUMMARY = (
    "What the daemon sees, decides and asks; and what people ask of it. Times are ISO-8601 UTC of the daemon's clock, ages and durations"
    " seconds, money USD, ratios fractions; null is UNKNOWN. Reading is open on a loopback address where `http.open_reading` says so;"
    " every change needs a token (`Authorization: Bearer reefd_...`) whose role allows it."
)

NO_JSON = "the body is no JSON; send an object, with content-type application/json"
SAID = {
    404: ("no_such_path", "there is no such path; /api/v1/openapi.json lists them"),
    405: ("wrong_method", "this path does not take this method; /api/v1/openapi.json lists them"),
}


def make_surface(
    desk: Desk,
    *,
    guard: Doorkeeper,
    build: str = "",
    flagged: Callable[[], bool] | None = None,
    wall: Callable[[], float] = time.time,
) -> FastAPI:
    """The application. `flagged` tells whether the halt flag is set; `wall` is seconds since 1970, for the age of the snapshot."""
    streams = Streams(desk)
    asking = Asking(desk, flagged=flagged)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        streams.start()
        yield
        await streams.stop()

    def described() -> dict[str, Any]:
        document = app.openapi()
        scheme = {"type": "http", "scheme": "bearer", "description": "A token, made by `reefd token new NAME --role approve`."}
        components = document.setdefault("components", {})
        components.setdefault("securitySchemes", {})["token"] = scheme
        components.setdefault("schemas", {}).update(schemas())
        return document

    app = FastAPI(
        title=TITLE, version=build or "0", description=SUMMARY, lifespan=lifespan, docs_url=None, redoc_url=None,
        openapi_url=None, telemetry={"tracing": False, "metrics": False, "logs": False},
    )  # fmt: skip
    app.state.streams = streams
    app.add_middleware(Threshold, ours=guard.is_ours, secure=guard.secure)
    for kind in (Refused, NotKnown, Unavailable, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, _say_no)
    app.include_router(make_api(desk, guard=guard, asking=asking, streams=streams, build=build, wall=wall, document=described))
    app.include_router(make_pages(desk, guard, asking=asking, wall=wall))
    return app


def close_streams(app: FastAPI) -> None:
    """End every open stream; call it on the server's loop when the server is to stop."""
    streams: Streams = app.state.streams
    streams.close()


async def _say_no(request: Request, error: Exception) -> Response:
    refused = refusal_of(error)
    path = request.url.path
    if refused.status == 500:
        log().error("web.fault", method=request.method, path=path, error=repr(error))
    if path.startswith(API) or "text/html" not in request.headers.get("accept", ""):
        return as_json(path, refused)
    return PlainTextResponse(f"{refused.message}\n", status_code=refused.status, headers={**HEADERS, **refused.headers})


def refusal_of(error: Exception) -> Refused:
    """What is said of an error."""
    match error:
        case Refused():
            return error
        case NotKnown():
            return Refused(404, "not_known", str(error))
        case Unavailable():
            return Refused(503, "unavailable", str(error), headers={"Retry-After": "5"})
        case RequestValidationError():
            return Refused(422, "wrong_request", "; ".join(_complaint(problem) for problem in error.errors()[:10]))
        case HTTPException(status_code=400):
            return Refused(422, "wrong_request", NO_JSON)  # bytes that are no text, or a thousand brackets
        case HTTPException():
            headers = dict(error.headers or {})
            code, message = SAID.get(error.status_code, ("refused", str(error.detail)))
            return Refused(error.status_code, code, message, headers=headers)
        case _:
            return Refused(500, "fault", "a fault of ours; it is in the log of the daemon")


def _complaint(problem: dict[str, object]) -> str:
    place = problem.get("loc")
    where = ".".join(str(part) for part in place[1:]) if isinstance(place, tuple | list) else ""
    if problem.get("type") == "json_invalid":
        return NO_JSON
    text = str(problem.get("msg", "wrong")).removeprefix("Value error, ")
    return f"{where or 'body'}: {text[:1].lower()}{text[1:]}"
