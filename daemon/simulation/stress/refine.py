"""Finer rows inside stretches of a path (floor 5): Brownian bridges through the coarse rows, which stay as they are to the last bit.

Between two coarse rows each coin's log index is a bridge with that row's volatility and the coins' correlation, drawn by row (so a
stretch may be cut again and again and shows the same). A jump happens at its row: the bridge runs to the price just before it. Premium,
and the distance of the oracle from the index, are straight between rows; an oracle that did not move between two rows did not move.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.prices import YEAR_H, Jump
from daemon.units import HOUR_NS

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Bridged(Protocol):
    """What a bridge needs to know of the prices: names, yearly volatilities, and the Cholesky factor of the correlation."""

    bases: tuple[str, ...]
    volatility: Floats
    lower: Floats


BLOCK_ROWS = 60  # coarse rows that are drawn for together: few draws for a stretch, and every row's own whatever is cut around it


@dataclass(frozen=True, slots=True)
class Cut:
    """Which coarse rows are cut: `rows` of them, `row` the coarse row of every fine one, `part` its place in it (1 .. parts)."""

    rows: Ints
    parts: int
    row: Ints
    part: Ints

    @property
    def inside(self) -> NDArray[np.bool_]:
        """True for fine rows that are no coarse ones."""
        found: NDArray[np.bool_] = self.part < self.parts
        return found


def cut(rows: int, stretches: Sequence[tuple[int, int]], parts: int) -> Cut:
    """The fine rows of a path of `rows` when those of `stretches` [low, high) are cut into `parts`. An uncut row is its own last part."""
    chosen = np.zeros(rows, dtype=bool)
    for low, high in stretches:
        chosen[max(0, low) : max(0, high)] = True
    counts = np.where(chosen, parts, 1)
    row = np.repeat(np.arange(rows), counts)
    ends = np.cumsum(counts)
    part = parts - (ends[row] - 1 - np.arange(len(row)))
    return Cut(rows=np.flatnonzero(chosen), parts=parts, row=row, part=part)


def fine_index(draws: Draws, future: Bridged, made: Cut, walked: Floats, scale: Floats, jumps: Sequence[Jump], step_ns: int) -> Floats:
    """Log of the coins' index over its start in the cut rows: float64[bases, cut rows, parts]; the last part is the coarse row's own.

    `walked`: float64[bases, rows], log of the index over its start by coarse row.
    """
    bases, count, parts = len(future.bases), len(made.rows), made.parts
    normals = np.empty((bases, count, parts))
    drawn = np.empty((BLOCK_ROWS, parts))
    blocks = made.rows // BLOCK_ROWS
    for block in np.unique(blocks).tolist():
        wanted = blocks == block
        rows = made.rows[wanted] - block * BLOCK_ROWS
        for i, base in enumerate(future.bases):
            draws.normals(Purpose.BRIDGE, base, drawn.reshape(-1), block=block)
            normals[i, wanted] = drawn[rows]
    root = math.sqrt(step_ns / HOUR_NS / YEAR_H / parts)
    steps = np.einsum("ik,krp->irp", future.lower * (future.volatility * root)[:, None], normals)
    steps *= (scale[:, made.rows] if scale.ndim == 2 else scale[made.rows])[..., None]
    walks = np.cumsum(steps, axis=2)
    before = np.where(made.rows > 0, walked[:, made.rows - 1], 0.0)
    after = walked[:, made.rows].copy()
    place = {row: k for k, row in enumerate(made.rows.tolist())}
    for jump in jumps:
        if jump.row in place:
            after[jump.base, place[jump.row]] -= jump.size
    shares = np.arange(1, parts + 1) / parts
    bridged: Floats = before[..., None] + walks + shares * (after - before - walks[..., -1])[..., None]
    bridged[..., -1] = walked[:, made.rows]
    return bridged


def straight(made: Cut, values: Floats, start: Floats) -> Floats:
    """Values by fine row on straight lines from coarse row to coarse row (`start` before the first): float64[markets, fine rows]."""
    before = np.concatenate([start[:, None], values[:, :-1]], axis=1)
    share = made.part / made.parts
    line: Floats = before[:, made.row] * (1.0 - share) + values[:, made.row] * share
    return np.where(made.inside, line, values[:, made.row])
