"""The halt flag and the commands of people on their way through the inbox."""

from __future__ import annotations

from pathlib import Path

import pytest

from daemon.engine.events import OperatorCommand
from daemon.engine.records import CommandTaken
from daemon.service.commands import ALREADY, FULL, Commands, did_something
from daemon.service.halting import HaltFlag
from daemon.service.inbox import Inbox


def order(command_id: str, verb: str = "pause") -> OperatorCommand:
    return OperatorCommand(at=0, command_id=command_id, actor="ana", verb=verb)


def taken(command_id: str, effect: str = "paused everything") -> CommandTaken:
    return CommandTaken(at=7, command_id=command_id, actor="ana", verb="pause", target="", effect=effect, reason="")


def test_halt_flag_says_why_and_keeps_its_first_reason_when_it_is_set_twice(tmp_path: Path) -> None:
    flag = HaltFlag(tmp_path / "var" / "halt")
    assert (flag.there(), flag.text()) == (False, "")
    flag.set("ana: maintenance\nat the venue")
    flag.set("ben: me too")
    assert flag.there()
    assert flag.text() == f"halted by {flag.path}: ana: maintenance at the venue"
    flag.remove()
    flag.remove()
    assert flag.text() == ""


def test_halt_flag_counts_as_set_when_it_cannot_be_read(tmp_path: Path) -> None:
    flag = HaltFlag(tmp_path / "halt")
    flag.path.mkdir()
    assert "cannot be read" in flag.text()


def test_command_is_answered_with_what_its_committed_record_says() -> None:
    inbox = Inbox()
    commands = Commands(inbox=inbox, known=lambda _: False)
    answer, again = commands.put(order("a")), commands.put(order("a"))
    assert len(inbox) == 1, "the same command on its way twice is one event"
    assert not answer.done()
    commands.follow([taken("another"), taken("a")], 9)
    assert answer.result(0) == again.result(0)
    assert (answer.result(0).taken.effect, answer.result(0).seq) == ("paused everything", 9)
    assert did_something(answer.result(0).taken.effect)


def test_command_counts_once_when_its_id_was_taken_before() -> None:
    inbox = Inbox()
    answer = Commands(inbox=inbox, known=lambda name: name == "a").put(order("a"))
    assert answer.result(0).taken.effect == ALREADY
    assert len(inbox) == 0


def test_command_says_that_it_did_nothing_when_too_many_wait() -> None:
    commands = Commands(inbox=Inbox(commands_max=1), known=lambda _: False)
    commands.put(order("a"))
    refused = commands.put(order("b")).result(0).taken
    assert refused.effect == FULL
    assert not did_something(refused.effect)


@pytest.mark.parametrize(("effect", "done"), [("nothing: 0 runs wait", False), ("halted everything", True), (ALREADY, True)])
def test_effect_tells_whether_something_was_done(effect: str, done: bool) -> None:
    assert did_something(effect) is done
