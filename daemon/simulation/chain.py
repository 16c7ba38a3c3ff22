"""Chains and governance of a simulated venue (floor 5): pure functions of the second, from the scenario and its shocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from daemon.simulation.faults import Congestion, EmptyBlocks, FinalityDelay, GasSpike, SequencerStop
from daemon.simulation.fields import TimedShock, is_lasting
from daemon.simulation.scenario import ChainSpec, ProposalSpec
from daemon.units import NS

FULL_BLOCKS = 1.5  # times the usual transactions a block at full congestion; assumed


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


def chain_status(name: str, spec: ChainSpec, shocks: Sequence[TimedShock], start_s: int, second: int) -> ChainStatus:
    """The chain at a second since the start: a stopped sequencer freezes height and block time, and blocks missed are not caught up."""
    at = (start_s + second) * NS
    up = True
    stops: list[tuple[int, int]] = []
    finality, gas, transactions = spec.finality, spec.gas_price, spec.tx_per_block
    for shock in shocks:
        match shock:
            case SequencerStop() if shock.chain == name:
                stops.append((shock.at, min(second * NS, shock.at + shock.lasts)))
                if is_lasting(shock, second):
                    up = False
                    at = min(at, start_s * NS + shock.at)
            case FinalityDelay() if shock.chain == name and is_lasting(shock, second):
                finality = max(finality, shock.to)
            case GasSpike() if shock.chain == name and is_lasting(shock, second):
                gas = max(gas, shock.to)
            case EmptyBlocks() if shock.chain == name and is_lasting(shock, second):
                transactions = min(transactions, spec.tx_per_block * shock.to)
            case _:
                pass
    full = congestion(name, shocks, second)
    if full is not None:
        gas = max(gas, spec.gas_price * full.times(full.gas))
        transactions = transactions * full.times(FULL_BLOCKS)
    produced = ((start_s + second) * NS - _covered_ns(stops)) // spec.block_time
    rise = gas / spec.gas_price if spec.gas_price > 0 else 1.0
    return ChainStatus(
        height=produced,
        block_at=at // spec.block_time * spec.block_time,
        sequencer_up=up if spec.rollup else None,
        finality_ns=finality,
        gas_price_gwei=gas,
        tx_cost_usd=spec.tx_cost * rise,
        tx_per_block=transactions if up else 0.0,
    )


def _covered_ns(spans: Sequence[tuple[int, int]]) -> int:
    """Length of the union of spans, ns: outages that overlap are missed once."""
    covered, reached = 0, 0
    for begin, end in sorted(spans):
        covered += max(0, end - max(begin, reached))
        reached = max(reached, end)
    return covered


def congestion(name: str, shocks: Sequence[TimedShock], second: int) -> Congestion | None:
    """The congestion of a chain at a second: the one of the highest level, None without any."""
    found = [shock for shock in shocks if isinstance(shock, Congestion) and shock.chain == name and is_lasting(shock, second)]
    return max(found, key=lambda shock: shock.level) if found else None


def slowdown(name: str, shocks: Sequence[TimedShock], second: int) -> float:
    """How many times longer things take on a chain: 1 where it is not congested."""
    full = congestion(name, shocks, second)
    return full.times(full.latency) if full is not None else 1.0


def is_stopped(name: str, shocks: Sequence[TimedShock], second: int) -> bool:
    """True while a chain produces no blocks."""
    return any(isinstance(shock, SequencerStop) and shock.chain == name and is_lasting(shock, second) for shock in shocks)


def takes_transactions(name: str, shocks: Sequence[TimedShock], second: int) -> bool:
    """True when a transaction sent to a chain gets into a block: it produces blocks, and they are not empty."""
    return not any(isinstance(shock, SequencerStop | EmptyBlocks) and shock.chain == name and is_lasting(shock, second) for shock in shocks)


def finality_late_ns(name: str, spec: ChainSpec | None, shocks: Sequence[TimedShock], second: int) -> int:
    """How much later than usual a chain is final, ns; 0 where no chain is known by the name."""
    if spec is None:
        return 0
    late = [shock.to for shock in shocks if isinstance(shock, FinalityDelay) and shock.chain == name and is_lasting(shock, second)]
    return max([0, *(to - spec.finality for to in late)])


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
