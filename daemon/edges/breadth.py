"""Chat services beside our own formats (floor 6): apprise, an extra. Imported only where an endpoint asks for it.

    deliver("slack://token-a/token-b/token-c", "CRITICAL ...", "why: ...", "critical")     # blocks; call it in a thread
"""

from __future__ import annotations

import apprise

_TYPES = {
    "critical": apprise.NotifyType.FAILURE,
    "warning": apprise.NotifyType.WARNING,
    "info": apprise.NotifyType.INFO,
}


def deliver(address: str, title: str, text: str, severity: str) -> bool:
    """Sends one message to the service of an apprise address; True when it was taken. Blocks, and raises nothing."""
    # Its log lines may quote the address, which holds keys: they are taken here and go nowhere.
    with apprise.LogCapture():  # type: ignore[no-untyped-call]
        services = apprise.Apprise()
        if not services.add(address):
            return False
        kind = _TYPES.get(severity, apprise.NotifyType.WARNING)
        return bool(services.notify(body=text, title=title, notify_type=kind, body_format=apprise.NotifyFormat.TEXT))
