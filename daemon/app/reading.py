"""What the daemon reads at its start (floor 9): house limits, the set of runbooks, where its journal is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from daemon.engine.limits import HouseLimits, parse_house_limits
from daemon.engine.state import Closure
from daemon.errors import SettingsError
from daemon.runbook.load import Loaded, load_paths
from daemon.runbook.provided import unprovided
from daemon.service.stress import SIGNALS
from daemon.settings import Settings
from daemon.units import iso
from daemon.world.entities import Topology


def read_house_limits(path: Path | None) -> HouseLimits:
    """The house's limits; none where no file is configured. Raises SettingsError."""
    if path is None:
        return HouseLimits()
    try:
        document = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except OSError as error:
        why = (error.strerror or str(error)).lower()
        raise SettingsError(f"{path}: {why}; `limits:` of the settings names the house limits") from error
    except (YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise SettingsError(f"{path}: this is no YAML: {' '.join(str(error).split())}") from error
    if document is None:
        return HouseLimits()
    if not isinstance(document, Mapping):
        found = repr(document)[:60]
        raise SettingsError(f"{path}: house limits are sections of limits, found {found}; write account: {{turnover_per_hour: ...}}")
    return parse_house_limits(document, str(path))


def load_set(path: Path, topology: Topology, *, stressed: bool = True) -> Loaded:
    """The runbooks of a file or folder; what no venue of the topology provides is an error like any other, and so are the signals of the
    stress where none is scheduled."""
    loaded = load_paths([path])
    lacking = unprovided(loaded.runbooks, topology, () if stressed else SIGNALS)
    return replace(loaded, errors=tuple(sorted([*loaded.errors, *lacking], key=lambda d: (d.file, d.line, d.column, d.code))))


def log_style(configured: str, asked: str | None, *, terminal: bool) -> str:
    """`json` or `console`: what the command line asks, else the settings, `auto` by whether a person is looking."""
    wanted = asked or configured
    if wanted == "auto":
        return "console" if terminal else "json"
    return wanted


def journal_path(settings: Settings, *, dry_run: bool) -> tuple[Path, Path]:
    """State and feed file. A dry run keeps a journal of its own: its rejected actions must never look like the real ones' past."""
    state, feed = settings.journal.path, settings.journal.feed()
    if dry_run:
        return state.with_name(f"dry-run-{state.name}"), feed.with_name(f"dry-run-{feed.name}")
    return state, feed


def describe_gates(gates: Mapping[str, Sequence[Closure]]) -> list[dict[str, str]]:
    """Every closing of a gate that stands: `what` is closed, by whom, since when and why."""
    return [
        {"what": key.partition("/")[2] or "everything", "by": closure.by, "since": iso(closure.at), "reason": closure.reason}
        for key, closures in sorted(gates.items())
        for closure in closures
    ]
