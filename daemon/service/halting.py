"""The halt flag (floor 7): a file that says nothing may be sent; it counts before the engine has heard of it, and at every start.

    flag = HaltFlag(Path("var/halt")); flag.set("ana: maintenance at the venue"); flag.text()  # why; empty when nothing stands
"""

from __future__ import annotations

import os
from pathlib import Path

REASON_CHARS_MAX = 200
TEXT_BYTES_MAX = 4_096  # of the file that are read: a person's line, not a log


class HaltFlag:
    """The file itself; any thread and any process may set it."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def there(self) -> bool:
        """True while the file is there."""
        return self.path.exists()

    def text(self) -> str:
        """Why nothing may be sent, empty when it may. A flag that cannot be read counts as set."""
        try:
            with self.path.open("rb") as file:
                text = file.read(TEXT_BYTES_MAX).decode(errors="replace").strip()
        except FileNotFoundError:
            return ""
        except OSError as error:
            return f"the halt flag {self.path} cannot be read ({error.strerror})"
        return f"halted by {self.path}{': ' + text.splitlines()[0][:REASON_CHARS_MAX] if text else ''}"

    def set(self, reason: str) -> None:
        """Set it, on disk when this returns; one that stands keeps its first line. Raises OSError when it cannot be written."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        line = " ".join(reason.split())[:REASON_CHARS_MAX] + "\n"
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        _sync(self.path.parent)

    def remove(self) -> None:
        """Take it away; it may be gone already. Raises OSError when it cannot be removed."""
        self.path.unlink(missing_ok=True)
        _sync(self.path.parent)


def _sync(folder: Path) -> None:
    """Makes a name that came or went survive a power cut."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        return
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
