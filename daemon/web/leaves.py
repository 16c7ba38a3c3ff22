"""The pages that are read (floor 8): each asks the desk for what it shows, a page's worth at a time, and hands it to its template."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from urllib.parse import urlencode

from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from daemon.service.views import EntityView, EntryQuery, RunQuery, Series, WhyView
from daemon.units import parse_iso
from daemon.web.desk import NotKnown, Person
from daemon.web.drawings import arranged, chart
from daemon.web.reasons import comparisons
from daemon.web.refusals import Refused
from daemon.web.source_lines import source_lines
from daemon.web.stage import Sheet, Stage

RUNS_A_PAGE = 100
ENTRIES_A_PAGE = 100
MARKETS_A_PAGE = 100
MARKETS_MAX = 5_000
DELIVERIES_SHOWN = 200
EPISODES_SHOWN = 20
MARKET_SIGNALS = ("oracle_price", "mid_price", "funding_rate", "next_funding_in", "depth", "spread", "oracle_divergence")
RUN_STATUSES = ("running", "done", "skipped", "blocked", "failed", "aborted", "unknown", "shadow")
# The courses that are looked at first; the others are folded away.
MARKET_COURSES = (
    "mid_price",
    "oracle_price",
    "last_price",
    "oracle_divergence",
    "funding_rate",
    "predicted_funding_rate",
    "depth",
    "spread",
    "open_interest",
)
ACCOUNT_COURSES = (
    "margin_ratio_worst",
    "margin_ratio",
    "survivable_move",
    "margin_ratio_at_mid",
    "equity",
    "free_collateral",
    "net_delta",
    "leverage",
)
OWN_NAMES = frozenset({"id", "kind", "market", "symbol", "base"})  # what a market is called says nothing beside its heading
DELIVERY_STATUSES = ("waiting", "delivered", "dead", "grouped")
# A stored report carries its own style and script; it may use them, and nothing else: no cookie, no form, no address but its own.
REPORT_POLICY = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; img-src data:; sandbox allow-scripts"

Handler = Callable[[Request], Awaitable[Response]]


def handlers(stage: Stage) -> Mapping[str, Handler]:
    """Path -> what answers it."""
    leaves = Leaves(stage)
    return {
        "/": stage.shown(leaves.now),
        "/pulse": stage.shown(leaves.pulse),
        "/runs": stage.shown(leaves.runs),
        "/runs/{run_id:path}": stage.shown(leaves.run),
        "/runbooks": stage.shown(leaves.runbooks),
        "/runbooks/{runbook}": stage.shown(leaves.runbook),
        "/markets": stage.shown(leaves.markets),
        "/markets/{market:path}": stage.shown(leaves.market),
        "/accounts": stage.shown(leaves.accounts),
        "/accounts/{account:path}": stage.shown(leaves.account),
        "/alerts": stage.shown(leaves.alerts),
        "/journal": stage.shown(leaves.journal),
        "/stress": stage.shown(leaves.stress),
        "/reports/{name:path}": stage.shown(leaves.report),
    }


class Leaves:
    """One method a page."""

    def __init__(self, stage: Stage) -> None:
        self._desk = stage.desk

    async def now(self, _request: Request, _person: Person) -> Sheet:
        """Everything a person on call asks first."""
        return Sheet(template="now.html", title="Now", now=await self._desk.now())

    async def pulse(self, _request: Request, _person: Person) -> Sheet:
        """The frame alone: what a page asks for whose own content does not change."""
        return Sheet(template="pulse.html", title="Pulse")

    async def runs(self, request: Request, _person: Person) -> Sheet:
        """Runs, newest first."""
        asked = {name: _asked(request, name) for name in ("runbook", "entity", "status", "before")}
        found = await self._desk.runs(RunQuery(**asked, limit=RUNS_A_PAGE + 1))
        page = found[:RUNS_A_PAGE]
        older = _address("/runs", {**asked, "before": page[-1].run_id}) if len(found) > len(page) else ""
        episodes = () if asked["before"] or any(asked.values()) else await self._desk.episodes(limit=EPISODES_SHOWN)
        values = {"runs": page, "older": older, "asked": asked, "statuses": RUN_STATUSES, "episodes": episodes}
        return Sheet(template="runs.html", title="Runs", values=values)

    async def run(self, request: Request, _person: Person) -> Sheet:
        """One run as a timeline."""
        found = await self._desk.run(request.path_params["run_id"])
        title = f"{found.head.runbook} on {found.head.entity}"
        return Sheet(template="run.html", title=title, values={"run": found, "head": found.head})

    async def runbooks(self, _request: Request, _person: Person) -> Sheet:
        """The set in force."""
        return Sheet(template="runbooks.html", title="Runbooks", values={"runbooks": await self._desk.runbooks()})

    async def runbook(self, request: Request, _person: Person) -> Sheet:
        """One runbook: its text, its trigger drawn, its instances, and why it does not fire now."""
        name, entity = request.path_params["runbook"], _asked(request, "entity")
        detail = await self._desk.runbook(name)
        why: WhyView | None = None
        series: tuple[Series, ...] = ()
        problem = ""
        try:
            why = await self._desk.why(name, entity)
            series = await self._desk.trigger_history(name, why.entity)
        except NotKnown as error:
            if entity:
                raise
            problem = str(error)  # a runbook without instances
        values: dict[str, object] = {
            "runbook": detail,
            "head": detail.head,
            "why": why,
            "problem": problem,
            "comparisons": comparisons(why) if why is not None else (),
            "charts": tuple(chart(one, hold_s=detail.hold_s) for one in series),
            "source": source_lines(detail.source),
        }
        return Sheet(template="runbook.html", title=detail.head.title or name, values=values)

    async def markets(self, request: Request, _person: Person) -> Sheet:
        """Markets with their prices, funding and gates, a page at a time; and the routes."""
        wanted, number = _asked(request, "q"), _number(request, "page", 1)
        found = await self._desk.world("market", signals=MARKET_SIGNALS, limit=MARKETS_MAX)
        found = tuple(view for view in found if wanted.lower() in _words(view))
        pages = max(1, -(-len(found) // MARKETS_A_PAGE))
        number = min(max(1, number), pages)
        shown = found[(number - 1) * MARKETS_A_PAGE : number * MARKETS_A_PAGE]
        values = {
            "markets": [(view, {r.signal: r for r in view.readings}) for view in shown],
            "routes": [(view, {r.signal: r for r in view.readings}) for view in await self._desk.routes()],
            "wanted": wanted,
            "count": len(found),
            "number": number,
            "links": [(n, _address("/markets", {"q": wanted, "page": str(n)})) for n in range(1, pages + 1)] if pages > 1 else [],
        }
        return Sheet(template="markets.html", title="Markets", values=values)

    async def market(self, request: Request, _person: Person) -> Sheet:
        """One market: its gate, its course, its readings."""
        name = request.path_params["market"]
        view, series, gate = await asyncio.gather(
            self._desk.entity("market", name), self._desk.history("market", name), self._desk.gate(name)
        )
        belongs = [(key, value) for key, value in {**view.labels, **view.links}.items() if key not in OWN_NAMES and value != name]
        courses = arranged(series, MARKET_COURSES)
        return Sheet(template="market.html", title=name, values={"view": view, "gate": gate, "courses": courses, "belongs": belongs})

    async def accounts(self, _request: Request, _person: Person) -> Sheet:
        """All accounts, the worst first."""
        now = await self._desk.now()
        return Sheet(template="accounts.html", title="Accounts", now=now)

    async def account(self, request: Request, _person: Person) -> Sheet:
        """One account: its margin, its positions, its course."""
        name = request.path_params["account"]
        now, view, series = await asyncio.gather(
            self._desk.now(), self._desk.entity("account", name), self._desk.history("account", name)
        )
        account = next((one for one in now.accounts if one.id == name), None)
        values = {"view": view, "account": account, "courses": arranged(series, ACCOUNT_COURSES)}
        return Sheet(template="account.html", title=f"Account {name}", values=values, now=now)

    async def alerts(self, request: Request, _person: Person) -> Sheet:
        """Where alerts go, and what became of them."""
        asked = {name: _asked(request, name) for name in ("endpoint", "status")}
        endpoints, deliveries, dead = await asyncio.gather(
            self._desk.endpoints(),
            self._desk.deliveries(**asked, limit=DELIVERIES_SHOWN),
            self._desk.deliveries(status="dead", limit=DELIVERIES_SHOWN),
        )
        values = {"endpoints": endpoints, "deliveries": deliveries, "dead": dead, "asked": asked, "statuses": DELIVERY_STATUSES}
        return Sheet(template="alerts.html", title="Alerts out", values={**values, "shown_max": DELIVERIES_SHOWN})

    async def journal(self, request: Request, _person: Person) -> Sheet:
        """Search the journal, newest first."""
        asked = {name: _asked(request, name) for name in ("text", "type", "role", "since", "until")}
        before = _number(request, "before", 0) or None
        ends = {name: _moment(asked[name], name) for name in ("since", "until")}
        found = await self._desk.entries(EntryQuery(**{**asked, **ends}, before=before, limit=ENTRIES_A_PAGE))  # type: ignore[arg-type]
        older = "" if found.next_before is None else _address("/journal", {**asked, "before": str(found.next_before)})
        return Sheet(template="journal.html", title="Journal", values={"found": found, "asked": asked, "older": older, "before": before})

    async def stress(self, _request: Request, _person: Person) -> Sheet:
        """What the scheduled stress came to, and the stored reports."""
        return Sheet(template="stress.html", title="Stress and replay", values={"stress": await self._desk.stress()})

    async def report(self, request: Request, _person: Person) -> Response:
        """A stored report as it was written, locked up."""
        text = await self._desk.report(request.path_params["name"])
        return HTMLResponse(text, headers={"content-security-policy": REPORT_POLICY})


def _asked(request: Request, name: str) -> str:
    return request.query_params.get(name, "").strip()[:500]


def _number(request: Request, name: str, otherwise: int) -> int:
    text = _asked(request, name)
    return int(text) if text.isascii() and text.isdigit() and len(text) < 16 else otherwise


def _moment(text: str, name: str) -> str | None:
    """A time as the journal wants it: UTC; raises Refused 422 for what is none."""
    if not text:
        return None
    try:
        parse_iso(text)
    except ValueError as error:
        raise Refused(422, "wrong_time", f"{name}: {error}") from None
    return text if text.endswith("Z") or "+" in text else f"{text}Z"


def _address(path: str, asked: Mapping[str, str]) -> str:
    filled = {name: value for name, value in asked.items() if value}
    return path + (f"?{urlencode(filled)}" if filled else "")


def _words(view: EntityView) -> str:
    return " ".join((view.id, *view.labels.values())).lower()
