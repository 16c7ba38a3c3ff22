"""The dashboard (floor 8): pages that a server writes and any browser shows, with or without a script.

    app.include_router(make_pages(desk, door))

What is read is in `leaves.py`, what is asked for in `deeds.py`; the words are in `templates/`, the looks in `static/`.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daemon.web import deeds, leaves
from daemon.web.asking import Asking
from daemon.web.desk import Desk
from daemon.web.door import NOBODY, Doorkeeper, read_form
from daemon.web.refusals import Refused
from daemon.web.stage import STATIC, Names, Sheet, Stage, Telling, Tellings, asset, local

FOREVER = "public, max-age=31536000, immutable"  # of an address that names the content


def make_pages(desk: Desk, door: Doorkeeper, *, asking: Asking | None = None, wall: Callable[[], float] = time.time) -> APIRouter:
    """All pages as one router. `wall` is seconds since 1970, for the age of what is shown."""
    stage = Stage(desk=desk, door=door, asking=asking or Asking(desk), wall=wall, tellings=Tellings(wall), names=Names(wall))
    router = APIRouter(include_in_schema=False)
    for path, handler in leaves.handlers(stage).items():
        router.add_api_route(path, handler, methods=["GET", "HEAD"], response_model=None)
    router.add_api_route("/do/{verb}", deeds.handler(stage), methods=["POST"], response_model=None)
    for path, method, doing in _door(stage):
        router.add_api_route(path, doing, methods=[method], response_model=None)
    router.add_api_route("/static/{name}", _static, methods=["GET", "HEAD"], response_model=None)
    return router


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in STATIC:
        return Response("there is no such file\n", status_code=404, media_type="text/plain")
    content, mark = asset(name)
    headers = {"cache-control": FOREVER if request.query_params.get("v") == mark else "no-cache", "etag": f'"{mark}"'}
    if request.headers.get("if-none-match") == headers["etag"]:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=STATIC[name], headers=headers)


def _door(stage: Stage) -> list[tuple[str, str, Callable[..., object]]]:
    """Signing in and out."""

    async def ask(request: Request) -> Response:
        return await _sign_in_page(stage, request)

    async def enter(request: Request) -> Response:
        form = await read_form(request)
        try:
            session_id = stage.door.sign_in(request, form.get("token", ""))
        except Refused as refused:
            return await _sign_in_page(stage, request, refused, going=form.get("next", "/"))
        answer = RedirectResponse(local(form.get("next", "/")), status_code=303)
        stage.door.give(answer, session_id)
        return answer

    async def leave(request: Request) -> Response:
        try:
            await stage.door.leave(request)
        except Refused as refused:
            return await stage.write(request, NOBODY, Sheet(template="refused.html", title="Not allowed", status=refused.status,
                                                            values={"text": refused.message, "status": refused.status}))  # fmt: skip
        answer = RedirectResponse("/login", status_code=303)
        stage.door.take(answer)
        return answer

    async def ask_leave(request: Request) -> Response:
        person = stage.door.who(request) or NOBODY
        if person.door != "session":
            return RedirectResponse("/login", status_code=303)
        return await stage.write(request, person, Sheet(template="logout.html", title="Sign out"))

    return [("/login", "GET", ask), ("/login", "POST", enter), ("/logout", "GET", ask_leave), ("/logout", "POST", leave)]


async def _sign_in_page(stage: Stage, request: Request, refused: Refused | None = None, going: str = "") -> Response:
    person = NOBODY
    try:
        person = stage.door.who(request) or NOBODY
    except Refused as error:
        refused = refused or error
    telling = None if refused is None else Telling(text=refused.message, good=False, at_s=stage.wall())
    going = local(going or request.query_params.get("next", "/"))
    sheet = Sheet(template="login.html", title="Sign in", values={"going": going}, status=200 if refused is None else refused.status)
    answer = await stage.write(request, person, sheet, telling)
    for name, value in (refused.headers if refused is not None else {}).items():
        if name != "WWW-Authenticate":  # a browser would ask in a window of its own
            answer.headers[name] = value
    return answer
