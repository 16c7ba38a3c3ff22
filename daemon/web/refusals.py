"""How the surface says no (floor 8): one shape for every error, `{"error": {"code": ..., "message": ...}}`.

    raise Refused(403, "role_too_low", "ana may view; approving needs the role approve or admin")

What is refused on the way to the gate says `"open": false` too: a strategy that reads only `open` must never be told true by accident.
"""

from __future__ import annotations

from collections.abc import Mapping

from starlette.responses import JSONResponse, Response

GATE_PATH = "/api/v1/gate"
HEADERS: Mapping[str, str] = {
    "content-security-policy": (
        "default-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    # Not `no-referrer`: under it browsers send `Origin: null` with a form, and the check of the origin could not tell ours from another's.
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=()",
    "cache-control": "no-store",
}


class Refused(Exception):
    """A request that is not served: `status` 4xx or 503, a code for programs, and a text that says what to do."""

    def __init__(self, status: int, code: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def sign_in_needed(message: str, *, error: str = "") -> Refused:
    """401: nobody said who they are, or with a token that is not known; `error` is of RFC 6750."""
    challenge = 'Bearer realm="reefd"' + (f', error="{error}"' if error else "")
    return Refused(401, "sign_in_needed", message, headers={"WWW-Authenticate": challenge})


def too_many(message: str, wait_s: float) -> Refused:
    """429: later; `wait_s` until it may work, in seconds."""
    return Refused(429, "too_many_requests", message, headers={"Retry-After": str(max(1, int(-(-wait_s // 1))))})


def as_json(path: str, refused: Refused) -> Response:
    """The refusal as JSON; on the gate's path it says that the gate is closed."""
    body: dict[str, object] = {"error": {"code": refused.code, "message": refused.message}}
    if path.rstrip("/").endswith(GATE_PATH):
        body = {"open": False, "why": refused.message, "market": None, "at": None, **body}
    return JSONResponse(body, status_code=refused.status, headers={**HEADERS, **refused.headers})
