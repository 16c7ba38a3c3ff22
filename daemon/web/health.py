"""Alive, and ready (floor 8): what a supervisor and a load balancer ask."""

from __future__ import annotations

from daemon.service.views import STANDS_AFTER_S, Now
from daemon.units import NS, parse_iso
from daemon.web.wire import Health, Readiness

LISTED_MAX = 50


def health(now: Now, *, wall_s: float) -> Health:
    """Alive when the snapshot is no older than five seconds of real time; `wall_s` is seconds since 1970."""
    age_s = max(0.0, wall_s - parse_iso(now.published) / NS)
    if age_s > STANDS_AFTER_S:
        return Health(alive=False, age_s=age_s, why=f"the daemon has not turned for {age_s:.0f} s")
    return Health(alive=True, age_s=age_s, why="")


def readiness(now: Now, *, wall_s: float, tokens: str = "") -> Readiness:
    """Ready when it is alive, is not blind, and every feed has been heard of. One whose journal
    cannot be written has ended.

    `tokens`: what is wrong with the file of tokens; the daemon acts all the same.
    """
    living = health(now, wall_s=wall_s)
    lacking = [] if living.alive else [living.why]
    if now.line == "BLIND":
        lacking.append(f"blind: {now.why}")
    lacking += [f"feed {feed.source} has not been heard of yet" for feed in now.feeds if feed.state == "waiting"]
    degraded = [f"feed {feed.source}: {feed.state}; {feed.reason}" for feed in now.feeds if feed.state not in ("ok", "waiting")]
    degraded += [f"nobody but the operator is admitted: {tokens}"] if tokens else []
    return Readiness(ready=not lacking, lacking=tuple(lacking[:LISTED_MAX]), degraded=tuple(degraded[:LISTED_MAX]))
