"""docs/tutorial.md, followed literally: its files are saved, its commands typed, and what it says is printed must be printed."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs/tutorial.md"
TAKES_S = 240  # of one command; the longest waits for a minute of a simulated venue
BLOCK = re.compile(r"^```(?P<language>\w+)\n(?P<body>.*?)^```", re.DOTALL | re.MULTILINE)
SAVED = re.compile(r"Save this as `([^`]+)`")
# What a checkout has and a test need not do again: the environment stands, and is on the path.
LEFT_OUT = ("make install", ". .venv/bin/activate")
COPIED = ("config", "docs", "runbooks", "Makefile", "README.md")


@dataclass
class Typed:
    """One command and the lines that it should print, in order; a line is a part of what is printed."""

    command: str
    printed: list[str] = field(default_factory=list)


def steps(text: str) -> Iterator[tuple[str, str] | Typed]:
    """What the page asks for, in order: files as (path, content), and commands."""
    behind = 0
    for block in BLOCK.finditer(text):
        between, behind = text[behind : block.start()], block.end()
        if block["language"] == "yaml":
            saved = SAVED.findall(between)
            assert saved, f"the page does not say where to save the block that begins with {block['body'].splitlines()[0]!r}"
            yield saved[-1], block["body"]
        elif block["language"] == "console":
            typed: Typed | None = None
            for line in block["body"].splitlines():
                if line.startswith("$ "):
                    if typed is not None:
                        yield typed
                    typed = Typed(line.removeprefix("$ "))
                else:
                    assert typed is not None, f"a line is printed before anything is typed: {line!r}"
                    typed.printed.append(line)
            if typed is not None:
                yield typed


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


@dataclass
class Terminal:
    """A shell that types one command after the other, each in a process group of its own."""

    folder: Path
    ports: dict[str, str]
    exported: dict[str, str] = field(default_factory=dict)
    groups: list[int] = field(default_factory=list)  # of commands that leave something in the background

    def ported(self, text: str) -> str:
        for told, used in self.ports.items():
            text = text.replace(told, used)
        return text

    def save(self, path: str, content: str) -> None:
        (self.folder / path).write_text(self.ported(content), encoding="utf-8")

    def environment(self) -> dict[str, str]:
        variables = {name: value for name, value in os.environ.items() if not name.startswith("REEFD_")}
        return {**variables, **self.exported, "PATH": f"{self.folder / 'bin'}:{os.environ['PATH']}", "COLUMNS": "160", "NO_COLOR": "1"}

    def type(self, command: str) -> str:
        """What a command prints. `export` and `unset` count for all that follow; what is left in the background goes on until the end."""
        command = self.ported(command)
        if command.startswith("unset "):
            del self.exported[command.removeprefix("unset ")]
            return ""
        if command.startswith("export "):
            name, _, value = command.removeprefix("export ").partition("=")
            shown = subprocess.run(
                ["bash", "-c", f'printf %s "{value}"'], cwd=self.folder, env=self.environment(), text=True, timeout=TAKES_S, check=True,
                stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            )  # fmt: skip
            self.exported[name] = shown.stdout
            return ""
        shell = subprocess.Popen(
            ["bash", "-c", command], cwd=self.folder, env=self.environment(), text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        if " & " in command:
            self.groups.append(shell.pid)
        try:
            printed, _ = shell.communicate(timeout=TAKES_S)
        except subprocess.TimeoutExpired:
            os.killpg(shell.pid, signal.SIGKILL)
            shell.communicate()
            pytest.fail(f"{command!r} did not end in {TAKES_S} s\n{self.logs()}")
        assert shell.returncode == 0, f"{command!r} ended with {shell.returncode}:\n{printed}\n{self.logs()}"
        return printed

    def logs(self) -> str:
        """The ends of the logs that the page writes."""
        logs = sorted((self.folder / "my").glob("*.log"))
        return "\n".join(f"--- {path.name}\n{path.read_text(encoding='utf-8')[-3000:]}" for path in logs)

    def close(self) -> None:
        """Ends what was left in the background."""
        for group in reversed(self.groups):
            for number in (signal.SIGTERM, signal.SIGKILL):
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(group, number)
                    give_up = time.monotonic() + 20
                    while time.monotonic() < give_up:
                        os.killpg(group, 0)
                        time.sleep(0.05)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Terminal]:
    """A copy of what the page works with, and `reefd` of this checkout on the path."""
    for name in COPIED:
        source = ROOT / name
        (shutil.copytree if source.is_dir() else shutil.copy)(source, tmp_path / name)
    (tmp_path / "bin").mkdir()
    reefd = tmp_path / "bin/reefd"
    reefd.write_text(f'#!/bin/sh\nPYTHONPATH="{ROOT}" exec "{sys.executable}" -m daemon.cli "$@"\n', encoding="utf-8")
    reefd.chmod(0o755)
    opened = Terminal(tmp_path, {"8480": str(free_port()), "8470": str(free_port())})
    try:
        yield opened
    finally:
        opened.close()


def missing(wanted: list[str], printed: str) -> list[str]:
    """The wanted lines that are not printed, each behind the one before."""
    lost, at = [], 0
    for line in wanted:
        found = printed.find(line, at)
        if found < 0:
            lost.append(line)
        else:
            at = found + len(line)
    return lost


def test_the_page_is_read_as_files_and_commands() -> None:
    read = list(steps("Save this as `a.yaml`:\n\n```yaml\nb: c\n```\n\n```console\n$ ls\na.yaml\n$ true\n```\n"))
    assert read == [("a.yaml", "b: c\n"), Typed("ls", ["a.yaml"]), Typed("true")]
    assert missing(["a", "c"], "abc") == []
    assert missing(["c", "a"], "abc") == ["a"]


@pytest.mark.slow
def test_the_tutorial_works_as_it_stands(terminal: Terminal) -> None:
    for step in steps(PAGE.read_text(encoding="utf-8")):
        if isinstance(step, tuple):
            terminal.save(*step)
        elif step.command not in LEFT_OUT:
            printed = terminal.type(step.command)
            assert missing([terminal.ported(line) for line in step.printed], printed) == [], f"{step.command}\n{printed}"
