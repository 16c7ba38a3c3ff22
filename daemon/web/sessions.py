"""Browser sessions (floor 8): kept in memory, found by the hash of a random id that only the browser's cookie holds.

A session ends 12 h after the sign-in, after an hour without a request, at a sign-out, with its token, and with the daemon.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

LIFE_S = 12 * 3600.0
IDLE_S = 3600.0
SESSIONS_MAX = 1_000
ID_BYTES = 32


@dataclass(slots=True, kw_only=True)
class Session:
    """A browser that signed in with a token; `csrf` must come back with everything that it asks to change."""

    token: str  # the hex sha256 of the token it signed in with: revoked, the session ends
    csrf: str
    began: float
    seen: float


class Sessions:
    """The sessions there are. Times are seconds of `clock`."""

    def __init__(self, *, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._kept: OrderedDict[str, Session] = OrderedDict()

    def begin(self, token: str) -> str:
        """A new session of a token's hash; returns the id for the cookie. The one seen longest ago makes room when there are too many."""
        session_id, now = secrets.token_urlsafe(ID_BYTES), self._clock()
        self._kept[_hashed(session_id)] = Session(token=token, csrf=secrets.token_urlsafe(ID_BYTES), began=now, seen=now)
        while len(self._kept) > SESSIONS_MAX:
            self._kept.popitem(last=False)
        return session_id

    def find(self, session_id: str) -> Session | None:
        """The session of an id, if it lives; asking keeps it from idling."""
        key, now = _hashed(session_id), self._clock()
        session = self._kept.get(key)
        if session is None:
            return None
        if now - session.began >= LIFE_S or now - session.seen >= IDLE_S:
            del self._kept[key]
            return None
        session.seen = now
        self._kept.move_to_end(key)
        return session

    def end(self, session_id: str) -> None:
        """Forget a session; nothing happens when there is none."""
        self._kept.pop(_hashed(session_id), None)


def _hashed(session_id: str) -> str:
    return hashlib.sha256(session_id.encode()).hexdigest()
