"""Work in a process of its own (floor 7): what takes minutes never holds up the loop, and what hangs or dies takes nobody with it.

    answer = await apart(("-m", "daemon.app.stress_worker"), question, name="stress", timeout_s=600.0)

The child gets the question on its standard input, its length on a line before it, and answers on its standard output. Its input stays open
until it is done: a child that reads the end of it knows that its parent is gone. It is in a session of its own, so Ctrl-C is the parent's.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress

from daemon.errors import EdgeError
from daemon.units import show_duration

# One core is the child's; numerical libraries would take all of them.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}


async def apart(words: Sequence[str], question: bytes, *, name: str, timeout_s: float) -> bytes:
    """What a Python process started with `words` answers. Raises EdgeError when it fails, or takes longer than `timeout_s` real seconds,
    after which it is killed; it is killed too when this is cancelled."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, *words, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        start_new_session=True, env={**ONE_THREAD, **os.environ},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    try:
        async with asyncio.timeout(timeout_s):
            answer, said, _ = await asyncio.gather(process.stdout.read(), process.stderr.read(), _ask(process.stdin, question))
            code = await process.wait()
    except TimeoutError:
        message = f"no answer within {show_duration(timeout_s)}; its process was killed"
        raise EdgeError(message, edge=name, reason="timeout", retryable=True) from None
    finally:
        await _end(process)
    if code != 0:
        raise EdgeError(_why(code, said.decode(errors="replace")), edge=name, reason="failed", retryable=True)
    return answer


async def _ask(stream: asyncio.StreamWriter, question: bytes) -> None:
    with suppress(ConnectionError):  # it died before it had read all: its exit code says so
        stream.write(b"%d\n%s" % (len(question), question))
        await stream.drain()


async def _end(process: asyncio.subprocess.Process) -> None:
    """Kill what is left of it, with everything that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()


def _why(code: int, said: str) -> str:
    """Its own words where it found a mistake of the user's (exit code 1), the last line of a traceback where it crashed."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    if code < 0:
        return f"its process was ended by signal {-code}"
    if code == 1 and lines and not lines[0].startswith("Traceback"):
        return " | ".join(lines)
    return f"its process failed with exit code {code}: {lines[-1] if lines else 'it said nothing'}"
