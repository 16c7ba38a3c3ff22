"""Metrics in Prometheus' text format (floor 8), made of a snapshot when somebody asks; there is no state here and nothing global.

    exposition(now, runbooks, build="0.1.0", wall_s=time.time())

An UNKNOWN figure has no sample. What the loop counts comes in `Now.stats` under the names of `COUNTERS`, `GAUGES` and `HISTOGRAMS`;
every name is in docs/metrics.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import get_args

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.registry import Collector

from daemon.service.views import AccountView, FeedView, Line, Now, RunbookView
from daemon.units import NS, parse_iso

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4
# Key of `Now.stats` -> metric and what it is. Keys with a dot carry a label after it: `actions.done`.
COUNTERS: Mapping[str, tuple[str, str]] = {
    "events": ("reefd_events", "Events that were taken since the start."),
    "records": ("reefd_records", "Records of decisions that were made since the start."),
    "gaps": ("reefd_gaps", "Stretches of time that nobody watched since the start: stops, freezes, clock steps."),
    "coalesced": ("reefd_inbox_coalesced", "Batches of observations that coalesced because the inbox was full."),
}
LABELLED: Mapping[str, tuple[str, str, str]] = {
    "actions": ("reefd_actions", "status", "Writes by what came of them since the start."),
    "runs": ("reefd_runs", "status", "Runs that ended by their status since the start."),
}
GAUGES: Mapping[str, tuple[str, str]] = {
    "inbox": ("reefd_inbox_depth", "Events that wait for the loop."),
    "outbox": ("reefd_outbox_depth", "Messages that wait for their endpoint."),
    "dead_letters": ("reefd_dead_letters", "Messages that were given up."),
    "unsettled": ("reefd_actions_unsettled", "Writes without a definite outcome."),
    "slowest_decision_s": ("reefd_decision_max_seconds", "The longest decision since the start."),
    "slowest_commit_s": ("reefd_commit_max_seconds", "The longest wait for a commit since the start."),
}
HISTOGRAMS: Mapping[str, tuple[str, str]] = {
    "decision_seconds": ("reefd_decision_seconds", "How long a decision takes."),
    "commit_seconds": ("reefd_commit_seconds", "How long a commit takes."),
}
NEEDS = ("approval", "unknown_outcome", "stuck_transfer", "unread_resource", "refused_reload", "undelivered", "restored")


class _Told(Collector):
    """The metrics of one moment, as the client library wants them."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = tuple(metrics)

    def collect(self) -> Iterable[Metric]:
        """The metrics."""
        return self._metrics


def exposition(now: Now | None, runbooks: Sequence[RunbookView], *, build: str, wall_s: float) -> bytes:
    """The text; without a snapshot it says that the daemon is not up. `wall_s` is seconds since 1970."""
    metrics = [_gauge("reefd_up", "1 when the daemon's loop can be read.", float(now is not None))]
    if now is not None:
        metrics += [*_house(now, build, wall_s), *_feeds(now.feeds), *_accounts(now.accounts), *_money(now), *_stats(now.stats)]
        metrics += _runbooks(runbooks)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Told(metrics))
    return generate_latest(registry)


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=value)


def _labelled(name: str, text: str, labels: Sequence[str], samples: Iterable[tuple[Sequence[str], float | None]]) -> Metric:
    """A gauge with labels; an UNKNOWN value has no sample."""
    family = GaugeMetricFamily(name, text, labels=labels)
    for values, value in samples:
        if value is not None and not math.isnan(value):
            family.add_metric(values, value)
    return family


def _house(now: Now, build: str, wall_s: float) -> Iterator[Metric]:
    told = {"version": build or now.build, "house": now.house, "dry_run": str(now.dry_run).lower()}
    yield InfoMetricFamily("reefd_build", "What runs.", value=told)
    yield _gauge("reefd_snapshot_age_seconds", "Real time since the loop told its state.", max(0.0, wall_s - parse_iso(now.published) / NS))
    yield _gauge("reefd_journal_seq", "Number of the last event.", now.seq)
    yield _gauge("reefd_clock_timestamp_seconds", "The daemon's clock, seconds since 1970.", parse_iso(now.at) / NS)
    text = "1 for the line that stands: BLIND, NEEDS YOU, ACTING, WATCHING or QUIET."
    yield _labelled("reefd_line", text, ["line"], (([line], float(line == now.line)) for line in get_args(Line)))
    since = parse_iso(now.since) / NS
    yield _gauge("reefd_line_since_timestamp_seconds", "Since when it stands, seconds since 1970 of the daemon's clock.", since)
    yield _gauge("reefd_halted", "1 when nothing is sent any more.", float(bool(now.halted)))
    yield _gauge("reefd_openings_halted", "1 when every gate is closed.", float(now.openings_halted))
    yield _gauge("reefd_gates_closed", "Gates for opening orders that stand closed.", len(now.gates))
    kinds: list[str] = [need.kind for need in now.needs]
    yield _labelled("reefd_needs", "What waits for a person.", ["kind"], (([kind], float(kinds.count(kind))) for kind in NEEDS))
    yield _gauge("reefd_problems", "What is not as it should be.", len(now.problems))
    yield _gauge("reefd_nets_down", "Safety nets that are not up.", len(now.nets_down))
    yield _gauge("reefd_runs_running", "Runs under way.", len(now.running))


def _feeds(feeds: Sequence[FeedView]) -> Iterator[Metric]:
    for name, text, values in (
        ("reefd_feed_age_seconds", "Since the last success, in the venue's time.", [feed.age_s for feed in feeds]),
        ("reefd_feed_interval_seconds", "How often it is asked, in the venue's time.", [feed.every_s for feed in feeds]),
        ("reefd_feed_ok", "1 when the feed is as it should be.", [float(feed.state == "ok") for feed in feeds]),
        ("reefd_feed_failures", "Failures in a row.", [float(feed.failures) for feed in feeds]),
    ):
        yield _labelled(name, text, ["source"], (([feed.source], value) for feed, value in zip(feeds, values, strict=True)))


def _accounts(accounts: Sequence[AccountView]) -> Iterator[Metric]:
    ratio = GaugeMetricFamily(
        "reefd_account_margin_ratio", "Maintenance margin over equity; 1 is liquidation.", labels=["account", "venue", "price"]
    )
    for account in accounts:
        valued = {"oracle": account.margin_ratio, "mid": account.margin_ratio_at_mid, "reference": account.margin_ratio_at_reference}
        for price, value in valued.items():
            if value is not None and not math.isnan(value):
                ratio.add_metric([account.id, account.venue, price], value)
    yield ratio
    for name, text, values in (
        ("reefd_account_survivable_move_ratio", "Adverse move that it survives; +Inf flat.", [a.survivable_move for a in accounts]),
        ("reefd_account_equity_usd", "Collateral and unrealized profit, USD.", [a.equity_usd for a in accounts]),
        ("reefd_account_collateral_usd", "Collateral, USD.", [a.collateral_usd for a in accounts]),
        ("reefd_account_free_collateral_usd", "Equity less initial margin, USD.", [a.free_collateral_usd for a in accounts]),
        ("reefd_account_leverage_ratio", "Total notional over equity.", [a.leverage for a in accounts]),
        ("reefd_account_net_delta_usd", "Signed notional, USD; > 0 long.", [a.net_delta_usd for a in accounts]),
        ("reefd_account_liquidation_seconds", "Estimated time to liquidation.", [a.time_to_liquidation_s for a in accounts]),
        ("reefd_account_age_seconds", "Age of its readings, in the venue's time.", [a.age_s for a in accounts]),
    ):
        yield _labelled(name, text, ["account", "venue"], (([a.id, a.venue], v) for a, v in zip(accounts, values, strict=True)))
    unknown = "1 when its margin ratio or its equity is UNKNOWN."
    known = (([a.id, a.venue], float(a.margin_ratio is None or a.equity_usd is None)) for a in accounts)
    yield _labelled("reefd_account_unknown", unknown, ["account", "venue"], known)


def _money(now: Now) -> Iterator[Metric]:
    cash = now.cash
    reach = (("5m", cash.within_5m), ("30m", cash.within_5m + cash.within_30m), ("+Inf", cash.within_5m + cash.within_30m + cash.later))
    text = "Idle collateral that can be at a margin account within this time, USD."
    yield _labelled("reefd_cash_reachable_usd", text, ["within"], (([within], value) for within, value in reach))
    yield _gauge("reefd_cash_in_flight_usd", "Collateral on its way, USD.", cash.in_flight)
    yield _gauge("reefd_cash_stuck_usd", "Collateral that is overdue on its way, USD.", cash.stuck)


def _runbooks(runbooks: Sequence[RunbookView]) -> Iterator[Metric]:
    states = [([view.id, state], float(count)) for view in runbooks for state, count in sorted(view.instances.items())]
    yield _labelled("reefd_runbook_instances", "Instances of a runbook by state.", ["runbook", "state"], states)
    stages = (([view.id, view.stage], 1.0) for view in runbooks)
    yield _labelled("reefd_runbook_stage", "1 with the stage as a label: armed, shadow or disabled.", ["runbook", "stage"], stages)
    yield _labelled("reefd_runbook_paused", "1 when a person paused it.", ["runbook"], (([v.id], float(bool(v.paused))) for v in runbooks))
    left = (([v.id], None if v.per_day_usd is None else max(0.0, v.per_day_usd - v.spent_day_usd)) for v in runbooks)
    yield _labelled("reefd_runbook_limit_left_usd", "What its limit of a day leaves, USD.", ["runbook"], left)
    runs = (([v.id], None if v.runs_max is None else float(max(0, v.runs_max - v.runs_day))) for v in runbooks)
    yield _labelled("reefd_runbook_runs_left", "How many runs its limit of a day leaves.", ["runbook"], runs)
    spent = (([v.id], v.spent_day_usd) for v in runbooks)
    yield _labelled("reefd_runbook_spent_usd", "What it moved in the last 24 h, USD.", ["runbook"], spent)


def _stats(stats: Mapping[str, float]) -> Iterator[Metric]:
    for key, (name, text) in COUNTERS.items():
        if key in stats:
            yield CounterMetricFamily(name, text, value=stats[key])
    for key, (name, text) in GAUGES.items():
        if key in stats:
            yield _gauge(name, text, stats[key])
    for head, (name, label, text) in LABELLED.items():
        found = {key.partition(".")[2]: value for key, value in stats.items() if key.startswith(f"{head}.")}
        if found:
            family = CounterMetricFamily(name, text, labels=[label])
            for status, value in sorted(found.items()):
                family.add_metric([status], value)
            yield family
    for key, (name, text) in HISTOGRAMS.items():
        prefix = f"{key}_bucket."
        bounds = sorted((float(k.removeprefix(prefix)), v) for k, v in stats.items() if k.startswith(prefix))
        if bounds and f"{key}_count" in stats:
            buckets = [(f"{bound:g}", value) for bound, value in bounds if math.isfinite(bound)]
            buckets.append(("+Inf", stats[f"{key}_count"]))
            yield HistogramMetricFamily(name, text, buckets=buckets, sum_value=stats.get(f"{key}_sum", 0.0))
