"""The compiled execution's compiler (floor 5): emitted text to machine code by numba, kept on disk by digest. Sole importer of numba.

    compiler = Compiler(Path("~/.cache/reefd").expanduser())
    run = compiler.unit(unit.text)          # the unit's `run`
    scan = compiler.function(scan_rows)     # a plain function of numbers and arrays, compiled

One module a text, named by a digest of everything that goes into it: the text, the kernels it calls, numba's version. A known text is
loaded in milliseconds. Two processes may compile the same text at once: whoever is second finds the file. The folder is bounded. Where
it cannot be written, a folder that lives as long as the process takes its place, and every process compiles anew.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import inspect
import os
import platform
import sys
import tempfile
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import ParamSpec, TypeVar

import numba

from daemon.language import kernels
from daemon.simulation import loops
from daemon.world import margin

P = ParamSpec("P")
R = TypeVar("R")
MODULES_MAX = 2_000  # of a cache folder; the oldest go first
OPTIONS = 'error_model="numpy", _nrt=False, nogil=True'
ENTRIES = ("run",)
_HEAD = "from __future__ import annotations\n\nfrom math import floor, log, sqrt\n\nfrom numba import njit\n\n"


class Compiler:
    """Compiles texts and functions; `compiled` counts those that were not found on disk."""

    def __init__(self, folder: Path | None) -> None:
        self.compiled = 0
        self._kept: tempfile.TemporaryDirectory[str] | None = None
        self._loaded: dict[str, ModuleType] = {}
        self.folder = self._writable(folder)

    def _writable(self, folder: Path | None) -> Path:
        if folder is not None:
            try:
                folder.mkdir(parents=True, exist_ok=True)
                with tempfile.TemporaryFile(dir=folder):
                    return folder
            except OSError:
                pass  # a read-only home: compile for this process alone
        self._kept = tempfile.TemporaryDirectory(prefix="reefd-compiled-")
        return Path(self._kept.name)

    def unit(self, text: str) -> Callable[..., None]:
        """The function `run` of a unit's text."""
        run: Callable[..., None] = self._module(text, ENTRIES).run
        return run

    def function(self, function: Callable[P, R]) -> Callable[P, R]:
        """A module's function of numbers and arrays, with what it calls in its own module and in the kernels."""
        source = inspect.getsource(function)
        found: Callable[P, R] = getattr(self._module(source, (function.__name__,)), function.__name__)
        return found

    def _module(self, text: str, entries: tuple[str, ...]) -> ModuleType:
        whole = _HEAD + _prelude(text) + _decorated(text, entries)
        digest = hashlib.sha256("\0".join((whole, numba.__version__, platform.python_version(), platform.machine())).encode()).hexdigest()[:32]
        if digest not in self._loaded:
            self._loaded[digest] = self._load(digest, whole)
        return self._loaded[digest]

    def _load(self, digest: str, whole: str) -> ModuleType:
        path = self.folder / f"unit_{digest}.py"
        if not path.exists():
            self.compiled += 1
            self._prune()
            partial = self.folder / f".{digest}.{os.getpid()}"
            partial.write_text(whole, encoding="utf-8")
            try:
                # Never replaced once there: what was compiled from it is known by the time it was written.
                os.link(partial, path)
            except FileExistsError:
                pass
            except OSError:
                os.replace(partial, path)  # a file system without links
            partial.unlink(missing_ok=True)
        name = f"reefd_unit_{digest}"
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
        return module

    def _prune(self) -> None:
        paths = sorted(self.folder.glob("unit_*.py"), key=lambda path: (_age(path), path.name))
        for path in paths[: max(0, len(paths) - MODULES_MAX + 1)]:
            for stale in self.folder.glob(f"__pycache__/{path.stem}.*"):
                stale.unlink(missing_ok=True)
            path.unlink(missing_ok=True)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0  # another process removed it just now


def _decorated(text: str, entries: tuple[str, ...]) -> str:
    """The text with every function made a compiled one; those called from outside are kept on disk."""
    lines = []
    for line in text.split("\n"):
        if line.startswith("def "):
            name = line[4 : line.index("(")]
            lines.append(f"@njit({'cache=True, ' if name in entries else ''}{OPTIONS})")
        lines.append(line)
    return "\n".join(lines) + "\n"


@cache
def _kernels() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """(functions, constants) of the kernels by name, as text; where a plain kernel uses what compiles badly, `loops` has another."""
    functions: dict[str, str] = {}
    constants: dict[str, str] = {}
    for module in (margin, kernels, loops):
        source = inspect.getsource(module)
        for node in ast.parse(source).body:
            segment = ast.get_source_segment(source, node) or ""
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = segment
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, int | float):
                constants[name] = f"{name} = {value!r}" if value - value == 0 else f'{name} = float("{value!r}")'
    return functions, constants


def _prelude(text: str) -> str:
    """The kernels and constants that a text calls, each before its first use."""
    functions, constants = _kernels()
    order: list[str] = []
    used: dict[str, None] = {}
    met: set[str] = {line[4 : line.index("(")] for line in text.split("\n") if line.startswith("def ")}

    def visit(source: str) -> None:
        for name in dict.fromkeys(node.id for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Name)):
            if name in met:
                continue
            met.add(name)
            if name in functions:
                visit(functions[name])
                order.append(name)
            elif name in constants:
                used.setdefault(constants[name])

    visit(text)
    return "\n".join([*used, ""]) + "".join(f"\n{_decorated(functions[name], ())}\n" for name in order)
