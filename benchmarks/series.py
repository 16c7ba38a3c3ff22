"""Synthetic 1 Hz market series and the ten rules that every contender evaluates over them. Seeded: every run sees the same rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

START_NS = 1_767_225_600_000_000_000  # 2026-01-01T00:00:00Z
NS = 1_000_000_000
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Columns of `rows` rows, one a second: `ts` int64[rows] ns UTC; prices float64[rows] USD; funding float64[rows] per hour."""

    ts: npt.NDArray[np.int64]
    bid_price: Floats
    ask_price: Floats
    mark_price: Floats
    index_price: Floats
    oracle_price: Floats
    funding_rate: Floats

    def columns(self) -> dict[str, Floats]:
        """The observed signals by their catalogue name."""
        return {name: getattr(self, name) for name in SIGNALS}


SIGNALS = ("bid_price", "ask_price", "mark_price", "index_price", "oracle_price", "funding_rate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition: as a runbook has it, and its hold in seconds. The contenders write the same by hand (`peers.py`)."""

    name: str
    when: str
    hold_s: int = 0


RULES = (
    Rule(name="funding-z", when="zscore(funding_rate, 24h) > 4 and funding_rate > 0.05%/h", hold_s=120),
    Rule(name="oracle", when="abs(oracle_price / mid_price - 1) > 30bps"),
    Rule(name="basis-mean", when="mean(mark_price / index_price - 1, 1h) > 20bps"),
    Rule(name="volatility", when="std(mark_price, 10m) / mean(mark_price, 10m) > 0.5%"),
    Rule(name="fall", when="pct_change(mark_price, 5m) < -2%", hold_s=5),
    Rule(name="spread", when="ask_price / bid_price - 1 > 20bps", hold_s=30),
    Rule(name="range", when="max(mark_price, 1h) / min(mark_price, 1h) - 1 > 3%"),
    Rule(name="basis-z", when="zscore(mark_price / index_price - 1, 1h) > 6"),
    Rule(name="funding-mean", when="mean(funding_rate, 8h) > 0.003%/h", hold_s=60),
    Rule(name="index", when="abs(index_price / oracle_price - 1) > 40bps", hold_s=10),
)

# Ten rules that share one window, as desks write them: the same two conditions at five levels of severity.
SHARED = tuple(
    rule
    for level in range(5)
    for rule in (
        Rule(name=f"funding-{level}", when=f"zscore(funding_rate, 24h) > {4 + level / 10} and funding_rate > 0.05%/h", hold_s=120),
        Rule(name=f"oracle-{level}", when=f"abs(oracle_price / mid_price - 1) > {30 + 10 * level}bps"),
    )
)


def series(rows: int, seed: int = 7) -> Series:
    """`rows` seconds of one market with funding spikes and oracle gaps in it, so that every rule is sometimes TRUE."""
    chance = np.random.default_rng(seed)
    step = np.arange(rows)
    mark = 100.0 * np.exp(np.cumsum(chance.normal(0.0, 8e-5, rows)))
    shocks = (step % 20_000 > 19_900) * -0.0003
    mark = mark * np.exp(np.cumsum(shocks) * (np.cumsum(shocks) > -1))
    half = mark * (2e-4 + 2e-3 * (step % 30_000 > 29_940))
    index = mark * (1.0 - chance.normal(2e-4, 1e-4, rows) - 3e-3 * (step % 70_000 > 64_000))
    oracle = np.roll(mark, 3) * (1.0 + 0.006 * (step % 25_000 > 24_970))
    oracle[:3] = mark[:3]
    funding = 1e-5 + np.abs(chance.normal(0.0, 1e-5, rows)) + 1.2e-3 * (step % 40_000 > 39_600)
    return Series(
        ts=START_NS + step.astype(np.int64) * NS,
        bid_price=mark - half,
        ask_price=mark + half,
        mark_price=mark,
        index_price=index,
        oracle_price=oracle,
        funding_rate=funding,
    )


def runbook(rule: Rule) -> str:
    """The rule as a runbook's text: it halts its market, which needs no account."""
    hold = f"\n  for: {rule.hold_s}s" if rule.hold_s else ""
    return (
        f"schema: reefd/v1\nrunbook: bench-{rule.name}\ntitle: benchmark {rule.name}\nowner: benchmarks\nseverity: info\nstage: shadow\n"
        f"scope: market\ntrigger:\n  when: {rule.when}{hold}\nsteps:\n  - id: tell\n    notify: {{to: [desk], text: fired}}\n"
    )
