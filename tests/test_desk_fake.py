"""The desk that the surface's tests use does what the real one promises."""

from __future__ import annotations

import asyncio

import pytest

from daemon.service.views import Command, EntryQuery, RunQuery
from daemon.web.desk import Unavailable
from tests.desk_fake import FakeDesk


def asked(verb: str, **more: str) -> Command:
    return Command(verb=verb, actor="ana", command_id=more.pop("command_id", verb), **more)  # type: ignore[arg-type]


async def test_an_approval_with_another_digest_does_nothing_and_with_the_right_one_the_position_shrinks() -> None:
    desk = FakeDesk()
    need = next(n for n in (await desk.now()).needs if n.kind == "approval")
    before = (await desk.now()).accounts[0].positions[0].size
    refused = await desk.command(asked("approve", target=need.target, digest="other", command_id="1"))
    assert not refused.done
    assert "another" in refused.effect
    taken = await desk.command(asked("approve", target=need.target, digest=need.digest, command_id="2"))
    assert taken.done
    again = await desk.command(asked("approve", target=need.target, digest=need.digest, command_id="2"))
    assert again == taken
    assert len(desk.commands) == 2
    assert float((await desk.now()).accounts[0].positions[0].size) < float(before)


async def test_a_reader_of_the_stream_hears_of_a_firing_and_of_the_new_snapshot() -> None:
    desk = FakeDesk.quiet()
    stream = desk.stream()
    first = asyncio.ensure_future(anext(stream))
    await asyncio.sleep(0)  # the reader is there
    run = desk.fire("dydx:BTC-USD")
    told = [await asyncio.wait_for(first, 5), await asyncio.wait_for(anext(stream), 5)]
    assert [happening.kind for happening in told] == ["TriggerChanged", "snapshot"]
    assert told[0].run_id == run.run_id
    assert (await desk.now()).line == "ACTING"


async def test_runs_and_entries_come_in_pages_without_a_hole() -> None:
    desk = FakeDesk.large(markets=500, runs=10_000)
    seen: list[str] = []
    page = await desk.runs(RunQuery(limit=4_000))
    while page:
        seen += [run.run_id for run in page]
        page = await desk.runs(RunQuery(limit=4_000, before=seen[-1]))
    assert len(seen) == len(set(seen)) == 10_002
    assert len(await desk.world("market")) == 500
    first = await desk.entries(EntryQuery(limit=50))
    second = await desk.entries(EntryQuery(limit=50, before=first.next_before))
    assert first.entries[-1].position == second.entries[0].position + 1


async def test_everything_is_refused_while_it_cannot_be_read() -> None:
    desk = FakeDesk()
    desk.unavailable = "the loop has not turned for 12 s"
    with pytest.raises(Unavailable, match="12 s"):
        await desk.now()
    with pytest.raises(Unavailable):
        await desk.command(asked("halt"))
    assert desk.commands == []
