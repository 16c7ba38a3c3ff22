"""`reefd sim` (floor 9): serves a simulated venue until it is stopped."""

from __future__ import annotations

import signal
import sys
import threading
import time
from pathlib import Path
from types import FrameType

from daemon.errors import RunbookError, UserError
from daemon.simulation.scenario import load_scenario
from daemon.simulation.world import World
from daemon.units import iso
from daemon.web.listening import bind
from daemon.web.sim import SimulatedVenue, VenueClock, server

SPEED_MAX = 10_000.0


def sim(scenario: Path, *, port: int, host: str = "127.0.0.1", speed: float = 1.0, seed: int | None = None) -> int:
    """Serves the venue of a scenario file over HTTP until SIGINT or SIGTERM; returns 0.

    1 when the scenario has mistakes; 2 when the file is missing, or speed, seed, host or port cannot be used.
    """
    try:
        if not 0 < speed <= SPEED_MAX:
            raise UserError(f"the speed is above 0 and at most {SPEED_MAX:g}, found {speed:g}; write for example --speed 60")
        if seed is not None and seed < 0:
            raise UserError(f"the seed is a whole number from 0 on, found {seed}")
        world_spec = load_scenario(scenario)
        listener = bind(host, port)
    except RunbookError as error:
        print(error, file=sys.stderr)
        return 1
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    with listener:
        started = world_spec.started_ns(time.time_ns())
        world = World(world_spec, seed=world_spec.seed if seed is None else seed, started_ns=started)
        venue = SimulatedVenue(world=world, clock=VenueClock(started_ns=started, speed=speed))
        address, bound = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        print(f"simulated venue '{world_spec.scenario}' at http://{shown}:{bound}/v4 (state API under /sim)")
        print(f"its clock: {iso(started)}, speed {speed:g}; seed {world.seed}; shocks: {len(world.shocks)}; stop with ctrl-c", flush=True)
        if threading.current_thread() is threading.main_thread():
            # The server re-raises what stopped it once it is down: being stopped is this command's normal end.
            signal.signal(signal.SIGTERM, _stopped)
            signal.signal(signal.SIGINT, _stopped)
        server(venue).run(sockets=[listener])
    return 0


def _stopped(signal_number: int, frame: FrameType | None) -> None:
    """Nothing more to do: the server has shut down."""
