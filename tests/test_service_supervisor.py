"""What systemd is told, over a real datagram socket; and its own verdict on the unit file where it is installed."""

from __future__ import annotations

import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from daemon.service.supervisor import Supervisor

ROOT = Path(__file__).resolve().parent.parent
UNIT = ROOT / "config/systemd/reefd.service"


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as wire:
        wire.bind(str(tmp_path / "notify"))
        wire.setblocking(False)
        yield wire


def heard(listener: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said.append(listener.recv(4096).decode())
        except BlockingIOError:
            return said


def test_supervisor_hears_ready_alive_and_stopping(listener: socket.socket) -> None:
    now = [0]
    supervisor = Supervisor(listener.getsockname(), watchdog_us=30_000_000, monotonic_ns=lambda: now[0])
    supervisor.ready("3 runbooks")
    supervisor.turned("QUIET")
    now[0] = 9_999_999_999
    supervisor.turned("QUIET")  # neither due nor new
    now[0] = 10_000_000_000
    supervisor.turned("QUIET")
    supervisor.turned("BLIND:\n dydx")
    supervisor.stopping()
    assert heard(listener) == [
        "READY=1\nSTATUS=3 runbooks",
        "WATCHDOG=1\nSTATUS=QUIET",
        "WATCHDOG=1",
        "STATUS=BLIND: dydx",
        "STOPPING=1\nSTATUS=stopping: waiting for what is on the wire",
    ]


def test_supervisor_is_silent_when_there_is_none_or_when_it_is_gone(tmp_path: Path) -> None:
    Supervisor.of({}, pid=7).ready("nobody listens")
    Supervisor(str(tmp_path / "gone")).ready("nobody listens any more")


def test_watchdog_of_another_process_is_not_ours(listener: socket.socket) -> None:
    environment = {"NOTIFY_SOCKET": listener.getsockname(), "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "8"}
    Supervisor.of(environment, pid=7).turned("")
    assert heard(listener) == []
    Supervisor.of(environment, pid=8).turned("")
    assert heard(listener) == ["WATCHDOG=1"]


def test_unit_file_tells_systemd_what_the_daemon_does() -> None:
    text = UNIT.read_text(encoding="utf-8")
    for line in (
        "Type=notify",
        "WatchdogSec=30s",
        "Restart=on-failure",
        "RestartPreventExitStatus=1 2",
        "NoNewPrivileges=yes",
        "User=reefd",
    ):
        assert line in text.splitlines(), line


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed here")
def test_unit_file_is_valid_and_hardened_when_systemd_looks_at_it(tmp_path: Path) -> None:
    unit = tmp_path / "reefd.service"
    units = []
    for shipped in sorted(UNIT.parent.iterdir()):
        # The program's path is this machine's: systemd checks that it exists.
        text = shipped.read_text(encoding="utf-8").replace("/opt/reefd/bin/reefd", shutil.which("true") or "/bin/true")
        units.append(tmp_path / shipped.name)
        units[-1].write_text(text, encoding="utf-8")
    assert len(units) == 3
    command = ["systemd-analyze", "verify", "--man=no", *map(str, units)]
    verified = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    complaints = [line for line in (verified.stdout + verified.stderr).splitlines() if "reefd" in line]
    assert complaints == []
    judged = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--threshold=30", "--no-pager", str(unit)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert judged.returncode == 0, judged.stdout[-2000:] + judged.stderr
