"""Where what reefd ships lies, and what a process that plays inherits (floor 9)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from daemon.errors import UserError

OURS = "REEFD_"  # variables of this prefix are settings, and come before the settings' file


def own_environment(more: Mapping[str, str]) -> dict[str, str]:
    """The environment of a process that plays (a demo, a drill): without the settings of the house that this machine may be, with
    `more`. A drill that inherited the house's halt file would take a real halt away."""
    return {**{name: value for name, value in os.environ.items() if not name.upper().startswith(OURS)}, **more}


def shipped(name: str, verb: str = "demo") -> Path:
    """A file or folder of the working directory, else of the checkout that this package was installed from. Raises UserError."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / name).exists():
            return root / name
    raise UserError(f"{name} is not here; run reefd {verb} in a checkout of reefd")
