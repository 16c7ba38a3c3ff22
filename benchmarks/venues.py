"""Virtual environments of peers that want their own: made once under benchmarks/out/, versions pinned.

nautilus_trader and hftbacktest also model orders, queues and fills: a ratio to them compares different amounts of work.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PINNED = {"nautilus": "nautilus_trader==1.221.0", "hftbacktest": "hftbacktest==2.4.4"}


def interpreter(peer: str, out: Path) -> Path | str:
    """The interpreter of a peer's environment, made and filled when it is not there; what went wrong, as text, when it cannot be."""
    folder = out / f"venv-{peer}"
    python = folder / ("Scripts" if sys.platform == "win32" else "bin") / "python"
    ready = folder / f".{PINNED[peer].replace('==', '-')}"
    if ready.exists():
        return python
    for words in (
        (sys.executable, "-m", "venv", "--clear", str(folder)),
        (str(python), "-m", "pip", "--disable-pip-version-check", "--no-input", "install", "--quiet", PINNED[peer]),
    ):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            return f"{PINNED[peer]} cannot be installed: {last}"
    ready.touch()
    return python
