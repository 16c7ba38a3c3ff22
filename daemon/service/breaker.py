"""A breaker for each endpoint (floor 7): a pure function of what the journal remembers of its failures, so a restart does not close it.

Closed until `OPEN_AFTER` tries in a row failed; then open for a while, then the message whose turn it is is sent as a probe, due or not:
taken, the breaker closes; not taken, it stays open for twice as long, and the message has lost none of its tries. So an endpoint that is
back is noticed within `PAUSE_MAX_NS`. Urgent messages pass an open breaker: they are few, and each is a probe.
"""

from __future__ import annotations

from typing import Literal

from daemon.journal.entry import EndpointRecord
from daemon.units import MINUTE_NS, NS

BreakerState = Literal["closed", "open", "half-open"]

OPEN_AFTER = 3  # failures in a row
PAUSE_NS = 30 * NS  # the first time; doubled at each further failure
PAUSE_MAX_NS = 10 * MINUTE_NS


def opens_until(record: EndpointRecord | None, now: int) -> int:
    """Until when nothing that is not urgent is tried (ns); 0 when the breaker is closed."""
    if record is None or record.failed_at is None:
        return 0
    failed_at = min(record.failed_at, now)  # a clock that was set back must not keep it open
    beyond = record.failures - OPEN_AFTER
    pause = min(PAUSE_NS << min(beyond, 10), PAUSE_MAX_NS) if beyond >= 0 else 0
    return max(failed_at + pause if pause else 0, record.not_before)


def tripped(record: EndpointRecord | None) -> bool:
    """True when so many tries in a row failed that the endpoint is taken for down."""
    return record is not None and record.failures >= OPEN_AFTER


def state_of(record: EndpointRecord | None, now: int) -> BreakerState:
    """Closed: everything goes. Open: nothing that is not urgent goes. Half-open: one message goes, and decides."""
    until = opens_until(record, now)
    if until > now:
        return "open"
    return "half-open" if tripped(record) else "closed"
