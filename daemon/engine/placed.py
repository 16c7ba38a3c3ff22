"""Looking without touching (floor 4): the places of windows and accumulators that exist already, and none other.

A window that a reader placed would be warm when a runbook that is loaded later wants it, and cold when the journal is decided anew:
so whoever only looks compiles against these offsets, and what would need a new window is not known.
"""

from __future__ import annotations

from collections.abc import Mapping

from daemon.engine.layout import Layout
from daemon.language.terms import Stateful, Window
from daemon.world.entities import Kind


class Unplaced(Exception):
    """An expression needs a window or an accumulator that no runbook in force and no action has placed."""


class Placed:
    """The offsets of a layout as they stand; implements `emit.Offsets`, and raises Unplaced instead of placing anything."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout

    def window(self, kind: Kind, window: Window, max_age: Mapping[str, int]) -> int:
        """Offset in F of a window's output. Raises Unplaced."""
        found = self._layout.placed_window(kind, window, max_age)
        if found is None:
            raise Unplaced(window.text)
        return found

    def stateful(self, kind: Kind, term: Stateful, max_age: Mapping[str, int]) -> tuple[int, int]:
        """Offsets in F and I of an accumulator. Raises Unplaced."""
        found = self._layout.placed_stateful(kind, term, max_age)
        if found is None:
            raise Unplaced(term.text)
        return found
