"""A YAML file as nodes that know where they stand (floor 3): `compose("a: 3m", "x.yaml").root`.

YAML 1.2 as runbooks need it: every scalar stays the text the user wrote (units make `3m` and `25%` meaningful, so nothing is guessed),
and every place of a scalar's value maps back to its line and column. What a runbook must not be is refused here with ONE message
each: not UTF-8, over 1 MiB, nested over 50 deep, aliases that multiply, tags, duplicate keys, tabs, several documents.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentStartEvent,
    MappingEndEvent,
    MappingStartEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
)
from ruamel.yaml.reader import ReaderError

from daemon.errors import Diagnostic
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.plainyaml import read_plain

BYTES_MAX = 1 << 20
DEPTH_MAX = 50
# Expanded nodes: a 1 MiB file cannot hold more of its own than this and stay readable; aliases that multiply pass it at once.
NODES_MAX = 100_000
DIAGNOSTICS_MAX = 500
SHOWN_MAX = 400  # characters of a line that is worth showing under a message

_BREAK = re.compile(r"\r\n|\n|\r")
# Control characters of a file never reach the terminal.
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028\u2029]")
_CORE_TAGS = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null", "map", "seq")} | {"!"}
_UNCLOSED = re.compile(r"expected ',' or|unexpected end of stream")
_HEX_DIGITS = {"x": 2, "u": 4, "U": 8}


@dataclass(slots=True, kw_only=True)
class Document:
    """One file: its text, its root node (None when nothing could be read) and what was wrong with it as YAML."""

    path: str
    text: str
    root: YamlNode | None = None
    problems: list[Diagnostic] = field(default_factory=list)
    starts: list[int] = field(default_factory=list)  # offset of each line's first character

    def __post_init__(self) -> None:
        self.starts = [0, *(m.end() for m in _BREAK.finditer(self.text))]

    def position(self, offset: int) -> tuple[int, int]:
        """1-based line and column of an offset; offsets past the end point just behind the last character."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self.starts, offset)
        return line, offset - self.starts[line - 1] + 1

    def line_text(self, line: int) -> str:
        """The text of a 1-based line without its break."""
        if not 1 <= line <= len(self.starts):
            return ""
        end = self.starts[line] if line < len(self.starts) else len(self.text)
        return self.text[self.starts[line - 1] : end].rstrip("\r\n")

    def diagnostic(self, code: str, message: str, start: int, end: int, where: str = "", severity: str = "error") -> Diagnostic:
        """A diagnostic that underlines `text[start:end]`, as far as it is on one line."""
        line, column = self.position(start)
        source = self.line_text(line)
        width = max(1, min(end - start, len(source) - column + 1))
        return Diagnostic(
            file=self.path, line=line, column=column, code=code, message=_UNPRINTABLE.sub("?", message), where=where,
            source_line=_UNPRINTABLE.sub("?", source) if len(source) <= SHOWN_MAX else "", width=width, severity=severity,
        )  # fmt: skip

    def offset_in(self, scalar: ScalarNode, index: int) -> int:
        """File offset of the character `scalar.text[index]`, for every style; the end of the value maps behind its last character."""
        return _Alignment(self.text, scalar).offset(index)


class _Alignment:
    """Walks a scalar's value and its source side by side: whitespace against whitespace, escapes against what they stand for."""

    def __init__(self, source: str, scalar: ScalarNode) -> None:
        self.source = source
        self.scalar = scalar
        self.at = scalar.start
        self.end = scalar.end
        match scalar.style:
            case "'" | '"':
                self.at += 1
                self.end -= 1
            case "|" | ">":
                header = _BREAK.search(source, scalar.start)
                self.at = header.end() if header else scalar.end

    def _skip_space(self) -> None:
        while self.at < self.end:
            if self.source[self.at] in " \t\r\n":
                self.at += 1
            elif self.scalar.style == '"' and self.source[self.at] == "\\" and self.source[self.at + 1 : self.at + 2] in ("\r", "\n"):
                self.at += 2
            else:
                return

    def _token(self) -> int:
        """Length of the source text of one non-space character."""
        if self.scalar.style == "'" and self.source.startswith("''", self.at):
            return 2
        if self.scalar.style == '"' and self.source[self.at : self.at + 1] == "\\":
            return 2 + _HEX_DIGITS.get(self.source[self.at + 1 : self.at + 2], 0)
        return 1

    def offset(self, index: int) -> int:
        text = self.scalar.text
        after = self.at
        for i, char in enumerate(text):
            if i >= index and not char.isspace():
                self._skip_space()
                return min(self.at, self.end)
            if char in " \t\r\n" and not (self.scalar.style == '"' and self.source[self.at : self.at + 1] == "\\"):
                if i >= index:
                    return min(self.at, self.end)
                following = text[i + 1 : i + 2]
                if following not in (" ", "\t", "\r", "\n", ""):
                    self._skip_space()
                elif self.at < self.end and self.source[self.at] in " \t\r\n":
                    self.at += 1
                continue
            if i >= index:
                return min(self.at, self.end)
            if self.at < self.end and self.source[self.at] in "\r\n \t":
                self._skip_space()
            self.at += self._token()
            after = self.at
        return min(after, self.end) if index >= len(text) else min(self.at, self.end)


class _Refused(Exception):
    """Stops composing: the diagnostic is already recorded."""


@dataclass(slots=True)
class _Open:
    """A collection whose end has not been read."""

    mapping: bool
    start: int
    anchor: str | None
    children: list[YamlNode]
    flow: bool
    expanded: int = 1
    height: int = 1


class _Composer:
    """Turns parser events into nodes without recursion, counting what aliases expand to."""

    def __init__(self, document: Document) -> None:
        self.document = document
        self.stack: list[_Open] = []
        self.anchors: dict[str, tuple[YamlNode, int, int]] = {}  # name -> node, nodes it expands to, its height
        self.unfinished: set[str] = set()
        self.documents = 0
        self.total = 0
        self.root: YamlNode | None = None

    def refuse(self, code: str, message: str, start: int, end: int | None = None) -> _Refused:
        self.document.problems.append(self.document.diagnostic(code, message, start, start + 1 if end is None else end))
        return _Refused()

    def _place(self, node: YamlNode, expanded: int, height: int, anchor: str | None, at: int = -1) -> None:
        if len(self.stack) + height > DEPTH_MAX:
            raise self.refuse("E003", f"nested deeper than {DEPTH_MAX} levels; write it flatter", node.start if at < 0 else at)
        if anchor:
            self.anchors[anchor] = (node, expanded, height)
            self.unfinished.discard(anchor)
        if not self.stack:
            self.root = node
            return
        parent = self.stack[-1]
        if parent.mapping and len(parent.children) % 2 == 0 and not isinstance(node, ScalarNode):
            raise self.refuse("E004", "a key is a single word, found a collection; write `key: value`", node.start)
        parent.children.append(node)
        parent.expanded += expanded
        parent.height = max(parent.height, height + 1)

    def _count(self, added: int, start: int) -> None:
        self.total += added
        if self.total > NODES_MAX:
            raise self.refuse("E003", f"expands to more than {NODES_MAX:,} values through its aliases; write them out or use fewer", start)

    def _check_tag(self, tag: object, start: int) -> None:
        if tag is not None and str(tag) not in _CORE_TAGS:
            raise self.refuse(
                "E004", f"the tag '{str(tag).replace('tag:yaml.org,2002:', '!!')}' is not known; remove it, the format needs no tags", start
            )

    def scalar(self, event: ScalarEvent) -> None:
        start = _tag_free_start(self.document.text, event.start_mark.index) if event.anchor or event.tag else event.start_mark.index
        end = event.end_mark.index
        parent = self.stack[-1] if self.stack else None
        if event.value == "" and not event.style and parent is not None and parent.mapping and len(parent.children) % 2:
            start = end = parent.children[-1].end + 1  # no value at all: behind its key's colon, not at the next token
        node = ScalarNode(str(event.value), str(event.style or ""), start, end)
        self._check_tag(event.tag, event.start_mark.index)
        self._count(1, start)
        self._place(node, 1, 1, event.anchor)

    def open(self, event: MappingStartEvent | SequenceStartEvent) -> None:
        start = event.start_mark.index
        self._check_tag(event.tag, start)
        self._count(1, start)
        if len(self.stack) + 1 > DEPTH_MAX:
            raise self.refuse("E003", f"nested deeper than {DEPTH_MAX} levels; write it flatter", start)
        if event.anchor:
            self.unfinished.add(event.anchor)
        self.stack.append(_Open(isinstance(event, MappingStartEvent), start, event.anchor, [], bool(event.flow_style)))

    def close(self, end: int) -> None:
        done = self.stack.pop()
        node: YamlNode
        if done.mapping:
            children = self._mended(done.children) if done.flow else done.children
            node = MapNode(self._entries(children), done.start, end)
        else:
            node = ListNode(tuple(done.children), done.start, end)
        self._place(node, done.expanded, done.height, done.anchor)

    def _mended(self, children: list[YamlNode]) -> list[YamlNode]:
        """The keys and values of a flow mapping with expressions whole again that a comma of theirs has cut, and complained about.

        `{when: max(a, b) > 1, for: 1h}` reads as when: `max(a`, a key `b) > 1` without a value, and for: 1h.
        """
        mended: list[YamlNode] = []
        at = 0
        while at < len(children):
            key, value = children[at], children[at + 1]
            at += 2
            after = at
            if isinstance(value, ScalarNode) and not value.style:
                opened = _unclosed(value.text)
                while opened > 0 and after < len(children) and _bare(children[after], children[after + 1]):
                    piece = children[after]
                    assert isinstance(piece, ScalarNode), "_bare says so"
                    opened += _unclosed(piece.text)
                    after += 2
                if after > at and opened == 0:
                    end = children[after - 2].end
                    text = " ".join(self.document.text[value.start : end].split())
                    value = ScalarNode(text, "", value.start, end)
                    message = "quote the expression: in {...} a comma ends a value"
                    self.document.problems.append(self.document.diagnostic("E004", message, value.start, end))
                    at = after
            mended += (key, value)
        return mended

    def _entries(self, children: list[YamlNode]) -> tuple[tuple[ScalarNode, YamlNode], ...]:
        entries: list[tuple[ScalarNode, YamlNode]] = []
        seen: dict[str, ScalarNode] = {}
        for key, value in zip(children[::2], children[1::2], strict=True):
            assert isinstance(key, ScalarNode), "_place refuses every other key"
            first = seen.get(key.text)
            if first is not None:
                line, _ = self.document.position(first.start)
                message = f"the key '{key.text}' is written twice, first in line {line}; keep one of them"
                self.document.problems.append(self.document.diagnostic("E006", message, key.start, key.end))
                continue
            seen[key.text] = key
            entries.append((key, value))
        return tuple(entries)

    def alias(self, event: AliasEvent) -> None:
        name, start = str(event.anchor), event.start_mark.index
        if name in self.unfinished:
            raise self.refuse("E003", f"the alias '*{name}' stands inside what it names; write the value out", start, event.end_mark.index)
        if name not in self.anchors:
            raise self.refuse("E004", f"the alias '*{name}' has no anchor '&{name}' before it", start, event.end_mark.index)
        node, expanded, height = self.anchors[name]
        self._count(expanded, start)
        self._place(node, expanded, height, None, start)

    def take(self, events: Iterable[object]) -> None:
        for event in events:
            match event:
                case ScalarEvent():
                    self.scalar(event)
                case MappingStartEvent() | SequenceStartEvent():
                    self.open(event)
                case MappingEndEvent() | SequenceEndEvent():
                    self.close(event.end_mark.index)
                case AliasEvent():
                    self.alias(event)
                case DocumentStartEvent():
                    self.documents += 1
                    if self.documents > 1:
                        raise self.refuse("E004", "a second document starts here; write one runbook a file", event.start_mark.index)
                    if event.version is not None and tuple(event.version) != (1, 2):
                        found = ".".join(str(part) for part in event.version)
                        raise self.refuse("E004", f"the file says YAML {found}; runbooks are YAML 1.2, remove the directive", 0)
                case _:
                    pass


def _unclosed(text: str) -> int:
    """Parentheses opened less those closed."""
    return text.count("(") - text.count(")")


def _bare(key: YamlNode, value: YamlNode) -> bool:
    """True for an entry of a flow mapping that is a plain word without a value."""
    return isinstance(key, ScalarNode) and not key.style and isinstance(value, ScalarNode) and value.empty


def _tag_free_start(text: str, at: int) -> int:
    """Offset of a node's own text behind its anchor and tag."""
    while at < len(text) and text[at] in "&!":
        while at < len(text) and not text[at].isspace():
            at += 1
        while at < len(text) and text[at].isspace():
            at += 1
    return at


def _syntax_problem(document: Document, error: MarkedYAMLError) -> Diagnostic:
    """A parser's complaint in one line: where, what was found, what to write."""
    mark, opened = error.problem_mark or error.context_mark, error.context_mark
    if mark is not None and opened is not None and opened.line != mark.line and _UNCLOSED.search(str(error.problem)):
        mark = opened  # what is never closed is shown where it was opened
    at = min(mark.index, len(document.text)) if mark is not None else len(document.text)
    problem = str(error.problem or error.context or "cannot be read as YAML").strip()
    line_start = document.starts[document.position(at)[0] - 1]
    before = document.text[line_start : at + 1]
    if ("\t" in before and not before.replace("\t", " ").strip()) or "'\\t'" in problem or "tab" in problem.lower():
        tab = document.text.find("\t", line_start)
        return document.diagnostic(
            "E005", "found a tab; YAML is indented with spaces, write spaces instead", at if tab < 0 else tab, at + 1
        )
    hints = (
        ("mapping values are not allowed", "found a second ': ' in one line; quote the text, or start a new line"),
        ("expected ',' or '}'", "a '{' is not closed, or a comma is missing; write {key: value, key: value}"),
        ("expected ',' or ']'", "a '[' is not closed, or a comma is missing; write [a, b]"),
        ("could not find expected ':'", "a key without ':' and a value; write `key: value`"),
        ("expected <block end>", "the indentation does not fit the lines above; align the key with its siblings"),
        ("unexpected end of stream", "a quote is opened and never closed; close it"),
        ("that cannot start any token", f"the character {document.text[at : at + 1]!r} cannot start a value; quote the text"),
    )
    for sign, hint in hints:
        if sign in problem:
            return document.diagnostic("E004", hint, at, at + 1)
    return document.diagnostic("E004", f"cannot be read as YAML: {' '.join(problem.split())}", at, at + 1)


def decode(content: bytes, path: str) -> Document:
    """The document of a file's bytes, not composed yet; a file that is too large or not UTF-8 has its problem recorded."""
    if len(content) > BYTES_MAX:
        document = Document(path=path, text="")
        document.problems.append(document.diagnostic("E003", "the file is larger than 1 MiB and was not read; split it", 0, 1))
        return document
    try:
        return Document(path=path, text=content.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        good = content[: error.start].decode("utf-8-sig", errors="replace")
        document = Document(path=path, text=good)
        message = f"not UTF-8: found the byte 0x{content[error.start]:02x}; save the file as UTF-8"
        document.problems.append(document.diagnostic("E002", message, len(good), len(good) + 1))
        return document


def _parse(document: Document) -> YamlNode | None:
    """The root node by the full YAML parser; what is wrong goes to the document's problems."""
    composer = _Composer(document)
    try:
        composer.take(YAML(typ="safe", pure=True).parse(document.text))
    except _Refused:
        return None
    except MarkedYAMLError as error:
        document.problems.append(_syntax_problem(document, error))
        return None
    except ReaderError as error:
        at = min(int(error.position), len(document.text))
        message = f"found the control character {document.text[at : at + 1]!r}; remove it"
        document.problems.append(document.diagnostic("E004", message, at, at + 1))
        return None
    except (YAMLError, ValueError, ArithmeticError, LookupError, AttributeError, TypeError, NotImplementedError, AssertionError) as error:
        # The parser trips over a few escapes and directives with errors of Python's own: still the user's file, still one message.
        message = f"cannot be read as YAML: {' '.join(str(error).split()) or type(error).__name__}"
        document.problems.append(document.diagnostic("E004", message, 0, 1))
        return None
    return composer.root


def compose(content: str | bytes, path: str) -> Document:
    """The file's nodes and everything wrong with it as YAML; never raises for what a user can write."""
    if isinstance(content, str):
        try:
            content.encode()
        except UnicodeEncodeError as error:
            document = Document(path=path, text=content[: error.start])
            end = len(document.text)
            document.problems.append(
                document.diagnostic("E002", "not UTF-8: found half of a surrogate pair; save the file as UTF-8", end, end + 1)
            )
            return document
        if len(content.encode()) > BYTES_MAX:
            return decode(content.encode(), path)
        document = Document(path=path, text=content.removeprefix("\ufeff"))
    else:
        document = decode(content, path)
    if document.problems:
        return document
    if not document.text.strip():
        document.problems.append(document.diagnostic("E008", "the file is empty; a runbook starts with `schema: reefd/v1`", 0, 1))
        return document
    document.root = read_plain(document.text) or _parse(document)
    if document.root is None and not document.problems:
        document.problems.append(
            document.diagnostic("E008", "the file holds comments only; a runbook starts with `schema: reefd/v1`", 0, 1)
        )
    return document
