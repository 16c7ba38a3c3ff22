"""What holds the house: floors, bans, documented names, shipped runbooks with tests, docs that match. A failure says the fix."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from daemon.language.catalogue import CATALOGUE
from daemon.runbook.load import load_paths

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "daemon"

# Room -> floor; a room imports from strictly lower floors only, and siblings never meet.
FLOORS = {
    "": 0,  # daemon/__init__.py: the version
    "errors": 0,
    "units": 0,
    "world": 1,
    "language": 2,
    "runbook": 3,
    "engine": 4,
    "journal": 5,
    "simulation": 5,
    "edges": 6,
    "service": 7,
    "web": 8,
    "settings": 8,
    "app": 9,
    "cli": 10,
}
# Third-party module -> the rooms that may import it: one place to change when a dependency leaves.
SOLE_IMPORTERS = {
    "httpx": {"edges"},
    "aiomqtt": {"edges"},
    "paho": {"edges"},
    "ccxt": {"edges"},
    "standardwebhooks": {"edges"},
    "apprise": {"edges"},
    "jinja2": {"web"},
    "prometheus_client": {"web"},
    "opentelemetry": {"app"},
    "sqlite3": {"journal"},
    "polars": {"journal", "simulation", "app"},
    "ruamel": {"runbook", "journal", "simulation", "settings", "app"},
    "lark": {"language"},
    "fastapi": {"web", "edges"},
    "starlette": {"web", "edges"},
    "uvicorn": {"web", "app", "edges"},
    "apscheduler": {"service"},
    "structlog": {"service", "app"},
    "typer": {"cli"},
    "llvmlite": {"simulation"},
    "numba": set(),
    "distributed": {"app"},
}
# Below floor 7 time and chance are arguments: a call named here makes live and replay differ.
CLOCKS = {
    "time.time", "time.time_ns", "time.monotonic", "time.monotonic_ns", "time.sleep", "datetime.now", "datetime.utcnow", "datetime.today",
    "date.today", "datetime.datetime.now", "datetime.datetime.utcnow", "datetime.date.today", "uuid.uuid4", "uuid4", "uuid.uuid1", "uuid1",
    "os.urandom", "secrets.token_hex", "secrets.token_bytes", "random.random", "random.randint", "random.choice", "random.shuffle",
    "random.uniform", "random.gauss",
    "random.seed", "random.Random", "numpy.random.seed", "np.random.seed", "np.random.rand", "np.random.randn",
}  # fmt: skip
BANNED_EVERYWHERE = {
    "eval": "the language is parsed and compiled (daemon/language, daemon/runbook/compile.py)",
    "print": "the core returns records, rooms below app never print; app prints with typer.echo or rich",
    "breakpoint": "take it out",
    "input": "nothing here waits on a terminal",
}
BANNED_WORDS = ("Manager", "Helper", "Util", "Base", "Context", "Data", "Info", "Processor")
# Words of a library's own that a class of ours may carry because the library asks for it.
WORD_EXCEPTIONS: set[str] = {"data_received"}  # an asyncio protocol
BANNED_VARIABLES = {"data", "result", "tmp", "obj"}
# The surface: what is shown must never stop what acts. Alerts out: what a receiver answers must end neither a lane nor the daemon.
BROAD_EXCEPT_FILES = {
    "service/poller.py", "service/dispatcher.py", "app/surface.py", "app/telling.py", "edges/webhook.py", "service/lanes.py",
    "service/heartbeat.py", "web/streams.py", "app/live_mqtt.py",
}  # fmt: skip
PRINTING_ROOMS = {"app", "cli"}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"), filename=str(path))


def modules() -> list[Path]:
    return sorted(p for p in PACKAGE.rglob("*.py") if "__pycache__" not in p.parts)


def room(path: Path) -> str:
    """`engine` for daemon/engine/hot.py, `cli` for daemon/cli.py."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return "" if parts == ("__init__",) else parts[0]


def short(path: Path) -> str:
    return path.relative_to(PACKAGE).as_posix()


def dotted(node: ast.expr) -> str:
    """`time.time` of the expression `time.time`; empty when it is no plain dotted name."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        head = dotted(node.value)
        return f"{head}.{node.attr}" if head else ""
    return ""


def imports(path: Path) -> Iterator[tuple[int, str]]:
    """(line, module) of every import statement of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            if node.level:
                yield node.lineno, "." * node.level
            elif node.module == "daemon":
                yield from ((node.lineno, f"daemon.{alias.name}") for alias in node.names)
            else:
                yield node.lineno, node.module or ""


def names_bound(path: Path) -> Iterator[tuple[int, str]]:
    """(line, name) of every variable, argument and loop target of a file."""
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.lineno, node.id
        elif isinstance(node, ast.arg):
            yield node.lineno, node.arg


def fail(problems: list[str], fix: str) -> None:
    if problems:
        pytest.fail(fix + "\n  " + "\n  ".join(problems), pytrace=False)


def is_empty_container(node: ast.expr | None) -> bool:
    """`{}`, `[]`, `set()`, `defaultdict(list)`: something that is made to be filled later."""
    match node:
        case ast.Dict(keys=[]) | ast.List(elts=[]):
            return True
        case ast.Call(func=ast.Name(id="dict" | "list" | "set" | "deque" | "defaultdict" | "OrderedDict")):
            return not node.args or dotted(node.func) == "defaultdict"
    return False


def test_the_engine_keeps_nothing_between_two_of_its_kind() -> None:
    problems = [
        f"{short(path)}:{node.lineno}"
        for path in modules()
        if room(path) == "engine"
        for node in tree(path).body
        if isinstance(node, ast.Assign | ast.AnnAssign) and is_empty_container(node.value)
    ]
    fail(problems, "what is filled later belongs to an Engine, not to the process; hand it to the Turn:")
    assert is_empty_container(ast.parse("a: dict[str, int] = {}").body[0].value)  # type: ignore[attr-defined]
    assert not is_empty_container(ast.parse("A = {1: 2}").body[0].value)  # type: ignore[attr-defined]


def test_every_file_belongs_to_a_room_of_the_house() -> None:
    stray = [short(p) for p in modules() if room(p) not in FLOORS]
    rooms = ", ".join(r for r in FLOORS if r)
    fail(stray, f"put the file into one of the rooms {rooms}, or give its room a floor in docs/architecture.md and here:")


def test_every_room_is_a_package() -> None:
    folders = {p.parent for p in modules()}
    bare = [short(f) for f in sorted(folders) if not (f / "__init__.py").exists()]
    fail(bare, "add an __init__.py whose docstring says what the room is for:")


def test_rooms_import_only_from_strictly_lower_floors() -> None:
    problems = []
    for path in modules():
        here = room(path)
        for line, module in imports(path):
            if module.startswith("."):
                problems.append(f"{short(path)}:{line}: a relative import; write it absolute, from daemon...")
            if not module.startswith("daemon."):
                continue
            there = module.split(".")[1]
            there = there if there in FLOORS else ""  # `from daemon import __version__`
            if there != here and FLOORS[there] >= FLOORS[here]:
                problems.append(f"{short(path)}:{line}: {here} (floor {FLOORS[here]}) imports {module} (floor {FLOORS[there]})")
    fail(problems, "import only from strictly lower floors; move what is shared down, or hand it over as an argument from daemon/app:")


def test_imports_stand_at_the_top_of_a_file() -> None:
    problems = []
    for path in modules():
        top = {id(node) for node in tree(path).body}
        problems += [
            f"{short(path)}:{node.lineno}"
            for node in ast.walk(tree(path))
            if isinstance(node, ast.Import | ast.ImportFrom) and id(node) not in top
        ]
        problems += [f"{short(path)}:{line}: TYPE_CHECKING" for line, module in names_read(path) if module == "TYPE_CHECKING"]
    fail(problems, "import at the top of the file; a cycle is a fault of design, not of Python:")


def names_read(path: Path) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree(path)):
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield node.lineno, node.id


def test_modules_are_imported_by_name_only_in_the_command_line_and_where_the_compiler_is_chosen() -> None:
    problems = [
        f"{short(path)}:{line}: {module}"
        for path in modules()
        for line, module in imports(path)
        if module == "importlib" and short(path) not in ("cli.py", "app/execution.py", "app/telling.py")
    ]
    fail(problems, "only cli.py, app/execution.py, app/telling.py import by name (docs/decisions/lazy-verbs.md); import at the top:")


def test_a_dependency_is_imported_only_by_the_rooms_that_own_it() -> None:
    problems = []
    for path in modules():
        for line, module in imports(path):
            owners = SOLE_IMPORTERS.get(module.split(".")[0])
            if owners is not None and room(path) not in owners:
                problems.append(f"{short(path)}:{line}: {module} belongs to {', '.join(sorted(owners))}")
    fail(problems, "call the room that owns the dependency instead of importing it here:")


def test_time_and_chance_are_arguments_below_the_shell() -> None:
    problems = []
    for path in modules():
        if FLOORS.get(room(path), 99) >= FLOORS["service"]:
            continue
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call) and dotted(node.func) in CLOCKS:
                problems.append(f"{short(path)}:{node.lineno}: {dotted(node.func)}()")
        problems += [f"{short(path)}:{line}: import {m}" for line, m in imports(path) if m in ("random", "secrets", "uuid")]
    fail(problems, "below floor 7 take `at` (int ns) as an argument, and a seeded generator for chance; else replay differs from live:")


def test_nothing_below_the_composition_root_prints_or_evaluates() -> None:
    problems = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name) or node.func.id not in BANNED_EVERYWHERE:
                continue
            if node.func.id == "print" and room(path) in PRINTING_ROOMS:
                continue
            problems.append(f"{short(path)}:{node.lineno}: {node.func.id}(): {BANNED_EVERYWHERE[node.func.id]}")
    fail(problems, "replace the call:")


def test_the_core_never_logs() -> None:
    problems = []
    for path in modules():
        if FLOORS.get(room(path), 99) < FLOORS["service"]:
            problems += [f"{short(path)}:{line}: {m}" for line, m in imports(path) if m.split(".")[0] in ("logging", "structlog")]
    fail(problems, "return a record (engine) or raise (edges); service/loop.py prints each record once:")


def test_the_core_is_synchronous() -> None:
    problems = []
    for path in modules():
        if FLOORS.get(room(path), 99) >= FLOORS["journal"]:
            continue
        problems += [
            f"{short(path)}:{line}: import {m}" for line, m in imports(path) if m.split(".")[0] in {"asyncio", "threading", "anyio"}
        ]
        awaits = (node for node in ast.walk(tree(path)) if isinstance(node, ast.AsyncFunctionDef | ast.Await))
        problems += [f"{short(path)}:{node.lineno}: async" for node in awaits]
    fail(problems, "floors 0 to 4 decide and touch nothing: no async, no threads; return an action and let daemon/service perform it:")


def test_broad_except_lives_where_a_fault_must_not_stop_the_daemon() -> None:
    problems = []
    for path in modules():
        if short(path) in BROAD_EXCEPT_FILES:
            continue
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = node.type.elts if isinstance(node.type, ast.Tuple) else [node.type]
            reraises = any(isinstance(inner, ast.Raise) and inner.exc is None for inner in ast.walk(node))
            if any(kind is None or dotted(kind) in ("Exception", "BaseException") for kind in caught) and not reraises:
                problems.append(f"{short(path)}:{node.lineno}")
    fail(problems, "name the errors that can happen here; what else happens is ours and must crash:")


def test_names_say_what_a_thing_is() -> None:
    problems = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                spaced = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", node.name)
                words = {word.capitalize() for word in spaced.split("_")}
                if not isinstance(node, ast.ClassDef):
                    words.discard("Base")  # sizes are in base units; only a class called Base says nothing
                if node.name not in WORD_EXCEPTIONS and words & set(BANNED_WORDS):
                    problems.append(f"{short(path)}:{node.lineno}: {node.name}")
        problems += [f"{short(path)}:{line}: {name}" for line, name in names_bound(path) if name in BANNED_VARIABLES]
    fail(problems, f"name the noun it is; {', '.join(BANNED_WORDS)} and the variables {', '.join(sorted(BANNED_VARIABLES))} say nothing:")


def test_every_public_name_is_documented() -> None:
    problems = []
    for path in modules():
        if ast.get_docstring(tree(path)) is None:
            problems.append(f"{short(path)}:1: the module")
        for node in public(tree(path).body):
            if ast.get_docstring(node) is None:
                problems.append(f"{short(path)}:{node.lineno}: {node.name}")
    fail(problems, "write a docstring: the first line says what it returns or does, then unit, sign, errors, source:")


def public(body: list[ast.stmt]) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    """Public classes and functions of a module, and the public methods of its public classes."""
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node
            if isinstance(node, ast.ClassDef):
                yield from public(node.body)


def test_no_mode_flag_spreads_through_the_house() -> None:
    problems = []
    for path in modules():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Compare):
                continue
            named = {dotted(side).rpartition(".")[2] for side in (node.left, *node.comparators)}
            words = {side.value for side in (node.left, *node.comparators) if isinstance(side, ast.Constant)}
            if "mode" in named and words & {"live", "paper", "replay", "stress", "test", "sim"}:
                problems.append(f"{short(path)}:{node.lineno}")
    fail(problems, "modes differ only in what daemon/app wires together; pass another feed or venue instead of asking which mode it is:")


def test_every_shipped_runbook_loads_without_a_warning_and_has_tests() -> None:
    loaded = load_paths([ROOT / "runbooks"])
    assert loaded.runbooks, "runbooks/ is empty; ship the six runbooks"
    fail([d.render() for d in (*loaded.errors, *loaded.warnings)], "mend the shipped runbook (reefd check --strict runbooks/):")
    fail([r.path for r in loaded.runbooks if not r.tests], "a shipped runbook carries its tests:")


def test_every_shipped_runbook_says_why_it_exists() -> None:
    silent = []
    for path in sorted((ROOT / "runbooks").glob("*.yaml")):
        lines = path.read_text(encoding="utf-8").splitlines()
        prose = " ".join(line.lstrip("# ") for line in lines if line.startswith("#"))
        if len(prose.split()) < 20:
            silent.append(path.name)
    fail(silent, "write a paragraph of comment into the runbook that says why it is as it is:")


def test_every_dependency_has_a_decision() -> None:
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    listed = re.search(r"\ndependencies = \[(.*?)\n\]", text, re.S)
    assert listed
    names = re.findall(r'^\s*"([a-z][a-z0-9.-]*)', listed[1], re.M)
    assert len(names) > 5
    told = (ROOT / "docs/decisions/dependencies.md").read_text(encoding="utf-8")
    untold = [name for name in names if f"**{name}**" not in told]
    fail(untold, "write a line into docs/decisions/dependencies.md: what for, who keeps it, how we would leave it:")


def test_the_table_of_signals_in_the_docs_equals_the_catalogue() -> None:
    page = ROOT / "docs/signals.md"
    told = set(re.findall(r"^\|\s*`([a-z_0-9]+)", page.read_text(encoding="utf-8"), re.M))
    known = catalogue_names()
    fail(sorted(known - told), "add the signal to docs/signals.md:")
    fail(sorted(told - known), "docs/signals.md names a signal that the catalogue does not have; take it out or add it:")


def catalogue_names() -> set[str]:
    return {signal.name for signal in CATALOGUE.values() if not signal.internal}


def test_the_commands_of_the_readme_exist() -> None:
    known = {"audit", "scenario", "webhook"}
    for node in ast.walk(tree(PACKAGE / "cli.py")):
        if isinstance(node, ast.FunctionDef):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and dotted(decorator.func) == "app.command":
                    known.add(ast.literal_eval(decorator.args[0]) if decorator.args else node.name)
    blocks = re.findall(r"```sh\n(.*?)```", (ROOT / "README.md").read_text(encoding="utf-8"), re.S)
    told = set(re.findall(r"^reefd ([a-z]+)", "\n".join(blocks), re.M))
    assert told, "README.md shows no reefd command"
    fail(sorted(told - known), "README.md shows a command that reefd does not have:")


@pytest.mark.parametrize("lock", ["requirements.lock", "requirements-dev.lock"])
def test_a_lock_file_pins_every_package_by_hash_and_names_no_host(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    blocks = re.split(r"\n(?=[a-z0-9])", text.strip())
    assert len(blocks) > 20
    loose = [b.splitlines()[0] for b in blocks if "--hash=sha256:" not in b or "==" not in b.splitlines()[0]]
    fail(loose, "pin it with hashes (make lock):")
    fail(re.findall(r"^.*://.*|^--.*", text, re.M), "a lock file names no host (make lock):")
