"""What a demo or a drill inherits: nothing of the house that this machine may be."""

from __future__ import annotations

import pytest

from daemon.app.shipped import own_environment


def test_a_process_that_plays_inherits_no_setting_of_the_house(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REEFD_HALT_FILE", "/var/lib/reefd/halt")
    monkeypatch.setenv("reefd_mqtt__host", "broker")
    monkeypatch.setenv("PATH_OF_MINE", "kept")
    environment = own_environment({"REEFD_DRILL_SECRET": "its own"})
    assert [name for name in environment if name.upper().startswith("REEFD_")] == ["REEFD_DRILL_SECRET"]
    assert environment["PATH_OF_MINE"] == "kept"
