"""Chains, routes, buffers, governance and transfers (floor 6), read from and sent to the simulated venue's documented API.

    feed = BridgeFeed(plan, source=HttpSource(name="bridge", url="http://127.0.0.1:8480"), clock=clock)
    edge = BridgeEdge(accounts, source=source)          # takes MoveBuffer

A transfer is `done` when the route took it and debited the source: it is then in flight, and its credit shows in the destination's own
readings (`in_flight` of the route, `collateral` of the account). Its id is unique for ever at the route, so looking up is always safe.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from urllib.parse import quote

from daemon.edges.dydx.wire import decimal_text
from daemon.edges.http import HttpSource
from daemon.edges.protocol import Clock, Poll, WriteMarks
from daemon.edges.provides import BRIDGE
from daemon.engine.actions import Action, MoveBuffer, Outcome
from daemon.engine.answers import RETRYABLE_TRANSFER_REFUSALS, transfer_outcome
from daemon.engine.events import Row
from daemon.errors import EdgeError, UnknownOutcome
from daemon.units import MINUTE_NS, NS, parse_iso
from daemon.world.entities import Account, Kind
from daemon.world.readings import VOTING, proposal_values


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgePlan:
    """What to observe: `chains` and `routes` by the API's names, `venue` the venue whose fund and governance it tells ("" = none)."""

    name: str = "bridge"
    chains: tuple[str, ...] = ()
    routes: tuple[str, ...] = ()
    venue: str = ""
    chains_ns: int = 5 * NS
    routes_ns: int = 5 * NS
    venue_ns: int = MINUTE_NS


class BridgeFeed:
    """Eyes on chains, routes, buffers and governance."""

    def __init__(self, plan: BridgePlan, *, source: HttpSource, clock: Clock) -> None:
        self._plan = plan
        self._source = source
        self._clock = clock

    @property
    def name(self) -> str:
        """The feed's name."""
        return self._plan.name

    @property
    def provides(self) -> Mapping[Kind, frozenset[str]]:
        """What the simulated venue tells of chains, routes and governance."""
        return BRIDGE

    @property
    def polls(self) -> tuple[Poll, ...]:
        """Chains with their buffers, routes, and the venue's fund and proposals."""
        plan = self._plan
        polls = []
        if plan.chains:
            polls.append(Poll(name=f"{plan.name}.chains", every_ns=plan.chains_ns, fetch=self.fetch_chains))
        if plan.routes:
            polls.append(Poll(name=f"{plan.name}.routes", every_ns=plan.routes_ns, fetch=self.fetch_routes))
        if plan.venue:
            polls.append(Poll(name=f"{plan.name}.venue", every_ns=plan.venue_ns, fetch=self.fetch_venue))
            polls.append(Poll(name=f"{plan.name}.proposals", every_ns=plan.venue_ns, fetch=self.fetch_proposals))
        return tuple(polls)

    async def fetch_chains(self) -> list[Row]:
        """Every configured chain with its buffer; a chain the API does not list is left out, so that it goes stale."""
        chains = self._object(await self._source.get("/sim/chains"), "chains")
        buffers = self._object(await self._source.get("/sim/buffers"), "buffers")
        rows = []
        for chain in self._plan.chains:
            values: dict[str, float] = {}
            if chain in chains:
                values |= self._chain_values(chains[chain], f"chains.{chain}")
            if chain in buffers:
                values["buffer_balance"] = self._number(buffers, chain, "buffers")
            if values:
                rows.append(Row(kind=Kind.CHAIN, entity=chain, values=values))
        return rows

    async def fetch_routes(self) -> list[Row]:
        """Every configured route; one the API does not list goes stale."""
        routes = self._object(await self._source.get("/sim/routes"), "routes")
        rows = []
        for route in self._plan.routes:
            if route not in routes:
                continue
            where = f"routes.{route}"
            body = self._fields(routes[route], where)
            values = {
                "route_open": self._flag(body, "open", where),
                "route_fee": self._number(body, "fee", where),
                "route_eta": self._number(body, "eta_s", where),
                "in_flight": self._number(body, "in_flight_usd", where),
            }
            for name, key in (("route_eta_slow", "eta_p95_s"), ("route_capacity", "capacity_usd")):
                if body.get(key) is not None:
                    values[name] = self._number(body, key, where)
            rows.append(Row(kind=Kind.ROUTE, entity=route, values=values))
        return rows

    async def fetch_venue(self) -> list[Row]:
        """Insurance fund and withdrawal gate of the venue."""
        body = self._fields(await self._source.get("/sim/venue"), "the reply")
        values = {
            "insurance_fund": self._number(body, "insurance_fund_usd", "venue"),
            "withdrawals_open": self._flag(body, "withdrawals_open", "venue"),
            "withdrawal_capacity": self._number(body, "withdrawal_capacity_usd", "venue"),
        }
        return [Row(kind=Kind.VENUE, entity=self._plan.venue, values=values)]

    async def fetch_proposals(self) -> list[Row]:
        """Whether a vote is open, whether one touches risk, and when the first of them ends (NaN: none is open)."""
        body = self._fields(await self._source.get("/cosmos/gov/v1/proposals"), "the reply")
        rows = body.get("proposals")
        if not isinstance(rows, list):
            raise self._wrong("proposals", "an array", rows)
        voting = [row for row in (self._fields(row, "proposals") for row in rows) if row.get("status") in (VOTING, 2)]
        return [Row(kind=Kind.VENUE, entity=self._plan.venue, values=self._proposal_values(voting))]

    async def history(self) -> list[Row]:
        """No rows: these sources keep no past."""
        return []

    async def close(self) -> None:
        """Closes the connections."""
        await self._source.close()

    def _chain_values(self, chain: object, where: str) -> dict[str, float]:
        body = self._fields(chain, where)
        values = {
            "block_age": max(0, self._clock.now() - self._time(body, "block_time", where)) / NS,
            "finality_delay": self._number(body, "finality_delay_s", where),
            "gas_price": self._number(body, "gas_price_gwei", where),
            "tx_cost": self._number(body, "tx_cost_usd", where),
            "tx_per_block": self._number(body, "tx_per_block", where),
        }
        if body.get("sequencer_up") is not None:  # null: no rollup, there is no sequencer to be up
            values["sequencer_up"] = self._flag(body, "sequencer_up", where)
        return values

    def _proposal_values(self, voting: Sequence[Mapping[str, object]]) -> dict[str, float]:
        found = []
        for proposal in voting:
            messages = proposal.get("messages")
            types = [str(m.get("@type", "")) for m in messages if isinstance(m, Mapping)] if isinstance(messages, list) else []
            found.append((types, (self._time(proposal, "voting_end_time", "proposals") - self._clock.now()) / NS))
        return proposal_values(found)

    def _wrong(self, where: str, expected: str, found: object) -> EdgeError:
        message = f"{self.name}: {where}: expected {expected}, found {found!r:.80}"
        return EdgeError(message, edge=self.name, reason="wrong_shape", retryable=False)

    def _fields(self, found: object, where: str) -> Mapping[str, object]:
        if not isinstance(found, dict):
            raise self._wrong(where, "an object", found)
        return found

    def _object(self, reply: object, key: str) -> Mapping[str, object]:
        return self._fields(self._fields(reply, "the reply").get(key), key)

    def _number(self, body: Mapping[str, object], key: str, where: str) -> float:
        found = body.get(key)
        if isinstance(found, str | int | float) and not isinstance(found, bool):
            try:
                number = float(found)
            except ValueError:
                raise self._wrong(f"{where}.{key}", "a decimal", found) from None
            if math.isfinite(number):
                return number
        raise self._wrong(f"{where}.{key}", "a decimal", found)

    def _flag(self, body: Mapping[str, object], key: str, where: str) -> float:
        found = body.get(key)
        if not isinstance(found, bool):
            raise self._wrong(f"{where}.{key}", "true or false", found)
        return float(found)

    def _time(self, body: Mapping[str, object], key: str, where: str) -> int:
        found = body.get(key)
        try:
            return parse_iso(str(found))
        except ValueError:
            raise self._wrong(f"{where}.{key}", "an ISO-8601 time", found) from None


class BridgeEdge:
    """Hands on the routes: performs `MoveBuffer` over any of `routes`."""

    def __init__(
        self, *, name: str, routes: Sequence[str], accounts: Sequence[Account], source: HttpSource, marks: WriteMarks | None = None
    ) -> None:
        self._name = name
        self._routes = frozenset(routes)
        self._accounts = tuple(accounts)
        self._source = source
        self._marks = marks or WriteMarks()

    @property
    def name(self) -> str:
        """The edge's name."""
        return self._name

    def takes(self, action: Action) -> bool:
        """True for moves over this edge's routes."""
        return isinstance(action, MoveBuffer) and action.route in self._routes

    async def send(self, action: Action) -> Outcome:
        """Asks the route once to carry the amount; `done` when the source is debited."""
        assert isinstance(action, MoveBuffer)
        account = self._account(action)
        body: dict[str, object] = {
            "client_id": action.action_id,
            "route": action.route,
            "amount": decimal_text(action.amount),
            "max_fee": decimal_text(action.max_fee),
            "expires": action.expires_at,
        }
        if account is not None:
            body |= {"address": account.address, "subaccount": account.subaccount}
        try:
            return self._outcome(await self._source.post("/sim/transfers", body), written=True)
        except UnknownOutcome:
            raise
        except EdgeError as error:
            if error.reason in RETRYABLE_TRANSFER_REFUSALS and not error.retryable:
                raise EdgeError(str(error), edge=self.name, reason=error.reason, retryable=True) from error
            raise
        finally:
            if account is not None:
                self._marks.settled(account.id)

    async def lookup(self, action: Action) -> Outcome | None:
        """What became of a transfer; None when the route never accepted one with this id."""
        assert isinstance(action, MoveBuffer)
        try:
            found = self._outcome(await self._source.get(f"/sim/transfers/{quote(action.action_id, safe='')}"), written=False)
        except EdgeError as error:
            if error.reason in ("http_404", "not_found"):
                return None
            raise
        account = self._account(action)
        if account is not None:
            self._marks.settled(account.id)
        return found

    async def close(self) -> None:
        """Nothing of its own to close: the source belongs to whoever made it."""

    def _account(self, action: MoveBuffer) -> Account | None:
        """The account at either end: by its own id, else the first account of the venue that is named."""
        for end in (action.destination, action.source):
            for account in self._accounts:
                if account.id == end:
                    return account
            for account in self._accounts:
                if account.venue == end:
                    return account
        return None

    def _outcome(self, body: object, *, written: bool) -> Outcome:
        try:
            if not isinstance(body, Mapping):
                raise TypeError(f"found {type(body).__name__}")
            status, reference = str(body["status"]), str(body["client_id"])
            amount, fee = Decimal(str(body["amount"])), Decimal(str(body["fee"]))
        except (KeyError, TypeError, InvalidOperation) as error:
            message = f"{self.name}: a transfer's answer cannot be read: {type(error).__name__} {error}"
            if written:
                raise UnknownOutcome(message, edge=self.name, reason="wrong_shape") from error
            raise EdgeError(message, edge=self.name, reason="wrong_shape", retryable=False) from error
        return transfer_outcome(status=status, reference=reference, amount=amount, fee_usd=fee)
