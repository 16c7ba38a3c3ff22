"""Batches over processes: Ctrl-C while they start ends them without a traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WAIT_S = 180.0
# A worker reads this file again before it takes its first batch: there it says that it starts, and stays until it is let go.
SCRIPT = """
import os, signal, sys, time
from pathlib import Path
from daemon.app.pool import Pool
from daemon.errors import UserError

HERE = Path(__file__).parent
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs the tests may ignore it

def work(job, batch):
    (HERE / f"worked-{batch[0]}").touch()
    return job + batch[0]

if __name__ == "__main__":
    try:
        with Pool(2) as pool:
            print(pool.spread(work, 5, [(1,), (2,)]))
    except KeyboardInterrupt:
        sys.exit(130)
    except UserError as error:
        sys.exit(str(error))
else:
    (HERE / f"starting-{os.getpid()}").touch()
    while not (HERE / "go").exists():
        time.sleep(0.01)
"""


def begun(folder: Path) -> subprocess.Popen[str]:
    """The script in a group of its own, its workers started but not yet at work."""
    (folder / "many.py").write_text(SCRIPT, encoding="utf-8")
    process = subprocess.Popen(
        [sys.executable, str(folder / "many.py")], env={**os.environ, "PYTHONPATH": str(ROOT)}, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    began = time.monotonic()
    while len(list(folder.glob("starting-*"))) < 2:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < WAIT_S
        time.sleep(0.01)
    return process


def test_workers_that_are_let_start_do_their_work(tmp_path: Path) -> None:
    process = begun(tmp_path)
    (tmp_path / "go").touch()
    assert process.communicate(timeout=WAIT_S) == ("(6, 7)\n", "")


def test_an_interrupt_while_workers_start_ends_everything_without_a_traceback(tmp_path: Path) -> None:
    process = begun(tmp_path)
    os.killpg(process.pid, signal.SIGINT)
    said = process.communicate(timeout=WAIT_S)  # to the end of the last of them, who share the pipes
    assert (process.returncode, *said) == (130, "", "")
    assert not list(tmp_path.glob("worked-*"))


def test_a_worker_that_is_interrupted_before_its_work_says_nothing(tmp_path: Path) -> None:
    process = begun(tmp_path)
    for path in tmp_path.glob("starting-*"):
        os.kill(int(path.name.rpartition("-")[2]), signal.SIGINT)
    (tmp_path / "go").touch()
    said = process.communicate(timeout=WAIT_S)
    assert (process.returncode, *said) == (1, "", "a worker ended before its work was done, out of memory perhaps; take fewer --workers\n")
    assert not list(tmp_path.glob("worked-*"))
