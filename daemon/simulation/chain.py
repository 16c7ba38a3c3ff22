"""Chains and governance of a simulated venue (floor 5): pure functions of the second, from the scenario and its shocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.simulation.markets import is_lasting
from daemon.simulation.scenario import ChainSpec, FinalityDelay, GasSpike, ProposalSpec, SequencerStop, Shock
from daemon.units import NS


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainStatus:
    """A chain as of one second; `sequencer_up` is None where there is no sequencer."""

    height: int
    block_at: int  # ns
    sequencer_up: bool | None
    finality_ns: int
    gas_price_gwei: float
    tx_cost_usd: float
    tx_per_block: float


def chain_status(name: str, spec: ChainSpec, shocks: Sequence[Shock], start_s: int, second: int) -> ChainStatus:
    """The chain at a second since the start: a stopped sequencer freezes height and block time, and blocks missed are not caught up."""
    at = (start_s + second) * NS
    up, missed_ns = True, 0
    finality, gas = spec.finality, spec.gas_price
    for shock in shocks:
        match shock:
            case SequencerStop() if shock.chain == name:
                missed_ns += min(max(0, second * NS - shock.at), shock.lasts)
                if is_lasting(shock, second):
                    up = False
                    at = min(at, start_s * NS + shock.at)
            case FinalityDelay() if shock.chain == name and is_lasting(shock, second):
                finality = max(finality, shock.to)
            case GasSpike() if shock.chain == name and is_lasting(shock, second):
                gas = max(gas, shock.to)
            case _:
                pass
    produced = ((start_s + second) * NS - missed_ns) // spec.block_time
    rise = gas / spec.gas_price if spec.gas_price > 0 else 1.0
    return ChainStatus(
        height=produced,
        block_at=at // spec.block_time * spec.block_time,
        sequencer_up=up if spec.rollup else None,
        finality_ns=finality,
        gas_price_gwei=gas,
        tx_cost_usd=spec.tx_cost * rise,
        tx_per_block=spec.tx_per_block if up else 0.0,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ProposalStatus:
    """A proposal as of one second, times in ns."""

    spec: ProposalSpec
    status: str  # PROPOSAL_STATUS_VOTING_PERIOD PROPOSAL_STATUS_PASSED PROPOSAL_STATUS_REJECTED
    voting_start: int
    voting_end: int


def proposal_statuses(specs: Sequence[ProposalSpec], start_s: int, second: int) -> list[ProposalStatus]:
    """The proposals submitted by a second since the start, in the order of the scenario."""
    found = []
    for spec in specs:
        begin = start_s * NS + spec.at
        now = (start_s + second) * NS
        if begin > now:
            continue
        end = begin + spec.voting
        ended = "PROPOSAL_STATUS_PASSED" if spec.outcome == "passed" else "PROPOSAL_STATUS_REJECTED"
        found.append(
            ProposalStatus(spec=spec, status="PROPOSAL_STATUS_VOTING_PERIOD" if now < end else ended, voting_start=begin, voting_end=end)
        )
    return found
