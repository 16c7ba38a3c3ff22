"""Rows of the hot side as bytes and back (floor 4): cells by key, so that an engine with another layout of the same runbooks takes them.

`freeze(arenas, now)` copies; `thaw(arenas, blobs, relink)` takes. Links, names and member lists are the taking engine's own.
"""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable, Mapping

from daemon.engine.arenas import Arenas
from daemon.language.kernels import SERIES_CELLS, WINDOW_CELLS
from daemon.language.slots import BLOCK, HEADER
from daemon.world.entities import Kind


def freeze(arenas: Arenas, now: int) -> dict[str, bytes]:
    """Every row of every kind: cells, rings, and under which key each cell stands."""
    blobs: dict[str, bytes] = {}
    layout = arenas.layout
    for kind, arena in arenas.kinds.items():
        head = {
            "ids": arena.ids,
            "keys": {key: list(place) for key, place in layout.keys(kind).items()},
            "rings": [len(times) for times in arena.T],
            "width": [len(layout.floats[kind]), len(layout.ints[kind])],
            "now": now,
        }
        blobs[f"{kind.value}.head"] = json.dumps(head).encode()
        blobs[f"{kind.value}.F"] = b"".join(array("d", row).tobytes() for row in arena.F)
        blobs[f"{kind.value}.I"] = b"".join(array("q", row).tobytes() for row in arena.I)
        blobs[f"{kind.value}.T"] = b"".join(row.tobytes() for row in arena.T)
        blobs[f"{kind.value}.V"] = b"".join(row.tobytes() for row in arena.V)
    return blobs


def thaw(arenas: Arenas, blobs: Mapping[str, bytes], relink: Callable[[], None]) -> int:
    """Take the rows of a checkpoint; the instant it was made at. `relink` is called once all its entities have rows."""
    heads = {kind: json.loads(blobs[f"{kind.value}.head"]) for kind in Kind}
    for kind, head in heads.items():
        for entity in head["ids"][1:]:
            arenas.row(kind, entity)
    relink()
    for kind, head in heads.items():
        _thaw_kind(arenas, kind, head, head["keys"], blobs)
    return int(heads[Kind.PORTFOLIO]["now"])


def _thaw_kind(
    arenas: Arenas, kind: Kind, head: Mapping[str, list[int]], frozen: Mapping[str, tuple[str, int, int]], blobs: Mapping[str, bytes]
) -> None:
    arena, layout = arenas.kinds[kind], arenas.layout
    width_f, width_i = head["width"]
    floats, ints = _floats(blobs[f"{kind.value}.F"]), _ints(blobs[f"{kind.value}.I"])
    times, values = _ints(blobs[f"{kind.value}.T"]), _floats(blobs[f"{kind.value}.V"])
    places = layout.keys(kind)
    at = 0
    for j, (entity, length) in enumerate(zip(head["ids"], head["rings"], strict=True)):
        number = arena.rows[str(entity)]
        own = arena.I[number]
        kept = own[:HEADER]
        arena.T[number][:], arena.V[number][:] = times[at : at + length], values[at : at + length]
        at += length
        for key, (which, start, count) in frozen.items():
            place = places.get(key)
            if place is None or place[2] != count:
                continue
            to = slice(place[1], place[1] + count)
            if which == "F":
                arena.F[number][to] = floats[j * width_f + start : j * width_f + start + count]
            else:
                own[to] = ints[j * width_i + start : j * width_i + start + count]
        template = layout.ints[kind]
        for series in layout.series[kind].values():
            if f"series {series.key} I" not in frozen:
                # A series the checkpoint does not know: its rings went with the old ones, it starts anew.
                for start, count in ((series.s, SERIES_CELLS), *((w, WINDOW_CELLS) for w, _ in series.states.values())):
                    own[start : start + count] = template[start : start + count]
        block = own[BLOCK]
        own[:HEADER] = kept
        own[BLOCK] = block
        arenas.lengthen(kind, number)


def _ints(blob: bytes) -> array[int]:
    cells = array("q")
    cells.frombytes(blob)
    return cells


def _floats(blob: bytes) -> array[float]:
    cells = array("d")
    cells.frombytes(blob)
    return cells
