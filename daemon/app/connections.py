"""What the daemon is connected to (floor 9): settings -> the venue's clock, feeds, hands and watches; nothing is sent yet."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial

from daemon.edges.bridge import BridgeEdge, BridgeFeed
from daemon.edges.dydx.feed import MILLISECOND_NS, DydxFeed
from daemon.edges.dydx.venue import DydxVenue
from daemon.edges.http import HttpSource, RequestBudget
from daemon.edges.protocol import Feed, VenueEdge, WriteMarks
from daemon.edges.webhook import WebhookExecutor, WebhookSender
from daemon.errors import EdgeError, SettingsError, UserError
from daemon.service.agreement import ClockWatch, Told
from daemon.service.clock import AcceleratedClock, Clock, WallClock
from daemon.service.lanes import wall
from daemon.settings import Settings
from daemon.units import NS

CANDLE_REQUESTS_PER_10S = 950  # the indexer allows 1000 from one address, apart from all other requests
CLOCK_TRIES = 60  # a venue that is being started beside the daemon answers within seconds
CLOCK_TRY_EVERY_S = 0.25


async def read_clock(settings: Settings) -> Clock:
    """The wall clock, or the clock that the configured venue tells. Raises UserError when it does not."""
    if settings.clock.follow == "wall":
        return WallClock()
    name = settings.clock.venue or next(iter(settings.venues), "")
    if name not in settings.venues:
        raise SettingsError("clock.follow: venue needs a venue; write clock: {follow: wall}")
    address = settings.venues[name].order_api()
    source = HttpSource(name=name, url=address, timeout_s=settings.lateness.request / NS)
    try:
        for attempt in range(CLOCK_TRIES):
            try:
                answer = await source.get("/sim/clock")
                break
            except EdgeError as error:
                if attempt == CLOCK_TRIES - 1 or error.reason not in ("unreachable", "timeout"):
                    raise UserError(
                        f"the clock of venue {name!r} cannot be read at {address}: {error}; "
                        "start `reefd sim` first, or write clock: {follow: wall} for a venue that keeps real time"
                    ) from error
                await asyncio.sleep(CLOCK_TRY_EVERY_S)
    finally:
        await source.close()
    try:
        speed, told = read_simulated(answer)
    except ValueError as error:
        message = f"{address}/sim/clock does not tell speed and now_ns: this is no simulated venue; write clock: {{follow: wall}}"
        raise UserError(message) from error
    return AcceleratedClock(speed=speed, now_ns=told.now)


def read_simulated(answer: object) -> tuple[float, Told]:
    """Speed and time of a `/sim/clock` answer. Raises ValueError when it is none."""
    try:
        assert isinstance(answer, dict)
        speed = float(answer["speed"])
        assert speed > 0
        return speed, Told(now=int(answer["now_ns"]), started=int(answer.get("started_ns", 0)))
    except (AssertionError, KeyError, TypeError, ValueError) as error:
        raise ValueError("no answer of a simulated venue's clock") from error


@dataclass(slots=True, kw_only=True)
class Edges:
    """Everything on the network, and how to close it."""

    feeds: list[Feed] = field(default_factory=list)
    hands: list[VenueEdge] = field(default_factory=list)
    watches: list[ClockWatch] = field(default_factory=list)
    closers: list[Callable[[], Awaitable[None]]] = field(default_factory=list)

    async def close(self) -> None:
        """Close every connection."""
        for close in self.closers:
            await close()


def connect(settings: Settings, clock: Clock, sender: WebhookSender) -> Edges:
    """The feeds and venues of the settings; nothing is sent yet."""
    edges, marks = Edges(), WriteMarks()
    timeout_s = settings.lateness.request / NS
    for name, venue in settings.venues.items():
        budget = RequestBudget(clock=clock, limit=venue.requests_per_10s)
        candle_budget = RequestBudget(clock=clock, limit=CANDLE_REQUESTS_PER_10S)
        source, candles = (
            HttpSource(name=name, url=venue.url, budget=each, timeout_s=timeout_s, retry_after_unit_ns=MILLISECOND_NS, proxy=venue.proxy)
            for each in (budget, candle_budget)
        )
        orders = None
        if venue.orders == "simulated":
            orders = HttpSource(name=f"{name}.orders", url=venue.order_api(), timeout_s=timeout_s, proxy=venue.proxy)
        feed = DydxFeed(settings.feed_plan(name), source=source, clock=clock, candles=candles, marks=marks)
        hands = DydxVenue(venue=name, accounts=settings.accounts(name), indexer=source, orders=orders, marks=marks)
        edges.feeds.append(feed)
        edges.hands.append(hands)
        edges.closers += [feed.close, hands.close]
    plan = settings.bridge_plan()
    if plan is not None and settings.bridge is not None:
        source = HttpSource(name=plan.name, url=settings.bridge.url, timeout_s=timeout_s)
        accounts = [account for name in settings.venues for account in settings.accounts(name)]
        edges.feeds.append(BridgeFeed(plan, source=source, clock=clock))
        edges.hands.append(BridgeEdge(name=plan.name, routes=plan.routes, accounts=accounts, source=source, marks=marks))
        edges.closers.append(source.close)
    edges.hands.append(WebhookExecutor(sender, wall=wall, at=clock.now))
    edges.closers.append(sender.close)
    watch_clocks(settings, clock, edges)
    return edges


def watch_clocks(settings: Settings, clock: Clock, edges: Edges) -> None:
    """Add a watch of the one clock that is followed, or of each venue's against the wall's."""
    if settings.clock.follow == "venue":
        name = settings.clock.venue or next(iter(settings.venues))
        source = HttpSource(name=f"{name}.clock", url=settings.venues[name].order_api(), timeout_s=settings.lateness.request / NS)

        async def ask_simulated() -> Told:
            try:
                return read_simulated(await source.get("/sim/clock"))[1]
            except ValueError as error:
                raise EdgeError(str(error), edge=name, reason="wrong_shape", retryable=False) from error

        edges.watches.append(ClockWatch(venue=name, clock=clock, ask=ask_simulated, simulated=True))
        edges.closers.append(source.close)
        return
    for feed in edges.feeds:
        if isinstance(feed, DydxFeed):
            edges.watches.append(ClockWatch(venue=feed.name, clock=clock, ask=partial(_ask_venue, feed), simulated=False))


async def _ask_venue(feed: DydxFeed) -> Told:
    return Told(now=await feed.time())
