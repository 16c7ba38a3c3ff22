"""What people ask for on its way to the engine and back (floor 7): a command enters the journal before anything else, and its answer is
what the journal says of it.

    answer = commands.put(OperatorCommand(at=0, command_id="...", actor="ana", verb="pause", until=...))    # on the loop's thread
    answer.result(timeout=2).taken.effect                                                                   # from any other
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from daemon.engine.events import OperatorCommand
from daemon.engine.records import CommandTaken, Record
from daemon.service.inbox import Inbox


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a command: its record, and the number of its event; 0 where it was not taken now."""

    taken: CommandTaken
    seq: int = 0


ASKED_MAX = 1_000  # commands that wait for their answer; more is a broken client
ALREADY = "already taken: this command id was journaled before and counts once"
FULL = "nothing: too many commands wait; try again"
NOTHING = "nothing"  # an effect that begins so did nothing


class Commands:
    """Puts commands into the inbox and hands out what came of them. `known` tells which ids the engine has taken before."""

    def __init__(self, *, inbox: Inbox, known: Callable[[str], bool]) -> None:
        self._inbox = inbox
        self._known = known
        self._asked: dict[str, list[Future[Answer]]] = {}

    def taken(self, command_id: str) -> bool:
        """True when a command of this id counts already, or is on its way."""
        return self._known(command_id) or command_id in self._asked

    def put(self, command: OperatorCommand) -> Future[Answer]:
        """Queue a command; on the loop's thread only. The answer is given once the command is on disk with what it did."""
        answer: Future[Answer] = Future()
        if self._known(command.command_id):
            answer.set_result(Answer(taken=_taken(command, ALREADY)))
            return answer
        waiting = self._asked.get(command.command_id)
        if waiting is not None:  # the same command again while the first is on its way: both hear the one answer
            waiting.append(answer)
            return answer
        if len(self._asked) >= ASKED_MAX or not self._inbox.put(command):
            answer.set_result(Answer(taken=_taken(command, FULL)))
            return answer
        self._asked[command.command_id] = [answer]
        return answer

    def follow(self, records: Sequence[Record], seq: int) -> None:
        """Answer those whose record was committed with the event `seq`."""
        for record in records:
            if isinstance(record, CommandTaken):
                for answer in self._asked.pop(record.command_id, ()):
                    if answer.set_running_or_notify_cancel():
                        answer.set_result(Answer(taken=record, seq=seq))


def did_something(effect: str) -> bool:
    """True unless an effect says that nothing was done."""
    return not effect.startswith(NOTHING)


def _taken(command: OperatorCommand, effect: str) -> CommandTaken:
    return CommandTaken(
        at=command.at,
        command_id=command.command_id,
        actor=command.actor,
        verb=command.verb,
        target=command.target,
        effect=effect,
        reason=command.reason,
    )
