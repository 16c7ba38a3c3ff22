"""The rules that every contender evaluates, as families; each rule is a real runbook, and the peers write the same by hand.

FAMILIES["two"], FAMILIES["shared10"], FAMILIES["windows10"], ...
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

NS = 1_000_000_000
HOUR_S = 3_600
DAY_S = 86_400
BOUNDS_S = {"bid_price": 10, "ask_price": 10, "mark_price": 30, "index_price": 30, "oracle_price": 60, "funding_rate": 7_200}
"""How long a reading of each signal stays fresh (seconds), as `docs/signals.md` has it; a recording may lengthen it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One condition as a runbook has it, its hold in seconds, and the signals it reads (whose staleness pauses the hold)."""

    name: str
    when: str
    hold_s: int = 0
    reads: tuple[str, ...]
    scope: str = "market"

    @property
    def hold_ns(self) -> int:
        """The hold in ns."""
        return self.hold_s * NS

    def bound_ns(self, bounds: Mapping[str, int]) -> int:
        """How long after a row the verdict stands (ns): the least bound of what it reads."""
        return min(bounds[name] for name in self.reads)


def z_threshold(level: int) -> float:
    """The z-score that the funding rule of a level asks for; `reefd check` refuses more than 24 hourly rates can reach (4.69)."""
    return (160 + level) / 40


def gap_bps(level: int) -> int:
    """The distance of oracle from mid that the oracle rule of a level asks for, basis points."""
    return 30 + 5 * level


def _levels(count: int) -> tuple[Rule, ...]:
    """Two conditions at `count` levels of severity, as desks write them: all over one shared window."""
    return tuple(
        rule
        for level in range(count)
        for rule in (
            Rule(
                name=f"funding-{level}",
                when=f"zscore(funding_rate, 24h) > {z_threshold(level)} and funding_rate > 5bps/h",
                hold_s=120,
                reads=("funding_rate",),
            ),
            Rule(
                name=f"oracle-{level}",
                when=f"abs(oracle_price / mid_price - 1) > {gap_bps(level)}bps",
                reads=("oracle_price", "bid_price", "ask_price"),
            ),
        )
    )


WINDOWS = (
    Rule(name="funding-z", when="zscore(funding_rate, 24h) > 4 and funding_rate > 0.05%/h", hold_s=120, reads=("funding_rate",)),
    Rule(name="oracle", when="abs(oracle_price / mid_price - 1) > 30bps", reads=("oracle_price", "bid_price", "ask_price")),
    Rule(name="basis-mean", when="mean(mark_price / index_price - 1, 1h) > 20bps", reads=("mark_price", "index_price")),
    Rule(name="volatility", when="std(mark_price, 10m) / mean(mark_price, 10m) > 0.5%", reads=("mark_price",)),
    Rule(name="fall", when="pct_change(mark_price, 5m) < -2%", hold_s=5, reads=("mark_price",)),
    Rule(name="spread", when="ask_price / bid_price - 1 > 20bps", hold_s=30, reads=("bid_price", "ask_price")),
    Rule(name="range", when="max(mark_price, 1h) / min(mark_price, 1h) - 1 > 3%", reads=("mark_price",)),
    Rule(name="basis-z", when="zscore(mark_price / index_price - 1, 1h) > 6", reads=("mark_price", "index_price")),
    Rule(name="funding-mean", when="mean(funding_rate, 8h) > 0.003%/h", hold_s=60, reads=("funding_rate",)),
    Rule(name="index", when="abs(index_price / oracle_price - 1) > 40bps", hold_s=10, reads=("index_price", "oracle_price")),
)
"""Ten rules over ten different windows."""

MARGIN_LIMIT = 0.2
MARGIN = Rule(name="margin", when=f"margin_ratio > {MARGIN_LIMIT:.0%}", reads=("oracle_price",), scope="account")

FAMILIES: Mapping[str, tuple[Rule, ...]] = {
    "one": _levels(1)[:1],
    "two": _levels(1),
    "shared10": _levels(5),
    "shared50": _levels(25),
    "windows10": WINDOWS,
    "account": (*_levels(1), MARGIN),
}
TOLD = {
    "one": "1 rule",
    "two": "2 rules",
    "shared10": "10 rules, one shared window",
    "shared50": "50 rules, one shared window",
    "windows10": "10 rules, 10 windows",
    "account": "2 rules and one that reads the account",
}
"""Each family in a few words."""


def runbook(rule: Rule, note: str = "fired") -> str:
    """The rule as a runbook's text: in shadow, so that it reports and moves nothing."""
    hold = f"\n  for: {rule.hold_s}s" if rule.hold_s else ""
    return (
        f"schema: reefd/v1\nrunbook: bench-{rule.name}\ntitle: benchmark {rule.name}\nowner: benchmarks\nseverity: info\nstage: shadow\n"
        f"scope: {rule.scope}\ntrigger:\n  when: {rule.when}{hold}\nsteps:\n  - id: tell\n    notify: {{to: [desk], text: {note}}}\n"
    )
