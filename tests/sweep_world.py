"""A small recording, an account and a runbook with params, for the tests of sweeps and comparisons."""

from __future__ import annotations

from pathlib import Path

import polars as pl

from daemon.journal.recording import Facts, Recording
from daemon.units import HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind

T0 = 1_770_134_400 * NS  # 2026-02-03T16:00:00Z
HYPE = "dydx:HYPE-USD"

BOOK = """\
schema: reefd/v1
runbook: spike
title: Shrink while a long pays too much
owner: desk
severity: warning
intent: economy
stage: armed
scope: position
params:
  threshold: {default: 0.1%/h, min: 0.01%/h, max: 1%/h}
  hold: 1m
trigger:
  when: funding_rate * sign(size) > threshold
  for: hold
  until: funding_rate * sign(size) < 40% * threshold
limits: {per_run: 1_000_000 USD}
steps:
  - id: shrink
    shrink_position: {by: 50%, max_slippage: 1%}
"""
ACCOUNT = """\
venue: dydx
model: dydx-v4
collateral: {USDC: 50_000 USD}
positions: [{market: HYPE-USD, size: 1_000, entry_price: 33.0}]
markets: {HYPE-USD: {initial_margin: 5%, maintenance_margin: 3%}}
fees: {taker: 5bps}
"""
MARKET_BOOK = """\
schema: reefd/v1
runbook: seen
title: Tell of a market that pays much
owner: desk
severity: info
stage: armed
scope: market
params: {threshold: 0.1%/h}
trigger: {when: funding_rate > threshold}
steps: [{id: tell, notify: {to: [desk], text: "{market}"}}]
"""

# Settled at each hour: spikes of 0.2 %/h for six hours from hour 5, of 0.12 %/h for one hour from hour 20 and from hour 40.
RATES = {5: 0.002, 11: 0.00001, 20: 0.0012, 21: 0.00001, 40: 0.0012, 41: 0.00001}
HOURS = 48


def make(folder: Path) -> Path:
    """`folder` with recording/, account.yaml and spike.yaml; a price of 33 every minute, the book a basis point around it."""
    minutes = range(HOURS * 60)
    rate, rates = 0.00001, []
    for minute in minutes:
        rate = RATES.get(minute // 60, rate) if minute % 60 == 0 else rate
        rates.append(rate if minute % 60 == 0 else None)
    count = len(minutes)
    frame = pl.DataFrame({
        "ts": [T0 + minute * MINUTE_NS for minute in minutes], "venue": ["dydx"] * count, "market": ["HYPE-USD"] * count,
        "oracle_price": [33.0] * count, "bid_price": [33.0 * 0.9999] * count, "ask_price": [33.0 * 1.0001] * count,
        "bid_size": [5_000.0] * count, "ask_size": [5_000.0] * count, "funding_rate": pl.Series(rates, dtype=pl.Float64),
    })  # fmt: skip
    facts = Facts(
        holds={"funding_rate": {"dydx": HOUR_NS}, **{name: {"dydx": MINUTE_NS} for name in ("oracle_price", "bid_price", "ask_price")}},
        intervals={"funding_rate": {"dydx": HOUR_NS}},
    )
    Recording.write(folder / "recording", Kind.MARKET, frame, facts)
    (folder / "account.yaml").write_text(ACCOUNT, encoding="utf-8")
    (folder / "spike.yaml").write_text(BOOK, encoding="utf-8")
    return folder
