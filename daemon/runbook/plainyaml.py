"""A fast reader for the plain YAML that runbooks are written in (floor 3): `read_plain("a: 3m\\n")`, or None.

Block mappings and lists, flow collections, one-line scalars, comments. Whatever is rarer (anchors, tags, block scalars, escapes, text
over several lines, tabs, anything doubtful or wrong) makes it return None, and the full parser reads the file and words the errors.
Why: the full parser takes 20 ms for a runbook, this one half of one, and `reefd check` of 50 runbooks has one second.
A property test holds the two equal wherever this one answers.
"""

from __future__ import annotations

import re

from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode

# Longer files cannot be proven to stay under the limit of nodes without counting; the full parser counts.
_CHARACTERS_MAX = 150_000
_DEPTH_MAX = 16

_PLAIN_TEXT = re.compile(r"[\n\x20-\x7e\u00a0-\u2027\u2030-\ud7ff\ue000-\ufefe\uff00-\ufffd]*")
_KEY = re.compile(r"(-?[A-Za-z0-9_][A-Za-z0-9_.\-/]{0,200}):(?= |\n|\Z)")
_PLAIN_LINE = re.compile(r"(?![-?:](?: |\n|\Z))[^,\[\]{}#&*!|>'\"%@`\n ?:](?:[^\n:#]|:(?! |\n|\Z)|(?<! )#)*")
_PLAIN_FLOW = re.compile(r"(?!-[ ,\[\]{}\n])[^,\[\]{}#&*!|>'\"%@`\n ?:](?:[^\n:#,\[\]{}]|:(?![ ,\[\]{}\n]|\Z)|(?<! )#)*")
_SINGLE = re.compile(r"'((?:[^'\n]|'')*)'")
_DOUBLE = re.compile(r'"([^"\\\n]*)"')
_REST = re.compile(r" *(?:(?<= )#[^\n]*)?(?:\n|\Z)")
_SPACE = re.compile(r"(?:[ \n]+(?:#[^\n]*)?)*")
_BLANK = re.compile(r"(?: *(?:#[^\n]*)?\n)*(?: *(?:#[^\n]*)?\Z)?")


class _Declined(Exception):
    """Something rarer than plain: the full parser's turn."""


class _PlainReader:
    """Reads one text from `at` on; every method leaves `at` behind what it read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0

    def _skip_blank(self) -> int:
        """Moves to the next line that holds something and returns its indentation, -1 at the end."""
        match = _BLANK.match(self.text, self.at)
        assert match is not None
        self.at = match.end()
        if self.at >= len(self.text):
            return -1
        start = self.at
        while self.text.startswith(" ", self.at):
            self.at += 1
        indent, self.at = self.at - start, start
        return indent

    def _end_line(self) -> None:
        match = _REST.match(self.text, self.at)
        if match is None:
            raise _Declined
        self.at = match.end()

    def _quoted(self) -> ScalarNode:
        single = self.text[self.at] == "'"
        match = (_SINGLE if single else _DOUBLE).match(self.text, self.at)
        if match is None:
            raise _Declined
        start, self.at = self.at, match.end()
        value = match[1].replace("''", "'") if single else match[1]
        return ScalarNode(value, "'" if single else '"', start, self.at)

    def _plain(self, pattern: re.Pattern[str]) -> ScalarNode:
        match = pattern.match(self.text, self.at)
        if match is None:
            raise _Declined
        value = match[0].rstrip(" ")
        start, self.at = self.at, self.at + len(value)
        return ScalarNode(value, "", start, self.at)

    def _flow_space(self, indent: int) -> None:
        match = _SPACE.match(self.text, self.at)
        assert match is not None
        if "\n" in match[0]:
            last = self.text.rfind("\n", self.at, match.end())
            if match.end() - last - 1 <= indent:
                raise _Declined  # a continued flow collection must be indented deeper than its parent
        self.at = match.end()

    def _flow(self, indent: int, depth: int) -> YamlNode:
        char = self.text[self.at : self.at + 1]
        if depth > _DEPTH_MAX or not char:
            raise _Declined
        if char in "'\"":
            return self._quoted()
        if char not in "[{":
            return self._plain(_PLAIN_FLOW)
        start, mapping, close = self.at, char == "{", "}" if char == "{" else "]"
        self.at += 1
        items: list[YamlNode] = []
        entries: list[tuple[ScalarNode, YamlNode]] = []
        while True:
            self._flow_space(indent)
            if self.text.startswith(close, self.at):
                break
            if mapping:
                key = self._quoted() if self.text[self.at : self.at + 1] in ("'", '"') else self._plain(_PLAIN_FLOW)
                if len(key.text) > 200 or self.text[self.at : self.at + 2] not in (": ", ":\n"):
                    raise _Declined
                self.at += 1
                self._flow_space(indent)
                entries.append((key, self._flow(indent, depth + 1)))
            else:
                items.append(self._flow(indent, depth + 1))
            self._flow_space(indent)
            if self.text.startswith(",", self.at):
                self.at += 1
            elif not self.text.startswith(close, self.at):
                raise _Declined
        self.at += 1
        return _mapping(entries, start, self.at) if mapping else ListNode(tuple(items), start, self.at)

    def _inline(self, indent: int, depth: int) -> YamlNode:
        """A value that starts in this line, and the end of its line; a deeper next line would continue it."""
        char = self.text[self.at]
        if char in "[{":
            node = self._flow(indent, depth)
        elif char in "'\"":
            node = self._quoted()
        else:
            node = self._plain(_PLAIN_LINE)
        self._end_line()
        if self._skip_blank() > indent:
            raise _Declined
        return node

    def _value(self, indent: int, depth: int, *, under_key: bool) -> YamlNode:
        """What follows `key:` or `-`: in this line, or as a block in the next lines."""
        while self.text.startswith(" ", self.at):
            self.at += 1
        if self.at < len(self.text) and self.text[self.at] not in "\n#":
            return self._inline(indent, depth)
        self._end_line()
        deeper = self._skip_blank()
        listed = under_key and deeper == indent and self.text.startswith("- ", self.at + deeper)
        if deeper <= indent and not listed:
            raise _Declined
        return self._block(deeper, depth + 1)

    def _block(self, indent: int, depth: int) -> YamlNode:
        """The block collection whose first line stands at `at` with this indentation."""
        if depth > _DEPTH_MAX:
            raise _Declined
        if self.text.startswith("- ", self.at + indent) or self.text.startswith("-\n", self.at + indent):
            return self._list(indent, depth)
        self.at += indent
        return self._map(indent, depth)

    def _list(self, indent: int, depth: int) -> ListNode:
        start = self.at + indent
        items: list[YamlNode] = []
        while True:
            line, self.at = self.at, self.at + indent + 1
            after = self.at
            while self.text.startswith(" ", after):
                after += 1
            if self.text.startswith(("- ", "-\n"), after):
                raise _Declined
            if _KEY.match(self.text, after):
                self.at = after
                items.append(self._map(after - line, depth + 1))
            else:
                items.append(self._value(indent, depth, under_key=False))
            found = self._skip_blank()
            if found < indent or not self.text.startswith(("- ", "-\n"), self.at + found):
                return ListNode(tuple(items), start, self.at)
            if found > indent:
                raise _Declined

    def _map(self, indent: int, depth: int) -> MapNode:
        start = self.at
        entries: list[tuple[ScalarNode, YamlNode]] = []
        while True:
            match = _KEY.match(self.text, self.at)
            if match is None:
                raise _Declined
            key = ScalarNode(match[1], "", self.at, match.end(1))
            self.at = match.end()
            entries.append((key, self._value(indent, depth, under_key=True)))
            found = self._skip_blank()
            if found < indent:
                return _mapping(entries, start, self.at)
            if found > indent:
                raise _Declined
            self.at += indent

    def root(self) -> MapNode:
        indent = self._skip_blank()
        if indent != 0:
            raise _Declined
        node = self._map(0, 1)
        if self.at < len(self.text):
            raise _Declined
        return node


def _mapping(entries: list[tuple[ScalarNode, YamlNode]], start: int, end: int) -> MapNode:
    if len({key.text for key, _ in entries}) != len(entries):
        raise _Declined  # a duplicate: the full parser's composer words it
    return MapNode(tuple(entries), start, end)


def read_plain(text: str) -> MapNode | None:
    """The root mapping of a plain YAML text, None when the full parser has to read it."""
    if len(text) > _CHARACTERS_MAX or _PLAIN_TEXT.fullmatch(text) is None:
        return None
    try:
        return _PlainReader(text).root()
    except _Declined:
        return None
