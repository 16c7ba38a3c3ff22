"""The signal catalogue (floor 2): every name a runbook may read, its scope, unit, staleness bound and where it comes from.

`docs/signals.md` is printed from this table and a test keeps the two equal. A derived signal is an expression of this same language
over its own scope, so it is computed by the same code live, in replay and in tests. `max_age_ns` of a derived signal is unused.
"""
# ruff: noqa: E501 - a table: one derivation is one line

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from daemon.units import DAY_NS, HOUR_NS, MINUTE_NS, NS
from daemon.world.entities import Kind

Role = Literal["observed", "derived", "display"]

BLOCK_AGE_LIMIT_S = 60.0  # a venue whose block_age exceeds this makes all its readings UNKNOWN
MAX_SKEW_FLOOR_NS = 3 * NS  # two prices in one derived signal may differ in time by this much, or by the slower one's cadence


@dataclass(frozen=True, slots=True)
class Signal:
    """One name of the catalogue; `derivation` is the expression of a derived one, `arguments` the kinds of its arguments."""

    kind: Kind
    name: str
    unit: str
    max_age_ns: int
    cadence_ns: int
    role: Role
    meaning: str
    arguments: tuple[str, ...] = ()
    derivation: str = ""
    internal: bool = False  # not readable by runbooks: parts of other derivations


_CATALOGUE: dict[tuple[Kind, str], Signal] = {}


def _observed(kind: Kind, max_age: int, cadence: int, names: str, unit: str, meaning: str, *, internal: bool = False) -> None:
    for name in names.split():
        _CATALOGUE[kind, name] = Signal(kind, name, unit, max_age, cadence, "observed", meaning, internal=internal)


def _derived(
    kind: Kind,
    name: str,
    unit: str,
    derivation: str,
    meaning: str,
    *,
    arguments: tuple[str, ...] = (),
    role: Role = "derived",
    internal: bool = False,
) -> None:
    _CATALOGUE[kind, name] = Signal(kind, name, unit, 0, 0, role, meaning, arguments, derivation, internal)


_M, _P, _A, _V, _C, _R, _B, _F = (
    Kind.MARKET, Kind.POSITION, Kind.ACCOUNT, Kind.VENUE, Kind.CHAIN, Kind.ROUTE, Kind.BUCKET, Kind.PORTFOLIO,
)  # fmt: skip

# --- market -----------------------------------------------------------------------------------------------------------
_observed(_M, 10 * NS, NS, "bid_price ask_price", "price", "best bid and ask of the venue's book")
_observed(_M, 10 * NS, NS, "bid_size ask_size", "base", "size at the best bid and ask")
_observed(
    _M, 10 * NS, NS, "bid_depth ask_depth", "USD", "value of the bids and asks within 50 bps of mid, where a source feeds the whole book"
)
_observed(_M, 30 * NS, NS, "last_price mark_price index_price", "price", "last trade, mark and spot composite")
_observed(_M, 60 * NS, NS, "oracle_price", "price", "the on-chain feed")
_observed(_M, HOUR_NS, MINUTE_NS, "oracle_deadband", "ratio", "moves of the oracle below it are not published")
_observed(_M, 2 * HOUR_NS, HOUR_NS, "funding_rate", "rate/h", "the last SETTLED rate, > 0 longs pay")
_observed(_M, 2 * MINUTE_NS, 30 * NS, "predicted_funding_rate", "rate/h", "the venue's running estimate of the next settlement")
_observed(_M, 2 * MINUTE_NS, 30 * NS, "funding_samples", "1", "premium samples of the running hour so far")
_observed(_M, 2 * MINUTE_NS, 5 * NS, "open_interest", "base", "open interest")
_observed(
    _M, 2 * MINUTE_NS, 5 * NS, "volume_24h liquidations_volume", "USD", "volume of the last 24 h; volume liquidated since the last reading"
)
_observed(_M, 30 * NS, 5 * NS, "market_open", "bool", "true while the venue accepts orders in this market")
_observed(_M, 10 * MINUTE_NS, MINUTE_NS, "imf mmf", "ratio", "initial and maintenance margin fraction of this market")
_observed(_M, 10 * MINUTE_NS, MINUTE_NS, "step_size min_size", "base", "smallest step of a size; smallest order")
_observed(_M, 10 * MINUTE_NS, MINUTE_NS, "tick_size", "price", "smallest step of a price")
_observed(
    _M, 10 * NS, NS, "bar_high bar_low", "price", "extremes of a recorded bar: for the liquidation check of a replay only", internal=True
)
_derived(_M, "mid_price", "price", "(aligned(bid_price, ask_price) + ask_price) / 2", "middle of the book")
_derived(_M, "spread", "ratio", "(ask_price - bid_price) / mid_price", "ask less bid, as a ratio of mid")
_derived(
    _M, "depth", "USD", "least(coalesce(bid_depth, bid_size * bid_price), coalesce(ask_depth, ask_size * ask_price))",
    "the thinner side's value within 50 bps of mid, or at the top of the book where only that is fed",
)  # fmt: skip
_derived(_M, "basis", "ratio", "aligned(mark_price, index_price) / index_price - 1", "mark over index, less 1")
_derived(_M, "oracle_divergence_signed", "ratio", "aligned(oracle_price, bid_price, ask_price) / mid_price - 1", "oracle over mid, less 1")
_derived(_M, "oracle_divergence", "ratio", "abs(oracle_divergence_signed)", "distance of the oracle from mid")
_derived(
    _M, "cross_venue_divergence", "ratio", "mid_price / median_near(peers, mid_price, mid_price) - 1",
    "mid against the median of the other venues' mid; UNKNOWN under 3 live sources",
)  # fmt: skip
_derived(
    _M, "oracle_stale_for", "s", "frozen_for(oracle_price, mid_price, coalesce(oracle_deadband, 0%) + 3 * spread)",
    "time since the oracle changed while mid moved more than its deadband and three spreads",
)  # fmt: skip
_derived(_M, "next_funding_in", "s", "until_next(venue.funding_interval)", "time to the next settlement")
_derived(
    _M, "funding_projected", "rate/h",
    "enough(funding_samples, 10) * (funding_samples * predicted_funding_rate + (60 - funding_samples) * ewma(predicted_funding_rate, 10m)) / 60",
    "samples so far, the rest of the hour at their EWMA; UNKNOWN under 10 samples",
)  # fmt: skip
_derived(
    _M, "realized_vol", "ratio", "volatility(coalesce(oracle_price, mid_price, mark_price, last_price), $0)",
    "volatility over the time given, as a ratio a year", arguments=("duration",),
)  # fmt: skip
_derived(
    _M, "value_price", "price", "valued()", "what margin and notional use on this venue: the first known of its valued_at", internal=True
)
_derived(_M, "reference_price", "price", "median_over(peers, coalesce(mid_price, last_price))", "median of the other venues", internal=True)
_derived(_M, "book_crossed", "bool", "bid_price >= ask_price", "the book is crossed", role="display")
_derived(_M, "book_imbalance", "ratio", "(bid_size - ask_size) / (bid_size + ask_size)", "which side is heavier", role="display")
_derived(_M, "funding_annualised", "ratio", "funding_rate * 365d", "funding of a year at this rate", role="display")

# --- position ---------------------------------------------------------------------------------------------------------
_observed(_P, MINUTE_NS, 5 * NS, "size", "base", "+ long, - short")
_observed(_P, MINUTE_NS, 5 * NS, "entry_price", "price", "average entry")
_observed(_P, MINUTE_NS, 5 * NS, "accrued_funding", "USD", "> 0 received")
_observed(_P, MINUTE_NS, 5 * NS, "margin_mode", "1", "0 cross, 1 isolated")
_derived(_P, "notional", "USD", "size * market.value_price", "size times the price that margin uses, signed")
_derived(_P, "unrealized_pnl", "USD", "size * (market.value_price - entry_price)", "gain since entry")
_derived(_P, "funding_paid", "rate/h", "market.funding_rate * sign(size)", "> 0 this position pays")
_derived(_P, "funding_cost_daily", "USD", "funding_paid * 24h * abs(notional)", "> 0 paid a day at this rate")
_derived(
    _P, "funding_breakeven", "s", "repaid_in(2 * venue.taker_fee + coalesce(market.spread, 2 * venue.fixed_slippage), funding_paid)",
    "round-trip fee and slippage over funding_paid; infinite when it pays nothing",
)  # fmt: skip
_derived(
    _P, "liquidation_price", "price", "liquidation_price_of(size, market.value_price, market.mmf, account.equity, account.maintenance_margin)",
    "price of this market at which the account is liquidated, others still; UNKNOWN when there is none",
)  # fmt: skip
_derived(
    _P, "liquidation_distance", "ratio",
    "liquidation_distance_of(size, market.value_price, market.mmf, account.equity, account.maintenance_margin)",
    "adverse move of this market to liquidation, others still; infinite when there is none, 0 once crossed",
)  # fmt: skip
_derived(
    _P,
    "exit_cost",
    "USD",
    "abs(notional) * (venue.taker_fee + coalesce(market.spread / 2, venue.fixed_slippage))",
    "fee and half the spread to close now",
)
_derived(_P, "exit_time", "s", "abs(notional) / (10% * market.volume_24h / 24h)", "time to close at 10 % participation")
_derived(_P, "position_share", "ratio", "abs(notional) / account.gross", "share of the account's notional")
_derived(_P, "adl_score", "1", "unrealized_pnl / abs(notional) * account.leverage", "profit ratio times leverage: who is deleveraged first")

# --- account ----------------------------------------------------------------------------------------------------------
_observed(_A, MINUTE_NS, 5 * NS, "collateral", "USD", "cash of the account; equity is collateral plus unrealized PnL")
_observed(_A, MINUTE_NS, 5 * NS, "free_collateral_reported", "USD", "what the venue's indexer says")
_observed(_A, MINUTE_NS, 5 * NS, "external_change", "bool", "a size changed and it was not ours")
_observed(_A, MINUTE_NS, 5 * NS, "open_orders", "1", "open orders of the account")
_derived(_A, "gross", "USD", "sum_over(positions, abs(notional))", "gross notional", internal=True)
_derived(_A, "equity", "USD", "collateral + sum_over(positions, unrealized_pnl)", "collateral plus unrealized PnL")
_derived(_A, "initial_margin", "USD", "sum_over(positions, abs(notional) * market.imf)", "required to open")
_derived(_A, "maintenance_margin", "USD", "sum_over(positions, abs(notional) * market.mmf)", "required to keep")
_derived(_A, "free_collateral", "USD", "equity - initial_margin", "equity less initial margin")
_derived(_A, "margin_ratio", "ratio", "margin_ratio_of(maintenance_margin, equity)", "maintenance margin over equity; 1 = liquidation")
_derived(
    _A, "margin_ratio_at_mid", "ratio",
    "margin_ratio_of(sum_over(positions, abs(size) * market.mid_price * market.mmf), collateral + sum_over(positions, size * (market.mid_price - entry_price)))",
    "margin ratio at the book's mid",
)  # fmt: skip
_derived(
    _A, "margin_ratio_at_reference", "ratio",
    "margin_ratio_of(sum_over(positions, abs(size) * market.reference_price * market.mmf), collateral + sum_over(positions, size * (market.reference_price - entry_price)))",
    "margin ratio at the other venues' median: where I am when the oracle catches up",
)  # fmt: skip
_derived(
    _A, "margin_ratio_worst", "ratio",
    "greatest(margin_ratio, coalesce(margin_ratio_at_mid, margin_ratio), coalesce(margin_ratio_at_reference, margin_ratio))",
    "the largest of the three that are known; UNKNOWN when margin_ratio is",
)  # fmt: skip
_derived(
    _A, "survivable_move", "ratio", "survivable_move_of(equity, maintenance_margin, net_delta)",
    "adverse common move that liquidates the account, both directions tried; infinite without positions",
)  # fmt: skip
_derived(
    _A, "time_to_liquidation", "s", "time_to_move(survivable_move, sum_over(positions, abs(notional) * market.realized_vol(24h)) / gross)",
    "time in which current volatility covers the survivable move",
)  # fmt: skip
_derived(_A, "liquid_equity", "USD", "equity - sum_over(positions, exit_cost)", "equity after closing everything")
_derived(_A, "leverage", "1", "gross / equity", "gross notional over equity")
_derived(_A, "net_delta", "USD", "sum_over(positions, notional)", "signed notional")
_derived(
    _A,
    "collateral_share",
    "ratio",
    "share_of_asset($0)",
    "share of an asset in the collateral (USDC only on these venues)",
    arguments=("asset",),
)
_derived(_A, "drawdown", "ratio", "1 - equity / greatest(equity, max(equity, 7d))", "from the highest equity in 7d")

# --- venue ------------------------------------------------------------------------------------------------------------
_observed(_V, MINUTE_NS, 5 * NS, "venue_up", "bool", "the venue answers and its blocks advance")
_observed(_V, MINUTE_NS, 5 * NS, "block_age", "s", "now less the time of the last block; over 60 s all readings of the venue are UNKNOWN")
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "insurance_fund", "USD", "insurance fund")
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "withdrawals_open", "bool", "withdrawals and transfers are not gated")
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "withdrawal_capacity", "USD", "what the rate limit still lets out")
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "funding_cap", "rate/h", "largest funding rate")
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "funding_interval oracle_cadence", "s", "time between settlements; time between oracle updates")
_observed(
    _V,
    10 * MINUTE_NS,
    MINUTE_NS,
    "liquidation_fee taker_fee fixed_slippage",
    "ratio",
    "fee of a liquidation, of a taker fill, and the assumed slippage",
)
_observed(
    _V,
    10 * MINUTE_NS,
    MINUTE_NS,
    "proposal_open proposal_touches_risk",
    "bool",
    "a governance proposal is being voted on; it changes margin or markets",
)
_observed(_V, 10 * MINUTE_NS, MINUTE_NS, "proposal_ends_in", "s", "time to the end of the vote")
_derived(_V, "venue_up_for", "s", "steady_for(venue_up and block_age <= 60s)", "time since the venue's height advances again")
_derived(
    _V,
    "parameter_changed_for",
    "s",
    "since_change(sum_over(markets, imf + mmf))",
    "time since a margin parameter changed; infinite when none did",
)
_derived(_V, "venue_share", "ratio", "sum_over(accounts, equity) / portfolio.equity_total", "share of all equity held at this venue")

# --- chain ------------------------------------------------------------------------------------------------------------
_observed(_C, 3 * MINUTE_NS, 15 * NS, "sequencer_up", "bool", "the sequencer produces blocks (rollups only)")
_observed(_C, 3 * MINUTE_NS, 15 * NS, "block_age finality_delay", "s", "now less the last block; time from block to finality")
_observed(_C, 3 * MINUTE_NS, 15 * NS, "gas_price", "gwei", "L2 execution gas price")
_observed(_C, 3 * MINUTE_NS, 15 * NS, "tx_cost", "USD", "cost of a transfer")
_observed(_C, 3 * MINUTE_NS, 15 * NS, "tx_per_block", "1", "transactions of the last block")
_observed(_C, 3 * MINUTE_NS, 15 * NS, "buffer_balance", "USD", "idle collateral held on this chain")
_derived(_C, "sequencer_up_for", "s", "steady_for(sequencer_up)", "time since the sequencer is up again")
_derived(_C, "congestion", "ratio", "tx_cost / quantile(tx_cost, 50%, 7d)", "tx_cost over its own 7d median")

# --- route ------------------------------------------------------------------------------------------------------------
_observed(_R, 3 * MINUTE_NS, 15 * NS, "route_open", "bool", "the route takes transfers")
_observed(_R, 3 * MINUTE_NS, 15 * NS, "route_fee", "ratio", "fee of a transfer")
_observed(_R, 3 * MINUTE_NS, 15 * NS, "route_eta", "s", "typical time to arrive")
_observed(_R, 3 * MINUTE_NS, 15 * NS, "route_capacity in_flight", "USD", "most it takes now; on its way and not yet credited")
_observed(_R, 3 * MINUTE_NS, 15 * NS, "route_eta_slow", "s", "the slow tail as the route states it", internal=True)
_derived(
    _R,
    "route_eta_p95",
    "s",
    "coalesce(route_eta_slow, quantile(route_eta, 95%, 7d), 2 * route_eta)",
    "95th percentile of the time to arrive",
)

# --- bucket -----------------------------------------------------------------------------------------------------------
_observed(_B, 10 * DAY_NS, MINUTE_NS, "target", "ratio", "share of gross notional this bucket should have")
_observed(_B, 10 * DAY_NS, MINUTE_NS, "last_rebalanced_for", "s", "time since the last rebalance")
_derived(_B, "bucket_notional", "USD", "sum_over(positions, abs(notional))", "gross notional of the bucket")
_derived(_B, "weight", "ratio", "bucket_notional / portfolio.gross_notional", "share of gross notional")
_derived(_B, "drift", "ratio", "weight - target", "weight less target")
_derived(_B, "bucket_funding_daily", "USD", "sum_over(positions, funding_cost_daily)", "> 0 paid a day")

# --- portfolio --------------------------------------------------------------------------------------------------------
_observed(
    _F, 2 * HOUR_NS, HOUR_NS, "stress_liquidation_probability", "ratio",
    "share of futures in which an account is liquidated within the horizon of `stress:`, with the runbooks in force; the last scheduled stress",
)  # fmt: skip
_observed(
    _F, 2 * HOUR_NS, HOUR_NS, "stress_cvar", "USD",
    "mean P&L of the worst 5 % of futures over the horizon of `stress:`, with the runbooks in force, a loss < 0; the last scheduled stress",
)  # fmt: skip
_derived(_F, "buffer", "USD", "on_chain($0, buffer_balance)", "idle collateral held on a chain", arguments=("chain",))
_derived(
    _F, "buffer_reachable", "USD", "sum_over(routes, reachable_from($0, from.buffer_balance, route_eta, route_eta_p95, $1))",
    "buffer of a chain times the probability that it arrives in time", arguments=("chain", "duration"),
)  # fmt: skip
_derived(
    _F,
    "buffer_coverage",
    "ratio",
    "sum_over(chains, where_told(buffer_balance)) / sum_over(accounts, maintenance_margin)",
    "buffers over maintenance margin at risk; a chain that never told of a buffer has none",
)
_derived(_F, "equity_total", "USD", "sum_over(accounts, equity)", "equity of all accounts")
_derived(_F, "net_delta", "USD", "sum_over(positions, of_asset($0, notional))", "signed notional of an asset", arguments=("asset",))
_derived(_F, "gross_notional", "USD", "sum_over(positions, abs(notional))", "gross notional of all accounts")
_derived(_F, "in_flight_total", "USD", "sum_over(routes, in_flight)", "money on its way")
_derived(
    _F,
    "stranded_margin",
    "USD",
    "sum_over(accounts, stranded_of(venue.withdrawals_open, free_collateral))",
    "free collateral where withdrawals are closed",
)

CATALOGUE: Mapping[tuple[Kind, str], Signal] = dict(_CATALOGUE)

RELATIONS: Mapping[Kind, tuple[tuple[str, Kind], ...]] = {
    Kind.POSITION: (("market", _M), ("account", _A), ("venue", _V), ("chain", _C), ("bucket", _B), ("portfolio", _F)),
    Kind.MARKET: (("venue", _V), ("chain", _C), ("portfolio", _F)),
    Kind.ACCOUNT: (("venue", _V), ("chain", _C), ("bucket", _B), ("portfolio", _F)),
    Kind.VENUE: (("chain", _C), ("portfolio", _F)),
    Kind.CHAIN: (("portfolio", _F),),
    Kind.ROUTE: (("from", _C), ("to", _C), ("portfolio", _F)),
    Kind.BUCKET: (("portfolio", _F),),
    Kind.PORTFOLIO: (),
}
"""What each scope reaches, nearest first; `from` and `to` are equally near."""

SETS: Mapping[str, Kind] = {
    "peers": _M,
    "markets": _M,
    "positions": _P,
    "accounts": _A,
    "chains": _C,
    "routes": _R,
    "venues": _V,
    "buckets": _B,
}
"""Names of the sets that `*_over` runs over, and the kind of their members."""


def signal(kind: Kind, name: str) -> Signal | None:
    """The signal of that scope, or None."""
    return CATALOGUE.get((kind, name))


def observed(kind: Kind) -> tuple[Signal, ...]:
    """The observed signals of a kind, in catalogue order."""
    return tuple(s for s in CATALOGUE.values() if s.kind is kind and s.role == "observed")


def nearest(kind: Kind, name: str) -> list[tuple[str, Signal]]:
    """Where a scope finds a name: `(relation, signal)` of the nearest scope ("" = its own); two when equally near, none when unknown."""
    own = CATALOGUE.get((kind, name))
    if own:
        return [("", own)]
    reached = [(relation, CATALOGUE[target, name]) for relation, target in RELATIONS[kind] if (target, name) in CATALOGUE]
    if not reached:
        return []
    first = reached[0]
    return [item for item in reached if item[1].kind is first[1].kind] if kind is Kind.ROUTE else [first]
