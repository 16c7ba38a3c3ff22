"""`--cluster`: the same batches on a Dask cluster (floor 9); the one importer of distributed, loaded when it is asked for.

A sweep's workers read the recording, the account and the limits by the paths given: they stand on storage that all of them see. Those of a
stress are sent all they need.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from typing import Any

from distributed import Client

from daemon.app.stressing import stress
from daemon.app.sweeping import sweep
from daemon.errors import UserError

CONNECT_S = 10
_connect: Any = Client  # it ships no types


def sweep_on_cluster(*args: Any, cluster: str, **options: Any) -> int:
    """`sweep` with the cluster's executor in the place of local processes. Raises UserError when the scheduler cannot be reached."""
    with _connected(cluster, options.pop("workers", None)) as (workers, executor):
        return sweep(*args, workers=workers, executor=executor, **options)


def stress_on_cluster(*args: Any, cluster: str, **options: Any) -> int:
    """`stress` with the cluster's executor in the place of local processes. Raises UserError when the scheduler cannot be reached."""
    with _connected(cluster, options.pop("workers", None)) as (workers, executor):
        return stress(*args, workers=workers, executor=executor, **options)


@contextmanager
def _connected(cluster: str, workers: int | None) -> Iterator[tuple[int, Executor]]:
    try:
        client = _connect(cluster, timeout=CONNECT_S)
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"--cluster {cluster}: the scheduler cannot be reached ({reason}); write tcp://HOST:8786") from error
    with client:
        yield workers or sum(client.nthreads().values()) or 1, client.get_executor()
