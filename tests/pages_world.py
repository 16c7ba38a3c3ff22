"""The surface over a desk in memory, and a page read as a tree: what the tests of the pages share."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import httpx
from fastapi import FastAPI

from daemon.web.door import Doorkeeper
from daemon.web.listening import Served, bind
from daemon.web.surface import close_streams, make_surface
from daemon.web.tokens import TokenFile
from tests.desk_fake import FakeDesk

VOID = frozenset({"meta", "link", "input", "br", "hr", "img", "path", "line", "rect", "col", "wbr"})
ROLES = ("view", "approve", "admin")
READY_S = 20.0


@dataclass(slots=True)
class Node:
    """An element of a page."""

    tag: str
    attributes: dict[str, str]
    parent: Node | None = None
    kids: list[Node | str] = field(default_factory=list)

    def all(self, tag: str = "", **wanted: str) -> list[Node]:
        """Every element below with this tag and these attributes (`class_` holds a class)."""
        found = []
        for kid in self.kids:
            if isinstance(kid, Node):
                if tag in ("", kid.tag) and all(_has(kid, name, value) for name, value in wanted.items()):
                    found.append(kid)
                found += kid.all(tag, **wanted)
        return found

    def one(self, tag: str = "", **wanted: str) -> Node:
        """The only element of that kind."""
        found = self.all(tag, **wanted)
        assert len(found) == 1, f"{len(found)} of {tag} {wanted}"
        return found[0]

    @property
    def text(self) -> str:
        """All text below, blanks folded."""
        parts = (kid if isinstance(kid, str) else "" if kid.tag == "wbr" else f"{kid.text} " for kid in self.kids)
        return " ".join("".join(parts).split())

    def get(self, name: str) -> str:
        """An attribute, empty when it is not there."""
        return self.attributes.get(name, "")


def _has(node: Node, name: str, value: str) -> bool:
    if name == "class_":
        return value in node.get("class").split()
    return node.get(name.replace("_", "-")) == value


class _Reader(HTMLParser):
    """Builds the tree; a tag that is closed wrongly fails the test."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.top = Node("document", {})
        self._at = self.top

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        node = Node(tag, {name: value or "" for name, value in attrs}, self._at)
        self._at.kids.append(node)
        if tag not in VOID:
            self._at = node

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._at.kids.append(Node(tag, {name: value or "" for name, value in attrs}, self._at))

    def handle_endtag(self, tag: str) -> None:
        assert self._at.tag == tag, f"</{tag}> closes <{self._at.tag}> {self._at.attributes}"
        assert self._at.parent is not None
        self._at = self._at.parent

    def handle_data(self, text: str) -> None:
        self._at.kids.append(text)


def parse(text: str) -> Node:
    """A page as a tree; every tag is closed where it was opened."""
    reader = _Reader()
    reader.feed(text)
    reader.close()
    assert reader._at is reader.top, f"<{reader._at.tag}> is never closed"
    return reader.top


@dataclass(frozen=True, slots=True, kw_only=True)
class House:
    """A surface with three people: `secrets` by role."""

    app: FastAPI
    desk: FakeDesk
    door: Doorkeeper
    secrets: dict[str, str]


def house(folder: Path, desk: FakeDesk, *, open_reading: bool = True) -> House:
    """The whole surface over a desk and by its clock, with a token for each role."""
    tokens = TokenFile(folder / "tokens.yaml")
    secrets = {}
    for role in ROLES:
        secrets[role] = tokens.add({"view": "viewer", "approve": "ana", "admin": "boss"}[role], role, at="2026-01-01T00:00:00Z")
    door = Doorkeeper(tokens=tokens, open_reading=open_reading)
    return House(app=make_surface(desk, guard=door, build="0.5.0", wall=desk.clock), desk=desk, door=door, secrets=secrets)


class Running:
    """The surface on a loopback port, served as the daemon does; it can be stopped and started again on the same port."""

    def __init__(self, made: House) -> None:
        self.made = made
        self.app = made.app
        self._port = 0
        self._served: Served | None = None
        self.url = ""

    def start(self) -> None:
        """Serve; returns when requests are answered."""
        app = self.app
        served = self._served = Served(app, bind("127.0.0.1", self._port), ending=lambda: close_streams(app))
        self.url, self._port = served.url, int(served.url.rpartition(":")[2])
        served.start()
        began = time.monotonic()
        while True:
            try:
                httpx.get(f"{self.url}/static/icon.svg", trust_env=False, timeout=READY_S)
                return
            except httpx.TransportError:
                assert served.alive, served.failure
                assert time.monotonic() - began < READY_S, "the server never answered"
                time.sleep(0.02)

    def stop(self) -> None:
        """End it and every stream."""
        if self._served is not None:
            self._served.stop(READY_S)
            assert not self._served.alive
            self._served = None

    def again(self) -> None:
        """Start on the same port with a new application, as a daemon that was restarted."""
        self.app = make_surface(self.made.desk, guard=self.made.door, build="0.5.0", wall=self.made.desk.clock)
        self.start()


@contextmanager
def served(made: House) -> Iterator[Running]:
    """A surface that is served as long as the block runs."""
    running = Running(made)
    running.start()
    try:
        yield running
    finally:
        running.stop()
