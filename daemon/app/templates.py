"""`reefd new`: a runbook from a template, with its tests (floor 9)."""

from __future__ import annotations

import os
import sys
from datetime import UTC, datetime
from pathlib import Path

from daemon.errors import UserError
from daemon.runbook.templates import Place, id_of, instantiate, template_names, template_says

_SCHEMA = Path("config/schema/runbook.json")


def new(template: str | None, *, listed: bool, out: Path | None) -> int:
    """List the templates, or write one to a file that must not exist yet; 0. Raises UserError for anything else."""
    names = template_names()
    if listed:
        width = max(len(name) for name in names)
        for name in names:
            sys.stdout.write(f"{name:<{width}}  {template_says(name)}\n")
        return 0
    if template is None:
        raise UserError(f"no template was named; write reefd new {names[0]}, or reefd new --list")
    if template not in names:
        raise UserError(f"there is no template '{template}'; templates are {', '.join(names)}")
    path = out if out is not None else Path(f"{template}.yaml")
    if path.is_dir():
        path = path / f"{template}.yaml"
    runbook = id_of(path.stem)
    if path.suffix not in (".yaml", ".yml") or not runbook:
        raise UserError(f"{path}: a runbook is a file such as {template}.yaml, its id of a-z, 0-9 and '-'; write --out {template}.yaml")
    schema = Path(os.path.relpath(_SCHEMA, path.parent)).as_posix() if _SCHEMA.is_file() else ""
    today = datetime.now(UTC).date().isoformat()
    text = instantiate(template, Place(runbook=runbook, day=today, schema=schema))
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise UserError(f"{path} exists and is not overwritten; write --out and another name") from None
    except FileNotFoundError:
        raise UserError(f"{path}: there is no folder {path.parent}; make it first") from None
    sys.stdout.write(f"{path}: the runbook '{runbook}' from the template {template}; next: reefd check {path} && reefd test {path}\n")
    return 0
