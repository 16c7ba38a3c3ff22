"""The documentation is true: links lead somewhere, YAML loads, commands exist, and what is written from the code is up to date."""

from __future__ import annotations

import base64
import importlib.util
import re
import shlex
import textwrap
import threading
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from types import ModuleType
from typing import Any
from urllib.parse import unquote

import pytest
from jsonschema import Draft202012Validator
from standardwebhooks import Webhook
from test_cli import Called
from test_runbook_schema import core
from typer.testing import CliRunner

from daemon import cli
from daemon.app.schemas import SCHEMAS
from daemon.language.catalogue import CATALOGUE
from daemon.language.typing import OVERS, SCALARS, WINDOWS
from daemon.runbook.document import compose
from daemon.runbook.load import load_text
from daemon.settings import parse_settings
from daemon.world.entities import Kind

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)(?:\s+\"[^\"]*\")?\)")
FENCE = re.compile(r"^(?P<indent> *)```(?P<language>\w*)[^\n]*\n(?P<body>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    """A page by its path in the checkout."""
    return path.relative_to(ROOT).as_posix()


@cache
def text_of(path: Path) -> str:
    return path.read_text(encoding="utf-8")


@cache
def generator() -> ModuleType:
    """docs/generate.py as a module."""
    spec = importlib.util.spec_from_file_location("docs_generate", ROOT / "docs/generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- links ----------------------------------------------------------------------------------------------------------------------------
@cache
def anchors(path: Path) -> frozenset[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    seen: Counter[str] = Counter()
    made = set()
    for heading in re.findall(r"^#{1,6} +(.+?) *$", FENCE.sub("", text_of(path)), re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).replace("`", "")
        slug = re.sub(r"[^\w\- ]", "", plain.lower()).replace(" ", "-")
        made.add(f"{slug}-{seen[slug]}" if seen[slug] else slug)
        seen[slug] += 1
    return frozenset(made)


def links(path: Path) -> Iterator[str]:
    """Every link of a page that is not in code."""
    yield from LINK.findall(re.sub(r"`[^`\n]*`", "", FENCE.sub("", text_of(path))))


@pytest.mark.parametrize("path", PAGES, ids=name_of)
def test_every_link_of_a_page_leads_somewhere(path: Path) -> None:
    broken = []
    for link in links(path):
        if re.match(r"[a-z]+:", link):
            continue
        file, _, anchor = unquote(link).partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or ROOT not in (target, *target.parents):
            broken.append(f"{link}: there is no such file")
        elif anchor and (target.suffix != ".md" or anchor not in anchors(target)):
            broken.append(f"{link}: there is no such heading")
    assert broken == []


def test_every_page_can_be_reached_from_the_index() -> None:
    reached, todo = set(), [ROOT / "docs/README.md"]
    while todo:
        page = todo.pop()
        if page in reached or not page.exists() or page.suffix != ".md":
            continue
        reached.add(page)
        todo += [(page.parent / link.partition("#")[0]).resolve() for link in links(page) if not re.match(r"[a-z]+:|#", link)]
    assert sorted(name_of(page) for page in PAGES if page not in reached and page.name != "README.md") == []


# --- what is written from the code ----------------------------------------------------------------------------------------------------
def test_the_reference_is_the_one_that_the_code_generates() -> None:
    made: dict[str, str] = generator().pages()
    written = {path.name: text_of(path) for path in sorted((ROOT / "docs/reference").glob("*.md")) if path.name != "README.md"}
    stale = sorted(name for name in {*made, *written} if made.get(name) != written.get(name))
    assert stale == [], "write the reference anew: make docs"


def test_every_function_of_the_language_is_in_the_reference() -> None:
    assert set(generator().FUNCTIONS) == {*SCALARS, *WINDOWS, *OVERS, "age", "known", "signal"}


@pytest.mark.parametrize("kind", list(Kind), ids=lambda kind: kind.value)
def test_the_table_of_signals_of_a_scope_equals_the_catalogue(kind: Kind) -> None:
    section = text_of(ROOT / "docs/signals.md").partition(f"\n## {kind.value}\n")[2].partition("\n## ")[0]
    told = [line for line in section.splitlines() if line.startswith("| `")]
    assert told == generator().signal_rows(kind)


def test_every_signal_that_is_told_has_a_derivation_or_a_source() -> None:
    assert all(bool(s.derivation) != (s.role == "observed") for s in CATALOGUE.values())


# --- YAML -----------------------------------------------------------------------------------------------------------------------------
def fences(*languages: str) -> list[Any]:
    """(page, first line, body) of every block of these languages."""
    found = []
    for path in PAGES:
        for match in FENCE.finditer(text_of(path)):
            if match["language"] in languages:
                line = text_of(path).count("\n", 0, match.start()) + 1
                body = re.sub(rf"(?m)^{match['indent']}", "", match["body"])
                if match["language"] == "console":  # what is not typed is printed
                    body = "".join(f"{text[2:]}\n" for text in body.splitlines() if text.startswith(("$ ", "# ")))
                found.append(pytest.param(path, body, id=f"{name_of(path)}:{line}"))
    return found


def of_part(schema: Any, keys: set[str]) -> Draft202012Validator:
    """The schema of a part of a file: the keys it has, none required."""
    part = {key: schema["properties"][key] for key in keys}
    return Draft202012Validator({"type": "object", "properties": part, "$defs": schema.get("$defs", {})})


def complaints(validator: Draft202012Validator, value: object) -> list[str]:
    return [f"{error.json_path}: {error.message[:200]}" for error in validator.iter_errors(value)]


@pytest.mark.parametrize(("path", "body"), fences("yaml", "yml"))
def test_yaml_of_the_docs_is_what_it_looks_like(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    document = compose(body, name_of(path))
    if document.root is None:
        assert all(line.startswith("#") or not line for line in body.splitlines()), document.problems
        return
    assert document.problems == []
    value = core(document.root)
    runbook: Any = SCHEMAS["runbook"]()
    if isinstance(value, list):
        steps = Draft202012Validator({"type": "array", "items": {"$ref": "#/$defs/step"}, "$defs": runbook["$defs"]})
        assert complaints(steps, value) == []
        return
    assert isinstance(value, dict)
    keys = set(value)
    settings: Any = SCHEMAS["settings"]()
    scenario: Any = SCHEMAS["scenario"]()
    if "schema" in keys:
        assert [error.render() for error in load_text(body, name_of(path)).errors] == []
    elif "venues" in keys:
        for name in re.findall(r"env:([A-Z_]+)", body):
            monkeypatch.setenv(name, "whsec_" + "QUFB" * 8)
        parse_settings(body, name_of(path))
    elif path.name in ("simulated-venue.md", "scenarios.md"):
        assert complaints(of_part(scenario, keys), value) == []
    elif keys <= set(runbook["properties"]):
        assert complaints(of_part(runbook, keys), value) == []
    elif keys <= set(settings["properties"]):
        assert complaints(of_part(settings, keys), value) == []
    else:  # files of their own, each with its own tests: books, worlds, mappings, accounts, other programs' settings
        assert path.name in OTHER_FILES, f"{name_of(path)}: a YAML block with the keys {sorted(keys)} is of no kind that is known"


OTHER_FILES = {"books.md", "worlds.md", "recordings.md", "replay.md", "metrics.md", "mqtt.md", "real-history.md", "operations.md",
               "backtest.md", "tutorial.md"}


# --- commands -------------------------------------------------------------------------------------------------------------------------
def commands(body: str) -> Iterator[str]:
    """The `reefd ...` lines of a block, continued lines joined, prompts and comments taken away."""
    for line in body.replace("\\\n", " ").splitlines():
        words = re.sub(r"^(?:[A-Z_]+=\S+ )*", "", line.strip())
        if words.startswith("reefd "):
            yield re.split(r"\s+#|\s+[|>]|;|\s+&&?|&$", words)[0].strip()


def test_the_lines_of_a_block_are_taken_apart() -> None:
    body = "reefd check a.yaml  # why\nreefd replay \\\n  --verify\nA=b reefd run | tee x\nreefd test x && reefd fmt y\n  ls\n"
    assert list(commands(body)) == ["reefd check a.yaml", "reefd replay    --verify", "reefd run", "reefd test x"]


@pytest.mark.parametrize(("path", "body"), fences("", "sh", "console", "bash", "shell", "text", "ini"))
def test_commands_of_the_docs_exist_with_their_options(path: Path, body: str, monkeypatch: pytest.MonkeyPatch) -> None:
    called = Called()
    monkeypatch.setattr(cli, "_job", called)
    for command in commands(body):
        if "..." in command:
            continue
        done = CliRunner().invoke(cli.app, shlex.split(command)[1:], env={"COLUMNS": "120"})
        assert done.exit_code == 0, f"{name_of(path)}: {command}: {done.output.strip().splitlines()[-1:]}"


def test_targets_of_make_in_the_docs_exist() -> None:
    known = set(re.findall(r"^([a-z]+):", text_of(ROOT / "Makefile"), re.MULTILINE))
    told = {word for path in PAGES for word in re.findall(r"(?:`|^)make ([a-z]+)\b", text_of(path), re.MULTILINE)}
    assert told
    assert told <= known


# --- programs -------------------------------------------------------------------------------------------------------------------------
def program(page: str) -> dict[str, Any]:
    """The names that the Python of a page defines."""
    blocks = [match["body"] for match in FENCE.finditer(text_of(ROOT / page)) if match["language"] == "python"]
    assert len(blocks) == 1
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(blocks[0]), page, "exec"), names)
    return names


def test_the_receiver_of_the_guide_takes_what_is_signed_and_nothing_else() -> None:
    verify = program("docs/how-to/receive-webhooks.md")["verify"]
    secret, other = ("whsec_" + base64.b64encode(word * 6).decode() for word in (b"fine", b"else"))
    sent, body = datetime(2026, 10, 1, tzinfo=UTC), b'{"type": "notice.fired"}'
    signatures = [Webhook(one).sign("a/b.c.1.1", sent, body.decode()) for one in (other, secret)]
    signed = {
        "webhook-id": "a/b.c.1.1",
        "webhook-timestamp": str(int(sent.timestamp())),
        "webhook-signature": " ".join(signatures),
    }
    now = sent.timestamp()
    assert verify(secret, signed, body, now)
    assert verify(other, signed, body, now), "both secrets count while one is rotated"
    assert not verify("whsec_" + base64.b64encode(b"x" * 24).decode(), signed, body, now)
    assert not verify(secret, signed, body + b" ", now)
    assert not verify(secret, {**signed, "webhook-id": "other"}, body, now)
    assert not verify(secret, signed, body, now + 301), "an old message"


@pytest.mark.parametrize(
    ("status", "answer", "opens"),
    [
        (200, b'{"open": true, "why": ""}', True),
        (200, b'{"open": false, "why": "halted"}', False),
        (200, b'{"open": "true"}', False),
        (200, b"[]", False),
        (200, b"nothing", False),
        (503, b'{"open": true}', False),
        (0, b"", False),  # nobody listens
    ],
)
def test_the_gate_of_the_guide_is_closed_whatever_goes_wrong(status: int, answer: bytes, opens: bool) -> None:
    asked = []

    class Answering(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    may_open = program("docs/how-to/gate-a-strategy.md")["may_open"]
    with HTTPServer(("127.0.0.1", 0), Answering) as server:
        base = f"http://127.0.0.1:{server.server_port}"
        if status:
            thread = threading.Thread(target=server.handle_request)
            thread.start()
            assert may_open("dydx:BTC-USD", base, 10.0) is opens
            thread.join(20)
            assert asked == ["/api/v1/gate?market=dydx%3ABTC-USD"]
            return
    assert may_open("dydx:BTC-USD", base, 1.0) is False
