"""Comments and empty lines of a YAML file, each with what it stands at (floor 3): `Trivia(document).before[key.start]`.

An own line belongs to the next key or dash, unless it is indented deeper than that: then it is the last line of the block above. A comment
behind something belongs to the value (or, where the value is a block, to the key) in its line.
"""

from __future__ import annotations

import re
from bisect import bisect_left, bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, field

from daemon.runbook.document import Document
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode

_COMMENT = re.compile(r"(?:(?<=[ \t\n])|^)#[^\n]*", re.MULTILINE)


class Declined(Exception):
    """Rarer YAML than the writer takes apart: anchors, aliases, tags, directives, explicit keys."""


def scalars(node: YamlNode) -> Iterator[ScalarNode]:
    """Keys and values of a node."""
    if isinstance(node, ScalarNode):
        yield node
    elif isinstance(node, ListNode):
        for item in node.items:
            yield from scalars(item)
    else:
        for key, value in node.entries:
            yield key
            yield from scalars(value)


def gaps(document: Document) -> Iterator[tuple[int, int]]:
    """The stretches of the text between its scalars: punctuation, spaces, comments. A block scalar ends with its last line."""
    at = 0
    spans = sorted({(s.start, _end(document.text, s)) for s in (scalars(document.root) if document.root is not None else ())})
    for start, end in spans:
        yield at, max(at, start)
        at = max(at, end)
    yield at, len(document.text)


def _end(text: str, scalar: ScalarNode) -> int:
    if scalar.style not in ("|", ">"):
        return scalar.end
    return scalar.start + len(text[scalar.start : scalar.end].rstrip(" \n"))


def _found(document: Document) -> Iterator[re.Match[str]]:
    for start, end in gaps(document):
        # `#` begins a comment only behind a space or at the start of a line, and a gap begins behind a scalar.
        yield from (m for m in _COMMENT.finditer(document.text, start, end) if m.start() > start or start == 0)


def comments_of(document: Document) -> list[str]:
    """All comments, without the spaces around them."""
    return [_tidy(match[0]) for match in _found(document)]


def _tidy(comment: str) -> str:
    comment = comment.rstrip()
    return re.sub(r"^(#+)(?=[^\s#!])", r"\1 ", comment)


@dataclass(slots=True)
class Depths:
    """How many brackets are open at an offset."""

    offsets: list[int] = field(default_factory=list)
    counts: list[int] = field(default_factory=lambda: [0])

    def before(self, at: int) -> int:
        """Brackets that are open in front of `at`."""
        return self.counts[bisect_right(self.offsets, at - 1)]

    def __contains__(self, at: int) -> bool:
        return at in self.offsets


@dataclass(slots=True, kw_only=True)
class _Item:
    """A key of a block mapping, or a dash of a block list."""

    at: int  # offset of the key or the dash
    line: int
    column: int
    value: YamlNode


class Trivia:
    """What stands between the keys and values of a document. Raises Declined for rarer YAML."""

    def __init__(self, document: Document) -> None:
        assert isinstance(document.root, MapNode), "only mappings are taken apart"
        self.document = document
        self.root: MapNode = document.root
        self.head: list[str] = []  # lines in front of the first key of the file; "" is an empty line, here and below
        self.before: dict[int, list[str]] = {}  # offset of a key or dash -> lines in front of it
        self.after: dict[int, list[str]] = {}  # the same -> lines at the end of its block
        self.behind: dict[int, tuple[int, str]] = {}  # the same -> 0-based column and comment in its line, or in the last line of its value
        self.tail: list[str] = []  # lines at the end of the file
        self.dashes: dict[int, int] = {}  # offset of a list's item -> offset of its dash
        self.depths = Depths()
        self._punctuation()
        self.items = sorted(self._items(self.root), key=lambda item: item.at)
        self.item_lines = [item.line for item in self.items]
        self._lines()

    def _punctuation(self) -> None:
        """Counts the brackets, and declines what is neither punctuation nor a comment."""
        text = self.document.text
        for start, end in gaps(self.document):
            at = start
            while at < end:
                comment = _COMMENT.match(text, at, end) if at > start or start == 0 else None
                if comment is not None:
                    at = comment.end()
                    continue
                if text[at] not in " \n:,[]{}-":
                    raise Declined
                if text[at] in "[{]}":
                    self.depths.offsets.append(at)
                    self.depths.counts.append(self.depths.counts[-1] + (1 if text[at] in "[{" else -1))
                at += 1

    def _flow(self, node: YamlNode) -> bool:
        return not isinstance(node, ScalarNode) and self.document.text[node.start] in "[{"

    def _items(self, node: YamlNode) -> Iterator[_Item]:
        if isinstance(node, ScalarNode) or self._flow(node):
            return
        if isinstance(node, MapNode):
            for key, value in node.entries:
                line, column = self.document.position(key.start)
                yield _Item(at=key.start, line=line, column=column, value=value)
                yield from self._items(value)
            return
        for item in node.items:
            dash = self._dash(item.start)
            self.dashes[item.start] = dash
            line, column = self.document.position(dash)
            yield _Item(at=dash, line=line, column=column, value=item)
            yield from self._items(item)

    def _dash(self, start: int) -> int:
        """The dash in front of a list's item: in its line, or in one above that holds nothing else."""
        text = self.document.text
        at = start
        while (at := text.rfind("-", 0, at)) >= 0:
            if not text[text.rfind("\n", 0, at) + 1 : at].strip(" -"):
                return at
        raise Declined

    def _last(self, node: YamlNode) -> int:
        """The line in which a value ends."""
        if isinstance(node, ScalarNode):
            return self.document.position(max(node.start, _end(self.document.text, node) - 1))[0]
        if self._flow(node):
            return self.document.position(node.end - 1)[0]
        below = [value for _, value in node.entries] if isinstance(node, MapNode) else list(node.items)
        return self._last(below[-1])

    def _lines(self) -> None:
        """Gives every own line and every comment its place, from the first line to the last."""
        comments = {self.document.position(match.start())[0]: match for match in _found(self.document)}
        inside = {
            n for s in scalars(self.root) for n in range(self.document.position(s.start)[0] + 1, self._last(s) + 1)
        }  # lines of texts over several lines
        empty = False
        for number in range(1, len(self.document.starts) + 1):
            start = self.document.starts[number - 1]
            content = self.document.line_text(number).strip(" ")
            if number in inside or self.depths.before(start):
                if number in comments and not self.depths.before(comments[number].start()):
                    self._behind(number, comments[number])  # in the last line of a value
                empty = False
            elif not content:
                empty = True
            else:
                lead = [""] if empty else []
                empty = False
                match = comments.get(number)
                if match is not None and content.startswith("#"):
                    self._own(number, match.start() - start + 1, [*lead, _tidy(match[0])])
                    continue
                self._lead(number, lead)
                if match is not None and not self.depths.before(match.start()):
                    self._behind(number, match)

    def _lead(self, line: int, lead: list[str]) -> None:
        """An empty line in front of the outermost key or dash of a line."""
        index = bisect_left(self.item_lines, line)
        if index < len(self.items) and self.items[index].line == line and lead:
            into = self.head if index == 0 else self.before.setdefault(self.items[index].at, [])
            into.extend(lead)

    def _behind(self, line: int, match: re.Match[str]) -> None:
        item = self.items[bisect_right(self.item_lines, line) - 1] if self.item_lines[0] <= line else None
        if item is None or (isinstance(item.value, ScalarNode) and item.value.style in ("|", ">")):
            raise Declined
        block = not isinstance(item.value, ScalarNode) and not self._flow(item.value)
        lines = (item.line,) if block else (self._last(item.value),)
        if isinstance(item.value, ScalarNode) and item.value.start == item.value.end:
            lines = (item.line,)
        if line not in lines or item.at in self.behind:
            raise Declined
        self.behind[item.at] = (self.document.position(match.start())[1] - 1, _tidy(match[0]))

    def _own(self, line: int, column: int, lines: list[str]) -> None:
        index = bisect_right(self.item_lines, line)
        if index == 0:
            self.head.extend(lines)
            return
        following = self.items[index] if index < len(self.items) else None
        if following is not None and column <= following.column:
            self.before.setdefault(following.at, []).extend(lines)
            return
        # Deeper than what follows: the last line of the innermost block above that is not deeper than the comment.
        owner = next((item for item in self._open(index - 1) if item.column <= column), None)
        if owner is None or (following is None and column == 1):
            into = self.tail if following is None else self.before.setdefault(following.at, [])
            into.extend(lines)
        else:
            self.after.setdefault(owner.at, []).extend(lines)

    def _open(self, index: int) -> list[_Item]:
        """The item at an index and those around it, innermost first."""
        chain: list[_Item] = []
        for item in reversed(self.items[: index + 1]):
            if not chain or item.column < chain[-1].column:
                chain.append(item)
        return chain
