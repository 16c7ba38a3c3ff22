"""A scenario played with runbooks beside the same scenario left alone (floor 5): figures, each act and why, as JSON or text.

    ordeal = Ordeal(scenario=scenario, seed=7, having=play(...), lacking=play_alone(...))
    ordeal.as_json()       # the shape of `reefd scenario run --format json`; nothing in it depends on the wall clock
    ordeal.as_text()
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from pydantic import BaseModel

from daemon.simulation.episode import Episode, EpisodeAction
from daemon.simulation.scenario import PriceMove, Scenario
from daemon.simulation.theatre import Course, Remark
from daemon.simulation.toll import Blow, Json
from daemon.units import FOREVER, NS, iso, show, show_duration

# Rows of the table: (figure, what it is called, its unit).
ROWS = (
    ("liquidations", "liquidations", "1"),
    ("liquidation_loss_usd", "lost to them", "USD"),
    ("external_closes", "closed by others (ADL, by hand)", "1"),
    ("pnl_usd", "profit and loss", "USD"),
    ("margin_ratio_max", "margin ratio, highest", "ratio"),
    ("margin_ratio_end", "margin ratio at the end", "ratio"),
    ("equity_min_usd", "equity, lowest", "USD"),
    ("equity_end_usd", "equity at the end", "USD"),
    ("fees_usd", "trading fees", "USD"),
    ("transfer_fees_usd", "transfer fees", "USD"),
    ("funding_usd", "funding (> 0 received)", "USD"),
    ("in_flight_usd", "on its way at the end", "USD"),
    ("stuck_usd", "stuck at the end", "USD"),
    ("buffers_end_usd", "buffers at the end", "USD"),
)
# Units of what shocks carry; what is not named is a duration (int), a name, or a plain number.
_RATIOS = ("level", "failure", "probability", "by", "spread", "initial_margin", "maintenance_margin")
_TO_UNITS = {"funding_spike": "rate/h", "gas_spike": "gwei", "thin_book": "ratio", "empty_blocks": "ratio", "route_capacity": "USD"}
_DURATIONS = ("over", "lasts", "to", "by", "p95", "stale_for")
_WORDS = {"lasts": "for"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Ordeal:
    """Both courses of a scenario and seed; `runbooks` are the ids in force, `notes` what else a reader has to know."""

    scenario: Scenario
    seed: int
    having: Course
    lacking: Course
    runbooks: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def broken(self) -> list[str]:
        """What is not as the scenario expects; empty when everything is, or nothing is expected."""
        fired = {episode.runbook for episode in self.having.episodes}
        did = {action.action for episode in self.having.episodes for action in episode.actions if took_effect(action)}
        return self.scenario.expect.broken(self.having.toll.figures(), self.lacking.toll.figures(), fired, did)

    # --- JSON -----------------------------------------------------------------------------------------------------------------------

    def as_json(self) -> Json:
        """The document that `reefd scenario run --format json` prints."""
        having, lacking = self.having.toll, self.lacking.toll
        return {
            "scenario": self.scenario.scenario,
            "title": self.scenario.title,
            "source": self.scenario.source,
            "confidence": self.scenario.confidence,
            "seed": self.seed,
            "started_at": iso(self.having.world.start_s * NS),
            "seconds_simulated": self.scenario.seconds,
            "runbooks": list(self.runbooks),
            "with": having.as_json(),
            "without": lacking.as_json(),
            "difference": {
                "pnl_usd": having.pnl_usd - lacking.pnl_usd,
                "liquidations": having.liquidations - lacking.liquidations,
                "liquidation_loss_usd": having.liquidation_loss_usd - lacking.liquidation_loss_usd,
            },
            "episodes": [self._episode(episode) for episode in self.having.episodes],
            "expected": {"met": not self.broken, "broken": self.broken},
            "notes": list(self.notes),
        }

    def _episode(self, episode: Episode) -> Json:
        return {
            "runbook": episode.runbook,
            "entity": episode.entity,
            "fired_at": iso(episode.fired_at),
            "fired_after_s": self._after(episode.fired_at),
            "cleared_at": None if episode.cleared_at is None else iso(episode.cleared_at),
            "why": list(episode.why),
            "outcome": episode.run_status,
            "runs": list(episode.run_lines()),
            "acts": [self._act(action) for action in episode.actions],
            "remarks": [
                {"at": iso(remark.at), "step": remark.step, "status": remark.status, "reason": remark.reason}
                for remark in self._remarks(episode)
            ],
        }

    def _act(self, action: EpisodeAction) -> Json:
        before, after = self._ratios(action)
        return {
            **action.as_json(),
            "asked": action.asked,
            "settled_at": self._settled(action),
            "arrived": self._arrival(action),
            "margin_ratio_before": before if math.isfinite(before) else None,
            "margin_ratio_after": after if math.isfinite(after) else None,
        }

    # --- what became of an act --------------------------------------------------------------------------------------------------------

    def _after(self, at: int) -> float:
        return (at - self.having.world.start_s * NS) / NS

    def _settled_ns(self, action: EpisodeAction) -> int:
        assert action.at is not None
        return max(action.at, self.having.settled_at.get(action.action_id, action.at))

    def _settled(self, action: EpisodeAction) -> str:
        return iso(self._settled_ns(action))

    def _effect_ns(self, action: EpisodeAction) -> int:
        """When an act showed in the margin: a transfer when it was credited, everything else when its outcome was known."""
        transfer = self.having.world.bridges.transfers.get(action.action_id)
        credited = transfer.credited_at if transfer is not None else None
        return self._settled_ns(action) if credited is None else credited

    def _ratios(self, action: EpisodeAction) -> tuple[float, float]:
        assert action.at is not None
        tally = self.having.tally
        return tally.ratio_at(action.at), tally.ratio_at(self._effect_ns(action))

    def _arrival(self, action: EpisodeAction) -> str | None:
        """What became of a transfer; None for everything else."""
        transfer = self.having.world.bridges.transfers.get(action.action_id)
        if transfer is None:
            return None
        if transfer.credited_at is not None:
            return f"credited after {show_duration((transfer.credited_at - transfer.requested_at) / NS)}"
        return transfer.status.lower()

    # --- text -----------------------------------------------------------------------------------------------------------------------

    def as_text(self) -> str:
        """The ordeal for people: what the world did and what the runbooks did about it, in order, then the figures."""
        scenario = self.scenario
        known = f"source: {scenario.source or 'none: it is made up'}; confidence: {scenario.confidence or 'not stated'}"
        lines = [
            f"{scenario.scenario}: {scenario.title}",
            f"{known}; seed {self.seed}, {show_duration(scenario.seconds)} of the world from {iso(self.having.world.start_s * NS)}",
            "",
            *(line for _, lines in sorted(self._timeline(), key=lambda item: item[0]) for line in lines),
            "",
            *self._table(),
            "",
            *(f"note: {note}" for note in self.notes),
            *self._verdict(),
        ]
        return "\n".join(lines)

    def _clock(self, at: int) -> str:
        """Time since the start: `0:31:05`."""
        minutes, seconds = divmod(int(self._after(at)), 60)
        return f"{minutes // 60}:{minutes % 60:02d}:{seconds:02d}"

    def _timeline(self) -> Iterator[tuple[int, list[str]]]:
        started, ended = self.having.world.start_s * NS, (self.having.world.start_s + self.scenario.seconds) * NS
        for shock in self.scenario.shocks:
            if shock.at <= self.scenario.seconds * NS:
                yield started + shock.at, [f"{self._clock(started + shock.at):>8}  WORLD    {describe_shock(shock)}"]
        for course, word in ((self.lacking, "WITHOUT"), (self.having, "WITH")):
            for blow in course.toll.blows:
                yield blow.at, [f"{self._clock(blow.at):>8}  {word:8} {describe_blow(blow)}"]
        for episode in self.having.episodes:
            yield min(episode.fired_at, ended), list(self._episode_lines(episode))

    def _episode_lines(self, episode: Episode) -> Iterator[str]:
        yield f"{self._clock(episode.fired_at):>8}  FIRES    {episode.runbook} on {episode.entity}, because"
        for line in episode.why:
            yield f"{'':21}{line}"
        told: list[tuple[int, list[str]]] = [(action.at or 0, list(self._act_lines(action))) for action in episode.actions]
        told += [(remark.at, [self._remark_line(remark)]) for remark in self._remarks(episode)]
        for _, lines in sorted(told, key=lambda item: item[0]):
            yield from lines
        for line in episode.run_groups():
            yield f"{'':19}{line}"
        cleared = "open at the end" if episode.cleared_at is None else f"{episode.ending} at {self._clock(episode.cleared_at)}"
        yield f"{'':19}{cleared}"

    def _act_lines(self, action: EpisodeAction) -> Iterator[str]:
        assert action.at is not None
        before, after = self._ratios(action)
        outcome = action.outcome + (f" ({action.reason})" if action.reason else "")
        if action.size is not None and action.price is not None:
            outcome += f", filled {action.size:,g} at {action.price:,g}"
        arrival = self._arrival(action)
        told = f"; {arrival}" if arrival else ""
        yield f"{self._clock(action.at):>8}    act    {action.action}: {action.asked}"
        yield f"{'':19}{outcome}{told}; margin ratio {show_ratio(before)} -> {show_ratio(after)}"

    def _remark_line(self, remark: Remark) -> str:
        return f"{self._clock(remark.at):>8}    step   {remark.step} {remark.status}{': ' if remark.reason else ''}{remark.reason}"

    def _remarks(self, episode: Episode) -> list[Remark]:
        """What there is to say of its runs' steps; the same again in a later run is said once."""
        found: dict[tuple[str, str, str], Remark] = {}
        runs = dict.fromkeys(episode.run_ids)
        for remark in self.having.remarks:
            if remark.run_id in runs:
                found.setdefault((remark.step, remark.status, remark.reason), remark)
        return list(found.values())

    def _table(self) -> Iterator[str]:
        having, lacking = self.having.toll.figures(), self.lacking.toll.figures()
        yield f"{'':32} {'WITH':>16} {'WITHOUT':>16}"
        for name, called, unit in ROWS:
            if having[name] or lacking[name] or name in ("liquidations", "pnl_usd"):
                yield f"{called:32} {_figure(having[name], unit):>16} {_figure(lacking[name], unit):>16}"
        first, alone = self.having.toll.liquidated_at, self.lacking.toll.liquidated_at
        if first is not None or alone is not None:
            shown = ["never" if at is None else self._clock(at) for at in (first, alone)]
            yield f"{'first liquidated after':32} {shown[0]:>16} {shown[1]:>16}"
        better = having["pnl_usd"] - lacking["pnl_usd"]
        yield ""
        yield f"the runbooks {'saved' if better >= 0 else 'cost'} {show(abs(better), 'USD')}{self._lead()}"

    def _lead(self) -> str:
        """How long before the liquidation without them the first episode fired."""
        alone = self.lacking.toll.liquidated_at
        first = min((episode.fired_at for episode in self.having.episodes), default=FOREVER)
        if alone is None or first >= alone:
            return ""
        return f"; the first of them fired {show_duration((alone - first) / NS)} before the liquidation without them"

    def _verdict(self) -> Iterator[str]:
        broken = self.broken
        for problem in broken:
            yield f"NOT AS EXPECTED: {problem}"
        if not broken and self.scenario.expect != type(self.scenario.expect)():
            yield "as expected"


def took_effect(action: EpisodeAction) -> bool:
    """True when an act changed something: done, and for an order filled in part at least."""
    return action.outcome == "done" and action.size != 0.0


def _figure(value: float, unit: str) -> str:
    if unit == "ratio":
        return show_ratio(value)
    return f"{value:,.2f}" if unit == "USD" else f"{value:,g}"


def show_ratio(value: float) -> str:
    """A margin ratio as a trader reads it; beyond measure once equity is used up."""
    return f"{value * 100:.1f}%" if math.isfinite(value) else "equity used up"


def describe_blow(blow: Blow) -> str:
    """Something that the world did to an account, in a few words."""
    what = f"{blow.size:,g} {blow.market}" if blow.size == blow.size else f"{blow.market} markets"
    price = f" at {blow.price:,g}" if blow.price == blow.price else ""
    fills = f" in {blow.fills} fills over {show_duration((blow.until - blow.at) / NS)}" if blow.fills > 1 else ""
    cause = f" ({blow.cause})" if blow.cause else ""
    return f"{blow.kind.replace('_', ' ')}{cause}: {what}{price}{fills}, {show(blow.loss_usd, 'USD')} lost by it"


def describe_shock(shock: BaseModel) -> str:
    """A shock of a scenario in a few words: `price_move BTC-USD by -4% over 5m`."""
    kind = str(getattr(shock, "kind", ""))
    subject = [str(getattr(shock, name)) for name in ("market", "chain", "route") if getattr(shock, name, None) is not None]
    last = ("over", "lasts")
    names = [name for name in type(shock).model_fields if name not in ("kind", "at", "market", "chain", "route", *last)]
    parts = [kind, *subject]
    for name in (*names, *(name for name in last if name in type(shock).model_fields)):
        value = getattr(shock, name)
        if value is None:
            continue
        word = _WORDS.get(name, name.replace("_", " "))
        if isinstance(value, bool) or not isinstance(value, int | float):
            parts.append(f"{word} {value}")
        elif isinstance(value, int):
            parts.append(f"{word} {show_duration(value / NS)}" if name in _DURATIONS else f"{word} {value}")
        else:
            unit = _TO_UNITS.get(kind, "1") if name == "to" else ("ratio" if name in _RATIOS else "1")
            parts.append(f"{word} {show(value, unit)}")
    back = " and back" if isinstance(shock, PriceMove) and shock.lasts is not None else ""
    return " ".join(parts) + back
