"""`reefd fmt`'s form: what it changes, what it keeps, and that nothing it writes means anything else."""

from __future__ import annotations

import random
from collections import Counter
from functools import cache
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from runbook_example import EXAMPLE

from daemon.errors import RunbookError
from daemon.runbook.document import compose
from daemon.runbook.formatting import formatted, meaning
from daemon.runbook.load import load_text
from daemon.runbook.nodes import ListNode, MapNode, ScalarNode, YamlNode
from daemon.runbook.trivia import comments_of

ROOT = Path(__file__).resolve().parent.parent
FILES = [
    *sorted((ROOT / "runbooks").glob("*.yaml")),
    *sorted((ROOT / "daemon/runbook/templates").glob("*.yaml")),
    *sorted((ROOT / "docs/real-history/runbooks").glob("*.yaml")),
]
TEXTS = {path.name: path.read_text(encoding="utf-8") for path in FILES} | {"example": EXAMPLE}

HEAD = "schema: reefd/v1\nrunbook: a\ntitle: A\nowner: me\nseverity: info\nstage: shadow\nscope: position\n"
TAIL = "trigger:\n  when: size > 0 base\nsteps:\n  - id: tell\n    notify: {to: [desk], text: hello}\n"


@cache
def means(text: str) -> object:
    """What a text means, once it is loaded."""
    loaded = load_text(text, "x.yaml")
    assert loaded.ok, [error.render() for error in loaded.errors]
    return meaning(loaded.runbooks[0])


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_what_reefd_ships_is_in_form(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert formatted(text, str(path)) == text


REST = TAIL.removeprefix("trigger:\n  when: size > 0 base\n")
NOTIFY = " {to: [desk], text: hello}"
CASES: dict[str, tuple[str, str]] = {
    "keys come in the order of the format": (TAIL + HEAD, HEAD + TAIL),
    "four spaces become two": (
        HEAD + "trigger:\n    when: size > 0 base\n    for: 1m\nsteps:\n- id: tell\n  notify:\n      to:\n      - desk\n      text: b\n",
        HEAD + "trigger:\n  when: size > 0 base\n  for: 1m\nsteps:\n  - id: tell\n    notify:\n      to:\n        - desk\n      text: b\n",
    ),
    "spaces where one is enough": (
        HEAD + "locks:    [ position,account ]\nlimits: {  per_run: 5 USD  ,runs: 6/day}\n" + TAIL,
        HEAD + "trigger:\n  when: size > 0 base\nlocks: [position, account]\nlimits: {per_run: 5 USD, runs: 6/day}\n" + REST,
    ),
    "keys within braces come in order too": (HEAD + TAIL.replace(NOTIFY, " {text: hello, to: [desk]}"), HEAD + TAIL),
    "quotes only where they are needed": (
        HEAD.replace("title: A", "title: 'Paying too much'") + TAIL.replace("hello", "'{market}: hello'"),
        HEAD.replace("title: A", "title: Paying too much") + TAIL.replace("hello", '"{market}: hello"'),
    ),
    "a text that looks like a number or a truth keeps its quotes": (
        HEAD.replace("title: A", 'title: "2026"').replace("owner: me", 'owner: "true"') + TAIL,
        HEAD.replace("title: A", 'title: "2026"').replace("owner: me", 'owner: "true"') + TAIL,
    ),
    "one empty line is enough, and none at the ends": ("\n\n" + HEAD + "\n\n\n" + TAIL + "\n\n", HEAD + "\n" + TAIL),
    "no spaces at the end of a line, and a line break at the end": (HEAD.replace("\n", "  \n") + TAIL.rstrip("\n"), HEAD + TAIL),
    "line ends of other systems": ("\ufeff" + (HEAD + TAIL).replace("\n", "\r\n"), HEAD + TAIL),
    "a comment moves with its key": (
        "# the file\n\ntrigger:   #when\n    #deep\n    when: size > 0 base\n    # the last\n# who\n" + HEAD + REST,
        "# the file\n\n# who\n" + HEAD + "trigger:   # when\n  # deep\n  when: size > 0 base\n  # the last\n" + REST,
    ),
    "a comment before a step stays before it": (
        HEAD + TAIL.replace("  - id: tell\n  ", "# 1\n\n# 2\n- notify: {to: [x], text: b}\n  id: b\n- # 3\n  id: tell\n").rstrip() + " # 4",
        HEAD + TAIL.replace("  -", "  # 1\n\n  # 2\n  - id: b\n    notify: {to: [x], text: b}\n  # 3\n  -").rstrip() + "  # 4\n",
    ),
    "braces over several lines keep them": (
        HEAD + TAIL.replace(NOTIFY, " {\n       to: [desk,   # who\n  page],\n       text: hello\n     }"),
        HEAD + TAIL.replace(NOTIFY, " {\n      to: [desk,   # who\n        page],\n      text: hello\n      }"),
    ),
    "a text over several lines keeps them": (
        HEAD + TAIL.replace("size > 0 base", "size > 0 base\n        and size < 5 base"),
        HEAD + TAIL.replace("size > 0 base", "size > 0 base\n    and size < 5 base"),
    ),
    "a block of text keeps its lines": (
        HEAD + TAIL.replace(NOTIFY, "\n        to: [desk]\n        text: |\n            one\n              two\n"),
        HEAD + TAIL.replace(NOTIFY, "\n      to: [desk]\n      text: |\n        one\n          two"),
    ),
}


@pytest.mark.parametrize("name", sorted(CASES))
def test_form(name: str) -> None:
    written, wanted = CASES[name]
    assert formatted(written, "x.yaml") == wanted
    assert formatted(wanted, "x.yaml") == wanted
    assert means(written) == means(wanted)


def test_a_text_with_anchors_keeps_its_order_and_is_tidied_only() -> None:
    text = "title: A   \n\n\n" + HEAD.replace("title: A\n", "").replace("owner: me", "owner: &me me") + "labels: {a: *me}\n" + TAIL
    made = formatted(text, "x.yaml")
    assert made == text.replace("A   \n\n\n", "A\n\n")


def test_a_payload_keeps_the_quotes_that_make_a_text_of_a_number() -> None:
    text = HEAD.replace("severity: info\n", "severity: info\nintent: economy\n") + TAIL.replace(
        "notify: {to: [desk], text: hello}", 'webhook: {endpoint: x, payload: {a: "1", b: 1, c: "true", d: true, e: "null", f: "1e3"}}'
    )
    assert formatted(text, "x.yaml") == text


def test_a_file_with_mistakes_is_refused_with_all_of_them() -> None:
    with pytest.raises(RunbookError) as refused:
        formatted(HEAD + TAIL.replace("size > 0 base", "size > 5%").replace("hello", "'{nonsense}'"), "x.yaml")
    assert [diagnostic.code for diagnostic in refused.value.diagnostics] == ["E014", "E011"]


# --- the same runbooks, written in every way ----------------------------------------------------------------------------------------
COMMENTS = ["# why", "#tight", "# a: b", "## [x] {y}", "# - z", "#", "# 'quote"]


class Scrawl:
    """Writes a node in one of the many ways that YAML allows, with comments and empty lines anywhere."""

    def __init__(self, source: str, seed: int) -> None:
        self.source = source
        self.chance = random.Random(seed)
        self.lines: list[str] = []
        self.step = self.chance.randint(1, 4)

    def once_in(self, times: int) -> bool:
        return self.chance.randrange(times) == 0

    def noise(self, indent: int) -> None:
        while self.once_in(12):
            self.lines.append("" if self.once_in(2) else " " * self.chance.randint(0, indent) + self.chance.choice(COMMENTS))

    def trail(self) -> str:
        return " " * self.chance.randint(1, 6) + self.chance.choice(COMMENTS) if self.once_in(15) else ""

    def scalar(self, node: ScalarNode) -> str:
        written = self.source[node.start : node.end]
        if node.style or written in ("true", "false") or "\n" in written or '"' in node.text or "\\" in node.text:
            return written
        if "'" in node.text or not self.once_in(4):
            return written
        # A number or a truth means another thing in quotes only in a payload, which these runbooks do not have.
        return f'"{node.text}"' if self.once_in(2) else f"'{node.text}'"

    def is_flow(self, node: YamlNode) -> bool:
        return not isinstance(node, ScalarNode) and self.source[node.start] in "[{"

    def flow(self, node: YamlNode) -> str:
        space = " " * self.chance.randint(0, 2)
        match node:
            case ScalarNode():
                return self.scalar(node)
            case ListNode():
                return "[" + space + f",{space}".join(self.flow(item) for item in node.items) + space + "]"
            case MapNode():
                pairs = [f"{self.scalar(key)}: {self.flow(value)}" for key, value in node.entries]
                return "{" + space + f",{space}".join(pairs) + space + "}"

    def value(self, head: str, node: YamlNode, indent: int, *, shuffled: bool) -> None:
        if isinstance(node, ScalarNode) or (self.is_flow(node) and not self.once_in(5)) or not self.blockable(node):
            self.lines.append(f"{head} {self.flow(node)}{self.trail()}")
            return
        self.lines.append(head + self.trail())
        self.block(node, indent + self.step, shuffled=shuffled)

    def blockable(self, node: YamlNode) -> bool:
        """True for what can stand as a block: something, and no list directly in a list."""
        if isinstance(node, ListNode):
            return bool(node.items) and not any(isinstance(item, ListNode) for item in node.items)
        return isinstance(node, MapNode) and bool(node.entries)

    def block(self, node: YamlNode, indent: int, *, shuffled: bool, lead: str = "") -> None:
        if isinstance(node, ListNode):
            for item in node.items:
                self.noise(indent)
                if isinstance(item, MapNode) and (not self.is_flow(item) or self.once_in(5)):
                    self.block(item, indent + 2, shuffled=shuffled, lead=" " * indent + "- ")
                else:
                    self.value(" " * indent + "-", item, indent, shuffled=False)
            return
        assert isinstance(node, MapNode)
        entries = list(node.entries)
        if shuffled:
            self.chance.shuffle(entries)
        for key, value in entries:
            if not lead:
                self.noise(indent)
            # Names of a writer's own keep their order (a let may use the ones before it), and so do tests.
            own = key.text in ("let", "params", "given", "series", "labels", "max_age", "tests")
            self.value((lead or " " * indent) + self.scalar(key) + ":", value, indent, shuffled=shuffled and not own)
            lead = ""


@settings(max_examples=40, deadline=None)
@given(name=st.sampled_from(sorted(TEXTS)), seed=st.integers(0, 1 << 32))
def test_any_hand_comes_to_the_same_form_with_its_comments_and_its_meaning(name: str, seed: int) -> None:
    text = TEXTS[name]
    root = compose(text, "x.yaml").root
    assert root is not None
    hand = Scrawl(text, seed)
    hand.block(root, 0, shuffled=True)
    hand.noise(0)
    scrawl = "\n".join(hand.lines) + "\n"
    made = formatted(scrawl, "x.yaml")
    assert formatted(made, "x.yaml") == made
    assert means(made) == means(scrawl) == means(text)
    assert Counter(comments_of(compose(made, "x.yaml"))) == Counter(comments_of(compose(scrawl, "x.yaml")))
    bare = [line.partition(" #")[0].rstrip() for line in made.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    assert bare[0] == "schema: reefd/v1"
    assert all((len(line) - len(line.lstrip(" "))) % 2 == 0 for line in bare)
