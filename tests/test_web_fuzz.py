"""The API under fuzzing: whatever its own document allows and forbids is sent, and nothing of it is a fault of ours."""

from __future__ import annotations

import tempfile
from pathlib import Path

import hypothesis
import schemathesis
from schemathesis.specs.openapi.checks import positive_data_acceptance

from tests.surface_world import Surface

ENDLESS = "/api/v1/stream"  # answers until one of us goes; tests/test_web_api.py reads it
FOLDER = tempfile.TemporaryDirectory(prefix="surface-")
SURFACE = Surface(Path(FOLDER.name), hosts=("testserver",), open_reading=False)
SURFACE.clock.each_look = 60.0  # no limit of a minute is ever reached: those have tests of their own
SETTINGS = hypothesis.settings(
    max_examples=8, deadline=None, derandomize=True, database=None, phases=[hypothesis.Phase.generate],
    suppress_health_check=list(hypothesis.HealthCheck),
)  # fmt: skip
# What a document cannot say: a pause has `for` or `until`, and both are bounded by the time it is.
TOLD_IN_WORDS = {"/api/v1/pause": [positive_data_acceptance]}
BEARER = {"Authorization": f"Bearer {SURFACE.secrets['ana']}"}

schema = schemathesis.openapi.from_asgi("/api/v1/openapi.json", SURFACE.app)


@schema.auth()
class AsAna:
    """An admin's token, which the check of ignored authentication takes away again."""

    def get(self, case: schemathesis.Case, context: schemathesis.AuthContext) -> str:
        return BEARER["Authorization"]

    def set(self, case: schemathesis.Case, data: str, context: schemathesis.AuthContext) -> None:
        case.headers["Authorization"] = data


@schema.exclude(path=ENDLESS).parametrize()
@SETTINGS
def test_whatever_is_sent_is_answered_as_documented(case: schemathesis.Case) -> None:
    case.call_and_validate(excluded_checks=TOLD_IN_WORDS.get(case.path, []))
