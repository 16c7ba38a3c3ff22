"""Batches of one job over processes of this machine, or over an executor that somebody else runs (floor 9).

    with Pool(workers=2) as pool:
        found = pool.spread(play, job, batches)

What comes back is in the order of the batches, whoever did them.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing import active_children, get_context
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from daemon.errors import UserError

Job = TypeVar("Job")
Item = TypeVar("Item")
Found = TypeVar("Found")


class Pool:
    """Where batches go: this process, a pool of its own, or an executor that somebody else runs; a context that ends its processes."""

    def __init__(self, workers: int, executor: Executor | None = None) -> None:
        self.workers = workers
        self._given = executor
        self._own: ProcessPoolExecutor | None = None

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        if self._own is None:
            return
        if kind is KeyboardInterrupt:
            for child in active_children():
                child.terminate()  # a batch takes minutes, and nobody waits for it any more
        self._own.shutdown(cancel_futures=True)

    def spread(
        self,
        function: Callable[[Job, tuple[Item, ...]], Found],
        job: Job,
        batches: Sequence[tuple[Item, ...]],
        *,
        progress: Callable[[int], None] | None = None,
        look: Callable[[Found], object] | None = None,
    ) -> tuple[Found, ...]:
        """`function(job, batch)` of every batch, in their order.

        `look` sees each answer as it comes and may raise. Raises UserError when a worker dies.
        """
        if self._given is None and (self.workers == 1 or (len(batches) == 1 and self._own is None)):
            return tuple(_alone(function, job, batches, progress, look))
        if self._given is None and self._own is None:
            self._own = ProcessPoolExecutor(self.workers, mp_context=get_context("spawn"), initializer=_die_on_interrupt)
        executor = self._given or self._own
        assert executor is not None, "either is there"
        return _spread(executor, function, job, batches, progress, look)


def _alone(
    function: Callable[[Job, tuple[Item, ...]], Found],
    job: Job,
    batches: Sequence[tuple[Item, ...]],
    progress: Callable[[int], None] | None,
    look: Callable[[Found], object] | None,
) -> Iterator[Found]:
    for batch in batches:
        found = function(job, batch)
        if look is not None:
            look(found)
        if progress is not None:
            progress(len(batch))
        yield found


def _spread(
    executor: Executor,
    function: Callable[[Job, tuple[Item, ...]], Found],
    job: Job,
    batches: Sequence[tuple[Item, ...]],
    progress: Callable[[int], None] | None,
    look: Callable[[Found], object] | None,
) -> tuple[Found, ...]:
    futures: list[Future[Found]] = []
    try:
        with _interrupts_later():
            futures = [executor.submit(function, job, batch) for batch in batches]
        sizes = dict(zip(futures, map(len, batches), strict=True))
        for future in as_completed(futures):
            found = future.result()
            if look is not None:
                look(found)
            if progress is not None:
                progress(sizes[future])
        return tuple(future.result() for future in futures)
    except KeyboardInterrupt:
        if isinstance(executor, ProcessPoolExecutor):
            futures = []  # its processes are ended, which tells each of them
        raise
    except BrokenProcessPool as error:
        raise UserError("a worker ended before its work was done, out of memory perhaps; take fewer --workers") from error
    finally:
        for future in futures:
            future.cancel()


@contextmanager
def _interrupts_later() -> Iterator[None]:
    """Holds Ctrl-C back while processes start: they inherit that, and import their modules before they can die without a traceback."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _die_on_interrupt() -> None:
    """In a worker: Ctrl-C reaches the whole group, and this process has nothing to put away."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


@contextmanager
def progress_bar(label: str, total: int) -> Iterator[Callable[[int], None] | None]:
    """A progress bar on a terminal; nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task(label, total=total)
        yield lambda done: bar.advance(task, done)
