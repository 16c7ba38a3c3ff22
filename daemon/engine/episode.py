"""When an episode is due its next run (floor 4): pure functions of an episode and its runbook."""

from __future__ import annotations

from daemon.engine.state import Episode
from daemon.runbook.model import Runbook
from daemon.units import FOREVER


def episode_id(runbook: str, entity: str, fired_at: int) -> str:
    """`<runbook>/<entity>/<fired_at ns>`."""
    return f"{runbook}/{entity}/{fired_at}"


def turn_due(book: Runbook, episode: Episode) -> int:
    """When the episode's next run is due: at firing, then `every` after the previous start, at most `max` further; FOREVER after."""
    if not episode.open or episode.external:
        return FOREVER
    if episode.turns == 0:
        return episode.fired_at
    if book.repeat is None or episode.turns - 1 >= book.repeat.max:
        return FOREVER
    return episode.last_turn_at + book.repeat.every_ns


def clear_wanted(book: Runbook, episode: Episode) -> bool:
    """True when the episode is over, some step of it was done, and its on_clear has not started."""
    acted = episode.acted or episode.acted_shadow
    return not episode.open and acted and not episode.clear_started and bool(book.on_clear)
