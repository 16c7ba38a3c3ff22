"""What became of one firing of a trigger (floor 5): its runs, its actions, and how many independent cases several of them are.

    clusters(episodes)      # episodes of one market within a day, or of several within an hour, are one case
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, zip_longest

from daemon.language.explain import describe
from daemon.simulation.outturn import Json
from daemon.units import DAY_NS, FOREVER, HOUR_NS, iso

WHY_LINES_MAX = 40  # of an explanation: enough for any trigger that a person wrote


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
    run_id: str = ""
    market: str = ""  # of an order
    action_id: str = ""
    asked: str = ""  # what was asked for, in a few words

    def as_json(self) -> Json:
        """The action as `reefd replay` prints it."""
        return {
            "action": self.action, "outcome": self.outcome, "size": self.size, "notional_usd": self.notional_usd, "price": self.price,
            "at": None if self.at is None else iso(self.at), "reason": self.reason, "run": self.run_id,
            "market": self.market or None,
        }  # fmt: skip

    def as_text(self) -> str:
        """The action for people, on one line."""
        parts = [f"{iso(self.at)} " if self.at is not None else "", self.action, " ", self.outcome]
        if self.size is not None:
            parts.append(f" {self.size:,g}")
        if self.price is not None:
            parts.append(f" at {self.price:,g}")
        if self.notional_usd is not None:
            parts.append(f" ({self.notional_usd:,.2f} USD)")
        if self.reason:
            parts.append(f": {self.reason}")
        return "".join(parts)


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
    id: str = ""
    ending: str = ""  # cleared | gone | reset; empty while it is open
    trace: object = None  # the evaluation that made it fire, as its record holds it
    run_ids: tuple[str, ...] = ()

    @property
    def why(self) -> tuple[str, ...]:
        """Why the trigger held, one line a reading, indented by depth; empty where the record kept no trace."""
        if self.trace is None:
            return ()
        lines = describe(self.trace, depth=0)
        more = len(lines) - WHY_LINES_MAX
        return tuple(lines if more <= 0 else [*lines[:WHY_LINES_MAX], f"and {more} more lines: reefd explain"])

    @property
    def run_status(self) -> str | None:
        """How the last run ended that was not skipped or blocked, else how the last one did; None without a run."""
        tried = [status for status in self.run_statuses if status not in ("skipped", "blocked")]
        ended = tried or self.run_statuses
        return ended[-1] if ended else None

    def _runs(self) -> Iterator[tuple[str, str]]:
        return zip_longest(self.run_statuses, self.run_reasons, fillvalue="")

    def run_groups(self) -> Iterator[str]:
        """As `run_lines`, with runs in a row that ended alike on one line."""
        first = 1
        for (status, reason), group in groupby(self._runs()):
            last = first + sum(1 for _ in group) - 1
            name = f"run {first}" if first == last else f"runs {first} to {last}"
            yield f"{name} {status}{': ' if reason else ''}{reason}"
            first = last + 1
        for status, reason in self.clear_runs:
            yield f"clear run {status}{': ' if reason else ''}{reason}"

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
            "ending": self.ending or None,
            "run_status": self.run_status,
            "runs": [
                *({"status": status, "reason": reason, "on_clear": False} for status, reason in self._runs()),
                *({"status": status, "reason": reason, "on_clear": True} for status, reason in self.clear_runs),
            ],
            "actions": [action.as_json() for action in self.actions],
            "why": list(self.why),
        }


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
