"""Templates of runbooks (floor 3): `template_text("funding")`, a complete commented runbook with tests; `instantiate` fits it to a file.

They are package data beside this file. The first line of each is `# Template: ...`, what `reefd new --list` shows; the second names the
schema for editors; the third begins the comment that says why.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).resolve().parent
_FIRST = "# Template: "
_SCHEMA = "# yaml-language-server: $schema="


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a template is written: the runbook's id, the day (ISO), and the way from there to the format's schema ("" = none is near)."""

    runbook: str
    day: str
    schema: str = ""


def template_names() -> list[str]:
    """The names of all templates, sorted."""
    return sorted(path.stem for path in _FOLDER.glob("*.yaml"))


def _source(name: str) -> str:
    return (_FOLDER / f"{name}.yaml").read_text(encoding="utf-8")


def template_says(name: str) -> str:
    """What a template is for, in one line."""
    return _source(name).partition("\n")[0].removeprefix(_FIRST)


def template_text(name: str) -> str:
    """The runbook of a template, under the template's own name."""
    return _source(name).partition("\n")[2]


def id_of(stem: str) -> str:
    """The runbook id that a file name stands for: `My Runbook` is `my-runbook`; empty when nothing of it can be part of an id."""
    return re.sub(r"[^a-z0-9]+", "-", stem.lower()).strip("-")[:80].rstrip("-")


def instantiate(name: str, place: Place) -> str:
    """The text of a template at its place; its title begins with the id in words where that is another than the template's name."""
    first, _, text = template_text(name).partition("\n")
    assert first.startswith(_SCHEMA), f"the second line of {name}.yaml names the schema"
    text = re.sub(r"(?m)^(review: .*last: )\d{4}-\d\d-\d\d", rf"\g<1>{place.day}", text, count=1)
    if place.runbook != name:
        words = place.runbook.replace("-", " ")
        text = re.sub(r"(?m)^runbook: .*$", f"runbook: {place.runbook}", text, count=1)
        text = re.sub(r"(?m)^title: (.)", lambda m: f"title: {words[0].upper()}{words[1:]} - {m[1].lower()}", text, count=1)
    return f"{_SCHEMA}{place.schema}\n{text}" if place.schema else text
