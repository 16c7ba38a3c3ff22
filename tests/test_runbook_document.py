"""YAML with positions: what is refused, with which one message, and where every character of a value stands in the file."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.runbook.document import Document, _parse, compose
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.plainyaml import read_plain

BOMB = "a: &a [x,x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 10)}]\n" for i in range(9)
)


def texts(node: YamlNode | None) -> object:
    """Keys and values without style and places."""
    match node:
        case ScalarNode():
            return node.text
        case ListNode():
            return [texts(item) for item in node.items]
        case MapNode():
            return {key.text: texts(value) for key, value in node.entries}
        case _:
            return None


def shape(node: YamlNode | None) -> object:
    """A node as plain lists with offsets, for comparisons."""
    match node:
        case ScalarNode():
            return (node.text, node.style, node.start, node.end)
        case ListNode():
            return [node.start, *(shape(item) for item in node.items)]
        case MapNode():
            return {"start": node.start, "entries": [(shape(key), shape(value)) for key, value in node.entries]}
        case None:
            return None


@pytest.mark.parametrize(
    ("text", "line", "column", "code", "words"),
    [
        ("schema: reefd/v1\n\trunbook: a\n", 2, 1, "E005", "tab"),
        ("a:\n\tb: c\n", 2, 1, "E005", "tab"),
        ("a: |\n  text\n\tx\n", 3, 1, "E005", "tab"),
        ("", 1, 1, "E008", "empty"),
        ("   \n\n", 1, 1, "E008", "empty"),
        ("# nothing here\n", 1, 1, "E008", "comments"),
        (BOMB, 5, 29, "E003", "aliases"),
        ("a: " + "[" * 60 + "]" * 60 + "\n", 1, 53, "E003", "50 levels"),
        ("a: &a " + "[" * 30 + "]" * 30 + "\nb: " + "[" * 30 + "*a" + "]" * 30 + "\n", 2, 34, "E003", "50 levels"),
        ("a: &a [*a]\n", 1, 8, "E003", "inside what it names"),
        ("a: *b\n", 1, 4, "E004", "no anchor"),
        ("a: !!python/object:os.system x\n", 1, 4, "E004", "tag '!!python/object:os.system'"),
        ("a: !mine x\n", 1, 4, "E004", "tag '!mine'"),
        ("a: b\n---\nc: d\n", 2, 1, "E004", "second document"),
        ("%YAML 1.1\n---\na: b\n", 1, 1, "E004", "YAML 1.1"),
        ("a: b: c\n", 1, 5, "E004", "second ': '"),
        ("a: {b: c\nd: e\n", 1, 4, "E004", "not closed"),
        ('a: "b\nd: e\n', 1, 4, "E004", "never closed"),
        ("a: b\x00c\n", 1, 5, "E004", "control character"),
        ('a: "\\U00110000"\n', 1, 1, "E004", "cannot be read"),
        ("? [a]\n: b\n", 1, 3, "E004", "key"),
    ],
)
def test_document_refuses_with_one_message_at_the_token(text: str, line: int, column: int, code: str, words: str) -> None:
    document = compose(text, "x.yaml")
    assert [(d.line, d.column, d.code) for d in document.problems] == [(line, column, code)]
    assert words in document.problems[0].message
    assert document.root is None


def test_document_refuses_bytes_that_are_not_utf8_at_the_byte() -> None:
    (problem,) = compose(b"a: b\nc: caf\xe9\n", "x.yaml").problems
    assert (problem.line, problem.column, problem.code) == (2, 7, "E002")
    assert "0xe9" in problem.message


def test_document_refuses_half_a_surrogate_pair() -> None:
    (problem,) = compose("a: \ud800\n", "x.yaml").problems
    assert (problem.line, problem.column, problem.code) == (1, 4, "E002")


@pytest.mark.parametrize("content", [b"a" * 10_000_000, "a" * 1_100_000, "\u00e9" * 600_000])
def test_document_refuses_more_than_one_mebibyte_without_reading_it(content: str | bytes) -> None:
    (problem,) = compose(content, "x.yaml").problems
    assert (problem.code, problem.line, problem.column) == ("E003", 1, 1)


def test_document_reports_a_duplicate_key_at_the_second_and_reads_on() -> None:
    document = compose("a: 1\nb: 2\na: 3\n", "x.yaml")
    (problem,) = document.problems
    assert (problem.line, problem.column, problem.code) == (3, 1, "E006")
    assert "first in line 1" in problem.message
    assert isinstance(document.root, MapNode)
    assert [key.text for key, _ in document.root.entries] == ["a", "b"]


def test_document_says_to_quote_an_expression_whose_comma_ends_a_value() -> None:
    text = "trigger: {when: abs(a / median_over(peers, last_price) - 1) > 5%, for: 1h}\nnext: {b: max(1, min(2, 3)), c: d}\n"
    document = compose(text, "x.yaml")
    assert [(found.line, found.column, found.code, found.message) for found in document.problems] == [
        (1, 17, "E004", "quote the expression: in {...} a comma ends a value"),
        (2, 11, "E004", "quote the expression: in {...} a comma ends a value"),
    ]
    # Read on as it was meant: no further complaint about its pieces.
    quoted = text.replace("abs", "'abs").replace("5%", "5%'").replace("max", "'max").replace("3))", "3))'")
    assert texts(document.root) == texts(compose(quoted, "x.yaml").root)
    assert compose("a: {b: what :( , c: d}\n", "x.yaml").problems == []
    assert compose('a: {b: "f(x", y): z}\n', "x.yaml").problems == []


def test_document_reads_a_byte_order_mark_and_windows_line_ends() -> None:
    document = compose(b"\xef\xbb\xbfa: 1\r\nb: 2\r\n", "x.yaml")
    assert not document.problems
    assert isinstance(document.root, MapNode)
    assert document.position(document.root.entries[1][0].start) == (2, 1)


def test_document_keeps_words_that_other_yaml_readers_turn_into_values() -> None:
    document = compose("a: no\nb: 1_000\nc: 3m\nd: 12:30:00\ne: 0o14\nf: 2026-10-01\n", "x.yaml")
    assert isinstance(document.root, MapNode)
    assert [value.text for _, value in document.root.entries if isinstance(value, ScalarNode)] == [
        "no",
        "1_000",
        "3m",
        "12:30:00",
        "0o14",
        "2026-10-01",
    ]


def test_document_shares_an_alias_with_its_anchor() -> None:
    root = compose("a: &x {b: 1}\nc: *x\n", "x.yaml").root
    assert isinstance(root, MapNode)
    assert root.get("a") is root.get("c")


def test_document_starts_an_anchored_scalar_behind_its_anchor() -> None:
    document = compose("a: &x !!str  hello\n", "x.yaml")
    assert isinstance(document.root, MapNode)
    assert document.position(document.root.entries[0][1].start) == (1, 14)


STYLES = {
    "plain over lines": "k: one two\n  three   four\n\n  five\n",
    "single quoted": "k: 'it''s  one\n  two ''x'' three'\n",
    "double quoted": 'k: "a\\tb \\"c\\" \\u00e9x  d\n  e \\\n  f"\n',
    "literal": "k: |\n  one two\n    three\n\n  four\n",
    "literal with a header comment": "k: |2- # says why\n   one\n  two\n",
    "folded": "k: >-\n  one two\n  three\n\n    four\n  five\n",
    "in a flow": "k: {a: [x y, 'p q', \"r s\"]}\n",
}


@pytest.mark.parametrize("text", STYLES.values(), ids=STYLES.keys())
def test_document_maps_every_character_of_a_value_to_its_place(text: str) -> None:
    document = compose(text, "x.yaml")
    assert not document.problems
    scalars: list[ScalarNode] = []

    def collect(node: YamlNode) -> None:
        match node:
            case ScalarNode():
                scalars.append(node)
            case ListNode():
                for item in node.items:
                    collect(item)
            case MapNode():
                for _, value in node.entries:
                    collect(value)

    assert document.root is not None
    collect(document.root)
    for scalar in scalars:
        offsets = [document.offset_in(scalar, i) for i in range(len(scalar.text) + 1)]
        assert offsets == sorted(offsets)
        assert all(scalar.start <= offset <= scalar.end for offset in offsets)
        for i, char in enumerate(scalar.text):
            found = document.text[offsets[i]]
            assert char.isspace() or found in (char, "\\"), (char, found, i)


words = st.text(alphabet="abc'%<>=().:-#{}[]\"\\ ", min_size=1, max_size=12)


@settings(max_examples=150, deadline=None)
@given(st.lists(words, min_size=1, max_size=5), st.sampled_from(["'", "|", ">"]))
def test_document_maps_generated_values_to_their_places(parts: list[str], style: str) -> None:
    lines = [part.strip() or "x" for part in parts]
    if style == "'":
        text = "k: '" + "\n  ".join(line.replace("'", "''") for line in lines) + "'\n"
    else:
        text = f"k: {style}\n" + "".join(f"  {line}\n" for line in lines)
    document = compose(text, "x.yaml")
    assert not document.problems, text
    assert isinstance(document.root, MapNode)
    scalar = document.root.entries[0][1]
    assert isinstance(scalar, ScalarNode)
    for i, char in enumerate(scalar.text):
        if not char.isspace():
            assert document.text[document.offset_in(scalar, i)] == char


# --- the fast reader against the full parser ------------------------------------------------------------------------------

# Mostly what the fast reader takes, so that it answers; the rest is what it must decline or read exactly alike.
plain = [
    "a",
    "3m",
    "-8d",
    "25_000 USD",
    "0.05%/h",
    "dydx:ETH-USD",
    "'q''s'",
    '"x: y"',
    "a > b and c",
    "x #y",
    "a:b",
    "~",
    "é",
    "x  y",
    "a\\b",
    "x'y",
]
odd = ["x # y", "", "*a", "&a b", "!t x", "- x", "a: b", "[", "]", "{", "}", "a, b", "|", ">", "?", "? a", ":", "-", "--- a", "%x", "@a",
       "\u2028",
       '"a\\b"', "#c", "'"]  # fmt: skip
often = st.integers(0, 19)
atoms = often.flatmap(lambda n: st.sampled_from(odd if n == 0 else plain))
keys = often.flatmap(lambda n: st.sampled_from(["<<", "", "x y", "a"] if n == 0 else ["a", "b", "c-d", "e.f", "0s", "-8d", "g", "h"]))


def flow(children: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    space = often.flatmap(lambda n: st.sampled_from(["\n", "\n   ", " # c\n      "] if n < 2 else ["", " "]))
    listed = st.builds(lambda items, s: "[" + ("," + s).join(items) + s + "]", st.lists(children, max_size=3), space)
    mapped = st.builds(
        lambda items, s: "{" + ("," + s).join(f"{k}: {v}" for k, v in items) + s + "}",
        st.lists(st.tuples(keys, children), max_size=3),
        space,
    )
    return listed | mapped


flows = st.recursive(atoms, flow, max_leaves=6)


@st.composite
def blocks(draw: st.DrawFn, indent: int = 0, depth: int = 0) -> str:
    """A block mapping or list, mostly well formed."""
    pad = " " * indent
    out = ""
    listed = draw(st.booleans()) if depth else False
    for _ in range(draw(st.integers(1, 3))):
        comment = draw(st.sampled_from(["", "", "", "\n", f"{pad}# c\n", "# c\n", "  # c\n"]))
        head = f"{pad}-" if listed else f"{pad}{draw(keys)}:"
        step = draw(st.sampled_from([2, 2, 2, 2, 2, 4, 4, 1, 0]))
        kind = draw(st.sampled_from(["inline", "inline", "block", "compact"])) if depth < 2 else "inline"
        if kind == "block":
            out += f"{comment}{head}{draw(st.sampled_from(['', ' ', ' # c']))}\n" + draw(blocks(indent + step, depth + 1))
        elif kind == "compact" and listed:
            out += f"{comment}{head} " + draw(blocks(indent + 2, depth + 1)).lstrip(" ")
        else:
            out += f"{comment}{head} {draw(flows)}{draw(st.sampled_from(['', '', ' ', ' # c']))}\n"
    return out


@settings(max_examples=200, deadline=None)
@given(blocks())
def test_fast_reader_agrees_with_the_full_parser_wherever_it_answers(text: str) -> None:
    fast = read_plain(text)
    if fast is None:
        return
    document = Document(path="x.yaml", text=text)
    full = _parse(document)
    assert not document.problems, (text, document.problems)
    assert shape(fast) == shape(full)


def test_fast_reader_reads_an_ordinary_runbook() -> None:
    text = (
        "a: b  # c\nlist:\n- x\n- {p: 1, q: [2, 3]}\nsteps:\n  - id: one\n    halt: {scope: position}\n"
        "\n  # why\n  - id: two\n    text: 'it''s'\nlast: \"x: y\"\n"
    )
    assert shape(read_plain(text)) == shape(_parse(Document(path="x", text=text)))
    assert read_plain(text) is not None


# --- anything at all ----------------------------------------------------------------------------------------------------

yaml_like = st.text(alphabet="ab:-#&*!|>'\"%@`{}[],? \n\t\r\\x0~é\u2028\ufeff\x00", max_size=60)


@settings(max_examples=200, deadline=None)
@given(yaml_like | st.text(max_size=40) | blocks())
def test_document_never_raises_and_points_into_the_file(text: str) -> None:
    document = compose(text, "x.yaml")
    assert document.root is not None or document.problems
    lines = document.text.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for problem in document.problems:
        assert 1 <= problem.line <= len(lines)
        assert 1 <= problem.column <= len(lines[problem.line - 1]) + 1


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=60))
def test_document_never_raises_for_any_bytes(content: bytes) -> None:
    document = compose(content, "x.yaml")
    assert document.root is not None or document.problems
