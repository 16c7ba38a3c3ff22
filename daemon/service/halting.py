"""The halt flag (floor 7): a file that says nothing may be sent; it counts before the engine has heard of it, and at every start.

    flag = HaltFlag(Path("var/halt")); flag.set("ana: maintenance at the venue"); flag.text()  # why; empty when nothing stands
"""

from __future__ import annotations

import os
from pathlib import Path

REASON_CHARS_MAX = 200
Mark = tuple[int, int]  # real ns since 1970, and how often this process had set the flag
TEXT_BYTES_MAX = 4_096  # of the file that are read: a person's line, not a log


class HaltFlag:
    """The file itself; any thread and any process may set it. Where it cannot be written, this process remembers the halt (`held`)."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._sets = 0
        self.held = ""  # why this process is halted although the file could not be written; lost with the process

    def there(self) -> bool:
        """True while the file is there, or the halt is held in memory."""
        return bool(self.held) or self.path.exists()

    def text(self) -> str:
        """Why nothing may be sent, empty when it may. A flag that cannot be read counts as set."""
        if self.held:
            return f"halted in memory, {self.path} cannot be written: {self.held}"
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
        self._sets += 1
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())
        _sync(self.path.parent)

    def hold(self, reason: str) -> None:
        """Halt this process alone: for when the file cannot be written."""
        self._sets += 1
        self.held = " ".join(reason.split())[:REASON_CHARS_MAX] or "no reason given"

    def mark(self, now_ns: int) -> Mark:
        """This moment, for `remove`; `now_ns` is real ns since 1970."""
        return now_ns, self._sets

    def remove(self, *, asked: Mark | None = None) -> bool:
        """Take it away; False when it stays because it was set after the moment `asked`, by this process or another: a resume does not
        undo a halt that came after it. It may be gone already. Raises OSError when it cannot be removed."""
        try:
            if asked is not None and (self._sets != asked[1] or self.path.stat().st_mtime_ns > asked[0]):
                return False
        except FileNotFoundError:
            pass
        self.held = ""
        self.path.unlink(missing_ok=True)
        _sync(self.path.parent)
        return True


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
