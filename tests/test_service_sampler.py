"""What charts are drawn from: instances take turns within a budget, accounts every five seconds, and nothing of the engine changes."""

from __future__ import annotations

from engine_world import ACCOUNT, POSITION, World, runbook

from daemon.service.sampler import TRIGGER, Sampler
from daemon.service.tracks import Tracks
from daemon.units import NS
from daemon.world.entities import Kind


def test_sampler_keeps_what_a_trigger_compares_with_its_bounds_and_the_figures_of_accounts() -> None:
    world = World(runbook(until="funding_rate < 0.01%/h"), readings={(Kind.ACCOUNT, ACCOUNT, "collateral"): 10_000.0})
    tracks = Tracks()
    sampler = Sampler(engine=world.engine, tracks=tracks)
    for rate in (0.0002, 0.0003):
        world.until(world_seconds(world) + 10, funding_rate=rate)
        sampler.turn(world.now)
    (series,) = tracks.series(TRIGGER, f"spike/{POSITION}")
    assert series.name == "funding_rate"
    assert series.values == (0.0002, 0.0003)
    assert (series.threshold, series.clears) == (0.0005, 0.0001)
    assert {found.name for found in tracks.series(Kind.ACCOUNT.value, ACCOUNT)} >= {"equity", "margin_ratio", "survivable_move"}


def test_sampler_goes_round_all_instances_however_small_its_budget_is() -> None:
    world = World(runbook(), runbook(name="second"))
    world.until(5)
    ticks = iter(range(0, 10**12, 10**9))  # every look at the clock is a second later: the budget is used up by one instance
    tracks = Tracks()
    sampler = Sampler(engine=world.engine, tracks=tracks, monotonic_ns=lambda: next(ticks))
    before = world.engine.checkpoint()
    seen = []
    for _ in range(4):
        sampler.turn(world.now)
        seen.append([len(tracks.series(TRIGGER, f"{name}/{POSITION}")) for name in ("spike", "second")])
        world.now += 6 * NS
    assert sorted(seen[0]) == [0, 1]
    assert seen[1] == [1, 1]
    assert world.engine.checkpoint() == before


def world_seconds(world: World) -> int:
    """Seconds since the world began."""
    return (world.now - 1_700_000_000 * NS) // NS
