"""What a world takes for granted, said for people (floor 5): every section of its file with its numbers and their source."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import BaseModel

from daemon.simulation.stress.report import RestsOn
from daemon.simulation.stress.worldfile import WorldSpec
from daemon.units import NS, show_duration

DURATIONS = ("typical", "p95", "tail", "by", "to", "half_life", "block", "block_time", "finality", "smoothing", "restart_stale", "gate")
USD = ("depth", "tx_cost")
PER_DAY = ("rate", "exponential")
PLAIN = ("jump_factor", "dof", "response", "decay", "gas_price", "tx_per_block", "mean_block")


def grounds(world: WorldSpec) -> tuple[RestsOn, ...]:
    """Every section that states a source, in the file's order."""
    return tuple(_sections(world, "", ""))


def _sections(part: BaseModel, where: str, above: str) -> Iterator[RestsOn]:
    """A section without a source of its own rests on that of the one it stands in."""
    said = getattr(part, "source", "") or above
    if said:
        yield RestsOn(where, ", ".join(_numbers(part)), said)
    for name in type(part).model_fields:
        value = getattr(part, name)
        key = f"{where}.{name}" if where else name
        if isinstance(value, BaseModel):
            yield from _sections(value, key, said)
        elif isinstance(value, dict):
            for inner, entry in value.items():
                if isinstance(entry, BaseModel):
                    yield from _sections(entry, f"{key}.{inner}", said)


def _numbers(part: BaseModel) -> Iterator[str]:
    """The numbers that stand in a section itself, each in its unit; what is as by default is left out."""
    for name in sorted(part.model_fields_set):
        value = getattr(part, name)
        if name == "source" or isinstance(value, BaseModel):
            continue
        if isinstance(value, dict):
            inner = [f"{key} {_shown(name, entry)}" for key, entry in value.items() if isinstance(entry, int | float)]
            if inner:
                yield f"{name}: {', '.join(inner)}"
        elif isinstance(value, int | float):
            yield f"{name} {_shown(name, value)}"


def _shown(name: str, value: float) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if name in DURATIONS:
        return show_duration(value / NS)
    if name in USD:
        return f"{value:,.0f} USD"
    if name in PER_DAY:
        return f"{value * 24:.3g} a day"
    if name in PLAIN:
        return f"{value:g}"
    return f"{value:.4g}" if abs(value) > 20 else f"{100 * value:.4g}%"
