"""Signing in and out with a browser (floor 8): `POST /login` with a token, `POST /logout`. The pages around them are in `pages.py`.

A browser that asks for pages is led on: to `next` after signing in, to `/login` after signing out. A wrong token is refused with 401, too
many with 429; the surface shows that as the sign-in page again.
"""

from __future__ import annotations

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daemon.web.door import Doorkeeper, read_form

HOME = "/"
LOGIN = "/login"
NEXT_MAX = 500


def make_signin(guard: Doorkeeper) -> APIRouter:
    """The two paths."""
    router = APIRouter(include_in_schema=False)

    async def login(request: Request) -> Response:
        form = await read_form(request)
        session_id = guard.sign_in(request, form.get("token", ""))
        response = RedirectResponse(inside(form.get("next", HOME)), status_code=303)
        guard.give(response, session_id)
        return response

    async def logout(request: Request) -> Response:
        await guard.leave(request)
        response = RedirectResponse(LOGIN, status_code=303)
        guard.take(response)
        return response

    router.add_api_route(LOGIN, login, methods=["POST"], response_model=None)
    router.add_api_route("/logout", logout, methods=["POST"], response_model=None)
    return router


def inside(target: str) -> str:
    """Where to go on: a path of this surface, or its first page. Never another site, whatever a link said."""
    if len(target) > NEXT_MAX or not target.isprintable() or not target.startswith("/") or target.startswith("//") or "\\" in target:
        return HOME
    return target
