"""`reefd sim` as a process: it serves, it stops when told, and it says in one message why it cannot start."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from sim_world import ADDRESS

from daemon.app.simulating import sim

ROOT = Path(__file__).resolve().parent.parent
CALM = ROOT / "config/scenarios/calm.yaml"


def test_a_port_in_use_is_one_clear_message_and_exit_2(capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert sim(CALM, port=port) == 2
    assert capsys.readouterr().err == f"port {port} on 127.0.0.1 is in use; stop what listens there or choose another port\n"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ({"speed": 0.0}, "the speed is above 0"),
        ({"speed": float("nan")}, "the speed is above 0"),
        ({"seed": -1}, "the seed is a whole number from 0 on"),
        ({"port": 70_000}, "cannot listen on 127.0.0.1 port 70000"),
        ({"host": "203.0.113.7"}, "cannot listen on 203.0.113.7"),
    ],
)
def test_what_cannot_be_used_is_told_and_exit_2(words: dict[str, object], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(CALM, **({"port": 0} | words)) == 2  # type: ignore[arg-type]
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1


def test_mistakes_of_a_scenario_are_told_with_their_place_and_exit_1(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "x.yaml"
    path.write_text("scenario: x\nmarkts: {}\naccounts: []\n")
    assert sim(path, port=0) == 1
    told = capsys.readouterr().err
    assert f"{path}:2:1: error S001" in told
    assert "did you mean 'markets'?" in told
    assert "Traceback" not in told


def test_a_missing_scenario_is_told_and_exit_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert sim(tmp_path / "none.yaml", port=0) == 2
    assert "no such file" in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_serves_an_accelerated_venue_until_it_is_stopped() -> None:
    call = f"sys.exit(sim(Path({str(CALM)!r}), port=0, speed=60))"
    code = f"import sys; from pathlib import Path; from daemon.app.simulating import sim; {call}"
    process = subprocess.Popen([sys.executable, "-u", "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        first = process.stdout.readline()
        url = first.split(" at ")[1].split("/v4")[0]
        with httpx.Client(base_url=url, timeout=120) as http:
            while True:
                began = time.monotonic()
                try:
                    clock = http.get("/sim/clock").json()
                    break
                except httpx.ConnectError:
                    assert process.poll() is None, process.communicate()
                    time.sleep(0.05)
            assert abs(clock["started_ns"] - time.time_ns()) < 60 * 10**9
            assert http.get(f"/v4/addresses/{ADDRESS}/subaccountNumber/0").json()["subaccount"]["equity"]
            later = http.get("/sim/clock").json()
            gone = time.monotonic() - began
            assert 0 < (later["now_ns"] - clock["now_ns"]) / 1e9 / 60 < gone
        process.send_signal(signal.SIGTERM)
        _, told = process.communicate(timeout=120)
        assert (process.returncode, told) == (0, "")
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
