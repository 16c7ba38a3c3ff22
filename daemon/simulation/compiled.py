"""The compiled execution's compiler (floor 5): emitted text to machine code by LLVM, kept on disk by digest. Sole importer of llvmlite
beside `lower.py`.

    compiler = Compiler(Path("~/.cache/reefd").expanduser())
    run = compiler.unit(unit.text, unit.types)      # the unit's `run`; takes numbers and arrays
    fill = compiler.function(loops.fill)            # a plain function of numbers and arrays

One object file a text, named by a digest of everything it depends on: the text, the kernels it calls, this page and `lower.py`, LLVM's
version, the processor. A known text is loaded in a millisecond. Files are written under another name and moved, so two processes may
compile the same text at once; the folder is bounded; where it cannot be written every process compiles for itself.
"""

from __future__ import annotations

import ast
import ctypes
import ctypes.util
import hashlib
import inspect
import os
import struct
from array import array
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from pathlib import Path
from typing import Any

import llvmlite
import llvmlite.binding as llvm
import numpy as np
import numpy.typing as npt

from daemon.language import kernels
from daemon.simulation import loops, lower, spans
from daemon.simulation.spans import Rowwise, expired_rows, lay_rows, plain_rows, scan_rows
from daemon.world import margin

DIGEST_BYTES = 32  # of sha256, before the object
OBJECTS_MAX = 2_000  # of a cache folder; the oldest go first
ANNOTATED = {"Ints": "I1", "Floats": "F1", "int": "i", "float": "f", "FloatTable": "F2"}
_BITS, _REAL = struct.Struct("=q"), struct.Struct("=d")
RESULTS_MAX = 8  # values that a function may return


class Call:
    """A compiled function and the frame of its arguments: bound once, changed one by one, called often."""

    def __init__(self, owner: object, function: Callable[[int], int], types: Mapping[str, str], returned: str = "") -> None:
        """`owner` holds the machine code, which lives as long as this. `returned`: `i` or `f` for each value that comes back behind the
        arguments; empty: one int does."""
        self._owner = owner
        self._function = function
        self._types = types
        self._returned = returned
        self._places = lower.packed(types)
        self._width = sum(1 if code in lower.SCALARS else int(code[1]) for code in types.values())
        self._frame = array("q", bytes(8 * (self._width + RESULTS_MAX)))
        self._address = self._frame.buffer_info()[0]
        self._kept: dict[str, object] = {}  # arrays live as long as they are bound

    def bind(self, name: str, value: npt.NDArray[Any] | float) -> None:
        """Sets one argument; arrays are C-ordered, int64 or float64, of the dimensions declared."""
        code, place = self._types[name], self._places[name]
        if code == "i":
            self._frame[place] = value  # type: ignore[call-overload]
        elif code == "f":
            self._frame[place] = _BITS.unpack(_REAL.pack(value))[0]
        elif self._kept.get(name) is not value:
            assert isinstance(value, np.ndarray)
            assert value.dtype == (np.int64 if code[0] == "I" else np.float64), name
            assert value.ndim == int(code[1]), name
            assert value.flags.c_contiguous, name
            self.point(name, value, value.__array_interface__["data"][0])
            for j, stride in enumerate(value.strides[:-1], start=1):
                self._frame[place + j] = stride >> 3

    def point(self, name: str, value: object, address: int) -> None:
        """Sets a one-dimensional array whose address is known, unchecked."""
        self._kept[name] = value
        self._frame[self._places[name]] = address

    def __call__(self, *given: npt.NDArray[Any] | float, **arguments: npt.NDArray[Any] | float) -> Any:
        """Calls it with some arguments changed."""
        for name, value in zip(self._types, given, strict=False):
            self.bind(name, value)
        frame, types, places = self._frame, self._types, self._places
        for name, value in arguments.items():
            if types[name] == "i":
                frame[places[name]] = value  # type: ignore[call-overload]
            else:
                self.bind(name, value)
        found = self._function(self._address)
        if not self._returned:
            return found
        cells = zip(self._returned, self._frame[self._width :], strict=False)
        return tuple(_REAL.unpack(_BITS.pack(cell))[0] if code == "f" else cell for code, cell in cells)


class Compiler:
    """Compiles texts and functions; `compiled` counts those that were not found on disk. `folder` None: nothing is kept."""

    def __init__(self, folder: Path | None, clock: Callable[[], float] | None = None) -> None:
        """`clock` gives seconds; `seconds` counts those spent compiling and loading."""
        self._clock = clock
        self.seconds = 0.0
        self.folder = folder if folder is not None and _writable(folder) else None
        self.compiled = 0
        self._runs: dict[str, Callable[[int], int]] = {}
        llvm.initialize_native_target()
        llvm.initialize_native_asmprinter()
        target = llvm.Target.from_default_triple()
        features = llvm.get_host_cpu_features()
        self._cpu = f"{llvm.get_host_cpu_name()} {features.flatten()}"
        self._machine = target.create_target_machine(cpu=llvm.get_host_cpu_name(), features=features.flatten(), opt=3)
        library = ctypes.CDLL(ctypes.util.find_library("m") or None)
        for name, symbol in lower.EXTERNALS.items():
            llvm.add_symbol(symbol, ctypes.cast(getattr(library, name), ctypes.c_void_p).value)
        self._engine = llvm.create_mcjit_compiler(llvm.parse_assembly(""), target.create_target_machine())

    def unit(self, text: str, types: Mapping[str, str]) -> Call:
        """The function `run` of a unit's text."""
        return Call(self._engine, self._compiled(text, "run", types), types)

    def function(self, function: Callable[..., object], returned: str = "") -> Call:
        """A function of numbers and arrays that returns nothing, an int, or the values that `returned` names, with what it calls in
        the loops and the kernels; its annotations say what it takes."""
        types = {name: ANNOTATED[str(code)] for name, code in inspect.get_annotations(function).items() if name != "return"}
        return Call(self._engine, self._compiled(_source(function), function.__name__, types), types, returned)

    def spans(self) -> Rowwise:
        """The simulated account's arithmetic, compiled."""
        return Rowwise(
            scan=self.function(scan_rows, "ifif"), lay=self.function(lay_rows), expired=self.function(expired_rows),
            plain=self.function(plain_rows),
        )  # fmt: skip

    def _compiled(self, text: str, entry: str, types: Mapping[str, str]) -> Callable[[int], int]:
        before = self._clock() if self._clock else 0.0
        whole = _prelude(text) + text + "\n"
        what = "\0".join((whole, entry, repr(list(types.items())), _OWN, llvmlite.__version__, self._cpu))
        digest = hashlib.sha256(what.encode()).hexdigest()[:40]
        if digest not in self._runs:
            symbol = f"reefd_{digest}"
            self._engine.add_object_file(llvm.ObjectFileRef.from_data(self._object(digest, symbol, whole, entry, types)))
            self._engine.finalize_object()
            self._runs[digest] = ctypes.CFUNCTYPE(ctypes.c_int64, ctypes.c_void_p)(self._engine.get_function_address(symbol))
        self.seconds += self._clock() - before if self._clock else 0.0
        return self._runs[digest]

    def _object(self, digest: str, symbol: str, whole: str, entry: str, types: Mapping[str, str]) -> bytes:
        path = None if self.folder is None else self.folder / f"{digest}.o"
        if path is not None:
            try:
                stored = path.read_bytes()
            except OSError:
                stored = b""
            # LLVM ends the process over a damaged object: none reaches it.
            if hashlib.sha256(stored[DIGEST_BYTES:]).digest() == stored[:DIGEST_BYTES]:
                return stored[DIGEST_BYTES:]
        self.compiled += 1
        parsed = llvm.parse_assembly(str(lower.lower(whole, entry, types, symbol)))
        parsed.triple = self._machine.triple
        options = llvm.create_pipeline_tuning_options(speed_level=3)
        options.loop_vectorization = True
        options.slp_vectorization = True
        passes = llvm.create_pass_builder(self._machine, options)
        passes.getModulePassManager().run(parsed, passes)
        made: bytes = self._machine.emit_object(parsed)
        if path is not None and self.folder is not None:
            self._keep(path, made)
        return made

    def _keep(self, path: Path, made: bytes) -> None:
        assert self.folder is not None
        partial = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            partial.write_bytes(hashlib.sha256(made).digest() + made)
            os.replace(partial, path)
            kept = sorted((*self.folder.glob("*.o"), *self.folder.glob(".*.o.*")), key=_age)
            for stale in kept[: max(0, len(kept) - OBJECTS_MAX)]:
                stale.unlink(missing_ok=True)
        except OSError:
            partial.unlink(missing_ok=True)  # a full disk: the next process compiles again


def _writable(folder: Path) -> bool:
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = folder.stat()
    except OSError:
        return False
    # Code is run from here: a folder that somebody else can write is none.
    own = status.st_uid == os.getuid() and not status.st_mode & 0o022
    return own and os.access(folder, os.W_OK | os.X_OK)


def _age(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0  # another process removed it just now


_OWN = inspect.getsource(lower) + Path(__file__).read_text(encoding="utf-8")


@cache
def _kernels() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """(functions, constants) of the kernels by name, as text; where a plain kernel uses what a machine has not, `loops` has another."""
    functions: dict[str, str] = {}
    constants: dict[str, str] = {}
    for module in (margin, kernels, spans, loops):
        source = inspect.getsource(module)
        for node in ast.parse(source).body:
            if isinstance(node, ast.FunctionDef):
                functions[node.name] = ast.get_source_segment(source, node) or ""
        for name, value in vars(module).items():
            if name.isupper() and isinstance(value, int | float):
                constants[name] = f"{name} = {value!r}" if value - value == 0 else f'{name} = float("{value!r}")'
    return functions, constants


_source = cache(inspect.getsource)  # it tokenizes a whole file, and a sweep asks for every cell


@lru_cache(maxsize=1_024)
def _prelude(text: str) -> str:
    """The kernels and constants that a text calls; kept, because a sweep asks again for every cell."""
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
    return "\n".join([*used, ""]) + "".join(f"\n{functions[name]}\n" for name in order)
