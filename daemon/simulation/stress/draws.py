"""Chance by counter (floor 5): every number of a path is a function of (seed, path, purpose, entity, block), of nothing else.

    draws = Draws(Bits(), seed=7, path=12)
    draws.normals(PRICE, "BTC", out)                # fills `out`; the same whatever was drawn before and by whom
    draws.uniform(DELAY, "cctp", 3)                 # one number in (0, 1)

Philox 4x64 is keyed by (seed, path); purpose, entity and block are words of its counter, so streams of 2^64 blocks never meet. A longer
stream begins with the shorter one. Streams of one `Bits` share one generator: take what is needed before the next stream is asked for.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum, auto
from functools import cache
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
_WORD = 1 << 64
_BINS = 1 << 16
_TAIL = 1 << 63  # set in a block's number: where the stream takes the values of its outermost bins
_UNIT = 2.0**-53
NORMAL = NormalDist()


class Purpose(IntEnum):
    """What a stream is for; the number is a word of the counter and never changes its meaning."""

    REGIME = auto()
    PRICE = auto()
    MIXING = auto()
    JUMP_COMMON = auto()
    JUMP_OWN = auto()
    PREMIUM = auto()
    DEADBAND = auto()
    ORACLE_FREEZE = auto()
    ORACLE_LATE = auto()
    ORACLE_WRONG = auto()
    VENUE_HALT = auto()
    BRIDGE_LOCK = auto()
    SEQUENCER_STOP = auto()
    FINALITY = auto()
    GAS = auto()
    ADL = auto()
    DELAY = auto()
    BRIDGE = auto()
    BLOCKS = auto()
    OTHER = auto()


@cache
def entity_word(name: str) -> int:
    """The 64-bit word that stands for a name in the counter."""
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


@cache
def normal_table() -> NDArray[np.float32]:
    """Values of the standard normal's 65,536 equally likely bins, each bin's mean; the two outermost are redrawn in `Draws.normals`.

    Means lose the variance within bins (2e-6); the table is scaled so that, with the exact tails, the variance is 1. In single precision
    it stays in the second-level cache, which makes looking up three times as fast; what is drawn has 16 bits anyway.
    """
    half = _BINS // 2
    edges = np.array([NORMAL.inv_cdf(k / _BINS) for k in range(1, half)] + [0.0])
    heights = np.exp(-0.5 * edges * edges) / np.sqrt(2.0 * np.pi)
    lower = -np.diff(heights) * _BINS  # mean of a bin between two edges: (density at the left - at the right) / its probability
    edge = float(edges[0])
    tail = 1.0 / _BINS + (-edge) * float(heights[0])  # E[z^2; z < edge]
    inner = np.concatenate([lower, -lower[::-1]])
    inner *= np.sqrt((1.0 - 2.0 * tail) / (float(inner @ inner) / _BINS))
    table = np.concatenate([[np.nan], inner, [np.nan]]).astype(np.float32)
    table.flags.writeable = False
    return table


class Bits:
    """The one bit generator that the streams of a process share; it has no state of its own between two streams."""

    __slots__ = ("generator", "philox")

    def __init__(self) -> None:
        self.philox = np.random.Philox(key=0)
        self.generator = np.random.Generator(self.philox)


class Draws:
    """The chance of one path."""

    __slots__ = ("_bits", "_key")

    def __init__(self, bits: Bits, *, seed: int, path: int) -> None:
        self._bits = bits
        self._key = [seed % _WORD, path % _WORD]

    def _seat(self, purpose: int, entity: str, block: int) -> None:
        # numpy asks for arrays here by its types, takes any sequence, and is three times as fast with lists.
        state: Any = {
            "bit_generator": "Philox",
            "state": {"counter": [0, block, entity_word(entity), purpose], "key": self._key},
            "buffer": (0, 0, 0, 0),
            "buffer_pos": 4,
            "has_uint32": 0,
            "uinteger": 0,
        }
        self._bits.philox.state = state

    def stream(self, purpose: Purpose, entity: str = "", block: int = 0) -> np.random.Generator:
        """A generator at the beginning of a stream. Not to be kept: the next stream of this process moves it."""
        self._seat(purpose, entity, block)
        return self._bits.generator

    def uniform(self, purpose: Purpose, entity: str = "", block: int = 0) -> float:
        """One number in (0, 1)."""
        self._seat(purpose, entity, block)
        return (int(self._bits.philox.random_raw()) >> 11) * _UNIT + 0.5 * _UNIT

    def chance(self, purpose: str, entity: str, k: int) -> float:
        """One number in (0, 1) for a purpose of the caller's own."""
        return self.uniform(Purpose.OTHER, f"{purpose}\0{entity}", k)

    def normals(self, purpose: Purpose, entity: str, out: Floats, block: int = 0) -> None:
        """Fills `out` (float64[n], contiguous) with standard normals: 16 bits of chance each, exact beyond 4.17 deviations.

        A table of bins is four times as fast as a rejection method, and sums of many draws cannot tell it from one.
        """
        assert 0 <= block < _TAIL
        self._seat(purpose, entity, block)
        words = self._bits.philox.random_raw(-(-len(out) // 4)).view(np.uint16)[: len(out)]
        out[:] = normal_table().take(words, mode="wrap")  # "wrap" and 16 bits: nothing to check
        ends = np.flatnonzero(words + np.uint16(1) < 2)
        if len(ends):
            self._seat(purpose, entity, block | _TAIL)
            shares = (self._bits.philox.random_raw(len(ends)) >> np.uint64(11)) * _UNIT + 0.5 * _UNIT
            for i, share in zip(ends.tolist(), shares.tolist(), strict=True):
                value = NORMAL.inv_cdf(share / _BINS)
                out[i] = value if words[i] == 0 else -value
