"""The canonical form of a runbook's text (floor 3): `formatted(text, "x.yaml")`, what `reefd fmt` writes.

Two spaces a level, keys in the order of the format, lists indented under their key, quotes only where they are needed, one space where one
is enough, one empty line at most, a line break at the end. Comments stay with what they stand at. What is a line of its own stays one:
nothing is joined or wrapped. A text with rarer YAML (anchors, aliases, tags) only has its line ends and empty lines tidied.

Nothing is returned that does not mean the same: the loaded runbook is compared, all comments are there, formatting twice changes nothing.
"""

from __future__ import annotations

import functools
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import fields, is_dataclass

from daemon.errors import RunbookError, UserError
from daemon.language.typing import Typed
from daemon.runbook.document import Document, compose
from daemon.runbook.load import load_text
from daemon.runbook.model import Expression, Runbook, Where
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.schema import runbook_schema
from daemon.runbook.shapes import Schema
from daemon.runbook.trivia import Declined, Trivia, comments_of

_PLACES = frozenset({"path", "source", "digest", "positions", "line", "column"})
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
_PLAIN_VALUE = re.compile(r"[A-Za-z_(][A-Za-z0-9_ .%/<>=()+*-]*(?<! )")
_NOT_TEXT = re.compile(r"true|false|null|[-+.\d_eE]+|\.inf|\.nan", re.IGNORECASE)


def meaning(value: object) -> object:
    """What a loaded runbook means, without where it stands in its file: equal for two texts that are the same runbook.

    An expression is its text: with the same scope, lets and params, which are compared too, it has the same tree.
    """
    if isinstance(value, Expression):
        return value.index, value.where, value.text
    if isinstance(value, Typed | Where):
        return value.text
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__name__, {f.name: meaning(getattr(value, f.name)) for f in fields(value) if f.name not in _PLACES}
    if isinstance(value, Mapping):
        return {key: meaning(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [meaning(item) for item in value]
    return repr(value) if isinstance(value, float) else value


def formatted(text: str, path: str) -> str:
    """The text in canonical form. Raises RunbookError when it is no right runbook, UserError when it cannot be formatted safely."""
    loaded = load_text(text, path)
    if not loaded.ok:
        raise RunbookError(loaded.errors)
    (runbook,) = loaded.runbooks
    made = _written(text, path)
    if made == text:
        return text
    if not _same(made, runbook, text) or _written(made, path) != made:
        made = tidied(text)
        if not _same(made, runbook, text):
            raise UserError(f"{path}: cannot be formatted without changing what it means; it is left as it is")
    return made


def _same(made: str, runbook: Runbook, text: str) -> bool:
    again = load_text(made, runbook.path)
    if not again.ok or meaning(again.runbooks[0]) != meaning(runbook):
        return False
    before, after = (compose(version, runbook.path) for version in (_unix(text), made))
    return Counter(comments_of(before)) == Counter(comments_of(after))


def _unix(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _written(text: str, path: str) -> str:
    document = compose(_unix(text), path)
    try:
        assert isinstance(document.root, MapNode), "it loaded"
        return _Writer(document).text()
    except Declined:
        return tidied(text)


def tidied(text: str) -> str:
    """The text with line feeds, no spaces at the ends of lines, one empty line at most, and a line break at the end.

    Lines of block scalars are texts, spaces and empty lines included: from the first `|` or `>` on, only the end of the file is tidied.
    """
    lines = _unix(text).split("\n")
    block = next((i for i, line in enumerate(lines) if re.search(r"(?:^|[\s:-])[|>][-+0-9]*\s*(?:#.*)?$", line)), len(lines))
    made: list[str] = []
    for line in lines[:block]:
        line = line.rstrip(" ")
        if line or (made and made[-1]):
            made.append(line)
    return "\n".join([*made, *lines[block:]]).rstrip("\n ") + "\n"


@functools.cache
def _schema() -> Schema:
    return runbook_schema()


def _resolved(schema: object, root: Schema) -> Schema:
    """The schema behind references, and the one of a mapping among alternatives."""
    found = schema if isinstance(schema, dict) else {}
    if "$ref" in found:
        definitions = root["$defs"]
        assert isinstance(definitions, dict)
        return _resolved(definitions[str(found["$ref"]).rpartition("/")[2]], root)
    if "anyOf" in found:
        options = [_resolved(option, root) for option in found["anyOf"]]
        return next((option for option in options if option.get("type") in ("object", "array")), {})
    return found


class _Writer:
    """Writes one document anew, line by line."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.source = document.text
        self.trivia = Trivia(document)
        self.schema = _schema()
        self.lines: list[str] = []

    def text(self) -> str:
        """The whole text."""
        assert isinstance(self.document.root, MapNode)
        self.comments(self.trivia.head, 0)
        self.map(self.document.root, 0, self.schema)
        self.comments(self.trivia.tail, 0)
        while self.lines and not self.lines[0]:
            del self.lines[0]
        return "\n".join(self.lines).rstrip("\n") + "\n"

    # --- lines --------------------------------------------------------------------------------------------------------
    def comments(self, lines: list[str], indent: int) -> None:
        """Lines of their own: comments, and empty lines."""
        for line in lines:
            if line:
                self.lines.append(" " * indent + line)
            elif self.lines and self.lines[-1]:
                self.lines.append("")

    def put(self, line: str, at: int) -> None:
        """A line, with the comment that stood behind what stands at `at`: in its column where there is room for two spaces."""
        comment = self.trivia.behind.get(at)
        if comment is not None:
            column, words = comment
            last = line.rpartition("\n")[2]
            line += " " * max(2, column - len(last)) + words
        self.lines.extend(line.split("\n"))

    # --- nodes --------------------------------------------------------------------------------------------------------
    def child(self, schema: Schema, key: str) -> Schema:
        properties = schema.get("properties")
        found = properties.get(key) if isinstance(properties, dict) else None
        return _resolved(found if found is not None else schema.get("additionalProperties"), self.schema)

    def ordered(self, node: MapNode, schema: Schema) -> list[tuple[ScalarNode, YamlNode]]:
        """The entries in the order of the format; in the writer's own where the keys are his."""
        properties = schema.get("properties")
        if not isinstance(properties, dict) or "patternProperties" in schema:
            return list(node.entries)
        rank = {name: i for i, name in enumerate(properties)}
        return sorted(node.entries, key=lambda entry: rank.get(entry[0].text, len(rank)))

    def map(self, node: MapNode, indent: int, schema: Schema, lead: str = "") -> None:
        """A block mapping; `lead` stands before its first key in place of the indentation: `- ` of a list's item."""
        for key, value in self.ordered(node, schema):
            self.comments(self.trivia.before.get(key.start, []), indent if not lead else indent - 2)
            head = (lead or " " * indent) + self.scalar(key, key=True) + ":"
            lead = ""
            self.value(head, value, key.start, indent, self.child(schema, key.text))
            self.comments(self.trivia.after.get(key.start, []), indent)

    def list(self, node: ListNode, indent: int, schema: Schema) -> None:
        """A block list."""
        inner = _resolved(schema.get("items"), self.schema)
        for item in node.items:
            dash = self.trivia.dashes[item.start]
            self.comments(self.trivia.before.get(dash, []), indent)
            if isinstance(item, MapNode) and not self.flow(item):
                if dash in self.trivia.behind:  # between the dash and its mapping: it becomes a line of its own
                    self.comments([self.trivia.behind[dash][1]], indent)
                self.map(item, indent + 2, inner, " " * indent + "- ")
            elif isinstance(item, ListNode) and not self.flow(item):
                raise Declined  # a list directly in a list: not in the format
            else:
                self.value(" " * indent + "-", item, dash, indent, inner)
            self.comments(self.trivia.after.get(dash, []), indent)

    def value(self, head: str, node: YamlNode, at: int, indent: int, schema: Schema) -> None:
        """`head` (the key or dash at `at`) and its value: behind it, or as a block in the lines below."""
        match node:
            case ScalarNode():
                shown = self.scalar(node, indent=indent)
                self.put(f"{head} {shown}" if shown else head, at)
            case _ if self.flow(node):
                self.put(f"{head} {self.flowing(node, indent, schema)}", at)
            case MapNode():
                self.put(head, at)
                self.map(node, indent + 2, schema)
            case ListNode():
                self.put(head, at)
                self.list(node, indent + 2, schema)

    def flow(self, node: YamlNode) -> bool:
        return self.source[node.start] in "[{"

    def flowing(self, node: YamlNode, indent: int, schema: Schema) -> str:
        """A flow collection: in one line as it is written in one, else its lines as they are, indented by their depth."""
        source = self.source[node.start : node.end]
        if "\n" in source:
            return self.broken(node, indent)
        match node:
            case MapNode():
                pairs = self.ordered(node, schema)
                inner = [
                    f"{self.scalar(key, key=True)}: {self.flowing(value, indent, self.child(schema, key.text))}".rstrip(" ")
                    for key, value in pairs
                ]
                return "{" + ", ".join(inner) + "}"
            case ListNode(items=items):
                below = _resolved(schema.get("items"), self.schema)
                return "[" + ", ".join(self.flowing(item, indent, below) for item in items) + "]"
            case ScalarNode():
                return self.scalar(node)

    def broken(self, node: YamlNode, indent: int) -> str:
        """A flow collection over several lines: two spaces for every bracket that is open where a line begins."""
        depths = self.trivia.depths
        at = node.start
        made: list[str] = []
        for i, line in enumerate(self.source[node.start : node.end].split("\n")):
            stripped = line.strip(" ")
            here = at + len(line) - len(line.lstrip(" "))
            closing = 1 if stripped[:1] in ("]", "}") and here in depths else 0
            depth = max(1, depths.before(here) - depths.before(node.start) - closing)
            made.append(stripped if i == 0 else " " * (indent + 2 * depth) + stripped if stripped else "")
            at += len(line) + 1
        return "\n".join(made)

    def scalar(self, node: ScalarNode, *, key: bool = False, indent: int = 0) -> str:
        """A scalar in one line, or its lines; without quotes where a plain text means the same."""
        source = self.source[node.start : node.end]
        if node.style in ("|", ">"):
            return self.block_scalar(node, indent)
        if "\n" in source:
            lines = [line.strip(" ") for line in source.split("\n")]
            return "\n".join([lines[0], *(" " * (indent + 2) + line if line else "" for line in lines[1:])])
        if not node.style:
            return source
        plain = _PLAIN_KEY if key else _PLAIN_VALUE
        if plain.fullmatch(node.text) and not _NOT_TEXT.fullmatch(node.text):
            return node.text
        return source if node.style == '"' or '"' in node.text or "\\" in node.text else f'"{node.text}"'

    def block_scalar(self, node: ScalarNode, indent: int) -> str:
        """A `|` or `>` text, its lines moved together."""
        header, _, body = self.source[node.start : node.end].partition("\n")
        if re.search(r"\d", header) or "#" in header:
            raise Declined  # an indentation that is written out
        lines = body.rstrip(" ").rstrip("\n").split("\n")
        if "+" in header:
            raise Declined  # its last empty lines are a part of it
        least = min((len(line) - len(line.lstrip(" ")) for line in lines if line.strip(" ")), default=0)
        return "\n".join([header.strip(" "), *(" " * (indent + 2) + line[least:] if line.strip(" ") else "" for line in lines)])
