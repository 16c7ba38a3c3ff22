"""Where what reefd ships lies (floor 9)."""

from __future__ import annotations

from pathlib import Path

from daemon.errors import UserError


def shipped(name: str, verb: str = "demo") -> Path:
    """A file or folder of the working directory, else of the checkout that this package was installed from. Raises UserError."""
    for root in (Path.cwd(), Path(__file__).resolve().parents[2]):
        if (root / name).exists():
            return root / name
    raise UserError(f"{name} is not here; run reefd {verb} in a checkout of reefd")
