"""`reefd traces` (floor 9): the journal's runs as OpenTelemetry spans to a collector, beside the daemon and never in its way.

    traces(Path("config/reefd.yaml"), endpoint="http://127.0.0.1:4318/v1/traces", follow=True)

It reads the journal as anybody may, so a collector that is down, or this process, holds nothing up. Ids are derived from run ids: what
is told twice is one trace. Needs the extra `otel`.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import cast

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.trace import SpanContext, SpanKind, TraceFlags
from opentelemetry.trace.status import Status, StatusCode

from daemon import __version__
from daemon.engine.codec import decode
from daemon.engine.records import Record
from daemon.errors import UserError
from daemon.journal.store import Journal
from daemon.service.spans import Span, Spans
from daemon.settings import load_settings

LOOK_EVERY_S = 2.0
TRIES_MAX = 3  # of one batch; then it is told as lost, the journal still has it


def traces(config: Path, *, endpoint: str, follow: bool, after: int = 0) -> int:
    """Send the runs that ended after the event number `after`, with `follow` for ever; 1 when a batch was not taken. Raises UserError."""
    require_address(endpoint)
    settings = load_settings(config)
    exporter = OTLPSpanExporter(endpoint=endpoint, timeout=10)
    resource = Resource.create({"service.name": "reefd", "service.version": __version__, "service.namespace": settings.house})
    spans, sent, lost = Spans(), 0, 0
    try:
        while True:
            with Journal.open_readonly(settings.journal.path, settings.journal.feed()) as journal:
                for entry in journal.entries(after):
                    after = max(after, entry.seq)
                    finished = spans.take(cast("Record", decode(entry.body))) if entry.role == "record" else ()
                    if finished and _export(exporter, [readable(span, resource) for span in finished]):
                        sent += len(finished)
                    else:
                        lost += len(finished)
            if not follow:
                break
            time.sleep(LOOK_EVERY_S)
    except KeyboardInterrupt:
        pass
    finally:
        exporter.shutdown()  # type: ignore[no-untyped-call]
    print(f"{sent} spans sent to {endpoint}" + (f", {lost} not taken; the journal has them" if lost else ""), file=sys.stderr)
    return 1 if lost else 0


def _export(exporter: OTLPSpanExporter, batch: Sequence[ReadableSpan]) -> bool:
    return any(exporter.export(batch) is SpanExportResult.SUCCESS for _ in range(TRIES_MAX))


def readable(span: Span, resource: Resource) -> ReadableSpan:
    """A span as the library's exporters take it."""
    context = SpanContext(trace_id=span.trace_id, span_id=span.span_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    parent = None
    if span.parent_id is not None:
        parent = SpanContext(trace_id=span.trace_id, span_id=span.parent_id, is_remote=False, trace_flags=TraceFlags(TraceFlags.SAMPLED))
    return ReadableSpan(
        name=span.name,
        context=context,
        parent=parent,
        resource=resource,
        attributes=dict(span.attributes),
        events=[Event(name=text, timestamp=at) for at, text in span.notes],
        kind=SpanKind.INTERNAL,
        status=Status(StatusCode.ERROR, span.error) if span.error else Status(StatusCode.OK),
        start_time=span.start,
        end_time=span.end,
    )


def require_address(text: str) -> str:
    """An http address, or UserError."""
    if not text.startswith(("http://", "https://")):
        raise UserError(f"{text!r} is no collector's address; write for example http://127.0.0.1:4318/v1/traces")
    return text
