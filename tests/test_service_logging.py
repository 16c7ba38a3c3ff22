"""Log lines: one a fact, readable at 03:00, without secrets."""

from __future__ import annotations

import io
import json
from decimal import Decimal

import pytest
from service_world import ORIGIN_NS

from daemon.engine.actions import Notify, Outcome
from daemon.engine.records import ActionFinished, NoticeSent, RunStarted
from daemon.service.logging import configure, fact, log
from daemon.service.loop import log_record
from daemon.units import FOREVER


@pytest.mark.parametrize(
    ("name", "said"), [("TriggerChanged", "trigger.changed"), ("RunbooksInForce", "runbooks.in_force"), ("Woke", "woke")]
)
def test_fact_is_the_record_in_the_past_tense_with_its_room_first(name: str, said: str) -> None:
    assert fact(name) == said


def test_record_line_is_flat_json_with_readable_times_and_without_what_is_empty() -> None:
    stream = io.StringIO()
    configure("json", stream)
    log_record(ActionFinished(at=ORIGIN_NS, action_id="a.1", run_id="r", outcome=Outcome(status="done", filled_size=Decimal("1.50"))))
    line = json.loads(stream.getvalue())
    assert line.pop("logged_at")
    assert line == {
        "event": "action.finished", "level": "info", "at": "2026-01-01T00:00:00.000Z", "action_id": "a.1", "run_id": "r",
        "status": "done", "filled_size": "1.50",
    }  # fmt: skip


def test_record_line_leaves_the_trace_to_the_journal() -> None:
    stream = io.StringIO()
    configure("json", stream)
    trace = {"deep": 1}
    log_record(
        RunStarted(
            at=ORIGIN_NS, run_id="r", runbook="b", entity="e", episode="x", digest="d", on_clear=False, shadow=False, frame={}, trace=trace
        )
    )
    assert "deep" not in stream.getvalue()
    assert str(FOREVER) not in stream.getvalue()


def test_log_never_prints_a_secret() -> None:
    for style in ("json", "console"):
        stream = io.StringIO()
        configure(style, stream)
        log().info("endpoint.configured", webhook_secret="whsec_abc", api_token="t0k", endpoint="desk")
        assert "whsec_abc" not in stream.getvalue()
        assert "t0k" not in stream.getvalue()
        assert "desk" in stream.getvalue()


def test_record_line_of_a_notice_does_not_collide_with_the_names_of_the_line_itself() -> None:
    stream = io.StringIO()
    configure("json", stream)
    detail = {"event": "x", "level": "y", "at": 3}
    notice = Notify(
        action_id="n.1", run_id="", runbook="b", to=("desk",), event="fired", severity="warning", text="hello", detail=detail
    )
    log_record(NoticeSent(at=ORIGIN_NS, action=notice))
    line = json.loads(stream.getvalue())
    assert (line["event"], line["notice"], line["level"], line["text"]) == ("notice.sent", "fired", "info", "hello")
