"""The three kinds of error of this house (floor 0).

The user's (`UserError` and `RunbookError`: all of them at once, with file, line and column), the world's (`EdgeError`: becomes
an outcome or a `FeedFailed` event), and ours (`assert`, crash, restart, recover).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SHOWN_MAX = 160  # characters of a source line that a diagnostic shows
SHOWN_BEFORE = 60  # of them before the column, in a longer line


@dataclass(frozen=True, slots=True, kw_only=True)
class Diagnostic:
    """One mistake or warning in a file the user wrote; `line` and `column` are 1-based and point at the offending token."""

    file: str
    line: int
    column: int
    code: str
    message: str
    where: str = ""  # e.g. "trigger.when"; empty when the whole file is meant
    source_line: str = ""  # the text of the line, for the caret; empty when there is none
    width: int = 1  # characters to underline
    severity: str = "error"  # error | warning

    def render(self) -> str:
        """The diagnostic as lines for a terminal: position, code, message, the source line and a caret."""
        inside = f" in {self.where}" if self.where else ""
        head = f"{self.file}:{self.line}:{self.column}: {self.severity} {self.code}{inside}: {self.message}"
        if not self.source_line:
            return head
        start = max(0, self.column - 1 - SHOWN_BEFORE) if len(self.source_line) > SHOWN_MAX else 0
        shown = self.source_line[start : start + SHOWN_MAX]
        pad = "".join("\t" if c == "\t" else " " for c in shown[: self.column - 1 - start])
        return f"{head}\n  {shown}\n  {pad}{'^' * max(1, min(self.width, len(shown) - len(pad)))}"

    def as_json(self) -> dict[str, str | int]:
        """The shape that `reefd check --format json` prints."""
        return {"file": self.file, "line": self.line, "column": self.column, "code": self.code, "message": self.message}


class UserError(Exception):
    """A mistake of the user's in one readable message: what is wrong, what was found, what to write. Printed without a traceback."""


class RunbookError(UserError):
    """Every mistake found in the user's runbooks (or other YAML), all at once."""

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        super().__init__("\n".join(d.render() for d in self.diagnostics))


class SettingsError(UserError):
    """Settings that cannot be used: every mistake at once, each naming its key and what to write."""


class EdgeError(Exception):
    """The world refused or did not answer. Raised by edges only; `retryable` means: it certainly did nothing and may be tried again."""

    def __init__(self, message: str, *, edge: str, reason: str, retryable: bool, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.edge = edge
        self.reason = reason
        self.retryable = retryable
        self.retry_after_s = retry_after_s


class UnknownOutcome(EdgeError):
    """The request may have happened: never send it again, look it up by its action id."""

    def __init__(self, message: str, *, edge: str, reason: str) -> None:
        super().__init__(message, edge=edge, reason=reason, retryable=False)
