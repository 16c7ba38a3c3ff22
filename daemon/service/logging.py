"""Log lines (floor 7): JSON on stdout in production, readable lines on a terminal; one line a fact, `room.past_tense_fact`.

The core never logs. The loop prints each record once through `record_line`.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, TextIO

import structlog

from daemon.units import FOREVER, iso

_WORDS = re.compile(r"(?<!^)(?=[A-Z])")
_TIMES = {
    "at", "since", "until", "due", "deadline", "pending_at", "fired_at", "cleared_at",
    "expires_at", "give_up_at", "resume_at", "next_at",
}  # fmt: skip
_DETAIL = {"trace", "frame"}  # why a run started is in the journal; a line is read at 03:00
_FLAT = {"action", "outcome"}  # their fields stand in the line itself
_OWN = {"event": "notice", "level": "level_of", "logged_at": "logged_at_of"}  # names that a log line has for itself
_SECRET = re.compile(r"secret|token|password|private_key|mnemonic", re.IGNORECASE)


def configure(style: str, stream: TextIO | None = None) -> None:
    """Send log lines to `stream` (default stdout) as `json` or `console`."""
    renderer: Any = (
        structlog.processors.JSONRenderer(default=str)
        if style == "json"
        else structlog.dev.ConsoleRenderer(colors=(stream or sys.stdout).isatty(), pad_event_to=24)
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="logged_at"),
            hide_secrets,
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(stream or sys.stdout),
        cache_logger_on_first_use=False,
    )


def quiet() -> None:
    """Say nothing: a verb that looks and tells in its own words has standard output for itself."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))


def log() -> structlog.typing.FilteringBoundLogger:
    """The logger of this process."""
    logger: structlog.typing.FilteringBoundLogger = structlog.get_logger()
    return logger


def hide_secrets(_logger: object, _method: str, line: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """The line with the value of every key that names a secret replaced."""
    for key in line:
        if _SECRET.search(key):
            line[key] = "***"
    return line


def fact(type_name: str) -> str:
    """`TriggerChanged` as `trigger.changed`, `ActionRequested` as `action.requested`: the name of a record in a log line."""
    head, *rest = (word.lower() for word in _WORDS.split(type_name))
    return f"{head}.{'_'.join(rest)}" if rest else head


def readable(fields: Mapping[str, object]) -> dict[str, object]:
    """The fields of a record for a log line: ISO-8601 times, Decimals as text, actions and outcomes flat; empty and deep ones left out."""
    line: dict[str, object] = {}
    for key, value in fields.items():
        if key in _DETAIL or value is None or value == "" or value == () or value == {} or value != value:
            continue  # the last one: NaN, nothing to say
        if key in _TIMES and isinstance(value, int):
            if abs(value) < FOREVER:
                line[key] = iso(value)
        elif isinstance(value, Mapping) and key in _FLAT:
            line |= {_OWN.get(name, name): part for name, part in readable(value).items() if name not in fields}
        elif isinstance(value, Mapping):
            line[_OWN.get(key, key)] = readable(value)
        elif isinstance(value, Decimal):
            line[key] = str(value)
        elif isinstance(value, tuple):
            line[key] = [readable(part) if isinstance(part, Mapping) else str(part) for part in value]
        else:
            line[_OWN.get(key, key)] = value
    return line
