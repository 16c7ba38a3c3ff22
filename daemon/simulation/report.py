"""What a replay says (floor 5): numbers WITH the runbooks beside WITHOUT them, split so that luck is not sold as skill, as JSON or text.

    report = Report(...)
    report.as_json()        # the shape of `reefd replay --format json`
    report.as_text()        # the same for people; always ends with what it cannot know
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from daemon.simulation.account import SimulatedAccount
from daemon.units import DAY_NS, FOREVER, HOUR_NS, NEVER, iso, show, show_duration

ANECDOTE_BELOW = 10  # clusters; fewer independent cases say nothing about the next one
COSTS_STRESSED = 3.0

Json = dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class EpisodeAction:
    """One action of an episode: `size` base units filled, `notional_usd` filled or moved; None where the action has none."""

    action: str
    outcome: str
    size: float | None = None
    notional_usd: float | None = None
    at: int | None = None
    price: float | None = None
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Episode:
    """From firing to clearing; `cleared_at` None = still open at the end; `subject` is the market (or entity) it counts for."""

    runbook: str
    entity: str
    subject: str
    pending_at: int
    fired_at: int
    cleared_at: int | None
    run_statuses: tuple[str, ...] = ()
    run_reasons: tuple[str, ...] = ()  # why each ended so; empty where it went well
    clear_runs: tuple[tuple[str, str], ...] = ()  # (status, reason) of its on_clear; neither run_status nor a count of runs sees these
    actions: tuple[EpisodeAction, ...] = ()

    @property
    def run_status(self) -> str | None:
        """How the last run ended that was not skipped or blocked, else how the last one did; None without a run."""
        tried = [status for status in self.run_statuses if status not in ("skipped", "blocked")]
        ended = tried or self.run_statuses
        return ended[-1] if ended else None

    def _runs(self) -> Iterator[tuple[str, str]]:
        return zip_longest(self.run_statuses, self.run_reasons, fillvalue="")

    def run_lines(self) -> Iterator[str]:
        """One line a run, for people."""
        for number, (status, reason) in enumerate(self._runs(), 1):
            yield f"run {number} {status}{': ' if reason else ''}{reason}"
        for status, reason in self.clear_runs:
            yield f"clear run {status}{': ' if reason else ''}{reason}"

    def as_json(self) -> Json:
        """The episode as `reefd replay` prints it."""
        return {
            "runbook": self.runbook,
            "entity": self.entity,
            "pending_at": iso(self.pending_at),
            "fired_at": iso(self.fired_at),
            "cleared_at": None if self.cleared_at is None else iso(self.cleared_at),
            "run_status": self.run_status,
            "runs": [
                *({"status": status, "reason": reason, "on_clear": False} for status, reason in self._runs()),
                *({"status": status, "reason": reason, "on_clear": True} for status, reason in self.clear_runs),
            ],
            "actions": [
                {"action": a.action, "outcome": a.outcome, "size": a.size, "notional_usd": a.notional_usd, "price": a.price,
                 "at": None if a.at is None else iso(a.at), "reason": a.reason}
                for a in self.actions
            ],
        }  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Outturn:
    """What one pass came to, USD. Costs are >= 0, funding > 0 was received; margin_ratio_max None where margins are not given.

    pnl = direction + funding - fees - transfer fees - slippage - liquidation, where direction is what prices did to what was held.
    """

    pnl_usd: float
    funding_usd: float
    fees_usd: float
    liquidations: int
    margin_ratio_max: float | None
    turnover_usd: float
    funding_unknown_hours: float
    slippage_usd: float
    transfer_fees_usd: float
    liquidation_usd: float
    valued_from: int | None = None  # profit is counted from the first instant at which every position has a price
    valued_to: int | None = None

    @property
    def costs_usd(self) -> float:
        """Fees, slippage and transfer fees, >= 0."""
        return self.fees_usd + self.slippage_usd + self.transfer_fees_usd

    @property
    def direction_usd(self) -> float:
        """What prices did to the positions held: the rest of the profit."""
        return self.pnl_usd - self.funding_usd + self.costs_usd + self.liquidation_usd

    def as_json(self) -> Json:
        """The numbers as `reefd replay` prints them."""
        return {
            "pnl_usd": self.pnl_usd, "funding_usd": self.funding_usd, "fees_usd": self.fees_usd, "liquidations": self.liquidations,
            "margin_ratio_max": self.margin_ratio_max, "turnover_usd": self.turnover_usd,
            "funding_unknown_hours": self.funding_unknown_hours, "slippage_usd": self.slippage_usd,
            "transfer_fees_usd": self.transfer_fees_usd, "liquidation_usd": self.liquidation_usd, "direction_usd": self.direction_usd,
            "valued_from": None if self.valued_from is None else iso(self.valued_from),
            "valued_to": None if self.valued_to is None else iso(self.valued_to),
        }  # fmt: skip


def outturn(account: SimulatedAccount) -> Outturn:
    """What the account came to at the end of its pass."""
    totals = account.totals
    return Outturn(
        pnl_usd=account.pnl_usd(), funding_usd=totals.funding_usd, fees_usd=totals.fees_usd, liquidations=totals.liquidations,
        margin_ratio_max=totals.margin_ratio_max if account.margins_known else None, turnover_usd=totals.turnover_usd,
        funding_unknown_hours=totals.funding_unknown_hours, slippage_usd=totals.slippage_usd,
        transfer_fees_usd=totals.transfer_fees_usd, liquidation_usd=totals.liquidation_usd,
        valued_from=None if account.valued_from == NEVER else account.valued_from,
        valued_to=None if account.valued_to == NEVER else account.valued_to,
    )  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Difference:
    """WITH less WITHOUT, USD, > 0 the runbooks did better: split, and headlined without direction."""

    direction_usd: float
    funding_usd: float
    fees_and_slippage_usd: float
    liquidation_avoided_usd: float

    @property
    def pnl_usd(self) -> float:
        """The whole difference."""
        return self.direction_usd + self.without_direction_usd

    @property
    def without_direction_usd(self) -> float:
        """The headline: all but what prices happened to do after the runbooks acted."""
        return self.funding_usd + self.fees_and_slippage_usd + self.liquidation_avoided_usd

    @property
    def without_direction_at_3x_costs_usd(self) -> float:
        """The headline had every fill and transfer cost three times as much."""
        return self.without_direction_usd + (COSTS_STRESSED - 1.0) * self.fees_and_slippage_usd

    def as_json(self) -> Json:
        """The difference as `reefd replay` prints it."""
        return {
            "pnl_usd": self.pnl_usd, "without_direction_usd": self.without_direction_usd,
            "without_direction_at_3x_costs_usd": self.without_direction_at_3x_costs_usd, "direction_usd": self.direction_usd,
            "funding_usd": self.funding_usd, "fees_and_slippage_usd": self.fees_and_slippage_usd,
            "liquidation_avoided_usd": self.liquidation_avoided_usd,
        }  # fmt: skip


def difference(having: Outturn, lacking: Outturn) -> Difference:
    """WITH less WITHOUT, split into direction, funding, fees and slippage, liquidation avoided."""
    return Difference(
        direction_usd=having.direction_usd - lacking.direction_usd,
        funding_usd=having.funding_usd - lacking.funding_usd,
        fees_and_slippage_usd=lacking.costs_usd - having.costs_usd,
        liquidation_avoided_usd=lacking.liquidation_usd - having.liquidation_usd,
    )


def clusters(episodes: Sequence[Episode]) -> int:
    """Independent cases among episodes: those of one market within 24 h, or of several in one hour, are ONE.

    Within = between the end of one and the firing of the next (an open episode never ends), and transitively.
    """
    ordered = sorted(episodes, key=lambda episode: episode.fired_at)
    parent = list(range(len(ordered)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]
            index = parent[index]
        return index

    latest: dict[str, int] = {}  # subject -> its episode that ends last so far
    for index, episode in enumerate(ordered):
        if index and episode.fired_at - ordered[index - 1].fired_at <= HOUR_NS:
            parent[root(index)] = root(index - 1)
        before = latest.get(episode.subject)
        if before is not None and episode.fired_at - _end(ordered[before]) <= DAY_NS:
            parent[root(index)] = root(before)
        if before is None or _end(episode) >= _end(ordered[before]):
            latest[episode.subject] = index
    return sum(1 for index in range(len(ordered)) if root(index) == index)


def _end(episode: Episode) -> int:
    return FOREVER if episode.cleared_at is None else episode.cleared_at


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """One replay: what it read, how long it took, what happened, and what it came to."""

    rows: int
    first_at: int
    last_at: int
    seconds: dict[str, float]  # load, compile, replay, without
    episodes: tuple[Episode, ...]
    having: Outturn
    lacking: Outturn
    extremes: bool = False  # bars' extremes were recorded
    sample: str = ""  # in | out; empty: not said
    costs: str = ""  # what was assumed, for the closing lines
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def clusters(self) -> int:
        """Independent cases among the episodes."""
        return clusters(self.episodes)

    @property
    def verdict(self) -> str:
        """How much these cases can say."""
        count = self.clusters
        cases = f"{count} cluster{'' if count == 1 else 's'} of {len(self.episodes)} episode{'' if len(self.episodes) == 1 else 's'}"
        if not self.episodes:
            return "nothing fired: no evidence either way"
        return f"{cases}: an anecdote, not evidence" if count < ANECDOTE_BELOW else cases

    def closing(self) -> tuple[str, ...]:
        """The lines every report ends with."""
        closes = "on each batch's prices (no extremes recorded)"
        where = "on the recorded extremes of bars, else on each batch's prices" if self.extremes else closes
        sample = {
            "in": "in sample: the runbooks were written with this history in sight",
            "out": "out of sample, as the account file says: nothing here can check it",
        }.get(self.sample, "taken as in sample: the account file does not say otherwise (sample: out)")
        return (
            "static book: the prices, the books and the other traders do not react to these fills",
            f"costs: {self.costs}",
            f"clusters: {self.verdict}",
            f"liquidation: tested {where}",
            f"sample: {sample}",
        )

    def as_json(self) -> Json:
        """The document that `reefd replay --format json` prints."""
        return {
            "rows": self.rows,
            "from": iso(self.first_at),
            "to": iso(self.last_at),
            "seconds": self.seconds,
            "episodes": [episode.as_json() for episode in self.episodes],
            "with": self.having.as_json(),
            "without": self.lacking.as_json(),
            "difference": difference(self.having, self.lacking).as_json(),
            "clusters": self.clusters,
            "verdict": self.verdict,
            "notes": [*self.notes, *self.closing()],
        }

    def as_text(self) -> str:
        """The report for people."""
        pace = self.rows / self.seconds["replay"] if self.seconds.get("replay") else 0.0
        lines = [
            f"{self.rows:,} rows from {iso(self.first_at)} to {iso(self.last_at)} ({pace:,.0f} rows/s)",
            "seconds: " + ", ".join(f"{name} {value:.2f}" for name, value in self.seconds.items()),
            "",
            *self._episode_lines(),
            "",
            *self._number_lines(),
            "",
            *self._difference_lines(),
            "",
            *(f"note: {note}" for note in self.notes),
            *self.closing(),
        ]
        return "\n".join(lines)

    def _episode_lines(self) -> list[str]:
        if not self.episodes:
            return ["no episode: no trigger fired"]
        lines = [f"{len(self.episodes)} episode{'' if len(self.episodes) == 1 else 's'}"]
        for episode in self.episodes:
            ended = "still open" if episode.cleared_at is None else f"cleared {iso(episode.cleared_at)}"
            lasted = "" if episode.cleared_at is None else f" after {show_duration((episode.cleared_at - episode.fired_at) / 1e9)}"
            lines.append(f"  {episode.runbook} on {episode.entity}: fired {iso(episode.fired_at)}, {ended}{lasted}")
            lines.extend(f"    {line}" for line in episode.run_lines())
            lines.extend(f"    {_action_text(action)}" for action in episode.actions)
        return lines

    def _number_lines(self) -> list[str]:
        def usd(value: float) -> str:
            return f"{value + 0.0:>16,.2f}"  # + 0.0: no minus before a zero

        def plain(value: float) -> str:
            return f"{value:>16,g}"

        def ratio(value: float | None) -> str:
            return f"{'not given' if value is None else show(value, 'ratio'):>16}"

        a, b = self.having, self.lacking
        span = "never: no instant at which every position has a price"
        if b.valued_from is not None and b.valued_to is not None:
            span = f"{iso(b.valued_from)} to {iso(b.valued_to)}, while every position has a price"
        table = [
            ("profit, USD", usd(a.pnl_usd), usd(b.pnl_usd)),
            ("  of it direction", usd(a.direction_usd), usd(b.direction_usd)),
            ("  funding (+ received)", usd(a.funding_usd), usd(b.funding_usd)),
            ("  fees", usd(-a.fees_usd), usd(-b.fees_usd)),
            ("  slippage", usd(-a.slippage_usd), usd(-b.slippage_usd)),
            ("  transfer fees", usd(-a.transfer_fees_usd), usd(-b.transfer_fees_usd)),
            ("  lost in liquidation", usd(-a.liquidation_usd), usd(-b.liquidation_usd)),
            ("positions liquidated", plain(a.liquidations), plain(b.liquidations)),
            ("highest margin ratio", ratio(a.margin_ratio_max), ratio(b.margin_ratio_max)),
            ("turnover, USD", usd(a.turnover_usd), usd(b.turnover_usd)),
            ("funding unknown, hours", plain(a.funding_unknown_hours), plain(b.funding_unknown_hours)),
        ]
        rows = [f"{name:<24}{having}{lacking}" for name, having, lacking in table]
        return [f"valued: {span}", f"{'':<24}{'WITH':>16}{'WITHOUT':>16}", *rows]

    def _difference_lines(self) -> list[str]:
        split = difference(self.having, self.lacking)
        return [
            f"the runbooks came to {split.without_direction_usd:+,.2f} USD without direction"
            f" ({split.without_direction_at_3x_costs_usd:+,.2f} at 3x costs)",
            f"  funding {split.funding_usd:+,.2f} | fees and slippage {split.fees_and_slippage_usd:+,.2f}"
            f" | liquidation avoided {split.liquidation_avoided_usd:+,.2f}",
            f"  and {split.direction_usd:+,.2f} of direction: what prices did to the size they had shrunk, luck unless shown otherwise",
        ]


def _action_text(action: EpisodeAction) -> str:
    parts = [f"{iso(action.at)} " if action.at is not None else "", action.action, " ", action.outcome]
    if action.size is not None:
        parts.append(f" {action.size:,g}")
    if action.price is not None:
        parts.append(f" at {action.price:,g}")
    if action.notional_usd is not None:
        parts.append(f" ({action.notional_usd:,.2f} USD)")
    if action.reason:
        parts.append(f": {action.reason}")
    return "".join(parts)
