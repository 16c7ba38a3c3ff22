"""Two versions of runbooks over one history (floor 5): what one did and the other did not, and what the difference came to.

    contrast = Contrast(old=before.log.episodes(), new=after.log.episodes(), having_old=..., having_new=..., lacking=...)
    contrast.pairs          # episodes of one runbook and entity that overlap in time, beside each other
    contrast.divergence     # the first moment at which the two differ
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from daemon.simulation.episode import Episode, EpisodeAction
from daemon.simulation.outturn import Outturn, difference
from daemon.units import FOREVER, iso, show

SHOWN_MAX = 30  # changes that a person reads; JSON has all of them
Json = dict[str, object]
Kind = Literal["added", "removed", "changed", "same"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """An episode of the old runbooks beside the one of the new that overlaps it; None where there is none."""

    old: Episode | None
    new: Episode | None

    @property
    def any(self) -> Episode:
        """Whichever there is, the new one first."""
        found = self.new or self.old
        assert found is not None
        return found

    @property
    def kind(self) -> Kind:
        """Whether the new version added it, removed it, changed it, or neither."""
        if self.old is None:
            return "added"
        if self.new is None:
            return "removed"
        return "changed" if any(True for _ in self.changes()) else "same"

    def changes(self) -> Iterator[tuple[int, str]]:
        """(when, what) differs between the two, in order of time."""
        if self.old is None or self.new is None:
            return
        old, new = self.old, self.new
        found: list[tuple[int, str]] = []
        if old.fired_at != new.fired_at:
            found.append((min(old.fired_at, new.fired_at), f"fired {iso(old.fired_at)} -> {iso(new.fired_at)}"))
        if old.cleared_at != new.cleared_at:
            at = min(_end(old), _end(new))
            found.append((at, f"cleared {_when(old.cleared_at)} -> {_when(new.cleared_at)}"))
        if old.run_statuses != new.run_statuses:
            at = max(old.fired_at, new.fired_at)
            found.append((at, f"runs {', '.join(old.run_statuses) or 'none'} -> {', '.join(new.run_statuses) or 'none'}"))
        for before, after in _side_by_side(old.actions, new.actions):
            at = min(action.at for action in (before, after) if action is not None and action.at is not None)
            found.append((at, f"{_action(before)} -> {_action(after)}"))
        yield from sorted(found, key=lambda item: item[0])

    @property
    def since(self) -> int:
        """When the two begin to differ; FOREVER when they do not."""
        if self.old is None or self.new is None:
            return self.any.fired_at
        return next((at for at, _ in self.changes()), FOREVER)

    def as_json(self) -> Json:
        """The pair as `reefd diff` prints it."""
        return {
            "kind": self.kind, "runbook": self.any.runbook, "entity": self.any.entity,
            "old": None if self.old is None else self.old.as_json(), "new": None if self.new is None else self.new.as_json(),
            "changes": [{"at": iso(at), "what": what} for at, what in self.changes()],
        }  # fmt: skip


def _side_by_side(
    old: Sequence[EpisodeAction], new: Sequence[EpisodeAction]
) -> Iterator[tuple[EpisodeAction | None, EpisodeAction | None]]:
    """Actions that differ, by their number within the episode."""
    for number in range(max(len(old), len(new))):
        before, after = (actions[number] if number < len(actions) else None for actions in (old, new))
        if _plain(before) != _plain(after) and any(action is not None and action.at is not None for action in (before, after)):
            yield before, after


def _plain(action: EpisodeAction | None) -> EpisodeAction | None:
    """An action without the number of its run, which counts episodes that the other version may not have had."""
    return None if action is None else replace(action, run_id="")


def _action(action: EpisodeAction | None) -> str:
    if action is None:
        return "nothing"
    size = f" {action.size:,g}" if action.size is not None else ""
    usd = f" ({action.notional_usd:,.2f} USD)" if action.notional_usd is not None else ""
    return f"{action.action} {action.outcome}{size}{usd}"


def _when(at: int | None) -> str:
    return "still open" if at is None else iso(at)


def _end(episode: Episode) -> int:
    return FOREVER if episode.cleared_at is None else episode.cleared_at


def matched(old: Sequence[Episode], new: Sequence[Episode]) -> tuple[Pair, ...]:
    """Episodes of one runbook and entity side by side where their times overlap, each at most once, by the time of the first of the two."""
    waiting: dict[tuple[str, str], list[Episode]] = {}
    for episode in sorted(old, key=lambda episode: episode.fired_at):
        waiting.setdefault((episode.runbook, episode.entity), []).append(episode)
    pairs = []
    for episode in sorted(new, key=lambda episode: episode.fired_at):
        before = waiting.get((episode.runbook, episode.entity), [])
        found = next((other for other in before if other.fired_at <= _end(episode) and episode.fired_at <= _end(other)), None)
        if found is not None:
            before.remove(found)
        pairs.append(Pair(old=found, new=episode))
    pairs += [Pair(old=episode, new=None) for rest in waiting.values() for episode in rest]
    return tuple(sorted(pairs, key=lambda pair: (_first(pair), pair.any.runbook, pair.any.entity)))


def _first(pair: Pair) -> int:
    return min(episode.fired_at for episode in (pair.old, pair.new) if episode is not None)


@dataclass(frozen=True, kw_only=True)
class Contrast:
    """Both versions over the same rows and account; `why` explains the first divergence, line by line."""

    old: tuple[Episode, ...]
    new: tuple[Episode, ...]
    having_old: Outturn
    having_new: Outturn
    lacking: Outturn
    why: tuple[str, ...] = ()
    notes: tuple[str, ...] = field(default_factory=tuple)

    @cached_property
    def pairs(self) -> tuple[Pair, ...]:
        """Every episode of both, matched."""
        return matched(self.old, self.new)

    @property
    def different(self) -> tuple[Pair, ...]:
        """The pairs that are not the same."""
        return tuple(pair for pair in self.pairs if pair.kind != "same")

    @property
    def divergence(self) -> Pair | None:
        """The pair that differs first; None when the two behave alike."""
        return min(self.different, key=lambda pair: (pair.since, pair.any.runbook, pair.any.entity), default=None)

    def figures(self) -> tuple[tuple[str, float | None, float | None], ...]:
        """(name, old, new) of what both came to: profit, the headline against WITHOUT, and how it was reached."""
        before, after = difference(self.having_old, self.lacking), difference(self.having_new, self.lacking)
        return (
            ("pnl_usd", self.having_old.pnl_usd, self.having_new.pnl_usd),
            ("without_direction_usd", before.without_direction_usd, after.without_direction_usd),
            ("without_direction_at_3x_costs_usd", before.without_direction_at_3x_costs_usd, after.without_direction_at_3x_costs_usd),
            ("liquidations", float(self.having_old.liquidations), float(self.having_new.liquidations)),
            ("turnover_usd", self.having_old.turnover_usd, self.having_new.turnover_usd),
            ("margin_ratio_max", self.having_old.margin_ratio_max, self.having_new.margin_ratio_max),
            ("episodes", float(len(self.old)), float(len(self.new))),
            ("runs", float(_runs(self.old)), float(_runs(self.new))),
        )

    def as_json(self) -> Json:
        """The document that `reefd diff --format json` prints."""
        first = self.divergence
        return {
            "same": not self.different,
            "episodes": [pair.as_json() for pair in self.different],
            "figures": {
                name: {"old": old, "new": new, "change": None if old is None or new is None else new - old}
                for name, old, new in self.figures()
            },
            "first_divergence": None if first is None else {
                "at": iso(first.since), "kind": first.kind, "runbook": first.any.runbook, "entity": first.any.entity, "why": list(self.why),
            },
            "notes": list(self.notes),
        }  # fmt: skip

    def as_text(self) -> str:
        """The same for people."""
        if not self.different:
            count = len(self.new)
            return "\n".join((f"no difference: {count} episode{'' if count == 1 else 's'}, the same in both", *self.notes))
        kinds = [pair.kind for pair in self.different]
        lines = [", ".join(f"{kinds.count(kind)} {kind}" for kind in ("added", "removed", "changed") if kind in kinds)]
        for pair in self.different[:SHOWN_MAX]:
            lines.append(f"{_SIGNS[pair.kind]} {pair.any.runbook} on {pair.any.entity}: {self._told(pair)}")
            lines += [f"    {what}" for _, what in pair.changes()]
        if len(self.different) > SHOWN_MAX:
            lines.append(f"and {len(self.different) - SHOWN_MAX} more; --format json has them all")
        lines += ["", f"{'':<36}{'OLD':>16}{'NEW':>16}{'CHANGE':>16}"]
        for name, old, new in self.figures():
            change = None if old is None or new is None else new - old
            lines.append(f"{name:<36}{_figure(name, old):>16}{_figure(name, new):>16}{_figure(name, change, sign=True):>16}")
        first = self.divergence
        if first is not None and self.why:
            lines += ["", f"first divergence at {iso(first.since)}: {first.any.runbook} on {first.any.entity}, {first.kind}", *self.why]
        return "\n".join([*lines, *(["", *self.notes] if self.notes else [])])

    @staticmethod
    def _told(pair: Pair) -> str:
        episode = pair.any
        ended = "still open" if episode.cleared_at is None else f"cleared {iso(episode.cleared_at)}"
        acts = "; ".join(_action(action) for action in episode.actions)
        if pair.kind == "changed":
            return "changed"
        return f"fired {iso(episode.fired_at)}, {ended}, runs {', '.join(episode.run_statuses) or 'none'}{f', {acts}' if acts else ''}"


_SIGNS: dict[Kind, str] = {"added": "+", "removed": "-", "changed": "~", "same": " "}


def _runs(episodes: Sequence[Episode]) -> int:
    return sum(len(episode.run_statuses) for episode in episodes)


def _figure(name: str, value: float | None, *, sign: bool = False) -> str:
    if value is None:
        return "not given"
    plus = "+" if sign and value > 0 else ""
    if name == "margin_ratio_max":
        return plus + show(value, "ratio")
    return plus + (f"{value + 0.0:,.2f}" if name.endswith("_usd") else f"{value:,.0f}")
