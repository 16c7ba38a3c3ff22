"""What each adapter can observe, by kind (floor 6): facts alone, so that a check of runbooks loads no HTTP stack."""

from __future__ import annotations

from collections.abc import Mapping

from daemon.world.entities import Kind

MARKET_SIGNALS = (
    *("oracle_price", "predicted_funding_rate", "open_interest", "volume_24h", "market_open"),
    *("imf", "mmf", "step_size", "min_size", "tick_size"),
)
BOOK_SIGNALS = ("bid_price", "ask_price", "bid_size", "ask_size", "bid_depth", "ask_depth")
DYDX: Mapping[Kind, frozenset[str]] = {
    Kind.MARKET: frozenset({*MARKET_SIGNALS, *BOOK_SIGNALS, "last_price", "funding_rate"}),
    Kind.POSITION: frozenset({"size", "entry_price"}),
    Kind.ACCOUNT: frozenset({"collateral", "free_collateral_reported", "open_orders"}),
    Kind.VENUE: frozenset({"venue_up", "block_age", "funding_interval", "taker_fee", "fixed_slippage"}),
}
"""The dYdX v4 indexer. It has no mark price and no index price; oracle prices drive margin."""

BRIDGE: Mapping[Kind, frozenset[str]] = {
    Kind.CHAIN: frozenset({"sequencer_up", "block_age", "finality_delay", "gas_price", "tx_cost", "tx_per_block", "buffer_balance"}),
    Kind.ROUTE: frozenset({"route_open", "route_fee", "route_eta", "route_eta_slow", "route_capacity", "in_flight"}),
    Kind.VENUE: frozenset(
        {"insurance_fund", "withdrawals_open", "withdrawal_capacity", "proposal_open", "proposal_touches_risk", "proposal_ends_in"}
    ),
}
"""Chains, routes and governance, as the simulated venue tells them."""
