"""Files to runbooks (floor 3): `load_paths([Path("runbooks")])` is every runbook, every error and every warning of all files.

Nothing here raises for a user's mistake: missing files, files that are no YAML, and runbooks that contradict each other are diagnostics.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from daemon.errors import Diagnostic, UserError
from daemon.runbook.document import BYTES_MAX, Document, compose
from daemon.runbook.fields import hint
from daemon.runbook.model import Runbook
from daemon.runbook.read import Draft, read_runbook
from daemon.runbook.warnings import of_runbook, of_set

FILES_MAX = 2_000
_SUFFIXES = (".yaml", ".yml")
_ID_LINE = re.compile(rb"^runbook:[ \t]*([a-z0-9][a-z0-9-]*)", re.MULTILINE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What a set of files gave: the runbooks without mistakes, and everything that is wrong or doubtful, in file order."""

    runbooks: tuple[Runbook, ...]
    errors: tuple[Diagnostic, ...]
    warnings: tuple[Diagnostic, ...]

    @property
    def ok(self) -> bool:
        """True when the whole set may be put in force."""
        return not self.errors


def _order(found: Iterable[Diagnostic]) -> tuple[Diagnostic, ...]:
    return tuple(sorted(found, key=lambda d: (d.file, d.line, d.column, d.code, d.message)))


def _check_ids(drafts: Sequence[Draft]) -> None:
    first: dict[str, Draft] = {}
    for draft in drafts:
        if draft.id is None or draft.id_node is None:
            continue
        other = first.setdefault(draft.id, draft)
        if other is not draft:
            message = f"the runbook id '{draft.id}' is used twice, first in {other.findings.document.path}; ids are unique over all files"
            draft.findings.error("E033", message, draft.id_node, "runbook")


def _check_references(drafts: Sequence[Draft], neighbours: frozenset[str]) -> None:
    """Ids named in other files exist; a survival runbook yields to survival runbooks only."""
    known = {draft.id: draft for draft in drafts if draft.id is not None}
    alone = len(drafts) == 1
    for draft in drafts:
        for reference in draft.references:
            target = known.get(reference.id)
            if target is None and reference.id not in neighbours:
                # A file checked on its own cannot know the rest of its set: doubtful, not wrong.
                near = hint(reference.id, [*known, *sorted(neighbours)])
                if alone:
                    message = f"there is no runbook '{reference.id}' beside this file{near}"
                    draft.findings.warn("W011", message, reference.node, reference.where)
                else:
                    message = f"there is no runbook '{reference.id}' among the files loaded{near}"
                    draft.findings.error("E034", message, reference.node, reference.where)
            elif (
                target is not None and reference.key == "inhibited_by" and draft.runbook is not None and draft.runbook.intent == "survival"
            ):
                intent = target.runbook.intent if target.runbook is not None else "survival"
                if intent != "survival":
                    found = f"an {intent} runbook" if intent else "a runbook without intent"
                    message = f"a survival runbook is inhibited by survival runbooks only; '{reference.id}' is {found}"
                    draft.findings.error("E036", message, reference.node, reference.where)


def _finish(drafts: Sequence[Draft], others: Sequence[Diagnostic], neighbours: frozenset[str] = frozenset()) -> Loaded:
    _check_ids(drafts)
    _check_references(drafts, neighbours)
    runbooks = tuple(d.runbook for d in drafts if d.runbook is not None and not d.findings.errors)
    errors = [*others, *(e for d in drafts for e in d.findings.errors)]
    warnings = [w for d in drafts for w in d.findings.warnings]
    for runbook in runbooks:
        warnings += of_runbook(runbook)
    warnings += of_set(runbooks)
    return Loaded(runbooks=runbooks, errors=_order(errors), warnings=_order(warnings))


def load_text(text: str | bytes, path: str) -> Loaded:
    """The runbook of one text; `path` is what diagnostics name."""
    return load_document(compose(text, path))


def load_document(document: Document) -> Loaded:
    """The runbook of one composed file."""
    return _finish([read_runbook(document)], ())


def load_documents(documents: Mapping[str, str | bytes]) -> Loaded:
    """The runbooks of a set of texts by path, as a reload or a replay of a journal has them."""
    return _finish([read_runbook(compose(text, path)) for path, text in documents.items()], ())


def _missing(path: str, message: str) -> Diagnostic:
    return Diagnostic(file=path, line=1, column=1, code="E001", message=message)


def _files(paths: Sequence[Path], errors: list[Diagnostic]) -> list[Path]:
    """The files that the paths mean, each once, in a stable order."""
    found: dict[Path, None] = {}
    for path in paths:
        if path.is_dir():
            inside = sorted(p for p in path.rglob("*") if p.suffix in _SUFFIXES and p.is_file())
            if not inside:
                errors.append(_missing(str(path), "the folder holds no runbook; runbooks are files that end in .yaml or .yml"))
            found |= dict.fromkeys(inside)
        elif path.exists():
            found[path] = None
        else:
            errors.append(_missing(str(path), "the file does not exist; write the path of a runbook or of a folder of runbooks"))
    if len(found) > FILES_MAX:
        errors.append(_missing(str(paths[0]), f"{len(found):,} files found, at most {FILES_MAX:,} are loaded at once"))
        return []
    if not paths:
        errors.append(_missing("", "no path was given; write the path of a runbook or of a folder of runbooks"))
    return list(found)


def runbook_files(paths: Sequence[Path]) -> tuple[list[Path], list[Diagnostic]]:
    """The files of runbooks that the paths mean, each once, and what is wrong with the paths."""
    errors: list[Diagnostic] = []
    return _files(paths, errors), errors


def there(*paths: Path) -> Sequence[Path]:
    """The paths as they are. Raises UserError for the first that is not there: wrong usage, and no mistake in a runbook."""
    for path in paths:
        if not path.exists():
            raise UserError(f"{path}: no such file or folder; write a runbook's file, or a folder of them")
    return paths


def _bytes_of(path: Path) -> bytes:
    """The file's bytes, one more than the limit at most, so that a huge file is refused without reading it."""
    with path.open("rb") as stream:
        return stream.read(BYTES_MAX + 1)


def load_paths(paths: Sequence[Path]) -> Loaded:
    """The runbooks of files and folders (recursively *.yaml and *.yml), with every error and warning of all of them."""
    errors: list[Diagnostic] = []
    drafts: list[Draft] = []
    files = _files(paths, errors)
    for path in files:
        try:
            content = _bytes_of(path)
        except OSError as error:
            errors.append(_missing(str(path), f"the file cannot be read: {error.strerror or type(error).__name__}"))
            continue
        drafts.append(read_runbook(compose(content, str(path))))
    return _finish(drafts, errors, _neighbours(files) if len(files) == 1 else frozenset())


def _neighbours(files: Sequence[Path]) -> frozenset[str]:
    """Ids of the runbooks beside a file that is loaded on its own, read without checking them."""
    ids: set[str] = set()
    for path in files:
        beside = sorted(p for p in path.parent.glob("*") if p.suffix in _SUFFIXES and p != path and p.is_file())
        for other in beside[:FILES_MAX]:
            try:
                match = _ID_LINE.search(_bytes_of(other))
            except OSError:
                continue  # a neighbour that cannot be read is not this file's mistake
            if match:
                ids.add(match[1].decode())
    return frozenset(ids)
