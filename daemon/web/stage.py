"""What every page shares (floor 8): the frame with its line, its buttons and what was just done; and how a page says that it cannot.

A handler returns a Sheet: which template, under which title, with which values. What it raises (Refused, NotKnown, Unavailable) becomes
a page too, with the halt still under the thumb.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib.resources import files

from jinja2 import Environment, PackageLoader, StrictUndefined, pass_context
from jinja2.runtime import Context
from starlette.requests import Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from daemon.service.views import STANDS_AFTER_S, Now
from daemon.web import presenters
from daemon.web.asking import Asking
from daemon.web.desk import NEEDED, Desk, NotKnown, Person, Unavailable, may
from daemon.web.door import NOBODY, Doorkeeper
from daemon.web.reasons import verdict
from daemon.web.refusals import Refused

TOLD_S = 120.0  # how long what was just done is shown
TOLD_MAX = 500
STATIC: Mapping[str, str] = {"reefd.css": "text/css", "reefd.js": "text/javascript", "icon.svg": "image/svg+xml"}
DURATIONS = (("15m", "15 minutes"), ("1h", "1 hour"), ("4h", "4 hours"), ("12h", "12 hours"), ("1d", "1 day"), ("7d", "7 days"))
PAUSABLE_S = 30.0  # how long the names of the runbooks are remembered for the form of a pause
NAVIGATION = (
    ("/", "Now"),
    ("/runs", "Runs"),
    ("/runbooks", "Runbooks"),
    ("/markets", "Markets"),
    ("/accounts", "Accounts"),
    ("/alerts", "Alerts"),
    ("/journal", "Journal"),
    ("/stress", "Stress"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A page to be written: its template, its title and what it shows. `now` spares the frame a second look."""

    template: str
    title: str
    values: Mapping[str, object] = field(default_factory=dict)
    status: int = 200
    now: Now | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """What came of what a person asked for; shown to that person on the page they are sent back to."""

    text: str
    good: bool
    at_s: float


class Tellings:
    """What was just done, by a random name that travels in the address; forgotten after two minutes."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._kept: OrderedDict[str, Telling] = OrderedDict()

    def keep(self, text: str, *, good: bool) -> str:
        """Keep it; its name."""
        name = secrets.token_urlsafe(9)
        self._kept[name] = Telling(text=text, good=good, at_s=self._wall())
        while len(self._kept) > TOLD_MAX:
            self._kept.popitem(last=False)
        return name

    def find(self, name: str) -> Telling | None:
        """What is kept under a name, as long as it is news."""
        telling = self._kept.get(name)
        return telling if telling is not None and self._wall() - telling.at_s < TOLD_S else None


class Names:
    """The names of the runbooks in force, asked for at most every half minute."""

    def __init__(self, wall: Callable[[], float]) -> None:
        self._wall = wall
        self._known: tuple[str, ...] = ()
        self._asked_at_s = -PAUSABLE_S

    async def known(self, desk: Desk) -> tuple[str, ...]:
        """What was known last; everything can be paused without it."""
        if self._wall() - self._asked_at_s >= PAUSABLE_S:
            self._asked_at_s = self._wall()
            try:
                self._known = tuple(view.id for view in await desk.runbooks())
            except Unavailable:
                return self._known
        return self._known


@dataclass(frozen=True, slots=True, kw_only=True)
class Right:
    """Whether a person may do something, and if not, the reason that stands beside the button."""

    ok: bool
    why: str


def rights(person: Person) -> Callable[[str], Right]:
    """What a person may do, by verb."""

    def right(verb: str) -> Right:
        if may(person, verb):
            return Right(ok=True, why="")
        if person.door == "open":
            return Right(ok=False, why="sign in to act")
        return Right(ok=False, why=f"{person.name} has the role {person.role}; this needs {NEEDED.get(verb, 'admin')}")

    return right


@cache
def asset(name: str) -> tuple[bytes, str]:
    """A static file and the mark of its content."""
    content = (files("daemon.web") / "static" / name).read_bytes()
    return content, hashlib.sha256(content).hexdigest()[:12]


@pass_context
def _said(context: Context, text: str) -> str:
    """A text of the daemon's by the clock of the page that it stands on."""
    clock: presenters.Clock = context["clock"]
    return clock.said(text)


@cache
def templates() -> Environment:
    """The templates with their filters; everything that is filled in is escaped."""
    found = Environment(
        loader=PackageLoader("daemon.web", "templates"), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
        auto_reload=False,
    )  # fmt: skip
    found.filters |= {
        "usd": presenters.usd,
        "ratio": presenters.ratio,
        "price": presenters.price,
        "quantity": presenters.quantity,
        "span": presenters.span,
        "said": _said,
        "breakable": presenters.breakable,
        "path": presenters.path,
        "pretty": presenters.pretty,
    }
    found.globals |= {
        "icon": presenters.icon,
        "badge": presenters.badge,
        "share": presenters.share,
        "verdict": verdict,
        "durations": DURATIONS,
        "lines": presenters.LINES,
        "tones": presenters.TONES,
        "navigation": NAVIGATION,
        "asset": lambda name: f"/static/{name}?v={asset(name)[1]}",
    }
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Where the pages stand: the desk they show, the door they are behind, and what was just done. `wall`: seconds since 1970."""

    desk: Desk
    door: Doorkeeper
    asking: Asking
    wall: Callable[[], float] = time.time
    tellings: Tellings
    names: Names

    def shown(self, build: Callable[[Request, Person], Awaitable[Sheet | Response]]) -> Callable[[Request], Awaitable[Response]]:
        """A page for whoever may read; others are sent to the sign-in."""

        async def handler(request: Request) -> Response:
            person = NOBODY
            try:
                found = self.door.who(request)
                if found is None:
                    return RedirectResponse("/login?next=" + presenters.path(_here(request)), status_code=303)
                person = found
                sheet = await build(request, person)
            except (Refused, NotKnown, Unavailable) as error:
                sheet = refusal(error)
            return sheet if isinstance(sheet, Response) else await self.write(request, person, sheet)

        return handler

    async def write(self, request: Request, person: Person, sheet: Sheet, telling: Telling | None = None) -> Response:
        """The sheet in its frame."""
        reading = person.door != "open" or self.door.open_reading
        now = (sheet.now or await self._now()) if reading else None
        wall = self.wall()
        old_s = 0.0 if now is None else max(0.0, wall - presenters.seconds_of(now.published))
        # The daemon's clock goes on while the page is on its way; a snapshot that stands does not stop it.
        at_s = wall if now is None else presenters.seconds_of(now.at) + old_s * now.speed
        text = templates().get_template(sheet.template).render(
            title=sheet.title,
            now=now,
            clock=presenters.Clock(at_s=at_s),
            at_ms=round(at_s * 1000),
            old_s=old_s,
            old=old_s > STANDS_AFTER_S,
            person=person,
            right=rights(person),
            csrf=self.door.csrf(request),
            told=telling or self.tellings.find(request.query_params.get("told", "")),
            here=_here(request),
            reading=reading,
            fetched=request.method in ("GET", "HEAD"),
            ackable=[need for need in now.needs if "ack" in need.verbs] if now is not None else [],
            pausable=await self.names.known(self.desk) if now is not None else (),
            section="/" + request.url.path.strip("/").partition("/")[0],
            **sheet.values,
        )
        return HTMLResponse(text, status_code=sheet.status)

    async def _now(self) -> Now | None:
        try:
            return await self.desk.now()
        except Unavailable:
            return None


def refusal(error: Refused | NotKnown | Unavailable) -> Sheet:
    """A page that says why there is none, and what to do."""
    match error:
        case NotKnown():
            title, status, text = "Not known", 404, str(error)
        case Unavailable():
            title, status, text = "The daemon does not answer", 503, str(error)
        case Refused():
            titles = {401: "Sign in", 403: "Not allowed", 404: "Not known", 409: "It did nothing", 429: "Too often", 503: "No answer"}
            title, status, text = titles.get(error.status, "Refused"), error.status, error.message
    return Sheet(template="refused.html", title=title, values={"text": text, "status": status}, status=status)


def _here(request: Request) -> str:
    """The page's own address without what was told on it."""
    query = "&".join(part for part in request.url.query.split("&") if part and not part.startswith("told="))
    return request.url.path + (f"?{query}" if query else "")


def local(address: str) -> str:
    """A path of ours to go on to; `/` for anything that would lead elsewhere."""
    plain = all(32 < ord(sign) < 127 and sign != "\\" for sign in address)
    return address if plain and address.startswith("/") and not address.startswith("//") else "/"
