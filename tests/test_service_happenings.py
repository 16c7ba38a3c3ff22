"""The stream of what happens: order, resuming, who is too slow, and readers in other threads."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine

from service_world import run_virtual

from daemon.engine.records import HoldReset, Record
from daemon.service.happenings import BATCH_MAX, Happenings, Reading
from daemon.service.views import Happening
from daemon.units import NS

T0 = 1_700_000_000 * NS
SNAPSHOT = Happening(seq=9, at="2023-11-14T22:13:20.000Z", kind="snapshot", summary="")


def reset(number: int) -> Record:
    return HoldReset(at=T0 + number, runbook="spike", entity=f"dydx:{number}", reason="")


def published(count: int, ring: int = 1_000, first: int = 1) -> Happenings:
    stream = Happenings(ring=ring)
    for seq in range(first, first + count):
        stream.publish(seq, (reset(seq),))
    return stream


async def taken(reader: Reading, timeout_s: float = 1.0) -> list[tuple[int, int, str]]:
    return [(h.seq, h.part, h.kind) for h in await reader.take(timeout_s)]


def test_a_reader_gets_what_happens_from_now_on_in_order() -> None:
    async def main() -> None:
        stream = published(3)
        reader = stream.subscribe()
        stream.publish(4, (reset(1), reset(2)))
        stream.publish(5, ())
        stream.publish(6, (reset(3),))
        assert await taken(reader) == [(4, 0, "HoldReset"), (4, 1, "HoldReset"), (6, 0, "HoldReset")]
        assert await taken(reader) == []

    run_virtual(main())


def test_a_reader_that_comes_back_goes_on_behind_what_it_saw_even_in_the_middle_of_an_event() -> None:
    async def main() -> None:
        stream = published(2)
        stream.publish(3, (reset(1), reset(2), reset(3)))
        assert await taken(stream.subscribe(after=(3, 0))) == [(3, 1, "HoldReset"), (3, 2, "HoldReset")]
        assert await taken(stream.subscribe(after=(1, 0))) == [(seq, part, "HoldReset") for seq, part in [(2, 0), (3, 0), (3, 1), (3, 2)]]
        assert await taken(stream.subscribe(after=(3, 2))) == []

    run_virtual(main())


def test_a_reader_that_comes_back_too_late_is_told_that_it_missed_some() -> None:
    async def main() -> None:
        stream = published(20, ring=5)
        found = await taken(stream.subscribe(after=(10, 0)))
        assert found[0] == (10, 0, "lagged")
        assert [seq for seq, _, _ in found[1:]] == [16, 17, 18, 19, 20]
        assert (await taken(stream.subscribe(after=(14, 0))))[0] == (14, 0, "lagged")
        assert [seq for seq, _, _ in await taken(stream.subscribe(after=(15, 0)))] == [16, 17, 18, 19, 20]
        assert [seq for seq, _, _ in await taken(stream.subscribe(after=(16, 0)))] == [17, 18, 19, 20]

    run_virtual(main())


def test_a_reader_that_does_not_keep_up_loses_the_oldest_and_is_told_how_many() -> None:
    async def main() -> None:
        stream = Happenings(ring=10)
        reader = stream.subscribe()
        for seq in range(1, 26):
            stream.publish(seq, (reset(seq),))
        found = await reader.take(1.0)
        assert found[0].kind == "lagged"
        assert found[0].summary.startswith("15 happenings were missed")
        assert [h.seq for h in found[1:]] == list(range(16, 26))

    run_virtual(main())


def test_a_long_backlog_is_handed_out_in_portions_without_a_gap() -> None:
    async def main() -> None:
        stream = published(0)
        reader = stream.subscribe()
        for seq in range(1, 2 * BATCH_MAX + 51):
            stream.publish(seq, (reset(seq),))
        seen: list[int] = []
        while portion := await reader.take(1.0):
            assert len(portion) <= BATCH_MAX
            seen += [h.seq for h in portion]
        assert seen == list(range(1, 2 * BATCH_MAX + 51))

    run_virtual(main())


def test_only_the_latest_snapshot_is_told_and_it_is_told_once() -> None:
    async def main() -> None:
        stream = published(1)
        reader = stream.subscribe()
        for _ in range(5):
            stream.announce(SNAPSHOT)
        stream.publish(10, (reset(10),))
        assert await taken(reader) == [(10, 0, "HoldReset"), (9, 0, "snapshot")]
        assert await taken(reader) == []
        stream.announce(SNAPSHOT)
        assert await taken(reader) == [(9, 0, "snapshot")]

    run_virtual(main())


def test_a_reader_that_waits_is_woken_from_another_thread_without_losing_anything() -> None:
    count = 3_000
    stream = Happenings(ring=count)
    ready = threading.Event()

    async def read() -> list[tuple[int, int]]:
        reader = stream.subscribe()
        ready.set()
        seen: list[tuple[int, int]] = []
        async for item in reader:
            seen.append((item.seq, item.part))
        return seen

    found: list[list[tuple[int, int]]] = []

    def reading(main: Coroutine[object, object, list[tuple[int, int]]]) -> None:
        found.append(asyncio.run(main))

    thread = threading.Thread(target=reading, args=(read(),))
    thread.start()
    assert ready.wait(timeout=10)
    for seq in range(1, count // 2 + 1):
        stream.publish(seq, (reset(seq), reset(seq + 1)))
    stream.close()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert found == [[(seq, part) for seq in range(1, count // 2 + 1) for part in (0, 1)]]


def test_a_reader_whose_event_loop_is_gone_holds_nobody_up() -> None:
    stream = Happenings()
    loop = asyncio.new_event_loop()
    waiting = loop.create_task(stream.subscribe().take(None))
    loop.call_soon(loop.stop)
    loop.run_forever()
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert not waiting.done()
    waiting.cancel()
    loop.close()
    stream.publish(1, (reset(1),))
    assert [h.seq for h in stream.latest(10)] == [1]


def test_a_stream_that_is_closed_is_read_to_its_end() -> None:
    async def main() -> None:
        stream = published(1)
        reader = stream.subscribe(after=(0, 0))
        stream.close()
        assert [(h.seq, h.kind) async for h in reader] == [(0, "lagged"), (1, "HoldReset")]
        assert reader.ended
        assert await reader.take() == ()

    run_virtual(main())
