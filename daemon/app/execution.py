"""Which execution a replay takes (floor 9): the plain one, or the compiled one where there is enough to do for it.

    execution = Execution.chosen("auto", rows=course.rows, runbooks=len(books))
    played = execution.play(course, house=house, runbooks=books, progress=None)

The compiler is loaded when it is needed and not before: a short replay, a check and a daemon do without it
(docs/decisions/compiled.md).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path
from typing import Literal, Protocol

from daemon import __version__
from daemon.engine.engine import Engine
from daemon.engine.limits import HouseLimits
from daemon.engine.unit import Unsupported
from daemon.errors import UserError
from daemon.runbook.model import Runbook
from daemon.simulation.account import SimulatedAccount
from daemon.simulation.columnar import ColumnHot, Compiles
from daemon.simulation.replay import Course, Passage, Played, play_without, recorded
from daemon.simulation.spans import Spans

PLAIN_US_A_ROW, PLAIN_US_A_RULE = 4.0, 2.0  # what the plain execution takes, roughly: `make bench` measures it
PLAIN_SECONDS_MAX = 2.0  # of plain work below which loading a compiler does not pay

Choice = Literal["auto", "python", "compiled"]


class _Compiler(Compiles, Protocol):
    """`daemon.simulation.compiled.Compiler`, which is imported when it is needed."""

    seconds: float
    compiled: int

    def spans(self) -> Spans:
        """The account's arithmetic."""


class Execution:
    """How passes are played; `seconds` is what compiling took so far, `note` why the plain execution took over, if it did."""

    def __init__(self, choice: Choice, *, rows: int, runbooks: int) -> None:
        """Chooses: `auto` compiles from about two seconds of plain work on."""
        plain_s = rows * (PLAIN_US_A_ROW + PLAIN_US_A_RULE * runbooks) / 1e6
        self._forced = choice == "compiled"
        self._compiler = compiler() if self._forced or (choice == "auto" and plain_s > PLAIN_SECONDS_MAX) else None
        self._spans = self._compiler.spans() if self._compiler is not None else None
        self.note = ""

    @property
    def name(self) -> str:
        """compiled | python."""
        return "python" if self._compiler is None else "compiled"

    @property
    def seconds(self) -> float:
        """Seconds spent compiling, or loading what was compiled before."""
        return 0.0 if self._compiler is None else self._compiler.seconds

    def play(
        self, course: Course, *, runbooks: Sequence[Runbook], house: HouseLimits, progress: Callable[[int], None] | None = None
    ) -> Played:
        """One pass WITH the runbooks. Raises UserError where the compiled execution was asked for and cannot take them."""
        if self._compiler is not None:
            try:
                hot = ColumnHot(course.topology, course.sources, compiler=self._compiler, recorded=recorded(course))
                return self._passage(course, runbooks, house, hot).play(progress)
            except Unsupported as reason:
                if self._forced:
                    raise UserError(f"--engine compiled does not take this: {reason}; write --engine python, or leave it out") from reason
                self.note = f"played by the plain execution, which is slower: {reason}"
                self._compiler = None
        return self._passage(course, runbooks, house, None).play(progress)

    def _passage(self, course: Course, runbooks: Sequence[Runbook], house: HouseLimits, hot: ColumnHot | None) -> Passage:
        engine = Engine(topology=course.topology, house=house, build=__version__, sources=course.sources, hot=hot)
        return Passage(course, engine=engine, runbooks=runbooks, spans=self._spans)

    def play_without(self, course: Course) -> SimulatedAccount:
        """The same rows and account with no action."""
        return play_without(course, self._spans)


def compiler() -> _Compiler:
    """The compiler, with its cache where this user keeps such things."""
    made: _Compiler = import_module("daemon.simulation.compiled").Compiler(cache_folder(), time.perf_counter)
    return made


def cache_folder() -> Path:
    """REEFD_CACHE_DIR, else `reefd` where the system keeps caches of this user."""
    own = os.environ.get("REEFD_CACHE_DIR")
    if own:
        return Path(own)
    home = os.environ.get("XDG_CACHE_HOME")
    return (Path(home) if home else Path(os.path.expanduser("~")) / ".cache") / "reefd"
