"""A runbook's text line by line, lightly coloured (floor 8): comments, keys, quoted text, quantities. Everything is escaped."""

from __future__ import annotations

import re

from markupsafe import Markup, escape

_TOKEN = re.compile(
    r"(?P<comment>(?:^|(?<=\s))#.*$)"
    r"|(?P<text>\"(?:[^\"\\]|\\.)*\"|'(?:[^']|'')*')"
    r"|(?P<key>[A-Za-z_][\w@.-]*(?=\s*:(?:\s|$)))"
    r"|(?P<number>(?<![\w.])[+-]?\d[\d_]*(?:\.\d+)?(?:%|bps|[a-zA-Z]+)?(?:/(?:base|day|\d*[hmd]))?(?![\w.]))"
    r"|(?P<word>\b(?:and|or|not|true|false|armed|shadow|disabled)\b)"
)


def source_lines(source: str) -> tuple[Markup, ...]:
    """One piece of markup a line."""
    return tuple(_line(text) for text in source.rstrip("\n").split("\n"))


def _line(text: str) -> Markup:
    done, at = Markup(""), 0
    for token in _TOKEN.finditer(text):
        done += escape(text[at : token.start()])
        done += Markup('<span class="y-{}">{}</span>').format(token.lastgroup, token[0])
        at = token.end()
    return done + escape(text[at:])
