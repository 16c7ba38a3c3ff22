"""Which venues cannot be seen although they answer (floor 7): a last block over the catalogue's limit makes every reading UNKNOWN.

The engine then simply stops acting there; this is what says so, in the log once when it begins and once when it ends, and in the status.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.engine.events import Event, Observed
from daemon.language.catalogue import BLOCK_AGE_LIMIT_S
from daemon.service.logging import log
from daemon.world.entities import Kind


class Sight:
    """Follows the block ages that are observed."""

    def __init__(self) -> None:
        self._blind: dict[str, float] = {}

    @property
    def blind(self) -> Mapping[str, float]:
        """Block age in seconds of every venue whose readings are all UNKNOWN because of it."""
        return self._blind

    def follow(self, event: Event) -> None:
        """Take note of an event that is on disk."""
        if not isinstance(event, Observed) or event.history:
            return
        for row in event.rows:
            if row.kind is Kind.VENUE and "block_age" in row.values:
                self._note(row.entity, row.values["block_age"])

    def _note(self, venue: str, age_s: float) -> None:
        if age_s > BLOCK_AGE_LIMIT_S:
            if venue not in self._blind:
                log().warning("venue.blind", venue=venue, block_age_s=round(age_s), consequence="all its readings are UNKNOWN")
            self._blind[venue] = age_s
        elif self._blind.pop(venue, None) is not None:
            log().warning("venue.seen", venue=venue, block_age_s=round(age_s), consequence="its readings count again")
