"""Native bodies of notices for the tests of alerts: as `daemon/app/telling.py` composes them."""

from __future__ import annotations

from typing import Any

from service_world import ORIGIN_NS

from daemon.edges.webhook import render

ANCHOR = "12:" + "ab" * 32
APPROVAL = {"step": "shrink", "deadline": ORIGIN_NS + 600 * 10**9, "plan_digest": "cd" * 32, "from": ["ana", "ben"]}


def notice(
    event: str = "fired",
    *,
    entity: str = "dydx:BTC-USD",
    severity: str = "warning",
    said: str = "fired: funding_rate > 0.05%/h",
    title: str = "Funding spike",
    runbook: str = "funding-spike",
    run: str = "",
    seq: int = 1,
    at: int = ORIGIN_NS,
    why: tuple[str, ...] = ("funding_rate 0.08%/h (3s old)",),
    did: tuple[str, ...] = (),
    **detail: Any,
) -> str:
    """The native body of a notice; `run` is what follows the episode's id in the run's."""
    episode = f"{runbook}/{entity}/{ORIGIN_NS}"
    run_id = f"{episode}/{run}" if run else episode
    asked = {"run_id": run_id, **APPROVAL} if event == "approval" else {}
    content = {
        "action_id": f"{run_id}.{event}.{at}",
        "run_id": f"{run_id}.shrink" if event == "approval" else run_id,
        "runbook": runbook,
        "event": event,
        "severity": severity,
        "text": f"{title} · {entity}: {said}",
        "detail": {"runbook": runbook, "entity": entity, "instance": f"{runbook}/{entity}", **asked, **detail},
        "why": list(why),
        "did": list(did),
        "house": "reefd",
        "anchor": ANCHOR,
    }
    return render(f"notice.{event}", content, at=at, seq=seq)


def approval(**options: Any) -> str:
    """A request for an approval of run 1."""
    return notice("approval", **{"run": "1", "said": "approval wanted for shrink: shrink_position of 12,000 USD"} | options)
