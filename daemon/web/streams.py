"""The stream (floor 8): server-sent events of what happens, to many readers from one reading of the desk.

An event's id is `<seq>-<n>`: the n-th line of that number. Whoever comes back with the last id it saw (`Last-Event-ID`) gets what it
missed, as far as it is remembered; where something is missing, or a reader was too slow, it is told `lagged` and loads the page again.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass, field

from fastapi.sse import format_sse_event

from daemon.service.logging import log
from daemon.service.views import Happening
from daemon.web.desk import Desk, Unavailable
from daemon.web.refusals import Refused

REMEMBERED = 2_000  # lines that one who comes back can catch up on
BEHIND_MAX = 512  # lines that a reader may be behind before it is told that it lagged
READERS_MAX = 64
READERS_MAX_EACH = 12  # of one address: a browser has at most six of a host
HEARTBEAT_S = 5.0
RETRY_MS = 2_000
AGAIN_S = 1.0  # between two tries of reading a desk that is not there
_ID = re.compile(r"(\d{1,18})(?:-(\d{1,9}))?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A happening with its place: its number and the how-manieth of that number it is."""

    happening: Happening
    place: tuple[int, int]


@dataclass(slots=True, kw_only=True, eq=False)
class _Reader:
    """One who listens. `waiting` holds at most one snapshot at its end: the newest says it all."""

    address: str
    waiting: deque[Line] = field(default_factory=deque)
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    lagged: bool = False

    def put(self, line: Line) -> None:
        if line.happening.kind == "snapshot" and self.waiting and self.waiting[-1].happening.kind == "snapshot":
            self.waiting.pop()
        self.waiting.append(line)
        if len(self.waiting) > BEHIND_MAX:
            self.waiting.popleft()
            self.lagged = True
        self.woken.set()


class Streams:
    """Reads a desk's stream once, as long as there is a surface, and tells everyone who listens."""

    def __init__(self, desk: Desk, *, heartbeat_s: float = HEARTBEAT_S) -> None:
        self._desk = desk
        self._heartbeat_s = heartbeat_s
        self._readers: list[_Reader] = []
        self._remembered: deque[Line] = deque(maxlen=REMEMBERED)
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def start(self) -> None:
        """Begin to read the desk, on the running loop; once."""
        if self._task is None and not self._closed:
            self._task = asyncio.create_task(self._read(), name="stream")

    async def stop(self) -> None:
        """End every stream and the reading."""
        self.close()
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    def close(self) -> None:
        """End every stream, so that a server can stop; from the server's own loop."""
        self._closed = True
        for reader in self._readers:
            reader.woken.set()

    @property
    def readers(self) -> int:
        """How many listen."""
        return len(self._readers)

    def open(self, address: str, last_id: str = "") -> AsyncIterator[bytes]:
        """A stream for one reader, as bytes of `text/event-stream`. Raises Refused when there are too many."""
        if self._closed:
            raise Refused(503, "stopping", "the daemon is stopping")
        if len(self._readers) >= READERS_MAX:
            raise Refused(503, "too_many_streams", f"{READERS_MAX} streams are open; close one", headers={"Retry-After": "30"})
        if sum(reader.address == address for reader in self._readers) >= READERS_MAX_EACH:
            text = f"{READERS_MAX_EACH} streams are open from {address}; close one"
            raise Refused(429, "too_many_streams", text, headers={"Retry-After": "30"})
        self.start()
        return self._tell(_Reader(address=address), last_id)

    # --- inside ------------------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        while not self._closed:
            try:
                async for happening in self._desk.stream():
                    self._spread(happening)
                break  # the daemon stops
            except Unavailable:
                await asyncio.sleep(AGAIN_S)
            except Exception as error:  # one happening that cannot be told must not end the stream for everybody
                log().error("web.stream_fault", reason=repr(error), again_s=AGAIN_S)
                await asyncio.sleep(AGAIN_S)
        self.close()

    def _spread(self, happening: Happening) -> None:
        last = self._remembered[-1].place if self._remembered else (0, 0)
        place = (happening.seq, last[1] + 1 if happening.seq == last[0] else 0)
        line = Line(happening=happening, place=place)
        if happening.kind not in ("snapshot", "lagged"):
            self._remembered.append(line)
        elif happening.kind == "lagged":
            self._remembered.clear()  # there is a hole: nobody can catch up over it
        for reader in self._readers:
            reader.put(line)

    def _since(self, last_id: str) -> tuple[list[Line], bool]:
        """What was missed since an id, and whether that is all of it."""
        match = _ID.fullmatch(last_id.strip())
        if match is None:
            return [], True
        last = (int(match[1]), int(match[2]) if match[2] is not None else 1 << 62)
        missed = [line for line in self._remembered if line.place > last]
        return missed, len(missed) < len(self._remembered)

    async def _tell(self, reader: _Reader, last_id: str) -> AsyncIterator[bytes]:
        missed, whole = self._since(last_id)
        self._readers.append(reader)
        try:
            yield format_sse_event(comment="reefd", retry=RETRY_MS)
            yield await self._snapshot()
            if not whole:
                yield _lagged()
            for line in missed:
                yield _said(line)
            while not self._closed:
                try:
                    async with asyncio.timeout(self._heartbeat_s):
                        await reader.woken.wait()
                except TimeoutError:
                    yield format_sse_event(comment="still here")
                    continue
                reader.woken.clear()
                if reader.lagged:
                    reader.lagged = False
                    yield _lagged()
                while reader.waiting:
                    yield await self._told(reader.waiting.popleft())
        finally:
            self._readers.remove(reader)

    async def _told(self, line: Line) -> bytes:
        match line.happening.kind:
            case "snapshot":
                return await self._snapshot()
            case "lagged":
                return _lagged()
            case _:
                return _said(line)

    async def _snapshot(self) -> bytes:
        try:
            now = await self._desk.now()
        except Unavailable as error:
            return format_sse_event(event="unavailable", data_str=json.dumps({"message": str(error)}))
        small = {"line": now.line, "since": now.since, "why": now.why, "seq": now.seq, "at": now.at, "published": now.published}
        return format_sse_event(event="snapshot", data_str=json.dumps(small))


def _said(line: Line) -> bytes:
    return format_sse_event(event="happening", id=f"{line.place[0]}-{line.place[1]}", data_str=json.dumps(asdict(line.happening)))


def _lagged() -> bytes:
    return format_sse_event(event="lagged", data_str=json.dumps({"message": "something was left out; load the page again"}))
