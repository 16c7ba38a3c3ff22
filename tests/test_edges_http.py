"""The HTTP source: its request budget, and what each way of failing means for a read and for a write."""

from __future__ import annotations

from collections.abc import Callable

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.edges.http import HttpSource, RequestBudget
from daemon.errors import EdgeError, UnknownOutcome
from daemon.units import NS

MS = NS // 1000


class SteppedClock:
    """A clock that moves only when somebody sleeps or the test moves it."""

    def __init__(self, at: int = 1_000_000 * NS) -> None:
        self.at = at

    def now(self) -> int:
        return self.at

    async def sleep(self, ns: int, /) -> None:
        self.at += ns


def source(answer: Callable[[httpx.Request], httpx.Response], budget: RequestBudget | None = None) -> HttpSource:
    return HttpSource(name="dydx", url="http://venue/v4/", budget=budget, retry_after_unit_ns=MS, transport=httpx.MockTransport(answer))


def raising(error: type[httpx.TransportError]) -> Callable[[httpx.Request], httpx.Response]:
    def answer(request: httpx.Request) -> httpx.Response:
        raise error("broken", request=request)

    return answer


async def test_get_sends_parameters_and_returns_parsed_json() -> None:
    seen: list[httpx.Request] = []

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request)
        return httpx.Response(200, json={"height": "7"})

    assert await source(answer).get("/height", {"limit": 1}) == {"height": "7"}
    assert str(seen[0].url) == "http://venue/v4/height?limit=1"


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (raising(httpx.ConnectError), "unreachable", True),
        (raising(httpx.ConnectTimeout), "unreachable", True),
        (raising(httpx.ReadTimeout), "timeout", True),
        (raising(httpx.RemoteProtocolError), "broken", True),
        (lambda _: httpx.Response(500), "http_500", True),
        (lambda _: httpx.Response(404, json={"errors": [{"msg": "No subaccount found"}]}), "http_404", False),
        (lambda _: httpx.Response(302, headers={"location": "http://elsewhere/"}), "http_302", False),
        (lambda _: httpx.Response(200, text="<html>"), "wrong_shape", False),
    ],
)
async def test_failed_read_is_an_edge_error_with_its_reason(
    answer: Callable[[httpx.Request], httpx.Response], reason: str, retryable: bool
) -> None:
    with pytest.raises(EdgeError) as caught:
        await source(answer).get("/height")
    assert not isinstance(caught.value, UnknownOutcome)
    assert (caught.value.reason, caught.value.retryable, caught.value.edge) == (reason, retryable, "dydx")


@pytest.mark.parametrize(
    ("answer", "reason", "retryable"),
    [
        (raising(httpx.ConnectError), "unreachable", True),
        (raising(httpx.PoolTimeout), "unreachable", True),
        (lambda _: httpx.Response(429, headers={"retry-after": "1500"}), "rate_limited", True),
        (lambda _: httpx.Response(400, json={"errors": [{"msg": "no", "code": 9003, "reason": "not_ioc"}]}), "not_ioc", False),
        (lambda _: httpx.Response(403), "http_403", False),
        (lambda _: httpx.Response(307, headers={"location": "http://elsewhere/"}), "http_307", False),
    ],
)
async def test_write_that_certainly_did_nothing_is_an_edge_error(
    answer: Callable[[httpx.Request], httpx.Response], reason: str, retryable: bool
) -> None:
    with pytest.raises(EdgeError) as caught:
        await source(answer).post("/sim/orders", {})
    assert not isinstance(caught.value, UnknownOutcome)
    assert (caught.value.reason, caught.value.retryable) == (reason, retryable)


@pytest.mark.parametrize(
    "answer",
    [
        raising(httpx.ReadTimeout),
        raising(httpx.WriteError),
        raising(httpx.RemoteProtocolError),
        lambda _: httpx.Response(500),
        lambda _: httpx.Response(503, json={"errors": [{"msg": "down", "reason": "venue_error"}]}),
        lambda _: httpx.Response(408),
        lambda _: httpx.Response(200, text="<html>"),
    ],
)
async def test_write_that_may_have_happened_is_an_unknown_outcome(answer: Callable[[httpx.Request], httpx.Response]) -> None:
    with pytest.raises(UnknownOutcome):
        await source(answer).post("/sim/orders", {})


async def test_answer_without_end_is_cut_off() -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        async def endless():  # type: ignore[no-untyped-def]
            while True:
                yield b"x" * (1 << 20)

        return httpx.Response(200, content=endless())

    with pytest.raises(EdgeError, match="larger than 16 MiB"):
        await source(answer).get("/height")


@pytest.mark.parametrize(("header", "wait_s"), [("1500", 1.5), (None, 1.0), ("soon", 1.0), ("-5", 0.0), ("9e9", 60.0)])
async def test_retry_after_of_this_venue_counts_milliseconds(header: str | None, wait_s: float) -> None:
    headers = {} if header is None else {"retry-after": header}
    with pytest.raises(EdgeError) as caught:
        await source(lambda _: httpx.Response(429, headers=headers)).get("/height")
    assert caught.value.retry_after_s == wait_s


async def test_refusal_closes_the_budget_for_as_long_as_it_said() -> None:
    clock = SteppedClock()
    budget = RequestBudget(clock=clock, limit=10)
    answers = [httpx.Response(429, headers={"retry-after": "2000"}), httpx.Response(200, json=1)]
    venue = source(lambda _: answers.pop(0), budget)
    with pytest.raises(EdgeError):
        await venue.get("/height")
    started = clock.now()
    assert await venue.get("/height") == 1
    assert clock.now() - started == 2 * NS


async def test_budget_refuses_at_once_when_its_turn_is_far_away() -> None:
    clock = SteppedClock()
    budget = RequestBudget(clock=clock, limit=2, wait_max_ns=3 * NS)
    await budget.take("dydx")
    await budget.take("dydx")
    with pytest.raises(EdgeError) as caught:
        await budget.take("dydx")
    assert (caught.value.reason, caught.value.retry_after_s) == ("rate_limited", 10.0)
    clock.at += 8 * NS
    await budget.take("dydx")
    assert clock.now() == 1_000_010 * NS


@settings(max_examples=60, deadline=None)
@given(limit=st.integers(1, 8), gaps=st.lists(st.integers(0, 4 * NS), min_size=1, max_size=60))
async def test_no_window_holds_more_requests_than_the_limit(limit: int, gaps: list[int]) -> None:
    clock = SteppedClock()
    budget = RequestBudget(clock=clock, limit=limit, wait_max_ns=10**20)
    sent = []
    for gap in gaps:
        clock.at += gap
        await budget.take("dydx")
        sent.append(clock.now())
    for first, later in zip(sent, sent[limit:], strict=False):
        assert later - first >= 10 * NS
