"""Faults of a simulated venue and its surroundings as shocks of a scenario (floor 5): book, oracles, chains, routes, requests.

What each does is said in its docstring and done by markets.py, oracle.py, chain.py, bridges.py, requests.py and world.py. Factors without a
source in the incident reports say `assumed`.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from daemon.simulation.fields import Duration, Gwei, LastingShock, Price, Ratio, TimedShock, Times, Usd
from daemon.units import NS

ALL_MARKETS = "all"

# --- the book --------------------------------------------------------------------------------------------------------------------------


class BookMove(TimedShock):
    """This venue's book alone moves `by` within `over`, and back after `for`: its oracle and the market elsewhere stand."""

    kind: Literal["book_move"]
    market: str
    by: Annotated[Ratio, Field(gt=-1)]
    over: Annotated[Duration, Field(gt=0)] = NS
    lasts: Annotated[Duration | None, Field(alias="for", gt=0)] = None


# --- oracles ---------------------------------------------------------------------------------------------------------------------------


class OracleFreeze(LastingShock):
    """The oracle price stands still while the book trades on."""

    kind: Literal["oracle_freeze"]
    market: str


class OracleLag(LastingShock):
    """The oracle price shows the market as it was `by` ago."""

    kind: Literal["oracle_lag"]
    market: str
    by: Annotated[Duration, Field(gt=0)]


class OracleWrong(LastingShock):
    """The oracle publishes the market's price changed `by` a ratio, or a fixed `price`, whatever the book shows."""

    kind: Literal["oracle_wrong"]
    market: str
    by: Annotated[Ratio | None, Field(gt=-1)] = None
    price: Annotated[Price | None, Field(gt=0)] = None

    @model_validator(mode="after")
    def _one_of_both(self) -> OracleWrong:
        if (self.by is None) == (self.price is None):
            raise ValueError("write either by (a ratio of the true price) or price (a fixed one)")
        return self


class OracleSources(LastingShock):
    """Only `left` of the oracle's sources answer: fewer make it noisier, too few leave it without a price, and premium votes at zero."""

    kind: Literal["oracle_sources"]
    market: str
    left: Annotated[int, Field(ge=0)] = 0


# --- chains ----------------------------------------------------------------------------------------------------------------------------


class VenueHalt(LastingShock):
    """No blocks: height and oracle stand, no order is taken, no premium is sampled (the hour is padded with zeros).

    After the restart the oracle keeps its old price for `stale_for` more, while the book trades (dYdX, 2025-10-10).
    """

    kind: Literal["venue_halt"]
    stale_for: Annotated[Duration, Field(ge=0)] = 0


class SequencerStop(LastingShock):
    """A rollup produces no blocks; nothing crosses to or from it."""

    kind: Literal["sequencer_stop"]
    chain: str


class EmptyBlocks(LastingShock):
    """A rollup's height advances with `to` of its usual transactions a block: it looks alive and takes nothing in (Base, 2025-08-05)."""

    kind: Literal["empty_blocks"]
    chain: str
    to: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0


class FinalityDelay(LastingShock):
    """A chain's finality takes `to`; transfers out of it that wait for finality take that much longer, also those already under way."""

    kind: Literal["finality_delay"]
    chain: str
    to: Annotated[Duration, Field(gt=0)]


class GasSpike(LastingShock):
    """Gas costs `to`; the cost of a transaction rises with it."""

    kind: Literal["gas_spike"]
    chain: str
    to: Annotated[Gwei, Field(gt=0)]


class Congestion(LastingShock):
    """A chain is full: gas, the cost of a transaction, latency and failures rise TOGETHER with `level`.

    At level 100 % gas is `gas` times, every delay on the chain `latency` times its usual, and a transfer through it fails with
    probability `failure` on top of its route's own; in between, the factors grow in proportion to the level.
    """

    kind: Literal["congestion"]
    chain: str
    level: Annotated[Ratio, Field(gt=0, le=1)] = 1.0
    gas: Annotated[Times, Field(ge=1)] = 20.0  # assumed: 8 gwei to 160 gwei, the order of mainnet spikes
    latency: Annotated[Times, Field(ge=1)] = 5.0  # assumed
    failure: Annotated[Ratio, Field(ge=0, le=1)] = 0.25  # assumed

    def times(self, factor: float) -> float:
        """`factor` (>= 1 at full level) scaled to this level."""
        return 1.0 + (factor - 1.0) * self.level


# --- routes ----------------------------------------------------------------------------------------------------------------------------


class BridgeStall(LastingShock):
    """A route is closed and what is in flight on it does not move."""

    kind: Literal["bridge_stall"]
    route: str


class BridgeLock(LastingShock):
    """A bridge is locked AFTER the debit: what was debited neither arrives nor comes back until the lock ends.

    The source goes on taking and debiting transfers unless `accepts` is false (Hyperliquid's bridge, 2025-11-12).
    """

    kind: Literal["bridge_lock"]
    route: str
    accepts: bool = True


class RouteStuck(LastingShock):
    """Transfers that reach the route's intermediate chain (`via`) stay there, STUCK, until this ends or an operator sweeps them."""

    kind: Literal["route_stuck"]
    route: str


class RouteCapacity(LastingShock):
    """A route takes no more than `to` in flight: burn limits that tighten, a fast-transfer allowance that is used up."""

    kind: Literal["route_capacity"]
    route: str
    to: Annotated[Usd, Field(ge=0)]


# --- requests --------------------------------------------------------------------------------------------------------------------------


class VenueError(LastingShock):
    """Every request is answered with `status`. Nothing is done, unless `lands`: then orders, cancels and transfers ARE done."""

    kind: Literal["venue_error"]
    status: Annotated[int, Field(ge=500, le=599)] = 503
    lands: bool = False


class ErrorAfterAccept(LastingShock):
    """Orders and transfers ARE done, but the client sees a 500, or (`reply: dropped`) a connection that breaks; `count` at most."""

    kind: Literal["error_after_accept"]
    reply: Literal["error", "dropped"] = "error"
    count: Annotated[int, Field(ge=1)] | None = None


class RateLimit(LastingShock):
    """Only `to` requests in 10 s are let through."""

    kind: Literal["rate_limit"]
    to: Annotated[int, Field(ge=0)]


class OrderReject(LastingShock):
    """A new order is refused with `probability`, certainly not done; the chance hangs on its client id, so an id gets one answer."""

    kind: Literal["order_reject"]
    market: str = ALL_MARKETS
    probability: Annotated[Ratio, Field(gt=0, le=1)] = 1.0


class VenueLatency(LastingShock):
    """Orders and cancels take `to` (typical) and `p95` (tail, default `to`) from sending to the book."""

    kind: Literal["venue_latency"]
    to: Annotated[Duration, Field(ge=0)]
    p95: Annotated[Duration, Field(ge=0)] | None = None
