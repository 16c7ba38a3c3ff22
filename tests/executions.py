"""Generated (runbook set, series) pairs, played by the plain and by the compiled execution: records and accounts must be equal."""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal

import numpy as np

from daemon.engine.engine import Engine
from daemon.engine.limits import HouseLimits
from daemon.engine.records import Record
from daemon.journal.recording import Block
from daemon.runbook.load import load_text
from daemon.runbook.model import Runbook
from daemon.simulation.account import AccountSpec, MarketRules, OpeningPosition, Totals
from daemon.simulation.columnar import ColumnHot, Compiles
from daemon.simulation.replay import Course, Passage, recorded
from daemon.simulation.spans import Spans
from daemon.units import NS
from daemon.world.entities import Kind, Route, Venue

START = 1_767_225_600 * NS
SYMBOLS = ("A-USD", "B-USD")
VENUES = ("dydx", "other")

# (scope, condition with a place for its threshold, least and greatest threshold, unit)
CONDITIONS: tuple[tuple[str, str, float, float, str], ...] = (
    ("market", "zscore(funding_rate, 40m) > {}", 0.5, 2.0, ""),
    ("market", "mean(mark_price / index_price - 1, 10m) > {}", -5, 15, "bps"),
    ("market", "std(mark_price, 10m) / mean(mark_price, 10m) > {}", 0.1, 0.6, "%"),
    ("market", "pct_change(last_price, 5m) < {}", -1.0, 0.2, "%"),
    ("market", "max(bid_price, 20m) / min(bid_price, 20m) - 1 > {}", 0.5, 3.0, "%"),
    ("market", "quantile(spread, 80%, 30m) < {}", 2, 20, "bps"),
    ("market", "abs(oracle_price / mid_price - 1) > {}", 5, 80, "bps"),
    ("market", "ewma(index_price / mark_price - 1, 10m) > {}", -15, 5, "bps"),
    ("market", "slope(ask_price, 15m) > {} and spread < 50bps", -5.0, 5.0, " price * 1 / 1h"),
    ("market", "share(mark_price > index_price, 15m) > {}", 20, 80, "%"),
    ("market", "count(bid_size, 20m) < {}", 1, 20, ""),
    ("market", "sum(ask_size, 20m) > {}", 100, 2000, " base"),
    ("market", "age(oracle_price) > {}", 20, 200, "s"),
    ("market", "not known(bid_price) or funding_rate > {}", 0.01, 0.08, "%/h"),
    ("market", "oracle_stale_for > {}", 30, 300, "s"),
    ("market", 'signal("dydx:A-USD", mark_price) > {}', 97, 103, " price"),
    ("market", "median_over(peers, last_price) < {}", 97, 103, " price"),
    ("market", "cross_venue_divergence > {}", 1, 60, "bps"),
    ("market", "realized_vol(30m) > {}", 20, 300, "%"),
    ("market", "oracle_divergence > {} and funding_rate > -1%/h", 5, 60, "bps"),
    ("market", "next_funding_in < {}", 300, 1800, "s"),
    ("position", "funding_rate * sign(size) > {}", -0.02, 0.06, "%/h"),
    ("position", "abs(notional) > {}", 500, 8000, " USD"),
    ("position", "liquidation_distance < {}", 2, 40, "%"),
    ("position", "funding_breakeven < {} and bid_size > 0 base", 1, 40, "h"),
    ("position", "oracle_divergence > {} and size != 0 base", 5, 60, "bps"),
    ("account", "margin_ratio > {}", 10, 80, "%"),
    ("account", "survivable_move < {}", 3, 40, "%"),
    ("account", "equity < {}", 500, 4000, " USD"),
    ("account", "margin_ratio_worst > {}", 10, 80, "%"),
    ("account", "time_to_liquidation < {}", 1, 400, "h"),
    ("portfolio", "gross_notional > {}", 1000, 9000, " USD"),
    ("chain", "gas_price > {}", 20, 60, "gwei"),
    ("chain", "mean(gas_price, 10m) > {}", 30, 50, "gwei"),
)
STEPS: dict[str, tuple[str, ...]] = {
    "market": ("notify: {to: [desk], text: told}", "halt: {scope: market}"),
    "position": (
        "notify: {to: [desk], text: told}",
        "halt: {scope: position}",
        "shrink_position: {by: 25%, max_slippage: 2%}",
        "shrink_position: {by: 40%, max_slippage: 3%, slices: 3, every: 40s}",
    ),
    "account": (
        "notify: {to: [desk], text: told}",
        "shrink_account: {to_margin_ratio: 15%, order: pro_rata}",
        "move_buffer: {from: ethereum, to: dydx, amount: 200 USD, route: best, max_fee: 10 USD}",
    ),
    "portfolio": ("notify: {to: [desk], text: told}",),
    "chain": ("notify: {to: [desk], text: told}",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one pass came to: every record, and the account."""

    records: tuple[Record, ...]
    totals: Totals
    collateral: float
    equity: float


def duration(chance: random.Random, least: int, most: int) -> str:
    return f"{chance.randint(least, most)}s"


def _conditions() -> tuple[tuple[str, tuple[int, ...], int | None], ...]:
    """(scope, conditions of `when`, condition of `until`): few enough that each compiles once."""
    chance = random.Random(20)
    found: list[tuple[str, tuple[int, ...], int | None]] = []
    for n, (scope, *_) in enumerate(CONDITIONS):
        others = [m for m, condition in enumerate(CONDITIONS) if condition[0] == scope]
        found.append((scope, (n,), None))
        if n % 2 == 0:
            found.append((scope, (n, chance.choice(others)), chance.choice((None, chance.choice(others)))))
    return tuple(found)


SHAPES = _conditions()


def condition(chance: random.Random, number: int) -> str:
    _, text, low, high, unit = CONDITIONS[number]
    return text.format(f"{chance.uniform(low, high):.4f}{unit}")


def runbook(chance: random.Random, name: str) -> Runbook:
    """A random runbook: one of the shapes above, with its own thresholds, times and steps."""
    scope, conditions, until = chance.choice(SHAPES)
    joint = " or " if conditions[-1] % 3 == 0 else " and "
    when = joint.join(f"({condition(chance, number)})" for number in conditions)
    lines = [
        "schema: reefd/v1", f"runbook: {name}", "title: generated", "owner: tests", "severity: info", "stage: armed", "intent: economy",
        f"scope: {scope}", "trigger:", f"  when: {when}",
    ]  # fmt: skip
    if chance.random() < 0.6:
        lines.append(f"  for: {duration(chance, 1, 300)}")
    if until is not None:
        lines.append(f"  until: not ({condition(chance, until)})")
    if chance.random() < 0.4:
        lines.append(f"  until_for: {duration(chance, 1, 400)}")
    if chance.random() < 0.3:
        lines.append(f"cooldown: {duration(chance, 10, 900)}")
    if chance.random() < 0.3:
        lines.append(f"repeat: {{every: {duration(chance, 30, 600)}, max: {chance.randint(1, 3)}}}")
    step = chance.choice(STEPS[scope])
    lines += ["steps:", "  - id: one", f"    {step}"]
    if "shrink_position" in step and chance.random() < 0.4:
        lines.append("    verify: {that: abs(size) < abs(size@start), within: 60s}")
    if "halt" in step and chance.random() < 0.5:
        lines.append("on_clear: [{id: back, resume: {scope: " + scope + "}}]")
    loaded = load_text("\n".join(lines) + "\n", f"{name}.yaml")
    assert not loaded.errors, (loaded.errors, "\n".join(lines))
    return loaded.runbooks[0]


def rows(chance: random.Random, count: int) -> tuple[Block, ...]:
    """Random market rows of two symbols at two venues, and of a chain: gaps, late rows, nulls, missing values, repeated settlements."""
    g = np.random.default_rng(chance.getrandbits(32))
    dense = chance.random() < 0.4
    entities = [f"{venue}:{symbol}" for venue in VENUES for symbol in SYMBOLS][: chance.choice((1, 2, 4))]
    parts = []
    for number in range(len(entities)):
        gaps = g.choice([5, 20, 30, 60, 400], size=count, p=[0.2, 0.3, 0.3, 0.18, 0.02]) * NS
        if not dense:
            gaps = gaps + g.integers(0, 3 * NS, count)
        ts = START + number * (0 if dense else 7) + np.cumsum(gaps)
        event = ts.copy()
        if not dense and chance.random() < 0.7:
            late = g.random(count) < 0.3
            event[late] -= g.integers(0, 90, late.sum()) * NS
        mark = 100.0 * np.exp(np.cumsum(g.normal(0, 2e-3, count)))
        half = mark * g.uniform(1e-4, 2e-3, count)
        columns = {
            "bid_price": mark - half, "ask_price": mark + half, "bid_size": g.uniform(1, 50, count), "ask_size": g.uniform(1, 50, count),
            "mark_price": mark, "last_price": mark * (1 + g.normal(0, 1e-3, count)),
            "index_price": mark * (1 + g.normal(-3e-4, 5e-4, count)),
            "oracle_price": np.roll(mark, 2) * (1 + 0.006 * (g.random(count) < 0.05)), "funding_rate": np.abs(g.normal(2e-4, 3e-4, count)),
        }  # fmt: skip
        if not dense:
            for name, column in columns.items():
                column[g.random(count) < g.choice([0.0, 0.1, 0.6])] = np.inf
                if name != "oracle_price":
                    column[g.random(count) < 0.01] = np.nan
        parts.append((ts, event, np.full(count, number, np.int32), columns))
    ts = np.concatenate([part[0] for part in parts])
    order = np.lexsort((np.concatenate([part[2] for part in parts]), ts))
    names = sorted(entities)
    numbers = np.array([names.index(entity) for entity in entities], np.int32)[np.concatenate([part[2] for part in parts])]
    market = Block(
        kind=Kind.MARKET, ts=ts[order], event_ts=np.concatenate([part[1] for part in parts])[order], entity=numbers[order],
        entity_ids=tuple(names), columns={name: np.concatenate([part[3][name] for part in parts])[order] for name in parts[0][3]},
    )  # fmt: skip
    if chance.random() < 0.6:
        return (market,)
    chain_ts = START + np.cumsum(g.integers(10, 120, count // 2)) * NS
    if chance.random() < 0.5:
        chain_ts = np.unique(market.ts)[::3]  # at the instants at which orders fill
    gas = g.uniform(10, 70, len(chain_ts))
    chain = Block(
        kind=Kind.CHAIN, ts=chain_ts, event_ts=chain_ts, entity=np.zeros(len(chain_ts), np.int32), entity_ids=("ethereum",),
        columns={"gas_price": gas},
    )  # fmt: skip
    return chain, market


def course(chance: random.Random, count: int) -> Course:
    """A random recording and account."""
    positions = tuple(
        OpeningPosition(market=symbol, size=Decimal(chance.randint(-30, 30) or 5), entry_price=100.0)
        for symbol in SYMBOLS[: chance.randint(1, 2)]
    )
    spec = AccountSpec(
        venue="dydx", collateral_usd=float(chance.randint(300, 3000)), positions=positions, taker_fee=0.0005, slippage=0.0005,
        markets={symbol: MarketRules(initial_margin=0.05, maintenance_margin=0.03, step=Decimal("0.1")) for symbol in SYMBOLS},
        valued_at=("oracle_price", "mark_price", "last_price"), buffers={"ethereum": 900.0},
        routes=(Route(name="cctp", source="ethereum", destination="dydx", eta_ns=120 * NS, eta_p95_ns=240 * NS, fee=0.001),),
        latency_ns=chance.choice((0, 0, 15 * NS)),
    )  # fmt: skip
    venues = {name: Venue(id=name, valued_at=spec.valued_at, chain="ethereum", funding_interval_ns=1800 * NS) for name in VENUES}
    return Course(
        blocks=rows(chance, count), spec=spec, topology=spec.topology(venues), intervals={"dydx": 1800 * NS, "other": 1800 * NS},
        slice_rows=chance.choice((60, 10_000)), holds={(Kind.MARKET, "funding_rate", "*"): 3600 * NS} if chance.random() < 0.5 else {},
    )  # fmt: skip


def outcome(
    over: Course,
    books: tuple[Runbook, ...],
    compiler: Compiles | None,
    spans: Spans | None = None,
    reload: tuple[Runbook, ...] | None = None,
) -> Outcome:
    """One pass; the compiled execution when a compiler is given (raises Unsupported where it does not apply). `reload`: the runbooks that
    are put in force after the first slice."""
    hot = None if compiler is None else ColumnHot(over.topology, over.sources, compiler=compiler, recorded=recorded(over))
    engine = Engine(topology=over.topology, house=HouseLimits(), build="test", sources=over.sources, hot=hot)
    passage = Passage(over, engine=engine, runbooks=books, spans=spans)
    records: list[Record] = []
    take = passage.log.take

    def kept(record: Record) -> None:
        records.append(record)
        take(record)

    passage._rehearsal._take = kept
    for number, at in enumerate(passage.stretches()):
        if reload is not None and number == 0:
            passage.reload(reload, at)
    account = passage.account
    return Outcome(records=tuple(records), totals=account.totals, collateral=account.collateral, equity=account.closing_equity)
