from __future__ import annotations
from dataclasses import dataclass
from collections.abc import Mapping, Sequence
from typing import Protocol
import numpy as np
import numpy.typing as npt
from daemon.world.entities import Kind
Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]
@dataclass(frozen=True, slots=True, kw_only=True)
class Fact:
    at: int
    kind: Kind
    entity: str
    values: Mapping[str, float]
class Grid:
    def __init__(self, start, step_ns, steps):
        self.start=start; self.step_ns=step_ns; self.steps=steps
        self.at=start+(np.arange(steps,dtype=np.int64)+1)*step_ns
@dataclass(slots=True, kw_only=True)
class Path:
    number: int
    at: Ints
    mid: Floats
    oracle: Floats
    spread: Floats
    depth: Floats
    funding: Floats
    funding_at: Ints
    facts: tuple[Fact, ...]
    halted: tuple[tuple[str, int, int], ...]
    log_ratio: Floats | None = None
    adl: tuple = ()
    pushed: bool = False
    def delay_s(self, route: str, k: int, at: int | None = None) -> float: return 600.0+60*k
PathSource=object
