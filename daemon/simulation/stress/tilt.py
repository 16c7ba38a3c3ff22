"""Importance sampling of rare losses (floor 5): paths pushed towards an adverse move, and what each weighs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Tilt:
    """Where paths are pushed: `move` log move by market that the diffusion is expected to make within `horizon_ns`.

    `plain`: share of paths drawn without the push (defensive mixture: no weight exceeds 1 / plain). `jump_factor` multiplies the rate
    of jumps in the pushed ones.
    """

    move: Mapping[str, float]
    horizon_ns: int
    plain: float = 0.2
    jump_factor: float = 1.0

    def is_pushed(self, number: int) -> bool:
        """True when the path of this number is a pushed one: the plain ones are spread evenly over the numbers."""
        return int((number + 1) * self.plain) == int(number * self.plain)
