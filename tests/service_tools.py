"""Programs of others that some tests drive: a browser, a broker, receivers of alerts. Where one is absent, its tests skip with a reason.

`.ci/system-packages` installs them where it may (a Debian system, root). One example:

    @pytest.mark.skipif(find_program("mosquitto") is None, reason=missing("mosquitto"))
    async def test_...:
"""

from __future__ import annotations

import os
import shutil

import pytest

# Daemons live where the PATH of an ordinary user does not look.
ALSO = ("/usr/local/bin", "/usr/local/sbin", "/usr/sbin", "/sbin")
# Program -> the Debian package that brings it, and other names it goes by.
PACKAGES = {
    "chromium": "chromium",
    "mosquitto": "mosquitto",
    "promtool": "prometheus",
    "prometheus": "prometheus",
    "prometheus-alertmanager": "prometheus-alertmanager",
    "amtool": "prometheus-alertmanager",
    "alertmanager-irc-relay": "alertmanager-irc-relay",
    "prometheus-xmpp-alerts": "prometheus-xmpp-alerts",
    "systemd-analyze": "systemd",
}
ALIASES = {
    "chromium": ("chromium-browser", "google-chrome", "google-chrome-stable"),
    "prometheus-alertmanager": ("alertmanager",),
}


def find_program(name: str) -> str | None:
    """The path of a program, under this name or another it goes by, on the PATH or where daemons live; None when it is not installed."""
    places = os.pathsep.join([os.environ.get("PATH", os.defpath), *ALSO])
    return next((found for known in (name, *ALIASES.get(name, ())) if (found := shutil.which(known, path=places))), None)


def missing(name: str) -> str:
    """The reason of a skip: which program is absent and which package brings it."""
    return f"the program {name} is not installed (Debian package {PACKAGES.get(name, name)}; see .ci/system-packages)"


def program(name: str) -> str:
    """The path of a program; the running test is skipped, with a reason, when it is not installed."""
    found = find_program(name)
    if found is None:
        pytest.skip(missing(name))
    return found
