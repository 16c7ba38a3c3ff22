"""The oracle of one market, second by second (floor 5): cadence, threshold, heartbeat, and the ways in which it fails.

    feed.advance(second, index, shocks, halted=False)      # then feed.price is what the venue's margin uses
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

from daemon.simulation import paths
from daemon.simulation.faults import OracleFreeze, OracleLag, OracleSources, OracleWrong, VenueHalt
from daemon.simulation.fields import TimedShock, is_lasting
from daemon.simulation.oracle_models import OracleSpec
from daemon.units import NS

LAG_MAX_S = 3600  # how far back a lag can look
MEDIAN_SPREAD = 1.2533141373155001  # sqrt(pi / 2): standard deviation of a median of n normals, in units of one over sqrt(n)


@dataclass(slots=True, kw_only=True)
class OracleFeed:
    """What one oracle publishes, as of one second. `shocks` given to it are those of its market and of the venue."""

    seed: int
    symbol: str
    spec: OracleSpec
    start_s: int  # epoch second of the venue's start: cadences keep the epoch's rhythm
    digits: int  # decimals that are published
    price: float
    published_s: int = 0  # seconds since the start
    sources: int = field(init=False)
    _recent: deque[float] = field(default_factory=lambda: deque(maxlen=LAG_MAX_S))
    _noise: tuple[int, list[float]] = (-1, [])

    def __post_init__(self) -> None:
        self.sources = self.spec.sources
        self.price = self.rounded(self._bounded(self.price))

    def rounded(self, price: float) -> float:
        """A price with the digits that are published."""
        return round(price, self.digits)

    @property
    def has_index(self) -> bool:
        """False while so few sources answer that there is no price."""
        return self.sources >= self.spec.sources_min

    @property
    def votes_zero(self) -> bool:
        """True while premium votes are zero for want of an index price: funding is dragged to zero instead of flagged."""
        return self.spec.votes_zero and not self.has_index

    @property
    def conf(self) -> float:
        """Half-width of the confidence interval, USD: grows as sources are lost; infinite without a price."""
        if not self.has_index:
            return math.inf if self.spec.conf > 0 else 0.0
        return self.price * self.spec.conf * math.sqrt(self.spec.sources / self.sources)

    def advance(self, second: int, index: float, shocks: Sequence[TimedShock], *, halted: bool) -> None:
        """Moves to a second at which the market's price is `index`; publishes where cadence, threshold or heartbeat say so."""
        self._recent.append(index)
        lag, frozen, wrong = self.spec.lag, halted, None
        self.sources = self.spec.sources
        for shock in shocks:
            match shock:
                case OracleSources() if is_lasting(shock, second):
                    self.sources = min(self.sources, shock.left)
                case OracleFreeze() if is_lasting(shock, second):
                    frozen = True
                case OracleLag() if is_lasting(shock, second):
                    lag = max(lag, shock.by)
                case OracleWrong() if is_lasting(shock, second):
                    wrong = shock
                case VenueHalt() if shock.at + shock.lasts <= second * NS < shock.at + shock.lasts + shock.stale_for:
                    frozen = True  # the chain is back, the processes that fetch prices are not
                case _:
                    pass
        if frozen or not self.has_index or (self.start_s + second) % max(1, self.spec.cadence // NS):
            return
        self._publish(second, self._seen(second, lag, wrong))

    def _seen(self, second: int, lag: int, wrong: OracleWrong | None) -> float:
        """What the sources say now, USD."""
        target = self._recent[-min(len(self._recent), lag // NS + 1)]
        if wrong is not None:
            target = target * (1.0 + wrong.by) if wrong.by is not None else wrong.price or target
        lost = 1.0 / self.sources - 1.0 / self.spec.sources
        if lost > 0:
            target *= math.exp(self.spec.source_noise * MEDIAN_SPREAD * math.sqrt(lost) * self._normal(second))
        return self._bounded(target)

    def _publish(self, second: int, target: float) -> None:
        heartbeat = self.spec.heartbeat
        due = heartbeat is not None and (second - self.published_s) * NS >= heartbeat
        if due or abs(target / self.price - 1.0) >= self.spec.deviation:
            self.price, self.published_s = self.rounded(target), second

    def _bounded(self, price: float) -> float:
        floor, ceiling = self.spec.floor, self.spec.ceiling
        return min(max(price, floor if floor is not None else price), ceiling if ceiling is not None else math.inf)

    def _normal(self, second: int) -> float:
        chunk = second // paths.CHUNK_S
        if self._noise[0] != chunk:
            self._noise = chunk, paths.normals(self.seed, f"{self.symbol}.oracle", chunk, paths.CHUNK_S).tolist()
        return self._noise[1][second % paths.CHUNK_S]
