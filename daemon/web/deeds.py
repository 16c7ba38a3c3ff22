"""What a form asks for (floor 8): checked at the door, asked of the daemon, told on the page the person came from.

A form carries `csrf`, `back` (the page to return to), and what its verb needs: `target`, `reason`, `digest`, `lasting`. What is refused for
the person's sake (401, 403, 429) or for the daemon's (503) is a page of its own; what did nothing is told where it was asked.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from daemon.web.asking import Asking, Told
from daemon.web.desk import NEEDED, NotKnown, Person, Unavailable
from daemon.web.door import NOBODY, read_form
from daemon.web.refusals import Refused
from daemon.web.stage import Stage, local, refusal

TEXT_MAX = 500
BACK_TO_THE_PAGE = frozenset({404, 409, 422})


def handler(stage: Stage) -> Callable[[Request], Awaitable[Response]]:
    """Takes every form of the pages."""

    async def deed(request: Request) -> Response:
        verb = request.path_params["verb"]
        person = NOBODY
        back = "/"
        try:
            if verb not in NEEDED:
                raise NotKnown(f"there is nothing called {verb!r} to do; there are {', '.join(sorted(NEEDED))}")
            form = await read_form(request)
            back = local(form.get("back", "/"))
            person = await stage.door.acting(verb)(request)
            told = await perform(stage.asking, verb, person, form)
        except Refused as refused:
            if refused.status in BACK_TO_THE_PAGE and person.door != "open":
                return _to(back, stage.tellings.keep(refused.message, good=False))
            return await stage.write(request, _whoever(stage, request), refusal(refused))
        except (NotKnown, Unavailable) as error:
            return await stage.write(request, _whoever(stage, request), refusal(error))
        return _to(back, stage.tellings.keep(told.effect.effect, good=told.status == 200))

    return deed


def _whoever(stage: Stage, request: Request) -> Person:
    """Who asked, for the page that says no."""
    try:
        return stage.door.who(request) or NOBODY
    except Refused:
        return NOBODY


def _to(back: str, name: str) -> Response:
    address, mark, anchor = back.partition("#")
    return RedirectResponse(f"{address}{'&' if '?' in address else '?'}told={quote(name)}{mark}{anchor}", status_code=303)


async def perform(asking: Asking, verb: str, person: Person, form: Mapping[str, str]) -> Told:
    """Ask for what a form says; raises Refused, NotKnown or Unavailable."""
    target = form.get("target", "")
    reason = form.get("reason", "").strip()
    if len(reason) > TEXT_MAX or len(target) > TEXT_MAX:
        raise Refused(422, "too_long", f"a reason and a target have at most {TEXT_MAX} signs")
    match verb:
        case "approve":
            return await asking.approve(person, target, digest=form.get("digest", ""), reason=reason)
        case "deny":
            return await asking.deny(person, target, digest=form.get("digest", ""), reason=reason)
        case "ack":
            return await asking.ack(person, target, reason=reason)
        case "pause":
            return await asking.pause(person, target, reason=reason, lasting=form.get("lasting", ""))
        case "unpause":
            return await asking.unpause(person, target, reason=reason)
        case "halt":
            return await asking.halt(person, target, reason=reason)
        case "resume":
            return await asking.resume(person, target, reason=reason)
        case "reload":
            return await asking.reload(person)
        case "redeliver":
            return await asking.redeliver(person, target)
        case "enable":
            return await asking.enable(person, target)
        case "test":
            return await asking.test(person, target)
        case _:
            raise NotKnown(f"there is nothing called {verb!r} to do; there are {', '.join(sorted(NEEDED))}")
