"""The runbook that the loading tests break one thing of."""

EXAMPLE = """\
schema: reefd/v1
runbook: funding-spike
title: Funding spike - stop adding, and shrink where shrinking pays
owner: perps-desk
severity: warning
intent: economy
labels: {risk: carry}
review: {every: quarter, last: 2026-10-01}
stage: armed

scope: position
where: venue == "dydx" and bucket != "contingency"
max_age: {oracle_price: 30s}
let:
  paid: funding_rate * sign(size)

trigger:
  when: paid > 0.05%/h and funding_rate > quantile(funding_rate, 99%, 7d)
  for: 3m
  until: paid < 0.02%/h
  until_for: 10m
  on_unknown: hold
cooldown: 30m
repeat: {every: 1h, max: 3}
mode: single
priority: 50
locks: [position]
guards:
  - oracle_divergence < 50bps
  - venue.block_age < 10s
  - venue_up_for > 10m
guard_wait: 2m
limits: {per_run: 25_000 USD, per_day: 60_000 USD, per_episode: 50%, runs: 6/day}

steps:
  - id: stop-adding
    halt: {scope: position}
  - id: shrink
    when: funding_breakeven < 4h and abs(notional) > 5_000 USD
    shrink_position: {by: 25%, max_slippage: 15bps, max_share_of_depth: 25%, slices: 4, every: 10s, stop_when: funding_breakeven > 8h}
    approval: {when: notional_change > 20_000 USD, from: [desk-lead], quorum: 1, timeout: 2m, otherwise: skip}
    timeout: 20s
    retry: {attempts: 3, backoff: 2s}
    verify: {that: abs(size) <= 80% * abs(size@start), within: 15s}
    on_failure: escalate
  - id: tell
    notify: {to: [desk], text: "{market}: paying {paid}, now {notional}"}
on_clear: [{id: resume, resume: {scope: position}}]
on_failure: {notify: [page], then: pause}
notify: {to: [desk], events: [fired, acted, blocked, failed, no_data, cleared], repeat: 1h}

tests:
  - name: halts and shrinks
    given: {market: "dydx:ETH-USD", size: 10, oracle_price: 3000, bid_price: 2999.5, block_age: 1s, venue_up_for: 1h, market_open: true}
    series: {funding_rate: {-8d: 0.001%/h, 0s: 0.08%/h, 30m: missing}}
    expect:
      - {at: 2m30s, state: pending, did: []}
      - {at: 4m, state: firing, did: [halt, shrink_position], spent: 7_500 USD}
  - name: a short
    given: {size: -10}
    series: {funding_rate: {0s: 0.08%/h}}
    mocks: {shrink_position: [{outcome: unknown, reconcile: applied, sets: {size: 5}}, {outcome: failed}]}
    approvals: {2m: shrink}
    restart: {at: 1m, down: 20s}
    stage: shadow
    every: 10s
    expect: [{at: 6m30s, state: firing, unknown: [funding_rate]}]
replay:
  - {data: hype-2026, assert: [liquidations.with <= liquidations.without, pnl.delta > -1_000 USD, runs <= 12]}
"""
