"""What the operator's surface may read and ask for (floor 8): the `Desk`, who may do what, and how it says no.

`daemon/app` implements `Desk` for the running daemon; tests have one of their own. The views are in `daemon/service/views.py`.

    now = await desk.now()                                   # the latest snapshot, never older than it says
    effect = await desk.command(Command(verb="halt", actor="ana", reason="maintenance", command_id="..."))
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from daemon.service.views import (
    Command,
    DeliveryView,
    Effect,
    EndpointView,
    EntityView,
    Entries,
    EntryQuery,
    EpisodeView,
    GateAnswer,
    Happening,
    Now,
    RunbookDetail,
    RunbookView,
    RunDetail,
    RunQuery,
    RunView,
    Series,
    StressView,
    WhyView,
)

Role = Literal["view", "approve", "admin"]


class NotKnown(Exception):
    """There is no such runbook, run, entity, endpoint or report; its text says what there is."""


class Unavailable(Exception):
    """The daemon's loop does not answer in time, or the journal cannot be read; the text says which."""


class Desk(Protocol):
    """What the surface may read and ask for. Every method may raise Unavailable, and NotKnown where it is given a name."""

    async def now(self) -> Now:
        """The latest snapshot; served even while the loop stands."""

    async def world(self, kind: str, *, signals: tuple[str, ...] = (), limit: int = 1_000) -> tuple[EntityView, ...]:
        """Entities of a kind with the readings that are asked for (all when empty)."""

    async def entity(self, kind: str, entity: str) -> EntityView:
        """One entity with all its readings."""

    async def history(self, kind: str, entity: str, signals: tuple[str, ...] = ()) -> tuple[Series, ...]:
        """What was seen of an entity's signals in the last hours."""

    async def runbooks(self) -> tuple[RunbookView, ...]:
        """The set in force."""

    async def runbook(self, runbook: str) -> RunbookDetail:
        """One runbook."""

    async def why(self, runbook: str, entity: str = "") -> WhyView:
        """Why an instance is where it is; without an entity the one that is nearest to firing."""

    async def trigger_history(self, runbook: str, entity: str) -> tuple[Series, ...]:
        """The compared quantities of a trigger over the last hours, with their bounds."""

    async def episodes(self, *, limit: int = 200) -> tuple[EpisodeView, ...]:
        """The latest episodes, newest first."""

    async def runs(self, query: RunQuery) -> tuple[RunView, ...]:
        """Runs, newest first."""

    async def run(self, run_id: str) -> RunDetail:
        """One run with its trace."""

    async def entries(self, query: EntryQuery) -> Entries:
        """Search the journal."""

    async def gate(self, market: str) -> GateAnswer:
        """May strategies open in this market? NotKnown for a market that no venue of the settings has."""

    async def routes(self) -> tuple[EntityView, ...]:
        """The routes with their readings."""

    async def stress(self) -> StressView:
        """The scheduled stress."""

    async def report(self, name: str) -> str:
        """A stored report as HTML."""

    async def endpoints(self) -> tuple[EndpointView, ...]:
        """Where alerts go."""

    async def deliveries(self, *, endpoint: str = "", status: str = "", limit: int = 200) -> tuple[DeliveryView, ...]:
        """Messages, newest first."""

    async def command(self, command: Command) -> Effect:
        """Journal a command and tell what came of it. Halting first sets the halt flag, which counts at once, whatever else stands."""

    async def reload(self, actor: str) -> Effect:
        """Read the runbooks anew; not done when they have errors, which `effect` holds."""

    async def redeliver(self, delivery_id: str, actor: str) -> Effect:
        """Put a dead letter (or with `*` all) back into its lane."""

    async def enable_endpoint(self, endpoint: str, actor: str) -> Effect:
        """Send again to an endpoint that had said 410."""

    async def test_endpoint(self, endpoint: str, actor: str) -> Effect:
        """Send a test message now; the effect is the endpoint's answer."""

    def stream(self) -> AsyncIterator[Happening]:
        """What happens from now on; ends when the daemon stops. A reader that does not keep up loses the oldest and sees `lagged`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Person:
    """Who asks: the name that is journaled, what they may do, and by which door they came."""

    name: str
    role: Role
    door: Literal["token", "session", "open"]  # open: nobody said who they are; reading only


RANK: Mapping[Role, int] = {"view": 0, "approve": 1, "admin": 2}
NEEDED: Mapping[str, Role] = {
    "approve": "approve",
    "deny": "approve",
    "ack": "approve",
    "pause": "approve",
    "halt": "approve",  # everyone who may act may stop
    "unpause": "admin",
    "resume": "admin",
    "reload": "admin",
    "redeliver": "admin",
    "enable": "admin",
    "test": "admin",
}


def may(person: Person, verb: str) -> bool:
    """True when the person's role allows the verb; a verb that is not listed needs admin."""
    return person.door != "open" and RANK[person.role] >= RANK[NEEDED.get(verb, "admin")]
