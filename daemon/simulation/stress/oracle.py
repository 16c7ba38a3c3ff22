"""What margin uses, by market and row (floor 5): oracle prices with a deadband, mark prices with an average, and what goes wrong with them.

dYdX publishes when the price has moved by the deadband: the last published price is then triangular around the market with variance
deadband^2 / 6, and a grid of sqrt(2) deadbands in the log, its offset drawn by path and market, has the same variance (uniform) without
walking row by row. Hyperliquid's mark is the median of the oracle + a 150 s average of mid - oracle, the book's mid, and other venues'
perps, here the index: the average of a premium that moves in straight lines is the premium `smoothing` ago.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.stress.draws import Draws, Purpose
from daemon.simulation.stress.surroundings import OracleFault
from daemon.simulation.stress.worldfile import OracleSpec

Floats = NDArray[np.float64]


class Oracles:
    """The oracle laws of the markets of one source; a market without one shows the index."""

    def __init__(self, markets: Sequence[str], specs: Sequence[OracleSpec | None], rows: int, step_ns: int) -> None:
        self.markets, self.specs = tuple(markets), tuple(specs)
        self.rows_per_hour = 3_600_000_000_000 / step_ns
        self.is_index = not any(spec and (spec.deadband or spec.smoothing) for spec in specs)
        self._lags = [spec.smoothing / step_ns if spec else 0.0 for spec in specs]
        self._one, self._two = np.empty(rows), np.empty(rows)

    def prices(
        self,
        draws: Draws,
        index: Floats,
        logs: Sequence[Floats],
        first: Floats,
        premium: Floats | None,
        faults: Sequence[OracleFault],
        starts: Floats,
    ) -> Floats:
        """Prices that margin uses, USD: float64[markets, rows], the index itself where nothing sets them apart.

        `logs`: of each market's index over its start; `first`: premium at the start; `starts`: index at the start.
        """
        if self.is_index and not faults:
            return index
        shown = index.copy() if self.is_index else np.empty_like(index)
        if not self.is_index:
            for i, spec in enumerate(self.specs):
                if spec is not None and spec.deadband:
                    self._banded(draws.uniform(Purpose.DEADBAND, self.markets[i]), spec.deadband, logs[i], index[i], shown[i])
                elif spec is not None and spec.smoothing and premium is not None:
                    self._marked(self._lags[i], premium[i], float(first[i]), index[i], shown[i])
                else:
                    shown[i] = index[i]
        for fault in faults:
            self._spoil(shown[fault.market], fault, float(starts[fault.market]))
        return shown

    def _banded(self, offset: float, deadband: float, logs: Floats, index: Floats, out: Floats) -> None:
        width = math.sqrt(2.0) * deadband
        steps, cell = self._one, self._two
        np.multiply(logs, 1.0 / width, out=steps)
        steps += offset
        np.floor(steps, out=cell)
        cell -= steps
        cell += 0.5
        cell *= width  # log of published over index
        # exp(x) of |x| < 1 %: four terms are exact to 1e-11.
        np.multiply(cell, 0.5, out=steps)
        steps += 1.0
        steps *= cell
        steps += 1.0
        np.multiply(index, steps, out=out)

    def _marked(self, lag: float, premium: Floats, first: float, index: Floats, out: Floats) -> None:
        whole, part = int(lag), lag - int(lag)
        average, bound = self._one, self._two
        rows = len(average)
        if rows > whole + 1:
            np.multiply(premium[1 : rows - whole], 1.0 - part, out=average[whole + 1 :])
            np.multiply(premium[: rows - whole - 1], part, out=bound[whole + 1 :])
            average[whole + 1 :] += bound[whole + 1 :]
        average[: whole + 1] = first
        if rows > whole:
            average[whole] = (1.0 - part) * float(premium[0]) + part * first
        np.minimum(premium, 0.0, out=bound)
        np.maximum(average, bound, out=average)
        np.maximum(premium, 0.0, out=bound)
        np.minimum(average, bound, out=average)
        average += 1.0
        np.multiply(index, average, out=out)

    def _spoil(self, shown: Floats, fault: OracleFault, start: float) -> None:
        begin = max(0, math.ceil(fault.since * self.rows_per_hour) - 1)
        end = min(len(shown), math.ceil(fault.until * self.rows_per_hour) - 1)
        if begin >= end:
            return
        if fault.stands:
            shown[begin:end] = shown[begin - 1] if begin else start
        elif fault.lag_h:
            lag = round(fault.lag_h * self.rows_per_hour)
            before = np.concatenate([np.full(max(0, lag - begin), start), shown[max(0, begin - lag) : max(0, end - lag)]])
            shown[begin:end] = before[: end - begin]
        else:
            shown[begin:end] *= fault.factor
