"""Routes for collateral as a scenario writes them, and the named models of real ones (floor 5).

    routes: {fast: {model: cctp-v2-fast, from: arbitrum, to: dydx, capacity: 250_000 USD}}     # explicit keys override the model's

Every field of a model carries where it is from, or `assumed` where nothing published says it. Latency is a log-normal above
`shortest`: half of the transfers take at most `eta`, 95 % at most `p95`, none more than `longest`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from daemon.simulation.fields import Duration, Ratio, Usd
from daemon.simulation.strict_file import Strict
from daemon.units import NS

ASSUMED = "assumed"
P95_DEFAULT = 2  # of eta, where a route says none


class Fact(NamedTuple):
    """A value as a scenario file writes it, and its source; a source that starts with `assumed` has none."""

    value: str
    source: str


@dataclass(frozen=True, slots=True)
class RouteModel:
    """A real route: what it is, and the keys of a `RouteSpec` that describe it."""

    title: str
    facts: Mapping[str, Fact]


_CIRCLE_FEES = "developers.circle.com/cctp/concepts/fees"
_CIRCLE_BLOCKS = "developers.circle.com/cctp: required block confirmations"
_ACROSS = "docs.across.to/introduction/refunds"
_DYDX = "dydxprotocol/v4-documentation interaction/deposits-withdrawals"
_IBC = "dydxprotocol/v4-chain protocol/x/ratelimit/ibc_middleware.go, client/cli/tx.go"
_HL_DEPOSIT = "hyperliquid docs for-developers/api/bridge2"
_HL_BRIDGE = "hyperliquid docs hypercore/bridge; hyperliquid-dex/contracts Bridge2.sol"
_UNCAPPED = Fact("1_000_000_000 USD", "assumed: no limit that a buffer would meet")
_MIDDLE = "assumed: between the ends that the source gives"


def _fast(
    title: str, eta: str, fee: str, *, eta_source: str = f"{_CIRCLE_BLOCKS}: attestation", fee_source: str = _CIRCLE_FEES
) -> RouteModel:
    """Circle's fast transfer out of one kind of chain."""
    facts = {
        "eta": Fact(eta, eta_source),
        "p95": Fact("1m", "assumed: the mint waits for its transaction"),
        "longest": Fact("10m", ASSUMED),
        "fee": Fact(fee, fee_source),
        "gas": Fact("destination", "the mint is a transaction of the destination chain"),
        "capacity": Fact("10_000_000 USD", "assumed: limited by the fast-transfer allowance, which is not published"),
        "waits_finality": Fact("false", f"{_CIRCLE_FEES}: fast transfers are attested before finality"),
    }
    return RouteModel(title, facts)


def _standard(title: str, shortest: str, eta: str, p95: str, eta_source: str) -> RouteModel:
    """Circle's standard transfer out of one kind of chain."""
    facts = {
        "shortest": Fact(shortest, _CIRCLE_BLOCKS if eta_source == _MIDDLE else ASSUMED),
        "eta": Fact(eta, eta_source),
        "p95": Fact(p95, _CIRCLE_BLOCKS if eta_source == _MIDDLE else ASSUMED),
        "fee": Fact("0%", _CIRCLE_FEES),
        "gas": Fact("destination", "the mint is a transaction of the destination chain"),
        "capacity": _UNCAPPED,
        "waits_finality": Fact("true", "developers.circle.com/cctp: finality threshold 2000"),
    }
    return RouteModel(title, facts)


def _skip_fast(title: str, minimum: str) -> RouteModel:
    """dYdX's solver-filled deposit."""
    facts = {
        "shortest": Fact("5s", ASSUMED),
        "eta": Fact("18s", f"assumed: middle of 10-30 s, {_DYDX}"),
        "p95": Fact("30s", _DYDX),
        "fee": Fact("10bps", f"{_DYDX}; at present waived above 20 USD from an L2, 100 USD from Ethereum"),
        "gas": Fact("source", _DYDX),
        "minimum": Fact(minimum, _DYDX),
        "maximum": Fact("100_000 USD", _DYDX),
        "capacity": Fact("1_000_000 USD", "assumed: what solvers hold"),
        "fails": Fact("0.5%", "assumed: no solver fills it"),
        "expires_after": Fact("1h", ASSUMED),
        "refund_after": Fact("1h", ASSUMED),
        "waits_finality": Fact("false", f"{_DYDX}: a solver fills before finality"),
    }
    return RouteModel(title, facts)


def _skip_regular(title: str, shortest: str, eta: str, p95: str, fee: Fact) -> RouteModel:
    """dYdX over CCTP, Noble and IBC."""
    facts = {
        "shortest": Fact(shortest, _DYDX),
        "eta": Fact(eta, _MIDDLE),
        "p95": Fact(p95, _DYDX),
        "fee_usd": fee,
        "via": Fact("noble", "dydxprotocol/v4-documentation troubleshooting: funds can stop at a noble1 address and need a sweep"),
        "stuck": Fact("0.5%", ASSUMED),
        "attested": Fact("60%", "assumed: share of the time until the funds are on Noble"),
        "capacity": Fact("1_000_000 USD", "assumed: CCTP V1 burn limits tighten from 2026-07-31 on; poll it"),
        "waits_finality": Fact("true", _CIRCLE_BLOCKS),
    }
    return RouteModel(title, facts)


MODELS: Mapping[str, RouteModel] = {
    "optimistic-canonical": RouteModel(
        "canonical withdrawal of an optimistic rollup (Arbitrum, OP, Base) to Ethereum",
        {
            "shortest": Fact("6d8h43m", "l2beat/l2beat arbitrum/sequencingExitDelay.md: nominal"),
            "eta": Fact("7d", "L2BEAT"),
            "p95": Fact("8d", "assumed: the claim is made late"),
            "longest": Fact("14d", "L2BEAT: a BoLD challenge can double it"),
            "gas": Fact("destination", "needs a claim on Ethereum"),
            "attested": Fact("99%", "assumed: all but the claim is the challenge period"),
            "capacity": _UNCAPPED,
            "waits_finality": Fact("false", "assumed: finality is short of the challenge period"),
        },
    ),
    "zksync-canonical": RouteModel(
        "canonical withdrawal of zkSync to Ethereum",
        {
            "shortest": Fact("3h", "zktoday.com: execution delay since ZIP-4"),
            "eta": Fact("4h", "assumed: the execution delay and an hour for the proof"),
            "p95": Fact("24h", "docs.zksync.io: the delay before ZIP-4, which governance can set again"),
            "gas": Fact("destination", "needs a claim on Ethereum"),
            "capacity": _UNCAPPED,
        },
    ),
    "linea-canonical": RouteModel(
        "canonical withdrawal of Linea to Ethereum",
        {
            "shortest": Fact("6h", f"{_CIRCLE_BLOCKS}: hard finality 6-32 h"),
            "eta": Fact("14h", _MIDDLE),
            "p95": Fact("32h", f"{_CIRCLE_BLOCKS}: hard finality 6-32 h"),
            "gas": Fact("destination", "needs a claim on Ethereum"),
            "capacity": _UNCAPPED,
        },
    ),
    "cctp-v2-fast": _fast("CCTP V2 fast out of Arbitrum, Base or OP", "8s", "1.3bps"),
    "cctp-v2-fast-ethereum": _fast("CCTP V2 fast out of Ethereum", "20s", "1bps"),
    "cctp-v2-fast-linea": _fast("CCTP V2 fast out of Linea", "8s", "11bps"),
    "cctp-v2-fast-solana": _fast("CCTP V2 fast out of Solana", "8s", "1.3bps", fee_source="assumed: as the other cheap chains"),
    "cctp-v2-fast-starknet": _fast("CCTP V2 fast out of Starknet", "20s", "14bps", eta_source="assumed: as Ethereum"),
    "cctp-standard": _standard("CCTP standard out of Ethereum, Arbitrum, Base or OP", "13m", "16m", "19m", _MIDDLE),
    "cctp-standard-fast-finality": _standard("CCTP standard out of Polygon, Avalanche or Sonic", "4s", "8s", "30s", _CIRCLE_BLOCKS),
    "cctp-standard-hyperevm": _standard("CCTP standard out of HyperEVM", "2s", "5s", "30s", _CIRCLE_BLOCKS),
    "cctp-standard-solana": _standard("CCTP standard out of Solana", "12s", "25s", "60s", _CIRCLE_BLOCKS),
    "across": RouteModel(
        "Across: a relayer fills, or the deposit expires and comes back hours later",
        {
            "shortest": Fact("1s", ASSUMED),
            "eta": Fact("2s", "docs.across.to: median fill"),
            "p95": Fact("20s", ASSUMED),
            "longest": Fact("10m", ASSUMED),
            "fee": Fact("5bps", "assumed: relayer and LP fee are quoted a transfer"),
            "gas": Fact("source", "the deposit is a transaction of the source chain"),
            "capacity": Fact("2_000_000 USD", "assumed: what relayers hold"),
            "fails": Fact("1%", "assumed: no fill by the deadline"),
            "expires_after": Fact("1h30m", f"assumed: fillDeadline; bundles come every 1.5 h, {_ACROSS}"),
            "refund_after": Fact("4h", f"assumed: several hours (bundle, challenge, canonical bridge), {_ACROSS}"),
            "refund_p95": Fact("12h", ASSUMED),
            "waits_finality": Fact("false", "docs.across.to: the relayer takes the finality risk"),
        },
    ),
    "skip-go-fast": _skip_fast("dYdX deposit by Skip Go Fast out of an L2", "10 USD"),
    "skip-go-fast-ethereum": _skip_fast("dYdX deposit by Skip Go Fast out of Ethereum", "50 USD"),
    "skip-go-regular": _skip_regular("dYdX deposit over CCTP, Noble and IBC", "2m", "8m", "30m", Fact("0.02 USD", _DYDX)),
    "skip-go-regular-withdraw": _skip_regular(
        "dYdX withdrawal over IBC, Noble and CCTP", "1m", "2m30s", "5m", Fact("7 USD", f"the upper end of 0.1-7 USD, {_DYDX}")
    ),
    "ibc-direct": RouteModel(
        "dYdX over IBC alone",
        {
            "shortest": Fact("10s", ASSUMED),
            "eta": Fact("21s", f"assumed: middle of 15-30 s, {_DYDX}"),
            "p95": Fact("30s", _DYDX),
            "fee_usd": Fact("0.5 USD", f"the upper end of 0.1-0.5 USD, {_DYDX}"),
            "capacity": _UNCAPPED,
            "fails": Fact("0.5%", "assumed: the packet is not relayed"),
            "expires_after": Fact("10m", f"{_IBC}: relative timeout"),
            "refund_after": Fact("1m", "assumed: a relayer brings MsgTimeout"),
            "refund_p95": Fact("10m", ASSUMED),
            "waits_finality": Fact("false", "a Cosmos block is final at once"),
        },
    ),
    "hl-deposit": RouteModel(
        "Hyperliquid deposit: native USDC on Arbitrum to Bridge2",
        {
            "shortest": Fact("15s", ASSUMED),
            "eta": Fact("45s", f"assumed: under a minute, {_HL_DEPOSIT}"),
            "p95": Fact("10m", "a third-party guide"),
            "longest": Fact("1h", ASSUMED),
            "gas": Fact("source", "the deposit is a transaction of Arbitrum"),
            "lost_below": Fact("5 USD", f"{_HL_DEPOSIT}: less is lost for ever"),
            "capacity": _UNCAPPED,
            "waits_finality": Fact("false", "assumed: validators watch the sequencer"),
        },
    ),
    "hl-withdraw": RouteModel(
        "Hyperliquid withdrawal: debited at once, signed by validators, finalized after the dispute period",
        {
            "shortest": Fact("3m", _HL_BRIDGE),
            "eta": Fact("3m30s", _MIDDLE),
            "p95": Fact("4m", _HL_BRIDGE),
            "fee_usd": Fact("1 USD", _HL_BRIDGE),
            "attested": Fact("10%", "assumed: share of the time until 2/3 of the validators have signed"),
            "capacity": _UNCAPPED,
            "waits_finality": Fact("false", "the source is not an L2"),
        },
    ),
}


def _model_name(raw: object) -> object:
    if raw is None or raw in MODELS:
        return raw
    close = difflib.get_close_matches(str(raw), MODELS, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"write one of {', '.join(MODELS)}"
    raise ValueError(f"'{raw}' is no model of a route; {hint}")


def via_of(model: object) -> str | None:
    """The intermediate chain of a named model, None where it has none (or nobody knows the model)."""
    known = MODELS.get(model) if isinstance(model, str) else None
    return known.facts["via"].value if known is not None and "via" in known.facts else None


class RouteSpec(Strict):
    """A way for collateral. Money USD, times ns.

    A transfer is debited (after `debit_after`), ATTESTED when `attested` of its delay has passed, and credited at its end, less the fee.
    It fails with probability `fails`, and stays STUCK at `via` with probability `stuck`. Undelivered `expires_after` its debit, it is
    expired and comes back `refund_after` later (`refund_p95` the slow tail). Amounts below `lost_below` are lost for ever.
    """

    source: Annotated[str, Field(alias="from")]
    destination: Annotated[str, Field(alias="to")]
    model: Annotated[str | None, BeforeValidator(_model_name)] = None
    eta: Annotated[Duration, Field(gt=0)]
    p95: Annotated[Duration, Field(gt=0)] | None = None  # None: twice eta
    shortest: Annotated[Duration, Field(ge=0)] | None = None  # None: half of eta
    longest: Annotated[Duration, Field(gt=0)] | None = None  # None: unbounded
    fee: Annotated[Ratio, Field(ge=0, lt=1)] = 0.0
    fee_usd: Annotated[Usd, Field(ge=0)] = 0.0
    gas: Literal["none", "source", "destination"] = "none"  # whose transaction cost, as of the request, is part of the fee
    minimum: Annotated[Usd, Field(ge=0)] = 0.0
    maximum: Annotated[Usd, Field(gt=0)] | None = None
    capacity: Annotated[Usd, Field(ge=0)] = 1_000_000.0
    lost_below: Annotated[Usd, Field(ge=0)] = 0.0
    debit_after: Annotated[Duration, Field(ge=0)] = 0
    attested: Annotated[Ratio, Field(gt=0, le=1)] = 0.8
    fails: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    via: str | None = None
    stuck: Annotated[Ratio, Field(ge=0, le=1)] = 0.0
    expires_after: Annotated[Duration, Field(gt=0)] | None = None
    refund_after: Annotated[Duration, Field(ge=0)] = 3600 * NS
    refund_p95: Annotated[Duration, Field(gt=0)] | None = None  # None: always refund_after
    waits_finality: bool = True

    @model_validator(mode="before")
    @classmethod
    def _take_model(cls, raw: object) -> object:
        if not isinstance(raw, Mapping) or raw.get("model") is None:
            return raw
        model = MODELS.get(str(raw["model"]))
        facts = model.facts if model is not None else {"eta": Fact("1m", ASSUMED)}  # an unknown model is one complaint, not two
        return {name: fact.value for name, fact in facts.items()} | dict(raw)

    @model_validator(mode="after")
    def _in_order(self) -> RouteSpec:
        if self.p95 is not None and self.p95 < self.eta:
            raise ValueError("p95 is below eta; the slow tail takes at least the typical time (write p95 too where a model has one)")
        if self.shortest is not None and not (self.shortest < self.eta or self.shortest == self.eta == self.p95):
            raise ValueError("shortest is not below eta (write shortest too where a model has one)")
        if self.longest is not None and self.longest < self.slow:
            raise ValueError("longest is below p95 (write longest too where a model has one)")
        if self.fails > 0 and self.expires_after is None:
            raise ValueError("a transfer that fails must come back some day; write expires_after beside fails")
        if self.stuck > 0 and self.via is None:
            raise ValueError("stuck needs the chain where transfers stick; write via")
        return self

    @property
    def slow(self) -> int:
        """The 95th percentile of the delay, ns."""
        return self.p95 if self.p95 is not None else P95_DEFAULT * self.eta
