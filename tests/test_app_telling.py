"""What a notice says when it leaves: a fault in its words must not hold up the action that it tells of."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx

from daemon.app.drill import _tell_people
from daemon.app.telling import Telling
from daemon.edges.notice import read_message
from daemon.edges.webhook import Endpoint, WebhookSender
from daemon.engine.actions import Notify

NOTIFY = Notify(
    action_id="a.1", run_id="drill/dydx:ETH-USD/1767225600000000000", runbook="drill", to=("desk",), event="fired", severity="critical",
    text="Drill · dydx:ETH-USD: fired: funding_rate > 0.05%/h", detail={"entity": "dydx:ETH-USD"},
)  # fmt: skip
FACTS = {"action_id", "run_id", "runbook", "event", "severity", "text", "house", "anchor"}


class BrokenEngine:
    """An engine whose every question fails; counts them."""

    asked = 0

    def book(self, _runbook: str) -> Any:
        self.asked += 1
        raise KeyError("kids")


def telling(engine: object) -> Telling:
    return Telling(engine=engine, journal=SimpleNamespace(head=lambda: (7, "ab")), house="reefd")  # type: ignore[arg-type]


def test_a_fault_in_the_words_leaves_the_bare_facts() -> None:
    engine = BrokenEngine()
    body = telling(engine).compose(NOTIFY, 1_767_225_600_000_000_000, 3)
    assert engine.asked == 1
    content = json.loads(body)["data"]
    assert set(content) == FACTS
    assert content["anchor"] == "7:ab"
    (notice,) = read_message(body).notices
    assert (notice.entity, notice.severity, notice.event) == ("dydx:ETH-USD", "critical", "fired")


def test_what_cannot_be_written_down_leaves_the_bare_facts() -> None:
    engine = SimpleNamespace(book=lambda _: None, cold=SimpleNamespace(memories={}))
    odd = Notify(
        action_id="a.1", run_id="r", runbook="drill", to=("desk",), event="fired", severity="info", text="t", detail={"x": object()}
    )  # fmt: skip
    assert set(json.loads(telling(engine).compose(odd, 0, 1))["data"]) == FACTS
    assert set(json.loads(telling(engine).compose(NOTIFY, 0, 1))["data"]) == FACTS | {"title", "detail", "why", "did"}


async def test_drill_leaves_no_incident_open_at_pagerduty() -> None:
    got: list[dict[str, Any]] = []

    def taken(request: httpx.Request) -> httpx.Response:
        got.append(json.loads(request.content))
        return httpx.Response(202)

    async def resolve(_host: str, _port: int) -> list[str]:
        return ["93.184.216.34"]

    pager = Endpoint(name="pager", url="https://events.pagerduty.com/v2/enqueue", format="pagerduty", routing_key="k" * 32)
    sender = WebhookSender([pager], resolve=resolve, transport=httpx.MockTransport(taken))
    (link,) = await _tell_people(sender, [], lambda _: None)
    assert link.held
    assert [event["event_action"] for event in got] == ["trigger", "resolve"]
    assert got[0]["dedup_key"] == got[1]["dedup_key"] != ""
    assert got[0]["payload"]["severity"] == "info"
