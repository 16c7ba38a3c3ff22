"""The server's own thread: it answers while the daemon's loop stands, and its end does not wait for streams."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator

import httpx
import pytest
from fastapi import FastAPI
from starlette.responses import StreamingResponse

from daemon.errors import UserError
from daemon.web.listening import Served, bind


def application(ended: threading.Event, started: threading.Event) -> tuple[FastAPI, list[asyncio.Event]]:
    app, endings = FastAPI(), []

    @app.get("/hello")
    async def hello() -> str:
        return threading.current_thread().name

    @app.get("/stream")
    async def stream() -> StreamingResponse:
        ending = asyncio.Event()
        endings.append(ending)

        async def lines() -> AsyncIterator[bytes]:
            yield b": here\n\n"
            started.set()
            await ending.wait()
            ended.set()

        return StreamingResponse(lines(), media_type="text/event-stream")

    return app, endings


def test_server_answers_from_a_thread_of_its_own_while_the_one_that_made_it_waits() -> None:
    app, _ = application(threading.Event(), threading.Event())
    served = Served(app, bind("127.0.0.1", 0))
    served.start()
    try:
        assert httpx.get(f"{served.url}/hello", trust_env=False).json() == "http"
    finally:
        served.stop(5.0)
    assert not served.alive
    assert served.failure == ""


def test_server_ends_its_streams_before_it_stops() -> None:
    ended, started = threading.Event(), threading.Event()
    app, endings = application(ended, started)
    served = Served(app, bind("127.0.0.1", 0), ending=lambda: [ending.set() for ending in endings] and None)
    served.start()
    with httpx.stream("GET", f"{served.url}/stream", trust_env=False) as answer:
        chunks = answer.iter_bytes()  # kept: an iterator that is dropped closes its connection
        next(chunks)
        assert started.wait(5.0)
        served.stop(5.0)
    assert ended.is_set()
    assert not served.alive


def test_port_that_is_taken_is_a_mistake_with_words() -> None:
    with bind("127.0.0.1", 0) as taken:
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UserError, match="is in use"):
            bind("127.0.0.1", port)
