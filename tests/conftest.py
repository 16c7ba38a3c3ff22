"""What holds for every test: a busy machine is no failure. Generated examples have no deadline, and may be slow to make."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog
from hypothesis import HealthCheck, settings

# On top of what hypothesis chose by itself: in continuous integration its examples are the same at each run.
settings.register_profile("house", settings(), deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("house")


@pytest.fixture(autouse=True)
def log_lines_as_ever() -> Iterator[None]:
    """A verb that is quiet, or logs to a file of its test, leaves no other test without its lines."""
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()
