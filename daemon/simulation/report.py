"""What a replay says (floor 5): numbers WITH the runbooks beside WITHOUT them, split so that luck is not sold as skill, as JSON or text.

    report = Report(...)
    report.as_json()        # the shape of `reefd replay --format json`
    report.as_text()        # the same for people; always ends with what it cannot know
"""

from __future__ import annotations

from dataclasses import dataclass

from daemon.simulation.episode import Episode, clusters
from daemon.simulation.outturn import Difference, Json, Outturn, difference
from daemon.simulation.retrace import Contributions, Restored
from daemon.units import iso, show, show_duration

ANECDOTE_BELOW = 10  # clusters; fewer independent cases say nothing about the next one


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
    notes: tuple[str, ...] = ()
    recording: str = ""  # its name
    runbooks: tuple[str, ...] = ()  # ids
    contributions: Contributions | None = None  # None: no run was left out; a note says why
    restored: Restored | None = None  # None: nothing was shrunk in an episode

    @property
    def difference(self) -> Difference:
        """WITH less WITHOUT, as it came: what was shrunk stayed small."""
        return difference(self.having, self.lacking)

    @property
    def difference_restored(self) -> Difference:
        """WITH less WITHOUT had the owner restored each position when its episode cleared; the same where nothing was shrunk."""
        return self.difference if self.restored is None else difference(self.restored.outturn, self.lacking)

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
            "difference": self.difference.as_json(),
            "restore": {
                "never": self.difference.as_json(),
                "on_clear": {
                    **self.difference_restored.as_json(),
                    **(self.restored.as_json() if self.restored is not None else self._nothing_restored()),
                },
            },
            "leave_one_out": None if self.contributions is None else self.contributions.as_json(),
            "clusters": self.clusters,
            "verdict": self.verdict,
            "sample": self.sample or None,
            "recording": self.recording,
            "runbooks": list(self.runbooks),
            "notes": [*self.notes, *self.closing()],
        }

    def _nothing_restored(self) -> Json:
        return {"restored": 0, "restored_usd": 0.0, "not_restored": {}, "liquidations": self.having.liquidations}

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
            *([*self._contribution_lines(), ""] if self._contribution_lines() else []),
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
            lines.extend(f"    {action.as_text()}" for action in episode.actions)
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
        split, restored = self.difference, self.difference_restored
        lines = [
            f"the runbooks came to {split.without_direction_usd:+,.2f} USD without direction"
            f" ({split.without_direction_at_3x_costs_usd:+,.2f} at 3x costs)",
            f"  funding {split.funding_usd:+,.2f} | fees and slippage {split.fees_and_slippage_usd:+,.2f}"
            f" | liquidation avoided {split.liquidation_avoided_usd:+,.2f}",
            f"  and {split.direction_usd:+,.2f} of direction: what prices did to the size they had shrunk, luck unless shown otherwise",
            "",
            f"{'WITH less WITHOUT, USD':<32}{'restore: never':>20}{'restore: on_clear':>20}",
        ]
        lines += [f"{name:<32}{signed(never):>20}{signed(cleared):>20}" for name, never, cleared in split_table(split, restored)]
        if self.restored is not None:
            lines += [f"  {line}" for line in self.restored.lines()]
        return lines

    def _contribution_lines(self) -> list[str]:
        found = self.contributions
        if found is None or not found.acted:
            return []
        lines = [
            f"{found.summary}",
            f"  {'run':<64}{'contributed, USD':>18}{'at 3x costs':>14}{'its costs':>12}",
        ]
        for run in found.runs:
            name = run.run_id if len(run.run_id) < 64 else f"...{run.run_id[-60:]}"
            figures = f"{signed(run.split.without_direction_usd):>18}{signed(run.split.without_direction_at_3x_costs_usd):>14}"
            lines.append(f"  {name:<64}{figures}{run.cost_usd:>12,.2f}{'  FALSE ALARM' if run.false_alarm else ''}")
        return [*lines, f"  {found.note}"] if found.note else lines


def split_table(never: Difference, cleared: Difference) -> list[tuple[str, float, float]]:
    """The difference for people, a row a figure: (name, as it came, had the owner restored); the headline first, then its parts."""
    return [
        ("without direction", never.without_direction_usd, cleared.without_direction_usd),
        ("  funding", never.funding_usd, cleared.funding_usd),
        ("  fees and slippage", never.fees_and_slippage_usd, cleared.fees_and_slippage_usd),
        ("  liquidation avoided", never.liquidation_avoided_usd, cleared.liquidation_avoided_usd),
        ("without direction, at 3x costs", never.without_direction_at_3x_costs_usd, cleared.without_direction_at_3x_costs_usd),
        ("direction", never.direction_usd, cleared.direction_usd),
        ("profit", never.pnl_usd, cleared.pnl_usd),
    ]


def signed(value: float) -> str:
    """`+1,234.50`, `-0.10`, `0.00`: USD with its sign, no sign before a zero."""
    rounded = round(value, 2) + 0.0
    return f"{rounded:+,.2f}" if rounded else "0.00"
