"""What people ask the daemon to do (floor 8): one way for API and pages, checked before it is journaled, and told plainly after.

    told = await asking.pause(person, "funding-spike", lasting="2h", reason="maintenance")       # Told(200, Effect); or Refused
    told = await asking.halt(person)                                                             # 202 when only the flag is certain

Every method raises Refused: 404 no such thing, 409 it did nothing and why, 422 it makes no sense, 503 the daemon does not answer.
"""

from __future__ import annotations

import asyncio
import difflib
import uuid
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar

from daemon.service.views import Command, Effect, Verb
from daemon.units import DAY_NS, iso, parse_duration, parse_iso
from daemon.web.desk import Desk, NotKnown, Person, Unavailable
from daemon.web.refusals import Refused

COMMAND_S = 6.0  # a desk itself waits for five
HALT_S = 2.0  # then the flag alone is certain, and that is said
RELOAD_S = 15.0  # runbooks are read and compiled
PAUSE_MAX_NS = 31 * DAY_NS
FLAG_ALONE = "the halt flag"  # so a desk begins to tell of a halt that is not journaled

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What came of it: 200 done and journaled; 202 done as far as `effect` says, the rest is not certain."""

    status: int
    effect: Effect


class Asking:
    """Asks a desk. `flagged` tells whether the halt flag is set, without asking the daemon's loop; None: nobody can tell."""

    def __init__(
        self, desk: Desk, *, flagged: Callable[[], bool] | None = None, command_s: float = COMMAND_S, halt_s: float = HALT_S
    ) -> None:
        self._desk = desk
        self._flagged = flagged
        self._command_s = command_s
        self._halt_s = halt_s

    async def approve(self, person: Person, run_id: str, *, digest: str, reason: str = "", key: str = "") -> Told:
        """Approve the plan of a run that `digest` names: another plan than the one that was seen is not approved."""
        if not digest:
            raise Refused(422, "no_digest", "say which plan: an approval carries the digest of the plan that was shown")
        return await self._of_run(_command("approve", person, run_id, reason=reason, key=key, digest=digest))

    async def deny(self, person: Person, run_id: str, *, digest: str = "", reason: str = "", key: str = "") -> Told:
        """Deny what a run asks for."""
        return await self._of_run(_command("deny", person, run_id, reason=reason, key=key, digest=digest))

    async def pause(
        self, person: Person, target: str, *, reason: str, lasting: str = "", until: str = "", key: str = ""
    ) -> Told:  # fmt: skip
        """Let runs of a runbook, of an instance (`runbook/entity`) or of everything ("") wait, for a time (`2h`) or until one (ISO)."""
        if not reason.strip():
            raise Refused(422, "no_reason", "say why: reason")
        ends = await self._ends(lasting, until)
        await self._known_target(target)
        return await self._ask(_command("pause", person, target, reason=reason, key=key, until=iso(ends)))

    async def unpause(self, person: Person, target: str, *, reason: str = "", key: str = "") -> Told:
        """End a pause."""
        return await self._ask(_command("unpause", person, target, reason=reason, key=key))

    async def halt(self, person: Person, target: str = "", *, reason: str = "", key: str = "") -> Told:
        """Stop: "" the kill switch (nothing is sent any more), `portfolio` every opening, or the openings of one entity.

        The kill switch counts as soon as its flag is set, also when the daemon's loop stands: 202 then.
        """
        command = _command("halt", person, target, reason=reason or "no reason given", key=key)
        try:
            told = await self._ask(command, self._halt_s)
            return Told(status=202, effect=told.effect) if told.effect.effect.startswith(FLAG_ALONE) else told
        except Refused as refused:
            if target != "" or refused.status != 503 or self._flagged is None or not self._flagged():
                raise
            effect = f"halted: the halt flag is set, nothing is sent any more; it is not journaled yet: {refused.message}"
            return Told(status=202, effect=Effect(done=True, effect=effect, seq=0, at=""))

    async def resume(self, person: Person, target: str = "", *, reason: str = "", key: str = "") -> Told:
        """End a halt."""
        return await self._ask(_command("resume", person, target, reason=reason, key=key))

    async def ack(self, person: Person, target: str, *, reason: str = "", key: str = "") -> Told:
        """Say that something that needed a person was seen to."""
        return await self._ask(_command("ack", person, target, reason=reason, key=key))

    async def reload(self, person: Person) -> Told:
        """Read the runbooks anew."""
        return await self._told(self._desk.reload(person.name), RELOAD_S, "the reload")

    async def redeliver(self, person: Person, delivery_id: str) -> Told:
        """Put a dead letter, or with `*` all, back into its lane."""
        return await self._told(self._desk.redeliver(delivery_id, person.name), self._command_s, "the redelivery")

    async def enable(self, person: Person, endpoint: str) -> Told:
        """Send again to an endpoint that had said 410."""
        return await self._told(self._desk.enable_endpoint(endpoint, person.name), self._command_s, "enabling the endpoint")

    async def test(self, person: Person, endpoint: str) -> Told:
        """Send a test message now."""
        return await self._told(self._desk.test_endpoint(endpoint, person.name), RELOAD_S, "the test message")

    # --- inside ------------------------------------------------------------------------------------------------------------

    async def _ask(self, command: Command, wait_s: float | None = None) -> Told:
        what = f"command {command.command_id}"
        return await self._told(self._desk.command(command), wait_s or self._command_s, what)

    async def _of_run(self, command: Command) -> Told:
        try:
            return await self._ask(command)
        except Refused as refused:
            if refused.status == 409:
                await self._run_is_there(command.target)
            raise

    async def _run_is_there(self, run_id: str) -> None:
        try:
            await self._desk.run(run_id)
        except NotKnown as error:
            raise Refused(404, "not_known", str(error)) from None
        except Unavailable:
            return  # what was said stands

    async def _told(self, answer: Awaitable[Effect], wait_s: float, what: str) -> Told:
        try:
            async with asyncio.timeout(wait_s):
                effect = await answer
        except TimeoutError:
            text = f"the daemon did not answer within {wait_s:g} s; whether {what} counted is not known: look before you ask again"
            raise Refused(503, "no_answer", text, headers={"Retry-After": "5"}) from None
        except Unavailable as error:
            raise Refused(503, "unavailable", str(error), headers={"Retry-After": "5"}) from None
        except NotKnown as error:
            raise Refused(404, "not_known", str(error)) from None
        if not effect.done:
            raise Refused(409, "did_nothing", effect.effect)
        return Told(status=200, effect=effect)

    async def _ends(self, lasting: str, until: str) -> int:
        """When a pause ends, ns of the daemon's clock."""
        now = parse_iso((await _present(self._desk.now())).at)
        if bool(lasting) == bool(until):
            text = 'a pause ends: write "for" with a duration, as 2h, or "until" with a time, as 2027-01-01T00:00:00Z'
            raise Refused(422, "no_end", text)
        try:
            ends = now + parse_duration(lasting) if lasting else parse_iso(until)
        except (ValueError, OverflowError) as error:
            raise Refused(422, "wrong_time", str(error)) from None
        if not now < ends <= now + PAUSE_MAX_NS:
            raise Refused(422, "wrong_time", f"a pause ends after now ({iso(now)}) and within {PAUSE_MAX_NS // DAY_NS} days")
        return ends

    async def _known_target(self, target: str) -> None:
        """Refused when a pause would name nothing: whoever mistypes a runbook must not believe that it is paused."""
        if target == "":
            return
        runbook, _, entity = target.partition("/")
        known = [view.id for view in await _present(self._desk.runbooks())]
        if runbook not in known:
            raise Refused(404, "not_known", f"there is no runbook {runbook!r}; {_near(runbook, known)}")
        if entity:
            instances = [view.entity for view in (await _present(self._desk.runbook(runbook))).instances]
            if entity not in instances:
                raise Refused(404, "not_known", f"{runbook} has no instance on {entity!r}; {_near(entity, instances)}")


async def _present(answer: Awaitable[T]) -> T:
    try:
        return await answer
    except Unavailable as error:
        raise Refused(503, "unavailable", str(error), headers={"Retry-After": "5"}) from None
    except NotKnown as error:
        raise Refused(404, "not_known", str(error)) from None


def _near(name: str, known: Iterable[str]) -> str:
    names = sorted(known)
    near = difflib.get_close_matches(name, names, n=3)
    if near:
        return f"did you mean {' or '.join(near)}?"
    return f"there is: {', '.join(names[:8])}{', ...' if len(names) > 8 else ''}" if names else "there is none"


def _command(
    verb: Verb, person: Person, target: str, *, reason: str, key: str, digest: str = "", until: str | None = None
) -> Command:  # fmt: skip
    """The command. A key of the client's counts once for this person, verb and target: someone else's never stands in for it."""
    command_id = f"{person.name}/{verb}/{target}/{key}" if key else f"http-{uuid.uuid4()}"
    return Command(verb=verb, actor=person.name, command_id=command_id, target=target, reason=reason, until=until, digest=digest)
