"""The drill: the whole of it once as a user runs it, and what is told of a link that does not hold."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.app.drill import RUNBOOK, SCENARIO, Broken, Drill, Link, drill
from daemon.edges.receiver import Receiver
from daemon.runbook.load import load_text
from daemon.simulation.scenario import load_scenario

ROOT = Path(__file__).resolve().parent.parent
SECRET = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"


def test_the_drills_own_runbook_and_scenario_have_no_mistakes(tmp_path: Path) -> None:
    loaded = load_text(RUNBOOK, "drill.yaml")
    assert loaded.errors == ()
    (tmp_path / "scenario.yaml").write_text(SCENARIO, encoding="utf-8")
    assert list(load_scenario(tmp_path / "scenario.yaml").markets) == ["ETH-USD"]


def test_a_link_that_breaks_is_told_with_what_was_seen_instead(tmp_path: Path) -> None:
    told: list[Link] = []
    one = Drill(tmp_path, tell=told.append)

    def breaks() -> str:
        raise Broken("the venue saw 2 orders")

    assert one._link("holds", lambda: "seen") is True
    assert one._link("breaks", breaks) is False
    assert [(link.name, link.held, link.evidence) for link in told] == [
        ("holds", True, "seen"),
        ("breaks", False, "the venue saw 2 orders"),
    ]
    assert one.links == told


def test_people_hear_how_it_went_and_an_endpoint_that_does_not_answer_is_a_broken_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("DRILL_TEST_SECRET", SECRET)
    monkeypatch.setattr(Drill, "play", lambda self: [Link(name="a trigger fires", held=True, evidence="seen", took_s=0.1)])
    with Receiver(SECRET) as receiver:
        config = tmp_path / "reefd.yaml"
        config.write_text(
            "webhooks:\n"
            f"  desk: {{url: '{receiver.url}', secret: 'env:DRILL_TEST_SECRET', allow_private: true}}\n"
            "  gone: {url: 'http://127.0.0.1:9/hook', secret: 'env:DRILL_TEST_SECRET', allow_private: true}\n",
            encoding="utf-8",
        )
        assert drill(config, json_format=True, send=True) == 1
        (message,) = receiver.received
    assert message.kind == "notice.drill"
    assert message.verified
    report = json.loads(capsys.readouterr().out)
    assert report["passed"] is False
    assert [(link["name"], link["held"]) for link in report["links"]] == [
        ("a trigger fires", True),
        ("desk is reached", True),
        ("gone is reached", False),
    ]


@pytest.mark.slow
def test_every_link_of_the_whole_path_holds() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "daemon.cli", "drill", "--format", "json"],
        capture_output=True, text=True, cwd=ROOT, timeout=600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    report = json.loads(done.stdout)
    assert report["passed"]
    assert len(report["links"]) == 13
