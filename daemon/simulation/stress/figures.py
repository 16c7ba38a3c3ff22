"""What a stress comes to (floor 5): the JSON of `reefd stress`, the same whatever the number of workers.

    document = figures(tally, Subject(book=book, horizon_ns=7 * DAY_NS, seed=7), left_out={"margin-low": part})

Money is USD, a loss is negative, probabilities are shares of the weight of all paths, times are seconds after the start. What cannot be
said (nothing was liquidated) is null. Only what the driver puts into `seconds` depends on time, workers or memory.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from daemon.simulation.book import Book, BookRoute
from daemon.simulation.stress import estimates
from daemon.simulation.stress.tally import SideColumns, Tally
from daemon.units import DAY_NS, FOREVER, HOUR_NS, NS, show_duration

Json = dict[str, object]
Floats = NDArray[np.float64]
Mask = NDArray[np.bool_]
LOOKS = {"1h": HOUR_NS, "24h": DAY_NS, "7d": 7 * DAY_NS}  # when liquidations are counted up to, as far as the horizon goes
POORER_SHARE = 0.005  # of equity at the start: a path that is poorer by less than this is not called harmed
UNSAID: Json = {"p": None, "low": None, "high": None}
COVERED = (0.95, 0.99)  # shares of liquidations that cash should have prevented


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """What was stressed. `equity_usd` at the start over all accounts; `harm_usd`: poorer by more counts as harm (None: 0.5 % of equity)."""

    book: Book
    horizon_ns: int
    seed: int
    equity_usd: float
    harm_usd: float | None = None
    world: str = ""
    runbooks: tuple[str, ...] = ()

    @property
    def harm_above_usd(self) -> float:
        """Poorer by more than this is harm."""
        return POORER_SHARE * self.equity_usd if self.harm_usd is None else self.harm_usd


def figures(
    tally: Tally,
    subject: Subject,
    *,
    left_out: Mapping[str, Tally] | None = None,
    independent: Tally | None = None,
    seconds: Mapping[str, object] | None = None,
) -> Json:
    """The whole document. `left_out`: by runbook, the paths on which it ran, played without it; `independent`: another sample, drawn so."""
    weights, without, having = tally.weights, tally.without, tally.having
    document: Json = {
        "book": subject.book.name,
        "world": subject.world,
        "runbooks": list(subject.runbooks),
        "paths": len(tally),
        "rows": tally.rows,
        "seed": subject.seed,
        "horizon_s": subject.horizon_ns / NS,
        "equity_usd": subject.equity_usd,
        "with": _side(having, weights, subject.horizon_ns, tally),
        "without": _side(without, weights, subject.horizon_ns, tally),
        **_harm(tally, weights, subject.harm_above_usd),
        "cash": _cash(tally, weights, subject.book),
        "from_80_to_liquidation": _from_80(tally, subject.book),
        "premium": _premium(tally, weights),
        "runs": _runs(tally, weights),
        "leave_one_out": _left_out(tally, left_out or {}, subject.horizon_ns),
        "importance": _importance(tally, weights),
        "seconds": dict(seconds or {}),
    }
    if independent is not None:
        document["independent"] = _independent(independent, subject.horizon_ns)
    return document


def _known(value: float) -> float | None:
    """JSON has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def _p(hit: Mask, weights: Floats) -> Json:
    found = estimates.probability(hit, weights).as_json()
    return {name: _known(value) for name, value in found.items()}


def looks(horizon_ns: int) -> dict[str, int]:
    """The times that liquidations are counted up to: 1 h, 24 h, 7 d as far as they lie within, and the horizon."""
    found = {name: at for name, at in LOOKS.items() if at <= horizon_ns}
    return found if horizon_ns in found.values() else {**found, show_duration(horizon_ns / NS): horizon_ns}


def _side(side: SideColumns, weights: Floats, horizon_ns: int, tally: Tally) -> Json:
    liquidated, known = side.liquidated_at <= horizon_ns, side.weights
    worst = int(np.argmin(side.pnl_usd)) if len(weights) else -1
    return {
        "liquidation_probability": _known(estimates.probability(liquidated, known).value),
        "liquidation": {
            # A tilt is aimed at the horizon: what it says of earlier hours rests on a handful of paths, so it is not said.
            name: _p(side.liquidated_at <= at, known) if at == horizon_ns or estimates.is_plain(known) else dict(UNSAID)
            for name, at in looks(horizon_ns).items()
        },
        "liquidated_paths": int(np.count_nonzero(liquidated)),
        "accounts_liquidated": _known(estimates.mean(side.liquidations.astype(np.float64), weights)),
        "pnl_usd": _pnl(side.pnl_usd, weights),
        "worst": None if worst < 0 else {"path": int(tally.numbers[worst]), "pnl_usd": float(side.pnl_usd[worst])},
        "margin_ratio_max": _levels(np.minimum(side.margin_ratio_max, 1e6), weights, {"p50": 0.5, "p95": 0.95, "p99": 0.99}),
        "worst_equity_usd": _levels(side.worst_equity_usd, weights, {"p01": 0.01, "p05": 0.05, "p50": 0.5}),
        "mean_usd": {
            name: _known(estimates.mean(values, weights))
            for name, values in (
                ("funding", side.funding_usd), ("fees", side.fees_usd), ("slippage", side.slippage_usd),
                ("liquidation", side.liquidation_usd), ("transfer_fees", side.transfer_fees_usd), ("turnover", side.turnover_usd),
            )
        },
        "stuck_usd": {
            "mean": _known(estimates.mean(side.stuck_usd, weights)),
            **_levels(side.stuck_usd, weights, {"p95": 0.95, "p99": 0.99}),
            "max": float(side.stuck_usd.max()) if len(weights) else None,
            "probability": _p(side.stuck_usd > 0.0, weights),
        },
    }  # fmt: skip


def _levels(values: Floats, weights: Floats, levels: Mapping[str, float]) -> Json:
    return {name: _known(value) for name, value in zip(levels, estimates.quantiles(values, weights, list(levels.values())), strict=True)}


def _pnl(values: Floats, weights: Floats) -> Json:
    return {
        "mean": _known(estimates.mean(values, weights)),
        "mean_se": _known(estimates.standard_error(values, weights)),
        **_levels(values, weights, {"p01": 0.01, "p05": 0.05, "p50": 0.5, "p95": 0.95, "p99": 0.99}),
        "cvar95": _known(estimates.shortfall(values, weights, 0.05)),
        "cvar99": _known(estimates.shortfall(values, weights, 0.01)),
    }


# -- harm ------------------------------------------------------------------------------------------------------------------------


def harms(tally: Tally, poorer_by: float) -> tuple[Mask, Mask, Mask]:
    """Paths that the runbooks saved, that were liquidated only with them, and that are poorer by more than an amount, USD."""
    before, after = tally.without.liquidated_at < FOREVER, tally.having.liquidated_at < FOREVER
    saved, killed = before & ~after, after & ~before
    return saved, killed, (tally.having.pnl_usd - tally.without.pnl_usd < -poorer_by) & ~saved & ~killed


def _harm(tally: Tally, weights: Floats, poorer_by: float) -> Json:
    """Paths that are worse only with the runbooks, and those that they saved."""
    saved, killed, poorer = harms(tally, poorer_by)
    change = tally.having.pnl_usd - tally.without.pnl_usd
    harmed = killed | poorer
    return {
        "harmed_paths": int(np.count_nonzero(harmed)),
        "harmed_probability": _p(harmed, weights),
        "saved_paths": int(np.count_nonzero(saved)),
        "saved_probability": _p(saved, weights),
        "harm": {
            "liquidated_only_with": _harmed(killed, change, weights, tally),
            "poorer": {"by_more_than_usd": poorer_by, **_harmed(poorer, change, weights, tally)},
        },
    }


def _harmed(hit: Mask, change: Floats, weights: Floats, tally: Tally) -> Json:
    places = np.flatnonzero(hit)
    worst = places[np.argmin(change[places])] if len(places) else None
    return {
        "paths": len(places),
        "probability": _p(hit, weights),
        "mean_usd": _known(estimates.mean(change[places], weights[places])),
        "worst": None if worst is None else {"path": int(tally.numbers[worst]), "usd": float(change[worst])},
    }


# -- cash and time ---------------------------------------------------------------------------------------------------------------


def routes_into(book: Book, account_id: str) -> list[BookRoute]:
    """The ways for money into an account from a chain that holds a buffer, the one with the shortest slow tail first."""
    ends = (account_id, book.account(account_id).venue)
    return sorted((r for r in book.routes if r.destination in ends and r.source in book.buffers), key=lambda r: (r.p95_ns, r.name))


def _cash(tally: Tally, weights: Floats, book: Book) -> list[Json]:
    """By account: what, had it stood there, would have prevented liquidations; where it would come from, and when it must leave."""
    without = tally.without
    rows: list[Json] = []
    for account in sorted(account.id for account in book.accounts):
        if account not in tally.accounts:
            continue
        hit = (without.first_account == tally.accounts.index(account)) & (without.liquidated_at < FOREVER)
        if not hit.any():
            continue
        needed, weighed = without.needed_usd[hit], weights[hit]
        at = without.liquidated_at[hit].astype(np.float64)
        usd = dict(zip(COVERED, estimates.quantiles(needed, weighed, COVERED), strict=True))
        soonest = dict(zip(COVERED, estimates.quantiles(at, without.weights[hit], [1.0 - share for share in COVERED]), strict=True))
        ways = routes_into(book, account)
        rows.append(
            {
                "account": account,
                "liquidated_paths": int(np.count_nonzero(hit)),
                "usd": {f"{share:.0%}": usd[share] for share in COVERED},
                # All but 5 % (1 %) of the liquidations happen after this.
                "liquidated_after_s": {f"{share:.0%}": soonest[share] / NS for share in COVERED},
                "routes": [
                    {
                        "route": way.name,
                        "chain": way.source,
                        "buffer_usd": book.buffers[way.source],
                        "p95_s": way.p95_ns / NS,
                        # 0: it must stand in the account before anything happens.
                        "leave_by_s": {f"{share:.0%}": max(0.0, (soonest[share] - way.p95_ns) / NS) for share in COVERED},
                        "enough": {
                            f"{share:.0%}": min(book.buffers[way.source], way.capacity_usd) * (1.0 - way.fee) >= usd[share]
                            for share in COVERED
                        },
                    }
                    for way in ways
                ],
            }
        )
    return rows


def _from_80(tally: Tally, book: Book) -> Json:
    """How long it takes from a margin ratio of 80 % to liquidation, without runbooks, and how often each route is faster than that."""
    without = tally.without
    hit = (without.liquidated_at < FOREVER) & (without.in_80_at < FOREVER)
    taken = (without.liquidated_at[hit] - without.in_80_at[hit]) / NS
    weighed = without.weights[hit]
    levels = _levels(taken, weighed, {"p01": 0.01, "p05": 0.05, "p50": 0.5, "p95": 0.95})
    ways = []
    for route in book.routes:
        inward = any(route in routes_into(book, account.id) for account in book.accounts)
        if inward:
            in_time = estimates.probability(taken >= route.p95_ns / NS, weighed).value
            ways.append({"route": route.name, "chain": route.source, "p95_s": route.p95_ns / NS, "in_time": _known(in_time)})
    return {"paths": int(np.count_nonzero(hit)), "s": levels, "routes": ways}


def _premium(tally: Tally, weights: Floats) -> Json:
    """What the runbooks cost where nothing happened: no liquidation with or without them."""
    without, having = tally.without, tally.having
    quiet = (without.liquidated_at == FOREVER) & (having.liquidated_at == FOREVER)
    cost, change = (having.costs_usd - without.costs_usd)[quiet], (having.pnl_usd - without.pnl_usd)[quiet]
    return {
        "paths": int(np.count_nonzero(quiet)),
        "cost_usd": _known(estimates.mean(cost, weights[quiet])),
        "cost_p95_usd": _levels(cost, weights[quiet], {"p95": 0.95})["p95"],
        "funding_usd": _known(estimates.mean((having.funding_usd - without.funding_usd)[quiet], weights[quiet])),
        "pnl_change_usd": _known(estimates.mean(change, weights[quiet])),
    }


# -- runbooks and weights --------------------------------------------------------------------------------------------------------


def _runs(tally: Tally, weights: Floats) -> Json:
    return {
        name: {
            "paths": int(np.count_nonzero(runs)),
            "runs": int(runs.sum()),
            "mean": _known(estimates.mean(runs.astype(np.float64), weights)),
        }
        for name, runs in tally.runs.items()
    }


def _left_out(tally: Tally, left_out: Mapping[str, Tally], horizon_ns: int) -> Json:
    """By runbook: the figures had it been left out, and what it contributes: all less all but it."""
    weights, having = tally.weights, tally.having
    p = estimates.probability(having.liquidated_at <= horizon_ns, having.weights).value
    pnl = estimates.mean(having.pnl_usd, weights)
    tail = estimates.shortfall(having.pnl_usd, weights, 0.05)
    document: Json = {}
    for name in sorted(left_out):
        other = tally.replaced(left_out[name])
        side, weighed = other.having, other.weights
        q = estimates.probability(side.liquidated_at <= horizon_ns, side.weights).value
        saved = (side.liquidated_at <= horizon_ns) & (having.liquidated_at > horizon_ns)
        killed = (side.liquidated_at > horizon_ns) & (having.liquidated_at <= horizon_ns)
        mean, shortfall = estimates.mean(side.pnl_usd, weighed), estimates.shortfall(side.pnl_usd, weighed, 0.05)
        document[name] = {
            "paths_it_ran_on": len(left_out[name]),
            "liquidation_probability": _known(q),
            "pnl_usd": {"mean": _known(mean), "cvar95": _known(shortfall)},
            "contributes": {
                "liquidation_probability": _known(p - q),
                "pnl_mean_usd": _known(pnl - mean),
                "cvar95_usd": _known(tail - shortfall),
                "saved_paths": int(np.count_nonzero(saved)),
                "lost_paths": int(np.count_nonzero(killed)),
            },
        }
    return document


def _importance(tally: Tally, weights: Floats) -> Json:
    count, total = len(weights), math.fsum(weights)
    ess = estimates.effective_sample_size(weights)
    return {
        "used": not estimates.is_plain(weights),
        "tilted_paths": int(np.count_nonzero(tally.tilted)),
        "effective_sample_size": ess,
        "effective_share": ess / count if count else None,
        "largest_weight": float(weights.max()) if count else None,
        "largest_weight_share": float(weights.max()) / total if total > 0.0 else None,
        "mean_weight": total / count if count else None,
    }


def _independent(tally: Tally, horizon_ns: int) -> Json:
    """What the same world would have claimed had nothing depended on anything."""
    weights = tally.weights
    return {
        "paths": len(tally),
        **{
            key: {"liquidation_probability": _known(estimates.probability(side.liquidated_at <= horizon_ns, side.weights).value),
                  "cvar95_usd": _known(estimates.shortfall(side.pnl_usd, weights, 0.05))}
            for key, side in (("with", tally.having), ("without", tally.without))
        },
    }  # fmt: skip
