"""Price oracles as a scenario writes them, and the named kinds of real ones (floor 5).

    markets: {ETH-USD: {price: 4_100, oracle: {kind: chainlink-arbitrum, floor: 100}}}      # explicit keys override the kind's
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated

from pydantic import BeforeValidator, Field, model_validator

from daemon.simulation.fields import Duration, Price, Ratio
from daemon.simulation.route_models import ASSUMED, Fact
from daemon.simulation.strict_file import Strict
from daemon.units import NS

_DYDX_KEEPER = "dydxprotocol/v4-chain protocol/x/prices/keeper/util.go; genesis"
_HL_ORACLE = "hyperliquid docs hypercore/oracle"
_CHAINLINK = "LZeroAnalytics/chainlink-package constants_backup.star (2025-04)"
_PYTH = "docs.pyth.network/price-feeds/best-practices"


def _dydx(deviation: str, source: str) -> dict[str, Fact]:
    """Skip Connect: a price a block, published where it moved by `min_price_change_ppm`."""
    return {
        "cadence": Fact("1s", f"{_DYDX_KEEPER}: every block"),
        "deviation": Fact(deviation, source),
        "sources": Fact("6", ASSUMED),
        "sources_min": Fact("3", ASSUMED),
        "votes_zero": Fact("true", "dydxprotocol/v4-chain x/clob/memclob GetPricePremium: a missing index price is a zero vote"),
    }


def _chainlink(heartbeat: str, deviation: str = "0.5%", deviation_source: str = ASSUMED) -> dict[str, Fact]:
    return {
        "cadence": Fact("12s", "assumed: a block of Ethereum"),
        "deviation": Fact(deviation, deviation_source),
        "heartbeat": Fact(heartbeat, _CHAINLINK),
        "sources": Fact("16", "assumed: nodes of a feed"),
        "sources_min": Fact("6", ASSUMED),
    }


KINDS: Mapping[str, Mapping[str, Fact]] = {
    "dydx": _dydx("10bps", f"{_DYDX_KEEPER}: 1000 ppm for BTC and ETH"),
    "dydx-alt": _dydx("25bps", f"{_DYDX_KEEPER}: 2500 ppm"),
    "dydx-long-tail": _dydx("8bps", f"{_DYDX_KEEPER}: 800 ppm"),
    "hyperliquid": {
        "cadence": Fact("3s", _HL_ORACLE),
        "deviation": Fact("0%", _HL_ORACLE),
        "sources": Fact("8", f"{_HL_ORACLE}: Binance, OKX, Bybit, Kraken, Kucoin, Gate, MEXC, Hyperliquid"),
        "sources_min": Fact("1", ASSUMED),
    },
    "chainlink-ethereum": _chainlink("1h", "0.5%", "data.chain.link: ETH/USD on mainnet"),
    "chainlink-arbitrum": _chainlink("24h"),
    "chainlink-op": _chainlink("20m"),
    "chainlink-base": _chainlink("20m"),
    "chainlink-usdc": _chainlink("24h"),
    "pyth": {
        "cadence": Fact("1s", f"about 400 ms, {_PYTH}; a venue's second is the finest step here"),
        "deviation": Fact("0%", _PYTH),
        "conf": Fact("5bps", ASSUMED),
        "sources": Fact("20", "assumed: publishers"),
        "sources_min": Fact("3", ASSUMED),
    },
}


def _kind_name(raw: object) -> object:
    if raw is None or raw in KINDS:
        return raw
    close = difflib.get_close_matches(str(raw), KINDS, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(KINDS)}"
    raise ValueError(f"'{raw}' is no kind of oracle; {hint}")


class OracleSpec(Strict):
    """A market's oracle. Times ns, prices USD.

    At every `cadence` the price is published where it differs by `deviation` from the last one, or that is `heartbeat` old. What is
    published shows the market `lag` ago, never below `floor` or above `ceiling`. With fewer than its `sources` answering it scatters by
    `source_noise` (a single source's); with fewer than `sources_min` there is no price, and where `votes_zero` premium votes are zero.
    """

    kind: Annotated[str | None, BeforeValidator(_kind_name)] = None
    cadence: Annotated[Duration, Field(ge=NS)] = NS
    deviation: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0005
    heartbeat: Annotated[Duration, Field(gt=0)] | None = None
    lag: Annotated[Duration, Field(ge=0)] = 0
    floor: Annotated[Price, Field(gt=0)] | None = None
    ceiling: Annotated[Price, Field(gt=0)] | None = None
    conf: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0  # half-width of the published confidence interval, of the price
    sources: Annotated[int, Field(ge=1)] = 6
    sources_min: Annotated[int, Field(ge=1)] = 1
    source_noise: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0005  # assumed: standard deviation of one source
    votes_zero: bool = True

    @model_validator(mode="before")
    @classmethod
    def _take_kind(cls, raw: object) -> object:
        if not isinstance(raw, Mapping) or raw.get("kind") is None:
            return raw
        facts = KINDS.get(str(raw["kind"]), {})
        return {"votes_zero": "false"} | {name: fact.value for name, fact in facts.items()} | dict(raw)

    @model_validator(mode="after")
    def _in_order(self) -> OracleSpec:
        if self.floor is not None and self.ceiling is not None and self.ceiling < self.floor:
            raise ValueError("ceiling is below floor")
        if self.sources_min > self.sources:
            raise ValueError("sources_min is above sources")
        return self
