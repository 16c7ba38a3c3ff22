"""Programs that tests drive: found wherever they are, and named when they are not."""

from __future__ import annotations

from pathlib import Path

import pytest
import service_tools
from service_tools import find_program, missing, program


def put(folder: Path, name: str, mode: int = 0o755) -> str:
    folder.mkdir(exist_ok=True)
    path = folder / name
    path.write_text("#!/bin/sh\n", encoding="utf-8")
    path.chmod(mode)
    return str(path)


def test_a_program_is_found_on_the_path_and_where_daemons_live(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(service_tools, "ALSO", (str(tmp_path / "sbin"),))
    assert find_program("mosquitto") is None
    far = put(tmp_path / "sbin", "mosquitto")
    assert find_program("mosquitto") == far
    near = put(tmp_path / "bin", "mosquitto")
    assert find_program("mosquitto") == near


def test_a_program_is_found_under_its_other_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(service_tools, "ALSO", ())
    other = put(tmp_path / "bin", "google-chrome")
    assert find_program("chromium") == other


def test_a_test_skips_and_names_the_package_when_a_program_is_absent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(service_tools, "ALSO", ())
    put(tmp_path, "promtool", mode=0o644)  # there, but not executable
    with pytest.raises(pytest.skip.Exception, match=r"promtool is not installed .Debian package prometheus;"):
        program("promtool")
    assert "Debian package mosquitto" in missing("mosquitto")
