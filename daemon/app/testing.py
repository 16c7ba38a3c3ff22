"""`reefd test`: run the tests that runbooks carry, in virtual time, on the engine that acts live (floor 9)."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from daemon import __version__
from daemon.engine.engine import Engine
from daemon.engine.hot import Sources
from daemon.engine.limits import HouseLimits
from daemon.errors import Diagnostic
from daemon.runbook.load import load_paths
from daemon.runbook.model import Runbook
from daemon.simulation.cases import TestOutcome, run_test
from daemon.simulation.coverage import Coverage
from daemon.world.entities import Topology


def test(paths: Sequence[Path], *, json_format: bool, coverage: bool) -> int:
    """Run every test of the runbooks and print what failed; 0 when all passed, 1 when one failed or a file has errors.

    A path without any test is an error: a misspelled folder must not look like success.
    """
    loaded = load_paths(paths)
    errors = [*loaded.errors, *_without_tests(paths, loaded.runbooks)] if not loaded.errors else list(loaded.errors)
    if errors:
        _print_errors(errors, json_format=json_format)
        return 1
    covers = [Coverage(book) for book in loaded.runbooks] if coverage else []
    outcomes: list[TestOutcome] = []
    for index, book in enumerate(loaded.runbooks):
        cover = covers[index] if coverage else None
        outcomes += [run_test(book, case, make_engine=_engine, coverage=cover) for case in book.tests]
    failed = sum(1 for outcome in outcomes if not outcome.passed)
    if json_format:
        _print_json(outcomes, failed, covers)
    else:
        _print_text(outcomes, failed, covers)
    return int(failed > 0)


def _engine(topology: Topology, sources: Sources) -> Engine:
    # Tests are about one runbook: the limits of a house lie outside of it.
    return Engine(topology=topology, house=HouseLimits(), build=__version__, sources=sources)


def _without_tests(paths: Sequence[Path], runbooks: Sequence[Runbook]) -> list[Diagnostic]:
    found: list[Diagnostic] = []
    for path in paths:
        inside = [book for book in runbooks if Path(book.path) == path or path in Path(book.path).parents]
        if not any(book.tests for book in inside):
            message = "holds no test; write a tests: section, or name another file"
            found.append(Diagnostic(file=str(path), line=1, column=1, code="E040", message=message))
    return found


def _print_errors(errors: Sequence[Diagnostic], *, json_format: bool) -> None:
    if json_format:
        report = {"tests": 0, "passed": 0, "failed": 0, "failures": [], "errors": [error.as_json() for error in errors]}
        sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")
        return
    for error in errors:
        sys.stdout.write(error.render() + "\n")
    sys.stdout.write(f"failed: {len(errors)} error{'' if len(errors) == 1 else 's'}, no test was run\n")


def _print_json(outcomes: Sequence[TestOutcome], failed: int, covers: Sequence[Coverage]) -> None:
    report: dict[str, object] = {
        "tests": len(outcomes),
        "passed": len(outcomes) - failed,
        "failed": failed,
        "failures": [failure.as_json() for outcome in outcomes for failure in outcome.failures],
    }
    if covers:
        report["coverage"] = [cover.as_json() for cover in covers]
    sys.stdout.write(json.dumps(report, indent=2, ensure_ascii=False) + "\n")


def _print_text(outcomes: Sequence[TestOutcome], failed: int, covers: Sequence[Coverage]) -> None:
    lines: list[str] = []
    for outcome in outcomes:
        lines.append(f"{'ok    ' if outcome.passed else 'FAILED'} {outcome.runbook}: {outcome.test}")
        for failure in outcome.failures:
            lines.append(f"  {failure.path}:{failure.line}: at {failure.at}: expected {failure.expected}, got {failure.got}")
    for cover in covers:
        lines += cover.lines()
    lines.append(f"{'failed' if failed else 'ok'}: {len(outcomes)} test{'' if len(outcomes) == 1 else 's'}, {failed} failed")
    sys.stdout.write("\n".join(lines) + "\n")
