"""Which notices are told together, and when (floor 7): pure functions, as Alertmanager's group_by, group_wait, group_interval and
repeat_interval have it. What waits and what was told when is in the journal, so a restart neither loses nor doubles a group.
"""

from __future__ import annotations

from daemon.edges.notice import entity_of
from daemon.edges.webhook import Grouping
from daemon.engine.actions import Notify
from daemon.journal.entry import Held

MEMBERS_MAX = 500  # notices that one message tells together; what is more waits for the next one
CRITICAL = "critical"


def urgent(notify: Notify) -> bool:
    """True for what must not wait behind other messages: it is critical, or a person is asked."""
    return notify.severity == CRITICAL or notify.event == "approval"


def reminder(notify: Notify) -> bool:
    """True when it only says that something is still so."""
    return notify.event == "fired" and notify.run_id.endswith("/still")


def group_of(grouping: Grouping | None, notify: Notify) -> str:
    """The key of the group that a notice is told with; empty when it goes by itself, as every request for an approval does."""
    if grouping is None or notify.event == "approval":
        return ""
    entity = entity_of(notify.runbook, notify.run_id, notify.detail)
    values = {
        "runbook": notify.runbook,
        "entity": entity,
        "venue": entity.partition(":")[0],
        "severity": notify.severity,
        "event": notify.event,
    }
    return ",".join(f"{label}={values[label]}" for label in grouping.by) or "everything"


def told_due(held: Held, grouping: Grouping, now: int) -> int:
    """When a group is to be told (ns). What is critical goes at once, or `wait` after the group's last message; the rest waits `wait`
    for company and at least `interval` after that message; reminders come `repeat` after it."""
    # A last message in the future is one of a clock that was set back: it holds nothing up for longer than from now.
    told = None if held.told_at is None else min(held.told_at, now)
    dues = []
    if held.urgent_at is not None:
        dues.append(held.urgent_at if told is None else max(held.urgent_at, told + grouping.wait_ns))
    if held.first_at is not None:
        first = held.first_at + grouping.wait_ns
        dues.append(first if told is None else max(first, told + grouping.interval_ns))
    if held.reminder_at is not None:
        first = held.reminder_at + grouping.wait_ns
        dues.append(first if told is None else max(first, told + grouping.repeat_ns))
    return min(dues)
