"""Tokens of the operator's surface (floor 9): made, listed and revoked in the file that the daemon reads again when it changes."""

from __future__ import annotations

import json
import sys
from datetime import UTC, datetime
from pathlib import Path

from daemon.app import operator_show as show
from daemon.errors import UserError
from daemon.settings import load_settings
from daemon.units import NS, iso, parse_duration
from daemon.web.tokens import TokenFile, read_tokens


def new(config: Path, name: str, *, role: str, expires: str | None, json_format: bool) -> int:
    """Make a token and print its secret, once: it is kept nowhere. `expires` is a duration from now."""
    path = load_settings(config).http.tokens
    now = int(datetime.now(UTC).timestamp()) * NS
    ends = None
    if expires is not None:
        try:
            lasting = parse_duration(expires)
        except ValueError as error:
            raise UserError(f"--expires: {error}") from error
        if lasting <= 0:
            raise UserError(f"--expires: found {expires!r}; write how long it counts, for example 90d")
        ends = iso(now + lasting)
    secret = TokenFile(path).add(name, role, at=iso(now), expires=ends)
    if json_format:
        print(json.dumps({"name": name, "role": role, "expires": ends, "token": secret, "file": str(path)}))
        return 0
    print(secret)
    until = "" if ends is None else f" until {ends}"
    sys.stderr.write(f"{name} has the role {role}{until}. The token is shown this once and kept nowhere; {path} has its hash.\n")
    return 0


def listed(config: Path, *, json_format: bool) -> int:
    """Print who has a token, and what they may."""
    path = load_settings(config).http.tokens
    found = [
        {"name": token.name, "role": token.role, "created": token.created, "expires": token.expires}
        for token in (read_tokens(path) if path.exists() else ())
    ]
    if json_format:
        print(json.dumps({"file": str(path), "tokens": found}, indent=2))
    else:
        show.tokens(found)
    return 0


def revoke(config: Path, name: str, *, json_format: bool) -> int:
    """Take a token out: from the next request on it is refused, and the sessions that were opened with it end."""
    path = load_settings(config).http.tokens
    TokenFile(path).remove(name)
    if json_format:
        print(json.dumps({"revoked": name, "file": str(path)}))
    else:
        show.console().print(f"{name}'s token is revoked")
    return 0
