"""`.ci/system-packages`, with stand-ins for apt-get, id, sudo and systemctl: it installs what is missing, once, and never fails a build."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from service_tools import PACKAGES

SCRIPT = Path(__file__).resolve().parent.parent / ".ci" / "system-packages"
PAIR = "reefd-no-such-program:reefd-no-such-package"
# Notes each call and whether a service may start meanwhile; an install puts the program on the path, unless told to fail.
APT = """#!/bin/sh
told=" $* "
case $told in *" --simulate "*) ;; *)
    if test -e "$POLICY_RC_D"; then "$POLICY_RC_D"; policy=$?; else policy=none; fi
    echo "$policy $*" >> "$HERE/calls" ;;
esac
case $told in
    *" $BROKEN "*) echo "E: no such luck"; exit 100 ;;
    *" --simulate "*|*" --download-only "*|*" update "*) exit 0 ;;
esac
cp "$HERE/bin/apt-get" "$HERE/bin/reefd-no-such-program"
"""


def run(folder: Path, *pairs: str, user: int = 0, sudo: bool = False, broken: str = "nothing", **environment: str) -> tuple[str, list[str]]:
    """What it said, and the calls of apt-get, each after the answer of policy-rc.d at that time; the exit code is always 0."""
    programs = folder / "bin"
    programs.mkdir(exist_ok=True)
    for name, text in {
        "apt-get": APT,
        "id": f"#!/bin/sh\necho {user}\n",
        "sudo": '#!/bin/sh\nshift\nexec "$@"\n' if sudo else "#!/bin/sh\nexit 1\n",
        "timeout": '#!/bin/sh\nshift 3\nexec "$@"\n',
        "systemctl": "#!/bin/sh\nexit 0\n",
    }.items():
        (programs / name).write_text(text, encoding="utf-8")
        (programs / name).chmod(0o755)
    told = {"HERE": str(folder), "BROKEN": broken, "POLICY_RC_D": str(folder / "policy-rc.d"), "PATH": f"{programs}:{os.environ['PATH']}"}
    told = {**os.environ, "REEFD_SYSTEM_PACKAGES": "yes", **told, **environment}
    found = subprocess.run(["sh", str(SCRIPT), *pairs], env=told, capture_output=True, text=True, timeout=180)
    assert found.returncode == 0, found.stderr
    assert found.stdout == ""
    calls = folder / "calls"
    return found.stderr, calls.read_text(encoding="utf-8").splitlines() if calls.exists() else []


def test_the_script_knows_every_package_that_a_test_names() -> None:
    installed = set(re.findall(r"[\w./-]+:([a-z][\w-]+)", SCRIPT.read_text(encoding="utf-8").partition('}"')[0]))
    assert set(PACKAGES.values()) - {"systemd"} <= installed  # systemd is not for a test to install
    assert {"fonts-dejavu-core", "chromium"} <= installed


def test_nothing_is_called_when_nothing_is_missing(tmp_path: Path) -> None:
    assert run(tmp_path, "sh:dash") == ("", [])


def test_what_is_missing_is_installed_once_while_no_service_may_start(tmp_path: Path) -> None:
    said, calls = run(tmp_path, PAIR, "sh:dash")
    assert said == "system-packages: installing reefd-no-such-package\n"
    assert [call.split()[0] for call in calls] == ["none", "101", "101"]
    assert [call.split()[-1] for call in calls] == ["update", "reefd-no-such-package", "reefd-no-such-package"]
    assert all("--no-install-recommends" in call for call in calls[1:])
    assert "--download-only" in calls[1]
    assert not (tmp_path / "policy-rc.d").exists()
    assert run(tmp_path, PAIR) == ("", calls)  # and now it is there


def test_a_policy_of_the_system_stays(tmp_path: Path) -> None:
    policy = tmp_path / "policy-rc.d"
    policy.write_text("#!/bin/sh\nexit 104\n", encoding="utf-8")
    policy.chmod(0o755)
    _, calls = run(tmp_path, PAIR)
    assert [call.split()[0] for call in calls] == ["104"] * 3
    assert policy.read_text(encoding="utf-8") == "#!/bin/sh\nexit 104\n"


def test_an_ordinary_user_installs_by_passwordless_sudo_or_not_at_all(tmp_path: Path) -> None:
    said, calls = run(tmp_path, PAIR, user=1000)
    assert said == (
        "system-packages: not installed: reefd-no-such-package (neither root nor passwordless sudo); the tests that need them are skipped\n"
    )
    assert calls == []
    said, calls = run(tmp_path, PAIR, user=1000, sudo=True)
    assert len(calls) == 3
    assert "not installed" not in said


def test_what_cannot_be_had_is_named_and_the_build_goes_on(tmp_path: Path) -> None:
    unknown = " (the package index does not have them, or cannot be reached)"
    for broken, why, tries in (("--simulate", unknown, 1), ("--download-only", "", 2)):
        folder = tmp_path / broken
        folder.mkdir()
        said, calls = run(folder, PAIR, broken=broken)
        assert f"system-packages: not installed: reefd-no-such-package{why}; the tests" in said
        assert len(calls) == tries
        assert not (folder / "policy-rc.d").exists()
        assert ("E: no such luck" in said) == (tries == 2)


def test_the_index_is_used_as_it_is_when_it_cannot_be_renewed(tmp_path: Path) -> None:
    said, calls = run(tmp_path, PAIR, broken="update")
    assert len(calls) == 3
    assert "not installed" not in said


def test_a_system_is_left_alone_when_asked(tmp_path: Path) -> None:
    said, calls = run(tmp_path, PAIR, REEFD_SYSTEM_PACKAGES="no")
    assert "not installed: reefd-no-such-package (REEFD_SYSTEM_PACKAGES=no)" in said
    assert calls == []
