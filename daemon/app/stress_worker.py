"""The process that stresses the live book (floor 9): a question in JSON on standard input, the figures in JSON on standard output.

    python -m daemon.app.stress_worker        # started by the daemon (daemon/service/apart.py), never by a person

It is as nice as a process can be, ends when its parent is gone, and says in one message what is wrong with the files (exit code 1).
"""

from __future__ import annotations

import os
import sys
import threading
from typing import cast

from daemon.app.live_stress import Figures, Question
from daemon.app.stressing import COMPILED_FROM, Job, read_text, stressed, with_past
from daemon.engine.codec import decode_as, encode_as
from daemon.errors import UserError
from daemon.simulation.stress.report import Reading
from daemon.units import MINUTE_NS

NICENESS = 19  # the daemon has every core it wants
ORPHANED = 4  # exit code: the parent is gone


def play(question: Question) -> Figures:
    """The answer. Raises UserError for mistakes in the files, and where the world has no law for a market."""
    job = Job(
        book=("live", question.book), world=(question.world, read_text(question.world, "stress: names its world")),
        runbooks=question.runbooks, house=question.house, steps=question.horizon_ns // MINUTE_NS, start=question.start,
        seed=question.seed, compiled=question.paths >= COMPILED_FROM,
    )  # fmt: skip
    report, _ = stressed(with_past(job), paths=question.paths, workers=1, leave_one_out=False)
    read = Reading(report.figures)
    return Figures(
        liquidation_probability=read.number("with", "liquidation_probability"),
        liquidation_probability_without=read.number("without", "liquidation_probability"),
        cvar_usd=read.number("with", "pnl_usd", "cvar95"),
        seconds=read.number("seconds", "open") + read.number("seconds", "paths"),
    )


def main() -> int:
    """Answer one question; the exit code."""
    os.nice(NICENESS)
    stream = sys.stdin.buffer
    question = cast("Question", decode_as(stream.read(int(stream.readline())).decode(), Question))
    threading.Thread(target=_end_with_the_parent, daemon=True).start()
    try:
        found = play(question)
    except UserError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(encode_as(found, Figures))
    return 0


def _end_with_the_parent() -> None:
    # Not through the buffered stream: its lock would be held when the interpreter ends.
    while os.read(0, 4096):
        pass
    os._exit(ORPHANED)


if __name__ == "__main__":
    sys.exit(main())
