"""Tokens (floor 8): who may do what, kept as hashes in a file that is read again when it changes.

    tokens = TokenFile(Path("var/tokens.yaml"), fixed=(write_operator_token(Path("var/operator.token"), at="2026-10-01T00:00:00Z"),))
    secret = tokens.add("ana", "approve", at="2026-10-01T00:00:00Z")     # shown once, never kept
    tokens.find(secret, at_s=...)                                        # the Token, or None

A file that cannot be read or has a mistake admits nobody: `problem` says why, and the operator's own token goes on working.
"""

from __future__ import annotations

import hashlib
import hmac
import os
import re
import secrets
from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from daemon.errors import UserError
from daemon.runbook.document import compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.units import NS, parse_iso
from daemon.web.desk import Role

PREFIX = "reefd_"
OPERATOR = "operator"  # whom the local command line acts as when nobody gives a token of their own
NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}")
SECRET = re.compile(rf"{PREFIX}[A-Za-z0-9_-]{{20,200}}")
BYTES = 32  # 256 bit; 128 would do
FILE_BYTES_MAX = 1 << 20
ROLES: tuple[str, ...] = get_args(Role)
HEADER = "# Who may use the surface; written by `reefd token`. Only hashes are kept. The daemon reads this again when it changes.\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """A token as it is kept: `digest` is the hex sha256 of the secret; `expires` ISO, None never."""

    name: str
    role: Role
    digest: str
    created: str
    expires: str | None = None

    def over(self, at_s: float) -> bool:
        """True when it has expired by `at_s` (seconds since 1970)."""
        return self.expires is not None and parse_iso(self.expires) <= at_s * NS


def new_secret() -> str:
    """A token's text: 256 random bits."""
    return PREFIX + secrets.token_urlsafe(BYTES)


def digest_of(secret: str) -> str:
    """Hex sha256. A plain hash is enough: the secret has 256 random bits, there is nothing to guess."""
    return hashlib.sha256(secret.encode()).hexdigest()


class TokenFile:
    """The tokens of a file, and `fixed` ones that are in no file."""

    def __init__(self, path: Path, *, fixed: tuple[Token, ...] = ()) -> None:
        self._path = path
        self._fixed = fixed
        self._mark: tuple[int, ...] | None = None
        self._read: tuple[Token, ...] = ()
        self.problem = ""  # why nobody of the file is admitted; empty when all is well

    def tokens(self) -> tuple[Token, ...]:
        """All tokens, the file's read again when it changed."""
        try:
            stat = self._path.stat()
            mark: tuple[int, ...] = (stat.st_mtime_ns, stat.st_size, stat.st_ino, stat.st_mode)
        except FileNotFoundError:
            mark = ()
        except OSError as error:
            self._mark, self._read = None, ()
            self.problem = f"{self._path}: {(error.strerror or str(error)).lower()}"
            return self._fixed
        if mark != self._mark:
            self._mark, self.problem = mark, ""
            try:
                self._read = read_tokens(self._path) if mark else ()
            except UserError as error:
                self._read, self.problem = (), str(error)
        return (*self._fixed, *self._read)

    def find(self, secret: str, *, at_s: float) -> Token | None:
        """The token of this secret that has not expired by `at_s` (seconds since 1970). Every stored hash is compared, in constant time."""
        return self.of(digest_of(secret), at_s=at_s)

    def of(self, digest: str, *, at_s: float) -> Token | None:
        """The token of a hash, as `find` does of a secret."""
        found = None
        for token in self.tokens():
            if hmac.compare_digest(token.digest, digest) and not token.over(at_s):
                found = token
        return found

    def add(self, name: str, role: str, *, at: str, expires: str | None = None) -> str:
        """Write a new token and return its secret, which is kept nowhere. Raises UserError for a wrong or taken name, role or time."""
        if not NAME.fullmatch(name) or name == OPERATOR:
            raise UserError(f"{name!r} is no name for a token; write small letters, digits, dots or dashes, and not {OPERATOR!r}")
        if role not in ROLES:
            raise UserError(f"there is no role {role!r}; write {', '.join(ROLES)}")
        present = read_tokens(self._path) if self._path.exists() else ()
        if any(token.name == name for token in present):
            raise UserError(f"there is a token named {name!r}; revoke it first, or take another name")
        secret = new_secret()
        role_: Role = next(r for r in get_args(Role) if r == role)
        _write(self._path, (*present, Token(name=name, role=role_, digest=digest_of(secret), created=at, expires=expires)))
        return secret

    def remove(self, name: str) -> None:
        """Take a token out; it is refused from the next request on. Raises UserError when there is none of that name."""
        present = read_tokens(self._path) if self._path.exists() else ()
        left = tuple(token for token in present if token.name != name)
        if len(left) == len(present):
            names = ", ".join(token.name for token in present) or "none"
            raise UserError(f"there is no token named {name!r} in {self._path}; there is: {names}")
        _write(self._path, left)


def write_operator_token(path: Path, *, at: str) -> Token:
    """A new admin token for the local command line: its secret goes to `path`, readable by this user only. Raises UserError."""
    secret = new_secret()
    try:
        _replace(path, secret + "\n")
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; `http.operator_token` of the settings names it") from error
    return Token(name=OPERATOR, role="admin", digest=digest_of(secret), created=at)


def read_tokens(path: Path) -> tuple[Token, ...]:
    """The tokens of a file. Raises UserError with what is wrong; others than its owner's group may not be able to write it."""
    try:
        if path.stat().st_mode & 0o002:
            raise UserError(f"{path}: everybody may write this file and so admit themselves; run: chmod 600 {path}")
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; `http.tokens` of the settings names it") from error
    if len(content) > FILE_BYTES_MAX:
        raise UserError(f"{path}: larger than {FILE_BYTES_MAX >> 20} MiB; a token takes some 200 bytes")
    document = compose(content, str(path))
    if document.problems or document.root is None:
        said = document.problems[0].message if document.problems else "it is empty"
        raise UserError(f"{path}: {said}; it is written by `reefd token`")
    root = document.root
    entries = {key.text: node for key, node in root.entries} if isinstance(root, MapNode) else {}
    if set(entries) != {"tokens"}:
        raise UserError(f"{path}: it holds one key, `tokens:`; it is written by `reefd token`")
    listed = entries["tokens"]
    if isinstance(listed, ScalarNode) and listed.empty:
        return ()
    if not isinstance(listed, ListNode):
        raise UserError(f"{path}: `tokens:` is a list; it is written by `reefd token`")
    found = tuple(_token(path, place, node) for place, node in enumerate(listed.items, start=1))
    if len({token.name for token in found}) != len(found):
        raise UserError(f"{path}: two tokens have one name; a name is what is journaled, give each its own")
    return found


def _token(path: Path, place: int, node: YamlNode) -> Token:
    texts = {key.text: value.text for key, value in node.entries if isinstance(value, ScalarNode)} if isinstance(node, MapNode) else {}
    name, role, digest, expires = texts.get("name", ""), texts.get("role", ""), texts.get("sha256", ""), texts.get("expires", "")
    wrong = next(
        (
            said
            for ok, said in (
                (set(texts) <= {"name", "role", "sha256", "created", "expires"}, "its keys are name, role, sha256, created, expires"),
                (NAME.fullmatch(name) is not None and name != OPERATOR, f"found the name {name!r}"),
                (role in ROLES, f"found the role {role!r}, there are {', '.join(ROLES)}"),
                (re.fullmatch(r"[0-9a-f]{64}", digest) is not None, "its sha256 is 64 hexadecimal digits"),
                (not expires or _is_time(expires), f"found expires {expires!r}, write 2027-01-01T00:00:00Z"),
            )
            if not ok
        ),
        None,
    )
    if wrong is not None:
        raise UserError(f"{path}: token {place}: {wrong}; it is written by `reefd token`")
    role_: Role = next(r for r in get_args(Role) if r == role)
    return Token(name=name, role=role_, digest=digest, created=texts.get("created", ""), expires=expires or None)


def _is_time(text: str) -> bool:
    try:
        parse_iso(text)
    except ValueError:
        return False
    return True


def _write(path: Path, tokens: tuple[Token, ...]) -> None:
    lines = [HEADER, "tokens:\n"]
    for token in tokens:
        lines += [f"  - name: {token.name}\n", f"    role: {token.role}\n", f"    sha256: {token.digest}\n"]
        lines += [f"    created: {token.created}\n"] if token.created else []
        lines += [f"    expires: {token.expires}\n"] if token.expires else []
    try:
        _replace(path, "".join(lines))
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; `http.tokens` of the settings names it") from error


def _replace(path: Path, text: str) -> None:
    """Put a whole new file in place that only its owner can read; it is never half written, nor readable by others for a moment."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    handle = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise
