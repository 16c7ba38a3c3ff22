"""The command line: what each verb is called, says, hands over and exits with. A user's mistake is one message, never a traceback."""

from __future__ import annotations

import ast
import inspect
import os
import subprocess
import sys
from collections.abc import Callable
from datetime import date
from importlib import import_module
from pathlib import Path

import pytest
from typer.testing import CliRunner

from daemon import __version__, cli
from daemon.errors import Diagnostic, RunbookError, UserError

ROOT = Path(__file__).resolve().parent.parent
VERBS = [
    "check", "test", "import", "eval", "replay", "sweep", "diff", "explain", "run", "sim", "demo", "status", "audit verify", "audit backup",
    "scenario list", "scenario show", "scenario run", "doctor", "traces", "drill",
    "new", "fmt", "schema",
    "why", "runs", "tail", "gate", "approve", "deny", "pause", "unpause", "halt", "resume", "token new", "token list", "token revoke",
    "webhook list", "webhook test", "webhook redeliver", "webhook enable",
]  # fmt: skip
HEAVY = ("numpy", "polars", "pyarrow", "pandas", "httpx", "fastapi", "uvicorn", "numba", "llvmlite", "distributed", "opentelemetry")


class Called:
    """Stands in for every job of `daemon.app`: keeps what it was called with, answers with `code` or raises `error`."""

    def __init__(self, code: int = 0, error: BaseException | None = None) -> None:
        self.code, self.error = code, error
        self.calls: list[tuple[str, tuple[object, ...], dict[str, object]]] = []

    def __call__(self, module: str, function: str) -> Callable[..., int]:
        def job(*args: object, **options: object) -> int:
            self.calls.append((f"{module}.{function}", args, options))
            if self.error is not None:
                raise self.error
            return self.code

        return job


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> Called:
    stand_in = Called()
    monkeypatch.setattr(cli, "_job", stand_in)
    return stand_in


def reefd(*words: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "COLUMNS": "120"}
    return subprocess.run(
        [sys.executable, "-m", "daemon.cli", *words], capture_output=True, text=True, cwd=ROOT, env=environment, timeout=180, check=False
    )


def run_main(monkeypatch: pytest.MonkeyPatch, *words: str) -> int:
    """The exit code of `main()` in this process."""
    monkeypatch.setattr(sys, "argv", ["reefd", *words])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    code = ended.value.code
    assert isinstance(code, int)
    return code


def jobs_named_in_the_source() -> set[tuple[str, str]]:
    source = ast.parse((ROOT / "daemon/cli.py").read_text(encoding="utf-8"))
    calls = [n for n in ast.walk(source) if isinstance(n, ast.Call) and isinstance(n.func, ast.Name) and n.func.id == "_job"]
    return {(ast.literal_eval(call.args[0]), ast.literal_eval(call.args[1])) for call in calls}


def test_version_is_that_of_the_package() -> None:
    done = reefd("--version")
    assert (done.returncode, done.stdout) == (0, f"reefd {__version__}\n")


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_shows_an_example_and_its_exit_codes(verb: str) -> None:
    shown = CliRunner().invoke(cli.app, [*verb.split(), "--help"], env={"COLUMNS": "120"})
    assert shown.exit_code == 0
    assert f"Example: reefd {verb}" in shown.output
    assert "Exit codes: 0 " in shown.output


def test_the_list_of_verbs_is_the_one_that_is_promised() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).output
    assert all(f"\n  {verb.split()[0]} " in shown for verb in VERBS)


ONE_OF_EACH = {
    ("check", "check"): ["check", "a.yaml", "b", "--format", "json", "--strict", "--as-of", "2026-10-01"],
    ("testing", "test"): ["test", "a.yaml", "--coverage"],
    ("templates", "new"): ["new", "funding", "--out", "f.yaml"],
    ("formatting", "fmt"): ["fmt", "a.yaml", "b", "--check"],
    ("schemas", "schema"): ["schema", "settings"],
    ("importing", "import_"): ["import", "--map", "m.yaml", "a.csv", "b.csv", "--out", "rec"],
    ("evaluating", "evaluate"): ["eval", "size > 0", "--recording", "rec", "--entity", "dydx:BTC-USD", "--out", "f.csv"],
    ("evaluating", "explain"): ["explain", "a.yaml", "--recording", "rec", "--entity", "dydx:BTC-USD", "--at", "2026-02-03"],
    ("replaying", "replay"): ["replay", "--recording", "rec", "--runbooks", "r", "--account", "a.yaml", "--out", "o", "--limits", "l.yaml"],
    ("sweeping", "sweep"): ["sweep", "a.yaml", "--set", "x=1,2", "--set", "y=1m..3m/3", "--recording", "rec", "--account", "a.yaml",
                            "--random", "9", "--seed", "3", "--workers", "2", "--walk-forward", "3", "--objective", "runs", "--out", "o"],
    ("clustering", "sweep_on_cluster"): ["sweep", "a.yaml", "--set", "x=1,2", "--recording", "rec", "--cluster", "tcp://host:8786"],
    ("stressing", "stress"): ["stress", "--book", "b.yaml", "--world", "w.yaml", "v.yaml", "--paths", "9", "--horizon", "2d", "--seed", "3",
                              "--workers", "2", "--rare", "off", "--dependence", "off", "--limits", "l.yaml", "--out", "o",
                              "--history", "rec", "--history-venue", "bybit"],
    ("clustering", "stress_on_cluster"): ["stress", "--book", "b.yaml", "--world", "w.yaml", "--cluster", "tcp://host:8786"],
    ("diffing", "diff"): ["diff", "old", "new", "--recording", "rec", "--account", "a.yaml", "--format", "json", "--limits", "l.yaml"],
    ("margins", "margin"): ["margin", "--book", "b.yaml", "--format", "json", "--out", "o"],
    ("verifying", "verify_journal"): ["replay", "--journal", "state.db", "--verify", "--format", "json"],
    ("live", "run"): ["run", "--config", "c.yaml", "--dry-run", "--log", "json"],
    ("simulating", "sim"): ["sim", "--scenario", "s.yaml", "--port", "0", "--speed", "60", "--seed", "7"],
    ("drill", "drill"): ["drill", "--config", "c.yaml", "--send", "--format", "json"],
    ("traces", "traces"): ["traces", "--config", "c.yaml", "--endpoint", "http://127.0.0.1:1/v1/traces", "--follow", "--after", "7"],
    ("doctor", "doctor"): ["doctor", "--config", "c.yaml", "--format", "json", "--send"],
    ("demo", "demo"): ["demo", "--seconds", "5", "--speed", "2"],
    ("watching", "status"): ["status", "--config", "c.yaml", "--format", "json", "--watch", "--url", "http://127.0.0.1:1"],
    ("operator", "why"): ["why", "funding-spike", "dydx:BTC-USD"],
    ("operator", "runs"): ["runs", "--runbook", "funding-spike", "--entity", "e", "--status", "done", "--limit", "5"],
    ("operator", "tail"): ["tail", "--url", "http://127.0.0.1:1", "--after", "7-0", "--times", "3"],
    ("operator", "gate"): ["gate", "dydx:BTC-USD", "--config", "c.yaml"],
    ("operator", "approve"): ["approve", "a/b/1/1", "--digest", "ab", "--reason", "r", "--yes"],
    ("operator", "deny"): ["deny", "a/b/1/1", "--reason", "r", "-y"],
    ("operator", "pause"): ["pause", "funding-spike", "--for", "2h", "--reason", "r"],
    ("operator", "unpause"): ["unpause", "funding-spike", "--reason", "r"],
    ("operator", "halt"): ["halt", "portfolio", "--reason", "r"],
    ("operator", "resume"): ["resume", "portfolio", "--reason", "r"],
    ("tokens", "new"): ["token", "new", "ana", "--role", "approve", "--expires", "90d"],
    ("tokens", "listed"): ["token", "list", "--config", "c.yaml"],
    ("tokens", "revoke"): ["token", "revoke", "ana"],
    ("scenarios", "list_"): ["scenario", "list", "--format", "json"],
    ("scenarios", "show_"): ["scenario", "show", "calm"],
    ("scenarios", "run"): ["scenario", "run", "calm", "--runbooks", "r", "--seed", "3", "--out", "o", "--limits", "l.yaml"],
    ("webhooks", "list_"): ["webhook", "list", "--config", "c.yaml", "--format", "json"],
    ("webhooks", "test"): ["webhook", "test", "desk", "--config", "c.yaml"],
    ("webhooks", "redeliver"): ["webhook", "redeliver", "17", "--config", "c.yaml", "--format", "json"],
    ("webhooks", "enable"): ["webhook", "enable", "desk", "--config", "c.yaml"],
    ("auditing", "backup"): ["audit", "backup", "s.db", "--out", "copy"],
    ("auditing", "audit_verify"): ["audit", "verify", "s.db", "--anchor", "7:ab"],
}


@pytest.mark.parametrize("job", sorted(ONE_OF_EACH))
def test_a_verb_calls_its_job_once_with_arguments_that_the_job_takes(called: Called, job: tuple[str, str]) -> None:
    done = CliRunner().invoke(cli.app, ONE_OF_EACH[job])
    assert done.exit_code == 0, done.output
    [(name, args, options)] = called.calls
    assert name == ".".join(job)
    real = getattr(import_module(f"daemon.app.{job[0]}"), job[1])
    inspect.signature(real).bind(*args, **options)


def test_every_job_of_the_command_line_is_covered_by_the_table() -> None:
    assert jobs_named_in_the_source() == set(ONE_OF_EACH)


def test_arguments_arrive_as_they_were_written(called: Called) -> None:
    CliRunner().invoke(cli.app, ONE_OF_EACH["check", "check"])
    assert called.calls == [
        ("check.check", ([Path("a.yaml"), Path("b")],), {"json_format": True, "strict": True, "as_of": date(2026, 10, 1)}),
    ]


@pytest.mark.parametrize("code", [0, 1, 2, 3])
def test_the_exit_code_is_what_the_job_returns(called: Called, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    called.code = code
    assert run_main(monkeypatch, "run") == code


def test_a_runbook_error_is_printed_and_exits_1(
    called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called.error = RunbookError([Diagnostic(file="a.yaml", line=3, column=5, code="E001", message="write 5%")])
    assert run_main(monkeypatch, "check", "a.yaml") == 1
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "a.yaml:3:5: error E001: write 5%\n")


def test_a_user_error_is_one_message_and_exits_2(
    called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called.error = UserError("port 8700 is in use; write --port 0")
    assert run_main(monkeypatch, "sim") == 2
    assert capsys.readouterr().err == "reefd: port 8700 is in use; write --port 0\n"


def test_a_full_disk_is_one_message_and_exits_2(
    called: Called, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called.error = OSError(28, "No space left on device", "out/report.json")
    assert run_main(monkeypatch, *ONE_OF_EACH["replaying", "replay"]) == 2
    assert capsys.readouterr().err == "reefd: out/report.json: no space left on device\n"


@pytest.mark.parametrize(
    "words",
    [
        ["replay", "--recording", "{here}", "--runbooks", "nowhere", "--account", "account.yaml"],
        ["stress", "--book", "config/books/example.yaml", "--world", "config/worlds/gbm.yaml", "--runbooks", "nowhere"],
        ["scenario", "run", "calm", "--runbooks", "nowhere"],
        ["explain", "nowhere", "--recording", "{here}", "--entity", "dydx:BTC-USD", "--at", "2026-02-03"],
        ["diff", "nowhere", "runbooks", "--recording", "{here}", "--account", "account.yaml"],
        ["sweep", "runbooks/margin-low.yaml", "--set", "hold=1m,2m", "--recording", "{here}", "--account", "account.yaml",
         "--runbooks", "nowhere"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_runbooks_that_are_not_there_are_one_message_and_exit_2(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    monkeypatch.chdir(ROOT)
    assert run_main(monkeypatch, *(word.format(here=tmp_path) for word in words)) == 2
    assert capsys.readouterr().err.startswith("reefd: nowhere: no such file or folder; write a runbook's file")


def test_an_interrupt_exits_130(called: Called, monkeypatch: pytest.MonkeyPatch) -> None:
    called.error = KeyboardInterrupt()
    assert run_main(monkeypatch, "demo") == 130


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["check"], "PATH"),
        (["chek", "runbooks"], "chek"),
        (["replay", "--recording", "rec"], "--runbooks, --account"),
        (["replay", "--journal", "state.db"], "--verify"),
        (["replay", "--verify"], "--journal"),
        (["replay", "--journal", "s.db", "--verify", "--recording", "rec"], "leave out"),
        (["check", "a.yaml", "--as-of", "yesterday"], "2026-10-01"),
        (["check", "a.yaml", "--format", "xml"], "json"),
        (["sim", "--port", "99999"], "65535"),
    ],
)
def test_wrong_usage_says_what_to_write_and_exits_2(called: Called, words: list[str], says: str) -> None:
    done = CliRunner().invoke(cli.app, words, env={"COLUMNS": "120"})
    assert done.exit_code == 2
    assert says in done.output
    assert called.calls == []


def test_a_path_that_does_not_exist_is_an_error_without_a_traceback() -> None:
    done = reefd("check", "no/such/folder")
    assert done.returncode == 1
    assert "no/such/folder" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["--version"], ["check", "runbooks"]])
def test_quick_verbs_load_no_heavy_library(words: list[str]) -> None:
    program = (
        "import sys\nfrom daemon import cli\nsys.argv = ['reefd', *sys.argv[1:]]\n"
        "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert ended.code in (0, None), ended.code\n"
        f"loaded = sorted(name for name in {HEAVY!r} if name in sys.modules)\nsys.exit(f'loaded: {{loaded}}' if loaded else 0)"
    )
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, cwd=ROOT, timeout=180, check=False)
    assert done.returncode == 0, done.stderr + done.stdout


def test_output_into_a_closed_pipe_is_no_error() -> None:
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {sys.executable} -m daemon.cli check runbooks --format json | true; echo ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=ROOT,
        timeout=180,
        check=False,
    )
    assert "Traceback" not in done.stderr


COMPLETING = (
    "import os, sys\nfrom daemon import cli\nsys.argv = ['reefd']\n"
    "try:\n    cli.main()\nexcept SystemExit as ended:\n    assert ended.code in (0, None), ended.code\n"
    f"sys.stdout.flush()\nloaded = sorted(name for name in {HEAVY!r} if name in sys.modules)\n"
    "sys.exit(f'loaded: {loaded}' if loaded else 0)"
)


def completed(**environment: str) -> str:
    """What `reefd` prints when a shell asks it, under these variables; no heavy library may be loaded for it."""
    variables = {**os.environ, **environment}
    done = subprocess.run(
        [sys.executable, "-c", COMPLETING], capture_output=True, text=True, cwd=ROOT, env=variables, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


@pytest.mark.parametrize(
    ("shell", "holds"),
    [("bash", "complete -o default -F _reefd_completion reefd"), ("zsh", "#compdef reefd"), ("fish", "complete --command reefd")],
)
def test_a_shell_gets_its_completion_script(shell: str, holds: str) -> None:
    assert holds in completed(_REEFD_COMPLETE=f"source_{shell}")


def test_the_script_of_bash_is_bash_and_show_completion_prints_it() -> None:
    program = f"{sys.executable} -m daemon.cli --show-completion"
    done = subprocess.run(["bash", "-c", f"{program}; exit $?"], capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "COMPREPLY=" in done.stdout
    script = completed(_REEFD_COMPLETE="source_bash")
    read = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True, timeout=60, check=False)
    assert (read.returncode, read.stderr) == (0, "")


@pytest.mark.parametrize(
    ("typed", "offered"),
    [
        ("reefd ch", {"check"}),
        ("reefd audit ", {"verify", "backup"}),
        ("reefd new fu", {"funding"}),
        ("reefd scenario run worst", {"worst-case-bridging"}),
        ("reefd schema set", {"settings"}),
        ("reefd check --st", {"--strict"}),
    ],
)
def test_a_shell_completes_verbs_options_and_names(typed: str, offered: set[str]) -> None:
    words = typed.split(" ")
    shown = completed(_REEFD_COMPLETE="complete_bash", COMP_WORDS=typed, COMP_CWORD=str(len(words) - 1))
    assert set(shown.split()) == offered
    in_zsh = completed(_REEFD_COMPLETE="complete_zsh", _TYPER_COMPLETE_ARGS=typed)
    assert all(f'"{name}"' in in_zsh for name in offered)
    in_fish = completed(_REEFD_COMPLETE="complete_fish", _TYPER_COMPLETE_ARGS=typed, _TYPER_COMPLETE_FISH_ACTION="get-args")
    assert {line.split("\t")[0] for line in in_fish.splitlines()} == offered
