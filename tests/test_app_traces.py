"""Runs as spans: the fold by itself, and what a real collector's decoder reads over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from daemon.app.traces import traces
from daemon.engine.actions import Outcome, ShrinkPosition
from daemon.engine.records import (
    ActionFinished,
    ActionRequested,
    ApprovalAnswered,
    ApprovalRequested,
    Record,
    RunFinished,
    RunStarted,
    StepFinished,
    StepStarted,
    StepWaiting,
)
from daemon.errors import UserError
from daemon.journal.store import Journal
from daemon.service.loop import record_entry
from daemon.service.spans import Spans

RUN = "spike/dydx:ETH-USD/1000/1"


def order() -> ShrinkPosition:
    return ShrinkPosition(
        action_id=f"{RUN}.shrink.1.1", run_id=RUN, runbook="spike", account="dydx", market="dydx:ETH-USD", side="SELL",
        size=Decimal("0.4"), limit_price=Decimal(2990), reference_price=3000.0, notional_usd=1200.0, expires_at=9_000,
    )  # fmt: skip


def run(outcome: Outcome, status: str = "done") -> list[Record]:
    return [
        RunStarted(
            at=1_000,
            run_id=RUN,
            runbook="spike",
            entity="dydx:ETH-USD",
            episode="spike/dydx:ETH-USD/1000",
            digest="d",
            on_clear=False,
            shadow=False,
            frame={},
        ),
        StepStarted(at=1_100, run_id=RUN, step="shrink", index=0),
        ApprovalRequested(
            at=1_200,
            run_id=RUN,
            step="shrink",
            deadline=9_000,
            people=(),
            quorum=1,
            notional_usd=1200.0,
            legs=(),
            amount=None,
            plan_digest="p",
            reason="asked",
        ),
        ApprovalAnswered(at=1_500, run_id=RUN, step="shrink", answer="approved", actor="ana", granted=True),
        StepWaiting(at=1_550, run_id=RUN, step="shrink", waiting="lock", until=9_000, reason="size/dydx:ETH-USD is held"),
        ActionRequested(
            at=1_600, run_id=RUN, step="shrink", slice=1, attempt=1, action=order(), usd=1200.0, resume_at=1_700, give_up_at=9_000
        ),
        ActionFinished(at=1_800, action_id=order().action_id, run_id=RUN, outcome=outcome),
        StepFinished(at=1_900, run_id=RUN, step="shrink", kind="shrink_position", status=status, reason="why", acted=True),  # type: ignore[arg-type]
        RunFinished(at=2_000, run_id=RUN, status=status, reason="why"),  # type: ignore[arg-type]
    ]


def spans_of(records: list[Record]) -> list[tuple[str, int, int, str]]:
    fold = Spans()
    return [(span.name, span.start, span.end, span.error) for record in records for span in fold.take(record)]


def test_a_run_is_a_trace_with_its_steps_approvals_and_writes_below_it() -> None:
    told = Spans()
    spans = [span for record in run(Outcome(status="done", filled_size=Decimal("0.4"))) for span in told.take(record)]
    by_name = {span.name: span for span in spans}
    assert {name: (s.start, s.end, s.error) for name, s in by_name.items()} == {
        "run spike": (1_000, 2_000, ""),
        "approval": (1_200, 1_500, ""),
        "ShrinkPosition": (1_600, 1_800, ""),
        "shrink": (1_100, 1_900, ""),
    }
    assert len({span.trace_id for span in spans}) == 1
    assert by_name["shrink"].parent_id == by_name["run spike"].span_id
    assert by_name["ShrinkPosition"].parent_id == by_name["approval"].parent_id == by_name["shrink"].span_id
    assert by_name["shrink"].notes == ((1_550, "waits (lock): size/dydx:ETH-USD is held"),)
    assert by_name["ShrinkPosition"].attributes["reefd.filled_size"] == "0.4"


def test_what_went_wrong_is_an_error_of_its_span_and_a_run_that_is_unknown_gives_none() -> None:
    records = run(Outcome(status="rejected", reason="post only"), status="failed")
    assert [error for *_, error in spans_of(records)] == ["why", "", "post only", "why"]
    assert spans_of(records[1:]) == []


def test_a_step_that_never_ended_ends_with_its_run() -> None:
    records = [record for record in run(Outcome(status="done")) if not isinstance(record, StepFinished | ActionFinished)]
    assert ("shrink", 1_100, 2_000, "the run ended before it") in spans_of(records)


@pytest.fixture
def collector() -> Iterator[tuple[str, list[ExportTraceServiceRequest]]]:
    received: list[ExportTraceServiceRequest] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            received.append(ExportTraceServiceRequest.FromString(self.rfile.read(int(self.headers["content-length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1/traces", received
    server.shutdown()
    server.server_close()


def journal_of(folder: Path, records: list[Record]) -> Path:
    with Journal.open(folder / "state.db", folder / "feed.db") as journal:
        for seq, record in enumerate(records, start=1):
            journal.append(None, [record_entry(seq, record)]).result()
    config = folder / "reefd.yaml"
    config.write_text(f"journal: {{path: {folder / 'state.db'}}}\n", encoding="utf-8")
    return config


def test_collector_gets_every_run_of_the_journal_as_one_trace(
    tmp_path: Path, collector: tuple[str, list[ExportTraceServiceRequest]]
) -> None:
    url, received = collector
    config = journal_of(tmp_path, run(Outcome(status="done")))
    assert traces(config, endpoint=url, follow=False) == 0
    (request,) = received
    (resource,) = request.resource_spans
    names = [span.name for scope in resource.scope_spans for span in scope.spans]
    assert sorted(names) == ["ShrinkPosition", "approval", "run spike", "shrink"]
    assert any(a.key == "service.name" and a.value.string_value == "reefd" for a in resource.resource.attributes)


def test_collectors_address_that_is_none_is_refused(tmp_path: Path) -> None:
    config = journal_of(tmp_path, [])
    with pytest.raises(UserError, match="no collector's address"):
        traces(config, endpoint="localhost:4318", follow=False)
