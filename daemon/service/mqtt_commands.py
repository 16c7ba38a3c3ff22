"""Commands over MQTT (floor 7): `<prefix>/command` with `{id, at, token, verb, target, reason, until, plan_digest}`.

A command that passes this door is handed on and enters the journal before anything else; its id makes it count once, however often the
broker delivers it. Only a halt counts each time: it is harmless twice, and a resume may have come between. The answer goes to the response
topic that its sender named. Without an answer: send the same command again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from daemon.edges.broker import Incoming, Outgoing, joined
from daemon.service.clock import Clock
from daemon.service.logging import log
from daemon.service.views import Command, Effect, Verb
from daemon.units import MINUTE_NS, NS, iso, parse_iso, show_duration

COMMAND = "command"
ANSWER = "answer"  # the one place below our own prefix to which an answer may go
PAYLOAD_BYTES_MAX = 8_192
AGE_MAX_NS = MINUTE_NS  # wall time: an older command is not what its sender wants now
PAUSE_MAX_NS = 7 * 24 * 60 * MINUTE_NS
ANSWER_EXPIRY_S = 60
UNDER_WAY_MAX = 32  # commands whose effect is waited for; a halt is taken beyond it
EFFECT_S = 15.0
TOPIC_CHARS_MAX = 500  # of a response topic
REMEMBERED_MAX = 1_000  # effects of the latest commands, for those that come twice
MUST_SAY_WHY = ("pause", "unpause", "resume")
LETS_LOOSE = ("unpause", "resume")
_ID = re.compile(r"[A-Za-z0-9._:@-]{1,120}")

Authorise = Callable[[str, str], str | None]  # (token, verb) -> the actor, None when the token may not


class CommandRefused(Exception):
    """Why a command is not taken."""


class CommandMessage(BaseModel):
    """The payload of a command."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    id: Annotated[str, Field(min_length=1, max_length=120)]
    at: Annotated[str, Field(max_length=40)]  # when it was sent, wall clock
    token: SecretStr
    verb: Verb
    target: Annotated[str, Field(max_length=300)] = ""
    reason: Annotated[str, Field(max_length=500)] = ""
    until: Annotated[str, Field(max_length=40)] | None = None  # the daemon's clock; for a pause
    plan_digest: Annotated[str, Field(max_length=100)] = ""


def read_command(payload: bytes) -> CommandMessage:
    """The command of a payload; raises CommandRefused with what is wrong and what to write, and never with what was in it."""
    if len(payload) > PAYLOAD_BYTES_MAX:
        raise CommandRefused(f"the payload has {len(payload)} bytes; at most {PAYLOAD_BYTES_MAX} are read")
    try:
        message = CommandMessage.model_validate_json(payload)
    except ValidationError as error:
        raise CommandRefused(_worded(error)) from None
    if not _ID.fullmatch(message.id):
        raise CommandRefused("id has characters other than letters, digits and . _ : @ -; write for example a UUID")
    return message


def _worded(error: ValidationError) -> str:
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])[:60]
    match first["type"]:
        case "json_invalid" | "model_type":
            return "the payload is no JSON object"
        case "missing":
            return f"{place} is missing"
        case "extra_forbidden":
            return f"{place!r} is no key of a command; the keys are: {', '.join(CommandMessage.model_fields)}"
        case _:
            return f"{place}: {first['msg'].lower()}"


def check(message: CommandMessage, *, wall: int, now: int) -> None:
    """Refuse what must not be asked: too old a command, a pause without end, an approval of no plan. `wall` and `now` (the daemon's
    clock) are ns; raises CommandRefused."""
    sent = _time("at", message.at)
    if abs(wall - sent) > AGE_MAX_NS:
        apart = show_duration(round(abs(wall - sent) / NS))
        late = f"{apart} old" if sent < wall else f"{apart} ahead of this clock"
        raise CommandRefused(f"it is {late}, and one of over {show_duration(AGE_MAX_NS / NS)} is not taken; send it anew, at: {iso(wall)}")
    match message.verb:
        case "pause":
            if message.until is None:
                raise CommandRefused("a pause has an end; write until, for example " + iso(now + 60 * MINUTE_NS))
            left = _time("until", message.until) - now
            if not 0 < left <= PAUSE_MAX_NS:
                raise CommandRefused(f"until must lie within {show_duration(PAUSE_MAX_NS / NS)} from now, which is {iso(now)}")
        case "approve":
            if not message.target or not message.plan_digest:
                raise CommandRefused("an approval names its run and the plan it approves; write target and plan_digest")
        case "deny" | "ack":
            if not message.target:
                raise CommandRefused(f"write the target to {message.verb}")
        case _:
            pass
    if message.verb in MUST_SAY_WHY and not message.reason.strip():
        raise CommandRefused(f"write a reason to {message.verb}")


def _time(key: str, text: str) -> int:
    try:
        return parse_iso(text)
    except (ValueError, OverflowError):
        raise CommandRefused(f"{key} is no ISO-8601 time; write for example 2026-02-03T17:00:00Z") from None


def _asked(command: CommandMessage, actor: str, command_id: str) -> Command:
    return Command(
        verb=command.verb,
        actor=actor,
        command_id=command_id,
        target=command.target,
        reason=command.reason or f"{command.verb} over MQTT",
        until=command.until,
        digest=command.plan_digest,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _HandedOn:
    """A command that was handed on, for the same one again."""

    command_id: str
    sent: str  # the `at` of its message
    until: int  # wall, ns: a message of this time is too old to be taken
    effect: asyncio.Future[Effect]

    def stands_for(self, command: CommandMessage) -> bool:
        """True when what came of it is the answer to `command` too, which has its person, verb, target and id."""
        if not self.effect.done():
            return True
        # The same message delivered again, or the same id used again? Of the latter only the journal can say what it counts for.
        return self.sent == command.at and (_done(self.effect) is not None or command.verb in LETS_LOOSE)

    def again(self, fresh: str) -> str:
        """The id to ask under again: the same as long as it may count, `fresh` when the journal has it as a command that did nothing."""
        return fresh if _did_nothing(self.effect) else self.command_id


def _done(effect: asyncio.Future[Effect]) -> Effect | None:
    """An effect that is there and was done."""
    came = effect.done() and not effect.cancelled() and effect.exception() is None
    return effect.result() if came and effect.result().done else None


def _did_nothing(effect: asyncio.Future[Effect]) -> bool:
    """True when the journal says so; an effect without a number in it may still come."""
    came = effect.done() and not effect.cancelled() and effect.exception() is None
    return came and not effect.result().done and effect.result().seq > 0


class CommandDoor:
    """Takes messages of `<prefix>/command`, hands on those that may, and answers."""

    def __init__(
        self,
        *,
        prefix: str,
        clock: Clock,
        wall: Callable[[], int],
        authorise: Authorise,
        perform: Callable[[Command], Awaitable[Effect]],
        tell: Callable[[Outgoing], None],
    ) -> None:
        self._prefix = prefix
        self._clock = clock
        self._wall = wall
        self._authorise = authorise
        self._perform = perform  # journals it and tells what came of it; raises nothing
        self._tell = tell
        self._under_way: set[asyncio.Task[None]] = set()
        self._handed_on: dict[str, _HandedOn] = {}  # by person, verb, target and id; the latest
        self.taken = 0
        self.refused = 0

    @property
    def topics(self) -> str:
        """What is subscribed to."""
        return joined(self._prefix, COMMAND)

    def takes(self, topic: str) -> bool:
        """True for `<prefix>/command`."""
        return topic == self.topics

    def take(self, message: Incoming) -> None:
        """Hand a command on, or answer why not. Raises nothing and waits for nothing."""
        name, verb = "", ""
        try:
            if message.retained:
                raise CommandRefused("the broker had kept it; a command is not retained")
            command = read_command(message.payload)
            name, verb = command.id, command.verb
            # Who asks comes before what: a stranger learns nothing of the rest.
            actor = self._authorise(command.token.get_secret_value(), command.verb)
            if actor is None:
                raise CommandRefused(f"this token may not {command.verb}")
            check(command, wall=self._wall(), now=self._clock.now())
            if len(self._under_way) >= UNDER_WAY_MAX and command.verb != "halt":
                raise CommandRefused("too many commands wait; send it again")
        except CommandRefused as refused:
            self.refused += 1
            log().warning("command.refused", door="mqtt", command_id=name, verb=verb, reason=str(refused))
            self._answer(message, name, Effect(done=False, effect=f"nothing: {refused}", seq=0, at=iso(self._clock.now())))
            return
        self.taken += 1
        task = asyncio.create_task(self._do(message, command, actor), name=f"command {command.id}")
        self._under_way.add(task)
        task.add_done_callback(self._under_way.discard)

    async def drain(self, timeout_s: float) -> None:
        """Wait for the effects that are on their way, at most `timeout_s` real seconds."""
        if self._under_way:
            await asyncio.wait(self._under_way, timeout=timeout_s)
        for task in list(self._under_way):
            task.cancel()

    async def _do(self, message: Incoming, command: CommandMessage, actor: str) -> None:
        effect = self._effect(command, actor)
        try:
            async with asyncio.timeout(EFFECT_S):
                self._answer(message, command.id, await asyncio.shield(effect))
        except TimeoutError:
            log().error("command.unanswered", door="mqtt", command_id=command.id, verb=command.verb, waited_s=EFFECT_S)

    def _effect(self, command: CommandMessage, actor: str) -> asyncio.Future[Effect]:
        """What comes of a command. The same one again is answered again and not asked again: what was asked since stands."""
        wall = self._wall()
        key = f"mqtt:{actor}/{command.verb}/{command.target}/{command.id}"
        fresh = f"{key}/{iso(wall)}-{self.taken}"  # an id that was never used
        if command.verb == "halt":
            # Whoever presses the button again means it, whatever its id: it is never answered from memory, and the engine takes it too.
            return asyncio.ensure_future(self._perform(_asked(command, actor, fresh)))
        self._forget(wall)
        before = self._handed_on.pop(key, None)
        if before is None or not before.stands_for(command):
            command_id = key if before is None else before.again(fresh)
            effect = asyncio.ensure_future(self._perform(_asked(command, actor, command_id)))
            until = max(wall, parse_iso(command.at)) + AGE_MAX_NS
            before = _HandedOn(command_id=command_id, sent=command.at, until=until, effect=effect)
        self._handed_on[key] = before
        return before.effect

    def _forget(self, wall: int) -> None:
        for key in [key for key, one in self._handed_on.items() if one.until < wall]:
            del self._handed_on[key]
        while len(self._handed_on) >= REMEMBERED_MAX:
            del self._handed_on[next(iter(self._handed_on))]

    def _answer(self, message: Incoming, name: str, effect: Effect) -> None:
        topic = message.response_topic
        own = topic.startswith(f"{self._prefix}/") and not topic.startswith(f"{self._prefix}/{ANSWER}/")
        if not topic or own or topic.startswith("$") or len(topic) > TOPIC_CHARS_MAX or not topic.isprintable() or set(topic) & set("+#"):
            if topic:
                log().warning("command.unanswerable", door="mqtt", command_id=name, topic=topic[:100])
            return
        content = {"id": name, "done": effect.done, "effect": effect.effect, "seq": effect.seq, "at": effect.at}
        self._tell(Outgoing(topic=topic, payload=json.dumps(content).encode(), expiry_s=ANSWER_EXPIRY_S, correlation=message.correlation))
