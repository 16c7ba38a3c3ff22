"""`reefd fmt`: runbooks in their canonical form (floor 9)."""

from __future__ import annotations

import difflib
import os
import stat
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon.errors import RunbookError, UserError
from daemon.runbook.formatting import formatted
from daemon.runbook.load import runbook_files


def fmt(paths: Sequence[Path], *, check: bool) -> int:
    """Write every file that is not in canonical form anew, or with `check` print what would change.

    0 when everything is in form (or was written); 1 when `check` found something, or a file is no right runbook: that one is left as it is.
    """
    files, problems = runbook_files(paths)
    lines = [problem.render() for problem in problems]
    changed = 0
    for path in files:
        try:
            raw = path.read_bytes()
            made = formatted(raw.decode("utf-8"), str(path)).encode()
        except RunbookError as error:
            lines.append(str(error))
            continue
        except UnicodeDecodeError:
            lines.append(f"{path}: not UTF-8; save the file as UTF-8")
            continue
        except OSError as error:
            raise UserError(f"{path}: {(error.strerror or str(error)).lower()}") from error
        if made == raw:
            continue
        changed += 1
        if check:
            sys.stdout.write(_difference(raw.decode("utf-8"), made.decode(), path))
        else:
            _replace(path, made)
            sys.stdout.write(f"formatted {path}\n")
    for line in lines:
        sys.stderr.write(line + "\n")
    total = f"{len(files)} file{'' if len(files) == 1 else 's'}"
    sys.stdout.write(f"{total}, {changed} {'to format' if check else 'formatted'}{f', {len(lines)} wrong' if lines else ''}\n")
    return int(bool(lines) or (check and changed > 0))


def _difference(old: str, new: str, path: Path) -> str:
    found = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"{path}", f"{path} (formatted)")
    return "".join(line if line.endswith("\n") else f"{line}\n\\ no line break at the end\n" for line in found)


def _replace(path: Path, content: bytes) -> None:
    """Write a file as a whole or not at all, with the permissions that it had; what a link names is written, not the link."""
    real = path.resolve()
    part = real.with_name(f".{real.name}.part")
    try:
        mode = stat.S_IMODE(real.stat().st_mode)
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.chmod(mode)
        part.replace(real)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; the file is as it was") from error
