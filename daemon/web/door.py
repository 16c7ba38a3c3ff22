"""Who is at the door (floor 8): bearer tokens, browser sessions, and nobody at all; what each may do, and how often.

    guard = Doorkeeper(tokens=TokenFile(Path("var/tokens.yaml")), open_reading=True)
    person: Annotated[Person, Depends(guard.reader)]                 # whoever may read
    person: Annotated[Person, Depends(guard.acting("approve"))]      # whoever may do this; else Refused 401, 403 or 429

A program sends `Authorization: Bearer reefd_...`. A browser signs in once and has a cookie that no script can read and no other site
can send; whatever it asks to change also carries the session's `csrf` (a form's field, or the header X-CSRF-Token).
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Awaitable, Callable, Iterable
from urllib.parse import parse_qsl, urlsplit

from starlette.requests import Request
from starlette.responses import Response

from daemon.web.buckets import Buckets
from daemon.web.desk import NEEDED, Person, may
from daemon.web.refusals import Refused, sign_in_needed, too_many
from daemon.web.sessions import LIFE_S, Session, Sessions
from daemon.web.tokens import SECRET, TokenFile

LOOPBACK = frozenset({"localhost", "127.0.0.1", "::1", "[::1]"})
CSRF_FIELD = "csrf"
CSRF_HEADER = "x-csrf-token"
FORM_FIELDS_MAX = 64
SAFE = frozenset({"GET", "HEAD", "OPTIONS"})
WRITES_PER_MINUTE, WRITES_AT_ONCE = 30, 15
WRONG_SIGN_INS_PER_MINUTE, WRONG_SIGN_INS_AT_ONCE = 5, 5
WRONG_TOKENS_PER_MINUTE, WRONG_TOKENS_AT_ONCE = 30, 30
NEVER_HELD_UP = frozenset({"halt"})  # whoever may stop everything is not made to wait
NOBODY = Person(name="", role="view", door="open")


class Doorkeeper:
    """Says who asks and whether they may. `hosts`: names beside the loopback's under which the surface is asked; `secure`: behind https.

    `clock` counts seconds (sessions, limits), `wall` seconds since 1970 (when a token expires).
    """

    def __init__(
        self, *, tokens: TokenFile, open_reading: bool, hosts: Iterable[str] = (), public_url: str | None = None,
        clock: Callable[[], float] = time.monotonic, wall: Callable[[], float] = time.time,
    ) -> None:  # fmt: skip
        self.open_reading = open_reading
        self.tokens = tokens
        public = urlsplit(public_url or "")
        self.secure = public.scheme == "https"
        self._origin = f"{public.scheme}://{public.netloc}".lower() if public.netloc else ""
        self._hosts = LOOPBACK | {host.lower() for host in hosts} | ({public.hostname} if public.hostname else set())
        self._wall = wall
        self._sessions = Sessions(clock=clock)
        self._writes = Buckets(per_minute=WRITES_PER_MINUTE, burst=WRITES_AT_ONCE, clock=clock)
        self._wrong_sign_ins = Buckets(per_minute=WRONG_SIGN_INS_PER_MINUTE, burst=WRONG_SIGN_INS_AT_ONCE, clock=clock)
        self._wrong_tokens = Buckets(per_minute=WRONG_TOKENS_PER_MINUTE, burst=WRONG_TOKENS_AT_ONCE, clock=clock)

    # --- who ---------------------------------------------------------------------------------------------------------------

    def who(self, request: Request) -> Person | None:
        """Whoever asks: of their token, else of their session, else nobody when reading is open; None: they must say who they are.

        Raises Refused 401 for a token that is not known: whoever shows one wants to know that it does not count.
        """
        shown = request.headers.get("authorization")
        if shown is not None:
            return self._bearer(request, shown)
        session = self.session(request)
        if session is not None:
            token = self.tokens.of(session.token, at_s=self._wall())
            if token is not None:
                return Person(name=token.name, role=token.role, door="session")
            self.sign_out(request)
        return NOBODY if self.open_reading else None

    def _bearer(self, request: Request, shown: str) -> Person:
        scheme, _, secret = shown.partition(" ")
        secret = secret.strip()
        token = None
        if scheme.lower() == "bearer" and SECRET.fullmatch(secret):
            token = self.tokens.find(secret, at_s=self._wall())
        if token is not None:
            return Person(name=token.name, role=token.role, door="token")
        wait_s = self._wrong_tokens.take(_address(request))
        if wait_s:
            raise too_many("too many wrong tokens from this address", wait_s)
        told = f"; {self.tokens.problem}" if self.tokens.problem and _address(request) in LOOPBACK else ""
        raise sign_in_needed(
            f"this token is not known, or has expired; make one with: reefd token new NAME --role approve{told}", error="invalid_token"
        )

    def named(self, secret: str, verb: str) -> str | None:
        """The name behind a token that may do `verb`, for doors other than this one; None when it may not, or is none."""
        token = self.tokens.find(secret, at_s=self._wall())
        if token is None or not may(Person(name=token.name, role=token.role, door="token"), verb):
            return None
        return token.name

    async def reader(self, request: Request) -> Person:
        """A dependency: whoever may read. Raises Refused 401."""
        person = self.who(request)
        if person is None:
            raise sign_in_needed("reading needs a token here: Authorization: Bearer reefd_...; make one with: reefd token new NAME")
        return person

    def acting(self, verb: str) -> Callable[[Request], Awaitable[Person]]:
        """A dependency: whoever may do `verb`. Raises Refused: 401 nobody, 403 wrong role, site or form, 429 too often."""

        async def actor(request: Request) -> Person:
            person = self.who(request)
            if person is None or person.door == "open":
                raise sign_in_needed(f"to {verb}, send a token: Authorization: Bearer reefd_...; make one with: reefd token new NAME")
            if person.door == "session":
                await self._same_site(request)
            if not may(person, verb):
                needed = NEEDED.get(verb, "admin")
                raise Refused(403, "role_too_low", f"{person.name} has the role {person.role}; to {verb} needs the role {needed}")
            if verb not in NEVER_HELD_UP:
                wait_s = self._writes.take(person.name)
                if wait_s:
                    raise too_many(f"{person.name} asked for more than {WRITES_PER_MINUTE} changes a minute", wait_s)
            return person

        return actor

    # --- browsers ----------------------------------------------------------------------------------------------------------

    def sign_in(self, request: Request, secret: str) -> str:
        """A new session for whoever knows the secret of a token; returns its id, for `give`. Raises Refused 401, 403 or 429."""
        self._from_here(request)
        address = _address(request)
        secret = secret.strip()
        # The right token is never made to wait: whoever shares its address with somebody who guesses would be locked out by them.
        token = self.tokens.find(secret, at_s=self._wall()) if SECRET.fullmatch(secret) else None
        if token is None:
            wait_s = self._wrong_sign_ins.take(address)
            if wait_s:
                raise too_many("too many wrong sign-ins from this address", wait_s)
            raise sign_in_needed("this token is not known, or has expired", error="invalid_token")
        self.sign_out(request)
        return self._sessions.begin(token.digest)

    def sign_out(self, request: Request) -> None:
        """End the session of a request; nothing happens when there is none."""
        self._sessions.end(request.cookies.get(self.cookie, ""))

    async def leave(self, request: Request) -> None:
        """Sign out as a browser asks for it; raises Refused 403 when another site did."""
        if self.session(request) is not None:
            await self._same_site(request)
            self.sign_out(request)

    def session(self, request: Request) -> Session | None:
        """The session of a request's cookie, if it lives."""
        session_id = request.cookies.get(self.cookie, "")
        return self._sessions.find(session_id) if session_id else None

    def csrf(self, request: Request) -> str:
        """What every form of this browser carries in its field `csrf`; empty without a session."""
        session = self.session(request)
        return "" if session is None else session.csrf

    @property
    def cookie(self) -> str:
        """The cookie's name; with the prefix `__Host-` a browser takes it from https and this host alone."""
        return "__Host-reefd" if self.secure else "reefd_session"

    def give(self, response: Response, session_id: str) -> None:
        """Set the session's cookie."""
        response.set_cookie(self.cookie, session_id, max_age=int(LIFE_S), path="/", secure=self.secure, httponly=True, samesite="strict")

    def take(self, response: Response) -> None:
        """Delete the session's cookie."""
        response.delete_cookie(self.cookie, path="/", secure=self.secure, httponly=True, samesite="strict")

    async def _same_site(self, request: Request) -> None:
        """A change that a cookie vouches for comes from our own page: by its origin, and by the session's csrf."""
        if request.method in SAFE:
            raise Refused(403, "wrong_method", "a change is asked for by POST")
        self._from_here(request)
        session = self.session(request)
        shown = request.headers.get(CSRF_HEADER) or (await read_form(request)).get(CSRF_FIELD, "")
        if session is None or not hmac.compare_digest(session.csrf.encode(), shown.encode()):
            raise Refused(403, "wrong_csrf", "this form is not of your session, or is older than it; load the page again")

    def _from_here(self, request: Request) -> None:
        """Refused when a browser says that another site sent this."""
        site = request.headers.get("sec-fetch-site")
        origin = request.headers.get("origin")
        if site is not None and site not in ("same-origin", "none"):
            raise Refused(403, "wrong_site", "another site asked for this; do it from reefd's own page")
        if origin is not None and origin.lower() not in self._origins(request):
            raise Refused(403, "wrong_origin", f"the page of {origin[:200]!r} asked for this; do it from reefd's own page")

    def _origins(self, request: Request) -> set[str]:
        own = {f"{request.url.scheme}://{request.headers.get('host', '')}".lower()}
        return own | ({self._origin} if self._origin else set())

    # --- where -------------------------------------------------------------------------------------------------------------

    def is_ours(self, host: str) -> bool:
        """True when a request's `Host` is a name of ours: another one would be a name that somebody let point to this machine."""
        name = host.lower().strip()
        name = name[: name.index("]") + 1] if name.startswith("[") and "]" in name else name.partition(":")[0]
        return name.rstrip(".") in self._hosts


def _address(request: Request) -> str:
    return request.client.host if request.client is not None else "?"


async def read_form(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form, the first of each name; empty for any other body. Raises Refused 422 for what is no form."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return {}
    try:
        text = (await request.body()).decode("ascii")
        fields = parse_qsl(text, keep_blank_values=True, max_num_fields=FORM_FIELDS_MAX, errors="strict")
    except ValueError:
        raise Refused(422, "no_form", f"the form cannot be read; send at most {FORM_FIELDS_MAX} fields of UTF-8, percent-encoded") from None
    found: dict[str, str] = {}
    for name, value in fields:
        found.setdefault(name, value)
    return found
