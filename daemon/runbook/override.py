"""A runbook with other values (floor 3): scalars of its source text replaced at their places, then loaded as if they had been written.

    overridden(text, "spike.yaml", {"threshold": "0.08%/h", "trigger.for": "3m", "steps.shrink.shrink_position.by": "50%"})

A path names a param (`threshold`, `params.threshold`, `trigger.when.threshold` where that condition uses it), or a scalar field; items of a
list are named by their id or by `[0]`. `threshold` behind a condition without such a param is the literal of its only comparison with one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from daemon.errors import Diagnostic
from daemon.language.parse import parse
from daemon.language.problems import ExpressionError
from daemon.language.syntax import Binary, Call, Compare, Literal, Name, Node, Unary, plain_names
from daemon.runbook.document import Document, compose
from daemon.runbook.fields import UNIT_NOUNS, hint
from daemon.runbook.load import Loaded, load_document
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.units import parse_quantity

_PLAIN = re.compile(r"[A-Za-z0-9+.-](?:[\w .%/+@()*<>=-]*[\w%/)])?")
_TOKEN = re.compile(r"\[(\d+)\]|[^.\[\]]+")
_LITERAL = "threshold"  # the name of a condition's only literal
_ACCEPTANCE = ("tests", "replay")  # what a run over history does not need of a runbook


class _Unsettable(Exception):
    """Why a path cannot be set, and where that shows."""

    def __init__(self, message: str, at: YamlNode | None = None) -> None:
        super().__init__(message)
        self.at = at


@dataclass(frozen=True, slots=True, kw_only=True)
class _Edit:
    """`text[start:end]` of the file becomes `value`, because `path` was set."""

    path: str
    start: int
    end: int
    value: str


def _steps(path: str) -> list[str]:
    return [match[1] or match[0] for match in _TOKEN.finditer(path)]


def _item(node: ListNode, name: str) -> YamlNode | None:
    """An item by its id, or by its number."""
    for item in node.items:
        named = item.get("id") if isinstance(item, MapNode) else None
        if isinstance(named, ScalarNode) and named.text == name:
            return item
    return node.items[int(name)] if name.isdigit() and int(name) < len(node.items) else None


def _child(node: YamlNode, name: str) -> YamlNode | None:
    match node:
        case MapNode():
            return node.get(name)
        case ListNode():
            return _item(node, name)
        case _:
            return None


def _names(node: YamlNode) -> list[str]:
    """What may follow in a path."""
    match node:
        case MapNode(entries=entries):
            return [key.text for key, _ in entries]
        case ListNode(items=items):
            ids = [item.get("id") if isinstance(item, MapNode) else None for item in items]
            return [named.text if isinstance(named, ScalarNode) else f"[{i}]" for i, named in enumerate(ids)]
        case _:
            return []


def _literals(node: Node) -> Iterator[Literal]:
    """The literals that something is compared with."""
    match node:
        case Compare(operands=operands):
            yield from (operand for operand in operands if isinstance(operand, Literal))
            for operand in operands:
                yield from _literals(operand)
        case Unary(operand=inside):
            yield from _literals(inside)
        case Binary(left=left, right=right):
            yield from _literals(left)
            yield from _literals(right)
        case Call(args=inside):
            for argument in inside:
                yield from _literals(argument)
        case _:
            return


def _compared(node: Node) -> frozenset[str]:
    """The plain names that something is compared with."""
    match node:
        case Compare(operands=operands):
            own = frozenset(operand.name for operand in operands if isinstance(operand, Name) and not operand.scope)
            return own.union(*(_compared(operand) for operand in operands))
        case Unary(operand=inside):
            return _compared(inside)
        case Binary(left=left, right=right):
            return _compared(left) | _compared(right)
        case Call(args=inside):
            return frozenset().union(*(_compared(item) for item in inside))
        case _:
            return frozenset()


class Variants:
    """One runbook's text, to be loaded again and again with other values; composed once."""

    def __init__(self, text: str, path: str) -> None:
        self.document = compose(text, path)
        root = self.document.root
        self._root = root if isinstance(root, MapNode) else MapNode((), 0, 0)
        params = self._root.get("params")
        self._params = params if isinstance(params, MapNode) else MapNode((), 0, 0)
        self._cuts = [cut for key, node in self._root.entries if key.text in _ACCEPTANCE and (cut := self._cut(key, node)) is not None]

    def load(self, overrides: Mapping[str, str], *, acceptance: bool = True) -> Loaded:
        """The runbook with these values. Errors stand at the places of the text as it is on disk, and say which value made them.

        Without `acceptance` its tests and its replay section are left out, which is what a run over history needs.
        """
        edits, wrong = self._edits(overrides)
        if wrong:
            return Loaded(runbooks=(), errors=tuple(wrong), warnings=())
        if not acceptance:
            edits = sorted([*(edit for edit in edits if not any(cut.start <= edit.start < cut.end for cut in self._cuts)), *self._cuts],
                           key=lambda edit: edit.start)  # fmt: skip
        document = compose(_spliced(self.document.text, edits), self.document.path)
        loaded = load_document(document)
        if not edits:
            return loaded
        return Loaded(
            runbooks=loaded.runbooks,
            errors=tuple(self._restored(found, document, edits) for found in loaded.errors),
            warnings=tuple(self._restored(found, document, edits) for found in loaded.warnings),
        )

    def text(self, overrides: Mapping[str, str]) -> str:
        """The source text with these values; what cannot be set is left as it is."""
        return _spliced(self.document.text, self._edits(overrides)[0])

    def value(self, path: str) -> str | None:
        """What stands at a path now, None where nothing can be set."""
        try:
            node, (start, end) = self._site(path)
        except _Unsettable:
            return None
        return node.text[start:end].strip()

    def _cut(self, key: ScalarNode, node: YamlNode) -> _Edit | None:
        """Takes a whole section of a block mapping out of the text; None where it does not stand on lines of its own."""
        text = self.document.text
        lines = (key.start == 0 or text[key.start - 1] == "\n") and (node.end >= len(text) or text[node.end - 1] == "\n")
        return _Edit(path="", start=key.start, end=min(node.end, len(text)), value="") if lines else None

    def _edits(self, overrides: Mapping[str, str]) -> tuple[list[_Edit], list[Diagnostic]]:
        edits: list[_Edit] = []
        wrong: list[Diagnostic] = []
        for path, written in overrides.items():
            value = written.strip()
            try:
                node, span = self._site(path)
                self._check_value(path, value, node)
            except _Unsettable as error:
                at = error.at
                start = at.start if at is not None else 0
                end = at.end if isinstance(at, ScalarNode) else start + 1
                wrong.append(self.document.diagnostic("E046", f"cannot set {path}: {error}", start, end, path))
                continue
            if node.text[span[0] : span[1]] == value:
                continue
            edit = self._edit(path, node, span, value)
            other = next((e for e in edits if e.start < edit.end and edit.start < e.end), None)
            if other is not None:
                message = f"cannot set {path}: {other.path} sets the same place; write one of them"
                wrong.append(self.document.diagnostic("E046", message, node.start, node.end, path))
            edits.append(edit)
        return sorted(edits, key=lambda edit: edit.start), wrong

    def _edit(self, path: str, node: ScalarNode, span: tuple[int, int], value: str) -> _Edit:
        if span == (0, len(node.text)):
            text = value if _PLAIN.fullmatch(value) else json.dumps(value, ensure_ascii=False)
            source = self.document.text[node.start : node.end]
            return _Edit(path=path, start=node.start, end=node.end, value=text + ("\n" if source.endswith("\n") else ""))
        first, last = self.document.offset_in(node, span[0]), self.document.offset_in(node, span[1] - 1)
        return _Edit(path=path, start=first, end=last + 1, value=value)

    def _check_value(self, path: str, value: str, node: ScalarNode) -> None:
        """A value is one line, and a param's has the unit of its default."""
        if not value or len(value.splitlines()) != 1:
            raise _Unsettable("the value is empty or runs over several lines; write one literal", node)
        if not any(node is held for held in self._defaults().values()):
            return
        try:
            unit, found = parse_quantity(node.text)[1], parse_quantity(value)[1]
        except (ValueError, ArithmeticError):
            return  # reading the runbook words it
        if unit != found:
            message = f"the param is {UNIT_NOUNS[unit]} ({node.text}), found {UNIT_NOUNS[found]}: {value}; write it like its default"
            raise _Unsettable(message, node)

    def _defaults(self) -> dict[str, ScalarNode]:
        """The scalar that holds each param's value."""
        held: dict[str, ScalarNode] = {}
        for key, node in self._params.entries:
            scalar = node.get("default") if isinstance(node, MapNode) else node
            if isinstance(scalar, ScalarNode):
                held[key.text] = scalar
        return held

    def _site(self, path: str) -> tuple[ScalarNode, tuple[int, int]]:
        """The scalar a path means, and which part of its text; raises _Unsettable."""
        defaults = self._defaults()
        if path in defaults:
            return _whole(defaults[path])
        steps = _steps(path)
        if len(steps) == 2 and steps[0] == "params" and steps[1] in defaults:
            return _whole(defaults[steps[1]])
        node: YamlNode = self._root
        for at, name in enumerate(steps):
            if isinstance(node, ScalarNode) and at == len(steps) - 1:
                return self._inside(node, path[: path.rfind(".")], name)
            found = _child(node, name)
            if found is None:
                raise _Unsettable(self._absent(steps, at, node), node if at else None)
            node = found
        if not isinstance(node, ScalarNode):
            known, what = _names(node), "mapping" if isinstance(node, MapNode) else "list"
            example = f"; write for example {path}.{known[0]}" if known else ""
            raise _Unsettable(f"it is a {what}, and one field is set at a time{example}", node)
        return _whole(node)

    def _absent(self, steps: list[str], at: int, node: YamlNode) -> str:
        known = _names(node)
        within = ".".join(steps[:at])
        near = hint(steps[at], [*known, *(self._defaults() if at == 0 else ())])
        listed = known and len(known) <= 14
        written = f"{within or 'the runbook'} has {', '.join(known)}" if listed else "a field is set that is written there"
        if len(steps) == 1 and not near:
            params = ", ".join(self._defaults())
            written = f"there is no param or field of this name; {f'params are {params}' if params else 'the runbook has no params:'}"
        return f"'{steps[at]}' is not written there{near or f'; {written}'}"

    def _inside(self, node: ScalarNode, within: str, name: str) -> tuple[ScalarNode, tuple[int, int]]:
        """A param that a condition uses, or the literal of its only comparison with one."""
        try:
            tree = parse(node.text)
        except ExpressionError:
            raise _Unsettable(f"{within} is no expression, found '{node.text}'", node) from None
        defaults = self._defaults()
        used = self._used(plain_names(tree)) & defaults.keys()
        if name in used:
            return _whole(defaults[name])
        literals = list(_literals(tree))
        if name == _LITERAL and len(literals) == 1:
            return node, (literals[0].start, literals[0].end)
        if name in defaults:
            raise _Unsettable(f"{within} does not use the param '{name}'; write params.{name}", node)
        if name == _LITERAL and len(literals) > 1:
            found = ", ".join(literal.text for literal in literals)
            declare = f"declare which one is meant: params: {{{name}: {literals[0].text}}}, and write {name} in its place"
            raise _Unsettable(f"{within} compares with {len(literals)} literals ({found}); {declare}", node)
        compared = sorted(_compared(tree) & defaults.keys()) or sorted(used)
        if compared:
            raise _Unsettable(f"{within} uses the param{'s' if len(compared) > 1 else ''} {', '.join(compared)}; write {compared[0]}", node)
        if name == _LITERAL:
            raise _Unsettable(f"{within} compares with no literal; declare params: and name one in it", node)
        raise _Unsettable(f"{within} uses no param '{name}'; declare it under params:, or write {within}.{_LITERAL} for its literal", node)

    def _used(self, names: frozenset[str]) -> frozenset[str]:
        """The names of an expression and of every let behind them."""
        lets = self._root.get("let")
        behind = {key.text: node for key, node in lets.entries} if isinstance(lets, MapNode) else {}
        found, fresh = frozenset[str](), names
        while fresh:
            found |= fresh
            bodies = [node for name in fresh if isinstance(node := behind.get(name), ScalarNode)]
            fresh = frozenset(name for body in bodies for name in _plain(body.text)) - found
        return found

    def _restored(self, found: Diagnostic, changed: Document, edits: list[_Edit]) -> Diagnostic:
        """A diagnostic of the changed text at its place in the text as it is on disk."""
        offset = changed.starts[min(found.line, len(changed.starts)) - 1] + found.column - 1
        shift = 0
        for edit in edits:
            start = edit.start + shift
            if offset < start:
                break
            if offset < start + len(edit.value):
                message = f"{found.message} (set: {edit.path}={edit.value})"
                return self.document.diagnostic(found.code, message, edit.start, edit.end, found.where, found.severity)
            shift += len(edit.value) - (edit.end - edit.start)
        offset -= shift
        within = next((edit for edit in edits if found.where and edit.path.startswith(found.where)), None)
        message = f"{found.message} (set: {within.path}={within.value})" if within else found.message
        return self.document.diagnostic(found.code, message, offset, offset + found.width, found.where, found.severity)


def _plain(text: str) -> frozenset[str]:
    try:
        return plain_names(parse(text))
    except ExpressionError:
        return frozenset()


def _whole(node: ScalarNode) -> tuple[ScalarNode, tuple[int, int]]:
    return node, (0, len(node.text))


def _spliced(text: str, edits: list[_Edit]) -> str:
    parts, at = [], 0
    for edit in edits:
        parts += [text[at : edit.start], edit.value]
        at = edit.end
    return "".join([*parts, text[at:]])


def overridden(text: str, path: str, overrides: Mapping[str, str]) -> Loaded:
    """The runbook of one text with other values at some paths; every mistake at once, as in `load_text`."""
    return Variants(text, path).load(overrides)
