"""`reefd diff`: two versions of runbooks over a recording, matched episode by episode, and where they part."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.app.diffing import diff
from daemon.errors import RunbookError, UserError
from daemon.simulation.contrast import matched
from daemon.simulation.episode import Episode
from tests.sweep_world import BOOK, HYPE, make


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return make(tmp_path)


def run(folder: Path, text: str, *, json_format: bool = True) -> int:
    (folder / "new.yaml").write_text(text, encoding="utf-8")
    return diff(
        folder / "spike.yaml", folder / "new.yaml", recording=folder / "recording", account=folder / "account.yaml",
        json_format=json_format, limits=None,
    )  # fmt: skip


def document(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def test_the_same_runbooks_make_no_difference(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(folder, BOOK.replace("title: Shrink", "title: Always shrink"), json_format=False) == 0
    assert capsys.readouterr().out == "no difference: 3 episodes, the same in both\n"
    run(folder, BOOK)
    found = document(capsys)
    assert (found["same"], found["episodes"], found["first_divergence"]) == (True, [], None)


def test_an_episode_that_the_new_version_has_not_is_removed_and_the_divergence_explained(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(folder, BOOK.replace("default: 0.1%/h", "default: 0.15%/h")) == 0
    found = document(capsys)
    assert [item["kind"] for item in found["episodes"]] == ["removed", "removed"]
    assert found["episodes"][0]["new"] is None
    assert found["figures"]["episodes"] == {"old": 3.0, "new": 1.0, "change": -2.0}
    assert found["figures"]["turnover_usd"]["change"] < 0.0
    first = found["first_divergence"]
    assert (first["at"], first["kind"], first["entity"]) == ("2026-02-04T12:01:00.000Z", "removed", HYPE)
    why = "\n".join(first["why"])
    assert "OLD, at 2026-02-04T12:01:00.000Z" in why
    assert "TRUE  funding_rate * sign(size) > threshold  (0.02%/h above)" in why
    assert "FALSE  funding_rate * sign(size) > threshold  (0.03%/h below)" in why
    assert "0.15%/h  threshold" in why


def test_an_episode_that_acts_otherwise_is_changed_and_says_how(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, BOOK.replace("by: 50%", "by: 25%").replace("hold: 1m", "hold: 2m"), json_format=False)
    text = capsys.readouterr().out
    assert text.startswith("3 changed\n")
    assert "    fired 2026-02-03T21:01:00.000Z -> 2026-02-03T21:02:00.000Z" in text
    assert "    shrink_position done 500 (16,498.35 USD) -> shrink_position done 250 (8,249.17 USD)" in text
    assert "without_direction_usd" in text
    assert "first divergence at 2026-02-03T21:01:00.000Z: spike on dydx:HYPE-USD, changed" in text


def test_episodes_that_are_only_numbered_otherwise_are_the_same(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    telling = BOOK.replace("shrink_position: {by: 50%, max_slippage: 1%}", "cancel_orders: {scope: position}")
    (folder / "spike.yaml").write_text(telling, encoding="utf-8")
    run(folder, telling.replace("> threshold\n", "> threshold and funding_rate < 0.15%/h\n"))  # the first spike is above that
    found = document(capsys)
    assert [item["kind"] for item in found["episodes"]] == ["removed"]


def test_a_runbook_that_only_one_version_has_is_told(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(folder, BOOK.replace("runbook: spike", "runbook: other"))
    found = document(capsys)
    assert sorted({item["kind"] for item in found["episodes"]}) == ["added", "removed"]
    assert any("the runbook 'other' is not there" in line for line in found["first_divergence"]["why"])


def test_mistakes_and_missing_files_are_told_apart(folder: Path) -> None:
    with pytest.raises(RunbookError, match="E014"):
        run(folder, BOOK.replace("default: 0.1%/h, min: 0.01%/h, max: 1%/h", "default: 0.1%"))
    with pytest.raises(UserError, match=r"gone: no such file or folder") as told:
        diff(folder / "gone", folder, recording=folder, account=folder / "account.yaml", json_format=False, limits=None)
    assert not isinstance(told.value, RunbookError)


def episode(fired_at: int, cleared_at: int | None, entity: str = HYPE) -> Episode:
    return Episode(runbook="spike", entity=entity, subject=entity, pending_at=fired_at, fired_at=fired_at, cleared_at=cleared_at)


def test_episodes_are_matched_by_entity_and_overlap_each_at_most_once() -> None:
    old = [episode(0, 10), episode(20, 30), episode(20, 30, "dydx:ETH-USD")]
    new = [episode(5, 8), episode(9, 12), episode(31, None)]
    pairs = [(pair.old, pair.new) for pair in matched(old, new)]
    assert pairs == [(old[0], new[0]), (None, new[1]), (old[2], None), (old[1], None), (None, new[2])]


spans = st.lists(st.tuples(st.integers(0, 100), st.one_of(st.none(), st.integers(0, 30))), max_size=8)


@given(old=spans, new=spans)
def test_every_episode_of_both_stands_in_exactly_one_pair(old: list[tuple[int, int | None]], new: list[tuple[int, int | None]]) -> None:
    made = [[episode(at, None if width is None else at + width) for at, width in side] for side in (old, new)]
    pairs = matched(*made)
    for side, episodes in (("old", made[0]), ("new", made[1])):
        found = [getattr(pair, side) for pair in pairs if getattr(pair, side) is not None]
        assert sorted(map(id, found)) == sorted(map(id, episodes))
    assert all(pair.kind == "same" for pair in matched(made[0], made[0]) if pair.old is pair.new)
