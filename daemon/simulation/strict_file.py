"""A YAML file through a pydantic model, every complaint at its line and column (floor 5): the door of files that traders write.

    file = load_strict(path, FileForm(model=_BookFile, code="B", what="a book", ...))    # raises RunbookError

Scalars stay text until the model reads them, so `0.0001` keeps its digits and `3m` its unit.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import Generic, TypeVar, get_args, get_origin

from pydantic import BaseModel, ConfigDict, ValidationError

from daemon.errors import Diagnostic, RunbookError, UserError
from daemon.runbook.document import Document, compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode

Plain = None | str | list["Plain"] | dict[str, "Plain"]
Where = tuple[int | str, ...]  # a path of keys and indices


class Strict(BaseModel):
    """A frozen model that knows every key of its mapping."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)


M = TypeVar("M", bound=BaseModel)


@dataclass(frozen=True, slots=True, kw_only=True)
class FileForm(Generic[M]):
    """How a kind of file is read: its model, the letter of its error codes, and the words of its messages."""

    model: type[M]
    code: str  # one letter
    what: str  # "a book"
    starts: str  # what an empty file should start with: "`book: NAME` and needs accounts"
    docs: str  # the page that tells every key
    flag: str  # "--book names a file like config/books/example.yaml"
    references: Callable[[Mapping[str, Plain]], Iterable[tuple[Where, str]]]  # names that name nothing, numbers that contradict


def load_strict(path: Path, form: FileForm[M]) -> M:
    """The checked model of a file. Raises RunbookError with every mistake, UserError when the file cannot be read."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {(error.strerror or str(error)).lower()}; {form.flag}") from error
    return read_strict(content, str(path), form)


def read_strict(content: bytes | str, path: str, form: FileForm[M]) -> M:
    """The checked model of a text. Raises RunbookError with every mistake."""
    document = compose(content, path)
    if document.root is None:
        raise RunbookError([_reworded(problem, form) for problem in document.problems])
    plain = as_plain(document.root)
    if not isinstance(plain, dict):
        message = f"{form.what} is a mapping; it starts with {form.starts}"
        raise RunbookError([document.diagnostic(f"{form.code}003", message, document.root.start, document.root.start + 1)])
    problems = list(document.problems)
    model = None
    try:
        model = form.model.model_validate(plain)
    except ValidationError as error:
        problems += _complaints(document, error, form)
    problems += [point(document, where, f"{form.code}004", message) for where, message in form.references(plain)]
    if problems or model is None:
        raise RunbookError(sorted(problems, key=lambda problem: (problem.line, problem.column)))
    return model


def _reworded(problem: Diagnostic, form: FileForm[M]) -> Diagnostic:
    """The same complaint for this kind of file: an empty one does not start with a runbook's schema."""
    if problem.code != "E008":
        return problem
    message = f"the file is empty; {form.what} starts with {form.starts}"
    return Diagnostic(file=problem.file, line=problem.line, column=problem.column, code=problem.code, message=message)


def as_plain(node: YamlNode) -> Plain:
    """The node as plain values; every scalar stays text."""
    match node:
        case ScalarNode():
            return None if node.empty else node.text
        case ListNode():
            return [as_plain(item) for item in node.items]
        case MapNode():
            return {key.text: as_plain(value) for key, value in node.entries}


def point(document: Document, where: Where, code: str, message: str, *, key: bool = False) -> Diagnostic:
    """A diagnostic at the deepest place of the path that the file has, at the key's own place with `key`."""
    assert document.root is not None
    node: YamlNode = document.root
    token: YamlNode = node
    named: list[str] = []
    for step in where:
        if isinstance(node, MapNode):
            entry = next(((name, value) for name, value in node.entries if name.text == step), None)
            if entry is None:
                continue
            token, node = (entry[0] if key else entry[1]), entry[1]
            named.append(str(step))
        elif isinstance(node, ListNode) and isinstance(step, int) and step < len(node.items):
            token = node = node.items[step]
            named[-1:] = [f"{named[-1] if named else ''}[{step}]"]
    end = token.end if isinstance(token, ScalarNode) else token.start + 1
    return document.diagnostic(code, message, token.start, end, ".".join(named))


def _complaints(document: Document, error: ValidationError, form: FileForm[M]) -> Iterator[Diagnostic]:
    for problem in error.errors():
        where = problem["loc"]
        name = str(where[-1]) if where else ""
        match problem["type"]:
            case "missing":
                yield point(document, where, f"{form.code}002", f"the key '{name}' is missing; add it here")
            case "extra_forbidden":
                close = difflib.get_close_matches(name, _known_keys(form.model, where[:-1]), 1)
                hint = f"did you mean '{close[0]}'?" if close else f"remove it, or see {form.docs}"
                yield point(document, where, f"{form.code}001", f"unknown key '{name}'; {hint}", key=True)
            case _:
                text = problem["msg"].removeprefix("Value error, ")
                found = problem.get("input")
                shown = f", found {found!r}" if isinstance(found, str) and "found" not in text and repr(found) not in text else ""
                yield point(document, where, f"{form.code}003", text[:1].lower() + text[1:] + shown)


def _known_keys(model: type[BaseModel], where: Where) -> list[str]:
    """The keys of the mapping at a path of the model."""
    here: type[BaseModel] | None = model
    for step in where:
        if here is None or not isinstance(step, str):
            continue
        for name, field in here.model_fields.items():
            if step in (name, field.alias):
                here = _inner(field.annotation)
                break
    return [] if here is None else [field.alias or name for name, field in here.model_fields.items()]


def _inner(annotation: object) -> type[BaseModel] | None:
    """The model that a field's type holds: itself, or the values of its mapping, the items of its tuple."""
    if isinstance(annotation, type) and not get_origin(annotation) and issubclass(annotation, BaseModel):
        return annotation
    parts = get_args(annotation) if get_origin(annotation) or isinstance(annotation, UnionType) else ()
    return next((found for part in parts if (found := _inner(part)) is not None), None)


def section(plain: Mapping[str, Plain], key: str) -> dict[str, Plain]:
    """The mapping under a key, empty when there is none."""
    found = plain.get(key)
    return found if isinstance(found, dict) else {}


def items(plain: Mapping[str, Plain], key: str) -> list[dict[str, Plain]]:
    """The mappings of the list under a key; an item that is none counts as an empty one, so that indices hold."""
    found = plain.get(key)
    return [item if isinstance(item, dict) else {} for item in found] if isinstance(found, list) else []


def unknown_name(name: object, known: Iterable[str], what: str) -> str | None:
    """What is wrong with a name that should be one of `known`; None when nothing is, or when it is no name at all."""
    names = list(known)
    if not isinstance(name, str) or name in names:
        return None
    close = difflib.get_close_matches(name, names, 1)
    hint = f"did you mean '{close[0]}'?" if close else f"known: {', '.join(names) or 'none'}"
    return f"'{name}' is no {what}; {hint}"
